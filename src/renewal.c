/*-------------------------------------------------------------------------
 *
 * renewal.c
 *		How a lane keeps its account's OAuth session alive.
 *
 * A refresh token is good once, and whoever refreshes may be the worker or
 * the application.  So the store is read before each refresh; then comes the
 * DID document (where is the account now), discovery (does its PDS still
 * trust the server that issued the session), the lease, which the worker
 * takes in a transaction of its own, the refresh itself, and the storing of
 * what it brought, in such a transaction again, before it is used.
 *
 * An outcome that is not known is never repeated at once: the lease is left
 * to run out, until when the server has done what it does, and the store is
 * read again.  The session is only over when the server says so.
 *
 * Tokens go to the account's PDS, refresh tokens to its authorization server.
 * May touch: memory of the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "lane_state.h"
#include "settings.h"

/* What a PDS says of its authorization server is good for so long. */
#define SERVER_MS			(10 * 60 * 1000)
#define MAX_SERVERS			4096
/* So fresh the DID document is before a refresh. */
#define IDENTITY_MS			(60 * 1000)
/* A longer nonce is none. */
#define MAX_NONCE			1024
#define MAX_TOKEN_ANSWER	(64 * 1024)
/* Until the lease, if somebody else has it, is asked for again. */
#define LEASE_POLL_MS		200
/* Proofs tried for one call: the first, and one with what its answer told. */
#define MAX_PROOFS			2
/* Refreshes tried for one job. */
#define MAX_REFRESHES		2

/* An authorization server, by the PDS that names it. */
typedef struct Server
{
	const char *pds;			/* hash key */
	char	   *issuer;
	char	   *token_endpoint;	/* NULL: not known yet */
	TimestampTz known_at;
} Server;

static MemoryContext server_context = NULL;
static HTAB *servers = NULL;

void
renewal_startup(MemoryContext context)
{
	server_context = AllocSetContextCreate(context, "rsvp_sync servers",
										   ALLOCSET_DEFAULT_SIZES);
	servers = text_table("rsvp_sync servers", sizeof(Server), server_context);
}

/* A refresh takes its time: it is better awaited than lost. */
static long
refresh_timeout_ms(void)
{
	return 2L * rsvp_sync_request_timeout;
}

long
lane_lease_ms(void)
{
	return 2 * refresh_timeout_ms();
}

/* ------------------------------------------------------------------------
 * Grants
 * ------------------------------------------------------------------------ */

static void
free_grant(Lane *lane, Grant *grant)
{
	if (grant == NULL)
		return;
	replace_secret(lane, &grant->session, NULL);
	replace_secret(lane, &grant->access_token, NULL);
	replace_secret(lane, &grant->refresh_token, NULL);
	replace_secret(lane, &grant->client_key, NULL);
	replace_text(lane, &grant->issuer, NULL);
	replace_text(lane, &grant->audience, NULL);
	replace_text(lane, &grant->scope, NULL);
	replace_text(lane, &grant->client_id, NULL);
	replace_text(lane, &grant->client_error, NULL);
	replace_text(lane, &grant->lease, NULL);
	replace_text(lane, &grant->pds, NULL);
	pfree(grant);
}

void
renewal_forget(Lane *lane)
{
	free_grant(lane, lane->grant);
	lane->grant = NULL;
}

/* The session itself, for the moment in which it is used. */
static OAuthSession *
open_session(const Grant *grant)
{
	char	   *text = secret_open(grant->session);
	const char *problem;
	OAuthSession *session = oauth_session_parse(text, strlen(text), &problem);

	secret_wipe(text);
	return session;
}

/* Keep a session sealed, and what has to be known of it. */
static void
keep_session(Lane *lane, Grant *grant, const OAuthSession *session)
{
	char	   *text = oauth_session_text(session);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for an OAuth session")));
	replace_secret(lane, &grant->session, text);
	dpop_free(text);
	replace_secret(lane, &grant->access_token, session->access_token);
	replace_secret(lane, &grant->refresh_token, session->refresh_token);
	replace_text(lane, &grant->issuer, session->issuer);
	replace_text(lane, &grant->audience, session->audience);
	replace_text(lane, &grant->scope, session->scope);
	grant->expires_at = session->expires_at;
}

