/*
 * process_external_rsvp() and delete_external_rsvp(): for applications that
 * have a consumer of their own.  The application vouches for what it says: it
 * is applied at once, in its transaction, without asking anybody.
 */

CREATE FUNCTION rsvp_sync._bad_payload(field text, problem text, hint text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'payload field "%" %', field, problem
		USING ERRCODE = 'invalid_parameter_value', HINT = hint;
END
$$;
COMMENT ON FUNCTION rsvp_sync._bad_payload(text, text, text) IS
'private: raises invalid_parameter_value about a field of a payload';

/* A text of the payload; NULL where it is not given, null, or empty. */
CREATE FUNCTION rsvp_sync._payload_text(payload jsonb, field text,
	required boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	value jsonb := payload #> string_to_array(field, '.');
BEGIN
	IF jsonb_typeof(value) NOT IN ('string', 'null') THEN
		PERFORM rsvp_sync._bad_payload(field, format('is of type %s',
			jsonb_typeof(value)), 'It is a string.');
	END IF;
	IF required AND nullif(value #>> '{}', '') IS NULL THEN
		PERFORM rsvp_sync._bad_payload(field, 'is missing',
			'A payload has at least eventSourceId, eventSourceType, userDid, status and sourceId.');
	END IF;
	IF length(value #>> '{}') > 8192 THEN
		PERFORM rsvp_sync._bad_payload(field, 'is too long',
			'It may have 8192 characters.');
	END IF;
	RETURN nullif(value #>> '{}', '');
END
$$;
COMMENT ON FUNCTION rsvp_sync._payload_text(jsonb, text, boolean) IS
'private: a text field of a payload; invalid_parameter_value if it is something else';

/* Of two places where one thing may be said, the value; they must agree. */
CREATE FUNCTION rsvp_sync._payload_same(a text, b text, field text,
	other text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF a <> b THEN
		PERFORM rsvp_sync._bad_payload(field, format('(%s) and %s (%s) differ',
			a, other, b), 'They are about the same record.');
	END IF;
	RETURN coalesce(a, b);
END
$$;
COMMENT ON FUNCTION rsvp_sync._payload_same(text, text, text, text) IS
'private: one value said twice; invalid_parameter_value if it is not the same';

/* The time of a statement: never in the future. */
CREATE FUNCTION rsvp_sync._payload_time(payload jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	said text := rsvp_sync._payload_text(payload, 'timestamp');
	us jsonb := payload #> '{metadata,time_us}';
	at timestamptz;
BEGIN
	IF said IS NOT NULL THEN
		BEGIN
			at := CASE WHEN rsvp_sync.is_datetime(said)
				THEN said::timestamptz END;
		EXCEPTION WHEN OTHERS THEN
			at := NULL;
		END;
		IF at IS NULL THEN
			PERFORM rsvp_sync._bad_payload('timestamp', format('is %s',
				to_json(said)), 'It is a datetime with a time zone, as in 2026-03-04T05:06:07.000Z.');
		END IF;
	END IF;
	IF jsonb_typeof(us) IS NOT NULL AND jsonb_typeof(us) <> 'null' THEN
		IF us #>> '{}' !~ '^[0-9]{1,16}$' THEN
			PERFORM rsvp_sync._bad_payload('metadata.time_us', format('is %s',
				us), 'It is a number of microseconds since 1970.');
		END IF;
		at := timestamptz 'epoch' + (us #>> '{}')::bigint
			* interval '1 microsecond';
	END IF;
	RETURN least(at, now());
END
$$;
COMMENT ON FUNCTION rsvp_sync._payload_time(jsonb) IS
'private: when a payload was said, by metadata.time_us or timestamp; not later than now; NULL: it does not say';

/* The attached tables of a tenant that the caller may have answers put in. */
CREATE FUNCTION rsvp_sync._tenant_sources(caller oid, of_tenant text)
RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	sources bigint[];
	every bigint[];
	tenants text[];
BEGIN
	IF of_tenant IS NULL THEN
		RAISE EXCEPTION 'the tenant must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'It is option tenant of attach(): of the schema tenant_x it is x, where there are none it is the empty string.';
	END IF;
	SELECT array_agg(l.source_id ORDER BY l.source_id)
			FILTER (WHERE l.tenant = of_tenant),
		array_agg(l.source_id ORDER BY l.source_id),
		array_agg(DISTINCT l.tenant)
	INTO sources, every, tenants
	FROM rsvp_sync._listeners() l
	JOIN pg_class c ON c.oid = l.attendance
	WHERE pg_has_role(caller, c.relowner, 'USAGE')
		OR has_table_privilege(caller, c.oid, 'INSERT')
		AND has_table_privilege(caller, c.oid, 'UPDATE');
	/* Who has no tenants need not know what his schema is called. */
	IF sources IS NULL AND of_tenant = '' AND cardinality(tenants) = 1 THEN
		RETURN every;
	END IF;
	IF sources IS NULL THEN
		RAISE EXCEPTION 'there is no attached table of tenant "%" that takes answers from you',
			of_tenant
			USING ERRCODE = 'undefined_object',
				HINT = CASE WHEN cardinality(tenants) <= 20
					THEN format('The tenants are: %s. ', array_to_string(
						ARRAY(SELECT '"' || t || '"' FROM unnest(tenants) t), ', '))
					ELSE '' END
					|| 'A table takes answers if it was attached with this option tenant, is of a recognised schema or has an apply function, and you own it or have the right to INSERT and UPDATE.';
	END IF;
	RETURN sources;
END
$$;
COMMENT ON FUNCTION rsvp_sync._tenant_sources(oid, text) IS
'private: sources of a tenant that take answers from the caller; '''': also those of the only tenant there is; undefined_object if there is none';

CREATE FUNCTION rsvp_sync._is_atproto(source_type text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT lower(source_type) IN ('bluesky', 'atproto')
$$;
COMMENT ON FUNCTION rsvp_sync._is_atproto(text) IS
'private: does this source type stand for AT Protocol records?';

/* A payload about an AT Protocol record, checked. */
CREATE FUNCTION rsvp_sync._payload_arrival(payload jsonb)
RETURNS rsvp_sync._arrival
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._arrival;
	word text := rsvp_sync._payload_text(payload, 'status', true);
	uri text := rsvp_sync._payload_text(payload, 'sourceId');
	parts record;
	its jsonb := payload #> '{metadata,record}';
BEGIN
	IF jsonb_typeof(payload -> 'metadata') NOT IN ('object', 'null') THEN
		PERFORM rsvp_sync._bad_payload('metadata', format('is of type %s',
			jsonb_typeof(payload -> 'metadata')), 'It is an object.');
	END IF;
	a.did := rsvp_sync._payload_text(payload, 'userDid', true);
	IF NOT rsvp_sync.is_did(a.did) THEN
		PERFORM rsvp_sync._bad_payload('userDid', format('is %s',
			to_json(a.did)), 'It is a DID, as in did:plc:ewvi7nxzyoun6zhxrhs64oiz; a handle goes into userHandle.');
	END IF;
	a.event_uri := rsvp_sync._payload_same(
		rsvp_sync._payload_text(payload, 'eventSourceId', true),
		rsvp_sync._payload_text(payload, 'metadata.eventUri'),
		'eventSourceId', 'metadata.eventUri');
	IF NOT rsvp_sync._is_record_of_did(a.event_uri) THEN
		PERFORM rsvp_sync._bad_payload('eventSourceId', format('is %s',
			to_json(a.event_uri)), 'It is the at-uri of an event record, with a DID in it: at://did:plc:.../community.lexicon.calendar.event/...');
	END IF;

	a.rkey := rsvp_sync._payload_text(payload, 'metadata.rkey');
	IF uri IS NOT NULL THEN
		IF NOT rsvp_sync._is_record_of_did(uri) THEN
			PERFORM rsvp_sync._bad_payload('sourceId', format('is %s',
				to_json(uri)), 'It is the at-uri of the RSVP record: at://did:plc:.../community.lexicon.calendar.rsvp/...');
		END IF;
		parts := rsvp_sync.parse_at_uri(uri);
		PERFORM rsvp_sync._payload_same(parts.authority, a.did, 'sourceId',
			'userDid');
		PERFORM rsvp_sync._payload_same(parts.collection,
			'community.lexicon.calendar.rsvp', 'sourceId',
			'the collection of RSVPs');
		a.rkey := rsvp_sync._payload_same(a.rkey, parts.rkey,
			'metadata.rkey', 'sourceId');
	ELSIF a.rkey IS NULL THEN
		PERFORM rsvp_sync._payload_text(payload, 'sourceId', true);
	END IF;
	PERFORM rsvp_sync._payload_same(
		rsvp_sync._payload_text(payload, 'metadata.collection'),
		'community.lexicon.calendar.rsvp', 'metadata.collection',
		'the collection of RSVPs');
	IF NOT rsvp_sync.is_record_key(a.rkey) THEN
		PERFORM rsvp_sync._bad_payload('metadata.rkey', format('is %s',
			to_json(a.rkey)), 'It is a record key.');
	END IF;

	a.cid := rsvp_sync._payload_text(payload, 'metadata.cid');
	a.event_cid := rsvp_sync._payload_text(payload, 'metadata.eventCid');
	IF NOT rsvp_sync.is_cid(a.cid) OR NOT rsvp_sync.is_cid(a.event_cid) THEN
		PERFORM rsvp_sync._bad_payload(CASE WHEN rsvp_sync.is_cid(a.cid)
			IS NOT FALSE THEN 'metadata.eventCid' ELSE 'metadata.cid' END,
			'is no CID', 'Leave it out where it is not known.');
	END IF;
	a.rev := rsvp_sync._payload_text(payload, 'metadata.rev');
	IF NOT rsvp_sync.is_tid(a.rev) THEN
		PERFORM rsvp_sync._bad_payload('metadata.rev', format('is %s',
			to_json(a.rev)), 'It is the rev of the commit, a TID.');
	END IF;

	a.status := rsvp_sync._status_word(jsonb_build_object('status', word));
	IF jsonb_typeof(its) = 'object' THEN
		IF length(its::text) > 65536 THEN
			PERFORM rsvp_sync._bad_payload('metadata.record', 'is too large',
				'A record may have 64 kB.');
		END IF;
		PERFORM rsvp_sync._payload_same(its ->> '$type',
			'community.lexicon.calendar.rsvp', 'metadata.record.$type',
			'the collection of RSVPs');
		PERFORM rsvp_sync._payload_same(rsvp_sync._subject_uri(its),
			a.event_uri, 'metadata.record.subject', 'eventSourceId');
		PERFORM rsvp_sync._payload_same(rsvp_sync._status_word(its), a.status,
			'metadata.record.status', 'status');
		/* Not the record as it is there: then it is read before it is changed. */
		IF coalesce(a.cid = rsvp_sync.record_cid(its), true) THEN
			a.record := its;
			a.cid := rsvp_sync.record_cid(its);
		END IF;
	ELSIF jsonb_typeof(its) <> 'null' THEN
		PERFORM rsvp_sync._bad_payload('metadata.record', format('is of type %s',
			jsonb_typeof(its)), 'It is the record, an object.');
	END IF;
	IF rsvp_sync._tid_time(a.rev) > now() + interval '1 day' THEN
		a.rev := NULL;			/* as _arrivals() has it */
	END IF;
	a.at := rsvp_sync._payload_time(payload);
	a.at := least(coalesce(rsvp_sync._tid_time(a.rev), a.at, now()), now());
	IF a.cid IS NULL THEN
		a.cid := '?' || md5(concat_ws('/', a.rev, a.at, word));
	END IF;
	RETURN a;
END
$$;
COMMENT ON FUNCTION rsvp_sync._payload_arrival(jsonb) IS
'private: the record that a payload is about; invalid_parameter_value if it is not well-formed';

CREATE FUNCTION rsvp_sync._payload_handle(payload jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	handle text := lower(ltrim(rsvp_sync._payload_text(payload, 'userHandle'),
		'@'));
BEGIN
	IF handle LIKE 'did:%' OR handle = 'handle.invalid' THEN
		RETURN NULL;			/* what clients say where there is none */
	END IF;
	IF NOT rsvp_sync.is_handle(handle) THEN
		PERFORM rsvp_sync._bad_payload('userHandle', format('is %s',
			to_json(handle)), 'It is a handle, as in alice.example.com; leave it out where it is not known.');
	END IF;
	RETURN handle;
END
$$;
COMMENT ON FUNCTION rsvp_sync._payload_handle(jsonb) IS
'private: the handle in a payload, or NULL; invalid_parameter_value if it is none';

/* What is told of one source's part; rank: what the whole answer says. */
CREATE FUNCTION rsvp_sync._tell_meeting(m rsvp_sync._meeting,
	OUT rank integer, OUT action text, OUT message text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT t.rank, t.action, t.message FROM (SELECT CASE
	WHEN m.error IS NOT NULL THEN 1
	WHEN m.verdict = 'put_off' THEN 2
	WHEN m.verdict IN ('apply', 'cancel') AND m.taken_key IS NULL THEN 3
	WHEN m.verdict IN ('apply', 'cancel') AND m.taken_key = '' THEN 4
	WHEN m.verdict = 'cancel' THEN 5
	WHEN m.verdict = 'apply' AND m.taken_key = m.key THEN 6
	WHEN m.verdict = 'apply' THEN 7
	WHEN m.verdict = 'keep' THEN 8
	WHEN m.verdict = 'local' THEN 9
	WHEN m.verdict = 'echo' THEN 10
	WHEN m.verdict = 'verify' THEN 11 ELSE 12 END) c (n)
CROSS JOIN LATERAL (VALUES
	(1, 2, 'parked', format('It could not be applied and is tried again: %s', m.error)),
	(2, 3, 'parked', 'Nothing is applied now; it is kept until that is over.'),
	(3, 4, 'parked', 'The event is not known here; the RSVP is kept and looked at again when it appears.'),
	(4, 6, 'ignored', 'No attendance row is needed for this.'),
	(5, 1, 'updated', 'The attendance was cancelled.'),
	(6, 1, 'updated', 'The attendance was updated.'),
	(7, 1, 'created', 'An attendance was created, or found for the first time.'),
	(8, 5, 'kept', 'The status is not one we know: it is kept, and not applied.'),
	(9, 6, 'ignored', 'The attendance was changed here since; what it says is sent.'),
	(10, 7, 'unchanged', 'It is what we wrote ourselves.'),
	(11, 3, 'parked', 'Its author''s PDS is asked first.'),
	(12, 7, 'unchanged', 'The attendance says so already.')) t (n, rank, action, message)
WHERE t.n = c.n
$$;
COMMENT ON FUNCTION rsvp_sync._tell_meeting(rsvp_sync._meeting) IS
'private: what process_external_rsvp() says of what the merge did';

/* The application's word in a row; NULL: no row, or it cannot be asked. */
CREATE FUNCTION rsvp_sync._word_of_row(of_source bigint, of_key text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT d.status
		FROM rsvp_sync._desired(of_source, ARRAY[of_key]) d);
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._word_of_row(bigint, text) IS
'private: the status of an attendance row, or NULL';

/*
 * What a row of another table has written, or taken for its own, is told to
 * the tables that have a row for it already.  One that has none hears it from
 * its application, once.
 */
CREATE FUNCTION rsvp_sync._only_others_know(a rsvp_sync._arrival,
	known_sources bigint[])
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
	known rsvp_sync._observed;
BEGIN
	SELECT o.* INTO known FROM rsvp_sync._observed o
	WHERE o.did = a.did AND o.rkey = a.rkey AND o.event_uri = a.event_uri
		AND (o.cid = a.cid OR a.cid LIKE '?%' AND o.status = a.status)
		AND o.heard_by IS NULL;
	RETURN FOUND
		AND EXISTS (SELECT FROM rsvp_sync._intent i
			WHERE i.did = a.did AND i.event_uri = a.event_uri
				AND i.bond IS NOT NULL AND i.rkey = a.rkey
				AND i.source_id <> ALL (known_sources))
		AND EXISTS (SELECT FROM unnest(known_sources) k (source_id)
			WHERE NOT EXISTS (SELECT FROM rsvp_sync._intent i
				WHERE i.did = a.did AND i.event_uri = a.event_uri
					AND i.source_id = k.source_id)
			/* Nor has had one, that has been deleted since. */
			AND NOT EXISTS (SELECT FROM rsvp_sync._history h
				WHERE h.at >= known.changed_at
					AND h.source_id = k.source_id AND h.action = 'apply'
					AND h.did = a.did AND h.cid = known.cid
					AND h.uri = rsvp_sync._rsvp_uri(a.did, a.rkey)));
END
$$;
COMMENT ON FUNCTION rsvp_sync._only_others_know(rsvp_sync._arrival, bigint[]) IS
'private: is this the record of another table''s row, of which one of these sources was never told?';

CREATE FUNCTION rsvp_sync._process_record(caller oid, payload jsonb,
	sources bigint[])
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._arrival := rsvp_sync._payload_arrival(payload);
	of_handle text := rsvp_sync._payload_handle(payload);
	intake rsvp_sync._intake;
	told record;
	known text;
	known_status text;
BEGIN
	/* Told without its cid: if it says what is known, it is that. */
	IF a.cid LIKE '?%' AND a.rev IS NULL THEN
		a.cid := coalesce((SELECT o.cid FROM rsvp_sync._observed o
			WHERE o.did = a.did AND o.rkey = a.rkey
				AND o.event_uri = a.event_uri AND o.status = a.status), a.cid);
	END IF;
	intake := rsvp_sync._take_in(ARRAY[a], 'application', true, sources);
	IF EXISTS (SELECT FROM rsvp_sync._forgotten f
		WHERE f.digest = sha256(convert_to(a.did, 'UTF8'))) THEN
		RETURN rsvp_sync._external_result('ignored', NULL, NULL,
			'The user asked to be forgotten; nothing is stored.');
	END IF;
	IF intake.changed = 0
		AND NOT rsvp_sync._only_others_know(a, intake.known_sources)
		AND NOT EXISTS (SELECT FROM rsvp_sync._inbound b
			WHERE b.did = a.did AND b.rkey = a.rkey)
		AND NOT EXISTS (SELECT FROM rsvp_sync._stranger t
			WHERE t.did = a.did AND t.rkey = a.rkey)
	THEN
		SELECT o.cid, o.status INTO known, known_status
		FROM rsvp_sync._observed o
		WHERE o.did = a.did AND o.rkey = a.rkey;
		SELECT i.source_id, i.key INTO told FROM rsvp_sync._intent i
		WHERE i.did = a.did AND i.event_uri = a.event_uri
			AND i.source_id = ANY (sources)
		ORDER BY i.live DESC, i.local_at DESC NULLS LAST LIMIT 1;
		IF known = a.cid OR a.cid LIKE '?%' AND known IS NOT NULL
			AND known_status IS NOT DISTINCT FROM a.status THEN
			RETURN rsvp_sync._external_result('unchanged', told.source_id,
				told.key, 'This is known already.');
		END IF;
		RETURN rsvp_sync._external_result('ignored', told.source_id, told.key,
			'A newer version of this record is known.');
	END IF;
	SELECT m.source_id, (m.meeting).taken_key, (m.meeting).key,
		(m.meeting).seen_key, (m.meeting).seen, t.action, t.message
	INTO told
	FROM rsvp_sync._merge_slots(intake.dids || a.did,
		intake.uris || a.event_uri, sources, NULL, NULL, of_handle) m
	CROSS JOIN LATERAL rsvp_sync._tell_meeting(m.meeting) t
	WHERE (m.meeting).event_uri = a.event_uri
	ORDER BY t.rank, m.source_id LIMIT 1;
	IF told.action IS NULL THEN
		RETURN rsvp_sync._external_result('parked', NULL, NULL,
			'The event is not known here; the RSVP is kept and looked at again when it appears.');
	END IF;
	/* The host's decision stands: the function took it, and changed nothing. */
	IF told.action = 'updated' AND told.taken_key = told.seen_key
		AND told.seen = rsvp_sync._word_of_row(told.source_id, told.taken_key)
	THEN
		told.action := 'unchanged';
		told.message := format('The application leaves the attendance as it is (%s).',
			told.seen);
	END IF;
	IF told.action IN ('created', 'updated', 'unchanged') THEN
		DELETE FROM rsvp_sync._stranger t
		WHERE t.did = a.did AND t.rkey = a.rkey;
	END IF;
	RETURN rsvp_sync._external_result(told.action, told.source_id,
		coalesce(nullif(told.taken_key, ''), told.key), told.message);
END
$$;
COMMENT ON FUNCTION rsvp_sync._process_record(oid, jsonb, bigint[]) IS
'private: process_external_rsvp() of an AT Protocol record';

CREATE FUNCTION rsvp_sync._external_result(action text, of_source bigint,
	of_key text, message text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_build_object('success', action <> 'parked', 'action', action,
	'attendanceId', of_key, 'attendeeId', of_key,
	'attendance', (SELECT s.attendance::text FROM rsvp_sync._source s
		WHERE s.source_id = of_source AND of_key IS NOT NULL),
	'message', message)
$$;
COMMENT ON FUNCTION rsvp_sync._external_result(text, bigint, text, text) IS
'private: what process_external_rsvp() returns';

/*
 * What is no AT Protocol record: the newest statement of an author about an
 * event counts.  Nothing of it is sent.
 */

/* Applies what counts of an author's statements, into a tenant's sources. */
CREATE FUNCTION rsvp_sync._apply_external(of_tenant text, of_author text,
	of_event text, sources bigint[])
RETURNS TABLE (action text, source_id bigint, key text, message text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	e rsvp_sync._external;
	a record;
	began timestamptz := clock_timestamp();
	due timestamptz := now() + interval '1 hour';
	failed boolean := false;
BEGIN
	SELECT x.* INTO e FROM rsvp_sync._external x
	WHERE x.tenant = of_tenant AND x.author = of_author
		AND x.event_id = of_event
	ORDER BY x.said_at DESC, x.seen_at DESC, x.source_id DESC LIMIT 1;
	IF e.status IS NULL AND e.author IS NOT NULL THEN
		RETURN QUERY SELECT 'kept', e.attendance, e.key,
			'The status is not one we know: it is kept, and not applied.';
		RETURN;
	END IF;
	action := 'parked';
	message := 'The event is not known here; the RSVP is kept and looked at again.';
	IF current_setting('rsvp_sync.mode') <> 'live' THEN
		sources := '{}';
		message := 'Nothing is applied now; it is kept until that is over.';
		due := now() + interval '10 seconds';
	END IF;
	FOR a IN SELECT s.source_id, s.tenant, r.key, r.error
		FROM rsvp_sync._listeners() s
		CROSS JOIN LATERAL rsvp_sync._apply(s.source_id, ARRAY[of_author],
			ARRAY[of_event], ARRAY[e.status],
			ARRAY[jsonb_build_object('uri', e.source_id, 'cid', NULL,
				'rkey', NULL, 'status', e.status, 'record', e.metadata,
				'handle', e.handle, 'rev', NULL,
				'source', e.source_type)::text]) r
		WHERE s.source_id = ANY (sources) AND s.state = 'active'
			AND EXISTS (SELECT FROM rsvp_sync._known_events(s.source_id,
				ARRAY[of_event]))
	LOOP
		IF a.error IS NOT NULL THEN
			message := format('It could not be applied and is tried again: %s',
				a.error);
			due := now() + rsvp_sync._backoff(coalesce(e.attempts, 0));
			failed := true;
			UPDATE rsvp_sync._external x SET attempts = x.attempts + 1,
				last_error = a.error
			WHERE x.tenant = e.tenant AND x.source_type = e.source_type
				AND x.source_id = e.source_id;
		ELSIF a.key IS NOT NULL THEN
			due := CASE WHEN failed THEN due END;
			source_id := a.source_id;
			key := nullif(a.key, '');
			action := CASE WHEN key IS NULL THEN 'ignored'
				WHEN e.author IS NULL OR e.key = key THEN 'updated'
				ELSE 'created' END;
			message := CASE WHEN key IS NULL
				THEN 'No attendance row is needed for this.'
				ELSE format('The attendance was %s.', action) END;
			PERFORM rsvp_sync._count_integration(a.tenant,
				coalesce(e.source_type, 'external'),
				(action = 'created')::integer,
				(action = 'updated' AND e.author IS NOT NULL)::integer,
				(e.author IS NULL)::integer, clock_timestamp() - began);
		END IF;
	END LOOP;
	UPDATE rsvp_sync._external x SET
		attendance = coalesce(_apply_external.source_id, x.attendance),
		key = coalesce(_apply_external.key, x.key), due_at = due,
		attempts = CASE WHEN due IS NULL THEN 0 ELSE x.attempts END,
		last_error = CASE WHEN due IS NOT NULL THEN x.last_error END
	WHERE x.tenant = e.tenant AND x.source_type = e.source_type
		AND x.source_id = e.source_id;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION rsvp_sync._apply_external(text, text, text, bigint[]) IS
'private: applies an author''s newest statement about an event, or that there is none any more';

/* Nothing can stand on an answer about an event that nobody has any more. */
CREATE FUNCTION rsvp_sync._is_gone_event(sources bigint[], of_event text)
RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT NOT EXISTS (SELECT FROM rsvp_sync._source s
		WHERE s.source_id = ANY (sources) AND s.state <> 'active')
	AND NOT EXISTS (SELECT FROM unnest(sources) s
		CROSS JOIN LATERAL rsvp_sync._known_events(s, ARRAY[of_event]) k)
$$;
COMMENT ON FUNCTION rsvp_sync._is_gone_event(bigint[], text) IS
'private: do all these sources work, and none of them knows the event?';

/*
 * A statement that was just deleted is withdrawn; if its attendance stands and
 * cannot be cancelled now, it must not be left without, and is put back.
 */
CREATE FUNCTION rsvp_sync._withdraw_external(gone rsvp_sync._external,
	sources bigint[], OUT success boolean, OUT message text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	told record;
BEGIN
	SELECT * INTO told FROM rsvp_sync._apply_external(gone.tenant,
		gone.author, gone.event_id, sources)
	WHERE gone.key IS NOT NULL;
	success := true;
	message := coalesce(told.message, 'No attendance stood on this RSVP');
	IF told.action = 'parked' THEN
		message := 'No attendance stands on this RSVP any more';
		success := rsvp_sync._is_gone_event(sources, gone.event_id);
	END IF;
	IF NOT success THEN
		INSERT INTO rsvp_sync._external SELECT (gone).*;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._withdraw_external(rsvp_sync._external, bigint[]) IS
'private: cancels the attendance that a deleted statement stood for, or puts the statement back';

CREATE FUNCTION rsvp_sync._process_other(payload jsonb, of_tenant text,
	sources bigint[])
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	type text := lower(rsvp_sync._payload_text(payload, 'eventSourceType',
		true));
	id text := rsvp_sync._payload_text(payload, 'sourceId', true);
	event text := rsvp_sync._payload_text(payload, 'eventSourceId', true);
	author text := rsvp_sync._payload_text(payload, 'userDid', true);
	word text := rsvp_sync._payload_text(payload, 'status', true);
	at timestamptz := coalesce(rsvp_sync._payload_time(payload), now());
	value text := rsvp_sync._status_word(jsonb_build_object('status', word));
	before rsvp_sync._external;
	stored boolean;
	told record;
BEGIN
	SELECT x.* INTO before FROM rsvp_sync._external x
	WHERE x.tenant = of_tenant AND x.source_type = type
		AND x.source_id = id FOR UPDATE;
	IF type !~ '^[a-z][a-z0-9_.-]{0,62}$' THEN
		PERFORM rsvp_sync._bad_payload('eventSourceType', format('is %s',
			to_json(type)), 'It is a word, as in bluesky, web or activitypub.');
	END IF;
	IF EXISTS (SELECT FROM rsvp_sync._forgotten f
		WHERE f.digest = sha256(convert_to(author, 'UTF8'))) THEN
		RETURN rsvp_sync._external_result('ignored', NULL, NULL,
			'The user asked to be forgotten; nothing is stored.');
	END IF;
	/* Somebody else says it now, or of something else. */
	IF (before.event_id, before.author) <> (event, author)
		AND at >= before.said_at THEN
		DELETE FROM rsvp_sync._external x
		WHERE x.tenant = of_tenant AND x.source_type = type
			AND x.source_id = id;
		SELECT * INTO told FROM rsvp_sync._withdraw_external(before, sources);
		IF NOT told.success THEN
			RETURN rsvp_sync._external_result('parked', before.attendance,
				before.key, 'Not taken: the attendance that it stood for cannot be cancelled now. Tell it again later');
		END IF;
	END IF;
	INSERT INTO rsvp_sync._external AS x (tenant, source_type, source_id,
		event_id, author, handle, status, said, said_at, metadata)
	VALUES (of_tenant, type, id, event, author,
		coalesce(rsvp_sync._payload_text(payload, 'userHandle'),
			CASE WHEN before.author = author THEN before.handle END), value, word, at,
		nullif(payload -> 'metadata', 'null'))
	ON CONFLICT (tenant, source_type, source_id) DO UPDATE SET
		event_id = excluded.event_id, author = excluded.author,
		handle = coalesce(excluded.handle, x.handle),
		status = excluded.status, said = excluded.said,
		said_at = excluded.said_at, seen_at = now(),
		metadata = coalesce(excluded.metadata, x.metadata)
	WHERE excluded.said_at > x.said_at
		OR excluded.said_at = x.said_at AND (excluded.said, excluded.author,
			excluded.event_id) IS DISTINCT FROM (x.said, x.author, x.event_id)
	RETURNING true INTO stored;
	SELECT x.* INTO before FROM rsvp_sync._external x
	WHERE x.tenant = of_tenant AND x.source_type = type
		AND x.source_id = id;
	IF stored IS NULL AND before.due_at IS NULL THEN
		RETURN rsvp_sync._external_result(
			CASE WHEN before.said_at = at THEN 'unchanged' ELSE 'ignored' END,
			before.attendance, before.key,
			CASE WHEN before.said_at = at THEN 'This is known already.'
				ELSE 'A newer statement is known.' END);
	END IF;
	SELECT * INTO told FROM rsvp_sync._apply_external(of_tenant, author, event,
		sources);
	RETURN rsvp_sync._external_result(told.action, told.source_id, told.key,
		told.message);
END
$$;
COMMENT ON FUNCTION rsvp_sync._process_other(jsonb, text, bigint[]) IS
'private: process_external_rsvp() of what is no AT Protocol record';

CREATE FUNCTION rsvp_sync._process_external_rsvp(caller oid, payload jsonb,
	tenant text)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	sources bigint[] := rsvp_sync._tenant_sources(caller, tenant);
BEGIN
	IF jsonb_typeof(payload) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'the payload must be a JSON object, not %',
			coalesce(jsonb_typeof(payload), 'null')
			USING ERRCODE = CASE WHEN payload IS NULL
				THEN '22004' ELSE '22023' END,
				HINT = 'It has eventSourceId, eventSourceType, userDid, userHandle, status, timestamp, sourceId and metadata.';
	END IF;
	IF rsvp_sync._is_atproto(rsvp_sync._payload_text(payload,
		'eventSourceType', true)) THEN
		RETURN rsvp_sync._process_record(caller, payload, sources);
	END IF;
	RETURN rsvp_sync._process_other(payload, tenant, sources);
END
$$;
COMMENT ON FUNCTION rsvp_sync._process_external_rsvp(oid, jsonb, text) IS
'private: process_external_rsvp() for a caller';

CREATE FUNCTION rsvp_sync.process_external_rsvp(payload jsonb, tenant text)
RETURNS jsonb
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_process_external_rsvp';
COMMENT ON FUNCTION rsvp_sync.process_external_rsvp(jsonb, text) IS
'An RSVP made elsewhere becomes attendance, now, in this transaction. payload: eventSourceId, eventSourceType, userDid, userHandle, status, timestamp, sourceId, metadata (cid, eventCid, rkey, rev, time_us, record). Returns success, action (created, updated, unchanged, ignored, parked, kept), attendanceId, attendance, message. Errors: invalid_parameter_value (a field), null_value_not_allowed, undefined_object (no such tenant of the caller''s).';

/* One that was written, or adopted, here: observed may have lost it. */
CREATE FUNCTION rsvp_sync._remember_bonded(of_did text, of_rkey text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._observed (did, rkey, cid, event_uri, source)
SELECT i.did, i.rkey, i.base_cid, i.event_uri, 'application'
FROM rsvp_sync._intent i
WHERE i.did = of_did AND i.rkey = of_rkey AND i.bond IS NOT NULL
	AND i.base_cid IS NOT NULL
LIMIT 1
ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION rsvp_sync._remember_bonded(text, text) IS
'private: puts a record that an attendance row is bound to back into observed';

/*
 * A record that nobody has told us of, which a row says it stands for: it was
 * published or taken in before the table was attached.  It is as if we had
 * been told of it before it went.
 */
CREATE FUNCTION rsvp_sync._remember_told(of_did text, of_rkey text, uri text,
	sources bigint[])
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	a rsvp_sync._arrival;
	s rsvp_sync._source;
	intake rsvp_sync._intake;
	row_key text;
	says text;
BEGIN
	FOR s IN SELECT * FROM rsvp_sync._listeners() l
		WHERE l.source_id = ANY (sources)
	LOOP
		/* A source whose queries do not run knows nothing of it. */
		BEGIN
			row_key := rsvp_sync._told_row(s.source_id, of_did, uri);
			CONTINUE WHEN row_key IS NULL;
			SELECT d.key, d.event_uri,
				rsvp_sync._status_map(s.source_id) ->> d.status
			INTO row_key, a.event_uri, says
			FROM rsvp_sync._desired(s.source_id, ARRAY[row_key]) d
			/* A shadow user's row need not say whose it is. */
			WHERE coalesce(d.did, of_did) = of_did AND d.event_uri IS NOT NULL;
		EXCEPTION WHEN query_canceled OR OTHERS THEN
			IF SQLSTATE = '57014' AND NOT rsvp_sync._in_worker() THEN
				RAISE;
			END IF;
			row_key := NULL;
		END;
		IF row_key IS NOT NULL THEN
			a.did := of_did;
			a.rkey := of_rkey;
			a.cid := '?' || md5(uri);
			a.status := coalesce(says, 'going');
			a.at := now();
			/* As attach() has it for a row that it finds. */
			INSERT INTO rsvp_sync._intent (source_id, key, did, event_uri,
				local, local_at, first_local, base_local, state, reason_code,
				reason)
			VALUES (s.source_id, row_key, of_did, a.event_uri, says, a.at,
				says, says, 'withheld', 'not_backfilled',
				rsvp_sync._reason('not_backfilled'))
			ON CONFLICT DO NOTHING;
			intake := rsvp_sync._take_in(ARRAY[a], 'application', true,
				sources);
			IF EXISTS (SELECT FROM rsvp_sync._merge_slots(intake.dids,
					intake.uris, sources, NULL, NULL) m
				WHERE (m.meeting).error IS NOT NULL
					OR (m.meeting).verdict = 'put_off')
			THEN
				DELETE FROM rsvp_sync._observed o
				WHERE o.did = of_did AND o.rkey = of_rkey;
				DELETE FROM rsvp_sync._inbound b
				WHERE b.did = of_did AND b.rkey = of_rkey;
				RETURN false;
			END IF;
			RETURN true;
		END IF;
	END LOOP;
	RETURN true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._remember_told(text, text, text, bigint[]) IS
'private: puts a record into observed that an attendance row of these sources says it stands for; false: nothing can be applied to that row now';

CREATE FUNCTION rsvp_sync._delete_record(source_id text, sources bigint[],
	OUT success boolean, OUT message text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts record := rsvp_sync.parse_at_uri(source_id);
	a rsvp_sync._arrival;
	intake rsvp_sync._intake;
	was record;
	told record;
BEGIN
	success := true;
	message := 'RSVP not found for deletion - ignoring';
	IF parts.collection IS DISTINCT FROM 'community.lexicon.calendar.rsvp'
		OR parts.rkey IS NULL THEN
		RETURN;
	END IF;
	a.did := parts.authority;
	a.rkey := parts.rkey;
	a.at := now();
	PERFORM rsvp_sync._remember_bonded(a.did, a.rkey);
	SELECT o.cid, o.event_uri INTO was FROM rsvp_sync._observed o
	WHERE o.did = a.did AND o.rkey = a.rkey;
	IF NOT FOUND THEN
		IF NOT rsvp_sync._remember_told(a.did, a.rkey, source_id, sources) THEN
			success := false;
			message := 'Not deleted: its attendance cannot be cancelled now. Delete it again later';
			RETURN;
		END IF;
		SELECT o.cid, o.event_uri INTO was FROM rsvp_sync._observed o
		WHERE o.did = a.did AND o.rkey = a.rkey;
		IF NOT FOUND THEN
			DELETE FROM rsvp_sync._stranger t
			WHERE t.did = a.did AND t.rkey = a.rkey;
			RETURN;
		END IF;
	END IF;
	intake := rsvp_sync._take_in(ARRAY[a], 'application', true, sources);
	IF intake.changed = 0 THEN
		message := 'This RSVP was deleted before';
		RETURN;
	END IF;
	SELECT count(*) FILTER (WHERE (m.meeting).verdict = 'cancel'
			AND (m.meeting).taken_key <> '') AS cancelled,
		count(*) FILTER (WHERE (m.meeting).verdict = 'apply'
			AND (m.meeting).taken_key <> '') AS replaced,
		count(*) FILTER (WHERE (m.meeting).verdict = 'put_off') AS put_off,
		min((m.meeting).error) AS error
	INTO told
	FROM rsvp_sync._merge_slots(ARRAY[a.did], ARRAY[was.event_uri], sources,
		NULL, NULL) m;
	message := CASE
		WHEN told.error IS NOT NULL
		THEN format('It could not be applied and is tried again: %s', told.error)
		WHEN told.put_off > 0
		THEN 'Nothing is applied now; it is kept until that is over'
		WHEN told.replaced > 0
		THEN 'Another RSVP of the same person for this event counts now'
		WHEN told.cancelled > 0
		THEN format('Successfully cancelled %s attendance record(s) using RSVP URI',
			told.cancelled)
		ELSE 'No attendance stood on this RSVP' END;
	success := told.error IS NULL AND told.put_off = 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._delete_record(text, bigint[]) IS
'private: delete_external_rsvp() of an AT Protocol record';

CREATE FUNCTION rsvp_sync._delete_external_rsvp(caller oid, source_id text,
	source_type text, tenant text, OUT success boolean, OUT message text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	sources bigint[] := rsvp_sync._tenant_sources(caller, tenant);
	gone rsvp_sync._external;
BEGIN
	IF source_id IS NULL OR source_type IS NULL THEN
		RAISE EXCEPTION '% must not be null', CASE WHEN source_id IS NULL
			THEN 'source_id' ELSE 'source_type' END
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'They are what process_external_rsvp() was given as sourceId and eventSourceType.';
	END IF;
	DELETE FROM rsvp_sync._external x
	WHERE x.tenant = _delete_external_rsvp.tenant
		AND x.source_type = lower(_delete_external_rsvp.source_type)
		AND x.source_id = _delete_external_rsvp.source_id
	RETURNING x.* INTO gone;
	IF FOUND THEN
		SELECT w.success, w.message INTO success, message
		FROM rsvp_sync._withdraw_external(gone, sources) w;
		IF NOT success THEN
			message := 'Not deleted: its attendance cannot be cancelled now. Delete it again later';
		END IF;
		RETURN;
	END IF;
	IF rsvp_sync._is_atproto(source_type) AND rsvp_sync.is_at_uri(source_id)
	THEN
		SELECT d.success, d.message INTO success, message
		FROM rsvp_sync._delete_record(source_id, sources) d;
		RETURN;
	END IF;
	success := true;
	message := 'RSVP not found for deletion - ignoring';
END
$$;
COMMENT ON FUNCTION rsvp_sync._delete_external_rsvp(oid, text, text, text) IS
'private: delete_external_rsvp() for a caller';

CREATE FUNCTION rsvp_sync.delete_external_rsvp(source_id text,
	source_type text, tenant text, OUT success boolean, OUT message text)
LANGUAGE C VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_delete_external_rsvp';
COMMENT ON FUNCTION rsvp_sync.delete_external_rsvp(text, text, text) IS
'An RSVP made elsewhere was deleted: cancels exactly the attendance it stood for; if the same person has another one for the event, that counts. source_id: at-uri of the record, or what process_external_rsvp() was given. success is true, and nothing changes, if it is not known. Errors: null_value_not_allowed, undefined_object (no such tenant of the caller''s).';

/* Due statements, tried again by the worker. */
CREATE FUNCTION rsvp_sync._external_retry(at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	e rsvp_sync._external;
	n bigint := 0;
BEGIN
	FOR e IN SELECT x.* FROM rsvp_sync._external x
		WHERE x.due_at <= now()
			AND current_setting('rsvp_sync.mode') = 'live'
		ORDER BY x.due_at LIMIT at_most FOR UPDATE SKIP LOCKED
	LOOP
		BEGIN
			PERFORM rsvp_sync._apply_external(e.tenant, e.author, e.event_id,
				ARRAY(SELECT l.source_id FROM rsvp_sync._listeners() l
					WHERE l.tenant = e.tenant));
		EXCEPTION WHEN query_canceled OR OTHERS THEN
			/* One source's trouble is not that of the others. */
			IF SQLSTATE = '57014' AND NOT rsvp_sync._in_worker() THEN
				RAISE;
			END IF;
			UPDATE rsvp_sync._external x SET attempts = x.attempts + 1,
				last_error = SQLERRM,
				due_at = CASE WHEN x.attempts + 1
					< current_setting('rsvp_sync.max_attempts')::integer
					THEN now() + rsvp_sync._backoff(x.attempts) END
			WHERE x.tenant = e.tenant AND x.source_type = e.source_type
				AND x.source_id = e.source_id;
		END;
		/* Another one of the author's counts. */
		UPDATE rsvp_sync._external x SET due_at = CASE
			WHEN x.attempts < current_setting('rsvp_sync.max_attempts')::integer
			THEN now() + interval '1 hour' END
		WHERE x.tenant = e.tenant AND x.source_type = e.source_type
			AND x.source_id = e.source_id AND x.due_at <= now();
		n := n + 1;
	END LOOP;
	RETURN n;
END
$$;
COMMENT ON FUNCTION rsvp_sync._external_retry(integer) IS
'Tries to apply statements that are no AT Protocol records and could not be applied before.';
