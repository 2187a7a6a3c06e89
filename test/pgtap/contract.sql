-- The public contract: what is there, under which names, with which arguments
-- and properties; who may do what; and that nothing else is public.
--
-- A function that is changed on purpose is changed here, too.  Run from the top
-- of the tree.
\set control `cat rsvp_sync.control`
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SELECT no_plan();
CREATE ROLE regress_contract_nobody;

-- properties: volatility (i, s, v), strict (s) or not (-), parallel (s, r, u)
CREATE TEMP TABLE function (name text, arguments text, result text, properties text);
INSERT INTO function VALUES
	('account_status', 'did text',
		'SETOF rsvp_sync.account', 's-u'),
	('activate', '',
		'void', 'v-u'),
	('approve_withdrawals', 'attendance regclass',
		'bigint', 'v-u'),
	('attach', 'attendance regclass, desired text DEFAULT NULL, apply text DEFAULT NULL, options jsonb DEFAULT ''{}''',
		'bigint', 'v-u'),
	('attach_all', 'pattern text, options jsonb DEFAULT ''{}''',
		'TABLE(attendance regclass, source_id bigint)', 'v-u'),
	('classify', 'http_status integer, body text, headers jsonb',
		'text', 'i-s'),
	('connect_account', 'did text, password text, pds text DEFAULT NULL, handle text DEFAULT NULL',
		'void', 'v-u'),
	('connect_account_encrypted', 'did text, envelope text, pds text DEFAULT NULL, handle text DEFAULT NULL',
		'void', 'v-u'),
	('connect_oauth', 'session jsonb, client_id text DEFAULT NULL',
		'void', 'v-u'),
	('oauth_session', 'did text',
		'jsonb', 's-u'),
	('store_oauth_session', 'did text, session jsonb',
		'void', 'v-u'),
	('oauth_lock', 'did text, ttl interval',
		'text', 'v-u'),
	('oauth_unlock', 'did text, token text',
		'boolean', 'v-u'),
	('set_oauth_client', 'client_id text, jwk jsonb',
		'void', 'v-u'),
	('create_rsvp', 'did text, event_uri text, status text, tenant text DEFAULT ''''',
		'text', 'v-u'),
	('delete_rsvp', 'uri text, did text',
		'boolean', 'v-u'),
	('list_rsvps', 'did text',
		'TABLE(uri text, cid text, rkey text, event_uri text, status text, created_at timestamp with time zone)', 'v-u'),
	('detach', 'attendance regclass, withdraw boolean DEFAULT false',
		'void', 'v-u'),
	('detach_all', '',
		'integer', 'v-u'),
	('discard', 'attendance regclass, attendance_id text',
		'boolean', 'v-u'),
	('doctor', '',
		'TABLE(severity text, check_name text, subject text, finding text, remedy text)', 'v-u'),
	('explain_sync', 'attendance regclass, attendance_id text',
		'text', 'v-u'),
	('metrics', '',
		'TABLE(name text, type text, labels jsonb, value double precision)', 'v-u'),
	('metrics_text', '',
		'text', 'v-u'),
	('disconnect_account', 'did text, withdraw boolean DEFAULT false',
		'void', 'v-u'),
	('export', 'did text',
		'jsonb', 'v-u'),
	('find_attendees_by_metadata', 'key text, value text, user_id bigint',
		'TABLE(source_id bigint, attendance regclass, tenant text, attendance_id text, event_id text, user_id text, status text, metadata jsonb)', 's-r'),
	('find_attendees_by_metadata', 'key text, value text, user_id text DEFAULT NULL',
		'TABLE(source_id bigint, attendance regclass, tenant text, attendance_id text, event_id text, user_id text, status text, metadata jsonb)', 's-r'),
	('find_attendees_by_metadata', 'row_type anyelement, key text, value text, user_id bigint',
		'SETOF anyelement', 's-r'),
	('find_attendees_by_metadata', 'row_type anyelement, key text, value text, user_id text DEFAULT NULL',
		'SETOF anyelement', 's-r'),
	('forget', 'did text',
		'boolean', 'v-u'),
	('grant_account', 'did text, role name',
		'void', 'v-u'),
	('grant_application', 'role name',
		'void', 'v-u'),
	('grant_monitor', 'role name',
		'void', 'v-u'),
	('index_ddl', 'attendance regclass',
		'text', 's-u'),
	('is_at_uri', 'value text',
		'boolean', 'iss'),
	('is_cid', 'value text',
		'boolean', 'iss'),
	('is_datetime', 'value text',
		'boolean', 'iss'),
	('is_did', 'value text',
		'boolean', 'iss'),
	('is_handle', 'value text',
		'boolean', 'iss'),
	('is_nsid', 'value text',
		'boolean', 'iss'),
	('is_record_key', 'value text',
		'boolean', 'iss'),
	('is_tid', 'value text',
		'boolean', 'iss'),
	('parse_at_uri', 'uri text, OUT authority text, OUT collection text, OUT rkey text, OUT fragment text',
		'record', 'iss'),
	('pause', '',
		'void', 'v-u'),
	('pause', 'attendance regclass',
		'void', 'v-u'),
	('pause', 'subject text',
		'void', 'v-u'),
	('parse_activity', 'activity jsonb',
		'TABLE(source_type text, source_id text, event_url text, author_url text, author_name text, author_photo text, status text, published timestamp with time zone, updated timestamp with time zone, content text, kind text, undone boolean, response text)', 'iss'),
	('plan', 'situation rsvp_sync.situation',
		'rsvp_sync.decision', 'iss'),
	('preview', 'attendance regclass, attendance_id text DEFAULT NULL',
		'TABLE(attendance_id text, did text, event_uri text, action text, status text, reason_code text, reason text)', 'v-u'),
	('reconcile', 'attendance regclass DEFAULT NULL',
		'bigint', 'v-u'),
	('record_cid', 'record jsonb',
		'text', 'iss'),
	('rekey', '',
		'bigint', 'v-u'),
	('resume', '',
		'void', 'v-u'),
	('resume', 'attendance regclass',
		'void', 'v-u'),
	('resume', 'subject text',
		'void', 'v-u'),
	('process_external_rsvp', 'payload jsonb, tenant text',
		'jsonb', 'v-u'),
	('delete_external_rsvp', 'source_id text, source_type text, tenant text, OUT success boolean, OUT message text',
		'record', 'v-u'),
	('retry', '',
		'bigint', 'v-u'),
	('retry', 'attendance regclass, attendance_id text DEFAULT NULL',
		'bigint', 'v-u'),
	('retry', 'did text',
		'bigint', 'v-u'),
	('revoke_account', 'did text, role name',
		'void', 'v-u'),
	('rsvp_activity', 'document jsonb, previous jsonb DEFAULT NULL, dialect text DEFAULT ''accept''',
		'jsonb', 'i-s'),
	('rsvp_badge', 'document jsonb',
		'text', 'iss'),
	('rsvp_document', 'attendance regclass, attendance_id text',
		'jsonb', 's-u'),
	('rsvp_html', 'document jsonb',
		'text', 'iss'),
	('rsvp_ics', 'document jsonb',
		'text', 'iss'),
	('rsvp_outbox', 'actor text, page integer DEFAULT NULL',
		'jsonb', 's-u'),
	('rsvp_rss_item', 'document jsonb',
		'text', 'iss'),
	('rsvp_status_map', '',
		'TABLE(openmeet text, atproto text, indieweb text, activitypub text, partstat text, schemaorg text, as1 text, lossy text[])', 'i-s'),
	('rsvp_status_map', 'status text, source text, target text',
		'text', 'iss'),
	('source_status_map', 'attendance regclass',
		'TABLE(status text, rsvp text)', 's-u'),
	('start_worker', '',
		'void', 'v-u'),
	('sync_status', 'attendance regclass, attendance_id text, OUT state text, OUT reason_code text, OUT reason text, OUT uri text, OUT cid text, OUT status text, OUT attempts integer, OUT next_attempt_at timestamp with time zone, OUT last_error text, OUT synced_at timestamp with time zone',
		'record', 'v-u'),
	('tid_now', '',
		'text', 'vss'),
	('parse_h_entry', 'html text, base_url text',
		'TABLE(source_type text, source_id text, event_url text, author_url text, author_name text, author_photo text, status text, response text, published timestamp with time zone, updated timestamp with time zone, content text, kind text, undone boolean)', 'i-s'),
	('receive_webmention', 'source text, target text',
		'uuid', 'v-u'),
	('webmention_endpoint', 'url text, link_headers text[], body text',
		'text', 'i-s'),
	('validate_rsvp_submission', 'submission jsonb',
		'jsonb', 'i-s'),
	('wait_until_idle', 'timeout interval, attendance regclass DEFAULT NULL',
		'boolean', 'v-u');

