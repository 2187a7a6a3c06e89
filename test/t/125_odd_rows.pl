# Rows named in another way than they are kept, queries that give a row twice,
# partitions attached beside their parent: what is asked wrongly is answered
# or refused, and disturbs nothing.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 4);
$app->admin("SELECT rsvp_sync.grant_application('app')");
my $event = $app->pds->create_event(0, 'Event', '2035-06-21T18:00:00Z');
$app->connect_account($_) for 1 .. 3;
$app->sql('CREATE TABLE person (n int PRIMARY KEY, did text)');
$app->sql(sprintf "INSERT INTO person VALUES (%d, '%s')", $_, $app->pds->did($_)) for 1 .. 3;

sub query {
	my ($table, $more) = @_;    # more: of the FROM
	return sprintf q{'%s', $$SELECT t.*, p.did, '%s' AS event_uri FROM %1$s t JOIN person p ON p.n = t.person %s$$}, $table, $event->{uri}, $more // '';
}

# Of an error its SQLSTATE, message and HINT.
sub refused {
	my ($sql) = @_;
	my $err = $app->fails("\\set VERBOSITY verbose\n$sql");
	my ($state, $message) = $err =~ /ERROR:  (\w{5}): (.*)/;
	my ($hint) = $err =~ /HINT:  (.*)/;
	return [ $state, $message, $hint ? 'a hint' : 'no hint' ];
}

# --- a row is named by what its key means

$app->sql('CREATE TABLE numbered (id int PRIMARY KEY, person int, status text)');
$app->attach(query('numbered'));
$app->sql("INSERT INTO numbered VALUES (1, 1, 'going'), (2, 1, NULL)");
$app->idle('numbered');
is $app->state('numbered', '01'), 'done/published', 'another spelling of the key is the same row';
is $app->sql("SELECT attendance_id, action FROM rsvp_sync.preview('numbered', ' 1 ')"), '1|nothing', '... for preview';
like $app->sql("SELECT rsvp_sync.explain_sync('numbered', '+1')"), qr/^Row 1 of public.numbered says 'going'.* It is done \(published\)/, '... for explain_sync';
is $app->sql("SELECT rsvp_sync.retry('numbered', '01')"), 1, '... for retry';
$app->idle('retried');
is $app->sql("SELECT string_agg(attendance_id, ' ' ORDER BY attendance_id) FROM rsvp_sync.status"), '1 2', '... which makes no second one of it';
is $app->sql("SELECT count(*) FROM rsvp_sync.preview('numbered', '77')"), 0, 'preview of what is no row: none';
is_deeply refused("SELECT rsvp_sync.sync_status('numbered', 'abc')"), [ '22023', '"abc" cannot be a key of table public.numbered', 'a hint' ], 'what can be no key';
is $app->status('numbered', 2)->{reason}, 'The status NULL is an unmapped status: option status_map says nothing of it.', 'no status is not the status NULL';

$app->sql('CREATE TABLE lettered (id uuid PRIMARY KEY, person int, status text)');
$app->attach(query('lettered'));
$app->sql("INSERT INTO lettered VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 2, 'going')");
$app->idle('lettered');
is $app->state('lettered', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), 'done/published', 'a uuid in capitals';

$app->sql('CREATE TABLE paired (a int, b int, person int, status text, PRIMARY KEY (a, b))');
$app->attach(query('paired'));
is_deeply refused(qq{SELECT rsvp_sync.sync_status('paired', '["1", "$_"]')}), [ '22023', qq{"["1", "$_"]" cannot be a key of table public.paired}, 'a hint' ], "a key of too many parts" for '1", "1';
is_deeply refused("SELECT rsvp_sync.$_('no name')"), [ '42P01', sprintf('"no name" is neither a DID nor %sa table', /retry/ ? '' : 'a server nor '), 'a hint' ], "$_() of what is no name" for qw(retry pause resume);
is_deeply refused("SELECT rsvp_sync.attach('paired', apply => '')"), [ '42883', 'there is no apply function ""', 'a hint' ], 'no name of a function';

is_deeply refused(q{SELECT * FROM rsvp_sync.attach_all('nowhere', '{"bogus": 1}')}), [ '22023', 'unknown option "bogus"', 'a hint' ], 'attach_all looks at its options, also where there is no table';

$app->sql("INSERT INTO numbered VALUES (4, 1, repeat('x', 1000000))");
$app->idle('a long word');
is length $app->status('numbered', 4)->{reason}, 274, 'of a status beyond all measure the beginning is told';
$app->sql("DELETE FROM numbered WHERE id = 4");
$app->sql("SELECT rsvp_sync.connect_account('did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme', 'x');"
	. "SELECT rsvp_sync.create_rsvp('did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme', '$event->{uri}', 'going')");
$app->idle('another kind of DID');
is $app->sql("SELECT state, reason_code, reason FROM rsvp_sync.status WHERE did LIKE 'did:key:%'"), 'failed|unsupported_identifier|Only accounts of did:plc, or did:web without a path or port,'
	. ' can be written to; this is not one: did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme', 'a DID of a kind that has no PDS: a sentence says so';

# --- times that no record can say

