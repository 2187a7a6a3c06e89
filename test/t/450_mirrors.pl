# Two attached tables over the same users and events.  A record that a row of
# one has written is, for the other, an answer given elsewhere: its row there
# mirrors the network, and a mirror does not speak.  A real PDS, no stream.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 3);
my ($pds, $pg) = ($app->pds, $app->pg);
$app->plan_schema;
$app->admin('GRANT EXECUTE ON FUNCTION rsvp_sync.explain_sync(regclass, text) TO app');
$app->sql(<<'SQL');
CREATE TABLE guests (LIKE attendance INCLUDING ALL);
CREATE SEQUENCE guests_id OWNED BY guests.id;
ALTER TABLE guests ALTER id SET DEFAULT nextval('guests_id'), ADD FOREIGN KEY (event_id) REFERENCES events, ADD FOREIGN KEY (user_id) REFERENCES users;
SQL
my @event = map { $app->event($_, 0) } 0 .. 20;
$app->user($_, $_) for 1, 2;
$app->attach(qq{'attendance', options => '{"tenant": "a"}'});
$app->attach(qq{'guests', options => '{"tenant": "b"}'});

my $n = 0;    # the event that is spoken of

# in(table [, user]): its row's status for the event, or 'none'
sub in { my ($table, $user) = @_; return $app->sql("SELECT coalesce((SELECT status::text FROM $table WHERE event_id = $n AND user_id = @{[ $user // 1 ]}), 'none')") }
sub id { my ($table) = @_; return $app->sql("SELECT id FROM $table WHERE event_id = $n AND user_id = 1") }
sub state { my ($table) = @_; return $app->state($table, id($table)) }

# says(table, status [, user]): that row says so, and all is done about it
sub says {
	my ($table, $status, $user) = @_;
	$user //= 1;
	$app->sql(in($table, $user) eq 'none'
		? "INSERT INTO $table (event_id, user_id, status) VALUES ($n, $user, '$status')"
		: "UPDATE $table SET status = '$status' WHERE event_id = $n AND user_id = $user");
	return $app->idle("$table says $status");
}

sub leaves {
	my ($table) = @_;
	$app->sql("DELETE FROM $table WHERE event_id = $n AND user_id = 1");
	return $app->idle("the row of $table is deleted");
}

