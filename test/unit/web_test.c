/*-------------------------------------------------------------------------
 *
 * web_test.c
 *		Endpoint discovery and the reading of posts, with sanitizers.
 *
 * The 23 cases of discovery are those that webmention.rocks describes.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libxml/parser.h>

#include "h_entry.h"
#include "html.h"
#include "moment.h"
#include "tap.h"
#include "url.h"
#include "webmention_find.h"

#define SITE "https://webmention.rocks"

/* ------------------------------------------------------------------------
 * URLs
 * ------------------------------------------------------------------------ */

static void
resolves(const char *base, const char *ref, const char *expected)
{
	Arena		arena = {0};
	char	   *url = url_resolve(&arena, base, ref);

	ok(expected ? url && strcmp(url, expected) == 0 : url == NULL,
	   "\"%s\" on %s is %s", ref, base ? base : "nothing",
	   url ? url : "(nothing)");
	arena_free(&arena);
}

static void
test_urls(void)
{
	/* RFC 3986 5.4 */
	static const char *const cases[][2] = {
		{"g:h", "g:h"}, {"g", "http://a/b/c/g"}, {"./g", "http://a/b/c/g"},
		{"g/", "http://a/b/c/g/"}, {"/g", "http://a/g"}, {"//g", "http://g"}, {"//g/h/../i", "http://g/i"},
		{"?y", "http://a/b/c/d;p?y"}, {"g?y", "http://a/b/c/g?y"},
		{"#s", "http://a/b/c/d;p?q#s"}, {"g#s", "http://a/b/c/g#s"},
		{"g?y#s", "http://a/b/c/g?y#s"}, {";x", "http://a/b/c/;x"},
		{"g;x", "http://a/b/c/g;x"}, {"", "http://a/b/c/d;p?q"},
		{".", "http://a/b/c/"}, {"./", "http://a/b/c/"},
		{"..", "http://a/b/"}, {"../", "http://a/b/"},
		{"../g", "http://a/b/g"}, {"../..", "http://a/"},
		{"../../", "http://a/"}, {"../../g", "http://a/g"},
		{"../../../g", "http://a/g"}, {"/./g", "http://a/g"},
		{"/../g", "http://a/g"}, {"g.", "http://a/b/c/g."},
		{".g", "http://a/b/c/.g"}, {"..g", "http://a/b/c/..g"},
		{"./../g", "http://a/b/g"}, {"./g/.", "http://a/b/c/g/"},
		{"g/./h", "http://a/b/c/g/h"}, {"g/../h", "http://a/b/c/h"},
		{"g;x=1/../y", "http://a/b/c/y"}, {"g?y/../x", "http://a/b/c/g?y/../x"},
		{"g#s/../x", "http://a/b/c/g#s/../x"}
	};
	Arena		arena = {0};
	char	   *long_ref = calloc(1, URL_MAX + 2);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		resolves("http://a/b/c/d;p?q", cases[i][0], cases[i][1]);
	resolves("https://e.example", "x", "https://e.example/x");
	resolves("https://e.example?q", "x", "https://e.example/x");
	resolves("https://e.example/a b", "", "https://e.example/a b");
	resolves("https://e.example/", " \n/a\tb\n ", "https://e.example/ab");
	resolves(NULL, "x", NULL);
	resolves("nonsense", "x", NULL);
	resolves(NULL, "https://e.example/x", "https://e.example/x");
	memset(long_ref, 'x', URL_MAX + 1);
	resolves("https://e.example/", long_ref, NULL);
	free(long_ref);

	ok(url_is_web("https://e.example/") && url_is_web("HTTP://e.example") &&
	   !url_is_web("https://") && !url_is_web("https:///x") &&
	   !url_is_web("https://:80/") && !url_is_web("javascript:alert(1)") &&
	   !url_is_web("at://did:plc:x") && !url_is_web(""), "what is a web URL");
	ok(url_same(&arena, "https://E.example:443", "HTTPS://e.example/") &&
	   url_same(&arena, "http://e.example/\xc3\xa9", "http://e.example:80/%C3%A9") &&
	   url_same(&arena, "https://e.example/a b", "https://e.example/a%20b"),
	   "spellings of one URL are the same");
	ok(!url_same(&arena, "https://e.example/a", "https://e.example/A") &&
	   !url_same(&arena, "https://e.example/a", "http://e.example/a") &&
	   !url_same(&arena, "https://e.example/a", "https://e.example/a/") &&
	   !url_same(&arena, "https://e.example/a", "https://e.example/a?") &&
	   !url_same(&arena, "https://e.example/a", "https://e.example/a#b") &&
	   !url_same(&arena, "mailto:a", "mailto:b"), "others are not");
	ok(strcmp(url_for_request(&arena, "https://e.example/\xc3\xa9 x?a=%20\"#f"),
			  "https://e.example/%C3%A9%20x?a=%20%22") == 0,
	   "a request has no fragment and only ASCII");
	ok(strcmp(url_origin(&arena, "HTTPS://E.example:443/x?y"),
			  "https://e.example") == 0 &&
	   strcmp(url_origin(&arena, "http://e.example:8080"),
			  "http://e.example:8080") == 0 &&
	   url_origin(&arena, "at://x") == NULL, "origins");
	arena_free(&arena);
}

