/*
 * ActivityPub: a document as an activity, activities as rows; and the rules
 * of a form for RSVPs.
 */

/*
 * The activity of a document that has been read, NULL if there is none to
 * make.  Its id says who answers what to which event since when, and nothing
 * of how it is rendered; so it is never used for another answer.
 */
CREATE FUNCTION rsvp_sync._activity(d jsonb, dialect text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_strip_nulls(jsonb_build_object(
		'@context', 'https://www.w3.org/ns/activitystreams',
		'id', split_part(a.actor, '#', 1) || '#' || lower(a.type) || '-'
			|| left(encode(sha256(convert_to(jsonb_build_array(a.actor,
				d ->> 'event_url', d ->> 'status',
				coalesce(d ->> 'updated_at', d ->> 'published_at'))::text,
				'UTF8')), 'hex'), 32),
		'type', a.type,
		'actor', a.actor,
		'object', CASE dialect WHEN 'join' THEN d -> 'event_url'
			ELSE jsonb_build_object('id', d -> 'event_url', 'type', 'Event') END,
		'inReplyTo', CASE dialect WHEN 'accept' THEN d -> 'event_url' END,
		'url', d -> 'permalink',
		'published', CASE WHEN d ->> 'published' ~ t.as_xsd THEN d -> 'published'
			ELSE coalesce(d -> 'published_at', d -> 'updated_at') END,
		'updated', CASE WHEN d ? 'published_at' THEN
			CASE WHEN d ->> 'updated' ~ t.as_xsd THEN d -> 'updated'
			ELSE d -> 'updated_at' END END,
		'content', regexp_replace(rsvp_sync._escape('html', d ->> 'content'),
			'(&#13;)?\n', '<br>', 'g'),
		'source', CASE WHEN d ? 'content' THEN jsonb_build_object(
			'content', d -> 'content', 'mediaType', 'text/plain') END,
		/* Friendica looks for the organiser in "to", Gathio there first. */
		'to', jsonb_path_query_array(jsonb_build_array(d -> 'organizer', p.public),
			'$[*] ? (@ != null)'),
		'cc', jsonb_path_query_array(jsonb_build_array(d -> 'followers',
			d -> 'event_url'), '$[*] ? (@ != null)')))
	FROM (SELECT coalesce(d ->> 'actor', d ->> 'author_url'),
			CASE dialect
				WHEN 'accept' THEN rsvp_sync.rsvp_status_map(d ->> 'status',
					'indieweb', 'activitypub')
				ELSE CASE d ->> 'status' WHEN 'yes' THEN 'Join'
					WHEN 'no' THEN 'Leave' END END) AS a (actor, type)
	CROSS JOIN (VALUES ('https://www.w3.org/ns/activitystreams#Public')) AS p (public)
	/* What needs no other spelling stays as it is. */
	CROSS JOIN (VALUES ('T..:..:..([.][0-9]+)?(Z|[+-]..:..)$')) AS t (as_xsd)
	WHERE a.actor IS NOT NULL AND a.type IS NOT NULL AND d ? 'event_url');
END
$$;
COMMENT ON FUNCTION rsvp_sync._activity(jsonb, text) IS
'private: the activity of a document as _read_document() returns it; NULL without actor, event_url or a status that the dialect has a word for';

/* What takes an activity back: the same recipients, and the activity whole. */
CREATE FUNCTION rsvp_sync._undo(activity jsonb, at text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_strip_nulls(jsonb_build_object(
		'@context', 'https://www.w3.org/ns/activitystreams',
		'id', split_part(activity ->> 'id', '#', 1) || '#undo-'
			|| left(encode(sha256(convert_to(activity ->> 'id', 'UTF8')), 'hex'), 32),
		'type', 'Undo',
		'actor', activity -> 'actor',
		'object', activity - '@context',
		'published', at,
		'to', activity -> 'to',
		'cc', activity -> 'cc')));
END
$$;
COMMENT ON FUNCTION rsvp_sync._undo(jsonb, text) IS
'private: the Undo of an activity';

