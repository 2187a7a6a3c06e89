# docs/indieweb.md: its SQL runs as it stands, its Express application serves
# what the page says, and the statements of its Django views are the same.

use strict;
use warnings;

use HTTP::Tiny ();
use Test::More;
use RsvpSyncTest;

my $page = slurp(repo_root() . '/docs/indieweb.md');
my @blocks;
push @blocks, { language => $1, code => $2 } while $page =~ /^```(\w+)\n(.*?)^```$/msg;
is join(' ', map { $_->{language} } @blocks), 'sql js python sql sql sql sql', 'the blocks that this test knows';
my ($attach, $feeds, $deliver, $inbox, $form) = map { $_->{code} } grep { $_->{language} eq 'sql' } @blocks;
my ($express) = map { $_->{code} } grep { $_->{language} eq 'js' } @blocks;
my ($django) = map { $_->{code} } grep { $_->{language} eq 'python' } @blocks;

# Without a worker, who would tell the events' pages of these answers.
my $pg = start_server(conf => { 'rsvp_sync.plc_url' => 'http://127.0.0.1:9', max_worker_processes => 1 });
$pg->create_db('app');
$pg->safe_psql('app', <<'SQL');
CREATE SCHEMA app;
CREATE TABLE app.members (id int PRIMARY KEY, did text, name text, photo text);
CREATE TABLE app.events (id int PRIMARY KEY, uri text, url text, name text, place text, starts_at timestamptz, secret boolean DEFAULT false);
CREATE TABLE app.rsvps (id int PRIMARY KEY, member_id int, event_id int, answer text, comment text,
	created_at timestamptz DEFAULT '2026-01-01Z', updated_at timestamptz DEFAULT '2026-01-02Z');
INSERT INTO app.members VALUES (1, NULL, 'Alice <b>', 'https://example.org/a.jpg');
INSERT INTO app.events VALUES (1, NULL, 'https://events.example.com/1', 'A party', 'Here', '2030-01-01 18:00Z', false), (2, NULL, 'https://events.example.com/2', 'Hush', 'There', '2030-01-01Z', true);
INSERT INTO app.rsvps VALUES (1, 1, 1, 'maybe', '</body>'), (2, 1, 2, 'yes', NULL), (3, 1, 1, 'perhaps', NULL);
SQL

# --- SQL, in the order of the page

