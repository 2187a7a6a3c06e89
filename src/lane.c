/*-------------------------------------------------------------------------
 *
 * lane.c
 *		Jobs on their way over the network, one lane per account.
 *
 * A lane makes one account's calls in order, one at a time: a session first,
 * the head of the repository and its RSVP records before a new record key is
 * used, then its jobs.  What is not an account's own matter (a DID document,
 * an event record) is a task, which many jobs may wait for.
 *
 * Nothing here touches a table.  What is learnt leaves as an Outcome; the
 * worker writes outcomes down and plans the keys again that waited for them.
 * State of a lane may be lost at any time: a new worker begins with nothing
 * and finds out again.
 *
 * Requests carry a Call, which says whose answer it is.  A call's memory and
 * its job are alive as long as the request is: jobs with a call under way are
 * not freed by anybody else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "lane.h"
#include "settings.h"
#include "syntax.h"
#include "xrpc.h"

/* A longer wait than this is done in the queue, not in memory. */
#define SHORT_WAIT_MS	5000
/* Sessions tried for one job before its user is asked. */
#define MAX_LOGINS		2
/*
 * Beyond this a listing is given up: pages of listRecords, and bytes of what
 * is kept of them.  The records of somebody who answered ten thousand events
 * take five of these 16 MB.
 */
#define MAX_PAGES		1000
#define MAX_LISTING		(16 * 1024 * 1024)
/* A repository holds no larger record; of such a one the content is not kept. */
#define MAX_RECORD		(1024 * 1024)

typedef enum SessionState
{
	SESSION_NONE,
	SESSION_WANTS_CREDENTIAL,	/* the worker has to read it */
	SESSION_HAS_CREDENTIAL,
	SESSION_LIVE
} SessionState;

typedef struct Lane
{
	const char *did;			/* hash key */
	dlist_node	node;			/* among the active ones, or the idle ones */
	bool		active;
	MemoryContext context;
	char	   *pds;
	dlist_head	jobs;
	int			njobs;
	bool		busy;			/* a call is under way */
	SessionState session;
	char	   *credential;		/* which one the next three come from */
	char	   *password;
	char	   *refresh_token;
	char	   *access_token;
	char	   *head;			/* commit its records are known to be at */
	StringInfo	records;		/* JSON of a listing under way */
	int			pages;
	TimestampTz not_before;		/* the server asked to be left alone */
} Lane;

/*
 * A lane is active while it has jobs or a call under way.  Idle ones are
 * kept for their session, the one idle longest first to go.
 */
#define MAX_IDLE_LANES	4096

typedef struct Task
{
	const char *name;			/* hash key: kind and subject */
	MemoryContext context;
	bool		identity;		/* else an event */
	const char *subject;
	char	   *host;			/* of an event: its organiser's PDS */
	dlist_head	jobs;
	bool		started;
} Task;

typedef enum CallKind
{
	CALL_LOGIN,
	CALL_REFRESH,
	CALL_HEAD,
	CALL_LIST,
	CALL_JOB,
	CALL_TASK
} CallKind;

typedef struct Call
{
	CallKind	kind;
	Lane	   *lane;
	Job		   *job;
	Task	   *task;
	char	   *host;			/* counted against connections_per_host */
} Call;

/* How many calls are under way to a host. */
typedef struct Host
{
	const char *name;			/* hash key */
	int			calls;
} Host;

static MemoryContext lane_context = NULL;
static MemoryContext outcome_context = NULL;
static HTAB *lanes = NULL;
static HTAB *tasks = NULL;
static HTAB *hosts = NULL;
static dlist_head active_lanes = DLIST_STATIC_INIT(active_lanes);
static dlist_head idle_lanes = DLIST_STATIC_INIT(idle_lanes);
static int	n_idle_lanes = 0;
static dlist_head outcomes = DLIST_STATIC_INIT(outcomes);
static dlist_head replans = DLIST_STATIC_INIT(replans);
static int	njobs = 0;

PG_FUNCTION_INFO_V1(rsvp_sync_is_listed);

static uint32
text_hash(const void *key, Size size)
{
	const char *text = *(const char *const *) key;

	return hash_bytes((const unsigned char *) text, strlen(text));
}

static int
text_match(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static HTAB *
make_table(const char *name, Size entrysize)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(char *);
	ctl.entrysize = entrysize;
	ctl.hash = text_hash;
	ctl.match = text_match;
	ctl.hcxt = lane_context;
	return hash_create(name, 256, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
					   HASH_CONTEXT);
}

