/*-------------------------------------------------------------------------
 *
 * owner.c
 *		The only door to application SQL.
 *
 * The queries an application gave us, and those generated over its tables,
 * are run here and nowhere else: as the owner of the attached table, in a
 * security-restricted operation, under the search_path that was in force at
 * attach, with row security off (a policy that would hide rows raises an
 * error: an error is never taken for absence) and with the settings pinned
 * on which the text of a value depends.  In a worker a deadline is armed,
 * since statement_timeout does not fire there.
 *
 * May touch application tables; of our own it reads _source.  Whoever calls
 * in wraps the call into a subtransaction if he wants to survive an error;
 * its abort restores user and settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "compat.h"
#include "owner.h"
#include "settings.h"

/* Columns of the desired query's result, after the key. */
static const char *const desired_columns[] = {
	"did", "event_uri", "status", "withheld", "on_withheld", "event_cid",
	"created_at", "starts_at", "ends_at", "event_url", "permalink"
};

#define DESIRED_NCOLS ((int) lengthof(desired_columns))

/* A source's query, prepared; valid until something in a schema changes. */
typedef struct OwnerQuery
{
	int64		source_id;		/* hash key */
	uint64		generation;
	Oid			relid;
	MemoryContext context;		/* of everything below */
	char	   *search_path;
	int			sql_timeout;	/* ms; 0: as the setting says */
	OwnerKey	key;
	char	   *text;			/* the query, as given or generated */
	SPIPlanPtr	some;			/* for the keys in $1... */
	SPIPlanPtr	all;			/* for every row */
	int			in_use;			/* running right now, perhaps nested */
} OwnerQuery;

/* What is done with a query, as the owner. */
typedef void (*QueryFn) (OwnerQuery *query, void *arg);

/* A whole table may take this many times as long as some of its rows. */
#define WHOLE_TABLE_FACTOR 20

bool		owner_arms_deadline = false;

static HTAB *queries = NULL;
static uint64 schema_generation = 1;

static void make_cache(void);

PG_FUNCTION_INFO_V1(rsvp_sync_desired);
PG_FUNCTION_INFO_V1(rsvp_sync_desired_rows);
PG_FUNCTION_INFO_V1(rsvp_sync_describe_query);
PG_FUNCTION_INFO_V1(rsvp_sync_explain_key);
PG_FUNCTION_INFO_V1(rsvp_sync_dependent_keys);
PG_FUNCTION_INFO_V1(rsvp_sync_source_changed);

