/*-------------------------------------------------------------------------
 *
 * syntax_sql.c
 *		The syntax functions as SQL calls them.
 *
 * Only the wrapping is here, so that syntax.c can do without a server.  All
 * of these are immutable and never raise an error about their argument.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "syntax.h"

typedef bool (*SyntaxTest) (const char *text, size_t len);

/* Apply a test to the first argument of the calling function. */
static Datum
test_argument(FunctionCallInfo fcinfo, SyntaxTest test)
{
	text	   *value = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(test(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)));
}

#define SYNTAX_FUNCTION(name) \
	PG_FUNCTION_INFO_V1(rsvp_sync_##name); \
	Datum \
	rsvp_sync_##name(PG_FUNCTION_ARGS) \
	{ \
		return test_argument(fcinfo, syntax_##name); \
	} \
	extern Datum rsvp_sync_##name(PG_FUNCTION_ARGS)

SYNTAX_FUNCTION(is_at_uri);
SYNTAX_FUNCTION(is_did);
SYNTAX_FUNCTION(is_handle);
SYNTAX_FUNCTION(is_nsid);
SYNTAX_FUNCTION(is_record_key);
SYNTAX_FUNCTION(is_tid);
SYNTAX_FUNCTION(is_datetime);
SYNTAX_FUNCTION(is_cid);

/* A part of an at-uri as a column: NULL where the uri has no such part. */
static void
set_column(Datum *values, bool *nulls, int column, Slice part)
{
	nulls[column] = (part.data == NULL);
	if (part.data != NULL)
		values[column] =
			PointerGetDatum(cstring_to_text_with_len(part.data, part.len));
}

/* The parts of an at-uri; a row of NULLs for what is none. */
PG_FUNCTION_INFO_V1(rsvp_sync_parse_at_uri);
Datum
rsvp_sync_parse_at_uri(PG_FUNCTION_ARGS)
{
	text	   *value = PG_GETARG_TEXT_PP(0);
	TupleDesc	tupdesc;
	AtUri		uri;
	Datum		values[4] = {0};
	bool		nulls[4];

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!syntax_parse_at_uri(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value),
							 &uri))
		memset(&uri, 0, sizeof(uri));

	set_column(values, nulls, 0, uri.authority);
	set_column(values, nulls, 1, uri.collection);
	set_column(values, nulls, 2, uri.rkey);
	set_column(values, nulls, 3, uri.fragment);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}

/*
 * _is_record_of_did(uri): an at-uri of a record, under a DID, and not of a part
 * of it; what an event's has to be.  Where many rows are compared, one call
 * instead of five.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_is_record_of_did);
Datum
rsvp_sync_is_record_of_did(PG_FUNCTION_ARGS)
{
	text	   *value = PG_GETARG_TEXT_PP(0);
	AtUri		uri;

	PG_RETURN_BOOL(syntax_parse_at_uri(VARDATA_ANY(value),
									   VARSIZE_ANY_EXHDR(value), &uri) &&
				   uri.rkey.data != NULL && uri.fragment.data == NULL &&
				   syntax_is_did(uri.authority.data, uri.authority.len));
}
