/*
 * Comparing a source as a whole: what is desired of every row with what is
 * known of the network.  A pass goes through the attendance table in the order
 * of its primary key, a slice at a time, and then through the intents, for
 * rows that are no longer there.  In a slice one join finds the rows that may
 * differ; only these are planned.
 *
 * reconcile() makes a whole pass at once; the worker of src/reconcile.c makes
 * one slice a transaction and keeps its place in _pass.
 */

/* One row per source: how far its comparison is, and what the last one found. */
CREATE TABLE rsvp_sync._pass (
	source_id bigint PRIMARY KEY
		REFERENCES rsvp_sync._source ON DELETE CASCADE,
	phase text CHECK (phase IN ('rows', 'intents')),	-- NULL: none is under way
	position text,					-- the key up to which it is done; NULL: from the start
	matched bigint NOT NULL DEFAULT 0,	-- of intents whose row was met: hashes of their keys, xor
	crowded bigint[],				-- slots with several keys, by hash; NULL: each is looked up
	started_at timestamptz,
	seen bigint NOT NULL DEFAULT 0,	-- rows compared
	differing bigint NOT NULL DEFAULT 0,	-- keys put in
	finished_at timestamptz,		-- the last one that came to its end
	not_before timestamptz,			-- after an error
	error text
) WITH (fillfactor = 50);

/*
 * The application's part: statements over a range of keys, run as the owner of
 * the table by src/page.c.
 */

/*
 * Keys after $1 and up to $2, each an array with a text for each column, as a
 * WHERE clause; empty without bounds.
 */