/* What it is already need not be restored. */
static void
pin(const char *name, const char *value)
{
	const char *now = GetConfigOption(name, true, false);

	if (now != NULL && strcmp(now, value) == 0)
		return;
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Our own functions steer the planner; the application's query is its own. */
static void
free_planner(void)
{
	static const char *const steered[] = {
		"enable_seqscan", "enable_hashjoin", "enable_mergejoin",
		"enable_bitmapscan", "plan_cache_mode"
	};

	for (int i = 0; i < lengthof(steered); i++)
		pin(steered[i], GetConfigOptionResetString(steered[i]));
}

/* Without opening the table: its lock might have to be waited for. */
static Oid
table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the attendance table no longer exists")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The text of a value is the same whoever asks. */
void
owner_pin_output(void)
{
	pin("DateStyle", "ISO, YMD");
	pin("IntervalStyle", "postgres");
	pin("TimeZone", "UTC");
	pin("bytea_output", "hex");
	pin("extra_float_digits", "1");
}

/* Become the owner of the table.  sql_timeout_ms 0: as the setting says. */
void
owner_enter(OwnerScope *scope, Oid relid, const char *search_path,
			int lock_timeout_ms, int sql_timeout_ms)
{
	Oid			owner = table_owner(relid);
	char		ms[32];

	scope->guc_level = NewGUCNestLevel();
	/* Last: a type of the session's own must not be taken for another. */
	pin("search_path", *search_path ?
		psprintf("%s, pg_temp", search_path) : "pg_temp");
	pin("row_security", "off");
	owner_pin_output();
	free_planner();
	if (lock_timeout_ms > 0)
	{
		snprintf(ms, sizeof(ms), "%d", lock_timeout_ms);
		pin("lock_timeout", ms);
	}
	GetUserIdAndSecContext(&scope->user, &scope->context);
	SetUserIdAndSecContext(owner, scope->context |
						   SECURITY_RESTRICTED_OPERATION);
	if (sql_timeout_ms == 0)
		sql_timeout_ms = rsvp_sync_sql_timeout;
	scope->armed = owner_arms_deadline && sql_timeout_ms > 0;
	if (scope->armed)
		enable_timeout_after(STATEMENT_TIMEOUT, sql_timeout_ms);
}

/*
 * Back to who we were.  Whatever the application's SQL has set is undone, not
 * kept: a search_path of its making must not outlive it.
 */
void
owner_leave(OwnerScope *scope)
{
	if (scope->armed)
	{
		/* Nobody else cancels a worker's statement: what comes late is ours. */
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
	}
	SetUserIdAndSecContext(scope->user, scope->context);
	AtEOXact_GUC(false, scope->guc_level);
}

/* Run fn(arg) as the owner; also after an error nothing of it stays. */
void
owner_run(Oid relid, const char *search_path, int lock_timeout_ms,
		  int sql_timeout_ms, void (*fn) (void *arg), void *arg)
{
	OwnerScope	scope;

	owner_enter(&scope, relid, search_path, lock_timeout_ms, sql_timeout_ms);
	PG_TRY();
	{
		fn(arg);
	}
	PG_FINALLY();
	{
		owner_leave(&scope);
	}
	PG_END_TRY();
}

/* The table's primary key, by name and type, in the caller's context. */
void
owner_key(OwnerKey *key, Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	Oid			indexid = rel_primary_key(rel);
	Relation	index;

	key->ncols = 0;
	if (OidIsValid(indexid))
	{
		index = index_open(indexid, AccessShareLock);
		key->ncols = IndexRelationGetNumberOfKeyAttributes(index);
		for (int i = 0; i < key->ncols; i++)
		{
			Form_pg_attribute att =
				TupleDescAttr(RelationGetDescr(rel),
							  index->rd_index->indkey.values[i] - 1);

			key->name[i] = pstrdup(NameStr(att->attname));
			key->type[i] =
				format_type_extended(att->atttypid, -1,
									 FORMAT_TYPE_TYPEMOD_GIVEN |
									 FORMAT_TYPE_FORCE_QUALIFY);
		}
		index_close(index, NoLock);
	}
	relation_close(rel, NoLock);
}

/* A key's text as one text per column. */
char	  **
owner_split_key(const OwnerKey *key, const char *text)
{
	char	  **parts = palloc0(sizeof(char *) * Max(key->ncols, 1));
	Jsonb	   *array;

	if (key->ncols <= 1)
	{
		parts[0] = pstrdup(text);
		return parts;
	}
	array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(text)));
	for (int i = 0; i < key->ncols; i++)
	{
		JsonbValue *item = JB_ROOT_IS_ARRAY(array) &&
			JB_ROOT_COUNT(array) == key->ncols ?
			getIthJsonbValueFromContainer(&array->root, i) : NULL;

		if (item == NULL || item->type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid key \"%s\"", text),
					 errhint("A composite key is a JSON array of %d texts.",
							 key->ncols)));
		parts[i] = pnstrdup(item->val.string.val, item->val.string.len);
	}
	return parts;
}

/* Grows with every change of a relation: it may change what a query means. */
uint64
owner_schema_generation(void)
{
	make_cache();
	return schema_generation;
}

