/*-------------------------------------------------------------------------
 *
 * call.c
 *		Calls under way, and what their answers mean for those who asked.
 *
 * Every request of a lane, a task or a probe is a Call: it says whose answer
 * comes, and is counted with its server.  A call that its server did not
 * answer waits among that server's suspects until a probe has told whose
 * fault it was.  Every answer is counted once.
 *
 * A call's memory and its job are alive as long as the request is: jobs with
 * a call under way are not freed by anybody else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"

/* A probe is answered quickly or not at all. */
#define PROBE_TIMEOUT_MS	5000

typedef struct Call
{
	CallKind	kind;
	Lane	   *lane;
	Job		   *job;
	WriteBatch *batch;			/* instead of one job */
	Task	   *task;
	Host	   *host;
	int			epoch;			/* of the lane when it began */
	bool		suspect;		/* waits for its host's probe */
	dlist_node	node;			/* ... among these */
	Answer		answer;			/* of a suspect; without a body */
} Call;

static MemoryContext call_context = NULL;
static int	n_calls = 0;

void
call_startup(MemoryContext parent)
{
	call_context = AllocSetContextCreate(parent, "rsvp_sync calls",
										 ALLOCSET_DEFAULT_SIZES);
}

int
calls_under_way(void)
{
	return n_calls;
}

static Call *
new_call(CallKind kind, Lane *lane, const char *host)
{
	Call	   *call = MemoryContextAllocZero(call_context, sizeof(Call));

	call->kind = kind;
	call->lane = lane;
	call->epoch = lane ? lane->epoch : 0;
	call->host = host_of(host);
	return call;
}

