/*
 * attach(), step by step: each takes the source as it is to be and returns it
 * a little more complete.
 */

CREATE FUNCTION rsvp_sync._new_source(attendance regclass)
RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
BEGIN
	s.attendance := attendance;
	s.options := '{}';
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._new_source(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._new_source(regclass) IS
'private: a source about which nothing is known yet';

/* Schema public has tenant '', tenant_x has x, any other its own name. */
CREATE FUNCTION rsvp_sync._tenant(attendance regclass, options jsonb)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(options ->> 'tenant',
		CASE WHEN n.nspname = 'public' THEN ''
			ELSE regexp_replace(n.nspname, '^tenant_', '') END)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.oid = attendance
$$;
REVOKE ALL ON FUNCTION rsvp_sync._tenant(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._tenant(regclass, jsonb) IS
'private: a table''s tenant: the option, else by its schema';

CREATE FUNCTION rsvp_sync._set_options(s rsvp_sync._source, given jsonb,
	path text[]) RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	missing text;
BEGIN
	s.options := rsvp_sync._merge_options(s.options, given);
	s.tenant := rsvp_sync._tenant(s.attendance, s.options);
	s.attendance_name := s.attendance::text;

	/* Tables by their full name: the path is not always the caller's. */
	IF jsonb_typeof(given -> 'depends') = 'array' THEN
		s.options := jsonb_set(s.options, '{depends}', (
			SELECT coalesce(jsonb_agg(d.value || jsonb_build_object('table',
				rsvp_sync._dependency_of(s.attendance, d.value, path)
					#>> '{rel,1}')), '[]')
			FROM jsonb_array_elements(given -> 'depends') d));
	END IF;

	SELECT w.name INTO missing
	FROM jsonb_array_elements_text(s.options -> 'watch') AS w (name)
	WHERE NOT EXISTS (SELECT FROM pg_attribute a
		WHERE a.attrelid = s.attendance AND a.attname = w.name
			AND a.attnum > 0 AND NOT a.attisdropped);
	IF FOUND AND given ? 'watch' THEN
		PERFORM rsvp_sync._bad_option('watch', to_jsonb(missing),
			format('Table %s has no such column.', s.attendance));
	END IF;
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._set_options(rsvp_sync._source, jsonb,
	text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._set_options(rsvp_sync._source, jsonb,
	text[]) IS
'private: a source with options merged in';

/* What is desired: a recognised schema, a view or a query; and the shape. */
CREATE FUNCTION rsvp_sync._set_query(s rsvp_sync._source, desired text,
	path text[]) RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	key_names text[];
	recognised jsonb;
BEGIN
	IF desired IS NULL AND coalesce(s.kind IN ('plan', 'openmeet'), true) THEN
		recognised := rsvp_sync._recognise(s.attendance,
			s.options ->> 'metadata');
		IF recognised IS NULL THEN
			PERFORM rsvp_sync._not_recognised(s.attendance);
		END IF;
		s.kind := recognised ->> 'kind';
		s.desired := NULL;
		s.search_path := coalesce(s.search_path, '');
	ELSE
		IF desired IS NOT NULL THEN
			s := rsvp_sync._parse_desired(s, desired, path);
			key_names := rsvp_sync._check_query(s);
		ELSE
			/* The key may have been renamed since; the query calls it so. */
			SELECT array_agg(o.ref ->> 1 ORDER BY k.place) INTO key_names
			FROM rsvp_sync._key_columns(s.attendance) k
			LEFT JOIN jsonb_array_elements(s.shape -> 'key') AS o (ref)
				ON (o.ref ->> 0)::smallint = k.attnum;
			s.desired := coalesce(rsvp_sync._relation_ref(
				(s.shape #>> '{view,0}')::oid) ->> 1, s.desired);
		END IF;
	END IF;
	s.shape := rsvp_sync._make_shape(s.attendance, s.kind, s.desired,
		key_names, s.options, path);
	PERFORM rsvp_sync._check_credentials(s);
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._set_query(rsvp_sync._source, text, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._set_query(rsvp_sync._source, text, text[]) IS
'private: a source with its query';

/* Nothing to go by: show the query to write, with this table's own names. */
CREATE FUNCTION rsvp_sync._not_recognised(attendance regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
	key text;
	status text := coalesce(rsvp_sync._live_column('a',
		rsvp_sync._relation_ref(attendance),
		rsvp_sync._column_ref(attendance, 'status')), '...');
BEGIN
	SELECT string_agg('a.' || quote_ident(k.name), ', ' ORDER BY k.place)
		INTO key FROM rsvp_sync._key_columns(attendance) k;
	RAISE EXCEPTION 'the schema of table % is not recognised', attendance
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A recognised attendance table has a column status, a '
				'jsonb column metadata, and foreign keys to a table of events '
				'(sourceType and sourceData, or atprotoUri) and to a table of '
				'users (preferences, json).',
			HINT = format(E'Write the query that says what to publish:\n'
				'SELECT rsvp_sync.attach(%L, $$\n'
				'  SELECT %s, ... AS did, ... AS event_uri, %s AS status\n'
				'  FROM %s a ...\n'
				'$$);', attendance, key, status, attendance);
END
$body$;
REVOKE ALL ON FUNCTION rsvp_sync._not_recognised(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._not_recognised(regclass) IS
'private: raises invalid_parameter_value, with the query to write';

/* A single name, perhaps qualified, is a view's or a table's. */
CREATE FUNCTION rsvp_sync._parse_desired(s rsvp_sync._source, desired text,
	path text[]) RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	body text := regexp_replace(desired, '^\s+|[\s;]+$', '', 'g');
	rel oid;
BEGIN
	s.search_path := coalesce((SELECT string_agg(quote_ident(p.name), ', '
		ORDER BY p.place) FROM unnest(path) WITH ORDINALITY AS p (name, place)),
		'');
	IF body !~ '^("([^"]|"")+"|[[:alpha:]_][\w$]*)(\s*\.\s*("([^"]|"")+"|[[:alpha:]_][\w$]*))?$'
	THEN
		s.kind := 'query';
		s.desired := body;
		RETURN s;
	END IF;
	rel := rsvp_sync._find_relation(body, path);
	IF rel IS NULL THEN
		RAISE EXCEPTION 'there is no view or table %', body
			USING ERRCODE = 'undefined_table',
				HINT = 'desired is a SELECT, or the name of a view; qualify '
					'the name if its schema is not in the search_path.';
	END IF;
	s.kind := 'view';
	s.desired := rsvp_sync._live_relation(rsvp_sync._relation_ref(rel));
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._parse_desired(rsvp_sync._source, text,
	text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._parse_desired(rsvp_sync._source, text,
	text[]) IS
'private: a source whose query is the user''s; undefined_table';

/* The columns a query returns; its errors are told as such. */
CREATE FUNCTION rsvp_sync._query_columns(s rsvp_sync._source)
RETURNS TABLE (name text, type regtype)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	query text := CASE s.kind WHEN 'view' THEN 'SELECT * FROM ' || s.desired
		ELSE s.desired END;
	code text;
	said text;
	detail text;
	hint text;
BEGIN
	RETURN QUERY SELECT d.name, d.type::regtype
		FROM rsvp_sync._describe_query(s.attendance, query, s.search_path) d;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE EXCEPTION 'the desired query does not run: %', said
		USING ERRCODE = code, DETAIL = coalesce(nullif(detail, ''), format(
				'It was prepared as role %s, under search_path "%s".',
				(SELECT c.relowner::regrole FROM pg_class c
					WHERE c.oid = s.attendance), s.search_path)),
			HINT = coalesce(nullif(hint, ''), 'desired must be one SELECT '
				'without parameters, or the name of a view.');
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._query_columns(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._query_columns(rsvp_sync._source) IS
'private: names and types a desired query returns; passes on its errors';

/*
 * Has the query what it takes?  Returns the names it has for the key columns.
 */
CREATE FUNCTION rsvp_sync._check_query(s rsvp_sync._source) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	columns jsonb;
	key_names text[];
	missing text;
	wrong record;
BEGIN
	SELECT coalesce(jsonb_object_agg(c.name, c.type::oid::bigint), '{}')
		INTO columns FROM rsvp_sync._query_columns(s) c;
	SELECT array_agg(CASE WHEN columns ? k.name OR k.n > 1
			OR NOT columns ? 'attendance_id' THEN k.name
		ELSE 'attendance_id' END ORDER BY k.place) INTO key_names
	FROM (SELECT f.*, count(*) OVER () AS n
		FROM rsvp_sync._key_columns(s.attendance) f) k;

	SELECT string_agg(quote_ident(r.name), ', ' ORDER BY r.place) INTO missing
	FROM unnest(key_names || '{did,event_uri,status}'::text[])
		WITH ORDINALITY AS r (name, place)
	WHERE NOT columns ? r.name;
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'the desired query does not return: %', missing
			USING ERRCODE = 'undefined_column',
				DETAIL = 'It returns: ' || coalesce((
					SELECT string_agg(quote_ident(c.name), ', ')
					FROM rsvp_sync._query_columns(s) c), 'nothing') || '.',
				HINT = format('It has to return the primary key of %s under '
					'its own name%s, did, event_uri and status.', s.attendance,
					CASE WHEN cardinality(key_names) = 1
						THEN ' or as attendance_id' ELSE 's' END);
	END IF;

	SELECT n.name, k.type, format_type((columns ->> n.name)::oid, -1) AS has
		INTO wrong
	FROM rsvp_sync._key_columns(s.attendance) k
	JOIN unnest(key_names) WITH ORDINALITY AS n (name, place) USING (place)
	JOIN pg_attribute a ON a.attrelid = s.attendance AND a.attnum = k.attnum
	WHERE (columns ->> n.name)::oid NOT IN (a.atttypid,
		rsvp_sync._column_type(s.attendance, jsonb_build_array(k.attnum)))
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the desired query returns % as %, but the primary key of % is %',
			quote_ident(wrong.name), wrong.has, s.attendance, wrong.type
			USING ERRCODE = 'datatype_mismatch',
				HINT = 'Return the key column itself, without a cast: else a '
					'key could not be looked up by index.';
	END IF;
	RETURN key_names;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_query(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_query(rsvp_sync._source) IS
'private: names of the key columns in a desired query; undefined_column, datatype_mismatch';

/* The apply function, found now, called by its full name later. */
CREATE FUNCTION rsvp_sync._set_apply(s rsvp_sync._source, apply text,
	path text[]) RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts text[];
	found_oid oid;
	types text := substring(apply FROM '\((.*)\)\s*$');
BEGIN
	/* Triggers of the application's, too, run under the path it has itself. */
	IF apply IS NOT NULL OR s.apply IS NULL THEN
		s.apply_path := coalesce((SELECT string_agg(quote_ident(p.name), ', '
			ORDER BY p.place) FROM unnest(path) WITH ORDINALITY
				AS p (name, place)), '');
	END IF;
	IF apply IS NULL THEN
		RETURN s;
	END IF;
	BEGIN
		parts := parse_ident(regexp_replace(apply, '\s*\(.*$', ''));
	EXCEPTION WHEN invalid_parameter_value THEN
		parts := '{}';			/* no name: no such function */
	END;
	SELECT p.oid, format('%I.%I(text, text, text, jsonb)', n.nspname,
			p.proname) INTO found_oid, s.apply
	FROM unnest(CASE WHEN cardinality(parts) = 1 THEN path
		ELSE parts[1:1] END) WITH ORDINALITY AS f (schema, place)
	JOIN pg_namespace n ON n.nspname = f.schema
	JOIN pg_proc p ON p.pronamespace = n.oid
		AND p.proname = parts[cardinality(parts)]
	WHERE p.prokind = 'f' AND NOT p.proretset
		AND p.prorettype = 'text'::regtype
		AND p.proargtypes::text = concat_ws(' ', 'text'::regtype::oid,
			'text'::regtype::oid, 'text'::regtype::oid, 'jsonb'::regtype::oid)
		/* Other types than these are another function's. */
		AND (apply !~ '\(' OR types ~* '^(\s*(\w+\s+)?text\s*,){3}\s*(\w+\s+)?jsonb\s*$')
	ORDER BY f.place
	LIMIT 1;
	IF found_oid IS NULL THEN
		RAISE EXCEPTION 'there is no apply function "%"', apply
			USING ERRCODE = 'undefined_function',
				HINT = 'It has the arguments (did text, event_uri text, '
					'status text, rsvp jsonb) and returns text, the key.';
	END IF;
	IF NOT has_function_privilege((SELECT c.relowner FROM pg_class c
		WHERE c.oid = s.attendance), found_oid, 'EXECUTE')
	THEN
		RAISE EXCEPTION 'the owner of % may not execute %', s.attendance,
			s.apply
			USING ERRCODE = 'insufficient_privilege',
				HINT = format('GRANT EXECUTE ON FUNCTION %s TO that role.',
					s.apply);
	END IF;
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._set_apply(rsvp_sync._source, text, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._set_apply(rsvp_sync._source, text, text[]) IS
'private: a source with its apply function; undefined_function, insufficient_privilege';

CREATE FUNCTION rsvp_sync._forget_query(relation regclass) RETURNS void
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_forget_query';
REVOKE ALL ON FUNCTION rsvp_sync._forget_query(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._forget_query(regclass) IS
'private: at commit, have every backend read this table''s source anew';

/* A source that is attached again works again, unless somebody paused it. */
CREATE FUNCTION rsvp_sync._store_source(s rsvp_sync._source, known boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF known THEN
		UPDATE rsvp_sync._source f SET attendance_name = s.attendance_name,
			tenant = s.tenant, kind = s.kind, desired = s.desired,
			apply = s.apply, apply_path = s.apply_path,
			search_path = s.search_path, shape = s.shape,
			options = s.options, failures = 0, retry_at = NULL,
			missed = true		/* other rules: compare as a whole */
		WHERE f.source_id = s.source_id;
		INSERT INTO rsvp_sync._change_log (source_id, op)
		VALUES (s.source_id, 'w');
		/* Perhaps the application's credentials are looked for elsewhere. */
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT i.source_id, i.key, 'l' FROM rsvp_sync._intent i
		WHERE i.source_id = s.source_id AND i.state = 'blocked'
			AND i.reason_code IN ('no_account', 'needs_login');
		UPDATE rsvp_sync._source f SET state = 'active', state_reason = NULL,
			state_since = now()
		WHERE f.source_id = s.source_id
			AND f.state IN ('broken', 'detaching');
	ELSE
		INSERT INTO rsvp_sync._source AS f (attendance, attendance_name, tenant,
			kind, desired, apply, apply_path, search_path, shape, options)
		VALUES (s.attendance, s.attendance_name, s.tenant,
			s.kind, s.desired, s.apply, s.apply_path, s.search_path, s.shape,
			s.options)
		RETURNING f.source_id INTO s.source_id;
	END IF;
	PERFORM rsvp_sync._forget_query(s.attendance);
	RETURN s.source_id;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._store_source(rsvp_sync._source, boolean)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._store_source(rsvp_sync._source, boolean) IS
'private: write a source down; returns its id';

/* Is one key found by index?  _explain_key() plans without sequential scans. */
CREATE FUNCTION rsvp_sync._warn_slow_lookup(source_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	plan text := rsvp_sync._explain_key(source_id);
	attendance regclass := (SELECT s.attendance FROM rsvp_sync._source s
		WHERE s.source_id = _warn_slow_lookup.source_id);
	node text;
BEGIN
	FOR node IN SELECT n FROM regexp_split_to_table(plan, '(?=\S[^\n]* Scan )')
		AS n
	LOOP
		CONTINUE WHEN node ~ '(Index|Recheck|TID) Cond:|^CTE|^Subquery|^Bitmap Index';
		IF EXISTS (
			SELECT FROM (SELECT p.relid::oid FROM pg_partition_tree(attendance) p
				UNION SELECT attendance::oid) AS r (relid)
			JOIN pg_class c ON c.oid = r.relid
			WHERE strpos(split_part(node, E'\n', 1) || ' ',
				format(' on %I ', c.relname)) > 0)
		THEN
			RAISE WARNING 'looking up one row of % does not use its primary key',
				attendance
				USING DETAIL = plan,
					HINT = 'Every change reads the whole table. Write the '
						'query so that a condition on the key reaches the '
						'table: no window functions, aggregates or LIMIT.';
			RETURN;
		END IF;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._warn_slow_lookup(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._warn_slow_lookup(bigint) IS
'private: a warning if the desired query cannot look up one key by index';
