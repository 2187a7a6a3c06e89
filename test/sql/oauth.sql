-- OAuth: clients, sessions, the lease; who may what, and that nothing shows a
-- secret.  The tokens here hold the word xyzzy, which must not turn up below
-- but where oauth_session() is asked for it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS rsvp_sync;
SET rsvp_sync.allow_plaintext_credentials = on;
CREATE SCHEMA oauth_test;
CREATE ROLE regress_oauth_app;
CREATE ROLE regress_oauth_other;
GRANT USAGE, CREATE ON SCHEMA oauth_test TO PUBLIC;
SELECT rsvp_sync.grant_application('regress_oauth_app');
SELECT rsvp_sync.grant_application('regress_oauth_other');

CREATE FUNCTION oauth_test.refused(statement text,
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
	IF concat(message, detail, hint, context) ~ 'xyzzy|jpsQnnGQ' THEN
		message := 'THE ERROR HOLDS A SECRET: ' || message;
	END IF;
END
$$;

-- The key of RFC 7515, appendix A.3, and that of appendix A.1 of RFC 7517
CREATE FUNCTION oauth_test.jwk(n integer DEFAULT 1) RETURNS jsonb
LANGUAGE sql AS $$
	SELECT CASE n WHEN 1 THEN '{"kty": "EC", "crv": "P-256",
		"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
		"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
		"d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}'::jsonb
	ELSE '{"kty": "EC", "crv": "P-256",
		"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
		"y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
		"d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}' END
$$;
CREATE FUNCTION oauth_test.session(did text DEFAULT 'did:plc:ewvi7nxzyoun6zhxrhs64oiz',
	n integer DEFAULT 1, tokens jsonb DEFAULT '{}', rest jsonb DEFAULT '{}')
RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('dpopJwk', oauth_test.jwk(n),
		'authMethod', '{"method": "none"}'::jsonb,
		'tokenSet', jsonb_build_object('iss', 'https://as.example.com',
			'sub', did, 'aud', 'https://pds.example.com/',
			'scope', 'atproto repo:community.lexicon.calendar.rsvp',
			'access_token', 'at-xyzzy', 'refresh_token', 'ref-xyzzy',
			'token_type', 'DPoP', 'expires_at', '2026-11-20T18:40:00.000Z')
			|| tokens) || rest
$$;
\set alice 'did:plc:ewvi7nxzyoun6zhxrhs64oiz'
\set client 'https://app.example.com/client.json'

--
-- Clients
--
SET ROLE regress_oauth_app;
SELECT * FROM oauth_test.refused('SELECT rsvp_sync.connect_oauth(oauth_test.session())');
SELECT * FROM oauth_test.refused(format('SELECT rsvp_sync.connect_oauth(oauth_test.session(), %L)', :'client'));
SELECT j, state, message FROM unnest(ARRAY['{}', '[]', '"xyzzy"', '1',
	'{"kty": "EC", "kid": "xyzzy"}']) j,
	LATERAL oauth_test.refused(format('SELECT rsvp_sync.set_oauth_client(%L, %L)', :'client', j));
SELECT * FROM oauth_test.refused(format('SELECT rsvp_sync.set_oauth_client(%L, oauth_test.jwk())', :'client'));
SELECT c, state, message FROM unnest(ARRAY['', 'xyzzy', 'http://app.example.com/', NULL]) c,
	LATERAL oauth_test.refused(format('SELECT rsvp_sync.set_oauth_client(%L, NULL)', c));
SELECT rsvp_sync.set_oauth_client(:'client', NULL);
RESET ROLE;
SELECT client_id, owner, jwk, kid FROM rsvp_sync._oauth_client;
SET ROLE regress_oauth_other;
SELECT * FROM oauth_test.refused(format('SELECT rsvp_sync.set_oauth_client(%L, NULL)', :'client'));
SELECT * FROM oauth_test.refused(format('SELECT rsvp_sync.connect_oauth(oauth_test.session(), %L)', :'client'));

--
-- Sessions that are none
--
SET ROLE regress_oauth_app;
SELECT what, state, message, detail FROM (VALUES
	('null', 'NULL'), ('array', $$'["xyzzy"]'$$), ('text', $$'"xyzzy"'$$),
	('empty', $$'{}'$$), ('no key', $$oauth_test.session() - 'dpopJwk'$$),
	('public key', $$oauth_test.session(rest => jsonb_build_object('dpopJwk', oauth_test.jwk() - 'd'))$$),
	('no tokens', $$oauth_test.session() - 'tokenSet'$$),
	('handle', $$oauth_test.session('alice.example.com')$$),
	('bad DID', $$oauth_test.session('did:Bad')$$),
	('bearer', $$oauth_test.session(tokens => '{"token_type": "Bearer"}')$$),
	('no URL', $$oauth_test.session(tokens => '{"iss": "xyzzy"}')$$),
	('token of two lines', $$oauth_test.session(tokens => '{"access_token": "xyz\nzy"}')$$),
	('confidential', $$oauth_test.session(rest => '{"authMethod": {"method": "private_key_jwt", "kid": "key-1"}}')$$),
	('secret', $$oauth_test.session(rest => '{"authMethod": {"method": "client_secret_basic"}}')$$)
) c (what, session), LATERAL oauth_test.refused(format('SELECT rsvp_sync.connect_oauth(%s)', session));
SELECT count(*) FROM rsvp_sync.account;

--
-- Connecting, and getting it back
--
SELECT rsvp_sync.connect_oauth(oauth_test.session(rest => '{"later": {"a": [1, null]}}'));
SELECT did, handle, pds, owner, auth, state FROM rsvp_sync.account;
SELECT rsvp_sync.oauth_session(:'alice') = oauth_test.session(rest => '{"later": {"a": [1, null]}}') AS same;
RESET ROLE;
SELECT did, client_id, jkt, issuer, scope, may_delete, expires_at AT TIME ZONE 'UTC' AS expires_at, version, lease_token
FROM rsvp_sync._oauth_session;
SELECT left(credential, 20), session FROM rsvp_sync._account;
SET ROLE regress_oauth_other;
SELECT count(*) FROM rsvp_sync.account;
SELECT statement, state, message FROM (VALUES
	('oauth_session(%L)'), ('store_oauth_session(%L, oauth_test.session())'),
	('store_oauth_session(%L, NULL)'), ('oauth_lock(%L, ''1 minute'')'),
	('oauth_unlock(%L, ''x'')')
) c (statement), LATERAL oauth_test.refused(format('SELECT rsvp_sync.' || statement, :'alice'));
SET ROLE regress_oauth_app;
SELECT rsvp_sync.oauth_session('did:plc:nobody') IS NULL AS none, rsvp_sync.oauth_session(NULL) IS NULL AS null;

-- new tokens of the same session, a new session, another account's, none
SELECT rsvp_sync.store_oauth_session(:'alice', oauth_test.session(tokens => '{"access_token": "at-2", "scope": "atproto repo:community.lexicon.calendar.rsvp?action=create"}'));
SELECT rsvp_sync.oauth_session(:'alice') #>> '{tokenSet,access_token}' AS token;
RESET ROLE;
UPDATE rsvp_sync._account SET state = 'connected';
SELECT may_delete, version FROM rsvp_sync._oauth_session;
SET ROLE regress_oauth_app;
SELECT rsvp_sync.store_oauth_session(:'alice', oauth_test.session(tokens => '{"access_token": "at-3"}'));
SELECT state FROM rsvp_sync.account;
SELECT rsvp_sync.store_oauth_session(:'alice', oauth_test.session(n => 2));
SELECT state FROM rsvp_sync.account;
SELECT * FROM oauth_test.refused(format('SELECT rsvp_sync.store_oauth_session(%L, oauth_test.session())', 'did:plc:other'));
SELECT state, message FROM oauth_test.refused('SELECT rsvp_sync.store_oauth_session(NULL, oauth_test.session())');
SELECT rsvp_sync.store_oauth_session(:'alice', NULL);
SELECT state, last_error FROM rsvp_sync.account;
SELECT rsvp_sync.oauth_session(:'alice') IS NULL AS gone;
SELECT rsvp_sync.store_oauth_session('did:plc:nobody', NULL);
-- what is stored by the same key then, is taken for good again
SELECT rsvp_sync.store_oauth_session(:'alice', oauth_test.session(n => 2));
SELECT state, last_error FROM rsvp_sync.account;
-- an account that is not connected yet
SELECT rsvp_sync.store_oauth_session('did:web:bob.example.com', oauth_test.session('did:web:bob.example.com'));
SELECT did, auth, state FROM rsvp_sync.account ORDER BY did;

-- one way or the other
SELECT rsvp_sync.connect_account('did:web:bob.example.com', 'xyzzy');
SELECT rsvp_sync.oauth_session('did:web:bob.example.com') IS NULL AS none;
SELECT rsvp_sync.store_oauth_session('did:web:bob.example.com', NULL);
SELECT did, auth, state FROM rsvp_sync.account ORDER BY did;
SELECT rsvp_sync.store_oauth_session('did:web:bob.example.com', oauth_test.session('did:web:bob.example.com'));
SELECT did, auth, state FROM rsvp_sync.account ORDER BY did;

-- several clients; a confidential one
SELECT rsvp_sync.set_oauth_client('http://localhost?scope=atproto', oauth_test.jwk() || '{"kid": "key-1"}');
SELECT * FROM oauth_test.refused($$SELECT rsvp_sync.connect_oauth(oauth_test.session('did:web:eve'))$$);
SELECT * FROM oauth_test.refused($$SELECT rsvp_sync.connect_oauth(oauth_test.session(rest => '{"authMethod": {"method": "private_key_jwt", "kid": "key-2"}}'), 'http://localhost?scope=atproto')$$);
SELECT * FROM oauth_test.refused(format($$SELECT rsvp_sync.connect_oauth(oauth_test.session(rest => '{"authMethod": {"method": "private_key_jwt", "kid": "key-1"}}'), %L)$$, :'client'));
SELECT rsvp_sync.connect_oauth(oauth_test.session(rest => '{"authMethod": {"method": "private_key_jwt", "kid": "key-1"}}'), 'http://localhost?scope=atproto');
RESET ROLE;
SELECT did, client_id FROM rsvp_sync._oauth_session ORDER BY did;
SELECT client_id, kid, left(jwk, 20) FROM rsvp_sync._oauth_client ORDER BY client_id;
-- a key is sealed for its client, a session for its account
SELECT message FROM rsvp_sync._oauth_client c, LATERAL oauth_test.refused(format('SELECT rsvp_sync._open(%L, %L)', c.jwk, c.client_id)) WHERE kid IS NOT NULL;

--
-- The lease
--
SET ROLE regress_oauth_app;
SELECT t, state, message, hint FROM unnest(ARRAY[NULL, '0', '-1 s', '11 minutes']) t,
	LATERAL oauth_test.refused(format('SELECT rsvp_sync.oauth_lock(%L, %L)', :'alice', t));
SELECT rsvp_sync.oauth_lock(:'alice', '1 minute') AS token \gset
SELECT length(:'token') AS length, rsvp_sync.oauth_lock(:'alice', '1 minute') IS NULL AS taken;
SELECT rsvp_sync.oauth_unlock(:'alice', 'x') AS wrong, rsvp_sync.oauth_unlock(:'alice', NULL) AS null;
SELECT rsvp_sync.oauth_lock(:'alice', '1 minute') IS NULL AS still_taken;
SELECT rsvp_sync.oauth_unlock(:'alice', :'token') AS given_back;
SELECT rsvp_sync.oauth_unlock(:'alice', :'token') AS again;
SELECT rsvp_sync.oauth_lock(:'alice', '1 microsecond') AS token \gset
SELECT rsvp_sync.oauth_lock(:'alice', '1 minute') IS NOT NULL AS after_it_ran_out;
SELECT rsvp_sync.oauth_unlock(:'alice', :'token') AS ran_out;
SELECT rsvp_sync.oauth_lock('did:plc:nobody', '1 minute') IS NOT NULL AS nothing_to_guard,
	rsvp_sync.oauth_unlock('did:plc:nobody', 'x') AS nothing_to_give_back;
-- the worker takes the same
RESET ROLE;
SELECT * FROM rsvp_sync._begin_oauth_refresh(:'alice', 1, '1 minute');
SELECT version FROM rsvp_sync._oauth_session WHERE did = :'alice' \gset
SELECT * FROM rsvp_sync._begin_oauth_refresh(:'alice', :version, '1 minute');
UPDATE rsvp_sync._oauth_session SET lease_until = now();
SELECT go, lease, lease AS token FROM rsvp_sync._begin_oauth_refresh(:'alice', :version, '1 minute') \gset
SELECT :'go' AS go, lease_by FROM rsvp_sync._oauth_session WHERE did = :'alice';
SET ROLE regress_oauth_app;
SELECT rsvp_sync.oauth_lock(:'alice', '1 minute') IS NULL AS taken_by_the_worker;
RESET ROLE;
SELECT rsvp_sync._oauth_refresh_done(:'alice', 'unknown', :version, :'token', NULL, NULL) AS same, lease_by FROM rsvp_sync._oauth_session WHERE did = :'alice';
SELECT lease_by FROM rsvp_sync._oauth_session WHERE did = :'alice';
-- what ended is not what is stored by now
SELECT rsvp_sync._oauth_refresh_done(:'alice', 'over', :version - 1, :'token', NULL, 'x') AS same;
SELECT state, lease_by FROM rsvp_sync._account JOIN rsvp_sync._oauth_session USING (did) WHERE did = :'alice';
SELECT rsvp_sync._oauth_refresh_done(:'alice', 'over', :version, :'token', NULL, 'x') AS same;
SELECT state, last_error FROM rsvp_sync._account WHERE did = :'alice';
SELECT rsvp_sync._oauth_refresh_done(:'alice', 'client', :version, :'token', NULL, 'invalid_client: x') AS same;
SELECT client_id, error FROM rsvp_sync._oauth_client ORDER BY client_id;

-- nothing of it in the change log, or anywhere but in envelopes
SELECT count(*) FROM rsvp_sync._change_log l WHERE l::text ~ 'xyzzy';
SELECT count(*) FROM rsvp_sync._oauth_session s WHERE s::text ~ 'xyzzy|jpsQ';
SELECT rsvp_sync.disconnect_account(:'alice'), rsvp_sync.disconnect_account('did:web:bob.example.com');
SELECT count(*) FROM rsvp_sync._oauth_session;
DELETE FROM rsvp_sync._oauth_client;
DELETE FROM rsvp_sync._change_log;
DELETE FROM rsvp_sync._installation;
DROP SCHEMA oauth_test CASCADE;
DROP OWNED BY regress_oauth_app, regress_oauth_other;
DROP ROLE regress_oauth_app, regress_oauth_other;
