/*-------------------------------------------------------------------------
 *
 * oauth.h
 *		An OAuth session as @atproto/oauth-client-node stores it, and what an
 *		authorization server is asked and says.
 *
 * Texts returned as char * are malloc'ed and may be secret: dpop_free().
 * Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_OAUTH_H
#define RSVP_SYNC_OAUTH_H

#include <stdbool.h>
#include <time.h>

#include "dpop.h"

/* jansson's; its header and those of the server's functions do not mix. */
struct json_t;

/* The texts are the JSON's, and live as long as the session. */
typedef struct OAuthSession
{
	struct json_t *json;			/* all of it, also what we do not know */
	DpopKey    *key;
	const char *did;
	const char *issuer;			/* the authorization server */
	const char *audience;		/* the PDS, as a URL */
	const char *scope;
	const char *access_token;
	const char *refresh_token;	/* NULL: it cannot be refreshed */
	bool		legacy;			/* how the client says who it is, is not said */
	bool		confidential;	/* it has a key of its own */
	const char *kid;			/* ... which one; NULL: not said */
	time_t		expires_at;		/* of the access token; 0: not said */
} OAuthSession;

/* NULL, with a sentence about what is wrong with it; no secret is in that. */
extern OAuthSession *oauth_session_parse(const char *text, size_t len,
										 const char **problem);
extern void oauth_session_free(OAuthSession *session);
extern char *oauth_session_text(const OAuthSession *session);

/*
 * Put the new tokens of a token response into the session.  False, with the
 * reason, if it is none for this session; then nothing has changed.
 */
extern bool oauth_session_renew(OAuthSession *session, struct json_t *response,
								const char *audience, time_t now,
								const char **problem);

/* May it be refused as too old, if not now then before it arrives? */
extern bool oauth_is_stale(time_t expires_at, time_t now);

/* Has the user consented to this?  action: create, update, delete */
extern bool oauth_scope_allows(const char *scope, const char *collection,
							   const char *action);

/* Discovery; NULL: the document is not fit. */
extern const char *oauth_issuer_of_resource(struct json_t *document,
											const char *pds);
extern const char *oauth_token_endpoint(struct json_t *document, const char *issuer);

/* Are these the same scheme, host and port? */
extern bool oauth_same_origin(const char *url, const char *other);

/*
 * The form of a refresh.  client_key: NULL for a public client.  NULL: it
 * cannot be made, as the key is missing or another one.
 */
extern char *oauth_refresh_form(const OAuthSession *session,
								const char *client_id,
								const DpopKey *client_key, time_t now);

/* What became of a refresh. */
typedef enum OAuthVerdict
{
	OAUTH_RENEWED,				/* there is a token response */
	OAUTH_NONCE,				/* nothing happened: with the nonce, at once */
	OAUTH_PROOF,				/* nothing happened: the proof was not good */
	OAUTH_OVER,					/* the session has ended: the user's matter */
	OAUTH_CLIENT,				/* the client is not known: the operator's */
	OAUTH_LATER,				/* nothing happened */
	OAUTH_UNKNOWN				/* the refresh token may have been spent */
} OAuthVerdict;

/* status 0: there was no answer; error: the OAuth error of the body, or NULL */
extern OAuthVerdict oauth_judge_refresh(int status, bool sent,
										const char *error);

/* The server's clock minus ours, in seconds; 0 where it makes no difference. */
extern long oauth_clock_offset(time_t server, time_t now);

#endif							/* RSVP_SYNC_OAUTH_H */
