-- Attendees by what their metadata says: readings of a value, the forms of
-- the call, whose rights it runs with, by which plan, and what follows when
-- the application's tables change.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET client_encoding = 'UTF8';
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION dblink;
CREATE ROLE regress_find_owner;
CREATE ROLE regress_find_app;
CREATE SCHEMA find_test;
GRANT USAGE ON SCHEMA find_test TO regress_find_app, regress_find_owner;

-- A tenant as an ORM makes it, in camelCase or in snake_case.
CREATE PROCEDURE find_test.make_tenant(tenant text, camel boolean)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE SCHEMA %I AUTHORIZATION regress_find_owner', tenant);
	EXECUTE 'SET LOCAL ROLE regress_find_owner';
	EXECUTE format('SET LOCAL search_path = %I', tenant);
	CREATE TABLE users (id bigint PRIMARY KEY, preferences jsonb);
	CREATE TABLE events (id int PRIMARY KEY, source_type text, source_data jsonb);
	CREATE TABLE attendance (id bigint PRIMARY KEY,
		event_id int REFERENCES events, user_id bigint REFERENCES users,
		status text, metadata jsonb);
	IF camel THEN
		ALTER TABLE attendance RENAME event_id TO "eventId";
		ALTER TABLE attendance RENAME user_id TO "userId";
	END IF;
	INSERT INTO users SELECT g, '{}' FROM generate_series(1, 50) g;
	INSERT INTO events SELECT g, 'bluesky', '{}' FROM generate_series(1, 9) g;
	INSERT INTO attendance SELECT g, g % 9 + 1, g % 50 + 1, 'confirmed',
		jsonb_build_object('n', g, 'uri', 'at://' || tenant || '/' || g)
	FROM generate_series(1, 2000) g;
	PERFORM rsvp_sync.attach('attendance');
	RESET ROLE;
END
$$;

-- How often a table and its index are looked into.
CREATE PROCEDURE find_test.count_scans(statement text, relation regclass, index regclass, times int)
LANGUAGE plpgsql AS $$
DECLARE
	t bigint := pg_stat_get_xact_numscans(relation);
	i bigint := pg_stat_get_xact_numscans(index);
BEGIN
	FOR n IN 1..times LOOP
		EXECUTE statement;
	END LOOP;
	RAISE WARNING '% calls: % scans of the table, % of the index', times,
		pg_stat_get_xact_numscans(relation) - t, pg_stat_get_xact_numscans(index) - i;
END
$$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA rsvp_sync TO regress_find_owner;
CALL find_test.make_tenant('tenant_a', true);
CALL find_test.make_tenant('tenant_B', false);
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA rsvp_sync FROM regress_find_owner;
GRANT USAGE ON SCHEMA tenant_a, "tenant_B" TO regress_find_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_a.attendance, "tenant_B".attendance TO regress_find_app;

-- It is for those to whom it has been granted.
SET ROLE regress_find_app;
SELECT * FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
RESET ROLE;
SELECT format('GRANT EXECUTE ON FUNCTION %s TO regress_find_app', oid::regprocedure)
FROM pg_proc WHERE proname = 'find_attendees_by_metadata' \gexec
SET ROLE regress_find_app;

-- What is returned
SELECT attendance, tenant, attendance_id, event_id, user_id, status, metadata
FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT source_id = (SELECT min(f.source_id) FROM rsvp_sync.find_attendees_by_metadata('n', '7') f) AS first
FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::"tenant_B".attendance, 'uri', 'at://tenant_B/7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::"tenant_B".attendance, 'uri', 'at://tenant_a/7');
SELECT rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
SELECT g, f.attendance_id FROM generate_series(8, 9) g
CROSS JOIN LATERAL rsvp_sync.find_attendees_by_metadata('n', g::text) f WHERE tenant = 'a';

