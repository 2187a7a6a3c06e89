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

#endif							/* RSVP_SYNC_SOURCE_H */
