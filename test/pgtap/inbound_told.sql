-- Records that are gone, which nobody has told us of: what a row itself says
-- it stands for counts, and no other row is touched.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
/* No worker takes what is put into the log here. */
SELECT rsvp_sync.pause();
CREATE ROLE regress_told;
SELECT rsvp_sync.grant_application('regress_told');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_told;

CREATE FUNCTION did(u integer) RETURNS text LANGUAGE sql AS $$ SELECT 'did:plc:' || repeat(chr(96 + u), 24) $$;
CREATE FUNCTION uri(e integer) RETURNS text LANGUAGE sql AS $$ SELECT 'at://did:plc:' || repeat('o', 24) || '/community.lexicon.calendar.event/e' || e $$;
CREATE FUNCTION rsvp(u integer, rkey text) RETURNS text LANGUAGE sql AS $$ SELECT 'at://' || did(u) || '/community.lexicon.calendar.rsvp/' || rkey $$;
CREATE FUNCTION gone(u integer, rkey text, tenant text) RETURNS text LANGUAGE sql AS $$
SELECT success || ' ' || message FROM rsvp_sync.delete_external_rsvp(rsvp(u, rkey), 'bluesky', tenant) $$;

-- The plan's schema: what the write-back of another publisher left
SET ROLE regress_told;
CREATE SCHEMA app;
CREATE TABLE app.users (id integer PRIMARY KEY, preferences jsonb);
CREATE TABLE app.events (id integer PRIMARY KEY, visibility text DEFAULT 'public', "sourceType" text DEFAULT 'bluesky', "sourceData" jsonb);
CREATE TABLE app.attendance (id integer PRIMARY KEY, status text NOT NULL DEFAULT 'confirmed', metadata jsonb,
	event_id integer REFERENCES app.events, user_id integer REFERENCES app.users);
INSERT INTO app.events (id, "sourceData") SELECT e, jsonb_build_object('did', 'did:plc:' || repeat('o', 24), 'rkey', 'e' || e) FROM generate_series(1, 5) e;
INSERT INTO app.users SELECT u, jsonb_build_object('bluesky', jsonb_build_object('did', public.did(u), 'connected', true)) FROM generate_series(1, 3) u;
INSERT INTO app.attendance VALUES (1, 'confirmed', jsonb_build_object('blueskyRsvpUri', public.rsvp(1, 'old1'), 'more', 1), 1, 1), (2, 'confirmed', NULL, 2, 1);
SELECT rsvp_sync.attach('app.attendance', options => '{"tenant": "one"}') AS source \gset
INSERT INTO app.attendance VALUES (3, 'maybe', jsonb_build_object('blueskyRsvpUri', public.rsvp(1, 'old3')), 3, 1),
	(4, 'confirmed', jsonb_build_object('blueskyRsvpUri', public.rsvp(2, 'other')), 4, 1), (5, 'confirmed', '[]', 5, 1),
	(6, 'cancelled', jsonb_build_object('blueskyRsvpUri', public.rsvp(3, 'old6')), 1, 3);
RESET ROLE;
CREATE FUNCTION rows() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(status, ' ' ORDER BY id) FROM app.attendance $$;