--
-- Readings of a value
--
INSERT INTO tenant_a.attendance (id, status, metadata) VALUES
	(5001, 'maybe', '{"v": 42}'), (5002, 'maybe', '{"v": "42"}'),
	(5003, 'maybe', '{"v": 42.0}'), (5004, 'maybe', '{"v": "42.0"}'),
	(5005, 'maybe', '{"v": [42]}'), (5006, 'maybe', '{"v": {"v": 42}}'),
	(5007, 'maybe', '{"w": {"v": 42}}'), (5008, 'maybe', '[{"v": 42}]'),
	(5009, 'maybe', '{"v": [[42], "42"]}'),
	(5010, 'maybe', '{"v": true}'), (5011, 'maybe', '{"v": "true"}'),
	(5012, 'maybe', '{"v": false}'), (5013, 'maybe', '{"v": "True"}'),
	(5014, 'maybe', '{"v": null}'), (5015, 'maybe', '{"v": "null"}'),
	(5016, 'maybe', '{"v": ""}'), (5017, 'maybe', '{"": "empty"}'),
	(5018, 'maybe', '{"v": "naïve ☕ 𝄞"}'), (5019, 'maybe', '{"clé ☕": "x"}'),
	(5020, 'maybe', '{"w.v": "dotted"}'), (5021, 'maybe', '{"w": {"v": "dotted"}}'),
	(5022, 'maybe', '{"v": 1e100}'), (5023, 'maybe', '{"v": 0}'),
	(5024, 'maybe', '{"v": "[42]"}'), (5025, 'maybe', '{"v": "%"}'),
	(5026, 'maybe', '{"v": "\\"}'), (5027, 'maybe', '{"v": "\"}"}'),
	(5028, 'maybe', '"v"'), (5029, 'maybe', NULL), (5030, 'maybe', '42');
SELECT v AS value, ARRAY(SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('v', v)
	ORDER BY 1) AS found
FROM unnest(ARRAY['42', '42.0', '4.2e1', '4200E-2', '+42', ' 42', '42 ', '042', '42.', '0x2a', '42n',
	'true', 'false', 'True', 'TRUE', 't', 'null', 'NULL', '', 'naïve ☕ 𝄞', '[42]', '{"v": 42}',
	'1e100', '0', '-0', '0.00', '-', 'NaN', 'Infinity', '%', '\', '"}', '"42"', E'42\n']) AS v;
SELECT k AS key, v AS value, ARRAY(SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata(k, v)
	ORDER BY 1) AS found
FROM (VALUES ('', 'empty'), ('clé ☕', 'x'), ('w.v', 'dotted'), ('w', 'dotted'), ('{w,v}', 'dotted'),
	('$.w.v', 'dotted'), ('V', '42'), ('v ', '42'), ('%', '42')) AS t (k, v);
-- Numbers that no jsonb can hold are texts, not errors
SELECT left(v, 12) AS value, length(v), (SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('v', v))
FROM unnest(ARRAY['1e131071', '1e131072', '1e-16383', '1e-16384', '1e999999999999999999999', '0e-99999',
	'-1E+2147483648', repeat('9', 131072), repeat('9', 131073), '0.' || repeat('1', 16383),
	'0.' || repeat('1', 16384), repeat('x', 1000000)]) AS v;
-- NULL finds nothing
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL, '42');
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('v', NULL);
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL, NULL, NULL::text);
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, NULL, '42');
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'v', NULL, 1);

