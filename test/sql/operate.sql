-- retry() and discard(), explain_sync(), doctor(), stat_worker, progress.  There
-- is no worker: what it would do with a key is done here by hand.
\set SHOW_CONTEXT never
SET client_min_messages = error;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
-- nothing of other tests' tables
DO $$ BEGIN PERFORM rsvp_sync.detach_all(); END $$;
DELETE FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._account;
DELETE FROM rsvp_sync._installation;
CREATE ROLE regress_operate;
CREATE ROLE regress_operate_other;
CREATE ROLE regress_operate_reader;
SELECT rsvp_sync.grant_application('regress_operate');
SELECT rsvp_sync.grant_application('regress_operate_other');
SELECT rsvp_sync.grant_application('regress_operate_reader');
SELECT rsvp_sync.grant_monitor('regress_operate_reader');
CREATE SCHEMA operate_test AUTHORIZATION regress_operate;
GRANT USAGE, CREATE ON SCHEMA operate_test TO regress_operate_other;
GRANT USAGE ON SCHEMA operate_test TO regress_operate_reader;
SET rsvp_sync.allow_plaintext_credentials = on;
-- what waits for its next try waits for as long as this takes
SET rsvp_sync.retry_base = '1h';
SET rsvp_sync.retry_max = '1d';
\set alice 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
\set bob 'did:plc:z72i7hdynmk6r22z27h6tvur'
\set party 'at://did:web:host.example/community.lexicon.calendar.event/party'

