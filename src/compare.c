/*-------------------------------------------------------------------------
 *
 * compare.c
 *		Is a row as it should be, without its being planned?
 *
 * Planning a key costs a hundred times what looking at it does, and most rows
 * need nothing.  Each case here says when plan(), asked about such a key, would
 * answer "none" (or "wait" as before) and leave what is recorded as it is.
 * Whatever is in no such case is suspected, and planned; so a case that is
 * missing here costs time and nothing else.  test/model compares the two over
 * random histories.
 *
 * Pure: no table, no clock.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "compare.h"

#define COLLECTION	"/community.lexicon.calendar.rsvp/"

/* As SQL's =, where NULL counts as false */
static bool
same(Slice a, Slice b)
{
	return a.data != NULL && b.data != NULL && a.len == b.len &&
		memcmp(a.data, b.data, a.len) == 0;
}

static bool
is_word(Slice a, const char *word)
{
	return a.data != NULL && a.len == strlen(word) &&
		memcmp(a.data, word, a.len) == 0;
}

static bool
not_distinct(Slice a, Slice b)
{
	return same(a, b) || (a.data == NULL && b.data == NULL);
}

static bool
is_one_of(Slice a, const char *const *words)
{
	for (; *words != NULL; words++)
		if (is_word(a, *words))
			return true;
	return false;
}

static bool
is_record_of_did(Slice text)
{
	AtUri		uri;

	return syntax_parse_at_uri(text.data, text.len, &uri) &&
		uri.rkey.data != NULL &&
		syntax_is_did(uri.authority.data, uri.authority.len);
}

/* Its did and event are such as plan() takes. */
static bool
has_valid_parts(const Wish *wish)
{
	return wish->did.data != NULL && wish->event_uri.data != NULL &&
		syntax_is_did(wish->did.data, wish->did.len) &&
		is_record_of_did(wish->event_uri);
}

/* Why a row that is not withheld publishes nothing; as plan() says it. */
static const char *
what_is_missing(const Wish *wish)
{
	if (wish->did.data == NULL)
		return "no_did";
	if (!syntax_is_did(wish->did.data, wish->did.len))
		return "invalid_did";
	if (wish->event_uri.data == NULL)
		return "no_event_uri";
	if (!is_record_of_did(wish->event_uri))
		return "invalid_event_uri";
	if (!wish->mapped)
		return "unmapped_status";
	if (wish->local.data == NULL)
		return "status_not_published";
	return wish->past ? "past_event" : "";
}

static bool
is_withheld_as_before(const Wish *wish, const Recorded *i)
{
	return is_word(i->state, "withheld") &&
		(same(i->reason_code, wish->withheld) ||
		 (is_word(i->reason_code, "withheld") &&
		  same(i->reason, wish->withheld))) &&
		(!is_word(wish->on_withheld, "delete") ||
		 (!i->has_bond && i->base_cid.data == NULL));
}

/*
 * The row of an intent.  In doubt, or with a write that is not confirmed, or
 * in another slot than before, it is planned.
 */
Verdict
compare_row(const Wish *wish, const Recorded *i)
{
	static const char *const missing[] = {
		"no_did", "invalid_did", "no_event_uri", "invalid_event_uri",
		"unmapped_status", "status_not_published", "past_event", NULL
	};
	static const char *const nothing_said[] = {
		"not_backfilled", "never_published", NULL
	};

	if (!wish->present || wish->leaving || i->doubt || i->sent ||
		!not_distinct(i->did, wish->did) ||
		!not_distinct(i->event_uri, wish->event_uri))
		return VERDICT_SUSPECT;
	if (wish->withheld.data != NULL)
		return is_withheld_as_before(wish, i) ? VERDICT_RIGHT
			: VERDICT_SUSPECT;
	if (is_word(i->state, "withheld") && is_one_of(i->reason_code, missing))
		return is_word(i->reason_code, what_is_missing(wish)) &&
			(!is_word(i->reason_code, "status_not_published") ||
			 (!i->has_bond && i->base_local.data == NULL))
			? VERDICT_RIGHT : VERDICT_SUSPECT;
	/* What wants a record has been planned: its parts are valid. */
	if (wish->local.data == NULL || wish->past ||
		(!i->live && !has_valid_parts(wish)))
		return VERDICT_SUSPECT;
	if (!i->has_bond && is_word(i->state, "blocked"))
		return is_word(i->reason_code, "no_account") &&
			!same(i->base_local, wish->local)
			? VERDICT_NO_ACCOUNT : VERDICT_SUSPECT;
	if (!same(i->base_local, wish->local))
		return VERDICT_SUSPECT;
	if (i->has_bond)
		return is_word(i->state, "done") ? VERDICT_RECORD : VERDICT_SUSPECT;
	return is_word(i->state, "done") || is_one_of(i->reason_code, nothing_said)
		? VERDICT_ALONE : VERDICT_SUSPECT;
}

/* May compare_record() do without the status? */
bool
compare_record_by_cid(const Recorded *i)
{
	return is_word(i->reason_code, "published") ||
		is_word(i->reason_code, "from_network");
}

/* Its record is the one both sides agreed on. */
bool
compare_record(const Wish *wish, const Recorded *i, Slice cid, Slice status)
{
	return same(cid, i->base_cid) &&
		(compare_record_by_cid(i) || !same(status, wish->local));
}

/* A column may have taken less of it than there was. */
static bool
begins_with(Slice whole, Slice part)
{
	if (part.data == NULL || whole.data == NULL)
		return part.data == whole.data;
	return (part.len > 0 || whole.len == 0) && part.len <= whole.len &&
		memcmp(whole.data, part.data, part.len) == 0;
}

/* Takes a stretch off what is left of a text. */
static bool
take(Slice *rest, const char *data, size_t len)
{
	size_t		n = len < rest->len ? len : rest->len;

	if (memcmp(rest->data, data, n) != 0)
		return false;
	rest->data += n;
	rest->len -= n;
	return true;
}

/* The same of the record's uri, which need not be put together for that. */
static bool
uri_begins_with(const Recorded *i, Slice part)
{
	if (part.data == NULL || i->did.data == NULL || i->rkey.data == NULL)
		return part.data == NULL && (i->did.data == NULL ||
									 i->rkey.data == NULL);
	return part.len > 0 &&
		take(&part, "at://", strlen("at://")) &&
		take(&part, i->did.data, i->did.len) &&
		take(&part, COLLECTION, strlen(COLLECTION)) &&
		take(&part, i->rkey.data, i->rkey.len) && part.len == 0;
}

/*
 * Does a row still have what it was told?  tells: what its source writes back.
 * A cid that is no answer of a server's, but stands for one, is not told.
 */
bool
compare_told(const Wish *wish, const Recorded *i, const bool *tells)
{
	static const char *const settled[] = {"done", "withheld", NULL};
	Slice		cid = i->base_cid;

	if (!wish->present || !wish->tellable || !i->has_bond || i->writeback ||
		!is_one_of(i->state, settled))
		return true;
	if (cid.data != NULL && cid.len > 0 && cid.data[0] == '?')
		cid = (Slice) {NULL, 0};
	return (!tells[TOLD_URI] || uri_begins_with(i, wish->told[TOLD_URI])) &&
		(!tells[TOLD_CID] || begins_with(cid, wish->told[TOLD_CID])) &&
		(!tells[TOLD_RKEY] || begins_with(i->rkey, wish->told[TOLD_RKEY]));
}
