/*
 * The queue: from the log to leased keys, from decisions to work, and from
 * answers back to intent and observed.  Only the worker calls what is here.
 */

CREATE FUNCTION rsvp_sync._enqueue(of_source bigint, keys text[],
	as_priority smallint DEFAULT 0, at timestamptz DEFAULT now())
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._queue AS q (source_id, key, priority, due_at,
	changed_at)
SELECT of_source, k, as_priority, now(), at
FROM (SELECT DISTINCT unnest(keys) AS k) d
ON CONFLICT (source_id, key) DO UPDATE SET
	priority = least(q.priority, excluded.priority),
	due_at = least(q.due_at, excluded.due_at),
	generation = q.generation + 1
$$;
COMMENT ON FUNCTION rsvp_sync._enqueue(bigint, text[], smallint, timestamptz) IS
'Put keys in as the worker itself does: keeps a waiting key''s attempts.';

/*
 * May a trigger on this table make entries for this source?  Everybody can
 * have a trigger that calls _log_change() on a table of his own, with any
 * arguments (see 99-rights.sql).  So only the attendance table speaks for
 * itself, and a table that the query depends on of its dependency, if attach()
 * would have put a trigger there; with their partitions and inheritance
 * children, which only the owner can make such.
 */
CREATE FUNCTION rsvp_sync._may_speak(speaker oid, of_source bigint,
	dep smallint)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	watched oid;
BEGIN
	SELECT * INTO s FROM rsvp_sync._source f WHERE f.source_id = of_source;
	IF dep = 0 THEN
		watched := s.attendance;
	ELSIF dep > 0 THEN
		BEGIN
			watched := rsvp_sync._shape(s)
				#>> ARRAY['depends', (dep - 1)::text, 'rel', '0'];
		EXCEPTION WHEN query_canceled OR OTHERS THEN
			/* Nobody can tell; the look-up will fail and say why. */
			RETURN EXISTS (SELECT FROM pg_class c JOIN pg_class a
				ON a.oid = s.attendance AND a.relowner = c.relowner
				WHERE c.oid = speaker);
		END;
		IF NOT rsvp_sync._may_watch(s.attendance, watched) THEN
			RETURN false;
		END IF;
	END IF;
	RETURN coalesce(speaker = watched, false) OR EXISTS (
		WITH RECURSIVE up AS (
			SELECT speaker AS relation
			UNION
			SELECT i.inhparent FROM up
			JOIN pg_inherits i ON i.inhrelid = up.relation
		)
		SELECT FROM up WHERE up.relation = watched);
END
$$;
COMMENT ON FUNCTION rsvp_sync._may_speak(oid, bigint, smallint) IS
'Is this the table, or a partition of the table, whose changes concern the source (0), or its dependency of that number?';

