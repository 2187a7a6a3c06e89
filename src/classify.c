/*-------------------------------------------------------------------------
 *
 * classify.c
 *		rsvp_sync.classify(): what an answer asks of us, for SQL.
 *
 * May touch: nothing.  Takes an answer apart and asks xrpc_classify(), as the
 * worker does; no input is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

#include "xrpc.h"

#define CHALLENGE "www-authenticate"

/* utils/builtins.h and jansson cannot both be included. */
static text *
make_text(const char *value)
{
	size_t		len = strlen(value);
	text	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), value, len);
	return result;
}

/*
 * A text as JSON, whatever the database's encoding: error names are ASCII,
 * and of the rest no more than its place is wanted.
 */
static json_t *
parse_body(text *body)
{
	size_t		len = VARSIZE_ANY_EXHDR(body);
	char	   *copy = palloc(len + 1);
	json_t	   *value;

	memcpy(copy, VARDATA_ANY(body), len);
	for (size_t i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(copy[i]))
			copy[i] = '?';
	value = json_loadb(copy, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	pfree(copy);
	return value;
}

/*
 * The WWW-Authenticate header of {"name": "value", ...} or {"name": [values]}
 * that names an error, else any such header, else NULL.
 */
static char *
challenge_of_headers(Jsonb *headers)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char		name[XRPC_NAME_SIZE];
	char	   *challenge = NULL;
	int			depth = 0;
	bool		wanted = false;

	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
			depth++;
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
		else if (token == WJB_KEY && depth == 1)
			wanted = value.val.string.len == strlen(CHALLENGE) &&
				pg_strncasecmp(value.val.string.val, CHALLENGE,
							   strlen(CHALLENGE)) == 0;
		else if (wanted && depth <= 2 && value.type == jbvString &&
				 (token == WJB_VALUE || token == WJB_ELEM) &&
				 !xrpc_challenge_error(challenge, name))
			challenge = pnstrdup(value.val.string.val, value.val.string.len);
	}
	return challenge;
}

PG_FUNCTION_INFO_V1(rsvp_sync_classify);
Datum
rsvp_sync_classify(PG_FUNCTION_ARGS)
{
	int			status = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	text	   *text_body = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	char	   *challenge = NULL;
	json_t	   *body = NULL;
	AnswerClass class;

	if (!PG_ARGISNULL(2))
		challenge = challenge_of_headers(PG_GETARG_JSONB_P(2));
	if (text_body != NULL)
		body = parse_body(text_body);
	class = xrpc_classify(status, xrpc_text(body, "error"), challenge);

	/* Something was done there, but what, cannot be read: a portal, perhaps. */
	if (class == ANSWER_OK && text_body != NULL &&
		VARSIZE_ANY_EXHDR(text_body) > 0 && !json_is_object(body))
		class = ANSWER_RETRY;
	json_decref(body);
	PG_RETURN_TEXT_P(make_text(xrpc_class_name(class)));
}
