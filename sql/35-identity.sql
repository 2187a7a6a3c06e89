/*
 * Where a DID's repository is: what its document says, how old that may be,
 * and what follows when it says something else.
 *
 * A PDS that an account has left goes on saying 200 to writes, and what is
 * written there is lost.  So an account's document is looked at before it is
 * written to, and once more after; when the account has moved, what was
 * written since the document was last known to be right is compared with the
 * new repository and done again where it is missing.
 */

/* While an account is written to, its document is looked at this often. */
CREATE FUNCTION rsvp_sync._identity_fresh() RETURNS interval
LANGUAGE sql STABLE
RETURN interval '5 minutes';
REVOKE ALL ON FUNCTION rsvp_sync._identity_fresh() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._identity_fresh() IS
'private: for how long a look at a DID document serves the writes to its account';

/*
 * A document is right when it is asked for, and written down somewhat later:
 * what was written meanwhile calls for another look.
 */
CREATE FUNCTION rsvp_sync._identity_margin() RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN interval '1 minute';
REVOKE ALL ON FUNCTION rsvp_sync._identity_margin() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._identity_margin() IS
'private: by how much a DID document may be older than its record of it';

/*
 * A repository is taken along first, the document changed last: what was
 * written in between is on the old PDS only, although that was right then.
 */
CREATE FUNCTION rsvp_sync._migration_time() RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN interval '1 hour';
REVOKE ALL ON FUNCTION rsvp_sync._migration_time() FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._migration_time() IS
'private: how long an account''s move may take, from copying its repository to changing its DID document';

/*
 * The document's PDS goes before the one given at connect_account(), which
 * serves only where no document can be had.  One that cannot be had again
 * just now serves for three days.  moved: its new repository is still to be
 * listed.
 */
CREATE VIEW rsvp_sync._home AS
SELECT i.did, CASE
	WHEN i.pds IS NULL AND i.error IS NOT NULL THEN
		(SELECT a.pds FROM rsvp_sync._account a WHERE a.did = i.did)
	WHEN i.resolved_at > pg_catalog.now() - CASE WHEN i.error IS NULL
		THEN interval '1 day' ELSE interval '3 days' END
	THEN i.pds END AS pds,
	i.looked_at, i.lost_since IS NOT NULL AS moved
FROM rsvp_sync._identity i;
COMMENT ON VIEW rsvp_sync._home IS
'private: where the repositories of DIDs are, whose documents have been looked at';

CREATE FUNCTION rsvp_sync._pds_of(of_did text) RETURNS text
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT h.pds FROM rsvp_sync._home h WHERE h.did = of_did);
END
$$;
COMMENT ON FUNCTION rsvp_sync._pds_of(text) IS
'PDS of a DID: by its document, else as given at connect_account(); NULL: to be resolved.';

