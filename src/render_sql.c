/*-------------------------------------------------------------------------
 *
 * render_sql.c
 *		The functions of render.c as SQL calls them.
 *
 * May touch: nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "compat.h"
#include "render.h"

PG_FUNCTION_INFO_V1(rsvp_sync_escape);
PG_FUNCTION_INFO_V1(rsvp_sync_is_link);

static const struct
{
	const char *form;
	RenderFn	render;
}			forms[] =
{
	{"html", render_html},
	{"xml", render_xml},
	{"cdata", render_cdata},
	{"ics", render_ics_text},
	{"ics_param", render_ics_param},
	{"ics_fold", render_ics_fold},
	{"plain", render_plain},
};

static RenderFn
find_form(text *name)
{
	for (int i = 0; i < lengthof(forms); i++)
		if (strlen(forms[i].form) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(forms[i].form, VARDATA_ANY(name),
				   VARSIZE_ANY_EXHDR(name)) == 0)
			return forms[i].render == render_plain &&
				GetDatabaseEncoding() != PG_UTF8 ?
				render_plain_ascii : forms[i].render;
	elog(ERROR, "unknown form \"%s\"", text_to_cstring(name));
}

/* _escape(form text, value text) */
Datum
rsvp_sync_escape(PG_FUNCTION_ARGS)
{
	RenderFn	render = find_form(PG_GETARG_TEXT_PP(0));
	text	   *value = PG_GETARG_TEXT_PP(1);
	const char *in = VARDATA_ANY(value);
	size_t		len = VARSIZE_ANY_EXHDR(value);
	size_t		size = render(in, len, NULL);
	text	   *result;

	/* palloc() says so if it is more than a text can hold. */
	result = palloc(size + VARHDRSZ);
	SET_VARSIZE(result, size + VARHDRSZ);
	render(in, len, VARDATA(result));
	PG_RETURN_TEXT_P(result);
}

/* _is_link(url text) */
Datum
rsvp_sync_is_link(PG_FUNCTION_ARGS)
{
	text	   *url = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(render_is_link(VARDATA_ANY(url), VARSIZE_ANY_EXHDR(url)));
}
