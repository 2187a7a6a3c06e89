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
	'{"source": "web", "uri": "https://ann.example/rsvp"}'), 'confirmed | x', 'web');
SELECT * FROM att ORDER BY 1,3,4;
