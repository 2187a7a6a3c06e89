/*
 * What an operator reads, and the calls that put keys in again: classify(),
 * retry(), discard(), explain_sync(), doctor(), and the views of what runs.
 */

CREATE FUNCTION rsvp_sync.classify(http_status integer, body text,
	headers jsonb)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_classify';
COMMENT ON FUNCTION rsvp_sync.classify(integer, text, jsonb) IS
'What an answer of a PDS or authorization server asks for: ok, absent, retry, limit, refresh, reread, user or permanent. By the name of its error first (body, then WWW-Authenticate), by the status where that is unknown; 0 or NULL: there was no answer. No input is an error.';
