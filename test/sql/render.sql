-- A document as HTML, a badge, RSS, iCalendar and an activity: what becomes of
-- each part, of parts that are missing, of wrong types and of hostile text.
-- That other programs read it, is in test/t/720_indieweb.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET client_encoding = 'UTF8';
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on

CREATE TEMP TABLE sample AS SELECT '{
	"event_url": "https://events.example.com/1?a=1&b=2", "event_name": "Party \"<b>\" & more",
	"event_date": "2026-02-15T18:00:00-05:00", "event_location": "Here, there; \\ ''x''",
	"status": "yes", "author": {"name": "Alice", "url": "https://alice.example/", "photo": "https://alice.example/a.jpg"},
	"published": "2026-02-01T10:00:00Z", "updated": "2026-02-02T10:00:00.5+01:00",
	"content": "First </script> line\r\nsecond ]]> line\u0001.", "permalink": "https://alice.example/rsvp/1",
	"tags": ["a", "b,c", ""]}'::jsonb AS doc;

SELECT rsvp_sync.rsvp_html(doc) FROM sample;
SELECT rsvp_sync.rsvp_rss_item(doc) FROM sample;
SELECT replace(rsvp_sync.rsvp_ics(doc), E'\r', '$') FROM sample;
SELECT jsonb_pretty(rsvp_sync.rsvp_activity(doc)) FROM sample;

-- Nothing but a document is needed
SELECT f.name, f.made FROM (VALUES
	('html', rsvp_sync.rsvp_html('{}')), ('badge', rsvp_sync.rsvp_badge('{}')),
	('rss', rsvp_sync.rsvp_rss_item('{}')), ('ics', rsvp_sync.rsvp_ics('{}')),
	('activity', rsvp_sync.rsvp_activity('{}')::text)) AS f (name, made);
-- Missing, null and empty are the same; what is not known is not looked at
SELECT count(DISTINCT rsvp_sync.rsvp_html(d) || rsvp_sync.rsvp_rss_item(d))
FROM (VALUES ('{}'::jsonb), ('{"status": null, "author": null, "tags": null, "content": ""}'),
	('{"author": {"name": null, "url": ""}, "tags": [], "other": [1]}')) AS v (d);
-- A part left out takes nothing else with it
SELECT k.key, rsvp_sync.rsvp_html(doc - k.key) IS NOT NULL AS html,
	rsvp_sync.rsvp_rss_item(doc - k.key) IS NOT NULL AS rss, rsvp_sync.rsvp_ics(doc - k.key) IS NOT NULL AS ics,
	rsvp_sync.rsvp_activity(doc - k.key) ->> 'type' AS activity
FROM sample CROSS JOIN LATERAL jsonb_object_keys(doc) AS k (key) ORDER BY 1;
SELECT rsvp_sync.rsvp_html(NULL), rsvp_sync.rsvp_badge(NULL), rsvp_sync.rsvp_rss_item(NULL),
	rsvp_sync.rsvp_ics(NULL), rsvp_sync.rsvp_activity(NULL);

-- The four statuses, in any case, in each form
SELECT s.status, rsvp_sync.rsvp_badge(d), substring(rsvp_sync.rsvp_html(d) FROM '<data.*</data>') AS html,
	substring(rsvp_sync.rsvp_rss_item(d) FROM '<title>.*</title>') AS rss,
	substring(rsvp_sync.rsvp_ics(d) FROM 'PARTSTAT=[^:]*') AS ics, substring(rsvp_sync.rsvp_ics(d) FROM 'TRANSP:\w+') AS transp,
	rsvp_sync.rsvp_activity(d) ->> 'type' AS accept, rsvp_sync.rsvp_activity(d, dialect => 'join') ->> 'type' AS "join"
FROM sample CROSS JOIN unnest('{yes,No,MAYBE,Interested}'::text[]) AS s (status)
CROSS JOIN LATERAL (SELECT doc || jsonb_build_object('status', s.status)) AS d (d);

-- Only http and https become links
SELECT u.url, rsvp_sync._is_link(u.url) AS link,
	rsvp_sync.rsvp_html(jsonb_build_object('event_url', u.url, 'permalink', u.url, 'author',
		jsonb_build_object('url', u.url, 'photo', u.url))) ~ '(href|src)=' AS in_html
