/*-------------------------------------------------------------------------
 *
 * writeback.c
 *		Telling attendance rows what became of them.
 *
 * The one place where this extension changes an application's row.  An
 * UPDATE by anybody makes a concurrent transaction fail that has an older,
 * transaction-wide snapshot and updates the same row.  So a write-back is
 * made when it can disturb nobody, and is left for later otherwise: the row
 * is skipped if it is locked, nothing is waited for, and right before the
 * commit (which is asynchronous, hence short) we look who is around: nobody
 * may have a transaction-wide snapshot and the right to write.
 *
 * Who has, is known where the module is preloaded (isolation.c).  Elsewhere
 * it is guessed:
 *
 *	- normally nobody may hold a lock on the attendance table; after
 *	  PATIENCE_MS that is no longer asked;
 *	- a table that transactions with a transaction-wide snapshot have changed
 *	  lately is treated strictly: nobody in this database may hold a snapshot
 *	  at all, and after STRICT_PATIENCE_MS nobody a lock on the table.
 *
 * A write-back that is lost or given up is no harm: intent and observed are
 * the truth, the row only repeats it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "isolation.h"
#include "owner.h"
#include "source.h"
#include "worker.h"
#include "writeback.h"

/* Rows told by one transaction, and for how long one may go on. */
#define BATCH				200
#define BATCH_MS			100
/* Until we try again, when somebody was around or something is due. */
#define AGAIN_MS			20
#define IDLE_MS				60000
#define LOCK_TIMEOUT_MS		100
#define PATIENCE_MS			5000
/*
 * Where somebody works under a transaction-wide snapshot, again and again, a
 * moment between two of them is too short, and every try that is taken back
 * leaves row versions behind.
 */
#define QUIET_MS			1000
#define QUIET_PATIENCE_MS	30000
#define STRICT_PATIENCE_MS	10000
/* How long a table that such a transaction has changed is treated so. */
#define STRICT_FOR_MS		(10 * 60 * 1000)
#define MAX_STRICT			256

static Statement due_rows = {
	"SELECT r.source_id, r.key, r.attendance, r.search_path, r.uri, r.cid,"
	" r.rkey, r.synced_at, r.waited_ms, r.detaching"
	" FROM rsvp_sync._rows_to_tell($1) r", 1, {INT4OID}
};
static Statement read_query = {
	"SELECT rsvp_sync._writeback_query($1)", 1, {INT8OID}
};
static Statement rows_told = {
	"SELECT rsvp_sync._rows_told($1, $2)", 2, {INT8OID, TEXTARRAYOID}
};
static Statement not_told = {
	"UPDATE rsvp_sync._intent SET"
	" writeback_failures = writeback_failures OPERATOR(pg_catalog.+) 1,"
	" writeback_at = pg_catalog.now() OPERATOR(pg_catalog.+)"
	" LEAST('1 hour', '1 second'::pg_catalog.interval"
	" OPERATOR(pg_catalog.*) (2 OPERATOR(pg_catalog.^)"
	" LEAST(writeback_failures, 12))),"
	" writeback_error = pg_catalog.left($3, 1000)"
	" WHERE source_id OPERATOR(pg_catalog.=) $1"
	" AND key OPERATOR(pg_catalog.=) $2", 3, {INT8OID, TEXTOID, TEXTOID}
};

/* A row to be told. */
typedef struct Row
{
	int64		source_id;
	char	   *key;
	Oid			relid;
	char	   *search_path;
	char	   *uri;
	char	   *cid;
	char	   *rkey;
	Datum		synced_at;
	bool		never_synced;
	int64		waited_ms;
	bool		detaching;		/* its source goes once all rows are told */
} Row;

/* Sources whose tables are treated strictly, and until when. */
static struct
{
	int64		source_id;
	TimestampTz until;
}			strict[MAX_STRICT];
static int	nstrict = 0;

static TimestampTz next_try = 0;

/* The UPDATE of the source told last, and when it was made. */
static struct
{
	int64		source_id;
	uint64		generation;
	char	   *sql;			/* NULL: its rows are not told anything */
	SPIPlanPtr	plan;			/* made as the owner, when the first is told */
}			update;

/* In a security-restricted operation nothing may be left for later. */
static Statement all_immediate = {
	"SET CONSTRAINTS ALL IMMEDIATE", 0
};

void
writeback_note_repeatable(ArrayType *sources)
{
	int64	   *ids = (int64 *) ARR_DATA_PTR(sources);
	int			n = ArrayGetNItems(ARR_NDIM(sources), ARR_DIMS(sources));
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													STRICT_FOR_MS);

	for (int i = 0; i < n; i++)
	{
		int			j = 0;

		while (j < nstrict && strict[j].source_id != ids[i])
			j++;
		if (j == nstrict)
			j = nstrict < MAX_STRICT ? nstrict++ : 0;
		strict[j].source_id = ids[i];
		strict[j].until = until;
	}
}

static bool
is_strict(int64 source_id)
{
	for (int i = 0; i < nstrict; i++)
		if (strict[i].source_id == source_id)
			return strict[i].until > GetCurrentTimestamp();
	return false;
}

