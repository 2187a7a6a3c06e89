/*-------------------------------------------------------------------------
 *
 * compare_sql.c
 *		A page of a source compared with what is recorded of it.
 *
 * Looks up the intent of each row, and the record where one is its, and asks
 * compare.c; what the answer hangs on is looked up, too.  Keys that are
 * suspected, or were not told, are the result: sql/53-reconcile.sql has them
 * planned.  Reads our own tables and, through page.c, the application's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compare.h"
#include "compat.h"
#include "digests.h"
#include "lookup.h"
#include "page.h"

PG_FUNCTION_INFO_V1(rsvp_sync_compare_page);

/* Arguments and results of _compare_page(), in their order */
enum
{
	ARG_SOURCE, ARG_AFTER, ARG_UNTIL, ARG_WORDS, ARG_LOCALS, ARG_PAST_TOO,
	ARG_TELLS, ARG_LEAVING, ARG_FORGOTTEN, ARG_CROWDED, ARG_DIGESTS
};
enum
{
	OUT_SEEN, OUT_MATCHED, OUT_SUSPECTS, OUT_ERASED, OUT_COUNT
};

/* Columns of _intent */
enum
{
	I_DID, I_EVENT_URI, I_RKEY, I_BASE_LOCAL, I_BASE_CID, I_STATE,
	I_REASON_CODE, I_REASON, I_BOND, I_SENT_CIDS, I_LIVE, I_DOUBT, I_WRITEBACK,
	I_SOURCE_ID, I_KEY, I_COUNT
};
static const char *const intent_columns[] = {
	"did", "event_uri", "rkey", "base_local", "base_cid", "state",
	"reason_code", "reason", "bond", "sent_cids", "live", "doubt",
	"writeback", "source_id", "key"
};

typedef struct Texts
{
	Slice	   *text;
	int			count;
} Texts;

typedef struct Comparison
{
	int64		source_id;
	Texts		words;			/* of the status map, */
	Texts		locals;			/* and what each becomes */
	bool		past_too;
	bool		tells[TOLD_COUNT];
	Texts		leaving;
	bool		forgotten;		/* there is somebody who was */
	bool		looks_up_slots; /* else these have several keys */
	Datum	   *crowded;
	int			ncrowded;
	TimestampTz now;
	Lookup		intents;
	int			column[I_COUNT];
	Lookup		records;
	int			cid;
	int			status;
	Lookup		accounts;
	Lookup		slots;
	Lookup		forgotten_ones;
	int64		digests;		/* of all records, by number; 0: each is looked up */
	MemoryContext context;		/* of the results */
	int64		seen;
	uint64		matched;
	ArrayBuildState *suspects;
	ArrayBuildState *erased;
} Comparison;

static bool
slices_equal(Slice a, Slice b)
{
	return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static Datum
slice_datum(Slice slice)
{
	return PointerGetDatum(cstring_to_text_with_len(slice.data, slice.len));
}

static int
place_of(const Texts *texts, Slice text)
{
	for (int i = 0; text.data != NULL && i < texts->count; i++)
		if (texts->text[i].data != NULL &&
			slices_equal(texts->text[i], text))
			return i;
	return -1;
}

static Texts
texts_of(ArrayType *array)
{
	Texts		texts;
	Datum	   *items;
	bool	   *nulls;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls,
					  &texts.count);
	texts.text = palloc0(sizeof(Slice) * Max(texts.count, 1));
	for (int i = 0; i < texts.count; i++)
		if (!nulls[i])
			texts.text[i] = (Slice)
		{
			VARDATA_ANY(DatumGetPointer(items[i])),
				VARSIZE_ANY_EXHDR(DatumGetPointer(items[i]))
		};
	return texts;
}

/* Did its user ask to be forgotten?  Then his digest is all there is. */
static bool
is_forgotten(Comparison *c, Slice did)
{
	Datum		digest;

	if (!c->forgotten || did.data == NULL)
		return false;
	digest = DirectFunctionCall1(sha256_bytea, slice_datum(did));
	lookup_begin(&c->forgotten_ones, digest, (Datum) 0);
	return lookup_next(&c->forgotten_ones);
}