-- How a statement is refused
CREATE FUNCTION operate_test.refused(statement text,
	OUT state text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
		message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;

-- The worker's part: keys from the log are leased and planned, ...
CREATE FUNCTION operate_test.turn() RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	l record;
	planned text[] := '{}';
BEGIN
	PERFORM rsvp_sync._drain(1000);
	FOR l IN SELECT * FROM rsvp_sync._lease(1, 100, 100) LOOP
		PERFORM rsvp_sync._plan_keys(l.source_id, l.keys);
		planned := planned || l.keys;
	END LOOP;
	RETURN ARRAY(SELECT k FROM unnest(planned) k ORDER BY k);
END
$$;
-- ... and this comes of a call
CREATE FUNCTION operate_test.fail(of_table regclass, of_key text, how text, code text,
	message text DEFAULT 'not today')
RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
	SELECT rsvp_sync._call_failed(q.source_id, q.key, q.generation, how, code,
		message, true, NULL, '0')
	FROM rsvp_sync._queue q JOIN rsvp_sync._source s USING (source_id)
	WHERE s.attendance = of_table AND q.key = of_key
$$;
CREATE FUNCTION operate_test.succeed(of_table regclass, of_key text)
RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
	UPDATE rsvp_sync._intent i SET sent_local = i.local, doubt = true
	FROM rsvp_sync._source s
	WHERE s.source_id = i.source_id AND s.attendance = of_table AND i.key = of_key;
	SELECT rsvp_sync._put_done(q.source_id, q.key, q.generation, i.did, '3kabc2defgh2' || of_key,
		rsvp_sync._rsvp_record(NULL, i.event_uri, 'x', i.local, '2026-01-01T00:00:00.000Z'),
		'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a', NULL)
	FROM rsvp_sync._queue q JOIN rsvp_sync._source s USING (source_id)
	JOIN rsvp_sync._intent i USING (source_id, key)
	WHERE s.attendance = of_table AND q.key = of_key
$$;

SET ROLE regress_operate_other;
CREATE TABLE operate_test.theirs (id int PRIMARY KEY, did text, event_uri text, status text);
SELECT rsvp_sync.attach('operate_test.theirs', 'SELECT id, did, event_uri, status FROM operate_test.theirs',
	options => '{"tenant": "other", "status_map": {"yes": "going"}}') IS NOT NULL AS attached;
SELECT rsvp_sync.connect_account(:'bob', 'secret', 'https://pds.example');
SELECT rsvp_sync.grant_account(:'bob', 'regress_operate');
SET ROLE regress_operate;
CREATE TABLE operate_test.ours (id int PRIMARY KEY, did text, event_uri text, status text);
GRANT SELECT ON operate_test.ours TO regress_operate_reader;
SELECT rsvp_sync.attach('operate_test.ours', 'SELECT id, did, event_uri, status FROM operate_test.ours',
	options => '{"status_map": {"yes": "going", "perhaps": "interested", "dunno": null}}') IS NOT NULL AS attached;
SELECT rsvp_sync.connect_account(:'alice', 'secret', 'https://pds.example');
INSERT INTO operate_test.ours SELECT n, CASE n % 2 WHEN 1 THEN :'alice' ELSE :'bob' END, :'party' || n, 'yes'
FROM generate_series(1, 6) n;
SET ROLE regress_operate_other;
INSERT INTO operate_test.theirs VALUES (1, :'bob', :'party' || 101, 'yes');
RESET ROLE;
SELECT operate_test.turn();

-- 1 and 2 have failed, 3 and 4 wait for another try, 5 waits for its user
SELECT operate_test.fail('operate_test.ours', k, how, code)
FROM (VALUES ('1', 'failed', 'refused'), ('2', 'failed', 'event_not_found'), ('3', 'retry', 'timeout'),
	('4', 'retry', 'http_502'), ('5', 'wait', 'no_account')) AS c (k, how, code);
SELECT operate_test.fail('operate_test.theirs', '1', 'failed', 'refused');
SELECT operate_test.succeed('operate_test.ours', '6');
SELECT attendance_id, state, reason_code, reason, attempts, last_error FROM rsvp_sync.status ORDER BY attendance, attendance_id;

--
-- Trying again
--
SET ROLE regress_operate;
BEGIN;
SELECT rsvp_sync.retry('operate_test.ours', '1');
SELECT rsvp_sync.retry('operate_test.ours', '6') AS done, rsvp_sync.retry('operate_test.ours', '99') AS none;
SELECT operate_test.turn();
SELECT state, reason_code, attempts FROM rsvp_sync.sync_status('operate_test.ours', '1');
SELECT state, reason_code, attempts FROM rsvp_sync.sync_status('operate_test.ours', '6');
ROLLBACK;
BEGIN;
SELECT rsvp_sync.retry(:'alice');
SELECT operate_test.turn();
ROLLBACK;
BEGIN;
SELECT rsvp_sync.retry(did => :'bob');
SELECT operate_test.turn();
SELECT attendance_id, state, attempts, last_error FROM rsvp_sync.status WHERE attendance_id = '4';
ROLLBACK;
BEGIN;
SELECT rsvp_sync.retry();
SELECT operate_test.turn();
ROLLBACK;
-- A table by name, with and without a cast, by the caller's search_path
BEGIN;
SET LOCAL search_path = operate_test;
SELECT rsvp_sync.retry('ours') AS literal, rsvp_sync.retry('ours'::regclass) AS cast,
	rsvp_sync.retry(attendance => 'operate_test.ours') AS named, rsvp_sync.retry('ours', NULL) AS null;
ROLLBACK;
-- ... of one table only that table's, and neither what has not failed nor what is in hand
BEGIN;
INSERT INTO operate_test.ours VALUES (12, :'bob', :'party' || 12, 'yes');
RESET ROLE;
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at)
SELECT source_id, '12', now(), now() FROM rsvp_sync.source WHERE attendance = 'operate_test.ours'::regclass;
SELECT rsvp_sync.retry('operate_test.ours'::regclass) AS ours, rsvp_sync.retry('operate_test.theirs'::regclass) AS theirs, rsvp_sync.retry() AS all;
UPDATE rsvp_sync._queue SET lease = 1;
SELECT rsvp_sync.retry() AS not_in_hand;
-- nor is it given up while it is looked at again
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at)
SELECT source_id, '2', now(), now() FROM rsvp_sync.source WHERE attendance = 'operate_test.ours'::regclass;
SELECT rsvp_sync.discard('operate_test.ours', '2') AS queued, rsvp_sync.discard('operate_test.ours', '1') AS failed;
ROLLBACK;
SET ROLE regress_operate;
-- What is in hand is not disturbed, and a superuser may do all
RESET ROLE;
BEGIN;
SELECT rsvp_sync.retry();
SELECT operate_test.turn();
SELECT rsvp_sync.retry();
ROLLBACK;
SET ROLE regress_operate;
SELECT s, r.* FROM unnest(ARRAY[
	$$SELECT rsvp_sync.retry('operate_test.theirs', '1')$$,
	$$SELECT rsvp_sync.retry('operate_test.theirs')$$,
	$$SELECT rsvp_sync.retry('alice.example.com')$$,
	$$SELECT rsvp_sync.retry('nowhere')$$,
	$$SELECT rsvp_sync.retry('pg_class')$$,
	$$SELECT rsvp_sync.retry(NULL)$$,
	$$SELECT rsvp_sync.retry(NULL::regclass)$$,
	$$SELECT rsvp_sync.discard('operate_test.theirs', '1')$$,
	$$SELECT rsvp_sync.discard('pg_class', '1')$$,
	$$SELECT rsvp_sync.discard(NULL, '1')$$,
	$$SELECT rsvp_sync.discard('operate_test.ours', NULL)$$,
	$$SELECT rsvp_sync.sync_status(NULL, '1')$$,
	$$SELECT rsvp_sync.explain_sync(NULL, '1')$$,
	$$SELECT rsvp_sync.preview(NULL)$$,
	$$SELECT rsvp_sync.approve_withdrawals(NULL)$$,
	$$SELECT rsvp_sync.attach_all(NULL)$$,
	$$SELECT rsvp_sync.disconnect_account(NULL)$$,
	$$SELECT rsvp_sync.grant_account(NULL, 'regress_operate')$$,
	$$SELECT rsvp_sync.revoke_account(NULL, 'regress_operate')$$,
	$$SELECT rsvp_sync.oauth_lock(NULL, '1 minute')$$]) s, operate_test.refused(s) r;
