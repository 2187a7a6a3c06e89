/*-------------------------------------------------------------------------
 *
 * stream_batch.c
 *		Events of the stream that are taken together, in one transaction.
 *
 * A batch is what has come while the last one was written down, within
 * bounds.  Its transaction hands commits, accounts and identities to the
 * functions that know what to do with them, and moves the cursor: so either
 * both have happened or neither.
 *
 * An event that cannot be taken must not stop those behind it.  A batch that
 * fails is tried in halves, down to single events; one that fails alone is
 * put aside, where it can be seen.  What fails for a reason that passes (a
 * lock, a full disk) is tried again as a whole, later.
 *
 * May touch: what the functions of sql/54-inbound.sql and sql/57-stream.sql
 * touch.  Events are malloc's; nothing of them outlives their batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "process.h"
#include "source.h"
#include "stream.h"
#include "worker.h"

#ifndef INT8ARRAYOID
#define INT8ARRAYOID	1016
#endif
#ifndef BOOLARRAYOID
#define BOOLARRAYOID	1000
#endif

/* A batch is full beyond this. */
#define MAX_EVENTS		1000
#define MAX_BYTES		(4 * 1024 * 1024)

/* Where nothing happened but the time, the cursor moves this often. */
#define CURSOR_MS		5000

/* A batch that fails for a reason that passes waits so long, and so often. */
#define AGAIN_MS		50
#define AGAIN_MOST_MS	5000
#define PATIENCE		12

/* If this many fail one by one and none does not, it is not the events. */
#define SUSPICIOUS		10

/* Sources are somebody else's until we ask again. */
#define AWAY_MS			50

/* By how much a server's clock may be ahead of ours. */
#define CLOCK_SLACK_S	60

static Statement ingest = {
	"SELECT rsvp_sync._ingest('stream', $1, $2, $3, $4, $5, $6, $7, false)", 7,
	{TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID, INT8ARRAYOID}
};
static Statement ingest_accounts = {
	"SELECT rsvp_sync._ingest_accounts($1, $2, $3, $4)", 4,
	{TEXTARRAYOID, BOOLARRAYOID, TEXTARRAYOID, INT8ARRAYOID}
};
static Statement ingest_identities = {
	"SELECT rsvp_sync._ingest_identities($1)", 1, {TEXTARRAYOID}
};
static Statement put_aside = {
	"SELECT rsvp_sync._stream_aside($1, $2, $3, $4, $5)", 5,
	{TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID}
};
static Statement advance = {
	"SELECT rsvp_sync._stream_advance($1, $2, $3, $4)", 4,
	{TEXTOID, INT8OID, INT8OID, BOOLOID}
};
static Statement count = {
	"SELECT rsvp_sync._stream_count($1::pg_catalog.jsonb)", 1, {TEXTOID}
};

static const char *const kind_names[] = {
	[JETSTREAM_JUNK] = "junk",
	[JETSTREAM_OTHER] = "other",
	[JETSTREAM_COMMIT] = "commit",
	[JETSTREAM_ACCOUNT] = "account",
	[JETSTREAM_IDENTITY] = "identity",
	[JETSTREAM_INFO] = "info",
	[JETSTREAM_ERROR] = "error"
};

/* Events of one kind, in the order in which they came. */
typedef struct EventList
{
	int			n;
	JetstreamEvent events[MAX_EVENTS];
} EventList;

static EventList commits;
static EventList accounts;
static EventList identities;

static size_t bytes = 0;		/* of all that is kept */
static int	seen = 0;			/* messages, kept or not */
static int64 counts[lengthof(kind_names)];
static int64 newest_us = 0;
static int64 newest_seq = -1;
static TimestampTz since = 0;

static TimestampTz cursor_due = 0;
static int	failures = 0;		/* in a row, that may pass */
static MemoryContext batch_context = NULL;

/* A part of a list that is tried. */
typedef struct Part
{
	EventList  *list;
	int			from;
	int			to;
	int64		changed;
} Part;

