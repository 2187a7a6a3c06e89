/*
 * From a source's shape: the shape itself, the look-up of the rows that
 * depend on a row of another table, and the write-back.
 */

/* A relation by name, as the caller of attach() would find it. */
CREATE FUNCTION rsvp_sync._find_relation(name text, search_path text[])
RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts text[] := parse_ident(name);
	rel oid;
BEGIN
	SELECT c.oid INTO rel
	FROM unnest(CASE WHEN cardinality(parts) = 1 THEN search_path
		ELSE parts[1:1] END) WITH ORDINALITY AS p (schema, place)
	JOIN pg_namespace n ON n.nspname = p.schema
	JOIN pg_class c ON c.relnamespace = n.oid
		AND c.relname = parts[cardinality(parts)]
	WHERE cardinality(parts) <= 2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		AND c.relpersistence <> 't'
	ORDER BY p.place
	LIMIT 1;
	RETURN rel;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_relation(text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_relation(text, text[]) IS
'private: a relation by name under a search path; NULL if there is none';

/* A stored search path as schema names. */
CREATE FUNCTION rsvp_sync._path_schemas(search_path text) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(array_agg(CASE WHEN m.part[1] LIKE '"%'
			THEN replace(substr(m.part[1], 2, length(m.part[1]) - 2), '""', '"')
			ELSE m.part[1] END ORDER BY m.place), '{}')
	FROM regexp_matches(search_path, '("(?:[^"]|"")*"|[^", ]+)', 'g')
		WITH ORDINALITY AS m (part, place)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._path_schemas(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._path_schemas(text) IS
'private: the schemas of a search path that was stored at attach';

/* Everything attach() finds out about a source, by numbers. */
CREATE FUNCTION rsvp_sync._make_shape(attendance regclass, kind text,
	desired text, key_names text[], options jsonb, search_path text[])
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	shape jsonb;
	meta text := options ->> 'metadata';
BEGIN
	IF kind IN ('plan', 'openmeet') THEN
		shape := rsvp_sync._recognise(attendance, meta);
		shape := shape || jsonb_build_object('apply',
			rsvp_sync._apply_shape(shape));
	ELSE
		shape := jsonb_build_object('kind', kind,
			'attendance', attendance::oid::bigint,
			'metadata', rsvp_sync._metadata_ref(attendance,
				coalesce(meta, 'metadata')),
			'view', CASE WHEN kind = 'view' THEN rsvp_sync._relation_ref(
				rsvp_sync._find_relation(desired, search_path)) END,
			'key', (SELECT jsonb_agg(jsonb_build_array(k.attnum,
					coalesce(key_names[k.place], k.name)) ORDER BY k.place)
				FROM rsvp_sync._key_columns(attendance) k));
	END IF;
	IF meta IS NOT NULL AND shape #>> '{metadata,0}' IS NULL THEN
		PERFORM rsvp_sync._bad_option('metadata', to_jsonb(meta),
			format('Table %s has no jsonb column "%s".', attendance, meta));
	END IF;
	RETURN shape || jsonb_build_object(
		'writeback',
		rsvp_sync._writeback_shape(attendance, shape, options),
		'depends',
		rsvp_sync._dependencies(attendance, shape, options, search_path));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._make_shape(regclass, text, text, text[],
	jsonb, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._make_shape(regclass, text, text, text[],
	jsonb, text[]) IS
'private: shape of a source; NULL if a schema is no longer recognised';

/*
 * A source's shape.  In a restored dump its numbers mean nothing: there the
 * schema is looked at anew.
 */
CREATE FUNCTION rsvp_sync._shape(source rsvp_sync._source) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	shape jsonb := source.shape;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = source.attendance) THEN
		RAISE EXCEPTION 'attendance table % is gone', source.attendance_name
			USING ERRCODE = 'undefined_table',
				HINT = 'rsvp_sync.detach_all() forgets such a source.';
	END IF;
	IF (shape ->> 'attendance')::oid = source.attendance THEN
		RETURN shape;
	END IF;
	shape := rsvp_sync._make_shape(source.attendance, source.kind,
		source.desired, NULL, source.options,
		rsvp_sync._path_schemas(source.search_path));
	IF shape IS NULL THEN
		RAISE EXCEPTION 'table % is no longer recognised', source.attendance
			USING ERRCODE = 'undefined_column',
				HINT = 'Attach it again, with a desired query.';
	END IF;
	RETURN shape;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._shape(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._shape(rsvp_sync._source) IS
'private: what a source''s tables and columns are; undefined_table or undefined_column if they are no longer there';

/* After a restore: keep what _shape() would find each time.  For activate(). */
CREATE FUNCTION rsvp_sync._rebind() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE rsvp_sync._source s SET shape = rsvp_sync._shape(s)
	WHERE (s.shape ->> 'attendance')::oid IS DISTINCT FROM s.attendance::oid
		AND EXISTS (SELECT FROM pg_class c WHERE c.oid = s.attendance)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._rebind() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._rebind() IS
'private: make the shapes of a restored database its own';

/*
 * The attendance rows that a row of another table concerns.  $1 is that row's
 * primary key as text, a JSON array of texts where it has several columns.
 */
CREATE FUNCTION rsvp_sync._dependency_query(source_id bigint, dep integer)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	shape jsonb;
	d jsonb;
	a jsonb;
	u jsonb;
	key text;
	direct text;
	joins text;
BEGIN
	SELECT * INTO STRICT s FROM rsvp_sync._source f
	WHERE f.source_id = _dependency_query.source_id;
	shape := rsvp_sync._shape(s);
	d := shape #> ARRAY['depends', (dep - 1)::text];
	IF d IS NULL THEN
		RETURN NULL;
	END IF;
	a := rsvp_sync._relation_ref(s.attendance);
	u := shape -> 'user';
	SELECT string_agg('a.' || quote_ident(k.name), ', ' ORDER BY k.place)
		INTO key
	FROM rsvp_sync._key_columns(s.attendance) k;

	IF d ->> 'part' = 'identity' THEN
		joins := format('JOIN %s u ON %s JOIN %s a ON %s',
			rsvp_sync._live_relation(u -> 'rel'),
			rsvp_sync._join_condition('d', d -> 'rel', d -> 'ref',
				'u', u -> 'rel', d -> 'via'),
			rsvp_sync._live_relation(a),
			rsvp_sync._join_condition('u', u -> 'rel', u -> 'ref',
				'a', a, u -> 'via'));
	ELSE
		direct := rsvp_sync._direct_condition(a, d);
		IF direct IS NOT NULL THEN
			RETURN format('SELECT %s FROM %s a WHERE %s', key,
				rsvp_sync._live_relation(a), direct);
		END IF;
		joins := format('JOIN %s a ON %s', rsvp_sync._live_relation(a),
			rsvp_sync._join_condition('d', d -> 'rel', d -> 'ref',
				'a', a, d -> 'via'));
	END IF;
	RETURN format('SELECT %s FROM %s d %s WHERE %s', key,
		rsvp_sync._live_relation(d -> 'rel'), joins,
		rsvp_sync._key_condition('d', (d #>> '{rel,0}')::oid, '$1::text'));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._dependency_query(bigint, integer) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._dependency_query(bigint, integer) IS
'private: SELECT of attendance keys for a row of dependency number dep, whose key is $1; NULL if there is no such dependency';

/*
 * Where attendance refers to the other table's primary key, that table need
 * not be asked: the row may be gone.
 */
CREATE FUNCTION rsvp_sync._direct_condition(a jsonb, d jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN count(*) = max(k.n) AND count(*) = count(k.place)
		THEN string_agg(format('%s = (%s)::%s',
			rsvp_sync._live_column('a', a, v.ref),
			CASE WHEN k.n = 1 THEN '$1::text'
				ELSE format('$1::text::jsonb ->> %s', k.place - 1) END,
			format_type(t.atttypid, -1)), ' AND ') END
	FROM jsonb_array_elements(d -> 'via') WITH ORDINALITY AS v (ref, place)
	JOIN jsonb_array_elements(d -> 'ref') WITH ORDINALITY AS r (ref, place)
		USING (place)
	LEFT JOIN pg_attribute t ON t.attrelid = (a ->> 0)::oid
		AND t.attnum = (v.ref ->> 0)::smallint
	LEFT JOIN (SELECT c.attnum, c.place, count(*) OVER () AS n
		FROM rsvp_sync._key_columns((d #>> '{rel,0}')::oid) c) AS k
		ON k.attnum = (r.ref ->> 0)::smallint
$$;
REVOKE ALL ON FUNCTION rsvp_sync._direct_condition(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._direct_condition(jsonb, jsonb) IS
'private: condition on attendance alone for a dependency''s key; NULL if it takes a join';

/* A row by its key as text; of several columns the text is a JSON array. */
CREATE FUNCTION rsvp_sync._key_condition(alias text, relation oid,
	parameter text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(format('%s.%I = (%s)::%s', alias, k.name,
		CASE WHEN k.n = 1 THEN parameter
			ELSE format('%s::jsonb ->> %s', parameter, k.place - 1) END,
		k.type), ' AND ' ORDER BY k.place)
	FROM (SELECT c.*, count(*) OVER () AS n
		FROM rsvp_sync._key_columns(relation) c) k
$$;
REVOKE ALL ON FUNCTION rsvp_sync._key_condition(text, oid, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._key_condition(text, oid, text) IS
'private: condition that finds a row by its key''s text';

/*
 * What a column becomes.  A JSON object keeps its other keys; whatever else
 * the application has there (an array, a scalar) is left as it is.  Without a
 * uri the record is gone, and so are the values.
 */
CREATE FUNCTION rsvp_sync._writeback_value(column_name text, type oid,
	typmod integer, entries jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN bool_or(e.path IS NOT NULL) THEN
		format('CASE WHEN %1$s IS NULL AND $2 IS NULL THEN NULL'
			' WHEN coalesce(jsonb_typeof(%1$s::jsonb), ''null'') = ''null'''
			' THEN jsonb_strip_nulls(jsonb_build_object(%2$s))'
			' WHEN jsonb_typeof(%1$s::jsonb) = ''object'''
			' THEN (%1$s::jsonb - ARRAY[%3$s]::text[])'
			' || jsonb_strip_nulls(jsonb_build_object(%2$s))'
			' ELSE %1$s END',
			column_name,
			string_agg(format('%L, %s', e.path, e.value), ', ' ORDER BY e.path),
			string_agg(quote_literal(e.path), ', ' ORDER BY e.path))
		ELSE format('(%s)::%s', min(CASE e.what
				WHEN 'synced_at' THEN CASE type
					WHEN 'timestamp'::regtype
						THEN 'CASE WHEN $2 IS NOT NULL THEN $5::timestamptz'
							' AT TIME ZONE ''UTC'' END'
					WHEN 'timestamptz'::regtype
						THEN 'CASE WHEN $2 IS NOT NULL THEN $5::timestamptz END'
					ELSE e.value END
				ELSE e.value END),
			format_type(type, CASE WHEN type IN ('timestamp'::regtype,
				'timestamptz'::regtype) THEN typmod ELSE -1 END))
		END
	FROM (
		SELECT w.key, w.value ->> 'path', CASE w.key
			WHEN 'uri' THEN '$2::text'
			/* What stands in for a cid that nobody told is not told. */
			WHEN 'cid' THEN 'CASE WHEN $2 IS NOT NULL AND left($3::text, 1)'
				' <> ''?'' THEN $3::text END'
			WHEN 'rkey' THEN 'CASE WHEN $2 IS NOT NULL THEN $4::text END'
			ELSE 'CASE WHEN $2 IS NOT NULL THEN to_char($5::timestamptz'
				' AT TIME ZONE ''UTC'', ''YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'') END'
			END
		FROM jsonb_each(entries) w) AS e (what, path, value)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._writeback_value(text, oid, integer, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._writeback_value(text, oid, integer, jsonb) IS
'private: expression for a write-back column';

/*
 * Tells the attendance row: $1 its key as an array with a text for each
 * column, $2 uri, $3 cid, $4 record key, $5 when.  A locked row is left for
 * later; a row that is already right is not written.
 */
CREATE FUNCTION rsvp_sync._writeback_query(source_id bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	shape jsonb;
	a jsonb;
	partitioned boolean;
	assignments text;
	differs text;
	key text;
BEGIN
	SELECT * INTO STRICT s FROM rsvp_sync._source f
	WHERE f.source_id = _writeback_query.source_id;
	shape := rsvp_sync._shape(s);
	a := rsvp_sync._relation_ref(s.attendance);
	SELECT string_agg(format('%s = %s', c.name, c.value), ', '),
		string_agg(format('a.%s IS DISTINCT FROM %s', c.name, c.value), ' OR ')
		INTO assignments, differs
	FROM rsvp_sync._writeback_columns(a, shape -> 'writeback') c;
	IF assignments IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT c.relkind = 'p' INTO partitioned
	FROM pg_class c WHERE c.oid = s.attendance;
	SELECT string_agg(format('%%1$s.%s = ($1::text[])[%s]::%s',
			replace(quote_ident(k.name), '%', '%%'), k.place,
			replace(k.type, '%', '%%')), ' AND ' ORDER BY k.place)
		INTO key
	FROM rsvp_sync._key_columns(s.attendance) k;
	RETURN format('UPDATE %1$s a SET %2$s WHERE %3$s'
		' AND %4$s = (SELECT %5$s FROM %1$s b WHERE %6$s'
		' FOR NO KEY UPDATE SKIP LOCKED) AND (%7$s)',
		rsvp_sync._live_relation(a), assignments, format(key, 'a'),
		CASE WHEN partitioned THEN '(a.tableoid, a.ctid)' ELSE 'a.ctid' END,
		CASE WHEN partitioned THEN 'b.tableoid, b.ctid' ELSE 'b.ctid' END,
		format(key, 'b'), differs);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._writeback_query(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._writeback_query(bigint) IS
'private: UPDATE that tells an attendance row its record: $1 text[] key, $2 uri (NULL: take the values away), $3 cid, $4 rkey, $5 timestamptz; NULL if nothing is written back';

CREATE FUNCTION rsvp_sync._writeback_columns(a jsonb, writeback jsonb)
RETURNS TABLE (name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._live_column(NULL, a, c.ref),
		rsvp_sync._writeback_value(rsvp_sync._live_column('a', a, c.ref),
			t.atttypid, t.atttypmod, c.entries)
	FROM (SELECT w.value -> 'column', jsonb_object_agg(w.key, w.value)
		FROM jsonb_each(nullif(writeback, 'null')) w
		GROUP BY w.value -> 'column') AS c (ref, entries)
	LEFT JOIN pg_attribute t ON t.attrelid = (a ->> 0)::oid
		AND t.attnum = (c.ref ->> 0)::smallint
$$;
REVOKE ALL ON FUNCTION rsvp_sync._writeback_columns(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._writeback_columns(jsonb, jsonb) IS
'private: columns a write-back sets, and to what';
