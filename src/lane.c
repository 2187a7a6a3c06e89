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

/*
 * Jobs of one account worth having in memory; beyond them its keys wait in
 * the queue, where they do not stand in the way of others.
 */
#define MAX_LANE_JOBS	64

/* A source with no more jobs than this in memory goes before the others. */
#define FEW_JOBS		8

/* A probe is answered quickly or not at all. */
#define PROBE_TIMEOUT_MS	5000

typedef struct Call
{
	CallKind	kind;
	Lane	   *lane;
	Job		   *job;
	Task	   *task;
	Host	   *host;
	int			epoch;			/* of the lane when it began */
	bool		suspect;		/* waits for its host's probe */
	dlist_node	node;			/* ... among these */
	Answer		answer;			/* of a suspect; without a body */
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
	secret_startup();
	lane_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync lanes",
										 ALLOCSET_DEFAULT_SIZES);
	lanes = text_table("rsvp_sync lanes", sizeof(Lane), lane_context);
	outcome_startup(lane_context);
	park_startup(lane_context);
	host_startup(lane_context);
	task_startup(lane_context);
	renewal_startup(lane_context);
}

/* Replace a text of a lane. */
void
replace_text(Lane *lane, char **text, const char *with)
{
	char	   *copy = with ? MemoryContextStrdup(lane->context, with) : NULL;

	if (*text != NULL)
		pfree(*text);
	*text = copy;
}

