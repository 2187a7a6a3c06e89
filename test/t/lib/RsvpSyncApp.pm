package RsvpSyncApp;

# An application to test with: a PDS, a server, a database "app" whose tables
# belong to the role "app", which is no superuser, and the few questions that
# every end-to-end test asks.
#
#   use RsvpSyncApp;
#   my $app = start_app(accounts => 4, conf => { ... });    or pds => [ the PDSes that are there ]
#   $app->plan_schema;                     events, users and attendance as the plan has them
#   my $event = $app->event(0, 'Party');   in PDS account 0's repository, and a row
#   $app->user(1, 1);                      users row 1 is PDS account 1, connected
#   $app->attach("'attendance'");
#   $app->sql("INSERT INTO attendance ...");
#   $app->idle('inserted');                a test: wait_until_idle says true
#   $app->state('attendance', 1)           'done/published'
#   $app->record(1)                        the account's only RSVP record, or undef
#
# sql() and the rest speak as the role app; admin() as a superuser.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;
use RsvpSyncTest;

our @EXPORT = qw(start_app RSVP);

use constant RSVP => 'community.lexicon.calendar.rsvp';

my @FUNCTIONS = (
	'attach(regclass, text, text, jsonb)', 'detach(regclass, boolean)', 'pause(regclass)', 'resume(regclass)', 'pause(text)', 'resume(text)',
	'connect_account(text, text, text, text)', 'disconnect_account(text, boolean)', 'grant_account(text, name)',
	'sync_status(regclass, text)', 'preview(regclass, text)', 'reconcile(regclass)', 'approve_withdrawals(regclass)',
	'wait_until_idle(interval, regclass)', 'activate()', 'index_ddl(regclass)',
);

