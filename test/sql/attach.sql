-- attach() and everything around it: recognised schemas, queries and views,
-- kinds of keys, options, refusals, what is left on tables, and that the
-- application stays free to change them.  No network, no worker.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET client_encoding = 'UTF8';
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE ROLE regress_attach;
CREATE ROLE regress_attach_other;
CREATE ROLE regress_attach_super SUPERUSER;
CREATE ROLE regress_attach_member IN ROLE regress_attach;
SELECT rsvp_sync.grant_application('regress_attach');
SELECT rsvp_sync.grant_application('regress_attach_other');
CREATE SCHEMA attach_test;
GRANT USAGE ON SCHEMA attach_test TO PUBLIC;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_attach',
	current_database()) \gexec

-- How a statement is refused.
CREATE FUNCTION attach_test.refused(statement text,
	OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
		message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
END
$$;

-- Looks behind the curtain, with the superuser's rights.
CREATE FUNCTION attach_test.source_id(attendance regclass) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER AS $$
	SELECT s.source_id FROM rsvp_sync._source s
	WHERE s.attendance = source_id.attendance
$$;
CREATE FUNCTION attach_test.desired(attendance regclass, key text DEFAULT NULL)
RETURNS TABLE (key text, did text, event_uri text, status text, withheld text,
	on_withheld text, event_cid text, starts_at timestamptz,
	ends_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
	SELECT d.key, d.did, d.event_uri, d.status, d.withheld, d.on_withheld,
		d.event_cid, d.starts_at, d.ends_at
	FROM rsvp_sync._desired(attach_test.source_id(attendance),
		CASE WHEN desired.key IS NOT NULL THEN ARRAY[desired.key] END) d
	ORDER BY d.key
$$;
CREATE FUNCTION attach_test.intents(attendance regclass)
RETURNS TABLE (key text, did text, local text, base_local text,
	first_local text, live boolean, state text, reason_code text)
LANGUAGE sql STABLE SECURITY DEFINER AS $$
	SELECT i.key, i.did, i.local, i.base_local, i.first_local, i.live,
		i.state, i.reason_code
	FROM rsvp_sync._intent i
	WHERE i.source_id = attach_test.source_id(attendance) ORDER BY i.key
$$;
CREATE FUNCTION attach_test.explained(attendance regclass) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
	SELECT rsvp_sync._explain_key(attach_test.source_id(attendance))
$$;
-- Within the transaction that put them there: a worker would take them.
CREATE FUNCTION attach_test.logged(attendance regclass)
RETURNS TABLE (key text, op "char")
LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
	SELECT l.key, l.op FROM rsvp_sync._change_log l
	WHERE l.source_id = attach_test.source_id(attendance)
		AND l.key IS NOT NULL
	ORDER BY l.key
$$;
CREATE FUNCTION attach_test.triggers()
RETURNS TABLE (relation text, definition text, enabled "char", dependent boolean)
LANGUAGE sql STABLE SECURITY DEFINER AS $$
	SELECT t.tgrelid::regclass::text, regexp_replace(
			substring(pg_get_triggerdef(t.oid) FROM '^.*?(?= ON )')
			|| substring(pg_get_triggerdef(t.oid) FROM ' FOR .*'),
			'(depends_|\(''|\()\d+', '\1N', 'g'),
		t.tgenabled, EXISTS (SELECT FROM pg_depend d
			WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
				AND d.deptype = 'x')
	FROM pg_trigger t
	WHERE t.tgname LIKE 'rsvp\_sync\_%' AND NOT t.tgisinternal
	ORDER BY t.tgrelid::regclass::text, t.tgname
$$;
-- Run a query that takes parameters, as the worker would.
CREATE FUNCTION attach_test.write_back(attendance regclass, key text[],
	uri text, cid text, rkey text, at timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE rsvp_sync._writeback_query(attach_test.source_id(attendance))
		USING key, uri, cid, rkey, at;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
CREATE FUNCTION attach_test.dependents(attendance regclass, dep integer,
	key text) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
	SELECT string_agg(d.key, ' ' ORDER BY d.key)
	FROM rsvp_sync._dependent_keys(attach_test.source_id(attendance), dep, key)
		AS d (key)
$$;

--
-- The plan's schema, camelCase
--
SET ROLE regress_attach;
CREATE SCHEMA attach_camel;
CREATE TYPE attach_camel.status AS ENUM ('invited', 'confirmed', 'attended',
	'maybe', 'pending', 'waitlist', 'cancelled', 'rejected');
CREATE TABLE attach_camel.users (id serial PRIMARY KEY, preferences jsonb);
CREATE TABLE attach_camel.events (id serial PRIMARY KEY, "sourceType" text,
	"sourceData" jsonb, visibility text, "startDate" timestamp,
	"endDate" timestamp);
CREATE TABLE attach_camel."eventAttendees" (id serial PRIMARY KEY,
	status attach_camel.status, metadata jsonb,
	"eventId" integer REFERENCES attach_camel.events ON DELETE CASCADE,
	"userId" integer REFERENCES attach_camel.users ON DELETE CASCADE,
	"invitedBy" integer REFERENCES attach_camel.users,
	"updatedAt" timestamp DEFAULT now());
INSERT INTO attach_camel.users (preferences) VALUES
	('{"bluesky": {"did": "did:plc:a", "connected": true}}'),
	('{"bluesky": {"did": "did:plc:b", "connected": "true"}}'),
	('{"bluesky": {"did": "did:plc:c"}}'),
	('{"bluesky": {"did": "did:plc:d", "connected": true, "publishRsvps": false}}'),
	('{"bluesky": {"connected": true}}'),
	('["no", "object"]'), (NULL);
INSERT INTO attach_camel.events ("sourceType", "sourceData", visibility,
	"startDate", "endDate") VALUES
	('bluesky', '{"did": "did:plc:o", "rkey": "e1", "cid": "bafy1"}', 'public',
		'2099-01-01 10:00', '2099-01-01 12:00'),
	('bluesky', '{"did": "did:plc:o", "rkey": "e2"}', 'public',
		'2001-01-01 10:00', NULL),
	('bluesky', '{"did": "did:plc:o"}', 'public', NULL, NULL),
	('luma', '"scalar"', 'public', NULL, NULL),
	('bluesky', '{"did": "did:plc:o", "rkey": "e5"}', 'private', NULL, NULL),
	('bluesky', '{"did": "did:plc:o", "rkey": "e6"}', NULL, NULL, NULL);
-- every user at the first event, the first user at every event
INSERT INTO attach_camel."eventAttendees" (status, "eventId", "userId",
	"invitedBy") SELECT 'confirmed', 1, u, 1 FROM generate_series(1, 7) u;
INSERT INTO attach_camel."eventAttendees" (status, "eventId", "userId")
SELECT 'maybe', e, 1 FROM generate_series(2, 6) e;
INSERT INTO attach_camel."eventAttendees" (status, "eventId", "userId",
	metadata) VALUES
	('cancelled', 1, 2, '{"skipBlueskySync": true}'),
	('waitlist', 1, 2, '{"skipBlueskySync": false}'),
	('invited', 1, 2, '["dirty"]'),
	(NULL, NULL, NULL, NULL);

SELECT rsvp_sync.attach('attach_camel."eventAttendees"') > 0 AS attached;
SELECT attendance, tenant, kind, state, reason, backfill, options, desired,
	index_name
FROM rsvp_sync.source;
SELECT * FROM attach_test.desired('attach_camel."eventAttendees"');
SELECT * FROM attach_test.desired('attach_camel."eventAttendees"', '5');
SELECT * FROM attach_test.intents('attach_camel."eventAttendees"');
SELECT * FROM rsvp_sync.source_status_map('attach_camel."eventAttendees"');
SELECT * FROM attach_test.triggers();
SELECT indexdef FROM pg_indexes WHERE schemaname = 'attach_camel'
	AND indexname LIKE '%rsvp_sync%';
-- which rows an event and a user lead to
SELECT attach_test.dependents('attach_camel."eventAttendees"', 1, '1') AS event,
	attach_test.dependents('attach_camel."eventAttendees"', 2, '1') AS "user",
	attach_test.dependents('attach_camel."eventAttendees"', 1, '99') AS none;

-- write-back: other keys stay, a second time writes nothing, NULL takes away
SELECT attach_test.write_back('attach_camel."eventAttendees"', '{1}',
		'at://u/1', 'bafyr', NULL, NULL) AS first,
	attach_test.write_back('attach_camel."eventAttendees"', '{13}',
		'at://u/13', 'bafyr', NULL, NULL) AS object,
	attach_test.write_back('attach_camel."eventAttendees"', '{15}',
		'at://u/15', 'bafyr', NULL, NULL) AS no_object,
	attach_test.write_back('attach_camel."eventAttendees"', '{2}',
		NULL, NULL, NULL, NULL) AS nothing_there;
SELECT attach_test.write_back('attach_camel."eventAttendees"', '{1}',
		'at://u/1', 'bafyr', NULL, NULL) AS again,
	attach_test.write_back('attach_camel."eventAttendees"', '{99}',
		'at://u/1', 'bafyr', NULL, NULL) AS no_row;
SELECT id, metadata FROM attach_camel."eventAttendees"
WHERE id IN (1, 2, 13, 15) ORDER BY id;
SELECT attach_test.write_back('attach_camel."eventAttendees"', '{13}',
	NULL, NULL, NULL, NULL) AS taken_away;
SELECT id, metadata FROM attach_camel."eventAttendees" WHERE id = 13;

-- the enum replaced, as TypeORM writes it
ALTER TYPE attach_camel.status RENAME TO status_old;
CREATE TYPE attach_camel.status AS ENUM ('invited', 'confirmed', 'attended',
	'maybe', 'pending', 'waitlist', 'cancelled', 'rejected', 'checked_in');
ALTER TABLE attach_camel."eventAttendees" ALTER COLUMN status
	TYPE attach_camel.status USING status::text::attach_camel.status;
DROP TYPE attach_camel.status_old;
UPDATE attach_camel."eventAttendees" SET status = 'checked_in' WHERE id = 1;
SELECT key, did, status FROM attach_test.desired('attach_camel."eventAttendees"', '1');

-- renames are followed: columns, tables, the schema, the key
ALTER TABLE attach_camel."eventAttendees" RENAME COLUMN status TO "Zu Stand";
ALTER TABLE attach_camel."eventAttendees" RENAME COLUMN id TO "attendeeNo";
ALTER TABLE attach_camel."eventAttendees" RENAME COLUMN metadata TO extra;
ALTER TABLE attach_camel.events RENAME COLUMN visibility TO who;
ALTER TABLE attach_camel.events RENAME TO happenings;
ALTER TABLE attach_camel."eventAttendees" RENAME TO guests;
SELECT key, did, event_uri, status FROM attach_test.desired('attach_camel.guests', '1');
SELECT attach_test.write_back('attach_camel.guests', '{1}', 'at://u/1', 'bafy2',
	NULL, NULL) AS written;
SELECT attach_test.dependents('attach_camel.guests', 1, '2') AS event;

-- a needed column that is dropped is not taken for "nothing to check"
ALTER TABLE attach_camel.happenings DROP COLUMN who;
SELECT * FROM attach_test.refused($$
	SELECT attach_test.desired('attach_camel.guests', '1')$$) \gx
-- attached again without it, the schema is looked at anew
ALTER TABLE attach_camel.guests RENAME COLUMN "Zu Stand" TO status;
ALTER TABLE attach_camel.guests RENAME COLUMN extra TO metadata;
SELECT rsvp_sync.attach('attach_camel.guests')
	= attach_test.source_id('attach_camel.guests') AS same_source;
SELECT key, did, withheld FROM attach_test.desired('attach_camel.guests', '1');

-- dropped tables: the application's matter; the source can be forgotten
DROP TABLE attach_camel.happenings CASCADE;
SELECT * FROM attach_test.refused($$
	SELECT attach_test.desired('attach_camel.guests', '1')$$) \gx
ALTER TABLE attach_camel.guests DROP COLUMN metadata;
DROP TABLE attach_camel.guests;
SELECT relation, enabled FROM attach_test.triggers();
SELECT count(*) AS visible FROM rsvp_sync.source;
SELECT rsvp_sync.detach_all();
SELECT relation, enabled FROM attach_test.triggers();
DROP SCHEMA attach_camel CASCADE;

--
-- snake_case, json instead of jsonb, events with their own at-uri
--
CREATE SCHEMA attach_snake;
CREATE TABLE attach_snake.people (id uuid PRIMARY KEY, preferences json,
	deleted_at timestamptz);
CREATE TABLE attach_snake.gatherings (id bigint PRIMARY KEY, atproto_uri text,
	atproto_cid text, source_type text, source_data json, start_date date,
	end_date date);
CREATE TABLE attach_snake.rsvps (id uuid PRIMARY KEY, status text,
	metadata jsonb, event_id bigint REFERENCES attach_snake.gatherings,
	user_id uuid REFERENCES attach_snake.people, created_at timestamptz);
INSERT INTO attach_snake.people VALUES
	('00000000-0000-0000-0000-00000000000a',
		'{"bluesky": {"did": "did:plc:a", "connected": true}}', NULL),
	('00000000-0000-0000-0000-00000000000b',
		'{"bluesky": {"did": "did:plc:b", "connected": true}}', now());
INSERT INTO attach_snake.gatherings VALUES
	(1, 'at://did:plc:o/community.lexicon.calendar.event/own', 'bafyown',
		'bluesky', '{"did": "did:plc:o", "rkey": "other", "cid": "bafyother"}',
		'2099-01-01', '2099-01-02'),
	(2, '', NULL, 'bluesky', '{"did": "did:plc:o", "rkey": "e2", "cid": "bafy2"}',
		'2001-01-01', NULL),
	(3, 'at://did:plc:o/community.lexicon.calendar.event/nocid', NULL,
		'bluesky', '{"cid": "not this one"}', NULL, NULL);
INSERT INTO attach_snake.rsvps
SELECT format('00000000-0000-0000-0000-0000000000%s%s', e, u)::uuid,
	'attended', NULL, e, format('00000000-0000-0000-0000-00000000000%s',
	CASE u WHEN 1 THEN 'a' ELSE 'b' END)::uuid, '2026-01-01'
FROM generate_series(1, 3) e, generate_series(1, 2) u;

-- backfill: past rows get a baseline, the others a place in the log
BEGIN;
SELECT rsvp_sync.attach('attach_snake.rsvps', options => '{"backfill": "upcoming", "tenant": "x", "index": "none"}') > 0 AS attached;
SELECT DISTINCT * FROM attach_test.logged('attach_snake.rsvps') ORDER BY key;
SELECT key, base_local FROM attach_test.intents('attach_snake.rsvps');
SELECT kind, tenant, backfill, index_name FROM rsvp_sync.source;
SELECT * FROM attach_test.desired('attach_snake.rsvps');
SELECT rsvp_sync.index_ddl('attach_snake.rsvps');
SELECT count(*) AS indexes FROM pg_indexes WHERE schemaname = 'attach_snake'
	AND indexdef ~ 'gin';
ROLLBACK;

-- attached again: options merge, baselines stay, until backfill is given anew
SELECT rsvp_sync.attach('attach_snake.rsvps', options => '{"on_cancel": "delete", "conflict": "local", "index": "none"}') > 0 AS attached;
BEGIN;
SELECT rsvp_sync.attach('attach_snake.rsvps', options => '{"conflict": null, "status_map": {"attended": null, "vip": "going"}, "index": null}') > 0 AS again;
SELECT options, index_name FROM rsvp_sync.source;
SELECT * FROM rsvp_sync.source_status_map('attach_snake.rsvps')
WHERE status IN ('attended', 'vip', 'confirmed');
SELECT count(*) AS baselines FROM attach_test.intents('attach_snake.rsvps');
SELECT count(*) AS logged FROM attach_test.logged('attach_snake.rsvps');
SELECT rsvp_sync.attach('attach_snake.rsvps', options => '{"backfill": "all"}') > 0 AS again;
SELECT count(*) AS baselines FROM attach_test.intents('attach_snake.rsvps');
SELECT count(*) AS logged FROM attach_test.logged('attach_snake.rsvps');
COMMIT;

-- an index that is there is used, not made a second time; ours goes, theirs stays
SELECT indexname FROM pg_indexes WHERE schemaname = 'attach_snake' AND indexdef ~ 'gin';
SELECT rsvp_sync.detach('attach_snake.rsvps');
SELECT indexname FROM pg_indexes WHERE schemaname = 'attach_snake' AND indexdef ~ 'gin';
CREATE INDEX theirs ON attach_snake.rsvps USING gin (metadata);
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS attached;
SELECT index_name IS NULL AS not_ours FROM rsvp_sync.source;
SELECT rsvp_sync.detach('attach_snake.rsvps');
SELECT indexname FROM pg_indexes WHERE schemaname = 'attach_snake' AND indexdef ~ 'gin';
SELECT relation FROM attach_test.triggers();

-- detach with withdrawal: triggers go at once, the worker does the rest
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS attached;
BEGIN;
SELECT rsvp_sync.detach('attach_snake.rsvps', withdraw => true);
SELECT state, reason FROM rsvp_sync.source;
SELECT op, count(*) FROM attach_test.logged('attach_snake.rsvps') GROUP BY 1;
SELECT relation FROM attach_test.triggers();
SELECT * FROM attach_test.refused($$SELECT rsvp_sync.pause('attach_snake.rsvps')$$) \gx
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS back_again;
SELECT state, reason FROM rsvp_sync.source;
COMMIT;

-- pause, resume
SELECT rsvp_sync.pause('attach_snake.rsvps');
SELECT state, reason FROM rsvp_sync.source;
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS again;
SELECT state FROM rsvp_sync.source;
SELECT rsvp_sync.resume('attach_snake.rsvps');
SELECT state, reason FROM rsvp_sync.source;
SELECT rsvp_sync.detach_all();

--
-- Several foreign keys to users: the name decides, or nothing does
--
ALTER TABLE attach_snake.rsvps ADD guest_of uuid REFERENCES attach_snake.people;
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS attached;
SELECT did FROM attach_test.desired('attach_snake.rsvps') GROUP BY did ORDER BY did;
SELECT rsvp_sync.detach_all();
ALTER TABLE attach_snake.rsvps RENAME user_id TO who;
SELECT state, message FROM attach_test.refused($$SELECT rsvp_sync.attach('attach_snake.rsvps')$$);
ALTER TABLE attach_snake.rsvps DROP guest_of;
SELECT rsvp_sync.attach('attach_snake.rsvps') > 0 AS attached;
SELECT rsvp_sync.detach_all();
DROP SCHEMA attach_snake CASCADE;
RESET ROLE;

--
-- OpenMeet as it is, in tenant schemas of mixed case
--
DO $$ BEGIN
	CREATE TYPE public.event_source_type AS ENUM ('bluesky', 'eventbrite',
		'facebook', 'luma', 'meetup', 'other', 'web');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
SET ROLE regress_attach;
\getenv abs_srcdir PG_ABS_SRCDIR
\set fixture :abs_srcdir '/fixtures/openmeet.sql'
\set schema tenant_attachTestA
\i :fixture
\set schema tenant_attachTestB
\i :fixture
INSERT INTO "tenant_attachTestA"."eventAttendees" ("roleId", "eventId",
	"userId", status) SELECT 3, 1, u, 'confirmed' FROM generate_series(1, 5) u;
INSERT INTO "tenant_attachTestA"."eventAttendees" ("roleId", "eventId",
	"userId", status) VALUES (3, 2, 1, 'maybe'), (3, 3, 1, 'pending');

SELECT attendance FROM rsvp_sync.attach_all('tenant\_attachTest%', '{"on_delete": "keep"}');
SELECT * FROM rsvp_sync.attach_all('no such schema');
SELECT attendance, tenant, kind, options, index_name FROM rsvp_sync.source
ORDER BY attendance::text;
SELECT * FROM attach_test.desired('"tenant_attachTestA"."eventAttendees"');
SELECT * FROM rsvp_sync.source_status_map('"tenant_attachTestA"."eventAttendees"');
SELECT * FROM attach_test.triggers() WHERE relation ~ 'TestA';
SELECT attach_test.dependents('"tenant_attachTestA"."eventAttendees"', 1, '1') AS event,
	attach_test.dependents('"tenant_attachTestA"."eventAttendees"', 2, '1') AS "user",
	attach_test.dependents('"tenant_attachTestA"."eventAttendees"', 3, '2') AS identity;
SELECT attach_test.write_back('"tenant_attachTestA"."eventAttendees"', '{1}',
	'at://did:plc:alice/x/3k', 'bafy', '3k', '2026-01-02 03:04:05+02');
SELECT attach_test.write_back('"tenant_attachTestA"."eventAttendees"', '{1}',
	'at://did:plc:alice/x/3k', 'bafy2', '3k', '2026-01-02 03:04:05+02') AS again;
SELECT "atprotoUri", "atprotoRkey", "atprotoSyncedAt"
FROM "tenant_attachTestA"."eventAttendees" WHERE id = 1;
SELECT attach_test.write_back('"tenant_attachTestA"."eventAttendees"', '{1}',
	NULL, NULL, NULL, now());
SELECT "atprotoUri", "atprotoRkey", "atprotoSyncedAt"
FROM "tenant_attachTestA"."eventAttendees" WHERE id = 1;
SELECT rsvp_sync.detach_all();
SELECT * FROM attach_test.triggers();
DROP SCHEMA "tenant_attachTestA", "tenant_attachTestB" CASCADE;

--
-- Any schema: queries, views, kinds of keys
--
CREATE SCHEMA attach_own;
SET search_path = attach_own, pg_temp;
CREATE DOMAIN code AS varchar(10);
CREATE TABLE by_text (id text PRIMARY KEY, who text, ev text, st text);
CREATE TABLE by_char (id char(8) PRIMARY KEY, who text, ev text, st text);
CREATE TABLE by_domain (id code PRIMARY KEY, who text, ev text, st text);
CREATE TABLE by_time (id timestamptz PRIMARY KEY, who text, ev text, st text);
INSERT INTO by_text VALUES ('a', 'did:plc:a', 'at://e', 'going'),
	('q"u''o,t{e}', 'did:plc:b', 'at://e', 'confirmed'), ('', 'did:plc:c', 'at://e', 'huh');
INSERT INTO by_char VALUES ('abc', 'did:plc:a', 'at://e', 'going');
INSERT INTO by_domain VALUES ('abc', 'did:plc:a', 'at://e', 'notgoing');
INSERT INTO by_time VALUES ('2026-05-06 07:08:09.5+00', 'did:plc:a', 'at://e', 'interested');

SELECT rsvp_sync.attach('by_text', $$
	WITH w AS (SELECT * FROM by_text) -- as it is
	SELECT id, who AS did, ev AS event_uri, st AS status FROM w;
$$) > 0 AS attached;
SELECT rsvp_sync.attach('by_char', 'SELECT id AS attendance_id, who AS did, ev AS event_uri, st AS status FROM by_char') > 0 AS attached;
SELECT rsvp_sync.attach('by_domain', 'SELECT id, who AS did, ev AS event_uri, st AS status FROM by_domain') > 0 AS attached;
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
SELECT rsvp_sync.attach('by_time', 'SELECT id, who AS did, ev AS event_uri, st AS status FROM by_time') > 0 AS attached;
RESET datestyle;
SET timezone = 'UTC';
SELECT attendance, tenant, kind, desired FROM rsvp_sync.source ORDER BY source_id;
RESET search_path;
SELECT key, did, status FROM attach_test.desired('attach_own.by_text');
SELECT key, did FROM attach_test.desired('attach_own.by_text', 'q"u''o,t{e}');
SELECT key, local, base_local FROM attach_test.intents('attach_own.by_text');
SELECT key, did FROM attach_test.desired('attach_own.by_domain', 'abc');
SELECT key, did FROM attach_test.desired('attach_own.by_char', 'abc     ');
SELECT key, did FROM attach_test.desired('attach_own.by_time', '2026-05-06 07:08:09.5+00');
SELECT key FROM attach_test.intents('attach_own.by_time');
SELECT * FROM attach_test.triggers();
SELECT rsvp_sync.detach_all();

-- composite keys, partitions, a view found by the search_path
SET search_path = attach_own;
CREATE TABLE parted (region text, no bigint, who text, ev text, st text,
	uri text, cid text, rkey varchar(20), synced timestamp(0), metadata jsonb,
	PRIMARY KEY (no, region)) PARTITION BY LIST (region);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b') PARTITION BY RANGE (no);
CREATE TABLE parted_b1 PARTITION OF parted_b FOR VALUES FROM (0) TO (100);
INSERT INTO parted (region, no, who, ev, st) VALUES
	('a', 1, 'did:plc:a', 'at://e', 'going'), ('b', 1, 'did:plc:b', 'at://e', 'maybe');
CREATE VIEW wanted AS
	SELECT no, region, who AS did, ev AS event_uri, st AS status FROM parted;
SELECT rsvp_sync.attach('parted', 'wanted', options => '{"writeback":
	{"uri": "uri", "cid": "cid", "rkey": "rkey", "synced_at": "metadata.synced"}}') > 0 AS attached;
CREATE TABLE parted_c PARTITION OF parted FOR VALUES IN ('c');
SELECT kind, desired FROM rsvp_sync.source;
SELECT key, did, status FROM attach_test.desired('parted');
SELECT key, did FROM attach_test.desired('parted', '["1", "b"]');
SELECT key, local FROM attach_test.intents('parted');
SELECT * FROM attach_test.triggers();
SELECT attach_test.write_back('parted', '{1,b}', 'at://r', 'bafy', '3k', '2026-01-02 03:04:05+00') AS first,
	attach_test.write_back('parted', '{1,b}', 'at://r', 'bafy', '3k', '2026-01-02 03:04:05+00') AS same_statement,
	attach_test.write_back('parted', '{2,b}', 'at://r', 'bafy', '3k', now()) AS no_row;
SELECT attach_test.write_back('parted', '{1,b}', 'at://r', 'bafy', '3k', '2026-01-02 03:04:05+00') AS again;
SELECT region, uri, cid, rkey, metadata FROM parted ORDER BY region;
SELECT regexp_replace(rsvp_sync.index_ddl('parted'), '_\d+\y', '_N', 'g') AS index_ddl;
-- a view follows renames by itself, and its keys' names are followed
ALTER TABLE parted RENAME no TO number;
ALTER VIEW wanted RENAME TO still_wanted;
SELECT key, did FROM attach_test.desired('parted', '["1", "b"]');
SELECT rsvp_sync.attach('parted', options => '{"conflict": "remote"}') > 0 AS again;
SELECT desired FROM rsvp_sync.source;
ALTER TABLE parted RENAME number TO no;
-- a query that no longer runs: the application writes on
DROP VIEW still_wanted;
SELECT * FROM attach_test.refused($$SELECT attach_test.desired('attach_own.parted')$$) \gx
INSERT INTO parted (region, no, st) VALUES ('c', 5, 'going');
SELECT rsvp_sync.attach('parted', 'SELECT no, region, who AS did, ev AS event_uri, st AS status FROM parted') > 0 AS again;
SELECT kind, desired, options FROM rsvp_sync.source;

-- a lookup that cannot use the key is told
-- (with its plan, whose text is another in each version)
\set VERBOSITY terse
SELECT rsvp_sync.attach('by_text', 'SELECT id, who AS did, ev AS event_uri, st AS status, count(*) OVER () FROM by_text') > 0 AS attached;
\set VERBOSITY default
SELECT attach_test.explained('attach_own.by_text') ~ 'Seq Scan on by_text' AS its_plan;

-- other tables that matter
CREATE TABLE talks (id integer PRIMARY KEY, name text);
CREATE TABLE rooms (a text, b text, PRIMARY KEY (a, b));
CREATE TABLE visits (id integer PRIMARY KEY, talk integer, ra text, rb text, who text, st text);
INSERT INTO visits VALUES (1, 7, 'x', 'y', 'did:plc:a', 'going'), (2, 8, 'x', 'z', 'did:plc:a', 'going');
SELECT rsvp_sync.attach('visits', 'SELECT id, who AS did, name AS event_uri, st AS status
	FROM visits LEFT JOIN talks USING (id)',
	options => '{"depends": [{"table": "talks", "column": "talk"},
		{"table": "attach_own.rooms", "column": ["ra", "rb"]}], "watch": ["st", "who"]}') > 0 AS attached;
SELECT options FROM rsvp_sync.source WHERE attendance = 'visits'::regclass;
SELECT attach_test.dependents('visits', 1, '7') AS talk,
	attach_test.dependents('visits', 2, '["x", "z"]') AS room,
	attach_test.dependents('visits', 3, '1') AS none;
SELECT * FROM attach_test.triggers() WHERE relation IN ('talks', 'rooms', 'visits');
SELECT rsvp_sync.attach('visits', options => '{"depends": null, "watch": null}') > 0 AS again;
SELECT * FROM attach_test.triggers() WHERE relation IN ('talks', 'rooms', 'visits');

-- an apply function
CREATE FUNCTION take(did text, event_uri text, status text, rsvp jsonb) RETURNS text
LANGUAGE sql AS 'SELECT NULL::text';
SELECT rsvp_sync.attach('visits', apply => 'take') > 0 AS again;
SELECT apply FROM rsvp_sync.source WHERE attendance = 'visits'::regclass;
SELECT rsvp_sync.attach('visits', apply => 'attach_own.take(text, text, text, jsonb)') > 0 AS again;

--
-- Refusals
--
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE TABLE no_key (id integer);
CREATE TABLE plain ("Key A" integer, b text, status text, PRIMARY KEY ("Key A", b));
CREATE TEMPORARY TABLE temporary (id integer PRIMARY KEY);
SELECT f.* FROM unnest(ARRAY[
	$$SELECT rsvp_sync.attach(NULL)$$,
	$$SELECT rsvp_sync.attach('a_view')$$,
	$$SELECT rsvp_sync.attach('no_key')$$,
	$$SELECT rsvp_sync.attach('temporary')$$,
	$$SELECT rsvp_sync.attach('plain')$$,
	$$SELECT rsvp_sync.attach('plain', 'SELECT "Key A", b FROM plain')$$,
	$$SELECT rsvp_sync.attach('by_char', 'SELECT ev AS event_uri FROM by_char')$$,
	$$SELECT rsvp_sync.attach('by_char', 'SELECT id::text, who AS did, ev AS event_uri, st AS status FROM by_char')$$,
	$$SELECT rsvp_sync.attach('plain', 'SELEC 1')$$,
	$$SELECT rsvp_sync.attach('plain', '')$$,
	$$SELECT rsvp_sync.attach('plain', 'SELECT nothing FROM nowhere')$$,
	$$SELECT rsvp_sync.attach('plain', 'SELECT $1')$$,
	$$SELECT rsvp_sync.attach('plain', 'SELECT 1; SELECT 2')$$,
	$$SELECT rsvp_sync.attach('plain', 'DELETE FROM plain RETURNING *')$$,
	$$SELECT rsvp_sync.attach('plain', 'nowhere')$$,
	$$SELECT rsvp_sync.attach('visits', apply => 'nowhere')$$,
	$$SELECT rsvp_sync.detach('plain')$$,
	$$SELECT rsvp_sync.pause('plain')$$,
	$$SELECT rsvp_sync.resume('plain')$$,
	$$SELECT rsvp_sync.index_ddl('visits')$$,
	$$SELECT rsvp_sync.source_status_map('plain')$$,
	$$SELECT rsvp_sync.attach(1)$$]) WITH ORDINALITY AS s (statement, n)
CROSS JOIN LATERAL attach_test.refused(s.statement) f ORDER BY s.n \gx
SELECT state, message FROM attach_test.refused($$SELECT rsvp_sync.attach('pg_class')$$);
-- options
SELECT o.options, f.* FROM unnest(ARRAY[
	'{"backfil": "all"}', '[]', '"x"', '{"backfill": "some"}', '{"backfill": 1}',
	'{"on_cancel": "keep"}', '{"on_delete": "cancel"}', '{"conflict": "both"}',
	'{"index": "btree"}', '{"publish_past_events": "yes"}',
	'{"shadow_users": 1}', '{"tenant": 5}', '{"status_map": ["going"]}',
	'{"status_map": {"ok": "yes"}}', '{"sql_timeout": "soon"}',
	'{"sql_timeout": -1}', '{"metadata": "who"}', '{"watch": ["nobody"]}',
	'{"watch": "who"}', '{"writeback": {"url": "who"}}',
	'{"writeback": {"uri": "nobody"}}', '{"writeback": {"uri": "who.x"}}',
	'{"writeback": {"uri": 1}}', '{"depends": [{"table": "talks"}]}',
	'{"depends": [{"table": "talks", "column": "nobody"}]}',
	'{"depends": [{"table": "nowhere", "column": "talk"}]}',
	'{"depends": [{"table": "rooms", "column": "ra"}]}'])
	WITH ORDINALITY AS o (options, n)
CROSS JOIN LATERAL attach_test.refused(format(
	$$SELECT rsvp_sync.attach('visits', options => %L)$$, o.options)) f
ORDER BY o.n \gx
-- a refused call changed nothing
SELECT options, apply FROM rsvp_sync.source WHERE attendance = 'visits'::regclass;
-- rows that others commit meanwhile would be missed
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM attach_test.refused($$SELECT rsvp_sync.attach('plain')$$) \gx
ROLLBACK;

-- whose table it is
GRANT USAGE ON SCHEMA attach_own TO PUBLIC;
RESET ROLE;
SET ROLE regress_attach_other;
SELECT f.* FROM unnest(ARRAY['attach', 'detach', 'pause', 'resume',
	'index_ddl', 'source_status_map']) WITH ORDINALITY AS s (name, n)
CROSS JOIN LATERAL attach_test.refused(format(
	$$SELECT rsvp_sync.%I('attach_own.visits')$$, s.name)) f ORDER BY s.n;
SELECT count(*) AS others_see FROM rsvp_sync.source;
SELECT rsvp_sync.detach_all();
RESET ROLE;
SET ROLE regress_attach_member;
SELECT rsvp_sync.attach('attach_own.visits') > 0 AS member_may;
RESET ROLE;
-- a superuser may, and is told what that means
CREATE TABLE attach_test.supers (id integer PRIMARY KEY, d text);
ALTER TABLE attach_test.supers OWNER TO regress_attach_super;
SELECT rsvp_sync.attach('attach_test.supers', 'SELECT id, d AS did, d AS event_uri, d AS status FROM attach_test.supers') > 0 AS attached;
SELECT rsvp_sync.detach('attach_test.supers');
-- tables that are not what they seem
CREATE UNLOGGED TABLE attach_test.lossy (id integer PRIMARY KEY, d text);
ALTER TABLE attach_test.lossy OWNER TO regress_attach;
CREATE TABLE attach_test.lossy_kid () INHERITS (attach_test.lossy);
SELECT rsvp_sync.attach('attach_test.lossy', 'SELECT id, d AS did, d AS event_uri, d AS status FROM attach_test.lossy') > 0 AS attached;
SELECT rsvp_sync.detach('attach_test.lossy');
DROP TABLE attach_test.lossy CASCADE;
-- a table of somebody else's gets no trigger, and no right is lent
CREATE TABLE attach_test.theirs (id integer PRIMARY KEY);
SET ROLE regress_attach;
SELECT rsvp_sync.attach('visits', options => '{"depends": [{"table": "attach_test.theirs", "column": "talk"}]}') > 0 AS attached;
SELECT count(*) FROM attach_test.triggers() WHERE relation = 'attach_test.theirs';
RESET ROLE;

-- nothing here is for everybody, and every function says what it is for
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'rsvp_sync'::regnamespace
	AND p.prosrc ~ '^(rsvp_sync_(attach|detach|pause|resume|index|source))'
	AND (has_function_privilege('public', p.oid, 'EXECUTE')
		OR obj_description(p.oid) IS NULL);

--
-- A plain DROP EXTENSION while attached takes what is ours and only that
--
SELECT count(*) > 0 AS attached FROM rsvp_sync._source;
DROP EXTENSION rsvp_sync;
SELECT count(*) AS triggers FROM attach_test.triggers();
SELECT count(*) AS rows FROM attach_own.parted;
INSERT INTO attach_own.parted (region, no, st) VALUES ('c', 6, 'going');
UPDATE attach_own.visits SET st = 'maybe';
TRUNCATE attach_own.parted;
DROP SCHEMA attach_own, attach_test CASCADE;
DROP OWNED BY regress_attach, regress_attach_other;
DROP ROLE regress_attach, regress_attach_other, regress_attach_member,
	regress_attach_super;
