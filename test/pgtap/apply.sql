-- Apply: RSVPs made elsewhere become attendance.  Each rule in the plan's
-- schema, in both spellings; what is OpenMeet's own in apply_openmeet.sql, the
-- application's own function in apply_function.sql.  No network, no worker.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SET rsvp_sync.mode = 'off';
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

CREATE ROLE regress_apply;
SELECT rsvp_sync.grant_application('regress_apply');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_apply;
SET ROLE regress_apply;

-- The plan's schema: snake_case, and as TypeORM writes it.  A composite key of
-- events in the second: tenants.
CREATE SCHEMA snake;
CREATE TYPE snake.status AS ENUM ('confirmed', 'attended', 'maybe', 'pending',
	'waitlist', 'cancelled', 'invited', 'rejected', 'banned');
CREATE TABLE snake.users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	preferences jsonb, first_name text NOT NULL, deleted_at timestamptz,
	is_shadow_account boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE snake.events (id bigint PRIMARY KEY, atproto_uri text,
	source_type text, source_id text, source_url text, source_data jsonb,
	visibility text DEFAULT 'public', require_approval boolean,
	max_attendees integer, allow_waitlist boolean DEFAULT false);
CREATE TABLE snake.attendance (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	status snake.status NOT NULL, metadata jsonb DEFAULT '{}',
	event_id bigint REFERENCES snake.events,
	user_id bigint REFERENCES snake.users,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT '2020-01-01');

CREATE SCHEMA "Camel Case";
CREATE SEQUENCE "Camel Case".users_seq;
CREATE TABLE "Camel Case"."Users" (
	"no" text PRIMARY KEY DEFAULT 'u' || nextval('"Camel Case".users_seq'),
	"preferences" json, "displayName" text, "deletedAt" timestamp,
	"isShadowAccount" boolean NOT NULL DEFAULT false);
CREATE TABLE "Camel Case"."Events" ("tenantNo" smallint, "eventNo" varchar(20),
	"atprotoUri" text, "sourceType" text, "sourceId" text, "sourceUrl" text,
	"sourceData" jsonb, "visibility" text DEFAULT 'public',
	"requireApproval" boolean, "maxAttendees" integer,
	"allowWaitlist" boolean DEFAULT false, PRIMARY KEY ("tenantNo", "eventNo"));
CREATE TABLE "Camel Case"."Attendance" ("status" text, "metadata" jsonb,
	"tenantNo" smallint NOT NULL, "eventNo" varchar(20) NOT NULL,
	"userNo" varchar(30) NOT NULL REFERENCES "Camel Case"."Users",
	"updatedAt" timestamp NOT NULL DEFAULT '2020-01-01',
	FOREIGN KEY ("tenantNo", "eventNo") REFERENCES "Camel Case"."Events",
	PRIMARY KEY ("tenantNo", "eventNo", "userNo"));

INSERT INTO snake.users OVERRIDING SYSTEM VALUE
SELECT u.id, u.preferences, 'user ' || u.id, u.deleted_at, u.shadow, now(), now()
FROM (VALUES
	(1, '{"bluesky": {"did": "did:plc:ann"}}'::jsonb, NULL::timestamptz, false),
	(2, '{"bluesky": {"did": "did:plc:ben"}}', NULL, true),
	(3, '{"bluesky": {"did": "did:plc:ben"}}', NULL, false),
	(4, '{"bluesky": {"did": "did:plc:gone"}}', '2026-01-01', false),
	(5, '["dirty"]', NULL, false)) AS u (id, preferences, deleted_at, shadow);
ALTER TABLE snake.users ALTER id RESTART 100;
INSERT INTO snake.events (id, atproto_uri, require_approval, max_attendees,
	allow_waitlist, visibility)
SELECT e.id, 'at://did:plc:org/community.lexicon.calendar.event/e' || e.id,
	e.approval, e.max, e.waitlist, e.visibility
FROM (VALUES (1, false, NULL, false, 'public'), (2, true, 0, false, 'public'),
	(3, NULL, 2, true, 'public'), (4, NULL, 2, false, 'public'),
	(5, false, NULL, false, 'private'), (6, false, NULL, false, NULL))
	AS e (id, approval, max, waitlist, visibility);
