/*-------------------------------------------------------------------------
 *
 * task.c
 *		What many keys may wait for: DID documents and event records.
 *
 * A task is nobody's own matter, so it belongs to no lane: the jobs that need
 * what it brings wait for it, and are planned again once that is written down.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "host.h"
#include "lane_state.h"
#include "settings.h"
#include "verify.h"

/* Nobody waits for a handle, so these may not keep others waiting. */
#define MAX_HANDLE_CHECKS	2

static HTAB *tasks = NULL;
static int	handle_checks = 0;
static MemoryContext task_context = NULL;

void
task_startup(MemoryContext context)
{
	task_context = context;
	tasks = text_table("rsvp_sync tasks", sizeof(Task), context);
}


/* The task of this name, made if it is not there; host: of an event. */
static Task *
task_for(const char *kind, const char *subject, const char *host)
{
	bool		identity = strcmp(kind, "identity") == 0;
	char	   *name = psprintf("%s %s", kind, subject);
	bool		found;
	Task	   *task = hash_search(tasks, &name, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) task + sizeof(char *), 0,
			   sizeof(Task) - sizeof(char *));
		task->context = AllocSetContextCreate(task_context, "rsvp_sync task",
											  ALLOCSET_SMALL_SIZES);
		task->name = MemoryContextStrdup(task->context, name);
		task->identity = identity;
		task->subject = MemoryContextStrdup(task->context, subject);
		if (identity)
			host = xrpc_identity_origin(subject, rsvp_sync_plc_url,
										rsvp_sync_insecure_hosts);
		if (host != NULL)
			task->host = MemoryContextStrdup(task->context, host);
		dlist_init(&task->jobs);
	}
	pfree(name);
	return task;
}

void
task_add(Job *job)
{
	Task	   *task = task_for(job->need, job->subject, job->organiser_pds);

	dlist_push_tail(&task->jobs, &job->node);
}

/* A DID document that nobody waits for. */
void
task_verify(const char *did)
{
	task_for("identity", did, NULL);
}

/* Does the host of a handle name this DID? */
void
task_check_handle(const char *did, const char *handle)
{
	char	   *host;
	Task	   *task;

	if (handle_checks >= MAX_HANDLE_CHECKS)
		return;
	host = xrpc_handle_origin(handle, rsvp_sync_insecure_hosts);
	task = task_for("handle", did, host);
	if (task->handle == NULL)
	{
		task->handle = MemoryContextStrdup(task->context, handle);
		handle_checks++;
	}
	pfree(host);
}

/* What an account itself says: a question after the other, see verify.c. */
void
task_visit(Visit *visit, const char *did, const char *host)
{
	task_for("visit", did, host)->visit = visit;
}

