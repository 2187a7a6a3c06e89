# Where an account's repository is: did:plc by the directory, did:web by its own
# host, how often they are asked, and what happens when they do not answer, or
# say something odd.

use strict;
use warnings;

use File::Temp ();
use HTTP::Tiny ();
use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $pds = start_pds(accounts => 9);

# A person of did:web, with a host of its own.
my $dir = File::Temp->newdir;
my $web_pid = fork // die $!;
if ($web_pid == 0) {
	exec repo_root() . '/test/pds/run', repo_root() . '/test/pds/didweb.mjs', $pds->state_file, '--json', "$dir/web.json", '--parent-pid', getppid();
}
END { kill 'TERM', $web_pid if $web_pid }
ok wait_for { -s "$dir/web.json" }, 'an account of did:web';
my $web = from_json(slurp("$dir/web.json"));

my $app = start_app(pds => [$pds], conf => {
	'rsvp_sync.insecure_hosts' => $pds->insecure_hosts . ",localhost:$web->{port}, alice.localhost:$web->{port}", 'rsvp_sync.max_attempts' => 100,
	'rsvp_sync.retry_base' => '20ms', 'rsvp_sync.retry_max' => '100ms',
});
$app->plan_schema;
my $event = $app->event(1, 0);
my $row = 0;

sub asked { my ($did) = @_; return scalar $pds->log(on => 'plc', path => qr/\Q$did\E/) }
sub identity { my ($did, $what) = @_; return $app->admin("SELECT $what FROM rsvp_sync._identity WHERE did = '$did'") }
sub set_identity { my ($did, $what) = @_; return $app->admin("UPDATE rsvp_sync._identity SET $what WHERE did = '$did'") }
sub directory { my ($did, %fault) = @_; return $pds->faults({ on => 'plc', match => $did, count => -1, %fault }) }
my %down = (status => 503, body => { message => 'closed for today' });

# person(did): a row of users and one of attendance, not connected
sub person {
	my ($did) = @_;
	$row++;
	$app->sql(sprintf "INSERT INTO users VALUES (%d, 'someone', '%s')", $row, json({ bluesky => { did => $did, connected => JSON::PP::true } }));
	$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES ($row, 1, $row)");
	return $row;
}
sub connect_as { my ($did, $password, $pds_url) = @_; return $app->sql(sprintf "SELECT rsvp_sync.connect_account('%s', '%s', %s)", $did, $password, $pds_url ? "'$pds_url'" : 'NULL') }
sub change { my ($id, $status) = @_; return $app->sql("UPDATE attendance SET status = '$status' WHERE id = $id") }
sub said { my ($did) = @_; return join ' ', map { RsvpSyncApp::word($_) } $pds->list_records($did) }
sub last_error { my ($id) = @_; return $app->admin("SELECT coalesce((SELECT last_error FROM rsvp_sync._queue WHERE key = '$id'), '')") }
sub wait_error { my ($id, $pattern) = @_; return ok wait_for { last_error($id) =~ $pattern } || diag last_error($id), "... and says so: $pattern" }

$app->attach("'attendance'");

# --- how often

my $did = $pds->did(1);
connect_as($did, $pds->password(1));
$pds->clear_log;
my $id = person($did);
$app->idle('first');
is said($did), 'going', 'did:plc: written where the document says';
is asked($did), 1, '... which was asked for once';
change($id, $_) for qw(maybe confirmed maybe);
$app->idle('more');
is asked($did), 1, '... and not again for what follows';
set_identity($did, "looked_at = now() - interval '6 minutes'");
change($id, 'confirmed');
$app->idle('after a pause');
is asked($did), 2, 'after a pause it is asked for before anything is written';
is said($did), 'going', '... and then it is written';
set_identity($did, "resolved_at = now() - interval '25 hours', looked_at = now() - interval '25 hours'");
change($id, 'maybe');
$app->idle('a day later');
is asked($did), 3, 'a day later, too';
is identity($did, "resolved_at > now() - interval '1 minute'"), 't', '... and it is new again';
$app->admin("SELECT rsvp_sync._identity_wrote('$did'); UPDATE rsvp_sync._identity SET verify_at = now() WHERE did = '$did'");
ok wait_for { asked($did) >= 4 }, 'after the last write it is asked for once more, though nothing waits for it';

