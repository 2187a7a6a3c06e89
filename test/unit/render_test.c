/*-------------------------------------------------------------------------
 *
 * render_test.c
 *		render.c, with the address sanitizer.
 *
 * Every text is given in memory of just its size, and so is every result;
 * what is measured must be what is written.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "render.h"
#include "tap.h"

/* The result, with a terminator; the caller frees it. */
static char *
rendered(RenderFn render, const char *in, size_t len, size_t *out_len)
{
	char	   *copy = malloc(len ? len : 1);
	size_t		size;
	char	   *exact;
	char	   *out;

	if (len > 0)
		memcpy(copy, in, len);
	size = render(copy, len, NULL);
	exact = malloc(size ? size : 1);
	out = calloc(size + 1, 1);
	if (render(copy, len, exact) != size)
		ok(false, "measured and written are the same");
	memcpy(out, exact, size);
	free(exact);
	free(copy);
	if (out_len != NULL)
		*out_len = size;
	return out;
}

static void
is_rendered(RenderFn render, const char *in, const char *expected,
			const char *name)
{
	char	   *out = rendered(render, in, strlen(in), NULL);

	if (!ok(strcmp(out, expected) == 0, "%s", name))
		printf("# got:      %s\n# expected: %s\n", out, expected);
	free(out);
}

static void
test_markup(void)
{
	is_rendered(render_html, "", "", "html: nothing");
	is_rendered(render_html, "a<b>&\"'\r\n\x01\xc3\xa9",
				"a&lt;b&gt;&amp;&quot;&#39;&#13;\n\x01\xc3\xa9",
				"html: what means something is escaped, nothing is lost");
	is_rendered(render_xml, "<\x01\x08\t\n\r\x1f>\xef\xbf\xbe\xef\xbf\xbd\xef\xbf\xbf\x7f",
				"&lt;\t\n&#13;&gt;\xef\xbf\xbd\x7f",
				"xml: without the characters it does not know");
	is_rendered(render_xml, "a\xef\xbf", "a\xef\xbf", "xml: at the end of the text");
	is_rendered(render_cdata, "a]]>b", "a]]]]><![CDATA[>b", "cdata: its end in the text");
	is_rendered(render_cdata, "]]]]>]>]]>", "]]]]]]><![CDATA[>]>]]]]><![CDATA[>",
				"cdata: several");
	is_rendered(render_cdata, "]]\x01>", "]]]]><![CDATA[>",
				"cdata: its end made by what is left out");
	is_rendered(render_cdata, "]\x01]\xef\xbf\xbf>", "]]]]><![CDATA[>",
				"cdata: ... twice");
	is_rendered(render_cdata, "<a>&", "<a>&", "cdata: nothing else is touched");
}

static void
test_calendar(void)
{
	char		line[400];
	char	   *out;
	size_t		len;

	is_rendered(render_ics_text, "a\\b;c,d:\"\n\r\n\r\t\x01\x7f",
				"a\\\\b\\;c\\,d:\"\\n\\n\\n\t", "ics: a text");
	is_rendered(render_ics_text, "x\r", "x\\n", "ics: a CR at the end");
	is_rendered(render_ics_param, "a^\"\n\r\n\r;:,\x02", "a^^^'^n^n^n;:,",
				"ics: a parameter");
	is_rendered(render_ics_fold, "A:1\nB:2\n", "A:1\r\nB:2\r\n",
				"fold: short lines");

	memset(line, 'x', sizeof(line));
	for (size_t n = 74; n <= 77; n++)
	{
		out = rendered(render_ics_fold, line, n, &len);
		ok(len == n + (n > 75 ? 3 : 0), "fold: %zu octets", n);
		free(out);
	}
	/* 74 octets, then a character of 2, 3 or 4: it goes to the next line */
	memcpy(line + 74, "\xc3\xa9", 2);
	out = rendered(render_ics_fold, line, 76, NULL);
	ok(memcmp(out + 74, "\r\n \xc3\xa9", 5) == 0, "fold: a character of two octets");
	free(out);
	memcpy(line + 74, "\xf0\x9f\x8e\x89", 4);
	out = rendered(render_ics_fold, line, 78, NULL);
	ok(memcmp(out + 74, "\r\n \xf0\x9f\x8e\x89", 7) == 0, "fold: ... of four");
	free(out);
	out = rendered(render_ics_fold, line, 76, NULL);
	ok(memcmp(out + 74, "\r\n \xf0\x9f", 5) == 0, "fold: ... cut off");
	free(out);
}

