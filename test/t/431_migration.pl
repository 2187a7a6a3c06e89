# Two PDSes, one directory: the organiser is on one, the attendees are on the
# other and move to it, in the middle of a stream of writes.  The old PDS goes
# on saying 200 to all of them.  In the end everything is where the DID document
# says, once.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $EVENTS = 12;

my $old = start_pds(accounts => 5);
my $new = start_pds(accounts => 1, name => 'host', plc => $old->plc);
my $app = RsvpSyncApp::start_app(pds => [ $old, $new ], conf => { 'rsvp_sync.connections_per_host' => 2 });
$app->plan_schema;

# fresh(interval): how often a document is looked at while it is written to
sub fresh {
	my ($interval) = @_;
	return $app->admin("CREATE OR REPLACE FUNCTION rsvp_sync._identity_fresh() RETURNS interval LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp RETURN interval '$interval'");
}

sub migrate {
	my (@step) = @_;
	my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', repo_root() . '/test/pds/migrate.mjs', $step[0], $old->state_file, $new->state_file, @step[1 .. $#step] ]);
	die $err if $status;
	return from_json($out);
}
sub identity { my ($account, $what) = @_; return $app->admin(sprintf "SELECT %s FROM rsvp_sync._identity WHERE did = '%s'", $what, $old->did($account)) }
sub account { my ($account) = @_; return $app->admin(sprintf "SELECT state FROM rsvp_sync._account WHERE did = '%s'", $old->did($account)) }
sub said { my ($pds, $account) = @_; return join ' ', map { ($_->{value}{subject}{uri} =~ /([^\/]+)$/)[0] . ':' . RsvpSyncApp::word($_) } sort { $a->{value}{subject}{uri} cmp $b->{value}{subject}{uri} } $pds->list_records($old->did($account)) }
# wanted(user): what his rows say
sub wanted {
	my ($user) = @_;
	return $app->sql(<<"SQL");
SELECT coalesce(string_agg(format('%s:%s', e."sourceData" ->> 'rkey', CASE a.status::text WHEN 'confirmed' THEN 'going' WHEN 'maybe' THEN 'interested' ELSE 'notgoing' END), ' ' ORDER BY e."sourceData" ->> 'rkey'), '')
FROM attendance a JOIN events e ON e.id = a.event_id WHERE a.user_id = $user
SQL
}

# The organiser is an account of the new PDS.
my $organiser = $new->did(0);
for my $id (1 .. $EVENTS) {
	my $event = $new->create_event(0, "Event $id", '2035-06-21T18:00:00Z');
	$app->sql(sprintf q{INSERT INTO events (id, name, "sourceType", "sourceData", "startDate") VALUES (%d, 'Event', 'bluesky', '%s', '2035-06-21T18:00:00Z')},
		$id, json({ did => $organiser, rkey => ($event->{uri} =~ m{([^/]+)$})[0] }));
}
$app->user($_, $_) for 1 .. 4;
$app->attach("'attendance'");
fresh('1 second');

# --- in the middle of a stream of writes

# Events 1 to 9 have a record before; 10 gets none, 11 and 12 come meanwhile.
$app->sql("INSERT INTO attendance (id, event_id, user_id) SELECT n, n, 1 FROM generate_series(1, 9) n");
$app->idle('before');
is said($old, 1), wanted(1), 'before: on the old PDS, for an organiser on the other';
is identity(1, 'pds'), $old->url, '... where the document says it is';

my @statuses = qw(confirmed maybe cancelled);
my $n = 0;
sub change { $n++; return $app->sql(sprintf "UPDATE attendance SET status = '%s' WHERE id = %d", $statuses[ ($n + int($n / 9)) % 3 ], 1 + $n % 8) }
# while(step): go on changing rows while the account's user does that
sub meanwhile {
	my (@step) = @_;
	my $pid = fork // die $!;
	if ($pid == 0) { my $ok = eval { migrate(@step); 1 }; print STDERR $@ if !$ok; require POSIX; POSIX::_exit($ok ? 0 : 1) }
	change() while waitpid($pid, POSIX::WNOHANG()) == 0;
	is $?, 0, "step $step[0], while " . ($n) . ' rows have been changed';
	return;
}
require POSIX;
change() for 1 .. 10;
meanwhile('copy', 1);
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (11, 11, 1)');    # made on the old one only
$app->idle('between');
$app->sql('DELETE FROM attendance WHERE id = 9');    # deleted on the old one only
$app->idle('between');
change() for 1 .. 10;
$app->idle('copied');
is said($old, 1), wanted(1), 'copied: the old PDS is still the account\'s';

