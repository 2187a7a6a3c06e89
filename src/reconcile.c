/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		Comparing sources in the background, slice by slice.
 *
 * A worker of its own, which is not there all the time: the sync worker calls
 * for it when a source is due, and it ends when none is any more, or when so
 * many differences wait to be planned that more would be of no use.  Where a
 * pass is, is in _pass; so it may end at any time, also by a crash, and the
 * next one goes on from there.
 *
 * Each slice is a short transaction, and between two the process rests as
 * long as the last one took, holding nothing.  What is compared, and how, is
 * said in sql/53-reconcile.sql.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "process.h"
#include "reconcile.h"
#include "registry.h"
#include "source.h"
#include "worker.h"

/* Rows of a slice; how long it may take decides. */
#define MIN_SLICE			10
#define MAX_SLICE			20000
#define LONG_SLICE_MS		1000
#define SHORT_SLICE_MS		250

/* Waiting keys of a source at which its pass stops, and may go on again. */
#define HIGH_WATER			5000
#define LOW_WATER			2500

/* Until we ask again whether sources may be used. */
#define AWAY_MS				50
#define LOOK_MS				1000

/* After an error that passes by itself, and how often in a row. */
#define AGAIN_MS			1000
#define PATIENCE			10

static Statement next_source = {
	"SELECT rsvp_sync._reconcile_due($1)", 1, {INT4OID}
};
static Statement compare_slice = {
	"SELECT rsvp_sync._reconcile_slice($1, $2)", 2, {INT8OID, INT4OID}
};
static Statement slice_failed = {
	"SELECT rsvp_sync._reconcile_failed($1, $2, $3, $4)", 4,
	{INT8OID, TEXTOID, TEXTOID, BOOLOID}
};

static MemoryContext slice_context = NULL;
static int	slice_rows = 2000;
static int	failures = 0;		/* in a row, that may pass by themselves */

/* The source to be compared now; 0: none. */
static int64
due_source(int backlog)
{
	Args		args = {0};
	bool		isnull;

	args_int4(&args, backlog);
	run_statement(&next_source, &args);
	return result_int8(0, 1, &isnull);
}

void
reconcile_call(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next || !registry_available())
		return;
	next = TimestampTzPlusMilliseconds(now, LOOK_MS);
	if (registry_worker_pid(MyDatabaseId, WORKER_RECONCILE) == 0 &&
		due_source(LOW_WATER) != 0)
		registry_call(MyDatabaseId, WORKER_RECONCILE);
}

static void
compare(void *arg)
{
	Args		args = {0};

	args_int8(&args, *(int64 *) arg);
	args_int4(&args, slice_rows);
	run_statement(&compare_slice, &args);
}

/*
 * A lock of the application's, or a slice that took too long: tried again in a
 * moment, the latter with fewer rows, while there is hope.
 */
static bool
passes(ErrorData *error)
{
	if (++failures > PATIENCE)
		return false;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		if (slice_rows == MIN_SLICE)
			return false;
		slice_rows = Max(slice_rows / 8, MIN_SLICE);
		return true;
	}
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

static void
note_failure(int64 source_id, ErrorData *error)
{
	Args		args = {0};
	bool		passing = passes(error);

	args_int8(&args, source_id);
	args_text(&args, unpack_sql_state(error->sqlerrcode));
	args_text(&args, error->message);
	args_bool(&args, passing);
	run_statement(&slice_failed, &args);
	ereport(passing ? DEBUG1 : LOG,
			(errmsg("source " INT64_FORMAT " cannot be compared: %s",
					source_id, error->message)));
}

static void
fit_slice(long ms)
{
	if (ms > LONG_SLICE_MS)
		slice_rows = Max(slice_rows / 2, MIN_SLICE);
	else if (ms < SHORT_SLICE_MS)
		slice_rows = Min(slice_rows * 2, MAX_SLICE);
}

/* One slice.  Returns how long to rest, in milliseconds; -1: nothing is due. */
static long
step(void)
{
	TimestampTz began = GetCurrentTimestamp();
	int64		source_id;
	ErrorData  *error = NULL;
	long		ms;

	begin_work("rsvp_sync: comparing");
	process_leave_if_dropped();
	if (!source_try_share())
	{
		end_work();
		return AWAY_MS;
	}
	MemoryContextSwitchTo(slice_context);
	source_id = due_source(HIGH_WATER);
	if (source_id != 0)
		error = guarded(compare, &source_id);
	if (error != NULL)
		note_failure(source_id, error);
	end_work();
	MemoryContextReset(slice_context);
	if (source_id == 0)
		return -1;
	ms = TimestampDifferenceMilliseconds(began, GetCurrentTimestamp());
	if (error != NULL)
		return AGAIN_MS;
	failures = 0;
	fit_slice(ms);
	return Max(Min(ms, LONG_SLICE_MS), 1);
}

/* The one place where this process waits. */
static void
rest(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	/* Other settings of the database, or it is to be free of workers. */
	if (registry_restart_requested())
		proc_exit(1);
}

void
rsvp_sync_reconcile_main(Datum main_arg)
{
	long		ms;

	process_begin(DatumGetObjectId(main_arg));
	slice_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync slice",
										  ALLOCSET_DEFAULT_SIZES);
	while ((ms = step()) >= 0)
		rest(ms);
	proc_exit(0);
}
