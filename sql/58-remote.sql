/*
 * What is read from other people's servers because somebody wants to know it:
 * the records of an account, now, by the caller's own backend.
 */

/*
 * Where to ask for an account's records.  fresh: its DID document was looked
 * at a moment ago; else this serves only if the document cannot be had.
 */
CREATE FUNCTION rsvp_sync._whereabouts(of_did text,
	OUT pds text, OUT fresh boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(h.pds, a.pds),
	coalesce(h.looked_at > now() - rsvp_sync._identity_fresh(), false)
FROM (VALUES (of_did)) d (did)
LEFT JOIN rsvp_sync._home h ON h.did = d.did
LEFT JOIN rsvp_sync._account a ON a.did = d.did
$$;
COMMENT ON FUNCTION rsvp_sync._whereabouts(text) IS
'private: the PDS of a DID as far as it is known, and whether that is fresh';

/* createdAt, as the record has it. */
CREATE FUNCTION rsvp_sync._stated_time(record jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN rsvp_sync.is_datetime(record ->> 'createdAt')
		THEN (record ->> 'createdAt')::timestamptz END;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._stated_time(jsonb) IS
'private: createdAt of a record as a time; NULL where it has none';

/* The uri is made of what was asked for, not taken from the answer. */
CREATE FUNCTION rsvp_sync._listed(of_did text, records jsonb)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._rsvp_uri(of_did, r.rkey), e.item ->> 'cid', r.rkey,
	rsvp_sync._subject_uri(e.item -> 'value'),
	coalesce(rsvp_sync._status_word(e.item -> 'value'),
		e.item -> 'value' ->> 'status'),
	rsvp_sync._stated_time(e.item -> 'value')
FROM jsonb_array_elements(records) WITH ORDINALITY AS e (item, n)
CROSS JOIN LATERAL rsvp_sync.parse_at_uri(e.item ->> 'uri') r
ORDER BY e.n
$$;
COMMENT ON FUNCTION rsvp_sync._listed(text, jsonb) IS
'private: records as listRecords gave them, as list_rsvps() shows them';

CREATE FUNCTION rsvp_sync._list_rsvps(caller oid, did text)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_list_rsvps_of';
COMMENT ON FUNCTION rsvp_sync._list_rsvps(oid, text) IS
'private: list_rsvps() behind its entry';

CREATE FUNCTION rsvp_sync.list_rsvps(did text)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_list_rsvps';
COMMENT ON FUNCTION rsvp_sync.list_rsvps(text) IS
'All RSVP records of an account, whoever wrote them, as its own PDS has them now: com.atproto.repo.listRecords, every page, by this session, without credentials. The one call that waits for the network: request_timeout for the whole of it, and a cancelled query ends it. status: going, interested, notgoing, or an unknown token as it is. Errors: invalid_parameter_value, null_value_not_allowed (no DID); undefined_object (no such account); feature_not_supported (another kind of DID); object_not_in_prerequisite_state (deactivated, taken down); sqlclient_unable_to_establish_sqlconnection, connection_failure (no answer); configuration_limit_exceeded (rate limit); insufficient_privilege (address not allowed); protocol_violation, program_limit_exceeded (an answer of no use).';