/* ------------------------------------------------------------------------
 * Discovery
 * ------------------------------------------------------------------------ */

typedef struct Discovery
{
	const char *name;
	const char *url;
	const char *links[3];
	const char *body;
	const char *expected;
} Discovery;

static void
discovers(const Discovery *d)
{
	Arena		arena = {0};
	int			nlinks = 0;
	char	   *found;

	while (nlinks < 3 && d->links[nlinks] != NULL)
		nlinks++;
	found = webmention_find(&arena, d->url, d->links, nlinks, d->body,
							d->body ? strlen(d->body) : 0);
	ok(d->expected ? found && strcmp(found, d->expected) == 0 : found == NULL,
	   "%s: %s", d->name, found ? found : "(none)");
	ok(!arena.failed, "%s: with the memory there was", d->name);
	arena_free(&arena);
}

#define PAGE(n, content) \
	"<!DOCTYPE html>\n<html lang=\"en\"><head><title>Test " #n "</title>" \
	"</head>\n<body><div class=\"h-entry\"><h1 class=\"p-name\">Discovery " \
	"Test " #n "</h1>\n" content "\n</div></body></html>"
#define AT(n) SITE "/test/" #n

static const Discovery discoveries[] = {
	{"1 relative header", AT(1), {"</test/1/webmention>; rel=webmention"}, PAGE(1, ""), AT(1) "/webmention"},
	{"2 absolute header", AT(2), {"<" AT(2) "/webmention>; rel=webmention"}, PAGE(2, ""), AT(2) "/webmention"},
	{"3 relative link", AT(3), {NULL}, "<html><head><link rel=\"webmention\" href=\"/test/3/webmention\"></head><body>x</body></html>", AT(3) "/webmention"},
	{"4 absolute link", AT(4), {NULL}, "<html><head><link href=\"" AT(4) "/webmention\" rel=\"webmention\"></head><body>x</body></html>", AT(4) "/webmention"},
	{"5 relative a", AT(5), {NULL}, PAGE(5, "<a rel=\"webmention\" href=\"/test/5/webmention\">here</a>"), AT(5) "/webmention"},
	{"6 absolute a", AT(6), {NULL}, PAGE(6, "<a href=\"" AT(6) "/webmention\" rel=\"webmention\">here</a>"), AT(6) "/webmention"},
	{"7 LinK header", AT(7), {"<" AT(7) "/webmention>; rel=webmention"}, PAGE(7, ""), AT(7) "/webmention"},
	{"8 quoted rel", AT(8), {"<" AT(8) "/webmention>; rel=\"webmention\""}, PAGE(8, ""), AT(8) "/webmention"},
	{"9 several rels in a link", AT(9), {NULL}, "<html><head><link rel=\"webmention somethingelse\" href=\"" AT(9) "/webmention\"></head></html>", AT(9) "/webmention"},
	{"10 several rels in a header", AT(10), {"<" AT(10) "/webmention>; rel=\"webmention somethingelse\""}, PAGE(10, ""), AT(10) "/webmention"},
	{"11 header before link and a", AT(11), {"<" AT(11) "/webmention>; rel=\"webmention\""}, "<html><head><link rel=\"webmention\" href=\"/test/11/webmention/error\"></head><body><a href=\"/test/11/webmention/error\" rel=\"webmention\">x</a></body></html>", AT(11) "/webmention"},
	{"12 not-webmention", AT(12), {NULL}, "<html><head><link rel=\"not-webmention\" href=\"/test/12/webmention/error\"></head><body><a href=\"/test/12/webmention\" rel=\"webmention\">x</a></body></html>", AT(12) "/webmention"},
	{"13 in a comment", AT(13), {NULL}, PAGE(13, "<!-- <a href=\"/test/13/webmention/error\" rel=\"webmention\"></a> --> <a href=\"/test/13/webmention\" rel=\"webmention\">x</a>"), AT(13) "/webmention"},
	{"14 escaped", AT(14), {NULL}, PAGE(14, "<code>&lt;a href=\"/test/14/webmention/error\" rel=\"webmention\"&gt;&lt;/a&gt;</code> <a href=\"/test/14/webmention\" rel=\"webmention\">x</a>"), AT(14) "/webmention"},
	{"15 empty href", AT(15), {NULL}, "<html><head><link rel=\"webmention\" href=\"\"></head></html>", AT(15)},
	{"16 a before link", AT(16), {NULL}, "<html><body><a href=\"/test/16/webmention\" rel=\"webmention\">x</a> <link rel=\"webmention\" href=\"/test/16/webmention/error\"></body></html>", AT(16) "/webmention"},
	{"17 link before a", AT(17), {NULL}, "<html><body><link rel=\"webmention\" href=\"/test/17/webmention\"> <a href=\"/test/17/webmention/error\" rel=\"webmention\">x</a></body></html>", AT(17) "/webmention"},
	{"18 two headers", AT(18), {"<" AT(18) "/webmention/error>; rel=\"other\"", "<" AT(18) "/webmention>; rel=\"webmention\""}, PAGE(18, ""), AT(18) "/webmention"},
	{"19 two links in a header", AT(19), {"<" AT(19) "/webmention/error>; rel=\"other\", <" AT(19) "/webmention>; rel=\"webmention\""}, PAGE(19, ""), AT(19) "/webmention"},
	{"20 no href", AT(20), {NULL}, "<html><head><link rel=\"webmention\"></head><body><a href=\"/test/20/webmention\" rel=\"webmention\">x</a></body></html>", AT(20) "/webmention"},
	{"21 query", AT(21), {NULL}, "<html><head><link rel=\"webmention\" href=\"/test/21/webmention?query=yes\"></head></html>", AT(21) "/webmention?query=yes"},
	{"22 relative to the path", AT(22), {NULL}, "<html><head><link rel=\"webmention\" href=\"22/webmention\"></head></html>", AT(22) "/webmention"},
	{"23 relative to the final URL", AT(23) "/page/k1", {"<webmention-endpoint/k2>; rel=webmention"}, PAGE(23, ""), AT(23) "/page/webmention-endpoint/k2"},

	{"none", AT(1), {"<x>; rel=other"}, PAGE(0, "<a href=x>x</a>"), NULL},
	{"no HTML", AT(1), {NULL}, NULL, NULL},
	{"an empty page", AT(1), {NULL}, "", NULL},
	{"a comma and a semicolon in the target", AT(1), {"<a,b;c>; rel=other, <d,e;f>; rel=webmention"}, NULL, SITE "/test/d,e;f"},
	{"a comma in quotes", AT(1), {"<no>; title=\"a, <b>; rel=webmention\", <yes>; rel=webmention"}, NULL, SITE "/test/yes"},
	{"an escaped quote", AT(1), {"<no>; title=\"a\\\", <b>; rel=webmention\"; rel=next,<yes>;rel=webmention"}, NULL, SITE "/test/yes"},
	{"REL of a header in capitals", AT(1), {"<yes> ; REL = \"next WebMention\""}, NULL, SITE "/test/yes"},
	{"the first rel of a link counts", AT(1), {"<no>; rel=next; rel=webmention, <yes>; rel=webmention"}, NULL, SITE "/test/yes"},
	{"a link of another page", AT(1), {"<no>; rel=webmention; anchor=\"#x\", <yes>; rel=webmention"}, NULL, SITE "/test/yes"},
	{"a header that is none", AT(1), {"webmention", "<unclosed; rel=webmention", "x, <yes>; rel=webmention"}, NULL, SITE "/test/yes"},
	{"an empty target in a header", AT(1) "?q#f", {"<>; rel=webmention"}, NULL, AT(1) "?q"},
	{"capitals", AT(1), {NULL}, "<HTML><BODY><A HREF=yes REL=WEBMENTION>x</A></BODY></HTML>", SITE "/test/yes"},
	{"entities in the address", AT(1), {NULL}, "<a rel=webmention href='/e?a=1&amp;b=2'>x</a>", SITE "/e?a=1&b=2"},
	{"an address that cannot be called", AT(1), {"<mailto:x@example.com>; rel=webmention"}, "<a rel=webmention href='javascript:alert(1)'>x</a><a rel=webmention href=yes>x</a>", SITE "/test/yes"},
	{"base", AT(1), {NULL}, "<head><base href='https://other.example/d/'><link rel=webmention href=yes></head>", "https://other.example/d/yes"},
	{"base does not concern an empty href", AT(1), {NULL}, "<head><base href='https://other.example/d/'><link rel=webmention href=' '></head>", AT(1)},
	{"base does not concern a header", AT(1), {"<yes>; rel=webmention"}, "<base href='https://other.example/d/'>", SITE "/test/yes"},
	{"in a script", AT(1), {NULL}, "<script>document.write('<a rel=webmention href=no>x</a>')</script><a rel=webmention href=yes>x</a>", SITE "/test/yes"},
	{"in a template and a textarea", AT(1), {NULL}, "<template><a rel=webmention href=no>x</a></template><textarea><a rel=webmention href=no></textarea><a rel=webmention href=yes>x</a>", SITE "/test/yes"},
	{"a fragment is no part of it", AT(1), {NULL}, "<a rel=webmention href='yes#no'>x</a>", SITE "/test/yes"},
	{"blanks in rel", AT(1), {NULL}, "<a rel='\n next\twebmention\n' href=' yes '>x</a>", SITE "/test/yes"},
	{"b has no endpoint", AT(1), {NULL}, "<b rel=webmention href=no>x</b>", NULL},
	{"no UTF-8", AT(1), {NULL}, "<title>caf\xe9 \xff\xfe</title><a rel=webmention href='/caf\xe9'>x</a>", SITE "/caf\xc3\xa9"},
	{"controls", AT(1), {NULL}, "<p>\x01\x02\x7f</p><a rel=webmention href='/yes'>x</a>", SITE "/yes"},
};

