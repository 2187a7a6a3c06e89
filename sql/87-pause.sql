/*
 * Pause and resume by name: an account, a server, or everything.  (A table is
 * paused by pause(regclass) in 40-source.sql.)  The names are in _pause; the
 * worker reads them when it is told, and parks the keys concerned.
 *
 * An account may be paused by its owner.  Servers and everything concern
 * other people's accounts, so only the extension's owner may.
 */

/* The name as _pause has it, or an error. */
CREATE FUNCTION rsvp_sync._pause_name(caller oid, subject text) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF subject LIKE 'did:%' THEN
		PERFORM rsvp_sync._check_account_owner(caller, subject);
		RETURN subject;
	END IF;
	IF NOT pg_has_role(caller, (SELECT e.extowner FROM pg_extension e
		WHERE e.extname = 'rsvp_sync'), 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to pause %',
			CASE WHEN subject = '*' THEN 'everything'
				ELSE format('server "%s"', subject) END
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'It concerns accounts of other roles; only the owner '
					'of the extension may. You may pause your own tables '
					'and accounts.';
	END IF;
	RETURN CASE WHEN subject = '*' THEN subject
		ELSE rsvp_sync._check_pds(subject) END;
END
$$;
COMMENT ON FUNCTION rsvp_sync._pause_name(oid, text) IS
'private: a DID the caller owns, or a server''s origin or * if he may; else an error';

CREATE FUNCTION rsvp_sync._pause(caller oid, subject text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF subject ~ '^[0-9]+$' THEN
		PERFORM rsvp_sync._pause(caller, subject::oid::regclass);
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._pause (subject, paused_by)
	VALUES (rsvp_sync._pause_name(caller, subject), caller::regrole::text)
	ON CONFLICT ON CONSTRAINT _pause_pkey DO NOTHING;
	INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'p');
END
$$;
COMMENT ON FUNCTION rsvp_sync._pause(oid, text) IS
'private: pause() of a DID, a server, everything, or a table given as a literal, for a caller';

CREATE FUNCTION rsvp_sync._resume(caller oid, subject text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF subject ~ '^[0-9]+$' THEN
		PERFORM rsvp_sync._resume(caller, subject::oid::regclass);
		RETURN;
	END IF;
	DELETE FROM rsvp_sync._pause p
	WHERE p.subject = rsvp_sync._pause_name(caller, _resume.subject);
	INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'p');
END
$$;
COMMENT ON FUNCTION rsvp_sync._resume(oid, text) IS
'private: resume() of a DID, a server, everything, or a table given as a literal, for a caller';

CREATE FUNCTION rsvp_sync._pause(caller oid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._pause(caller, '*')
$$;
COMMENT ON FUNCTION rsvp_sync._pause(oid) IS
'private: pause() of everything for a caller';

CREATE FUNCTION rsvp_sync._resume(caller oid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._resume(caller, '*')
$$;
COMMENT ON FUNCTION rsvp_sync._resume(oid) IS
'private: resume() of everything for a caller';

/* No search_path of their own: a table is looked up by the caller's. */
CREATE FUNCTION rsvp_sync.pause(subject text) RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_pause_subject';
COMMENT ON FUNCTION rsvp_sync.pause(text) IS
'Nothing is sent for this DID (its owner may), or to this server, as in https://pds.example.com (the owner of the extension may), until resume(); keys are kept. Durable. Also takes the name of an attached table, so that a literal needs no cast. Errors: undefined_table, undefined_object (no such account), insufficient_privilege, invalid_parameter_value, null_value_not_allowed.';

CREATE FUNCTION rsvp_sync.resume(subject text) RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_resume_subject';
COMMENT ON FUNCTION rsvp_sync.resume(text) IS
'Ends pause() of this DID, server or table; keys go on. Errors: as pause(text).';

CREATE FUNCTION rsvp_sync.pause() RETURNS void
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_pause';
COMMENT ON FUNCTION rsvp_sync.pause() IS
'Nothing is sent at all until resume(); keys are kept. Durable. Only the owner of the extension may. Errors: insufficient_privilege.';

CREATE FUNCTION rsvp_sync.resume() RETURNS void
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_resume';
COMMENT ON FUNCTION rsvp_sync.resume() IS
'Ends pause() of everything; what else is paused stays so. Errors: insufficient_privilege.';
