/*-------------------------------------------------------------------------
 *
 * find_source.c
 *		What finding attendees by metadata keeps between calls: the attached
 *		tables, their columns by number, and prepared statements.
 *
 * Storage is read as the extension's owner and under the latest snapshot:
 * what is kept outlives the transaction, and a snapshot of an older one would
 * miss a table that was attached since, with no invalidation left to come.
 *
 * A statement names its table and columns as they are called when it is
 * prepared.  Any change of the table, a rename included, invalidates its
 * relcache entry; attach() and detach() see to that as well.  A schema's
 * rename only shows in the cache of namespaces.
 *
 * May touch: reads _source, through the functions in sql/60-find.sql.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "find.h"

/* An entry of the cache; the source itself may outlive it. */
typedef struct FindEntry
{
	Oid			relid;			/* hash key */
	FindSource *source;
} FindEntry;

/* Where we were before we became the extension's owner. */
typedef struct DefinerScope
{
	Oid			user;
	int			context;
} DefinerScope;

static HTAB *sources = NULL;	/* FindEntry by relid */
static uint64 generation = 1;	/* of all relations */

/* The attached tables, and the generation they were read in. */
static Oid *attached = NULL;
static int	nattached = 0;
static uint64 attached_generation = 0;
static SPIPlanPtr attached_plan = NULL;

static void
note_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS all;
	FindEntry  *entry;

	generation++;
	if (OidIsValid(relid))
	{
		entry = hash_search(sources, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->source->stale = true;
		return;
	}
	hash_seq_init(&all, sources);
	while ((entry = hash_seq_search(&all)) != NULL)
		entry->source->stale = true;
}

static void
note_namespace(Datum arg, int cacheid, uint32 hashvalue)
{
	note_relation(arg, InvalidOid);
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	if (sources != NULL)
		return;
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(FindEntry);
	ctl.hcxt = TopMemoryContext;
	sources = hash_create("rsvp_sync searched tables", 32, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(note_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, note_namespace, (Datum) 0);
}

/* Become the owner of the function, and see what is committed by now. */
static void
enter_definer(DefinerScope *scope, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	GetUserIdAndSecContext(&scope->user, &scope->context);
	SetUserIdAndSecContext(owner, scope->context |
						   SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetLatestSnapshot());
}

static void
leave_definer(DefinerScope *scope)
{
	PopActiveSnapshot();
	SetUserIdAndSecContext(scope->user, scope->context);
}

static SPIPlanPtr
keep_plan(const char *sql, int nargs, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types,
										  CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s",
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep a plan");
	return plan;
}

/* The attached tables, as oids, in the order in which they were attached. */
List *
find_source_list(Oid definer)
{
	List	   *list = NIL;

	make_cache();
	if (attached_generation != generation)
	{
		uint64		reading = generation;
		DefinerScope scope;
		bool		isnull;

		enter_definer(&scope, definer);
		if (attached_plan == NULL)
			attached_plan = keep_plan("SELECT f.relid FROM"
									  " rsvp_sync._find_sources() AS f (relid)",
									  0, NULL);
		SPI_execute_plan(attached_plan, NULL, NULL, true, 0);
		leave_definer(&scope);

		attached_generation = 0;
		if (attached != NULL)
			pfree(attached);
		attached = MemoryContextAlloc(TopMemoryContext,
									  sizeof(Oid) * (SPI_processed + 1));
		nattached = SPI_processed;
		for (int i = 0; i < nattached; i++)
			attached[i] =
				DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
											   SPI_tuptable->tupdesc, 1,
											   &isnull));
		attached_generation = reading;
	}
	for (int i = 0; i < nattached; i++)
		list = lappend_oid(list, attached[i]);
	return list;
}

static void
free_source(FindSource *source)
{
	SPIPlanPtr *plan = &source->plans[0][0][0];

	for (int i = 0; i < sizeof(source->plans) / sizeof(SPIPlanPtr); i++)
		if (plan[i] != NULL)
			SPI_freeplan(plan[i]);
	MemoryContextDelete(source->context);
}

static void
unlink_source(FindSource *source)
{
	hash_search(sources, &source->relid, HASH_REMOVE, NULL);
	source->unlinked = true;
	if (source->users == 0)
		free_source(source);
}

/* Does the type's text depend on no setting? */
static bool
text_is_fixed(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case OIDOID:
		case BOOLOID:
		case UUIDOID:
		case NAMEOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return true;
		default:
			return type_is_enum(type);
	}
}

/* Columns from an array of numbers, with what makes them text. */
static void
set_columns(FindSource *source, FindColumns *columns, ArrayType *numbers)
{
	Datum	   *items;

	deconstruct_array(numbers, INT2OID, sizeof(int16), true, TYPALIGN_SHORT,
					  &items, NULL, &columns->ncolumns);
	columns->number = palloc0(sizeof(AttrNumber) * columns->ncolumns);
	columns->output = palloc0(sizeof(FmgrInfo) * columns->ncolumns);
	for (int i = 0; i < columns->ncolumns; i++)
	{
		AttrNumber	number = DatumGetInt16(items[i]);
		Oid			type = get_atttype(source->relid, number);
		Oid			output;
		bool		varlena;

		columns->number[i] = number;
		getTypeOutputInfo(type, &output, &varlena);
		fmgr_info_cxt(output, &columns->output[i], source->context);
		if (!text_is_fixed(type))
			source->pin_settings = true;
	}
}

