/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Several writes of one account by one call: applyWrites.
 *
 * What waits in a lane when it is free to send goes together; nobody waits for
 * company.  The call names the head of the repository, so it is done as a whole
 * or, if anybody has written since, not at all; and since it takes no
 * swapRecord, only writes take part whose record the lane itself knows, at that
 * head, to be what they were planned for (known.c).
 *
 * applyWrites cannot be repeated, and does not tell which write is refused.
 * So whatever is not a plain success ends the company: nothing was done, and
 * each is tried alone; or it is in doubt, and each is read first, then alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "syntax.h"

/*
 * The reference PDS takes 200 writes and bodies of 1,000,000 bytes.  Beyond
 * some dozens a write gets hardly cheaper, and whoever comes meanwhile waits
 * for all of them.
 */
#define MAX_WRITES		50

/* So many that nobody waits for are under way to a server at once. */
#define MAX_BACKGROUND	64

#define MAX_BYTES		400000

/* Envelope of a write, about. */
#define WRITE_BYTES		200

/* So long after its last write a lane begins with a single one. */
#define FRESH_MS		2000

/*
 * A lane whose batch was refused, or lost, sends singly for so long; and where
 * others write so often that it comes too late twice in a row.
 */
#define PAUSE_MS		60000
#define SWAP_PAUSE_MS	2000

struct WriteBatch
{
	dlist_head	jobs;
	int			n;
	int			points;
	Size		bytes;
};

/* Points as the reference PDS counts them: more than a put's for a create. */
static int
points_together(const Job *job)
{
	return job_is(job, "delete") ? 1 : job->swap == NULL ? 3 : 2;
}

/*
 * May it go with others?  Not what failed before, nor what would change
 * nothing: a put of that is no write, an update is.
 */
static bool
may_join(Lane *lane, const Job *job)
{
	bool		put = job_is(job, "put");

	if (job->need != NULL || job->alone || job->head_unknown ||
		!(put || job_is(job, "delete")) || write_method(lane, job) == NULL)
		return false;
	if (job->swap == NULL ? !put : job->cid != NULL &&
		strcmp(job->swap, job->cid) == 0)
		return false;
	return known_has(lane->known, job->rkey, job->swap);
}

/* One write a record and a slot. */
static bool
clashes(WriteBatch *batch, const Job *job)
{
	dlist_iter	iter;

	dlist_foreach(iter, &batch->jobs)
	{
		Job		   *other = dlist_container(Job, node, iter.cur);

		if (strcmp(other->rkey, job->rkey) == 0 ||
			(other->event_uri != NULL && job->event_uri != NULL &&
			 strcmp(other->event_uri, job->event_uri) == 0))
			return true;
	}
	return false;
}

static Size
bytes_of(const Job *job)
{
	return WRITE_BYTES + (job->record ? strlen(job->record) : 0);
}

static void
add_job(Lane *lane, WriteBatch *batch, Job *job)
{
	dlist_delete(&job->node);
	lane->njobs--;
	dlist_push_tail(&batch->jobs, &job->node);
	batch->n++;
	batch->points += points_together(job);
	batch->bytes += bytes_of(job);
}

/*
 * Those of the first one's priority, since a click does not wait for the rest,
 * nor for many of other accounts.  A refused batch burns what is left of a
 * limit, and creates cost more than puts: as many as may be spent freely.
 */
static void
gather(Lane *lane, WriteBatch *batch, int64 now)
{
	Job		   *first = dlist_head_element(Job, node, &lane->jobs);
	int			priority = first->priority;
	int			room = priority == 0 ? MAX_WRITES :
		Min(MAX_WRITES, MAX_BACKGROUND - host_of(lane->pds)->writes);
	long		points = Min(lane->points_left,
							 budget_free(&lane->budgets, now));
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lane->jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (batch->n >= room || job->priority != priority)
			break;
		if (may_join(lane, job) && !clashes(batch, job) &&
			batch->points + points_together(job) <= points &&
			batch->bytes + bytes_of(job) <= MAX_BYTES)
			add_job(lane, batch, job);
		else if (batch->n == 0)
			return;				/* it is the first one's turn */
	}
}

/* Back to the front of the lane, in their order. */
static void
put_back(Lane *lane, WriteBatch *batch, bool alone)
{
	while (!dlist_is_empty(&batch->jobs))
	{
		dlist_node *last = dlist_tail_node(&batch->jobs);
		Job		   *job = dlist_container(Job, node, last);

		dlist_delete(last);
		job->alone = job->alone || alone;
		retry_now(lane, job);
	}
}