$app->sql('CREATE TABLE timed (id int PRIMARY KEY, person int, status text, created_at timestamptz)');
$app->attach(query('timed'));
for my $at ('infinity', '-infinity', '4000-01-01 BC', '99999-01-01') {
	$app->sql("INSERT INTO timed VALUES (1, 3, 'going', '$at')");
	$app->idle("created_at $at");
	like $app->record(3)->{value}{createdAt}, qr/^20\d\d-\d\d-\d\dT[\d:.]+Z$/, "created_at $at: the time of the change";
	$app->sql('DELETE FROM timed');
	$app->idle("deleted $at");
}
$app->sql("INSERT INTO timed VALUES (1, 3, 'going', '0001-01-01 00:00+00')");
$app->idle('created_at long ago');
is $app->record(3)->{value}{createdAt}, '0001-01-01T00:00:00.000Z', 'the first that one can';
$app->sql('DELETE FROM timed');
$app->idle('deleted');

# --- a query that gives a row twice

$app->sql('CREATE TABLE doubled (id int PRIMARY KEY, person int, status text)');
$app->attach(query('doubled', 'CROSS JOIN generate_series(1, 1 + t.id / 100)'));
$app->sql("INSERT INTO doubled VALUES (1, 3, 'going')");
$app->idle('once');
is $app->said(3), 'going', 'a join that does not multiply yet';
$app->sql("INSERT INTO doubled VALUES (100, 3, 'going')");
$app->idle('twice');
is $app->sql("SELECT state, reason FROM rsvp_sync.source WHERE attendance = 'doubled'::regclass"),
	'broken|the desired query returns more than one row for key "100" (SQLSTATE 21000)', 'a row twice: the source is broken, and says why';
is $app->state('doubled', 100), 'blocked/source_broken', '... its key waits';
$app->sql("INSERT INTO numbered VALUES (3, 3, 'interested')");
$app->idle('others');
is $app->said(3), 'interested', '... the others go on';
$app->sql("DELETE FROM doubled WHERE id = 100; SELECT rsvp_sync.resume('doubled')");
$app->idle('mended');
is $app->sql("SELECT state FROM rsvp_sync.source WHERE attendance = 'doubled'::regclass"), 'active', 'once again: it goes on';
$app->sql("SELECT rsvp_sync.detach('doubled'); INSERT INTO doubled VALUES (200, 3, 'going')");
is_deeply refused('SELECT rsvp_sync.attach(' . query('doubled', 'CROSS JOIN generate_series(1, 1 + t.id / 100)') . ')'),
	[ '21000', 'the desired query returns more than one row for key "200"', 'a hint' ], 'attach refuses such a query';

# --- a partitioned table is one source

$app->sql(<<'SQL');
CREATE TABLE parted (id int, y int, person int, status text, PRIMARY KEY (id, y)) PARTITION BY LIST (y);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
SQL
$app->attach(query('parted'));
is_deeply refused('SELECT rsvp_sync.attach(' . query('parted_1') . ')'), [ '55000', 'table public.parted is attached, and shares rows with public.parted_1', 'a hint' ],
	'a partition of an attached table';
$app->sql("SELECT rsvp_sync.detach('parted')");
$app->attach(query('parted_1'));
is_deeply refused('SELECT rsvp_sync.attach(' . query('parted') . ')'), [ '55000', 'table public.parted_1 is attached, and shares rows with public.parted', 'a hint' ],
	'the parent of an attached partition';

# --- a row that cannot be told of its record says so

$app->sql('CREATE TABLE narrow (id int PRIMARY KEY, person int, status text, at varchar(10), number int, told timestamptz, extra jsonb)');
for my $bad ('"uri": "number"', '"uri": "extra"', '"synced_at": "number"', '"cid": "told"', '"uri": "extra."') {
	is_deeply refused('SELECT rsvp_sync.attach(' . query('narrow') . qq{, options => '{"writeback": {$bad}}')})->[0], '22023', "write-back to $bad is refused";
}
$app->attach(query('narrow') . q{, options => '{"writeback": {"uri": "at", "synced_at": "told"}}'});
$app->sql("INSERT INTO narrow VALUES (1, 2, 'notgoing')");
ok $app->pg->poll_query_until('app', "SELECT writeback_failures >= 3 FROM rsvp_sync._intent WHERE writeback AND key = '1'"), 'a column too narrow for the address';
is $app->state('narrow', 1), 'done/published', '... the row is published';
like $app->sql("SELECT rsvp_sync.explain_sync('narrow', '1')"), qr/has not been told of its record: value too long for type character varying\(10\)\. It is tried again at/, '... explain_sync says why it is not told';
is $app->admin("SELECT subject, finding FROM rsvp_sync.doctor() WHERE check_name = 'writeback'"),
	'public.narrow|1 rows could not be told of their records (value too long for type character varying(10)).', '... and so does the doctor';
$app->sql('ALTER TABLE narrow ALTER at TYPE text');
ok $app->pg->poll_query_until('app', "SELECT told IS NOT NULL AND at LIKE 'at://%' FROM narrow"), 'wide enough: it is told';
unlike $app->sql("SELECT rsvp_sync.explain_sync('narrow', '1')"), qr/not been told/, '... and nothing is said of it any more';

done_testing;
