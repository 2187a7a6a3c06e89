/*
 * Accounts: who may write for which DID, with what secret.
 *
 * An account belongs to the role that connected it.  A SECURITY DEFINER
 * function cannot see who called it, so the public functions here are C
 * entries (src/account.c) that run as the caller, put his oid in front of the
 * arguments and call the private function of the same name, which runs as
 * the extension's owner.  Nobody else may call those: they believe what they
 * are told about the caller.
 *
 * Secrets pass through C only.  connect_account() makes the envelope before
 * anything is called, so no plpgsql variable, query parameter or error
 * context ever holds a password.
 */

CREATE FUNCTION rsvp_sync._seal(secret text, did text) RETURNS text
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_seal';
REVOKE ALL ON FUNCTION rsvp_sync._seal(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._seal(text, text) IS
'private: envelope of a secret, bound to the DID';

CREATE FUNCTION rsvp_sync._open(envelope text, did text) RETURNS text
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_open';
REVOKE ALL ON FUNCTION rsvp_sync._open(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._open(text, text) IS
'private: the secret in an envelope';

CREATE FUNCTION rsvp_sync._reseal(envelope text, did text) RETURNS text
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_reseal';
REVOKE ALL ON FUNCTION rsvp_sync._reseal(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._reseal(text, text) IS
'private: the same secret in an envelope of the newest key, bound to the DID';

CREATE FUNCTION rsvp_sync._key_version() RETURNS integer
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_key_version';
REVOKE ALL ON FUNCTION rsvp_sync._key_version() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._key_version() IS
'private: version of the newest key of the key file, or an error that says why there is none';

/*
 * One column of envelopes.  Each row is an update of its own, so that one
 * envelope whose key is lost does not keep the others from the new key; and
 * a row that the worker is writing is left to the next call.
 */
CREATE FUNCTION rsvp_sync._rekey_column(relation regclass, bound_to name,
	envelope name, at_most bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	version text := rsvp_sync._key_version();
	of_id text;
	n bigint;
	done bigint := 0;
BEGIN
	FOR of_id IN EXECUTE format(
		'SELECT t.%2$I FROM %1$s t WHERE t.%3$I IS NOT NULL'
		' AND (t.%3$I::jsonb ->> ''v'' IS DISTINCT FROM $1'
		' OR t.%3$I::jsonb ->> ''aad'' IS NULL) ORDER BY t.%2$I',
		relation, bound_to, envelope) USING version
	LOOP
		EXIT WHEN done >= at_most;
		BEGIN
			EXECUTE format(
				'UPDATE %1$s t SET %3$I = rsvp_sync._reseal(t.%3$I, t.%2$I)'
				' WHERE t.%2$I = (SELECT l.%2$I FROM %1$s l'
				' WHERE l.%2$I = $1 AND l.%3$I IS NOT NULL'
				' FOR NO KEY UPDATE SKIP LOCKED)',
				relation, bound_to, envelope) USING of_id;
			GET DIAGNOSTICS n = ROW_COUNT;
			done := done + n;
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'an envelope of "%" keeps its old key: %',
				of_id, SQLERRM;
		END;
	END LOOP;
	RETURN done;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._rekey_column(regclass, name, name, bigint)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._rekey_column(regclass, name, name, bigint) IS
'private: seals envelopes of other keys anew, at most so many; how many it were';

/*
 * The rows are locked until the caller commits, and what the worker has to
 * write about those accounts waits as long: hence not all at once.
 */
CREATE FUNCTION rsvp_sync.rekey() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	batch constant bigint := 10000;
	done bigint := 0;
	c record;
BEGIN
	FOR c IN SELECT * FROM (VALUES
			('rsvp_sync._account'::regclass, 'did'::name, 'credential'::name),
			('rsvp_sync._account', 'did', 'session'),
			('rsvp_sync._oauth_client', 'client_id', 'jwk'))
		AS v (relation, bound_to, envelope)
	LOOP
		done := done + rsvp_sync._rekey_column(c.relation, c.bound_to,
			c.envelope, batch - done);
	END LOOP;
	IF done >= batch THEN
		RAISE NOTICE 'there may be more envelopes of old keys'
			USING HINT = 'Call rekey() again until it returns 0.';
	END IF;
	RETURN done;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync.rekey() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.rekey() IS
'Rewrites the envelopes that are not of the newest key of credential_key_file, or not bound to their DID, with that key; returns how many, at most 10000 a call: call it until it returns 0. An envelope that cannot be opened is a WARNING and stays as it is. Only the extension''s owner may. Errors: those of the key file (config_file_error, undefined_file, object_not_in_prerequisite_state).';

/*
 * This installation
 */

CREATE FUNCTION rsvp_sync._this_installation(
	OUT system_identifier bigint, OUT database_oid oid)
LANGUAGE C STABLE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_this_installation';
REVOKE ALL ON FUNCTION rsvp_sync._this_installation() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._this_installation() IS
'private: what tells this database from a copy of it';

CREATE FUNCTION rsvp_sync._ensure_installation() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO rsvp_sync._installation (system_identifier, database_oid)
	SELECT h.system_identifier, h.database_oid
	FROM rsvp_sync._this_installation() h
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._installation)
	ON CONFLICT DO NOTHING
$$;
REVOKE ALL ON FUNCTION rsvp_sync._ensure_installation() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._ensure_installation() IS
'private: first use records which database this is; later uses change nothing';

CREATE FUNCTION rsvp_sync._copied() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM rsvp_sync._installation)
		AND NOT EXISTS (
			SELECT FROM rsvp_sync._installation
			JOIN rsvp_sync._this_installation()
				USING (system_identifier, database_oid));
END
$$;
COMMENT ON FUNCTION rsvp_sync._copied() IS
'private: is this database a copy of the one that was connected or attached?';

/*
 * The worker is told that an account changed, or, with NULL, that any may
 * have.
 */
CREATE FUNCTION rsvp_sync._account_changed(did text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	VALUES (0, $1, 'a')
$$;
REVOKE ALL ON FUNCTION rsvp_sync._account_changed(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._account_changed(text) IS
'private: have the worker look again at the keys of an account; NULL: of all';

CREATE FUNCTION rsvp_sync.activate() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM rsvp_sync._installation;
	PERFORM rsvp_sync._ensure_installation();
	PERFORM rsvp_sync._rebind();
	PERFORM rsvp_sync._account_changed(NULL);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync.activate() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.activate() IS
'lets a copied, restored or cloned database send: from now on it is the one';

/*
 * Checks
 */

/*
 * The PDS as it is stored: scheme, host and port.  The text given is not
 * repeated where it could hold a password.
 */
CREATE FUNCTION rsvp_sync._check_pds(pds text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	origin text := regexp_replace(pds, '/$', '');
	parts text[] := regexp_match(origin,
		'^(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?$', 'i');
BEGIN
	IF pds IS NULL THEN
		RETURN NULL;
	END IF;
	IF parts IS NULL OR parts[3]::integer NOT BETWEEN 1 AND 65535 THEN
		RAISE EXCEPTION 'invalid PDS address%',
			CASE WHEN strpos(pds, '@') = 0 THEN format(' "%s"', pds) ELSE '' END
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give scheme, host and, if need be, port, as in '
					'https://pds.example.com: no user name, path or query. '
					'NULL takes the PDS from the account''s DID document.';
	END IF;
	RETURN lower(origin);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_pds(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_pds(text) IS
'private: a PDS address as it is stored, or an error';

/*
 * What is neither a DID nor a handle is not repeated either: it may be a
 * password, given in the wrong place.
 */
CREATE FUNCTION rsvp_sync._check_identity(did text, handle text)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF rsvp_sync.is_did(did) IS NOT TRUE THEN
		RAISE EXCEPTION 'invalid DID%',
			CASE WHEN did LIKE 'did:%' OR rsvp_sync.is_handle(did)
				THEN format(' "%s"', did) ELSE '' END
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A DID looks like did:plc:ewvi7nxzyoun6zhxrhs64oiz '
					'or did:web:example.com; a handle is not one.';
	END IF;
	IF NOT rsvp_sync.is_handle(handle) THEN
		RAISE EXCEPTION 'invalid handle "%"', handle
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A handle is a domain name, as in alice.example.com, '
					'without "@". It is optional.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_identity(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_identity(text, text) IS
'private: error unless the DID, and the handle where given, are well-formed';

/*
 * Error unless the caller is the account's owner, a member of it or a
 * superuser.  Locks the row.
 */
CREATE FUNCTION rsvp_sync._check_account_owner(caller oid, did text)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	account_owner oid;
BEGIN
	IF did IS NULL THEN
		RAISE EXCEPTION 'did must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the DID of the account.';
	END IF;
	SELECT a.owner INTO account_owner
	FROM rsvp_sync._account a WHERE a.did = $2 FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'account "%" is not connected', did
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT did FROM rsvp_sync.account shows the accounts '
					'you may use.';
	END IF;
	IF NOT pg_has_role(caller, account_owner, 'USAGE') THEN
		PERFORM rsvp_sync._refuse_account(did, account_owner);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_account_owner(oid, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_account_owner(oid, text) IS
'private: error unless the caller owns the account';

CREATE FUNCTION rsvp_sync._refuse_account(did text, account_owner oid)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'account "%" belongs to role "%"',
		did, pg_get_userbyid(account_owner)
		USING ERRCODE = 'insufficient_privilege',
			HINT = format('Only that role can change it. It can let another '
				'role use it: SELECT rsvp_sync.grant_account(%L, role).', did);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._refuse_account(text, oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._refuse_account(text, oid) IS
'private: the error for another role''s account';

CREATE FUNCTION rsvp_sync._role_oid(role name) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_oid oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = role);
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'no role given'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Name the role as the second argument.';
	ELSIF found_oid IS NULL THEN
		RAISE EXCEPTION 'role "%" does not exist', role
			USING ERRCODE = 'undefined_object',
				HINT = 'Name an existing role; PUBLIC is not one.';
	END IF;
	RETURN found_oid;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._role_oid(name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._role_oid(name) IS
'private: the oid of a role, or an error';

/*
 * Connecting
 */

/*
 * One statement decides and writes, so that two roles that connect the same
 * DID at the same time cannot both succeed.  The PDS is what this call says
 * (NULL: the DID document's); a handle, which is for display only and may
 * have been found out by the worker, stays unless a new one is given.
 */
CREATE FUNCTION rsvp_sync._connect_account(
	caller oid, did text, envelope text, pds text, handle text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	account_owner oid;
BEGIN
	PERFORM rsvp_sync._check_identity(did, handle);
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = caller) THEN
		RAISE EXCEPTION 'role with OID % does not exist', caller
			USING ERRCODE = 'undefined_object',
				HINT = 'The role was dropped meanwhile; connect as another.';
	END IF;
	INSERT INTO rsvp_sync._account AS a
		(did, owner, handle, pds, auth, credential)
	VALUES ($2, caller, $5, rsvp_sync._check_pds($4), 'password', envelope)
	ON CONFLICT ON CONSTRAINT _account_pkey DO UPDATE
	SET owner = CASE
			WHEN EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.owner)
			THEN a.owner ELSE EXCLUDED.owner END,
		handle = coalesce(EXCLUDED.handle, a.handle), pds = EXCLUDED.pds,
		auth = 'password', credential = EXCLUDED.credential, session = NULL,
		state = 'unverified', state_since = now(), checked_at = now(),
		last_error = NULL, connected_at = now(), leaving = NULL
	WHERE pg_has_role(caller, a.owner, 'USAGE');
	IF NOT FOUND THEN
		SELECT a.owner INTO account_owner
		FROM rsvp_sync._account a WHERE a.did = $2;
		PERFORM rsvp_sync._refuse_account(did, account_owner);
	END IF;
	PERFORM rsvp_sync._ensure_installation();
	PERFORM rsvp_sync._remember(did);
	PERFORM rsvp_sync._account_changed(did);
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._connect_account(oid, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION
	rsvp_sync._connect_account(oid, text, text, text, text) IS
'private: connect_account() behind its entry, the password already sealed';

CREATE FUNCTION rsvp_sync.connect_account(did text, password text,
	pds text DEFAULT NULL, handle text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_connect_account';
REVOKE ALL ON FUNCTION
	rsvp_sync.connect_account(text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.connect_account(text, text, text, text) IS
'connects an account by an app password; it belongs to the current role';

CREATE FUNCTION rsvp_sync.connect_account_encrypted(did text, envelope text,
	pds text DEFAULT NULL, handle text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_connect_account_encrypted';
REVOKE ALL ON FUNCTION
	rsvp_sync.connect_account_encrypted(text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION
	rsvp_sync.connect_account_encrypted(text, text, text, text) IS
'connects an account by an app password encrypted with a key of the key file';

CREATE FUNCTION rsvp_sync._disconnect_account(
	caller oid, did text, withdraw boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._check_account_owner(caller, did);
	IF withdraw THEN
		PERFORM rsvp_sync._leave(did, 'disconnect');
	ELSE
		PERFORM rsvp_sync._remove_account(did);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._disconnect_account(oid, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._disconnect_account(oid, text, boolean) IS
'private: disconnect_account() behind its entry';

CREATE FUNCTION rsvp_sync.disconnect_account(
	did text, withdraw boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_disconnect_account';
REVOKE ALL ON FUNCTION
	rsvp_sync.disconnect_account(text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.disconnect_account(text, boolean) IS
'Forgets an account''s secrets; its published records stay, its keys wait. With withdraw its records are withdrawn first: state disconnecting until they are gone, then the account goes (NOTIFY rsvp_sync_account says disconnected). Without withdraw it also ends a withdrawal, or a forget(), that does not come to its end. Only the account''s owner may. Errors: undefined_object, insufficient_privilege.';

/*
 * Granting
 */

CREATE FUNCTION rsvp_sync._grant_account(caller oid, did text, role name)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._check_account_owner(caller, did);
	INSERT INTO rsvp_sync._account_grant (did, grantee)
	VALUES ($2, rsvp_sync._role_oid(role))
	ON CONFLICT DO NOTHING;
	PERFORM rsvp_sync._account_changed(did);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._grant_account(oid, text, name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._grant_account(oid, text, name) IS
'private: grant_account() behind its entry';

CREATE FUNCTION rsvp_sync.grant_account(did text, role name) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_grant_account';
REVOKE ALL ON FUNCTION rsvp_sync.grant_account(text, name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.grant_account(text, name) IS
'lets sources of a role speak for an account';

CREATE FUNCTION rsvp_sync._revoke_account(caller oid, did text, role name)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._check_account_owner(caller, did);
	DELETE FROM rsvp_sync._account_grant g
	WHERE g.did = $2 AND g.grantee = rsvp_sync._role_oid(role);
	PERFORM rsvp_sync._account_changed(did);
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._revoke_account(oid, text, name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._revoke_account(oid, text, name) IS
'private: revoke_account() behind its entry';

CREATE FUNCTION rsvp_sync.revoke_account(did text, role name) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_revoke_account';
REVOKE ALL ON FUNCTION rsvp_sync.revoke_account(text, name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.revoke_account(text, name) IS
'takes back what grant_account() gave';

/*
 * Reading
 */

/*
 * Runs with its owner's rights on the tables, but current_user within it is
 * whoever asks: each role sees its own accounts and those granted to it.
 */
CREATE VIEW rsvp_sync.account WITH (security_barrier) AS
SELECT a.did,
	/* What was found to be another's is not shown. */
	CASE WHEN d.handle_ok THEN d.handle
		WHEN d.handle_ok IS NULL THEN a.handle END AS handle,
	a.pds, a.owner, a.auth,
	/*
	 * On its way out, or its server is down, unless it is the user who has to
	 * do something.
	 */
	CASE WHEN a.state NOT IN ('unverified', 'connected', 'unreachable')
		THEN a.state
		WHEN a.leaving = 'disconnect' THEN 'disconnecting'
		WHEN a.leaving IS NOT NULL THEN 'forgetting'
		WHEN h.host IS NOT NULL THEN 'unreachable' ELSE a.state END AS state,
	COALESCE(h.down_since, a.state_since) AS state_since,
	CASE WHEN a.rate_limited_until > pg_catalog.now()
		THEN a.rate_limited_until END AS rate_limited_until,
	COALESCE(h.last_error, a.last_error) AS last_error,
	(SELECT count(*) FROM rsvp_sync._intent i
	 WHERE i.did = a.did AND (i.state = 'blocked'
		OR EXISTS (SELECT FROM rsvp_sync._queue q
			WHERE q.source_id = i.source_id AND q.key = i.key))) AS waiting
FROM rsvp_sync._account a
/* A server that is down, unless it is the user who has to do something. */
LEFT JOIN rsvp_sync._identity d ON d.did = a.did
LEFT JOIN rsvp_sync._host h ON h.host = COALESCE(d.pds, a.pds)
	AND a.state IN ('unverified', 'connected', 'unreachable')
WHERE pg_catalog.pg_has_role(a.owner, 'USAGE')
	OR EXISTS (SELECT FROM rsvp_sync._account_grant g
			   WHERE g.did = a.did
				   AND pg_catalog.pg_has_role(g.grantee, 'USAGE'));
COMMENT ON VIEW rsvp_sync.account IS
'accounts that the current role owns or was granted; never a secret';

CREATE FUNCTION rsvp_sync.account_status(did text)
RETURNS SETOF rsvp_sync.account
LANGUAGE sql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.* FROM rsvp_sync.account a WHERE a.did = $1
$$;
REVOKE ALL ON FUNCTION rsvp_sync.account_status(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.account_status(text) IS
'one account, as the view account shows it';

/*
 * Rights
 */

/*
 * GRANT what a kind of role needs, by name: what does not exist (yet) is
 * skipped, and every function of a name is meant, whatever its arguments.
 * GRANT itself runs with the caller's rights.
 */
CREATE FUNCTION rsvp_sync._grant_names(
	role name, functions name[], views name[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	object text;
BEGIN
	PERFORM rsvp_sync._role_oid(role);
	IF NOT pg_has_role((SELECT e.extowner FROM pg_extension e
						WHERE e.extname = 'rsvp_sync'), 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to grant the use of rsvp_sync'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'A superuser or the owner of the extension can.';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA rsvp_sync TO %I', role);
	FOR object IN
		SELECT p.oid::regprocedure::text FROM pg_proc p
		WHERE p.pronamespace = 'rsvp_sync'::regnamespace
			AND p.proname = ANY (functions)
	LOOP
		EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', object, role);
	END LOOP;
	FOR object IN
		SELECT c.oid::regclass::text FROM pg_class c
		WHERE c.relnamespace = 'rsvp_sync'::regnamespace
			AND c.relkind = 'v' AND c.relname = ANY (views)
	LOOP
		EXECUTE format('GRANT SELECT ON %s TO %I', object, role);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION
	rsvp_sync._grant_names(name, name[], name[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._grant_names(name, name[], name[]) IS
'private: grants the functions and views of those names that exist';

CREATE FUNCTION rsvp_sync.grant_application(role name) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._grant_names(role, ARRAY[
		/* attaching */
		'attach', 'attach_all', 'detach', 'detach_all', 'pause', 'resume',
		'approve_withdrawals', 'reconcile', 'index_ddl', 'source_status_map',
		/* accounts */
		'connect_account', 'connect_account_encrypted', 'connect_oauth',
		'set_oauth_client', 'oauth_session', 'store_oauth_session',
		'oauth_lock', 'oauth_unlock',
		'disconnect_account', 'grant_account', 'revoke_account',
		'account_status', 'forget', 'export',
		/* explicit calls */
		'create_rsvp', 'delete_rsvp', 'list_rsvps', 'process_external_rsvp',
		'delete_external_rsvp', 'receive_webmention',
		/* reading, and what a reader may do about it */
		'find_attendees_by_metadata', 'rsvp_status_map', 'sync_status',
		'explain_sync', 'preview', 'wait_until_idle', 'retry', 'discard',
		'rsvp_document', 'rsvp_outbox'
	]::name[], ARRAY[
		'source', 'account', 'rsvp', 'queue', 'failed', 'held', 'progress',
		'status', 'history', 'inbound', 'external_rsvp',
		'webmention', 'webmention_received'
	]::name[])
$$;
REVOKE ALL ON FUNCTION rsvp_sync.grant_application(name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.grant_application(name) IS
'gives a role what an application needs: attaching, connecting, reading';

CREATE FUNCTION rsvp_sync.grant_monitor(role name) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT rsvp_sync._grant_names(role,
		ARRAY['doctor', 'metrics', 'metrics_text']::name[],
		ARRAY(SELECT c.relname FROM pg_class c
			  WHERE c.relnamespace = 'rsvp_sync'::regnamespace
				  AND c.relkind = 'v' AND c.relname NOT LIKE '\_%'))
$$;
REVOKE ALL ON FUNCTION rsvp_sync.grant_monitor(name) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync.grant_monitor(name) IS
'gives a role what watching needs: figures, findings, views';