static void
append_write(StringInfo body, const Job *job)
{
	bool		put = job_is(job, "put");

	appendStringInfo(body, "{\"$type\":\"com.atproto.repo.applyWrites#%s\"",
					 !put ? "delete" : job->swap == NULL ? "create" :
					 "update");
	append_member(body, "collection", RSVP_COLLECTION);
	append_member(body, "rkey", job->rkey);
	if (put)
		appendStringInfo(body, ",\"value\":%s", job->record);
	appendStringInfoChar(body, '}');
}

static void
start_batch(Lane *lane, WriteBatch *batch)
{
	StringInfoData body;
	dlist_iter	iter;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"repo\":");
	escape_json(&body, lane->did);
	append_member(&body, "swapCommit", lane->head);
	appendStringInfoString(&body, ",\"writes\":[");
	dlist_foreach(iter, &batch->jobs)
	{
		if (iter.cur != dlist_head_node(&batch->jobs))
			appendStringInfoChar(&body, ',');
		append_write(&body, dlist_container(Job, node, iter.cur));
	}
	appendStringInfoString(&body, "]}");
	start_batch_call(lane, batch,
					 write_request(lane, "com.atproto.repo.applyWrites",
								   body.data));
	pfree(body.data);
}

/*
 * Send what can go together.  False: the first job goes alone, as the first
 * after a pause does always: its answer tells what the account may spend, and
 * whether the head is still what it was, which costs little to find out with
 * one job and much with many.
 */
bool
batch_send(Lane *lane, int64 now)
{
	WriteBatch *batch;

	if (lane->njobs < 2 || lane->head == NULL || lane->wrote_at == 0 ||
		now - lane->wrote_at > FRESH_MS || now < lane->batch_at)
		return false;
	batch = MemoryContextAllocZero(lane->context, sizeof(WriteBatch));
	dlist_init(&batch->jobs);
	gather(lane, batch, now);
	if (batch->n < 2)
	{
		put_back(lane, batch, false);
		pfree(batch);
		return false;
	}
	budget_spend(&lane->budgets, batch->points, now);
	start_batch(lane, batch);
	return true;
}

int
batch_count(const WriteBatch *batch)
{
	return batch->n;
}

Job *
batch_first(WriteBatch *batch)
{
	return dlist_head_element(Job, node, &batch->jobs);
}

/* The operations of a batch that is over, but for the first, as note is. */
void
batch_note(WriteBatch *batch, const Outcome *note)
{
	dlist_iter	iter;

	dlist_foreach(iter, &batch->jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);
		Outcome		other = {0};

		if (iter.cur == dlist_head_node(&batch->jobs))
			continue;
		other.seconds = note->seconds;
		other.operation = job_is(job, "put") ? "create" : "delete";
		other.source_id = job->source_id;
		other.value = job->value;
		outcome_of_call(&other);
	}
}

/* Nothing was done, and all is as it was. */
void
batch_again(Lane *lane, WriteBatch *batch)
{
	put_back(lane, batch, false);
	pfree(batch);
}

/* The account is elsewhere, or connected anew, and nothing was done. */
void
batch_replan(WriteBatch *batch)
{
	while (!dlist_is_empty(&batch->jobs))
		replan_job(dlist_container(Job, node,
								   dlist_pop_head_node(&batch->jobs)));
	pfree(batch);
}

/* The server is down; sure: it never got them. */
void
batch_park(WriteBatch *batch, const char *host, bool sure)
{
	while (!dlist_is_empty(&batch->jobs))
	{
		Job		   *job = dlist_container(Job, node,
										  dlist_pop_head_node(&batch->jobs));

		job->sent = job->sent || !sure;
		park_job(job, host, "host_unreachable");
	}
	pfree(batch);
}

/* ------------------------------------------------------------------------
 * Answers
 * ------------------------------------------------------------------------ */

static void
fail_batch(WriteBatch *batch, const char *how, Answer *answer)
{
	while (!dlist_is_empty(&batch->jobs))
		fail_job(dlist_container(Job, node, dlist_pop_head_node(&batch->jobs)),
				 how, answer->name, answer->message, answer->sure,
				 answer->wait_ms);
}

