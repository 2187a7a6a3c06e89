# A hostile owner of an attached table.  Whatever he can hang on his table, his
# types, his query or his options runs as himself or not at all, whoever sets
# it off: the worker, another application, a superuser who looks around.
# (240_sources.pl has what a query may try, 270_strangers.pl what triggers and
# locks may.)

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => { 'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms' });
my $app = scene($pg, 'app', $pds, connect => 0, attach => 0, events => 30);
my ($organiser, $good_did, $bad_did) = map { $pds->did($_) } 0 .. 2;
$app->sql(<<"SQL");
CREATE ROLE good LOGIN;
CREATE ROLE mallory LOGIN;
CREATE ROLE writer LOGIN;
CREATE SCHEMA mallory AUTHORIZATION mallory;
GRANT ALL ON SCHEMA public TO good;
SELECT rsvp_sync.grant_application(r) FROM unnest('{good,mallory}'::text[]) r;
ALTER TABLE users OWNER TO good; ALTER TABLE events OWNER TO good; ALTER TABLE attendance OWNER TO good;
GRANT SELECT ON events TO mallory;
GRANT SELECT, INSERT, UPDATE, DELETE ON attendance TO writer;
SET ROLE good;
CREATE TABLE private (content text);
INSERT INTO private VALUES ('what only good may know');
SELECT rsvp_sync.connect_account('$good_did', '@{[$pds->password(1)]}');
SELECT rsvp_sync.attach('attendance');
INSERT INTO attendance VALUES (1, 'confirmed', '{}', 1, 2);
SET ROLE mallory;
SELECT rsvp_sync.connect_account('$bad_did', '@{[$pds->password(2)]}');
SQL

sub bad { my ($sql) = @_; return $pg->safe_psql('app', $sql, user => 'mallory', options => '-c search_path=mallory,public') }
sub good { my ($sql) = @_; return $pg->safe_psql('app', $sql, user => 'good') }
# The error that mallory gets, or ''
sub refused { my ($sql) = @_; my (undef, undef, $err) = $pg->psql('app', $sql, user => 'mallory', options => '-c search_path=mallory,public'); return $err }