SELECT rsvp_sync.retry('did:plc:nobody') AS nobody;
SELECT count(*) FROM rsvp_sync.failed;

--
-- Giving up
--
SELECT k, rsvp_sync.discard('operate_test.ours', k) FROM unnest(ARRAY['1', '3', '5', '6', '99']) k;
SELECT attendance_id, reason_code, reason, last_error, attempts, since > now() - interval '1 minute' AS just_now
FROM rsvp_sync.failed ORDER BY attendance_id;
-- Nothing but its own row, or its own name, brings it back
SELECT rsvp_sync.reconcile('operate_test.ours'), rsvp_sync.retry(:'alice'), rsvp_sync.retry();
SELECT rsvp_sync.connect_account(:'alice', 'new secret', 'https://pds.example');
SELECT operate_test.turn();
SELECT rsvp_sync.disconnect_account(:'alice');
SELECT rsvp_sync.reconcile('operate_test.ours');
SELECT operate_test.turn();
SELECT state, reason_code FROM rsvp_sync.sync_status('operate_test.ours', '1');
BEGIN;
SELECT rsvp_sync.retry('operate_test.ours', '1');
SELECT operate_test.turn();
SELECT state, reason_code FROM rsvp_sync.sync_status('operate_test.ours', '1');
ROLLBACK;
BEGIN;
UPDATE operate_test.ours SET status = 'perhaps' WHERE id = 1;
COMMIT;
SELECT operate_test.turn();
SELECT state, reason_code FROM rsvp_sync.sync_status('operate_test.ours', '1');
RESET ROLE;

--
-- Given up after so many tries; what changes while it waits starts afresh
--
BEGIN;
SET LOCAL rsvp_sync.max_attempts = 3;
CREATE FUNCTION pg_temp.try() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE rsvp_sync._queue SET due_at = now() WHERE key IN ('20', '21');
	IF NOT operate_test.turn() @> '{20,21}' THEN
		RETURN 'one is not looked at';
	END IF;
	PERFORM operate_test.fail('operate_test.ours', '20', 'retry', 'http_500', 'poison'), operate_test.fail('operate_test.ours', '21', 'later', 'RateLimitExceeded');
	RETURN (SELECT string_agg(concat_ws(' ', attendance_id, state, attempts, last_error), '; ' ORDER BY attendance_id)
		FROM rsvp_sync.status WHERE attendance_id IN ('20', '21'));