void
lane_startup(void)
{
	lane_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync lanes",
										 ALLOCSET_DEFAULT_SIZES);
	outcome_context = AllocSetContextCreate(lane_context,
											"rsvp_sync outcomes",
											ALLOCSET_DEFAULT_SIZES);
	lanes = make_table("rsvp_sync lanes", sizeof(Lane));
	tasks = make_table("rsvp_sync tasks", sizeof(Task));
	hosts = make_table("rsvp_sync hosts", sizeof(Host));
}

int
lane_jobs(void)
{
	return njobs;
}

/* ------------------------------------------------------------------------
 * Texts with an owner
 * ------------------------------------------------------------------------ */

/* Replace a text of a lane; what it was is overwritten, it may be a secret. */
static void
replace_text(Lane *lane, char **text, const char *with)
{
	char	   *copy = with ? MemoryContextStrdup(lane->context, with) : NULL;

	if (*text != NULL)
	{
		explicit_bzero(*text, strlen(*text));
		pfree(*text);
	}
	*text = copy;
}

static const char *
keep(const char *text)
{
	return text ? MemoryContextStrdup(outcome_context, text) : NULL;
}

/* ------------------------------------------------------------------------
 * Outcomes
 * ------------------------------------------------------------------------ */

static Outcome *
new_outcome(OutcomeKind kind, Job *job, const char *subject)
{
	Outcome    *outcome = MemoryContextAllocZero(outcome_context,
												 sizeof(Outcome));

	outcome->kind = kind;
	outcome->job = job;
	outcome->subject = keep(subject);
	dlist_push_tail(&outcomes, &outcome->node);
	return outcome;
}

dlist_head *
lane_outcomes(void)
{
	return &outcomes;
}

dlist_head *
lane_replans(void)
{
	return &replans;
}

void
lane_free_job(Job *job)
{
	njobs--;
	MemoryContextDelete(job->context);
}

/* The job did not succeed; it is the caller's no more. */
static void
fail_job(Job *job, const char *how, const char *code, const char *message,
		 bool sure, long wait_ms)
{
	Outcome    *outcome = new_outcome(OUTCOME_FAILED, job, NULL);

	outcome->how = how;
	outcome->code = keep(code);
	outcome->message = keep(message);
	outcome->sure = sure;
	outcome->wait_ms = wait_ms;
}

static Job *
pop_job(Lane *lane)
{
	lane->njobs--;
	return dlist_container(Job, node, dlist_pop_head_node(&lane->jobs));
}

/* None of the lane's jobs has been sent; they all share this fate. */
static void
fail_lane(Lane *lane, const char *how, const char *code, const char *message,
		  long wait_ms)
{
	while (!dlist_is_empty(&lane->jobs))
		fail_job(pop_job(lane), how, code, message, true, wait_ms);
}

static void
account_outcome(Lane *lane, const char *state, const char *error)
{
	Outcome    *outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);

	outcome->how = state;
	outcome->message = keep(error);
	outcome->credential = keep(lane->credential);
}

/* ------------------------------------------------------------------------
 * Calls
 * ------------------------------------------------------------------------ */

static Host *
host_entry(const char *name)
{
	bool		found;
	Host	   *host = hash_search(hosts, &name, HASH_ENTER, &found);

	if (!found)
	{
		host->name = MemoryContextStrdup(lane_context, name);
		host->calls = 0;
	}
	return host;
}

static void
host_leaves(const char *name)
{
	Host	   *host = host_entry(name);
	char	   *own = unconstify(char *, host->name);

	if (--host->calls > 0)
		return;
	hash_search(hosts, &own, HASH_REMOVE, NULL);
	pfree(own);
}

static bool
host_has_room(const char *name)
{
	return http_in_flight() < rsvp_sync_concurrency &&
		host_entry(name)->calls < rsvp_sync_connections_per_host;
}

