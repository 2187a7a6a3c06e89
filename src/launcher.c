/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Starts a worker in each database that has the extension, and again
 *		when it ends.
 *
 * The launcher is connected to no database and so cannot look into one to see
 * whether the extension is there.  It tries each database once: a worker that
 * finds no extension ends with exit code 0, and that database is left alone
 * until somebody pokes us (CREATE EXTENSION does).  A few are tried at a
 * time, so that a cluster of many databases does not use up the slots.
 *
 * A worker that is not needed all the time is started when somebody calls for
 * it through the registry, and not again before the next call; of each such
 * kind only a few run at a time.  One that is needed in some databases only
 * is called for likewise, but then comes again until it finds nothing to do.
 *
 * Workers are dynamic and are not restarted by the postmaster, which could not
 * know that a database was dropped, renamed or suspended in between; they are
 * restarted from here, at once if they were asked to end, else after a pause
 * that grows while they keep dying young.  What is kept in this process may be
 * lost at any time: which workers there are is in the registry, what
 * databases there are in pg_database, and everything else is found out by
 * trying again.
 *
 * Locking: none of our own.  Reads pg_database in short transactions, touches
 * the registry through its functions, waits on its latch and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <time.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "launcher.h"
#include "registry.h"

/* Workers that may be starting at one time */
#define MAX_STARTING		2

/* The pause before a worker that failed is started again */
#define MIN_PAUSE_S			1
#define MAX_PAUSE_S			60

/* A worker that lived for so long has not failed at its start */
#define GOOD_AGE_S			60

/* A worker that another launcher asked for is given up after this time */
#define MAX_START_S			10

/*
 * When there is no room for a worker we look again after a moment, since one
 * that found nothing to do may just be leaving; and if there is none for the
 * nth time, after a longer one.
 */
#define NO_ROOM_MOMENT_MS	100
#define NO_ROOM_PATIENCE	5
#define NO_ROOM_PAUSE_MS	5000

/* Look at everything at least so often, in case nobody told us */
#define NAP_S				60

/* How to start a worker of each kind; a kind without a function is not built */
typedef struct WorkerRecipe
{
	const char *function;
	const char *title;
	int			at_most;		/* by call, so many at a time; 0: always there */
	bool		stays;			/* once called, until it finds nothing to do */
} WorkerRecipe;

static const WorkerRecipe recipes[N_WORKER_KINDS] = {
	[WORKER_SYNC] = {"rsvp_sync_worker_main", "rsvp_sync worker", 0, true},
	[WORKER_RECONCILE] = {"rsvp_sync_reconcile_main", "rsvp_sync reconcile", 2,
	false},
	/* As many as there are databases that want one. */
	[WORKER_JETSTREAM] = {"rsvp_sync_stream_main", "rsvp_sync stream", INT_MAX,
	true},
};

typedef struct ChargeKey
{
	Oid			dboid;
	WorkerKind	kind;
} ChargeKey;

/* A worker that we have to look after, whether it is there or not. */
typedef struct Charge
{
	ChargeKey	key;			/* hash key, must be first */
	NameData	datname;		/* for messages */
	WorkerStatus status;		/* none, starting or running */
	bool		wanted;			/* its database admits a worker */
	bool		unneeded;		/* it found nothing to do there */
	bool		poked;			/* since it was last started */
	bool		called;			/* if it comes by call only: since then */
	int			pause;			/* seconds, after the next failure */
	int64		due;			/* do not start it before */
	BackgroundWorkerHandle *handle; /* if we have asked for it */
} Charge;

/* All charges, by ChargeKey. */
static HTAB *charges = NULL;

/* No worker is started before this time, for want of room. */
static int64 no_room_until = 0;

/* How often in a row was there none, and has the administrator been told? */
static int	no_room_count = 0;
static bool no_room_reported = false;


