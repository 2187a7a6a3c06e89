/*-------------------------------------------------------------------------
 *
 * source.h
 *		Door of the source room for the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_SOURCE_H
#define RSVP_SYNC_SOURCE_H

#include "postgres.h"

/*
 * May the worker use sources in this transaction?  False while somebody
 * attaches again or detaches: it holds nothing then, and asks again later.
 */
extern bool source_try_share(void);

/*
 * What two that apply RSVPs must not do at once: create a user, create a row,
 * take a place.  Until the transaction ends; lock_timeout holds.
 */
typedef enum SourceLock
{
	SOURCE_LOCK_USER = 1,
	SOURCE_LOCK_ROW,
	SOURCE_LOCK_ROOM
} SourceLock;

#define SOURCE_LOCK_BITS 12

extern void source_lock_apply(SourceLock kind, Oid relid, uint16 bucket);

#endif							/* RSVP_SYNC_SOURCE_H */