/* An answer that a PDS gives which has lost the account: look again. */
CREATE FUNCTION rsvp_sync._identity_hint(of_did text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._identity i SET looked_at = '-infinity'
WHERE i.did = of_did
$$;
COMMENT ON FUNCTION rsvp_sync._identity_hint(text) IS
'Has a DID document be looked at before the account is used again.';

/* Something was written: is it where the account is, or will it have been? */
CREATE FUNCTION rsvp_sync._identity_wrote(of_did text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE rsvp_sync._identity i
	SET verify_at = now() + rsvp_sync._identity_fresh()
	WHERE i.did = of_did AND i.verify_at IS NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._identity_wrote(text) IS
'Has a DID document be looked at once more after a write.';

/* Nothing can be done for the account, unless it has moved: ask now and then. */
CREATE FUNCTION rsvp_sync._identity_parked(of_did text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._identity i
SET verify_at = least(i.verify_at, now() + interval '1 hour')
WHERE i.did = of_did
$$;
COMMENT ON FUNCTION rsvp_sync._identity_parked(text) IS
'Has a DID document be looked at every hour while its account is of no use.';

CREATE FUNCTION rsvp_sync._identities_to_verify() RETURNS SETOF text
LANGUAGE sql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
SELECT i.did FROM rsvp_sync._identity i
WHERE i.verify_at <= now()
ORDER BY i.verify_at LIMIT 100
$$;
COMMENT ON FUNCTION rsvp_sync._identities_to_verify() IS
'DIDs whose document is to be looked at although no key asks for it.';

/*
 * Handles are for people to read.  A document claims one; it is shown if the
 * handle's host names the DID as well.
 */
CREATE FUNCTION rsvp_sync._handles_to_check(OUT did text, OUT handle text)
RETURNS SETOF record
LANGUAGE sql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
SELECT i.did, i.handle FROM rsvp_sync._identity i WHERE i.handle_due LIMIT 20
$$;
COMMENT ON FUNCTION rsvp_sync._handles_to_check() IS
'Handles that DID documents claim and whose hosts are to be asked.';

CREATE FUNCTION rsvp_sync._handle_checked(of_did text, of_handle text,
	ok boolean)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._identity i
SET handle_ok = ok, handle_at = now(), handle_due = false
WHERE i.did = of_did AND i.handle = of_handle
$$;
COMMENT ON FUNCTION rsvp_sync._handle_checked(text, text, boolean) IS
'What the host of a handle says: is the DID the one it names?';

/* When to look again without being asked; NULL: not. */
CREATE FUNCTION rsvp_sync._verify_next(of_did text) RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE
	WHEN EXISTS (SELECT FROM rsvp_sync._history h
		WHERE h.at > now() - rsvp_sync._identity_margin()
			AND h.did = of_did AND h.outcome = 'ok' AND h.action <> 'apply')
		THEN now() + rsvp_sync._identity_fresh()
	WHEN EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = of_did
		AND a.state IN ('needs_login', 'wrong_password', 'deactivated',
			'takendown'))
		THEN now() + interval '1 hour'
	/* Who leaves a server that is no more says so in his document. */
	WHEN EXISTS (SELECT FROM rsvp_sync._identity i
		JOIN rsvp_sync._host h ON h.host = i.pds WHERE i.did = of_did)
		THEN now() + interval '10 minutes' END
$$;
COMMENT ON FUNCTION rsvp_sync._verify_next(text) IS
'When a DID document that was just seen is to be looked at again unasked.';

/*
 * The document could not be had, or names no PDS (gone).  Can the account be
 * used all the same?
 */
CREATE FUNCTION rsvp_sync._identity_failed(of_did text, message text,
	gone boolean)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._identity AS i (did, looked_at, error)
	VALUES (of_did, now(), message)
	ON CONFLICT (did) DO UPDATE SET looked_at = now(), error = excluded.error,
		pds = CASE WHEN NOT gone THEN i.pds END,
		verify_at = CASE WHEN i.verify_at IS NOT NULL
			THEN now() + rsvp_sync._identity_fresh() END;
	RETURN rsvp_sync._pds_of(of_did) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._identity_failed(text, text, boolean) IS
'A DID document could not be had; true: there is a PDS to go on with.';

/* What a DID document says; true: the account is elsewhere now. */
CREATE FUNCTION rsvp_sync._identity_done(of_did text, new_pds text,
	new_handle text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old rsvp_sync._identity;
	a rsvp_sync._account;
	known_pds text;
	since timestamptz;
	moved boolean;
BEGIN
	SELECT * INTO old FROM rsvp_sync._identity i WHERE i.did = of_did;
	SELECT * INTO a FROM rsvp_sync._account f WHERE f.did = of_did;
	/* Never looked at: nothing was written yet. */
	known_pds := CASE WHEN old.did IS NOT NULL
		THEN coalesce(old.pds, a.pds) END;
	since := coalesce(CASE WHEN old.pds IS NOT NULL THEN old.resolved_at END,
		a.connected_at) - rsvp_sync._migration_time();
	moved := a.did IS NOT NULL AND known_pds <> new_pds;
	IF NOT rsvp_sync.is_handle(new_handle) THEN
		new_handle := NULL;
	END IF;
	INSERT INTO rsvp_sync._identity AS i (did, pds, handle, resolved_at,
		looked_at, lost_since, handle_due)
	VALUES (of_did, new_pds, new_handle, now(), now(),
		CASE WHEN moved THEN since END,
		a.did IS NOT NULL AND new_handle IS NOT NULL)
	ON CONFLICT (did) DO UPDATE SET pds = excluded.pds,
		handle = excluded.handle, resolved_at = now(), looked_at = now(),
		error = NULL, verify_at = rsvp_sync._verify_next(of_did),
		lost_since = least(i.lost_since, excluded.lost_since),
		handle_ok = CASE WHEN i.handle = excluded.handle THEN i.handle_ok END,
		handle_due = excluded.handle_due
			AND coalesce(i.handle <> excluded.handle
				OR i.handle_at < now() - interval '1 day', true);
	IF moved THEN
		PERFORM rsvp_sync._account_moved(of_did, since);
	END IF;
	/* What waits for the server it has left, for an event of its own. */
	IF old.pds <> new_pds THEN
		UPDATE rsvp_sync._queue q SET due_at = now()
		WHERE q.waits_for = old.pds AND q.lease IS NULL
			AND q.due_at = 'infinity'
			AND EXISTS (SELECT FROM rsvp_sync._intent i
				WHERE i.source_id = q.source_id AND i.key = q.key
					AND starts_with(i.event_uri, 'at://' || of_did || '/'));
	END IF;
	RETURN coalesce(moved, false);
END
$$;
COMMENT ON FUNCTION rsvp_sync._identity_done(text, text, text) IS
'What a DID document says: PDS and handle; true: the account has moved.';

/*
 * An account is on another PDS.  Tokens do not carry over, a password may.
 * What was written last is in doubt, deletions included: those get their
 * intent back.
 */
CREATE FUNCTION rsvp_sync._account_moved(of_did text, since timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE rsvp_sync._account a SET
		session = CASE WHEN a.auth = 'oauth' THEN a.session END,
		state = CASE WHEN a.credential IS NULL AND a.auth <> 'oauth'
			THEN a.state ELSE 'unverified' END,
		state_since = now(), last_error = NULL
	WHERE a.did = of_did;
	UPDATE rsvp_sync._intent i SET doubt = true
	WHERE i.did = of_did AND i.bond IS NOT NULL AND i.synced_at >= since;
	INSERT INTO rsvp_sync._intent AS i (source_id, key, did, event_uri, bond,
		wrote, rkey, doubt, state, reason_code, synced_at)
	SELECT DISTINCT ON (h.source_id, h.key) h.source_id, h.key, of_did,
		o.event_uri, 'own', true, o.rkey, true, 'waiting', 'queued', now()
	FROM rsvp_sync._history h
	JOIN rsvp_sync._source s ON s.source_id = h.source_id
	JOIN rsvp_sync._observed o ON o.did = of_did
		AND o.rkey = (rsvp_sync.parse_at_uri(h.uri)).rkey AND o.cid IS NULL
	WHERE h.at >= since AND h.did = of_did AND h.action IN ('delete')
		AND h.outcome = 'ok'
	ORDER BY h.source_id, h.key, h.at DESC
	ON CONFLICT (source_id, key) DO UPDATE SET bond = 'own', wrote = true,
		rkey = excluded.rkey, doubt = true, synced_at = now()
	WHERE i.bond IS NULL AND i.did = excluded.did
		AND i.event_uri IS NOT DISTINCT FROM excluded.event_uri;
	PERFORM rsvp_sync._enqueue(i.source_id, array_agg(i.key))
	FROM rsvp_sync._intent i
	WHERE i.did = of_did AND i.doubt AND i.bond IS NOT NULL
	GROUP BY i.source_id;
	/* What waits for the old server need not any more. */
	UPDATE rsvp_sync._queue q SET due_at = now()
	FROM rsvp_sync._intent i
	WHERE i.did = of_did AND q.source_id = i.source_id AND q.key = i.key
		AND q.lease IS NULL AND q.due_at = 'infinity';
	PERFORM rsvp_sync._account_changed(of_did);
END
$$;
COMMENT ON FUNCTION rsvp_sync._account_moved(text, timestamptz) IS
'Has everything written to an account since then compared with its new repository.';

/*
 * The new repository is listed.  What is not there as it was written is
 * planned as if it had not been: the base is what is there.  Unless we never
 * saw that: then somebody else may have written it, and option conflict
 * decides.
 */
CREATE FUNCTION rsvp_sync._rewind(of_did text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	since timestamptz;
BEGIN
	UPDATE rsvp_sync._identity i SET lost_since = NULL
	FROM rsvp_sync._identity old
	WHERE i.did = of_did AND old.did = of_did AND old.lost_since IS NOT NULL
	RETURNING old.lost_since INTO since;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE rsvp_sync._intent i SET doubt = false,
		bond = CASE WHEN o.cid IS NOT NULL THEN i.bond END,
		wrote = i.wrote AND o.cid IS NOT NULL,
		base_cid = CASE WHEN o.cid = i.base_cid OR h.ours THEN o.cid END,
		base_local = CASE WHEN o.cid = i.base_cid THEN i.base_local
			WHEN h.ours THEN o.status END,
		/* That is what was heard, too. */
		heard_cid = CASE WHEN o.cid = i.base_cid OR h.ours THEN o.cid END,
		heard_status = CASE WHEN o.cid = i.base_cid OR h.ours THEN o.status END
	FROM rsvp_sync._intent was
	LEFT JOIN rsvp_sync._observed o
		ON o.did = of_did AND o.rkey = was.rkey AND o.cid IS NOT NULL
	CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM rsvp_sync._history h
		WHERE h.did = of_did AND h.cid = o.cid AND h.action <> 'apply'
			AND h.uri = rsvp_sync._rsvp_uri(of_did, o.rkey))) AS h (ours)
	WHERE was.did = of_did AND was.doubt AND was.bond IS NOT NULL
		AND was.synced_at >= since
		AND coalesce(o.cid <> ALL (was.sent_cids), true)
		AND i.source_id = was.source_id AND i.key = was.key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._rewind(text) IS
'Has what a moved account lost planned again, once its new repository is listed.';
