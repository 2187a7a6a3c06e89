/*-------------------------------------------------------------------------
 *
 * source.c
 *		Entries of attach() and its kin.
 *
 * The work is done in SQL (sql/40-source.sql and its neighbours) with the
 * extension owner's rights; these entries say who calls.  What SQL cannot do
 * is done here: see the caller's search_path, which the functions' own SET
 * clauses hide, make an object depend on the extension without locking its
 * table, and take locks so that neither a writer nor the worker is harmed.
 *
 * May touch: pg_depend.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "definer.h"
#include "droplock.h"
#include "source.h"

/* Schemas, as oids, of the search path of the attach() that is under way. */
static List *attach_path = NIL;

/*
 * Remember the search path in force here while the private function runs.
 * What "$user" means is settled now: later the query runs as somebody else.
 */
static Datum
call_with_path(FunctionCallInfo fcinfo, const char *private_function)
{
	List	   *outer = attach_path;
	Datum		result;

	PG_TRY();
	{
		attach_path = fetch_search_path(false);
		result = definer_call(fcinfo, private_function);
	}
	PG_FINALLY();
	{
		attach_path = outer;
	}
	PG_END_TRY();
	return result;
}

/*
 * attach(attendance regclass, desired text, apply text, options jsonb)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_attach);
Datum
rsvp_sync_attach(PG_FUNCTION_ARGS)
{
	return call_with_path(fcinfo, "_attach");
}

/*
 * attach_all(pattern text, options jsonb)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_attach_all);
Datum
rsvp_sync_attach_all(PG_FUNCTION_ARGS)
{
	return call_with_path(fcinfo, "_attach_all");
}

/*
 * detach(attendance regclass, withdraw boolean)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_detach);
Datum
rsvp_sync_detach(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_detach");
}

/*
 * detach_all()
 */
PG_FUNCTION_INFO_V1(rsvp_sync_detach_all);
Datum
rsvp_sync_detach_all(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_detach_all");
}

/*
 * pause(attendance regclass), pause()
 */
PG_FUNCTION_INFO_V1(rsvp_sync_pause);
Datum
rsvp_sync_pause(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_pause");
}

/*
 * resume(attendance regclass), resume()
 */
PG_FUNCTION_INFO_V1(rsvp_sync_resume);
Datum
rsvp_sync_resume(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_resume");
}

/*
 * index_ddl(attendance regclass)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_index_ddl);
Datum
rsvp_sync_index_ddl(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_index_ddl");
}

/*
 * source_status_map(attendance regclass)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_source_status_map);
Datum
rsvp_sync_source_status_map(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_source_status_map");
}

/*
 * _caller_search_path(): names of the schemas that attach()'s caller sees.
 * Temporary objects are left out; they are gone when the query runs.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_caller_search_path);
Datum
rsvp_sync_caller_search_path(PG_FUNCTION_ARGS)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext,
											 false);
	ListCell   *cell;

	foreach(cell, attach_path)
	{
		Oid			schema = lfirst_oid(cell);
		char	   *name = get_namespace_name(schema);

		if (name == NULL || isAnyTempNamespace(schema))
			continue;
		names = accumArrayResult(names, CStringGetTextDatum(name), false,
								 TEXTOID, CurrentMemoryContext);
	}
	PG_RETURN_DATUM(makeArrayResult(names, CurrentMemoryContext));
}

/*
 * _depend_on_extension(catalog regclass, object oid)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_depend_on_extension);
Datum
rsvp_sync_depend_on_extension(PG_FUNCTION_ARGS)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, PG_GETARG_OID(0), PG_GETARG_OID(1));
	ObjectAddressSet(extension, ExtensionRelationId,
					 get_extension_oid("rsvp_sync", false));
	recordDependencyOn(&object, &extension, DEPENDENCY_AUTO_EXTENSION);
	PG_RETURN_VOID();
}

/*
 * _forget_query(relation regclass): every backend, and above all the worker,
 * prepares the queries of this table's source anew.  If we roll back, so do
 * we ourselves.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_forget_query);
Datum
rsvp_sync_forget_query(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);

	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		CacheInvalidateRelcacheByRelid(relid);
	PG_RETURN_VOID();
}

/*
 * _lock_tables(relations oid[], exclusive boolean): all that attach() or
 * detach() will lock, before they touch any of it.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_lock_tables);
Datum
rsvp_sync_lock_tables(PG_FUNCTION_ARGS)
{
	LOCKMODE	mode = PG_GETARG_BOOL(1) ? AccessExclusiveLock :
		ShareRowExclusiveLock;
	List	   *relids = NIL;
	Datum	   *items;
	int			nitems;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), OIDOID, sizeof(Oid), true,
					  TYPALIGN_INT, &items, NULL, &nitems);
	for (int i = 0; i < nitems; i++)
		relids = lappend_oid(relids, DatumGetObjectId(items[i]));
	lock_together(relids, mode);
	PG_RETURN_VOID();
}

/*
 * Locks of our own.  They look like those on parts of a catalog object, with
 * our table _source as the catalog: no SQL command takes such a lock, so
 * nobody else can be in its way, as he could with an advisory lock.
 */
enum
{
	LOCK_ALL_SOURCES,
	LOCK_ATTACH					/* of one table */
};

static bool
lock_own(uint16 kind, Oid object, LOCKMODE mode, bool wait)
{
	Oid			schema = get_namespace_oid("rsvp_sync", false);
	Oid			classid = get_relname_relid("_source", schema);
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, classid, object, kind);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * One lock stands for all sources: whoever changes or removes one has it
 * exclusively, the worker shares it while it works.  Without it the two could
 * meet on rows and tables in opposite order.
 */
static bool
lock_sources(LOCKMODE mode, bool wait)
{
	return lock_own(LOCK_ALL_SOURCES, InvalidOid, mode, wait);
}

bool
source_try_share(void)
{
	return lock_sources(ShareLock, false);
}

/* bucket is below 1 << SOURCE_LOCK_BITS, so no kind above is meant. */
void
source_lock_apply(SourceLock kind, Oid relid, uint16 bucket)
{
	(void) lock_own((uint16) (kind << SOURCE_LOCK_BITS) | bucket, relid,
					ExclusiveLock, true);
}

/*
 * _exclude_worker()
 */
PG_FUNCTION_INFO_V1(rsvp_sync_exclude_worker);
Datum
rsvp_sync_exclude_worker(PG_FUNCTION_ARGS)
{
	(void) lock_sources(ExclusiveLock, true);
	PG_RETURN_VOID();
}

/*
 * _lock_attach(attendance oid): one attach() of a table at a time.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_lock_attach);
Datum
rsvp_sync_lock_attach(PG_FUNCTION_ARGS)
{
	(void) lock_own(LOCK_ATTACH, PG_GETARG_OID(0), ExclusiveLock, true);
	PG_RETURN_VOID();
}
