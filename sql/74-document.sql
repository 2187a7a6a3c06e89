/*
 * rsvp_document(): an attendance row as a document that can be rendered; and
 * rsvp_outbox(), all of somebody's.
 *
 * What is desired of a row comes from the source's query, run as the table's
 * owner, as for the worker.  Whether there is such a row for the caller, and
 * what the tables of a recognised schema say of event and author, is asked
 * as the caller (src/document.c).
 */

CREATE FUNCTION rsvp_sync._desired_rows(source_id bigint, key text, actor text)
RETURNS TABLE (attendance_id text, data jsonb)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_desired_rows';
COMMENT ON FUNCTION rsvp_sync._desired_rows(bigint, text, text) IS
'private: rows of a source''s desired query with all their columns, of this key, or where that is NULL of this actor (author_url, else a permalink below it), run as the table''s owner';

CREATE FUNCTION rsvp_sync._visible_rows(caller oid, relation oid, query text,
	key text, actor text)
RETURNS TABLE (attendance_id text, data jsonb)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_visible_rows';
COMMENT ON FUNCTION rsvp_sync._visible_rows(oid, oid, text, text, text) IS
'private: what this query returns to the caller, who is meant by the first argument';

/* May the caller read all columns that lead from here to there? */
CREATE FUNCTION rsvp_sync._may_join(caller oid, from_rel jsonb, link jsonb)
RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(bool_and(has_column_privilege(caller, c.relation, c.attnum,
		'SELECT')), false)
	FROM (
		SELECT (from_rel ->> 0)::oid, (v ->> 0)::smallint
		FROM jsonb_array_elements(link -> 'via') v
		UNION ALL
		SELECT (link #>> '{rel,0}')::oid, (r ->> 0)::smallint
		FROM jsonb_array_elements(link -> 'ref') r) AS c (relation, attnum));
END
$$;
COMMENT ON FUNCTION rsvp_sync._may_join(oid, jsonb, jsonb) IS
'private: may the caller read the columns of this foreign key, on both sides?';

/* What a recognised schema calls the parts of a document, in any spelling. */
CREATE FUNCTION rsvp_sync._document_columns()
RETURNS TABLE (part text, alias text, names text[])
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	VALUES
		('event_url', 'e', '{url,eventurl,publicurl,permalink,weburl,sourceurl}'::text[]),
		('event_name', 'e', '{name,title,eventname,summary}'),
		('event_location', 'e', '{location,eventlocation,venue,place,address,locationonline}'),
		('author_name', 'u', '{displayname,fullname,name}'),
		('first_name', 'u', '{firstname,givenname}'),
		('last_name', 'u', '{lastname,familyname}'),
		('user_name', 'u', '{username,nickname,handle}'),
		('author_url', 'u', '{url,profileurl,website,homepage}'),
		('author_photo', 'u', '{photourl,avatarurl,pictureurl,imageurl,photo,avatar,picture,image}'),
		('content', 'a', '{content}'),
		('permalink', 'a', '{permalink,rsvpurl}')
$$;
COMMENT ON FUNCTION rsvp_sync._document_columns() IS
'private: names, as _plain_name() has them, of columns of attendance (a), events (e) and users (u) that a document is made of';

/*
 * Of these only columns that hold text.  Others are left alone: to make text
 * of them may be a function of the table's owner.
 */
