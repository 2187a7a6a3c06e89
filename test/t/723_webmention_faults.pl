# Webmentions when something is in the way: servers, addresses, the worker, an
# operator.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncWeb;

my $web = start_web;
my $app = web_app($web, conf => { 'rsvp_sync.max_attempts' => 4 });
my $pg = $app->pg;
$app->attach;
my $n = 0;
# insert(target path or URL): a row for it -> its id
my $insert = sub {
	my ($target) = @_;
	$n++;
	$target = $web->url($target) if $target =~ m{^/};
	$app->sql("INSERT INTO rsvp VALUES ($n, NULL, 'yes', '" . $web->url("/pages/$n") . "', '$target')");
	return $n;
};
my $what = "concat_ws(' ', state, attempts, last_error)";
my $page = sub { my ($hook) = @_; return { headers => { link => "<$hook>; rel=webmention" } } };

# --- servers that fail, and get well

$web->pages('/event' => $page->('/hook'), 'POST /hook' => [ { status => 503 }, { status => 500 }, { reset => JSON::PP::true }, { status => 202 } ],
	'/shy' => [ { status => 502 }, { reset => JSON::PP::true }, $page->('/hook2') ], 'POST /hook2' => { status => 200 },
	'/gone' => { status => 410 }, '/refusing' => $page->('/hook3'), 'POST /hook3' => { status => 400, body => 'no link' },
	'/broken' => { status => 500 }, '/none' => { body => '<p>no endpoint</p>' }, '/text' => { headers => { 'content-type' => 'text/plain' }, body => '<a rel=webmention href=/error>' },
	'/large' => { headers => { link => '</hook4>; rel=webmention' }, body => 'x' x 1_200_000 }, '/larger' => { body => '<link rel=webmention href=/error>' . 'x' x 1_200_000 },
	'POST /hook4' => { status => 200, body => 'y' x 1_200_000 }, '/limited' => $page->('/hook5'), 'POST /hook5' => [ { status => 429, headers => { 'retry-after' => '1' } }, { status => 200 } ]);
my %id = map { $_ => $insert->("/$_") } qw(event shy gone refusing broken none text large larger limited);
$app->idle('all of them');
is(scalar($web->told('/hook')), 4, 'an endpoint that fails three times is told a fourth time ...');
# (A kept connection that is reset is not a failed try: libcurl opens another.)
like($app->state($id{event}, "concat_ws(' ', state, attempts, http_status, last_error)"), qr/^told [23] 202$/, '... and has it then');
is($app->state($id{shy}), 'told/going', 'so is a target whose page cannot be had at first');
is($app->state($id{gone}, $what), 'failed 0 http_410: of the target', 'a target that is gone is not asked again');
is($app->state($id{refusing}, $what), 'failed 0 http_400: of the endpoint', 'nor an endpoint that refuses');
is(scalar($web->told('/hook3')), 1, 'which was told once');
is($app->state($id{broken}, $what), 'failed 4 http_500: of the target', 'what always fails is given up');
is($app->state($id{none}, $what), 'no_endpoint 0', 'a target without an endpoint is no failure');
is($app->state($id{text}, $what), 'no_endpoint 0', 'nor one that is no HTML');
is($app->state($id{large}, $what), 'told 0', 'of a page that is too long the headers count, and of an answer the status');
is($app->state($id{larger}, $what), 'no_endpoint 0 too_large: its headers name none, and the page is larger than 1 MiB', 'more of it is not read');
is($app->state($id{limited}, $what), 'told 1', 'an endpoint that asks for time gets it');
is($app->sql("SELECT string_agg(uri, ' ' ORDER BY uri) FROM rsvp_sync.history WHERE action = 'webmention' AND outcome = 'failed'"),
	join(' ', map { $web->url($_) } qw(/broken /gone /refusing)), 'failures are in the history');

# --- retry and discard

$web->pages('/broken' => $page->('/hook6'), 'POST /hook6' => { status => 200 }, 'POST /hook3' => { status => 201 });
is($app->sql("SELECT rsvp_sync.discard('rsvp', '$id{gone}'), rsvp_sync.discard('rsvp', '$id{none}')"), 't|f', 'what has failed can be discarded');
is($app->sql('SELECT rsvp_sync.retry()'), '2', 'retry() takes what failed and was not discarded');
$app->idle('retried');
is($app->state($id{broken}) . $app->state($id{refusing}), 'told/goingtold/going', 'and it succeeds now');
is($app->state($id{gone}), 'discarded/going', 'what was discarded stays so');
$web->pages('/gone' => $page->('/hook6'));
$app->sql("SELECT rsvp_sync.retry('rsvp', '$id{gone}')");
$app->idle('retried by name');
is($app->state($id{gone}), 'told/going', 'until it is asked for by name');

