-- Inbound: what is said on the network, and what becomes of it.  Each rule, by
-- itself, in the plan's schema; no network, no worker: planning is called.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
/* No worker takes what is put into the log here. */
SELECT rsvp_sync.pause();

CREATE ROLE regress_inbound;
CREATE ROLE regress_inbound_nobody;
SELECT rsvp_sync.grant_application('regress_inbound');
SELECT rsvp_sync.grant_application('regress_inbound_nobody');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_inbound;
SET ROLE regress_inbound;
CREATE SCHEMA app;
CREATE TABLE app.users (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text, preferences jsonb);
CREATE TABLE app.events (id integer PRIMARY KEY, visibility text DEFAULT 'public',
	"sourceType" text, "sourceData" jsonb, "requireApproval" boolean DEFAULT false);
CREATE TABLE app.attendance (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	status text NOT NULL, metadata jsonb, event_id integer REFERENCES app.events,
	user_id integer REFERENCES app.users);
INSERT INTO app.events (id, "sourceType", "sourceData", "requireApproval")
SELECT e, 'bluesky', jsonb_build_object('did', 'did:plc:' || repeat('o', 24),
	'rkey', 'e' || e), e = 3 FROM generate_series(1, 3) e;
INSERT INTO app.users (name, preferences)
SELECT 'user ' || u, jsonb_build_object('bluesky', jsonb_build_object('did',
	'did:plc:' || repeat(chr(96 + u), 24), 'connected', true))
FROM generate_series(1, 5) u;
SELECT rsvp_sync.attach('app.attendance', options => '{"tenant": "one"}') AS source \gset
RESET ROLE;

CREATE FUNCTION did(u integer) RETURNS text LANGUAGE sql AS $$
SELECT 'did:plc:' || repeat(chr(96 + u), 24) $$;
CREATE FUNCTION uri(e integer) RETURNS text LANGUAGE sql AS $$
SELECT 'at://did:plc:' || repeat('o', 24) || '/community.lexicon.calendar.event/e' || e $$;
CREATE FUNCTION rsvp(u integer, rkey text) RETURNS text LANGUAGE sql AS $$
SELECT rsvp_sync._rsvp_uri(did(u), rkey) $$;
CREATE TABLE began AS SELECT extract(epoch FROM now()) AS at;
/* A rev of so many seconds from then. */
CREATE FUNCTION rev(seconds double precision) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(substr('234567abcdefghijklmnopqrstuvwxyz',
	((((((SELECT at FROM began) + seconds) * 1000000)::bigint << 10) >> (60 - 5 * i)) & 31)::integer + 1, 1), '' ORDER BY i)
