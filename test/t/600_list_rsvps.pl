# list_rsvps(): the one call that awaits the network in a session of the
# application's.  All pages, from where the account is now; every way in which
# it can fail has an SQLSTATE and a hint, and none leaves anything behind.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time sleep);
use RsvpSyncTest;
use RsvpSyncApp;

my $pds = start_pds(accounts => 5);
my $new = start_pds(accounts => 1, name => 'host', plc => $pds->plc);
my $app = start_app(pds => [ $pds, $new ], conf => { 'rsvp_sync.request_timeout' => '5s' });
my $pg = $app->pg;
$app->admin("SELECT rsvp_sync.grant_application('app')");
my $event = $pds->create_event(0, 'Party', '2035-06-21T18:00:00Z');
my $did = $pds->did(1);

sub put { my ($account, $status, $rkey, %extra) = @_; return $pds->client('put-rsvp', $account, $event->{uri}, $event->{cid}, $status, $rkey // '', json(\%extra)) }
sub list { my ($of, %opt) = @_; return @{ from_json($pg->safe_psql('app', "SELECT coalesce(jsonb_agg(l), '[]') FROM rsvp_sync.list_rsvps('$of') l", user => 'app', %opt)) } }
# refused(did): SQLSTATE and whole text of the error
sub refused {
	my ($of, %opt) = @_;
	my $literal = defined $of ? "'$of'" : 'NULL';
	my (undef, undef, $err) = $pg->psql('app', "\\set VERBOSITY verbose\n" . ($opt{before} // '') . "SELECT count(*) FROM rsvp_sync.list_rsvps($literal)", user => $opt{user} // 'app');
	return ($err =~ /ERROR:\s+(\w{5}):/ ? $1 : 'none', $err);
}
sub is_refused {
	my ($of, $state, $pattern, $what) = @_;
	my ($is, $text) = refused($of);
	is $is, $state, $what or diag $text;
	like $text, $pattern, '... and says what' if $pattern;
	like $text, qr/HINT:/, '... with a hint';
	return;
}
sub asked { my ($call) = @_; return scalar $pds->log(call => "com.atproto.$call") }

# --- what there is

is_deeply [ list($did) ], [], 'nobody has answered anything: no rows';
my $going = put(1, 'going', '3lzzzzzzzzzzz', createdAt => '2025-01-02T03:04:05.678Z');
put(1, 'events.smokesignal.calendar.rsvp#interested', 'smoke');
put(1, 'community.lexicon.calendar.rsvp#maybe', 'maybe', createdAt => 'yesterday');
my %listed = map { $_->{rkey} => $_ } list($did);
is_deeply $listed{'3lzzzzzzzzzzz'}, { uri => $going->{uri}, cid => $going->{cid}, rkey => '3lzzzzzzzzzzz', event_uri => $event->{uri}, status => 'going', created_at => '2025-01-02T03:04:05.678+00:00' },
	'a record, as it is';
is $listed{smoke}{status}, 'interested', "another application's word";
is_deeply [ @{ $listed{maybe} }{qw(status created_at)} ], [ 'community.lexicon.calendar.rsvp#maybe', undef ], 'an unknown token is shown as it is, a date that is none is not';
is $app->admin('SELECT count(*) FROM rsvp_sync._observed'), 0, 'nothing is stored';
is $app->admin('SELECT count(*) FROM rsvp_sync._account'), 0, 'no account is needed';
is asked('server.createSession'), 0, '... nor a login';

# --- all pages

put(1, 'going', sprintf 'page%03d', $_) for 1 .. 3;
$pds->faults();
my @all = map { my $n = $_; { uri => "at://$did/" . RSVP . "/k$n", cid => $going->{cid}, value => { '$type' => RSVP, status => 'going', subject => { uri => "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/e$n" } } } } 1 .. 250;
$pds->faults(map { { match => $_->[0], count => -1, status => 200, body => { records => $_->[1], defined $_->[2] ? (cursor => $_->[2]) : () } } }
	[ 'listRecords.*cursor=third', [ @all[ 200 .. 249 ] ], undef ], [ 'listRecords.*cursor=second', [ @all[ 100 .. 199 ] ], 'third' ], [ 'listRecords', [ @all[ 0 .. 99 ] ], 'second' ]);
my @pages = list($did);
is_deeply [ map { $_->{event_uri} =~ s{.*/}{}r } @pages ], [ map { "e$_" } 1 .. 250 ], 'three pages, in their order';
$pds->clear_faults;
is scalar(list($did)), 6, 'and what there really is';

# Somebody else's record among them is shown under the uri that was asked for.
my $other = $pds->did(2);
$pds->faults({ match => 'listRecords', count => 1, status => 200, body => { records => [ { uri => "at://$other/" . RSVP . '/x', cid => $going->{cid}, value => {} } ] } });
is_deeply [ map { $_->{uri} } list($did) ], [ "at://$did/" . RSVP . '/x' ], "a PDS speaks for nobody but its account";

# --- where the account is

$pds->clear_log;
list($did);
is scalar($pds->log(on => 'plc')), 1, 'an account that nobody has looked at is looked for';
$app->connect_account(1);
$app->admin(sprintf "INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at) VALUES ('%s', '%s', now(), now()) ON CONFLICT (did) DO UPDATE SET pds = excluded.pds, resolved_at = now(), looked_at = now()", $did, $pds->url);
$pds->clear_log;
list($did);
is scalar($pds->log(on => 'plc')), 0, 'one that has been looked at a moment ago is not';
$app->admin("UPDATE rsvp_sync._identity SET looked_at = now() - interval '1 hour', resolved_at = now() - interval '1 hour'");
$pds->faults({ on => 'plc', match => $did, count => -1, status => 503, body => { message => 'closed for today' } });
is scalar(list($did)), 6, 'where the directory does not answer, the last document serves';
$app->admin('DELETE FROM rsvp_sync._identity');
is_refused($did, '08P01', qr/closed for today/, '... and without one there is an error');
$pds->clear_faults;

# Moved a moment ago: the document that is known names the server it has left.
sub migrate {
	my (@step) = @_;
	my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', repo_root() . '/test/pds/migrate.mjs', $step[0], $pds->state_file, $new->state_file, @step[1 .. $#step] ]);
	die $err if $status;
	return;
}
put(3, 'going', 'before');
migrate('copy', 3);
migrate('move', 3);
$pds->client('deactivate', 3);
$app->admin(sprintf "INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at) VALUES ('%s', '%s', now(), now())", $pds->did(3), $pds->url);
is_deeply [ map { $_->{rkey} } list($pds->did(3)) ], ['before'], 'an account that has moved is found where it is';
ok scalar($new->log(call => qr/listRecords/)), '... on its new server';

# --- what can go wrong

is_refused(undef, '22004', qr/did must not be null/, 'no DID');
is_refused('alice.test', '22023', qr/alice\.test/, 'a handle');
is_refused('did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK', '0A000', qr/cannot be resolved/, 'a DID of another kind');
is_refused('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', '42704', qr/no account "did:plc:a+"/, 'a DID that is not registered');
is_refused('did:web:127.0.0.1', '42501', qr/may not be asked/, 'a DID at an address that may not be asked');
my (undef, undef, $denied) = $pg->psql('app', "CREATE ROLE nobody_in_particular LOGIN; GRANT USAGE ON SCHEMA rsvp_sync TO nobody_in_particular", user => 'postgres');
is((refused($did, user => 'nobody_in_particular'))[0], '42501', 'a role that was not granted it');

my $internal = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 10);
for my $endpoint ('http://127.0.0.1:' . $internal->sockport, 'https://169.254.169.254', 'https://10.0.0.1') {
	$pds->faults({ on => 'plc', match => $did, count => -1, status => 200, body => { id => $did, service => [ { id => '#atproto_pds', type => 'AtprotoPersonalDataServer', serviceEndpoint => $endpoint } ] } });
	$app->admin('DELETE FROM rsvp_sync._identity');
	is_refused($did, '42501', qr/may not be asked/, "a PDS at $endpoint");
}
ok !IO::Select->new($internal)->can_read(0), '... nobody was called';
$pds->faults({ on => 'plc', match => $did, count => -1, status => 200, body => { id => $did, service => [] } });
is_refused($did, '42704', qr/names no PDS/, 'a document without a PDS');
$pds->faults({ on => 'plc', match => $did, count => -1, status => 200, body => { id => $other, service => [] } });
is_refused($did, '08P01', qr/not this DID/, "somebody else's document");
$pds->clear_faults;

for my $case (
	[ { garbage => 1 }, '08P01', 'bytes that are no JSON' ], [ { bigBytes => 60_000_000 }, '54000', 'an answer of 60 MB' ],
	[ { truncate => 10 }, '08006', 'an answer cut off' ], [ { reset => 1 }, '08006', 'a reset' ],
	[ { status => 200, body => { records => {} } }, '08P01', 'no list' ], [ { status => 200, body => { records => [ { uri => 'x' } ] } }, '08P01', 'a record without key' ],
	[ { status => 500, body => {} }, '08P01', 'an error of its own' ], [ { status => 302, headers => { location => 'http://169.254.169.254/' }, body => {} }, '08P01', 'a redirect' ],
	[ { status => 429, headers => { 'retry-after' => '77' }, body => { error => 'RateLimitExceeded', message => 'Rate Limit Exceeded' } }, '53400', 'a rate limit' ],
	[ { status => 400, body => { error => 'InvalidRequest', message => 'no' } }, '08P01', 'a refusal without a reason' ],
) {
	my ($fault, $state, $what) = @$case;
	$pds->faults({ match => 'listRecords', count => -1, %$fault });
	is_refused($did, $state, undef, $what);
}
like((refused($did))[1], qr/\Qlisted\E/, '... that is not explained by its head');
$pds->faults({ match => 'listRecords', count => -1, status => 200, body => { records => [ $all[0] ], cursor => 'again' } });
is_refused($did, '54000', qr/too many pages/, 'a list without end') if $ENV{RS_TEST_SLOW};
$pds->clear_faults;

$pds->client('deactivate', 2);
is_refused($other, '55000', qr/RepoDeactivated/, 'a deactivated account');
$pds->client('activate', 2);
is_deeply [ list($other) ], [], '... which comes back';
$app->admin(sprintf "INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at) VALUES ('%s', '%s', now(), now())", $pds->did(4), $new->url);
is_deeply [ list($pds->did(4)) ], [], 'a document that is wrong is looked at again';
$pds->faults({ on => 'plc', match => $pds->did(4), count => -1, status => 200, body => { id => $pds->did(4), service => [ { id => '#atproto_pds', type => 'AtprotoPersonalDataServer', serviceEndpoint => $new->url } ] } });
is_refused($pds->did(4), '42704', qr/has no repository/, 'a server that does not have the account');
$pds->clear_faults;

# --- time

sub seconds { my ($code) = @_; my $began = time; $code->(); return time - $began }
$pds->faults({ match => 'listRecords', count => -1, hang => 1 });
my ($state, $text);
my $took = seconds(sub { ($state, $text) = refused($did) });
is $state, '08006', 'a server that does not answer' or diag $text;
like $text, qr/in time.*HINT:.*request_timeout/s, '... says so';
cmp_ok $took, '<', 20, '... after request_timeout, not after as much for each request';
$pds->faults({ match => 'listRecords', count => -1, answerDelayMs => 1500, status => 200, body => { records => [ $all[0] ], cursor => 'next' } });
$took = seconds(sub { ($state) = refused($did) });
is $state, '08006', 'pages without end, each of them slow: they have one time together';
cmp_ok $took, '<', 20, '... and no more';

$pds->faults({ match => 'listRecords', count => -1, hang => 1 });
my ($cancelled, $why) = refused($did, before => "SET statement_timeout = '300ms';");
is $cancelled, '57014', 'statement_timeout ends it';
my $session = $pg->session('app');
my $pid = $session->backend_pid;
$app->admin("ALTER SYSTEM SET rsvp_sync.request_timeout = '60s'");
$pg->reload;
ok wait_for { $session->query('SHOW rsvp_sync.request_timeout') eq '1min' }, 'request_timeout is a minute';
my $descriptors = sub { return scalar grep { (readlink // '') =~ /socket|eventpoll|pipe/ } glob "/proc/$pid/fd/*" };
my $before = $descriptors->();
$session->send("SELECT * FROM rsvp_sync.list_rsvps('$did');");
ok wait_for { $app->admin("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'Extension' }, 'it waits';
$took = seconds(sub { $app->admin("SELECT pg_cancel_backend($pid)"); wait_for { $app->admin("SELECT state FROM pg_stat_activity WHERE pid = $pid") =~ /^idle/ } });
cmp_ok $took, '<', 10, 'so does a cancel, in the middle of the wait';
like $session->result, qr/canceling statement due to user request/, '... as any query';
$pds->clear_faults;
is $session->query("SELECT count(*) FROM rsvp_sync.list_rsvps('$did')"), 6, 'the session goes on';
$session->query("SELECT count(*) FROM rsvp_sync.list_rsvps('$did')") for 1 .. 20;
is $descriptors->(), $before, 'and nothing stays open in it';

# --- the server is gone

$pds->down;
is_refused($did, '08001', qr/cannot be reached/, 'a server that is down');
$pds->up;
is scalar(list($did)), 6, '... and up again';

# --- counted, where that is possible

my $counted = sub { return $app->admin(q{SELECT coalesce(sum(value), 0) FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_operations_total' AND labels @> '{"operation": "list"}'}) };
my $n = $counted->();
list($did);
is $counted->(), $n + 1, 'it is counted';
is $app->admin(q{SELECT count(*) > 0 FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_processing_duration_seconds_count' AND labels @> '{"operation": "list"}'}), 't', '... and timed';
is $pg->safe_psql('app', "BEGIN READ ONLY; SELECT count(*) FROM rsvp_sync.list_rsvps('$did'); COMMIT", user => 'app'), 6, 'a transaction that only reads may call it';
is $counted->(), $n + 1, '... and is not counted';
is $pg->safe_psql('app', "BEGIN; SELECT count(*) FROM rsvp_sync.list_rsvps('$did'); ROLLBACK", user => 'app'), 6, 'nor one that is rolled back';
is $counted->(), $n + 1, '... as it did not happen';
unlike $pg->log_text, qr/PANIC|TRAP|terminated by signal/, 'the server is well';

done_testing;
