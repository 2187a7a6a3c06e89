-- create_rsvp() and delete_rsvp(): what they refuse, and what they leave
-- behind, without a network.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SET rsvp_sync.allow_plaintext_credentials = on;
SET rsvp_sync.mode = off;
CREATE ROLE regress_explicit_a;
CREATE ROLE regress_explicit_b;
SELECT rsvp_sync.grant_application('regress_explicit_a');
SELECT rsvp_sync.grant_application('regress_explicit_b');

\set did 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
\set other 'did:plc:z72i7hdynmk6r22z27h6tvur'
\set event 'at://did:plc:z72i7hdynmk6r22z27h6tvur/community.lexicon.calendar.event/3kiyh2tsbk22a'

SET ROLE regress_explicit_a;
-- arguments
SELECT rsvp_sync.create_rsvp(NULL, :'event', 'going');
SELECT rsvp_sync.create_rsvp('alice.example.com', :'event', 'going');
SELECT rsvp_sync.create_rsvp(:'did', NULL, 'going');
SELECT rsvp_sync.create_rsvp(:'did', 'https://example.com/event', 'going');
SELECT rsvp_sync.create_rsvp(:'did', 'at://did:plc:z72i7hdynmk6r22z27h6tvur/community.lexicon.calendar.event', 'going');
SELECT rsvp_sync.create_rsvp(:'did', :'event' || '#/name', 'going');
SELECT rsvp_sync.create_rsvp(:'did', 'at://alice.example.com/community.lexicon.calendar.event/3kiyh2tsbk22a', 'going');
SELECT rsvp_sync.create_rsvp(:'did', :'event', NULL);
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'maybe');
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'Going');
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'going', NULL);
SELECT rsvp_sync.delete_rsvp(NULL, :'did');
SELECT rsvp_sync.delete_rsvp('at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.rsvp/x', NULL);
SELECT rsvp_sync.delete_rsvp('https://example.com/', :'did');
SELECT rsvp_sync.delete_rsvp('at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.rsvp', :'did');
SELECT rsvp_sync.delete_rsvp(:'event', :'other');
SELECT rsvp_sync.delete_rsvp('at://did:plc:z72i7hdynmk6r22z27h6tvur/community.lexicon.calendar.rsvp/x', :'did');
SELECT rsvp_sync.delete_rsvp('at://alice.example.com/community.lexicon.calendar.rsvp/x', :'did');
SELECT rsvp_sync.list_rsvps(NULL);
SELECT rsvp_sync.list_rsvps('alice.example.com');
SELECT rsvp_sync.list_rsvps('did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK');
RESET ROLE;
SELECT count(*) AS sources, (SELECT count(*) FROM rsvp_sync._explicit) AS answers FROM rsvp_sync.source;

-- one answer an account and event, for the role that gave it
SET ROLE regress_explicit_a;
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'going', 'tenant a') AS uri \gset
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'community.lexicon.calendar.rsvp#notgoing') = :'uri' AS same;
RESET ROLE;
SELECT did = :'did' AS did, event_uri = :'event' AS event, status, tenant, owner, withdrawn_at FROM rsvp_sync._explicit;
SET ROLE regress_explicit_b;
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'going');
SELECT rsvp_sync.delete_rsvp(:'uri', :'did');
SELECT count(*) FROM rsvp_sync.source;
SELECT rsvp_sync.sync_status('rsvp_sync._explicit', split_part(:'uri', '/', 5));
-- whose account it turns out to be
SELECT rsvp_sync.connect_account(:'did', 'pass-word');
SET ROLE regress_explicit_a;
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'going');
SELECT rsvp_sync.delete_rsvp(:'uri', :'did');
SELECT state, reason_code FROM rsvp_sync.sync_status('rsvp_sync._explicit', split_part(:'uri', '/', 5));
SET ROLE regress_explicit_b;
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'interested') = :'uri' AS same;
RESET ROLE;
SELECT status, owner FROM rsvp_sync._explicit;
-- taken back
SET ROLE regress_explicit_b;
SELECT rsvp_sync.delete_rsvp(:'uri', :'did');
SELECT rsvp_sync.create_rsvp(:'did', :'event', 'going') <> :'uri' AS another;
RESET ROLE;
SELECT status, withdrawn_at IS NULL AS stands FROM rsvp_sync._explicit ORDER BY id;
-- a reader of the database without any say
SET ROLE regress_explicit_a;
SELECT count(*) FROM rsvp_sync._explicit;
SELECT rsvp_sync._create_rsvp(10, :'did', :'event', 'going', '');
SELECT rsvp_sync._list_rsvps(10, :'did');
RESET ROLE;

DELETE FROM rsvp_sync._source;
DELETE FROM rsvp_sync._explicit;
DELETE FROM rsvp_sync._account;
DELETE FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._installation;
DROP OWNED BY regress_explicit_a, regress_explicit_b;
DROP ROLE regress_explicit_a, regress_explicit_b;
