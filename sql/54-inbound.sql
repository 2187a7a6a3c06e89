/*
 * Inbound: what is said on the network goes into observed.  What it means for
 * the rows is decided and done in 55-merge.sql, from what is observed then;
 * docs/inbound.md says what is done with what.
 */

CREATE FUNCTION rsvp_sync._tid_time(tid text) RETURNS timestamptz
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_tid_time';
COMMENT ON FUNCTION rsvp_sync._tid_time(text) IS
'When a TID was made, as its maker''s clock had it; NULL if it is none.';

/* What an application told is no newer than what the network says later. */
CREATE FUNCTION rsvp_sync._rev_till_now(rev text) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN rsvp_sync._tid_time(rev) > clock_timestamp()
		THEN rsvp_sync.tid_now() ELSE rev END;
END
$$;
COMMENT ON FUNCTION rsvp_sync._rev_till_now(text) IS
'A rev, or that of this moment if its time has not come yet.';

/* One record as it is said to be; NULL cid: deleted. */
CREATE TYPE rsvp_sync._arrival AS (
	did text, rkey text, cid text, rev text, event_uri text, event_cid text,
	status text, record jsonb, at timestamptz
);

/*
 * Of several events about one record the last.  A record whose cid nobody told
 * gets one that is none, so that it counts as there.  A rev whose time is far
 * in the future would be newer than all that is said of its record from now
 * on: then the event has none.
 */
CREATE FUNCTION rsvp_sync._arrivals(dids text[], revs text[], ops text[],
	rkeys text[], cids text[], records text[], times_us bigint[])
