/*-------------------------------------------------------------------------
 *
 * stream.c
 *		The worker that listens to the network.
 *
 * One process per database that wants one.  It reads what a Jetstream server
 * says, as long as there is one to be had of those in jetstream_url, and
 * writes it down in batches: at once when there is nothing more to be read,
 * together when there is.  No transaction is open while it waits, in one
 * place, for its latch and the server.
 *
 * Where it is in the stream is in _stream, written with the events, so that
 * whatever dies, what was not written down is heard again.  After each loss
 * of the connection it asks for a little more than it missed.  Whether the
 * server could give that is seen from the first event that comes; if not,
 * something may have been missed, and the accounts that we know are read.
 *
 * Who serves the stream is not trusted, neither for what it says (jetstream.c,
 * websocket.c, and verify_inbound for what it means) nor for how much.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "address.h"
#include "http.h"
#include "jetstream.h"
#include "link.h"
#include "process.h"
#include "registry.h"
#include "settings.h"
#include "stream.h"
#include "worker.h"

/* Read at most so much before looking at anything else. */
#define BUDGET			(256 * 1024)

/* So much more than was missed is asked for. */
#define REWIND_US		INT64_C(5000000)

/*
 * By so much may the first event be later than the one that we had last, as
 * there is no order between accounts; more where it was another server's,
 * since clocks differ.
 */
#define DISORDER_US		INT64_C(1000000)
#define SERVERS_DIFFER_US	INT64_C(5000000)

/* Under load, events wait for others so long; those of no urgency longer. */
#define GATHER_MS		50
#define GATHER_LEISURE_MS	250

/* Between two tries to connect */
#define PAUSE_MIN_MS	250
#define PAUSE_MAX_MS	30000

/* A connection that lasted so long was a good one. */
#define GOOD_MS			5000

/* While nothing happens, that is written down so often. */
#define QUIET_MS		15000

/* Of tallies; see sql/86-metrics.sql. */
#define FOLD_MS			60000

/* Until the sync worker looks again whether it has to call. */
#define LOOK_MS			1000

static Statement is_copied = {"SELECT rsvp_sync._copied()", 0};
static Statement begin_stream = {"SELECT rsvp_sync._stream_begin()", 0};
static Statement fold = {"SELECT rsvp_sync._fold_tallies()", 0};
static Statement find_place = {
	"SELECT p.last_us, COALESCE(p.same_host, false),"
	" COALESCE(p.too_old, false), COALESCE(p.known_us, 0)"
	" FROM rsvp_sync._stream_place($1) p", 1,
	{TEXTOID}
};
static Statement note_state = {
	"SELECT rsvp_sync._stream_state($1, $2, $3)", 3,
	{TEXTOID, BOOLOID, TEXTOID}
};
static Statement note_gap = {
	"SELECT rsvp_sync._stream_gap($1, $2, $3, $4)", 4,
	{TEXTOID, INT8OID, INT8OID, TEXTOID}
};

/* The server that is listened to, and how that goes. */
static Link *link_now = NULL;
static char host[ADDRESS_MAX_URL];
static int	host_number = 0;
static bool open_noted = false;
static TimestampTz opened_at = 0;

/* When to try again, and for how long not after that. */
static TimestampTz try_at = 0;
static long pause_ms = PAUSE_MIN_MS;

/* The same trouble is told once. */
static char *last_trouble = NULL;

/*
 * Until the first event shows that nothing was missed: the newest one that we
 * have, and by when the server has to say something.
 */
static bool proof_wanted = false;
static int64 proof_us = 0;
static TimestampTz proof_until = 0;
static bool cursor_refused = false;

/* A gap behind the newest event that we have is known, and minded. */
static bool gap_known = false;

/* There is no event yet to go on from. */
static bool first_time = false;

/* A message that has to wait until the batch is written down. */
static JetstreamEvent kept_back;
static bool has_kept_back = false;
static TimestampTz write_again_at = 0;

