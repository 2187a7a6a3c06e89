# The main path, as an application walks it that owns its tables and is no
# superuser: an attendance row of the plan's schema becomes a record in a real
# PDS, follows the row, and goes with it.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 5);
my $pds = $app->pds;
$app->plan_schema;
my %event = map { $_ => $app->event($_, 0) } 1 .. 4;
$app->user($_, $_) for 1 .. 4;
$app->attach("'attendance'");
is $app->admin("SELECT kind FROM rsvp_sync.source"), 'plan', "the plan's schema is recognised";

# --- one row

my $TID = qr/[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}/;
$pds->clear_log;
$app->sql("INSERT INTO attendance (id, event_id, user_id, metadata) VALUES (1, 1, 1, '{\"seat\": 7}')");
$app->idle('inserted');
my $first = $app->record(1);
ok $first, 'a record' or BAIL_OUT('nothing is published: ' . json($app->status('attendance', 1)) . $app->pg->log_tail);
my ($ok, $said) = validate_records([$first]);
ok $ok, 'as the lexicon demands' or diag $said;
is_deeply $first->{value}{subject}, { uri => $event{1}{uri}, cid => $event{1}{cid} }, "its subject is the event's uri and cid";
is_deeply [ sort keys %{ $first->{value} } ], [qw($type createdAt status subject)], 'it has what it needs and no more';
is $first->{value}{status}, RSVP . '#going', 'confirmed is going';
like $first->{uri}, qr{^at://\Q@{[$pds->did(1)]}\E/\Q@{[RSVP]}\E/$TID$}, 'in the own collection of the user, its key a TID';
is $app->sql("SELECT abs(extract(epoch FROM created_at - '$first->{value}{createdAt}'::timestamptz)) < 0.002 FROM attendance"), 't',
	"createdAt is the row's";
my $status = $app->status('attendance', 1);
is_deeply [ @$status{qw(state reason_code uri cid status attempts)} ], [ 'done', 'published', $first->{uri}, $first->{cid}, 'going', 0 ], 'sync_status says so';
is_deeply $app->metadata(1), { seat => 7, blueskyRsvpUri => $first->{uri}, blueskyRsvpCid => $first->{cid} }, 'the row is told, and keeps what it had';
is_deeply [ $app->writes ], ['put'], 'one write';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, 'nothing is left to do';
is $app->admin("SELECT rsvp_sync.record_cid('" . json($first->{value}) . "')"), $first->{cid}, 'record_cid() agrees with the PDS';

# --- its status changes

for my $step ([ 'maybe', 'interested' ], [ 'cancelled', 'notgoing' ], [ 'attended', 'going' ], [ 'pending', 'interested' ], [ 'waitlist', undef ], [ 'confirmed', 'going' ]) {
	my ($word, $should) = @$step;
	$pds->clear_log;
	$app->sql("UPDATE attendance SET status = '$word' WHERE id = 1");
	$app->idle($word);
	is_deeply [ $app->writes ], [ $should ? 'put' : () ], "$word: " . ($should ? 'one write' : 'means the same, no write');
	my $record = $app->record(1);
	is $app->said(1), $should // 'interested', "... $word is " . ($should // 'interested too');
	is_deeply [ $record->{uri}, @{ $record->{value} }{qw(createdAt subject)} ], [ $first->{uri}, @{ $first->{value} }{qw(createdAt subject)} ],
		'... key, createdAt and subject stay';
	is_deeply [ @{ $app->metadata(1) }{qw(blueskyRsvpUri blueskyRsvpCid)} ], [ @$record{qw(uri cid)} ], '... the row knows the new cid';
	is $app->status('attendance', 1)->{cid}, $record->{cid}, '... and so does sync_status';
}

$pds->clear_log;
$app->sql("UPDATE attendance SET note = 'brings cake', metadata = metadata || '{\"seat\": 8}' WHERE id = 1");
$app->idle('other columns');
is_deeply [ $app->attempts ], [], 'a change of anything else is no write';
$app->sql("UPDATE attendance SET metadata = '{\"seat\": 9}' WHERE id = 1");
$app->idle('stale metadata');
is_deeply [ $app->attempts ], [], 'metadata saved without our keys is no write';
is_deeply $app->metadata(1), { seat => 9, map { 'blueskyRsvp' . ucfirst $_ => $app->record(1)->{$_} } qw(uri cid) }, '... and the row is told again';

# --- many changes, one write

$pds->clear_log;
$app->sql('BEGIN;' . join('', map { "UPDATE attendance SET status = '$_' WHERE id = 1;" } qw(maybe confirmed maybe cancelled attended maybe confirmed maybe cancelled maybe)) . 'COMMIT');
$app->idle('ten changes');
is_deeply [ $app->writes ], ['put'], 'ten changes in one transaction are one write';
is $app->said(1), 'interested', 'of the last';
$pds->clear_log;
$app->sql("BEGIN; UPDATE attendance SET status = 'cancelled' WHERE id = 1; UPDATE attendance SET status = 'maybe' WHERE id = 1; COMMIT");
$app->idle('there and back');
is_deeply [ $app->attempts ], [], 'there and back in one transaction is none';

# --- what is rolled back never was

$app->sql('SELECT rsvp_sync.pause(\'attendance\')');
my $keys = sub { return $app->admin("SELECT string_agg(DISTINCT k, ',' ORDER BY k) FROM (SELECT key FROM rsvp_sync._change_log UNION SELECT key FROM rsvp_sync._queue) AS t (k)") };
$app->sql("BEGIN; UPDATE attendance SET status = 'cancelled'; ROLLBACK");
is $keys->(), '', 'a transaction rolled back logs nothing';
$app->sql(<<'SQL');
BEGIN;
INSERT INTO attendance (id, event_id, user_id) VALUES (21, 2, 1);
SAVEPOINT a;
INSERT INTO attendance (id, event_id, user_id) VALUES (22, 2, 2);
SAVEPOINT b;
INSERT INTO attendance (id, event_id, user_id) VALUES (23, 2, 3);
RELEASE b;
ROLLBACK TO a;
INSERT INTO attendance (id, event_id, user_id) VALUES (24, 2, 4);
SAVEPOINT c;
UPDATE attendance SET status = 'maybe' WHERE id = 1;
ROLLBACK TO c;
RELEASE c;
COMMIT;
SQL
is $keys->(), '21,24', 'subtransactions rolled back take their keys along, and only those';
$app->sql(q{DO $$ BEGIN
	BEGIN INSERT INTO attendance (id, event_id, user_id) VALUES (25, 3, 1); RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END;
END $$});
is $keys->(), '21,24', 'so does an exception block';
$app->sql("SELECT rsvp_sync.resume('attendance')");
$app->idle('resumed');
is_deeply [ map { scalar $app->records($_) } 1 .. 4 ], [ 2, 0, 0, 1 ], 'records of those that were committed';
$app->sql('DELETE FROM attendance WHERE id IN (21, 24)');
$app->idle('deleted');

# --- the row goes

is $app->said(1), 'interested', 'the other row of that user is left alone';
$pds->clear_log;
$app->sql('DELETE FROM attendance WHERE id = 1');
$app->idle('deleted');
is_deeply [ $app->writes ], ['delete'], 'row deleted: record deleted';
is $app->said(1), 'none', 'and gone';
is_deeply $app->status('attendance', 1)->{state}, undef, 'nothing is known of the row any more';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, 'nothing is left to do';

$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (1, 1, 1)');
$app->idle('attends again');
my $second = $app->record(1);
is $app->said(1), 'going', 'attending again makes a record again';
is $app->status('attendance', 1)->{uri}, $second->{uri}, 'which the row knows';
($ok, $said) = validate_records([$second]);
ok $ok, 'as the lexicon demands' or diag $said;

$app->sql('BEGIN; DELETE FROM attendance WHERE id = 1; INSERT INTO attendance (id, event_id, user_id, status) VALUES (1, 1, 1, \'maybe\'); COMMIT');
$app->idle('replaced');
is_deeply [ $app->said(1), $app->record(1)->{uri} ], [ 'interested', $second->{uri} ], 'deleted and inserted in one transaction is an update';
$app->sql('BEGIN; DELETE FROM attendance WHERE id = 1; INSERT INTO attendance (id, event_id, user_id) VALUES (101, 1, 1); COMMIT');
$app->idle('replaced by another key', 4);
is_deeply [ $app->said(1), scalar $app->records(1) ], [ 'going', 1 ], 'replaced by a row of another key: still one record';
is $app->state('attendance', 101), 'done/published', '... which is that row\'s';
is $app->status('attendance', 101)->{uri}, $app->record(1)->{uri}, '... by name';
$app->sql('UPDATE attendance SET id = 1 WHERE id = 101');
$app->idle('new key', 4);
is_deeply [ $app->said(1), scalar $app->records(1), $app->state('attendance', 1) ], [ 'going', 1, 'done/published' ], 'a primary key that changes keeps the record';
is $app->status('attendance', 101)->{state}, undef, '... and the old key is forgotten';

$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (31, 3, 2), (32, 3, 3), (41, 4, 2)');
$app->idle('three more');
is_deeply [ map { scalar $app->records($_) } 2, 3 ], [ 2, 1 ], 'three more records';
$app->sql('DELETE FROM events WHERE id = 3');
$app->idle('event deleted');
is_deeply [ map { scalar $app->records($_) } 2, 3 ], [ 1, 0 ], 'event deleted, attendance by cascade: records deleted';
$app->sql('DELETE FROM users WHERE id = 2');
$app->idle('user deleted');
is scalar $app->records(2), 0, 'user deleted, attendance by cascade: record deleted';
is $app->sql("SELECT count(*) FROM rsvp_sync.status WHERE attendance_id IN ('31', '32', '41')"), 0, 'and forgotten';

# --- the row moves

$pds->clear_log;
my $before = $app->record(1);
$app->sql('UPDATE attendance SET event_id = 2 WHERE id = 1');
$app->idle('moved to another event');
my $moved = $app->record(1);
is_deeply [ $app->writes ], [ 'delete', 'put' ], 'another event: the old record is withdrawn first, then a new one written';
is $moved->{value}{subject}{uri}, $event{2}{uri}, 'for the new event';
isnt $moved->{uri}, $before->{uri}, 'under a key of its own';
is_deeply [ @{ $app->metadata(1) }{qw(blueskyRsvpUri blueskyRsvpCid)} ], [ @$moved{qw(uri cid)} ], 'the row knows';

$pds->clear_log;
$app->sql('UPDATE attendance SET user_id = 3 WHERE id = 1');
$app->idle('moved to another user');
is_deeply [ $app->said(1), $app->said(3) ], [ 'none', 'going' ], 'another user: withdrawn from the first, written for the second';
is_deeply [ map { [ $_->{call} =~ /(\w+)Record/, $_->{repo} ] } $pds->writes ], [ [ 'delete', $pds->did(1) ], [ 'put', $pds->did(3) ] ], 'each in its own repository';
is $app->status('attendance', 1)->{uri}, $app->record(3)->{uri}, 'sync_status knows';
$app->sql("UPDATE attendance SET user_id = 1, event_id = 1, status = 'maybe' WHERE id = 1");
$app->idle('moved back');
is_deeply [ $app->said(1), $app->said(3), $app->record(1)->{value}{subject}{uri} ], [ 'interested', 'none', $event{1}{uri} ], 'and back, event and status at once';

# Two rows that change places: unique in pairs, checked at commit.
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (51, 2, 3)');
$app->idle('a second row');
$app->sql('BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE attendance SET user_id = CASE user_id WHEN 1 THEN 3 ELSE 1 END, event_id = CASE event_id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (1, 51); COMMIT');
$app->idle('changed places');
is_deeply [ $app->said(1), $app->said(3) ], [ 'going', 'interested' ], 'two rows that change places: one record each';
is_deeply [ map { $app->record($_)->{value}{subject}{uri} } 1, 3 ], [ map { $event{$_}{uri} } 1, 2 ], '... for the right events';
is_deeply [ map { $app->status('attendance', $_)->{uri} } 51, 1 ], [ map { $app->record($_)->{uri} } 1, 3 ], '... known by the right rows';
$app->sql('DELETE FROM attendance');
$app->idle('all gone');
is_deeply [ map { scalar $app->records($_) } 1 .. 4 ], [ 0, 0, 0, 0 ], 'no row, no record';

# --- statuses that are nobody's word

$app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES (61, 1, 1, 'invited'), (62, 1, 3, 'cancelled')");
$pds->clear_log;
$app->idle('invited');
is $app->said(1), 'none', 'invited: nothing';
is $app->state('attendance', 61), 'withheld/status_not_published', '... and sync_status says why';
is $app->said(3), 'notgoing', 'first seen as cancelled: that is a statement';
$app->sql("UPDATE attendance SET status = 'confirmed' WHERE id = 61");
$app->idle('accepted');
is $app->said(1), 'going', 'invited, then confirmed: going';
$app->sql("UPDATE attendance SET status = 'rejected' WHERE id = 61");
$app->idle('rejected');
is $app->said(1), 'none', 'rejected: the own record is withdrawn';
is $app->state('attendance', 61), 'withheld/status_not_published', '... and sync_status says why';
ok !exists $app->metadata(61)->{blueskyRsvpUri}, '... the row has forgotten it';
$app->sql("UPDATE attendance SET status = 'confirmed' WHERE id = 61");
$app->idle('confirmed after all');
is $app->said(1), 'going', 'and confirmed after all';
$app->sql("INSERT INTO attendance (id, event_id, user_id, status) VALUES (63, 2, 4, 'invited')");
$app->idle('invited');
$app->sql("UPDATE attendance SET status = 'cancelled' WHERE id = 63");
$app->idle('declined');
is $app->said(4), 'none', 'cancelled without ever having been published: nothing to say';
is $app->state('attendance', 63), 'withheld/never_published', '... and sync_status says so';
$app->sql('DELETE FROM attendance');
$app->idle('all gone');

# --- cancel means delete, if one likes

$app->attach(q{'attendance', options => '{"on_cancel": "delete"}'});
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (71, 1, 1)');
$app->idle('inserted');
is $app->said(1), 'going', 'on_cancel: going';
$pds->clear_log;
$app->sql("UPDATE attendance SET status = 'cancelled' WHERE id = 71");
$app->idle('cancelled');
is_deeply [ $app->said(1), $app->writes ], [ 'none', 'delete' ], 'cancelled: the record is deleted';
is $app->state('attendance', 71), 'done/withdrawn', '... as sync_status says';
ok !exists $app->metadata(71)->{blueskyRsvpUri}, '... the row has forgotten it';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... nothing is left to do';
$app->sql("UPDATE attendance SET status = 'confirmed' WHERE id = 71");
$app->idle('attends again');
is_deeply [ $app->said(1), $app->state('attendance', 71) ], [ 'going', 'done/published' ], 'attending again: a record again';

# --- on_delete

for my $way ([ 'notgoing', 'notgoing', 1 ], [ 'keep', 'going', 2 ]) {
	my ($option, $left, $event) = @$way;
	$app->attach("'attendance', options => '{\"on_delete\": \"$option\"}'");
	$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES (80 + $event, $event, 4)");
	$app->idle('inserted');
	$app->sql("DELETE FROM attendance WHERE id = 80 + $event");
	$app->idle('deleted');
	is_deeply [ map { RsvpSyncApp::word($_) } grep { $_->{value}{subject}{uri} eq $event{$event}{uri} } $app->records(4) ], [$left], "on_delete $option leaves $left";
}

unlike $app->pg->log_text, qr/ (?:WARNING|ERROR|FATAL|PANIC):/, 'and the server had nothing to complain of';
done_testing;
