/*
 * create_rsvp() and delete_rsvp(): answers that no attendance row stands for.
 *
 * They are rows of a table of ours, _explicit, which is the attendance table
 * of a source like any other: planned, sent, retried, shown and reconciled by
 * the same means.  What is special is who speaks: each row for the role that
 * made the call, by whose rights on the account it is decided whether it may,
 * see _evaluate(), and who sees it.
 *
 * A row's key is the record key that is used if there is no record yet.  A
 * call says what it means: it counts even where the row said so before.
 */

/* The source, made by the first call: an install script's row would come twice out of a dump. */
CREATE FUNCTION rsvp_sync._explicit_source() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	calls constant regclass := 'rsvp_sync._explicit';
	query constant text := 'SELECT x.id, x.did, x.event_uri, x.status,'
		' x.created_at FROM rsvp_sync._explicit x'
		' WHERE x.withdrawn_at IS NULL';
	of_source bigint;
BEGIN
	SELECT s.source_id INTO of_source FROM rsvp_sync._source s
	WHERE s.attendance = calls;
	IF FOUND THEN
		RETURN of_source;
	END IF;
	INSERT INTO rsvp_sync._source (attendance, attendance_name, kind, desired,
		search_path, shape)
	VALUES (calls, calls::text, 'explicit', query, 'pg_catalog',
		rsvp_sync._make_shape(calls, 'explicit', query, NULL, '{}', '{}'))
	ON CONFLICT (attendance) DO NOTHING;
	SELECT s.source_id INTO STRICT of_source FROM rsvp_sync._source s
	WHERE s.attendance = calls;
	RETURN of_source;
END
$$;
COMMENT ON FUNCTION rsvp_sync._explicit_source() IS
'private: the source of explicit calls, made where it is not there yet';

CREATE FUNCTION rsvp_sync._is_own_call(caller oid, of_key text)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (SELECT FROM rsvp_sync._explicit x
	WHERE x.id = of_key AND pg_has_role(caller, x.owner, 'USAGE'))
$$;
COMMENT ON FUNCTION rsvp_sync._is_own_call(oid, text) IS
'private: was this explicit call made by the caller, or by a role that he is a member of?';

CREATE FUNCTION rsvp_sync._caller_of(of_key text) RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT x.owner::oid FROM rsvp_sync._explicit x WHERE x.id = of_key
$$;
COMMENT ON FUNCTION rsvp_sync._caller_of(text) IS
'private: the role that made an explicit call';

CREATE FUNCTION rsvp_sync._role_may_speak(role oid, account_did text)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (SELECT FROM rsvp_sync._account a
	WHERE a.did = account_did
		AND (pg_has_role(role, a.owner, 'USAGE')
			OR EXISTS (SELECT FROM rsvp_sync._account_grant g
				WHERE g.did = a.did AND pg_has_role(role, g.grantee, 'USAGE'))))
$$;
COMMENT ON FUNCTION rsvp_sync._role_may_speak(oid, text) IS
'private: does the account belong to the role, or was it granted to it?';

