-- Activities: ids, what goes before and after, the dialects; what others send;
-- round trips through every vocabulary; the form.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.doc(status text, day text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('status', status, 'event_url', 'https://events.example.com/1', 'author', jsonb_build_object('url', 'https://alice.example/#me'),
		'published', '2026-02-01T00:00:00Z', 'updated', '2026-02-' || day || 'T00:00:00Z') || more
$$;

-- An id for each answer since each moment, and the same however it is rendered
SELECT count(DISTINCT rsvp_sync.rsvp_activity(d) ->> 'id') AS yes_no_yes
FROM (VALUES (pg_temp.doc('yes', '02')), (pg_temp.doc('no', '03')), (pg_temp.doc('yes', '04')), (pg_temp.doc('maybe', '04')), (pg_temp.doc('interested', '04'))) AS v (d);
SELECT count(DISTINCT rsvp_sync.rsvp_activity(d) ->> 'id') AS one
FROM (VALUES (pg_temp.doc('yes', '02')), (pg_temp.doc('YES', '02', '{"content": "x", "permalink": "https://alice.example/2", "event_name": "n"}')),
	(pg_temp.doc('yes', '02', '{"updated": "2026-02-02T05:00:00+05:00"}')), (pg_temp.doc('yes', '02', '{"organizer": "https://events.example.com/o"}'))) AS v (d);
SELECT rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02')) ->> 'id';
-- Whom it goes to; whose it is
SELECT a -> 'actor', a -> 'to', a -> 'cc', a -> 'object', a -> 'inReplyTo'
FROM (VALUES ('accept'), ('join')) AS v (dialect)
CROSS JOIN LATERAL rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02', '{"actor": "https://alice.example/actor", "organizer": "https://events.example.com/o", "followers": "https://alice.example/f"}'),
	dialect => v.dialect) a;
-- Nothing without actor, event or status
SELECT rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02') - 'author'), rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02') - 'event_url'), rsvp_sync.rsvp_activity(pg_temp.doc(NULL, '02')),
	rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02', '{"author": {"url": "javascript:alert(1)"}}'));

