/*
 * The identifiers of the AT Protocol, and the cid of a record.
 *
 * All of it is pure but tid_now(), and open to everybody.  The functions are
 * in C: they have no search_path to pin, and may stand in CHECK constraints
 * and generated columns.
 */

CREATE FUNCTION rsvp_sync.is_at_uri(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_at_uri';

COMMENT ON FUNCTION rsvp_sync.is_at_uri(text) IS
'Is value an at-uri: at://, a DID or handle, optionally an NSID, a record key, and a fragment beginning with #/? No query, no trailing slash, at most 8192 characters. Never an error; NULL for NULL. Source: AT URI Scheme, "Restricted AT URI Syntax".';

CREATE FUNCTION rsvp_sync.parse_at_uri(
	uri text,
	OUT authority text,
	OUT collection text,
	OUT rkey text,
	OUT fragment text)
RETURNS record
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_parse_at_uri';

COMMENT ON FUNCTION rsvp_sync.parse_at_uri(text) IS
'The parts of an at-uri: authority (a DID or handle), collection, rkey, and fragment (without the #). A part that is not there is NULL; for a text that is no at-uri all are. Never an error. Source: AT URI Scheme, "Restricted AT URI Syntax".';

CREATE FUNCTION rsvp_sync.is_did(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_did';

COMMENT ON FUNCTION rsvp_sync.is_did(text) IS
'Is value a DID, of any method, at most 2048 characters, every percent sign followed by two hex digits? Never an error; NULL for NULL. Source: DID, "DID Identifier Syntax".';

CREATE FUNCTION rsvp_sync.is_handle(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_handle';

COMMENT ON FUNCTION rsvp_sync.is_handle(text) IS
'Is value a handle, that is a hostname of two labels or more? Case does not matter; reserved top-level domains pass, as they do in the specification. Never an error; NULL for NULL. Source: Handle, "Handle Identifier Syntax".';

CREATE FUNCTION rsvp_sync.is_nsid(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_nsid';

COMMENT ON FUNCTION rsvp_sync.is_nsid(text) IS
'Is value an NSID: a hostname turned around, and a name of letters and digits? Never an error; NULL for NULL. Source: NSID, "NSID Syntax".';

CREATE FUNCTION rsvp_sync.is_record_key(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_record_key';

COMMENT ON FUNCTION rsvp_sync.is_record_key(text) IS
'Is value a record key: 1 to 512 letters, digits and .-_:~, but not . or .. alone? Never an error; NULL for NULL. Source: Record Key, "Record Key Syntax".';

CREATE FUNCTION rsvp_sync.is_tid(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_tid';

COMMENT ON FUNCTION rsvp_sync.is_tid(text) IS
'Is value a timestamp identifier: 13 digits of 234567abcdefghijklmnopqrstuvwxyz, the first no later than j? Never an error; NULL for NULL. Source: TID, "TID Syntax".';

CREATE FUNCTION rsvp_sync.is_datetime(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_datetime';

COMMENT ON FUNCTION rsvp_sync.is_datetime(text) IS
'Is value a datetime: RFC 3339, ISO 8601 and HTML at once, with seconds and a time zone, a day that exists, and not before the year zero? Second 60 and -00:00 are not. Never an error; NULL for NULL. Source: Lexicon, "datetime".';

CREATE FUNCTION rsvp_sync.is_cid(value text)
RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_is_cid';

COMMENT ON FUNCTION rsvp_sync.is_cid(text) IS
'Is value a cid? Base32 (b...) is decoded and must be a whole version 1 CID; of other multibase prefixes the alphabet is checked; version 0 (Qm...) is none. 8 to 256 characters. Never an error; NULL for NULL. Source: Data Model, "Link and CID Formats".';

CREATE FUNCTION rsvp_sync.tid_now()
RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_tid_now';

COMMENT ON FUNCTION rsvp_sync.tid_now() IS
'A new timestamp identifier, greater (in the "C" collation) than every one this server gave out before, in whichever backend, also when its clock is set back while it runs. No errors, no locks. Source: TID, "TID Structure".';

CREATE FUNCTION rsvp_sync.record_cid(record jsonb)
RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_record_cid';

COMMENT ON FUNCTION rsvp_sync.record_cid(jsonb) IS
'The cid a server of the AT Protocol gives this record: DRISL-CBOR, SHA-256, CIDv1 in base32. {"$link": cid} and {"$bytes": base64} are links and bytes; 1.0 is the integer 1. Errors: 22023 for what has no encoding (no object, a fraction, a malformed $link, $bytes, $type or blob), 22003 for an integer beyond 53 bits, 54001 for nesting too deep. Source: Data Model.';