# steal() notes as whom it runs, and takes what that role can have.
bad(<<'SQL');
CREATE TABLE loot (how text, who text, content text);
GRANT USAGE ON SCHEMA mallory TO PUBLIC;
GRANT INSERT ON loot TO PUBLIC;
CREATE FUNCTION steal(how text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	attempt text;
BEGIN
	INSERT INTO mallory.loot VALUES (how, current_user, NULL);
	FOREACH attempt IN ARRAY ARRAY[
		'INSERT INTO mallory.loot SELECT $1, current_user, credential FROM rsvp_sync._account',
		'INSERT INTO mallory.loot SELECT $1, current_user, content FROM public.private',
		'INSERT INTO mallory.loot SELECT $1, current_user, rsvp_sync._open(credential, did) FROM rsvp_sync._account',
		'INSERT INTO mallory.loot SELECT $1, current_user, i.did FROM rsvp_sync._intent i',
		'INSERT INTO mallory.loot SELECT $1, current_user, pg_read_file(''/etc/hostname'')']
	LOOP
		BEGIN
			EXECUTE attempt USING how;
		EXCEPTION WHEN insufficient_privilege OR undefined_file THEN NULL;
		END;
	END LOOP;
	BEGIN
		ALTER ROLE mallory SUPERUSER;
		INSERT INTO mallory.loot VALUES (how, current_user, 'superuser');
	EXCEPTION WHEN insufficient_privilege OR feature_not_supported THEN NULL;
	END;
	RETURN true;
END $$;
CREATE FUNCTION steal_by_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.steal(TG_ARGV[0]); RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION steal_immutable(v text, how text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mallory.steal(how); RETURN v; END $$;
CREATE DOMAIN watched AS text CHECK (mallory.steal_immutable(VALUE, 'domain') IS NOT NULL);
CREATE TYPE mood AS ENUM ('confirmed', 'maybe', 'cancelled');
CREATE FUNCTION mood_text(mood) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM mallory.steal('cast'); RETURN CASE WHEN $1 = 'maybe' THEN 'maybe' WHEN $1 = 'cancelled' THEN 'cancelled' ELSE 'confirmed' END; END $$;
CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood) AS ASSIGNMENT;
/* In front of what everybody uses, for whoever looks here first. */
CREATE FUNCTION mallory.eq(a text, b text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mallory.steal('operator'); RETURN a OPERATOR(pg_catalog.=) b; END $$;
CREATE OPERATOR mallory.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mallory.eq);
CREATE FUNCTION mallory.has_table_privilege(oid, text) RETURNS boolean LANGUAGE sql AS $$ SELECT mallory.steal('shadowed function') $$;
CREATE FUNCTION mallory.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN mallory.steal('shadowed function') THEN $1 END $$;
CREATE TABLE bad (id watched PRIMARY KEY, status mood NOT NULL, n integer NOT NULL, metadata jsonb, told text, "userId" mood DEFAULT 'maybe',
	shown text GENERATED ALWAYS AS (steal_immutable('x', 'generated column')) STORED);
CREATE INDEX ON bad (steal_immutable(told, 'index expression'));
CREATE INDEX ON bad (n) WHERE steal_immutable(told, 'index predicate') IS NOT NULL;
CREATE STATISTICS bad_statistics ON (steal_immutable(told, 'statistics')), n FROM bad;
CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON bad FOR EACH ROW EXECUTE FUNCTION steal_by_trigger('before trigger');
CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON bad FOR EACH STATEMENT EXECUTE FUNCTION steal_by_trigger('statement trigger');
CREATE RULE also AS ON UPDATE TO bad DO ALSO SELECT steal('rule');
CREATE POLICY watching ON bad USING (steal('policy')) WITH CHECK (steal('policy check'));
ALTER TABLE bad ENABLE ROW LEVEL SECURITY;
GRANT ALL ON bad TO PUBLIC;
SQL
bad(<<"SQL");
CREATE VIEW wanted AS SELECT b.id, '$bad_did' AS did, 'at://$organiser/community.lexicon.calendar.event/3kevent' || to_char(b.n, 'FM000000') AS event_uri,
	b.status::text AS status, e."sourceData" ->> 'cid' AS event_cid, CASE WHEN steal('view') THEN NULL::text END AS withheld
FROM bad b JOIN events e ON e.id OPERATOR(pg_catalog.=) b.n WHERE b.id = b.id::text;
SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"metadata": "metadata", "writeback": {"cid": "told", "uri": "metadata.uri"}}');
INSERT INTO bad (id, status, n) SELECT n, 'confirmed', n FROM generate_series(1, 3) n;
SQL
ok $app->idle, 'a table with all a hostile owner can hang on it';
is scalar($pds->list_records(2)), 3, '... is published';
bad("UPDATE bad SET status = 'maybe' WHERE n = 1; DELETE FROM bad WHERE n = 3");
ok $app->idle, '... changed, and withdrawn';
bad('INSERT INTO bad (id, status, n, metadata) SELECT n, $$confirmed$$, n, $${"k": "v"}$$ FROM generate_series(4, 12) n; ANALYZE bad');
ok $app->idle, '... with more rows';

# Others come by, knowingly or not.
for my $who (qw(good postgres)) {
	my $does = sub { my ($sql) = @_; return $pg->psql('app', $sql, user => $who) };
	# His policies are evaluated for whoever reads rows of his table, as ever in
	# PostgreSQL: a superuser passes them by, the others should not read it.
	for my $sql (
		$who eq 'postgres' ? q{SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('k', 'v')} : (),
		q{SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL::public.attendance, 'k', 'v')},
		q{SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('uri', 'x')},
		q{SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata('uri', 'x', 'maybe')},
		q{SELECT count(*) FROM (SELECT a.metadata ->> 'uri' AS uri FROM public.attendance a) x CROSS JOIN LATERAL rsvp_sync.find_attendees_by_metadata('uri', x.uri)},
		q{SELECT count(*) FROM rsvp_sync.find_attendees_by_metadata(NULL::mallory.bad, 'uri', 'x')},
		q{SELECT * FROM rsvp_sync.preview('mallory.bad')},
		q{SELECT * FROM rsvp_sync.sync_status('mallory.bad', '1')},
		q{SELECT rsvp_sync.explain_sync('mallory.bad', '1')},
		q{SELECT rsvp_sync.reconcile()},
		q{SELECT rsvp_sync.reconcile('mallory.bad')},
		q{SELECT rsvp_sync.retry(); SELECT rsvp_sync.retry('mallory.bad', '1')},
		q{SELECT rsvp_sync.source_status_map('mallory.bad'), rsvp_sync.index_ddl('mallory.bad')},
		q{SELECT count(*) FROM rsvp_sync.status; SELECT count(*) FROM rsvp_sync.source; SELECT count(*) FROM rsvp_sync.progress; SELECT count(*) FROM rsvp_sync.history; SELECT count(*) FROM rsvp_sync.account},
		q{SELECT count(*) FROM rsvp_sync.doctor(); SELECT count(*) FROM rsvp_sync.metrics()},
		qq{SELECT rsvp_sync.export('$bad_did')},
		q{SELECT rsvp_sync.attach('mallory.bad')},
	) { $does->($sql) }
}
ok $app->idle, 'others have looked around';

