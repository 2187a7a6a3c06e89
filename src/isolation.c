/*-------------------------------------------------------------------------
 *
 * isolation.c
 *		Who, at this moment, works under a transaction-wide snapshot?
 *
 * A REPEATABLE READ or SERIALIZABLE transaction fails when it updates a row
 * that somebody else has updated since its snapshot was taken; our write-back
 * must not be that somebody.  From outside one cannot see how a transaction
 * runs.  So each backend says it itself, in shared memory: from its BEGIN,
 * hence before it has a snapshot, or from its first statement where there was
 * no BEGIN, until it ends.  One that may only read can never fail, and is not
 * counted; pg_dump is like that.
 *
 * Whoever takes his snapshot while a write-back commits would not be seen by
 * the look around before it.  So look and commit are one under a lock, which
 * a backend shares for the moment in which it makes its entry: its BEGIN
 * waits for that commit, some microseconds.  (A statement without BEGIN, under
 * default_transaction_isolation, has its snapshot already.)
 *
 * Locking: an LWLock of our own, under which a commit takes its locks; who
 * takes it has none.  Every backend has an entry, one word, which it alone
 * writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/utility.h"

#include "compat.h"
#include "isolation.h"

#define LOCK_NAME	"rsvp_sync isolation"

/*
 * By process number: the database in which the process has such a
 * transaction, or InvalidOid.  NULL unless preloaded.
 */
static volatile Oid *entries = NULL;
static LWLock *lock = NULL;

/* Has this transaction's been made? */
static bool noted = false;
static bool callback_registered = false;

static ExecutorStart_hook_type next_start = NULL;
static ProcessUtility_hook_type next_utility = NULL;

static Size
table_size(void)
{
	return mul_size(sizeof(Oid), MaxBackends);
}

void
isolation_shmem_request(void)
{
	RequestAddinShmemSpace(table_size());
	RequestNamedLWLockTranche(LOCK_NAME, 1);
}

void
isolation_shmem_init(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	entries = ShmemInitStruct("rsvp_sync isolation", table_size(), &found);
	if (!found)
		memset((void *) entries, 0, table_size());
	LWLockRelease(AddinShmemInitLock);
	lock = &GetNamedLWLockTranche(LOCK_NAME)->lock;
}

bool
isolation_is_known(void)
{
	return entries != NULL;
}

bool
isolation_around(void)
{
	int			mine = compat_my_proc_number();

	for (int i = 0; i < MaxBackends; i++)
		if (i != mine && entries[i] == MyDatabaseId)
			return true;
	return false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (LWLockHeldByMe(lock))
		LWLockRelease(lock);
	if (noted)
		entries[compat_my_proc_number()] = InvalidOid;
	noted = false;
}

static void
register_callback(void)
{
	if (!callback_registered)
		RegisterXactCallback(transaction_ends, NULL);
	callback_registered = true;
}

/*
 * If nobody is around, keep it so until this transaction, which should end
 * now, has ended.
 */
bool
isolation_shut(void)
{
	register_callback();
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!isolation_around())
		return true;
	LWLockRelease(lock);
	return false;
}

static void
note_transaction(void)
{
	if (noted || !IsTransactionState() || !IsolationUsesXactSnapshot() ||
		XactReadOnly || entries == NULL || IsParallelWorker() ||
		compat_my_proc_number() >= MaxBackends)
		return;
	register_callback();
	noted = true;
	LWLockAcquire(lock, LW_SHARED);
	entries[compat_my_proc_number()] = MyDatabaseId;
	LWLockRelease(lock);
}

static void
isolation_start(QueryDesc *query, int eflags)
{
	note_transaction();
	if (next_start)
		next_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* BEGIN and SET TRANSACTION have said it afterwards, COPY has to before. */
static void
isolation_utility(PlannedStmt *pstmt, const char *query_string,
				  bool read_only_tree, ProcessUtilityContext context,
				  ParamListInfo params, QueryEnvironment *query_env,
				  DestReceiver *dest, QueryCompletion *qc)
{
	note_transaction();
	if (next_utility)
		next_utility(pstmt, query_string, read_only_tree, context, params,
					 query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context,
								params, query_env, dest, qc);
	note_transaction();
}

void
isolation_install_hooks(void)
{
	next_start = ExecutorStart_hook;
	ExecutorStart_hook = isolation_start;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = isolation_utility;
}
