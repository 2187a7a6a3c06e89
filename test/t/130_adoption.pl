# One record per account and event, whichever application wrote it: what is
# there is adopted, what others change is merged.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 8);
my $pds = $app->pds;
$app->plan_schema;
my %event = map { $_ => $app->event($_, 0) } 1 .. 3;
$app->user($_, $_) for 1 .. 7;
$app->attach("'attendance'");

# elsewhere(account, event, status [, rkey, extra]): as another application would write it
sub elsewhere { my ($account, $event, $status, $rkey, %extra) = @_; return $pds->client('put-rsvp', $account, $event{$event}{uri}, $event{$event}{cid}, $status, $rkey // '', %extra ? json(\%extra) : ()) }

# insert(id, event, user, status)
sub insert { my ($id, $event, $user, $status) = @_; $app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES ($id, $event, $user, '$status')"); $app->idle("row $id"); return }

sub rkey { return $_[0]{uri} =~ s{.*/}{}r }

# --- adopted

my %extra = (createdAt => '2025-01-02T03:04:05.678Z', note => 'window seat', 'app.example#guests' => [ { name => 'Ada' }, 2 ], facets => {});
elsewhere(1, 1, 'going', '3lzzzzzzzzzzz', %extra, subject => { uri => $event{1}{uri}, cid => $event{1}{cid}, via => 'app.example' });
my $theirs = $app->record(1);
$pds->clear_log;
insert(1, 1, 1, 'confirmed');
is_deeply $app->record(1), $theirs, 'a record that says the same already: adopted as it is';
is_deeply [ $app->attempts ], [], '... nothing is sent';
is_deeply [ @{ $app->status('attendance', 1) }{qw(state reason_code uri cid)} ], [ 'done', 'published', @$theirs{qw(uri cid)} ], '... the row knows it';
is $app->metadata(1)->{blueskyRsvpUri}, $theirs->{uri}, '... and is told';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 1");
$app->idle('maybe');
my $now = $app->record(1);
is $app->said(1), 'interested', 'then changed';
is $now->{uri}, $theirs->{uri}, '... under the same key';
is_deeply $now->{value}, { %{ $theirs->{value} }, status => RSVP . '#interested' }, '... createdAt, unknown fields and those of the subject stay';
is_deeply [ $app->writes ], ['put'], '... by one write';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... nothing is left to do';

$app->sql("UPDATE attendance SET status = 'rejected' WHERE id = 1");
$app->idle('rejected');
is $app->said(1), 'interested', "a status that is not published does not take an adopted record away";
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 1");
$app->idle('maybe again');
$app->sql('DELETE FROM attendance WHERE id = 1');
$app->idle('row deleted');
is $app->said(1), 'none', 'the row is deleted: the record, which we have written since, too';

elsewhere(1, 2, 'going', '3lzzzzzzzzzz2');
insert(2, 2, 1, 'confirmed');
$app->sql('DELETE FROM attendance WHERE id = 2');
$app->idle('row deleted');
is $app->said(1), 'going', 'one that we never wrote stays';
insert(2, 2, 1, 'invited');
is_deeply [ $app->said(1), $app->state('attendance', 2) ], [ 'going', 'withheld/status_not_published' ], 'invited: a record of the user is left alone';
$app->sql("UPDATE attendance SET status = 'rejected' WHERE id = 2");
$app->idle('rejected');
is $app->said(1), 'going', 'rejected by the host: so is it';

# A subject that is a mere string, a status without its lexicon's name, of others
for my $form ([ 'short status', sub { $_[0]{status} = 'going' } ], [ 'subject as a string', sub { $_[0]{subject} = $event{3}{uri} } ]) {
	my ($name, $change) = @$form;
	my %fields = (status => RSVP . '#going', subject => { uri => $event{3}{uri}, cid => $event{3}{cid} });
	$change->(\%fields);
	my $put = elsewhere(1, 3, 'going', undef, %fields);
	insert(3, 3, 1, 'confirmed');
	is $app->status('attendance', 3)->{uri}, $put->{uri}, "$name: adopted";
	$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 3");
	$app->idle($name);
	my ($record) = grep { $_->{uri} eq $put->{uri} } $app->records(1);
	my ($ok, $said) = validate_records([$record]);
	ok $ok, '... and put right when it is written' or diag $said;
	is RsvpSyncApp::word($record), 'interested', '... with its new status';
	$app->sql('DELETE FROM attendance WHERE id = 3');
	$app->idle('deleted');
	is scalar(grep { $_->{uri} eq $put->{uri} } $app->records(1)), 0, '... and deleted with the row';
}

# --- both sides say something

# conflict(option, remote, its createdAt, local, expected)
my $row = 10;
for my $case (
	[ 'latest', 'notgoing', '2024-05-05T05:05:05.000Z', 'confirmed', 'going', 'the row is newer' ],
	[ 'local', 'notgoing', undef, 'maybe', 'interested', 'the row wins' ],
	[ 'remote', 'notgoing', '2024-05-05T05:05:05.000Z', 'confirmed', 'notgoing', 'the record wins' ],
) {
	my ($option, $remote, $created, $local, $result, $name) = @$case;
	$app->attach("'attendance', options => '{\"conflict\": \"$option\"}'");
	my $put = elsewhere(2, 1, $remote, undef, $created ? (createdAt => $created) : ());
	$pds->clear_log;
	insert(++$row, 1, 2, $local);
	is $app->said(2), $result, "conflict $option: $name";
	is $app->record(2)->{uri}, $put->{uri}, '... in the one record';
	is_deeply [ $app->writes ], [ $result eq $remote ? () : 'put' ], '... by no more writes than it takes';
	is $app->state('attendance', $row), 'done/published', '... which sync_status says';
	is $app->sql("SELECT status FROM attendance WHERE id = $row"), $result eq 'notgoing' ? 'cancelled' : $local, '... as does the row';
	my ($word, $rsvp) = $local eq 'maybe' ? ('attended', 'going') : ('maybe', 'interested');
	$app->sql("UPDATE attendance SET status = '$word' WHERE id = $row");
	$app->idle('later change');
	is $app->said(2), $rsvp, '... a later change of the row alone counts in any case';
	$app->sql("DELETE FROM attendance WHERE id = $row");
	$app->idle('deleted');
	$pds->client('delete-record', 2, $_->{uri}) for $app->records(2);
}
$app->attach("'attendance', options => '{\"conflict\": null}'");

# The remote one is the later: written after the row, before it was planned.
$app->sql("SELECT rsvp_sync.pause('attendance')");
$app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES (20, 1, 2, 'confirmed')");
my $later = elsewhere(2, 1, 'notgoing');
$app->sql("SELECT rsvp_sync.resume('attendance')");
$app->idle('resumed');
is_deeply [ $app->said(2), $app->state('attendance', 20), $app->sql('SELECT status FROM attendance WHERE id = 20') ], [ 'notgoing', 'done/published', 'cancelled' ], 'conflict latest: the record is newer, and the row says so, too';

# --- changed elsewhere between two writes of ours

insert(30, 1, 3, 'confirmed');
my $ours = $app->record(3);
elsewhere(3, 1, 'going', rkey($ours), %{ $ours->{value} }, note => 'added elsewhere');
$pds->clear_log;
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 30");
$app->idle('changed on both sides');
$now = $app->record(3);
is $now->{uri}, $ours->{uri}, 'changed elsewhere, then here: the same record';
is $now->{value}{note}, 'added elsewhere', '... what was added elsewhere stays';
is $app->said(3), 'interested', '... the status is the one changed last, ours';
like join(' ', map { $_->{status} } $app->attempts), qr/^400 (400 )?200$/, '... after the PDS refused what was based on the old one';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... nothing is left to do';

$ours = $app->record(3);
elsewhere(3, 1, 'going', rkey($ours), %{ $ours->{value} }, note => 'changed elsewhere', status => RSVP . '#going');
$app->sql('DELETE FROM attendance WHERE id = 30');
$app->idle('deleted');
is $app->said(3), 'going', 'changed elsewhere since: not removed with the row';
$pds->client('delete-record', 3, $ours->{uri});

# --- deleted elsewhere

insert(40, 1, 4, 'confirmed');
$ours = $app->record(4);
$pds->client('delete-record', 4, $ours->{uri});
$app->sql("UPDATE attendance SET note = 'x' WHERE id = 40");
$app->idle('note');
is $app->said(4), 'none', 'deleted elsewhere: not made again for nothing';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 40");
$app->idle('maybe');
is $app->said(4), 'interested', 'a new statement is published';
is_deeply [ $app->state('attendance', 40), $app->status('attendance', 40)->{uri} ], [ 'done/published', $app->record(4)->{uri} ], '... which the row knows';
$pds->client('delete-record', 4, $app->record(4)->{uri});
$app->sql('DELETE FROM attendance WHERE id = 40');
$app->idle('deleted on both sides');
is_deeply [ $app->said(4), $app->status('attendance', 40)->{state} ], [ 'none', undef ], 'deleted on both sides';

# The record that we have seen is replaced by one of another key.
for my $adopted (0, 1) {
	my $seen = $adopted ? elsewhere(4, 3, 'notgoing') : undef;
	insert(43, 3, 4, 'confirmed');
	$seen //= $app->record(4);
	$pds->client('delete-record', 4, $seen->{uri});
	my $new = elsewhere(4, 3, 'notgoing', undef, note => 'anew', createdAt => '2024-05-05T05:05:05.000Z');
	$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 43");
	$app->idle('maybe');
	$now = $app->record(4);
	is $now->{uri}, $new->{uri}, ($adopted ? 'an adopted' : 'our') . ' record replaced elsewhere by another one: that is adopted, no second one made';
	is_deeply [ $app->said(4), $now->{value}{note}, $app->status('attendance', 43)->{uri} ], [ 'interested', 'anew', $new->{uri} ], '... and changed';
	$app->sql('DELETE FROM attendance WHERE id = 43');
	$app->idle('deleted');
	is $app->said(4), 'none', '... and deleted with the row';
}

# Seen a while ago, gone by now.
my $brief = elsewhere(4, 3, 'going');
insert(44, 2, 4, 'confirmed');
is $app->sql("SELECT count(*) FROM rsvp_sync.rsvp WHERE uri = '$brief->{uri}'"), 1, 'a record is seen';
$app->admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker'");
$pds->client('delete-record', 4, $brief->{uri});
is $app->sql('SELECT status FROM attendance WHERE event_id = 3 AND user_id = 4'), 'confirmed', '... and there is a row for it now';
$app->sql("UPDATE attendance SET id = 45, status = 'maybe' WHERE event_id = 3 AND user_id = 4");
$app->idle('row 45');
is_deeply [ sort map { $_->{value}{subject}{uri} } $app->records(4) ], [ sort map { $event{$_}{uri} } 2, 3 ], '... and gone when a row comes for its event: one is made';
$app->sql('DELETE FROM attendance WHERE id IN (44, 45)');
$app->idle('deleted');

# An account that writes other things: nothing of it is in our way.
insert(41, 1, 4, 'confirmed');
$pds->create_event(4, "Event $_") for 1 .. 2;
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (42, 2, 4)');
$app->idle('a second one');
is scalar $app->records(4), 2, 'other writes of the account in between';

# A record that appears while ours is on its way: seen, since the head moved.
$pds->faults({ match => 'putRecord', did => $pds->did(5), hang => 1 });
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (50, 1, 5)');
ok wait_for { scalar $pds->log(call => qr/putRecord/, repo => $pds->did(5)) }, 'a write is on its way';
my $rival = elsewhere(5, 1, 'interested', undef, createdAt => '2024-05-05T05:05:05.000Z');
$pds->clear_faults;
$app->idle('both written');
is scalar $app->records(5), 1, 'another application writes in between: one record, not two';
is_deeply [ $app->record(5)->{uri}, $app->said(5) ], [ $rival->{uri}, 'going' ], '... that one, with our status';

# --- many records, the one of our event on the last page

my $old = elsewhere(6, 1, 'interested', '3aaaaaaaaaaaa', createdAt => '2024-01-01T00:00:00.000Z', note => 'last page');
my $token = $pds->client('session', 6)->{accessJwt};
for my $part (0, 1) {
	my $r = $pds->http->post($pds->url . '/xrpc/com.atproto.repo.applyWrites', {
		headers => { authorization => "Bearer $token", 'content-type' => 'application/json' },
		content => json({ repo => $pds->did(6), writes => [ map { {
			'$type' => 'com.atproto.repo.applyWrites#create', collection => RSVP, rkey => sprintf('3pagersvp%04d', 125 * $part + $_) =~ tr/0189/abcd/r,
			value => { '$type' => RSVP, createdAt => '2025-01-01T00:00:00.000Z', status => RSVP . '#going',
				subject => { uri => sprintf("at://%s/community.lexicon.calendar.event/3kothers%05d", $pds->did(0), 125 * $part + $_), cid => $event{2}{cid} } }
		} } 1 .. 125 ] }) });
	die "$r->{status} $r->{content}" if !$r->{success};
}
is scalar $app->records(6), 251, 'an account with 251 records';
is +($app->records(6))[-1]{uri}, $old->{uri}, '... the one for our event is the last';
$pds->clear_log;
insert(60, 1, 6, 'confirmed');
cmp_ok scalar($pds->log(call => 'com.atproto.repo.listRecords', repo => $pds->did(6))), '>=', 3, 'all pages are read';
is scalar $app->records(6), 251, '... and no second one is made';
$now = ($app->records(6))[-1];
is_deeply [ $now->{uri}, RsvpSyncApp::word($now), $now->{value}{createdAt}, $now->{value}{note} ], [ $old->{uri}, 'going', '2024-01-01T00:00:00.000Z', 'last page' ], '... the one there is is adopted';
is $app->sql("SELECT count(*) FROM rsvp_sync.rsvp WHERE did = '" . $pds->did(6) . "'"), 251, '... and all are observed';
$pds->clear_log;
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 60");
$app->idle('changed');
is scalar($pds->log(call => 'com.atproto.repo.listRecords')), 0, 'they are not read again for a record whose key is known';
insert(61, 2, 6, 'confirmed');
is scalar $app->records(6), 252, 'nothing for another event: a new one';

# --- two records for one event already there

elsewhere(7, 1, 'notgoing', '3lzzzzzzzzzz3', createdAt => '2024-01-01T00:00:00.000Z');
my $newer = elsewhere(7, 1, 'interested', '3lzzzzzzzzzz4', createdAt => '2024-02-01T00:00:00.000Z');
insert(70, 1, 7, 'confirmed');
is scalar $app->records(7), 2, 'two records of others for one event: no third';
is $app->status('attendance', 70)->{uri}, $newer->{uri}, '... the newer one is adopted';

# --- a row takes the record over whose deletion still waits

$pds->down;
$app->sql('DELETE FROM attendance WHERE id = 61');
ok wait_for { $app->admin("SELECT count(*) FROM rsvp_sync.queue WHERE attendance_id = '61' AND waits_for IS NOT NULL") }, 'a row is deleted, its record cannot be';
$app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES (62, 2, 6, 'confirmed')");
ok wait_for { $app->state('attendance', 62) eq 'done/published' }, 'another row for the same person and event says the same: the record is its';
$pds->up;
$app->idle('the PDS is back');
is scalar $app->records(6), 252, '... nothing is removed';
is +($app->metadata(62) // {})->{blueskyRsvpUri}, $app->status('attendance', 62)->{uri}, '... and the row is told';

unlike $app->pg->log_text, qr/ (?:WARNING|ERROR|PANIC):/, 'and the server had nothing to complain of';
done_testing;
