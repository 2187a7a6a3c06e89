# Apply by many at once: one shadow user and one attendance row whoever comes
# first, with a unique constraint of the application's and without; what the
# application does at the same moment is neither lost nor overruled; nobody
# waits for ever.  (What each answer becomes is in test/pgtap/apply*.sql.)

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncOpenMeet;

my $pg = start_server(conf => { 'rsvp_sync.mode' => 'off', deadlock_timeout => '300ms', autovacuum => 'off' });
$pg->create_db('app');
sub sql { my ($sql) = @_; return $pg->safe_psql('app', $sql) }
sub uri { my ($n) = @_; return "at://did:plc:org/community.lexicon.calendar.event/e$n" }

# The plan's schema without a unique constraint, and OpenMeet's, which has one.
sql(<<'SQL');
CREATE TABLE users (id serial PRIMARY KEY, preferences jsonb, is_shadow_account boolean DEFAULT false);
CREATE TABLE events (id integer PRIMARY KEY, atproto_uri text, max_attendees integer, allow_waitlist boolean DEFAULT true);
CREATE TABLE attendance (id serial PRIMARY KEY, status text, metadata jsonb,
	event_id integer NOT NULL REFERENCES events, user_id integer NOT NULL REFERENCES users);
INSERT INTO users (preferences) VALUES ('{"bluesky": {"did": "did:plc:ann"}}');
INSERT INTO events SELECT n, 'at://did:plc:org/community.lexicon.calendar.event/e' || n, CASE WHEN n = 2 THEN 3 END FROM generate_series(1, 60) n;
SQL
my $tenant = tenant(\&sql, 'tenant_ciTenantA');
sql(<<'SQL');
SET search_path = "tenant_ciTenantA", public;
CREATE TABLE "eventRoles" ("id" serial PRIMARY KEY, "name" text);
INSERT INTO "eventRoles" ("name") VALUES ('host'), ('participant');
INSERT INTO "users" ("slug", "ulid", "provider", "socialId") VALUES ('ann', 'a', 'bluesky', 'did:plc:ann');
INSERT INTO "events" ("id", "ulid", "name", "slug", "startDate", "visibility", "atprotoUri")
SELECT n, n, 'e', n, now(), 'public', 'at://did:plc:org/community.lexicon.calendar.event/e' || n FROM generate_series(1, 60) n;
SQL
my %schema = (
	plan => { source => sql("SELECT rsvp_sync.attach('attendance')"), attendance => 'attendance', users => 'users',
		rows => 'SELECT event_id AS e, user_id AS u, status AS s FROM attendance', shadow => 'is_shadow_account' },
	openmeet => { source => sql('SELECT rsvp_sync.attach(\'"tenant_ciTenantA"."eventAttendees"\')'), attendance => $tenant->table, users => $tenant->table('users'),
		rows => 'SELECT "eventId" AS e, "userId" AS u, "status"::text AS s FROM ' . $tenant->table, shadow => '"isShadowAccount"' },
);

