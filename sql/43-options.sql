/*
 * What a source was told: its options, checked; the status map; where the
 * result is written back to; which other tables matter.  Options name columns
 * and tables, a shape holds their numbers.
 */

CREATE FUNCTION rsvp_sync._bad_option(name text, value jsonb, hint text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'invalid value for option "%": %', name, value
		USING ERRCODE = 'invalid_parameter_value', HINT = hint;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._bad_option(text, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._bad_option(text, jsonb, text) IS
'private: raises invalid_parameter_value';

/* The options there are: JSON type, allowed values, and what to say. */
CREATE FUNCTION rsvp_sync._known_options()
RETURNS TABLE (name text, types text[], choices text[], hint text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	VALUES
	('backfill', '{string}'::text[], '{none,upcoming,all}'::text[], NULL::text),
	('conflict', '{string}', '{latest,local,remote}', NULL),
	('credentials', '{string,boolean}', NULL,
		'It is the text of a query that returns did and envelope, and may return pds and handle; or false: look for none.'),
	('depends', '{array}', NULL,
		'It is an array such as [{"table": "app.events", "column": "event_id"}]: the column of the attendance table that leads to that table''s primary key.'),
	('event_pages', '{string}', NULL,
		'It is what the addresses of event pages begin with, as in "https://app.example/events/".'),
	('index', '{string}', '{gin,none}', NULL),
	('metadata', '{string}', NULL, 'It is the name of a jsonb column.'),
	('on_cancel', '{string}', '{notgoing,delete}', NULL),
	('on_delete', '{string}', '{delete,notgoing,keep}', NULL),
	('publish_past_events', '{boolean}', NULL, 'It is true or false.'),
	('read_remote', '{boolean,string}', NULL,
		'It is true, false, or an interval such as "1 day".'),
	('shadow_users', '{boolean}', NULL, 'It is true or false.'),
	('sql_timeout', '{string,number}', NULL,
		'It is an interval such as "5s", or a number of milliseconds.'),
	('status_map', '{object}', NULL,
		'It is an object from the application''s status to "going", "interested", "notgoing" or null.'),
	('tenant', '{string}', NULL, 'It is a text.'),
	('watch', '{array}', NULL,
		'It is an array of column names of the attendance table.'),
	('writeback', '{object,boolean}', NULL,
		'It is false, or an object such as {"uri": "metadata.blueskyRsvpUri"}, with the keys uri, cid, rkey, synced_at, each a column or a key of a jsonb column.')
$$;
REVOKE ALL ON FUNCTION rsvp_sync._known_options() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._known_options() IS
'private: names, types and values of attach()''s options';

/* New options over old ones; null takes a key away. */
CREATE FUNCTION rsvp_sync._merge_options(old jsonb, new jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(jsonb_object_agg(o.key, o.value), '{}')
	FROM jsonb_each(old || new) o
	WHERE jsonb_typeof(o.value) <> 'null'
$$;
REVOKE ALL ON FUNCTION rsvp_sync._merge_options(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._merge_options(jsonb, jsonb) IS
'private: options of a source that is attached again';

/* Names, types and enumerations; what needs the table is checked with it. */
CREATE FUNCTION rsvp_sync._check_options(options jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	o record;
BEGIN
	IF jsonb_typeof(options) <> 'object' THEN
		RAISE EXCEPTION 'options must be a JSON object, not %',
			jsonb_typeof(options)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example: ''{"backfill": "upcoming"}''.';
	END IF;
	FOR o IN
		SELECT g.key, g.value, k.name, k.types, k.choices,
			coalesce(k.hint, 'It is one of: '
				|| array_to_string(k.choices, ', ') || '.') AS hint
		FROM jsonb_each(options) g
		LEFT JOIN rsvp_sync._known_options() k ON k.name = g.key
		ORDER BY g.key
	LOOP
		IF o.name IS NULL THEN
			RAISE EXCEPTION 'unknown option "%"', o.key
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'The options are: ' || (SELECT
						string_agg(k.name, ', ' ORDER BY k.name)
						FROM rsvp_sync._known_options() k) || '.';
		END IF;
		CONTINUE WHEN jsonb_typeof(o.value) = 'null';
		IF jsonb_typeof(o.value) <> ALL (o.types)
			OR (o.value #>> '{}') <> ALL (o.choices)
		THEN
			PERFORM rsvp_sync._bad_option(o.key, o.value, o.hint);
		END IF;
	END LOOP;
	PERFORM rsvp_sync._check_status_map(options -> 'status_map');
	PERFORM rsvp_sync._sql_timeout(options);
	PERFORM rsvp_sync._read_interval(options);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_options(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_options(jsonb) IS
'private: invalid_parameter_value for an unknown option or a wrong value';

CREATE FUNCTION rsvp_sync._check_status_map(map jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	m record;
BEGIN
	IF jsonb_typeof(map) IS DISTINCT FROM 'object' THEN
		RETURN;
	END IF;
	FOR m IN
		SELECT e.key, e.value FROM jsonb_each(map) e
		WHERE e.value NOT IN ('"going"', '"interested"', '"notgoing"', 'null')
		ORDER BY e.key
	LOOP
		PERFORM rsvp_sync._bad_option('status_map',
			jsonb_build_object(m.key, m.value),
			'A status maps to "going", "interested", "notgoing" or null.');
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_status_map(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_status_map(jsonb) IS
'private: invalid_parameter_value for a status that maps to no RSVP';

/* The limit for a source's SQL in milliseconds; NULL: the setting holds. */
CREATE FUNCTION rsvp_sync._sql_timeout(options jsonb) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	value jsonb := options -> 'sql_timeout';
	ms numeric;
BEGIN
	BEGIN
		ms := CASE jsonb_typeof(value)
			WHEN 'number' THEN (value #>> '{}')::numeric
			WHEN 'string' THEN extract(epoch FROM
				(value #>> '{}')::interval) * 1000
			END;
	EXCEPTION WHEN data_exception THEN
		ms := 0;
	END;
	IF ms <= 0 OR ms > 2147483647 THEN
		PERFORM rsvp_sync._bad_option('sql_timeout', value,
			'It is an interval such as "5s", or a number of milliseconds.');
	END IF;
	RETURN ms;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._sql_timeout(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._sql_timeout(jsonb) IS
'private: option sql_timeout in milliseconds, or NULL';

/*
 * Status map
 */

CREATE FUNCTION rsvp_sync._default_status_map(kind text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	map jsonb := '{"confirmed": "going", "attended": "going",
		"maybe": "interested", "pending": "interested",
		"waitlist": "interested", "cancelled": "notgoing",
		"invited": null, "rejected": null}';
BEGIN
	RETURN CASE kind
		WHEN 'plan' THEN map
		WHEN 'openmeet' THEN map || '{"pending": null, "waitlist": null}'
		ELSE map || '{"going": "going", "interested": "interested",
			"notgoing": "notgoing"}'
		END;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._default_status_map(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._default_status_map(text) IS
'private: what an application''s status means where nothing else is said';

CREATE FUNCTION rsvp_sync._status_map(source_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT rsvp_sync._default_status_map(s.kind)
		|| coalesce(s.options -> 'status_map', '{}')
	FROM rsvp_sync._source s
	WHERE s.source_id = $1);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._status_map(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._status_map(bigint) IS
'private: application status to going, interested, notgoing or null; a status that is not in it is unmapped';

/*
 * Write-back: what is written where.  {"uri": {"column": …, "path": …}}
 */

/* "column" or "column.key", found in the table. */
CREATE FUNCTION rsvp_sync._writeback_target(attendance regclass, what text,
	target jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts text[] := string_to_array(target #>> '{}', '.');
	ref jsonb;
BEGIN
	IF what NOT IN ('uri', 'cid', 'rkey', 'synced_at')
		OR jsonb_typeof(target) <> 'string' OR cardinality(parts) > 2
	THEN
		PERFORM rsvp_sync._bad_option('writeback',
			jsonb_build_object(what, target),
			(SELECT k.hint FROM rsvp_sync._known_options() k
				WHERE k.name = 'writeback'));
	END IF;
	SELECT jsonb_build_array(a.attnum, a.attname) INTO ref
	FROM pg_attribute a
	WHERE a.attrelid = attendance AND a.attname = parts[1]
		AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		/* Not into the key: the row would become another one. */
		AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = attendance
			AND x.indisprimary AND a.attnum = ANY (x.indkey))
		AND (parts[2] IS NULL OR rsvp_sync._column_type(attendance,
			jsonb_build_array(a.attnum)) = 'jsonb'::regtype);
	IF ref IS NULL OR parts[2] = '' THEN
		PERFORM rsvp_sync._bad_option('writeback',
			jsonb_build_object(what, target),
			format('Table %s has no %s column "%s".', attendance,
				CASE WHEN parts[2] IS NULL THEN 'such' ELSE 'jsonb' END,
				parts[1]));
	END IF;
	/* Else every write-back would fail, and nobody would see it. */
	IF parts[2] IS NULL AND NOT EXISTS (SELECT FROM pg_type t
		WHERE t.oid = rsvp_sync._column_type(attendance, ref)
			AND (t.typcategory = 'S'
				OR what = 'synced_at' AND t.typcategory = 'D'))
	THEN
		PERFORM rsvp_sync._bad_option('writeback',
			jsonb_build_object(what, target),
			format('Column "%s" has type %s; %s.', parts[1],
				format_type(rsvp_sync._column_type(attendance, ref), NULL),
				CASE what WHEN 'synced_at'
					THEN 'a timestamp or a text is needed'
					ELSE 'a text is needed' END));
	END IF;
	RETURN jsonb_build_object('column', ref, 'path', parts[2]);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._writeback_target(regclass, text, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._writeback_target(regclass, text, jsonb) IS
'private: one entry of option writeback, or invalid_parameter_value';

CREATE FUNCTION rsvp_sync._writeback_shape(attendance regclass, shape jsonb,
	options jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN jsonb_typeof(options -> 'writeback') = 'object' THEN
			(SELECT jsonb_object_agg(w.key,
				rsvp_sync._writeback_target(attendance, w.key, w.value))
			FROM jsonb_each(options -> 'writeback') w
			WHERE jsonb_typeof(w.value) <> 'null')
		WHEN options -> 'writeback' = 'false' THEN NULL
		WHEN shape ->> 'kind' = 'plan' THEN jsonb_build_object(
			'uri', jsonb_build_object('column', shape -> 'metadata',
				'path', 'blueskyRsvpUri'),
			'cid', jsonb_build_object('column', shape -> 'metadata',
				'path', 'blueskyRsvpCid'))
		WHEN shape ->> 'kind' = 'openmeet' THEN
			(SELECT jsonb_object_agg(c.what,
				jsonb_build_object('column', c.ref, 'path', NULL))
			FROM (VALUES
				('uri', rsvp_sync._column_ref(attendance, 'atproto_uri')),
				('rkey', rsvp_sync._column_ref(attendance, 'atproto_rkey')),
				('synced_at',
					rsvp_sync._column_ref(attendance, 'atproto_synced_at')))
				AS c (what, ref)
			WHERE c.ref IS NOT NULL)
		END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._writeback_shape(regclass, jsonb, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._writeback_shape(regclass, jsonb, jsonb) IS
'private: where results are written, by column numbers; NULL: nowhere';

/*
 * Dependencies
 */

/* An entry of option depends, found. */
CREATE FUNCTION rsvp_sync._dependency_of(attendance regclass, entry jsonb,
	search_path text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	hint text := (SELECT k.hint FROM rsvp_sync._known_options() k
		WHERE k.name = 'depends');
	rel oid;
	via jsonb;
	names jsonb := CASE jsonb_typeof(entry -> 'column')
		WHEN 'array' THEN entry -> 'column'
		WHEN 'string' THEN jsonb_build_array(entry -> 'column') END;
BEGIN
	IF names IS NULL OR entry ->> 'table' IS NULL THEN
		PERFORM rsvp_sync._bad_option('depends', entry, hint);
	END IF;
	rel := rsvp_sync._find_relation(entry ->> 'table', search_path);
	SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname) ORDER BY n.place)
		INTO via
	FROM jsonb_array_elements_text(names) WITH ORDINALITY AS n (name, place)
	JOIN pg_attribute a ON a.attrelid = attendance AND a.attname = n.name
		AND a.attnum > 0 AND NOT a.attisdropped;
	IF rel IS NULL OR via IS NULL
		OR jsonb_array_length(via) <> jsonb_array_length(names)
		OR jsonb_array_length(via)
			<> (SELECT count(*) FROM rsvp_sync._key_columns(rel))
	THEN
		PERFORM rsvp_sync._bad_option('depends', entry, hint);
	END IF;
	RETURN jsonb_build_object('rel', rsvp_sync._relation_ref(rel), 'via', via,
		'ref', (SELECT jsonb_agg(jsonb_build_array(k.attnum, k.name)
			ORDER BY k.place) FROM rsvp_sync._key_columns(rel) k));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._dependency_of(regclass, jsonb, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._dependency_of(regclass, jsonb, text[]) IS
'private: one entry of option depends, or invalid_parameter_value';

/* The tables whose changes matter, in the order of their numbers. */
CREATE FUNCTION rsvp_sync._dependencies(attendance regclass, shape jsonb,
	options jsonb, search_path text[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(jsonb_agg(d.dep ORDER BY d.place), '[]')
	FROM (
		SELECT k.place, shape -> k.part || jsonb_build_object('part', k.part)
		FROM (VALUES (1, 'event'), (2, 'user'), (3, 'identity'))
			AS k (place, part)
		WHERE shape ? k.part
		UNION ALL
		SELECT 3 + e.place,
			rsvp_sync._dependency_of(attendance, e.entry, search_path)
		FROM jsonb_array_elements(options -> 'depends')
			WITH ORDINALITY AS e (entry, place)) AS d (place, dep)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._dependencies(regclass, jsonb, jsonb, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._dependencies(regclass, jsonb, jsonb, text[]) IS
'private: the tables on which a source''s query depends';
