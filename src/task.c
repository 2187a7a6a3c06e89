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

#include "lane_state.h"
#include "settings.h"

static HTAB *tasks = NULL;
static MemoryContext task_context = NULL;

void
task_startup(MemoryContext context)
{
	task_context = context;
	tasks = text_table("rsvp_sync tasks", sizeof(Task), context);
}


void
task_add(Job *job)
{
	bool		identity = strcmp(job->need, "identity") == 0;
	char	   *name = psprintf("%s %s", job->need, job->subject);
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
		task->subject = MemoryContextStrdup(task->context, job->subject);
		task->host = MemoryContextStrdup(task->context, identity ?
										 rsvp_sync_plc_url :
										 job->organiser_pds);
		dlist_init(&task->jobs);
	}
	dlist_push_tail(&task->jobs, &job->node);
	pfree(name);
}

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
	Host	   *host = host_of(task->host);
	HttpRequest *req;

	if (task->started || !host_has_room(host) ||
		host_wait(host, true, host_now()) != 0)
		return;
	req = task->identity ?
		xrpc_did_document(task->subject, rsvp_sync_plc_url,
						  rsvp_sync_request_timeout) :
		event_request(task);
	if (req == NULL)
	{
		note_error("unsupported_identifier");
		fail_task(task, "failed", "unsupported_identifier", task->subject, 0);
		return;
	}
	task->started = true;
	start_call(CALL_TASK, NULL, NULL, task, task->host, req);
}

static void
identity_answer(Task *task, Answer *answer)
{
	const char *pds = xrpc_pds_of_document(answer->body, task->subject);
	Outcome    *outcome;

	if (pds == NULL)
	{
		xrpc_odd(answer, "no_pds", "the DID document names no PDS");
		fail_task(task, "retry", answer->name, answer->message, 0);
		return;
	}
	outcome = new_outcome(OUTCOME_IDENTITY, NULL, task->subject);
	outcome->text = outcome_keep(pds);
	outcome->handle = outcome_keep(xrpc_handle_of_document(answer->body));
}

void
task_answer(Task *task, Answer *answer)
{
	const char *cid;

	if (answer->class == ANSWER_ABSENT && !task->identity)
	{
		strlcpy(answer->name, "event_not_found", XRPC_NAME_SIZE);
		fail_task(task, "failed", answer->name, answer->message, 0);
	}
	else if (answer->class != ANSWER_OK)
		fail_task(task, "retry", answer->name, answer->message,
				  answer->wait_ms);
	else if (task->identity)
		identity_answer(task, answer);
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

/* What it brought is written down: those who waited are planned again. */
void
task_recorded(Outcome *outcome)
{
	Task	   *task = task_of(outcome);

	if (task == NULL)
		return;
	recall_jobs(&task->jobs, 0);
	end_task(task);
}

/* It could not be written down: they try again later. */
void
task_refused(Outcome *outcome)
{
	Task	   *task = task_of(outcome);

	if (task)
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

/* Keys whose server may not be asked wait for it in the queue. */
void
task_settle(int64 now)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
	{
		const char *why = host_closed_because(host_of(task->host), now);

		if (why == NULL || task->started)
			continue;
		while (!dlist_is_empty(&task->jobs))
			park_job(dlist_container(Job, node,
									 dlist_pop_head_node(&task->jobs)),
					 task->host, why);
		end_task(task);
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
		int64		wait = task->started ? -1 :
			host_wait(host_of(task->host), true, now);

		if (wait > 0 && (shortest < 0 || wait < shortest))
			shortest = wait;
	}
	return shortest;
}
