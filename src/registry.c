/*-------------------------------------------------------------------------
 *
 * registry.c
 *		Which background worker serves which database, in shared memory.
 *
 * A worker has a *place*, (database, kind).  The launcher reserves it, the
 * worker attaches to it, and the worker's exit hook writes into it how it
 * ended; the launcher reads that and frees the place.  So nothing depends on
 * the launcher's memory: a new launcher finds the workers that the old one
 * started.  A *hold* says that a backend wants a database free of workers; it
 * ends with that backend at the latest.
 *
 * Note about locking: everything in the Registry is read and written under
 * its one LWLock, with one exception.  A backend that has committed looks at
 * its database's place without the lock: it sets "told" by an atomic
 * exchange and then checks that the place still is what it took it for.  If
 * it was not told before, or is another's by now, the backend takes the lock in
 * shared mode and rings the right bell.  At worst a worker is woken in vain.
 * Nothing is allocated, waited for or reported while the lock is held: part of
 * this runs after a commit, where an error would be a PANIC, and part at
 * process exit.
 *
 * Latches are pointed to directly: they live in PGPROCs, which are shared
 * memory and stay where they are, and setting a dead process's latch does
 * nothing.  Processes are signalled under the lock only, so that the process
 * cannot have gone through its exit hook, and its pid to another process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>

#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "registry.h"

/* Pokes kept one by one; with more than that the launcher looks everywhere */
#define MAX_POKES			32

/* Calls for workers kept until the launcher looks */
#define MAX_CALLS			32

/* How long a worker that was told to end is waited for, and in what steps */
#define SUSPEND_TIMEOUT_MS	5000
#define SUSPEND_STEP_MS		2

typedef struct WorkerPlace
{
	Oid			dboid;			/* InvalidOid: free */
	WorkerKind	kind;
	WorkerStatus status;		/* STATUS_NONE: free */
	int			pid;			/* of the attached worker */
	Latch	   *latch;			/* the same worker's, or NULL */
	bool		restart;		/* it is to end and come again */
	bool		proven;			/* it has done what it is there for */
	TimestampTz since;			/* reserved, attached or ended at */
	int			age;			/* seconds it lived, once it has ended */
	pg_atomic_uint32 told;		/* has been woken and not looked yet */
} WorkerPlace;

typedef struct Hold
{
	Oid			dboid;			/* InvalidOid: free */
	int			pid;			/* the backend that wants it so */
} Hold;

typedef struct Call
{
	Oid			dboid;
	WorkerKind	kind;
} Call;

typedef struct Registry
{
	LWLock	   *lock;
	ConditionVariable changed;	/* broadcast when a worker ends */
	int			launcher_pid;
	Latch	   *launcher_latch;
	int			npokes;
	bool		poke_all;		/* there was no room for a poke */
	Oid			pokes[MAX_POKES];
	int			ncalls;
	Call		calls[MAX_CALLS];
	int			nholds;
	int			nplaces;
	WorkerPlace places[FLEXIBLE_ARRAY_MEMBER];
} Registry;

/* Pointers to shared memory; NULL unless preloaded. */
static Registry *registry = NULL;
static Hold *holds = NULL;

/* The place that this process, a worker, has attached to. */
static WorkerPlace *my_place = NULL;

/* Where this backend last found the worker that it wakes; -1: nowhere. */
static int	wake_index = -1;

/* Has this backend ever suspended a database? */
static bool hold_exit_registered = false;


/*
 * Space: one place for each background worker that can exist, one hold for
 * each backend that can.
 */
static Size
registry_size(void)
{
	return add_size(offsetof(Registry, places),
					mul_size(max_worker_processes, sizeof(WorkerPlace)));
}

static Size
holds_size(void)
{
	return mul_size(MaxBackends, sizeof(Hold));
}

void
registry_shmem_request(void)
{
	RequestAddinShmemSpace(add_size(registry_size(), holds_size()));
	RequestNamedLWLockTranche("rsvp_sync", 1);
}

