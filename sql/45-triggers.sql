/*
 * What attach() leaves on application tables: triggers and an index.  They
 * depend on the extension, so that a plain DROP EXTENSION takes them along;
 * nothing of ours depends on a column of the application.
 */

/*
 * The commands ALTER TRIGGER and ALTER INDEX … DEPENDS ON EXTENSION take an
 * ACCESS EXCLUSIVE lock; the entry in pg_depend needs none.
 */
CREATE FUNCTION rsvp_sync._depend_on_extension(catalog regclass, object oid)
RETURNS void
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_depend_on_extension';
REVOKE ALL ON FUNCTION rsvp_sync._depend_on_extension(regclass, oid)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._depend_on_extension(regclass, oid) IS
'private: DROP EXTENSION rsvp_sync drops this trigger or index too';

CREATE FUNCTION rsvp_sync._watched_columns(relation oid, VARIADIC refs jsonb[])
RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(array_agg(DISTINCT a.attname::text ORDER BY
		a.attname::text), '{}')
	FROM unnest(refs) AS r (ref)
	CROSS JOIN LATERAL jsonb_path_query(r.ref, '$[*] ? (@.type() == "number")')
		AS n (attnum)
	JOIN pg_attribute a ON a.attrelid = relation
		AND a.attnum = (n.attnum #>> '{}')::smallint AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION rsvp_sync._watched_columns(oid, jsonb[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._watched_columns(oid, jsonb[]) IS
'private: names of the columns that these column references mean';

/*
 * Which columns of the attendance table matter.  Of a recognised schema the
 * query's; else all but those that only we write.  A jsonb column that holds
 * the write-back may hold more, and is watched.
 */
CREATE FUNCTION rsvp_sync._attendance_arguments(s rsvp_sync._source)
RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY[s.source_id::text, '']
		|| CASE
		WHEN s.options ? 'watch' THEN ARRAY['watch'] || ARRAY(
			SELECT w.name
			FROM jsonb_array_elements_text(s.options -> 'watch') AS w (name)
			ORDER BY w.name)
		WHEN s.kind IN ('plan', 'openmeet') THEN ARRAY['watch']
			|| rsvp_sync._watched_columns(s.attendance,
				(SELECT jsonb_agg(k.attnum)
				FROM rsvp_sync._key_columns(s.attendance) k),
				s.shape -> 'status', s.shape -> 'metadata',
				jsonb_path_query_array(s.shape, '$.event.via[*][0]'),
				jsonb_path_query_array(s.shape, '$.user.via[*][0]'))
		ELSE ARRAY['ignore'] || rsvp_sync._watched_columns(s.attendance,
			jsonb_path_query_array(s.shape,
				'$.writeback.* ? (@.path == null).column[0]'))
		END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._attendance_arguments(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._attendance_arguments(rsvp_sync._source) IS
'private: arguments of the attendance table''s row trigger';

/* Of a table the query depends on: what it uses; unknown means everything. */
CREATE FUNCTION rsvp_sync._dependency_arguments(s rsvp_sync._source,
	dep integer) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY[s.source_id::text, $2::text]
		|| CASE WHEN d.dep ->> 'part' IS NULL THEN '{ignore}'::text[]
		ELSE ARRAY['watch'] || rsvp_sync._watched_columns(
			(d.dep #>> '{rel,0}')::oid,
			VARIADIC (SELECT array_agg(e.value) FROM jsonb_each(d.dep) e
				WHERE e.key NOT IN ('rel', 'via', 'part', 'ref'))
			|| jsonb_path_query_array(d.dep, '$.ref[*][0]')
			|| CASE d.dep ->> 'part' WHEN 'user' THEN
				jsonb_path_query_array(s.shape, '$.identity.via[*][0]')
				ELSE '[]' END)
		END
	FROM (SELECT s.shape #> ARRAY['depends', ($2 - 1)::text]) AS d (dep)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._dependency_arguments(rsvp_sync._source,
	integer) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._dependency_arguments(rsvp_sync._source,
	integer) IS
'private: arguments of the row trigger on a table the query depends on';

/* Trigger arguments as pg_trigger keeps them, in hexadecimal. */
CREATE FUNCTION rsvp_sync._argument_bytes(arguments text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(encode(convert_to(u.arg,
		getdatabaseencoding()), 'hex') || '00', '' ORDER BY u.place)
	FROM unnest(arguments) WITH ORDINALITY AS u (arg, place)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._argument_bytes(text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._argument_bytes(text[]) IS
'private: how pg_trigger.tgargs holds these arguments';

/* Our triggers of one source, wherever they are. */
CREATE FUNCTION rsvp_sync._triggers(source_id bigint)
RETURNS TABLE (relation regclass, name text, oid oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.tgrelid::regclass, t.tgname::text, t.oid
	FROM pg_trigger t
	JOIN pg_proc p ON p.oid = t.tgfoid
		AND p.proname IN ('_log_change', '_log_truncate')
		AND p.pronamespace = 'rsvp_sync'::regnamespace
	WHERE t.tgparentid = 0 AND starts_with(encode(t.tgargs, 'hex'),
		rsvp_sync._argument_bytes(ARRAY[source_id::text]))
	ORDER BY t.tgname <> 'rsvp_sync_log', t.tgname
$$;
REVOKE ALL ON FUNCTION rsvp_sync._triggers(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._triggers(bigint) IS
'private: the triggers that log for a source';

/* A trigger as it has to be; one that already is so is left alone. */
CREATE FUNCTION rsvp_sync._put_trigger(relation oid, name text,
	truncation boolean, arguments text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target text := rsvp_sync._live_relation(rsvp_sync._relation_ref(relation));
	old record;
BEGIN
	SELECT t.oid, t.tgenabled, encode(t.tgargs, 'hex') AS args,
		t.tgfoid IN (SELECT p.oid FROM pg_proc p
			WHERE p.pronamespace = 'rsvp_sync'::regnamespace) AS ours
		INTO old
	FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = name;
	IF FOUND THEN
		IF NOT old.ours THEN
			RAISE EXCEPTION 'table % already has a trigger "%"', target, name
				USING ERRCODE = 'duplicate_object',
					HINT = 'Give that trigger another name.';
		END IF;
		IF old.tgenabled = 'A'
			AND old.args = rsvp_sync._argument_bytes(arguments)
		THEN
			RETURN;
		END IF;
		EXECUTE format('DROP TRIGGER %I ON %s', name, target);
	END IF;
	EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH %s '
		'EXECUTE FUNCTION rsvp_sync.%I(%s)', name,
		CASE WHEN truncation THEN 'TRUNCATE'
			ELSE 'INSERT OR UPDATE OR DELETE' END,
		target,
		CASE WHEN truncation THEN 'STATEMENT' ELSE 'ROW' END,
		CASE WHEN truncation THEN '_log_truncate' ELSE '_log_change' END,
		(SELECT string_agg(quote_literal(u.arg), ', ' ORDER BY u.place)
			FROM unnest(arguments) WITH ORDINALITY AS u (arg, place)));
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target, name);
	PERFORM rsvp_sync._depend_on_extension('pg_trigger', t.oid)
	FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = name;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._put_trigger(oid, text, boolean, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._put_trigger(oid, text, boolean, text[]) IS
'private: make or correct one trigger; duplicate_object if somebody else''s has its name';

/*
 * All triggers of a source.  The tables it depends on come first, as in an
 * application that deletes an event and, by cascade, its attendance.
 */
CREATE FUNCTION rsvp_sync._put_triggers(s rsvp_sync._source) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
	keep text[] := '{rsvp_sync_log,rsvp_sync_truncate}';
	name text;
BEGIN
	FOR t IN
		SELECT (d.dep #>> '{rel,0}')::oid AS relation, d.place::integer AS n
		FROM jsonb_array_elements(s.shape -> 'depends')
			WITH ORDINALITY AS d (dep, place)
	LOOP
		name := format('rsvp_sync_depends_%s_%s', s.source_id, t.n);
		keep := keep || name;
		IF rsvp_sync._may_watch(s, t.relation) THEN
			PERFORM rsvp_sync._put_trigger(t.relation, name, false,
				rsvp_sync._dependency_arguments(s, t.n));
		END IF;
	END LOOP;

	PERFORM rsvp_sync._put_trigger(s.attendance, 'rsvp_sync_log', false,
		rsvp_sync._attendance_arguments(s));
	FOR t IN SELECT p.relid FROM pg_partition_tree(s.attendance) p
		UNION SELECT s.attendance
	LOOP
		PERFORM rsvp_sync._put_trigger(t.relid, 'rsvp_sync_truncate', true,
			ARRAY[s.source_id::text, '']);
	END LOOP;

	FOR t IN SELECT * FROM rsvp_sync._triggers(s.source_id) f
		WHERE f.name <> ALL (keep)
	LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._put_triggers(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._put_triggers(rsvp_sync._source) IS
'private: make or correct a source''s triggers';

/* A table of another owner gets no trigger: attach() lends nobody a right. */
CREATE FUNCTION rsvp_sync._may_watch(s rsvp_sync._source, relation oid)
RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	may boolean;
BEGIN
	SELECT c.relkind IN ('r', 'p')
		AND pg_has_role(a.relowner, c.relowner, 'USAGE') INTO may
	FROM pg_class c, pg_class a
	WHERE c.oid = relation AND a.oid = s.attendance;
	IF NOT may THEN
		RAISE WARNING 'changes of % will not be noticed at once',
			relation::regclass
			USING DETAIL = format('It is not a table of the owner of %s, '
				'and therefore gets no trigger.', s.attendance),
				HINT = 'reconcile() finds such changes later.';
	END IF;
	RETURN may;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._may_watch(rsvp_sync._source, oid)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._may_watch(rsvp_sync._source, oid) IS
'private: may the attendance table''s owner have a trigger on this table?  A warning if not';

CREATE FUNCTION rsvp_sync._drop_triggers(source_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT * FROM rsvp_sync._triggers(source_id) f
		ORDER BY f.name NOT LIKE 'rsvp\_sync\_depends\_%', f.name
	LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._drop_triggers(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._drop_triggers(bigint) IS
'private: take a source''s triggers away, wherever they are';
