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

#include "lane_state.h"
#include "settings.h"
#include "syntax.h"

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
	start_call(CALL_LIST, lane, NULL, NULL, lane->pds,
			   record_list_request(lane->pds, lane->did, cursor,
								   rsvp_sync_request_timeout));
}

static void
drop_records(Lane *lane)
{
	if (lane->records != NULL)
		record_list_free(lane->records);
	lane->records = NULL;
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
	lane_forget_known(lane);
	lane->known = known_new(lane->context);
	lane->records = record_list_begin(lane->context);
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

static void
listing_complete(Lane *lane)
{
	Outcome    *outcome = new_outcome(OUTCOME_LIST, NULL, lane->did);

	outcome->text = outcome_keep(record_list_text(lane->records));
	outcome->pds = outcome_keep(lane->pds);
	outcome->asked = lane->listing_asked;
	lane->unrecorded = true;
	if (!dlist_is_empty(&lane->jobs))
		outcome->source_id = dlist_head_element(Job, node,
												&lane->jobs)->source_id;
	drop_records(lane);
}

/* The page is one: all of its records have a key and a cid. */
static void
know_page(Lane *lane, Answer *answer)
{
	json_t	   *item;
	size_t		i;

	json_array_foreach(json_object_get(answer->body, "records"), i, item)
	{
		const char *uri = xrpc_text(item, "uri");
		AtUri		parts;
		char	   *rkey;

		syntax_parse_at_uri(uri, strlen(uri), &parts);
		rkey = pnstrdup(parts.rkey.data, parts.rkey.len);
		known_set(lane->known, rkey, xrpc_cid(item, "cid"));
		pfree(rkey);
	}
}

void
list_answer(Lane *lane, Answer *answer)
{
	const char *cursor;

	if (answer->class != ANSWER_OK ||
		!record_list_page(lane->records, answer, &cursor))
	{
		listing_failed(lane, answer);
		return;
	}
	know_page(lane, answer);
	if (cursor != NULL)
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

	/* What was listed counts once it is written down. */
	PG_RETURN_BOOL(lane != NULL && lane->head != NULL &&
				   lane->records == NULL && !lane->unrecorded);
}
