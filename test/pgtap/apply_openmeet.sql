-- Apply in OpenMeet's schema as it is, in a tenant with a mixed-case name.
-- What every schema has in common is in apply.sql.  Run from the top of the
-- tree.  No network, no worker.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SET rsvp_sync.mode = 'off';
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

CREATE ROLE regress_apply_openmeet;
SELECT rsvp_sync.grant_application('regress_apply_openmeet');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_apply_openmeet;
CREATE TYPE public.event_source_type AS ENUM ('bluesky', 'eventbrite',
	'facebook', 'luma', 'meetup', 'other', 'web');
SET ROLE regress_apply_openmeet;
\set schema tenant_ciTenantB
\ir ../fixtures/openmeet.sql
SET search_path = "tenant_ciTenantB", public;

-- Groups as OpenMeet has them; alice is a member, bob a guest.
CREATE TABLE "groupRoles" ("id" SERIAL PRIMARY KEY, "name" varchar(255) NOT NULL);
INSERT INTO "groupRoles" ("name") VALUES ('owner'), ('admin'), ('moderator'),
	('member'), ('guest');
CREATE TABLE "groupMembers" ("id" SERIAL PRIMARY KEY,
	"groupRoleId" integer REFERENCES "groupRoles", "userId" integer NOT NULL
		REFERENCES "users" ON DELETE CASCADE, "groupId" integer NOT NULL);
INSERT INTO "groupMembers" ("groupRoleId", "userId", "groupId") VALUES
	(4, 1, 5), (5, 2, 5), (4, 2, 6);
INSERT INTO "events" ("id", "name", "startDate", "visibility", "atprotoUri",
	"requireApproval", "requireGroupMembership", "groupId", "maxAttendees",
	"allowWaitlist", "sourceType", "sourceId", "sourceUrl")
SELECT e.id, e.name, '2020-01-01', e.visibility::"events_visibility_enum",
	'at://did:plc:alice/community.lexicon.calendar.event/' || e.name,
	e.approval, e.members, 5, e.max, e.waitlist,
	e.source::public.event_source_type, e.source_id, e.source_url
FROM (VALUES
	(11, 'approval', 'public', true, false, NULL, false, NULL, NULL, NULL),
	(12, 'members', 'public', false, true, NULL, false, NULL, NULL, NULL),
	(13, 'both', 'public', true, true, NULL, false, NULL, NULL, NULL),
	(14, 'small', 'public', false, false, 1, true, NULL, NULL, NULL),
	(15, 'unlisted', 'unlisted', false, false, NULL, false, NULL, NULL, NULL),
	(16, 'web', 'public', false, false, NULL, false, 'web', 'event-16',
		'https://example.org/party'))
	AS e (id, name, visibility, approval, members, max, waitlist, source,
		source_id, source_url);
SELECT rsvp_sync.attach('"eventAttendees"') AS source \gset
RESET ROLE;
SELECT set_config('regress.source', :'source', false);

