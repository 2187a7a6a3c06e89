/*-------------------------------------------------------------------------
 *
 * listing.c
 *		The head of a repository, and all of its RSVP records.
 *
 * Before a new record key is used, an account's records have to be known, and
 * known to be current: the head of the repository is asked for first, then the
 * records are listed, every page, and a write that names this head succeeds only
 * if nobody has written since.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"
#include "syntax.h"

/*
 * Beyond this a listing is given up: pages of listRecords, and bytes of what
 * is kept of them.  The records of somebody who answered ten thousand events
 * take five of these 16 MB.
 */
#define MAX_PAGES		1000
#define MAX_LISTING		(16 * 1024 * 1024)
/* A repository holds no larger record; of such a one the content is not kept. */
#define MAX_RECORD		(1024 * 1024)

static void start_list(Lane *lane, const char *cursor);

PG_FUNCTION_INFO_V1(rsvp_sync_is_listed);


void
start_head(Lane *lane)
{
	const char *params[] = {"did", lane->did, NULL};

	lane->listing_began = lane->listing_asked = GetCurrentTimestamp();
	start_call(CALL_HEAD, lane, NULL, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.sync.getLatestCommit", params,
						rsvp_sync_request_timeout));
}

static void
start_list(Lane *lane, const char *cursor)
{
	const char *params[] = {
		"repo", lane->did, "collection", RSVP_COLLECTION, "limit", "100",
		"cursor", cursor, NULL
	};

	start_call(CALL_LIST, lane, NULL, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.repo.listRecords", params,
						rsvp_sync_request_timeout));
}

static void
drop_records(Lane *lane)
{
	if (lane->records != NULL)
	{
		pfree(lane->records->data);
		pfree(lane->records);
	}
	lane->records = NULL;
	lane->pages = 0;
}

void
forget_listing(Lane *lane)
{
	drop_records(lane);
	replace_text(lane, &lane->head, NULL);
}

static void
listing_failed(Lane *lane, Answer *answer)
{
	forget_listing(lane);
	if (answer->class == ANSWER_USER)
		ask_user(lane, account_state(answer->name, "needs_login"),
				 answer->message);
	else
	{
		lane_hint(lane);
		fail_lane(lane, "retry", answer->name, answer->message,
				  answer->wait_ms);
	}
}

/*
 * The head is taken first, the records after it: a write that names this
 * head succeeds only if the records cannot have changed since.
 */
void
head_answer(Lane *lane, Answer *answer)
{
	const char *cid = NULL;
	MemoryContext old;

	lane->in_question = false;
	if (answer->class == ANSWER_OK &&
		(cid = xrpc_cid(answer->body, "cid")) == NULL)
		xrpc_unreadable(answer, "the head of the repository has no cid");
	if (answer->class != ANSWER_OK)
	{
		listing_failed(lane, answer);
		return;
	}
	replace_text(lane, &lane->head, cid);
	old = MemoryContextSwitchTo(lane->context);
	lane->records = makeStringInfo();
	MemoryContextSwitchTo(old);
	appendStringInfoChar(lane->records, '[');
	start_list(lane, NULL);
}

void
append_member(StringInfo body, const char *name, const char *value)
{
	appendStringInfo(body, ",\"%s\":", name);
	if (value)
		escape_json(body, value);
	else
		appendStringInfoString(body, "null");
}

/*
 * The JSON of a record, malloc'ed; NULL if it cannot be kept: jsonb cannot
 * hold a NUL.
 */
char *
storable(json_t *value)
{
	char	   *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (text == NULL ||
		(strstr(text, "\\u0000") == NULL && strlen(text) <= MAX_RECORD))
		return text;
	free(text);
	return NULL;
}

/*
 * One record of a listing, without its content if that cannot be kept.  What
 * has no record key or no cid is not a record; was it, we could not tell
 * which one, and had to take one we know for removed.
 */
static bool
append_listed(StringInfo records, json_t *item)
{
	const char *uri = xrpc_text(item, "uri");
	const char *cid = xrpc_cid(item, "cid");
	AtUri		parts;
	char	   *value;

	if (uri == NULL || cid == NULL ||
		!syntax_parse_at_uri(uri, strlen(uri), &parts) ||
		parts.rkey.data == NULL)
		return false;
	if (records->len > 1)
		appendStringInfoChar(records, ',');
	appendStringInfoString(records, "{\"uri\":");
	escape_json(records, uri);
	append_member(records, "cid", cid);
	value = storable(json_object_get(item, "value"));
	appendStringInfo(records, ",\"value\":%s}", value ? value : "null");
	free(value);
	return true;
}

static void
listing_complete(Lane *lane)
{
	Outcome    *outcome = new_outcome(OUTCOME_LIST, NULL, lane->did);

	appendStringInfoChar(lane->records, ']');
	outcome->text = outcome_keep(lane->records->data);
	outcome->pds = outcome_keep(lane->pds);
	outcome->asked = lane->listing_asked;
	lane->unrecorded = true;
	if (!dlist_is_empty(&lane->jobs))
		outcome->source_id = dlist_head_element(Job, node,
												&lane->jobs)->source_id;
	drop_records(lane);
}

/* Add a page to the listing; turns the answer into a failure if it is odd. */
static void
take_page(Lane *lane, Answer *answer)
{
	json_t	   *page = json_object_get(answer->body, "records");
	json_t	   *item;
	size_t		i;

	if (!json_is_array(page))
	{
		xrpc_unreadable(answer, "the answer has no list of records");
		return;
	}
	json_array_foreach(page, i, item)
	{
		if (!append_listed(lane->records, item))
		{
			xrpc_unreadable(answer, "a record in the list has no key or cid");
			return;
		}
		if (lane->records->len <= MAX_LISTING)
			continue;
		xrpc_unreadable(answer, "there are too many records, or too large");
		strlcpy(answer->name, "listing_too_large", XRPC_NAME_SIZE);
		return;
	}
}

void
list_answer(Lane *lane, Answer *answer)
{
	const char *cursor = xrpc_text(answer->body, "cursor");

	if (answer->class == ANSWER_OK)
		take_page(lane, answer);
	if (answer->class == ANSWER_OK && ++lane->pages >= MAX_PAGES &&
		cursor != NULL)
	{
		xrpc_unreadable(answer, "the list of records has too many pages");
		strlcpy(answer->name, "listing_too_large", XRPC_NAME_SIZE);
	}
	if (answer->class != ANSWER_OK)
		listing_failed(lane, answer);
	else if (cursor != NULL &&
			 json_array_size(json_object_get(answer->body, "records")) > 0)
		start_list(lane, cursor);
	else
		listing_complete(lane);
}

/* rsvp_sync._is_listed(did text): are the account's records current? */
Datum
rsvp_sync_is_listed(PG_FUNCTION_ARGS)
{
	text	   *did = PG_GETARG_TEXT_PP(0);
	Lane	   *lane = find_lane(pnstrdup(VARDATA_ANY(did),
										  VARSIZE_ANY_EXHDR(did)));

	PG_RETURN_BOOL(lane != NULL && lane->head != NULL &&
				   lane->records == NULL);
}