sub start_app {
	my (%opt) = @_;
	my @pds = $opt{pds} ? @{ $opt{pds} } : start_pds(accounts => $opt{accounts} // 4);
	my $pds = $pds[0];
	my $pg = start_server(pds => \@pds, conf => { 'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '500ms', %{ $opt{conf} // {} } });
	my $self = bless { pds => $pds, pg => $pg, db => 'app' }, __PACKAGE__;
	$pg->create_db('app');
	$self->role('app');
	$self->admin('ALTER DATABASE app OWNER TO app; ALTER SCHEMA public OWNER TO app');
	return $self;
}

sub pds { return $_[0]{pds} }
sub pg { return $_[0]{pg} }

# role(name): may log in and call what an application calls
sub role {
	my ($self, $role) = @_;
	$self->admin("CREATE ROLE $role LOGIN; GRANT USAGE ON SCHEMA rsvp_sync TO $role;"
		. "GRANT SELECT ON rsvp_sync.status, rsvp_sync.source, rsvp_sync.queue, rsvp_sync.held, rsvp_sync.failed, rsvp_sync.rsvp, rsvp_sync.history, rsvp_sync.account TO $role;"
		. join '', map { "GRANT EXECUTE ON FUNCTION rsvp_sync.$_ TO $role;" } @FUNCTIONS);
	return $role;
}

sub admin { my ($self, $sql) = @_; return $self->{pg}->safe_psql($self->{db}, $sql) }
sub sql { my ($self, $sql, %opt) = @_; return $self->{pg}->safe_psql($self->{db}, $sql, user => 'app', %opt) }

# fails(sql, user => role): the error's text; the test fails if there is none
sub fails {
	my ($self, $sql, %opt) = @_;
	my (undef, undef, $err) = $self->{pg}->psql($self->{db}, $sql, user => 'app', %opt);
	return $err;
}

# The plan's schema; app.attendance and so on with schema => 'app'.
sub plan_schema {
	my ($self, %opt) = @_;
	my $s = $opt{schema} ? "$opt{schema}." : '';
	$self->sql("CREATE SCHEMA $opt{schema}") if $opt{schema};
	$self->sql(<<"SQL");
CREATE TYPE ${s}attendance_status AS ENUM ('confirmed', 'maybe', 'pending', 'waitlist', 'cancelled', 'attended', 'invited', 'rejected', 'no_show');
CREATE TABLE ${s}users (id int PRIMARY KEY, name text, preferences jsonb);
CREATE TABLE ${s}events (id int PRIMARY KEY, name text, visibility text NOT NULL DEFAULT 'public',
	"sourceType" text, "sourceData" jsonb, "startDate" timestamptz, "endDate" timestamptz);
CREATE TABLE ${s}attendance (id serial PRIMARY KEY, status ${s}attendance_status NOT NULL DEFAULT 'confirmed',
	event_id int NOT NULL REFERENCES ${s}events ON DELETE CASCADE, user_id int NOT NULL REFERENCES ${s}users ON DELETE CASCADE,
	metadata jsonb, note text, created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (event_id, user_id) DEFERRABLE);
SQL
	return;
}

# event(id, account, [name]): a record of that PDS account, and a row -> {uri, cid}
sub event {
	my ($self, $id, $account, $name) = @_;
	my $event = $self->{pds}->create_event($account, $name // "Event $id", '2035-06-21T18:00:00Z');
	my ($did, $rkey) = $event->{uri} =~ m{^at://([^/]+)/[^/]+/(.+)$};
	$self->sql(sprintf q{INSERT INTO events (id, name, "sourceType", "sourceData", "startDate") VALUES (%d, 'Event', 'bluesky', '%s', '2035-06-21T18:00:00Z')},
		$id, json({ did => $did, rkey => $rkey }));
	return $event;
}

sub preferences { my ($did, %more) = @_; return json({ bluesky => { did => $did, connected => JSON::PP::true, %more } }) }

# user(id, account, connect => 0): a row for a PDS account, its password known
sub user {
	my ($self, $id, $account, %opt) = @_;
	$self->sql(sprintf "INSERT INTO users VALUES (%d, 'user %d', '%s')", $id, $id, preferences($self->{pds}->did($account)));
	$self->connect_account($account) if $opt{connect} // 1;
	return $self->{pds}->did($account);
}

sub connect_account {
	my ($self, $account, %opt) = @_;
	return $self->sql(sprintf("SELECT rsvp_sync.connect_account('%s', '%s')", $self->{pds}->did($account), $self->{pds}->password($account)), %opt);
}

sub attach { my ($self, $arguments) = @_; return $self->sql("SELECT rsvp_sync.attach($arguments)") }

# idle(what): a test.  What is still to be done is told if it is not idle.
sub idle {
	my ($self, $what, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $is = $self->sql(sprintf "SELECT rsvp_sync.wait_until_idle('%d s')", $seconds // 30);
	return 1 if $is eq 't';
	fail("idle: $what");
	diag $self->admin('SELECT to_jsonb(q) FROM rsvp_sync._queue q UNION ALL SELECT to_jsonb(i) FROM rsvp_sync._intent i WHERE writeback LIMIT 10');
	diag $self->{pg}->log_tail(10);
	return 0;
}

# status(table, key) -> a reference to sync_status()'s row
sub status {
	my ($self, $table, $key) = @_;
	return from_json($self->sql(sprintf "SELECT to_jsonb(s) FROM rsvp_sync.sync_status('%s', '%s') s", $table, $key));
}

sub state {
	my ($self, $table, $key) = @_;
	my $s = $self->status($table, $key);
	return join '/', map { $_ // 'NULL' } @$s{qw(state reason_code)};
}

sub metadata { my ($self, $id) = @_; return from_json($self->sql("SELECT coalesce(metadata, 'null') FROM attendance WHERE id = $id")) }

# records(account) -> its RSVP records; record(account) -> the only one
sub records { my ($self, $account) = @_; return $self->{pds}->list_records($account) }

sub record {
	my ($self, $account) = @_;
	my @records = $self->records($account);
	return @records == 1 ? $records[0] : @records ? die('several records: ' . json(\@records)) : undef;
}

sub word { my ($record) = @_; return $record ? $record->{value}{status} =~ s/^\Q@{[RSVP]}\E#//r : 'none' }

# word(account): going, interested, notgoing, or none
sub said { my ($self, $account) = @_; return word($self->record($account)) }

# our writes since the log was cleared, as "put account-index rkey ..."
sub writes {
	my ($self) = @_;
	return map { $_->{op} ? $_->{op} eq 'delete' ? 'delete' : 'put' : $_->{call} =~ s/.*\.(\w+)Record$/$1/r } $self->{pds}->writes(on => 'pds');
}

# every call that could write, whether or not it did
sub attempts {
	my ($self) = @_;
	return $self->{pds}->log(call => qr/(?:create|put|delete)Record|applyWrites/);
}

1;
