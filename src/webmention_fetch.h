/*-------------------------------------------------------------------------
 *
 * webmention_fetch.h
 *		One conversation about a webmention, request by request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WEBMENTION_FETCH_H
#define RSVP_SYNC_WEBMENTION_FETCH_H

#include "postgres.h"

#include "lib/ilist.h"

#include "http.h"

typedef enum MentionKind
{
	MENTION_TELL,				/* find the target's endpoint and tell it */
	MENTION_STATUS,				/* look at what an endpoint says of its work */
	MENTION_VERIFY				/* read the page that mentions one of ours */
} MentionKind;

/* Lives in a context of its own, which has all its texts. */
typedef struct Mention
{
	dlist_node	node;
	MemoryContext context;
	MentionKind kind;
	int64		id;
	int64		generation;
	const char *source;			/* the page that speaks */
	const char *target;			/* the page that is spoken of, or asked */
	const char *wanted;

	/* Where the conversation is */
	const char *url;			/* asked next, or now */
	int			hops;			/* redirects followed */
	bool		telling;		/* the endpoint is asked, no more the page */
	HttpRequest *req;			/* under way, or NULL */
	struct Host *host;			/* whose request that is */
	int64		not_before;		/* by host_now() */

	/* What came of it; how is NULL until it is over */
	const char *how;			/* told, no_endpoint, read, retry, later, failed */
	const char *error;
	const char *endpoint;
	int			status;
	const char *status_url;
	const char *body;			/* as it came, for STATUS and VERIFY */
	size_t		body_len;
	bool		html;			/* it says it is HTML */
	long		wait_ms;
	int			refused;		/* how often it could not be written down */
} Mention;

/* The request that is next; NULL: no memory, or how says why not. */
extern HttpRequest *mention_request(Mention *mention);

/* What its answer means: how is set, or url is what to ask next. */
extern void mention_answer(Mention *mention, HttpRequest *req);

#endif							/* RSVP_SYNC_WEBMENTION_FETCH_H */
