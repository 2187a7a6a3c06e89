/*-------------------------------------------------------------------------
 *
 * lane.c
 *		Jobs on their way over the network, one lane per account.
 *
 * A lane makes one account's calls in order, one at a time: a session first
 * (session.c), the head of the repository and its RSVP records before a new
 * record key is used (listing.c), then its jobs (job.c), several writes by one
 * call where they wait (batch.c).  What is not an account's own matter is a
 * task (task.c).  What is under way is call.c's matter, what may be sent and
 * what had better wait manners.c's.
 *
 * None of these rooms touches a table.  What is learnt leaves as an Outcome;
 * the worker writes outcomes down and plans the keys again that waited for
 * them.  State of a lane may be lost at any time: a new worker begins with
 * nothing and finds out again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"
#include "verify.h"

/* What idle lanes know of their records is kept while all of it is less. */
#define MAX_KNOWN		(8 * 1024 * 1024)

/* Idle lanes beyond these are forgotten, the one idle longest first. */
#define MAX_IDLE_LANES	4096

/* A source with no more jobs than this in memory goes before the others. */
#define FEW_JOBS		8

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
	call_startup(lane_context);
	park_startup(lane_context);
	host_startup(lane_context);
	task_startup(lane_context);
	visits_startup(lane_context);
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

/* No call of the lane's jobs is under way; they all share this fate. */
void
fail_lane(Lane *lane, const char *how, const char *code, const char *message,
		  long wait_ms)
{
	while (!dlist_is_empty(&lane->jobs))
	{
		Job		   *job = pop_job(lane);

		fail_job(job, how, code, message, !job->sent, wait_ms);
	}
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

dlist_head *
lanes_active(void)
{
	return &active_lanes;
}

Lane *
find_lane(const char *did)
{
	return lanes ? hash_search(lanes, &did, HASH_FIND, NULL) : NULL;
}

void
lane_forget_known(Lane *lane)
{
	known_free(lane->known);
	lane->known = NULL;
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
	known_free(lane->known);
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
		if (known_memory() > MAX_KNOWN)
			lane_forget_known(lane);
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
	lane_forget_known(lane);
	replace_text(lane, &lane->credential, NULL);
	lane->session = SESSION_NONE;
	lane->not_before = lane->batch_at = lane->wrote_at = 0;
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

/* The next call of a lane, if it may make one.  Did it? */
static bool
lane_pump(Lane *lane, int64 now)
{
	Job		   *job;
	bool		writes;

	if (lane->busy || lane->records != NULL || lane->unrecorded ||
		dlist_is_empty(&lane->jobs) ||
		lane->session == SESSION_WANTS_CREDENTIAL ||
		lane->session == SESSION_WANTS_LEASE || lane->refreshing != NULL)
		return false;
	job = dlist_head_element(Job, node, &lane->jobs);
	if (!host_has_room(host_of(lane->pds)) || !limits_allow(lane, job, now))
		return false;
	writes = job_is(job, "put") || job_is(job, "delete");
	if (renewal_due(lane))
		lane->session = SESSION_NONE;
	if (job->need != NULL || lane->in_question ||
		(job->mint && writes && lane->head == NULL))
		start_head(lane);
	else if (job_is(job, "read"))
		start_read(lane, pop_job(lane));
	else if (lane->session == SESSION_LIVE)
	{
		if (!batch_send(lane, now))
		{
			budget_spend(&lane->budgets, points_of(job), now);
			start_write(lane, pop_job(lane));
		}
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
lane_start(bool sending)
{
	int64		now = host_now();
	dlist_iter	iter;

	if (sending)
		start_probes(now);
	task_start_all();
	dlist_foreach(iter, &active_lanes)
		renewal_pump(dlist_container(Lane, node, iter.cur));
	start_lanes(true, now);
	start_lanes(false, now);
	rest_lanes();
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
			visits_identity(outcome);
			break;
		case OUTCOME_EVENT:
			task_recorded(outcome);
			break;
		case OUTCOME_LIST:
			lane = lane_of(outcome->subject);
			lane->unrecorded = false;
			dlist_foreach_modify(iter, &lane->jobs)
			{
				Job		   *job = dlist_container(Job, node, iter.cur);

				if (job->need == NULL && !job->mint)
					continue;
				dlist_delete(&job->node);
				lane->njobs--;
				job->listed = outcome->follow && job->need == NULL &&
					job_is(job, "put");
				replan_job(job);
			}
			break;
		case OUTCOME_HINT:
		case OUTCOME_HANDLE:
		case OUTCOME_ACCOUNT:
		case OUTCOME_LIMITED:
		case OUTCOME_HOST:
		case OUTCOME_VISIT:
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
			if (outcome->kind == OUTCOME_IDENTITY)
				visits_identity(outcome);
			break;
		case OUTCOME_LIST:
			lane_of(outcome->subject)->unrecorded = false;
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
		case OUTCOME_VISIT:
		case OUTCOME_CALL:
			break;
		default:
			fail_job(outcome->job, "retry", "not_recorded", "see the log",
					 false, 0);
			break;
	}
}