static void
note_schema_change(Datum arg, Oid relid)
{
	schema_generation++;
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	if (queries != NULL)
		return;
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(OwnerQuery);
	ctl.hcxt = TopMemoryContext;
	queries = hash_create("rsvp_sync desired queries", 32, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(note_schema_change, (Datum) 0);
}

static void
forget_query(OwnerQuery *query)
{
	int64		source_id = query->source_id;

	if (query->some)
		SPI_freeplan(query->some);
	if (query->all)
		SPI_freeplan(query->all);
	if (query->context)
		MemoryContextDelete(query->context);
	hash_search(queries, &source_id, HASH_REMOVE, NULL);
}

/* The catalog row and the query's text, through SPI of the caller. */
static void
read_source(OwnerQuery *query)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(query->source_id)};
	MemoryContext old;
	bool		isnull;
	HeapTuple	row;
	Datum		timeout;

	if (SPI_execute_with_args("SELECT s.attendance::pg_catalog.oid,"
							  " s.search_path,"
							  " rsvp_sync._desired_query(s.source_id),"
							  " rsvp_sync._sql_timeout(s.options)"
							  " FROM rsvp_sync._source s"
							  " WHERE s.source_id OPERATOR(pg_catalog.=) $1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT
		|| SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no source " INT64_FORMAT,
						query->source_id)));
	row = SPI_tuptable->vals[0];
	old = MemoryContextSwitchTo(query->context);
	query->relid = DatumGetObjectId(SPI_getbinval(row, SPI_tuptable->tupdesc,
												  1, &isnull));
	query->search_path = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
	query->text = SPI_getvalue(row, SPI_tuptable->tupdesc, 3);
	timeout = SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull);
	query->sql_timeout = isnull ? 0 : DatumGetInt32(timeout);
	if (query->search_path)
		query->search_path = pstrdup(query->search_path);
	if (query->text)
		query->text = pstrdup(query->text);
	if (!get_rel_name(query->relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the attendance table no longer exists")));
	owner_key(&query->key, query->relid);
	MemoryContextSwitchTo(old);
	if (query->key.ncols == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no primary key any more",
						get_rel_name(query->relid))));
}

static SPIPlanPtr
keep_plan(const char *sql, int nargs, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, types);

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s",
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep a plan");
	return plan;
}

static TupleDesc
plan_columns(SPIPlanPtr plan)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

	return source->resultDesc;
}

/* Is the key called by the single name every query may use? */
static const char *
key_column(OwnerQuery *query, int i)
{
	TupleDesc	columns = plan_columns(query->all);

	if (query->key.ncols == 1 &&
		SPI_fnumber(columns, query->key.name[0]) <= 0)
		return "attendance_id";
	return query->key.name[i];
}

/*
 * One column: all keys at once, by ANY, which uses the index.  Several: a
 * look-up for each key.
 */
static char *
keyed_text(OwnerQuery *query)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT q.* FROM (%s\n) q WHERE ", query->text);
	if (query->key.ncols == 1)
		appendStringInfo(&sql, "q.%s = ANY ($1::pg_catalog.text[]::%s[])",
						 quote_identifier(key_column(query, 0)),
						 query->key.type[0]);
	else
		for (int i = 0; i < query->key.ncols; i++)
			appendStringInfo(&sql, "%sq.%s = $%d::pg_catalog.text::%s",
							 i ? " AND " : "",
							 quote_identifier(key_column(query, i)),
							 i + 1, query->key.type[i]);
	return sql.data;
}

/* Prepare as the owner: parsing, too, may run functions of his. */
static void
prepare_query(OwnerQuery *query)
{
	Oid			types[INDEX_MAX_KEYS];
	StringInfoData sql;
	int			nargs = query->key.ncols;

	types[0] = TEXTARRAYOID;
	if (nargs > 1)
		for (int i = 0; i < nargs; i++)
			types[i] = TEXTOID;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT q.* FROM (%s\n) q", query->text);
	query->all = keep_plan(sql.data, 0, NULL);
	query->some = keep_plan(keyed_text(query), nargs, types);
}

