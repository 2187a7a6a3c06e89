# What keeps surprises from the public: backfill, withdraw_limit, TRUNCATE,
# mode, the clone guard, pause, and ways to leave that leave records alone.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 5, conf => { 'rsvp_sync.withdraw_limit' => 5 });
my $pds = $app->pds;
my $pg = $app->pg;
$app->plan_schema;
$app->user($_, $_) for 1 .. 4;
# Events whose cid the application knows need not be there: 1 .. 10 to come, 11 over.
my $CID = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a';
$app->sql(sprintf q{INSERT INTO events (id, name, "sourceType", "sourceData", "startDate") SELECT n, 'Event', 'bluesky',
	jsonb_build_object('did', '%s', 'rkey', '3kevent' || n, 'cid', '%s'), CASE n WHEN 11 THEN now() - interval '1 year' ELSE '2035-01-01' END FROM generate_series(1, 12) n}, $pds->did(0), $CID);

sub total { return scalar map { $app->records($_) } 1 .. 4 }
sub states { return $app->sql("SELECT coalesce(string_agg(s || ' ' || n, ', ' ORDER BY s), '') FROM (SELECT state || '/' || reason_code AS s, count(*) AS n FROM rsvp_sync.status GROUP BY 1) t") }

# as_new(): nothing attached, no rows, no records
sub as_new {
	$app->sql("SELECT rsvp_sync.detach(attendance) FROM rsvp_sync.source; DELETE FROM attendance");
	for my $account (1 .. 4) { $pds->client('delete-record', $account, $_->{uri}) for $app->records($account) }
	$app->admin('DELETE FROM rsvp_sync._observed');    # as the stream would
	$app->admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'app'");
	$pds->clear_log;
	return;
}

# --- backfill

my $ROWS = q{INSERT INTO attendance (id, event_id, user_id, status) VALUES (1, 1, 1, 'confirmed'), (2, 11, 2, 'confirmed'), (3, 2, 3, 'cancelled'), (4, 2, 4, 'invited')};
$app->sql($ROWS);
$app->attach("'attendance'");
$app->idle('attached');
is_deeply [ $app->attempts ], [], 'backfill none: attaching publishes nothing';
is $app->state('attendance', 1), 'withheld/not_backfilled', '... sync_status says so';
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('compared');
is_deeply [ scalar $app->attempts, $app->sql('SELECT rsvp_sync.reconcile()') ], [ 0, 0 ], '... reconcile() does not change its mind';
$app->sql("UPDATE attendance SET note = 'x', metadata = '{}'");
$app->idle('touched');
is_deeply [ $app->attempts ], [], '... nor does a change of something else';
$app->sql("UPDATE attendance SET status = 'attended' WHERE id = 1");
$app->idle('same meaning');
is_deeply [ $app->attempts ], [], '... nor a status that means the same';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 1");
$app->idle('changed');
is_deeply [ total(), $app->said(1), $app->state('attendance', 1) ], [ 1, 'interested', 'done/published' ], '... a change is published';
$app->sql("UPDATE attendance SET status = 'confirmed' WHERE id = 4; DELETE FROM attendance WHERE id = 3");
$app->idle('changed, deleted');
is_deeply [ total(), $app->said(4) ], [ 2, 'going' ], '... an invitation accepted is, too; a deletion is nothing';
$app->sql("UPDATE attendance SET status = 'cancelled' WHERE id IN (1, 2)");
$app->idle('cancelled');
is_deeply [ $app->said(1), scalar $app->records(2) ], [ 'notgoing', 0 ], '... cancelled: what is published says so, what is not does not';
$app->attach(q{'attendance', options => '{"backfill": "all"}'});
$app->idle('asked for later');
is $app->said(4), 'going', 'backfill asked for later: what there is stays';

