/*
 * What has to hold once the faults are over.
 */
CREATE FUNCTION model.check_rest() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT n.did, n.uri, count(*) FROM model.net n WHERE n.ours
		GROUP BY n.did, n.uri HAVING count(*) > 1
	LOOP
		PERFORM model.fail(format('%s: %s records of ours',
			model.short(r.did, r.uri), r.count));
	END LOOP;
	FOR r IN SELECT m.* FROM model.mark m LEFT JOIN model.net n USING (did, rkey)
		WHERE n.cid IS DISTINCT FROM m.cid
	LOOP
		PERFORM model.fail(format('%s %s: a statement made elsewhere does not '
			'stand', model.short(r.did, r.uri), r.rkey));
	END LOOP;
	FOR r IN SELECT i.source_id, i.key, i.doubt, i.sent_cids
		FROM rsvp_sync._intent i
		WHERE i.live AND (i.doubt AND i.state NOT IN ('blocked', 'held')
			OR i.sent_cids <> '{}' AND i.state = 'done')
	LOOP
		PERFORM model.fail(format('%s.%s: at rest, and in doubt',
			r.source_id, r.key));
	END LOOP;
	FOR r IN SELECT b.did, b.rkey, count(*) FROM rsvp_sync._intent b
		WHERE b.bond IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1
	LOOP
		PERFORM model.fail(format('%s: bound to %s keys', r.rkey, r.count));
	END LOOP;
	PERFORM model.check_states();
	PERFORM model.check_slot(p.did, e.uri)
	FROM model.person p, model.event e;
END
$$;

/* No state may say what is not so. */
CREATE FUNCTION model.check_states() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT a.src, w.key, s.state, s.reason_code, s.uri, s.cid,
			w.value, n.cid AS net_cid, n.value AS net_value
		FROM model.want w JOIN model.attached a USING (src)
		LEFT JOIN rsvp_sync.status s ON s.source_id = a.source_id
			AND s.attendance_id = w.key
		LEFT JOIN model.net n
			ON rsvp_sync._rsvp_uri(n.did, n.rkey) = s.uri
		WHERE s.state IS NULL
			OR s.state NOT IN ('done', 'blocked', 'held', 'withheld',
				'superseded')
			OR (s.state = 'done' AND s.reason_code = 'published'
				AND (n.cid IS NULL OR n.cid <> s.cid
					OR w.value IS DISTINCT FROM n.value))
			OR (s.state = 'blocked' AND EXISTS (SELECT
				FROM rsvp_sync._account c WHERE c.did = s.did))
	LOOP
		PERFORM model.fail(format('%s.%s wants %s, is %s/%s, network %s',
			r.src, r.key, r.value, r.state, r.reason_code, r.net_value));
	END LOOP;
END
$$;

/* One slot: is what is out there what it should be? */
CREATE FUNCTION model.check_slot(of_did text, of_uri text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	speaker record;
	remote model.net;
	edited timestamptz;
	mine boolean;
	what text := model.short(of_did, of_uri);
BEGIN
	SELECT max(f.at) INTO edited FROM model.foreign_edit f
	WHERE f.did = of_did AND f.uri = of_uri;
	SELECT * INTO remote FROM model.net n
	WHERE n.did = of_did AND n.uri = of_uri
	ORDER BY n.ours DESC, n.wrote DESC, n.rkey DESC LIMIT 1;
	IF NOT EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = of_did) THEN
		RETURN;
	END IF;
	SELECT w.*, a.*, s.at, s.baseline, s.network, s.first_value
	INTO speaker
	FROM model.want w JOIN model.attached a USING (src)
	JOIN model.said s USING (src, key)
	WHERE w.did = of_did AND w.uri = of_uri AND w.value IS NOT NULL
		AND w.withheld IS NULL
	ORDER BY s.at DESC, a.source_id DESC, w.key DESC LIMIT 1;
	IF FOUND THEN
		PERFORM model.check_speaker(speaker, remote, edited, what);
	ELSIF remote.ours AND edited IS NULL THEN
		PERFORM model.check_nobody(of_did, of_uri, what);
	END IF;
END
$$;

