/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The loop: drain, lease, plan, start, harvest, write down.
 *
 * One process per database.  Each turn has at most one transaction for all
 * that is to be written down and planned, then starts calls with nothing
 * open, then waits in one place for latch and sockets together.  There is no
 * batch: what has finished is written down while the rest is under way, and
 * what has become free is refilled.
 *
 * What a decision is, is plan.c's matter; what a call is, lane.c's; what is
 * written where, that of the functions in sql/51-queue.sql and
 * sql/52-answers.sql.
 *
 * Errors of the application's SQL are caught per source, errors in writing
 * an answer down per answer (answers.c).  Any other error ends this process; the
 * launcher starts the next one, which goes on from the tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "answers.h"
#include "compat.h"
#include "http.h"
#include "lane.h"
#include "meter.h"
#include "process.h"
#include "reconcile.h"
#include "registry.h"
#include "settings.h"
#include "source.h"
#include "stream.h"
#include "verify.h"
#include "waiting.h"
#include "webmention.h"
#include "worker.h"
#include "writeback.h"

/* Log rows taken by one transaction. */
#define DRAIN_BATCH		5000
/* Changes that somebody made by himself, and not very many at once. */
#define FEW_CHANGES		16
/* Looks for due keys that do not begin at the front */
#define LOOKS_ONWARD	64
#define KNOWN_SOURCES	16
/* After their calls have left, what else there is to do waits this long. */
#define REST_MS			10
/* However quiet it is, the log is looked at this often. */
#define POLL_MS			5000
#define POLL_BLIND_MS	250
/* Between two looks for DID documents that are due. */
#define VERIFY_MS		1000
/* Between two looks at what has become old. */
#define HOUSE_MS		(10 * 60 * 1000)
/* Keys nobody waits for that are planned at once. */
#define BACKGROUND_BATCH	128
/* After so many of them had to go back, none are taken for a moment. */
#define CROWD			32
#define CROWDED_MS		250
/* Less than this a clock may be set back unnoticed. */
#define CLOCK_SLACK_MS	1000
/* Until we ask again whether sources may be used. */
#define AWAY_MS			50
/* Until new tokens that could not be stored are stored. */
#define LOCKED_MS		200

