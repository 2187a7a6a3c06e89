/*
 * Credentials that an application keeps in tables of its own: option
 * credentials, generated for OpenMeet's table of identities.
 *
 * They are looked for when keys are planned that need an account, as the
 * table's owner, to whom an account found that way belongs.  So there is
 * nothing to keep up to date: a changed credential is found before it is used
 * again.  Who connects an account himself, or disconnects one, is not
 * overruled.
 */

/* The query for a source's stored credentials; NULL: it has none. */
CREATE FUNCTION rsvp_sync._credentials_query(s rsvp_sync._source)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	identity jsonb;
	rel jsonb;
BEGIN
	IF jsonb_typeof(s.options -> 'credentials') = 'string' THEN
		RETURN regexp_replace(s.options ->> 'credentials',
			'^\s+|[\s;]+$', '', 'g');
	ELSIF s.options -> 'credentials' = 'false' THEN
		RETURN NULL;
	END IF;
	identity := rsvp_sync._shape(s) -> 'identity';
	rel := identity -> 'rel';
	IF identity #>> '{envelope,0}' IS NULL THEN
		RETURN NULL;
	END IF;
	/* An account that its user took over has another secret, if any. */
	RETURN format(
		'SELECT %s AS did, %s::text AS envelope, %s AS pds, %s AS handle FROM %s i',
		rsvp_sync._live_column('i', rel, identity -> 'did'),
		CASE WHEN identity #>> '{custodial,0}' IS NULL
			THEN rsvp_sync._live_column('i', rel, identity -> 'envelope')
			ELSE format('CASE WHEN %s THEN %s END',
				rsvp_sync._live_column('i', rel, identity -> 'custodial'),
				rsvp_sync._live_column('i', rel, identity -> 'envelope')) END,
		coalesce(rsvp_sync._live_column('i', rel, identity -> 'pds'), 'NULL'),
		coalesce(rsvp_sync._live_column('i', rel, identity -> 'handle'), 'NULL'),
		rsvp_sync._live_relation(rel));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._credentials_query(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._credentials_query(rsvp_sync._source) IS
'private: the SELECT for the credentials that an application stores; NULL where there is none';

/* Does a query that was given for them return what it has to? */
CREATE FUNCTION rsvp_sync._check_credentials(s rsvp_sync._source)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	query text := rsvp_sync._credentials_query(s);
	missing text;
	code text;
	said text;
BEGIN
	IF query IS NULL AND s.options -> 'credentials' = 'true' THEN
		PERFORM rsvp_sync._bad_option('credentials', 'true',
			format('No table of identities with stored credentials belongs '
				'to %s: give a query.', s.attendance));
	ELSIF query IS NULL OR jsonb_typeof(s.options -> 'credentials')
		IS DISTINCT FROM 'string'
	THEN
		RETURN;
	END IF;
	BEGIN
		SELECT string_agg(r.name, ', ' ORDER BY r.name DESC) INTO missing
		FROM unnest('{did,envelope}'::text[]) AS r (name)
		WHERE r.name NOT IN (SELECT d.name FROM rsvp_sync._describe_query(
			s.attendance, query, s.search_path) d);
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT;
		RAISE EXCEPTION 'the query for credentials does not run: %', said
			USING ERRCODE = code, HINT = 'Option credentials must be one '
				'SELECT without parameters. It runs as the table''s owner; '
				'for a recognised schema with an empty search_path, so '
				'qualify the names.';
	END;
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'the query for credentials does not return: %', missing
			USING ERRCODE = 'undefined_column',
				HINT = 'It returns did and envelope, and may return pds and '
					'handle.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._check_credentials(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._check_credentials(rsvp_sync._source) IS
'private: errors of a query given as option credentials';

/* Application SQL; see src/found.c. */
CREATE FUNCTION rsvp_sync._stored_credentials(source_id bigint, query text,
	dids text[])
RETURNS TABLE (did text, envelope text, pds text, handle text)
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_stored_credentials';
REVOKE ALL ON FUNCTION rsvp_sync._stored_credentials(bigint, text, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._stored_credentials(bigint, text, text[]) IS
'private: what a source''s query for credentials returns for these DIDs, run as the table''s owner, security-restricted';

CREATE FUNCTION rsvp_sync._seal_found(envelope text, did text) RETURNS text
LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_seal_found';
REVOKE ALL ON FUNCTION rsvp_sync._seal_found(text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._seal_found(text, text) IS
'private: an application''s envelope, opened and sealed anew for this DID';

/*
 * Is this account connected by a credential that was found, not by a call?
 * Those that connect by a call know nothing of found_at.
 */
CREATE FUNCTION rsvp_sync._is_found(a rsvp_sync._account) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(a.found_at = a.connected_at, false)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._is_found(rsvp_sync._account) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._is_found(rsvp_sync._account) IS
'private: was the account found in an application''s tables, and not connected by anybody since?';

/*
 * The application knows the DID and has no credential for it any more.  Another source
 * may have one: it is taken when that source is planned next.
 */
CREATE FUNCTION rsvp_sync._credential_gone(of_source bigint, of_did text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._account;
	others boolean := false;
BEGIN
	PERFORM FROM rsvp_sync._found_credential f
	WHERE f.did = of_did AND f.source_id = of_source
		AND f.digest IS NOT NULL;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	SELECT * INTO a FROM rsvp_sync._account f WHERE f.did = of_did FOR UPDATE;
	IF a.leaving IS NOT NULL THEN
		RETURN false;			/* its records are being withdrawn */
	END IF;
	SELECT count(*) > 0 INTO others FROM rsvp_sync._found_credential f
	WHERE f.did = of_did AND f.source_id <> of_source
		AND f.digest IS NOT NULL AND f.connected_at = a.connected_at;
	IF others OR a.did IS NULL OR NOT rsvp_sync._is_found(a) THEN
		DELETE FROM rsvp_sync._found_credential f
		WHERE f.did = of_did AND f.source_id = of_source;
		UPDATE rsvp_sync._found_credential f SET digest = NULL
		WHERE f.did = of_did AND f.connected_at = a.connected_at;
		RETURN false;
	END IF;
	UPDATE rsvp_sync._account f SET credential = NULL, session = NULL,
		state = 'needs_login', state_since = now(), connected_at = now(),
		found_at = now(),
		last_error = 'the application has no credential for it any more'
	WHERE f.did = of_did;
	UPDATE rsvp_sync._found_credential f
	SET digest = NULL, connected_at = now()
	WHERE f.did = of_did AND f.connected_at = a.connected_at;
	PERFORM pg_notify('rsvp_sync_account', jsonb_build_object(
		'did', of_did, 'state', 'needs_login')::text);
	RETURN true;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._credential_gone(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._credential_gone(bigint, text) IS
'private: a credential that was found in an application''s tables is not there any more; true: the account changed';

/*
 * A credential was found.  It is taken if it is a new one: by this source's
 * account, or, of an account that another source found too, if that is in
 * trouble.  What cannot be opened is tried again each time.
 */
CREATE FUNCTION rsvp_sync._credential_found(of_source bigint, the_owner oid,
	of_did text, envelope text, pds text, handle text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._account;
	f rsvp_sync._found_credential;
	new_digest text := encode(sha256(convert_to(concat_ws(' ', envelope, pds),
		getdatabaseencoding())), 'hex');
	sealed text;
	problem text;
BEGIN
	SELECT * INTO a FROM rsvp_sync._account o WHERE o.did = of_did FOR UPDATE;
	SELECT * INTO f FROM rsvp_sync._found_credential o
	WHERE o.did = of_did AND o.source_id = of_source;
	IF a.did IS NULL AND f.digest = new_digest OR a.leaving IS NOT NULL THEN
		RETURN false;			/* disconnected since, or about to be */
	ELSIF a.did IS NOT NULL AND (NOT rsvp_sync._is_found(a)
		OR NOT pg_has_role(the_owner, a.owner, 'USAGE')
		OR f.digest = new_digest AND a.credential IS NOT NULL)
	THEN
		RETURN false;
	ELSIF a.did IS NOT NULL AND f.did IS NULL
		AND a.state NOT IN ('needs_login', 'wrong_password')
		AND EXISTS (SELECT FROM rsvp_sync._found_credential o
			WHERE o.did = of_did AND o.connected_at = a.connected_at)
	THEN
		INSERT INTO rsvp_sync._found_credential
		VALUES (of_did, of_source, new_digest, a.connected_at);
		RETURN false;
	END IF;

	BEGIN
		sealed := rsvp_sync._seal_found(envelope, of_did);
		pds := rsvp_sync._check_pds(pds);
	EXCEPTION WHEN OTHERS THEN
		problem := SQLERRM;
	END;
	IF problem IS NOT NULL AND problem = a.last_error
		AND a.credential IS NULL AND f.digest = new_digest
	THEN
		RETURN false;
	END IF;
	INSERT INTO rsvp_sync._account AS o (did, owner, handle, pds, auth,
		credential, state, last_error, connected_at, found_at)
	VALUES (of_did, the_owner,
		CASE WHEN rsvp_sync.is_handle(handle) THEN handle END,
		CASE WHEN problem IS NULL THEN pds END, 'password', sealed,
		CASE WHEN problem IS NULL THEN 'unverified' ELSE 'needs_login' END,
		problem, now(), now())
	ON CONFLICT ON CONSTRAINT _account_pkey DO UPDATE
	SET handle = coalesce(EXCLUDED.handle, o.handle), pds = EXCLUDED.pds,
		auth = EXCLUDED.auth, credential = EXCLUDED.credential,
		session = NULL, state = EXCLUDED.state, state_since = now(),
		last_error = EXCLUDED.last_error, connected_at = now(),
		found_at = now();
	/* Whoever found it as it was goes on with it as it is. */
	UPDATE rsvp_sync._found_credential o SET connected_at = now()
	WHERE o.did = of_did AND o.connected_at = a.connected_at;
	INSERT INTO rsvp_sync._found_credential AS o
	VALUES (of_did, of_source, new_digest, now())
	ON CONFLICT (did, source_id) DO UPDATE
	SET digest = EXCLUDED.digest, connected_at = EXCLUDED.connected_at;
	PERFORM rsvp_sync._ensure_installation();
	PERFORM rsvp_sync._account_changed(of_did);
	RETURN true;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._credential_found(bigint, oid, text, text,
	text, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._credential_found(bigint, oid, text, text,
	text, text) IS
'private: connects, or connects anew, an account whose credential an application stores; true: the account changed';

/* For keys that need their account now. */
CREATE FUNCTION rsvp_sync._find_credentials(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	query text;
	dids text[] := ARRAY(SELECT DISTINCT e.did FROM unnest(es) e
		WHERE (e.d).action IN ('put', 'delete', 'read', 'list', 'wait')
			AND rsvp_sync.is_did(e.did)
			/* Who asked to be forgotten is not connected by a look-up. */
			AND NOT EXISTS (SELECT FROM rsvp_sync._forgotten f
				WHERE f.digest = sha256(convert_to(e.did, 'UTF8')))
		ORDER BY e.did);
	the_owner oid;
	c record;
	changed boolean := false;
BEGIN
	IF dids = '{}' THEN
		RETURN false;
	END IF;
	SELECT * INTO STRICT s FROM rsvp_sync._source f
	WHERE f.source_id = of_source;
	query := rsvp_sync._credentials_query(s);
	IF query IS NULL THEN
		RETURN false;
	END IF;
	the_owner := (SELECT t.relowner FROM pg_class t WHERE t.oid = s.attendance);
	/*
	 * A user who was deleted has no row any more: what we have of him serves to
	 * withdraw his records.
	 */
	FOR c IN SELECT DISTINCT ON (o.did) o.*
		FROM rsvp_sync._stored_credentials(of_source, query, dids) o
		ORDER BY o.did, o.envelope
	LOOP
		IF c.envelope IS NULL THEN
			changed := rsvp_sync._credential_gone(of_source, c.did) OR changed;
		ELSE
			changed := rsvp_sync._credential_found(of_source, the_owner, c.did,
				c.envelope, nullif(c.pds, ''), c.handle) OR changed;
		END IF;
	END LOOP;
	RETURN changed;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._find_credentials(bigint,
	rsvp_sync._evaluation[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._find_credentials(bigint,
	rsvp_sync._evaluation[]) IS
'private: looks for the credentials that keys need in the application''s tables; true: an account changed';

/* Perhaps the key file is there by now. */
CREATE FUNCTION rsvp_sync._retry_found() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT DISTINCT 0, a.did, 'a'::"char" FROM rsvp_sync._account a
	JOIN rsvp_sync._found_credential f USING (did)
	WHERE a.state = 'needs_login' AND a.credential IS NULL
		AND a.found_at = a.connected_at
		AND f.connected_at = a.connected_at AND f.digest IS NOT NULL
$$;
REVOKE ALL ON FUNCTION rsvp_sync._retry_found() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._retry_found() IS
'private: looks again at accounts whose stored credential could not be opened';
