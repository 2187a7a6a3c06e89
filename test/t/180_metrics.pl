# What is counted is what the network saw: each counter against the PDS's own log
# of requests, under faults; the text a scraper reads; and that neither the log nor
# any view tells a secret.

use strict;
use warnings;

use List::Util qw(sum0);
use Test::More;
use PrometheusText;
use RsvpSyncTest;
use RsvpSyncScene;

my $RSVP = 'community.lexicon.calendar.rsvp';
my $pds = start_pds(accounts => 7);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '200ms', 'rsvp_sync.max_attempts' => 5, 'rsvp_sync.request_timeout' => '1500ms',
});
my $app = scene($pg, 'app', $pds, events => 60, connect => 0, attach => 0);
$app->sql(q{SELECT rsvp_sync.attach('attendance', options => '{"tenant": "a \"b\"\\\\c"}')});
my $next = 0;

sub connected { my ($user) = @_; return $app->connect($user - 1) }

sub insert {
	my ($user, $n, $status) = @_;
	my $from = $next + 1;
	$next += $n;
	$status //= 'confirmed';
	$app->sql("INSERT INTO attendance SELECT n, '$status', '{}', n, $user FROM generate_series($from, $next) n");
	return $from;
}

# --- reading the counters

sub scrape {
	my ($samples, @wrong) = read_metrics($app->sql('SELECT rsvp_sync.metrics_text()') . "\n");
	is join("\n", @wrong), '', 'a scraper takes the text';
	return $samples;
}
my %metrics;    # as they were at the last look

sub metrics {
	my %now = map { split /\t/ } split /\n/, $app->sql(<<'SQL');
SELECT concat_ws(' ', CASE name WHEN 'bluesky_rsvp_operations_total' THEN 'done' WHEN 'rsvp_sync_errors_total' THEN 'error' ELSE 'calls' END,
	labels ->> 'operation', labels ->> 'status', labels ->> 'error_type') || E'\t' || value
FROM rsvp_sync.metrics()
WHERE type = 'counter' OR name = 'bluesky_rsvp_processing_duration_seconds_count'
SQL
	return \%now;
}