CREATE TEMP TABLE view (name text, columns text);
INSERT INTO view VALUES
	('account', 'did text, handle text, pds text, owner regrole, auth text, state text, state_since timestamp with time zone, rate_limited_until timestamp with time zone, last_error text, waiting bigint'),
	('failed', 'source_id bigint, attendance regclass, tenant text, attendance_id text, reason_code text, reason text, did text, event_uri text, status text, last_error text, attempts integer, since timestamp with time zone'),
	('held', 'source_id bigint, attendance regclass, tenant text, attendance_id text, reason_code text, reason text, did text, event_uri text, uri text'),
	('progress', 'source_id bigint, attendance regclass, tenant text, total bigint, done bigint, waiting bigint, retrying bigint, blocked bigint, held bigint, failed bigint, oldest_key text, since timestamp with time zone, rate double precision, eta interval, comparing_since timestamp with time zone, compared bigint, differing bigint, compared_at timestamp with time zone, compare_error text'),
	('stat_worker', 'pid integer, started_at timestamp with time zone, state text, state_since timestamp with time zone, wait_event_type text, wait_event text, leased bigint, stream_pid integer, stream_host text, stream_connected_at timestamp with time zone, stream_last_event_at timestamp with time zone, stream_lag double precision, stream_gap_at timestamp with time zone, stream_gap text, stream_error text'),
	('inbound', 'did text, rkey text, uri text, event_uri text, state text, attendance regclass, tenant text, due_at timestamp with time zone, attempts integer, last_error text, seen_at timestamp with time zone'),
	('external_rsvp', 'tenant text, source_type text, source_id text, event_id text, author text, handle text, status text, said text, said_at timestamp with time zone, metadata jsonb, attendance regclass, attendance_id text, due_at timestamp with time zone, attempts integer, last_error text, seen_at timestamp with time zone'),
	('history', 'at timestamp with time zone, attendance regclass, tenant text, attendance_id text, did text, action text, outcome text, status text, uri text, cid text, detail text'),
	('queue', 'source_id bigint, attendance regclass, tenant text, attendance_id text, priority smallint, due_at timestamp with time zone, changed_at timestamp with time zone, leased boolean, attempts integer, last_error text, waits_for text'),
	('rsvp', 'did text, rkey text, uri text, cid text, event_uri text, event_cid text, status text, record jsonb, rev text, source text, changed_at timestamp with time zone, seen_at timestamp with time zone'),
	('source', 'source_id bigint, attendance regclass, tenant text, kind text, state text, reason text, since timestamp with time zone, backfill text, options jsonb, desired text, apply text, index_name text, failures integer, retry_at timestamp with time zone, attached_at timestamp with time zone'),
	('webmention_received', 'id uuid, source_id bigint, attendance regclass, tenant text, source text, target text, state text, status text, author text, author_url text, author_name text, result jsonb, http_status integer, attempts integer, next_attempt_at timestamp with time zone, last_error text, received_at timestamp with time zone, verified_at timestamp with time zone'),
	('webmention', 'source_id bigint, attendance regclass, tenant text, attendance_id text, permalink text, target text, state text, status text, told text, endpoint text, http_status integer, status_url text, status_http integer, status_text text, attempts integer, next_attempt_at timestamp with time zone, last_error text, first_sent timestamp with time zone, last_sent timestamp with time zone, removed_at timestamp with time zone'),
	('status', 'source_id bigint, attendance regclass, tenant text, attendance_id text, state text, reason_code text, reason text, did text, event_uri text, uri text, cid text, status text, attempts integer, next_attempt_at timestamp with time zone, last_error text, synced_at timestamp with time zone');

