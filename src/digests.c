/*-------------------------------------------------------------------------
 *
 * digests.c
 *		A set of 64-bit digests, made once and asked often.
 *
 * Where a whole source is compared at once, one look at a table from its first
 * block to its last costs a tenth of a look-up for each row.  What was seen is
 * kept as digests with open addressing: of records (did, rkey, cid), and of
 * the slots of intents, of which several keys may be in one.  Reads _observed
 * and _intent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "digests.h"

PG_FUNCTION_INFO_V1(rsvp_sync_record_digests);
PG_FUNCTION_INFO_V1(rsvp_sync_crowded_slots);

#define MANY_CROWDED	100		/* of these, look-ups are better */

struct Digests
{
	uint64		seed;
	uint64	   *slot;			/* 0: empty */
	size_t		size;			/* a power of two */
	size_t		used;
	size_t		most;			/* that it may become */
};

/*
 * Those of records, from when they are read to the end of the transaction, or
 * until they are read again.  A value in SQL would be copied with each plan.
 */
static Digests *of_records = NULL;
static int64 number_of_records = 0;
static MemoryContext records_context = NULL;

/* A table as it is being read; the row is in the slot. */
typedef struct Reading
{
	Relation	table;
	TableScanDesc scan;
	TupleTableSlot *row;
} Reading;

static void
reading_open(Reading *reading, const char *name)
{
	reading->table = table_open(get_relname_relid(name, get_namespace_oid("rsvp_sync",
																		 false)),
								AccessShareLock);
	reading->row = table_slot_create(reading->table, NULL);
	reading->scan = table_beginscan(reading->table, GetActiveSnapshot(), 0,
									NULL);
}

static bool
reading_next(Reading *reading)
{
	CHECK_FOR_INTERRUPTS();
	return table_scan_getnextslot(reading->scan, ForwardScanDirection,
								  reading->row);
}

static void
reading_close(Reading *reading)
{
	table_endscan(reading->scan);
	ExecDropSingleTupleTableSlot(reading->row);
	table_close(reading->table, AccessShareLock);
}

static int
reading_column(Reading *reading, const char *name)
{
	return get_attnum(RelationGetRelid(reading->table), name);
}

static Slice
reading_text(Reading *reading, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(reading->row, column, &isnull);
	struct varlena *text;

	if (isnull)
		return (Slice) {NULL, 0};
	text = PG_DETOAST_DATUM_PACKED(value);
	return (Slice) {VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)};
}

/* Where the digest is, or would be.  The last bit is for who keeps the set. */
static uint64 *
place(uint64 *slot, size_t size, uint64 digest)
{
	size_t		i = (digest >> 1) & (size - 1);

	while (slot[i] != 0 && (slot[i] | 1) != (digest | 1))
		i = (i + 1) & (size - 1);
	return &slot[i];
}

