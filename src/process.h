/*-------------------------------------------------------------------------
 *
 * process.h
 *		What every background worker of ours does about itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_PROCESS_H
#define RSVP_SYNC_PROCESS_H

#include "postgres.h"

/*
 * Become a worker of this database: signals, connection, settings, the place
 * in the registry.  Does not return where there is another one already.
 */
extern void process_begin(Oid dboid);

/*
 * Inside a transaction: end this process if the extension is no longer, or not
 * any more, the one that it began with.
 */
extern void process_leave_if_dropped(void);

#endif							/* RSVP_SYNC_PROCESS_H */
