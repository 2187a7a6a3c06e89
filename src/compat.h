/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The differences between PostgreSQL 15, 16, 17 and 18, in one place.
 *
 * No other file of this project looks at PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_COMPAT_H
#define RSVP_SYNC_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "rsvp_sync needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
#include "utils/rel.h"
#include "utils/relcache.h"

/* 18 asks whether a deferrable primary key will do; before, it never did. */
static inline Oid
rel_primary_key(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

#include "utils/acl.h"

/* 16 made one function of the many that ask who owns an object */
#if PG_VERSION_NUM < 160000
#define compat_owns_database(dboid, roleid) \
	pg_database_ownercheck(dboid, roleid)
#define compat_owns_extension(extoid, roleid) \
	pg_extension_ownercheck(extoid, roleid)
#define compat_may_use_schema(schemaoid, roleid) \
	(pg_namespace_aclcheck(schemaoid, roleid, ACL_USAGE) == ACLCHECK_OK)
#else
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"

#define compat_owns_database(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, dboid, roleid)
#define compat_owns_extension(extoid, roleid) \
	object_ownercheck(ExtensionRelationId, extoid, roleid)
#define compat_may_use_schema(schemaoid, roleid) \
	(object_aclcheck(NamespaceRelationId, schemaoid, roleid, ACL_USAGE) \
	 == ACLCHECK_OK)
#endif

#include "storage/proc.h"

/* 17 gave the number of a process a name */
static inline int
compat_my_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

#include "access/genam.h"

/* 18 has index scans counted for EXPLAIN */
static inline IndexScanDesc
compat_index_beginscan(Relation heap, Relation index, Snapshot snapshot,
					   int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

#endif							/* RSVP_SYNC_COMPAT_H */
