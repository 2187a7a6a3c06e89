/*
 * Inbound: what is said on the network, into observed and on to the rows.
 * docs/inbound.md says what is done with what.
 */

CREATE FUNCTION rsvp_sync._merge(present boolean, withdrawing boolean,
	local text, base_local text, heard boolean, heard_cid text,
	heard_status text, remote_cid text, remote_status text,
	remote_sent boolean, local_newer boolean, conflict text,
	verified boolean)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_merge';
COMMENT ON FUNCTION rsvp_sync._merge(boolean, boolean, text, text, boolean, text, text, text, text, boolean, boolean, text, boolean) IS
'What a statement on the network means for an attendance row: none, echo (our own write), keep (a word we do not know), agree, local (the row speaks), verify (ask first), apply or cancel. Pure; src/merge.c.';

CREATE FUNCTION rsvp_sync._tid_time(tid text) RETURNS timestamptz
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_tid_time';
COMMENT ON FUNCTION rsvp_sync._tid_time(text) IS
'When a TID was made, as its maker''s clock had it; NULL if it is none.';

CREATE FUNCTION rsvp_sync._ingest(origin text, dids text[], revs text[],
	ops text[], rkeys text[], cids text[], records text[],
	times_us bigint[], trusted boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ingest(text, text[], text[], text[], text[], text[], text[], bigint[], boolean) IS
'RSVP records as they were created, updated or deleted, in the order of each account: into observed, and where they change anything, on to the rows. origin: stream, application, list, read. How many of them changed something.';

CREATE FUNCTION rsvp_sync._inbound_settle(of_did text, of_rkey text,
	new_cid text, new_record jsonb, new_rev text, absent boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM rsvp_sync._inbound b
	WHERE b.did = of_did AND b.rkey = of_rkey;
END
$$;
COMMENT ON FUNCTION rsvp_sync._inbound_settle(text, text, text, jsonb, text, boolean) IS
'What the author''s own PDS says of a record that was to be verified (absent: that it is not there); applied at once.';
