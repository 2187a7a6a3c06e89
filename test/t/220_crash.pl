# Whoever dies, whenever: afterwards the network has what the rows say, once.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time sleep);
use RsvpSyncTest;
use RsvpSyncScene;

my $seed = $ENV{RS_TEST_SEED} // time * 1000 % 1_000_000;
srand $seed;
note "RS_TEST_SEED=$seed";

my $ROWS = 200;
my $KILLS = 10;

my $pds = start_pds(accounts => 5);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.request_timeout' => '5s',
	'rsvp_sync.withdraw_limit' => 1_000_000, max_prepared_transactions => 5,
});
my $app = scene($pg, 'app', $pds, events => 60);

sub up { return wait_for { eval { $app->sql('SELECT 1') } } }

# At a moment of its own choosing the server's part is killed; it comes back.
sub settled {
	my ($what) = @_;
	up() or return fail("$what: the server is back");
	my $idle = $app->idle;
	my $differs = $app->disagreement;
	my $left = $app->sql('SELECT count(*) FROM rsvp_sync.queue');
	my $untold = $app->not_told;
	ok $idle && $differs eq '' && !$left && $untold eq '', $what
		or diag "idle $idle, left in the queue $left, not told: $untold\n$differs\nRS_TEST_SEED=$seed";
	return;
}

# One row for each of these pairs; statuses as the round says.
sub fill {
	return $app->sql(qq{INSERT INTO attendance (status, "eventId", "userId")
		SELECT 'confirmed', n / 5 + 1, n % 5 + 1 FROM generate_series(0, $ROWS - 1) n});
}

sub change {
	my ($round) = @_;
	my @status = qw(confirmed maybe cancelled);
	return $app->sql("UPDATE attendance SET status = (ARRAY['confirmed', 'maybe', 'cancelled'])[1 + (id + $round) % 3] WHERE (id + $round) % 4 <> 0");
}

# After so many requests, to die in the middle of them
sub after_requests {
	my ($n) = @_;
	return wait_for { $pds->log(call => 'com.atproto.repo.putRecord') + $pds->log(call => 'com.atproto.repo.deleteRecord') >= $n };
}

# --- the worker

fill();
for my $round (1 .. $KILLS) {
	$pds->clear_log;
	up();
	change($round);
	if ($round % 3 == 0) {
		$app->sql("DELETE FROM attendance WHERE id % 20 = $round % 20");
		$app->sql(qq{INSERT INTO attendance (status, "eventId", "userId") SELECT 'maybe', 50, n FROM generate_series(1, 5) n
			WHERE NOT EXISTS (SELECT FROM attendance WHERE "eventId" = 50 AND "userId" = n)});
	}
	after_requests(int rand 60);
	sleep rand 0.05;
	wait_for { eval { scalar $pg->kill9_worker('^rsvp_sync worker$') } };
}
settled("kill -9 of the worker, $KILLS times while $ROWS rows are on their way");
cmp_ok scalar(() = $pg->log_text =~ /terminated by signal 9/g), '>=', $KILLS, 'so often it was';

# At its gentler end: SIGTERM, which does not restart the server.
for my $round (1 .. 2) {
	$pds->clear_log;
	change($round + 1);
	after_requests(1 + int rand 40);
	my $worker = $app->worker or next;
	$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
}
settled('pg_terminate_backend of the worker, twice');

# --- with a request at the PDS

for my $case ([ 'putRecord', "UPDATE attendance SET status = 'attended' WHERE id = (SELECT min(id) FROM attendance)" ],
	[ 'putRecord', q{INSERT INTO attendance (status, "eventId", "userId") VALUES ('confirmed', 60, 1)} ],
	[ 'deleteRecord', 'DELETE FROM attendance WHERE id = (SELECT min(id) FROM attendance)' ]) {
	my ($call, $sql) = @$case;
	# a change without a fault first: the repository's head is known, the next write succeeds
	$app->sql(q{UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id IN (SELECT max(id) FROM attendance GROUP BY "userId")});
	$app->idle;
	$pds->clear_log;
	$pds->faults({ match => $call, after => 1, hang => 1 });
	$app->sql($sql);
	ok wait_for { scalar $pds->writes }, "$call: done there, and no answer yet";
	$pg->kill9_worker('^rsvp_sync worker$');
	$pds->clear_faults;
	settled('... when the worker is killed');
	is scalar($pds->writes), 1, '... it is not written twice';
}

# What was given up arrives after all, between our look and our second try.
$pds->faults({ match => 'putRecord', reset => 1 }, { match => 'putRecord', delayMs => 1500 });
$pds->clear_log;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") VALUES ('maybe', 60, 2)});
ok wait_for { $pds->log(call => 'com.atproto.repo.putRecord') >= 2 }, 'a request is lost and sent again';
my ($lost) = $pds->log(call => 'com.atproto.repo.putRecord', record => qr/HASH/);
$pds->client('put-rsvp', 1, $lost->{record}{subject}{uri}, $lost->{record}{subject}{cid}, $lost->{record}{status}, $lost->{rkey}, json({ createdAt => $lost->{record}{createdAt} }));
settled('then the first one arrives');
is scalar($pds->writes(collection => 'community.lexicon.calendar.rsvp')), 0, '... the second one does nothing';
$pds->clear_faults;

# --- a backend

my $session = $pg->session('app');
$session->query('BEGIN');
$session->query(q{UPDATE attendance SET status = 'cancelled'});
$session->query(q{INSERT INTO attendance (status, "eventId", "userId") VALUES ('confirmed', 60, 3)});
kill 'KILL', $session->backend_pid;
$session->close;
settled('kill -9 of a backend before its commit: as if it had not been');

$session = $pg->session('app');
$session->query('BEGIN');
$session->query(q{UPDATE attendance SET status = 'maybe' WHERE id % 3 = 0});
$session->query(q{PREPARE TRANSACTION 'later'});
$session->query(q{UPDATE attendance SET status = 'attended' WHERE id % 3 = 1});
kill 'KILL', $session->backend_pid;
$session->close;
up();
$app->sql(q{COMMIT PREPARED 'later'});
settled('... right after it: what was committed, and what was prepared');

# --- all of it

for my $round (1 .. 2) {
	$pds->clear_log;
	change($round);
	after_requests(1 + int rand 60);
	$pg->kill9_postmaster;
	$pg->start;
	settled('kill -9 of the postmaster');
	$pds->clear_log;
	change($round + 2);
	after_requests(1 + int rand 60);
	$pg->restart('immediate');
	settled('immediate stop');
}

# --- the PDS

$pds->clear_log;
change(9);
after_requests(20);
$pds->down;
$pds->up;
after_requests(40);
$pds->down;
ok $pg->poll_query_until('app', "SELECT EXISTS (SELECT FROM rsvp_sync.queue WHERE attempts > 0 OR waits_for IS NOT NULL)"), 'the PDS goes away in the middle';
$pds->up;
settled('... and comes back');

is $app->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, 'reconcile finds nothing';
unlike $pg->log_text, qr/PANIC|could not be recorded/, 'nothing untoward in the log';

done_testing;
