/*
 * Rows that were there before: attaching publishes none of them unless asked.
 * A baseline is an intent whose base is the row's present value, so that only
 * a later change of it is a change.
 */

/*
 * Baseline, or a place in the log, for these keys; for all where keys is NULL.
 */
CREATE FUNCTION rsvp_sync._take_baseline(s rsvp_sync._source, keys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	backfill text := coalesce(s.options ->> 'backfill', 'none');
	map jsonb := rsvp_sync._status_map(s.source_id);
BEGIN
	DELETE FROM rsvp_sync._intent i
	WHERE i.source_id = s.source_id AND i.key = ANY (keys);
	WITH d AS MATERIALIZED (
		SELECT f.key, f.did, f.event_uri, map ->> f.status AS local,
			backfill = 'all' OR (backfill = 'upcoming' AND coalesce(
				coalesce(f.ends_at, f.starts_at) >= now(), true)) AS publish
		FROM rsvp_sync._desired(s.source_id, keys) f
		WHERE f.key IS NOT NULL
	), baseline AS (
		INSERT INTO rsvp_sync._intent AS i (source_id, key, did, event_uri,
			local, local_at, first_local, base_local, state, reason_code,
			reason)
		SELECT s.source_id, d.key, d.did, d.event_uri, d.local, now(),
			d.local, d.local, 'withheld', 'not_backfilled',
			'It was there before the table was attached; '
			'a change of its status will be published.'
		FROM d WHERE NOT d.publish
		ON CONFLICT DO NOTHING
	)
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT s.source_id, d.key, 'l' FROM d WHERE d.publish;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._take_baseline(rsvp_sync._source, text[])
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._take_baseline(rsvp_sync._source, text[]) IS
'private: what attach() does about the rows there are, by option backfill';

/* Asked for later: rows that have nothing on the network count as new. */
CREATE FUNCTION rsvp_sync._backfill_again(s rsvp_sync._source) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH wanted AS MATERIALIZED (
		SELECT f.key
		FROM rsvp_sync._desired(s.source_id, NULL) f
		WHERE s.options ->> 'backfill' = 'all'
			OR coalesce(coalesce(f.ends_at, f.starts_at) >= now(), true)
	), gone AS (
		DELETE FROM rsvp_sync._intent i USING wanted w
		WHERE i.source_id = s.source_id AND i.key = w.key
			AND i.bond IS NULL AND i.rkey IS NULL AND i.sent_cids = '{}'
			/* What only the network has told is not published by asking. */
			AND NOT i.mirrors
		RETURNING i.key
	)
	INSERT INTO rsvp_sync._change_log (source_id, key, op)
	SELECT s.source_id, g.key, 'l' FROM gone g
$$;
REVOKE ALL ON FUNCTION rsvp_sync._backfill_again(rsvp_sync._source)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._backfill_again(rsvp_sync._source) IS
'private: option backfill given to an attached table';

/*
 * Keys of rows that may have been committed since a snapshot; the triggers
 * are there by now, so nobody can put another relation in the table's place.
 *
 * This runs with more rights than the application has, and so must not run
 * anything of the application's.  format() takes a key's text from the type's
 * output function; a cast could be the application's own.  A foreign table
 * would be read with our rights at the other end: no partition may be one.
 */
CREATE FUNCTION rsvp_sync._keys_since(relation regclass, snapshot pg_snapshot)
RETURNS text[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET timezone = 'UTC'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET row_security = off
AS $$
DECLARE
	key text;
	keys text[];
	partitioned boolean;
BEGIN
	SELECT c.relkind = 'p' INTO partitioned
	FROM pg_class c WHERE c.oid = relation;
	IF EXISTS (SELECT FROM pg_partition_tree(relation) p
		JOIN pg_class c ON c.oid = p.relid WHERE c.relkind = 'f')
	THEN
		RAISE EXCEPTION 'table % has foreign tables as partitions', relation
			USING ERRCODE = 'wrong_object_type',
				HINT = 'Their rows can change without a trigger of this '
					'database being told. Attach the local partitions.';
	END IF;
	SELECT CASE WHEN count(*) = 1 THEN min(c.part) ELSE format(
		'jsonb_build_array(%s)::text', string_agg(c.part, ', ' ORDER BY c.place))
		END INTO key
	FROM (SELECT format('format(''%%s'', a.%I)', k.name), k.place
		FROM rsvp_sync._key_columns(relation) k) AS c (part, place);
	EXECUTE format('SELECT coalesce(array_agg(%s), ''{}'') FROM %s %s a '
		'WHERE age(a.xmin) <= $1', key,
		CASE WHEN partitioned THEN '' ELSE 'ONLY' END,
		rsvp_sync._live_relation(rsvp_sync._relation_ref(relation)))
		INTO keys
		USING pg_current_xact_id()::text::bigint
			- pg_snapshot_xmin(snapshot)::text::bigint;
	RETURN keys;
END
$$;
REVOKE ALL ON FUNCTION rsvp_sync._keys_since(regclass, pg_snapshot)
	FROM PUBLIC;
COMMENT ON FUNCTION rsvp_sync._keys_since(regclass, pg_snapshot) IS
'private: keys of rows written since a snapshot was taken, and perhaps of some more';