FROM generate_series(0, 12) i $$;
CREATE FUNCTION record(e integer, word text, extra jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
SELECT jsonb_build_object('$type', 'community.lexicon.calendar.rsvp', 'subject',
	jsonb_build_object('uri', uri(e), 'cid', 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm'),
	'status', 'community.lexicon.calendar.rsvp#' || word, 'createdAt', '2026-01-01T00:00:00.000Z') || extra $$;
CREATE FUNCTION payload(u integer, e integer, word text, rkey text, at double precision, extra jsonb DEFAULT '{}')
RETURNS jsonb LANGUAGE sql AS $$
SELECT jsonb_build_object('eventSourceId', uri(e), 'eventSourceType', 'bluesky', 'userDid', did(u),
	'userHandle', 'user' || u || '.example.com', 'status', word, 'timestamp', '2026-01-01T00:00:00.000Z',
	'sourceId', rsvp(u, rkey), 'metadata', jsonb_build_object('rkey', rkey, 'rev', rev(at),
		'cid', rsvp_sync.record_cid(record(e, word)), 'record', record(e, word)) || extra) $$;
CREATE FUNCTION process(u integer, e integer, word text, rkey text, at double precision, extra jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql AS $$
SELECT rsvp_sync.process_external_rsvp(payload(u, e, word, rkey, at, extra), 'one') ->> 'action' $$;
CREATE FUNCTION gone(u integer, rkey text) RETURNS text LANGUAGE sql AS $$
SELECT success || ' ' || message FROM rsvp_sync.delete_external_rsvp(rsvp(u, rkey), 'bluesky', 'one') $$;
CREATE FUNCTION status(u integer, e integer) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(a.status, ',' ORDER BY a.id) FROM app.attendance a JOIN app.users s ON s.id = a.user_id
WHERE s.preferences #>> '{bluesky,did}' = did(u) AND a.event_id = e $$;
CREATE FUNCTION ingest(u integer, at double precision, op text, rkey text, record jsonb, trusted boolean DEFAULT false)
RETURNS bigint LANGUAGE sql AS $$
SELECT rsvp_sync._ingest('stream', ARRAY[did(u)], ARRAY[rev(at)], ARRAY[op], ARRAY[rkey],
	ARRAY[rsvp_sync.record_cid(record)], ARRAY[record::text], ARRAY[NULL::bigint], trusted) $$;
/* What planning would have sent. */
CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sent text;
BEGIN
	PERFORM rsvp_sync._drain(1000);
	UPDATE rsvp_sync._queue SET lease = 1, due_at = now();
	SELECT string_agg(concat_ws(' ', w.action, w.need, w.sent_local), ', ') INTO sent
	FROM (SELECT source_id, array_agg(key) AS keys FROM rsvp_sync._queue GROUP BY 1) q
	CROSS JOIN LATERAL rsvp_sync._plan_keys(q.source_id, q.keys) w;
	RETURN coalesce(sent, 'nothing');
END $$;
GRANT USAGE ON SCHEMA app TO PUBLIC;
INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at)
SELECT did(u), 'https://pds.test', now(), now() FROM generate_series(1, 5) u;
/* All accounts are listed. */
CREATE OR REPLACE FUNCTION rsvp_sync._is_listed(did text) RETURNS boolean LANGUAGE sql AS 'SELECT true';

--
-- The decision by itself: present, withdrawing, local, base, heard, heard cid and status, remote cid and status, sent, local newer, conflict, verified
--
SELECT is(rsvp_sync._merge(p, w, l, b, h IS NOT NULL, h, hs, r, rs, s, n, c, v), e, format('%s: %s', what, e))
FROM (VALUES
	('nothing is there, and never was', true, false, 'going', 'going', NULL, NULL, NULL, NULL, false, false, 'latest', NULL::boolean, 'none'),
	('the record is gone', true, false, 'going', 'going', 'a', 'going', NULL, NULL, false, false, 'latest', NULL, 'cancel'),
	('... and the row, too', false, false, NULL, 'going', 'a', 'going', NULL, NULL, false, false, 'latest', NULL, 'none'),
	('... by our own doing', true, true, 'going', 'going', 'a', 'going', NULL, NULL, false, false, 'latest', NULL, 'none'),
	('... which the row says already', true, false, 'notgoing', 'notgoing', 'a', 'notgoing', NULL, NULL, false, false, 'latest', NULL, 'agree'),
	('... which was heard', true, false, 'going', 'notgoing', '', NULL, NULL, NULL, false, false, 'remote', NULL, 'none'),
	('... and the row changed later', true, false, 'interested', 'going', 'a', 'going', NULL, NULL, false, true, 'latest', NULL, 'local'),
	('... and the row changed before', true, false, 'interested', 'going', 'a', 'going', NULL, NULL, false, false, 'latest', NULL, 'cancel'),
	('our own write', true, false, 'going', NULL, NULL, NULL, 'b', 'going', true, true, 'remote', true, 'echo'),
	('heard before', true, false, 'notgoing', 'going', 'a', 'going', 'a', 'going', false, false, 'remote', true, 'none'),
	('a word we do not know', true, false, 'going', 'going', 'a', 'going', 'b', NULL, false, false, 'latest', true, 'keep'),
	('nobody here', false, false, NULL, NULL, NULL, NULL, 'b', 'going', false, false, 'local', true, 'apply'),
	('... and not verified', false, false, NULL, NULL, NULL, NULL, 'b', 'going', false, false, 'latest', false, 'verify'),
	('... and negative', false, false, NULL, NULL, NULL, NULL, 'b', 'notgoing', false, false, 'latest', false, 'apply'),
	('the row says so', true, false, 'going', 'interested', 'a', 'interested', 'b', 'going', false, false, 'remote', true, 'agree'),
	('other fields', true, false, 'notgoing', 'going', 'a', 'going', 'b', 'going', false, false, 'remote', true, 'agree'),
	('held as what it says now', true, false, 'interested', 'interested', 'a', 'going', 'b', 'interested', false, false, 'latest', true, 'apply'),
	('both came to it', true, false, 'interested', 'going', 'a', 'going', 'b', 'interested', false, false, 'latest', true, 'agree'),
	('changed there', true, false, 'going', 'going', 'a', 'going', 'b', 'notgoing', false, true, 'local', true, 'apply'),
	('changed on both sides, here later', true, false, 'interested', 'going', 'a', 'going', 'b', 'notgoing', false, true, 'latest', true, 'local'),
	('... there later', true, false, 'interested', 'going', 'a', 'going', 'b', 'notgoing', false, false, 'latest', true, 'apply'),
	('... local', true, false, 'interested', 'going', 'a', 'going', 'b', 'notgoing', false, false, 'local', true, 'local'),
	('... remote', true, false, 'interested', 'going', 'a', 'going', 'b', 'notgoing', false, true, 'remote', true, 'apply'),
	('planning gave way to another record that says what was heard before', true, false, 'going', 'going', '?', NULL, 'b', 'notgoing', false, true, 'latest', true, 'apply'),
	('... and what the row says', true, false, 'going', 'going', '?', NULL, 'b', 'going', false, false, 'latest', true, 'agree'),
	('... and the row has changed since', true, false, 'interested', 'going', '?', NULL, 'b', 'notgoing', false, true, 'latest', true, 'local'),
	('... to what is gone', true, false, 'going', 'going', '?', NULL, NULL, NULL, false, true, 'latest', NULL, 'cancel'),
	('never agreed, here later', true, false, 'going', 'going', NULL, NULL, 'b', 'notgoing', false, true, 'latest', true, 'local'),
	('never agreed, there later', true, false, 'going', 'going', NULL, NULL, 'b', 'notgoing', false, false, 'latest', true, 'apply'))
	t (what, p, w, l, b, h, hs, r, rs, s, n, c, v, e);

--
-- Taken over
--
SELECT is(process(1, 1, 'going', '3aaaaaaaaaaaa', -100), 'created', 'going: an attendance is made');
SELECT is(status(1, 1), 'confirmed', '... that says so');
SELECT is(plan(), 'nothing', '... nothing is sent back');
SELECT is((SELECT format('%s/%s %s %s', s.state, s.reason_code, s.uri = rsvp(1, '3aaaaaaaaaaaa'), i.bond)
	FROM rsvp_sync.status s JOIN rsvp_sync._intent i ON i.key = s.attendance_id), 'done/published t adopted', '... the row has the record');
SELECT is(process(1, 1, 'going', '3aaaaaaaaaaaa', -100), 'unchanged', 'again: nothing');
SELECT is(process(1, 1, 'notgoing', '3aaaaaaaaaaaa', -200), 'ignored', 'an older version: nothing');
SELECT is(status(1, 1), 'confirmed', '... is left of it');
SELECT is(process(1, 1, 'interested', '3aaaaaaaaaaaa', -90), 'updated', 'interested, later');
SELECT is(status(1, 1), 'maybe', '... the same row');
SELECT is(process(1, 1, 'going', '3aaaaaaaaaaaa', -100), 'ignored', 'the first one again: it is older');
SELECT is(process(2, 1, 'notgoing', '3bbbbbbbbbbbb', -100), 'created', 'notgoing of somebody new');
SELECT is(status(2, 1), 'cancelled', '... is an attendance that is cancelled');
SELECT is(plan(), 'nothing', '... nothing is sent back');
SELECT is(process(6, 1, 'going', '3cccccccccccc', -100), 'created', 'somebody nobody knows');
SELECT is((SELECT count(*) FROM app.users WHERE preferences #>> '{bluesky,did}' = did(6)), 1::bigint, '... becomes a shadow user');
SELECT is(plan(), 'nothing', '... nothing is sent back');
SELECT is((SELECT count(*) FROM rsvp_sync.history WHERE action = 'apply' AND outcome = 'ok'), 4::bigint, 'each apply is in the history');
SELECT is((SELECT sum(value) FROM rsvp_sync.metrics() WHERE name = 'rsvp_integration_processed_total'
	AND labels @> '{"tenant": "one", "source_type": "bluesky", "operation": "create"}'), 3::double precision, '... and counted');

--
-- Words
--
SELECT is(process(3, 1, w, '3dddddddddddd', -100 + n, jsonb_build_object('record', NULL, 'cid', NULL)), e, format('%s: %s', w, e))
FROM (VALUES (1, 'going', 'created'), (2, 'community.lexicon.calendar.rsvp#interested', 'updated'),
	(3, 'events.smokesignal.calendar.rsvp#notgoing', 'updated'), (4, 'community.lexicon.calendar.rsvp#maybe', 'kept'),
	(5, 'perhaps', 'kept'), (6, 'com.example.thing#going', 'updated')) w (n, w, e) ORDER BY n;
SELECT is((SELECT count(*) FROM rsvp_sync.rsvp WHERE did = did(3)), 1::bigint, 'all in one record');
/* Nobody told its cid, and what stands in for it is nobody's business. */
SELECT isnt((SELECT base_cid FROM rsvp_sync._intent WHERE did = did(3)), NULL, 'a cid that nobody told has a stand-in');
SELECT is((SELECT cid FROM rsvp_sync.status WHERE did = did(3)), NULL, '... which is not shown in status');
SELECT is((SELECT count(*) FROM rsvp_sync.history WHERE did = did(3) AND cid IS NOT NULL), 0::bigint, '... nor in history');
CREATE PROCEDURE write_back(u integer) LANGUAGE plpgsql AS $$
DECLARE
	i rsvp_sync._intent := (SELECT i FROM rsvp_sync._intent i WHERE i.did = did(u));
BEGIN
	EXECUTE rsvp_sync._writeback_query(i.source_id)
	USING ARRAY[i.key], rsvp(u, i.rkey), i.base_cid, i.rkey, now();
END $$;
CALL write_back(3);
SELECT is((SELECT a.metadata - 'blueskySyncedAt' FROM app.attendance a JOIN app.users s ON s.id = a.user_id WHERE s.preferences #>> '{bluesky,did}' = did(3)),
	jsonb_build_object('blueskyRsvpUri', rsvp(3, '3dddddddddddd')), '... and not written to the row');
SELECT is(plan(), 'nothing', '... nothing is sent');
DELETE FROM rsvp_sync._queue;
UPDATE rsvp_sync._intent SET writeback = false WHERE did = did(3);
SELECT is((SELECT count(*) FROM rsvp_sync._differences(:source) d JOIN rsvp_sync._intent i ON i.source_id = :source AND i.key = d WHERE i.did = did(3)), 0::bigint,
	'... which reconcile takes for right');
SELECT is(rsvp_sync.process_external_rsvp(jsonb_set(payload(3, 1, 'interested', '3dddddddddddd', 0), '{metadata}', jsonb_build_object('rev', rev(-200))), 'one') ->> 'action',
	'ignored', 'an older version without a cid: ignored');
SELECT is(rsvp_sync.process_external_rsvp(jsonb_set(payload(3, 1, 'going', '3dddddddddddd', 0), '{metadata}', jsonb_build_object('rev', rev(-94))), 'one') ->> 'action',
	'unchanged', '... and the same one: known already');
SELECT is(process(3, 1, 'weird', '3dddddddddddd', -50), 'kept', 'an unknown word is kept');
SELECT is((SELECT status FROM rsvp_sync.rsvp WHERE did = did(3)), NULL, '... visible without a status');
SELECT is(status(3, 1), 'confirmed', '... and not applied');

--
-- Deleting
--
SELECT is(gone(4, '3xxxxxxxxxxxx'), 'true RSVP not found for deletion - ignoring', 'an unknown record: nothing');
SELECT is(gone(1, '3aaaaaaaaaaaa'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'a record is deleted');
SELECT is(status(1, 1), 'cancelled', '... its attendance cancelled');
SELECT is((SELECT count(*) FROM app.attendance WHERE status = 'cancelled'), 2::bigint, '... and no other');
SELECT is(gone(1, '3aaaaaaaaaaaa'), 'true This RSVP was deleted before', 'again: nothing');
SELECT is(plan(), 'nothing', 'nothing is sent');
SELECT is(process(1, 1, 'going', '3aaaaaaaaaaaa', -100), 'ignored', 'a replay from before the deletion: nothing');
SELECT is(status(1, 1), 'cancelled', '... it stays cancelled');

-- Two records for one event: the newest counts, then what is left.
SELECT is(process(4, 1, 'going', '3eeeeeeeeeeee', -100), 'created', 'one record');
SELECT is(process(4, 1, 'notgoing', '3ffffffffffff', -50), 'updated', 'a newer one by another application');
SELECT is(status(4, 1), 'cancelled', '... counts');
SELECT is(process(4, 1, 'interested', '3eeeeeeeeeeee', -70), 'unchanged', 'the other one changed, but before that');
SELECT is(status(4, 1), 'cancelled', '... does not count');
SELECT is(gone(4, '3ffffffffffff'), 'true Another RSVP of the same person for this event counts now', 'the newer one goes');
SELECT is(status(4, 1), 'maybe', '... what is left counts');
SELECT is(gone(4, '3eeeeeeeeeeee'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'the last one goes');
SELECT is(status(4, 1), 'cancelled', '... nothing is left');
SELECT is(plan(), 'nothing', 'nothing is sent in all this');

--
-- Our own writes, and the row's own word
--
/* Whatever is said there from now on is said later than what is said here. */
UPDATE began SET at = at + 3600;
INSERT INTO rsvp_sync._account (did, owner, auth, state) VALUES (did(5), 'regress_inbound', 'password', 'connected');
INSERT INTO rsvp_sync._event (uri, cid) SELECT uri(e), 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm' FROM generate_series(1, 3) e;
INSERT INTO app.attendance (status, event_id, user_id) VALUES ('confirmed', 2, 5) RETURNING id AS row5 \gset
SELECT is(plan(), 'put going', 'a row of a connected user is sent');
SELECT rkey AS rkey5, sent_cids[1] AS cid5, record_created_at AS created5 FROM rsvp_sync._intent WHERE key = :'row5' \gset
SELECT rsvp_sync._rsvp_record(NULL, uri(2), 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', 'going', :'created5') AS record5 \gset
SELECT is(rsvp_sync.record_cid(:'record5'), :'cid5', 'its cid is known before');
SELECT is(process(5, 2, 'going', :'rkey5', 1, jsonb_build_object('cid', :'cid5'::text, 'record', :'record5'::jsonb)), 'unchanged', 'its echo, before the answer: nothing');
SELECT is((SELECT doubt FROM rsvp_sync._intent WHERE key = :'row5'), true, '... the answer is still awaited');
SELECT rsvp_sync._put_done(:source, :'row5', (SELECT generation FROM rsvp_sync._queue WHERE key = :'row5'), did(5), :'rkey5', :'record5', :'cid5', rev(1));
SELECT is((SELECT format('%s %s %s', doubt, base_local, bond) FROM rsvp_sync._intent WHERE key = :'row5'), 'f going own', 'the answer');
SELECT is(process(5, 2, 'going', :'rkey5', 1, jsonb_build_object('cid', :'cid5'::text, 'record', :'record5'::jsonb)), 'unchanged', 'its echo, after: nothing');
SELECT is(process(5, 2, 'going', :'rkey5', 1, '{"cid": null, "rev": null, "record": null}'), 'unchanged', '... nor without its cid');
SELECT is((SELECT count(*) FROM rsvp_sync._history WHERE key = :'row5' AND action = 'apply'), 0::bigint, 'nothing was applied');
SELECT is(plan(), 'nothing', '... and nothing is sent');

UPDATE app.attendance SET status = 'attended' WHERE id = :row5;
SELECT is(plan(), 'nothing', 'attended is going');
SELECT is(process(5, 2, 'going', :'rkey5', 2, '{"record": null, "cid": "bafyreidqpc7si3dbimffi64lz3xsx2qt45ip7rpna2qpslcddp23itjjzm"}'), 'unchanged', 'the record changed in what does not concern us');
SELECT is(status(5, 2), 'attended', '... attended stays');
UPDATE app.attendance SET status = 'maybe' WHERE id = :row5;
SELECT is(plan(), 'read interested', 'the row changes: what we were only told of is read before');
SELECT rsvp_sync._read_done(:source, :'row5', did(5), :'rkey5', 'bafyreidqpc7si3dbimffi64lz3xsx2qt45ip7rpna2qpslcddp23itjjzm', :'record5'::jsonb || '{"note": "x"}');
SELECT is(plan(), 'put interested', '... then it is sent');
SELECT is((SELECT w.record::jsonb ->> 'note' FROM rsvp_sync._plan_keys(:source, ARRAY[:'row5']) w), NULL, 'in doubt now: read first');
UPDATE rsvp_sync._intent SET doubt = false WHERE key = :'row5';
SELECT is((SELECT w.record::jsonb ->> 'note' FROM rsvp_sync._plan_keys(:source, ARRAY[:'row5']) w), 'x', 'fields of others stay');
SELECT sent_cids[1] AS cid6 FROM rsvp_sync._intent WHERE key = :'row5' \gset

-- Changed elsewhere while our own is under way.
SELECT is(process(5, 2, 'notgoing', :'rkey5', 3), 'updated', 'changed elsewhere, later');
SELECT is(status(5, 2), 'cancelled', '... counts');
SELECT rsvp_sync._put_done(:source, :'row5', 0, did(5), :'rkey5', :'record5'::jsonb || '{"status": "interested"}', :'cid6', rev(2.5));
SELECT is((SELECT status FROM rsvp_sync.rsvp WHERE did = did(5)), 'notgoing', 'the answer to our own comes later, and is older');
SELECT is((SELECT format('%s %s', base_local, base_cid <> :'cid6') FROM rsvp_sync._intent WHERE key = :'row5'), 'notgoing t', '... the base stays');
SELECT is(plan(), 'nothing', 'nothing is sent');

-- Both changed.
CREATE FUNCTION both_changed(option text, at double precision) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	said text;
	of_rkey text := (SELECT i.rkey FROM rsvp_sync._intent i WHERE i.did = did(5));
BEGIN
	UPDATE began SET at = extract(epoch FROM now());
	DELETE FROM rsvp_sync._observed WHERE did = did(5);
	PERFORM rsvp_sync._put_done(i.source_id, i.key, 0, i.did, i.rkey, record(2, 'going'), rsvp_sync.record_cid(record(2, 'going')), rev(-30))
	FROM rsvp_sync._intent i WHERE i.did = did(5);
	UPDATE rsvp_sync._observed SET rev = rev(-30), changed_at = now() - interval '30 s' WHERE did = did(5);
	DELETE FROM rsvp_sync._queue;
	UPDATE rsvp_sync._intent SET local = 'going', base_local = 'going', doubt = false, sent_cids = '{}',
		local_at = now() - interval '30 s', base_cid = rsvp_sync.record_cid(record(2, 'going')),
		heard_cid = rsvp_sync.record_cid(record(2, 'going')), heard_status = 'going', state = 'done' WHERE did = did(5);
	UPDATE rsvp_sync._source SET options = options || jsonb_build_object('conflict', option);
	UPDATE app.attendance a SET status = 'maybe' FROM rsvp_sync._intent i WHERE i.did = did(5) AND a.id = i.key::integer;
	UPDATE rsvp_sync._change_log SET changed_at = now() - interval '10 s';
	PERFORM rsvp_sync._drain(10);
	/* As if that had been committed and drained; a worker may have taken what was. */
	INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at)
	SELECT i.source_id, i.key, now(), now() - interval '10 s' FROM rsvp_sync._intent i WHERE i.did = did(5)
	ON CONFLICT (source_id, key) DO UPDATE SET changed_at = excluded.changed_at;
	said := process(5, 2, 'notgoing', of_rkey, at);
	RETURN concat_ws(' ', said, status(5, 2), plan());
END $$;
UPDATE app.attendance SET status = 'confirmed' WHERE id = :row5;
SELECT is(both_changed('latest', -20), 'ignored maybe put interested', 'conflict latest: the row changed later and is sent');
SELECT is(both_changed('latest', -5), 'updated cancelled nothing', '... the record changed later and counts');
SELECT is(both_changed('local', -5), 'ignored maybe put interested', 'conflict local');
SELECT is(both_changed('remote', -20), 'updated cancelled nothing', 'conflict remote');
UPDATE rsvp_sync._source SET options = options - 'conflict';

-- The row changed, its record then says what nobody knows, and another one what was heard before.
CREATE FUNCTION said_before(of_key text, ago interval) RETURNS void LANGUAGE sql AS $$
SELECT rsvp_sync._drain(100);
UPDATE rsvp_sync._queue SET changed_at = to_timestamp((SELECT at FROM began)) - ago, lease = NULL, due_at = 'infinity' WHERE key = of_key;
$$;
UPDATE began SET at = extract(epoch FROM now());
UPDATE app.attendance SET status = 'cancelled' WHERE id = :row5;
SELECT plan();
SELECT rsvp_sync._put_done(i.source_id, i.key, 0, i.did, i.rkey, record(2, 'notgoing'), rsvp_sync.record_cid(record(2, 'notgoing')), rev(-30))
FROM rsvp_sync._intent i WHERE i.key = :'row5';
UPDATE rsvp_sync._observed SET rev = rev(-30), changed_at = to_timestamp((SELECT at FROM began)) - interval '30 s' WHERE did = did(5);
SELECT plan();
SELECT is((SELECT format('%s %s %s', base_local, heard_status, bond) FROM rsvp_sync._intent WHERE key = :'row5'), 'notgoing notgoing own', 'both sides say notgoing');
UPDATE app.attendance SET status = 'confirmed' WHERE id = :row5;
SELECT said_before(:'row5', '20 s');
SELECT is(ingest(5, -15, 'update', :'rkey5', record(2, 'perhaps'), true), 1::bigint, 'the row says going, then its record a word that we do not know');
SELECT is(plan(), 'nothing', '... that was said last');
SELECT is((SELECT concat_ws(' ', state, reason_code, base_local, heard_cid) FROM rsvp_sync._intent WHERE key = :'row5'), 'done remote_newer going ?',
	'... and what was heard before counts no more');
SELECT rsvp_sync._inbound_retry(10);
SELECT is(status(5, 2), 'confirmed', '... it is not applied');
SELECT is(ingest(5, -10, 'create', '3vvvvvvvvvvvv', record(2, 'notgoing'), true), 1::bigint, 'another record says notgoing, as was heard before all that');
SELECT is(status(5, 2), 'cancelled', '... which counts');
SELECT is(plan(), 'nothing', 'nothing is sent');

-- The same, heard before planning had a look.
UPDATE app.attendance SET status = 'confirmed' WHERE id = :row5;
SELECT said_before(:'row5', '9 s');
SELECT is(ingest(5, -8, 'update', :'rkey5', record(2, 'who knows'), true), 1::bigint, 'again the row, the record');
SELECT is(ingest(5, -7, 'update', '3vvvvvvvvvvvv', record(2, 'notgoing', '{"x": 1}'), true), 1::bigint, '... and the other one, before planning');
SELECT is(plan(), 'nothing', 'planning gives way');
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, '... and has it applied');
SELECT is(status(5, 2), 'cancelled', '... to the row');
SELECT is(plan(), 'nothing', 'nothing is sent');
SELECT is(ingest(5, -6, 'delete', '3vvvvvvvvvvvv', NULL, true), 1::bigint, 'the other one goes');
SELECT plan();

-- Sent, and deleted elsewhere, which is heard before the answer is there; by itself, and with others.
INSERT INTO app.attendance (status, event_id, user_id) VALUES ('confirmed', 1, 5) RETURNING id AS row51 \gset
CREATE FUNCTION overtaken(of_key text, at double precision, VARIADIC done text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	w rsvp_sync._intent;
	said text := plan();
	answer jsonb;
BEGIN
	SELECT i.* INTO w FROM rsvp_sync._intent i WHERE i.key = of_key;
	answer := rsvp_sync._rsvp_record(NULL, w.event_uri, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', 'going', w.record_created_at);
	PERFORM ingest(5, at, 'create', w.rkey, answer, true);
	PERFORM ingest(5, at + 1, 'delete', w.rkey, NULL, true);
	said := concat_ws(' ', said, status(5, 1));
	EXECUTE format(done[1], w.source_id, of_key, (SELECT q.generation FROM rsvp_sync._queue q WHERE q.key = of_key), w.did, w.rkey, answer, w.sent_cids[1], rev(at));
	RETURN concat_ws(' ', said, status(5, 1), plan());
END $$;
SELECT is(overtaken(:'row51', -5, 'SELECT rsvp_sync._put_done(%L, %L, %L, %L, %L, %L, %L, %L)'), 'put going confirmed cancelled nothing',
	'deleted elsewhere before the answer to our own is there: it counts when that is');
UPDATE app.attendance SET status = 'confirmed' WHERE id = :row51;
SELECT is(overtaken(:'row51', -3, 'SELECT rsvp_sync._puts_done(%L, ARRAY[%L], ARRAY[%L], ARRAY[%L], ARRAY[%L], ARRAY[%L], ARRAY[%L], ARRAY[%L], ARRAY[NULL])'),
	'put going confirmed cancelled nothing', '... with others');

-- Come and gone in one batch, then told of its coming again
SELECT rsvp_sync._ingest('stream', ARRAY[did(4), did(4)], ARRAY[rev(-8), rev(-7)], ARRAY['create', 'delete'], '{3ttttttttttt2,3ttttttttttt2}',
	ARRAY[rsvp_sync.record_cid(record(2, 'notgoing')), NULL], ARRAY[record(2, 'notgoing')::text, NULL], '{NULL,NULL}', true);
SELECT is((SELECT format('%s %s', cid IS NULL, status IS NULL) FROM rsvp_sync._observed WHERE rkey = '3ttttttttttt2'), 't t', 'what came and went at once leaves a tombstone');
SELECT is(status(4, 2), NULL, '... and nothing else');
SELECT is(ingest(4, -8, 'create', '3ttttttttttt2', record(2, 'notgoing'), true), 0::bigint, 'said again it is older than that');

-- Listed, then told of by the stream, then of what it was before
SELECT rsvp_sync._observe(did(4), '3ttttttttttt4', rsvp_sync.record_cid(record(2, 'perhaps')), record(2, 'perhaps'), NULL, 'list', now() - interval '1 day');
SELECT is(ingest(4, -4, 'update', '3ttttttttttt4', record(2, 'perhaps'), true), 1::bigint, 'what was only listed gets its rev');
SELECT is(ingest(4, -6, 'create', '3ttttttttttt4', record(2, 'going'), true), 0::bigint, '... so that what it was before is known to be older');
SELECT is(status(4, 2), NULL, '... and not applied');
SELECT is(ingest(4, -4, 'update', '3ttttttttttt4', record(2, 'perhaps'), true), 0::bigint, '... once');
SELECT is(ingest(4, -3, 'delete', '3ttttttttttt4', NULL, true), 1::bigint, 'it goes');

--
-- Answers that are held
--
SELECT is(process(1, 3, 'going', '3gggggggggggg', -100), 'created', 'going, where the host has to approve');
SELECT is(status(1, 3), 'pending', '... waits for him');
SELECT is(plan(), 'nothing', '... which is not sent back');
SELECT is(process(1, 3, 'going', '3gggggggggggg', -100), 'unchanged', 'a replay');
UPDATE app.attendance SET status = 'confirmed' WHERE event_id = 3;
SELECT is(plan(), 'nothing', 'he approves: nothing to send');
SELECT is(process(1, 3, 'going', '3gggggggggggg', -90, '{"record": null, "cid": "bafyreidqpc7si3dbimffi64lz3xsx2qt45ip7rpna2qpslcddp23itjjzm"}'), 'unchanged', 'a new version that says the same');
SELECT is(status(1, 3), 'confirmed', '... does not revoke that');
SELECT is(process(2, 3, 'going', '3hhhhhhhhhhhh', -100), 'created', 'another one who waits');
SELECT is(process(2, 3, 'interested', '3hhhhhhhhhhhh', -90), 'updated', '... changes his mind');
SELECT is(status(2, 3), 'maybe', '... although both map to the same');
SELECT is(process(2, 3, 'going', '3hhhhhhhhhhhh', -80), 'updated', '... and again');
SELECT is(gone(2, '3hhhhhhhhhhhh'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', '... and no more');
SELECT is(plan(), 'nothing', 'nothing is sent in all this');
UPDATE app.attendance SET status = 'rejected' WHERE event_id = 3 AND status = 'confirmed';
SELECT is(plan(), 'nothing', 'he rejects: the record is the user''s');
SELECT is(process(1, 3, 'going', '3gggggggggggg', -100), 'ignored', 'a replay of before');
SELECT is(status(1, 3), 'rejected', '... does not change that');
SELECT is(process(1, 3, 'interested', '3gggggggggggg', 400), 'unchanged', 'his user has another word for it: it is said that nothing changes');
SELECT is((SELECT rsvp_sync.process_external_rsvp(payload(1, 3, 'going', '3gggggggggggg', 401), 'one') ->> 'message'), 'The application leaves the attendance as it is (rejected).', '... and what the row says');

--
-- Events that are not known yet
--
SELECT is(process(1, 9, 'going', '3iiiiiiiiiiii', -100), 'parked', 'an event that is not known: parked');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger WHERE event_uri = uri(9)), 1::bigint, '... as a stub');
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE event_uri = uri(9)), 0::bigint, '... without the record');
SELECT is((SELECT strangers_at FROM rsvp_sync._source), NULL, 'nobody is asked yet');
SELECT rsvp_sync.reconcile('app.attendance');
SELECT isnt((SELECT strangers_at FROM rsvp_sync._source), NULL, 'reconcile() has the table asked');
UPDATE rsvp_sync._source SET strangers_at = NULL;
SELECT is(process(5, 9, 'going', '3jjjjjjjjjjjj', -100), 'parked', '... of an account of ours');
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE event_uri = uri(9)), 1::bigint, '... with the record');
SET ROLE regress_inbound;
INSERT INTO app.events (id, "sourceType", "sourceData") VALUES (9, 'bluesky', '{"did": "did:plc:oooooooooooooooooooooooo", "rkey": "e9"}');
RESET ROLE;
SELECT plan();
SELECT isnt((SELECT strangers_at FROM rsvp_sync._source), NULL, 'a row of its table changed: it is asked');
UPDATE rsvp_sync._source SET strangers_at = now();
SELECT is(rsvp_sync._ask_strangers(1), true, '... for events from the first on');
SELECT is((SELECT string_agg(did || state, ' ' ORDER BY did) FROM rsvp_sync._inbound), format('%sverify %sapply', did(1), did(5)),
	'one has to be fetched, the other one is there');
SELECT is(rsvp_sync._ask_strangers(1), false, 'no more of them');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger), 0::bigint, 'no stubs are left');
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, 'what is there is applied');
SELECT is(status(5, 9), 'confirmed', '... to its row');
SELECT rsvp_sync._inbound_settle(did(1), '3iiiiiiiiiiii', rsvp_sync.record_cid(record(9, 'interested')), record(9, 'interested'), NULL, false);
SELECT is(status(1, 9), 'maybe', 'what was fetched, too, as it was found');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound), 0::bigint, 'nothing waits');
SELECT is(plan(), 'nothing', 'nothing is sent');