INSERT INTO snake.events (id, source_type, source_data, source_id, source_url)
VALUES (10, 'bluesky', '{"did": "did:plc:org", "rkey": "e10"}', NULL, NULL),
	(11, 'bluesky', NULL, 'at://did:plc:org/community.lexicon.calendar.event/e11', NULL),
	(12, 'other', '{"did": "did:plc:org", "rkey": "e12"}', NULL, NULL),
	(13, 'web', NULL, '4711', 'https://example.org/party'),
	(14, 'activitypub', NULL, 'https://example.org/ap/1', NULL);

INSERT INTO "Camel Case"."Users" ("no", "preferences", "displayName",
	"deletedAt", "isShadowAccount")
SELECT 'u' || -u.id, u.preferences, u.first_name, u.deleted_at,
	u.is_shadow_account FROM snake.users u;
INSERT INTO "Camel Case"."Events"
SELECT 7, 'e-' || e.id, e.atproto_uri, e.source_type, e.source_id,
	e.source_url, e.source_data, e.visibility, e.require_approval,
	e.max_attendees, e.allow_waitlist
FROM snake.events e;
SELECT rsvp_sync.attach('snake.attendance') AS snake,
	rsvp_sync.attach('"Camel Case"."Attendance"') AS camel \gset
RESET ROLE;

-- Both schemas as one: rows by number of event and of user, and a way to put
-- them there.
CREATE VIEW att AS
SELECT 'snake' AS schema, a.id::text AS key, a.event_id AS event,
	a.user_id AS usr, a.status::text, a.updated_at > '2020-01-01' AS moved,
	a.xmin::text
FROM snake.attendance a
UNION ALL
SELECT 'camel', jsonb_build_array(a."tenantNo"::text, a."eventNo", a."userNo")::text,
	substr(a."eventNo", 3)::int, abs(substr(a."userNo", 2)::int) + CASE
		WHEN a."userNo" LIKE 'u-%' THEN 0 ELSE 99 END, a."status",
	a."updatedAt" > '2020-01-01', a.xmin::text
FROM "Camel Case"."Attendance" a;
CREATE FUNCTION put(event int, usr int, status text) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO snake.attendance (event_id, user_id, status)
	VALUES (event, usr, status::snake.status);
	INSERT INTO "Camel Case"."Attendance" ("tenantNo", "eventNo", "userNo", "status")
	VALUES (7, 'e-' || event, 'u-' || usr, status);
$$;
CREATE FUNCTION clear() RETURNS void LANGUAGE sql AS $$
	DELETE FROM snake.attendance; DELETE FROM "Camel Case"."Attendance" $$;
CREATE TABLE sources (schema text, source bigint);
INSERT INTO sources VALUES ('snake', :snake), ('camel', :camel);
CREATE FUNCTION uri(event int) RETURNS text LANGUAGE sql AS
$$ SELECT 'at://did:plc:org/community.lexicon.calendar.event/e' || event $$;

-- One RSVP applied in both: what came of it, the same in both or told apart.
CREATE FUNCTION apply(did text, event text, status text, rsvp jsonb DEFAULT '{}')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s record;
	r record;
	said text[];
BEGIN
	FOR s IN SELECT * FROM sources LOOP
		SELECT * INTO r FROM rsvp_sync._apply(s.source, ARRAY[did],
			ARRAY[event], ARRAY[status], ARRAY[rsvp::text]);
		said := said || CASE WHEN r.error IS NOT NULL
				THEN r.code || ' ' || r.error
			WHEN r.key = '' THEN 'no row'
			WHEN r.key IS NULL THEN 'unknown'
			ELSE (SELECT a.status FROM att a WHERE a.schema = s.schema
				AND a.key = r.key) END;
	END LOOP;
	RETURN (SELECT string_agg(DISTINCT x, ' | ') FROM unnest(said) x);
END
$$;

-- Events
SELECT is(apply('did:plc:ann', uri(1), 'going'), 'confirmed',
	'an event by the uri it was published under');
SELECT is(apply('did:plc:ann', uri(10), 'going'), 'confirmed',
	'an imported event by did and record key');
SELECT is(apply('did:plc:ann', uri(11), 'going'), 'confirmed',
	'an imported event by its source id');
SELECT is(apply('did:plc:ann', uri(12), 'going'), 'unknown',
	'one that was imported from elsewhere is not that one');
SELECT is(apply('did:plc:ann', uri(99), 'going'), 'unknown',
	'an event that is not known here');
SELECT is(apply('did:plc:ann', uri(5), 'going'), 'unknown',
	'a private event cannot be answered from outside');
SELECT is(apply('did:plc:ann', uri(6), 'going'), 'unknown',
	'nor one that does not say that it is public');