# --- addresses

$web->pages('/inward' => { status => 302, headers => { location => '{OTHER}/event' } }, '/inner' => $page->('{OTHER}/hook'), '/file' => { status => 302, headers => { location => 'file:///etc/passwd' } },
	'/local' => $page->('http://localhost:1/hook'), map({ ("/hop$_" => { status => 301, headers => { location => '/hop' . ($_ + 1) } }) } 0 .. 6), '/hop7' => $page->('/hook7'),
	'/moved' => $page->('/hook8'), 'POST /hook8' => { status => 307, headers => { location => '/hook9' } }, 'POST /hook9' => { status => 200 },
	'/away' => $page->('/hook10'), 'POST /hook10' => { status => 302, headers => { location => '/hook9' } }, 'POST /hook7' => { status => 200 });
$web->clear_log;
%id = map { $_ => $insert->("/$_") } qw(inward inner file local hop1 hop2 moved away);
$id{plain} = $insert->('http://198.51.100.7/event');
$id{other} = $insert->($web->other('/event'));
$app->idle('addresses');
like($app->state($id{$_}, $what), qr/^failed 0 forbidden: /, "$_: refused") for qw(inward inner local plain other);
is($app->state($id{file}, $what), 'failed 0 bad_redirect: not to a web page', 'file: refused');
is(scalar(grep { $_->{host} ne '127.0.0.1:' . $web->{port} } $web->log), 0, 'nothing was asked of another port of this machine');
is($app->state($id{hop1}, $what), 'failed 0 too_many_redirects: more than five one after another', 'six redirects are too many');
is($app->state($id{hop2}, $what), 'told 0', 'five are not');
is_deeply([ $web->told('/hook9') ], [ { source => $web->url("/pages/$id{moved}"), target => $web->url('/moved') } ], 'an endpoint that is elsewhere for now is told there, another kind of redirect is not followed');
is($app->state($id{away}, $what), 'failed 0 http_302: of the endpoint', 'and says so');

# --- the worker dies between an answer and its being written down

$web->pages('/event' => $page->('/slow'), 'POST /slow' => [ { hang => JSON::PP::true }, { status => 200 } ]);
my $slow = $insert->('/event');
ok(wait_for { $web->told('/slow') == 1 }, 'an endpoint was told, and does not answer');
is($app->state($slow), 'sending/going', 'the row says so');
$pg->kill9_worker('rsvp_sync worker');
ok(wait_for { ($pg->psql('app', 'SELECT 1'))[1] eq '1' }, 'the worker was killed');
$app->idle('told again');
is(scalar($web->told('/slow')), 2, 'the next worker tells it again, as nobody knows');
is($app->state($slow), 'told/going', 'and then it is told');

# --- what keeps them back

$web->pages('/event' => $page->('/hook'), 'POST /hook' => { status => 200 });
$web->clear_log;
$app->sql("SELECT rsvp_sync.pause('rsvp')");
my $waits = $insert->('/event');
$app->sql("SELECT rsvp_sync.resume('rsvp')");
$app->idle('resumed');
is(scalar($web->told('/hook')), 1, 'a paused table tells when it is resumed');
my $site = $web->url;
$app->sql("SELECT rsvp_sync.pause('$site')");
my $held = $insert->('/event');
ok($pg->poll_query_until('app', "SELECT count(*) = 1 FROM rsvp_sync.webmention WHERE attendance_id = '$held' AND state = 'waiting'"), 'a paused server');
$app->idle('nothing can be told');
is(scalar($web->told('/hook')), 1, '... is not told');
$app->sql("SELECT rsvp_sync.resume('$site')");
$app->idle('the server resumed');
is(scalar($web->told('/hook')), 2, '... until it is resumed');

my $mode = sub { my ($mode) = @_; $app->sql("ALTER SYSTEM SET rsvp_sync.mode = '$mode'"); $pg->reload };
$mode->('dry_run');
ok($pg->poll_query_until('app', "SELECT current_setting('rsvp_sync.mode') = 'dry_run'"), 'dry_run');
my $dry = $insert->('/event');
ok($pg->poll_query_until('app', "SELECT count(*) = 1 FROM rsvp_sync.history WHERE attendance_id = '$dry' AND action = 'webmention' AND outcome = 'dry_run' AND uri = '" . $web->url('/event') . "'"),
	'what would be told is in the history');
