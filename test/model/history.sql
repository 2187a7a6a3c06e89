/*
 * Histories: what may happen, one step a transaction.  A step draws its
 * chances from the seed and its own number only, so that a history can be
 * shortened by leaving steps out.
 */
CREATE FUNCTION model.pick(choices text[]) RETURNS text LANGUAGE sql AS $$
SELECT choices[1 + floor(random() * cardinality(choices))::integer]
$$;
CREATE FUNCTION model.a_word() RETURNS text LANGUAGE sql AS $$
SELECT model.pick(model.words())
$$;
CREATE FUNCTION model.a_value() RETURNS text LANGUAGE sql AS $$
SELECT model.pick(ARRAY['going', 'interested', 'notgoing'])
$$;

/* Mostly the first: much is to happen in few slots. */
CREATE FUNCTION model.one_of_three() RETURNS integer LANGUAGE sql AS $$
SELECT model.pick('{1,1,1,2,2,3}'::text[])::integer
$$;

CREATE FUNCTION model.a_row(OUT src text, OUT id integer)
LANGUAGE plpgsql AS $$
DECLARE
	r double precision := random();
BEGIN
	SELECT a.src, a.id INTO src, id FROM (SELECT a.*,
			row_number() OVER (ORDER BY a.src, a.id) - 1 AS nth,
			count(*) OVER () AS n
		FROM model.attendance a JOIN model.attached USING (src)) a
	WHERE a.nth = floor(r * a.n);
END
$$;