static TimestampTz quiet_due = 0;
static TimestampTz fold_due = 0;
static MemoryContext turn_context = NULL;

/* ------------------------------------------------------------------------
 * Whether there is to be a worker
 * ------------------------------------------------------------------------ */

static bool
is_wanted(void)
{
	char		first[ADDRESS_MAX_URL];

	return rsvp_sync_mode != MODE_OFF &&
		jetstream_host(rsvp_sync_jetstream_url, 0, first, sizeof(first));
}

static bool
in_copy(void)
{
	bool		isnull;

	run_statement(&is_copied, NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, 1, &isnull));
}

void
stream_call(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next || !registry_available() || !is_wanted())
		return;
	next = TimestampTzPlusMilliseconds(now, LOOK_MS);
	if (registry_worker_pid(MyDatabaseId, WORKER_JETSTREAM) == 0 && !in_copy())
		registry_call(MyDatabaseId, WORKER_JETSTREAM);
}

/* ------------------------------------------------------------------------
 * Short transactions of its own
 * ------------------------------------------------------------------------ */

static void
open_work(const char *what)
{
	begin_work(what);
	process_leave_if_dropped();
	MemoryContextSwitchTo(turn_context);
}

static void
write_state(bool connected, const char *message)
{
	Args		args = {0};

	open_work("rsvp_sync: noting the stream's state");
	args_text(&args, host);
	args_bool(&args, connected);
	args_text(&args, message);
	run_statement(&note_state, &args);
	end_work();
}

static void
args_time(Args *args, int64 us)
{
	args_int8(args, us);
	if (us == 0)
		args->nulls[args->n - 1] = 'n';
}

/*
 * Something may have been missed.
 */
static void
report_gap(int64 from_us, int64 until_us, const char *why)
{
	Args		args = {0};
	int64		accounts;
	bool		isnull;

	open_work("rsvp_sync: noting a gap in the stream");
	args_text(&args, host);
	args_time(&args, from_us);
	args_time(&args, until_us);
	args_text(&args, why);
	run_statement(&note_gap, &args);
	accounts = result_int8(0, 1, &isnull);
	end_work();
	proof_wanted = false;
	gap_known = true;
	ereport(LOG,
			(errmsg("rsvp_sync stream: events may be missing: %s", why),
			 errdetail("The records of " INT64_FORMAT " known accounts are"
					   " read from their own servers.", accounts)));
}

/* ------------------------------------------------------------------------
 * Connecting
 * ------------------------------------------------------------------------ */

/* Between half and all of it, so that not all come back together. */
static long
with_jitter(long ms)
{
	return ms / 2 + (long) (pg_prng_double(&pg_global_prng_state) * ms / 2);
}

static void
pause_then_try_next(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (opened_at != 0 &&
		now >= TimestampTzPlusMilliseconds(opened_at, GOOD_MS))
		pause_ms = PAUSE_MIN_MS;
	try_at = TimestampTzPlusMilliseconds(now, with_jitter(pause_ms));
	pause_ms = Min(pause_ms * 2, PAUSE_MAX_MS);
	host_number++;
}

/* Numbers aside: how long it took is no news. */
static bool
same_trouble(const char *a, const char *b)
{
	static const char digits[] = "0123456789";

	while (*a && *b)
	{
		a += strspn(a, digits);
		b += strspn(b, digits);
		if (*a != *b)
			return false;
		if (*a)
			a++, b++;
	}
	return a[strspn(a, digits)] == b[strspn(b, digits)];
}

static void
tell_trouble(const char *what)
{
	bool		news = last_trouble == NULL ||
		!same_trouble(last_trouble, what);

	ereport(news ? LOG : DEBUG1,
			(errmsg("rsvp_sync stream: %s: %s", host, what)));
	if (!news)
		return;
	if (last_trouble != NULL)
		pfree(last_trouble);
	last_trouble = MemoryContextStrdup(TopMemoryContext, what);
}

