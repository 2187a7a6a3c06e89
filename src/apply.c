/*-------------------------------------------------------------------------
 *
 * apply.c
 *		RSVPs made elsewhere become attendance: the door.
 *
 * _apply() and _known_events() run application SQL as the table's owner
 * (owner.c): for a recognised schema the steps of apply_rows.c, first for all
 * RSVPs together, and if that fails for each in a subtransaction of its own,
 * so that one that a trigger of the application's refuses fails alone; or the
 * application's own function, RSVP by RSVP.
 *
 * What a source's statements are is kept until something in a schema changes.
 *
 * May touch: application tables, as their owner; of our own it reads _source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "apply.h"
#include "compat.h"
#include "owner.h"
#include "source.h"
#include "worker.h"

/* How often an RSVP is tried whose row somebody else is changing. */
#define TRIES 3
/*
 * So many that take too long, or one after the other wait in vain for a lock,
 * and the rest is left for another time: a table is locked, or a trigger slow.
 */
#define MAX_LATE 3

static const char *const step_names[APPLY_STEPS] = {
	"function", "own_events", "imported_events", "foreign_events",
	"identity", "users", "create_users", "members", "told", "attendance",
	"count", "update", "insert"
};

static HTAB *sources = NULL;

PG_FUNCTION_INFO_V1(rsvp_sync_apply);
PG_FUNCTION_INFO_V1(rsvp_sync_known_events);
PG_FUNCTION_INFO_V1(rsvp_sync_told_row);

/*
 * Sources
 */

static void
forget_source(ApplySource *source)
{
	int64		source_id = source->source_id;

	for (int i = 0; i < APPLY_STEPS; i++)
		if (source->steps[i].plan)
			SPI_freeplan(source->steps[i].plan);
	if (source->context)
		MemoryContextDelete(source->context);
	hash_search(sources, &source_id, HASH_REMOVE, NULL);
}

static void
read_basics(ApplySource *source)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(source->source_id)};
	MemoryContext old;
	bool		isnull;
	Datum		timeout;
	HeapTuple	row;
	TupleDesc	columns;

	SPI_execute_with_args("SELECT s.attendance::pg_catalog.oid, s.kind,"
						  " s.search_path,"
						  " COALESCE(s.apply_path, s.search_path),"
						  " rsvp_sync._sql_timeout(s.options)"
						  " FROM rsvp_sync._source s"
						  " WHERE s.source_id OPERATOR(pg_catalog.=) $1",
						  1, types, values, NULL, true, 1);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no source " INT64_FORMAT,
						source->source_id)));
	row = SPI_tuptable->vals[0];
	columns = SPI_tuptable->tupdesc;
	old = MemoryContextSwitchTo(source->context);
	source->relid = DatumGetObjectId(SPI_getbinval(row, columns, 1, &isnull));
	source->kind = pstrdup(SPI_getvalue(row, columns, 2));
	source->search_path = pstrdup(SPI_getvalue(row, columns, 3));
	source->apply_path = pstrdup(SPI_getvalue(row, columns, 4));
	timeout = SPI_getbinval(row, columns, 5, &isnull);
	source->sql_timeout = isnull ? 0 : DatumGetInt32(timeout);
	MemoryContextSwitchTo(old);
}

static char *
keep(ApplySource *source, const char *text)
{
	return text ? MemoryContextStrdup(source->context, text) : NULL;
}

/* One of the source's statements or words. */
static void
read_statement(ApplySource *source, const char *name, const char *sql,
			   const char *problem)
{
	const struct
	{
		const char *name;
		const char **word;
	}			words[] = {
		{"going", &source->words.going},
		{"interested", &source->words.interested},
		{"notgoing", &source->words.notgoing},
		{"pending", &source->words.pending},
		{"waitlist", &source->words.waitlist},
	};

	for (int i = 0; i < APPLY_STEPS; i++)
		if (strcmp(name, step_names[i]) == 0)
		{
			source->steps[i].sql = keep(source, sql);
			source->steps[i].problem = keep(source, problem);
			return;
		}
	for (int i = 0; i < lengthof(words); i++)
		if (strcmp(name, words[i].name) == 0)
		{
			*words[i].word = keep(source, sql);
			return;
		}
	if (strcmp(name, "users_table") == 0)
		source->users = atooid(sql);
	else if (strcmp(name, "keeps_authors") == 0)
		source->keeps_authors = sql != NULL;
}

