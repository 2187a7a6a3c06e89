# What a role can do to sources that are not its own: nothing.  The function of
# the row triggers is everybody's (partitions need it), advisory locks are
# everybody's; neither may reach another one's source.  And a slow look-up in
# one source's tables stops no other source.
#
# No PDS: mode is off, so the worker moves the log into the queue, no further.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncApp;

my $pg = start_server(conf => { 'rsvp_sync.mode' => 'off' });
$pg->create_db('app');
my $app = bless { pg => $pg, db => 'app' }, 'RsvpSyncApp';
$app->role($_) for qw(app other);
$app->admin('CREATE ROLE stranger LOGIN; CREATE SCHEMA theirs AUTHORIZATION stranger; ALTER DATABASE app OWNER TO app; ALTER SCHEMA public OWNER TO app');
$app->admin('CREATE SCHEMA other AUTHORIZATION other');

sub stranger { return $pg->safe_psql('app', $_[0], user => 'stranger') }
sub drained { return $pg->poll_query_until('app', 'SELECT count(*) = 0 FROM rsvp_sync._change_log') }

sub sees {
	my ($what) = @_;
	drained();
	return $app->admin("SELECT string_agg($what, ' ' ORDER BY source_id, key) FROM rsvp_sync._queue");
}
my $keys = sub { return sees("source_id || ':' || key") };
my $queue = sub { return sees('_queue::text') };
my $forget = sub { drained(); $app->admin('DELETE FROM rsvp_sync._queue') };
my $worker = sub { return $app->admin("SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'app'") };

my $did = 'did:plc:' . 'a' x 24;
my $query = sub { return "\$\$SELECT v.*, '$did' AS did, 'at://$did/community.lexicon.calendar.event/' || v.event AS event_uri, 'going' AS status FROM $_[0] v\$\$" };