static bool
grow(Digests *set)
{
	Digests		larger = *set;

	larger.size = set->size ? set->size * 2 : 1024;
	if (larger.size > set->most)
		return false;
	larger.slot = MemoryContextAllocExtended(CurrentMemoryContext,
											 sizeof(uint64) * larger.size,
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (size_t i = 0; i < set->size; i++)
		if (set->slot[i] != 0)
			*place(larger.slot, larger.size, set->slot[i]) = set->slot[i];
	if (set->slot != NULL)
		pfree(set->slot);
	*set = larger;
	return true;
}

/* The digest's place; NULL: it would become too large. */
static uint64 *
place_for(Digests *set, uint64 digest)
{
	if (set->used >= set->size / 2 && !grow(set))
		return NULL;
	return place(set->slot, set->size, digest);
}

static size_t
slots_in(int kilobytes)
{
	return (size_t) kilobytes * 1024 / sizeof(uint64);
}

/* A digest is never 0 */
static uint64
record_digest(uint64 seed, Slice did, Slice rkey, Slice cid)
{
	return digest_of(cid, digest_of(rkey, digest_of(did, seed))) | 1;
}

static void
forget_records(void *arg)
{
	of_records = NULL;
	records_context = NULL;
}

static Digests *
new_digests(MemoryContext context, int kilobytes)
{
	Digests    *digests = MemoryContextAllocZero(context, sizeof(Digests));

	digests->seed = pg_prng_uint64(&pg_global_prng_state);
	digests->most = slots_in(kilobytes);
	return digests;
}

static bool
read_records(Digests *set)
{
	Reading		records;
	int			did;
	int			rkey;
	int			cid;
	bool		fits = grow(set);

	reading_open(&records, "_observed");
	did = reading_column(&records, "did");
	rkey = reading_column(&records, "rkey");
	cid = reading_column(&records, "cid");
	while (fits && reading_next(&records))
	{
		Slice		version = reading_text(&records, cid);
		uint64		digest;
		uint64	   *where;

		if (version.data == NULL)
			continue;
		digest = record_digest(set->seed, reading_text(&records, did),
							   reading_text(&records, rkey), version);
		where = place_for(set, digest);
		fits = where != NULL;
		if (fits && *where == 0)
		{
			*where = digest;
			set->used++;
		}
	}
	reading_close(&records);
	return fits;
}

/*
 * rsvp_sync._record_digests(at_most_kb integer): reads them; a number by which
 * they are asked, NULL: they would need more.
 */
Datum
rsvp_sync_record_digests(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContextCallback *callback;
	Digests    *set;

	if (records_context != NULL)
		MemoryContextDelete(records_context);
	records_context = AllocSetContextCreate(TopTransactionContext,
											"rsvp_sync digests of records",
											ALLOCSET_DEFAULT_SIZES);
	callback = MemoryContextAllocZero(records_context,
									  sizeof(MemoryContextCallback));
	callback->func = forget_records;
	MemoryContextRegisterResetCallback(records_context, callback);
	MemoryContextSwitchTo(records_context);
	set = new_digests(records_context, PG_GETARG_INT32(0));
	if (read_records(set))
		of_records = set;
	MemoryContextSwitchTo(caller);
	if (of_records == NULL)
	{
		MemoryContextDelete(records_context);
		PG_RETURN_NULL();
	}
	PG_RETURN_INT64(++number_of_records);
}

const Digests *
digests_of_records(int64 number)
{
	return number == number_of_records ? of_records : NULL;
}

bool
digests_have_record(const Digests *set, Slice did, Slice rkey, Slice cid)
{
	return *place(set->slot, set->size,
				  record_digest(set->seed, did, rkey, cid)) != 0;
}

static bool
contains(const Datum *items, int count, uint64 wanted)
{
	for (int i = 0; i < count; i++)
		if (DatumGetUInt64(items[i]) == wanted)
			return true;
	return false;
}

/*
 * rsvp_sync._crowded_digests(at_most_kb integer): of slots with more than one
 * key of which one has, wants or may have a record; NULL: there are too many,
 * of these or of intents.  In the set the last bit says whether one has.
 */
Datum
rsvp_sync_crowded_slots(PG_FUNCTION_ARGS)
{
	Digests    *set = new_digests(CurrentMemoryContext, PG_GETARG_INT32(0));
	Reading		intents;
	int			did;
	int			event_uri;
	int			live;
	int			bond;
	int			doubt;
	bool		fits = grow(set);
	Datum		crowded[MANY_CROWDED];
	int			ncrowded = 0;

	reading_open(&intents, "_intent");
	did = reading_column(&intents, "did");
	event_uri = reading_column(&intents, "event_uri");
	live = reading_column(&intents, "live");
	bond = reading_column(&intents, "bond");
	doubt = reading_column(&intents, "doubt");
	while (fits && reading_next(&intents))
	{
		Slice		who = reading_text(&intents, did);
		Slice		what = reading_text(&intents, event_uri);
		bool		isnull;
		uint64		digest;
		uint64		has;
		uint64	   *where;

		if (who.data == NULL || what.data == NULL)
			continue;
		digest = slot_digest(who, what);
		has = DatumGetBool(slot_getattr(intents.row, live, &isnull)) ||
			DatumGetBool(slot_getattr(intents.row, doubt, &isnull)) ||
			reading_text(&intents, bond).data != NULL;
		where = place_for(set, digest);
		fits = where != NULL;
		if (!fits)
			break;
		if (*where == 0)
		{
			*where = digest | has;
			set->used++;
			continue;
		}
		*where |= has;
		if ((*where & 1) == 0 || contains(crowded, ncrowded, digest))
			continue;
		fits = ncrowded < MANY_CROWDED;
		if (fits)
			crowded[ncrowded++] = UInt64GetDatum(digest);
	}
	reading_close(&intents);
	if (!fits)
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(construct_array(crowded, ncrowded, INT8OID, 8,
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
