# What is not published, and why: for each reason nothing is sent and
# sync_status says so with a stable code; what changes elsewhere (the event is
# published or made private, the user connects) is noticed.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 8);
my $pds = $app->pds;
$app->plan_schema;
my %event = map { $_ => $app->event($_, 0) } 1 .. 3;
my $bluesky = sub { my ($id, $what) = @_; $app->sql("UPDATE users SET preferences = jsonb_set(preferences, '{bluesky}', (preferences -> 'bluesky') || '$what') WHERE id = $id") };

# Users 1 .. 6 are the PDS's accounts 1 .. 6.
$app->user($_, $_, connect => $_ != 2) for 1 .. 6;
$app->sql(q{INSERT INTO users VALUES (7, 'no preferences', NULL), (8, 'no DID', '{"bluesky": {"connected": true}}'),
	(9, 'bad DID', '{"bluesky": {"connected": true, "did": "alice.test"}}'), (10, 'preferences are an array', '[1]'), (11, 'a scalar', '"x"')});
$app->sql(q{INSERT INTO events (id, name, visibility, "sourceType", "sourceData", "startDate", "endDate") VALUES
	(10, 'not published', 'public', NULL, NULL, '2035-01-01', NULL),
	(11, 'elsewhere', 'public', 'eventbrite', '{"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "rkey": "3k"}', '2035-01-01', NULL),
	(12, 'half a source', 'public', 'bluesky', '{"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}', '2035-01-01', NULL),
	(13, 'bad source', 'public', 'bluesky', '{"did": "nobody", "rkey": "3k"}', '2035-01-01', NULL)});
