# OAuth sessions: handed over, they write; tokens expire and nonces rotate and
# the worker keeps writing; whatever goes wrong with a refresh, the session is
# over only when its server says so.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 6, oauth_client => 1);
my $brief = start_pds(accounts => 2, name => 'brief', plc => $pds->plc, oauth_token_ttl => 4, dpop_rotation_ms => 1000);
my $pg = start_server(pds => [ $pds, $brief ], conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.request_timeout' => '1s',
});
my $event = 0;
my @secrets;

# scene() connects nobody; each account signs in by OAuth.
sub oauth_scene {
	my ($db, $bed) = @_;
	return scene($pg, $db, $bed, events => 40, connect => 0);
}

sub connect_oauth {
	my ($app, $bed, $account, @options) = @_;
	my $login = $bed->oauth('login', $account, @options);
	push @secrets, $login->{session}{dpopJwk}{d}, @{ $login->{session}{tokenSet} }{qw(refresh_token access_token)};
	my $jwk = (grep { $_ eq '--confidential' } @options) ? "'" . json($bed->state->{oauthClient}{private_jwk}) . "'" : 'NULL';
	$app->sql("SELECT rsvp_sync.set_oauth_client('$login->{client_id}', $jwk)");
	$app->sql("SELECT rsvp_sync.connect_oauth('" . json($login->{session}) . "', '$login->{client_id}')");
	return $login;
}

