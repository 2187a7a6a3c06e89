/*-------------------------------------------------------------------------
 *
 * webmention_fetch.c
 *		One conversation about a webmention, request by request.
 *
 * A page is asked for with GET alone (what answers a HEAD may be used up by
 * it), redirects are followed here, each through the address rules, and an
 * endpoint is told with a POST whose query stays in its address.  May touch:
 * nothing but the mention it is given.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "settings.h"
#include "url.h"
#include "webmention_fetch.h"
#include "webmention_find.h"
#include "xrpc.h"

#define MAX_HOPS		5
#define MAX_PAGE		(1024 * 1024)
#define MAX_LINKS		64
/* Of what an endpoint says of its work, this much is kept. */
#define MAX_STATUS_TEXT	500

#ifndef RSVP_SYNC_VERSION
#define RSVP_SYNC_VERSION "devel"
#endif

static const char *
keep(Mention *mention, const char *text)
{
	return text ? MemoryContextStrdup(mention->context, text) : NULL;
}

/* It is over. */
static void
conclude(Mention *mention, const char *how, const char *error)
{
	mention->how = how;
	mention->error = keep(mention, error);
}

/* Who asks: the engine's name for us, and the word that receivers look for. */
static void
name_ourselves(HttpRequest *req)
{
	const char *contact = rsvp_sync_user_agent_contact;
	char	   *agent = contact && *contact ?
		psprintf("rsvp_sync/%s (+%.200s) Webmention", RSVP_SYNC_VERSION, contact) :
		pstrdup("rsvp_sync/" RSVP_SYNC_VERSION " Webmention");

	for (char *p = agent; *p != '\0'; p++)
		if (*p < ' ' || *p >= 0x7f)
			*p = '?';
	http_header(req, "User-Agent", agent);
	pfree(agent);
}

HttpRequest *
mention_request(Mention *mention)
{
	HttpRequest *req = http_new(mention->telling ? "POST" : "GET",
								mention->url, rsvp_sync_request_timeout,
								MAX_PAGE, mention);
	Arena		arena = {0};
	Text		form = {&arena};

	if (req == NULL)
		return NULL;
	name_ourselves(req);
	http_header(req, "Accept", mention->kind == MENTION_STATUS ?
				"application/json, text/plain;q=0.8, */*;q=0.1" :
				"text/html, application/xhtml+xml, */*;q=0.1");
	if (mention->telling)
	{
		text_add_string(&form, "source=");
		url_add_form_value(&form, mention->source);
		text_add_string(&form, "&target=");
		url_add_form_value(&form, mention->target);
		if (text_done(&form) != NULL)
			http_body(req, "application/x-www-form-urlencoded", form.data,
					  form.len);
		arena_free(&arena);
	}
	return req;
}

/* The address of a redirect, fit for the next request */
static void
follow(Mention *mention, const char *location)
{
	Arena		arena = {0};
	char	   *url;

	if (mention->hops++ >= MAX_HOPS)
	{
		conclude(mention, "failed", "too_many_redirects: "
				 "more than five one after another");
		return;
	}
	url = url_for_request(&arena, location);
	if (url == NULL)
		conclude(mention, "failed", "bad_redirect: not to a web page");
	else
		mention->url = keep(mention, url);
	arena_free(&arena);
}

static bool
is_redirect(const Mention *mention, const HttpRequest *req)
{
	/* Of a POST only those that say: the same again, over there. */
	if (mention->telling)
		return req->status == 307 || req->status == 308;
	return req->status == 301 || req->status == 302 || req->status == 303 ||
		req->status == 307 || req->status == 308;
}

/* What the type of an answer begins with; no type at all may be HTML. */
static bool
says_html(HttpRequest *req)
{
	const char *type = http_answer_header(req, "Content-Type");

	return type == NULL || pg_strncasecmp(type, "text/html", 9) == 0 ||
		pg_strncasecmp(type, "application/xhtml+xml", 21) == 0;
}