/* The store was read. */
void
lane_grant(const char *did, const char *which, const char *text,
		   int64 version, const char *client_id, const char *client_key,
		   const char *client_error)
{
	Lane	   *lane = lane_of(did);
	const char *problem;
	OAuthSession *session = oauth_session_parse(text, strlen(text), &problem);
	Grant	   *grant;

	if (session == NULL)
	{
		lane_credentials(did, which, NULL, NULL, problem);
		return;
	}
	renewal_forget(lane);
	grant = MemoryContextAllocZero(lane->context, sizeof(Grant));
	replace_text(lane, &lane->credential, which);
	replace_secret(lane, &lane->password, NULL);
	replace_secret(lane, &lane->refresh_token, NULL);
	keep_session(lane, grant, session);
	oauth_session_free(session);
	grant->version = version;
	grant->epoch = lane->epoch;
	replace_secret(lane, &grant->client_key, client_key);
	replace_text(lane, &grant->client_id, client_id);
	replace_text(lane, &grant->client_error, client_error);
	lane->grant = grant;
	lane->unproven = true;
	lane->session = SESSION_HAS_CREDENTIAL;
}

/* The PDS has refused the token that is in the store. */
static bool
token_refused(Lane *lane)
{
	char	   *refused;
	char	   *token;
	bool		same;

	if (lane->refused == NULL)
		return false;
	refused = secret_open(lane->refused);
	token = secret_open(lane->grant->access_token);
	same = strcmp(refused, token) == 0;
	secret_wipe(refused);
	secret_wipe(token);
	return same;
}

/* Is there no use in trying the access token that we have? */
static bool
needs_refresh(Lane *lane)
{
	return oauth_is_stale(lane->grant->expires_at, time(NULL)) ||
		!oauth_same_origin(lane->grant->audience, lane->pds) ||
		token_refused(lane);
}

/* A token's life may be over between two writes; one write it is good for. */
bool
renewal_due(Lane *lane)
{
	return lane->session == SESSION_LIVE && lane->grant != NULL &&
		!lane->renewed && needs_refresh(lane);
}

static void
go_live(Lane *lane)
{
	lane->session = SESSION_LIVE;
}

/* ------------------------------------------------------------------------
 * Nonces and clocks
 * ------------------------------------------------------------------------ */

static Nonce *
nonce_of(Lane *lane, const char *url)
{
	for (int i = 0; i < lengthof(lane->nonces); i++)
		if (lane->nonces[i].origin != NULL &&
			oauth_same_origin(lane->nonces[i].origin, url))
			return &lane->nonces[i];
	return NULL;
}

static void
keep_nonce(Lane *lane, const char *url, const char *nonce)
{
	Nonce	   *place = nonce_of(lane, url);

	if (place == NULL)
	{
		/* The one at the PDS, and the one at the authorization server. */
		place = &lane->nonces[lane->nonces[0].origin == NULL ? 0 : 1];
		replace_text(lane, &place->origin, url);
	}
	replace_text(lane, &place->nonce, nonce);
}

/* It goes into JSON, and into a header. */
static bool
is_nonce(const char *text)
{
	size_t		len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] >= 0x7f)
			return false;
	return len > 0 && len <= MAX_NONCE;
}

/* Whatever the answer to a proof says, its headers are worth reading. */
void
renewal_learn(Lane *lane, const char *host, HttpRequest *req)
{
	const char *nonce = http_answer_header(req, "DPoP-Nonce");
	const char *date = http_answer_header(req, "Date");

	if (nonce == NULL || !is_nonce(nonce))
		return;
	keep_nonce(lane, host, nonce);
	if (date != NULL)
		lane->clock_offset = oauth_clock_offset(http_date(date), time(NULL));
}

