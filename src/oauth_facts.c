/*-------------------------------------------------------------------------
 *
 * oauth_facts.c
 *		An OAuth session on its way into the tables.
 *
 * May touch: nothing.  For the entries of SQL and for the worker alike: what
 * may be seen of a session is always that of the envelope stored with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"

#include "credential.h"
#include "oauth_facts.h"
#include "xrpc.h"

static void
append_text(StringInfo facts, const char *name, const char *value)
{
	appendStringInfo(facts, "%s\"%s\":", facts->len > 1 ? "," : "", name);
	if (value != NULL)
		escape_json(facts, value);
	else
		appendStringInfoString(facts, "null");
}

char *
oauth_facts(OAuthSession *session)
{
	StringInfoData facts;
	char	   *volatile text = NULL;
	char	   *volatile jkt = NULL;

	initStringInfo(&facts);
	PG_TRY();
	{
		text = oauth_session_text(session);
		jkt = dpop_key_thumbprint(session->key);
		if (text == NULL || jkt == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory for an OAuth session")));
		appendStringInfoChar(&facts, '{');
		append_text(&facts, "did", session->did);
		append_text(&facts, "jkt", jkt);
		append_text(&facts, "issuer", session->issuer);
		append_text(&facts, "scope", session->scope);
		append_text(&facts, "kid", session->kid);
		appendStringInfo(&facts, ",\"confidential\":%s,\"may_delete\":%s,"
						 "\"expires_at\":",
						 session->confidential ? "true" : "false",
						 oauth_scope_allows(session->scope, RSVP_COLLECTION,
											"delete") ? "true" : "false");
		if (session->expires_at != 0)
			appendStringInfo(&facts, INT64_FORMAT,
							 (int64) session->expires_at);
		else
			appendStringInfoString(&facts, "null");
		append_text(&facts, "envelope",
					credential_seal(text, strlen(text), session->did));
		appendStringInfoChar(&facts, '}');
	}
	PG_FINALLY();
	{
		dpop_free(jkt);
		dpop_free(text);
		oauth_session_free(session);
	}
	PG_END_TRY();
	return facts.data;
}
