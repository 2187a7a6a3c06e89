/*-------------------------------------------------------------------------
 *
 * waiting.h
 *		Keys that wait in the queue for a server or an account: the worker's
 *		statements.
 *
 * All inside a transaction of the worker's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WAITING_H
#define RSVP_SYNC_WAITING_H

#include "postgres.h"

extern void waiting_park(void);
extern bool waiting_release(void);
extern void waiting_read_pauses(void);
extern void waiting_take_over(void);

#endif							/* RSVP_SYNC_WAITING_H */
