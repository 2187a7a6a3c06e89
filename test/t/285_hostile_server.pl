# A hostile server.  Whoever runs a PDS, or writes a DID document, chooses what
# we read and where we are sent: he gets us nowhere we may not go, gets no
# secret written down, and stops nobody else.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 4);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '200ms', 'rsvp_sync.max_attempts' => 1000, 'rsvp_sync.request_timeout' => '1s',
	'rsvp_sync.allow_plaintext_credentials' => 'off',
});
my $key_file = $pg->dir . '/keys';
$pg->as_pg([ 'sh', '-c', 'umask 077; echo "1:$(openssl rand -base64 32)" >"$0"', $key_file ]);
$pg->append_conf("rsvp_sync.credential_key_file = '$key_file'");
$pg->reload;
my $app = scene($pg, 'app', $pds, events => 100, connect => 0);
my %password = map { $_ => $pds->app_password($_) } 1 .. 3;
$app->connect($_, $password{$_}) for 1 .. 3;
my ($organiser, $victim) = ($pds->did(0), $pds->did(1));

# What must not be dialled: nobody is to call here.
my $internal = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 10);
my $port = $internal->sockport;
sub callers { my $n = 0; while (IO::Select->new($internal)->can_read(0)) { my $caller = $internal->accept or last; $n++; close $caller } return $n }

