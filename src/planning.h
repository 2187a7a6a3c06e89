/*-------------------------------------------------------------------------
 *
 * planning.h
 *		Which keys are looked at next, and what is to be done about them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_PLANNING_H
#define RSVP_SYNC_PLANNING_H

#include "postgres.h"

/* So long no keys are taken that nobody waits for. */
#define PLANNING_CROWDED_MS	250

/* Some keys of one source */
typedef struct Batch Batch;

extern Batch *planning_batch(int64 source_id, Datum keys);
extern bool planning_try(Batch *batch);
extern bool planning_lease(int64 incarnation, bool more);
extern void planning_again(void);
extern void planning_stand_down(void);
extern void planning_recall_paused(void);

/* After the commit */
extern void planning_start(void);
extern void planning_settle(void);

extern int	planning_window(void);
extern bool planning_caught_up(void);
extern bool planning_crowded(void);

#endif							/* RSVP_SYNC_PLANNING_H */
