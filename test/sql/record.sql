-- The cid of a record: one encoding, one hash, one name.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
RESET client_min_messages;

-- An independent DRISL encoder for comparison, in SQL, for what needs no
-- special objects; sha256() is PostgreSQL's own.
CREATE FUNCTION pg_temp.head(major int, n bigint) RETURNS bytea LANGUAGE sql AS $$
	SELECT CASE
		WHEN n < 24 THEN set_byte('\x00', 0, (major * 32 + n)::int)
		WHEN n < 256 THEN set_byte('\x00', 0, major * 32 + 24) || substr(int8send(n), 8)
		WHEN n < 65536 THEN set_byte('\x00', 0, major * 32 + 25) || substr(int8send(n), 7)
		WHEN n < 4294967296 THEN set_byte('\x00', 0, major * 32 + 26) || substr(int8send(n), 5)
		ELSE set_byte('\x00', 0, major * 32 + 27) || int8send(n) END $$;
CREATE FUNCTION pg_temp.drisl(j jsonb) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	utf8 bytea;
	n bigint;
	parts bytea;
BEGIN
	CASE jsonb_typeof(j)
	WHEN 'null' THEN RETURN '\xf6';
	WHEN 'boolean' THEN RETURN CASE WHEN j::boolean THEN '\xf5'::bytea ELSE '\xf4' END;
	WHEN 'string' THEN
		utf8 := convert_to(j #>> '{}', 'UTF8');
		RETURN pg_temp.head(3, length(utf8)) || utf8;
	WHEN 'number' THEN
		n := j::numeric;
		RETURN CASE WHEN n < 0 THEN pg_temp.head(1, -1 - n) ELSE pg_temp.head(0, n) END;
	WHEN 'array' THEN
		SELECT string_agg(pg_temp.drisl(e), '' ORDER BY ord) INTO parts
		FROM jsonb_array_elements(j) WITH ORDINALITY AS a (e, ord);
		RETURN pg_temp.head(4, jsonb_array_length(j)) || coalesce(parts, '');
	ELSE
		SELECT count(*), string_agg(pg_temp.drisl(to_jsonb(key)) || pg_temp.drisl(value), ''
			ORDER BY octet_length(convert_to(key, 'UTF8')), convert_to(key, 'UTF8'))
		INTO n, parts FROM jsonb_each(j);
		RETURN pg_temp.head(5, n) || coalesce(parts, '');
	END CASE;
END $$;
CREATE FUNCTION pg_temp.cid(drisl bytea) RETURNS text LANGUAGE sql AS $$
	SELECT 'b' || string_agg(substr('abcdefghijklmnopqrstuvwxyz234567', 1 +
		substr(bits, i * 5 + 1, 5)::bit(5)::int, 1), '' ORDER BY i)
	FROM (SELECT string_agg(get_byte(b, k)::bit(8)::text, '' ORDER BY k) || '00' AS bits
		FROM (SELECT '\x01711220'::bytea || sha256(drisl) AS b) AS h, generate_series(0, 35) AS k) AS s,
		generate_series(0, 57) AS i $$;

-- An RSVP as it is sent
SELECT rsvp_sync.record_cid('{
	"$type": "community.lexicon.calendar.rsvp",
	"status": "community.lexicon.calendar.rsvp#going",
	"subject": {"uri": "at://did:plc:abc/community.lexicon.calendar.event/3jui7kd54zh2y",
		"cid": "bafyreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},
	"createdAt": "2026-03-01T18:00:00.000Z"}');

-- The same record, byte by byte: integers at every width, keys of every
-- length and order, text of every plane, empty and nested containers
CREATE TEMP TABLE record (name text, body jsonb);
INSERT INTO record VALUES
	('empty', '{}'),
	('constants', '{"n": null, "t": true, "f": false}'),
	('empty containers', '{"a": [], "o": {}, "s": "", "": 1}'),
	('key order', '{"bb": 1, "a": 2, "ab": 3, "c": 4, "aaa": 5, "B": 6, "ä": 7, "zz": 8, "😀": 9, "€": 10, "zzzz": 11}'),
	('planes', '{"text": "a ä € 中 😀 𝄞 \u0001 \" \\ \ud83d\udc4d\ud83c\udffd"}'),
	('nested', '{"a": [1, [2, [3, {"b": [{"c": null}]}]], {}]}');
INSERT INTO record
	SELECT 'integer ' || n, jsonb_build_object('n', n)
	FROM unnest(ARRAY[0, 1, 23, 24, 255, 256, 65535, 65536, 4294967295, 4294967296,
		9007199254740991, -1, -24, -25, -256, -257, -65536, -65537, -4294967296,
		-4294967297, -9007199254740991]) AS n;
INSERT INTO record
	SELECT 'text of ' || n, jsonb_build_object('s', repeat('x', n))
	FROM unnest(ARRAY[23, 24, 255, 256, 65535, 65536, 1000000]) AS n;
INSERT INTO record
	SELECT 'array of ' || n, jsonb_build_object('a', jsonb_agg(i))
	FROM unnest(ARRAY[23, 24, 256]) AS n, generate_series(1, n) AS i GROUP BY n;
INSERT INTO record
	SELECT 'map of ' || n, jsonb_object_agg('k' || i, i)
	FROM unnest(ARRAY[23, 24, 256]) AS n, generate_series(1, n) AS i GROUP BY n;
SELECT count(*) FROM record;
SELECT name FROM record
WHERE rsvp_sync.record_cid(body) IS DISTINCT FROM pg_temp.cid(pg_temp.drisl(body));

-- Order and spacing of the text do not matter, nor how an integer is written
SELECT count(DISTINCT rsvp_sync.record_cid(body::jsonb)) AS cids FROM unnest(ARRAY[
	'{"a":1,"b":100,"z":0}', '{"z": -0, "b": 1e2, "a": 1.0}', '{"b": 100.000, "z": 0.0, "a": 10e-1}',
	'{"a": 2, "a": 1, "b": 1.00E+2, "z": 0e9}']) AS body;

-- Links and bytes
SELECT rsvp_sync.record_cid('{"l": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}')
	= pg_temp.cid('\xa1616cd82a58250001551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855') AS link;
SELECT base64, rsvp_sync.record_cid(jsonb_build_object('b', jsonb_build_object('$bytes', base64)))
	= pg_temp.cid('\xa16162'::bytea || cbor) AS equal
FROM (VALUES ('', '\x40'::bytea), ('AA', '\x4100'), ('AA==', '\x4100'), ('AP8', '\x4200ff'),
	('AP8=', '\x4200ff'), ('AP//', '\x4300ffff'), ('+/+/AAAA', '\x46fbffbf000000')) AS t (base64, cbor);
SELECT rsvp_sync.record_cid('{"$type": "a.b.c", "img": {"$type": "blob", "size": 1, "mimeType": "image/png",
	"ref": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}}') IS NOT NULL AS blob;

-- What has no encoding is an error that names the field
CREATE FUNCTION pg_temp.complaint(body jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN rsvp_sync.record_cid(body);
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;
SELECT left(body, 70) AS body, pg_temp.complaint(body::jsonb) FROM unnest(ARRAY[
	'"text"', '1', 'null', '[]', '[{}]',
	'{"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}', '{"$bytes": ""}',
	'{"n": 1.5}', '{"n": 0.0000001}', '{"n": 1e-400}', '{"deep": [{"n": [1, 2.5]}]}',
	'{"n": 9007199254740992}', '{"n": -9007199254740992}', '{"n": 1e16}', '{"n": 1e1000}',
	'{"n": 9007199254740991.5}', '{"a": {"b": {}, "c": [1, 1e20]}}',
	'{"l": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk"}}',
	'{"l": {"$link": ""}}', '{"l": {"$link": null}}', '{"l": {"$link": {}}}',
	'{"l": {"$link": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG"}}',
	'{"l": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "x": 1}}',
	'{"b": {"$bytes": "A"}}', '{"b": {"$bytes": "A==="}}', '{"b": {"$bytes": "AA="}}', '{"b": {"$bytes": "AAA=="}}',
	'{"b": {"$bytes": "A=A="}}', '{"b": {"$bytes": "AA AA"}}', '{"b": {"$bytes": "_-8"}}',
	'{"b": {"$bytes": "===="}}', '{"b": {"$bytes": "="}}', '{"b": {"$bytes": 1}}', '{"b": {"$bytes": "", "x": 1}}',
	'{"t": {"$type": ""}}', '{"t": {"$type": 1}}', '{"$type": null}',
	'{"img": {"$type": "blob"}}',
	'{"img": {"$type": "blob", "size": 0, "mimeType": "a/b", "ref": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}}',
	'{"img": {"$type": "blob", "size": "1", "mimeType": "a/b", "ref": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}}',
	'{"img": {"$type": "blob", "size": 1, "mimeType": "", "ref": {"$link": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}}',
	'{"img": {"$type": "blob", "size": 1, "mimeType": "a/b", "ref": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}',
	'{"img": {"$type": "blob", "size": 1, "mimeType": "a/b", "ref": {"$link": "bafyreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"}}}'
	]) AS body;
SELECT rsvp_sync.record_cid('{"price": 9.5}');
SELECT rsvp_sync.record_cid('{"id": 12345678901234567890}');
SELECT rsvp_sync.record_cid('[]');

-- A long name is cut between characters
SELECT pg_temp.complaint(jsonb_build_object(repeat('ä', 1000), 1.5));

-- Nesting beyond the stack is an error, not a crash
DO $$
DECLARE
	body jsonb := '1';
BEGIN
	FOR i IN 1..3000 LOOP
		body := CASE WHEN i % 2 = 0 THEN jsonb_build_array(body) ELSE jsonb_build_object('a', body) END;
	END LOOP;
	body := jsonb_build_object('a', body);
	RAISE NOTICE '%', rsvp_sync.record_cid(body);
	SET LOCAL max_stack_depth = '100kB';
	PERFORM rsvp_sync.record_cid(body);
EXCEPTION WHEN statement_too_complex THEN
	RAISE NOTICE 'too deep';
END $$;

-- NULL is NULL; in a generated column
SELECT rsvp_sync.record_cid(NULL);
CREATE TEMP TABLE sent (body jsonb, cid text GENERATED ALWAYS AS (rsvp_sync.record_cid(body)) STORED);
INSERT INTO sent VALUES ('{"a": 1}') RETURNING cid;
