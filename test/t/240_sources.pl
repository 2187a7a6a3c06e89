# Sources that do harm: a query that fails, is slow, is locked out or shows too
# little stops its own source and no other, withdraws nothing, and is gone on
# with once it is repaired.  Application SQL has its owner's rights, whatever
# it tries.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.sql_timeout' => '300ms', deadlock_timeout => '200ms',
});

# The good source is the plan's schema, of another owner than the bad one.
my $app = scene($pg, 'app', $pds, connect => 0, attach => 0, events => 60);
my ($did, $bad_did) = map { $pds->did($_) } 1, 2;
my $organiser = $pds->did(0);
$app->sql(<<"SQL");
CREATE ROLE good LOGIN;
CREATE ROLE bad LOGIN;
GRANT ALL ON SCHEMA public TO good, bad;
GRANT USAGE ON SCHEMA rsvp_sync TO good, bad;
SELECT rsvp_sync.grant_application(r) FROM unnest('{good,bad}'::text[]) r;
ALTER TABLE users OWNER TO good; ALTER TABLE events OWNER TO good; ALTER TABLE attendance OWNER TO good;
GRANT SELECT ON events TO bad;
SET ROLE good;
SELECT rsvp_sync.connect_account('$did', '@{[$pds->password(1)]}');
SELECT rsvp_sync.attach('attendance');
SET ROLE bad;
SELECT rsvp_sync.connect_account('$bad_did', '@{[$pds->password(2)]}');
CREATE TABLE bad (id integer PRIMARY KEY, status text, divisor integer NOT NULL DEFAULT 1, told text);
CREATE FUNCTION mischief(id integer) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
SELECT rsvp_sync.attach('bad', \$\$
	SELECT b.id, '$bad_did' AS did, 'at://$organiser/community.lexicon.calendar.event/3kevent' || to_char(1 / divisor * 0 + b.id, 'FM000000') AS event_uri, status,
		e."sourceData" ->> 'cid' AS event_cid, NULL::text AS withheld, mischief(b.id) AS permalink
	FROM bad b JOIN events e ON e.id = b.id
\$\$, NULL, '{"writeback": {"cid": "told"}}');
SQL

sub bad { my ($sql) = @_; return $pg->safe_psql('app', $sql, user => 'bad') }
sub bad_status { my ($id) = @_; return $app->sql("SELECT concat_ws(' ', state, reason_code) FROM rsvp_sync.sync_status('bad', '$id')") }
sub bad_records { return join ' ', sort map { $_->{value}{subject}{uri} =~ /(\d{3})$/ ? $1 + 0 : '?' } $pds->list_records(2) }
sub source { my ($what) = @_; return $app->sql("SELECT $what FROM rsvp_sync._source WHERE attendance = 'bad'::regclass") }

my $next = 0;

# The good source goes on, promptly.
sub others_go_on {
	my ($what) = @_;
	$next++;
	my $began = time;
	$pg->safe_psql('app', "INSERT INTO attendance VALUES ($next, 'confirmed', '{}', $next, 2)", user => 'good');
	ok $app->wait_status($next, 'done published', 10), sprintf '%s: another source goes on (%.1f s)', $what, time - $began;
	return;
}

bad("INSERT INTO bad SELECT n, 'confirmed' FROM generate_series(1, 3) n");
ok $app->idle, 'two sources';
is bad_records(), '1 2 3', 'work';
others_go_on('to begin with');

# --- it fails

