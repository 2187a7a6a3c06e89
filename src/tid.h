/*-------------------------------------------------------------------------
 *
 * tid.h
 *		Timestamp identifiers: record keys that only ever grow.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_TID_H
#define RSVP_SYNC_TID_H

#include "syntax.h"

#define TID_SIZE	(TID_LEN + 1)	/* with the terminator */
/* The rest of it is microseconds since 1970. */
#define TID_CLOCK_BITS	10

extern void tid_shmem_request(void);
extern void tid_shmem_init(void);
extern void tid_next(char out[TID_SIZE]);

#endif							/* RSVP_SYNC_TID_H */
