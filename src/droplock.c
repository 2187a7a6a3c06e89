/*-------------------------------------------------------------------------
 *
 * droplock.c
 *		The locks of DROP EXTENSION, taken so that no writer is harmed.
 *
 * A writer holds the lock of its table and then wants that of our log; DROP
 * EXTENSION takes both, exclusively and in whatever order it finds them.  One
 * of the two would die of the deadlock, and it must never be the writer.  So
 * before the command is run, everything that it will lock is locked here:
 * the extension's own relations, and the tables with triggers that call its
 * functions.
 *
 * No order of locking would do, since a writer may touch any of these tables
 * in any order.  The rule is instead: while we wait for a lock we hold no
 * other, or hold them for so short a time that no deadlock check gets to see
 * it.  Then writers may be delayed for a moment, but never fail.  (If the
 * transaction had such locks before, they are beyond our power.)
 *
 * Reads catalogs, and takes these locks; touches nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "droplock.h"

/* The longest time that locks are held while another is waited for */
#define MAX_HOLD_MS		200


/*
 * Collect the extension's own objects of a class: its relations, its
 * functions.
 */
static List *
extension_members(Oid extoid, Oid classid)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	List	   *members = NIL;
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(ExtensionRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(extoid));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		if (depend->deptype == DEPENDENCY_EXTENSION &&
			depend->classid == classid)
			members = lappend_oid(members, depend->objid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return members;
}

/* Add the tables with a trigger that calls one of these functions. */
static List *
add_triggered_tables(List *relids, List *functions)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (list_member_oid(functions, trigger->tgfoid))
			relids = list_append_unique_oid(relids, trigger->tgrelid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return relids;
}

/* Every relation that DROP EXTENSION will lock, in the order of the oids. */
static List *
relations_to_lock(Oid extoid)
{
	List	   *relids = extension_members(extoid, RelationRelationId);
	List	   *functions = extension_members(extoid, ProcedureRelationId);

	relids = add_triggered_tables(relids, functions);
	list_sort(relids, list_oid_cmp);
	return relids;
}

static void
short_pause(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Take a lock without joining its queue, until the deadline at most. */
static bool
lock_until(Oid relid, LOCKMODE mode, TimestampTz deadline)
{
	while (!ConditionalLockRelationOid(relid, mode))
	{
		if (GetCurrentTimestamp() >= deadline)
			return false;
		short_pause();
	}
	return true;
}

static void
unlock_all(List *relids, LOCKMODE mode)
{
	ListCell   *lc;

	foreach(lc, relids)
		UnlockRelationOid(lfirst_oid(lc), mode);
}

/*
 * Lock what can be had in the time for which locks may be held: half of what a
 * writer waits before it looks for a deadlock, and not long in any case.
 * Returns the relation that could not be had, with all locks given back.
 */
static Oid
try_lock_all(List *relids, LOCKMODE mode, Oid already_locked)
{
	int			hold_ms = Min(MAX_HOLD_MS, DeadlockTimeout / 2);
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   hold_ms);
	List	   *locked = NIL;
	ListCell   *lc;

	if (OidIsValid(already_locked))
		locked = list_make1_oid(already_locked);
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (relid == already_locked)
			continue;
		if (!lock_until(relid, mode, deadline))
		{
			unlock_all(locked, mode);
			return relid;
		}
		locked = lappend_oid(locked, relid);
	}
	return InvalidOid;
}

/*
 * Lock all or none, and wait for one only while none is held.  While we
 * wait, interruptibly and under lock_timeout, writers go on.
 */
void
lock_together(List *relids, LOCKMODE mode)
{
	Oid			locked = InvalidOid;
	Oid			busy;

	while (OidIsValid(busy = try_lock_all(relids, mode, locked)))
	{
		LockRelationOid(busy, mode);
		locked = busy;
	}
}

void
droplock_acquire(Oid extoid)
{
	lock_together(relations_to_lock(extoid), AccessExclusiveLock);
}
