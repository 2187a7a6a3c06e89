-- Accounts: envelopes, the key file, who owns what, who sees what, grants.
-- Passwords here are words that must not turn up in any output below but
-- where _open() is asked for them.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET client_encoding = 'UTF8';
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
CREATE SCHEMA account_test;
CREATE ROLE regress_app;
CREATE ROLE regress_other;
CREATE ROLE regress_member IN ROLE regress_app;
CREATE ROLE regress_watch;
GRANT USAGE, CREATE ON SCHEMA account_test TO PUBLIC;

-- How a statement is refused.  Nothing of the error, its context included,
-- may hold a password.
CREATE FUNCTION account_test.refused(statement text,
	OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	EXECUTE statement;
	message := 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE,
		message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
	-- our own EXECUTE adds the statement as the outermost context
	context := replace(context, statement, '');
	IF concat(message, detail, hint, context) ~ 'xyzzy|plugh|correct horse' THEN
		message := 'THE ERROR HOLDS THE PASSWORD: ' || message;
	END IF;
END
$$;

-- The server writes the key file, so that it is the server's user's.  Lines
-- are separated by '|' here.
CREATE FUNCTION account_test.write_keys(content text, mode text DEFAULT '0600')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('COPY (SELECT %L) TO PROGRAM %L',
		translate(encode(convert_to(replace(content, '|', E'\n'), 'UTF8'),
						 'base64'), E'\n', ''),
		'umask 077; rm -f rsvp_sync_test.keys; '
			'base64 -d > rsvp_sync_test.keys; chmod ' || mode
			|| ' rsvp_sync_test.keys');
END
$$;
CREATE FUNCTION account_test.refused_keys(content text,
	mode text DEFAULT '0600',
	OUT state text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM account_test.write_keys(content, mode);
	SELECT r.state, r.message, r.hint INTO state, message, hint
	FROM account_test.refused(
		$r$SELECT rsvp_sync._seal('xyzzy', 'did:web:a')$r$) r;
END
$$;

-- 32 bytes, 0 to 31; and 255 down to 224
\set key1 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='
\set key2 '//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA='
\set alice 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
\set bob 'did:web:bob.example.com'
\x on

--
-- Without a key file
--
SELECT * FROM account_test.refused(
	$$SELECT rsvp_sync._seal('xyzzy', 'did:plc:ewvi7nxzyoun6zhxrhs64oiz')$$);
SELECT * FROM account_test.refused(
	$$SELECT rsvp_sync.connect_account('did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'xyzzy')$$);
SELECT * FROM account_test.refused(
	$$SELECT rsvp_sync._open('{"v":1,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"","authTag":"RdBxzRot/YLJyhUP8k7WbQ=="}', 'did:web:a')$$);
SELECT * FROM account_test.refused(
	$$SELECT rsvp_sync._open('{"v":0,"plaintext":"eHl6enk="}', 'did:web:a')$$);
SELECT * FROM account_test.refused(
	$$SELECT rsvp_sync.connect_account_encrypted('did:web:a', '{"v":0,"plaintext":"eHl6enk="}')$$);
SET rsvp_sync.allow_plaintext_credentials = on;
SELECT rsvp_sync._seal('xyzzy', 'did:web:a');
SELECT rsvp_sync._open(rsvp_sync._seal('xyzzy', 'did:web:a'), 'did:web:a');
SELECT rsvp_sync._open(rsvp_sync._seal('', 'did:web:a'), 'did:web:a') = '' AS empty;
RESET rsvp_sync.allow_plaintext_credentials;

--
-- The key file: where it is, whose, with what rights, and what is in it
--
SET rsvp_sync.credential_key_file = 'rsvp_sync_test.none';
SELECT * FROM account_test.refused($$SELECT rsvp_sync._seal('xyzzy', 'did:web:a')$$);
SET rsvp_sync.credential_key_file = 'base';
SELECT * FROM account_test.refused($$SELECT rsvp_sync._seal('xyzzy', 'did:web:a')$$);
SET rsvp_sync.credential_key_file = 'rsvp_sync_test.keys';
\x off
SELECT mode, state, message
FROM unnest(ARRAY['0644', '0640', '0620', '0604', '0611']) mode,
	LATERAL account_test.refused_keys('1:' || :'key1', mode);
-- what is wrong in a line is not shown: it may be a key
SELECT content, state, message
FROM unnest(ARRAY['', '# no key|', 'x', '0:' || :'key1', '-1:' || :'key1',
	'1 :' || :'key1', '1', '1:', '1:AAECAw==', '1:' || :'key1' || 'AAAA',
	'99999999999:' || :'key1', '1:' || left(:'key1', 43),
	'# keys|1:' || :'key1' || '||1:' || :'key2']) content,
	LATERAL account_test.refused_keys(content);
\x on
SELECT * FROM account_test.refused_keys('1:' || :'key1', '0644');
SELECT * FROM account_test.refused_keys('1:x');
SELECT * FROM account_test.refused_keys('# none');
SELECT * FROM account_test.refused_keys(repeat('# comment|', 7000));
-- as many keys as there may be, and one more
SELECT message FROM account_test.refused_keys((SELECT string_agg(n || ':' || :'key1', '|') FROM generate_series(1, 1024) n));
SELECT message FROM account_test.refused_keys((SELECT string_agg(n || ':' || :'key1', '|') FROM generate_series(1, 1025) n));
-- only a superuser learns the path
SELECT account_test.write_keys('none');
GRANT EXECUTE ON FUNCTION rsvp_sync._seal(text, text) TO regress_app;
SET ROLE regress_app;
SELECT message FROM account_test.refused($$SELECT rsvp_sync._seal('xyzzy', 'did:web:a')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION rsvp_sync._seal(text, text) FROM regress_app;

--
-- Envelopes
--
\x off
SELECT account_test.write_keys('# ours|  1:' || :'key1' || E'\r', '0400');
CREATE TABLE account_test.envelope AS
SELECT rsvp_sync._seal('xyzzy', :'alice')::jsonb AS e;
SELECT e->>'v' AS v, length(decode(e->>'iv', 'base64')) AS iv,
	length(decode(e->>'ciphertext', 'base64')) AS ciphertext,
	length(decode(e->>'authTag', 'base64')) AS tag, e->>'aad' AS aad
FROM account_test.envelope;
SELECT rsvp_sync._open(e::text, :'alice') FROM account_test.envelope;
-- never the same twice
SELECT count(DISTINCT rsvp_sync._seal('xyzzy', :'alice')) FROM generate_series(1, 100);
-- any length, any character, none at all
SELECT count(*) FROM generate_series(0, 2000, 7) n,
	LATERAL (SELECT repeat('ä"\😀', n) AS secret) s
WHERE rsvp_sync._open(rsvp_sync._seal(secret, :'alice'), :'alice') = secret;
-- a newer key encrypts, the older one still decrypts
SELECT account_test.write_keys('1:' || :'key1' || '|2:' || :'key2');
SELECT rsvp_sync._seal('plugh', :'alice')::jsonb->>'v' AS v;
SELECT account_test.write_keys('2:' || :'key2' || '|1:' || :'key1');
SELECT rsvp_sync._seal('plugh', :'alice')::jsonb->>'v' AS v;
SELECT rsvp_sync._open(e::text, :'alice') FROM account_test.envelope;
-- made by another implementation: OpenMeet's, without the DID, and one with it
\set openmeet '{"v":1,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"x1/DLj60246DsMMsXbrrYB0SehK2eYIQNznCmg==","authTag":"znYzLvcPO4oEooRpuirEWg=="}'
\set bound '{"v":2,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"TvmDJIcBg+cerK5e6g==","authTag":"zE7UO2PkTSTatqWmQ7MyPg==","aad":"did"}'
SELECT rsvp_sync._open(:'openmeet', :'alice'), rsvp_sync._open(:'openmeet', :'bob');
SELECT rsvp_sync._open(:'bound', :'alice');
\x on
-- for another DID; as if it were bound to none, or were bound
SELECT r.* FROM account_test.refused(format('SELECT rsvp_sync._open(%L, %L)', :'bound', :'bob')) r;
SELECT r.* FROM account_test.refused(format('SELECT rsvp_sync._open(%L, %L)',
	:'bound'::jsonb - 'aad', :'alice')) r;
SELECT r.message FROM account_test.refused(format('SELECT rsvp_sync._open(%L, %L)',
	:'openmeet'::jsonb || '{"aad":"did"}', :'alice')) r;
\x off
-- one bit of anything changed
SELECT member, bit, r.state, r.message
FROM account_test.envelope,
	unnest(ARRAY['iv', 'ciphertext', 'authTag']) member,
	unnest(ARRAY[0, 39]) bit,
	LATERAL (SELECT decode(e->>member, 'base64') AS b) d,
	LATERAL account_test.refused(format('SELECT rsvp_sync._open(%L, %L)',
		jsonb_set(e, ARRAY[member], to_jsonb(encode(
			set_bit(b, bit, 1 - get_bit(b, bit)), 'base64'))), :'alice')) r;
-- another key of that number, and one that is not there
SELECT account_test.write_keys('1:' || :'key2' || '|3:' || :'key1', '0600');
\x on
SELECT r.* FROM account_test.refused(format('SELECT rsvp_sync._open(%L, %L)', :'openmeet', :'alice')) r;
SELECT r.* FROM account_test.refused(format('SELECT rsvp_sync._open(%L, %L)', :'bound', :'alice')) r;
\x off
-- no envelopes
SELECT account_test.write_keys('2:' || :'key2' || '|1:' || :'key1', '0600');
SELECT e, r.state, r.message, r.detail FROM unnest(ARRAY[
	'', 'xyzzy', '[]', '"xyzzy"', '{}', '{"v":"1"}', '{"v":-1}', '{"v":4294967297}',
	'{"v":1.0}', '{"v":1,"v":1}', '{"v":1} {}', '{"v":1}', '{"v":1,"ciphertext":5}',
	'{"v":1,"ciphertext":"a"}', '{"v":1,"ciphertext":"","aad":"handle"}',
	'{"v":1,"ciphertext":"","aad":null}',
	'{"v":1,"ciphertext":"","iv":"AAAA","authTag":"RdBxzRot/YLJyhUP8k7WbQ=="}',
	'{"v":1,"ciphertext":"","iv":"Dw4NDAsKCQgHBgUEAAAA","authTag":"RdBxzRot/YLJyhUP8k7WbQ=="}',
	'{"v":1,"ciphertext":"","iv":"Dw4NDAsKCQgHBgUE","authTag":"RdBxzRot"}',
	'{"v":1,"ciphertext":"","iv":"Dw4NDAsKCQgHBgUE"}',
	'{"v":0}',
	-- decrypts to a, NUL, b
	'{"v":1,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"xTDT","authTag":"dLAQ4nxnn8oSoPtEHk+FGA==","aad":"did"}'
	]) e,
	LATERAL account_test.refused(format('SELECT rsvp_sync._open(%L, %L)', e, :'alice')) r;
SELECT r.message, r.detail FROM account_test.refused(format(
	'SELECT rsvp_sync._open(%L, %L)', '{"v":1,"ciphertext":"' || repeat('A', 3000000) || '"}', :'alice')) r;
SELECT r.* FROM account_test.refused(format('SELECT rsvp_sync._seal(repeat(%L, 300000), %L)', 'xyzzy', :'alice')) r;

--
-- Rights before anything is granted
--
SET ROLE regress_app;
SELECT r.state, r.message FROM unnest(ARRAY[
	$$rsvp_sync.connect_account('did:web:a', 'xyzzy')$$,
	$$rsvp_sync.connect_account_encrypted('did:web:a', 'xyzzy')$$,
	$$rsvp_sync._connect_account(10, 'did:web:a', 'xyzzy', NULL, NULL)$$,
	$$rsvp_sync._seal('xyzzy', 'did:web:a')$$,
	$$rsvp_sync._open('xyzzy', 'did:web:a')$$,
	$$rsvp_sync.activate()$$,
	$$rsvp_sync.grant_application('regress_app')$$,
	$$rsvp_sync.grant_monitor('regress_app')$$,
	$$rsvp_sync.account_status('did:web:a')$$,
	$$* FROM rsvp_sync.account$$,
	$$* FROM rsvp_sync._account$$]) call,
	LATERAL account_test.refused('SELECT ' || call) r;
RESET ROLE;
-- no function here is anybody's (but _copied(), which the view status asks),
-- none lacks a search_path of its own, and all that run as their owner are
-- private or take no secret
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'rsvp_sync'::regnamespace
	AND p.proname <> '_copied'
	AND p.proname ~ '^_?(connect|disconnect|grant|revoke|activate|copied|ensure_inst|this_inst|seal|open|role_oid|check|refuse|account)'
	AND (has_function_privilege('regress_app', p.oid, 'EXECUTE')
		OR p.proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']
		OR obj_description(p.oid, 'pg_proc') IS NULL
		OR p.prosecdef AND p.proname !~ '^_' AND p.proname <> 'activate');

--
-- grant_application, grant_monitor
--
\x on
SELECT * FROM account_test.refused($$SELECT rsvp_sync.grant_application('regress_nobody')$$);
SELECT message FROM account_test.refused($$SELECT rsvp_sync.grant_application('public')$$);
SELECT state, message FROM account_test.refused($$SELECT rsvp_sync.grant_monitor(NULL)$$);
GRANT EXECUTE ON FUNCTION rsvp_sync.grant_application(name),
	rsvp_sync._grant_names(name, name[], name[]), rsvp_sync._role_oid(name) TO regress_other;
SET ROLE regress_other;
SELECT * FROM account_test.refused($$SELECT rsvp_sync.grant_application('regress_other')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION rsvp_sync.grant_application(name),
	rsvp_sync._grant_names(name, name[], name[]), rsvp_sync._role_oid(name) FROM regress_other;
\x off
SELECT rsvp_sync.grant_application('regress_app');
SELECT rsvp_sync.grant_application('regress_other');
SELECT rsvp_sync.grant_application('regress_member');
SELECT rsvp_sync.grant_monitor('regress_watch');
-- of this room; nothing private, and nothing to change for who watches
SELECT r.role, p.proname FROM pg_proc p,
	unnest(ARRAY['regress_app', 'regress_watch']) r(role)
WHERE p.pronamespace = 'rsvp_sync'::regnamespace AND p.proname ~ 'account|activate|grant|^_'
	AND p.proname NOT IN ('_log_change', '_stat_worker', '_stat_stream', '_copied', '_may_see',
		'_is_all_paused') AND p.provolatile <> 'i'
	AND has_function_privilege(r.role, p.oid, 'EXECUTE')
ORDER BY 1, 2;
SELECT has_table_privilege('regress_app', 'rsvp_sync.account', 'SELECT') AS app,
	has_table_privilege('regress_watch', 'rsvp_sync.account', 'SELECT') AS watch,
	has_table_privilege('regress_app', 'rsvp_sync._account', 'SELECT') AS storage;

--
-- Connecting
--
TRUNCATE rsvp_sync._installation, rsvp_sync._change_log;
SELECT rsvp_sync._copied();
SET ROLE regress_app;
\x on
SELECT call, r.* FROM unnest(ARRAY[
	$$NULL, 'xyzzy'$$,
	$$'', 'xyzzy'$$,
	$$'alice.example.com', 'xyzzy'$$,
	$$'did:plc:', 'xyzzy'$$,
	-- the wrong way round
	$$'plugh-plugh-plugh-plugh', 'did:web:a'$$,
	$$'did:web:a', NULL$$,
	$$'did:web:a', ''$$,
	$$'did:web:a', 'xyzzy', handle => '@a.example.com'$$]) call,
	LATERAL account_test.refused(format('SELECT rsvp_sync.connect_account(%s)', call)) r;
SELECT r.* FROM account_test.refused($$SELECT rsvp_sync.connect_account('did:web:a', 'xyzzy', 'pds.example.com')$$) r;
\x off
SELECT pds, r.state, r.message FROM unnest(ARRAY['', '/', 'https://', 'ftp://a.example',
	'https://me:xyzzy@a.example', 'https://me@a.example', 'https://a.example/xrpc',
	'https://a.example//', 'https://a.example?q', 'https://a.example#f',
	'https://a.example:', 'https://a.example:0', 'https://a.example:65536',
	'https://a.example:443x', 'https://a b.example', E'https://a.example\n',
	'https://[::1', 'https://ä.example', ' https://a.example']) pds,
	LATERAL account_test.refused(format($$SELECT rsvp_sync.connect_account('did:web:a', 'xyzzy', %L)$$, pds)) r;
SELECT * FROM rsvp_sync.account;
RESET ROLE;
SELECT count(*) AS nothing_was_changed FROM rsvp_sync._account, rsvp_sync._installation, rsvp_sync._change_log;

SET ROLE regress_app;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy', 'HTTPS://PDS.Example.com:8443/', 'alice.example.com');
SELECT did, handle, pds, owner, auth, state, state_since > now() - interval '1 hour' AS fresh, rate_limited_until, last_error, waiting
FROM rsvp_sync.account;
RESET ROLE;
SELECT rsvp_sync._open(credential, did) FROM rsvp_sync._account;
SELECT source_id, key, op FROM rsvp_sync._change_log;
SELECT system_identifier = (SELECT c.system_identifier FROM pg_control_system() c) AS system,
	database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS database
FROM rsvp_sync._installation;
-- the pds as each of these is stored
SET ROLE regress_app;
SELECT pds, (SELECT a.pds FROM rsvp_sync.connect_account('did:web:a', 'xyzzy', p.pds), rsvp_sync.account_status('did:web:a') a) AS first_time_none
FROM unnest(ARRAY['http://localhost:2583']) p(pds);
SELECT a.pds FROM rsvp_sync.account_status('did:web:a') a;
SELECT rsvp_sync.connect_account('did:web:a', 'xyzzy', 'https://[2001:DB8::1]:443/');
SELECT a.pds FROM rsvp_sync.account_status('did:web:a') a;
SELECT rsvp_sync.connect_account('did:web:a', 'xyzzy');
SELECT a.pds FROM rsvp_sync.account_status('did:web:a') a;
SELECT rsvp_sync.disconnect_account('did:web:a');
-- not mine, not there
SELECT count(*) FROM rsvp_sync.account_status('did:web:a');
RESET ROLE;

-- again, after trouble: starts afresh; a handle that is known stays
UPDATE rsvp_sync._account SET state = 'wrong_password', last_error = 'no', session = 'token',
	state_since = 'epoch', connected_at = 'epoch';
SET ROLE regress_app;
SELECT rsvp_sync.connect_account(:'alice', 'plugh');
RESET ROLE;
SELECT did, owner, handle, pds, state, last_error, session, state_since > now() - interval '1 hour' AS fresh,
	rsvp_sync._open(credential, did) FROM rsvp_sync._account;
-- by a member, by a superuser: the owner stays
SET ROLE regress_member;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy');
SELECT owner FROM rsvp_sync.account;
RESET ROLE;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy', NULL, 'alice2.example.com');
SELECT owner, handle FROM rsvp_sync.account;
-- by someone else
SET ROLE regress_other;
\x on
SELECT * FROM account_test.refused(format($$SELECT rsvp_sync.connect_account(%L, 'plugh')$$, :'alice'));
\x off
-- through a function of another role: it is that role's account
RESET ROLE;
SET ROLE regress_app;
CREATE FUNCTION account_test.connect(did text) RETURNS void LANGUAGE sql SECURITY DEFINER
AS $$SELECT rsvp_sync.connect_account(did, 'xyzzy')$$;
SET ROLE regress_other;
SELECT account_test.connect(:'bob');
SELECT count(*) FROM rsvp_sync.account;
RESET ROLE;
SELECT did, owner FROM rsvp_sync.account ORDER BY did;
-- the same plan and the same call several times
PREPARE connect(text, text) AS SELECT rsvp_sync.connect_account($1, $2), rsvp_sync.connect_account('did:web:c', 'plugh');
EXECUTE connect('did:web:b', 'xyzzy');
EXECUTE connect('did:web:b', 'xyzzy');
SELECT did, rsvp_sync._open(credential, did) FROM rsvp_sync._account WHERE did ~ 'web:[bc]$' ORDER BY 1;
SELECT rsvp_sync.connect_account('did:web:c', 'xyzzy') FROM generate_series(1, 3);
SELECT did, rsvp_sync._open(credential, did) FROM rsvp_sync._account WHERE did = 'did:web:c';
SELECT rsvp_sync.disconnect_account(did) FROM rsvp_sync.account WHERE did ~ 'web:[bc]$';

-- encrypted by someone else: opened now, kept bound to the DID
SET ROLE regress_app;
\x on
SELECT call, r.* FROM unnest(ARRAY[
	$$'did:web:a', NULL$$, $$'did:web:a', ''$$, $$'did:web:a', 'xyzzy'$$,
	$$'did:web:a', '{"v":7,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"","authTag":"RdBxzRot/YLJyhUP8k7WbQ=="}'$$,
	-- the empty password
	$$'did:web:a', '{"v":1,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"","authTag":"RdBxzRot/YLJyhUP8k7WbQ=="}'$$,
	$$'did:web:a', '{"v":1,"iv":"Dw4NDAsKCQgHBgUE","ciphertext":"","authTag":"RdBxzRot/YLJyhUP8k7WbA=="}'$$
	]) call,
	LATERAL account_test.refused(format('SELECT rsvp_sync.connect_account_encrypted(%s)', call)) r;
\x off
SELECT rsvp_sync.connect_account_encrypted(:'alice', :'openmeet', 'https://pds.example.com');
RESET ROLE;
SELECT credential::jsonb->>'v' AS v, credential::jsonb->>'aad' AS aad, rsvp_sync._open(credential, did)
FROM rsvp_sync._account WHERE did = :'alice';

--
-- Granting and seeing
--
SET ROLE regress_other;
SELECT did FROM rsvp_sync.account;
\x on
SELECT call, r.* FROM unnest(ARRAY[
	format('rsvp_sync.grant_account(%L, %L)', :'alice', 'regress_other'),
	format('rsvp_sync.revoke_account(%L, %L)', :'alice', 'regress_app'),
	format('rsvp_sync.disconnect_account(%L)', :'alice'),
	format('rsvp_sync.disconnect_account(%L)', 'did:web:nobody'),
	'rsvp_sync.grant_account(NULL, NULL)']) call,
	LATERAL account_test.refused('SELECT ' || call) r;
SET ROLE regress_app;
SELECT call, r.* FROM unnest(ARRAY[
	format('rsvp_sync.grant_account(%L, %L)', :'alice', 'regress_nobody'),
	format('rsvp_sync.grant_account(%L, NULL)', :'alice'),
	format('rsvp_sync.revoke_account(%L, %L)', :'alice', 'regress_nobody')]) call,
	LATERAL account_test.refused('SELECT ' || call) r;
\x off
SELECT rsvp_sync.grant_account(:'alice', 'regress_other');
SELECT rsvp_sync.grant_account(:'alice', 'regress_other');
SET ROLE regress_other;
SELECT did, owner FROM rsvp_sync.account;
-- a grant is to use, not to change
SELECT state, message FROM account_test.refused(format($$SELECT rsvp_sync.connect_account(%L, 'plugh')$$, :'alice'));
SELECT state, message FROM account_test.refused(format($$SELECT rsvp_sync.grant_account(%L, 'regress_watch')$$, :'alice'));
SET ROLE regress_member;
SELECT did FROM rsvp_sync.account ORDER BY did;
SELECT rsvp_sync.revoke_account(:'alice', 'regress_other');
SELECT rsvp_sync.revoke_account(:'alice', 'regress_other');
SET ROLE regress_other;
SELECT did FROM rsvp_sync.account;
SET ROLE regress_watch;
SELECT count(*) FROM rsvp_sync.account;
RESET ROLE;

-- no column of the view holds a secret, whoever looks; nor can it be lured out
-- by a function that is cheaper than the view's own condition
SELECT count(*) FROM rsvp_sync.account a, rsvp_sync._account s
WHERE strpos(a::text, s.credential) > 0 OR a::text ~ 'xyzzy|plugh|correct horse|ciphertext';
SELECT attname FROM pg_attribute WHERE attrelid = 'rsvp_sync.account'::regclass AND attnum > 0 ORDER BY attnum;
SET ROLE regress_other;
CREATE FUNCTION account_test.spy(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
AS $$BEGIN RAISE WARNING 'seen: %', $1; RETURN true; END$$;
SELECT did FROM rsvp_sync.account WHERE account_test.spy(did);
RESET ROLE;

-- waiting: keys of the account that are blocked
INSERT INTO rsvp_sync._source (source_id, attendance, attendance_name, kind, search_path)
VALUES (-1, 'account_test.envelope', 'envelope', 'query', '');
INSERT INTO rsvp_sync._intent (source_id, key, did, state)
SELECT -1, n, :'alice', CASE WHEN n < 4 THEN 'blocked' ELSE 'done' END FROM generate_series(1, 9) n;
SELECT did, waiting FROM rsvp_sync.account ORDER BY did;
DELETE FROM rsvp_sync._source WHERE source_id = -1;

-- an account whose owner was dropped: a superuser takes it over
CREATE ROLE regress_gone;
SELECT rsvp_sync.grant_application('regress_gone');
SET ROLE regress_gone;
SELECT rsvp_sync.connect_account('did:web:gone', 'xyzzy');
RESET ROLE;
DROP OWNED BY regress_gone;
DROP ROLE regress_gone;
SET ROLE regress_app;
SELECT state FROM account_test.refused($$SELECT rsvp_sync.connect_account('did:web:gone', 'plugh')$$);
RESET ROLE;
SELECT rsvp_sync.connect_account('did:web:gone', 'plugh');
SELECT owner::text = current_user AS mine FROM rsvp_sync.account_status('did:web:gone');

--
-- Disconnecting
--
TRUNCATE rsvp_sync._change_log;
SELECT rsvp_sync.disconnect_account('did:web:gone');
SET ROLE regress_app;
SELECT rsvp_sync.grant_account(:'alice', 'regress_other');
SELECT rsvp_sync.disconnect_account(:'alice', NULL);
SELECT state, message FROM account_test.refused(format('SELECT rsvp_sync.disconnect_account(%L)', :'alice'));
SELECT did FROM rsvp_sync.account;
RESET ROLE;
SELECT count(*) FROM rsvp_sync._account_grant;
SELECT source_id, key, op FROM rsvp_sync._change_log;

--
-- New keys: rekey()
--
SELECT account_test.write_keys('1:' || :'key1', '0600');
SET ROLE regress_app;
SELECT rsvp_sync.connect_account(d, 'xyzzy ' || d) FROM unnest(ARRAY['did:web:a', 'did:web:b', 'did:web:c']) d;
SELECT state, message FROM account_test.refused('SELECT rsvp_sync.rekey()');
RESET ROLE;
UPDATE rsvp_sync._account SET session = rsvp_sync._seal('token of ' || did, did) WHERE did <> 'did:web:c';
INSERT INTO rsvp_sync._oauth_client (client_id, owner, jwk) VALUES ('https://app.example.com/client.json', 'regress_app', rsvp_sync._seal('{"d": "xyzzy"}', 'https://app.example.com/client.json'));
SELECT rsvp_sync.rekey() AS all_are_of_the_only_key;
SELECT account_test.write_keys('2:' || :'key2' || '|1:' || :'key1', '0600');
SELECT rsvp_sync.rekey();
SELECT rsvp_sync.rekey() AS nothing_left;
-- opens without the old key, as what it was
SELECT account_test.write_keys('2:' || :'key2', '0600');
SELECT did, credential::jsonb ->> 'v' AS v, rsvp_sync._open(credential, did), rsvp_sync._open(session, did) AS session
FROM rsvp_sync._account ORDER BY did;
SELECT jwk::jsonb ->> 'v' AS v, rsvp_sync._open(jwk, client_id) FROM rsvp_sync._oauth_client;
DELETE FROM rsvp_sync._oauth_client;
-- not bound to its DID yet
UPDATE rsvp_sync._account SET credential = :'openmeet' WHERE did = 'did:web:c';
SELECT account_test.write_keys('2:' || :'key2' || '|1:' || :'key1', '0600');
SELECT rsvp_sync.rekey();
SELECT credential::jsonb ->> 'aad' AS aad, rsvp_sync._open(credential, did) FROM rsvp_sync._account WHERE did = 'did:web:c';
-- one whose key is lost does not stop the others
SELECT account_test.write_keys('9:' || :'key1' || '|2:' || :'key2', '0600');
UPDATE rsvp_sync._account SET credential = replace(credential, '"v":2', '"v":7') WHERE did = 'did:web:b';
SELECT rsvp_sync.rekey();
SELECT did, credential::jsonb ->> 'v' AS v, session::jsonb ->> 'v' AS session FROM rsvp_sync._account ORDER BY did;
-- interrupted: nothing is lost
SELECT account_test.write_keys('10:' || :'key2' || '|9:' || :'key1' || '|2:' || :'key2', '0600');
BEGIN;
SELECT rsvp_sync.rekey();
ROLLBACK;
SELECT did, rsvp_sync._open(credential, did) FROM rsvp_sync._account WHERE did <> 'did:web:b' ORDER BY did;
\x on
SELECT account_test.write_keys('no key', '0600');
SELECT * FROM account_test.refused('SELECT rsvp_sync.rekey()');
\x off
SELECT account_test.write_keys('2:' || :'key2' || '|1:' || :'key1', '0600');
SET ROLE regress_app;
SELECT rsvp_sync.disconnect_account(did) FROM rsvp_sync.account;

--
-- Leaving.  There is no worker here, so that what it does is done by hand.
--
CREATE TABLE account_test.mine (id text PRIMARY KEY, did text, event_uri text, status text);
SET ROLE regress_other;
CREATE TABLE account_test.others (id text PRIMARY KEY, did text, event_uri text, status text);
SELECT rsvp_sync.attach('account_test.others', 'SELECT * FROM account_test.others') > 0 AS attached;
SET ROLE regress_app;
SELECT rsvp_sync.attach('account_test.mine', 'SELECT * FROM account_test.mine') > 0 AS attached;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy', 'https://pds.example.com', 'alice.example.com');
SELECT rsvp_sync.grant_account(:'alice', 'regress_member');
INSERT INTO account_test.mine SELECT n, :'alice', 'at://did:web:o/community.lexicon.calendar.event/' || n, 'confirmed' FROM generate_series(1, 3) n;
RESET ROLE;
UPDATE rsvp_sync._account SET state = 'connected', session = rsvp_sync._seal('plugh', did), last_error = NULL WHERE did = :'alice';
INSERT INTO rsvp_sync._intent (source_id, key, did, event_uri, live, local, local_at, bond, wrote, rkey, base_local, base_cid, state, reason_code, reason)
SELECT s.source_id, n, :'alice', 'at://did:web:o/community.lexicon.calendar.event/' || n, true, 'going', 'epoch', 'own', true, 'r' || n, 'going', 'c' || n, 'done', 'published', 'fine'
FROM rsvp_sync._source s, generate_series(1, 3) n WHERE s.attendance = 'account_test.mine'::regclass;
INSERT INTO rsvp_sync._intent (source_id, key, did, event_uri, live, local, local_at, bond, wrote, rkey, base_local, base_cid, state, reason_code, reason)
SELECT s.source_id, 'x', :'alice', 'at://did:web:o/community.lexicon.calendar.event/x', true, 'going', 'epoch', 'own', true, 'rx', 'going', 'cx', 'done', 'published', 'fine'
FROM rsvp_sync._source s WHERE s.attendance = 'account_test.others'::regclass;
INSERT INTO rsvp_sync._observed (did, rkey, cid, event_uri, status, record, source)
SELECT i.did, i.rkey, i.base_cid, i.event_uri, 'going', '{}', 'write' FROM rsvp_sync._intent i WHERE i.did = :'alice';
INSERT INTO rsvp_sync._history (at, source_id, key, did, action, outcome) SELECT 'epoch', i.source_id, i.key, i.did, 'put', 'ok' FROM rsvp_sync._intent i;
INSERT INTO rsvp_sync._identity (did, pds, looked_at) VALUES (:'alice', 'https://pds.example.com', now());
INSERT INTO rsvp_sync._found_credential (did, source_id, digest, connected_at) SELECT :'alice', s.source_id, 'of an envelope', now() FROM rsvp_sync._source s WHERE s.attendance = 'account_test.mine'::regclass;
INSERT INTO rsvp_sync._event (uri, cid) VALUES ('at://' || :'alice' || '/community.lexicon.calendar.event/1', 'c'),
	('at://' || :'alice' || 'x/community.lexicon.calendar.event/1', 'c');

-- export(): never a secret; a superuser sees all, others their own tables'
CREATE FUNCTION account_test.parts(exported jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s', k, CASE jsonb_typeof(v) WHEN 'array' THEN jsonb_array_length(v)::text ELSE jsonb_typeof(v) END), ', ' ORDER BY k)
		|| CASE WHEN exported::text ~ 'xyzzy|plugh|ciphertext|envelope' THEN ' AND A SECRET' ELSE '' END
	FROM jsonb_each(exported) e(k, v) $$;
SELECT account_test.parts(rsvp_sync.export(:'alice')) AS superuser;
SET ROLE regress_app;
SELECT account_test.parts(rsvp_sync.export(:'alice')) AS owner;
SELECT rsvp_sync.export(:'alice') #> '{account,granted_to}' AS granted_to, rsvp_sync.export(:'alice') #>> '{account,has_session}' AS has_session,
	rsvp_sync.export(:'alice') #>> '{rows,0,attendance}' AS attendance, rsvp_sync.export(:'alice') #>> '{records,0,uri}' AS uri;
SELECT rsvp_sync.export('did:web:nobody');
SET ROLE regress_other;
\x on
SELECT call, r.* FROM unnest(ARRAY[
	format('rsvp_sync.export(%L)', :'alice'), format('rsvp_sync.forget(%L)', :'alice'),
	format('rsvp_sync.disconnect_account(%L, withdraw => true)', :'alice'),
	'rsvp_sync.export(NULL)', 'rsvp_sync.forget(NULL)', $$rsvp_sync.forget('xyzzy')$$, $$rsvp_sync.export('alice.example.com')$$]) call,
	LATERAL account_test.refused('SELECT ' || call) r;
\x off

-- with its records, once they are withdrawn
SET ROLE regress_app;
TRUNCATE account_test.mine;
INSERT INTO account_test.mine SELECT n, :'alice', 'at://did:web:o/community.lexicon.calendar.event/' || n, 'confirmed' FROM generate_series(1, 3) n;
RESET ROLE;
TRUNCATE rsvp_sync._change_log;
SET ROLE regress_app;
SELECT rsvp_sync.disconnect_account(:'alice', withdraw => true);
SELECT state, waiting FROM rsvp_sync.account;
SELECT attendance_id, action, reason_code FROM rsvp_sync.preview('account_test.mine');
RESET ROLE;
SELECT key, op FROM rsvp_sync._change_log WHERE source_id > 0 ORDER BY 1;
SELECT rsvp_sync._finish_leaving();
UPDATE rsvp_sync._intent SET bond = NULL WHERE key IN ('1', '2');
SELECT rsvp_sync._finish_leaving() AS one_is_left;
-- needs its user: that is what is shown
UPDATE rsvp_sync._account SET state = 'needs_login';
SELECT state FROM rsvp_sync.account;
SELECT rsvp_sync._finish_leaving() AS waits_for_him;
UPDATE rsvp_sync._account SET state = 'connected';
-- connected anew: it stays
SET ROLE regress_app;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy');
SELECT state FROM rsvp_sync.account;
SELECT rsvp_sync.disconnect_account(:'alice', withdraw => true);
RESET ROLE;
UPDATE rsvp_sync._intent SET bond = NULL, writeback = true WHERE key = '3';
SELECT rsvp_sync._finish_leaving() AS the_row_is_not_told;
UPDATE rsvp_sync._intent SET writeback = false WHERE key = '3';
TRUNCATE rsvp_sync._change_log;
SELECT rsvp_sync._finish_leaving();
SELECT source_id, key, op FROM rsvp_sync._change_log;
SELECT count(*) FROM rsvp_sync._account;

-- forgotten: asked for by its owner, other roles' sources are left alone
SET ROLE regress_app;
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy');
SELECT rsvp_sync.forget(:'alice') AS done;
SELECT state FROM rsvp_sync.account;
RESET ROLE;
SELECT rsvp_sync._finish_leaving();
SELECT account_test.parts(rsvp_sync.export(:'alice'));
SELECT encode(digest, 'hex') FROM rsvp_sync._forgotten;
SELECT uri FROM rsvp_sync._event;
SELECT key, did, event_uri, rkey, base_cid, base_local, state, reason_code FROM rsvp_sync._intent ORDER BY key;
SELECT count(*) FROM rsvp_sync._account;
SELECT c.relname AS still_has_the_did FROM pg_class c
WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'r' AND c.relname <> '_change_log'
	AND (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s t WHERE strpos(t::text, %L) > 0', c.oid::regclass,
		'did:plc:ewvi7nxzyoun6zhxrhs64oiz'), true, true, '')))[1]::text <> '0' ORDER BY 1;
SELECT rsvp_sync._observe(:'alice', 'r1', 'c1', '{}', NULL, 'list', now());
SELECT count(*) AS nothing_is_stored FROM rsvp_sync._observed;
SET ROLE regress_app;
SELECT attendance_id, did, event_uri, action, reason_code FROM rsvp_sync.preview('account_test.mine');
-- connected anew: nothing by itself; a change is one
SELECT rsvp_sync.connect_account(:'alice', 'xyzzy');
SELECT attendance_id, action, reason_code FROM rsvp_sync.preview('account_test.mine');
UPDATE account_test.mine SET status = 'maybe' WHERE id = '2';
SELECT attendance_id, action, status FROM rsvp_sync.preview('account_test.mine', '2');
RESET ROLE;
SELECT count(*) AS forgotten FROM rsvp_sync._forgotten;
SELECT key, op FROM rsvp_sync._change_log WHERE key IN ('1', '2', '3') AND op = 'l' ORDER BY 1;
-- nobody can write to the repository: it does not wait for that
UPDATE rsvp_sync._intent SET did = :'alice', bond = 'own' WHERE key = '1';
UPDATE rsvp_sync._account SET state = 'wrong_password';
INSERT INTO rsvp_sync._pause (subject, paused_by) VALUES (:'alice', 'somebody');
INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, last_error, waits_for, wait_code)
SELECT source_id, key, 'infinity', now(), 'no such user ' || did, did, 'paused' FROM rsvp_sync._intent WHERE key = '1';
UPDATE rsvp_sync._intent SET failed_at = now(), failed_attempts = 3, failed_error = 'no such user ' || did WHERE key = '1';
SET ROLE regress_app;
SELECT rsvp_sync.forget(:'alice') AS done;
RESET ROLE;
SELECT rsvp_sync.export(:'alice') -> 'paused' ->> 'paused_by' AS paused_by;
SELECT rsvp_sync._finish_leaving();
SELECT key, due_at <= now() AS due, last_error, waits_for, wait_code FROM rsvp_sync._queue;
SELECT key, failed_at, failed_error FROM rsvp_sync._intent WHERE key = '1';
SELECT count(*) AS paused FROM rsvp_sync._pause;
TRUNCATE rsvp_sync._queue;
SELECT count(*) AS forgotten FROM rsvp_sync._forgotten;
-- not connected; asked for by a superuser: everywhere
SELECT rsvp_sync.forget(:'alice') AS done;
SELECT key, did, state, reason_code FROM rsvp_sync._intent ORDER BY key;
-- disconnecting cuts it short
SET ROLE regress_app;
SELECT rsvp_sync.connect_account(:'bob', 'xyzzy');
RESET ROLE;
UPDATE rsvp_sync._intent SET did = :'bob', bond = 'own' WHERE key = '1';
SET ROLE regress_app;
SELECT rsvp_sync.forget(:'bob') AS done;
SELECT rsvp_sync.disconnect_account(:'bob');
SELECT rsvp_sync.forget(:'bob') AS done;
RESET ROLE;
SELECT count(*) AS forgotten FROM rsvp_sync._forgotten;
SELECT key, did, bond FROM rsvp_sync._intent WHERE key = '1';
TRUNCATE rsvp_sync._forgotten;
SET ROLE regress_app;
SELECT rsvp_sync.detach('account_test.mine');
SET ROLE regress_other;
SELECT rsvp_sync.detach('account_test.others');
RESET ROLE;

-- deactivated: once a day somebody looks
INSERT INTO rsvp_sync._source (source_id, attendance, attendance_name, kind, search_path)
VALUES (-1, 'account_test.envelope', 'envelope', 'query', '');
INSERT INTO rsvp_sync._account (did, owner, auth, state, checked_at) VALUES
	('did:web:today', 'regress_app', 'password', 'deactivated', now() - interval '23 hours'),
	('did:web:yesterday', 'regress_app', 'password', 'takendown', now() - interval '25 hours'),
	('did:web:idle', 'regress_app', 'password', 'deactivated', now() - interval '25 hours'),
	('did:web:wrong', 'regress_app', 'password', 'wrong_password', now() - interval '25 hours');
INSERT INTO rsvp_sync._intent (source_id, key, did, state)
SELECT -1, a.did, a.did, 'blocked' FROM rsvp_sync._account a WHERE a.did <> 'did:web:idle';
TRUNCATE rsvp_sync._change_log;
SELECT rsvp_sync._look_at_inactive();
SELECT key, op FROM rsvp_sync._change_log;
SELECT rsvp_sync._account_done('did:web:yesterday', 'takendown', NULL, NULL, NULL, NULL);
TRUNCATE rsvp_sync._change_log;
SELECT rsvp_sync._look_at_inactive();
SELECT count(*) AS not_again FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._source WHERE source_id = -1;
DELETE FROM rsvp_sync._account;

-- every public function is for everybody, for an application, for a monitor, or
-- for who runs the server
SELECT DISTINCT p.proname AS operators FROM pg_proc p
WHERE p.pronamespace = 'rsvp_sync'::regnamespace AND p.proname !~ '^_'
	AND NOT has_function_privilege('regress_app', p.oid, 'EXECUTE')
	AND NOT has_function_privilege('regress_watch', p.oid, 'EXECUTE') ORDER BY 1;
SELECT c.relname AS views, has_table_privilege('regress_app', c.oid, 'SELECT') AS application, has_table_privilege('regress_watch', c.oid, 'SELECT') AS monitor
FROM pg_class c WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^_' ORDER BY 1;

--
-- A copy
--
SELECT rsvp_sync._copied();
UPDATE rsvp_sync._installation SET system_identifier = system_identifier + 1;
SELECT rsvp_sync._copied();
SELECT rsvp_sync.connect_account('did:web:a', 'xyzzy');
SELECT rsvp_sync._copied() AS connecting_does_not_activate;
INSERT INTO rsvp_sync._installation VALUES (1, 1);
TRUNCATE rsvp_sync._change_log;
SELECT rsvp_sync.activate();
SELECT rsvp_sync._copied();
SELECT count(*) FROM rsvp_sync._installation;
SELECT source_id, key, op FROM rsvp_sync._change_log;
UPDATE rsvp_sync._installation SET database_oid = 1;
SELECT rsvp_sync._copied();
GRANT EXECUTE ON FUNCTION rsvp_sync.activate() TO regress_app;
SET ROLE regress_app;
SELECT rsvp_sync.activate();
RESET ROLE;
SELECT rsvp_sync._copied();

SELECT rsvp_sync.disconnect_account(did) FROM rsvp_sync.account;
TRUNCATE rsvp_sync._installation, rsvp_sync._change_log;
COPY (SELECT) TO PROGRAM 'cat > /dev/null; rm -f rsvp_sync_test.keys';
RESET rsvp_sync.credential_key_file;
DROP SCHEMA account_test CASCADE;
DROP OWNED BY regress_app, regress_other, regress_member, regress_watch;
DROP ROLE regress_app, regress_other, regress_member, regress_watch;
