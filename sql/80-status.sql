/*
 * What everybody may see: views, sync_status, preview, wait_until_idle, and
 * the calls that put keys in again.
 *
 * The views show the rows of attendance tables that the caller may read.
 */

CREATE FUNCTION rsvp_sync._may_see(attendance regclass) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(has_table_privilege(attendance::oid, 'SELECT'), false)
		/* Whom a policy shows some rows may not learn of the others here. */
		AND NOT coalesce(row_security_active(attendance::oid), true)
	OR pg_has_role('pg_monitor', 'USAGE')
$$;
COMMENT ON FUNCTION rsvp_sync._may_see(regclass) IS
'May the current user see the state of this table''s rows?';

/* Definer's rights: the views call it for readers without any here. */
CREATE FUNCTION rsvp_sync._is_all_paused() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (SELECT FROM rsvp_sync._pause p WHERE p.subject = '*')
$$;
COMMENT ON FUNCTION rsvp_sync._is_all_paused() IS
'Has pause() stopped everything?';

/* A key that waits: what it waits for. */
CREATE FUNCTION rsvp_sync._queued_state(source_state text, mode text,
	copied boolean, all_paused boolean, leased boolean, attempts integer,
	parked text,
	OUT state text, OUT code text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE
		WHEN leased THEN 'sending'
		WHEN copied OR mode = 'off' OR all_paused OR parked = 'paused'
			OR source_state IN ('paused', 'broken')
		THEN 'blocked'
		WHEN attempts > 0 OR parked = 'host_unreachable' THEN 'retrying'
		ELSE 'waiting' END,
	CASE
		WHEN leased THEN 'sending'
		WHEN copied THEN 'copied'
		WHEN mode = 'off' THEN 'mode_off'
		WHEN all_paused THEN 'paused'
		WHEN source_state = 'paused' THEN 'source_paused'
		WHEN source_state = 'broken' THEN 'source_broken'
		WHEN parked IS NOT NULL THEN parked
		WHEN attempts > 0 THEN 'retrying' ELSE 'queued' END
$$;
COMMENT ON FUNCTION rsvp_sync._queued_state(text, text, boolean, boolean, boolean, integer, text) IS
'State of a key that is in the queue; parked: why it waits for a server or an account, or NULL.';

CREATE VIEW rsvp_sync.status WITH (security_barrier) AS
WITH env AS (
	SELECT rsvp_sync._copied() AS copied,
		rsvp_sync._is_all_paused() AS all_paused,
		pg_catalog.current_setting('rsvp_sync.mode') AS mode
)
SELECT s.source_id, s.attendance, s.tenant, k.key AS attendance_id,
	CASE WHEN k.queued THEN qs.state ELSE k.state END AS state,
	CASE WHEN k.queued THEN qs.code ELSE k.reason_code END AS reason_code,
	CASE WHEN k.queued THEN rsvp_sync._reason(qs.code, CASE qs.code
			WHEN 'source_broken' THEN s.state_reason
			WHEN 'source_paused' THEN s.state_reason
			WHEN 'paused' THEN COALESCE(k.waits_for, 'Everything is.')
			WHEN 'rate_limited' THEN k.waits_for
			WHEN 'host_unreachable' THEN k.waits_for
			WHEN 'retrying' THEN k.queue_error END)
		ELSE k.reason END AS reason,
	k.did, k.event_uri,
	CASE WHEN k.bond IS NOT NULL THEN rsvp_sync._rsvp_uri(k.did, k.rkey)
		END AS uri,
	CASE WHEN k.base_cid NOT LIKE '?%' THEN k.base_cid END AS cid,
	k.local AS status, k.attempts,
	CASE WHEN k.queued AND NOT k.leased THEN CASE
		WHEN k.due_at < 'infinity' THEN k.due_at
		/* The longest that a probe is away; see src/host.c. */
		WHEN k.wait_code = 'host_unreachable'
		THEN pg_catalog.now() + (SELECT pg_catalog.make_interval(secs => CASE
				WHEN pg_catalog.now() - h.down_since > interval '1 day' THEN 300
				WHEN pg_catalog.now() - h.down_since > interval '1 hour' THEN 30
				ELSE 2 END)
			FROM rsvp_sync._host h WHERE h.host = k.waits_for)
		ELSE (SELECT a.rate_limited_until FROM rsvp_sync._account a
			WHERE a.did = k.waits_for) END END AS next_attempt_at,
	CASE WHEN k.queued THEN COALESCE(CASE WHEN k.wait_code = 'host_unreachable'
			THEN (SELECT h.last_error FROM rsvp_sync._host h
				WHERE h.host = k.waits_for) END, k.queue_error)
		WHEN k.state IN ('failed', 'blocked') THEN k.reason END AS last_error,
	k.synced_at
FROM (
	SELECT i.source_id, i.key, i.state, i.reason_code, i.reason, i.did,
		i.event_uri, i.bond, i.rkey, i.base_cid, i.local, i.synced_at,
		q.key IS NOT NULL AS queued, q.lease IS NOT NULL AS leased,
		COALESCE(q.attempts, CASE i.state WHEN 'failed'
			THEN i.failed_attempts END, 0) AS attempts, q.due_at,
		q.last_error AS queue_error,
		CASE WHEN q.due_at = 'infinity' THEN q.waits_for END AS waits_for,
		CASE WHEN q.due_at = 'infinity' THEN q.wait_code END AS wait_code
	FROM rsvp_sync._intent i
	LEFT JOIN rsvp_sync._queue q
		ON q.source_id = i.source_id AND q.key = i.key
	UNION ALL
	SELECT q.source_id, q.key, 'waiting', 'queued', NULL, NULL, NULL, NULL,
		NULL, NULL, NULL, NULL, true, q.lease IS NOT NULL, q.attempts,
		q.due_at, q.last_error,
		CASE WHEN q.due_at = 'infinity' THEN q.waits_for END,
		CASE WHEN q.due_at = 'infinity' THEN q.wait_code END
	FROM rsvp_sync._queue q
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = q.source_id AND i.key = q.key)
) k
JOIN rsvp_sync._source s ON s.source_id = k.source_id
CROSS JOIN env
CROSS JOIN LATERAL rsvp_sync._queued_state(s.state, env.mode, env.copied,
	env.all_paused, k.leased, k.attempts, k.wait_code) qs
