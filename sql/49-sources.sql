/*
 * Sources in numbers and to look at: attach_all(), the status map, the DDL of
 * the index, the view.
 */

/* Every recognised table of the caller in schemas that match. */
CREATE FUNCTION rsvp_sync._attach_all(caller oid, pattern text, options jsonb)
RETURNS TABLE (attendance regclass, source_id bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	n integer := 0;
BEGIN
	IF pattern IS NULL THEN
		RAISE EXCEPTION 'pattern must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give a LIKE pattern of schema names, as in ''tenant\_%''.';
	END IF;
	/* Also where no table takes them. */
	PERFORM rsvp_sync._check_options(coalesce(options, '{}'));
	FOR attendance IN
		SELECT c.oid
		FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
		WHERE s.nspname LIKE pattern AND c.relkind IN ('r', 'p')
			AND s.nspname NOT IN ('pg_catalog', 'information_schema', 'rsvp_sync')
			AND NOT c.relispartition AND c.relpersistence <> 't'
			AND pg_has_role(caller, c.relowner, 'USAGE')
			AND (SELECT count(*) FROM pg_constraint k
				WHERE k.conrelid = c.oid AND k.contype = 'f') >= 2
			AND rsvp_sync._recognise(c.oid, options ->> 'metadata') IS NOT NULL
		ORDER BY s.nspname, c.relname
	LOOP
		source_id := rsvp_sync._attach(caller, attendance, NULL, NULL, options);
		n := n + 1;
		RETURN NEXT;
	END LOOP;
	IF n = 0 THEN
		RAISE NOTICE 'no table is recognised in a schema like "%"', pattern
			USING HINT = 'Only tables that you own are looked at; in a '
				'pattern, % stands for any characters.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._attach_all(oid, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._attach_all(oid, text, jsonb) IS
'private: attach_all() for a caller';

CREATE FUNCTION rsvp_sync.attach_all(pattern text, options jsonb DEFAULT '{}')
RETURNS TABLE (attendance regclass, source_id bigint)
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_attach_all';
REVOKE ALL ON FUNCTION rsvp_sync.attach_all(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.attach_all(text, jsonb) IS
'attach() for every recognised table of the caller in schemas whose name is LIKE the pattern; all or nothing. Errors: those of attach()';

CREATE FUNCTION rsvp_sync.index_ddl(attendance regclass) RETURNS text
LANGUAGE c STABLE
AS 'MODULE_PATHNAME', 'rsvp_sync_index_ddl';
REVOKE ALL ON FUNCTION rsvp_sync.index_ddl(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.index_ddl(regclass) IS
'the statements that build the metadata index without blocking writers, for option index "none". Errors: insufficient_privilege, undefined_object, undefined_column';

CREATE FUNCTION rsvp_sync._source_status_map(caller oid, attendance regclass)
RETURNS TABLE (status text, rsvp text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	RETURN QUERY SELECT m.key, m.value
		FROM jsonb_each_text(rsvp_sync._status_map(s.source_id)) m
		ORDER BY m.key;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._source_status_map(oid, regclass)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._source_status_map(oid, regclass) IS
'private: source_status_map() for a caller';

CREATE FUNCTION rsvp_sync.source_status_map(attendance regclass)
RETURNS TABLE (status text, rsvp text)
LANGUAGE c STABLE
AS 'MODULE_PATHNAME', 'rsvp_sync_source_status_map';
REVOKE ALL ON FUNCTION rsvp_sync.source_status_map(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.source_status_map(regclass) IS
'what this table''s statuses are published as; NULL: not published. Errors: insufficient_privilege, undefined_object';

/* What is attached, to whoever owns it. */
CREATE VIEW rsvp_sync.source WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant, s.kind, s.state,
	s.state_reason AS reason, s.state_since AS since,
	coalesce(s.options ->> 'backfill', 'none') AS backfill, s.options,
	s.desired, s.apply, s.index_name, s.failures, s.retry_at, s.attached_at
FROM rsvp_sync._source s
LEFT JOIN pg_catalog.pg_class c ON c.oid = s.attendance
WHERE CASE WHEN c.oid IS NULL
	THEN (SELECT r.rolsuper FROM pg_catalog.pg_roles r
		WHERE r.rolname = current_user)
	ELSE pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
		OR EXISTS (SELECT FROM rsvp_sync._own_explicit x
			WHERE x.source_id = s.source_id) END;
COMMENT ON VIEW rsvp_sync.source IS
'attached tables that the reader owns: state (active, paused, broken, detaching) and why';
