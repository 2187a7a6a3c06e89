/*-------------------------------------------------------------------------
 *
 * registry.h
 *		Which background worker serves which database.
 *
 * Everything here may be called whether or not the library was preloaded;
 * without shared memory the functions do nothing and say so where they can.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_REGISTRY_H
#define RSVP_SYNC_REGISTRY_H

#include "postgres.h"

/* A database has at most one worker of each kind */
typedef enum WorkerKind
{
	WORKER_SYNC,				/* drains the log, plans, sends */
	WORKER_RECONCILE,			/* looks for differences set-wise */
	WORKER_JETSTREAM			/* listens to the network */
} WorkerKind;

#define N_WORKER_KINDS	(WORKER_JETSTREAM + 1)

/* What the launcher finds when it looks for a worker */
typedef enum WorkerStatus
{
	STATUS_NONE,				/* no worker, and none on its way */
	STATUS_STARTING,			/* asked for, not there yet */
	STATUS_RUNNING,				/* attached */
	STATUS_UNNEEDED,			/* ended with exit code 0: nothing to do here */
	STATUS_RESTART,				/* ended because it was asked to */
	STATUS_FAILED				/* ended otherwise */
} WorkerStatus;

/* Shared memory: for the module's shmem_request and shmem_startup hooks */
extern void registry_shmem_request(void);
extern void registry_shmem_init(void);

/* Was the library preloaded, so that there are a registry and a launcher? */
extern bool registry_available(void);

/*
 * For any backend.
 *
 * registry_wake is called after each commit that left something in the log of
 * that database; it neither fails nor waits.  registry_poke_launcher says that
 * a database may need its worker now (InvalidOid: the list of databases has
 * changed).  registry_restart_worker makes the workers of a database end and
 * come again.  registry_worker_pid is for views: 0 means there is none.
 */
extern void registry_wake(Oid dboid);
extern void registry_poke_launcher(Oid dboid);
extern void registry_restart_worker(Oid dboid);
extern int	registry_worker_pid(Oid dboid, WorkerKind kind);

/*
 * Ask the launcher for a worker that is not there all the time.  A call may be
 * lost (there is little room for them, and the worker may not be able to come):
 * whoever calls does so again while there is need.
 */
extern void registry_call(Oid dboid, WorkerKind kind);

/*
 * Stop the workers of a database and keep them stopped until this backend
 * resumes them or ends.  Waits until they are gone, interruptibly and for at
 * most five seconds; the answer is how many are still there.  An error while
 * waiting leaves them suspended: resume in a PG_CATCH.  registry_resume
 * does nothing unless this backend has suspended that database.
 */
extern int	registry_suspend(Oid dboid);
extern void registry_resume(Oid dboid);

/*
 * For a worker.
 *
 * registry_worker_attach claims the place of this worker's kind in
 * MyDatabaseId; the kind is what the launcher wrote into bgw_extra, and
 * WORKER_SYNC where nobody did.  Call it as soon as the worker is connected
 * and before it looks for the extension: only an attached worker's exit code
 * reaches the launcher.  False: another live worker has the place, or the
 * database is suspended; end then, at once.  Where the library was not
 * preloaded the answer is always true, and says nothing about others.
 *
 * registry_has_worked says that this worker has done what it is there for: if
 * it ends now, that is no failure at its start, and the next one comes soon.
 *
 * registry_clear_told comes at the top of every turn of the worker's loop:
 * what was committed before a wake that it swallows is visible to a snapshot
 * taken after it.  The worker polls registry_restart_requested (its latch is
 * set when that changes) and ends with exit code 1 if it is true.
 */
extern bool registry_worker_attach(void);
extern void registry_has_worked(void);
extern void registry_clear_told(void);
extern bool registry_told(void);
extern bool registry_restart_requested(void);

/*
 * For the launcher.
 *
 * registry_next_poke takes one poke off the list; InvalidOid means "any
 * database".  registry_next_call does so with the calls for workers.
 * registry_reserve keeps a place for a worker that is about to be
 * started: false if there is one, if the database is suspended, or if no place
 * is free.  registry_unreserve gives up on a worker that did not come.
 * registry_status forgets an ended worker in the act of reporting it.
 */
extern void registry_launcher_attach(void);
extern bool registry_next_poke(Oid *dboid);
extern bool registry_next_call(Oid *dboid, WorkerKind *kind);
extern bool registry_reserve(Oid dboid, WorkerKind kind);
extern bool registry_unreserve(Oid dboid, WorkerKind kind);
extern WorkerStatus registry_status(Oid dboid, WorkerKind kind,
									int *age_seconds);

#endif							/* RSVP_SYNC_REGISTRY_H */