/* Does this result tell of the write of that record? */
static bool
is_result_of(json_t *result, const Job *job)
{
	const char *uri = xrpc_text(result, "uri");
	AtUri		parts;

	if (!json_is_object(result))
		return false;
	if (job_is(job, "delete"))
		return true;
	return xrpc_cid(result, "cid") != NULL && uri != NULL &&
		syntax_parse_at_uri(uri, strlen(uri), &parts) &&
		parts.rkey.data != NULL && parts.rkey.len == strlen(job->rkey) &&
		memcmp(parts.rkey.data, job->rkey, parts.rkey.len) == 0;
}

/* What became of each has to be said, in the order of the writes. */
static bool
is_complete(WriteBatch *batch, json_t *results)
{
	size_t		i = 0;
	dlist_iter	iter;

	if (json_array_size(results) != batch->n)
		return false;
	dlist_foreach(iter, &batch->jobs)
		if (!is_result_of(json_array_get(results, i++),
						  dlist_container(Job, node, iter.cur)))
			return false;
	return true;
}

static void
batch_succeeded(Lane *lane, WriteBatch *batch, Answer *answer, bool stale)
{
	json_t	   *commit = json_object_get(answer->body, "commit");
	json_t	   *results = json_object_get(answer->body, "results");
	size_t		i = 0;

	if (!is_complete(batch, results))
	{
		/* They may have been written, and are read to find out. */
		xrpc_unreadable(answer, "the answer does not say what was written");
		lane->batch_at = host_now() + PAUSE_MS;
		fail_batch(batch, "retry", answer);
		return;
	}
	while (!dlist_is_empty(&batch->jobs))
	{
		Job		   *job = dlist_container(Job, node,
										  dlist_pop_head_node(&batch->jobs));
		const char *cid = job_is(job, "delete") ? NULL :
			xrpc_cid(json_array_get(results, i), "cid");

		i++;
		if (!stale)
			known_set(lane->known, job->rkey, cid);
		write_done(lane, job, cid, commit);
	}
	if (!stale)
		replace_text(lane, &lane->head, xrpc_cid(commit, "cid"));
	lane->overtaken = 0;
}

/*
 * Somebody has written since the head was read; or this call arrived twice,
 * and was done the first time.  What only updates or deletes goes on at once
 * without the head, which repeats nothing; what is new is planned again when
 * the account's records have been listed anew, which shows whether it is there.
 */
static void
batch_overtaken(Lane *lane, WriteBatch *batch)
{
	dlist_iter	iter;

	replace_text(lane, &lane->head, NULL);
	if (lane->overtaken++ > 0)
		lane->batch_at = host_now() + SWAP_PAUSE_MS;
	dlist_foreach(iter, &batch->jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		job->sent = true;
		job->head_unknown = !job->mint;
	}
	put_back(lane, batch, false);
}

/* Of several jobs the first one speaks for the session. */
static void
batch_refused(Lane *lane, WriteBatch *batch, Answer *answer)
{
	bool		alone = answer->sure && answer->named;

	switch (answer->class)
	{
		case ANSWER_REREAD:
			batch_overtaken(lane, batch);
			return;
		case ANSWER_REFRESH:
		case ANSWER_USER:
			alone = strcmp(answer->name, "ScopeMissingError") == 0;
			put_back(lane, batch, alone || !answer->sure);
			if (!alone)
				job_answer(lane, pop_job(lane), answer);
			return;
		default:
			break;
	}
	lane->batch_at = host_now() + PAUSE_MS;
	if (alone)
		put_back(lane, batch, true);
	else
	{
		lane_hint(lane);
		fail_batch(batch, "retry", answer);
	}
}

void
batch_answer(Lane *lane, WriteBatch *batch, Answer *answer)
{
	if (answer->class == ANSWER_OK)
		batch_succeeded(lane, batch, answer, false);
	else
		batch_refused(lane, batch, answer);
	pfree(batch);
}

/* To what no longer holds: only what was done counts. */
void
batch_stale(Lane *lane, WriteBatch *batch, Answer *answer)
{
	if (answer->class == ANSWER_OK)
		batch_succeeded(lane, batch, answer, true);
	else if (answer->sure || answer->class == ANSWER_USER ||
			 answer->class == ANSWER_REFRESH)
	{
		batch_replan(batch);
		return;
	}
	else
		fail_batch(batch, "again", answer);
	pfree(batch);
}
