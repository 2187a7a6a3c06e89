/*
 * The network: one repository a person, each with a head that moves with
 * every commit, as the reference PDS answers putRecord and deleteRecord.
 * What we do to it is checked as it happens.
 */
CREATE TABLE model.net (
	did text, rkey text, cid text NOT NULL, record jsonb NOT NULL,
	uri text NOT NULL, value text NOT NULL,
	ours boolean NOT NULL,			-- created by us
	wrote boolean NOT NULL,			-- written by us at least once
	PRIMARY KEY (did, rkey)
);
CREATE TABLE model.head (did text PRIMARY KEY, n bigint NOT NULL);

/* Edits by other applications, in truth. */
CREATE TABLE model.foreign_edit (
	did text, uri text, at timestamptz NOT NULL, rkey text, cid text
);

/*
 * Slots where such an edit is the last word: nothing was pending when it was
 * made, and no row of the slot has been changed since.
 */
CREATE TABLE model.mark (
	did text, uri text, rkey text, cid text, PRIMARY KEY (did, uri, rkey)
);

CREATE TABLE model.trace (n serial, step integer, text text);
CREATE TABLE model.failure (n serial, step integer, text text);

CREATE FUNCTION model.step() RETURNS integer LANGUAGE sql STABLE AS $$
SELECT coalesce(nullif(current_setting('model.step', true), ''), '0')::integer
$$;
CREATE FUNCTION model.tell(text text) RETURNS void LANGUAGE sql AS $$
INSERT INTO model.trace (step, text) VALUES (model.step(), text)
$$;
CREATE FUNCTION model.fail(text text) RETURNS void LANGUAGE sql AS $$
INSERT INTO model.failure (step, text) VALUES (model.step(), text);
SELECT model.tell('FAILED: ' || text)
$$;

CREATE FUNCTION model.unmark(of_person integer, of_event integer)
RETURNS void LANGUAGE sql AS $$
DELETE FROM model.mark m USING model.person p, model.event e
WHERE p.id = of_person AND e.id = of_event AND m.did = p.did AND m.uri = e.uri
$$;