/* Replace a secret of a lane; it is kept sealed. */
void
replace_secret(Lane *lane, Secret **secret, const char *with)
{
	Secret	   *sealed = secret_seal(lane->context, with);

	if (*secret != NULL)
		pfree(*secret);
	*secret = sealed;
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

/* Between two looks at a DID document for what a lane's server says. */
#define HINT_MS			60000

/* An answer that a server may give which has the account no more. */
void
lane_hint(Lane *lane)
{
	TimestampTz now = GetCurrentTimestamp();

	if (lane->hinted_at != 0 &&
		!TimestampDifferenceExceeds(lane->hinted_at, now, HINT_MS))
		return;
	lane->hinted_at = now;
	new_outcome(OUTCOME_HINT, NULL, lane->did);
}

/*
 * Before such an answer is taken for the last word its jobs are planned
 * again, which begins with a look at the DID document.  False: that has just
 * been done.
 */
bool
lane_take_hint(Lane *lane)
{
	TimestampTz before = lane->hinted_at;

	lane_hint(lane);
	if (lane->hinted_at == before)
		return false;
	lane->njobs -= recall_jobs(&lane->jobs, 0);
	return true;
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
	call->host = host_of(host);
	host_call_begins(call->host, host_now());
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
	replace_secret(lane, &lane->password, NULL);
	replace_secret(lane, &lane->access_token, NULL);
	replace_secret(lane, &lane->refresh_token, NULL);
	renewal_forget(lane);
	lane->unsaved = false;
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

/* Who has little to do comes first: a click does not stand in a long line. */
static void
activate_lane(Lane *lane, int64 source_id)
{
	if (lane->active)
		return;
	lane->active = true;
	dlist_delete(&lane->node);
	n_idle_lanes--;
	if (lane_jobs_of(source_id) <= FEW_JOBS)
		dlist_push_head(&active_lanes, &lane->node);
	else
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

		if (lane->busy || lane->records != NULL || lane->unsaved ||
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
	lane->not_before = 0;
	lane->epoch++;
}

/* The account is on another PDS: whatever is not sent yet is planned again. */
static void
lane_moved(const char *did)
{
	Lane	   *lane = find_lane(did);

	if (lane == NULL)
		return;
	reset_lane(lane);
	lane->njobs -= recall_jobs(&lane->jobs, 0);
}

/* Look at a DID document that no job asks for. */
void
lane_verify(const char *did)
{
	task_verify(did);
}

void
lane_check_handle(const char *did, const char *handle)
{
	task_check_handle(did, handle);
}

/* What somebody waits for goes before what was found by comparing. */
static void
push_job(Lane *lane, Job *job)
{
	dlist_node *after = NULL;
	dlist_iter	iter;

	lane->njobs++;
	if (job->priority == 0)
		dlist_foreach(iter, &lane->jobs)
		{
			if (dlist_container(Job, node, iter.cur)->priority > 0)
				break;
			after = iter.cur;
		}
	else if (!dlist_is_empty(&lane->jobs))
		after = dlist_tail_node(&lane->jobs);
	if (after)
		dlist_insert_after(after, &job->node);
	else
		dlist_push_head(&lane->jobs, &job->node);
}

void
lane_add(Job *job)
{
	Lane	   *lane;

	outcome_count_job(job);
	if (job->need != NULL && strcmp(job->need, "list") != 0)
	{
		task_add(job);
		return;
	}
	lane = lane_of(job->did);
	if (lane->pds == NULL)
		replace_text(lane, &lane->pds, job->pds);
	else if (strcmp(lane->pds, job->pds) != 0)
	{
		replace_text(lane, &lane->pds, job->pds);
		memset(&lane->budgets, 0, sizeof(lane->budgets));
		reset_lane(lane);
	}
	else if (lane->credential != NULL && job->credential != NULL &&
			 strcmp(lane->credential, job->credential) != 0)
		reset_lane(lane);
	push_job(lane, job);
	activate_lane(lane, job->source_id);
}


/* Points of the account's own limits, as the reference PDS counts them. */
static int
points_of(const Job *job)
{
	if (job->need != NULL)
		return 0;
	return job_is(job, "put") ? 2 : job_is(job, "delete") ? 1 : 0;
}

/*
 * May the lane's next call be made, by all limits we know of?  If not, until
 * when; an account's own long wait is told to everybody.
 */
static bool
limits_allow(Lane *lane, Job *job, int64 now)
{
	bool		urgent = job->priority == 0;
	int64		wait = host_wait(host_of(lane->pds), urgent, now);
	int64		own = Max(lane->not_before - now,
						  budget_wait(&lane->budgets, points_of(job), urgent,
									  now));

	lane->wake_at = 0;
	if (park_is_paused(lane->did))
		return false;
	if (own > SHORT_WAIT_MS && lane->not_before < now)
		lane_rests(lane, own);
	if (wait < 0)
		return false;
	wait = Max(wait, own);
	if (wait > 0)
		lane->wake_at = now + wait;
	return wait <= 0;
}

/* The next call of a lane, if it may make one.  Did it? */
static bool
lane_pump(Lane *lane, int64 now)
{
	Job		   *job;
	bool		writes;

	if (lane->busy || lane->records != NULL || dlist_is_empty(&lane->jobs) ||
		lane->session == SESSION_WANTS_CREDENTIAL ||
		lane->session == SESSION_WANTS_LEASE || lane->refreshing != NULL)
		return false;
	job = dlist_head_element(Job, node, &lane->jobs);
	if (!host_has_room(host_of(lane->pds)) || !limits_allow(lane, job, now))
		return false;
	writes = job_is(job, "put") || job_is(job, "delete");
	if (renewal_due(lane))
		lane->session = SESSION_NONE;
	if (job->need != NULL || (job->mint && writes && lane->head == NULL))
		start_head(lane);
	else if (job_is(job, "read"))
		start_read(lane, pop_job(lane));
	else if (lane->session == SESSION_LIVE)
	{
		budget_spend(&lane->budgets, points_of(job), now);
		start_write(lane, pop_job(lane));
	}
	else if (lane->session == SESSION_HAS_CREDENTIAL)
	{
		start_session(lane);
		/* No call was needed for it. */
		if (lane->session == SESSION_LIVE && !lane->busy)
			return lane_pump(lane, now);
	}
	else
	{
		if (lane->renewal_at <= GetCurrentTimestamp())
			lane->session = SESSION_WANTS_CREDENTIAL;
		return false;
	}
	return true;
}

/* Ask servers how they are. */
static void
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

/*
 * A lane that got its turn goes to the end, so that a few with much to do
 * cannot keep the connections of a host to themselves.
 */
static void
start_lanes(bool urgent, int64 now)
{
	dlist_mutable_iter iter;
	Lane	   *last = dlist_is_empty(&active_lanes) ? NULL :
		dlist_tail_element(Lane, node, &active_lanes);

	dlist_foreach_modify(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);
		bool		round_over = lane == last;

		save_session(lane, now);
		if (!dlist_is_empty(&lane->jobs) &&
			(dlist_head_element(Job, node, &lane->jobs)->priority == 0)
			== urgent && lane_pump(lane, now))
			dlist_move_tail(&active_lanes, &lane->node);
		if (round_over)
			break;
	}
}

/* Start whatever can be started now.  Nothing may be open. */
void
lane_start(void)
{
	int64		now = host_now();
	dlist_iter	iter;

	start_probes(now);
	task_start_all();
	dlist_foreach(iter, &active_lanes)
		renewal_pump(dlist_container(Lane, node, iter.cur));
	start_lanes(true, now);
	start_lanes(false, now);
	rest_lanes();
}

/* ------------------------------------------------------------------------
 * Manners: what may not be sent now waits in the queue
 * ------------------------------------------------------------------------ */

/* No call of the account's for so many ms. */
void
lane_rests(Lane *lane, int64 wait)
{
	int64		until = host_now() + wait;
	Outcome    *outcome;

	if (until <= lane->not_before)
		return;
	lane->not_before = until;
	if (wait <= SHORT_WAIT_MS)
		return;
	outcome = new_outcome(OUTCOME_LIMITED, NULL, lane->did);
	outcome->wait_ms = wait;
}

/* How many more of an account's keys are worth having now. */
int
lane_room(const char *did, int64 now)
{
	Lane	   *lane = find_lane(did);

	if (lane == NULL)
		return MAX_LANE_JOBS;
	if (lane->not_before - now > SHORT_WAIT_MS ||
		lane->njobs > MAX_LANE_JOBS / 2)
		return 0;
	return MAX_LANE_JOBS - lane->njobs;
}

/* Park at most so many of a lane's jobs, from its end. */
static int
park_last(Lane *lane, int at_most, const char *subject, const char *code)
{
	int			n = 0;

	for (; n < at_most && !dlist_is_empty(&lane->jobs); n++)
	{
		Job		   *job = dlist_tail_element(Job, node, &lane->jobs);

		dlist_delete(&job->node);
		lane->njobs--;
		park_job(job, subject, code);
	}
	return n;
}

/* A lane whose account or server is not to be bothered holds no jobs. */
static bool
is_lane_closed(Lane *lane, Host *host, int64 now)
{
	const char *why = host_closed_because(host, now);
	const char *subject = host->name;

	if (why == NULL)
	{
		subject = lane->did;
		if (park_is_paused(subject))
			why = "paused";
		else if (lane->not_before - now > SHORT_WAIT_MS)
			why = "rate_limited";
	}
	if (why != NULL)
		park_last(lane, INT_MAX, subject, why);
	return why != NULL;
}

/* Park jobs beyond what their account or their server can take soon. */
static int
make_room(bool others, int64 now)
{
	int			shed = 0;
	dlist_iter	iter;

	dlist_reverse_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);
		Host	   *host = host_of(lane->pds);
		int			n;

		n = others ? park_last(lane, lane->njobs - MAX_LANE_JOBS, lane->did,
							   "queued") : 0;
		if (others || host_is_stalled(host, now))
			n += park_last(lane, host->jobs - n - host_allowance(host, now),
						   host->name, "queued");
		host->jobs -= n;
		shed += n;
	}
	return shed;
}

