/*-------------------------------------------------------------------------
 *
 * recordlist.c
 *		All RSVP records of an account, page by page.
 *
 * What listRecords answers, taken in as far as it can be kept, within limits.
 * The pages are asked for by others: a lane, the reading of other people's
 * records, a backend.  Touches nothing but the list's memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/json.h"
#include "utils/memutils.h"

#include "recordlist.h"
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

RecordList *
record_list_begin(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	RecordList *list = palloc0(sizeof(RecordList));

	initStringInfo(&list->json);
	MemoryContextSwitchTo(old);
	appendStringInfoChar(&list->json, '[');
	return list;
}

void
record_list_free(RecordList *list)
{
	pfree(list->json.data);
	pfree(list);
}

HttpRequest *
record_list_request(const char *pds, const char *did, const char *cursor,
					long timeout_ms)
{
	const char *params[] = {
		"repo", did, "collection", RSVP_COLLECTION, "limit", "100",
		"cursor", cursor, NULL
	};

	return xrpc_get(pds, "com.atproto.repo.listRecords", params, timeout_ms);
}

/* jsonb cannot hold a NUL. */
char *
record_list_storable(json_t *value)
{
	char	   *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (text == NULL ||
		(strstr(text, "\\u0000") == NULL && strlen(text) <= MAX_RECORD))
		return text;
	free(text);
	return NULL;
}

/*
 * One record of a page, without its content if that cannot be kept.  What has
 * no record key or no cid is not a record; was it, we could not tell which
 * one, and had to take one we know for removed.
 */
static bool
append_record(StringInfo json, json_t *item)
{
	const char *uri = xrpc_text(item, "uri");
	const char *cid = xrpc_cid(item, "cid");
	AtUri		parts;
	char	   *value;

	if (uri == NULL || cid == NULL ||
		!syntax_parse_at_uri(uri, strlen(uri), &parts) ||
		parts.rkey.data == NULL)
		return false;
	if (json->len > 1)
		appendStringInfoChar(json, ',');
	appendStringInfoString(json, "{\"uri\":");
	escape_json(json, uri);
	appendStringInfoString(json, ",\"cid\":");
	escape_json(json, cid);
	value = record_list_storable(json_object_get(item, "value"));
	appendStringInfo(json, ",\"value\":%s}", value ? value : "null");
	free(value);
	return true;
}

static bool
too_much(Answer *answer, const char *what)
{
	xrpc_odd(answer, "listing_too_large", what);
	return false;
}

bool
record_list_page(RecordList *list, Answer *answer, const char **cursor)
{
	json_t	   *page = json_object_get(answer->body, "records");
	json_t	   *item;
	size_t		i;

	if (!json_is_array(page))
	{
		xrpc_unreadable(answer, "the answer has no list of records");
		return false;
	}
	json_array_foreach(page, i, item)
	{
		if (!append_record(&list->json, item))
		{
			xrpc_unreadable(answer, "a record in the list has no key or cid");
			return false;
		}
		if (list->json.len > MAX_LISTING)
			return too_much(answer, "there are too many records, or too large");
	}
	*cursor = json_array_size(page) > 0 ? xrpc_text(answer->body, "cursor") :
		NULL;
	if (++list->pages >= MAX_PAGES && *cursor != NULL)
		return too_much(answer, "the list of records has too many pages");
	return true;
}

const char *
record_list_text(RecordList *list)
{
	appendStringInfoChar(&list->json, ']');
	return list->json.data;
}
