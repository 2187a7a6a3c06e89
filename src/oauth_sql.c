/*-------------------------------------------------------------------------
 *
 * oauth_sql.c
 *		Entries of the functions in sql/71-oauth.sql: who calls, and with what
 *		session or key.
 *
 * May touch: nothing itself; the private functions behind definer_call() do.
 *
 * A session or a key is read and sealed here, before anything else sees it;
 * the private functions get facts in its place, an object of what may be
 * seen, and the envelope.  As in account.c, errors do not log the statement
 * that raised them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "credential.h"
#include "definer.h"
#include "oauth_facts.h"

PG_FUNCTION_INFO_V1(rsvp_sync_set_oauth_client);
PG_FUNCTION_INFO_V1(rsvp_sync_connect_oauth);
PG_FUNCTION_INFO_V1(rsvp_sync_oauth_session);
PG_FUNCTION_INFO_V1(rsvp_sync_store_oauth_session);
PG_FUNCTION_INFO_V1(rsvp_sync_oauth_lock);
PG_FUNCTION_INFO_V1(rsvp_sync_oauth_unlock);

/* Error context callback: adds no context, takes the statement away. */
static void
hide_statement(void *arg)
{
	errhidestmt(true);
}

/* utils/builtins.h and jansson cannot both be included. */
static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *value = PG_GETARG_TEXT_PP(n);

	return pnstrdup(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

static void
require(FunctionCallInfo fcinfo, int n, const char *what, const char *hint)
{
	if (!PG_ARGISNULL(n))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", what),
			 errhint("%s", hint)));
}

/* A jsonb argument as text; the caller wipes it. */
static char *
json_argument(FunctionCallInfo fcinfo, int n)
{
	Jsonb	   *value = PG_GETARG_JSONB_P(n);

	return JsonbToCString(NULL, &value->root, VARSIZE(value));
}

static Datum
jsonb_of(char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/* Facts and envelope of a session argument. */
static Datum
sealed_session(FunctionCallInfo fcinfo, int n)
{
	char	   *text = json_argument(fcinfo, n);
	const char *problem;
	OAuthSession *session = oauth_session_parse(text, strlen(text), &problem);
	char	   *facts;

	credential_wipe(text);
	if (session == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("not an OAuth session"),
				 errdetail_internal("%s", problem),
				 errhint("A session is what @atproto/oauth-client-node gives "
						 "its session store: {\"dpopJwk\": ..., "
						 "\"authMethod\": ..., \"tokenSet\": {\"iss\", "
						 "\"sub\", \"aud\", \"scope\", \"access_token\", "
						 "\"refresh_token\", \"token_type\", "
						 "\"expires_at\"}}.")));
	facts = oauth_facts(session);
	return jsonb_of(facts);
}

/*
 * connect_oauth(session, client_id)
 */
Datum
rsvp_sync_connect_oauth(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hider = {
		.previous = error_context_stack,
		.callback = hide_statement
	};
	NullableDatum args[2];
	Datum		result;

	error_context_stack = &hider;
	require(fcinfo, 0, "session", "Give the session as the OAuth library "
			"stores it.");
	memcpy(args, fcinfo->args, sizeof(args));
	args[0].value = sealed_session(fcinfo, 0);
	result = definer_call_with(fcinfo, "_connect_oauth", args);
	error_context_stack = hider.previous;
	return result;
}

/*
 * store_oauth_session(did, session)
 */
Datum
rsvp_sync_store_oauth_session(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hider = {
		.previous = error_context_stack,
		.callback = hide_statement
	};
	NullableDatum args[2];
	Datum		result;

	error_context_stack = &hider;
	require(fcinfo, 0, "DID", "Give the account's DID, and its session.");
	memcpy(args, fcinfo->args, sizeof(args));
	if (!PG_ARGISNULL(1))
		args[1].value = sealed_session(fcinfo, 1);
	result = definer_call_with(fcinfo, "_store_oauth_session", args);
	error_context_stack = hider.previous;
	return result;
}

/*
 * oauth_session(did): the envelope comes out of the private function, and is
 * opened here.
 */
Datum
rsvp_sync_oauth_session(PG_FUNCTION_ARGS)
{
	Datum		envelope;
	char	   *did;
	char	   *secret;
	text	   *sealed;
	Datum		session;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	envelope = definer_call(fcinfo, "_oauth_session");
	if (fcinfo->isnull)
		return (Datum) 0;
	did = text_argument(fcinfo, 0);
	sealed = DatumGetTextPP(envelope);
	secret = credential_open(pnstrdup(VARDATA_ANY(sealed),
									  VARSIZE_ANY_EXHDR(sealed)), did);
	session = jsonb_of(secret);
	credential_wipe(secret);
	return session;
}

/* The facts of a client's key, sealed for this client_id. */
static Datum
sealed_client_key(FunctionCallInfo fcinfo, const char *client_id)
{
	char	   *text = json_argument(fcinfo, 1);
	DpopKey    *key = dpop_key_parse(text, strlen(text));
	char	   *envelope;
	StringInfoData facts;

	if (key == NULL || dpop_key_id(key) == NULL)
	{
		dpop_key_free(key);
		credential_wipe(text);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("not a client's private key"),
				 errhint("It is the JWK of a private EC key with its "
						 "\"kid\", the one whose public part is in the "
						 "client's metadata (jwks); NULL for a public "
						 "client.")));
	}
	initStringInfo(&facts);
	appendStringInfoString(&facts, "{\"kid\":");
	escape_json(&facts, dpop_key_id(key));
	dpop_key_free(key);
	envelope = credential_seal(text, strlen(text), client_id);
	credential_wipe(text);
	appendStringInfoString(&facts, ",\"envelope\":");
	escape_json(&facts, envelope);
	appendStringInfoChar(&facts, '}');
	return jsonb_of(facts.data);
}

/*
 * set_oauth_client(client_id, jwk)
 */
Datum
rsvp_sync_set_oauth_client(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hider = {
		.previous = error_context_stack,
		.callback = hide_statement
	};
	NullableDatum args[2];
	char	   *client_id;
	Datum		result;

	error_context_stack = &hider;
	require(fcinfo, 0, "client_id", "It is the URL of the client's metadata.");
	client_id = text_argument(fcinfo, 0);
	if (strncmp(client_id, "https://", 8) != 0 &&
		strncmp(client_id, "http://localhost", 16) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid OAuth client ID"),
				 errhint("It is the https URL of the client's metadata, or, "
						 "for development, http://localhost with "
						 "parameters.")));
	memcpy(args, fcinfo->args, sizeof(args));
	if (!PG_ARGISNULL(1))
		args[1].value = sealed_client_key(fcinfo, client_id);
	result = definer_call_with(fcinfo, "_set_oauth_client", args);
	error_context_stack = hider.previous;
	return result;
}

/*
 * oauth_lock(did, ttl), oauth_unlock(did, token)
 */
Datum
rsvp_sync_oauth_lock(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_oauth_lock");
}

Datum
rsvp_sync_oauth_unlock(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_oauth_unlock");
}