/*
 * Fill a new registry.  All bytes zero is: no launcher, no poke, places free.
 */
static void
fill_registry(void)
{
	memset(registry, 0, registry_size());
	memset(holds, 0, holds_size());
	registry->lock = &GetNamedLWLockTranche("rsvp_sync")->lock;
	registry->nholds = MaxBackends;
	registry->nplaces = max_worker_processes;
	ConditionVariableInit(&registry->changed);
	for (int i = 0; i < registry->nplaces; i++)
		pg_atomic_init_u32(&registry->places[i].told, 0);
}

void
registry_shmem_init(void)
{
	bool		found_registry;
	bool		found_holds;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	registry = ShmemInitStruct("rsvp_sync registry", registry_size(),
							   &found_registry);
	holds = ShmemInitStruct("rsvp_sync holds", holds_size(), &found_holds);
	if (!found_registry)
		fill_registry();
	LWLockRelease(AddinShmemInitLock);
}

bool
registry_available(void)
{
	return registry != NULL;
}

/* Lock held: find the place of a worker, in whatever state it is. */
static WorkerPlace *
find_place(Oid dboid, WorkerKind kind)
{
	for (int i = 0; i < registry->nplaces; i++)
	{
		WorkerPlace *place = &registry->places[i];

		if (place->dboid == dboid && place->kind == kind)
			return place;
	}
	return NULL;
}

/* Lock held: find the place of a worker, or a free one, or NULL. */
static WorkerPlace *
find_or_free_place(Oid dboid, WorkerKind kind)
{
	WorkerPlace *place = find_place(dboid, kind);

	for (int i = 0; place == NULL && i < registry->nplaces; i++)
	{
		if (registry->places[i].status == STATUS_NONE)
			place = &registry->places[i];
	}
	return place;
}

static void
free_place(WorkerPlace *place)
{
	place->dboid = InvalidOid;
	place->status = STATUS_NONE;
	place->pid = 0;
	place->latch = NULL;
	place->restart = false;
}

/* Is a worker there, or on its way? */
static bool
is_occupied(WorkerPlace *place)
{
	return place->status == STATUS_STARTING || place->status == STATUS_RUNNING;
}

/* Lock held: does some backend want this database free of workers? */
static bool
is_held(Oid dboid)
{
	for (int i = 0; i < registry->nholds; i++)
	{
		if (holds[i].dboid == dboid)
			return true;
	}
	return false;
}

static void
ring(Latch *latch)
{
	if (latch != NULL)
		SetLatch(latch);
}

static int
seconds_since(TimestampTz start)
{
	return (int) (TimestampDifferenceMilliseconds(start,
												  GetCurrentTimestamp())
				  / 1000);
}


/*-------------------------------------------------------------------------
 * For any backend
 *-------------------------------------------------------------------------
 */

/*
 * Set "told" in the place where we last found the worker.  True: it had been
 * told before and the place is still that worker's, so nothing is left to do.
 *
 * The exchange is a full barrier on both sides: the commit came before it, and
 * the place is looked at after it.
 */
static bool
already_told(Oid dboid)
{
	WorkerPlace *place;

	if (wake_index < 0)
		return false;
	place = &registry->places[wake_index];
	return pg_atomic_exchange_u32(&place->told, 1) == 1 &&
		place->dboid == dboid && place->kind == WORKER_SYNC;
}

void
registry_wake(Oid dboid)
{
	WorkerPlace *place;

	if (registry == NULL || already_told(dboid))
		return;

	LWLockAcquire(registry->lock, LW_SHARED);

	/*
	 * If the place has changed hands we have just silenced a stranger's bell,
	 * so ring it, whoever's it is.
	 */
	if (wake_index >= 0)
		ring(registry->places[wake_index].latch);

	place = find_place(dboid, WORKER_SYNC);
	if (place == NULL)
		wake_index = -1;
	else if (place - registry->places != wake_index)
	{
		wake_index = place - registry->places;
		if (pg_atomic_exchange_u32(&place->told, 1) == 0)
			ring(place->latch);
	}
	LWLockRelease(registry->lock);
}