$app->sql(<<'SQL');
CREATE FUNCTION in_time(n int) RETURNS boolean LANGUAGE sql AS $$ SELECT pg_sleep(CASE n WHEN 13 THEN 20 ELSE 0 END) IS NOT NULL $$;
CREATE DOMAIN event_number AS int CHECK (in_time(VALUE));
CREATE TABLE events (id int PRIMARY KEY, name text);
CREATE TABLE visits (id int PRIMARY KEY, event event_number);
CREATE TABLE halls (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE halls_1 PARTITION OF halls FOR VALUES FROM (0) TO (10);
CREATE TABLE parts (year int, id int, event int, PRIMARY KEY (year, id)) PARTITION BY LIST (year);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE TABLE parts_1_1 PARTITION OF parts_1 FOR VALUES IN (1);
SQL
my $visits = $app->attach("'visits', " . $query->('visits') . q{, options => '{"depends": [{"table": "events", "column": "event"}, {"table": "halls", "column": "event"}], "sql_timeout": "300ms"}'});
my $parts = $app->attach("'parts', " . $query->('parts'));
$pg->safe_psql('app', 'CREATE TABLE other.visits (id int PRIMARY KEY, event int); SELECT rsvp_sync.attach(\'other.visits\', ' . $query->('other.visits') . ')', user => 'other');
my $other = $app->admin("SELECT source_id FROM rsvp_sync._source WHERE attendance = 'other.visits'::regclass");
my $worker_was = $worker->();

# --- what is to be noticed

$app->sql('INSERT INTO visits VALUES (1, 1), (2, 2)');
is $keys->(), "$visits:1 $visits:2", 'rows of the attendance table';
$forget->();
$app->sql("INSERT INTO events VALUES (1, 'One')");
is $keys->(), "$visits:1", 'a row of a table it depends on';
$forget->();
$app->sql('INSERT INTO halls VALUES (2)');
is $keys->(), "$visits:2", '... of a partition of one';
$forget->();
$app->sql('INSERT INTO parts VALUES (1, 1, 1)');
is $keys->(), qq{$parts:["1", "1"]}, 'a row of a partition of a partition';
$forget->();
$app->sql('CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2); INSERT INTO parts VALUES (2, 5, 1)');
is $keys->(), qq{$parts:["2", "5"]}, '... of one that came later';
$forget->();

# --- what is not

$app->sql('INSERT INTO visits VALUES (3, 1)');
my $waiting = $queue->();
my $state = $app->admin('SELECT string_agg(s::text, E\'\n\' ORDER BY source_id) FROM rsvp_sync._source s');

my $n = 0;
sub forged {
	my ($what, $columns, $arguments, $insert) = @_;
	my $table = 'theirs.t' . ++$n;
	stranger("CREATE TABLE $table ($columns); CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION rsvp_sync._log_change($arguments)");
	stranger($insert =~ s/WHICH/$table/gr);
	is $queue->(), $waiting, "$what: no effect on what waits";
	is $app->admin('SELECT string_agg(s::text, E\'\n\' ORDER BY source_id) FROM rsvp_sync._source s'), $state, '... nor on a source';
	return $table;
}
forged('a forged change', 'id int PRIMARY KEY', "'$visits', '', 'watch'", 'INSERT INTO WHICH VALUES (3), (77)');
forged('a forged change by the network', 'id int PRIMARY KEY', "'$visits', '', 'watch'", 'BEGIN; SET LOCAL rsvp_sync.skip = on; INSERT INTO WHICH VALUES (3); COMMIT');
forged('a forged dependency', 'id int PRIMARY KEY', "'$visits', '1', 'watch'", 'INSERT INTO WHICH VALUES (1)');
forged('one that there is not', 'id int PRIMARY KEY', "'$visits', '-1', 'watch'", 'INSERT INTO WHICH VALUES (1)');
forged('a table without a primary key', 'id int', "'$visits', '', 'watch'", 'INSERT INTO WHICH VALUES (1)');
forged('... as a dependency', 'id int', "'$visits', '1', 'watch'", 'INSERT INTO WHICH VALUES (1)');
forged('a source that there is not', 'id int PRIMARY KEY', "'999', '', 'watch'", 'INSERT INTO WHICH VALUES (1)');
forged('a transaction-wide snapshot', 'id int PRIMARY KEY', "'$visits', '', 'watch'", 'BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO WHICH VALUES (3); COMMIT');
$pg->safe_psql('app', "CREATE TRIGGER t AFTER INSERT ON other.visits FOR EACH ROW EXECUTE FUNCTION rsvp_sync._log_change('$visits', '', 'watch')", user => 'other');
$forget->();
$pg->safe_psql('app', 'INSERT INTO other.visits VALUES (1, 1)', user => 'other');
is $keys->(), "$other:1", 'a forged trigger on an attached table: only the real one counts';
$app->admin('DROP TRIGGER t ON other.visits');
$forget->();
stranger('CREATE TABLE theirs.rooms (id int PRIMARY KEY); GRANT USAGE ON SCHEMA theirs TO other; GRANT SELECT ON theirs.rooms TO other');
$pg->safe_psql('app', q{SELECT rsvp_sync.attach('other.visits', options => '{"depends": [{"table": "theirs.rooms", "column": "event"}]}')}, user => 'other');
stranger("ALTER TABLE theirs.rooms DROP CONSTRAINT rooms_pkey; CREATE TRIGGER t AFTER INSERT ON theirs.rooms FOR EACH ROW EXECUTE FUNCTION rsvp_sync._log_change('$other', '1', 'watch'); INSERT INTO theirs.rooms VALUES (1)");
is $keys->(), '', 'a table of a stranger that the query depends on: its triggers do not count';
is $app->admin("SELECT state FROM rsvp_sync._source WHERE source_id = $other"), 'active', '... either';
# In one transaction the forged entry must not stand for the real one.
my $mixed = stranger("CREATE TABLE theirs.mixed (id int PRIMARY KEY); CREATE TRIGGER t AFTER INSERT ON theirs.mixed FOR EACH ROW EXECUTE FUNCTION rsvp_sync._log_change('$visits', '', 'watch'); GRANT USAGE ON SCHEMA theirs TO app; GRANT ALL ON theirs.mixed TO app");
$app->sql('BEGIN; INSERT INTO theirs.mixed VALUES (8); INSERT INTO visits VALUES (8, 1); COMMIT');
is $keys->(), "$visits:8", 'a forged entry before the real one, in one transaction';
$forget->();

# --- locks

my $locks = $pg->session('app', user => 'stranger');
my $class = $app->admin("SELECT 'rsvp_sync._source'::regclass::oid::int");
$locks->query("SELECT pg_advisory_lock($class, n) FROM unnest(ARRAY[0, 1, 'visits'::regclass::oid::int]) n");
$app->sql('INSERT INTO visits VALUES (4, 1)');
is $keys->(), "$visits:4", 'advisory locks of a stranger: the worker works';
is $app->sql("SET lock_timeout = '5s'; SELECT rsvp_sync.attach('visits')"), $visits, '... and so does attach()';
$locks->query("BEGIN; LOCK TABLE theirs.t1, theirs.t3");
is $app->sql("SET lock_timeout = '5s'; SELECT rsvp_sync.attach('visits', options => '{\"depends\": [{\"table\": \"events\", \"column\": \"event\"}]}')"), $visits, 'attach() again, a dependency less, beside forged triggers on a locked table';
is $app->admin("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'halls'::regclass"), 0, '... and that one is let go';
$forget->();

# --- a slow look-up

$app->sql("INSERT INTO events VALUES (13, 'Thirteen')");
$pg->safe_psql('app', 'INSERT INTO other.visits VALUES (2, 1)', user => 'other');
ok $pg->poll_query_until('app', "SELECT EXISTS (SELECT FROM rsvp_sync._queue WHERE source_id = $other)"), 'a look-up beyond sql_timeout: another source goes on';
like $app->admin("SELECT missed || ' ' || state_reason FROM rsvp_sync._source WHERE source_id = $visits"), qr/^true .*57014/, '... the slow one will be compared';
is $worker->(), $worker_was, '... and the worker lives';

# --- detach

is $app->sql("SET lock_timeout = '5s'; SELECT rsvp_sync.detach('visits')"), '', 'detach() beside forged triggers on a locked table';
is $app->admin("SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('visits'::regclass, 'events'::regclass, 'halls_1'::regclass) AND tgname LIKE 'rsvp%'"), 0, '... takes its own triggers away';
is $app->admin("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'theirs.t1'::regclass"), 1, '... and not those of others';
$locks->query('ROLLBACK');
$locks->close;
is $app->admin('DROP EXTENSION rsvp_sync CASCADE'), '', 'DROP EXTENSION ... CASCADE takes them all';
is $app->admin("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'theirs.t1'::regclass"), 0, '... indeed';
$pg->stop;

# --- start_worker(), where nothing is preloaded

my $plain = start_server(name => 'plain', preload => 0, find_extension => 1);
$plain->create_db('app');
$plain->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
my $early = $plain->session('app', user => 'stranger');
$early->query(sprintf 'SELECT pg_advisory_lock(%d, 0)', 0x72737670);
$plain->safe_psql('app', 'SELECT rsvp_sync.start_worker()') for 1 .. 2;
my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND backend_start < clock_timestamp() - interval '1 s'";
ok $plain->poll_query_until('app', $workers, '1'), 'start_worker() where a stranger has the advisory lock: there is one worker';
is $plain->safe_psql('app', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker'"), 1, '... and no second';

done_testing;