RETURNS rsvp_sync._arrival[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	RETURN (
SELECT array_agg(ROW(e.did, e.rkey,
	CASE WHEN e.op <> 'delete' THEN coalesce(e.cid,
		'?' || md5(concat_ws('/', e.rev, e.time_us, e.record))) END,
	e.rev,
	CASE WHEN length(r.uri) <= 2000 THEN r.uri END,
	CASE WHEN e.op <> 'delete' AND jsonb_typeof(r.record -> 'subject') = 'object'
		THEN r.record -> 'subject' ->> 'cid' END,
	/* As _status_word() has it. */
	CASE WHEN e.op <> 'delete' THEN substring(r.record ->> 'status',
		'^(?:[a-zA-Z0-9.-]+#)?(going|interested|notgoing)$') END,
	CASE WHEN e.op <> 'delete' THEN r.record END, least(coalesce(rsvp_sync._tid_time(e.rev),
		timestamptz 'epoch' + e.time_us * interval '1 microsecond', now()),
		now()))::rsvp_sync._arrival ORDER BY e.did, e.rkey)
FROM (
	SELECT DISTINCT ON (u.did, u.rkey) u.did, u.op, u.rkey, u.cid, u.record,
		u.time_us, max(u.n) FILTER (WHERE u.op <> 'delete')
			OVER (PARTITION BY u.did, u.rkey) AS was, CASE WHEN rsvp_sync._tid_time(u.rev)
			> now() + interval '1 day' THEN NULL ELSE u.rev END AS rev
	FROM unnest(dids, revs, ops, rkeys, cids, records, times_us)
		WITH ORDINALITY AS u (did, rev, op, rkey, cid, record, time_us, n)
	ORDER BY u.did, u.rkey, u.n DESC) e
/*
 * OFFSET: the record is read once, not for each of its parts.  What a record
 * that came and went in one batch was about, its tombstone says, too: should
 * the first of it be told again, it is older than that.
 */
CROSS JOIN LATERAL (SELECT records[e.was]::jsonb OFFSET 0) AS j (record)
/* As _subject_uri() has it. */
CROSS JOIN LATERAL (SELECT j.record, CASE jsonb_typeof(j.record -> 'subject')
	WHEN 'string' THEN j.record ->> 'subject'
	WHEN 'object' THEN j.record -> 'subject' ->> 'uri' END OFFSET 0)
	AS r (record, uri));
END
$$;
COMMENT ON FUNCTION rsvp_sync._arrivals(text[], text[], text[], text[], text[], text[], bigint[]) IS
'Events of a stream as records: the last one of each, with what it is about and says.';

/* Sources that take answers from the network. */
CREATE FUNCTION rsvp_sync._listeners() RETURNS SETOF rsvp_sync._source
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT s.* FROM rsvp_sync._source s
WHERE s.state <> 'detaching'
	AND (s.kind IN ('plan', 'openmeet') OR s.apply IS NOT NULL)
ORDER BY s.source_id;
END;
COMMENT ON FUNCTION rsvp_sync._listeners() IS
'Attached tables to which an RSVP made elsewhere could be applied.';

/* One whose query does not run knows nothing now; see _ask_strangers(). */
CREATE FUNCTION rsvp_sync._knowing(uris text[], of_sources bigint[])
RETURNS TABLE (source_id bigint, uri text, unsure boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
BEGIN
	IF cardinality(uris) = 0 THEN
		RETURN;
	END IF;
	FOR s IN SELECT * FROM rsvp_sync._listeners() l
		WHERE of_sources IS NULL OR l.source_id = ANY (of_sources)
	LOOP
		BEGIN
			RETURN QUERY SELECT s.source_id, k.uri, k.event_key IS NULL
				FROM rsvp_sync._known_events(s.source_id, uris) k;
		EXCEPTION WHEN OTHERS THEN
			RAISE LOG 'source % cannot be asked for events: %', s.source_id,
				SQLERRM;
			UPDATE rsvp_sync._source w
			SET strangers_at = now() + interval '1 minute'
			WHERE w.source_id = s.source_id AND w.strangers_at IS NULL;
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._knowing(text[], bigint[]) IS
'Which sources (NULL: all) know which of these events. unsure: or do not, as only the application''s own function can tell.';

/*
 * Where only the application's own function knows its events, everybody's
 * records would have to be read from their authors' servers, only to hear that
 * their events are none of ours.  So it is asked before, and what it has done
 * is taken back: its effects wait until the record is verified.  Whatever is
 * no clear no (an error, a source that cannot be asked now) counts as yes.
 */
CREATE FUNCTION rsvp_sync._would_take(of_source bigint,
	arrivals rsvp_sync._arrival[])
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	refused text[];
BEGIN
	BEGIN
		SELECT array_agg(arrivals[r.n].event_uri) INTO refused
		FROM rsvp_sync._apply(of_source,
			ARRAY(SELECT a.did FROM unnest(arrivals) a),
			ARRAY(SELECT a.event_uri FROM unnest(arrivals) a),
			ARRAY(SELECT a.status FROM unnest(arrivals) a),
			ARRAY(SELECT jsonb_build_object('uri',
					rsvp_sync._rsvp_uri(a.did, a.rkey),
					'cid', CASE WHEN a.cid NOT LIKE '?%' THEN a.cid END,
					'rkey', a.rkey, 'status', a.status, 'record', a.record,
					'handle', NULL, 'rev', a.rev, 'source', 'stream')::text
				FROM unnest(arrivals) a)) r
		WHERE r.key IS NULL AND r.error IS NULL;
		RAISE EXCEPTION USING ERRCODE = 'RSV00', MESSAGE = 'taken back';
	EXCEPTION
		WHEN SQLSTATE 'RSV00' THEN NULL;
		WHEN query_canceled OR OTHERS THEN
			IF SQLSTATE = '57014' AND NOT rsvp_sync._in_worker() THEN
				RAISE;
			END IF;
			RAISE LOG 'source % cannot be asked for events: %', of_source,
				SQLERRM;
	END;
	RETURN ARRAY(SELECT DISTINCT a.event_uri FROM unnest(arrivals) a
		WHERE a.event_uri = ANY (refused) IS NOT TRUE);
END
$$;
COMMENT ON FUNCTION rsvp_sync._would_take(bigint, rsvp_sync._arrival[]) IS
'Of the events of these records, those that an application''s own function does not say to be unknown. What it does is taken back.';

/*
 * Into observed, in the order of their keys, so that two who do it at once
 * wait for each other and do not deadlock.  An older version never overwrites
 * a newer one: by rev where both are known, else by time.  What comes back is
 * what this has changed; and what was known, but not to be trusted until now,
 * or not told to everybody.
 */
CREATE FUNCTION rsvp_sync._store_arrivals(arrivals rsvp_sync._arrival[],
	how text, sure boolean, of_sources bigint[])
RETURNS TABLE (did text, rkey text, event_uri text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
RETURN QUERY INSERT INTO rsvp_sync._observed AS o (did, rkey, cid, event_uri, event_cid,
	status, record, rev, changed_at, source, verified, heard_by)
SELECT a.did, a.rkey, a.cid, a.event_uri, a.event_cid, a.status, a.record,
	a.rev, a.at, how, sure, of_sources
FROM unnest(arrivals) a
ON CONFLICT (did, rkey) DO UPDATE SET
	cid = excluded.cid,
	event_uri = coalesce(excluded.event_uri, o.event_uri),
	event_cid = excluded.event_cid, status = excluded.status,
	record = coalesce(excluded.record,
		CASE WHEN o.cid = excluded.cid THEN o.record END),
	rev = greatest(excluded.rev, CASE WHEN excluded.heard_by IS NULL
			AND o.heard_by IS NOT NULL
		THEN rsvp_sync._rev_till_now(o.rev) ELSE o.rev END),
	changed_at = CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			AND o.rev IS NULL AND excluded.rev IS NOT NULL
		THEN greatest(o.changed_at, excluded.changed_at)
		WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			AND coalesce(excluded.rev <= o.rev, true)
		THEN o.changed_at
		/* So that no older record speaks for others instead. */
		WHEN o.heard_by IS NULL AND excluded.heard_by IS NOT NULL
		THEN greatest(o.changed_at, excluded.changed_at)
		ELSE excluded.changed_at END,
	source = excluded.source, seen_at = now(),
	verified = excluded.verified
		OR o.verified AND o.cid IS NOT DISTINCT FROM excluded.cid
			AND (o.heard_by IS NULL OR excluded.heard_by IS NOT NULL),
	heard_by = CASE WHEN o.cid IS DISTINCT FROM excluded.cid
			OR excluded.heard_by IS NULL THEN excluded.heard_by
		WHEN o.heard_by @> excluded.heard_by THEN o.heard_by
		WHEN o.heard_by IS NOT NULL THEN o.heard_by || excluded.heard_by END
WHERE CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
	THEN excluded.verified AND NOT o.verified
		/*
		 * Said again: of several records it may be the newest now.  But that
		 * is not for one tenant's application to say of what all know.
		 */
		/* (Nor when: a record that was listed or read has no rev yet.) */
		OR (excluded.rev > o.rev OR o.rev IS NULL AND excluded.rev IS NOT NULL)
			AND (excluded.heard_by IS NULL OR o.heard_by IS NOT NULL)
		OR o.heard_by IS NOT NULL AND (excluded.heard_by IS NULL
			OR NOT o.heard_by @> excluded.heard_by)
	/* Told without its cid before, or after. */
	WHEN excluded.rev = o.rev THEN o.cid LIKE '?%'
	WHEN excluded.cid LIKE '?%' AND excluded.rev IS NULL
		AND excluded.status IS NOT DISTINCT FROM o.status
		AND excluded.event_uri = o.event_uri THEN false
	WHEN o.cid LIKE '?%' AND o.rev IS NULL
		AND excluded.status IS NOT DISTINCT FROM o.status THEN true
	WHEN excluded.rev IS NOT NULL AND o.rev IS NOT NULL
	THEN excluded.rev > o.rev
	WHEN excluded.rev IS NULL AND how IN ('stream', 'application')
	THEN coalesce(excluded.changed_at >= o.changed_at, true)
	ELSE true END
RETURNING o.did, o.rkey, o.event_uri;
END
$$;
COMMENT ON FUNCTION rsvp_sync._store_arrivals(rsvp_sync._arrival[], text, boolean, bigint[]) IS
'Records that arrived, into observed; those that change what was known. sure: they are to be trusted. of_sources: who is told (NULL: all).';

/*
 * What one tenant's application has told counts in its own tables.  Where
 * rows of others have to do with it, too, it is a reason to read the record.
 */
CREATE FUNCTION rsvp_sync._ask_author(dids text[], rkeys text[], uris text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
BEGIN
	INSERT INTO rsvp_sync._inbound AS b (did, rkey, event_uri, state)
	SELECT o.did, o.rkey, o.event_uri, 'verify'
	FROM unnest(dids, rkeys) c (did, rkey)
	JOIN rsvp_sync._observed o ON o.did = c.did AND o.rkey = c.rkey
	WHERE EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.did = o.did AND i.event_uri = ANY (uris)
			AND i.source_id <> ALL (o.heard_by))
	ON CONFLICT (did, rkey) DO UPDATE SET event_uri = excluded.event_uri,
		state = excluded.state, source_id = NULL, due_at = excluded.due_at;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ask_author(text[], text[], text[]) IS
'Has records verified that an application told of, where rows that it did not tell of them have to do with one of these events.';

/*
 * It may also be that what the network says is older, as an application was
 * told earlier than we; or only seems to be.
 */
CREATE FUNCTION rsvp_sync._ask_contradicted(arrivals rsvp_sync._arrival[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
BEGIN
	INSERT INTO rsvp_sync._inbound AS b (did, rkey, event_uri, state)
	SELECT o.did, o.rkey, a.event_uri, 'verify'
	FROM unnest(arrivals) a
	JOIN rsvp_sync._observed o ON o.did = a.did AND o.rkey = a.rkey
	WHERE o.heard_by IS NOT NULL AND o.cid IS DISTINCT FROM a.cid
	ON CONFLICT (did, rkey) DO UPDATE SET state = excluded.state,
		source_id = NULL, due_at = least(b.due_at, excluded.due_at);
END
$$;
COMMENT ON FUNCTION rsvp_sync._ask_contradicted(rsvp_sync._arrival[]) IS
'Has records verified of which the network said something that was not stored, as an application had told something newer.';

CREATE TYPE rsvp_sync._intake AS (
	changed bigint,					-- records that were new, other or gone
	dids text[],					-- slots to look at
	uris text[],
	known_sources bigint[],			-- which source knows
	known_uris text[]				-- which event
);

/* Of what would be verified, only one of each event is tried. */
CREATE FUNCTION rsvp_sync._ask_before(INOUT intake rsvp_sync._intake,
	arrivals rsvp_sync._arrival[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
	s rsvp_sync._source;
	known text[] := intake.known_uris;
	chosen rsvp_sync._arrival[] := ARRAY(
		SELECT DISTINCT ON (a.event_uri) a FROM unnest(arrivals) a
		WHERE a.event_uri = ANY (known)
			AND a.status IN ('going', 'interested')
		ORDER BY a.event_uri);
	unknown text[];
BEGIN
	IF chosen = '{}' THEN
		RETURN;
	END IF;
	FOR s IN SELECT * FROM rsvp_sync._listeners() l
		WHERE l.apply IS NOT NULL AND l.source_id = ANY (intake.known_sources)
	LOOP
		unknown := ARRAY(SELECT c.event_uri FROM unnest(chosen) c
			EXCEPT SELECT unnest(rsvp_sync._would_take(s.source_id, chosen)));
		SELECT coalesce(array_agg(k.source_id), '{}'),
			coalesce(array_agg(k.uri), '{}')
		INTO intake.known_sources, intake.known_uris
		FROM unnest(intake.known_sources, intake.known_uris)
			k (source_id, uri)
		WHERE k.source_id <> s.source_id OR k.uri <> ALL (unknown);
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ask_before(rsvp_sync._intake, rsvp_sync._arrival[]) IS
'Takes out of what is known what applications'' own functions say to be unknown.';

/*
 * Records about events that somebody here knows, and those of accounts that
 * we have, are stored.  Of all others only that they are there.
 */
CREATE FUNCTION rsvp_sync._take_in(arrivals rsvp_sync._arrival[], how text,
	sure boolean, of_sources bigint[])
RETURNS rsvp_sync._intake
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
/* A plan made while the tables are small would stay. */
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	intake rsvp_sync._intake;
	unsure boolean;
	kept rsvp_sync._arrival[];
	left_over rsvp_sync._arrival[];
	moved_dids text[];
	moved_uris text[];
	changed_rkeys text[];
BEGIN
	IF EXISTS (SELECT FROM rsvp_sync._forgotten) THEN
		arrivals := ARRAY(SELECT a FROM unnest(arrivals) a
			WHERE NOT EXISTS (SELECT FROM rsvp_sync._forgotten f
				WHERE f.digest = sha256(convert_to(a.did, 'UTF8'))));
	END IF;
	SELECT coalesce(array_agg(k.source_id), '{}'),
		coalesce(array_agg(k.uri), '{}'), bool_or(k.unsure)
	INTO intake.known_sources, intake.known_uris, unsure
	FROM rsvp_sync._knowing(ARRAY(SELECT DISTINCT a.event_uri
		FROM unnest(arrivals) a WHERE a.event_uri IS NOT NULL), of_sources) k;
	IF unsure AND NOT sure THEN
		intake := rsvp_sync._ask_before(intake, arrivals);
	END IF;

	/* (a IS NULL would ask of each of its columns.) */
	SELECT array_agg(a.a) FILTER (WHERE k.uri IS NOT NULL),
		array_agg(a.a) FILTER (WHERE k.uri IS NULL)
	INTO kept, left_over
	FROM (SELECT b AS a, b.event_uri FROM unnest(arrivals) b) a
	LEFT JOIN (SELECT DISTINCT u AS uri FROM unnest(intake.known_uris) u) k
		ON k.uri = a.event_uri;
	IF left_over IS NOT NULL THEN
		kept := kept || ARRAY(SELECT a FROM unnest(left_over) a
			WHERE EXISTS (SELECT FROM rsvp_sync._observed o
					WHERE o.did = a.did AND o.rkey = a.rkey)
				OR a.cid IS NOT NULL AND (
					EXISTS (SELECT FROM rsvp_sync._account c
						WHERE c.did = a.did)
					OR EXISTS (SELECT FROM rsvp_sync._intent i
						WHERE i.did = a.did AND i.event_uri = a.event_uri)));
		PERFORM rsvp_sync._note_strangers(left_over);
	END IF;

	/* A record that is about another event now has left its slot. */
	SELECT array_agg(o.did), array_agg(o.event_uri)
	INTO moved_dids, moved_uris
	FROM unnest(kept) a
	CROSS JOIN LATERAL (SELECT o.* FROM rsvp_sync._observed o
		WHERE o.did = a.did AND o.rkey = a.rkey LIMIT 1) o
	WHERE o.event_uri <> a.event_uri;

	SELECT count(*), array_agg(s.did), array_agg(s.rkey),
		array_agg(s.event_uri)
	INTO intake.changed, intake.dids, changed_rkeys, intake.uris
	FROM rsvp_sync._store_arrivals(kept, how, sure, of_sources) s;
	IF intake.changed > 0 AND EXISTS (SELECT FROM rsvp_sync._inbound) THEN
		/* What was to be asked or tried was about another version. */
		DELETE FROM rsvp_sync._inbound b
		USING unnest(intake.dids, changed_rkeys) c (did, rkey)
		WHERE b.did = c.did AND b.rkey = c.rkey;
	END IF;
	IF of_sources IS NULL THEN
		PERFORM rsvp_sync._ask_contradicted(kept);
	ELSIF intake.changed > 0 THEN
		PERFORM rsvp_sync._ask_author(intake.dids, changed_rkeys,
			intake.uris || moved_uris);
	END IF;
	intake.dids := intake.dids || moved_dids;
	intake.uris := intake.uris || moved_uris;
	RETURN intake;
END
$$;
COMMENT ON FUNCTION rsvp_sync._take_in(rsvp_sync._arrival[], text, boolean, bigint[]) IS
'Stores records that arrived, and says which slots are to be looked at.';

/*
 * Stubs.  Of the account's own records nothing but this says that their event
 * is not known yet.
 */
CREATE FUNCTION rsvp_sync._note_strangers(arrivals rsvp_sync._arrival[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
	n bigint;
BEGIN
	DELETE FROM rsvp_sync._stranger t USING unnest(arrivals) a
	WHERE a.cid IS NULL AND t.did = a.did AND t.rkey = a.rkey;
	IF NOT EXISTS (SELECT FROM rsvp_sync._listeners()) THEN
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._stranger AS t (did, rkey, event_uri, rev)
	SELECT a.did, a.rkey, a.event_uri, a.rev
	FROM unnest(arrivals) a
	WHERE a.cid IS NOT NULL AND rsvp_sync._is_record_of_did(a.event_uri)
	ON CONFLICT (did, rkey) DO UPDATE SET event_uri = excluded.event_uri,
		rev = greatest(t.rev, excluded.rev), seen_at = now();
	GET DIAGNOSTICS n = ROW_COUNT;
	/* Now and then, as often as there are many. */
	IF random() * 5000 < n THEN
		PERFORM rsvp_sync._forget_strangers();
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._note_strangers(rsvp_sync._arrival[]) IS
'Remembers that there are records about events nobody here knows, and forgets those that are gone.';

CREATE FUNCTION rsvp_sync._forget_strangers() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DELETE FROM rsvp_sync._stranger t
WHERE t.ctid = ANY (ARRAY(
	SELECT o.ctid FROM rsvp_sync._stranger o
	ORDER BY o.seen_at DESC OFFSET 100000))
	OR t.seen_at < now() - interval '30 days'
$$;
COMMENT ON FUNCTION rsvp_sync._forget_strangers() IS
'Keeps the hundred thousand newest stubs of the last thirty days.';

CREATE FUNCTION rsvp_sync._records_in_use(dids text[], rkeys text[])
RETURNS integer[]
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_records_in_use';
COMMENT ON FUNCTION rsvp_sync._records_in_use(text[], text[]) IS
'The numbers of those of these records of which a transaction under way has stored something.';

/*
 * The stream waits for nobody.  What an application is telling of a record, in
 * a transaction of its own that is still open, may be as new as what has come,
 * or newer: the account is read, by and by, and that settles it.
 */
CREATE FUNCTION rsvp_sync._leave_out_used(arrivals rsvp_sync._arrival[])
RETURNS rsvp_sync._arrival[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	dids text[] := ARRAY(SELECT a.did FROM unnest(arrivals) a);
	rkeys text[] := ARRAY(SELECT a.rkey FROM unnest(arrivals) a);
	used integer[];
BEGIN
	/* The worker's transactions, which record what was written, are short. */
	FOR i IN 1 .. 10 LOOP
		used := rsvp_sync._records_in_use(dids, rkeys);
		IF used = '{}' THEN
			RETURN arrivals;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	PERFORM rsvp_sync._read_remote(ARRAY(SELECT arrivals[n].did
		FROM unnest(used) n), 'in_use', later => interval '5 seconds');
	RETURN ARRAY(SELECT a.a FROM (SELECT a, row_number() OVER () AS n
			FROM unnest(arrivals) a) a
		WHERE a.n <> ALL (used));
END
$$;
COMMENT ON FUNCTION rsvp_sync._leave_out_used(rsvp_sync._arrival[]) IS
'Leaves out records that somebody else is telling of at this moment; their accounts are read soon.';

CREATE FUNCTION rsvp_sync._ingest(origin text, dids text[], revs text[],
	ops text[], rkeys text[], cids text[], records text[],
	times_us bigint[], trusted boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	arrivals rsvp_sync._arrival[] := rsvp_sync._arrivals(dids, revs, ops,
		rkeys, cids, records, times_us);
	intake rsvp_sync._intake;
BEGIN
	IF origin = 'stream' THEN
		arrivals := rsvp_sync._leave_out_used(arrivals);
	END IF;
	intake := rsvp_sync._take_in(arrivals, origin, trusted
		OR NOT current_setting('rsvp_sync.verify_inbound')::boolean, NULL);
	PERFORM rsvp_sync._merge_slots(intake.dids, intake.uris, NULL,
		intake.known_sources, intake.known_uris);
	RETURN intake.changed;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ingest(text, text[], text[], text[], text[], text[], text[], bigint[], boolean) IS
'RSVP records as they were created, updated or deleted, in the order of each account: into observed, and where they change anything, on to the rows. origin: stream, application, list, read. How many of them changed something.';

/*
 * What the author's own PDS says of a record that was to be verified.  Merged
 * even if it is no news: somebody else may have told us meanwhile.
 */
CREATE FUNCTION rsvp_sync._inbound_settle(of_did text, of_rkey text,
	new_cid text, new_record jsonb, new_rev text, absent boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	intake rsvp_sync._intake;
BEGIN
	DELETE FROM rsvp_sync._inbound b
	WHERE b.did = of_did AND b.rkey = of_rkey;
	intake := rsvp_sync._take_in(rsvp_sync._arrivals(ARRAY[of_did],
		ARRAY[new_rev],
		ARRAY[CASE WHEN absent THEN 'delete' ELSE 'update' END],
		ARRAY[of_rkey],
		ARRAY[coalesce(new_cid, rsvp_sync.record_cid(new_record))],
		ARRAY[new_record::text],
		ARRAY[(extract(epoch FROM rsvp_sync._record_time(new_record))
			* 1000000)::bigint]), 'read', true, NULL);
	PERFORM rsvp_sync._merge_slots(intake.dids || of_did,
		intake.uris || (SELECT o.event_uri FROM rsvp_sync._observed o
			WHERE o.did = of_did AND o.rkey = of_rkey), NULL, NULL, NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._inbound_settle(text, text, text, jsonb, text, boolean) IS
'What the author''s own PDS says of a record that was to be verified (absent: that it is not there); applied at once.';
