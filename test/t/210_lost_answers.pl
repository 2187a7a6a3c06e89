# Answers that get lost, come broken, or say no: one effect each, whatever the
# answer; the user's matters wait for the user, and nobody logs in anew for a job.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use Time::Local qw(timegm);
use RsvpSyncTest;
use RsvpSyncScene;

my $RSVP = 'community.lexicon.calendar.rsvp';
my $pds = start_pds(accounts => 6);
my $far = start_pds(accounts => 1, name => 'far', plc => $pds->plc);
my $brief = start_pds(accounts => 2, name => 'brief', plc => $pds->plc, access_ttl => 2);
my $pg = start_server(pds => [ $pds, $far, $brief ], conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.request_timeout' => '1500ms',
});
my $app = scene($pg, 'app', $pds, events => 60);
my $event = 0;    # of the row at hand; each case has an event of its own

sub rsvp_writes { return grep { ($_->{collection} // '') eq $RSVP } $pds->writes }
sub calls { my ($where, $call) = @_; return scalar $where->log(call => "com.atproto.$call") }

sub put_row {
	my ($status, $user) = @_;
	$event++;
	$user //= 2;
	$app->sql("INSERT INTO attendance VALUES ($event, '$status', '{}', $event, $user)");
	return $event;
}

# One change under a fault: it has its one effect.
sub survives {
	my ($what, $rules, $change, %opt) = @_;
	$pds->clear_log;
	$pds->faults(ref $rules eq 'ARRAY' ? @$rules : $rules);
	$change->();
	my $idle = $app->idle;
	my $hit = grep { $_->{fault} } $pds->log;
	my @writes = rsvp_writes();
	my $differs = $app->disagreement;
	my $writes = $opt{writes} // 1;
	ok $idle && $hit && @writes == $writes && $differs eq '', $what
		or diag sprintf "idle %d, faults hit %d, writes %d\n%s", $idle, $hit, scalar @writes, $differs;
	$pds->clear_faults;
	return;
}

put_row('confirmed');
ok $app->idle, 'the account is known';

# --- each kind of write under each kind of answer

my %kinds = (
	'a new record' => [ 'putRecord', sub { put_row('confirmed') } ],
	'an update' => [ 'putRecord', sub { $app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = 1") } ],
	'a deletion' => [ 'deleteRecord', sub { $app->sql("DELETE FROM attendance WHERE id = (SELECT max(id) FROM attendance WHERE id > 1)") } ],
);
my @answers = (
	[ 'reset before the PDS saw it' => { reset => 1 } ],
	[ 'connection closed after the write' => { after => 1 } ],
	[ 'connection reset after the write' => { after => 1, reset => 1 } ],
	[ 'answer later than we wait' => { after => 1, answerDelayMs => 2500 } ],
	[ 'truncated answer' => { truncate => 20 } ],
	[ '200 that is no JSON' => { garbage => 1 } ],
	[ '200 that is no JSON, after the write' => { after => 1, garbage => 1 } ],
	[ '200 that is no HTTP' => { garbage => 'http' } ],
	[ '200 that is JSON, but not the answer' => { status => 200, body => [ 1, 2 ] } ],
	[ '500' => { status => 500 } ],
	[ '502 of a gateway' => { status => 502, body => '<html>Bad Gateway</html>', headers => { 'content-type' => 'text/html' } } ],
	[ '504 after the write' => { after => 1, status => 504, body => 'Gateway Timeout' } ],
	[ 'InvalidSwap' => { status => 400, body => { error => 'InvalidSwap', message => 'Record was at bafyother' } } ],
	[ 'InvalidSwap of the head' => { status => 400, body => { error => 'InvalidSwap', message => 'Commit was at bafyother' } } ],
	[ 'InvalidSwap five times' => { count => 5, status => 400, body => { error => 'InvalidSwap', message => 'Record was at bafyother' } } ],
);
for my $kind ('a new record', 'an update', 'a deletion') {
	my ($call, $change) = @{ $kinds{$kind} };
	for my $answer (@answers) {
		survives("$kind: $answer->[0]", { match => $call, %{ $answer->[1] } }, $change);
	}
}
my ($call, $change) = @{ $kinds{'an update'} };
survives('an answer of 50 MB', { match => $call, bigBytes => 50_000_000 }, $change);
survives('an answer of 50 MB after the write', { match => $call, after => 1, bigBytes => 50_000_000 }, $change);
survives('an answer of one byte a second', { match => $call, slowBps => 1 }, $change);
survives('an answer without cid', { match => $call, status => 200, body => {} }, $change, writes => 0)
	if 0;    # a PDS that lies cannot be caught
survives('the read that should confirm fails, too', [ { match => $call, after => 1 }, { match => 'getRecord', count => 3, reset => 1 } ], $change);
survives('a new record and its read', [ { match => $call, after => 1 }, { match => 'getRecord', status => 500, count => 3 } ], $kinds{'a new record'}[1]);

# --- a lost answer, and then something else happens

# The first write after a lost answer is refused: the repository's head is not
# what it was.  Here it is to succeed at once.
sub all_known { put_row('confirmed'); ok $app->idle, 'all is known'; $pds->clear_log; return }

all_known();
$pds->faults({ match => 'putRecord', after => 1, hang => 1 });
my $row = put_row('confirmed');
ok wait_for { scalar rsvp_writes() }, 'a record is written, its answer hangs';
$pds->down;
ok $pg->poll_query_until('app', "SELECT count(*) = 1 FROM rsvp_sync.status WHERE reason_code = 'host_unreachable' AND last_error ~ '^connect'"), 'and the PDS goes away';
$app->sql("DELETE FROM attendance WHERE id = $row");
ok $pg->poll_query_until('app', 'SELECT count(*) = 0 FROM rsvp_sync._change_log'), 'then the row is deleted';
$pds->clear_faults;
$pds->up;
ok $app->idle, 'the PDS is back';
is $app->disagreement, '', 'and the record is deleted';

all_known();
$pds->faults({ match => 'putRecord', after => 1, hang => 1 });
$app->sql("UPDATE attendance SET status = 'cancelled' WHERE id = 1");
ok wait_for { scalar rsvp_writes() }, 'an update is written, its answer hangs';
$app->sql("UPDATE attendance SET status = 'confirmed' WHERE id = 1");
$pds->clear_faults;
ok $app->idle, 'the row changed meanwhile';
is $app->disagreement, '', 'and its record follows';

# --- what a server asks for

sub at { my ($entry) = @_; my @t = $entry->{time} =~ /(\d+)-(\d+)-(\d+)T(\d+):(\d+):([\d.]+)Z/; return timegm(0, $t[4], $t[3], $t[2], $t[1] - 1, $t[0]) + $t[5] }

for my $case (
	[ '429 with Retry-After' => 429, sub { { 'retry-after' => 1 } }, 1 ],
	[ '429 with RateLimit-Reset' => 429, sub { { 'ratelimit-limit' => 10, 'ratelimit-remaining' => 0, 'ratelimit-reset' => int(time) + 3 } }, 1 ],
	[ '503 with Retry-After' => 503, sub { { 'retry-after' => 1 } }, 1 ],
	[ '429 with neither' => 429, sub { {} }, 0 ],
) {
	my ($what, $status, $headers, $least) = @$case;
	survives($what, { match => 'putRecord', status => $status, headers => $headers->(), body => { error => $status == 429 ? 'RateLimitExceeded' : 'NotEnoughResources' } }, $change);
	my @puts = $pds->log(call => 'com.atproto.repo.putRecord');
	cmp_ok at($puts[1]) - at($puts[0]), '>=', $least, '... is respected';
	is @puts, 2, '... and nothing is asked meanwhile';
}
$pds->faults({ match => 'putRecord', status => 429, headers => { 'retry-after' => 7 }, body => { error => 'RateLimitExceeded' } });
$row = put_row('confirmed');
ok $pg->poll_query_until('app', "SELECT next_attempt_at > now() + interval '4 s' AND attempts = 0 AND reason_code = 'rate_limited' FROM rsvp_sync.sync_status('attendance', '$row')"), 'a long wait is waited in the queue, and is no attempt';
$pds->clear_log;
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = $row");
ok $app->wait_status($row, 'waiting rate_limited'), 'a change waits, too';
is scalar($pds->log(call => 'com.atproto.repo.putRecord')), 0, '... and nothing is sent before';
ok $app->idle, 'when the server allows';
is $app->disagreement, '', '... it goes through';

# --- sessions

$pds->clear_log;
$pds->faults({ match => 'putRecord', status => 400, body => { error => 'ExpiredToken', message => 'Token has expired' } });
$change->();
ok $app->idle, 'ExpiredToken';
is $app->disagreement, '', '... the write is done';
is calls($pds, 'server.refreshSession'), 1, '... after one refresh';
is calls($pds, 'server.createSession'), 0, '... and no login';

# Three in a row are no reason to go on without a session: another time it ended the worker.
my $worker = $app->worker;
$pds->faults({ match => 'putRecord', status => 400, body => { error => 'ExpiredToken', message => 'Token has expired' }, count => 3 });
$change->();
ok $app->idle, 'a write whose token is refused three times';
is $app->worker, $worker, '... the worker lives';
$app->connect($_) for 0 .. $#{ $pds->accounts };
ok $app->idle, '... whoever has to sign in does';
is $app->disagreement, '', '... and it is done';

$pds->clear_log;
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$app->wait_worker($worker);
$change->();
ok $app->idle, 'a new worker';
is calls($pds, 'server.createSession'), 0, '... goes on with the stored session';

$pds->clear_log;
$pds->faults({ match => 'refreshSession', after => 1 }, { match => 'putRecord', status => 400, body => { error => 'ExpiredToken' } });
$change->();
ok $app->idle, 'the answer to a refresh is lost';
is $app->disagreement, '', '... and the write done in the end';
cmp_ok calls($pds, 'server.createSession'), '<=', 1, '... with one login at most';

$pds->clear_log;
$pds->faults({ match => 'refreshSession', status => 400, body => { error => 'ExpiredToken', message => 'Token has been revoked' } }, { match => 'putRecord', status => 400, body => { error => 'ExpiredToken' } });
$change->();
ok $app->idle, 'a refresh token that is good no more';
is $app->disagreement, '', '... the write is done';
is calls($pds, 'server.createSession'), 1, '... after one login';
$pds->clear_faults;

# Tokens that live two seconds, and a worker that outlives many.
my $other = scene($pg, 'brief', $brief, events => 10);
$other->sql(q{INSERT INTO attendance VALUES (1, 'confirmed', '{}', 1, 1)});
ok $other->idle, 'a PDS whose tokens expire after two seconds';
for my $status (qw(maybe confirmed maybe)) {
	$other->sql(q{SELECT pg_sleep(2.2)});
	$other->sql("UPDATE attendance SET status = '$status'");
	ok $other->idle, '... a change later than that';
}
is $other->disagreement, '', '... all goes through';
is calls($brief, 'server.createSession'), 1, '... with one login';
cmp_ok calls($brief, 'server.refreshSession'), '>=', 3, '... and refreshes';

# --- users' matters

$pds->clear_log;
$app->connect(2, 'wrong');
my @rows = map { put_row('confirmed', 3) } 1 .. 3;
ok $app->wait_status($_, 'blocked wrong_password'), 'wrong password: a key is blocked' for @rows;
is $app->sql("SELECT state FROM rsvp_sync.account WHERE did = '" . $pds->did(2) . "'"), 'wrong_password', '... the account says so';
is $app->status($rows[0], 'attempts'), 0, '... no attempt is used up';
ok $app->idle, '... that is idle';
my $tries = calls($pds, 'server.createSession');
cmp_ok $tries, '<=', 2, '... few logins were tried';
push @rows, put_row('confirmed', 3);
ok $app->wait_status($rows[-1], 'blocked wrong_password'), '... a later row waits as well';
is calls($pds, 'server.createSession'), $tries, '... without another try';
$app->connect(2);
ok $app->idle, 'connected again with the right one';
is $app->disagreement, '', '... they go on by themselves';
is $app->sql("SELECT state FROM rsvp_sync.account WHERE did = '" . $pds->did(2) . "'"), 'connected', '... the account is fine';

# The new password comes while the old one is being tried.
$pds->clear_log;
$pds->faults({ match => 'createSession', delayMs => 1000 });
$app->connect(3, 'wrong');
$row = put_row('confirmed', 4);
ok wait_for { calls($pds, 'server.createSession') }, 'a login with the wrong password is under way';
$app->connect(3);
ok $pg->poll_query_until('app', 'SELECT count(*) = 0 FROM rsvp_sync._change_log'), '... when the right one is given';
ok $app->wait_status($row, 'done published', 15), '... which is then used';
$pds->clear_faults;
is $app->disagreement, '', '... and the record written';

$pds->client('deactivate', 4);
$row = put_row('confirmed', 5);
ok $app->wait_status($row, 'blocked deactivated'), 'a deactivated account blocks';
is $app->sql("SELECT state FROM rsvp_sync.account WHERE did = '" . $pds->did(4) . "'"), 'deactivated', '... and is shown as such';
$pds->client('activate', 4);
$app->connect(4);
ok $app->idle, '... until it is active and connected again';
is $app->disagreement, '', '... then it goes on';

# --- the event's side

my $there = $far->create_event(0, 'Far away', '2030-06-21T18:00:00Z');
my ($far_did, $rkey) = $there->{uri} =~ m{^at://([^/]+)/[^/]+/(.*)$};
$app->sql(qq{INSERT INTO events VALUES (1001, 'bluesky', '{"did": "$far_did", "rkey": "$rkey"}'), (1002, 'bluesky', '{"did": "$far_did", "rkey": "3knosuchevent"}')});
$app->sql(q{INSERT INTO attendance VALUES (1001, 'confirmed', '{}', 1001, 2), (1002, 'confirmed', '{}', 1002, 2)});
ok $app->wait_status(1001, 'done published'), "an event on another PDS";
my ($record) = grep { $_->{value}{subject}{uri} eq $there->{uri} } $pds->list_records(1);
is $record->{value}{subject}{cid}, $there->{cid}, '... its cid is read there';
ok $app->wait_status(1002, 'failed event_not_found'), 'an event that its organiser does not have';
$app->sql('DELETE FROM attendance WHERE id = 1002');

$pds->down(on => 'plc');
$row = put_row('confirmed', 6);
ok $app->wait_status($row, 'retrying host_unreachable'), 'the PLC is down: a key of an account not seen before waits';
$change->();
ok $app->wait_status(1, 'done published'), '... others do not need it';
$pds->up(on => 'plc');
ok $app->idle, '... it is back';
is $app->disagreement, '', '... and the key goes through';
is $app->not_told, '', 'all rows know';

unlike $pg->log_text, qr/PANIC|could not be recorded|terminated by signal/, 'nothing untoward in the log';

done_testing;
