/*
 * What is observed in a slot, and what its rows make of it: the merge, and the
 * apply function.  Whoever merges locks the slot's intents first and then
 * reads; the sync worker leaves keys alone whose intent is locked.
 */

CREATE FUNCTION rsvp_sync._merge(present boolean, withdrawing boolean,
	local text, base_local text, heard boolean, heard_cid text,
	heard_status text, remote_cid text, remote_status text,
	remote_sent boolean, local_newer boolean, conflict text,
	verified boolean, remote_other boolean DEFAULT false)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_merge';
COMMENT ON FUNCTION rsvp_sync._merge(boolean, boolean, text, text, boolean, text, text, text, text, boolean, boolean, text, boolean, boolean) IS
'What a statement on the network means for an attendance row: none, echo (our own write), keep (a word we do not know), agree, local (the row speaks), verify (ask first), apply or cancel. Pure; src/merge.c.';

/* A slot of one source: who speaks for it on either side, and what follows. */
CREATE TYPE rsvp_sync._meeting AS (
	did text, event_uri text,
	key text,						-- the row that speaks; NULL: none is known
	local text,						-- what it says now
	rkey text, cid text, status text, rev text, source text,	-- the record
	record jsonb,
	at timestamptz,
	verdict text,
	seen_key text,					-- the row that this was decided upon
	seen text,						-- its status then; NULL: not known
	taken_key text,					-- what the apply function said
	kept text,						-- the row's status, where it was right
	error text
);

/* What a row says, as its source's query has it. */
CREATE TYPE rsvp_sync._said AS (
	key text, did text, event_uri text, status text,
	local text,						-- what that maps to
	withdraws boolean				-- no record is what it wants
);

/*
 * Those that speak for their slots, as _evaluate() has it.  (A plan that was
 * made while there were few would look at all of the source's.)
 */
CREATE FUNCTION rsvp_sync._speaking_intents(of_source bigint, dids text[],
	uris text[])