/* The source's query; not prepared yet if it is new. */
static OwnerQuery *
find_query(int64 source_id)
{
	OwnerQuery *query;
	uint64		generation;
	bool		found;

	make_cache();
	query = hash_search(queries, &source_id, HASH_FIND, NULL);
	if (query != NULL && query->some != NULL &&
		query->generation == schema_generation)
		return query;
	if (query != NULL && query->in_use > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the query of source " INT64_FORMAT
						" asks for itself while it runs", source_id),
				 errhint("A desired query must not change the schema, nor"
						 " ask rsvp_sync about its own table.")));
	if (query != NULL)
		forget_query(query);
	generation = schema_generation;
	query = hash_search(queries, &source_id, HASH_ENTER, &found);
	memset((char *) query + sizeof(int64), 0,
		   sizeof(OwnerQuery) - sizeof(int64));
	query->context = AllocSetContextCreate(TopMemoryContext,
										   "rsvp_sync desired query",
										   ALLOCSET_SMALL_SIZES);
	read_source(query);
	query->generation = generation;
	return query;
}

typedef struct QueryRun
{
	OwnerQuery *query;
	QueryFn		fn;
	void	   *arg;
} QueryRun;

static void
run_prepared(void *arg)
{
	QueryRun   *run = arg;

	if (run->query->some == NULL)
		prepare_query(run->query);
	run->fn(run->query, run->arg);
}

/* Run fn on the source's query, as its owner. */
static void
run_query(int64 source_id, bool whole, QueryFn fn, void *arg)
{
	QueryRun	run = {find_query(source_id), fn, arg};
	OwnerQuery *volatile query = run.query;
	int			limit = query->sql_timeout ? query->sql_timeout :
		rsvp_sync_sql_timeout;

	if (whole)
		limit = (int) Min((int64) limit * WHOLE_TABLE_FACTOR, INT_MAX);
	query->in_use++;
	PG_TRY();
	{
		owner_run(query->relid, query->search_path, OWNER_LOCK_TIMEOUT_MS,
				  limit, run_prepared, &run);
	}
	PG_FINALLY();
	{
		query->in_use--;
	}
	PG_END_TRY();
}

/* A key as text, of the texts of its columns */
char *
owner_join_key(int ncols, char **parts)
{
	StringInfoData array;

	if (ncols == 1)
		return parts[0];
	initStringInfo(&array);
	for (int i = 0; i < ncols; i++)
	{
		appendStringInfoString(&array, i == 0 ? "[" : ", ");
		escape_json(&array, parts[i] ? parts[i] : "");
	}
	appendStringInfoChar(&array, ']');
	return array.data;
}

/* The row's key as text, of the columns with these numbers. */
char *
owner_row_key(int ncols, const int *number, HeapTuple row,
			  TupleDesc columns)
{
	char	   *parts[INDEX_MAX_KEYS];

	for (int i = 0; i < ncols; i++)
		parts[i] = SPI_getvalue(row, columns, number[i]);
	return owner_join_key(ncols, parts);
}