WHERE rsvp_sync._may_see(s.attendance)
	OR s.kind = 'explicit' AND EXISTS (SELECT FROM rsvp_sync._own_explicit x
		WHERE x.source_id = s.source_id AND x.key = k.key);
COMMENT ON VIEW rsvp_sync.status IS
'State of every attendance row known to rsvp_sync: done, waiting, sending, retrying, blocked, held, withheld, superseded or failed, with a stable reason_code and a sentence.';

CREATE VIEW rsvp_sync.queue WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant, q.key AS attendance_id,
	q.priority, CASE WHEN q.due_at < 'infinity' THEN q.due_at END AS due_at,
	q.changed_at, q.lease IS NOT NULL AS leased, q.attempts, q.last_error,
	CASE WHEN q.due_at = 'infinity' THEN q.waits_for END AS waits_for
FROM rsvp_sync._queue q
JOIN rsvp_sync._source s ON s.source_id = q.source_id
WHERE rsvp_sync._may_see(s.attendance)
	OR s.kind = 'explicit' AND EXISTS (SELECT FROM rsvp_sync._own_explicit x
		WHERE x.source_id = s.source_id AND x.key = q.key);
COMMENT ON VIEW rsvp_sync.queue IS
'Keys that are to be looked at, one row a key; priority 0 is interactive, 1 reconcile and changes made by the hundred. waits_for: the server or DID that a key waits for.';

CREATE VIEW rsvp_sync.held WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant, i.key AS attendance_id,
	i.reason_code, i.reason, i.did, i.event_uri,
	rsvp_sync._rsvp_uri(i.did, i.rkey) AS uri
FROM rsvp_sync._intent i
JOIN rsvp_sync._source s ON s.source_id = i.source_id
WHERE i.state = 'held' AND (rsvp_sync._may_see(s.attendance)
	OR s.kind = 'explicit' AND EXISTS (SELECT FROM rsvp_sync._own_explicit x
		WHERE x.source_id = s.source_id AND x.key = i.key));
COMMENT ON VIEW rsvp_sync.held IS
'Withdrawals that wait for approve_withdrawals().';