CREATE FUNCTION rsvp_sync._readable_parts(caller oid, relations jsonb)
RETURNS TABLE (part text, columns text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT c.part, array_agg(format('%s.%I', c.alias, a.attname)
		ORDER BY n.place, a.attnum)
	FROM rsvp_sync._document_columns() c
	CROSS JOIN LATERAL unnest(c.names) WITH ORDINALITY AS n (name, place)
	JOIN pg_attribute a ON a.attrelid = (relations ->> c.alias)::oid
		AND a.attnum > 0 AND NOT a.attisdropped
		AND lower(replace(a.attname::text, '_', '')) = n.name
	JOIN pg_type t ON t.oid = a.atttypid
	WHERE CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
			IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
		AND has_column_privilege(caller, a.attrelid, a.attnum, 'SELECT')
	GROUP BY c.part;
END
$$;
COMMENT ON FUNCTION rsvp_sync._readable_parts(oid, jsonb) IS
'private: the columns of these relations (by alias) that a document is made of and the caller may read';

/*
 * The query that is run as the caller.  Of a source with a query of its own
 * it tells only whether the row is there for him.
 */
CREATE FUNCTION rsvp_sync._visible_query(caller oid, s rsvp_sync._source,
	by_actor boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	shape jsonb := CASE WHEN s.kind IN ('plan', 'openmeet')
		THEN rsvp_sync._shape(s) END;
	a jsonb := rsvp_sync._relation_ref(s.attendance);
	relations jsonb := CASE WHEN shape IS NULL THEN '{}'
		ELSE jsonb_build_object('a', s.attendance::oid::bigint) END;
	joins text := '';
	link record;
	parts jsonb;
	updated jsonb := rsvp_sync._column_ref(s.attendance, 'updated_at');
	key text;
	condition text;
BEGIN
	FOR link IN
		SELECT l.alias, shape -> l.name AS shape
		FROM (VALUES ('event', 'e'), ('user', 'u')) AS l (name, alias)
		WHERE shape IS NOT NULL
			AND rsvp_sync._may_join(caller, a, shape -> l.name)
	LOOP
		relations := relations || jsonb_build_object(link.alias,
			link.shape #> '{rel,0}');
		/* No cast, as _join_condition() has it: to a domain it runs its checks. */
		joins := joins || format(' LEFT JOIN %s %s ON %s',
			rsvp_sync._live_relation(link.shape -> 'rel'), link.alias, (
				SELECT string_agg(format('%s = %s',
					rsvp_sync._live_column(link.alias, link.shape -> 'rel', t.ref),
					rsvp_sync._live_column('a', a, f.ref)), ' AND ')
				FROM jsonb_array_elements(link.shape -> 'via')
					WITH ORDINALITY AS f (ref, place)
				JOIN jsonb_array_elements(link.shape -> 'ref')
					WITH ORDINALITY AS t (ref, place) USING (place)));
	END LOOP;
	SELECT coalesce(jsonb_object_agg(p.part, format('coalesce(%s)', (
			SELECT string_agg(format('nullif(%s::text, '''')', c.name), ', ' ORDER BY c.place)
			FROM unnest(p.columns) WITH ORDINALITY AS c (name, place)))), '{}'),
		min(array_to_string(p.columns, ' = $1 OR ') || ' = $1')
			FILTER (WHERE p.part = 'author_url')
		INTO parts, condition
	FROM rsvp_sync._readable_parts(caller, relations) p;
	IF shape IS NOT NULL AND updated IS NOT NULL
		AND has_column_privilege(caller, s.attendance::oid, (updated ->> 0)::smallint,
			'SELECT')
	THEN
		parts := parts || jsonb_build_object('updated_at',
			rsvp_sync._moment('a', a, updated));
	END IF;

	SELECT string_agg('a.' || quote_ident(k.name), ', ' ORDER BY k.place),
		CASE WHEN by_actor THEN condition ELSE
			string_agg(format('a.%I = $%s', k.name, k.place), ' AND ') END
		INTO key, condition
	FROM rsvp_sync._key_columns(s.attendance) k;
	RETURN format('SELECT %s, pg_catalog.jsonb_build_object(%s) FROM %s a%s WHERE %s',
		key, (SELECT string_agg(format('%L, %s', p.key, p.value), ', ')
			FROM jsonb_each_text(parts) p),
		rsvp_sync._live_relation(a), joins, coalesce(condition, 'false'));
END
$$;
COMMENT ON FUNCTION rsvp_sync._visible_query(oid, rsvp_sync._source, boolean) IS
'private: the query for the rows of a key ($1 and so on), or of an actor ($1), that the caller may read, and what he may read of event and author';

/* A moment as documents have it: UTC, no more digits than needed. */
CREATE FUNCTION rsvp_sync._document_time(value text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
BEGIN
	IF value ~ '^\d{4}-\d\d-\d\d$' THEN
		RETURN value;
	END IF;
	RETURN rtrim(rtrim(to_char(value::timestamptz, 'YYYY-MM-DD"T"HH24:MI:SS.US'),
			'0'), '.') || 'Z'
		WHERE isfinite(value::timestamptz)
			AND extract(year FROM value::timestamptz) BETWEEN 1 AND 9999;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._document_time(text) IS
'private: a moment of the application''s as a document has it; a date stays one; NULL for what is neither';

/*
 * The document's word for a status.  What counts is what the source makes of
 * it; where the application''s own word says that more exactly, it stays: of
 * maybe and interested AT Protocol knows one.
 */
CREATE FUNCTION rsvp_sync._document_status(word text, mapped text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT CASE mapped WHEN 'interested' THEN coalesce((
			SELECT w.word
			FROM unnest('{indieweb,openmeet,activitypub,partstat,schemaorg,as1}'::text[])
				WITH ORDINALITY AS v (vocabulary, place)
			CROSS JOIN LATERAL (SELECT rsvp_sync.rsvp_status_map(_document_status.word,
				v.vocabulary, 'indieweb')) AS w (word)
			WHERE w.word IN ('maybe', 'interested')
			ORDER BY v.place
			LIMIT 1), mapped)
		ELSE rsvp_sync.rsvp_status_map(mapped, 'atproto', 'indieweb') END);
END
$$;
COMMENT ON FUNCTION rsvp_sync._document_status(text, text) IS
'private: yes, no, maybe or interested for an application''s status that is mapped to this; NULL if to nothing';

/*
 * The document, of what the desired query and the caller''s look at the
 * tables have said.  What may not be published is no document; that nobody
 * has connected an account at a PDS is another matter.
 */
CREATE FUNCTION rsvp_sync._make_document(s rsvp_sync._source, key text,
	wanted jsonb, seen jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	d jsonb := seen || jsonb_strip_nulls(wanted);
	mapped text := rsvp_sync._status_map(s.source_id) ->> (wanted ->> 'status');
	starts text := rsvp_sync._document_time(d ->> 'starts_at');
	shape jsonb := CASE WHEN s.kind IN ('plan', 'openmeet')
		THEN rsvp_sync._shape(s) END;
BEGIN
	IF wanted ->> 'withheld' IS NOT NULL
		AND (shape IS NULL OR wanted ->> 'withheld' NOT IN ('not_connected', 'skipped'))
	THEN
		RETURN NULL;
	END IF;
	IF rsvp_sync._column_type((shape #>> '{event,rel,0}')::oid,
		shape #> '{event,starts}') = 'date'::regtype
	THEN
		starts := left(starts, 10);
	END IF;
	RETURN jsonb_build_object(
		'event_url', d ->> 'event_url',
		'event_name', d ->> 'event_name',
		'event_date', starts,
		'event_location', d ->> 'event_location',
		'status', rsvp_sync._document_status(wanted ->> 'status', mapped),
		'author', jsonb_build_object(
			'name', coalesce(d ->> 'author_name',
				nullif(concat_ws(' ', d ->> 'first_name', d ->> 'last_name'), ''),
				d ->> 'user_name'),
			'url', d ->> 'author_url',
			'photo', d ->> 'author_photo'),
		'published', rsvp_sync._document_time(d ->> 'created_at'),
		'updated', rsvp_sync._document_time(coalesce(d ->> 'updated_at',
			(SELECT to_jsonb(i.local_at) #>> '{}' FROM rsvp_sync._intent i
			WHERE i.source_id = s.source_id AND i.key = _make_document.key
				AND i.local IS NOT DISTINCT FROM mapped))),
		'content', d ->> 'content',
		'permalink', d ->> 'permalink',
		'tags', CASE jsonb_typeof(d -> 'tags')
			WHEN 'array' THEN jsonb_path_query_array(d -> 'tags',
				'$[*] ? (@.type() == "string")') ELSE '[]' END);
END
$$;
COMMENT ON FUNCTION rsvp_sync._make_document(rsvp_sync._source, text, jsonb, jsonb) IS
'private: the document of a row, of its desired columns and of what the caller sees; NULL if it is withheld';

CREATE FUNCTION rsvp_sync._rsvp_document(caller oid, attendance regclass,
	attendance_id text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s rsvp_sync._source;
	wanted jsonb;
	seen jsonb;
BEGIN
	IF attendance IS NULL OR attendance_id IS NULL THEN
		RETURN NULL;
	END IF;
	s := rsvp_sync._source_of(attendance);
	IF NOT has_any_column_privilege(caller, attendance::oid, 'SELECT') THEN
		RAISE EXCEPTION 'permission denied for table %', attendance
			USING ERRCODE = 'insufficient_privilege',
			HINT = 'A document can be made of a row by whoever may read it.';
	END IF;
	BEGIN
		SELECT v.data INTO seen
		FROM rsvp_sync._visible_rows(caller, s.attendance,
			rsvp_sync._visible_query(caller, s, false),
			_rsvp_document.attendance_id, NULL) v;
		IF NOT FOUND THEN
			RETURN NULL;
		END IF;
	EXCEPTION WHEN data_exception THEN
		PERFORM rsvp_sync._check_key(s, attendance_id);
		RAISE;
	END;
	SELECT w.data INTO wanted
	FROM rsvp_sync._desired_rows(s.source_id, _rsvp_document.attendance_id, NULL) w;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	RETURN rsvp_sync._make_document(s, _rsvp_document.attendance_id, wanted, seen);
END
$$;
COMMENT ON FUNCTION rsvp_sync._rsvp_document(oid, regclass, text) IS
'private: rsvp_document() for a caller';

CREATE FUNCTION rsvp_sync.rsvp_document(attendance regclass,
	attendance_id text) RETURNS jsonb
LANGUAGE C STABLE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_rsvp_document';
COMMENT ON FUNCTION rsvp_sync.rsvp_document(regclass, text) IS
'An attendance row as a document that rsvp_html() and its like render: event_url, event_name, event_date, event_location, status (yes, no, maybe, interested), author (name, url, photo), published, updated, content, permalink, tags; null what there is not. attendance_id: the primary key as text (composite: a JSON array of texts). NULL: there is no such row for the caller, or it is withheld. With the caller''s rights; times are UTC. Errors: undefined_object (not attached), insufficient_privilege (may not read the table), those of the desired query.';

/* Documents of one actor in one source, with the rights of the caller. */
CREATE FUNCTION rsvp_sync._actor_documents(caller oid, s rsvp_sync._source,
	actor text) RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	query text := rsvp_sync._visible_query(caller, s, s.kind IN ('plan', 'openmeet'));
BEGIN
	IF s.kind IN ('plan', 'openmeet') THEN
		RETURN QUERY
		SELECT rsvp_sync._make_document(s, v.attendance_id, w.data, v.data)
		FROM rsvp_sync._visible_rows(caller, s.attendance, query, NULL, actor) v
		CROSS JOIN LATERAL rsvp_sync._desired_rows(s.source_id,
			v.attendance_id, NULL) w;
	ELSE
		RETURN QUERY
		SELECT rsvp_sync._make_document(s, w.attendance_id, w.data, v.data)
		FROM rsvp_sync._desired_rows(s.source_id, NULL, actor) w
		CROSS JOIN LATERAL rsvp_sync._visible_rows(caller, s.attendance,
			query, w.attendance_id, NULL) v;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._actor_documents(oid, rsvp_sync._source, text) IS
'private: the documents of an actor that the caller may read, in one source';

CREATE FUNCTION rsvp_sync._rsvp_outbox(caller oid, actor text, page integer)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	page_size CONSTANT integer := 50;
	box text := rtrim(split_part(actor, '#', 1), '/') || '/outbox';
	items jsonb;
	total integer;
	pages integer;
BEGIN
	IF actor IS NULL OR NOT rsvp_sync._is_link(actor) THEN
		RAISE EXCEPTION 'the actor "%" is no http or https URL', actor
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give the id of the actor, which is the url of the author in rsvp_document().';
	END IF;
	SELECT coalesce(jsonb_agg(x.activity ORDER BY x.at DESC, x.activity ->> 'id'), '[]'),
		count(*)
		INTO items, total
	FROM (
		SELECT rsvp_sync.rsvp_activity(d || jsonb_build_object('actor', actor))
				- '@context' AS activity,
			coalesce(d ->> 'updated', d ->> 'published', '') COLLATE "C" AS at
		FROM rsvp_sync._source s
		JOIN pg_class c ON c.oid = s.attendance
			AND has_any_column_privilege(caller, c.oid, 'SELECT')
		CROSS JOIN LATERAL rsvp_sync._actor_documents(caller, s, actor) d
		/* Somebody's query that does not run is no reason to show nothing. */
		WHERE s.state <> 'broken' AND d IS NOT NULL) x
	WHERE x.activity IS NOT NULL;
	pages := greatest((total + page_size - 1) / page_size, 1);

	IF coalesce(page, 0) = 0 THEN
		RETURN jsonb_build_object(
			'@context', 'https://www.w3.org/ns/activitystreams',
			'id', box, 'type', 'OrderedCollection', 'totalItems', total,
			'first', box || '?page=1', 'last', box || '?page=' || pages);
	END IF;
	IF page NOT BETWEEN 1 AND pages THEN
		RAISE EXCEPTION 'the outbox of % has no page %', actor, page
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Its pages are 1 to %s; 0 or NULL is the collection itself.', pages);
	END IF;
	RETURN jsonb_strip_nulls(jsonb_build_object(
		'@context', 'https://www.w3.org/ns/activitystreams',
		'id', box || '?page=' || page, 'type', 'OrderedCollectionPage',
		'partOf', box, 'totalItems', total,
		'prev', CASE WHEN page > 1 THEN box || '?page=' || page - 1 END,
		'next', CASE WHEN page < pages THEN box || '?page=' || page + 1 END))
		|| jsonb_build_object('orderedItems', coalesce((
			SELECT jsonb_agg(i.item ORDER BY i.place)
			FROM jsonb_array_elements(items) WITH ORDINALITY AS i (item, place)
			WHERE (i.place - 1) / page_size = page - 1), '[]'));
END
$$;
COMMENT ON FUNCTION rsvp_sync._rsvp_outbox(oid, text, integer) IS
'private: rsvp_outbox() for a caller';

CREATE FUNCTION rsvp_sync.rsvp_outbox(actor text, page integer DEFAULT NULL)
RETURNS jsonb
LANGUAGE C STABLE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_rsvp_outbox';
COMMENT ON FUNCTION rsvp_sync.rsvp_outbox(text, integer) IS
'Somebody''s RSVPs as activities, newest first, 50 a page: an OrderedCollectionPage; page 0 or NULL: the OrderedCollection with totalItems, first, last. actor: a URL; rows are his whose author_url it is, or that name no author and have a permalink below it. Of all attached tables that the caller may read, with the caller''s rights; withheld rows and broken sources are left out. Errors: invalid_parameter_value (actor is no URL, no such page), those of desired queries.';