# --- the directory does not answer

directory($did, %down);
set_identity($did, "resolved_at = now() - interval '25 hours', looked_at = now() - interval '25 hours'");
change($id, 'confirmed');
$app->idle('directory down');
is said($did), 'going', 'the directory is down: the document that is known serves';
like identity($did, 'error'), qr/503.*closed for today/, '... and the error is kept';
my $before = asked($did);
change($id, 'maybe');
$app->idle('directory still down');
is asked($did), $before, '... which is not asked again and again';
set_identity($did, "resolved_at = now() - interval '73 hours', looked_at = now() - interval '1 hour'");
$pds->clear_log;
change($id, 'confirmed');
ok wait_for { asked($did) > 1 }, 'for three days, not for ever: then it waits for the directory';
wait_error($id, qr/503/);
is scalar $app->attempts, 0, '... and nothing is sent';
$pds->clear_faults;
$app->idle('directory up');
is_deeply [ said($did), identity($did, 'error IS NULL') ], [ 'going', 't' ], '... until that is back';

directory($did, reset => 1);
set_identity($did, "resolved_at = now() - interval '25 hours', looked_at = now() - interval '25 hours'");
change($id, 'maybe');
$app->idle('directory gone');
is said($did), 'interested', 'a connection that breaks is the same';

# Down for everybody: no call is made, nothing waits for one, and a probe finds
# out when it is back.
$pds->faults({ on => 'plc', count => -1, reset => 1 });
set_identity($did, "looked_at = now() - interval '1 hour'");
change($id, 'confirmed');
$app->idle('directory down for good');
is said($did), 'going', 'down for everybody, it is the same';
ok $app->pg->poll_query_until('app', sprintf("SELECT count(*) = 1 FROM rsvp_sync._host WHERE host = '%s'", $pds->plc)), '... and it is known to be down';
set_identity($did, "looked_at = now() - interval '1 hour'");
change($id, 'maybe');
$app->idle('known to be down');
is said($did), 'interested', '... which then is not even tried';
set_identity($did, "resolved_at = now() - interval '73 hours', looked_at = now() - interval '1 hour'");
change($id, 'confirmed');
ok $app->pg->poll_query_until('app', sprintf("SELECT waits_for = '%s' FROM rsvp_sync._queue WHERE key = '%d'", $pds->plc, $id)), '... after three days keys wait for it';
$pds->clear_faults;
$app->idle('directory back');
is said($did), 'going', '... and go on when it is back';
set_identity($did, "looked_at = now() - interval '1 hour'");
change($id, 'maybe');
$app->idle('as before');

# --- odd documents

my $odd = sub {
	my ($what, $error, %document) = @_;
	directory($did, status => 200, body => { id => $did, service => [ { id => '#atproto_pds', type => 'AtprotoPersonalDataServer', serviceEndpoint => $pds->url } ], %document });
	set_identity($did, "looked_at = now() - interval '1 hour'");
	change($id, 'confirmed');
	if ($error =~ /no_pds/) { wait_error($id, $error) }
	else { $app->idle($what); is said($did), 'going', "$what: the one that is known serves"; like identity($did, 'error'), $error, '... and the error is kept' }
	$pds->clear_faults;
	set_identity($did, "looked_at = now() - interval '1 hour'");
	change($id, 'maybe');
	$app->idle("after $what");
	is said($did), 'interested', "$what: over";
	return;
};
my $service = sub { return (service => [ { id => "$did#atproto_pds", type => 'AtprotoPersonalDataServer', serviceEndpoint => $_[0] } ]) };
$odd->('another DID\'s document', qr/wrong_document/, id => $pds->did(2));
$odd->('no service', qr/no_pds/, service => []);
$odd->('a service with a path', qr/no_pds/, $service->($pds->url . '/elsewhere'));
$odd->('a service with a user', qr/no_pds/, $service->('http://user@localhost'));
$odd->('a service that is no URL', qr/no_pds/, $service->('localhost'));
$odd->('services that are none', qr/no_pds/, service => { id => 'x' });
$odd->('a service in capitals', qr/wrong/, $service->(uc $pds->url), id => "$did ");
$odd->('an array', qr/unreadable|wrong_document/, id => undef);

