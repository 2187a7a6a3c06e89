/*-------------------------------------------------------------------------
 *
 * render.c
 *		Text as HTML, XML and iCalendar want it; and back.
 *
 * This file is pure: it allocates nothing, raises nothing, and includes
 * nothing of PostgreSQL, so that it is tested without a server.  What it is
 * given may be anything; what it makes of it is well-formed.
 *
 *-------------------------------------------------------------------------
 */
#include "render.h"

#include <stdint.h>
#include <string.h>

#define ICS_LINE_OCTETS	75

/* Elements whose text is not for readers, and those that stand apart. */
static const char *const hidden_elements[] = {
	"script", "style", "template", "title", NULL
};
static const char *const block_elements[] = {
	"br", "p", "div", "li", "ul", "ol", "blockquote", "pre",
	"h1", "h2", "h3", "h4", "h5", "h6", "tr", "hr", NULL
};

static const struct
{
	const char *name;
	const char *text;
}			entities[] =
{
	{"amp", "&"}, {"lt", "<"}, {"gt", ">"}, {"quot", "\""}, {"apos", "'"},
	{"nbsp", "\xc2\xa0"}, {"hellip", "\xe2\x80\xa6"},
	{"ndash", "\xe2\x80\x93"}, {"mdash", "\xe2\x80\x94"},
	{"lsquo", "\xe2\x80\x98"}, {"rsquo", "\xe2\x80\x99"},
	{"ldquo", "\xe2\x80\x9c"}, {"rdquo", "\xe2\x80\x9d"},
};

/* Where the result goes: nowhere while it is only measured. */
typedef struct Sink
{
	char	   *out;
	size_t		len;
} Sink;

static void
put_bytes(Sink *sink, const char *text, size_t len)
{
	if (sink->out != NULL)
		memcpy(sink->out + sink->len, text, len);
	sink->len += len;
}

static void
put(Sink *sink, const char *text)
{
	put_bytes(sink, text, strlen(text));
}

static void
put_char(Sink *sink, char c)
{
	put_bytes(sink, &c, 1);
}

static bool
is_control(char c)
{
	return (unsigned char) c < 0x20 || c == 0x7f;
}

static bool
starts_with(const char *in, const char *end, const char *word)
{
	size_t		len = strlen(word);

	return (size_t) (end - in) >= len && memcmp(in, word, len) == 0;
}

/*
 * HTML and XML
 */

/* XML 1.0, production Char: of the controls it has these; no U+FFFE, U+FFFF. */
static size_t
not_in_xml(const char *in, const char *end)
{
	if ((unsigned char) *in < 0x20 && *in != '\t' && *in != '\n' && *in != '\r')
		return 1;
	if (starts_with(in, end, "\xef\xbf\xbe") ||
		starts_with(in, end, "\xef\xbf\xbf"))
		return 3;
	return 0;
}

static size_t
markup(const char *in, size_t len, char *out, bool xml)
{
	Sink		sink = {out, 0};
	const char *end = in + len;

	for (; in < end; in++)
	{
		size_t		unknown = xml ? not_in_xml(in, end) : 0;

		if (unknown > 0)
		{
			in += unknown - 1;
			continue;
		}
		switch (*in)
		{
			case '&':
				put(&sink, "&amp;");
				break;
			case '<':
				put(&sink, "&lt;");
				break;
			case '>':
				put(&sink, "&gt;");
				break;
			case '"':
				put(&sink, "&quot;");
				break;
			case '\'':
				put(&sink, "&#39;");
				break;
			case '\r':			/* a parser would make it a line feed */
				put(&sink, "&#13;");
				break;
			default:
				put_char(&sink, *in);
		}
	}
	return sink.len;
}

size_t
render_html(const char *in, size_t len, char *out)
{
	return markup(in, len, out, false);
}

size_t
render_xml(const char *in, size_t len, char *out)
{
	return markup(in, len, out, true);
}

/* "]]>" would end the section; what is left out must not make one either. */
size_t
render_cdata(const char *in, size_t len, char *out)
{
	Sink		sink = {out, 0};
	const char *end = in + len;
	int			brackets = 0;	/* just written, up to two */

	while (in < end)
	{
		size_t		unknown = not_in_xml(in, end);

		if (unknown > 0)
		{
			in += unknown;
			continue;
		}
		if (*in == '>' && brackets == 2)
			put(&sink, "]]><![CDATA[");
		brackets = *in != ']' ? 0 : brackets == 2 ? 2 : brackets + 1;
		put_char(&sink, *in++);
	}
	return sink.len;
}

