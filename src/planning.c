/*-------------------------------------------------------------------------
 *
 * planning.c
 *		Which keys are looked at next, and what is to be done about them.
 *
 * Leases keys from the queue, as many as there is room for, has them planned
 * source by source (_plan_keys()), and keeps the jobs that come of it until the
 * transaction has committed: then they go to their lanes.  A source whose
 * query fails is put aside, and the others go on.
 *
 * Within the worker's transaction; touches what the functions of
 * sql/51-queue.sql touch, and the lanes' memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "lane.h"
#include "planning.h"
#include "settings.h"
#include "worker.h"

/* Looks for due keys that do not begin at the front */
#define LOOKS_ONWARD	64
#define KNOWN_SOURCES	16
/* Keys nobody waits for that are planned at once. */
#define BACKGROUND_BATCH	128
/* After so many of them had to go back, none are taken for a moment. */
#define CROWD			32

static Statement lease = {
	"SELECT l.source_id, l.keys, l.earliest, l.cut"
	" FROM rsvp_sync._lease($1, $2, $3, $4, $5::pg_catalog.int8[]) l", 5,
	{INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTARRAYOID}
};
static Statement plan_keys = {
	"SELECT w.source_id, w.generation, w.mint, w.key, w.action, w.need,"
	" w.subject, w.did, w.pds, w.rkey, w.record, w.cid, w.swap,"
	" w.event_uri, w.organiser_pds, w.credential_of, w.priority,"
	" CASE WHEN w.action OPERATOR(pg_catalog.=) 'put' THEN w.sent_local END"
	" FROM rsvp_sync._plan_keys($1, $2) w", 2,
	{INT8OID, TEXTARRAYOID}
};
static Statement source_failed = {
	"SELECT rsvp_sync._source_failed($1, $2, $3)", 3,
	{INT8OID, TEXTOID, TEXTOID}
};
static Statement source_works = {
	"SELECT rsvp_sync._source_works($1)", 1, {INT8OID}
};
static Statement paused_sources = {
	"SELECT source_id FROM rsvp_sync._source"
	" WHERE state OPERATOR(pg_catalog.=) 'paused'", 0
};
static Statement compare_later = {
	"SELECT rsvp_sync._compare_later($1)", 1, {INT8OID}
};
static Statement keys_listed = {
	"SELECT rsvp_sync._listed($1, $2)", 2, {INT8OID, TEXTARRAYOID}
};
static Statement give_back = {
	"SELECT rsvp_sync._end_lease($1, $2)", 2, {INT8OID, TEXTARRAYOID}
};
static Statement several_wait = {
	"SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 FROM"
	" (SELECT FROM rsvp_sync._waiting_sources($1::pg_catalog.int8[]) LIMIT 2) w",
	1, {TEXTARRAYOID}
};

/* Jobs planned in the transaction under way; started once it committed. */
static dlist_head planned = DLIST_STATIC_INIT(planned);

/* There is no room for keys that nobody waits for. */
static TimestampTz crowded_until = 0;

/* Keys of several sources wait. */
static bool others_wait = false;

/* The last look at the queue left no key there that was due. */
static bool caught_up = false;

/* A batch of one source's keys. */
struct Batch
{
	int64		source_id;
	List	   *keys;
	List	   *alone;			/* of them, those that go alone, see batch.c */
	List	   *listed;			/* ... whose accounts have just been listed */
	dlist_head	jobs;			/* calls that planning them asks for */
};

static char *
copy_text(Job *job, uint64 row, int column)
{
	char	   *text = result_text(row, column);

	return text ? MemoryContextStrdup(job->context, text) : NULL;
}

static Job *
read_job(uint64 row)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "rsvp_sync job",
												  ALLOCSET_SMALL_SIZES);
	Job		   *job = MemoryContextAllocZero(context, sizeof(Job));
	bool		isnull;

	job->context = context;
	job->source_id = result_int8(row, 1, &isnull);
	job->generation = result_int8(row, 2, &isnull);
	job->mint = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row],
										   SPI_tuptable->tupdesc, 3,
										   &isnull)) && !isnull;
	job->key = copy_text(job, row, 4);
	job->action = copy_text(job, row, 5);
	job->need = copy_text(job, row, 6);
	job->subject = copy_text(job, row, 7);
	job->did = copy_text(job, row, 8);
	job->pds = copy_text(job, row, 9);
	job->rkey = copy_text(job, row, 10);
	job->record = copy_text(job, row, 11);
	job->cid = copy_text(job, row, 12);
	job->swap = copy_text(job, row, 13);
	job->event_uri = copy_text(job, row, 14);
	job->organiser_pds = copy_text(job, row, 15);
	job->credential = copy_text(job, row, 16);
	job->priority = DatumGetInt16(SPI_getbinval(SPI_tuptable->vals[row],
												SPI_tuptable->tupdesc, 17,
												&isnull));
	job->value = copy_text(job, row, 18);
	return job;
}