/* Start a request; its answer, or its refusal, comes to lane_finished(). */
static void
start_call(CallKind kind, Lane *lane, Job *job, Task *task, const char *host,
		   HttpRequest *req)
{
	Call	   *call;

	if (req == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for a request")));
	call = MemoryContextAllocZero(lane_context, sizeof(Call));
	call->kind = kind;
	call->lane = lane;
	call->job = job;
	call->task = task;
	call->host = MemoryContextStrdup(lane_context, host);
	host_entry(host)->calls++;
	req->owner = call;
	if (lane)
		lane->busy = true;
	if (!http_start(req))
		lane_finished(req);
}

static Lane *
lane_of(const char *did)
{
	bool		found;
	Lane	   *lane = hash_search(lanes, &did, HASH_ENTER, &found);

	if (found)
		return lane;
	memset((char *) lane + sizeof(char *), 0, sizeof(Lane) - sizeof(char *));
	lane->context = AllocSetContextCreate(lane_context, "rsvp_sync lane",
										  ALLOCSET_SMALL_SIZES);
	lane->did = MemoryContextStrdup(lane->context, did);
	dlist_init(&lane->jobs);
	dlist_push_tail(&idle_lanes, &lane->node);
	n_idle_lanes++;
	return lane;
}

static Lane *
find_lane(const char *did)
{
	return lanes ? hash_search(lanes, &did, HASH_FIND, NULL) : NULL;
}

static void
wipe_lane(Lane *lane)
{
	replace_text(lane, &lane->password, NULL);
	replace_text(lane, &lane->access_token, NULL);
	replace_text(lane, &lane->refresh_token, NULL);
}

static void
free_lane(Lane *lane)
{
	char	   *did = unconstify(char *, lane->did);
	MemoryContext context = lane->context;

	wipe_lane(lane);
	dlist_delete(&lane->node);
	n_idle_lanes--;
	hash_search(lanes, &did, HASH_REMOVE, NULL);
	MemoryContextDelete(context);
}

static void
activate_lane(Lane *lane)
{
	if (lane->active)
		return;
	lane->active = true;
	dlist_delete(&lane->node);
	n_idle_lanes--;
	dlist_push_tail(&active_lanes, &lane->node);
}

/* Put lanes aside that have nothing to do, and forget the oldest of those. */
static void
rest_lanes(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane->busy || lane->records != NULL ||
			!dlist_is_empty(&lane->jobs))
			continue;
		lane->active = false;
		dlist_delete(&lane->node);
		dlist_push_tail(&idle_lanes, &lane->node);
		n_idle_lanes++;
	}
	while (n_idle_lanes > MAX_IDLE_LANES)
		free_lane(dlist_head_element(Lane, node, &idle_lanes));
}

/* ------------------------------------------------------------------------
 * Jobs come in
 * ------------------------------------------------------------------------ */

static void
add_to_task(Job *job)
{
	bool		identity = strcmp(job->need, "identity") == 0;
	char	   *name = psprintf("%s %s", job->need, job->subject);
	bool		found;
	Task	   *task = hash_search(tasks, &name, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) task + sizeof(char *), 0,
			   sizeof(Task) - sizeof(char *));
		task->context = AllocSetContextCreate(lane_context, "rsvp_sync task",
											  ALLOCSET_SMALL_SIZES);
		task->name = MemoryContextStrdup(task->context, name);
		task->identity = identity;
		task->subject = MemoryContextStrdup(task->context, job->subject);
		if (!identity)
			task->host = MemoryContextStrdup(task->context,
											 job->organiser_pds);
		dlist_init(&task->jobs);
	}
	dlist_push_tail(&task->jobs, &job->node);
	pfree(name);
}

void
lane_add(Job *job)
{
	Lane	   *lane;

	njobs++;
	if (job->need != NULL && strcmp(job->need, "list") != 0)
	{
		add_to_task(job);
		return;
	}
	lane = lane_of(job->did);
	if (lane->pds == NULL || strcmp(lane->pds, job->pds) != 0)
	{
		/* Another PDS: nothing of what we had is good there. */
		replace_text(lane, &lane->pds, job->pds);
		replace_text(lane, &lane->access_token, NULL);
		replace_text(lane, &lane->head, NULL);
		lane->session = SESSION_NONE;
	}
	dlist_push_tail(&lane->jobs, &job->node);
	lane->njobs++;
	activate_lane(lane);
}

/* ------------------------------------------------------------------------
 * Tasks
 * ------------------------------------------------------------------------ */

static void
end_task(Task *task)
{
	char	   *name = unconstify(char *, task->name);

	hash_search(tasks, &name, HASH_REMOVE, NULL);
	MemoryContextDelete(task->context);
}

static void
fail_task(Task *task, const char *how, const char *code, const char *message,
		  long wait_ms)
{
	while (!dlist_is_empty(&task->jobs))
		fail_job(dlist_container(Job, node, dlist_pop_head_node(&task->jobs)),
				 how, code, message, true, wait_ms);
	end_task(task);
}

/* at://did/collection/rkey, taken apart; the planner checked its syntax */
static HttpRequest *
event_request(Task *task)
{
	char	   *uri = pstrdup(task->subject + strlen("at://"));
	char	   *collection = strchr(uri, '/');
	char	   *rkey = collection ? strchr(collection + 1, '/') : NULL;
	HttpRequest *req = NULL;

	if (rkey != NULL)
	{
		const char *params[] = {
			"repo", uri, "collection", collection + 1, "rkey", rkey + 1, NULL
		};

		*collection = *rkey = '\0';
		req = xrpc_get(task->host, "com.atproto.repo.getRecord", params,
					   rsvp_sync_request_timeout);
	}
	pfree(uri);
	return req;
}

