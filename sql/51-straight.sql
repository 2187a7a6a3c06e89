/*
 * The straight way: a row that is new, whose user and event have no intent
 * and no record yet, whose account is listed and may be written for.  Most
 * keys are such.  What _evaluate() asks of all keys is known of them, so less
 * is read, and their intents are made by the statement that reads.  What
 * becomes of them is plan()'s decision all the same; a key of which it is
 * another one than to put a record goes the long way, as do declines, which
 * hang on what the user's consent allows.
 *
 * Each is looked up by its whole key: see _park().
 */

CREATE FUNCTION rsvp_sync._never_planned(of_source bigint, keys text[])
RETURNS text[]
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_never_planned';
COMMENT ON FUNCTION rsvp_sync._never_planned(bigint, text[]) IS
'Of these keys those that have no intent, nor one that a transaction under way is inserting or deleting.';

CREATE FUNCTION rsvp_sync._plan_straight(of_source bigint, keys text[])
RETURNS rsvp_sync._work[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
	map jsonb;
	table_owner oid;
	past_too boolean;
	made bigint;
	firsts text[];
	work rsvp_sync._work[];
BEGIN
	/* Nor may somebody else be making one: neither waits for the other. */
	firsts := rsvp_sync._never_planned(of_source, keys);
	IF firsts = '{}' OR current_setting('rsvp_sync.mode') = 'dry_run' THEN
		RETURN work;
	END IF;
	SELECT * INTO src FROM rsvp_sync._source s
	WHERE s.source_id = of_source AND s.state = 'active'
		AND s.kind <> 'explicit'
		/* Or credentials are looked for first: see _credentials_query(). */
		AND coalesce(s.options -> 'credentials', 'false') = 'false'
		AND s.shape #>> '{identity,envelope,0}' IS NULL;
	IF NOT FOUND THEN
		RETURN work;
	END IF;
	map := rsvp_sync._default_status_map(src.kind)
		|| coalesce(src.options -> 'status_map', '{}');
	table_owner := (SELECT c.relowner FROM pg_class c
		WHERE c.oid = src.attendance);
	past_too := coalesce((src.options ->> 'publish_past_events')::boolean,
		false);

	WITH wanted AS MATERIALIZED (
		/* Several of one slot have to be told apart. */
		SELECT w.*, map ->> w.status AS local,
			count(*) OVER (PARTITION BY w.did, w.event_uri) AS of_slot
		FROM rsvp_sync._desired(of_source, firsts) w
	), ready AS MATERIALIZED (
		SELECT p.*, rsvp_sync.tid_now() AS rkey, r.record,
			rsvp_sync.record_cid(r.record) AS cid
		FROM (
			SELECT w.key, w.did, w.event_uri, w.local, q.generation, q.priority,
				q.changed_at, home.pds, a.connected_at, u.authority,
				rsvp_sync._datetime(coalesce(w.created_at, q.changed_at))
					AS created,
				coalesce(CASE WHEN rsvp_sync.is_cid(w.event_cid)
					THEN w.event_cid END, (SELECT n.cid FROM rsvp_sync._event n
					WHERE n.uri = w.event_uri
						AND n.read_at > now() - interval '1 day')) AS event_cid,
				rsvp_sync.plan(ROW(
					true, NULL, 'keep', true, rsvp_sync.is_did(w.did), true,
					u.rkey IS NOT NULL AND rsvp_sync.is_did(u.authority),
					true, w.local,
					coalesce(coalesce(w.ends_at, w.starts_at) < now(), false)
						AND NOT past_too,
					q.by_network, false, true, NULL, false, NULL, NULL, NULL, NULL,
					false, false, false, false, NULL, NULL, NULL, false,
					coalesce(rsvp_sync._is_listed(w.did), false), false, a.state,
					coalesce(pg_has_role(table_owner, a.owner, 'USAGE')
						OR (SELECT true FROM rsvp_sync._account_grant g
							WHERE g.did = a.did
								AND pg_has_role(table_owner, g.grantee, 'USAGE')
							LIMIT 1), false),
					'notgoing', 'delete', 'latest', false, false, false, false
					)::rsvp_sync.situation) AS d
			FROM wanted w
			CROSS JOIN LATERAL rsvp_sync.parse_at_uri(w.event_uri) u
			CROSS JOIN LATERAL (SELECT n.* FROM rsvp_sync._queue n
				WHERE n.source_id = of_source AND n.key = w.key LIMIT 1) q
			CROSS JOIN LATERAL (SELECT n.* FROM rsvp_sync._account n
				WHERE n.did = w.did AND n.leaving IS NULL LIMIT 1) a
			CROSS JOIN LATERAL (SELECT h.* FROM rsvp_sync._home h
				WHERE h.did = w.did LIMIT 1) home
			WHERE w.of_slot = 1 AND w.withheld IS NULL
				AND w.event_uri IS NOT NULL AND w.local IN ('going', 'interested')
				AND home.pds IS NOT NULL AND NOT home.moved
				AND home.looked_at > now() - rsvp_sync._identity_fresh()
				AND (SELECT n.ctid FROM rsvp_sync._intent n
					WHERE n.did = w.did AND n.event_uri = w.event_uri
					LIMIT 1) IS NULL
				AND (SELECT n.ctid FROM rsvp_sync._observed n
					WHERE n.event_uri = w.event_uri AND n.did = w.did
					LIMIT 1) IS NULL
				AND (SELECT n.ctid FROM rsvp_sync._forgotten n
					WHERE n.digest = sha256(convert_to(w.did, 'UTF8'))) IS NULL
			OFFSET 0) p
		CROSS JOIN LATERAL (SELECT rsvp_sync._rsvp_record(NULL, p.event_uri,
			p.event_cid, (p.d).send, p.created) OFFSET 0) r (record)
		WHERE (p.d).action = 'put' AND p.event_cid IS NOT NULL
	), put AS (
		INSERT INTO rsvp_sync._intent (source_id, key, did, event_uri, live,
			local, local_at, first_local, rkey, record_created_at, sent_cids,
			sent_local, doubt, state, reason_code, reason, writeback_at)
		SELECT of_source, r.key, r.did, r.event_uri, true, r.local,
			r.changed_at, r.local, r.rkey, r.created, ARRAY[r.cid],
			(r.d).send, true, 'waiting', 'queued',
			'The row waits to be looked at.', now()
		FROM ready r
		ON CONFLICT (source_id, key) DO NOTHING
		RETURNING 1
	)
	SELECT array_agg(ROW(of_source, r.key, r.generation, 'put', NULL, NULL,
		r.did, r.pds, r.rkey, r.record::text, r.cid, NULL, true, r.event_uri,
		r.authority, NULL, (r.d).send,
		false, r.connected_at::text, r.priority)::rsvp_sync._work),
		(SELECT count(*) FROM put)
	INTO work, made
	FROM ready r;
	IF made < cardinality(work) THEN
		/* Others were, at this very moment. */
		SELECT array_agg(w) INTO work FROM unnest(work) w
		WHERE (SELECT n.rkey FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = w.key) = w.rkey;
	END IF;

	IF src.mentions AND work IS NOT NULL THEN
		PERFORM rsvp_sync._note_webmentions(of_source,
			ARRAY(SELECT w.key FROM unnest(work) w));
	END IF;
	RETURN work;
END
$$;
COMMENT ON FUNCTION rsvp_sync._plan_straight(bigint, text[]) IS
'Plans those of leased keys for which nothing was ever written and nothing is in the way, as _plan_keys() would; the calls to be made, NULL if there are none such.';
