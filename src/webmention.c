/*-------------------------------------------------------------------------
 *
 * webmention.c
 *		Webmentions on their way, in the worker.
 *
 * A lane of its own beside those of accounts: a few conversations at a time,
 * leased from _webmention in the worker's transactions and held with nothing
 * open.  What a conversation is, is in webmention_fetch.c; what is told to
 * whom, and when again, in sql/76-webmention.sql.
 *
 * One may be told twice, if this process dies between an endpoint's answer
 * and its being written down.  That does no harm: telling it again is what the
 * specification has for an update.
 *
 * Web servers are counted apart from the servers of accounts, by a name of
 * their own: that a page is slow says nothing of a PDS on the same host.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "host.h"
#include "html.h"
#include "lane_state.h"
#include "settings.h"
#include "url.h"
#include "webmention.h"
#include "webmention_fetch.h"
#include "worker.h"

/* Conversations in memory */
#define MAX_MENTIONS	32
#define FORGET_MS		(3600 * 1000)
/* What could not be written down so often is left to the next worker. */
#define MAX_REFUSED		5

static Statement lease = {
	"SELECT l.kind, l.webmention_id, l.generation, l.permalink, l.target,"
	" l.wanted FROM rsvp_sync._lease_webmentions($1, $2) l", 2,
	{INT8OID, INT4OID}
};
static Statement next_due = {
	"SELECT (pg_catalog.extract('epoch', rsvp_sync._next_webmention()"
	" OPERATOR(pg_catalog.-) pg_catalog.now())"
	" OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8", 0
};
static Statement release = {
	"SELECT rsvp_sync._release_webmentions($1)", 1, {INT8OID}
};
static Statement give_back = {
	"SELECT rsvp_sync._webmention_back($1, $2)", 2, {INT8OID, BOOLOID}
};
static Statement told = {
	"SELECT rsvp_sync._webmention_done($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	9, {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID,
	TEXTOID, INT4OID}
};
static Statement seen = {
	"SELECT rsvp_sync._webmention_seen($1, $2, $3)", 3,
	{INT8OID, INT4OID, TEXTOID}
};
static Statement verified = {
	"SELECT rsvp_sync._mention_verified($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	9, {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, BOOLOID,
	INT4OID}
};
static Statement not_applied = {
	"SELECT rsvp_sync._mention_refused($1, $2)", 2, {INT8OID, TEXTOID}
};
static Statement forget = {
	"SELECT rsvp_sync._forget_webmentions(), rsvp_sync._forget_received()", 0
};

static MemoryContext mention_context = NULL;

/* Each is in one of these. */
static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static dlist_head under_way = DLIST_STATIC_INIT(under_way);
static dlist_head over = DLIST_STATIC_INIT(over);
static int	mentions = 0;

/* When the next is due; 0: when a turn notes one */
static TimestampTz look_at = 0;

/* More are due than there is room for. */
static bool crowded = false;

void
webmention_startup(void)
{
	mention_context = AllocSetContextCreate(TopMemoryContext,
											"rsvp_sync webmentions",
											ALLOCSET_DEFAULT_SIZES);
}

void
webmention_take_over(int64 incarnation)
{
	Args		args = {0};

	args_int8(&args, incarnation);
	run_statement(&release, &args);
}

static void
free_mention(Mention *mention)
{
	http_free(mention->req);
	mentions--;
	MemoryContextDelete(mention->context);
}

/* ------------------------------------------------------------------------
 * In a transaction
 * ------------------------------------------------------------------------ */

static const char *
column(Mention *mention, uint64 row, int n)
{
	char	   *text = result_text(row, n);

	return text ? MemoryContextStrdup(mention->context, text) : NULL;
}