/*
 * iCalendar
 */

/* LF, or a CR that none follows; of CRLF that is the second. */
static bool
ends_line(const char *in, const char *end)
{
	return *in == '\n' || (*in == '\r' && (in + 1 == end || in[1] != '\n'));
}

size_t
render_ics_text(const char *in, size_t len, char *out)
{
	Sink		sink = {out, 0};
	const char *end = in + len;

	for (; in < end; in++)
	{
		if (*in == '\\' || *in == ';' || *in == ',')
		{
			put_char(&sink, '\\');
			put_char(&sink, *in);
		}
		else if (ends_line(in, end))
			put(&sink, "\\n");
		else if (!is_control(*in) || *in == '\t')
			put_char(&sink, *in);
	}
	return sink.len;
}

size_t
render_ics_param(const char *in, size_t len, char *out)
{
	Sink		sink = {out, 0};
	const char *end = in + len;

	for (; in < end; in++)
	{
		if (*in == '^')
			put(&sink, "^^");
		else if (*in == '"')
			put(&sink, "^'");
		else if (ends_line(in, end))
			put(&sink, "^n");
		else if (!is_control(*in) || *in == '\t')
			put_char(&sink, *in);
	}
	return sink.len;
}

size_t
render_ics_fold(const char *in, size_t len, char *out)
{
	Sink		sink = {out, 0};
	const char *end = in + len;
	size_t		column = 0;

	while (in < end)
	{
		size_t		octets = 1;

		if (*in == '\n')
		{
			put(&sink, "\r\n");
			column = 0;
			in++;
			continue;
		}
		/* A character of UTF-8 stays in one piece. */
		while (octets < 4 && in + octets < end &&
			   ((unsigned char) in[octets] & 0xc0) == 0x80)
			octets++;
		if (column + octets > ICS_LINE_OCTETS)
		{
			put(&sink, "\r\n ");
			column = 1;
		}
		put_bytes(&sink, in, octets);
		column += octets;
		in += octets;
	}
	return sink.len;
}

/*
 * From HTML to plain text
 */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c + 'a' - 'A') : c;
}

/* Is that name of a tag one of these? */
static bool
is_one_of(const char *name, size_t len, const char *const *names)
{
	for (; *names != NULL; names++)
	{
		size_t		i = 0;

		if (strlen(*names) != len)
			continue;
		while (i < len && lower(name[i]) == (*names)[i])
			i++;
		if (i == len)
			return true;
	}
	return false;
}

static void
put_code_point(Sink *sink, uint32_t c)
{
	char		utf8[4];
	size_t		len;

	if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		c = 0xfffd;
	if (c < 0x80)
	{
		utf8[0] = (char) c;
		len = 1;
	}
	else if (c < 0x800)
	{
		utf8[0] = (char) (0xc0 | c >> 6);
		utf8[1] = (char) (0x80 | (c & 0x3f));
		len = 2;
	}
	else if (c < 0x10000)
	{
		utf8[0] = (char) (0xe0 | c >> 12);
		utf8[1] = (char) (0x80 | (c >> 6 & 0x3f));
		utf8[2] = (char) (0x80 | (c & 0x3f));
		len = 3;
	}
	else
	{
		utf8[0] = (char) (0xf0 | c >> 18);
		utf8[1] = (char) (0x80 | (c >> 12 & 0x3f));
		utf8[2] = (char) (0x80 | (c >> 6 & 0x3f));
		utf8[3] = (char) (0x80 | (c & 0x3f));
		len = 4;
	}
	put_bytes(sink, utf8, len);
}

static int
digit(char c, int base)
{
	int			value = c >= '0' && c <= '9' ? c - '0' :
		lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : base;

	return value < base ? value : -1;
}

/*
 * A reference that begins at &; returns what is behind it, or NULL where it
 * is none, or one for a character that the result cannot hold.
 */
static const char *
put_reference(Sink *sink, const char *in, const char *end, bool ascii)
{
	const char *from = ++in;

	if (in < end && *in == '#')
	{
		int			base = ++in < end && lower(*in) == 'x' ? 16 : 10;
		uint32_t	c = 0;

		in += base == 16;
		from = in;
		for (; in < end && digit(*in, base) >= 0; in++)
			if (c <= 0x10ffff)
				c = c * (uint32_t) base + (uint32_t) digit(*in, base);
		if (in == from || (ascii && (c == 0 || c >= 0x80)))
			return NULL;
		put_code_point(sink, c);
		return in < end && *in == ';' ? in + 1 : in;
	}
	while (in < end && is_letter(*in))
		in++;
	if (in == end || *in != ';')
		return NULL;
	for (size_t i = 0; i < sizeof(entities) / sizeof(entities[0]); i++)
		if (strlen(entities[i].name) == (size_t) (in - from) &&
			memcmp(entities[i].name, from, (size_t) (in - from)) == 0 &&
			!(ascii && (unsigned char) entities[i].text[0] >= 0x80))
		{
			put(sink, entities[i].text);
			return in + 1;
		}
	return NULL;
}