as_new();
$app->sql($ROWS);
$app->attach(q{'attendance', options => '{"backfill": "upcoming"}'});
$app->idle('upcoming');
is_deeply [ map { $app->said($_) } 1 .. 4 ], [qw(going none notgoing none)], 'backfill upcoming: what is to come';
is $app->state('attendance', 2), 'withheld/not_backfilled', '... and not what is over';

as_new();
$app->sql($ROWS);
$app->attach(q{'attendance', options => '{"backfill": "all", "publish_past_events": true}'});
$app->idle('all');
is_deeply [ map { $app->said($_) } 1 .. 4 ], [qw(going going notgoing none)], 'backfill all: everything that has something to say';

# --- withdraw_limit

as_new();
$app->attach("'attendance'");
$app->sql('INSERT INTO attendance (id, event_id, user_id) SELECT (u - 1) * 10 + e, e, u FROM generate_series(1, 4) u, generate_series(1, 10) e');
$app->idle('forty');
is total(), 40, '40 records';
$app->sql("UPDATE attendance SET status = 'maybe'");
$app->idle('maybe');
is states(), 'done/published 40', 'changes are no withdrawals, however many';
$app->sql('DELETE FROM attendance WHERE id <= 4');
$app->idle('a few');
is total(), 36, 'a few withdrawals pass';
$app->sql("UPDATE attendance SET status = 'cancelled' WHERE id BETWEEN 5 AND 8; DELETE FROM attendance WHERE id > 8");
$app->idle('many');
my $left = total();
my $held = $app->sql('SELECT count(*) FROM rsvp_sync.held');
my $gone = (grep { RsvpSyncApp::word($_) eq 'notgoing' } map { $app->records($_) } 1 .. 4) + (36 - $left);
is $gone + $held, 36, 'many: each is sent or held';
is $gone, 4, '... 8 of 40 within ten minutes (a fifth) are sent, the others held';
is $app->sql("SELECT string_agg(DISTINCT reason_code, ',') FROM rsvp_sync.held"), 'withdraw_limit', '... with the reason';
is $app->sql('SELECT count(*) FROM rsvp_sync.queue'), 0, '... and are not runnable';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... reconcile() leaves them held';
$app->admin("UPDATE rsvp_sync._withdrawal SET minute = minute - interval '11 minutes'");
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('ten minutes later');
is $app->sql('SELECT count(*) FROM rsvp_sync.held'), $held, '... also ten minutes later: a human has to look';
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (100, 12, 1)');
$app->idle('a new row');
is $app->state('attendance', 100), 'done/published', '... new rows are published meanwhile';
my $back = $app->sql(q{SELECT split_part(attendance_id, '"', 1) FROM rsvp_sync.held WHERE attendance_id::int > 8 ORDER BY attendance_id::int DESC LIMIT 1});
$app->sql(sprintf "INSERT INTO attendance (id, event_id, user_id, status) VALUES (%d, %d, %d, 'confirmed')", $back, ($back - 1) % 10 + 1, int(($back - 1) / 10) + 1);
$app->idle('one comes back');
is $app->state('attendance', $back), 'done/published', '... and so is a held row that comes back';
is $app->sql('SELECT count(*) FROM rsvp_sync.held'), $held - 1, '... which is held no more';
is $app->sql("SELECT rsvp_sync.approve_withdrawals('attendance')"), $held - 1, 'approve_withdrawals()';
$app->idle('approved');
is total(), 6, '... lets them pass' or diag states();
is $app->sql('SELECT count(*) FROM rsvp_sync.held'), 0, '... all';

# --- TRUNCATE

