/*
 * Answers of the network into observed, intent, account and the caches.
 * Called by the worker, one call an answer, several answers a transaction.
 */

/* One record as it is out there; NULL cid: there is none. */
CREATE FUNCTION rsvp_sync._observe(of_did text, of_rkey text, new_cid text,
	new_record jsonb, new_rev text, how text, at timestamptz,
	asked timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._observed AS o (did, rkey, cid, event_uri, event_cid,
		status, record, rev, changed_at, source)
	SELECT of_did, of_rkey, new_cid, rsvp_sync._subject_uri(new_record),
		CASE WHEN jsonb_typeof(new_record -> 'subject') = 'object'
			THEN new_record -> 'subject' ->> 'cid' END,
		rsvp_sync._status_word(new_record), new_record, new_rev, at, how
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._forgotten f
		WHERE f.digest = sha256(convert_to(of_did, 'UTF8')))
	ON CONFLICT (did, rkey) DO UPDATE SET
		cid = excluded.cid,
		event_uri = coalesce(excluded.event_uri, o.event_uri),
		event_cid = excluded.event_cid, status = excluded.status,
		record = excluded.record, rev = coalesce(excluded.rev,
			CASE WHEN o.heard_by IS NULL THEN o.rev
			ELSE rsvp_sync._rev_till_now(o.rev) END),
		changed_at = CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			THEN o.changed_at ELSE excluded.changed_at END,
		source = excluded.source, seen_at = now(), verified = true,
		/* Whoever reads or lists has it merged. */
		heard_by = CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			AND how = 'write' THEN o.heard_by END
	/* Something newer may have come by another way meanwhile. */
	WHERE (excluded.rev IS NULL OR o.rev IS NULL OR excluded.rev >= o.rev)
		AND coalesce(o.seen_at <= asked OR o.source IN ('write', 'list'), true);
END
$$;
COMMENT ON FUNCTION rsvp_sync._observe(text, text, text, jsonb, text, text, timestamptz, timestamptz) IS
'Records what is known of one RSVP record; NULL cid: known to be absent. asked: since when it was asked for. Nothing of who asked to be forgotten, nor what is older than what is known.';

/* What was learnt about these slots of an account concerns rows, too. */
CREATE FUNCTION rsvp_sync._merge_learnt(of_did text, uris text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF uris <> '{}' AND EXISTS (SELECT FROM rsvp_sync._listeners()) THEN
		PERFORM rsvp_sync._merge_slots(array_fill(of_did,
			ARRAY[cardinality(uris)]), uris, NULL, NULL, NULL);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._merge_learnt(text, text[]) IS
'Merges slots of an account that an answer of its PDS was about.';

/*
 * What this source's keys have written is news for the other tables in which
 * the same people have rows for the same events.  They are told in a step of
 * its own, as of an apply that could not be done at once.
 */
CREATE FUNCTION rsvp_sync._tell_others(of_source bigint, dids text[],
	rkeys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM rsvp_sync._listeners() l
		WHERE l.source_id <> of_source) THEN
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state)
	SELECT o.did, o.rkey, o.event_uri, 'apply'
	FROM (SELECT DISTINCT u.did COLLATE "C" AS did, u.rkey COLLATE "C" AS rkey
		FROM unnest(dids, rkeys) u (did, rkey) ORDER BY 1, 2) u
	CROSS JOIN LATERAL (SELECT n.did, n.rkey, n.event_uri
		FROM rsvp_sync._observed n
		WHERE n.did = u.did AND n.rkey = u.rkey LIMIT 1) o
	WHERE EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.did = o.did AND i.event_uri = o.event_uri
			AND i.source_id <> of_source)
	ON CONFLICT (did, rkey) DO UPDATE SET state = 'apply', attempts = 0,
		due_at = now(), source_id = NULL
	WHERE rsvp_sync._inbound.state IN ('apply', 'failed');
END
$$;
COMMENT ON FUNCTION rsvp_sync._tell_others(bigint, text[], text[]) IS
'Has records that a source''s keys have written or removed merged into other tables that have rows in the same slots.';