CREATE VIEW rsvp_sync.failed WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant, i.key AS attendance_id,
	i.reason_code, i.reason, i.did, i.event_uri, i.local AS status,
	i.failed_error AS last_error, i.failed_attempts AS attempts,
	i.failed_at AS since
FROM rsvp_sync._intent i
JOIN rsvp_sync._source s ON s.source_id = i.source_id
WHERE i.state = 'failed' AND (rsvp_sync._may_see(s.attendance)
	OR s.kind = 'explicit' AND EXISTS (SELECT FROM rsvp_sync._own_explicit x
		WHERE x.source_id = s.source_id AND x.key = i.key));
COMMENT ON VIEW rsvp_sync.failed IS
'Keys that were given up: the last answer, after how many tries, and since when.';

CREATE VIEW rsvp_sync.rsvp WITH (security_barrier) AS
SELECT o.did, o.rkey, rsvp_sync._rsvp_uri(o.did, o.rkey) AS uri,
	/* One that nobody told us is none; see _arrivals(). */
	CASE WHEN o.cid NOT LIKE '?%' THEN o.cid END AS cid,
	o.event_uri, o.event_cid, o.status, o.record, o.rev, o.source,
	o.changed_at, o.seen_at
FROM rsvp_sync._observed o
WHERE o.cid IS NOT NULL
	AND NOT EXISTS (SELECT FROM rsvp_sync._repo r
		WHERE r.did = o.did AND NOT r.active);
COMMENT ON VIEW rsvp_sync.rsvp IS
'Observed: RSVP records known on the network, whoever wrote them, without those of accounts that are deactivated, suspended or taken down. status is NULL for a token we do not know.';

CREATE VIEW rsvp_sync.inbound WITH (security_barrier) AS
SELECT b.did, r.rkey, rsvp_sync._rsvp_uri(b.did, r.rkey) AS uri,
	b.event_uri, b.state, s.attendance, s.tenant,
	CASE WHEN b.state <> 'failed' THEN b.due_at END AS due_at, b.attempts,
	b.last_error, b.seen_at
FROM rsvp_sync._inbound b
/* See _put_off(). */
CROSS JOIN LATERAL (SELECT CASE WHEN b.rkey NOT LIKE '/%' THEN b.rkey END
	AS rkey) r
LEFT JOIN rsvp_sync._source s ON s.source_id = b.source_id
WHERE b.source_id IS NULL OR rsvp_sync._may_see(s.attendance);
COMMENT ON VIEW rsvp_sync.inbound IS
'Records, or their deletions, that are known and not applied yet: verify (their author''s PDS is asked first), apply (tried again) or failed (given up; retry() tries again). attendance: NULL for all tables that know the event.';

CREATE VIEW rsvp_sync.external_rsvp WITH (security_barrier) AS
SELECT x.tenant, x.source_type, x.source_id, x.event_id, x.author, x.handle,
	x.status, x.said, x.said_at, x.metadata, s.attendance,
	x.key AS attendance_id, x.due_at, x.attempts, x.last_error, x.seen_at
FROM rsvp_sync._external x
LEFT JOIN rsvp_sync._source s ON s.source_id = x.attendance
WHERE CASE WHEN s.source_id IS NOT NULL THEN rsvp_sync._may_see(s.attendance)
	ELSE EXISTS (SELECT FROM rsvp_sync._source t
		WHERE t.tenant = x.tenant AND rsvp_sync._may_see(t.attendance)) END;
COMMENT ON VIEW rsvp_sync.external_rsvp IS
'RSVPs made elsewhere that are no AT Protocol records. said: the status as it came; status: going, interested, notgoing, or NULL for a word we do not know; due_at: when it is tried again to apply it.';

CREATE VIEW rsvp_sync.history WITH (security_barrier) AS
SELECT h.at, s.attendance, s.tenant, h.key AS attendance_id, h.did,
	h.action, h.outcome, h.status, h.uri, h.cid, h.detail
FROM rsvp_sync._history h
JOIN rsvp_sync._source s ON s.source_id = h.source_id
WHERE rsvp_sync._may_see(s.attendance)
	OR s.kind = 'explicit' AND EXISTS (SELECT FROM rsvp_sync._own_explicit x
		WHERE x.source_id = s.source_id AND x.key = h.key);