static void
start_task(Task *task)
{
	const char *host = task->identity ? rsvp_sync_plc_url : task->host;
	HttpRequest *req;

	if (task->started || !host_has_room(host))
		return;
	req = task->identity ?
		xrpc_did_document(task->subject, rsvp_sync_plc_url,
						  rsvp_sync_request_timeout) :
		event_request(task);
	if (req == NULL)
	{
		fail_task(task, "failed", "unsupported_identifier", task->subject, 0);
		return;
	}
	task->started = true;
	start_call(CALL_TASK, NULL, NULL, task, host, req);
}

static void
identity_answer(Task *task, Answer *answer)
{
	const char *pds = xrpc_pds_of_document(answer->body, task->subject);
	Outcome    *outcome;

	if (pds == NULL)
	{
		fail_task(task, "retry", "no_pds",
				  "the DID document names no PDS", 0);
		return;
	}
	outcome = new_outcome(OUTCOME_IDENTITY, NULL, task->subject);
	outcome->text = keep(pds);
	outcome->handle = keep(xrpc_handle_of_document(answer->body));
}

static void
task_answer(Task *task, Answer *answer)
{
	const char *cid;

	if (answer->class == ANSWER_ABSENT && !task->identity)
		fail_task(task, "failed", "event_not_found", answer->message, 0);
	else if (answer->class != ANSWER_OK)
		fail_task(task, "retry", answer->name, answer->message,
				  answer->wait_ms);
	else if (task->identity)
		identity_answer(task, answer);
	else if ((cid = xrpc_cid(answer->body, "cid")) == NULL)
		fail_task(task, "retry", "no_cid", "the event record has no cid", 0);
	else
		new_outcome(OUTCOME_EVENT, NULL, task->subject)->cid = keep(cid);
}

/* ------------------------------------------------------------------------
 * Sessions
 * ------------------------------------------------------------------------ */

static void
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
static void
ask_user(Lane *lane, const char *state, const char *message)
{
	account_outcome(lane, state, message);
	fail_lane(lane, "wait", state, message, 0);
	replace_text(lane, &lane->access_token, NULL);
	replace_text(lane, &lane->refresh_token, NULL);
	replace_text(lane, &lane->password, NULL);
	lane->session = SESSION_NONE;
}

static const char *
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
	if (answer->class == ANSWER_LIMIT)
		fail_lane(lane, "later", answer->name, answer->message,
				  answer->wait_ms);
	else
	{
		account_outcome(lane, "unreachable", answer->message);
		fail_lane(lane, "retry", answer->name, answer->message,
				  answer->wait_ms);
	}
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
		ask_user(lane, "needs_login", "the PDS began another session");
		return;
	}
	if (json_is_false(json_object_get(answer->body, "active")))
	{
		ask_user(lane, status && strcmp(status, "deactivated") == 0 ?
				 "deactivated" : "takendown", "the account is not active");
		return;
	}
	replace_text(lane, &lane->access_token, access);
	replace_text(lane, &lane->refresh_token, refresh);
	lane->session = SESSION_LIVE;
	outcome = new_outcome(OUTCOME_ACCOUNT, NULL, lane->did);
	outcome->how = "connected";
	outcome->secret = keep(refresh);
	outcome->credential = keep(lane->credential);
	outcome->handle = keep(xrpc_text(answer->body, "handle"));
}

/*
 * Only an error that says so by its name is the user's matter.  A status
 * alone may come from whatever stands in front of the PDS.
 */
static void
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

/* Accounts whose credentials the worker has to read, and what it found. */
List *
lane_credentials_wanted(void)
{
	dlist_iter	iter;
	List	   *wanted = NIL;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane->session == SESSION_WANTS_CREDENTIAL)
			wanted = lappend(wanted, unconstify(char *, lane->did));
	}
	return wanted;
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
			fail_lane(lane, "retry", "credential_unreadable", error, 0);
		else
			fail_lane(lane, "wait", "no_account",
					  "there is no credential for this account", 0);
	}
	else
		lane->session = SESSION_HAS_CREDENTIAL;
}

/* ------------------------------------------------------------------------
 * The head of the repository, and its RSVP records
 * ------------------------------------------------------------------------ */

static void
start_head(Lane *lane)
{
	const char *params[] = {"did", lane->did, NULL};

	start_call(CALL_HEAD, lane, NULL, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.sync.getLatestCommit", params,
						rsvp_sync_request_timeout));
}

static void
start_list(Lane *lane, const char *cursor)
{
	const char *params[] = {
		"repo", lane->did, "collection", RSVP_COLLECTION, "limit", "100",
		"cursor", cursor, NULL
	};

	start_call(CALL_LIST, lane, NULL, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.repo.listRecords", params,
						rsvp_sync_request_timeout));
}

