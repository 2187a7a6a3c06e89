/*-------------------------------------------------------------------------
 *
 * microformats.c
 *		Items of microformats2 in a page, and the values of their properties.
 *
 * The parsing rules of microformats.org/wiki/microformats2-parsing for what
 * an RSVP needs: p-, u-, dt- and e- properties, the value-class-pattern,
 * nested items, and implied name, url and photo.  The old class names of
 * hAtom and hCard are not read.
 *
 * Functions call themselves as deep as the tree is at most, which html.c
 * bounds.
 *
 *-------------------------------------------------------------------------
 */
#include "microformats.h"

#include <stdio.h>
#include <string.h>

#include "moment.h"
#include "url.h"

#define BLANKS " \t\n\f\r"
#define NBSP "\xc2\xa0"

/* ------------------------------------------------------------------------
 * Items and properties
 * ------------------------------------------------------------------------ */

static bool
is_small(char c)
{
	return c >= 'a' && c <= 'z';
}

/* h-, an optional vendor's prefix, words of small letters and hyphens */
static bool
is_type_name(const char *s, size_t len)
{
	size_t		i = 2;

	if (len < 3 || s[0] != 'h' || s[1] != '-')
		return false;
	for (; i < len; i++)
		if (!is_small(s[i]) && !(s[i] >= '0' && s[i] <= '9') && s[i] != '-')
			return false;
	return is_small(s[len - 1]) && s[2] != '-';
}

bool
mf_is_item(const xmlNode *node)
{
	const char *list = html_attribute(node, "class");

	while (list != NULL && *list != '\0')
	{
		size_t		n = strcspn(list, BLANKS);

		if (is_type_name(list, n))
			return true;
		list += n;
		list += strspn(list, BLANKS);
	}
	return false;
}

bool
mf_is_type(const xmlNode *node, const char *type)
{
	return html_has_word(html_attribute(node, "class"), type, false);
}

bool
mf_has_class(const xmlNode *node, const char *classes)
{
	const char *has = html_attribute(node, "class");
	char		word[32];

	while (has != NULL && *classes != '\0')
	{
		size_t		n = strcspn(classes, " ");

		if (n < sizeof(word))
		{
			memcpy(word, classes, n);
			word[n] = '\0';
			if (html_has_word(has, word, false))
				return true;
		}
		classes += n;
		classes += strspn(classes, " ");
	}
	return false;
}

xmlNode *
mf_property(const xmlNode *item, const xmlNode *prev, const char *classes)
{
	xmlNode    *node = prev != NULL ?
		html_next(item, prev, !mf_is_item(prev) && !html_is_inert(prev)) :
		html_next(item, item, true);

	while (node != NULL && !mf_has_class(node, classes))
		node = html_next(item, node,
						 !mf_is_item(node) && !html_is_inert(node));
	return node;
}

/* ------------------------------------------------------------------------
 * Values
 * ------------------------------------------------------------------------ */

/* How many bytes of blank these begin with; a no-break space is one, too. */
static size_t
blank_at(const char *text, size_t len)
{
	if (len >= strlen(NBSP) && memcmp(text, NBSP, strlen(NBSP)) == 0)
		return strlen(NBSP);
	return len > 0 && strchr(BLANKS, *text) ? 1 : 0;
}

static char *
trimmed(Arena *arena, const char *text)
{
	size_t		len = strlen(text);
	size_t		n;

	for (; (n = blank_at(text, len)) > 0; text += n)
		len -= n;
	while ((len > 0 && (n = blank_at(text + len - 1, 1)) > 0) ||
		   (len > 1 && (n = blank_at(text + len - 2, 2)) > 1))
		len -= n;
	return arena_copy(arena, text, len);
}

/* A reference as an address; one that has no base stays as it is. */
static char *
address(Arena *arena, const char *base, const char *ref)
{
	char	   *url = url_resolve(arena, base, ref);

	return url != NULL ? url : trimmed(arena, ref);
}

