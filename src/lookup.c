/*-------------------------------------------------------------------------
 *
 * lookup.c
 *		One of our own tables, looked up by index many times over.
 *
 * What a join by index does, without an executor in between: where a statement
 * would look a table up for each row of another, that is most of its cost.
 * Sees what the statement sees that called.  Reads private tables, whoever the
 * user is at that moment; changes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "lookup.h"

static RegProcedure
equals(Oid type)
{
	switch (type)
	{
		case INT8OID:
			return F_INT8EQ;
		case BYTEAOID:
			return F_BYTEAEQ;
		default:
			return F_TEXTEQ;
	}
}

/* By the first nkeys columns of an index; NULL: of the primary key's. */
void
lookup_open(Lookup *lookup, const char *table, const char *index, int nkeys)
{
	Oid			schema = get_namespace_oid("rsvp_sync", false);

	Assert(nkeys <= LOOKUP_NKEYS);
	lookup->nkeys = nkeys;
	lookup->table = table_open(get_relname_relid(table, schema),
							   AccessShareLock);
	lookup->index = index_open(index ? get_relname_relid(index, schema)
							   : rel_primary_key(lookup->table),
							   AccessShareLock);
	lookup->slot = table_slot_create(lookup->table, NULL);
	for (int i = 0; i < nkeys; i++)
	{
		Oid			type = TupleDescAttr(RelationGetDescr(lookup->index),
										 i)->atttypid;

		ScanKeyEntryInitialize(&lookup->key[i], 0, i + 1,
							   BTEqualStrategyNumber, type,
							   lookup->index->rd_indcollation[i],
							   equals(type), (Datum) 0);
	}
	lookup->scan = compat_index_beginscan(lookup->table, lookup->index,
										  GetActiveSnapshot(), nkeys);
}

int
lookup_column(Lookup *lookup, const char *name)
{
	AttrNumber	number = get_attnum(RelationGetRelid(lookup->table), name);

	if (number <= 0)
		elog(ERROR, "table \"%s\" has no column \"%s\"",
			 RelationGetRelationName(lookup->table), name);
	return number;
}

/* The values stay the caller's, until the next row is asked for. */
void
lookup_begin(Lookup *lookup, Datum first, Datum second)
{
	lookup->key[0].sk_argument = first;
	lookup->key[1].sk_argument = second;
	index_rescan(lookup->scan, lookup->key, lookup->nkeys, NULL, 0);
}

bool
lookup_next(Lookup *lookup)
{
	return index_getnext_slot(lookup->scan, ForwardScanDirection,
							  lookup->slot);
}

void
lookup_close(Lookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	index_close(lookup->index, AccessShareLock);
	table_close(lookup->table, AccessShareLock);
}

/* Valid until the next row; without data where it is NULL. */
Slice
lookup_text(Lookup *lookup, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(lookup->slot, column, &isnull);
	struct varlena *text;

	if (isnull)
		return (Slice) {NULL, 0};
	text = PG_DETOAST_DATUM_PACKED(value);
	return (Slice) {VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)};
}

bool
lookup_bool(Lookup *lookup, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(lookup->slot, column, &isnull);

	return !isnull && DatumGetBool(value);
}
