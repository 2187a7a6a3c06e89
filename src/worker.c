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
#include "planning.h"
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
/* After their calls have left, what else there is to do waits this long. */
#define REST_MS			10
/* However quiet it is, the log is looked at this often. */
#define POLL_MS			5000
#define POLL_BLIND_MS	250
/* Between two looks for DID documents that are due. */
#define VERIFY_MS		1000
/* Between two looks at what has become old. */
#define HOUSE_MS		(10 * 60 * 1000)
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
static Statement release_leases = {
	"SELECT rsvp_sync._release_leases($1)", 1, {INT8OID}
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

/* Is there certainly more to do than the last turn took? */
static bool more = true;

/* Was this process told something since the last transaction? */
static bool told = true;

/* When the next turn is due without being told. */
static TimestampTz wake_at = 0;

/* Not in a copy, nor where all is off or paused. */
static bool sending_now = false;

/* Sources are somebody else's until we ask again. */
static TimestampTz away_until = 0;

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
	planning_recall_paused();
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
	batch = planning_batch(result_int8(0, 3, &isnull), keys);
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

	if (sending && lane_jobs() < planning_window())
	{
		run_statement(&next_due, NULL);
		ms = result_int8(0, 1, &isnull);
	}
	if (isnull || ms > poll_ms())
		ms = poll_ms();
	if (planning_crowded())
		ms = Min(ms, PLANNING_CROWDED_MS);
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
		planning_again();
		verify_identities();
		more = visits_lease() || more;
		apply_inbound();
		more = planning_lease(incarnation, more);
	}
	else
	{
		planning_stand_down();
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
	planning_start();
}

/*
 * Somebody has just changed something, and this process had nothing to do: as
 * a rule that is one row, whose call can leave before anything else is looked
 * at.
 */
static bool
may_hurry(void)
{
	return told && planning_caught_up() && sending_now &&
		rsvp_sync_mode == MODE_LIVE && !is_away() &&
		GetCurrentTimestamp() < wake_at &&	/* a whole turn is due */
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
	else if (planning_try(batch))
	{
		TimestampTz rest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   REST_MS);

		more = told = false;
		wake_at = Min(wake_at, rest);
	}
	MemoryContextSwitchTo(old);
	end_work();
	MemoryContextReset(turn_context);
	planning_start();
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
	planning_settle();
	if (lane_may_go_on())
		start_calls();
	if (work_to_do() && !hurry())
		work();
	planning_settle();
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
