/*-------------------------------------------------------------------------
 *
 * tid.c
 *		Timestamp identifiers: record keys that only ever grow.
 *
 * A TID is 53 bits of microseconds and 10 bits of clock id.  All backends of
 * the server share one clock id and one counter, the last microsecond given
 * out.  A caller takes the present, or the microsecond after the last one if
 * that is later, with one compare-and-exchange; so no two callers get the
 * same, each gets more than everybody before it, and a clock set back makes
 * the counter creep on from where it was.  There is no lock to hold and
 * nothing to clean up when a backend dies.
 *
 * The clock id is random for each start of the server: what the counter
 * forgets at a restart, and what a copy of the server counts, does not
 * collide with it.
 *
 * The counter needs a few bytes of shared memory.  When the library is
 * preloaded they are reserved; when it is not, the first backend that wants
 * a TID takes them from the slack PostgreSQL keeps for libraries loaded
 * late.  Either way the counter is the same for all, costs no write-ahead
 * log, and works in read-only transactions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "tid.h"

#define TID_MICROS_MASK	((UINT64CONST(1) << 53) - 1)

typedef struct TidClock
{
	pg_atomic_uint64 last;		/* microseconds since 1970 last given out */
	uint32		clock_id;		/* TID_CLOCK_BITS, fixed at initialisation */
} TidClock;

/* Pointer to shared-memory state; NULL until this backend has attached. */
static TidClock *tid_clock = NULL;

/* Reserve the memory; for the shmem_request_hook. */
void
tid_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(TidClock)));
}

/*
 * Attach to the counter, and set it up if nobody has; for the
 * shmem_startup_hook, which may hold the lock already.
 */
void
tid_shmem_init(void)
{
	bool		locked = LWLockHeldByMe(AddinShmemInitLock);
	uint32		clock_id;
	TidClock   *clock;
	bool		found;

	if (!pg_strong_random(&clock_id, sizeof(clock_id)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random clock id"),
				 errhint("Look at the system's source of randomness.")));
	if (!locked)
		LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	clock = ShmemInitStruct("rsvp_sync tid", sizeof(TidClock), &found);
	if (!found)
	{
		pg_atomic_init_u64(&clock->last, 0);
		clock->clock_id = clock_id & ((1 << TID_CLOCK_BITS) - 1);
	}
	if (!locked)
		LWLockRelease(AddinShmemInitLock);
	tid_clock = clock;
}

/* Microseconds since 1970 by the system's clock. */
static uint64
unix_micros(void)
{
	return (uint64) (GetCurrentTimestamp() +
					 (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
}

/* Take a microsecond that nobody has had, later than all that were taken. */
static uint64
next_micros(void)
{
	uint64		now = unix_micros();
	uint64		last = pg_atomic_read_u64(&tid_clock->last);
	uint64		next;

	/* A failed exchange leaves the other backend's value in "last". */
	do
		next = Max(now, last + 1);
	while (!pg_atomic_compare_exchange_u64(&tid_clock->last, &last, next));
	return next;
}

/* Write the next TID, with its terminator, to out. */
void
tid_next(char out[TID_SIZE])
{
	uint64		value;

	if (tid_clock == NULL)
		tid_shmem_init();
	value = (next_micros() & TID_MICROS_MASK) << TID_CLOCK_BITS
		| tid_clock->clock_id;
	out[TID_LEN] = '\0';
	for (int i = TID_LEN - 1; i >= 0; i--)
	{
		out[i] = TID_ALPHABET[value & 31];
		value >>= 5;
	}
}

PG_FUNCTION_INFO_V1(rsvp_sync_tid_now);
Datum
rsvp_sync_tid_now(PG_FUNCTION_ARGS)
{
	char		tid[TID_SIZE];

	tid_next(tid);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(tid, TID_LEN));
}
