/*-------------------------------------------------------------------------
 *
 * inbound.c
 *		Doors for applications that have a consumer of their own, and what
 *		SQL cannot say about rows that other transactions are about.
 *
 * Says who calls; what is done is in sql/59-external.sql.  Reads _intent,
 * _observed, _stranger and _inbound.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "definer.h"
#include "owner.h"

PG_FUNCTION_INFO_V1(rsvp_sync_process_external_rsvp);
PG_FUNCTION_INFO_V1(rsvp_sync_delete_external_rsvp);

Datum
rsvp_sync_process_external_rsvp(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_process_external_rsvp");
}

Datum
rsvp_sync_delete_external_rsvp(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_delete_external_rsvp");
}

/* _in_worker(): are deadlines of our own in force, instead of a session's? */
PG_FUNCTION_INFO_V1(rsvp_sync_in_worker);
Datum
rsvp_sync_in_worker(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(owner_arms_deadline);
}

/*
 * _intents_being_made(source bigint, keys text[]): those whose intent another
 * transaction has inserted and not committed yet.  Nobody sees such a row, but
 * an insert of the same key waits for it; so it is asked for before.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_intents_being_made);
PG_FUNCTION_INFO_V1(rsvp_sync_never_planned);

/* A table of ours, its primary key, and room for a row. */
typedef struct Keyed
{
	Relation	table;
	Relation	pkey;
	TupleTableSlot *slot;
} Keyed;

static Keyed
open_keyed(const char *name)
{
	Keyed		keyed;
	Oid			relid = get_relname_relid(name,
										  get_namespace_oid("rsvp_sync", false));

	keyed.table = table_open(relid, AccessShareLock);
	keyed.pkey = index_open(rel_primary_key(keyed.table), AccessShareLock);
	keyed.slot = table_slot_create(keyed.table, NULL);
	return keyed;
}

static void
close_keyed(Keyed *keyed)
{
	ExecDropSingleTupleTableSlot(keyed->slot);
	index_close(keyed->pkey, AccessShareLock);
	table_close(keyed->table, AccessShareLock);
}

static bool
is_anothers(TransactionId xid)
{
	return TransactionIdIsValid(xid) &&
		!TransactionIdIsCurrentTransactionId(xid);
}

/* Whose row of a key is asked for. */
typedef enum Whose
{
	BEING_MADE,					/* one that another transaction inserts, */
	IN_USE,						/* or changes, */
	ANYBODYS					/* or any that is there, or may be */
} Whose;

static bool
has_row(const Keyed *keyed, ScanKeyData *scan_keys, Whose whose)
{
	SnapshotData dirty;
	IndexScanDesc scan;
	bool		found = false;

	InitDirtySnapshot(dirty);
	scan = compat_index_beginscan(keyed->table, keyed->pkey, &dirty, 2);
	index_rescan(scan, scan_keys, 2, NULL, 0);
	while (!found && index_getnext_slot(scan, ForwardScanDirection,
										keyed->slot))
		found = whose == ANYBODYS || is_anothers(dirty.xmin) ||
			(whose == IN_USE && is_anothers(dirty.xmax));
	ExecClearTuple(keyed->slot);
	index_endscan(scan);
	return found;
}

static void
key_text(ScanKeyData *key, int column, Datum value)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, TEXTOID,
						   DEFAULT_COLLATION_OID, F_TEXTEQ, value);
}

/* Of the keys those that have such an intent, or those that have none. */
static Datum
keys_by_intent(FunctionCallInfo fcinfo, Whose whose, bool have)
{
	Keyed		intents = open_keyed("_intent");
	ScanKeyData scan_keys[2];
	ArrayBuildState *result = initArrayResult(TEXTOID, CurrentMemoryContext,
											  false);
	Datum	   *keys;
	int			nkeys;

	ScanKeyInit(&scan_keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				PG_GETARG_DATUM(0));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, NULL, &nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		key_text(&scan_keys[1], 2, keys[i]);
		if (has_row(&intents, scan_keys, whose) == have)
			result = accumArrayResult(result, keys[i], false, TEXTOID,
									  CurrentMemoryContext);
	}
	close_keyed(&intents);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}

Datum
rsvp_sync_intents_being_made(PG_FUNCTION_ARGS)
{
	return keys_by_intent(fcinfo, BEING_MADE, true);
}

Datum
rsvp_sync_never_planned(PG_FUNCTION_ARGS)
{
	return keys_by_intent(fcinfo, ANYBODYS, false);
}

/*
 * _records_in_use(dids text[], rkeys text[]): the numbers of those records of
 * which another transaction, still open, has stored something.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_records_in_use);
Datum
rsvp_sync_records_in_use(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"_observed", "_stranger", "_inbound"};
	Keyed		tables[lengthof(names)];
	ArrayBuildState *result = initArrayResult(INT4OID, CurrentMemoryContext,
											  false);
	Datum	   *dids;
	Datum	   *rkeys;
	int			n;
	int			n_rkeys;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &dids, NULL, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &rkeys, NULL, &n_rkeys);
	for (int t = 0; t < lengthof(names); t++)
		tables[t] = open_keyed(names[t]);
	for (int i = 0; i < Min(n, n_rkeys); i++)
	{
		ScanKeyData scan_keys[2];
		bool		in_use = false;

		key_text(&scan_keys[0], 1, dids[i]);
		key_text(&scan_keys[1], 2, rkeys[i]);
		for (int t = 0; t < lengthof(names) && !in_use; t++)
			in_use = has_row(&tables[t], scan_keys, IN_USE);
		if (in_use)
			result = accumArrayResult(result, Int32GetDatum(i + 1), false,
									  INT4OID, CurrentMemoryContext);
	}
	for (int t = 0; t < lengthof(names); t++)
		close_keyed(&tables[t]);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}
