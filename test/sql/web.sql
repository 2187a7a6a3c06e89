-- The open web's pages: webmention_endpoint() and parse_h_entry() as SQL sees
-- them.  What they find in which page is tested in test/unit/web_test.c.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;
\pset null (null)

SELECT rsvp_sync.webmention_endpoint('https://e.example/1', NULL,
	'<a rel="webmention" href="?m=1&amp;n=2">x</a>');
SELECT rsvp_sync.webmention_endpoint('https://e.example/1',
	ARRAY['<a>; rel=other', NULL, '</w>; rel=webmention'], '<link rel=webmention href=no>');
SELECT rsvp_sync.webmention_endpoint('https://e.example/1', '{}', NULL);
SELECT rsvp_sync.webmention_endpoint(NULL, '{"<x>; rel=webmention"}', NULL);
SELECT rsvp_sync.webmention_endpoint('no url', '{"<x>; rel=webmention"}', '<a');

\x on
SELECT * FROM rsvp_sync.parse_h_entry($$
<article class="h-entry">
  <a class="p-author h-card" href="/"><img class="u-photo" src="/é.jpg" alt=""> Zoë 🎉</a>
  <data class="p-rsvp" value="MAYBE">might</data> come to <a class="u-in-reply-to" href="https://e.example/1">one</a>
  and <a class="u-in-reply-to" href="//e.example/2">two</a>
  <time class="dt-published" datetime="2026-01-02T03:04:05.678+0900">x</time>
  <time class="dt-updated">2026-01-03</time>
  <p class="e-content">a &lt; b</p> <a class="u-url" href="/p/1">#</a>
</article>$$, 'https://home.example/p/1?x');
\x off
-- An RSVP to nothing, a mention, no post, no page
SELECT event_url, status, response, kind, undone, source_id FROM rsvp_sync.parse_h_entry(
	'<p class="h-entry"><b class="p-rsvp">Remote</b></p>', 'https://home.example/');
SELECT event_url, status, response, kind FROM rsvp_sync.parse_h_entry(
	'<p class="h-entry"><a class="u-in-reply-to" href="x">x</a></p>', NULL);
SELECT count(*) FROM rsvp_sync.parse_h_entry('<p>x</p>', 'https://home.example/');
SELECT count(*) FROM rsvp_sync.parse_h_entry(NULL, NULL);
-- Many of them in one statement, as memory is given back after each
SELECT count(*), count(DISTINCT e.event_url) FROM generate_series(1, 2000) n
CROSS JOIN LATERAL rsvp_sync.parse_h_entry(format('<i class=h-entry><a class=u-in-reply-to href=%s></a>%s', n,
	repeat('<b>x', 100)), 'https://home.example/') e;

SELECT rsvp_sync._links_to('<a href="/x">', 'https://e.example/', 'https://e.example/x'),
	rsvp_sync._links_to('https://e.example/x', 'https://e.example/', 'https://e.example/x');
-- The server's own use of libxml2 is not disturbed, nor disturbs ours
SELECT xpath('/a/b/text()', '<a><b>1</b></a>'), (SELECT status FROM rsvp_sync.parse_h_entry(
	'<i class="h-entry"><b class=p-rsvp>yes', NULL)), xml_is_well_formed('<a>');
