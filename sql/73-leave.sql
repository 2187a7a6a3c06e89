/*
 * Accounts on their way out: disconnect_account() with withdrawal, forget(),
 * and export().
 *
 * An account that leaves is marked (_account.leaving) and keeps its secrets
 * until its records are withdrawn: planning finds its rows withheld, reason
 * "leaving", and deletes what is ours.  Once nothing of it is out there the
 * worker lets it go, see _finish_leaving().
 */

/* Have every row of an account looked at again, and its records withdrawn. */
CREATE FUNCTION rsvp_sync._leave(of_did text, how text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._account a SET leaving = how WHERE a.did = of_did;
INSERT INTO rsvp_sync._change_log (source_id, key, op)
SELECT i.source_id, i.key, 'l' FROM rsvp_sync._intent i
WHERE i.did = of_did
UNION ALL
SELECT 0, NULL, 'w'
$$;
COMMENT ON FUNCTION rsvp_sync._leave(text, text) IS
'private: marks an account to go once its records are withdrawn';

CREATE FUNCTION rsvp_sync._remove_account(of_did text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	how text := (SELECT a.leaving FROM rsvp_sync._account a
		WHERE a.did = of_did);
	/* Before the account goes: it says who may speak for it. */
	speakers bigint[] := rsvp_sync._speakers(of_did, how);
BEGIN
	DELETE FROM rsvp_sync._account a WHERE a.did = of_did;
	IF how IN ('forget', 'erase') THEN
		PERFORM rsvp_sync._erase(of_did, speakers);
	END IF;
	PERFORM rsvp_sync._account_changed(of_did);
END
$$;
COMMENT ON FUNCTION rsvp_sync._remove_account(text) IS
'private: deletes an account with its secrets; if it was to be forgotten, all else that is stored of it';

/* Connected anew: nothing is left of having been forgotten. */
CREATE FUNCTION rsvp_sync._remember(of_did text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM rsvp_sync._forgotten f
	WHERE f.digest = sha256(convert_to(of_did, 'UTF8'));
	IF FOUND THEN
		/* Whose rows these are, only their query knows. */
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT i.source_id, i.key, 'l' FROM rsvp_sync._intent i
		WHERE i.reason_code = 'forgotten';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._remember(text) IS
'private: a forgotten DID was connected anew';

/* Sources that may have written for an account. */
CREATE FUNCTION rsvp_sync._speakers(of_did text, how text) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(array_agg(s.source_id), '{}') FROM rsvp_sync._source s
WHERE how = 'erase' OR rsvp_sync._may_speak(s.attendance, of_did)
$$;
COMMENT ON FUNCTION rsvp_sync._speakers(text, text) IS
'private: sources whose records of an account are withdrawn when it leaves';

/*
 * What is kept of an attendance row is that it was there, and with which
 * status: as attach() does of rows that it finds, so that connecting the
 * account anew publishes nothing by itself.
 */
CREATE FUNCTION rsvp_sync._erase(of_did text, sources bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	/* What waits, waits for him no more, and says nothing of him. */
	UPDATE rsvp_sync._queue q SET last_error = NULL, waits_for = NULL,
		wait_code = NULL, due_at = least(q.due_at, now())
	FROM rsvp_sync._intent i
	WHERE i.did = of_did AND i.source_id = ANY (sources)
		AND q.source_id = i.source_id AND q.key = i.key;
	DELETE FROM rsvp_sync._webmention w USING rsvp_sync._intent i
	WHERE i.did = of_did AND i.source_id = ANY (sources)
		AND w.source_id = i.source_id AND w.key = i.key;
	DELETE FROM rsvp_sync._pause p WHERE p.subject = of_did;
	DELETE FROM rsvp_sync._found_credential f WHERE f.did = of_did;
	UPDATE rsvp_sync._intent i SET did = NULL, event_uri = NULL,
		live = false, bond = NULL, wrote = false, rkey = NULL,
		record_created_at = NULL, first_local = i.local, base_local = i.local,
		base_cid = NULL, sent_cids = '{}', sent_local = NULL, doubt = false,
		heard_cid = NULL, heard_status = NULL,
		truncated = false, approved = false, synced_at = NULL,
		failed_at = NULL, failed_attempts = NULL, failed_error = NULL,
		state = 'withheld', reason_code = 'forgotten',
		reason = rsvp_sync._reason('forgotten')
	WHERE i.did = of_did AND i.source_id = ANY (sources);
	IF EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.kind = 'explicit' AND s.source_id = ANY (sources)) THEN
		PERFORM rsvp_sync._erase_calls(of_did, NULL);
	END IF;
	DELETE FROM rsvp_sync._history h
	WHERE h.did = of_did AND (h.source_id = ANY (sources)
		OR h.source_id IS NULL);
	DELETE FROM rsvp_sync._observed o WHERE o.did = of_did;
	DELETE FROM rsvp_sync._inbound b WHERE b.did = of_did;
	DELETE FROM rsvp_sync._stranger t WHERE t.did = of_did;
	DELETE FROM rsvp_sync._external x WHERE x.author = of_did;
	DELETE FROM rsvp_sync._identity i WHERE i.did = of_did;
	DELETE FROM rsvp_sync._repo r WHERE r.did = of_did;
	DELETE FROM rsvp_sync._reading r WHERE r.did = of_did;
	DELETE FROM rsvp_sync._event e
	WHERE starts_with(e.uri, 'at://' || of_did || '/');
	INSERT INTO rsvp_sync._forgotten (digest)
	VALUES (sha256(convert_to(of_did, 'UTF8')))
	ON CONFLICT (digest) DO UPDATE SET forgotten_on = current_date;
END
$$;
COMMENT ON FUNCTION rsvp_sync._erase(text, bigint[]) IS
'private: erases what is stored of a DID, in these sources and in the caches, and leaves the tombstone';

/* Is nothing of an account out there any more, and every row told? */
CREATE FUNCTION rsvp_sync._has_left(of_did text, how text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM rsvp_sync._intent i
	WHERE i.did = of_did
		AND i.source_id = ANY (rsvp_sync._speakers(of_did, how))
		AND (i.bond IS NOT NULL OR i.doubt
			OR i.writeback AND i.writeback_failures < 3
			OR EXISTS (SELECT FROM rsvp_sync._webmention w
				WHERE w.source_id = i.source_id AND w.key = i.key
					AND w.due_at IS NOT NULL)
			OR EXISTS (SELECT FROM rsvp_sync._queue q
				WHERE q.source_id = i.source_id AND q.key = i.key)))
$$;
COMMENT ON FUNCTION rsvp_sync._has_left(text, text) IS
'private: have all records of an account been withdrawn?';

/*
 * Called by the worker in each of its turns.  Who asked to be forgotten does
 * not wait for a withdrawal that only he could make possible: without him
 * nobody can write to his repository.
 */
CREATE FUNCTION rsvp_sync._finish_leaving() RETURNS SETOF text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._account;
BEGIN
	FOR a IN SELECT l.* FROM rsvp_sync._account l
		WHERE l.leaving IS NOT NULL
			AND (rsvp_sync._has_left(l.did, l.leaving)
				OR l.leaving <> 'disconnect' AND l.state IN ('needs_login',
					'wrong_password', 'deactivated', 'takendown'))
		FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM rsvp_sync._remove_account(a.did);
		PERFORM pg_notify('rsvp_sync_account', jsonb_build_object(
			'did', a.did, 'state', CASE a.leaving
				WHEN 'disconnect' THEN 'disconnected'
				ELSE 'forgotten' END)::text);
		RETURN NEXT a.did;
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._finish_leaving() IS
'private: lets accounts go whose records are withdrawn; their DIDs';

/*
 * Nobody tells us that an account was activated again: once a day its keys
 * are put in, and _evaluate() lets them try.
 */
CREATE FUNCTION rsvp_sync._look_at_inactive() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._change_log (source_id, key, op)
SELECT 0, a.did, 'a' FROM rsvp_sync._account a
WHERE a.state IN ('deactivated', 'takendown')
	AND a.checked_at < now() - interval '1 day'
	AND EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.did = a.did AND i.state IN ('blocked', 'failed'))
$$;
COMMENT ON FUNCTION rsvp_sync._look_at_inactive() IS
'private: puts the keys of deactivated and taken down accounts in once a day';

/*
 * The public functions
 */

CREATE FUNCTION rsvp_sync._check_did(did text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF did IS NULL THEN
		RAISE EXCEPTION 'did must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the DID of the person.';
	END IF;
	PERFORM rsvp_sync._check_identity(did, NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_did(text) IS
'private: error unless this is a DID';

/* Error unless the account, if there is one, is the caller's. */
CREATE FUNCTION rsvp_sync._check_own_or_none(caller oid, did text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._check_did(did);
	IF NOT EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = $2) THEN
		RETURN false;
	END IF;
	PERFORM rsvp_sync._check_account_owner(caller, did);
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_own_or_none(oid, text) IS
'private: is the DID connected? An error if it is, and not the caller''s';

/* Sources whose table the caller may act for. */
CREATE FUNCTION rsvp_sync._sources_of(caller oid) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(array_agg(s.source_id), '{}')
FROM rsvp_sync._source s
WHERE (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = caller)
	OR EXISTS (SELECT FROM pg_class c WHERE c.oid = s.attendance
		AND pg_has_role(caller, c.relowner, 'USAGE'))
$$;
COMMENT ON FUNCTION rsvp_sync._sources_of(oid) IS
'private: sources of a caller; a superuser''s are all';

CREATE FUNCTION rsvp_sync._forget(caller oid, did text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF rsvp_sync._check_own_or_none(caller, did) THEN
		PERFORM rsvp_sync._leave(did, CASE WHEN (SELECT r.rolsuper
			FROM pg_roles r WHERE r.oid = caller) THEN 'erase'
			ELSE 'forget' END);
		RETURN false;
	END IF;
	PERFORM rsvp_sync._erase_calls(did, caller);
	PERFORM rsvp_sync._erase(did, rsvp_sync._sources_of(caller));
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._forget(oid, text) IS
'private: forget() behind its entry';

CREATE FUNCTION rsvp_sync.forget(did text) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_forget';
COMMENT ON FUNCTION rsvp_sync.forget(text) IS
'Forgets a person: withdraws the records we wrote, then erases account, secrets, observed records, history, and the DID wherever else it is stored. What stays is a digest of the DID and the day: until the DID is connected anew nothing is written or stored for it. true: it is done; false: records are being withdrawn (state forgetting; NOTIFY rsvp_sync_account says forgotten). Where nobody can write to the repository (the account is not connected, or needs its user), its records stay, and the rest is erased without waiting. Only the account''s owner may. Errors: invalid_parameter_value, null_value_not_allowed, insufficient_privilege.';

/* Everything, table by table; never an envelope. */
CREATE FUNCTION rsvp_sync._export(caller oid, did text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	sources bigint[] := rsvp_sync._sources_of(caller);
BEGIN
	PERFORM rsvp_sync._check_own_or_none(caller, did);
	RETURN jsonb_build_object('did', did,
		'account', (SELECT jsonb_build_object('handle', a.handle,
				'pds', a.pds, 'owner', a.owner, 'auth', a.auth,
				'state', a.state, 'state_since', a.state_since,
				'checked_at', a.checked_at, 'last_error', a.last_error,
				'rate_limited_until', a.rate_limited_until,
				'connected_at', a.connected_at, 'leaving', a.leaving,
				'has_credential', a.credential IS NOT NULL,
				'has_session', a.session IS NOT NULL,
				/* Not its lease: whoever knows that token has it. */
				'oauth', (SELECT to_jsonb(o) - 'did' - 'lease_token'
					FROM rsvp_sync._oauth_session o WHERE o.did = a.did),
				'granted_to', (SELECT coalesce(jsonb_agg(g.grantee
						ORDER BY g.grantee), '[]')
					FROM rsvp_sync._account_grant g WHERE g.did = a.did))
			FROM rsvp_sync._account a WHERE a.did = $2),
		'paused', (SELECT to_jsonb(p) - 'subject' FROM rsvp_sync._pause p
			WHERE p.subject = $2),
		'found', (SELECT coalesce(jsonb_agg(jsonb_build_object(
				'attendance', s.attendance, 'connected_at', f.connected_at)
				ORDER BY s.attendance_name), '[]')
			FROM rsvp_sync._found_credential f
			JOIN rsvp_sync._source s ON s.source_id = f.source_id
			WHERE f.did = $2 AND f.source_id = ANY (sources)),
		'forgotten_on', (SELECT f.forgotten_on FROM rsvp_sync._forgotten f
			WHERE f.digest = sha256(convert_to($2, 'UTF8'))),
		'identity', (SELECT to_jsonb(i) - 'did' FROM rsvp_sync._identity i
			WHERE i.did = $2),
		'reading', (SELECT to_jsonb(r) - 'did' FROM rsvp_sync._reading r
			WHERE r.did = $2),
		'records', (SELECT coalesce(jsonb_agg(to_jsonb(o) - 'did'
				|| jsonb_build_object('uri',
					rsvp_sync._rsvp_uri(o.did, o.rkey)) ORDER BY o.rkey), '[]')
			FROM rsvp_sync._observed o WHERE o.did = $2),
		'inbound', (SELECT coalesce(jsonb_agg(to_jsonb(b) - 'did'
				- 'source_id' ORDER BY b.rkey), '[]')
			FROM rsvp_sync._inbound b WHERE b.did = $2
				AND (b.source_id IS NULL OR b.source_id = ANY (sources))),
		'elsewhere', (SELECT coalesce(jsonb_agg(to_jsonb(x) - 'author'
				ORDER BY x.tenant, x.source_type, x.source_id), '[]')
			FROM rsvp_sync._external x WHERE x.author = $2
				AND x.attendance = ANY (sources)),
		'rows', (SELECT coalesce(jsonb_agg(to_jsonb(i) - 'did' - 'source_id'
				|| jsonb_build_object('attendance', s.attendance,
					'tenant', s.tenant)
				ORDER BY s.attendance_name, i.key), '[]')
			FROM rsvp_sync._intent i
			JOIN rsvp_sync._source s ON s.source_id = i.source_id
			WHERE i.did = $2 AND i.source_id = ANY (sources)),
		'calls', rsvp_sync._export_calls(caller, $2),
		'history', (SELECT coalesce(jsonb_agg(to_jsonb(h) - 'did' - 'source_id'
				|| jsonb_build_object('attendance', s.attendance)
				ORDER BY h.at), '[]')
			FROM rsvp_sync._history h
			JOIN rsvp_sync._source s ON s.source_id = h.source_id
			WHERE h.did = $2 AND h.source_id = ANY (sources)),
		'webmentions', (SELECT coalesce(jsonb_agg(to_jsonb(w) - 'digest'
				- 'lease' - 'source_id' || jsonb_build_object('attendance',
					s.attendance) ORDER BY w.webmention_id), '[]')
			FROM rsvp_sync._intent i
			JOIN rsvp_sync._source s ON s.source_id = i.source_id
			JOIN rsvp_sync._webmention w
				ON w.source_id = i.source_id AND w.key = i.key
			WHERE i.did = $2 AND i.source_id = ANY (sources)),
		'events', (SELECT coalesce(jsonb_agg(to_jsonb(e) ORDER BY e.uri), '[]')
			FROM rsvp_sync._event e
			WHERE starts_with(e.uri, 'at://' || $2 || '/')));
END
$$;
COMMENT ON FUNCTION rsvp_sync._export(oid, text) IS
'private: export() behind its entry';

CREATE FUNCTION rsvp_sync.export(did text) RETURNS jsonb
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_export';
COMMENT ON FUNCTION rsvp_sync.export(text) IS
'Everything that is stored of a DID, and never a secret: account, found (by which tables its credentials were found), paused, identity, reading (when its records were listed), records (observed), rows (what is known of attendance rows), calls (create_rsvp), history, webmentions (who was told of those rows'' pages), events (the cache of its event records), forgotten_on. Rows and history of the caller''s own tables; a superuser sees all. Nothing known: null and empty lists. Errors: invalid_parameter_value, null_value_not_allowed, insufficient_privilege (the account is another role''s).';
