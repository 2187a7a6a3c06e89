/*
 * What an operator reads, and the calls that put keys in again: classify(),
 * retry(), discard(), explain_sync(), doctor(), and the views of what runs.
 */

CREATE FUNCTION rsvp_sync.classify(http_status integer, body text,
	headers jsonb)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_classify';
COMMENT ON FUNCTION rsvp_sync.classify(integer, text, jsonb) IS
'What an answer of a PDS or authorization server asks for: ok, absent, retry, limit, refresh, reread, user or permanent. By the name of its error first (body, then WWW-Authenticate), by the status where that is unknown; 0 or NULL: there was no answer. No input is an error.';

/*
 * Trying again
 */

/* The other way: what could not be applied to the caller's tables. */
CREATE FUNCTION rsvp_sync._retry_inbound(caller oid, of_source bigint,
	of_did text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	own bigint[] := ARRAY(SELECT l.source_id FROM rsvp_sync._listeners() l
		JOIN pg_class c ON c.oid = l.attendance
		WHERE pg_has_role(caller, c.relowner, 'USAGE')
			AND (of_source IS NULL OR l.source_id = of_source));
	n bigint;
	m bigint;
BEGIN
	UPDATE rsvp_sync._inbound b SET due_at = now(), attempts = 0,
		/* What is not stored as it was told has to be read. */
		state = CASE WHEN b.state <> 'failed' THEN b.state
			WHEN b.source_id IS NULL AND b.rkey NOT LIKE '/%' AND NOT EXISTS (
				SELECT FROM rsvp_sync._observed o
				WHERE o.did = b.did AND o.rkey = b.rkey AND o.verified
					AND o.seen_at >= b.seen_at)
			THEN 'verify' ELSE 'apply' END
	WHERE (of_did IS NULL OR b.did = of_did) AND own <> '{}'
		AND (b.source_id = ANY (own)
			OR b.source_id IS NULL AND of_source IS NULL);
	GET DIAGNOSTICS n = ROW_COUNT;
	UPDATE rsvp_sync._external x SET due_at = now(), attempts = 0
	WHERE (of_did IS NULL OR x.author = of_did)
		AND (x.due_at IS NOT NULL OR x.last_error IS NOT NULL)
		AND x.tenant IN (SELECT s.tenant FROM rsvp_sync._source s
			WHERE s.source_id = ANY (own));
	GET DIAGNOSTICS m = ROW_COUNT;
	IF n + m > 0 THEN
		INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'w');
	END IF;
	RETURN n + m;
END
$$;
COMMENT ON FUNCTION rsvp_sync._retry_inbound(oid, bigint, text) IS
'private: has what could not be applied to the caller''s tables tried again';