static void
drop_records(Lane *lane)
{
	if (lane->records != NULL)
	{
		pfree(lane->records->data);
		pfree(lane->records);
	}
	lane->records = NULL;
	lane->pages = 0;
}

static void
forget_listing(Lane *lane)
{
	drop_records(lane);
	replace_text(lane, &lane->head, NULL);
}

static void
listing_failed(Lane *lane, Answer *answer)
{
	forget_listing(lane);
	if (answer->class == ANSWER_USER)
		ask_user(lane, account_state(answer->name, "needs_login"),
				 answer->message);
	else if (answer->class == ANSWER_LIMIT)
		fail_lane(lane, "later", answer->name, answer->message,
				  answer->wait_ms);
	else
		fail_lane(lane, "retry", answer->name, answer->message,
				  answer->wait_ms);
}

/*
 * The head is taken first, the records after it: a write that names this
 * head succeeds only if the records cannot have changed since.
 */
static void
head_answer(Lane *lane, Answer *answer)
{
	const char *cid = NULL;
	MemoryContext old;

	if (answer->class == ANSWER_OK &&
		(cid = xrpc_cid(answer->body, "cid")) == NULL)
		xrpc_unreadable(answer, "the head of the repository has no cid");
	if (answer->class != ANSWER_OK)
	{
		listing_failed(lane, answer);
		return;
	}
	replace_text(lane, &lane->head, cid);
	old = MemoryContextSwitchTo(lane->context);
	lane->records = makeStringInfo();
	MemoryContextSwitchTo(old);
	appendStringInfoChar(lane->records, '[');
	start_list(lane, NULL);
}

static void
append_member(StringInfo body, const char *name, const char *value)
{
	appendStringInfo(body, ",\"%s\":", name);
	if (value)
		escape_json(body, value);
	else
		appendStringInfoString(body, "null");
}

/*
 * The JSON of a record, malloc'ed; NULL if it cannot be kept: jsonb cannot
 * hold a NUL.
 */
static char *
storable(json_t *value)
{
	char	   *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (text == NULL ||
		(strstr(text, "\\u0000") == NULL && strlen(text) <= MAX_RECORD))
		return text;
	free(text);
	return NULL;
}

/*
 * One record of a listing, without its content if that cannot be kept.  What
 * has no record key or no cid is not a record; was it, we could not tell
 * which one, and had to take one we know for removed.
 */
static bool
append_listed(StringInfo records, json_t *item)
{
	const char *uri = xrpc_text(item, "uri");
	const char *cid = xrpc_cid(item, "cid");
	AtUri		parts;
	char	   *value;

	if (uri == NULL || cid == NULL ||
		!syntax_parse_at_uri(uri, strlen(uri), &parts) ||
		parts.rkey.data == NULL)
		return false;
	if (records->len > 1)
		appendStringInfoChar(records, ',');
	appendStringInfoString(records, "{\"uri\":");
	escape_json(records, uri);
	append_member(records, "cid", cid);
	value = storable(json_object_get(item, "value"));
	appendStringInfo(records, ",\"value\":%s}", value ? value : "null");
	free(value);
	return true;
}

static void
listing_complete(Lane *lane)
{
	appendStringInfoChar(lane->records, ']');
	new_outcome(OUTCOME_LIST, NULL, lane->did)->text =
		keep(lane->records->data);
	drop_records(lane);
}

/* Add a page to the listing; turns the answer into a failure if it is odd. */
static void
take_page(Lane *lane, Answer *answer)
{
	json_t	   *page = json_object_get(answer->body, "records");
	json_t	   *item;
	size_t		i;

	if (!json_is_array(page))
	{
		xrpc_unreadable(answer, "the answer has no list of records");
		return;
	}
	json_array_foreach(page, i, item)
	{
		if (!append_listed(lane->records, item))
		{
			xrpc_unreadable(answer, "a record in the list has no key or cid");
			return;
		}
		if (lane->records->len <= MAX_LISTING)
			continue;
		xrpc_unreadable(answer, "there are too many records, or too large");
		strlcpy(answer->name, "listing_too_large", XRPC_NAME_SIZE);
		return;
	}
}

static void
list_answer(Lane *lane, Answer *answer)
{
	const char *cursor = xrpc_text(answer->body, "cursor");

	if (answer->class == ANSWER_OK)
		take_page(lane, answer);
	if (answer->class == ANSWER_OK && ++lane->pages >= MAX_PAGES &&
		cursor != NULL)
	{
		xrpc_unreadable(answer, "the list of records has too many pages");
		strlcpy(answer->name, "listing_too_large", XRPC_NAME_SIZE);
	}
	if (answer->class != ANSWER_OK)
		listing_failed(lane, answer);
	else if (cursor != NULL &&
			 json_array_size(json_object_get(answer->body, "records")) > 0)
		start_list(lane, cursor);
	else
		listing_complete(lane);
}