--
-- The stream is not trusted
--
SELECT is(ingest(3, -10, 'update', '3dddddddddddd', record(1, 'interested')), 1::bigint, 'interested, by the stream');
SELECT is(status(3, 1), 'confirmed', '... is not applied');
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(3)), 'verify', '... until it is verified');
SELECT is(ingest(3, -9, 'update', '3dddddddddddd', record(1, 'notgoing')), 1::bigint, 'notgoing, by the stream');
SELECT is(status(3, 1), 'cancelled', '... is applied at once');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound), 0::bigint, '... there is nothing to verify any more');
SELECT is(ingest(3, -8, 'update', '3dddddddddddd', record(1, 'going')), 1::bigint, 'going, by the stream');
SELECT rsvp_sync._inbound_settle(did(3), '3dddddddddddd', NULL, NULL, NULL, true);
SELECT is(status(3, 1), 'cancelled', 'its PDS says there is no such record: nothing comes of it');
SELECT is(ingest(3, -7, 'update', '3dddddddddddd', record(1, 'going')), 1::bigint, 'going, by the stream');
SELECT is(process(3, 1, 'going', '3dddddddddddd', -7), 'updated', 'the application vouches for it');
SELECT is(status(3, 1), 'confirmed', '... and it is applied');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound), 0::bigint, '... there is nothing to verify any more');
SELECT is(ingest(3, -6, 'delete', '3dddddddddddd', NULL), 1::bigint, 'deleted, by the stream');
SELECT is(status(3, 1), 'cancelled', '... is applied at once');
SELECT is(ingest(3, -6, 'delete', '3dddddddddddd', NULL), 0::bigint, '... once');
SELECT is(ingest(3, -7, 'update', '3dddddddddddd', record(1, 'going')), 0::bigint, 'what was before comes again: nothing');
SELECT is(rsvp_sync._ingest('stream', ARRAY[did(7), did(8), did(7)], ARRAY[rev(-3), rev(-3), rev(-2)], '{create,create,update}',
	ARRAY['3kkkkkkkkkkkk', '3kkkkkkkkkkkk', '3kkkkkkkkkkkk'], ARRAY[rsvp_sync.record_cid(record(1, 'going')), rsvp_sync.record_cid(record(77, 'going')), rsvp_sync.record_cid(record(1, 'interested'))],
	ARRAY[record(1, 'going')::text, record(77, 'going')::text, record(1, 'interested')::text], '{1,2,3}', true), 1::bigint, 'of a batch the last about a record counts');