/* ------------------------------------------------------------------------
 * Posts
 * ------------------------------------------------------------------------ */

#define HOME "https://home.example/p/1"

/* "name=value" lines, in one order, of what the post says */
static const char *
describe(Arena *arena, const char *html, const char *url)
{
	HEntry		e;
	Text		text = {arena};
	const char *const names[] = {
		"url", "author", "name", "photo", "rsvp", "status", "published",
		"updated", "content"
	};

	if (!h_entry_read(arena, html, strlen(html), url, &e))
		return arena->failed ? "out of memory" : "none";
	for (int i = 0; i < e.nevents; i++)
	{
		text_add_string(&text, "to=");
		text_add_string(&text, e.events[i]);
		text_add_string(&text, "|");
	}
	for (int i = 0; i < 9; i++)
	{
		const char *const values[] = {
			e.url && url && strcmp(e.url, url) == 0 ? NULL : e.url,
			e.author_url, e.author_name, e.author_photo,
			e.rsvp, h_entry_status(e.rsvp), e.published, e.updated, e.content
		};

		if (values[i] == NULL)
			continue;
		text_add_string(&text, names[i]);
		text_add_string(&text, "=");
		text_add_string(&text, values[i]);
		text_add_string(&text, "|");
	}
	return text_done(&text);
}

