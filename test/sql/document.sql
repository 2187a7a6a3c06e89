-- rsvp_document() and rsvp_outbox(): recognised schemas and queries of one's
-- own, what the words for a status become, whose rights they run with, what is
-- withheld, and what follows when the application's tables change.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE ROLE regress_document_app;
CREATE ROLE regress_document_reader;
CREATE ROLE regress_document_tenant;
CREATE ROLE regress_document_stranger;
SELECT rsvp_sync.grant_application(r::name) FROM unnest('{regress_document_app,regress_document_reader,regress_document_tenant,regress_document_stranger}'::text[]) AS r;
CREATE SCHEMA doc AUTHORIZATION regress_document_app;
GRANT USAGE ON SCHEMA doc TO regress_document_reader, regress_document_tenant, regress_document_stranger;
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
\pset format unaligned
\pset tuples_only on

-- A recognised schema
SET ROLE regress_document_app;
CREATE TABLE doc.users (id int PRIMARY KEY, name text, url varchar(200), "avatarUrl" text, preferences jsonb);
CREATE TABLE doc.events (id int PRIMARY KEY, title text, url text, location text, "startDate" timestamp, visibility text, "sourceType" text, "sourceData" jsonb);
CREATE TABLE doc.attendance (id int PRIMARY KEY, status text, metadata jsonb DEFAULT '{}', "eventId" int REFERENCES doc.events, "userId" int REFERENCES doc.users,
	"createdAt" timestamp DEFAULT '2026-01-01 10:00', "updatedAt" timestamptz DEFAULT '2026-01-02 10:00:00.5+00', content text, permalink text);
INSERT INTO doc.users VALUES (1, 'Alice <a>', 'https://alice.example/', 'https://alice.example/a.jpg', '{"bluesky": {"did": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "connected": true}}'),
	(2, 'Bob', '', NULL, '{}'), (3, 'Carol', 'https://carol.example/', NULL, '{"bluesky": {"did": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "connected": true, "publishRsvps": false}}');
INSERT INTO doc.events VALUES (1, 'Party', 'https://events.example.com/1', 'Here', '2030-01-01 10:00', 'public', 'bluesky', '{"did": "did:plc:ewvi7nxzyoun6zhxrhs64oiz", "rkey": "3lqwertyui2k2"}'),
	(2, 'Secret', 'https://events.example.com/2', 'There', '2030-01-01 10:00', 'private', 'bluesky', '{}');
SELECT rsvp_sync.attach('doc.attendance') IS NOT NULL;
INSERT INTO doc.attendance VALUES (1, 'confirmed', DEFAULT, 1, 1, DEFAULT, DEFAULT, 'See you', 'https://alice.example/rsvp/1');
SELECT jsonb_pretty(rsvp_sync.rsvp_document('doc.attendance', '1'));

-- Each word for a status; a user without an account at a PDS
INSERT INTO doc.attendance SELECT 10 + n, nullif(w, 'NULL'), '{}', 1, 2 FROM unnest('{confirmed,maybe,pending,waitlist,invited,cancelled,rejected,attended,perhaps,NULL}'::text[]) WITH ORDINALITY AS s (w, n);
SELECT a.status, rsvp_sync.rsvp_document('doc.attendance', a.id::text) ->> 'status' FROM doc.attendance a WHERE id > 10 ORDER BY id;
SELECT rsvp_sync.rsvp_document('doc.attendance', '11') -> 'author';
-- Without event and user
INSERT INTO doc.attendance VALUES (30, 'confirmed', DEFAULT, NULL, NULL);
SELECT jsonb_path_query_array(rsvp_sync.rsvp_document('doc.attendance', '30'), '$.keyvalue() ? (@.value != null).key');
-- What is kept from the public has no document; nor has what is not there
INSERT INTO doc.attendance VALUES (31, 'confirmed', DEFAULT, 2, 1), (32, 'confirmed', DEFAULT, 1, 3), (33, 'confirmed', '{"skipBlueskySync": true}', 1, 1);
SELECT id, rsvp_sync.rsvp_document('doc.attendance', id::text) IS NOT NULL FROM unnest('{31,32,33,99}'::int[]) AS id;
SELECT rsvp_sync.rsvp_document('doc.attendance', NULL) IS NULL, rsvp_sync.rsvp_document(NULL, '1') IS NULL;
SELECT rsvp_sync.rsvp_document('doc.attendance', 'x');
SELECT rsvp_sync.rsvp_document('doc.events', '1');
-- Inside the transaction, before anybody has planned anything
BEGIN;
UPDATE doc.attendance SET status = 'cancelled' WHERE id = 1;
SELECT rsvp_sync.rsvp_document('doc.attendance', '1') ->> 'status';
ROLLBACK;