/* Does another transaction of this database hold a snapshot now? */
static bool
snapshots_around(void)
{
	int			n;
	VirtualTransactionId *others =
		GetCurrentVirtualXIDs(InvalidTransactionId, true, false,
							  PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &n);

	pfree(others);
	return n > 0;
}

/* Does another transaction hold a lock on the table, or a part of it? */
static bool
users_around(Oid relid)
{
	List	   *relids = get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(relid, NoLock, NULL) : list_make1_oid(relid);
	ListCell   *cell;

	foreach(cell, relids)
	{
		LOCKTAG		tag;
		int			n;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(cell));
		GetLockConflicts(&tag, AccessExclusiveLock, &n);
		if (n > 0)
			return true;
	}
	return false;
}

/* When such a transaction was seen last */
static TimestampTz somebody_at = 0;

static bool
somebody_was_around(const Row *row)
{
	TimestampTz now = GetCurrentTimestamp();

	if (isolation_around())
	{
		somebody_at = now;
		return true;
	}
	return row->waited_ms < QUIET_PATIENCE_MS &&
		now < TimestampTzPlusMilliseconds(somebody_at, QUIET_MS) &&
		now >= somebody_at;
}

/* Could the commit of this row's update disturb anybody? */
static bool
disturbs(const Row *row)
{
	if (isolation_is_known())
		return somebody_was_around(row);
	if (is_strict(row->source_id))
		return row->waited_ms < STRICT_PATIENCE_MS ? snapshots_around() :
			users_around(row->relid);
	return row->waited_ms < PATIENCE_MS && users_around(row->relid);
}

/* All rows of a batch are told in one transaction, so all have to agree. */
static bool
batch_disturbs(List *rows)
{
	ListCell   *cell;

	foreach(cell, rows)
		if (disturbs(lfirst(cell)))
			return true;
	return false;
}

static List *
read_rows(void)
{
	Args		args = {0};
	List	   *rows = NIL;
	bool		isnull;

	args_int4(&args, BATCH);
	run_statement(&due_rows, &args);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Row		   *row = palloc0(sizeof(Row));

		row->source_id = result_int8(i, 1, &isnull);
		/* One table at a time: its state decides for the whole batch. */
		if (rows != NIL &&
			((Row *) linitial(rows))->source_id != row->source_id)
			break;
		row->key = result_text(i, 2);
		row->relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
													SPI_tuptable->tupdesc, 3,
													&isnull));
		row->search_path = result_text(i, 4);
		row->uri = result_text(i, 5);
		row->cid = result_text(i, 6);
		row->rkey = result_text(i, 7);
		row->synced_at = SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, 8,
									   &row->never_synced);
		row->waited_ms = result_int8(i, 9, &isnull);
		row->detaching =
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, 10, &isnull));
		rows = lappend(rows, row);
	}
	return rows;
}

static void
plan_update(void)
{
	Oid			types[5] = {TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID,
	TIMESTAMPTZOID};
	SPIPlanPtr	plan = SPI_prepare(update.sql, lengthof(types), types);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", update.sql,
			 SPI_result_code_string(SPI_result));
	update.plan = plan;
}

/* Runs as the owner: SPI_processed says whether the row was changed. */
static void
update_one(const OwnerKey *key, Row *row)
{
	Args		args = {0};
	char	  **parts = owner_split_key(key, row->key);
	List	   *part_list = NIL;

	for (int i = 0; i < key->ncols; i++)
		part_list = lappend(part_list, parts[i]);
	args_texts(&args, part_list);
	args_text(&args, row->uri);
	args_text(&args, row->cid);
	args_text(&args, row->rkey);
	args.nulls[args.n] = row->never_synced ? 'n' : ' ';
	args.values[args.n++] = row->synced_at;
	/* What the application's own triggers change is a change like any. */
	changelog_mute(row->source_id, row->key);
	SPI_execute_plan(update.plan, args.values, args.nulls, false, 0);
}

static void
get_ready(OwnerKey *key, Oid relid)
{
	owner_key(key, relid);
	run_statement(&all_immediate, NULL);
	if (update.plan == NULL)
		plan_update();
}

/* Update the row; runs as its owner. */
static void
update_row(void *arg)
{
	Row		   *row = arg;
	OwnerKey	key;

	get_ready(&key, row->relid);
	update_one(&key, row);
}

/* Several rows of one table that are told together. */
typedef struct Telling
{
	List	   *rows;
	TimestampTz stop;
	List	   *told;			/* keys of those that were changed */
	List	   *left;			/* rows that were not, for whatever reason */
} Telling;

static void
update_rows(void *arg)
{
	Telling    *telling = arg;
	OwnerKey	key;
	ListCell   *cell;

	get_ready(&key, ((Row *) linitial(telling->rows))->relid);
	foreach(cell, telling->rows)
	{
		Row		   *row = lfirst(cell);

		if (GetCurrentTimestamp() > telling->stop)
			break;
		update_one(&key, row);
		if (SPI_processed > 0)
			telling->told = lappend(telling->told, row->key);
		else
			telling->left = lappend(telling->left, row);
	}
}

