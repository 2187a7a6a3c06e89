/*
 * The application: people, events, and two attendance tables, each a source.
 * model.want is what the rows wish for, in the model's own words.
 */
CREATE ROLE model_app;
CREATE SCHEMA model AUTHORIZATION model_app;
SELECT rsvp_sync.grant_application('model_app');

CREATE TABLE model.person (id integer PRIMARY KEY, did text NOT NULL);
CREATE TABLE model.event (
	id integer PRIMARY KEY,
	uri text NOT NULL,
	cid text NOT NULL,				-- of the event record, on the network
	tells_cid boolean NOT NULL,		-- the application knows it, too
	public boolean NOT NULL DEFAULT true
);
CREATE TABLE model.a1 (
	id integer PRIMARY KEY,
	person integer NOT NULL,
	event integer NOT NULL,
	status text,
	hold boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE model.a2 (LIKE model.a1 INCLUDING ALL);
ALTER TABLE model.person OWNER TO model_app;
ALTER TABLE model.event OWNER TO model_app;
ALTER TABLE model.a1 OWNER TO model_app;
ALTER TABLE model.a2 OWNER TO model_app;

INSERT INTO model.person
SELECT p, 'did:plc:' || repeat(chr(96 + p), 24) FROM generate_series(1, 3) p;
INSERT INTO model.event
SELECT e, 'at://did:plc:' || repeat('o', 24)
	|| '/community.lexicon.calendar.event/event' || e,
	rsvp_sync.record_cid(jsonb_build_object('name', e)), e <> 2
FROM generate_series(1, 3) e;

/* The whole of the map, so that the model need not know the default. */
CREATE FUNCTION model.map() RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
SELECT '{"confirmed": "going", "attended": "going", "maybe": "interested",
	"pending": "interested", "waitlist": "interested",
	"cancelled": "notgoing", "invited": null, "rejected": null}'::jsonb
$$;

CREATE FUNCTION model.words() RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
SELECT ARRAY['confirmed', 'confirmed', 'attended', 'attended', 'maybe',
	'maybe', 'pending', 'waitlist', 'cancelled', 'cancelled', 'cancelled',
	'cancelled', 'invited', 'rejected', 'strange']
$$;

CREATE TABLE model.attached (
	src text PRIMARY KEY,			-- a1, a2
	source_id bigint NOT NULL,
	on_cancel text NOT NULL, on_delete text NOT NULL, conflict text NOT NULL
);

/* When a row was last changed, in truth. */
CREATE TABLE model.touched (
	src text, key text, at timestamptz NOT NULL, network boolean NOT NULL,
	PRIMARY KEY (src, key)
);

CREATE VIEW model.attendance AS
SELECT 'a1' AS src, a.* FROM model.a1 a
UNION ALL SELECT 'a2', a.* FROM model.a2 a;

CREATE VIEW model.want AS
SELECT a.src, a.id::text AS key, p.did, e.uri, a.status AS word,
	model.map() ->> a.status AS value,
	coalesce(model.map() ? a.status, false) AS mapped,
	CASE WHEN NOT e.public THEN 'delete' WHEN a.hold THEN 'keep' END
		AS withheld
FROM model.attendance a
JOIN model.person p ON p.id = a.person
JOIN model.event e ON e.id = a.event;

