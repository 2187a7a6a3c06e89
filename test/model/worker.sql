/*
 * The worker: what src/worker.c and src/lane.c do with work rows, one step at
 * a time, so that anything can happen in between.
 */
CREATE TABLE model.lane (
	did text PRIMARY KEY,
	head bigint,					-- commit the records are known to be at
	listing jsonb					-- under way
);
CREATE TABLE model.flight (
	n serial PRIMARY KEY, source_id bigint, key text, generation bigint,
	action text, need text, subject text, did text, rkey text, record jsonb,
	cid text, swap text, mint boolean, uri text,
	head_unknown boolean NOT NULL DEFAULT false
);

/* Only the worker knows which accounts are listed; here it is a table. */
CREATE OR REPLACE FUNCTION rsvp_sync._is_listed(did text) RETURNS boolean
LANGUAGE sql VOLATILE STRICT AS $$
SELECT EXISTS (SELECT FROM model.lane l
	WHERE l.did = $1 AND l.head IS NOT NULL AND l.listing IS NULL)
$$;

/* What planning has seen of a row, and when that was said. */
CREATE TABLE model.said (
	src text, key text, did text, uri text, value text, at timestamptz,
	baseline boolean NOT NULL DEFAULT false,	-- not changed since attach()
	network boolean NOT NULL DEFAULT false,		-- not the user's of this application
	first_value text,
	PRIMARY KEY (src, key)
);
/* Whatever was said for a slot. */
CREATE TABLE model.saying (
	did text, uri text, value text, at timestamptz, src text, key text
);

