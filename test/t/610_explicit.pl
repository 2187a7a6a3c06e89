# create_rsvp() and delete_rsvp(): answers without an attendance row.  They go
# the same way as rows do, for the role that made the call.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 9);
my $pds = $app->pds;
my $pg = $app->pg;
$app->plan_schema;
$app->role('other');
$app->admin("SELECT rsvp_sync.grant_application('$_')") for qw(app other);
my %event = map { $_ => $app->event($_, 0) } 1 .. 6;
my @did = map { $pds->did($_) } 0 .. 8;
$app->connect_account($_) for 1 .. 5;

sub create { my ($account, $event, $status, %opt) = @_; return $app->sql(sprintf("SELECT rsvp_sync.create_rsvp('%s', '%s', '%s'%s)", $did[$account], $event{$event}{uri}, $status, $opt{tenant} ? ", '$opt{tenant}'" : ''), %opt) }
sub take_back { my ($uri, $account, %opt) = @_; return $app->sql("SELECT rsvp_sync.delete_rsvp('$uri', '$did[$account]')", %opt) }
sub refused { my ($sql, %opt) = @_; my (undef, undef, $err) = $pg->psql('app', "\\set VERBOSITY verbose\n$sql", user => 'app', %opt); my ($code) = $err =~ /ERROR:\s+(\w{5}):/; return ($code // 'none') . ($err =~ /HINT:/ ? '' : ' without a hint') }
sub rkey { return $_[0] =~ s{.*/}{}r }
sub elsewhere { my ($account, $event, $status, $rkey) = @_; return $pds->client('put-rsvp', $account, $event{$event}{uri}, $event{$event}{cid}, $status, $rkey // '') }
sub state { my ($uri, %opt) = @_; return $app->sql(sprintf("SELECT concat_ws('/', state, reason_code) FROM rsvp_sync.sync_status('rsvp_sync._explicit', '%s')", rkey($uri)), %opt) }
sub stored { return $app->admin('SELECT count(*) FROM rsvp_sync._explicit WHERE withdrawn_at IS NULL') }

# --- an answer, changed and taken back

is $app->admin('SELECT count(*) FROM rsvp_sync.source'), 0, 'nothing is attached';
$pds->clear_log;
my $uri = create(1, 1, 'going');
like $uri, qr{^at://\Q$did[1]\E/\Q@{[RSVP]}\E/[2-7a-z]{13}$}, 'create_rsvp() returns an at-uri';
$app->idle('going');
my $record = $app->record(1);
is $record->{uri}, $uri, '... which the record has';
my ($ok, $said) = validate_records([$record]);
ok $ok, '... as the lexicon demands' or diag $said;
is_deeply $record->{value}{subject}, { uri => $event{1}{uri}, cid => $event{1}{cid} }, '... about the event';
is $app->said(1), 'going', '... going';
is state($uri), 'done/published', 'sync_status() knows it by its record key';
is $app->sql('SELECT kind FROM rsvp_sync.source'), 'explicit', 'the view source shows what it is';
is $app->sql("SELECT count(*) FROM rsvp_sync.status WHERE uri = '$uri'"), 1, 'and so does status';
is $app->sql("SELECT count(*) FROM rsvp_sync.history WHERE uri = '$uri'"), 1, 'and history';
is $app->sql('SELECT count(*) FROM rsvp_sync.status', user => 'other'), 0, 'another role sees none of it';
is refused("SELECT * FROM rsvp_sync.sync_status('rsvp_sync._explicit', '" . rkey($uri) . "')", user => 'other'), '42501', '... nor by name';
is refused("SELECT * FROM rsvp_sync.preview('rsvp_sync._explicit')"), '42501', 'nobody sees all of them';
is $app->sql(sprintf "SELECT action FROM rsvp_sync.preview('rsvp_sync._explicit', '%s')", rkey($uri)), 'nothing', 'preview() of the own one';
like $app->sql(sprintf "SELECT rsvp_sync.explain_sync('rsvp_sync._explicit', '%s')", rkey($uri)), qr/says 'going'.*published/s, 'and explain_sync()';

$pds->clear_log;
is create(1, 1, RSVP . '#interested'), $uri, 'changed, by the full token: the same record';
$app->idle('interested');
is $app->said(1), 'interested', '... says so';
is create(1, 1, 'notgoing'), $uri, 'declined';
$app->idle('notgoing');
is $app->said(1), 'notgoing', '... is an answer, too';
is_deeply [ $app->writes ], [qw(put put)], '... by one write each';
create(1, 1, 'notgoing');
$app->idle('again');
is_deeply [ $app->writes ], [qw(put put)], 'the same once more is none';
is $app->admin('SELECT rsvp_sync.reconcile()'), 0, 'nothing is left to do';
is stored(), 1, 'one row an account and event';

is take_back($uri, 1), 't', 'delete_rsvp()';
$app->idle('taken back');
is $app->said(1), 'none', '... deletes the record';
is take_back($uri, 1), 'f', 'once more: there is no such record';
is $app->sql("SELECT count(*) FROM rsvp_sync.history WHERE uri = '$uri' AND action = 'delete'"), 1, '... and the history stays to be seen';
is $app->admin("SELECT count(*) FROM rsvp_sync._intent"), 0, 'no intent is left';

# --- before anything is sent

$app->admin("SELECT rsvp_sync.pause('rsvp_sync._explicit')");
my $never = create(1, 2, 'going');
is take_back($never, 1), 't', 'created and taken back before it is sent';
my $declined = create(1, 3, 'going');
is create(1, 3, 'notgoing'), $declined, 'going, and declined at once';
is $app->sql("BEGIN; SELECT rsvp_sync.create_rsvp('$did[2]', '$event{2}{uri}', 'going') IS NOT NULL; ROLLBACK"), 't', 'rolled back';
$pds->clear_log;
$app->admin("SELECT rsvp_sync.resume('rsvp_sync._explicit')");
$app->idle('resumed');
is_deeply [ $app->writes ], ['put'], 'one write';
is $app->said(1), 'notgoing', '... of what was said last, though it was never published otherwise';
is scalar($app->records(2)), 0, 'what was rolled back was never said';

# --- records that are there

my $theirs = elsewhere(2, 1, 'going', '3lzzzzzzzzzz2');
$pds->clear_log;
my $told = create(2, 1, 'interested');
isnt $told, $theirs->{uri}, 'nobody has seen the record of another application';
$app->idle('adopted');
is $app->record(2)->{uri}, $theirs->{uri}, 'it is adopted';
is $app->said(2), 'interested', '... and says what was said here';
is $app->sql(sprintf "SELECT uri FROM rsvp_sync.sync_status('rsvp_sync._explicit', '%s')", rkey($told)), $theirs->{uri}, 'sync_status() tells the real uri';
is create(2, 1, 'interested'), $theirs->{uri}, '... and so does create_rsvp() now';
is take_back($told, 2), 't', 'delete_rsvp() takes the uri that was told first';
$app->idle('taken back');
is $app->said(2), 'none', '... and deletes the record';

$theirs = elsewhere(2, 2, 'going', '3lzzzzzzzzzz3');
$told = create(2, 2, 'going');
$app->idle('adopted as it is');
is take_back($theirs->{uri}, 2), 't', 'delete_rsvp() takes the real uri, too';
$app->idle('taken back');
is $app->said(2), 'none', '... and deletes a record that we never wrote: it was asked to';

elsewhere(2, 6, 'going', '3lzzzzzzzzzz6');
$told = create(2, 6, 'going');
$app->idle('adopted as it is');
take_back($told, 2);
$app->idle('taken back');
is $app->said(2), 'none', '... by the uri that was told first, too';

# known before
$theirs = elsewhere(2, 3, 'going', '3lzzzzzzzzzz4');
$app->admin(sprintf "SELECT rsvp_sync._observe('%s', '3lzzzzzzzzzz4', '%s', '%s', NULL, 'list', now())", $did[2], $theirs->{cid}, json($app->record(2)->{value}));
is create(2, 3, 'notgoing'), $theirs->{uri}, 'a record that is known: its uri is told at once';
is take_back($theirs->{uri}, 2), 't', 'and taken back before anything was planned';
$app->idle('both');
is $app->said(2), 'none', '... is gone';

# any other
$theirs = elsewhere(2, 4, 'going', 'their-own-key');
is take_back($theirs->{uri}, 2), 't', 'a record that nobody here has seen';
$app->idle('deleted');
is $app->said(2), 'none', '... is read and deleted';
is take_back("at://$did[2]/" . RSVP . '/never-there', 2), 't', 'one that was never there is looked for';
$app->idle('looked for');
is take_back("at://$did[2]/" . RSVP . '/never-there', 2), 'f', '... and known not to be there';

# changed elsewhere meanwhile
$uri = create(2, 5, 'going');
$app->idle('published');
elsewhere(2, 5, 'interested', rkey($uri));
$app->admin(sprintf "SELECT rsvp_sync._observe('%s', '%s', '%s', '%s', NULL, 'list', now())", $did[2], rkey($uri), $app->record(2)->{cid}, json($app->record(2)->{value}));
is create(2, 5, 'going'), $uri, 'changed elsewhere, and said again';
$app->idle('said again');
is $app->said(2), 'going', '... it says what was said last';
$pds->client('delete-record', 2, $uri);
$app->admin(sprintf "SELECT rsvp_sync._observe('%s', '%s', NULL, NULL, NULL, 'list', now())", $did[2], rkey($uri));
$app->admin("SELECT rsvp_sync.reconcile()");
$app->idle('deleted elsewhere');
is $app->said(2), 'none', 'deleted elsewhere: it stays so';
create(2, 5, 'going');
$app->idle('said once more');
is $app->said(2), 'going', '... until it is said again';
take_back($app->record(2)->{uri}, 2);
$app->idle('cleared');

# --- beside an attached table

$app->user(3, 3, connect => 0);
$app->attach("'attendance'");
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (1, 1, 3)');
$app->idle('an attendance row');
my $row = $app->record(3);
is refused("SELECT rsvp_sync.delete_rsvp('$row->{uri}', '$did[3]')"), '55000', "an attendance row's record is not deleted behind its back";
is create(3, 1, 'interested'), $row->{uri}, 'an explicit answer about the same event: the same record';
$app->idle('explicit');
is $app->said(3), 'interested', '... which says what was said last';
is $app->state('attendance', 1), 'superseded/superseded', '... the row stands back';
is $app->sql('SELECT status FROM attendance WHERE id = 1'), 'maybe', '... and says so, too';
is take_back($row->{uri}, 3), 't', 'taken back';
$app->idle('taken back');
is $app->said(3), 'none', '... the record goes: the row has only mirrored it';
is $app->sql('SELECT status FROM attendance WHERE id = 1'), 'cancelled', '... and is cancelled';
$app->sql('DELETE FROM attendance');
$app->idle('deleted');
is $app->said(3), 'none', 'and goes with its row';

# --- who may

is refused("SELECT rsvp_sync.create_rsvp('$did[4]', '$event{1}{uri}', 'going')", user => 'other'), '42501', "another role's account";
is refused("SELECT rsvp_sync.delete_rsvp('at://$did[4]/" . RSVP . "/x', '$did[4]')", user => 'other'), '42501', '... nor its records';
$app->sql("SELECT rsvp_sync.grant_account('$did[4]', 'other')");
my $granted = create(4, 1, 'going', user => 'other');
$app->idle('granted');
is $app->said(4), 'going', 'one that was granted';
$app->sql("SELECT rsvp_sync.revoke_account('$did[4]', 'other')");
is refused("SELECT rsvp_sync.create_rsvp('$did[4]', '$event{1}{uri}', 'notgoing')", user => 'other'), '42501', '... until that is taken back';
$app->admin("UPDATE rsvp_sync._explicit SET status = 'notgoing' WHERE owner = 'other'::regrole; SELECT rsvp_sync.reconcile()");
$app->idle('revoked');
is $app->said(4), 'going', "... nothing is sent for the role any more";
is state($granted, user => 'other'), 'blocked/account_not_granted', '... it sees why';
$app->sql("SELECT rsvp_sync.grant_account('$did[4]', 'other')");
$app->idle('granted again');
is $app->said(4), 'notgoing', 'granted again: it goes on';

# not connected yet
my $waiting = create(6, 1, 'going');
$app->idle('not connected');
is state($waiting), 'blocked/no_account', 'an account that is not connected: it waits, and says so';
is refused("SELECT rsvp_sync.create_rsvp('$did[6]', '$event{1}{uri}', 'notgoing')", user => 'other'), '42501', 'another role cannot change it';
is refused("SELECT rsvp_sync.delete_rsvp('$waiting', '$did[6]')", user => 'other'), '42501', '... nor take it back';
is $app->admin("SELECT count(*) FROM rsvp_sync._explicit WHERE did = '$did[6]' AND withdrawn_at IS NULL"), 1, '... which changes nothing';
$app->sql("SELECT rsvp_sync.connect_account('$did[6]', '" . $pds->password(6) . "')", user => 'other');
$app->idle('connected by another role');
is state($waiting), 'blocked/account_not_granted', 'connected by another role: it is not spoken for';
is scalar($app->records(6)), 0, '... nothing is written';
$app->sql("SELECT rsvp_sync.grant_account('$did[6]', 'app')", user => 'other');
$app->idle('granted');
is $app->record(6)->{uri}, $waiting, 'granted: it is, under the uri that was told';
is $app->sql("SELECT rsvp_sync.delete_rsvp('at://$did[7]/" . RSVP . "/x', '$did[7]')"), 'f', 'an account that nobody has connected has no record that we could delete';
create(7, 1, 'going');
$app->idle('not connected');
create(7, 1, 'notgoing');
$app->connect_account(7);
$app->idle('connected');
is $app->said(7), 'notgoing', 'declined before it could be said: it is said all the same';

# --- failing, and trying again

$pds->faults({ match => 'putRecord', count => -1, status => 400, body => { error => 'InvalidRequest', message => 'no' } });
my $failing = create(5, 1, 'going');
$app->idle('refused');
is state($failing), 'failed/refused', 'what a PDS refuses has failed';
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 1, '... the view shows it to the caller';
is $app->sql('SELECT count(*) FROM rsvp_sync.failed', user => 'other'), 0, '... and to nobody else';
is $app->sql('SELECT rsvp_sync.retry()', user => 'other'), 0, "another role's retry() is not about it";
$pds->clear_faults;
is $app->sql('SELECT rsvp_sync.retry()'), 1, 'retry()';
$app->idle('retried');
is state($failing), 'done/published', '... tries it again';
is $app->sql(sprintf "SELECT rsvp_sync.retry('rsvp_sync._explicit', '%s')", rkey($failing)), 1, 'so does retry() of this one';
is refused(sprintf("SELECT rsvp_sync.retry('rsvp_sync._explicit', '%s')", rkey($failing)), user => 'other'), '42501', '... for whoever made the call';

# --- the source is ours

is refused("SELECT rsvp_sync.detach('rsvp_sync._explicit')", user => 'postgres'), '42809', 'it cannot be detached';
is refused("SELECT rsvp_sync.attach('rsvp_sync._explicit')", user => 'postgres'), '42809', '... nor attached';
$app->admin('SELECT rsvp_sync.detach_all()');
is $app->admin("SELECT string_agg(kind, ' ') FROM rsvp_sync.source"), 'explicit', '... not even by detach_all()';
unlike $app->admin("SELECT string_agg(d::text, ' ') FROM rsvp_sync.doctor() d"), qr/_explicit/, 'doctor() has nothing to say of it';
is $app->sql("SELECT rsvp_sync.wait_until_idle('1 s', 'rsvp_sync._explicit')"), 't', 'wait_until_idle() of it alone';
is refused("BEGIN; SELECT rsvp_sync.create_rsvp('$did[5]', '$event{2}{uri}', 'going'); SELECT rsvp_sync.wait_until_idle('1 s')"), '25000', '... not in the transaction of the call';

# --- the worker dies in between

$pds->faults({ match => 'putRecord', count => 1, after => JSON::PP::true, did => $did[5] });
my $lost = create(5, 3, 'going');
$pg->kill9_worker('rsvp_sync worker');
ok wait_for { eval { $app->admin('SELECT 1') } }, 'the server recovers';
$app->idle('the worker died');
is_deeply [ map { $_->{uri} } grep { $_->{value}{subject}{uri} eq $event{3}{uri} } $app->records(5) ], [$lost], 'one record, under the uri that was told';

# --- a dump

my $dump = $pg->as_pg([ $pg->bin('pg_dump'), '-h', $pg->host, '-p', $pg->port, '-U', 'postgres', '-d', 'app' ]);
$pg->create_db('copy', extension => 0);
my ($status, undef, $err) = $pg->psql('copy', $dump, user => 'postgres');
is $status, 0, 'a dump can be restored' or diag $err;
is $pg->safe_psql('copy', 'SELECT count(*) FROM rsvp_sync._explicit'), $app->admin('SELECT count(*) FROM rsvp_sync._explicit'), '... with the answers';
is $pg->safe_psql('copy', "SELECT attendance = 'rsvp_sync._explicit'::regclass FROM rsvp_sync.source"), 't', '... and their source';
$pg->safe_psql('copy', 'SELECT rsvp_sync.activate()');
is $pg->safe_psql('copy', "SELECT rsvp_sync.create_rsvp('$did[5]', '$event{3}{uri}', 'going')", user => 'app'), $lost, '... which goes on';
is $pg->safe_psql('copy', 'SELECT count(*) FROM rsvp_sync._source'), 1, '... as one source';
$pds->clear_log;
is $pg->safe_psql('copy', "SELECT rsvp_sync.wait_until_idle('30 s')"), 't', '... reads what there is';
is_deeply [ $app->writes ], [], '... and has nothing to write';

# --- a person leaves

my $export = from_json($app->sql("SELECT rsvp_sync.export('$did[5]')"));
is_deeply [ sort map { $_->{id} } @{ $export->{calls} } ], [ sort map { rkey($_) } $failing, $lost ], 'export() has the calls';
is_deeply from_json($app->sql("SELECT rsvp_sync.export('$did[8]')", user => 'other'))->{calls}, [], '... and an empty list where there are none';
$app->sql("SELECT rsvp_sync.forget('$did[5]')");
$app->idle('forgotten');
ok wait_for { $app->admin("SELECT count(*) FROM rsvp_sync._account WHERE did = '$did[5]'") eq '0' }, 'forget(): the account goes';
is scalar($app->records(5)), 0, '... its records are withdrawn';
is $app->admin("SELECT count(*) FROM rsvp_sync._explicit WHERE did = '$did[5]'"), 0, '... nothing of what was said stays';
is $app->admin("SELECT count(*) FROM rsvp_sync._intent i JOIN rsvp_sync._source s USING (source_id) WHERE i.key IN ('" . join("', '", map { rkey($_) } $failing, $lost) . "')"), 0, '... nor what was planned for it';
is refused("SELECT rsvp_sync.create_rsvp('$did[5]', '$event{1}{uri}', 'going')"), '55000', '... and nothing more is said for him';
create(8, 1, 'going');
$app->sql("SELECT rsvp_sync.forget('$did[8]')", user => 'other');
is $app->admin("SELECT count(*) FROM rsvp_sync._explicit WHERE did = '$did[8]'"), 1, "another role's forget() of an account that is not connected";
$app->sql("SELECT rsvp_sync.forget('$did[8]')");
is $app->admin("SELECT count(*) FROM rsvp_sync._explicit WHERE did = '$did[8]'"), 0, '... and the own one';
unlike $pg->log_text, qr/PANIC|TRAP|cannot be read/, 'the log is quiet';

done_testing;