static int
compare_keys(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/*
 * A join that multiplies rows: which of them counts nobody could say, and
 * planned twice a key would wait for itself.
 */
static void
refuse_twice(char **keys, uint64 nkeys)
{
	if (nkeys < 2)
		return;
	qsort(keys, nkeys, sizeof(char *), compare_keys);
	for (uint64 i = 1; i < nkeys; i++)
		if (strcmp(keys[i - 1], keys[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("the desired query returns more than one row for"
							" key \"%s\"", keys[i]),
					 errhint("Write it so that each row of the attendance"
							 " table is in it once, as by a LEFT JOIN LATERAL"
							 " (... LIMIT 1), and attach again.")));
}

/* What the query gave, into the result of our own function. */
static void
emit_rows(OwnerQuery *query, ReturnSetInfo *rsinfo)
{
	AttInMetadata *input = TupleDescGetAttInMetadata(rsinfo->setDesc);
	TupleDesc	columns = SPI_tuptable->tupdesc;
	int			number[DESIRED_NCOLS];
	int			key[INDEX_MAX_KEYS];
	char	   *values[1 + DESIRED_NCOLS];
	char	  **keys = MemoryContextAllocHuge(CurrentMemoryContext,
										 (SPI_processed + 1) * sizeof(char *));
	uint64		nkeys = 0;
	MemoryContext per_row = AllocSetContextCreate(CurrentMemoryContext,
												  "rsvp_sync desired row",
												  ALLOCSET_SMALL_SIZES);

	for (int i = 0; i < DESIRED_NCOLS; i++)
		number[i] = SPI_fnumber(columns, desired_columns[i]);
	for (int i = 0; i < query->key.ncols; i++)
		key[i] = SPI_fnumber(columns, key_column(query, i));
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		HeapTuple	row = SPI_tuptable->vals[r];
		MemoryContext old = MemoryContextSwitchTo(per_row);

		values[0] = owner_row_key(query->key.ncols, key, row, columns);
		for (int i = 0; i < DESIRED_NCOLS; i++)
			values[i + 1] = number[i] > 0 ?
				SPI_getvalue(row, columns, number[i]) : NULL;
		if (values[0] != NULL)
			tuplestore_puttuple(rsinfo->setResult,
								BuildTupleFromCStrings(input, values));
		MemoryContextSwitchTo(old);
		if (values[0] != NULL)
			keys[nkeys++] = pstrdup(values[0]);
		MemoryContextReset(per_row);
	}
	refuse_twice(keys, nkeys);
	pfree(keys);
	MemoryContextDelete(per_row);
}

static void
run_keyed(OwnerQuery *query, ArrayType *keys, ReturnSetInfo *rsinfo)
{
	Datum		values[INDEX_MAX_KEYS];
	Datum	   *items;
	int			nitems;

	if (query->key.ncols == 1)
	{
		values[0] = PointerGetDatum(keys);
		SPI_execute_plan(query->some, values, NULL, true, 0);
		emit_rows(query, rsinfo);
		return;
	}
	deconstruct_array(keys, TEXTOID, -1, false, TYPALIGN_INT, &items, NULL,
					  &nitems);
	for (int i = 0; i < nitems; i++)
	{
		char	  **parts = owner_split_key(&query->key,
											TextDatumGetCString(items[i]));

		for (int c = 0; c < query->key.ncols; c++)
			values[c] = CStringGetTextDatum(parts[c]);
		SPI_execute_plan(query->some, values, NULL, true, 0);
		emit_rows(query, rsinfo);
		SPI_freetuptable(SPI_tuptable);
	}
}

/* Which rows are asked for, and where they go. */
typedef struct DesiredRun
{
	ArrayType  *keys;			/* NULL: all */
	ReturnSetInfo *rsinfo;
} DesiredRun;

static void
run_desired(OwnerQuery *query, void *arg)
{
	DesiredRun *run = arg;

	if (run->keys != NULL)
		run_keyed(query, run->keys, run->rsinfo);
	else
	{
		SPI_execute_plan(query->all, NULL, NULL, true, 0);
		emit_rows(query, run->rsinfo);
	}
}

/*
 * rsvp_sync._desired(source_id bigint, keys text[]): the desired query's
 * rows for these keys; all rows where keys is NULL.
 */
Datum
rsvp_sync_desired(PG_FUNCTION_ARGS)
{
	DesiredRun	run = {NULL, (ReturnSetInfo *) fcinfo->resultinfo};

	if (PG_ARGISNULL(0))
		elog(ERROR, "source_id must not be null");
	if (!PG_ARGISNULL(1))
		run.keys = PG_GETARG_ARRAYTYPE_P(1);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	run_query(PG_GETARG_INT64(0), run.keys == NULL, run_desired, &run);
	SPI_finish();
	return (Datum) 0;
}

/* Whole rows are asked for: by key, or by whose they are. */
typedef struct RowsRun
{
	const char *key;			/* NULL: by actor */
	const char *actor;
	ReturnSetInfo *rsinfo;
} RowsRun;

/* Whose row it is: its author's, or of him who has the pages below. */
static bool
append_actor(StringInfo sql, TupleDesc columns)
{
	bool		author = SPI_fnumber(columns, "author_url") > 0;
	bool		page = SPI_fnumber(columns, "permalink") > 0;

	if (author)
		appendStringInfoString(sql, "q.author_url::pg_catalog.text = $1");
	if (page)
		appendStringInfo(sql, "%s%spg_catalog.starts_with("
						 "q.permalink::pg_catalog.text,"
						 " pg_catalog.rtrim($1, '/') || '/')",
						 author ? " OR " : "",
						 author ? "q.author_url IS NULL AND " : "");
	return author || page;
}

static void
run_rows(OwnerQuery *query, void *arg)
{
	RowsRun    *run = arg;
	Oid			types[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	int			number[INDEX_MAX_KEYS];
	int			nargs = run->key ? query->key.ncols : 1;
	char	  **parts = run->key ?
		owner_split_key(&query->key, run->key) : NULL;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < query->key.ncols; i++)
	{
		number[i] = i + 1;
		appendStringInfo(&sql, "q.%s, ",
						 quote_identifier(key_column(query, i)));
	}
	appendStringInfo(&sql, "pg_catalog.to_jsonb(q) FROM (%s\n) q WHERE ",
					 query->text);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = TEXTOID;
		values[i] = CStringGetTextDatum(parts ? parts[i] : run->actor);
		if (parts)
			appendStringInfo(&sql, "%sq.%s = $%d::%s", i ? " AND " : "",
							 quote_identifier(key_column(query, i)), i + 1,
							 query->key.type[i]);
	}
	if (!parts && !append_actor(&sql, plan_columns(query->all)))
		return;
	SPI_execute_with_args(sql.data, nargs, types, values, NULL, true, 0);
	owner_emit_rows(query->key.ncols, number, run->rsinfo);
}