/* What failed, and what waits for its next try. */
CREATE FUNCTION rsvp_sync._retry_keys(caller oid, of_source bigint,
	of_did text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	n bigint;
BEGIN
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT k.source_id, k.key, 'l'
	FROM (
		SELECT i.source_id, i.key FROM rsvp_sync._intent i
		WHERE i.state = 'failed'
			AND i.reason_code IS DISTINCT FROM 'discarded'
			AND (of_did IS NULL OR i.did = of_did)
			AND NOT EXISTS (SELECT FROM rsvp_sync._queue q
				WHERE q.source_id = i.source_id AND q.key = i.key)
		UNION ALL
		SELECT q.source_id, q.key FROM rsvp_sync._queue q
		LEFT JOIN rsvp_sync._intent i USING (source_id, key)
		WHERE q.attempts > 0 AND q.lease IS NULL
			AND (of_did IS NULL OR i.did = of_did)) k
	JOIN rsvp_sync._source s ON s.source_id = k.source_id
	JOIN pg_class c ON c.oid = s.attendance
	WHERE (of_source IS NULL OR s.source_id = of_source)
		AND (pg_has_role(caller, c.relowner, 'USAGE')
			OR s.kind = 'explicit'
				AND rsvp_sync._is_own_call(caller, k.key));
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n + rsvp_sync._retry_inbound(caller, of_source, of_did)
		+ rsvp_sync._retry_webmentions(caller, of_source, of_did, NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._retry_keys(oid, bigint, text) IS
'private: puts the caller''s failed and retrying keys in again, of one source or DID where given';

CREATE FUNCTION rsvp_sync._retry(caller oid, attendance regclass,
	attendance_id text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._owned_source(caller, attendance,
		attendance_id);
BEGIN
	IF attendance_id IS NULL THEN
		RETURN rsvp_sync._retry_keys(caller, src.source_id, NULL);
	END IF;
	attendance_id := rsvp_sync._kept_key(src, attendance_id);
	PERFORM rsvp_sync._retry_webmentions(caller, src.source_id, NULL,
		attendance_id);
	/* Named by itself, a key is looked at however it stands. */
	IF NOT EXISTS (SELECT FROM rsvp_sync._intent i
			WHERE i.source_id = src.source_id
				AND i.key = _retry.attendance_id)
		AND NOT EXISTS (SELECT FROM rsvp_sync._desired(src.source_id,
			ARRAY[_retry.attendance_id]))
	THEN
		RETURN 0;
	END IF;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	VALUES (src.source_id, _retry.attendance_id, 'l');
	RETURN 1;
END
$$;
COMMENT ON FUNCTION rsvp_sync._retry(oid, regclass, text) IS
'private: retry() of a row or a table for a caller';

CREATE FUNCTION rsvp_sync.retry(attendance regclass,
	attendance_id text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_retry';
COMMENT ON FUNCTION rsvp_sync.retry(regclass, text) IS
'Has a row looked at again at once, its tries counted anew; without attendance_id all rows of the table that failed or wait for their next try. Returns how many. Only the table''s owner may. Errors: undefined_object, insufficient_privilege, null_value_not_allowed.';

/* C has made the name of a table its oid, by the caller''s search_path. */
CREATE FUNCTION rsvp_sync._retry(caller oid, did text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF did LIKE 'did:%' THEN
		RETURN rsvp_sync._retry_keys(caller, NULL, did);
	END IF;
	RETURN rsvp_sync._retry(caller, did::oid::regclass, NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._retry(oid, text) IS
'private: retry() of a DID, or of a table given as a literal, for a caller';

/* No search_path of its own: a table is looked up by the caller's. */
CREATE FUNCTION rsvp_sync.retry(did text) RETURNS bigint
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_retry_subject';
COMMENT ON FUNCTION rsvp_sync.retry(text) IS
'Has the rows of a DID that failed or wait for their next try looked at again at once, in all tables of the caller. Returns how many. Also takes the name of an attached table, so that a literal needs no cast. Errors: undefined_table (neither a DID nor a table), null_value_not_allowed, and those of retry(regclass).';

CREATE FUNCTION rsvp_sync._retry(caller oid) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._retry_keys(caller, NULL, NULL)
$$;
COMMENT ON FUNCTION rsvp_sync._retry(oid) IS
'private: retry() of all for a caller';

CREATE FUNCTION rsvp_sync.retry() RETURNS bigint
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_retry';
COMMENT ON FUNCTION rsvp_sync.retry() IS
'Has all rows that failed or wait for their next try looked at again at once, in all tables of the caller. Returns how many.';

CREATE FUNCTION rsvp_sync._discard(caller oid, attendance regclass,
	attendance_id text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._owned_source(caller, attendance,
		attendance_id);
	discarded boolean;
BEGIN
	IF attendance_id IS NULL THEN
		RAISE EXCEPTION 'attendance_id must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the key of one row; view failed has it.';
	END IF;
	attendance_id := rsvp_sync._kept_key(src, attendance_id);
	UPDATE rsvp_sync._intent i SET reason_code = 'discarded',
		reason = rsvp_sync._reason('discarded')
	WHERE i.source_id = src.source_id AND i.key = _discard.attendance_id
		AND i.state = 'failed'
		AND NOT EXISTS (SELECT FROM rsvp_sync._queue q
			WHERE q.source_id = i.source_id AND q.key = i.key);
	discarded := FOUND;
	RETURN rsvp_sync._discard_webmentions(src.source_id, attendance_id)
		OR discarded;
END
$$;
COMMENT ON FUNCTION rsvp_sync._discard(oid, regclass, text) IS
'private: discard() for a caller';

CREATE FUNCTION rsvp_sync.discard(attendance regclass, attendance_id text)
RETURNS boolean
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_discard';
COMMENT ON FUNCTION rsvp_sync.discard(regclass, text) IS
'Gives a row that failed up for good: neither reconcile() nor a connected account nor retry() of many tries it again; a change of the row, or retry() of just this row, does. false: it has not failed. Only the table''s owner may. Errors: undefined_object, insufficient_privilege, null_value_not_allowed.';

/*
 * Explaining
 */

/* What somebody can do about a state and its code; NULL: nothing. */
CREATE FUNCTION rsvp_sync._advice(state text, code text, attendance text,
	key text, did text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE
	WHEN code = 'no_account' THEN format('Connect the account: SELECT rsvp_sync.connect_account(%L, app password).', did)
	WHEN code IN ('needs_login', 'wrong_password') THEN format('Ask the user to sign in again, or for a new app password, then: SELECT rsvp_sync.connect_oauth(session), or connect_account(%L, app password).', did)
	WHEN code = 'account_not_granted' THEN format('The account''s owner can let this table use it: SELECT rsvp_sync.grant_account(%L, role).', did)
	WHEN code = 'deactivated' THEN 'The user has to activate the account at its PDS; then connect it again.'
	WHEN code = 'takendown' THEN 'That is between the user and the PDS.'
	WHEN code = 'paused' THEN 'Whoever paused it lets it go on: SELECT rsvp_sync.resume(), with the account''s DID, with the server, or without arguments.'
	WHEN code = 'source_paused' THEN format('Let the table go on: SELECT rsvp_sync.resume(%L).', attendance)
	WHEN code = 'source_broken' THEN format('Put the query or the schema right; it is tried again every minute, and at once by: SELECT rsvp_sync.resume(%L).', attendance)
	WHEN code = 'copied' THEN 'If this database is the one to speak for its users, in place of the one it was copied from: SELECT rsvp_sync.activate().'
	WHEN code IN ('mode_off', 'dry_run') THEN 'Set rsvp_sync.mode to live.'
	WHEN code = 'discarded' THEN format('If it is to be tried after all: SELECT rsvp_sync.retry(%L, %L).', attendance, key)
	WHEN state = 'failed' THEN format('Once the cause is removed: SELECT rsvp_sync.retry(%L, %L). If it is hopeless: SELECT rsvp_sync.discard(%1$L, %2$L).', attendance, key)
	WHEN state = 'held' THEN format('If the withdrawals of this table are meant: SELECT rsvp_sync.approve_withdrawals(%L).', attendance)
	WHEN code = 'unmapped_status' THEN 'Name the status in option status_map, with null if it is not to be published.'
	WHEN code IN ('no_did', 'no_identity', 'not_connected') THEN 'The user can link an account in the application.'
	WHEN code = 'invalid_did' THEN 'Correct the DID in the application''s data.'
	WHEN code = 'no_event_uri' THEN 'Publish the event first.'
	WHEN code = 'invalid_event_uri' THEN 'Correct the address of the event in the application''s data.'
	WHEN code = 'past_event' THEN 'Set option publish_past_events if it is to be published all the same.'
	WHEN code = 'not_backfilled' THEN format('Rows that were there before can be published, too: SELECT rsvp_sync.attach(%L, options => ''{"backfill": "all"}'').', attendance)
	END
$$;
COMMENT ON FUNCTION rsvp_sync._advice(text, text, text, text, text) IS
'private: what to do about a row in this state, or NULL';

CREATE FUNCTION rsvp_sync._outlook(state text, code text, attempts integer,
	next_attempt_at timestamptz)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE CASE WHEN code IN ('host_unreachable', 'rate_limited')
	THEN code ELSE state END
	WHEN 'host_unreachable' THEN 'It goes on by itself when the server answers.'
	WHEN 'rate_limited' THEN format('It goes on by itself%s.',
		coalesce(to_char(next_attempt_at AT TIME ZONE 'UTC',
			' "at" YYYY-MM-DD HH24:MI:SS "UTC"'), ' when the server allows'))
	WHEN 'done' THEN 'Nothing more happens until the row changes.'
	WHEN 'waiting' THEN 'The worker takes it up as soon as it can.'
	WHEN 'sending' THEN 'The answer is awaited.'
	WHEN 'retrying' THEN format('Try %s of at most %s follows%s.', attempts + 1,
		current_setting('rsvp_sync.max_attempts'),
		coalesce(to_char(next_attempt_at AT TIME ZONE 'UTC',
			' "at" YYYY-MM-DD HH24:MI:SS "UTC"'), ''))
	WHEN 'blocked' THEN 'It goes on by itself once that is put right.'
	WHEN 'held' THEN 'It waits until somebody lets it pass.'
	WHEN 'withheld' THEN 'It is looked at again when the row, or something it depends on, changes.'
	WHEN 'superseded' THEN 'It speaks again if that other row goes.'
	WHEN 'failed' THEN 'It is not tried again by itself.'
	END
$$;
COMMENT ON FUNCTION rsvp_sync._outlook(text, text, integer, timestamptz) IS
'private: what will happen next to a row in this state';

/* What the row says now, or why it cannot be asked. */
CREATE FUNCTION rsvp_sync._what_row_says(src rsvp_sync._source, of_key text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	row_name text := format('Row %s of %s', coalesce(of_key, 'NULL'),
		src.attendance);
	d record;
	map jsonb;
BEGIN
	BEGIN
		SELECT * INTO d FROM rsvp_sync._desired(src.source_id, ARRAY[of_key]);
	EXCEPTION WHEN OTHERS THEN
		RETURN format('%s could not be looked up: %s.', row_name,
			rtrim(SQLERRM, '.'));
	END;
	IF d.key IS NULL THEN
		RETURN format('There is no row %s in %s (any more).',
			coalesce(of_key, 'NULL'), src.attendance);
	END IF;
	map := rsvp_sync._status_map(src.source_id);
	RETURN format('%s says %s%s; its user is %s, its event %s.', row_name,
		coalesce(quote_literal(d.status), 'no status'),
		coalesce(', which means "' || (map ->> d.status)
			|| '" on the network', ', which is not published'),
		coalesce(d.did, 'without a DID'),
		coalesce(d.event_uri, 'not on the network'));
END
$$;
COMMENT ON FUNCTION rsvp_sync._what_row_says(rsvp_sync._source, text) IS
'private: a sentence about what an attendance row says now';

CREATE FUNCTION rsvp_sync._what_is_published(of_source bigint, of_key text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce((
	SELECT format('On the network %s %s%s%s.',
			rsvp_sync._rsvp_uri(i.did, coalesce(o.rkey, i.rkey)),
			CASE WHEN o.did IS NULL THEN 'has not been read yet'
				ELSE coalesce('says "' || o.status || '"',
					'has a status that is not known') END,
			CASE WHEN i.bond IS NULL
				THEN ', which is not known to be this row''s'
				WHEN i.bond = 'adopted'
				THEN ' and was first written by another application'
				ELSE '' END,
			coalesce(to_char(i.synced_at AT TIME ZONE 'UTC',
				'", last confirmed" YYYY-MM-DD HH24:MI:SS "UTC"'), ''))
	FROM rsvp_sync._intent i
	LEFT JOIN rsvp_sync._observed o ON o.did = i.did AND o.cid IS NOT NULL
		AND CASE WHEN i.bond IS NOT NULL THEN o.rkey = i.rkey
			ELSE o.event_uri = i.event_uri END
	WHERE i.source_id = of_source AND i.key = of_key
		AND (i.bond IS NOT NULL OR o.did IS NOT NULL)
	ORDER BY o.changed_at DESC NULLS LAST LIMIT 1),
	'Nothing of it is known to be on the network.')
$$;
COMMENT ON FUNCTION rsvp_sync._what_is_published(bigint, text) IS
'private: a sentence about the record of an attendance row';

/* A lock that is in the way is nobody's trouble; what comes again is. */
CREATE FUNCTION rsvp_sync._untold(of_source bigint, of_key text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT format('The row has not been told of its record: %s. It is tried again at %s.',
	rtrim(i.writeback_error, '.'),
	to_char(i.writeback_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'))
FROM rsvp_sync._intent i
WHERE i.source_id = of_source AND i.key = of_key
	AND i.writeback AND i.writeback_failures >= 3
$$;
COMMENT ON FUNCTION rsvp_sync._untold(bigint, text) IS
'private: a sentence about a write-back that fails; NULL: it does not';

CREATE FUNCTION rsvp_sync._explain_sync(caller oid, attendance regclass,
	attendance_id text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source := rsvp_sync._source_of(attendance);
	st record;
	of_did text;
BEGIN
	PERFORM rsvp_sync._check_reader(caller, attendance, attendance_id);
	PERFORM rsvp_sync._check_key(src, attendance_id);
	BEGIN
		attendance_id := rsvp_sync._kept_key(src, attendance_id);
		SELECT * INTO st FROM rsvp_sync._sync_status(caller, attendance,
			attendance_id);
	EXCEPTION WHEN OTHERS THEN
		/* The query does not run: the first sentence says so. */
		SELECT NULL::text AS state, NULL::text AS reason_code,
			NULL::text AS reason, NULL::text AS last_error, 0 AS attempts,
			NULL::timestamptz AS next_attempt_at INTO st;
	END;
	SELECT i.did INTO of_did FROM rsvp_sync._intent i
	WHERE i.source_id = src.source_id
		AND i.key = _explain_sync.attendance_id;
	RETURN concat_ws(' ',
		rsvp_sync._what_row_says(src, attendance_id),
		rsvp_sync._what_is_published(src.source_id, attendance_id),
		CASE WHEN st.state IS NULL THEN 'Nothing is known of it.'
			/* The application's or a server's own words may end in nothing. */
			ELSE format('It is %s (%s): %s%s', st.state, st.reason_code,
				st.reason, CASE WHEN st.reason !~ '[.!?]$' THEN '.' END)
			END,
		CASE WHEN st.last_error IS NOT NULL
			AND strpos(coalesce(st.reason, ''), st.last_error) = 0
			THEN format('The last try ended with %s.',
				rtrim(st.last_error, '.')) END,
		rsvp_sync._untold(src.source_id, attendance_id),
		rsvp_sync._outlook(st.state, st.reason_code, st.attempts,
			st.next_attempt_at),
		rsvp_sync._advice(st.state, st.reason_code, attendance::text,
			attendance_id, of_did));
END
$$;
COMMENT ON FUNCTION rsvp_sync._explain_sync(oid, regclass, text) IS
'private: explain_sync() for a caller';

CREATE FUNCTION rsvp_sync.explain_sync(attendance regclass,
	attendance_id text)
RETURNS text
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_explain_sync';
COMMENT ON FUNCTION rsvp_sync.explain_sync(regclass, text) IS
'A paragraph for support staff: what the row says, what is published, why not, what happens next, what to do. Whoever may read the table may call it. Errors: undefined_object, insufficient_privilege.';

/*
 * Looking at what runs
 */

CREATE FUNCTION rsvp_sync._runtime(OUT preloaded boolean,
	OUT worker_pid integer, OUT library_version text)
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_runtime';
COMMENT ON FUNCTION rsvp_sync._runtime() IS
'private: is the library preloaded, which process is this database''s worker, which version is loaded';

/* For everybody who may read the view: a pid and what it does are no secret. */
CREATE FUNCTION rsvp_sync._stat_worker(OUT pid integer,
	OUT started_at timestamptz, OUT state text, OUT state_since timestamptz,
	OUT wait_event_type text, OUT wait_event text)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.pid, a.backend_start, a.state, a.state_change, a.wait_event_type,
	a.wait_event
FROM rsvp_sync._runtime() r
JOIN pg_stat_activity a ON a.pid = r.worker_pid
	OR NOT r.preloaded AND a.backend_type = 'rsvp_sync worker'
WHERE a.datname = current_database()
$$;
COMMENT ON FUNCTION rsvp_sync._stat_worker() IS
'private: this database''s worker as the server sees it';

/*
 * How the stream is doing: nothing where none is wanted.  lag: for how long
 * nothing has been heard of what may have happened.
 */
CREATE FUNCTION rsvp_sync._stat_stream(OUT pid integer, OUT host text,
	OUT connected_at timestamptz, OUT last_event_at timestamptz,
	OUT lag double precision, OUT gap_at timestamptz, OUT gap_why text,
	OUT error text)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT w.pid, s.host, CASE WHEN w.pid IS NOT NULL THEN s.connected_at END,
	max(rsvp_sync._time_of_us(s.time_us)) OVER (),
	CASE WHEN max(coalesce(s.caught_up_at, rsvp_sync._time_of_us(s.time_us)))
			OVER () IS NOT NULL
		THEN greatest(extract(epoch FROM clock_timestamp() - greatest(
			max(rsvp_sync._time_of_us(s.time_us)) OVER (),
			max(s.caught_up_at) OVER ())), 0)::double precision END,
	g.gap_at, g.gap_why, s.error
FROM (SELECT) here
LEFT JOIN rsvp_sync._stream s ON true
LEFT JOIN pg_stat_activity w ON w.datname = current_database()
	AND w.backend_type = 'rsvp_sync stream'
LEFT JOIN LATERAL (SELECT t.gap_at, t.gap_why FROM rsvp_sync._stream t
	WHERE t.gap_at IS NOT NULL ORDER BY t.gap_at DESC LIMIT 1) g ON true
WHERE current_setting('rsvp_sync.jetstream_url') <> ''
ORDER BY s.connected_at IS NULL, s.connected_at DESC,
	greatest(s.caught_up_at, s.error_at) DESC NULLS LAST
LIMIT 1
$$;
COMMENT ON FUNCTION rsvp_sync._stat_stream() IS
'private: this database''s stream: its process, the server it listens to, how far it has come';

CREATE VIEW rsvp_sync.stat_worker WITH (security_barrier) AS
SELECT w.pid, w.started_at, w.state, w.state_since, w.wait_event_type,
	w.wait_event,
	(SELECT count(*) FROM rsvp_sync._queue q WHERE q.lease IS NOT NULL) AS leased,
	s.pid AS stream_pid, s.host AS stream_host,
	s.connected_at AS stream_connected_at,
	s.last_event_at AS stream_last_event_at, s.lag AS stream_lag,
	s.gap_at AS stream_gap_at, s.gap_why AS stream_gap, s.error AS stream_error
FROM rsvp_sync._stat_worker() w
LEFT JOIN rsvp_sync._stat_stream() s ON true;
COMMENT ON VIEW rsvp_sync.stat_worker IS
'The worker of this database: one row, or none if there is no worker. leased: keys it has in hand. stream_*: the worker that listens to jetstream_url, NULL where that is empty; stream_lag in seconds.';

CREATE VIEW rsvp_sync.progress WITH (security_barrier) AS
SELECT s.source_id, s.attendance, s.tenant,
	i.total + q.fresh AS total, i.done, q.waiting, q.retrying, i.blocked,
	i.held, i.failed, q.oldest_key, q.since, h.rate,
	CASE WHEN q.waiting = 0 THEN '0'::pg_catalog.interval
		WHEN h.rate > 0 THEN pg_catalog.make_interval(
			secs => pg_catalog.ceil(q.waiting / h.rate)) END AS eta,
	CASE WHEN p.phase IS NOT NULL THEN p.started_at END AS comparing_since,
	CASE WHEN p.phase IS NOT NULL THEN p.seen END AS compared,
	p.differing, p.finished_at AS compared_at, p.error AS compare_error
FROM rsvp_sync._source s
LEFT JOIN rsvp_sync._pass p ON p.source_id = s.source_id
CROSS JOIN LATERAL (
	SELECT count(*) AS total,
		count(*) FILTER (WHERE n.state IN ('done', 'withheld', 'superseded')
			AND NOT queued) AS done,
		count(*) FILTER (WHERE n.state = 'blocked' AND NOT queued) AS blocked,
		count(*) FILTER (WHERE n.state = 'held' AND NOT queued) AS held,
		count(*) FILTER (WHERE n.state = 'failed' AND NOT queued) AS failed
	FROM rsvp_sync._intent n
	CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM rsvp_sync._queue u
		WHERE u.source_id = n.source_id AND u.key = n.key) AS queued) k
	WHERE n.source_id = s.source_id) i
CROSS JOIN LATERAL (
	SELECT count(*) AS waiting,
		count(*) FILTER (WHERE u.attempts > 0) AS retrying,
		count(*) FILTER (WHERE NOT EXISTS (SELECT FROM rsvp_sync._intent n
			WHERE n.source_id = u.source_id AND n.key = u.key)) AS fresh,
		(array_agg(u.key ORDER BY u.changed_at, u.key))[1] AS oldest_key,
		min(u.changed_at) AS since
	FROM rsvp_sync._queue u WHERE u.source_id = s.source_id) q
/* Of the last minute: the index on the time of the history serves. */
CROSS JOIN LATERAL (
	SELECT count(*) / 60.0::pg_catalog.float8 AS rate
	FROM rsvp_sync._history e
	WHERE e.at > pg_catalog.now() - '1 minute'::pg_catalog.interval
		AND e.source_id = s.source_id AND e.outcome = 'ok'
		AND e.action <> 'apply') h
WHERE rsvp_sync._may_see(s.attendance);
COMMENT ON VIEW rsvp_sync.progress IS
'Per attached table: how many rows are known, how many are as they should be, how many wait, and since when; how many records a second were written or removed in the last minute, and how long what waits would take at that rate (NULL: unknown); and how far reconcile is in the background.';

/* Findings about the server and this database. */
CREATE FUNCTION rsvp_sync._doctor_server()
RETURNS TABLE (severity text, check_name text, subject text, finding text,
	remedy text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run record;
	stream record;
	version text := (SELECT e.extversion FROM pg_extension e
		WHERE e.extname = 'rsvp_sync');
	setting text := 'rsvp_sync.credential_key_file';
	hint text;
BEGIN
	SELECT * INTO run FROM rsvp_sync._runtime();
	SELECT * INTO stream FROM rsvp_sync._stat_stream();
	subject := current_database();
	RETURN QUERY SELECT v.s, v.c, v.o, v.f, v.r FROM (VALUES
		('warning', 'preload', subject, 'The library is not preloaded: workers do not start by themselves.',
			'Set shared_preload_libraries = ''rsvp_sync'' and restart the server.', run.preloaded),
		('error', 'worker', subject, 'This database has no worker.',
			'SELECT rsvp_sync.start_worker(); the server''s log says why there is none; raise max_worker_processes if no slot is free.',
			EXISTS (SELECT FROM rsvp_sync.stat_worker)),
		('error', 'copied', subject, 'This database is a copy: nothing is sent.',
			'If it is to speak for its users from now on: SELECT rsvp_sync.activate().', NOT rsvp_sync._copied()),
		('warning', 'mode', subject, format('rsvp_sync.mode is %s: nothing is sent.', current_setting('rsvp_sync.mode')),
			'Set rsvp_sync.mode to live.', current_setting('rsvp_sync.mode') = 'live'),
		('error', 'version', subject, format('The extension is of version %s, the library of %s.', version, run.library_version),
			'ALTER EXTENSION rsvp_sync UPDATE, and restart the server if the library is the older one.',
			version = run.library_version),
		('warning', 'stream', subject, format('The stream is not listened to: %s.', coalesce(stream.error, 'its worker does not run')),
			'docs/jetstream.md says what may be wrong; SELECT * FROM rsvp_sync.stat_worker.',
			current_setting('rsvp_sync.jetstream_url') = '' OR current_setting('rsvp_sync.mode') = 'off' OR rsvp_sync._copied()
				OR stream.connected_at IS NOT NULL),
		('warning', 'stream_gap', subject, format('Events of the stream may have been missed %s ago: %s.',
				date_trunc('minute', now() - stream.gap_at), stream.gap_why),
			'The records of all known accounts are read again by themselves; of people who were not known then, RSVPs may be missing.',
			coalesce(stream.gap_why = 'there is no place to go on from' OR stream.gap_at < now() - interval '1 day', true)),
		('warning', 'plaintext', subject, 'Secrets may be stored unencrypted.',
			'Set rsvp_sync.allow_plaintext_credentials to off, and ' || setting || '.',
			current_setting('rsvp_sync.allow_plaintext_credentials') = 'off')
		) AS v (s, c, o, f, r, fine) WHERE NOT v.fine;
EXCEPTION WHEN OTHERS THEN
	RETURN QUERY SELECT 'error', 'server', subject, SQLERRM, NULL::text;
END
$$;
COMMENT ON FUNCTION rsvp_sync._doctor_server() IS
'private: findings about the server and this database';

/* A secret is sealed to see whether one could be. */
CREATE FUNCTION rsvp_sync._doctor_keys()
RETURNS TABLE (severity text, check_name text, subject text, finding text,
	remedy text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	setting text := 'rsvp_sync.credential_key_file';
	hint text;
BEGIN
	PERFORM rsvp_sync._seal('-', 'did:web:doctor.invalid');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN QUERY SELECT CASE WHEN EXISTS (SELECT FROM rsvp_sync._account)
			THEN 'error' ELSE 'warning' END, 'key_file', setting,
		replace(SQLERRM, coalesce(nullif(current_setting(setting), ''), setting), setting), hint;
END
$$;
COMMENT ON FUNCTION rsvp_sync._doctor_keys() IS
'private: can secrets be sealed?';

/* Findings about one attached table. */
CREATE FUNCTION rsvp_sync._doctor_source(s rsvp_sync._source)
RETURNS TABLE (severity text, check_name text, subject text, finding text,
	remedy text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	called text := s.attendance::text;
	rel record;
BEGIN
	SELECT c.relforcerowsecurity AND c.relrowsecurity AS forced, r.rolsuper
	INTO rel FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
	WHERE c.oid = s.attendance;
	IF NOT FOUND THEN
		RETURN QUERY SELECT 'warning', 'table', s.attendance_name,
			'The attached table was dropped.', 'SELECT rsvp_sync.detach_all().';
		RETURN;
	END IF;
	RETURN QUERY SELECT v.s, v.c, v.o, v.f, v.r FROM (VALUES
		('error', 'source_broken', called, 'Its query does not run: ' || coalesce(s.state_reason, '?'),
			format('Put the query or the schema right, then: SELECT rsvp_sync.resume(%L).', called), s.state = 'broken'),
		('warning', 'source_paused', called, coalesce('It is paused: ' || s.state_reason, 'It is paused.'),
			format('SELECT rsvp_sync.resume(%L).', called), s.state = 'paused'),
		('error', 'row_security', called, 'Row security is forced, which could hide rows from its owner: an error, never absence.',
			format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY.', called), rel.forced),
		('warning', 'owner', called, 'It belongs to a superuser, and its query runs with his rights.',
			format('ALTER TABLE %s OWNER TO a role that is no superuser.', called), rel.rolsuper)
		) AS v (s, c, o, f, r, bad)
	WHERE v.bad AND (v.c <> 'owner' OR s.kind <> 'explicit');
	IF s.state <> 'detaching' AND s.kind <> 'explicit' THEN
		RETURN QUERY SELECT 'error', 'trigger', w.relation::regclass::text,
			format('Trigger %I of %s is missing, disabled or not as it should be: changes go unnoticed.', w.name, called),
			format('As the owner: SELECT rsvp_sync.attach(%L), then rsvp_sync.reconcile(%1$L).', called)
		FROM rsvp_sync._wanted_triggers(s) w
		WHERE NOT rsvp_sync._trigger_stands(w.relation, w.name, w.arguments);
		RETURN QUERY SELECT 'warning', 'index', called,
			'No valid GIN index serves its metadata: find_attendees_by_metadata() refuses to read it.',
			format('SELECT rsvp_sync.index_ddl(%L).', called)
		WHERE jsonb_typeof(rsvp_sync._shape(s) #> '{metadata,0}') = 'number'
			AND rsvp_sync._metadata_index(s.attendance,
				(rsvp_sync._shape(s) #>> '{metadata,0}')::smallint) IS NULL;
		/* Only where RSVPs come in all the time. */
		RETURN QUERY SELECT 'warning', 'apply', called,
			format('RSVPs made elsewhere: %s.', a.problem),
			'Give these columns a default, or attach() an apply function; or say {"shadow_users": false}.'
		FROM rsvp_sync._apply_statements(s.source_id) a
		WHERE a.problem IS NOT NULL
			AND current_setting('rsvp_sync.jetstream_url', true) <> '';
		RETURN QUERY SELECT 'warning', 'apply_index', called,
			format('Each batch of RSVPs made elsewhere reads all of %s: no index serves %s.',
				a.relation, a.expression),
			rsvp_sync._apply_index_ddl(a.relation, a.expression)
		FROM rsvp_sync._apply_scans(s) a
		WHERE current_setting('rsvp_sync.jetstream_url', true) <> '';
	END IF;
EXCEPTION WHEN OTHERS THEN
	RETURN QUERY SELECT 'error', 'source', called, SQLERRM, NULL::text;
END
$$;
COMMENT ON FUNCTION rsvp_sync._doctor_source(rsvp_sync._source) IS
'private: findings about an attached table';

/* Findings about keys and accounts. */
CREATE FUNCTION rsvp_sync._doctor_keys_and_accounts()
RETURNS TABLE (severity text, check_name text, subject text, finding text,
	remedy text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT 'warning', 'oldest_key', s.attendance::text,
	format('%s keys have been due for more than a minute; the oldest, %s, since %s.',
		count(*), (array_agg(q.key ORDER BY q.due_at, q.key))[1], min(q.due_at)),
	'See the findings about the worker and the source; SELECT * FROM rsvp_sync.queue.'
FROM rsvp_sync._queue q JOIN rsvp_sync._source s ON s.source_id = q.source_id
WHERE q.lease IS NULL AND q.due_at < now() - interval '1 minute'
GROUP BY s.attendance
UNION ALL
SELECT 'warning', 'change_log', current_database()::text,
	format('Changes wait since %s to be taken up.', min(l.changed_at)),
	'See the findings about the worker.'
FROM rsvp_sync._change_log l
HAVING min(l.changed_at) < now() - interval '1 minute'
UNION ALL
SELECT 'warning', 'failed', s.attendance::text,
	format('%s keys were given up (%s).', count(*),
		string_agg(DISTINCT i.reason_code, ', ')),
	format('SELECT * FROM rsvp_sync.failed; then SELECT rsvp_sync.retry(%L).', s.attendance)
FROM rsvp_sync._intent i JOIN rsvp_sync._source s ON s.source_id = i.source_id
WHERE i.state = 'failed' AND i.reason_code IS DISTINCT FROM 'discarded'
GROUP BY s.attendance
UNION ALL
SELECT 'warning', 'held', s.attendance::text,
	format('%s withdrawals wait for somebody to let them pass.', count(*)),
	format('SELECT * FROM rsvp_sync.held; if they are meant: SELECT rsvp_sync.approve_withdrawals(%L).', s.attendance)
FROM rsvp_sync._intent i JOIN rsvp_sync._source s ON s.source_id = i.source_id
WHERE i.state = 'held'
GROUP BY s.attendance
UNION ALL
SELECT 'warning', 'writeback', s.attendance::text,
	format('%s rows could not be told of their records (%s).', count(*),
		max(i.writeback_error)),
	format('Put option writeback, the columns or the triggers of %s right; each row is tried again by itself, within the hour.', s.attendance)
FROM rsvp_sync._intent i JOIN rsvp_sync._source s ON s.source_id = i.source_id
WHERE i.writeback AND i.writeback_failures >= 3
GROUP BY s.attendance
UNION ALL
SELECT 'warning', 'inbound', coalesce(s.attendance::text, current_database()),
	format('%s RSVPs made elsewhere %s (%s).', count(*),
		CASE b.state WHEN 'failed' THEN 'could not be applied and were given up'
			WHEN 'apply' THEN 'could not be applied yet'
			ELSE 'have waited for an hour to be verified' END,
		max(coalesce(b.last_error, 'without an error'))),
	'SELECT * FROM rsvp_sync.inbound; once the cause is removed: SELECT rsvp_sync.retry().'
FROM rsvp_sync._inbound b
LEFT JOIN rsvp_sync._source s ON s.source_id = b.source_id
WHERE b.attempts > 0 OR b.state = 'failed'
	OR b.seen_at < now() - interval '1 hour'
GROUP BY s.attendance, b.state
UNION ALL
SELECT 'warning', 'external_rsvp', x.tenant,
	format('%s RSVPs made elsewhere, of no AT Protocol record, could not be applied (%s).',
		count(*), max(x.last_error)),
	'SELECT * FROM rsvp_sync.external_rsvp WHERE last_error IS NOT NULL; once the cause is removed: SELECT rsvp_sync.retry().'
FROM rsvp_sync._external x WHERE x.last_error IS NOT NULL
GROUP BY x.tenant
UNION ALL
SELECT 'warning', 'host_down', h.host,
	format('It has not answered since %s: %s', h.down_since, h.last_error),
	'It is asked every few seconds; its keys wait and go on by themselves.'
FROM rsvp_sync._host h
UNION ALL
SELECT 'warning', 'paused', CASE p.subject WHEN '*'
		THEN current_database()::text ELSE p.subject END,
	format('Paused by %s since %s.', p.paused_by, p.paused_at),
	CASE p.subject WHEN '*' THEN 'SELECT rsvp_sync.resume().'
		ELSE format('SELECT rsvp_sync.resume(%L).', p.subject) END
FROM rsvp_sync._pause p
UNION ALL
SELECT 'warning', 'account', CASE WHEN count(*) = 1 THEN min(a.did)
		ELSE count(*) || ' accounts' END,
	format('State %s.', a.state),
	CASE WHEN a.state = 'unreachable'
		THEN 'Its PDS does not answer; it is tried again by itself.'
		ELSE 'Ask the user; then SELECT rsvp_sync.connect_account(did, app password), or connect_oauth(session).' END
FROM rsvp_sync._account a
WHERE a.state NOT IN ('connected', 'unverified')
GROUP BY a.state
UNION ALL
SELECT 'error', 'oauth_client', c.client_id,
	format('Authorization servers refuse this client since %s: %s. %s accounts cannot be written for.',
		date_trunc('second', c.error_since), c.error,
		(SELECT count(*) FROM rsvp_sync._oauth_session s
		WHERE s.client_id = c.client_id)),
	'See that the client''s metadata can be read at its URL and names the public part of its key; then SELECT rsvp_sync.set_oauth_client(client_id, jwk). The sessions are still good.'
FROM rsvp_sync._oauth_client c
WHERE c.error IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._doctor_keys_and_accounts() IS
'private: findings about keys and accounts';

CREATE FUNCTION rsvp_sync.doctor()
RETURNS TABLE (severity text, check_name text, subject text, finding text,
	remedy text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT * FROM (
		SELECT * FROM rsvp_sync._doctor_server()
		UNION ALL SELECT * FROM rsvp_sync._doctor_keys()
		UNION ALL SELECT d.* FROM rsvp_sync._source s
			CROSS JOIN LATERAL rsvp_sync._doctor_source(s) d
		UNION ALL SELECT * FROM rsvp_sync._doctor_keys_and_accounts()) f
	ORDER BY f.severity, f.check_name, f.subject;
	IF NOT FOUND THEN
		RETURN QUERY SELECT 'ok', 'all', current_database()::text,
			'Nothing is wrong.', NULL::text;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync.doctor() IS
'What is wrong with this installation and what to do about it: severity error or warning; one row of severity ok if nothing is. For monitors: see grant_monitor().';