--
-- Nothing of key and value becomes SQL or JSON
--
CREATE TEMP TABLE injection AS SELECT s FROM unnest(ARRAY[
	$q$' OR true --$q$, $q$'; DROP TABLE tenant_a.attendance; --$q$, $q$blueskyRsvpUri' = '' OR '1'='1$q$,
	$q$"} $q$, $q$", "n": "1$q$, $q$\$q$, $q$\'$q$, $q$$1$q$, $q$$$q$, $q$:value$q$, $q$%s%I%L$q$, $q$$.**$q$,
	$q$@>$q$, $q${}$q$, $q$[]$q$, E'a\nb', E'\u00a0', $q$' UNION SELECT 1 --$q$, $q$"n": 7$q$, $q$\u0022$q$]) AS s;
SELECT count(*) AS tried, sum((SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(s, '7'))
	+ (SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('n', s))
	+ (SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('n', '7', s))
	+ (SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, s, s))) AS found
FROM injection;
-- ... and each is found where it is
INSERT INTO tenant_a.attendance (id, status, metadata)
SELECT 6000 + row_number() OVER (), 'maybe', jsonb_build_object(s, s) FROM injection;
SELECT count(*) FILTER (WHERE (SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(s, s)) = 1) AS once
FROM injection;

--
-- user_id: text or number, nothing needs a cast
--
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', '42');
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', 42);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', 42::smallint);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', 42::bigint);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', 42::text);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', '42'::varchar);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata(value => '41', key => 'n', user_id => '42');
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', NULL);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', NULL::bigint);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', 43);
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '41', '042');
SELECT attendance_id, user_id FROM rsvp_sync.find_attendees_by_metadata('v', '42', '1');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '41', '42');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '41', 42);
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '41', 43);
PREPARE untyped AS SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata($1, $2, $3);
PREPARE two AS SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata($1, $2);
PREPARE typed AS SELECT id FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, $1, $2, $3);
PREPARE number(text, text, bigint) AS SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata($1, $2, $3);
EXECUTE untyped('n', '41', '42');
EXECUTE two('n', '41');
EXECUTE typed('n', '41', '42');
EXECUTE number('n', '41', 42);
SELECT parameter_types FROM pg_prepared_statements WHERE name IN ('untyped', 'typed') ORDER BY name;
DEALLOCATE ALL;

--
-- Transactions: what the caller's snapshot sees
--
BEGIN;
INSERT INTO tenant_a.attendance (id, metadata) VALUES (7001, '{"tx": "mine"}');
SAVEPOINT a;
UPDATE tenant_a.attendance SET metadata = '{"tx": "changed"}' WHERE id = 7001;
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'mine');
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'changed');
ROLLBACK TO a;
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'mine');
DECLARE c CURSOR FOR SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'mine');
DELETE FROM tenant_a.attendance WHERE id = 7001;
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'mine');
FETCH ALL FROM c;
ROLLBACK;
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('tx', 'mine');
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
COMMIT;

--
-- The plan: the index, and never the table, also for the statement that is
-- planned once for all values, and whatever the session has set
--
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata('uri', 'at://tenant_a/8')$$,
	'tenant_a.attendance', 'tenant_a.attendance_rsvp_sync_metadata', 20);
-- a number is looked up twice, as a text and as a number
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '8')$$,
	'tenant_a.attendance', 'tenant_a.attendance_rsvp_sync_metadata', 20);
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata('n', '8')$$,
	'tenant_a.attendance', 'tenant_a.attendance_pkey', 20);
\c -
SET client_min_messages = warning;
SET ROLE regress_find_app;
SET enable_bitmapscan = off;
SET random_page_cost = 1000;
SET cpu_index_tuple_cost = 1000;
SET plan_cache_mode = force_custom_plan;
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata('uri', 'at://tenant_B/8')$$,
	'"tenant_B".attendance', '"tenant_B".attendance_rsvp_sync_metadata', 20);
SELECT current_setting('enable_bitmapscan') AS bitmapscan, current_setting('enable_seqscan') AS seqscan,
	current_setting('jit') AS jit;
RESET enable_bitmapscan;
RESET random_page_cost;
RESET cpu_index_tuple_cost;
RESET plan_cache_mode;