void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	/* On a standby this means: at promotion */
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "rsvp_sync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "rsvp_sync_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "rsvp_sync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "rsvp_sync launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
create_charges(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(ChargeKey);
	ctl.entrysize = sizeof(Charge);
	ctl.hcxt = TopMemoryContext;
	charges = hash_create("rsvp_sync charges", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
drop_handle(Charge *charge)
{
	if (charge->handle != NULL)
		pfree(charge->handle);
	charge->handle = NULL;
}

/* Milliseconds of a clock that is never set. */
static int64
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The time that it is after so many milliseconds. */
static int64
after_ms(int ms)
{
	return now_ms() + ms;
}

/* Start it as soon as possible. */
static void
make_due(Charge *charge)
{
	charge->unneeded = false;
	charge->pause = MIN_PAUSE_S;
	charge->due = 0;
}


/*-------------------------------------------------------------------------
 * What there is to look after
 *-------------------------------------------------------------------------
 */

/*
 * Note a database, whether or not it admits workers.  Templates do not: they
 * are there to be copied, undisturbed.
 */
static void
note_database(Form_pg_database database)
{
	bool		wanted = database->datallowconn && !database->datistemplate &&
		database->datconnlimit != DATCONNLIMIT_INVALID_DB;

	for (WorkerKind kind = 0; kind < N_WORKER_KINDS; kind++)
	{
		ChargeKey	key = {database->oid, kind};
		Charge	   *charge;
		bool		found;

		if (recipes[kind].function == NULL)
			continue;
		charge = hash_search(charges, &key, HASH_ENTER, &found);
		if (!found)
		{
			charge->status = STATUS_NONE;
			charge->handle = NULL;
			charge->poked = false;
			charge->called = false;
			make_due(charge);
		}
		charge->datname = database->datname;
		charge->wanted = wanted;
	}
}

/*
 * Read the list of databases anew.  Charges whose database is not on it are
 * left unwanted.
 */
static void
read_databases(void)
{
	HASH_SEQ_STATUS seq;
	Charge	   *charge;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	hash_seq_init(&seq, charges);
	while ((charge = hash_seq_search(&seq)) != NULL)
		charge->wanted = false;

	StartTransactionCommand();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		note_database((Form_pg_database) GETSTRUCT(tuple));
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/*
 * A poke counts for a worker that is running, too: it may be about to end
 * without having seen what the poke is about.
 */
static void
take_pokes(void)
{
	Oid			dboid;

	while (registry_next_poke(&dboid))
	{
		HASH_SEQ_STATUS seq;
		Charge	   *charge;

		hash_seq_init(&seq, charges);
		while ((charge = hash_seq_search(&seq)) != NULL)
		{
			if (OidIsValid(dboid) && charge->key.dboid != dboid)
				continue;
			make_due(charge);
			charge->poked = true;
		}
	}
}

/* A call for a worker that has failed lately waits until its pause is over. */
static void
take_calls(void)
{
	ChargeKey	key;

	while (registry_next_call(&key.dboid, &key.kind))
	{
		Charge	   *charge = hash_search(charges, &key, HASH_FIND, NULL);

		if (charge != NULL)
			charge->called = true;
	}
}


/*-------------------------------------------------------------------------
 * What has become of them
 *-------------------------------------------------------------------------
 */

/*
 * Has a worker that is expected died on its way?  If a former launcher asked
 * for it, all we can do is lose patience.
 */
static bool
is_lost(Charge *charge, int age)
{
	pid_t		pid;

	if (charge->handle == NULL)
		return age >= MAX_START_S;
	return GetBackgroundWorkerPid(charge->handle, &pid) == BGWH_STOPPED;
}

/*
 * Start it again after a pause, which is doubled if it died young.
 */
static void
pause_charge(Charge *charge, int age)
{
	if (age >= GOOD_AGE_S)
		charge->pause = MIN_PAUSE_S;
	charge->due = after_ms(charge->pause * 1000);
	charge->pause = Min(charge->pause * 2, MAX_PAUSE_S);
}

/* Draw the conclusion from how a worker ended. */
static void
note_end(Charge *charge, WorkerStatus status, int age)
{
	drop_handle(charge);
	if (recipes[charge->key.kind].stays && status != STATUS_UNNEEDED)
		charge->called = true;
	if (charge->poked || status == STATUS_RESTART)
		make_due(charge);
	else if (status == STATUS_UNNEEDED && recipes[charge->key.kind].at_most > 0)
		make_due(charge);		/* it has done what it was called for */
	else if (status == STATUS_UNNEEDED)
		charge->unneeded = true;
	else
		pause_charge(charge, age);
}

/*
 * See how a charge is doing.  Returns its status after that: none, starting
 * or running.
 */
static WorkerStatus
look_after(Charge *charge)
{
	int			age;
	WorkerStatus status = registry_status(charge->key.dboid, charge->key.kind,
										  &age);

	switch (status)
	{
		case STATUS_NONE:
			return STATUS_NONE;
		case STATUS_STARTING:
			if (!is_lost(charge, age) ||
				!registry_unreserve(charge->key.dboid, charge->key.kind))
				return STATUS_STARTING;
			status = STATUS_FAILED;
			break;
		case STATUS_RUNNING:
			/* It has come, and looks for itself. */
			charge->called = false;
			/* Its database admits no worker any more: let it go. */
			if (!charge->wanted)
				registry_restart_worker(charge->key.dboid);
			return STATUS_RUNNING;
		case STATUS_UNNEEDED:
		case STATUS_RESTART:
		case STATUS_FAILED:
			break;
	}
	note_end(charge, status, age);
	return STATUS_NONE;
}

/*
 * See to all charges, and forget those that are neither wanted nor there.
 * Returns how many are starting.
 */
static int
look_after_all(void)
{
	HASH_SEQ_STATUS seq;
	Charge	   *charge;
	int			starting = 0;

	hash_seq_init(&seq, charges);
	while ((charge = hash_seq_search(&seq)) != NULL)
	{
		charge->status = look_after(charge);
		if (charge->status == STATUS_STARTING)
			starting++;
		else if (charge->status == STATUS_NONE && !charge->wanted)
		{
			drop_handle(charge);
			hash_search(charges, &charge->key, HASH_REMOVE, NULL);
		}
	}
	return starting;
}


/*-------------------------------------------------------------------------
 * Starting them
 *-------------------------------------------------------------------------
 */

static void
describe_worker(BackgroundWorker *worker, Charge *charge)
{
	const WorkerRecipe *recipe = &recipes[charge->key.kind];

	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_main_arg = ObjectIdGetDatum(charge->key.dboid);
	worker->bgw_notify_pid = MyProcPid;
	strlcpy(worker->bgw_library_name, "rsvp_sync", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, recipe->function, BGW_MAXLEN);
	snprintf(worker->bgw_name, BGW_MAXLEN, "%s for database %u",
			 recipe->title, charge->key.dboid);
	strlcpy(worker->bgw_type, recipe->title, BGW_MAXLEN);
	memcpy(worker->bgw_extra, &charge->key.kind, sizeof(WorkerKind));
}

/*
 * There was no slot.  That does not count while other workers are on their
 * way.  Then it may last, so say it once and not at every attempt.
 */
static void
note_no_room(Charge *charge, bool alone)
{
	if (alone)
		no_room_count++;
	if (no_room_count < NO_ROOM_PATIENCE)
	{
		no_room_until = after_ms(NO_ROOM_MOMENT_MS);
		return;
	}

	no_room_until = after_ms(NO_ROOM_PAUSE_MS);
	if (no_room_reported)
		return;
	no_room_reported = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free for the %s of database \"%s\"",
					recipes[charge->key.kind].title,
					NameStr(charge->datname)),
			 errdetail("It is tried again until there is one."),
			 errhint("Increase the setting \"max_worker_processes\".")));
}