/* Whose account this is, if it is anybody's, must be the caller. */
CREATE FUNCTION rsvp_sync._check_speaker(caller oid, of_did text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	account_owner oid;
BEGIN
	SELECT a.owner INTO account_owner FROM rsvp_sync._account a
	WHERE a.did = of_did;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF NOT rsvp_sync._role_may_speak(caller, of_did) THEN
		RAISE EXCEPTION 'account "%" belongs to role "%"', of_did,
			pg_get_userbyid(account_owner)
			USING ERRCODE = 'insufficient_privilege',
				HINT = format('That role can let another one speak for it: '
					'SELECT rsvp_sync.grant_account(%L, role).', of_did);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_speaker(oid, text) IS
'private: is the account connected? insufficient_privilege if it is, and the caller may not speak for it';

CREATE FUNCTION rsvp_sync._check_call(did text, event_uri text, status text,
	tenant text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	missing text := CASE WHEN event_uri IS NULL THEN 'event_uri'
		WHEN status IS NULL THEN 'status' WHEN tenant IS NULL THEN 'tenant' END;
BEGIN
	PERFORM rsvp_sync._check_did(did);
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION '% must not be null', missing
			USING ERRCODE = 'null_value_not_allowed',
				HINT = CASE missing
					WHEN 'event_uri' THEN 'Give the at-uri of the event record.'
					WHEN 'status' THEN 'It is going, interested or notgoing; delete_rsvp() takes an answer back.'
					ELSE 'Leave it out where there are no tenants.' END;
	END IF;
	IF NOT rsvp_sync._is_record_of_did(event_uri) THEN
		RAISE EXCEPTION 'invalid event "%"', event_uri
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give the at-uri of a record, as in at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/3kiyh2tsbk22a.';
	END IF;
	IF rsvp_sync._status_word(jsonb_build_object('status', status)) IS NULL THEN
		RAISE EXCEPTION 'invalid status "%"', status
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is going, interested or notgoing, or community.lexicon.calendar.rsvp# and one of these. rsvp_status_map() translates other words.';
	END IF;
	IF EXISTS (SELECT FROM rsvp_sync._forgotten f
		WHERE f.digest = sha256(convert_to(did, 'UTF8'))) THEN
		RAISE EXCEPTION '"%" has asked to be forgotten', did
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Nothing is stored or written for this account until it is connected anew.';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_call(text, text, text, text) IS
'private: the errors of create_rsvp()''s arguments';

/*
 * The record key an answer has, as far as is known: that of its own record,
 * else of the one in its slot, which will be adopted, else the one to be used.
 */
CREATE FUNCTION rsvp_sync._rkey_of_call(of_source bigint,
	x rsvp_sync._explicit)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(
	(SELECT i.rkey FROM rsvp_sync._intent i
	WHERE i.source_id = of_source AND i.key = x.id AND i.bond IS NOT NULL),
	(SELECT i.rkey FROM rsvp_sync._intent i
	WHERE i.did = x.did AND i.event_uri = x.event_uri AND i.rkey IS NOT NULL
		AND (i.bond IS NOT NULL OR i.doubt)
	LIMIT 1),
	(SELECT o.rkey FROM rsvp_sync._observed o
	WHERE o.did = x.did AND o.event_uri = x.event_uri AND o.cid IS NOT NULL
	ORDER BY o.changed_at DESC NULLS LAST, o.rkey DESC LIMIT 1),
	x.id)
$$;
COMMENT ON FUNCTION rsvp_sync._rkey_of_call(bigint, rsvp_sync._explicit) IS
'private: the record key an explicit answer has or will have, as far as is known';

/*
 * An answer that is in agreement with the network already, or was left to
 * differ from it, is made a new one: whoever calls again means it again.
 */
CREATE FUNCTION rsvp_sync._say_again(of_source bigint, of_key text,
	word text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._intent i SET local = NULL, base_local = NULL
WHERE i.source_id = of_source AND i.key = of_key AND NOT i.doubt
	AND i.base_local = word
	AND NOT EXISTS (SELECT FROM rsvp_sync._observed o
		WHERE o.did = i.did AND o.rkey = i.rkey AND o.cid IS NOT NULL
			AND o.status = word)
$$;
COMMENT ON FUNCTION rsvp_sync._say_again(bigint, text, text) IS
'private: has an explicit answer sent again whose record says something else by now, or is gone';

CREATE FUNCTION rsvp_sync._create_rsvp(caller oid, of_did text,
	of_event text, said text, of_tenant text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	word text := rsvp_sync._status_word(jsonb_build_object('status', said));
	connected boolean;
	of_source bigint;
	of_rkey text;
	x rsvp_sync._explicit;
BEGIN
	PERFORM rsvp_sync._check_call(of_did, of_event, said, of_tenant);
	connected := rsvp_sync._check_speaker(caller, of_did);
	PERFORM rsvp_sync._ensure_installation();
	of_source := rsvp_sync._explicit_source();

	INSERT INTO rsvp_sync._explicit AS e (id, did, event_uri, status, tenant,
		owner, told_rkey)
	SELECT t.id, of_did, of_event, word, of_tenant, caller, t.id
	FROM rsvp_sync.tid_now() AS t (id)
	ON CONFLICT (did, event_uri) WHERE withdrawn_at IS NULL
	DO UPDATE SET status = excluded.status, tenant = excluded.tenant,
		owner = excluded.owner
	WHERE connected OR pg_has_role(caller, e.owner, 'USAGE')
	RETURNING e.* INTO x;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'another role has answered for "%"', of_did
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Connect the account first: it then belongs to you.';
	END IF;
	PERFORM rsvp_sync._say_again(of_source, x.id, word);
	of_rkey := rsvp_sync._rkey_of_call(of_source, x);
	UPDATE rsvp_sync._explicit e SET told_rkey = of_rkey
	WHERE e.id = x.id AND e.told_rkey <> of_rkey;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	VALUES (of_source, x.id, 'c');
	RETURN rsvp_sync._rsvp_uri(of_did, of_rkey);
END
$$;
COMMENT ON FUNCTION rsvp_sync._create_rsvp(oid, text, text, text, text) IS
'private: create_rsvp() behind its entry';

CREATE FUNCTION rsvp_sync.create_rsvp(did text, event_uri text, status text,
	tenant text DEFAULT '')
RETURNS text
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_create_rsvp';
COMMENT ON FUNCTION rsvp_sync.create_rsvp(text, text, text, text) IS
'Answers an event (at-uri of its record) for an account: going, interested or notgoing, also as a full token. Nothing is sent in the call: after its commit the worker does, as for an attendance row; one answer per account and event, a later call changes it. Returns the at-uri of the record: the one there is, else the one it will have, unless another application turns out to have written one before; sync_status(''rsvp_sync._explicit'', last part of the uri) says which, and how it stands. The account need not be connected yet. Errors: invalid_parameter_value, null_value_not_allowed, insufficient_privilege (the account is another role''s), object_not_in_prerequisite_state (it asked to be forgotten).';

/*
 * Taking back
 */

CREATE FUNCTION rsvp_sync._check_withdrawal(uri text, did text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts record := rsvp_sync.parse_at_uri(uri);
BEGIN
	PERFORM rsvp_sync._check_did(did);
	IF uri IS NULL THEN
		RAISE EXCEPTION 'uri must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the at-uri that create_rsvp() returned.';
	END IF;
	IF parts.collection IS DISTINCT FROM 'community.lexicon.calendar.rsvp'
		OR parts.rkey IS NULL THEN
		RAISE EXCEPTION 'invalid RSVP "%"', uri
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give the at-uri of an RSVP record, as create_rsvp() returned it.';
	END IF;
	IF parts.authority <> did THEN
		RAISE EXCEPTION 'RSVP "%" is not of "%"', uri, did
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'An account deletes its own records only: the DID in the at-uri and the one given have to be the same.';
	END IF;
	RETURN parts.rkey;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_withdrawal(text, text) IS
'private: the record key of an RSVP record of this DID, or delete_rsvp()''s errors';

/*
 * The record that a withdrawn row is to take along, if it has none of its
 * own yet: somebody else's, or one that nobody here has seen.
 */
CREATE FUNCTION rsvp_sync._bind_withdrawal(of_source bigint, of_key text,
	of_did text, of_event text, of_rkey text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._intent AS i (source_id, key, did, event_uri, local_at,
	bond, wrote, rkey, base_local, base_cid, doubt, state, reason_code, reason)
SELECT of_source, of_key, of_did, of_event, now(), 'adopted', true, of_rkey,
	o.status, o.cid, o.did IS NULL, 'waiting', 'queued',
	rsvp_sync._reason('queued')
FROM (VALUES (1)) one
LEFT JOIN rsvp_sync._observed o ON o.did = of_did AND o.rkey = of_rkey
WHERE o.did IS NULL OR o.cid IS NOT NULL
ON CONFLICT (source_id, key) DO UPDATE SET bond = coalesce(i.bond, 'adopted'),
	wrote = true, rkey = CASE WHEN i.bond IS NULL AND NOT i.doubt
		THEN excluded.rkey ELSE i.rkey END,
	base_local = CASE WHEN i.bond IS NULL AND NOT i.doubt
		THEN excluded.base_local ELSE i.base_local END,
	base_cid = CASE WHEN i.bond IS NULL AND NOT i.doubt
		THEN excluded.base_cid ELSE i.base_cid END,
	doubt = i.doubt OR excluded.doubt
$$;
COMMENT ON FUNCTION rsvp_sync._bind_withdrawal(bigint, text, text, text, text) IS
'private: makes a record that we did not write one that a withdrawn row takes along';

/* A row of an attached table has this record; then that row is to change. */
CREATE FUNCTION rsvp_sync._check_unattached(caller oid, of_source bigint,
	of_did text, of_rkey text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k record;
BEGIN
	SELECT s.attendance, i.key,
		has_table_privilege(caller, s.attendance::oid, 'SELECT') AS readable
	INTO k FROM rsvp_sync._intent i
	JOIN rsvp_sync._source s ON s.source_id = i.source_id
	WHERE i.did = of_did AND i.rkey = of_rkey AND i.source_id <> of_source
		AND (i.bond IS NOT NULL OR i.doubt)
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'RSVP "%" stands for an attendance row',
			rsvp_sync._rsvp_uri(of_did, of_rkey)
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = CASE WHEN k.readable THEN format(
					'It is row %s of %s.', k.key, k.attendance) END,
				HINT = 'Change or delete that row, and the record follows. Deleted behind its back it would be written again.';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_unattached(oid, bigint, text, text) IS
'private: object_not_in_prerequisite_state if a row of an attached table has this record';

/*
 * The answer that this record is, or will be, taken back.  NULL: there is no
 * such answer.
 */
CREATE FUNCTION rsvp_sync._withdraw_call(caller oid, connected boolean,
	of_source bigint, of_did text, of_rkey text)
RETURNS rsvp_sync._explicit
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	x rsvp_sync._explicit;
BEGIN
	UPDATE rsvp_sync._explicit e SET withdrawn_at = now(), status = NULL
	WHERE e.did = of_did AND e.withdrawn_at IS NULL
		AND (e.id = of_rkey OR e.told_rkey = of_rkey
			OR EXISTS (SELECT FROM rsvp_sync._intent i
				WHERE i.source_id = of_source AND i.key = e.id
					AND i.rkey = of_rkey AND i.bond IS NOT NULL))
	RETURNING e.* INTO x;
	IF x.id IS NOT NULL AND NOT connected
		AND NOT pg_has_role(caller, x.owner, 'USAGE') THEN
		RAISE EXCEPTION 'another role has answered for "%"', of_did
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Connect the account first: it then belongs to you.';
	END IF;
	RETURN x;
END
$$;
COMMENT ON FUNCTION rsvp_sync._withdraw_call(oid, boolean, bigint, text, text) IS
'private: marks the row of an explicit answer withdrawn; NULL if there is none';

CREATE FUNCTION rsvp_sync._delete_rsvp(caller oid, uri text, of_did text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_rkey text := rsvp_sync._check_withdrawal(uri, of_did);
	connected boolean := rsvp_sync._check_speaker(caller, of_did);
	of_source bigint := rsvp_sync._explicit_source();
	x rsvp_sync._explicit;
	seen rsvp_sync._observed;
BEGIN
	SELECT * INTO seen FROM rsvp_sync._observed o
	WHERE o.did = of_did AND o.rkey = of_rkey;
	x := rsvp_sync._withdraw_call(caller, connected, of_source, of_did,
		of_rkey);
	IF x.id IS NULL THEN
		PERFORM rsvp_sync._check_unattached(caller, of_source, of_did, of_rkey);
		/* Being withdrawn already? */
		IF EXISTS (SELECT FROM rsvp_sync._explicit e
			JOIN rsvp_sync._intent i
				ON i.source_id = of_source AND i.key = e.id
			WHERE e.did = of_did AND e.withdrawn_at IS NOT NULL
				AND of_rkey IN (e.id, e.told_rkey, i.rkey)) THEN
			RETURN true;
		END IF;
		IF seen.did IS NOT NULL AND seen.cid IS NULL
			OR seen.did IS NULL AND NOT connected THEN
			RETURN false;
		END IF;
		IF NOT connected THEN
			RAISE EXCEPTION 'account "%" is not connected', of_did
				USING ERRCODE = 'undefined_object',
					HINT = 'Its records can be deleted once it is: SELECT rsvp_sync.connect_account(did, app password).';
		END IF;
		/* Without its event: no row that answers the same is to inherit it. */
		INSERT INTO rsvp_sync._explicit (id, did, owner, told_rkey,
			withdrawn_at)
		SELECT t.id, of_did, caller, of_rkey, now()
		FROM rsvp_sync.tid_now() AS t (id)
		RETURNING * INTO x;
	END IF;
	/* Its own record, once written, needs no more than that the row is gone. */
	IF of_rkey <> x.id OR seen.did IS NOT NULL AND NOT EXISTS (
		SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = of_source AND i.key = x.id) THEN
		PERFORM rsvp_sync._bind_withdrawal(of_source, x.id, of_did,
			x.event_uri, of_rkey);
	ELSE
		/* Adopted, perhaps; but this is no row that merely went away. */
		UPDATE rsvp_sync._intent i SET wrote = true
		WHERE i.source_id = of_source AND i.key = x.id AND NOT i.wrote
			AND i.bond IS NOT NULL;
	END IF;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	VALUES (of_source, x.id, 'c');
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._delete_rsvp(oid, text, text) IS
'private: delete_rsvp() behind its entry';

CREATE FUNCTION rsvp_sync.delete_rsvp(uri text, did text) RETURNS boolean
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_delete_rsvp';
COMMENT ON FUNCTION rsvp_sync.delete_rsvp(text, text) IS
'Takes an answer back: the record of this at-uri, which create_rsvp() returned or which is the one the answer really has, is deleted by the worker after the commit. Any other RSVP record of an account that the caller may speak for can be deleted, too, also one written by another application and one that nobody here has seen; not one that an attached table''s row stands for. true: it is withdrawn, or was never sent; false: there is no such record. Errors: invalid_parameter_value (no RSVP''s at-uri, or not of this DID), null_value_not_allowed, insufficient_privilege (the account is another role''s), undefined_object (the account is not connected), object_not_in_prerequisite_state (an attendance row''s record).';

/*
 * House
 */

/* What has been withdrawn is kept as long as the history. */
CREATE FUNCTION rsvp_sync._tidy_explicit() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM rsvp_sync._explicit x
WHERE x.withdrawn_at < now()
		- current_setting('rsvp_sync.history_retention')::interval
	AND NOT EXISTS (SELECT FROM rsvp_sync._intent i
		JOIN rsvp_sync._source s ON s.source_id = i.source_id
		WHERE s.kind = 'explicit' AND i.key = x.id)
	AND NOT EXISTS (SELECT FROM rsvp_sync._queue q
		JOIN rsvp_sync._source s ON s.source_id = q.source_id
		WHERE s.kind = 'explicit' AND q.key = x.id)
$$;
COMMENT ON FUNCTION rsvp_sync._tidy_explicit() IS
'private: deletes explicit answers that were withdrawn before history_retention';

/* Who is forgotten has said nothing.  NULL: whoever called. */
CREATE FUNCTION rsvp_sync._erase_calls(of_did text, caller oid)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH gone AS (
	DELETE FROM rsvp_sync._explicit x
	WHERE x.did = of_did
		AND (caller IS NULL OR pg_has_role(caller, x.owner, 'USAGE'))
	RETURNING x.id
)
DELETE FROM rsvp_sync._intent i
USING gone g, rsvp_sync._source s
WHERE s.kind = 'explicit' AND i.source_id = s.source_id AND i.key = g.id
$$;
COMMENT ON FUNCTION rsvp_sync._erase_calls(text, oid) IS
'private: erases the explicit answers of a DID: all, or those that a role has made';

/* A column-wise list for export(). */
CREATE FUNCTION rsvp_sync._export_calls(caller oid, of_did text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_agg(to_jsonb(x) - 'did' ORDER BY x.created_at, x.id),
	'[]')
FROM rsvp_sync._explicit x
WHERE x.did = of_did AND pg_has_role(caller, x.owner, 'USAGE')
$$;
COMMENT ON FUNCTION rsvp_sync._export_calls(oid, text) IS
'private: the explicit answers of a DID that the caller may see, for export()';
