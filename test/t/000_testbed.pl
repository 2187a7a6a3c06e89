# The test bed itself: the PDS boots, records come and go, every fault is what
# it says it is, requests are counted, records are judged, servers start and end.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;

my $pds = start_pds(accounts => 2);
my $url = $pds->url;
like $url, qr{^http://localhost:\d+$}, 'the PDS is on a port of its own';
is @{ $pds->accounts }, 2, 'two accounts';
is_deeply [ $pds->log(own => 1) ], [], 'the log begins empty';

# --- records

my $event = $pds->create_event(0, 'Summer party', '2030-06-21T18:00:00Z');
like $event->{uri}, qr{^at://\Q@{[$pds->did(0)]}\E/community\.lexicon\.calendar\.event/}, 'an event';
my $rsvp = $pds->client('put-rsvp', 1, $event->{uri}, $event->{cid}, 'going');
my @records = $pds->list_records(1);
is @records, 1, 'one RSVP is listed';
is $records[0]{uri}, $rsvp->{uri}, 'the one that was put';
is $records[0]{value}{subject}{cid}, $event->{cid}, 'with a strong reference to the event';
is_deeply $pds->client('list', 1), \@records, 'client.mjs lists the same';
is scalar $pds->writes(own => 1), 2, 'the log counts two writes';

my ($put) = $pds->log(own => 1, call => 'com.atproto.repo.putRecord');
is $put->{repo}, $pds->did(1), 'the log names the repository';
is "at://$put->{repo}/$put->{collection}/$put->{rkey}", $rsvp->{uri}, 'and the record';
is $put->{cid}, $rsvp->{cid}, 'and what came of it';
is scalar $pds->log, 0, "the tests' own requests are left out unless asked for";

my ($again) = map { $pds->client('put-rsvp', 1, $event->{uri}, $event->{cid}, 'going', $put->{rkey}, json({ createdAt => $records[0]{value}{createdAt} })) } 1;
is $again->{cid}, $rsvp->{cid}, 'the same record again';
is scalar $pds->writes(own => 1), 2, 'is no write';


# --- records, judged

my ($ok, $said) = validate_records(\@records);
ok $ok, 'the record conforms to the lexicon' or diag $said;
my %bad = (
	'no cid in the subject' => sub { delete $_[0]{subject}{cid} },
	'a subject that is a mere string' => sub { $_[0]{subject} = $event->{uri} },
	'no subject' => sub { delete $_[0]{subject} },
	'no status' => sub { delete $_[0]{status} },
	'a subject whose uri is no at-uri' => sub { $_[0]{subject}{uri} = 'https://example.org/' },
	'a subject whose cid is none' => sub { $_[0]{subject}{cid} = 'abc' },
	'another type' => sub { $_[0]{'$type'} = 'community.lexicon.calendar.event' },
);
for my $name (sort keys %bad) {
	my $record = from_json(json($records[0]));
	$bad{$name}->($record->{value});
	($ok, $said) = validate_records([$record]);
	ok !$ok, "refused: $name";
	like $said, qr/\Q$record->{uri}\E: \S/, '... and says why';
}
my $short = from_json(json($records[0]));
$short->{value}{status} = 'going';
ok((validate_records([$short], 0))[0], 'the lexicon itself leaves the status open');
ok !(validate_records([$short]))[0], 'our own records have the full token';

# --- faults, seen by curl

my $session = $pds->client('session', 1);

# put(rkey, curl options) -> (curl's exit status, HTTP status, body)
sub put {
	my ($rkey, @options) = @_;
	my $record = { %{ $records[0]{value} }, note => $rkey };
	my ($status, $out) = run_command([
		'curl', '-sS', '-m', 10, @options, '-w', '\n%{http_code}',
		'-H', "Authorization: Bearer $session->{accessJwt}", '-H', 'Content-Type: application/json',
		'-d', json({ repo => $pds->did(1), collection => 'community.lexicon.calendar.rsvp', rkey => $rkey, record => $record }),
		"$url/xrpc/com.atproto.repo.putRecord"
	]);
	my ($body, $code) = $out =~ /\A(.*)\n(\d+)\z/s;
	return ($status, $code, $body);
}
my $n = 0;
sub fresh { return sprintf '3testrsvp%04d', ++$n }
sub stored { my ($rkey) = @_; return scalar grep { $_->{uri} =~ m{/$rkey$} } $pds->list_records(1) }
sub with_fault { my ($rule) = @_; $pds->clear_log; $pds->faults({ match => 'putRecord', %$rule }); return fresh() }

my $rkey = with_fault({ status => 503, headers => { 'retry-after' => '2' } });
my ($exit, $code, $body) = put($rkey, '-i');
is $code, 503, 'status: the answer';
like $body, qr/^retry-after: 2\r?$/im, '... with its headers';
ok !stored($rkey), '... and the PDS never saw it';
($exit, $code) = put($rkey);
is $code, 200, '... once only';
ok stored($rkey), '... then it is done';
is_deeply [ map { [ @$_{qw(status serverStatus fault)} ] } $pds->log ], [ [ 503, undef, 'status' ], [ 200, 200, undef ] ], '... and the log has both';
is scalar $pds->writes, 1, '... one of them a write';

$rkey = with_fault({ status => 502, body => '<html>Bad Gateway</html>', headers => { 'content-type' => 'text/html' }, count => 2, skip => 1 });
is join(' ', map { (put($rkey))[1] } 1 .. 4), '200 502 502 200', 'skip and count';

$rkey = with_fault({ reset => 1 });
($exit) = put($rkey);
is $exit, 56, 'reset: the connection is reset';
ok !stored($rkey), '... before the PDS saw anything';

$rkey = with_fault({ after => 1 });
($exit) = put($rkey);
is $exit, 52, 'after: no answer';
ok stored($rkey), '... but the write is done';
is_deeply [ map { [ @$_{qw(status serverStatus)}, $_->{committed} ? 1 : 0 ] } $pds->log ], [ [ undef, 200, 1 ] ], '... and the log knows';

$rkey = with_fault({ after => 1, status => 504 });
($exit, $code) = put($rkey);
is $code, 504, 'after with a status: a gateway that gave up';
ok stored($rkey), '... too early';

$rkey = with_fault({ delayMs => 700 });
my $began = time;
($exit, $code) = put($rkey);
is $code, 200, 'delayMs: goes through';
cmp_ok time - $began, '>=', 0.7, '... late';

$rkey = with_fault({ hang => 1, count => -1 });
($exit) = put($rkey, '-m', 1);
is $exit, 28, 'hang: curl gives up';
$pds->clear_faults;
ok !stored($rkey), '... and what was given up is not done later';
$rkey = with_fault({ hang => 1 });
my $child = fork // die;
if (!$child) {
	my @got = put($rkey);
	require POSIX;
	POSIX::_exit($got[1] == 200 ? 0 : 1);
}
ok wait_for(sub { scalar $pds->log(fault => 'hang') }), '... a client that waits';
is kill(0, $child), 1, '... still waits';
$pds->clear_faults;
waitpid $child, 0;
is $?, 0, '... and is answered once the fault is cleared';
ok stored($rkey), '... its write done';

$rkey = with_fault({ truncate => 20 });
($exit, $code, $body) = put($rkey);
is $exit, 18, 'truncate: the answer breaks off';
is length $body, 20, '... after so many bytes';
ok stored($rkey), '... of the real answer';

$rkey = with_fault({ garbage => 1 });
($exit, $code, $body) = put($rkey);
is $code, 200, 'garbage: a fine status';
ok !eval { from_json($body); 1 }, '... and no JSON';
$rkey = with_fault({ garbage => 'http' });
($exit) = put($rkey);
isnt $exit, 0, 'garbage: no HTTP either';

$rkey = with_fault({ bigBytes => 3_000_000 });
($exit, $code, $body) = put($rkey);
is length $body, 3_000_000, 'bigBytes: so many bytes';
ok eval { from_json($body); 1 }, '... of JSON';

$rkey = with_fault({ slowBps => 400 });
$began = time;
($exit, $code, $body) = put($rkey);
is $code, 200, 'slowBps: the real answer';
is from_json($body)->{validationStatus}, 'unknown', '... complete';
cmp_ok time - $began, '>=', (length($body) / 400) / 2, '... in its own time';

$pds->faults({ match => 'putRecord', did => $pds->did(0), status => 500, count => -1 });
is((put(fresh()))[1], 200, "did: another account's requests are not hit");
$pds->clear_faults;

$pds->down;
($exit) = put(fresh());
is $exit, 7, 'down: connections are refused';
$pds->up;
is((put(fresh()))[1], 200, 'up: they are not');

# --- all pages

my ($status, $out) = run_command([
	'curl', '-sS', '-H', "Authorization: Bearer $session->{accessJwt}", '-H', 'Content-Type: application/json', '-d', '@-', '-w', '%{http_code}',
	'-o', '/dev/null', "$url/xrpc/com.atproto.repo.applyWrites"
], stdin => json({
	repo => $pds->did(1),
	writes => [ map { {
		'$type' => 'com.atproto.repo.applyWrites#create', collection => 'community.lexicon.calendar.rsvp',
		rkey => sprintf('3pagersvp%04d', $_), value => $records[0]{value}
	} } 1 .. 120 ],
}));
is $out, 200, '120 records more';
my @all = $pds->list_records(1);
cmp_ok scalar @all, '>', 120, 'are listed over several pages';
is_deeply $pds->client('list', $pds->did(1)), \@all, 'by client.mjs as well';
my ($batch) = $pds->log(call => qr/applyWrites/);
is @{ $batch->{writes} }, 120, 'the log counts them';

# --- app passwords, and a second PDS on the same PLC

my $password = $pds->app_password(1, 'writer');
like $password, qr/^\w{4}(-\w{4}){3}$/, 'an app password';
my $other = start_pds(accounts => 1, name => 'guest', plc => $pds->plc);
isnt $other->url, $url, 'a second PDS';
is $other->plc, $pds->plc, '... with the same PLC';
($status, $out) = run_command([ 'curl', '-sS', $pds->plc . '/' . $other->did(0) ]);
is from_json($out)->{service}[0]{serviceEndpoint}, $other->url, '... which knows where its account is';
my $theirs = $other->client('put-rsvp', 0, $event->{uri}, $event->{cid}, 'interested');
is_deeply [ map { $_->{uri} } $other->list_records(0) ], [ $theirs->{uri} ], '... and takes records';
$pds->faults({ on => 'plc', status => 500, count => -1 });
($status, $out) = run_command([ 'curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}', $pds->plc . '/' . $other->did(0) ]);
is $out, 500, 'faults reach the PLC, too';
$pds->clear_faults;

# --- a PostgreSQL server

my $pg = start_server(preload => 0, pds => [ $pds, $other ], conf => { work_mem => '5MB' });
is $pg->safe_psql('postgres', 'SHOW work_mem'), '5MB', 'a PostgreSQL server';
is $pg->safe_psql('postgres', "SELECT current_setting('rsvp_sync.plc_url')"), $pds->plc, '... knows the PLC';
like $pg->safe_psql('postgres', "SELECT current_setting('rsvp_sync.insecure_hosts')"), qr/localhost:@{[$other->port]}\b/, '... and the hosts';
my ($failed, undef, $error) = $pg->psql('postgres', 'SELECT 1/0');
is $failed, 3, '... reports errors';
like $error, qr/division by zero/, '... with their text';
my $one = $pg->session('postgres');
my $two = $pg->session('postgres');
$one->query('CREATE TABLE t (i int); BEGIN; LOCK TABLE t');
$two->send('INSERT INTO t VALUES (1)');
ok $pg->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND pid = " . $two->backend_pid), '... sessions wait for each other';
is $two->result(0.1), undef, '... without a result yet';
$one->query('COMMIT');
is $two->result, '', '... until they need not';
$pg->kill9_postmaster;
$pg->start;
is $pg->safe_psql('postgres', 'SELECT i FROM t'), 1, '... survives a crash';
cmp_ok $pg->stop('fast'), '<', 10, '... stops';
ok !$pg->is_running, '... and is gone';

# --- nothing outlives a test that is killed

my ($in, $killed);
$killed = open $in, '-|', $^X, '-I', repo_root() . '/test/t/lib', '-e', <<'PERL' or die "fork: $!";
use RsvpSyncTest;
$| = 1;
my $pds = start_pds(accounts => 1);
my $pg = start_server(preload => 0);
print join(' ', $pds->pid, $pg->pid, $pds->{dir}, $pg->dir), "\n";
sleep 600;
PERL
my ($pds_pid, $pg_pid, @dirs) = split ' ', scalar <$in>;
is kill(0, $pds_pid, $pg_pid), 2, 'a test runs';
kill 'KILL', $killed;
ok wait_for(sub { !alive($pds_pid, $pg_pid) }, 20), 'its servers end with it';
ok wait_for(sub { !grep { -e } @dirs }, 20), 'and leave no files';

done_testing;