END
$$;
-- what the trigger appends, which it does at the end of the transaction
CREATE FUNCTION pg_temp.changed(key text) RETURNS void LANGUAGE sql AS $$
INSERT INTO rsvp_sync._change_log (source_id, key, op) SELECT source_id, key, 'c' FROM rsvp_sync.source WHERE attendance = 'operate_test.ours'::regclass
$$;
INSERT INTO operate_test.ours VALUES (20, :'bob', :'party' || 20, 'yes'), (21, :'bob', :'party' || 21, 'yes');
SELECT pg_temp.changed(k) FROM unnest('{20,21}'::text[]) k;
SELECT pg_temp.try();
SELECT pg_temp.try();
-- as a change of the row does
SELECT pg_temp.changed('20');
SELECT pg_temp.try();
SELECT pg_temp.try();
SELECT attendance_id FROM rsvp_sync.failed WHERE attendance_id IN ('20', '21');
SELECT pg_temp.try();
SELECT attendance_id, reason_code, last_error, attempts, since = now() AS now FROM rsvp_sync.failed WHERE attendance_id IN ('20', '21');
SELECT rsvp_sync.explain_sync('operate_test.ours', '20');
-- put in again it has no past
UPDATE operate_test.ours SET status = 'perhaps' WHERE id = 20;
SELECT pg_temp.changed('20');
SELECT pg_temp.try();
ROLLBACK;

--
-- Explaining
--
SET ROLE regress_operate;
INSERT INTO operate_test.ours VALUES (7, NULL, NULL, 'no way'), (8, :'bob', :'party' || 8, 'yes'),
	(9, :'alice', 'nowhere', 'dunno'), (11, :'bob', :'party' || 11, 'no way');
SELECT operate_test.turn();
SELECT operate_test.fail('operate_test.ours', '4', 'retry', 'http_502', 'Bad gateway.');
INSERT INTO operate_test.ours VALUES (10, :'alice', :'party' || 10, 'perhaps');
RESET ROLE;
SET ROLE regress_operate_reader;
SELECT k, regexp_replace(rsvp_sync.explain_sync('operate_test.ours', k::text),
	'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'a moment', 'g')
FROM generate_series(1, 12) k;
SELECT * FROM operate_test.refused($$SELECT rsvp_sync.explain_sync('operate_test.theirs', '1')$$);
SELECT * FROM operate_test.refused($$SELECT rsvp_sync.explain_sync('pg_class', '1')$$);
SELECT rsvp_sync.explain_sync('operate_test.ours', NULL);
SET ROLE regress_operate;
BEGIN;
ALTER TABLE operate_test.ours RENAME status TO said;
SELECT rsvp_sync.explain_sync('operate_test.ours', '6') ~ '^Row 6 of operate_test.ours could not be looked up: column "status" does not exist. On the network';
ROLLBACK;
RESET ROLE;

--
-- Looking at what runs; there is no worker here
--
SET ROLE regress_operate_reader;
SELECT * FROM rsvp_sync.stat_worker;
SELECT attendance, total, done, waiting, retrying, blocked, held, failed, oldest_key, since IS NOT NULL AS since
FROM rsvp_sync.progress;
SELECT severity, check_name, subject, finding, remedy FROM rsvp_sync.doctor();
RESET ROLE;
-- what is in the queue is not done, held or failed, and what is only there is counted
BEGIN;
CREATE TEMP VIEW far AS SELECT total, done, waiting, retrying, blocked, held, failed, oldest_key FROM rsvp_sync.progress WHERE attendance = 'operate_test.ours'::regclass;
UPDATE rsvp_sync._intent SET state = (ARRAY['done', 'held', 'failed', 'blocked'])[1 + key::int % 4], reason_code = 'x';
DELETE FROM rsvp_sync._queue;
SELECT * FROM far;
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, attempts)
SELECT source_id, k, now(), now() - k::int * interval '1 second', k::int % 2 FROM rsvp_sync.source, unnest('{4,5,6,7,77}'::text[]) k
WHERE attendance = 'operate_test.ours'::regclass;
SELECT * FROM far;
ROLLBACK;
-- a key is late after a minute, what was discarded is no finding, and the key file's name is nobody's
BEGIN;
UPDATE rsvp_sync._queue SET due_at = now() - interval '30 seconds', lease = NULL;
UPDATE rsvp_sync._intent SET state = 'failed', reason_code = CASE WHEN key IN ('1', '2') THEN 'discarded' ELSE 'x' END
FROM rsvp_sync.source s WHERE s.source_id = _intent.source_id AND s.attendance = 'operate_test.ours'::regclass AND key IN ('1', '2', '3');
SET LOCAL rsvp_sync.credential_key_file = '/nowhere/keys';
SET LOCAL rsvp_sync.allow_plaintext_credentials = off;
SELECT check_name, subject, finding FROM rsvp_sync.doctor() WHERE check_name IN ('oldest_key', 'failed', 'key_file');
ROLLBACK;
-- and where there is nothing to find
BEGIN;
DO $$
DECLARE
	f text;