static void
read_statements(ApplySource *source)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(source->source_id)};

	SPI_execute_with_args("SELECT s.name, s.sql, s.problem"
						  " FROM rsvp_sync._apply_statements($1) s",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
		read_statement(source, result_text(i, 1), result_text(i, 2),
					   result_text(i, 3));
}

static ApplySource *
find_source(int64 source_id)
{
	uint64		generation = owner_schema_generation();
	ApplySource *source;
	bool		found;

	if (sources == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(ApplySource);
		ctl.hcxt = TopMemoryContext;
		sources = hash_create("rsvp_sync apply sources", 32, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	source = hash_search(sources, &source_id, HASH_FIND, NULL);
	if (source != NULL && source->generation == generation)
		return source;
	if (source != NULL && source->in_use > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("RSVPs of source " INT64_FORMAT
						" are being applied, and the schema has changed",
						source_id),
				 errhint("A trigger or an apply function must not change the"
						 " schema and apply RSVPs of its own.")));
	if (source != NULL)
		forget_source(source);
	source = hash_search(sources, &source_id, HASH_ENTER, &found);
	memset((char *) source + sizeof(int64), 0,
		   sizeof(ApplySource) - sizeof(int64));
	source->context = AllocSetContextCreate(TopMemoryContext,
											"rsvp_sync apply source",
											ALLOCSET_SMALL_SIZES);
	read_basics(source);
	read_statements(source);
	/* Last: what could not be read to its end is read again. */
	source->generation = generation;
	return source;
}

/*
 * Running as the owner
 */

/*
 * Deferred constraints cannot fire where we go.  What is pending already was
 * put there by whoever called, perhaps with triggers of his own: it is
 * checked as he, not as the table's owner.
 */
static void
constraints_immediate(void)
{
	Oid			user;
	int			context;

	if (InSecurityRestrictedOperation())
		return;
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(GetOuterUserId(),
						   context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
	SetUserIdAndSecContext(user, context);
}

static void
as_owner(ApplySource *source, const char *search_path,
		 void (*fn) (void *arg), void *arg)
{
	source->in_use++;
	PG_TRY();
	{
		owner_run(source->relid, search_path, OWNER_LOCK_TIMEOUT_MS,
				  source->sql_timeout, fn, arg);
	}
	PG_FINALLY();
	{
		source->in_use--;
	}
	PG_END_TRY();
}

static void
call_rows(void *arg)
{
	apply_rows(arg);
}

/* The application's function; its answer is the key. */
static void
call_function(void *arg)
{
	ApplyBatch *batch = arg;
	ApplyItem  *item = batch->items[0];
	ApplyStatement *call = &batch->source->steps[STEP_FUNCTION];
	const char *args[4] = {item->did, item->uri, item->status,
	item->rsvp ? item->rsvp : "{}"};
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4];

	if (call->plan == NULL)
	{
		call->plan = SPI_prepare(call->sql, 4, types);
		if (call->plan == NULL || SPI_keepplan(call->plan) != 0)
			elog(ERROR, "could not prepare: %s",
				 SPI_result_code_string(SPI_result));
	}
	for (int i = 0; i < 4; i++)
	{
		nulls[i] = args[i] ? ' ' : 'n';
		values[i] = args[i] ? CStringGetTextDatum(args[i]) : (Datum) 0;
	}
	SPI_execute_plan(call->plan, values, nulls, false, 0);
	if (SPI_processed == 1)
		item->key = result_text(0, 1);
	SPI_freetuptable(SPI_tuptable);
}

static void
run_batch(void *arg)
{
	ApplyBatch *batch = arg;

	if (batch->source->steps[STEP_FUNCTION].sql != NULL)
		as_owner(batch->source, batch->source->apply_path, call_function,
				 batch);
	else
		as_owner(batch->source, batch->source->apply_path, call_rows, batch);
}

/* What an attempt that failed has found out is not to be relied upon. */
static void
begin_again(ApplyItem *item)
{
	item->event = item->group = item->user = item->key = NULL;
	item->was = item->word = NULL;
	item->gate = (Gate) {0};
	item->members_only = item->shadow = item->has_row = item->marked = false;
	item->surprise = false;
	item->room = 0;
	item->means = ANSWER_NONE;
}

/* Run them in a subtransaction.  In a session a cancel is the user's own. */
static ErrorData *
attempt(ApplyBatch *batch)
{
	ErrorData  *error;

	for (int i = 0; i < batch->n; i++)
		begin_again(batch->items[i]);
	error = guarded(run_batch, batch);
	if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		!owner_arms_deadline)
		ReThrowError(error);
	return error;
}