as_new();
$app->attach("'attendance'");
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (1, 1, 1), (2, 1, 2)');
$app->idle('two');
my @before = map { $app->record($_) } 1, 2;
$app->sql('TRUNCATE attendance');
$app->idle('truncated');
is total(), 2, 'TRUNCATE: even two are held';
is $app->sql("SELECT string_agg(DISTINCT reason_code, ',') FROM rsvp_sync.held"), 'truncated', '... with the reason';
$app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES (1, 1, 1, 'confirmed'), (3, 2, 3, 'confirmed')");
$app->idle('reinserted');
is $app->state('attendance', 1), 'done/published', 'a row that comes back';
is_deeply $app->record(1), $before[0], '... has its record again, untouched';
is $app->said(3), 'going', '... others are published';
is $app->sql("SELECT string_agg(attendance_id, ',') FROM rsvp_sync.held"), '2', '... the rest is still held';
$app->sql("SELECT rsvp_sync.approve_withdrawals('attendance')");
$app->idle('approved');
is_deeply [ map { $app->said($_) } 1 .. 3 ], [qw(going none going)], 'approved: withdrawn';
$app->sql('BEGIN; TRUNCATE attendance; INSERT INTO attendance (id, event_id, user_id) VALUES (1, 1, 1), (3, 2, 3); COMMIT');
$app->idle('loaded anew');
is states(), 'done/published 2', 'truncated and loaded anew in one transaction: as if nothing had been';
$app->sql('DELETE FROM attendance WHERE id = 3');
$app->idle('deleted');
is $app->said(3), 'none', '... and a later deletion is no truncation';
$app->sql("BEGIN; TRUNCATE attendance; ROLLBACK; UPDATE attendance SET status = 'maybe'");
$app->idle('rolled back');
is_deeply [ $app->said(1), states() ], [ 'interested', 'done/published 1' ], 'TRUNCATE rolled back is none';

# --- pause

$app->sql("SELECT rsvp_sync.pause('attendance')");
$app->sql("UPDATE attendance SET status = 'confirmed'");
is $app->sql("SELECT rsvp_sync.wait_until_idle('10 s')"), 't', 'paused: nothing is runnable';
is_deeply [ $app->said(1), $app->state('attendance', 1) ], [ 'interested', 'blocked/source_paused' ], '... nothing is sent, sync_status says so';
$pg->restart;
is_deeply [ $app->said(1), $app->state('attendance', 1) ], [ 'interested', 'blocked/source_paused' ], '... over a restart';
$app->sql("SELECT rsvp_sync.resume('attendance')");
$app->idle('resumed');
is $app->said(1), 'going', 'resumed: it goes on';

# --- mode

