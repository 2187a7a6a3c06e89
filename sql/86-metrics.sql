/*
 * Figures for a monitoring system.  What is counted is committed in the
 * transaction of the outcome it counts, so counters are exact whatever dies;
 * gauges are read off the tables.  Only the worker counts.
 *
 * A row that is updated by every transaction would grow a chain of versions
 * that nobody may remove while some old snapshot is open, and each update
 * would walk it.  So a transaction appends what it has counted, as one row of
 * _tally, and now and then _fold_tallies() adds the rows up in _counter.
 */
CREATE TABLE rsvp_sync._counter (
	name text NOT NULL,
	labels jsonb NOT NULL,
	value bigint NOT NULL,			-- of a histogram: how many
	seconds double precision,		-- of a histogram: their sum
	buckets bigint[],				-- of a histogram: how many up to each bound
	PRIMARY KEY (name, labels)
) WITH (fillfactor = 50);

/* entries: an array of objects with the columns of _counter. */
CREATE TABLE rsvp_sync._tally (
	entries jsonb NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
	autovacuum_vacuum_insert_scale_factor = 0,
	autovacuum_vacuum_insert_threshold = 100000,
	autovacuum_vacuum_cost_delay = 0);

CREATE FUNCTION rsvp_sync._add_buckets(a bigint[], b bigint[])
RETURNS bigint[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN a IS NULL THEN b WHEN b IS NULL THEN a
	ELSE (SELECT array_agg(x.a + x.b ORDER BY x.n)
		FROM ROWS FROM (unnest(a), unnest(b)) WITH ORDINALITY AS x (a, b, n))
	END
$$;
COMMENT ON FUNCTION rsvp_sync._add_buckets(bigint[], bigint[]) IS
'private: sum of two arrays, place by place';

/* Rows of _tally, or of _counter in the same shape, added up. */
CREATE FUNCTION rsvp_sync._sum_entries(all_entries jsonb[])
RETURNS TABLE (name text, labels jsonb, value bigint,
	seconds double precision, buckets bigint[])
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
WITH entry AS (
	SELECT e.* FROM unnest(all_entries) t (entries)
	CROSS JOIN jsonb_to_recordset(t.entries) AS e (name text, labels jsonb,
		value bigint, seconds double precision, buckets bigint[])
), bucket AS (
	SELECT e.name, e.labels, b.n, sum(b.v)::bigint AS v
	FROM entry e CROSS JOIN unnest(e.buckets) WITH ORDINALITY AS b (v, n)
	GROUP BY e.name, e.labels, b.n)
SELECT s.*, (SELECT array_agg(b.v ORDER BY b.n) FROM bucket b
	WHERE b.name = s.name AND b.labels = s.labels)
FROM (SELECT e.name, e.labels, sum(e.value)::bigint, sum(e.seconds)
	FROM entry e GROUP BY e.name, e.labels) s
$$;
COMMENT ON FUNCTION rsvp_sync._sum_entries(jsonb[]) IS
'private: sums of what was counted, by name and labels';

/*
 * Error names come from strangers: beyond two hundred they are "other", or
 * they would fill the disk and the monitoring system.  A name is one of the
 * two hundred once it has a row in _counter.
 */
CREATE FUNCTION rsvp_sync._known_error(direction text, error_type text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	wanted text := coalesce(error_type, 'unknown');
BEGIN
	IF EXISTS (SELECT FROM rsvp_sync._counter c
		WHERE c.name = 'rsvp_sync_errors_total' AND c.labels
			= jsonb_build_object('direction', direction, 'error_type', wanted))
	THEN
		RETURN wanted;
	END IF;
	IF (SELECT count(*) FROM rsvp_sync._counter c
		WHERE c.name = 'rsvp_sync_errors_total') >= 200 THEN
		RETURN 'other';
	END IF;
	INSERT INTO rsvp_sync._counter (name, labels, value)
	VALUES ('rsvp_sync_errors_total', jsonb_build_object('direction',
		direction, 'error_type', wanted), 0)
	ON CONFLICT ON CONSTRAINT _counter_pkey DO NOTHING;
	RETURN wanted;
END
$$;
COMMENT ON FUNCTION rsvp_sync._known_error(text, text) IS
'private: the label an error is counted under: its name, or other';

/*
 * What a transaction has counted: an array of objects of name, value, and
 *	source_id, operation, status	of an operation or its duration
 *	seconds, buckets				of a duration
 *	direction, error_type			of an error
 * A source may be gone when the counter is read: its tenant is looked up now.
 */
CREATE FUNCTION rsvp_sync._count(counted jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._tally (entries)
	SELECT jsonb_agg(jsonb_build_object('name', c.name, 'value', c.value,
		'seconds', c.seconds, 'buckets', c.buckets,
		'labels', CASE WHEN c.error_type IS NOT NULL
			THEN jsonb_build_object('direction', c.direction, 'error_type',
				rsvp_sync._known_error(c.direction, c.error_type))
			ELSE jsonb_strip_nulls(jsonb_build_object('tenant',
				coalesce(s.tenant, ''), 'operation', c.operation,
				'status', c.status)) END))
	FROM jsonb_to_recordset(counted) AS c (name text, value bigint,
		source_id bigint, operation text, status text, seconds double precision,
		buckets jsonb, direction text, error_type text)
	LEFT JOIN rsvp_sync._source s ON s.source_id = c.source_id
	HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._count(jsonb) IS
'private: appends what was counted, in the transaction that records the outcomes it counts';

/* For outcomes that are found by comparing, and not told by an answer. */
CREATE FUNCTION rsvp_sync._count_operation(of_source bigint, operation text,
	status text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._count(jsonb_build_array(jsonb_build_object(
	'name', 'bluesky_rsvp_operations_total', 'value', 1,
	'source_id', of_source, 'operation', operation, 'status', status)))
$$;
COMMENT ON FUNCTION rsvp_sync._count_operation(bigint, text, text) IS
'private: counts a record written or removed, in the transaction that records it';

/*
 * RSVPs taken over from the network: so many created, updated and deleted,
 * which took so long together.
 */
CREATE FUNCTION rsvp_sync._count_integration(of_tenant text, source_type text,
	created bigint, updated bigint, deleted bigint, took interval)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
WITH each AS (
	SELECT o.operation, o.n, extract(epoch FROM took)::double precision
		/ (created + updated + deleted) AS seconds
	FROM (VALUES ('create', created), ('update', updated),
		('delete', deleted)) AS o (operation, n)
	WHERE o.n > 0
), entry AS (
	SELECT jsonb_build_object('name', 'rsvp_integration_processed_total',
		'value', e.n, 'labels', jsonb_build_object('tenant', of_tenant,
			'source_type', source_type, 'operation', e.operation)) AS entry
	FROM each e
	UNION ALL
	SELECT jsonb_build_object(
		'name', 'rsvp_integration_processing_duration_seconds',
		'value', sum(e.n), 'seconds', sum(e.n * e.seconds),
		'buckets', (SELECT jsonb_agg(CASE WHEN b.bound::double precision
				>= e.seconds THEN sum(e.n) ELSE 0 END ORDER BY b.n)
			FROM unnest(rsvp_sync._bucket_bounds()) WITH ORDINALITY
				AS b (bound, n)),
		'labels', jsonb_build_object('tenant', of_tenant, 'source_type',
			source_type, 'operation', CASE WHEN e.operation = 'delete'
				THEN 'delete' ELSE 'process' END))
	FROM each e GROUP BY CASE WHEN e.operation = 'delete'
		THEN 'delete' ELSE 'process' END, e.seconds
)
INSERT INTO rsvp_sync._tally (entries)
SELECT jsonb_agg(e.entry) FROM entry e HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._count_integration(text, text, bigint, bigint, bigint, interval) IS
'private: counts RSVPs taken over from the network, in the transaction that does it';

CREATE FUNCTION rsvp_sync._counted()
RETURNS TABLE (name text, labels jsonb, value bigint,
	seconds double precision, buckets bigint[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT s.* FROM rsvp_sync._sum_entries(ARRAY(
	SELECT t.entries FROM rsvp_sync._tally t
	UNION ALL
	SELECT jsonb_agg(c) FROM rsvp_sync._counter c HAVING count(*) > 0)) s
$$;
COMMENT ON FUNCTION rsvp_sync._counted() IS
'private: the counters, those not folded yet included';

/* Exactly the rows this statement sees are folded. */
CREATE FUNCTION rsvp_sync._fold_tallies() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH gone AS (
	DELETE FROM rsvp_sync._tally RETURNING entries
)
INSERT INTO rsvp_sync._counter AS c (name, labels, value, seconds, buckets)
SELECT s.name, s.labels, s.value, s.seconds, s.buckets
FROM rsvp_sync._sum_entries(ARRAY(SELECT g.entries FROM gone g)) s
ON CONFLICT ON CONSTRAINT _counter_pkey DO UPDATE SET
	value = c.value + excluded.value,
	seconds = c.seconds + excluded.seconds,
	buckets = rsvp_sync._add_buckets(c.buckets, excluded.buckets)
$$;
COMMENT ON FUNCTION rsvp_sync._fold_tallies() IS
'private: adds up in _counter what transactions have appended to _tally';

/* Upper bounds of the histograms, in seconds; src/meter.c has the same. */
CREATE FUNCTION rsvp_sync._bucket_bounds() RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT ARRAY['0.01', '0.1', '0.5', '1', '2', '5', '10']
$$;
COMMENT ON FUNCTION rsvp_sync._bucket_bounds() IS
'private: upper bounds of the buckets of the histograms, in seconds';

/* Every metric there is, also those that have no sample yet. */
CREATE FUNCTION rsvp_sync._metric_families()
RETURNS TABLE (name text, type text, help text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
VALUES
	('bluesky_rsvp_operations_total', 'counter', 'RSVP operations that succeeded: records created or updated, records deleted, accounts listed.'),
	('bluesky_rsvp_processing_duration_seconds', 'histogram', 'From the start of an RSVP operation''s request to its answer, also of those that failed.'),
	('rsvp_integration_processed_total', 'counter', 'RSVPs taken over from the network.'),
	('rsvp_integration_processing_duration_seconds', 'histogram', 'Time to take over an RSVP from the network.'),
	('rsvp_sync_errors_total', 'counter', 'Answers that refused or failed a call, by the name of the error.'),
	('rsvp_sync_queue_depth', 'gauge', 'Keys in the queue.'),
	('rsvp_sync_oldest_key_age_seconds', 'gauge', 'Time since the key that waits longest was changed; 0 if none waits.'),
	('rsvp_sync_keys', 'gauge', 'Keys that do not go on by themselves, by state.'),
	('rsvp_sync_log_depth', 'gauge', 'Changes not taken up yet.'),
	('rsvp_sync_stream_events_total', 'counter', 'Messages of the network''s event stream, by kind.'),
	('rsvp_sync_stream_lag_seconds', 'gauge', 'How far behind the network''s event stream is read.'),
	('rsvp_sync_stream_last_event_timestamp_seconds', 'gauge', 'When the newest event that was taken happened.'),
	('rsvp_sync_stream_up', 'gauge', '1 if the network''s event stream is listened to.'),
	('rsvp_sync_worker_up', 'gauge', '1 if this database''s worker runs.')
$$;
COMMENT ON FUNCTION rsvp_sync._metric_families() IS
'private: name, type and description of each metric';

CREATE FUNCTION rsvp_sync._gauges()
RETURNS TABLE (name text, labels jsonb, value double precision)
LANGUAGE sql VOLATILE
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
SELECT 'rsvp_sync_queue_depth', jsonb_build_object('tenant', t.tenant),
	coalesce(w.n, 0)::double precision
FROM tenant t LEFT JOIN waiting w USING (tenant)
UNION ALL
SELECT 'rsvp_sync_oldest_key_age_seconds',
	jsonb_build_object('tenant', t.tenant),
	coalesce(greatest(extract(epoch FROM clock_timestamp() - w.since), 0), 0)
FROM tenant t LEFT JOIN waiting w USING (tenant)
UNION ALL
SELECT 'rsvp_sync_keys', jsonb_build_object('tenant', t.tenant,
	'state', k.state), count(s.state)
FROM tenant t CROSS JOIN unnest(ARRAY['blocked', 'failed', 'held']) AS k (state)
LEFT JOIN state s ON s.tenant = t.tenant AND s.state = k.state
GROUP BY t.tenant, k.state
UNION ALL
SELECT 'rsvp_sync_log_depth', '{}', count(*) FROM rsvp_sync._change_log
UNION ALL
SELECT 'rsvp_sync_worker_up', '{}', count(*) FROM rsvp_sync._stat_worker()
UNION ALL
SELECT g.name, '{}', g.value FROM rsvp_sync._stat_stream() s
CROSS JOIN LATERAL (VALUES
	('rsvp_sync_stream_lag_seconds', s.lag),
	('rsvp_sync_stream_last_event_timestamp_seconds',
		extract(epoch FROM s.last_event_at)::double precision),
	('rsvp_sync_stream_up', (s.connected_at IS NOT NULL)::integer)) AS g (name, value)
WHERE g.value IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._gauges() IS
'private: what is measured at this moment';

/* seq: the order in which the samples of one histogram are to be told. */
CREATE FUNCTION rsvp_sync._samples()
RETURNS TABLE (family text, name text, type text, labels jsonb, seq integer,
	value double precision)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH counted AS (
	SELECT c.*, f.type FROM rsvp_sync._counted() c
	JOIN rsvp_sync._metric_families() f ON f.name = c.name)
SELECT c.name, c.name, c.type, c.labels, 0, c.value::double precision
FROM counted c WHERE c.type = 'counter'
UNION ALL
SELECT c.name, c.name || '_bucket', c.type,
	c.labels || jsonb_build_object('le', coalesce(b.bound, '+Inf')), b.n::integer,
	(coalesce(c.buckets[b.n], c.value))::double precision
FROM counted c
CROSS JOIN unnest(rsvp_sync._bucket_bounds() || NULL::text)
	WITH ORDINALITY AS b (bound, n)
WHERE c.type = 'histogram'
UNION ALL
SELECT c.name, c.name || h.suffix, c.type, c.labels, h.seq, h.value
FROM counted c
CROSS JOIN LATERAL (VALUES ('_sum', 100, c.seconds),
	('_count', 101, c.value)) AS h (suffix, seq, value)
WHERE c.type = 'histogram'
UNION ALL
SELECT g.name, g.name, 'gauge', g.labels, 0, g.value FROM rsvp_sync._gauges() g
$$;
COMMENT ON FUNCTION rsvp_sync._samples() IS
'private: the samples of all metrics, by family';

CREATE FUNCTION rsvp_sync.metrics()
RETURNS TABLE (name text, type text, labels jsonb, value double precision)
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT s.name, s.type, s.labels, s.value FROM rsvp_sync._samples() s
ORDER BY s.family, s.labels - 'le', s.seq
$$;
COMMENT ON FUNCTION rsvp_sync.metrics() IS
'Figures for a monitoring system: counters and histograms that are exact over crashes, and gauges. A histogram is rows of NAME_bucket (label le), NAME_sum and NAME_count. For monitors: see grant_monitor().';

CREATE FUNCTION rsvp_sync.metrics_text() RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
AS $$
SELECT string_agg(format(E'# HELP %1$s %2$s\n# TYPE %1$s %3$s\n', f.name,
	replace(f.help, '\', '\\'), f.type) || coalesce(g.lines, ''),
	'' ORDER BY f.name)
FROM rsvp_sync._metric_families() f
LEFT JOIN (
	SELECT s.family, string_agg(s.name || coalesce('{' || l.labels || '}', '')
		|| ' ' || s.value || E'\n', '' ORDER BY s.labels - 'le', s.seq) AS lines
	FROM rsvp_sync._samples() s
	CROSS JOIN LATERAL (SELECT string_agg(e.key || '="'
			|| replace(replace(replace(e.value, '\', '\\'), '"', '\"'), E'\n', '\n')
			|| '"', ',' ORDER BY e.key = 'le', e.key) AS labels
		FROM jsonb_each_text(s.labels) e) l
	GROUP BY s.family) g ON g.family = f.name
$$;
COMMENT ON FUNCTION rsvp_sync.metrics_text() IS
'metrics() as Prometheus reads it (text format 0.0.4).';