/* rsvp_sync._is_listed(did text): are the account's records current? */
Datum
rsvp_sync_is_listed(PG_FUNCTION_ARGS)
{
	text	   *did = PG_GETARG_TEXT_PP(0);
	Lane	   *lane = find_lane(pnstrdup(VARDATA_ANY(did),
										  VARSIZE_ANY_EXHDR(did)));

	PG_RETURN_BOOL(lane != NULL && lane->head != NULL &&
				   lane->records == NULL);
}

/* ------------------------------------------------------------------------
 * The jobs themselves
 * ------------------------------------------------------------------------ */

static bool
job_is(const Job *job, const char *action)
{
	return strcmp(job->action, action) == 0;
}

static void
start_write(Lane *lane, Job *job)
{
	bool		put = job_is(job, "put");
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"repo\":");
	escape_json(&body, job->did);
	append_member(&body, "collection", RSVP_COLLECTION);
	append_member(&body, "rkey", job->rkey);
	if (put)
		appendStringInfo(&body, ",\"record\":%s", job->record);
	append_member(&body, "swapRecord", job->swap);
	if (lane->head != NULL && !job->head_unknown)
		append_member(&body, "swapCommit", lane->head);
	appendStringInfoChar(&body, '}');
	start_call(CALL_JOB, lane, job, NULL, lane->pds,
			   xrpc_post(lane->pds, put ? "com.atproto.repo.putRecord" :
						 "com.atproto.repo.deleteRecord",
						 lane->access_token, body.data,
						 rsvp_sync_request_timeout));
	pfree(body.data);
}

static void
start_read(Lane *lane, Job *job)
{
	const char *params[] = {
		"repo", job->did, "collection", RSVP_COLLECTION, "rkey", job->rkey,
		NULL
	};

	start_call(CALL_JOB, lane, job, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.repo.getRecord", params,
						rsvp_sync_request_timeout));
}

/* What an answer says of the repository's head, for the next write. */
static void
learn_head(Lane *lane, Job *job, Answer *answer)
{
	json_t	   *commit = json_object_get(answer->body, "commit");
	const char *cid = xrpc_cid(commit, "cid");

	if (commit == NULL)
		return;					/* nothing was written: the head stays */
	if (lane->head == NULL || job->head_unknown)
		return;					/* others may have written in between */
	replace_text(lane, &lane->head, cid);
}

static void
write_succeeded(Lane *lane, Job *job, Answer *answer)
{
	bool		put = job_is(job, "put");
	const char *cid = xrpc_cid(answer->body, "cid");
	const char *rev = xrpc_text(json_object_get(answer->body, "commit"),
								"rev");
	Outcome    *outcome;

	learn_head(lane, job, answer);
	if (put && cid == NULL)
	{
		/* It may have been written, and is read to find out. */
		xrpc_unreadable(answer, "the answer to a write has no cid");
		fail_job(job, "retry", answer->name, answer->message, false, 0);
		return;
	}
	outcome = new_outcome(put ? OUTCOME_PUT : OUTCOME_DELETE, job, NULL);
	outcome->cid = keep(cid);
	if (rev != NULL && syntax_is_tid(rev, strlen(rev)))
		outcome->rev = keep(rev);
}

/*
 * A cid that is not said can be computed from the content.  With neither we
 * know nothing: only the PDS's word for it means that there is no record.
 */
static void
read_succeeded(Job *job, Answer *answer)
{
	json_t	   *value = json_object_get(answer->body, "value");
	const char *cid = xrpc_cid(answer->body, "cid");
	char	   *text = json_is_object(value) ? storable(value) : NULL;
	Outcome    *outcome;

	if (!json_is_object(value) || (text == NULL && cid == NULL))
	{
		xrpc_unreadable(answer, "the record has no content or no cid");
		fail_job(job, "retry", answer->name, answer->message, false, 0);
		return;
	}
	outcome = new_outcome(OUTCOME_READ, job, NULL);
	outcome->cid = keep(cid);
	outcome->text = keep(text);
	free(text);
}

/* Back to the front: it is the next one again. */
static void
retry_now(Lane *lane, Job *job)
{
	dlist_push_head(&lane->jobs, &job->node);
	lane->njobs++;
}

/*
 * What was known of the record, or of the head, is out of date; both are read
 * again.  Once a write that only updates is repeated at once, without the
 * head: others may write to this repository all the time.
 */
static void
swap_failed(Lane *lane, Job *job, Answer *answer)
{
	bool		commit = strncmp(answer->message, "Commit was at", 13) == 0;

	replace_text(lane, &lane->head, NULL);
	if (commit && !job->mint && !job->head_unknown)
	{
		job->head_unknown = true;
		retry_now(lane, job);
	}
	else
		fail_job(job, "again", answer->name, answer->message, false, 0);
}