/*
 * Ask the postmaster for a worker.  It is not waited for: its latch or the
 * postmaster wakes us when there is news.
 */
static bool
start_worker(Charge *charge, bool alone)
{
	BackgroundWorker worker;
	MemoryContext old;
	bool		registered;

	if (!registry_reserve(charge->key.dboid, charge->key.kind))
	{
		/* Suspended; we are poked when that ends */
		charge->due = after_ms(NO_ROOM_PAUSE_MS);
		return false;
	}

	describe_worker(&worker, charge);
	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &charge->handle);
	MemoryContextSwitchTo(old);
	if (!registered)
	{
		charge->handle = NULL;
		(void) registry_unreserve(charge->key.dboid, charge->key.kind);
		note_no_room(charge, alone);
		return false;
	}
	charge->poked = false;
	charge->called = false;
	no_room_count = 0;
	return true;
}

/* How many of a kind are there, or on their way? */
static int
count_workers(WorkerKind kind)
{
	HASH_SEQ_STATUS seq;
	Charge	   *charge;
	int			n = 0;

	hash_seq_init(&seq, charges);
	while ((charge = hash_seq_search(&seq)) != NULL)
		if (charge->key.kind == kind && charge->status != STATUS_NONE)
			n++;
	return n;
}

/* Is it neither there nor on its way, though it ought to be? */
static bool
is_missing(Charge *charge)
{
	int			at_most = recipes[charge->key.kind].at_most;

	return charge->wanted && !charge->unneeded &&
		charge->status == STATUS_NONE &&
		(at_most == 0 ||
		 (charge->called && count_workers(charge->key.kind) < at_most));
}