static void
note_error(ApplyItem *item, ErrorData *error)
{
	begin_again(item);
	item->error = error->message;
	item->code = pstrdup(unpack_sql_state(error->sqlerrcode));
}

/* May another attempt find things settled? */
static bool
is_race(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION;
}

/* Errors that the next one would run into as well; 0: none so far. */
static int
count_late(int late, const ErrorData *error)
{
	if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return late + 1;
	if (error != NULL && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return late + 1;
	return 0;
}

static ErrorData *
apply_one(ApplyBatch *one)
{
	ErrorData  *error = NULL;

	for (int try = 0; try < TRIES; try++)
	{
		error = attempt(one);
		if (error == NULL || !is_race(error))
			break;
	}
	return error;
}

/* Each on its own: one that fails does not keep the others. */
static void
apply_singly(ApplyBatch *batch)
{
	ErrorData  *error = NULL;
	int			late = 0;

	for (int i = 0; i < batch->n; i++)
	{
		ApplyBatch	one = {batch->source, &batch->items[i], 1};

		if (late < MAX_LATE)
		{
			error = apply_one(&one);
			late = count_late(late, error);
		}
		if (error != NULL)
			note_error(batch->items[i], error);
	}
}

static void
apply_items(ApplyBatch *batch)
{
	if (batch->n == 0)
		return;
	if (batch->source->steps[STEP_FUNCTION].sql == NULL)
	{
		if (batch->source->steps[STEP_ATTENDANCE].sql == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" takes no RSVPs from elsewhere",
							get_rel_name(batch->source->relid)),
					 errhint("Attach it again with an apply function.")));
		if (batch->n > 1 && attempt(batch) == NULL)
			return;
	}
	apply_singly(batch);
}

/*
 * _apply(source, dids, event_uris, statuses, rsvps, keys, seen)
 */

static ApplyItem *
read_item(uint64 row)
{
	ApplyItem  *item = palloc0(sizeof(ApplyItem));

	item->n = row + 1;
	item->did = result_text(row, 1);
	item->uri = result_text(row, 2);
	item->status = result_text(row, 3);
	item->rsvp = result_text(row, 4);
	item->provider = result_text(row, 5);
	item->source = result_text(row, 6);
	item->handle = result_text(row, 7);
	item->source_id = result_text(row, 8);
	item->source_url = result_text(row, 9);
	item->source_data = result_text(row, 10);
	item->answer = answer_of(item->status);
	if (item->did == NULL || item->uri == NULL ||
		(item->status != NULL && item->answer == ANSWER_NONE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("RSVP %d has no did, no event_uri or an unknown"
						" status", item->n),
				 errhint("A status is going, interested, notgoing or null.")));
	return item;
}