/* There is no such record, says the PDS. */
static void
record_absent(Job *job, Answer *answer)
{
	if (job_is(job, "read"))
		new_outcome(OUTCOME_READ, job, NULL);
	else if (job_is(job, "delete"))
		new_outcome(OUTCOME_DELETE, job, NULL);
	else
		fail_job(job, "again", answer->name, answer->message, false, 0);
}

static void
job_needs_session(Lane *lane, Job *job, Answer *answer)
{
	replace_text(lane, &lane->access_token, NULL);
	if (job->logins++ > 0 && !answer->known)
	{
		/* A status alone, from whatever stands in front of the PDS. */
		lane->session = lane->password || lane->refresh_token ?
			SESSION_HAS_CREDENTIAL : SESSION_NONE;
		fail_job(job, "retry", answer->name, answer->message, answer->sure,
				 answer->wait_ms);
		return;
	}
	retry_now(lane, job);
	if (job->logins <= MAX_LOGINS)
		lane->session = lane->password || lane->refresh_token ?
			SESSION_HAS_CREDENTIAL : SESSION_NONE;
	else
		ask_user(lane, "needs_login", answer->message);
}

static void
limit_reached(Lane *lane, Job *job, Answer *answer)
{
	long		wait = Max(answer->wait_ms, rsvp_sync_retry_base);

	retry_now(lane, job);
	if (wait <= SHORT_WAIT_MS)
		lane->not_before =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
	else
		fail_lane(lane, "later", answer->name, answer->message, wait);
}

static void
job_refused(Lane *lane, Job *job, Answer *answer)
{
	switch (answer->class)
	{
		case ANSWER_ABSENT:
			record_absent(job, answer);
			break;
		case ANSWER_REREAD:
			swap_failed(lane, job, answer);
			break;
		case ANSWER_REFRESH:
			job_needs_session(lane, job, answer);
			break;
		case ANSWER_USER:
			retry_now(lane, job);
			ask_user(lane, account_state(answer->name, "needs_login"),
					 answer->message);
			break;
		case ANSWER_LIMIT:
			limit_reached(lane, job, answer);
			break;
		case ANSWER_PERMANENT:
			/* Without a name it need not be the PDS's answer. */
			if (!job_is(job, "read") && answer->named)
			{
				fail_job(job, "failed", "refused",
						 psprintf("%s: %s", answer->name, answer->message),
						 answer->sure, 0);
				break;
			}
			/* FALLTHROUGH */
		default:
			fail_job(job, "retry", answer->name, answer->message,
					 answer->sure, answer->wait_ms);
			break;
	}
}

static void
job_answer(Lane *lane, Job *job, Answer *answer)
{
	if (answer->class != ANSWER_OK)
		job_refused(lane, job, answer);
	else if (job_is(job, "read"))
		read_succeeded(job, answer);
	else
		write_succeeded(lane, job, answer);
}

/* ------------------------------------------------------------------------
 * Going on
 * ------------------------------------------------------------------------ */

/* The next call of a lane, if it may make one.  Did it? */
static bool
lane_pump(Lane *lane)
{
	Job		   *job;
	bool		writes;

	if (lane->busy || lane->records != NULL || dlist_is_empty(&lane->jobs) ||
		lane->session == SESSION_WANTS_CREDENTIAL)
		return false;
	if (lane->not_before > GetCurrentTimestamp() || !host_has_room(lane->pds))
		return false;
	job = dlist_head_element(Job, node, &lane->jobs);
	writes = job_is(job, "put") || job_is(job, "delete");
	if (job->need != NULL || (job->mint && writes && lane->head == NULL))
		start_head(lane);
	else if (job_is(job, "read"))
		start_read(lane, pop_job(lane));
	else if (lane->session == SESSION_LIVE)
		start_write(lane, pop_job(lane));
	else if (lane->session == SESSION_HAS_CREDENTIAL)
		start_session(lane);
	else
	{
		lane->session = SESSION_WANTS_CREDENTIAL;
		return false;
	}
	return true;
}

/* Start whatever can be started now.  Nothing may be open. */
void
lane_start(void)
{
	HASH_SEQ_STATUS scan;
	dlist_mutable_iter iter;
	Lane	   *last = dlist_is_empty(&active_lanes) ? NULL :
		dlist_tail_element(Lane, node, &active_lanes);
	bool		round_over = false;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		start_task(task);
	/*
	 * A lane that got its turn goes to the end, so that a few with much to do
	 * cannot keep the connections of a host to themselves.
	 */
	dlist_foreach_modify(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane == last)
			round_over = true;
		if (lane_pump(lane))
			dlist_move_tail(&active_lanes, &lane->node);
		if (round_over)
			break;
	}
	rest_lanes();
}

