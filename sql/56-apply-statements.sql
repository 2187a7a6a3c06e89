/*
 * Apply, the texts: which columns of a recognised schema an RSVP made
 * elsewhere touches (found at attach, kept in the shape by number), and the
 * statements that find events and users, and write attendance.  They are made
 * anew from the shape whenever a schema has changed, with present names; the
 * steps and decisions are in src/apply_rows.c and src/admit.c.
 *
 * A row of another table is spoken of by a text: the columns that the foreign
 * key refers to, one as its text, several as a JSON array of texts.
 */

/* A column that need not be there: NULL if it never was, or is gone. */
CREATE FUNCTION rsvp_sync._spare_column(alias text, rel jsonb, ref jsonb)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat(alias || '.', quote_ident(a.attname))
	FROM pg_attribute a
	WHERE a.attrelid = (rel ->> 0)::oid
		AND a.attnum = (ref ->> 0)::smallint AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION rsvp_sync._spare_column(text, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._spare_column(text, jsonb, jsonb) IS
'private: a column''s present name, quoted, behind its alias; NULL if there is none';

/* The one table of this plain name beside another, with these columns. */
CREATE FUNCTION rsvp_sync._neighbour(relation oid, names text[],
	VARIADIC columns text[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._relation_ref(c.oid)
	FROM pg_class o
	JOIN pg_class c ON c.relnamespace = o.relnamespace
		AND c.relkind IN ('r', 'p') AND NOT c.relispartition
	WHERE o.oid = relation
		AND rsvp_sync._plain_name(c.relname::text) = ANY (names)
		AND NOT EXISTS (SELECT FROM unnest(columns) AS n (name)
			WHERE rsvp_sync._column_ref(c.oid, n.name) IS NULL)
	ORDER BY c.oid
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._neighbour(oid, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._neighbour(oid, text[], text[]) IS
'private: a table of the same schema by name and columns, in any spelling; or NULL';

/* The table of names a column leads to: by foreign key, else by its name. */
CREATE FUNCTION rsvp_sync._names_of(relation oid, col jsonb, names text[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('rel', t.rel, 'via', col,
		'ref', coalesce(f.ref, rsvp_sync._column_ref(t.oid, 'id')),
		'name', rsvp_sync._column_ref(t.oid, 'name'))
	FROM (VALUES (1)) AS one (n)
	LEFT JOIN LATERAL (
		SELECT k.target, rsvp_sync._column_refs(k.target, k.ref) -> 0
		FROM rsvp_sync._foreign_keys(relation) k
		WHERE k.via = ARRAY[(col ->> 0)::smallint]
		LIMIT 1) AS f (target, ref) ON true
	CROSS JOIN LATERAL (SELECT coalesce(rsvp_sync._relation_ref(f.target),
		rsvp_sync._neighbour(relation, names, 'id', 'name'))) AS r (rel)
	CROSS JOIN LATERAL (SELECT r.rel, (r.rel ->> 0)::oid) AS t (rel, oid)
	WHERE col IS NOT NULL AND rsvp_sync._column_ref(t.oid, 'name') IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._names_of(oid, jsonb, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._names_of(oid, jsonb, text[]) IS
'private: the table of roles or statuses a column refers to; or NULL';

/* Who belongs to a group: a table with a foreign key to the users. */
CREATE FUNCTION rsvp_sync._recognise_members(users jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('rel', rsvp_sync._relation_ref(c.oid),
		'via', rsvp_sync._column_refs(c.oid, k.conkey),
		'group', rsvp_sync._column_ref(c.oid, 'group_id'),
		'role', rsvp_sync._names_of(c.oid, rsvp_sync._column_ref(c.oid,
			'group_role_id', 'role_id'), '{grouproles,grouprole}'))
	FROM pg_constraint k
	JOIN pg_class c ON c.oid = k.conrelid AND NOT c.relispartition
	WHERE k.contype = 'f' AND k.confrelid = (users #>> '{rel,0}')::oid
		AND rsvp_sync._column_refs(k.confrelid, k.confkey)
			= users -> 'ref'
		AND rsvp_sync._plain_name(c.relname::text) IN ('groupmembers',
			'groupmember', 'groupmemberships', 'groupmembership',
			'memberships', 'members')
		AND rsvp_sync._column_ref(c.oid, 'group_id') IS NOT NULL
	ORDER BY c.relname !~* 'group', c.oid
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._recognise_members(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._recognise_members(jsonb) IS
'private: the table of group members, or NULL';

/* What apply needs beyond what the desired query does. */
CREATE FUNCTION rsvp_sync._apply_shape(shape jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'event', jsonb_build_object(
			'source_id', rsvp_sync._column_ref(t.e, 'source_id'),
			'source_url', rsvp_sync._column_ref(t.e, 'source_url'),
			'approval', rsvp_sync._column_ref(t.e, 'require_approval'),
			'members', rsvp_sync._column_ref(t.e, 'require_group_membership'),
			'group', rsvp_sync._column_ref(t.e, 'group_id'),
			'max', rsvp_sync._column_ref(t.e, 'max_attendees'),
			'waitlist', rsvp_sync._column_ref(t.e, 'allow_waitlist')),
		'user', jsonb_build_object(
			'provider', rsvp_sync._column_ref(t.u, 'provider'),
			'social', rsvp_sync._column_ref(t.u, 'social_id'),
			'ulid', rsvp_sync._column_ref(t.u, 'ulid'),
			'slug', rsvp_sync._column_ref(t.u, 'slug'),
			'password', rsvp_sync._column_ref(t.u, 'password'),
			'first', rsvp_sync._column_ref(t.u, 'first_name', 'display_name',
				'name', 'handle', 'username'),
			'status', rsvp_sync._names_of(t.u,
				rsvp_sync._column_ref(t.u, 'status_id'), '{statuses}'),
			'created', rsvp_sync._column_ref(t.u, 'created_at'),
			'updated', rsvp_sync._column_ref(t.u, 'updated_at')),
		'attendance', jsonb_build_object(
			'created', rsvp_sync._column_ref(t.a, 'created_at'),
			'updated', rsvp_sync._column_ref(t.a, 'updated_at'),
			'source_type', rsvp_sync._column_ref(t.a, 'source_type'),
			'source_id', rsvp_sync._column_ref(t.a, 'source_id'),
			'source_url', rsvp_sync._column_ref(t.a, 'source_url'),
			'source_data', rsvp_sync._metadata_ref(t.a, 'source_data'),
			'synced', rsvp_sync._column_ref(t.a, 'last_synced_at'),
			'published', rsvp_sync._column_ref(t.a, 'atproto_uri'),
			'roles', rsvp_sync._names_of(t.a,
				rsvp_sync._column_ref(t.a, 'role_id'), '{eventroles,eventrole}'),
			'role', rsvp_sync._column_ref(t.a, 'role')),
		'members', rsvp_sync._recognise_members(shape -> 'user'))
	FROM (SELECT (shape ->> 'attendance')::oid,
		(shape #>> '{event,rel,0}')::oid, (shape #>> '{user,rel,0}')::oid)
		AS t (a, e, u)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_shape(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_shape(jsonb) IS
'private: the columns that an RSVP made elsewhere touches, by number';

/*
 * Pieces
 */

/* The text by which a row is spoken of; exact says: as its type's output. */
CREATE FUNCTION rsvp_sync._ref_text(alias text, rel jsonb, refs jsonb,
	exact boolean DEFAULT false) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE count(*) WHEN 1 THEN min(c.value)
		ELSE 'jsonb_build_array(' || string_agg(c.value, ', ' ORDER BY c.place)
			|| ')::text' END
	FROM (SELECT r.place, CASE WHEN exact
			THEN 'format(''%s'', ' || l.name || ')' ELSE l.name || '::text' END
		FROM jsonb_array_elements(refs) WITH ORDINALITY AS r (ref, place)
		CROSS JOIN LATERAL (SELECT
			rsvp_sync._live_column(alias, rel, r.ref)) AS l (name))
		AS c (place, value)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._ref_text(text, jsonb, jsonb, boolean)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._ref_text(text, jsonb, jsonb, boolean) IS
'private: expression for the text by which a row is spoken of';

/* The columns and, from that text, their values. */
CREATE FUNCTION rsvp_sync._ref_values(alias text, rel jsonb, refs jsonb,
	parameter text)
RETURNS TABLE (attnum smallint, name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum, rsvp_sync._live_column(alias, rel, r.ref),
		format('(%s)::%s', CASE WHEN jsonb_array_length(refs) = 1
			THEN parameter ELSE format('%s::jsonb ->> %s', parameter,
				r.place - 1) END, format_type(a.atttypid, -1))
	FROM jsonb_array_elements(refs) WITH ORDINALITY AS r (ref, place)
	LEFT JOIN pg_attribute a ON a.attrelid = (rel ->> 0)::oid
		AND a.attnum = (r.ref ->> 0)::smallint
	ORDER BY r.place
$$;
REVOKE ALL ON FUNCTION rsvp_sync._ref_values(text, jsonb, jsonb, text)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._ref_values(text, jsonb, jsonb, text) IS
'private: the columns of a foreign key and their values from a text';

CREATE FUNCTION rsvp_sync._ref_match(alias text, rel jsonb, refs jsonb,
	parameter text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(v.name || ' = ' || v.value, ' AND ')
	FROM rsvp_sync._ref_values(alias, rel, refs, parameter) v
$$;
REVOKE ALL ON FUNCTION rsvp_sync._ref_match(text, jsonb, jsonb, text)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._ref_match(text, jsonb, jsonb, text) IS
'private: condition that finds the row a text speaks of';

CREATE FUNCTION rsvp_sync._is_true(column_name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce('coalesce(lower(' || column_name
		|| '::text) IN (''true'', ''t'', ''1''), false)', 'false')
$$;
REVOKE ALL ON FUNCTION rsvp_sync._is_true(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._is_true(text) IS
'private: condition that a flag is set; false where there is no such column';

/* Now, as the column holds it; NULL for a type that is no moment. */
CREATE FUNCTION rsvp_sync._now_for(rel jsonb, ref jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE rsvp_sync._column_type((rel ->> 0)::oid, ref)
		WHEN 'timestamptz'::regtype THEN 'CURRENT_TIMESTAMP'
		WHEN 'timestamp'::regtype
			THEN '(CURRENT_TIMESTAMP AT TIME ZONE ''UTC'')'
		WHEN 'date'::regtype THEN 'CURRENT_DATE' END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._now_for(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._now_for(jsonb, jsonb) IS
'private: expression for the present moment';

/* The labels of an enum column; NULL if it takes any text. */
CREATE FUNCTION rsvp_sync._labels(rel jsonb, ref jsonb) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
	FROM pg_enum e
	WHERE e.enumtypid = rsvp_sync._column_type((rel ->> 0)::oid, ref)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._labels(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._labels(jsonb, jsonb) IS
'private: an enum column''s labels, or NULL';

/* A text as a value of the column, or NULL if it does not fit there. */
CREATE FUNCTION rsvp_sync._fitted(rel jsonb, ref jsonb, value text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN l.labels IS NOT NULL THEN format('CASE WHEN %s = ANY (%L::text[])'
			' THEN (%1$s)::%3$s END', value, l.labels,
			format_type(a.atttypid, -1))
		WHEN a.atttypmod > 4 AND a.atttypid IN ('varchar'::regtype,
			'bpchar'::regtype)
			THEN format('CASE WHEN length(%s) <= %s THEN %1$s END', value,
				a.atttypmod - 4)
		ELSE format('(%s)::%s', value, format_type(a.atttypid, -1)) END
	FROM pg_attribute a
	CROSS JOIN LATERAL (SELECT rsvp_sync._labels(rel, ref)) AS l (labels)
	WHERE a.attrelid = (rel ->> 0)::oid AND a.attnum = (ref ->> 0)::smallint
		AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION rsvp_sync._fitted(jsonb, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._fitted(jsonb, jsonb, text) IS
'private: expression for a column''s value from a text, NULL if it is too long or no label';

/* Columns that want a value of us and get none. */
CREATE FUNCTION rsvp_sync._unfilled(rel jsonb, filled smallint[])
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	WHERE a.attrelid = (rel ->> 0)::oid AND a.attnum > 0
		AND NOT a.attisdropped AND (a.attnotnull OR t.typnotnull)
		AND NOT a.atthasdef AND t.typdefault IS NULL AND a.attidentity = ''
		AND a.attnum <> ALL (filled)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._unfilled(jsonb, smallint[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._unfilled(jsonb, smallint[]) IS
'private: columns without a default that must not be null, beyond these';

/* What an INSERT gives a new row, whoever it is, where nothing else does. */
CREATE FUNCTION rsvp_sync._usual_values(rel jsonb, times jsonb)
RETURNS TABLE (attnum smallint, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum, CASE WHEN k.attnum IS NOT NULL
			THEN 'gen_random_uuid()'
		ELSE rsvp_sync._now_for(rel, jsonb_build_array(a.attnum)) END
	FROM pg_attribute a
	LEFT JOIN rsvp_sync._key_columns((rel ->> 0)::oid) k
		ON k.attnum = a.attnum AND a.atttypid = 'uuid'::regtype
	WHERE a.attrelid = (rel ->> 0)::oid AND NOT a.attisdropped
		AND NOT a.atthasdef AND a.attidentity = ''
		AND (k.attnum IS NOT NULL OR a.attnum IN (
			SELECT (t.ref ->> 0)::smallint FROM jsonb_array_elements(times)
				AS t (ref) WHERE t.ref ->> 0 IS NOT NULL))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._usual_values(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._usual_values(jsonb, jsonb) IS
'private: a new row''s uuid and times, where the table has no default for them';

/* The id of what has this name, in a table of names. */
CREATE FUNCTION rsvp_sync._id_of_name(names jsonb, name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel jsonb := names -> 'rel';
BEGIN
	IF rel ->> 0 IS NULL THEN
		RETURN NULL;
	END IF;
	RETURN format('(SELECT r.%s FROM %s r WHERE lower(r.%s::text) = %L'
		' ORDER BY 1 LIMIT 1)',
		rsvp_sync._live_column(NULL, rel, names -> 'ref'),
		rsvp_sync._live_relation(rel),
		rsvp_sync._live_column(NULL, rel, names -> 'name'), name);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._id_of_name(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._id_of_name(jsonb, text) IS
'private: expression for the id of a role or status by its name';

/*
 * Finding.  Each statement numbers its answers by the place of the question.
 */

/* What an event says about who may come, after its number and reference. */
CREATE FUNCTION rsvp_sync._event_facts(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat_ws(', ',
		rsvp_sync._ref_text('e', t.rel, shape #> '{event,ref}'),
		rsvp_sync._is_true(
			rsvp_sync._spare_column('e', t.rel, t.more -> 'approval')),
		rsvp_sync._is_true(
			rsvp_sync._spare_column('e', t.rel, t.more -> 'members')),
		coalesce(rsvp_sync._spare_column('e', t.rel, t.more -> 'group'),
			'NULL') || '::text',
		CASE WHEN rsvp_sync._column_type((t.rel ->> 0)::oid, t.more -> 'max')
				IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
			THEN rsvp_sync._spare_column('e', t.rel, t.more -> 'max') || '::bigint'
			ELSE 'NULL::bigint' END,
		rsvp_sync._is_true(
			rsvp_sync._spare_column('e', t.rel, t.more -> 'waitlist')))
	FROM (SELECT shape #> '{event,rel}', shape #> '{apply,event}')
		AS t (rel, more)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._event_facts(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._event_facts(jsonb) IS
'private: an event''s reference and its rules of admission';

/* Only an event that is published can be answered from outside. */
CREATE FUNCTION rsvp_sync._event_is_public(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(rsvp_sync._live_column('e', shape #> '{event,rel}',
		shape #> '{event,visibility}') || '::text = ''public''', 'true')
$$;
REVOKE ALL ON FUNCTION rsvp_sync._event_is_public(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._event_is_public(jsonb) IS
'private: condition on an event''s visibility';

/* By the at-uri that the application published it under. */
CREATE FUNCTION rsvp_sync._find_own_events(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n, %s FROM unnest($1::text[], $2::text[])'
			' WITH ORDINALITY AS q (uri, source, n)'
			' JOIN %s e ON %s = q.uri WHERE %s ORDER BY 1, 2',
		rsvp_sync._event_facts(shape),
		rsvp_sync._live_relation(t.rel), t.uri,
		rsvp_sync._event_is_public(shape))
	FROM (SELECT shape #> '{event,rel}', rsvp_sync._live_column('e',
		shape #> '{event,rel}', shape #> '{event,uri}')) AS t (rel, uri)
	WHERE t.uri IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_own_events(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_own_events(jsonb) IS
'private: SELECT of events by the uri they were published under: $1 uris, $2 sources; NULL if there is no such column';

/*
 * By where it was imported from: the record's did and key, or the source's
 * id; what is no at-uri by the source's id or url.  A source of NULL is any.
 */
CREATE FUNCTION rsvp_sync._find_imported_events(shape jsonb, records boolean)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel jsonb := shape #> '{event,rel}';
	more jsonb := shape #> '{apply,event}';
	type text := rsvp_sync._live_column('e', rel, shape #> '{event,source_type}');
	data text := rsvp_sync._live_column('e', rel, shape #> '{event,source_data}');
	own text := rsvp_sync._live_column('e', rel, shape #> '{event,uri}');
	branches text;
BEGIN
	SELECT string_agg(format('SELECT q.n, %s, %s FROM q JOIN %s e ON %s'
			' WHERE %s', b.how, rsvp_sync._event_facts(shape),
			rsvp_sync._live_relation(rel), format(b.condition, b.col, type),
			concat_ws(' AND ',
				rsvp_sync._event_is_public(shape),
				CASE WHEN records THEN
					'nullif(' || own || '::text, '''') IS NULL' END)),
		' UNION ALL ' ORDER BY b.how) INTO branches
	FROM (VALUES
		(1, data, '(%s ->> ''rkey'') = split_part(q.uri, ''/'', 5)'
			' AND (%1$s ->> ''did'') = split_part(q.uri, ''/'', 3)'
			' AND q.uri LIKE ''at://%%/community.lexicon.calendar.event/%%'''
			' AND lower(%2$s::text) = ''bluesky'''),
		(2, rsvp_sync._spare_column('e', rel, more -> 'source_id'),
			'%s = q.uri AND lower(%2$s::text)'
			' = coalesce(q.source, lower(%2$s::text))'),
		(3, rsvp_sync._spare_column('e', rel, more -> 'source_url'),
			'%s = q.uri AND lower(%2$s::text)'
			' = coalesce(q.source, lower(%2$s::text))')
		) AS b (how, col, condition)
	WHERE type IS NOT NULL AND b.col IS NOT NULL
		AND b.how <> CASE WHEN records THEN 3 ELSE 1 END;
	IF branches IS NULL THEN
		RETURN NULL;
	END IF;
	RETURN format('WITH q AS MATERIALIZED (SELECT u.* FROM'
		' unnest($1::text[], $2::text[])'
		' WITH ORDINALITY AS u (uri, source, n))'
		' SELECT f.n, f.ref, f.approval, f.members, f.grp, f.max, f.waitlist'
		' FROM (%s) AS f (n, how, ref, approval, members, grp, max, waitlist)'
		' ORDER BY f.n, f.how, f.ref', branches);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_imported_events(jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_imported_events(jsonb, boolean) IS
'private: SELECT of events by where they were imported from: $1 uris, $2 sources; NULL if there are no such columns';

CREATE FUNCTION rsvp_sync._user_facts(shape jsonb, OUT ref text,
	OUT shadow text, OUT there text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._ref_text('u', t.rel, shape #> '{user,ref}'),
		rsvp_sync._is_true(
			rsvp_sync._spare_column('u', t.rel, shape #> '{user,shadow}')),
		coalesce(rsvp_sync._spare_column('u', t.rel, shape #> '{user,deleted}')
			|| ' IS NULL', 'true')
	FROM (SELECT shape #> '{user,rel}') AS t (rel)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._user_facts(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._user_facts(jsonb) IS
'private: a user''s reference, whether it is a shadow, and that it was not deleted';

/* By the table of identities. */
CREATE FUNCTION rsvp_sync._find_users_by_identity(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n, %s, %s FROM unnest($1::text[], $2::text[])'
			' WITH ORDINALITY AS q (did, provider, n)'
			' JOIN %s i ON %s = q.did JOIN %s u ON %s'
			' WHERE q.provider = ''bluesky'' AND %s ORDER BY 1, 2',
		f.ref, f.shadow, rsvp_sync._live_relation(t.i -> 'rel'),
		rsvp_sync._live_column('i', t.i -> 'rel', t.i -> 'did'),
		rsvp_sync._live_relation(t.u -> 'rel'),
		rsvp_sync._join_condition('i', t.i -> 'rel', t.i -> 'ref',
			'u', t.u -> 'rel', t.i -> 'via'), f.there)
	FROM (SELECT shape -> 'identity', shape -> 'user') AS t (i, u)
	CROSS JOIN LATERAL rsvp_sync._user_facts(shape) f
	WHERE jsonb_typeof(t.i) = 'object'
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_users_by_identity(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_users_by_identity(jsonb) IS
'private: SELECT of users by did: $1 dids, $2 providers; NULL if there is no table of identities';

/* By what the user's own row says: preferences, then the provider's id. */
CREATE FUNCTION rsvp_sync._find_users(shape jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel jsonb := shape #> '{user,rel}';
	more jsonb := shape #> '{apply,user}';
	provider text := rsvp_sync._spare_column('u', rel, more -> 'provider');
	facts record;
	branches text;
BEGIN
	SELECT * INTO facts FROM rsvp_sync._user_facts(shape);
	SELECT string_agg(format('SELECT q.n, %s, %s, %s FROM q JOIN %s u ON %s'
			' WHERE %s', b.how, facts.ref, facts.shadow,
			rsvp_sync._live_relation(rel),
			format(b.condition, b.col, provider), facts.there),
		' UNION ALL ' ORDER BY b.how) INTO branches
	FROM (VALUES
		(1, rsvp_sync._spare_column('u', rel, shape #> '{user,preferences}'),
			'((%s -> ''bluesky'') ->> ''did'') = q.did'
			' AND q.provider = ''bluesky'''),
		(2, CASE WHEN provider IS NOT NULL THEN
				rsvp_sync._spare_column('u', rel, more -> 'social') END,
			'%s = q.did AND lower(%2$s::text) = q.provider')
		) AS b (how, col, condition)
	WHERE b.col IS NOT NULL;
	IF branches IS NULL THEN
		RETURN NULL;
	END IF;
	RETURN format('WITH q AS MATERIALIZED (SELECT d.* FROM'
		' unnest($1::text[], $2::text[])'
		' WITH ORDINALITY AS d (did, provider, n))'
		' SELECT f.n, f.ref, f.shadow FROM (%s) AS f (n, how, ref, shadow)'
		' ORDER BY f.n, f.how, f.ref', branches);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_users(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_users(jsonb) IS
'private: SELECT of users by preferences and provider: $1 dids, $2 providers; NULL if there are no such columns';

/*
 * A user for somebody who has none here: no mail address, no password, not
 * connected, so that nothing is ever published for him.
 */
CREATE FUNCTION rsvp_sync._create_users(shape jsonb,
	OUT sql text, OUT problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel jsonb := shape #> '{user,rel}';
	more jsonb := shape #> '{apply,user}';
	names text;
	vals text;
	filled smallint[];
	unfilled text;
BEGIN
	WITH given (ref, value) AS (VALUES
		(shape #> '{user,shadow}', 'true'),
		(shape #> '{user,preferences}', 'CASE WHEN q.provider = ''bluesky'''
			' THEN jsonb_build_object(''bluesky'', jsonb_strip_nulls('
			'jsonb_build_object(''did'', q.did, ''handle'', q.handle)))'
			' ELSE ''{}'' END'),
		(more -> 'provider', 'q.provider'),
		(more -> 'social', 'q.did'),
		(more -> 'ulid', 'q.ulid'),
		(more -> 'slug', 'q.slug'),
		(more -> 'password', ''''''),
		(more -> 'first', 'coalesce(q.handle, q.did)'),
		(more #> '{status,via}',
			rsvp_sync._id_of_name(more -> 'status', 'active'))),
	columns (attnum, value) AS (
		SELECT a.attnum, CASE WHEN g.value LIKE 'q.%' OR g.value LIKE 'coal%'
				THEN rsvp_sync._fitted(rel, g.ref, g.value)
			ELSE format('(%s)::%s', g.value, format_type(a.atttypid, -1)) END
		FROM given g JOIN pg_attribute a ON a.attrelid = (rel ->> 0)::oid
			AND g.value IS NOT NULL AND a.attnum = (g.ref ->> 0)::smallint AND NOT a.attisdropped
			AND a.attgenerated = '' AND a.attidentity = ''
		UNION ALL
		SELECT v.attnum, v.value FROM rsvp_sync._usual_values(rel,
			jsonb_build_array(more -> 'created', more -> 'updated')) v)
	SELECT array_agg(c.attnum), string_agg(quote_ident(a.attname), ', '
			ORDER BY c.attnum), string_agg(c.value, ', ' ORDER BY c.attnum)
		INTO filled, names, vals
	FROM columns c JOIN pg_attribute a ON a.attrelid = (rel ->> 0)::oid
		AND a.attnum = c.attnum AND c.value IS NOT NULL;

	unfilled := rsvp_sync._unfilled(rel, filled);
	IF unfilled IS NOT NULL THEN
		problem := format('a user cannot be created in table %s: '
			'it wants values for %s', rel ->> 1, unfilled);
		RETURN;
	END IF;
	sql := format('INSERT INTO %s (%s) SELECT %s FROM unnest($1::text[],'
		' $2::text[], $3::text[], $4::text[], $5::text[])'
		' AS q (did, provider, handle, ulid, slug)',
		rsvp_sync._live_relation(rel), names, vals);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._create_users(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._create_users(jsonb) IS
'private: INSERT of shadow users: $1 dids, $2 providers, $3 handles, $4 ulids, $5 slugs; or why there can be none';

/* Which of these users belong to these groups, more than as a guest? */
CREATE FUNCTION rsvp_sync._find_members(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n FROM unnest($1::text[], $2::text[])'
			' WITH ORDINALITY AS q (us, grp, n) WHERE EXISTS (SELECT FROM %s m'
			'%s WHERE %s AND %s%s)',
		rsvp_sync._live_relation(t.m -> 'rel'),
		CASE WHEN r.name IS NOT NULL THEN format(' JOIN %s r ON %s = %s',
			rsvp_sync._live_relation(t.m #> '{role,rel}'),
			rsvp_sync._live_column('r', t.m #> '{role,rel}', t.m #> '{role,ref}'),
			rsvp_sync._live_column('m', t.m -> 'rel', t.m #> '{role,via}')) END,
		rsvp_sync._ref_match('m', t.m -> 'rel', t.m -> 'via', 'q.us'),
		rsvp_sync._ref_match('m', t.m -> 'rel',
			jsonb_build_array(t.m -> 'group'), 'q.grp'),
		' AND lower(' || r.name || '::text) <> ''guest''')
	FROM (SELECT shape #> '{apply,members}') AS t (m)
	CROSS JOIN LATERAL (SELECT rsvp_sync._spare_column('r',
		t.m #> '{role,rel}', t.m #> '{role,name}')) AS r (name)
	WHERE jsonb_typeof(t.m) = 'object'
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_members(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_members(jsonb) IS
'private: SELECT of the numbers of those who are members: $1 users, $2 groups; NULL if no table of members is known';

/*
 * Attendance
 */

/* What an attendance word stands for, as an expression. */
CREATE FUNCTION rsvp_sync._meaning(word text, map jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce('CASE ' || word || string_agg(format(' WHEN %L THEN %L',
		m.key, m.value #>> '{}'), '' ORDER BY m.key) || ' END', 'NULL::text')
	FROM jsonb_each(map) m WHERE jsonb_typeof(m.value) = 'string'
$$;
REVOKE ALL ON FUNCTION rsvp_sync._meaning(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._meaning(text, jsonb) IS
'private: expression for going, interested, notgoing or NULL';

/*
 * Columns that tell where a row came from, as OpenMeet's ingestion sets them.
 * A row that we published keeps what it has.
 */
CREATE FUNCTION rsvp_sync._import_columns(shape jsonb)
RETURNS TABLE (attnum smallint, name text, old text, value text,
	counts boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (c.ref ->> 0)::smallint,
		rsvp_sync._spare_column(NULL, t.a, c.ref),
		rsvp_sync._spare_column('a', t.a, c.ref), c.value, c.counts
	FROM (SELECT rsvp_sync._relation_ref((shape ->> 'attendance')::oid),
		shape #> '{apply,attendance}') AS t (a, more)
	CROSS JOIN LATERAL (SELECT rsvp_sync._spare_column('a', t.a,
		t.more -> 'source_data')) AS d (name)
	CROSS JOIN LATERAL (VALUES
		(t.more -> 'source_type',
			rsvp_sync._fitted(t.a, t.more -> 'source_type', 'q.st'), true),
		(t.more -> 'source_id',
			rsvp_sync._fitted(t.a, t.more -> 'source_id', 'q.si'), true),
		(t.more -> 'source_url',
			rsvp_sync._fitted(t.a, t.more -> 'source_url', 'q.su'), true),
		(t.more -> 'source_data', format('CASE WHEN q.sd IS NULL THEN %s'
			' WHEN jsonb_typeof(%1$s) = ''object'' THEN %1$s || (q.sd::jsonb'
			' - CASE WHEN %1$s ? ''originalCreatedAt'''
			' THEN ''originalCreatedAt'' ELSE '''' END)'
			' ELSE q.sd::jsonb END', d.name), true),
		(t.more -> 'synced', rsvp_sync._now_for(t.a, t.more -> 'synced'),
			false)) AS c (ref, value, counts)
	WHERE rsvp_sync._spare_column('a', t.a, c.ref) IS NOT NULL
		AND c.value IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._import_columns(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._import_columns(jsonb) IS
'private: columns that say where a row came from, and their values; counts: a difference is a change';

/* May the import columns be written?  Not in a row that we published. */
CREATE FUNCTION rsvp_sync._imported(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat('q.st IS NOT NULL', ' AND nullif(' || rsvp_sync._spare_column(
		'a', rsvp_sync._relation_ref((shape ->> 'attendance')::oid),
		shape #> '{apply,attendance,published}') || '::text, '''') IS NULL')
$$;
REVOKE ALL ON FUNCTION rsvp_sync._imported(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._imported(jsonb) IS
'private: condition under which import columns are written';

CREATE FUNCTION rsvp_sync._find_attendance(shape jsonb, map jsonb)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n, %s, %s::text, %s, NOT (%s) FROM'
			' unnest($1::text[], $2::text[], $3::text[], $4::text[],'
			' $5::text[], $6::text[])'
			' WITH ORDINALITY AS q (ev, us, st, si, su, sd, n)'
			' JOIN %s a ON %s AND %s ORDER BY 1, %s 2 DESC',
		rsvp_sync._ref_text('a', t.a, t.key, true), t.status,
		rsvp_sync._meaning(t.status || '::text', map),
		coalesce(rsvp_sync._imported(shape) || ' AND (' || i.differs || ')',
			'false'),
		rsvp_sync._live_relation(t.a),
		rsvp_sync._ref_match('a', t.a, shape #> '{event,via}', 'q.ev'),
		rsvp_sync._ref_match('a', t.a, shape #> '{user,via}', 'q.us'),
		rsvp_sync._spare_column('a', t.a, shape #> '{apply,attendance,updated}')
			|| ' DESC NULLS LAST,')
	FROM (SELECT r.a, rsvp_sync._live_column('a', r.a, shape -> 'status'),
			(SELECT jsonb_agg(jsonb_build_array(k.attnum, k.name)
				ORDER BY k.place) FROM rsvp_sync._key_columns(
				(shape ->> 'attendance')::oid) k)
		FROM (SELECT rsvp_sync._relation_ref((shape ->> 'attendance')::oid))
			AS r (a)) AS t (a, status, key)
	CROSS JOIN LATERAL (SELECT string_agg(format('%s IS DISTINCT FROM %s',
		c.old, c.value), ' OR ') FROM rsvp_sync._import_columns(shape) c
		WHERE c.counts) AS i (differs)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_attendance(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_attendance(jsonb, jsonb) IS
'private: SELECT of attendance rows, their key, status, its meaning and whether their source columns are right: $1 events, $2 users, $3 to $6 source type, id, url and data';

/* By what a row was told of its record, or what it was imported from. */
CREATE FUNCTION rsvp_sync._find_told(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n, %s FROM unnest($1::text[], $2::text[])'
			' WITH ORDINALITY AS q (us, uri, n) JOIN %s a ON %s'
			' WHERE q.uri IN (%s) ORDER BY 1, 2',
		rsvp_sync._ref_text('a', t.a, t.key, true),
		rsvp_sync._live_relation(t.a),
		rsvp_sync._ref_match('a', t.a, shape #> '{user,via}', 'q.us'), u.uris)
	FROM (SELECT r.a, (SELECT jsonb_agg(jsonb_build_array(k.attnum, k.name)
				ORDER BY k.place) FROM rsvp_sync._key_columns(
				(shape ->> 'attendance')::oid) k)
		FROM (SELECT rsvp_sync._relation_ref((shape ->> 'attendance')::oid))
			AS r (a)) AS t (a, key)
	CROSS JOIN LATERAL (SELECT string_agg(c.uri, ', ') FROM (VALUES
		(rsvp_sync._spare_column('a', t.a, shape #> '{writeback,uri,column}')
			|| coalesce('::jsonb ->> ' || quote_literal(
				shape #>> '{writeback,uri,path}'), '::text')),
		(rsvp_sync._spare_column('a', t.a,
			shape #> '{apply,attendance,source_id}') || '::text'))
		AS c (uri)) AS u (uris)
	WHERE u.uris IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_told(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_told(jsonb) IS
'private: SELECT of attendance rows by the at-uri written in them: $1 users, $2 uris; NULL if there is no such column';

CREATE FUNCTION rsvp_sync._count_going(shape jsonb, map jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT q.n, (SELECT count(*) FROM %s a WHERE %s'
			' AND %s = ''going'') FROM unnest($1::text[])'
			' WITH ORDINALITY AS q (ev, n) ORDER BY 1',
		rsvp_sync._live_relation(t.a),
		rsvp_sync._ref_match('a', t.a, shape #> '{event,via}', 'q.ev'),
		rsvp_sync._meaning(rsvp_sync._live_column('a', t.a, shape -> 'status')
			|| '::text', map))
	FROM (SELECT rsvp_sync._relation_ref((shape ->> 'attendance')::oid))
		AS t (a)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._count_going(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._count_going(jsonb, jsonb) IS
'private: SELECT of how many are going: $1 events';

/* Only as long as the row has the status that was decided upon. */
CREATE FUNCTION rsvp_sync._update_attendance(shape jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a jsonb := rsvp_sync._relation_ref((shape ->> 'attendance')::oid);
	status text := rsvp_sync._live_column(NULL, a, shape -> 'status');
	updated jsonb := shape #> '{apply,attendance,updated}';
	assignments text;
	key text;
BEGIN
	SELECT string_agg(format(', %s = CASE WHEN %s THEN %s ELSE %s END',
			c.name, rsvp_sync._imported(shape), c.value, c.old), '')
		INTO assignments FROM rsvp_sync._import_columns(shape) c;
	SELECT rsvp_sync._ref_match('a', a, jsonb_agg(
		jsonb_build_array(k.attnum, k.name) ORDER BY k.place), 'q.key')
		INTO key FROM rsvp_sync._key_columns((shape ->> 'attendance')::oid) k;
	RETURN format('UPDATE %s a SET %s = q.word::%s%s%s FROM'
		' unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],'
		' $6::text[], $7::text[]) AS q (key, was, word, st, si, su, sd)'
		' WHERE %s AND a.%2$s::text IS NOT DISTINCT FROM q.was',
		rsvp_sync._live_relation(a), status,
		(SELECT format_type(t.atttypid, -1) FROM pg_attribute t
			WHERE t.attrelid = (a ->> 0)::oid
				AND t.attnum = (shape #>> '{status,0}')::smallint),
		assignments, (SELECT format(', %s = %s', rsvp_sync._spare_column(NULL,
			a, updated), rsvp_sync._now_for(a, updated))
			WHERE rsvp_sync._now_for(a, updated) IS NOT NULL), key);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._update_attendance(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._update_attendance(jsonb) IS
'private: UPDATE of attendance rows: $1 keys, $2 status seen, $3 new status, $4 to $7 source type, id, url and data';

CREATE FUNCTION rsvp_sync._insert_attendance(shape jsonb,
	OUT sql text, OUT problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a jsonb := rsvp_sync._relation_ref((shape ->> 'attendance')::oid);
	more jsonb := shape #> '{apply,attendance}';
	names text;
	vals text;
	filled smallint[];
	unfilled text;
	key jsonb;
BEGIN
	WITH columns (attnum, value, place) AS (
		SELECT v.attnum, v.value, 1 FROM rsvp_sync._ref_values(NULL, a,
			shape #> '{event,via}', 'q.ev') v
		UNION ALL
		SELECT v.attnum, v.value, 2 FROM rsvp_sync._ref_values(NULL, a,
			shape #> '{user,via}', 'q.us') v
		UNION ALL
		SELECT (shape #>> '{status,0}')::smallint, 'q.word::'
			|| format_type(t.atttypid, -1), 3 FROM pg_attribute t
		WHERE t.attrelid = (a ->> 0)::oid
			AND t.attnum = (shape #>> '{status,0}')::smallint
		UNION ALL
		SELECT (more #>> '{roles,via,0}')::smallint,
			rsvp_sync._id_of_name(more -> 'roles', 'participant'), 3
		WHERE rsvp_sync._spare_column(NULL, a, more #> '{roles,via}')
			IS NOT NULL
		UNION ALL
		SELECT t.attnum, rsvp_sync._fitted(a, more -> 'role',
			'''participant''::text'), 3 FROM pg_attribute t
		WHERE t.attrelid = (a ->> 0)::oid AND t.attnotnull
			AND t.attnum = (more #>> '{role,0}')::smallint
			AND NOT t.atthasdef AND NOT t.attisdropped
		UNION ALL
		SELECT c.attnum, format('CASE WHEN q.st IS NOT NULL THEN %s END',
			replace(c.value, coalesce(rsvp_sync._spare_column('a', a,
				more -> 'source_data'), ''), 'NULL::jsonb')), 3
		FROM rsvp_sync._import_columns(shape) c
		UNION ALL
		SELECT v.attnum, v.value, 4 FROM rsvp_sync._usual_values(a,
			jsonb_build_array(more -> 'created', more -> 'updated')) v),
	once AS (SELECT DISTINCT ON (c.attnum) c.attnum, c.value FROM columns c
		WHERE c.value IS NOT NULL ORDER BY c.attnum, c.place)
	SELECT array_agg(c.attnum), string_agg(quote_ident(t.attname), ', '
			ORDER BY c.attnum), string_agg(c.value, ', ' ORDER BY c.attnum)
		INTO filled, names, vals
	FROM once c JOIN pg_attribute t ON t.attrelid = (a ->> 0)::oid
		AND t.attnum = c.attnum AND NOT t.attisdropped;

	unfilled := rsvp_sync._unfilled(a, filled);
	IF unfilled IS NOT NULL THEN
		problem := format('a row cannot be created in table %s: '
			'it wants values for %s', a ->> 1, unfilled);
		RETURN;
	END IF;
	SELECT jsonb_agg(jsonb_build_array(k.attnum, k.name) ORDER BY k.place)
		INTO key FROM rsvp_sync._key_columns((shape ->> 'attendance')::oid) k;
	sql := format('WITH q AS MATERIALIZED (SELECT v.* FROM unnest($1::text[],'
		' $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],'
		' $7::text[]) WITH ORDINALITY'
		' AS v (ev, us, word, st, si, su, sd, n)),'
		' a AS (INSERT INTO %s (%s) SELECT %s FROM q ORDER BY q.n'
		' RETURNING *)'
		' SELECT q.n, %s FROM q JOIN a ON %s AND %s ORDER BY 1',
		rsvp_sync._live_relation(a), names, vals,
		rsvp_sync._ref_text('a', a, key, true),
		rsvp_sync._ref_match('a', a, shape #> '{event,via}', 'q.ev'),
		rsvp_sync._ref_match('a', a, shape #> '{user,via}', 'q.us'));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._insert_attendance(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._insert_attendance(jsonb) IS
'private: INSERT of attendance rows, which returns number and key: $1 events, $2 users, $3 status, $4 to $7 source type, id, url and data; or why there can be none';