static void
add_content(Text *text, const xmlNode *node, const char *base)
{
	/* Addresses of images may be longer than what stands for them. */
	for (const xmlNode *n = node->children;
		 n != NULL && text->len <= HTML_MAX_BYTES; n = n->next)
	{
		const char *value;

		if (n->type == XML_TEXT_NODE && n->content != NULL)
			text_add_string(text, (const char *) n->content);
		if (n->type != XML_ELEMENT_NODE || html_is_inert(n))
			continue;
		if (!html_is(n, "img"))
			add_content(text, n, base);
		else if ((value = html_attribute(n, "alt")) != NULL)
			text_add_string(text, value);
		else if ((value = html_attribute(n, "src")) != NULL)
		{
			text_add(text, " ", 1);
			if ((value = address(text->arena, base, value)) != NULL)
				text_add_string(text, value);
			text_add(text, " ", 1);
		}
	}
}

char *
mf_content(Arena *arena, const xmlNode *node, const char *base)
{
	Text		text = {arena};
	char	   *content;

	add_content(&text, node, base);
	content = text_done(&text);
	return content ? trimmed(arena, content) : NULL;
}

/* The first attribute there is of an element that carries its value so */
static const char *
carried(const xmlNode *node, const char *const *pairs)
{
	const char *value;

	for (; pairs[0] != NULL; pairs += 2)
		if (html_is(node, pairs[0]) &&
			(value = html_attribute(node, pairs[1])) != NULL)
			return value;
	return NULL;
}

static const char *const text_carriers[] = {
	"abbr", "title", "link", "title", "data", "value", "input", "value",
	"img", "alt", "area", "alt", NULL
};

static const char *const url_carriers[] = {
	"a", "href", "area", "href", "link", "href", "img", "src", "audio", "src",
	"video", "src", "source", "src", "iframe", "src", "video", "poster",
	"object", "data", NULL
};

static const char *const other_url_carriers[] = {
	"abbr", "title", "data", "value", "input", "value", NULL
};

static const char *const moment_carriers[] = {
	"time", "datetime", "ins", "datetime", "del", "datetime",
	"abbr", "title", "data", "value", "input", "value", NULL
};

/* One part of the value-class-pattern */
static char *
value_part(Arena *arena, const xmlNode *node, const char *base,
		   const char *const *carriers)
{
	const char *value = mf_has_class(node, "value-title") ?
		html_attribute(node, "title") : carried(node, carriers);

	return value != NULL ? trimmed(arena, value) :
		mf_content(arena, node, base);
}

/* Parts belong to this element, not to a property or an item within it. */
static xmlNode *
next_part(const xmlNode *root, const xmlNode *prev)
{
	xmlNode    *node = html_next(root, prev ? prev : root, prev == NULL);

	while (node != NULL && !mf_has_class(node, "value value-title"))
		node = html_next(root, node,
						 !mf_is_item(node) && !html_is_inert(node));
	return node;
}

/* NULL: the element does not use the pattern */
static char *
value_class(Arena *arena, const xmlNode *node, const char *base)
{
	Text		text = {arena};

	for (xmlNode *n = next_part(node, NULL); n != NULL; n = next_part(node, n))
	{
		char	   *part = value_part(arena, n, base, text_carriers);

		if (part != NULL)
			text_add_string(&text, part);
	}
	return text.data;
}

char *
mf_text(Arena *arena, const xmlNode *node, const char *base)
{
	const char *value = value_class(arena, node, base);

	if (value == NULL)
		value = carried(node, text_carriers);
	return value != NULL ? trimmed(arena, value) :
		mf_content(arena, node, base);
}

char *
mf_url(Arena *arena, const xmlNode *node, const char *base)
{
	const char *value = carried(node, url_carriers);

	if (value == NULL)
		value = value_class(arena, node, base);
	if (value == NULL)
		value = carried(node, other_url_carriers);
	if (value == NULL)
		value = mf_content(arena, node, base);
	return value != NULL ? address(arena, base, value) : NULL;
}

char *
mf_moment(Arena *arena, const xmlNode *node, const char *base)
{
	Moment		moment = {0};
	bool		parts = false;
	const char *value;
	char	   *text;

	for (xmlNode *n = next_part(node, NULL); n != NULL; n = next_part(node, n))
	{
		parts = true;
		text = value_part(arena, n, base, moment_carriers);
		if (text != NULL)
			moment_add(&moment, text);
	}
	if (!parts)
	{
		value = carried(node, moment_carriers);
		text = value != NULL ? trimmed(arena, value) :
			mf_content(arena, node, base);
		if (text != NULL)
			moment_add(&moment, text);
	}
	return moment_text(arena, &moment);
}

