/*-------------------------------------------------------------------------
 *
 * inbound.c
 *		Doors for applications that have a consumer of their own, and what
 *		SQL cannot say about intents.
 *
 * Says who calls; what is done is in sql/59-external.sql.  Reads _intent.
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

/* Has the key an intent, or, being_made, one that another transaction makes? */
static bool
has_intent(Relation intents, Relation pkey, int64 source_id, Datum key,
		   bool being_made)
{
	TupleTableSlot *slot = table_slot_create(intents, NULL);
	SnapshotData dirty;
	ScanKeyData scan_keys[2];
	IndexScanDesc scan;
	bool		found = false;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&scan_keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(source_id));
	ScanKeyEntryInitialize(&scan_keys[1], 0, 2, BTEqualStrategyNumber,
						   TEXTOID, DEFAULT_COLLATION_OID, F_TEXTEQ, key);
	scan = compat_index_beginscan(intents, pkey, &dirty, 2);
	index_rescan(scan, scan_keys, 2, NULL, 0);
	while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
		found = !being_made || (TransactionIdIsValid(dirty.xmin) &&
								!TransactionIdIsCurrentTransactionId(dirty.xmin));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* Of the keys those that have such an intent, or those that have none. */
static Datum
keys_by_intent(FunctionCallInfo fcinfo, bool being_made, bool have)
{
	int64		source_id = PG_GETARG_INT64(0);
	Oid			relid = get_relname_relid("_intent",
										  get_namespace_oid("rsvp_sync", false));
	Relation	intents = table_open(relid, AccessShareLock);
	Relation	pkey = index_open(rel_primary_key(intents), AccessShareLock);
	ArrayBuildState *result = initArrayResult(TEXTOID, CurrentMemoryContext,
											  false);
	Datum	   *keys;
	int			nkeys;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, NULL, &nkeys);
	for (int i = 0; i < nkeys; i++)
		if (has_intent(intents, pkey, source_id, keys[i], being_made) == have)
			result = accumArrayResult(result, keys[i], false, TEXTOID,
									  CurrentMemoryContext);
	index_close(pkey, AccessShareLock);
	table_close(intents, AccessShareLock);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}

Datum
rsvp_sync_intents_being_made(PG_FUNCTION_ARGS)
{
	return keys_by_intent(fcinfo, true, true);
}

/* Committed or not: neither is what is asked for here. */
Datum
rsvp_sync_never_planned(PG_FUNCTION_ARGS)
{
	return keys_by_intent(fcinfo, false, false);
}
