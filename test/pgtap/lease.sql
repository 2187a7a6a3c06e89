-- Which keys are looked at next, where a look does not begin at the front.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
/* No worker takes what is put into the queue here. */
SELECT rsvp_sync.pause();

CREATE TABLE one (id integer PRIMARY KEY, did text, event_uri text, status text);
CREATE TABLE two (LIKE one INCLUDING ALL);
CREATE TABLE three (LIKE one INCLUDING ALL);
SET client_min_messages = error;
SELECT rsvp_sync.attach('one', 'SELECT id, did, event_uri, status FROM one') AS one,
	rsvp_sync.attach('two', 'SELECT id, did, event_uri, status FROM two') AS two,
	rsvp_sync.attach('three', 'SELECT id, did, event_uri, status FROM three') AS three \gset
CREATE FUNCTION due(source bigint, key text, ago interval, urgent boolean DEFAULT false) RETURNS void LANGUAGE sql AS $$
INSERT INTO rsvp_sync._queue (source_id, key, priority, changed_at, due_at)
VALUES (source, key, CASE WHEN urgent THEN 0 ELSE 1 END, now() - ago, now() - ago) $$;
CREATE FUNCTION leased(at_most integer, since interval DEFAULT '1000 years', known bigint[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
SELECT string_agg(l.source_id || ':' || k || CASE WHEN l.earliest <= now() - interval '10 s' THEN '' ELSE '?' END, ' ' ORDER BY l.source_id, k)
FROM rsvp_sync._lease(7, at_most, at_most, now() - since, known) l, unnest(l.keys) k $$;

SELECT due(:one, 'a', '50 s'), due(:one, 'b', '40 s'), due(:one, 'c', '30 s'), due(:two, 'd', '35 s'), due(:three, 'e', '20 s', true);
SELECT is((SELECT array_agg(s ORDER BY s) FROM rsvp_sync._waiting_sources() s), ARRAY[:one, :two, :three]::bigint[], 'sources with keys');
SELECT is((SELECT array_agg(s ORDER BY s) FROM rsvp_sync._waiting_sources(ARRAY[:two]::bigint[]) s), ARRAY[:one, :two, :three]::bigint[], '... one of them known');
SELECT is((SELECT array_agg(s ORDER BY s) FROM rsvp_sync._waiting_sources(ARRAY[:three, :one]::bigint[]) s), ARRAY[:one, :two, :three]::bigint[], '... the others');
SELECT is((SELECT array_agg(s ORDER BY s) FROM rsvp_sync._waiting_sources(ARRAY[:one, :two, :three, 99]::bigint[]) s), ARRAY[:one, :two, :three, 99]::bigint[], '... all, and one that has nothing');
SELECT is(leased(100, '45 s'), format('%s:b %s:c %s:d %s:e', :one, :one, :two, :three), 'what was due before is left out');
SELECT is(leased(100), format('%s:a', :one), '... until somebody looks from the front');
SELECT due(:one, 'f', '60 s'), due(:two, 'g', '15 s'), due(:three, 'h', '12 s', true);
SELECT is(leased(100, '45 s', ARRAY[:one]::bigint[]), format('%s:g %s:h', :two, :three), 'sources that were not known are found');
SELECT is(leased(100, '90 s', ARRAY[:three]::bigint[]), format('%s:f', :one), '... before the known ones, too');
SELECT is(leased(100), NULL, 'nothing is left');
SELECT * FROM finish();