static Wish
wish_of(Comparison *c, const PageRow *row)
{
	int			place = place_of(&c->words, row->text[PAGE_STATUS]);
	const NullableDatum *time = row->time[PAGE_ENDS_AT].isnull ?
		&row->time[PAGE_STARTS_AT] : &row->time[PAGE_ENDS_AT];
	Wish		wish = {
		.present = row->present, .tellable = row->tellable,
		.did = row->text[PAGE_DID], .event_uri = row->text[PAGE_EVENT_URI],
		.withheld = row->text[PAGE_WITHHELD],
		.on_withheld = row->text[PAGE_ON_WITHHELD],
		.told = {
			row->text[PAGE_TOLD_URI], row->text[PAGE_TOLD_CID],
			row->text[PAGE_TOLD_RKEY]
		},
		.mapped = place >= 0
	};

	if (place >= 0)
		wish.local = c->locals.text[place];
	wish.past = !c->past_too && !time->isnull &&
		DatumGetTimestampTz(time->value) < c->now;
	wish.leaving = place_of(&c->leaving, wish.did) >= 0 ||
		is_forgotten(c, wish.did);
	return wish;
}

static Recorded
recorded_of(Comparison *c)
{
	Lookup	   *i = &c->intents;
	const int  *column = c->column;
	bool		isnull;
	Datum		sent = slot_getattr(i->slot, column[I_SENT_CIDS], &isnull);

	return (Recorded)
	{
		.live = lookup_bool(i, column[I_LIVE]),
			.has_bond = lookup_text(i, column[I_BOND]).data != NULL,
			.doubt = lookup_bool(i, column[I_DOUBT]),
			.sent = isnull || ARR_NDIM(DatumGetArrayTypeP(sent)) > 0,
			.writeback = lookup_bool(i, column[I_WRITEBACK]),
			.did = lookup_text(i, column[I_DID]),
			.event_uri = lookup_text(i, column[I_EVENT_URI]),
			.rkey = lookup_text(i, column[I_RKEY]),
			.base_local = lookup_text(i, column[I_BASE_LOCAL]),
			.base_cid = lookup_text(i, column[I_BASE_CID]),
			.state = lookup_text(i, column[I_STATE]),
			.reason_code = lookup_text(i, column[I_REASON_CODE]),
			.reason = lookup_text(i, column[I_REASON])
	};
}

/* Has another key a record in its slot, or wants one, or may have one? */
static bool
is_alone(Comparison *c, const Recorded *recorded, Slice key)
{
	const int  *column = c->column;
	bool		isnull;

	if (!c->looks_up_slots)
	{
		uint64		digest;

		if (c->ncrowded == 0)
			return true;
		digest = slot_digest(recorded->did, recorded->event_uri);
		for (int i = 0; i < c->ncrowded; i++)
			if (DatumGetUInt64(c->crowded[i]) == digest)
				return false;
		return true;
	}
	lookup_begin(&c->slots, slice_datum(recorded->did),
				 slice_datum(recorded->event_uri));
	while (lookup_next(&c->slots))
		if ((lookup_bool(&c->slots, column[I_LIVE]) ||
			 lookup_text(&c->slots, column[I_BOND]).data != NULL ||
			 lookup_bool(&c->slots, column[I_DOUBT])) &&
			(DatumGetInt64(slot_getattr(c->slots.slot, column[I_SOURCE_ID],
										&isnull)) != c->source_id ||
			 !slices_equal(lookup_text(&c->slots, column[I_KEY]), key)))
			return false;
	return true;
}

static bool
has_agreed_record(Comparison *c, const Wish *wish, const Recorded *recorded)
{
	const Digests *digests;

	if (recorded->rkey.data == NULL || recorded->base_cid.data == NULL)
		return false;
	/* Asked for each time: an application's query may call reconcile(), too. */
	digests = digests_of_records(c->digests);
	if (digests != NULL && compare_record_by_cid(recorded) &&
		digests_have_record(digests, recorded->did, recorded->rkey,
							recorded->base_cid))
		return true;
	lookup_begin(&c->records, slice_datum(recorded->did),
				 slice_datum(recorded->rkey));
	return lookup_next(&c->records) &&
		compare_record(wish, recorded, lookup_text(&c->records, c->cid),
					   lookup_text(&c->records, c->status));
}

static bool
is_right(Comparison *c, const Wish *wish, const Recorded *recorded, Slice key)
{
	switch (compare_row(wish, recorded))
	{
		case VERDICT_RIGHT:
			return true;
		case VERDICT_NO_ACCOUNT:
			lookup_begin(&c->accounts, slice_datum(wish->did), (Datum) 0);
			return !lookup_next(&c->accounts);
		case VERDICT_RECORD:
			return has_agreed_record(c, wish, recorded) &&
				is_alone(c, recorded, key);
		case VERDICT_ALONE:
			return is_alone(c, recorded, key);
		case VERDICT_SUSPECT:
			break;
	}
	return false;
}