/* (key text, jsonb) of what SPI has found: key columns, then the jsonb. */
void
owner_emit_rows(int ncols, const int *number, ReturnSetInfo *rsinfo)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		char	   *key = owner_row_key(ncols, number, row,
										SPI_tuptable->tupdesc);
		Datum		out[2];
		bool		nulls[2] = {false, false};

		if (key == NULL)
			continue;
		out[0] = CStringGetTextDatum(key);
		out[1] = SPI_getbinval(row, SPI_tuptable->tupdesc, ncols + 1,
							   &nulls[1]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, out, nulls);
	}
}

/*
 * rsvp_sync._desired_rows(source_id bigint, key text, actor text): the
 * desired query's rows with all their columns, for this key or this actor.
 */
Datum
rsvp_sync_desired_rows(PG_FUNCTION_ARGS)
{
	RowsRun		run = {NULL, NULL, (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(1))
		run.key = text_to_cstring(PG_GETARG_TEXT_PP(1));
	else if (!PG_ARGISNULL(2))
		run.actor = text_to_cstring(PG_GETARG_TEXT_PP(2));
	else
		return (Datum) 0;
	SPI_connect();
	run_query(PG_GETARG_INT64(0), run.key == NULL, run_rows, &run);
	SPI_finish();
	return (Datum) 0;
}

/* A query whose columns are asked for, and where they go. */
typedef struct DescribeRun
{
	const char *query;
	ReturnSetInfo *rsinfo;
} DescribeRun;

static void
describe(void *arg)
{
	DescribeRun *run = arg;
	SPIPlanPtr	plan = SPI_prepare(psprintf("SELECT q.* FROM (%s\n) q",
											run->query), 0, NULL);
	TupleDesc	columns;

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s",
			 SPI_result_code_string(SPI_result));
	columns = plan_columns(plan);
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);
		Datum		values[2] = {
			CStringGetTextDatum(NameStr(att->attname)),
			ObjectIdGetDatum(att->atttypid)
		};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(run->rsinfo->setResult, run->rsinfo->setDesc,
							 values, nulls);
	}
}

/*
 * rsvp_sync._describe_query(relation regclass, query text, search_path text):
 * the columns a query would return, found by preparing it as the owner.
 */
