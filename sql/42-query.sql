/*
 * The texts that run as the table's owner: desired query, dependency
 * look-up, write-back.  Each is made anew from the shape whenever it is asked
 * for, with the names that relations and columns have now.
 */

/* A relation of a shape by its present name. */
CREATE FUNCTION rsvp_sync._live_relation(relation_ref jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text;
BEGIN
	SELECT format('%I.%I', n.nspname, c.relname) INTO name
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.oid = (relation_ref ->> 0)::oid;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table %, which this source needs, is gone',
			relation_ref ->> 1
			USING ERRCODE = 'undefined_table',
				HINT = 'Attach the attendance table again, or detach it.';
	END IF;
	RETURN name;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._live_relation(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._live_relation(jsonb) IS
'private: a relation''s present name, quoted; undefined_table if it is gone';

/* A column of a shape by its present name; NULL where the shape has none. */
CREATE FUNCTION rsvp_sync._live_column(alias text, relation_ref jsonb,
	column_ref jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text;
BEGIN
	IF column_ref ->> 0 IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT a.attname INTO name
	FROM pg_attribute a
	WHERE a.attrelid = (relation_ref ->> 0)::oid
		AND a.attnum = (column_ref ->> 0)::smallint AND NOT a.attisdropped;
	IF NOT FOUND THEN
		PERFORM rsvp_sync._live_relation(relation_ref);
		RAISE EXCEPTION
			'column % of table %, which this source needs, is gone',
			quote_ident(column_ref ->> 1), relation_ref ->> 1
			USING ERRCODE = 'undefined_column',
				HINT = 'Attach the attendance table again: it is then '
					'looked at anew. Or give it a desired query.';
	END IF;
	RETURN concat(alias || '.', quote_ident(name));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._live_column(text, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._live_column(text, jsonb, jsonb) IS
'private: a column''s present name, quoted, behind its alias; undefined_column if it is gone';

/* The primary key as it is now.  -1: character(n) without its n is char(1). */
CREATE FUNCTION rsvp_sync._key_columns(relation oid)
RETURNS TABLE (place integer, attnum smallint, name text, type text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.place::integer, a.attnum, a.attname::text,
		format_type(a.atttypid, -1)
	FROM pg_index i
	CROSS JOIN LATERAL unnest(i.indkey::smallint[])
		WITH ORDINALITY AS k (attnum, place)
	JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
	WHERE i.indrelid = relation AND i.indisprimary
		AND k.place <= i.indnkeyatts
	ORDER BY k.place
$$;
REVOKE ALL ON FUNCTION rsvp_sync._key_columns(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._key_columns(oid) IS
'private: a table''s primary key columns, in the key''s order';

/*
 * Join condition.  The side that is looked up stays bare, so that its index
 * serves; the other one is cast where the types differ (varchar to char(n)).
 */
CREATE FUNCTION rsvp_sync._join_condition(
	from_alias text, from_rel jsonb, from_columns jsonb,
	to_alias text, to_rel jsonb, to_columns jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(format('%s = %s%s',
			rsvp_sync._live_column(to_alias, to_rel, t.ref),
			rsvp_sync._live_column(from_alias, from_rel, f.ref),
			CASE WHEN ta.atttypid <> fa.atttypid
				THEN '::' || format_type(ta.atttypid, -1) END),
		' AND ' ORDER BY f.place)
	FROM jsonb_array_elements(from_columns) WITH ORDINALITY AS f (ref, place)
	JOIN jsonb_array_elements(to_columns) WITH ORDINALITY AS t (ref, place)
		USING (place)
	LEFT JOIN pg_attribute fa ON fa.attrelid = (from_rel ->> 0)::oid
		AND fa.attnum = (f.ref ->> 0)::smallint
	LEFT JOIN pg_attribute ta ON ta.attrelid = (to_rel ->> 0)::oid
		AND ta.attnum = (t.ref ->> 0)::smallint
$$;
REVOKE ALL ON FUNCTION rsvp_sync._join_condition(text, jsonb, jsonb,
	text, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._join_condition(text, jsonb, jsonb,
	text, jsonb, jsonb) IS
'private: the condition that looks up a referenced row';

/*
 * A moment.  Without time zone is UTC, as ORMs write it; a date begins at
 * its midnight, and with whole_day it lasts until the next.
 */
CREATE FUNCTION rsvp_sync._moment(alias text, rel jsonb, ref jsonb,
	whole_day boolean DEFAULT false) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE rsvp_sync._column_type((rel ->> 0)::oid, ref)
		WHEN 'timestamptz'::regtype THEN c.name
		WHEN 'timestamp'::regtype
			THEN format('(%s AT TIME ZONE ''UTC'')', c.name)
		WHEN 'date'::regtype
			THEN format('((%s + %s)::timestamp AT TIME ZONE ''UTC'')', c.name,
				CASE WHEN whole_day THEN 1 ELSE 0 END)
		ELSE 'NULL::timestamptz' END
	FROM (SELECT rsvp_sync._live_column(alias, rel, ref)) AS c (name)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._moment(text, jsonb, jsonb, boolean)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._moment(text, jsonb, jsonb, boolean) IS
'private: a date column as timestamptz; NULL for a type that is no moment';

/*
 * The event's at-uri, and the cid that belongs to it.  An event published by
 * the application has its uri; an imported one the record's did and key.
 */
CREATE FUNCTION rsvp_sync._event_columns(event jsonb,
	OUT uri text, OUT cid text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel jsonb := event -> 'rel';
	own_uri text := rsvp_sync._live_column('e', rel, event -> 'uri');
	own_cid text := rsvp_sync._live_column('e', rel, event -> 'cid');
	type text := rsvp_sync._live_column('e', rel, event -> 'source_type');
	data text := rsvp_sync._live_column('e', rel, event -> 'source_data');
	imported text;
BEGIN
	own_uri := format('nullif(%s::text, '''')', own_uri);
	own_cid := format('nullif(%s::text, '''')', own_cid);
	IF type IS NOT NULL AND data IS NOT NULL THEN
		imported := format('lower(%s::text) = ''bluesky''', type);
		uri := format('CASE WHEN %s THEN ''at://'' || '
			'nullif(%s ->> ''did'', '''') || '
			'''/community.lexicon.calendar.event/'' || '
			'nullif(%s ->> ''rkey'', '''') END', imported, data, data);
		cid := format('CASE WHEN %s THEN nullif(%s ->> ''cid'', '''') END',
			imported, data);
	END IF;
	IF event #>> '{uri,0}' IS NOT NULL THEN
		cid := format('CASE WHEN %s IS NOT NULL THEN %s ELSE %s END',
			own_uri,
			CASE WHEN event #>> '{cid,0}' IS NULL THEN 'NULL' ELSE own_cid END,
			coalesce(cid, 'NULL'));
		uri := CASE WHEN uri IS NULL THEN own_uri
			ELSE format('coalesce(%s, %s)', own_uri, uri) END;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._event_columns(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._event_columns(jsonb) IS
'private: expressions for an event''s at-uri and cid';

/*
 * Why a row is not published: condition, code, what happens to a record that
 * is there.  The first that holds counts, so those that withdraw come first.
 * JSON may be dirty: ->> gives NULL on anything that is no object.
 */
CREATE FUNCTION rsvp_sync._withheld_rules(shape jsonb)
RETURNS TABLE (place integer, condition text, code text, action text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.place, r.condition, r.code, r.action
	FROM (SELECT shape -> 'event' -> 'rel', shape -> 'user' -> 'rel',
			rsvp_sync._relation_ref((shape ->> 'attendance')::oid)) AS t (e, u, a)
	CROSS JOIN LATERAL (VALUES
		(1, 'event_not_public', 'delete', format(
			'%s IS NOT NULL AND %s::text IS DISTINCT FROM ''public''',
			rsvp_sync._live_column('e', t.e, shape #> '{event,ref,0}'),
			rsvp_sync._live_column('e', t.e, shape #> '{event,visibility}')),
			shape #>> '{event,visibility,0}'),
		(2, 'opted_out', 'delete', format(
			'lower(%s -> ''bluesky'' ->> ''publishRsvps'') = ''false''',
			rsvp_sync._live_column('u', t.u, shape #> '{user,preferences}')),
			shape #>> '{user,preferences,0}'),
		(3, 'deleted_user', 'keep', format('%s IS NOT NULL',
			rsvp_sync._live_column('u', t.u, shape #> '{user,deleted}')),
			shape #>> '{user,deleted,0}'),
		(4, 'shadow_account', 'keep', format(
			'lower(%s::text) IN (''true'', ''t'', ''1'')',
			rsvp_sync._live_column('u', t.u, shape #> '{user,shadow}')),
			shape #>> '{user,shadow,0}'),
		(5, 'skipped', 'keep', format(
			'coalesce(lower(%s ->> ''skipBlueskySync''), '''')'
			' NOT IN ('''', ''false'', ''0'', ''null'')',
			rsvp_sync._live_column('a', t.a, shape -> 'metadata')),
			shape #>> '{metadata,0}'),
		(6, 'not_connected', 'keep', format(
			'lower(%s -> ''bluesky'' ->> ''connected'') IS DISTINCT FROM ''true''',
			rsvp_sync._live_column('u', t.u, shape #> '{user,preferences}')),
			CASE WHEN shape ->> 'kind' = 'plan' THEN 'yes' END)
		) AS r (place, code, action, condition, applies)
	WHERE r.applies IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._withheld_rules(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._withheld_rules(jsonb) IS
'private: the reasons for which a recognised schema''s row is withheld';

/* The query for a recognised schema; more: columns that come before its own. */
CREATE FUNCTION rsvp_sync._generated_query(shape jsonb,
	more text DEFAULT '') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a jsonb := rsvp_sync._relation_ref((shape ->> 'attendance')::oid);
	event jsonb := shape -> 'event';
	usr jsonb := shape -> 'user';
	identity jsonb := shape -> 'identity';
	key text;
	withheld text;
	on_withheld text;
BEGIN
	SELECT string_agg('a.' || quote_ident(k.name), ', ' ORDER BY k.place)
		INTO key
	FROM rsvp_sync._key_columns((shape ->> 'attendance')::oid) k;
	SELECT string_agg(format('WHEN %s THEN %L', r.condition, r.code), ' '
			ORDER BY r.place),
		string_agg(format('WHEN %s THEN %L', r.condition, r.action), ' '
			ORDER BY r.place)
		INTO withheld, on_withheld
	FROM rsvp_sync._withheld_rules(shape) r;

	RETURN concat_ws(E'\n',
		format('SELECT %s%s,', more, key),
		format('%s AS did,', CASE WHEN identity IS NULL
			THEN format('nullif(%s -> ''bluesky'' ->> ''did'', '''')',
				rsvp_sync._live_column('u', usr -> 'rel', usr -> 'preferences'))
			ELSE format('nullif(%s::text, '''')',
				rsvp_sync._live_column('i', identity -> 'rel', identity -> 'did'))
			END),
		(SELECT format(E'%s AS event_uri,\n(%s)::text AS event_cid,', c.uri,
				coalesce(c.cid, 'NULL'))
			FROM rsvp_sync._event_columns(event) c),
		format('%s::text AS status,',
			rsvp_sync._live_column('a', a, shape -> 'status')),
		format('(%s)::text AS withheld,',
			coalesce('CASE ' || withheld || ' END', 'NULL')),
		format('(%s)::text AS on_withheld,',
			coalesce('CASE ' || on_withheld || ' END', 'NULL')),
		format('%s AS created_at,',
			rsvp_sync._moment('a', a, shape -> 'created')),
		format('%s AS starts_at,',
			rsvp_sync._moment('e', event -> 'rel', event -> 'starts')),
		format('%s AS ends_at',
			rsvp_sync._moment('e', event -> 'rel', event -> 'ends', true)),
		rsvp_sync._generated_from(shape, a));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._generated_query(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._generated_query(jsonb, text) IS
'private: the desired query of a recognised schema, by present names, behind these columns of the attendance row a';

/* Outer joins: a row whose event or user is missing is still a row. */
CREATE FUNCTION rsvp_sync._generated_from(shape jsonb, a jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat_ws(E'\n',
		format('FROM %s a', rsvp_sync._live_relation(a)),
		format('LEFT JOIN %s e ON %s',
			rsvp_sync._live_relation(j.event -> 'rel'),
			rsvp_sync._join_condition('a', a, j.event -> 'via',
				'e', j.event -> 'rel', j.event -> 'ref')),
		format('LEFT JOIN %s u ON %s',
			rsvp_sync._live_relation(j.usr -> 'rel'),
			rsvp_sync._join_condition('a', a, j.usr -> 'via',
				'u', j.usr -> 'rel', j.usr -> 'ref')),
		CASE WHEN j.identity IS NOT NULL THEN
			format('LEFT JOIN %s i ON %s',
				rsvp_sync._live_relation(j.identity -> 'rel'),
				rsvp_sync._join_condition('u', j.usr -> 'rel',
					j.identity -> 'via', 'i', j.identity -> 'rel',
					j.identity -> 'ref'))
		END)
	FROM (SELECT shape -> 'event', shape -> 'user', shape -> 'identity')
		AS j (event, usr, identity)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._generated_from(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._generated_from(jsonb, jsonb) IS
'private: FROM clause of the desired query of a recognised schema';

/*
 * The text of a source's desired query.  A query or view of the user's names
 * the key columns as they were called at attach; where they have been renamed
 * since, it gets them under their present names too.
 */
CREATE FUNCTION rsvp_sync._desired_query(source_id bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	query text;
	renamed text;
BEGIN
	SELECT * INTO STRICT s FROM rsvp_sync._source f
	WHERE f.source_id = _desired_query.source_id;
	IF s.kind IN ('plan', 'openmeet') THEN
		RETURN rsvp_sync._generated_query(rsvp_sync._shape(s));
	END IF;

	query := s.desired || E'\n';
	IF s.kind = 'view' THEN
		query := 'SELECT * FROM ' || coalesce(
			(SELECT format('%I.%I', n.nspname, c.relname)
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.oid = (s.shape #>> '{view,0}')::oid), s.desired);
	END IF;
	SELECT string_agg(format(', q.%I AS %I', k.ref ->> 1, a.attname), '')
		INTO renamed
	FROM jsonb_array_elements(rsvp_sync._shape(s) -> 'key') AS k (ref)
	JOIN pg_attribute a ON a.attrelid = s.attendance
		AND a.attnum = (k.ref ->> 0)::smallint AND NOT a.attisdropped
	WHERE a.attname <> k.ref ->> 1 AND k.ref ->> 1 <> 'attendance_id';
	RETURN coalesce(format('SELECT q.*%s FROM (%s) q', renamed, query), query);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._desired_query(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._desired_query(bigint) IS
'private: the SELECT that says what is desired; undefined_column or undefined_table where something it needs is gone';