/* A write with the account's token, and the proof that it is ours. */
HttpRequest *
renewal_post(Lane *lane, const char *method, const char *body)
{
	OAuthSession *session = open_session(lane->grant);
	Nonce	   *nonce = nonce_of(lane, lane->pds);
	HttpRequest *req = NULL;

	if (session != NULL)
	{
		Authorization by = {
			.token = session->access_token,
			.key = session->key,
			.nonce = nonce ? nonce->nonce : NULL,
			.clock_offset = lane->clock_offset
		};

		req = xrpc_post(lane->pds, method, &by, body,
						rsvp_sync_request_timeout);
	}
	oauth_session_free(session);
	lane->renewed = false;
	return req;
}

/* The PDS did not take a write's token, or the proof that it is ours. */
void
renewal_refused(Lane *lane, Job *job, Answer *answer)
{
	bool		proof = strcmp(answer->name, "use_dpop_nonce") == 0 ||
		strcmp(answer->name, "invalid_dpop_proof") == 0;
	char	   *token;

	if (!answer->known || (proof && ++job->proofs >= MAX_PROOFS) ||
		(!proof && ++job->logins > MAX_REFRESHES))
	{
		fail_job(job, "retry", answer->name, answer->message, answer->sure,
				 answer->wait_ms);
		return;
	}
	dlist_push_head(&lane->jobs, &job->node);
	lane->njobs++;
	if (proof)
		return;
	token = secret_open(lane->grant->access_token);
	replace_secret(lane, &lane->refused, token);
	secret_wipe(token);
	/* Somebody else may have refreshed it: the store comes first. */
	lane->session = SESSION_NONE;
}

/* ------------------------------------------------------------------------
 * The way to a refresh
 * ------------------------------------------------------------------------ */

/* There is something to store, or a lease to give back. */
static void
end_refresh(Lane *lane, const char *how, const char *error)
{
	if (lane->refreshing == NULL)
	{
		lane->refreshing = lane->grant;
		lane->grant = NULL;
	}
	lane->renewal = how;
	replace_text(lane, &lane->renewal_error, error);
	lane->session = SESSION_STORING;
}

/* The lease was taken for nothing. */
void
renewal_give_up(Lane *lane)
{
	if (lane->session == SESSION_HAS_LEASE)
		end_refresh(lane, "later", NULL);
}

static Server *
server_of(const char *pds)
{
	Server	   *server = hash_search(servers, &pds, HASH_FIND, NULL);

	if (server == NULL || server->token_endpoint == NULL ||
		TimestampDifferenceExceeds(server->known_at, GetCurrentTimestamp(),
								   SERVER_MS))
		return NULL;
	return server;
}

/* Begin to learn about the server of a PDS. */
static void
note_issuer(const char *pds, const char *issuer)
{
	bool		found;
	Server	   *server;

	if (hash_get_num_entries(servers) >= MAX_SERVERS)
	{
		MemoryContext parent = MemoryContextGetParent(server_context);

		MemoryContextDelete(server_context);
		renewal_startup(parent);
	}
	server = hash_search(servers, &pds, HASH_ENTER, &found);
	if (!found)
	{
		server->pds = MemoryContextStrdup(server_context, pds);
		server->issuer = server->token_endpoint = NULL;
	}
	if (server->issuer != NULL)
		pfree(server->issuer);
	if (server->token_endpoint != NULL)
		pfree(server->token_endpoint);
	server->issuer = MemoryContextStrdup(server_context, issuer);
	server->token_endpoint = NULL;
}

static void
get_document(Lane *lane, CallKind kind, const char *host, const char *path)
{
	start_call(kind, lane, NULL, NULL, host,
			   xrpc_document(host, path, rsvp_sync_request_timeout));
}

/*
 * The next step of a lane that has read the store: use the token that is
 * there, or one more call on the way to a refresh, or the lease.
 */