# network: the user's record for the event, 'none', or several
sub there { my ($user) = @_; return grep { $_->{value}{subject}{uri} eq $event[$n]{uri} } $app->records($user // 1) }
sub network { my ($user) = @_; return join(' ', map { RsvpSyncApp::word($_) } there($user)) || 'none' }

# Both tables, and the network
sub all { return join ', ', in('attendance'), in('guests'), network() }

# heard(): what is on the network becomes known, as by a listing
sub heard {
	my $records = json([ $app->records(1) ]);
	$records =~ s/'/''/g;
	$app->admin(sprintf "SELECT rsvp_sync._list_done('%s', '%s'); SELECT rsvp_sync._merge_slots(ARRAY['%1\$s'], ARRAY['%s'], NULL, NULL, NULL)",
		$pds->did(1), $records, $event[$n]{uri});
	return $app->idle('heard');
}

sub elsewhere { my ($status, $rkey) = @_; return $pds->client('put-rsvp', 1, $event[$n]{uri}, $event[$n]{cid}, $status, $rkey // '') }
sub at_rest {
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pds->clear_log;
	my $before = all();
	is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... reconcile finds nothing' or diag $app->admin(<<'SQL');
SELECT jsonb_build_object('i', to_jsonb(i), 'd', to_jsonb(e.d)) FROM rsvp_sync._source s CROSS JOIN LATERAL rsvp_sync._differences(s.source_id) AS k (key)
JOIN rsvp_sync._evaluate(s.source_id, NULL, true) e ON e.key = k.key LEFT JOIN rsvp_sync._intent i ON i.source_id = s.source_id AND i.key = k.key
SQL
	$app->idle('reconciled');
	is_deeply [ all(), $app->writes ], [$before], '... and nothing moves';
	is $app->admin("SELECT count(*) FROM (SELECT FROM rsvp_sync._intent WHERE bond IS NOT NULL GROUP BY did, rkey HAVING count(*) > 1) d"), 0, '... and each record belongs to one row';
	return;
}

# --- one speaks, the other mirrors it

# mirrored: attendance has said so, guests has heard it
sub mirrored {
	my ($status) = @_;
	$n++;
	says('attendance', $status // 'confirmed');
	heard();
	return;
}

mirrored();
is all(), 'confirmed, confirmed, going', 'a row speaks, the other table hears it';
is state('attendance'), 'done/published', '... the row that spoke has the record';
is state('guests'), 'superseded/superseded', '... the other stands back';
like $app->status('guests', id('guests'))->{reason}, qr/^Another row speaks for this user and event/, '... and says so';
is $app->sql("SELECT action || ' ' || reason_code FROM rsvp_sync.preview('guests', '" . id('guests') . "')"), 'nothing superseded', '... in preview(), too';
like $app->sql("SELECT rsvp_sync.explain_sync('guests', '" . id('guests') . "')"), qr/Another row speaks/, '... and in explain_sync()';
at_rest();

says('attendance', 'maybe');
is all(), 'maybe, maybe, interested', 'it changes: the mirror follows';
is_deeply [ state('attendance'), state('guests') ], [ 'done/published', 'superseded/superseded' ], '... and goes on being one';
$pds->clear_log;
leaves('attendance');
is all(), 'none, cancelled, none', 'the row is deleted: the record is withdrawn, the mirror cancelled';
is_deeply [ $app->writes ], ['delete'], '... by one write';
is state('guests'), 'done/from_network', '... which says where that came from';
at_rest();
says('guests', 'confirmed');
is all(), 'none, confirmed, going', 'then the mirror speaks: a new record';
is state('guests'), 'done/published', '... that is its own';
at_rest();
leaves('guests');
is all(), 'none, none, none', '... withdrawn with it';

mirrored();
says('attendance', 'rejected');
is all(), 'rejected, cancelled, none', 'set to a status that is not published: withdrawn, and the mirror is cancelled';
at_rest();

mirrored();
says('attendance', 'cancelled');
is all(), 'cancelled, cancelled, notgoing', 'declined: the mirror, too';
at_rest();

# --- the mirror speaks

mirrored();
my ($record) = there();
$pds->clear_log;
says('guests', 'maybe');
is all(), 'maybe, maybe, interested', 'the mirror is changed: it speaks, and the other row hears it';
is_deeply [ (there())[0]{uri}, $app->writes ], [ $record->{uri}, 'put' ], '... by one write to the record there is';
is_deeply [ state('attendance'), state('guests') ], [ 'superseded/superseded', 'done/published' ], '... whose row is the mirror now';
at_rest();
says('attendance', 'cancelled');
is all(), 'cancelled, cancelled, notgoing', 'and back';
is_deeply [ state('attendance'), state('guests') ], [ 'done/published', 'superseded/superseded' ], '... the first speaks again';
at_rest();
says('guests', 'confirmed');
leaves('guests');
is all(), 'cancelled, none, none', 'the one that speaks is deleted: the mirror keeps nothing alive';
at_rest();

# --- a mirror is deleted, refused, approved

mirrored();
$pds->clear_log;
leaves('guests');
is all(), 'confirmed, none, going', 'a mirror is deleted: the row that speaks goes on';
mirrored();
$pds->clear_log;
says('guests', 'rejected');
is all(), 'confirmed, rejected, going', 'a mirror is refused by its host: that changes nothing on the network';
says('attendance', 'maybe');
is all(), 'maybe, rejected, interested', '... nor does the user change the host\'s mind';
says('guests', 'confirmed');
is all(), 'confirmed, confirmed, going', 'let in with another word, it speaks';
at_rest();
mirrored();
says('guests', 'rejected');
says('guests', 'confirmed');
is_deeply [ all(), state('guests') ], [ 'confirmed, confirmed, going', 'superseded/superseded' ], 'let in with the word of the record, it does not';
leaves('attendance');
is all(), 'none, cancelled, none', '... and keeps no record alive';
at_rest();

# --- a record that another application has written

sub foreign {
	$n++;
	my $put = elsewhere(@_ ? @_ : 'going');
	heard();
	return $put;
}

my $theirs = foreign();
is all(), 'confirmed, confirmed, going', 'a record by another application: heard by both';
is_deeply [ sort(state('attendance'), state('guests')) ], [ 'done/published', 'superseded/superseded' ], '... one of them has it';
at_rest();
says('guests', 'maybe');
is all(), 'maybe, maybe, interested', 'changed in the one';
says('attendance', 'cancelled');
is all(), 'cancelled, cancelled, notgoing', '... then in the other';
says('guests', 'confirmed');
is_deeply [ all(), (there())[0]{uri} ], [ 'confirmed, confirmed, going', $theirs->{uri} ], '... and back, always in that record';
at_rest();

$theirs = foreign();
says('attendance', 'maybe');
is all(), 'maybe, maybe, interested', 'the same in the other order';
says('guests', 'cancelled');
is all(), 'cancelled, cancelled, notgoing', '... second';
elsewhere('going', $theirs->{uri} =~ s{.*/}{}r);
heard();
is all(), 'confirmed, confirmed, going', '... and elsewhere again';
at_rest();

for my $first ('attendance', 'guests') {
	my $second = $first eq 'guests' ? 'attendance' : 'guests';
	foreign();
	$pds->clear_log;
	leaves($first);
	is_deeply [ in($second), network(), $app->writes ], [ 'confirmed', 'going' ], "deleted in $first: it stays, as it does with one table";
	leaves($second);
	is_deeply [ all(), $app->writes ], ['none, none, going'], '... and in the other';
	foreign();
	$pds->clear_log;
	says($first, 'rejected');
	is_deeply [ in($second), network(), $app->writes ], [ 'confirmed', 'going' ], "refused in $first: it stays";
	says($second, 'maybe');
	is_deeply [ in($first), in($second), network() ], [ 'rejected', 'maybe', 'interested' ], '... and is changed by the other';
	at_rest();
}

# What one says and the other mirrored, another application takes over.
mirrored();
elsewhere('interested', (there())[0]{uri} =~ s{.*/}{}r);
heard();
is all(), 'maybe, maybe, interested', 'changed elsewhere: heard by both';
at_rest();
leaves('attendance');
is all(), 'none, cancelled, none', 'our record, changed elsewhere: withdrawn with its row, and the mirror is cancelled';
at_rest();

# --- while the tables cannot hear each other

mirrored();
$app->sql("SELECT rsvp_sync.pause('guests')");
$app->sql("DELETE FROM attendance WHERE event_id = $n; INSERT INTO attendance (event_id, user_id, status) VALUES ($n, 1, 'maybe')");
ok $pg->poll_query_until('app', 'SELECT count(*) = 0 FROM rsvp_sync._queue WHERE source_id = (SELECT min(source_id) FROM rsvp_sync._source)'), 'one table is paused, the other says something';
is all(), 'maybe, confirmed, interested', 'a table at rest hears nothing';
$app->sql("SELECT rsvp_sync.resume('guests')");
$app->idle('resumed');
is all(), 'maybe, maybe, interested', '... and everything later';
at_rest();

# Both speak at once: the later one.
$n++;
$app->sql("BEGIN; INSERT INTO attendance (event_id, user_id, status) VALUES ($n, 1, 'confirmed'); INSERT INTO guests (event_id, user_id, status) VALUES ($n, 1, 'maybe'); COMMIT");
$app->idle('both');
is all(), 'maybe, maybe, interested', 'both speak: the later one, and the other hears it';
at_rest();

# Asking for a backfill publishes no mirror.
mirrored();
leaves('attendance');
$app->attach(qq{'guests', options => '{"backfill": "all"}'});
$app->idle('backfill');
is all(), 'none, cancelled, none', 'backfill publishes nothing that the network has told';

# --- a dump keeps it

is $app->admin("SELECT count(*) FROM pg_extension e WHERE extname = 'rsvp_sync' AND 'rsvp_sync._intent'::regclass = ANY (extconfig)"), 1, 'what mirrors is in a dump';

done_testing;
