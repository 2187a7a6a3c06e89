/*
 * The open web's pages, read: where a page takes webmentions, and what the
 * post on it says.  Pure, and open to everybody.
 */

CREATE FUNCTION rsvp_sync.webmention_endpoint(url text, link_headers text[],
	body text)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_webmention_endpoint';
COMMENT ON FUNCTION rsvp_sync.webmention_endpoint(text, text[], text) IS
'Where a page takes webmentions: the first Link header with rel webmention, else the first <link> or <a> in the page, made absolute. url: the page''s address after redirects; link_headers: the values of its Link headers, in order; body: its HTML, NULL if it is none; no more than its first MiB is read. NULL: nowhere. Never an error. Source: W3C Webmention 3.1.2.';

CREATE FUNCTION rsvp_sync.parse_h_entry(html text, base_url text)
RETURNS TABLE (
	source_type text, source_id text, event_url text,
	author_url text, author_name text, author_photo text,
	status text, response text,
	published timestamptz, updated timestamptz,
	content text, kind text, undone boolean)
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'rsvp_sync_parse_h_entry';
COMMENT ON FUNCTION rsvp_sync.parse_h_entry(text, text) IS
'The post that a page is about, a row for each event it replies to (one with event_url NULL where it names none; no row where there is no h-entry). base_url: the page''s address. source_type: web; source_id: the post''s u-url, else base_url; status: going, interested, notgoing, or NULL for a word that is none of p-rsvp''s; response: that word in small letters; kind: rsvp, or mention where there is no p-rsvp; undone: always false. No more than the first MiB is read. Never an error. Source: microformats2 parsing, h-entry.';

CREATE FUNCTION rsvp_sync._links_to(html text, base_url text, target text)
RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_links_to';
COMMENT ON FUNCTION rsvp_sync._links_to(text, text, text) IS
'private: does a page of HTML, answered from base_url, link to target?';

CREATE FUNCTION rsvp_sync._same_page(a text, b text) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_same_page';
COMMENT ON FUNCTION rsvp_sync._same_page(text, text) IS
'private: do two addresses say the same, but for spelling?';