SELECT is(status(7, 1), 'maybe', '... once');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger), 1::bigint, '... and a stub for what nobody knows');

INSERT INTO rsvp_sync._stranger (did, rkey, event_uri, seen_at)
SELECT 'did:plc:stranger' || n, 'r', uri(1000 + n), now() - interval '1 hour' - n * interval '1 second' FROM generate_series(1, 100010) n;
INSERT INTO rsvp_sync._stranger (did, rkey, event_uri, seen_at) VALUES (did(8), 'old', uri(99), now() - interval '31 days');
SELECT rsvp_sync._forget_strangers();
SELECT is((SELECT count(*) FROM rsvp_sync._stranger), 100000::bigint, 'no more stubs than a hundred thousand');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger WHERE did = did(8)), 1::bigint, '... the newest, and none that is older than thirty days');
DELETE FROM rsvp_sync._stranger WHERE did LIKE '%stranger%';

--
-- Failures
--
CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'the house is full' USING ERRCODE = 'P0001';
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON app.attendance FOR EACH ROW EXECUTE FUNCTION app.refuse();
SELECT is(process(4, 1, 'going', '3eeeeeeeeeeee', 5), 'parked', 'the application refuses: parked');
SELECT is((SELECT format('%s %s %s', state, attempts, last_error) FROM rsvp_sync.inbound WHERE did = did(4)), 'apply 1 the house is full', '... visible, with its words');
SELECT is((SELECT rsvp_sync.process_external_rsvp(payload(4, 1, 'going', '3eeeeeeeeeeee', 5), 'one') ->> 'message'),
	'It could not be applied and is tried again: the house is full', '... and said again');
SELECT is((SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'inbound'), 1::bigint, 'doctor() finds it');
SET rsvp_sync.max_attempts = 3;
UPDATE rsvp_sync._inbound SET due_at = now();
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, 'tried again');
SELECT is((SELECT state FROM rsvp_sync.inbound), 'failed', '... and given up');
DROP TRIGGER refuse ON app.attendance;
SELECT is(rsvp_sync._inbound_retry(10), 0::bigint, 'not tried any more');
SELECT ok(rsvp_sync.retry() > 0, 'retry()');
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, '... has it tried again');
SELECT is(status(4, 1), 'confirmed', '... it is applied');
SELECT is((SELECT count(*) FROM rsvp_sync.inbound), 0::bigint, '... nothing waits');
SELECT is(plan(), 'nothing', 'nothing is sent');

SELECT rsvp_sync.pause('app.attendance');
BEGIN;
SELECT is(process(4, 1, 'interested', '3eeeeeeeeeeee', 6), 'parked', 'a paused table: parked');
SELECT ok((SELECT due_at > now() + interval '5 seconds' FROM rsvp_sync.inbound WHERE did = did(4)), '... and not tried at every moment');
COMMIT;
SELECT rsvp_sync.resume('app.attendance'), rsvp_sync.retry();
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, 'resumed');
SELECT is(status(4, 1), 'maybe', '... it is applied');
SET rsvp_sync.mode = 'dry_run';
SELECT is(process(4, 1, 'going', '3eeeeeeeeeeee', 7), 'parked', 'dry_run: parked');
SELECT is((SELECT outcome FROM rsvp_sync._history WHERE action = 'apply' ORDER BY at DESC LIMIT 1), 'dry_run', '... and in the history');
SELECT is(status(4, 1), 'maybe', '... nothing more');
SELECT is(rsvp_sync._inbound_retry(10), 0::bigint, '... as long as it is so');
RESET rsvp_sync.mode;
SELECT ok(rsvp_sync.retry() > 0, 'live again');
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, '... it is applied');
SELECT is(status(4, 1), 'confirmed', '... as it was said');