static void
compare_one(void *arg, const PageRow *row)
{
	Comparison *c = arg;
	Wish		wish = wish_of(c, row);
	Recorded	recorded;
	Datum		key = slice_datum(row->key);

	c->seen++;
	if (!lookup_walk(&c->intents, Int64GetDatum(c->source_id), key))
	{
		/* A row that the query leaves out, and that it always has left out */
		if (row->present)
			c->suspects = accumArrayResult(c->suspects, key, false, TEXTOID,
										   c->context);
		return;
	}
	c->matched ^= digest_of(row->key, 0);
	recorded = recorded_of(c);
	if (!is_right(c, &wish, &recorded, row->key))
		c->suspects = accumArrayResult(c->suspects, key, false, TEXTOID,
									   c->context);
	if (!compare_told(&wish, &recorded, c->tells))
		c->erased = accumArrayResult(c->erased, key, false, TEXTOID,
									 c->context);
}

static void
open_lookups(Comparison *c)
{
	lookup_open(&c->intents, "_intent", NULL, 2);
	for (int i = 0; i < I_COUNT; i++)
		c->column[i] = lookup_column(&c->intents, intent_columns[i]);
	lookup_open(&c->records, "_observed", NULL, 2);
	c->cid = lookup_column(&c->records, "cid");
	c->status = lookup_column(&c->records, "status");
	lookup_open(&c->accounts, "_account", NULL, 1);
	lookup_open(&c->slots, "_intent", "_intent_slot", 2);
	lookup_open(&c->forgotten_ones, "_forgotten", NULL, 1);
}

static void
close_lookups(Comparison *c)
{
	lookup_close(&c->intents);
	lookup_close(&c->records);
	lookup_close(&c->accounts);
	lookup_close(&c->slots);
	lookup_close(&c->forgotten_ones);
}

static void
read_arguments(Comparison *c, FunctionCallInfo fcinfo)
{
	static const char *const told[] = {"uri", "cid", "rkey"};
	Texts		tells = texts_of(PG_GETARG_ARRAYTYPE_P(ARG_TELLS));

	c->source_id = PG_GETARG_INT64(ARG_SOURCE);
	c->words = texts_of(PG_GETARG_ARRAYTYPE_P(ARG_WORDS));
	c->locals = texts_of(PG_GETARG_ARRAYTYPE_P(ARG_LOCALS));
	if (c->words.count != c->locals.count)
		elog(ERROR, "a status map has a value for each word");
	c->past_too = PG_GETARG_BOOL(ARG_PAST_TOO);
	for (int i = 0; i < TOLD_COUNT; i++)
		c->tells[i] = place_of(&tells, (Slice) {told[i], strlen(told[i])}) >= 0;
	c->leaving = texts_of(PG_GETARG_ARRAYTYPE_P(ARG_LEAVING));
	c->forgotten = PG_GETARG_BOOL(ARG_FORGOTTEN);
	c->looks_up_slots = PG_ARGISNULL(ARG_CROWDED);
	if (!c->looks_up_slots)
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_CROWDED), INT8OID, 8,
						  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &c->crowded, NULL,
						  &c->ncrowded);
	if (!PG_ARGISNULL(ARG_DIGESTS))
		c->digests = PG_GETARG_INT64(ARG_DIGESTS);
	c->now = GetCurrentTransactionStartTimestamp();
	c->context = CurrentMemoryContext;
	c->suspects = initArrayResult(TEXTOID, c->context, false);
	c->erased = initArrayResult(TEXTOID, c->context, false);
}

/* rsvp_sync._compare_page(); see sql/53-reconcile.sql */
Datum
rsvp_sync_compare_page(PG_FUNCTION_ARGS)
{
	Comparison	c = {0};
	TupleDesc	columns;
	Datum		values[OUT_COUNT];
	bool		nulls[OUT_COUNT] = {false};
	char	   *after = PG_ARGISNULL(ARG_AFTER) ? NULL
		: text_to_cstring(PG_GETARG_TEXT_PP(ARG_AFTER));
	char	   *until = PG_ARGISNULL(ARG_UNTIL) ? NULL
		: text_to_cstring(PG_GETARG_TEXT_PP(ARG_UNTIL));

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	read_arguments(&c, fcinfo);
	open_lookups(&c);
	page_read(c.source_id, after, until, compare_one, &c);
	close_lookups(&c);
	values[OUT_SEEN] = Int64GetDatum(c.seen);
	values[OUT_MATCHED] = Int64GetDatum((int64) c.matched);
	values[OUT_SUSPECTS] = makeArrayResult(c.suspects, c.context);
	values[OUT_ERASED] = makeArrayResult(c.erased, c.context);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns),
													  values, nulls)));
}