# What was counted since the last look: "done create going=1, error timeout=2"
sub counted {
	my $now = metrics();
	my %since = map { $_ => $now->{$_} - ($metrics{$_} // 0) } keys %$now;
	%metrics = %$now;
	return join ', ', map { "$_=$since{$_}" } grep { $since{$_} } sort keys %since;
}

# The only thing the PDS itself refuses here: we were not told of a write before.
sub refused { my ($entry) = @_; return !$entry->{fault} && ($entry->{status} // 0) == 400 }

# The same by the log: what was written, and how often was it tried
sub logged {
	my (%n);
	for my $entry ($pds->log(on => 'pds')) {
		my $call = ($entry->{call} // '') =~ s/.*\.//r;
		my $word = ($entry->{record}{status} // '') =~ s/.*#//r;
		if ($call eq 'putRecord' && $entry->{collection} eq $RSVP) {
			$n{"calls create $word"}++;
			$n{"done create $word"}++ if $entry->{committed};
			$n{'error InvalidSwap'}++ if refused($entry);
		} elsif ($call eq 'deleteRecord') {
			$n{'calls delete'}++;
			$n{'done delete'}++ if $entry->{committed};
			$n{'error InvalidSwap'}++ if refused($entry);
		} elsif ($call eq 'applyWrites') {
			for my $write (@{ $entry->{writes} }) {
				my $what = $write->{op} eq 'delete' ? 'delete' : 'create ' . $write->{record}{status} =~ s/.*#//r;
				$n{"calls $what"}++;
				$n{"done $what"}++ if $entry->{committed};
			}
			$n{'error InvalidSwap'}++ if refused($entry);
		} elsif ($call eq 'listRecords' && ($entry->{status} // 0) == 200 && !$entry->{fault} && !$entry->{cursor}) {
			$n{'calls list'}++;
			$n{'done list'}++;
		}
	}
	return \%n;
}

# same(what, errors, more): since the last look, the counters are as the log has
# it, and the errors are these
sub same {
	my ($what, $errors, %more) = @_;
	my %n = %{ logged() };
	$n{"error $_"} += $errors->{$_} for keys %$errors;
	$n{$_} += $more{$_} for keys %more;
	my $expected = join ', ', map { "$_=$n{$_}" } grep { $n{$_} } sort keys %n;
	is counted(), $expected, $what or diag join "\n", map { join ' ', map { $_ // '-' } @$_{qw(on call path status serverStatus fault committed)} } $pds->log;
	$pds->clear_log;
	return;
}

# --- nothing goes wrong

counted();
$pds->clear_log;
connected($_) for 2 .. 4;
insert(2, 3);
insert(3, 2, 'maybe');
insert(4, 1, 'cancelled');
ok $app->idle, 'some rows are published';
same 'records, listings, and nothing else', {};
cmp_ok $metrics{'done create going'}, '==', 3, 'three are going';
cmp_ok $metrics{'done list'}, '==', 3, 'each account was listed once';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 1; UPDATE attendance SET status = 'cancelled' WHERE id = 4; DELETE FROM attendance WHERE id = 2");
ok $app->idle, 'rows change';
same 'two records updated, one deleted', {};
cmp_ok $metrics{'done delete'}, '==', 1, 'a deletion is one';
$app->sql('UPDATE attendance SET note = note');
$app->sql('SELECT rsvp_sync.reconcile()');
ok $app->idle, 'nothing is to be done';
is counted(), '', '... and nothing is counted';

# --- answers to writes

sub fault {
	my ($what, $rules, $change, $errors, %more) = @_;
	$pds->faults(ref $rules eq 'ARRAY' ? @$rules : $rules);
	$change->();
	ok $app->idle, $what;
	same "... is counted as it was", $errors, %more;
	is $app->disagreement, '', '... and is overcome';
	$pds->clear_faults;
	$pds->clear_log;
	return;
}
my $turn = sub { $app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 1") };
my $new = sub { insert(2, 1) };
my $gone = sub { $app->sql("DELETE FROM attendance WHERE id = (SELECT max(id) FROM attendance WHERE \"userId\" = 2)") };

for my $kind ([ 'an update', 'putRecord', $turn ], [ 'a new record', 'putRecord', $new ], [ 'a deletion', 'deleteRecord', $gone ]) {
	my ($what, $call, $change) = @$kind;
	fault("$what: 500, twice", { match => $call, status => 500, count => 2 }, $change, { InternalServerError => 2 });
	fault("$what: 502 without a name", { match => $call, status => 502, body => '<html>' }, $change, { http_502 => 1 });
	fault("$what: no JSON", { match => $call, garbage => 1 }, $change, { unreadable_answer => 1 });
	fault("$what: the limit", { match => $call, status => 429, headers => { 'retry-after' => 0 }, body => { error => 'RateLimitExceeded' } }, $change, { RateLimitExceeded => 1 });
	fault("$what: an expired token", { match => $call, status => 400, body => { error => 'ExpiredToken' } }, $change, { ExpiredToken => 1 });
	fault("$what: no answer", { match => $call, hang => 1 }, $change, { timeout => 1 });
	fault("$what: written, and the answer is late", { match => $call, after => 1, answerDelayMs => 2500 }, $change, { timeout => 1 });
	fault("$what: written, and the answer is lost", { match => $call, after => 1, status => 500 }, $change, { InternalServerError => 1 });
	fault("$what: written, and so is the answer to the read", [ { match => $call, after => 1, status => 500 }, { match => 'getRecord', status => 503, body => 'x' } ],
		$change, { InternalServerError => 1, http_503 => 1 });
}
fault('the record was changed elsewhere', { match => 'putRecord', status => 400, body => { error => 'InvalidSwap', message => 'Record was at bafyother' } }, $turn, { InvalidSwap => 1 });
fault('the repository was', { match => 'putRecord', status => 400, body => { error => 'InvalidSwap', message => 'Commit was at bafyother' } }, $turn, { InvalidSwap => 1 });

# --- answers that many keys wait for: counted once, not once for each

my $user = 4;
sub fresh { connected(++$user); return insert($user, 8) }

fault('a listing fails, for eight keys', { match => 'listRecords', status => 500 }, \&fresh, { InternalServerError => 1 }, 'calls list' => 1);
fault('the head of the repository', { match => 'getLatestCommit', status => 502, body => 'x' }, \&fresh, { http_502 => 1 }, 'calls list' => 1);
fault('a login', { match => 'createSession', status => 500 }, \&fresh, { InternalServerError => 1 });
my $party = $pds->create_event(0, 'Party', '2035-06-21T18:00:00Z')->{uri} =~ s{.*/}{}r;
$app->sql("UPDATE events SET \"sourceData\" = jsonb_build_object('did', '" . $pds->did(0) . "', 'rkey', '$party') WHERE id = 60; DELETE FROM rsvp_sync._identity");
fault('an event, and the directory', [ { match => 'getRecord', status => 500 }, { on => 'plc', match => 'did', status => 503, body => 'x', count => 1 } ],
	sub { $app->sql(q{INSERT INTO attendance SELECT 500 + n, 'confirmed', '{}', 60, n FROM generate_series(2, 7) n}) },
	{ InternalServerError => 1, http_503 => 1 });

# --- a worker dies with an answer that it has not written down

my $worker = $app->worker;
$pds->faults({ match => 'putRecord', after => 1, hang => 1 });
$turn->();
ok wait_for { scalar grep { ($_->{collection} // '') eq $RSVP } $pds->writes }, 'a record is written';
$pg->kill9_worker('rsvp_sync worker');
$app->wait_worker($worker);
$pds->clear_faults;
ok $app->idle, 'and the worker was killed';
is counted(), 'done create ' . $app->sql(q{SELECT CASE status WHEN 'maybe' THEN 'interested' ELSE 'going' END FROM attendance WHERE id = 1}) . '=1', '... the record is counted, once';
$pds->clear_log;

# --- what is given up

my $secret = $pds->password(1);
$pds->faults({ match => 'putRecord', status => 400, body => { error => 'InvalidRequest', message => "you said $secret, and " . 'x' x 218 . $secret } });
my $row = insert(2, 1);
ok $app->wait_status($row, 'failed refused'), 'a write is refused for good';
my $given_up = $app->sql("SELECT attempts || ' ' || (since > now() - interval '1 minute') || ' ' || last_error FROM rsvp_sync.failed WHERE attendance_id = '$row'");
like $given_up, qr/^1 true refused: InvalidRequest: you said \*+, and x+\**$/, '... the view has its answer, and not the password in it';
cmp_ok length $given_up, '<', 320, '... cut off';
same '... it is counted', { InvalidRequest => 1 };
$pds->faults({ match => 'putRecord', status => 500, count => -1, body => { error => 'Poison' } });
my $poison = insert(2, 1);
ok $app->wait_status($poison, 'failed Poison'), 'five tries are not enough';
is $app->sql("SELECT attempts || ' ' || last_error FROM rsvp_sync.failed WHERE attendance_id = '$poison'"), '5 Poison: no XRPC error in the answer', '... the view says so';
same '... each is counted', { Poison => 5 };
my $samples = scrape();
is $samples->{'rsvp_sync_keys{state="failed",tenant="a \"b\"\\\\c"}'}, 2, 'two keys have failed';
$pds->clear_faults;
$app->sql("SELECT rsvp_sync.retry('attendance')");
ok $app->idle, 'they are tried again';
is $app->disagreement, '', '... and are published';
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 0, '... nothing has failed any more';

# --- accounts

my $from = $pg->log_size;
$pds->faults({ match => 'createSession', status => 401, body => { error => 'AuthenticationRequired', message => 'not my-wrong-password' } });
$app->connect(1, 'my-wrong-password');
my $blocked = insert(2, 1);
ok $app->wait_status($blocked, 'blocked wrong_password'), 'a wrong password';
is $app->sql("SELECT last_error FROM rsvp_sync.account WHERE state = 'wrong_password'"), 'not *****************', '... is told to nobody';
insert(2, 2);
connected(2);
ok $app->idle, '... until the right one is given';
$pds->faults({ match => 'putRecord', status => 400, body => { error => 'ExpiredToken' } });
$turn->();
ok $app->idle, 'a session is refreshed';
my $did = $pds->did(1);
my @said = map { s/.*LOG:\s+//r } grep { /\Q$did\E/ } split /\n/, $pg->log_text($from);
is_deeply \@said, [ "account $did is wrong_password: not *****************", "account $did is connected" ], 'the log has each change of state once';

# --- all of it, once more

$samples = scrape();
my $now = metrics();
is sum0(map { $samples->{$_} } grep { /^bluesky_rsvp_operations_total/ } keys %$samples), sum0(map { $now->{$_} } grep { /^done/ } keys %$now), 'the text has what metrics() has';
ok exists $samples->{'bluesky_rsvp_processing_duration_seconds_bucket{le="0.5",operation="create",status="going",tenant="a \"b\"\\\\c"}'}, '... the histogram, too';
my ($late) = grep { /_bucket\{le="1",operation="delete"/ } keys %$samples;
cmp_ok $samples->{$late} + 2, '==', $samples->{ $late =~ s/le="1"/le="2"/r }, 'two deletions took longer than a second, and no longer than two';
is $samples->{rsvp_sync_worker_up}, 1, 'a worker runs';
is $samples->{rsvp_sync_log_depth}, 0, 'all changes are taken up';
like $app->sql('SELECT rsvp_sync.metrics_text()'), qr/^# TYPE rsvp_integration_processed_total counter$/m, 'families without samples are announced';
ok $pg->poll_query_until('app', 'SELECT count(*) > 0 FROM rsvp_sync._counter WHERE value > 0'), 'what was appended is folded';

# The log: nothing of a single row's fate, and no secret.
my $log = $pg->log_text;
my @secrets = ('my-wrong-password', map { $pds->password($_) } 0 .. 6);
is_deeply [ grep { index($log, $_) >= 0 } @secrets ], [], 'no password is in the log';
unlike $log, qr/eyJ[\w-]{8}/, 'no token is in the log';
my @lines = grep { /rsvp_sync worker/ && /\b(?:LOG|WARNING|ERROR):/ } split /\n/, $log;
my @other = grep { !/LOG:  account did:\S+ is \w+/ && !/was terminated by signal 9/ && !/exited with exit code/ } @lines;
is_deeply \@other, [], 'the worker logs accounts\' changes, and nothing of its jobs';
my $dump = $app->sql(join ' UNION ALL ', map { "SELECT to_jsonb(x)::text FROM rsvp_sync.$_ x" } qw(status queue failed held rsvp history account stat_worker source progress));
is_deeply [ grep { index($dump, $_) >= 0 } @secrets ], [], 'no password is in a view';

done_testing;