void
renewal_step(Lane *lane)
{
	Grant	   *grant = lane->grant;
	Server	   *server;

	if (!needs_refresh(lane))
	{
		go_live(lane);
		return;
	}
	if (grant->refresh_token == NULL)
	{
		end_refresh(lane, "over", "the session has no refresh token");
		return;
	}
	if (grant->client_error != NULL)
	{
		lane->session = SESSION_NONE;
		fail_lane(lane, "later", "oauth_client", grant->client_error,
				  rsvp_sync_retry_max);
		return;
	}
	if (TimestampDifferenceExceeds(lane->identity_at, GetCurrentTimestamp(),
								   IDENTITY_MS))
	{
		char	   *origin = xrpc_identity_origin(lane->did,
												  rsvp_sync_plc_url,
												  rsvp_sync_insecure_hosts);
		HttpRequest *req = origin ? xrpc_did_document(lane->did, origin,
													  rsvp_sync_request_timeout)
			: NULL;

		lane->identity_at = GetCurrentTimestamp();
		if (req != NULL)
		{
			start_call(CALL_DOCUMENT, lane, NULL, NULL, origin, req);
			return;
		}
	}
	server = server_of(lane->pds);
	if (server == NULL)
		get_document(lane, CALL_RESOURCE, lane->pds,
					 "/.well-known/oauth-protected-resource");
	else if (strcmp(server->issuer, grant->issuer) != 0)
		end_refresh(lane, "over", "the account has moved to a PDS with another "
				 "authorization server");
	else
		lane->session = SESSION_WANTS_LEASE;
}

/* What the worker found when it went for the lease. */
void
lane_lease(const char *did, bool known, bool go, const char *lease)
{
	Lane	   *lane = lane_of(did);

	if (known && go)
	{
		lane->refreshing = lane->grant;
		lane->grant = NULL;
		replace_text(lane, &lane->refreshing->lease, lease);
		lane->renewal_tries = 0;
		lane->session = SESSION_HAS_LEASE;
		return;
	}
	/* Whoever has it refreshes; what he stores is read then. */
	lane->session = SESSION_NONE;
	if (!known)
		lane->renewal_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEASE_POLL_MS);
}

/* ------------------------------------------------------------------------
 * The refresh
 * ------------------------------------------------------------------------ */

static DpopKey *
open_client_key(const Grant *grant)
{
	char	   *text;
	DpopKey    *key;

	if (grant->client_key == NULL)
		return NULL;
	text = secret_open(grant->client_key);
	key = dpop_key_parse(text, strlen(text));
	secret_wipe(text);
	return key;
}

/* The form, and the proof that we have the session's key. */
static HttpRequest *
refresh_request(Lane *lane, const OAuthSession *session, Server *server,
				const char *form)
{
	Nonce	   *nonce = nonce_of(lane, server->issuer);
	char	   *proof = dpop_proof(session->key, "POST",
								   server->token_endpoint,
								   nonce ? nonce->nonce : NULL, NULL,
								   time(NULL) + lane->clock_offset);
	HttpRequest *req = proof ? http_new("POST", server->token_endpoint,
										refresh_timeout_ms(),
										MAX_TOKEN_ANSWER, NULL) : NULL;

	if (req != NULL)
	{
		http_header(req, "Accept", "application/json");
		http_header(req, "DPoP", proof);
		http_body(req, "application/x-www-form-urlencoded", form,
				  strlen(form));
		/* A second time it would end the session. */
		http_once(req);
	}
	dpop_free(proof);
	return req;
}

static void
send_refresh(Lane *lane)
{
	Grant	   *grant = lane->refreshing;
	Server	   *server = server_of(lane->pds);
	OAuthSession *session = open_session(grant);
	DpopKey    *client_key = open_client_key(grant);
	char	   *form = NULL;
	HttpRequest *req = NULL;

	if (session != NULL)
		form = oauth_refresh_form(session, grant->client_id, client_key,
								  time(NULL) + lane->clock_offset);
	if (form != NULL && server != NULL &&
		strcmp(server->issuer, grant->issuer) == 0)
		req = refresh_request(lane, session, server, form);
	dpop_key_free(client_key);
	oauth_session_free(session);
	if (req != NULL)
	{
		replace_text(lane, &grant->pds, lane->pds);
		/* Nothing gives the lease back now, until there is an answer. */
		lane->session = SESSION_STORING;
		start_call(CALL_TOKEN, lane, NULL, NULL, server->issuer, req);
	}
	else if (form == NULL)
		end_refresh(lane, "client", "the client's key is not the one with which "
					"the session began");
	else
		renewal_give_up(lane);
	dpop_free(form);
}

