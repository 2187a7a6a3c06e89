# Telling the page of an event: all 23 ways to say where, and what happens when
# a row is made, changed, moved, withheld and deleted.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncWeb;

my $web = start_web;
my $app = web_app($web, conf => { 'rsvp_sync.user_agent_contact' => 'ops@app.example' });
my $pages = $web->url('/pages');

# --- discovery

$app->sql("INSERT INTO rsvp SELECT 1000 + n, NULL, 'yes', '$pages/' || n, '" . $web->url('/test') . "/1' FROM generate_series(1, 20) n");
$app->attach;
my $endpoint = sub { my ($n) = @_; return $n == 15 ? '/test/15' : $n == 21 ? '/test/21/webmention?query=yes' : "/test/$n/webmention" };
$app->sql(join '', map { my $target = $web->url($_ == 23 ? '/test/23/page' : "/test/$_"); "INSERT INTO rsvp VALUES ($_, NULL, 'yes', '$pages/$_', '$target');" } 1 .. 23);
$app->idle('23 pages');
for my $n (1 .. 22) {
	my @told = $web->told($endpoint->($n));
	is_deeply(\@told, [ { source => "$pages/$n", target => $web->url("/test/$n") } ], "discovery $n: told once, in the form alone");
}
my @told = grep { $_->{path} =~ m{^/test/23/page/webmention-endpoint/\d+$} } $web->log(method => 'POST');
is_deeply([ map { $_->{form} } @told ], [ { source => "$pages/23", target => $web->url('/test/23/page') } ], 'discovery 23: beside the final page, about the first');
is(scalar(grep { $_->{path} =~ /error/ } $web->log), 0, 'nothing else was told');
is(scalar(grep { $_->{method} eq 'POST' } $web->log), 23, 'each of them once, and none of the rows that were there before');
is(scalar(grep { $_->{method} !~ /^(?:GET|POST)$/ } $web->log), 0, 'nobody was asked with HEAD');
is(scalar(grep { $_->{headers}{'user-agent'} !~ /^rsvp_sync\/\S+ \(\+ops\@app\.example\) Webmention$/ } $web->log), 0, 'and everybody was told who asks, and what for');
is($app->state(21, 'endpoint'), $web->url('/test/21/webmention?query=yes'), 'the view says where it went');
is($app->state(1001), 'not_backfilled/going', 'a row that was there before is known, and told to nobody');
is($app->sql("SELECT count(*) FROM rsvp_sync.history WHERE action = 'webmention' AND outcome = 'ok'"), 23, 'history has them');

# --- one page through its life

my $event = $web->url('/event');
my %hook = ('POST /hook' => { status => 200, body => 'thanks' });
$web->pages('/event' => { headers => { link => '</hook>; rel=webmention' } }, '/event2' => { headers => { link => '</hook2>; rel=webmention' } },
	'POST /hook2' => { status => 201, headers => { location => 'status/7' } }, '/status/7' => { headers => { 'content-type' => 'application/json' }, body => '{"status": "accepted"}' }, %hook);
my $say = sub { my ($n) = @_; return { source => "$pages/$n", target => $event } };

$app->sql("INSERT INTO rsvp VALUES (50, NULL, 'yes', '$pages/50', '$event')");
$app->idle('published');
is_deeply([ $web->told('/hook') ], [ $say->(50) ], 'told when it was published');
$app->sql("UPDATE rsvp SET did = NULL, withheld = NULL WHERE id = 50; UPDATE rsvp SET page = page WHERE id = 50");
$app->idle('nothing changed');
is(scalar($web->told('/hook')), 1, 'not again, as nothing has changed');
$app->sql("UPDATE rsvp SET status = 'maybe' WHERE id = 50");
$app->idle('changed');
is(scalar($web->told('/hook')), 2, 'again when the status changed');
is($app->state(50, "concat_ws('/', state, status, told, http_status, attempts)"), 'told/interested/interested/200/0', 'the view knows what was told');

$app->sql("UPDATE rsvp SET event = '" . $web->url('/event2') . "' WHERE id = 50");
$app->idle('another event');
is(scalar($web->told('/hook')), 3, 'the target it speaks of no more is told again');
is_deeply([ $web->told('/hook2') ], [ { source => "$pages/50", target => $web->url('/event2') } ], 'and so is the new one');
is($app->state(50), "withdrawn/gone\ntold/interested", 'both are remembered');
ok(wait_for { $app->state(50, "status_http || status_text") =~ /200\{"status": "accepted"\}/ }, 'the status page of a 201 was looked at')
	or diag $app->state(50, 'webmention');
