/*
 * Planning: the pure plan(), and what a key's situation is.
 *
 * _evaluate() reads desired, intent, observed and account as they are now and
 * asks plan() about each key.  It changes nothing, so preview() and
 * reconcile() use it as the worker does.
 */

CREATE TYPE rsvp_sync.situation AS (
	present boolean, withheld text, on_withheld text, has_did boolean,
	did_valid boolean, has_event boolean, event_valid boolean,
	mapped boolean, local text, past boolean, by_network boolean,
	known boolean, same_slot boolean, bond text, wrote boolean,
	base_local text, base_cid text, sent_local text, first_local text,
	doubt boolean, rival boolean, heir boolean,
	remote_known boolean, remote_rkey text, remote_cid text,
	remote_status text, remote_sent boolean, listed boolean,
	local_newer boolean, account text, granted boolean,
	on_cancel text, on_delete text, conflict text,
	detaching boolean, truncated boolean, approved boolean,
	over_limit boolean
);
COMMENT ON TYPE rsvp_sync.situation IS
'One attendance key as plan() sees it: desired, intent, observed, account, options. NULL booleans count as false.';

CREATE TYPE rsvp_sync.decision AS (
	action text, state text, reason_code text, send text, bond text,
	rkey text, swap text, base_local text, base_cid text,
	confirmed boolean, withdraws boolean, live boolean
);
COMMENT ON TYPE rsvp_sync.decision IS
'What plan() decided: action is none, list, read, put, delete, forget, handover, wait or hold.';

CREATE FUNCTION rsvp_sync.plan(situation rsvp_sync.situation)
RETURNS rsvp_sync.decision
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'rsvp_sync_plan';
COMMENT ON FUNCTION rsvp_sync.plan(rsvp_sync.situation) IS
'Decide what makes desired, intent and observed agree. Pure: no clock, no table. See docs/architecture.md, "Slot, bond, base".';

/* Application SQL; see src/owner.c. */
CREATE FUNCTION rsvp_sync._desired(source_id bigint, keys text[])
RETURNS TABLE (key text, did text, event_uri text, status text,
	withheld text, on_withheld text, event_cid text,
	created_at timestamptz, starts_at timestamptz, ends_at timestamptz,
	event_url text, permalink text)
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_desired';
COMMENT ON FUNCTION rsvp_sync._desired(bigint, text[]) IS
'Rows of a source''s desired query for these keys (NULL: all), run as the table''s owner, security-restricted.';

CREATE FUNCTION rsvp_sync._describe_query(relation regclass, query text,
	search_path text)
RETURNS TABLE (name text, type oid)
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_describe_query';
COMMENT ON FUNCTION rsvp_sync._describe_query(regclass, text, text) IS
'Columns a query returns, found by preparing it as the table''s owner under this search_path.';

CREATE FUNCTION rsvp_sync._explain_key(source_id bigint) RETURNS text
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_explain_key';
COMMENT ON FUNCTION rsvp_sync._explain_key(bigint) IS
'The plan by which one key of the source would be looked up.';

CREATE FUNCTION rsvp_sync._dependent_keys(source_id bigint, dep integer,
	value text)
RETURNS TABLE (key text)
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_dependent_keys';
COMMENT ON FUNCTION rsvp_sync._dependent_keys(bigint, integer, text) IS
'Keys of the attendance rows that depend on this row of another table.';

CREATE FUNCTION rsvp_sync._log_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'rsvp_sync_log_change';
COMMENT ON FUNCTION rsvp_sync._log_change() IS
'Row trigger of attached tables: remembers the key until the transaction commits.';

CREATE FUNCTION rsvp_sync._log_truncate() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'rsvp_sync_log_truncate';
COMMENT ON FUNCTION rsvp_sync._log_truncate() IS
'TRUNCATE trigger of attached tables: leaves one marker in the change log.';

CREATE FUNCTION rsvp_sync._wake() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'rsvp_sync_wake';
COMMENT ON FUNCTION rsvp_sync._wake() IS
'Wakes the worker once this transaction has committed.';

CREATE FUNCTION rsvp_sync._source_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'rsvp_sync_source_changed';
COMMENT ON FUNCTION rsvp_sync._source_changed() IS
'Tells every process that a source''s query may be another.';

CREATE TRIGGER source_changed
AFTER UPDATE OF desired, apply, search_path, shape, options
ON rsvp_sync._source
FOR EACH STATEMENT EXECUTE FUNCTION rsvp_sync._source_changed();

