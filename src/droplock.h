/*-------------------------------------------------------------------------
 *
 * droplock.h
 *		The locks of DROP EXTENSION, taken so that no writer is harmed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_DROPLOCK_H
#define RSVP_SYNC_DROPLOCK_H

#include "postgres.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/*
 * Lock every relation that dropping this extension will lock, until the end of
 * the transaction.
 */
extern void droplock_acquire(Oid extoid);

/* The same for any tables: lock all of them, waiting only with none held. */
extern void lock_together(List *relids, LOCKMODE mode);

#endif							/* RSVP_SYNC_DROPLOCK_H */
