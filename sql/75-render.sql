/*
 * Rendering: a document of rsvp_document() as HTML, RSS, iCalendar and a
 * badge.  Pure functions: of one document they always make the same text.
 *
 * A document is read once, by _read_document(): there types are checked,
 * what is empty becomes missing, and what is no http or https URL is never a
 * link.  Behind it nothing has to be doubted but the characters of a text,
 * and these are escaped where they are put in (src/render.c).
 *
 * PL/pgSQL, although nearly all is a single expression: it keeps the plan,
 * where a function in SQL that another one calls is planned for each call.
 */

CREATE FUNCTION rsvp_sync._escape(form text, value text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_escape';
COMMENT ON FUNCTION rsvp_sync._escape(text, text) IS
'private: a text as it is written in HTML (html), XML (xml), a CDATA section (cdata), an iCalendar value (ics) or quoted parameter (ics_param), in folded content lines (ics_fold); plain: the text of HTML';

CREATE FUNCTION rsvp_sync._is_link(url text) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_link';
COMMENT ON FUNCTION rsvp_sync._is_link(text) IS
'private: is this an absolute http or https URL, which may become a link?';

/*
 * ISO 8601 in one spelling, so that what is made of it does not depend on
 * how it was written.  Without time zone is UTC.
 */
CREATE FUNCTION rsvp_sync._instant(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
BEGIN
	IF value !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?( ?(Z|[+-][0-9]{2}(:?[0-9]{2})?))?)?$'
		OR value LIKE '0000-%'
	THEN
		RETURN NULL;
	END IF;
	RETURN rtrim(rtrim(to_char(value::timestamptz,
		'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z';
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._instant(text) IS
'private: an ISO 8601 date or datetime as UTC; NULL for anything else';

CREATE FUNCTION rsvp_sync._bad_document(key text, finding text, hint text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'key "%" of the document %', key, finding
		USING ERRCODE = 'invalid_parameter_value', HINT = hint;
END
$$;
COMMENT ON FUNCTION rsvp_sync._bad_document(text, text, text) IS
'private: raises invalid_parameter_value about a key of a document';

CREATE FUNCTION rsvp_sync._read_document(document jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	hint CONSTANT text := 'Take what rsvp_sync.rsvp_document() returns; its keys are in docs/indieweb.md.';
	d jsonb := '{}';
	part record;
BEGIN
	IF jsonb_typeof(document) <> 'object' THEN
		RAISE EXCEPTION 'a document must be a JSON object, not %',
			jsonb_typeof(document)
			USING ERRCODE = 'invalid_parameter_value', HINT = hint;
	END IF;
	IF jsonb_typeof(document -> 'author') NOT IN ('object', 'null') THEN
		PERFORM rsvp_sync._bad_document('author', 'must be an object, not '
			|| jsonb_typeof(document -> 'author'), hint);
	END IF;
	IF jsonb_typeof(document -> 'tags') NOT IN ('array', 'null')
		OR jsonb_path_exists(document, 'strict $.tags[*] ? (@.type() != "string")',
			silent => true)
	THEN
		PERFORM rsvp_sync._bad_document('tags', 'must be an array of strings', hint);
	END IF;

	FOR part IN
		SELECT k.key, k.name, k.kind, document #> string_to_array(k.key, '.') AS value
		FROM (VALUES
			('event_url', 'event_url', 'link'), ('event_name', 'event_name', 'text'),
			('event_date', 'event_date', 'time'), ('event_location', 'event_location', 'text'),
			('status', 'status', 'status'), ('published', 'published', 'time'),
			('updated', 'updated', 'time'), ('content', 'content', 'text'),
			('permalink', 'permalink', 'link'), ('author.name', 'author_name', 'text'),
			('author.url', 'author_url', 'link'), ('author.photo', 'author_photo', 'link'),
			('actor', 'actor', 'link'), ('organizer', 'organizer', 'link'),
			('followers', 'followers', 'link')) AS k (key, name, kind)
	LOOP
		CONTINUE WHEN part.value IS NULL OR part.value IN ('null', '""');
		IF jsonb_typeof(part.value) <> 'string' THEN
			PERFORM rsvp_sync._bad_document(part.key, 'must be a string, not '
				|| jsonb_typeof(part.value), hint);
		ELSIF part.kind = 'status' AND lower(part.value #>> '{}') NOT IN
			('yes', 'no', 'maybe', 'interested')
		THEN
			PERFORM rsvp_sync._bad_document(part.key, 'is ' || part.value::text,
				'A status is yes, no, maybe or interested, or null.');
		ELSIF part.kind = 'time' AND rsvp_sync._instant(part.value #>> '{}') IS NULL THEN
			PERFORM rsvp_sync._bad_document(part.key, 'is ' || part.value::text,
				'Dates are ISO 8601, as in 2026-02-01T18:00:00Z.');
		END IF;
		d := d || CASE part.kind
			WHEN 'status' THEN jsonb_build_object('status', lower(part.value #>> '{}'))
			WHEN 'time' THEN jsonb_build_object(part.name, part.value,
				part.name || '_at', rsvp_sync._instant(part.value #>> '{}'))
			WHEN 'link' THEN CASE WHEN rsvp_sync._is_link(part.value #>> '{}')
				THEN jsonb_build_object(part.name, part.value) ELSE '{}' END
			ELSE jsonb_build_object(part.name, part.value) END;
	END LOOP;
	RETURN d || jsonb_build_object('tags',
		coalesce(nullif(document -> 'tags', 'null'), '[]'));
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_document(jsonb) IS
'private: the parts of a document, checked, flat; what is missing or no link is left out; NAME_at: a time in UTC. Errors: invalid_parameter_value';

/*
 * The badge
 */

CREATE FUNCTION rsvp_sync.rsvp_badge(document jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	/* A database in another encoding cannot hold the symbols. */
	RETURN coalesce((
		SELECT CASE WHEN getdatabaseencoding() = 'UTF8'
			THEN convert_from(b.symbol, 'UTF8') || ' ' ELSE '' END || b.words
		FROM (VALUES ('yes', '\xe29c85'::bytea, 'Attending'),
			('no', '\xe29d8c', 'Not Attending'),
			('maybe', '\xe29d93', 'Maybe Attending'),
			('interested', '\xe2ad90', 'Interested')) AS b (status, symbol, words)
		WHERE b.status = rsvp_sync._read_document(document) ->> 'status'),
		'RSVP');
END
$$;
COMMENT ON FUNCTION rsvp_sync.rsvp_badge(jsonb) IS
'A document''s status as a symbol and words, plain text; RSVP where it has none. In a database that is not UTF8 words only. Errors: invalid_parameter_value (what is no document).';

/*
 * HTML
 */

/* <name class="..." attribute="value" ...>text</name>, NULL without value. */
CREATE FUNCTION rsvp_sync._html_part(name text, class text, attribute text,
	value text, body text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT format('<%s class="%s"', name, class)
		|| CASE WHEN attribute IS NULL THEN ''
			ELSE format(' %s="%s"', attribute, rsvp_sync._escape('html', value)) END
		|| CASE WHEN attribute IN ('datetime', 'value') THEN '' ELSE ' dir="auto"' END
		|| format('>%s</%s>', rsvp_sync._escape('html', body), name)
	WHERE value IS NOT NULL AND body IS NOT NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._html_part(text, text, text, text, text) IS
'private: an HTML element of a class, with an attribute and text, both escaped; NULL without them';

CREATE FUNCTION rsvp_sync._html_author(d jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT format('<span class="p-author h-card">%s</span>', concat(
		'<img class="u-photo" src="' || rsvp_sync._escape('html', d ->> 'author_photo')
			|| '" alt="">',
		CASE WHEN d ? 'author_url'
			THEN rsvp_sync._html_part('a', CASE WHEN d ? 'author_name'
				THEN 'p-name u-url' ELSE 'u-url' END, 'href', d ->> 'author_url',
				coalesce(d ->> 'author_name', d ->> 'author_url'))
			ELSE rsvp_sync._html_part('span', 'p-name', NULL, d ->> 'author_name',
				d ->> 'author_name') END))
	WHERE d ?| '{author_name,author_url,author_photo}');
END
$$;
COMMENT ON FUNCTION rsvp_sync._html_author(jsonb) IS
'private: the h-card of a document''s author, or NULL';

CREATE FUNCTION rsvp_sync.rsvp_html(document jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT concat_ws(E'\n', '<article class="h-entry response response-rsvp">',
		format('<p class="response-to">%s</p>', concat_ws(' ',
			rsvp_sync._html_author(d),
			rsvp_sync._html_part('data', 'p-rsvp', 'value', d ->> 'status',
				rsvp_sync.rsvp_badge(document)),
			CASE WHEN d ? 'event_url'
				THEN rsvp_sync._html_part('a', 'u-in-reply-to', 'href', d ->> 'event_url',
					coalesce(d ->> 'event_name', d ->> 'event_url'))
				ELSE rsvp_sync._html_part('span', 'event-name', NULL, d ->> 'event_name',
					d ->> 'event_name') END)),
		'<p class="event">' || nullif(concat_ws(' ',
			rsvp_sync._html_part('time', 'event-date', 'datetime', d ->> 'event_date',
				d ->> 'event_date'),
			rsvp_sync._html_part('span', 'event-location', NULL, d ->> 'event_location',
				d ->> 'event_location')), '') || '</p>',
		rsvp_sync._html_part('div', 'e-content', NULL, d ->> 'content', d ->> 'content'),
		'<footer>' || nullif(concat_ws(' ',
			coalesce('<a class="u-url" href="' || rsvp_sync._escape('html', d ->> 'permalink')
					|| '">' || coalesce(p.published, rsvp_sync._escape('html',
						d ->> 'permalink')) || '</a>',
				p.published),
			rsvp_sync._html_part('time', 'dt-updated', 'datetime', d ->> 'updated',
				d ->> 'updated'),
			(SELECT string_agg(rsvp_sync._html_part('span', 'p-category', NULL, t.tag,
				t.tag), ' ' ORDER BY t.place)
			FROM jsonb_array_elements_text(d -> 'tags') WITH ORDINALITY AS t (tag, place)
			WHERE t.tag <> '')), '') || '</footer>',
		'</article>')
	FROM (SELECT rsvp_sync._read_document(document)) AS r (d)
	CROSS JOIN LATERAL rsvp_sync._html_part('time', 'dt-published', 'datetime',
		d ->> 'published', d ->> 'published') AS p (published));
END
$$;
COMMENT ON FUNCTION rsvp_sync.rsvp_html(jsonb) IS
'A document as an h-entry of microformats2: p-rsvp, u-in-reply-to, p-author h-card, e-content, dt-published, dt-updated, u-url, p-category. A fragment, everything escaped; content is plain text. Missing parts are left out, and URLs that are not http or https. Errors: invalid_parameter_value (what is no document).';

/*
 * RSS
 */

CREATE FUNCTION rsvp_sync._rfc822(instant text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET lc_time = 'C'
AS $$
BEGIN
	RETURN (SELECT to_char(instant::timestamptz, 'Dy, DD Mon YYYY HH24:MI:SS "+0000"'));
END
$$;
COMMENT ON FUNCTION rsvp_sync._rfc822(text) IS
'private: an instant as RFC 822 writes it, with four digits of the year';

CREATE FUNCTION rsvp_sync.rsvp_rss_item(document jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT concat_ws(E'\n', '<item>',
		format('<title>%s</title>', rsvp_sync._escape('xml', concat_ws(': ',
			rsvp_sync.rsvp_badge(document),
			coalesce(d ->> 'event_name', d ->> 'event_url')))),
		'<link>' || rsvp_sync._escape('xml', d ->> 'permalink') || '</link>',
		CASE WHEN d ? 'permalink'
			THEN format('<guid isPermaLink="true">%s</guid>',
				rsvp_sync._escape('xml', d ->> 'permalink'))
			ELSE format('<guid isPermaLink="false">%s</guid>', rsvp_sync._rsvp_uid(d)) END,
		'<pubDate>' || rsvp_sync._rfc822(coalesce(d ->> 'published_at',
			d ->> 'updated_at')) || '</pubDate>',
		(SELECT string_agg(format('<category>%s</category>',
			rsvp_sync._escape('xml', t.tag)), E'\n' ORDER BY t.place)
		FROM jsonb_array_elements_text(d -> 'tags') WITH ORDINALITY AS t (tag, place)
		WHERE t.tag <> ''),
		format('<description><![CDATA[%s]]></description>',
			rsvp_sync._escape('cdata', rsvp_sync.rsvp_html(document))),
		'</item>')
	FROM (SELECT rsvp_sync._read_document(document)) AS r (d));
END
$$;
COMMENT ON FUNCTION rsvp_sync.rsvp_rss_item(jsonb) IS
'A document as an item of RSS 2.0: title (badge and event), link and guid (permalink), pubDate (RFC 822, UTC), category, description (rsvp_html() in CDATA). Characters that XML does not know are left out. Errors: invalid_parameter_value (what is no document).';

/* The same for every rendering, whatever the status is at the time. */
CREATE FUNCTION rsvp_sync._rsvp_uid(d jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT 'rsvp-' || left(encode(sha256(convert_to(jsonb_build_array(
		coalesce(d ->> 'author_url', d ->> 'actor', d ->> 'permalink', d ->> 'author_name'),
		coalesce(d ->> 'event_url', d ->> 'event_name'),
		CASE WHEN d ? 'event_url' THEN NULL ELSE d ->> 'event_date_at' END)::text,
		'UTF8')), 'hex'), 32));
END
$$;
COMMENT ON FUNCTION rsvp_sync._rsvp_uid(jsonb) IS
'private: an identifier made of who answers and to what';

/*
 * iCalendar
 */

CREATE FUNCTION rsvp_sync._ics_instant(instant text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT regexp_replace(translate(instant, '-:Z', ''), '[.].*', '') || 'Z');
END
$$;
COMMENT ON FUNCTION rsvp_sync._ics_instant(text) IS
'private: an instant as RFC 5545 writes it';

CREATE FUNCTION rsvp_sync.rsvp_ics(document jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT rsvp_sync._escape('ics_fold', concat_ws(E'\n',
		'BEGIN:VCALENDAR', 'VERSION:2.0', 'PRODID:-//rsvp_sync//rsvp_ics//EN',
		'BEGIN:VEVENT',
		'UID:' || rsvp_sync._rsvp_uid(d) || coalesce('@' || substring(
			coalesce(d ->> 'author_url', d ->> 'permalink', d ->> 'event_url')
			FROM '//([[:alnum:].-]+)'), ''),
		'DTSTAMP:' || rsvp_sync._ics_instant(coalesce(d ->> 'updated_at',
			d ->> 'published_at', d ->> 'event_date_at')),
		CASE WHEN length(d ->> 'event_date') = 10
			THEN 'DTSTART;VALUE=DATE:' || translate(d ->> 'event_date', '-', '')
			ELSE 'DTSTART:' || rsvp_sync._ics_instant(d ->> 'event_date_at') END,
		'SUMMARY:' || rsvp_sync._escape('ics', coalesce(d ->> 'event_name',
			d ->> 'event_url')),
		'LOCATION:' || rsvp_sync._escape('ics', d ->> 'event_location'),
		'DESCRIPTION:' || rsvp_sync._escape('ics', d ->> 'content'),
		'URL:' || (d ->> 'event_url'),
		'CREATED:' || rsvp_sync._ics_instant(d ->> 'published_at'),
		'LAST-MODIFIED:' || rsvp_sync._ics_instant(d ->> 'updated_at'),
		'CATEGORIES:' || (SELECT string_agg(rsvp_sync._escape('ics', t.tag), ','
				ORDER BY t.place)
			FROM jsonb_array_elements_text(d -> 'tags') WITH ORDINALITY AS t (tag, place)
			WHERE t.tag <> ''),
		'ORGANIZER:' || (d ->> 'organizer'),
		concat('ATTENDEE',
			';CN="' || rsvp_sync._escape('ics_param', d ->> 'author_name') || '"',
			';PARTSTAT=' || coalesce(rsvp_sync.rsvp_status_map(d ->> 'status', 'indieweb',
				'partstat'), 'NEEDS-ACTION'),
			':', coalesce(d ->> 'author_url', d ->> 'permalink', 'invalid:nobody')),
		CASE WHEN d ->> 'status' = 'yes' THEN 'TRANSP:OPAQUE' ELSE 'TRANSP:TRANSPARENT' END,
		'END:VEVENT', 'END:VCALENDAR', ''))
	FROM (SELECT rsvp_sync._read_document(document)) AS r (d)
	WHERE d ? 'event_date');
END
$$;
COMMENT ON FUNCTION rsvp_sync.rsvp_ics(jsonb) IS
'A document as an iCalendar object with one VEVENT (RFC 5545): UID, DTSTAMP, DTSTART (a date where event_date is one), SUMMARY, LOCATION, DESCRIPTION, URL, ATTENDEE;PARTSTAT; folded, lines end in CRLF. NULL without event_date, for there is no VEVENT without DTSTART. Errors: invalid_parameter_value (what is no document).';