/* The target's page is there: where does it take webmentions? */
static void
find_endpoint(Mention *mention, HttpRequest *req)
{
	const char *links[MAX_LINKS];
	int			nlinks = 0;
	Arena		arena = {0};
	char	   *found;
	char	   *url;

	while (nlinks < MAX_LINKS &&
		   (links[nlinks] = http_answer_header_nth(req, "Link", nlinks)) != NULL)
		nlinks++;
	found = webmention_find(&arena, mention->url, links, nlinks,
							says_html(req) && req->fault == HTTP_ANSWERED ?
							req->body : NULL, req->body_len);
	url = found ? url_for_request(&arena, found) : NULL;
	if (arena.failed)
		conclude(mention, "later", "out_of_memory");
	else if (url == NULL)
		conclude(mention, "no_endpoint", req->fault == HTTP_TOO_LARGE ?
				 "too_large: its headers name none, and the page is larger than 1 MiB" :
				 NULL);
	else
	{
		mention->endpoint = mention->url = keep(mention, url);
		mention->telling = true;
		mention->hops = 0;
	}
	arena_free(&arena);
}

/* Accepted.  201 says where one can see what becomes of it. */
static void
was_told(Mention *mention, HttpRequest *req)
{
	const char *location = http_answer_header(req, "Location");

	if (req->status == 201 && location != NULL)
	{
		Arena		arena = {0};
		char	   *url = url_resolve(&arena, mention->url, location);

		if (url != NULL)
			url = url_for_request(&arena, url);
		mention->status_url = keep(mention, url);
		arena_free(&arena);
	}
	conclude(mention, "told", NULL);
}

static void
take_body(Mention *mention, HttpRequest *req)
{
	char	   *copy = MemoryContextAlloc(mention->context, req->body_len + 1);

	memcpy(copy, req->body, req->body_len + 1);
	mention->body = copy;
	mention->body_len = req->body_len;
	mention->html = says_html(req);
	conclude(mention, "read", NULL);
	if (mention->kind != MENTION_STATUS)
		return;
	/* For people to read, whatever it is. */
	copy[Min(mention->body_len, MAX_STATUS_TEXT)] = '\0';
	for (char *p = copy; *p != '\0'; p++)
		if (*p < ' ' || *p >= 0x7f)
			*p = *p == '\n' || *p == '\t' ? ' ' : '?';
}

/* How long it wants to be left alone, in ms */
static long
asked_wait(HttpRequest *req)
{
	const char *after = http_answer_header(req, "Retry-After");
	long		seconds = 0;

	if (after != NULL && *after >= '0' && *after <= '9')
		seconds = strtol(after, NULL, 10);
	else if (after != NULL && http_date(after) > 0)
		seconds = (long) (http_date(after) - time(NULL));
	return Min(Max(seconds, 0), 24 * 3600L) * 1000;
}

/* An answer that is neither what was asked for nor somewhere else */
static void
refused(Mention *mention, HttpRequest *req)
{
	AnswerClass class = xrpc_classify(req->status, NULL, NULL);
	char		code[64];

	snprintf(code, sizeof(code), "http_%d: of the %s", req->status,
			 mention->telling ? "endpoint" :
			 mention->kind == MENTION_TELL ? "target" : "page");
	mention->wait_ms = asked_wait(req);
	if (req->status == 410 && mention->kind == MENTION_VERIFY)
	{
		conclude(mention, "gone", code);
		return;
	}
	/* A page may be asked for too early; one that is not there is not. */
	if (class == ANSWER_LIMIT ||
		(class == ANSWER_RETRY && (req->status >= 500 || req->status == 408 ||
								   req->status == 425)))
		conclude(mention, "retry", code);
	else
		conclude(mention, "failed", code);
}

/* No answer came: by whose fault? */
static void
failed(Mention *mention, HttpRequest *req)
{
	char		text[HTTP_DETAIL_SIZE + 64];

	snprintf(text, sizeof(text), "%s: %s", http_fault_name(req->fault),
			 req->detail);
	if (req->fault == HTTP_LOCAL)
		conclude(mention, "later", text);
	else if (req->fault == HTTP_FORBIDDEN || req->fault == HTTP_TOO_LARGE)
		conclude(mention, "failed", text);
	else
		conclude(mention, "retry", text);
}

void
mention_answer(Mention *mention, HttpRequest *req)
{
	bool		large = req->fault == HTTP_TOO_LARGE &&
		req->status >= 200 && req->status < 300;

	mention->status = req->status;
	/* An endpoint's long answer, or a long page with a header, will do. */
	if (req->fault != HTTP_ANSWERED &&
		!(large && mention->kind == MENTION_TELL))
		failed(mention, req);
	else if (is_redirect(mention, req) && req->location != NULL)
		follow(mention, req->location);
	else if (req->status < 200 || req->status >= 300)
		refused(mention, req);
	else if (mention->telling)
		was_told(mention, req);
	else if (mention->kind == MENTION_TELL)
		find_endpoint(mention, req);
	else
		take_body(mention, req);
}
