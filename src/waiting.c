/*-------------------------------------------------------------------------
 *
 * waiting.c
 *		Keys that wait in the queue for a server or an account: the worker's
 *		statements.
 *
 * Runs inside the worker's transaction.  Who waits for what, and when that can
 * take some again, is the matter of park.c and manners.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/pg_list.h"

#include "lane.h"
#include "waiting.h"
#include "worker.h"

static Statement park = {
	"SELECT rsvp_sync._park($1, $2, $3, $4, $5, $6, $7)", 7,
	{INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BOOLOID, TEXTOID,
	TEXTOID}
};
static Statement release = {
	"SELECT rsvp_sync._release($1, $2)", 2, {TEXTOID, INT4OID}
};
static Statement parked_for = {
	"SELECT p FROM rsvp_sync._parked_for() p", 0
};
static Statement hosts_down = {
	"SELECT h.host FROM rsvp_sync._host h", 0
};
static Statement accounts_limited = {
	"SELECT a.did, (pg_catalog.extract('epoch', a.rate_limited_until"
	" OPERATOR(pg_catalog.-) pg_catalog.now())"
	" OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8"
	" FROM rsvp_sync._account a WHERE a.rate_limited_until"
	" OPERATOR(pg_catalog.>) pg_catalog.now()", 0
};
static Statement paused_names = {
	"SELECT p.subject FROM rsvp_sync._pause p", 0
};

/* Was the job's call certainly never made? */
static bool
is_unsent(Job *job)
{
	return job->need == NULL && !job->sent &&
		strcmp(job->action, "read") != 0;
}

static bool
park_together(Job *a, Job *b)
{
	return a->source_id == b->source_id && is_unsent(a) == is_unsent(b) &&
		a->wait_code == b->wait_code &&
		strcmp(a->waits_for, b->waits_for) == 0;
}

/* All that wait for the same thing, by one statement. */
static void
park_some(dlist_head *jobs)
{
	Job		   *first = dlist_head_element(Job, node, jobs);
	List	   *keys = NIL;
	List	   *generations = NIL;
	List	   *cids = NIL;
	List	   *done = NIL;
	ListCell   *cell;
	dlist_mutable_iter iter;
	Args		args = {0};

	dlist_foreach_modify(iter, jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (!park_together(job, first))
			continue;
		keys = lappend(keys, job->key);
		generations = lappend(generations,
							  psprintf(INT64_FORMAT, job->generation));
		cids = lappend(cids, job->cid ? job->cid : "");
		dlist_delete(&job->node);
		done = lappend(done, job);
	}
	args_int8(&args, first->source_id);
	args_texts(&args, keys);
	args_texts(&args, generations);
	args_texts(&args, cids);
	args_bool(&args, is_unsent(first));
	args_text(&args, first->waits_for);
	args_text(&args, first->wait_code);
	run_statement(&park, &args);
	foreach(cell, done)
		lane_free_job(lfirst(cell));
}

void
waiting_park(void)
{
	while (!dlist_is_empty(lane_parked()))
		park_some(lane_parked());
}

/* Keys of servers and accounts that can take some again.  Were there any? */
bool
waiting_release(void)
{
	bool		any = false;
	ListCell   *cell;

	foreach(cell, lane_releases())
	{
		Release    *let_go = lfirst(cell);
		Args		args = {0};
		bool		isnull;

		args_text(&args, let_go->subject);
		args_int4(&args, let_go->at_most);
		run_statement(&release, &args);
		if (result_int8(0, 1, &isnull) < let_go->at_most)
			lane_released_all(let_go->subject);
		any = true;
	}
	return any;
}

void
waiting_read_pauses(void)
{
	List	   *subjects = NIL;

	run_statement(&paused_names, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		subjects = lappend(subjects, result_text(row, 1));
	lane_set_paused(subjects);
}

/* What earlier workers left. */
void
waiting_take_over(void)
{
	bool		isnull;

	run_statement(&hosts_down, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_host_is_down(result_text(row, 1));
	run_statement(&parked_for, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_note_parked(result_text(row, 1));
	run_statement(&accounts_limited, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_is_limited(result_text(row, 1), result_int8(row, 2, &isnull));
	waiting_read_pauses();
}
