-- Comparing whole sources: which is due, what a slice finds, where a pass is.
-- There is no worker here.  What it all comes to is in test/t/170_reconcile.pl;
-- test/model compares what is found with planning every key by itself.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE ROLE regress_reconcile;
SELECT rsvp_sync.grant_application('regress_reconcile');
CREATE SCHEMA reconcile_test AUTHORIZATION regress_reconcile;
SET SESSION AUTHORIZATION regress_reconcile;
CREATE TABLE reconcile_test.seat (
	row_no integer, "Seat %" text, did text, event_uri text, status text,
	withheld text, uri varchar(20), cid text,
	PRIMARY KEY (row_no, "Seat %"));
INSERT INTO reconcile_test.seat
SELECT n, 's "' || n, 'did:plc:' || repeat(chr(96 + n), 24),
	'at://did:plc:' || repeat('o', 24)
	|| '/community.lexicon.calendar.event/party', 'confirmed'
FROM generate_series(1, 7) n;
SELECT rsvp_sync.attach('reconcile_test.seat',
	'SELECT row_no, "Seat %", did, event_uri, status, withheld
	FROM reconcile_test.seat WHERE status <> ''hidden''', NULL,
	'{"writeback": {"uri": "uri", "cid": "cid"}, "backfill": "none"}') AS id \gset
RESET SESSION AUTHORIZATION;

-- Pages, in the order of the key, each up to a key and from there on
SELECT rsvp_sync._page_end(:id, NULL, 3) AS first \gset
SELECT rsvp_sync._page_end(:id, :'first', 3) AS second \gset
SELECT :'first', :'second', rsvp_sync._page_end(:id, :'second', 3);
SELECT key, present, tellable, told_uri, left(did, 9), status FROM rsvp_sync._page(:id, NULL, :'first') ORDER BY key;
SELECT key FROM rsvp_sync._page(:id, :'first', :'second') ORDER BY key;
SELECT key FROM rsvp_sync._page(:id, :'second', NULL) ORDER BY key;
SELECT rsvp_sync._present(:id, ARRAY['["7", "s \"7"]', '["8", "s \"8"]']);

-- A pass by slices of three: what is as it was, and what is not
CREATE FUNCTION reconcile_test.pass(of_source bigint, OUT slice integer, OUT phase text,
	OUT "position" text, OUT seen bigint, OUT differing text)
RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
	pass rsvp_sync._pass;
	s record;
BEGIN
	pass.source_id := of_source;
	slice := 0;
	LOOP
		SELECT * INTO s FROM rsvp_sync._next_slice(pass, 3);
		pass := s.pass;
		slice := slice + 1;
		phase := pass.phase;
		"position" := pass.position;
		seen := pass.seen;
		differing := (SELECT string_agg(k, ', ' ORDER BY k) FROM unnest(s.differing) k);
		RETURN NEXT;
		EXIT WHEN pass.phase IS NULL;
	END LOOP;
END
$$;
SELECT * FROM reconcile_test.pass(:id);
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE reconcile_test.seat SET status = 'maybe' WHERE row_no = 1;
UPDATE reconcile_test.seat SET withheld = 'my reasons' WHERE row_no = 2;
UPDATE reconcile_test.seat SET status = 'hidden' WHERE row_no = 3;
DELETE FROM reconcile_test.seat WHERE row_no = 4;
UPDATE reconcile_test.seat SET did = 'did:bad' WHERE row_no = 5;
UPDATE reconcile_test.seat SET status = 'attended' WHERE row_no = 6;
INSERT INTO reconcile_test.seat SELECT 9, 'new', did, event_uri, status FROM reconcile_test.seat WHERE row_no = 7;
SET LOCAL session_replication_role = origin;
SELECT * FROM reconcile_test.pass(:id);
-- ... but what waits already is left alone
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at) VALUES (:id, '["1", "s \"1"]', now(), now());
SELECT string_agg(differing, ', ') FROM reconcile_test.pass(:id);
SELECT rsvp_sync.reconcile('reconcile_test.seat');
-- Planned, it is as it should be
SELECT (rsvp_sync._drain(100)).drained;
SELECT count(*) FROM rsvp_sync._lease(1, 100) l, LATERAL rsvp_sync._plan_keys(l.source_id, l.keys) w;
DELETE FROM rsvp_sync._queue;
SELECT key, live, state, reason_code, reason FROM rsvp_sync._intent WHERE source_id = :id ORDER BY key;
SELECT string_agg(differing, ', ') FROM reconcile_test.pass(:id);
ROLLBACK;

-- Write-backs
BEGIN;
UPDATE rsvp_sync._intent SET bond = 'own', rkey = '3kabc2defgh2' || left(key, 0), base_cid = 'bafycid', live = true,
	state = 'done', reason_code = 'published' WHERE source_id = :id;
INSERT INTO rsvp_sync._observed (did, rkey, cid, event_uri, status, source)
SELECT did, rkey, base_cid, event_uri, local, 'write' FROM rsvp_sync._intent WHERE source_id = :id;
SET LOCAL session_replication_role = replica;
-- a short column takes what it can
UPDATE reconcile_test.seat SET uri = left('at://' || did, 20), cid = 'bafycid';
SELECT string_agg(differing, ', ') FROM reconcile_test.pass(:id);
UPDATE reconcile_test.seat SET uri = NULL WHERE row_no = 1;
UPDATE reconcile_test.seat SET uri = '' WHERE row_no = 2;
UPDATE reconcile_test.seat SET cid = 'bafyold' WHERE row_no = 3;
UPDATE reconcile_test.seat SET cid = cid || 'x' WHERE row_no = 4;
UPDATE rsvp_sync._intent SET writeback = true WHERE source_id = :id AND key LIKE '["4%';
SELECT string_agg(differing, ', ') FROM reconcile_test.pass(:id);
ROLLBACK;

-- Keys in the order of their texts, about in it, and in none; intents that were
-- written anew, are gone, or never were; records one by one and all at once
SET SESSION AUTHORIZATION regress_reconcile;
CREATE TABLE reconcile_test.number (key integer PRIMARY KEY, did text, event_uri text);
CREATE TABLE reconcile_test.random (key uuid PRIMARY KEY, did text, event_uri text);
CREATE TABLE reconcile_test.word (key text COLLATE "C" PRIMARY KEY, did text, event_uri text);
INSERT INTO reconcile_test.number SELECT n, 'did:web:u' || n || '.example', 'at://did:web:o.example/x.y.z/1' FROM generate_series(1, 12000) n;
INSERT INTO reconcile_test.random SELECT md5(n::text)::uuid, 'did:web:u' || n || '.example', 'at://did:web:o.example/x.y.z/2' FROM generate_series(1, 3000) n;
INSERT INTO reconcile_test.word SELECT chr(65 + n % 60) || repeat('-', n % 5) || n, 'did:web:u' || n || '.example', 'at://did:web:o.example/x.y.z/3'
FROM generate_series(1, 3000) n;
SELECT count(rsvp_sync.attach('reconcile_test.' || t, format('SELECT key AS attendance_id, did, event_uri, ''confirmed'' AS status FROM reconcile_test.%I', t),
	NULL, '{"writeback": false}')) FROM unnest('{number,random,word}'::text[]) t;
RESET SESSION AUTHORIZATION;
CREATE FUNCTION reconcile_test.found(at_once boolean) RETURNS TABLE (name text, keys bigint, one text)
LANGUAGE plpgsql AS $$
DECLARE
	s rsvp_sync._source;
	pass rsvp_sync._pass;
	slice record;
	found_keys text[];
BEGIN
	FOR s IN SELECT * FROM rsvp_sync._source t WHERE t.attendance_name ~ '(number|random|word)$' ORDER BY 1 LOOP
		pass := NULL;
		pass.source_id := s.source_id;
		found_keys := '{}';
		LOOP
			SELECT * INTO slice FROM rsvp_sync._next_slice(pass, 2500, CASE WHEN at_once THEN rsvp_sync._record_digests(4096) END);
			pass := slice.pass;
			found_keys := found_keys || slice.differing;
			EXIT WHEN pass.phase IS NULL;
		END LOOP;
		name := s.attendance::text || ' ' || pass.seen;
		keys := cardinality(found_keys);
		one := (SELECT min(k COLLATE "C") FROM unnest(found_keys) k);
		RETURN NEXT;
	END LOOP;
END
$$;
BEGIN;
SELECT * FROM reconcile_test.found(false);
UPDATE rsvp_sync._intent i SET live = true, bond = 'own', rkey = '3k' || left(md5(key), 11), base_cid = 'bafy' || key, state = 'done',
	reason_code = 'published' FROM rsvp_sync._source s WHERE s.source_id = i.source_id AND s.attendance_name ~ '(number|random|word)$';
INSERT INTO rsvp_sync._observed (did, rkey, cid, event_uri, status, source)
SELECT did, rkey, base_cid, event_uri, local, 'write' FROM rsvp_sync._intent WHERE bond IS NOT NULL;
SELECT * FROM reconcile_test.found(false);
SELECT * FROM reconcile_test.found(true);
SELECT rsvp_sync._record_digests(64) IS NULL AS too_many;
UPDATE rsvp_sync._observed SET cid = 'other' WHERE did LIKE '%77.example';
DELETE FROM rsvp_sync._observed WHERE did LIKE '%88.example';
UPDATE rsvp_sync._observed SET cid = NULL WHERE did LIKE '%99.example';
DELETE FROM rsvp_sync._intent WHERE did LIKE '%66.example';
SELECT * FROM reconcile_test.found(false);
SELECT * FROM reconcile_test.found(true);
ROLLBACK;

-- Which is due: from the end of the last pass, give or take
CREATE FUNCTION reconcile_test.due(of_source bigint, finished interval, backlog integer DEFAULT 10)
RETURNS boolean LANGUAGE sql AS $$
INSERT INTO rsvp_sync._pass (source_id, finished_at) VALUES (of_source, now() - finished)
ON CONFLICT (source_id) DO UPDATE SET finished_at = excluded.finished_at;
SELECT rsvp_sync._reconcile_due(backlog) IS NOT DISTINCT FROM of_source
$$;
BEGIN;
DELETE FROM rsvp_sync._source WHERE source_id <> :id;
INSERT INTO rsvp_sync._installation SELECT s.system_identifier, d.oid FROM pg_control_system() s, pg_database d
WHERE d.datname = current_database() ON CONFLICT DO NOTHING;
SET LOCAL rsvp_sync.reconcile_interval = '1h';
SELECT rsvp_sync._reconcile_due(10) AS just_attached;
UPDATE rsvp_sync._source SET attached_at = now() - interval '29 minutes';
SELECT rsvp_sync._reconcile_due(10) AS half_an_interval_at_least;
UPDATE rsvp_sync._source SET attached_at = now() - interval '67 minutes';
SELECT rsvp_sync._reconcile_due(10) = :id AS attached_long_ago;
SELECT d, reconcile_test.due(:id, d) FROM unnest(ARRAY['1 second', '53 minutes', '67 minutes']::interval[]) d;
SET LOCAL rsvp_sync.reconcile_interval = '0';
SELECT reconcile_test.due(:id, '1 year') AS switched_off;
SET LOCAL rsvp_sync.reconcile_interval = '1min';
SELECT reconcile_test.due(:id, '67 minutes') AS oftener;
SET LOCAL rsvp_sync.mode = 'off';
SELECT reconcile_test.due(:id, '67 minutes') AS mode_off;
SET LOCAL rsvp_sync.mode = 'dry_run';
SELECT reconcile_test.due(:id, '67 minutes') AS dry_run;
UPDATE rsvp_sync._source SET state = 'paused';
SELECT reconcile_test.due(:id, '67 minutes') AS paused;
UPDATE rsvp_sync._source SET state = 'active', retry_at = now() + interval '1 s';
SELECT reconcile_test.due(:id, '67 minutes') AS failed_just_now;
UPDATE rsvp_sync._source SET retry_at = NULL;
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at) SELECT :id, n::text, now(), now() FROM generate_series(1, 9) n;
SELECT reconcile_test.due(:id, '67 minutes') AS nine_wait;
INSERT INTO rsvp_sync._change_log (source_id, key, op) VALUES (:id, '10', 'l');
SELECT reconcile_test.due(:id, '67 minutes') AS ten_wait;
UPDATE rsvp_sync._queue SET due_at = now() + interval '1 hour' WHERE key = '1';
SELECT reconcile_test.due(:id, '67 minutes') AS one_for_later;

-- A slice keeps its place; an error that passes keeps it, too
SELECT rsvp_sync._reconcile_slice(:id, 3);
SELECT phase, position, seen, differing, finished_at < now() AS not_yet, error FROM rsvp_sync._pass;
SELECT rsvp_sync._reconcile_failed(:id, '55P03', 'in the way', true);
SELECT phase, position, not_before, error, rsvp_sync._reconcile_due(10) = :id AS due FROM rsvp_sync._pass;
SELECT rsvp_sync._reconcile_failed(:id, '57014', 'too slow', false);
SELECT phase, position, not_before > now() AS later, error, rsvp_sync._reconcile_due(10) = :id AS due, s.state, s.failures
FROM rsvp_sync._pass JOIN rsvp_sync._source s USING (source_id);
SELECT rsvp_sync._reconcile_slice(:id, 30);
SELECT phase, position, seen, differing, finished_at >= now() AS finished, error FROM rsvp_sync._pass;
SELECT rsvp_sync._reconcile_slice(:id, 3);
SELECT rsvp_sync._reconcile_failed(:id, '42703', 'no such column', false);
SELECT p.phase, p.error, s.state FROM rsvp_sync._pass p JOIN rsvp_sync._source s USING (source_id);
ROLLBACK;

SET ROLE regress_reconcile;
SELECT rsvp_sync.detach_all();
RESET ROLE;
DROP SCHEMA reconcile_test CASCADE;
DROP OWNED BY regress_reconcile;
DROP ROLE regress_reconcile;
