/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		What the lanes have to say: outcomes, and keys to be planned again.
 *
 * An outcome is what an answer, or its absence, came to.  The worker writes
 * outcomes down; nothing here touches a table.  Their texts live until all of
 * them are recorded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "lane_state.h"

/*
 * Answers that follow one another are recorded together: so many of them, or
 * those of so long, or until there are none for a moment.
 */
#define ENOUGH_OUTCOMES	512
#define GATHER_MS		20
#define SILENCE_MS		1

static MemoryContext outcome_context = NULL;
static dlist_head outcomes = DLIST_STATIC_INIT(outcomes);
static dlist_head replans = DLIST_STATIC_INIT(replans);
static int	n_outcomes = 0;		/* since they were last recorded */
static bool all_fit = true;		/* lanes may go on with them unrecorded */
static TimestampTz first_at = 0;	/* when the first and */
static TimestampTz last_at = 0; /* the last of those came in */
static int	njobs = 0;
static int	n_background = 0;	/* of them, jobs nobody waits for */

/* How many jobs each source has in memory. */
typedef struct SourceJobs
{
	int64		source_id;		/* hash key */
	int			n;
} SourceJobs;

static HTAB *sources = NULL;

void
outcome_startup(MemoryContext parent)
{
	HASHCTL		ctl = {0};

	outcome_context = AllocSetContextCreate(parent, "rsvp_sync outcomes",
											ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(SourceJobs);
	ctl.hcxt = parent;
	sources = hash_create("rsvp_sync sources", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static SourceJobs *
jobs_of(int64 source_id)
{
	bool		found;
	SourceJobs *jobs = hash_search(sources, &source_id, HASH_ENTER, &found);

	if (!found)
		jobs->n = 0;
	return jobs;
}

/* A job has come in; it goes by lane_free_job(). */
void
outcome_count_job(Job *job)
{
	njobs++;
	if (job->priority > 0)
		n_background++;
	jobs_of(job->source_id)->n++;
}

int
lane_jobs_of(int64 source_id)
{
	return jobs_of(source_id)->n;
}


int
lane_jobs(void)
{
	return njobs;
}

int
lane_background_jobs(void)
{
	return n_background;
}

const char *
outcome_keep(const char *text)
{
	return text ? MemoryContextStrdup(outcome_context, text) : NULL;
}

Secret *
outcome_seal(const char *text)
{
	return secret_seal(outcome_context, text);
}

/* May lanes go on before it is recorded? */
static bool
can_wait(OutcomeKind kind)
{
	switch (kind)
	{
		case OUTCOME_PUT:
		case OUTCOME_DELETE:
		case OUTCOME_LIST:
		case OUTCOME_IDENTITY:
		case OUTCOME_EVENT:
		case OUTCOME_HANDLE:
		case OUTCOME_ACCOUNT:
		case OUTCOME_CALL:
			return true;
		default:
			return false;
	}
}

Outcome *
new_outcome(OutcomeKind kind, Job *job, const char *subject)
{
	Outcome    *outcome = MemoryContextAllocZero(outcome_context,
												 sizeof(Outcome));

	outcome->kind = kind;
	outcome->job = job;
	outcome->subject = outcome_keep(subject);
	dlist_push_tail(&outcomes, &outcome->node);
	last_at = GetCurrentTimestamp();
	if (n_outcomes++ == 0)
		first_at = last_at;
	all_fit = all_fit && can_wait(kind);
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
replan_job(Job *job)
{
	dlist_push_tail(&replans, &job->node);
}

/* Have those of a source (0: all) planned again; how many they are. */
int
recall_jobs(dlist_head *jobs, int64 source_id)
{
	dlist_mutable_iter iter;
	int			recalled = 0;

	dlist_foreach_modify(iter, jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (source_id != 0 && job->source_id != source_id)
			continue;
		dlist_delete(&job->node);
		replan_job(job);
		recalled++;
	}
	return recalled;
}

void
lane_free_job(Job *job)
{
	njobs--;
	if (job->priority > 0)
		n_background--;
	if (--jobs_of(job->source_id)->n == 0)
		hash_search(sources, &job->source_id, HASH_REMOVE, NULL);
	MemoryContextDelete(job->context);
}

/* Something failed, and is counted once, however many jobs it concerns. */
void
note_error(const char *error_type)
{
	new_outcome(OUTCOME_CALL, NULL, NULL)->code = outcome_keep(error_type);
}

/* A call is over; note has what is to be counted of it. */
void
outcome_of_call(const Outcome *note)
{
	Outcome    *outcome = new_outcome(OUTCOME_CALL, NULL, NULL);

	outcome->code = outcome_keep(note->code);
	outcome->source_id = note->source_id;
	outcome->operation = note->operation;
	outcome->value = outcome_keep(note->value);
	outcome->seconds = note->seconds;
}

/* The job did not succeed; it is the caller's no more. */
void
fail_job(Job *job, const char *how, const char *code, const char *message,
		 bool sure, long wait_ms)
{
	Outcome    *outcome = new_outcome(OUTCOME_FAILED, job, NULL);

	outcome->how = how;
	outcome->code = outcome_keep(code);
	outcome->message = outcome_keep(message);
	outcome->sure = sure;
	outcome->wait_ms = wait_ms;
}

/*
 * May lanes go on before the outcomes are recorded?  Not after anything out of
 * the ordinary.  Where an account's records were listed its lane waits.
 */
bool
lane_may_go_on(void)
{
	return all_fit;
}

/* Does it pay to wait for further outcomes before these are recorded? */
bool
lane_outcomes_flow(void)
{
	TimestampTz now = GetCurrentTimestamp();

	return n_outcomes > 0 && n_outcomes < ENOUGH_OUTCOMES &&
		lane_may_go_on() && calls_under_way() > 0 &&
		now < TimestampTzPlusMilliseconds(first_at, GATHER_MS) &&
		now < TimestampTzPlusMilliseconds(last_at, SILENCE_MS);
}

void
lane_outcomes_recorded(void)
{
	n_outcomes = 0;
	all_fit = true;
	if (dlist_is_empty(&outcomes))
		MemoryContextReset(outcome_context);
}