$pg->safe_psql('app', $attach);
is $pg->safe_psql('app', q{SELECT rsvp_sync.rsvp_document('app.rsvps', '1') ->> 'status'}), 'maybe', 'attached: maybe stays maybe';
my $made = $pg->safe_psql('app', $feeds);
like $made, qr{<rss version="2.0">.*<item>.*Maybe Attending: A party.*</item></channel></rss>}s, 'a feed';
like $made, qr{BEGIN:VEVENT.*PARTSTAT=TENTATIVE:https://example.org/people/1}s, '... and a calendar';
unlike $made, qr/Hush/, '... without what is secret';

my ($alter, $select) = split /\n\n/, $deliver;
$pg->safe_psql('app', $alter);
sub due { return from_json($pg->safe_psql('app', $select)) }
sub types { return join ' ', map { $_->{type} } @{ $_[0] } }
sub told { my ($said) = @_; (my $json = json($said)) =~ s/'/''/g; $pg->safe_psql('app', "UPDATE app.rsvps SET told = '$json' WHERE id = 1") }
my $said = due();
is types($said), 'TentativeAccept', 'delivering: the first answer';
is $said->[0]{to}[0], 'https://events.example.com/@host', '... to the organiser';
told($said);
is types(due()), 'TentativeAccept', '... the same again';
is due()->[0]{id}, $said->[0]{id}, '... is the same activity';
$pg->safe_psql('app', q{UPDATE app.rsvps SET answer = 'no', updated_at = '2026-01-03Z' WHERE id = 1});
$said = due();
is types($said), 'Undo Reject', '... another one: the first is taken back';
told($said);
$pg->safe_psql('app', q{UPDATE app.events SET secret = true WHERE id = 1});
$said = due();
is types($said), 'Undo', '... kept secret now: taken back';
is $said->[0]{object}{type}, 'Reject', '... what was said last';
$pg->safe_psql('app', q{UPDATE app.events SET secret = false WHERE id = 1});

is $pg->safe_psql('app', $form), 'maybe', 'the form';

SKIP: {
	skip 'process_external_rsvp() is not there yet', 1 if $pg->safe_psql('app', q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'rsvp_sync'::regnamespace AND proname IN ('process_external_rsvp', 'delete_external_rsvp')}) < 2;
	$pg->safe_psql('app', <<'SQL');
CREATE FUNCTION app.answer(did text, event_uri text, status text, rsvp jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	of_event int := (SELECT e.id FROM app.events e WHERE e.url = event_uri);
BEGIN
	IF of_event IS NULL THEN RETURN NULL; END IF;
	INSERT INTO app.members VALUES (7, did, did) ON CONFLICT DO NOTHING;
	INSERT INTO app.rsvps VALUES (7, 7, of_event, 'yes') ON CONFLICT DO NOTHING;
	UPDATE app.rsvps r SET answer = CASE answer.status WHEN 'going' THEN 'yes' WHEN 'interested' THEN 'maybe' ELSE 'no' END WHERE r.id = 7;
	RETURN 7;
END
$$;
SELECT rsvp_sync.attach('app.rsvps', apply => 'app.answer(text, text, text, jsonb)');
SQL
	my $answer = sub { my ($type, $n, %more) = @_; return json({ type => $type, id => "https://b.example/$n", actor => 'https://b.example/', object => 'https://events.example.com/1', published => "2026-02-0${n}T00:00:00Z", %more }) };
	my $get = sub { return $pg->safe_psql('app', "$inbox\nEXECUTE inbox('$_[0]')") };
	my $word = sub { return $pg->safe_psql('app', 'SELECT m.name, r.answer FROM app.rsvps r JOIN app.members m ON m.id = r.member_id WHERE r.id = 7') };
	is $get->($_), '', 'the inbox: what is no RSVP does nothing' for json({ type => 'Like' }), $answer->('Accept', 1, object => { type => 'Follow' }), $answer->('Accept', 1, id => undef);
	is $get->($answer->('Accept', 1, object => 'https://nowhere.example/1')), '', '... nor one for an unknown event, which may be no event';
	is $word->(), '', '... and nothing happens';
	$get->($answer->('Accept', 2));
	is $word->(), 'https://b.example/|yes', '... an Accept: he comes';
	$get->($answer->('TentativeAccept', 3));
	is $word->(), 'https://b.example/|maybe', '... another answer';
	$get->($answer->('Undo', 4, object => from_json($answer->('TentativeAccept', 3))));
	isnt $word->(), 'https://b.example/|maybe', '... which he takes back';
	$pg->safe_psql('app', 'DELETE FROM app.rsvps WHERE id = 7');
}

# --- Express

my $dir = File::Temp->newdir('/tmp/rsvp-sync-express-XXXXXX');
chmod 0755, "$dir";
symlink repo_root() . '/test/pds/node_modules', "$dir/node_modules" or die "symlink: $!";
open my $out, '>', "$dir/app.mjs" or die $!;
print $out $express, "const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))\nprocess.stdin.resume().on('end', () => process.exit(0))\n";
close $out;
{
	local %ENV = (%ENV, PGHOST => $pg->host, PGPORT => $pg->port, PGUSER => 'postgres', PGDATABASE => 'app');
	pipe my $input, our $stop or die;
	my $pid = open my $from, '-|';
	die "fork: $!" if !defined $pid;
	if ($pid == 0) {
		close $stop;
		open STDIN, '<&', $input or die;
		exec repo_root() . '/test/pds/run', "$dir/app.mjs" or die;
	}
	close $input;
	chomp(my $port = <$from> // BAIL_OUT('the Express application did not start'));
	my $http = HTTP::Tiny->new(timeout => 30);
	my $get = sub { my ($path, $accept) = @_; return $http->get("http://127.0.0.1:$port$path", { headers => { Accept => $accept // 'text/html' } }) };

	my $answer = $get->('/rsvps/1');
	is $answer->{status}, 200, 'Express: the page';
	like $answer->{headers}{'content-type'}, qr{^text/html; charset=utf-8}, '... is HTML';
	like $answer->{content}, qr{<article class="h-entry.*<data class="p-rsvp" value="no">.*Alice &lt;b&gt;|Alice &lt;b&gt;.*<data class="p-rsvp" value="no">}s, '... with the h-entry';
	like $answer->{content}, qr{&lt;/body&gt;}, '... escaped';
	$answer = $get->('/rsvps/1', 'application/activity+json');
	is $answer->{headers}{'content-type'}, 'application/activity+json', '... and the activity';
	is from_json($answer->{content})->{type}, 'Reject', '... is one';
	is $get->('/rsvps/1', 'application/ld+json; profile="https://www.w3.org/ns/activitystreams"')->{headers}{vary}, 'Accept', '... under its other name, and caches are told';
	is $get->('/rsvps/3', 'application/activity+json')->{status}, 410, '... nothing without a status';
	is $get->($_->[0])->{status}, $_->[1], "... $_->[0]: $_->[1]" for [ '/rsvps/2', 410 ], [ '/rsvps/99', 410 ], [ '/rsvps/x', 404 ];
	$answer = from_json($get->('/people/1/outbox')->{content});
	is "$answer->{type} $answer->{totalItems}", 'OrderedCollection 1', '... the outbox';
	(my $first = $answer->{first}) =~ s{^https://example.org}{};
	is from_json($get->($first)->{content})->{orderedItems}[0]{type}, 'Reject', '... and its page';
	close $stop;
	close $from;
}

# --- Django: the same statements, with its placeholders

my @statements = $django =~ /(SELECT rsvp_sync.*?)"/sg;
is scalar @statements, 2, 'Django: two statements';
for (@statements) { s/%s/\$@{[ ++$a ]}/ while /%s/; $a = 0 }
is $pg->safe_psql('app', "PREPARE rsvp AS $statements[0]; EXECUTE rsvp('1')"), $pg->safe_psql('app',
	q{SELECT rsvp_sync.rsvp_html(d), rsvp_sync.rsvp_badge(d), rsvp_sync.rsvp_activity(d) FROM rsvp_sync.rsvp_document('app.rsvps', '1') d}), '... the row';
is $pg->safe_psql('app', "PREPARE rsvp AS $statements[0]; EXECUTE rsvp('2')"), '', '... none for what is secret';
is from_json($pg->safe_psql('app', "PREPARE outbox AS $statements[1]; EXECUTE outbox('https://example.org/people/1', 1)"))->{totalItems}, 1, '... the outbox';

done_testing;
