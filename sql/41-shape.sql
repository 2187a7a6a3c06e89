/*
 * Recognising a schema: which columns of which tables mean what.
 *
 * Found by column names (camelCase or snake_case; table names do not matter)
 * and foreign keys, and kept as "shape": relation oids and attribute numbers,
 * so that renames are followed.  The names beside them only serve messages:
 * a dropped column has none any more.
 *
 * A column in a shape is [attnum, name], a relation is [oid, name].
 */

CREATE FUNCTION rsvp_sync._relation_ref(relation oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_array(c.oid::bigint,
		format('%I.%I', n.nspname, c.relname))
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.oid = relation
$$;
REVOKE ALL ON FUNCTION rsvp_sync._relation_ref(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._relation_ref(oid) IS
'private: a relation as a shape holds it';

/* sourceType, source_type and the folded sourcetype are one name. */
CREATE FUNCTION rsvp_sync._plain_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT lower(replace(name, '_', ''))
$$;
REVOKE ALL ON FUNCTION rsvp_sync._plain_name(text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._plain_name(text) IS
'private: a column name without its spelling';

CREATE FUNCTION rsvp_sync._column_ref(relation oid, VARIADIC names text[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_array(a.attnum, a.attname)
	FROM unnest(names) WITH ORDINALITY AS n (name, place)
	JOIN pg_attribute a
		ON a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
		AND rsvp_sync._plain_name(a.attname::text)
			= rsvp_sync._plain_name(n.name)
	ORDER BY n.place, a.attname::text <> n.name, a.attnum
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._column_ref(oid, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._column_ref(oid, text[]) IS
'private: the first of these columns that the relation has, in any spelling';

CREATE FUNCTION rsvp_sync._column_refs(relation oid, attnums smallint[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname) ORDER BY n.place)
	FROM unnest(attnums) WITH ORDINALITY AS n (attnum, place)
	JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = n.attnum
$$;
REVOKE ALL ON FUNCTION rsvp_sync._column_refs(oid, smallint[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._column_refs(oid, smallint[]) IS
'private: columns by number, as a shape holds them';

CREATE FUNCTION rsvp_sync._column_type(relation oid, column_ref jsonb)
RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	WHERE a.attrelid = relation
		AND a.attnum = (column_ref ->> 0)::smallint AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION rsvp_sync._column_type(oid, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._column_type(oid, jsonb) IS
'private: a column''s type, a domain''s base type';

CREATE FUNCTION rsvp_sync._json_ref(relation oid, VARIADIC names text[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.ref FROM (SELECT rsvp_sync._column_ref(relation, VARIADIC names))
		AS f (ref)
	WHERE rsvp_sync._column_type(relation, f.ref)
		IN ('json'::regtype, 'jsonb'::regtype)
$$;
REVOKE ALL ON FUNCTION rsvp_sync._json_ref(oid, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._json_ref(oid, text[]) IS
'private: like _column_ref, if the column is json or jsonb';

/* The metadata column has to be jsonb: it is indexed and written to. */
CREATE FUNCTION rsvp_sync._metadata_ref(relation oid, VARIADIC names text[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.ref FROM (SELECT rsvp_sync._json_ref(relation, VARIADIC names))
		AS f (ref)
	WHERE rsvp_sync._column_type(relation, f.ref) = 'jsonb'::regtype
$$;
REVOKE ALL ON FUNCTION rsvp_sync._metadata_ref(oid, text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._metadata_ref(oid, text[]) IS
'private: like _column_ref, if the column is jsonb';

/* Foreign keys, each once: not their copies for partitions. */
CREATE FUNCTION rsvp_sync._foreign_keys(relation oid)
RETURNS TABLE (target oid, via smallint[], ref smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.confrelid, k.conkey, k.confkey
	FROM pg_constraint k
	JOIN pg_class c ON c.oid = k.conrelid
	JOIN pg_class t ON t.oid = k.confrelid
	WHERE k.conrelid = relation AND k.contype = 'f'
		AND (k.conparentid = 0 OR c.relispartition)
		AND NOT t.relispartition
	ORDER BY k.conkey
$$;
REVOKE ALL ON FUNCTION rsvp_sync._foreign_keys(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._foreign_keys(oid) IS
'private: a table''s foreign keys';

/*
 * The foreign key that leads to one of these targets.  Where there are
 * several (an attendee and the one who invited him) the column's name
 * decides; if that does not, nothing is recognised: to guess would be to
 * publish in somebody else's name.
 */
CREATE FUNCTION rsvp_sync._link(relation oid, targets oid[],
	VARIADIC names text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	best record;
BEGIN
	SELECT f.target, f.via, f.ref, c.named,
		count(*) FILTER (WHERE c.named) OVER () AS n_named,
		count(*) OVER () AS n
		INTO best
	FROM rsvp_sync._foreign_keys(relation) f
	CROSS JOIN LATERAL (
		SELECT bool_or(rsvp_sync._plain_name(a.attname::text) = ANY (names))
		FROM pg_attribute a
		WHERE a.attrelid = relation AND a.attnum = ANY (f.via)) AS c (named)
	WHERE f.target = ANY (targets)
	ORDER BY c.named DESC
	LIMIT 1;

	IF NOT FOUND OR (best.n > 1 AND best.n_named <> 1) THEN
		RETURN NULL;
	END IF;
	RETURN jsonb_build_object(
		'rel', rsvp_sync._relation_ref(best.target),
		'via', rsvp_sync._column_refs(relation, best.via),
		'ref', rsvp_sync._column_refs(best.target, best.ref));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._link(oid, oid[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._link(oid, oid[], text[]) IS
'private: the foreign key to one of these tables; NULL if there is none or no telling which';

CREATE FUNCTION rsvp_sync._recognise_event(relation oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	link jsonb;
	rel oid;
BEGIN
	link := rsvp_sync._link(relation, ARRAY(
			SELECT f.target FROM rsvp_sync._foreign_keys(relation) f
			WHERE rsvp_sync._column_ref(f.target, 'atproto_uri') IS NOT NULL
				OR (rsvp_sync._column_ref(f.target, 'source_type') IS NOT NULL
					AND rsvp_sync._json_ref(f.target, 'source_data') IS NOT NULL)),
		'eventid', 'event');
	rel := (link #>> '{rel,0}')::oid;
	RETURN link || jsonb_build_object(
		'source_type', rsvp_sync._column_ref(rel, 'source_type'),
		'source_data', rsvp_sync._json_ref(rel, 'source_data'),
		'uri', rsvp_sync._column_ref(rel, 'atproto_uri'),
		'cid', rsvp_sync._column_ref(rel, 'atproto_cid'),
		'visibility', rsvp_sync._column_ref(rel, 'visibility'),
		'starts', rsvp_sync._column_ref(rel, 'start_date', 'starts_at',
			'start_time', 'start_at'),
		'ends', rsvp_sync._column_ref(rel, 'end_date', 'ends_at',
			'end_time', 'end_at'));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._recognise_event(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._recognise_event(oid) IS
'private: how an attendance table leads to events; NULL if it does not';

/* A table of identities: a did, and at most one row for each user. */
CREATE FUNCTION rsvp_sync._recognise_identity(users oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'rel', rsvp_sync._relation_ref(k.conrelid),
		'via', rsvp_sync._column_refs(users, k.confkey),
		'ref', rsvp_sync._column_refs(k.conrelid, k.conkey),
		'did', rsvp_sync._column_ref(k.conrelid, 'did'),
		'envelope', rsvp_sync._column_ref(k.conrelid, 'pds_credentials'),
		'custodial', rsvp_sync._column_ref(k.conrelid, 'is_custodial'),
		'pds', rsvp_sync._column_ref(k.conrelid, 'pds_url'),
		'handle', rsvp_sync._column_ref(k.conrelid, 'handle'))
	FROM pg_constraint k
	JOIN pg_class c ON c.oid = k.conrelid AND NOT c.relispartition
	WHERE k.confrelid = users AND k.contype = 'f'
		AND rsvp_sync._column_ref(k.conrelid, 'did') IS NOT NULL
		AND EXISTS (
			SELECT FROM pg_index i
			WHERE i.indrelid = k.conrelid AND i.indisunique
				AND i.indpred IS NULL AND i.indnkeyatts = cardinality(k.conkey)
				AND i.indkey[0] = k.conkey[1] AND cardinality(k.conkey) = 1)
	ORDER BY c.relname !~* 'atproto', c.relname
	LIMIT 1
$$;
REVOKE ALL ON FUNCTION rsvp_sync._recognise_identity(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._recognise_identity(oid) IS
'private: the table that holds the DIDs of these users, or NULL';

CREATE FUNCTION rsvp_sync._recognise_user(relation oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	link jsonb;
	rel oid;
BEGIN
	link := rsvp_sync._link(relation, ARRAY(
			SELECT f.target FROM rsvp_sync._foreign_keys(relation) f
			WHERE rsvp_sync._json_ref(f.target, 'preferences') IS NOT NULL
				OR rsvp_sync._recognise_identity(f.target) IS NOT NULL),
		'userid', 'user', 'attendeeid', 'attendee');
	rel := (link #>> '{rel,0}')::oid;
	RETURN link || jsonb_build_object(
		'preferences', rsvp_sync._json_ref(rel, 'preferences'),
		'shadow', rsvp_sync._column_ref(rel, 'is_shadow_account'),
		'deleted', rsvp_sync._column_ref(rel, 'deleted_at'));
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._recognise_user(oid) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._recognise_user(oid) IS
'private: how an attendance table leads to users; NULL if it does not';

/*
 * What a recognised table is, or NULL.  OpenMeet's has its own columns for
 * what was published and a table of identities; the plan's keeps both in JSON.
 */
CREATE FUNCTION rsvp_sync._recognise(relation regclass,
	metadata text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	status jsonb := rsvp_sync._column_ref(relation, 'status');
	published jsonb := rsvp_sync._column_ref(relation, 'atproto_uri');
	event jsonb := rsvp_sync._recognise_event(relation);
	usr jsonb := rsvp_sync._recognise_user(relation);
	identity jsonb;
	meta jsonb;
	shape jsonb;
BEGIN
	IF status IS NULL OR event IS NULL OR usr IS NULL THEN
		RETURN NULL;
	END IF;
	shape := jsonb_build_object(
		'attendance', relation::oid::bigint, 'status', status,
		'created', rsvp_sync._column_ref(relation, 'created_at'),
		'event', event, 'user', usr);

	identity := rsvp_sync._recognise_identity((usr #>> '{rel,0}')::oid);
	IF published IS NOT NULL AND identity IS NOT NULL THEN
		meta := rsvp_sync._metadata_ref(relation,
			coalesce(metadata, 'source_data'));
		RETURN shape || jsonb_build_object('kind', 'openmeet',
			'identity', identity, 'metadata', meta);
	END IF;

	meta := rsvp_sync._metadata_ref(relation, coalesce(metadata, 'metadata'));
	IF meta IS NOT NULL AND usr ->> 'preferences' IS NOT NULL THEN
		RETURN shape || jsonb_build_object('kind', 'plan', 'metadata', meta);
	END IF;
	RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._recognise(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._recognise(regclass, text) IS
'private: the shape of a recognised attendance table, else NULL; metadata: its jsonb column, if it is called otherwise';