static Statement drain = {
	"SELECT d.drained, d.repeatable FROM rsvp_sync._drain($1) d", 1, {INT4OID}
};
static Statement drain_few = {
	"SELECT d.drained, d.repeatable, d.of_source, d.at_once"
	" FROM rsvp_sync._drain($1, $2) d", 2, {INT4OID, INT8OID}
};
static Statement lease = {
	"SELECT l.source_id, l.keys, l.earliest"
	" FROM rsvp_sync._lease($1, $2, $3, $4, $5::pg_catalog.int8[]) l", 5,
	{INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTARRAYOID}
};
static Statement release_leases = {
	"SELECT rsvp_sync._release_leases($1)", 1, {INT8OID}
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
static Statement may_send = {
	"SELECT NOT rsvp_sync._copied() AND NOT EXISTS (SELECT"
	" FROM rsvp_sync._pause p WHERE p.subject OPERATOR(pg_catalog.=) '*')", 0
};
static Statement perform_rehearsed = {
	"SELECT rsvp_sync._perform_rehearsed()", 0
};
static Statement forget_history = {
	"SELECT rsvp_sync._forget_history()", 0
};
/* The function is not called where no account leaves. */
static Statement finish_leaving = {
	"SELECT l FROM rsvp_sync._finish_leaving() l WHERE EXISTS"
	" (SELECT FROM rsvp_sync._account a WHERE a.leaving IS NOT NULL)", 0
};
static Statement look_at_inactive = {
	"SELECT rsvp_sync._look_at_inactive()", 0
};
static Statement tidy_explicit = {
	"SELECT rsvp_sync._tidy_explicit(), rsvp_sync._tidy_inbound()", 0
};
static Statement retry_found = {
	"SELECT rsvp_sync._retry_found()", 0
};
static Statement identities_to_verify = {
	"SELECT d FROM rsvp_sync._identities_to_verify() d", 0
};
static Statement handles_to_check = {
	"SELECT h.did, h.handle FROM rsvp_sync._handles_to_check() h", 0
};
/* What was said on the network and could not be applied then. */
static Statement inbound_work = {
	"SELECT rsvp_sync._inbound_work()", 0
};
static Statement clock_check = {
	"SELECT rsvp_sync._clock_check()", 0
};
static Statement clock_set_back = {
	"SELECT rsvp_sync._clock_set_back(pg_catalog.make_interval(secs =>"
	" $1::pg_catalog.float8 OPERATOR(pg_catalog./) 1000))", 1, {INT8OID}
};
static Statement next_due = {
	"SELECT (pg_catalog.extract('epoch', rsvp_sync._next_due()"
	" OPERATOR(pg_catalog.-) pg_catalog.now())"
	" OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8", 0
};

/* Names this process among all that ever served the database. */
static int64 incarnation = 0;

static MemoryContext turn_context = NULL;

/* Jobs planned in the transaction under way; started once it committed. */
static dlist_head planned = DLIST_STATIC_INIT(planned);

/* Is there certainly more to do than the last turn took? */
static bool more = true;

/* Was this process told something since the last transaction? */
static bool told = true;

/* When the next turn is due without being told. */
static TimestampTz wake_at = 0;

/* There is no room for keys that nobody waits for. */
static TimestampTz crowded_until = 0;

/* Keys of several sources wait. */
static bool others_wait = false;

/* The last look at the queue left no key there that was due. */
static bool caught_up = false;

/* Not in a copy, nor where all is off or paused. */
static bool sending_now = false;

/* Sources are somebody else's until we ask again. */
static TimestampTz away_until = 0;

/* ------------------------------------------------------------------------
 * Planning
 * ------------------------------------------------------------------------ */

/* A batch of one source's keys. */
typedef struct Batch
{
	int64		source_id;
	List	   *keys;
	List	   *alone;			/* of them, those that go alone, see batch.c */
	List	   *listed;			/* ... whose accounts have just been listed */
	dlist_head	jobs;			/* calls that planning them asks for */
} Batch;

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
static bool
try_to_plan(Batch *batch)
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

	if (!try_to_plan(batch))
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
static void
plan_again(void)
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
static void
stand_down(void)
{
	lane_recall(0);
	give_keys_back();
}

/* A paused source's calls that are not under way are not made. */
static void
recall_paused(void)
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

/*
 * Keys worth having in memory: enough to keep every connection busy, and half
 * as many again that somebody waits for.
 */
static int
window(void)
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
	if (GetCurrentTimestamp() < crowded_until)
		return 0;
	return Min(window() * 2 / 3 - lane_background_jobs(), BACKGROUND_BATCH);
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
	if (lane_jobs() <= window() / 2)
		return;
	args_known_sources(&args);
	run_statement(&several_wait, &args);
	others_wait = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1,
											 &isnull));
}

static void
lease_and_plan(void)
{
	TimestampTz earliest = DT_NOEND;
	bool		from_front = onward.left == 0;
	bool		plenty;
	int			room = window() - lane_jobs();
	int			background = Max(background_room(), 0);
	Args		args = {0};
	List	   *batches = NIL;
	ListCell   *cell;
	int			leased = 0;

	caught_up = false;
	see_others();
	if (room <= 0)
		return;
	args_int8(&args, incarnation);
	args_int4(&args, room);
	args_int4(&args, Min(room, background));
	args_int8(&args, from_front ? DT_NOBEGIN : onward.since);
	args_known_sources(&args);
	run_statement(&lease, &args);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Batch	   *batch = palloc0(sizeof(Batch));
		TimestampTz first;
		bool		isnull;

		batch->source_id = result_int8(row, 1, &isnull);
		batch->keys = text_list(SPI_getbinval(SPI_tuptable->vals[row],
											  SPI_tuptable->tupdesc, 2,
											  &isnull));
		leased += list_length(batch->keys);
		batches = lappend(batches, batch);
		first = result_int8(row, 3, &isnull);
		if (!isnull)
			earliest = Min(earliest, first);
	}
	plenty = leased == room || (background > 0 && leased >= background);
	more = more || plenty || !from_front;
	go_onward(batches, earliest, plenty);
	caught_up = !more && background > 0;
	foreach(cell, batches)
		plan_source(lfirst(cell));
}

/* ------------------------------------------------------------------------
 * A turn
 * ------------------------------------------------------------------------ */

/* Copy of a database, or told to rest: keys wait. */
static bool
sending_allowed(void)
{
	bool		isnull;

	if (rsvp_sync_mode == MODE_OFF)
		return false;
	run_statement(&may_send, NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, 1, &isnull));
}