my $worker = $app->worker;
$pds->clear_log;
bad('UPDATE bad SET divisor = 0 WHERE id = 2; UPDATE bad SET status = $$maybe$$ WHERE id = 1; DELETE FROM bad WHERE id = 3');
ok $pg->poll_query_until('app', "SELECT state = 'broken' FROM rsvp_sync.source WHERE attendance = 'bad'::regclass"), 'a query that fails for one row breaks its source';
like source('state_reason'), qr/division by zero/, '... which says why';
is bad_status(1), 'blocked source_broken', '... its keys wait';
others_go_on('a query that fails');
is scalar(grep { ($_->{repo} // '') eq $bad_did } $pds->writes), 0, '... nothing is withdrawn';
bad("INSERT INTO bad VALUES (4, 'confirmed'); UPDATE bad SET status = 'maybe' WHERE id = 4");
pass '... its writers do not notice';
bad('UPDATE bad SET divisor = 1');
ok $pg->poll_query_until('app', "SELECT state = 'active' FROM rsvp_sync.source WHERE attendance = 'bad'::regclass"), '... repaired, it works again';
ok $app->idle, '... all is done';
is bad_records(), '1 2 4', '... as it is now';

# --- it is slow

sub mischief {
	my ($body, $language) = @_;
	$language //= 'plpgsql';
	$body = "BEGIN $body RETURN NULL; END" if $language eq 'plpgsql';
	return bad("CREATE OR REPLACE FUNCTION mischief(id integer) RETURNS text LANGUAGE $language AS \$f\$ $body \$f\$");
}

mischief('PERFORM pg_sleep(30);');
bad("UPDATE bad SET status = 'confirmed' WHERE id = 1");
ok $pg->poll_query_until('app', "SELECT failures > 1 FROM rsvp_sync._source WHERE attendance = 'bad'::regclass"), 'a slow query is cancelled, again and again';
like source('state_reason'), qr/timeout/, '... the source says why';
others_go_on('a slow query');
mischief('');
bad("SELECT rsvp_sync.resume('bad')") if source('state') eq 'paused';
ok $app->idle, '... quick again, it goes on';
is bad_records(), '1 2 4', '... nothing was withdrawn';

# Cancelled, it goes on all the same.
mischief('PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(1);');
bad("UPDATE bad SET status = 'maybe' WHERE id = 1");
ok $pg->poll_query_until('app', "SELECT count(*) = 0 FROM rsvp_sync._change_log"), 'a query that does not let itself be cancelled at once';
others_go_on('... it is');
mischief('');
ok $app->idle, '... then it is over';

# --- it is locked out

my $session = $pg->session('app');
$session->query('BEGIN; LOCK TABLE bad');
$app->sql("INSERT INTO rsvp_sync._change_log (source_id, key, op) SELECT source_id, '1', 'c' FROM rsvp_sync._source WHERE attendance = 'bad'::regclass");
ok $pg->poll_query_until('app', "SELECT count(*) = 0 FROM rsvp_sync._change_log", 't', 10), 'an ACCESS EXCLUSIVE lock on the table';
others_go_on('... it is locked');
is source('state'), 'active', '... that breaks nothing';
$session->query(q{UPDATE bad SET status = 'confirmed' WHERE id = 1; COMMIT});
ok $app->idle, '... free again, it goes on';

# A migration of both tables never is the victim of a deadlock with us.
for my $round (1 .. 6) {
	my ($first, $second) = $round % 2 ? qw(bad attendance) : qw(attendance bad);
	mischief('PERFORM pg_sleep(0.15);') if $round == 3;
	$app->sql("UPDATE bad SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END; UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END");
	is $session->query("BEGIN; LOCK TABLE $first; SELECT pg_sleep(0.1 * $round); LOCK TABLE $second; COMMIT"), '', "two tables locked, $first first";
}
mischief('');
ok $app->idle, 'after that all goes on';

# --- it hides rows

bad('CREATE POLICY one ON bad USING (id = 1); ALTER TABLE bad ENABLE ROW LEVEL SECURITY; ALTER TABLE bad FORCE ROW LEVEL SECURITY');
$app->sql("UPDATE bad SET status = 'attended' WHERE id = 2");
ok $pg->poll_query_until('app', "SELECT state = 'broken' FROM rsvp_sync.source WHERE attendance = 'bad'::regclass"), 'forced row security is an error';
like source('state_reason'), qr/row-level security/, '... the source says why';
is bad_records(), '1 2 4', '... and no absence';
others_go_on('forced row security');
bad('ALTER TABLE bad NO FORCE ROW LEVEL SECURITY');
ok $pg->poll_query_until('app', "SELECT state = 'active' FROM rsvp_sync.source WHERE attendance = 'bad'::regclass"), '... taken back, it works again';
ok $app->idle, '... and goes on';

# --- it wants to be somebody else

bad('CREATE TABLE loot (what text, who text, content text)');
my %attempts = (
	'read the accounts' => q{INSERT INTO loot SELECT 'accounts', current_user, credential FROM rsvp_sync._account;},
	'read the event cache' => q{INSERT INTO loot SELECT 'cache', current_user, uri FROM rsvp_sync._event;},
	'become superuser' => q{ALTER ROLE bad SUPERUSER;},
	'SET ROLE' => q{SET ROLE postgres; INSERT INTO loot VALUES ('role', current_user);},
	'SET SESSION AUTHORIZATION' => q{SET SESSION AUTHORIZATION postgres; INSERT INTO loot VALUES ('session', current_user);},
	'RESET ROLE' => q{RESET ROLE; INSERT INTO loot VALUES ('reset', current_user); IF current_user <> 'bad' THEN PERFORM 1 FROM rsvp_sync._account; ELSE RAISE 'still bad'; END IF;},
	'set_config of the role' => q{PERFORM set_config('role', 'postgres', false);},
	'set a setting for superusers' => q{PERFORM set_config('session_replication_role', 'replica', false);},
	'send elsewhere' => q{PERFORM set_config('rsvp_sync.plc_url', 'http://127.0.0.1:1', false);},
	'change the queue' => q{DELETE FROM rsvp_sync._queue;},
	'speak for others' => q{PERFORM rsvp_sync._account_done('did:plc:x', 'connected', NULL, NULL, NULL, NULL);},
	'open an envelope' => q{PERFORM rsvp_sync._open('{}', 'did:plc:x');},
	'read a file' => q{PERFORM pg_read_file('/etc/passwd');},
	'a program' => q{EXECUTE 'COPY loot FROM PROGRAM ''id''';},
	'end the worker' => q{IF NOT pg_terminate_backend(pg_backend_pid()) THEN RAISE 'no'; END IF;},
	'a temporary table' => q{CREATE TEMPORARY TABLE t (i int);},
	'a cursor that stays' => q{EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';},
	'a transaction of its own' => q{COMMIT;},
);
for my $what (sort keys %attempts) {
	mischief($attempts{$what});
	bad("UPDATE bad SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 1");
	ok $pg->poll_query_until('app', "SELECT failures > 0 FROM rsvp_sync._source WHERE attendance = 'bad'::regclass", 't', 10), "$what: refused";
	mischief('');
	$app->sql("UPDATE rsvp_sync._source SET retry_at = NULL WHERE attendance = 'bad'::regclass");
	bad('UPDATE bad SET divisor = divisor + 1 WHERE id = 1; UPDATE bad SET divisor = 1 WHERE id = 1');
	$pg->poll_query_until('app', "SELECT state = 'active' AND failures = 0 FROM rsvp_sync._source WHERE attendance = 'bad'::regclass");
}
is $app->sql('SELECT count(*) FROM loot'), 0, 'nothing was taken';
is $app->sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'bad'"), 'f', 'nobody was promoted';
is $app->worker, $worker, 'the worker lives';
others_go_on('after all that');

# What is allowed, is done as its owner, and leaves nothing behind.
mischief(q{INSERT INTO loot VALUES ('allowed', current_user, session_user);
	PERFORM set_config(s, v, false) FROM (VALUES ('search_path', 'public'), ('rsvp_sync.skip', 'on'), ('lock_timeout', '0'), ('default_transaction_read_only', 'on'),
		('default_transaction_isolation', 'serializable'), ('synchronous_commit', 'off'), ('DateStyle', 'SQL, DMY'), ('work_mem', '64kB')) AS x (s, v);
	PERFORM pg_advisory_lock(4711);});
bad("UPDATE bad SET status = 'attended' WHERE id = 1");
ok $pg->poll_query_until('app', "SELECT count(*) > 0 FROM loot WHERE what = 'allowed'"), 'a query may write what its owner may';
is $app->sql('SELECT string_agg(DISTINCT who, $$ $$) FROM loot'), 'bad', '... as its owner';
ok $app->idle, '... and goes on';
is $app->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"), 0, '... no advisory lock stays with the worker';
mischief(q{INSERT INTO loot VALUES ('settings', concat_ws(' ', current_setting('default_transaction_read_only'), current_setting('default_transaction_isolation'),
	current_setting('synchronous_commit'), current_setting('rsvp_sync.skip'), current_setting('work_mem')));});
others_go_on('settings of its own');
bad("UPDATE bad SET status = 'maybe' WHERE id = 1");
ok $app->idle, '... the next query';
is $app->sql("SELECT DISTINCT who FROM loot WHERE what = 'settings'"), 'off read committed on off 4MB', '... does not meet them';
mischief('');

# Deferred: at our commit nobody is in a restricted operation any more.
bad(<<'SQL');
CREATE TABLE later (i integer);
CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO loot VALUES ('deferred', current_user); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
SQL
mischief('INSERT INTO later VALUES (1);');
bad("UPDATE bad SET status = 'confirmed' WHERE id = 1");
ok $pg->poll_query_until('app', "SELECT failures > 0 OR EXISTS (SELECT FROM later) FROM rsvp_sync._source WHERE attendance = 'bad'::regclass"), 'a deferred trigger of the query';
is $app->sql("SELECT count(*) FROM loot WHERE what = 'deferred' AND who <> 'bad'"), 0, '... does not run as somebody else';
mischief('');
$app->sql("UPDATE rsvp_sync._source SET retry_at = NULL WHERE attendance = 'bad'::regclass");
bad('UPDATE bad SET divisor = 2 WHERE id = 1; UPDATE bad SET divisor = 1 WHERE id = 1');
ok $app->idle, '... and all is well again';

# --- triggers of the table, fired by the write-back

bad(<<'SQL');
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO loot VALUES ('told', current_user, NEW.told);
	BEGIN
		INSERT INTO loot SELECT 'accounts', current_user, credential FROM rsvp_sync._account;
	EXCEPTION WHEN insufficient_privilege THEN NULL;
	END;
	UPDATE bad SET status = 'maybe' WHERE id = 4 AND NEW.id = 1;
	RETURN NULL;
END $$;
CREATE TRIGGER told AFTER UPDATE OF told ON bad FOR EACH ROW WHEN (NEW.told IS DISTINCT FROM OLD.told) EXECUTE FUNCTION told();
SQL
bad("UPDATE bad SET status = 'confirmed' WHERE id = 4");
$app->idle;
bad("UPDATE bad SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 1");
ok $app->idle, 'a trigger on the table when a row is told';
is $app->sql("SELECT string_agg(DISTINCT who, ' ') FROM loot WHERE what = 'told'"), 'bad', '... runs as the owner';
is $app->sql("SELECT count(*) FROM loot WHERE what = 'accounts'"), 0, '... and gets at nothing';
is $app->sql('SELECT status FROM bad WHERE id = 4'), 'maybe', '... another row that it changes';
my ($four) = grep { $_->{value}{subject}{uri} =~ /000004$/ } $pds->list_records(2);
like $four->{value}{status}, qr/#interested$/, '... is published';

bad(q{CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'; CREATE TRIGGER fails BEFORE UPDATE OF told ON bad FOR EACH ROW EXECUTE FUNCTION fails()});
bad("UPDATE bad SET status = 'maybe' WHERE id = 2");
ok $pg->poll_query_until('app', "SELECT writeback_failures > 0 FROM rsvp_sync._intent i JOIN rsvp_sync._source s USING (source_id) WHERE key = '2' AND attendance = 'bad'::regclass"), 'a trigger that fails';
is bad_status(2), 'done published', '... the row is published all the same';
others_go_on('a trigger that fails');
bad('DROP TRIGGER fails ON bad');

is $app->worker, $worker, 'it is still the same worker';
unlike $pg->log_text, qr/PANIC|deadlock detected|could not be recorded|terminated by signal/, 'nothing untoward in the log';
unlike $pg->log_text, qr/hunter2/, 'and no secret';

done_testing;