/* Lock held: note a poke, once per database. */
static void
note_poke(Oid dboid)
{
	ring(registry->launcher_latch);
	if (!OidIsValid(dboid))
		return;
	for (int i = 0; i < registry->npokes; i++)
	{
		if (registry->pokes[i] == dboid)
			return;
	}
	if (registry->npokes < MAX_POKES)
		registry->pokes[registry->npokes++] = dboid;
	else
		registry->poke_all = true;
}

void
registry_poke_launcher(Oid dboid)
{
	if (registry == NULL)
		return;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	note_poke(dboid);
	LWLockRelease(registry->lock);
}

/* Noted once per worker, and not at all if there is no room. */
void
registry_call(Oid dboid, WorkerKind kind)
{
	int			i = 0;

	if (registry == NULL)
		return;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	while (i < registry->ncalls && (registry->calls[i].dboid != dboid ||
									registry->calls[i].kind != kind))
		i++;
	if (i == registry->ncalls && i < MAX_CALLS)
	{
		registry->calls[i].dboid = dboid;
		registry->calls[i].kind = kind;
		registry->ncalls++;
	}
	ring(registry->launcher_latch);
	LWLockRelease(registry->lock);
}

/*
 * A worker that is only on its way is marked as well: it may have read the
 * database's settings already.
 */
void
registry_restart_worker(Oid dboid)
{
	if (registry == NULL)
		return;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < registry->nplaces; i++)
	{
		WorkerPlace *place = &registry->places[i];

		if (place->dboid == dboid && is_occupied(place))
		{
			place->restart = true;
			ring(place->latch);
		}
	}
	LWLockRelease(registry->lock);
}

int
registry_worker_pid(Oid dboid, WorkerKind kind)
{
	WorkerPlace *place;
	int			pid = 0;

	if (registry == NULL)
		return 0;
	LWLockAcquire(registry->lock, LW_SHARED);
	place = find_place(dboid, kind);
	if (place != NULL && place->status == STATUS_RUNNING)
		pid = place->pid;
	LWLockRelease(registry->lock);
	return pid;
}


/*-------------------------------------------------------------------------
 * Holding a database free of workers
 *-------------------------------------------------------------------------
 */

/*
 * Give up this backend's holds on a database; on all with InvalidOid.  The
 * launcher is told: their workers may come back at once.
 */
static void
drop_holds(Oid dboid)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < registry->nholds; i++)
	{
		Hold	   *hold = &holds[i];

		if (hold->pid == MyProcPid &&
			(!OidIsValid(dboid) || hold->dboid == dboid))
		{
			note_poke(hold->dboid);
			hold->dboid = InvalidOid;
			hold->pid = 0;
		}
	}
	LWLockRelease(registry->lock);
}

static void
drop_holds_at_exit(int code, Datum arg)
{
	drop_holds(InvalidOid);
}

/*
 * Put up a hold: from now on no worker is started there, and one that is on
 * its way turns back.  There is a hold for each backend that can exist, so
 * one is free unless somebody nests them without end.
 */
static void
put_hold(Oid dboid)
{
	if (!hold_exit_registered)
	{
		on_shmem_exit(drop_holds_at_exit, (Datum) 0);
		hold_exit_registered = true;
	}

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < registry->nholds; i++)
	{
		if (!OidIsValid(holds[i].dboid))
		{
			holds[i].dboid = dboid;
			holds[i].pid = MyProcPid;
			break;
		}
	}
	LWLockRelease(registry->lock);
}

/*
 * Tell the workers of a database to end, each once, and note their pids, by
 * kind.  Returns how many places are still occupied.
 */
