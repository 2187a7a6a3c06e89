/*
 * Webmentions: telling the page of an event that a page of ours speaks of it.
 *
 * Level-triggered like the rest: what a row's page says now is compared with
 * what each target was last wanted to know, whenever the row is planned.  A
 * source whose query gives no event_url costs one look at _source.
 */

/* Long ones are not worth the trouble, and what is no web page neither. */
CREATE FUNCTION rsvp_sync._is_page(url text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(length(url) <= 2048 AND url ~* '^https?://[^/?#:\s]+[^\s]*$',
	false)
$$;
COMMENT ON FUNCTION rsvp_sync._is_page(text) IS
'Is this the address of a page on the web?';

CREATE FUNCTION rsvp_sync._digest_of(VARIADIC texts text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT sha256(convert_to(array_to_string(texts, ' '), 'UTF8'))
$$;
COMMENT ON FUNCTION rsvp_sync._digest_of(text[]) IS
'What URLs are indexed by: one of several, which hold no blanks.';

/* scheme://host[:port] in small letters, as pause() keeps a server */
CREATE FUNCTION rsvp_sync._site_of(url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT lower(substring(url FROM '^[^/]+//[^/?#]+'))
$$;
COMMENT ON FUNCTION rsvp_sync._site_of(text) IS
'The server of a page, as pause() knows it.';

CREATE TYPE rsvp_sync._mention_wish AS (
	key text,
	wish text,						-- leave, gone, erase, or what the page says
	permalink text,
	target text,
	digest bytea,
	quiet boolean					-- not to be told by itself
);

/* What each of these keys wants to be said of it. */
CREATE FUNCTION rsvp_sync._mention_wishes(src rsvp_sync._source, keys text[])
RETURNS SETOF rsvp_sync._mention_wish
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
WITH map AS MATERIALIZED (
	SELECT rsvp_sync._status_map(src.source_id) AS words
), desired AS MATERIALIZED (
	SELECT d.* FROM rsvp_sync._desired(src.source_id, keys) d
	WHERE src.state <> 'detaching'
)
SELECT k.key, CASE
		WHEN d.key IS NULL AND src.options ->> 'on_delete' = 'keep'
			AND src.state <> 'detaching' THEN 'leave'
		WHEN f.digest IS NOT NULL THEN 'erase'
		/* A person has to let that pass first. */
		WHEN i.state = 'held' THEN 'leave'
		WHEN d.key IS NULL OR a.did IS NOT NULL THEN 'gone'
		WHEN d.withheld IS NOT NULL
		THEN CASE WHEN d.on_withheld = 'delete' THEN 'gone' ELSE 'leave' END
		WHEN i.state = 'superseded' OR NOT map.words ? d.status
			OR d.status IS NULL THEN 'leave'
		WHEN map.words ->> d.status IS NULL
			OR NOT (rsvp_sync._is_page(d.permalink)
				AND rsvp_sync._is_page(d.event_url))
			/* The application need not be told of its own rows. */
			OR starts_with(d.event_url, src.options ->> 'event_pages')
		THEN 'gone'
		WHEN coalesce(d.ends_at, d.starts_at) < now()
			AND NOT coalesce((src.options
				->> 'publish_past_events')::boolean, false) THEN 'leave'
		ELSE map.words ->> d.status END,
	d.permalink, d.event_url,
	rsvp_sync._digest_of(d.permalink, d.event_url),
	/* It came from elsewhere; or it declines what was never accepted. */
	coalesce(q.by_network, false)
		OR coalesce(i.bond = 'adopted' AND NOT i.wrote
			AND i.base_local = map.words ->> d.status, false)
		OR EXISTS (SELECT FROM rsvp_sync._external x
			WHERE x.attendance = src.source_id AND x.key = k.key
				AND x.status = map.words ->> d.status)
		OR map.words ->> d.status = 'notgoing'
		AND coalesce(i.first_local, 'notgoing') <> 'notgoing'
FROM (SELECT unnest(keys) AS key
	UNION
	SELECT w.key FROM desired w WHERE keys IS NULL) k
CROSS JOIN map
LEFT JOIN desired d ON d.key = k.key
LEFT JOIN rsvp_sync._account a ON a.did = d.did AND a.leaving IS NOT NULL
LEFT JOIN rsvp_sync._forgotten f
	ON f.digest = sha256(convert_to(d.did, 'UTF8'))
LEFT JOIN LATERAL (SELECT n.* FROM rsvp_sync._intent n
	WHERE n.source_id = src.source_id AND n.key = k.key LIMIT 1) i ON true
LEFT JOIN LATERAL (SELECT n.* FROM rsvp_sync._queue n
	WHERE n.source_id = src.source_id AND n.key = k.key LIMIT 1) q ON true
$$;
COMMENT ON FUNCTION rsvp_sync._mention_wishes(rsvp_sync._source, text[]) IS
'What pages of these keys (NULL: of all rows) are to be said to whom. wish: going, interested, notgoing, gone (to those told before), leave (as it is), erase.';

CREATE FUNCTION rsvp_sync._remember_pages(of_source bigint, urls text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._event_page (source_id, digest, url)
SELECT of_source, rsvp_sync._digest_of(u.url), u.url
FROM (SELECT DISTINCT unnest(urls) AS url) u
WHERE rsvp_sync._is_page(u.url)
ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION rsvp_sync._remember_pages(bigint, text[]) IS
'Pages of events that a source speaks of: webmentions of them are received.';

/* Pages that speak of a target no more, or do not exist any more. */
CREATE FUNCTION rsvp_sync._retract_mentions(of_source bigint,
	wishes rsvp_sync._mention_wish[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM rsvp_sync._webmention w USING unnest(wishes) n
	WHERE w.source_id = of_source AND w.key = n.key AND (n.wish = 'erase'
		/* Who never heard of it need not hear that it is gone. */
		OR n.wish <> 'leave' AND NOT w.tried AND w.lease IS NULL
			AND (n.wish = 'gone' OR w.digest <> n.digest));
	UPDATE rsvp_sync._webmention w SET wanted = 'gone', state = 'waiting',
		due_at = now(), attempts = 0, last_error = NULL, removed_at = now(),
		generation = w.generation + 1
	FROM unnest(wishes) n
	WHERE w.source_id = of_source AND w.key = n.key AND n.wish <> 'leave'
		AND (n.wish = 'gone' OR w.digest <> n.digest) AND w.wanted <> 'gone';
END
$$;
COMMENT ON FUNCTION rsvp_sync._retract_mentions(bigint, rsvp_sync._mention_wish[]) IS
'Has targets told that a page is gone, or speaks of another target now.';

/* Called where keys are planned. */
CREATE FUNCTION rsvp_sync._note_webmentions(of_source bigint, keys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
	wishes rsvp_sync._mention_wish[];
BEGIN
	SELECT * INTO src FROM rsvp_sync._source s
	WHERE s.source_id = of_source AND s.mentions;
	IF NOT FOUND OR keys = '{}' THEN
		RETURN;
	END IF;
	SELECT array_agg(n) INTO wishes
	FROM rsvp_sync._mention_wishes(src, keys) n;
	PERFORM rsvp_sync._remember_pages(of_source,
		ARRAY(SELECT n.target FROM unnest(wishes) n));
	PERFORM rsvp_sync._retract_mentions(of_source, wishes);

	WITH noted AS (
		INSERT INTO rsvp_sync._webmention AS w (source_id, key, permalink,
			target, digest, wanted, state, due_at)
		SELECT of_source, n.key, n.permalink, n.target, n.digest, n.wish,
			CASE WHEN NOT n.quiet THEN 'waiting'
				WHEN n.wish = 'notgoing' THEN 'never_published'
				ELSE 'not_backfilled' END,
			CASE WHEN NOT n.quiet THEN now() END
		FROM unnest(wishes) n
		WHERE n.wish IN ('going', 'interested', 'notgoing')
		ON CONFLICT (source_id, key, digest) DO UPDATE SET
			wanted = excluded.wanted, removed_at = NULL, attempts = 0,
			last_error = NULL, generation = w.generation + 1,
			/* Who was told before is told whatever the row says now. */
			state = CASE WHEN w.tried OR w.due_at IS NOT NULL
					AND excluded.state <> 'never_published'
				THEN 'waiting' ELSE excluded.state END,
			due_at = CASE WHEN w.tried OR w.due_at IS NOT NULL
					AND excluded.state <> 'never_published'
				THEN now() ELSE excluded.due_at END
		WHERE w.wanted <> excluded.wanted
		RETURNING w.key, w.target, w.wanted, w.due_at
	)
	INSERT INTO rsvp_sync._history (source_id, key, action, outcome, status,
		uri)
	SELECT of_source, n.key, 'webmention', 'dry_run', n.wanted, n.target
	FROM noted n
	WHERE current_setting('rsvp_sync.mode') = 'dry_run'
		AND n.due_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._note_webmentions(bigint, text[]) IS
'Compares what the pages of keys say with what their targets were to know, and has them told; does nothing for a source whose query gives no event_url.';

/* Of these rows those whose pages say something else than was noted. */
CREATE FUNCTION rsvp_sync._differing_mentions(of_source bigint, after text,
	until text)
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
BEGIN
	SELECT * INTO src FROM rsvp_sync._source s
	WHERE s.source_id = of_source AND s.mentions;
	IF NOT FOUND THEN
		RETURN '{}';
	END IF;
	RETURN ARRAY(SELECT n.key
		FROM rsvp_sync._mention_wishes(src, ARRAY(SELECT p.key
			FROM rsvp_sync._page(of_source, after, until) p)) n
		WHERE n.wish <> 'leave'
			AND (EXISTS (SELECT FROM rsvp_sync._webmention w
					WHERE w.source_id = of_source AND w.key = n.key
						AND w.wanted <> 'gone'
						AND (n.wish IN ('gone', 'erase')
							OR w.digest <> n.digest))
				OR n.wish NOT IN ('gone', 'erase') AND NOT EXISTS (
					SELECT FROM rsvp_sync._webmention w
					WHERE w.source_id = of_source AND w.key = n.key
						AND w.digest = n.digest AND w.wanted = n.wish))
			AND NOT EXISTS (SELECT FROM rsvp_sync._queue q
				WHERE q.source_id = of_source AND q.key = n.key));
END
$$;
COMMENT ON FUNCTION rsvp_sync._differing_mentions(bigint, text, text) IS
'private: attendance rows after one key and up to another whose webmentions are not as they should be';

/*
 * Rows that were there before: their pages are known, and told to nobody
 * until the row changes.
 */
CREATE FUNCTION rsvp_sync._webmention_baseline(s rsvp_sync._source,
	keys text[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
BEGIN
	SELECT * INTO src FROM rsvp_sync._source f
	WHERE f.source_id = s.source_id AND f.mentions;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	DELETE FROM rsvp_sync._webmention w
	WHERE w.source_id = s.source_id AND w.key = ANY (keys) AND NOT w.tried;
	WITH wishes AS MATERIALIZED (
		SELECT n.* FROM rsvp_sync._mention_wishes(src, keys) n
	), pages AS (
		INSERT INTO rsvp_sync._event_page (source_id, digest, url)
		SELECT s.source_id, rsvp_sync._digest_of(u.target), u.target
		FROM (SELECT DISTINCT n.target FROM wishes n) u
		WHERE rsvp_sync._is_page(u.target)
		ON CONFLICT DO NOTHING
	)
	INSERT INTO rsvp_sync._webmention (source_id, key, permalink, target,
		digest, wanted, state)
	SELECT s.source_id, n.key, n.permalink, n.target, n.digest, n.wish,
		'not_backfilled'
	FROM wishes n
	/* What is published after all is not in the way of that. */
	JOIN rsvp_sync._intent i ON i.source_id = s.source_id AND i.key = n.key
	WHERE n.wish IN ('going', 'interested', 'notgoing')
	ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION rsvp_sync._webmention_baseline(rsvp_sync._source, text[]) IS
'private: pages of rows that were there before are taken for known; of rows without an intent they are new';

/* Option backfill, given to an attached table: rows told to nobody are new. */
CREATE FUNCTION rsvp_sync._webmention_backfill(s rsvp_sync._source)
RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
WITH wanted AS MATERIALIZED (
	SELECT f.key FROM rsvp_sync._desired(s.source_id, NULL) f
	WHERE s.options ->> 'backfill' = 'all'
		OR coalesce(coalesce(f.ends_at, f.starts_at) >= now(), true)
), gone AS (
	DELETE FROM rsvp_sync._webmention w USING wanted n
	WHERE w.source_id = s.source_id AND w.key = n.key
		AND w.state = 'not_backfilled'
	RETURNING w.key
)
INSERT INTO rsvp_sync._change_log (source_id, key, op)
SELECT s.source_id, g.key, 'l' FROM gone g
$$;
COMMENT ON FUNCTION rsvp_sync._webmention_backfill(rsvp_sync._source) IS
'private: has pages of rows that were there before told, too';

/* Does the query speak of pages?  If that is new, what it says is not. */
CREATE FUNCTION rsvp_sync._attach_webmentions(s rsvp_sync._source,
	known boolean, given jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	had boolean := (SELECT f.mentions FROM rsvp_sync._source f
		WHERE f.source_id = s.source_id);
	has boolean := s.kind IN ('query', 'view') AND EXISTS (
		SELECT FROM rsvp_sync._query_columns(s) c
		WHERE c.name = 'event_url');
BEGIN
	UPDATE rsvp_sync._source f SET mentions = has
	WHERE f.source_id = s.source_id AND f.mentions <> has;
	IF NOT has OR NOT known THEN
		RETURN;
	END IF;
	IF NOT had THEN
		PERFORM rsvp_sync._webmention_baseline(s, NULL);
	END IF;
	IF given ->> 'backfill' IN ('all', 'upcoming') THEN
		PERFORM rsvp_sync._webmention_backfill(s);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._attach_webmentions(rsvp_sync._source, boolean, jsonb) IS
'private: what attach() does about webmentions, before triggers are there; of a new source the baseline follows that of its intents';

/*
 * The worker's part
 */

/*
 * What is to be asked or told next.  kind: tell, status (of one that was told),
 * or verify (one that was received).
 */
CREATE FUNCTION rsvp_sync._lease_webmentions(incarnation bigint,
	at_most integer)
RETURNS TABLE (kind text, webmention_id bigint, generation bigint,
	permalink text, target text, wanted text)
/* So its plan is kept: it is asked in every turn. */
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
BEGIN
RETURN QUERY WITH due AS MATERIALIZED (
	SELECT w.webmention_id, 'tell' AS kind
	FROM rsvp_sync._webmention w
	JOIN rsvp_sync._source s ON s.source_id = w.source_id
	WHERE w.lease IS NULL AND w.due_at <= now() AND s.state <> 'paused'
		AND NOT EXISTS (SELECT FROM rsvp_sync._pause p
			WHERE p.subject IN (rsvp_sync._site_of(w.target),
				rsvp_sync._site_of(w.endpoint)))
	ORDER BY w.due_at LIMIT at_most
	FOR UPDATE OF w SKIP LOCKED
), later AS MATERIALIZED (
	SELECT w.webmention_id, 'status' AS kind
	FROM rsvp_sync._webmention w
	JOIN rsvp_sync._source s ON s.source_id = w.source_id
	WHERE w.lease IS NULL AND w.status_due <= now() AND w.due_at IS NULL
		AND s.state <> 'paused'
		AND NOT EXISTS (SELECT FROM rsvp_sync._pause p
			WHERE p.subject = rsvp_sync._site_of(w.status_url))
	ORDER BY w.status_due
	LIMIT greatest(at_most - (SELECT count(*) FROM due), 0)
	FOR UPDATE OF w SKIP LOCKED
), received AS MATERIALIZED (
	SELECT w.received_id FROM rsvp_sync._webmention_in w
	WHERE w.lease IS NULL AND w.due_at <= now()
		AND NOT EXISTS (SELECT FROM rsvp_sync._pause p
			WHERE p.subject = rsvp_sync._site_of(w.source))
	ORDER BY w.due_at
	LIMIT greatest(at_most - (SELECT count(*) FROM due), (at_most + 1) / 2)
	FOR UPDATE OF w SKIP LOCKED
), leased AS (
	UPDATE rsvp_sync._webmention w SET lease = incarnation, tried = true
	FROM (SELECT * FROM due UNION ALL SELECT * FROM later) d
	WHERE w.webmention_id = d.webmention_id
	RETURNING d.kind, w.webmention_id, w.generation, w.permalink,
		CASE d.kind WHEN 'tell' THEN w.target ELSE w.status_url END AS target,
		w.wanted
), taken AS (
	UPDATE rsvp_sync._webmention_in w SET lease = incarnation
	FROM received r WHERE w.received_id = r.received_id
	RETURNING w.received_id, w.generation, w.source, w.target
)
SELECT l.* FROM leased l
UNION ALL
SELECT 'verify', t.received_id, t.generation, t.target, t.source, NULL
FROM taken t;
END
$$;
COMMENT ON FUNCTION rsvp_sync._lease_webmentions(bigint, integer) IS
'Leases webmentions that are due, and status pages that are to be looked at, for this incarnation of the worker.';

/* When there is something to do again, or NULL. */
CREATE FUNCTION rsvp_sync._next_webmention() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
	RETURN least(
		(SELECT w.due_at FROM rsvp_sync._webmention w
		WHERE w.lease IS NULL AND w.due_at IS NOT NULL
			AND w.due_at > now()
		ORDER BY w.due_at LIMIT 1),
		(SELECT w.status_due FROM rsvp_sync._webmention w
		WHERE w.lease IS NULL AND w.status_due IS NOT NULL
			AND w.status_due > now()
		ORDER BY w.status_due LIMIT 1),
		(SELECT w.due_at FROM rsvp_sync._webmention_in w
		WHERE w.lease IS NULL AND w.due_at IS NOT NULL
			AND w.due_at > now()
		ORDER BY w.due_at LIMIT 1));
END
$$;
COMMENT ON FUNCTION rsvp_sync._next_webmention() IS
'When the worker has to look at webmentions again without being told.';

/* What a dead incarnation had in hand is told again: that does no harm. */
CREATE FUNCTION rsvp_sync._release_webmentions(incarnation bigint)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._webmention SET lease = NULL
WHERE lease IS NOT NULL AND lease <> incarnation;
UPDATE rsvp_sync._webmention_in SET lease = NULL
WHERE lease IS NOT NULL AND lease <> incarnation
$$;
COMMENT ON FUNCTION rsvp_sync._release_webmentions(bigint) IS
'Frees webmentions that earlier incarnations leased, at the worker''s start.';

/*
 * One conversation is over.
 * how: told, no_endpoint
 *      retry   later; counted
 *      later   not before wait_ms; not counted
 *      failed  given up
 */
CREATE FUNCTION rsvp_sync._webmention_done(of_id bigint,
	of_generation bigint, said text, how text, error text,
	new_endpoint text, new_http_status integer, new_status_url text,
	wait_ms integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w rsvp_sync._webmention;
	tries integer;
BEGIN
	SELECT * INTO w FROM rsvp_sync._webmention f
	WHERE f.webmention_id = of_id FOR UPDATE;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	tries := w.attempts + (how = 'retry')::integer;
	IF how = 'retry'
		AND tries >= current_setting('rsvp_sync.max_attempts')::integer THEN
		how := 'failed';
	END IF;
	UPDATE rsvp_sync._webmention f SET lease = NULL,
		endpoint = coalesce(new_endpoint, f.endpoint),
		http_status = coalesce(new_http_status, f.http_status),
		last_error = error,
		told = CASE how WHEN 'told' THEN said ELSE f.told END,
		first_sent = CASE how WHEN 'told' THEN coalesce(f.first_sent, now())
			ELSE f.first_sent END,
		last_sent = CASE how WHEN 'told' THEN now() ELSE f.last_sent END,
		status_url = CASE how WHEN 'told' THEN new_status_url
			ELSE f.status_url END,
		status_due = CASE WHEN how = 'told' AND new_status_url IS NOT NULL
			THEN now() + least(interval '1 minute',
				current_setting('rsvp_sync.retry_max')::interval) END,
		attempts = CASE WHEN f.generation <> of_generation THEN 0
			ELSE tries END,
		state = CASE WHEN f.generation <> of_generation
				OR how IN ('retry', 'later') THEN f.state ELSE how END,
		due_at = CASE WHEN f.generation <> of_generation THEN f.due_at
			WHEN how = 'later' THEN now() + wait_ms * interval '1 millisecond'
			WHEN how = 'retry' THEN now() + greatest(rsvp_sync._backoff(
				tries - 1), wait_ms * interval '1 millisecond') END
	WHERE f.webmention_id = of_id;
	IF how IN ('told', 'failed') THEN
		INSERT INTO rsvp_sync._history (source_id, key, action, outcome,
			status, uri, detail)
		VALUES (w.source_id, w.key, 'webmention',
			CASE how WHEN 'told' THEN 'ok' ELSE how END, said, w.target,
			error);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._webmention_done(bigint, bigint, text, text, text, text, integer, text, integer) IS
'What came of telling a target.';

/* An endpoint's page about a webmention was looked at, once. */
CREATE FUNCTION rsvp_sync._webmention_seen(of_id bigint, seen integer,
	said text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._webmention w SET lease = NULL, status_due = NULL,
	status_http = seen, status_text = said
WHERE w.webmention_id = of_id
$$;
COMMENT ON FUNCTION rsvp_sync._webmention_seen(bigint, integer, text) IS
'What an endpoint says of the progress of a webmention.';

CREATE FUNCTION rsvp_sync._webmention_back(of_id bigint, received boolean)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._webmention w SET lease = NULL
WHERE w.webmention_id = of_id AND NOT received;
UPDATE rsvp_sync._webmention_in w SET lease = NULL
WHERE w.received_id = of_id AND received
$$;
COMMENT ON FUNCTION rsvp_sync._webmention_back(bigint, boolean) IS
'Ends the lease of a webmention that nothing was done about.';

/* Targets that know that a page is gone are remembered for a while. */
CREATE FUNCTION rsvp_sync._forget_webmentions() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM rsvp_sync._webmention w
WHERE w.wanted = 'gone' AND w.due_at IS NULL AND w.lease IS NULL
	AND w.status_due IS NULL AND w.removed_at
		< now() - current_setting('rsvp_sync.history_retention')::interval
$$;
COMMENT ON FUNCTION rsvp_sync._forget_webmentions() IS
'Forgets pages that have been gone for longer than history_retention.';

/*
 * For operators
 */

CREATE FUNCTION rsvp_sync._webmentions_idle(of_source bigint)
RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT current_setting('rsvp_sync.mode') <> 'live' OR rsvp_sync._copied()
	OR rsvp_sync._is_all_paused()
	OR NOT EXISTS (SELECT FROM rsvp_sync._webmention w
		JOIN rsvp_sync._source s ON s.source_id = w.source_id
		WHERE (of_source IS NULL OR w.source_id = of_source)
			AND w.due_at IS NOT NULL AND s.state <> 'paused'
			AND NOT EXISTS (SELECT FROM rsvp_sync._pause p
				WHERE p.subject IN (rsvp_sync._site_of(w.target),
					rsvp_sync._site_of(w.endpoint))))
	AND NOT EXISTS (SELECT FROM rsvp_sync._webmention_in w
		WHERE (of_source IS NULL OR w.source_id = of_source)
			AND w.due_at IS NOT NULL
			AND NOT EXISTS (SELECT FROM rsvp_sync._pause p
				WHERE p.subject = rsvp_sync._site_of(w.source)))
$$;
COMMENT ON FUNCTION rsvp_sync._webmentions_idle(bigint) IS
'Is no target of a source (NULL: of any) still to be told, and no webmention of one still to be verified?';

CREATE FUNCTION rsvp_sync._retry_webmentions(caller oid, of_source bigint,
	of_did text, of_key text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	n bigint;
BEGIN
	UPDATE rsvp_sync._webmention w SET state = 'waiting', due_at = now(),
		attempts = 0, generation = w.generation + 1
	FROM rsvp_sync._source s
	JOIN pg_class c ON c.oid = s.attendance
	WHERE w.source_id = s.source_id
		AND pg_has_role(caller, c.relowner, 'USAGE')
		AND (w.state = 'failed' OR w.due_at IS NOT NULL AND w.attempts > 0
			OR of_key IS NOT NULL AND w.state IN ('discarded', 'no_endpoint'))
		AND (of_source IS NULL OR w.source_id = of_source)
		AND (of_key IS NULL OR w.key = of_key)
		AND (of_did IS NULL OR EXISTS (SELECT FROM rsvp_sync._intent i
			WHERE i.source_id = w.source_id AND i.key = w.key
				AND i.did = of_did));
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n > 0 THEN
		INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'w');
	END IF;
	RETURN n;
END
$$;
COMMENT ON FUNCTION rsvp_sync._retry_webmentions(oid, bigint, text, text) IS
'private: has the caller''s failed and retrying webmentions told at once, of one source, DID or key where given';

CREATE FUNCTION rsvp_sync._discard_webmentions(of_source bigint, of_key text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE rsvp_sync._webmention w SET state = 'discarded'
	WHERE w.source_id = of_source AND w.key = of_key
		AND w.state = 'failed';
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION rsvp_sync._discard_webmentions(bigint, text) IS
'private: gives the failed webmentions of a key up for good; were there any?';
