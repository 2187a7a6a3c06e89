/*-------------------------------------------------------------------------
 *
 * http.h
 *		Many HTTP requests at once, without ever blocking the caller.
 *
 * The caller waits, together with its latch, for http_epoll_fd() to become
 * readable or http_timeout_ms() to pass, then calls http_pump() and collects
 * what http_finished() hands out:
 *
 *		WaitLatchOrSocket(MyLatch, ..., http_epoll_fd(),
 *						  http_timeout_ms(), ...);
 *		http_pump();
 *		while ((req = http_finished()) != NULL)
 *			... read its results ..., http_free(req);
 *
 * No transaction may be open while it waits.  Nothing here raises an error
 * or allocates from a memory context: a request lives until http_free(),
 * whatever happens to the transaction or the context it was made in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_HTTP_H
#define RSVP_SYNC_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

/* What became of a request, by whose doing */
typedef enum HttpFault
{
	HTTP_ANSWERED,				/* a whole answer, of whatever status */
	HTTP_DNS,					/* the name does not resolve */
	HTTP_CONNECT,				/* nobody listens there */
	HTTP_TLS,					/* no handshake, or a bad certificate */
	HTTP_TIMEOUT,				/* too slow, in any phase */
	HTTP_BROKEN,				/* reset, truncated, protocol error */
	HTTP_TOO_LARGE,				/* body or header beyond its limit */
	HTTP_FORBIDDEN,				/* scheme, host or address not allowed */
	HTTP_LOCAL					/* out of descriptors, memory or free
								 * connections here, or cancelled: says
								 * nothing of the peer */
} HttpFault;

#define HTTP_DETAIL_SIZE	160

/*
 * A request.  "owner" is the caller's to use; the rest holds the results and
 * is to be read only after http_finished() returned the request, or after
 * http_start() refused it.
 */
typedef struct HttpRequest
{
	void	   *owner;			/* as given to http_new() */
	HttpFault	fault;
	int			status;			/* 0 if no answer began */
	const char *body;			/* never NULL, bytes as they came, a NUL
								 * behind the last */
	size_t		body_len;		/* 0 unless fault is HTTP_ANSWERED */
	const char *location;		/* where a 3xx points to, made absolute, or
								 * NULL; not followed, not checked */
	char		detail[HTTP_DETAIL_SIZE];	/* printable ASCII, for people */
	double		seconds;		/* from http_start() to the end */
	bool		sent;			/* it may have reached the server: without an
								 * answer its effect is unknown */
	bool		resent;			/* sent again, as the connection kept alive
								 * from an earlier request had died */
} HttpRequest;

/*
 * Once per process; again to change the limits, which then hold for new
 * connections.  More connections than a quarter of the process's descriptors
 * are not made.
 */
extern void http_startup(int max_connections, int connections_per_host);
extern void http_shutdown(void);	/* cancels what is in flight */

/*
 * The host:port list exempt from the address rules, and who to contact about
 * our requests (for User-Agent); both are copied, both may be NULL.
 */
extern void http_configure(const char *insecure_hosts, const char *contact);

/* Waiting and working */
extern int	http_epoll_fd(void);	/* -1 if it could not be made */
extern long http_timeout_ms(void);	/* -1: until the descriptor is ready */
extern void http_pump(void);		/* does what can be done now */
extern HttpRequest *http_finished(void);	/* the next, or NULL */
extern int	http_in_flight(void);	/* started, not yet handed out */

/*
 * Making a request.  http_new() returns NULL when out of memory; failures of
 * http_header() and http_body() are remembered for http_start().  The timeout
 * covers everything, also the wait for a free connection.
 */
extern HttpRequest *http_new(const char *method, const char *url,
							 long timeout_ms, size_t max_body, void *owner);
extern void http_header(HttpRequest *req, const char *name, const char *value);
extern void http_body(HttpRequest *req, const char *content_type,
					  const char *data, size_t len);

/*
 * Never repeat this one unasked: use a new connection.  For requests that
 * spend something, such as a refresh token, whose second try would fail.
 */
extern void http_once(HttpRequest *req);

/*
 * Only connect, by the same rules, for another protocol than HTTP: an answer
 * of status 0 is a connection, open until http_free().
 */
extern void http_connect_only(HttpRequest *req);

/* False when refused at once: fault and detail are set, the caller frees */
extern bool http_start(HttpRequest *req);

/*
 * The connection that http_connect_only() asked for: its descriptor, to be
 * waited for, and what went out or came in.  0: nothing just now; -1: it is
 * broken, or the peer has closed it.
 */
extern int	http_connection_socket(HttpRequest *req);
extern ssize_t http_connection_send(HttpRequest *req, const void *data,
									size_t len);
extern ssize_t http_connection_receive(HttpRequest *req, void *data,
									   size_t len);

/* What we call ourselves, as http_configure() has left it */
extern const char *http_user_agent(void);

/*
 * A header of the answer, NULL if not there; names are compared without
 * case.  The last of several wins, or ask for the nth (from 0).
 */
extern const char *http_answer_header(HttpRequest *req, const char *name);
extern const char *http_answer_header_nth(HttpRequest *req, const char *name,
										  int n);

/* What a Date header says, in seconds since 1970; -1 if it is none */
extern time_t http_date(const char *text);

/* Stop it; it will not be returned by http_finished() */
extern void http_cancel(HttpRequest *req);

/* In any state, also in flight; NULL is ignored */
extern void http_free(HttpRequest *req);

/* "dns", "timeout", ...: for metrics and error columns */
extern const char *http_fault_name(HttpFault fault);

#endif							/* RSVP_SYNC_HTTP_H */