# --- a PDS that was given

my $two = $pds->did(2);
$pds->clear_log;
connect_as($two, $pds->password(2), 'https://elsewhere.example');
$id = person($two);
$app->idle('another was given');
is said($two), 'going', 'another PDS was given: the document goes before it';
my $three = $pds->did(3);
directory($three, %down);
connect_as($three, $pds->password(3), $pds->url);
$id = person($three);
$app->idle('given, and no document');
is said($three), 'going', 'no document can be had: the PDS that was given serves';
my $four = $pds->did(4);
directory($four, %down);
connect_as($four, $pds->password(4));
$id = person($four);
wait_error($id, qr/503/);
$pds->clear_faults;
$app->idle('none given');
is said($four), 'going', 'none was given: it waits for the directory';

# --- no such DID

my $five = $pds->did(5);
connect_as($five, $pds->password(5));
$id = person($five);
$app->idle('five');
my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', repo_root() . '/test/pds/migrate.mjs', 'tombstone', $pds->state_file, $pds->state_file, 5 ]);
is $status, 0, 'a DID is given up' or diag $err;
set_identity($five, "looked_at = now() - interval '1 hour'");
$pds->clear_log;
change($id, 'maybe');
wait_error($id, qr/DID not available/);
is_deeply [ said($five), scalar $app->attempts ], [ 'going', 0 ], '... and its PDS, which still says 200, is not written to';
$app->sql("DELETE FROM attendance WHERE id = $id");
$app->admin("DELETE FROM rsvp_sync._queue WHERE key = '$id'; DELETE FROM rsvp_sync._intent WHERE key = '$id'");

# --- did:web

$pds->clear_log;
connect_as($web->{did}, $web->{password});
$id = person($web->{did});
$app->idle('did:web');
is said($web->{did}), 'going', 'did:web: written where its document says';
is(HTTP::Tiny->new->get("http://127.0.0.1:$web->{port}/_test/count")->{content}, 1, '... its own host was asked');
is asked('did:web'), 0, '... and not the directory';
# --- handles

sub handle { my ($of) = @_; return $app->sql("SELECT coalesce(handle, 'none') FROM rsvp_sync.account WHERE did = '$of'") }
ok wait_for { handle($web->{did}) eq 'alice.localhost' }, 'a handle is shown once document and handle agree';
ok wait_for { identity($did, 'handle_ok') eq 'f' }, 'one whose host does not answer';
is handle($did), 'none', '... is not';
HTTP::Tiny->new->get("http://127.0.0.1:$web->{port}/_test/name/$two");
set_identity($web->{did}, "looked_at = now() - interval '1 hour', handle_at = now() - interval '25 hours'");
change($id, 'maybe');
$app->idle('a day later');
ok wait_for { handle($web->{did}) eq 'none' }, 'its host names another DID, a day later: it is not shown any more';
$app->sql("SELECT rsvp_sync.connect_account('$web->{did}', '$web->{password}', handle => 'bob.example')");
is handle($web->{did}), 'none', '... nor is one that was given, unless they agree';

for my $bad ('did:web:example.com:people:alice', 'did:web:example.com%3A8443', 'did:web:localhost%3A1', 'did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme') {
	connect_as($bad, 'secret');
	$id = person($bad);
	$app->idle($bad);
	is $app->state('attendance', $id), 'failed/unsupported_identifier', "$bad: not of the AT Protocol's";
}

unlike $app->pg->log_text, qr/ (?:ERROR|FATAL|PANIC):|cannot be read|not be recorded/, 'and the server had nothing to complain of';
done_testing;