CREATE FUNCTION model.plan(of_source bigint, keys text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM model.note_said(of_source, keys);
	IF current_setting('model.loud', true) = 'on' THEN
		PERFORM model.tell(format('  %s.%s of %s: %s', of_source, e.key,
			model.short(e.did, e.event_uri), e.d)
			|| coalesce(' from ' || e.from_key, '')
			|| CASE WHEN (e.d).action = 'handover'
				THEN ' to ' || e.heir_key ELSE '' END)
		FROM rsvp_sync._evaluate(of_source, keys, false) e;
	END IF;
	INSERT INTO model.flight (source_id, key, generation, action, need,
		subject, did, rkey, record, cid, swap, mint, uri)
	SELECT w.source_id, w.key, w.generation, w.action, w.need, w.subject,
		w.did, w.rkey, w.record::jsonb, w.cid, w.swap, w.mint, w.event_uri
	FROM rsvp_sync._plan_keys(of_source, keys) w;
	PERFORM rsvp_sync._source_works(of_source);
END
$$;

CREATE FUNCTION model.note_said(of_source bigint, keys text[]) RETURNS void
LANGUAGE sql AS $$
DELETE FROM model.said s USING model.attached a
WHERE a.source_id = of_source AND s.src = a.src AND s.key = ANY (keys)
	AND NOT EXISTS (SELECT FROM model.want w
		WHERE w.src = s.src AND w.key = s.key);
INSERT INTO model.said AS s (src, key, did, uri, value, at, network,
	first_value)
SELECT w.src, w.key, w.did, w.uri, w.value, t.at, t.network, w.value
FROM model.want w JOIN model.attached a USING (src)
JOIN model.touched t USING (src, key)
WHERE a.source_id = of_source AND w.key = ANY (keys)
ON CONFLICT (src, key) DO UPDATE SET did = excluded.did,
	uri = excluded.uri, value = excluded.value, at = excluded.at,
	network = excluded.network, baseline = false,
	first_value = CASE WHEN (s.did, s.uri) = (excluded.did, excluded.uri)
		THEN s.first_value ELSE excluded.value END
WHERE (s.did, s.uri, s.value) IS DISTINCT FROM
	(excluded.did, excluded.uri, excluded.value);
INSERT INTO model.saying
SELECT s.did, s.uri, s.value, s.at, s.src, s.key
FROM model.said s JOIN model.attached a USING (src)
WHERE a.source_id = of_source AND s.key = ANY (keys) AND s.value IS NOT NULL
EXCEPT SELECT * FROM model.saying
$$;

/* Drain, lease and plan; time has passed, so that what waits is due. */
CREATE FUNCTION model.turn(at_most integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	l record;
BEGIN
	PERFORM rsvp_sync._drain(5000);
	UPDATE rsvp_sync._queue SET due_at = now()
	WHERE lease IS NULL AND due_at > now();
	FOR l IN SELECT * FROM rsvp_sync._lease(1, at_most, at_most) ORDER BY source_id
	LOOP
		PERFORM model.plan(l.source_id, l.keys);
	END LOOP;
END
$$;

/* Jobs that waited are planned again, what the log has being known. */
CREATE FUNCTION model.plan_again(jobs integer[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	b record;
BEGIN
	PERFORM rsvp_sync._drain(5000);
	FOR b IN WITH gone AS (DELETE FROM model.flight f WHERE f.n = ANY (jobs)
			RETURNING f.source_id, f.key)
		SELECT g.source_id, array_agg(g.key) AS keys FROM gone g
		GROUP BY g.source_id
	LOOP
		PERFORM model.plan(b.source_id, b.keys);
	END LOOP;
END
$$;

CREATE FUNCTION model.job_fails(job integer, how text, code text,
	sure boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	f model.flight;
BEGIN
	DELETE FROM model.flight g WHERE g.n = job RETURNING * INTO f;
	PERFORM rsvp_sync._call_failed(f.source_id, f.key, f.generation, how,
		code, 'the model says so', sure, f.cid, interval '0');
END
$$;

/*
 * One step of one job: the first of its lane, or any task.  fault: none, lost
 * (the request does not arrive), silent (the answer does not), dead (nobody is
 * there to write it down).
 */
CREATE FUNCTION model.advance(fault text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
	f model.flight;
BEGIN
	SELECT g.* INTO f FROM model.flight g
	WHERE g.need IN ('identity', 'event') OR NOT EXISTS (
		SELECT FROM model.flight h WHERE h.did = g.did AND h.n < g.n
			AND coalesce(h.need, 'list') = 'list')
	ORDER BY random() LIMIT 1;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF f.need IN ('identity', 'event') THEN
		PERFORM model.learn(f, fault);
	ELSE
		PERFORM model.advance_lane(f, fault);
	END IF;
	RETURN true;
END
$$;

CREATE FUNCTION model.learn(f model.flight, fault text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF fault <> 'none' THEN
		PERFORM model.job_fails(g.n, 'retry', 'timeout', true)
		FROM model.flight g WHERE g.need = f.need AND g.subject = f.subject;
		RETURN;
	END IF;
	IF f.need = 'identity' THEN
		PERFORM rsvp_sync._identity_done(f.subject, 'https://pds.test', NULL);
	ELSE
		PERFORM rsvp_sync._event_done(f.subject, e.cid)
		FROM model.event e WHERE e.uri = f.subject;
	END IF;
	PERFORM model.plan_again(array_agg(g.n)) FROM model.flight g
	WHERE g.need = f.need AND g.subject = f.subject;
END
$$;

CREATE FUNCTION model.advance_lane(f model.flight, fault text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	l model.lane;
	n_row model.net;
BEGIN
	INSERT INTO model.lane (did) VALUES (f.did) ON CONFLICT DO NOTHING;
	SELECT * INTO l FROM model.lane k WHERE k.did = f.did;
	IF l.listing IS NOT NULL THEN
		/* The listing is complete; other things may have happened. */
		PERFORM rsvp_sync._list_done(f.did, l.listing);
		UPDATE model.lane k SET listing = NULL WHERE k.did = f.did;
		PERFORM model.tell('listed ' || substr(f.did, 9, 1));
		PERFORM model.plan_again(array_agg(g.n ORDER BY g.n))
		FROM model.flight g
		WHERE g.did = f.did AND (g.need = 'list' OR g.need IS NULL AND g.mint);
	ELSIF f.need = 'list'
		OR (f.mint AND f.action IN ('put', 'delete') AND l.head IS NULL)
	THEN
		IF fault <> 'none' THEN
			PERFORM model.job_fails(g.n, 'retry', 'timeout', true)
			FROM model.flight g
			WHERE g.did = f.did AND coalesce(g.need, 'list') = 'list';
			RETURN;
		END IF;
		UPDATE model.lane k SET listing = model.listing(f.did),
			head = (SELECT h.n FROM model.head h WHERE h.did = f.did)
		WHERE k.did = f.did;
	ELSIF f.action = 'read' THEN
		IF fault <> 'none' THEN
			PERFORM model.job_fails(f.n, 'retry', 'timeout', true);
			RETURN;
		END IF;
		SELECT * INTO n_row FROM model.net n
		WHERE n.did = f.did AND n.rkey = f.rkey;
		PERFORM rsvp_sync._read_done(f.source_id, f.key, f.did, f.rkey,
			n_row.cid, n_row.record);
		PERFORM model.tell(format('read %s %s', f.rkey, n_row.value));
		PERFORM model.plan_again(ARRAY[f.n]);
	ELSIF NOT EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = f.did)
	THEN
		PERFORM model.job_fails(g.n, 'wait', 'no_account', true)
		FROM model.flight g
		WHERE g.did = f.did AND coalesce(g.need, 'list') = 'list';
	ELSE
		PERFORM model.write(f, l, fault);
	END IF;
END
$$;

/* A deletion that would succeed: is it one that may be made? */
CREATE FUNCTION model.check_delete(f model.flight) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	what text := format('%s.%s %s %s', f.source_id, f.key,
		model.short(f.did, f.uri), f.rkey);
	o model.net;
BEGIN
	SELECT * INTO o FROM model.net n
	WHERE n.did = f.did AND n.rkey = f.rkey AND n.cid = f.swap;
	IF f.action <> 'delete' OR o.did IS NULL THEN
		RETURN;
	END IF;
	IF EXISTS (SELECT FROM model.foreign_edit e WHERE e.cid = o.cid
			AND e.rkey = o.rkey) AND EXISTS (
		SELECT FROM rsvp_sync._intent i WHERE i.source_id = f.source_id
			AND i.key = f.key AND i.base_cid IS DISTINCT FROM o.cid)
		/* Unless it is the answer of a row that cancels. */
		AND NOT EXISTS (SELECT FROM model.said s JOIN model.attached a USING (src)
			WHERE a.source_id = f.source_id AND s.key = f.key
				AND s.value = 'notgoing' AND a.on_cancel = 'delete'
				AND s.did = f.did AND s.uri = f.uri) THEN
		PERFORM model.fail(what || ': deleted what was changed elsewhere '
			'since');
	END IF;
	IF NOT o.ours AND EXISTS (SELECT FROM model.want w
		JOIN model.attached a USING (src)
		WHERE a.source_id = f.source_id AND w.key = f.key
			AND w.did = f.did AND w.uri = f.uri AND w.withheld IS NULL
			AND w.mapped AND w.value IS NULL
			/* As it was planned, not as it is by now. */
			AND EXISTS (SELECT FROM model.said s WHERE s.src = w.src
				AND s.key = w.key AND s.value IS NULL)) THEN
		PERFORM model.fail(what || ': a status of no value deleted a record '
			'that is not ours');
	END IF;
END
$$;

/* A put that would succeed: whose word does it replace? */
CREATE FUNCTION model.check_overwrite(f model.flight) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF f.action = 'put' AND EXISTS (SELECT FROM model.net n
			JOIN model.foreign_edit e ON e.cid = n.cid AND e.rkey = n.rkey
			WHERE n.did = f.did AND n.rkey = f.rkey AND n.cid = f.swap)
		AND EXISTS (SELECT FROM rsvp_sync._intent i
			JOIN model.attached a USING (source_id)
			WHERE i.source_id = f.source_id AND i.key = f.key
				AND a.conflict = 'remote'
				AND i.base_cid IS DISTINCT FROM f.swap) THEN
		PERFORM model.fail(format('%s.%s %s %s: overwrote what was changed '
			'elsewhere, whose word counts', f.source_id, f.key,
			model.short(f.did, f.uri), f.rkey));
	END IF;
END
$$;

CREATE FUNCTION model.write(f model.flight, l model.lane, fault text)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	swap_commit bigint := CASE WHEN NOT f.head_unknown THEN l.head END;
	answer text;
	what text := format('%s %s.%s %s %s %s', f.action, f.source_id, f.key,
		model.short(f.did, f.uri), f.rkey,
		split_part(f.record ->> 'status', '#', 2));
BEGIN
	IF fault <> 'lost' THEN
		PERFORM model.check_delete(f);
		PERFORM model.check_overwrite(f);
		answer := CASE f.action
			WHEN 'put' THEN model.net_put(f.did, f.rkey, f.record, f.cid,
				f.swap, swap_commit)
			ELSE model.net_delete(f.did, f.rkey, f.swap, swap_commit) END;
	END IF;
	PERFORM model.tell(format('%s: %s%s', what, answer,
		CASE WHEN fault <> 'none' THEN ' ' || fault END));
	IF fault = 'dead' THEN
		RETURN;
	ELSIF fault <> 'none' THEN
		PERFORM model.job_fails(f.n, 'retry', 'timeout', false);
	ELSIF answer IN ('ok', 'noop') THEN
		IF answer = 'ok' AND NOT f.head_unknown THEN
			UPDATE model.lane k SET head = h.n FROM model.head h
			WHERE k.did = f.did AND h.did = f.did AND k.head IS NOT NULL;
		END IF;
		DELETE FROM model.flight g WHERE g.n = f.n;
		IF f.action = 'put' THEN
			PERFORM rsvp_sync._put_done(f.source_id, f.key, f.generation,
				f.did, f.rkey, f.record, f.cid, NULL);
		ELSE
			PERFORM rsvp_sync._delete_done(f.source_id, f.key, f.generation,
				f.did, f.rkey, NULL);
		END IF;
	ELSIF answer = 'commit' THEN
		UPDATE model.lane k SET head = NULL WHERE k.did = f.did;
		UPDATE model.flight g SET head_unknown = NOT g.mint WHERE g.n = f.n;
	ELSE
		PERFORM model.job_fails(f.n, 'again', 'InvalidSwap', false);
	END IF;
END
$$;

/*
 * The worker dies with all it knows.  Of what it had sent, some arrived; the
 * rest of its jobs had not been sent.
 */
CREATE FUNCTION model.die() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	f model.flight;
	l model.lane;
BEGIN
	FOR f IN SELECT g.* FROM model.flight g
		WHERE g.need IS NULL AND g.action IN ('put', 'delete')
			AND NOT EXISTS (SELECT FROM model.flight h WHERE h.did = g.did
				AND h.n < g.n AND coalesce(h.need, 'list') = 'list')
			AND random() < 0.5
		ORDER BY g.n
	LOOP
		SELECT * INTO l FROM model.lane k WHERE k.did = f.did;
		CONTINUE WHEN l.listing IS NOT NULL
			OR (f.mint AND l.head IS NULL)
			OR NOT EXISTS (SELECT FROM rsvp_sync._account a
				WHERE a.did = f.did);
		PERFORM model.write(f, l, 'dead');
	END LOOP;
	DELETE FROM model.flight;
	DELETE FROM model.lane;
	PERFORM rsvp_sync._release_leases(0);
END
$$;