COMMENT ON VIEW rsvp_sync.history IS
'What was sent and what came of it; with mode dry_run, what would have been sent.';

CREATE VIEW rsvp_sync.webmention WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant, w.key AS attendance_id,
	w.permalink, w.target,
	CASE WHEN w.lease IS NOT NULL AND w.due_at IS NOT NULL THEN 'sending'
		WHEN w.due_at IS NOT NULL AND w.attempts > 0 THEN 'retrying'
		WHEN w.state = 'told' AND w.wanted = 'gone' THEN 'withdrawn'
		ELSE w.state END AS state,
	w.wanted AS status, w.told, w.endpoint, w.http_status, w.status_url,
	w.status_http, w.status_text, w.attempts,
	w.due_at AS next_attempt_at, w.last_error, w.first_sent, w.last_sent,
	w.removed_at
FROM rsvp_sync._webmention w
JOIN rsvp_sync._source s ON s.source_id = w.source_id
WHERE rsvp_sync._may_see(s.attendance);
COMMENT ON VIEW rsvp_sync.webmention IS
'Whom the pages of attendance rows speak of, and what they were told. state: waiting, sending, retrying, told, withdrawn, no_endpoint, not_backfilled, never_published, failed or discarded.';

CREATE VIEW rsvp_sync.webmention_received WITH (security_barrier) AS
SELECT w.id, s.source_id, s.attendance, s.tenant, w.source, w.target,
	CASE WHEN w.due_at IS NOT NULL AND w.attempts > 0 THEN 'retrying'
		WHEN w.due_at IS NOT NULL THEN 'waiting' ELSE w.state END AS state,
	w.status, w.author, w.author_url, w.author_name, w.result,
	w.http_status, w.attempts, w.due_at AS next_attempt_at, w.last_error,
	w.received_at, w.verified_at
FROM rsvp_sync._webmention_in w
JOIN rsvp_sync._source s ON s.source_id = w.source_id
WHERE rsvp_sync._may_see(s.attendance);
COMMENT ON VIEW rsvp_sync.webmention_received IS
'Webmentions that others sent for pages of events here, and what became of them. state: waiting, retrying, applied, mention (no RSVP), removed, refused (it does not link there) or failed.';

/* The source of an attached table, or an error that says what to do. */
CREATE FUNCTION rsvp_sync._source_of(table_name regclass)
RETURNS rsvp_sync._source
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
BEGIN
	IF table_name IS NULL THEN
		RAISE EXCEPTION 'attendance must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Name the attendance table.';
	END IF;
	SELECT * INTO src FROM rsvp_sync._source s
	WHERE s.attendance = table_name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table % is not attached', table_name
			USING ERRCODE = 'undefined_object',
			HINT = 'Attach it: SELECT rsvp_sync.attach('
				|| quote_literal(table_name) || ').';
	END IF;
	RETURN src;
END
$$;
COMMENT ON FUNCTION rsvp_sync._source_of(regclass) IS
'Source of an attached table; undefined_object if it is not attached, null_value_not_allowed for NULL.';

CREATE FUNCTION rsvp_sync._check_reader(caller oid, table_name regclass)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT has_table_privilege(caller, table_name::oid, 'SELECT') THEN
		RAISE EXCEPTION 'permission denied for table %', table_name
			USING ERRCODE = 'insufficient_privilege',
			HINT = 'Whoever may read the table may see the state of its rows.';
	END IF;
	IF EXISTS (SELECT FROM pg_class c, pg_roles r
		WHERE c.oid = table_name AND c.relrowsecurity AND r.oid = caller
			AND NOT r.rolsuper AND NOT r.rolbypassrls
			AND (c.relforcerowsecurity
				OR NOT pg_has_role(caller, c.relowner, 'USAGE'))) THEN
		RAISE EXCEPTION 'row security of table % applies to role %',
			table_name, caller::regrole
			USING ERRCODE = 'insufficient_privilege',
			HINT = 'Ask as the owner of the table: its policies are not evaluated here.';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_reader(oid, regclass) IS
'insufficient_privilege unless the caller may read the table.';

