/*-------------------------------------------------------------------------
 *
 * html.c
 *		A stranger's HTML as a tree, read by libxml2 within bounds.
 *
 * Everything hostile HTML could make large is bounded: bytes, nodes, depth
 * (libxml2 closes elements by walking up), and, by the size of the parser's
 * dictionary, the names of one page: a tag with tens of thousands of
 * attributes would be compared each with each.  Nothing is loaded, nothing
 * printed; libxml2's memory is malloc's and never outlives a call that does
 * not hand out a tree.
 *
 *-------------------------------------------------------------------------
 */
#include "html.h"

#include <string.h>
#include <strings.h>

#include <libxml/HTMLparser.h>

#include "url.h"

/* Bytes of all names of elements and attributes together */
#define MAX_NAMES	16384

/* What is counted while a page is read */
typedef struct Reading
{
	int			depth;
	int			nodes;
	startElementSAXFunc start;	/* libxml2's own */
	endElementSAXFunc end;
	charactersSAXFunc text;
} Reading;

/* The length of a UTF-8 character that XML allows, 0 if it is none */
static size_t
character_length(const unsigned char *s, size_t left)
{
	size_t		n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 :
		s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

	if (n == 0 || n > left)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

/* libxml2 stops reading at what XML does not allow; browsers do not. */
char *
html_readable(Arena *arena, const char *data, size_t len)
{
	const unsigned char *s = (const unsigned char *) data;
	Text		text = {arena};
	size_t		clean = 0;
	size_t		i = 0;

	if (len > HTML_MAX_BYTES)
		len = HTML_MAX_BYTES;
	while (i < len)
	{
		size_t		n = character_length(s + i, len - i);
		char		two[2];

		if (n > 1 || (n == 1 && (s[i] >= ' ' || strchr("\t\n\r", s[i])) &&
					  s[i] != '\0'))
		{
			i += n;
			continue;
		}
		text_add(&text, data + clean, i - clean);
		two[0] = (char) (0xc0 | s[i] >> 6);
		two[1] = (char) (0x80 | (s[i] & 0x3f));
		if (s[i] < 0x80)
			text_add(&text, " ", 1);
		else
			text_add(&text, two, 2);
		clean = ++i;
	}
	text_add(&text, data + clean, len - clean);
	return text_done(&text);
}

static void
on_start(void *ctx, const xmlChar *name, const xmlChar **attributes)
{
	htmlParserCtxtPtr parser = ctx;
	Reading    *reading = parser->_private;

	/* Counted up to the end, since the end of each is told. */
	if (++reading->depth > HTML_MAX_DEPTH ||
		++reading->nodes > HTML_MAX_NODES)
	{
		xmlStopParser(parser);
		return;
	}
	reading->start(ctx, name, attributes);
}

static void
on_end(void *ctx, const xmlChar *name)
{
	htmlParserCtxtPtr parser = ctx;
	Reading    *reading = parser->_private;

	reading->depth--;
	reading->end(ctx, name);
}

static void
on_text(void *ctx, const xmlChar *text, int len)
{
	htmlParserCtxtPtr parser = ctx;
	Reading    *reading = parser->_private;

	if (++reading->nodes > HTML_MAX_NODES)
	{
		xmlStopParser(parser);
		return;
	}
	reading->text(ctx, text, len);
}

static void
on_script(void *ctx, const xmlChar *text, int len)
{
}

/* Nothing is printed; without memory libxml2 2.9 might go on for ever. */
#if LIBXML_VERSION >= 21200
static void
on_error(void *ctx, const xmlError *error)
#else							/* without const */
static void
on_error(void *ctx, xmlError *error)
#endif
{
	if (error->code == XML_ERR_NO_MEMORY)
		xmlStopParser(ctx);
}

static void
bound(htmlParserCtxtPtr parser, Reading *reading)
{
	xmlSAXHandler *sax = parser->sax;

	parser->_private = reading;
	reading->start = sax->startElement;
	reading->end = sax->endElement;
	reading->text = sax->characters;
	sax->startElement = on_start;
	sax->endElement = on_end;
	sax->characters = on_text;
	sax->ignorableWhitespace = on_text;
	sax->cdataBlock = on_script;
	sax->comment = NULL;
	sax->processingInstruction = NULL;
	sax->internalSubset = NULL;
	sax->externalSubset = NULL;
	sax->serror = on_error;
	sax->initialized = XML_SAX2_MAGIC;	/* or serror would not be called */
#if LIBXML_VERSION < 21300
	xmlDictSetLimit(parser->dict, MAX_NAMES);
#endif
}

xmlDoc *
html_read(Arena *arena, const char *data, size_t len)
{
	Reading		reading = {0};
	htmlParserCtxtPtr parser;
	char	   *readable;
	xmlDoc	   *page;

	readable = html_readable(arena, data, len);
	if (readable == NULL)
		return NULL;
	parser = htmlNewParserCtxt();
	if (parser == NULL)
	{
		arena->failed = true;
		return NULL;
	}
	bound(parser, &reading);
	page = htmlCtxtReadMemory(parser, readable, (int) strlen(readable), NULL,
							  "UTF-8", HTML_PARSE_RECOVER |
							  HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING |
							  HTML_PARSE_NONET | HTML_PARSE_NODEFDTD |
							  HTML_PARSE_IGNORE_ENC);
	if (parser->errNo == XML_ERR_NO_MEMORY)
		arena->failed = true;
	htmlFreeParserCtxt(parser);
	return page;
}

xmlNode *
html_next(const xmlNode *root, const xmlNode *from, bool into)
{
	const xmlNode *node = from;

	for (;;)
	{
		if (into && node->children != NULL &&
			node->type == XML_ELEMENT_NODE)
			node = node->children;
		else
		{
			while (node != root && node->next == NULL)
				node = node->parent;
			if (node == root)
				return NULL;
			node = node->next;
		}
		if (node->type == XML_ELEMENT_NODE)
			return (xmlNode *) node;
		into = true;
	}
}

bool
html_is(const xmlNode *node, const char *name)
{
	return strcasecmp((const char *) node->name, name) == 0;
}

const char *
html_attribute(const xmlNode *node, const char *name)
{
	for (const xmlAttr *a = node->properties; a != NULL; a = a->next)
		if (strcasecmp((const char *) a->name, name) == 0)
			return a->children && a->children->content ?
				(const char *) a->children->content : "";
	return NULL;
}

bool
html_has_word(const char *list, const char *word, bool fold_case)
{
	size_t		len = strlen(word);

	while (list != NULL && *list != '\0')
	{
		size_t		n = strcspn(list, " \t\n\f\r");

		if (n == len && (fold_case ? strncasecmp(list, word, n) :
						 strncmp(list, word, n)) == 0)
			return true;
		list += n;
		list += strspn(list, " \t\n\f\r");
	}
	return false;
}

bool
html_is_inert(const xmlNode *node)
{
	static const char *const inert[] = {
		"iframe", "noembed", "noframes", "script", "style", "template",
		"textarea", "title", "xmp"
	};

	for (size_t i = 0; i < sizeof(inert) / sizeof(inert[0]); i++)
		if (html_is(node, inert[i]))
			return true;
	return false;
}

const char *
html_base(Arena *arena, const xmlDoc *page, const char *url)
{
	const xmlNode *root = xmlDocGetRootElement(page);
	const char *href;
	const char *base;

	for (const xmlNode *n = root; n != NULL;
		 n = html_next(root, n, !html_is_inert(n)))
	{
		if (!html_is(n, "base") ||
			(href = html_attribute(n, "href")) == NULL)
			continue;
		base = url_resolve(arena, url, href);
		return base != NULL && url_is_web(base) ? base : url;
	}
	return url;
}