static int
terminate_workers(Oid dboid, int *pids)
{
	int			occupied = 0;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < registry->nplaces; i++)
	{
		WorkerPlace *place = &registry->places[i];

		if (place->dboid != dboid || !is_occupied(place))
			continue;
		occupied++;
		if (place->status == STATUS_RUNNING && pids[place->kind] != place->pid)
		{
			pids[place->kind] = place->pid;
			kill(place->pid, SIGTERM);
		}
	}
	LWLockRelease(registry->lock);
	return occupied;
}

/*
 * Count those that still are among the backends.  A worker leaves its place a
 * moment before that, and a DROP DATABASE that met it there would sleep for
 * 100 ms before it looked again.
 */
static int
count_backends(const int *pids)
{
	int			n = 0;

	for (int i = 0; i < N_WORKER_KINDS; i++)
	{
		if (pids[i] != 0 && BackendPidGetProc(pids[i]) != NULL)
			n++;
	}
	return n;
}

int
registry_suspend(Oid dboid)
{
	int			pids[N_WORKER_KINDS] = {0};
	TimestampTz deadline;
	int			left;

	if (registry == NULL)
		return 0;

	put_hold(dboid);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   SUSPEND_TIMEOUT_MS);
	ConditionVariablePrepareToSleep(&registry->changed);
	for (;;)
	{
		left = terminate_workers(dboid, pids);
		if (left == 0)
			left = count_backends(pids);
		if (left == 0 || GetCurrentTimestamp() >= deadline)
			break;
		(void) ConditionVariableTimedSleep(&registry->changed,
										   SUSPEND_STEP_MS,
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return left;
}

void
registry_resume(Oid dboid)
{
	if (registry != NULL && OidIsValid(dboid))
		drop_holds(dboid);
}


/*-------------------------------------------------------------------------
 * For a worker
 *-------------------------------------------------------------------------
 */

/*
 * Leave the place and write down how we ended.  Where the database is held we
 * were sent away, which is not a failure.
 */
static void
leave_place(int code, Datum arg)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (my_place->pid == MyProcPid && my_place->status == STATUS_RUNNING)
	{
		if (my_place->restart || is_held(my_place->dboid))
			my_place->status = STATUS_RESTART;
		else
			my_place->status = code == 0 ? STATUS_UNNEEDED : STATUS_FAILED;
		my_place->age = my_place->proven ? INT_MAX :
			seconds_since(my_place->since);
		my_place->pid = 0;
		my_place->latch = NULL;
		ring(registry->launcher_latch);
	}
	LWLockRelease(registry->lock);
	ConditionVariableBroadcast(&registry->changed);
}

/*
 * Lock held: take a place.  A wish for a restart is kept if the worker was
 * expected; see registry_restart_worker.
 */
static void
take_place(WorkerPlace *place, WorkerKind kind)
{
	if (place->status != STATUS_STARTING)
		place->restart = false;
	place->dboid = MyDatabaseId;
	place->kind = kind;
	place->status = STATUS_RUNNING;
	place->pid = MyProcPid;
	place->latch = MyLatch;
	place->proven = false;
	place->since = GetCurrentTimestamp();
	pg_atomic_write_u32(&place->told, 0);
	my_place = place;
}

static WorkerKind
my_kind(void)
{
	WorkerKind	kind = WORKER_SYNC;

	if (MyBgworkerEntry != NULL)
		memcpy(&kind, MyBgworkerEntry->bgw_extra, sizeof(kind));
	return kind;
}

/*
 * A worker whose database is held takes its place all the same, so that the
 * one who holds it can see when it has gone.
 */
bool
registry_worker_attach(void)
{
	WorkerPlace *place;
	bool		welcome = false;

	if (registry == NULL)
		return true;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	place = find_or_free_place(MyDatabaseId, my_kind());
	if (place != NULL && place->status != STATUS_RUNNING)
	{
		take_place(place, my_kind());
		welcome = !is_held(MyDatabaseId);
		ring(registry->launcher_latch);
	}
	LWLockRelease(registry->lock);

	if (my_place != NULL)
		on_shmem_exit(leave_place, (Datum) 0);
	return welcome;
}

