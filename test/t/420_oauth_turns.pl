# The OAuth library for Node and the worker use one session: the example of the
# documentation, with the real library, refreshes it in turn with the worker,
# and nobody loses it.  RS_OAUTH_TURNS: how many refreshes (20).

use strict;
use warnings;

use IPC::Open2 qw(open2);
use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $turns = $ENV{RS_OAUTH_TURNS} // 20;
my $pds = start_pds(accounts => 2, dpop_rotation_ms => 1000);
my $pg = start_server(pds => $pds, conf => { 'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.request_timeout' => '2s' });
my $scene = scene($pg, 'app', $pds, events => 5, connect => 0);
$scene->sql("CREATE ROLE site LOGIN; SELECT rsvp_sync.grant_application('site'); GRANT ALL ON ALL TABLES IN SCHEMA public TO site; SELECT rsvp_sync.detach('attendance')");
$scene->sql('ALTER TABLE attendance OWNER TO site; ALTER TABLE users OWNER TO site; ALTER TABLE events OWNER TO site');
$pg->safe_psql('app', "SELECT rsvp_sync.attach('attendance')", user => 'site');
my $did = $pds->did(1);

# The application runs in a process of its own, as the role site.
@ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($pg->host, $pg->port, 'site', 'app');
my $node = open2(my $from, my $to, repo_root() . '/test/pds/run', repo_root() . '/test/pds/oauth-turns.mjs', $pds->state_file, 1);
delete @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)};

sub answer { my $line = <$from>; return defined $line ? from_json($line) : { error => 'the application ended' } }

sub order {
	my ($command) = @_;
	print {$to} "$command\n";
	$to->flush;
	return;
}
sub ask { order(@_); return answer() }

my $n = 0;
sub toggle { $n++; $scene->sql("UPDATE attendance SET status = '" . ($n % 2 ? 'maybe' : 'confirmed') . "'"); return }
sub spoil { $pds->faults({ match => 'repo\.putRecord', count => $_[0] // 1, status => 401, headers => { 'www-authenticate' => 'DPoP error="invalid_token"' }, body => { error => 'invalid_token' } }); return }
sub state_of { return $scene->sql("SELECT state FROM rsvp_sync._account WHERE did = '$did'") }
sub refreshes { return grep { ($_->{status} // 0) == 200 } $pds->log(path => '/oauth/token') }

ok answer()->{ready}, 'the application of the example is up';
is_deeply ask('login'), { did => $did }, 'a user signs in there';
is $scene->sql("SELECT concat_ws(' ', auth, state, owner) FROM rsvp_sync._account"), 'oauth unverified site', '... and his account is connected';
$scene->sql("INSERT INTO attendance VALUES (1, 'confirmed', '{}', 1, 2)");
ok $scene->idle, '... his row';
is $scene->disagreement, '', '... is published by the worker';
is ask('put going')->{status}, 200, '... and the application writes by the same session';
ok $scene->sql(q{SELECT rsvp_sync.oauth_session('} . $did . q{') -> 'tokenSet' ->> 'access_token' <> ''}), 'the session is in the store';

# --- in turn

$pds->clear_log;
my $good = 0;
for my $turn (1 .. $turns / 2) {
	my $by_library = ask('refresh');
	diag json($by_library) if $by_library->{error};
	# The worker has the old token, finds it refused, and reads the store.
	toggle();
	$good++ if !$by_library->{error} && $scene->idle;
	# Then the worker refreshes, and the library finds what it stored.
	spoil();
	toggle();
	$good++ if $scene->idle && !ask('token')->{error};
}
is $good, 2 * int($turns / 2), "$turns refreshes in turn";
$pds->clear_faults;
is scalar(refreshes()), 2 * int($turns / 2), '... as many as were asked for';
is state_of(), 'connected', '... and the session lives';
is ask('put notgoing')->{status}, 200, '... for the application, too';

# --- at the same time

my $both = 0;
for my $turn (1 .. $turns / 4) {
	spoil();
	toggle();
	order('refresh');
	my $answer = answer();
	diag json($answer) if $answer->{error};
	$both++ if !$answer->{error} && $scene->idle;
}
is $both, int($turns / 4), 'both at once';
is state_of(), 'connected', '... the session lives';
my @refused = grep { ($_->{status} // 0) >= 400 && ($_->{serverStatus} // 0) >= 400 } $pds->log(path => '/oauth/token');
cmp_ok scalar(@refused), '<=', $turns * 2, 'refusals of nonces only';
is ask('put going')->{status}, 200, '... the application writes';
my @own = grep { $_->{rkey} ne '3kothersubject' } $pds->writes(call => 'com.atproto.repo.putRecord');
cmp_ok scalar(@own), '>=', $n, '... and so did the worker, each time';

# --- the end of it

is ask('revoke')->{error}, undef, 'the application revokes the session';
is state_of(), 'needs_login', '... and says so, as a store is told to delete it';
toggle();
ok $scene->wait_status(1, 'blocked needs_login'), '... rows wait';
is ask('login')->{did}, $did, 'the user signs in again';
ok $scene->idle, '... they go on by themselves';
is state_of(), 'connected', '... the account is connected';

close $to;
waitpid $node, 0;
unlike $pg->log_text, qr/PANIC|could not be recorded|cannot be refreshed|terminated by signal|ref-[0-9a-f]{16}/, 'nothing untoward in the log';

done_testing;
