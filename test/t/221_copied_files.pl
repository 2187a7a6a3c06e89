# A copy of the data directory, all of it at one moment under load, started in
# place of the original: it goes on like a server that crashed.  One that has
# been given another identity on the way sends nothing until it is told to.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time sleep);
use RsvpSyncTest;
use RsvpSyncScene;

my $seed = $ENV{RS_TEST_SEED} // time * 1000 % 1_000_000;
srand $seed;
note "RS_TEST_SEED=$seed";

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.withdraw_limit' => 1_000_000, 'rsvp_sync.max_attempts' => 1000,
});
my $app = scene($pg, 'app', $pds, events => 60);

sub settled {
	my ($scene, $what) = @_;
	my $idle = $scene->idle;
	my $differs = $scene->disagreement;
	my $untold = $scene->not_told;
	ok $idle && $differs eq '' && $untold eq '', $what or diag "idle $idle, not told: $untold\n$differs\nRS_TEST_SEED=$seed";
	is $scene->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... and nothing is left to do';
	return;
}

sub change {
	my ($scene, $n) = @_;
	return $scene->sql("UPDATE attendance SET status = (ARRAY['confirmed', 'maybe', 'cancelled'])[1 + (id + $n) % 3]; DELETE FROM attendance WHERE id % 40 = $n;
		INSERT INTO attendance (status, \"eventId\", \"userId\") SELECT 'maybe', n, 1 + n % 3 FROM generate_series(@{[ 40 + 3 * $n ]}, @{[ 42 + 3 * $n ]}) n");
}

sub processes {
	my ($server) = @_;
	my $pid = $server->pid;
	return $pid, split ' ', slurp("/proc/$pid/task/$pid/children");
}

# The files, of a server in whose processes time stands still meanwhile; then
# these end as if the machine had.
sub copy_of {
	my ($server, $name) = @_;
	my $dir = RsvpSyncTest::temp_dir($name);
	my $copy = bless { %$server, name => $name, dir => $dir }, ref $server;
	RsvpSyncTest::watch('start', 'QUIT', "$dir/data/postmaster.pid", $dir);
	mkdir "$dir/socket", 0700;
	$copy->own($dir, "$dir/socket");
	kill 'STOP', processes($server);
	kill 'STOP', processes($server);    # whom the postmaster started meanwhile
	$copy->as_pg([ 'cp', '-a', $server->data_dir, "$dir/data" ]);
	my @all = processes($server);
	kill 'KILL', @all;
	wait_for { !alive(@all) } or die 'the original lives on';
	unlink map { "$_/postmaster.pid" } $server->data_dir, "$dir/data";
	$copy->append_conf("unix_socket_directories = '$dir/socket'");
	return $copy;
}

$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 89) n});
for my $round (1 .. 4) {
	$pds->clear_log;
	change($app, $round);
	my $n = 1 + int rand 40;
	wait_for { $pds->log(call => qr/(?:put|delete)Record/) >= $n };
	sleep rand 0.02;
	my $copy = copy_of($app->{pg}, "copy$round");
	$copy->start;
	$app = bless { %$app, pg => $copy }, ref $app;
	settled($app, "copied after $n requests, and started");
	ok $app->sql('SELECT NOT rsvp_sync._copied()') eq 't', '... it is the same installation';
}

# Another system identifier: of a clean stop, as pg_resetwal gives it to files
# whose control file says so.  (Its checksum is then pg_resetwal's matter.)
$pds->clear_log;
change($app, 5);
wait_for { $pds->log(call => qr/putRecord/) >= 10 };
$app->{pg}->stop('fast');
my $control = $app->{pg}->data_dir . '/global/pg_control';
open my $file, '+<', $control or die "$control: $!";
binmode $file;
sysread $file, my $identifier, 8;
sysseek $file, 0, 0;
syswrite $file, pack 'Q', unpack('Q', $identifier) + 1;
close $file;
$app->{pg}->as_pg([ $app->{pg}->bin('pg_resetwal'), '-f', '-D', $app->{pg}->data_dir ]);
$pds->clear_log;
$app->{pg}->start;
is $app->sql('SELECT system_identifier FROM pg_control_system()'), unpack('q', $identifier) + 1, 'a copy with another system identifier';
ok $app->wait_worker, '... has a worker';
$app->sql("UPDATE attendance SET status = 'attended' WHERE id % 5 = 0; DELETE FROM attendance WHERE id % 11 = 3");
ok $app->{pg}->poll_query_until('app', 'SELECT NOT EXISTS (SELECT FROM rsvp_sync._change_log)'), '... which notices changes';
is $app->sql("SELECT string_agg(DISTINCT reason_code, ' ') FROM rsvp_sync.status WHERE state = 'blocked'"), 'copied', '... rows say that it is a copy';
is scalar($pds->log), 0, '... and nobody is asked anything';
is $app->sql("SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'copied' AND severity <> 'ok'"), 1, '... doctor() says so, too';
$app->sql('SELECT rsvp_sync.activate()');
settled($app, 'activate(): it goes on');
is $app->sql('SELECT count(*) FROM rsvp_sync._installation'), 1, '... under its new identity';

# What was recorded is moved along by whoever moves the database: then it is at
# home at once.
my $moved = copy_of($app->{pg}, 'moved');
$moved->start;
$app = bless { %$app, pg => $moved }, ref $app;
$app->sql('UPDATE rsvp_sync._installation SET system_identifier = system_identifier + 1');
change($app, 6);
ok $app->{pg}->poll_query_until('app', "SELECT EXISTS (SELECT FROM rsvp_sync.status WHERE reason_code = 'copied')"), 'a record of another identity';
$app->sql('UPDATE rsvp_sync._installation SET system_identifier = (SELECT system_identifier FROM pg_control_system())');
$app->sql("INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (0, 'w')");
settled($app, '... moved along: it goes on');

unlike $app->{pg}->log_text, qr/PANIC|could not be recorded/, 'nothing untoward in the log';
$app->{pg}->destroy;
done_testing;
