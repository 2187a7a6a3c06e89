/*-------------------------------------------------------------------------
 *
 * stream.h
 *		Door of the stream room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_STREAM_H
#define RSVP_SYNC_STREAM_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "jetstream.h"

/* The worker that listens to the network */
extern PGDLLEXPORT void rsvp_sync_stream_main(Datum main_arg);

/*
 * For the sync worker, in a transaction of its own: have the stream's worker
 * started where it is wanted and not there.
 */
extern void stream_call(void);

/*
 * stream_batch.c: events that are taken together.
 *
 * batch_add takes the event over (its texts, and what owns them).  False: it
 * was not taken, as what is there has to be written down first.  batch_write
 * is one transaction; it says whether the batch was written down, or is to be
 * tried again later, in so many milliseconds.
 */
extern void batch_startup(void);
extern bool batch_add(JetstreamEvent *event);
extern bool batch_is_empty(void);
extern bool batch_is_full(void);

/* Is there something in it that somebody waits for? */
extern bool batch_is_urgent(void);

/* When did the first of it come? */
extern TimestampTz batch_since(void);

extern bool batch_write(const char *host, bool caught_up, long *again_ms);

/* Nothing of it is kept: it will come again. */
extern void batch_drop(void);

#endif							/* RSVP_SYNC_STREAM_H */