/*
 * Jobs that would wait long go back to the queue.  Where memory gets tight and
 * others wait, so do those beyond what their account or their server can take
 * soon.  others: keys of several sources wait.  How many had to make room.
 */
int
lane_settle(int window, bool others)
{
	int64		now = host_now();
	int			busy = 0;
	HASH_SEQ_STATUS scan;
	Host	   *host;
	dlist_iter	iter;

	host_scan(&scan);
	while ((host = hash_seq_search(&scan)) != NULL)
	{
		host->jobs = 0;
		busy += host->calls > 0;
	}
	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		host = host_of(lane->pds);
		if (!is_lane_closed(lane, host, now))
			host->jobs += lane->njobs;
	}
	task_settle(now);
	return lane_jobs() > window / 2 ? make_room(others || busy > 1, now) : 0;
}

/* Servers that are known to be down, from the table. */
void
lane_host_is_down(const char *name)
{
	host_is_down(host_of(name), host_now());
	lane_note_parked(name);
}

/* An account's limit is used up for so long, an earlier worker was told. */
void
lane_is_limited(const char *did, int64 wait_ms)
{
	lane_of(did)->not_before = host_now() + wait_ms;
	lane_note_parked(did);
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
	if (call->kind == CALL_JOB)
		retry_now(call->lane, call->job);
	else if (call->kind == CALL_TASK)
		call->task->started = false;
	else if (call->kind == CALL_HEAD || call->kind == CALL_LIST)
		forget_listing(call->lane);
	if (account)
		lane_rests(call->lane, wait);
	else
		host_rests(host, now + wait);
}