CREATE TEMP TABLE setting (name text, context text, unit text, vartype text);
INSERT INTO setting VALUES
	('rsvp_sync.allow_plaintext_credentials', 'superuser', NULL, 'bool'),
	('rsvp_sync.concurrency', 'superuser', NULL, 'integer'),
	('rsvp_sync.connections_per_host', 'superuser', NULL, 'integer'),
	('rsvp_sync.credential_key_file', 'superuser', NULL, 'string'),
	('rsvp_sync.history_retention', 'superuser', 's', 'integer'),
	('rsvp_sync.insecure_hosts', 'superuser', NULL, 'string'),
	('rsvp_sync.jetstream_url', 'superuser', NULL, 'string'),
	('rsvp_sync.max_attempts', 'superuser', NULL, 'integer'),
	('rsvp_sync.mode', 'superuser', NULL, 'enum'),
	('rsvp_sync.plc_url', 'superuser', NULL, 'string'),
	('rsvp_sync.reconcile_interval', 'superuser', 's', 'integer'),
	('rsvp_sync.request_timeout', 'superuser', 'ms', 'integer'),
	('rsvp_sync.retry_base', 'superuser', 'ms', 'integer'),
	('rsvp_sync.retry_max', 'superuser', 'ms', 'integer'),
	('rsvp_sync.settle_time', 'superuser', 'ms', 'integer'),
	('rsvp_sync.skip', 'user', NULL, 'bool'),
	('rsvp_sync.sql_timeout', 'superuser', 'ms', 'integer'),
	('rsvp_sync.user_agent_contact', 'superuser', NULL, 'string'),
	('rsvp_sync.verify_inbound', 'superuser', NULL, 'bool'),
	('rsvp_sync.withdraw_limit', 'superuser', NULL, 'integer');