SELECT is(apply('https://ann.example/', 'https://example.org/party', 'going',
	'{"source": "web"}'), '0A000 this schema has no users of "web"',
	'an author''s address needs a column to be kept in');
SELECT is(array_agg(k.uri || ' ' || k.event_key ORDER BY k.event_key),
	ARRAY[uri(1) || ' 1', uri(10) || ' 10', uri(11) || ' 11',
		'https://example.org/party 13', 'https://example.org/ap/1 14'],
	'_known_events() has those, and no private ones')
FROM rsvp_sync._known_events(:snake, ARRAY[uri(1), uri(5), uri(6), uri(10),
	uri(11), uri(12), uri(99), NULL, 'https://example.org/party',
	'https://example.org/ap/1', 'nonsense']) k;
SELECT is(k.event_key, '["7", "e-10"]', 'a composite key is a JSON array')
FROM rsvp_sync._known_events(:camel, ARRAY[uri(10)]) k;

-- Users
SELECT clear();
SELECT apply(d, uri(1), 'going', '{"handle": "kim.example"}') FROM unnest(
	'{did:plc:ann,did:plc:ben,did:plc:gone,did:plc:kim,did:plc:kim}'::text[]) d;
SELECT is(array_agg(a.schema || a.usr ORDER BY a.schema, a.usr),
	'{camel1,camel3,camel100,camel101,snake1,snake3,snake100,snake101}',
	'a real user before a shadow; not one who is deleted; a new one only once')
FROM att a;
SELECT is(array_agg(to_jsonb(u) - '{created_at,updated_at}'::text[] ORDER BY id),
	ARRAY['{"id": 100, "first_name": "kim.example", "is_shadow_account": true,
		"preferences": {"bluesky": {"did": "did:plc:gone", "handle": "kim.example"}},
		"deleted_at": null}'::jsonb,
		'{"id": 101, "first_name": "kim.example", "is_shadow_account": true,
		"preferences": {"bluesky": {"did": "did:plc:kim", "handle": "kim.example"}},
		"deleted_at": null}'],
	'a shadow user as it should be')
FROM snake.users u WHERE id >= 100;
SELECT is(apply('did:plc:nil', uri(1), NULL), 'no row',
	'a withdrawn record creates neither user nor row');
SELECT is(apply('did:plc:nil', uri(1), 'notgoing'), 'cancelled',
	'but one who says that he will not come gets a cancelled row');
SELECT is(apply('did:plc:nil2', uri(1), 'going'), 'confirmed', 'without a handle');
SELECT is(u.first_name || u.preferences::text,
	'did:plc:nil2{"bluesky": {"did": "did:plc:nil2"}}', 'the DID stands in')
FROM snake.users u WHERE u.preferences::text LIKE '%nil2%';
SET ROLE regress_apply;
SELECT rsvp_sync.attach('snake.attendance', options => '{"shadow_users": false}');
SELECT rsvp_sync.attach('"Camel Case"."Attendance"', options => '{"shadow_users": false}');
RESET ROLE;
SELECT is(apply('did:plc:new', uri(1), 'going'), 'no row', 'no shadow users, if they are not wanted');
SELECT is(apply('did:plc:ann', uri(11), 'going'), 'confirmed', 'others go on');
SET ROLE regress_apply;
SELECT rsvp_sync.attach('snake.attendance', options => '{"shadow_users": null}');
SELECT rsvp_sync.attach('"Camel Case"."Attendance"', options => '{"shadow_users": null}');
RESET ROLE;