/* DID documents that are due, whether or not a key asks for them. */
static void
verify_identities(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next)
		return;
	next = TimestampTzPlusMilliseconds(now, VERIFY_MS);
	run_statement(&identities_to_verify, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_verify(result_text(row, 1));
	run_statement(&handles_to_check, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_check_handle(result_text(row, 1), result_text(row, 2));
}

/* Sources that transactions with a transaction-wide snapshot have changed. */
static void
note_repeatable(void)
{
	bool		isnull;
	Datum		sources = SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 2, &isnull);

	if (!isnull)
		writeback_note_repeatable(DatumGetArrayTypeP(sources));
}

/* Besides keys, somebody may have paused something. */
static void
note_drained(int64 drained)
{
	note_repeatable();
	if (drained == 0)
		return;
	recall_paused();
	waiting_read_pauses();
}

static void
drain_log(void)
{
	Args		args = {0};
	bool		isnull;
	int64		drained;

	args_int4(&args, DRAIN_BATCH);
	run_statement(&drain, &args);
	drained = result_int8(0, 1, &isnull);
	more = drained == DRAIN_BATCH;
	note_drained(drained);
}

/*
 * Keys that can be planned before anything else is looked at; NULL: whatever
 * the log had is in the queue.
 */
static Batch *
drain_and_lease(void)
{
	Args		args = {0};
	Batch	   *batch;
	Datum		keys;
	bool		isnull;

	args_int4(&args, FEW_CHANGES);
	args_int8(&args, incarnation);
	run_statement(&drain_few, &args);
	keys = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4,
						 &isnull);
	if (isnull)
	{
		note_drained(result_int8(0, 1, &isnull));
		return NULL;
	}
	batch = palloc0(sizeof(Batch));
	batch->keys = text_list(keys);
	batch->source_id = result_int8(0, 3, &isnull);
	note_repeatable();
	return batch;
}

/* Nobody can wake us where the library was not preloaded. */
static int
poll_ms(void)
{
	return registry_available() ? POLL_MS : POLL_BLIND_MS;
}

/*
 * When time alone makes something due.  Keys that may not be sent, or for
 * which there is no room, wait for something else.
 */
static void
find_next_due(bool sending)
{
	bool		isnull = true;
	int64		ms = POLL_MS;

	if (sending && lane_jobs() < window())
	{
		run_statement(&next_due, NULL);
		ms = result_int8(0, 1, &isnull);
	}
	if (isnull || ms > poll_ms())
		ms = poll_ms();
	if (crowded_until > GetCurrentTimestamp())
		ms = Min(ms, CROWDED_MS);
	wake_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Max(ms, 10));
}

/* What is done once in a while, whatever else is to do. */
static void
keep_house(void)
{
	static int	mode_seen = -1;
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		isnull;

	if (rsvp_sync_mode == MODE_LIVE && mode_seen != MODE_LIVE)
		run_statement(&perform_rehearsed, NULL);
	mode_seen = rsvp_sync_mode;
	reconcile_call();
	stream_call();
	run_statement(&finish_leaving, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
		lane_forget(result_text(row, 1));
	if (now < next)
		return;
	run_statement(&look_at_inactive, NULL);
	run_statement(&tidy_explicit, NULL);
	run_statement(&retry_found, NULL);
	run_statement(&forget_history, NULL);
	if (result_int8(0, 1, &isnull) == 0)
		next = TimestampTzPlusMilliseconds(now, HOUSE_MS);
}

static void
run_inbound_work(void *arg)
{
	bool		isnull;

	run_statement(&inbound_work, NULL);
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
								   SPI_tuptable->tupdesc, 1, &isnull)))
		more = true;
}

/* It is application SQL that is run there: its errors are not ours. */
static void
apply_inbound(void)
{
	static TimestampTz not_before = 0;
	ErrorData  *error;

	if (GetCurrentTimestamp() < not_before)
		return;
	error = guarded(run_inbound_work, NULL);
	if (error == NULL)
		return;
	not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), POLL_MS);
	ereport(LOG,
			(errmsg("what was said on the network cannot be applied: %s",
					error->message)));
}

/* Have sources for ourselves, or come back later. */
static bool
share_sources(void)
{
	if (source_try_share())
		return true;
	end_work();
	away_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AWAY_MS);
	return false;
}

/* Does somebody change what is attached? */
static bool
is_away(void)
{
	return GetCurrentTimestamp() < away_until;
}

