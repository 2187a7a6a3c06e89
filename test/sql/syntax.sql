-- The identifiers of the AT Protocol: what is one, and what is none.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;

CREATE TEMP TABLE vector (test text, valid boolean, value text);

-- Runs every vector through its function.  A mistake shows up as a row.
CREATE FUNCTION pg_temp.failures() RETURNS TABLE (test text, value text, got boolean)
LANGUAGE plpgsql AS $$
DECLARE
	v record;
BEGIN
	FOR v IN SELECT * FROM vector ORDER BY vector.test, vector.value LOOP
		EXECUTE format('SELECT rsvp_sync.%I($1)', v.test) INTO got USING v.value;
		IF got IS DISTINCT FROM v.valid THEN
			test := v.test;
			value := left(v.value, 60);
			RETURN NEXT;
		END IF;
	END LOOP;
END $$;

-- DIDs: method in lower case, identifier with whole percent encodings
INSERT INTO vector SELECT 'is_did', true, unnest(ARRAY[
	'did:plc:z72i7hdynmk6r22z27h6tvur', 'did:web:events.example.org',
	'did:web:localhost%3A2583', 'did:q:1', 'did:example:Mixed_Case-1.2',
	'did:example:a::b', 'did:example::a', 'did:example:-', 'did:example:%aF.',
	'did:example:%20%20', 'did:example:' || repeat('x', 2036)]);
INSERT INTO vector SELECT 'is_did', false, unnest(ARRAY[
	'', 'did', 'did:', 'did:plc', 'did:plc:', 'did::abc', ':plc:abc', 'DID:plc:abc',
	'Did:plc:abc', 'did:PLC:abc', 'did:pl3:abc', 'did:plc:abc:', 'did:plc:abc%',
	'did:plc:abc%4', 'did:plc:%4gx', 'did:plc:%', 'did:plc:a%%41', 'did:plc:a/b',
	'did:plc:a?b', 'did:plc:a#b', 'did:plc:a b', ' did:plc:a', 'did:plc:a ',
	E'did:plc:a\n', 'did:plc:é', 'did-plc-abc', 'did:example:' || repeat('x', 2037)]);

-- Handles: hostnames with at least two labels, and no IP addresses
INSERT INTO vector SELECT 'is_handle', true, unnest(ARRAY[
	'alice.example.org', 'ALICE.Example.ORG', '1.2.three', 'a.b', '7.de', 'x--y.net',
	'xn--mnchen-3ya.example', 'printer.local', 'a.z9', 'a.z-9',
	repeat('h', 63) || '.org', 'a.' || repeat('h', 63),
	repeat('abcdefghi.', 25) || 'org']);
INSERT INTO vector SELECT 'is_handle', false, unnest(ARRAY[
	'', '.', 'org', 'alice.', '.alice.org', 'alice..org', '-a.org', 'a-.org', 'a.-org',
	'a.org-', 'a.9org', '10.0.0.1', '::1', 'fe80::1.org', 'a_b.org', '@alice.org',
	'alice.org/', 'alice@example.org', 'alice .org', ' alice.org', 'alice.org ',
	E'alice.org\n', 'münchen.example', 'alice.örg', 'at://alice.org',
	repeat('h', 64) || '.org', 'a.' || repeat('h', 64),
	repeat('abcdefghi.', 25) || 'orgs']);

-- NSIDs: a hostname backwards, then a name without hyphens
INSERT INTO vector SELECT 'is_nsid', true, unnest(ARRAY[
	'community.lexicon.calendar.rsvp', 'org.example.someRecord', 'a.1.c', 'a-1.b-2.c3',
	'COM.example.Thing', 'x.y.Z', 'com.4chan.lex.getThing', 'com.example.v2',
	'com.' || repeat('l', 63) || '.name', 'com.example.' || repeat('n', 63),
	'com' || repeat('.abcdefgh', 34) || '.abcdefg']);
INSERT INTO vector SELECT 'is_nsid', false, unnest(ARRAY[
	'', 'com', 'com.example', 'com..example.x', '.com.example.x', 'com.example.x.',
	'1om.example.x', 'com.example.1x', 'com.example.x-y', 'com.example.x_y',
	'-com.example.x', 'com-.example.x', 'com.-example.x', 'com.example-.x',
	'com.example.x*', 'com.example.*', 'com.example.x#main', 'com.exämple.x',
	'com.example.x ', ' com.example.x', 'com.exa mple.x',
	'com.' || repeat('l', 64) || '.name', 'com.example.' || repeat('n', 64),
	'com' || repeat('.abcdefgh', 34) || '.abcdefgh']);