/*
 * With what was said before, what is to be said now, in order.  Mobilizon
 * knows no Undo of a Join: there one leaves, and only who has joined does.
 */
CREATE FUNCTION rsvp_sync._activities(now jsonb, before jsonb, at text,
	dialect text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT CASE
		WHEN dialect = 'accept' THEN jsonb_path_query_array(jsonb_build_array(
			CASE WHEN before IS NOT NULL
				AND before ->> 'id' IS DISTINCT FROM now ->> 'id'
				THEN rsvp_sync._undo(before, at) END, now), '$[*] ? (@ != null)')
		WHEN now ->> 'type' = 'Join' AND before ->> 'type' IS DISTINCT FROM 'Join'
			OR now ->> 'type' = 'Leave' AND before ->> 'type' = 'Join'
		THEN jsonb_build_array(now)
		WHEN now IS NULL AND before ->> 'type' = 'Join'
		THEN jsonb_build_array(jsonb_strip_nulls((before - 'content' - 'source' - 'updated')
			|| jsonb_build_object('type', 'Leave', 'published', at,
				'id', split_part(before ->> 'id', '#', 1) || '#leave-'
				|| left(encode(sha256(convert_to(before ->> 'id', 'UTF8')), 'hex'), 32))))
		ELSE '[]' END);
END
$$;
COMMENT ON FUNCTION rsvp_sync._activities(jsonb, jsonb, text, text) IS
'private: the activities to send, in order, where the second one was sent before; either may be NULL';

CREATE FUNCTION rsvp_sync.rsvp_activity(document jsonb,
	previous jsonb DEFAULT NULL, dialect text DEFAULT 'accept') RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	d jsonb := rsvp_sync._read_document(document);
	now jsonb;
BEGIN
	IF dialect IS NULL OR dialect NOT IN ('accept', 'join') THEN
		RAISE EXCEPTION 'unknown dialect "%"', dialect
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'accept: Accept, TentativeAccept, Reject. join: Join, Leave, as Mobilizon reads them.';
	END IF;
	now := rsvp_sync._activity(d, dialect);
	IF previous IS NULL OR previous = 'null' THEN
		RETURN now;
	END IF;
	/* What this function returned, too; of several the last is what stands. */
	IF jsonb_typeof(previous) = 'array' THEN
		previous := previous -> -1;
	END IF;
	IF jsonb_typeof(previous) = 'object' AND previous ? 'type' THEN
		IF jsonb_typeof(previous -> 'id') IS DISTINCT FROM 'string'
			OR jsonb_typeof(previous -> 'type') <> 'string' THEN
			RAISE EXCEPTION 'the previous activity has no id or no single type'
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Give the document as it was, or what rsvp_sync.rsvp_activity() made of it.';
		END IF;
	ELSE
		previous := rsvp_sync._activity(rsvp_sync._read_document(previous), dialect);
	END IF;
	/* An Undo is the end of what it undoes. */
	RETURN rsvp_sync._activities(now,
		CASE WHEN previous ->> 'type' <> 'Undo' THEN previous END,
		coalesce(d ->> 'updated_at', d ->> 'published_at'), dialect);
END
$$;
COMMENT ON FUNCTION rsvp_sync.rsvp_activity(jsonb, jsonb, text) IS
'A document as an activity of ActivityPub. Its actor is the document''s actor, else the author''s url. dialect accept: Accept, TentativeAccept, Reject of an embedded Event; join: Join, Leave of its URL, as Mobilizon reads them. Without previous the activity, NULL if there is none (no actor, event_url or status; maybe in dialect join). previous: the document as it was, or its activity: then a JSON array of what is to be sent now, in order: the Undo of the previous activity, and the new one if it is another; document NULL: the withdrawal. The id is made of actor, object, status and updated. Errors: invalid_parameter_value (what is no document, dialect, previous).';

/*
 * Reading.  What others send may have any form: what is no RSVP is no row,
 * and never an error.
 */

