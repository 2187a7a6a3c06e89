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
		AND pg_has_role(caller, c.relowner, 'USAGE');
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
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
	src rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	IF attendance_id IS NULL THEN
		RETURN rsvp_sync._retry_keys(caller, src.source_id, NULL);
	END IF;
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
	src rsvp_sync._source := rsvp_sync._owned_source(caller, attendance);
BEGIN
	UPDATE rsvp_sync._intent i SET reason_code = 'discarded',
		reason = rsvp_sync._reason('discarded')
	WHERE i.source_id = src.source_id AND i.key = _discard.attendance_id
		AND i.state = 'failed'
		AND NOT EXISTS (SELECT FROM rsvp_sync._queue q
			WHERE q.source_id = i.source_id AND q.key = i.key);
	RETURN FOUND;
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
