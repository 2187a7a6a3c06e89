# Attaching a table that others are writing to, and a database that is dumped
# and restored.  What one session alone can show is in test/sql/attach.sql.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;

my $QUERY = q{SELECT id, who AS did, ''at://did:plc:o/app.event/1'' AS event_uri, st AS status FROM app.rsvps};

my $pg = start_server(conf => { 'rsvp_sync.mode' => 'off' });
$pg->create_db('app');
$pg->safe_psql('app', <<'SQL');
CREATE ROLE app LOGIN;
SELECT rsvp_sync.grant_application('app');
CREATE SCHEMA app AUTHORIZATION app;
SET ROLE app;
CREATE TABLE app.rsvps (id integer PRIMARY KEY, who text, st text);
INSERT INTO app.rsvps SELECT g, 'did:plc:' || g, 'going' FROM generate_series(1, 3) g;
SQL

sub baselines {
	return $pg->safe_psql('app', "SELECT string_agg(key || '=' || base_local, ' ' ORDER BY key::integer) FROM rsvp_sync._intent");
}

# --- a writer that commits after attach() has looked, before it has a trigger

my $writer = $pg->session('app');
$writer->query("BEGIN; INSERT INTO app.rsvps VALUES (100, 'did:plc:x', 'going')");
$writer->query("UPDATE app.rsvps SET st = 'notgoing' WHERE id = 1");

my $attach = $pg->session('app');
$attach->query('SET ROLE app; BEGIN');
$attach->send("SELECT rsvp_sync.attach('app.rsvps', '$QUERY') > 0");
ok $pg->poll_query_until('app', 'SELECT cardinality(pg_blocking_pids(' . $attach->backend_pid . ')) > 0'),
  'attach waits for a writer before it makes its triggers';
$writer->query('COMMIT');
is $attach->result, 't', 'and goes on when that one has committed';

# --- readers go on while the attaching transaction is open

my ($status, $out, $err) = $pg->psql('app', "SET lock_timeout = '500ms'; SELECT count(*) FROM app.rsvps");
is $out, 4, 'readers are not kept waiting' or diag $err;
$attach->query('COMMIT');
is baselines(), '1=notgoing 2=going 3=going 100=going', 'rows committed meanwhile have a baseline, changed ones the new value';
is $pg->safe_psql('app', q{SELECT string_agg(DISTINCT action, ' ') FROM rsvp_sync.preview('app.rsvps')}), 'nothing',
  'nothing of it would be published';

# --- attaching again takes no lock that a writer would notice

$writer->query("BEGIN; UPDATE app.rsvps SET st = 'maybe' WHERE id = 2");
($status, $out, $err) = $pg->psql('app',
	qq(SET lock_timeout = '500ms'; SELECT rsvp_sync.attach('app.rsvps', options => '{"on_cancel": "delete"}') > 0));
is $out, 't', 'attaching again does not wait for a writer' or diag $err;
$writer->query('ROLLBACK');

# --- whoever has the query prepared hears of another one

my $reader = $pg->session('app');
my $statuses = q{SELECT string_agg(DISTINCT d.status, ' ') FROM rsvp_sync._source s, rsvp_sync._desired(s.source_id, NULL) d};
is $reader->query($statuses), 'going notgoing', 'the query as it was';
(my $other = $QUERY) =~ s/st AS status/upper(st) AS status/;
$pg->safe_psql('app', "SELECT rsvp_sync.attach('app.rsvps', '$other')");
is $reader->query($statuses), 'GOING NOTGOING', 'and as it is now';

# --- tables that are attached and detached under writers and a busy worker

$pg->safe_psql('app', q{ALTER DATABASE app SET rsvp_sync.mode = 'live'});
$pg->safe_psql('app', <<'SQL');
SET ROLE app;
CREATE TABLE app.talks (id integer PRIMARY KEY, uri text);
CREATE TABLE app.visits (id integer PRIMARY KEY, talk integer, st text) PARTITION BY RANGE (id);
CREATE TABLE app.visits_1 PARTITION OF app.visits FOR VALUES FROM (0) TO (50);
CREATE TABLE app.visits_2 PARTITION OF app.visits FOR VALUES FROM (50) TO (100);
INSERT INTO app.talks SELECT g, 'at://did:plc:o/app.event/' || g FROM generate_series(0, 9) g;
INSERT INTO app.visits SELECT g, g % 10, 'going' FROM generate_series(0, 99) g;
SQL
my $write = <<'SQL';
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		IF i %% 2 = 0 THEN
			UPDATE app.talks SET uri = 'at://did:plc:o/app.event/' || i WHERE id = %1$d;
			UPDATE app.visits SET st = CASE st WHEN 'going' THEN 'maybe' ELSE 'going' END WHERE id = i %% 50 + %1$d * 50;
		ELSE
			UPDATE app.visits SET st = CASE st WHEN 'going' THEN 'maybe' ELSE 'going' END WHERE id = i %% 50 + %1$d * 50;
			UPDATE app.talks SET uri = 'at://did:plc:o/app.event/' || i WHERE id = %1$d;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.002);
	END LOOP;
