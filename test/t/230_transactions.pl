# The application's transactions, of every kind: none fails, none waits, each
# change is noticed if and only if it was committed.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 5);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.withdraw_limit' => 1_000_000,
	max_prepared_transactions => 5, wal_level => 'logical', max_wal_size => '4GB', min_wal_size => '1GB', deadlock_timeout => '200ms',
	synchronous_commit => 'off',
});

# --- what is noticed.  A database whose worker takes the log and sends nothing.

my $log = scene($pg, 'log', $pds, attach => 0, connect => 0);
$pg->safe_psql('postgres', 'ALTER DATABASE log SET rsvp_sync.mode = off');
$log->sql(<<'SQL');
CREATE TABLE seat (id integer PRIMARY KEY, status text, note text);
SELECT rsvp_sync.attach('seat', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, status FROM seat');
CREATE TABLE part (id integer, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b');
SELECT rsvp_sync.attach('part', 'SELECT id, region, NULL::text AS did, NULL::text AS event_uri, status FROM part');
SQL

# The keys the worker took from the log since the last call.
sub noticed {
	$pg->poll_query_until('log', 'SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log)') or return 'not drained';
	return $log->sql("WITH gone AS (DELETE FROM rsvp_sync._queue RETURNING *) SELECT left(string_agg(key, ' ' ORDER BY length(key), key), 200) FROM gone");
}

sub notices {
	my ($what, $expected, $sql) = @_;
	my ($status, $out, $err) = $pg->psql('log', "SET client_min_messages = error;\n$sql");
	is $err, '', "$what: no error" if $err ne '';
	is noticed(), $expected, $what;
	return;
}

notices('three rows', '1 2 3', "INSERT INTO seat VALUES (1, 'maybe'), (2, 'maybe'), (3, 'maybe')");
notices('nothing of a transaction that is rolled back', '', "BEGIN; INSERT INTO seat VALUES (4, 'maybe'); UPDATE seat SET status = 'x'; ROLLBACK");
notices('nothing of an update that changes nothing', '', "UPDATE seat SET status = status");
notices('a savepoint: what is rolled back to it is forgotten', '1 3', <<'SQL');
BEGIN; UPDATE seat SET status = 'a' WHERE id = 1;
SAVEPOINT s; UPDATE seat SET status = 'a' WHERE id = 2; SAVEPOINT t; UPDATE seat SET status = 'b' WHERE id = 2; RELEASE t; ROLLBACK TO s;
UPDATE seat SET status = 'a' WHERE id = 3; COMMIT
SQL
notices('the same key before, in, and after what is rolled back', '1 2', <<'SQL');
BEGIN; UPDATE seat SET status = 'c' WHERE id = 1;
SAVEPOINT s; UPDATE seat SET status = 'd' WHERE id = 1; UPDATE seat SET status = 'd' WHERE id = 2; ROLLBACK TO s;
SAVEPOINT u; UPDATE seat SET status = 'e' WHERE id = 2; RELEASE u; COMMIT
SQL
notices('released, then rolled back further out', '3', <<'SQL');
BEGIN; SAVEPOINT o; SAVEPOINT i; UPDATE seat SET status = 'f' WHERE id = 1; RELEASE i; UPDATE seat SET status = 'f' WHERE id = 2; ROLLBACK TO o;
UPDATE seat SET status = 'f' WHERE id = 3; COMMIT
SQL
notices('exceptions in PL/pgSQL', '1 3', <<'SQL');
DO $$ BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			UPDATE seat SET status = 'g' WHERE id = i;
			IF i = 2 THEN PERFORM 1 / 0; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$
SQL
notices('a procedure that commits and rolls back', '1 3', <<'SQL');
DO $$ BEGIN
	FOR i IN 1 .. 3 LOOP
		UPDATE seat SET status = 'h' WHERE id = i;
		IF i = 2 THEN ROLLBACK; ELSE COMMIT; END IF;
	END LOOP;
END $$
SQL
notices('a prepared transaction, when it is committed', '1', "BEGIN; UPDATE seat SET status = 'i' WHERE id = 1; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'");
notices('and not when it is rolled back', '', "BEGIN; UPDATE seat SET status = 'j' WHERE id = 1; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'");
notices('the transaction after PREPARE is another one', '2', "BEGIN; UPDATE seat SET status = 'k' WHERE id = 1; PREPARE TRANSACTION 'p'; UPDATE seat SET status = 'k' WHERE id = 2; ROLLBACK PREPARED 'p'");
notices('a change of the key: both', '3 30', 'UPDATE seat SET id = 30 WHERE id = 3');
notices('a deletion', '30', 'DELETE FROM seat WHERE id = 30');
notices('COPY', '4 5', "COPY seat FROM stdin;\n4\tmaybe\t\\N\n5\tmaybe\t\\N\n\\.\n");
notices('MERGE', '4 5 6', <<'SQL');
MERGE INTO seat s USING (VALUES (4, 'l'), (5, NULL), (6, 'l')) AS v (id, status) ON s.id = v.id
WHEN MATCHED AND v.status IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET status = v.status WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.status)
SQL
notices('ON CONFLICT', '4 7', "INSERT INTO seat VALUES (4, 'm'), (7, 'm') ON CONFLICT (id) DO UPDATE SET status = excluded.status; INSERT INTO seat VALUES (6, 'm') ON CONFLICT DO NOTHING");
notices('session_replication_role = replica', '4', "SET session_replication_role = replica; UPDATE seat SET status = 'n' WHERE id = 4");
notices('after DISCARD ALL', '4', "UPDATE seat SET status = 'n' WHERE id = 4; DISCARD ALL; UPDATE seat SET status = 'o' WHERE id = 4");
notices('with an EXCLUSIVE lock on the table', '4', "BEGIN; LOCK TABLE seat; UPDATE seat SET status = 'p' WHERE id = 4; COMMIT");
notices('partitions', '["1", "a"] ["2", "b"]', "INSERT INTO part VALUES (1, 'a', 'x'), (2, 'b', 'x')");
notices('a row that moves to another partition', '["1", "a"] ["1", "b"]', "UPDATE part SET region = 'b' WHERE id = 1");
notices('a leaf, directly', '["2", "b"]', "DELETE FROM part_b WHERE id = 2");
notices('a partition that is attached after a change', '["9", "c"]', <<'SQL');
CREATE TABLE part_c PARTITION OF part FOR VALUES IN ('c');
INSERT INTO part VALUES (9, 'c', 'x')
SQL
$log->sql(<<'SQL');
CREATE TABLE room (id integer PRIMARY KEY);
CREATE FUNCTION seat_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seat VALUES (NEW.id, 'maybe'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER seat_it AFTER INSERT ON room DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION seat_it();
SQL
notices('a deferred constraint trigger that changes attendance at commit', '40 41', 'BEGIN; INSERT INTO room VALUES (40); INSERT INTO room VALUES (41); COMMIT');
notices('a table attached in the same transaction, before and after', '2', <<'SQL');
BEGIN; CREATE TABLE late (id integer PRIMARY KEY, status text); INSERT INTO late VALUES (1, 'x');
SELECT rsvp_sync.attach('late', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, status FROM late');
INSERT INTO late VALUES (2, 'x'); COMMIT
SQL
notices('an attach that is rolled back', '', <<'SQL');
BEGIN; CREATE TABLE never (id integer PRIMARY KEY, status text);
SELECT rsvp_sync.attach('never', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, status FROM never');
INSERT INTO never VALUES (2, 'x'); ROLLBACK
SQL
# its name until PostgreSQL 15, and since
my $parallel = $log->sql("SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')");
notices('rows of a parallel plan', '50 51', <<"SQL");
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET $parallel = on;
INSERT INTO seat SELECT a.id + 10, 'maybe' FROM seat a WHERE a.id IN (40, 41)
SQL

# A transaction-wide snapshot, and an older one at that.
my $old = $pg->session('log');
$old->query('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM seat');
notices('another session', '1', "UPDATE seat SET status = 'q' WHERE id = 1");
is $old->query("UPDATE seat SET status = 'q' WHERE id = 2; COMMIT"), '', 'a SERIALIZABLE transaction with an old snapshot commits';
is noticed(), '2', 'and is noticed';
$old->close;

# Logical replication: the rows come by an apply worker.
$pg->safe_psql('postgres', 'CREATE DATABASE publisher');
$pg->safe_psql('publisher', "CREATE TABLE seat (id integer PRIMARY KEY, status text, note text); CREATE PUBLICATION p FOR TABLE seat");
$pg->safe_psql('publisher', "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
$log->sql("CREATE SUBSCRIPTION s CONNECTION '" . $pg->connstr('publisher') . "' PUBLICATION p WITH (create_slot = false, slot_name = 's', copy_data = false)");
$pg->safe_psql('publisher', "INSERT INTO seat VALUES (100, 'x'), (101, 'x')");
ok $pg->poll_query_until('log', 'SELECT count(*) = 2 FROM seat WHERE id IN (100, 101)'), 'rows come by logical replication';
is noticed(), '100 101', 'and are noticed';
$pg->safe_psql('publisher', "UPDATE seat SET status = 'y' WHERE id = 100; DELETE FROM seat WHERE id = 101");
ok $pg->poll_query_until('log', "SELECT count(*) = 1 FROM seat WHERE id IN (100, 101) AND status = 'y'"), 'so do changes';
is noticed(), '100 101', 'and they are noticed';
$log->sql('DROP SUBSCRIPTION s');

# --- many rows

sub timed { my ($sql, $seconds) = @_; my $began = time; $log->sql($sql); return (time - $began) }

my $took = timed("INSERT INTO seat SELECT n, 'x' FROM generate_series(100001, 200000) n");
is $log->sql("SELECT (SELECT count(*) FROM rsvp_sync._change_log) + (SELECT count(*) FROM rsvp_sync._queue)"), 100_000, sprintf '100,000 rows in one transaction (%.1f s)', $took;
$took = timed(<<'SQL');
DO $$ BEGIN
	FOR i IN 200001 .. 300000 LOOP
		BEGIN
			INSERT INTO seat VALUES (i, 'x');
			IF i % 10 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$
SQL
ok $pg->poll_query_until('log', 'SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log)'), sprintf '100,000 subtransactions in one, a tenth of them rolled back (%.1f s)', $took;
is $log->sql('SELECT count(*), count(*) FILTER (WHERE key::integer % 10 = 0 AND key::integer > 200000) FROM rsvp_sync._queue'), '190000|0', 'exactly what was committed is noticed';
$log->sql('TRUNCATE rsvp_sync._queue');
$took = timed("BEGIN; SAVEPOINT s; UPDATE seat SET status = 'y' WHERE id > 100000; ROLLBACK TO s; UPDATE seat SET status = 'z' WHERE id = 100001; COMMIT");
is noticed(), '100001', sprintf '190,000 changes rolled back to a savepoint (%.1f s)', $took;

# --- many commits

my $session = $pg->session('log');
my $memory = sub { my ($rss) = slurp('/proc/' . $session->backend_pid . '/status') =~ /^RssAnon:\s*(\d+) kB/m; return $rss };
my $loop = sub { return $session->query("DO \$\$ BEGIN FOR i IN 1 .. $_[0] LOOP UPDATE seat SET note = i, status = i WHERE id = 1; COMMIT; END LOOP; END \$\$", 120) };
is $loop->(10_000), '', 'a session of many commits';
my $before = $memory->();
is $loop->(90_000), '', '... 100,000 of them';
my $grown = $memory->() - $before;
cmp_ok $grown, '<', 1024, "... whose memory does not grow ($grown kB)";
$session->close;

# --- the extension goes, with changes in the same transaction

$pg->safe_psql('postgres', 'CREATE DATABASE going');
$pg->safe_psql('going', <<'SQL');
CREATE EXTENSION rsvp_sync;
CREATE TABLE seat (id integer PRIMARY KEY, status text);
SELECT rsvp_sync.attach('seat', 'SELECT id, NULL::text AS did, NULL::text AS event_uri, status FROM seat');
SQL
is_deeply [ $pg->psql('going', "BEGIN; INSERT INTO seat VALUES (1, 'x'); DROP EXTENSION rsvp_sync; INSERT INTO seat VALUES (2, 'x'); ROLLBACK") ], [ 0, '', '' ], 'DROP EXTENSION between two changes, rolled back';
is_deeply [ $pg->psql('going', "BEGIN; INSERT INTO seat VALUES (1, 'x'); DROP EXTENSION rsvp_sync; INSERT INTO seat VALUES (2, 'x'); COMMIT") ], [ 0, '', '' ], '... committed';
is_deeply [ $pg->psql('going', "BEGIN; CREATE EXTENSION rsvp_sync; INSERT INTO seat VALUES (3, 'x'); COMMIT; UPDATE seat SET status = 'y'") ], [ 0, '', '' ], '... and created again';
$pg->safe_psql('postgres', 'DROP DATABASE going');

# --- against a busy worker

my $app = scene($pg, 'app', $pds, attach => 0, events => 1100);
$app->sql(<<'SQL');
-- Room on each page, also for rows that have been told (three times their size): where an update needs another page,
-- it writes to an index page that others have read, and PostgreSQL itself makes SERIALIZABLE transactions fail.
ALTER TABLE attendance SET (fillfactor = 10);
CREATE SEQUENCE slot START 101;
SELECT rsvp_sync.attach('attendance');
INSERT INTO attendance (id, status, "eventId", "userId") SELECT n + 1, 'confirmed', n / 5 + 1, n % 5 + 1 FROM generate_series(0, 399) n;
SQL
ok $app->idle, 'four hundred rows';

sub script {
	my ($name, $text) = @_;
	my $file = $pg->dir . "/$name.sql";
	open my $out, '>', $file or die "$file: $!";
	print {$out} $text;
	close $out;
	chmod 0644, $file;
	return $file;
}

# Clients update their own rows, four hundred by turns, and insert new ones.
# Under SERIALIZABLE the rows are updated only: PostgreSQL itself makes
# inserts into one index page fail.
my %insert = ('REPEATABLE READ' => 1, SERIALIZABLE => 0);
my $from = $pg->log_size;
for my $level (sort keys %insert) {
	my $update = script('update', <<"SQL");
\\set id random(0, 99) * 4 + :client_id + 1
\\set s random(1, 3)
BEGIN ISOLATION LEVEL $level;
SELECT preferences FROM users WHERE id = :s;
UPDATE attendance SET status = (ARRAY['confirmed', 'maybe', 'attended'])[:s] WHERE id = :id;
UPDATE attendance SET note = :s WHERE id = :id;
COMMIT;
SQL
	my $insert = script('insert', <<"SQL");
\\set u random(1, 5)
BEGIN ISOLATION LEVEL $level;
INSERT INTO attendance (status, "eventId", "userId") VALUES ('confirmed', nextval('slot'), :u);
COMMIT;
SQL
	my $out = $pg->as_pg([ $pg->bin('pgbench'), '-n', '-c', 4, '-t', 1250, '--rate', 700, '--max-tries=1', '--failures-detailed',
		'-f', "$update\@9", ($insert{$level} ? ('-f', "$insert\@1") : ()), $app->{pg}->connstr('app') ]);
	my ($done, $failed) = $out =~ /actually processed: (\d+).*?failed transactions: (\d+)/s;
	is "$done $failed", '5000 0', "5,000 $level transactions against a busy worker: none fails";
}
ok $app->idle(90), 'the worker gets to the end';
is $app->disagreement, '', 'the network has what they left';
is $app->not_told, '', 'and the rows know';
unlike $pg->log_text($from), qr/deadlock|could not serialize/, 'no deadlock, no serialization failure in the log';

# A snapshot taken after the change and before the write-back: whoever has it
# may change the row.
for my $seconds (0, 3) {
	$pds->faults({ match => 'putRecord', delayMs => 300 });
	$app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 1");
	$old = $pg->session('app');
	$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM users LIMIT 1');
	ok $app->wait_status(1, 'done published'), 'a row is published while somebody has a snapshot';
	$old->query("SELECT pg_sleep($seconds)");
	is $old->query("UPDATE attendance SET note = 'mine' WHERE id = 1; COMMIT"), '', "... who changes it $seconds seconds later, without an error";
	$old->close;
	ok $app->idle, '... then the row is told';
	is $app->not_told, '', '... what was published';
}

# --- a row that is locked

$session = $pg->session('app');
$session->query(q{BEGIN; SELECT FROM attendance WHERE id = 2 FOR UPDATE});
$app->sql(q{SELECT rsvp_sync.reconcile('attendance')});
my $other = $pg->session('app');
$other->send(q{UPDATE attendance SET status = 'attended' WHERE id = 3; UPDATE attendance SET status = 'maybe' WHERE id = 3});
is $other->result, '', 'with one row locked';
ok $app->wait_status(3, 'done published'), '... another one is published';
ok $pg->poll_query_until('app', "SELECT metadata ->> 'blueskyRsvpCid' = (SELECT cid FROM rsvp_sync.sync_status('attendance', '3')) FROM attendance WHERE id = 3"), '... and told';
is $session->query(q{UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 2; COMMIT}), '', '... the lock is given up';
$session->query(q{BEGIN; SELECT FROM attendance WHERE id = 2 FOR UPDATE});
ok $app->wait_status(2, 'done published'), 'a row that is locked while it is published';
ok $pg->poll_query_until('app', "SELECT writeback_failures > 0 FROM rsvp_sync._intent WHERE key = '2'"), '... cannot be told';
is $app->sql("SELECT count(*) FROM pg_locks WHERE NOT granted"), 0, '... nobody waits for it';
is $session->query(q{UPDATE attendance SET note = 'locked' WHERE id = 2; COMMIT}), '', '... who has it goes on';
ok $pg->poll_query_until('app', "SELECT NOT writeback FROM rsvp_sync._intent WHERE key = '2'"), '... and then it is told';
is $app->not_told, '', '... all is well';

unlike $pg->log_text, qr/PANIC|deadlock detected|could not be recorded|terminated by signal/, 'nothing untoward in the log';

done_testing;