static void
says(const char *name, const char *html, const char *expected)
{
	Arena		arena = {0};
	const char *said = describe(&arena, html, HOME);

	ok(strcmp(said, expected) == 0, "%s: %s", name, said);
	arena_free(&arena);
}

#define TO "<a class='u-in-reply-to' href='https://e.example/1'></a>"
#define ENTRY(inside) "<div class='h-entry'>" TO inside "</div>"
#define YES "to=https://e.example/1|rsvp=yes|status=going|"
#define MENTION "to=https://e.example/1|"

static const char *const posts[][3] = {
	/* As the pages of facts and of other parsers' tests have it */
	{"the minimal post",
		"<div class=\"h-entry\"><p class=\"p-summary\"><a href=\"https://example.com\" class=\"p-author h-card\">Your Name</a>\n"
		" RSVPs <span class=\"p-rsvp\">yes</span> to <a href=\"https://events.example.com/event\" class=\"u-in-reply-to\">Event Name</a></p></div>",
	"to=https://events.example.com/event|author=https://example.com|name=Your Name|rsvp=yes|status=going|"},
	{"content within the RSVP, no event",
		"<html><head><title>Test</title></head><body><div class=\"h-entry\"><data class=\"p-rsvp\" value=\"yes\">"
		"<span class=\"p-content\">I'll be there!</span></data></div></body></html>",
	"rsvp=yes|status=going|content=I'll be there!|"},
	{"an empty link, as an article",
		"<article class=\"h-entry h-as-rsvp\"><a class=\"u-in-reply-to\" href=\"https://www.facebook.com/events/224601034410479/\"></a>"
		"<data class=\"p-rsvp\" value=\"yes\">is attending.</data></article>",
	"to=https://www.facebook.com/events/224601034410479/|rsvp=yes|status=going|"},
	{"the RSVP within the content",
		"<article class='h-entry h-as-article'><h1 class='p-name'>Club</h1><time class='dt-published' datetime='2014-05-05T10:10:53-07:00'>x</time>"
		"<span class='p-author h-card'><a class='u-url' href='http://snarfed.org/'><img class='u-photo' src='/me.jpg' alt=''> <span class='p-name'>Ryan</span></a></span>"
		"<div class='e-content'><p>RSVPs <data class='p-rsvp' value='yes'>yes</data> to <a class='u-in-reply-to' href='http://werd.io/4'>Club</a></p></div></article>",
	"to=http://werd.io/4|author=http://snarfed.org/|name=Ryan|photo=https://home.example/me.jpg|rsvp=yes|status=going|published=2014-05-05T10:10:53-07:00|content=RSVPs yes to Club|"},
	{"several events",
		"<div class='h-entry'>" TO "<a class='u-in-reply-to' href='/2'>2</a><a class='u-in-reply-to' href='https://e.example/1'>again</a>"
		"<data class='p-rsvp' value='no'></data></div>",
	"to=https://e.example/1|to=https://home.example/2|rsvp=no|status=notgoing|"},
	{"events as citations",
		"<div class='h-entry'><div class='u-in-reply-to h-cite'><a class='u-url p-name' href='https://e.example/1'>One</a>"
		"<span class='p-rsvp'>no</span><a class='u-in-reply-to' href='https://e.example/not'></a></div>"
		"<div class='p-in-reply-to h-cite'><a href='https://e.example/2'>Two</a></div><p class='p-rsvp'>maybe</p></div>",
	"to=https://e.example/1|to=https://e.example/2|rsvp=maybe|status=interested|"},

	/* Values */
	{"data", ENTRY("<data class='p-rsvp' value='yes'>is going</data>"), YES},
	{"capitals and blanks", ENTRY("<span class='p-rsvp'>\n YES </span>"), YES},
	{"no-break spaces around it", ENTRY("<span class='p-rsvp'>&nbsp; YES\xc2\xa0 &nbsp;</span>"), YES},
	{"nothing but no-break spaces", ENTRY("<span class='p-rsvp'>&nbsp;&nbsp;</span>"), MENTION},
	{"half a no-break space", ENTRY("<span class='p-rsvp'>yes\xe0</span>"), MENTION "rsvp=yes\xc3\xa0|"},
	{"interested", ENTRY("<data class='p-rsvp' value='Interested'>x</data>"), MENTION "rsvp=interested|status=interested|"},
	{"an unknown word", ENTRY("<data class='p-rsvp' value='Remote'>x</data>"), MENTION "rsvp=remote|"},
	{"an empty word", ENTRY("<data class='p-rsvp' value=''>yes</data>"), MENTION},
	{"no RSVP", ENTRY(""), MENTION},
	{"abbr", ENTRY("<abbr class='p-rsvp' title='yes'>I come</abbr>"), YES},
	{"value-class", ENTRY("<span class='p-rsvp'>I say <b class='value'>y</b>-<b class='value'>es</b></span>"), YES},
	{"value-title", ENTRY("<span class='p-rsvp'>I come<span class='value-title' title='yes'> </span></span>"), YES},
	{"value-class, carried", ENTRY("<span class='p-rsvp'>I <data class='value' value='yes'>come</data></span>"), YES},
	{"an image", ENTRY("<img class='p-rsvp' alt='yes' src='/y.png'>"), YES},
	{"an image within", ENTRY("<span class='p-rsvp'><img alt='yes' src='/y.png'></span>"), YES},
	{"the first counts", ENTRY("<span class='p-rsvp'>yes</span><span class='p-rsvp'>no</span>"), YES},
	{"script and style within", ENTRY("<span class='p-rsvp'><script>no</script><style>no</style>yes</span>"), YES},
	{"entities", ENTRY("<span class='p-rsvp'>&#121;&#x65;s</span>"), YES},
	{"in a template", ENTRY("<template><span class='p-rsvp'>no</span></template><span class='p-rsvp'>yes</span>"), YES},
	{"in a comment", ENTRY("<!-- <span class='p-rsvp'>no</span> --><span class='p-rsvp'>yes</span>"), YES},
	{"of a nested item", ENTRY("<div class='p-comment h-cite'><span class='p-rsvp'>no</span></div><span class='p-rsvp'>yes</span>"), YES},
	{"class names are exact", "<div class='H-Entry'></div><div class='h-entry'><i class='p-rsvps'>no</i>" TO "<b class='x p-rsvp\ty'>yes</b></div>", YES},

	/* Content */
	{"content", ENTRY("<div class='e-content'>a &lt;b&gt; \"c\" &amp; \xf0\x9f\x8e\x89 \xd7\xa9 <i>d</i></div>"),
	MENTION "content=a <b> \"c\" & \xf0\x9f\x8e\x89 \xd7\xa9 d|"},
	{"content's blanks stay within", ENTRY("<div class='e-content'> a  <b>b</b> <data>c</data>\n d </div>"), MENTION "content=a  b c\n d|"},
	{"content with an image", ENTRY("<div class='e-content'>a<img src='/i.png'>b<img alt='' src='x'></div>"), MENTION "content=a https://home.example/i.png b|"},
	{"content with an entity that is none", ENTRY("<div class='e-content'>&nosuch; &#0; &#xD800; &eacute;</div>"), MENTION "content=&nosuch;   \xc3\xa9|"},

	/* Dates */
	{"updated", ENTRY("<time class='dt-updated'>2026-01-02 03:04</time>"), MENTION "updated=2026-01-02T03:04:00+00:00|"},
	{"date value-class", ENTRY("<p class='dt-published'><span class='value'>2026-01-02</span> at <span class='value'>6:05pm</span> <span class='value'>-0700</span></p>"),
	MENTION "published=2026-01-02T18:05:00-07:00|"},
	{"date of no calendar", ENTRY("<time class='dt-published' datetime='2026-02-30'>x</time>"), MENTION},
	{"date of words", ENTRY("<time class='dt-published'>yesterday</time>"), MENTION},

	/* Author */
	{"author's card, implied", ENTRY("<a class='p-author h-card' href='/me'><img src='/me.png' alt=''>Me</a>"),
	MENTION "author=https://home.example/me|name=Me|photo=https://home.example/me.png|"},
	{"author's card, an image only", ENTRY("<a class='u-author h-card' href='/me'><img src='/me.png' alt='Me'></a>"),
	MENTION "author=https://home.example/me|name=Me|photo=https://home.example/me.png|"},
	{"author's card, one deeper", ENTRY("<div class='p-author h-card'><p><a href='/me'>Me</a></p></div>"),
	MENTION "author=https://home.example/me|name=Me|"},
	{"author's card says a url only", ENTRY("<div class='p-author h-card'><a class='u-url' href='/me'><img src='/x.png'> Me</a></div>"),
	MENTION "author=https://home.example/me|name=https://home.example/x.png  Me|"},
	{"author is a name", ENTRY("<span class='p-author'>Me</span>"), MENTION "name=Me|"},
	{"author is an address", ENTRY("<span class='p-author'>https://me.example/</span>"), MENTION "author=https://me.example/|"},
	{"author is a link", ENTRY("<a class='p-author' href='https://me.example/'>Me</a>"), MENTION "author=https://me.example/|name=Me|"},
	{"author is a link, his card elsewhere", ENTRY("<a class='u-author' href='/me'></a>") "<div class='h-card'><a class='u-url' href='/you'>You</a></div>"
		"<div class='h-card'><a class='u-url p-name' href='/me'>Me</a><img class='u-photo' src='/me.png'></div>",
	MENTION "author=https://home.example/me|name=Me|photo=https://home.example/me.png|"},
	{"author of the feed", "<div class='h-feed'><a class='p-author h-card' href='/me'>Me</a>" ENTRY("") "</div>",
	MENTION "author=https://home.example/me|name=Me|"},
	{"author by rel", ENTRY("") "<a rel=author href=/me>x</a>", MENTION "author=https://home.example/me|"},
	{"author by the page's card", ENTRY("") "<p class=h-card><a class='p-name u-url' href='/me'>Me</a></p>", MENTION "author=https://home.example/me|name=Me|"},

	/* Which post */
	{"the page's own of many", "<div class='h-feed'><div class='h-entry'><a class='u-url' href='/p/2'></a><i class='p-rsvp'>no</i></div>"
		"<div class='h-entry'><a class='u-url' href='/p/1'></a><i class='p-rsvp'>yes</i>" TO "</div></div>", YES},
	{"the first of many", "<div class='h-entry'><a class='u-url' href='/p/7'></a>" TO "<i class='p-rsvp'>yes</i></div>" ENTRY("<i class='p-rsvp'>no</i>"),
	"to=https://e.example/1|url=https://home.example/p/7|rsvp=yes|status=going|"},
	{"not that of a comment", "<div class='h-event'><div class='p-comment h-entry'><i class='p-rsvp'>no</i></div></div>" ENTRY("<i class='p-rsvp'>yes</i>"), YES},
	{"on the body itself", "<html class=x><body class='h-entry'>" TO "<i class='p-rsvp'>yes</i></body></html>", YES},
	{"no post", "<p>hello</p>", "none"},
	{"nothing", "", "none"},
	{"base", "<base href='https://b.example/d/'><div class='h-entry'><a class='u-in-reply-to' href='x'></a></div>", "to=https://b.example/d/x|"},
	{"unclosed", "<div class='h-entry'>" TO "<p class='p-rsvp'>yes", YES},
	{"in-reply-to without an address", "<div class='h-entry'><a class='u-in-reply-to'> </a><i class='p-rsvp'>yes</i></div>", "to=https://home.example/p/1|rsvp=yes|status=going|"},
};

