/*
 * Sources: attach, detach, pause.  The doors are here; how a schema is
 * recognised, a query written and a trigger made is in 41 to 49.
 *
 * The public functions are C entries that put the caller's oid in front (see
 * 70-account.sql); the private ones of the same name run as the extension's
 * owner and decide by that oid.  They never evaluate anything of the
 * application's with these rights: not a cast, not an operator, not a query.
 * _desired() and its kin do that, as the table's owner.
 *
 * Locks.  Whoever changes what is attached first shuts the worker out, then
 * takes the locks of all tables concerned together, and only then touches
 * rows of ours: so neither it nor an application's transaction can come to
 * wait for us while we wait for it.  What the caller's transaction had locked
 * before is the one thing left: the worker gives up such a wait after a
 * second, and deadlock_timeout lets it.
 */

CREATE FUNCTION rsvp_sync._caller_search_path() RETURNS text[]
LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_caller_search_path';
REVOKE ALL ON FUNCTION rsvp_sync._caller_search_path() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._caller_search_path() IS
'private: schemas in the search path of whoever called attach()';

/* Every change of what is attached begins with this. */
CREATE FUNCTION rsvp_sync._exclude_worker() RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_exclude_worker';
REVOKE ALL ON FUNCTION rsvp_sync._exclude_worker() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._exclude_worker() IS
'private: until this transaction ends the worker leaves sources alone; waits for the transaction it is in';