--
-- Others
--
SELECT throws_ok($$SELECT rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3aaaaaaaaaaaa', 1), NULL)$$, '22004', NULL, 'no tenant');
SELECT throws_ok($$SELECT rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3aaaaaaaaaaaa', 1), 'two')$$, '42704', NULL, 'an unknown tenant');
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3aaaaaaaaaaaa', -1000), '') ->> 'success', 'true', 'where there is but one tenant, none need be named');
SELECT throws_ok($$SELECT rsvp_sync.process_external_rsvp(NULL, 'one')$$, '22004', NULL, 'no payload');
SELECT throws_ok($$SELECT rsvp_sync.process_external_rsvp('[]', 'one')$$, '22023', NULL, 'a payload that is no object');
SELECT throws_ok($$SELECT * FROM rsvp_sync.delete_external_rsvp('x', 'web', NULL)$$, '22004', NULL, 'deleting: no tenant');
SELECT throws_ok($$SELECT * FROM rsvp_sync.delete_external_rsvp(NULL, 'web', 'one')$$, '22004', NULL, 'deleting: nothing');
SELECT throws_ok(format($$SELECT rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3zzzzzzzzzzzz', 1) #- '{metadata,record}' #- %L || %L, 'one')$$, d, e), '22023', NULL, 'wrong: ' || d || e)
FROM (VALUES ('{}', '{"eventSourceId": 3}'), ('{}', '{"eventSourceId": "https://example.com"}'), ('{eventSourceId}', '{}'),
	('{}', '{"eventSourceId": "at://alice.example.com/community.lexicon.calendar.event/x"}'), ('{userDid}', '{}'), ('{}', '{"userDid": "alice"}'),
	('{}', '{"userHandle": "no handle"}'), ('{}', '{"userHandle": 1}'), ('{status}', '{}'), ('{}', '{"status": 1}'), ('{}', '{"timestamp": "yesterday"}'), ('{}', '{"timestamp": 12}'),
	('{}', '{"timestamp": "2026-13-01T00:00:00Z"}'), ('{}', '{"sourceId": "at://did:plc:zzzzzzzzzzzzzzzzzzzzzzzz/community.lexicon.calendar.rsvp/3zzzzzzzzzzzz"}'),
	('{}', '{"sourceId": "x"}'), ('{}', '{"metadata": []}'), ('{}', '{"metadata": {"rkey": "other"}}'), ('{}', '{"metadata": {"cid": "no"}}'), ('{}', '{"metadata": {"eventCid": "no"}}'),
	('{}', '{"metadata": {"rev": "no"}}'), ('{}', '{"metadata": {"time_us": "no"}}'), ('{}', '{"metadata": {"record": 1}}'), ('{}', '{"metadata": {"record": {"$type": "app.bsky.feed.like"}}}'),
	('{}', '{"metadata": {"record": {"subject": "at://did:plc:x/y.z.w/v"}}}'), ('{}', '{"metadata": {"collection": "app.bsky.feed.like"}}'),
	('{}', '{"metadata": {"eventUri": "at://did:plc:x/y.z.w/v"}}'), ('{eventSourceType}', '{}')) w (d, e);
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE rkey = '3zzzzzzzzzzzz'), 0::bigint, 'nothing of that is stored');
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 2, 'going', '3lllllllllll', -5) - 'userHandle' - 'timestamp' - 'sourceId'
	|| jsonb_build_object('more', 1, 'metadata', jsonb_build_object('rkey', '3lllllllllll', 'record', record(2, 'going', jsonb_build_object('subject', uri(2))))), 'one') ->> 'action',
	'created', 'much may be missing, or said otherwise');
SET ROLE regress_inbound_nobody;
SELECT throws_ok(format('SELECT rsvp_sync.process_external_rsvp(%L, %L)', '{}', 'one'), '42704', NULL, 'another application''s tenant');
RESET ROLE;
SELECT ok(NOT has_function_privilege('public', 'rsvp_sync.process_external_rsvp(jsonb, text)', 'EXECUTE'), 'not for everybody');
INSERT INTO rsvp_sync._forgotten (digest) VALUES (sha256(convert_to(did(9), 'UTF8')));
SELECT is(process(9, 1, 'going', '3mmmmmmmmmmmm', -5), 'ignored', 'who asked to be forgotten');
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE did = did(9)) + (SELECT count(*) FROM rsvp_sync._stranger WHERE did = did(9)), 0::bigint, '... is');

-- What is no record, to a table with an apply function of its own
SET ROLE regress_inbound;
CREATE SCHEMA own;
CREATE TABLE own.answers (id text PRIMARY KEY, event text, who text, word text);
CREATE FUNCTION own.take(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
INSERT INTO own.answers SELECT md5(did || event_uri), event_uri, did, coalesce(status, 'notgoing') WHERE event_uri LIKE '%/e1'
ON CONFLICT (id) DO UPDATE SET word = excluded.word RETURNING id $$;
SELECT rsvp_sync.attach('own.answers', 'SELECT id, CASE WHEN who LIKE ''did:%'' THEN who END AS did, event AS event_uri, word AS status FROM own.answers',
	'own.take(text, text, text, jsonb)', '{"tenant": "two", "status_map": {"going": "going", "interested": "interested", "notgoing": "notgoing"}}');
RESET ROLE;
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3nnnnnnnnnnnn', -1), 'two') ->> 'action', 'created', 'another tenant, with its own apply function');
SELECT is((SELECT word FROM own.answers), 'going', '... which was called');
SELECT is(status(1, 1), 'cancelled', 'rows of the first tenant are as they were');
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 1, 'going', '3nnnnnnnnnnnn', -1), 'one') ->> 'action', 'updated', '... until it is told, too');
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 8, 'going', '3ppppppppppppp', -1), 'two') ->> 'action', 'parked', 'its function does not know the event: parked');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger WHERE event_uri = uri(8)), 1::bigint, '... as a stub');
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE event_uri = uri(8)), 1::bigint, '... and the application''s word is kept');
SELECT is(ingest(8, -1, 'create', '3uuuuuuuuuuuu', record(8, 'going'), true), 1::bigint, 'the stream has a stranger''s answer to it');
SELECT is((SELECT format('%s %s', (SELECT count(*) FROM rsvp_sync._stranger WHERE rkey = '3uuuuuuuuuuuu'), count(*)) FROM rsvp_sync._observed WHERE did = did(8)), '1 0',
	'... which no function takes: its stub is kept, the record is not');
SELECT is(ingest(8, -1, 'create', '3vvvvvvvvvvvv', record(1, 'going'), true), 1::bigint, 'another one to an event that is known');
SELECT is((SELECT count(*) FROM rsvp_sync._observed WHERE did = did(8)), 1::bigint, '... is kept');
DELETE FROM own.answers WHERE who = did(8);
SELECT is((SELECT message FROM rsvp_sync.delete_external_rsvp(rsvp(1, '3nnnnnnnnnnnn'), 'bluesky', 'two')), 'Successfully cancelled 1 attendance record(s) using RSVP URI', 'deleted for the second');
SELECT is((SELECT word FROM own.answers), 'notgoing', '... whose function was told');
SELECT is(status(1, 1), 'confirmed', '... and not the first');
SELECT is((SELECT message FROM rsvp_sync.delete_external_rsvp(rsvp(1, '3nnnnnnnnnnnn'), 'bluesky', 'one')), 'Successfully cancelled 1 attendance record(s) using RSVP URI', '... until it is told, too');
SELECT is(plan(), 'nothing', 'nothing is sent');
CREATE FUNCTION web(word text, at text, id text DEFAULT 'https://ann.example/1') RETURNS jsonb LANGUAGE sql AS $$
SELECT rsvp_sync.process_external_rsvp(jsonb_build_object('eventSourceId', uri(1), 'eventSourceType', 'web', 'userDid', 'https://ann.example/', 'userHandle', 'Ann',
	'status', word, 'timestamp', at, 'sourceId', id), 'two') $$;
SELECT is(web('going', '2026-01-01T00:00:00Z') ->> 'action', 'created', 'by the web: going');
SELECT is((SELECT status FROM rsvp_sync.external_rsvp), 'going', '... is in its view');
SELECT is((SELECT a.word FROM own.answers a JOIN rsvp_sync.external_rsvp x ON x.attendance_id = a.id), 'going', '... and a row');
SELECT is(web('going', '2026-01-01T00:00:00Z') ->> 'action', 'unchanged', 'again: nothing');
SELECT is(web('notgoing', '2025-01-01T00:00:00Z') ->> 'action', 'ignored', 'older: nothing');
SELECT is(web('maybe so', '2026-01-02T00:00:00Z') ->> 'action', 'kept', 'an unknown word: kept');
SELECT is(web('interested', '2099-01-02T00:00:00Z') ->> 'action', 'updated', 'later: counts');
SELECT ok((SELECT said_at <= now() FROM rsvp_sync.external_rsvp), '... though not from the future');
SELECT is(plan(), 'nothing', 'nothing is sent');
SELECT is((SELECT d::text FROM rsvp_sync.delete_external_rsvp('https://ann.example/2', 'web', 'two') d), '(t,"RSVP not found for deletion - ignoring")', 'an unknown one is deleted: nothing');
SELECT is((SELECT success FROM rsvp_sync.delete_external_rsvp('https://ann.example/1', 'web', 'two')), true, 'deleted');
SELECT is((SELECT word FROM own.answers WHERE who LIKE 'https%'), 'notgoing', '... its attendance is cancelled');
SELECT is(rsvp_sync.process_external_rsvp(payload(1, 1, 'going', 'x', 1) || '{"eventSourceType": "web", "userDid": "https://x.example/"}', 'one') ->> 'action', 'parked',
	'a table that has no users of this kind: parked');
SELECT isnt((SELECT last_error FROM rsvp_sync.external_rsvp WHERE author = 'https://x.example/'), NULL, '... with the reason');

-- One table's trouble, and another that has the record verified
UPDATE began SET at = extract(epoch FROM now());
SELECT is(ingest(1, -8, 'create', '3qqqqqqqqqqq2', record(1, 'going'), true), 1::bigint, 'a record');
SELECT is(ingest(1, -6, 'delete', '3qqqqqqqqqqq2', NULL, true), 1::bigint, '... that goes');
UPDATE rsvp_sync._observed SET changed_at = now() + interval '1 hour' WHERE rkey = '3qqqqqqqqqqq2';
ALTER TABLE own.answers RENAME COLUMN word TO worde;
SELECT ingest(1, 3000, 'create', '3qqqqqqqqqqqq', record(1, 'going'));
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE rkey = '3qqqqqqqqqqqq'), 'verify', 'another table''s query does not run: verified nevertheless');
SELECT isnt((SELECT last_error FROM rsvp_sync._inbound WHERE rkey = '3qqqqqqqqqqqq'), NULL, '... and the trouble is told');
ALTER TABLE own.answers RENAME COLUMN worde TO word;

-- Times that have not come yet
SELECT ingest(5, -60, 'create', '3rrrrrrrrrrrr', record(1, 'going'), true);
SELECT rsvp_sync._ingest('stream', ARRAY[did(5)], '{jzzzzzzzzzzzz}', '{delete}', '{3rrrrrrrrrrrr}', '{NULL}', '{NULL}', '{NULL}', false);
SELECT is(ingest(5, 3, 'create', '3rrrrrrrrrrrr', record(1, 'interested'), true), 1::bigint, 'a rev from the far future is not newer for ever');
SELECT is(status(5, 1), 'maybe', '... what is said after it counts');
SELECT is(process(5, 1, 'going', '3rrrrrrrrrrrr', 4000000, jsonb_build_object('time_us', rsvp_sync._us_of(clock_timestamp()))), 'updated', 'told by the application');
SELECT is(process(5, 1, 'interested', '3rrrrrrrrrrrr', 8), 'updated', '... the same');
SELECT rsvp_sync._ingest_accounts(ARRAY[did(5)], '{f}', '{takendown}', '{9000000000000000}');
SELECT rsvp_sync._ingest_accounts(ARRAY[did(5)], '{t}', '{NULL}', ARRAY[rsvp_sync._us_of(clock_timestamp())]);
SELECT is((SELECT active FROM rsvp_sync._repo WHERE did = did(5)), true, 'an account that is not active in the future is so again');

