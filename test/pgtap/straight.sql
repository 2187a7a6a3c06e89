-- The straight way of planning and the long one: whatever is in the way of a
-- row, what is written down and what is to be sent are the same.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
/* No worker takes what is put into the log here. */
SELECT rsvp_sync.pause();
SET rsvp_sync.allow_plaintext_credentials = on;

CREATE ROLE regress_straight;
CREATE ROLE regress_straight_other;
SELECT rsvp_sync.grant_application('regress_straight');
SELECT rsvp_sync.grant_application('regress_straight_other');
CREATE FUNCTION did(u integer) RETURNS text LANGUAGE sql AS $$
SELECT 'did:plc:' || translate(substr(md5('straight' || u), 1, 24), '0189', 'ghij') $$;
CREATE FUNCTION uri(e integer) RETURNS text LANGUAGE sql AS $$
SELECT 'at://did:plc:' || repeat('o', 24) || '/community.lexicon.calendar.event/e' || e $$;
CREATE TABLE attendance (id integer PRIMARY KEY, did text, event_uri text, status text, withheld text,
	event_cid text DEFAULT 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', created_at timestamptz, starts_at timestamptz);
ALTER TABLE attendance OWNER TO regress_straight;
SET ROLE regress_straight;
SELECT count(rsvp_sync.connect_account(did(u), 'password')) FROM generate_series(1, 30) u WHERE u NOT IN (3, 4, 5) \g /dev/null
SELECT rsvp_sync.attach('attendance', 'SELECT id, did, event_uri, status, withheld, event_cid, created_at, starts_at FROM attendance',
	options => '{"writeback": false, "index": "none", "status_map": {"pending": null}}') AS source \gset
SET ROLE regress_straight_other;
SELECT count(rsvp_sync.connect_account(did(u), 'password')) FROM generate_series(3, 4) u \g /dev/null
SELECT rsvp_sync.grant_account(did(4), 'regress_straight');
RESET ROLE;
INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at)
SELECT did(u), 'https://pds.test', now(), now() FROM generate_series(1, 30) u WHERE u <> 6;
UPDATE rsvp_sync._identity SET looked_at = now() - interval '1 hour' WHERE did = did(7);
UPDATE rsvp_sync._identity SET lost_since = now() WHERE did = did(8);
UPDATE rsvp_sync._account SET state = 'needs_login' WHERE did = did(9);
UPDATE rsvp_sync._account SET leaving = 'disconnect' WHERE did = did(10);
INSERT INTO rsvp_sync._forgotten (digest) VALUES (sha256(convert_to(did(11), 'UTF8')));
UPDATE rsvp_sync._account SET state = 'deactivated', checked_at = now() - interval '2 days' WHERE did = did(12);
UPDATE rsvp_sync._account SET state = 'connected' WHERE did = did(1);
/* All but one are listed. */
CREATE OR REPLACE FUNCTION rsvp_sync._is_listed(did text) RETURNS boolean LANGUAGE sql AS $$ SELECT did <> public.did(13) $$;
INSERT INTO rsvp_sync._observed (did, rkey, cid, event_uri, status, record, changed_at, source) VALUES
	(did(14), '3kaaaaaaaaa2a', 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', uri(1), 'going', '{"status": "going"}', now() - interval '1 day', 'list'),
	(did(15), '3kaaaaaaaaa2a', NULL, uri(1), NULL, NULL, now() - interval '1 day', 'list');
INSERT INTO rsvp_sync._event (uri, cid) VALUES (uri(2), 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a');

INSERT INTO attendance (id, did, event_uri, status) SELECT u, did(u), uri(1), 'going' FROM generate_series(1, 16) u;
INSERT INTO attendance (id, did, event_uri, status, withheld, event_cid, created_at, starts_at) VALUES
	(17, did(17), uri(1), 'interested', NULL, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', '2026-01-02 03:04:05+00', '2035-01-01'),
	(18, did(18), uri(1), 'notgoing', NULL, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', NULL, NULL),
	(19, did(19), uri(1), 'pending', NULL, NULL, NULL, NULL),
	(20, did(20), uri(1), 'odd', NULL, NULL, NULL, NULL),
	(21, did(21), uri(1), 'going', 'no reason', NULL, NULL, NULL),
	(22, did(22), uri(1), 'going', NULL, NULL, NULL, '2020-01-01'),
	(23, did(23), uri(1), 'going', NULL, NULL, NULL, NULL),
	(24, did(23), uri(2), 'going', NULL, NULL, NULL, NULL),
	(25, did(23), uri(3), 'going', NULL, 'no cid', NULL, NULL),
	(26, did(24), uri(1), 'going', NULL, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', NULL, NULL),
	(27, did(24), uri(1), 'going', NULL, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', NULL, NULL),
	(28, NULL, uri(1), 'going', NULL, NULL, NULL, NULL),
	(29, did(25), NULL, 'going', NULL, NULL, NULL, NULL),
	(30, 'no did', uri(1), 'going', NULL, NULL, NULL, NULL),
	(31, did(26), 'no uri', 'going', NULL, NULL, NULL, NULL),
	(32, did(27), 'at://example.com/community.lexicon.calendar.event/e1', 'going', NULL, 'bafyreihs23txyqecu3pipe6mqthnuinmf5pgj7siznjpr4dd2dzv65n2gm', NULL, NULL);
/* One that has an intent, and another one of whose slot somebody has. */
INSERT INTO rsvp_sync._intent (source_id, key, did, event_uri, live, local, local_at, first_local, state)
VALUES (:source, '16', did(16), uri(1), true, 'interested', now() - interval '1 day', 'interested', 'waiting'),
	(:source, '99', did(28), uri(1), true, 'going', now() - interval '1 day', 'going', 'waiting');
INSERT INTO attendance (id, did, event_uri, status) VALUES (33, did(28), uri(1), 'going');
INSERT INTO attendance (id, did, event_uri, status) SELECT 40 + u, did(u), uri(4), 'going' FROM generate_series(29, 30) u;
SELECT rsvp_sync._drain(1000) \g /dev/null
UPDATE rsvp_sync._queue SET lease = 1, due_at = now();
/* This one came from the network. */
UPDATE rsvp_sync._queue SET by_network = true WHERE key = '69';
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, lease) VALUES (:source, '98', now(), now(), 1);

CREATE TABLE found (way text, key text, intent jsonb, work jsonb, queue jsonb);
CREATE FUNCTION plan(of_source bigint, all_together boolean) RETURNS SETOF rsvp_sync._work LANGUAGE plpgsql AS $$
DECLARE
	k text;
BEGIN
	IF all_together THEN
		RETURN QUERY SELECT * FROM rsvp_sync._plan_keys(of_source,
			ARRAY(SELECT q.key FROM rsvp_sync._queue q ORDER BY q.key::integer));
		RETURN;
	END IF;
	FOR k IN SELECT q.key FROM rsvp_sync._queue q ORDER BY q.key::integer LOOP
		RETURN QUERY SELECT * FROM rsvp_sync._plan_keys(of_source, ARRAY[k]);
	END LOOP;
END $$;
/* Plan, note what came of it, and undo it. */
CREATE PROCEDURE try(way text, of_source bigint, all_together boolean) LANGUAGE plpgsql AS $$
DECLARE
	seen found[];
BEGIN
	BEGIN
		CREATE TEMP TABLE called AS SELECT * FROM plan(of_source, all_together);
		SELECT array_agg(ROW(way, k.key, to_jsonb(i) - 'rkey', to_jsonb(c) - 'rkey', to_jsonb(q))::found) INTO seen
		FROM (SELECT a.id::text FROM attendance a UNION VALUES ('98'), ('99')) k (key)
		LEFT JOIN rsvp_sync._intent i USING (key) LEFT JOIN called c ON c.key = k.key
		LEFT JOIN rsvp_sync._queue q ON q.key = k.key;
		RAISE EXCEPTION 'enough' USING ERRCODE = 'RSVP1';
	EXCEPTION WHEN SQLSTATE 'RSVP1' THEN
		INSERT INTO found SELECT * FROM unnest(seen);
	END;
END $$;
/* The straight way, the long one alone, and what the straight one takes. */
CREATE PROCEDURE try_both(of_source bigint, all_together boolean) LANGUAGE plpgsql AS $$
DECLARE
	straight text := pg_get_functiondef('rsvp_sync._plan_straight(bigint, text[])'::regprocedure);
BEGIN
	DELETE FROM found;
	CALL try('straight', of_source, all_together);
	CREATE OR REPLACE FUNCTION rsvp_sync._plan_straight(of_source bigint, keys text[])
	RETURNS rsvp_sync._work[] LANGUAGE sql AS 'SELECT NULL::rsvp_sync._work[]';
	CALL try('long', of_source, all_together);
	EXECUTE straight;
END $$;
CREATE PROCEDURE take(of_source bigint, INOUT taken text) LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		taken := (SELECT string_agg(w.key, ' ' ORDER BY w.key::integer) FROM unnest(rsvp_sync._plan_straight(of_source,
			ARRAY(SELECT q.key FROM rsvp_sync._queue q))) w);
		RAISE EXCEPTION 'enough' USING ERRCODE = 'RSVP1';
	EXCEPTION WHEN SQLSTATE 'RSVP1' THEN
		NULL;
	END;
END $$;
CREATE VIEW differences AS
SELECT concat_ws(E'\n', s.key, s.intent, l.intent, s.work, l.work, s.queue, l.queue) AS difference
FROM found s JOIN found l USING (key)
WHERE s.way = 'straight' AND l.way = 'long'
	AND (s.intent, s.work, s.queue) IS DISTINCT FROM (l.intent, l.work, l.queue);

CALL take(:source, NULL) \gset
SELECT is(:'taken'::text, '1 2 4 17 24 70', 'keys in whose way nothing is go straight');
CALL try_both(:source, false);
SELECT is((SELECT count(work)::integer FROM found WHERE way = 'long'), 18, 'something is to be sent for some');
SELECT is_empty('SELECT * FROM differences', 'planned one by one, all keys come to the same either way');
CALL try_both(:source, true);
SELECT is_empty('SELECT * FROM differences', '... and together');
SELECT * FROM finish();