static void
read_items(ApplyBatch *batch, FunctionCallInfo fcinfo)
{
	static Statement facts = {
		"SELECT * FROM rsvp_sync._apply_facts($1, $2, $3, $4)", 4,
		{TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
	};
	Args		args = {0};

	for (int i = 1; i <= 4; i++)
	{
		args.values[args.n] = PG_GETARG_DATUM(i);
		args.nulls[args.n++] = ' ';
	}
	run_statement(&facts, &args);
	batch->n = SPI_processed;
	batch->items = palloc(sizeof(ApplyItem *) * Max(batch->n, 1));
	for (int i = 0; i < batch->n; i++)
		batch->items[i] = read_item(i);
}

static char *
text_or_null(Datum value, bool isnull)
{
	return isnull ? NULL : TextDatumGetCString(value);
}

/* On which rows was this decided?  Empty arrays: on none in particular. */
static void
read_expectations(ApplyBatch *batch, ArrayType *keys, ArrayType *seen)
{
	Datum	   *values[2];
	bool	   *nulls[2];
	int			n[2];

	deconstruct_array(keys, TEXTOID, -1, false, TYPALIGN_INT,
					  &values[0], &nulls[0], &n[0]);
	deconstruct_array(seen, TEXTOID, -1, false, TYPALIGN_INT,
					  &values[1], &nulls[1], &n[1]);
	for (int i = 0; i < batch->n && i < n[0] && i < n[1]; i++)
	{
		ApplyItem  *item = batch->items[i];

		item->expects = true;
		item->seen_key = text_or_null(values[0][i], nulls[0][i]);
		item->seen = text_or_null(values[1][i], nulls[1][i]);
	}
}

/* The status of a row that is right as it is: nothing was written. */
static char *
kept_status(const ApplyItem *item)
{
	return item->has_row && item->word == NULL && !item->surprise ?
		item->was : NULL;
}

static void
emit(ReturnSetInfo *rsinfo, int ntexts, int32 n, char **result)
{
	Datum		values[5];
	bool		nulls[5] = {false};
	int			at = 0;

	if (n > 0)
		values[at++] = Int32GetDatum(n);
	for (int i = 0; i < ntexts; i++, at++)
	{
		nulls[at] = result[i] == NULL;
		values[at] = result[i] ? CStringGetTextDatum(result[i]) : (Datum) 0;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
rsvp_sync_apply(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ApplyBatch	batch;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	constraints_immediate();
	batch.source = find_source(PG_GETARG_INT64(0));
	read_items(&batch, fcinfo);
	read_expectations(&batch, PG_GETARG_ARRAYTYPE_P(5),
					  PG_GETARG_ARRAYTYPE_P(6));
	apply_items(&batch);
	for (int i = 0; i < batch.n; i++)
	{
		ApplyItem  *item = batch.items[i];

		emit(rsinfo, 4, i + 1, (char *[]) {
			item->key, item->error, item->surprise ? "surprise" : item->code,
			kept_status(item)
		});
	}
	SPI_finish();
	return (Datum) 0;
}

/*
 * _known_events(source, uris)
 */

static void
call_find_events(void *arg)
{
	apply_find_events(arg);
}

static void
find_events_as_owner(void *arg)
{
	ApplyBatch *batch = arg;

	as_owner(batch->source, batch->source->search_path, call_find_events,
			 batch);
}

/*
 * In a worker our own deadline is an error like any, which PL/pgSQL can catch;
 * a cancel is not.
 */
static void
find_events_in_time(ApplyBatch *batch)
{
	ErrorData  *error = guarded(find_events_as_owner, batch);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && owner_arms_deadline)
		error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	ReThrowError(error);
}

Datum
rsvp_sync_known_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ApplyBatch	batch = {0};
	bool		asks;
	Datum	   *uris;
	bool	   *nulls;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	batch.source = find_source(PG_GETARG_INT64(0));
	asks = batch.source->steps[STEP_FUNCTION].sql != NULL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false,
					  TYPALIGN_INT, &uris, &nulls, &n);
	batch.items = palloc(sizeof(ApplyItem *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			continue;
		batch.items[batch.n] = palloc0(sizeof(ApplyItem));
		batch.items[batch.n++]->uri = TextDatumGetCString(uris[i]);
	}
	if (batch.n > 0)
		find_events_in_time(&batch);
	for (int i = 0; i < batch.n; i++)
		if (batch.items[i]->event != NULL || asks)
			emit(rsinfo, 2, 0, (char *[]) {
				batch.items[i]->uri, batch.items[i]->event
			});
	SPI_finish();
	return (Datum) 0;
}

/*
 * _told_row(source, did, uri)
 */

static void
call_find_told(void *arg)
{
	apply_find_told(arg);
}

Datum
rsvp_sync_told_row(PG_FUNCTION_ARGS)
{
	ApplyItem	item = {0};
	ApplyItem  *items[1] = {&item};
	ApplyBatch	batch = {NULL, items, 1};
	Datum		key = (Datum) 0;

	SPI_connect();
	batch.source = find_source(PG_GETARG_INT64(0));
	item.did = text_to_cstring(PG_GETARG_TEXT_PP(1));
	item.provider = "bluesky";
	item.uri = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (batch.source->steps[STEP_TOLD].sql != NULL)
		as_owner(batch.source, batch.source->search_path, call_find_told,
				 &batch);
	if (item.key != NULL)
		key = SPI_datumTransfer(CStringGetTextDatum(item.key), false, -1);
	SPI_finish();
	if (item.key == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(key);
}
