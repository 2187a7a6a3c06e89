/*
 * Indexes by which apply finds events, users and rows.  We make none: a
 * migration tool drops what it does not know, and each costs its owner a
 * little.  attach() and doctor() say which would help.
 */

/* Does an index begin with this column or expression? */
CREATE FUNCTION rsvp_sync._is_indexed(relation oid, expression text)
RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		JOIN pg_am m ON m.oid = c.relam AND m.amname IN ('btree', 'hash')
		WHERE i.indrelid = relation AND i.indisvalid
			AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid)
				= format('(%s IS NOT NULL)', expression))
			AND pg_get_indexdef(i.indexrelid, 1, false)
				IN (expression, format('(%s)', expression)))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._is_indexed(oid, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._is_indexed(oid, text) IS
'private: is there a valid index that begins with this column or expression?';

/* What apply looks for, table by table, and has to read all of it for. */
CREATE FUNCTION rsvp_sync._apply_scans(s rsvp_sync._source)
RETURNS TABLE (relation regclass, expression text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT w.rel::regclass, w.expression
	FROM (SELECT f.shape, f.shape #> '{event,rel}', f.shape #> '{user,rel}',
			rsvp_sync._relation_ref(s.attendance)
		FROM (SELECT rsvp_sync._shape(s)) AS f (shape)) AS t (shape, e, u, a)
	CROSS JOIN LATERAL (VALUES
		(1, t.e, rsvp_sync._spare_column(NULL, t.e, t.shape #> '{event,uri}'),
			'%s'),
		(2, t.e, CASE WHEN t.shape #>> '{event,source_type,0}' IS NOT NULL
			THEN rsvp_sync._spare_column(NULL, t.e,
				t.shape #> '{event,source_data}') END, '(%s ->> ''rkey''::text)'),
		(3, t.e, rsvp_sync._spare_column(NULL, t.e,
			t.shape #> '{apply,event,source_id}'), '%s'),
		(4, t.u, rsvp_sync._spare_column(NULL, t.u,
			t.shape #> '{user,preferences}'),
			'((%s -> ''bluesky''::text) ->> ''did''::text)'),
		(5, t.u, rsvp_sync._spare_column(NULL, t.u,
			t.shape #> '{apply,user,social}'), '%s')
		) AS c (place, rel, col, pattern)
	CROSS JOIN LATERAL (SELECT (c.rel ->> 0)::oid, format(c.pattern, c.col))
		AS w (rel, expression)
	JOIN pg_class r ON r.oid = w.rel AND r.relkind = 'r'
	WHERE s.kind IN ('plan', 'openmeet') AND s.apply IS NULL
		AND c.col IS NOT NULL AND r.reltuples >= 1000
		AND NOT rsvp_sync._is_indexed(w.rel, w.expression)
	ORDER BY c.place
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_scans(rsvp_sync._source) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_scans(rsvp_sync._source) IS
'private: larger tables that apply has to read as a whole, and what it looks for in them';

CREATE FUNCTION rsvp_sync._apply_index_ddl(relation regclass, expression text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('CREATE INDEX CONCURRENTLY ON %s (%s);', relation, expression)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._apply_index_ddl(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._apply_index_ddl(regclass, text) IS
'private: the statement that makes an index apply would use';

CREATE FUNCTION rsvp_sync._tell_apply_scans(s rsvp_sync._source) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ddl text := (SELECT string_agg(rsvp_sync._apply_index_ddl(a.relation,
		a.expression), E'\n') FROM rsvp_sync._apply_scans(s) a);
BEGIN
	IF ddl IS NOT NULL THEN
		RAISE NOTICE 'RSVPs made elsewhere to % are applied faster with more indexes',
			s.attendance USING HINT = ddl;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._tell_apply_scans(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._tell_apply_scans(rsvp_sync._source) IS
'private: a notice with the indexes that apply would use';