static void
moment_is(const char *text, const char *expected)
{
	Arena		arena = {0};
	Moment		moment = {0};
	char	   *said;

	moment_add(&moment, text);
	said = moment_text(&arena, &moment);
	ok(expected ? said && strcmp(said, expected) == 0 : said == NULL,
	   "\"%s\" is %s", text, said ? said : "no moment");
	arena_free(&arena);
}

static void
test_moments(void)
{
	moment_is("2026-01-02", "2026-01-02T00:00:00+00:00");
	moment_is("2026-060", "2026-03-01T00:00:00+00:00");
	moment_is("2024-366T1:02am", "2024-12-31T01:02:00+00:00");
	moment_is("2025-366", NULL);
	moment_is("2026-01-02T03:04:05.678901234Z", "2026-01-02T03:04:05.678901+00:00");
	moment_is("2026-01-02 12:00 a.m.", "2026-01-02T00:00:00+00:00");
	moment_is("2026-01-02 12pm +0530", "2026-01-02T12:00:00+05:30");
	moment_is("2026-01-02t23:59-7", "2026-01-02T23:59:00-07:00");
	moment_is("2026-01-02T24:00", "2026-01-02T00:00:00+00:00");
	moment_is("2026-01-02T03:04:05+99:00", "2026-01-02T03:04:05+00:00");
	moment_is("2026-13-01", NULL);
	moment_is("2026-00-00", NULL);
	moment_is("0000-01-01", NULL);
	moment_is("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59-14:00");
	moment_is("12:00", NULL);
	moment_is("2026", NULL);
	moment_is("", NULL);
}