static bool
list_has(List *texts, const char *text)
{
	ListCell   *cell;

	foreach(cell, texts)
		if (strcmp(lfirst(cell), text) == 0)
			return true;
	return false;
}

static void
plan_batch(void *arg)
{
	Batch	   *batch = arg;
	Args		args = {0};

	args_int8(&args, batch->source_id);
	if (batch->listed != NIL)
	{
		args_texts(&args, batch->listed);
		run_statement(&keys_listed, &args);
		args.n = 1;
	}
	args_texts(&args, batch->keys);
	run_statement(&plan_keys, &args);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Job		   *job = read_job(row);

		job->alone = list_has(batch->alone, job->key);
		dlist_push_tail(&batch->jobs, &job->node);
	}
}

/* The query runs; if changes of it were missed, they are found now. */
static void
note_that_it_works(void *arg)
{
	Batch	   *batch = arg;
	Args		args = {0};

	args_int8(&args, batch->source_id);
	run_statement(&source_works, &args);
}

/* The keys wait; how long, the source's state says. */
static void
batch_failed(Batch *batch, ErrorData *error)
{
	Args		args = {0};

	args_int8(&args, batch->source_id);
	args_text(&args, unpack_sql_state(error->sqlerrcode));
	args_text(&args, error->message);
	run_statement(&source_failed, &args);
	args.n = 1;
	args_texts(&args, batch->keys);
	run_statement(&give_back, &args);
	ereport(LOG,
			(errmsg("source " INT64_FORMAT " cannot be read: %s",
					batch->source_id, error->message)));
}

/*
 * Jobs count only once their intents are recorded: an error rolls those back,
 * and the jobs with them.
 */
bool
planning_try(Batch *batch)
{
	ErrorData  *error;

	dlist_init(&batch->jobs);
	error = guarded(plan_batch, batch);
	if (error != NULL)
	{
		while (!dlist_is_empty(&batch->jobs))
			MemoryContextDelete(dlist_container(Job, node,
												dlist_pop_head_node(&batch->jobs))->context);
		batch_failed(batch, error);
		return false;
	}
	while (!dlist_is_empty(&batch->jobs))
		dlist_push_tail(&planned, dlist_pop_head_node(&batch->jobs));
	return true;
}

static void
plan_source(Batch *batch)
{
	ErrorData  *error;
	Args		args = {0};

	if (!planning_try(batch))
		return;
	error = guarded(note_that_it_works, batch);
	if (error == NULL)
		return;
	ereport(LOG,
			(errmsg("source " INT64_FORMAT " cannot be compared: %s",
					batch->source_id, error->message)));
	args_int8(&args, batch->source_id);
	run_statement(&compare_later, &args);
}

/* Take the keys of one source out of those to be planned again. */
static Batch *
next_replans(dlist_head *replans)
{
	Batch	   *batch = palloc0(sizeof(Batch));
	dlist_mutable_iter iter;

	batch->source_id = dlist_head_element(Job, node, replans)->source_id;
	dlist_foreach_modify(iter, replans)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->source_id != batch->source_id)
			continue;
		batch->keys = lappend(batch->keys, pstrdup(job->key));
		/* What had to be read first was in doubt, as a rule. */
		if (job->alone || strcmp(job->action, "read") == 0)
			batch->alone = lappend(batch->alone, llast(batch->keys));
		if (job->listed)
			batch->listed = lappend(batch->listed, llast(batch->keys));
		dlist_delete(&job->node);
		lane_free_job(job);
	}
	return batch;
}

/* Keys that waited for something that is known now. */
void
planning_again(void)
{
	while (!dlist_is_empty(lane_replans()))
		plan_source(next_replans(lane_replans()));
}

/* Keys that are not to be planned now go back to the queue. */
static void
give_keys_back(void)
{
	while (!dlist_is_empty(lane_replans()))
	{
		Batch	   *batch = next_replans(lane_replans());
		Args		args = {0};

		args_int8(&args, batch->source_id);
		args_texts(&args, batch->keys);
		run_statement(&give_back, &args);
	}
}

/* Nothing may be sent: whatever is not under way goes back to the queue. */
void
planning_stand_down(void)
{
	lane_recall(0);
	give_keys_back();
}

/* A paused source's calls that are not under way are not made. */
void
planning_recall_paused(void)
{
	bool		isnull;

	if (lane_jobs() == 0)
		return;
	run_statement(&paused_sources, NULL);
	if (SPI_processed == 0)
		return;
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_recall(result_int8(row, 1, &isnull));
	give_keys_back();
}

static List *
text_list(Datum array)
{
	Datum	   *items;
	int			n;
	List	   *list = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &items, NULL, &n);
	for (int i = 0; i < n; i++)
		list = lappend(list, TextDatumGetCString(items[i]));
	return list;
}

