/*-------------------------------------------------------------------------
 *
 * oauth_facts.h
 *		An OAuth session on its way into the tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_OAUTH_FACTS_H
#define RSVP_SYNC_OAUTH_FACTS_H

#include "postgres.h"

#include "oauth.h"

/*
 * {"did", "jkt", "issuer", "scope", "may_delete", "expires_at",
 * "confidential", "kid", "envelope"}: what may be seen of a session, and the
 * session, sealed.  Frees the session, also when it raises ERROR.
 */
extern char *oauth_facts(OAuthSession *session);

#endif							/* RSVP_SYNC_OAUTH_FACTS_H */
