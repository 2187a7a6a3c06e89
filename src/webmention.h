/*-------------------------------------------------------------------------
 *
 * webmention.h
 *		Webmentions on their way, in the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WEBMENTION_H
#define RSVP_SYNC_WEBMENTION_H

#include "postgres.h"

#include "http.h"

extern void webmention_startup(void);

/* In a transaction: what an earlier worker had in hand is free again. */
extern void webmention_take_over(int64 incarnation);

/*
 * In a transaction: write down what has come of those under way, lease what is
 * due.  sending: no copy, not off, not paused.
 */
extern void webmention_work(int64 incarnation, bool sending);

/* Is there anything that only a transaction can move on? */
extern bool webmention_work_to_do(void);

/* Without one: ask and tell. */
extern void webmention_start(void);

/* Is this request one of ours?  Then its answer is for us. */
extern bool webmention_finished(HttpRequest *req);

/* ms until something may go on by itself; -1: nothing waits for time */
extern long webmention_timeout_ms(void);

#endif							/* RSVP_SYNC_WEBMENTION_H */