/* An answer came, or will never come. */
void
lane_finished(HttpRequest *req)
{
	Call	   *call = req->owner;
	Answer		answer;

	xrpc_judge(req, &answer);
	host_leaves(call->host);
	if (call->lane)
		call->lane->busy = false;
	switch (call->kind)
	{
		case CALL_LOGIN:
		case CALL_REFRESH:
			session_answer(call->lane, &answer, call->kind == CALL_REFRESH);
			break;
		case CALL_HEAD:
			head_answer(call->lane, &answer);
			break;
		case CALL_LIST:
			list_answer(call->lane, &answer);
			break;
		case CALL_JOB:
			job_answer(call->lane, call->job, &answer);
			break;
		case CALL_TASK:
			task_answer(call->task, &answer);
			break;
	}
	xrpc_forget(&answer);
	http_free(req);
	pfree(call->host);
	pfree(call);
}

/* How long until a lane may go on by itself; -1: none waits for time. */
long
lane_timeout_ms(void)
{
	dlist_iter	iter;
	TimestampTz now = GetCurrentTimestamp();
	long		shortest = -1;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);
		long		ms;

		if (dlist_is_empty(&lane->jobs) || lane->not_before <= now)
			continue;
		ms = TimestampDifferenceMilliseconds(now, lane->not_before);
		if (shortest < 0 || ms < shortest)
			shortest = ms;
	}
	return shortest;
}

/* Jobs that waited for what an outcome told are planned again. */
void
lane_outcome_recorded(Outcome *outcome)
{
	dlist_mutable_iter iter;
	char	   *name;
	Task	   *task;
	Lane	   *lane;

	switch (outcome->kind)
	{
		case OUTCOME_READ:
			dlist_push_tail(&replans, &outcome->job->node);
			break;
		case OUTCOME_PUT:
		case OUTCOME_DELETE:
		case OUTCOME_FAILED:
			lane_free_job(outcome->job);
			break;
		case OUTCOME_IDENTITY:
		case OUTCOME_EVENT:
			name = psprintf("%s %s", outcome->kind == OUTCOME_EVENT ?
							"event" : "identity", outcome->subject);
			task = hash_search(tasks, &name, HASH_FIND, NULL);
			while (task && !dlist_is_empty(&task->jobs))
				dlist_push_tail(&replans, dlist_pop_head_node(&task->jobs));
			if (task)
				end_task(task);
			break;
		case OUTCOME_LIST:
			lane = lane_of(outcome->subject);
			dlist_foreach_modify(iter, &lane->jobs)
			{
				Job		   *job = dlist_container(Job, node, iter.cur);

				if (job->need == NULL && !job->mint)
					continue;
				dlist_delete(&job->node);
				lane->njobs--;
				dlist_push_tail(&replans, &job->node);
			}
			break;
		case OUTCOME_ACCOUNT:
			break;
	}
}

static void
recall_jobs(dlist_head *jobs, Lane *lane, int64 source_id)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (source_id != 0 && job->source_id != source_id)
			continue;
		dlist_delete(&job->node);
		if (lane)
			lane->njobs--;
		dlist_push_tail(&replans, &job->node);
	}
}

/* Nothing is to be sent for now: take back what has not been. */
void
lane_recall(int64 source_id)
{
	dlist_iter	iter;
	HASH_SEQ_STATUS scan;
	Task	   *task;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		recall_jobs(&lane->jobs, lane, source_id);
	}
	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		recall_jobs(&task->jobs, NULL, source_id);
}

/* It could not be written down: those who wait for it try again later. */
void
lane_outcome_refused(Outcome *outcome)
{
	char	   *name;
	Task	   *task;

	switch (outcome->kind)
	{
		case OUTCOME_IDENTITY:
		case OUTCOME_EVENT:
			name = psprintf("%s %s", outcome->kind == OUTCOME_EVENT ?
							"event" : "identity", outcome->subject);
			task = hash_search(tasks, &name, HASH_FIND, NULL);
			if (task)
				fail_task(task, "retry", "not_recorded", "see the log", 0);
			break;
		case OUTCOME_LIST:
			forget_listing(lane_of(outcome->subject));
			fail_lane(lane_of(outcome->subject), "retry", "not_recorded",
					  "see the log", 0);
			break;
		case OUTCOME_ACCOUNT:
			break;
		default:
			fail_job(outcome->job, "retry", "not_recorded", "see the log",
					 false, 0);
			break;
	}
}

void
lane_outcomes_recorded(void)
{
	if (dlist_is_empty(&outcomes))
		MemoryContextReset(outcome_context);
}