/* A property by its name, or as JSON-LD may spell it. */
CREATE FUNCTION rsvp_sync._as_get(object jsonb, name text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT CASE WHEN jsonb_typeof(object) = 'object' THEN
		coalesce(nullif(object -> name, 'null'), nullif(object -> ('as:' || name), 'null'),
			object -> ('https://www.w3.org/ns/activitystreams#' || name),
			CASE WHEN name IN ('id', 'type') THEN object -> ('@' || name) END) END);
END
$$;
COMMENT ON FUNCTION rsvp_sync._as_get(jsonb, text) IS
'private: a property of an ActivityStreams object, compact, as:-prefixed or expanded';

CREATE FUNCTION rsvp_sync._as_list(value jsonb) RETURNS SETOF jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT v.item FROM jsonb_array_elements(CASE jsonb_typeof(_as_list.value)
		WHEN 'array' THEN _as_list.value
		ELSE jsonb_build_array(_as_list.value) END) AS v (item)
	WHERE _as_list.value IS NOT NULL AND v.item <> 'null';
END
$$;
COMMENT ON FUNCTION rsvp_sync._as_list(jsonb) IS
'private: the values of a property that may have one or several';

CREATE FUNCTION rsvp_sync._as_types(object jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(array_agg(regexp_replace(v #>> '{}',
		'^(as:|https?://www\.w3\.org/ns/activitystreams#)', '')), '{}')
	FROM rsvp_sync._as_list(rsvp_sync._as_get(object, 'type')) v
	WHERE jsonb_typeof(v) = 'string');
END
$$;
COMMENT ON FUNCTION rsvp_sync._as_types(jsonb) IS
'private: the types of an ActivityStreams object, without prefix';

/* Of a string, an object, a Link or an array of them, the first. */
CREATE FUNCTION rsvp_sync._as_id(value jsonb, VARIADIC names text[] DEFAULT '{}')
RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT i.id
	FROM rsvp_sync._as_list(value) WITH ORDINALITY AS v (item, place)
	CROSS JOIN LATERAL (
		SELECT w.word #>> '{}'
		FROM (VALUES (v.item), (v.item -> '@value')) AS w (word)
		WHERE jsonb_typeof(w.word) = 'string'
		UNION ALL
		SELECT coalesce(p.value ->> 'href', p.value ->> '@id', p.value #>> '{}')
		FROM unnest(names) WITH ORDINALITY AS n (name, place)
		CROSS JOIN LATERAL rsvp_sync._as_list(rsvp_sync._as_get(v.item, n.name)) AS p (value)
		WHERE jsonb_typeof(v.item) = 'object'
			AND (jsonb_typeof(p.value) = 'string'
				OR jsonb_typeof(p.value -> 'href') = 'string'
				OR jsonb_typeof(p.value -> '@id') = 'string')) AS i (id)
	WHERE i.id <> ''
	ORDER BY v.place
	LIMIT 1);
END
$$;
COMMENT ON FUNCTION rsvp_sync._as_id(jsonb, text[]) IS
'private: the text of an ActivityStreams value, or of an object the first of these properties';

/*
 * The events that an object of an RSVP names.  An invitation stands for its
 * event, a Link may lead to one; what is of another type is none.
 */
CREATE FUNCTION rsvp_sync._as_events(object jsonb) RETURNS SETOF text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT rsvp_sync._as_id(e.item, 'id', 'url', 'href')
	FROM rsvp_sync._as_list(object) o (item)
	CROSS JOIN LATERAL rsvp_sync._as_list(CASE
		WHEN 'Invite' = ANY (rsvp_sync._as_types(o.item))
		THEN rsvp_sync._as_get(o.item, 'object') ELSE o.item END) e (item)
	WHERE jsonb_typeof(e.item) = 'string' AND e.item <> '""'
		OR rsvp_sync._as_types(e.item) && '{Event,Link}'
		OR rsvp_sync._as_types(e.item) = '{}'
			AND rsvp_sync._as_id(e.item, 'id', 'url') IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._as_events(jsonb) IS
'private: the events among the objects of an activity; NULL for one without id';

