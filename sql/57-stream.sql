/*
 * The stream: where it was left, what is known of accounts, and what is done
 * when something may have been missed.
 *
 * The stream's worker (src/stream.c) is the only one who writes _stream.
 */

/* A Jetstream server, as jetstream_url names it. */
CREATE TABLE rsvp_sync._stream (
	host text PRIMARY KEY,
	time_us bigint,					-- of the newest event taken: a cursor at any server
	seq bigint,						-- its number, where the server counts: a cursor there
	caught_up_at timestamptz,		-- when there was nothing left to be read
	connected_at timestamptz,		-- NULL: it is not
	error text,						-- why it is not, or was not last
	error_at timestamptz,
	gap_at timestamptz,				-- when it was seen last that events may be missing
	gap_why text,
	gap_from timestamptz,
	gap_until timestamptz,
	gap_place bigint				-- time_us of the newest event that there was then
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
	autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

/* Accounts that their server says are not active, or are so again. */
CREATE TABLE rsvp_sync._repo (
	did text PRIMARY KEY,
	active boolean NOT NULL,
	status text,					-- deactivated, takendown, suspended, deleted ...
	time_us bigint NOT NULL,		-- of the event that said so
	seen_at timestamptz NOT NULL DEFAULT now()
);

/* Microseconds since 1970, as Jetstream counts. */
CREATE FUNCTION rsvp_sync._us_of(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN (extract(epoch FROM at) * 1000000)::bigint;
COMMENT ON FUNCTION rsvp_sync._us_of(timestamptz) IS
'private: a time as microseconds since 1970';

CREATE FUNCTION rsvp_sync._time_of_us(us bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN timestamptz 'epoch' + us / 1000000 * interval '1 second'
	+ us % 1000000 * interval '1 microsecond';
COMMENT ON FUNCTION rsvp_sync._time_of_us(bigint) IS
'private: microseconds since 1970 as a time';

/* How long Jetstream servers remember. */
CREATE FUNCTION rsvp_sync._stream_memory() RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN interval '36 hours';
COMMENT ON FUNCTION rsvp_sync._stream_memory() IS
'private: for how long Jetstream servers can repeat what they said';

/* Whoever has a record here, or might write one through us. */
CREATE FUNCTION rsvp_sync._known_dids() RETURNS SETOF text
LANGUAGE sql STABLE ROWS 100000
SET search_path = pg_catalog, pg_temp
AS $$
SELECT a.did FROM rsvp_sync._account a
UNION
SELECT o.did FROM rsvp_sync._observed o
UNION
SELECT i.did FROM rsvp_sync._intent i WHERE i.did IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._known_dids() IS
'private: all accounts that we know';

/*
 * Of these DIDs, those that we know.  The whole network's accounts come along
 * the stream, so each is looked for by index, and most are not found.
 */
CREATE FUNCTION rsvp_sync._known_among(dids text[]) RETURNS SETOF text
LANGUAGE sql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
SELECT a.did FROM rsvp_sync._account a WHERE a.did = ANY (dids)
UNION
SELECT o.did FROM rsvp_sync._observed o WHERE o.did = ANY (dids)
UNION
SELECT i.did FROM rsvp_sync._intent i WHERE i.did = ANY (dids)
UNION
SELECT r.did FROM rsvp_sync._repo r WHERE r.did = ANY (dids)
$$;
COMMENT ON FUNCTION rsvp_sync._known_among(text[]) IS
'private: which of these accounts we know';

/*
 * Accounts
 */

/*
 * An account is gone for good: what it said is, too.  Its records become
 * deletions, so that old events do not bring them back, and nothing of what
 * they said is kept.
 */
CREATE FUNCTION rsvp_sync._purge_account(of_did text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._ingest('stream', array_agg(o.did),
		array_agg(rsvp_sync.tid_now()), array_agg('delete'::text),
		array_agg(o.rkey), array_agg(NULL::text), array_agg(NULL::text),
		array_agg(rsvp_sync._us_of(clock_timestamp())), true)
	FROM rsvp_sync._observed o
	WHERE o.did = of_did AND o.cid IS NOT NULL
	HAVING count(*) > 0;
	UPDATE rsvp_sync._observed o SET record = NULL, event_cid = NULL
	WHERE o.did = of_did AND o.record IS NOT NULL AND o.cid IS NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._purge_account(text) IS
'private: an account is gone for good: its answers are withdrawn, its records forgotten';

/*
 * The newest word on each account counts, a word that is older than what is
 * known does not.  An account that was never anything but active has no row.
 * What an untrusted stream says of a deletion is believed once the account's
 * own server says so.
 */
CREATE FUNCTION rsvp_sync._ingest_accounts(dids text[], actives boolean[],
	statuses text[], times_us bigint[])
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known text[] := ARRAY(SELECT k FROM rsvp_sync._known_among(dids) k);
	deleted text[];
	back text[];
	changed bigint;
BEGIN
	IF known = '{}' THEN
		RETURN 0;
	END IF;
	WITH said AS (
		/* From the future it would be newer than whatever is said later. */
		SELECT DISTINCT ON (e.did) e.did, e.active, e.status,
			least(e.us, rsvp_sync._us_of(clock_timestamp())) AS us
		FROM ROWS FROM (unnest(dids), unnest(actives), unnest(statuses),
			unnest(times_us)) WITH ORDINALITY
			AS e (did, active, status, us, n)
		WHERE e.did = ANY (known)
		ORDER BY e.did, e.us DESC, e.n DESC
	), noted AS (
		INSERT INTO rsvp_sync._repo AS r (did, active, status, time_us)
		SELECT s.did, s.active, s.status, s.us FROM said s
		WHERE NOT s.active
			OR EXISTS (SELECT FROM rsvp_sync._repo o WHERE o.did = s.did)
		ON CONFLICT (did) DO UPDATE SET active = excluded.active,
			status = excluded.status, time_us = excluded.time_us,
			seen_at = now()
		WHERE r.time_us < excluded.time_us
		RETURNING r.did, r.active, r.status
	)
	SELECT count(*), array_agg(n.did) FILTER (WHERE n.status = 'deleted'
			AND NOT n.active),
		array_agg(n.did) FILTER (WHERE n.active)
	INTO changed, deleted, back FROM noted n;
	IF deleted IS NOT NULL AND current_setting('rsvp_sync.verify_inbound')::boolean THEN
		PERFORM rsvp_sync._read_remote(deleted, 'deleted');
	ELSIF deleted IS NOT NULL THEN
		PERFORM rsvp_sync._purge_account(d) FROM unnest(deleted) d;
	END IF;
	IF back IS NOT NULL THEN
		PERFORM rsvp_sync._read_remote(back, 'reactivated');
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT 0, a.did, 'a' FROM rsvp_sync._account a
		WHERE a.did = ANY (back) AND a.state IN ('deactivated', 'takendown');
	END IF;
	RETURN changed;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ingest_accounts(text[], boolean[], text[], bigint[]) IS
'private: what the stream says of accounts; those we do not know are none of our business. How many have changed.';

/*
 * A handle, or the document that says where the account is, has changed: it
 * is looked at again, but not more than once a minute whoever asks for it.
 */
CREATE FUNCTION rsvp_sync._ingest_identities(dids text[]) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
WITH noted AS (
	UPDATE rsvp_sync._identity i SET handle_at = NULL,
		verify_at = least(i.verify_at,
			greatest(now(), i.looked_at + interval '1 minute'))
	WHERE i.did = ANY (dids)
	RETURNING 1
)
SELECT count(*) FROM noted
$$;
COMMENT ON FUNCTION rsvp_sync._ingest_identities(text[]) IS
'private: DID documents or handles that the stream says have changed are looked at again. How many.';

/*
 * The place in the stream
 */

/*
 * Where to go on: the newest event of any server.  last_us is NULL where there
 * was none yet.  Nobody remembers what is missing after too long an absence.
 * known_us is when a gap behind that very event was seen last: all accounts
 * are read since, and need not be again for what was missing until then.
 */
CREATE FUNCTION rsvp_sync._stream_place(of_host text, OUT last_us bigint,
	OUT same_host boolean, OUT too_old boolean, OUT known_us bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT s.time_us, s.host = of_host,
	greatest(rsvp_sync._time_of_us(s.time_us), s.seen, g.known)
		< now() - rsvp_sync._stream_memory(), rsvp_sync._us_of(g.known)
FROM (SELECT t.time_us, t.host,
		max(t.caught_up_at) OVER () AS seen
	FROM rsvp_sync._stream t
	ORDER BY t.time_us DESC NULLS LAST, t.host <> of_host LIMIT 1) s
CROSS JOIN LATERAL (SELECT max(t.gap_at) AS known FROM rsvp_sync._stream t
	WHERE t.gap_place = s.time_us) g
$$;
COMMENT ON FUNCTION rsvp_sync._stream_place(text) IS
'private: the newest event taken, whether this server said it, whether that is longer ago than servers remember, and since when a gap behind it is known';

/* How far it has come, in the transaction that took the events. */
CREATE FUNCTION rsvp_sync._stream_advance(of_host text, new_us bigint,
	new_seq bigint, caught_up boolean)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._stream AS s (host, time_us, seq, caught_up_at,
	connected_at)
VALUES (of_host, new_us, new_seq, CASE WHEN caught_up THEN now() END, now())
ON CONFLICT (host) DO UPDATE SET
	time_us = greatest(s.time_us, excluded.time_us),
	seq = coalesce(excluded.seq, s.seq),
	caught_up_at = coalesce(excluded.caught_up_at, s.caught_up_at)
$$;
COMMENT ON FUNCTION rsvp_sync._stream_advance(text, bigint, bigint, boolean) IS
'private: how far a server''s stream has been taken, and whether to its end';

/* What was received, by kind: an array of objects of kind and n. */
CREATE FUNCTION rsvp_sync._stream_count(counted jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._tally (entries)
	SELECT jsonb_agg(jsonb_build_object('name', 'rsvp_sync_stream_events_total',
		'value', c.n, 'labels', jsonb_build_object('kind', c.kind)))
	FROM jsonb_to_recordset(counted) AS c (kind text, n bigint)
	WHERE c.n > 0
	HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._stream_count(jsonb) IS
'private: counts messages of the stream, in the transaction that takes them';

CREATE FUNCTION rsvp_sync._stream_state(of_host text, connected boolean,
	message text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._stream AS s (host, connected_at, error, error_at)
VALUES (of_host, CASE WHEN connected THEN now() END, message,
	CASE WHEN message IS NOT NULL THEN now() END)
ON CONFLICT (host) DO UPDATE SET connected_at = excluded.connected_at,
	error = coalesce(excluded.error, s.error),
	error_at = coalesce(excluded.error_at, s.error_at)
$$;
COMMENT ON FUNCTION rsvp_sync._stream_state(text, boolean, text) IS
'private: a server has been connected to, or is not any more, and why';

/* No server is connected to: a worker begins, or ends in good order. */
CREATE FUNCTION rsvp_sync._stream_begin() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._stream s SET connected_at = NULL
WHERE s.connected_at IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._stream_begin() IS
'private: no server''s stream is connected to';

/*
 * Something may have been missed: what everybody we know has said is read from
 * where it was said.
 */
CREATE FUNCTION rsvp_sync._stream_gap(of_host text, from_us bigint,
	until_us bigint, why text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known text[] := ARRAY(SELECT k FROM rsvp_sync._known_dids() k);
BEGIN
	INSERT INTO rsvp_sync._stream AS s (host, gap_at, gap_why, gap_from,
		gap_until, gap_place)
	VALUES (of_host, now(), why, rsvp_sync._time_of_us(from_us),
		coalesce(rsvp_sync._time_of_us(until_us), now()),
		(SELECT max(t.time_us) FROM rsvp_sync._stream t))
	ON CONFLICT (host) DO UPDATE SET gap_at = excluded.gap_at,
		gap_why = excluded.gap_why, gap_from = excluded.gap_from,
		gap_until = excluded.gap_until, gap_place = excluded.gap_place;
	PERFORM rsvp_sync._read_remote(known, 'gap');
	RETURN cardinality(known);
END
$$;
COMMENT ON FUNCTION rsvp_sync._stream_gap(text, bigint, bigint, text) IS
'private: events may be missing between two times (microseconds; NULL: unknown): all known accounts are read anew. How many.';

/*
 * An event that cannot be taken, whatever the reason: it stands aside, and
 * the stream goes on.  Where the reason is not the event (somebody holds a
 * lock for a long time), its author's PDS is asked for the record by and by.
 */
CREATE FUNCTION rsvp_sync._stream_aside(of_did text, of_rkey text,
	record text, message text, passing boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._inbound AS b (did, rkey, event_uri, state,
		last_error, attempts, due_at)
	SELECT of_did, of_rkey, rsvp_sync._subject_uri(record::jsonb),
		CASE WHEN passing THEN 'verify' ELSE 'failed' END, message, 1,
		now() + CASE WHEN passing THEN interval '10 seconds'
			ELSE interval '0' END
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._forgotten f
		WHERE f.digest = sha256(convert_to(of_did, 'UTF8')))
	ON CONFLICT (did, rkey) DO UPDATE SET state = excluded.state,
		event_uri = coalesce(excluded.event_uri, b.event_uri),
		/* Maybe it was told to one of them only before. */
		source_id = NULL, due_at = excluded.due_at,
		last_error = excluded.last_error, attempts = b.attempts + 1,
		seen_at = now();
	PERFORM rsvp_sync._count(jsonb_build_array(jsonb_build_object(
		'name', 'rsvp_sync_errors_total', 'value', 1,
		'direction', 'inbound', 'error_type', 'stream_event')));
END
$$;
COMMENT ON FUNCTION rsvp_sync._stream_aside(text, text, text, text, boolean) IS
'private: an event of the stream that cannot be taken; passing: for a reason that is not its own';
