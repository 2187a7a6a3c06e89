/*-------------------------------------------------------------------------
 *
 * writeback.h
 *		Telling attendance rows what became of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WRITEBACK_H
#define RSVP_SYNC_WRITEBACK_H

#include "postgres.h"

#include "utils/array.h"

extern bool writeback_step(void);
extern void writeback_poke(void);
extern long writeback_timeout_ms(void);
extern void writeback_note_repeatable(ArrayType *sources);

#endif							/* RSVP_SYNC_WRITEBACK_H */
