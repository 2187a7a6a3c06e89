# Reconcile in the background: whatever no trigger has told is found, without a
# call; and whoever dies, drops or pauses meanwhile finds no harm done.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 7, conf => {
	'rsvp_sync.reconcile_interval' => '1s', 'rsvp_sync.withdraw_limit' => 4, 'max_worker_processes' => 12, log_min_messages => 'debug1',
});
my ($pds, $pg) = ($app->pds, $app->pg);
$app->admin('GRANT SELECT ON rsvp_sync.progress TO app');
$app->plan_schema;
my $CID = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a';
$app->sql(sprintf q{INSERT INTO events (id, name, "sourceType", "sourceData", "startDate") SELECT n, 'Event', 'bluesky',
	jsonb_build_object('did', '%s', 'rkey', '3kevent' || n, 'cid', '%s'), '2035-01-01' FROM generate_series(1, 30) n}, $pds->did(0), $CID);
$app->user($_, $_) for 1 .. 4;
$app->user(5, 5, connect => 0);
$app->user(6, 6);

# unseen(sql): what no trigger tells of
sub unseen { my ($sql) = @_; return $app->admin("SET session_replication_role = replica; $sql") }
sub becomes { my ($what, $is) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1; return ok wait_for { $is->() }, $what }
sub reconciler { my ($db) = @_; return $pg->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync reconcile' AND datname = '$db'") }
sub pass_of { my ($table, $db) = @_; return from_json($pg->safe_psql($db // 'app', "SELECT to_jsonb(p) FROM rsvp_sync._pass p JOIN rsvp_sync._source s USING (source_id) WHERE s.attendance = '$table'::regclass") || '{}') }
# Passes of a table that need nothing of anybody are the clock here.
$app->sql('CREATE TABLE clock (id int PRIMARY KEY, did text, event_uri text, status text)');
sub passes {
	my ($n) = @_;
	for (1 .. $n) {
		my $last = pass_of('clock')->{finished_at} // '';
		wait_for { (pass_of('clock')->{finished_at} // '') ne $last } or return fail('the clock stands still');
	}
	return 1;
}

is reconciler('app'), '', 'nothing is attached: nothing to compare, and no worker for it';
unlike $pg->log_text, qr/rsvp_sync reconcile for database/, '... nor was there one';

$app->attach("'attendance'");
$app->attach("'clock', 'SELECT * FROM clock'");
passes(2);
like $app->sql("SELECT concat_ws(' ', compared, differing, compared_at IS NOT NULL, compare_error, rate, eta) FROM rsvp_sync.progress WHERE attendance = 'clock'::regclass"),
	qr/^0 t 0 00:00:00$/, 'progress tells of it';

# --- what it finds

$app->sql(q{INSERT INTO events (id, name, "startDate") VALUES (100, 'not published yet', '2035-01-01')});
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (1, 100, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4), (5, 1, 5)');
$app->idle('five rows');
is_deeply [ map { $app->state('attendance', $_) } 1 .. 5 ], [ 'withheld/no_event_uri', ('done/published') x 3, 'blocked/no_account' ], 'as long as everything is noticed';

unseen(sprintf q{UPDATE events SET "sourceType" = 'bluesky', "sourceData" = '%s' WHERE id = 100}, json({ did => $pds->did(0), rkey => '3kevent100', cid => $CID }));
becomes('an event published later', sub { $app->said(1) eq 'going' });

$app->admin(sprintf "BEGIN; SET ROLE app; SELECT rsvp_sync.connect_account('%s', '%s'); RESET ROLE; DELETE FROM rsvp_sync._change_log; COMMIT", $pds->did(5), $pds->password(5));
becomes('an account connected later', sub { $app->said(5) eq 'going' });

unseen("UPDATE attendance SET status = 'maybe' WHERE id = 2");
becomes('a status changed with triggers disabled', sub { $app->said(2) eq 'interested' });

unseen('DELETE FROM attendance WHERE id = 3');
becomes('a row deleted with triggers disabled', sub { $app->said(3) eq 'none' });
becomes('... of which nothing is remembered', sub { $app->admin("SELECT count(*) FROM rsvp_sync._intent WHERE key = '3'") eq '0' });

my $told = $app->metadata(4);
like json($told), qr/blueskyRsvpUri/, '(a row that was told)';
unseen("UPDATE attendance SET metadata = '{\"theme\": \"dark\"}' WHERE id = 4");
becomes('an erased write-back is restored', sub { json($app->metadata(4)) eq json({ %$told, theme => 'dark' }) }) or diag json($app->metadata(4));
$app->sql("UPDATE attendance SET metadata = jsonb_set(metadata, '{blueskyRsvpCid}', '\"stale\"') WHERE id = 4");
becomes('... and a stale one', sub { json($app->metadata(4)) eq json({ %$told, theme => 'dark' }) });
$app->sql("UPDATE attendance SET metadata = '[1]' WHERE id = 4");
$app->idle('no room');
passes(2);
is json($app->metadata(4)), '[1]', '... but not where there is no room for it';
is $app->sql('SELECT sum(differing) FROM rsvp_sync.progress'), 0, '... which is not tried again and again';
$app->sql("UPDATE attendance SET metadata = NULL WHERE id = 4");
becomes('... until there is', sub { json($app->metadata(4)) eq json($told) });

my $cid = $app->admin("SELECT base_cid FROM rsvp_sync._intent WHERE key = '4'");
$pds->clear_log;
$app->admin("UPDATE rsvp_sync._intent SET base_cid = '$CID', base_local = 'interested' WHERE key = '4'");
becomes('a restored backup, which remembers another record', sub { $app->admin("SELECT concat(base_cid, base_local) FROM rsvp_sync._intent WHERE key = '4'") eq "${cid}going" });
$app->admin('DELETE FROM rsvp_sync._observed');
becomes('... or none at all: it is read', sub { $app->admin("SELECT cid FROM rsvp_sync._observed WHERE cid = '$cid' LIMIT 1") eq $cid });
$app->idle('restored');
is_deeply [ $app->attempts ], [], '... and nothing is written';

# What was given up is left alone while it wants the same.
$app->admin("UPDATE rsvp_sync._intent SET state = 'failed', reason_code = 'refused', base_local = 'interested' WHERE key = '4'");
$app->admin("UPDATE rsvp_sync._observed SET status = 'interested' WHERE cid = '$cid'");
passes(2);
is_deeply [ $app->state('attendance', 4), $app->attempts ], ['failed/refused'], 'what was given up is not tried again';
unseen("UPDATE attendance SET status = 'cancelled' WHERE id = 4");
becomes('... until it wants something else', sub { $app->said(4) eq 'notgoing' });

# --- within the brake

$app->sql('INSERT INTO attendance (id, event_id, user_id) SELECT 10 + n, n, 6 FROM generate_series(1, 20) n');
$app->idle('twenty rows');
is scalar($app->records(6)), 20, '20 records';
unseen("UPDATE events SET visibility = 'private' WHERE id <= 20");
becomes('events made private: records are withdrawn', sub { $app->records(6) <= 17 });
becomes('... the others are held', sub { $app->sql("SELECT count(*) FROM rsvp_sync.held WHERE reason_code = 'withdraw_limit'") >= 10 });
passes(2);
$app->idle('held');
my $kept = () = $app->records(6);
is $app->sql('SELECT count(*) FROM rsvp_sync.held WHERE attendance_id::int > 10'), $kept, '... all of them, also after further passes';
cmp_ok $kept, '>=', 15, '... as withdraw_limit says';
$app->sql("SELECT rsvp_sync.approve_withdrawals('attendance')");
$app->idle('approved');
is scalar($app->records(6)), 0, '... until somebody lets them pass';

# --- when it rests

$app->sql("SELECT rsvp_sync.pause('attendance')");
unseen("UPDATE attendance SET status = 'maybe' WHERE id = 1");
my $paused = json(pass_of('attendance'));
passes(2);
is json(pass_of('attendance')), $paused, 'a paused source is not compared';
$app->sql("SELECT rsvp_sync.resume('attendance')");
becomes('... resumed, it is', sub { $app->said(1) eq 'interested' });

$app->sql("SELECT rsvp_sync.pause('attendance')");
unseen("UPDATE attendance SET status = 'confirmed' WHERE id = 1");
$app->admin("INSERT INTO rsvp_sync._queue (source_id, key, due_at, changed_at, lease) SELECT source_id, 'x' || n, now(), now(), 1
	FROM rsvp_sync._source, generate_series(1, 6000) n WHERE attendance = 'attendance'::regclass");
$app->sql("SELECT rsvp_sync.resume('attendance')");
my $backlogged = json(pass_of('attendance'));
passes(2);
is json(pass_of('attendance')), $backlogged, 'a source with thousands of keys waiting is not compared';
$app->admin("DELETE FROM rsvp_sync._queue WHERE key LIKE 'x%'");
becomes('... once they are gone, it is', sub { $app->said(1) eq 'going' });

$app->sql('ALTER TABLE attendance RENAME COLUMN status TO standing');
$app->sql('ALTER TABLE attendance DROP COLUMN standing');
becomes('a query that does not run: the source is broken', sub { $app->sql("SELECT state FROM rsvp_sync.source WHERE attendance = 'attendance'::regclass") eq 'broken' });
like pass_of('attendance')->{error}, qr/SQLSTATE 42703/, '... as progress says';
$app->sql("ALTER TABLE attendance ADD standing attendance_status NOT NULL DEFAULT 'confirmed'; SELECT rsvp_sync.detach('attendance')");
is $app->admin('SELECT count(*) FROM rsvp_sync._pass'), 1, 'a detached source leaves nothing behind';

# --- in slices; a query that takes a millisecond a row

$pg->create_db('large');
$pg->safe_psql('large', "GRANT CREATE ON SCHEMA public TO app; SELECT rsvp_sync.grant_application('app')");
$pg->safe_psql('large', <<'SQL', user => 'app');
CREATE TABLE rows (a int, b text, did text, event_uri text, status text, PRIMARY KEY (a, b));
INSERT INTO rows SELECT n % 100, 'row "' || n, 'did:plc:' || repeat('a', 24), 'at://did:plc:' || repeat('o', 24) || '/community.lexicon.calendar.event/3k' || n, 'confirmed' FROM generate_series(1, 6000) n;
SELECT rsvp_sync.attach('rows', 'SELECT a, b, did, event_uri, status FROM rows WHERE pg_sleep(0.0005) IS NOT NULL');
SQL
sub slices { return $pg->safe_psql('large', "SELECT phase IS NOT NULL AND position IS NOT NULL FROM rsvp_sync._pass") eq 't' }
sub large { return pass_of('rows', 'large') }
# under_way(): the process, in the middle of a pass
sub under_way { return wait_for { slices() && reconciler('large') } }

my $pid = under_way();
ok $pid, 'a larger table is compared in slices' or diag $pg->log_tail(20);
my (%began, $held);
my $started = large()->{started_at};
wait_for {
	my ($state, $xmin, $xact) = split /\|/, $pg->safe_psql('postgres', "SELECT state, backend_xmin IS NOT NULL, xact_start FROM pg_stat_activity WHERE pid = $pid");
	$began{$xact}++ if ($state // '') eq 'active' && $xact;
	$held++ if ($state // '') eq 'idle' && $xmin eq 't';
	return keys %began >= 2;
};
cmp_ok scalar(keys %began), '>=', 2, '... each a transaction of its own';
ok !$held, '... between which no snapshot is held';
becomes('... to the end', sub { (large()->{finished_at} // '') ne '' });
is_deeply [ @{ large() }{qw(seen differing)} ], [ 6000, 0 ], '... row by row, each once';

$pid = under_way();
my $before = large();
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
becomes('terminated in the middle: another one comes', sub { my $new = reconciler('large'); $new && $new ne $pid });
is large()->{started_at}, $before->{started_at}, '... and goes on with the same pass';
becomes('... to the end', sub { (large()->{finished_at} // '') ne ($before->{finished_at} // '') });
is_deeply [ @{ large() }{qw(seen differing)} ], [ 6000, 0 ], '... each row once';

$pid = under_way();
$before = large();
kill 'KILL', $pid;
ok wait_for { !alive($pid) }, 'killed in the middle, which restarts the server';
becomes('... the same pass is gone on with, to the end', sub { eval { (large()->{finished_at} // '') ne ($before->{finished_at} // '') } });
is_deeply [ @{ large() }{qw(seen differing)} ], [ 6000, 0 ], '... each row once';

$pg->safe_psql('large', q{SET session_replication_role = replica; DELETE FROM rows WHERE a = 7; UPDATE rows SET status = 'maybe' WHERE a = 8 AND b = 'row "8'});
becomes('rows gone, and one changed, of a composite key', sub { eval { $pg->safe_psql('large', q{SELECT count(*) FROM rsvp_sync._intent WHERE key LIKE '["7",%'}) eq '0'
	&& $pg->safe_psql('large', q{SELECT state || reason_code FROM rsvp_sync._intent WHERE key = '["8", "row \"8"]'}) eq 'blockedno_account' } })
	or diag $pg->safe_psql('large', q{SELECT * FROM rsvp_sync._pass; SELECT key, state, reason_code FROM rsvp_sync._intent WHERE key LIKE '["8",%' LIMIT 3});

under_way();
my $dropping = time;
my (undef, undef, $err) = $pg->psql('postgres', 'DROP DATABASE large');
my $took = time - $dropping;
is $err, '', 'DROP DATABASE in the middle of a pass';
cmp_ok $took, '<', 4, sprintf '... is not kept waiting (%.0f ms)', $took * 1000;

# --- switched off

passes(1);
$app->admin('ALTER SYSTEM SET rsvp_sync.reconcile_interval = 0');
$pg->reload;
becomes('reconcile_interval = 0', sub { $app->admin('SHOW rsvp_sync.reconcile_interval') eq '0' });
is $app->admin('SELECT rsvp_sync._reconcile_due(1000) IS NULL'), 't', '... nothing is ever due';

unlike $pg->log_text, qr/ (?:WARNING|PANIC):  (?!terminating connection because of crash)/, 'and the server had nothing to complain of';
done_testing;