typedef struct Trial
{
	void		(*take) (void *part);
	int			good;
	int			bad;
	bool		passing;		/* it failed for a reason that may pass */
	bool		insist;			/* put even that aside */
} Trial;

void
batch_startup(void)
{
	batch_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync batch",
										  ALLOCSET_DEFAULT_SIZES);
}

/* ------------------------------------------------------------------------
 * Filling
 * ------------------------------------------------------------------------ */

/*
 * Commits are taken before accounts.  So one that comes after word that its
 * account is no longer active belongs into the next batch.
 */
static bool
is_out_of_turn(const JetstreamEvent *event)
{
	if (event->kind != JETSTREAM_COMMIT)
		return false;
	for (int i = 0; i < accounts.n; i++)
		if (!accounts.events[i].active &&
			strcmp(accounts.events[i].did, event->did) == 0)
			return true;
	return false;
}

static void
keep(EventList *list, JetstreamEvent *event)
{
	list->events[list->n++] = *event;
	bytes += 1024 + (event->record ? 4 * strlen(event->record) : 0);
}

bool
batch_add(JetstreamEvent *event)
{
	if (is_out_of_turn(event))
		return false;
	if (seen == 0)
		since = GetCurrentTimestamp();
	seen++;
	counts[event->kind]++;
	/* A time in the future would be a place from which there is no way back. */
	if (event->time_us <= (int64) (time(NULL) + CLOCK_SLACK_S) * 1000000)
		newest_us = Max(newest_us, event->time_us);
	newest_seq = Max(newest_seq, event->seq);
	if (event->kind == JETSTREAM_COMMIT)
		keep(&commits, event);
	else if (event->kind == JETSTREAM_ACCOUNT)
		keep(&accounts, event);
	else if (event->kind == JETSTREAM_IDENTITY)
		keep(&identities, event);
	else
		jetstream_free(event);
	return true;
}

bool
batch_is_empty(void)
{
	return seen == 0;
}

bool
batch_is_full(void)
{
	return commits.n == MAX_EVENTS || accounts.n == MAX_EVENTS ||
		identities.n == MAX_EVENTS || bytes >= MAX_BYTES;
}

bool
batch_is_urgent(void)
{
	return commits.n > 0;
}

TimestampTz
batch_since(void)
{
	return since;
}

static void
empty_list(EventList *list)
{
	for (int i = 0; i < list->n; i++)
		jetstream_free(&list->events[i]);
	list->n = 0;
}

static void
empty(void)
{
	empty_list(&commits);
	empty_list(&accounts);
	empty_list(&identities);
	bytes = 0;
	seen = 0;
	failures = 0;
}

void
batch_drop(void)
{
	empty();
	newest_us = 0;
	newest_seq = -1;
	memset(counts, 0, sizeof(counts));
}

/* ------------------------------------------------------------------------
 * Arguments
 * ------------------------------------------------------------------------ */

static void
args_array(Args *args, Datum *values, bool *nulls, int n, Oid type, int len,
		   bool by_value, char align)
{
	int			lower = 1;

	args->nulls[args->n] = ' ';
	args->values[args->n++] = PointerGetDatum(
		construct_md_array(values, nulls, 1, &n, &lower, type, len, by_value,
						   align));
}