/* An answer to what no longer holds: only what a job did counts. */
static void
stale_answer(Call *call, Answer *answer)
{
	Job		   *job = call->job;

	if (call->kind != CALL_JOB)
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
	switch (call->kind)
	{
		case CALL_HEAD:
		case CALL_LIST:
			forget_listing(lane);
			break;
		case CALL_JOB:
			call->job->sent = call->job->sent || !call->answer.sure;
			park_job(call->job, call->host->name, "host_unreachable");
			break;
		case CALL_TASK:
			call->task->started = false;
			break;
		case CALL_DOCUMENT:
		case CALL_RESOURCE:
		case CALL_SERVER:
		case CALL_TOKEN:
			/* Not the lane's own server, perhaps: its jobs come back later. */
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
	Job		   *job = call->job;
	Lane	   *lane = call->lane;

	if (call->kind == CALL_JOB && !job_is(job, "read"))
		note->operation = job_is(job, "put") ? "create" : "delete";
	else if (call->kind == CALL_HEAD || call->kind == CALL_LIST)
		note->operation = "list";
	if (job == NULL && lane != NULL && !dlist_is_empty(&lane->jobs))
		job = dlist_head_element(Job, node, &lane->jobs);
	if (job != NULL)
		note->source_id = job->source_id;
	if (call->kind == CALL_JOB)
		note->value = job->value;
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
		call->kind == CALL_JOB && !job_is(call->job, "put");
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

	if (call->kind == CALL_HANDLE)
	{
		/* Nobody's server: what becomes of it is nobody else's matter. */
		host_call_ended(host, now);
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
	host_call_ended(host, now);
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

/* An account is gone: nothing of its session is to stay with us. */
void
lane_forget(const char *did)
{
	Lane	   *lane = find_lane(did);

	if (lane == NULL)
		return;
	if (lane->active)
		reset_lane(lane);
	else
		free_lane(lane);
}

static int64
sooner(int64 a, int64 b)
{
	if (a < 0)
		return b;
	return b < 0 ? a : Min(a, b);
}

/* How long until something may go on by itself; -1: nothing waits for time. */
long
lane_timeout_ms(void)
{
	int64		now = host_now();
	int64		shortest = task_wait(now);
	HASH_SEQ_STATUS scan;
	Host	   *host;
	dlist_iter	iter;

	dlist_foreach(iter, &active_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (!dlist_is_empty(&lane->jobs) && lane->wake_at > now)
			shortest = sooner(shortest, lane->wake_at - now);
		if (lane->renewal_at > GetCurrentTimestamp())
			shortest = sooner(shortest,
							  TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
															  lane->renewal_at));
		if (lane->unsaved)
			shortest = sooner(shortest, Max(lane->save_at - now, 0));
	}
	host_scan(&scan);
	while ((host = hash_seq_search(&scan)) != NULL)
	{
		if (!host->probing && (host->state == HOST_SUSPECT ||
							   (host->state == HOST_DOWN &&
								(host->wanted || park_any(host->name)))))
			shortest = sooner(shortest, Max(host->probe_at - now, 0));
		if (host->not_before > now && park_any(host->name))
			shortest = sooner(shortest, host->not_before - now);
	}
	return (long) sooner(shortest, park_wait(now));
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
			if (outcome->text != NULL && outcome->follow)
				lane_moved(outcome->subject);
			task_recorded(outcome);
			break;
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
		case OUTCOME_HINT:
		case OUTCOME_HANDLE:
		case OUTCOME_ACCOUNT:
		case OUTCOME_LIMITED:
		case OUTCOME_HOST:
		case OUTCOME_CALL:
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
	note_error("not_recorded");
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
		case OUTCOME_HINT:
		case OUTCOME_HANDLE:
		case OUTCOME_ACCOUNT:
			if (outcome->secret != NULL)
				session_refused(lane_of(outcome->subject));
			break;
		case OUTCOME_LIMITED:
		case OUTCOME_HOST:
		case OUTCOME_CALL:
			break;
		default:
			fail_job(outcome->job, "retry", "not_recorded", "see the log",
					 false, 0);
			break;
	}
}
