/*
 * Finding attendees by what their metadata says.
 *
 * The search runs in C as the caller (src/find.c).  What it needs to know
 * about a source it gets from the two functions below, which it calls as the
 * extension's owner; they tell column numbers, and nothing of any row.
 */

/* Attached tables that are still there, in the order of the result. */
CREATE FUNCTION rsvp_sync._find_sources() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.attendance::oid
	FROM rsvp_sync._source s
	JOIN pg_class c ON c.oid = s.attendance
	WHERE s.kind <> 'explicit'		-- it has no metadata
	ORDER BY s.source_id
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_sources() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_sources() IS
'private: the tables in which attendees can be searched for';

/*
 * A source's columns by number.  Where the schema is not recognised, they go
 * by their names.
 */
CREATE FUNCTION rsvp_sync._find_source(relation oid, OUT source_id bigint,
	OUT tenant text, OUT metadata smallint, OUT indexed boolean,
	OUT key smallint[], OUT event smallint[], OUT usr smallint[],
	OUT status smallint[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	shape jsonb;
BEGIN
	SELECT * INTO s FROM rsvp_sync._source f WHERE f.attendance = relation;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	shape := rsvp_sync._shape(s);
	source_id := s.source_id;
	tenant := s.tenant;
	metadata := (SELECT a.attnum FROM pg_attribute a
		WHERE a.attrelid = relation AND NOT a.attisdropped
			AND a.attnum = (shape #>> '{metadata,0}')::smallint);
	indexed := NOT EXISTS (SELECT FROM rsvp_sync._find_unindexed(relation,
		metadata));
	key := ARRAY(SELECT k.attnum FROM rsvp_sync._key_columns(relation) k
		ORDER BY k.place);
	event := rsvp_sync._find_columns(relation, shape #> '{event,via}',
		'event_id');
	usr := rsvp_sync._find_columns(relation, shape #> '{user,via}',
		'user_id');
	status := rsvp_sync._find_columns(relation,
		jsonb_build_array(shape -> 'status'), 'status');
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_source(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_source(oid) IS
'private: what a search in an attached table needs to know; all NULL if it is not attached';

/* Columns of a shape that are still there, else the one of that name. */
CREATE FUNCTION rsvp_sync._find_columns(relation oid, refs jsonb, name text)
RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(array_agg(a.attnum ORDER BY r.place), '{}')
	FROM jsonb_array_elements(coalesce(nullif(refs, '[null]'),
			jsonb_build_array(rsvp_sync._column_ref(relation, name))))
		WITH ORDINALITY AS r (ref, place)
	JOIN pg_attribute a ON a.attrelid = relation
		AND a.attnum = (r.ref ->> 0)::smallint AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_columns(oid, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_columns(oid, jsonb, text) IS
'private: numbers of the columns that a search returns under one name';

/*
 * Where "metadata @> …" cannot be answered by index.  A partitioned table's
 * index is valid when all its partitions have theirs; tables that merely
 * inherit are asked one by one.
 */
CREATE FUNCTION rsvp_sync._find_unindexed(relation oid, attnum smallint)
RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE tree (relid) AS (
		SELECT relation
		UNION
		SELECT i.inhrelid
		FROM tree t
		JOIN pg_class c ON c.oid = t.relid AND c.relkind <> 'p'
		JOIN pg_inherits i ON i.inhparent = t.relid)
	SELECT t.relid
	FROM pg_attribute m
	CROSS JOIN tree t
	JOIN pg_attribute a ON a.attrelid = t.relid AND a.attname = m.attname
	WHERE m.attrelid = relation AND m.attnum = $2
		AND rsvp_sync._metadata_index(t.relid, a.attnum) IS NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_unindexed(oid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_unindexed(oid, smallint) IS
'private: the table itself, or tables that inherit from it, if they lack a valid GIN index over this column';

/* For the hint.  It tells no more than whoever may read the table knows. */
CREATE FUNCTION rsvp_sync._find_index_ddl(relation oid, attnum smallint)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(CASE WHEN c.oid = relation
		THEN rsvp_sync._index_ddl(c.relowner, c.oid::regclass)
		ELSE format('CREATE INDEX CONCURRENTLY ON %s '
			'USING gin (%I jsonb_path_ops) WITH (fastupdate = off);',
			rsvp_sync._live_relation(rsvp_sync._relation_ref(c.oid)),
			m.attname) END, E'\n' ORDER BY c.oid <> relation, c.oid)
	FROM rsvp_sync._find_unindexed(relation, $2) AS u (relid)
	JOIN pg_class c ON c.oid = u.relid
	JOIN pg_attribute m ON m.attrelid = relation AND m.attnum = $2
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_index_ddl(oid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_index_ddl(oid, smallint) IS
'private: the statements that build what a search is missing, whoever asks';

/*
 * The doors.  user_id is there as text and as bigint, so that neither a
 * parameter nor a literal needs a cast.
 */

CREATE FUNCTION rsvp_sync.find_attendees_by_metadata(key text, value text,
	user_id text DEFAULT NULL)
RETURNS TABLE (source_id bigint, attendance regclass, tenant text,
	attendance_id text, event_id text, user_id text, status text,
	metadata jsonb)
LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'rsvp_sync_find';
REVOKE ALL ON FUNCTION rsvp_sync.find_attendees_by_metadata(text, text, text)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.find_attendees_by_metadata(text, text, text) IS
'attendees, in every attached table that the caller may read, whose metadata has this value under this key. key: a top-level key, taken by the letter; value: compared as text, and as the JSON number or boolean it may be, too; user_id: only this user''s, compared with the text of the column. NULL key or value finds nothing. Errors: object_not_in_prerequisite_state (no valid index; the hint has the DDL), undefined_column (user_id given, and a row found in a table without such a column)';

CREATE FUNCTION rsvp_sync.find_attendees_by_metadata(key text, value text,
	user_id bigint)
RETURNS TABLE (source_id bigint, attendance regclass, tenant text,
	attendance_id text, event_id text, user_id text, status text,
	metadata jsonb)
LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'rsvp_sync_find_bigint';
REVOKE ALL ON FUNCTION rsvp_sync.find_attendees_by_metadata(text, text,
	bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.find_attendees_by_metadata(text, text,
	bigint) IS
'the same with user_id as a number, so that it needs no cast. Errors: as above';

CREATE FUNCTION rsvp_sync.find_attendees_by_metadata(row_type anyelement,
	key text, value text, user_id text DEFAULT NULL) RETURNS SETOF anyelement
LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'rsvp_sync_find_rows';
REVOKE ALL ON FUNCTION rsvp_sync.find_attendees_by_metadata(anyelement,
	text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.find_attendees_by_metadata(anyelement,
	text, text, text) IS
'the same in one attached table, whole rows as an ORM maps them. row_type: NULL, as the table''s row type: NULL::app.attendance. Errors: besides those above wrong_object_type (no row type of a table), undefined_object (not attached), undefined_column (no metadata), insufficient_privilege';

CREATE FUNCTION rsvp_sync.find_attendees_by_metadata(row_type anyelement,
	key text, value text, user_id bigint) RETURNS SETOF anyelement
LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10
AS 'MODULE_PATHNAME', 'rsvp_sync_find_rows_bigint';
REVOKE ALL ON FUNCTION rsvp_sync.find_attendees_by_metadata(anyelement,
	text, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.find_attendees_by_metadata(anyelement,
	text, text, bigint) IS
'the same in one attached table, with user_id as a number. Errors: as above';