/* What has the lease goes out at once, or not at all. */
void
renewal_pump(Lane *lane)
{
	if (lane->session != SESSION_HAS_LEASE || lane->busy)
		return;
	if (dlist_is_empty(&lane->jobs))
		renewal_give_up(lane);
	else
		send_refresh(lane);
}

/* The refresh token may have been spent; nobody uses it for a while. */
static void
outcome_unknown(Lane *lane, Answer *answer)
{
	free_grant(lane, lane->refreshing);
	lane->refreshing = NULL;
	lane->session = SESSION_NONE;
	account_outcome(lane, "unreachable", answer->message);
	fail_lane(lane, "later", "refresh_unknown", answer->message,
			  lane_lease_ms());
}

/* With the nonce or the time that the answer has told, once. */
static void
prove_again(Lane *lane, Answer *answer)
{
	if (++lane->renewal_tries < MAX_PROOFS)
		lane->session = SESSION_HAS_LEASE;
	else
	{
		end_refresh(lane, "later", NULL);
		lane_unreachable(lane, answer);
	}
}

static void
take_tokens(Lane *lane, Answer *answer)
{
	Grant	   *grant = lane->refreshing;
	const char *problem = "the answer to a refresh cannot be read";
	OAuthSession *session = open_session(grant);
	bool		renewed = answer->body != NULL && session != NULL &&
		oauth_session_renew(session, answer->body, grant->pds, time(NULL),
							&problem);

	if (renewed)
		keep_session(lane, grant, session);
	oauth_session_free(session);
	if (renewed)
	{
		end_refresh(lane, "renewed", NULL);
		return;
	}
	xrpc_unreadable(answer, problem);
	outcome_unknown(lane, answer);
}

static void
token_answer(Lane *lane, Answer *answer)
{
	char	   *error;

	switch (oauth_judge_refresh(answer->status, !answer->sure, answer->name))
	{
		case OAUTH_RENEWED:
			take_tokens(lane, answer);
			break;
		case OAUTH_NONCE:
		case OAUTH_PROOF:
			prove_again(lane, answer);
			break;
		case OAUTH_OVER:
			/* Who waits for it is told once the store has been asked. */
			end_refresh(lane, "over", answer->message);
			break;
		case OAUTH_CLIENT:
			error = psprintf("%s: %s", answer->name, answer->message);
			end_refresh(lane, "client", error);
			pfree(error);
			break;
		case OAUTH_LATER:
			end_refresh(lane, "later", NULL);
			lane_unreachable(lane, answer);
			break;
		case OAUTH_UNKNOWN:
			outcome_unknown(lane, answer);
			break;
	}
}

/* ------------------------------------------------------------------------
 * Answers on the way
 * ------------------------------------------------------------------------ */

/* Where the account is now.  A directory that is down does not matter yet. */
static void
document_answer(Lane *lane, Answer *answer)
{
	const char *pds = answer->class == ANSWER_OK &&
		xrpc_is_document_of(answer->body, lane->did) ?
		xrpc_pds_of_document(answer->body) : NULL;
	Outcome    *outcome;

	if (pds == NULL || oauth_same_origin(pds, lane->pds))
		return;
	outcome = new_outcome(OUTCOME_IDENTITY, NULL, lane->did);
	outcome->text = outcome_keep(pds);
	outcome->handle = outcome_keep(xrpc_handle_of_document(answer->body));
	lane->session = SESSION_NONE;
	fail_lane(lane, "again", "moved", "the account has moved", 0);
}

