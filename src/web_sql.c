/*-------------------------------------------------------------------------
 *
 * web_sql.c
 *		webmention_endpoint() and parse_h_entry() as SQL calls them.
 *
 * What they do is in webmention_find.c and h_entry.c, which know nothing of
 * PostgreSQL and whose memory is malloc's: it is given back here whatever
 * happens.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog/pg_type.h"

#include "h_entry.h"
#include "url.h"
#include "webmention_find.h"

#define H_ENTRY_NCOLS	13

PG_FUNCTION_INFO_V1(rsvp_sync_webmention_endpoint);
PG_FUNCTION_INFO_V1(rsvp_sync_parse_h_entry);
PG_FUNCTION_INFO_V1(rsvp_sync_links_to);
PG_FUNCTION_INFO_V1(rsvp_sync_same_page);

static void
check_memory(const Arena *arena)
{
	if (arena->failed)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory while HTML was read")));
}

/* An argument in UTF-8, as the open web has it; NULL for NULL */
static char *
argument(FunctionCallInfo fcinfo, int n)
{
	char	   *value;

	if (PG_ARGISNULL(n))
		return NULL;
	value = text_to_cstring(PG_GETARG_TEXT_PP(n));
	return pg_server_to_any(value, strlen(value), PG_UTF8);
}

static Datum
result_datum(const char *value)
{
	char	   *text = unconstify(char *, value);

	return CStringGetTextDatum(pg_any_to_server(text, strlen(text), PG_UTF8));
}

static const char **
text_items(ArrayType *array, int *n)
{
	Datum	   *items;
	bool	   *nulls;
	const char **texts;
	int			count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &items, &nulls,
					  &count);
	texts = palloc(sizeof(char *) * Max(count, 1));
	*n = 0;
	for (int i = 0; i < count; i++)
	{
		char	   *item;

		if (nulls[i])
			continue;
		item = TextDatumGetCString(items[i]);
		texts[(*n)++] = pg_server_to_any(item, strlen(item), PG_UTF8);
	}
	return texts;
}

Datum
rsvp_sync_webmention_endpoint(PG_FUNCTION_ARGS)
{
	char	   *url = argument(fcinfo, 0);
	char	   *body = argument(fcinfo, 2);
	const char **links = NULL;
	int			nlinks = 0;
	Arena		arena = {0};
	Datum		result = (Datum) 0;
	char	   *found;

	if (url == NULL)
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(1))
		links = text_items(PG_GETARG_ARRAYTYPE_P(1), &nlinks);
	found = webmention_find(&arena, url, links, nlinks, body,
							body ? strlen(body) : 0);
	PG_TRY();
	{
		check_memory(&arena);
		if (found != NULL)
			result = result_datum(found);
	}
	PG_FINALLY();
	{
		arena_free(&arena);
	}
	PG_END_TRY();
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	return result;
}

static void
set_text(Datum *values, bool *nulls, int column, const char *value)
{
	nulls[column] = value == NULL;
	if (value != NULL)
		values[column] = result_datum(value);
}

static void
set_moment(Datum *values, bool *nulls, int column, const char *value)
{
	nulls[column] = value == NULL;
	if (value != NULL)
		values[column] = DirectFunctionCall3(timestamptz_in,
											 CStringGetDatum(value),
											 ObjectIdGetDatum(InvalidOid),
											 Int32GetDatum(-1));
}

/* A row for each event that the post replies to, at least one. */
static void
emit_entry(const HEntry *entry, ReturnSetInfo *rsinfo)
{
	for (int i = 0; i < Max(entry->nevents, 1); i++)
	{
		Datum		values[H_ENTRY_NCOLS] = {0};
		bool		nulls[H_ENTRY_NCOLS];

		set_text(values, nulls, 0, "web");
		set_text(values, nulls, 1, entry->url);
		set_text(values, nulls, 2,
				 i < entry->nevents ? entry->events[i] : NULL);
		set_text(values, nulls, 3, entry->author_url);
		set_text(values, nulls, 4, entry->author_name);
		set_text(values, nulls, 5, entry->author_photo);
		set_text(values, nulls, 6, h_entry_status(entry->rsvp));
		set_text(values, nulls, 7, entry->rsvp);
		set_moment(values, nulls, 8, entry->published);
		set_moment(values, nulls, 9, entry->updated);
		set_text(values, nulls, 10, entry->content);
		set_text(values, nulls, 11, entry->rsvp ? "rsvp" : "mention");
		values[12] = BoolGetDatum(false);
		nulls[12] = false;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values,
							 nulls);
	}
}

Datum
rsvp_sync_parse_h_entry(PG_FUNCTION_ARGS)
{
	char	   *html = argument(fcinfo, 0);
	char	   *url = argument(fcinfo, 1);
	Arena		arena = {0};
	HEntry		entry;
	bool		found;

	InitMaterializedSRF(fcinfo, 0);
	if (html == NULL)
		return (Datum) 0;
	found = h_entry_read(&arena, html, strlen(html), url, &entry);
	PG_TRY();
	{
		check_memory(&arena);
		if (found)
			emit_entry(&entry, (ReturnSetInfo *) fcinfo->resultinfo);
	}
	PG_FINALLY();
	{
		arena_free(&arena);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/* rsvp_sync._links_to(html text, base_url text, target text) */
Datum
rsvp_sync_links_to(PG_FUNCTION_ARGS)
{
	char	   *html = argument(fcinfo, 0);
	Arena		arena = {0};
	bool		found;
	bool		failed;

	found = h_entry_links_to(&arena, html, strlen(html), argument(fcinfo, 1),
							 argument(fcinfo, 2));
	failed = arena.failed;
	arena_free(&arena);
	arena.failed = failed;
	check_memory(&arena);
	PG_RETURN_BOOL(found);
}

/* rsvp_sync._same_page(a text, b text) */
Datum
rsvp_sync_same_page(PG_FUNCTION_ARGS)
{
	Arena		arena = {0};
	char	   *a = argument(fcinfo, 0);
	char	   *b = argument(fcinfo, 1);
	bool		same = url_same(&arena, a, b);

	arena_free(&arena);
	PG_RETURN_BOOL(same);
}