CREATE FUNCTION model.desired(of_table text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT format($q$
	SELECT a.id, p.did, e.uri AS event_uri, a.status,
		CASE WHEN NOT e.public THEN 'event_not_public'
			WHEN a.hold THEN 'skipped' END AS withheld,
		CASE WHEN NOT e.public THEN 'delete' ELSE 'keep' END AS on_withheld,
		CASE WHEN e.tells_cid THEN e.cid END AS event_cid, a.created_at
	FROM model.%I a
	JOIN model.person p ON p.id = a.person
	JOIN model.event e ON e.id = a.event
$q$, of_table)
$$;

/* Everything as at the beginning, attached with these options. */
CREATE PROCEDURE model.begin_anew(options jsonb, n_sources integer)
LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	FOR t IN SELECT src FROM model.attached LOOP
		EXECUTE format('DROP TRIGGER IF EXISTS touch ON model.%I', t);
		PERFORM rsvp_sync.detach(('model.' || t)::regclass);
	END LOOP;
	COMMIT;
	TRUNCATE model.a1, model.a2, model.attached, model.touched, model.said, model.saying,
		model.net, model.head, model.lane, model.flight, model.mark,
		model.foreign_edit, model.trace, model.failure;
	TRUNCATE rsvp_sync._source, rsvp_sync._intent, rsvp_sync._queue,
		rsvp_sync._change_log, rsvp_sync._observed, rsvp_sync._account,
		rsvp_sync._account_grant, rsvp_sync._found_credential,
		rsvp_sync._identity, rsvp_sync._event,
		rsvp_sync._withdrawal, rsvp_sync._history, rsvp_sync._pass,
		rsvp_sync._oauth_session
		RESTART IDENTITY CASCADE;
	UPDATE model.event SET public = true;
	INSERT INTO model.head SELECT did, 0 FROM model.person;
	COMMIT;
	FOR n IN 1 .. n_sources LOOP
		CALL model.attach('a' || n, options -> (n - 1));
	END LOOP;
	COMMIT;
END
$$;

/* Rows 1 and 2 are there before. */
CREATE PROCEDURE model.attach(t text, options jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	EXECUTE format('INSERT INTO model.%I (id, person, event, status)
		SELECT i, model.one_of_three(), model.one_of_three(), model.a_word()
		FROM generate_series(1, 2) i WHERE random() < 0.5', t);
	SET LOCAL ROLE model_app;
	id := rsvp_sync.attach(('model.' || t)::regclass, model.desired(t), NULL,
		options || jsonb_build_object('status_map', model.map(),
			'writeback', false, 'index', 'none', 'depends', '[
				{"table": "model.event", "column": "event"},
				{"table": "model.person", "column": "person"}]'::jsonb));
	RESET ROLE;
	INSERT INTO model.attached VALUES (t, id, options ->> 'on_cancel',
		options ->> 'on_delete', options ->> 'conflict');
	INSERT INTO model.touched
	SELECT w.src, w.key, now(), false FROM model.want w WHERE w.src = t;
	INSERT INTO model.said (src, key, did, uri, value, at, baseline)
	SELECT w.src, w.key, w.did, w.uri, w.value, now(),
		options ->> 'backfill' = 'none'
	FROM model.want w WHERE w.src = t;
	EXECUTE format('CREATE TRIGGER touch AFTER INSERT OR UPDATE OR DELETE
		ON model.%I FOR EACH ROW EXECUTE FUNCTION model.touch()', t);
END
$$;

CREATE FUNCTION model.touch() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
	skip boolean := coalesce(current_setting('rsvp_sync.skip', true), 'off')
		= 'on';
	row_id integer;
BEGIN
	IF TG_OP = 'UPDATE' AND OLD IS NOT DISTINCT FROM NEW THEN
		RETURN NULL;
	END IF;
	FOR row_id IN SELECT DISTINCT i FROM unnest(ARRAY[
		CASE WHEN TG_OP <> 'INSERT' THEN OLD.id END,
		CASE WHEN TG_OP <> 'DELETE' THEN NEW.id END]) i WHERE i IS NOT NULL
	LOOP
		INSERT INTO model.touched AS t
		VALUES (TG_TABLE_NAME, row_id::text, clock_timestamp(), skip)
		ON CONFLICT (src, key) DO UPDATE SET at = excluded.at,
			network = excluded.network;
	END LOOP;
	IF TG_OP <> 'INSERT' THEN
		PERFORM model.unmark(OLD.person, OLD.event);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		PERFORM model.unmark(NEW.person, NEW.event);
	END IF;
	RETURN NULL;
END
$$;