static void
begin_call(Call *call, HttpRequest *req)
{
	if (req == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for a request")));
	host_call_begins(call->host, host_now());
	n_calls++;
	req->owner = call;
	if (call->lane)
		call->lane->busy = true;
	if (!http_start(req))
		lane_finished(req);
}

/* Start a request; its answer, or its refusal, comes to lane_finished(). */
void
start_call(CallKind kind, Lane *lane, Job *job, Task *task, const char *host,
		   HttpRequest *req)
{
	Call	   *call = new_call(kind, lane, host);

	call->job = job;
	call->task = task;
	begin_call(call, req);
}

/* The same for several jobs at once. */
void
start_batch_call(Lane *lane, WriteBatch *batch, HttpRequest *req)
{
	Call	   *call = new_call(CALL_BATCH, lane, lane->pds);

	call->batch = batch;
	call->host->writes += batch_count(batch);
	begin_call(call, req);
}

/* Ask servers how they are. */
void
start_probes(int64 now)
{
	static const char *const none[] = {NULL};
	HASH_SEQ_STATUS scan;
	Host	   *host;
	List	   *wanted = NIL;
	ListCell   *cell;

	host_scan(&scan);
	while ((host = hash_seq_search(&scan)) != NULL)
		if (host_wants_probe(host, now) &&
			(host->state == HOST_SUSPECT || host->wanted ||
			 park_any(host->name)))
			wanted = lappend(wanted, host);
	foreach(cell, wanted)
	{
		host = lfirst(cell);
		host->probing = true;
		start_call(CALL_PROBE, NULL, NULL, NULL, host->name,
				   xrpc_get(host->name, "com.atproto.server.describeServer",
							none, Min(PROBE_TIMEOUT_MS,
									  rsvp_sync_request_timeout)));
	}
	list_free(wanted);
}

/* Whose limit is it: the account's, by its own points, or our address's? */
static bool
is_limit_of_account(Call *call, const RateLimit *limit)
{
	return call->lane != NULL && limit->known &&
		(limit->window_s >= 3600 || call->kind == CALL_LOGIN);
}

static void
learn_limit(Call *call, Answer *answer, int64 now)
{
	if (call->kind == CALL_LOGIN)
		return;					/* signing in is rare, and limited apart */
	/* Others it has may be hidden behind the one it shows. */
	if (call->lane != NULL && answer->status != 0)
		call->lane->points_left = answer->limit.known ?
			answer->limit.remaining : LONG_MAX;
	if (is_limit_of_account(call, &answer->limit))
		budget_learn(&call->lane->budgets, &answer->limit, 0, now);
	else
		budget_learn(&call->host->budgets, &answer->limit, call->host->calls,
					 now);
}

/*
 * Refused for a limit.  A server that does not say which limit is believed to
 * mean the account, until it refuses a second one.
 */
static void
limited(Call *call, Answer *answer)
{
	int64		now = host_now();
	int64		wait = Max(answer->wait_ms, rsvp_sync_retry_base);
	Host	   *host = call->host;
	bool		account = is_limit_of_account(call, &answer->limit);

	if (!answer->limit.known && call->lane != NULL)
	{
		account = host->refused_until <= now || host->refused == call->lane;
		host->refused = call->lane;
		host->refused_until = now + wait;
	}
	if (call->kind == CALL_JOB && call->epoch != call->lane->epoch)
		replan_job(call->job);
	else if (call->kind == CALL_JOB)
		retry_now(call->lane, call->job);
	else if (call->kind == CALL_BATCH && call->epoch != call->lane->epoch)
		batch_replan(call->batch);
	else if (call->kind == CALL_BATCH)
		batch_again(call->lane, call->batch);
	else if (call->kind == CALL_TASK)
		call->task->started = false;
	else if (call->kind == CALL_HEAD || call->kind == CALL_LIST)
		forget_listing(call->lane);
	if (!account)
		host_rests(host, now + wait);
	/* An authorization server's limit keeps its accounts from going on, too. */
	if (account || (call->lane != NULL &&
					strcmp(host->name, call->lane->pds) != 0))
		lane_rests(call->lane, wait);
}

/* An answer to what no longer holds: only what a job did counts. */
static void
stale_answer(Call *call, Answer *answer)
{
	Job		   *job = call->job;

	if (call->kind == CALL_BATCH)
		batch_stale(call->lane, call->batch, answer);
	else if (call->kind != CALL_JOB)
		forget_listing(call->lane);
	else if (job_is(job, "read") || answer->class == ANSWER_USER ||
			 answer->class == ANSWER_REFRESH)
		replan_job(job);
	else
	{
		job->head_unknown = true;
		job_answer(call->lane, job, answer);
	}
}

static void
fresh_answer(Call *call, Answer *answer)
{
	switch (call->kind)
	{
		case CALL_LOGIN:
		case CALL_REFRESH:
			session_answer(call->lane, answer, call->kind == CALL_REFRESH);
			break;
		case CALL_DOCUMENT:
		case CALL_RESOURCE:
		case CALL_SERVER:
		case CALL_TOKEN:
			renewal_answer(call->lane, call->kind, answer);
			break;
		case CALL_HEAD:
			head_answer(call->lane, answer);
			break;
		case CALL_LIST:
			list_answer(call->lane, answer);
			break;
		case CALL_JOB:
			job_answer(call->lane, call->job, answer);
			break;
		case CALL_BATCH:
			batch_answer(call->lane, call->batch, answer);
			break;
		case CALL_TASK:
			task_answer(call->task, answer);
			break;
		case CALL_HANDLE:
		case CALL_PROBE:
			break;
	}
}

/* What an answer means for those who asked. */
static void
conclude(Call *call, Answer *answer)
{
	Lane	   *lane = call->lane;

	if (lane)
		lane->busy = false;
	if (call->task)
		call->task->calling = false;
	/* What a refresh has brought is good whatever else has changed. */
	if (call->kind == CALL_TOKEN)
		fresh_answer(call, answer);
	else if (answer->class == ANSWER_LIMIT)
		limited(call, answer);
	else if (lane && call->epoch != lane->epoch)
		stale_answer(call, answer);
	else
		fresh_answer(call, answer);
}

/* The server is down: nobody is to blame, and all is as before the call. */
static void
unmake(Call *call)
{
	Lane	   *lane = call->lane;

	if (lane)
		lane->busy = false;
	if (call->task)
		call->task->calling = false;
	switch (call->kind)
	{
		case CALL_HEAD:
		case CALL_LIST:
			forget_listing(lane);
			break;
		case CALL_JOB:
			if (call->epoch != lane->epoch)
			{
				replan_job(call->job);	/* perhaps on another server now */
				break;
			}
			call->job->sent = call->job->sent || !call->answer.sure;
			park_job(call->job, call->host->name, "host_unreachable");
			break;
		case CALL_BATCH:
			if (call->epoch != lane->epoch)
				batch_replan(call->batch);
			else
				batch_park(call->batch, call->host->name, call->answer.sure);
			break;
		case CALL_TASK:
			call->task->started = false;
			break;
		case CALL_RESOURCE:
		case CALL_SERVER:
		case CALL_TOKEN:
			/* Not the lane's own server, perhaps: its jobs wait for that. */
			while (!dlist_is_empty(&lane->jobs))
				park_job(pop_job(lane), call->host->name, "host_unreachable");
			/* FALLTHROUGH */
		case CALL_DOCUMENT:
			renewal_answer(lane, call->kind, &call->answer);
			break;
		default:
			break;
	}
}

static Call *
next_suspect(Host *host)
{
	if (dlist_is_empty(&host->suspects))
		return NULL;
	return dlist_container(Call, node, dlist_pop_head_node(&host->suspects));
}

static void
host_outcome(Host *host, const char *state, const char *message)
{
	Outcome    *outcome = new_outcome(OUTCOME_HOST, NULL, host->name);

	outcome->how = state;
	outcome->message = outcome_keep(message);
}

/* Whatever it said, it lives: failures of the last moment count. */
static void
host_answers(Host *host)
{
	Call	   *call;

	if (host->state == HOST_UP)
		return;
	if (host_is_up(host))
		host_outcome(host, "up", NULL);
	while ((call = next_suspect(host)) != NULL)
	{
		conclude(call, &call->answer);
		pfree(call);
	}
}

static void
host_is_silent(Host *host, Answer *answer)
{
	Call	   *call;

	if (host->state == HOST_UP)
		return;					/* another call was answered meanwhile */
	if (host_is_down(host, host_now()))
		host_outcome(host, "down", psprintf("%s: %s", answer->name,
											answer->message));
	while ((call = next_suspect(host)) != NULL)
	{
		unmake(call);
		pfree(call);
	}
}

static void
probe_answered(Host *host, Answer *answer)
{
	host->probing = false;
	if (answer->host_fault)
		host_is_silent(host, answer);
	else
		host_answers(host);
}

/* Nobody answered this call; whose fault that is, a probe will tell. */
static void
suspect(Call *call, Answer *answer)
{
	call->answer = *answer;
	call->answer.body = NULL;
	if (call->host->state == HOST_DOWN)
	{
		unmake(call);
		return;
	}
	call->suspect = true;
	dlist_push_tail(&call->host->suspects, &call->node);
	host_suspected(call->host, host_now());
}

/* Which operation this call belongs to; before its answer is dealt with. */
static void
describe_call(Call *call, Outcome *note)
{
	Job		   *job = call->batch ? batch_first(call->batch) : call->job;
	Lane	   *lane = call->lane;
	bool		writes = call->batch != NULL ||
		(call->kind == CALL_JOB && !job_is(job, "read"));

	if (writes)
		note->operation = job_is(job, "put") ? "create" : "delete";
	else if (call->kind == CALL_HEAD || call->kind == CALL_LIST)
		note->operation = "list";
	if (job == NULL && lane != NULL && !dlist_is_empty(&lane->jobs))
		job = dlist_head_element(Job, node, &lane->jobs);
	if (job != NULL)
		note->source_id = job->source_id;
	if (call->kind == CALL_JOB || call->batch != NULL)
		note->value = job->value;
	/* A visit may be over, and gone, when its answer is counted. */
	note->sure = call->task != NULL && call->task->visit != NULL;
}

/* One operation, however many pages; it may have ended in a page before. */
static void
time_listing(Lane *lane, Outcome *note)
{
	if (lane->records != NULL || lane->listing_began == 0)
		note->operation = NULL;
	else
		note->seconds = TimestampDifferenceMilliseconds(
			lane->listing_began, GetCurrentTimestamp()) / 1000.0;
	if (lane->records == NULL)
		lane->listing_began = 0;
}

/*
 * Every answer is counted once, whosever it is: its error, if it is one, and
 * how long the operation took that it ends.  A record that is not there is no
 * error for who reads or deletes it, nor is what a server says to a probe.
 */
static void
note_call(Call *call, Outcome *note, const Answer *answer, double seconds)
{
	bool		absent = answer->class == ANSWER_ABSENT &&
		(note->sure || (call->kind == CALL_JOB && !job_is(call->job, "put")));
	bool		alive = call->kind == CALL_PROBE && !answer->host_fault;

	note->seconds = seconds;
	if (answer->class != ANSWER_OK && !absent && !alive)
		note->code = answer->name;
	if (call->kind == CALL_HEAD || call->kind == CALL_LIST)
		time_listing(call->lane, note);
	if (note->code != NULL || note->operation != NULL)
		outcome_of_call(note);
}

/* An answer came, or will never come. */
void
lane_finished(HttpRequest *req)
{
	Call	   *call = req->owner;
	Host	   *host = call->host;
	Lane	   *lane = call->lane;
	int64		now = host_now();
	double		seconds = req->seconds;
	Outcome		note = {0};
	Answer		answer;

	n_calls--;
	if (call->kind == CALL_HANDLE)
	{
		/* Nobody's server: what becomes of it is nobody else's matter. */
		host_call_ended(host, now, 1);
		handle_answer(call->task, req);
		http_free(req);
		pfree(call);
		return;
	}
	xrpc_judge(req, &answer);
	if (lane)
	{
		renewal_learn(lane, host->name, req);
		hide_secrets(lane, &answer);
	}
	http_free(req);
	describe_call(call, &note);
	if (call->batch != NULL)
	{
		note.seconds = seconds;
		batch_note(call->batch, &note);
		host->writes -= batch_count(call->batch);
	}
	host_call_ended(host, now, call->batch ? batch_count(call->batch) : 1);
	learn_limit(call, &answer, now);
	if (call->kind == CALL_PROBE)
		probe_answered(host, &answer);
	else if (answer.host_fault)
		suspect(call, &answer);
	else
	{
		if (answer.status != 0)
			host_answers(host);
		conclude(call, &answer);
	}
	note_call(call, &note, &answer, seconds);
	if (!call->suspect)
		pfree(call);
	xrpc_forget(&answer);
}
