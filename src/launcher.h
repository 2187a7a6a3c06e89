/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The background worker that starts the others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LAUNCHER_H
#define RSVP_SYNC_LAUNCHER_H

#include "postgres.h"

/* Register the launcher; for _PG_init, while libraries are preloaded */
extern void launcher_register(void);

/* Entry point */
extern PGDLLEXPORT void rsvp_sync_launcher_main(Datum main_arg);

#endif							/* RSVP_SYNC_LAUNCHER_H */