is(scalar($web->log(path => '/status/7')), 1, 'once');

$app->sql("UPDATE rsvp SET page = '$pages/50b' WHERE id = 50");
$app->idle('another page');
# the two side by side, in whichever order
is_deeply([ sort map { $_->{source} } $web->told('/hook2') ], [ "$pages/50", "$pages/50", "$pages/50b" ], 'a page that moved is told of by its old address and its new one');
$app->sql("UPDATE rsvp SET page = '$pages/50' WHERE id = 50");
$app->idle('back');
is_deeply([ sort map { $_->{source} } $web->told('/hook2') ], [ ("$pages/50") x 3, ("$pages/50b") x 2 ], 'and back');

$web->clear_log;
$app->sql("UPDATE rsvp SET withheld = 'members only', on_withheld = 'keep' WHERE id = 50");
$app->idle('withheld, keep');
is(scalar($web->told('/hook2')), 0, 'withheld and kept: nobody is told');
$app->sql("UPDATE rsvp SET on_withheld = 'delete' WHERE id = 50");
$app->idle('withheld, delete');
is(scalar($web->told('/hook2')), 1, 'withheld and withdrawn: told again');
$app->sql("UPDATE rsvp SET withheld = NULL WHERE id = 50");
$app->idle('published again');
is(scalar($web->told('/hook2')), 2, 'published again: told again');
$app->sql("UPDATE rsvp SET status = 'secret' WHERE id = 50");
$app->idle('a status not to be published');
is(scalar($web->told('/hook2')), 3, 'a status that is not to be published withdraws it');
$app->sql("UPDATE rsvp SET status = 'unheard-of' WHERE id = 50");
$app->idle('an unknown status');
$app->sql("UPDATE rsvp SET status = 'no' WHERE id = 50");
$app->idle('declined');
is(scalar($web->told('/hook2')), 4, 'an unknown one says nothing, a declined one is told');
$app->sql("DELETE FROM rsvp WHERE id = 50");
$app->idle('deleted');
is(scalar($web->told('/hook2')), 5, 'a row that is gone: told again');
is($app->state(50, "state || coalesce(told, '-') || (removed_at IS NOT NULL)"), join("\n", ('withdrawngonetrue') x 3), 'and all is withdrawn');

# --- what is not told

$web->clear_log;
$app->sql("INSERT INTO rsvp VALUES (60, NULL, 'yes', '$pages/60', '$event', now() - interval '1 day');
	INSERT INTO rsvp VALUES (61, NULL, 'yes', NULL, '$event'), (62, NULL, 'yes', '$pages/62', 'no url'),
	(63, NULL, 'yes', 'ftp://x/y', '$event'), (64, NULL, 'yes', '$pages/64', '" . ('https://e.example/' . 'x' x 3000) . "'), (65, NULL, 'secret', '$pages/65', '$event');
	UPDATE rsvp SET status = 'no' WHERE id = 1001; UPDATE rsvp SET did = 'x' WHERE id = 1002");
$app->idle('nothing to tell');
# (but for the status page of what was told before)
is(join(' ', grep { $_ ne '/status/7' } map { $_->{path} } $web->log), '', 'a past event, no page, no target, bad addresses, a status not to be published, a decline of what was never told, an old row untouched: nobody is asked');
is($app->state(1001), 'never_published/notgoing', 'and the view says so');
$app->sql("UPDATE rsvp SET status = 'maybe' WHERE id IN (1001, 1002); INSERT INTO rsvp VALUES (66, NULL, 'no', '$pages/66', '$event')");
$app->idle('old rows that changed');
is(scalar($web->told('/test/1/webmention')), 2, 'old rows that change are told');
is_deeply([ $web->told('/hook') ], [ $say->(66) ], 'and a row that is made with a decline');
is($app->state(65), '', 'nothing is remembered of what was never wanted');

# --- backfill, asked for later

$web->clear_log;
$app->attach(backfill => 'all');
$app->idle('backfill');
is(scalar($web->told('/test/1/webmention')), 18, 'backfill tells of all the others');

# --- detaching

$web->clear_log;
$app->sql("SELECT rsvp_sync.detach('rsvp', withdraw => true)");
ok($app->pg->poll_query_until('app', "SELECT count(*) = 0 FROM rsvp_sync.source"), 'detached with withdrawal');
is(scalar($web->told('/hook')), 1, 'every target is told that the page is gone ...');
is(scalar($web->told('/test/1/webmention')), 21, '... each of them');
is($app->sql('SELECT count(*) FROM rsvp_sync._webmention'), 0, 'and nothing is kept');

done_testing;