/* Each origin is looked at once, however many entries it has. */
CREATE FUNCTION rsvp_sync._genuine(entries rsvp_sync._change_log[])
RETURNS rsvp_sync._change_log[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (WITH origin AS MATERIALIZED (
		SELECT DISTINCT f.source_id, f.relation, f.dep
		FROM unnest(entries) f WHERE f.relation <> 0
	), genuine AS MATERIALIZED (
		SELECT o.* FROM origin o
		WHERE rsvp_sync._may_speak(o.relation, o.source_id, o.dep)
	)
	SELECT coalesce(array_agg(e), '{}')
	FROM unnest(entries) e
	WHERE e.relation = 0 OR (e.source_id, e.relation, e.dep) IN (
		SELECT g.source_id, g.relation, g.dep FROM genuine g));
END
$$;
COMMENT ON FUNCTION rsvp_sync._genuine(rsvp_sync._change_log[]) IS
'Leaves out log entries of triggers that have no say in their source.';

/*
 * Log to queue.  Exactly the rows this statement sees are deleted, never
 * "all up to an id": ids do not commit in order.
 */
CREATE FUNCTION rsvp_sync._drain(at_most integer,
	incarnation bigint DEFAULT NULL)
RETURNS TABLE (drained bigint, repeatable bigint[], of_source bigint,
	at_once text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
/* With another plan, made for a short log, each row is compared with each ctid. */
SET enable_seqscan = off
AS $$
DECLARE
	entries rsvp_sync._change_log[];
	settle interval := make_interval(secs => extract(epoch FROM
		current_setting('rsvp_sync.settle_time')::interval));
	entry rsvp_sync._change_log;
	said record;
	hurry boolean;
BEGIN
	WITH gone AS (
		DELETE FROM rsvp_sync._change_log
		WHERE ctid = ANY (ARRAY(
			SELECT l.ctid FROM rsvp_sync._change_log l LIMIT at_most))
		RETURNING _change_log
	)
	SELECT array_agg(g._change_log) INTO entries FROM gone g;
	drained := coalesce(cardinality(entries), 0);
	IF drained = 0 THEN
		RETURN NEXT;
		RETURN;
	END IF;
	/* Most are of attendance tables themselves, and nothing but keys. */
	SELECT bool_or(e.relation <> 0 AND (e.dep <> 0
			OR e.relation IS DISTINCT FROM s.attendance::oid)) AS doubtful,
		bool_or(e.op NOT IN ('c', 'n', 'l')) AS marked,
		bool_or(e.repeatable) AS repeatable,
		bool_and(e.op = 'c' AND NOT e.bulk AND s.state = 'active'
			AND s.failures = 0 AND NOT s.missed
			AND (s.retry_at IS NULL OR s.retry_at <= now())) AS ordinary,
		min(e.source_id) AS first, max(e.source_id) AS last
	INTO said
	FROM unnest(entries) e
	LEFT JOIN rsvp_sync._source s ON s.source_id = e.source_id;
	IF said.doubtful THEN
		entries := rsvp_sync._genuine(entries);
	END IF;
	hurry := coalesce(incarnation IS NOT NULL AND said.ordinary
		AND said.first = said.last AND drained < at_most
		AND settle = interval '0', false);

	WITH put AS (
		INSERT INTO rsvp_sync._queue AS q (source_id, key, priority, due_at,
			changed_at, by_network, lease)
		SELECT e.source_id, e.key,
			min(CASE WHEN e.op = 'l' OR e.bulk THEN 1 ELSE 0 END),
			now() + CASE WHEN bool_or(e.op = 'c') THEN settle
				ELSE interval '0' END,
			/* Found by comparing: when it changed, nobody knows. */
			max(CASE WHEN e.op = 'l' THEN coalesce((
					SELECT i.local_at FROM rsvp_sync._intent i
					WHERE i.source_id = e.source_id AND i.key = e.key),
					e.changed_at)
				ELSE e.changed_at END), bool_and(e.op = 'n'),
			CASE WHEN hurry THEN incarnation END
		FROM unnest(entries) e
		JOIN rsvp_sync._source s ON s.source_id = e.source_id
		WHERE e.op IN ('c', 'n', 'l') AND e.key IS NOT NULL
		GROUP BY e.source_id, e.key
		ON CONFLICT (source_id, key) DO UPDATE SET
			priority = least(q.priority, excluded.priority),
			due_at = excluded.due_at,
			changed_at = greatest(q.changed_at, excluded.changed_at),
			by_network = q.by_network AND excluded.by_network,
			generation = q.generation + 1, attempts = 0, last_error = NULL,
			counted = false
		RETURNING q.key, q.generation
	)
	/* One that was there already may be under way. */
	SELECT array_agg(p.key) INTO at_once FROM put p
	WHERE hurry AND p.generation = 0;
	of_source := said.first;

	IF said.marked THEN
		FOR entry IN SELECT DISTINCT ON (e.source_id, e.op, e.dep, e.key) e.*
			FROM unnest(entries) e WHERE e.op NOT IN ('c', 'n', 'l')
		LOOP
			PERFORM rsvp_sync._drain_marker(entry);
		END LOOP;
	END IF;
	IF said.repeatable THEN
		SELECT array_agg(DISTINCT e.source_id) INTO repeatable
		FROM unnest(entries) e WHERE e.repeatable;
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION rsvp_sync._drain(integer, bigint) IS
'Moves what the change log shows into the queue. repeatable: sources changed by transactions with a transaction-wide snapshot. at_once: if there are few changes, all of one source, and nothing else, its keys, leased for this incarnation.';

/* What is not the key of an attendance row. */
CREATE FUNCTION rsvp_sync._drain_marker(entry rsvp_sync._change_log)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF entry.op = 'a' THEN
		/* An account: keys that waited for it, or that were given up. */
		INSERT INTO rsvp_sync._queue AS q (source_id, key, due_at, changed_at)
		SELECT i.source_id, i.key, now(), coalesce(i.local_at, now())
		FROM rsvp_sync._intent i
		WHERE (i.state IN ('blocked', 'failed')
				AND i.reason_code IS DISTINCT FROM 'discarded'
				OR i.reason_code = 'leaving')
			AND (entry.key IS NULL OR i.did = entry.key)
		ON CONFLICT (source_id, key) DO UPDATE SET
			due_at = excluded.due_at, attempts = 0,
			generation = q.generation + 1;
	ELSIF entry.op = 't' AND entry.dep = 0 THEN
		UPDATE rsvp_sync._intent i SET truncated = true, approved = false
		WHERE i.source_id = entry.source_id;
		PERFORM rsvp_sync._enqueue(entry.source_id, array_agg(i.key),
			1::smallint)
		FROM rsvp_sync._intent i WHERE i.source_id = entry.source_id
		HAVING count(*) > 0;
	ELSIF entry.op = 'd' THEN
		/*
		 * A broken query must not stop the log, nor one that takes too long,
		 * which OTHERS does not include; see _source_works().
		 */
		BEGIN
			PERFORM rsvp_sync._enqueue(entry.source_id, array_agg(k.key))
			FROM rsvp_sync._dependent_keys(entry.source_id, entry.dep,
				entry.key) k
			HAVING count(*) > 0;
		EXCEPTION WHEN query_canceled OR OTHERS THEN
			PERFORM rsvp_sync._source_failed(entry.source_id, SQLSTATE,
				SQLERRM);
			UPDATE rsvp_sync._source s SET missed = true
			WHERE s.source_id = entry.source_id;
		END;
		PERFORM rsvp_sync._events_changed(entry.source_id);
	ELSIF entry.op = 'b' THEN
		PERFORM rsvp_sync._source_failed(entry.source_id, '42704',
			'the table has no primary key');
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._drain_marker(rsvp_sync._change_log) IS
'Expands a log entry that is not an attendance key: account, truncation, dependency.';

/* A source's query did not run.  An error is never absence. */
CREATE FUNCTION rsvp_sync._source_failed(of_source bigint, code text,
	message text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	/* Lock not available, cancelled, deadlock, serialization, resources. */
	passing boolean := code IN ('55P03', '57014', '40P01', '40001')
		OR code LIKE '53%' OR code LIKE '57%';
BEGIN
	UPDATE rsvp_sync._source s SET
		failures = s.failures + 1,
		state_reason = format('%s (SQLSTATE %s)', message, code),
		state = CASE WHEN s.state IN ('paused', 'detaching') THEN s.state
			WHEN NOT passing THEN 'broken'
			/* Slow again and again: it would go on holding up the others. */
			WHEN code = '57014' AND s.failures >= 4 THEN 'paused'
			ELSE s.state END,
		state_since = CASE WHEN s.state = 'active' AND (NOT passing
			OR code = '57014' AND s.failures >= 4)
			THEN now() ELSE s.state_since END,
		retry_at = now() + least(interval '1 minute',
			interval '500 milliseconds' * 2 ^ least(s.failures, 7))
	WHERE s.source_id = of_source;
END
$$;
COMMENT ON FUNCTION rsvp_sync._source_failed(bigint, text, text) IS
'Records that a source''s query failed; it is asked again later, and broken unless the error passes by itself.';

/* It runs again; what was missed meanwhile is found by comparing. */
CREATE FUNCTION rsvp_sync._source_works(of_source bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
BEGIN
	SELECT * INTO src FROM rsvp_sync._source s
	WHERE s.source_id = of_source
		AND (s.failures > 0 OR s.state = 'broken'
			OR s.missed AND coalesce(s.compare_at <= now(), true));
	IF NOT FOUND THEN
		RETURN;
	END IF;
	IF src.missed AND coalesce(src.compare_at <= now(), true) THEN
		INSERT INTO rsvp_sync._change_log (source_id, key, op)
		SELECT of_source, d, 'l' FROM rsvp_sync._differences(of_source) d;
	END IF;
	UPDATE rsvp_sync._source s SET failures = 0, retry_at = NULL,
		missed = s.missed AND coalesce(s.compare_at > now(), false),
		compare_at = CASE WHEN s.compare_at > now() THEN s.compare_at END,
		state_reason = NULL, state_since = now(),
		state = CASE WHEN s.state = 'broken' THEN 'active' ELSE s.state END
	WHERE s.source_id = of_source;
END
$$;
/* The comparison itself failed, most likely by taking too long. */
CREATE FUNCTION rsvp_sync._compare_later(of_source bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._source s SET compare_at = now() + interval '5 minutes'
WHERE s.source_id = of_source AND s.missed
$$;
COMMENT ON FUNCTION rsvp_sync._compare_later(bigint) IS
'Puts the comparison of a whole source off for a while.';

COMMENT ON FUNCTION rsvp_sync._source_works(bigint) IS
'Records that a source''s query runs (again).';

/*
 * Sources with keys in the queue that are not parked, one look-up each.  Those
 * that had some a moment ago are not looked up: what was leased of them stands
 * in the index before what is not, as long as any snapshot needs it.
 */
CREATE FUNCTION rsvp_sync._waiting_sources(known bigint[] DEFAULT '{}')
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
	before bigint := 0;
	next_known bigint;
	found_one bigint;
BEGIN
	LOOP
		next_known := (SELECT min(k) FROM unnest(known) k WHERE k > before);
		found_one := (SELECT q.source_id FROM rsvp_sync._queue q
			WHERE q.lease IS NULL AND q.due_at < 'infinity'
				AND q.source_id > before AND q.source_id
					< coalesce(next_known, 9223372036854775807)
			ORDER BY q.source_id LIMIT 1);
		before := coalesce(found_one, next_known);
		EXIT WHEN before IS NULL;
		RETURN NEXT before;
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._waiting_sources(bigint[]) IS
'Sources that have keys in the queue, but for parked and leased ones; those given are taken to have some.';

/*
 * Keys to plan next.  Sources at rest and accounts in the way are left out.
 * Sources take turns, so that nobody's click waits behind another's backlog.
 */
CREATE FUNCTION rsvp_sync._lease(incarnation bigint, at_most integer,
	at_most_background integer DEFAULT 2147483647,
	not_before timestamptz DEFAULT '-infinity', known bigint[] DEFAULT '{}')
RETURNS TABLE (source_id bigint, keys text[], earliest timestamptz,
	cut boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH ready AS MATERIALIZED (
		SELECT s.source_id, at_most / count(*) OVER () + 1 AS share
		FROM rsvp_sync._waiting_sources(known) w
		JOIN rsvp_sync._source s ON s.source_id = w
		WHERE s.state <> 'paused'
			AND (s.retry_at IS NULL OR s.retry_at <= now())
	), due AS MATERIALIZED (
		SELECT d.place
		FROM (SELECT r.source_id, k.*, row_number() OVER (
			PARTITION BY k.priority ORDER BY k.nth, k.due_at) AS turn
		FROM ready r
		CROSS JOIN LATERAL (
			SELECT p.priority, q.place, q.due_at,
				row_number() OVER (PARTITION BY p.priority ORDER BY q.due_at) AS nth
			FROM (VALUES (0), (CASE WHEN at_most_background > 0 THEN 1 END)) p (priority)
			CROSS JOIN LATERAL (
				SELECT o.ctid AS place, o.due_at FROM rsvp_sync._queue o
				WHERE o.source_id = r.source_id AND o.priority = p.priority
					AND o.lease IS NULL AND o.due_at < 'infinity'
					AND o.due_at <= now() AND o.due_at >= not_before
				ORDER BY o.due_at LIMIT r.share) q) k) d
		WHERE d.priority = 0 OR d.turn <= at_most_background
		ORDER BY d.priority, d.turn
		LIMIT at_most
	), leased AS (
		UPDATE rsvp_sync._queue q SET lease = incarnation
		FROM due d WHERE q.ctid = d.place
		RETURNING q.source_id, q.key, q.due_at
	)
	SELECT l.source_id, array_agg(l.key), min(l.due_at),
		count(*) >= (SELECT r.share FROM ready r
			WHERE r.source_id = l.source_id)
	FROM leased l GROUP BY l.source_id
	UNION ALL
	/*
	 * A source that failed is tried again even if no key of it waits, and one that
	 * is being detached goes once its rows are told.
	 */
	SELECT s.source_id, '{}', NULL, false FROM rsvp_sync._source s
	WHERE (s.state IN ('broken', 'detaching')
			OR s.missed AND coalesce(s.compare_at <= now(), true))
		AND s.state <> 'paused' AND (s.retry_at IS NULL OR s.retry_at <= now())
		AND NOT EXISTS (SELECT FROM leased l WHERE l.source_id = s.source_id);
END
$$;
COMMENT ON FUNCTION rsvp_sync._lease(bigint, integer, integer, timestamptz, bigint[]) IS
'Leases due keys for this incarnation of the worker: as many as at_most, and of those that nobody waits for no more than at_most_background; none that was due before not_before; known: sources that have some, see _waiting_sources(). earliest: when the first of them was due; cut: the source may have more.';

/*
 * Keys that cannot be sent now wait for a server or an account, without
 * attempts.  sure: their calls were never made, so nothing is in doubt.  A
 * key that was put in again meanwhile is looked at once more first.
 */
CREATE FUNCTION rsvp_sync._park(of_source bigint, keys text[],
	generations text[], cids text[], sure boolean, subject text, code text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
DECLARE
	n bigint;
BEGIN
	/*
	 * Each key is looked up by itself, and its row changed where it is.  In a
	 * join by source and key, or by key = ANY, the planner would read all of
	 * a source whose statistics, or whose kept plan, are of a time when it
	 * was small.  A row that somebody changes at this moment is not found at
	 * its old place: that is looked at.
	 */
	IF sure THEN
		UPDATE rsvp_sync._intent i SET doubt = false,
			sent_cids = array_remove(i.sent_cids, coalesce(w.cid, ''))
		FROM (SELECT v.cid, (SELECT n.ctid FROM rsvp_sync._intent n
				WHERE n.source_id = of_source AND n.key = v.key) AS place
			FROM unnest(keys, cids) v (key, cid) OFFSET 0) w
		WHERE i.ctid = w.place;
	END IF;
	UPDATE rsvp_sync._queue q SET lease = NULL, waits_for = subject,
		wait_code = code,
		due_at = CASE WHEN q.generation = w.generation
			THEN 'infinity' ELSE now() END
	FROM (SELECT v.generation::bigint, (SELECT n.ctid
			FROM rsvp_sync._queue n
			WHERE n.source_id = of_source AND n.key = v.key) AS place
		FROM unnest(keys, generations) v (key, generation) OFFSET 0) w
	WHERE q.ctid = w.place;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n < cardinality(keys) THEN
		UPDATE rsvp_sync._queue q SET lease = NULL
		WHERE q.source_id = of_source AND q.key = ANY (keys)
			AND q.lease IS NOT NULL;
	END IF;
	IF code = 'host_unreachable' THEN
		/* See _verify_next(). */
		UPDATE rsvp_sync._identity i SET
			verify_at = least(i.verify_at, now() + interval '10 minutes')
		WHERE i.did = ANY (ARRAY(
			SELECT unnest(ARRAY[n.did, (rsvp_sync.parse_at_uri(
				n.event_uri)).authority]) FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = ANY (keys)))
			AND (i.verify_at IS NULL
				OR i.verify_at > now() + interval '10 minutes');
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._park(bigint, text[], text[], text[], boolean, text, text) IS
'Has leased keys wait for a server or a DID: host_unreachable, rate_limited, paused, or queued (it has enough to do).';

/* Leased keys that are not to be planned now. */
CREATE FUNCTION rsvp_sync._end_lease(of_source bigint, keys text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
UPDATE rsvp_sync._queue q SET lease = NULL
WHERE q.source_id = of_source AND q.key = ANY (keys)
$$;
COMMENT ON FUNCTION rsvp_sync._end_lease(bigint, text[]) IS
'Ends the lease of keys.';

/* Keys of all sources in turn, those that somebody waits for first. */
CREATE FUNCTION rsvp_sync._release(subject text, at_most integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_bitmapscan = off
AS $$
DECLARE
	released bigint;
BEGIN
	WITH RECURSIVE waiting (source_id) AS (
		SELECT (SELECT q.source_id FROM rsvp_sync._queue q
			WHERE q.waits_for = subject
				AND q.lease IS NULL AND q.due_at = 'infinity'
			ORDER BY q.source_id LIMIT 1)
		UNION ALL
		SELECT (SELECT q.source_id FROM rsvp_sync._queue q
			WHERE q.waits_for = subject AND q.source_id > w.source_id
				AND q.lease IS NULL AND q.due_at = 'infinity'
			ORDER BY q.source_id LIMIT 1)
		FROM waiting w WHERE w.source_id IS NOT NULL
	), parked AS MATERIALIZED (
		SELECT k.place
		FROM waiting w
		CROSS JOIN LATERAL (
			SELECT q.ctid AS place, q.priority, row_number() OVER () AS nth
			FROM rsvp_sync._queue q
			WHERE q.waits_for = subject AND q.source_id = w.source_id
				AND q.lease IS NULL AND q.due_at = 'infinity'
			ORDER BY q.priority, q.changed_at LIMIT at_most) k
		ORDER BY k.priority, k.nth
		LIMIT at_most
	)
	UPDATE rsvp_sync._queue q SET due_at = now()
	FROM parked p WHERE q.ctid = p.place;
	GET DIAGNOSTICS released = ROW_COUNT;
	RETURN released;
END
$$;
COMMENT ON FUNCTION rsvp_sync._release(text, integer) IS
'Lets parked keys of a server or DID go on; how many they were.';

/* For whom keys are parked, one look-up each. */
CREATE FUNCTION rsvp_sync._parked_for() RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
WITH RECURSIVE parked (subject) AS (
	SELECT (SELECT q.waits_for FROM rsvp_sync._queue q
		WHERE q.lease IS NULL AND q.due_at = 'infinity'
		ORDER BY q.waits_for LIMIT 1)
	UNION ALL
	SELECT (SELECT q.waits_for FROM rsvp_sync._queue q
		WHERE q.lease IS NULL AND q.due_at = 'infinity'
			AND q.waits_for > p.subject
		ORDER BY q.waits_for LIMIT 1)
	FROM parked p WHERE p.subject IS NOT NULL
)
SELECT p.subject FROM parked p WHERE p.subject IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._parked_for() IS
'Servers and DIDs that parked keys wait for.';

/* What a dead incarnation had in hand. */
CREATE FUNCTION rsvp_sync._release_leases(incarnation bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._queue SET lease = NULL, due_at = least(due_at, now())
WHERE lease IS NOT NULL AND lease <> incarnation
$$;
COMMENT ON FUNCTION rsvp_sync._release_leases(bigint) IS
'Frees leases of earlier incarnations, at the worker''s start.';

/*
 * Waits are moments of the wall clock, and so come as much later as that is
 * set back.
 */
CREATE FUNCTION rsvp_sync._clock_set_back(by_how_much interval) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._queue SET due_at = due_at - by_how_much
WHERE due_at > now();
UPDATE rsvp_sync._source SET retry_at = retry_at - by_how_much,
	compare_at = compare_at - by_how_much
WHERE retry_at > now() OR compare_at > now();
UPDATE rsvp_sync._intent SET writeback_at = writeback_at - by_how_much
WHERE writeback AND writeback_at > now();
UPDATE rsvp_sync._account
SET rate_limited_until = rate_limited_until - by_how_much
WHERE rate_limited_until > now();
UPDATE rsvp_sync._identity SET looked_at = looked_at - by_how_much,
	resolved_at = resolved_at - by_how_much,
	verify_at = verify_at - by_how_much
WHERE looked_at > now() OR resolved_at > now() OR verify_at > now();
UPDATE rsvp_sync._event SET read_at = read_at - by_how_much
WHERE read_at > now();
UPDATE rsvp_sync._webmention SET due_at = due_at - by_how_much,
	status_due = status_due - by_how_much
WHERE due_at > now() OR status_due > now();
$$;
COMMENT ON FUNCTION rsvp_sync._clock_set_back(interval) IS
'Brings forward by this much what is waited for.';

/* Of a clock set back while no worker ran, what happened since tells. */
CREATE FUNCTION rsvp_sync._clock_check() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._clock_set_back(l.at - now())
FROM (SELECT greatest((SELECT max(h.at) FROM rsvp_sync._history h),
	(SELECT max(q.changed_at) FROM rsvp_sync._queue q)) AS at) l
WHERE l.at > now() + interval '1 second'
$$;
COMMENT ON FUNCTION rsvp_sync._clock_check() IS
'Notices, at the worker''s start, that the clock was set back.';

CREATE FUNCTION rsvp_sync._inbound_next_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
	RETURN (SELECT least(
		(SELECT min(b.due_at) FROM rsvp_sync._inbound b WHERE b.state = 'apply'),
		(SELECT min(x.due_at) FROM rsvp_sync._external x
		WHERE x.due_at IS NOT NULL),
		(SELECT min(l.strangers_at) FROM rsvp_sync._listeners() l
		WHERE l.state = 'active' AND l.strangers_at IS NOT NULL))
	WHERE current_setting('rsvp_sync.mode') = 'live');
END
$$;
COMMENT ON FUNCTION rsvp_sync._inbound_next_due() IS
'When something that was said on the network is to be tried again.';

/*
 * When something becomes due, or NULL.  What is due already was leased just
 * now, or belongs to a source at rest.
 */
CREATE FUNCTION rsvp_sync._next_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
	RETURN least(
		(SELECT min(k.due_at)
		FROM rsvp_sync._waiting_sources() w
		CROSS JOIN (VALUES (0), (1)) p (priority)
		CROSS JOIN LATERAL (SELECT q.due_at FROM rsvp_sync._queue q
			WHERE q.source_id = w AND q.priority = p.priority
				AND q.lease IS NULL AND q.due_at < 'infinity'
				AND q.due_at > now()
			ORDER BY q.due_at LIMIT 1) k),
		(SELECT min(s.retry_at) FROM rsvp_sync._source s
		WHERE s.state <> 'paused' AND s.retry_at > now()),
		rsvp_sync._inbound_next_due(), rsvp_sync._visits_next_due());
END
$$;
COMMENT ON FUNCTION rsvp_sync._next_due() IS
'When the worker has to look again without being told.';

CREATE TYPE rsvp_sync._work AS (
	source_id bigint, key text, generation bigint,
	action text,					-- put, delete, read
	need text,						-- list, event, identity: what is missing first
	subject text,					-- of the need: a DID or an at-uri
	did text, pds text, rkey text,
	record text, cid text, swap text, mint boolean,
	event_uri text, organiser text, organiser_pds text,
	sent_local text,				-- the local value the call stands for
	withdraws boolean,				-- counts as a withdrawal
	credential_of text,				-- which one the account has now
	priority smallint
);

CREATE FUNCTION rsvp_sync._rsvp_record(old_record jsonb, event_uri text,
	event_cid text, value text, created_at text)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN coalesce(old_record, '{}') || jsonb_build_object(
	'$type', 'community.lexicon.calendar.rsvp',
	'subject', CASE WHEN jsonb_typeof(old_record -> 'subject') = 'object'
		THEN old_record -> 'subject' ELSE '{}' END
		|| jsonb_build_object('uri', event_uri, 'cid', event_cid),
	'status', 'community.lexicon.calendar.rsvp#' || value,
	'createdAt', created_at);
COMMENT ON FUNCTION rsvp_sync._rsvp_record(jsonb, text, text, text, text) IS
'The record to write, over what is there: unknown fields stay. Lexicon community.lexicon.calendar.rsvp.';

/*
 * A record was found to have the last word, but nobody has told the row: it
 * was known before the row was, or the row's own word came in between.
 */
CREATE FUNCTION rsvp_sync._hear(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM unnest(es) e WHERE (e.d).reason_code
			IN ('remote_newer', 'changed_elsewhere', 'deleted_elsewhere')) THEN
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state, source_id)
	SELECT DISTINCT ON (u.did, u.rkey) u.did, u.rkey, u.event_uri, 'apply',
		of_source
	FROM (SELECT e.did, coalesce((e.s).remote_rkey, e.rkey) AS rkey,
			e.event_uri
		FROM unnest(es) e
		WHERE (e.d).reason_code IN ('remote_newer', 'changed_elsewhere',
			'deleted_elsewhere')) u
	WHERE u.rkey IS NOT NULL AND EXISTS (SELECT FROM rsvp_sync._listeners() l
		WHERE l.source_id = of_source)
	/* What was given up is news now. */
	ON CONFLICT (did, rkey) DO UPDATE SET state = 'apply', attempts = 0,
		due_at = now(), source_id = NULL
	WHERE rsvp_sync._inbound.state = 'failed';
END
$$;
COMMENT ON FUNCTION rsvp_sync._hear(bigint, rsvp_sync._evaluation[]) IS
'Has records applied that planning found to win, where no merge has.';

/*
 * Somebody who merges what was said on the network has the intents of his
 * slots until his transaction ends, which may be the application's and last.
 * Neither waits for the other: keys whose intent cannot be had are looked at
 * again in a moment.  So are those whose first intent he has just made.
 */
CREATE FUNCTION rsvp_sync._hold_intents(of_source bigint, keys text[])
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
	/* See _park() for why each key is looked up by itself. */
	held text[] := ARRAY(SELECT i.key FROM unnest(keys) k
		CROSS JOIN LATERAL (SELECT n.key FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = k
			FOR NO KEY UPDATE SKIP LOCKED) i);
	others text[];
	taken text[];
BEGIN
	IF cardinality(held) = cardinality(keys) THEN
		RETURN keys;
	END IF;
	others := ARRAY(SELECT unnest(keys) EXCEPT SELECT unnest(held));
	taken := ARRAY(SELECT i.key FROM unnest(others) k
		CROSS JOIN LATERAL (SELECT n.key FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = k LIMIT 1) i)
		|| rsvp_sync._intents_being_made(of_source, others);
	IF taken = '{}' THEN
		RETURN keys;
	END IF;
	PERFORM rsvp_sync._put_aside(of_source, taken);
	RETURN ARRAY(SELECT k FROM unnest(keys) k WHERE k <> ALL (taken));
END
$$;
COMMENT ON FUNCTION rsvp_sync._hold_intents(bigint, text[]) IS
'Locks the intents of keys that are planned; gives back, and leaves out, those that somebody else has.';

CREATE FUNCTION rsvp_sync._intents_being_made(of_source bigint, keys text[])
RETURNS text[]
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_intents_being_made';
COMMENT ON FUNCTION rsvp_sync._intents_being_made(bigint, text[]) IS
'Of these keys those whose intent is being inserted by a transaction under way.';

CREATE FUNCTION rsvp_sync._put_aside(of_source bigint, keys text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
UPDATE rsvp_sync._queue q SET lease = NULL,
	due_at = now() + interval '50 milliseconds'
WHERE q.source_id = of_source AND q.key = ANY (keys)
$$;
COMMENT ON FUNCTION rsvp_sync._put_aside(bigint, text[]) IS
'Has leased keys looked at again in a moment; no try is used up.';

/* A record that changes hands concerns another intent, too. */
CREATE FUNCTION rsvp_sync._hold_partners(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS rsvp_sync._evaluation[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
	partners integer;
	alone text[];
BEGIN
	SELECT count(*) INTO partners FROM unnest(es) e
	WHERE e.from_key IS NOT NULL OR (e.d).action = 'handover';
	IF partners = 0 THEN
		RETURN es;
	END IF;
	WITH pair AS MATERIALIZED (
		SELECT e.key, CASE WHEN (e.d).action = 'handover' THEN e.heir_source
				ELSE e.from_source END AS partner_source,
			CASE WHEN (e.d).action = 'handover' THEN e.heir_key
				ELSE e.from_key END AS partner_key
		FROM unnest(es) e
		WHERE e.from_key IS NOT NULL OR (e.d).action = 'handover'
	), held AS MATERIALIZED (
		SELECT i.source_id, i.key FROM pair p
		CROSS JOIN LATERAL (SELECT n.source_id, n.key FROM rsvp_sync._intent n
			WHERE n.source_id = p.partner_source AND n.key = p.partner_key
			FOR NO KEY UPDATE SKIP LOCKED) i
	)
	SELECT coalesce(array_agg(p.key), '{}') INTO alone FROM pair p
	WHERE NOT EXISTS (SELECT FROM held h
		WHERE h.source_id = p.partner_source AND h.key = p.partner_key);
	IF alone = '{}' THEN
		RETURN es;
	END IF;
	PERFORM rsvp_sync._put_aside(of_source, alone);
	RETURN ARRAY(SELECT e FROM unnest(es) e WHERE e.key <> ALL (alone));
END
$$;
COMMENT ON FUNCTION rsvp_sync._hold_partners(bigint, rsvp_sync._evaluation[]) IS
'Locks the intents that a batch''s records come from or go to; gives back the keys for which that cannot be done now.';

/*
 * Plan leased keys, record the decisions, and hand out the network's part.
 * The caller commits before anything is sent.
 *
 * Always some keys of large tables whose statistics may be old or missing:
 * look-ups by index are right however the planner sees it.  src/owner.c takes
 * these settings back for the application's query.
 */
CREATE FUNCTION rsvp_sync._plan_keys(of_source bigint, keys text[])
RETURNS SETOF rsvp_sync._work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off
SET enable_bitmapscan = off
AS $$
DECLARE
	es rsvp_sync._evaluation[];
	work rsvp_sync._work[];
	straight rsvp_sync._work[];
	rehearsal boolean := current_setting('rsvp_sync.mode') = 'dry_run';
BEGIN
	/* Paused since these keys were leased. */
	IF EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.source_id = of_source AND s.state = 'paused') THEN
		PERFORM rsvp_sync._end_lease(of_source, keys);
		RETURN;
	END IF;
	straight := rsvp_sync._plan_straight(of_source, keys);
	IF straight IS NOT NULL THEN
		RETURN QUERY SELECT * FROM unnest(straight);
		IF cardinality(straight) = cardinality(keys) THEN
			RETURN;
		END IF;
		keys := ARRAY(SELECT unnest(keys) EXCEPT
			SELECT w.key FROM unnest(straight) w);
	END IF;
	keys := rsvp_sync._hold_intents(of_source, keys);
	SELECT array_agg(e) INTO es
	FROM rsvp_sync._evaluate(of_source, keys, false) e;
	IF rsvp_sync._find_credentials(of_source, es) THEN
		SELECT array_agg(e) INTO es
		FROM rsvp_sync._evaluate(of_source, keys, false) e;
	END IF;
	es := rsvp_sync._in_turn(of_source, rsvp_sync._hold_partners(of_source,
		es));
	es := rsvp_sync._brake(of_source, es);
	PERFORM rsvp_sync._take_over(of_source, es);
	IF NOT rehearsal THEN
		SELECT array_agg(w) INTO work
		FROM rsvp_sync._make_work(of_source, es) w;
	END IF;
	PERFORM rsvp_sync._record_decisions(of_source, es, work);
	PERFORM rsvp_sync._count_withdrawals(of_source, work);
	PERFORM rsvp_sync._hear(of_source, es);
	PERFORM rsvp_sync._note_webmentions(of_source, keys);
	IF rehearsal THEN
		PERFORM rsvp_sync._rehearse(of_source, es);
	END IF;
	/* Nothing left to do about its old slot: it is planned for the new one. */
	UPDATE rsvp_sync._queue q SET lease = NULL, due_at = now()
	WHERE q.ctid = ANY (ARRAY(SELECT (SELECT n.ctid FROM rsvp_sync._queue n
			WHERE n.source_id = of_source AND n.key = e.key)
		FROM unnest(es) e WHERE (e.d).reason_code = 'moved'));
	DELETE FROM rsvp_sync._queue q
	WHERE q.ctid = ANY (ARRAY(SELECT (SELECT n.ctid FROM rsvp_sync._queue n
			WHERE n.source_id = of_source AND n.key = e.key)
		FROM unnest(es) e
		WHERE (rehearsal OR (e.d).action NOT IN ('put', 'delete', 'read',
				'list'))
			AND (e.d).reason_code IS DISTINCT FROM 'moved'));
	PERFORM rsvp_sync._wake_slots(of_source, es);
	IF EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.source_id = of_source AND s.state = 'detaching') THEN
		PERFORM rsvp_sync._finish_detach(of_source);
	END IF;
	RETURN QUERY SELECT * FROM unnest(work);
END
$$;
COMMENT ON FUNCTION rsvp_sync._plan_keys(bigint, text[]) IS
'Plans leased keys; what the network has to do comes back as rows, already committed to in _intent once the caller commits.';

/*
 * One record, several keys: of those planned together the one that could take
 * the record over comes first, and the one that has it in the next turn, due
 * in a moment, since this turn has leased what was due already.  Of several
 * that would speak for a slot the one changed last comes first.
 * A key whose call is under way is not taken from: the taker waits.
 */
CREATE FUNCTION rsvp_sync._in_turn(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS rsvp_sync._evaluation[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	waiting text[];
	later text[];
BEGIN
	SELECT coalesce(array_agg(e.key), '{}') INTO waiting
	FROM unnest(es) e
	JOIN rsvp_sync._queue q
		ON q.source_id = e.from_source AND q.key = e.from_key
	WHERE q.lease IS NOT NULL AND (e.d).live
		AND (e.d).state IS DISTINCT FROM 'superseded'
		AND (e.from_source <> of_source
			OR e.from_key NOT IN (SELECT o.key FROM unnest(es) o));
	/* New to their slot, or changed: they have not seen each other. */
	SELECT coalesce(array_agg(s.key), '{}') INTO later
	FROM (SELECT e.key, row_number() OVER (PARTITION BY e.did, e.event_uri
			ORDER BY e.local_at DESC, e.key DESC) AS nth
		FROM unnest(es) e
		WHERE (e.d).live AND (e.d).state IS DISTINCT FROM 'superseded'
			AND e.key <> ALL (waiting)) s
	WHERE s.nth > 1;
	later := later || ARRAY(
		SELECT e.from_key FROM unnest(es) e
		WHERE e.from_source = of_source AND (e.d).live
			AND (e.d).state IS DISTINCT FROM 'superseded'
			AND e.key <> ALL (waiting || later)
		UNION
		SELECT e.key FROM unnest(es) e
		WHERE (e.d).action = 'handover' AND e.heir_source = of_source
			AND e.heir_key IN (SELECT o.key FROM unnest(es) o));
	IF waiting = '{}' AND later = '{}' THEN
		RETURN es;
	END IF;
	UPDATE rsvp_sync._queue q SET lease = NULL,
		due_at = now() + CASE WHEN q.key = ANY (waiting)
			THEN interval '100 milliseconds' ELSE interval '1 millisecond' END
	WHERE q.source_id = of_source AND q.key = ANY (waiting || later);
	RETURN ARRAY(SELECT e FROM unnest(es) e
		WHERE e.key <> ALL (waiting || later));
END
$$;
COMMENT ON FUNCTION rsvp_sync._in_turn(bigint, rsvp_sync._evaluation[]) IS
'Leaves out of a batch the keys that have to wait for another one''s turn with the same record.';

/* The withdrawals of one batch that would go beyond the limit are held. */
CREATE FUNCTION rsvp_sync._brake(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS rsvp_sync._evaluation[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	withdrawing integer;
	budget bigint;
	counted text[];
BEGIN
	IF NOT EXISTS (SELECT FROM unnest(es) e WHERE (e.d).withdraws) THEN
		RETURN es;
	END IF;
	/* Those have been let pass, and were counted then. */
	counted := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (SELECT q.counted FROM rsvp_sync._queue q
			WHERE q.source_id = of_source AND q.key = e.key));
	SELECT count(*) INTO withdrawing FROM unnest(es) e
	WHERE (e.d).withdraws AND (e.d).action IN ('put', 'delete')
		AND NOT (e.s).approved AND e.key <> ALL (counted);
	IF withdrawing = 0 THEN
		RETURN es;
	END IF;
	budget := rsvp_sync._withdraw_budget(of_source, withdrawing);
	IF withdrawing <= budget THEN
		RETURN es;
	END IF;
	RETURN (WITH ranked AS (
		SELECT e, row_number() OVER (PARTITION BY (e.d).withdraws
			AND (e.d).action IN ('put', 'delete') AND NOT (e.s).approved
			AND e.key <> ALL (counted)
			ORDER BY e.changed_at, e.key) AS nth
		FROM unnest(es) e
	)
	SELECT array_agg(CASE
		WHEN NOT ((r.e).d).withdraws
			OR ((r.e).d).action NOT IN ('put', 'delete')
			OR ((r.e).s).approved OR (r.e).key = ANY (counted)
			OR r.nth <= budget THEN r.e
		ELSE rsvp_sync._hold(r.e) END)
	FROM ranked r);
END
$$;
COMMENT ON FUNCTION rsvp_sync._brake(bigint, rsvp_sync._evaluation[]) IS
'Turns the withdrawals of a batch beyond withdraw_limit into holds.';

CREATE FUNCTION rsvp_sync._hold(e rsvp_sync._evaluation)
RETURNS rsvp_sync._evaluation
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	e.s.over_limit := true;
	e.d := rsvp_sync.plan(e.s);
	RETURN e;
END
$$;
COMMENT ON FUNCTION rsvp_sync._hold(rsvp_sync._evaluation) IS
'The same key, decided with the withdrawal limit used up.';

/* A record changes hands between two keys of one slot. */
CREATE FUNCTION rsvp_sync._take_over(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM unnest(es) e
		WHERE e.from_key IS NOT NULL OR (e.d).action = 'handover') THEN
		RETURN;
	END IF;
	/*
	 * This key speaks now; the other one is superseded, or, if it was not to
	 * speak any more, looked at again without the record.
	 */
	UPDATE rsvp_sync._intent i SET bond = NULL, doubt = false,
		sent_cids = '{}', base_cid = NULL, state = 'superseded',
		reason_code = 'superseded',
		reason = rsvp_sync._reason('superseded')
	FROM unnest(es) e
	WHERE i.source_id = e.from_source AND i.key = e.from_key
		AND (e.d).live AND (e.d).state IS DISTINCT FROM 'superseded';
	PERFORM rsvp_sync._enqueue(i.source_id, ARRAY[i.key], 0::smallint,
		coalesce(i.local_at, now()))
	FROM unnest(es) e
	JOIN rsvp_sync._intent i
		ON i.source_id = e.from_source AND i.key = e.from_key
	WHERE NOT i.live AND (e.d).live
		AND (e.d).state IS DISTINCT FROM 'superseded';
	/* This key leaves; the other one goes on with its record. */
	UPDATE rsvp_sync._intent h SET bond = (e.d).bond, rkey = i.rkey,
		wrote = i.wrote OR (e.s).remote_sent,
		/* A send may just have turned out to have arrived. */
		base_local = (e.d).base_local, base_cid = (e.d).base_cid,
		record_created_at = i.record_created_at,
		heard_cid = CASE WHEN (e.s).remote_sent THEN (e.s).remote_cid
			ELSE i.heard_cid END,
		heard_status = CASE WHEN (e.s).remote_sent THEN (e.s).remote_status
			ELSE i.heard_status END
	FROM unnest(es) e
	JOIN rsvp_sync._intent i ON i.source_id = of_source AND i.key = e.key
	WHERE (e.d).action = 'handover'
		AND h.source_id = e.heir_source AND h.key = e.heir_key;
END
$$;
COMMENT ON FUNCTION rsvp_sync._take_over(bigint, rsvp_sync._evaluation[]) IS
'Moves the bond where one key takes a slot over from another.';

/*
 * Decisions into intent, and what is about to be sent, before it is sent; a
 * key that is only forgotten leaves it.
 */
CREATE FUNCTION rsvp_sync._record_decisions(of_source bigint,
	es rsvp_sync._evaluation[], work rsvp_sync._work[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	unsent text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.d).action = 'none' AND (e.s).present);
	/* Approved until it is done, whatever it has to wait for. */
	withdrawing text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.d).withdraws);
	takers text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE e.from_key IS NOT NULL);
	arrived text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.s).remote_sent);
	/*
	 * The base follows, and nothing was agreed on: what was heard before is
	 * no measure any more of what is said from now on.
	 */
	gave_way text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.d).reason_code IN ('remote_newer', 'changed_elsewhere'));
	/* So where the application has taken something from the network itself. */
	took text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.d).reason_code = 'from_network'
			AND (e.d).base_local IS DISTINCT FROM (e.s).base_local);
	/* Most are. */
	queued text := rsvp_sync._reason('queued');
	published text := rsvp_sync._reason('published');
	/* No record key is known yet: the one of the call is new. */
	minted text[] := ARRAY(SELECT e.key FROM unnest(es) e
		WHERE (e.d).rkey IS NULL AND e.rkey IS NULL);
BEGIN
	/* A write whose answer was lost turns out to have been made. */
	PERFORM rsvp_sync._count_operation(of_source, 'create',
		(e.s).remote_status)
	FROM unnest(es) e WHERE (e.s).remote_sent;

	DELETE FROM rsvp_sync._intent i
	WHERE i.ctid = ANY (ARRAY(SELECT (SELECT n.ctid FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = e.key)
		FROM unnest(es) e
		WHERE (e.d).action IN ('forget', 'handover')
			AND NOT (e.s).present));

	INSERT INTO rsvp_sync._intent AS i (source_id, key, did, event_uri, live,
		local, local_at, first_local, bond, wrote, rkey, record_created_at,
		base_local, base_cid, sent_cids, sent_local, doubt, heard_cid,
		heard_status, mirrors, state, reason_code, reason, writeback,
		writeback_at)
	SELECT of_source, e.key, e.did, e.event_uri, (e.d).live, (e.s).local,
		e.local_at, coalesce((e.s).first_local, (e.s).local),
		CASE WHEN (e.d).action <> 'handover' THEN (e.d).bond END,
		(e.s).wrote OR (e.s).remote_sent,
		coalesce(w.rkey, (e.d).rkey, e.rkey),
		e.record_created_at, (e.d).base_local, (e.d).base_cid,
		/* '': a deletion, of which no earlier one is in doubt any more. */
		CASE WHEN w.key IS NULL OR w.cid = ANY (sent.cids) THEN sent.cids
			ELSE array_remove(sent.cids, '') || coalesce(w.cid, '') END,
		CASE WHEN w.key IS NULL THEN (e.s).sent_local ELSE w.sent_local END,
		(e.s).doubt AND NOT (e.d).confirmed OR w.key IS NOT NULL,
		/* What both sides agree on is heard; so is what it takes over. */
		CASE WHEN e.key = ANY (gave_way) THEN '?'
			WHEN (e.s).remote_sent OR (e.d).reason_code = 'published'
			THEN (e.s).remote_cid
			WHEN e.key = ANY (takers) THEN coalesce((SELECT g.heard_cid
				FROM rsvp_sync._intent g WHERE g.source_id = e.from_source
					AND g.key = e.from_key AND g.heard_cid = '?'),
				(e.d).base_cid, '?') END,
		CASE WHEN e.key = ANY (gave_way) THEN NULL
			WHEN (e.s).remote_sent OR (e.d).reason_code = 'published'
			THEN (e.s).remote_status
			WHEN e.key = ANY (takers) THEN (e.d).base_local END,
		e.mirrors, c.state, c.code, CASE c.code
			WHEN 'withheld' THEN coalesce((e.d).reason_code, 'withheld')
			WHEN 'queued' THEN queued
			WHEN 'published' THEN published
			WHEN 'unmapped_status'
			THEN rsvp_sync._reason(c.code, e.status)
			WHEN 'status_not_published'
			THEN rsvp_sync._reason(c.code, e.status)
			ELSE rsvp_sync._reason(c.code) END,
		/*
		 * Nothing to send: a new row that takes a record over is told here,
		 * and perhaps the application saved stale metadata.
		 */
		(e.d).action <> 'handover' AND (e.d).bond IS NOT NULL
			AND e.key = ANY (unsent), now()
	FROM unnest(es) e
	CROSS JOIN LATERAL rsvp_sync._standing(e) c
	CROSS JOIN LATERAL (SELECT CASE WHEN (e.d).confirmed THEN '{}'
		ELSE e.sent_cids END) sent (cids)
	LEFT JOIN unnest(work) w ON w.key = e.key
		AND w.need IS NULL AND w.action IN ('put', 'delete')
	WHERE (e.s).present
		OR (e.d).action NOT IN ('forget', 'handover')
	ON CONFLICT (source_id, key) DO UPDATE SET
		did = excluded.did, event_uri = excluded.event_uri,
		live = excluded.live, local = excluded.local,
		local_at = excluded.local_at, first_local = excluded.first_local,
		bond = excluded.bond, wrote = excluded.wrote, rkey = excluded.rkey,
		record_created_at = excluded.record_created_at,
		base_local = excluded.base_local, base_cid = excluded.base_cid,
		sent_cids = excluded.sent_cids, sent_local = excluded.sent_local,
		doubt = excluded.doubt,
		/* What it has of another key, it has with what that one heard. */
		heard_cid = CASE WHEN excluded.key = ANY (took)
				AND i.heard_cid IS NOT NULL THEN '?'
			WHEN excluded.heard_cid IS NOT NULL
					AND (coalesce(i.heard_cid, '?') = '?'
						OR excluded.key = ANY (arrived || gave_way))
				OR excluded.key = ANY (takers)
				OR (i.did, i.event_uri) IS DISTINCT FROM
					(excluded.did, excluded.event_uri)
			THEN excluded.heard_cid ELSE i.heard_cid END,
		heard_status = CASE WHEN excluded.key = ANY (took)
				AND i.heard_cid IS NOT NULL THEN NULL
			WHEN excluded.heard_cid IS NOT NULL
					AND (coalesce(i.heard_cid, '?') = '?'
						OR excluded.key = ANY (arrived || gave_way))
				OR excluded.key = ANY (takers)
				OR (i.did, i.event_uri) IS DISTINCT FROM
					(excluded.did, excluded.event_uri)
			THEN excluded.heard_status ELSE i.heard_status END,
		mirrors = excluded.mirrors,
		truncated = i.truncated AND NOT excluded.live,
		approved = i.approved AND (excluded.state = 'held'
			OR excluded.key = ANY (withdrawing)),
		state = excluded.state, reason_code = excluded.reason_code,
		reason = excluded.reason,
		writeback = i.writeback OR excluded.writeback
			OR CASE WHEN excluded.key = ANY (minted) THEN i.rkey IS NOT NULL
				ELSE excluded.rkey IS DISTINCT FROM i.rkey END
			OR excluded.base_cid IS DISTINCT FROM i.base_cid,
		writeback_at = CASE WHEN i.writeback THEN i.writeback_at
			ELSE now() END,
		synced_at = CASE WHEN excluded.state = 'done' AND i.state <> 'done'
			THEN now() ELSE i.synced_at END;
END
$$;
COMMENT ON FUNCTION rsvp_sync._record_decisions(bigint, rsvp_sync._evaluation[], rsvp_sync._work[]) IS
'Writes into _intent what plan() said, and commits to the calls before they are made: record key, cid, doubt.';

CREATE FUNCTION rsvp_sync._make_work(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS SETOF rsvp_sync._work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH located AS MATERIALIZED (
		SELECT e.*, home.pds, o.organiser, at.pds AS organiser_pds,
			coalesce((e.d).rkey, e.rkey,
				/* An explicit call has told its caller. */
				(SELECT x.id FROM rsvp_sync._source s
				JOIN rsvp_sync._explicit x ON x.id = e.key
				WHERE s.source_id = of_source AND s.kind = 'explicit'),
				rsvp_sync.tid_now()) AS the_rkey,
			CASE WHEN (e.d).action = 'put' AND e.event_cid IS NOT NULL
				THEN rsvp_sync._rsvp_record(e.record, e.event_uri, e.event_cid,
					(e.d).send, e.record_created_at) END AS new_record,
			/* What has to be read from the network before the call. */
			CASE WHEN home.pds IS NULL
					OR home.looked_at <= now() - fresh.fresh THEN 'identity'
				WHEN (e.d).action = 'list' OR home.moved THEN 'list'
				WHEN (e.d).action <> 'put' OR e.event_cid IS NOT NULL THEN NULL
				WHEN at.pds IS NULL OR at.looked_at <= now() - interval '1 hour'
				THEN 'organiser' ELSE 'event' END AS need
		FROM unnest(es) e
		CROSS JOIN LATERAL (SELECT (rsvp_sync.parse_at_uri(e.event_uri)).authority
			AS organiser) o
		CROSS JOIN rsvp_sync._identity_fresh() fresh (fresh)
		LEFT JOIN LATERAL (SELECT h.* FROM rsvp_sync._home h
			WHERE h.did = e.did LIMIT 1) home ON true
		LEFT JOIN LATERAL (SELECT h.* FROM rsvp_sync._home h
			WHERE h.did = o.organiser LIMIT 1) at ON true
		WHERE (e.d).action IN ('put', 'delete', 'read', 'list')
	)
	SELECT of_source, l.key, q.generation, (l.d).action,
		/* The identity of the organiser, or the account's own. */
		CASE l.need WHEN 'organiser' THEN 'identity' ELSE l.need END,
		CASE l.need WHEN 'event' THEN l.event_uri
			WHEN 'organiser' THEN l.organiser
			WHEN 'identity' THEN l.did WHEN 'list' THEN l.did END,
		l.did, l.pds, l.the_rkey, l.new_record::text,
		CASE WHEN l.need IS NULL THEN rsvp_sync.record_cid(l.new_record) END,
		(l.d).swap, (l.d).swap IS NULL, l.event_uri, l.organiser, l.organiser_pds,
		/* A deletion stands for a value only if that asked for it. */
		CASE WHEN (l.d).action = 'put' THEN (l.d).send
			WHEN (l.d).live THEN (l.s).local END,
		(l.d).withdraws AND NOT q.counted,
		(SELECT a.connected_at::text FROM rsvp_sync._account a
		WHERE a.did = l.did), q.priority
	FROM located l
	CROSS JOIN LATERAL (SELECT n.generation, n.counted, n.priority
		FROM rsvp_sync._queue n
		WHERE n.source_id = of_source AND n.key = l.key LIMIT 1) q;
END
$$;
COMMENT ON FUNCTION rsvp_sync._make_work(bigint, rsvp_sync._evaluation[]) IS
'Calls to be made, with record key, record and its cid.';

/* Withdrawals about to be sent, for the brake. */
CREATE FUNCTION rsvp_sync._count_withdrawals(of_source bigint,
	work rsvp_sync._work[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
AS $$
DECLARE
	keys text[];
BEGIN
	SELECT array_agg(w.key) INTO keys FROM unnest(work) w
	WHERE w.need IS NULL AND w.action IN ('put', 'delete') AND w.withdraws;
	IF keys IS NULL THEN
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._withdrawal AS t (source_id, minute, n)
	VALUES (of_source, date_trunc('minute', now()), cardinality(keys))
	ON CONFLICT (source_id, minute) DO UPDATE SET n = t.n + excluded.n;
	UPDATE rsvp_sync._queue q SET counted = true
	WHERE q.source_id = of_source AND q.key = ANY (keys);
	DELETE FROM rsvp_sync._withdrawal t
	WHERE t.source_id = of_source AND t.minute < now() - interval '1 hour';
END
$$;
COMMENT ON FUNCTION rsvp_sync._count_withdrawals(bigint, rsvp_sync._work[]) IS
'Counts the withdrawals among calls that are about to be made.';

/* Mode dry_run: what would be sent goes to the history only. */
CREATE FUNCTION rsvp_sync._rehearse(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome,
		status, uri)
	SELECT of_source, e.key, e.did, (e.d).action, 'dry_run', (e.d).send,
		e.event_uri
	FROM unnest(es) e WHERE (e.d).action IN ('put', 'delete', 'read', 'list');
	UPDATE rsvp_sync._intent i SET state = 'withheld',
		reason_code = 'dry_run', reason = rsvp_sync._reason('dry_run')
	FROM unnest(es) e
	WHERE i.source_id = of_source AND i.key = e.key
		AND (e.d).action IN ('put', 'delete', 'read', 'list');
END
$$;
COMMENT ON FUNCTION rsvp_sync._rehearse(bigint, rsvp_sync._evaluation[]) IS
'Mode dry_run: records what would be sent.';

/* Mode live after dry_run: what was only rehearsed is done now. */
CREATE FUNCTION rsvp_sync._perform_rehearsed() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._queue AS q (source_id, key, priority, due_at,
	changed_at)
SELECT i.source_id, i.key, 1, now(), coalesce(i.local_at, now())
FROM rsvp_sync._intent i WHERE i.reason_code = 'dry_run'
ON CONFLICT (source_id, key) DO UPDATE SET generation = q.generation + 1
$$;
COMMENT ON FUNCTION rsvp_sync._perform_rehearsed() IS
'Puts keys in that mode dry_run only rehearsed.';

/* History is deleted in small batches, as often as the worker likes. */
CREATE FUNCTION rsvp_sync._forget_history() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	forgotten bigint;
BEGIN
	DELETE FROM rsvp_sync._history h
	WHERE h.ctid = ANY (ARRAY(
		SELECT o.ctid FROM rsvp_sync._history o
		WHERE o.at < now()
			- current_setting('rsvp_sync.history_retention')::interval
		ORDER BY o.at LIMIT 1000));
	GET DIAGNOSTICS forgotten = ROW_COUNT;
	RETURN forgotten;
END
$$;
COMMENT ON FUNCTION rsvp_sync._forget_history() IS
'Deletes some of the history beyond history_retention; how much.';

/*
 * Keys that stood back for one that has just left their slot, and keys that
 * spoke for a slot, or waited to, where another one does now.  They are due in
 * a moment, since this turn has leased what was due already.
 */
CREATE FUNCTION rsvp_sync._wake_slots(of_source bigint,
	es rsvp_sync._evaluation[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
AS $$
BEGIN
	INSERT INTO rsvp_sync._queue AS q (source_id, key, due_at, changed_at)
	SELECT i.source_id, i.key, now() + interval '1 millisecond', i.local_at
	FROM unnest(es) e
	JOIN rsvp_sync._intent i ON i.did = e.was_did
		AND i.event_uri = e.was_event_uri
	WHERE e.was_live AND i.live AND (i.source_id, i.key) <> (of_source, e.key)
		AND (NOT (e.d).live OR (e.did, e.event_uri)
			IS DISTINCT FROM (e.was_did, e.was_event_uri))
	UNION
	SELECT i.source_id, i.key, now() + interval '1 millisecond', i.local_at
	FROM unnest(es) e
	JOIN rsvp_sync._intent i ON i.did = e.did AND i.event_uri = e.event_uri
	WHERE (e.d).live AND (e.d).state IS DISTINCT FROM 'superseded'
		AND i.live AND i.state <> 'superseded'
		AND ((i.local_at, i.source_id, i.key) < (e.local_at, of_source, e.key)
			/* What was told of a record is younger than what made it. */
			OR i.mirrors AND i.source_id <> of_source
				AND (NOT e.mirrors OR (e.d).bond IS NOT NULL))
	ON CONFLICT (source_id, key) DO UPDATE SET generation = q.generation + 1;
END
$$;
COMMENT ON FUNCTION rsvp_sync._wake_slots(bigint, rsvp_sync._evaluation[]) IS
'Puts keys in whose place in a slot another one has left or taken.';

/* A source being detached is gone once nothing of it is out there. */
CREATE FUNCTION rsvp_sync._is_detached(of_source bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM rsvp_sync._queue q
		WHERE q.source_id = of_source)
	AND NOT EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.source_id = of_source
			AND (i.bond IS NOT NULL OR i.doubt
				/* The row is told that its record is gone. */
				OR i.writeback AND i.writeback_failures < 3))
	AND NOT EXISTS (SELECT FROM rsvp_sync._webmention w
		WHERE w.source_id = of_source AND w.due_at IS NOT NULL)
$$;
COMMENT ON FUNCTION rsvp_sync._is_detached(bigint) IS
'Is nothing of a source out there any more, and every row told?';

CREATE FUNCTION rsvp_sync._finish_detach(of_source bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM rsvp_sync._source s
WHERE s.source_id = of_source AND s.state = 'detaching'
	AND rsvp_sync._is_detached(of_source)
$$;
COMMENT ON FUNCTION rsvp_sync._finish_detach(bigint) IS
'Removes a detaching source whose records are all withdrawn.';
