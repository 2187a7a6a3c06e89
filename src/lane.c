/*-------------------------------------------------------------------------
 *
 * lane.c
 *		Jobs on their way over the network, one lane per account.
 *
 * A lane makes one account's calls in order, one at a time: a session first
 * (session.c), the head of the repository and its RSVP records before a new
 * record key is used (listing.c), then its jobs (job.c).  What is not an
 * account's own matter is a task (task.c).
 *
 * None of these rooms touches a table.  What is learnt leaves as an Outcome;
 * the worker writes outcomes down and plans the keys again that waited for
 * them.  State of a lane may be lost at any time: a new worker begins with
 * nothing and finds out again.
 *
 * Requests carry a Call, which says whose answer it is.  A call's memory and
 * its job are alive as long as the request is: jobs with a call under way are
 * not freed by anybody else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"

/* Idle lanes beyond these are forgotten, the one idle longest first. */
#define MAX_IDLE_LANES	4096

typedef struct Call
{
	CallKind	kind;
	Lane	   *lane;
	Job		   *job;
	Task	   *task;
	char	   *host;			/* counted against connections_per_host */
	int			epoch;			/* of the lane when it began */
} Call;

static MemoryContext lane_context = NULL;
static HTAB *lanes = NULL;
static dlist_head active_lanes = DLIST_STATIC_INIT(active_lanes);
static dlist_head idle_lanes = DLIST_STATIC_INIT(idle_lanes);
static int	n_idle_lanes = 0;

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

/* A hash table by text.  Entries begin with the pointer to theirs. */
HTAB *
text_table(const char *name, Size entrysize, MemoryContext context)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(char *);
	ctl.entrysize = entrysize;
	ctl.hash = text_hash;
	ctl.match = text_match;
	ctl.hcxt = context;
	return hash_create(name, 256, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
					   HASH_CONTEXT);
}

void
lane_startup(void)
{
	lane_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync lanes",
										 ALLOCSET_DEFAULT_SIZES);
	lanes = text_table("rsvp_sync lanes", sizeof(Lane), lane_context);
	outcome_startup(lane_context);
	host_startup(lane_context);
	task_startup(lane_context);
	renewal_startup(lane_context);
}

/* Replace a text of a lane; what it was is overwritten, it may be a secret. */
void
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

Job *
pop_job(Lane *lane)
{
	lane->njobs--;
	return dlist_container(Job, node, dlist_pop_head_node(&lane->jobs));
}

/* None of the lane's jobs has been sent; they all share this fate. */
void
fail_lane(Lane *lane, const char *how, const char *code, const char *message,
		  long wait_ms)
{
	while (!dlist_is_empty(&lane->jobs))
		fail_job(pop_job(lane), how, code, message, true, wait_ms);
}

/* Start a request; its answer, or its refusal, comes to lane_finished(). */
void
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
	call->epoch = lane ? lane->epoch : 0;
	call->job = job;
	call->task = task;
	call->host = MemoryContextStrdup(lane_context, host);
	host_call_begins(host);
	req->owner = call;
	if (lane)
		lane->busy = true;
	if (!http_start(req))
		lane_finished(req);
}

Lane *
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

Lane *
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
	renewal_forget(lane);
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
			lane->refreshing != NULL || !dlist_is_empty(&lane->jobs))
			continue;
		lane->active = false;
		dlist_delete(&lane->node);
		dlist_push_tail(&idle_lanes, &lane->node);
		n_idle_lanes++;
	}
	while (n_idle_lanes > MAX_IDLE_LANES)
		free_lane(dlist_head_element(Lane, node, &idle_lanes));
}

/*
 * Another PDS, or the account was connected anew: nothing of what we had is
 * good any more, nor is what a call under way may bring.
 */
static void
reset_lane(Lane *lane)
{
	renewal_give_up(lane);
	wipe_lane(lane);
	replace_text(lane, &lane->head, NULL);
	replace_text(lane, &lane->credential, NULL);
	lane->session = SESSION_NONE;
	lane->epoch++;
}