--
-- Whose rights: what he may not read is left out, or an error where he asks
-- for that table
--
RESET ROLE;
REVOKE USAGE ON SCHEMA "tenant_B" FROM regress_find_app;
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
RESET ROLE;
GRANT USAGE ON SCHEMA "tenant_B" TO regress_find_app;
REVOKE SELECT ON "tenant_B".attendance FROM regress_find_app;
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::"tenant_B".attendance, 'n', '7');
-- some columns are not enough, all columns are
RESET ROLE;
GRANT SELECT (id, metadata, status) ON "tenant_B".attendance TO regress_find_app;
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::"tenant_B".attendance, 'n', '7');
RESET ROLE;
GRANT SELECT (event_id, user_id) ON "tenant_B".attendance TO regress_find_app;
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::"tenant_B".attendance, 'n', '7');
-- the owner of a SECURITY DEFINER function is the caller within it
RESET ROLE;
CREATE ROLE regress_find_tenant;
GRANT USAGE ON SCHEMA tenant_a, find_test TO regress_find_tenant;
CREATE FUNCTION find_test.as_app(value text) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER
AS $$ SELECT tenant FROM rsvp_sync.find_attendees_by_metadata('n', value) $$;
ALTER FUNCTION find_test.as_app OWNER TO regress_find_app;
SET ROLE regress_find_tenant;
SELECT find_test.as_app('7');
-- storage is not his to read, and no private function his to call
SELECT * FROM rsvp_sync._find_source('tenant_a.attendance'::regclass);
SELECT * FROM rsvp_sync._source;
RESET ROLE;

-- Row security, by index still
ALTER TABLE tenant_a.attendance ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION find_test.mine(usr bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'asked about a row of user %', usr;
	RETURN usr = 8;
END
$$;
CREATE POLICY mine ON tenant_a.attendance USING (find_test.mine("userId"));
UPDATE tenant_a.attendance SET metadata = metadata || '{"shared": "yes"}' WHERE id IN (7, 8);
SELECT format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', oid::regprocedure)
FROM pg_proc WHERE proname = 'find_attendees_by_metadata' \gexec
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'yes');
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'no');
SELECT id FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
SELECT id FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '8');
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata('n', '7')$$,
	'tenant_a.attendance', 'tenant_a.attendance_rsvp_sync_metadata', 1);
SET row_security = off;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'yes');
RESET row_security;
-- one session, several roles
SET ROLE regress_find_owner;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'yes');
RESET ROLE;
ALTER TABLE tenant_a.attendance FORCE ROW LEVEL SECURITY;
DELETE FROM tenant_a.attendance WHERE id NOT IN (7, 8);
SET ROLE regress_find_owner;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'yes');
RESET ROLE;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('shared', 'yes');
ALTER TABLE tenant_a.attendance NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
DROP POLICY mine ON tenant_a.attendance;

--
-- Errors, with what to do
--
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.users, 'n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::int, 'n', '7');
CREATE TYPE find_test.pair AS (a int, b int);
CREATE VIEW find_test.v AS SELECT * FROM tenant_a.attendance;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.pair, 'n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.v, 'n', '7');
DROP VIEW find_test.v;
-- without an index, with an invalid one, and then with what the hint says
DROP INDEX tenant_a.attendance_rsvp_sync_metadata;
SET ROLE regress_find_app;
SELECT * FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
RESET ROLE;
CREATE INDEX by_value ON tenant_a.attendance USING gin ((metadata -> 'n') jsonb_path_ops);
CREATE INDEX part_of ON tenant_a.attendance USING gin (metadata jsonb_path_ops) WHERE id > 3;
CREATE INDEX tree ON tenant_a.attendance (metadata);
CREATE INDEX invalid ON tenant_a.attendance USING gin (metadata);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tenant_a.invalid'::regclass;
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('n', '7');
DROP INDEX tenant_a.by_value, tenant_a.part_of, tenant_a.tree, tenant_a.invalid;
SELECT rsvp_sync.index_ddl('tenant_a.attendance') \gexec
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');