# apply(schema, [did, event, status], ...): the statement
sub apply {
	my ($schema, @rsvps) = @_;
	my ($dids, $uris, $statuses) = map { my $i = $_; join ',', map { $_->[$i] // 'NULL' } @rsvps } 0 .. 2;
	$uris = join ',', map { uri($_->[1]) } @rsvps;
	my $nulls = join ',', ('NULL') x @rsvps;
	return "SELECT n, key, code, error FROM rsvp_sync._apply($schema{$schema}{source}, '{$dids}', '{$uris}', '{$statuses}', '{$nulls}')";
}

# at_once(what they have to pass, statements): each in a session of its own,
# all waiting for one lock, which then goes; what each said
sub at_once {
	my ($table, @statements) = @_;
	my @sessions = map { $pg->session('app') } @statements;
	my $gate = $pg->session('app');
	$gate->query("BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
	my $pids = join ',', map { $_->backend_pid } @sessions;
	$sessions[$_]->send($statements[$_]) for 0 .. $#sessions;
	$pg->poll_query_until('app', "SELECT count(*) = " . @sessions . " FROM pg_stat_activity WHERE pid IN ($pids) AND wait_event_type = 'Lock'");
	$gate->query('COMMIT');
	my @said = map { $_->result } @sessions;
	$_->close for @sessions, $gate;
	return @said;
}
sub rows { my ($schema) = @_; return sql("SELECT string_agg(concat_ws(' ', e, s), ', ' ORDER BY e, s, u) FROM ($schema{$schema}{rows}) r") }
sub shadows { my ($schema) = @_; return sql("SELECT count(*) FROM $schema{$schema}{users} WHERE $schema{$schema}{shadow}") }
sub clear { my ($schema) = @_; sql("DELETE FROM $schema{$schema}{attendance}; DELETE FROM $schema{$schema}{users} WHERE $schema{$schema}{shadow}"); return }
sub failures { return scalar grep { !/^\d+\|[^|]+\|\|$/m } @_ }

for my $schema (sort keys %schema) {
	my $s = $schema{$schema};

	# A stranger, eight times at once
	my @said = at_once($s->{users}, (apply($schema, ['did:plc:kim', 1, 'going'])) x 8);
	is failures(@said), 0, "$schema: all eight are applied" or diag join "\n", @said;
	is rows($schema), '1 confirmed', "$schema: one row";
	is shadows($schema), 1, "$schema: one shadow user";

	# Somebody known, eight times at once, with different answers
	clear($schema);
	@said = at_once($s->{attendance}, map { apply($schema, ['did:plc:ann', 1, $_ % 2 ? 'going' : 'interested']) } 1 .. 8);
	is failures(@said), 0, "$schema: whatever they say" or diag join "\n", @said;
	like rows($schema), qr/^1 (confirmed|maybe)$/, "$schema: one row of somebody known";

	# Under one snapshot for the whole transaction
	clear($schema);
	@said = at_once($s->{users}, ('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; ' . apply($schema, ['did:plc:kim', 1, 'going']) . '; COMMIT') x 8);
	is rows($schema), '1 confirmed', "$schema: one row, though none can see the others'";
	is shadows($schema), 1, "$schema: and one user";

	# Batches of strangers in opposite order
	clear($schema);
	my @strangers = map { ["did:plc:s$_", 1 + $_, 'going'] } 3 .. 40;
	@said = at_once($s->{users}, map { apply($schema, $_ % 2 ? @strangers : reverse @strangers) } 1 .. 6);
	is failures(map { split /\n/ } @said), 0, "$schema: no batch is in another's way" or diag join "\n", @said;
	is sql("SELECT count(*) || ' ' || count(DISTINCT e) FROM ($s->{rows}) r"), '38 38', "$schema: a row for each";
	is shadows($schema), 38, "$schema: a user for each";

	# The application makes the row, and has not committed yet
	clear($schema);
	my $app = $pg->session('app');
	my $us = $pg->session('app');
	my ($columns, $values) = $schema eq 'plan' ? ('(event_id, user_id, status)', "(1, 1, 'maybe')") : ('("eventId", "userId", "status", "roleId")', "(1, 1, 'maybe', 1)");
	if ($schema eq 'openmeet') {
		$app->query("BEGIN; INSERT INTO $s->{attendance} $columns VALUES $values");
		$us->send(apply($schema, ['did:plc:ann', 1, 'going']));
		$pg->poll_query_until('app', 'SELECT wait_event_type = \'Lock\' FROM pg_stat_activity WHERE pid = ' . $us->backend_pid);
		$app->query('COMMIT');
		like $us->result, qr/^1\|\d+\|\|$/, "$schema: a row that the application makes meanwhile";
		is rows($schema), '1 confirmed', "$schema: is the one";
	}
	else {
		sql("INSERT INTO $s->{attendance} $columns VALUES $values");
	}

	# The organiser decides, and has not committed yet
	sql("UPDATE $s->{attendance} SET status = 'maybe'");
	$app->query("BEGIN; UPDATE $s->{attendance} SET status = 'rejected'");
	$us->send(apply($schema, ['did:plc:ann', 1, 'going']));
	$pg->poll_query_until('app', 'SELECT wait_event_type = \'Lock\' FROM pg_stat_activity WHERE pid = ' . $us->backend_pid);
	$app->query('COMMIT');
	like $us->result, qr/^1\|\d+\|\|$/, "$schema: the organiser decides meanwhile";
	is rows($schema), '1 rejected', "$schema: and is heeded";

	# One row of a batch that somebody has locked does not keep the others
	sql("UPDATE $s->{attendance} SET status = 'maybe'");
	$app->query("BEGIN; SELECT FROM $s->{attendance} FOR UPDATE");
	my $said = $us->query("SET lock_timeout = '50ms'; " . apply($schema, ['did:plc:ann', 1, 'going'], ['did:plc:lou', 3, 'going'], ['did:plc:ann', 4, 'going']));
	like $said, qr/^1\|\|55P03\|.*\n2\|\d+\|\|\n3\|\d+\|\|$/, "$schema: a row that is locked fails alone";
	$app->query('ROLLBACK');
	is rows($schema), '1 maybe, 3 confirmed, 4 confirmed', "$schema: and is left as it is";

	# A table that is locked does not keep us for every row of it
	$app->query("BEGIN; LOCK TABLE $s->{attendance}");
	my $begun = time;
	$said = $us->query("SET lock_timeout = '1s'; " . apply($schema, map { ['did:plc:ann', $_, 'going'] } 1 .. 50));
	is scalar(() = $said =~ /^\d+\|\|55P03\|/mg), 50, "$schema: a table that is locked fails all";
	cmp_ok time - $begun, '<', 30, '... but is not waited for fifty times';
	$app->query('ROLLBACK');

	# A cancel is the user's own: it is no RSVP's error
	$app->query("BEGIN; SELECT FROM $s->{attendance} FOR UPDATE");
	like $us->query("SET lock_timeout = 0; SET statement_timeout = '200ms'; " . apply($schema, ['did:plc:ann', 1, 'going'])), qr/^ERROR:  canceling statement due to statement timeout/,
		"$schema: a statement's timeout ends the statement";
	$_->close for $app, $us;
}

# The last place
clear('plan');
my @said = at_once('attendance', map { apply('plan', ["did:plc:g$_", 2, 'going']) } 1 .. 8);
is failures(@said), 0, 'eight want one of three places';
is rows('plan'), join(', ', ('2 confirmed') x 3, ('2 waitlist') x 5), 'three get one';

# In the worker.  What came while the source was paused is applied together; a
# trigger that is too slow for one costs that one its time, and no other.
$pg->create_db('work');
$pg->safe_psql('postgres', "ALTER DATABASE work SET rsvp_sync.mode = live");
$pg->append_conf("rsvp_sync.sql_timeout = '400ms'\nrsvp_sync.plc_url = 'http://127.0.0.1:9'\nrsvp_sync.retry_base = '100ms'\nrsvp_sync.retry_max = '300ms'\n");
$pg->restart;
sub work { my ($sql) = @_; return $pg->safe_psql('work', $sql) }
work(<<'SQL');
CREATE TABLE users (id serial PRIMARY KEY, preferences jsonb);
CREATE TABLE events (id integer PRIMARY KEY, atproto_uri text);
CREATE TABLE attendance (id serial PRIMARY KEY, status text, metadata jsonb,
	event_id integer NOT NULL REFERENCES events, user_id integer NOT NULL REFERENCES users);
INSERT INTO events VALUES (1, 'at://did:plc:org/community.lexicon.calendar.event/e1');
CREATE TABLE audit (what text);
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.audit VALUES (TG_OP);
	IF (SELECT preferences::text LIKE '%did:plc:slow%' FROM public.users WHERE id = NEW.user_id) THEN
		PERFORM pg_sleep(60); -- until it is stopped
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER slow BEFORE INSERT ON attendance FOR EACH ROW EXECUTE FUNCTION slow();
SELECT rsvp_sync.attach('attendance');
SELECT rsvp_sync.pause('attendance');
SQL
for my $did (map { "did:plc:$_" } qw(amy bea slow cleo)) {
	work(<<"SQL");
SELECT rsvp_sync.process_external_rsvp('{"eventSourceId": "at://did:plc:org/community.lexicon.calendar.event/e1", "eventSourceType": "bluesky",
	"userDid": "$did", "userHandle": "x.example", "status": "going", "timestamp": "2026-01-01T00:00:00Z",
	"sourceId": "at://$did/community.lexicon.calendar.rsvp/3kaaaaaaaaa22", "metadata": {"cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a", "rkey": "3kaaaaaaaaa22"}}', '')
SQL
}
is work('SELECT count(*) FROM attendance'), 0, 'worker: nothing is applied to a source that is paused';
work("SELECT rsvp_sync.resume('attendance'); SELECT rsvp_sync.retry()");
ok $pg->poll_query_until('work', 'SELECT count(*) = 3 FROM attendance'), 'worker: what came meanwhile is applied then';
ok $pg->poll_query_until('work', q{SELECT last_error LIKE '%canceling statement due to%timeout%' FROM rsvp_sync._inbound WHERE did = 'did:plc:slow'}), 'worker: one that takes too long waits with its error';
is work('SELECT count(*) FROM audit'), 3, 'worker: each of the others was one change';
work('DROP TRIGGER slow ON attendance; SELECT rsvp_sync.retry()');
ok $pg->poll_query_until('work', 'SELECT count(*) = 4 FROM attendance'), 'worker: and is applied once it can be';

done_testing();
