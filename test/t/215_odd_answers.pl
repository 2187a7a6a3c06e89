# Answers that are well-formed and wrong: what is not said is not taken for
# absence, nothing goes round in circles, and a stranger's page in front of the
# PDS is not the PDS.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $RSVP = 'community.lexicon.calendar.rsvp';
my $CID = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a';
my $ATTEMPTS = 8;    # where something is to be given up
my $pds = start_pds(accounts => 4);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '200ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.request_timeout' => '5s',
});
my $key_file = $pg->dir . '/keys';
$pg->as_pg([ 'sh', '-c', 'umask 077; echo "1:$(openssl rand -base64 32)" >"$0"', $key_file ]);
$pg->append_conf("rsvp_sync.credential_key_file = '$key_file'");
$pg->reload;
my $app = scene($pg, 'app', $pds, events => 60);
my $event = 0;    # of the row at hand; each case has an event of its own

sub put_row {
	my ($user) = @_;
	$event++;
	$user //= 2;
	$app->sql("INSERT INTO attendance VALUES ($event, 'confirmed', '{}', $event, $user)");
	return $event;
}
sub flip { my ($row) = @_; return $app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id = $row") }
sub calls { my ($call, %more) = @_; return scalar $pds->log(call => "com.atproto.$call", %more) }
sub account { my ($n) = @_; return $app->sql("SELECT state FROM rsvp_sync.account WHERE did = '" . $pds->did($n) . "'") }
sub absent { return $app->sql('SELECT count(*) FROM rsvp_sync._observed WHERE cid IS NULL') }

sub max_attempts {
	my ($n) = @_;
	$pg->append_conf("rsvp_sync.max_attempts = $n");
	$pg->reload;
	return $pg->poll_query_until('app', 'SHOW rsvp_sync.max_attempts', $n);
}

# A worker that knows nothing of heads and sessions.
sub new_worker {
	my $worker = $app->worker;
	# A worker that dies again and again is started later and later; one that is
	# to take up a setting is started at once.
	$pg->safe_psql('postgres', 'ALTER DATABASE app SET rsvp_sync.settle_time = 0');
	$app->wait_worker($worker);
	$pds->clear_log;
	return;
}

sub agrees { my ($what) = @_; is $app->disagreement, '', $what; return }

my $first = put_row();
put_row();
ok $app->idle, 'two records are known';
is absent(), 0, '... both are there';

# --- listings

my $html = { 'content-type' => 'text/html' };
my $uri = 'at://' . $pds->did(1) . "/$RSVP/3kaaaaaaaaa2a";
for my $case (
	[ 'a listing that is none' => {} ],
	[ 'a listing that is an object' => { records => {} } ],
	[ 'a listing of numbers' => { records => [ 1 ] } ],
	[ 'a listing without cids' => { records => [ { uri => $uri, value => {} } ] } ],
	[ 'a listing of what is no cid' => { records => [ { uri => $uri, cid => 'x' x 100_000, value => {} } ] } ],
	[ 'a listing without record keys' => { records => [ { uri => 'at://' . $pds->did(1) . "/$RSVP", cid => $CID, value => {} } ] } ],
	[ 'a listing of absurd record keys' => { records => [ { uri => $uri . 'x' x 1000, cid => $CID, value => {} } ] } ],
) {
	my ($what, $body) = @$case;
	new_worker();
	$pds->faults({ match => 'listRecords', count => 3, status => 200, body => $body });
	put_row();
	ok $app->idle, $what;
	is calls('repo.listRecords', fault => 'status'), 3, '... is asked for until it is one';
	is absent(), 0, '... nothing is taken for gone';
	agrees('... and the record is written');
}

new_worker();
$pds->faults({ match => 'getLatestCommit', status => 200, body => {} }, { match => 'getLatestCommit', status => 200, body => { cid => 'nonsense' } });
put_row();
ok $app->idle, 'a head without cid';
agrees('... is asked for again');
is scalar(grep { defined $_->{swapCommit} && $_->{swapCommit} ne 'nonsense' } $pds->log(call => 'com.atproto.repo.putRecord')), 1, '... and the new record names it';

# Pages for ever, each small or each large.
for my $case ([ 'small', 10, 40_000 ], [ 'large', 4, 800_000 ]) {
	my ($size, $n, $bytes) = @$case;
	new_worker();
	my @records = map { { uri => "$uri$_", cid => $CID, value => { filler => 'x' x $bytes } } } 1 .. $n;
	$pds->faults({ match => 'listRecords', count => -1, status => 200, body => { records => \@records, cursor => 'again' } });
	my $row = put_row();
	ok $pg->poll_query_until('app', "SELECT last_error ~ '^listing_too_large' FROM rsvp_sync.sync_status('attendance', '$row')"), "$size pages without end: given up";
	cmp_ok calls('repo.listRecords'), '<', 1000, '... before long';
	is absent(), 0, '... nothing is taken for gone';
	$pds->clear_faults;
	ok $app->idle, '... until it has an end';
	agrees('... and the record is written');
}

# --- reads

put_row();
ok $app->idle, 'the head is known';
$pds->clear_log;
$pds->faults({ match => 'putRecord', after => 1, hang => 1, status => 500 });
my $row = put_row();
ok wait_for { scalar $pds->writes }, 'a record is written, its answer hangs';
my ($record) = grep { $_->{value}{subject}{uri} =~ /event0*$row$/ } $pds->list_records(1);
$pds->faults({ match => 'getRecord', count => 3, status => 200, body => { uri => $record->{uri}, value => $record->{value} } });
ok $app->idle, 'the read that follows has no cid';
is calls('repo.putRecord'), 1, '... it is seen to be what was sent';
is $app->status($row, 'cid'), $record->{cid}, '... with the cid it has';
$pds->clear_faults;

for my $case ([ 'nothing' => {} ], [ 'no value' => { uri => $uri, cid => $CID } ], [ 'a text' => { uri => $uri, value => 'x' } ], [ 'NUL' => { uri => $uri, value => { x => "\0" } } ]) {
	my ($what, $body) = @$case;
	put_row();
	ok $app->idle, 'the head is known';
	$pds->clear_log;
	$pds->faults({ match => 'putRecord', after => 1, status => 500 }, { match => 'getRecord', status => 200, body => $body });
	$row = put_row();
	ok $app->idle, "a read that says $what";
	is calls('repo.putRecord'), 1, '... is not taken for absence';
	cmp_ok calls('repo.getRecord'), '>=', 2, '... but asked again';
	agrees('... and all agrees');
}

# --- writes

for my $after (0, 1) {
	$pds->clear_log;
	$pds->faults({ match => 'putRecord', status => 200, body => { cid => 'x' x 50_000, commit => { cid => 'y' x 50_000, rev => 'z' x 50_000 } }, $after ? (after => 1) : () });
	flip($first);
	ok $app->idle, 'a write whose answer is nonsense' . ($after ? ', done' : ', not done');
	agrees('... is looked after');
	is scalar($pds->writes), 1, '... and has its effect once';
}

# --- no circles

max_attempts($ATTEMPTS);
for my $message ('Record was at bafyother', 'Commit was at bafyother') {
	for my $kind ('a new record', 'an update', 'a deletion') {
		$row = put_row() if $kind ne 'an update';
		if ($kind eq 'a deletion') { ok $app->idle, 'a record to be deleted' }
		elsif ($kind eq 'a new record') { $app->sql("DELETE FROM attendance WHERE id = $row"); $app->idle }
		$pds->clear_log;
		$pds->faults({ match => 'putRecord|deleteRecord', count => -1, status => 400, body => { error => 'InvalidSwap', message => $message } });
		if ($kind eq 'a new record') { $row = put_row() }
		elsif ($kind eq 'an update') { $row = $first; flip($row) }
		else { $app->sql("DELETE FROM attendance WHERE id = $row") }
		ok $pg->poll_query_until('app', "SELECT coalesce((SELECT state = 'failed' FROM rsvp_sync._intent WHERE key = '$row'), false)", 't', 15), "InvalidSwap for ever ($message): $kind is given up";
		cmp_ok calls('repo.putRecord') + calls('repo.deleteRecord'), '<=', 2 * $ATTEMPTS, '... after some tries';
		cmp_ok scalar($pds->log), '<=', 8 * $ATTEMPTS, '... and some reads';
		$pds->clear_faults;
		$app->sql('SELECT rsvp_sync.retry()');
		ok $app->idle, '... tried again';
		agrees('... it is done');
	}
}

max_attempts(1000);

$pds->clear_log;
$pds->faults({ match => 'deleteRecord', after => 1, status => 400, body => { error => 'RecordNotFound', message => 'Could not locate record' } });
$app->sql("DELETE FROM attendance WHERE id = (SELECT max(id) FROM attendance)");
ok $app->idle, 'a deletion of what is gone';
is calls('repo.deleteRecord'), 1, '... is done';
agrees('... and all agrees');
$pds->clear_log;
$pds->faults({ match => 'putRecord', status => 400, after => 1, body => { error => 'RecordNotFound', message => 'Could not locate record' } });
flip($first);
ok $app->idle, 'RecordNotFound to an update that was done';
agrees('... and all agrees');
is calls('repo.putRecord'), 1, '... is seen to be done';

# --- a page in front of the PDS

for my $case ([ 403, '<html>Checking your browser</html>', $html ], [ 401, '<html>Log in to the network</html>', $html ],
	[ 403, { error => 'blocked' }, {} ], [ 400, '', {} ], [ 200, {}, {} ]) {
	my ($status, $body, $headers) = @$case;
	my $what = "$status " . (ref $body ? json($body) : "\"$body\"");
	$app->connect(2);    # anew: there is no session
	new_worker();
	$pds->faults({ match => 'createSession', count => -1, status => $status, body => $body, headers => $headers });
	$row = put_row(3);
	ok $pg->poll_query_until('app', "SELECT attempts >= 2 FROM rsvp_sync.sync_status('attendance', '$row')"), "login: $what";
	is account(2), 'unreachable', '... says nothing of the password';
	$pds->clear_faults;
	ok $app->idle, '... and passes';
	is account(2), 'connected', '... the account is connected';
	agrees('... the record written');

	new_worker();
	$pds->faults({ match => 'refreshSession', count => -1, status => $status, body => $body, headers => $headers });
	$row = put_row(3);
	ok $pg->poll_query_until('app', "SELECT attempts >= 2 FROM rsvp_sync.sync_status('attendance', '$row')"), "refresh: $what";
	is account(2), 'unreachable', '... says nothing of the session';
	$pds->clear_faults;
	ok $app->idle, '... and passes';
	is calls('server.createSession'), 0, '... the session goes on';
	agrees('... the record written');
}
for my $status (401, 403) {
	$pds->clear_log;
	$pds->faults({ match => 'putRecord', count => 4, status => $status, body => '<html>no</html>', headers => $html });
	flip($first);
	ok $app->idle, "write: $status of a stranger";
	is account(1), 'connected', '... says nothing of the account';
	is $app->status($first), 'done published', '... and passes';
	agrees('... the record written');
}

# --- the event's side

my $there = $pds->create_event(0, 'Odd', '2030-06-21T18:00:00Z');
my ($rkey) = $there->{uri} =~ m{/([^/]*)$};
my $organiser = $pds->did(0);
$app->sql(qq{INSERT INTO events VALUES (1001, 'bluesky', '{"did": "$organiser", "rkey": "$rkey"}')});
$pds->faults({ match => 'getRecord', status => 200, body => { uri => $there->{uri}, cid => 'garbage', value => {} } },
	{ match => 'getRecord', status => 200, body => { uri => $there->{uri}, cid => 'bafyrei' . 'a' x 100_000, value => {} } });
$app->sql(q{INSERT INTO attendance VALUES (1001, 'confirmed', '{}', 1001, 2)});
ok $app->wait_status(1001, 'done published'), 'an event whose cid is garbage at first';
($record) = grep { $_->{value}{subject}{uri} eq $there->{uri} } $pds->list_records(1);
is $record->{value}{subject}{cid}, $there->{cid}, '... its record names the right one';
$pds->clear_faults;

# --- the key file

new_worker();
rename $key_file, "$key_file.away" or die "$key_file: $!";
$row = put_row();
ok $pg->poll_query_until('app', "SELECT last_error ~ '^credential_unreadable' FROM rsvp_sync.sync_status('attendance', '$row')"), 'the key file is away: a key is tried again';
is $app->status($row, 'state'), 'retrying', '... it is not blocked';
is account(1), 'connected', '... nor is the account touched';
rename "$key_file.away", $key_file or die "$key_file: $!";
ok $app->wait_status($row, 'done published'), '... it is back, and the key goes on';
is calls('server.createSession'), 0, '... with the session there was';
$app->sql("SELECT rsvp_sync.disconnect_account('" . $pds->did(1) . "')");
$row = put_row();
ok $app->wait_status($row, 'blocked no_account'), 'no account at all is another matter';
$app->connect(1);
ok $app->idle, '... until it is connected';
agrees('... and all agrees');

unlike $pg->log_text, qr/PANIC|could not be recorded|terminated by signal|exited with exit code [^01]/, 'nothing untoward in the log';

done_testing;