/* ------------------------------------------------------------------------
 * What an item is, said or implied
 * ------------------------------------------------------------------------ */

/* A property whose class begins so, in this item */
static bool
has_prefix(const xmlNode *node, const char *prefix)
{
	const char *list = html_attribute(node, "class");

	while (list != NULL && *list != '\0')
	{
		if (strncmp(list, prefix, strlen(prefix)) == 0 &&
			is_small(list[strlen(prefix)]))
			return true;
		list += strcspn(list, BLANKS);
		list += strspn(list, BLANKS);
	}
	return false;
}

/* Does anything in the item keep a property from being implied? */
static bool
says_itself(const xmlNode *item, const char *const *prefixes)
{
	for (xmlNode *n = html_next(item, item, true); n != NULL;
		 n = html_next(item, n, !mf_is_item(n)))
	{
		if (mf_is_item(n))
			return true;
		for (int i = 0; prefixes[i] != NULL; i++)
			if (has_prefix(n, prefixes[i]))
				return true;
	}
	return false;
}

/* Its only child of this name, unless that is an item */
static const xmlNode *
only_of_type(const xmlNode *node, const char *name)
{
	const xmlNode *found = NULL;

	for (const xmlNode *n = node->children; n != NULL; n = n->next)
	{
		if (n->type != XML_ELEMENT_NODE || !html_is(n, name))
			continue;
		if (found != NULL)
			return NULL;
		found = n;
	}
	return found != NULL && !mf_is_item(found) ? found : NULL;
}

static const xmlNode *
only_child(const xmlNode *node)
{
	const xmlNode *found = NULL;

	for (const xmlNode *n = node->children; n != NULL; n = n->next)
	{
		if (n->type != XML_ELEMENT_NODE)
			continue;
		if (found != NULL)
			return NULL;
		found = n;
	}
	return found != NULL && !mf_is_item(found) ? found : NULL;
}

/*
 * The value that an element, its only child of a kind, or that of its only
 * child carries; pairs as in carried().
 */
static const char *
implied(const xmlNode *item, const char *const *pairs, bool alone)
{
	const xmlNode *node = item;
	const char *value = carried(item, pairs);

	for (int level = 0; level < 2 && value == NULL && node != NULL; level++)
	{
		const xmlNode *only = only_child(node);

		for (const char *const *p = pairs; p[0] != NULL && value == NULL; p += 2)
		{
			const xmlNode *child = alone ? only : only_of_type(node, p[0]);

			if (child != NULL && html_is(child, p[0]))
				value = html_attribute(child, p[1]);
			if (value != NULL && alone && *value == '\0')
				value = NULL;
		}
		node = only;
	}
	return value;
}

char *
mf_item_name(Arena *arena, const xmlNode *item, const char *base)
{
	static const char *const carriers[] = {
		"img", "alt", "area", "alt", "abbr", "title", NULL
	};
	static const char *const prefixes[] = {"p-", "e-", NULL};
	xmlNode    *node = mf_property(item, NULL, "p-name");
	const char *value;

	if (node != NULL)
		return mf_text(arena, node, base);
	if (says_itself(item, prefixes))
		return NULL;
	value = implied(item, carriers, true);
	return value != NULL ? trimmed(arena, value) :
		mf_content(arena, item, base);
}

char *
mf_item_url(Arena *arena, const xmlNode *item, const char *base)
{
	static const char *const carriers[] = {
		"a", "href", "area", "href", NULL
	};
	static const char *const prefixes[] = {"u-", NULL};
	xmlNode    *node = mf_property(item, NULL, "u-url");
	const char *value;

	if (node != NULL)
		return mf_url(arena, node, base);
	if (says_itself(item, prefixes))
		return NULL;
	value = implied(item, carriers, false);
	return value != NULL ? address(arena, base, value) : NULL;
}

char *
mf_item_photo(Arena *arena, const xmlNode *item, const char *base)
{
	static const char *const carriers[] = {
		"img", "src", "object", "data", NULL
	};
	static const char *const prefixes[] = {"u-", NULL};
	xmlNode    *node = mf_property(item, NULL, "u-photo");
	const char *value;

	if (node != NULL)
		return mf_url(arena, node, base);
	if (says_itself(item, prefixes))
		return NULL;
	value = implied(item, carriers, false);
	return value != NULL ? address(arena, base, value) : NULL;
}
