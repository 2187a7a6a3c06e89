/*-------------------------------------------------------------------------
 *
 * reconcile.h
 *		Comparing sources in the background.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_RECONCILE_H
#define RSVP_SYNC_RECONCILE_H

#include "postgres.h"

/*
 * For the worker that is always there, inside a transaction: call the one that
 * compares if there is something to compare.  Looks once a second at most.
 */
extern void reconcile_call(void);

extern PGDLLEXPORT void rsvp_sync_reconcile_main(Datum main_arg);

#endif							/* RSVP_SYNC_RECONCILE_H */