FROM unnest(ARRAY['https://a.example', 'HTTP://a.example:80/x?y#z', 'http://u@a.example/', 'https://b' || U&'\00FC' || 'cher.example/',
	'javascript:alert(1)', 'JavaScript://a.example/%0aalert(1)', 'data:text/html,x', ' https://a.example', 'https:a.example', '//a.example',
	'https://', 'https:///x', 'https://?x', 'https://:80/', 'https://u@/', 'https://a.example/a b', E'https://a.example/\n', 'https://a.example/"x',
	'https://a.example/<', 'https:/\a.example', 'at://did:plc:x/y/z', 'mailto:a@b.example']) AS u (url);

-- Lines of iCalendar: 75 octets, characters in one piece
SELECT max(octet_length(l.line)) AS longest, count(*) FILTER (WHERE l.line LIKE ' %') > 5 AS folded,
	bool_and(right(l.line, 1) <> E'\n') AS clean
FROM sample CROSS JOIN LATERAL regexp_split_to_table(rsvp_sync.rsvp_ics(doc || jsonb_build_object('content',
	repeat(U&'x\+01F389\00E9', 90))), E'\r\n') AS l (line);
SELECT rsvp_sync.rsvp_ics('{"event_date": "2026-02-15", "author": {"name": "A ^ \"B\"\nC: ;"}}') ~ E'DTSTART;VALUE=DATE:20260215\r\n' AS date,
	substring(rsvp_sync.rsvp_ics('{"event_date": "2026-02-15", "author": {"name": "A ^ \"B\"\nC: ;"}}') FROM 'ATTENDEE.*?\r') AS attendee;
-- Its UID is the same whatever the answer
SELECT count(DISTINCT substring(rsvp_sync.rsvp_ics(d) FROM 'UID:[^\r]*')) FROM sample
CROSS JOIN LATERAL (VALUES (doc), (doc || '{"status": "no", "updated": "2026-03-01T00:00:00Z", "event_name": "Other", "content": "x"}')) AS v (d);

-- Dates: one moment however it is written; no settings of the session
SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET lc_time = 'C';
SELECT p.published, substring(rsvp_sync.rsvp_rss_item(d) FROM '<pubDate>(.*)</pubDate>') AS rss, rsvp_sync.rsvp_activity(d) ->> 'published' AS activity,
	right(rsvp_sync.rsvp_activity(d) ->> 'id', 6) AS id
FROM unnest('{2026-02-01T10:00:00Z,2026-02-01T05:00:00-05:00,2026-02-01 05:00 -05:00,2026-02-01T10:00:00.000+00:00,2026-02-01T10:00Z,2026-02-01 10:00,2026-02-01,2024-02-29T23:59:60Z}'::text[]) AS p (published)
CROSS JOIN sample CROSS JOIN LATERAL (SELECT doc - 'updated' || jsonb_build_object('published', p.published)) AS d (d);
RESET TimeZone; RESET DateStyle; RESET lc_time;

-- Wrong types are errors
CREATE PROCEDURE pg_temp.try(document jsonb) LANGUAGE plpgsql AS $$
DECLARE
	f text;
	said text := '';
	message text;
	hint text;
BEGIN
	FOREACH f IN ARRAY '{rsvp_html,rsvp_badge,rsvp_rss_item,rsvp_ics,rsvp_activity}'::text[] LOOP
		BEGIN
			EXECUTE format('SELECT rsvp_sync.%I($1)', f) USING document;
			RAISE NOTICE '%: no error', f;
		EXCEPTION WHEN invalid_parameter_value THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
			IF message <> said THEN
				RAISE NOTICE '% | %', message, hint;
				said := message;
			END IF;
		END;
	END LOOP;
END
$$;
CALL pg_temp.try('[]');
CALL pg_temp.try('"x"');
CALL pg_temp.try('null');
CALL pg_temp.try('{"author": "Alice"}');
CALL pg_temp.try('{"author": {"name": ["Alice"]}}');
CALL pg_temp.try('{"event_url": 1}');
CALL pg_temp.try('{"content": {"html": "x"}}');
CALL pg_temp.try('{"tags": "a"}');
CALL pg_temp.try('{"tags": ["a", 1]}');
CALL pg_temp.try('{"status": true}');
CALL pg_temp.try('{"status": "going"}');
CALL pg_temp.try('{"published": "yesterday"}');
CALL pg_temp.try('{"updated": "2026-02-30"}');
CALL pg_temp.try('{"event_date": "now"}');
CALL pg_temp.try('{"event_date": "0000-01-01"}');