/* What _find_source() says, into the source's memory. */
static void
fill_source(FindSource *source, HeapTuple row, TupleDesc desc)
{
	/* numbers of the result's columns, by FindGroup */
	static const int column[FIND_GROUPS] = {5, 6, 7, 8};
	MemoryContext old = MemoryContextSwitchTo(source->context);
	bool		isnull;
	Datum		value;

	source->source_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	value = SPI_getbinval(row, desc, 2, &isnull);
	source->tenant = DatumGetTextPCopy(value);
	value = SPI_getbinval(row, desc, 3, &isnull);
	source->metadata = isnull ? InvalidAttrNumber : DatumGetInt16(value);
	value = SPI_getbinval(row, desc, 4, &isnull);
	source->indexed = !isnull && DatumGetBool(value);
	for (int i = 0; i < FIND_GROUPS; i++)
	{
		value = SPI_getbinval(row, desc, column[i], &isnull);
		set_columns(source, &source->columns[i], DatumGetArrayTypeP(value));
	}
	MemoryContextSwitchTo(old);
}

/*
 * Read a source anew; NULL if the table is not attached.  Its memory hangs on
 * the caller's until all is there, in case of an error.
 */
static FindSource *
load_source(Oid relid, Oid definer)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	DefinerScope scope;
	MemoryContext context;
	FindSource *source;

	enter_definer(&scope, definer);
	SPI_execute_with_args("SELECT f.* FROM rsvp_sync._find_source($1) f"
						  " WHERE f.source_id IS NOT NULL",
						  1, types, values, NULL, true, 1);
	leave_definer(&scope);
	if (SPI_processed == 0)
		return NULL;

	context = AllocSetContextCreate(CurrentMemoryContext,
									"rsvp_sync searched table",
									ALLOCSET_SMALL_SIZES);
	source = MemoryContextAllocZero(context, sizeof(FindSource));
	source->relid = relid;
	source->context = context;
	fill_source(source, SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
	MemoryContextSetParent(context, CacheMemoryContext);
	return source;
}

/*
 * Nobody tells us when a table that merely inherits loses its index; so
 * nothing is kept of its parent.
 */
static bool
has_plain_children(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_RELATION && has_subclass(relid);
}

/*
 * An attached table as it is now, or NULL.  It stays as it is until it is
 * released.
 */
FindSource *
find_source_acquire(Oid relid, Oid definer)
{
	FindEntry  *entry;
	FindSource *source;

	make_cache();
	entry = hash_search(sources, &relid, HASH_FIND, NULL);
	if (entry != NULL && entry->source->stale)
	{
		unlink_source(entry->source);
		entry = NULL;
	}
	if (entry != NULL)
		source = entry->source;
	else
	{
		uint64		reading = generation;
		bool		found;

		source = load_source(relid, definer);
		if (source == NULL)
			return NULL;
		source->stale = reading != generation || has_plain_children(relid);
		entry = hash_search(sources, &relid, HASH_ENTER, &found);
		entry->source = source;
	}
	source->users++;
	return source;
}

void
find_source_release(FindSource *source)
{
	if (--source->users == 0 && source->unlinked)
		free_source(source);
}

/* The statements that build the missing index. */
char *
find_source_index_ddl(FindSource *source, Oid definer)
{
	Oid			types[2] = {OIDOID, INT2OID};
	Datum		values[2] = {
		ObjectIdGetDatum(source->relid),
		Int16GetDatum(source->metadata)
	};
	DefinerScope scope;

	enter_definer(&scope, definer);
	SPI_execute_with_args("SELECT rsvp_sync._find_index_ddl($1, $2)",
						  2, types, values, NULL, true, 1);
	leave_definer(&scope);
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

static const char *
column_name(FindSource *source, AttrNumber number)
{
	return quote_identifier(get_attname(source->relid, number, false));
}

static void
append_columns(StringInfo sql, FindSource *source, FindGroup group)
{
	FindColumns *columns = &source->columns[group];

	for (int i = 0; i < columns->ncolumns; i++)
		appendStringInfo(sql, "a.%s, ",
						 column_name(source, columns->number[i]));
}

/*
 * $1 and $2 are the readings of what is sought, the last parameter is where
 * to look.  (a.*) with a cast is the row even if it has a column "a".
 */
static char *
statement_text(FindSource *source, FindForm form, int readings, bool by_tid)
{
	const char *table =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(source->relid)),
								   get_rel_name(source->relid));
	const char *metadata = column_name(source, source->metadata);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (form == FIND_TIDS)
		appendStringInfoString(&sql, "a.ctid");
	else if (form == FIND_ROWS)
	{
		append_columns(&sql, source, FIND_USER);
		appendStringInfo(&sql, "(a.*)::%s", table);
	}
	else
	{
		for (int i = 0; i < FIND_GROUPS; i++)
			append_columns(&sql, source, i);
		appendStringInfo(&sql, "a.%s", metadata);
	}
	appendStringInfo(&sql, " FROM %s a"
					 " WHERE (a.%s OPERATOR(pg_catalog.@>) $1", table, metadata);
	if (readings > 1)
		appendStringInfo(&sql, " OR a.%s OPERATOR(pg_catalog.@>) $2", metadata);
	appendStringInfoChar(&sql, ')');
	if (by_tid)
		appendStringInfo(&sql, " AND a.ctid OPERATOR(pg_catalog.=) ANY ($%d)",
						 readings + 1);
	return sql.data;
}

/* The statement, prepared.  It may be parsed as whoever is the user now. */
SPIPlanPtr
find_source_plan(FindSource *source, FindForm form, int readings, bool by_tid)
{
	SPIPlanPtr *plan = &source->plans[form][readings - 1][by_tid];

	if (*plan == NULL)
	{
		Oid			types[FIND_READINGS + 1] = {JSONBOID, JSONBOID};

		types[readings] = TIDARRAYOID;
		*plan = keep_plan(statement_text(source, form, readings, by_tid),
						  readings + by_tid, types);
	}
	return *plan;
}