static void
read_mention(uint64 row)
{
	MemoryContext context = AllocSetContextCreate(mention_context,
												  "rsvp_sync webmention",
												  ALLOCSET_SMALL_SIZES);
	Mention    *mention = MemoryContextAllocZero(context, sizeof(Mention));
	const char *kind = result_text(row, 1);
	Arena		arena = {0};
	char	   *url;
	bool		isnull;

	mention->context = context;
	mention->kind = strcmp(kind, "tell") == 0 ? MENTION_TELL :
		strcmp(kind, "status") == 0 ? MENTION_STATUS : MENTION_VERIFY;
	mention->id = result_int8(row, 2, &isnull);
	mention->generation = result_int8(row, 3, &isnull);
	mention->source = column(mention, row, 4);
	mention->target = column(mention, row, 5);
	mention->wanted = column(mention, row, 6);
	mentions++;
	url = url_for_request(&arena, mention->target);
	mention->url = url ? MemoryContextStrdup(context, url) : NULL;
	arena_free(&arena);
	if (mention->url == NULL)
	{
		mention->how = "failed";
		mention->error = "bad_target: not the address of a web page";
		dlist_push_tail(&over, &mention->node);
		return;
	}
	dlist_push_tail(&waiting, &mention->node);
}

/* What may be in a page, as text; see html.c. */
static char *
readable_body(Mention *mention)
{
	Arena		arena = {0};
	char	   *text = html_readable(&arena, mention->body, mention->body_len);
	char	   *copy = text ? MemoryContextStrdup(mention->context, text) : NULL;

	arena_free(&arena);
	return copy;
}

static void
record_verified(Mention *mention)
{
	Args		args = {0};

	args_int8(&args, mention->id);
	args_int8(&args, mention->generation);
	args_text(&args, mention->how);
	args_text(&args, mention->error);
	args_text(&args, mention->url);
	args_int4(&args, mention->status);
	args_text(&args, mention->body ? readable_body(mention) : NULL);
	args_bool(&args, mention->html);
	args_int4(&args, (int32) mention->wait_ms);
	run_statement(&verified, &args);
}

static void
record_not_applied(Mention *mention, const char *message)
{
	Args		args = {0};

	args_int8(&args, mention->id);
	args_text(&args, message);
	run_statement(&not_applied, &args);
}

static void
record_mention(void *arg)
{
	Mention    *mention = arg;
	Args		args = {0};

	if (mention->kind == MENTION_VERIFY)
	{
		record_verified(mention);
		return;
	}
	args_int8(&args, mention->id);
	if (mention->kind == MENTION_STATUS)
	{
		args_int4(&args, mention->status);
		args_text(&args, mention->body ? mention->body : mention->error);
		run_statement(&seen, &args);
		return;
	}
	args_int8(&args, mention->generation);
	args_text(&args, mention->wanted);
	args_text(&args, mention->how);
	args_text(&args, mention->error);
	args_text(&args, mention->endpoint);
	args_int4(&args, mention->status);
	args_text(&args, mention->status_url);
	args_int4(&args, (int32) mention->wait_ms);
	run_statement(&told, &args);
}

/* What cannot be written down now is written down in a later turn. */
static void
record_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &over)
	{
		Mention    *mention = dlist_container(Mention, node, iter.cur);
		ErrorData  *error = guarded(record_mention, mention);

		/* What the application has against it is not heard five times. */
		if (error != NULL && mention->kind == MENTION_VERIFY &&
			error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		{
			record_not_applied(mention, error->message);
			error = NULL;
		}
		if (error != NULL && ++mention->refused < MAX_REFUSED)
			continue;
		if (error != NULL)
			ereport(WARNING,
					(errmsg("what came of the webmention to %s cannot be"
							" recorded: %s", mention->target, error->message)));
		dlist_delete(&mention->node);
		free_mention(mention);
	}
}

static void
give_all_back(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		Mention    *mention = dlist_container(Mention, node, iter.cur);
		Args		args = {0};

		dlist_delete(&mention->node);
		args_int8(&args, mention->id);
		args_bool(&args, mention->kind == MENTION_VERIFY);
		run_statement(&give_back, &args);
		free_mention(mention);
	}
}