-- Record keys
INSERT INTO vector SELECT 'is_record_key', true, unnest(ARRAY[
	'self', '3jui7kd54zh2y', 'A', '0', '-', '_', ':', '~', '...', '.a', 'a.', 'a..b',
	'lang:de-AT', '~x_y-z.1:', repeat('k', 512)]);
INSERT INTO vector SELECT 'is_record_key', false, unnest(ARRAY[
	'', '.', '..', 'a/b', 'a b', ' a', 'a ', 'a+b', 'a=', 'a%20', '@a', '#a', '"a"', '(a)',
	'[a]', 'a!', 'a?', 'ä', E'a\n', repeat('k', 513)]);

-- TIDs: the first digit has the top bit clear
INSERT INTO vector SELECT 'is_tid', true, unnest(ARRAY[
	'2222222222222', '3jui7kd54zh2y', 'jzzzzzzzzzzzz', '7777777777777', 'a234567bcdefg']);
INSERT INTO vector SELECT 'is_tid', false, unnest(ARRAY[
	'', '222222222222', '22222222222222', 'kzzzzzzzzzzzz', 'z222222222222',
	'3JUI7KD54ZH2Y', '3jui7kd54zh2Y', '3jui7kd54zh21', '0jui7kd54zh2y', '3jui7kd54zh2 ',
	'3jui-7kd-54zh-2y', '3jui7kd54zhé', '8222222222222']);

-- Datetimes
INSERT INTO vector SELECT 'is_datetime', true, unnest(ARRAY[
	'2026-03-01T18:00:00Z', '2026-03-01T18:00:00.0Z', '2026-03-01T18:00:00.123456789012345Z',
	'2026-03-01T18:00:00+00:00', '2026-03-01T18:00:00-11:30', '2026-03-01T23:59:59+23:59',
	'2024-02-29T00:00:00Z', '2000-02-29T00:00:00Z', '0000-02-29T00:00:00Z',
	'0000-01-01T00:00:00Z', '0000-01-01T01:00:00+01:00', '0000-01-01T00:00:00-01:00',
	'0000-01-02T00:00:00+23:59', '0001-01-01T00:00:00+01:00', '9999-12-31T23:59:59Z',
	'2026-03-01T18:00:00.' || repeat('7', 200) || 'Z']);
INSERT INTO vector SELECT 'is_datetime', false, unnest(ARRAY[
	'', '2026', '2026-03-01', '2026-03-01T18:00Z', '2026-03-01T18:00:00',
	'2026-03-01T18:00:00.Z', '2026-03-01T18:00:00,5Z', '2026-03-01t18:00:00Z',
	'2026-03-01T18:00:00z', '2026-03-01 18:00:00Z', '2026-03-01T18:00:00-00:00',
	'2026-03-01T18:00:00+0000', '2026-03-01T18:00:00+00', '2026-03-01T18:00:00+24:00',
	'2026-03-01T18:00:00+01:60', '2026-03-01T18:00:00 Z', '2026-03-01T18:00:00ZZ',
	'2026-03-01T18:00:00Z+01:00', '2026-03-01T18:00:00+01:00Z', '26-03-01T18:00:00Z',
	'12026-03-01T18:00:00Z', '+2026-03-01T18:00:00Z', '-0001-03-01T18:00:00Z',
	'2026-00-01T18:00:00Z', '2026-13-01T18:00:00Z', '2026-03-00T18:00:00Z',
	'2026-03-32T18:00:00Z', '2026-04-31T18:00:00Z', '2026-02-29T18:00:00Z',
	'1900-02-29T18:00:00Z', '2026-03-01T24:00:00Z', '2026-03-01T18:60:00Z',
	'2016-12-31T23:59:60Z', '2026-03-01T18:00:61Z', '2026-W09-7T18:00:00Z',
	'2026-060T18:00:00Z', '0000-01-01T00:59:00+01:00', '２026-03-01T18:00:00Z',
	'2026–03–01T18:00:00Z', ' 2026-03-01T18:00:00Z', '2026-03-01T18:00:00Z ',
	E'2026-03-01T18:00:00Z\n', '2026-03-01T18:00:00.1', '2026-03-01T18:00:00.']);

-- CIDs: base32 is decoded, of other bases the alphabet is checked
INSERT INTO vector SELECT 'is_cid', true, unnest(ARRAY[
	rsvp_sync.record_cid('{}'), 'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku',
	-- a codec raw, the identity as hash, one byte
	'bafkqaank', upper(rsvp_sync.record_cid('{}')), 'zQmExampLe123', 'f01711220ab', 'F01711220AB', 'mAXESIA+/', 'k51qzi5uqu5dh']);
