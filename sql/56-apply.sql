/*
 * Apply: RSVPs made elsewhere become attendance, as the table's owner.
 *
 * For a recognised schema with the statements of 56-apply-statements.sql, set
 * by set; or by the application's own function, one by one.  What the answer
 * to _apply() means, for each RSVP by its number:
 *
 *	key, no error		this attendance row now stands for it
 *	key '', no error	the event is known here, but there is no row and
 *						none was made: a withdrawn record of somebody who
 *						has none, or a stranger where shadow_users is off
 *	key NULL, no error	the event is not known here
 *	code 'surprise'		nothing was done: the row, key, is not the one that
 *						was expected, or has another status
 *	error, code			it could not be applied; code is the SQLSTATE
 */

CREATE FUNCTION rsvp_sync._apply(source bigint, dids text[],
	event_uris text[], statuses text[], rsvps text[],
	keys text[] DEFAULT '{}', seen text[] DEFAULT '{}')
RETURNS TABLE (n integer, key text, error text, code text, kept text)
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_apply';
REVOKE ALL ON FUNCTION rsvp_sync._apply(bigint, text[], text[], text[], text[],
	text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply(bigint, text[], text[], text[], text[], text[], text[]) IS
'private: applies RSVPs to a source''s attendance as its owner: dids (or an author''s url), event_uris, statuses (going, interested, notgoing; NULL: the record is gone), rsvps (json with uri, cid, rkey, status, record, handle, rev, source). A row for each: key, or '''' if the event is known and no row is needed, NULL if it is not known; or error with its SQLSTATE. keys, seen: the row that each was decided upon (NULL: none) and its status then (NULL: any); another one is left alone, code surprise. An apply function is called all the same. kept: the status of a row that is right as it is. Raises only what concerns the source as a whole';

CREATE FUNCTION rsvp_sync._known_events(source bigint, uris text[])
RETURNS TABLE (uri text, event_key text)
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_known_events';
REVOKE ALL ON FUNCTION rsvp_sync._known_events(bigint, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._known_events(bigint, text[]) IS
'private: which of these events a source''s application has, asked as its owner. No row: it does not have it. event_key NULL: that only its apply function can tell. A source that takes nothing in (a query of its own, without an apply function) has none';

CREATE FUNCTION rsvp_sync._told_row(source bigint, did text, uri text)
RETURNS text
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_told_row';
REVOKE ALL ON FUNCTION rsvp_sync._told_row(bigint, text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._told_row(bigint, text, text) IS
'private: which of a person''s attendance rows says that it stands for this record, asked as the table''s owner; NULL: none, or the schema is not recognised';

/* What is asked of us, in columns; did and url tell where it comes from. */
CREATE FUNCTION rsvp_sync._apply_facts(dids text[], event_uris text[],
	statuses text[], rsvps text[])
RETURNS TABLE (did text, event_uri text, status text, rsvp text,
	provider text, source text, handle text, source_id text, source_url text,
	source_data text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT q.did, q.uri, q.status, q.rsvp,
		CASE WHEN q.did LIKE 'did:%' THEN 'bluesky' ELSE f.other END,
		CASE WHEN q.uri LIKE 'at://%' THEN 'bluesky' ELSE f.other END,
		nullif(r.j ->> 'handle', ''), nullif(r.j ->> 'uri', ''),
		CASE WHEN r.j ->> 'uri' ~ '^https?://' THEN r.j ->> 'uri' END,
		nullif(jsonb_strip_nulls(jsonb_build_object(
			'rsvpCid', r.j -> 'cid', 'rkey', r.j -> 'rkey',
			'eventCid', coalesce(r.j -> 'eventCid',
				CASE WHEN jsonb_typeof(r.j #> '{record,subject}') = 'object'
				THEN r.j #> '{record,subject,cid}' END),
			'originalCreatedAt', r.j #> '{record,createdAt}')), '{}')::text
	FROM unnest(dids, event_uris, statuses, rsvps) WITH ORDINALITY
		AS q (did, uri, status, rsvp, n)
	CROSS JOIN LATERAL (SELECT coalesce(q.rsvp, '{}')::jsonb OFFSET 0) AS r (j)
	CROSS JOIN LATERAL (SELECT coalesce(lower(nullif(r.j ->> 'source', '')),
		'web')) AS f (other)
	ORDER BY q.n
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_facts(text[], text[], text[], text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_facts(text[], text[], text[], text[]) IS
'private: the arguments of _apply() in rows, with what apply reads from each rsvp';

/*
 * The word by which an attendance row says an answer.  A word that the
 * status_map option brings along comes before the usual one.
 */
CREATE FUNCTION rsvp_sync._apply_word(kind text, given jsonb, answer text,
	usual text, labels text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT w.word
	FROM (SELECT rsvp_sync._default_status_map(kind)) AS d (map)
	CROSS JOIN LATERAL (
		SELECT m.key, m.value, CASE WHEN NOT d.map ? m.key THEN 1
			WHEN m.key = usual THEN 2 ELSE 3 END, m.place
		FROM jsonb_each_text(d.map || given) WITH ORDINALITY
			AS m (key, value, place)) AS w (word, means, rank, place)
	WHERE w.means = answer AND (labels IS NULL OR w.word = ANY (labels))
		AND w.word NOT IN ('attended', 'pending', 'waitlist', 'invited',
			'rejected')
	ORDER BY w.rank, w.place
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_word(text, jsonb, text, text, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_word(text, jsonb, text, text, text[]) IS
'private: the application''s word for an answer, or NULL';

/* Everything src/apply.c keeps about a source, by name. */
CREATE FUNCTION rsvp_sync._apply_statements(source_id bigint)
RETURNS TABLE (name text, sql text, problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	shape jsonb;
	given jsonb;
	map jsonb;
	labels text[];
BEGIN
	SELECT * INTO STRICT s FROM rsvp_sync._source f
	WHERE f.source_id = _apply_statements.source_id;
	IF s.apply IS NOT NULL THEN
		RETURN QUERY SELECT 'function', format('SELECT %s($1::text,'
			' $2::text, $3::text, $4::text::jsonb)',
			regexp_replace(s.apply, '\([^(]*$', '')), NULL::text;
	END IF;
	IF s.kind NOT IN ('plan', 'openmeet') THEN
		RETURN;
	END IF;
	shape := rsvp_sync._shape(s);
	given := coalesce(s.options -> 'status_map', '{}');
	map := rsvp_sync._status_map(s.source_id);
	labels := rsvp_sync._labels(rsvp_sync._relation_ref(s.attendance),
		shape -> 'status');
	RETURN QUERY
		SELECT w.name, rsvp_sync._apply_word(s.kind, given, w.name, w.usual,
			labels), NULL::text
		FROM (VALUES ('going', 'confirmed'), ('interested', 'maybe'),
			('notgoing', 'cancelled')) AS w (name, usual)
		UNION ALL
		SELECT w.name, w.name, NULL FROM unnest('{pending,waitlist}'::text[])
			AS w (name) WHERE labels IS NULL OR w.name = ANY (labels)
		UNION ALL
		SELECT 'own_events', rsvp_sync._find_own_events(shape), NULL
		UNION ALL
		SELECT 'imported_events',
			rsvp_sync._find_imported_events(shape, true), NULL
		UNION ALL
		SELECT 'foreign_events',
			rsvp_sync._find_imported_events(shape, false), NULL;
	IF s.apply IS NOT NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
		SELECT 'identity', rsvp_sync._find_users_by_identity(shape),
			NULL::text
		UNION ALL SELECT 'users', rsvp_sync._find_users(shape), NULL
		UNION ALL SELECT 'create_users', c.sql, c.problem
			FROM rsvp_sync._create_users(shape) c
			WHERE coalesce((s.options ->> 'shadow_users')::boolean, true)
		UNION ALL SELECT 'users_table', shape #>> '{user,rel,0}', NULL
		UNION ALL SELECT 'keeps_authors', rsvp_sync._spare_column(NULL,
			shape #> '{user,rel}', shape #> '{apply,user,social}')
				|| rsvp_sync._spare_column(NULL, shape #> '{user,rel}',
					shape #> '{apply,user,provider}'), NULL
		UNION ALL SELECT 'members', rsvp_sync._find_members(shape), NULL
		UNION ALL SELECT 'told', rsvp_sync._find_told(shape), NULL
		UNION ALL SELECT 'attendance',
			rsvp_sync._find_attendance(shape, map), NULL
		UNION ALL SELECT 'count', rsvp_sync._count_going(shape, map), NULL
		UNION ALL SELECT 'update', rsvp_sync._update_attendance(shape), NULL
		UNION ALL SELECT 'insert', i.sql, i.problem
			FROM rsvp_sync._insert_attendance(shape) i;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_statements(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_statements(bigint) IS
'private: the statements and words by which a source''s RSVPs are applied; undefined_column or undefined_table where something they need is gone';