/* One change of the application's; said is what it did. */
CREATE FUNCTION model.change_row(how text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	target record := model.a_row();
	word text := model.a_word();
	p integer := model.one_of_three();
	e integer := model.one_of_three();
	t text;
	new_id integer := 1 + floor(random() * 4);
	n bigint;
BEGIN
	IF how = 'insert' OR target.id IS NULL THEN
		t := model.pick(ARRAY(SELECT a.src FROM model.attached a
			ORDER BY a.src));
		EXECUTE format('INSERT INTO model.%I (id, person, event, status)
			SELECT coalesce(max(id), 2) + 1, $1, $2, $3 FROM model.%I
			HAVING count(*) < 5', t, t) USING p, e, word;
		IF random() < 0.25 THEN
			EXECUTE format('INSERT INTO model.%I (id, person, event, status)
				SELECT max(id) + 1, $1, $2, model.a_word() FROM model.%I',
				t, t) USING p, e;
		END IF;
		RETURN format('insert %s of %s%s %s', t, p, e, (SELECT
			string_agg(a.status, ', ') FROM model.attendance a
			WHERE a.created_at = now() AND a.src = t));
	END IF;
	t := format('UPDATE model.%I SET ', target.src) || CASE how
		WHEN 'status' THEN format('status = %L', word)
		WHEN 'move' THEN format('event = %s', e)
		WHEN 'person' THEN format('person = %s', p)
		WHEN 'rekey' THEN format('id = %s', new_id)
		WHEN 'hold' THEN 'hold = NOT hold'
		ELSE NULL END || ' WHERE id = ' || target.id;
	IF how = 'rekey' THEN
		t := t || format(' AND NOT EXISTS (SELECT FROM model.%I
			WHERE id = %s)', target.src, new_id);
	ELSIF how = 'delete' THEN
		t := format('DELETE FROM model.%I WHERE id = %s', target.src,
			target.id);
	END IF;
	EXECUTE t;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN t || CASE n WHEN 0 THEN ' (nothing)' ELSE '' END;
END
$$;

/* The network's word, written by the application with rsvp_sync.skip. */
CREATE FUNCTION model.mirror() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	m record;
	word text;
	r double precision := random();
BEGIN
	SELECT a.src, a.id, n.value INTO m
	FROM model.attendance a JOIN model.attached USING (src)
	JOIN model.person p ON p.id = a.person
	JOIN model.event e ON e.id = a.event
	JOIN model.net n ON n.did = p.did AND n.uri = e.uri
	ORDER BY hashtext(a.src || a.id || r), n.rkey LIMIT 1;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	word := CASE m.value WHEN 'going' THEN 'confirmed'
		WHEN 'interested' THEN 'maybe' ELSE 'cancelled' END;
	PERFORM set_config('rsvp_sync.skip', 'on', true);
	EXECUTE format('UPDATE model.%I SET status = %L WHERE id = %s
		AND status IS DISTINCT FROM %2$L', m.src, word, m.id);
	RETURN format('from the network: %s.%s %s', m.src, m.id, word);
END
$$;

CREATE FUNCTION model.change_account() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	p model.person;
	who integer := 1 + floor(random() * 3);
BEGIN
	SELECT * INTO p FROM model.person WHERE id = who;
	DELETE FROM rsvp_sync._account a WHERE a.did = p.did;
	IF FOUND AND random() < 0.3 THEN
		PERFORM rsvp_sync._account_changed(p.did);
		RETURN 'disconnected ' || who;
	END IF;
	PERFORM model.connect(p.did);
	RETURN 'connected ' || who;
END
$$;
CREATE FUNCTION model.connect(of_did text) RETURNS void LANGUAGE sql AS $$
INSERT INTO rsvp_sync._account (did, owner, auth, state)
VALUES (of_did, 'model_app', 'password', 'connected') ON CONFLICT DO NOTHING;
SELECT rsvp_sync._account_changed(of_did)
$$;

CREATE FUNCTION model.change(kind text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	e integer;
	t text;
BEGIN
	CASE kind
	WHEN 'network' THEN
		RETURN model.mirror();
	WHEN 'account' THEN
		RETURN model.change_account();
	WHEN 'event' THEN
		e := coalesce((SELECT v.id FROM model.event v WHERE NOT v.public
			ORDER BY v.id LIMIT 1), model.one_of_three());
		PERFORM model.unmark(p.id, e) FROM model.person p;
		UPDATE model.event SET public = NOT public WHERE id = e;
		RETURN format('event %s made %s', e, (SELECT CASE WHEN public
			THEN 'public' ELSE 'private' END FROM model.event WHERE id = e));
	WHEN 'truncate' THEN
		t := model.pick(ARRAY(SELECT a.src FROM model.attached a
			ORDER BY a.src));
		PERFORM model.unmark(a.person, a.event) FROM model.attendance a
		WHERE a.src = t;
		EXECUTE format('TRUNCATE model.%I', t);
		RETURN 'TRUNCATE ' || t;
	WHEN 'approve' THEN
		PERFORM rsvp_sync.approve_withdrawals(('model.' || a.src)::regclass)
		FROM model.attached a;
		RETURN 'approved';
	WHEN 'reconcile' THEN
		RETURN 'reconcile ' || rsvp_sync.reconcile();
	ELSE
		RETURN model.change_row(kind);
	END CASE;
END
$$;

/* Without faults until nothing is left, or too much has been done. */
CREATE PROCEDURE model.quiesce()
LANGUAGE plpgsql AS $$
DECLARE
	rounds integer := 0;
	writes bigint;
BEGIN
	SELECT sum(h.n) INTO writes FROM model.head h;
	LOOP
		PERFORM model.turn(100);
		COMMIT;
		WHILE model.advance('none') LOOP
			COMMIT;
			rounds := rounds + 1;
			EXIT WHEN rounds > 300;
		END LOOP;
		COMMIT;
		rounds := rounds + 1;
		EXIT WHEN rounds > 300
			OR NOT EXISTS (SELECT FROM rsvp_sync._change_log)
			AND NOT EXISTS (SELECT FROM rsvp_sync._queue)
			AND NOT EXISTS (SELECT FROM model.flight);
	END LOOP;
	IF rounds > 300 THEN
		PERFORM model.fail('does not come to rest: ' || coalesce((
			SELECT string_agg(format('%s.%s %s', q.source_id, q.key,
				q.last_error), ', ') FROM rsvp_sync._queue q), ''));
	END IF;
	SELECT sum(h.n) - writes INTO writes FROM model.head h;
	IF writes > 40 THEN
		PERFORM model.fail(writes || ' writes');
	END IF;
	COMMIT;
END
$$;

CREATE PROCEDURE model.take_step(seed integer, step integer)
LANGUAGE plpgsql AS $$
DECLARE
	r double precision;
	said text;
	kind text;
BEGIN
	PERFORM set_config('model.step', step::text, false);
	PERFORM setseed(hashint8extended(step, seed) / 9223372036854775808.0);
	r := random();
	IF r < 0.36 THEN
		kind := model.pick('{status,status,status,status,status,insert,insert,
			insert,insert,move,person,delete,hold,rekey,event,network,status,status}'::text[]);
		said := model.change(kind);
		PERFORM model.tell(coalesce(said, kind || ': nothing'));
	ELSIF r < 0.40 THEN
		kind := model.pick('{account,account,truncate,approve,reconcile,
			reconcile}'::text[]);
		said := model.change(kind);
		PERFORM model.tell(said);
	ELSIF r < 0.52 THEN
		PERFORM model.edit_elsewhere();
	ELSIF r < 0.60 THEN
		PERFORM model.tell('quiesce');
		COMMIT;
		CALL model.quiesce();
	ELSIF r < 0.63 THEN
		PERFORM model.tell('the worker dies');
		PERFORM model.die();
	ELSIF r < 0.78 THEN
		PERFORM model.turn(1 + floor(random() * 5)::integer);
	ELSE
		FOR i IN 1 .. 1 + floor(random() * 4)::integer LOOP
			PERFORM model.advance(CASE WHEN random() < 0.6 THEN 'none'
				WHEN random() < 0.5 THEN 'lost' ELSE 'silent' END);
			COMMIT;
		END LOOP;
	END IF;
	COMMIT;
END
$$;

/* One history; what failed is in model.failure. */
CREATE PROCEDURE model.history(seed integer, steps integer,
	leave_out integer[] DEFAULT '{}')
LANGUAGE plpgsql AS $$
DECLARE
	options jsonb := '[]';
BEGIN
	PERFORM setseed(hashint8extended(0, seed) / 9223372036854775808.0);
	PERFORM set_config('rsvp_sync.withdraw_limit',
		CASE WHEN random() < 0.2 THEN '1' ELSE '500' END, false);
	PERFORM set_config('model.step', '0', false);
	FOR i IN 1 .. 2 LOOP
		options := options || jsonb_build_object(
			'on_cancel', model.pick('{notgoing,notgoing,delete}'::text[]),
			'on_delete', model.pick('{delete,delete,notgoing,keep}'::text[]),
			'conflict', model.pick('{latest,latest,local,remote}'::text[]),
			'backfill', model.pick('{none,all}'::text[]));
	END LOOP;
	CALL model.begin_anew(options, CASE WHEN random() < 0.6 THEN 1
		ELSE 2 END);
	PERFORM model.tell(format('withdraw_limit %s; %s %s',
		current_setting('rsvp_sync.withdraw_limit'), a.src, options
		-> (right(a.src, 1)::integer - 1))) FROM model.attached a;
	PERFORM model.tell(format('%s.%s of %s %s', w.src, w.key,
		model.short(w.did, w.uri), w.word)) FROM model.want w;
	PERFORM model.connect(p.did) FROM model.person p
	WHERE random() < 0.95;
	COMMIT;
	FOR step IN 1 .. steps LOOP
		CONTINUE WHEN step = ANY (leave_out);
		CALL model.take_step(seed, step);
		/* Its chances are not those of the next step. */
		PERFORM model.compare_tampered();
		EXIT WHEN EXISTS (SELECT FROM model.failure);
	END LOOP;
	IF NOT EXISTS (SELECT FROM model.failure) THEN
		PERFORM set_config('model.step', (steps + 1)::text, false);
		CALL model.finish();
	END IF;
END
$$;
