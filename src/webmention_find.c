/*-------------------------------------------------------------------------
 *
 * webmention_find.c
 *		Where a page takes webmentions: endpoint discovery as the W3C has it.
 *
 * Pure.  The first Link header goes before everything in the page, and there
 * the first <link> or <a> in document order.  What has no href is no link;
 * an empty href is the page itself.
 *
 *-------------------------------------------------------------------------
 */
#include "webmention_find.h"

#include <string.h>
#include <strings.h>

#include "html.h"
#include "url.h"

#define REL		"webmention"

/* An endpoint that could be called; the fragment is no part of it */
static char *
endpoint(Arena *arena, const char *base, const char *ref)
{
	char	   *url = url_resolve(arena, base, ref);

	if (url == NULL || !url_is_web(url))
		return NULL;
	url[strcspn(url, "#")] = '\0';
	return url;
}

static const char *
skip_blanks(const char *s)
{
	return s + strspn(s, " \t\r\n");
}

/*
 * One parameter's value, as a token or a quoted string, at s; returns what is
 * behind it.
 */
static const char *
read_value(Arena *arena, const char *s, char **value)
{
	Text		text = {arena};

	if (*s != '"')
	{
		size_t		n = strcspn(s, ";, \t\r\n");

		*value = arena_copy(arena, s, n);
		return s + n;
	}
	for (s++; *s != '\0' && *s != '"'; s++)
	{
		if (*s == '\\' && s[1] != '\0')
			s++;
		text_add(&text, s, 1);
	}
	*value = text_done(&text);
	return *s == '"' ? s + 1 : s;
}

static bool
name_is(const char *name, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(name, word, len) == 0;
}

/*
 * The parameters of one link, at s; returns what is behind them.  Of several
 * rel the first counts, and a link with an anchor is not this page's
 * (RFC 8288 3.3, 3.2).
 */
static const char *
read_parameters(Arena *arena, const char *s, bool *wanted)
{
	char	   *rel = NULL;
	bool		elsewhere = false;

	for (;;)
	{
		const char *name;
		size_t		len;
		char	   *value = NULL;

		s = skip_blanks(s);
		if (*s != ';')
			break;
		name = s = skip_blanks(s + 1);
		len = strcspn(s, "=;, \t\r\n");
		s = skip_blanks(s + len);
		if (*s == '=')
			s = read_value(arena, skip_blanks(s + 1), &value);
		if (rel == NULL && name_is(name, len, "rel"))
			rel = value;
		elsewhere = elsewhere || name_is(name, len, "anchor");
	}
	*wanted = !elsewhere && html_has_word(rel, REL, true);
	return s;
}

/* A header's value: links separated by commas, <target>; parameters */
static char *
find_in_header(Arena *arena, const char *url, const char *s)
{
	while (*s != '\0')
	{
		const char *target;
		size_t		len;
		bool		wanted;

		s += strspn(s, ", \t\r\n");
		if (*s != '<')
		{
			/* No link at all: go on behind the next comma. */
			s += strcspn(s, ",");
			continue;
		}
		target = ++s;
		len = strcspn(s, ">");
		if (s[len] == '\0')
			return NULL;
		s = read_parameters(arena, s + len + 1, &wanted);
		if (wanted)
		{
			char	   *ref = arena_copy(arena, target, len);
			char	   *found = ref ? endpoint(arena, url, ref) : NULL;

			if (found != NULL)
				return found;
		}
		s += strcspn(s, ",");
	}
	return NULL;
}

static char *
find_in_page(Arena *arena, const char *url, const xmlDoc *page)
{
	const xmlNode *root = xmlDocGetRootElement(page);
	const char *base = html_base(arena, page, url);

	for (const xmlNode *n = root; n != NULL;
		 n = html_next(root, n, !html_is_inert(n)))
	{
		const char *href;
		char	   *found;

		if (!html_is(n, "link") && !html_is(n, "a"))
			continue;
		href = html_attribute(n, "href");
		if (href == NULL ||
			!html_has_word(html_attribute(n, "rel"), REL, true))
			continue;
		found = endpoint(arena, *skip_blanks(href) == '\0' ? url : base,
						 href);
		if (found != NULL)
			return found;
	}
	return NULL;
}

char *
webmention_find(Arena *arena, const char *url, const char *const *links,
				int nlinks, const char *body, size_t len)
{
	char	   *found = NULL;
	xmlDoc	   *page;

	for (int i = 0; i < nlinks && found == NULL; i++)
		found = find_in_header(arena, url, links[i]);
	if (found != NULL || body == NULL)
		return found;
	page = html_read(arena, body, len);
	if (page == NULL)
		return NULL;
	found = find_in_page(arena, url, page);
	xmlFreeDoc(page);
	return found;
}