-- Pure functions, which everybody may call
CREATE TEMP TABLE pure AS SELECT unnest(ARRAY['is_at_uri', 'is_did', 'is_handle', 'is_nsid',
	'is_record_key', 'is_tid', 'is_datetime', 'is_cid', 'parse_at_uri', 'tid_now', 'record_cid',
	'rsvp_status_map', 'plan', 'classify', 'rsvp_html', 'rsvp_badge', 'rsvp_rss_item', 'rsvp_ics',
	'rsvp_activity', 'parse_activity', 'validate_rsvp_submission', 'webmention_endpoint', 'parse_h_entry']) AS name;
-- Helpers of views, which are called as whoever reads the view, and what a
-- trigger's copy needs; the second column says that it runs as the definer
CREATE TEMP TABLE helper (name text, definer boolean);
INSERT INTO helper VALUES ('_log_change', false), ('_may_see', false), ('_is_all_paused', true), ('_queued_state', false),
	('_reason', false), ('_rsvp_uri', false), ('_copied', true), ('_stat_worker', true), ('_stat_stream', true);
-- What the pure functions are made of
INSERT INTO helper SELECT unnest(ARRAY['_escape', '_is_link', '_instant', '_bad_document', '_read_document',
	'_html_part', '_html_author', '_rfc822', '_rsvp_uid', '_ics_instant', '_activity', '_undo', '_activities',
	'_as_get', '_as_list', '_as_types', '_as_id', '_as_events']), false;

CREATE TEMP VIEW installed AS
SELECT p.oid, p.proname::text AS name,
	regexp_replace(pg_get_function_arguments(p.oid), '::[a-z]+(?=,|$)', '', 'g') AS arguments,
	pg_get_function_result(p.oid) AS result,
	p.provolatile::text || CASE WHEN p.proisstrict THEN 's' ELSE '-' END || p.proparallel::text AS properties,
	p.prosecdef, p.proconfig, l.lanname, p.proname !~ '^_' AS public
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'rsvp_sync'::regnamespace;

--
-- Extension and schema
--
SELECT is(format('%s %s', x.extnamespace::regnamespace, x.extrelocatable), 'pg_catalog f',
	'the extension makes its own schema, and stays there')
FROM pg_extension x WHERE x.extname = 'rsvp_sync';
SELECT matches(:'control'::text, 'superuser = true', 'it takes a superuser to create it');
SELECT doesnt_match(:'control'::text, 'trusted = true', '... and nobody else is trusted with it');
SELECT ok(has_schema_privilege('regress_contract_nobody', 'rsvp_sync', 'USAGE'), 'everybody may use the schema');
SELECT ok(NOT has_schema_privilege('regress_contract_nobody', 'rsvp_sync', 'CREATE'), 'nobody may create in it');
SELECT is_empty(
	$$SELECT pg_describe_object(d.classid, d.objid, 0)
	FROM pg_depend d
	CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'rsvp_sync')
		AND i.schema::text IS DISTINCT FROM 'rsvp_sync'
		AND NOT (i.type = 'schema' AND i.name = 'rsvp_sync')$$,
	'nothing is made in another schema');