-- Somebody's RSVPs
DELETE FROM doc.attendance WHERE id IN (33);
INSERT INTO doc.attendance SELECT 100 + n, 'maybe', '{}', 1, 1, '2026-01-31', '2026-02-01Z'::timestamptz + n * interval '1 hour' FROM generate_series(1, 100) AS n;
INSERT INTO doc.attendance VALUES (300, 'rejected', DEFAULT, 1, 1);
SELECT rsvp_sync.rsvp_outbox('https://alice.example/');
SELECT rsvp_sync.rsvp_outbox('https://alice.example/', 0) = rsvp_sync.rsvp_outbox('https://alice.example/');
SELECT p - 'orderedItems', jsonb_array_length(p -> 'orderedItems'), p #>> '{orderedItems,0,updated}', p #>> '{orderedItems,-1,type}', p #> '{orderedItems,0}' ? '@context'
FROM generate_series(1, 3) AS n CROSS JOIN LATERAL rsvp_sync.rsvp_outbox('https://alice.example/', n) AS p;
SELECT p #>> '{orderedItems,-1,id}' = rsvp_sync.rsvp_activity(rsvp_sync.rsvp_document('doc.attendance', '1')) ->> 'id' AS same_id FROM rsvp_sync.rsvp_outbox('https://alice.example/', 3) AS p;
SELECT rsvp_sync.rsvp_outbox('https://alice.example/', 4);
SELECT rsvp_sync.rsvp_outbox('https://alice.example/', -1);
SELECT rsvp_sync.rsvp_outbox('https://carol.example/', 1), rsvp_sync.rsvp_outbox('https://nobody.example/') -> 'totalItems';
SELECT rsvp_sync.rsvp_outbox('alice');
SELECT rsvp_sync.rsvp_outbox(NULL);

-- Whose rights: who may not read the table, who may read parts of it, who sees some rows
SET ROLE regress_document_stranger;
SELECT rsvp_sync.rsvp_document('doc.attendance', '1');
SELECT rsvp_sync.rsvp_outbox('https://alice.example/') -> 'totalItems';
SET ROLE regress_document_app;
GRANT SELECT ON doc.attendance TO regress_document_reader, regress_document_tenant;
GRANT SELECT (id, title) ON doc.events TO regress_document_reader;
SET ROLE regress_document_reader;
SELECT jsonb_path_query_array(rsvp_sync.rsvp_document('doc.attendance', '1'), '$.keyvalue() ? (@.value != null).key');
SELECT rsvp_sync.rsvp_outbox('https://alice.example/') -> 'totalItems';
SET ROLE regress_document_app;
GRANT SELECT ON doc.events, doc.users TO regress_document_tenant;
CREATE POLICY own ON doc.attendance FOR SELECT TO regress_document_tenant USING (id = 1);
CREATE POLICY own ON doc.events FOR SELECT TO regress_document_tenant USING (id = 2);
ALTER TABLE doc.attendance ENABLE ROW LEVEL SECURITY;
ALTER TABLE doc.events ENABLE ROW LEVEL SECURITY;
SET ROLE regress_document_tenant;
SELECT rsvp_sync.rsvp_document('doc.attendance', '1') - '{tags,content}'::text[], rsvp_sync.rsvp_document('doc.attendance', '11');
SELECT rsvp_sync.rsvp_outbox('https://alice.example/') -> 'totalItems' AS without_the_event;
SET ROLE regress_document_app;
DROP POLICY own ON doc.events;
CREATE POLICY own ON doc.events FOR SELECT TO regress_document_tenant USING (true);
SET ROLE regress_document_tenant;
SELECT rsvp_sync.rsvp_outbox('https://alice.example/') -> 'totalItems' AS one;
RESET ROLE;
SELECT rsvp_sync.rsvp_document('doc.attendance', '11') ->> 'status';
SET ROLE regress_document_app;

