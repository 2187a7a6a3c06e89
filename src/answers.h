/*-------------------------------------------------------------------------
 *
 * answers.h
 *		Writing down what the lanes have to say, and reading what they need.
 *
 * Both inside a transaction of the worker's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ANSWERS_H
#define RSVP_SYNC_ANSWERS_H

#include "postgres.h"

#include "lane.h"

extern void answers_record(void);
extern void answers_supply_credentials(void);

/* One step of a refresh, and what the tables say to it. */
typedef struct Renewal
{
	RenewalWork *work;
	MemoryContext keep;			/* for what outlives the transaction */
	bool		known;			/* the lease: it was not somebody else's */
	bool		yes;			/* the stored session is the one we know */
	char	   *lease;
} Renewal;

/*
 * One lease, or one outcome of a refresh, in a transaction of its own.  The
 * lane goes on once that has committed: new tokens must be in the store
 * before they are used.
 */
extern ErrorData *answers_renewal(Renewal *renewal);

#endif							/* RSVP_SYNC_ANSWERS_H */
