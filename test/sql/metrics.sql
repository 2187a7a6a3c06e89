-- metrics() and metrics_text(): counted with the outcome, or not at all.  What
-- src/meter.c appends at the end of a transaction is appended by hand here.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
BEGIN;
DELETE FROM rsvp_sync._source;
DELETE FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._counter;
DELETE FROM rsvp_sync._tally;
CREATE TABLE metered (id int PRIMARY KEY);
CREATE TABLE metered_also (id int PRIMARY KEY);
INSERT INTO rsvp_sync._source (source_id, attendance, attendance_name, tenant, kind, search_path)
VALUES (901, 'metered', 'metered', E'a "b"\\\nc', 'query', ''), (902, 'metered_also', 'metered_also', 'other', 'query', '');
INSERT INTO rsvp_sync._intent (source_id, key, did, state)
SELECT 901, n, 'did:web:a', s FROM (VALUES ('1', 'blocked'), ('2', 'failed'), ('3', 'failed'), ('4', 'held'), ('5', 'done')) v (n, s);
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at)
SELECT 901, n::text, now(), now() - interval '1 hour' / (n - 4) FROM generate_series(5, 7) n;
INSERT INTO rsvp_sync._change_log (source_id, key, op) VALUES (901, '5', 'c'), (902, '5', 'c');
SELECT name, type, labels, value FROM rsvp_sync.metrics() WHERE name !~ 'age';
SELECT labels ->> 'tenant' AS tenant, CASE WHEN value BETWEEN 3600 AND 3660 THEN 'an hour' ELSE value::text END AS age
FROM rsvp_sync.metrics() WHERE name ~ 'age' ORDER BY 1;
UPDATE rsvp_sync._queue SET changed_at = now() + interval '1 hour';
SELECT value AS never_negative FROM rsvp_sync.metrics() WHERE name ~ 'age' AND labels ->> 'tenant' <> 'other';
DELETE FROM rsvp_sync._change_log;

-- One call's result, as it is counted: its error, its duration, its success
CREATE FUNCTION pg_temp.call(source_id bigint, operation text, status text, seconds double precision, error text DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
SELECT rsvp_sync._count(jsonb_build_array(
	jsonb_build_object('name', 'bluesky_rsvp_processing_duration_seconds', 'value', 1, 'source_id', source_id, 'operation', operation,
		'status', status, 'seconds', seconds, 'buckets', ARRAY(SELECT (seconds <= b::float8)::int FROM unnest(rsvp_sync._bucket_bounds()) b)),
	CASE WHEN error IS NULL
		THEN jsonb_build_object('name', 'bluesky_rsvp_operations_total', 'value', 1, 'source_id', source_id, 'operation', operation, 'status', status)
		ELSE jsonb_build_object('name', 'rsvp_sync_errors_total', 'value', 1, 'direction', 'outbound', 'error_type', error) END))
$$;
SELECT pg_temp.call(901, 'create', 'going', 0.005), pg_temp.call(901, 'create', 'going', 0.3), pg_temp.call(901, 'create', 'interested', 11);
SELECT pg_temp.call(901, 'delete', NULL, 0.01), pg_temp.call(902, 'create', 'going', 1), pg_temp.call(902, 'list', NULL, 2.5);
SELECT pg_temp.call(901, 'create', 'going', 4, 'timeout'), pg_temp.call(902, 'create', 'going', 0.25, 'timeout'), pg_temp.call(901, 'delete', NULL, 0.5, 'refused');
SAVEPOINT s;
SELECT pg_temp.call(901, 'delete', NULL, 0.01);
ROLLBACK TO s;
SELECT rsvp_sync._count('[]');
SELECT name, labels, value FROM rsvp_sync.metrics() WHERE type = 'counter';
SELECT name, labels - 'le' AS labels, labels ->> 'le' AS le, value FROM rsvp_sync.metrics() WHERE type = 'histogram' AND labels @> '{"operation": "create"}';
SELECT regexp_replace(rsvp_sync.metrics_text(), '(age_seconds.*) [\d.]+$', '\1 AGE', 'n');

-- Folded or not, the sums are the same; and once more on top of those
CREATE TEMP TABLE before AS SELECT * FROM rsvp_sync.metrics() WHERE type <> 'gauge';
SELECT count(*) AS tallies FROM rsvp_sync._tally;
SELECT rsvp_sync._fold_tallies();
SELECT count(*) AS tallies FROM rsvp_sync._tally;
(SELECT * FROM before EXCEPT SELECT * FROM rsvp_sync.metrics()) UNION ALL
(SELECT * FROM rsvp_sync.metrics() WHERE type <> 'gauge' EXCEPT SELECT * FROM before);
SELECT pg_temp.call(901, 'create', 'going', 0.3);
SELECT rsvp_sync._fold_tallies();
SELECT name, labels - 'tenant' AS labels, value FROM rsvp_sync.metrics()
WHERE type <> 'gauge' AND labels @> '{"operation": "create", "status": "going"}' AND labels ->> 'tenant' <> 'other';
-- A source that is gone goes on being counted under its tenant, an unknown one under none
DELETE FROM rsvp_sync._source WHERE source_id = 902;
SELECT pg_temp.call(902, 'list', NULL, 0.2);
SELECT labels, value FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_operations_total' AND labels ->> 'operation' = 'list';

-- Writes that were found to have been made are counted; a read alone is not
CREATE FUNCTION pg_temp.deleted() RETURNS double precision LANGUAGE sql AS $$
SELECT sum(value) FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_operations_total' AND labels ->> 'operation' = 'delete'
$$;
SELECT pg_temp.deleted() AS before;
UPDATE rsvp_sync._intent SET bond = 'own', rkey = 'r', doubt = true, sent_cids = '{""}' WHERE key = '5';
SAVEPOINT s;
SELECT rsvp_sync._read_done(901, '5', 'did:web:a', 'r', 'c', '{}');
SELECT pg_temp.deleted() AS still_there;
ROLLBACK TO s;
UPDATE rsvp_sync._intent SET sent_cids = '{c}' WHERE key = '5';
SELECT rsvp_sync._read_done(901, '5', 'did:web:a', 'r', NULL, NULL);
SELECT pg_temp.deleted() AS was_a_put;
ROLLBACK TO s;
SELECT rsvp_sync._read_done(901, '5', 'did:web:a', 'r', NULL, NULL);
SELECT pg_temp.deleted() AS gone;
SELECT rsvp_sync._read_done(901, '5', 'did:web:a', 'r', NULL, NULL);
SELECT pg_temp.deleted() AS counted_once;

-- Strangers' names are bounded
SELECT count(pg_temp.call(901, 'create', 'going', 0.1, 'Name' || n)) FROM generate_series(1, 500) n, generate_series(1, 2);
SELECT count(*) AS rows, sum(value) AS errors, sum(value) FILTER (WHERE labels ->> 'error_type' = 'other') AS other,
	sum(value) FILTER (WHERE labels ->> 'error_type' = 'Name7') AS one
FROM rsvp_sync.metrics() WHERE name = 'rsvp_sync_errors_total';
ROLLBACK;
