/*-------------------------------------------------------------------------
 *
 * websocket.h
 *		The client's side of a WebSocket (RFC 6455), over any bytes.
 *
 * It begins with the request for the upgrade and ends with a reason.  Bytes
 * go through two functions of the caller's, so that nothing here knows of
 * sockets, and never waits:
 *
 *		ws = websocket_new(host, target, agent, &io);
 *		when bytes may be read or written:
 *			websocket_pump(ws, budget);
 *			while ((text = websocket_next(ws, &len)) != NULL)
 *				...
 *
 * No error is raised and nothing is allocated from a memory context.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WEBSOCKET_H
#define RSVP_SYNC_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The longest message that is taken, of however many fragments */
#define WEBSOCKET_MAX_MESSAGE	(1024 * 1024)

/* Of the answer to the request for an upgrade */
#define WEBSOCKET_MAX_HEADERS	(16 * 1024)
#define WEBSOCKET_REFUSAL_SIZE	2048

typedef enum WebSocketState
{
	WEBSOCKET_UPGRADING,		/* asked for, not answered yet */
	WEBSOCKET_OPEN,
	WEBSOCKET_CLOSED			/* by whichever side; see the detail */
} WebSocketState;

/* Both return how many bytes; 0: none just now; -1: that was all. */
typedef struct WebSocketIo
{
	void	   *arg;
	ssize_t		(*send) (void *arg, const void *data, size_t len);
	ssize_t		(*receive) (void *arg, void *data, size_t len);
} WebSocketIo;

typedef struct WebSocket WebSocket;

/* NULL when out of memory; io is copied */
extern WebSocket *websocket_new(const char *host, const char *target,
								const char *user_agent,
								const WebSocketIo *io);
extern void websocket_free(WebSocket *ws);

/* Write what there is to write, read at most so many bytes */
extern void websocket_pump(WebSocket *ws, size_t budget);

/*
 * The next message of text, with a NUL behind it, or NULL.  It is good until
 * the next call of any of these functions.
 */
extern const char *websocket_next(WebSocket *ws, size_t *len);

extern void websocket_ping(WebSocket *ws);
extern void websocket_close(WebSocket *ws);

extern WebSocketState websocket_state(const WebSocket *ws);
extern bool websocket_wants_write(const WebSocket *ws);

/* Did the last pump leave bytes unread, as far as it knows? */
extern bool websocket_has_more(const WebSocket *ws);

/* How many bytes have come: it is alive if they become more */
extern unsigned long long websocket_received(const WebSocket *ws);

/* Messages that were not of text, and were dropped */
extern unsigned long websocket_dropped(const WebSocket *ws);

/*
 * Why it is closed, in printable ASCII; the status of an answer that was no
 * upgrade (0: none came), and the beginning of its body.
 */
extern const char *websocket_detail(const WebSocket *ws);
extern int	websocket_status(const WebSocket *ws);
extern const char *websocket_refusal(const WebSocket *ws);

#endif							/* RSVP_SYNC_WEBSOCKET_H */