CREATE FUNCTION rsvp_sync._page_range(relation oid, alias text,
	below boolean, above boolean, single text DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(' WHERE ' || string_agg(format('(%s) %s (%s)', k.names,
	b.operator, replace(k.parts, '$n', b.parameter)), ' AND '), '')
FROM (VALUES (below, '>', '$1'), (above, '<=', '$2'))
	AS b (wanted, operator, parameter)
CROSS JOIN (
	SELECT string_agg(format('%s.%I', alias, coalesce(single, c.name)), ', '
			ORDER BY c.place) AS names,
		string_agg(format('($n::pg_catalog.text[])[%s]::%s', c.place, c.type),
			', ' ORDER BY c.place) AS parts
	FROM rsvp_sync._key_columns(relation) c) k
WHERE b.wanted
$$;
COMMENT ON FUNCTION rsvp_sync._page_range(oid, text, boolean, boolean, text) IS
'private: a range of primary keys as a WHERE clause; single: what a query calls the only key column';

CREATE FUNCTION rsvp_sync._page_end_query(s rsvp_sync._source,
	below boolean)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
SELECT format('SELECT %1$s FROM %2$s a%3$s ORDER BY %1$s OFFSET $3 LIMIT 1',
	string_agg(format('a.%I', k.name), ', ' ORDER BY k.place),
	rsvp_sync._live_relation(rsvp_sync._relation_ref(s.attendance)),
	rsvp_sync._page_range(s.attendance, 'a', below, false))
FROM rsvp_sync._key_columns(s.attendance) k
$$;
COMMENT ON FUNCTION rsvp_sync._page_end_query(rsvp_sync._source, boolean) IS
'private: SELECT of the key $3 rows behind the first, or the first after key $1';

/* What a row was told, for the comparison with what it should say. */
CREATE FUNCTION rsvp_sync._told_columns(s rsvp_sync._source) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
WITH entry AS (
	SELECT w.key AS what, w.value ->> 'path' AS path,
		rsvp_sync._live_column('a', rsvp_sync._relation_ref(s.attendance),
			w.value -> 'column') AS name
	FROM jsonb_each(nullif(rsvp_sync._shape(s) -> 'writeback', 'null')) w
)
SELECT format('(%s) AS rsvp_sync_tellable, ', coalesce(
		/* Only an object has room for it, or nothing at all. */
		string_agg(DISTINCT format('coalesce(jsonb_typeof(%s::jsonb), '
			'''null'') IN (''null'', ''object'')', e.name), ' AND ')
			FILTER (WHERE e.path IS NOT NULL),
		(count(e.name) > 0)::text))
	|| (SELECT string_agg(format('%s AS rsvp_sync_told_%s', coalesce((
			SELECT CASE WHEN e.path IS NULL THEN format('%s::text', e.name)
				ELSE format('(%s::jsonb ->> %L)', e.name, e.path) END
			FROM entry e WHERE e.what = t.what), 'NULL::text'), t.what),
		', ' ORDER BY t.place)
	FROM unnest(ARRAY['uri', 'cid', 'rkey']) WITH ORDINALITY t (what, place))
FROM entry e
$$;
COMMENT ON FUNCTION rsvp_sync._told_columns(rsvp_sync._source) IS
'private: columns of an attendance row that its write-back fills: can it be told, uri, cid, rkey';

CREATE FUNCTION rsvp_sync._page_query(s rsvp_sync._source, below boolean,
	above boolean)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	query text;
	single text;
	result text;
BEGIN
	/* One that we have made has each row of the table, and names it. */
	IF s.kind IN ('plan', 'openmeet') THEN
		RETURN (SELECT rsvp_sync._generated_query(rsvp_sync._shape(s),
				format('%s, true, %s, ', string_agg(format('a.%I', k.name),
					', ' ORDER BY k.place), rsvp_sync._told_columns(s)))
			|| rsvp_sync._page_range(s.attendance, 'a', below, above)
			FROM rsvp_sync._key_columns(s.attendance) k);
	END IF;
	query := rsvp_sync._desired_query(s.source_id);
	/* The only column of a key has a name that every query may use. */
	SELECT 'attendance_id' INTO single
	FROM rsvp_sync._key_columns(s.attendance) k
	HAVING count(*) = 1 AND min(k.name) NOT IN (
		SELECT d.name FROM rsvp_sync._describe_query(s.attendance, query,
			s.search_path) d);
	SELECT format('SELECT %1$s, q.rsvp_sync_present IS NOT NULL,'
			' w.rsvp_sync_tellable, w.rsvp_sync_told_uri,'
			' w.rsvp_sync_told_cid, w.rsvp_sync_told_rkey, q.*'
			' FROM (SELECT %2$s, %3$s FROM %4$s a%5$s) w'
			' LEFT JOIN (SELECT q.*, true AS rsvp_sync_present FROM (%6$s'
			|| E'\n) q%7$s) q ON %8$s',
		string_agg('w.rsvp_sync_key_' || k.place, ', ' ORDER BY k.place),
		string_agg(format('a.%I AS rsvp_sync_key_%s', k.name, k.place), ', '
			ORDER BY k.place),
		rsvp_sync._told_columns(s),
		rsvp_sync._live_relation(rsvp_sync._relation_ref(s.attendance)),
		rsvp_sync._page_range(s.attendance, 'a', below, above),
		query,
		rsvp_sync._page_range(s.attendance, 'q', below, above, single),
		string_agg(format('q.%I = w.rsvp_sync_key_%s',
			coalesce(single, k.name), k.place), ' AND '))
	INTO result
	FROM rsvp_sync._key_columns(s.attendance) k;
	RETURN result;
END
$$;
COMMENT ON FUNCTION rsvp_sync._page_query(rsvp_sync._source, boolean, boolean) IS
'private: SELECT of attendance rows after key $1 and up to key $2, each with what it was told and what is desired of it';

CREATE FUNCTION rsvp_sync._present_query(s rsvp_sync._source) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
SELECT format(CASE WHEN count(*) = 1
		THEN 'SELECT %1$s FROM %2$s a WHERE %1$s = ANY ($1::text[]::%3$s[])'
		ELSE 'SELECT %1$s FROM %2$s a JOIN unnest($1::text[]) k (key)'
			' ON %4$s' END,
	string_agg(format('a.%I', k.name), ', ' ORDER BY k.place),
	rsvp_sync._live_relation(rsvp_sync._relation_ref(s.attendance)),
	min(k.type),
	string_agg(format('a.%I = (k.key::jsonb ->> %s)::%s', k.name,
		k.place - 1, k.type), ' AND '))
FROM rsvp_sync._key_columns(s.attendance) k
$$;
COMMENT ON FUNCTION rsvp_sync._present_query(rsvp_sync._source) IS
'private: SELECT of those of the keys $1 that have an attendance row';

CREATE FUNCTION rsvp_sync._page_end(source_id bigint, after text,
	at_most integer)
RETURNS text
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_page_end';
COMMENT ON FUNCTION rsvp_sync._page_end(bigint, text, integer) IS
'private: the key that ends a page of that many attendance rows after this key (NULL: from the first); NULL if there are fewer';

CREATE FUNCTION rsvp_sync._page(source_id bigint, after text, until text)
RETURNS TABLE (key text, present boolean, tellable boolean, told_uri text,
	told_cid text, told_rkey text, did text, event_uri text, status text,
	withheld text, on_withheld text, starts_at timestamptz,
	ends_at timestamptz)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_page';
COMMENT ON FUNCTION rsvp_sync._page(bigint, text, text) IS
'private: attendance rows after one key and up to another (NULL: without bound), whether the desired query has them, what they were told and what is desired; run as the table''s owner, security-restricted';

CREATE FUNCTION rsvp_sync._present(source_id bigint, keys text[])
RETURNS SETOF text
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_present';
COMMENT ON FUNCTION rsvp_sync._present(bigint, text[]) IS
'private: those of the keys that have an attendance row, whatever the query says of them';

/*
 * The comparison.
 */

/* Of these keys those whose decision differs from what is recorded. */
CREATE FUNCTION rsvp_sync._differing(of_source bigint, keys text[])
RETURNS SETOF text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT e.key
FROM rsvp_sync._evaluate(of_source, keys, true) e
CROSS JOIN LATERAL rsvp_sync._standing(e) x
/*
 * Does it still want what it wanted when that was recorded?  To have lost its
 * account, or got another, is no other wish.
 */
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM rsvp_sync._intent i
	WHERE i.source_id = of_source AND i.key = e.key
		AND (i.live = (e.d).live OR NOT (e.s).granted)
		AND (i.local, i.did, i.event_uri) IS NOT DISTINCT FROM
			((e.s).local, e.did, e.event_uri)) AS same) wish
WHERE NOT EXISTS (SELECT FROM rsvp_sync._queue q
		WHERE q.source_id = of_source AND q.key = e.key)
	/* Of what was discarded only a change of the row speaks again. */
	AND ((e.old_state, e.old_reason_code)
			IS DISTINCT FROM ('failed', 'discarded')
		OR NOT (e.s).present OR NOT wish.same)
	AND CASE (e.d).action
		/* The base follows what both sides agree on by now. */
		WHEN 'none' THEN (x.state, CASE
				/* Both agree, and who said it first is no difference. */
				WHEN x.code = 'published' AND e.old_reason_code = 'from_network'
				THEN e.old_reason_code ELSE x.code END, (e.d).bond)
				IS DISTINCT FROM (e.old_state, e.old_reason_code, (e.s).bond)
			/* Where nothing is there and nothing wanted, no base matters. */
			OR ((e.d).live OR (e.d).bond IS NOT NULL)
				AND ((e.d).base_local, (e.d).base_cid)
				IS DISTINCT FROM ((e.s).base_local, (e.s).base_cid)
			OR (e.from_key IS NOT NULL AND (e.d).live)
			/* Replaced by one of the same content. */
			OR ((e.d).bond IS NOT NULL AND (e.d).rkey IS DISTINCT FROM e.rkey)
		WHEN 'wait' THEN (x.state, x.code)
			IS DISTINCT FROM (e.old_state, e.old_reason_code)
		WHEN 'hold' THEN (x.state, x.code)
			IS DISTINCT FROM (e.old_state, e.old_reason_code)
		/* What was given up is not tried again for the same wish. */
		ELSE (e.old_state IS DISTINCT FROM 'failed' OR NOT wish.same)
			AND (e.old_reason_code IS DISTINCT FROM 'dry_run'
				OR current_setting('rsvp_sync.mode') = 'live') END
$$;
COMMENT ON FUNCTION rsvp_sync._differing(bigint, text[]) IS
'private: of these keys of a source (NULL: of all) those that are not as they should be, each planned. Write-backs are not looked at.';

CREATE FUNCTION rsvp_sync._is_record_of_did(uri text) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_record_of_did';
COMMENT ON FUNCTION rsvp_sync._is_record_of_did(text) IS
'private: is this the at-uri of a record in a DID''s repository?';

/*
 * Slots in which several keys could meet, of all sources.  One look at all
 * intents costs less than a look-up for each key, where the source has a good
 * part of them and few of its keys do meet.
 */
CREATE FUNCTION rsvp_sync._crowded_digests(at_most_kb integer)
RETURNS bigint[]
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_crowded_slots';
COMMENT ON FUNCTION rsvp_sync._crowded_digests(integer) IS
'private: digests of the slots, of all sources, with more than one key of which one has, wants or may have a record; NULL: there are more than a hundred, or it would need more kilobytes';

CREATE FUNCTION rsvp_sync._crowded_slots(of_source bigint)
RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part bigint := (SELECT greatest(c.reltuples / 4, 1) FROM pg_class c
		WHERE c.oid = 'rsvp_sync._intent'::regclass);
BEGIN
	/* Of many millions it would be a long statement. */
	IF part > 1250000 OR part > (SELECT count(*) FROM (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = of_source LIMIT part) k)
	THEN
		RETURN NULL;
	END IF;
	RETURN rsvp_sync._crowded_digests(131072);
END
$$;
COMMENT ON FUNCTION rsvp_sync._crowded_slots(bigint) IS
'private: what _crowded_digests() says; NULL where it is better to look slots up key by key';

/*
 * Records that are known, for a pass that is made at once: one look at all of
 * them costs less than a look-up for each row, if they are not many more.
 */
CREATE FUNCTION rsvp_sync._record_digests(at_most_kb integer) RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_record_digests';
COMMENT ON FUNCTION rsvp_sync._record_digests(integer) IS
'private: reads digests of (did, rkey, cid) of all observed records, for _compare_page(), and keeps them until the transaction ends or it is called again: a number by which they are asked; NULL: it would need more kilobytes';

CREATE FUNCTION rsvp_sync._known_records(of_source bigint) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part bigint := (SELECT greatest(c.reltuples / 4, 1) FROM pg_class c
		WHERE c.oid = 'rsvp_sync._observed'::regclass);
BEGIN
	IF part > (SELECT count(*) FROM (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = of_source AND i.bond IS NOT NULL LIMIT part) k)
	THEN
		RETURN NULL;
	END IF;
	RETURN rsvp_sync._record_digests(65536);
END
$$;
COMMENT ON FUNCTION rsvp_sync._known_records(bigint) IS
'private: what _record_digests() says; NULL where it is better to look records up key by key';

/*
 * What a row, its intent and its record say is compared for the cases that
 * most rows are in (src/compare.c); whatever is in none of them is suspected.
 * For each row looked up by index, as a slice is small beside the tables.
 */
CREATE FUNCTION rsvp_sync._compare_page(source_id bigint, after text,
	until text, words text[], locals text[], past_too boolean, tells text[],
	leaving text[], forgotten boolean, crowded bigint[], records bigint,
	OUT seen bigint, OUT matched bigint, OUT suspects text[], OUT erased text[])
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_compare_page';
COMMENT ON FUNCTION rsvp_sync._compare_page(bigint, text, text, text[], text[], boolean, text[], text[], boolean, bigint[], bigint) IS
'private: compares the attendance rows after one key and up to another (NULL: without bound) with what is recorded. words, locals: the status map; tells: what is written back; leaving: dids whose users take leave; forgotten: are there any who were; crowded, records: what _crowded_slots() and _known_records() said. matched: xor of hashes of the keys that have an intent; suspects: keys to be planned; erased: those whose row has not what it was told';

/* One page of rows; those that are suspected are planned. */
CREATE FUNCTION rsvp_sync._compare_rows(of_source bigint, after text,
	at_most integer, crowded bigint[], records bigint, OUT until text,
	OUT seen bigint, OUT matched bigint, OUT differing text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
	src rsvp_sync._source;
	page record;
BEGIN
	SELECT * INTO STRICT src FROM rsvp_sync._source s
	WHERE s.source_id = of_source;
	until := rsvp_sync._page_end(of_source, after, at_most);

	SELECT c.* INTO STRICT page
	FROM (SELECT coalesce(array_agg(m.key), '{}') AS words,
			coalesce(array_agg(m.value), '{}') AS locals
		FROM jsonb_each_text(rsvp_sync._status_map(of_source)) m) map
	CROSS JOIN LATERAL rsvp_sync._compare_page(of_source, after, until,
		map.words, map.locals,
		coalesce((src.options ->> 'publish_past_events')::boolean, false),
		ARRAY(SELECT jsonb_object_keys(nullif(
			rsvp_sync._shape(src) -> 'writeback', 'null'))),
		ARRAY(SELECT a.did FROM rsvp_sync._account a
			WHERE a.leaving IS NOT NULL),
		EXISTS (SELECT FROM rsvp_sync._forgotten), crowded, records) c;
	seen := page.seen;
	matched := page.matched;
	differing := ARRAY(SELECT rsvp_sync._differing(of_source, page.suspects)
		WHERE page.suspects <> '{}'
		UNION
		SELECT k FROM unnest(page.erased) k
		WHERE NOT EXISTS (SELECT FROM rsvp_sync._queue q
			WHERE q.source_id = of_source AND q.key = k));
END
$$;
COMMENT ON FUNCTION rsvp_sync._compare_rows(bigint, text, integer, bigint[], bigint) IS
'private: compares the attendance rows after a key (NULL: from the first), at most so many; crowded, records: what _crowded_slots() and _known_records() said. until: the last key of them, NULL if it was the rest; matched: xor of hashes of the keys that have an intent; differing: keys that are not as they should be';

/* One page of intents: those whose row is gone. */
CREATE FUNCTION rsvp_sync._compare_intents(of_source bigint, after text,
	at_most integer, OUT until text, OUT differing text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
	keys text[];
BEGIN
	IF after IS NULL THEN
		keys := ARRAY(SELECT i.key FROM rsvp_sync._intent i
			WHERE i.source_id = of_source ORDER BY i.key LIMIT at_most);
	ELSE
		keys := ARRAY(SELECT i.key FROM rsvp_sync._intent i
			WHERE i.source_id = of_source AND i.key > after
			ORDER BY i.key LIMIT at_most);
	END IF;
	until := keys[at_most];
	/* A source that is being detached wants nothing, rows or not. */
	IF EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.source_id = of_source AND s.state <> 'detaching') THEN
		keys := ARRAY(SELECT k FROM unnest(keys) k
			EXCEPT SELECT rsvp_sync._present(of_source, keys));
	END IF;
	differing := ARRAY(SELECT rsvp_sync._differing(of_source, keys)
		WHERE keys <> '{}');
END
$$;
COMMENT ON FUNCTION rsvp_sync._compare_intents(bigint, text, integer) IS
'private: looks for rows that are gone among the intents after a key, at most so many. until: the last of these, NULL if it was the rest';

/* The intents are looked through only if there are others than were met. */
CREATE FUNCTION rsvp_sync._all_matched(of_source bigint, matched bigint)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(bit_xor(hashtextextended(i.key, 0)), 0) = matched
FROM rsvp_sync._intent i WHERE i.source_id = of_source
$$;
COMMENT ON FUNCTION rsvp_sync._all_matched(bigint, bigint) IS
'private: does every intent of a source have a row, by the hashes of those that do?';

/* The next slice of a pass.  Its end: phase is NULL again. */
CREATE FUNCTION rsvp_sync._next_slice(INOUT pass rsvp_sync._pass,
	at_most integer, records bigint DEFAULT NULL, OUT differing text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slice record;
BEGIN
	IF pass.phase IS NULL THEN
		pass.phase := 'rows';
		pass.position := NULL;
		pass.matched := 0;
		pass.crowded := rsvp_sync._crowded_slots(pass.source_id);
		pass.started_at := clock_timestamp();
		pass.seen := 0;
		pass.differing := 0;
	END IF;
	IF pass.phase = 'intents' THEN
		SELECT * INTO slice FROM rsvp_sync._compare_intents(pass.source_id,
			pass.position, at_most);
		pass.phase := CASE WHEN slice.until IS NOT NULL THEN 'intents' END;
	ELSIF EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.source_id = pass.source_id AND s.state = 'detaching') THEN
		/* It does not matter what its rows say. */
		SELECT NULL::text AS until, '{}'::text[] AS differing INTO slice;
		pass.phase := 'intents';
	ELSE
		SELECT * INTO slice FROM rsvp_sync._compare_rows(pass.source_id,
			pass.position, at_most, pass.crowded, records);
		slice.differing := ARRAY(SELECT unnest(slice.differing)
			UNION SELECT unnest(rsvp_sync._differing_mentions(pass.source_id,
				pass.position, slice.until)));
		pass.seen := pass.seen + slice.seen;
		pass.matched := pass.matched # slice.matched;
		pass.phase := CASE WHEN slice.until IS NOT NULL THEN 'rows'
			WHEN NOT rsvp_sync._all_matched(pass.source_id, pass.matched)
			THEN 'intents' END;
	END IF;
	pass.position := slice.until;
	differing := slice.differing;
	pass.differing := pass.differing + cardinality(differing);
	IF pass.phase IS NULL THEN
		pass.finished_at := clock_timestamp();
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._next_slice(rsvp_sync._pass, integer, bigint) IS
'private: one slice of a pass over a source; records: what _known_records() said, if it was asked: where the pass stands after it (phase NULL: at its end) and the keys that are not as they should be';

/* A whole pass at once. */
CREATE FUNCTION rsvp_sync._differences(of_source bigint)
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pass rsvp_sync._pass;
	records bigint := rsvp_sync._known_records(of_source);
	slice record;
BEGIN
	pass.source_id := of_source;
	LOOP
		SELECT * INTO slice
		FROM rsvp_sync._next_slice(pass, 20000, records);
		pass := slice.pass;
		RETURN QUERY SELECT unnest(slice.differing);
		EXIT WHEN pass.phase IS NULL;
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._differences(bigint) IS
'private: keys of a source that are not as they should be, whole table';

CREATE FUNCTION rsvp_sync._reconcile(caller oid, attendance regclass)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
	found_keys bigint;
	total bigint := 0;
BEGIN
	IF attendance IS NOT NULL THEN
		PERFORM rsvp_sync._source_of(attendance);
		PERFORM rsvp_sync._check_owner(caller, attendance);
	END IF;
	FOR src IN SELECT s.* FROM rsvp_sync._source s
		JOIN pg_class c ON c.oid = s.attendance
		WHERE (_reconcile.attendance IS NULL
				OR s.attendance = _reconcile.attendance)
			AND s.state <> 'paused'
			AND pg_has_role(caller, c.relowner, 'USAGE')
		ORDER BY s.source_id
	LOOP
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT src.source_id, d, 'l'
		FROM rsvp_sync._differences(src.source_id) d;
		GET DIAGNOSTICS found_keys = ROW_COUNT;
		total := total + found_keys;
		PERFORM rsvp_sync._events_changed(src.source_id);
		PERFORM rsvp_sync._read_source(src);
	END LOOP;
	RETURN total;
END
$$;
COMMENT ON FUNCTION rsvp_sync._reconcile(oid, regclass) IS
'private: reconcile() for a caller.';

CREATE FUNCTION rsvp_sync.reconcile(attendance regclass DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_reconcile';
COMMENT ON FUNCTION rsvp_sync.reconcile(regclass) IS
'Compares a whole source (NULL: all of the caller''s) and puts every key in that is not as it should be, at low priority. Returns how many. Errors: undefined_object, insufficient_privilege.';

/*
 * In the background
 */

/* Enough for the worker to do, without more of it? */
CREATE FUNCTION rsvp_sync._is_backlogged(of_source bigint, at_most integer)
RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT (SELECT count(*) FROM (SELECT FROM rsvp_sync._queue q
		WHERE q.source_id = of_source AND q.due_at <= now()
		LIMIT at_most) k)
	+ (SELECT count(*) FROM (SELECT FROM rsvp_sync._change_log l
		WHERE l.source_id = of_source AND l.op = 'l' LIMIT at_most) k)
	>= at_most
$$;
COMMENT ON FUNCTION rsvp_sync._is_backlogged(bigint, integer) IS
'private: do so many keys of a source wait to be planned now that no more are to be put in?';

/*
 * The source whose slice comes next: one whose pass is under way, else the one
 * that has waited longest.  The interval runs from the end of the last pass
 * and is stretched or shortened by up to a tenth, the first one by up to a
 * half, so that tables attached together are not compared together.
 */
CREATE FUNCTION rsvp_sync._reconcile_due(backlog integer) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT s.source_id
FROM rsvp_sync._source s
LEFT JOIN rsvp_sync._pass p ON p.source_id = s.source_id
CROSS JOIN LATERAL (SELECT
	extract(epoch FROM current_setting('rsvp_sync.reconcile_interval')
		::interval)::float8 AS seconds,
	(hashint8extended(s.source_id,
		coalesce(extract(epoch FROM p.finished_at), 0)::bigint) & 1023)
		/ 1024.0 AS chance) i
WHERE i.seconds > 0 AND s.state = 'active'
	AND (s.retry_at IS NULL OR s.retry_at <= now())
	AND (p.not_before IS NULL OR p.not_before <= now())
	AND (p.phase IS NOT NULL
		OR coalesce(p.finished_at, s.attached_at) + make_interval(secs =>
			i.seconds * CASE WHEN p.finished_at IS NULL
				THEN 0.5 + 0.6 * i.chance ELSE 0.9 + 0.2 * i.chance END)
			<= now())
	AND current_setting('rsvp_sync.mode') <> 'off'
	AND NOT EXISTS (SELECT FROM rsvp_sync._pause a WHERE a.subject = '*')
	AND NOT rsvp_sync._copied()
	AND NOT rsvp_sync._is_backlogged(s.source_id, backlog)
ORDER BY p.phase IS NULL, p.finished_at NULLS FIRST, s.source_id
LIMIT 1
$$;
COMMENT ON FUNCTION rsvp_sync._reconcile_due(integer) IS
'private: the source to be compared now, of those with fewer keys waiting than this; NULL if there is none';

/* One slice, its keys put in, and the place kept; in the caller's transaction. */
CREATE FUNCTION rsvp_sync._reconcile_slice(of_source bigint,
	at_most integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old_pass rsvp_sync._pass;
	new_pass rsvp_sync._pass;
	slice record;
BEGIN
	INSERT INTO rsvp_sync._pass (source_id) VALUES (of_source)
	ON CONFLICT DO NOTHING;
	SELECT * INTO STRICT old_pass FROM rsvp_sync._pass p
	WHERE p.source_id = of_source;
	SELECT * INTO slice FROM rsvp_sync._next_slice(old_pass, at_most);
	new_pass := slice.pass;
	IF slice.differing <> '{}' THEN
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT of_source, k, 'l' FROM unnest(slice.differing) k;
	END IF;
	/* The pass is over. */
	IF new_pass.phase IS NULL THEN
		PERFORM rsvp_sync._events_changed(of_source);
		PERFORM rsvp_sync._read_source(s) FROM rsvp_sync._source s
		WHERE s.source_id = of_source;
	END IF;
	UPDATE rsvp_sync._pass p SET phase = new_pass.phase,
		position = new_pass.position, matched = new_pass.matched,
		crowded = new_pass.crowded,
		started_at = new_pass.started_at, seen = new_pass.seen,
		differing = new_pass.differing, finished_at = new_pass.finished_at,
		not_before = NULL, error = NULL
	WHERE p.source_id = of_source;
END
$$;
COMMENT ON FUNCTION rsvp_sync._reconcile_slice(bigint, integer) IS
'private: compares the next slice of a source, at most so many rows, and puts the keys in that are not as they should be';

/*
 * A slice could not be compared.  What passes by itself is tried again where
 * it was.  A query that is too slow even for a few rows together may do for
 * one: that is no reason to stop its source.  Anything else may mean other
 * keys, so the pass begins anew.
 */
CREATE FUNCTION rsvp_sync._reconcile_failed(of_source bigint, code text,
	message text, passing boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT passing AND code <> '57014' THEN
		PERFORM rsvp_sync._source_failed(of_source, code, message);
	END IF;
	INSERT INTO rsvp_sync._pass AS p (source_id, not_before, error)
	VALUES (of_source, CASE WHEN NOT passing THEN now() + CASE code
			WHEN '57014' THEN interval '10 minutes'
			ELSE interval '1 minute' END END,
		format('%s (SQLSTATE %s)', message, code))
	ON CONFLICT (source_id) DO UPDATE SET
		phase = CASE WHEN passing OR code = '57014' THEN p.phase END,
		not_before = excluded.not_before, error = excluded.error;
END
$$;
COMMENT ON FUNCTION rsvp_sync._reconcile_failed(bigint, text, text, boolean) IS
'private: records that a slice of a source could not be compared; passing: a lock or a time limit was in the way, and it is tried again at once';