/* What was planned is committed. */
static void
add_planned(void)
{
	while (!dlist_is_empty(&planned))
		lane_add(dlist_container(Job, node, dlist_pop_head_node(&planned)));
}

static void
work(void)
{
	MemoryContext old;
	bool		sending;
	bool		quiet;

	begin_work("rsvp_sync: looking at the queue");
	process_leave_if_dropped();
	if (!share_sources())
		return;
	renew_plans();
	old = MemoryContextSwitchTo(turn_context);
	quiet = dlist_is_empty(lane_outcomes());
	waiting_park();				/* before what may let them go */
	answers_supply_credentials();
	answers_record();
	keep_house();
	waiting_park();
	drain_log();
	renew_plans();
	sending = sending_now = sending_allowed();
	if (sending)
	{
		more = waiting_release() || more;
		plan_again();
		verify_identities();
		more = visits_lease() || more;
		apply_inbound();
		lease_and_plan();
	}
	else
	{
		stand_down();
		/* From the log to the queue, at each of the application's commits. */
		if (quiet)
			commit_without_flush();
	}
	webmention_work(incarnation, sending);
	answers_record();
	meter_flush();
	find_next_due(sending);
	MemoryContextSwitchTo(old);
	end_work();
	MemoryContextReset(turn_context);
	lane_outcomes_recorded();
	told = false;
	writeback_poke();
	add_planned();
}

/*
 * Somebody has just changed something, and this process had nothing to do: as
 * a rule that is one row, whose call can leave before anything else is looked
 * at.
 */
static bool
may_hurry(void)
{
	return told && caught_up && sending_now &&
		rsvp_sync_mode == MODE_LIVE && !is_away() &&
		lane_jobs() < FEW_CHANGES && dlist_is_empty(lane_outcomes()) &&
		dlist_is_empty(lane_replans()) && dlist_is_empty(lane_parked());
}

/*
 * False: there is nothing that could leave so soon.  What might keep it from
 * being sent (a pause, a copy made a database of its own) is in the log, too,
 * and then nothing of that is leased here.
 */
static bool
hurry(void)
{
	MemoryContext old;
	Batch	   *batch = NULL;

	if (!may_hurry())
		return false;
	begin_work("rsvp_sync: looking at the log");
	process_leave_if_dropped();
	if (!share_sources())
		return true;
	old = MemoryContextSwitchTo(turn_context);
	batch = drain_and_lease();
	if (batch == NULL)
		commit_without_flush();
	else if (try_to_plan(batch))
	{
		TimestampTz rest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   REST_MS);

		more = told = false;
		wake_at = Min(wake_at, rest);
	}
	MemoryContextSwitchTo(old);
	end_work();
	MemoryContextReset(turn_context);
	add_planned();
	return batch != NULL;
}

/* One step of a refresh, committed before the lane hears of it. */
static void
renew(RenewalWork *work)
{
	Renewal		renewal = {.work = work,.keep = CurrentMemoryContext};
	ErrorData  *error;

	begin_work("rsvp_sync: refreshing an OAuth session");
	process_leave_if_dropped();
	error = answers_renewal(&renewal);
	if (error != NULL && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(WARNING,
				(errmsg("the OAuth session of %s cannot be refreshed: %s",
						work->did, error->message)));
	end_work();
	if (error != NULL)
		lane_renewal_postponed(work->did, work->how ? LOCKED_MS : POLL_MS);
	else if (work->how != NULL)
		lane_renewal_stored(work->did, renewal.yes);
	else
		lane_lease(work->did, renewal.known, renewal.yes, renewal.lease);
}

/* Each in a transaction of its own, and these before all others. */
static void
renew_sessions(void)
{
	RenewalWork *work;

	while ((work = lane_next_renewal()) != NULL)
		renew(work);
}

static void
harvest(void)
{
	HttpRequest *req;

	http_pump();
	while ((req = http_finished()) != NULL)
		if (!webmention_finished(req))
			lane_finished(req);
}

/*
 * Answers are recorded together while they keep coming in and lanes have other
 * jobs to go on with; a change that somebody waits for does not wait for that.
 */
static bool
gathering(void)
{
	return !told && lane_outcomes_flow();
}

/* Is there anything that only a transaction can move on? */
static bool
work_to_do(void)
{
	if (is_away() || gathering())
		return false;
	return more || !dlist_is_empty(lane_outcomes()) ||
		!dlist_is_empty(lane_replans()) || !dlist_is_empty(lane_parked()) ||
		lane_releases() != NIL ||
		lane_credentials_wanted() != NIL || webmention_work_to_do() ||
		GetCurrentTimestamp() >= wake_at;
}

static long
sooner(long a, long b)
{
	if (a < 0)
		return b;
	return b < 0 ? a : Min(a, b);
}

/* The one place where this process waits.  True: it was told something. */
static bool
wait_for_events(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = gathering() ? 1 : more ? 0 :
		TimestampDifferenceMilliseconds(now, wake_at);
	int			events;

	ms = Max(ms, TimestampDifferenceMilliseconds(now, away_until));
	ms = sooner(ms, http_timeout_ms());
	ms = sooner(ms, lane_timeout_ms());
	ms = sooner(ms, webmention_timeout_ms());
	ms = sooner(ms, writeback_timeout_ms());
	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE |
							   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   http_epoll_fd(), ms, PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return (events & WL_LATCH_SET) != 0 || registry_told();
}

static void
apply_settings(void)
{
	http_startup(rsvp_sync_concurrency, rsvp_sync_connections_per_host);
	http_configure(rsvp_sync_insecure_hosts, rsvp_sync_user_agent_contact);
}

static void
react_to_signals(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		apply_settings();
		more = true;
	}
	if (registry_restart_requested())
	{
		ereport(LOG, (errmsg("rsvp_sync worker starts anew with changed"
							 " settings")));
		proc_exit(1);
	}
}