/*
 * Start what is due, as far as there is room.  Returns how many are starting
 * now.
 */
static int
start_workers(int starting)
{
	int64		now = now_ms();
	HASH_SEQ_STATUS seq;
	Charge	   *charge;

	hash_seq_init(&seq, charges);
	while ((charge = hash_seq_search(&seq)) != NULL)
	{
		if (starting >= MAX_STARTING || now < no_room_until)
		{
			hash_seq_term(&seq);
			return starting;
		}
		if (is_missing(charge) && charge->due <= now &&
			start_worker(charge, starting == 0))
		{
			charge->status = STATUS_STARTING;
			starting++;
		}
	}

	/* If all have come in, the next one who cannot is news again */
	if (now >= no_room_until)
		no_room_reported = false;
	return starting;
}

/*
 * How long may we sleep?  Most of what happens sets our latch; only the pauses
 * that we have made ourselves, and workers of a former launcher that may never
 * come, do not.
 */
static long
sleep_ms(int starting)
{
	int64		now = now_ms();
	int64		until = now + NAP_S * 1000;
	HASH_SEQ_STATUS seq;
	Charge	   *charge;

	hash_seq_init(&seq, charges);
	while ((charge = hash_seq_search(&seq)) != NULL)
	{
		if (charge->status == STATUS_STARTING && charge->handle == NULL)
			until = Min(until, now + 1000);
		else if (is_missing(charge) && starting < MAX_STARTING)
			until = Min(until, Max(charge->due, no_room_until));
	}
	return (long) Max(until - now, 0);
}

static void
launcher_init(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	create_charges();
	registry_launcher_attach();
}

/*
 * The latch is reset before anything is looked at, so that what happens while
 * we look makes us look again.
 */
void
rsvp_sync_launcher_main(Datum main_arg)
{
	launcher_init();
	for (;;)
	{
		int			starting;

		CHECK_FOR_INTERRUPTS();
		ResetLatch(MyLatch);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		take_pokes();
		read_databases();
		take_calls();
		starting = look_after_all();
		starting = start_workers(starting);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 sleep_ms(starting), PG_WAIT_EXTENSION);
	}
}
