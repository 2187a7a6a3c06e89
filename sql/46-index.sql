/*
 * The index by which attendees are found by metadata.  Without fastupdate:
 * its list of new entries is read as a whole by every search, which makes
 * it some forty times slower until vacuum has been there.
 */

/* A usable index that serves "metadata @> …", whoever made it. */
CREATE FUNCTION rsvp_sync._metadata_index(relation oid, attnum smallint)
RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT i.indexrelid
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid
	JOIN pg_am m ON m.oid = c.relam AND m.amname = 'gin'
	JOIN pg_opclass o ON o.oid = i.indclass[0]
		AND o.opcname IN ('jsonb_path_ops', 'jsonb_ops')
		AND o.opcnamespace = 'pg_catalog'::regnamespace
	WHERE i.indrelid = relation AND i.indkey[0] = $2 AND i.indnkeyatts = 1
		AND i.indisvalid AND i.indisready AND i.indpred IS NULL
	ORDER BY o.opcname DESC, i.indexrelid
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._metadata_index(oid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._metadata_index(oid, smallint) IS
'private: a valid GIN index over a jsonb column, or NULL';

/* A name that is free in the table's schema. */
CREATE FUNCTION rsvp_sync._free_index_name(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.name
	FROM pg_class c
	CROSS JOIN generate_series(0, 99) AS g (n)
	CROSS JOIN LATERAL (SELECT left(c.relname, CASE
			WHEN octet_length(c.relname) = length(c.relname) THEN 40
			ELSE 10 END)
		|| '_rsvp_sync_metadata'
		|| CASE WHEN g.n > 0 THEN g.n::text ELSE '' END) AS f (name)
	WHERE c.oid = relation AND NOT EXISTS (
		SELECT FROM pg_class o
		WHERE o.relnamespace = c.relnamespace AND o.relname = f.name)
	ORDER BY g.n
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._free_index_name(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._free_index_name(oid) IS
'private: name for a metadata index';

/* The index a source's options ask for; its name if we made it. */
CREATE FUNCTION rsvp_sync._put_index(s rsvp_sync._source) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	attnum smallint := (s.shape #>> '{metadata,0}')::smallint;
	ours oid := rsvp_sync._our_index(s);
	name text;
BEGIN
	IF attnum IS NULL OR s.options ->> 'index' = 'none' THEN
		PERFORM rsvp_sync._drop_index(s);
		RETURN NULL;
	END IF;
	IF rsvp_sync._metadata_index(s.attendance, attnum) IS NOT NULL THEN
		RETURN CASE WHEN ours IS NOT NULL THEN s.index_name END;
	END IF;
	PERFORM rsvp_sync._drop_index(s);
	name := rsvp_sync._free_index_name(s.attendance);
	EXECUTE format('CREATE INDEX %I ON %s USING gin (%s jsonb_path_ops) WITH (fastupdate = off)',
		name, rsvp_sync._live_relation(rsvp_sync._relation_ref(s.attendance)),
		rsvp_sync._live_column(NULL, rsvp_sync._relation_ref(s.attendance),
			s.shape -> 'metadata'));
	PERFORM rsvp_sync._depend_on_extension('pg_class',
		rsvp_sync._metadata_index(s.attendance, attnum));
	RETURN name;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._put_index(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._put_index(rsvp_sync._source) IS
'private: make the metadata index unless there is one; returns the name of ours';

/*
 * The index we made, if it is still there.  Somebody may have dropped it and
 * used the name again: ours is the one that depends on the extension.
 */
CREATE FUNCTION rsvp_sync._our_index(s rsvp_sync._source) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT i.indexrelid
	FROM pg_index i
	JOIN pg_class c ON c.oid = i.indexrelid
	JOIN pg_depend d ON d.classid = 'pg_class'::regclass
		AND d.objid = c.oid AND d.deptype = 'x'
	JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass
		AND x.oid = d.refobjid AND x.extname = 'rsvp_sync'
	WHERE i.indrelid = s.attendance AND c.relname = s.index_name
$$;
REVOKE ALL ON FUNCTION rsvp_sync._our_index(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._our_index(rsvp_sync._source) IS
'private: the metadata index that attach() made, or NULL';

CREATE FUNCTION rsvp_sync._drop_index(s rsvp_sync._source) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ours oid := rsvp_sync._our_index(s);
BEGIN
	IF ours IS NOT NULL THEN
		EXECUTE format('DROP INDEX %s',
			rsvp_sync._live_relation(rsvp_sync._relation_ref(ours)));
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._drop_index(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._drop_index(rsvp_sync._source) IS
'private: drop the metadata index that attach() made';

/*
 * The DDL for those who build the index themselves.  CONCURRENTLY does not
 * work on a partitioned table: there the leaves are built, then attached.
 */
CREATE FUNCTION rsvp_sync._index_ddl(caller oid, attendance regclass)
RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
	a jsonb := rsvp_sync._relation_ref(attendance);
	name text := rsvp_sync._free_index_name(attendance);
	col text := rsvp_sync._live_column(NULL, a,
		rsvp_sync._shape(s) -> 'metadata');
BEGIN
	IF col IS NULL THEN
		RAISE EXCEPTION 'table % has no jsonb metadata column', attendance
			USING ERRCODE = 'undefined_column',
				HINT = 'Name it with option "metadata".';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_partitioned_table p
		WHERE p.partrelid = attendance)
	THEN
		RETURN format('CREATE INDEX CONCURRENTLY %I ON %s '
			'USING gin (%s jsonb_path_ops) WITH (fastupdate = off);', name,
			rsvp_sync._live_relation(a), col);
	END IF;
	RETURN rsvp_sync._partitioned_index_ddl(attendance, name, col);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._index_ddl(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._index_ddl(oid, regclass) IS
'private: index_ddl() for a caller';

CREATE FUNCTION rsvp_sync._partitioned_index_ddl(relation regclass,
	name text, col text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	WITH part AS (
		SELECT p.relid, p.parentrelid, p.isleaf, p.level, n.nspname,
			rsvp_sync._live_relation(rsvp_sync._relation_ref(p.relid)) AS target,
			CASE WHEN p.level = 0 THEN name
				ELSE format('rsvp_sync_metadata_%s', p.relid::oid) END
				AS index_name
		FROM pg_partition_tree(relation) p
		JOIN pg_class c ON c.oid = p.relid
		JOIN pg_namespace n ON n.oid = c.relnamespace)
	SELECT string_agg(d.ddl, E'\n' ORDER BY d.step, d.level, d.target)
	FROM (
		SELECT CASE WHEN p.isleaf THEN 2 ELSE 1 END, p.level, p.target,
			format('CREATE INDEX %s%I ON %s%s USING gin (%s jsonb_path_ops) WITH (fastupdate = off);',
				CASE WHEN p.isleaf THEN 'CONCURRENTLY ' ELSE '' END,
				p.index_name,
				CASE WHEN p.isleaf THEN '' ELSE 'ONLY ' END, p.target, col)
		FROM part p
		UNION ALL
		SELECT 3, -p.level, p.target,
			format('ALTER INDEX %I.%I ATTACH PARTITION %I.%I;',
				o.nspname, o.index_name, p.nspname, p.index_name)
		FROM part p JOIN part o ON o.relid = p.parentrelid) AS d
			(step, level, target, ddl)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._partitioned_index_ddl(regclass, text, text)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._partitioned_index_ddl(regclass, text, text) IS
'private: DDL for the metadata index of a partitioned table';