--
-- Functions
--
SELECT is(i.arguments || ' -> ' || i.result, f.arguments || ' -> ' || f.result,
	format('%s(%s): names, types, defaults, result', f.name, f.arguments))
FROM function f LEFT JOIN installed i USING (name, arguments)
ORDER BY f.name, f.arguments;
SELECT is(i.properties, f.properties,
	format('%s(%s): volatility, strictness, parallel safety', f.name, f.arguments))
FROM function f LEFT JOIN installed i USING (name, arguments)
ORDER BY f.name, f.arguments;

SELECT is_empty(
	$$SELECT name, arguments FROM installed
	WHERE public AND (name, arguments) NOT IN (SELECT name, arguments FROM function)$$,
	'no function is public that is not in the contract');

--
-- Rights
--
SELECT set_eq(
	$$SELECT DISTINCT name FROM installed
	WHERE has_function_privilege('regress_contract_nobody', oid, 'EXECUTE')$$,
	$$SELECT name FROM pure UNION ALL SELECT name FROM helper$$,
	'everybody may call the pure functions, the helpers of views, and nothing else');
SELECT set_eq(
	$$SELECT name FROM installed
	WHERE prosecdef AND has_function_privilege('regress_contract_nobody', oid, 'EXECUTE')$$,
	$$SELECT name FROM helper WHERE definer$$,
	'what everybody may call does not run as the definer, but for a helper that says yes or no');
SELECT is_empty(
	$$SELECT name FROM installed i JOIN pg_proc p USING (oid)
	WHERE i.name = '_copied' AND (p.pronargs > 0 OR p.prorettype <> 'boolean'::regtype)$$,
	'... which takes nothing, and returns a boolean');
SELECT is_empty(
	$$SELECT c.relname, x.privilege_type
	FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) x
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND x.grantee = 0
	UNION ALL
	SELECT a.attname, x.privilege_type
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	CROSS JOIN LATERAL aclexplode(a.attacl) x
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND x.grantee = 0$$,
	'no table, view, sequence or column is granted to everybody');
SELECT is_empty(
	$$SELECT name, arguments FROM installed
	WHERE lanname IN ('sql', 'plpgsql')
		AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
		AND NOT EXISTS (SELECT FROM pg_proc b WHERE b.oid = installed.oid AND b.prosqlbody IS NOT NULL)$$,
	'every function in SQL or PL/pgSQL has a fixed search_path, or is bound to its names');
SELECT is_empty(
	$$SELECT name, arguments FROM installed
	WHERE prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)$$,
	'... and so has everything that runs as the definer');
SELECT is_empty(
	$$SELECT name FROM installed WHERE lanname NOT IN ('c', 'sql', 'plpgsql')$$,
	'functions are in C, SQL or PL/pgSQL');
SELECT is_empty(
	$$SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f', 'S')
		AND c.relname !~ '^_'$$,
	'tables and sequences are private');

--
-- Views
--
SELECT is((SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, -1), ', ' ORDER BY a.attnum)
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relname = v.name AND c.relkind = 'v'
		AND a.attnum > 0), v.columns, format('view %s: columns', v.name))
FROM view v;
SELECT is_empty(
	$$SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^_'
		AND c.relname NOT IN (SELECT name FROM view)$$,
	'no view is public that is not in the contract');
SELECT is_empty(
	$$SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^_'
		AND NOT coalesce('security_barrier=true' = ANY (c.reloptions), false)$$,
	'views show no row to a function of their reader that they do not show to him');
SELECT is_empty(
	$$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'v'
		AND a.attname ~ 'password|credential|secret|envelope|session|token|jwk'$$,
	'no view has a secret');

--
-- Comments
--
SELECT is_empty(
	$$SELECT i.name, i.arguments FROM installed i
	WHERE coalesce(obj_description(i.oid, 'pg_proc'), '') = ''$$,
	'every function has a comment');
SELECT is_empty(
	$$SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relname !~ '^_'
		AND c.relkind IN ('v', 'm', 'r') AND coalesce(obj_description(c.oid, 'pg_class'), '') = ''$$,
	'every view has a comment');
