/*-------------------------------------------------------------------------
 *
 * link.h
 *		A WebSocket to a server: connecting, listening, noticing its end.
 *
 * The connection is made by the HTTP engine, under its rules for addresses,
 * certificates and times.  The caller waits for link_socket() to become
 * readable (and writable, if link_wants_write()), or for link_timeout_ms() to
 * pass, then calls link_pump(), and takes the messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LINK_H
#define RSVP_SYNC_LINK_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Link Link;

typedef enum LinkState
{
	LINK_CONNECTING,			/* name, connection, upgrade */
	LINK_OPEN,
	LINK_CLOSED					/* see link_detail() */
} LinkState;

/*
 * The URL is http or https; secrets in it are not hidden.  patience_ms: how
 * long connecting may take, how long the server may say nothing before it is
 * pinged, and how long it may take to answer that.  NULL when out of memory.
 */
extern Link *link_open(const char *url, long patience_ms);
extern void link_free(Link *link);

extern int	link_socket(Link *link);
extern bool link_wants_write(Link *link);
extern long link_timeout_ms(Link *link);
extern void link_pump(Link *link, size_t budget);
extern const char *link_next(Link *link, size_t *len);

extern LinkState link_state(const Link *link);

/* Were bytes left unread? */
extern bool link_has_more(const Link *link);

/* Why it is closed; the answer's status and body, if it was no upgrade */
extern const char *link_detail(const Link *link);
extern int	link_status(const Link *link);
extern const char *link_refusal(const Link *link);

#endif							/* RSVP_SYNC_LINK_H */