static void
links(const char *html, const char *target, bool expected)
{
	Arena		arena = {0};

	ok(h_entry_links_to(&arena, html, strlen(html), HOME, target) == expected,
	   "%s %s %s", html, expected ? "links to" : "does not link to", target);
	arena_free(&arena);
}

static void
test_links(void)
{
	links("<a href='https://e.example/1'>x</a>", "https://e.example/1", true);
	links("<A HREF=https://E.example:443>x</A>", "https://e.example/", true);
	links("<a href='/2'>x</a>", "https://home.example/2", true);
	links("<img src='https://e.example/1'>", "https://e.example/1", true);
	links("<blockquote cite='https://e.example/1'>", "https://e.example/1", true);
	links("<data class=u-in-reply-to value='https://e.example/1'></data>", "https://e.example/1", true);
	links("<a href='https://e.example/1?a=1&amp;b=2'>", "https://e.example/1?a=1&b=2", true);
	links("<p>https://e.example/1</p>", "https://e.example/1", false);
	links("<!-- <a href='https://e.example/1'> -->", "https://e.example/1", false);
	links("<a href='https://e.example/10'>", "https://e.example/1", false);
	links("<a href='https://e.example/1/'>", "https://e.example/1", false);
	links("<base href='https://e.example/1'>", "https://e.example/1", false);
	links("<script><a href='https://e.example/1'></script>", "https://e.example/1", false);
}

