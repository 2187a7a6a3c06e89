/*
 * OAuth sessions: the second way in, beside app passwords.
 *
 * A session is the JSON that @atproto/oauth-client-node stores.  As with
 * passwords, C (src/oauth_sql.c) reads and seals it before anything else is
 * called: what the functions here get in its place are facts, an object of
 * what may be seen of it, and its envelope.  Nothing in plpgsql ever holds a
 * token or a key.
 *
 * Refresh tokens are good once.  So there is one lease per account, a row
 * that the worker and the application take in turn: short transactions, no
 * session state, hence also through a pooler that hands connections round.
 */

/*
 * Clients
 */

CREATE FUNCTION rsvp_sync._set_oauth_client(caller oid, client_id text,
	facts jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	client_owner oid;
BEGIN
	INSERT INTO rsvp_sync._oauth_client AS c (client_id, owner, jwk, kid)
	VALUES ($2, caller, facts ->> 'envelope', facts ->> 'kid')
	ON CONFLICT ON CONSTRAINT _oauth_client_pkey DO UPDATE
	SET owner = CASE
			WHEN EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.owner)
			THEN c.owner ELSE EXCLUDED.owner END,
		jwk = EXCLUDED.jwk, kid = EXCLUDED.kid, changed_at = now(),
		error = NULL, error_since = NULL, error_at = NULL
	WHERE pg_has_role(caller, c.owner, 'USAGE')
		OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.owner);
	IF NOT FOUND THEN
		SELECT c.owner INTO client_owner
		FROM rsvp_sync._oauth_client c WHERE c.client_id = $2;
		RAISE EXCEPTION 'OAuth client "%" belongs to role "%"',
			$2, pg_get_userbyid(client_owner)
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Only that role can change it, or use it for its accounts.';
	END IF;
	/* What waited for the client is due now. */
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT q.source_id, q.key, 'l'
	FROM rsvp_sync._oauth_session s
	JOIN rsvp_sync._intent i ON i.did = s.did
	JOIN rsvp_sync._queue q USING (source_id, key)
	WHERE s.client_id = $2 AND q.lease IS NULL;
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._set_oauth_client(oid, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._set_oauth_client(oid, text, jsonb) IS
'private: set_oauth_client() behind its entry, the key already sealed';

CREATE FUNCTION rsvp_sync.set_oauth_client(client_id text, jwk jsonb)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_set_oauth_client';
REVOKE ALL ON FUNCTION rsvp_sync.set_oauth_client(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.set_oauth_client(text, jsonb) IS
'Makes an OAuth client known, or gives it another key. client_id: the URL of its metadata; jwk: the private EC key, with its kid, by which a confidential client signs in (private_key_jwt), NULL for a public client. It belongs to the current role. Errors: invalid_parameter_value, insufficient_privilege. Source: AT Protocol OAuth profile, RFC 7523.';

/* Which client a session is of: the one named, or the only one. */
CREATE FUNCTION rsvp_sync._oauth_client_of(caller oid, named text)
RETURNS rsvp_sync._oauth_client
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_clients rsvp_sync._oauth_client[];
BEGIN
	SELECT array_agg(c) INTO found_clients FROM rsvp_sync._oauth_client c
	WHERE pg_has_role(caller, c.owner, 'USAGE')
		AND (named IS NULL OR c.client_id = named);
	IF cardinality(found_clients) = 1 THEN
		RETURN found_clients[1];
	ELSIF named IS NULL AND found_clients IS NOT NULL THEN
		RAISE EXCEPTION 'there are several OAuth clients'
			USING ERRCODE = 'ambiguous_parameter',
				HINT = 'Name the session''s client in the argument client_id.';
	END IF;
	RAISE EXCEPTION USING
		MESSAGE = CASE WHEN named IS NULL THEN 'there is no OAuth client'
			ELSE format('there is no OAuth client "%s"', named) END,
		ERRCODE = 'undefined_object',
		HINT = 'SELECT rsvp_sync.set_oauth_client(client_id, jwk) makes one known; '
			'the jwk of a public client is NULL.';
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._oauth_client_of(oid, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._oauth_client_of(oid, text) IS
'private: a client the caller may use, or an error';

/*
 * Sessions
 */

CREATE FUNCTION rsvp_sync._connect_oauth(caller oid, session jsonb,
	client_id text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_did text := session ->> 'did';
	client rsvp_sync._oauth_client := rsvp_sync._oauth_client_of(caller, $3);
BEGIN
	IF (session ->> 'confidential')::boolean AND client.jwk IS NULL THEN
		RAISE EXCEPTION 'the session is of a confidential client, and "%" has no key',
			client.client_id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Give the private key by which the application signs in: '
					'SELECT rsvp_sync.set_oauth_client(client_id, jwk).';
	ELSIF (session ->> 'confidential')::boolean
		AND session ->> 'kid' <> client.kid
	THEN
		RAISE EXCEPTION 'the session began with key "%" of OAuth client "%", which has key "%"',
			session ->> 'kid', client.client_id, client.kid
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Servers want the key with which the session began; '
					'SELECT rsvp_sync.set_oauth_client(client_id, jwk) with that one.';
	END IF;
	PERFORM rsvp_sync._connect_account(caller, of_did, session ->> 'envelope',
		NULL, NULL);
	UPDATE rsvp_sync._account a SET auth = 'oauth' WHERE a.did = of_did;
	INSERT INTO rsvp_sync._oauth_session (did, client_id, jkt, issuer, scope,
		may_delete)
	VALUES (of_did, client.client_id, '', '', '', false)
	ON CONFLICT ON CONSTRAINT _oauth_session_pkey DO UPDATE
	SET client_id = EXCLUDED.client_id;
	PERFORM rsvp_sync._note_oauth_session(of_did, session);
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._connect_oauth(oid, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._connect_oauth(oid, jsonb, text) IS
'private: connect_oauth() behind its entry, the session already sealed';

/* What is seen of a session is that of the envelope stored with it. */
CREATE FUNCTION rsvp_sync._note_oauth_session(of_did text, facts jsonb)
RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE rsvp_sync._account a SET credential = facts ->> 'envelope'
	WHERE a.did = of_did;
	UPDATE rsvp_sync._oauth_session s SET
		jkt = facts ->> 'jkt', issuer = facts ->> 'issuer',
		scope = facts ->> 'scope',
		may_delete = (facts ->> 'may_delete')::boolean,
		expires_at = to_timestamp((facts ->> 'expires_at')::float8),
		version = s.version + 1
	WHERE s.did = of_did
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._note_oauth_session(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._note_oauth_session(text, jsonb) IS
'private: stores the envelope of an OAuth session, and what may be seen of it';

CREATE FUNCTION rsvp_sync.connect_oauth(session jsonb,
	client_id text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_connect_oauth';
REVOKE ALL ON FUNCTION rsvp_sync.connect_oauth(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.connect_oauth(jsonb, text) IS
'Connects an account by an OAuth session, as @atproto/oauth-client-node stores it; it belongs to the current role. client_id: a client that set_oauth_client() made known, NULL for the only one. Errors: invalid_parameter_value, undefined_object, ambiguous_parameter, object_not_in_prerequisite_state, insufficient_privilege. No network in the call.';

/* NULL: there is none that is still good. */
CREATE FUNCTION rsvp_sync._oauth_session(caller oid, did text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	account rsvp_sync._account;
BEGIN
	SELECT * INTO account FROM rsvp_sync._account a WHERE a.did = $2;
	IF NOT FOUND THEN
		RETURN NULL;
	ELSIF NOT pg_has_role(caller, account.owner, 'USAGE') THEN
		PERFORM rsvp_sync._refuse_account(did, account.owner);
	END IF;
	RETURN CASE WHEN account.auth = 'oauth'
		AND account.state <> 'needs_login' THEN account.credential END;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._oauth_session(oid, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._oauth_session(oid, text) IS
'private: the envelope of an account''s OAuth session';

CREATE FUNCTION rsvp_sync.oauth_session(did text) RETURNS jsonb
LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_oauth_session';
REVOKE ALL ON FUNCTION rsvp_sync.oauth_session(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.oauth_session(text) IS
'The account''s OAuth session as it was last stored, tokens and key included; NULL if there is none, or none that is still good. For the account''s owner only. Errors: insufficient_privilege, and those of a key file that cannot be used.';

/*
 * The same key: new tokens of the session that is there.  Another one: the
 * user has signed in anew.  NULL: the session is no more.
 */
CREATE FUNCTION rsvp_sync._store_oauth_session(caller oid, did text,
	session jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	account rsvp_sync._account;
	stored rsvp_sync._oauth_session;
BEGIN
	SELECT * INTO account FROM rsvp_sync._account a WHERE a.did = $2
	FOR UPDATE;
	IF FOUND AND NOT pg_has_role(caller, account.owner, 'USAGE') THEN
		PERFORM rsvp_sync._refuse_account(did, account.owner);
	END IF;
	SELECT * INTO stored FROM rsvp_sync._oauth_session s
	WHERE s.did = $2 AND account.auth = 'oauth' FOR UPDATE;
	IF session IS NULL THEN
		IF stored.did IS NOT NULL THEN
			PERFORM rsvp_sync._account_done(did, 'needs_login', NULL, NULL,
				'the application has dropped the session', NULL);
			PERFORM rsvp_sync._account_changed(did);
		END IF;
	ELSIF session ->> 'did' <> did THEN
		RAISE EXCEPTION 'the session is of another account than "%"', did
			USING ERRCODE = 'invalid_parameter_value',
				HINT = '"tokenSet.sub" of a session is its account''s DID.';
	ELSIF stored.jkt = session ->> 'jkt' AND account.state <> 'needs_login'
	THEN
		PERFORM rsvp_sync._note_oauth_session(did, session);
	ELSE
		PERFORM rsvp_sync._connect_oauth(caller, session, stored.client_id);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._store_oauth_session(oid, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._store_oauth_session(oid, text, jsonb) IS
'private: store_oauth_session() behind its entry, the session already sealed';

CREATE FUNCTION rsvp_sync.store_oauth_session(did text, session jsonb)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_store_oauth_session';
REVOKE ALL ON FUNCTION
	rsvp_sync.store_oauth_session(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.store_oauth_session(text, jsonb) IS
'What a session store''s set() does: puts new tokens of the account''s session in its place, or, after a new login, connects the account by it as connect_oauth() does. NULL, for a store''s del(): the session is no more, and the account needs a login. For the account''s owner only. Errors: as connect_oauth().';

/*
 * The lease
 */

/* Never waits: a row that somebody is just changing is taken, too. */
CREATE FUNCTION rsvp_sync._take_oauth_lease(of_did text, ttl interval,
	taker text)
RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH free AS (
		SELECT s.did FROM rsvp_sync._oauth_session s
		WHERE s.did = of_did AND (s.lease_token IS NULL
			OR s.lease_until <= clock_timestamp())
		FOR NO KEY UPDATE SKIP LOCKED
	)
	UPDATE rsvp_sync._oauth_session s SET
		lease_token = gen_random_uuid()::text,
		lease_until = clock_timestamp() + ttl, lease_by = taker
	FROM free f WHERE s.did = f.did
	RETURNING s.lease_token
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._take_oauth_lease(text, interval, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._take_oauth_lease(text, interval, text) IS
'private: the token of a lease that was free, else NULL';

CREATE FUNCTION rsvp_sync._oauth_lock(caller oid, did text, ttl interval)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF did IS NULL THEN
		RAISE EXCEPTION 'did must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the DID of the account.';
	END IF;
	IF ttl IS NULL OR ttl <= interval '0' OR ttl > interval '10 minutes' THEN
		RAISE EXCEPTION 'a lease cannot last %', coalesce(ttl::text, 'for NULL')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give the longest time that a refresh may take, at most '
					'ten minutes; interval ''1 minute'' suits the library.';
	END IF;
	/* Raises the error, if the account is somebody else's. */
	IF rsvp_sync._oauth_session(caller, did) IS NULL
		AND NOT EXISTS (SELECT FROM rsvp_sync._oauth_session s
			WHERE s.did = $2)
	THEN
		/* Nothing is there that could be refreshed twice. */
		RETURN gen_random_uuid()::text;
	END IF;
	RETURN rsvp_sync._take_oauth_lease(did, ttl, 'application');
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._oauth_lock(oid, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._oauth_lock(oid, text, interval) IS
'private: oauth_lock() behind its entry';

CREATE FUNCTION rsvp_sync.oauth_lock(did text, ttl interval) RETURNS text
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_oauth_lock';
REVOKE ALL ON FUNCTION rsvp_sync.oauth_lock(text, interval) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.oauth_lock(text, interval) IS
'Takes the lease under which an account''s OAuth session is refreshed: its token, or, at once, NULL while somebody else has it; ask again a little later. To be committed at once. ttl: it ends by itself after that, at most 10 minutes. For the account''s owner only. Errors: invalid_parameter_value, insufficient_privilege.';

CREATE FUNCTION rsvp_sync._oauth_unlock(caller oid, did text, token text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._oauth_session(caller, did);
	UPDATE rsvp_sync._oauth_session s SET lease_token = NULL,
		lease_until = NULL, lease_by = NULL
	WHERE s.did = $2 AND s.lease_token = token
		AND s.lease_until > clock_timestamp();
	RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._oauth_unlock(oid, text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._oauth_unlock(oid, text, text) IS
'private: oauth_unlock() behind its entry';

CREATE FUNCTION rsvp_sync.oauth_unlock(did text, token text) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_oauth_unlock';
REVOKE ALL ON FUNCTION rsvp_sync.oauth_unlock(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.oauth_unlock(text, text) IS
'Gives a lease of oauth_lock() back; false if it had run out, or is somebody else''s by now. For the account''s owner only.';

/*
 * The worker's part
 */

/*
 * Before a refresh is sent: the lease.  Committed durably, it also tells a
 * worker that starts after a crash until when one may be under way.
 * go: NULL   somebody else has the lease
 *     false  what is stored is no longer what the worker knows
 *     true   with the lease's token
 */
CREATE FUNCTION rsvp_sync._begin_oauth_refresh(of_did text,
	known_version bigint, ttl interval, OUT go boolean, OUT lease text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM rsvp_sync._account a
		JOIN rsvp_sync._oauth_session s USING (did)
		WHERE a.did = of_did AND a.auth = 'oauth'
			AND s.version = known_version)
	THEN
		go := false;
		RETURN;
	END IF;
	lease := rsvp_sync._take_oauth_lease(of_did, ttl, 'worker');
	IF lease IS NULL THEN
		RETURN;
	END IF;
	/* Now that nobody else may, look again. */
	go := EXISTS (SELECT FROM rsvp_sync._oauth_session s
		WHERE s.did = of_did AND s.version = known_version);
	IF NOT go THEN
		PERFORM rsvp_sync._end_oauth_lease(of_did, lease);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._begin_oauth_refresh(text, bigint, interval) FROM PUBLIC;
COMMENT ON FUNCTION
	rsvp_sync._begin_oauth_refresh(text, bigint, interval) IS
'private: the worker''s lease for a refresh, unless the session has changed';

CREATE FUNCTION rsvp_sync._end_oauth_lease(of_did text, lease text)
RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE rsvp_sync._oauth_session s SET lease_token = NULL,
		lease_until = NULL, lease_by = NULL
	WHERE s.did = of_did AND s.lease_token = lease
$$;
REVOKE ALL ON FUNCTION rsvp_sync._end_oauth_lease(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._end_oauth_lease(text, text) IS
'private: gives a lease back';

/*
 * After it.
 * how: renewed  there are new tokens, in facts
 *      over     the session has ended
 *      client   the authorization server does not know the client
 *      later    nothing happened
 *      unknown  the refresh token may have been spent; the lease is left to
 *               run out, until when the server has done what it does
 * Returns true unless what is stored was changed by somebody else meanwhile:
 * then that counts.
 */
CREATE FUNCTION rsvp_sync._oauth_refresh_done(of_did text, how text,
	known_version bigint, lease text, facts jsonb, error text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	stored rsvp_sync._oauth_session;
	same boolean;
BEGIN
	/* In the order of store_oauth_session(). */
	PERFORM FROM rsvp_sync._account a WHERE a.did = of_did
	FOR NO KEY UPDATE;
	SELECT s.* INTO stored FROM rsvp_sync._oauth_session s
	JOIN rsvp_sync._account a USING (did)
	WHERE s.did = of_did AND a.auth = 'oauth' FOR UPDATE OF s;
	same := FOUND AND (stored.version = known_version
		/* Tokens of this very session, stored without the lease. */
		OR how = 'renewed' AND stored.jkt = facts ->> 'jkt');
	IF same AND how = 'renewed' THEN
		PERFORM rsvp_sync._note_oauth_session(of_did, facts);
		PERFORM rsvp_sync._account_done(of_did, 'connected', NULL, NULL,
			NULL, NULL);
		UPDATE rsvp_sync._oauth_client c SET error = NULL,
			error_since = NULL, error_at = NULL
		WHERE c.client_id = stored.client_id AND c.error IS NOT NULL;
	ELSIF same AND how = 'over' THEN
		PERFORM rsvp_sync._account_done(of_did, 'needs_login', NULL, NULL,
			error, NULL);
	ELSIF how = 'client' THEN
		UPDATE rsvp_sync._oauth_client c SET
			error = _oauth_refresh_done.error,
			error_since = coalesce(c.error_since, now()), error_at = now()
		WHERE c.client_id = stored.client_id;
	END IF;
	IF how <> 'unknown' THEN
		PERFORM rsvp_sync._end_oauth_lease(of_did, lease);
	END IF;
	RETURN same;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._oauth_refresh_done(text, text, bigint,
	text, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._oauth_refresh_done(text, text, bigint, text,
	jsonb, text) IS
'private: what became of a refresh; false: the stored session is another one by now';