-- A subject that is too long for an index
SELECT is(ingest(5, 9, 'create', '3sssssssssss2', record(1, 'going', jsonb_build_object('subject', 'at://did:web:' || substr(noise, 1, 2030)
	|| '/a.b' || repeat('.' || repeat('a', 30), 8) || '.c/' || substr(noise, 2031, 500)))), 1::bigint, 'a very long at-uri is no error')
FROM (SELECT string_agg(translate(encode(sha256(n::text::bytea), 'base64'), '+/=', '...'), '') AS noise FROM generate_series(1, 80) n) s;

-- What is no record, of who asked to be forgotten; what cannot be cancelled now; two tables, one of which fails
SELECT is(rsvp_sync.process_external_rsvp(payload(9, 1, 'going', 'x', 1) || '{"eventSourceType": "web"}', 'two') ->> 'action', 'ignored', 'who asked to be forgotten, by the web');
SELECT is((SELECT count(*) FROM rsvp_sync._external WHERE author = did(9)), 0::bigint, '... is');
SELECT is(web('going', '2026-01-03T00:00:00Z') ->> 'action', 'created', 'by the web: going');
SET rsvp_sync.mode = off;
SELECT is((SELECT success FROM rsvp_sync.delete_external_rsvp('https://ann.example/1', 'web', 'two')), false, 'deleted while nothing is applied: no');
RESET rsvp_sync.mode;
SELECT is((SELECT word FROM own.answers WHERE who LIKE 'https%'), 'going', '... the attendance stands');
SELECT is((SELECT success FROM rsvp_sync.delete_external_rsvp('https://ann.example/1', 'web', 'two')), true, 'deleted again');
SELECT is((SELECT word FROM own.answers WHERE who LIKE 'https%'), 'notgoing', '... its attendance is cancelled');
SET ROLE regress_inbound;
CREATE TABLE own.more (id text PRIMARY KEY, event text, who text, word text);
CREATE FUNCTION own.take_more(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
INSERT INTO own.more VALUES (did, event_uri, did, status) RETURNING id $$;
SELECT rsvp_sync.attach('own.more', 'SELECT id, NULL::text AS did, event AS event_uri, word AS status FROM own.more', 'own.take_more(text, text, text, jsonb)',
	'{"tenant": "two", "status_map": {"going": "going"}}');
ALTER TABLE own.answers ADD CONSTRAINT no CHECK (word <> 'interested') NOT VALID;
RESET ROLE;
SELECT is(web('interested', '2026-01-04T00:00:00Z', 'https://ann.example/4') ->> 'action', 'created', 'one of two tables takes it');
SELECT isnt((SELECT due_at FROM rsvp_sync._external WHERE source_id = 'https://ann.example/4'), NULL, '... for the other it is tried again');

-- What came from elsewhere is not told back, what somebody says here is.
SET ROLE regress_inbound;
CREATE TABLE own.pages (id serial PRIMARY KEY, event text, who text, word text);
CREATE FUNCTION own.take_page(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
INSERT INTO own.pages (event, who, word) SELECT event_uri, did, status WHERE event_uri LIKE 'https://events.example/%' RETURNING id::text $$;
SELECT rsvp_sync.attach('own.pages', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, word AS status,
	''https://app.example/rsvps/'' || id AS permalink, event AS event_url FROM own.pages', 'own.take_page(text, text, text, jsonb)',
	'{"tenant": "three", "status_map": {"going": "going"}}') AS pages \gset
RESET ROLE;
SELECT is(rsvp_sync.process_external_rsvp('{"eventSourceType": "web", "eventSourceId": "https://events.example/1", "userDid": "https://zoe.example/",
	"userHandle": "Zoe", "status": "going", "sourceId": "https://zoe.example/1"}', 'three') ->> 'action', 'created', 'an answer by a page');
INSERT INTO own.pages (event, who, word) VALUES ('https://events.example/1', 'us', 'going');
SELECT plan();
SELECT is((SELECT string_agg(p.who || ' ' || w.state, ', ' ORDER BY p.id) FROM rsvp_sync._webmention w JOIN own.pages p ON p.id::text = w.key WHERE w.source_id = :pages),
	'https://zoe.example/ not_backfilled, us waiting', '... is not told back, ours is told');

-- An event of the stream that could not be taken
SELECT rsvp_sync._stream_aside(did(5), '3rrrrrrrrrrrr', record(1, 'going')::text, 'a lock', true);
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(5)), 'verify', 'put aside for a lock: it is read');
SELECT rsvp_sync._stream_aside(did(5), '3rrrrrrrrrrrr', record(1, 'going')::text, 'no good', false);
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(5)), 'failed', '... for its own fault: failed');
SELECT rsvp_sync.retry(did(5));
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(5)), 'verify', '... tried again, it is read, as nothing has been stored of it');
SELECT rsvp_sync._stream_aside(did(9), '3tttttttttttt', record(1, 'going')::text, 'a lock', true);
SELECT is((SELECT count(*) FROM rsvp_sync._inbound WHERE did = did(9)), 0::bigint, 'nothing of who asked to be forgotten');

-- What one tenant's application vouches for is not vouched for in another's table
SELECT rsvp_sync.process_external_rsvp(payload(4, 1, 'notgoing', '3uuuuuuuuuuuu', 10), 'one');
SELECT rsvp_sync.process_external_rsvp(payload(4, 1, 'going', '3uuuuuuuuuuu2', 11), 'two');
SELECT ingest(4, -5000, 'create', '3uuuuuuuuuuu3', record(1, 'notgoing'));
SELECT isnt(status(4, 1), 'confirmed', 'the slot is looked at for another reason: not applied');
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(4)), 'verify', '... but verified');
DELETE FROM rsvp_sync._inbound WHERE did = did(4);
SELECT ingest(4, 11, 'create', '3uuuuuuuuuuu2', record(1, 'going'));
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE did = did(4)), 'verify', '... nor when the stream says so, too');

DELETE FROM rsvp_sync._source WHERE attendance = 'own.more'::regclass;

-- Where only a function knows the events, strangers' records are not read for nothing
SELECT is(ingest(8, 1012, 'create', '3xxxxxxxxxxxx', record(8, 'going')), 0::bigint, 'a stranger''s answer to an event that no function takes');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound WHERE did = did(8)), 0::bigint, '... is not verified');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger WHERE rkey = '3xxxxxxxxxxxx'), 1::bigint, '... but remembered');
UPDATE rsvp_sync._source SET strangers_at = CASE WHEN attendance = 'own.answers'::regclass THEN now() END, strangers_from = NULL;
SELECT is(rsvp_sync._ask_strangers(1000), true, '... asked again');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound WHERE rkey = '3xxxxxxxxxxxx'), 0::bigint, '... the function still does not take it');
SELECT is(ingest(8, 1013, 'create', '3yyyyyyyyyyyy', record(1, 'going')), 1::bigint, 'one to an event that it takes');
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE rkey = '3yyyyyyyyyyyy'), 'verify', '... is verified');
SELECT is((SELECT count(*) FROM own.answers WHERE who = did(8)), 0::bigint, '... and until then the function has done nothing');
CREATE OR REPLACE FUNCTION own.take(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
INSERT INTO own.answers SELECT md5(did || event_uri), event_uri, did, coalesce(status, 'notgoing') WHERE event_uri ~ '/e[18]$'
ON CONFLICT (id) DO UPDATE SET word = excluded.word RETURNING id $$;
UPDATE rsvp_sync._source SET strangers_at = CASE WHEN attendance = 'own.answers'::regclass THEN now() END, strangers_from = NULL;
SELECT is(rsvp_sync._ask_strangers(1000), true, 'asked again when it does take it');
SELECT is((SELECT state FROM rsvp_sync._inbound WHERE rkey = '3xxxxxxxxxxxx'), 'verify', '... it is verified');
SELECT is((SELECT count(*) FROM own.answers WHERE who = did(8)), 0::bigint, '... and until then nothing is done');
DELETE FROM rsvp_sync._inbound WHERE did = did(8);

-- What one tenant's application tells is, for another's table, only a reason to ask
UPDATE began SET at = extract(epoch FROM now());
INSERT INTO rsvp_sync._account (did, owner, auth, state) VALUES (did(3), 'regress_inbound', 'password', 'connected');
CREATE FUNCTION asked(u integer, e integer) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(state || ' ' || rkey, ',') FROM rsvp_sync._inbound WHERE did = did(u) AND event_uri = uri(e) $$;
SELECT is(ingest(3, 1020, 'create', '3wwwwwwwwwwww', record(1, 'going'), true), 1::bigint, 'a record that all were told of');
SELECT is((SELECT message FROM rsvp_sync.delete_external_rsvp(rsvp(3, '3wwwwwwwwwwww'), 'bluesky', 'two')), 'Successfully cancelled 1 attendance record(s) using RSVP URI', 'another tenant''s application says that it is gone');
SELECT is(asked(3, 1), 'verify 3wwwwwwwwwwww', '... the record is to be read');
SELECT rsvp_sync._merge_slots(ARRAY[did(3)], ARRAY[uri(1)], NULL, NULL, NULL);
SELECT is(status(3, 1), 'confirmed', '... the row stays');
SELECT is((SELECT word FROM own.answers WHERE who = did(3)), 'notgoing', '... that tenant''s own is changed');
SELECT is((SELECT string_agg(DISTINCT (x.d).action, ',') FROM rsvp_sync._evaluate(:source, ARRAY(SELECT key FROM rsvp_sync._intent
	WHERE did = did(3) AND event_uri = uri(1) AND source_id = :source), true) x), 'none', '... nothing is sent');
UPDATE app.attendance SET status = 'maybe' WHERE user_id = 3 AND event_id = 1;
SELECT is(plan(), 'read interested', '... a change of the row has the record read first');
UPDATE app.attendance SET status = 'confirmed' WHERE user_id = 3 AND event_id = 1;
SELECT is(plan(), 'nothing', '... and taken back: nothing');
SELECT is((SELECT string_agg(bond || ' ' || rkey, ',') FROM rsvp_sync._intent WHERE did = did(3) AND source_id = :source AND bond IS NOT NULL AND event_uri = uri(1)), 'adopted 3wwwwwwwwwwww', '... the row keeps its record');
SELECT rsvp_sync._verified(did(3), '3wwwwwwwwwwww', rsvp_sync.record_cid(record(1, 'going')), record(1, 'going'), now());
SELECT is(status(3, 1), 'confirmed', 'its author''s PDS has it: the row stays');
SELECT is((SELECT word FROM own.answers WHERE who = did(3)), 'going', '... and what was told so is corrected');
SELECT is(asked(3, 1), NULL, '... nothing is to be read');
SELECT is(rsvp_sync.process_external_rsvp(payload(3, 1, 'notgoing', '3wwwwwwwwwwww', 80000), 'two') ->> 'action', 'updated', 'a rev of tomorrow''s, and another word');
SELECT rsvp_sync._merge_slots(ARRAY[did(3)], ARRAY[uri(1)], NULL, NULL, NULL);
SELECT is(status(3, 1) || ' ' || asked(3, 1), 'confirmed verify 3wwwwwwwwwwww', '... is to be read, too, though it is negative');
SELECT rsvp_sync._verified(did(3), '3wwwwwwwwwwww', rsvp_sync.record_cid(record(1, 'going')), record(1, 'going'), now());
SELECT is((SELECT word FROM own.answers WHERE who = did(3)), 'going', '... and is not so');
SELECT is(ingest(3, 1060, 'update', '3wwwwwwwwwwww', record(1, 'interested'), true), 1::bigint, '... what the network says then is newer');
SELECT is(status(3, 1), 'maybe', '... and counts');
SELECT is(rsvp_sync.process_external_rsvp(payload(3, 1, 'notgoing', '3www2wwwwwwww', 1061), 'two') ->> 'action', 'updated', 'another record, made up');
SELECT is(ingest(3, 1062, 'update', '3wwwwwwwwwwww', record(1, 'notgoing'), true), 1::bigint, '... does not hide');
SELECT rsvp_sync._visited(did(3), NULL, jsonb_build_object('rkeys', '["3www2wwwwwwww"]'::jsonb, 'read', '[{"rkey": "3www2wwwwwwww"}]'::jsonb), now(), NULL, NULL, NULL);
SELECT is(status(3, 1), 'cancelled', '... what is said there');
SELECT is(rsvp_sync.process_external_rsvp(payload(3, 2, 'going', '3wwwwwwwwwwww', 1063), 'two') ->> 'action', 'parked', 'a record that is said to be about another event now');
SELECT is(asked(3, 2), 'verify 3wwwwwwwwwwww', '... is to be read');

-- What others say does not pile up
DELETE FROM rsvp_sync._inbound;
INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state, due_at)
SELECT did(7), 'f' || n, uri(1), 'failed', now() - n * interval '1 hour' FROM generate_series(1, 10002) n;
SET rsvp_sync.history_retention = '5000d';
INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state, due_at)
SELECT did(7), 'v' || n, uri(1), 'verify', now() - n * interval '1 second' FROM generate_series(1, 100003) n;
INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state, due_at) VALUES (did(8), 'old', uri(1), 'apply', now() - interval '1 year');
SELECT rsvp_sync._tidy_inbound();
SELECT is((SELECT string_agg(format('%s %s', state, n), ', ' ORDER BY state) FROM (SELECT state, count(*) AS n FROM rsvp_sync._inbound GROUP BY 1) s),
	'apply 1, failed 10000, verify 100000', 'what was given up, and what waits to be verified, has its bounds');