--
-- The application's tables change under a session that has asked before
--
ALTER TABLE tenant_a.attendance RENAME metadata TO "Meta ""data""";
ALTER TABLE tenant_a.attendance RENAME "eventId" TO "Ereignis";
ALTER TABLE tenant_a.attendance RENAME TO "Zusagen";
SELECT tenant, attendance, attendance_id, event_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
ALTER SCHEMA tenant_a RENAME TO "Mandant a";
SELECT tenant, attendance, attendance_id, event_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
CREATE SCHEMA tenant_a;
CREATE TABLE tenant_a."Zusagen" AS SELECT * FROM "Mandant a"."Zusagen";
SELECT tenant, attendance, attendance_id, event_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
DROP SCHEMA tenant_a CASCADE;
ALTER SCHEMA "Mandant a" RENAME TO tenant_a;
ALTER TABLE tenant_a."Zusagen" RENAME TO attendance;
ALTER TABLE tenant_a.attendance RENAME "Ereignis" TO "eventId";
ALTER TABLE tenant_a.attendance RENAME "Meta ""data""" TO metadata;
-- a column of the name of the statement's alias; other types
ALTER TABLE tenant_a.attendance ADD a text DEFAULT 'a column';
CREATE TYPE tenant_a.state AS ENUM ('confirmed', 'maybe');
ALTER TABLE tenant_a.attendance ALTER status TYPE tenant_a.state USING status::tenant_a.state;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7');
SELECT status FROM rsvp_sync.find_attendees_by_metadata('n', '7') WHERE tenant = 'a';
ALTER TABLE tenant_a.attendance DROP a, DROP status;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::tenant_a.attendance, 'n', '7', 8);
SELECT status, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '7') WHERE tenant = 'a';
ALTER TABLE tenant_a.attendance DROP "userId";
SELECT tenant, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT tenant, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '7', 8);
SELECT tenant, user_id FROM rsvp_sync.find_attendees_by_metadata('uri', 'at://tenant_B/7', 8);
-- attached and detached, here and by others, committed and not
SELECT rsvp_sync.detach('tenant_a.attendance');
SELECT tenant, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '7', 8);
CREATE TABLE find_test.plain ("Tag" date, no float, metadata jsonb, status text, "userId" uuid, PRIMARY KEY ("Tag", no));
ALTER TABLE find_test.plain OWNER TO regress_find_owner;
INSERT INTO find_test.plain VALUES ('2025-02-03', 0.1, '{"n": 7}', 'x', 'AAAAAAAA-0000-4000-8000-000000000000');
BEGIN;
SELECT rsvp_sync.attach('find_test.plain', $$SELECT p."Tag", p.no, '' AS did, '' AS event_uri, '' AS status FROM find_test.plain p$$) > 0;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
ROLLBACK;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT dblink_connect('other', format('host=%s port=%s dbname=%s user=%s',
	split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user));
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT count(*) FROM dblink('other', $d$
	SELECT rsvp_sync.attach('find_test.plain', $$SELECT p."Tag", p.no, '' AS did, '' AS event_uri, '' AS status FROM find_test.plain p$$)$d$) AS t (id bigint);
SELECT count(*) >= 1 FROM rsvp_sync.find_attendees_by_metadata('n', '7');
COMMIT;
SELECT dblink_disconnect('other');
SELECT attendance, tenant, attendance_id, event_id, user_id, status, metadata
FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT tenant, user_id FROM rsvp_sync.find_attendees_by_metadata('n', '7', 'aaaaaaaa-0000-4000-8000-000000000000');
-- a table without metadata has none to be found, and says so if asked
ALTER TABLE find_test.plain DROP metadata;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.plain, 'n', '7');
DROP TABLE find_test.plain;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');

--
-- Partitions and children
--
CREATE TABLE find_test.parts (id bigint, day int, metadata jsonb, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
ALTER TABLE find_test.parts OWNER TO regress_find_owner;
CREATE TABLE find_test.part1 PARTITION OF find_test.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE find_test.part2 (metadata jsonb, gone int, id bigint NOT NULL, day int NOT NULL);
ALTER TABLE find_test.part2 DROP gone;
ALTER TABLE find_test.parts ATTACH PARTITION find_test.part2 FOR VALUES FROM (10) TO (20);
SELECT rsvp_sync.attach('find_test.parts', $$SELECT p.day, p.id, '' AS did, '' AS event_uri, '' AS status FROM find_test.parts p$$) > 0;
INSERT INTO find_test.parts SELECT g, g % 20, jsonb_build_object('m', g % 500, 'g', g) FROM generate_series(0, 1999) g;
SELECT attendance, attendance_id, metadata FROM rsvp_sync.find_attendees_by_metadata('m', '7');
SELECT attendance, attendance_id, metadata FROM rsvp_sync.find_attendees_by_metadata('m', '12');
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.parts, 'm', '12') ORDER BY id;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.part2, 'm', '12');
CALL find_test.count_scans($$SELECT rsvp_sync.find_attendees_by_metadata('m', 'x')$$,
	'find_test.part1', 'find_test.part1_metadata_idx', 20);