/* What was read and not written down is heard again. */
static void
hang_up(void)
{
	link_free(link_now);
	link_now = NULL;
	batch_drop();
	if (has_kept_back)
		jetstream_free(&kept_back);
	has_kept_back = false;
	write_again_at = 0;
}

static void
lose(const char *why)
{
	char	   *reason = pstrdup(why);

	hang_up();
	tell_trouble(reason);
	pause_then_try_next();
	write_state(false, reason);
}

/* The next of the hosts, from the first again after the last. */
static void
choose_host(void)
{
	if (jetstream_host(rsvp_sync_jetstream_url, host_number, host,
					   sizeof(host)))
		return;
	host_number = 0;
	(void) jetstream_host(rsvp_sync_jetstream_url, 0, host, sizeof(host));
}

/*
 * Where to begin: a little before the newest event that we have.  Returns the
 * cursor; 0: with what comes next.
 */
static int64
read_place(void)
{
	Args		args = {0};
	int64		last_us = 0;
	int64		known_us = 0;
	bool		same_host = false;
	bool		too_old = false;
	bool		isnull = true;

	open_work("rsvp_sync: finding the place in the stream");
	if (in_copy())
		proc_exit(0);
	args_text(&args, host);
	run_statement(&find_place, &args);
	if (SPI_processed > 0)
	{
		last_us = result_int8(0, 1, &isnull);
		same_host = strcmp(result_text(0, 2), "t") == 0;
		too_old = strcmp(result_text(0, 3), "t") == 0;
		known_us = result_int8(0, 4, &isnull);
	}
	end_work();

	proof_wanted = false;
	proof_until = 0;
	first_time = last_us == 0;
	gap_known = known_us > 0;
	if (first_time)
		return 0;
	if (too_old)
		report_gap(last_us, 0, "longer away than servers remember");
	else
	{
		proof_wanted = true;
		proof_us = Max(last_us, known_us) +
			(same_host ? DISORDER_US : SERVERS_DIFFER_US);
	}
	if (cursor_refused)
		return 0;
	return Max(last_us - REWIND_US, JETSTREAM_FIRST_TIME);
}

static void
call_host(void)
{
	char		url[ADDRESS_MAX_URL];
	int64		cursor;

	choose_host();
	cursor = read_place();
	cursor_refused = false;
	open_noted = false;
	opened_at = 0;
	if (!jetstream_url(host, cursor, url, sizeof(url)))
		lose("this is no URL of a Jetstream server");
	else if ((link_now = link_open(url, rsvp_sync_request_timeout)) == NULL)
		lose("out of memory");
}

/* The server has answered: it will say something soon, if it can. */
static void
note_open(void)
{
	open_noted = true;
	opened_at = GetCurrentTimestamp();
	quiet_due = TimestampTzPlusMilliseconds(opened_at, QUIET_MS);
	proof_until = TimestampTzPlusMilliseconds(opened_at,
											  rsvp_sync_request_timeout);
	write_state(true, NULL);
	if (last_trouble != NULL)
		pfree(last_trouble);
	last_trouble = NULL;
	ereport(LOG, (errmsg("rsvp_sync stream: listening to %s", host)));
	if (first_time)
		report_gap(0, 0, "there is no place to go on from");
}

/* It does not have what we ask for: say so, and do without. */
static void
take_refusal(void)
{
	if (link_status(link_now) != 400 ||
		(strstr(link_refusal(link_now), "CursorTooOld") == NULL &&
		 strstr(link_refusal(link_now), "OutdatedCursor") == NULL))
		return;
	report_gap(proof_us, 0, "the server does not go back so far");
	cursor_refused = true;
	/* It is the right server all the same. */
	host_number--;
}

/* ------------------------------------------------------------------------
 * Listening
 * ------------------------------------------------------------------------ */

