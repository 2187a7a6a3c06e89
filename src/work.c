/*-------------------------------------------------------------------------
 *
 * work.c
 *		Short transactions and statements of the worker.
 *
 * The one bracket around every transaction of the worker, prepared
 * statements with their arguments, and the guard that turns an error into a
 * value.  Knows nothing of what the statements say.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "worker.h"

/* The caller's, while a transaction is open. */
static MemoryContext caller_context = NULL;

/*
 * Tables that may grow a thousandfold while a plan is kept that was made when
 * they were empty, and their pages when plans were last made.
 */
static struct
{
	const char *name;
	BlockNumber pages;
}			growing[] = {
	{"_queue"}, {"_intent"}, {"_observed"}, {"_account"}, {"_identity"},
	{"_change_log"}
};

/* Below so many pages it does not matter how a table is read. */
#define FEW_PAGES		8

void
begin_work(const char *what)
{
	caller_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, what);
}

void
end_work(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* A commit ends in TopMemoryContext, where nothing is ever given back. */
	MemoryContextSwitchTo(caller_context);
	/* Advisory locks that application SQL took for the session. */
	LockReleaseSession(USER_LOCKMETHOD);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* What this transaction does may be lost, as it would be done again. */
void
commit_without_flush(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Nobody's lock is waited for. */
static BlockNumber
pages_of(Oid relid)
{
	Relation	rel;
	BlockNumber pages;

	if (!OidIsValid(relid) ||
		!ConditionalLockRelationOid(relid, AccessShareLock))
		return 0;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return 0;
	pages = RelationGetNumberOfBlocks(rel);
	relation_close(rel, NoLock);
	return pages;
}

static bool
has_grown(Oid schema, int i)
{
	BlockNumber pages = pages_of(get_relname_relid(growing[i].name, schema));
	BlockNumber before = growing[i].pages;

	if (pages / 4 >= before || pages < before)
		growing[i].pages = pages;
	return pages > FEW_PAGES && pages / 4 >= before;
}

/* Plans are made again once a table is four times what it was. */
void
renew_plans(void)
{
	Oid			schema = get_namespace_oid("rsvp_sync", true);
	bool		grown = false;

	for (int i = 0; OidIsValid(schema) && i < lengthof(growing); i++)
		grown = has_grown(schema, i) || grown;
	if (grown)
		ResetPlanCache();
}

void
args_int8(Args *args, int64 value)
{
	args->nulls[args->n] = ' ';
	args->values[args->n++] = Int64GetDatum(value);
}

void
args_int4(Args *args, int32 value)
{
	args->nulls[args->n] = ' ';
	args->values[args->n++] = Int32GetDatum(value);
}

void
args_bool(Args *args, bool value)
{
	args->nulls[args->n] = ' ';
	args->values[args->n++] = BoolGetDatum(value);
}

/* What came from the network is UTF-8; the database may not be. */
void
args_text(Args *args, const char *value)
{
	args->nulls[args->n] = value ? ' ' : 'n';
	if (value)
		value = pg_any_to_server(value, strlen(value), PG_UTF8);
	args->values[args->n++] = value ? CStringGetTextDatum(value) : (Datum) 0;
}

void
args_texts(Args *args, List *values)
{
	Datum	   *items = palloc(sizeof(Datum) * Max(list_length(values), 1));
	int			n = 0;
	ListCell   *cell;

	foreach(cell, values)
		items[n++] = CStringGetTextDatum((char *) lfirst(cell));
	args->nulls[args->n] = ' ';
	args->values[args->n++] =
		PointerGetDatum(construct_array(items, n, TEXTOID, -1, false,
										TYPALIGN_INT));
}

/* Results are in SPI_tuptable; each run sees what earlier ones did. */
void
run_statement(Statement *statement, Args *args)
{
	int			rc;

	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statement->sql, statement->nargs,
									   statement->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql,
				 SPI_result_code_string(SPI_result));
		statement->plan = plan;
	}
	rc = SPI_execute_plan(statement->plan, args ? args->values : NULL,
						  args ? args->nulls : NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", statement->sql,
			 SPI_result_code_string(rc));
}

char *
result_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						column);
}

int64
result_int8(uint64 row, int column, bool *isnull)
{
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, isnull);

	return *isnull ? 0 : DatumGetInt64(value);
}

ErrorData *
guarded(void (*fn) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		fn(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