CREATE FUNCTION rsvp_sync._lock_attach(attendance oid) RETURNS void
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_lock_attach';
REVOKE ALL ON FUNCTION rsvp_sync._lock_attach(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._lock_attach(oid) IS
'private: until this transaction ends no other attaches this table';

/* The source of a table that the caller owns. */
CREATE FUNCTION rsvp_sync._owned_source(caller oid, attendance regclass)
RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
BEGIN
	PERFORM rsvp_sync._check_owner(caller, attendance);
	SELECT * INTO s FROM rsvp_sync._source f
	WHERE f.attendance = _owned_source.attendance;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table % is not attached', attendance
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT * FROM rsvp_sync.source shows what is attached.';
	END IF;
	RETURN s;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._owned_source(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._owned_source(oid, regclass) IS
'private: the source of a table; insufficient_privilege, undefined_object';

/* The same for one row: an explicit call is also his who has made it. */
CREATE FUNCTION rsvp_sync._owned_source(caller oid, attendance regclass,
	of_key text)
RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
BEGIN
	IF attendance = 'rsvp_sync._explicit'::regclass
		AND rsvp_sync._is_own_call(caller, of_key) THEN
		SELECT * INTO s FROM rsvp_sync._source f WHERE f.kind = 'explicit';
		RETURN s;
	END IF;
	RETURN rsvp_sync._owned_source(caller, attendance);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._owned_source(oid, regclass, text)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._owned_source(oid, regclass, text) IS
'private: the source of a row that the caller may change the fate of; insufficient_privilege, undefined_object';

CREATE FUNCTION rsvp_sync._check_owner(caller oid, relation regclass)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	owner oid;
BEGIN
	IF relation IS NULL THEN
		RAISE EXCEPTION 'attendance must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Name the attendance table.';
	END IF;
	SELECT c.relowner INTO owner FROM pg_class c WHERE c.oid = relation;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table with oid % does not exist', relation::oid
			USING ERRCODE = 'undefined_table',
				HINT = 'rsvp_sync.detach_all() forgets tables that were dropped.';
	END IF;
	IF NOT pg_has_role(caller, owner, 'USAGE') THEN
		RAISE EXCEPTION 'must be owner of table %', relation
			USING ERRCODE = 'insufficient_privilege',
				HINT = format('Its owner is role %s: call this as that role, '
					'or as a member of it.', owner::regrole);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_owner(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_owner(oid, regclass) IS
'private: undefined_table, or insufficient_privilege unless the caller has the owner''s rights';

/*
 * Attach
 */

CREATE FUNCTION rsvp_sync._attach(caller oid, attendance regclass,
	desired text, apply text, options jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '3s'
AS $$
DECLARE
	s rsvp_sync._source;
	path text[] := rsvp_sync._caller_search_path();
	given jsonb := coalesce(options, '{}');
	snapshot pg_snapshot;
	known boolean;
	former jsonb;
	keys text[];
BEGIN
	PERFORM rsvp_sync._check_options(given);
	PERFORM rsvp_sync._check_attendance(caller, attendance);
	PERFORM rsvp_sync._ensure_installation();

	IF EXISTS (SELECT FROM rsvp_sync._source f
		WHERE f.attendance = _attach.attendance)
	THEN
		PERFORM rsvp_sync._exclude_worker();
	END IF;
	SELECT * INTO s FROM rsvp_sync._source f
	WHERE f.attendance = _attach.attendance FOR UPDATE;
	known := FOUND;
	former := s.shape -> 'depends';
	IF NOT known THEN
		s := rsvp_sync._new_source(attendance);
	END IF;
	s := rsvp_sync._set_options(s, given, path);
	s := rsvp_sync._set_query(s, desired, path);
	s := rsvp_sync._set_apply(s, apply, path);
	s.source_id := rsvp_sync._store_source(s, known);
	PERFORM rsvp_sync._warn_slow_lookup(s.source_id);
	PERFORM rsvp_sync._tell_apply_scans(s);

	/*
	 * The baseline takes its time and locks nothing; what is committed
	 * meanwhile is added once the triggers are there.
	 */
	snapshot := pg_current_snapshot();
	PERFORM rsvp_sync._attach_webmentions(s, known, given);
	IF NOT known THEN
		PERFORM rsvp_sync._take_baseline(s, NULL);
		PERFORM rsvp_sync._webmention_baseline(s, NULL);
	ELSIF given ->> 'backfill' IN ('all', 'upcoming') THEN
		PERFORM rsvp_sync._backfill_again(s);
	END IF;
	PERFORM rsvp_sync._put_triggers(s, former);
	UPDATE rsvp_sync._source f SET index_name = rsvp_sync._put_index(s)
	WHERE f.source_id = s.source_id;
	IF NOT known THEN
		keys := rsvp_sync._keys_since(s.attendance, snapshot);
		PERFORM rsvp_sync._take_baseline(s, keys);
		PERFORM rsvp_sync._webmention_baseline(s, keys);
	END IF;
	RETURN s.source_id;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._attach(oid, regclass, text, text, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._attach(oid, regclass, text, text, jsonb) IS
'private: attach() for a caller';

CREATE FUNCTION rsvp_sync.attach(attendance regclass,
	desired text DEFAULT NULL, apply text DEFAULT NULL,
	options jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_attach';
REVOKE ALL ON FUNCTION rsvp_sync.attach(regclass, text, text, jsonb)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.attach(regclass, text, text, jsonb) IS
'publishes a table''s attendance from now on; returns the source''s id. desired: a SELECT or a view''s name, NULL for a recognised schema; apply: a function (did text, event_uri text, status text, rsvp jsonb) returning text; options: see docs/attach.md. On an attached table: replaces desired and apply where given, merges options. Errors: insufficient_privilege, wrong_object_type, invalid_table_definition, undefined_column, invalid_parameter_value, or what the query raises';

/* Is this a table that can be attached?  Serialises attaches of one table. */
CREATE FUNCTION rsvp_sync._check_attendance(caller oid, attendance regclass)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	relative regclass;
BEGIN
	PERFORM rsvp_sync._check_owner(caller, attendance);
	PERFORM rsvp_sync._lock_attach(attendance);
	SELECT c.relkind, c.relpersistence, c.relnamespace, r.rolsuper, r.rolname
		INTO rel
	FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
	WHERE c.oid = attendance;
	IF rel.relkind NOT IN ('r', 'p') OR rel.relnamespace IN (
		'pg_catalog'::regnamespace, 'rsvp_sync'::regnamespace)
	THEN
		RAISE EXCEPTION '% is not an ordinary or partitioned table', attendance
			USING ERRCODE = 'wrong_object_type',
				HINT = 'Attach the table that holds the rows; a view can be '
					'given as its desired query.';
	END IF;
	IF rel.relpersistence = 't' THEN
		RAISE EXCEPTION '% is a temporary table', attendance
			USING ERRCODE = 'wrong_object_type',
				HINT = 'No other process can see its rows. Attach a permanent '
					'table.';
	END IF;
	/* Its triggers are the same, and two sources would speak for one row. */
	relative := (SELECT s.attendance FROM rsvp_sync._source s
		WHERE s.attendance <> _check_attendance.attendance
			AND s.state <> 'detaching'
			AND s.attendance IN (SELECT a.relid
				FROM pg_partition_ancestors(_check_attendance.attendance) a
				UNION ALL
				SELECT t.relid
				FROM pg_partition_tree(_check_attendance.attendance) t)
		LIMIT 1);
	IF relative IS NOT NULL THEN
		RAISE EXCEPTION 'table % is attached, and shares rows with %',
			relative, attendance
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('A partitioned table is attached as a whole; to '
					'attach this one instead: SELECT rsvp_sync.detach(%L).',
					relative);
	END IF;
	IF NOT EXISTS (SELECT FROM rsvp_sync._key_columns(attendance)) THEN
		RAISE EXCEPTION 'table % has no primary key', attendance
			USING ERRCODE = 'invalid_table_definition',
				HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...);',
					attendance);
	END IF;
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION 'attach() needs isolation level READ COMMITTED'
			USING ERRCODE = 'active_sql_transaction',
				DETAIL = 'Rows committed by others while it runs would be '
					'taken for new ones, and published.',
				HINT = 'Call it outside this transaction, or begin it with '
					'ISOLATION LEVEL READ COMMITTED.';
	END IF;
	IF rel.rolsuper THEN
		RAISE WARNING 'table % belongs to superuser %', attendance, rel.rolname
			USING DETAIL = 'Its queries and triggers run with the rights of '
				'the table''s owner.',
				HINT = format('ALTER TABLE %s OWNER TO an ordinary role.',
					attendance);
	END IF;
	IF rel.relpersistence = 'u' THEN
		RAISE WARNING 'table % is unlogged', attendance
			USING DETAIL = 'After a crash it is empty, and its records are '
				'withdrawn as if the rows had been deleted.',
				HINT = format('ALTER TABLE %s SET LOGGED.', attendance);
	END IF;
	IF rel.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i
		WHERE i.inhparent = attendance) THEN
		RAISE WARNING 'changes of the tables that inherit from % are found '
			'only by comparing', attendance
			USING HINT = 'Attach them, too, or make it a partitioned table.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_attendance(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_attendance(oid, regclass) IS
'private: raises what keeps a table from being attached';

/*
 * Detach
 */

/* Locks first, all of them, the worker's before any table's. */
CREATE FUNCTION rsvp_sync._lock_sources(ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._exclude_worker();
	PERFORM rsvp_sync._lock_tables(array_agg(DISTINCT t.relid), true)
	FROM unnest(ids) AS i (id)
	CROSS JOIN LATERAL unnest(rsvp_sync._touched_tables(i.id)) AS t (relid);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._lock_sources(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._lock_sources(bigint[]) IS
'private: have sources, and the tables with their triggers, for oneself';

CREATE FUNCTION rsvp_sync._remove_sources(ids bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	n integer := 0;
BEGIN
	PERFORM rsvp_sync._lock_sources(ids);
	FOR s IN SELECT * FROM rsvp_sync._source f
		WHERE f.source_id = ANY (ids) ORDER BY f.source_id
	LOOP
		PERFORM rsvp_sync._drop_triggers(s.source_id);
		PERFORM rsvp_sync._drop_index(s);
		PERFORM rsvp_sync._forget_query(s.attendance);
		DELETE FROM rsvp_sync._source f WHERE f.source_id = s.source_id;
		DELETE FROM rsvp_sync._change_log l WHERE l.source_id = s.source_id;
		n := n + 1;
	END LOOP;
	RETURN n;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._remove_sources(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._remove_sources(bigint[]) IS
'private: remove sources and all that they left on the application''s tables; returns how many there were';

CREATE FUNCTION rsvp_sync._detach(caller oid, attendance regclass,
	withdraw boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '3s'
AS $$
DECLARE
	s rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	IF s.kind = 'explicit' THEN
		RAISE EXCEPTION 'the source of explicit calls cannot be detached'
			USING ERRCODE = 'wrong_object_type',
				HINT = 'delete_rsvp() withdraws what create_rsvp() has '
					'published; pause() keeps more from being sent.';
	END IF;
	IF NOT coalesce(withdraw, false) THEN
		PERFORM rsvp_sync._remove_sources(ARRAY[s.source_id]);
		RETURN;
	END IF;
	PERFORM rsvp_sync._lock_sources(ARRAY[s.source_id]);
	PERFORM rsvp_sync._drop_triggers(s.source_id);
	PERFORM rsvp_sync._drop_index(s);
	UPDATE rsvp_sync._source f SET state = 'detaching', index_name = NULL,
		state_reason = 'its records are being withdrawn', state_since = now(),
		failures = 0, retry_at = NULL
	WHERE f.source_id = s.source_id;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT i.source_id, i.key, 'l' FROM rsvp_sync._intent i
	WHERE i.source_id = s.source_id;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._detach(oid, regclass, boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._detach(oid, regclass, boolean) IS
'private: detach() for a caller';

CREATE FUNCTION rsvp_sync.detach(attendance regclass,
	withdraw boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_detach';
REVOKE ALL ON FUNCTION rsvp_sync.detach(regclass, boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.detach(regclass, boolean) IS
'ends what attach() began: triggers and index go at once. withdraw: the published records are deleted first, state detaching meanwhile; otherwise they stay. Errors: insufficient_privilege, undefined_object';

/* Sources whose table has been dropped; there is nobody to ask about them. */
CREATE FUNCTION rsvp_sync._forget_dropped() RETURNS integer
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._remove_sources(ARRAY(
		SELECT s.source_id FROM rsvp_sync._source s
		WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.attendance)))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._forget_dropped() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._forget_dropped() IS
'private: remove the sources whose table no longer exists; returns how many';

CREATE FUNCTION rsvp_sync._detach_all(caller oid) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '3s'
AS $$
	SELECT rsvp_sync._remove_sources(ARRAY(
		SELECT s.source_id
		FROM rsvp_sync._source s
		LEFT JOIN pg_class c ON c.oid = s.attendance
		WHERE c.oid IS NULL
			OR pg_has_role(caller, c.relowner, 'USAGE')
				AND s.kind <> 'explicit'))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._detach_all(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._detach_all(oid) IS
'private: detach_all() for a caller';

CREATE FUNCTION rsvp_sync.detach_all() RETURNS integer
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_detach_all';
REVOKE ALL ON FUNCTION rsvp_sync.detach_all() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.detach_all() IS
'detaches every table the caller owns, and forgets those that were dropped; published records stay; returns how many';

/*
 * Pause and resume
 */

CREATE FUNCTION rsvp_sync._pause(caller oid, attendance regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	IF s.state = 'detaching' THEN
		RAISE EXCEPTION 'table % is being detached', attendance
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Attach it again to keep it.';
	END IF;
	UPDATE rsvp_sync._source f SET state = 'paused',
		state_reason = format('paused by %s', caller::regrole),
		state_since = now()
	WHERE f.source_id = s.source_id AND f.state <> 'paused';
	/* The worker takes back what it has not sent yet. */
	INSERT INTO rsvp_sync._change_log (source_id, op)
	VALUES (s.source_id, 'w');
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._pause(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._pause(oid, regclass) IS
'private: pause() for a caller';

CREATE FUNCTION rsvp_sync.pause(attendance regclass) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_pause';
REVOKE ALL ON FUNCTION rsvp_sync.pause(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.pause(regclass) IS
'nothing of this table is sent until resume(); changes are kept. Errors: insufficient_privilege, undefined_object, object_not_in_prerequisite_state';

CREATE FUNCTION rsvp_sync._resume(caller oid, attendance regclass)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	UPDATE rsvp_sync._source f SET state = 'active', state_reason = NULL,
		state_since = now(), failures = 0, retry_at = NULL
	WHERE f.source_id = s.source_id AND f.state IN ('paused', 'broken');
	/* Nothing to look at but the queue: this wakes the worker. */
	INSERT INTO rsvp_sync._change_log (source_id, op)
	VALUES (s.source_id, 'w');
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._resume(oid, regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._resume(oid, regclass) IS
'private: resume() for a caller';

CREATE FUNCTION rsvp_sync.resume(attendance regclass) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_resume';
REVOKE ALL ON FUNCTION rsvp_sync.resume(regclass) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.resume(regclass) IS
'ends pause(), and has a broken source tried again at once. Errors: insufficient_privilege, undefined_object';