CREATE TRIGGER wake AFTER INSERT ON rsvp_sync._change_log
FOR EACH STATEMENT EXECUTE FUNCTION rsvp_sync._wake();

CREATE FUNCTION rsvp_sync._pending_in_transaction() RETURNS boolean
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'rsvp_sync_pending_in_transaction';
COMMENT ON FUNCTION rsvp_sync._pending_in_transaction() IS
'Has this transaction put keys in that only its commit will show?';

/* The RSVP value of a record, or NULL for a token we do not know. */
CREATE FUNCTION rsvp_sync._status_word(record jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN substring(record ->> 'status',
	'^(?:[a-zA-Z0-9.-]+#)?(going|interested|notgoing)$');
COMMENT ON FUNCTION rsvp_sync._status_word(jsonb) IS
'going, interested or notgoing of an RSVP record; NULL: unknown token.';

/* The event of a record; a bare string is tolerated as subject. */
CREATE FUNCTION rsvp_sync._subject_uri(record jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	uri text := CASE jsonb_typeof(record -> 'subject')
		WHEN 'string' THEN record ->> 'subject'
		WHEN 'object' THEN record -> 'subject' ->> 'uri' END;
BEGIN
	RETURN CASE WHEN length(uri) <= 2000 THEN uri END;
END
$$;
COMMENT ON FUNCTION rsvp_sync._subject_uri(jsonb) IS
'at-uri of the event an RSVP record is about; NULL where it is longer than an index takes (2000 characters), which no event''s is.';

CREATE FUNCTION rsvp_sync._datetime(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN at >= '0001-01-01 00:00:00+00'
		AND at < '10000-01-01 00:00:00+00'
	THEN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END;
COMMENT ON FUNCTION rsvp_sync._datetime(timestamptz) IS
'A datetime as AT Protocol records have it: UTC, milliseconds; NULL for what they cannot say (infinity, years of other than four digits).';

/* Sentences for the stable reason codes. */
CREATE FUNCTION rsvp_sync._reason(code text, detail text DEFAULT NULL)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(CASE code
	WHEN 'published' THEN 'The record on the network agrees with this row.'
	WHEN 'withdrawn' THEN 'The record has been removed from the network.'
	WHEN 'deleted_elsewhere' THEN 'The user deleted the record elsewhere; it is published again when the status changes.'
	WHEN 'changed_elsewhere' THEN 'The user changed the record elsewhere; it is left as it is.'
	WHEN 'remote_newer' THEN 'The record was changed elsewhere later than this row.'
	WHEN 'from_network' THEN 'This status came from the network.'
	WHEN 'no_did' THEN 'The user of this row has no DID.'
	WHEN 'invalid_did' THEN 'What the query gives as DID is not a DID.'
	WHEN 'no_event_uri' THEN 'The event of this row has no at-uri.'
	WHEN 'invalid_event_uri' THEN 'What the query gives as event_uri is not the at-uri of a record.'
	WHEN 'unmapped_status' THEN format('The status %L is an unmapped status: option status_map says nothing of it.', left(detail, 200))
	WHEN 'status_not_published' THEN format('The status %L is not published.', left(detail, 200))
	WHEN 'past_event' THEN 'The event is over (past event); option publish_past_events is off.'
	WHEN 'superseded' THEN 'Another row speaks for this user and event.'
	WHEN 'moved' THEN 'The row moved to another event or user; the old record is withdrawn first.'
	WHEN 'row_deleted' THEN 'The attendance row is gone.'
	WHEN 'detaching' THEN 'The source is being detached.'
	WHEN 'not_backfilled' THEN 'The row was there before attach() and has not changed since.'
	WHEN 'never_published' THEN 'Nothing was published for this row, so there is nothing to decline.'
	WHEN 'no_account' THEN 'No account is connected for this DID.'
	WHEN 'account_not_granted' THEN 'The account belongs to another role, which has not granted it to the owner of this table.'
	WHEN 'needs_login' THEN 'The user has to sign in again.'
	WHEN 'scope_missing' THEN 'The user has not consented to this change when signing in; ask for the scope repo:community.lexicon.calendar.rsvp.'
	WHEN 'wrong_password' THEN 'The PDS refuses the password of this account.'
	WHEN 'deactivated' THEN 'The account is deactivated.'
	WHEN 'takendown' THEN 'The account was taken down by its PDS.'
	WHEN 'leaving' THEN 'The account is being disconnected, and its records are withdrawn.'
	WHEN 'forgotten' THEN 'The user asked to be forgotten; nothing is published until the account is connected anew.'
	WHEN 'truncated' THEN 'The table was truncated; approve_withdrawals() lets the withdrawals pass.'
	WHEN 'withdraw_limit' THEN 'More withdrawals than withdraw_limit allows; approve_withdrawals() lets them pass.'
	WHEN 'event_not_public' THEN 'The event is not public.'
	WHEN 'not_connected' THEN 'The user has not connected Bluesky.'
	WHEN 'opted_out' THEN 'The user does not want RSVPs to be published.'
	WHEN 'skipped' THEN 'The application asked not to publish this row.'
	WHEN 'shadow_account' THEN 'The user is a shadow of an account elsewhere.'
	WHEN 'deleted_user' THEN 'The user was deleted.'
	WHEN 'no_identity' THEN 'The user has no AT Protocol identity.'
	WHEN 'event_not_found' THEN 'The organiser''s PDS has no such event record.'
	WHEN 'dry_run' THEN 'rsvp_sync.mode is dry_run: what would be sent is in the history.'
	WHEN 'mode_off' THEN 'rsvp_sync.mode is off.'
	WHEN 'copied' THEN 'This database is a copy; activate() lets it send.'
	WHEN 'source_paused' THEN 'The source is paused.'
	WHEN 'paused' THEN 'Paused by pause(); resume() lets it go on.'
	WHEN 'host_unreachable' THEN 'The server does not answer; it is asked every few seconds, and no try is used up.'
	WHEN 'rate_limited' THEN 'The rate limit leaves nothing to spend now.'
	WHEN 'source_broken' THEN 'The source''s query does not run.'
	WHEN 'queued' THEN 'The row waits to be looked at.'
	WHEN 'sending' THEN 'A request for this row is under way.'
	WHEN 'retrying' THEN 'The last try failed; another one follows.'
	WHEN 'failed' THEN 'Given up; retry() tries again.'
	WHEN 'unsupported_identifier' THEN 'Only accounts of did:plc, or did:web without a path or port, can be written to; this is not one:'
	WHEN 'discarded' THEN 'Given up for good by discard(); a change of the row tries again.'
	ELSE code END, '')
	|| CASE WHEN detail IS NOT NULL
		AND code NOT IN ('unmapped_status', 'status_not_published')
		THEN ' ' || detail ELSE '' END
$$;
COMMENT ON FUNCTION rsvp_sync._reason(text, text) IS
'The sentence for a reason code.';

/* May the owner of this attendance table speak for the account? */
CREATE FUNCTION rsvp_sync._may_speak(attendance regclass, account_did text)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT EXISTS (
	SELECT FROM pg_class c, rsvp_sync._account a
	WHERE c.oid = attendance AND a.did = account_did
		AND (pg_has_role(c.relowner, a.owner, 'USAGE')
			OR EXISTS (SELECT FROM rsvp_sync._account_grant g
				WHERE g.did = a.did
					AND pg_has_role(c.relowner, g.grantee, 'USAGE'))))
$$;
COMMENT ON FUNCTION rsvp_sync._may_speak(regclass, text) IS
'Does the account belong to the table''s owner, or was it granted to him?';

/*
 * How many withdrawals the source may still send now.  Beyond withdraw_limit
 * in ten minutes and beyond a fifth of what it has published: none.
 */
CREATE FUNCTION rsvp_sync._withdraw_budget(of_source bigint, at_most integer)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	threshold bigint := current_setting('rsvp_sync.withdraw_limit');
	withdrawn bigint;
	published bigint;
BEGIN
	SELECT coalesce(sum(w.n), 0) INTO withdrawn
	FROM rsvp_sync._withdrawal w
	WHERE w.source_id = of_source
		AND w.minute > now() - interval '10 minutes';
	/* Counting what is published costs: only where it decides. */
	IF at_most IS NULL OR withdrawn + at_most > threshold THEN
		SELECT count(*) INTO published FROM rsvp_sync._intent i
		WHERE i.source_id = of_source AND i.bond IS NOT NULL;
		threshold := greatest(threshold, (published + withdrawn) / 5);
	END IF;
	RETURN threshold - withdrawn;
END
$$;
COMMENT ON FUNCTION rsvp_sync._withdraw_budget(bigint, integer) IS
'Withdrawals a source may still send before they are held; at_most: how many the caller could want.';

CREATE TYPE rsvp_sync._evaluation AS (
	key text,
	did text,						-- the slot that is acted on
	event_uri text,
	status text,
	was_did text,					-- the slot of the intent as it stands
	was_event_uri text,
	was_live boolean,
	local_at timestamptz,
	heir_source bigint,				-- who would take the record over
	heir_key text,
	from_source bigint,				-- whose record this key takes over
	from_key text,
	rkey text,
	mirrors boolean,				-- what it says it was told by the network
	record jsonb,					-- what is out there
	record_created_at text,
	event_cid text,
	sent_cids text[],
	attempts integer,
	changed_at timestamptz,
	s rsvp_sync.situation,
	d rsvp_sync.decision,
	old_state text,
	old_reason_code text,
	was_synced boolean				-- once, both sides said the same
);

/*
 * Of a record that somebody only told us about we do not know the fields that
 * a change of it has to keep.  One that only another tenant's application has
 * told of (rumour) need not even be there.
 */
CREATE FUNCTION rsvp_sync._read_before_put(d rsvp_sync.decision,
	s rsvp_sync.situation, rumour boolean)
RETURNS rsvp_sync.decision
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF rumour AND s.bond IS NULL AND d.bond IS NOT NULL THEN
		d.action := 'read';
		d.send := NULL;
		d.state := NULL;
		d.reason_code := NULL;
		d.base_local := s.base_local;
		d.base_cid := s.base_cid;
		d.confirmed := false;
	END IF;
	IF d.action IN ('put', 'delete') THEN
		d.action := 'read';
		d.send := NULL;
		d.withdraws := false;
	END IF;
	RETURN d;
END
$$;
COMMENT ON FUNCTION rsvp_sync._read_before_put(rsvp_sync.decision, rsvp_sync.situation, boolean) IS
'A decision about a record whose content is not known: it is read before it is written.';

/* Only the worker knows, and only of accounts whose lane it has. */
CREATE FUNCTION rsvp_sync._is_listed(did text) RETURNS boolean
LANGUAGE C VOLATILE STRICT
AS 'MODULE_PATHNAME', 'rsvp_sync_is_listed';
COMMENT ON FUNCTION rsvp_sync._is_listed(text) IS
'Are the account''s records in _observed current? Always false outside the worker.';

/* on_cancel, or on_delete, for who may delete a record and who may not. */
CREATE FUNCTION rsvp_sync._may_remove(how text, may_delete boolean,
	row_gone boolean)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN NOT row_gone
	THEN CASE WHEN may_delete THEN coalesce(how, 'notgoing')
		ELSE 'notgoing' END
	WHEN may_delete OR how = 'keep' THEN coalesce(how, 'delete')
	ELSE 'never' END;
COMMENT ON FUNCTION rsvp_sync._may_remove(text, boolean, boolean) IS
'Option on_cancel, or, for a row that is gone, on_delete, as far as the user''s consent allows it.';

/* Only its user can help; but he may have, without telling us. */
CREATE FUNCTION rsvp_sync._seeming_state(state text, checked_at timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN state IN ('deactivated', 'takendown')
	AND checked_at < now() - interval '1 day' THEN 'unverified' ELSE state END;
COMMENT ON FUNCTION rsvp_sync._seeming_state(text, timestamptz) IS
'State of an account as planning takes it: one that was out of order a day ago is tried again.';

/*
 * A row that says what the network has told it, and no more.  It speaks once
 * it says something else; not when a host lets stand what it was told, or
 * takes it back.
 */
CREATE FUNCTION rsvp_sync._mirrors(here_before boolean, mirrored boolean,
	old_local text, new_local text, heard_status text, by_network boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN NOT here_before THEN by_network
	WHEN old_local IS NOT DISTINCT FROM new_local THEN mirrored
	ELSE by_network OR mirrored
		AND coalesce(new_local = heard_status, new_local IS NULL) END;
COMMENT ON FUNCTION rsvp_sync._mirrors(boolean, boolean, text, text, text, boolean) IS
'Does a row only mirror the network? here_before: it was planned before, in this slot; then mirrored: it did so then; the values it had and has; the status of the record it was told of.';

/*
 * Of two keys in one slot, does the other one speak for it?  The one changed
 * later.  But what another table's key mirrors may be this one's own word: that
 * is no rival, unless it has the record.  And a mirror stands back for whoever
 * speaks elsewhere.
 */
CREATE FUNCTION rsvp_sync._is_rival(same_source boolean, mirrors boolean,
	bond text, doubt boolean, own_mirrors boolean, own_bond text,
	own_doubt boolean, later boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN same_source THEN later
	WHEN own_mirrors AND (NOT mirrors OR bond IS NOT NULL OR doubt)
	THEN true
	WHEN mirrors AND (bond IS NULL OR own_bond IS NOT NULL
		OR coalesce(own_doubt, false))
	THEN false
	ELSE later END;
COMMENT ON FUNCTION rsvp_sync._is_rival(boolean, boolean, text, boolean, boolean, text, boolean, boolean) IS
'Does another live key of the slot speak for it, rather than this one? later: it changed later. own_...: of this one.';

CREATE FUNCTION rsvp_sync._evaluate(of_source bigint, keys text[],
	all_listed boolean)
RETURNS SETOF rsvp_sync._evaluation
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	src rsvp_sync._source;
	map jsonb;
	over_limit boolean;
	table_owner oid;
	rehearsal boolean := current_setting('rsvp_sync.mode') = 'dry_run';
BEGIN
	SELECT * INTO STRICT src FROM rsvp_sync._source s
	WHERE s.source_id = of_source;
	map := rsvp_sync._status_map(of_source);
	table_owner := (SELECT relowner FROM pg_class WHERE oid = src.attendance);
	over_limit := rsvp_sync._withdraw_budget(of_source,
		cardinality(keys)) <= 0;

	RETURN QUERY
	WITH wanted AS MATERIALIZED (
		SELECT w.key, w.status, w.event_cid, w.created_at, w.starts_at,
			w.ends_at,
			/* Of who asked to be forgotten we know nothing. */
			CASE WHEN f.digest IS NULL THEN w.did END AS did,
			CASE WHEN f.digest IS NULL THEN w.event_uri END AS event_uri,
			CASE WHEN f.digest IS NOT NULL THEN 'forgotten'
				WHEN l.did IS NOT NULL THEN 'leaving'
				ELSE w.withheld END AS withheld,
			CASE WHEN f.digest IS NOT NULL THEN 'keep'
				WHEN l.did IS NOT NULL THEN 'delete'
				ELSE w.on_withheld END AS on_withheld
		FROM rsvp_sync._desired(of_source, keys) w
		/* LIMIT makes each a look-up by key, whatever the statistics say. */
		LEFT JOIN LATERAL (SELECT n.did FROM rsvp_sync._account n
			WHERE n.did = w.did AND n.leaving IS NOT NULL LIMIT 1) l ON true
		LEFT JOIN LATERAL (SELECT n.digest FROM rsvp_sync._forgotten n WHERE
			n.digest = sha256(convert_to(w.did, 'UTF8')) LIMIT 1) f ON true
		/* A detached source wants nothing, whatever the query says. */
		WHERE src.state <> 'detaching'
	), universe AS (
		SELECT unnest(keys) AS key
		UNION
		SELECT w.key FROM wanted w WHERE keys IS NULL
		UNION
		SELECT i.key FROM rsvp_sync._intent i
		WHERE keys IS NULL AND i.source_id = of_source
	), known AS (
		SELECT u.key, w.key IS NOT NULL AS present,
			w.did AS new_did, w.event_uri AS new_event_uri, w.status,
			w.withheld, coalesce(w.on_withheld, 'keep') AS on_withheld,
			w.event_cid, w.created_at,
			coalesce(coalesce(w.ends_at, w.starts_at) < now(), false)
				AND NOT coalesce((src.options
					->> 'publish_past_events')::boolean, false) AS past,
			map ->> w.status AS local, coalesce(map ? w.status, false) AS mapped,
			CASE WHEN i.key IS NOT NULL THEN ROW(i.*)::rsvp_sync._intent END AS intent,
			i.key IS NOT NULL AS known,
			i.did IS NOT DISTINCT FROM w.did
				AND i.event_uri IS NOT DISTINCT FROM w.event_uri AS same_slot,
			coalesce(q.changed_at, i.local_at, now()) AS changed_at,
			coalesce(q.by_network, false) AS by_network,
			coalesce(q.attempts, 0) AS attempts,
			/* A withdrawal that the limit has let pass is not asked again. */
			coalesce(q.counted, false) AS counted
		FROM universe u
		LEFT JOIN wanted w ON w.key = u.key
		LEFT JOIN LATERAL (SELECT n.* FROM rsvp_sync._intent n
			WHERE n.source_id = of_source AND n.key = u.key LIMIT 1) i ON true
		LEFT JOIN LATERAL (SELECT n.* FROM rsvp_sync._queue n
			WHERE n.source_id = of_source AND n.key = u.key LIMIT 1) q ON true
		/* Rows are made here, once, and not wherever they are mentioned. */
		OFFSET 0
	), slotted AS (
		SELECT k.*, old_slot,
			k.known AND NOT k.same_slot AND NOT old_slot
				AND (k.intent).did IS NOT NULL
				AND (k.intent).event_uri IS NOT NULL AS moved,
			CASE WHEN old_slot THEN (k.intent).did ELSE k.new_did END AS did,
			CASE WHEN old_slot THEN (k.intent).event_uri ELSE k.new_event_uri END AS event_uri,
			CASE WHEN k.known AND k.same_slot AND (k.intent).local IS NOT DISTINCT
				FROM k.local THEN (k.intent).local_at ELSE k.changed_at END AS local_at,
			rsvp_sync._mirrors(k.known AND k.same_slot, (k.intent).mirrors,
				(k.intent).local, k.local, (k.intent).heard_status,
				k.by_network) AS mirrors
		FROM known k
		CROSS JOIN LATERAL (SELECT k.known AND NOT (k.present AND k.same_slot)
			AND ((k.intent).bond IS NOT NULL OR (k.intent).doubt
				OR NOT k.present) AS old_slot) o
	), joined AS (
		/*
		 * What is remembered is the key's own, or that of the key whose
		 * record it takes over; a key that moved to another slot, its old
		 * record being gone, starts with nothing.
		 */
		SELECT k.*, speaks.granted, a.leaving IS NOT NULL AS leaving,
			coalesce(a.leaving = 'erase', false) AS erased,
			rsvp_sync._seeming_state(a.state, a.checked_at) AS account,
			giver.g AS giver,
			/* What the user has not consented to cannot be asked for. */
			coalesce(oa.may_delete, true) AS may_delete,
			heir.key AS heir_key, heir.source_id AS heir_source,
			rival.key IS NOT NULL AS rival,
			/* Without a record the other one's base is only about its own row. */
			m.bond, m.rkey, CASE WHEN giver.g IS NOT DISTINCT FROM NULL
					OR m.bond IS NOT NULL THEN m.base_local
				WHEN NOT k.moved THEN (k.intent).base_local END AS base_local,
			m.base_cid, m.wrote, m.doubt,
			coalesce(m.sent_cids, '{}') AS sent_cids, m.sent_local,
			m.record_created_at,
			/* A word, too, for a status that was not one to publish. */
			CASE WHEN k.known AND NOT k.moved AND src.kind <> 'explicit' THEN
				coalesce((k.intent).first_local, 'none') END AS first_local
		FROM slotted k
		LEFT JOIN LATERAL (SELECT n.* FROM rsvp_sync._account n
			WHERE n.did = k.did LIMIT 1) a ON true
		LEFT JOIN LATERAL (SELECT n.may_delete FROM rsvp_sync._oauth_session n
			WHERE n.did = a.did AND a.auth = 'oauth' LIMIT 1) oa ON true
		/* _may_speak(), where it is asked of each key */
		CROSS JOIN LATERAL (SELECT CASE WHEN src.kind <> 'explicit'
			THEN table_owner ELSE rsvp_sync._caller_of(k.key) END AS role) speaker
		CROSS JOIN LATERAL (SELECT a.did IS NOT NULL
			AND coalesce(pg_has_role(speaker.role, a.owner, 'USAGE')
				OR coalesce((SELECT true FROM rsvp_sync._account_grant g
					WHERE g.did = a.did AND pg_has_role(speaker.role, g.grantee,
						'USAGE') LIMIT 1), false), false) AS granted) speaks
		/* Another key speaks for this slot. */
		LEFT JOIN LATERAL (
			SELECT r.key FROM rsvp_sync._intent r
			WHERE r.did = k.did AND r.event_uri = k.event_uri AND r.live
				AND (r.source_id, r.key) <> (of_source, k.key)
				AND NOT k.old_slot
				AND rsvp_sync._is_rival(r.source_id = of_source, r.mirrors,
					r.bond, r.doubt, k.mirrors, (k.intent).bond,
					(k.intent).doubt, (r.local_at, r.source_id, r.key)
						> (k.local_at, of_source, k.key))
			LIMIT 1) rival ON true
		/* One that has the record of this slot: it is taken over. */
		LEFT JOIN LATERAL (
			SELECT g FROM rsvp_sync._intent g
			WHERE g.did = k.did AND g.event_uri = k.event_uri
				AND (g.bond IS NOT NULL OR g.doubt)
				AND (g.source_id, g.key) <> (of_source, k.key)
				AND NOT k.old_slot AND (k.intent).bond IS NULL
				AND rival.key IS NULL
				AND (NOT k.mirrors OR g.source_id = of_source)
				/* Only by a key that wants a record, and may speak for it. */
				AND speaks.granted
				AND k.present AND k.withheld IS NULL
				AND k.local IS NOT NULL AND NOT k.past
			LIMIT 1) giver ON true
		LEFT JOIN LATERAL (
			SELECT (r).* FROM (SELECT CASE
				/* Not IS NOT NULL: that asks of each of its columns. */
				WHEN giver.g IS DISTINCT FROM NULL THEN giver.g
				WHEN NOT k.moved THEN k.intent END AS r OFFSET 0) one) m ON true
		/* One that would go on speaking for the slot that is left. */
		LEFT JOIN LATERAL (
			SELECT h.source_id, h.key FROM rsvp_sync._intent h
			WHERE h.did = k.did AND h.event_uri = k.event_uri AND h.live
				AND (h.source_id, h.key) <> (of_source, k.key)
				AND (NOT h.mirrors OR h.source_id = of_source)
			ORDER BY h.local_at DESC, h.source_id DESC, h.key DESC
			LIMIT 1) heir ON true
	), seen AS (
		/* What is hidden is as both sides knew it. */
		SELECT k.*, o.rkey AS remote_rkey,
			CASE WHEN o.hidden THEN k.base_cid ELSE o.cid END AS remote_cid,
			CASE WHEN o.hidden THEN (k.intent).heard_status ELSE o.status END AS remote_status,
			CASE WHEN NOT o.hidden THEN o.record END AS record, o.changed_at AS remote_at,
			o.did IS NOT NULL AND NOT (o.hidden AND k.base_cid IS NULL) AS remote_seen,
			coalesce(o.rumour OR o.cid IS NOT NULL AND o.record IS NULL
				AND o.source = 'application', false) AS told_only, o.rumour,
			coalesce(o.rkey <> k.rkey, false) AS replaced
		FROM joined k
		/*
		 * The bond's record, else the newest of the slot; also where the bond's
		 * is gone, unless only another tenant's application says that it is.
		 */
		LEFT JOIN LATERAL (
			SELECT z.*, coalesce(of_source <> ALL (z.heard_by), false) AS rumour,
				coalesce(of_source <> ALL (z.heard_by) AND z.rkey = k.rkey
					AND k.bond IS NOT NULL, false) AS hidden FROM (
				SELECT CASE WHEN b.cid IS NULL AND coalesce(of_source
					= ANY (b.heard_by), true) THEN 2 ELSE 0 END AS rank, b.*
				FROM rsvp_sync._observed b
				WHERE b.did = k.did AND b.rkey = k.rkey
					AND (b.cid IS NOT NULL OR k.bond IS NOT NULL)
				UNION ALL
				SELECT 1, b.* FROM rsvp_sync._observed b
				WHERE b.did = k.did AND b.event_uri = k.event_uri
					AND b.cid IS NOT NULL
					AND (k.bond IS NULL OR NOT k.doubt AND EXISTS (
						SELECT FROM rsvp_sync._observed g
						WHERE g.did = k.did AND g.rkey = k.rkey AND g.cid IS NULL
							AND coalesce(of_source = ANY (g.heard_by), true)))
			) z
			ORDER BY z.rank, z.changed_at DESC NULLS LAST, z.rkey DESC
			LIMIT 1) o ON true
	), situated AS (
		SELECT k.*, ROW(
			k.present, k.withheld, k.on_withheld,
			k.new_did IS NOT NULL, rsvp_sync.is_did(k.new_did),
			k.new_event_uri IS NOT NULL,
			rsvp_sync._is_record_of_did(k.new_event_uri),
			k.mapped, k.local, k.past, k.by_network, k.known, NOT k.old_slot,
			CASE WHEN k.replaced AND k.bond IS NOT NULL THEN 'adopted' ELSE k.bond END,
			coalesce(k.wrote, false) AND NOT k.replaced,
			k.base_local, coalesce(k.base_cid, CASE WHEN NOT k.present
				AND src.kind = 'explicit' THEN k.remote_cid END), k.sent_local,
			k.first_local, coalesce(k.doubt, false), k.rival, k.heir_key IS NOT NULL,
			k.remote_seen, coalesce(k.remote_rkey, k.rkey), k.remote_cid,
			k.remote_status,
			coalesce(k.remote_cid = ANY (k.sent_cids), false),
			rehearsal OR all_listed OR coalesce(rsvp_sync._is_listed(k.did), false),
			coalesce(k.local_at >= k.remote_at, false),
			k.account, k.erased OR k.granted,
			rsvp_sync._may_remove(src.options ->> 'on_cancel', k.may_delete, false),
			rsvp_sync._may_remove(src.options ->> 'on_delete', k.may_delete, true),
			coalesce(src.options ->> 'conflict', 'latest'),
			src.state = 'detaching',
			coalesce((k.intent).truncated AND (NOT k.present OR k.old_slot), false),
			coalesce((k.intent).approved, false) OR k.leaving,
			/* What is held stays so, however long ago that was. */
			over_limit AND NOT k.counted
				OR coalesce((k.intent).state = 'held', false)
			)::rsvp_sync.situation AS s
		FROM seen k
	)
	SELECT k.key, k.did, k.event_uri, k.status,
		(k.intent).did, (k.intent).event_uri,
		coalesce((k.intent).live, false), k.local_at, k.heir_source,
		k.heir_key, (k.giver).source_id, (k.giver).key, k.rkey,
		coalesce(k.mirrors, false), k.record,
		coalesce(k.record ->> 'createdAt', k.record_created_at,
			rsvp_sync._datetime(k.created_at),
			rsvp_sync._datetime(k.changed_at)),
		coalesce(CASE WHEN rsvp_sync.is_cid(k.event_cid) THEN k.event_cid END,
			e.cid, CASE WHEN rsvp_sync._subject_uri(k.record) = k.event_uri
				THEN k.record -> 'subject' ->> 'cid' END),
		k.sent_cids, k.attempts, k.changed_at, k.s,
		CASE WHEN k.told_only THEN rsvp_sync._read_before_put(rsvp_sync.plan(k.s),
			k.s, k.rumour) ELSE rsvp_sync.plan(k.s) END,
		(k.intent).state, (k.intent).reason_code,
		(k.intent).synced_at IS NOT NULL
	FROM situated k
	LEFT JOIN LATERAL (SELECT n.cid FROM rsvp_sync._event n WHERE n.uri
		= k.event_uri AND n.read_at > now() - interval '1 day' LIMIT 1) e ON true;
END
$$;
COMMENT ON FUNCTION rsvp_sync._evaluate(bigint, text[], boolean) IS
'Situation and decision of these keys of a source (NULL: all). all_listed: take every account''s records for current.';

/*
 * How a key stands once its decision is recorded.  Bodies like this one are
 * bound to what they name when they are made, whatever the search_path, and
 * become part of the query that calls them.
 */
CREATE FUNCTION rsvp_sync._standing(e rsvp_sync._evaluation)
RETURNS TABLE (state text, code text)
LANGUAGE sql IMMUTABLE ROWS 1
BEGIN ATOMIC
SELECT CASE
		WHEN (e.d).state IS NOT NULL THEN (e.d).state
		WHEN (e.d).action <> 'none' OR e.old_state = 'done'
			OR e.old_reason_code IN ('not_backfilled', 'never_published')
		THEN coalesce(e.old_state, 'waiting')
		WHEN (e.d).bond IS NOT NULL OR e.mirrors
			OR e.was_synced AND (e.s).local IS DISTINCT FROM 'notgoing'
		THEN 'done' ELSE 'withheld' END,
	CASE
		/* A reason of the application's own words has one code for all. */
		/* (Asking for the reason costs, and NULL would not keep from it.) */
		WHEN (e.d).state IS NOT NULL AND (e.s).withheld IS NOT NULL
			AND (e.s).withheld = (e.d).reason_code
			AND rsvp_sync._reason((e.d).reason_code) = (e.d).reason_code
		THEN 'withheld'
		WHEN (e.d).state IS NOT NULL THEN (e.d).reason_code
		WHEN (e.d).action <> 'none' OR e.old_state = 'done'
			OR e.old_reason_code IN ('not_backfilled', 'never_published')
		THEN coalesce(e.old_reason_code, 'queued')
		/* They were left to differ, by the key that had the record before. */
		WHEN (e.d).bond IS NOT NULL THEN 'remote_newer'
		WHEN e.mirrors THEN 'from_network'
		/* Nothing was there when it was declined, as the merge has found. */
		WHEN (e.s).local = 'notgoing' THEN 'never_published'
		/* It is not withheld any more: as it was before. */
		WHEN e.was_synced THEN 'deleted_elsewhere'
		ELSE 'not_backfilled' END;
END;
COMMENT ON FUNCTION rsvp_sync._standing(rsvp_sync._evaluation) IS
'State and reason code of a key once its decision is recorded.';
