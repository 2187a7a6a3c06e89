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

#include "access/itup.h"
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
	lookup->context = CurrentMemoryContext;
	lookup->walks = lookup->at_entry = false;
	lookup->from = NULL;
	lookup->luck = lookup->rest = 0;
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

/* A scan makes room for what it keeps when it is first in need of it. */
static void
rescan(Lookup *lookup)
{
	MemoryContext old = MemoryContextSwitchTo(lookup->context);

	index_rescan(lookup->scan, lookup->key, lookup->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

/* The values stay the caller's, until the next row is asked for. */
void
lookup_begin(Lookup *lookup, Datum first, Datum second)
{
	lookup->key[0].sk_argument = first;
	lookup->key[1].sk_argument = second;
	rescan(lookup);
}

bool
lookup_next(Lookup *lookup)
{
	MemoryContext old = MemoryContextSwitchTo(lookup->context);
	bool		found = index_getnext_slot(lookup->scan, ForwardScanDirection,
										   lookup->slot);

	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Keys that come in about the order of the index are found by walking on from
 * the last one: a step costs a tenth of a descent from the root.  Where that
 * does not pay, each is looked up by itself.
 */
#define STEPS		24			/* that are tried before a descent */
#define LUCK_MAX	64
#define REST		1024		/* keys until it is tried again */

/* Anew from the first entry that is not below this one. */
static void
descend(Lookup *lookup, Datum first, struct varlena *second)
{
	if (lookup->from != NULL)
		pfree(lookup->from);
	lookup->from = palloc(VARSIZE_ANY(second));
	memcpy(lookup->from, second, VARSIZE_ANY(second));
	lookup->key[0].sk_argument = first;
	ScanKeyEntryInitialize(&lookup->key[1], 0, 2, BTGreaterEqualStrategyNumber,
						   TEXTOID, lookup->index->rd_indcollation[1],
						   F_TEXT_GE, PointerGetDatum(lookup->from));
	lookup->scan->xs_want_itup = true;
	rescan(lookup);
	lookup->walks = true;
	lookup->at_entry = false;
}

static bool
look_up(Lookup *lookup, Datum first, Datum second)
{
	if (lookup->key[1].sk_strategy != BTEqualStrategyNumber)
		ScanKeyEntryInitialize(&lookup->key[1], 0, 2, BTEqualStrategyNumber,
							   TEXTOID, lookup->index->rd_indcollation[1],
							   F_TEXTEQ, second);
	lookup->scan->xs_want_itup = false;
	lookup->walks = false;
	lookup_begin(lookup, first, second);
	return lookup_next(lookup);
}

/* Is there an entry at hand, taken or to be got?  A scan that ended is over. */
static bool
has_entry(Lookup *lookup)
{
	if (lookup->walks && !lookup->at_entry)
		lookup->walks = lookup->at_entry =
			index_getnext_tid(lookup->scan, ForwardScanDirection) != NULL;
	return lookup->walks;
}

static bool
entry_equals(Lookup *lookup, struct varlena *wanted)
{
	bool		isnull;
	Datum		value = index_getattr(lookup->scan->xs_itup, 2,
									  lookup->scan->xs_itupdesc, &isnull);
	struct varlena *text = PG_DETOAST_DATUM_PACKED(value);

	return VARSIZE_ANY_EXHDR(text) == VARSIZE_ANY_EXHDR(wanted) &&
		memcmp(VARDATA_ANY(text), VARDATA_ANY(wanted),
			   VARSIZE_ANY_EXHDR(text)) == 0;
}

/* Goes on by so many entries at most, or as long as they are the wanted. */
static bool
walk(Lookup *lookup, struct varlena *wanted, int steps)
{
	while (has_entry(lookup))
	{
		bool		equals = entry_equals(lookup, wanted);

		if (!equals && --steps < 0)
			return false;
		lookup->at_entry = false;
		if (equals && index_fetch_heap(lookup->scan, lookup->slot))
			return true;
	}
	return false;
}

/*
 * The row of a unique index whose columns are these, the second a text; the
 * first is the same in all calls.
 */
bool
lookup_walk(Lookup *lookup, Datum first, Datum second)
{
	struct varlena *wanted = (struct varlena *) DatumGetPointer(second);
	MemoryContext old;
	bool		found;

	if (lookup->luck <= -LUCK_MAX)
	{
		lookup->luck = 0;
		lookup->rest = REST;
	}
	if (lookup->rest > 0)
	{
		lookup->rest--;
		return look_up(lookup, first, second);
	}
	old = MemoryContextSwitchTo(lookup->context);
	found = walk(lookup, wanted, STEPS);
	if (found)
		lookup->luck = Min(lookup->luck + 1, LUCK_MAX);
	else
	{
		lookup->luck--;
		descend(lookup, first, wanted);
		found = walk(lookup, wanted, 0);
	}
	MemoryContextSwitchTo(old);
	return found;
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
