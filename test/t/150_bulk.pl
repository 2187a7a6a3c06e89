# In bulk: 1,000 rows over 20 accounts in one transaction, then 300 random
# changes; attendance and network agree row by row, and a second look finds
# nothing to do.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncApp;

my ($ACCOUNTS, $EVENTS) = (20, 50);
my $seed = $ENV{RS_TEST_SEED} // time;
srand $seed;
note "RS_TEST_SEED=$seed";

my $app = start_app(accounts => $ACCOUNTS + 1, conf => { 'rsvp_sync.withdraw_limit' => 10000 });
my $pds = $app->pds;
$app->plan_schema;
$app->user($_, $_) for 1 .. $ACCOUNTS;
my $real = $pds->create_event(0, 'The one that is there');
my ($rkey) = $real->{uri} =~ m{([^/]+)$};
my $did = $pds->did(0);
# The cid of event 1 has to be asked for; the application knows the others'.
$app->sql(qq{INSERT INTO events (id, name, "sourceType", "sourceData") SELECT n, 'Event', 'bluesky', CASE n WHEN 1 THEN jsonb_build_object('did', '$did', 'rkey', '$rkey')
	ELSE jsonb_build_object('did', '$did', 'rkey', '3kevent' || n, 'cid', 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a') END FROM generate_series(1, $EVENTS) n});
$app->attach("'attendance'");

my %rsvp = (confirmed => 'going', attended => 'going', maybe => 'interested', pending => 'interested', waitlist => 'interested', cancelled => 'notgoing', invited => undef, rejected => undef);

# agree(what): four tests: PDS and attendance, row by row
sub agree {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%there, %cid, $twice);
	my @all;
	for my $account (1 .. $ACCOUNTS) {
		for my $record ($app->records($account)) {
			my $slot = $pds->did($account) . " $record->{value}{subject}{uri}";
			$twice++ if exists $there{$slot};
			$there{$slot} = RsvpSyncApp::word($record);
			$cid{$record->{uri}} = $record->{cid};
			push @all, $record;
		}
	}
	ok !$twice, "$what: no event twice in one account";

	my (%wanted, %told);
	for my $row (@{ from_json($app->sql(q{SELECT coalesce(json_agg(r), '[]') FROM (
		SELECT a.status, u.preferences -> 'bluesky' ->> 'did' AS did, format('at://%s/community.lexicon.calendar.event/%s', e."sourceData" ->> 'did', e."sourceData" ->> 'rkey') AS event,
			a.metadata ->> 'blueskyRsvpUri' AS uri, a.metadata ->> 'blueskyRsvpCid' AS cid, s.state || '/' || s.reason_code AS state
		FROM attendance a JOIN users u ON u.id = a.user_id JOIN events e ON e.id = a.event_id LEFT JOIN rsvp_sync.status s ON s.attendance = 'attendance'::regclass AND s.attendance_id = a.id::text) r})) }) {
		my $slot = "$row->{did} $row->{event}";
		$told{$row->{uri}} = $row->{cid} if $row->{uri};
		next if $row->{state} eq 'withheld/never_published';
		$wanted{$slot} = $rsvp{$row->{status}} if defined $rsvp{$row->{status}};
	}
	my @differ = grep { ($there{$_} // '') ne ($wanted{$_} // '') } keys %{ { %there, %wanted } };
	is_deeply [ map { [ $_, $there{$_}, $wanted{$_} ] } @differ[0 .. ($#differ > 4 ? 4 : $#differ)] ], [], "... the PDS and attendance agree in " . (scalar keys %wanted) . ' rows';
	is_deeply \%told, \%cid, '... every row knows its record, uri and cid';
	is $app->sql('SELECT rsvp_sync.reconcile()'), 0, '... nothing is left to do';
	return @all;
}

# --- 1,000 rows

$pds->clear_log;
my $began = time;
$app->sql("INSERT INTO attendance (id, event_id, user_id, status) SELECT (u - 1) * $EVENTS + e, e, u, (ARRAY['confirmed', 'maybe', 'cancelled', 'attended', 'pending'])[1 + (u + e) % 5]::attendance_status FROM generate_series(1, $ACCOUNTS) u, generate_series(1, $EVENTS) e");
my $inserted = time - $began;
$app->idle('inserted', 120) or BAIL_OUT('not idle');
note sprintf '%d rows: insert %.2f s, all there after %.1f s', $ACCOUNTS * $EVENTS, $inserted, time - $began;
my @all = agree('1,000 rows');
is scalar @all, $ACCOUNTS * $EVENTS, '... all of them';
is scalar $pds->writes, $ACCOUNTS * $EVENTS, '... by as many writes';
my %logins;
$logins{ $_->{identifier} // '?' }++ for $pds->log(call => 'com.atproto.server.createSession');
is_deeply [ scalar keys %logins, grep { $_ != 1 } values %logins ], [ $ACCOUNTS ], '... one login for each account';
is scalar($pds->log(call => 'com.atproto.repo.getRecord', repo => $did)), 1, "... the event's cid is asked for once";
my ($ok, $said) = validate_records(\@all);
ok $ok, '... every record is as the lexicon demands' or diag $said;
my %key = map { $_->{uri} => 1 } @all;
is scalar keys %key, scalar @all, '... each under a key of its own';

# Every record's cid, computed by ourselves.
sub cids {
	my ($what, @records) = @_;
	my $wrong = $app->pg->safe_psql('app', 'CREATE TEMP TABLE r (r jsonb); COPY r FROM STDIN;' . "\n"
		. join('', map { json($_) =~ s/\\/\\\\/gr . "\n" } @records) . "\\.\n"
		. "SELECT count(*) FILTER (WHERE rsvp_sync.record_cid(r -> 'value') = r ->> 'cid') FROM r");
	is $wrong, scalar @records, "$what: record_cid() is the cid the PDS returned, for every record";
	return;
}
cids('1,000 rows', @all);

# --- 300 changes, in transactions of various sizes

my @words = sort keys %rsvp;
my @changes;
for (1 .. 300) {
	my $id = 1 + int rand $ACCOUNTS * $EVENTS;
	my $what = rand;
	push @changes, $what < 0.65 ? sprintf("UPDATE attendance SET status = '%s' WHERE id = %d;", $words[ rand @words ], $id)
		: $what < 0.85 ? "DELETE FROM attendance WHERE id = $id;"
		: $what < 0.95 ? sprintf("INSERT INTO attendance (id, event_id, user_id, status) SELECT %d, %d, %d, '%s' ON CONFLICT DO NOTHING;", $id, 1 + ($id - 1) % $EVENTS, 1 + int(($id - 1) / $EVENTS), $words[ rand @words ])
		: "UPDATE attendance SET note = 'x', metadata = NULL WHERE id = $id;";
}
$pds->clear_log;
my $sql = '';
while (@changes) { $sql .= join "\n", 'BEGIN;', splice(@changes, 0, 1 + rand 30), rand() < 0.2 ? 'ROLLBACK;' : 'COMMIT;', '' }
$app->sql('ALTER TABLE attendance DROP CONSTRAINT attendance_event_id_user_id_key');
$app->sql($sql);
$app->idle('changed', 60);
# An application that saved NULL over our keys gets them back by reconcile().
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('compared', 60);
@all = agree('300 changes');
cids('300 changes', @all);
cmp_ok scalar($pds->writes), '<=', 300, '... by no more writes than changes';
is scalar($pds->log(call => 'com.atproto.server.createSession')), 0, '... without another login';

$app->sql('DELETE FROM attendance');
$app->idle('deleted', 120);
is scalar(map { $app->records($_) } 1 .. $ACCOUNTS), 0, 'all rows deleted: no record is left';
is $app->sql('SELECT count(*) FROM rsvp_sync.status'), 0, 'and no trace';

unlike $app->pg->log_text, qr/ (?:WARNING|ERROR|FATAL|PANIC):/, 'and the server had nothing to complain of';
done_testing;