my $seen = join ', ', split /\n/, $app->sql('SELECT DISTINCT how FROM mallory.loot ORDER BY 1');
cmp_ok scalar(split /, /, $seen), '>', 8, "code of his has run: $seen";
is $app->sql(q{SELECT string_agg(DISTINCT how || ' as ' || who, ', ') FROM mallory.loot WHERE who <> 'mallory'}), '', '... as nobody but himself';
is $app->sql(q{SELECT string_agg(DISTINCT how || ': ' || content, ', ') FROM mallory.loot WHERE content IS NOT NULL AND content !~ '^did:plc:' OR content = '} . $good_did . q{'}), '', '... and took nothing';
is $app->sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', '... nor is he a superuser';

# --- what he asks for

my %wrong = (
	'an event trigger' => [ q{CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION steal_by_trigger()}, qr/permission denied|must return type/ ],
	'a function in our schema' => [ q{CREATE FUNCTION rsvp_sync.f() RETURNS int LANGUAGE sql AS 'SELECT 1'}, qr/permission denied for schema/ ],
	'a view in our schema' => [ q{CREATE VIEW rsvp_sync.v AS SELECT 1}, qr/permission denied for schema/ ],
	'a rule on a view of ours' => [ q{CREATE RULE r AS ON INSERT TO rsvp_sync.account DO INSTEAD SELECT 1}, qr/must be owner/ ],
	'another function for ours' => [ q{CREATE OR REPLACE FUNCTION rsvp_sync._log_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'}, qr/permission denied for schema/ ],
	'an operator on our types' => [ q{CREATE CAST (rsvp_sync.situation AS text) WITH INOUT}, qr/must be owner/ ],
	'a trigger on our tables' => [ q{CREATE TRIGGER t BEFORE UPDATE ON rsvp_sync._account FOR EACH ROW EXECUTE FUNCTION steal_by_trigger('ours')}, qr/permission denied/ ],
	'a view over the accounts' => [ q{CREATE VIEW theirs AS SELECT credential AS id, did, did AS event_uri, did AS status FROM rsvp_sync._account; SELECT rsvp_sync.attach('bad', 'theirs')}, qr/permission denied|must|error/i ],
	'a query over the accounts' => [ q{SELECT rsvp_sync.attach('bad', 'SELECT credential AS id, did, did AS event_uri, did AS status FROM rsvp_sync._account')}, qr/permission denied for table _account/ ],
	'a query over good\'s table' => [ q{SELECT rsvp_sync.attach('bad', 'SELECT content AS id, content AS did, content AS event_uri, content AS status FROM public.private')}, qr/permission denied for table private/ ],
	'a query that deletes' => [ q{SELECT rsvp_sync.attach('bad', 'WITH d AS (DELETE FROM bad RETURNING *) SELECT id, id AS did, id AS event_uri, id AS status FROM d')}, qr/ERROR/ ],
	'two queries' => [ q{SELECT rsvp_sync.attach('bad', 'SELECT id, id::text AS did, id::text AS event_uri, status::text FROM bad; ALTER ROLE mallory SUPERUSER')}, qr/ERROR/ ],
	'a query that ends the one around it' => [ q{SELECT rsvp_sync.attach('bad', 'SELECT id, id::text AS did, id::text AS event_uri, status::text FROM bad) x; ALTER ROLE mallory SUPERUSER; --')}, qr/ERROR/ ],
	'a query that is none' => [ q{SELECT rsvp_sync.attach('bad', 'ALTER ROLE mallory SUPERUSER')}, qr/ERROR/ ],
	'SELECT INTO' => [ q{SELECT rsvp_sync.attach('bad', 'SELECT id, id::text AS did, id::text AS event_uri, status::text INTO stolen FROM bad')}, qr/ERROR/ ],
	'EXPLAIN ANALYZE in it' => [ q{SELECT rsvp_sync.attach('bad', 'EXPLAIN ANALYZE SELECT 1')}, qr/ERROR/ ],
	'good\'s table' => [ q{SELECT rsvp_sync.attach('public.attendance')}, qr/owner|permission/ ],
	'a table of ours' => [ q{SELECT rsvp_sync.attach('rsvp_sync._account')}, qr/ERROR/ ],
	'a catalog' => [ q{SELECT rsvp_sync.attach('pg_catalog.pg_authid')}, qr/ERROR/ ],
	'a credentials query of ours' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"credentials": "SELECT credential FROM rsvp_sync._account", "nonsense": 1}')}, qr/nonsense/ ],
	'a column that is an injection' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"metadata": "metadata\" = NULL; ALTER ROLE mallory SUPERUSER; --"}')}, qr/ERROR/ ],
	'writing back into the key' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"writeback": {"cid": "id"}}')}, qr/ERROR/ ],
	'writing back into a system column' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"writeback": {"cid": "ctid"}}')}, qr/ERROR/ ],
	'writing back into a generated column' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"writeback": {"cid": "shown"}}')}, qr/ERROR/ ],
	'writing back elsewhere' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"writeback": {"cid": "public.private.content"}}')}, qr/ERROR/ ],
	'writing back an injection' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"writeback": {"cid": "told = (SELECT credential FROM rsvp_sync._account LIMIT 1), told"}}')}, qr/ERROR/ ],
	'watching an injection' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', NULL, '{"watch": ["status) EXECUTE FUNCTION mallory.steal_by_trigger(1); --"]}')}, qr/ERROR/ ],
	'an apply function that is not there' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', 'rsvp_sync._open(text, text)')}, qr/ERROR/ ],
	'an apply function that is an injection' => [ q{SELECT rsvp_sync.attach('bad', 'wanted', 'f(text, text, text, jsonb); ALTER ROLE mallory SUPERUSER')}, qr/ERROR/ ],
	'good\'s account' => [ "SELECT rsvp_sync.connect_account('$good_did', 'mine now')", qr/belongs to role "good"/ ],
	'a grant of it' => [ "SELECT rsvp_sync.grant_account('$good_did', 'mallory')", qr/belongs to role "good"/ ],
	'the end of it' => [ "SELECT rsvp_sync.disconnect_account('$good_did')", qr/belongs to role "good"/ ],
	'its records withdrawn' => [ "SELECT rsvp_sync.disconnect_account('$good_did', true)", qr/belongs to role "good"/ ],
	'it forgotten' => [ "SELECT rsvp_sync.forget('$good_did')", qr/belongs to role "good"/ ],
	'all that is stored of it' => [ "SELECT rsvp_sync.export('$good_did')", qr/belongs to role "good"/ ],
	'the state of good\'s rows' => [ q{SELECT rsvp_sync.sync_status('public.attendance', '1')}, qr/permission denied/ ],
	'an explanation of them' => [ q{SELECT rsvp_sync.explain_sync('public.attendance', '1')}, qr/permission denied/ ],
	'a preview of them' => [ q{SELECT rsvp_sync.preview('public.attendance')}, qr/permission denied/ ],
	'good\'s source detached' => [ q{SELECT rsvp_sync.detach('public.attendance')}, qr/owner|permission/ ],
	'good\'s source paused' => [ q{SELECT rsvp_sync.pause('public.attendance')}, qr/owner|permission/ ],
	'good\'s withdrawals' => [ q{SELECT rsvp_sync.approve_withdrawals('public.attendance')}, qr/owner|permission/ ],
	'good\'s row again' => [ q{SELECT rsvp_sync.retry('public.attendance', '1')}, qr/owner|permission/ ],
	'good\'s row discarded' => [ q{SELECT rsvp_sync.discard('public.attendance', '1')}, qr/owner|permission/ ],
	'a new key' => [ 'SELECT rsvp_sync.rekey()', qr/permission denied/ ],
	'a copy that sends' => [ 'SELECT rsvp_sync.activate()', qr/permission denied/ ],
	'rights for himself' => [ q{SELECT rsvp_sync.grant_monitor('mallory')}, qr/permission denied/ ],
	'a private function' => [ "SELECT rsvp_sync._connect_account(10, '$good_did', 'x', NULL, NULL)", qr/permission denied for function/ ],
	'another PDS for all' => [ q{SET rsvp_sync.plc_url = 'http://127.0.0.1:1'}, qr/permission denied/ ],
	'other key files' => [ q{SET rsvp_sync.credential_key_file = '/dev/null'}, qr/permission denied/ ],
	'what the key file is called' => [ q{DO $$ BEGIN IF current_setting('rsvp_sync.credential_key_file') <> 'x' THEN RAISE 'seen'; END IF; END $$}, qr/pg_read_all_settings|permission denied|must be superuser/i ],
);
for my $what (sort keys %wrong) { like refused($wrong{$what}[0]), $wrong{$what}[1], "$what: refused" }
is bad('SELECT count(*) FROM rsvp_sync.status WHERE attendance = $$public.attendance$$::regclass'), 0, 'he sees nothing of the state of others\' rows';
is bad("SELECT count(*) FROM rsvp_sync.account WHERE did = '$good_did'"), 0, '... nor their accounts';
is bad('SELECT count(*) FROM rsvp_sync.source WHERE attendance = $$public.attendance$$::regclass'), 0, '... nor their sources';
is bad("SELECT count(*) FROM rsvp_sync.history WHERE did = '$good_did'"), 0, '... nor their history';
is bad("SELECT rsvp_sync.retry('$good_did')"), 0, '... and cannot have them tried again';
is $app->sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'he is no superuser';
is $app->sql(q{SELECT string_agg(DISTINCT how || ' as ' || who, ', ') FROM mallory.loot WHERE who <> 'mallory'}), '', 'his code never ran as anybody else';
is $app->sql(q{SELECT count(*) FROM mallory.loot WHERE content ~ 'only good|plaintext|ciphertext|superuser'}), 0, 'he has nothing';

