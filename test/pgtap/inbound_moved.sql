-- A record that is about another event now, and one that several tenants are
-- told of without its cid.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
/* No worker takes what is put into the log here. */
SELECT rsvp_sync.pause();
CREATE ROLE regress_moved;
SELECT rsvp_sync.grant_application('regress_moved');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_moved;

CREATE FUNCTION did(u integer) RETURNS text LANGUAGE sql AS $$ SELECT 'did:plc:' || repeat(chr(96 + u), 24) $$;
CREATE FUNCTION rsvp(u integer, rkey text) RETURNS text LANGUAGE sql AS $$ SELECT 'at://' || did(u) || '/community.lexicon.calendar.rsvp/' || rkey $$;
CREATE FUNCTION process(u integer, e integer, word text, rkey text, tenant text, more jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
SELECT rsvp_sync.process_external_rsvp(jsonb_build_object('eventSourceId', 'at://did:plc:' || repeat('o', 24) || '/community.lexicon.calendar.event/e' || e,
	'eventSourceType', 'bluesky', 'userDid', did(u), 'status', word, 'sourceId', rsvp(u, rkey), 'metadata', more), tenant) ->> 'action' $$;

SET ROLE regress_moved;
CREATE SCHEMA one;
CREATE SCHEMA two;
SELECT format('CREATE TABLE %1$s.users (id integer PRIMARY KEY, preferences jsonb);
CREATE TABLE %1$s.events (id integer PRIMARY KEY, "sourceType" text DEFAULT ''bluesky'', "sourceData" jsonb);
CREATE TABLE %1$s.attendance (id serial PRIMARY KEY, status text NOT NULL, metadata jsonb, event_id integer REFERENCES %1$s.events, user_id integer REFERENCES %1$s.users);
INSERT INTO %1$s.events (id, "sourceData") SELECT e, jsonb_build_object(''did'', ''did:plc:'' || repeat(''o'', 24), ''rkey'', ''e'' || e) FROM generate_series(1, 3) e;
INSERT INTO %1$s.users SELECT u, jsonb_build_object(''bluesky'', jsonb_build_object(''did'', public.did(u), ''connected'', true)) FROM generate_series(1, 5) u;
SELECT rsvp_sync.attach(''%1$s.attendance'', options => ''{"tenant": "%1$s"}'')', s) FROM unnest('{one,two}'::text[]) s \gexec
RESET ROLE;
CREATE FUNCTION said(u integer) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(event_id || ' ' || status, ', ' ORDER BY event_id) FROM one.attendance WHERE user_id = u $$;
CREATE FUNCTION said_two(u integer) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(event_id || ' ' || status, ', ' ORDER BY event_id) FROM two.attendance WHERE user_id = u $$;

-- Moved
SELECT is(process(1, 1, 'going', 'r1', 'one'), 'created', 'a record');
SELECT is(process(1, 2, 'going', 'r1', 'one'), 'created', '... is about another event now');
SELECT is(said(1), '1 cancelled, 2 confirmed', '... the first is not attended any more');
SELECT is(process(1, 1, 'going', 'r1', 'one'), 'updated', '... and back');
SELECT is(said(1), '1 confirmed, 2 cancelled', '... and is again');
SELECT is(process(1, 1, 'going', 'r2', 'one'), 'unchanged', 'another record for this event');
SELECT is(process(1, 3, 'interested', 'r2', 'one'), 'created', '... moves on');
SELECT is(said(1), '1 confirmed, 2 cancelled, 3 maybe', '... the first one is still there, and counts');
SELECT is((SELECT success FROM rsvp_sync.delete_external_rsvp(rsvp(1, 'r2'), 'bluesky', 'one')), true, '... it goes');
SELECT is(said(1), '1 confirmed, 2 cancelled, 3 cancelled', '... with its attendance');

-- Two tenants
SELECT is(process(2, 1, 'going', 'r1', 'one'), 'created', 'one tenant is told, without a cid');
SELECT is(process(2, 1, 'going', 'r1', 'two'), 'created', '... and the other one, of the same');
SELECT is(concat_ws(' / ', said(2), said_two(2)), '1 confirmed / 1 confirmed', '... each has it');
SELECT is(process(2, 1, 'going', 'r1', 'two'), 'unchanged', '... and knows it');
SELECT is(process(3, 1, 'going', 'r1', 'one', jsonb_build_object('cid', rsvp_sync.record_cid('{}'))), 'created', 'one tenant is told, with its cid');
SELECT is(process(3, 1, 'going', 'r1', 'two'), 'created', '... the other one without');
SELECT is(said_two(3), '1 confirmed', '... and has it');
SELECT is((SELECT cid FROM rsvp_sync.rsvp WHERE did = did(3)), rsvp_sync.record_cid('{}'), '... the cid stays known');
SELECT is(process(3, 1, 'notgoing', 'r1', 'two'), 'updated', '... and when it is told something else');
SELECT is(concat_ws(' / ', said(3), said_two(3)), '1 confirmed / 1 cancelled', '... it is for that tenant');

SELECT * FROM finish();