my ($did, $rkey) = $event{3}{uri} =~ m{^at://([^/]+)/[^/]+/(.+)$};
my $source = json({ did => $did, rkey => $rkey });
$app->sql(qq{INSERT INTO events (id, name, visibility, "sourceType", "sourceData", "startDate", "endDate") VALUES
	(20, 'private', 'private', 'bluesky', '$source', '2035-01-01', NULL),
	(21, 'authenticated', 'authenticated', 'bluesky', '$source', '2035-01-01', NULL),
	(22, 'over', 'public', 'bluesky', '$source', now() - interval '3 days', now() - interval '2 days'),
	(23, 'began', 'public', 'bluesky', '$source', now() - interval '3 days', now() + interval '2 days'),
	(24, 'began, no end', 'public', 'bluesky', '$source', now() - interval '1 hour', NULL)});
$app->attach("'attendance'");

# --- nothing is sent

my $id = 0;
my %id;
# withheld(name, columns, 'state/code', words of the reason)
sub withheld {
	my ($name, $columns, $state, $words) = @_;
	$id{$name} = ++$id;
	$columns = { id => $id, event_id => 1, user_id => 1, status => 'confirmed', %$columns };
	my @names = sort keys %$columns;
	$app->sql(sprintf 'INSERT INTO attendance (%s) VALUES (%s)', join(', ', @names), join ', ', map { "'$columns->{$_}'" } @names);
	$app->idle($name);
	my $s = $app->status('attendance', $id);
	is "$s->{state}/$s->{reason_code}", $state, $name;
	like $s->{reason}, $words, '... with a reason';
	is $s->{uri}, undef, '... and no record';
	return;
}

$pds->clear_log;
withheld('unmapped status', { status => 'no_show' }, 'withheld/unmapped_status', qr/no_show.*unmapped status|unmapped.*no_show/);
$app->sql('DELETE FROM attendance');
withheld('invited', { status => 'invited' }, 'withheld/status_not_published', qr/invited/);
withheld('rejected', { status => 'rejected', event_id => 2 }, 'withheld/status_not_published', qr/rejected/);
withheld('no account', { user_id => 2 }, 'blocked/no_account', qr/No account is connected/);
withheld('no preferences', { user_id => 7 }, 'withheld/not_connected', qr/connected/);
withheld('no DID', { user_id => 8 }, 'withheld/no_did', qr/no DID/);
withheld('bad DID', { user_id => 9 }, 'withheld/invalid_did', qr/not a DID/);
withheld('array for preferences', { user_id => 10 }, 'withheld/not_connected', qr/connected/);
withheld('scalar for preferences', { user_id => 11 }, 'withheld/not_connected', qr/connected/);
withheld('event not published', { event_id => 10 }, 'withheld/no_event_uri', qr/no at-uri/);
withheld('event from elsewhere', { event_id => 11 }, 'withheld/no_event_uri', qr/no at-uri/);
withheld('half a source', { event_id => 12 }, 'withheld/no_event_uri', qr/no at-uri/);
withheld('bad source', { event_id => 13 }, 'withheld/invalid_event_uri', qr/not the at-uri/);
withheld('private event', { event_id => 20 }, 'withheld/event_not_public', qr/not public/);
withheld('authenticated event', { event_id => 21 }, 'withheld/event_not_public', qr/not public/);
withheld('past event', { event_id => 22 }, 'withheld/past_event', qr/past event/);
withheld('skipBlueskySync', { user_id => 3, metadata => '{"skipBlueskySync": true}' }, 'withheld/skipped', qr/asked not to publish/);
withheld('skipBlueskySync as text', { user_id => 3, event_id => 2, metadata => '{"skipBlueskySync": "yes"}' }, 'withheld/skipped', qr/asked not to publish/);
$bluesky->(4, '{"publishRsvps": false}');
withheld('publishRsvps false', { user_id => 4 }, 'withheld/opted_out', qr/does not want/);
$bluesky->(5, '{"connected": false}');
withheld('not connected', { user_id => 5 }, 'withheld/not_connected', qr/not connected/);
is_deeply [ $app->attempts ], [], 'nothing was sent for any of them';
is $app->sql("SELECT string_agg(DISTINCT state, ' ') FROM rsvp_sync.status"), 'blocked withheld', 'the view says the same';
is $app->sql('SELECT rsvp_sync.reconcile()'), 0, 'and nothing is left to do';


# --- what began is not over

$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (101, 23, 6)');
$app->idle('an event under way');
is $app->said(6), 'going', 'an event that has begun and not ended is published';
$app->sql('DELETE FROM attendance WHERE id = 101');
$app->idle('deleted');

# --- the event changes

$pds->clear_log;
$app->sql(qq{UPDATE events SET "sourceType" = 'bluesky', "sourceData" = '$source' WHERE id = 10});
$app->idle('event published');
is $app->state('attendance', $id{'event not published'}), 'done/published', 'an event that is published later: sent';
is $app->record(1)->{value}{subject}{uri}, $event{3}{uri}, '... for that event';
$app->sql("UPDATE events SET name = 'renamed' WHERE id = 10");
$app->idle('renamed');
is_deeply [ $app->writes ], ['put'], 'other columns of the event do not matter';

$app->sql("UPDATE events SET visibility = 'private' WHERE id = 10");
$app->idle('made private');
is $app->said(1), 'none', 'made private later: withdrawn';
is $app->state('attendance', $id{'event not published'}), 'withheld/event_not_public', '... with the reason';
is_deeply $app->metadata($id{'event not published'}), {}, '... and the row has forgotten the record';
$app->sql("UPDATE events SET visibility = 'public' WHERE id = 10");
$app->idle('made public');
is $app->said(1), 'going', 'made public again: sent again';
$app->sql(q{UPDATE events SET "sourceType" = NULL WHERE id = 10});
$app->idle('unpublished');
is $app->state('attendance', $id{'event not published'}), 'withheld/no_event_uri', 'at-uri gone again: withheld';
$app->sql('DELETE FROM attendance');
$app->idle('all gone');
is_deeply [ map { scalar $app->records($_) } 1 .. 6 ], [ (0) x 6 ], 'nothing stays behind';

# --- the user changes

$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (201, 1, 2), (202, 1, 5), (203, 1, 4), (204, 1, 3), (205, 2, 8)');
$app->idle('five');
is_deeply [ map { scalar $app->records($_) } 2, 5, 4, 3 ], [ 0, 0, 0, 1 ], 'one of them may be published';
$app->connect_account(2);
$app->idle('account connected');
is_deeply [ $app->said(2), $app->state('attendance', 201) ], [ 'going', 'done/published' ], 'account connected later: sent';
$bluesky->(5, '{"connected": true}');
$app->idle('connected');
is $app->said(5), 'going', 'connected later: sent';
$bluesky->(5, '{"connected": false}');
$app->idle('disconnected');
is_deeply [ $app->said(5), $app->state('attendance', 202) ], [ 'going', 'withheld/not_connected' ], 'disconnected: kept, withheld';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 202");
$app->idle('maybe');
is $app->said(5), 'going', '... and not changed any more';
$bluesky->(5, '{"connected": true}');
$app->idle('connected again');
is $app->said(5), 'interested', '... until connected again';
$bluesky->(4, '{"publishRsvps": true}');
$app->idle('opted in');
is $app->said(4), 'going', 'publishRsvps true: sent';
$bluesky->(4, '{"publishRsvps": false}');
$app->idle('opted out');
is_deeply [ $app->said(4), $app->state('attendance', 203) ], [ 'none', 'withheld/opted_out' ], 'publishRsvps false: withdrawn';
$app->sql(q{UPDATE attendance SET metadata = metadata || '{"skipBlueskySync": true}', status = 'maybe' WHERE id = 204});
$app->idle('skip');
is_deeply [ $app->said(3), $app->state('attendance', 204) ], [ 'going', 'withheld/skipped' ], 'skipBlueskySync: the record is kept, not changed';
$app->sql(q{UPDATE attendance SET metadata = metadata - 'skipBlueskySync' WHERE id = 204});
$app->idle('no skip');
is $app->said(3), 'interested', '... until it is taken away';
$bluesky->(8, json({ did => $pds->did(6) }));
$app->idle('DID known');
is_deeply [ $app->said(6), $app->state('attendance', 205) ], [ 'going', 'done/published' ], 'DID known later: sent';
$bluesky->(8, json({ did => $pds->did(1) }));
$app->idle('another DID');
is_deeply [ $app->said(6), $app->said(1) ], [ 'none', 'going' ], 'another DID: withdrawn from the one, sent for the other';

# --- a withheld row goes with its record

$app->sql('DELETE FROM attendance WHERE id = 202');
$app->idle('deleted');
is $app->said(5), 'none', 'row deleted: record deleted';
$bluesky->(3, '{"connected": false}');
$app->sql('DELETE FROM attendance WHERE id = 204');
$app->idle('deleted');
is $app->said(3), 'none', 'also of a row that is withheld and kept';

# --- options

$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (301, 22, 4)');
$bluesky->(4, '{"publishRsvps": true}');
$app->idle('past');
is $app->state('attendance', 301), 'withheld/past_event', 'past event: withheld';
$app->attach(q{'attendance', options => '{"publish_past_events": true, "status_map": {"no_show": "notgoing", "maybe": null}}'});
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('past events too');
is_deeply [ map { $_->{value}{subject}{uri} eq $event{3}{uri} ? 1 : () } $app->records(4) ], [1], 'publish_past_events: sent, once compared';
$app->sql("UPDATE attendance SET status = 'no_show' WHERE id = 301");
$app->idle('no show');
is_deeply [ map { $_->{value}{subject}{uri} eq $event{3}{uri} ? RsvpSyncApp::word($_) : () } $app->records(4) ], ['notgoing'], 'status_map: a word of its own';
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 301");
$app->idle('maybe');
is $app->state('attendance', 301), 'withheld/status_not_published', 'status_map: null takes a word away';
$app->attach(q{'attendance', options => '{"status_map": null, "publish_past_events": null}'});
$app->sql('SELECT rsvp_sync.reconcile()');
$app->idle('defaults');
is $app->state('attendance', 301), 'withheld/past_event', 'null resets the options';

unlike $app->pg->log_text, qr/ (?:WARNING|ERROR|FATAL|PANIC):/, 'and the server had nothing to complain of';
done_testing;