END
$$
SQL
my @writers = map { $pg->session('app') } 0, 1;
$writers[$_]->send(sprintf $write, $_) for 0, 1;
my $round = <<'SQL';
SET ROLE app;
SELECT rsvp_sync.attach('app.visits', $$SELECT v.id, 'did:plc:a' AS did, t.uri AS event_uri, v.st AS status
	FROM app.visits v LEFT JOIN app.talks t ON t.id = v.talk$$,
	options => '{"backfill": "all", "depends": [{"table": "app.talks", "column": "talk"}]}');
SELECT pg_sleep(0.05);
SELECT rsvp_sync.attach('app.visits', options => '{"watch": ["st"], "status_map": {"maybe": "going"}}');
SELECT pg_sleep(0.05);
SELECT rsvp_sync.attach('app.visits', options => '{"depends": null, "backfill": "all"}');
BEGIN;
ALTER TABLE app.visits ADD note text;
SELECT rsvp_sync.attach('app.visits', options => '{"watch": null}');
COMMIT;
ALTER TABLE app.visits DROP note;
SELECT rsvp_sync.detach('app.visits');
SQL
my @failed;
for (1 .. 8) {
	($status, $out, $err) = $pg->psql('app', $round);
	push @failed, $err if $status;
}
is "@failed", '', 'attaching and detaching succeeds';
is $_->result, '', 'and no writer fails' for @writers;
unlike RsvpSyncTest::slurp($pg->log_file), qr/ERROR:\s+deadlock/, 'nobody dies of a deadlock';
$pg->safe_psql('app', 'ALTER DATABASE app RESET rsvp_sync.mode; DROP TABLE app.visits, app.talks');

# --- dump and restore, where no oid means what it meant

$pg->safe_psql('app', <<'SQL');
SET ROLE app;
CREATE TABLE app.users (id serial PRIMARY KEY, gone integer, preferences jsonb);
CREATE TABLE app.events (id serial PRIMARY KEY, atproto_uri text, visibility text);
CREATE TABLE app.attendees (id serial PRIMARY KEY, gone integer, status text, metadata jsonb,
	event_id integer REFERENCES app.events, user_id integer REFERENCES app.users);
ALTER TABLE app.users DROP gone;
ALTER TABLE app.attendees DROP gone;
INSERT INTO app.users (preferences) VALUES ('{"bluesky": {"did": "did:plc:a", "connected": true}}');
INSERT INTO app.events (atproto_uri, visibility) VALUES ('at://o/c/r', 'public');
INSERT INTO app.attendees (status, event_id, user_id) VALUES ('confirmed', 1, 1);
SELECT rsvp_sync.attach('app.attendees');
SQL
my $wanted = q{SELECT key, did, event_uri, d.status FROM rsvp_sync._source s,
	rsvp_sync._desired(s.source_id, NULL) d WHERE s.attendance_name = 'app.attendees'};
my $before = $pg->safe_psql('app', $wanted);
is $before, "1|did:plc:a|at://o/c/r|confirmed", 'what is desired';
my $triggers = q{SELECT tgrelid::regclass, tgname, tgenabled, count(d.objid) FROM pg_trigger t
	LEFT JOIN pg_depend d ON d.objid = t.oid AND d.deptype = 'x'
	WHERE tgname LIKE 'rsvp\_sync%' GROUP BY t.oid, 1, 2, 3 ORDER BY tgrelid::regclass::text, 2};
my $had = $pg->safe_psql('app', $triggers);

$pg->create_db('copy', extension => 0);
$pg->safe_psql('copy', 'CREATE TABLE other (i integer); CREATE TABLE another (i integer)');
my $dump = $pg->as_pg([ $pg->bin('pg_dump'), '-d', $pg->connstr('app') ]);
($status, $out, $err) = $pg->psql('copy', $dump);
is $err, '', 'a dump is restored without an error';
is $pg->safe_psql('copy', $wanted), $before, 'the restored source finds its columns';
is $pg->safe_psql('copy', $triggers), $had, 'its triggers are there, always enabled, and go with the extension';
$pg->safe_psql('copy', 'SELECT rsvp_sync.activate()');
is $pg->safe_psql('copy', "SELECT count(*) FROM rsvp_sync._source WHERE (shape ->> 'attendance')::oid = attendance"),
  2, 'activate() makes its shapes its own';
is $pg->safe_psql('copy', $wanted), $before, 'and mean the same';
$pg->safe_psql('copy', 'DROP EXTENSION rsvp_sync');
is $pg->safe_psql('copy', $triggers), '', 'a plain DROP EXTENSION takes the triggers along';

done_testing;