$app->admin('ALTER DATABASE app SET rsvp_sync.mode = off');
$app->sql("UPDATE attendance SET status = 'maybe'; INSERT INTO attendance (id, event_id, user_id) VALUES (5, 3, 4)");
$app->idle('off');
is_deeply [ $app->said(1), $app->said(4) ], [ 'going', 'none' ], 'mode off: nothing is sent';
is $app->state('attendance', 1), 'blocked/mode_off', '... sync_status says so';
$app->admin("ALTER DATABASE app SET rsvp_sync.mode = 'dry_run'");
ok $pg->poll_query_until('app', "SELECT count(*) FROM rsvp_sync.history WHERE outcome = 'dry_run'", 2), 'mode dry_run: what would be sent is in the history';
$app->idle('dry_run');
is $app->sql("SELECT string_agg(concat_ws(' ', attendance_id, action, status), ', ' ORDER BY attendance_id) FROM rsvp_sync.history WHERE outcome = 'dry_run'"), '1 put interested, 5 put going', '... as it is';
is_deeply [ $app->said(1), $app->said(4) ], [ 'going', 'none' ], '... nothing is sent';
$app->sql('DELETE FROM attendance WHERE id = 1');
$app->idle('deleted in dry_run');
is $app->said(1), 'going', '... and nothing deleted';
$app->admin('ALTER DATABASE app RESET rsvp_sync.mode');
ok $pg->poll_query_until('app', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'app'", 1), 'live again';
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('live');
is_deeply [ $app->said(1), $app->said(4) ], [ 'none', 'going' ], '... what was rehearsed is done' or diag states();

# --- a copy of the database

$app->sql("SELECT rsvp_sync.pause('attendance'); UPDATE attendance SET status = 'maybe'");
$pg->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
$app->sql("SELECT rsvp_sync.resume('attendance')");
$app->idle('the original goes on');
is $app->said(4), 'interested', 'a database that was copied goes on';
{
	local $app->{db} = 'copy';
	$pds->clear_log;
	$app->sql("SELECT rsvp_sync.resume('attendance'); UPDATE attendance SET status = 'cancelled'; INSERT INTO attendance (id, event_id, user_id) VALUES (50, 4, 1)");
	$app->idle('copy');
	is_deeply [ $pds->log ], [], 'its copy talks to nobody';
	is_deeply [ map { $app->state('attendance', $_) } 5, 50 ], [ ('blocked/copied') x 2 ], '... as sync_status says';
	like $app->status('attendance', 50)->{reason}, qr/activate/, '... and what to do';
	$app->admin('SELECT rsvp_sync.activate()');
	$app->idle('activated');
	is_deeply [ $app->said(4), $app->said(1) ], [ 'notgoing', 'going' ], 'activate(): it sends';
}
$pg->safe_psql('postgres', 'DROP DATABASE copy');

# --- leaving

as_new();
$app->attach("'attendance'");
$app->sql('INSERT INTO attendance (id, event_id, user_id) SELECT u, 5, u FROM generate_series(1, 4) u');
$app->idle('four');
$app->sql("SELECT rsvp_sync.detach('attendance')");
$app->sql("UPDATE attendance SET status = 'maybe'; DELETE FROM attendance WHERE id = 4");
$app->idle('detached');
is_deeply [ map { $app->said($_) } 1 .. 4 ], [ ('going') x 4 ], 'detach: records stay as they are';
like $app->fails("SELECT rsvp_sync.sync_status('attendance', '1')"), qr/is not attached/, '... and nothing is known of them';
is $app->sql("SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT tgisinternal AND relnamespace <> 'rsvp_sync'::regnamespace"), 0, '... no trigger is left';

$app->attach(q{'attendance', options => '{"backfill": "all"}'});
$app->idle('attached again');
is_deeply [ map { $app->said($_) } 1 .. 4 ], [ ('interested') x 3, 'going' ], 'attached again: adopted';
$app->sql("UPDATE attendance SET status = 'confirmed'");
$app->idle('ours');
$app->admin('ALTER SYSTEM SET rsvp_sync.withdraw_limit = 500');
$pg->reload;
ok $pg->poll_query_until('app', "SHOW rsvp_sync.withdraw_limit", 500), 'a higher limit';
$app->sql("SELECT rsvp_sync.detach('attendance', withdraw => true)");
$app->idle('withdrawn');
is_deeply [ map { $app->said($_) } 1 .. 4 ], [ ('none') x 3, 'going' ], 'detach with withdraw: records deleted, but those of others';
is $app->sql('SELECT count(*) FROM rsvp_sync.source'), 0, '... then the source is gone';
is $app->sql("SELECT count(*) FROM attendance WHERE metadata ? 'blueskyRsvpUri' AND user_id <> 4"), 0, '... and the rows have forgotten them';

$app->attach(q{'attendance', options => '{"backfill": "all"}'});
$app->idle('attached again');
my $records = [ map { $app->records($_) } 1 .. 4 ];
$app->admin('DROP EXTENSION rsvp_sync');
is_deeply [ map { $app->records($_) } 1 .. 4 ], $records, 'DROP EXTENSION while attached: records stay';
$app->sql("UPDATE attendance SET status = 'cancelled'; INSERT INTO attendance (id, event_id, user_id) VALUES (60, 6, 1); DELETE FROM attendance WHERE id = 1; TRUNCATE attendance");
is $app->sql('SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal'), 0, '... and the application works on';
$app->admin('CREATE EXTENSION rsvp_sync');
is_deeply [ map { $app->records($_) } 1 .. 4 ], $records, '... also when it is created again';

done_testing;
