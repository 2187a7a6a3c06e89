/*-------------------------------------------------------------------------
 *
 * answers.h
 *		Writing down what the lanes have to say, and reading what they need.
 *
 * Both inside a transaction of the worker's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ANSWERS_H
#define RSVP_SYNC_ANSWERS_H

#include "postgres.h"

extern void answers_record(void);
extern void answers_supply_credentials(void);

#endif							/* RSVP_SYNC_ANSWERS_H */
