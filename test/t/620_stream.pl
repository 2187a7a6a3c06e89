# The stream: an RSVP that another client writes becomes attendance; where the
# worker listens, and where it does not; cuts, gaps, accounts, identities.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncApp;
use RsvpSyncStream;

my $pds = start_pds(accounts => 4);
my $stream = start_stream(upstream => $pds);
my $second = start_stream(log_size => 50);
my $app = start_app(pds => [$pds], conf => {
	'rsvp_sync.insecure_hosts' => join(',', $pds->insecure_hosts, $stream->insecure_hosts, $second->insecure_hosts),
	'rsvp_sync.request_timeout' => '2s',
	'rsvp_sync.verify_inbound' => 'off',
});
my $pg = $app->pg;
$app->plan_schema;
my $event = $app->event(1, 0, 'Party');
$app->user(1, 1);
$app->attach("'attendance'");

sub workers { return scalar split /\n/, $pg->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync stream'}) }
sub alter { my ($what) = @_; return $app->admin("ALTER DATABASE app $what") }
sub row { my ($did) = @_; return $app->sql("SELECT string_agg(a.status || ' ' || a.user_id, ',') FROM attendance a JOIN users u ON u.id = a.user_id WHERE u.preferences #>> '{bluesky,did}' = '$did'") }
sub becomes { my ($sql, $wanted, $what) = @_; return ok $pg->poll_query_until('app', $sql, $wanted), $what }
sub count_of { my ($kind) = @_; return "SELECT coalesce(max(value), 0) FROM rsvp_sync.metrics() WHERE name = 'rsvp_sync_stream_events_total' AND labels ->> 'kind' = '$kind'" }

# --- where there is a worker

is workers(), 0, 'nobody listens by default';
is $app->admin('SELECT stream_host IS NULL AND stream_lag IS NULL FROM rsvp_sync.stat_worker'), 't', 'and stat_worker says nothing of it';
alter("SET rsvp_sync.jetstream_url = '" . $stream->url . "'");
ok $stream->wait_listener, 'somebody does once jetstream_url is set';
is workers(), 1, 'one process';
ok $pg->poll_query_until('app', 'SELECT stream_connected_at IS NOT NULL AND stream_pid IS NOT NULL FROM rsvp_sync.stat_worker'), 'which stat_worker shows';

# --- the main path

my $began = time;
my $written = $pds->client('put-rsvp', 2, $event->{uri}, $event->{cid}, 'going');
my $stranger = $pds->did(2);
my $in_pds = time;
ok wait_for { row($stranger) ne '' }, 'an RSVP by another client becomes attendance';
my $took = time - $in_pds;
diag sprintf 'the record was written in %.2f s, and %.2f s later it was attendance', $in_pds - $began, $took;
like row($stranger), qr/^confirmed \d+$/, 'of a shadow user';
is $app->admin("SELECT source, cid FROM rsvp_sync.rsvp WHERE did = '$stranger'"), "stream|$written->{cid}", 'and is in the view rsvp';
my ($rkey) = $written->{uri} =~ m{([^/]+)$};
$pds->client('put-rsvp', 2, $event->{uri}, $event->{cid}, 'interested', $rkey);
ok wait_for { row($stranger) =~ /^maybe/ }, 'changed there, changed here';
$pds->client('delete-record', 2, $written->{uri});
ok wait_for { row($stranger) =~ /^cancelled/ }, 'deleted there, cancelled here';
$app->idle('all of it applied');
is scalar $pds->list_records(2), 0, 'and nothing was sent';

# Our own writes come back as echoes
$app->sql("INSERT INTO attendance (id, event_id, user_id) VALUES (100, 1, 1)");
$app->idle('one of ours is published');
my $own = $app->record(1);
becomes("SELECT source FROM rsvp_sync.rsvp WHERE cid = '$own->{cid}'", 'write', 'its echo changes nothing') if $own;
is $app->state('attendance', 100), 'done/published', 'it is published';
is scalar($app->writes), 1, 'by one write';

# --- cut, and the other host

my $lost = $pg->log_size;
$stream->kick;
ok $pg->wait_for_log(qr/the connection was lost/, $lost), 'a cut is noticed';
ok $stream->wait_listener, 'and the connection made again';
like +($stream->asked)[-1]{url}, qr/[?&]cursor=\d{16}$/, 'from where it was';
is $app->admin('SELECT stream_gap FROM rsvp_sync.stat_worker'), 'there is no place to go on from', 'no gap since the first time';

alter(sprintf "SET rsvp_sync.jetstream_url = '%s, %s'", $stream->url, $second->v2);
ok $stream->wait_listener, 'with two hosts, the first';
$stream->faults(refuse => { status => 503, error => 'Busy' });
$stream->kick;
ok $second->wait_listener, 'and the second when that does not answer';
like +($second->asked)[-1]{url}, qr/subscribeEvents\?kinds=commit&kinds=account&kinds=identity&collections=community.lexicon.calendar.rsvp&cursor=\d{16}$/, 'asked on its own wire';
$second->events(commit_event('did:web:second.example', '3jui7kd54zh2y', rsvp_record($event->{uri}, 'going')));
ok wait_for { row('did:web:second.example') =~ /^confirmed/ }, 'what it says counts as well';
$stream->faults;

# --- accounts and identities

sub account_event { my ($did, $active, $status, %more) = @_; return { did => $did, kind => 'account', account => { did => $did, active => $active ? JSON::PP::true : JSON::PP::false, defined $status ? (status => $status) : () }, %more } }
sub seen { my ($did) = @_; return $app->admin("SELECT count(*) FROM rsvp_sync.rsvp WHERE did = '$did'") }

my $someone = 'did:web:second.example';
my $unknown = $app->admin('SELECT count(*) FROM rsvp_sync._repo');
$second->events(account_event('did:web:unknown.example', 0, 'deleted'), account_event($someone, 0, 'deactivated'));
becomes("SELECT count(*) FROM rsvp_sync.rsvp WHERE did = '$someone'", 0, 'a deactivated account is hidden');
is $app->admin('SELECT string_agg(did, \' \') FROM rsvp_sync._repo'), $someone, 'one that we do not know is none of our business';
like row($someone), qr/^confirmed/, 'its attendance stays';
$second->events(account_event($someone, 1));
becomes("SELECT count(*) FROM rsvp_sync.rsvp WHERE did = '$someone'", 1, 'and comes back with it');
is $app->admin("SELECT why FROM rsvp_sync._reading WHERE did = '$someone'"), 'reactivated', 'its records are to be read';
my $old = $second->ask('listeners')->{seq};
$second->events(account_event($someone, 0, 'suspended', time_us => 1_700_000_000_000_000), account_event('did:web:end.example', 1));
becomes(count_of('account'), 5, 'word that is older');
is seen($someone), 1, 'does not count';
$second->events(account_event($someone, 0, 'deleted'));
ok wait_for { row($someone) =~ /^cancelled/ }, 'of a deleted account the answers are withdrawn';
is seen($someone), 0, 'and the records gone';
is $app->admin("SELECT count(*) FROM rsvp_sync._observed WHERE did = '$someone' AND record IS NOT NULL"), 0, 'with what they said';

$app->admin(sprintf "UPDATE rsvp_sync._identity SET looked_at = now() - interval '1 h', verify_at = NULL, handle_at = now() WHERE did = '%s'", $pds->did(1));
$pds->clear_log;
$second->events({ did => $pds->did(1), kind => 'identity', identity => { did => $pds->did(1), handle => 'new.test' } });
ok wait_for { $pds->log(on => 'plc') }, 'a document that has changed is looked at again';

# --- a gap

alter(sprintf "SET rsvp_sync.jetstream_url = '%s'", $second->url);
ok $second->wait_listener, 'on the wire of v1';
$second->events(commit_event('did:web:before.example', '3jui7kd54zh2y', rsvp_record($event->{uri}, 'going')));
ok wait_for { row('did:web:before.example') =~ /^confirmed/ }, 'an event before the gap';
$app->admin('DELETE FROM rsvp_sync._reading');
alter("SET rsvp_sync.jetstream_url = ''");
ok wait_for { !$second->listeners && !workers() }, 'emptied, there is no worker';
$second->events(map { commit_event("did:web:gap$_.example", '3jui7kd54zh2y', rsvp_record($event->{uri}, 'going')) } 1 .. 200);
alter(sprintf "SET rsvp_sync.jetstream_url = '%s'", $second->url);
ok wait_for { row('did:web:gap200.example') =~ /^confirmed/ }, 'what the server remembers is caught up with';
is row('did:web:gap1.example'), '', 'what it does not is missing';
is $app->admin('SELECT stream_gap FROM rsvp_sync.stat_worker'), 'the server has forgotten what we heard last', 'which is noticed';
is $app->admin("SELECT why FROM rsvp_sync._reading WHERE did = 'did:web:before.example'"), 'gap', 'and all whom we know are to be read';
is $app->admin("SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'stream_gap'"), 1, 'doctor() says so';

$second->ask('forget');
$app->admin('DELETE FROM rsvp_sync._reading; UPDATE rsvp_sync._stream SET gap_why = NULL, gap_at = NULL');
$second->kick;
becomes('SELECT stream_gap FROM rsvp_sync.stat_worker', 'the server has nothing of what we heard last', 'a server that has lost its memory');

alter(sprintf "SET rsvp_sync.jetstream_url = '%s'", $second->v2);
ok $second->wait_listener, 'on the wire of v2';
$second->faults(refuse => { status => 400, error => 'CursorTooOld' });
$second->kick;
becomes('SELECT stream_gap FROM rsvp_sync.stat_worker', 'the server does not go back so far', 'a server that refuses the cursor');
ok wait_for { +($second->asked)[-1]{url} !~ /cursor/ }, 'is asked for what comes next';
$second->faults;
ok $second->wait_listener, 'and listened to';

# --- silence

my $muted = $pg->log_size;
kill 'STOP', $second->{pid};
ok $pg->wait_for_log(qr/the server says nothing any more/, $muted), 'a server that has frozen is given up';
kill 'CONT', $second->{pid};
ok $second->wait_listener, 'and found again';

# --- where there is none

alter("SET rsvp_sync.mode = 'off'");
ok wait_for { !workers() }, 'none with mode off';
alter('RESET rsvp_sync.mode');
ok wait_for { workers() }, 'again with mode live';
$app->admin('UPDATE rsvp_sync._installation SET database_oid = 1');
$pg->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync stream'});
ok wait_for { !workers() && !$second->listeners }, 'none in a copied database';
sleep 2;
is workers(), 0, 'also a moment later';
$app->admin('SELECT rsvp_sync.activate()');
ok wait_for { workers() }, 'again once it is activated';
$pg->safe_psql('postgres', 'DROP DATABASE app');
ok wait_for { !workers() }, 'the database can be dropped';

done_testing;