-- What was said before is taken back first
CREATE FUNCTION pg_temp.brief(activities jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(concat(a ->> 'type', '(' || (a #>> '{object,type}') || ')'), ', ' ORDER BY n), '-')
	FROM jsonb_array_elements(activities) WITH ORDINALITY AS x (a, n)
$$;
SELECT d.dialect, f.status AS before, t.status AS now, pg_temp.brief(rsvp_sync.rsvp_activity(
	CASE WHEN t.status <> 'gone' THEN pg_temp.doc(nullif(t.status, 'none'), '04') END, pg_temp.doc(nullif(f.status, 'none'), '03'), d.dialect))
FROM unnest('{accept,join}'::text[]) AS d (dialect), unnest('{yes,maybe,no,none}'::text[]) AS f (status), unnest('{yes,interested,no,none,gone}'::text[]) AS t (status)
ORDER BY 1, 2, 3;
-- The same answer again is no other; a document or its activity are taken; recipients stay
SELECT pg_temp.brief(rsvp_sync.rsvp_activity(d, d)), pg_temp.brief(rsvp_sync.rsvp_activity(d, rsvp_sync.rsvp_activity(d)))
FROM pg_temp.doc('yes', '02') d;
SELECT rsvp_sync.rsvp_activity(n, b) = rsvp_sync.rsvp_activity(n, rsvp_sync.rsvp_activity(b)) AS by_activity,
	rsvp_sync.rsvp_activity(n, b) = rsvp_sync.rsvp_activity(n, rsvp_sync.rsvp_activity(b, pg_temp.doc('maybe', '01'))) AS by_what_was_sent,
	u -> 'object' || '{"@context": "https://www.w3.org/ns/activitystreams"}' = rsvp_sync.rsvp_activity(b) AS whole, u -> 'to', u ->> 'id' <> rsvp_sync.rsvp_activity(n) ->> 'id' AS other_id
FROM pg_temp.doc('no', '03') n, pg_temp.doc('yes', '02', '{"organizer": "https://events.example.com/o"}') b
CROSS JOIN LATERAL (SELECT rsvp_sync.rsvp_activity(n, b) -> 0) AS x (u);
SELECT pg_temp.brief(rsvp_sync.rsvp_activity(pg_temp.doc('yes', '05'), rsvp_sync.rsvp_activity(NULL, pg_temp.doc('yes', '02')))) AS after_an_undo;
SELECT rsvp_sync.rsvp_activity('{}', '{"type": "Accept"}');
SELECT rsvp_sync.rsvp_activity('{}', '"x"');
SELECT rsvp_sync.rsvp_activity('{}', dialect => 'rsvp');
SELECT rsvp_sync.rsvp_activity('{}', dialect => NULL);

-- parse(render(x)) = x
SELECT dialect, s.status, p.response, p.status, p.event_url = d ->> 'event_url' AND p.author_url = d #>> '{author,url}' AND p.published = (d ->> 'published')::timestamptz
	AND p.updated = (d ->> 'updated')::timestamptz AND p.content = d ->> 'content' AND p.source_id = a ->> 'id' AS same, p.kind, p.undone
FROM unnest('{accept,join}'::text[]) AS v (dialect), unnest('{yes,no,maybe,interested}'::text[]) WITH ORDINALITY AS s (status, n)
CROSS JOIN LATERAL pg_temp.doc(s.status, '02', '{"content": "a <b> & \"c\"\n  d"}') d
CROSS JOIN LATERAL rsvp_sync.rsvp_activity(d, dialect => v.dialect) a
CROSS JOIN LATERAL rsvp_sync.parse_activity(a) p
ORDER BY dialect, n;
SELECT m.vocabulary, m.word, rsvp_sync.rsvp_status_map(m.indieweb, 'indieweb', m.vocabulary) AS rendered, p.status AS parsed, rsvp_sync.rsvp_status_map(p.status, 'atproto', m.vocabulary) AS back
FROM (SELECT v.vocabulary, to_jsonb(t) ->> v.vocabulary AS word, t.indieweb, t.lossy, t.atproto FROM rsvp_sync.rsvp_status_map() t,
	unnest('{openmeet,atproto,indieweb,activitypub,partstat,schemaorg,as1}'::text[]) AS v (vocabulary) WHERE t.indieweb IS NOT NULL) m
CROSS JOIN LATERAL rsvp_sync.parse_activity(rsvp_sync.rsvp_activity(pg_temp.doc(m.indieweb, '02'))) p
WHERE rsvp_sync.rsvp_status_map(m.indieweb, 'indieweb', m.vocabulary) IS DISTINCT FROM m.word
	OR 'community.lexicon.calendar.rsvp#' || p.status IS DISTINCT FROM m.atproto;
-- What each rendering says, as an IndieWeb word again: the same, unless the map calls it lossy
SELECT m.indieweb, r.vocabulary, rsvp_sync.rsvp_status_map(r.word, r.vocabulary, 'indieweb') AS back, r.vocabulary = ANY (m.lossy) AS lossy
FROM rsvp_sync.rsvp_status_map() m
CROSS JOIN LATERAL pg_temp.doc(m.indieweb, '02', '{"event_date": "2030-01-01"}') d
CROSS JOIN LATERAL (VALUES ('indieweb', substring(rsvp_sync.rsvp_html(d) FROM 'p-rsvp" value="(\w+)"')),
	('partstat', substring(rsvp_sync.rsvp_ics(d) FROM 'PARTSTAT=([A-Z-]+)')), ('activitypub', rsvp_sync.rsvp_activity(d) ->> 'type')) AS r (vocabulary, word)
WHERE m.indieweb IS NOT NULL
ORDER BY 1, 2;
SELECT kind, undone, response, status, source_id = rsvp_sync.rsvp_activity(pg_temp.doc('yes', '02')) ->> 'id' AS of_the_rsvp, event_url
FROM rsvp_sync.parse_activity(rsvp_sync.rsvp_activity(NULL, pg_temp.doc('yes', '02')) -> 0);

-- What others send
CREATE FUNCTION pg_temp.read(activity jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(concat_ws(' | ', kind || CASE WHEN undone THEN '!' ELSE '' END, response, coalesce(status, '-'), coalesce(event_url, '-'), coalesce(author_url, '-'),
		coalesce(source_id, '-'), author_name, author_photo, published, updated, content), E'\n    '), 'no rsvp') FROM rsvp_sync.parse_activity(activity)
$$;
SELECT c.about || ': ' || pg_temp.read(c.activity::jsonb) FROM (VALUES
	('embedded event', '{"type": "Accept", "id": "https://b.example/1", "actor": "https://b.example/", "object": {"type": "Event", "id": "https://e.example/1"}}'),
	('event by url', '{"type": "Accept", "id": "https://b.example/1", "actor": "https://b.example/", "object": "https://e.example/1"}'),
	('reference site', '{"@context": "https://www.w3.org/ns/activitystreams", "id": "https://l.example/activities/1", "type": "TentativeAccept", "actor": "https://l.example/actor", "published": "2026-01-31T23:43:00-05:00", "to": ["https://www.w3.org/ns/activitystreams#Public"], "object": "https://e.example/1", "inReplyTo": "https://e.example/1"}'),
	('reject', '{"type": "Reject", "actor": "https://b.example/", "object": {"type": ["Event", "schema:Event"], "id": "https://e.example/1"}}'),
	('join', '{"type": "Join", "id": "https://m.example/join/1", "actor": "https://m.example/@b", "object": "https://e.example/1", "participationMessage": "<p>I''ll <b>come</b></p>"}'),
	('leave', '{"type": "Leave", "id": "https://m.example/leave/1", "actor": "https://m.example/@b", "object": {"id": "https://e.example/1"}}'),
	('as: type', '{"@type": "as:TentativeAccept", "@id": "https://b.example/1", "as:actor": {"@id": "https://b.example/"}, "as:object": {"@id": "https://e.example/1", "@type": "as:Event"}}'),
	('expanded', '{"@type": ["https://www.w3.org/ns/activitystreams#Accept"], "https://www.w3.org/ns/activitystreams#actor": [{"@id": "https://b.example/"}], "https://www.w3.org/ns/activitystreams#object": [{"@id": "https://e.example/1"}]}'),
	('expanded document', '[{"@type": ["https://www.w3.org/ns/activitystreams#Reject"], "@id": "https://b.example/1", "https://www.w3.org/ns/activitystreams#actor": [{"@id": "https://b.example/"}], "https://www.w3.org/ns/activitystreams#object": [{"@id": "https://e.example/1", "@type": ["https://www.w3.org/ns/activitystreams#Event"]}], "https://www.w3.org/ns/activitystreams#published": [{"@type": "http://www.w3.org/2001/XMLSchema#dateTime", "@value": "2026-02-01T00:00:00Z"}], "https://www.w3.org/ns/activitystreams#content": [{"@value": "No <b>time</b>"}]}]'),
	('two documents', '[{"type": "Accept", "actor": "https://b.example/", "object": "https://e.example/1"}, {"type": "Reject", "actor": "https://b.example/", "object": "https://e.example/2"}]'),
	('link to an event', '{"type": "Accept", "actor": "https://b.example/", "object": {"type": "Link", "href": "https://e.example/1"}}'),
	('several events', '{"type": "Accept", "actor": "https://b.example/", "object": [{"type": "Event", "id": "https://e.example/1"}, "https://e.example/2", {"type": "Follow", "id": "https://e.example/3"}]}'),
	('actor embedded', '{"type": "Accept", "actor": {"type": "Person", "id": "https://b.example/", "name": "Bob", "icon": {"type": "Image", "url": "https://b.example/b.jpg"}}, "object": "https://e.example/1", "content": "See <em>you</em> &amp; all<br>there"}'),
	('of an invitation', '{"type": "Accept", "actor": {"type": "Person", "name": "Sally", "preferredUsername": "s"}, "object": {"type": "Invite", "actor": "http://john.example.org", "object": {"type": "Event", "name": "A Party!"}}}'),
	('only inReplyTo', '{"type": "Reject", "actor": "https://b.example/", "inReplyTo": "https://e.example/1"}'),
	('invite', '{"type": "Invite", "id": "https://o.example/i", "actor": "https://o.example/", "object": {"type": "Event", "id": "https://e.example/1"}, "target": ["https://b.example/"]}'),
	('undo', '{"type": "Undo", "id": "https://b.example/u", "actor": "https://b.example/", "object": {"type": "Accept", "id": "https://b.example/1", "actor": "https://b.example/", "object": "https://e.example/1"}}'),
	('undo by id', '{"type": "Undo", "id": "https://b.example/u", "actor": "https://b.example/", "object": "https://b.example/1"}'),
	('undo of another''s', '{"type": "Undo", "id": "https://b.example/u", "actor": "https://b.example/", "object": {"type": "Accept", "id": "https://a.example/1", "actor": "https://a.example/", "object": "https://e.example/1"}}'),
	('undo of a follow', '{"type": "Undo", "actor": "https://b.example/", "object": {"type": "Follow", "id": "https://b.example/1"}}'),
	('undo of nothing', '{"type": "Undo", "actor": "https://b.example/"}'),
	('accept of a follow', '{"type": "Accept", "id": "https://b.example/1", "actor": "https://b.example/", "object": {"type": "Follow", "actor": "https://a.example/", "object": "https://b.example/"}}'),
	('accept of a join', '{"type": "Accept", "actor": "https://o.example/", "object": {"type": "Join", "actor": "https://a.example/", "object": "https://e.example/1"}}'),
	('ignore', '{"type": "Ignore", "actor": "https://b.example/", "object": "https://e.example/1"}'),
	('tentative reject', '{"type": "TentativeReject", "actor": "https://b.example/", "object": {"type": "Invite", "object": {"type": "Event", "name": "A Party!"}}}'),
	('like', '{"type": "Like", "actor": "https://b.example/", "object": {"type": "Event", "id": "https://e.example/1"}}'),
	('join of a group', '{"type": "Join", "actor": "https://b.example/", "object": {"type": "Group", "id": "https://g.example/1"}}'),
	('lower case', '{"type": "accept", "actor": "https://b.example/", "object": "https://e.example/1"}'),
	('odd', '{"type": {"x": 1}, "actor": [], "object": 7}'), ('odder', '{"type": ["Accept", null, 1], "actor": [[1]], "object": [null, 1, [], {}, ""], "published": {"a": 1}, "content": ["x"], "source": "y"}'),
	('bad date', '{"type": "Accept", "id": 5, "actor": 6, "object": "https://e.example/1", "published": "soon", "updated": "2026-13-01T00:00:00Z"}'),
	('array', '[]'), ('string', '"Accept"'), ('nothing', '{}')) AS c (about, activity);
SELECT count(*) FROM rsvp_sync.parse_activity(NULL);

-- The form
CREATE FUNCTION pg_temp.submit(submission jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	RETURN rsvp_sync.validate_rsvp_submission(submission);
EXCEPTION WHEN invalid_parameter_value THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN SQLERRM || ' | ' || hint;
END
$$;
SELECT pg_temp.submit(s::jsonb) FROM (VALUES
	('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "yes"}'),
	('{"response_type": "RSVP", "target_url": " https://e.example/1\n", "post_title": "T", "rsvp_status": "Interested", "content": "c", "tags": ["a"], "slug": "_No response_"}'),
	('{"response_type": "star", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "not applicable"}'),
	('{"response_type": "reply", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "yes"}'),
	('{"response_type": "reshare", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "whatever"}'),
	('{}'), ('{"response_type": " "}'), ('{"response_type": "like"}'), ('{"response_type": 7}'),
	('{"response_type": "rsvp"}'), ('{"response_type": "rsvp", "target_url": "e.example"}'), ('{"response_type": "rsvp", "target_url": "javascript:alert(1)"}'),
	('{"response_type": "rsvp", "target_url": "https://e.example/1"}'), ('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": ""}'),
	('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": "T"}'), ('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "Not Applicable"}'),
	('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "_No response_"}'), ('{"response_type": "rsvp", "target_url": "https://e.example/1", "title": "T", "rsvp_status": "going"}'),
	('[]'), (NULL)) AS v (s);