static void
end_task(Task *task)
{
	char	   *name = unconstify(char *, task->name);

	if (task->handle != NULL)
		handle_checks--;
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

/* ms until the task may be started; -1: not before something else happens */
static int64
wait_of(Task *task, int64 now)
{
	Host	   *host;

	if (task->started || task->given_up || task->host == NULL)
		return -1;
	host = host_of(task->host);
	if (!host_has_room(host))
		return -1;
	return host_wait(host, task->visit == NULL ||
					 visit_is_urgent(task->visit), now);
}

static void
start_task(Task *task)
{
	HttpRequest *req = NULL;

	if (task->started || (task->host != NULL && wait_of(task, host_now()) != 0))
		return;
	if (task->host != NULL)
		req = task->visit ? visit_request(task->visit) :
			task->handle ?
			xrpc_handle_document(task->host, rsvp_sync_request_timeout) :
			task->identity ?
			xrpc_did_document(task->subject, task->host,
							  rsvp_sync_request_timeout) :
			event_request(task);
	if (req == NULL && task->visit)
	{
		visit_put_off(task->visit, "out_of_memory");
		end_task(task);
		return;
	}
	if (req == NULL)
	{
		if (task->identity)
			visits_nowhere(task->subject);
		note_error("unsupported_identifier");
		fail_task(task, "failed", "unsupported_identifier", task->subject, 0);
		return;
	}
	task->started = task->calling = true;
	start_call(task->handle ? CALL_HANDLE : CALL_TASK, NULL, NULL, task,
			   task->host, req);
}

/* A DID as a line of text; whatever else it is, is no. */
void
handle_answer(Task *task, HttpRequest *req)
{
	Outcome    *outcome = new_outcome(OUTCOME_HANDLE, NULL, task->subject);
	size_t		len = strlen(task->subject);

	outcome->handle = outcome_keep(task->handle);
	outcome->sure = req->fault == HTTP_ANSWERED && req->status == 200 &&
		strncmp(req->body, task->subject, len) == 0 &&
		strspn(req->body + len, " \t\r\n") == strlen(req->body + len);
	end_task(task);
}

/* Whether there is a PDS to go on with all the same, the worker finds out. */
static void
identity_failed(Task *task, const char *code, const char *message, bool gone,
				long wait_ms)
{
	Outcome    *outcome = new_outcome(OUTCOME_IDENTITY, NULL, task->subject);

	outcome->code = outcome_keep(code);
	outcome->message = outcome_keep(message);
	outcome->sure = gone;
	outcome->wait_ms = wait_ms;
}

static void
identity_answer(Task *task, Answer *answer)
{
	char	   *pds = xrpc_pds_of_document(answer->body);
	Outcome    *outcome;

	if (!xrpc_is_document_of(answer->body, task->subject))
	{
		identity_failed(task, "wrong_document",
						"the answer is not this DID's document", false, 0);
		return;
	}
	if (pds == NULL)
	{
		xrpc_odd(answer, "no_pds", "the DID document names no PDS");
		identity_failed(task, answer->name, answer->message, true, 0);
		return;
	}
	outcome = new_outcome(OUTCOME_IDENTITY, NULL, task->subject);
	outcome->text = outcome_keep(pds);
	outcome->handle = outcome_keep(xrpc_handle_of_document(answer->body));
}

/* Perhaps the organiser is elsewhere by now. */
static void
event_failed(Task *task, Answer *answer)
{
	char	   *organiser = pstrdup(task->subject + strlen("at://"));

	organiser[strcspn(organiser, "/")] = '\0';
	if (answer->class != ANSWER_LIMIT)
		new_outcome(OUTCOME_HINT, NULL, organiser);
	pfree(organiser);
	fail_task(task, "retry", answer->name, answer->message, answer->wait_ms);
}

void
task_answer(Task *task, Answer *answer)
{
	const char *cid;

	if (task->visit)
	{
		if (visit_answer(task->visit, answer))
			task->started = false;
		else
			end_task(task);
	}
	else if (answer->class == ANSWER_ABSENT && !task->identity)
	{
		strlcpy(answer->name, "event_not_found", XRPC_NAME_SIZE);
		fail_task(task, "failed", answer->name, answer->message, 0);
	}
	else if (task->identity && answer->class != ANSWER_OK)
		/* The directory's own word; any other 404 may be a stranger's. */
		identity_failed(task, answer->name, answer->message,
						strncmp(task->subject, "did:plc:", 8) == 0 &&
						strncmp(answer->message, "DID not ", 8) == 0,
						answer->wait_ms);
	else if (task->identity)
		identity_answer(task, answer);
	else if (answer->class != ANSWER_OK)
		event_failed(task, answer);
	else if ((cid = xrpc_cid(answer->body, "cid")) == NULL)
	{
		xrpc_odd(answer, "no_cid", "the event record has no cid");
		fail_task(task, "retry", answer->name, answer->message, 0);
	}
	else
		new_outcome(OUTCOME_EVENT, NULL, task->subject)->cid = outcome_keep(cid);
}

void
task_start_all(void)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		start_task(task);
}

static Task *
task_of(Outcome *outcome)
{
	char	   *name = psprintf("%s %s", outcome->kind == OUTCOME_EVENT ?
								"event" : "identity", outcome->subject);

	return hash_search(tasks, &name, HASH_FIND, NULL);
}

/* Keys whose server may not be asked wait for it in the queue. */
static void
park_task(Task *task, const char *why)
{
	while (!dlist_is_empty(&task->jobs))
		park_job(dlist_container(Job, node, dlist_pop_head_node(&task->jobs)),
				 task->host, why);
	end_task(task);
}

/* What it brought is written down: those who waited are planned again. */
void
task_recorded(Outcome *outcome)
{
	Task	   *task = task_of(outcome);

	if (task == NULL)
		return;
	if (outcome->kind == OUTCOME_IDENTITY && outcome->text == NULL &&
		!outcome->follow)
	{
		if (task->given_up)
			park_task(task, task->given_up);
		else
			fail_task(task, "retry", outcome->code, outcome->message,
				  outcome->wait_ms);
		return;
	}
	recall_jobs(&task->jobs, 0);
	if (!task->calling)
		end_task(task);			/* else its own answer does */
}

/* It could not be written down: they try again later. */
void
task_refused(Outcome *outcome)
{
	Task	   *task = task_of(outcome);

	if (task && !task->calling)
		fail_task(task, "retry", "not_recorded", "see the log", 0);
}

void
task_recall(int64 source_id)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		recall_jobs(&task->jobs, source_id);
}

/*
 * Who may not be asked for a DID document need not be: the one that is known
 * may still serve.
 */
void
task_settle(int64 now)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
	{
		Host	   *host = task->host ? host_of(task->host) : NULL;
		const char *why = host ? host_closed_because(host, now) : NULL;

		if (why == NULL || task->started || task->given_up)
			continue;
		if (task->visit)
		{
			host->wanted = true;	/* no key asks for it */
			visit_put_off(task->visit, why);
		}
		if (!task->identity)
		{
			park_task(task, why);
			continue;
		}
		task->given_up = why;
		host->wanted = true;
		identity_failed(task, why, "the server cannot be asked now", false, 0);
	}
}

/* When one that waits for its server may go on; -1: none waits for time. */
int64
task_wait(int64 now)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;
	int64		shortest = -1;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
	{
		int64		wait = wait_of(task, now);

		if (wait > 0 && (shortest < 0 || wait < shortest))
			shortest = wait;
	}
	return shortest;
}
