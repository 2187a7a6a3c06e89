-- plan(): every branch of src/plan.c, one line each.  A case says what differs
-- from a plain situation, and what is decided.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;

-- A new row, "going", of a connected account whose records are known.
CREATE TEMP TABLE plain AS SELECT '{
	"present": true, "has_did": true, "did_valid": true, "has_event": true,
	"event_valid": true, "mapped": true, "local": "going", "same_slot": true,
	"remote_known": true, "listed": true, "account": "connected",
	"granted": true, "on_withheld": "keep", "on_cancel": "notgoing",
	"on_delete": "delete", "conflict": "latest"}'::jsonb AS new;
-- The same, published: both sides say "going".
ALTER TABLE plain ADD published jsonb;
UPDATE plain SET published = new || '{"known": true, "bond": "own",
	"wrote": true, "first_local": "going", "base_local": "going",
	"base_cid": "c1", "remote_rkey": "k", "remote_cid": "c1",
	"remote_status": "going"}';
-- Somebody else's record is in the slot, this row is new.
ALTER TABLE plain ADD found jsonb;
UPDATE plain SET found = new || '{"remote_rkey": "k", "remote_cid": "c1",
	"remote_status": "interested"}';

-- Action; what is sent over which cid; state/reason; then bond, record key and
-- base as they are afterwards, and flags: + confirmed, w withdraws, l live.
CREATE FUNCTION pg_temp.said(d rsvp_sync.decision) RETURNS text
LANGUAGE sql AS $$
SELECT concat_ws(' ', d.action, d.send, 'over ' || d.swap,
	coalesce(d.state, '') || nullif('/' || coalesce(d.reason_code, ''), '/'),
	format('[%s]', concat_ws(' ', d.bond, d.rkey,
		coalesce(d.base_local, '-') || '@' || coalesce(d.base_cid, '-'))),
	nullif(CASE WHEN d.confirmed THEN '+' ELSE '' END
		|| CASE WHEN d.withdraws THEN 'w' ELSE '' END
		|| CASE WHEN d.live THEN 'l' ELSE '' END, ''))
$$;

CREATE TEMP TABLE expected (
	n serial, part text, what text, start text, differs jsonb, says text);
