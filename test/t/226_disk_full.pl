# The disk is full: the log of the server cannot grow, it goes down in whatever
# it is at.  Once there is room it starts, and what was committed is on the
# network, once.
#
# The WAL is on a small file system of its own: which takes root and a mount
# namespace.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $dir = RsvpSyncTest::temp_dir('disk');
RsvpSyncTest::watch('start', 'TERM', "$dir/none", $dir);
mkdir "$dir/$_" for qw(wal data);
my @mount = ('mount', '-t', 'tmpfs', '-o', 'size=48m,mode=0777', 'none', "$dir/wal");
plan skip_all => 'takes root and a mount namespace' if $> != 0 || (run_command([ 'unshare', '-m', @mount ]))[0] != 0;

# A process keeps the namespace; the server is started in it each time.
my $keeper = open(my $to_keeper, '|-', 'unshare', '-m', 'sh', '-c', '"$@" && touch "$0" && exec cat >/dev/null', "$dir/mounted", @mount) or die "unshare: $!";
ok wait_for { -e "$dir/mounted" }, 'a small file system';
my $wal = "/proc/$keeper/root$dir/wal";

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, launch => [ 'nsenter', '-t', $keeper, '-m' ], conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000, 'rsvp_sync.withdraw_limit' => 1_000_000,
	max_wal_size => '32MB', min_wal_size => '32MB', wal_recycle => 'off',
});
my $app = scene($pg, 'app', $pds, events => 60);
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 29) n});
ok $app->idle, 'all is published';

# The WAL moves to the small disk.
$pg->stop;
my $data = $pg->data_dir;
RsvpSyncTest::must_run([ 'nsenter', '-t', $keeper, '-m', 'sh', '-c', "cp -a '$data/pg_wal' '$dir/wal/pg_wal' && rm -r '$data/pg_wal' && ln -s '$dir/wal/pg_wal' '$data/pg_wal'" ]);
$pg->start;

# More of it, where a checkpoint has made room meanwhile
sub fill { return run_command([ 'sh', '-c', "cat /dev/zero >> '$wal/ballast'" ]) }
sub free { unlink "$wal/ballast"; return }
sub change {
	my ($n) = @_;
	return $app->sql("UPDATE attendance SET status = (ARRAY['confirmed', 'maybe', 'cancelled'])[1 + (id + $n) % 3]");
}

# Changes go on until the server is no more.  Whether the last one was committed
# the table says afterwards.
for my $round (1 .. 2) {
	my $from = $pg->log_size;
	$pds->clear_log;
	$pds->faults({ match => 'putRecord', delayMs => 20, count => -1 });
	change($round);
	wait_for { $pds->writes >= 5 };
	my $n = 0;
	ok wait_for {
		eval { $app->sql(qq{INSERT INTO attendance (status, "eventId", "userId", note) VALUES ('maybe', @{[ 20 + 20 * $round - $n % 20 ]}, 1 + @{[ $n % 3 ]}, (SELECT string_agg(random()::text, '') FROM generate_series(1, 60000)))}) };
		$n++;
		fill();
		!$pg->is_running
	}, 'the disk is full: the server goes down';
	ok $pg->log_contains(qr/PANIC:.*No space left on device/, $from), '... because of that';
	$pds->clear_faults;
	eval { $pg->start } if $round == 2;    # in vain, or not for long
	free();
	$pg->start if !$pg->is_running;
	ok $app->idle, 'there is room again';
	is $app->disagreement, '', '... and the network has what was committed';
	is $app->not_told, '', '... the rows know';
	is $app->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... with nothing left to do';
}
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 0, 'nothing was given up';

$pg->destroy;
close $to_keeper;
done_testing;