/* keys: an array of texts */
Batch *
planning_batch(int64 source_id, Datum keys)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->source_id = source_id;
	batch->keys = text_list(keys);
	return batch;
}

/*
 * Keys worth having in memory: enough to keep every connection busy, and half
 * as many again that somebody waits for.
 */
int
planning_window(void)
{
	return Max(rsvp_sync_concurrency * 6, 384);
}

/*
 * How many keys to take that nobody waits for.  Few at a time, so that none
 * that somebody does wait for stands behind the planning of them, and none for
 * a moment after some had to go back for want of room.
 */
static int
background_room(void)
{
	if (planning_crowded())
		return 0;
	return Min(planning_window() * 2 / 3 - lane_background_jobs(), BACKGROUND_BATCH);
}

/*
 * What was leased stays in the index of what is due until no snapshot can see
 * it there any more, and each look from the front walks over all of it.  So
 * while there is plenty, a look begins where the first key of the last one
 * was; what is due before that waits for the next one from the front.
 */
static struct
{
	int			left;			/* 0: the next one is from the front */
	TimestampTz since;
	int			nsources;		/* they had some */
	int64		sources[KNOWN_SOURCES];
}			onward;

static void
args_known_sources(Args *args)
{
	List	   *known = NIL;

	for (int i = 0; onward.left > 0 && i < onward.nsources; i++)
		known = lappend(known, psprintf(INT64_FORMAT, onward.sources[i]));
	args_texts(args, known);
}

/* plenty: the last look found all that it asked for. */
static void
go_onward(List *batches, TimestampTz earliest, bool plenty)
{
	ListCell   *cell;

	onward.left = !plenty ? 0 : onward.left > 0 ? onward.left - 1 : LOOKS_ONWARD;
	if (list_length(batches) > KNOWN_SOURCES)
		onward.left = 0;
	onward.since = earliest;
	onward.nsources = 0;
	if (onward.left > 0)
		foreach(cell, batches)
			onward.sources[onward.nsources++] = ((Batch *) lfirst(cell))->source_id;
}

/* Is there anybody to make room for? */
static void
see_others(void)
{
	Args		args = {0};
	bool		isnull;

	others_wait = false;
	if (lane_jobs() <= planning_window() / 2)
		return;
	args_known_sources(&args);
	run_statement(&several_wait, &args);
	others_wait = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1,
											 &isnull));
}

/*
 * Leases what there is room for, and plans it.  Is there certainly more?  (more:
 * as far as is known by now.)
 */
bool
planning_lease(int64 incarnation, bool more)
{
	TimestampTz earliest = DT_NOEND;
	bool		from_front = onward.left == 0;
	bool		plenty;
	int			room = planning_window() - lane_jobs();
	int			background = Max(background_room(), 0);
	Args		args = {0};
	List	   *batches = NIL;
	ListCell   *cell;
	int			leased = 0;

	caught_up = false;
	see_others();
	if (room <= 0)
		return more;
	args_int8(&args, incarnation);
	args_int4(&args, room);
	args_int4(&args, Min(room, background));
	args_int8(&args, from_front ? DT_NOBEGIN : onward.since);
	args_known_sources(&args);
	run_statement(&lease, &args);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Batch	   *batch;
		TimestampTz first;
		bool		isnull;

		batch = planning_batch(result_int8(row, 1, &isnull),
							   SPI_getbinval(SPI_tuptable->vals[row],
											 SPI_tuptable->tupdesc, 2,
											 &isnull));
		leased += list_length(batch->keys);
		batches = lappend(batches, batch);
		first = result_int8(row, 3, &isnull);
		if (!isnull)
			earliest = Min(earliest, first);
		/* Each source has its share, also where others have less. */
		if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row],
									   SPI_tuptable->tupdesc, 4, &isnull)))
			more = true;
	}
	plenty = leased == room || (background > 0 && leased >= background);
	more = more || plenty || !from_front;
	go_onward(batches, earliest, plenty);
	caught_up = !more && background > 0;
	foreach(cell, batches)
		plan_source(lfirst(cell));
	return more;
}

bool
planning_caught_up(void)
{
	return caught_up;
}

/* What was planned is committed. */
void
planning_start(void)
{
	while (!dlist_is_empty(&planned))
		lane_add(dlist_container(Job, node, dlist_pop_head_node(&planned)));
}

/* What may not be sent now goes back to the queue. */
void
planning_settle(void)
{
	if (lane_settle(planning_window(), others_wait) >= CROWD)
		crowded_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													PLANNING_CROWDED_MS);
}

/* Is there no room for keys that nobody waits for, just now? */
bool
planning_crowded(void)
{
	return crowded_until > GetCurrentTimestamp();
}