CREATE FUNCTION public.uri(event text) RETURNS text LANGUAGE sql AS
$$ SELECT 'at://did:plc:alice/community.lexicon.calendar.event/' || event $$;
CREATE FUNCTION public.apply(did text, event text, status text,
	rsvp jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	SELECT * INTO r FROM rsvp_sync._apply(
		current_setting('regress.source')::bigint, ARRAY[did], ARRAY[event],
		ARRAY[status], ARRAY[rsvp::text]);
	RETURN CASE WHEN r.error IS NOT NULL THEN r.code || ' ' || r.error
		WHEN r.key = '' THEN 'no row' WHEN r.key IS NULL THEN 'unknown'
		ELSE (SELECT concat_ws(' ', a."userId", a."status", g."name")
			FROM "eventAttendees" a JOIN "eventRoles" g ON g."id" = a."roleId"
			WHERE a."id" = r.key::int) END;
END
$$;

-- An RSVP as it arrives.
CREATE FUNCTION public.rsvp(did text, rkey text, cid text, VARIADIC more text[] DEFAULT '{}')
RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('uri', format('at://%s/community.lexicon.calendar.rsvp/%s', did, rkey),
		'cid', cid, 'rkey', rkey, 'handle', split_part(did, ':', 3) || '.Example.Org',
		'source', 'stream', 'record', jsonb_build_object('subject', jsonb_build_object('cid', 'bafyevent'),
			'createdAt', '2026-05-01T10:00:00.000Z')) || jsonb_object(more)
$$;

-- A new row, a new user
SELECT is(apply('did:plc:kim', uri('3lxyzabcde2f2'), 'going', rsvp('did:plc:kim', 'k1', 'bafyk1')),
	'6 confirmed participant', 'a stranger gets a user and a row with the role of a participant');
SELECT is(to_jsonb(u) - '{createdAt,updatedAt,ulid,slug}'::text[], '{"id": 6, "email": null, "password": "",
	"provider": "bluesky", "socialId": "did:plc:kim", "firstName": "kim.Example.Org", "lastName": null, "deletedAt": null,
	"statusId": 1, "preferences": {"bluesky": {"did": "did:plc:kim", "handle": "kim.Example.Org"}}, "isShadowAccount": true}',
	'a shadow account as OpenMeet makes it') FROM "users" u WHERE "id" = 6;
SELECT matches(u."ulid", '^[0-9a-hjkmnp-tv-z]{26}$', 'a lower-case ulid') FROM "users" u WHERE "id" = 6;
SELECT matches(u."slug", '^kim-example-org-[0-9a-hjkmnp-tv-z]{6}$', 'a slug with a short code') FROM "users" u WHERE "id" = 6;
SELECT cmp_ok(abs(extract(epoch FROM u."createdAt" - now() AT TIME ZONE 'UTC')), '<', 60::numeric, 'created now')
FROM "users" u WHERE "id" = 6;
SELECT is(to_jsonb(a) - '{createdAt,updatedAt,lastSyncedAt,id}'::text[], '{"approvalAnswer": null, "roleId": 3, "eventId": 1,
	"userId": 6, "status": "confirmed", "sourceType": "bluesky", "sourceUrl": null,
	"sourceId": "at://did:plc:kim/community.lexicon.calendar.rsvp/k1",
	"sourceData": {"rsvpCid": "bafyk1", "rkey": "k1", "eventCid": "bafyevent", "originalCreatedAt": "2026-05-01T10:00:00.000Z"},
	"atprotoUri": null, "atprotoRkey": null, "atprotoSyncedAt": null}',
	'the row says where it came from, as their ingestion does')
FROM "eventAttendees" a WHERE "userId" = 6;
SELECT isnt("lastSyncedAt", NULL, 'and when') FROM "eventAttendees" WHERE "userId" = 6;

-- The same again, then another
SELECT xmin AS before FROM "eventAttendees" WHERE "userId" = 6 \gset
SELECT is(apply('did:plc:kim', uri('3lxyzabcde2f2'), 'going', rsvp('did:plc:kim', 'k1', 'bafyk1')),
	'6 confirmed participant', 'the same again');
SELECT is(xmin::text, :'before', 'writes nothing') FROM "eventAttendees" WHERE "userId" = 6;
UPDATE "eventAttendees" SET "roleId" = 4, "updatedAt" = '2020-01-01', "sourceData" = "sourceData" || '{"theirs": 1}' WHERE "userId" = 6;
SELECT is(apply('did:plc:kim', uri('3lxyzabcde2f2'), 'interested', rsvp('did:plc:kim', 'k2', 'bafyk2')
		|| '{"record": {"createdAt": "2026-06-06T00:00:00Z", "subject": "at://x"}}'),
	'6 maybe speaker', 'another answer keeps the role');
SELECT is("sourceData" || jsonb_build_object('uri', "sourceId", 'moved', "updatedAt" > '2020-01-01'),
	'{"rsvpCid": "bafyk2", "rkey": "k2", "eventCid": "bafyevent", "originalCreatedAt": "2026-05-01T10:00:00.000Z", "theirs": 1,
	"uri": "at://did:plc:kim/community.lexicon.calendar.rsvp/k2", "moved": true}',
	'and when it was first made') FROM "eventAttendees" WHERE "userId" = 6;