Datum
rsvp_sync_describe_query(PG_FUNCTION_ARGS)
{
	DescribeRun run = {
		text_to_cstring(PG_GETARG_TEXT_PP(1)),
		(ReturnSetInfo *) fcinfo->resultinfo
	};

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	owner_run(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(2)),
			  OWNER_LOCK_TIMEOUT_MS, 0, describe, &run);
	SPI_finish();
	return (Datum) 0;
}

static void
explain_key(OwnerQuery *query, void *arg)
{
	StringInfoData sql;

	/* A small table is scanned although it could be looked up in. */
	pin("enable_seqscan", "off");
	initStringInfo(&sql);
	appendStringInfo(&sql, "EXPLAIN (COSTS OFF) SELECT q.* FROM (%s\n) q"
					 " WHERE ", query->text);
	for (int i = 0; i < query->key.ncols; i++)
		appendStringInfo(&sql, "%sq.%s = (SELECT NULL::%s)",
						 i ? " AND " : "",
						 quote_identifier(key_column(query, i)),
						 query->key.type[i]);
	SPI_execute(sql.data, false, 0);
}

/*
 * rsvp_sync._explain_key(source_id bigint): the plan by which one key would
 * be looked up.
 */
Datum
rsvp_sync_explain_key(PG_FUNCTION_ARGS)
{
	StringInfoData plan;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext spi;

	SPI_connect();
	run_query(PG_GETARG_INT64(0), false, explain_key, NULL);
	spi = MemoryContextSwitchTo(caller);
	initStringInfo(&plan);
	for (uint64 i = 0; i < SPI_processed; i++)
		appendStringInfo(&plan, "%s%s", i ? "\n" : "",
						 SPI_getvalue(SPI_tuptable->vals[i],
									  SPI_tuptable->tupdesc, 1));
	MemoryContextSwitchTo(spi);
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(plan.data));
}

/* Which rows depend on this value of another table's key. */
typedef struct DependentRun
{
	const char *sql;
	Datum		value;
	ReturnSetInfo *rsinfo;
} DependentRun;

static void
run_dependent(OwnerQuery *query, void *arg)
{
	DependentRun *run = arg;
	Oid			types[1] = {TEXTOID};
	int			number[INDEX_MAX_KEYS];

	for (int i = 0; i < INDEX_MAX_KEYS; i++)
		number[i] = i + 1;
	SPI_execute_with_args(run->sql, 1, types, &run->value, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		row[1];
		bool		isnull[1] = {false};
		char	   *key = owner_row_key(query->key.ncols, number,
										SPI_tuptable->vals[i],
										SPI_tuptable->tupdesc);

		if (key == NULL)
			continue;
		row[0] = CStringGetTextDatum(key);
		tuplestore_putvalues(run->rsinfo->setResult, run->rsinfo->setDesc,
							 row, isnull);
	}
}

/*
 * rsvp_sync._dependent_keys(source_id bigint, dep int, value text): keys of
 * the attendance rows that lead to this row of a table they depend on.
 */
Datum
rsvp_sync_dependent_keys(PG_FUNCTION_ARGS)
{
	DependentRun run = {
		NULL, PG_GETARG_DATUM(2), (ReturnSetInfo *) fcinfo->resultinfo
	};
	Oid			types[2] = {INT8OID, INT4OID};
	Datum		args[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	SPI_connect();
	SPI_execute_with_args("SELECT rsvp_sync._dependency_query($1, $2)", 2,
						  types, args, NULL, true, 1);
	if (SPI_processed == 1)
		run.sql = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							   1);
	if (run.sql != NULL)
		run_query(PG_GETARG_INT64(0), false, run_dependent, &run);
	SPI_finish();
	return (Datum) 0;
}

/*
 * rsvp_sync._source_changed(): statement trigger on _source.  Every process
 * that keeps a query of a source learns at commit that it may be another.
 */
Datum
rsvp_sync_source_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "not called as a trigger");
	CacheInvalidateRelcache(data->tg_relation);
	return PointerGetDatum(NULL);
}
