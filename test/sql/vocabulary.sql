-- The words for an attendance, from each vocabulary to each other.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;

SELECT openmeet, replace(atproto, 'community.lexicon.calendar.rsvp', '…') AS atproto, indieweb,
	activitypub, partstat, schemaorg, as1, lossy
FROM rsvp_sync.rsvp_status_map();

CREATE TEMP TABLE vocabulary AS
SELECT unnest(ARRAY['openmeet', 'atproto', 'indieweb', 'activitypub', 'partstat', 'schemaorg', 'as1']) AS name;

-- Every word of the table to every vocabulary: what its own row says
SELECT s.name AS source, t.name AS target, to_jsonb(m) ->> s.name AS word
FROM rsvp_sync.rsvp_status_map() AS m, vocabulary AS s, vocabulary AS t
WHERE to_jsonb(m) ->> s.name IS NOT NULL AND s.name <> ALL (m.lossy)
	AND rsvp_sync.rsvp_status_map(to_jsonb(m) ->> s.name, s.name, t.name)
		IS DISTINCT FROM to_jsonb(m) ->> t.name;

-- A pair that is not marked lossy comes back; one that is marked does not
SELECT m.openmeet, v.name
FROM rsvp_sync.rsvp_status_map() AS m, vocabulary AS o, vocabulary AS v
WHERE o.name <> ALL (m.lossy) AND to_jsonb(m) ->> o.name IS NOT NULL AND to_jsonb(m) ->> v.name IS NOT NULL
	AND (rsvp_sync.rsvp_status_map(rsvp_sync.rsvp_status_map(to_jsonb(m) ->> o.name, o.name, v.name), v.name, o.name)
		= to_jsonb(m) ->> o.name) <> (v.name <> ALL (m.lossy))
	-- two meanings that share the word of the origin, too, cannot be told apart by it
	AND NOT (o.name <> 'indieweb' AND o.name <> 'as1' AND m.openmeet = 'maybe');

-- In every vocabulary a word has one row where it is not lossy
SELECT v.name, to_jsonb(m) ->> v.name AS word, count(*) FILTER (WHERE v.name <> ALL (m.lossy))
FROM rsvp_sync.rsvp_status_map() AS m, vocabulary AS v
WHERE to_jsonb(m) ->> v.name IS NOT NULL
GROUP BY 1, 2 HAVING count(*) FILTER (WHERE v.name <> ALL (m.lossy)) <> 1;

-- The spellings that are read besides those that are written
SELECT source, status, rsvp_sync.rsvp_status_map(status, source, 'openmeet') AS openmeet,
	rsvp_sync.rsvp_status_map(status, source, source) AS written
FROM (VALUES
	('atproto', 'going'), ('atproto', 'interested'), ('atproto', 'notgoing'),
	('atproto', 'events.smokesignal.calendar.rsvp#going'),
	('atproto', 'events.smokesignal.calendar.rsvp#interested'),
	('atproto', 'community.lexicon.calendar.rsvp#notgoing'),
	('indieweb', 'YES'), ('indieweb', 'No'), ('indieweb', 'mayBe'), ('indieweb', 'Interested'),
	('activitypub', 'Join'), ('activitypub', 'Leave'),
	('partstat', 'accepted'), ('partstat', 'Needs-Action'), ('partstat', 'DELEGATED'),
	('schemaorg', 'https://schema.org/RsvpResponseMaybe'), ('schemaorg', 'http://schema.org/RsvpResponseNo'),
	('as1', 'rsvp-interested')) AS t (source, status);

-- What is not known is not guessed
SELECT source, status, rsvp_sync.rsvp_status_map(status, source, 'openmeet')
FROM (VALUES
	('openmeet', ''), ('openmeet', 'Confirmed'), ('openmeet', 'going'), ('openmeet', ' maybe'),
	('atproto', 'Going'), ('atproto', '#going'), ('atproto', 'maybe'), ('atproto', E'going\n'),
	('atproto', 'community.lexicon.calendar.rsvp#maybe'), ('atproto', 'community.lexicon.calendar.rsvp'),
	('atproto', 'communityxlexicon.calendar.rsvp#going'), ('atproto', 'x community.lexicon.calendar.rsvp#going'),
	('indieweb', 'remote'), ('indieweb', 'ＹＥＳ'), ('indieweb', 'ınterested'),
	('activitypub', 'accept'), ('activitypub', 'Undo'), ('activitypub', 'join'),
	('partstat', 'COMPLETED'), ('schemaorg', 'RsvpResponse'), ('schemaorg', 'https://schema.org.evil/RsvpResponseNo'),
	('as1', 'rsvp-Yes')) AS t (source, status);
SELECT rsvp_sync.rsvp_status_map(NULL, 'openmeet', 'atproto') AS no_word,
	rsvp_sync.rsvp_status_map('rejected', 'openmeet', 'atproto') AS no_counterpart;

-- An unknown vocabulary is an error
SELECT rsvp_sync.rsvp_status_map('yes', 'IndieWeb', 'openmeet');
SELECT rsvp_sync.rsvp_status_map('yes', 'indieweb', 'lossy');
\set VERBOSITY sqlstate
SELECT rsvp_sync.rsvp_status_map('yes', 'indieweb', '');
\set VERBOSITY default

-- In a constraint and in a generated column
CREATE TEMP TABLE attendance (
	status text CHECK (rsvp_sync.rsvp_status_map(status, 'openmeet', 'openmeet') IS NOT NULL),
	token text GENERATED ALWAYS AS (rsvp_sync.rsvp_status_map(status, 'openmeet', 'atproto')) STORED);
INSERT INTO attendance VALUES ('confirmed'), ('rejected') RETURNING *;
INSERT INTO attendance VALUES ('perhaps');
