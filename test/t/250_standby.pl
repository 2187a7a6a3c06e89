# Availability comes from PostgreSQL: a standby does nothing until it is
# promoted, then goes on where the primary was.  And a copy of the files, taken
# while work is under way, goes on like a server that crashed.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.withdraw_limit' => 1_000_000,
	wal_level => 'replica', max_wal_senders => 4,
});
my $app = scene($pg, 'app', $pds, events => 60);

sub settled {
	my ($scene, $what) = @_;
	my $idle = $scene->idle;
	my $differs = $scene->disagreement;
	my $untold = $scene->not_told;
	ok $idle && $differs eq '' && $untold eq '', $what or diag "idle $idle, not told: $untold\n$differs";
	return;
}

# A server of these files, a copy of another one's
sub copy_of {
	my ($primary, $name, @options) = @_;
	my $dir = RsvpSyncTest::temp_dir($name);
	my $copy = bless { name => $name, dir => $dir }, ref $primary;
	RsvpSyncTest::watch('start', 'QUIT', "$dir/data/postmaster.pid", $dir);
	mkdir "$dir/socket", 0700;
	$copy->own($dir, "$dir/socket");
	$copy->as_pg([ $copy->bin('pg_basebackup'), '-D', "$dir/data", '-d', $primary->connstr, '-c', 'fast', @options ]);
	$copy->append_conf("unix_socket_directories = '$dir/socket'");
	$copy->start;
	return $copy;
}

sub change { my ($scene, $n) = @_; return $scene->sql("UPDATE attendance SET status = (ARRAY['confirmed', 'maybe', 'cancelled'])[1 + (id + $n) % 3]") }
sub busy { return wait_for { $pds->log(call => 'com.atproto.repo.putRecord') >= 15 } }

$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 119) n});
settled($app, 'a primary');

my $standby = copy_of($pg, 'standby', '-R');
is $standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby';
$pds->clear_log;
change($app, 1);
busy();
my $lsn = $pg->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
ok $standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"), 'follows a primary at work';
is join(' ', $standby->worker_pids('^rsvp_sync')), '', 'has no worker';
is $standby->safe_psql('app', 'SELECT rsvp_sync._copied()'), 'f', 'is no stranger to itself';
$pg->kill9_postmaster;
$standby->promote;
my $new = bless { %$app, pg => $standby }, ref $app;
ok $new->wait_worker, 'the primary dies, the standby is promoted and has a worker';
settled($new, 'which goes on');

# A copy of the files while requests are under way, then the original's end.
$pds->clear_log;
change($new, 2);
busy();
my $copy = copy_of($standby, 'copy');
my $third = bless { %$app, pg => $copy }, ref $app;
$standby->kill9_postmaster;
ok $third->wait_worker, 'a physical copy keeps its identity and has a worker';
is $third->sql('SELECT rsvp_sync._copied()'), 'f', '... that may send';
change($third, 3);
settled($third, '... and goes on');
is $third->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... with nothing left to do';

# The same database by its logical content is another one.
$copy->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE app');
my $clone = bless { %$app, pg => $copy, db => 'clone' }, ref $app;
ok $clone->wait_worker, 'a logical copy has a worker';
$pds->clear_log;
$clone->sql(q{UPDATE attendance SET status = 'attended'});
ok $copy->poll_query_until('clone', 'SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log)'), '... which notices changes';
is $clone->sql("SELECT DISTINCT concat_ws(' ', state, reason_code) FROM rsvp_sync.status WHERE state <> 'done'"), 'blocked copied', '... and sends nothing';
is scalar($pds->log(call => 'com.atproto.repo.putRecord')), 0, '... at all';

$_->destroy for $standby, $copy;
done_testing;