/* Does the first event follow what we have without a gap? */
static void
look_for_gap(const JetstreamEvent *event)
{
	if (event->kind == JETSTREAM_INFO && !gap_known &&
		strcmp(event->name, "OutdatedCursor") == 0)
		report_gap(proof_us, 0, "the server does not go back so far");
	if (!proof_wanted || event->time_us == 0)
		return;
	proof_wanted = false;
	if (event->time_us > proof_us)
		report_gap(proof_us, event->time_us,
				   "the server has forgotten what we heard last");
}

/* The server is to have begun by now; where a gap is known, it may take longer. */
static void
miss_proof(void)
{
	if (proof_wanted && !gap_known && proof_until != 0 &&
		GetCurrentTimestamp() >= proof_until)
		report_gap(proof_us, 0, "the server has nothing of what we heard last");
}

/*
 * Put what has come into the batch, as far as it goes.
 */
static void
take_messages(void)
{
	const char *text;
	size_t		len;

	while (!batch_is_full())
	{
		if (!has_kept_back)
		{
			if ((text = link_next(link_now, &len)) == NULL)
				return;
			jetstream_parse(text, len, &kept_back);
			if (kept_back.kind == JETSTREAM_JUNK)
				ereport(DEBUG1, (errmsg("rsvp_sync stream: dropped: %s",
										kept_back.why)));
			else if (kept_back.kind == JETSTREAM_ERROR)
				tell_trouble(kept_back.name);
			look_for_gap(&kept_back);
		}
		has_kept_back = !batch_add(&kept_back);
		if (has_kept_back)
			return;
	}
}

/* Is it time to write down what there is? */
static bool
is_batch_due(TimestampTz now)
{
	if (batch_is_empty() || now < write_again_at)
		return false;
	if (batch_is_full() || has_kept_back ||
		link_state(link_now) == LINK_CLOSED)
		return true;
	if (batch_is_urgent() && !link_has_more(link_now))
		return true;
	return now >= TimestampTzPlusMilliseconds(batch_since(),
											  batch_is_urgent() ? GATHER_MS :
											  GATHER_LEISURE_MS);
}

static void
write_down(bool caught_up)
{
	TimestampTz now = GetCurrentTimestamp();
	long		again_ms = 0;

	if (batch_write(host, caught_up, &again_ms))
	{
		write_again_at = 0;
		registry_has_worked();
	}
	else
		write_again_at = TimestampTzPlusMilliseconds(now, again_ms);
}

/* Nothing happens, and that is known, too. */
static void
note_quiet(TimestampTz now)
{
	if (now < quiet_due || !batch_is_empty() || link_has_more(link_now) ||
		proof_wanted)
		return;
	quiet_due = TimestampTzPlusMilliseconds(now, QUIET_MS);
	write_down(true);
}

static void
fold_tallies(void *arg)
{
	run_statement(&fold, NULL);
}

/* Best left alone if the sync worker is at it. */
static void
keep_house(TimestampTz now)
{
	if (now < fold_due)
		return;
	fold_due = TimestampTzPlusMilliseconds(now, FOLD_MS);
	open_work("rsvp_sync: adding up what was counted");
	(void) guarded(fold_tallies, NULL);
	end_work();
}

static void
listen_to_host(void)
{
	TimestampTz now;

	/* Nothing more is read while what there is cannot be written down. */
	if (!batch_is_full() && !has_kept_back)
		link_pump(link_now, BUDGET);
	if (link_state(link_now) == LINK_OPEN && !open_noted)
		note_open();
	take_messages();
	now = GetCurrentTimestamp();
	if (is_batch_due(now))
		write_down(false);
	else if (link_state(link_now) == LINK_CLOSED && batch_is_empty())
	{
		take_refusal();
		lose(link_detail(link_now));
	}
	else if (link_state(link_now) == LINK_OPEN)
	{
		miss_proof();
		note_quiet(now);
	}
	keep_house(now);
}

/* ------------------------------------------------------------------------
 * The loop
 * ------------------------------------------------------------------------ */