# A source cannot speak for an account its owner was not given.
my $stolen = "at://$organiser/community.lexicon.calendar.event/3kevent000020";
bad("CREATE TABLE speaks (id integer PRIMARY KEY, did text, event_uri text, status text, event_cid text); SELECT rsvp_sync.attach('speaks', 'SELECT * FROM speaks')");
bad("INSERT INTO speaks VALUES (1, '$good_did', '$stolen', 'confirmed', 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a')");
ok $pg->poll_query_until('app', q{SELECT concat_ws(' ', state, reason_code) FROM rsvp_sync.sync_status('mallory.speaks', '1')}, 'blocked account_not_granted'), 'a row that speaks for good\'s account is blocked';
is scalar(grep { $_->{value}{subject}{uri} eq $stolen } $pds->list_records(1)), 0, '... and not written';

# Whoever may write attendance needs nothing else.
is $app->sql(q{SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'rsvp_sync'::regnamespace AND has_function_privilege('writer', p.oid, 'EXECUTE')
	AND NOT has_function_privilege('public', p.oid, 'EXECUTE')}), 0, 'a role with no right on rsvp_sync';
is $pg->safe_psql('app', q{INSERT INTO attendance VALUES (2, 'confirmed', '{}', 2, 2); UPDATE attendance SET status = 'maybe' WHERE id = 1; DELETE FROM attendance WHERE id = 99}, user => 'writer'), '', '... writes attendance';
$app->sql('REVOKE ALL ON SCHEMA rsvp_sync FROM PUBLIC');
is $pg->safe_psql('app', q{INSERT INTO attendance VALUES (3, 'confirmed', '{}', 3, 2)}, user => 'writer'), '', '... even without USAGE of its schema';
$app->sql('GRANT USAGE ON SCHEMA rsvp_sync TO PUBLIC');
ok $app->wait_status($_, 'done published'), '... and it is published' for 1, 2, 3;

# Row security that would hide rows pauses the source, and is no absence.
my $published = $pds->list_records(2);
bad('ALTER TABLE bad FORCE ROW LEVEL SECURITY');
bad("UPDATE bad SET status = 'cancelled' WHERE n = 4");
ok $pg->poll_query_until('app', q{SELECT state = 'broken' FROM rsvp_sync.source WHERE attendance = 'mallory.bad'::regclass}), 'forced row security stops the source';
is scalar($pds->list_records(2)), $published, '... nothing is withdrawn';

done_testing;
