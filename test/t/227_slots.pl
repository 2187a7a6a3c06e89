# No connection is left, no worker's slot is left: what has a worker goes on,
# what has none waits and says so, and all is there once there is room.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	max_connections => 8, superuser_reserved_connections => 0, max_worker_processes => 2, max_logical_replication_workers => 0, max_wal_senders => 0,
});
my $app = scene($pg, 'app', $pds, events => 30);
ok $app->wait_worker, 'the launcher and one worker: no slot is left';

# --- connections

my $session = $pg->session('app');
my @others;
while (my $other = eval { $pg->session('app') }) { push @others, $other }
like +($pg->psql('app', 'SELECT 1'))[2], qr/too many clients|remaining connection slots/, 'no connection is left';
$session->query(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 14) n});
is $session->query("SELECT rsvp_sync.wait_until_idle('60 s')"), 't', 'the worker goes on';
is scalar($app->published), 15, '... and publishes';
my $worker = $session->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker'");
$session->query("SELECT pg_terminate_backend($worker)");
ok wait_for { my $now = $session->query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker'"); $now && $now ne $worker }, 'one that ends is replaced';
$session->query("UPDATE attendance SET status = 'maybe'");
is $session->query("SELECT rsvp_sync.wait_until_idle('60 s')"), 't', '... and goes on';
$_->close for @others, $session;
ok wait_for { eval { $app->sql('SELECT 1') } }, 'there are connections again';
is $app->disagreement, '', 'the network has what the rows say';

# --- workers' slots

my $from = $pg->log_size;
my $second = scene($pg, 'second', $pds, events => 30);
$second->sql(q{UPDATE events SET "sourceData" = "sourceData" || jsonb_build_object('rkey', 'second' || id)});    # other records
ok $pg->wait_for_log(qr/WARNING:  no background worker slot is free for the .*"second"/, $from), 'another database finds no slot: the log says so';
$second->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 14) n});
is $second->worker, '', '... it has no worker';
is $second->sql("SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'worker' AND severity = 'error'"), 1, '... doctor() says so';
is $second->sql("SELECT DISTINCT state FROM rsvp_sync.sync_status('attendance', '1000')"), 'waiting', '... rows wait';
$app->sql("UPDATE attendance SET status = 'cancelled'");
ok $app->idle, 'the first one is not disturbed';
is $app->disagreement, '', '... its rows are published';

$pg->safe_psql('postgres', 'DROP DATABASE app');
ok $second->wait_worker, 'a slot becomes free: the second one has it';
ok $second->idle, '... and goes on';
is join("\n", grep { /second/ } $second->published), join("\n", $second->desired), '... the network has what its rows say';
is $second->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... with nothing left to do';

done_testing;
