/*-------------------------------------------------------------------------
 *
 * changelog.h
 *		Door of the change log: what other rooms may ask of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_CHANGELOG_H
#define RSVP_SYNC_CHANGELOG_H

#include "postgres.h"

/*
 * Changes of this one row by this process are not logged: the worker's own
 * write-back must not put the key in again.  NULL: none.
 */
extern void changelog_mute(int64 source_id, const char *key);

/* Setting: this transaction's changes come from the network. */
extern bool rsvp_sync_skip;


#endif							/* RSVP_SYNC_CHANGELOG_H */
