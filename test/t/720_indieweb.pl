# What is rendered, read by parsers that others have written: microformats2,
# ActivityStreams and JSON-LD, RSS, iCalendar.  For every status, for parts
# that are missing and for hostile text they find exactly what was put in.

use strict;
use warnings;
use utf8;

use Test::More;
use RsvpSyncTest;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output todo_output);

my $pg = start_server(conf => { 'rsvp_sync.plc_url' => 'http://127.0.0.1:9' });
$pg->create_db('app');

# render(expression over d, document ...) -> its value for each, decoded JSON
sub render {
	my ($expression, @documents) = @_;
	(my $json = json(\@documents)) =~ s/'/''/g;
	return @{ from_json($pg->safe_psql('app', "SELECT jsonb_agg($expression ORDER BY n) FROM jsonb_array_elements('$json') WITH ORDINALITY AS x (d, n)")) };
}

# read_as(form, value ...) -> what the parser made of each
sub read_as {
	my ($form, @values) = @_;
	my ($status, $out, $err) = run_command([ repo_root . '/test/pds/run', repo_root . '/test/pds/read.mjs' ],
		stdin => json([ map { { form => $form, value => $_ } } @values ]));
	BAIL_OUT("read.mjs: $err") if $status;
	my @read = @{ from_json($out) };
	diag $_->{error} for grep { $_->{error} } @read;
	return @read;
}

# --- the documents

