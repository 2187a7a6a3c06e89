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

/*
 * Our triggers of one source.  A trigger says for whom it logs, but anybody
 * can say that on a table of his own, and hold a lock on it; so we look only
 * at tables where ours can be: the attendance table with its partitions,
 * tables that the query depends on, or did (former), and, since a restored
 * dump does not know those, tables of the same owner.
 */
CREATE FUNCTION rsvp_sync._triggers(source_id bigint,
	former jsonb DEFAULT NULL)
RETURNS TABLE (relation oid, name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.tgrelid, t.tgname::text
	FROM rsvp_sync._source s
	JOIN pg_proc p ON p.proname IN ('_log_change', '_log_truncate')
		AND p.pronamespace = 'rsvp_sync'::regnamespace
	JOIN pg_trigger t ON t.tgfoid = p.oid AND t.tgparentid = 0
		AND starts_with(encode(t.tgargs, 'hex'),
			rsvp_sync._argument_bytes(ARRAY[s.source_id::text]))
	JOIN pg_class c ON c.oid = t.tgrelid
	LEFT JOIN pg_class a ON a.oid = s.attendance
	WHERE s.source_id = $1 AND (c.relowner = a.relowner
		OR c.oid IN (SELECT r.relid
			FROM pg_partition_tree(s.attendance) r)
		OR c.oid IN (SELECT (d.value #>> '{rel,0}')::oid
			FROM jsonb_array_elements(coalesce(s.shape -> 'depends', '[]')
				|| coalesce(former, '[]')) d)
			AND coalesce(rsvp_sync._may_watch(a.oid, c.oid), true))
	ORDER BY t.tgname <> 'rsvp_sync_log', t.tgname
$$;
REVOKE ALL ON FUNCTION rsvp_sync._triggers(bigint, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._triggers(bigint, jsonb) IS
'private: the triggers that log for a source, on tables where attach() can have put them; former: dependencies it had before';

CREATE FUNCTION rsvp_sync._trigger_stands(relation oid, name text,
	arguments text[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (
		SELECT FROM pg_trigger t
		JOIN pg_proc p ON p.oid = t.tgfoid
			AND p.pronamespace = 'rsvp_sync'::regnamespace
		WHERE t.tgrelid = relation AND t.tgname = name
			AND t.tgenabled = 'A' AND encode(t.tgargs, 'hex')
				= rsvp_sync._argument_bytes(arguments))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._trigger_stands(oid, text, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._trigger_stands(oid, text, text[]) IS
'private: is this trigger as it has to be?';

/* A trigger as it has to be; one that already is so is left alone. */
CREATE FUNCTION rsvp_sync._put_trigger(relation oid, name text,
	truncation boolean, arguments text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target text := rsvp_sync._live_relation(rsvp_sync._relation_ref(relation));
	ours boolean;
BEGIN
	IF rsvp_sync._trigger_stands(relation, name, arguments) THEN
		RETURN;
	END IF;
	SELECT p.pronamespace = 'rsvp_sync'::regnamespace INTO ours
	FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
	WHERE t.tgrelid = relation AND t.tgname = name;
	IF NOT ours THEN
		RAISE EXCEPTION 'table % already has a trigger "%"', target, name
			USING ERRCODE = 'duplicate_object',
				HINT = 'Give that trigger another name.';
	ELSIF ours THEN
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

/* A table of another owner gets no trigger: attach() lends nobody a right. */
CREATE FUNCTION rsvp_sync._may_watch(attendance oid, relation oid)
RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.relkind IN ('r', 'p')
		AND pg_has_role(a.relowner, c.relowner, 'USAGE')
	FROM pg_class c, pg_class a
	WHERE c.oid = relation AND a.oid = attendance
$$;
REVOKE ALL ON FUNCTION rsvp_sync._may_watch(oid, oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._may_watch(oid, oid) IS
'private: may the attendance table''s owner have a trigger on this table?';

CREATE FUNCTION rsvp_sync._warn_unwatched(s rsvp_sync._source) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	relation regclass;
BEGIN
	FOR relation IN
		SELECT (d.value #>> '{rel,0}')::oid
		FROM jsonb_array_elements(s.shape -> 'depends') d
		WHERE NOT rsvp_sync._may_watch(s.attendance,
			(d.value #>> '{rel,0}')::oid)
	LOOP
		RAISE WARNING 'changes of % will not be noticed at once', relation
			USING DETAIL = format('It is not a table of the owner of %s, '
				'and therefore gets no trigger.', s.attendance),
				HINT = 'reconcile() finds such changes later.';
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._warn_unwatched(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._warn_unwatched(rsvp_sync._source) IS
'private: a warning for each table that matters and cannot be watched';

/* The triggers a source is to have. */
CREATE FUNCTION rsvp_sync._wanted_triggers(s rsvp_sync._source)
RETURNS TABLE (relation oid, name text, truncation boolean, arguments text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT d.relation, format('rsvp_sync_depends_%s_%s', s.source_id, d.n),
		false, rsvp_sync._dependency_arguments(s, d.n)
	FROM (SELECT (e.dep #>> '{rel,0}')::oid, e.place::integer
		FROM jsonb_array_elements(s.shape -> 'depends')
			WITH ORDINALITY AS e (dep, place)) AS d (relation, n)
	WHERE rsvp_sync._may_watch(s.attendance, d.relation)
	UNION ALL
	SELECT s.attendance::oid, 'rsvp_sync_log', false,
		rsvp_sync._attendance_arguments(s)
	UNION ALL
	SELECT p.relid::oid, 'rsvp_sync_truncate', true,
		ARRAY[s.source_id::text, '']
	FROM (SELECT t.relid FROM pg_partition_tree(s.attendance) t
		UNION SELECT s.attendance) AS p (relid)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._wanted_triggers(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._wanted_triggers(rsvp_sync._source) IS
'private: relation, name, kind and arguments of a source''s triggers';

CREATE FUNCTION rsvp_sync._lock_tables(relations oid[], exclusive boolean)
RETURNS void
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_lock_tables';
REVOKE ALL ON FUNCTION rsvp_sync._lock_tables(oid[], boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._lock_tables(oid[], boolean) IS
'private: lock these tables together (ACCESS EXCLUSIVE, or only against writers), waiting for one only while none is held';

/* With their partitions, in a fixed order. */
CREATE FUNCTION rsvp_sync._with_partitions(relations oid[]) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(array_agg(DISTINCT p.relid::oid ORDER BY p.relid::oid), '{}')
	FROM unnest(relations) AS r (relid)
	JOIN pg_class c ON c.oid = r.relid
	CROSS JOIN LATERAL (SELECT t.relid FROM pg_partition_tree(r.relid) t
		UNION SELECT r.relid) AS p (relid)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._with_partitions(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._with_partitions(oid[]) IS
'private: those of these tables that exist, and their partitions';

/*
 * All triggers of a source.  What has to be locked is locked beforehand and
 * together, so that no writer is in our way, nor we in his, halfway through.
 * Where everything stands already nothing is locked.
 */
CREATE FUNCTION rsvp_sync._put_triggers(s rsvp_sync._source, former jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
	relations oid[];
	replaces boolean;
BEGIN
	PERFORM rsvp_sync._warn_unwatched(s);
	SELECT array_agg(c.relation), bool_or(c.replaces)
		INTO relations, replaces
	FROM (SELECT w.relation, o.name IS NOT NULL
		FROM rsvp_sync._wanted_triggers(s) w
		LEFT JOIN rsvp_sync._triggers(s.source_id, former) o
			USING (relation, name)
		WHERE NOT rsvp_sync._trigger_stands(w.relation, w.name, w.arguments)
		UNION ALL
		SELECT o.relation, true
		FROM rsvp_sync._obsolete_triggers(s, former) o)
			AS c (relation, replaces);
	IF relations IS NULL THEN
		RETURN;
	END IF;
	PERFORM rsvp_sync._lock_tables(rsvp_sync._with_partitions(relations),
		replaces);

	FOR t IN SELECT * FROM rsvp_sync._obsolete_triggers(s, former) LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation::regclass);
	END LOOP;
	FOR t IN SELECT * FROM rsvp_sync._wanted_triggers(s) LOOP
		PERFORM rsvp_sync._put_trigger(t.relation, t.name, t.truncation,
			t.arguments);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._put_triggers(rsvp_sync._source, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._put_triggers(rsvp_sync._source, jsonb) IS
'private: make or correct a source''s triggers; former: the dependencies it had until now';

CREATE FUNCTION rsvp_sync._obsolete_triggers(s rsvp_sync._source,
	former jsonb)
RETURNS TABLE (relation oid, name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT o.relation, o.name
	FROM rsvp_sync._triggers(s.source_id, former) o
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._wanted_triggers(s) w
		WHERE w.relation = o.relation AND w.name = o.name)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._obsolete_triggers(rsvp_sync._source, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._obsolete_triggers(rsvp_sync._source, jsonb) IS
'private: triggers a source has and is no longer to have';

/* The tables that are locked to take a source's triggers and index away. */
CREATE FUNCTION rsvp_sync._touched_tables(source_id bigint) RETURNS oid[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._with_partitions(array_agg(t.relation::oid)
		|| (SELECT s.attendance::oid FROM rsvp_sync._source s
			WHERE s.source_id = $1 AND s.index_name IS NOT NULL))
	FROM rsvp_sync._triggers($1) t
$$;
REVOKE ALL ON FUNCTION rsvp_sync._touched_tables(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._touched_tables(bigint) IS
'private: tables that have something of a source''s';

CREATE FUNCTION rsvp_sync._drop_triggers(source_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT * FROM rsvp_sync._triggers(source_id) LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation::regclass);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._drop_triggers(bigint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._drop_triggers(bigint) IS
'private: take a source''s triggers away';
