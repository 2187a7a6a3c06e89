/*-------------------------------------------------------------------------
 *
 * meter.c
 *		What the worker's transaction counts, written down with it.
 *
 * Outcomes are counted in memory while they are recorded, and written as one
 * row of _tally before the transaction commits: either both are known
 * afterwards or none.  If the transaction fails, so does the process, and
 * nothing is left of the counts.  Touches _tally and _counter only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "meter.h"
#include "worker.h"

/* Between two foldings of the tallies; and at most this share of our time. */
#define FOLD_MS			10000
#define FOLD_SHARE		20

/* As rsvp_sync._bucket_bounds() has them. */
static const double bounds[] = {0.01, 0.1, 0.5, 1, 2, 5, 10};

/* One series' share in this transaction. */
typedef struct Entry
{
	const char *name;
	int64		source_id;
	const char *first;			/* operation, or direction */
	const char *second;			/* status, or type of the error; or NULL */
	int64		value;
	double		seconds;
	int64		buckets[lengthof(bounds)];	/* up to each bound */
} Entry;

static const char operations[] = "bluesky_rsvp_operations_total";
static const char durations[] = "bluesky_rsvp_processing_duration_seconds";
static const char errors[] = "rsvp_sync_errors_total";

static Statement count = {
	"SELECT rsvp_sync._count($1::pg_catalog.jsonb)", 1, {TEXTOID}
};
static Statement fold = {
	"SELECT rsvp_sync._fold_tallies()", 0
};

static MemoryContext meter_context = NULL;
static List *entries = NIL;

static bool
same_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

/* A transaction has few series: a list will do. */
static Entry *
entry_of(const char *name, int64 source_id, const char *first,
		 const char *second)
{
	ListCell   *cell;
	Entry	   *entry;
	MemoryContext old;

	foreach(cell, entries)
	{
		entry = lfirst(cell);
		if (entry->name == name && entry->source_id == source_id &&
			same_text(entry->first, first) &&
			same_text(entry->second, second))
			return entry;
	}
	if (meter_context == NULL)
		meter_context = AllocSetContextCreate(TopMemoryContext,
											  "rsvp_sync meter",
											  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(meter_context);
	entry = palloc0(sizeof(Entry));
	entry->name = name;
	entry->source_id = source_id;
	entry->first = pstrdup(first);
	entry->second = second ? pstrdup(second) : NULL;
	entries = lappend(entries, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

void
meter_operation(int64 source_id, const char *operation, const char *status)
{
	entry_of(operations, source_id, operation, status)->value++;
}

void
meter_duration(int64 source_id, const char *operation, const char *status,
			   double seconds)
{
	Entry	   *entry = entry_of(durations, source_id, operation, status);

	entry->value++;
	entry->seconds += seconds;
	for (int i = 0; i < lengthof(bounds); i++)
		if (seconds <= bounds[i])
			entry->buckets[i]++;
}

void
meter_error(const char *direction, const char *error_type)
{
	entry_of(errors, 0, direction, error_type)->value++;
}

static void
append_text(StringInfo json, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(json, ",\"%s\":", name);
	escape_json(json, value);
}

static void
append_entry(StringInfo json, const Entry *entry)
{
	bool		error = entry->name == errors;

	appendStringInfo(json, "%s{\"name\":\"%s\",\"value\":" INT64_FORMAT
					 ",\"source_id\":" INT64_FORMAT,
					 json->len > 1 ? "," : "", entry->name, entry->value,
					 entry->source_id);
	append_text(json, error ? "direction" : "operation", entry->first);
	append_text(json, error ? "error_type" : "status", entry->second);
	if (entry->name == durations)
	{
		appendStringInfo(json, ",\"seconds\":%.6f,\"buckets\":[",
						 entry->seconds);
		for (int i = 0; i < lengthof(bounds); i++)
			appendStringInfo(json, "%s" INT64_FORMAT, i > 0 ? "," : "",
							 entry->buckets[i]);
		appendStringInfoChar(json, ']');
	}
	appendStringInfoChar(json, '}');
}

/*
 * Rows of _tally that an old snapshot keeps from being removed are in the way
 * of those who look for the others: the longer it takes, the rarer it is done.
 */
static void
fold_sometimes(void)
{
	static TimestampTz next = 0;
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz ended;

	if (began < next)
		return;
	run_statement(&fold, NULL);
	ended = GetCurrentTimestamp();
	next = Max(TimestampTzPlusMilliseconds(ended, FOLD_MS),
			   ended + (ended - began) * FOLD_SHARE);
}

/* Also in an application's own transaction: nothing here waits for anybody. */
void
meter_append(void)
{
	StringInfoData json;
	Args		args = {0};
	ListCell   *cell;

	if (entries == NIL)
		return;
	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(cell, entries)
		append_entry(&json, lfirst(cell));
	appendStringInfoChar(&json, ']');
	args_text(&args, json.data);
	/* An error takes the transaction along, and what was counted in it. */
	entries = NIL;
	MemoryContextReset(meter_context);
	run_statement(&count, &args);
}

void
meter_flush(void)
{
	if (entries == NIL)
		return;
	meter_append();
	fold_sometimes();
}
