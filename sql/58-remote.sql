/*
 * What is read from other people's servers: the records of an account by the
 * caller's own session, because he wants to know them now; and by the worker,
 * in visits to accounts (src/verify.c), what has to be verified before it is
 * believed, and what may have been missed.
 */

/*
 * list_rsvps()
 */

/*
 * Where to ask for an account's records.  fresh: its DID document was looked
 * at a moment ago; else this serves only if the document cannot be had.
 */
CREATE FUNCTION rsvp_sync._whereabouts(of_did text,
	OUT pds text, OUT fresh boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(h.pds, a.pds),
	coalesce(h.looked_at > now() - rsvp_sync._identity_fresh(), false)
FROM (VALUES (of_did)) d (did)
LEFT JOIN rsvp_sync._home h ON h.did = d.did
LEFT JOIN rsvp_sync._account a ON a.did = d.did
$$;
COMMENT ON FUNCTION rsvp_sync._whereabouts(text) IS
'private: the PDS of a DID as far as it is known, and whether that is fresh';

/* createdAt, as the record has it. */
CREATE FUNCTION rsvp_sync._stated_time(record jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN rsvp_sync.is_datetime(record ->> 'createdAt')
		THEN (record ->> 'createdAt')::timestamptz END;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._stated_time(jsonb) IS
'private: createdAt of a record as a time; NULL where it has none';

/* The uri is made of what was asked for, not taken from the answer. */
CREATE FUNCTION rsvp_sync._listed(of_did text, records jsonb)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._rsvp_uri(of_did, r.rkey), e.item ->> 'cid', r.rkey,
	rsvp_sync._subject_uri(e.item -> 'value'),
	coalesce(rsvp_sync._status_word(e.item -> 'value'),
		e.item -> 'value' ->> 'status'),
	rsvp_sync._stated_time(e.item -> 'value')
FROM jsonb_array_elements(records) WITH ORDINALITY AS e (item, n)
CROSS JOIN LATERAL rsvp_sync.parse_at_uri(e.item ->> 'uri') r
ORDER BY e.n
$$;
COMMENT ON FUNCTION rsvp_sync._listed(text, jsonb) IS
'private: records as listRecords gave them, as list_rsvps() shows them';

CREATE FUNCTION rsvp_sync._list_rsvps(caller oid, did text)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'rsvp_sync_list_rsvps_of';
COMMENT ON FUNCTION rsvp_sync._list_rsvps(oid, text) IS
'private: list_rsvps() behind its entry';

CREATE FUNCTION rsvp_sync.list_rsvps(did text)
RETURNS TABLE (uri text, cid text, rkey text, event_uri text, status text,
	created_at timestamptz)
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_list_rsvps';
COMMENT ON FUNCTION rsvp_sync.list_rsvps(text) IS
'All RSVP records of an account, whoever wrote them, as its own PDS has them now: com.atproto.repo.listRecords, every page, by this session, without credentials. The one call that waits for the network: request_timeout for the whole of it, and a cancelled query ends it. status: going, interested, notgoing, or an unknown token as it is. Errors: invalid_parameter_value, null_value_not_allowed (no DID); undefined_object (no such account); feature_not_supported (another kind of DID); object_not_in_prerequisite_state (deactivated, taken down); sqlclient_unable_to_establish_sqlconnection, connection_failure (no answer); configuration_limit_exceeded (rate limit); insufficient_privilege (address not allowed); protocol_violation, program_limit_exceeded (an answer of no use).';

/*
 * Visits
 */

/* The worker is told, whoever puts something in. */
CREATE TRIGGER wake AFTER INSERT OR UPDATE OF due_at ON rsvp_sync._reading
FOR EACH STATEMENT EXECUTE FUNCTION rsvp_sync._wake();
CREATE TRIGGER wake AFTER INSERT ON rsvp_sync._inbound
FOR EACH STATEMENT EXECUTE FUNCTION rsvp_sync._wake();

/* For how long a visit is believed to be under way. */
CREATE FUNCTION rsvp_sync._visit_lease() RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN interval '5 minutes';
COMMENT ON FUNCTION rsvp_sync._visit_lease() IS
'private: after which time a visit to an account of which nothing was heard is made again';

/*
 * Accounts are read at a rate that nobody minds: spread is the time that all
 * of them together may take, at most.
 */
CREATE FUNCTION rsvp_sync._read_remote(dids text[], because text,
	spread interval DEFAULT '1 hour', later interval DEFAULT '0')
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO rsvp_sync._reading AS r (did, due_at, why)
SELECT u.did, now() + later + least(interval '50 milliseconds' * (u.n - 1),
	spread * (u.n - 1) / u.total), because
FROM (SELECT d.did, row_number() OVER (ORDER BY md5(d.did)) AS n,
		count(*) OVER () AS total
	FROM (SELECT DISTINCT unnest(dids) AS did) d
	WHERE rsvp_sync.is_did(d.did)
		AND NOT EXISTS (SELECT FROM rsvp_sync._forgotten f
			WHERE f.digest = sha256(convert_to(d.did, 'UTF8')))
	ORDER BY d.did) u
ON CONFLICT (did) DO UPDATE SET
	due_at = least(r.due_at, excluded.due_at), why = excluded.why,
	attempts = 0, last_error = NULL,
	/* Not only what was written since is to be seen. */
	head = CASE WHEN because IN ('reconcile', 'gap') THEN r.head END
$$;
COMMENT ON FUNCTION rsvp_sync._read_remote(text[], text, interval, interval) IS
'private: has accounts listed anew from their own PDS; reconcile and gap: unless nothing was written there since the last time';

/* After a restart nothing is under way. */
CREATE FUNCTION rsvp_sync._visits_take_over() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._inbound b SET due_at = now()
WHERE b.state = 'verify' AND b.due_at > now();
UPDATE rsvp_sync._reading r SET due_at = now()
WHERE r.due_at > now() AND r.due_at <= now() + rsvp_sync._visit_lease()
$$;
COMMENT ON FUNCTION rsvp_sync._visits_take_over() IS
'private: has visits that an earlier worker was about made again';

/*
 * When the next visit becomes due.  What is due already was taken just now,
 * or waits for a visit under way.
 */
CREATE FUNCTION rsvp_sync._visits_next_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
BEGIN
	RETURN least((SELECT min(b.due_at) FROM rsvp_sync._inbound b
			WHERE b.state = 'verify' AND b.due_at > now()),
		(SELECT min(r.due_at) FROM rsvp_sync._reading r
		WHERE r.due_at > now()));
END
$$;
COMMENT ON FUNCTION rsvp_sync._visits_next_due() IS
'private: when an account is to be visited next';

/* What is due at some later time is not awaited, but what is tried again is. */
CREATE FUNCTION rsvp_sync._visits_idle() RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
/* A server of strangers' that does not answer is nobody's to wait for. */
SELECT NOT EXISTS (SELECT FROM rsvp_sync._inbound b
		WHERE b.state = 'verify' AND b.last_error IS NULL)
	AND NOT EXISTS (SELECT FROM rsvp_sync._reading r
		/* Whoever waits for it does so in one transaction. */
		WHERE r.due_at <= clock_timestamp() + rsvp_sync._visit_lease()
			AND r.last_error IS NULL)
$$;
COMMENT ON FUNCTION rsvp_sync._visits_idle() IS
'private: is no account to be visited now, or in the next minutes? Those that could not be are left out.';

/*
 * Accounts to visit now, of those that are not being visited.  What waits to
 * be verified goes first, and takes along a listing that is due anyway.
 */
CREATE FUNCTION rsvp_sync._visits_due(busy text[], urgent_ones integer,
	others integer)
RETURNS TABLE (did text, pds text, urgent boolean, list boolean, head text,
	rkeys text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
	chosen text[];
	more text[];
BEGIN
	IF NOT EXISTS (SELECT FROM rsvp_sync._inbound b
			WHERE b.state = 'verify' AND b.due_at <= now())
		AND NOT EXISTS (SELECT FROM rsvp_sync._reading r
			WHERE r.due_at <= now())
	THEN
		RETURN;
	END IF;
	chosen := ARRAY(SELECT w.did FROM (
			SELECT b.did, min(b.due_at) AS due_at FROM (
				SELECT i.did, i.due_at FROM rsvp_sync._inbound i
				WHERE i.state = 'verify' AND i.due_at <= now()
					AND i.did <> ALL (busy)
				ORDER BY i.due_at LIMIT 10 * urgent_ones) b
			GROUP BY b.did) w
		ORDER BY w.due_at LIMIT urgent_ones);
	more := ARRAY(SELECT r.did FROM rsvp_sync._reading r
		WHERE r.due_at <= now() AND r.did <> ALL (busy || chosen)
		ORDER BY r.due_at LIMIT others);
	RETURN QUERY
	WITH verifying AS (
		UPDATE rsvp_sync._inbound b
		SET due_at = now() + rsvp_sync._visit_lease()
		WHERE b.state = 'verify' AND b.due_at <= now()
			AND b.did = ANY (chosen || more)
		RETURNING b.did, b.rkey
	), reading AS (
		UPDATE rsvp_sync._reading r
		SET due_at = now() + rsvp_sync._visit_lease()
		WHERE r.due_at <= now() AND r.did = ANY (chosen || more)
		RETURNING r.did, r.head
	)
	SELECT v.did, CASE WHEN h.looked_at > now() - interval '1 hour'
			THEN h.pds END,
		v.did = ANY (chosen), r.did IS NOT NULL, r.head,
		ARRAY(SELECT b.rkey FROM verifying b WHERE b.did = v.did)
	FROM unnest(chosen || more) AS v (did)
	LEFT JOIN reading r ON r.did = v.did
	LEFT JOIN rsvp_sync._home h ON h.did = v.did
	WHERE r.did IS NOT NULL
		OR EXISTS (SELECT FROM verifying b WHERE b.did = v.did);
END
$$;
COMMENT ON FUNCTION rsvp_sync._visits_due(text[], integer, integer) IS
'private: accounts to be visited now, whether all of their records are wanted, and which are in question; pds NULL: the DID document is to be looked at first';

/* What an account's own server says of it. */
CREATE FUNCTION rsvp_sync._repo_says(of_did text, is_active boolean,
	what text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO rsvp_sync._repo AS r (did, active, status, time_us)
	SELECT of_did, is_active, what, rsvp_sync._us_of(clock_timestamp())
	WHERE NOT is_active
		OR EXISTS (SELECT FROM rsvp_sync._repo o WHERE o.did = of_did)
	ON CONFLICT (did) DO UPDATE SET active = excluded.active,
		status = excluded.status, time_us = excluded.time_us, seen_at = now()
	WHERE (r.active, r.status) IS DISTINCT FROM (is_active, what);
	IF what = 'deleted' THEN
		PERFORM rsvp_sync._purge_account(of_did);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._repo_says(text, boolean, text) IS
'private: notes what an account''s own PDS says of it; of one that is deleted nothing is kept';

/* A try of what is due again later. */
CREATE FUNCTION rsvp_sync._visit_failed(of_did text, of_rkeys text[],
	message text, not_before interval, counted boolean)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._inbound b SET
	attempts = b.attempts + counted::integer, last_error = message,
	due_at = now() + greatest(not_before, CASE WHEN counted
		THEN rsvp_sync._backoff(b.attempts) ELSE not_before END),
	state = CASE WHEN counted AND b.attempts + 1
			>= current_setting('rsvp_sync.max_attempts')::integer
		THEN 'failed' ELSE b.state END
WHERE b.did = of_did AND b.state = 'verify' AND b.rkey = ANY (of_rkeys)
$$;
COMMENT ON FUNCTION rsvp_sync._visit_failed(text, text[], text, interval, boolean) IS
'private: records could not be verified; when that is tried again';

/* Listing is tried for ever, more and more seldom. */
CREATE FUNCTION rsvp_sync._reading_failed(of_did text, message text,
	not_before interval, counted boolean)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._reading r SET
	attempts = r.attempts + counted::integer, last_error = message,
	due_at = now() + greatest(not_before, CASE WHEN counted
		THEN rsvp_sync._backoff(r.attempts) ELSE not_before END)
WHERE r.did = of_did AND r.due_at IS NOT NULL
$$;
COMMENT ON FUNCTION rsvp_sync._reading_failed(text, text, interval, boolean) IS
'private: an account could not be listed; when that is tried again';

/* The whole of a visit. */
CREATE FUNCTION rsvp_sync._visit_again(of_did text, findings jsonb,
	message text, not_before interval, counted boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM rsvp_sync._visit_failed(of_did, ARRAY(
		SELECT jsonb_array_elements_text(findings -> 'rkeys')), message,
		not_before, counted);
	IF (findings ->> 'list')::boolean THEN
		PERFORM rsvp_sync._reading_failed(of_did, message, not_before,
			counted);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._visit_again(text, jsonb, text, interval, boolean) IS
'private: a visit did not come to its end; when it is made again';

CREATE FUNCTION rsvp_sync._count_inbound_error(kind text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT rsvp_sync._count(jsonb_build_array(jsonb_build_object(
	'name', 'rsvp_sync_errors_total', 'value', 1,
	'direction', 'inbound', 'error_type', kind)))
$$;
COMMENT ON FUNCTION rsvp_sync._count_inbound_error(text) IS
'private: counts an error of what came from the network';

/*
 * One record that was in question.  Something newer may have come while it
 * was asked for; and a server that the account has left may have said so.
 */
CREATE FUNCTION rsvp_sync._verified(of_did text, of_rkey text, new_cid text,
	value jsonb, asked timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	was rsvp_sync._observed;
	absent boolean := new_cid IS NULL AND coalesce(value = 'null', true);
	wrong text := CASE WHEN absent THEN NULL
		WHEN value ->> '$type' IS DISTINCT FROM 'community.lexicon.calendar.rsvp'
		THEN 'wrong_type'
		WHEN new_cid <> rsvp_sync.record_cid(value) THEN 'wrong_cid' END;
BEGIN
	SELECT * INTO was FROM rsvp_sync._observed o
	WHERE o.did = of_did AND o.rkey = of_rkey;
	IF was.seen_at > asked AND was.cid IS DISTINCT FROM new_cid THEN
		PERFORM rsvp_sync._visit_failed(of_did, ARRAY[of_rkey], NULL, '0',
			false);
	ELSIF wrong IS NOT NULL THEN
		PERFORM rsvp_sync._count_inbound_error(wrong);
		PERFORM rsvp_sync._visit_failed(of_did, ARRAY[of_rkey], CASE wrong
			WHEN 'wrong_cid' THEN 'wrong_cid: the record does not have the cid that its server claims'
			ELSE 'wrong_type: the record is no RSVP' END, '0', true);
	ELSIF absent AND rsvp_sync._look_again(of_did) THEN
		PERFORM rsvp_sync._visit_failed(of_did, ARRAY[of_rkey], NULL, '0',
			false);
	ELSE
		IF absent AND was.cid IS NOT NULL THEN
			PERFORM rsvp_sync._count_inbound_error('not_confirmed');
		END IF;
		PERFORM rsvp_sync._inbound_settle(of_did, of_rkey, new_cid,
			CASE WHEN NOT absent THEN value END, NULL, absent);
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._verified(text, text, text, jsonb, timestamptz) IS
'private: what the author''s PDS has under a record key; neither cid nor value: nothing';

/* Its document was looked at some time ago: it may have moved since. */
CREATE FUNCTION rsvp_sync._look_again(of_did text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE rsvp_sync._identity i SET looked_at = '-infinity'
	WHERE i.did = of_did
		AND i.looked_at <= now() - rsvp_sync._identity_fresh();
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION rsvp_sync._look_again(text) IS
'private: has the DID document looked at again, unless that has been done just now';

/*
 * All records of an account.  Of one that neither we nor an attendance row
 * have anything to do with, only what is about an event that is known here.
 */
CREATE FUNCTION rsvp_sync._read_listed(of_did text, records jsonb,
	of_pds text, asked timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ours jsonb := records;
	others jsonb := '[]';
	/* No news by themselves, but true now, or not. */
	doubted text[] := ARRAY(SELECT DISTINCT o.event_uri
		FROM rsvp_sync._observed o
		WHERE o.did = of_did AND NOT o.verified AND o.event_uri IS NOT NULL);
BEGIN
	IF NOT EXISTS (SELECT FROM rsvp_sync._account a WHERE a.did = of_did) THEN
		WITH known AS MATERIALIZED (
			SELECT DISTINCT k.uri FROM rsvp_sync._knowing(ARRAY(
				SELECT DISTINCT rsvp_sync._subject_uri(e -> 'value')
				FROM jsonb_array_elements(records) e
				WHERE rsvp_sync._is_record_of_did(
					rsvp_sync._subject_uri(e -> 'value'))), NULL) k
		), sorted AS (
			SELECT e, rsvp_sync._subject_uri(e -> 'value') IN (
					SELECT k.uri FROM known k)
				OR EXISTS (SELECT FROM rsvp_sync._observed o
					WHERE o.did = of_did AND o.rkey
						= (rsvp_sync.parse_at_uri(e ->> 'uri')).rkey)
				OR EXISTS (SELECT FROM rsvp_sync._intent i
					WHERE i.did = of_did AND i.event_uri
						= rsvp_sync._subject_uri(e -> 'value')) AS wanted
			FROM jsonb_array_elements(records) e
		)
		SELECT coalesce(jsonb_agg(s.e) FILTER (WHERE s.wanted), '[]'),
			coalesce(jsonb_agg(s.e) FILTER (WHERE s.wanted IS NOT TRUE), '[]')
		INTO ours, others FROM sorted s;
	END IF;
	PERFORM rsvp_sync._list_done(of_did, ours, of_pds, asked);
	PERFORM rsvp_sync._merge_learnt(of_did, doubted);
	/* That they are there, should their events turn up. */
	PERFORM rsvp_sync._ingest('list', array_agg(of_did),
		array_agg(NULL::text), array_agg('update'::text),
		array_agg((rsvp_sync.parse_at_uri(e ->> 'uri')).rkey),
		array_agg(e ->> 'cid'), array_agg((e -> 'value')::text),
		array_agg(NULL::bigint), true)
	FROM jsonb_array_elements(others) e
	HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_listed(text, jsonb, text, timestamptz) IS
'private: takes in what listRecords gave of an account, all pages';

/* Why a PDS does not show a repository, in Jetstream's words; or NULL. */
CREATE FUNCTION rsvp_sync._repo_status(code text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE code WHEN 'RepoNotFound' THEN 'deleted'
	WHEN 'RepoDeactivated' THEN 'deactivated'
	WHEN 'RepoTakendown' THEN 'takendown'
	WHEN 'RepoSuspended' THEN 'suspended'
	WHEN 'no_account' THEN 'deleted' END
$$;
COMMENT ON FUNCTION rsvp_sync._repo_status(text) IS
'private: the state of an account that an error of its server''s, or of the directory, tells of';

/*
 * What came of a visit.  findings: list (all records were wanted), unchanged,
 * head, records (all of them), rkeys (in question), read (of these, what was
 * fetched by itself: rkey, cid, value).  code: why it did not come to its end.
 */
CREATE FUNCTION rsvp_sync._visited(of_did text, of_pds text, findings jsonb,
	asked timestamptz, code text, message text, wait_ms bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rkeys text[] := ARRAY(SELECT jsonb_array_elements_text(findings -> 'rkeys'));
	gone text := rsvp_sync._repo_status(code);
	wait interval := wait_ms * interval '1 millisecond';
BEGIN
	IF of_pds IS DISTINCT FROM rsvp_sync._pds_of(of_did)
		AND of_pds IS NOT NULL THEN
		/* It has moved meanwhile: what the old server says means nothing. */
		PERFORM rsvp_sync._visit_again(of_did, findings, NULL, '0', false);
		RETURN;
	END IF;
	IF gone IS NOT NULL AND of_pds IS NOT NULL
		AND rsvp_sync._look_again(of_did) THEN
		PERFORM rsvp_sync._visit_again(of_did, findings, NULL, '0', false);
		RETURN;
	END IF;
	PERFORM rsvp_sync._verified(of_did, r ->> 'rkey', r ->> 'cid',
		r -> 'value', asked)
	FROM jsonb_array_elements(findings -> 'read') r;

	IF gone IS NOT NULL THEN
		PERFORM rsvp_sync._repo_says(of_did, false, gone);
		/* Nobody says what it would have said. */
		PERFORM rsvp_sync._count_inbound_error('not_confirmed')
		FROM rsvp_sync._inbound b
		WHERE b.did = of_did AND b.state = 'verify' AND b.rkey = ANY (rkeys);
		DELETE FROM rsvp_sync._inbound b
		WHERE b.did = of_did AND b.state = 'verify' AND b.rkey = ANY (rkeys);
		UPDATE rsvp_sync._reading r SET due_at = NULL, head = NULL,
			attempts = 0, last_error = code || ': ' || message
		WHERE r.did = of_did;
		RETURN;
	ELSIF code IS NOT NULL THEN
		PERFORM rsvp_sync._look_again(of_did);
		PERFORM rsvp_sync._visit_again(of_did, findings,
			code || ': ' || message,
			CASE WHEN code IN ('host_unreachable', 'rate_limited', 'paused')
				THEN interval '5 seconds' * (1 + random()) ELSE wait END,
			code NOT IN ('host_unreachable', 'rate_limited', 'paused'));
		RETURN;
	END IF;

	PERFORM rsvp_sync._repo_says(of_did, true, NULL);
	IF findings ? 'records' THEN
		PERFORM rsvp_sync._read_listed(of_did, findings -> 'records', of_pds,
			asked);
		PERFORM rsvp_sync._verified(of_did, k, e.r ->> 'cid', e.r -> 'value',
			asked)
		FROM unnest(rkeys) k
		LEFT JOIN LATERAL (SELECT r FROM jsonb_array_elements(
				findings -> 'records') r
			WHERE (rsvp_sync.parse_at_uri(r ->> 'uri')).rkey = k
			LIMIT 1) e ON true;
	END IF;
	IF findings ? 'head' THEN
		UPDATE rsvp_sync._reading r SET due_at = NULL, attempts = 0,
			last_error = NULL, head = findings ->> 'head', listed_at = now()
		WHERE r.did = of_did;
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._visited(text, text, jsonb, timestamptz, text, text, bigint) IS
'private: what an account''s own PDS says, into observed and on to the rows';

/*
 * reconcile() with the network
 */

/* How often the accounts of a source are to be read; NULL: never. */
CREATE FUNCTION rsvp_sync._read_interval(options jsonb) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	value jsonb := options -> 'read_remote';
	every interval;
BEGIN
	BEGIN
		every := CASE WHEN value = 'true' THEN interval '0'
			WHEN jsonb_typeof(value) = 'string'
			THEN (value #>> '{}')::interval END;
	EXCEPTION WHEN data_exception THEN
		every := interval '-1';
	END;
	IF every < interval '0' THEN
		PERFORM rsvp_sync._bad_option('read_remote', value,
			'It is true, false, or an interval such as "1 day".');
	END IF;
	RETURN every;
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_interval(jsonb) IS
'private: option read_remote: how old what was read from an account may be at least; NULL: accounts are not read';

/* The accounts of its rows, and those it might speak for. */
CREATE FUNCTION rsvp_sync._read_source(src rsvp_sync._source) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	every interval := rsvp_sync._read_interval(src.options);
BEGIN
	IF every IS NULL OR src.state <> 'active' THEN
		RETURN;
	END IF;
	PERFORM rsvp_sync._read_remote(array_agg(d.did), 'reconcile')
	FROM (SELECT i.did FROM rsvp_sync._intent i
		WHERE i.source_id = src.source_id AND i.did IS NOT NULL
		UNION
		SELECT a.did FROM rsvp_sync._account a
		WHERE rsvp_sync._may_speak(src.attendance, a.did)) d
	WHERE NOT EXISTS (SELECT FROM rsvp_sync._reading r
		WHERE r.did = d.did AND r.listed_at > now() - every
			AND every > interval '0')
	HAVING count(*) > 0;
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_source(rsvp_sync._source) IS
'private: option read_remote: has the accounts of a source read from their own PDS';