my %whole = (
	event_url => 'https://events.example.com/1', event_name => 'A party', event_date => '2030-02-15T18:00:00Z', event_location => 'Here',
	status => 'yes', author => { name => 'Alice', url => 'https://alice.example/', photo => 'https://alice.example/a.jpg' },
	published => '2026-02-01T10:00:00Z', updated => '2026-02-02T10:00:00.5Z', content => 'See you there', permalink => 'https://alice.example/rsvp/1',
	tags => [ 'party', 'evening' ],
);
my %hostile = (
	quotes => q{a "b" 'c' `d` &quot; &amp;lt; <b title="x" onclick='y'>},
	script => q{x</script><script>alert(1)</script><!-- </article> --><style>},
	cdata => q{]]> <![CDATA[ x ]]]]> & y ]]},
	attribute => q{x" onmouseover="alert(1)" class="p-rsvp},
	right_to_left => "\x{5e9}\x{5dc}\x{5d5}\x{5dd} \x{202e}abc\x{202c} \x{627}\x{644}",
	emoji => "\x{1F468}\x{200D}\x{1F469}\x{200D}\x{1F467} \x{1F1E9}\x{1F1EA} e\x{301} \x{FE0F}x",
	lines => "one\ntwo\r\nthree\rfour\ttab",
	calendar => 'a;b,c:d\\n\\\\ BEGIN:VEVENT^n^^"',
	microformat => '<div class="h-entry"><data class="p-rsvp" value="no">',
	long => join('', map { chr(0x4e00 + $_ % 500) . 'ab' } 1 .. 900),
	control => "a\x{1}b\x{8}c\x{1b}d]]\x{1}>e\x{fffe}f\x{7f}g",
	template => '{{constructor.constructor("x")()}} ${x} %s %I \1 $1',
);
my @documents = map { { %whole, status => $_ } } qw(yes no maybe interested);
my @names = qw(yes no maybe interested);
for my $name (sort keys %hostile) {
	my $text = $hostile{$name};
	push @names, $name;
	push @documents, { %whole, event_name => $text, event_location => $text, content => $text, tags => [ $text, "$text 2" ], author => { %{ $whole{author} }, name => $text } };
}
for my $missing (sort grep { $_ ne 'status' } keys %whole) {
	push @names, "without $missing";
	push @documents, { %whole, $missing => undef };
}
push @names, 'strange URLs';
push @documents, { %whole, event_url => q{https://events.example.com/?a=1&b='2'&amp;c=é#f}, permalink => q{http://a@alice.example:8080/%22%3E?<}, author => { name => 'Alice', url => "https://alice.example/'x'" } };
push @names, 'hostile URLs';
push @documents, { %whole, (map { $_ => 'javascript:alert(1)' } qw(event_url permalink)), author => { name => 'Alice', url => 'data:text/html,x', photo => 'JAVASCRIPT:alert(1)' } };
push @names, 'nothing but a status';
push @documents, { status => 'maybe' };

# what XML and iCalendar cannot hold is left out
sub visible { my ($text) = @_; $text =~ s/[\x00-\x08\x0b\x0c\x0e-\x1f\x{fffe}\x{ffff}]//g if defined $text; return $text }
sub link_or_nothing { return defined $_[0] && $_[0] =~ m{^https?://[^\s<>"]+$} ? $_[0] : undef }
sub one { my ($list) = @_; return $list && @$list == 1 ? $list->[0] : $list ? "$list" : undef }

# --- microformats2

my @html = render('rsvp_sync.rsvp_html(d)', @documents);
my @entries = read_as(html => @html);
my %symbol = (yes => '✅ Attending', no => '❌ Not Attending', maybe => '❓ Maybe Attending', interested => '⭐ Interested');

# properties(entry) -> what was put in, as far as microformats2 tells
sub properties {
	my ($p) = @_;
	my ($author, $content) = map { $_ ? $_->[0] : undef } @{$p}{qw(author content)};
	my $card = ref $author ? $author->{properties} : {};
	return {
		status => one($p->{rsvp}), event_url => one($p->{'in-reply-to'}), permalink => one($p->{url}), published => one($p->{published}), updated => one($p->{updated}),
		content => $content && $content->{value}, tags => $p->{category} // [], map { ("author $_" => one($card->{$_})) } qw(name url photo),
	};
}
sub expected {
	my ($d) = @_;
	return {
		status => $d->{status}, (map { $_ => $d->{$_} } qw(published updated content)), (map { $_ => link_or_nothing($d->{$_}) } qw(event_url permalink)), tags => $d->{tags} // [],
		'author name' => $d->{author}{name}, map { ("author $_" => link_or_nothing($d->{author}{$_})) } qw(url photo),
	};
}
my %elements;
for my $i (0 .. $#documents) {
	my ($d, $read) = ($documents[$i], $entries[$i]);
	my $want = expected($d);
	is scalar @{ $read->{items} // [] }, 1, "$names[$i]: one item";
	my $item = $read->{items}[0];
	is "@{ $item->{type} }", 'h-entry', '... an h-entry';
	is_deeply properties($item->{properties}), $want, '... which says what was put in' or diag $html[$i];
	is $read->{texts}{'p-rsvp'}, $symbol{ $d->{status} }, '... the badge';
	my $event = $want->{event_url} ? $read->{texts}{'u-in-reply-to'} : $read->{texts}{'event-name'};
	is $event, $d->{event_name} // $want->{event_url}, '... the event';
	is $read->{texts}{'event-location'}, $d->{event_location}, '... where';
	$elements{$_}++ for @{ $read->{elements} };
}
is_deeply [ sort keys %elements ], [qw(a article data div footer img p span time)], 'and there are no other elements than ours';

# --- RSS

my @items = render('rsvp_sync.rsvp_rss_item(d)', @documents);
my @feeds = read_as(rss => map { qq{<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0"><channel><title>RSVPs</title><link>https://alice.example/</link><description>x</description>$_</channel></rss>} } @items);
my @in_feed = read_as(html => map { ($_->{items} && $_->{items}[0]{content}) // '' } @feeds);
for my $i (0 .. $#documents) {
	my ($d, $feed) = ($documents[$i], $feeds[$i]);
	my $want = expected($d);
	is scalar @{ $feed->{items} // [] }, 1, "$names[$i]: a feed with one item" or next;
	my $item = $feed->{items}[0];
	my $title = visible(join ': ', grep { defined } $symbol{ $d->{status} }, $d->{event_name} // $want->{event_url});
	is $item->{title}, $title, '... badge and event in its title';
	is $item->{link}, $want->{permalink}, '... its link';
	is $item->{guid}, $want->{permalink}, '... which is its guid' if $want->{permalink};
	ok $item->{guid}, '... a guid';
	my ($date) = grep { defined } $d->{published}, $d->{updated};
	is $item->{isoDate}, defined $date ? $date =~ s/(?:\.\d)?Z$/.000Z/r : undef, '... its date';
	like $item->{pubDate}, qr/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000$/, '... as RFC 822 has it' if $date;
	is_deeply $item->{categories} // [], [ map { visible($_) =~ s/\r\n?/\r\n/r && visible($_) } @{ $want->{tags} } ], '... its tags';
	my $inside = properties($in_feed[$i]{items}[0]{properties});
	is_deeply $inside, { map { my $v = $want->{$_}; $_ => ref $v ? [ map { visible($_) } @$v ] : visible($v) } keys %$want }, '... status, event and all else in its description';
}

# --- iCalendar

my @ics = render('rsvp_sync.rsvp_ics(d)', @documents);
my @calendar_of = grep { defined $ics[$_] } 0 .. $#ics;
is_deeply [ map { $names[$_] } grep { !defined $ics[$_] } 0 .. $#ics ], [ 'without event_date', 'nothing but a status' ], 'no calendar without a date';
my @calendars = read_as(ics => @ics[@calendar_of]);
my %partstat = (yes => 'ACCEPTED', no => 'DECLINED', maybe => 'TENTATIVE', interested => 'TENTATIVE');
sub calendar_text { my ($t) = @_; return undef if !defined $t; $t =~ s/\r\n?/\n/g; $t =~ s/[\x00-\x08\x0b-\x1f\x7f]//g; return $t }
for my $n (0 .. $#calendar_of) {
	my ($i, $read) = ($calendar_of[$n], $calendars[$n]);
	my ($d, $want, $p) = ($documents[$i], expected($documents[$i]), $read->{properties});
	is $read->{summary}, calendar_text($d->{event_name} // $want->{event_url}), "$names[$i]: the event in a calendar";
	is $read->{start}, '2030-02-15T18:00:00Z', '... when';
	is $p->{location}{values}[0], calendar_text($d->{event_location}), '... where';
	is $p->{description}{values}[0], calendar_text($d->{content}), '... what is said of it';
	is $p->{attendee}{parameters}{partstat}, $partstat{ $d->{status} }, '... whether he comes';
	# This reader takes a backslash in a parameter for an escape; RFC 5545 knows none there.
	is $p->{attendee}{parameters}{cn}, calendar_text($d->{author}{name}), '... who' if ($d->{author}{name} // '\\') !~ /\\/;
	is $p->{attendee}{values}[0], $want->{'author url'} // $want->{permalink} // 'invalid:nobody', '... his address';
	is_deeply $p->{categories}{values} // [], [ map { calendar_text($_) } @{ $want->{tags} } ], '... tags';
	is $p->{dtstamp}{values}[0], $d->{updated} ? '2026-02-02T10:00:00Z' : '2026-02-01T10:00:00Z', '... the time of that';
	my $octets = $ics[$i];
	utf8::encode($octets);
	is scalar(grep { length > 75 } split /\r\n/, $octets), 0, '... no line is too long';
	unlike $octets, qr/(?<!\r)\n|\r(?!\n)/, '... lines end in CRLF';
}

# --- ActivityStreams

my @activities = render('rsvp_sync.rsvp_activity(d)', @documents);
my @active = grep { defined $activities[$_] } 0 .. $#activities;
is_deeply [ map { $names[$_] } grep { !defined $activities[$_] } 0 .. $#activities ],
	[ 'without author', 'without event_url', 'hostile URLs', 'nothing but a status' ], 'no activity without an actor, or an object';
my %class = (yes => 'Accept', no => 'Reject', maybe => 'TentativeAccept', interested => 'TentativeAccept');
my @read = read_as(activity => @activities[@active]);
my $public = 'https://www.w3.org/ns/activitystreams#Public';
sub as_url { return defined $_[0] ? $_[0] =~ s/é/%C3%A9/r =~ s/'/%27/gr : undef }
for my $n (0 .. $#active) {
	my ($i, $read) = ($active[$n], $read[$n]);
	my ($d, $want) = ($documents[$i], expected($documents[$i]));
	is $read->{class}, $class{ $d->{status} }, "$names[$i]: an activity of its kind";
	is $read->{objectType}, 'Event', '... of an Event';
	my @urls = map { defined ? s/'/%27/gr : undef } @{$read}{qw(object replyTo actor)};
	is_deeply \@urls, [ map { as_url($_) } $want->{event_url}, $want->{event_url}, $want->{'author url'} ], '... the same';
	is_deeply [ @{$read}{qw(source published updated)} ], [ $d->{content}, $d->{published} // $d->{updated}, $d->{published} ? $d->{updated} : undef ], '... what is said, and when';
	is "@{ $read->{to} }", $public, '... to whom';
	like $read->{id}, qr/#[a-z]+-[0-9a-f]{32}$/, '... its id';
}
my ($undo, $other) = @{ (render("rsvp_sync.rsvp_activity(d, d || '{\"status\": \"no\"}')", $documents[0]))[0] };
my ($join) = render("rsvp_sync.rsvp_activity(d, dialect => 'join')", $documents[0]);
my ($leave) = render("rsvp_sync.rsvp_activity(d, dialect => 'join')", $documents[1]);
@read = read_as(activity => $undo, $other, $join, $leave);
is join(' ', map { $_->{class} // $_->{error} } @read), 'Undo Accept Join Leave', 'Undo and what follows it, Join, Leave';
is $read[0]{embedded}{class}, 'Reject', '... the Undo has in it what it undoes';
is $read[2]{object}, $whole{event_url}, '... a Join names the event';

# --- a database of another encoding

$pg->safe_psql('app', "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
$pg->safe_psql('latin', 'CREATE EXTENSION rsvp_sync');
like $pg->safe_psql('latin', q{SELECT rsvp_sync.rsvp_html('{"status": "yes", "content": "a & b"}')}), qr{<data class="p-rsvp" value="yes">Attending</data>.*>a &amp; b<}s, 'LATIN1: words without symbols';
is $pg->safe_psql('latin', q{SELECT status FROM rsvp_sync.parse_activity('{"type": "Accept", "object": "https://a.example/", "content": "&eacute;&#233;&#x1F389;&hellip;"}')}), 'going', '... and an activity is read';

# --- the outbox

$pg->safe_psql('app', <<'SQL');
CREATE TABLE answers (id int PRIMARY KEY, word text, at timestamptz DEFAULT now());
SELECT rsvp_sync.attach('answers', $$SELECT id, NULL::text AS did, NULL::text AS event_uri, word AS status, 'https://events.example.com/' || id AS event_url,
	'https://alice.example/' AS author_url, at AS created_at, at AS updated_at FROM answers$$, options => '{"status_map": {"no": "notgoing"}}');
INSERT INTO answers SELECT n, CASE WHEN n % 2 = 0 THEN 'going' ELSE 'no' END, '2026-01-01Z'::timestamptz + n * interval '1 minute' FROM generate_series(1, 60) n;
SQL
my ($box, $page, $last) = map { from_json($pg->safe_psql('app', "SELECT rsvp_sync.rsvp_outbox('https://alice.example/', $_)")) } 0 .. 2;
@read = read_as(activity => $box, $page, $last);
is_deeply [ @{ $read[0] }{qw(class totalItems first last)} ], [ 'OrderedCollection', 60, map { "https://alice.example/outbox?page=$_" } 1, 2 ], 'the outbox is an OrderedCollection';
is_deeply [ map { $_->{class}, scalar @{ $_->{items} // [] } } @read[1, 2] ], [ 'OrderedCollectionPage', 50, 'OrderedCollectionPage', 10 ], '... and has pages';
is_deeply [ map { "$_->{class} $_->{object}" } @{ $read[1]{items} }[0, 1] ], [ 'Accept https://events.example.com/60', 'Reject https://events.example.com/59' ], '... of activities, newest first';

# --- parse(render(x)) = x

sub same_row {
	my ($i, $row, $source_id) = @_;
	my ($d, $want) = ($documents[$i], expected($documents[$i]));
	my %status = (yes => 'going', no => 'notgoing', maybe => 'interested', interested => 'interested');
	is_deeply { map { $_ => $row->{$_} } qw(status event_url author_url content kind source_id) },
		{ status => $status{ $d->{status} }, event_url => $want->{event_url}, author_url => $want->{'author url'}, content => $d->{content}, kind => 'rsvp', source_id => $source_id }, "$names[$i]: read again";
	return;
}
my @rows = render('(SELECT jsonb_agg(p) FROM rsvp_sync.parse_activity(rsvp_sync.rsvp_activity(d)) p)', @documents[@active]);
same_row($active[$_], one($rows[$_]), $activities[ $active[$_] ]{id}) for 0 .. $#active;

SKIP: {
	skip 'parse_h_entry() is not there yet', 1 if $pg->safe_psql('app', "SELECT to_regprocedure('rsvp_sync.parse_h_entry(text, text)') IS NULL") eq 't';
	# Its parser holds no control characters.
	my @with_event = grep { expected($documents[$_])->{event_url} && $names[$_] ne 'control' } 0 .. $#documents;
	@rows = render("(SELECT jsonb_agg(p) FROM rsvp_sync.parse_h_entry(rsvp_sync.rsvp_html(d), 'https://base.example/') p)", @documents[@with_event]);
	for my $n (0 .. $#with_event) {
		my ($i, $row) = ($with_event[$n], one($rows[$n]));
		my $want = expected($documents[$i]);
		same_row($i, $row, $want->{permalink} // 'https://base.example/');
		is_deeply [ @{$row}{qw(response author_name author_photo)} ], [ $documents[$i]{status}, @{$want}{ 'author name', 'author photo' } ], '... word for word, and whose it is';
	}
}

done_testing;