/*
 * When a record was last changed, as far as its content says: createdAt, but
 * never in the future.
 */
CREATE FUNCTION rsvp_sync._record_time(record jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF rsvp_sync.is_datetime(record ->> 'createdAt') THEN
		RETURN least((record ->> 'createdAt')::timestamptz, now());
	END IF;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._record_time(jsonb) IS
'createdAt of a record as a time, not later than now; NULL where it has none.';

/* A key whose call is over leaves the queue, unless it was put in again. */
CREATE FUNCTION rsvp_sync._unqueue(of_source bigint, of_key text,
	of_generation bigint, again boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT again THEN
		DELETE FROM rsvp_sync._queue q
		WHERE q.source_id = of_source AND q.key = of_key
			AND q.generation = of_generation;
		IF FOUND THEN
			RETURN;
		END IF;
	END IF;
	UPDATE rsvp_sync._queue q SET lease = NULL
	WHERE q.source_id = of_source AND q.key = of_key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._unqueue(bigint, text, bigint, boolean) IS
'Takes a key out of the queue, or gives its lease back.';

/*
 * A call that was under way when its account moved: what it wrote is not in
 * the account's repository, unless that was taken along just then.
 */
CREATE FUNCTION rsvp_sync._wrote_elsewhere(w_source bigint, w_key text,
	w_generation bigint, w_did text, w_cid text, w_pds text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF coalesce(w_pds = rsvp_sync._pds_of(w_did), true) THEN
		RETURN false;
	END IF;
	PERFORM rsvp_sync._call_failed(w_source, w_key, w_generation, 'again',
		'moved_account', 'the account is on another PDS now', false, w_cid,
		'0');
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._wrote_elsewhere(bigint, text, bigint, text, text, text) IS
'Did a call write to a PDS on which the account is no more? Then it is made again.';

/*
 * What came later than our own write was heard before its answer, when it was
 * not known yet what the row had said: it is looked at once more.
 */
CREATE FUNCTION rsvp_sync._merge_overtaken(dids text[], rkeys text[],
	cids text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
	of_did text;
	uris text[];
BEGIN
	FOR of_did, uris IN SELECT o.did, array_agg(DISTINCT o.event_uri)
		FROM unnest(dids, rkeys, cids) w (did, rkey, cid)
		CROSS JOIN LATERAL (SELECT n.* FROM rsvp_sync._observed n
			WHERE n.did = w.did AND n.rkey = w.rkey
				AND n.cid IS DISTINCT FROM w.cid
				AND n.event_uri IS NOT NULL LIMIT 1) o
		GROUP BY o.did
	LOOP
		PERFORM rsvp_sync._merge_learnt(of_did, uris);
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._merge_overtaken(text[], text[], text[]) IS
'Merges the slots of records that were written, where something later is known of them.';

CREATE FUNCTION rsvp_sync._put_done(w_source bigint, w_key text,
	w_generation bigint, w_did text, w_rkey text, w_record jsonb,
	w_cid text, w_rev text, w_pds text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	overtaken boolean;
BEGIN
	IF rsvp_sync._wrote_elsewhere(w_source, w_key, w_generation, w_did, w_cid,
		w_pds) THEN
		RETURN;
	END IF;
	PERFORM rsvp_sync._observe(w_did, w_rkey, w_cid, w_record, w_rev,
		'write', coalesce(least(rsvp_sync._tid_time(w_rev), now()), now()));
	/*
	 * Unless something else was agreed on while the call was under way: then
	 * what it has written is one more thing said on the network.
	 */
	UPDATE rsvp_sync._intent i SET
		bond = coalesce(i.bond, 'own'), wrote = true, rkey = w_rkey,
		base_local = i.sent_local, base_cid = w_cid, sent_cids = '{}',
		heard_cid = w_cid, heard_status = rsvp_sync._status_word(w_record),
		doubt = false, approved = false, state = 'done',
		reason_code = 'published', reason = rsvp_sync._reason('published'),
		synced_at = now(), writeback = true, writeback_at = now()
	WHERE i.source_id = w_source AND i.key = w_key
		AND (i.doubt OR w_cid = ANY (i.sent_cids));
	overtaken := NOT FOUND;
	IF overtaken THEN
		UPDATE rsvp_sync._intent i SET wrote = true
		WHERE i.source_id = w_source AND i.key = w_key AND i.rkey = w_rkey;
		PERFORM rsvp_sync._merge_learnt(w_did,
			ARRAY[rsvp_sync._subject_uri(w_record)]);
	ELSE
		PERFORM rsvp_sync._merge_overtaken(ARRAY[w_did], ARRAY[w_rkey],
			ARRAY[w_cid]);
	END IF;
	INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome,
		status, uri, cid)
	VALUES (w_source, w_key, w_did, 'put', 'ok',
		rsvp_sync._status_word(w_record),
		rsvp_sync._rsvp_uri(w_did, w_rkey), w_cid);
	PERFORM rsvp_sync._tell_others(w_source, ARRAY[w_did], ARRAY[w_rkey]);
	PERFORM rsvp_sync._identity_wrote(w_did);
	/* A row that is gone has said its last word: then it is forgotten. */
	PERFORM rsvp_sync._unqueue(w_source, w_key, w_generation,
		overtaken OR EXISTS (SELECT FROM rsvp_sync._intent i
			WHERE i.source_id = w_source AND i.key = w_key AND NOT i.live));
END
$$;
COMMENT ON FUNCTION rsvp_sync._put_done(bigint, text, bigint, text, text, jsonb, text, text, text) IS
'A record was written: it is the new base.';

/*
 * The same of several keys of a source at once, which is what there is to do
 * most of the time.  What is out of the ordinary with one of them is left to
 * _put_done().  Keys are looked up one by one: see _park().
 */
CREATE FUNCTION rsvp_sync._puts_done(w_source bigint, keys text[],
	generations text[], dids text[], rkeys text[], records text[],
	cids text[], revs text[], pdses text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
DECLARE
	published text := rsvp_sync._reason('published');
	gone text[];
	n bigint;
	overtaken boolean;
BEGIN
	IF EXISTS (SELECT FROM unnest(dids, pdses) w (did, pds)
			WHERE w.pds <> (SELECT h.pds FROM rsvp_sync._home h
				WHERE h.did = w.did))
		OR EXISTS (SELECT FROM rsvp_sync._forgotten)
		AND EXISTS (SELECT FROM rsvp_sync._forgotten f
			WHERE f.digest = ANY (ARRAY(
				SELECT sha256(convert_to(d, 'UTF8')) FROM unnest(dids) d)))
		/* Overtaken, see there. */
		OR EXISTS (SELECT FROM unnest(keys, cids) w (key, cid)
			WHERE (SELECT NOT i.doubt AND w.cid <> ALL (i.sent_cids)
				FROM rsvp_sync._intent i
				WHERE i.source_id = w_source AND i.key = w.key))
	THEN
		PERFORM rsvp_sync._put_done(w_source, w.key, w.generation::bigint,
			w.did, w.rkey, w.record::jsonb, w.cid, w.rev, w.pds)
		FROM unnest(keys, generations, dids, rkeys, records, cids, revs,
			pdses) w (key, generation, did, rkey, record, cid, rev, pds);
		RETURN;
	END IF;

	INSERT INTO rsvp_sync._observed AS o (did, rkey, cid, event_uri,
		event_cid, status, record, rev, changed_at, source)
	SELECT w.did, w.rkey, w.cid, r.record #>> '{subject,uri}',
		r.record #>> '{subject,cid}', split_part(r.record ->> 'status', '#', 2),
		r.record, nullif(w.rev, ''),
		coalesce(least(rsvp_sync._tid_time(w.rev), now()), now()), 'write'
	FROM unnest(dids, rkeys, records, cids, revs)
		w (did, rkey, record, cid, rev)
	CROSS JOIN LATERAL (SELECT w.record::jsonb OFFSET 0) r (record)
	ON CONFLICT (did, rkey) DO UPDATE SET
		cid = excluded.cid, event_uri = excluded.event_uri,
		event_cid = excluded.event_cid, status = excluded.status,
		record = excluded.record, rev = coalesce(excluded.rev, o.rev),
		changed_at = CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			THEN o.changed_at ELSE excluded.changed_at END,
		source = excluded.source, seen_at = now(), verified = true,
		heard_by = CASE WHEN o.cid IS NOT DISTINCT FROM excluded.cid
			THEN o.heard_by END
	WHERE excluded.rev IS NULL OR o.rev IS NULL OR excluded.rev >= o.rev;
	GET DIAGNOSTICS n = ROW_COUNT;
	overtaken := n < cardinality(keys);
	WITH written AS (
		UPDATE rsvp_sync._intent i SET
			bond = coalesce(i.bond, 'own'), wrote = true, rkey = w.rkey,
			base_local = i.sent_local, base_cid = w.cid, sent_cids = '{}',
			heard_cid = w.cid, heard_status = w.status,
			doubt = false, approved = false, state = 'done',
			reason_code = 'published', reason = published,
			synced_at = now(), writeback = true, writeback_at = now()
		FROM (SELECT v.*, split_part(v.record::jsonb ->> 'status', '#', 2)
				AS status, (SELECT n.ctid FROM rsvp_sync._intent n
				WHERE n.source_id = w_source AND n.key = v.key) AS place
			FROM unnest(keys, rkeys, cids, records)
				v (key, rkey, cid, record) OFFSET 0) w
		WHERE i.ctid = w.place
		RETURNING i.key, i.live
	)
	/* A row that is gone has said its last word: then it is forgotten. */
	SELECT array_agg(w.key) FILTER (WHERE NOT w.live), count(*)
	INTO gone, n FROM written w;
	IF n < cardinality(keys) THEN
		RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
			MESSAGE = 'an intent has been changed meanwhile';
	END IF;
	IF overtaken THEN
		PERFORM rsvp_sync._merge_overtaken(dids, rkeys, cids);
	END IF;
	INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome,
		status, uri, cid)
	SELECT w_source, w.key, w.did, 'put', 'ok',
		split_part(w.record::json ->> 'status', '#', 2),
		rsvp_sync._rsvp_uri(w.did, w.rkey), w.cid
	FROM unnest(keys, dids, rkeys, records, cids)
		w (key, did, rkey, record, cid);
	PERFORM rsvp_sync._tell_others(w_source, dids, rkeys);
	UPDATE rsvp_sync._identity i
	SET verify_at = now() + rsvp_sync._identity_fresh()
	WHERE i.did = ANY (dids) AND i.verify_at IS NULL;
	DELETE FROM rsvp_sync._queue q
	USING (SELECT v.generation::bigint, (SELECT n.ctid
			FROM rsvp_sync._queue n
			WHERE n.source_id = w_source AND n.key = v.key) AS place
		FROM unnest(keys, generations) v (key, generation)
		WHERE gone IS NULL OR v.key <> ALL (gone) OFFSET 0) w
	WHERE q.ctid = w.place AND q.generation = w.generation;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n < cardinality(keys) THEN
		UPDATE rsvp_sync._queue q SET lease = NULL
		WHERE q.source_id = w_source AND q.key = ANY (keys);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._puts_done(bigint, text[], text[], text[], text[], text[], text[], text[], text[]) IS
'Records of several keys of a source were written, as _put_done() has it.';

CREATE FUNCTION rsvp_sync._rsvp_uri(of_did text, of_rkey text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'at://' || of_did || '/community.lexicon.calendar.rsvp/' || of_rkey;
COMMENT ON FUNCTION rsvp_sync._rsvp_uri(text, text) IS
'at-uri of an RSVP record.';

/*
 * Attendance rows that are still to be told, of one source, those that wait
 * longest first; in the order of the one index that has no other rows.
 */
CREATE FUNCTION rsvp_sync._rows_to_tell(at_most integer)
RETURNS TABLE (source_id bigint, key text, attendance oid, search_path text,
	uri text, cid text, rkey text, synced_at timestamptz, waited_ms bigint,
	detaching boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT i.source_id, i.key, s.attendance, s.search_path,
		CASE WHEN i.bond IS NOT NULL THEN rsvp_sync._rsvp_uri(i.did, i.rkey) END,
		i.base_cid, i.rkey, i.synced_at, (extract(epoch FROM clock_timestamp()
			- i.writeback_at) * 1000)::bigint, s.detaching
	FROM (SELECT s.source_id, s.attendance::oid,
			coalesce(s.apply_path, s.search_path) AS search_path,
			s.state = 'detaching' AS detaching
		FROM rsvp_sync._source s
		CROSS JOIN LATERAL (SELECT FROM rsvp_sync._intent o
			WHERE o.source_id = s.source_id AND o.writeback
				AND o.writeback_at <= now()
			ORDER BY o.writeback_at LIMIT 1) o
		WHERE s.state IN ('active', 'detaching')
		ORDER BY s.source_id LIMIT 1) s
	CROSS JOIN LATERAL (SELECT n.* FROM rsvp_sync._intent n
		WHERE n.source_id = s.source_id AND n.writeback
			AND n.writeback_at <= now()
		ORDER BY n.writeback_at LIMIT at_most) i;
END
$$;
COMMENT ON FUNCTION rsvp_sync._rows_to_tell(integer) IS
'Rows of a source whose write-back is due, and what they are to be told.';

CREATE FUNCTION rsvp_sync._rows_told(of_source bigint, keys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
BEGIN
	UPDATE rsvp_sync._intent i SET writeback = false, writeback_failures = 0,
		writeback_error = NULL
	WHERE i.ctid = ANY (ARRAY(SELECT (SELECT n.ctid FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = k)
		FROM unnest(keys) k));
END
$$;
COMMENT ON FUNCTION rsvp_sync._rows_told(bigint, text[]) IS
'Attendance rows have been told what became of them.';

/* Planned once more afterwards: the row may have another wish by now. */
CREATE FUNCTION rsvp_sync._delete_done(w_source bigint, w_key text,
	w_generation bigint, w_did text, w_rkey text, w_rev text,
	w_pds text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF rsvp_sync._wrote_elsewhere(w_source, w_key, w_generation, w_did, NULL,
		w_pds) THEN
		RETURN;
	END IF;
	PERFORM rsvp_sync._observe(w_did, w_rkey, NULL, NULL, w_rev, 'write',
		coalesce(least(rsvp_sync._tid_time(w_rev), now()), now()));
	UPDATE rsvp_sync._intent i SET
		bond = NULL, wrote = false, rkey = NULL, record_created_at = NULL,
		base_local = i.sent_local, base_cid = NULL, sent_cids = '{}',
		heard_cid = NULL, heard_status = NULL,
		doubt = false, approved = false, state = 'done',
		reason_code = 'withdrawn', reason = rsvp_sync._reason('withdrawn'),
		synced_at = now(), writeback = true, writeback_at = now()
	/* Unless something else was agreed on meanwhile, see _put_done(). */
	WHERE i.source_id = w_source AND i.key = w_key AND i.doubt;
	INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome, uri)
	VALUES (w_source, w_key, w_did, 'delete', 'ok',
		rsvp_sync._rsvp_uri(w_did, w_rkey));
	PERFORM rsvp_sync._tell_others(w_source, ARRAY[w_did], ARRAY[w_rkey]);
	PERFORM rsvp_sync._identity_wrote(w_did);
	PERFORM rsvp_sync._unqueue(w_source, w_key, w_generation, true);
END
$$;
COMMENT ON FUNCTION rsvp_sync._delete_done(bigint, text, bigint, text, text, text, text) IS
'A record was removed; the key is planned again.';

/*
 * The record was read: nothing is in doubt any more.  A PDS need not say the
 * cid, which then is computed.
 */
CREATE FUNCTION rsvp_sync._read_done(w_source bigint, w_key text,
	w_did text, w_rkey text, w_cid text, w_record jsonb,
	w_pds text DEFAULT NULL, asked timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF w_pds <> rsvp_sync._pds_of(w_did) THEN
		RETURN;					/* of a PDS on which the account is no more */
	END IF;
	PERFORM rsvp_sync._observe(w_did, w_rkey,
		coalesce(w_cid, rsvp_sync.record_cid(w_record)), w_record, NULL, 'read',
		coalesce(rsvp_sync._record_time(w_record), now()), asked);
	/* A deletion whose answer was lost turns out to have been made. */
	IF w_cid IS NULL AND w_record IS NULL THEN
		PERFORM rsvp_sync._count_operation(w_source, 'delete', NULL)
		FROM rsvp_sync._intent i
		WHERE i.source_id = w_source AND i.key = w_key
			AND i.doubt AND '' = ANY (i.sent_cids);
	END IF;
	/* While it is in doubt whether a record is gone by our own doing. */
	PERFORM rsvp_sync._merge_learnt(w_did, ARRAY(
		SELECT o.event_uri FROM rsvp_sync._observed o
		WHERE o.did = w_did AND o.rkey = w_rkey AND o.event_uri IS NOT NULL));
	UPDATE rsvp_sync._intent i SET doubt = false,
		sent_cids = array_remove(i.sent_cids, '')
	WHERE i.source_id = w_source AND i.key = w_key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_done(bigint, text, text, text, text, jsonb, text, timestamptz) IS
'A record was read from its PDS; neither cid nor record: it is not there.';

/* All records of an account, every page. */
CREATE FUNCTION rsvp_sync._list_done(of_did text, records jsonb,
	of_pds text DEFAULT NULL, asked timestamptz DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
	seen text[] := '{}';
	before jsonb;
	/* No news by themselves, but for those who were not told. */
	told text[] := ARRAY(SELECT DISTINCT o.event_uri
		FROM rsvp_sync._observed o WHERE o.did = of_did
			AND o.heard_by IS NOT NULL AND o.event_uri IS NOT NULL);
BEGIN
	IF of_pds <> rsvp_sync._pds_of(of_did) THEN
		RETURN false;			/* where the account is no more */
	END IF;
	SELECT jsonb_object_agg(o.rkey, o.cid) INTO before
	FROM rsvp_sync._observed o WHERE o.did = of_did;
	FOR r IN SELECT (rsvp_sync.parse_at_uri(e ->> 'uri')).rkey AS rkey,
			e ->> 'cid' AS cid, e -> 'value' AS value
		FROM jsonb_array_elements(records) e
	LOOP
		CONTINUE WHEN r.rkey IS NULL OR r.cid IS NULL;
		seen := seen || r.rkey;
		PERFORM rsvp_sync._observe(of_did, r.rkey, r.cid, r.value, NULL,
			'list', coalesce(rsvp_sync._record_time(r.value), now()), asked);
	END LOOP;
	UPDATE rsvp_sync._observed o SET cid = NULL, record = NULL,
		status = NULL, changed_at = now(), source = 'list', seen_at = now(),
		heard_by = NULL
	WHERE o.did = of_did AND (o.cid IS NOT NULL OR o.heard_by IS NOT NULL)
		AND o.rkey <> ALL (seen)
		AND coalesce(o.seen_at <= asked OR o.source IN ('write', 'list'),
			true);
	/* Of an account that has moved, what is missing is not the user's doing. */
	IF NOT EXISTS (SELECT FROM rsvp_sync._identity i
		WHERE i.did = of_did AND i.lost_since IS NOT NULL) THEN
		PERFORM rsvp_sync._merge_learnt(of_did, ARRAY(
			SELECT DISTINCT o.event_uri FROM rsvp_sync._observed o
			WHERE o.did = of_did AND o.event_uri IS NOT NULL
				AND (o.cid IS DISTINCT FROM before ->> o.rkey
					OR o.event_uri = ANY (told))));
	END IF;
	PERFORM rsvp_sync._rewind(of_did);
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._list_done(text, jsonb, text, timestamptz) IS
'The RSVP records of an account, all pages of listRecords; what is not among them is gone. False: it has no say, the account has moved.';

/*
 * Keys that were to be sent when their account's records were listed anew:
 * whether or not a call of theirs had an effect, it is known now.
 */
CREATE FUNCTION rsvp_sync._listed(of_source bigint, keys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
BEGIN
	/* One that somebody has locked stays in doubt, and is read. */
	UPDATE rsvp_sync._intent i SET doubt = false
	WHERE i.ctid = ANY (ARRAY(SELECT (SELECT n.ctid FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = k
			FOR NO KEY UPDATE SKIP LOCKED)
		FROM unnest(keys) k)) AND i.doubt;
END
$$;
COMMENT ON FUNCTION rsvp_sync._listed(bigint, text[]) IS
'Keys whose account''s records have just been listed are in doubt no more.';

CREATE FUNCTION rsvp_sync._event_done(of_uri text, new_cid text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._event (uri, cid) VALUES (of_uri, new_cid)
ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, read_at = now(),
	error = NULL
$$;
COMMENT ON FUNCTION rsvp_sync._event_done(text, text) IS
'The cid of an event record, read from its organiser''s PDS.';

/*
 * A session began, was refreshed, or could not be had.  That says nothing of
 * an account that was connected anew while it was tried.
 */
CREATE FUNCTION rsvp_sync._account_done(of_did text, new_state text,
	new_session text, new_handle text, error text, credential_of timestamptz)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old_state text;
BEGIN
	SELECT a.state INTO old_state FROM rsvp_sync._account a
	WHERE a.did = of_did;
	IF new_state NOT IN ('connected', 'unreachable') THEN
		PERFORM rsvp_sync._identity_parked(of_did);
	END IF;
	UPDATE rsvp_sync._account a SET
		state = new_state,
		state_since = CASE WHEN a.state = new_state THEN a.state_since
			ELSE now() END,
		session = CASE WHEN new_state = 'connected'
			THEN coalesce(new_session, a.session)
			WHEN new_state = 'unreachable' THEN a.session END,
		handle = coalesce(new_handle, a.handle),
		checked_at = now(), last_error = error
	WHERE a.did = of_did
		AND (credential_of IS NULL OR a.connected_at = credential_of)
		AND (a.state <> new_state
			OR new_session IS NOT NULL
			OR new_state IN ('deactivated', 'takendown')
			OR a.last_error IS DISTINCT FROM error);
	IF FOUND AND old_state IS DISTINCT FROM new_state THEN
		PERFORM pg_notify('rsvp_sync_account', jsonb_build_object(
			'did', of_did, 'state', new_state)::text);
		RETURN true;
	END IF;
	RETURN false;
END
$$;
COMMENT ON FUNCTION rsvp_sync._account_done(text, text, text, text, text, timestamptz) IS
'New state of an account; a change is announced by NOTIFY rsvp_sync_account. Was it one?';

/* An account's own limit is used up. */
CREATE FUNCTION rsvp_sync._account_limited(of_did text, wait_ms integer)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._account a SET
	rate_limited_until = now() + wait_ms * interval '1 millisecond'
WHERE a.did = of_did
$$;
COMMENT ON FUNCTION rsvp_sync._account_limited(text, integer) IS
'Notes until when an account''s rate limit leaves nothing to spend.';

/* A server does not answer, or answers again; since when, for the log. */
CREATE FUNCTION rsvp_sync._host_done(of_host text, new_state text,
	error text)
RETURNS interval
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	was_down interval;
BEGIN
	IF new_state = 'down' THEN
		INSERT INTO rsvp_sync._host AS h (host, last_error)
		VALUES (of_host, error)
		ON CONFLICT (host) DO UPDATE SET last_error = excluded.last_error;
		RETURN NULL;
	END IF;
	DELETE FROM rsvp_sync._host h WHERE h.host = of_host
	RETURNING date_trunc('second', now() - h.down_since) INTO was_down;
	RETURN was_down;
END
$$;
COMMENT ON FUNCTION rsvp_sync._host_done(text, text, text) IS
'Notes that a server went down, or is up again: then how long it was down.';

/* Wait before try number attempt + 1: exponential, full jitter. */
CREATE FUNCTION rsvp_sync._backoff(attempt integer) RETURNS interval
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT greatest(w.wait * random(), w.wait / 10) FROM (
	SELECT least(current_setting('rsvp_sync.retry_max')::interval,
		current_setting('rsvp_sync.retry_base')::interval
			* 2 ^ least(attempt, 30)) AS wait) w
$$;
COMMENT ON FUNCTION rsvp_sync._backoff(integer) IS
'How long to wait after this many failed tries.';

/*
 * A call did not succeed.
 * how: retry   later; counted
 *      again   at once, as what was known has changed; counted, and after
 *              two tries later as well
 *      wait    the account needs its user; not counted
 *      failed  given up
 * sure: the request certainly had no effect.
 */
CREATE FUNCTION rsvp_sync._call_failed(w_source bigint, w_key text,
	w_generation bigint, how text, code text, message text, sure boolean,
	w_cid text, not_before interval)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tries integer;
BEGIN
	SELECT q.attempts + 1 INTO tries FROM rsvp_sync._queue q
	WHERE q.source_id = w_source AND q.key = w_key;
	/* Connected anew meanwhile: there is nothing to wait for. */
	IF how = 'wait' AND code NOT IN ('no_account', 'scope_missing')
		AND EXISTS (SELECT FROM rsvp_sync._intent i
		JOIN rsvp_sync._account a ON a.did = i.did
		WHERE i.source_id = w_source AND i.key = w_key
			AND a.state = 'unverified' AND a.credential IS NOT NULL)
	THEN
		how := 'again';
	END IF;
	IF how IN ('retry', 'again')
		AND tries >= current_setting('rsvp_sync.max_attempts')::integer
	THEN
		how := 'failed';
	END IF;
	UPDATE rsvp_sync._intent i SET
		doubt = i.doubt AND NOT sure,
		sent_cids = CASE WHEN sure
			THEN array_remove(i.sent_cids, coalesce(w_cid, ''))
			ELSE i.sent_cids END,
		state = CASE how WHEN 'failed' THEN 'failed'
			WHEN 'wait' THEN 'blocked' ELSE i.state END,
		reason_code = CASE WHEN how IN ('failed', 'wait') THEN code
			ELSE i.reason_code END,
		reason = CASE WHEN how IN ('failed', 'wait')
			THEN rsvp_sync._reason(code, message) ELSE i.reason END,
		failed_at = CASE WHEN how = 'failed' THEN now() END,
		failed_attempts = CASE WHEN how = 'failed' THEN tries END,
		failed_error = CASE WHEN how = 'failed'
			THEN code || ': ' || message END
	WHERE i.source_id = w_source AND i.key = w_key;
	IF how IN ('failed', 'wait') THEN
		INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome,
			detail)
		SELECT w_source, w_key, i.did, 'put', how, code || ': ' || message
		FROM rsvp_sync._intent i
		WHERE i.source_id = w_source AND i.key = w_key;
		PERFORM rsvp_sync._unqueue(w_source, w_key, w_generation);
		RETURN;
	END IF;
	UPDATE rsvp_sync._queue q SET lease = NULL,
		attempts = CASE WHEN q.generation <> w_generation THEN 0
			WHEN how IN ('retry', 'again') THEN tries ELSE q.attempts END,
		last_error = code || ': ' || message,
		due_at = CASE WHEN q.generation <> w_generation
				OR how = 'again' AND tries <= 2
			THEN now()
			ELSE now() + greatest(not_before, rsvp_sync._backoff(tries - 1))
			END
	WHERE q.source_id = w_source AND q.key = w_key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._call_failed(bigint, text, bigint, text, text, text, boolean, text, interval) IS
'What becomes of a key whose call did not succeed.';
