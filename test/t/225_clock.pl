# The clock jumps, a day forward and back again, an hour back, while keys wait
# and while they are sent: nothing is lost, nothing is sent twice, and the worker
# does not wait for the clock to come round.
#
# The server's processes have a wall clock of the test's (lib/clock.c); the
# monotonic one goes on as it does when a machine's clock is set.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $dir = RsvpSyncTest::temp_dir('clock');
RsvpSyncTest::watch('start', 'TERM', "$dir/none", $dir);
RsvpSyncTest::must_run([ qw(cc -O1 -Wall -shared -fPIC -o), "$dir/clock.so", repo_root() . '/test/t/lib/clock.c' ]);

# jump(hours): how far ahead the clock is from now on
sub jump {
	my ($hours) = @_;
	open my $file, -e "$dir/ahead" ? '+<' : '>', "$dir/ahead" or die $!;
	syswrite $file, pack 'q', $hours * 3600;
	close $file;
	return;
}
jump(0);

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, launch => [ 'env', "LD_PRELOAD=$dir/clock.so", "RS_CLOCK=$dir/ahead" ], conf => {
	'rsvp_sync.retry_base' => '200ms', 'rsvp_sync.retry_max' => '2s', 'rsvp_sync.max_attempts' => 1000, 'rsvp_sync.request_timeout' => '5s', 'rsvp_sync.withdraw_limit' => 1_000_000,
});
my $app = scene($pg, 'app', $pds, events => 40);

jump(24);
my $worker = $app->worker;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") VALUES ('confirmed', 40, 1)});
$app->idle;
is $app->sql(sprintf q{SELECT round(extract(epoch FROM max(seen_at) - to_timestamp(%d)) / 3600) FROM rsvp_sync.rsvp}, time), 24, 'the clock can be set for the worker';
is $app->worker, $worker, '... as it runs';
jump(0);

my $round = 0;
# Each row says something else, and there are three more -> how many that is
sub change {
	$round++;
	return $app->sql(<<"SQL");
WITH changed AS (UPDATE attendance SET status = CASE status WHEN 'confirmed' THEN 'maybe' WHEN 'maybe' THEN 'cancelled' ELSE 'confirmed' END RETURNING 1),
	made AS (INSERT INTO attendance (status, "eventId", "userId") SELECT 'maybe', 10 + $round, n FROM generate_series(1, 3) n RETURNING 1)
SELECT (SELECT count(*) FROM changed) + (SELECT count(*) FROM made)
SQL
}

sub settled {
	my ($what, $writes) = @_;
	my $idle = $app->idle;
	my $differs = $app->disagreement;
	my $untold = $app->not_told;
	ok $idle && $differs eq '' && $untold eq '', $what or diag "idle $idle, not told: $untold\n$differs";
	is scalar(grep { $_->{collection} eq 'community.lexicon.calendar.rsvp' } $pds->writes), $writes, '... in one write each';
	is $app->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... with nothing left to do';
	return;
}

$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 29) n});
$app->idle;

for my $jump ([ 24, 'a day forward' ], [ 0, 'a day back' ], [ -1, 'an hour back' ], [ 0, 'an hour forward' ]) {
	my ($to, $name) = @$jump;

	# while keys wait, and in a row: for their turn, for a server to come back, to be left alone
	$pds->clear_log;
	$pds->down;
	my $n = change();
	ok wait_for { $app->sql('SELECT count(*) > 0 AND NOT bool_or(leased) AND NOT EXISTS (SELECT FROM rsvp_sync._change_log) FROM rsvp_sync.queue') eq 't' }, 'keys wait';
	jump($to);
	$pds->up;
	settled("$name while a server is away", $n);

	$pds->clear_log;
	$pds->faults({ match => 'putRecord|applyWrites', status => 429, headers => { 'retry-after' => 2 }, body => { error => 'RateLimitExceeded', message => 'slowly' }, count => 3 });
	$n = change();
	ok wait_for { scalar $pds->log(status => 429) }, 'a server asks for patience';
	jump($to == 0 ? 2 : 0);
	settled('... and meanwhile the clock is set', $n);

	# while requests are under way
	$pds->clear_log;
	jump($to);
	$pds->faults({ match => 'putRecord|applyWrites', after => 1, answerDelayMs => 500, skip => 3, count => 3 });
	$n = change();
	ok wait_for { scalar $pds->writes >= 2 }, 'requests are under way';
	jump($to == 0 ? -1 : 0);
	settled('... and meanwhile the clock is set', $n);
	$pds->clear_faults;
	jump($to);
}

# Killed in one time, started in another
$pds->clear_log;
jump(24);
my $n = change();
wait_for { $pds->writes >= 5 };
$pg->kill9_postmaster;
jump(-1);
$pg->start;
settled('killed tomorrow, started an hour ago', $n);
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 0, 'nothing was given up';
done_testing;