static void
lease_more(int64 incarnation)
{
	int			room = MAX_MENTIONS - mentions;
	Args		args = {0};
	bool		isnull;
	int64		ms;

	args_int8(&args, incarnation);
	args_int4(&args, room);
	run_statement(&lease, &args);
	crowded = SPI_processed >= room;
	for (uint64 row = 0; row < SPI_processed; row++)
		read_mention(row);
	run_statement(&next_due, NULL);
	ms = result_int8(0, 1, &isnull);
	look_at = isnull ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Max(ms, 10));
}

static void
forget_some(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next)
		return;
	next = TimestampTzPlusMilliseconds(now, FORGET_MS);
	run_statement(&forget, NULL);
}

void
webmention_work(int64 incarnation, bool sending)
{
	record_all();
	if (!sending || rsvp_sync_mode != MODE_LIVE)
	{
		give_all_back();
		look_at = 0;
		crowded = false;
		return;
	}
	forget_some();
	if (mentions < MAX_MENTIONS)
		lease_more(incarnation);
}

bool
webmention_work_to_do(void)
{
	if (!dlist_is_empty(&over))
		return true;
	return mentions < MAX_MENTIONS &&
		(crowded || (look_at != 0 && GetCurrentTimestamp() >= look_at));
}

/* ------------------------------------------------------------------------
 * On the network
 * ------------------------------------------------------------------------ */

static Host *
host_of_page(const char *url)
{
	Arena		arena = {0};
	char	   *origin = url_origin(&arena, url);
	char	   *name = psprintf("web %s", origin ? origin : "");
	Host	   *host = host_of(name);

	pfree(name);
	arena_free(&arena);
	return host;
}

static void
move_to(Mention *mention, dlist_head *list)
{
	dlist_delete(&mention->node);
	dlist_push_tail(list, &mention->node);
}

/* The conversation goes on, or is over. */
static void
go_on(Mention *mention)
{
	if (mention->how != NULL && strcmp(mention->how, "retry") == 0 &&
		mention->wait_ms > 0)
		host_rests(host_of_page(mention->url), host_now() + mention->wait_ms);
	move_to(mention, mention->how != NULL ? &over : &waiting);
}

static void
start_mention(Mention *mention)
{
	Host	   *host = host_of_page(mention->url);
	int64		wait = host_wait(host, true, host_now());

	if (wait > SHORT_WAIT_MS)
	{
		mention->how = "later";
		mention->error = "rate_limited: its server wants to be left alone";
		mention->wait_ms = (long) Min(wait, INT_MAX);
		go_on(mention);
		return;
	}
	if (wait != 0 || !host_has_room(host))
	{
		mention->not_before = host_now() + Max(wait, 0);
		return;
	}
	mention->req = mention_request(mention);
	if (mention->req == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for a request")));
	mention->host = host;
	host_call_begins(host, host_now());
	move_to(mention, &under_way);
	if (!http_start(mention->req))
		webmention_finished(mention->req);
}

void
webmention_start(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
		start_mention(dlist_container(Mention, node, iter.cur));
}

bool
webmention_finished(HttpRequest *req)
{
	dlist_iter	iter;
	Mention    *mention = NULL;

	dlist_foreach(iter, &under_way)
		if (dlist_container(Mention, node, iter.cur)->req == req)
			mention = dlist_container(Mention, node, iter.cur);
	if (mention == NULL)
		return false;
	mention->req = NULL;
	host_call_ended(mention->host, host_now(), 1);
	mention_answer(mention, req);
	http_free(req);
	go_on(mention);
	return true;
}

long
webmention_timeout_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		shortest = -1;
	dlist_iter	iter;

	if (webmention_work_to_do())
		return 0;
	if (look_at != 0 && mentions < MAX_MENTIONS)
		shortest = TimestampDifferenceMilliseconds(now, look_at);
	dlist_foreach(iter, &waiting)
	{
		Mention    *mention = dlist_container(Mention, node, iter.cur);
		int64		left = mention->not_before - host_now();

		/* For room, an answer wakes us; 0: it has not been tried yet. */
		if (mention->not_before == 0)
			return 0;
		if (left > 0 && (shortest < 0 || left < shortest))
			shortest = (long) left;
	}
	return shortest;
}
