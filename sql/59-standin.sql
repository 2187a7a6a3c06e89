/* Stand-in until accounts can be listed anew. */
CREATE TABLE rsvp_sync._reading (
	did text PRIMARY KEY,
	due_at timestamptz NOT NULL DEFAULT now(),
	why text NOT NULL,
	attempts integer NOT NULL DEFAULT 0,
	error text,
	rev text
);

CREATE FUNCTION rsvp_sync._read_remote(dids text[], why text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._reading AS r (did, why)
SELECT DISTINCT d, _read_remote.why FROM unnest(dids) d
ON CONFLICT (did) DO UPDATE SET due_at = now(), why = excluded.why
$$;
COMMENT ON FUNCTION rsvp_sync._read_remote(text[], text) IS
'private: accounts whose records are to be listed anew';
