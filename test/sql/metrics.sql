-- metrics() and metrics_text(): counted with the outcome, or not at all.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
BEGIN;
DELETE FROM rsvp_sync._source;
DELETE FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._counter;
CREATE TABLE metered (id int PRIMARY KEY);
INSERT INTO rsvp_sync._source (source_id, attendance, attendance_name, tenant, kind, search_path)
VALUES (901, 'metered', 'metered', E'a "b"\\\nc', 'query', '');
INSERT INTO rsvp_sync._intent (source_id, key, did, state)
SELECT 901, n, 'did:web:a', s FROM (VALUES ('1', 'blocked'), ('2', 'failed'), ('3', 'failed'), ('4', 'held'), ('5', 'done')) v (n, s);
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at)
SELECT 901, n::text, now(), now() - interval '1 hour' FROM generate_series(5, 7) n;
SELECT name, type, labels, value FROM rsvp_sync.metrics() WHERE name !~ 'age';
SELECT value BETWEEN 3600 AND 3660 AS hour FROM rsvp_sync.metrics() WHERE name ~ 'age';

SELECT rsvp_sync._put_done(901, '5', 0, 'did:web:a', 'r', '{"status": "going"}', 'c', NULL);
SELECT rsvp_sync._put_done(901, '5', 0, 'did:web:a', 'r', '{"status": "going"}', 'c', NULL);
SELECT rsvp_sync._put_done(901, '5', 0, 'did:web:a', 'r', '{"status": "interested"}', 'c', NULL);
SELECT rsvp_sync._delete_done(901, '5', 0, 'did:web:a', 'r', NULL);
SELECT rsvp_sync._call_failed(901, '6', 0, 'retry', 'timeout', 'x', true, NULL, '0');
SELECT rsvp_sync._call_failed(901, '6', 0, 'retry', 'timeout', 'x', true, NULL, '0');
SELECT rsvp_sync._call_failed(901, '7', 0, 'failed', 'refused', 'x', true, NULL, '0');
SAVEPOINT s;
SELECT rsvp_sync._delete_done(901, '5', 0, 'did:web:a', 'r', NULL);
ROLLBACK TO s;
SELECT name, labels, value FROM rsvp_sync.metrics() WHERE type = 'counter';
SELECT regexp_replace(rsvp_sync.metrics_text(), '(age_seconds.*) [\d.]+$', '\1 AGE', 'n');

-- Strangers' names are bounded
SELECT count(rsvp_sync._count_error('outbound', 'Name' || n)) FROM generate_series(1, 500) n;
SELECT count(*) AS rows, sum(value) AS errors, sum(value) FILTER (WHERE labels ->> 'error_type' = 'other') AS other
FROM rsvp_sync.metrics() WHERE name = 'rsvp_sync_errors_total';
ROLLBACK;