CREATE FUNCTION rsvp_sync.parse_activity(activity jsonb)
RETURNS TABLE (source_type text, source_id text, event_url text,
	author_url text, author_name text, author_photo text, status text,
	published timestamptz, updated timestamptz, content text, kind text,
	undone boolean, response text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	/* As JSON-LD expands a document, it is an array of what is in it. */
	whole CONSTANT jsonb := CASE WHEN jsonb_typeof(activity) = 'array'
		AND jsonb_array_length(activity) = 1 THEN activity -> 0
		ELSE activity END;
	said jsonb := whole;
	actor jsonb := coalesce(rsvp_sync._as_get(whole, 'actor'),
		rsvp_sync._as_get(whole, 'attributedTo'));
	inner_actor text;
	source jsonb;
	known CONSTANT text[] := '{Accept,TentativeAccept,Reject,Join,Leave,Invite}';
BEGIN
	source_type := 'activitypub';
	undone := 'Undo' = ANY (rsvp_sync._as_types(whole));
	author_url := rsvp_sync._as_id(actor, 'id', 'url');
	IF undone THEN
		SELECT v INTO said FROM rsvp_sync._as_list(rsvp_sync._as_get(whole, 'object')) v
		LIMIT 1;
		inner_actor := rsvp_sync._as_id(rsvp_sync._as_get(said, 'actor'), 'id', 'url');
		/* Nobody takes back what somebody else has said. */
		IF inner_actor <> author_url THEN
			RETURN;
		END IF;
	END IF;
	response := (SELECT t FROM unnest(rsvp_sync._as_types(said)) t
		WHERE t = ANY (known) LIMIT 1);
	/* An Undo may name what it undoes by its id alone. */
	IF response IS NULL AND NOT (undone AND rsvp_sync._as_types(said) = '{}') THEN
		RETURN;
	END IF;

	source_id := rsvp_sync._as_id(said, 'id');
	SELECT v INTO actor FROM rsvp_sync._as_list(actor) v LIMIT 1;
	author_name := coalesce(rsvp_sync._as_id(rsvp_sync._as_get(actor, 'name')),
		rsvp_sync._as_id(rsvp_sync._as_get(actor, 'preferredUsername')));
	author_photo := rsvp_sync._as_id(rsvp_sync._as_get(actor, 'icon'), 'url');
	published := rsvp_sync._instant(rsvp_sync._as_id(rsvp_sync._as_get(whole, 'published')));
	updated := rsvp_sync._instant(rsvp_sync._as_id(rsvp_sync._as_get(whole, 'updated')));
	source := rsvp_sync._as_get(said, 'source');
	content := coalesce(
		CASE WHEN source ->> 'mediaType' = 'text/plain' THEN source ->> 'content' END,
		rsvp_sync._escape('plain', rsvp_sync._as_id(rsvp_sync._as_get(said, 'content'))),
		rsvp_sync._escape('plain', rsvp_sync._as_id(said -> 'participationMessage')));
	kind := CASE WHEN undone OR response = 'Leave' THEN 'withdrawal'
		WHEN response = 'Invite' THEN 'invitation' ELSE 'rsvp' END;
	IF undone THEN
		status := NULL;
		response := 'Undo';
	ELSIF response <> 'Invite' THEN
		status := split_part(rsvp_sync.rsvp_status_map(response, 'activitypub',
			'atproto'), '#', 2);
	END IF;
	undone := kind = 'withdrawal';

	IF jsonb_typeof(said) = 'string'
		OR response = 'Undo' AND rsvp_sync._as_types(said) = '{}' THEN
		IF source_id IS NOT NULL THEN
			RETURN NEXT;
		END IF;
		RETURN;
	END IF;
	FOR event_url IN
		SELECT e FROM rsvp_sync._as_events(coalesce(
			rsvp_sync._as_get(said, 'object'), rsvp_sync._as_get(said, 'inReplyTo'))) e
	LOOP
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync.parse_activity(jsonb) IS
'The RSVPs in an activity as another server sent it, one row for each event: Accept, TentativeAccept, Reject, Join (status going, interested, notgoing), Leave (notgoing; a withdrawal), Undo of one of these (a withdrawal without status; source_id is what is undone), Invite (an invitation). An object is a URL or an embedded Event or Invite; of a Follow or a Join an Accept is no RSVP. published, updated: timestamptz, content: plain text. What is no RSVP is no row; never an error. Whether the sender may speak for the actor is for the inbox to find out (HTTP signature).';

/*
 * The form
 */

CREATE FUNCTION rsvp_sync.validate_rsvp_submission(submission jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	types CONSTANT text := 'reply, reshare, star, rsvp';
	f jsonb := '{}';
	kind text;
	status text;
	finding text;
	hint text;
BEGIN
	IF jsonb_typeof(submission) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a submission must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Its keys: response_type, target_url, title (or post_title), rsvp_status, content, slug, tags.';
	END IF;
	/* A form sends blanks, and what GitHub writes for an empty field. */
	SELECT coalesce(jsonb_object_agg(s.key, btrim(s.value, E' \t\r\n')), '{}') INTO f
	FROM jsonb_each_text(submission) s
	WHERE jsonb_typeof(submission -> s.key) = 'string'
		AND btrim(s.value, E' \t\r\n') NOT IN ('', '_No response_');
	f := jsonb_build_object('title', f -> 'post_title') || f;
	kind := lower(f ->> 'response_type');
	status := nullif(lower(f ->> 'rsvp_status'), 'not applicable');

	CASE
		WHEN kind IS NULL THEN
			finding := 'Response type is required';
			hint := 'Set response_type to one of: ' || types || '.';
		WHEN kind <> ALL (string_to_array(types, ', ')) THEN
			finding := format('Response type must be one of: %s; "%s" is not', types,
				f ->> 'response_type');
			hint := 'Set response_type to rsvp for an answer to an event.';
		WHEN f ->> 'target_url' IS NULL THEN
			finding := 'Target URL is required and cannot be empty';
			hint := 'Set target_url to the address of the event.';
		WHEN NOT rsvp_sync._is_link(f ->> 'target_url') THEN
			finding := format('Target URL must be a valid HTTP/HTTPS URL; "%s" is not',
				f ->> 'target_url');
			hint := 'Set target_url to a whole URL, as in https://events.example.com/1.';
		WHEN f ->> 'title' IS NULL THEN
			finding := 'Title is required and cannot be empty';
			hint := 'Set title (or post_title).';
		WHEN kind = 'rsvp' AND status IS NULL THEN
			finding := 'RSVP status is required for RSVP responses (yes, no, maybe, or interested)';
			hint := 'Set rsvp_status.';
		WHEN kind = 'rsvp' AND status NOT IN ('yes', 'no', 'maybe', 'interested') THEN
			finding := format('RSVP status must be one of: yes, no, maybe, interested; "%s" is not',
				f ->> 'rsvp_status');
			hint := 'Set rsvp_status to one of these; upper and lower case are the same.';
		ELSE NULL;
	END CASE;
	IF finding IS NOT NULL THEN
		RAISE EXCEPTION '%', finding
			USING ERRCODE = 'invalid_parameter_value', HINT = hint;
	END IF;
	RETURN jsonb_build_object('response_type', kind, 'target_url', f -> 'target_url',
		'title', f -> 'title', 'content', f -> 'content', 'slug', f -> 'slug',
		'rsvp_status', CASE WHEN kind = 'rsvp' THEN status END,
		'tags', coalesce(nullif(submission -> 'tags', 'null'), '[]'));
END
$$;
COMMENT ON FUNCTION rsvp_sync.validate_rsvp_submission(jsonb) IS
'A submitted form, checked: response_type (reply, reshare, star, rsvp), target_url (http or https), title or post_title, and for an rsvp rsvp_status (yes, no, maybe, interested; any case). Returns the fields as they are to be stored, types and status in lower case; rsvp_status is null where the type is not rsvp, whatever was sent. Errors: invalid_parameter_value, one for each rule, the first that is broken.';