INSERT INTO expected (part, what, start, differs, says) VALUES
-- a row that publishes nothing
('wish', 'no did', 'new', '{"has_did": false}', 'none withheld/no_did [-@-]'),
('wish', 'not a did', 'new', '{"did_valid": false}', 'none withheld/invalid_did [-@-]'),
('wish', 'no event', 'new', '{"has_event": false}', 'none withheld/no_event_uri [-@-]'),
('wish', 'not an at-uri', 'new', '{"event_valid": false}', 'none withheld/invalid_event_uri [-@-]'),
('wish', 'a word that is not in the map', 'new', '{"mapped": false, "local": null}', 'none withheld/unmapped_status [-@-]'),
('wish', 'the same of a published row: its record stays', 'published', '{"mapped": false, "local": null}', 'none withheld/unmapped_status [own k going@c1]'),
('wish', 'a status mapped to null', 'new', '{"local": null}', 'none withheld/status_not_published [-@-]'),
('wish', '... and nothing is out there: both agree', 'new', '{"local": null, "known": true, "base_local": "going"}', 'none withheld/status_not_published [-@-]'),
('wish', '... takes the own record back', 'published', '{"local": null}', 'delete over c1 [own k going@c1] w'),
('wish', '... or one that may have been made', 'new', '{"local": null, "known": true, "doubt": true, "remote_rkey": "k"}', 'read [-@-]'),
('wish', '... not an adopted one', 'published', '{"local": null, "bond": "adopted"}', 'none withheld/status_not_published [adopted k going@c1]'),
('wish', '... but one that may have been written just now', 'new', '{"local": null, "known": true, "doubt": true}', 'read [-@-]'),
('wish', '... nor one found', 'found', '{"local": null}', 'none withheld/status_not_published [-@-]'),
('wish', 'the event is over', 'new', '{"past": true}', 'none withheld/past_event [-@-]'),
('wish', '... the record stays', 'published', '{"past": true}', 'none withheld/past_event [own k going@c1]'),
('wish', 'withheld, keep', 'new', '{"withheld": "why"}', 'none withheld/why [-@-]'),
('wish', '... the record stays', 'published', '{"withheld": "why"}', 'none withheld/why [own k going@c1]'),
('wish', 'withheld, delete', 'new', '{"withheld": "why", "on_withheld": "delete"}', 'none withheld/why [-@-] +'),
('wish', '... takes the record back', 'published', '{"withheld": "why", "on_withheld": "delete"}', 'delete over c1 [own k going@c1] w'),
('wish', 'a row changed later speaks', 'new', '{"rival": true}', 'none superseded/superseded [-@-] l'),
('wish', 'detaching', 'published', '{"detaching": true, "present": false}', 'delete over c1 [own k going@c1] w'),
('wish', 'detached, nothing out there', 'new', '{"detaching": true, "present": false}', 'none withheld/detaching [-@-] +'),
('wish', 'row deleted, never published', 'new', '{"present": false}', 'forget /row_deleted [-@-] +'),
('wish', 'row deleted, keep', 'published', '{"present": false, "on_delete": "keep"}', 'forget /row_deleted [own k going@c1]'),
('wish', 'moved', 'published', '{"same_slot": false}', 'delete over c1 [own k going@c1] w'),
('wish', 'moved to an event without an at-uri', 'published', '{"same_slot": false, "has_event": false, "event_valid": false}', 'delete over c1 [own k going@c1] w'),
('wish', 'moved to an event that is withheld', 'published', '{"same_slot": false, "withheld": "skipped"}', 'delete over c1 [own k going@c1] w'),
('wish', 'signed out: the user has no DID any more', 'published', '{"same_slot": false, "has_did": false, "did_valid": false}', 'none withheld/no_did [own k going@c1]'),
('wish', 'moved, with a call in doubt', 'published', '{"same_slot": false, "bond": null, "doubt": true}', 'read [going@c1]'),
('wish', 'moved, nothing bound', 'new', '{"same_slot": false}', 'put going [-@-] l'),
('wish', 'moved, the old record gone', 'published', '{"same_slot": false, "remote_cid": null}', 'none /moved [-@-] +'),
-- withdrawals
('withdrawal', 'row deleted', 'published', '{"present": false}', 'delete over c1 [own k going@c1] w'),
('withdrawal', 'the network did it', 'published', '{"present": false, "by_network": true}', 'forget /row_deleted [-@-] +'),
('withdrawal', 'in doubt', 'published', '{"present": false, "doubt": true}', 'read [own k going@c1]'),
('withdrawal', 'record not known', 'published', '{"present": false, "remote_known": false, "remote_cid": null}', 'read [own k going@c1]'),
('withdrawal', 'gone already', 'published', '{"present": false, "remote_cid": null}', 'forget /row_deleted [-@-] +'),
('withdrawal', 'adopted, never written by us', 'published', '{"present": false, "bond": "adopted", "wrote": false}', 'forget /row_deleted [-@-] +'),
('withdrawal', 'adopted, and written by us', 'published', '{"present": false, "bond": "adopted"}', 'delete over c1 [adopted k going@c1] w'),
('withdrawal', 'another row goes on with it', 'published', '{"present": false, "heir": true}', 'handover /row_deleted [own k going@c1]'),
('withdrawal', 'changed elsewhere since', 'published', '{"present": false, "remote_cid": "c2"}', 'forget /row_deleted [-@-] +'),
('withdrawal', 'what is there is what we sent', 'published', '{"present": false, "remote_cid": "c2", "remote_status": "notgoing", "remote_sent": true}', 'delete over c2 [own k notgoing@c2] +w'),
('withdrawal', 'on_delete notgoing', 'published', '{"present": false, "on_delete": "notgoing"}', 'put notgoing over c1 [own k going@c1] w'),
('withdrawal', '... it says so already', 'published', '{"present": false, "on_delete": "notgoing", "remote_status": "notgoing"}', 'forget /row_deleted [-@-] +'),
('withdrawal', '... is for rows deleted, not withheld', 'published', '{"withheld": "why", "on_withheld": "delete", "on_delete": "notgoing"}', 'delete over c1 [own k going@c1] w'),
-- brakes
('brake', 'behind a TRUNCATE', 'published', '{"present": false, "truncated": true}', 'hold held/truncated [own k going@c1] w'),
('brake', '... approved', 'published', '{"present": false, "truncated": true, "approved": true}', 'delete over c1 [own k going@c1] w'),
('brake', 'beyond the limit', 'published', '{"present": false, "over_limit": true}', 'hold held/withdraw_limit [own k going@c1] w'),
('brake', '... approved', 'published', '{"present": false, "over_limit": true, "approved": true}', 'delete over c1 [own k going@c1] w'),
('brake', 'a cancellation counts', 'published', '{"local": "notgoing", "over_limit": true}', 'hold held/withdraw_limit [own k going@c1] wl'),
('brake', '... of interest, too', 'published', '{"local": "notgoing", "base_local": "interested", "remote_status": "interested"}', 'put notgoing over c1 [own k interested@c1] wl'),
('brake', 'declining at first does not', 'new', '{"local": "notgoing", "over_limit": true}', 'put notgoing [-@-] l'),
('brake', 'nor does another change', 'published', '{"local": "interested", "over_limit": true}', 'put interested over c1 [own k going@c1] l'),
-- accounts
('account', 'none', 'new', '{"account": null}', 'wait blocked/no_account [-@-] l'),
('account', 'not granted', 'new', '{"granted": false}', 'wait blocked/account_not_granted [-@-]'),
('account', 'not granted, and another row speaks', 'new', '{"granted": false, "rival": true}', 'wait blocked/account_not_granted [-@-]'),
('account', 'needs_login', 'new', '{"account": "needs_login"}', 'wait blocked/needs_login [-@-] l'),
('account', 'wrong_password', 'new', '{"account": "wrong_password"}', 'wait blocked/wrong_password [-@-] l'),
('account', 'deactivated', 'new', '{"account": "deactivated"}', 'wait blocked/deactivated [-@-] l'),
('account', 'takendown', 'new', '{"account": "takendown"}', 'wait blocked/takendown [-@-] l'),
('account', 'unverified is tried', 'new', '{"account": "unverified"}', 'put going [-@-] l'),
('account', 'unreachable is tried', 'new', '{"account": "unreachable"}', 'put going [-@-] l'),
('account', 'a withdrawal waits, too', 'published', '{"present": false, "account": null}', 'wait blocked/no_account [own k going@c1] w'),
('account', 'a listing, too', 'new', '{"listed": false, "account": null}', 'wait blocked/no_account [-@-] l'),
('account', 'what agrees needs none', 'published', '{"account": null}', 'none done/published [own k going@c1] +l'),
-- nothing is out there
('first', 'new row', 'new', '{}', 'put going [-@-] l'),
('first', 'records not listed', 'new', '{"listed": false}', 'list [-@-] l'),
('first', 'in doubt', 'new', '{"doubt": true, "known": true}', 'read [-@-] l'),
('first', 'as at attach()', 'new', '{"known": true, "base_local": "going"}', 'none [going@-] l'),
('first', 'changed since attach()', 'new', '{"known": true, "base_local": "interested"}', 'put going [interested@-] l'),
('first', 'declined from the beginning', 'new', '{"local": "notgoing"}', 'put notgoing [-@-] l'),
('first', '... as known', 'new', '{"local": "notgoing", "known": true, "first_local": "notgoing"}', 'put notgoing [-@-] l'),
('first', 'declined later', 'new', '{"local": "notgoing", "known": true, "first_local": "going"}', 'none withheld/never_published [notgoing@-] l'),
('first', 'declined, on_cancel delete', 'new', '{"local": "notgoing", "on_cancel": "delete"}', 'none withheld/never_published [notgoing@-] l'),
('first', '... somebody''s record may be there', 'new', '{"local": "notgoing", "on_cancel": "delete", "listed": false}', 'list [-@-] l'),
('first', '... no account, whatever is listed', 'new', '{"local": "notgoing", "on_cancel": "delete", "account": null}', 'wait blocked/no_account [-@-] l'),
('first', 'from the network', 'new', '{"by_network": true}', 'none done/from_network [going@-] +l'),
('first', 'sent, and there it is', 'new', '{"known": true, "doubt": true, "remote_rkey": "k", "remote_cid": "c1", "remote_status": "going", "remote_sent": true, "sent_local": "going"}', 'read [own k going@c1] +l'),
('first', '... once read', 'new', '{"known": true, "remote_rkey": "k", "remote_cid": "c1", "remote_status": "going", "remote_sent": true, "sent_local": "going"}', 'none done/published [own k going@c1] +l'),
('first', '... changed since', 'new', '{"known": true, "local": "interested", "remote_rkey": "k", "remote_cid": "c1", "remote_status": "going", "remote_sent": true, "sent_local": "going"}', 'put interested over c1 [own k going@c1] +l'),
-- somebody's record is
('adoption', 'it says the same', 'found', '{"remote_status": "going"}', 'none done/published [adopted k going@c1] +l'),
('adoption', 'records not listed', 'found', '{"listed": false}', 'list [-@-] l'),
('adoption', 'no account', 'found', '{"account": null, "remote_status": "going"}', 'wait blocked/no_account [-@-] l'),
('adoption', 'latest: the row is newer', 'found', '{"local_newer": true}', 'put going over c1 [adopted k -@-] l'),
('adoption', 'latest: the record is newer', 'found', '{}', 'none done/remote_newer [adopted k going@c1] +l'),
('adoption', 'local', 'found', '{"conflict": "local"}', 'put going over c1 [adopted k -@-] l'),
('adoption', 'remote', 'found', '{"conflict": "remote", "local_newer": true}', 'none done/remote_newer [adopted k going@c1] +l'),
('adoption', 'the row has not changed since its base', 'found', '{"known": true, "base_local": "going", "local_newer": true, "conflict": "local"}', 'none [going@-] l'),
('adoption', 'a word we do not know', 'found', '{"remote_status": null, "local_newer": true}', 'put going over c1 [adopted k -@-] l'),
-- ours to keep true
('bonded', 'both agree', 'published', '{}', 'none done/published [own k going@c1] +l'),
('bonded', 'local changed', 'published', '{"local": "interested"}', 'put interested over c1 [own k going@c1] l'),
('bonded', '... not known what is there', 'published', '{"local": "interested", "remote_known": false, "remote_cid": null}', 'read [own k going@c1] l'),
('bonded', 'cancelled', 'published', '{"local": "notgoing"}', 'put notgoing over c1 [own k going@c1] wl'),
('bonded', 'cancelled, on_cancel delete', 'published', '{"local": "notgoing", "on_cancel": "delete"}', 'delete over c1 [own k going@c1] wl'),
('bonded', '... adopted', 'published', '{"local": "notgoing", "on_cancel": "delete", "bond": "adopted"}', 'put notgoing over c1 [adopted k going@c1] wl'),
('bonded', 'remote changed', 'published', '{"remote_cid": "c2", "remote_status": "notgoing", "conflict": "local"}', 'none done/changed_elsewhere [own k going@c2] +l'),
('bonded', 'remote changed, status as it was', 'published', '{"remote_cid": "c2"}', 'none done/published [own k going@c2] +l'),
('bonded', 'both changed, to the same', 'published', '{"local": "notgoing", "remote_cid": "c2", "remote_status": "notgoing"}', 'none done/published [own k notgoing@c2] +l'),
('bonded', 'both changed, latest: local', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "notgoing", "local_newer": true}', 'put interested over c2 [own k going@c1] l'),
('bonded', 'both changed, latest: remote', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "notgoing"}', 'none done/remote_newer [own k interested@c2] +l'),
('bonded', 'both changed, local', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "notgoing", "conflict": "local"}', 'put interested over c2 [own k going@c1] l'),
('bonded', 'both changed, remote', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "notgoing", "conflict": "remote", "local_newer": true}', 'none done/remote_newer [own k interested@c2] +l'),
('bonded', 'they differ, and did when both last changed', 'published', '{"remote_status": "notgoing"}', 'none [own k going@c1] +l'),
('bonded', 'what is there is what we sent', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "interested", "remote_sent": true, "sent_local": "interested"}', 'none done/published [own k interested@c2] +l'),
('bonded', '... or sent before that', 'published', '{"local": "interested", "remote_cid": "c2", "remote_status": "notgoing", "remote_sent": true, "sent_local": "interested"}', 'put interested over c2 [own k notgoing@c2] +l'),
('bonded', 'deleted elsewhere', 'published', '{"remote_cid": null}', 'none done/deleted_elsewhere [going@-] +l'),
('bonded', '... and the row changed', 'published', '{"local": "interested", "remote_cid": null}', 'put interested [own k going@c1] l'),
('bonded', 'in doubt', 'published', '{"doubt": true, "local": "interested"}', 'read [own k going@c1] l'),
('bonded', 'from the network', 'published', '{"by_network": true, "local": "interested"}', 'none done/from_network [own k interested@c1] +l');

