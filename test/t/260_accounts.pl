# Accounts and what happens to them: one that needs its user waits without
# using tries and goes on by itself, each change of state is told once, an
# account leaves with its records, a person is forgotten, and a session is not
# lost because the key file is away.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 6);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 3, 'rsvp_sync.withdraw_limit' => 1,
	'rsvp_sync.allow_plaintext_credentials' => 'off',
});
my $key_file = $pg->dir . '/keys';
$pg->as_pg([ 'sh', '-c', 'umask 077; echo "1:$(openssl rand -base64 32)" >"$0"', $key_file ]);
$pg->append_conf("rsvp_sync.credential_key_file = '$key_file'");
$pg->reload;
my $app = scene($pg, 'app', $pds, events => 60);
my $listener;
sub listen_to { $listener = $pg->session('app'); return $listener->query('LISTEN rsvp_sync_account') }
listen_to();

sub account { my ($n, $what) = @_; return $app->sql(sprintf "SELECT %s FROM rsvp_sync.account WHERE did = '%s'", $what // 'state', $pds->did($n)) }
sub calls { my ($call, %more) = @_; return scalar $pds->log(call => "com.atproto.$call", %more) }
sub records { my ($n) = @_; return scalar $pds->list_records($n) }
my $event = 0;
# A row of PDS account n; its id
sub put_row {
	my ($n) = @_;
	$event++;
	$app->sql(sprintf "INSERT INTO attendance VALUES (%d, 'confirmed', '{}', %d, %d)", $event, $event, $n + 1);
	return $event;
}
# What was told of an account since this was last asked, oldest first.  What
# has been committed is told in that order: hence a last one of our own.
my (%told, $last);
sub told {
	my ($n) = @_;
	my $mark = 'mark ' . ++$last;
	my $said = '';
	$app->sql("NOTIFY rsvp_sync_account, '$mark'");
	wait_for { ($said .= $listener->query('SELECT 1')) =~ /"$mark"/ } or die 'the listener hears nothing';
	while ($said =~ /"rsvp_sync_account" with payload "(\{.*?\})" received/g) {
		my $payload = from_json($1);
		die "odd payload $1" if join(' ', sort keys %$payload) ne 'did state';
		push @{ $told{ $payload->{did} } }, $payload->{state};
	}
	return join ' ', @{ delete $told{ $pds->did($n) } // [] };
}
# A worker that knows nothing of sessions.
sub new_worker {
	my $worker = $app->worker;
	$pg->safe_psql('postgres', 'ALTER DATABASE app SET rsvp_sync.settle_time = 0');
	return $app->wait_worker($worker);
}

# --- states

put_row($_) for 1 .. 5;
ok $app->idle, 'five accounts are at work';
is account(1), 'connected', '... connected';
is told($_), 'connected', '... which was told once' for 1 .. 5;

$app->connect(1, 'wrong');
my @waiting = map { put_row(1) } 1 .. 5;
ok $app->wait_status($_, 'blocked wrong_password'), 'a wrong password: the key waits' for @waiting;
is account(1), 'wrong_password', '... the account says why';
is account(1, 'waiting'), 5, '... and how many wait';
is $app->status($waiting[0], 'attempts'), 0, '... no try is used';
is told(1), 'wrong_password', '... the change is told once, however many keys wait';
my $another = put_row(1);
ok $app->wait_status($another, 'blocked wrong_password'), '... another key waits, too';
is told(1), '', '... nothing is told again';
is account(2), 'connected', '... another account is not concerned';
put_row(2);
ok $app->idle, '... its keys go on';
$app->connect(1);
is account(1), 'unverified', 'connected anew';
ok $app->wait_status($_, 'done published'), '... the key goes on by itself' for @waiting, $another;
is told(1), 'connected', '... which is told once';
is account(1, 'waiting'), 0, '... nothing waits';

$pds->client('deactivate', 3);
my $row = put_row(3);
ok $app->wait_status($row, 'blocked deactivated'), 'a deactivated account: the key waits';
is told(3), 'deactivated', '... it is told';
$pds->client('activate', 3);
new_worker();
ok $app->idle, 'active again, and nobody tells us';
is $app->status($row), 'blocked deactivated', '... it is not looked at all the time';
$app->sql(sprintf "UPDATE rsvp_sync._account SET checked_at = now() - interval '25 hours' WHERE did = '%s'", $pds->did(3));
new_worker();
ok $app->wait_status($row, 'done published'), '... but after a day';
is told(3), 'connected', '... then that is told';
$pds->client('deactivate', 3);
$row = put_row(3);
ok $app->wait_status($row, 'blocked deactivated'), 'deactivated again';
is told(3), 'deactivated', '... it is told';
$app->sql(sprintf "UPDATE rsvp_sync._account SET checked_at = now() - interval '25 hours' WHERE did = '%s'", $pds->did(3));
$pds->clear_log;
new_worker();
ok wait_for { account(3, "(SELECT checked_at > now() - interval '1 hour' FROM rsvp_sync._account a WHERE a.did = account.did)") eq 't' }, '... a day later it is asked';
is $app->status($row), 'blocked deactivated', '... it still is';
is told(3), '', '... nothing has changed, nothing is told';
$pds->client('activate', 3);
$app->connect(3);
ok $app->wait_status($row, 'done published'), 'connecting anew looks at once';
told(3);

# --- with its records

$pds->clear_log;
cmp_ok records(1), '>', 3, 'an account with several records';
$app->sql(sprintf "SELECT rsvp_sync.disconnect_account('%s', withdraw => true)", $pds->did(1));
ok wait_for { account(1) eq '' }, 'disconnect_account(withdraw): the account goes';
is records(1), 0, '... and all its records, whatever withdraw_limit is';
is told(1), 'disconnected', '... it is told';
is $app->status($waiting[0]), 'blocked no_account', '... its rows have no account';
is $app->sql("SELECT metadata ->> 'blueskyRsvpUri' FROM attendance WHERE id = $waiting[0]"), '', '... they do not name a record any more';
is records(2), 2, '... those of others are left alone';

# It has to wait for the PDS; meanwhile it is seen to be leaving.
my $rows = records(2);
$pds->faults({ match => 'deleteRecord|applyWrites', count => -1, did => $pds->did(2), status => 503 });
$app->sql(sprintf "SELECT rsvp_sync.disconnect_account('%s', withdraw => true)", $pds->did(2));
ok wait_for { calls('repo.deleteRecord', repo => $pds->did(2)) || calls('repo.applyWrites', repo => $pds->did(2)) }, 'a PDS that refuses deletions';
is account(2), 'disconnecting', '... the account is disconnecting';
is told(2), '', '... which is nothing to tell';
$row = put_row(2);
ok $app->wait_status($row, 'withheld leaving'), '... a new row of it is withheld';
$pds->clear_faults;
$app->sql('SELECT rsvp_sync.retry()');
ok wait_for { account(2) eq '' }, '... until it gives way';
is records(2), 0, '... the records are gone';
$app->connect(2);
ok $app->idle, 'connected anew';
is records(2), $rows + 1, '... the rows are published again';
told(2);

# A kill in the middle loses nothing.
$pds->faults({ match => 'deleteRecord|applyWrites', count => 1, hang => 1 });
$pds->clear_log;
$app->sql(sprintf "SELECT rsvp_sync.disconnect_account('%s', withdraw => true)", $pds->did(2));
ok wait_for { calls('repo.deleteRecord') || calls('repo.applyWrites') }, 'a withdrawal under way';
my $worker = $app->worker;
$pg->kill9_worker('rsvp_sync worker');
$pds->clear_faults;
ok $app->wait_worker($worker), '... the worker is killed';
ok wait_for { (eval { account(2) } // 'x') eq '' }, '... the next one goes on';
is records(2), 0, '... to the end';
listen_to();

# --- forgotten

$app->connect(4);
put_row(4) for 1 .. 3;
ok $app->idle, 'somebody who wants to be forgotten';
like $app->sql(sprintf "SELECT rsvp_sync.export('%s')", $pds->did(4)), qr/"handle"/, '... of whom something is stored';
told(4);
is $app->sql(sprintf "SELECT rsvp_sync.forget('%s')", $pds->did(4)), 'f', 'forget() takes its time';
ok wait_for { account(4) eq '' }, '... but not for ever';
is told(4), 'forgotten', '... it is told';
is records(4), 0, '... the records are withdrawn';
ok $app->idle, '... the rows are told';
my $did = $pds->did(4);
my $stored = $app->sql(<<SQL);
SELECT string_agg(c.relname, ' ' ORDER BY 1) FROM pg_class c
WHERE c.relnamespace = 'rsvp_sync'::regnamespace AND c.relkind = 'r'
	AND (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s t WHERE strpos(t::text, %L) > 0', c.oid::regclass, '$did'), true, true, '')))[1]::text <> '0'
SQL
is $stored, '', '... the DID is nowhere';
$pds->clear_log;
$row = put_row(4);
ok $app->wait_status($row, 'withheld forgotten'), 'a row of the forgotten';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = $row");
ok $app->idle, '... and a change of it';
is $app->sql("SELECT count(*) FROM rsvp_sync._intent WHERE did = '$did'"), 0, '... the DID is not stored';
is scalar($pds->log), 0, '... nothing is asked for';
$app->connect(4);
ok $app->wait_status($row, 'done published'), 'connected anew: the row made meanwhile is published';
is records(4), 1, '... those before are not';

# --- a session that cannot be sealed

$app->connect(5);
new_worker();
put_row(2 + 1);
ok $app->idle, 'one account is at work';
$pds->clear_log;
$pds->faults({ match => 'createSession', after => 1, hang => 1 });
my $late = put_row(5);
ok wait_for { calls('server.createSession') }, 'another one signs in';
rename $key_file, "$key_file.away" or die "$key_file: $!";
my $log = $pg->log_size;
$pds->clear_faults;
ok $app->wait_status($late, 'done published'), '... while the key file is away: it works';
my $other = put_row(3);
ok $app->wait_status($other, 'done published'), '... so do others';
ok $pg->wait_for_log(qr/an answer could not be recorded: could not open credential key file/, $log), '... the log says what is wrong';
is $app->sql(sprintf "SELECT session IS NULL FROM rsvp_sync._account WHERE did = '%s'", $pds->did(5)), 't', '... the session is not stored';
rename "$key_file.away", $key_file or die "$key_file: $!";
ok $pg->poll_query_until('app', sprintf("SELECT session IS NOT NULL FROM rsvp_sync._account WHERE did = '%s'", $pds->did(5))), '... until the key file is back';
is account(5), 'connected', '... and the account is connected';
$pds->clear_log;
new_worker();
$late = put_row(5);
ok $app->wait_status($late, 'done published'), 'a new worker goes on';
is calls('server.createSession'), 0, '... with that session';
is calls('server.refreshSession'), 1, '... refreshed';

unlike $pg->log_text, qr/PANIC|terminated by signal(?! 9)/, 'nothing untoward in the log';

done_testing;