static void
test_plain(void)
{
	static const char *const cases[][2] = {
		{"", ""}, {"  \n ", ""}, {" a  b\n", "a b"},
		{"<p>I&#39;ll <b>come</b></p>", "I'll come"},
		{"a<br>b<br/>c", "a\nb\nc"}, {"<p>a</p>\n<p>b</p>", "a\nb"},
		{"a<script>x<y</script>b<STYLE>z</Style >c", "abc"},
		{"a<!-- b > c -->d<!doctype x>e<?php f ?>g", "adeg"},
		{"<a title=\"1 > 0\" href='>'>x</a>", "x"},
		{"1 < 2 & 3 > 2 &amp;lt; &nosuch; &", "1 < 2 & 3 > 2 &lt; &nosuch; &"},
		{"&lt;b&gt; &quot;&apos; &#x1F389;&#233;&#0;&#xD800;&#x110000;&#99999999999;",
		"<b> \"' \xf0\x9f\x8e\x89\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
		{"&#", "&#"}, {"&#x", "&#x"}, {"&#x;", "&#x;"}, {"&#65", "A"}, {"&amp", "&amp"},
		{"<", "<"}, {"a<", "a<"}, {"a<b", "a"}, {"a</", "a"}, {"a<!--", "a"}, {"a<!-", "a"},
		{"a<script", "a"}, {"a<script>b", "a"}, {"a<script>b</scrip", "a"}, {"a<b title=\"x", "a"},
		{"a<scripts>b", "ab"}, {"<h1>a</h1>b<h7>c", "a\nbc"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		is_rendered(render_plain, cases[i][0], cases[i][1], cases[i][0]);
	is_rendered(render_plain_ascii, "&amp;&#65;&#x7f;&eacute;&#233;&nbsp;&#0;\xe9<b>",
				"&A\x7f&eacute;&#233;&nbsp;&#0;\xe9", "in another encoding");
}

static void
test_links(void)
{
	static const char *const links[] = {
		"http://a", "https://a.example/", "HTTPS://a.example:8080/?x#y",
		"https://u:p@a.example", "https://[::1]/", "https://b\xc3\xbc.example/\xc3\xa9",
	};
	static const char *const others[] = {
		"", "h", "http", "http:", "http:/", "http://", "https:///a", "https://?a", "https://#",
		"https://:80", "https://u@", "https://u@/", "ftp://a", "javascript:alert(1)",
		"javascript://a/%0aalert(1)", "data:text/html,x", "//a", "/a", " https://a",
		"https://a ", "https://a\n", "https://a\tb", "https://a\"", "https://a<", "https://a>",
		"https://a\\b", "https://a`", "https://a\x7f", "xhttps://a",
	};

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		ok(render_is_link(links[i], strlen(links[i])), "link: %s", links[i]);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		ok(!render_is_link(others[i], strlen(others[i])), "no link: %s", others[i]);
	ok(!render_is_link("https://a\0b", 11), "no link: with a NUL");
	ok(!render_is_link("https://a", 8), "no link: the host is not in it");
}

/* Pieces that meet in odd ways, put together at random. */
static size_t
random_text(uint64_t *state, char *text, size_t size)
{
	static const char *const pieces[] = {
		"<", ">", "&", ";", "]", "]]", "\"", "'", "\r", "\n", " ", "\\", "^", "#", "x",
		"script", "</script>", "<!--", "-->", "amp;", "&#x", "1F389", "\xc3\xa9", "\xef\xbf\xbe",
		"\xf0\x9f\x8e\x89", "\xc3", "\x80", "\x01", "https://", "/", "@", "<br>", "aaaaaaaaaaaaaaaaaaaa",
	};
	size_t		len = 0;

	for (;;)
	{
		const char *piece;

		*state ^= *state >> 12;
		*state ^= *state << 25;
		*state ^= *state >> 27;
		piece = pieces[(*state * UINT64_C(2685821657736338717) >> 33) %
					   (sizeof(pieces) / sizeof(pieces[0]))];
		if (len + strlen(piece) > size || (*state & 0x1f) == 0)
			return len;
		memcpy(text + len, piece, strlen(piece));
		len += strlen(piece);
	}
}

/* What holds of every text */
static void
test_any(void)
{
	uint64_t	state = 42;
	bool		html_safe = true;
	bool		cdata_safe = true;
	bool		folded = true;

	for (int i = 0; i < 20000; i++)
	{
		char		in[600];
		size_t		len = random_text(&state, in, sizeof(in));
		size_t		size;
		size_t		column = 0;
		char	   *out = rendered(render_html, in, len, &size);

		if (strpbrk(out, "<>\"'\r") != NULL)
			html_safe = false;
		free(rendered(render_plain, out, size, NULL));
		free(out);

		out = rendered(render_cdata, in, len, NULL);
		for (char *end = strstr(out, "]]>"); end != NULL; end = strstr(end + 1, "]]>"))
			if (strncmp(end, "]]><![CDATA[>", 13) != 0)
				cdata_safe = false;
		free(out);

		out = rendered(render_ics_fold, in, len, &size);
		for (size_t c = 0; c < size; c++)
		{
			column = out[c] == '\n' ? 0 : column + 1;
			/* the CR of the line's end is the 76th */
			if (column > 76 || (column == 76 && out[c] != '\r'))
				folded = false;
		}
		free(out);

		free(rendered(render_xml, in, len, NULL));
		free(rendered(render_ics_text, in, len, NULL));
		free(rendered(render_ics_param, in, len, NULL));
		free(rendered(render_plain, in, len, NULL));
		(void) render_is_link(in, len);
	}
	ok(html_safe, "any text: nothing that means something in HTML is left");
	ok(cdata_safe, "any text: a CDATA section ends where it is begun again");
	ok(folded, "any text: no line has more than 75 octets");
	is_rendered(render_plain, "a &lt;script&gt; &amp;amp; &#39;&quot;", "a <script> &amp; '\"",
				"what was escaped is read again");
}

int
main(void)
{
	test_markup();
	test_calendar();
	test_plain();
	test_links();
	test_any();
	return done_testing();
}
