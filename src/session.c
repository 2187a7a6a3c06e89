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
#include "syntax.h"

/* A session that could not be written down is tried again after so long. */
#define SAVE_AGAIN_MS	5000

void
account_outcome(Lane *lane, const char *state, const char *error)
{
	Outcome    *outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);

	outcome->how = state;
	outcome->message = outcome_keep(error);
	outcome->credential = outcome_keep(lane->credential);
}

/* A request with one of the lane's tokens, which is open only meanwhile. */
HttpRequest *
post_with(Lane *lane, const Secret *token, const char *method,
		  const char *body)
{
	char	   *open = secret_open(token);
	Authorization by = {.token = open};
	HttpRequest *req = xrpc_post(lane->pds, method, &by, body,
								 rsvp_sync_request_timeout);

	secret_wipe(open);
	return req;
}

void
start_session(Lane *lane)
{
	StringInfoData body;
	char	   *password;

	if (lane->grant != NULL)
	{
		renewal_step(lane);
		return;
	}
	if (lane->refresh_token != NULL)
	{
		/* This call takes no body at all; an empty object is refused. */
		HttpRequest *req = post_with(lane, lane->refresh_token,
									 "com.atproto.server.refreshSession",
									 NULL);

		/* Not every PDS takes a token twice, as the reference does. */
		if (req != NULL)
			http_once(req);
		start_call(CALL_REFRESH, lane, NULL, NULL, lane->pds, req);
		return;
	}
	password = secret_open(lane->password);
	initStringInfo(&body);
	/* All at once: what grows leaves a copy behind. */
	enlargeStringInfo(&body, 6 * (strlen(lane->did) + strlen(password)) + 64);
	appendStringInfoString(&body, "{\"identifier\":");
	escape_json(&body, lane->did);
	appendStringInfoString(&body, ",\"password\":");
	escape_json(&body, password);
	appendStringInfoChar(&body, '}');
	secret_wipe(password);
	start_call(CALL_LOGIN, lane, NULL, NULL, lane->pds,
			   xrpc_post(lane->pds, "com.atproto.server.createSession",
						 NULL, body.data, rsvp_sync_request_timeout));
	explicit_bzero(body.data, body.len);
	pfree(body.data);
}

/*
 * Only the user can help: his jobs wait, whatever they are.  Unless he is
 * elsewhere by now.
 */
void
ask_user(Lane *lane, const char *state, const char *message)
{
	if (lane_take_hint(lane))
		return;
	account_outcome(lane, state, message);
	fail_lane(lane, "wait", state, message, 0);
	replace_secret(lane, &lane->access_token, NULL);
	replace_secret(lane, &lane->refresh_token, NULL);
	replace_secret(lane, &lane->password, NULL);
	renewal_forget(lane);
	lane->unsaved = false;
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
void
lane_unreachable(Lane *lane, Answer *answer)
{
	lane_hint(lane);
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
	const char *handle = xrpc_text(answer->body, "handle");
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
	replace_secret(lane, &lane->access_token, access);
	replace_secret(lane, &lane->refresh_token, refresh);
	lane->session = SESSION_LIVE;
	outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);
	outcome->how = "connected";
	outcome->secret = outcome_seal(refresh);
	outcome->credential = outcome_keep(lane->credential);
	if (handle != NULL && syntax_is_handle(handle, strlen(handle)))
		outcome->handle = outcome_keep(handle);
	lane->unsaved = false;
}

/*
 * The tokens could not be written down: the key file may be away.  They are
 * good all the same, and the only ones there are.
 */
void
session_refused(Lane *lane)
{
	if (lane->session != SESSION_LIVE)
		return;
	lane->unsaved = true;
	lane->save_at = host_now() + SAVE_AGAIN_MS;
}

void
save_session(Lane *lane, int64 now)
{
	char	   *refresh;
	Outcome    *outcome;

	if (!lane->unsaved || lane->save_at > now)
		return;
	lane->unsaved = false;
	if (lane->session != SESSION_LIVE || lane->refresh_token == NULL)
		return;
	refresh = secret_open(lane->refresh_token);
	outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);
	outcome->how = "connected";
	outcome->secret = outcome_seal(refresh);
	outcome->credential = outcome_keep(lane->credential);
	secret_wipe(refresh);
}

/* What a server says may repeat what it was sent. */
void
hide_secrets(Lane *lane, Answer *answer)
{
	if (answer->class == ANSWER_OK)
		return;
	for (int i = 0; i < 2; i++)
	{
		char	   *text = i == 0 ? answer->name : answer->message;

		secret_hide(lane->password, text);
		secret_hide(lane->refresh_token, text);
		secret_hide(lane->access_token, text);
		if (lane->refreshing != NULL)
			secret_hide(lane->refreshing->refresh_token, text);
	}
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
		replace_secret(lane, &lane->refresh_token, NULL); /* log in anew */
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

	renewal_forget(lane);
	replace_text(lane, &lane->credential, which);
	replace_secret(lane, &lane->password, password);
	replace_secret(lane, &lane->refresh_token, refresh_token);
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
