/*-------------------------------------------------------------------------
 *
 * start.c
 *		rsvp_sync.start_worker(): a worker without, or before, the launcher.
 *
 * Where the library is preloaded the launcher starts workers by itself; this
 * only pokes it.  Where it is not, this session asks the postmaster for one.
 * Without shared memory nobody can wake it, so it polls, and nothing but a
 * session lock of its own keeps a second one out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"

#include "registry.h"
#include "start.h"

/*
 * Names the lock: that of an object in a catalog which does not exist, so no
 * SQL command can take it, as it could an advisory lock.
 */
#define LOCK_CLASS	0x72737670	/* 'rsvp' */

PG_FUNCTION_INFO_V1(rsvp_sync_start_worker);

/* False if another worker of this database is there already. */
bool
start_claim_database(void)
{
	LOCKTAG		tag;

	if (registry_available())
		return true;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, LOCK_CLASS, 0, 0);
	return LockAcquire(&tag, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/* Does a worker serve this database? */
static bool
is_claimed(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, LOCK_CLASS, 0, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) ==
		LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ExclusiveLock, false);
	return false;
}

Datum
rsvp_sync_start_worker(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	if (registry_available())
	{
		registry_poke_launcher(MyDatabaseId);
		PG_RETURN_VOID();
	}
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "rsvp_sync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "rsvp_sync_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "rsvp_sync worker for database %u",
			 MyDatabaseId);
	strlcpy(worker.bgw_type, "rsvp_sync worker", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free"),
				 errhint("Increase max_worker_processes.")));
	/* One that found another at work has ended already. */
	if (WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED &&
		!is_claimed())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the worker could not be started"),
				 errhint("The server log says why.")));
	PG_RETURN_VOID();
}
