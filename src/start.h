/*-------------------------------------------------------------------------
 *
 * start.h
 *		A worker without the launcher.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_START_H
#define RSVP_SYNC_START_H

#include "postgres.h"

extern bool start_claim_database(void);

#endif							/* RSVP_SYNC_START_H */