/* Of one row; an explicit call is seen by whoever has made it. */
CREATE FUNCTION rsvp_sync._check_reader(caller oid, table_name regclass,
	of_key text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF table_name = 'rsvp_sync._explicit'::regclass
		AND rsvp_sync._is_own_call(caller, of_key) THEN
		RETURN;
	END IF;
	PERFORM rsvp_sync._check_reader(caller, table_name);
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_reader(oid, regclass, text) IS
'insufficient_privilege unless the caller may see the state of this row.';

/*
 * Of a key that nothing is known of: can it be one at all?  As the table's
 * owner, since a type's input may be the application's.
 */
CREATE FUNCTION rsvp_sync._check_key(src rsvp_sync._source, of_key text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	described text;
	columns integer;
	wrong boolean := false;
BEGIN
	IF of_key IS NULL OR EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = src.source_id AND i.key = of_key) THEN
		RETURN;
	END IF;
	SELECT count(*), string_agg(format('"%s" (%s)', k.name, k.type), ', '
		ORDER BY k.place)
	INTO columns, described
	FROM rsvp_sync._key_columns(src.attendance) k;
	IF columns = 0 THEN
		RETURN;
	END IF;
	BEGIN
		IF columns > 1 THEN
			wrong := of_key::jsonb IS DISTINCT FROM (
				SELECT jsonb_agg(e.v #>> '{}' ORDER BY e.n)
				FROM jsonb_array_elements(of_key::jsonb)
					WITH ORDINALITY e (v, n)
				HAVING count(*) = columns);
		END IF;
		PERFORM rsvp_sync._present(src.source_id, ARRAY[of_key])
		WHERE NOT wrong;
	EXCEPTION
		WHEN data_exception OR check_violation OR not_null_violation THEN
			wrong := true;
		/* Whatever else there is, whoever called will find. */
		WHEN OTHERS THEN NULL;
	END;
	IF wrong THEN
		RAISE EXCEPTION '"%" cannot be a key of table %', of_key,
			src.attendance
			USING ERRCODE = 'invalid_parameter_value',
			HINT = CASE WHEN columns = 1
				THEN format('attendance_id is the primary key as text: column %s.', described)
				ELSE format('attendance_id is the primary key as a JSON array of %s texts, as in ["1", "2"]: columns %s.', columns, described) END;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_key(rsvp_sync._source, text) IS
'private: invalid_parameter_value if this text cannot be a key of the attendance table';

/* A key as it is kept: '01' is row 1, and a uuid may come in capitals. */
CREATE FUNCTION rsvp_sync._kept_key(src rsvp_sync._source, given text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	/* Known rows need no query: it may be broken. */
	IF given IS NULL OR EXISTS (SELECT FROM rsvp_sync._intent i
			WHERE i.source_id = src.source_id AND i.key = given)
		OR EXISTS (SELECT FROM rsvp_sync._queue q
			WHERE q.source_id = src.source_id AND q.key = given) THEN
		RETURN given;
	END IF;
	PERFORM rsvp_sync._check_key(src, given);
	RETURN coalesce((SELECT d.key
		FROM rsvp_sync._desired(src.source_id, ARRAY[given]) d), given);
END
$$;
COMMENT ON FUNCTION rsvp_sync._kept_key(rsvp_sync._source, text) IS
'private: the text under which a row that somebody names is known, or the name itself where there is no such row; errors of _check_key()';

CREATE FUNCTION rsvp_sync._sync_status(caller oid, attendance regclass,
	attendance_id text, OUT state text, OUT reason_code text,
	OUT reason text, OUT uri text, OUT cid text, OUT status text,
	OUT attempts integer, OUT next_attempt_at timestamptz,
	OUT last_error text, OUT synced_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._source_of(attendance);
	kept text;
BEGIN
	PERFORM rsvp_sync._check_reader(caller, attendance, attendance_id);
	kept := rsvp_sync._kept_key(src, attendance_id);
	SELECT v.state, v.reason_code, v.reason, v.uri, v.cid, v.status,
		v.attempts, v.next_attempt_at, v.last_error, v.synced_at
	INTO state, reason_code, reason, uri, cid, status, attempts,
		next_attempt_at, last_error, synced_at
	FROM rsvp_sync.status v
	WHERE v.source_id = src.source_id
		AND v.attendance_id = kept;
	IF NOT FOUND AND kept IS NOT NULL
		AND EXISTS (SELECT FROM rsvp_sync._desired(src.source_id,
			ARRAY[kept])) THEN
		/* Known to the application, not to the worker yet. */
		state := 'waiting';
		reason_code := 'queued';
		reason := rsvp_sync._reason('queued');
		attempts := 0;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._sync_status(oid, regclass, text) IS
'private: sync_status() for a caller.';

CREATE FUNCTION rsvp_sync.sync_status(attendance regclass,
	attendance_id text, OUT state text, OUT reason_code text,
	OUT reason text, OUT uri text, OUT cid text, OUT status text,
	OUT attempts integer, OUT next_attempt_at timestamptz,
	OUT last_error text, OUT synced_at timestamptz)
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_sync_status';
COMMENT ON FUNCTION rsvp_sync.sync_status(regclass, text) IS
'State of one attendance row. attendance_id: its primary key as text (composite: a JSON array of texts). All NULL: there is no such row. Errors: undefined_object (not attached), insufficient_privilege (may not read the table), invalid_parameter_value (no key of this table).';

CREATE FUNCTION rsvp_sync._preview(caller oid, attendance regclass,
	of_key text)
RETURNS TABLE (attendance_id text, did text, event_uri text, action text,
	status text, reason_code text, reason text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._source_of(attendance);
BEGIN
	PERFORM rsvp_sync._check_reader(caller, attendance, of_key);
	of_key := rsvp_sync._kept_key(src, of_key);
	RETURN QUERY
	SELECT e.key, e.did, e.event_uri, CASE (e.d).action
			WHEN 'none' THEN 'nothing' WHEN 'forget' THEN 'nothing'
			WHEN 'handover' THEN 'nothing' WHEN 'list' THEN 'read'
			ELSE (e.d).action END,
		coalesce((e.d).send, (e.s).local), x.code,
		CASE x.code WHEN 'withheld' THEN (e.d).reason_code
			WHEN 'unmapped_status' THEN rsvp_sync._reason(x.code, e.status)
			WHEN 'status_not_published'
			THEN rsvp_sync._reason(x.code, e.status)
			ELSE rsvp_sync._reason(x.code) END
	FROM rsvp_sync._evaluate(src.source_id,
		CASE WHEN of_key IS NOT NULL THEN ARRAY[of_key] END, true) e
	CROSS JOIN LATERAL (SELECT CASE
		WHEN (e.d).action IN ('put', 'delete', 'read') THEN NULL
		ELSE (SELECT c.code FROM rsvp_sync._standing(e) c) END AS code) x
	/* Nor a row of the table, nor known. */
	WHERE (e.s).present OR EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = src.source_id AND i.key = e.key)
	ORDER BY e.key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._preview(oid, regclass, text) IS
'private: preview() for a caller.';

CREATE FUNCTION rsvp_sync.preview(attendance regclass,
	attendance_id text DEFAULT NULL)
RETURNS TABLE (attendance_id text, did text, event_uri text, action text,
	status text, reason_code text, reason text)
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_preview';
COMMENT ON FUNCTION rsvp_sync.preview(regclass, text) IS
'What would be done for a row (NULL: all rows), seen from inside the calling transaction, committed or not; sends and changes nothing. action: nothing, put, delete, read (first), wait, hold. Errors as sync_status().';

CREATE FUNCTION rsvp_sync._approve_withdrawals(caller oid,
	attendance regclass)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._source_of(attendance);
	approved_keys bigint;
BEGIN
	PERFORM rsvp_sync._check_owner(caller, attendance);
	WITH let AS (
		UPDATE rsvp_sync._intent i SET approved = true
		WHERE i.source_id = src.source_id AND i.state = 'held'
		RETURNING i.key
	)
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT src.source_id, l.key, 'l' FROM let l;
	GET DIAGNOSTICS approved_keys = ROW_COUNT;
	RETURN approved_keys;
END
$$;
COMMENT ON FUNCTION rsvp_sync._approve_withdrawals(oid, regclass) IS
'private: approve_withdrawals() for a caller.';

CREATE FUNCTION rsvp_sync.approve_withdrawals(attendance regclass)
RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_approve_withdrawals';
COMMENT ON FUNCTION rsvp_sync.approve_withdrawals(regclass) IS
'Lets the held withdrawals of a source pass. Returns how many. Only the table''s owner may. Errors: undefined_object, insufficient_privilege.';

/* Is there anything the worker could do now or after a wait? */
CREATE FUNCTION rsvp_sync._idle(of_source bigint) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log l
		WHERE of_source IS NULL OR l.source_id IN (of_source, 0))
	AND (rsvp_sync._copied() OR current_setting('rsvp_sync.mode') = 'off'
		OR rsvp_sync._is_all_paused()
		OR NOT EXISTS (SELECT FROM rsvp_sync._queue q
			JOIN rsvp_sync._source s ON s.source_id = q.source_id
			WHERE (of_source IS NULL OR q.source_id = of_source)
				AND NOT (q.due_at = 'infinity'
					AND coalesce(q.wait_code = 'paused', false))
				AND s.state NOT IN ('paused', 'broken')))
	AND NOT EXISTS (SELECT FROM rsvp_sync._intent i
		JOIN rsvp_sync._source s ON s.source_id = i.source_id
		WHERE (of_source IS NULL OR i.source_id = of_source)
			AND i.writeback AND i.writeback_failures < 3
			AND s.state IN ('active', 'detaching'))
	AND (rsvp_sync._copied() OR current_setting('rsvp_sync.mode') = 'off'
		OR rsvp_sync._is_all_paused() OR rsvp_sync._visits_idle())
	AND rsvp_sync._webmentions_idle(of_source)
	/* Answers from elsewhere that could not be applied are tried again. */
	AND (rsvp_sync._copied() OR current_setting('rsvp_sync.mode') <> 'live'
		OR rsvp_sync._is_all_paused()
		OR NOT EXISTS (SELECT FROM rsvp_sync._inbound b
			LEFT JOIN rsvp_sync._source s ON s.source_id = b.source_id
			WHERE b.state = 'apply' AND coalesce(s.state, 'active') = 'active'
				AND (of_source IS NULL
					OR coalesce(b.source_id, of_source) = of_source)))
	/* One that is all withdrawn is about to go. */
	AND NOT EXISTS (SELECT FROM rsvp_sync._source s
		WHERE (of_source IS NULL OR s.source_id = of_source)
			AND s.state = 'detaching'
			AND rsvp_sync._is_detached(s.source_id))
$$;
COMMENT ON FUNCTION rsvp_sync._idle(bigint) IS
'Is nothing runnable left of a source (NULL: of all)?';

CREATE FUNCTION rsvp_sync.wait_until_idle(timeout interval,
	attendance regclass DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	until timestamptz := clock_timestamp() + timeout;
	of_source bigint;
BEGIN
	IF current_setting('transaction_isolation')
		IN ('repeatable read', 'serializable') THEN
		RAISE EXCEPTION 'wait_until_idle() needs READ COMMITTED'
			USING ERRCODE = 'invalid_transaction_state',
			HINT = 'Under a transaction-wide snapshot the worker''s progress cannot be seen.';
	END IF;
	IF rsvp_sync._pending_in_transaction() THEN
		RAISE EXCEPTION 'this transaction has changed attendance itself'
			USING ERRCODE = 'invalid_transaction_state',
			HINT = 'COMMIT first: the worker cannot see the change before.';
	END IF;
	IF attendance IS NOT NULL THEN
		of_source := (rsvp_sync._source_of(attendance)).source_id;
	END IF;
	LOOP
		IF rsvp_sync._idle(of_source) THEN
			RETURN true;
		END IF;
		IF timeout IS NULL OR clock_timestamp() >= until THEN
			RETURN false;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync.wait_until_idle(interval, regclass) IS
'Waits until nothing runnable is left (of one source, or of all): true; false after the timeout. What is blocked, held, withheld or failed is not runnable; what will be retried is. Errors: invalid_transaction_state in a transaction that changed attendance itself, or under REPEATABLE READ.';

CREATE FUNCTION rsvp_sync.start_worker() RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_start_worker';
COMMENT ON FUNCTION rsvp_sync.start_worker() IS
'Starts a worker for this database where the library is not preloaded (it polls, and is gone after a restart of the server); where it is, only pokes the launcher. Errors: configuration_limit_exceeded (no worker slot is free).';