SELECT is((SELECT string_agg(n, ',' ORDER BY n) FROM unnest('{f10000,f10001,v100000,v100001}'::text[]) n WHERE NOT EXISTS (SELECT FROM rsvp_sync._inbound WHERE rkey = n)), 'f10001,v100001', '... the oldest go');
SELECT is((SELECT count(*) FROM rsvp_sync._stranger WHERE did = did(7)), 3::bigint, '... what was to be verified becomes a stub');
SET rsvp_sync.history_retention = '90min';
SELECT rsvp_sync._tidy_inbound();
SELECT is((SELECT count(*) FROM rsvp_sync._inbound WHERE state = 'failed'), 1::bigint, '... and what is older than the history is forgotten');
RESET rsvp_sync.history_retention;
SELECT is((SELECT sum(value)::integer FROM rsvp_sync.metrics() WHERE name = 'rsvp_sync_errors_total' AND labels ->> 'error_type' IN ('forgotten', 'not_verified')), 10004, '... which is counted');
DELETE FROM rsvp_sync._inbound;

-- What is no record, and is about another event, or another's, now
CREATE FUNCTION moved(e integer, who text, at text) RETURNS jsonb LANGUAGE sql AS $$
SELECT rsvp_sync.process_external_rsvp(jsonb_build_object('eventSourceId', uri(e), 'eventSourceType', 'web', 'userDid', who,
	'status', 'going', 'timestamp', at, 'sourceId', 'https://bob.example/1'), 'two') $$;
CREATE FUNCTION answers(pattern text) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(right(event, 2) || ' ' || word, ', ' ORDER BY event, who) FROM own.answers WHERE who ~ pattern $$;
SELECT is(moved(1, 'https://bob.example/', '2026-01-01T00:00:00Z') ->> 'action', 'created', 'by the web');
SET rsvp_sync.mode = off;
SELECT is(moved(8, 'https://bob.example/', '2026-01-02T00:00:00Z') ->> 'message', 'Not taken: the attendance that it stood for cannot be cancelled now. Tell it again later', 'about another event, while nothing is applied: no');
RESET rsvp_sync.mode;
SELECT is(moved(8, 'https://bob.example/', '2025-01-02T00:00:00Z') ->> 'action', 'ignored', '... and not if it is older');
SELECT is(answers('bob'), 'e1 going', '... the attendance stands');
SELECT is(moved(8, 'https://bob.example/', '2026-01-02T00:00:00Z') ->> 'action', 'created', 'about another event: an attendance there');
SELECT is(answers('bob'), 'e1 notgoing, e8 going', '... the old one is cancelled');
SELECT is(moved(8, 'https://rob.example/', '2026-01-03T00:00:00Z') ->> 'action', 'created', 'somebody else''s');
SELECT is(answers('bob|rob'), 'e1 notgoing, e8 notgoing, e8 going', '... the first one''s is cancelled');
SELECT is((SELECT format('%s %s %s', count(*), min(author), min(a.word)) FROM rsvp_sync.external_rsvp x JOIN own.answers a ON a.id = x.attendance_id WHERE x.source_id = 'https://bob.example/1'),
	'1 https://rob.example/ going', '... and the view says so');

-- One that cannot be tried does not keep others from it
UPDATE rsvp_sync._external SET due_at = CASE WHEN source_id = 'https://bob.example/1' THEN now() - interval '1 minute' WHEN tenant = 'one' THEN now() - interval '1 hour' END;
SET ROLE regress_inbound;
CREATE TABLE own.third (id text PRIMARY KEY, who text, event text, word text);
SELECT rsvp_sync.attach('own.third', 'SELECT id, who AS did, event AS event_uri, word AS status FROM own.third', 'own.take(text, text, text, jsonb)', '{"tenant": "three"}');
DROP TABLE own.third;
RESET ROLE;
INSERT INTO rsvp_sync._external (tenant, source_type, source_id, event_id, author, status, said, said_at, due_at)
VALUES ('three', 'web', 'https://tim.example/1', uri(1), 'https://tim.example/', 'going', 'going', now(), now() - interval '2 hours');
SELECT is(rsvp_sync._external_retry(10), 3::bigint, 'a table that is gone: the statements of others are tried');
SELECT is((SELECT string_agg(format('%s %s', tenant, last_error IS NOT NULL AND due_at > now()), ', ' ORDER BY tenant) FROM rsvp_sync._external WHERE due_at IS NOT NULL), 'one t, three t', '... and it again later');
DELETE FROM rsvp_sync._source WHERE tenant = 'three';

-- Slots without a record
SELECT rsvp_sync._put_off(s, ARRAY[ROW(did(7), uri(1), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'put_off', NULL, NULL, NULL, NULL, 'why')::rsvp_sync._meeting,
	ROW(did(7), uri(2), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'put_off', NULL, NULL, NULL, NULL, 'why')::rsvp_sync._meeting], 'apply', true, now())
FROM rsvp_sync._source s WHERE source_id = :source;
SELECT is((SELECT string_agg(format('%s %s', right(event_uri, 2), uri), ', ' ORDER BY event_uri) FROM rsvp_sync.inbound WHERE did = did(7)), 'e1 , e2 ', 'two events of one person that have to wait, without a record');
DELETE FROM rsvp_sync._inbound;