-- the same place in two partitions is not the same row
ALTER TABLE find_test.parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY even ON find_test.parts USING (id % 2 = 0);
GRANT SELECT ON find_test.parts TO regress_find_app;
SET ROLE regress_find_app;
SELECT attendance_id, metadata FROM rsvp_sync.find_attendees_by_metadata('m', '12');
SELECT attendance_id, metadata FROM rsvp_sync.find_attendees_by_metadata('m', '7');
SELECT count(*), count(*) FILTER (WHERE metadata ->> 'm' = g::text AND g % 2 = 0) FROM generate_series(0, 499) g
CROSS JOIN LATERAL rsvp_sync.find_attendees_by_metadata('m', g::text);
RESET ROLE;
-- an index that becomes valid with its last part
DROP INDEX find_test.parts_rsvp_sync_metadata;
CREATE INDEX whole ON ONLY find_test.parts USING gin (metadata jsonb_path_ops);
CREATE INDEX one ON find_test.part1 USING gin (metadata jsonb_path_ops);
CREATE INDEX two ON find_test.part2 USING gin (metadata jsonb_path_ops);
ALTER INDEX find_test.whole ATTACH PARTITION find_test.one;
\set VERBOSITY terse
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('m', '12');
\set VERBOSITY default
ALTER INDEX find_test.whole ATTACH PARTITION find_test.two;
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('m', '12');
ALTER TABLE find_test.parts DETACH PARTITION find_test.part2;
SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('m', '12');
DROP TABLE find_test.parts;

CREATE TABLE find_test.parent (id int PRIMARY KEY, metadata jsonb);
ALTER TABLE find_test.parent OWNER TO regress_find_owner;
CREATE TABLE find_test.child (extra int) INHERITS (find_test.parent);
INSERT INTO find_test.child VALUES (1, '{"c": "x"}', 2);
SELECT rsvp_sync.attach('find_test.parent', $$SELECT p.id, '' AS did, '' AS event_uri, '' AS status FROM find_test.parent p$$) > 0;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.parent, 'c', 'x');
CREATE INDEX by_metadata ON find_test.child USING gin (metadata);
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.parent, 'c', 'x');
DROP INDEX find_test.by_metadata;
SELECT * FROM rsvp_sync.find_attendees_by_metadata(NULL::find_test.parent, 'c', 'x');

--
-- A policy that searches, too, and makes what is known of the table outdated
--
SELECT rsvp_sync.detach('find_test.parent');
DROP TABLE find_test.parent CASCADE;
CREATE FUNCTION find_test.again() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	GRANT UPDATE ON "tenant_B".attendance TO regress_find_app;
	RETURN EXISTS (SELECT FROM rsvp_sync.find_attendees_by_metadata('n', '7'));
END
$$;
ALTER TABLE "tenant_B".attendance ENABLE ROW LEVEL SECURITY;
CREATE POLICY again ON "tenant_B".attendance USING (find_test.again());
DELETE FROM "tenant_B".attendance WHERE id > 20;
SET ROLE regress_find_app;
-- he has each column granted, and so no way to ask for a row by its place
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
RESET ROLE;
GRANT SELECT ON "tenant_B".attendance TO regress_find_app;
SET ROLE regress_find_app;
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
SELECT tenant, attendance_id FROM rsvp_sync.find_attendees_by_metadata('n', '7');
RESET ROLE;

--
-- Clean up
--
SELECT rsvp_sync.detach('"tenant_B".attendance');
DROP SCHEMA find_test, tenant_a, "tenant_B" CASCADE;
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, regress_find_app', oid::regprocedure)
FROM pg_proc WHERE proname = 'find_attendees_by_metadata' \gexec
DROP EXTENSION dblink;
DROP ROLE regress_find_owner, regress_find_app, regress_find_tenant;
