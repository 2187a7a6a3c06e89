/*
 * The comparison of a whole source: what it finds page by page, with most rows
 * compared by one join, is what planning every key by itself finds.  Asked as
 * things are, and after something has been changed behind the worker's back,
 * which is undone again.
 */
CREATE FUNCTION model.compare(what text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN
		SELECT source_id, key, p.key IS NOT NULL AS in_pages
		FROM (SELECT DISTINCT a.source_id,
				rsvp_sync._differing(a.source_id, NULL) AS key
			FROM model.attached a) s
		FULL JOIN (SELECT DISTINCT a.source_id,
				model.pages(a.source_id) AS key
			FROM model.attached a) p USING (source_id, key)
		WHERE s.key IS NULL OR p.key IS NULL
	LOOP
		PERFORM model.fail(format('%s: %s.%s differs, as %s says alone: %s',
			what, r.source_id, r.key, CASE WHEN r.in_pages
				THEN 'the page' ELSE 'the plan' END,
			(SELECT to_jsonb(i) FROM rsvp_sync._intent i
			WHERE i.source_id = r.source_id AND i.key = r.key)));
	END LOOP;
END
$$;

/* What is different, by pages of two rows; records one by one, or all at once. */
CREATE FUNCTION model.pages(of_source bigint) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	pass rsvp_sync._pass;
	records bigint := CASE WHEN random() < 0.5
		THEN rsvp_sync._record_digests(1024) END;
	slice record;
BEGIN
	pass.source_id := of_source;
	LOOP
		SELECT * INTO slice FROM rsvp_sync._next_slice(pass, 2, records);
		pass := slice.pass;
		RETURN QUERY SELECT unnest(slice.differing);
		EXIT WHEN pass.phase IS NULL;
	END LOOP;
END
$$;

/* Something that no trigger tells of, or that a backup does not have. */
CREATE FUNCTION model.tamper() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	t text := model.pick(ARRAY(SELECT a.src FROM model.attached a
		ORDER BY a.src));
	said text := model.pick(ARRAY[
		format('UPDATE model.%I SET status = model.a_word() WHERE random() < 0.5', t),
		format('UPDATE model.%I SET hold = NOT hold WHERE random() < 0.5', t),
		format('UPDATE model.%I SET event = 1 + event %% 3 WHERE random() < 0.5', t),
		format('DELETE FROM model.%I WHERE random() < 0.5', t),
		'UPDATE model.event SET public = NOT public WHERE random() < 0.5',
		$q$UPDATE model.event SET uri = 'at://nowhere' WHERE random() < 0.3$q$,
		$q$UPDATE model.person SET did = nullif(substr(did, 1, 9), '')
			WHERE random() < 0.3$q$,
		'DELETE FROM rsvp_sync._account WHERE random() < 0.5',
		'SELECT model.connect(p.did) FROM model.person p WHERE random() < 0.5',
		$q$UPDATE rsvp_sync._account SET state = 'needs_login' WHERE random() < 0.5$q$,
		'DELETE FROM rsvp_sync._observed WHERE random() < 0.5',
		$q$UPDATE rsvp_sync._observed SET cid = CASE WHEN random() < 0.5
			THEN cid || 'x' END WHERE random() < 0.5$q$,
		'UPDATE rsvp_sync._observed SET status = model.a_value() WHERE random() < 0.5',
		'DELETE FROM rsvp_sync._intent WHERE random() < 0.3',
		'DELETE FROM rsvp_sync._queue',
		$q$UPDATE rsvp_sync._intent SET bond = NULL, base_cid = NULL
			WHERE random() < 0.3$q$,
		$q$UPDATE rsvp_sync._intent SET base_local = model.a_value()
			WHERE random() < 0.3$q$,
		$q$UPDATE rsvp_sync._intent SET doubt = true, sent_cids = ARRAY['x']
			WHERE random() < 0.3$q$,
		$q$UPDATE rsvp_sync._intent SET state = 'failed', reason_code =
			model.pick('{refused,discarded}') WHERE random() < 0.3$q$,
		'UPDATE rsvp_sync._intent SET local_at = local_at - interval ''1 hour''
			WHERE random() < 0.3'
	]);
BEGIN
	SET LOCAL session_replication_role = replica;
	EXECUTE said;
	SET LOCAL session_replication_role = origin;
	RETURN said;
END
$$;

/* Now and then, after a step. */
CREATE FUNCTION model.compare_tampered() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	said text := '';
	failures text[];
BEGIN
	/* It takes as long as ten steps. */
	IF random() > 0.15 THEN
		RETURN;
	END IF;
	PERFORM model.compare('as it is');
	BEGIN
		DELETE FROM rsvp_sync._queue WHERE random() < 0.5;
		FOR i IN 1 .. 1 + floor(random() * 3)::integer LOOP
			said := said || '; ' || model.tamper();
		END LOOP;
		PERFORM model.compare('after' || said);
		failures := ARRAY(SELECT f.text FROM model.failure f ORDER BY f.n);
		RAISE EXCEPTION 'undone' USING ERRCODE = 'ZM001';
	EXCEPTION WHEN SQLSTATE 'ZM001' THEN
		PERFORM model.fail(f) FROM unnest(failures) f;
	END;
END
$$;