/* Read by nobody else before we leave the place. */
void
registry_has_worked(void)
{
	if (my_place != NULL)
		my_place->proven = true;
}

/*
 * The exchange is a full barrier.  A backend that finds "told" set after it
 * rings; one that found it set before had committed, so a snapshot taken from
 * here on sees its rows.
 */
void
registry_clear_told(void)
{
	if (my_place != NULL)
		pg_atomic_exchange_u32(&my_place->told, 0);
}

/* Has somebody called since? */
bool
registry_told(void)
{
	return my_place != NULL && pg_atomic_read_u32(&my_place->told) != 0;
}

bool
registry_restart_requested(void)
{
	return my_place != NULL && *((volatile bool *) &my_place->restart);
}


/*-------------------------------------------------------------------------
 * For the launcher
 *-------------------------------------------------------------------------
 */

static void
launcher_leave(int code, Datum arg)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (registry->launcher_pid == MyProcPid)
	{
		registry->launcher_pid = 0;
		registry->launcher_latch = NULL;
	}
	LWLockRelease(registry->lock);
}

void
registry_launcher_attach(void)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	registry->launcher_pid = MyProcPid;
	registry->launcher_latch = MyLatch;
	LWLockRelease(registry->lock);
	on_shmem_exit(launcher_leave, (Datum) 0);
}

bool
registry_next_poke(Oid *dboid)
{
	bool		found = true;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (registry->poke_all)
	{
		registry->poke_all = false;
		registry->npokes = 0;
		*dboid = InvalidOid;
	}
	else if (registry->npokes > 0)
		*dboid = registry->pokes[--registry->npokes];
	else
		found = false;
	LWLockRelease(registry->lock);
	return found;
}

bool
registry_next_call(Oid *dboid, WorkerKind *kind)
{
	bool		found;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	found = registry->ncalls > 0;
	if (found)
	{
		Call	   *call = &registry->calls[--registry->ncalls];

		*dboid = call->dboid;
		*kind = call->kind;
	}
	LWLockRelease(registry->lock);
	return found;
}

bool
registry_reserve(Oid dboid, WorkerKind kind)
{
	WorkerPlace *place;
	bool		reserved = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	place = find_or_free_place(dboid, kind);
	if (place != NULL && !is_occupied(place) && !is_held(dboid))
	{
		free_place(place);
		place->dboid = dboid;
		place->kind = kind;
		place->status = STATUS_STARTING;
		place->since = GetCurrentTimestamp();
		reserved = true;
	}
	LWLockRelease(registry->lock);
	return reserved;
}

/*
 * False: the worker has come after all.
 */
bool
registry_unreserve(Oid dboid, WorkerKind kind)
{
	WorkerPlace *place;
	bool		freed = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	place = find_place(dboid, kind);
	if (place != NULL && place->status == STATUS_STARTING)
	{
		free_place(place);
		freed = true;
	}
	LWLockRelease(registry->lock);
	if (freed)
		ConditionVariableBroadcast(&registry->changed);
	return freed;
}

/*
 * The age is how long the worker has been starting or running or, if it has
 * ended, how long it ran.
 */
WorkerStatus
registry_status(Oid dboid, WorkerKind kind, int *age_seconds)
{
	WorkerPlace *place;
	WorkerStatus status = STATUS_NONE;

	*age_seconds = 0;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	place = find_place(dboid, kind);
	if (place != NULL)
	{
		status = place->status;
		if (is_occupied(place))
			*age_seconds = seconds_since(place->since);
		else
		{
			*age_seconds = place->age;
			free_place(place);
		}
	}
	LWLockRelease(registry->lock);
	return status;
}