void
lane_add(Job *job)
{
	Lane	   *lane;

	outcome_count_job();
	if (job->need != NULL && strcmp(job->need, "list") != 0)
	{
		task_add(job);
		return;
	}
	lane = lane_of(job->did);
	if (lane->pds == NULL || strcmp(lane->pds, job->pds) != 0)
	{
		replace_text(lane, &lane->pds, job->pds);
		reset_lane(lane);
	}
	else if (lane->credential != NULL && job->credential != NULL &&
			 strcmp(lane->credential, job->credential) != 0)
		reset_lane(lane);
	dlist_push_tail(&lane->jobs, &job->node);
	lane->njobs++;
	activate_lane(lane);
}

/* The next call of a lane, if it may make one.  Did it? */
static bool
lane_pump(Lane *lane)
{
	Job		   *job;
	bool		writes;

	if (lane->session == SESSION_HAS_LEASE && dlist_is_empty(&lane->jobs))
		renewal_give_up(lane);
	if (lane->busy || lane->records != NULL || dlist_is_empty(&lane->jobs) ||
		lane->session == SESSION_WANTS_CREDENTIAL ||
		lane->session == SESSION_WANTS_LEASE || lane->refreshing != NULL)
	{
		/* What has the lease goes out at once, or not at all. */
		if (lane->session == SESSION_HAS_LEASE && !lane->busy)
			renewal_send(lane);
		return false;
	}
	if (renewal_due(lane))
		lane->session = SESSION_NONE;
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
	dlist_mutable_iter iter;
	Lane	   *last = dlist_is_empty(&active_lanes) ? NULL :
		dlist_tail_element(Lane, node, &active_lanes);
	bool		round_over = false;

	task_start_all();
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

/* An answer to what no longer holds: only what a job did counts. */
static void
stale_answer(Call *call, Answer *answer)
{
	Job		   *job = call->job;

	if (call->kind != CALL_JOB)
		forget_listing(call->lane);
	else if (answer->class == ANSWER_USER || answer->class == ANSWER_REFRESH)
		retry_now(call->lane, job);
	else
	{
		job->head_unknown = true;
		job_answer(call->lane, job, answer);
	}
}

static void
fresh_answer(Call *call, HttpRequest *req, Answer *answer)
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
			renewal_answer(call->lane, call->kind, req, answer);
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
		case CALL_TASK:
			task_answer(call->task, answer);
			break;
	}
}

/* An answer came, or will never come. */
void
lane_finished(HttpRequest *req)
{
	Call	   *call = req->owner;
	Lane	   *lane = call->lane;
	Answer		answer;

	xrpc_judge(req, &answer);
	host_call_ended(call->host);
	if (lane)
	{
		lane->busy = false;
		renewal_learn(lane, call->host, req);
	}
	/* What a refresh has brought is good whatever else has changed. */
	if (lane && call->epoch != lane->epoch && call->kind != CALL_TOKEN)
		stale_answer(call, &answer);
	else
		fresh_answer(call, req, &answer);
	xrpc_forget(&answer);
	http_free(req);
	pfree(call->host);
	pfree(call);
}

/* Accounts whose credentials the worker has to read. */
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

/* The first active lane of which that is true, or NULL. */
Lane *
find_active_lane(bool (*condition) (Lane *lane))
{
	dlist_iter	iter;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (condition(lane))
			return lane;
	}
	return NULL;
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

		if ((dlist_is_empty(&lane->jobs) && lane->refreshing == NULL) ||
			lane->not_before <= now)
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
	Lane	   *lane;

	switch (outcome->kind)
	{
		case OUTCOME_READ:
			replan_job(outcome->job);
			break;
		case OUTCOME_PUT:
		case OUTCOME_DELETE:
		case OUTCOME_FAILED:
			lane_free_job(outcome->job);
			break;
		case OUTCOME_IDENTITY:
		case OUTCOME_EVENT:
			task_recorded(outcome);
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
				replan_job(job);
			}
			break;
		case OUTCOME_ACCOUNT:
			break;
	}
}

/* Nothing is to be sent for now: take back what has not been. */
void
lane_recall(int64 source_id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		lane->njobs -= recall_jobs(&lane->jobs, source_id);
	}
	task_recall(source_id);
}

/* It could not be written down: those who wait for it try again later. */
void
lane_outcome_refused(Outcome *outcome)
{
	switch (outcome->kind)
	{
		case OUTCOME_IDENTITY:
		case OUTCOME_EVENT:
			task_refused(outcome);
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