$app->idle('in dry_run');
is(scalar($web->told('/hook')), 2, 'and is not told');
$mode->('live');
ok($pg->poll_query_until('app', "SELECT state = 'told' FROM rsvp_sync.webmention WHERE attendance_id = '$dry'"), 'in mode live it is');

# --- the query learns of pages later

$app->sql(<<'SQL');
CREATE TABLE late (id int PRIMARY KEY, status text, page text, event text);
INSERT INTO late SELECT n, 'yes', 'https://app.example/' || n, '{BASE}/event' FROM generate_series(1, 3) n;
SQL
$app->sql("UPDATE late SET event = '" . $web->url('/event') . "'");
my $query = sub { my ($more) = @_; return "SELECT rsvp_sync.attach('late', \$\$SELECT id, NULL::text AS did, NULL::text AS event_uri, status$more FROM late\$\$, options => '{\"status_map\": {\"yes\": \"going\", \"no\": \"notgoing\", \"maybe\": \"interested\"}}')" };
$app->sql($query->(''));
$app->sql("UPDATE late SET status = 'maybe' WHERE id = 1");
$app->idle('without pages');
$app->sql($query->(', page AS permalink, event AS event_url'));
$app->sql("SELECT rsvp_sync.reconcile('late')");
$app->idle('with pages');
is(scalar($web->told('/hook')), 3, 'rows that were there before the query gave their pages are told to nobody');
$app->sql("UPDATE late SET status = 'yes' WHERE id = 1; DELETE FROM late WHERE id = 2");
$app->idle('changed');
is(scalar($web->told('/hook')), 4, 'but when they change, and not when they go');
is($app->sql("SELECT string_agg(attendance_id || state, ' ' ORDER BY attendance_id) FROM rsvp_sync.webmention WHERE attendance = 'late'::regclass"), '1told 3not_backfilled', 'the view has them');

# --- what no trigger sees

$app->sql("CREATE TABLE place (id int PRIMARY KEY, url text); INSERT INTO place VALUES (1, '" . $web->url('/shy') . "'); CREATE TABLE there (id int PRIMARY KEY, status text, place int);
	SELECT rsvp_sync.attach('there', \$\$SELECT t.id, NULL::text AS did, NULL::text AS event_uri, t.status, 'https://app.example/there/' || t.id AS permalink, p.url AS event_url FROM there t JOIN place p ON p.id = t.place\$\$,
		options => '{\"status_map\": {\"yes\": \"going\"}, \"event_pages\": \"https://app.example/\"}'); INSERT INTO there VALUES (1, 'yes', 1), (2, 'yes', 1)");
$app->idle('told');
$web->clear_log;
$app->sql("UPDATE place SET url = '" . $web->url('/event') . "'");
is($app->sql("SELECT rsvp_sync.reconcile('there')"), 2, 'reconcile() finds rows whose target is another now');
$app->idle('reconciled');
is(scalar($web->told('/hook2')) . scalar($web->told('/hook')), '22', 'and both targets are told');
is($app->sql("SELECT rsvp_sync.reconcile('there')"), 0, 'then there is nothing to find');
$app->sql("UPDATE place SET url = 'https://app.example/events/1'; SELECT rsvp_sync.reconcile('there')");
$app->idle('its own page');
is($app->sql("SELECT string_agg(DISTINCT state, ' ') FROM rsvp_sync.webmention WHERE attendance = 'there'::regclass"), 'withdrawn', 'an application is not told of its own rows');
$web->clear_log;

# --- a copy

$app->sql("INSERT INTO rsvp_sync._webmention (source_id, key, permalink, target, digest, wanted, due_at) SELECT source_id, 'x', '" . $web->url('/pages/x') . "', '" . $web->url('/event') . "', 'x', 'going', now() + interval '1 second' FROM rsvp_sync._source WHERE attendance = 'rsvp'::regclass;
	UPDATE rsvp_sync._installation SET system_identifier = system_identifier + 1");
ok($pg->poll_query_until('app', "SELECT due_at < now() - interval '1 second' FROM rsvp_sync._webmention WHERE key = 'x'"), 'due in a copied database');
is(scalar($web->told('/hook')), 0, 'it is not told');
$app->sql('SELECT rsvp_sync.activate()');
ok(wait_for { $web->told('/hook') == 1 }, 'until that is activated');

done_testing;
