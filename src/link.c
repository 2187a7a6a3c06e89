/*-------------------------------------------------------------------------
 *
 * link.c
 *		A WebSocket to a server: connecting, listening, noticing its end.
 *
 * Joins the HTTP engine, which connects, and websocket.c, which knows the
 * protocol, and watches the time.  A server that has said nothing for a while
 * is pinged, so that a connection that died in silence is noticed.
 *
 * May touch: sockets, through the engine.  No PostgreSQL, no waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "address.h"
#include "http.h"
#include "websocket.h"

#define DETAIL_SIZE		200

struct Link
{
	LinkState	state;
	char		detail[DETAIL_SIZE];
	HttpRequest *connection;
	char	   *url;
	WebSocket  *ws;				/* once it is connected */
	double		patience;		/* seconds */
	double		since;			/* connecting began, something came or was
								 * asked for last */
	bool		pinged;			/* that was asked for */
	unsigned long long received;
};

static void close_link(Link *link, const char *what, const char *detail);

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

Link *
link_open(const char *url, long patience_ms)
{
	Link	   *link = calloc(1, sizeof(Link));

	if (link == NULL)
		return NULL;
	link->patience = patience_ms / 1000.0;
	link->since = now();
	link->url = strdup(url);
	link->connection = http_new("GET", url, patience_ms, 0, link);
	if (link->url == NULL || link->connection == NULL)
	{
		link_free(link);
		return NULL;
	}
	http_connect_only(link->connection);
	if (!http_start(link->connection))
		close_link(link, http_fault_name(link->connection->fault),
				   link->connection->detail);
	return link;
}

void
link_free(Link *link)
{
	if (link == NULL)
		return;
	if (link->ws != NULL)
		websocket_close(link->ws);
	websocket_free(link->ws);
	http_free(link->connection);
	free(link->url);
	free(link);
}

/* The first reason is kept. */
static void
close_link(Link *link, const char *what, const char *detail)
{
	if (link->state == LINK_CLOSED)
		return;
	link->state = LINK_CLOSED;
	snprintf(link->detail, sizeof(link->detail), "%s%s%s", what,
			 *what ? ": " : "", detail);
}

static ssize_t
on_send(void *arg, const void *data, size_t len)
{
	return http_connection_send(arg, data, len);
}

static ssize_t
on_receive(void *arg, void *data, size_t len)
{
	return http_connection_receive(arg, data, len);
}

/*
 * Of the origin only what is no default belongs into the Host header.
 */
static bool
host_of(const char *url, char *host, size_t size)
{
	char		origin[ADDRESS_MAX_ORIGIN];
	bool		secure;
	char	   *port;

	if (!address_url_origin(url, origin, sizeof(origin)))
		return false;
	secure = strncmp(origin, "https:", 6) == 0;
	port = strrchr(origin, ':');
	if (strcmp(port, secure ? ":443" : ":80") == 0)
		*port = '\0';
	snprintf(host, size, "%s", strstr(origin, "//") + 2);
	return true;
}

/* Path and query; a URL has no fragment on the wire. */
static void
target_of(const char *url, char *target, size_t size)
{
	const char *start = strstr(url, "//") + 2;

	start += strcspn(start, "/?#");
	snprintf(target, size, "%s%.*s", *start == '/' ? "" : "/",
			 (int) strcspn(start, "#"), start);
}

static void
upgrade(Link *link)
{
	WebSocketIo io = {link->connection, on_send, on_receive};
	char		host[ADDRESS_MAX_ORIGIN];
	char		target[ADDRESS_MAX_URL + 2];

	if (!host_of(link->url, host, sizeof(host)))
	{
		close_link(link, "", "the URL has no host");
		return;
	}
	target_of(link->url, target, sizeof(target));
	link->ws = websocket_new(host, target, http_user_agent(), &io);
	if (link->ws == NULL)
		close_link(link, "", "out of memory");
}

/* This process asks the engine for nothing else. */
static void
pump_connection(Link *link)
{
	http_pump();
	if (http_finished() != link->connection)
		return;
	if (link->connection->fault == HTTP_ANSWERED)
		upgrade(link);
	else
		close_link(link, http_fault_name(link->connection->fault),
				   link->connection->detail);
}

/* When will it have been silent for too long? */
static double
next_check(const Link *link)
{
	return link->since + link->patience;
}

static void
watch_time(Link *link)
{
	/* Until it is open it has the time for connecting, however it comes. */
	if (link->state == LINK_OPEN &&
		websocket_received(link->ws) != link->received)
	{
		link->received = websocket_received(link->ws);
		link->since = now();
		link->pinged = false;
	}
	if (link->state == LINK_CLOSED || now() < next_check(link))
		return;
	if (link->state == LINK_CONNECTING)
		close_link(link, "", "the server does not answer the request for an upgrade");
	else if (link->pinged)
		close_link(link, "", "the server says nothing any more");
	else
	{
		/* Its time begins now: we may have been away. */
		link->pinged = true;
		link->since = now();
		websocket_ping(link->ws);
		websocket_pump(link->ws, 0);
	}
}

void
link_pump(Link *link, size_t budget)
{
	if (link->state == LINK_CLOSED)
		return;
	if (link->ws == NULL)
		pump_connection(link);
	if (link->ws == NULL)
		return;
	websocket_pump(link->ws, budget);
	if (websocket_state(link->ws) == WEBSOCKET_OPEN)
		link->state = LINK_OPEN;
	else if (websocket_state(link->ws) == WEBSOCKET_CLOSED)
		close_link(link, "", websocket_detail(link->ws));
	watch_time(link);
}

const char *
link_next(Link *link, size_t *len)
{
	return link->ws ? websocket_next(link->ws, len) : NULL;
}

int
link_socket(Link *link)
{
	return link->ws ? http_connection_socket(link->connection) :
		http_epoll_fd();
}

bool
link_wants_write(Link *link)
{
	return link->ws != NULL && link->state != LINK_CLOSED &&
		websocket_wants_write(link->ws);
}

long
link_timeout_ms(Link *link)
{
	double		left;

	if (link->state == LINK_CLOSED || link_has_more(link))
		return 0;
	if (link->ws == NULL)
		return http_timeout_ms();
	left = next_check(link) - now();
	return left > 0 ? (long) (left * 1000) + 1 : 0;
}

LinkState
link_state(const Link *link)
{
	return link->state;
}

bool
link_has_more(const Link *link)
{
	return link->ws != NULL && websocket_has_more(link->ws);
}

const char *
link_detail(const Link *link)
{
	return link->detail;
}

int
link_status(const Link *link)
{
	return link->ws ? websocket_status(link->ws) : 0;
}

const char *
link_refusal(const Link *link)
{
	return link->ws ? websocket_refusal(link->ws) : "";
}