sub put_row {
	my ($app, $user, $status) = @_;
	$event++;
	$app->sql(sprintf "INSERT INTO attendance VALUES (%d, '%s', '{}', %d, %d)", $event, $status // 'confirmed', $event, $user);
	return $event;
}

sub toggle { my ($app, $row) = @_; $app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = $row"); return }
sub token_calls { my ($bed) = @_; return $bed->log(path => '/oauth/token') }
sub calls { my ($bed, $call) = @_; return scalar $bed->log(call => "com.atproto.$call") }
sub account { my ($app, $did, $column) = @_; return $app->sql("SELECT " . ($column // 'state') . " FROM rsvp_sync.account WHERE did = '$did'") }
sub session { my ($app, $did) = @_; my $s = $app->sql("SELECT rsvp_sync.oauth_session('$did')"); return $s eq '' ? undef : from_json($s) }

# The account's token is refused, once or as often as $spoilt says; more rules
# come before that.
my $spoilt = 1;
sub spoil_token { $pds->faults(@_, { match => 'repo\.(?:put|delete|create)Record', count => $spoilt, status => 401, headers => { 'www-authenticate' => 'DPoP error="invalid_token"' }, body => { error => 'invalid_token', message => '"exp" claim timestamp check failed' } }); return }

# --- handed over

my $app = oauth_scene('app', $pds);
my $login = connect_oauth($app, $pds, 1);
my $did = $pds->did(1);
is account($app, $did), 'unverified', 'connected, not yet tried';
is account($app, $did, 'auth'), 'oauth', '... by OAuth';
$pds->clear_log;
my $row = put_row($app, 2);
ok $app->idle, 'a row';
is $app->disagreement, '', '... is published';
is account($app, $did), 'connected', '... the account is connected';
toggle($app, $row);
my $other = put_row($app, 2);
ok $app->idle, 'a change and another row';
$app->sql("DELETE FROM attendance WHERE id = $other");
ok $app->idle, 'and a deletion';
is $app->disagreement, '', '... follow';
$app->sql(sprintf q{INSERT INTO attendance SELECT n, 'confirmed', '{}', n, 2 FROM generate_series(%d, %d) n}, $event + 1, $event + 5);
$event += 5;
ok $app->idle, 'five rows at once';
is $app->disagreement, '', '... are published';
ok scalar($pds->log(call => 'com.atproto.repo.applyWrites', status => 200)), '... together';
is calls($pds, 'server.createSession') + calls($pds, 'server.refreshSession'), 0, 'no login';
is scalar(token_calls($pds)), 0, 'no refresh, as the token is good';
is_deeply session($app, $did), $login->{session}, 'the session is as it was handed over';
my $unproven = grep { ($_->{status} // 0) == 401 } $pds->log(call => qr/repo\.putRecord/);
cmp_ok $unproven, '<=', 1, 'a nonce is asked for once';

# --- tokens expire, nonces rotate

my $short = oauth_scene('short', $brief);
connect_oauth($short, $brief, 0);
my $short_did = $brief->did(0);
$event = 0;
$row = put_row($short, 1);
ok $short->idle, 'a PDS whose tokens live four seconds, its nonces three';
my $first = session($short, $short_did);
$brief->clear_log;
for my $n (1 .. 3) {
	ok $pg->poll_query_until('short', "SELECT expires_at < now() FROM rsvp_sync._oauth_session"), 'the token has expired';
	toggle($short, $row);
	ok $short->idle, '... and a change later';
	is $short->disagreement, '', '... goes through';
}
is scalar(grep { ($_->{status} // 0) == 200 } token_calls($brief)), 3, 'three refreshes';
my $now = session($short, $short_did);
isnt $now->{tokenSet}{refresh_token}, $first->{tokenSet}{refresh_token}, 'the new tokens are in the store';
is_deeply [ @$now{qw(dpopJwk authMethod)}, @{ $now->{tokenSet} }{qw(iss sub aud scope token_type)} ],
	[ @$first{qw(dpopJwk authMethod)}, @{ $first->{tokenSet} }{qw(iss sub aud scope token_type)} ], '... the rest as it was';
push @secrets, @{ $now->{tokenSet} }{qw(refresh_token access_token)};
my $worker = $short->worker;
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
$short->wait_worker($worker);
ok $pg->poll_query_until('short', "SELECT expires_at < now() FROM rsvp_sync._oauth_session"), 'a new worker, an old token';
toggle($short, $row);
ok $short->idle, '... it goes on from the store';
is $short->disagreement, '', '... and writes';
is account($short, $short_did), 'connected', 'the account is connected';

# --- a confidential client

$event = 100;
connect_oauth($app, $pds, 2, '--confidential');
$pds->clear_log;
$app->add_events(140);
$row = put_row($app, 3);
ok $app->idle, 'a session of a confidential client';
spoil_token();
toggle($app, $row);
ok $app->idle, '... whose token is refused';
is $app->disagreement, '', '... writes';
is_deeply [ map { $_->{status} } token_calls($pds) ], [ 200 ], '... after one refresh';
$pds->clear_faults;

# --- the client is not known: the operator's matter

$pds->clear_log;
my $confidential = $pds->did(2);
spoil_token({ match => '/oauth/token', count => -1, status => 401, body => { error => 'invalid_client', error_description => 'no such key' } });
toggle($app, $row);
ok $pg->poll_query_until('app', "SELECT last_error LIKE 'oauth_client: invalid_client: no such key%' AND attempts = 0 FROM rsvp_sync.queue"), 'the server does not know the client: its keys wait';
is account($app, $confidential), 'connected', '... the account does not need its user';
like $app->sql("SELECT concat_ws(' ', severity, check_name, subject, finding) FROM rsvp_sync.doctor() WHERE check_name = 'oauth_client'"), qr/^error oauth_client https:\S+ .*no such key/, '... doctor() says so';
ok defined session($app, $confidential), '... the session is still there';
$pds->clear_faults;
$app->sql("SELECT rsvp_sync.set_oauth_client('$pds->{state}{oauthClient}{client_id}', '" . json($pds->state->{oauthClient}{private_jwk}) . "')");
ok $app->idle, 'the key is given again';
is $app->disagreement, '', '... and the session goes on';
is $app->sql("SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'oauth_client'"), 0, '... doctor() is silent';

# --- proofs

for my $error (qw(use_dpop_nonce invalid_dpop_proof)) {
	$pds->clear_log;
	$pds->faults({ match => 'putRecord', status => 401, headers => { 'dpop-nonce' => 'bogus', 'www-authenticate' => qq(DPoP algs="ES256", error="$error") }, body => { error => $error } });
	toggle($app, $row);
	ok $app->idle, $error;
	is $app->disagreement, '', '... is answered by another proof';
	is scalar(token_calls($pds)), 0, '... not by a refresh';
	$pds->clear_faults;
}

# --- the refresh goes wrong

for my $case ([ 'never reaches the server', { reset => 1 }, 0 ], [ 'meets a server that broke down', { status => 500, body => { error => 'server_error' } }, 0 ], [ 'is put off', { status => 429, body => { error => 'slow_down' } }, 1 ]) {
	my ($what, $fault, $at_once) = @$case;
	$pds->clear_log;
	spoil_token({ match => '/oauth/token', %$fault });
	my $before = session($app, $confidential);
	toggle($app, $row);
	ok $app->idle, "a refresh $what";
	is $app->disagreement, '', '... the write is done in the end';
	my @tokens = grep { ($_->{status} // 0) != 400 } token_calls($pds);
	is scalar(@tokens), 2, '... after one more refresh';
	isnt session($app, $confidential)->{tokenSet}{refresh_token}, $before->{tokenSet}{refresh_token}, '... which brought new tokens';
	is account($app, $confidential), 'connected', '... the account is well';
	$pds->clear_faults;
}

$pds->clear_log;
spoil_token({ match => '/oauth/token', after => 1 });
toggle($app, $row);
ok $app->wait_status($row, 'blocked needs_login'), 'the answer to a refresh is lost, and its tokens with it: the user is asked';
is scalar(grep { $_->{serverStatus} && $_->{serverStatus} == 200 } token_calls($pds)), 1, '... the server has answered once';
is account($app, $confidential), 'needs_login', '... the account says so';
is session($app, $confidential), undef, '... and there is no session any more';
$pds->clear_faults;
connect_oauth($app, $pds, 2, '--confidential');
ok $app->idle, 'he has signed in again';
is $app->disagreement, '', '... and it goes on';

# --- the worker dies in the middle of one

$pds->clear_log;
my $before = session($app, $confidential);
$spoilt = 2;
spoil_token({ match => '/oauth/token', hang => 1 });
$spoilt = 1;
toggle($app, $row);
ok wait_for { token_calls($pds) > 0 }, 'a refresh is under way';
my $dead = $app->worker;
kill 'KILL', $dead;
ok $app->wait_worker($dead), '... when the worker is killed';
ok $pg->poll_query_until('app', "SELECT lease_by = 'worker' FROM rsvp_sync._oauth_session WHERE did = '$confidential'"), '... its lease stands';
is scalar(token_calls($pds)), 1, '... and nobody refreshes';
ok $app->idle, 'the next worker waits for its end';
is $app->disagreement, '', '... and writes';
isnt session($app, $confidential)->{tokenSet}{refresh_token}, $before->{tokenSet}{refresh_token}, '... after a refresh of its own';
$pds->clear_faults;

# --- a server that says odd things

spoil_token({ match => '/oauth/token', status => 400, headers => { 'dpop-nonce' => "caf\x{e9}" x 3 }, body => { error => 'use_dpop_nonce' } });
$pds->clear_log;
toggle($app, $row);
ok $app->idle, 'a nonce that is none';
is $app->disagreement, '', '... is not taken';
$pds->clear_faults;

# --- revoked

$pds->clear_log;
$pds->oauth('revoke', { stdin => json(session($app, $did)) });
$row = put_row($app, 2);
ok $app->wait_status($row, 'blocked needs_login'), 'a session that was revoked';
is account($app, $did), 'needs_login', '... needs a login';
is $app->status($row, 'attempts'), 0, '... without using up attempts';
my $tries = token_calls($pds);
my $later = put_row($app, 2);
ok $app->wait_status($later, 'blocked needs_login'), '... a later row waits as well';
is scalar(token_calls($pds)), $tries, '... without another try';
connect_oauth($app, $pds, 1);
ok $app->idle, '... until he has signed in';
is $app->disagreement, '', '... then it goes on by itself';

# --- what the user has consented to

connect_oauth($app, $pds, 3, '--scope', 'atproto repo:community.lexicon.calendar.rsvp?action=create');
$pds->clear_log;
$row = put_row($app, 4);
ok $app->idle, 'a session that may only create';
is $app->disagreement, '', '... creates';
is scalar($pds->writes(call => 'com.atproto.repo.createRecord')), 1, '... by createRecord';
toggle($app, $row);
ok $app->wait_status($row, 'blocked scope_missing'), '... what it may not is blocked';
is account($app, $pds->did(3)), 'connected', '... and the account is well';
is scalar($pds->log(call => qr/repo\.(?:put|delete)Record/)), 0, '... nothing else was tried';
$later = put_row($app, 4);
ok $app->wait_status($later, 'done published'), '... other rows are published';
connect_oauth($app, $pds, 3);
ok $app->idle, 'after a login with more';
is $app->disagreement, '', '... it is done';

connect_oauth($app, $pds, 4, '--scope', 'atproto repo:community.lexicon.calendar.rsvp?action=create&action=update');
$row = put_row($app, 5);
ok $app->idle, 'a session that may not delete';
$pds->clear_log;
$app->sql("DELETE FROM attendance WHERE id = $row");
ok $app->idle, '... a deletion';
my ($record) = $pds->list_records(4);
like $record->{value}{status}, qr/#notgoing$/, '... is said by notgoing';
is calls($pds, 'repo.deleteRecord'), 0, '... and not tried';

# --- the application has the lease

$did = $pds->did(1);
my $token = $app->sql("SELECT rsvp_sync.oauth_lock('$did', '1 minute')");
ok $token, 'the application takes the lease';
$pds->clear_log;
spoil_token();
$row = put_row($app, 2);
ok wait_for { $pds->log(call => qr/repo\.putRecord/) > 0 && $pg->safe_psql('app', 'SELECT count(*) FROM rsvp_sync._queue WHERE lease IS NOT NULL') == 1 }, 'the worker finds its token refused';
ok $pg->poll_query_until('app', "SELECT lease_by = 'application' FROM rsvp_sync._oauth_session WHERE did = '$did'"), 'it waits';
is scalar(token_calls($pds)), 0, '... and does not refresh';
is $app->sql("SELECT rsvp_sync.oauth_unlock('$did', '$token')"), 't', 'the lease is given back';
ok $app->idle, '... and the worker goes on';
is scalar(grep { ($_->{status} // 0) == 200 } token_calls($pds)), 1, '... by a refresh of its own';

# --- what may be seen

my $log = $pg->log_text;
is scalar(grep { index($log, $_) >= 0 } @secrets), 0, 'no secret is in the log';
unlike $log, qr/PANIC|could not be recorded|cannot be refreshed/, 'nothing untoward in the log';
my $dump = $pg->safe_psql('app', "SELECT string_agg(l::text, ' ') FROM rsvp_sync._history l") . $pg->safe_psql('app', 'SELECT string_agg(a::text, chr(10)) FROM rsvp_sync._oauth_session a');
is scalar(grep { index($dump, $_) >= 0 } @secrets), 0, 'nor in a table, but for the envelopes';

done_testing;
