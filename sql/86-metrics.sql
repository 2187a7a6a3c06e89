/*
 * Figures for a monitoring system.  Counters are rows that are written in the
 * transaction of the outcome they count, so they are exact whatever dies;
 * gauges are read off the tables.  Only the worker counts, hence nobody waits.
 */
CREATE TABLE rsvp_sync._counter (
	name text NOT NULL,
	labels jsonb NOT NULL,
	value bigint NOT NULL,
	PRIMARY KEY (name, labels)
) WITH (fillfactor = 50);

/*
 * Error names come from strangers: beyond two hundred they are "other", or
 * they would fill the disk and the monitoring system.
 */
CREATE FUNCTION rsvp_sync._count_error(direction text, error_type text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE rsvp_sync._counter c SET value = c.value + 1
	WHERE c.name = 'rsvp_sync_errors_total' AND c.labels
		= jsonb_build_object('direction', direction, 'error_type', error_type);
	IF FOUND THEN
		RETURN;
	END IF;
	INSERT INTO rsvp_sync._counter AS c (name, labels, value)
	VALUES ('rsvp_sync_errors_total', jsonb_build_object('direction',
		direction, 'error_type', CASE WHEN (SELECT count(*) < 200
			FROM rsvp_sync._counter o WHERE o.name = 'rsvp_sync_errors_total')
			THEN coalesce(error_type, 'unknown') ELSE 'other' END), 1)
	ON CONFLICT ON CONSTRAINT _counter_pkey DO UPDATE SET value = c.value + 1;
END
$$;
COMMENT ON FUNCTION rsvp_sync._count_error(text, text) IS
'private: counts a call that did not succeed, in the transaction that records it';

CREATE FUNCTION rsvp_sync._count_operation(of_source bigint, operation text,
	status text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._counter AS c (name, labels, value)
VALUES ('bluesky_rsvp_operations_total', jsonb_strip_nulls(jsonb_build_object(
	'tenant', coalesce((SELECT s.tenant FROM rsvp_sync._source s
		WHERE s.source_id = of_source), ''),
	'operation', operation, 'status', status)), 1)
ON CONFLICT ON CONSTRAINT _counter_pkey DO UPDATE SET value = c.value + 1
$$;
COMMENT ON FUNCTION rsvp_sync._count_operation(bigint, text, text) IS
'private: counts a record written or removed, in the transaction that records it';

CREATE FUNCTION rsvp_sync.metrics()
RETURNS TABLE (name text, type text, labels jsonb, value double precision)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
WITH tenant AS (SELECT DISTINCT s.tenant FROM rsvp_sync._source s),
state AS (
	SELECT s.tenant, i.state FROM rsvp_sync._intent i
	JOIN rsvp_sync._source s ON s.source_id = i.source_id
	WHERE i.state IN ('blocked', 'failed')
	UNION ALL
	SELECT s.tenant, i.state FROM rsvp_sync._intent i
	JOIN rsvp_sync._source s ON s.source_id = i.source_id
	WHERE i.state = 'held'),
waiting AS (
	SELECT s.tenant, count(*) AS n, min(q.changed_at) AS since
	FROM rsvp_sync._queue q
	JOIN rsvp_sync._source s ON s.source_id = q.source_id GROUP BY s.tenant)
SELECT m.* FROM (
	SELECT c.name, 'counter', c.labels, c.value::double precision
	FROM rsvp_sync._counter c
	UNION ALL
	SELECT 'rsvp_sync_queue_depth', 'gauge', jsonb_build_object('tenant',
		t.tenant), coalesce(w.n, 0)
	FROM tenant t LEFT JOIN waiting w USING (tenant)
	UNION ALL
	SELECT 'rsvp_sync_oldest_key_age_seconds', 'gauge',
		jsonb_build_object('tenant', t.tenant),
		coalesce(greatest(extract(epoch FROM clock_timestamp() - w.since), 0), 0)
	FROM tenant t LEFT JOIN waiting w USING (tenant)
	UNION ALL
	SELECT 'rsvp_sync_keys', 'gauge', jsonb_build_object('tenant', t.tenant,
		'state', k.state), count(s.state)
	FROM tenant t CROSS JOIN unnest(ARRAY['blocked', 'failed', 'held']) AS k (state)
	LEFT JOIN state s ON s.tenant = t.tenant AND s.state = k.state
	GROUP BY t.tenant, k.state
	UNION ALL
	SELECT 'rsvp_sync_log_depth', 'gauge', '{}', count(*)
	FROM rsvp_sync._change_log
	UNION ALL
	SELECT 'rsvp_sync_worker_up', 'gauge', '{}', count(*)
	FROM rsvp_sync._stat_worker()) AS m (name, type, labels, value)
ORDER BY m.name, m.labels
$$;
COMMENT ON FUNCTION rsvp_sync.metrics() IS
'Figures for a monitoring system: counters that are exact over crashes, and gauges. For monitors: see grant_monitor().';

CREATE FUNCTION rsvp_sync.metrics_text() RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT string_agg(g.lines, '' ORDER BY g.name) FROM (
	SELECT m.name, format(E'# TYPE %s %s\n', m.name, min(m.type))
		|| string_agg(m.name || coalesce('{' || l.labels || '}', '') || ' '
			|| m.value || E'\n', '' ORDER BY m.labels) AS lines
	FROM rsvp_sync.metrics() m
	CROSS JOIN LATERAL (SELECT string_agg(e.key || '="'
			|| replace(replace(replace(e.value, '\', '\\'), '"', '\"'), E'\n', '\n')
			|| '"', ',' ORDER BY e.key) AS labels
		FROM jsonb_each_text(m.labels) e) l
	GROUP BY m.name) g
$$;
COMMENT ON FUNCTION rsvp_sync.metrics_text() IS
'metrics() as Prometheus reads it (text format 0.0.4).';