static void
resource_answer(Lane *lane, Answer *answer)
{
	const char *issuer = answer->class == ANSWER_OK ?
		oauth_issuer_of_resource(answer->body, lane->pds) : NULL;

	if (issuer != NULL)
	{
		note_issuer(lane->pds, issuer);
		get_document(lane, CALL_SERVER, issuer,
					 "/.well-known/oauth-authorization-server");
		return;
	}
	if (answer->class == ANSWER_OK)
		xrpc_unreadable(answer, "the PDS names no authorization server");
	lane->session = SESSION_NONE;
	lane_unreachable(lane, answer);
}

static void
server_answer(Lane *lane, Answer *answer)
{
	const char *pds = lane->pds;
	Server	   *server = hash_search(servers, &pds, HASH_FIND, NULL);
	const char *endpoint = answer->class == ANSWER_OK && server != NULL ?
		oauth_token_endpoint(answer->body, server->issuer) : NULL;

	if (endpoint != NULL)
	{
		if (server->token_endpoint != NULL)
			pfree(server->token_endpoint);
		server->token_endpoint = MemoryContextStrdup(server_context, endpoint);
		server->known_at = GetCurrentTimestamp();
		return;
	}
	if (answer->class == ANSWER_OK)
		xrpc_unreadable(answer, "the authorization server does not say where "
						"tokens are to be had");
	lane->session = SESSION_NONE;
	lane_unreachable(lane, answer);
}

void
renewal_answer(Lane *lane, CallKind kind, Answer *answer)
{
	if (kind == CALL_TOKEN)
		token_answer(lane, answer);
	else if (kind == CALL_DOCUMENT)
		document_answer(lane, answer);
	else if (kind == CALL_RESOURCE)
		resource_answer(lane, answer);
	else
		server_answer(lane, answer);
}

/* ------------------------------------------------------------------------
 * What the worker does for a lane, in transactions of their own
 * ------------------------------------------------------------------------ */

static RenewalWork *
work_of(Lane *lane)
{
	RenewalWork *work = palloc0(sizeof(RenewalWork));
	Grant	   *grant = lane->renewal ? lane->refreshing : lane->grant;

	work->did = lane->did;
	work->version = grant->version;
	work->how = lane->renewal;
	work->lease = grant->lease;
	work->error = lane->renewal_error;
	if (lane->renewal != NULL && strcmp(lane->renewal, "renewed") == 0)
		work->session = grant->session;
	return work;
}

static bool
wants_transaction(Lane *lane)
{
	return (lane->session == SESSION_WANTS_LEASE || lane->renewal != NULL) &&
		lane->renewal_at <= GetCurrentTimestamp();
}

/*
 * A lane that needs a transaction of its own now: the lease of a refresh is
 * to be taken, or what came of one is to be stored.
 */
RenewalWork *
lane_next_renewal(void)
{
	Lane	   *lane = find_active_lane(wants_transaction);

	return lane ? work_of(lane) : NULL;
}

bool
lane_renewals_wanted(void)
{
	return find_active_lane(wants_transaction) != NULL;
}

/* It is in the store; same: the store had nothing newer. */
void
lane_renewal_stored(const char *did, bool same)
{
	Lane	   *lane = lane_of(did);
	const char *how = lane->renewal;
	Grant	   *grant = lane->refreshing;
	bool		current = grant->epoch == lane->epoch;

	lane->renewal = NULL;
	lane->refreshing = NULL;
	if (lane->session == SESSION_STORING)
		lane->session = SESSION_NONE;
	if (current && same && strcmp(how, "renewed") == 0)
	{
		/* Its version is the store's to say; it is read for the next one. */
		lane->grant = grant;
		lane->renewed = true;
		lane->unproven = false;
		go_live(lane);
		return;
	}
	if (current && same && strcmp(how, "over") == 0)
		fail_lane(lane, "wait", "needs_login", lane->renewal_error, 0);
	if (current && strcmp(how, "client") == 0)
		fail_lane(lane, "later", "oauth_client", lane->renewal_error,
				  rsvp_sync_retry_max);
	free_grant(lane, grant);
}

/* It could not be stored just now; it must be, so it is tried again. */
void
lane_renewal_postponed(const char *did, long ms)
{
	lane_of(did)->renewal_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}
