# Webmentions that others send for our events: taken, verified, applied,
# changed and taken back.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncWeb;

my $web = start_web;
my $app = web_app($web, conf => { 'rsvp_sync.max_attempts' => 3 });
my $pg = $app->pg;

# The application: whoever answers one of its events gets a row.
$app->sql(<<'SQL');
CREATE TABLE event (id int PRIMARY KEY, url text UNIQUE);
INSERT INTO event SELECT n, 'https://app.example/events/' || n FROM generate_series(1, 3) n;
CREATE TABLE answer (id serial PRIMARY KEY, event int NOT NULL REFERENCES event, person text NOT NULL, status text NOT NULL, name text, UNIQUE (event, person));
CREATE FUNCTION take_answer(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE sql AS $$
	INSERT INTO answer (event, person, status, name)
	SELECT e.id, did, coalesce(take_answer.status, 'cancelled'), rsvp ->> 'handle' FROM event e WHERE e.url = event_uri
	ON CONFLICT (event, person) DO UPDATE SET status = excluded.status, name = coalesce(excluded.name, answer.name) RETURNING id::text
$$;
SELECT rsvp_sync.attach('answer', $$SELECT a.id, NULL::text AS did, NULL::text AS event_uri, a.status, e.url AS event_url FROM answer a JOIN event e ON e.id = a.event$$,
	'take_answer', '{"status_map": {"going": "going"}, "event_pages": "https://app.example/events/"}');
SQL
my $answers = sub { return $app->sql("SELECT string_agg(concat_ws(' ', event, replace(person, '" . $web->url . "', 'WEB'), status, name), E'\\n' ORDER BY event, person) FROM answer") };
my $receive = sub { my ($path, $n) = @_; return $app->sql(sprintf "SELECT rsvp_sync.receive_webmention('%s', 'https://app.example/events/%d')", $path =~ m{^/} ? $web->url($path) : $path, $n // 1) };
my $state = sub { my ($path, $n) = @_; $n //= 1; return $app->sql("SELECT concat_ws(' ', state, status, last_error) FROM rsvp_sync.webmention_received WHERE source = '" . $web->url($path) . "' AND target = 'https://app.example/events/$n'") };
# post(word, event ..., author => HTML)
my $post = sub {
	my ($word, @events) = @_;
	return { body => '<article class="h-entry"><a class="p-author h-card" href="/me">Me &amp; I</a> ' . (defined $word ? qq(<data class="p-rsvp" value="$word">x</data>) : '')
		. join('', map { qq(<a class="u-in-reply-to" href="https://app.example/events/$_">event</a>) } @events) . '</article>' };
};

# --- what is taken at all

my $fails = sub { my ($source, $target, %opt) = @_;
	my (undef, undef, $err) = $pg->psql('app', "\\set VERBOSITY verbose\nSELECT rsvp_sync.receive_webmention($source, $target)", %opt); return $err };
my $good = "'https://app.example/events/1'";
like($fails->('NULL', $good), qr/22004: source must not be null.*\nHINT/s, 'a source is needed');
like($fails->("'https://x.example/'", 'NULL'), qr/22004: target must not be null/, 'and a target');
like($fails->("'$_'", $good), qr/22023: source is not the address of a web page.*\nHINT/s, "no source: $_") for 'x', 'ftp://x.example/', 'https://', 'javascript:alert(1)', 'https://x.example/' . 'x' x 2100;
like($fails->("'https://x.example/'", "'mailto:a\@b.example'"), qr/22023: target is not the address/, 'no target');
like($fails->($good, $good), qr/22023: source and target are the same page/, 'a page does not mention itself');
like($fails->("'HTTPS://App.example:443/events/1#a'", $good), qr/22023: source and target are the same page/, 'however it is spelt');
like($fails->("'https://x.example/'", "'https://app.example/other'"), qr/42704: no event here has the page .*\nHINT/s, 'nor one that is no event of ours');
is($app->sql('SELECT count(*) FROM rsvp_sync._webmention_in'), 0, 'nothing is kept of these');
$app->sql('CREATE ROLE nobody LOGIN; CREATE ROLE webapp LOGIN; SELECT rsvp_sync.grant_application(\'webapp\')');
like($fails->("'https://x.example/'", $good, user => 'nobody'), qr/42501: permission denied for function/, 'not everybody may hand them in');

# --- one RSVP's life

$web->pages('/yes' => $post->('YES', 1), '/302' => { status => 302, headers => { location => '/yes2' } }, '/yes2' => $post->('maybe', 2));
my $id = $receive->('/yes');
like($id, qr/^[0-9a-f]{8}-[0-9a-f-]{27}$/, 'an id is returned');
$app->idle('received');
is($answers->(), '1 WEB/me going Me & I', 'an RSVP is applied');
is($app->sql("SELECT concat_ws(' ', state, status, author_name, result ->> 'action', verified_at IS NOT NULL) FROM rsvp_sync.webmention_received WHERE id = '$id'"), 'applied going Me & I created t', 'and can be looked up');
is(scalar(grep { $_->{headers}{'user-agent'} =~ /Webmention/ } $web->log(path => '/yes')), 1, 'the page was asked once, by name');
$web->pages('/yes' => $post->('no', 1));
is($receive->('/yes'), $id, 'the same pair again is the same webmention');
$app->idle('updated');
is($answers->(), '1 WEB/me notgoing Me & I', 'and an update');
is($app->sql('SELECT count(*) FROM rsvp_sync._webmention_in'), 1, 'of one row');
$receive->('/302', 2);
$app->idle('redirected');
is($answers->(), "1 WEB/me notgoing Me & I\n2 WEB/me interested Me & I", 'a page may be elsewhere');

$web->pages('/yes' => { status => 410, body => 'gone' });
$receive->('/yes');
$app->idle('410');
is($answers->(), "1 WEB/me cancelled Me & I\n2 WEB/me interested Me & I", '410 cancels exactly that one');
like($state->('/yes'), qr/^removed /, 'and the view says so');
$web->pages('/yes' => $post->('yes', 1));
$receive->('/yes');
$app->idle('again');
$web->pages('/yes2' => { body => '<p>changed my mind</p>' });
$receive->('/302', 2);
$app->idle('link removed');
is($answers->(), "1 WEB/me going Me & I\n2 WEB/me cancelled Me & I", 'a page that links no more cancels exactly its own');
$web->pages('/yes' => { body => '<a href="https://app.example/events/1">nice event</a>' });
$receive->('/yes');
$app->idle('no RSVP any more');
is($answers->(), "1 WEB/me cancelled Me & I\n2 WEB/me cancelled Me & I", 'so does one that links, but answers no more');
is($state->('/yes'), 'mention', 'it is a mention now');

# --- one post, several events

$web->pages('/both' => $post->('yes', 1, 3));
$receive->('/both', $_) for 1, 3;
$app->idle('two events');
is($answers->(), "1 WEB/me going Me & I\n2 WEB/me cancelled Me & I\n3 WEB/me going Me & I", 'a post may answer several events');
$web->pages('/both' => $post->('yes', 3));
$receive->('/both', $_) for 1, 3;
$app->idle('one of them');
is($answers->(), "1 WEB/me cancelled Me & I\n2 WEB/me cancelled Me & I\n3 WEB/me going Me & I", 'and take one answer back');

# --- two posts of one person

$web->pages('/old' => { body => $post->('yes', 2)->{body} =~ s{</article>}{<time class="dt-published">2026-01-01</time></article>}r },
	'/new' => { body => $post->('maybe', 2)->{body} =~ s{</article>}{<time class="dt-published">2026-01-02</time></article>}r });
$receive->('/new', 2);
$receive->('/old', 2);
$app->idle('two posts');
like($answers->(), qr/^2 WEB\/me interested/m, 'of two posts of one person the later counts');
$web->pages('/new' => { status => 410 });
$receive->('/new', 2);
$app->idle('the later is gone');
like($answers->(), qr/^2 WEB\/me going/m, 'and when that is gone, the other');

# --- a page of our own

$app->sql("INSERT INTO rsvp_sync._webmention (source_id, key, permalink, target, digest, wanted, state) SELECT source_id, 'own', 'https://app.example/rsvp/1', $good, rsvp_sync._digest_of('https://app.example/rsvp/1', $good), 'going', 'told' FROM rsvp_sync._source");
like($fails->("'https://app.example/rsvp/1'", $good), qr/22023: the source is the page of an attendance row here/, 'a row does not answer twice');

# --- what is not believed, or not there

$web->pages(
	'/theft' => { body => '<div class="h-entry"><a class="p-author h-card" href="https://alice.example/">Alice</a><b class="p-rsvp">yes</b><a class="u-in-reply-to" href="https://app.example/events/1"></a></div>' },
	'/elsewhere' => { body => '<div class="h-entry"><b class="p-rsvp">yes</b><a class="u-in-reply-to" href="https://app.example/events/2"></a></div><a href="https://app.example/events/1">see</a>' },
	'/text' => { headers => { 'content-type' => 'text/plain' }, body => 'see https://app.example/events/1 there' }, '/nothing' => { body => '<!-- <a href="https://app.example/events/1"> -->' },
	'/missing' => { status => 404 }, '/word' => $post->('remote', 1), '/large' => { body => $post->('yes', 1)->{body} . 'x' x 1_100_000 },
	'/inward' => { status => 302, headers => { location => '{OTHER}/x' } }, '/sick' => [ { status => 503 }, { reset => JSON::PP::true }, $post->('yes', 3) ], '/dead' => { status => 500 },
	'/latin' => { headers => { 'content-type' => 'text/html; charset=iso-8859-1' }, body => "<p>caf\x{e9}</p>" . $post->('yes', 1)->{body} });
$receive->("/$_") for qw(theft elsewhere text nothing missing word large inward dead);
$receive->('/sick', 3);
$app->sql("SELECT rsvp_sync.receive_webmention('" . $web->other('/x') . "', $good)");
$app->idle('all of them');
like($answers->(), qr/^1 WEB\/ going Alice$/m, 'who names an author of another site speaks for his own');
unlike($answers->(), qr/alice\.example/, 'and for nobody else');
is($state->('/elsewhere'), 'mention', 'an RSVP to another event is a mention of this one');
is($state->('/text'), 'mention', 'so is an address in a text');
is($state->('/nothing'), 'refused no_link: the page does not link to the target', 'a comment is no link');
is($state->('/missing'), 'failed http_404: of the page', 'a page that is not there says nothing');
is($state->('/word'), 'mention', 'a word that is none of p-rsvp\'s is a mention');
like($state->('/large'), qr/^failed too_large: /, 'a page beyond a MiB is not read');
like($state->('/inward'), qr/^failed forbidden: /, 'a redirect inwards is not followed');
like($app->sql("SELECT last_error FROM rsvp_sync.webmention_received WHERE source = '" . $web->other('/x') . "'"), qr/^forbidden: /, 'nor is an address of this machine asked');
is(scalar(grep { $_->{host} ne '127.0.0.1:' . $web->{port} } $web->log), 0, '... indeed it was not');
is($state->('/sick', 3), 'applied going', 'a page that cannot be had at first is asked again');
is($state->('/dead'), 'failed http_500: of the page', 'but not for ever');

# --- what the application has against it

$app->sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN RAISE EXCEPTION 'not today'; END\$\$; CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON answer FOR EACH ROW EXECUTE FUNCTION refuse()");
$web->pages('/refused' => $post->('maybe', 3));
$receive->('/refused', 3);
$app->idle('refused by a trigger');
is($app->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'app'"), 1, 'an application that refuses does not end the worker');
$app->sql('DROP TRIGGER refuse ON answer');

# --- too many

$app->sql("INSERT INTO rsvp_sync._webmention_in (source_id, tenants, source, target, digest, due_at) SELECT source_id, '{\"\"}', 'https://many.example/' || n, 't', n::text::bytea, now() + interval '1 hour' FROM rsvp_sync._source, generate_series(1, 100) n");
like($fails->("'https://many.example/x'", $good), qr/53400: too many webmentions wait to be verified.*\nDETAIL: +There are 100.*\nHINT/s, 'a server may have so many waiting');
$app->sql('DELETE FROM rsvp_sync._webmention_in WHERE target = $$t$$');

# --- the worker dies while it reads

$web->pages('/slow' => [ { hang => JSON::PP::true }, $post->('yes', 1) ]);
$receive->('/slow');
ok(wait_for { scalar($web->log(path => '/slow')) }, 'a page is being read');
$pg->kill9_worker('rsvp_sync worker');
ok(wait_for { ($pg->psql('app', 'SELECT 1'))[1] eq '1' }, 'the worker is killed');
$app->idle('read again');
is($state->('/slow'), 'applied going', 'the next one reads it');
is($app->sql("SELECT count(*) FROM rsvp_sync.webmention_received", ), $app->sql("SELECT count(*) FROM rsvp_sync._webmention_in"), 'the view has them all');

done_testing;
