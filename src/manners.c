/*-------------------------------------------------------------------------
 *
 * manners.c
 *		What a lane may send now, and what had better wait in the queue.
 *
 * Keeps to the limits that servers publish, for accounts and for our address,
 * and makes room in memory for those who would stand behind others' jobs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lane_state.h"

/*
 * Jobs of one account worth having in memory; beyond them its keys wait in
 * the queue, where they do not stand in the way of others.
 */
#define MAX_LANE_JOBS	64

/* Points of the account's own limits, as the reference PDS counts them. */
int
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
bool
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

	dlist_reverse_foreach(iter, lanes_active())
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
	dlist_foreach(iter, lanes_active())
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