my $event = 0;
sub put_row {
	my ($n) = @_;
	$event++;
	$app->sql(sprintf "INSERT INTO attendance VALUES (%d, 'confirmed', '{}', %d, %d)", $event, $event, ($n // 1) + 1);
	return $event;
}
sub calls { my ($call, %more) = @_; return scalar $pds->log(call => "com.atproto.$call", %more) }
sub account { my ($n, $what) = @_; return $app->sql(sprintf "SELECT %s FROM rsvp_sync._account WHERE did = '%s'", $what // 'state', $pds->did($n)) }
sub last_error { my ($row) = @_; return $app->sql("SELECT last_error FROM rsvp_sync.sync_status('attendance', '$row')") }
sub tried { my ($row, $error) = @_; return wait_for { last_error($row) =~ $error && $app->status($row, 'attempts') >= 2 } }
sub new_worker {
	my $worker = $app->worker;
	$pg->safe_psql('postgres', 'ALTER DATABASE app SET rsvp_sync.settle_time = 0');
	$app->wait_worker($worker);
	$pds->clear_log;
	return;
}
# Others are not concerned.
sub others_go_on { my ($what) = @_; return ok $app->wait_status(put_row(2), 'done published', 20), "$what: another account goes on" }

put_row($_) for 1 .. 3;
ok $app->idle, 'three accounts are at work';
my $worker;

# --- where DID documents point

for my $endpoint (
	"http://127.0.0.1:$port", "https://127.0.0.1:$port", 'https://127.0.0.1', 'https://169.254.169.254', 'http://169.254.169.254/latest/meta-data',
	'https://[::1]', 'https://[::ffff:127.0.0.1]', 'https://[::ffff:169.254.169.254]', 'https://[2002:7f00:1::1]', 'https://[64:ff9b::127.0.0.1]', 'https://[fe80::1]',
	'https://2130706433', 'https://0x7f000001', 'https://0177.0.0.1', 'https://127.1', 'https://10.0.0.1', 'https://localhost', "https://localhost:$port", 'https://pds.example.com.',
	'https://user:pass@pds.example.com', "https://pds.example.com:443\@127.0.0.1:$port", 'https://printer.local', 'file:///etc/passwd', 'ftp://pds.example.com', 'pds.example.com', '', 'https://' . 'x' x 100_000 . '.com',
	"https://pds.example.com\r\nHost: 127.0.0.1",
) {
	my $shown = length $endpoint > 60 ? substr($endpoint, 0, 40) . '...' : $endpoint =~ s/[^ -~]/?/gr;
	$pds->faults({ on => 'plc', match => $victim, count => -1, status => 200, body => { id => $victim,
		service => [ { id => '#atproto_pds', type => 'AtprotoPersonalDataServer', serviceEndpoint => $endpoint } ] } });
	$app->sql('DELETE FROM rsvp_sync._identity');
	$pds->clear_log;
	my $row = put_row();
	ok tried($row, qr/^(?:forbidden|no_pds)/), "a PDS at \"$shown\": refused";
	$pds->clear_faults;
	$app->sql("DELETE FROM rsvp_sync._identity; DELETE FROM attendance WHERE id = $row");
}
ok $app->idle, 'all are withdrawn';
is callers(), 0, 'nobody was called';
# The organiser of an event is anybody.
for my $did ('did:web:127.0.0.1', 'did:web:localhost', "did:web:localhost%3A$port", 'did:web:169.254.169.254', 'did:web:2130706433', 'did:web:metadata.google.internal') {
	$event++;
	$app->sql(qq{INSERT INTO events VALUES (1000 + $event, 'bluesky', '{"did": "$did", "rkey": "3kevent000001"}'); INSERT INTO attendance VALUES ($event, 'confirmed', '{}', 1000 + $event, 2)});
	ok wait_for { my $s = $app->status($event, q{concat_ws(' ', state, reason_code, last_error)}); $s =~ /forbidden|invalid_event_uri|unsupported/ }, "an event of $did: refused";
	$app->sql("DELETE FROM attendance WHERE id = $event");
}
ok $app->idle, 'all are gone';
is callers(), 0, 'nobody was called';
others_go_on('documents that lead astray');

# --- redirects

for my $status (301, 302, 303, 307, 308) {
	for my $to ("http://127.0.0.1:$port/", 'http://169.254.169.254/latest/', $pds->url . '/xrpc/com.atproto.server.describeServer') {
		next if $status =~ /301|303|308/ && $to !~ /:$port/;
		$app->connect(1, $password{1});
		new_worker();
		$pds->faults({ match => 'createSession', count => -1, did => $victim, status => $status, headers => { location => $to }, body => {} },
			{ match => 'createSession', count => -1, status => $status, headers => { location => $to }, body => {} });
		my $row = put_row();
		ok tried($row, qr/^http_$status/), "$status to $to: not followed";
		is calls('server.describeServer'), 0, '... not even to where we may go' if $to =~ /describe/;
		$pds->clear_faults;
		ok $app->wait_status($row, 'done published'), '... until it signs in';
	}
}
$pds->faults({ match => 'putRecord', count => 3, did => $victim, status => 307, headers => { location => "http://127.0.0.1:$port/" }, body => {} });
ok $app->wait_status(put_row(), 'done published'), 'a write that is redirected is written where it belongs';
is callers(), 0, 'nobody was called, with a password or without';

# --- too much

$worker = $app->worker;
for my $case (
	[ 'a header of 200 kB', { status => 200, headers => { 'x-large' => 'a' x 200_000 }, body => {} } ],
	[ 'a thousand headers', { status => 200, headers => { map { ("x-$_" => 'a' x 100) } 1 .. 1000 }, body => {} } ],
	[ 'an answer of 60 MB', { bigBytes => 60_000_000 } ],
	[ 'an answer that trickles', { status => 200, body => { filler => 'x' x 10_000 }, slowBps => 20 } ],
	[ 'no answer', { hang => 1 } ],
	[ 'a million brackets', { status => 200, body => '[' x 1_000_000 } ],
	[ 'a deep object', { status => 200, body => '{"a":' x 200_000 . '1' . '}' x 200_000 } ],
	[ 'a long number', { status => 200, body => '{"did":' . '9' x 1_000_000 . '}' } ],
	[ 'a million members', { status => 200, body => '{' . join(',', map { qq{"$_":1} } 1 .. 200_000) . '}' } ],
	[ 'no JSON', { garbage => 1 } ],
	[ 'no HTTP', { garbage => 'http' } ],
) {
	my ($what, $fault) = @$case;
	$pds->faults({ match => 'putRecord', count => -1, did => $victim, %$fault });
	my $row = put_row();
	ok wait_for { $app->status($row, 'attempts') >= 1 }, "$what: tried again";
	others_go_on($what);
	$pds->clear_faults;
	ok $app->wait_status($row, 'done published'), '... until it answers';
}
is $app->worker, $worker, 'the worker lives';

# Records that nest as deep as jansson lets them.
new_worker();
my $deep = '{"a":' x 1_900 . '1' . '}' x 1_900;
my $uri = "at://$victim/community.lexicon.calendar.rsvp/3kaaaaaaaaa2a";
$pds->faults({ match => 'listRecords', did => $victim, status => 200,
	body => qq({"records":[{"uri":"$uri","cid":"bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a","value":$deep}]}) });
ok $app->wait_status(put_row(), 'done published'), 'a record 1900 levels deep';
others_go_on('it');

# --- somebody else's session

$app->connect(1, $password{1});
new_worker();
my $other = $pds->client('session', 3);
$pds->faults({ match => 'createSession', count => -1, status => 200, body => { did => $pds->did(3), handle => 'x.example.com', accessJwt => $other->{accessJwt}, refreshJwt => $other->{refreshJwt}, active => JSON::PP::true } });
my $row = put_row();
ok $app->wait_status($row, 'blocked needs_login'), 'the session of another account';
is account(1, q{session IS NULL AND state = 'needs_login'}), 't', '... is not taken';
is scalar(grep { $_->{value}{subject}{uri} =~ /0*$row$/ } $pds->list_records(3)), 0, '... nothing is written there';
$pds->clear_faults;
$app->connect(1, $password{1});
ok $app->wait_status($row, 'done published'), '... the right one goes on';

# --- secrets repeated in errors

sub nowhere {
	my ($what, @secrets) = @_;
	my $re = join '|', map { quotemeta } @secrets;
	my $text = join "\n", map { $app->sql("SELECT t::text FROM rsvp_sync.$_ t") } qw(_intent _queue _history _counter _identity account status history queue failed);
	unlike $text, qr/$re/, "$what is in no table";
	unlike $app->sql("SELECT to_jsonb(a) - 'credential' - 'session' FROM rsvp_sync._account a"), qr/$re/, '... nor with the account';
	unlike $pg->log_text, qr/$re/, '... nor in the log';
	return;
}
$app->connect(1, $password{1});
new_worker();
$pds->faults({ match => 'createSession', count => -1, status => 401, body => { error => 'AuthenticationRequired', message => "no user $victim has the password $password{1}" } });
$row = put_row();
ok $app->wait_status($row, 'blocked wrong_password'), 'an error that repeats the password';
like account(1, 'last_error'), qr/^no user $victim has the password \*{19}$/, '... is shown without it';
nowhere('the password', $password{1});
$pds->faults({ match => 'createSession', count => 1, status => 401, body => { error => $password{1}, message => scalar reverse(" $password{1}") . '!' . $password{1} } });
$app->connect(1, $password{1});
ok wait_for { account(1) eq 'unreachable' || account(1) eq 'connected' }, '... as the name of an error';
$pds->clear_faults;
ok $app->wait_status($row, 'done published'), '... until it signs in';
nowhere('the password', $password{1});

my $refresh = account(1, 'rsvp_sync._open(session, did)');
$pds->faults({ match => 'putRecord', did => $victim, count => 1, status => 400, body => { error => 'ExpiredToken', message => 'no' } },
	{ match => 'refreshSession', count => 3, status => 500, body => { error => 'InternalServerError', message => "cannot read $refresh" } });
$row = put_row();
ok $app->wait_status($row, 'done published'), 'an error that repeats a token';
nowhere('the token', substr($refresh, 0, 30), substr($refresh, 40, 40));

# Neither a terminal nor a log is told lies.
$pds->faults({ match => 'putRecord', did => $victim, count => -1, status => 500, body => { error => "Internal\nLOG: all is well\x1b[2J" . 'x' x 100_000, message => "a\x00b\r\n\x{9b}FATAL: " . 'y' x 100_000 } });
$row = put_row();
ok tried($row, qr/^Internal/), 'an error with control characters';
unlike last_error($row), qr/[^ -~]/, '... is shown without';
cmp_ok length last_error($row), '<', 1000, '... and short';
$pds->clear_faults;
ok $app->wait_status($row, 'done published'), '... and passes';

# --- cookies

$pds->clear_log;
$pds->faults({ match => 'putRecord', count => 1, did => $victim, status => 500, headers => { 'set-cookie' => 'tracked=yes; Path=/' }, body => { error => 'InternalServerError', message => 'x' } });
$row = put_row();
ok $app->wait_status($row, 'done published'), 'a cookie is set';
is scalar(grep { defined $_->{cookie} } $pds->log), 0, '... and never sent';

is callers(), 0, 'to the end nobody was called';
is $app->disagreement, '', 'the network has what the rows say';
unlike $pg->log_text, qr/PANIC|terminated by signal|could not be recorded|stack depth/, 'nothing untoward in the log';

done_testing;