BEGIN
	FOREACH f IN ARRAY ARRAY['_doctor_server()', '_doctor_keys()', '_doctor_source(s rsvp_sync._source)', '_doctor_keys_and_accounts()'] LOOP
		EXECUTE format('CREATE OR REPLACE FUNCTION rsvp_sync.%s RETURNS TABLE (severity text, check_name text, subject text, finding text, remedy text)
			LANGUAGE sql AS ''SELECT NULL, NULL, NULL, NULL, NULL WHERE false''', f);
	END LOOP;
END
$$;
SELECT severity, check_name, finding FROM rsvp_sync.doctor();
ROLLBACK;
BEGIN;
SET LOCAL rsvp_sync.allow_plaintext_credentials = off;
SET LOCAL rsvp_sync.mode = 'dry_run';
ALTER TABLE operate_test.ours DISABLE TRIGGER rsvp_sync_log;
ALTER TABLE operate_test.ours ENABLE ROW LEVEL SECURITY;
ALTER TABLE operate_test.ours FORCE ROW LEVEL SECURITY;
DROP TRIGGER rsvp_sync_truncate ON operate_test.theirs;
ALTER TABLE operate_test.theirs OWNER TO postgres;
UPDATE rsvp_sync._source SET state = 'broken', state_reason = 'no column' WHERE tenant = 'other';
UPDATE rsvp_sync._source SET state = 'paused' WHERE tenant <> 'other';
UPDATE rsvp_sync._queue SET due_at = '2026-01-01', lease = NULL;
UPDATE rsvp_sync._intent SET state = 'held' WHERE key = '6';
UPDATE rsvp_sync._account SET state = 'needs_login';
UPDATE rsvp_sync._installation SET database_oid = 1;
UPDATE pg_extension SET extversion = '0.0.9' WHERE extname = 'rsvp_sync';
INSERT INTO rsvp_sync._change_log (source_id, key, op, changed_at) VALUES (1, '1', 'c', '2026-01-01');
SELECT severity, check_name, subject, finding FROM rsvp_sync.doctor();
DROP TABLE operate_test.theirs;
SELECT check_name, subject, finding FROM rsvp_sync.doctor() WHERE check_name = 'table';
ROLLBACK;
RESET rsvp_sync.allow_plaintext_credentials;

SELECT rsvp_sync.detach_all() AS detached;
DELETE FROM rsvp_sync._account WHERE did IN (:'alice', :'bob');
DROP SCHEMA operate_test CASCADE;
DROP OWNED BY regress_operate, regress_operate_other, regress_operate_reader;
DROP ROLE regress_operate, regress_operate_other, regress_operate_reader;