# Nobody looks for now.
fresh('1 hour');
$app->admin(sprintf "UPDATE rsvp_sync._identity SET verify_at = NULL, looked_at = now() WHERE did = '%s'", $old->did(1));
meanwhile('move', 1);
$old->clear_log;
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (12, 12, 1)');
change() for 1 .. 10;
ok wait_for { my @late = $old->writes; @late > 0 }, 'the document has moved, and the old PDS goes on saying 200';
fresh('1 second');
$app->admin(sprintf "UPDATE rsvp_sync._identity SET verify_at = now() WHERE did = '%s'", $old->did(1));
change() for 1 .. 5;
ok $app->pg->poll_query_until('app', sprintf("SELECT pds = '%s' FROM rsvp_sync._identity WHERE did = '%s'", $new->url, $old->did(1))), 'the new document is noticed while writes go on';
note sprintf '%d writes had gone to the old PDS', scalar $old->writes;
change() for 1 .. 10;
$app->idle('moved');
$old->clear_log;
change() for 1 .. 10;
$app->idle('after');
is said($new, 1), wanted(1), 'in the end the new PDS has exactly what the rows say: nothing is lost, nothing twice';
is scalar $old->writes, 0, '... and nothing more goes to the old one';
is account(1), 'connected', '... the account is well';
is $app->sql("SELECT count(*) FILTER (WHERE state <> 'done') FROM rsvp_sync.status"), 0, '... and so are the rows';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... with nothing left to do';

# --- nothing written after the move: the look after the last write finds it

$app->sql("INSERT INTO attendance (id, event_id, user_id) SELECT 20 + n, n, 2 FROM generate_series(1, 3) n");
$app->idle('second');
migrate('copy', 2);
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 21; DELETE FROM attendance WHERE id = 22; INSERT INTO attendance (id, event_id, user_id) VALUES (24, 4, 2)");
$app->idle('second, on the old one');
is said($old, 2), wanted(2), 'an account that is written to no more when it moves';
migrate('move', 2);
ok $app->pg->poll_query_until('app', sprintf("SELECT pds = '%s' AND lost_since IS NULL FROM rsvp_sync._identity WHERE did = '%s'", $new->url, $old->did(2))), '... the document is looked at once more all the same';
$app->idle('second, moved');
is said($new, 2), wanted(2), '... and what was only on the old one is done again: change, creation and deletion';

# --- the old one says that it is gone

fresh('1 day');
$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES (31, 1, 3)");
$app->idle('third');
migrate($_, 3) for qw(copy move deactivate);
is identity(3, 'pds'), $old->url, 'an account that moved, unnoticed';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 31");
$app->idle('third, moved');
is_deeply [ said($new, 3), account(3), identity(3, 'pds') ], [ wanted(3), 'connected', $new->url ], 'the old PDS says it is deactivated: the document is asked before the user is';
is_deeply [ map { $_->{status} } $old->log(call => qr/createSession/, did => $old->did(3)) ], [], '... nobody tried to sign in there again';

# --- another password there

$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES (41, 1, 4)");
$app->idle('fourth');
migrate(copy => 4, 'new password');
migrate(move => 4, 'new password');
migrate(deactivate => 4);
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 41");
$app->idle('fourth, moved');
is_deeply [ $app->state('attendance', 41), account(4) ], [ 'blocked/wrong_password', 'wrong_password' ], 'the password does not hold on the new PDS: the user is asked';
$app->sql(sprintf "SELECT rsvp_sync.connect_account('%s', 'new password')", $old->did(4));
$app->idle('fourth, connected');
is_deeply [ said($new, 4), account(4) ], [ wanted(4), 'connected' ], '... and it goes on';

# --- parked until it moves

migrate('deactivate', 0);
$app->user(5, 0);
$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES (51, 1, 5)");
$app->idle('deactivated');
is_deeply [ $app->state('attendance', 51), account(0) ], [ 'blocked/deactivated', 'deactivated' ], 'a deactivated account';
ok identity(0, "verify_at BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour'") eq 't', '... is looked for every hour';

unlike $app->pg->log_text, qr/ (?:ERROR|FATAL|PANIC):|cannot be read|not be recorded/, 'and the server had nothing to complain of';
done_testing;