SELECT is_empty(
	$$SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relname !~ '^_'
		AND c.relkind = 'c' AND coalesce(obj_description(c.reltype, 'pg_type'), '') = ''$$,
	'every type has a comment');
SELECT isnt(obj_description('rsvp_sync'::regnamespace, 'pg_namespace'), NULL, 'the schema has a comment');

--
-- Settings
--
SELECT results_eq(
	format($$SELECT name, context, unit, vartype FROM pg_settings WHERE name = %L$$, s.name),
	format($$VALUES (%L::text, %L::text, %L::text, %L::text)$$, s.name, s.context, s.unit, s.vartype),
	format('setting %s: who may set it, unit, type', s.name))
FROM setting s;
SELECT set_eq(
	$$SELECT name FROM pg_settings WHERE name LIKE 'rsvp\_sync.%'$$,
	$$SELECT name FROM setting$$, 'there are no other settings');
SELECT is_empty(
	$$SELECT name FROM pg_settings WHERE name LIKE 'rsvp\_sync.%' AND short_desc = ''$$,
	'every setting has a description');

--
-- Immutable ones where PostgreSQL lets nothing else stand
--
SELECT lives_ok($$
	CREATE TEMP TABLE checked (
		uri text CHECK (rsvp_sync.is_at_uri(uri)),
		did text CHECK (rsvp_sync.is_did(did)),
		handle text CHECK (rsvp_sync.is_handle(handle)),
		nsid text CHECK (rsvp_sync.is_nsid(nsid)),
		rkey text CHECK (rsvp_sync.is_record_key(rkey)),
		tid text CHECK (rsvp_sync.is_tid(tid)),
		at text CHECK (rsvp_sync.is_datetime(at)),
		cid text CHECK (rsvp_sync.is_cid(cid)),
		status text CHECK (rsvp_sync.rsvp_status_map(status, 'openmeet', 'openmeet') IS NOT NULL),
		record jsonb,
		authority text GENERATED ALWAYS AS ((rsvp_sync.parse_at_uri(uri)).authority) STORED,
		token text GENERATED ALWAYS AS (rsvp_sync.rsvp_status_map(status, 'openmeet', 'atproto')) STORED,
		record_cid text GENERATED ALWAYS AS (rsvp_sync.record_cid(record)) STORED,
		good boolean GENERATED ALWAYS AS (rsvp_sync.is_at_uri(uri) AND rsvp_sync.is_did(did)
			AND rsvp_sync.is_handle(handle) AND rsvp_sync.is_nsid(nsid)
			AND rsvp_sync.is_record_key(rkey) AND rsvp_sync.is_tid(tid)
			AND rsvp_sync.is_datetime(at) AND rsvp_sync.is_cid(cid)) STORED)$$,
	'immutable functions stand in CHECK constraints and generated columns');
SELECT lives_ok($$
	INSERT INTO checked VALUES ('at://did:web:a.example/community.lexicon.calendar.rsvp/3jzfcijpj2z2a',
		'did:web:a.example', 'a.example', 'community.lexicon.calendar.rsvp', '3jzfcijpj2z2a', '3jzfcijpj2z2a',
		'2025-01-02T03:04:05Z', 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a',
		'confirmed', '{}')$$, '... and take what is good');
SELECT results_eq('SELECT good, authority, token, rsvp_sync.is_cid(record_cid) FROM checked',
	$$VALUES (true, 'did:web:a.example', 'community.lexicon.calendar.rsvp#going', true)$$, '... and compute');
SELECT throws_ok(format('INSERT INTO checked (%I) VALUES (%L)', c, 'not / good'), '23514', NULL,
	format('... and refuse a bad %s', c))
FROM unnest(ARRAY['uri', 'did', 'handle', 'nsid', 'rkey', 'tid', 'at', 'cid', 'status']) AS c;

--
-- A schema of that name is not adopted
--
DROP TABLE checked;
DROP VIEW installed;
SELECT lives_ok('DROP EXTENSION rsvp_sync', 'the extension can be dropped');
SELECT hasnt_schema('rsvp_sync');
SELECT lives_ok('CREATE SCHEMA rsvp_sync AUTHORIZATION regress_contract_nobody', 'somebody plants the schema');
SELECT throws_ok('CREATE EXTENSION rsvp_sync', '42P06', NULL, 'CREATE EXTENSION does not adopt it');

SELECT * FROM finish();
ROLLBACK;