/* Somebody speaks for the slot. */
CREATE FUNCTION model.check_speaker(speaker record, remote model.net,
	edited timestamptz, what text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	state record;
BEGIN
	SELECT i.state, i.reason_code, n.value INTO state
	FROM rsvp_sync._intent i
	LEFT JOIN model.net n ON n.did = i.did AND n.rkey = i.rkey
		AND i.bond IS NOT NULL
	WHERE i.source_id = speaker.source_id AND i.key = speaker.key;
	/* Of several records it may speak by any. */
	IF speaker.value IN (remote.value, state.value) THEN
		RETURN;
	END IF;
	/* It was there before attach(), or the network said it. */
	IF (speaker.baseline AND remote.did IS NULL) OR speaker.network THEN
		RETURN;
	END IF;
	/* Declining what was never published says nothing. */
	IF speaker.value = 'notgoing' AND remote.did IS NULL
		AND (speaker.on_cancel = 'delete'
			OR speaker.first_value IS DISTINCT FROM 'notgoing') THEN
		RETURN;
	END IF;
	/* Another application's record is not ours to remove. */
	IF speaker.value = 'notgoing' AND speaker.on_cancel = 'delete'
		AND NOT remote.ours THEN
		RETURN;
	END IF;
	/*
	 * Someone else had a word, later; or the row says what was said before,
	 * which perhaps is no change since the base, or was what we still
	 * believed to be there.
	 */
	IF edited > speaker.at OR (edited IS NOT NULL
		AND (speaker.conflict = 'remote' OR speaker.baseline
			OR state.reason_code = 'changed_elsewhere'
			OR EXISTS (SELECT FROM model.saying s
				WHERE s.did = speaker.did AND s.uri = speaker.uri
					AND s.value = speaker.value AND s.at < speaker.at))) THEN
		RETURN;
	END IF;
	PERFORM model.fail(format('%s: %s.%s wants %s (%s %s), network says %s',
		what, speaker.source_id, speaker.key, speaker.value, state.state,
		state.reason_code, coalesce(remote.value, 'nothing')));
END
$$;

/* Nobody does, and what we published is still there. */
CREATE FUNCTION model.check_nobody(of_did text, of_uri text, what text)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	/* Of those who ever spoke for it, none may have left it there. */
	IF EXISTS (SELECT FROM model.saying s JOIN model.attached a USING (src)
		LEFT JOIN model.want w USING (src, key)
		WHERE s.did = of_did AND s.uri = of_uri
			AND (a.on_delete <> 'delete' OR w.withheld = 'keep'
				OR NOT w.mapped)) THEN
		RETURN;
	END IF;
	PERFORM model.fail(what || ': nobody speaks, and our record is there');
END
$$;

/* What is remembered of each key, for the reader of a failure. */
CREATE FUNCTION model.tell_intents() RETURNS void LANGUAGE sql AS $$
SELECT model.tell(format('  %s.%s of %s %s%s, base %s %s, bond %s %s, %s/%s',
	i.source_id, i.key, model.short(i.did, i.event_uri), i.local,
	CASE WHEN NOT i.live THEN ' (not live)' END, i.base_local,
	right(i.base_cid, 4), i.bond, i.rkey, i.state, i.reason_code))
FROM rsvp_sync._intent i ORDER BY i.source_id, i.key
$$;

/*
 * There is nothing left to do.  What was learnt of a record for the sake of
 * another key may still be told of this one: that sends nothing.
 */
CREATE FUNCTION model.check_reconciled(what text, quite boolean)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	n bigint := rsvp_sync.reconcile();
BEGIN
	IF NOT quite THEN
		SELECT count(*) INTO n
		FROM rsvp_sync._change_log l, rsvp_sync._evaluate(l.source_id,
			ARRAY[l.key], true) e WHERE (e.d).action <> 'none';
	END IF;
	IF n > 0 THEN
		PERFORM model.fail(format('%s %s: %s', what, n,
			(SELECT string_agg(format('%s.%s %s, %s/%s before', l.source_id,
				l.key, e.d, e.old_state, e.old_reason_code), '; ')
			FROM rsvp_sync._change_log l, rsvp_sync._evaluate(l.source_id,
				ARRAY[l.key], true) e)));
	END IF;
END
$$;

/* Everything comes to rest, is looked at, and stays. */
CREATE PROCEDURE model.finish()
LANGUAGE plpgsql AS $$
DECLARE
	writes bigint;
BEGIN
	CALL model.quiesce();
	FOR i IN 1 .. 5 LOOP
		PERFORM rsvp_sync.approve_withdrawals(('model.' || a.src)::regclass)
		FROM model.attached a;
		COMMIT;
		CALL model.quiesce();
	END LOOP;
	PERFORM model.tell_intents();
	PERFORM model.check_reconciled('reconcile found what the worker missed',
		false);
	PERFORM model.tell('all is read again');
	PERFORM rsvp_sync._list_done(p.did, model.listing(p.did))
	FROM model.person p;
	PERFORM rsvp_sync.reconcile();
	COMMIT;
	CALL model.quiesce();
	PERFORM model.tell_intents();
	PERFORM model.check_reconciled('a second reconcile found', true);
	COMMIT;
	CALL model.quiesce();
	PERFORM model.check_rest();
	SELECT sum(h.n) INTO writes FROM model.head h;
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT a.source_id, k::text, 'l' FROM model.attached a,
		generate_series(1, 9) k;
	COMMIT;
	CALL model.quiesce();
	SELECT sum(h.n) - writes INTO writes FROM model.head h;
	IF writes > 0 THEN
		PERFORM model.fail('a look at every key made writes: ' || writes);
	END IF;
	COMMIT;
END
$$;