/* ------------------------------------------------------------------------
 * Hostile pages
 * ------------------------------------------------------------------------ */

/* Over a mebibyte of it, read in every way: how long it takes, in seconds */
static double
time_of(const char *before, const char *unit, bool numbered)
{
	size_t		size = 1200000;
	char	   *page = malloc(size + 100);
	size_t		len = strlen(before);
	Arena		arena = {0};
	HEntry		entry;
	clock_t		began = clock();

	memcpy(page, before, len + 1);
	for (int n = 0; len < size; n++)
	{
		len += sprintf(page + len, "%s", unit);
		if (numbered)
			len += sprintf(page + len, "%x", n);
	}
	webmention_find(&arena, HOME, NULL, 0, page, len);
	h_entry_read(&arena, page, len, HOME, &entry);
	h_entry_links_to(&arena, page, len, HOME, "https://e.example/1");
	arena_free(&arena);
	free(page);
	return (double) (clock() - began) / CLOCKS_PER_SEC;
}

/* What is too deep, and all behind it, is not read. */
static void
test_depth(void)
{
	for (int depth = 200; depth <= 300; depth += 100)
	{
		char		page[4096] = "";
		Arena		arena = {0};
		char	   *found;

		for (int i = 0; i < depth; i++)
			strcat(page, "<div>");
		strcat(page, "<a rel=webmention href=/x>");
		found = webmention_find(&arena, HOME, NULL, 0, page, strlen(page));
		ok((found != NULL) == (depth < HTML_MAX_DEPTH), "%d elements deep: %s",
		   depth, found ? found : "not read");
		arena_free(&arena);
	}
}