/* One text of each event of a part, at this place of the event. */
static void
args_event_texts(Args *args, const Part *part, size_t offset)
{
	int			n = part->to - part->from;
	Datum	   *values = palloc0(n * sizeof(Datum));
	bool	   *nulls = palloc0(n * sizeof(bool));

	for (int i = 0; i < n; i++)
	{
		char	   *event = (char *) &part->list->events[part->from + i];
		char	   *text = *(char **) (event + offset);

		nulls[i] = text == NULL;
		if (text != NULL)
			values[i] = CStringGetTextDatum(
				pg_any_to_server(text, strlen(text), PG_UTF8));
	}
	args_array(args, values, nulls, n, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
args_event_times(Args *args, const Part *part)
{
	int			n = part->to - part->from;
	Datum	   *values = palloc0(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(part->list->events[part->from + i].time_us);
	args_array(args, values, NULL, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
			   TYPALIGN_DOUBLE);
}

static void
args_event_actives(Args *args, const Part *part)
{
	int			n = part->to - part->from;
	Datum	   *values = palloc0(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = BoolGetDatum(part->list->events[part->from + i].active);
	args_array(args, values, NULL, n, BOOLOID, sizeof(bool), true,
			   TYPALIGN_CHAR);
}

/* ------------------------------------------------------------------------
 * Taking
 * ------------------------------------------------------------------------ */

static void
run_part(Part *part, Statement *statement, Args *args)
{
	bool		isnull;

	run_statement(statement, args);
	part->changed = result_int8(0, 1, &isnull);
}

static void
take_commits(void *arg)
{
	Args		args = {0};

	args_event_texts(&args, arg, offsetof(JetstreamEvent, did));
	args_event_texts(&args, arg, offsetof(JetstreamEvent, rev));
	args_event_texts(&args, arg, offsetof(JetstreamEvent, operation));
	args_event_texts(&args, arg, offsetof(JetstreamEvent, rkey));
	args_event_texts(&args, arg, offsetof(JetstreamEvent, cid));
	args_event_texts(&args, arg, offsetof(JetstreamEvent, record));
	args_event_times(&args, arg);
	run_part(arg, &ingest, &args);
}

static void
take_accounts(void *arg)
{
	Args		args = {0};

	args_event_texts(&args, arg, offsetof(JetstreamEvent, did));
	args_event_actives(&args, arg);
	args_event_texts(&args, arg, offsetof(JetstreamEvent, status));
	args_event_times(&args, arg);
	run_part(arg, &ingest_accounts, &args);
}

static void
take_identities(void *arg)
{
	Args		args = {0};

	args_event_texts(&args, arg, offsetof(JetstreamEvent, did));
	run_part(arg, &ingest_identities, &args);
}

/*
 * Will it pass by itself, so that the events are not to blame?  What is wrong
 * with our own functions (in the middle of an update, say) is nobody's blame
 * however long it lasts.
 */
static bool
passes(const ErrorData *error, bool insist)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION)
		return true;
	if (insist)
		return false;
	return category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_SYSTEM_ERROR ||
		category == ERRCODE_OPERATOR_INTERVENTION ||
		category == ERRCODE_TRANSACTION_ROLLBACK ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

typedef struct Aside
{
	const JetstreamEvent *event;
	const char *message;
	bool		passing;
} Aside;

static void
note_aside(void *arg)
{
	Aside	   *aside = arg;
	Args		args = {0};

	args_text(&args, aside->event->did);
	args_text(&args, aside->event->rkey);
	args_text(&args, aside->event->record);
	args_text(&args, aside->message);
	args_bool(&args, aside->passing);
	run_statement(&put_aside, &args);
}

static void
put_event_aside(const JetstreamEvent *event, const ErrorData *error)
{
	Aside		aside = {event, error->message, passes(error, false)};
	ErrorData  *again = NULL;

	if (event->kind == JETSTREAM_COMMIT)
		again = guarded(note_aside, &aside);
	ereport(LOG,
			(errmsg("rsvp_sync stream: an event of %s cannot be taken: %s",
					event->did, error->message),
			 event->rkey ? errdetail("Its record key is \"%s\".%s",
									 event->rkey, again ? "" :
									 " It is in the view inbound.") : 0));
}

/*
 * Take a part, or what can be taken of it.  Nothing is taken (and all rolled
 * back by the caller) if the reason may pass.
 */
static int64
try_part(Trial *trial, EventList *list, int from, int to)
{
	Part		part = {list, from, to, 0};
	ErrorData  *error;
	int			middle = from + (to - from) / 2;

	if (from == to || trial->passing)
		return 0;
	error = guarded(trial->take, &part);
	if (error == NULL)
	{
		trial->good += to - from;
		return part.changed;
	}
	CHECK_FOR_INTERRUPTS();
	if (passes(error, trial->insist))
	{
		trial->passing = true;
		ereport(DEBUG1,
				(errmsg("rsvp_sync stream: events have to wait: %s",
						error->message)));
		return 0;
	}
	if (to - from == 1)
	{
		trial->bad++;
		if (trial->good > 0 || trial->bad <= SUSPICIOUS)
			put_event_aside(&list->events[from], error);
		return 0;
	}
	return try_part(trial, list, from, middle) +
		try_part(trial, list, middle, to);
}

typedef struct Writing
{
	const char *host;
	bool		caught_up;
	bool		insist;
	bool		passing;
} Writing;

static bool
take_list(Writing *writing, EventList *list, void (*take) (void *),
		  int64 *changed)
{
	Trial		trial = {take, 0, 0, false, writing->insist};

	*changed += try_part(&trial, list, 0, list->n);
	/* If none can be taken, the fault is here. */
	return !trial.passing && (trial.good > 0 || trial.bad <= SUSPICIOUS);
}

static void
write_counts(void)
{
	StringInfoData json;
	Args		args = {0};

	initStringInfo(&json);
	for (int i = 0; i < lengthof(kind_names); i++)
		appendStringInfo(&json, "%c{\"kind\":\"%s\",\"n\":" INT64_FORMAT "}",
						 i == 0 ? '[' : ',', kind_names[i], counts[i]);
	appendStringInfoChar(&json, ']');
	args_text(&args, json.data);
	run_statement(&count, &args);
}

static void
move_cursor(const Writing *writing)
{
	Args		args = {0};

	args_text(&args, writing->host);
	args_int8(&args, newest_us);
	if (newest_us == 0)
		args.nulls[1] = 'n';
	args_int8(&args, newest_seq);
	if (newest_seq < 0)
		args.nulls[2] = 'n';
	args_bool(&args, writing->caught_up);
	run_statement(&advance, &args);
}

/*
 * All of it, or an error that undoes all of it.  What concerns nobody here
 * moves the cursor now and then: it will be heard again, and that is all.
 */
static void
write_batch(void *arg)
{
	Writing    *writing = arg;
	TimestampTz now = GetCurrentTimestamp();
	int64		changed = 0;

	if (!take_list(writing, &commits, take_commits, &changed) ||
		!take_list(writing, &accounts, take_accounts, &changed) ||
		!take_list(writing, &identities, take_identities, &changed))
	{
		writing->passing = true;
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("events of the stream have to wait")));
	}
	if (commits.n == 0 && changed == 0 && !writing->caught_up &&
		now < cursor_due)
		return;
	write_counts();
	move_cursor(writing);
	memset(counts, 0, sizeof(counts));
	cursor_due = TimestampTzPlusMilliseconds(now, CURSOR_MS);
}

/* Its events are tried again as they are: after how many milliseconds? */
static long
postpone(const ErrorData *error)
{
	failures++;
	ereport(failures == PATIENCE ? LOG : DEBUG1,
			(errmsg("rsvp_sync stream: events have to wait: %s",
					error->message)));
	return Min(AGAIN_MS << Min(failures, 10), AGAIN_MOST_MS);
}

bool
batch_write(const char *host, bool caught_up, long *again_ms)
{
	Writing		writing = {host, caught_up, failures > PATIENCE, false};
	ErrorData  *error;
	int64		counted[lengthof(kind_names)];

	begin_work("rsvp_sync: taking events");
	process_leave_if_dropped();
	if (!source_try_share())
	{
		end_work();
		*again_ms = AWAY_MS;
		return false;
	}
	MemoryContextSwitchTo(batch_context);
	memcpy(counted, counts, sizeof(counts));
	error = guarded(write_batch, &writing);
	end_work();
	if (error != NULL)
	{
		memcpy(counts, counted, sizeof(counts));
		*again_ms = postpone(error);
	}
	else
		empty();
	MemoryContextReset(batch_context);
	return error == NULL;
}
