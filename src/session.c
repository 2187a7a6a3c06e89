/*-------------------------------------------------------------------------
 *
 * session.c
 *		Sessions: how a lane comes to speak for its account.
 *
 * A lane asks the worker for its account's credential, begins or refreshes a
 * session with it, and keeps the session for the jobs that follow.  Whatever
 * only the user can mend is his account's new state, and his jobs wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/json.h"

#include "lane_state.h"
#include "settings.h"


static void
account_outcome(Lane *lane, const char *state, const char *error)
{
	Outcome    *outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);

	outcome->how = state;
	outcome->message = outcome_keep(error);
	outcome->credential = outcome_keep(lane->credential);
}

void
start_session(Lane *lane)
{
	StringInfoData body;

	if (lane->refresh_token != NULL)
	{
		/* This call takes no body at all; an empty object is refused. */
		HttpRequest *req = xrpc_post(lane->pds,
									 "com.atproto.server.refreshSession",
									 lane->refresh_token, NULL,
									 rsvp_sync_request_timeout);

		/* Not every PDS takes a token twice, as the reference does. */
		if (req != NULL)
			http_once(req);
		start_call(CALL_REFRESH, lane, NULL, NULL, lane->pds, req);
		return;
	}
	initStringInfo(&body);
	appendStringInfoString(&body, "{\"identifier\":");
	escape_json(&body, lane->did);
	appendStringInfoString(&body, ",\"password\":");
	escape_json(&body, lane->password);
	appendStringInfoChar(&body, '}');
	start_call(CALL_LOGIN, lane, NULL, NULL, lane->pds,
			   xrpc_post(lane->pds, "com.atproto.server.createSession",
						 NULL, body.data, rsvp_sync_request_timeout));
	explicit_bzero(body.data, body.len);
	pfree(body.data);
}

/* Only the user can help: his jobs wait, whatever they are. */
void
ask_user(Lane *lane, const char *state, const char *message)
{
	account_outcome(lane, state, message);
	fail_lane(lane, "wait", state, message, 0);
	replace_text(lane, &lane->access_token, NULL);
	replace_text(lane, &lane->refresh_token, NULL);
	replace_text(lane, &lane->password, NULL);
	lane->session = SESSION_NONE;
}

const char *
account_state(const char *name, const char *otherwise)
{
	if (strcmp(name, "AccountDeactivated") == 0 ||
		strcmp(name, "RepoDeactivated") == 0)
		return "deactivated";
	if (strcmp(name, "AccountTakedown") == 0 ||
		strcmp(name, "RepoTakendown") == 0 ||
		strcmp(name, "RepoSuspended") == 0)
		return "takendown";
	return otherwise;
}

/* The PDS cannot be asked now. */
static void
lane_unreachable(Lane *lane, Answer *answer)
{
	account_outcome(lane, "unreachable", answer->message);
	fail_lane(lane, "retry", answer->name, answer->message, answer->wait_ms);
}

static void
session_begins(Lane *lane, Answer *answer)
{
	const char *did = xrpc_text(answer->body, "did");
	const char *access = xrpc_text(answer->body, "accessJwt");
	const char *refresh = xrpc_text(answer->body, "refreshJwt");
	const char *status = xrpc_text(answer->body, "status");
	Outcome    *outcome;

	if (did == NULL || access == NULL || refresh == NULL)
	{
		xrpc_unreadable(answer, "the answer is not a session");
		lane_unreachable(lane, answer);
		return;
	}
	if (strcmp(did, lane->did) != 0)
	{
		xrpc_odd(answer, "other_session", "the PDS began another session");
		ask_user(lane, "needs_login", answer->message);
		return;
	}
	if (json_is_false(json_object_get(answer->body, "active")))
	{
		xrpc_odd(answer, status && strcmp(status, "deactivated") == 0 ?
				 "deactivated" : "takendown", "the account is not active");
		ask_user(lane, answer->name, answer->message);
		return;
	}
	replace_text(lane, &lane->access_token, access);
	replace_text(lane, &lane->refresh_token, refresh);
	lane->session = SESSION_LIVE;
	outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);
	outcome->how = "connected";
	outcome->secret = outcome_keep(refresh);
	outcome->credential = outcome_keep(lane->credential);
	outcome->handle = outcome_keep(xrpc_text(answer->body, "handle"));
}

/*
 * Only an error that says so by its name is the user's matter.  A status
 * alone may come from whatever stands in front of the PDS.
 */
void
session_answer(Lane *lane, Answer *answer, bool refreshing)
{
	bool		said = answer->known && (answer->class == ANSWER_USER ||
										 answer->class == ANSWER_REFRESH);

	if (answer->class == ANSWER_OK)
		session_begins(lane, answer);
	else if (!said)
		lane_unreachable(lane, answer);
	else if (refreshing && lane->password != NULL &&
			 strcmp(answer->name, "AccountTakedown") != 0)
		replace_text(lane, &lane->refresh_token, NULL); /* log in anew */
	else
		ask_user(lane, account_state(answer->name, refreshing ?
									 "needs_login" : "wrong_password"),
				 answer->message);
}

/* error: why one that is there, or may be, could not be read; or NULL */
void
lane_credentials(const char *did, const char *which, const char *password,
				 const char *refresh_token, const char *error)
{
	Lane	   *lane = lane_of(did);

	replace_text(lane, &lane->credential, which);
	replace_text(lane, &lane->password, password);
	replace_text(lane, &lane->refresh_token, refresh_token);
	if (password == NULL && refresh_token == NULL)
	{
		lane->session = SESSION_NONE;
		if (error != NULL)
		{
			note_error("credential_unreadable");
			fail_lane(lane, "retry", "credential_unreadable", error, 0);
		}
		else
			fail_lane(lane, "wait", "no_account",
					  "there is no credential for this account", 0);
	}
	else
		lane->session = SESSION_HAS_CREDENTIAL;
}
