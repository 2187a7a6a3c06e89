/*
 * Webmentions that others send for pages of events here.  The application's
 * endpoint hands them over; the worker reads the page that is said to speak of
 * ours, and what it says is applied like any other RSVP made elsewhere.
 */

/* Attached tables that take answers for the event of this page */
CREATE FUNCTION rsvp_sync._sources_of_page(page text)
RETURNS SETOF rsvp_sync._source
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT s.* FROM rsvp_sync._listeners() s
WHERE s.source_id IN (SELECT p.source_id FROM rsvp_sync._event_page p
		WHERE p.digest = rsvp_sync._digest_of(page))
	OR starts_with(page, s.options ->> 'event_pages')
ORDER BY s.source_id
$$;
COMMENT ON FUNCTION rsvp_sync._sources_of_page(text) IS
'private: sources whose query has named this event page, or whose option event_pages its address begins with';

CREATE FUNCTION rsvp_sync._check_mention(source text, target text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF source IS NULL OR target IS NULL THEN
		RAISE EXCEPTION '% must not be null', CASE WHEN source IS NULL
			THEN 'source' ELSE 'target' END
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'They are the form fields of the request; answer it with 400.';
	END IF;
	IF NOT rsvp_sync._is_page(source) OR NOT rsvp_sync._is_page(target) THEN
		RAISE EXCEPTION '% is not the address of a web page: %',
			CASE WHEN rsvp_sync._is_page(source) THEN 'target'
				ELSE 'source' END,
			left(CASE WHEN rsvp_sync._is_page(source) THEN target
				ELSE source END, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It begins with http:// or https:// and has at most 2048 characters; answer the request with 400.';
	END IF;
	IF rsvp_sync._same_page(split_part(source, '#', 1),
		split_part(target, '#', 1)) THEN
		RAISE EXCEPTION 'source and target are the same page'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A page cannot mention itself; answer the request with 400.';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_mention(text, text) IS
'private: null_value_not_allowed or invalid_parameter_value unless this can be a webmention';

/* Strangers can send as many as they like: so many are kept waiting. */
CREATE FUNCTION rsvp_sync._check_mention_room(source text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	waiting integer;
	of_site integer;
BEGIN
	SELECT count(*), count(*) FILTER (
		WHERE rsvp_sync._site_of(w.source) = rsvp_sync._site_of(
			_check_mention_room.source))
	INTO waiting, of_site
	FROM (SELECT i.source FROM rsvp_sync._webmention_in i
		WHERE i.due_at IS NOT NULL LIMIT 10000) w;
	IF waiting >= 10000 OR of_site >= 100 THEN
		RAISE EXCEPTION 'too many webmentions wait to be verified'
			USING ERRCODE = 'configuration_limit_exceeded',
				DETAIL = CASE WHEN of_site >= 100
					THEN 'There are 100 of this source''s server.'
					ELSE 'There are 10000.' END,
				HINT = 'Answer the request with 429 or 503: the sender tries again.';
	END IF;
END
$$;
COMMENT ON FUNCTION rsvp_sync._check_mention_room(text) IS
'private: configuration_limit_exceeded if too many wait, of all or of this one''s server';

CREATE FUNCTION rsvp_sync.receive_webmention(source text, target text)
RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	page text := target;
	pair bytea := rsvp_sync._digest_of(source, target);
	speaker bigint;
	of_tenants text[];
	received uuid;
BEGIN
	PERFORM rsvp_sync._check_mention(source, target);
	SELECT min(s.source_id), array_agg(DISTINCT s.tenant)
	INTO speaker, of_tenants FROM rsvp_sync._sources_of_page(page) s;
	IF speaker IS NULL THEN
		RAISE EXCEPTION 'no event here has the page %', left(target, 200)
			USING ERRCODE = 'undefined_object',
				HINT = 'A page is known by the event_url of an attached query, or by option event_pages, of a table that takes answers (it has an apply function, or its schema is recognised); answer the request with 400.';
	END IF;
	IF EXISTS (SELECT FROM rsvp_sync._webmention w
		WHERE w.digest = pair) THEN
		RAISE EXCEPTION 'the source is the page of an attendance row here'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Its row counts already. Answer the request with 400; option event_pages keeps rows from telling pages of their own application.';
	END IF;
	IF NOT EXISTS (SELECT FROM rsvp_sync._webmention_in w
		WHERE w.digest = pair) THEN
		PERFORM rsvp_sync._check_mention_room(source);
	END IF;
	INSERT INTO rsvp_sync._webmention_in AS w (source_id, tenants, source,
		target, digest, due_at)
	VALUES (speaker, of_tenants, receive_webmention.source,
		page, pair, now())
	ON CONFLICT (digest) DO UPDATE SET source_id = excluded.source_id,
		tenants = excluded.tenants, state = 'waiting', due_at = now(),
		attempts = 0, last_error = NULL, generation = w.generation + 1,
		received_at = now()
	RETURNING w.id INTO received;
	/* This wakes the worker. */
	INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'w');
	RETURN received;
END
$$;
COMMENT ON FUNCTION rsvp_sync.receive_webmention(text, text) IS
'Takes a webmention for an event''s page: source says that it links to target. Checked at once, verified by the worker, and applied as process_external_rsvp() does; the same pair again is an update. Returns an id, under which view webmention_received shows what became of it. Errors: null_value_not_allowed, invalid_parameter_value (no web addresses, the same, or a row''s own page), undefined_object (no event''s page), configuration_limit_exceeded (too many wait). Source: W3C Webmention 3.2.';

/*
 * The worker's part
 */

/* Who is believed to have said it: nobody speaks for another site. */
CREATE FUNCTION rsvp_sync._believed_author(page text, author_url text)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
SELECT CASE WHEN rsvp_sync._is_page(author_url)
		AND rsvp_sync._site_of(author_url) = rsvp_sync._site_of(page)
	THEN author_url ELSE rsvp_sync._site_of(page) || '/' END
$$;
COMMENT ON FUNCTION rsvp_sync._believed_author(text, text) IS
'private: the author that a page names, if he is at home on its site, else the site';

/* What was applied counts no more. */
CREATE FUNCTION rsvp_sync._unapply_mention(INOUT w rsvp_sync._webmention_in)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_tenant text;
	told record;
BEGIN
	IF w.applied_as IS NULL THEN
		RETURN;
	END IF;
	FOREACH of_tenant IN ARRAY w.tenants LOOP
		SELECT * INTO told FROM rsvp_sync.delete_external_rsvp(w.applied_as,
			'web', of_tenant);
		w.result := to_jsonb(told);
	END LOOP;
	w.applied_as := NULL;
	w.status := NULL;
END
$$;
COMMENT ON FUNCTION rsvp_sync._unapply_mention(rsvp_sync._webmention_in) IS
'private: cancels exactly what a webmention brought about';

CREATE FUNCTION rsvp_sync._apply_mention(INOUT w rsvp_sync._webmention_in,
	page text, post jsonb)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_tenant text;
	said timestamptz := coalesce((post ->> 'updated')::timestamptz,
		(post ->> 'published')::timestamptz, now());
BEGIN
	/* A post has one address, but may answer several events. */
	IF w.applied_as IS NULL THEN
		w.applied_as := w.source;
		IF EXISTS (SELECT FROM rsvp_sync._webmention_in o
			WHERE o.source = w.source AND o.applied_as = w.source) THEN
			w.applied_as := left(w.source || ' ' || w.target, 8192);
		END IF;
	END IF;
	w.author_url := post ->> 'author_url';
	w.author_name := post ->> 'author_name';
	w.author := rsvp_sync._believed_author(page, w.author_url);
	w.status := post ->> 'status';
	/* A page need not say when it was changed, but it has been read now. */
	w.said_at := greatest(least(said, now()), w.said_at);
	FOREACH of_tenant IN ARRAY w.tenants LOOP
		w.result := rsvp_sync.process_external_rsvp(jsonb_build_object(
			'eventSourceId', w.target, 'eventSourceType', 'web',
			'userDid', w.author, 'userHandle', left(w.author_name, 200),
			'status', w.status, 'timestamp', rsvp_sync._datetime(w.said_at),
			'sourceId', w.applied_as, 'metadata', jsonb_strip_nulls(
				jsonb_build_object('url', w.source,
				'response', left(post ->> 'response', 200),
				'content', left(post ->> 'content', 10000),
				'authorUrl', left(w.author_url, 2048),
				'authorName', left(w.author_name, 200),
				'authorPhoto', CASE WHEN length(post ->> 'author_photo') <= 2048
					THEN post ->> 'author_photo' END,
				'published', post -> 'published',
				'updated', post -> 'updated'))), of_tenant);
	END LOOP;
END
$$;
COMMENT ON FUNCTION rsvp_sync._apply_mention(rsvp_sync._webmention_in, text, jsonb) IS
'private: applies what a page says to an event, as process_external_rsvp() does';

/* A page was read: what does it say of the target? */
CREATE FUNCTION rsvp_sync._judge_mention(INOUT w rsvp_sync._webmention_in,
	page text, body text, html boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	post jsonb;
	was boolean := w.applied_as IS NOT NULL;
BEGIN
	w.verified_at := now();
	IF NOT coalesce(CASE WHEN html
		THEN rsvp_sync._links_to(body, page, w.target)
		ELSE strpos(body, w.target) > 0 END, false)
	THEN
		w := rsvp_sync._unapply_mention(w);
		w.state := CASE WHEN was THEN 'removed' ELSE 'refused' END;
		w.last_error := 'no_link: the page does not link to the target';
		RETURN;
	END IF;
	SELECT to_jsonb(e) INTO post FROM rsvp_sync.parse_h_entry(body, page) e
	WHERE html AND e.kind = 'rsvp' AND e.status IS NOT NULL
		AND rsvp_sync._same_page(e.event_url, w.target)
	LIMIT 1;
	IF post IS NULL THEN
		w := rsvp_sync._unapply_mention(w);
		w.state := 'mention';
		RETURN;
	END IF;
	w := rsvp_sync._apply_mention(w, page, post);
	w.state := 'applied';
END
$$;
COMMENT ON FUNCTION rsvp_sync._judge_mention(rsvp_sync._webmention_in, text, text, boolean) IS
'private: applies a page that answers the target, and takes back one that does no more; any other is a mention';

/*
 * One page was asked for.
 * how: read    body is there
 *      gone    it answers 410
 *      retry   later; counted
 *      later   not before wait_ms; not counted
 *      failed  it cannot be read
 */
CREATE FUNCTION rsvp_sync._mention_verified(of_id bigint,
	of_generation bigint, how text, error text, page text, status integer,
	body text, html boolean, wait_ms integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w rsvp_sync._webmention_in;
	was boolean;
BEGIN
	SELECT * INTO w FROM rsvp_sync._webmention_in f
	WHERE f.received_id = of_id FOR UPDATE;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	was := w.applied_as IS NOT NULL;
	w.lease := NULL;
	w.http_status := nullif(status, 0);
	w.last_error := error;
	IF how = 'retry' THEN
		w.attempts := w.attempts + 1;
		IF w.attempts >= current_setting('rsvp_sync.max_attempts')::integer
		THEN
			how := 'failed';
		END IF;
	END IF;
	IF w.generation <> of_generation THEN
		/* Sent again meanwhile: it is read again. */
		w.attempts := 0;
	ELSIF how IN ('retry', 'later') THEN
		w.due_at := now() + greatest(wait_ms * interval '1 millisecond',
			CASE how WHEN 'retry' THEN rsvp_sync._backoff(w.attempts - 1)
				ELSE interval '0' END);
	ELSE
		w.due_at := NULL;
		IF how = 'read' THEN
			w := rsvp_sync._judge_mention(w, page, body, html);
		ELSIF how = 'gone' THEN
			w.verified_at := now();
			w := rsvp_sync._unapply_mention(w);
			w.state := CASE WHEN was THEN 'removed' ELSE 'refused' END;
		ELSE
			w.state := 'failed';
		END IF;
	END IF;
	UPDATE rsvp_sync._webmention_in f SET lease = w.lease,
		http_status = w.http_status, last_error = w.last_error,
		attempts = w.attempts, due_at = w.due_at, state = w.state,
		applied_as = w.applied_as, said_at = w.said_at, status = w.status,
		author = w.author, author_url = w.author_url,
		author_name = w.author_name, result = w.result,
		verified_at = w.verified_at
	WHERE f.received_id = of_id;
END
$$;
COMMENT ON FUNCTION rsvp_sync._mention_verified(bigint, bigint, text, text, text, integer, text, boolean, integer) IS
'What came of reading the page of a received webmention.';

/* It could not be applied, by an error that the worker has caught. */
CREATE FUNCTION rsvp_sync._mention_refused(of_id bigint, error text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
UPDATE rsvp_sync._webmention_in w SET lease = NULL,
	last_error = 'not_applied: ' || left(error, 500),
	attempts = w.attempts + 1,
	state = CASE WHEN w.attempts + 1 >= current_setting(
			'rsvp_sync.max_attempts')::integer THEN 'failed' ELSE w.state END,
	due_at = CASE WHEN w.attempts + 1 < current_setting(
			'rsvp_sync.max_attempts')::integer
		THEN now() + rsvp_sync._backoff(w.attempts) END
WHERE w.received_id = of_id
$$;
COMMENT ON FUNCTION rsvp_sync._mention_refused(bigint, text) IS
'A received webmention whose page was read could not be applied; it is read again later.';

/* What was never applied, or counts no more, is forgotten after a while. */
CREATE FUNCTION rsvp_sync._forget_received() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM rsvp_sync._webmention_in w
WHERE w.due_at IS NULL AND w.lease IS NULL AND w.applied_as IS NULL
	AND w.received_at
		< now() - current_setting('rsvp_sync.history_retention')::interval
$$;
COMMENT ON FUNCTION rsvp_sync._forget_received() IS
'Forgets received webmentions that count for nothing and are older than history_retention.';