SELECT is(gone(1, 'never', 'one'), 'true RSVP not found for deletion - ignoring', 'no row says so');
SELECT is(gone(2, 'other', 'one'), 'true RSVP not found for deletion - ignoring', 'a row says so, but it is not his');
SELECT is(rows(), 'confirmed confirmed maybe confirmed confirmed cancelled', '... nothing is changed');
SELECT is((SELECT count(*) FROM rsvp_sync._observed), 0::bigint, '... nor remembered');
SELECT is(gone(1, 'old1', 'one'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'a row that was there before attach() says so');
SELECT is(rows(), 'cancelled confirmed maybe confirmed confirmed cancelled', '... it is cancelled, and no other');
SELECT is(gone(1, 'old1', 'one'), 'true This RSVP was deleted before', '... once');
SELECT is(gone(1, 'old3', 'one'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'a row that has not been planned yet says so');
SELECT is(rows(), 'cancelled confirmed cancelled confirmed confirmed cancelled', '... it is cancelled');
SELECT is(gone(3, 'old6', 'one'), 'true No attendance stood on this RSVP', 'a row that is cancelled says so');

-- Not now
UPDATE app.attendance SET status = 'confirmed', metadata = jsonb_build_object('blueskyRsvpUri', rsvp(1, 'old2')) WHERE id = 2;
SET rsvp_sync.mode = off;
SELECT is(gone(1, 'old2', 'one'), 'false Nothing is applied now; it is kept until that is over', 'nothing is applied now');
RESET rsvp_sync.mode;
UPDATE rsvp_sync._inbound SET due_at = now();
SELECT rsvp_sync._inbound_retry(10);
SELECT is(rows(), 'cancelled cancelled cancelled confirmed confirmed cancelled', '... but later');
SELECT is((SELECT count(*) FROM rsvp_sync._inbound), 0::bigint, '... and once');

-- Nothing is sent for it
CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sent text;
BEGIN
	PERFORM rsvp_sync._drain(1000);
	UPDATE rsvp_sync._queue SET lease = 1, due_at = now();
	SELECT string_agg(concat_ws(' ', w.action, w.need, w.sent_local, q.keys), ', ') INTO sent
	FROM (SELECT source_id, array_agg(key) AS keys FROM rsvp_sync._queue WHERE key IN ('1', '2', '3') GROUP BY 1) q
	CROSS JOIN LATERAL rsvp_sync._plan_keys(q.source_id, q.keys) w;
	RETURN coalesce(sent, 'nothing');
END $$;
SELECT is(plan(), 'nothing', 'nothing is sent for any of them');

-- OpenMeet's: what its ingestion and its publisher left
CREATE TYPE public.event_source_type AS ENUM ('bluesky', 'eventbrite', 'facebook', 'luma', 'meetup', 'other', 'web');
SET ROLE regress_told;
\set schema tenant_told
\ir ../fixtures/openmeet.sql
SET search_path = tenant_told, public;
INSERT INTO "users" ("id", "slug", "ulid", "provider", "socialId", "isShadowAccount") VALUES
	(21, 'a', '01jx0000000000000000000021', 'email', NULL, false), (22, 'b', '01jx0000000000000000000022', 'bluesky', did(2), true);
INSERT INTO "userAtprotoIdentities" ("userUlid", "did", "pdsUrl") VALUES ('01jx0000000000000000000021', did(1), 'https://pds.test');
INSERT INTO "events" ("id", "name", "startDate", "visibility", "atprotoUri") VALUES (31, 'e', '2099-01-01', 'public', uri(1));
INSERT INTO "eventAttendees" ("id", "roleId", "eventId", "userId", "status", "sourceType", "sourceId", "atprotoUri") VALUES
	(41, 3, 31, 21, 'confirmed', NULL, NULL, rsvp(1, 'published')), (42, 3, 31, 22, 'confirmed', 'bluesky', rsvp(2, 'ingested'), NULL);
SELECT rsvp_sync.attach('"eventAttendees"');
RESET search_path;
RESET ROLE;
SELECT is(gone(1, 'published', 'told'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'what OpenMeet published');
SELECT is(gone(2, 'ingested', 'told'), 'true Successfully cancelled 1 attendance record(s) using RSVP URI', 'what OpenMeet took in, of a shadow user');
SELECT is((SELECT string_agg("status"::text, ' ') FROM tenant_told."eventAttendees" WHERE "id" > 40), 'cancelled cancelled', '... are cancelled');

-- Tables that can know nothing of a record are not asked about it, nor is one whose query does not run
CREATE TABLE public.pairs (a integer, b integer, d text, e text, s text, PRIMARY KEY (a, b));
ALTER TABLE public.pairs OWNER TO regress_told;
CREATE FUNCTION public.take_pair(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
ALTER FUNCTION public.take_pair OWNER TO regress_told;
SET ROLE regress_told;
SELECT rsvp_sync.attach('public.pairs', 'SELECT a, b, d AS did, e AS event_uri, s AS status FROM public.pairs', 'public.take_pair(text, text, text, jsonb)', '{"tenant": "pairs"}');
RESET ROLE;
SELECT matches(gone(1, 'unheard', 'pairs'), '^true .*not found', 'a key of two columns: not found is no error');
ALTER TABLE public.pairs RENAME COLUMN s TO t;
SELECT matches(gone(1, 'unheard', 'pairs'), '^true .*not found', '... nor where the query does not run');

SELECT * FROM finish();