SELECT e.n, e.part, e.what,
	CASE WHEN e.says = s.said THEN 'ok' ELSE 'NOT ' || e.says END AS ok,
	s.said
FROM expected e, plain p
CROSS JOIN LATERAL (SELECT pg_temp.said(rsvp_sync.plan(jsonb_populate_record(
	NULL::rsvp_sync.situation, CASE e.start WHEN 'new' THEN p.new
		WHEN 'published' THEN p.published ELSE p.found END || e.differs)))
	AS said) s
ORDER BY e.n;

-- Nothing is known of anything: nothing is sent.
SELECT pg_temp.said(rsvp_sync.plan(
	jsonb_populate_record(NULL::rsvp_sync.situation, '{}')));

--
-- Around it: what a key's situation is, and what becomes of the decision
--
-- A key that takes over a record which was left to differ has no past of its own
SELECT v.old, s.* FROM (VALUES ('superseded'), ('withheld'), ('done')) v (old),
	rsvp_sync._standing(jsonb_populate_record(NULL::rsvp_sync._evaluation,
		jsonb_build_object('old_state', v.old, 'old_reason_code', v.old, 'd', '{"action": "none", "bond": "own"}'::jsonb))) s;
-- ... nor has one for which a merge has found that nothing is there
SELECT s.* FROM (VALUES ('notgoing'), ('going')) v (local),
	rsvp_sync._standing(jsonb_populate_record(NULL::rsvp_sync._evaluation,
		jsonb_build_object('s', jsonb_build_object('local', v.local), 'd', '{"action": "none"}'::jsonb))) s;