SELECT is(apply('did:plc:kim', uri('3lxyzabcde2f2'), NULL, rsvp('did:plc:kim', 'k2', 'bafyk2')),
	'6 cancelled speaker', 'a withdrawn record cancels, the row is kept');
SELECT is("sourceId", 'at://did:plc:kim/community.lexicon.calendar.rsvp/k2', 'with its source')
FROM "eventAttendees" WHERE "userId" = 6;

-- A row that we published
INSERT INTO "eventAttendees" ("roleId", "eventId", "userId", "status", "atprotoUri", "atprotoRkey")
VALUES (1, 1, 1, 'confirmed', 'at://did:plc:alice/community.lexicon.calendar.rsvp/ours', 'ours');
SELECT is(apply('did:plc:alice', uri('3lxyzabcde2f2'), 'going', rsvp('did:plc:alice', 'ours', 'bafyours')),
	'1 confirmed host', 'a row that we published');
SELECT is(apply('did:plc:alice', uri('3lxyzabcde2f2'), 'interested', rsvp('did:plc:alice', 'ours', 'bafyours2')),
	'1 maybe host', 'gets its new status');
SELECT is(ARRAY["sourceType"::text, "sourceId", "sourceData"::text, "lastSyncedAt"::text], '{NULL,NULL,NULL,NULL}',
	'but is not said to come from elsewhere') FROM "eventAttendees" WHERE "userId" = 1;

-- Events
SELECT is(apply('did:plc:alice', 'at://did:plc:carol/community.lexicon.calendar.event/3lqwertyui2k2', 'going'),
	'1 confirmed participant', 'an imported event');
SELECT is(apply('did:plc:alice', uri('unlisted'), 'going'), 'unknown', 'an unlisted event is not known');
SELECT is(apply('https://lee.example/', 'https://example.org/party', 'going',
	'{"source": "web", "uri": "https://lee.example/2026/rsvp"}'), '7 confirmed participant', 'an author and an event by their addresses');
SELECT is(apply('https://lee.example/', 'event-16', 'interested', '{"source": "Web", "uri": "https://lee.example/2026/rsvp"}'),
	'7 maybe participant', 'the event by its source id');
SELECT is(apply('https://lee.example/', 'event-16', 'interested', '{"source": "activitypub"}'), 'unknown', 'which is its source''s own');
SELECT is(to_jsonb(u) - '{createdAt,updatedAt,ulid,slug,id,lastName,deletedAt}'::text[], '{"email": null, "password": "", "provider": "web",
	"socialId": "https://lee.example/", "firstName": "https://lee.example/", "statusId": 1, "preferences": {}, "isShadowAccount": true}',
	'a shadow account for an address') FROM "users" u WHERE "id" = 7;
SELECT is(ARRAY["sourceType"::text, "sourceId", "sourceUrl"], '{web,https://lee.example/2026/rsvp,https://lee.example/2026/rsvp}',
	'the row of an author') FROM "eventAttendees" WHERE "userId" = 7;
SELECT is(apply('https://ap.example/u/1', uri('3lxyzabcde2f2'), 'going', '{"source": "activitypub"}'), '8 confirmed participant',
	'somebody of another network answers an event of this one');
SELECT is("sourceType"::text, NULL, 'a source that the type does not know is left out') FROM "eventAttendees" WHERE "userId" = 8;
SELECT is(apply('did:plc:long', uri('3lxyzabcde2f2'), 'going', rsvp('did:plc:long', repeat('x', 300), 'bafy')),
	'9 confirmed participant', 'an address that is too long for its column');
SELECT is("sourceId", NULL, 'is left out') FROM "eventAttendees" WHERE "userId" = 9;