INSERT INTO vector SELECT 'is_cid', false, unnest(ARRAY[
	'', 'b', 'bafyrei', 'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG',
	-- one character short, one too many, changed case, characters of no alphabet
	left(rsvp_sync.record_cid('{}'), 58), rsvp_sync.record_cid('{}') || 'a',
	'b' || upper(substr(rsvp_sync.record_cid('{}'), 2)), 'B' || substr(rsvp_sync.record_cid('{}'), 2),
	replace(rsvp_sync.record_cid('{}'), 'i', '1'),
	-- bits left over at the end; a version that is not 1
	left(rsvp_sync.record_cid('{}'), 58) || '7', 'bai' || substr(rsvp_sync.record_cid('{}'), 4),
	-- a digest too short, too long; a varint too wide, without an end
	'bafkqaavk', 'bafkqaafk', 'bahkqaaabvi', 'bagaibaeaqcaibaeaaeaa',
	'z0OIl1111', 'f01711220AB', 'F01711220ab', 'm====aaaa', 'e12345678', '123456789',
	'bafyrei abcdefgh', 'cid:bafyreiabcdefgh', 'béééééééé', 'b' || repeat('a', 256),
	'z' || repeat('a', 256)]);

-- at-uris
INSERT INTO vector SELECT 'is_at_uri', true, unnest(ARRAY[
	'at://did:plc:abc', 'at://alice.example.org', 'at://did:web:a%3A1/com.example.x',
	'at://did:plc:abc/community.lexicon.calendar.rsvp/3jui7kd54zh2y',
	'at://ALICE.example.org/com.example.X/self', 'at://did:plc:abc/com.example.x/...',
	'at://did:plc:abc#/a', 'at://did:plc:abc/com.example.x#/a/b[0]%20',
	'at://did:plc:abc/com.example.x/k#/',
	'at://did:plc:abc/com.example.x/' || repeat('k', 512)]);
INSERT INTO vector SELECT 'is_at_uri', false, unnest(ARRAY[
	'', 'at:', 'at:/', 'at://', 'at:///', 'AT://did:plc:abc', 'http://alice.example.org',
	'at:/did:plc:abc', 'at:did:plc:abc', 'at///did:plc:abc', 'at://did:plc:abc/',
	'at://did:plc:abc//', 'at://did:plc:abc/com.example.x/', 'at://did:plc:abc//k',
	'at://did:plc:abc/com.example.x/k/', 'at://did:plc:abc/com.example.x/k/l',
	'at://alice', 'at://alice:pw@example.org', 'at://example.org:3000', 'at://@alice.example.org',
	'at://did:plc:abc/example/k', 'at://did:plc:abc/com.example.x/.',
	'at://did:plc:abc/com.example.x/..', 'at://did:plc:abc/com.example.x/a%20b',
	'at://did:plc:abc?q=1', 'at://did:plc:abc/com.example.x?q=1', 'at://did:plc:abc#',
	'at://did:plc:abc#a', 'at://did:plc:abc##/a', 'at://did:plc:abc#/a#/b',
	'at://did:plc:abc#/a b', 'at://did:plc:abc#/%', 'at://did:plc:abc#/%zz',
	'at://did:plc:abc#/ä', 'at://did:plc:abc ', ' at://did:plc:abc', E'at://did:plc:abc\n',
	'at://did:plc:abc/com.example.x/k\', 'at://did:plc:abc/com.example.x/' || repeat('k', 513),
	'at://did:plc:abc#/' || repeat('f', 8192)]);

SELECT test, count(*) FILTER (WHERE valid) AS valid, count(*) FILTER (WHERE NOT valid) AS invalid
FROM vector GROUP BY test ORDER BY test;
SELECT * FROM pg_temp.failures();

-- The overall limit of an at-uri, to the character
SELECT n, rsvp_sync.is_at_uri('at://did:plc:abc#/' || repeat('f', n - 18)) AS valid
FROM unnest(ARRAY[8192, 8193]) AS n;

-- Taken apart; a part that is not there is NULL
SELECT u.uri, p.*, rsvp_sync.is_at_uri(u.uri) AS valid
FROM unnest(ARRAY[
	'at://did:plc:abc/com.example.x/3k#/status', 'at://did:plc:abc/com.example.x/3k',
	'at://alice.example.org/com.example.x', 'at://alice.example.org', 'at://did:plc:abc#/a%20b',
	'at://did:plc:abc/', 'garbage', '', NULL]) WITH ORDINALITY AS u (uri, ord),
	rsvp_sync.parse_at_uri(u.uri) AS p
ORDER BY u.ord;