--
-- What both sides said, and in which order
--
UPDATE began SET at = extract(epoch FROM now());
SET ROLE regress_inbound;
INSERT INTO app.events (id, "sourceType", "sourceData")
SELECT e, 'bluesky', jsonb_build_object('did', 'did:plc:' || repeat('o', 24), 'rkey', 'e' || e) FROM generate_series(11, 19) e;
RESET ROLE;
INSERT INTO rsvp_sync._event (uri, cid) SELECT uri(e), 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm' FROM generate_series(11, 19) e;
DELETE FROM rsvp_sync._queue;
CREATE PROCEDURE options(with_them jsonb) LANGUAGE sql AS $$
UPDATE rsvp_sync._source SET options = jsonb_strip_nulls(options || with_them) WHERE attendance = 'app.attendance'::regclass $$;
CREATE FUNCTION said_here(e integer, word text) RETURNS text LANGUAGE sql AS $$
INSERT INTO app.attendance (status, event_id, user_id) VALUES (word, e, 5) RETURNING id::text $$;
CREATE FUNCTION says_now(of_key text, word text) RETURNS void LANGUAGE sql AS $$
UPDATE app.attendance SET status = word WHERE id = of_key::integer $$;
/* What planning has made of the row was said and written at this time. */
CREATE FUNCTION written(of_key text, at double precision) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	i rsvp_sync._intent := (SELECT i FROM rsvp_sync._intent i JOIN rsvp_sync._source s USING (source_id)
		WHERE s.attendance = 'app.attendance'::regclass AND i.key = of_key);
	r jsonb := rsvp_sync._rsvp_record(NULL, i.event_uri, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', i.sent_local, i.record_created_at);
BEGIN
	PERFORM rsvp_sync._put_done(i.source_id, of_key, (SELECT q.generation FROM rsvp_sync._queue q WHERE q.source_id = i.source_id AND q.key = of_key),
		i.did, i.rkey, r, i.sent_cids[1], rev(at));
	UPDATE rsvp_sync._intent n SET local_at = to_timestamp((SELECT b.at FROM began b) + written.at) WHERE n.source_id = i.source_id AND n.key = of_key;
	RETURN i.rkey;
END $$;
CREATE FUNCTION standing(of_key text) RETURNS text LANGUAGE sql AS $$
SELECT state || '/' || reason_code FROM rsvp_sync._intent WHERE key = of_key AND source_id = (SELECT source_id FROM rsvp_sync._source WHERE attendance = 'app.attendance'::regclass) $$;

-- A row that is made where there is a record which no row stands for any more: they never agreed.
CALL options('{"on_delete": "keep"}');
SELECT is(ingest(5, -100, 'create', '3aaaaaaaaaa22', record(11, 'notgoing'), true), 1::bigint, 'a record says notgoing');
SELECT is(status(5, 11), 'cancelled', '... and so does a row');
DELETE FROM app.attendance WHERE event_id = 11;
SELECT is(plan(), 'nothing', '... which goes, and the record is kept');
CALL options('{"conflict": "remote"}');
SELECT said_here(11, 'maybe') AS row11 \gset
SELECT is(plan(), 'nothing', 'conflict remote: a new row says something else');
SELECT is(standing(:'row11'), 'done/remote_newer', '... the record speaks');
SELECT is(rsvp_sync._inbound_retry(10), 1::bigint, '... and is applied');
SELECT is(status(5, 11), 'cancelled', '... to the row');
SELECT is(plan(), 'nothing', 'nothing is sent');
SELECT says_now(:'row11', 'maybe');
SELECT is(plan(), 'put interested', '... but what the row says after they agreed is');
SELECT written(:'row11', -50);
DELETE FROM app.attendance WHERE event_id = 11;
SELECT plan();
CALL options('{"conflict": null}');
SELECT said_here(11, 'confirmed') AS row11 \gset
SELECT is(plan(), 'put going', 'conflict latest: a new row is newer than the record, and is sent');
CALL options('{"on_delete": null}');
DELETE FROM rsvp_sync._queue;

-- Another record that says what was heard before, after the row has changed
SELECT said_here(12, 'confirmed') AS row12 \gset
SELECT is(plan(), 'put going', 'going');
SELECT written(:'row12', -100) AS rkey12 \gset
SELECT says_now(:'row12', 'maybe');
SELECT said_before(:'row12', '60 s');
SELECT is(ingest(5, -50, 'update', :'rkey12', record(12, 'going', '{"note": 1}'), true), 1::bigint, 'the row changes, then its record in other fields');
SELECT is(status(5, 12), 'maybe', '... which is no news');
SELECT is(ingest(5, -40, 'create', '3bbbbbbbbbb22', record(12, 'going'), true), 1::bigint, '... then another record says going once more');
SELECT is(status(5, 12), 'confirmed', '... which counts');
SELECT is(plan(), 'nothing', '... and nothing is sent');
SELECT says_now(:'row12', 'maybe');
SELECT said_before(:'row12', '30 s');
SELECT is(ingest(5, -20, 'create', '3bbbbbbbbbb23', record(12, 'going', '{"note": 3}'), true), 1::bigint, 'a third one, and the one before is still there');
SELECT is(status(5, 12), 'confirmed', '... counts, too');
SELECT says_now(:'row12', 'maybe');
SELECT said_before(:'row12', '10 s');
SELECT is(ingest(5, -15, 'create', '3bbbbbbbbbb24', record(12, 'going', '{"note": 4}'), true), 1::bigint, 'a fourth one, older than the row');
SELECT is(status(5, 12), 'maybe', '... does not');
SELECT is(plan(), 'put interested', '... and the row''s word is sent');
DELETE FROM rsvp_sync._queue;
SELECT is(rsvp_sync._merge(true, false, l, b, true, 'a', 'going', 'b', 'going', false, n, c, true, o), e, format('another record says the same: %s', e))
FROM (VALUES ('interested', 'going', false, 'latest', true, 'apply'), ('interested', 'going', true, 'latest', true, 'local'), ('interested', 'going', false, 'local', true, 'local'),
	('interested', 'going', true, 'remote', true, 'apply'), ('interested', 'going', false, 'latest', false, 'agree'), ('going', 'going', false, 'latest', true, 'agree'),
	('interested', 'interested', false, 'latest', true, 'agree'), ('going', 'interested', false, 'latest', true, 'agree')) t (l, b, n, c, o, e);

-- Declined where nothing was known of a record, which was there nevertheless
CALL options('{"on_cancel": "delete"}');
SELECT said_here(13, 'cancelled') AS row13 \gset
SELECT is(plan(), 'nothing', 'declined, and nothing is there');
SELECT is(standing(:'row13'), 'withheld/never_published', '... as far as is known');
SELECT is(ingest(5, -100, 'create', '3ccccccccccc2', record(13, 'interested'), true), 1::bigint, 'the stream brings a record that is older');
SELECT is(status(5, 13), 'cancelled', '... the row''s word counts');
SELECT is(plan(), 'put notgoing', '... and is sent');
SELECT written(:'row13', -1);
DELETE FROM rsvp_sync._queue;

-- Declined, and answered elsewhere later; the host has to approve.
UPDATE app.events SET "requireApproval" = true WHERE id = 18;
SELECT said_here(18, 'cancelled') AS row18 \gset
SELECT plan();
SELECT is(standing(:'row18'), 'withheld/never_published', 'declined, and nothing is there');
SELECT is(ingest(5, 3000, 'create', '3ddddddddddd2', record(18, 'going'), true), 1::bigint, 'then somebody else''s record says going');
SELECT is(status(5, 18), 'pending', '... which waits for the host');
SELECT is(plan(), 'nothing', '... and is not changed');
SELECT is(standing(:'row18'), 'done/from_network', '... nor withheld');
SELECT says_now(:'row18', 'cancelled');
SELECT is(plan(), 'put notgoing', 'the user changes his mind');
SELECT says_now(:'row18', 'pending');
SELECT is(plan(), 'read interested', '... and back, while it is not known whether that was written');
SELECT rsvp_sync._read_done(:source, :'row18', did(5), '3ddddddddddd2', rsvp_sync.record_cid(record(18, 'going')), record(18, 'going'));
SELECT is(plan(), 'nothing', '... it was not: there is nothing to send');
SELECT is((SELECT sent_cids FROM rsvp_sync._intent WHERE source_id = :source AND key = :'row18'), '{}', '... nor to wait for');

-- Our own record, and another tenant's application that tells of it
SET ROLE regress_inbound;
CREATE OR REPLACE FUNCTION own.take(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
INSERT INTO own.answers SELECT md5(did || event_uri), event_uri, did, coalesce(status, 'notgoing') WHERE event_uri ~ '/e([18]|1[49])$'
ON CONFLICT (id) DO UPDATE SET word = excluded.word RETURNING id $$;
RESET ROLE;
SELECT said_here(14, 'confirmed') AS row14 \gset
SELECT is(plan(), 'put going', 'a record of ours');
SELECT written(:'row14', -100) AS rkey14 \gset
CREATE FUNCTION told(of_tenant text, e integer, extra jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	said text;
BEGIN
	said := rsvp_sync.process_external_rsvp(payload(5, e, 'going', o.rkey, -100, jsonb_build_object('cid', o.cid, 'rev', o.rev, 'record', o.record) || extra), of_tenant) ->> 'action'
	FROM rsvp_sync._observed o WHERE o.did = did(5) AND o.event_uri = uri(e) AND o.cid IS NOT NULL;
	RETURN said || ' ' || (SELECT count(*) FROM own.answers a WHERE a.who = did(5) AND a.event = uri(e) AND a.word = 'going');
END $$;
SELECT is(told('one', 14), 'unchanged 0', 'its own application tells of it: nothing');
SELECT is(told('two', 14), 'created 1', 'the other tenant''s has no row for it until it tells of it');
SELECT is(told('two', 14), 'unchanged 1', '... again: nothing');
SELECT is(plan(), 'nothing', 'nothing is sent');
DELETE FROM own.answers WHERE who = did(5) AND event = uri(14);
SELECT is(plan(), 'nothing', 'that row goes: nothing is sent');
SELECT is(told('two', 14), 'unchanged 0', '... and it is not told of the same version twice');
SELECT said_here(19, 'confirmed') AS row19 \gset
SELECT plan();
SELECT written(:'row19', -100);
SELECT is(told('two', 19, '{"cid": null, "record": null}'), 'created 1', 'told of another one by its rev');
SELECT is(told('two', 19, '{"cid": null, "record": null}'), 'unchanged 1', '... again: nothing');

-- Why nothing is published, where a row is not withheld any more
CREATE FUNCTION skipped(of_key text, is_so boolean) RETURNS void LANGUAGE sql AS $$
UPDATE app.attendance SET metadata = CASE WHEN is_so THEN '{"skipBlueskySync": true}'::jsonb END WHERE id = of_key::integer $$;
SELECT said_here(16, 'cancelled') AS row16 \gset
SELECT plan();
SELECT skipped(:'row16', true);
SELECT plan();
SELECT is(standing(:'row16'), 'withheld/skipped', 'declined, and then withheld');
SELECT skipped(:'row16', false);
SELECT plan();
SELECT is(standing(:'row16'), 'withheld/never_published', '... and no more: nothing was published');
SELECT said_here(17, 'confirmed') AS row17 \gset
SELECT plan();
SELECT written(:'row17', -100) AS rkey17 \gset
SELECT rsvp_sync._observe(did(5), :'rkey17', NULL, NULL, rev(-50), 'read', now());
SELECT rsvp_sync._enqueue(:source, ARRAY[:'row17'], 0::smallint, now());
SELECT is(plan(), 'nothing', 'published, and deleted elsewhere');
SELECT is(standing(:'row17'), 'done/deleted_elsewhere', '... which is said');
SELECT skipped(:'row17', true);
SELECT plan();
SELECT is(standing(:'row17'), 'withheld/skipped', '... then it is withheld');
SELECT skipped(:'row17', false);
SELECT plan();
SELECT is(standing(:'row17'), 'done/deleted_elsewhere', '... and no more: that is said again');
SELECT is((SELECT count(*) FROM rsvp_sync._differences(:source) d WHERE d IN (:'row16', :'row17')), 0::bigint, 'which reconcile takes for right');
CALL options('{"on_cancel": null}');
DELETE FROM rsvp_sync._queue;
DELETE FROM rsvp_sync._inbound;

-- Texts that cannot be keys
SET ROLE regress_inbound;
CREATE TABLE own.two (a integer, b uuid, PRIMARY KEY (a, b));
SELECT rsvp_sync.attach('own.two', 'SELECT a, b, NULL::text AS did, NULL::text AS event_uri, NULL::text AS status FROM own.two');
SELECT throws_ok(format('SELECT rsvp_sync.%s(%L, %L)', f, t, k), '22023', format('"%s" cannot be a key of table %s', k, t), format('%s() with %s', f, k))
FROM unnest('{sync_status,retry,discard,preview,explain_sync,rsvp_document}'::text[]) f
CROSS JOIN (VALUES ('app.attendance', 'abc'), ('own.two', '[1'), ('own.two', '["1"]'), ('own.two', '["1", "x"]'), ('own.two', 'abc')) k (t, k);
SELECT lives_ok(format('SELECT rsvp_sync.%s(%L, %L)', f, t, k), format('%s() with %s', f, k))
FROM unnest('{sync_status,retry,discard,preview,explain_sync,rsvp_document}'::text[]) f
CROSS JOIN (VALUES ('app.attendance', '123456'), ('own.two', '["1", "00000000-0000-0000-0000-000000000001"]')) k (t, k);
RESET ROLE;

SELECT * FROM finish();