static long
until(TimestampTz now, TimestampTz then, long ms)
{
	return Min(ms, Max(TimestampDifferenceMilliseconds(now, then), 0));
}

/* How long may it wait?  The server's bytes, or our latch, end it sooner. */
static long
wait_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = QUIET_MS;
	long		link_ms;

	if (link_now == NULL)
		return until(now, try_at, ms);
	if (write_again_at > now)
		return until(now, write_again_at, ms);
	if (!batch_is_empty())
		ms = is_batch_due(now) ? 0 :
			until(now, TimestampTzPlusMilliseconds(batch_since(),
												   batch_is_urgent() ?
												   GATHER_MS :
												   GATHER_LEISURE_MS), ms);
	else if (link_state(link_now) == LINK_OPEN)
		ms = until(now, quiet_due, ms);
	if (proof_wanted && proof_until != 0)
		ms = until(now, proof_until, ms);
	link_ms = link_timeout_ms(link_now);
	return link_ms >= 0 ? Min(ms, link_ms) : ms;
}

/* The one place where this process waits. */
static void
rest(void)
{
	long		ms = wait_ms();
	int			fd = link_now ? link_socket(link_now) : -1;
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

	/* What cannot be taken now need not wake us. */
	if (fd >= 0 && GetCurrentTimestamp() >= write_again_at &&
		link_state(link_now) != LINK_CLOSED)
	{
		events |= WL_SOCKET_READABLE;
		if (link_wants_write(link_now))
			events |= WL_SOCKET_WRITEABLE;
	}
	else
		fd = PGINVALID_SOCKET;
	if (fd == PGINVALID_SOCKET)
		events = WaitLatch(MyLatch, events, ms, PG_WAIT_EXTENSION);
	else
		events = WaitLatchOrSocket(MyLatch, events, fd, ms, PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
apply_settings(void)
{
	http_startup(1, 1);
	http_configure(rsvp_sync_insecure_hosts, rsvp_sync_user_agent_contact);
}

/* Nobody wants it any more: in good order. */
static void
leave(int code)
{
	hang_up();
	open_work("rsvp_sync: leaving the stream");
	run_statement(&begin_stream, NULL);
	end_work();
	proc_exit(code);
}

static void
react_to_signals(void)
{
	char	   *old_url;
	char	   *old_hosts;

	if (registry_restart_requested())
		leave(1);
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	old_url = pstrdup(rsvp_sync_jetstream_url);
	old_hosts = pstrdup(rsvp_sync_insecure_hosts);
	ProcessConfigFile(PGC_SIGHUP);
	apply_settings();
	if (!is_wanted())
		leave(0);
	/* What was allowed may not be any more. */
	if (link_now != NULL &&
		(strcmp(old_url, rsvp_sync_jetstream_url) != 0 ||
		 strcmp(old_hosts, rsvp_sync_insecure_hosts) != 0))
	{
		host_number = -1;
		lose("the settings have changed");
		try_at = 0;
	}
}

static void
turn(void)
{
	MemoryContext old = MemoryContextSwitchTo(turn_context);

	if (link_now != NULL)
		listen_to_host();
	else if (GetCurrentTimestamp() >= try_at)
		call_host();
	rest();
	react_to_signals();
	MemoryContextSwitchTo(old);
	MemoryContextReset(turn_context);
}

void
rsvp_sync_stream_main(Datum main_arg)
{
	process_begin(DatumGetObjectId(main_arg));
	turn_context = AllocSetContextCreate(TopMemoryContext, "rsvp_sync stream",
										 ALLOCSET_DEFAULT_SIZES);
	open_work("rsvp_sync: beginning to listen");
	run_statement(&begin_stream, NULL);
	if (!is_wanted() || in_copy())
	{
		end_work();
		proc_exit(0);
	}
	end_work();
	batch_startup();
	apply_settings();
	host_number = 0;
	for (;;)
		turn();
}