BEGIN;
SET LOCAL client_min_messages = warning;
CREATE ROLE regress_plan;
SELECT rsvp_sync.grant_application('regress_plan');
CREATE SCHEMA plan_test AUTHORIZATION regress_plan;
SET LOCAL ROLE regress_plan;
CREATE TABLE plan_test.a (id int PRIMARY KEY, event text, status text);
SELECT rsvp_sync.attach('plan_test.a', $$SELECT id, 'did:plc:ewvi7nxzyoun6zhxrhs64oiz' AS did,
	'at://did:web:host.example/community.lexicon.calendar.event/' || event AS event_uri, status,
	'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a' AS event_cid FROM plan_test.a$$,
	options => '{"status_map": {"yes": "going", "no": "notgoing"}}') AS source \gset
RESET ROLE;
INSERT INTO rsvp_sync._account (did, owner, auth, state) VALUES ('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'regress_plan', 'password', 'connected');
SELECT rsvp_sync._identity_done('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'https://pds.example', NULL);
CREATE FUNCTION pg_temp.intent(key text, event text, more jsonb) RETURNS void LANGUAGE sql AS $$
INSERT INTO rsvp_sync._intent SELECT (jsonb_populate_record(NULL::rsvp_sync._intent, jsonb_build_object(
	'source_id', (SELECT max(source_id) FROM rsvp_sync._source), 'key', key, 'did', 'did:plc:ewvi7nxzyoun6zhxrhs64oiz',
	'event_uri', 'at://did:web:host.example/community.lexicon.calendar.event/' || event, 'live', true, 'local', 'going', 'local_at', '2026-01-01',
	'first_local', 'going', 'wrote', false, 'sent_cids', '{}'::text[], 'mirrors', false, 'doubt', false, 'truncated', false, 'approved', false,
	'state', 'done', 'reason_code', 'published', 'writeback', false, 'writeback_failures', 0) || more)).*
$$;
-- What was sent for another key of the slot and never confirmed is taken over, too
SELECT pg_temp.intent('1', 'one', '{"doubt": true, "rkey": "r", "sent_cids": ["c"], "sent_local": "going", "state": "waiting"}');
INSERT INTO plan_test.a VALUES (1, 'one', 'yes'), (2, 'one', 'no');
SELECT (e.d).action, e.rkey, e.from_key, (e.s).doubt, e.sent_cids FROM rsvp_sync._evaluate(:source, '{2}', true) e;
-- ... but not what that key's row had settled: it is this one's first word
UPDATE rsvp_sync._intent SET base_local = 'notgoing' WHERE key = '1';
SELECT (e.s).base_local FROM rsvp_sync._evaluate(:source, '{2}', true) e;
UPDATE rsvp_sync._intent SET bond = 'own' WHERE key = '1';
SELECT (e.s).base_local AS with_record FROM rsvp_sync._evaluate(:source, '{2}', true) e;
-- An approval outlasts the time an account is waited for
SELECT pg_temp.intent('3', 'three', '{"bond": "own", "wrote": true, "rkey": "r3", "base_local": "going", "base_cid": "c", "truncated": true,
	"approved": true, "state": "held", "reason_code": "truncated"}');
SELECT rsvp_sync._observe('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r3', 'c', '{}', NULL, 'read', '2026-01-01');
UPDATE rsvp_sync._account SET state = 'needs_login';
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, lease) VALUES (:source, '3', now(), now(), 1);
SELECT rsvp_sync._plan_keys(:source, '{3}');
SELECT state, reason_code, approved FROM rsvp_sync._intent WHERE key = '3';
UPDATE rsvp_sync._account SET state = 'connected';
SELECT (e.d).action FROM rsvp_sync._evaluate(:source, '{3}', true) e;
-- A record that was replaced by one of the same content is a difference
INSERT INTO plan_test.a VALUES (4, 'four', 'yes');
SELECT pg_temp.intent('4', 'four', '{"bond": "adopted", "rkey": "r4", "base_local": "going", "base_cid": "c4"}');
SELECT rsvp_sync._observe('did:plc:ewvi7nxzyoun6zhxrhs64oiz', v.rkey, v.cid, '{"status": "community.lexicon.calendar.rsvp#going",
	"subject": {"uri": "at://did:web:host.example/community.lexicon.calendar.event/four"}}', NULL, 'list', '2026-01-01')
FROM (VALUES ('r4', 'c4')) v (rkey, cid);
SELECT k AS same FROM rsvp_sync._differences(:source) k WHERE k = '4';
UPDATE rsvp_sync._observed SET cid = NULL WHERE rkey = 'r4';
SELECT rsvp_sync._observe('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r5', 'c4', '{"status": "community.lexicon.calendar.rsvp#going",
	"subject": {"uri": "at://did:web:host.example/community.lexicon.calendar.event/four"}}', NULL, 'list', '2026-01-01');
SELECT k AS replaced FROM rsvp_sync._differences(:source) k WHERE k = '4';
-- What is the same on both sides is no difference, whoever said it first
UPDATE rsvp_sync._intent SET rkey = 'r5', reason_code = 'from_network' WHERE key = '4';
SELECT k AS same FROM rsvp_sync._differences(:source) k WHERE k = '4';
SELECT k AS same FROM rsvp_sync._differing(:source, '{4}') k;
-- After its last word a row that is gone is looked at again, one that is there is done
SELECT pg_temp.intent('6', 'six', '{"live": false, "doubt": true}'), pg_temp.intent('7', 'seven', '{"doubt": true}');
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, lease) VALUES (:source, '6', now(), now(), 1), (:source, '7', now(), now(), 1);
SELECT rsvp_sync._put_done(:source, k, 0, 'did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r' || k, '{"status": "community.lexicon.calendar.rsvp#notgoing"}', 'c', NULL)
FROM unnest('{6,7}'::text[]) k;
SELECT key, lease FROM rsvp_sync._queue WHERE key IN ('6', '7');
-- A deletion whose answer is lost is counted once it is known, whatever else was sent and never confirmed
SELECT pg_temp.intent('8', 'eight', '{"bond": "own", "wrote": true, "rkey": "r8", "base_local": "going", "base_cid": "c8", "sent_cids": ["lost"]}');
SELECT rsvp_sync._observe('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r8', 'c8', '{}', NULL, 'read', '2026-01-01');
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, lease) VALUES (:source, '8', now(), now(), 1);
SELECT w.action, w.need FROM rsvp_sync._plan_keys(:source, '{8}') w;
SELECT sent_cids, doubt FROM rsvp_sync._intent WHERE key = '8';
CREATE FUNCTION pg_temp.deleted() RETURNS numeric LANGUAGE sql AS $$
SELECT coalesce(sum(c.value), 0) FROM rsvp_sync._counted() c WHERE c.name = 'bluesky_rsvp_operations_total' AND c.labels ->> 'operation' = 'delete' $$;
SELECT pg_temp.deleted() AS before \gset
SELECT rsvp_sync._read_done(:source, '8', 'did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r8', NULL, NULL);
SELECT sent_cids, doubt, pg_temp.deleted() - :before AS counted FROM rsvp_sync._intent WHERE key = '8';
-- ... but not where something else was in doubt, as after a move
UPDATE rsvp_sync._intent SET doubt = true, sent_cids = '{}' WHERE key = '8';
SELECT rsvp_sync._read_done(:source, '8', 'did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'r8', NULL, NULL);
SELECT doubt, pg_temp.deleted() - :before AS counted FROM rsvp_sync._intent WHERE key = '8';
-- What is applied to one of several rows of a slot has the others looked at
INSERT INTO plan_test.a VALUES (9, 'nine', 'no');
SELECT pg_temp.intent('9', 'nine', '{}'), pg_temp.intent('10', 'nine', '{"bond": "adopted", "rkey": "r9"}');
SELECT rsvp_sync._agree_applied(s, ARRAY[jsonb_populate_record(NULL::rsvp_sync._meeting, jsonb_build_object('did', i.did, 'event_uri', i.event_uri,
	'key', '9', 'seen_key', '9', 'taken_key', '9', 'rkey', 'r9', 'cid', 'c9', 'status', 'notgoing', 'at', '2026-01-02'))])
FROM rsvp_sync._source s JOIN rsvp_sync._intent i ON i.source_id = s.source_id AND i.key = '9' WHERE s.source_id = :source;
SELECT key, op FROM rsvp_sync._change_log WHERE source_id = :source AND key IN ('9', '10') AND op <> 'c' ORDER BY op;
ROLLBACK;