-- Every status, every answer: what it becomes in an event that is open (o),
-- that wants approval (a), that is full and has a waitlist (w) or none (f).
CREATE TABLE rule (was text, answer text, o text, a text, w text, f text);
INSERT INTO rule VALUES
	(NULL, 'going', 'confirmed', 'pending', 'waitlist', 'pending'),
	(NULL, 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	(NULL, 'notgoing', 'cancelled', 'cancelled', 'cancelled', 'cancelled'),
	(NULL, NULL, 'no row', 'no row', 'no row', 'no row'),
	('confirmed', 'going', 'confirmed', 'confirmed', 'confirmed', 'confirmed'),
	('attended', 'going', 'attended', 'attended', 'attended', 'attended'),
	('maybe', 'going', 'confirmed', 'pending', 'waitlist', 'pending'),
	('pending', 'going', 'confirmed', 'pending', 'waitlist', 'pending'),
	('waitlist', 'going', 'waitlist', 'waitlist', 'waitlist', 'waitlist'),
	('cancelled', 'going', 'confirmed', 'pending', 'waitlist', 'pending'),
	('invited', 'going', 'confirmed', 'pending', 'waitlist', 'pending'),
	('rejected', 'going', 'rejected', 'rejected', 'rejected', 'rejected'),
	('banned', 'going', 'banned', 'banned', 'banned', 'banned'),
	('confirmed', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('attended', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('maybe', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('pending', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('waitlist', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('cancelled', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('invited', 'interested', 'maybe', 'maybe', 'maybe', 'maybe'),
	('rejected', 'interested', 'rejected', 'rejected', 'rejected', 'rejected'),
	('banned', 'interested', 'banned', 'banned', 'banned', 'banned');
INSERT INTO rule
SELECT w.was, a.answer, w.becomes, w.becomes, w.becomes, w.becomes
FROM (VALUES ('confirmed', 'cancelled'), ('attended', 'cancelled'),
	('maybe', 'cancelled'), ('pending', 'cancelled'), ('waitlist', 'cancelled'),
	('cancelled', 'cancelled'), ('invited', 'cancelled'),
	('rejected', 'rejected'), ('banned', 'banned')) AS w (was, becomes)
CROSS JOIN (VALUES ('notgoing'), (NULL)) AS a (answer);
CREATE FUNCTION follow(was text, answer text, event int) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	before text;
	said text;
BEGIN
	PERFORM clear();
	IF event > 2 THEN
		PERFORM put(event, 3, 'confirmed'), put(event, 5, 'attended');
	END IF;
	IF was IS NOT NULL THEN
		PERFORM put(event, 1, was);
	END IF;
	before := (SELECT string_agg(a.key || a.xmin, ',' ORDER BY a.schema)
		FROM att a WHERE a.usr = 1);
	said := apply('did:plc:ann', uri(event), answer);
	IF said = was AND before IS DISTINCT FROM (SELECT
		string_agg(a.key || a.xmin, ',' ORDER BY a.schema) FROM att a
		WHERE a.usr = 1)
	THEN
		RETURN said || ', but written';
	END IF;
	IF (SELECT bool_or(a.moved = (said = was)) FROM att a WHERE a.usr = 1
		AND (a.schema = 'camel' OR was IS NOT NULL)) AND was IS NOT NULL
	THEN
		RETURN said || ', but updated_at is wrong';
	END IF;
	IF (SELECT count(*) FROM att a WHERE a.usr = 1) > 2 THEN
		RETURN said || ', but twice';
	END IF;
	RETURN said;
END
$$;
SELECT is(ARRAY[follow(r.was, r.answer, 1), follow(r.was, r.answer, 2),
		follow(r.was, r.answer, 3), follow(r.was, r.answer, 4)],
	ARRAY[r.o, r.a, r.w, r.f],
	format('%s, then %s', coalesce(r.was, 'nothing'), coalesce(r.answer, 'withdrawn')))
FROM rule r ORDER BY r.was COLLATE "C" NULLS FIRST, r.answer COLLATE "C";

-- A batch is as its RSVPs one by one: places in their order, errors alone.
SELECT clear();
CREATE FUNCTION batch(source bigint, dids text[], events text[], statuses text[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	said text;
BEGIN
	CREATE TEMP TABLE answer ON COMMIT DROP AS
		SELECT * FROM rsvp_sync._apply(source, dids, events, statuses,
			array_fill(NULL::text, ARRAY[cardinality(dids)]));
	SELECT string_agg(coalesce(r.code || r.key || ' and a key', r.code,
		nullif(a.status, ''), r.key, 'unknown'), ',' ORDER BY r.n) INTO said
	FROM answer r LEFT JOIN att a ON a.key = r.key;
	DROP TABLE answer;
	RETURN said;
END
$$;
SELECT is(batch(s.source, ARRAY['did:plc:b1', 'did:plc:b2', 'did:plc:b3', 'did:plc:ann',
		'did:plc:nobody'],
	ARRAY[uri(3), uri(3), uri(3), uri(1), uri(77)],
	ARRAY['going', 'going', 'going', 'interested', 'going']),
	'confirmed,confirmed,waitlist,maybe,unknown', s.schema || ': places in order')
FROM sources s;
SELECT is(batch(s.source, ARRAY['did:plc:c1', 'did:plc:c1', 'did:plc:c2', 'did:plc:c1'],
	ARRAY[uri(1), uri(10), uri(10), uri(1)],
	ARRAY['going', 'going', 'interested', 'notgoing']),
	'cancelled,confirmed,maybe,cancelled',
	s.schema || ': a stranger several times in a batch, twice for one event')
FROM sources s;
SELECT is(batch(s.source, '{did:plc:ann,did:plc:ann}', ARRAY[uri(1), uri(1)], '{notgoing,going}'),
	'confirmed,confirmed', s.schema || ': twice, the last one counts')
FROM sources s;
SELECT is(batch(s.source, '{did:plc:ann,did:plc:ann}', ARRAY[uri(1), uri(1)], '{notgoing,going}'),
	'confirmed,confirmed', s.schema || ': also of a row that is there')
FROM sources s;
SELECT is(count(*), 1::bigint, 'one user') FROM snake.users u
WHERE u.preferences::text LIKE '%did:plc:c1"%';
SELECT is((SELECT count(*) FROM rsvp_sync._apply(:snake, '{}', '{}', '{}', '{}')),
	0::bigint, 'an empty batch');
SELECT throws_ok($$SELECT rsvp_sync._apply(s.source, '{did:plc:ann}', '{at://x}',
	'{perhaps}', '{NULL}') FROM sources s LIMIT 1$$, '22023', NULL,
	'a status that is none is refused');

-- Triggers: one that raises fails that RSVP alone; what changes nothing is not
-- seen by them; each change is one.
CREATE TABLE audit (what text, who text);
GRANT INSERT ON audit TO regress_apply;
CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit VALUES (TG_OP, current_user); -- under the path of attach()
	IF NEW.event_id = 11 THEN
		RAISE EXCEPTION 'not to this one' USING ERRCODE = 'P4711';
	END IF;
	RETURN NEW;
END
$$;
SELECT clear();
CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON snake.attendance
	FOR EACH ROW EXECUTE FUNCTION public.audit();
SELECT is(batch(:snake, '{did:plc:ann,did:plc:ann,did:plc:ann}',
	ARRAY[uri(10), uri(11), uri(1)], '{going,going,interested}'),
	'confirmed,P4711,maybe', 'a trigger that raises fails that one');
SELECT is(batch(:snake, '{did:plc:ann,did:plc:ann}',
	ARRAY[uri(10), uri(1)], '{going,notgoing}'), 'confirmed,cancelled', 'again');
SELECT is(array_agg(what || ' ' || who ORDER BY what), '{INSERT regress_apply,INSERT regress_apply,UPDATE regress_apply}',
	'each change once, as the owner') FROM audit;
DROP TRIGGER audit ON snake.attendance;
CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER swallow BEFORE INSERT OR UPDATE ON snake.attendance
	FOR EACH ROW EXECUTE FUNCTION public.swallow();
SELECT is(batch(:snake, '{did:plc:ann,did:plc:ben}', ARRAY[uri(10), uri(10)],
	'{notgoing,going}'), '40001,40001', 'a row that a trigger swallows is an error');
DROP TRIGGER swallow ON snake.attendance;

-- Indexes: which would help is said, they are used when they are there.
SET ROLE regress_apply;
INSERT INTO snake.users (first_name, preferences, created_at, updated_at)
SELECT 'n', jsonb_build_object('bluesky', jsonb_build_object('did', 'did:plc:n' || n)), now(), now() FROM generate_series(1, 3000) n;
INSERT INTO snake.events (id, atproto_uri, source_data)
SELECT n, public.uri(n), '{}' FROM generate_series(1000, 4000) n;
RESET ROLE;
ANALYZE snake.users, snake.events;
CREATE FUNCTION advice() RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(d.remedy ORDER BY d.remedy COLLATE "C") FROM rsvp_sync.doctor() d WHERE d.check_name = 'apply_index'
$$;
SELECT is(advice(), NULL, 'without a stream doctor() gives no advice on indexes');
SET rsvp_sync.jetstream_url = 'wss://jetstream.example.org/subscribe';
SELECT is(advice(), ARRAY['CREATE INDEX CONCURRENTLY ON snake.events ((source_data ->> ''rkey''::text));',
	'CREATE INDEX CONCURRENTLY ON snake.events (atproto_uri);',
	'CREATE INDEX CONCURRENTLY ON snake.events (source_id);',
	'CREATE INDEX CONCURRENTLY ON snake.users (((preferences -> ''bluesky''::text) ->> ''did''::text));'],
	'doctor() has the statements');
SELECT replace(unnest(advice()), 'CONCURRENTLY ', '') \gexec
SELECT is(advice(), NULL, 'once they are there it is content');
ALTER TABLE snake.events RENAME source_id TO "Source Id";
SELECT is(advice(), NULL, 'under whatever name');
ANALYZE snake.users, snake.events;
CREATE FUNCTION scans() RETURNS bigint LANGUAGE sql AS $$
	SELECT pg_stat_get_xact_numscans('snake.users'::regclass) + pg_stat_get_xact_numscans('snake.events'::regclass) $$;
BEGIN;
SELECT scans() AS scans \gset
SELECT is(batch(:snake, '{did:plc:n7,did:plc:n8,did:plc:n9}', ARRAY[uri(10), uri(2000), uri(99)],
	'{going,going,going}'), 'confirmed,confirmed,unknown', 'apply with them');
SELECT is(scans() - :scans, 0::bigint, 'reads no table as a whole');
COMMIT;

-- Partitions, users by another key than their first, a row for each of two answers
SET ROLE regress_apply;
CREATE SCHEMA parts;
CREATE TABLE parts.users (id serial PRIMARY KEY, ulid char(26) UNIQUE NOT NULL, preferences jsonb, "Updated_At" timestamptz NOT NULL);
CREATE TABLE parts.events (id integer PRIMARY KEY, atproto_uri text);
CREATE TABLE parts.attendance (id serial, "Kind" text NOT NULL DEFAULT 'a', status varchar(10), metadata jsonb,
	event_id integer NOT NULL REFERENCES parts.events, user_ulid varchar(30) NOT NULL REFERENCES parts.users (ulid),
	created_at date NOT NULL, updated_at bigint, role text NOT NULL, PRIMARY KEY (id, "Kind")) PARTITION BY LIST ("Kind");
CREATE TABLE parts.a PARTITION OF parts.attendance FOR VALUES IN ('a');
CREATE TABLE parts.b PARTITION OF parts.attendance FOR VALUES IN ('b');
INSERT INTO parts.users VALUES (1, 'short', '{"bluesky": {"did": "did:plc:ann"}}', now()), (2, repeat('x', 26), '{"bluesky": {"did": "did:plc:ben"}}', now());
INSERT INTO parts.events SELECT n, public.uri(n) FROM generate_series(1, 3) n;
INSERT INTO parts.attendance VALUES (70, 'b', 'maybe', NULL, 1, 'short', now(), NULL, 'x'), (80, 'a', 'maybe', NULL, 1, 'short', now(), NULL, 'x');
SELECT rsvp_sync.attach('parts.attendance') AS parts \gset
RESET ROLE;
SELECT is(array_agg(coalesce(r.error, r.key) ORDER BY r.n), ARRAY['["80", "a"]', '["1", "a"]', '["2", "a"]'], 'partitions and keys of several columns')
FROM rsvp_sync._apply(:parts, '{did:plc:ann,did:plc:ben,did:plc:new}', ARRAY[uri(1), uri(2), uri(3)], '{going,interested,going}', '{NULL,NULL,NULL}') r;
SELECT is(array_agg(concat_ws(' ', a.tableoid::regclass, a.id, a.status, length(a.user_ulid), a.role) ORDER BY a.id),
	'{parts.a 1 maybe 26 participant,parts.a 2 confirmed 26 participant,parts.b 70 maybe 5 x,parts.a 80 confirmed 5 x}', 'are written as they should')
FROM parts.attendance a;

-- The schema changes: renames are followed, spare columns may go, needed ones
-- are named.
ALTER TABLE snake.events RENAME TO happenings;
ALTER TABLE snake.happenings RENAME atproto_uri TO url;
ALTER TABLE snake.happenings DROP require_approval;
ALTER TABLE snake.attendance RENAME event_id TO "the Event";
ALTER TABLE snake.attendance RENAME status TO state;
ALTER TABLE snake.users RENAME preferences TO prefs;
ALTER TYPE snake.status RENAME TO "State";
SELECT clear();
SELECT r.key AS key FROM rsvp_sync._apply(:snake, '{did:plc:ann}', ARRAY[uri(2)],
	'{going}', '{NULL}') r \gset
SELECT is((SELECT state::text FROM snake.attendance WHERE id = :'key'), 'confirmed',
	'renamed columns are followed');
ALTER TABLE snake.attendance DROP state CASCADE;
SELECT throws_like(format($$SELECT rsvp_sync._apply(%s, '{did:plc:ann}', ARRAY[uri(2)],
	'{going}', '{NULL}')$$, :snake), '%column status of table snake.attendance%',
	'a column that is gone is named');

SELECT * FROM finish();