static void
test_hostile(void)
{
	static const char *const units[][2] = {
		{"<div class=h-entry>", "<b>"}, {"", "</p>"}, {"", "<p>"},
		{"<div class=h-entry>", "<div class='h-feed h-entry'>"},
		{"", "<div class='h-entry p-author h-card u-url p-name e-content value'>"},
		{"", "<a href=x rel=webmentions class='u-url u-in-reply-to p-rsvp'>"},
		{"", "<i class=h-entry><a class=u-url href=x></a></i>"},
		{"<div class=h-entry>", "<a class=u-in-reply-to href=x></a>"},
		{"", "<i class=h-card><a class=u-url href=x></a></i>"},
		{"<div class='h-entry'><p class='dt-published p-rsvp'>", "<i class=value>1</i>"},
		{"", "&amp;"}, {"", "&a"}, {"", "<!--"}, {"", "<!"}, {"", "<?"}, {"", "<"},
		{"<a ", " x"}, {"<a ", " \"'"}, {"<a class='", "h-"}, {"<a class='", "h-x "},
		{"", "<script>"}, {"", "<![CDATA["}, {"", "<!DOCTYPE x [<!ENTITY a '&a;'>]>"},
		{"", "<table><tr><td>"}, {"", "<img src=x class=u-photo>"},
		{"<div class='h-entry e-content'><div class=e-content>", "<img src=x>"},
		{"", "<html><head><body><frameset>"}, {"", "\xff"}, {"", "\x01"},
		{"<base href='/", "x/"},
	};
	char		base[2100] = "<base href='https://e.example/";
	double		slowest = 0;

	memset(base + strlen(base), 'x', 1950);
	strcat(base, "/'><div class=h-entry>");
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		double		seconds = time_of(units[i][0], units[i][1], false);

		ok(seconds < 20, "a mebibyte of \"%s\" is read", units[i][1]);
		if (seconds > slowest)
			slowest = seconds;
	}
	test_depth();
	ok(time_of("<a ", " x", true) < 20, "attributes without end");
	ok(time_of("", "<x", true) < 20, "names without end");
	ok(time_of("", "><x", true) < 20, "elements of many names");
	ok(time_of(base, "<a href=x>", false) < 20, "a long base of many references");
	ok(time_of(base, "<a class='u-in-reply-to u-url' href=", true) < 20, "and of many properties");
	printf("# the slowest took %.2f s\n", slowest);
}

int
main(void)
{
	xmlInitParser();
	test_urls();
	for (size_t i = 0; i < sizeof(discoveries) / sizeof(discoveries[0]); i++)
		discovers(&discoveries[i]);
	for (size_t i = 0; i < sizeof(posts) / sizeof(posts[0]); i++)
		says(posts[i][0], posts[i][1], posts[i][2]);
	test_moments();
	test_links();
	test_hostile();
	xmlCleanupParser();
	return done_testing();
}
