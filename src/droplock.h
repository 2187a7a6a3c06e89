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

/*
 * Lock every relation that dropping this extension will lock, until the end of
 * the transaction.
 */
extern void droplock_acquire(Oid extoid);

#endif							/* RSVP_SYNC_DROPLOCK_H */