/* The end of a tag, or of a comment, that begins at <. */
static const char *
skip_tag(const char *in, const char *end)
{
	char		quote = '\0';

	if (starts_with(in, end, "<!--"))
	{
		for (in += 4; in < end; in++)
			if (starts_with(in, end, "-->"))
				return in + 3;
		return end;
	}
	for (in++; in < end; in++)
	{
		if (quote != '\0')
		{
			if (*in == quote)
				quote = '\0';
		}
		else if (*in == '"' || *in == '\'')
			quote = *in;
		else if (*in == '>')
			return in + 1;
	}
	return end;
}

/* Behind the end tag of a hidden element whose start tag has been read. */
static const char *
skip_hidden(const char *in, const char *end, const char *name, size_t len)
{
	for (; in < end; in++)
	{
		size_t		i = 0;

		if (!starts_with(in, end, "</") || (size_t) (end - in) < len + 2)
			continue;
		while (i < len && lower(in[2 + i]) == lower(name[i]))
			i++;
		if (i == len)
			return skip_tag(in, end);
	}
	return end;
}

/* A run of blanks is one, and a line break where an element stands apart. */
typedef struct PlainText
{
	Sink		sink;
	char		pending;		/* ' ', '\n' or nothing */
} PlainText;

static void
begin_word(PlainText *text)
{
	if (text->pending != '\0' && text->sink.len > 0)
		put_char(&text->sink, text->pending);
	text->pending = '\0';
}

static const char *
read_tag(PlainText *text, const char *in, const char *end)
{
	bool		closing = in + 1 < end && in[1] == '/';
	const char *name = in + 1 + closing;
	const char *rest = skip_tag(in, end);
	size_t		len = 0;

	while (name + len < rest && name + len < end &&
		   (is_letter(name[len]) || digit(name[len], 10) >= 0))
		len++;
	if (is_one_of(name, len, block_elements))
		text->pending = '\n';
	if (!closing && is_one_of(name, len, hidden_elements))
		rest = skip_hidden(rest, end, name, len);
	return rest;
}

static size_t
plain(const char *in, size_t len, char *out, bool ascii)
{
	PlainText	text = {{out, 0}, '\0'};
	const char *end = in + len;

	while (in < end)
	{
		const char *next = NULL;

		if (*in == '<' && in + 1 < end &&
			(is_letter(in[1]) || strchr("/!?", in[1]) != NULL))
		{
			in = read_tag(&text, in, end);
			continue;
		}
		if (is_blank(*in))
		{
			if (text.pending == '\0')
				text.pending = ' ';
			in++;
			continue;
		}
		begin_word(&text);
		if (*in == '&')
			next = put_reference(&text.sink, in, end, ascii);
		if (next == NULL)
		{
			put_char(&text.sink, *in);
			next = in + 1;
		}
		in = next;
	}
	return text.sink.len;
}

size_t
render_plain(const char *in, size_t len, char *out)
{
	return plain(in, len, out, false);
}

size_t
render_plain_ascii(const char *in, size_t len, char *out)
{
	return plain(in, len, out, true);
}

/*
 * Links
 */

bool
render_is_link(const char *url, size_t len)
{
	static const char *const schemes[] = {"http://", "https://"};
	const char *end = url + len;
	const char *host = NULL;

	for (int i = 0; i < 2; i++)
	{
		size_t		n = strlen(schemes[i]);
		size_t		same = 0;

		while (same < n && same < len && lower(url[same]) == schemes[i][same])
			same++;
		if (same == n)
			host = url + n;
	}
	if (host == NULL)
		return false;

	/* What a browser drops or turns into something else is no part of one. */
	for (const char *c = host; c < end; c++)
		if (is_control(*c) || strchr(" <>\"\\`", *c) != NULL)
			return false;

	for (const char *c = host; c < end && strchr("/?#", *c) == NULL; c++)
		if (*c == '@')
			host = c + 1;
	return host < end && strchr("/?#:", *host) == NULL;
}