-- Users
INSERT INTO "users" ("id", "slug", "ulid", "provider", "socialId", "preferences", "isShadowAccount", "deletedAt") VALUES
	(20, 's20', '01jx0000000000000000000020', 'bluesky', 'did:plc:lou', NULL, true, NULL),
	(21, 's21', '01jx0000000000000000000021', 'bluesky', 'did:plc:lou', NULL, false, NULL),
	(22, 's22', '01jx0000000000000000000022', 'email', NULL, '{"bluesky": {"did": "did:plc:max"}}', false, NULL),
	(23, 's23', '01jx0000000000000000000023', 'bluesky', 'did:plc:max', NULL, false, NULL),
	(24, 's24', '01jx0000000000000000000024', 'email', NULL, '{"bluesky": {"did": "did:plc:bob"}}', false, NULL),
	(25, 's25', '01jx0000000000000000000025', 'google', 'did:plc:nan', NULL, false, NULL),
	(26, 's26', '01jx0000000000000000000026', 'bluesky', 'did:plc:nan', NULL, false, '2026-01-01'),
	(27, 's27', '01jx0000000000000000000027', 'email', NULL, '{"bluesky": {"did": "did:plc:carol"}}', false, NULL);
SELECT is(split_part(apply(d, uri('3lxyzabcde2f2'), 'going'), ' ', 1), u, why) FROM (VALUES
	('did:plc:lou', '21', 'a real user before a shadow'),
	('did:plc:max', '22', 'by preferences before the provider''s id'),
	('did:plc:bob', '2', 'by identity before preferences'),
	('did:plc:carol', '27', 'but a real one before a shadow that has an identity'),
	('did:plc:erin', '10', 'a deleted user is none'),
	('did:plc:nan', '11', 'nor is one of another provider')) AS t (d, u, why);
SELECT is(apply('did:plc:nan', uri('3lxyzabcde2f2'), 'interested'), '11 maybe participant', 'nobody gets a second shadow');

-- Who may come
CREATE FUNCTION public.follow(did text, event text, usr int, was text, answer text DEFAULT 'going') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM "eventAttendees" WHERE "eventId" >= 11;
	IF was IS NOT NULL THEN
		INSERT INTO "eventAttendees" ("roleId", "eventId", "userId", "status") SELECT 3, "id", usr,
			nullif(was, 'null')::"eventAttendees_status_enum" FROM "events" WHERE "name" = event;
	END IF;
	RETURN split_part(apply(did, uri(event), answer), ' ', 2);
END
$$;
SELECT is(follow('did:plc:' || w.who, w.event, w.usr, w.was, w.answer), w.becomes,
	format('%s in %s: %s, then %s', w.who, w.event, coalesce(w.was, 'nothing'), w.answer))
FROM (VALUES
	('alice', 1, 'approval', NULL, 'going', 'pending'),
	('alice', 1, 'approval', NULL, 'interested', 'maybe'),
	('alice', 1, 'approval', 'confirmed', 'going', 'confirmed'),
	('alice', 1, 'approval', 'pending', 'going', 'pending'),
	('alice', 1, 'approval', 'cancelled', 'going', 'pending'),
	('alice', 1, 'approval', 'null', 'going', 'pending'),
	('alice', 1, 'members', NULL, 'going', 'confirmed'),
	('bob', 2, 'members', NULL, 'going', 'pending'),
	('bob', 2, 'members', NULL, 'interested', 'maybe'),
	('bob', 2, 'members', 'confirmed', 'going', 'confirmed'),
	('bob', 2, 'members', 'attended', 'going', 'attended'),
	('bob', 2, 'members', 'cancelled', 'going', 'pending'),
	('lou', 21, 'members', 'pending', 'going', 'pending'),
	('alice', 1, 'both', NULL, 'going', 'pending'),
	('alice', 1, 'both', 'rejected', 'going', 'rejected'),
	('alice', 1, 'both', 'rejected', 'notgoing', 'rejected'),
	('alice', 1, 'small', NULL, 'going', 'confirmed'),
	('alice', 1, 'small', 'waitlist', 'going', 'waitlist'),
	('alice', 1, 'small', 'waitlist', 'interested', 'maybe'),
	('alice', 1, 'small', 'invited', 'going', 'confirmed'),
	('alice', 1, 'small', 'null', 'notgoing', 'cancelled')
	) AS w (who, usr, event, was, answer, becomes);