-- Nothing of the owner's runs as the caller
CREATE FUNCTION doc.whoami() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'runs as %', current_user; RETURN 'https://x.example/'; END $$;
CREATE DOMAIN doc.key AS int CHECK (doc.whoami() IS NOT NULL);
CREATE DOMAIN doc.title AS text CHECK (doc.whoami() IS NOT NULL);
CREATE TYPE doc.place AS ENUM ('here');
CREATE FUNCTION doc.place_text(doc.place) RETURNS text LANGUAGE sql AS 'SELECT doc.whoami()';
CREATE CAST (doc.place AS text) WITH FUNCTION doc.place_text(doc.place);
CREATE TABLE doc.own_events (id doc.key PRIMARY KEY, title doc.title, location doc.place, atproto_uri text);
CREATE TABLE doc.own (id doc.key PRIMARY KEY, status text, metadata jsonb, event_id int REFERENCES doc.own_events, user_id int REFERENCES doc.users);
INSERT INTO doc.own_events VALUES (1, 'E', 'here', 'at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/3lqwertyui2k2');
SELECT rsvp_sync.attach('doc.own') IS NOT NULL;
INSERT INTO doc.own VALUES (1, 'confirmed', '{}', 1, 1);
CREATE FUNCTION doc.same(doc.place, doc.place) RETURNS boolean LANGUAGE sql AS 'SELECT doc.whoami() IS NOT NULL';
CREATE OPERATOR doc.= (LEFTARG = doc.place, RIGHTARG = doc.place, FUNCTION = doc.same);
RESET ROLE;
SET search_path = doc, pg_catalog;
SELECT rsvp_sync.rsvp_document('doc.own', '1') -> 'event_name', rsvp_sync.rsvp_document('doc.own', '1') -> 'event_location', rsvp_sync.rsvp_document('doc.own', '-1');
SELECT rsvp_sync.rsvp_outbox('https://alice.example/') -> 'totalItems' > '0';
RESET search_path;
SET ROLE regress_document_app;

-- Columns go and are renamed
ALTER TABLE doc.users RENAME name TO nickname;
ALTER TABLE doc.events DROP COLUMN location;
SELECT d #>> '{author,name}', d -> 'event_location' FROM rsvp_sync.rsvp_document('doc.attendance', '1') d;

-- A query of one's own, a composite key, further columns
CREATE TABLE doc.guests (a int, b timestamptz, who text, page text, answer text, hidden text, PRIMARY KEY (a, b));
SELECT rsvp_sync.attach('doc.guests', $$SELECT g.a, g.b, NULL::text AS did, NULL::text AS event_uri, g.answer AS status, 'https://events.example.com/g' AS event_url,
	'https://guests.example/rsvp/' || g.a AS permalink, g.b AS created_at, timestamp '2026-05-05 05:05' AS updated_at, date '2030-02-02' AS starts_at, 'A party' AS event_name,
	'Somewhere' AS event_location, g.who AS author_name, g.page AS author_url, 'Yes' AS content, ARRAY['x', NULL, 'y'] AS tags, g.hidden AS withheld FROM doc.guests g$$,
	options => '{"status_map": {"yes": "going", "no": "notgoing", "TENTATIVE": "interested", "interested": "interested", "so": "interested"}}') IS NOT NULL;