/*
 * All that is waited for in memory is a moment of the wall clock, too: where
 * that is set back, a new process begins without it.
 */
static void
react_to_clock(void)
{
	static TimestampTz seen = 0;
	TimestampTz now = GetCurrentTimestamp();
	long		back = TimestampDifferenceMilliseconds(now, seen);
	Args		args = {0};

	seen = now;
	if (back <= CLOCK_SLACK_MS)
		return;
	begin_work("rsvp_sync: following the clock");
	process_leave_if_dropped();
	args_int8(&args, back);
	run_statement(&clock_set_back, &args);
	end_work();
	ereport(LOG, (errmsg("rsvp_sync worker starts anew, as the clock was set"
						 " back by %ld s", back / 1000)));
	/* All of them, and at once: this is no failure. */
	registry_restart_worker(MyDatabaseId);
	proc_exit(1);
}

/* What may not be sent now goes back to the queue. */
static void
settle(void)
{
	if (lane_settle(window(), others_wait) >= CROWD)
		crowded_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													CROWDED_MS);
}

/* Their first bytes leave at once, whatever else this turn has to do. */
static void
start_calls(void)
{
	lane_start(sending_now);
	http_pump();
}

static void
turn(void)
{
	MemoryContext old = MemoryContextSwitchTo(turn_context);
	bool		rest;

	registry_clear_told();
	react_to_clock();
	harvest();
	renew_sessions();
	settle();
	if (lane_may_go_on())
		start_calls();
	if (work_to_do() && !hurry())
		work();
	settle();
	start_calls();
	webmention_start();
	if (!gathering() && writeback_step())
		more = true;
	rest = is_away() || gathering() ||
		(dlist_is_empty(lane_outcomes()) && dlist_is_empty(lane_replans()) &&
		 dlist_is_empty(lane_parked()) &&
		 lane_credentials_wanted() == NIL && !lane_renewals_wanted());
	MemoryContextSwitchTo(old);
	MemoryContextReset(turn_context);
	if (rest && wait_for_events())
		more = told = true;
	react_to_signals();
}

/* ------------------------------------------------------------------------
 * Start
 * ------------------------------------------------------------------------ */

static void
take_over(void)
{
	Args		args = {0};

	incarnation = (int64) GetCurrentTimestamp();
	begin_work("rsvp_sync: taking over");
	process_leave_if_dropped();
	args_int8(&args, incarnation);
	run_statement(&release_leases, &args);
	run_statement(&clock_check, NULL);
	waiting_take_over();
	visits_take_over();
	webmention_take_over(incarnation);
	end_work();
}

void
rsvp_sync_worker_main(Datum main_arg)
{
	process_begin(DatumGetObjectId(main_arg));
	turn_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync turn",
										 ALLOCSET_DEFAULT_SIZES);
	lane_startup();
	webmention_startup();
	take_over();
	apply_settings();
	ereport(DEBUG1, (errmsg("rsvp_sync worker started")));
	for (;;)
		turn();
}