static void
tell_together(void *arg)
{
	Telling    *telling = arg;
	Row		   *row = linitial(telling->rows);

	owner_run(row->relid, row->search_path, LOCK_TIMEOUT_MS, 0, update_rows,
			  telling);
}

static void
tell_row(void *arg)
{
	Row		   *row = arg;
	bool		around = users_around(row->relid);

	owner_run(row->relid, row->search_path, LOCK_TIMEOUT_MS, 0, update_row,
			  row);
	/*
	 * Nothing to change, or skipped because it is locked?  Whoever had it
	 * may have rolled back by now, and then nothing else tells the row.
	 */
	if (SPI_processed == 0 && (around || users_around(row->relid)))
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("the row may be locked")));
}

/* The source's UPDATE; it changes only if something in a schema does. */
static void
find_update(void *arg)
{
	int64		source_id = *(int64 *) arg;
	uint64		generation = owner_schema_generation();
	Args		args = {0};
	char	   *sql;

	if (update.source_id == source_id && update.generation == generation)
		return;
	update.source_id = 0;
	if (update.plan)
		SPI_freeplan(update.plan);
	update.plan = NULL;
	if (update.sql)
		pfree(update.sql);
	update.sql = NULL;
	args_int8(&args, source_id);
	run_statement(&read_query, &args);
	sql = result_text(0, 1);
	if (sql)
		update.sql = MemoryContextStrdup(TopMemoryContext, sql);
	update.generation = generation;
	update.source_id = source_id;
}

static void
postpone(Row *row, const char *why)
{
	Args		args = {0};

	args_int8(&args, row->source_id);
	args_text(&args, row->key);
	args_text(&args, why);
	run_statement(&not_told, &args);
}

/* False: it is to be told later. */
static bool
tell_or_postpone(Row *row)
{
	ErrorData  *error;

	if (update.sql == NULL || !get_rel_name(row->relid))
		return true;
	error = guarded(tell_row, row);
	changelog_mute(0, NULL);
	if (error == NULL)
		return true;
	ereport(DEBUG1,
			(errmsg("row %s of source " INT64_FORMAT
					" could not be told: %s",
					row->key, row->source_id, error->message)));
	postpone(row, error->message);
	return false;
}

static void
mark_told(int64 source_id, List *keys)
{
	Args		args = {0};

	args_int8(&args, source_id);
	args_texts(&args, keys);
	run_statement(&rows_told, &args);
}

/*
 * What is the same for all of them is done once.  A row that is not changed
 * by that (somebody has it, or it is right already) is left to be told by itself,
 * and after an error all are.
 */
static void
tell_most(Telling *telling)
{
	Row		   *row = linitial(telling->rows);
	ErrorData  *error;

	telling->left = telling->rows;
	if (list_length(telling->rows) == 1 || update.sql == NULL ||
		!get_rel_name(row->relid))
		return;
	telling->left = NIL;
	error = guarded(tell_together, telling);
	changelog_mute(0, NULL);
	if (error == NULL)
		return;
	telling->told = NIL;
	telling->left = telling->rows;
}

/* Tell the rows; an error undoes all of it if somebody came along. */
static void
tell_rows(void *arg)
{
	List	   *rows = arg;
	ErrorData  *error = guarded(find_update,
								&((Row *) linitial(rows))->source_id);
	Telling		telling = {.rows = rows,.left = rows};
	ListCell   *cell;

	telling.stop = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											   BATCH_MS);
	if (error == NULL)
		tell_most(&telling);
	foreach(cell, telling.left)
	{
		Row		   *row = lfirst(cell);

		if (error != NULL)
			postpone(row, error->message);
		else if (tell_or_postpone(row))
			telling.told = lappend(telling.told, row->key);
		if (GetCurrentTimestamp() > telling.stop)
			break;
	}
	if (telling.told != NIL)
		mark_told(((Row *) linitial(rows))->source_id, telling.told);
	if (isolation_is_known() ? !isolation_shut() : batch_disturbs(rows))
	{
		somebody_at = GetCurrentTimestamp();
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("the table is in use")));
	}
}

static void
try_again_in(long ms)
{
	next_try = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/* There may be rows to tell. */
void
writeback_poke(void)
{
	next_try = 0;
}

/* Tell some rows.  True: of a source that may be gone now. */
bool
writeback_step(void)
{
	bool		detached = false;
	List	   *rows;
	ErrorData  *error = NULL;

	if (GetCurrentTimestamp() < next_try)
		return false;
	begin_work("rsvp_sync: telling rows");
	if (!source_try_share())
	{
		try_again_in(AGAIN_MS);
		end_work();
		return false;
	}
	commit_without_flush();
	rows = read_rows();
	if (rows == NIL)
		try_again_in(IDLE_MS);
	else if (batch_disturbs(rows) ||
			 (error = guarded(tell_rows, rows)) != NULL)
		try_again_in(AGAIN_MS);
	else
	{
		try_again_in(0);
		detached = ((Row *) linitial(rows))->detaching;
	}
	end_work();
	return detached;
}

long
writeback_timeout_ms(void)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_try);
}