RETURNS rsvp_sync._intent[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET enable_hashjoin = off
SET jit = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
	/* All of a slot are locked: sorting needs the last of them, too. */
	RETURN (SELECT array_agg(i.n)
	FROM unnest(dids, uris) AS s (did, event_uri)
	CROSS JOIN LATERAL (SELECT l.n
		FROM (SELECT n, n.live, n.local_at, n.key FROM rsvp_sync._intent n
			WHERE n.did = s.did AND n.event_uri = s.event_uri
				AND n.source_id = of_source
			ORDER BY n.key FOR NO KEY UPDATE) l
		ORDER BY l.live DESC, l.local_at DESC NULLS LAST, l.key DESC
		LIMIT 1) i);
END
$$;
COMMENT ON FUNCTION rsvp_sync._speaking_intents(bigint, text[], text[]) IS
'Locks the intents of these slots in a source, and gives those that speak for them.';

/*
 * The slots that a source has to do with: it knows the event, or has a row
 * there.  Locks their intents.  rows: where an attendance row is there that
 * was not the one expected, its key.
 */
CREATE FUNCTION rsvp_sync._meet(src rsvp_sync._source, dids text[],
	uris text[], known_uris text[], rows text[] DEFAULT NULL)
RETURNS rsvp_sync._meeting[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	intents rsvp_sync._intent[];
	map jsonb := rsvp_sync._status_map(src.source_id);
	keys text[];
	said rsvp_sync._said[];
	/* What this transaction has changed itself is in no log yet. */
	own_changes timestamptz := CASE WHEN rsvp_sync._pending_in_transaction()
		THEN now() END;
BEGIN
	intents := rsvp_sync._speaking_intents(src.source_id, dids, uris);
	keys := ARRAY(SELECT i.key FROM unnest(intents) i
		UNION SELECT r FROM unnest(rows) r WHERE r IS NOT NULL);
	/*
	 * A statement of its own, before the one that looks into log and queue:
	 * when a row changed that is seen to have changed, that one knows.
	 */
	said := ARRAY(SELECT ROW(d.key, d.did, d.event_uri, d.status,
			map ->> d.status, d.withheld IS NOT NULL
				AND d.on_withheld = 'delete')::rsvp_sync._said
		FROM rsvp_sync._desired(src.source_id, keys) d);

	RETURN (
	WITH known AS MATERIALIZED (
		SELECT DISTINCT u AS uri FROM unnest(known_uris) u
	), desired AS MATERIALIZED (
		SELECT d.* FROM unnest(said) d
	), planned AS MATERIALIZED (
		/* What planning has seen; while we have the intent it sees no more. */
		SELECT d.key, n.key IS NOT NULL AS known, n.local_at,
			n.key IS NULL OR n.local IS DISTINCT FROM d.local
			OR (n.did, n.event_uri) IS DISTINCT FROM (d.did, d.event_uri)
				AS changed
		FROM desired d
		LEFT JOIN LATERAL (SELECT i.* FROM rsvp_sync._intent i
			WHERE i.source_id = src.source_id AND i.key = d.key LIMIT 1) n ON true
	), logged AS MATERIALIZED (
		SELECT l.key, max(l.changed_at) AS changed_at
		FROM rsvp_sync._change_log l
		WHERE l.source_id = src.source_id AND l.op = 'c'
			AND l.key = ANY (ARRAY(SELECT p.key FROM planned p WHERE p.changed))
		GROUP BY l.key
	), news AS MATERIALIZED (
		SELECT p.key, p.known, p.changed, coalesce(l.changed_at,
			(SELECT q.changed_at FROM rsvp_sync._queue q
			WHERE q.source_id = src.source_id AND q.key = p.key),
			own_changes, p.local_at) AS changed_at
		FROM planned p LEFT JOIN logged l ON l.key = p.key
		WHERE p.changed OR p.key = ANY (rows)
	)
	SELECT array_agg(ROW(s.did, s.event_uri, i.key, d.local,
		CASE WHEN v.verdict = 'verify' AND h.rkey IS NOT NULL THEN h.rkey
			ELSE coalesce(o.rkey, t.rkey, i.rkey) END, o.cid, o.status,
		coalesce(o.rev, t.rev), coalesce(o.source, t.source), o.record,
		coalesce(o.changed_at, t.changed_at, now()), v.verdict,
		coalesce(s.row, d.key), CASE WHEN s.row IS NULL OR d.key = s.row
			THEN d.status ELSE x.status END, NULL, NULL,
		NULL)::rsvp_sync._meeting ORDER BY s.did, s.event_uri)
	FROM unnest(dids, uris, rows) AS s (did, event_uri, row)
	LEFT JOIN known k ON k.uri = s.event_uri
	LEFT JOIN unnest(intents) spoke
		ON spoke.did = s.did AND spoke.event_uri = s.event_uri
	LEFT JOIN desired x ON x.key = s.row
	/*
	 * A row of this slot that planning has not seen, or not as it is: if it is
	 * new it speaks here and now, else planning has to see it first.
	 */
	LEFT JOIN news other ON other.key = s.row AND x.did = s.did
		AND x.event_uri = s.event_uri AND other.key IS DISTINCT FROM spoke.key
		/* Or seen just now: it had no intent when we asked for that. */
		AND (other.changed OR spoke.key IS NULL)
	LEFT JOIN unnest(intents) i ON i.did = s.did
		AND i.event_uri = s.event_uri AND other.key IS NULL
	LEFT JOIN desired d ON d.key = coalesce(other.key, i.key)
	LEFT JOIN news n ON n.key = d.key
	/*
	 * The newest record of the slot speaks, be it whose it may.  But what only
	 * another tenant's application has told is not believed here.
	 */
	LEFT JOIN LATERAL (SELECT r.* FROM rsvp_sync._observed r
		WHERE r.did = s.did AND r.event_uri = s.event_uri
			AND r.cid IS NOT NULL
			AND coalesce(src.source_id = ANY (r.heard_by), true)
		ORDER BY r.changed_at DESC NULLS LAST, r.rkey DESC LIMIT 1) o ON true
	LEFT JOIN LATERAL (SELECT r.* FROM rsvp_sync._observed r
		WHERE r.did = s.did AND o.cid IS NULL
			/* Or it is about another event now. */
			AND (r.event_uri = s.event_uri AND r.cid IS NULL
				OR r.event_uri <> s.event_uri AND r.rkey = i.rkey)
			AND coalesce(src.source_id = ANY (r.heard_by), true)
		ORDER BY r.changed_at DESC NULLS LAST, r.rkey DESC LIMIT 1) t ON true
	LEFT JOIN LATERAL (SELECT r.rkey, r.cid FROM rsvp_sync._observed r
		WHERE r.did = s.did AND r.event_uri = s.event_uri
			AND src.source_id <> ALL (r.heard_by)
			AND r.changed_at > coalesce(o.changed_at, t.changed_at, '-infinity')
		ORDER BY r.changed_at DESC NULLS LAST, r.rkey DESC LIMIT 1) h ON true
	CROSS JOIN LATERAL (SELECT d.key IS NOT NULL
		AND coalesce(d.did = s.did, true)
		AND coalesce(d.event_uri = s.event_uri, true) AS present) p
	CROSS JOIN LATERAL (SELECT CASE WHEN other.known THEN 'put_off'
		ELSE rsvp_sync._merge(p.present,
			/* No record is what we want, or just what we asked for. */
			d.withdraws
				OR d.local IS NULL AND i.bond = 'own'
				OR i.doubt AND (i.sent_cids = '{}' OR '' = ANY (i.sent_cids))
				/* Nobody has said so: observed is not in a dump. */
				OR o.cid IS NULL AND t.did IS NULL
				OR EXISTS (SELECT FROM rsvp_sync._account a
					WHERE a.did = s.did AND a.leaving IS NOT NULL),
			d.local, i.base_local,
			i.heard_cid IS NOT NULL, i.heard_cid, i.heard_status,
			o.cid, o.status, o.cid = ANY (i.sent_cids),
			/* When it went, nobody knows who only found it gone. */
			o.cid IS NULL AND t.source IN ('read', 'list') OR
			CASE WHEN i.local IS NOT DISTINCT FROM d.local
					AND other.key IS NULL THEN i.local_at
				ELSE n.changed_at END >= coalesce(o.changed_at, t.changed_at),
			coalesce(src.options ->> 'conflict', 'latest'), o.verified,
			/* What was heard is the bond's record, or is still there. */
			o.status = i.heard_status AND o.cid <> i.heard_cid
				AND (i.bond IS NOT NULL AND i.base_cid = i.heard_cid
					AND i.rkey <> o.rkey
				OR EXISTS (SELECT FROM rsvp_sync._observed r
					WHERE r.did = s.did AND r.event_uri = s.event_uri
						AND r.cid = i.heard_cid AND r.rkey <> o.rkey))) END
		AS verdict) w
	/* If that is the last word, its author is asked. */
	CROSS JOIN LATERAL (SELECT CASE WHEN h.rkey IS NOT NULL
			AND w.verdict <> 'put_off' AND (p.present OR h.cid IS NOT NULL)
			AND coalesce(h.cid <> ALL (i.sent_cids), true) THEN 'verify'
		ELSE w.verdict END AS verdict) v
	WHERE k.uri IS NOT NULL OR spoke.key IS NOT NULL);
END
$$;
COMMENT ON FUNCTION rsvp_sync._meet(rsvp_sync._source, text[], text[], text[], text[]) IS
'What these slots, each given once, are like in a source now, and what the merge says; locks their intents. rows: keys of rows that are there and were not expected.';

/* What the application is told of a record. */
CREATE FUNCTION rsvp_sync._apply_meetings(src rsvp_sync._source,
	meetings rsvp_sync._meeting[], of_handle text)
RETURNS rsvp_sync._meeting[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	uris text[] := ARRAY(SELECT m.event_uri FROM unnest(meetings) m);
BEGIN
	RETURN (SELECT array_agg(ROW(m.did, m.event_uri, m.key, m.local, m.rkey,
			m.cid, m.status, m.rev, m.source, m.record, m.at,
			CASE WHEN a.code = 'surprise' THEN a.code ELSE m.verdict END,
			m.seen_key, m.seen, a.key, a.kept,
			a.error)::rsvp_sync._meeting ORDER BY m.n)
	FROM unnest(meetings) WITH ORDINALITY m
		(did, event_uri, key, local, rkey, cid, status, rev, source, record,
		at, verdict, seen_key, seen, taken_key, kept, error, n)
	LEFT JOIN rsvp_sync._apply(src.source_id,
		ARRAY(SELECT m.did FROM unnest(meetings) m), uris,
		ARRAY(SELECT m.status FROM unnest(meetings) m),
		ARRAY(SELECT json_build_object(
				'uri', 'at://' || m.did || '/community.lexicon.calendar.rsvp/'
					|| m.rkey, 'cid',
				CASE WHEN m.cid NOT LIKE '?%' THEN m.cid END,
				'rkey', m.rkey, 'status', m.status, 'record', m.record,
				'handle', coalesce(of_handle, (SELECT d.handle
					FROM rsvp_sync._identity d
					WHERE d.did = m.did AND d.handle_ok)),
				'rev', m.rev, 'source', m.source)::text
			FROM unnest(meetings) m),
		ARRAY(SELECT m.seen_key FROM unnest(meetings) m),
		ARRAY(SELECT m.seen FROM unnest(meetings) m)) a ON a.n = m.n);
END
$$;
COMMENT ON FUNCTION rsvp_sync._apply_meetings(rsvp_sync._source, rsvp_sync._meeting[], text) IS
'Has the application take these answers; what it said is in taken_key, kept and error, verdict is surprise where its row is not the one that was seen.';

/*
 * After an apply both sides agree, whatever the application has made of it.
 * The record of the bond stays the one that is written to, as long as it is
 * there; else the one that spoke is adopted, unless another key has it.
 */
CREATE FUNCTION rsvp_sync._agree_applied(src rsvp_sync._source,
	meetings rsvp_sync._meeting[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	map jsonb := rsvp_sync._status_map(src.source_id);
	from_network text := rsvp_sync._reason('from_network');
	said rsvp_sync._said[] := ARRAY(
		SELECT ROW(f.key, f.did, f.event_uri, f.status, NULL,
			NULL)::rsvp_sync._said
		FROM rsvp_sync._desired(src.source_id,
			ARRAY(SELECT t.taken_key FROM unnest(meetings) t)) f);
BEGIN
	INSERT INTO rsvp_sync._intent AS i (source_id, key, did, event_uri,
		local, local_at, first_local, bond, wrote, rkey, base_local, base_cid,
		heard_cid, heard_status, mirrors, state, reason_code, reason,
		synced_at, writeback, writeback_at)
	SELECT src.source_id, m.taken_key, m.did, m.event_uri, d.local, m.at,
		d.local, b.bond, b.kept AND w.wrote,
		CASE WHEN b.kept THEN w.rkey WHEN b.bond IS NOT NULL THEN m.rkey END,
		d.local, CASE WHEN b.kept THEN w.remote_cid ELSE m.cid END,
		coalesce(m.cid, ''), m.status, m.seen_key IS DISTINCT FROM m.taken_key
			OR m.local IS DISTINCT FROM d.local, 'done', 'from_network',
		from_network, now(),
		b.bond IS NOT NULL OR w.bond IS NOT NULL, now()
	FROM unnest(meetings) m
	/*
	 * A row that was written is ours until this transaction ends.  One that
	 * was right as it was may say something else by now, which is news.
	 */
	CROSS JOIN LATERAL (SELECT f.key, f.did, f.event_uri,
			map ->> coalesce(m.kept, f.status) AS local
		FROM unnest(said) f WHERE f.key = m.taken_key) d
	/* What it was bound to in this slot, if that is still there. */
	LEFT JOIN LATERAL (SELECT n.*, r.cid AS remote_cid
		FROM rsvp_sync._intent n
		LEFT JOIN LATERAL (SELECT o.cid FROM rsvp_sync._observed o
			WHERE o.did = n.did AND o.rkey = n.rkey LIMIT 1) r ON true
		WHERE n.source_id = src.source_id AND n.key = m.taken_key
			AND n.did = m.did AND n.event_uri = m.event_uri LIMIT 1) w ON true
	CROSS JOIN LATERAL (SELECT
		m.cid IS NOT NULL AND w.bond IS NOT NULL AND w.remote_cid IS NOT NULL
			AS kept,
		CASE WHEN m.cid IS NULL OR d.did <> m.did
				OR d.event_uri <> m.event_uri THEN NULL
			/* An own record is withdrawn with its status; this is not. */
			WHEN w.bond IS NOT NULL AND w.remote_cid IS NOT NULL
			THEN CASE WHEN d.local IS NULL THEN 'adopted' ELSE w.bond END
			/* Or has just written it, and does not know yet. */
			WHEN EXISTS (SELECT FROM rsvp_sync._intent g
				WHERE g.did = m.did AND g.event_uri = m.event_uri
					AND (g.bond IS NOT NULL OR g.doubt)
					AND (g.source_id, g.key)
						<> (src.source_id, m.taken_key)) THEN NULL
			ELSE 'adopted' END AS bond
		/* Looked up once, not for each use of it. */
		OFFSET 0) b
	ON CONFLICT (source_id, key) DO UPDATE SET
		did = excluded.did, event_uri = excluded.event_uri,
		local = excluded.local, local_at = excluded.local_at,
		bond = excluded.bond, wrote = excluded.wrote, rkey = excluded.rkey,
		record_created_at = CASE WHEN i.rkey = excluded.rkey
			THEN i.record_created_at END,
		base_local = excluded.base_local, base_cid = excluded.base_cid,
		heard_cid = excluded.heard_cid, heard_status = excluded.heard_status,
		/* A row that goes on saying what it said before is not a mirror. */
		mirrors = i.mirrors OR excluded.mirrors,
		sent_cids = '{}', sent_local = NULL, doubt = false, approved = false,
		/*
		 * Withheld or not to be published: planning knows why.  Unless that
		 * was only for want of a word.
		 */
		(state, reason_code, reason) = (SELECT
			CASE WHEN k.withheld THEN i.state ELSE excluded.state END,
			CASE WHEN k.withheld THEN i.reason_code
				ELSE excluded.reason_code END,
			CASE WHEN k.withheld THEN i.reason ELSE excluded.reason END
			FROM (SELECT i.state = 'withheld' AND (excluded.local IS NULL
				OR i.reason_code NOT IN ('not_backfilled', 'never_published'))
				AS withheld) k),
		failed_at = NULL, failed_attempts = NULL, failed_error = NULL,
		synced_at = excluded.synced_at,
		writeback = i.writeback OR i.rkey IS DISTINCT FROM excluded.rkey
			OR i.base_cid IS DISTINCT FROM excluded.base_cid,
		writeback_at = CASE WHEN i.writeback THEN i.writeback_at
			ELSE excluded.writeback_at END;
	/* A row that spoke for the slot, where the application took another. */
	UPDATE rsvp_sync._intent i SET heard_cid = coalesce(m.cid, ''),
		heard_status = m.status
	FROM unnest(meetings) m
	WHERE m.key <> m.taken_key AND i.source_id = src.source_id
		AND i.key = m.key;
	/* Who speaks for a slot of several keys may be another one now. */
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT n.source_id, n.key, CASE WHEN n.taken THEN 'n' ELSE 'l' END
	FROM unnest(meetings) m
	CROSS JOIN LATERAL (SELECT o.source_id, o.key, t.taken,
			count(*) OVER () AS of_slot
		FROM rsvp_sync._intent o
		CROSS JOIN LATERAL (SELECT (o.source_id, o.key)
			= (src.source_id, m.taken_key) AS taken) t
		WHERE o.did = m.did AND o.event_uri = m.event_uri
			AND (o.live OR t.taken)) n
	WHERE n.of_slot > 1;
END
$$;
COMMENT ON FUNCTION rsvp_sync._agree_applied(rsvp_sync._source, rsvp_sync._meeting[]) IS
'After an apply: what the rows say now and the record they were told of are the new base.';

/*
 * What needs no apply: the row says so already, or what changed does not
 * concern it; or it speaks itself, and planning sends that.
 */
CREATE FUNCTION rsvp_sync._note_heard(src rsvp_sync._source,
	meetings rsvp_sync._meeting[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	UPDATE rsvp_sync._intent i SET
		heard_cid = coalesce(m.cid, ''), heard_status = m.status,
		base_local = CASE WHEN settled AND m.local IS NOT DISTINCT FROM
			coalesce(m.status, 'notgoing') THEN m.local
			WHEN refused THEN m.status
			/* There is something to decline after all. */
			WHEN m.verdict = 'local' AND m.cid IS NOT NULL
				AND n.bond IS NULL AND n.reason_code = 'never_published'
			THEN NULL ELSE i.base_local END,
		base_cid = CASE WHEN settled AND (m.cid IS NULL OR i.rkey = m.rkey
				OR i.bond IS NULL) OR refused THEN m.cid ELSE i.base_cid END,
		bond = CASE WHEN settled AND m.cid IS NULL THEN NULL
			WHEN settled AND adopts THEN 'adopted' ELSE i.bond END,
		rkey = CASE WHEN settled AND m.cid IS NULL THEN NULL
			WHEN settled AND adopts THEN m.rkey ELSE i.rkey END,
		wrote = CASE WHEN settled AND (m.cid IS NULL OR adopts) THEN false
			ELSE i.wrote END
	FROM unnest(meetings) m
	CROSS JOIN LATERAL (SELECT n.* FROM rsvp_sync._intent n
		WHERE n.source_id = src.source_id AND n.key = m.key LIMIT 1) n
	CROSS JOIN LATERAL (SELECT m.verdict = 'agree' AND NOT n.doubt AS settled,
		/* Neither side has him come: whatever the row says next is news. */
		m.verdict = 'local' AND m.local IS NULL AND m.status = 'notgoing'
			AND n.bond = 'adopted' AND n.rkey = m.rkey AND NOT n.doubt AS refused,
		n.bond IS NULL AND m.cid IS NOT NULL AND m.local = m.status
			AND NOT EXISTS (SELECT FROM rsvp_sync._intent g
				WHERE g.did = m.did AND g.event_uri = m.event_uri
					AND (g.bond IS NOT NULL OR g.doubt)) AS adopts) x
	WHERE i.source_id = src.source_id AND i.key = m.key
		/* One that is new has nothing to remember it by yet. */
		AND m.key = m.seen_key;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT src.source_id, m.seen_key, 'l' FROM unnest(meetings) m;
END
$$;
COMMENT ON FUNCTION rsvp_sync._note_heard(rsvp_sync._source, rsvp_sync._meeting[]) IS
'Remembers what was heard where nothing is to be applied, and has the keys planned.';

/* What could not be done now is done later; see _inbound_retry(). */
CREATE FUNCTION rsvp_sync._put_off(src rsvp_sync._source,
	meetings rsvp_sync._meeting[], as_state text, counted boolean,
	at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._inbound AS b (did, rkey, event_uri, state, source_id,
	due_at, attempts, last_error)
SELECT DISTINCT ON (m.did, k.rkey) m.did, k.rkey, m.event_uri,
	as_state, CASE WHEN as_state <> 'verify' THEN src.source_id END,
	_put_off.at,				/* at alone would be the meeting's */
	CASE WHEN counted THEN 1 ELSE 0 END, m.error
FROM unnest(meetings) m
/* No record is known of the slot: what is no record key stands for it. */
CROSS JOIN LATERAL (SELECT coalesce(m.rkey, '/' || md5(m.event_uri)) AS rkey) k
ON CONFLICT (did, rkey) DO UPDATE SET
	event_uri = excluded.event_uri,
	/* Another source waits for it, too. */
	source_id = CASE WHEN b.source_id = excluded.source_id
		THEN b.source_id END,
	/*
	 * What one source waits to have verified is asked for, whatever another
	 * one's trouble is: that is merged once more with the answer.
	 */
	attempts = b.attempts + CASE WHEN b.state = 'verify' THEN 0
		ELSE excluded.attempts END,
	state = CASE WHEN 'verify' IN (b.state, excluded.state) THEN 'verify'
		WHEN b.attempts + excluded.attempts
			>= current_setting('rsvp_sync.max_attempts')::integer
		THEN 'failed' ELSE excluded.state END,
	due_at = CASE WHEN b.state = 'verify' AND excluded.state <> 'verify'
		THEN b.due_at WHEN counted
		THEN now() + rsvp_sync._backoff(b.attempts) ELSE excluded.due_at END,
	last_error = coalesce(excluded.last_error, b.last_error)
$$;
COMMENT ON FUNCTION rsvp_sync._put_off(rsvp_sync._source, rsvp_sync._meeting[], text, boolean, timestamptz) IS
'Keeps answers that cannot be applied now: verify or apply, from when on, and whether that counts as a try.';

/* Of these meetings those with this verdict. */
CREATE FUNCTION rsvp_sync._with_verdict(meetings rsvp_sync._meeting[],
	VARIADIC verdicts text[])
RETURNS rsvp_sync._meeting[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY(SELECT m FROM unnest(meetings) m
	WHERE m.verdict = ANY (verdicts));
COMMENT ON FUNCTION rsvp_sync._with_verdict(rsvp_sync._meeting[], text[]) IS
'Those of these meetings that have one of these verdicts.';

/* The same meetings, with another verdict. */
CREATE FUNCTION rsvp_sync._as_verdict(meetings rsvp_sync._meeting[],
	other text)
RETURNS rsvp_sync._meeting[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY(SELECT ROW(m.did, m.event_uri, m.key, m.local, m.rkey, m.cid,
		m.status, m.rev, m.source, m.record, m.at, other, m.seen_key, m.seen,
		NULL, NULL, NULL)::rsvp_sync._meeting
	FROM unnest(meetings) m);
COMMENT ON FUNCTION rsvp_sync._as_verdict(rsvp_sync._meeting[], text) IS
'These meetings with this verdict, and nothing done.';

/* What is to be applied to rows, after the apply function has been asked. */
CREATE FUNCTION rsvp_sync._apply_chosen(src rsvp_sync._source,
	meetings rsvp_sync._meeting[], of_handle text)
RETURNS rsvp_sync._meeting[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	began timestamptz := clock_timestamp();
	mode text := current_setting('rsvp_sync.mode');
	chosen rsvp_sync._meeting[];
	applied rsvp_sync._meeting[];
	refused rsvp_sync._meeting[];
BEGIN
	IF mode <> 'live' OR src.state <> 'active' THEN
		PERFORM rsvp_sync._put_off(src, meetings, 'apply', false,
			now() + interval '10 seconds');
		IF mode = 'dry_run' THEN
			PERFORM rsvp_sync._note_applied(src, meetings, 'dry_run');
		END IF;
		RETURN rsvp_sync._as_verdict(meetings, 'put_off');
	END IF;

	chosen := rsvp_sync._apply_meetings(src, meetings, of_handle);
	/* '': it knows the event, and needs no row for that. */
	applied := ARRAY(SELECT m FROM unnest(chosen) m
		WHERE m.taken_key <> '' AND m.error IS NULL
			AND m.verdict <> 'surprise');
	IF applied <> '{}' THEN
		PERFORM rsvp_sync._agree_applied(src, applied);
		PERFORM rsvp_sync._note_applied(src, applied, 'ok');
		PERFORM rsvp_sync._count_applied(src.tenant, applied,
			clock_timestamp() - began);
	END IF;
	refused := ARRAY(SELECT m FROM unnest(chosen) m
		WHERE m.taken_key IS NULL OR m.error IS NOT NULL);
	IF refused <> '{}' THEN
		PERFORM rsvp_sync._not_applied(src, refused);
	END IF;
	RETURN chosen;
END
$$;
COMMENT ON FUNCTION rsvp_sync._apply_chosen(rsvp_sync._source, rsvp_sync._meeting[], text) IS
'Has a source''s application take these answers, and notes what came of it.';

/*
 * One source's part.  A row that somebody changed after it was read here, or
 * that was not known, is read and the decision made once more.
 */
CREATE FUNCTION rsvp_sync._merge_source(src rsvp_sync._source, dids text[],
	uris text[], known_uris text[], of_handle text)
RETURNS rsvp_sync._meeting[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	meetings rsvp_sync._meeting[];
	chosen rsvp_sync._meeting[];
	done rsvp_sync._meeting[] := '{}';
	rows text[];
BEGIN
	FOR round IN 1 .. 3 LOOP
		meetings := rsvp_sync._meet(src, dids, uris, known_uris, rows);
		chosen := rsvp_sync._with_verdict(meetings, 'agree', 'local');
		IF chosen <> '{}' THEN
			PERFORM rsvp_sync._note_heard(src, chosen);
		END IF;
		chosen := rsvp_sync._with_verdict(meetings, 'verify');
		IF chosen <> '{}' THEN
			PERFORM rsvp_sync._put_off(src, chosen, 'verify', false, now());
		END IF;
		chosen := rsvp_sync._with_verdict(meetings, 'put_off');
		IF chosen <> '{}' THEN
			PERFORM rsvp_sync._plan_first(src, chosen);
		END IF;
		chosen := rsvp_sync._with_verdict(meetings, 'apply', 'cancel');
		IF cardinality(chosen) < coalesce(cardinality(meetings), 0) THEN
			done := done || ARRAY(SELECT m FROM unnest(meetings) m
				WHERE m.verdict NOT IN ('apply', 'cancel'));
		END IF;
		IF chosen = '{}' THEN
			RETURN done;
		END IF;
		meetings := rsvp_sync._apply_chosen(src, chosen, of_handle);
		chosen := rsvp_sync._with_verdict(meetings, 'surprise');
		IF chosen = '{}' THEN
			RETURN done || meetings;
		END IF;
		done := done || ARRAY(SELECT m FROM unnest(meetings) m
			WHERE m.verdict <> 'surprise');
		SELECT array_agg(m.did), array_agg(m.event_uri), array_agg(m.taken_key)
		INTO dids, uris, rows FROM unnest(chosen) m;
	END LOOP;
	/* Again and again: somebody is busy with it. */
	PERFORM rsvp_sync._plan_first(src, chosen);
	RETURN done || rsvp_sync._as_verdict(chosen, 'put_off');
END
$$;
COMMENT ON FUNCTION rsvp_sync._merge_source(rsvp_sync._source, text[], text[], text[], text) IS
'Merges these slots, each given once, into one source.';

/* Their rows have said something: planning looks at that, then we do. */
CREATE FUNCTION rsvp_sync._plan_first(src rsvp_sync._source,
	meetings rsvp_sync._meeting[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._put_off(src, meetings, 'apply', false, now() + CASE
		WHEN src.state <> 'active' THEN interval '10 seconds'
		/* It comes from another slot, whose record has to go first. */
		WHEN EXISTS (SELECT FROM unnest(meetings) m
			JOIN rsvp_sync._intent i ON i.key = m.seen_key
			WHERE i.source_id = src.source_id AND (i.did, i.event_uri)
				IS DISTINCT FROM (m.did, m.event_uri)) THEN interval '1 minute'
		ELSE interval '1 second' END);
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT src.source_id, m.seen_key, 'l' FROM unnest(meetings) m
	WHERE m.seen_key IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._plan_first(rsvp_sync._source, rsvp_sync._meeting[]) IS
'Has rows planned before what is said of them on the network is merged.';

/* An error is tried again; an event that the source does not know may come. */
CREATE FUNCTION rsvp_sync._not_applied(src rsvp_sync._source,
	meetings rsvp_sync._meeting[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	failing rsvp_sync._meeting[] := ARRAY(SELECT m FROM unnest(meetings) m
		WHERE m.error IS NOT NULL);
BEGIN
	IF failing <> '{}' THEN
		PERFORM rsvp_sync._put_off(src, failing, 'apply', true,
			now() + rsvp_sync._backoff(0));
		PERFORM rsvp_sync._count(jsonb_build_array(jsonb_build_object(
			'name', 'rsvp_sync_errors_total', 'value', cardinality(failing),
			'direction', 'inbound', 'error_type', 'apply_failed')));
	END IF;
	INSERT INTO rsvp_sync._stranger AS t (did, rkey, event_uri, rev)
	SELECT DISTINCT ON (m.did, m.rkey) m.did, m.rkey, m.event_uri, m.rev
	FROM unnest(meetings) m WHERE m.error IS NULL AND m.cid IS NOT NULL
	ON CONFLICT (did, rkey) DO UPDATE SET event_uri = excluded.event_uri,
		seen_at = now();
END
$$;
COMMENT ON FUNCTION rsvp_sync._not_applied(rsvp_sync._source, rsvp_sync._meeting[]) IS
'Keeps what the application did not take: for another try, or until it knows the event.';

CREATE FUNCTION rsvp_sync._note_applied(src rsvp_sync._source,
	meetings rsvp_sync._meeting[], what text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._history (source_id, key, did, action, outcome,
		status, uri, cid)
	SELECT src.source_id, coalesce(m.taken_key, m.key), m.did, 'apply', what,
		m.status, 'at://' || m.did || '/community.lexicon.calendar.rsvp/'
			|| m.rkey, CASE WHEN m.cid NOT LIKE '?%' THEN m.cid END
	FROM unnest(meetings) m;
END
$$;
COMMENT ON FUNCTION rsvp_sync._note_applied(rsvp_sync._source, rsvp_sync._meeting[], text) IS
'History of what was applied.';

/* One row of _tally: how many of each kind, and how long each took. */
CREATE FUNCTION rsvp_sync._count_applied(of_tenant text,
	meetings rsvp_sync._meeting[], took interval)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._count_integration(of_tenant, 'bluesky',
		count(*) FILTER (WHERE m.cid IS NOT NULL
			AND m.key IS DISTINCT FROM m.taken_key),
		count(*) FILTER (WHERE m.cid IS NOT NULL AND m.key = m.taken_key),
		count(*) FILTER (WHERE m.cid IS NULL), took)
	FROM unnest(meetings) m;
END
$$;
COMMENT ON FUNCTION rsvp_sync._count_applied(text, rsvp_sync._meeting[], interval) IS
'Counts what was applied, for the metrics.';

CREATE FUNCTION rsvp_sync._in_worker() RETURNS boolean
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_in_worker';
COMMENT ON FUNCTION rsvp_sync._in_worker() IS
'Is this one of our own processes, and not a session?';

/* A source whose query does not run, or is locked: later. */
CREATE FUNCTION rsvp_sync._cannot_merge(src rsvp_sync._source, dids text[],
	uris text[], known_uris text[], message text)
RETURNS rsvp_sync._meeting[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_mergejoin = off
AS $$
DECLARE
	meetings rsvp_sync._meeting[] := ARRAY(
		SELECT ROW(s.did, s.event_uri, NULL, NULL, o.rkey, o.cid, o.status,
			o.rev, o.source, NULL, o.changed_at, 'put_off', NULL, NULL, NULL,
			NULL, message)::rsvp_sync._meeting
		FROM unnest(dids, uris) s (did, event_uri)
		LEFT JOIN LATERAL (SELECT r.* FROM rsvp_sync._observed r
			WHERE r.did = s.did AND r.event_uri = s.event_uri
			/* One that is there, as _meet() has it. */
			ORDER BY r.cid IS NULL, r.changed_at DESC NULLS LAST,
				r.rkey DESC LIMIT 1) o ON true
		WHERE s.event_uri = ANY (known_uris)
			OR EXISTS (SELECT FROM rsvp_sync._intent i
				WHERE i.did = s.did AND i.event_uri = s.event_uri
					AND i.source_id = src.source_id));
BEGIN
	IF meetings <> '{}' THEN
		PERFORM rsvp_sync._put_off(src, meetings, 'apply', true,
			now() + rsvp_sync._backoff(0));
	END IF;
	RETURN meetings;
END
$$;
COMMENT ON FUNCTION rsvp_sync._cannot_merge(rsvp_sync._source, text[], text[], text[], text) IS
'Keeps the slots of a source that could not be merged at all for another try.';

/*
 * Where only the application's own function knows its events, everybody's
 * records come as far as that.  What it did not take, and nobody else has to
 * do with, is not kept: its stub is.
 */
CREATE FUNCTION rsvp_sync._drop_strangers(dids text[], uris text[],
	unknown text[], waiting text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM rsvp_sync._observed o
USING unnest(dids, uris) u (did, uri)
WHERE o.did = u.did AND o.event_uri = u.uri
	AND u.did || ' ' || u.uri = ANY (unknown)
	AND u.did || ' ' || u.uri <> ALL (waiting)
	/* The application's own word is kept until it knows the event. */
	AND o.source IN ('stream', 'read')
	AND NOT EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = o.did)
	AND NOT EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.did = o.did AND i.event_uri = o.event_uri)
	AND EXISTS (SELECT FROM rsvp_sync._stranger t
		WHERE t.did = o.did AND t.rkey = o.rkey)
$$;
COMMENT ON FUNCTION rsvp_sync._drop_strangers(text[], text[], text[], text[]) IS
'Forgets records that no application took, but for their stubs. unknown: slots that one did not take; waiting: those that another still may.';

/*
 * Merges slots into all sources that have to do with them (or those given).
 * Nothing is applied twice: what a source has heard of a slot is remembered.
 */
CREATE FUNCTION rsvp_sync._merge_slots(dids text[], uris text[],
	of_sources bigint[], known_sources bigint[], known_uris text[],
	of_handle text DEFAULT NULL)
RETURNS TABLE (source_id bigint, meeting rsvp_sync._meeting)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	meetings rsvp_sync._meeting[];
	waiting text[] := '{}';
	unknown text[] := '{}';
	known text[];
	trouble text;
	code text;
BEGIN
	SELECT array_agg(d.did), array_agg(d.uri) INTO dids, uris
	FROM (SELECT DISTINCT u.did COLLATE "C" AS did, u.uri COLLATE "C" AS uri
		FROM unnest(dids, uris) u (did, uri)
		WHERE u.did IS NOT NULL AND u.uri IS NOT NULL
		ORDER BY 1, 2) d;
	IF dids IS NULL THEN
		RETURN;
	END IF;
	IF known_sources IS NULL THEN
		SELECT coalesce(array_agg(k.source_id), '{}'),
			coalesce(array_agg(k.uri), '{}') INTO known_sources, known_uris
		FROM rsvp_sync._knowing(ARRAY(SELECT DISTINCT unnest(uris)),
			of_sources) k;
	END IF;
	FOR s IN SELECT * FROM rsvp_sync._listeners() l
		WHERE of_sources IS NULL OR l.source_id = ANY (of_sources)
	LOOP
		known := ARRAY(SELECT k.uri
			FROM unnest(known_sources, known_uris) k (source_id, uri)
			WHERE k.source_id = s.source_id);
		trouble := NULL;
		BEGIN
			meetings := rsvp_sync._merge_source(s, dids, uris, known,
				of_handle);
		EXCEPTION WHEN query_canceled OR OTHERS THEN
			/* Whoever cancels his own call means it. */
			IF SQLSTATE = '57014' AND NOT rsvp_sync._in_worker() THEN
				RAISE;
			END IF;
			trouble := SQLERRM;
			code := left(SQLSTATE, 2);
			meetings := NULL;
		END;
		/* What the application said of one slot is not to stop the others. */
		IF trouble IS NOT NULL AND code IN ('21', '22', '23')
			AND cardinality(dids) > 1 THEN
			FOR i IN 1 .. cardinality(dids) LOOP
				meetings := meetings || ARRAY(SELECT m.meeting
					FROM rsvp_sync._merge_slots(dids[i:i], uris[i:i],
						ARRAY[s.source_id], known_sources, known_uris,
						of_handle) m);
			END LOOP;
			meetings := coalesce(meetings, '{}');
		ELSIF trouble IS NOT NULL THEN
			meetings := rsvp_sync._cannot_merge(s, dids, uris, known, trouble);
		END IF;
		waiting := waiting || ARRAY(SELECT m.did || ' ' || m.event_uri
			FROM unnest(meetings) m WHERE m.error IS NOT NULL
				OR m.verdict IN ('put_off', 'verify'));
		unknown := unknown || ARRAY(SELECT m.did || ' ' || m.event_uri
			FROM unnest(meetings) m WHERE m.error IS NULL
				AND m.verdict IN ('apply', 'cancel') AND m.taken_key IS NULL);
		RETURN QUERY SELECT s.source_id, m FROM unnest(meetings) m;
	END LOOP;
	IF unknown <> '{}' THEN
		PERFORM rsvp_sync._drop_strangers(dids, uris, unknown, waiting);
	END IF;
	IF EXISTS (SELECT FROM rsvp_sync._inbound) THEN
		DELETE FROM rsvp_sync._inbound b
		USING unnest(dids, uris) u (did, uri)
		WHERE b.did = u.did AND b.event_uri = u.uri
			AND b.state IN ('apply', 'failed')
			AND u.did || ' ' || u.uri <> ALL (waiting)
			AND (of_sources IS NULL OR b.source_id = ANY (of_sources));
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._merge_slots(text[], text[], bigint[], bigint[], text[], text) IS
'Merges slots (did, event) as they are observed into the rows of all sources, or of those given. known: which source knows which event; NULL: they are asked.';

/*
 * The sync worker's part: what the application could not take, and records
 * whose event nobody knew.
 */

/* Some of what is due is tried again; how many. */
CREATE FUNCTION rsvp_sync._inbound_retry(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	dids text[];
	rkeys text[];
	uris text[];
BEGIN
	IF current_setting('rsvp_sync.mode') <> 'live' THEN
		RETURN 0;
	END IF;
	SELECT array_agg(b.did), array_agg(b.rkey), array_agg(b.event_uri)
	INTO dids, rkeys, uris
	FROM (SELECT b.* FROM rsvp_sync._inbound b
		WHERE b.state = 'apply' AND b.due_at <= now()
		ORDER BY b.due_at LIMIT at_most FOR UPDATE SKIP LOCKED) b;
	IF dids IS NULL THEN
		RETURN 0;
	END IF;
	/* Whatever comes of it, it is not due at once again. */
	UPDATE rsvp_sync._inbound b SET due_at = now() + interval '10 seconds'
	FROM unnest(dids, rkeys) u (did, rkey)
	WHERE b.did = u.did AND b.rkey = u.rkey;
	PERFORM rsvp_sync._merge_slots(dids, uris, NULL, NULL, NULL);
	RETURN cardinality(dids);
END
$$;
COMMENT ON FUNCTION rsvp_sync._inbound_retry(integer) IS
'Tries to apply what could not be applied before, as far as it is due.';

/*
 * What is put aside, and what waits to be verified, is what others say, so
 * that there may be any number of it.  The newest is kept: of what was given
 * up for as long as history is, of what was to be verified as a stub else.
 */
CREATE FUNCTION rsvp_sync._tidy_inbound() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
	given_up bigint;
	unread bigint;
BEGIN
	DELETE FROM rsvp_sync._inbound b
	WHERE b.ctid = ANY (ARRAY(
			SELECT f.ctid FROM rsvp_sync._inbound f
			WHERE f.state = 'failed' ORDER BY f.due_at DESC OFFSET 10000
			FOR UPDATE SKIP LOCKED))
		OR b.state = 'failed' AND b.due_at < now()
			- current_setting('rsvp_sync.history_retention')::interval;
	GET DIAGNOSTICS given_up = ROW_COUNT;
	WITH gone AS (
		DELETE FROM rsvp_sync._inbound b
		WHERE b.ctid = ANY (ARRAY(
			SELECT v.ctid FROM rsvp_sync._inbound v
			WHERE v.state = 'verify' ORDER BY v.due_at DESC OFFSET 100000
			FOR UPDATE SKIP LOCKED))
		RETURNING b.did, b.rkey, b.event_uri
	), stubs AS (
		INSERT INTO rsvp_sync._stranger AS t (did, rkey, event_uri)
		SELECT g.did, g.rkey, g.event_uri FROM gone g
		WHERE g.event_uri IS NOT NULL
		ON CONFLICT (did, rkey) DO NOTHING
	)
	SELECT count(*) INTO unread FROM gone;
	IF unread > 0 THEN
		PERFORM rsvp_sync._forget_strangers();
	END IF;
	PERFORM rsvp_sync._count(jsonb_build_array(jsonb_build_object(
		'name', 'rsvp_sync_errors_total', 'value', f.n,
		'direction', 'inbound', 'error_type', f.kind)))
	FROM (VALUES (given_up, 'forgotten'), (unread, 'not_verified')) f (n, kind)
	WHERE f.n > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._tidy_inbound() IS
'Forgets what could not be applied beyond history_retention and ten thousand, and has no more than a hundred thousand records wait to be verified.';

/*
 * Of the events that nobody knew, which does a source know by now?  A slice of
 * them at a time.  Their records have to be fetched, but for those we have.
 */
CREATE FUNCTION rsvp_sync._ask_strangers(at_most integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
	s rsvp_sync._source;
	uris text[];
	taken text[];
BEGIN
	SELECT l.* INTO s FROM rsvp_sync._listeners() l
	WHERE l.strangers_at <= now() AND l.state = 'active'
	ORDER BY l.strangers_at LIMIT 1;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	uris := ARRAY(SELECT DISTINCT t.event_uri FROM (
		SELECT t.event_uri FROM rsvp_sync._stranger t
		WHERE s.strangers_from IS NULL OR t.event_uri > s.strangers_from
		ORDER BY t.event_uri LIMIT at_most) t ORDER BY 1);
	UPDATE rsvp_sync._source w SET
		strangers_from = CASE WHEN cardinality(uris) > 0
			THEN uris[cardinality(uris)] END,
		strangers_at = CASE WHEN cardinality(uris) > 0 THEN now()
			ELSE now() + greatest(interval '1 minute',
				current_setting('rsvp_sync.reconcile_interval')::interval) END
	WHERE w.source_id = s.source_id;
	IF cardinality(uris) = 0 THEN
		PERFORM rsvp_sync._forget_strangers();
		RETURN false;
	END IF;
	IF s.apply IS NOT NULL THEN
		taken := rsvp_sync._would_take(s.source_id, ARRAY(
			SELECT DISTINCT ON (t.event_uri) ROW(t.did, t.rkey, NULL, t.rev,
				t.event_uri, NULL, 'going', NULL, NULL)::rsvp_sync._arrival
			FROM rsvp_sync._stranger t WHERE t.event_uri = ANY (uris)
			ORDER BY t.event_uri));
	END IF;
	WITH known AS (
		SELECT DISTINCT k.uri
		FROM rsvp_sync._knowing(uris, ARRAY[s.source_id]) k
		WHERE NOT k.unsure OR k.uri = ANY (taken)
	), gone AS (
		DELETE FROM rsvp_sync._stranger t USING known k
		WHERE t.event_uri = k.uri RETURNING t.did, t.rkey, t.event_uri
	)
	INSERT INTO rsvp_sync._inbound (did, rkey, event_uri, state)
	SELECT g.did, g.rkey, g.event_uri, CASE WHEN o.verified
		AND o.cid IS NOT NULL THEN 'apply' ELSE 'verify' END
	FROM gone g
	LEFT JOIN rsvp_sync._observed o ON o.did = g.did AND o.rkey = g.rkey
	ON CONFLICT (did, rkey) DO NOTHING;
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._ask_strangers(integer) IS
'Asks a source for some of the events that nobody knew when records about them came; true: there may be more to do.';

CREATE FUNCTION rsvp_sync._events_changed(of_source bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._source s SET strangers_from = NULL,
	strangers_at = now() + interval '1 second'
WHERE s.source_id = of_source
	AND s.source_id IN (SELECT l.source_id FROM rsvp_sync._listeners() l)
	AND (s.strangers_at IS NULL OR s.strangers_at > now() + interval '1 second')
	AND EXISTS (SELECT FROM rsvp_sync._stranger)
$$;
COMMENT ON FUNCTION rsvp_sync._events_changed(bigint) IS
'An event may be known now that was not: a row that the source''s query depends on changed, or all of it was compared.';

/* All of that, where something is due; true: there may be more to do. */
CREATE FUNCTION rsvp_sync._inbound_work() RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	due timestamptz := rsvp_sync._inbound_next_due();
	more boolean;
BEGIN
	IF coalesce(due > now(), true) THEN
		RETURN false;
	END IF;
	more := rsvp_sync._inbound_retry(100) = 100;
	IF rsvp_sync._external_retry(20) = 20 THEN
		more := true;
	END IF;
	IF rsvp_sync._ask_strangers(1000) THEN
		more := true;
	END IF;
	RETURN more;
END
$$;
COMMENT ON FUNCTION rsvp_sync._inbound_work() IS
'Some of what was said on the network and is due to be looked at again.';
