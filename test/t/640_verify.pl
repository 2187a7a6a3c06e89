# What somebody tells us is verified with its author's own PDS before it is
# applied; and accounts are listed anew where something may have been missed.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $pds = start_pds(accounts => 9);
my $new = start_pds(accounts => 1, name => 'host', plc => $pds->plc);
my $app = start_app(pds => [ $pds, $new ], conf => { 'rsvp_sync.retry_base' => '20ms', 'rsvp_sync.retry_max' => '200ms', 'rsvp_sync.request_timeout' => '2s', 'rsvp_sync.max_attempts' => 5 });
my $pg = $app->pg;
$app->plan_schema;
my %event = map { $_ => $app->event($_, 0) } 1 .. 8;
$app->user($_, $_, connect => 0) for 1 .. 8;
$app->attach("'attendance'");
my @did = map { $pds->did($_) } 0 .. 8;
my @id = map { s/.*://r } @did;    # as it is in an address

sub put { my ($account, $event, $status, $rkey, %extra) = @_; my $r = $pds->client('put-rsvp', $account, $event{$event}{uri}, $event{$event}{cid}, $status, $rkey // '', json(\%extra)); $r->{rkey} = $r->{uri} =~ s{.*/}{}r; return $r }
sub record_of { my ($event, $status, %more) = @_; return { '$type' => RSVP, subject => { uri => $event{$event}{uri}, cid => $event{$event}{cid} }, status => RSVP . "#$status", createdAt => '2026-01-02T03:04:05.000Z', %more } }
# told(account, rkey, cid, record): as the stream would say it; undef: deleted
my $clock = 0;
sub told {
	my ($account, $rkey, $cid, $record) = @_;
	$clock++;
	return $app->admin(sprintf "SELECT rsvp_sync._ingest('stream', ARRAY['%s'], ARRAY[rsvp_sync.tid_now()], ARRAY['%s'], ARRAY['%s'], ARRAY[%s]::text[], ARRAY[%s]::text[], ARRAY[(extract(epoch FROM clock_timestamp()) * 1000000)::bigint], false)",
		$did[$account], $record ? 'create' : 'delete', $rkey, $cid ? "'$cid'" : 'NULL', $record ? "'" . json($record) . "'" : 'NULL');
}
sub row { my ($account, $event) = @_; return $app->sql("SELECT coalesce((SELECT status FROM attendance WHERE user_id = $account AND event_id = $event)::text, 'none')") }
sub becomes { my ($account, $event, $status, $what) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1; my $ok = ok wait_for { row($account, $event) eq $status }, $what; diag row($account, $event) . $app->admin("SELECT to_jsonb(b) FROM rsvp_sync._inbound b") . $pg->log_tail(8)  if !$ok; return $ok }
sub inbound { my ($account, $what) = @_; return $app->admin(sprintf "SELECT string_agg(%s::text, ' ') FROM rsvp_sync._inbound WHERE did = '%s'", $what // 'state', $did[$account]) }
sub asked { my ($call, %more) = @_; return scalar $pds->log(call => "com.atproto.$call", %more) }
sub errors { my ($type) = @_; return $app->admin("SELECT coalesce(max(value), 0) FROM rsvp_sync.metrics() WHERE name = 'rsvp_sync_errors_total' AND labels = '{\"direction\": \"inbound\", \"error_type\": \"$type\"}'") }
sub settled { my ($what) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1; return $app->idle($what) }

# --- what is true

my $going = put(1, 1, 'going');
$pds->clear_log;
told(1, $going->{rkey}, $going->{cid}, ($app->records(1))[0]{value});
is row(1, 1), 'none', 'a going that somebody tells of is not applied at once';
becomes(1, 1, 'confirmed', 'it is, once its author says so');
is asked('repo.getRecord'), 1, '... who was asked once';
is asked('repo.getRecord', repo => $did[1], rkey => $going->{rkey}), 1, '... for this record';
is asked('server.createSession'), 0, '... without signing in';
settled('verified');
is inbound(1), '', 'nothing is left to do';
is $app->admin("SELECT verified FROM rsvp_sync._observed WHERE did = '$did[1]'"), 't', 'observed knows that it is true';
told(1, $going->{rkey}, $going->{cid}, ($app->records(1))[0]{value});
settled('told again');
is asked('repo.getRecord'), 1, 'told again: nobody is asked again';

# --- what is not

told(2, 'never-was', $going->{cid}, record_of(1, 'going'));
settled('a lie');
is row(2, 1), 'none', 'a record that is not there is not applied';
is inbound(2), '', '... and not kept';
is errors('not_confirmed'), 1, '... but counted';
is $app->admin("SELECT count(*) FROM rsvp_sync.rsvp WHERE did = '$did[2]'"), 0, '... nor shown';
my $other = put(2, 2, 'interested');
told(2, $other->{rkey}, $going->{cid}, record_of(2, 'going'));
becomes(2, 2, 'maybe', 'a record that says something else: what is there is taken');
settled('taken');
is $app->admin("SELECT cid FROM rsvp_sync.rsvp WHERE did = '$did[2]'"), $other->{cid}, '... with its cid';

# A PDS that lies about its own records
my $third = put(3, 1, 'going');
my $honest = ($app->records(3))[0]{value};
for my $lie ([ 'wrong_cid', { cid => $going->{cid}, value => $honest } ], [ 'wrong_type', { cid => $third->{cid}, value => { %$honest, '$type' => 'app.bsky.feed.post' } } ]) {
	my ($name, $body) = @$lie;
	$pds->faults({ match => "getRecord.*$id[3]", count => -1, status => 200, body => { uri => $third->{uri}, %$body } });
	told(3, $third->{rkey}, $third->{cid}, $honest);
	ok wait_for { inbound(3) eq 'failed' }, "$name: given up after some tries";
	like inbound(3, 'last_error'), qr/^$name/, '... which says why';
	is inbound(3, 'attempts'), 5, '... as many as max_attempts';
	is row(3, 1), 'none', '... nothing is applied';
	cmp_ok errors($name), '>=', 5, '... each counted';
	$pds->clear_faults;
	$app->admin("DELETE FROM rsvp_sync._inbound; DELETE FROM rsvp_sync._observed WHERE did = '$did[3]'");
}
told(3, $third->{rkey}, $third->{cid}, $honest);
becomes(3, 1, 'confirmed', 'honest again: it is applied');

# --- where it cannot be asked

my $fourth = put(4, 1, 'going');
my $value = ($app->records(4))[0]{value};
$pds->down;
told(4, $fourth->{rkey}, $fourth->{cid}, $value);
ok wait_for { (inbound(4, 'last_error') // '') =~ /host_unreachable/ }, 'its server is down: it waits' or diag $app->admin('SELECT to_jsonb(b) FROM rsvp_sync._inbound b');
cmp_ok inbound(4, 'attempts'), '<=', 1, '... which costs no tries';
is row(4, 1), 'none', '... nothing is applied';
$pds->up;
becomes(4, 1, 'confirmed', 'it is up again: it is applied');
settled('after the outage');

my $internal = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 10);
$pds->faults({ on => 'plc', match => $did[5], count => -1, status => 200, body => { id => $did[5], service => [ { id => '#atproto_pds', type => 'AtprotoPersonalDataServer', serviceEndpoint => 'http://127.0.0.1:' . $internal->sockport } ] } });
told(5, 'inside', $going->{cid}, record_of(1, 'going'));
ok wait_for { (inbound(5) // '') eq 'failed' }, 'a PDS at a private address is not asked';
like inbound(5, 'last_error'), qr/^forbidden/, '... and that is why';
ok !IO::Select->new($internal)->can_read(0), '... nobody was called';
$pds->clear_faults;
$app->admin("DELETE FROM rsvp_sync._inbound; DELETE FROM rsvp_sync._identity WHERE did = '$did[5]'; DELETE FROM rsvp_sync._observed WHERE did = '$did[5]'");
is $app->admin(sprintf "SELECT rsvp_sync._ingest('stream', ARRAY['did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'], ARRAY[rsvp_sync.tid_now()], ARRAY['create'], ARRAY['x'], ARRAY['%s'], ARRAY['%s'], ARRAY[1::bigint], false)", $going->{cid}, json(record_of(1, 'going'))), 1, 'an account that does not exist';
settled('nobody');
is $app->admin("SELECT count(*) FROM rsvp_sync._inbound"), 0, '... is not asked for ever';

# --- several of one account

my @many = map { put(6, $_, 'going') } 1 .. 6;
my %value = map { $_->{uri} => $_->{value} } $app->records(6);
$pds->clear_log;
$app->admin(sprintf "SELECT rsvp_sync._ingest('stream', ARRAY[%s], ARRAY[%s], ARRAY[%s], ARRAY[%s], ARRAY[%s], ARRAY[%s], ARRAY[%s], false)",
	join(',', map { "'$did[6]'" } @many), join(',', map { 'rsvp_sync.tid_now()' } @many), join(',', map { "'create'" } @many), join(',', map { "'$_->{rkey}'" } @many),
	join(',', map { "'$_->{cid}'" } @many), join(',', map { "'" . json($value{ $_->{uri} }) . "'" } @many), join(',', map { '1::bigint' } @many));
becomes(6, $_, 'confirmed', "several of one account: event $_") for 1 .. 6;
is asked('repo.listRecords', cursor => undef), 1, '... by one list';
is asked('repo.getRecord'), 0, '... and not one by one';

# --- an account that has moved

sub migrate {
	my (@step) = @_;
	my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', repo_root() . '/test/pds/migrate.mjs', $step[0], $pds->state_file, $new->state_file, @step[1 .. $#step] ]);
	die $err if $status;
	return;
}
my $moving = put(7, 1, 'going');
my $moving_value = ($app->records(7))[0]{value};
migrate('copy', 7);
migrate('move', 7);
$pds->client('deactivate', 7);
$app->admin(sprintf "INSERT INTO rsvp_sync._identity (did, pds, resolved_at, looked_at) VALUES ('%s', '%s', now(), now() - interval '10 minutes')", $did[7], $pds->url);
told(7, $moving->{rkey}, $moving->{cid}, $moving_value);
becomes(7, 1, 'confirmed', 'an account that has moved is asked where it is now');
ok scalar($new->log(call => qr/getRecord/)), '... on its new server';

# --- an account that is deactivated

my $eighth = put(8, 1, 'going');
$value = ($app->records(8))[0]{value};
$pds->client('deactivate', 8);
told(8, $eighth->{rkey}, $eighth->{cid}, $value);
settled('deactivated');
is row(8, 1), 'none', 'a deactivated account says nothing';
is $app->admin("SELECT status FROM rsvp_sync._repo WHERE did = '$did[8]'"), 'deactivated', '... which is known of it';
$pds->client('activate', 8);
$app->admin("SELECT rsvp_sync._read_remote(ARRAY['$did[8]'], 'reactivated')");
becomes(8, 1, 'confirmed', 'activated again, and read: its answer is applied');
is $app->admin("SELECT active FROM rsvp_sync._repo WHERE did = '$did[8]'"), 't', '... and it is shown again';

# --- the worker dies while it asks

$pds->faults({ match => "getRecord.*$id[5]", count => -1, hang => 1 });
my $fifth = put(5, 2, 'going');
told(5, $fifth->{rkey}, $fifth->{cid}, ($app->records(5))[0]{value});
ok wait_for { asked('repo.getRecord', repo => $did[5]) }, 'it is asked';
$pg->kill9_worker('rsvp_sync worker');
$pds->clear_faults;
ok wait_for { eval { $app->admin('SELECT 1') } }, 'the worker dies';
becomes(5, 2, 'confirmed', '... and the next one asks again');
settled('after the crash');

# --- reading accounts

sub read_now { my ($account, $why) = @_; $app->admin(sprintf "SELECT rsvp_sync._read_remote(ARRAY['%s'], '%s')", $did[$account], $why // 'gap'); return settled("account $account is read") }
$pds->clear_log;
read_now(1);
is asked('sync.getLatestCommit', repo => $did[1]), 1, 'the head is asked for';
is asked('repo.listRecords', cursor => undef, repo => $did[1]), 1, '... then the records';
read_now(1);
is asked('sync.getLatestCommit', repo => $did[1]), 2, 'once more: the head';
is asked('repo.listRecords', cursor => undef, repo => $did[1]), 1, '... is the same, that is all';
put(1, 3, 'going');
put(1, 1, 'interested', $going->{rkey});
$pds->client('put-rsvp', 1, 'at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/unknown', $event{1}{cid}, 'going', 'unrelated');
read_now(1);
is row(1, 3), 'confirmed', 'what was missed is applied';
is row(1, 1), 'maybe', '... and what was changed';
is $app->admin("SELECT count(*) FROM rsvp_sync._observed WHERE did = '$did[1]' AND rkey = 'unrelated'"), 0, 'what concerns nobody here is not stored';
is $app->admin("SELECT count(*) FROM rsvp_sync._stranger WHERE did = '$did[1]' AND rkey = 'unrelated'"), 1, '... but that it is there';
$pds->client('delete-record', 1, $going->{uri});
read_now(1);
is row(1, 1), 'cancelled', 'what is gone is cancelled';
is row(1, 3), 'confirmed', '... and nothing else';
is_deeply [ $app->writes ], [], 'nothing was written to the network';

# deleted, they say
$app->admin("SELECT rsvp_sync._ingest_accounts(ARRAY['$did[1]'], ARRAY[false], ARRAY['deleted'], ARRAY[(extract(epoch FROM now()) * 1000000)::bigint])");
settled('said to be deleted');
is row(1, 3), 'confirmed', 'an account that somebody says is deleted, and is not';
is $app->admin("SELECT active FROM rsvp_sync._repo WHERE did = '$did[1]'"), 't', '... is what it is';
$pds->faults({ match => "getLatestCommit.*$id[1]", count => -1, status => 400, body => { error => 'RepoNotFound', message => 'no' } });
$app->admin("SELECT rsvp_sync._ingest_accounts(ARRAY['$did[1]'], ARRAY[false], ARRAY['deleted'], ARRAY[(extract(epoch FROM now()) * 1000000)::bigint + 10])");
settled('deleted');
is row(1, 3), 'cancelled', 'one that is deleted';
is $app->admin("SELECT count(*) FROM rsvp_sync._observed WHERE did = '$did[1]' AND record IS NOT NULL"), 0, '... of which nothing is kept';
is $app->admin("SELECT status FROM rsvp_sync._repo WHERE did = '$did[1]'"), 'deleted', '... but that';
$pds->clear_faults;

# down
$pds->down;
$app->admin("SELECT rsvp_sync._read_remote(ARRAY['$did[2]'], 'gap')");
ok wait_for { $app->admin("SELECT last_error FROM rsvp_sync._reading WHERE did = '$did[2]'") =~ /host_unreachable/ }, 'its server is down: it is read later';
$pds->up;
ok wait_for { $app->admin("SELECT last_error IS NULL AND listed_at IS NOT NULL FROM rsvp_sync._reading WHERE did = '$did[2]'") eq 't' }, '... when it is up again'
	or diag $app->admin('SELECT to_jsonb(r) FROM rsvp_sync._reading r');

# --- reconcile() that reads

put(2, 4, 'going');
$app->sql("SELECT rsvp_sync.reconcile('attendance')");
settled('reconciled');
is row(2, 4), 'none', 'reconcile() asks nobody by itself';
$app->sql("SELECT rsvp_sync.attach('attendance', options => '{\"read_remote\": true}')");
$pds->clear_log;
$app->sql("SELECT rsvp_sync.reconcile('attendance')");
settled('reconciled');
is row(2, 4), 'confirmed', 'with option read_remote a database without a stream converges';
cmp_ok asked('sync.getLatestCommit'), '>=', 5, '... by the heads of all accounts';
is asked('repo.listRecords', cursor => undef, repo => $did[2]), 1, '... and a list where something happened';
$app->sql("SELECT rsvp_sync.attach('attendance', options => '{\"read_remote\": \"1 day\"}')");
$pds->clear_log;
$app->sql("SELECT rsvp_sync.reconcile('attendance')");
settled('reconciled');
is asked('sync.getLatestCommit'), 0, 'with an interval, those that were read since are left alone';
for my $bad ('"often"', '"-1 day"', '7') {
	like $app->fails("SELECT rsvp_sync.attach('attendance', options => '{\"read_remote\": $bad}')"), qr/invalid value for option "read_remote".*HINT/s, "read_remote $bad";
}
$app->sql("SELECT rsvp_sync.attach('attendance', options => '{\"read_remote\": true}')");
put(2, 5, 'interested');
$app->admin("ALTER SYSTEM SET rsvp_sync.reconcile_interval = '1s'");
$pg->reload;
becomes(2, 5, 'maybe', 'a pass in the background reads them, too');
$app->admin("ALTER SYSTEM RESET rsvp_sync.reconcile_interval");
$pg->reload;

# --- counted

sub metric { my ($name, $labels) = @_; return $app->admin("SELECT coalesce(sum(value), 0) FROM rsvp_sync.metrics() WHERE name = 'rsvp_integration_$name' AND labels @> '$labels'") }
for my $kind ([ process => 'create', 'update' ], [ delete => 'delete' ]) {
	my ($operation, @parts) = @$kind;
	my $n = 0;
	$n += metric('processed_total', qq({"source_type": "bluesky", "operation": "$_"})) for @parts;
	cmp_ok $n, '>', 0, "what was verified or read is counted: $operation";
	is metric('processing_duration_seconds_count', qq({"source_type": "bluesky", "operation": "$operation"})), $n, '... and timed';
}

# --- forgotten

$app->admin("SELECT rsvp_sync.forget('$did[2]')");
is $app->admin("SELECT count(*) FROM rsvp_sync._reading WHERE did = '$did[2]'"), 0, 'forget() forgets that';
$app->admin("SELECT rsvp_sync._read_remote(ARRAY['$did[2]'], 'gap')");
is $app->admin("SELECT count(*) FROM rsvp_sync._reading WHERE did = '$did[2]'"), 0, '... and nobody is read who was forgotten';
unlike $pg->log_text, qr/PANIC|TRAP|cannot be recorded|could not be recorded/, 'the log is quiet';

done_testing;
