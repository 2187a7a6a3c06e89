-- Apply by the application's own function: what attach() asks of it, what its
-- answers mean, and that whatever it tries it does as the table's owner.
-- Likewise what a hostile owner hangs on a recognised table.  No network, no
-- worker.  Run from the top of the tree.
\set page `cat docs/attach.md`
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SET rsvp_sync.mode = 'off';
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

CREATE ROLE regress_apply_owner;
CREATE ROLE regress_apply_stranger;
SELECT rsvp_sync.grant_application('regress_apply_owner');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_apply_owner;
SET ROLE regress_apply_owner;
CREATE SCHEMA "My Club";
SET search_path = "My Club", public;
CREATE TABLE "Guest" ("no" serial, "club" text, "person" text, "meeting" text,
	"answer" text, PRIMARY KEY ("club", "no"), UNIQUE ("person", "meeting"));
CREATE TABLE note (what text);
CREATE FUNCTION take(did text, event_uri text, status text, rsvp jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	key text;
BEGIN
	IF event_uri NOT LIKE 'at://did:plc:club/%' THEN
		RETURN NULL;
	END IF;
	-- Without a path of its own: the one of attach() holds.
	INSERT INTO note VALUES (concat_ws(' ', current_user,
		replace(current_setting('search_path'), ', pg_temp', ''), status, rsvp ->> 'rkey'));
	INSERT INTO "Guest" AS g ("club", "person", "meeting", "answer")
	VALUES ('chess', did, event_uri, coalesce(status, 'withdrawn'))
	ON CONFLICT ("person", "meeting") DO UPDATE SET "answer" = EXCLUDED."answer"
	RETURNING jsonb_build_array(g."club", g."no"::text)::text INTO key;
	IF status = 'interested' THEN
		RAISE EXCEPTION 'we want to know it for sure' USING ERRCODE = 'P0815';
	END IF;
	RETURN key;
END
$$;
CREATE FUNCTION "Wrong types"(text, text, text, json) RETURNS text LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION wrong_result(text, text, text, jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION a_set(text, text, text, jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT $1';
\set query 'SELECT "club", "no", "person" AS did, "meeting" AS event_uri, "answer" AS status FROM "Guest"'
PREPARE attach(text) AS SELECT rsvp_sync.attach('"Guest"', :'query', $1);

-- attach()
CREATE FUNCTION refused(apply text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	PERFORM rsvp_sync.attach('"Guest"', query, apply);
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' ', SQLSTATE, left(hint, 28));
END
$$;
SELECT is(refused(f, :'query'), '42883 It has the arguments (did te', format('no apply function: %s', f))
FROM unnest(ARRAY['nobody', '"Wrong types"', 'wrong_result', 'a_set', 'take(text)',
	'take(text, text, text, json)', 'public.take', 'lower']) f;
SET ROLE regress_apply_stranger;
RESET ROLE;
CREATE FUNCTION public.not_yours(text, text, text, jsonb) RETURNS text LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION public.not_yours FROM PUBLIC;
SET ROLE regress_apply_owner;
SELECT is(refused('not_yours', :'query'), '42501 GRANT EXECUTE ON FUNCTION pu', 'a function its owner may not execute');
SELECT is(refused('take(did text, event_uri text, status text, rsvp jsonb)', :'query'), 'taken', 'a signature');
SELECT rsvp_sync.attach('"Guest"', :'query', 'take') AS source \gset
SET search_path = public;
RESET ROLE;
SELECT is(apply, '"My Club".take(text, text, text, jsonb)', 'kept with its schema')
FROM rsvp_sync._source WHERE source_id = :source;

-- What it answers
CREATE FUNCTION apply(source bigint, dids text[], events text[], statuses text[])
RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(coalesce(r.code || ' ' || r.error, r.key, 'unknown'), ', ' ORDER BY r.n)
	FROM rsvp_sync._apply(source, dids, events, statuses,
		ARRAY(SELECT '{"rkey": "r1"}' FROM unnest(dids))) r
$$;
SELECT is(apply(:source, '{did:plc:a,did:plc:b,did:plc:c,did:plc:a,did:plc:d}',
	'{at://did:plc:club/e,at://did:plc:club/e,at://did:plc:other/e,at://did:plc:club/e,at://did:plc:club/e}',
	'{going,interested,going,NULL,notgoing}'),
	'["chess", "1"], P0815 we want to know it for sure, unknown, ["chess", "1"], ["chess", "4"]',
	'key, error, unknown');
SELECT is(array_agg("person" || ' ' || "answer" ORDER BY "no"), '{did:plc:a withdrawn,did:plc:d notgoing}',
	'one that raises leaves nothing behind') FROM "My Club"."Guest";
SELECT is(array_agg(DISTINCT what), ARRAY['regress_apply_owner "My Club", public going r1',
	'regress_apply_owner "My Club", public notgoing r1', 'regress_apply_owner "My Club", public r1'],
	'as the owner, under the path of attach()') FROM "My Club".note;
SELECT is(array_agg(k.uri || coalesce(k.event_key, ' ?')), '{at://did:plc:club/e ?,nonsense ?}',
	'which events it knows only it can tell') FROM rsvp_sync._known_events(:source, '{at://did:plc:club/e,nonsense}') k;
SELECT throws_ok(format('SELECT rsvp_sync._apply(%s, %L, %L, %L, %L)', :source, '{x}', '{y}', '{z}', '{}'),
	'22023', NULL, 'a status that is none is refused before it is asked');

-- What it tries
CREATE TABLE public.secret (content text);
INSERT INTO public.secret VALUES ('s');
SET ROLE regress_apply_owner;
SET search_path = "My Club", public;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE OR REPLACE FUNCTION take(did text, event_uri text, status text, rsvp jsonb)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	CASE event_uri
		WHEN 'role' THEN SET ROLE postgres;
		WHEN 'reset' THEN RESET ROLE;
		WHEN 'session' THEN RESET SESSION AUTHORIZATION;
		WHEN 'secret' THEN PERFORM FROM public.secret;
		WHEN 'ours' THEN PERFORM FROM rsvp_sync._source;
		WHEN 'temporary' THEN CREATE TEMP TABLE t (x int);
		WHEN 'deferred' THEN INSERT INTO child VALUES (1);
		WHEN 'later' THEN SET CONSTRAINTS ALL DEFERRED; INSERT INTO child VALUES (1);
		WHEN 'commit' THEN COMMIT;
		WHEN 'path' THEN
			PERFORM set_config('search_path', 'pg_catalog', false), set_config('rsvp_sync.skip', 'on', false),
				set_config('row_security', 'on', false);
		WHEN 'drop' THEN DROP TABLE note;
		WHEN 'itself' THEN RETURN (SELECT key FROM rsvp_sync._apply(1, '{}', '{}', '{}', '{}'));
		ELSE NULL;
	END CASE;
	RETURN concat_ws(' ', current_user, replace(current_setting('search_path'), ', pg_temp', ''), current_setting('row_security'),
		current_setting('rsvp_sync.skip'));
END
$$;
RESET ROLE;
SET search_path = public;
SELECT is(split_part(apply(:source, '{did:plc:a}', ARRAY[t.what], '{going}'), ' ', 1), t.code, t.what)
FROM (VALUES ('role', '42501'), ('reset', '42501'), ('session', '42501'), ('secret', '42501'), ('ours', '42501'),
	('temporary', '42501'), ('deferred', '23503'), ('later', '42501'), ('commit', '2D000'), ('itself', '42501')) AS t (what, code);
SELECT is(apply(:source, '{did:plc:a,did:plc:a}', '{path,nothing}', '{going,going}'),
	'regress_apply_owner pg_catalog on on, regress_apply_owner "My Club", public off off',
	'what it sets ends with its call');
SELECT is(concat_ws(' ', current_user, current_setting('search_path'), current_setting('rsvp_sync.skip')),
	concat_ws(' ', session_user, 'public', 'off'), 'and nothing of it stays here');
SELECT is(apply(:source, '{did:plc:a,did:plc:a}', '{drop,nothing}', '{going,going}'),
	'regress_apply_owner "My Club", public off off, regress_apply_owner "My Club", public off off',
	'a change of the schema');
SET ROLE regress_apply_owner;
DROP FUNCTION "My Club".take(text, text, text, jsonb);
RESET ROLE;
SELECT is(split_part(apply(:source, '{did:plc:a}', '{x}', '{going}'), ' ', 1), '42883', 'it is gone');

-- Constraints that somebody's transaction has deferred are checked as himself,
-- not as the table's owner.
GRANT USAGE ON SCHEMA "My Club" TO regress_apply_stranger;
CREATE TABLE public.seen (who text);
GRANT ALL ON public.seen TO PUBLIC;
CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END $$;
GRANT CREATE ON SCHEMA public TO regress_apply_stranger;
SET ROLE regress_apply_stranger;
CREATE TABLE public.trap (x int);
CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON public.trap DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION public.look();
RESET ROLE;
-- As a public function does that runs as its owner
CREATE FUNCTION public.door(source bigint) RETURNS text LANGUAGE sql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp AS
	$$ SELECT public.apply(source, '{did:plc:a}', '{x}', '{going}') $$;
BEGIN;
SET LOCAL ROLE regress_apply_stranger;
INSERT INTO public.trap VALUES (1);
SELECT public.door(:source) AS said \gset
SELECT is(array_agg(who), '{regress_apply_stranger}', 'a stranger''s trigger runs as the stranger') FROM public.seen;
COMMIT;

-- A source without an apply function takes nothing in.
SET ROLE regress_apply_owner;
CREATE TABLE "My Club".silent (id int PRIMARY KEY, did text, event_uri text, status text);
SELECT rsvp_sync.attach('"My Club".silent', 'SELECT id, did, event_uri, status FROM "My Club".silent') AS silent \gset
RESET ROLE;
SELECT is((SELECT count(*) FROM rsvp_sync._known_events(:silent, '{at://did:plc:club/e}')), 0::bigint,
	'no apply function, no events');
SELECT throws_ok(format('SELECT rsvp_sync._apply(%s, %L, %L, %L, %L)', :silent, '{did:plc:a}', '{y}', '{going}', '{NULL}'),
	'55000', 'table "silent" takes no RSVPs from elsewhere', 'and nothing is applied');

-- An apply function for a recognised schema goes before what is generated.
SET ROLE regress_apply_owner;
SET search_path = "My Club", public;
CREATE TABLE users (id serial PRIMARY KEY, preferences jsonb);
CREATE TABLE events (id serial PRIMARY KEY, atproto_uri text);
CREATE TABLE attendance (id serial PRIMARY KEY, status text, metadata jsonb,
	event_id int REFERENCES events, user_id int REFERENCES users);
INSERT INTO events (atproto_uri) VALUES ('at://did:plc:club/e');
CREATE FUNCTION mine(did text, event_uri text, status text, rsvp jsonb) RETURNS text
LANGUAGE sql AS 'SELECT ''mine'' FROM events';
SELECT rsvp_sync.attach('attendance', apply => 'mine') AS own \gset
RESET ROLE;
SET search_path = public;
SELECT is(apply(:own, '{did:plc:a}', '{at://did:plc:club/e}', '{going}'), 'mine', 'a function beside a recognised schema');
SELECT is(search_path, '', 'its path is not that of the query') FROM rsvp_sync._source WHERE source_id = :own;
SELECT is(array_agg(coalesce(event_key, '?') ORDER BY event_key), '{1,?}', 'events may be known to either')
FROM rsvp_sync._known_events(:own, '{at://did:plc:club/e,at://x}');

-- The example of docs/attach.md
SET ROLE regress_apply_owner;
CREATE SCHEMA app;
CREATE TABLE app.meetings (id bigint PRIMARY KEY, at_uri text UNIQUE, is_open boolean);
CREATE TABLE app.guests (id bigserial PRIMARY KEY, did text UNIQUE, name text);
CREATE TABLE app.seats (id bigserial PRIMARY KEY, meeting_id bigint REFERENCES app.meetings,
	guest_id bigint REFERENCES app.guests, answer text, UNIQUE (meeting_id, guest_id));
INSERT INTO app.meetings VALUES (1, 'at://did:plc:club/e', true), (2, 'at://did:plc:club/f', false);
SELECT substring(:'page' FROM E'```sql\n(CREATE FUNCTION app\\.take_rsvp.*?)```') AS example \gset
:example
RESET ROLE;
SELECT source_id AS example FROM rsvp_sync._source WHERE attendance = 'app.seats'::regclass \gset
SELECT is(apply(:example, '{did:plc:a,did:plc:a,did:plc:b,did:plc:a,did:plc:c}',
	'{at://did:plc:club/e,at://did:plc:club/f,at://did:plc:club/e,at://did:plc:club/e,at://did:plc:club/e}',
	'{going,going,interested,NULL,notgoing}'), '1, unknown, 2, 1, ', 'the example of the documentation');
SELECT is(array_agg(d.did || ' ' || d.status ORDER BY d.key), '{did:plc:a no,did:plc:b perhaps}', 'does what it says')
FROM rsvp_sync._desired(:example, NULL) d;

-- A type that somebody has made for his session is not taken for another.
CREATE FUNCTION public.steal(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END $$;
TRUNCATE public.seen;
ALTER TABLE app.seats SET (fillfactor = 90); -- so that nothing is prepared yet
BEGIN;
SET LOCAL ROLE regress_apply_stranger;
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (public.steal(VALUE::pg_catalog.text));
SELECT public.door(:example) AS said \gset
RESET ROLE;
DROP DOMAIN pg_temp.text;
SELECT is(array_agg(DISTINCT who), NULL, 'a temporary type is nobody''s but its maker''s') FROM public.seen;
COMMIT;

SELECT * FROM finish();