CREATE FUNCTION model.short(did text, uri text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT substr(did, 9, 1) || '/' || right(uri, 1)
$$;

/* putRecord: ok, noop, commit (swapCommit failed), swap (swapRecord failed) */
CREATE FUNCTION model.net_put(of_did text, of_rkey text, new_record jsonb,
	new_cid text, swap text, swap_commit bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	o model.net;
	uri text := new_record -> 'subject' ->> 'uri';
	value text := split_part(new_record ->> 'status', '#', 2);
BEGIN
	SELECT * INTO o FROM model.net n WHERE n.did = of_did AND n.rkey = of_rkey;
	IF swap = new_cid THEN
		PERFORM model.fail(format('%s %s: a write where nothing changed',
			model.short(of_did, uri), of_rkey));
	END IF;
	IF o.cid = new_cid THEN
		RETURN 'noop';
	ELSIF swap_commit <> (SELECT n FROM model.head h WHERE h.did = of_did) THEN
		RETURN 'commit';
	ELSIF o.cid IS DISTINCT FROM swap THEN
		RETURN 'swap';
	END IF;
	PERFORM model.check_put(o, of_did, of_rkey, uri, value, new_record);
	INSERT INTO model.net AS n
	VALUES (of_did, of_rkey, new_cid, new_record, uri, value, true, true)
	ON CONFLICT (did, rkey) DO UPDATE SET cid = excluded.cid,
		record = excluded.record, uri = excluded.uri, value = excluded.value,
		wrote = true;
	UPDATE model.head h SET n = n + 1 WHERE h.did = of_did;
	RETURN 'ok';
END
$$;

CREATE FUNCTION model.check_put(o model.net, of_did text, of_rkey text,
	new_uri text, new_value text, new_record jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	what text := format('%s %s', model.short(of_did, new_uri), of_rkey);
	m model.mark;
BEGIN
	IF rsvp_sync.record_cid(new_record) IS NULL OR NOT EXISTS (
		SELECT FROM model.event e WHERE e.uri = new_uri
			AND e.cid = new_record -> 'subject' ->> 'cid') THEN
		PERFORM model.fail(what || ': no strong ref to the event');
	END IF;
	IF o.did IS NULL THEN
		IF EXISTS (SELECT FROM model.net n
			WHERE n.did = of_did AND n.uri = new_uri) THEN
			PERFORM model.fail(what || ': created beside another record');
		END IF;
	ELSE
		IF o.uri <> new_uri THEN
			PERFORM model.fail(what || ': a record given another event');
		END IF;
		IF o.record ->> 'createdAt' IS DISTINCT FROM
			new_record ->> 'createdAt' THEN
			PERFORM model.fail(what || ': createdAt changed');
		END IF;
		IF o.record - ARRAY['status', 'subject'] <>
			new_record - ARRAY['status', 'subject'] THEN
			PERFORM model.fail(what || ': unknown fields changed');
		END IF;
		IF o.value = new_value THEN
			PERFORM model.fail(what || ': it said so already');
		END IF;
	END IF;
	SELECT * INTO m FROM model.mark k WHERE k.did = of_did
		AND k.uri = new_uri AND (k.rkey = of_rkey OR k.cid IS NULL);
	IF FOUND THEN
		PERFORM model.fail(what || ': a statement made elsewhere was '
			'overwritten though no row changed since');
	END IF;
END
$$;

CREATE FUNCTION model.net_delete(of_did text, of_rkey text, swap text,
	swap_commit bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	o model.net;
BEGIN
	SELECT * INTO o FROM model.net n WHERE n.did = of_did AND n.rkey = of_rkey;
	IF o.cid IS NULL THEN
		RETURN 'noop';
	ELSIF swap_commit <> (SELECT n FROM model.head h WHERE h.did = of_did) THEN
		RETURN 'commit';
	ELSIF o.cid IS DISTINCT FROM swap THEN
		RETURN 'swap';
	END IF;
	IF NOT o.wrote THEN
		PERFORM model.fail(format('%s %s: deleted a record we never wrote',
			model.short(o.did, o.uri), of_rkey));
	END IF;
	IF EXISTS (SELECT FROM model.mark m
		WHERE m.did = of_did AND m.rkey = of_rkey) THEN
		PERFORM model.fail(format('%s %s: deleted a statement made elsewhere',
			model.short(o.did, o.uri), of_rkey));
	END IF;
	DELETE FROM model.net n WHERE n.did = of_did AND n.rkey = of_rkey;
	UPDATE model.head h SET n = n + 1 WHERE h.did = of_did;
	RETURN 'ok';
END
$$;

CREATE FUNCTION model.listing(of_did text) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT coalesce(jsonb_agg(jsonb_build_object('uri', 'at://' || n.did
	|| '/community.lexicon.calendar.rsvp/' || n.rkey, 'cid', n.cid,
	'value', n.record)), '[]')
FROM model.net n WHERE n.did = of_did
$$;

/* Another application of the user's: create, update, touch, delete, or delete and
 * create. */
CREATE FUNCTION model.edit_elsewhere() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	o model.net;
	how text;
	p model.person;
	e model.event;
	new_record jsonb;
	quiet boolean;
	salt bigint := (random() * 1e6)::bigint;
	who integer := model.one_of_three();
	which integer := model.one_of_three();
BEGIN
	SELECT * INTO o FROM model.net n
	ORDER BY hashtextextended(n.uri || n.did, salt), n.rkey LIMIT 1;
	how := (ARRAY['create', 'update', 'update', 'extra', 'delete', 'replace'])
		[1 + floor(random() * 6)::integer];
	IF o.did IS NULL THEN
		how := 'create';
	END IF;
	IF how = 'create' THEN
		SELECT * INTO p FROM model.person
		WHERE id = who;
		SELECT * INTO e FROM model.event
		WHERE id = which;
		o.did := p.did;
		o.uri := e.uri;
		o.rkey := rsvp_sync.tid_now();
		o.ours := false;
		o.wrote := false;
		new_record := jsonb_build_object('$type',
			'community.lexicon.calendar.rsvp', 'subject',
			jsonb_build_object('uri', e.uri, 'cid', e.cid), 'status',
			'community.lexicon.calendar.rsvp#' || model.a_value(),
			'createdAt', rsvp_sync._datetime(clock_timestamp()),
			'client', 'another');
	ELSIF how = 'extra' THEN
		new_record := o.record || jsonb_build_object('note',
			md5(random()::text));
	ELSIF how = 'update' THEN
		new_record := o.record || jsonb_build_object('status',
			'community.lexicon.calendar.rsvp#' || model.a_value());
		IF new_record = o.record THEN
			RETURN;
		END IF;
	END IF;
	quiet := model.quiet(o.did, o.uri);
	IF how = 'replace' THEN
		DELETE FROM model.net n WHERE n.did = o.did AND n.rkey = o.rkey;
		DELETE FROM model.mark m WHERE m.did = o.did AND m.uri = o.uri
			AND m.rkey = o.rkey;
		o.rkey := rsvp_sync.tid_now();
		o.ours := false;
		o.wrote := false;
		new_record := o.record || jsonb_build_object('client', 'another',
			'status', 'community.lexicon.calendar.rsvp#' || model.a_value());
	END IF;
	DELETE FROM model.net n WHERE n.did = o.did AND n.rkey = o.rkey;
	IF new_record IS NOT NULL THEN
		o.cid := rsvp_sync.record_cid(new_record);
		o.record := new_record;
		o.value := split_part(new_record ->> 'status', '#', 2);
		INSERT INTO model.net VALUES (o.*);
	ELSE
		o.cid := NULL;
	END IF;
	UPDATE model.head h SET n = n + 1 WHERE h.did = o.did;
	INSERT INTO model.foreign_edit
	VALUES (o.did, o.uri, clock_timestamp(), o.rkey, o.cid);
	DELETE FROM model.mark m WHERE m.did = o.did AND m.uri = o.uri
		AND m.rkey = o.rkey;
	IF quiet THEN
		INSERT INTO model.mark VALUES (o.did, o.uri, o.rkey, o.cid);
	END IF;
	PERFORM model.tell(format('elsewhere: %s %s %s %s%s', how,
		model.short(o.did, o.uri), o.rkey,
		CASE WHEN o.cid IS NOT NULL THEN o.value END,
		CASE WHEN quiet THEN ' (nothing pending)' END));
END
$$;

/* Is nothing of ours under way, or waiting in this slot? */
CREATE FUNCTION model.quiet(of_did text, of_uri text) RETURNS boolean LANGUAGE sql AS $$
SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log)
	AND NOT EXISTS (SELECT FROM rsvp_sync._queue)
	AND NOT EXISTS (SELECT FROM model.flight)
	AND NOT EXISTS (SELECT FROM rsvp_sync._intent i
		WHERE i.state IN ('blocked', 'held', 'failed', 'waiting')
			AND (i.did = of_did AND i.event_uri = of_uri OR EXISTS (
				SELECT FROM model.want w JOIN model.attached a USING (src)
				WHERE a.source_id = i.source_id AND w.key = i.key
					AND w.did = of_did AND w.uri = of_uri)))
$$;