-- The parts put together are the uri again, and each is what it should be
SELECT v.value
FROM vector AS v, rsvp_sync.parse_at_uri(v.value) AS p
WHERE v.test = 'is_at_uri' AND (v.valid <> (p.authority IS NOT NULL)
	OR v.valid AND (
		'at://' || p.authority || coalesce('/' || p.collection, '')
			|| coalesce('/' || p.rkey, '') || coalesce('#' || p.fragment, '') <> v.value
		OR NOT (rsvp_sync.is_did(p.authority) OR rsvp_sync.is_handle(p.authority))
		OR NOT coalesce(rsvp_sync.is_nsid(p.collection), true)
		OR NOT coalesce(rsvp_sync.is_record_key(p.rkey), true)));

-- One character of every block of every plane, in every place of a text: no
-- errors, and nothing but ASCII is ever accepted
CREATE TEMP TABLE tests AS SELECT DISTINCT test FROM vector;
DO $$
DECLARE
	t text;
	c text;
	accepted boolean;
BEGIN
	FOR t IN SELECT test FROM tests LOOP
		FOR c IN SELECT chr(n) FROM generate_series(128, 1114111, 251) AS n
				 WHERE n NOT BETWEEN 55296 AND 57343 LOOP
			EXECUTE format('SELECT bool_or(rsvp_sync.%I(v)) FROM unnest(ARRAY[$1, $1 || ''.com'', ''did:plc:'' || $1, ''at://did:plc:a#/'' || $1, ''3jui7kd54zh2'' || $1, ''2026-03-01T18:00:00'' || $1]) AS v', t)
				INTO accepted USING c;
			IF accepted THEN
				RAISE WARNING '% accepts U+%', t, to_hex(ascii(c));
			END IF;
		END LOOP;
	END LOOP;
END $$;

-- A megabyte takes milliseconds; the limit here leaves room for slow machines
CREATE TEMP TABLE megabyte AS
SELECT left(repeat(unit, 1000000), 1000000) AS value
FROM unnest(ARRAY['a', 'a.', '%', 'did:', 'at://', '2', ':', '/', '😀', '{"']) AS unit
UNION ALL SELECT '2026-03-01T18:00:00.' || repeat('1', 1000000)
UNION ALL SELECT '2026-03-01T18:00:00.' || repeat('1', 1000000) || 'Z'
UNION ALL SELECT 'at://did:plc:abc#/' || repeat('/', 1000000);
DO $$
DECLARE
	t text;
	began timestamptz;
BEGIN
	FOR t IN SELECT test FROM tests LOOP
		began := clock_timestamp();
		EXECUTE format('SELECT count(rsvp_sync.%I(value)) FROM megabyte', t);
		IF clock_timestamp() - began > interval '50 ms' * (SELECT count(*) FROM megabyte) THEN
			RAISE WARNING '% is slow: %', t, clock_timestamp() - began;
		END IF;
	END LOOP;
END $$;

-- NULL is NULL
SELECT rsvp_sync.is_at_uri(NULL), rsvp_sync.is_did(NULL), rsvp_sync.is_tid(NULL);

-- In a constraint, in a generated column, in an index
CREATE TEMP TABLE account (
	did text CHECK (rsvp_sync.is_did(did)),
	uri text,
	authority text GENERATED ALWAYS AS ((rsvp_sync.parse_at_uri(uri)).authority) STORED);
CREATE INDEX ON account ((rsvp_sync.is_at_uri(uri)));
INSERT INTO account VALUES ('did:plc:abc', 'at://did:plc:abc/com.example.x') RETURNING *;
INSERT INTO account VALUES ('nobody', NULL);

-- TIDs are what they should be, grow with every call, and tell the time
SELECT count(*) AS tids, count(DISTINCT tid) AS different,
	bool_and(rsvp_sync.is_tid(tid)) AS valid, bool_and(grows) AS growing
FROM (SELECT tid, coalesce(tid COLLATE "C" > lag(tid) OVER (ORDER BY n), true) AS grows
	FROM (SELECT n, rsvp_sync.tid_now() AS tid FROM generate_series(1, 20000) AS n) AS t) AS s;
SELECT abs(extract(epoch FROM clock_timestamp()) - micros / 1000000) < 60 AS present
FROM (SELECT trunc(sum((strpos('234567abcdefghijklmnopqrstuvwxyz', substr(tid, i, 1)) - 1)
		* 32::numeric ^ (13 - i)) / 1024) AS micros
	FROM (SELECT rsvp_sync.tid_now() AS tid OFFSET 0) AS t, generate_series(1, 13) AS i) AS s;