-- A batch: a guest, a member, the last place
DELETE FROM "eventAttendees" WHERE "eventId" >= 11;
CREATE TABLE public.answer AS SELECT * FROM rsvp_sync._apply(:source, '{did:plc:bob,did:plc:alice,did:plc:alice,did:plc:bob,did:plc:lou}',
	ARRAY[uri('members'), uri('members'), uri('small'), uri('small'), uri('small')],
	'{going,going,going,going,interested}', '{NULL,NULL,NULL,NULL,NULL}');
SELECT is(array_agg(a."status"::text ORDER BY r.n), '{pending,confirmed,confirmed,waitlist,maybe}', 'a batch')
FROM public.answer r LEFT JOIN "eventAttendees" a ON a."id"::text = r.key;

-- Without a table of members nobody is known to be one
SET ROLE regress_apply_openmeet;
DROP TABLE "groupMembers";
SELECT rsvp_sync.attach('"eventAttendees"');
RESET ROLE;
SELECT is(follow('did:plc:alice', 'members', 1, NULL), 'pending', 'no table of members, no members');

-- A status map of one's own
SET ROLE regress_apply_openmeet;
SELECT rsvp_sync.attach('"eventAttendees"', options => '{"status_map": {"confirmed": null, "attended": "going", "waitlist": "interested"}}');
RESET ROLE;
SELECT alike(apply('did:plc:max', 'at://did:plc:carol/community.lexicon.calendar.event/3lqwertyui2k2', 'going'), '22023 the application has no status for "going"%',
	'a map by which nothing means going');
SELECT is(follow('did:plc:alice', 'approval', 1, NULL, 'interested'), 'maybe', 'waitlist is never what somebody answers');
SET ROLE regress_apply_openmeet;
SELECT rsvp_sync.attach('"eventAttendees"', options => '{"status_map": {"confirmed": "going", "rejected": "notgoing"}}');
RESET ROLE;
SELECT is(follow('did:plc:alice', 'web', 1, 'rejected'), 'rejected', 'a refusal is one, whatever it is published as');

-- What cannot be filled in
SET ROLE regress_apply_openmeet;
SELECT rsvp_sync.attach('"eventAttendees"', options => '{"status_map": null}');
ALTER TABLE "users" ADD "birthday" date;
UPDATE "users" SET "birthday" = '2000-01-01';
ALTER TABLE "users" ALTER "birthday" SET NOT NULL;
RESET ROLE;
SELECT is(apply('did:plc:zoe', uri('3lxyzabcde2f2'), 'going'),
	'0A000 a user cannot be created in table "tenant_ciTenantB".users: it wants values for birthday',
	'a column of users that we know nothing of');
SELECT is(apply('did:plc:lou', uri('3lxyzabcde2f2'), 'interested'), '21 maybe participant', 'those who are there can come');
SET ROLE regress_apply_openmeet;
ALTER TABLE "eventAttendees" ADD "seat" text NOT NULL DEFAULT '';
ALTER TABLE "eventAttendees" ALTER "seat" DROP DEFAULT;
RESET ROLE;
SELECT is(apply('did:plc:max', 'at://did:plc:carol/community.lexicon.calendar.event/3lqwertyui2k2', 'going'),
	'0A000 a row cannot be created in table "tenant_ciTenantB"."eventAttendees": it wants values for seat',
	'a column of attendance that we know nothing of');
SELECT is(apply('did:plc:lou', uri('3lxyzabcde2f2'), 'going'), '21 confirmed participant', 'rows that are there are changed');
SET rsvp_sync.jetstream_url = 'wss://jetstream.example.org/subscribe';
SELECT is(array_agg(finding ORDER BY finding), ARRAY['RSVPs made elsewhere: a row cannot be created in table "tenant_ciTenantB"."eventAttendees": it wants values for seat.',
	'RSVPs made elsewhere: a user cannot be created in table "tenant_ciTenantB".users: it wants values for birthday.'], 'doctor() knows beforehand')
FROM rsvp_sync.doctor() WHERE check_name = 'apply';

SELECT * FROM finish();