INSERT INTO doc.guests VALUES (1, '2026-03-03 01:02:03+05', 'Dan', NULL, 'yes', NULL), (2, '2026-03-03 01:02:03+05', 'Eve', 'https://eve.example/', 'TENTATIVE', NULL),
	(3, '2026-03-03 01:02:03+05', 'Fay', NULL, 'so', NULL), (4, '2026-03-03 01:02:03+05', 'Gus', NULL, 'yes', 'private');
SELECT jsonb_pretty(rsvp_sync.rsvp_document('doc.guests', '["1", "2026-03-02 20:02:03+00"]'));
SELECT a, rsvp_sync.rsvp_document('doc.guests', jsonb_build_array(a::text, '2026-03-02 20:02:03+00')::text) ->> 'status' FROM doc.guests ORDER BY a;
SELECT rsvp_sync.rsvp_document('doc.guests', '["1"]');
SELECT rsvp_sync.rsvp_outbox('https://guests.example/', 1) @? '$.orderedItems[*] ? (@.url == "https://guests.example/rsvp/1")', jsonb_array_length(rsvp_sync.rsvp_outbox('https://guests.example/', 1) -> 'orderedItems'),
	rsvp_sync.rsvp_outbox('https://eve.example/', 1) #>> '{orderedItems,0,type}', rsvp_sync.rsvp_outbox('https://guest/') -> 'totalItems';
SET ROLE regress_document_stranger;
SELECT rsvp_sync.rsvp_document('doc.guests', '["1", "2026-03-02 20:02:03+00"]');
SELECT rsvp_sync.rsvp_outbox('https://guests.example/') -> 'totalItems';
SET ROLE regress_document_app;
CREATE POLICY own ON doc.guests FOR SELECT TO regress_document_tenant USING (a = 3);
ALTER TABLE doc.guests ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON doc.guests TO regress_document_tenant;
SET ROLE regress_document_tenant;
SELECT rsvp_sync.rsvp_document('doc.guests', '["1", "2026-03-02 20:02:03+00"]'), rsvp_sync.rsvp_document('doc.guests', '["3", "2026-03-02 20:02:03+00"]') ->> 'status', rsvp_sync.rsvp_outbox('https://guests.example/') -> 'totalItems';
SET ROLE regress_document_app;
-- No more than what a query must return
CREATE TABLE doc.bare (id text PRIMARY KEY, answer text);
SELECT rsvp_sync.attach('doc.bare', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, answer AS status FROM doc.bare') IS NOT NULL;
INSERT INTO doc.bare VALUES ('it''s', 'going');
SELECT rsvp_sync.rsvp_document('doc.bare', 'it''s');
SELECT rsvp_sync.rsvp_html(rsvp_sync.rsvp_document('doc.bare', 'it''s'));

-- When it was said last, where the table does not know: when the worker saw it change
RESET ROLE;
INSERT INTO rsvp_sync._intent (source_id, key, state, local, local_at)
SELECT source_id, 'it''s', 'waiting', 'going', '2026-07-07 07:07:07.000007Z' FROM rsvp_sync._source WHERE attendance = 'doc.bare'::regclass;
SELECT rsvp_sync.rsvp_document('doc.bare', 'it''s') ->> 'updated';
UPDATE doc.bare SET answer = 'notgoing';
SELECT rsvp_sync.rsvp_document('doc.bare', 'it''s') ->> 'updated' AS not_seen_yet;

-- Somebody without the right to call
RESET ROLE;
CREATE ROLE regress_document_nobody;
SET ROLE regress_document_nobody;
SELECT rsvp_sync.rsvp_outbox('https://alice.example/');
SELECT rsvp_sync.rsvp_badge('{"status": "no"}');
RESET ROLE;
SET client_min_messages = error;
SELECT rsvp_sync.detach_all() > 0;
DROP SCHEMA doc CASCADE;
DROP OWNED BY regress_document_app, regress_document_reader, regress_document_tenant, regress_document_stranger;
DROP ROLE regress_document_app, regress_document_reader, regress_document_tenant, regress_document_stranger, regress_document_nobody;
