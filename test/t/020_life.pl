# The life of the workers: they come wherever the extension is, give way to
# commands about their database, come back whatever ends them, and let the
# server stop.  Times are measured and told; only what is far off is a failure.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use RsvpSyncTest;

my $TOO_LONG = 4;    # seconds; without the hook, DROP DATABASE takes 5 and fails

sub worker_query {
	my ($db) = @_;
	return "SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = '$db'";
}

sub worker_of { my ($pg, $db) = @_; return $pg->safe_psql('postgres', worker_query($db)) }

sub launcher_of { return $_[0]->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'rsvp_sync launcher'") }

# The worker of a database, one that is not in the way of being replaced: it has
# had the time to look for the extension.  Not $old, if that is given.
sub wait_worker {
	my ($pg, $db, $old) = @_;
	return wait_for {
		my $pid = eval { $pg->safe_psql('postgres', worker_query($db) . " AND backend_start < clock_timestamp() - interval '0.3 s'") };
		return $pid && $pid ne ($old // '') ? $pid : 0;
	};
}

sub wait_no_worker { my ($pg, $db) = @_; return wait_for { worker_of($pg, $db) eq '' } }

sub quick {
	my ($pg, $sql, $what) = @_;
	my $began = time;
	my ($status, undef, $err) = $pg->psql('postgres', $sql);
	my $took = time - $began;
	is $err, '', "$what succeeds" or return 0;
	return cmp_ok $took, '<', $TOO_LONG, sprintf '%s is not kept waiting (%.0f ms)', $what, $took * 1000;
}

# At debug1 the log tells of every start of a worker.
my $pg = start_server(conf => { max_worker_processes => 12, log_min_messages => 'debug1' });

# --- they come

ok launcher_of($pg), 'there is a launcher';
ok wait_no_worker($pg, 'postgres'), 'no worker stays where there is no extension';
$pg->create_db('app');
my $app = wait_worker($pg, 'app');
ok $app, 'CREATE EXTENSION brings one while the server runs';
$pg->create_db('other');
ok wait_worker($pg, 'other'), 'another database has its own';
is worker_of($pg, 'app'), $app, 'and the first is left alone';
is worker_of($pg, 'postgres'), '', 'still none where there is no extension';

# --- they give way

quick($pg, 'CREATE DATABASE copy TEMPLATE app', 'CREATE DATABASE ... TEMPLATE');
ok wait_worker($pg, 'app', $app), 'the worker of the template comes back';
ok wait_worker($pg, 'copy'), 'the copy gets one';
quick($pg, 'ALTER DATABASE copy RENAME TO renamed', 'RENAME');
ok wait_worker($pg, 'renamed'), 'the worker comes back';
$pg->safe_psql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''");
quick($pg, 'ALTER DATABASE renamed SET TABLESPACE elsewhere', 'SET TABLESPACE');
ok wait_worker($pg, 'renamed'), 'the worker comes back';
quick($pg, 'DROP DATABASE renamed', 'DROP DATABASE');
quick($pg, 'CREATE DATABASE plain', 'CREATE DATABASE');

my $log = $pg->log_size;
for my $i (1 .. 5) {
	$pg->create_db("brief$i");
	quick($pg, "DROP DATABASE brief$i", 'DROP DATABASE right after CREATE EXTENSION');
}
ok !$pg->log_contains(qr/FATAL:  database .* does not exist/, $log), 'no worker is started in a database that is gone';

$app = wait_worker($pg, 'app');
my ($status, undef, $err) = $pg->psql('postgres', 'BEGIN; DROP DATABASE app');
like $err, qr/cannot run inside a transaction block/, 'a DROP DATABASE that fails';
my $after = wait_worker($pg, 'app', $app);
ok $after, 'leaves the database with a worker';
$app = $after;

$pg->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
for my $sql ('DROP DATABASE app', 'CREATE DATABASE stolen TEMPLATE app', 'ALTER DATABASE app RENAME TO stolen', 'ALTER DATABASE app SET TABLESPACE elsewhere') {
	($status, undef, $err) = $pg->psql('postgres', $sql, user => 'nobody');
	like $err, qr/must be owner|permission denied/, "$sql is refused to a stranger";
}
is worker_of($pg, 'app'), $app, 'and he has not disturbed the worker';

my $session = $pg->session('postgres');
$session->query('BEGIN; ALTER DATABASE app RENAME TO app2');
sleep 0.5;
is worker_of($pg, 'app'), '', 'no worker while a RENAME is not committed';
is $pg->safe_psql('postgres', 'SELECT count(*) FROM pg_locks WHERE NOT granted'), 0, 'nor does one wait to come in';
$pg->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $session->backend_pid . ')');
ok wait_worker($pg, 'app', $app), 'it comes back when the session dies';
$session->close;

my $guest = $pg->session('app');
my $dropper = $pg->session('postgres');
$dropper->send('DROP DATABASE app');
ok wait_no_worker($pg, 'app'), 'no worker while DROP DATABASE waits for somebody else';
$pg->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $dropper->backend_pid . ')');
ok wait_worker($pg, 'app'), 'it comes back when that is terminated';
$_->close for $guest, $dropper;

$pg->safe_psql('postgres', 'ALTER DATABASE app IS_TEMPLATE true');
ok wait_no_worker($pg, 'app'), 'a template has no worker';
$pg->safe_psql('postgres', 'ALTER DATABASE app IS_TEMPLATE false');
ok wait_worker($pg, 'app'), 'and one again when it is none any more';

# --- their settings

$app = wait_worker($pg, 'app');
$pg->safe_psql('postgres', "ALTER DATABASE app SET work_mem = '5MB'");
$pg->safe_psql('postgres', 'BEGIN; ALTER DATABASE app SET rsvp_sync.mode = off; ROLLBACK');
sleep 0.5;
is worker_of($pg, 'app'), $app, 'a setting of somebody else, or rolled back, does not concern the worker';
$pg->safe_psql('postgres', "ALTER DATABASE app SET rsvp_sync.mode = 'dry_run'");
ok $after = wait_worker($pg, 'app', $app), 'ALTER DATABASE ... SET rsvp_sync.mode restarts the worker';
$pg->safe_psql('postgres', 'ALTER DATABASE app RESET ALL');
ok wait_worker($pg, 'app', $after), 'and so does RESET ALL';

# --- they come back

$app = wait_worker($pg, 'app');
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($app)");
ok $after = wait_worker($pg, 'app', $app), 'a terminated worker comes back';
my $launcher = launcher_of($pg);
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok wait_for { my $new = launcher_of($pg); $new && $new ne $launcher }, 'a terminated launcher comes back';
is worker_of($pg, 'app'), $after, 'the workers have not noticed';
$app = $after;
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($app)");
ok wait_worker($pg, 'app', $app), 'the new launcher looks after them';
$pg->kill9_worker('^rsvp_sync worker$');
ok wait_for { eval { launcher_of($pg) } }, 'the server recovers from kill -9 of the workers';
ok wait_worker($pg, $_), "and $_ has its worker again" for qw(app other);

# --- the extension goes

# Two tables whose triggers write to the log at once, as seen by their locks.
$pg->safe_psql('other', <<'SQL');
CREATE TABLE first (id int);
CREATE TABLE second (id int);
CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO rsvp_sync._change_log (source_id, op) VALUES (1, 'c');
	RETURN NULL;
END $$;
CREATE TRIGGER log_it AFTER INSERT ON first FOR EACH ROW EXECUTE FUNCTION log_it();
CREATE TRIGGER log_it AFTER INSERT ON second FOR EACH ROW EXECUTE FUNCTION log_it();
ALTER EXTENSION rsvp_sync ADD FUNCTION log_it();
ALTER TRIGGER log_it ON first DEPENDS ON EXTENSION rsvp_sync;
ALTER TRIGGER log_it ON second DEPENDS ON EXTENSION rsvp_sync;
SQL
my $writer = $pg->session('other');
$dropper = $pg->session('other');
for my $order ([ 'first', 'second' ], [ 'second', 'first' ]) {
	$writer->query("BEGIN; LOCK TABLE $order->[0] IN ROW EXCLUSIVE MODE");
	$dropper->send('BEGIN; DROP EXTENSION rsvp_sync; ROLLBACK');
	ok wait_for { $pg->safe_psql('other', 'SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = ' . $dropper->backend_pid . ')') eq 't' },
		"DROP EXTENSION waits for a writer of the $order->[0] table";
	is $writer->query("INSERT INTO $order->[1] VALUES (1); INSERT INTO $order->[0] VALUES (1); ROLLBACK"), '',
		'who goes on to the other and to the log';
	is $dropper->result, '', 'then it succeeds';
}
ok wait_worker($pg, 'other'), 'rolled back, it leaves a worker';
$pg->safe_psql('other', 'DROP EXTENSION rsvp_sync');
ok wait_no_worker($pg, 'other'), 'DROP EXTENSION ends the worker';
my $oid = $pg->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'other'");
sleep 0.5;
$log = $pg->log_size;
sleep 2.5;
ok !$pg->log_contains(qr/starting background worker process "rsvp_sync worker for database $oid"/, $log), 'for good';
is $writer->query('INSERT INTO first VALUES (2)'), '', 'and the application writes on';
$pg->safe_psql('other', 'CREATE EXTENSION rsvp_sync');
ok wait_worker($pg, 'other'), 'until the extension is created again';

# --- a standby

sub standby_of {
	my ($primary) = @_;
	my $dir = RsvpSyncTest::temp_dir('standby');
	my $standby = bless { name => 'standby', dir => $dir }, 'RsvpSyncTest::Server';
	RsvpSyncTest::watch('start', 'QUIT', "$dir/data/postmaster.pid", $dir);
	mkdir "$dir/socket", 0700;
	$standby->own($dir, "$dir/socket");
	$standby->as_pg([ $standby->bin('pg_basebackup'), '-D', "$dir/data", '-d', $primary->connstr, '-c', 'fast', '-R' ]);
	$standby->append_conf("unix_socket_directories = '$dir/socket'");
	$standby->start;
	return $standby;
}

# The tablespace lies in the data directory, where pg_basebackup does not expect it.
$pg->safe_psql('postgres', 'DROP TABLESPACE elsewhere');
my $standby = standby_of($pg);
is $standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby';
sleep 1;
is join(' ', $standby->worker_pids('^rsvp_sync')), '', 'has neither launcher nor workers';
$standby->promote;
ok wait_worker($standby, $_), "promotion brings the worker of $_" for qw(app other);
$standby->destroy;

# --- the server stops

my $took = $pg->stop('fast');
cmp_ok $took, '<', $TOO_LONG, sprintf 'fast stop (%.0f ms)', $took * 1000;
unlike $pg->log_text, qr/ERROR:.*deadlock|PANIC/, 'no deadlock, no panic';

# --- no room

my $small = start_server(name => 'small', conf => { max_worker_processes => 2, max_logical_replication_workers => 0 });
my $no_room = qr/WARNING:  .*no background worker slot is free/;
$small->create_db('one');
ok wait_worker($small, 'one'), 'the only slot is taken';
$small->create_db('two');
ok $small->wait_for_log($no_room), 'slot exhaustion is a warning';
$log = $small->log_size;
sleep 6;
ok !$small->log_contains($no_room, $log), 'and not repeated for each attempt';
is worker_of($small, 'two'), '', 'the other database waits';
$small->safe_psql('one', 'DROP EXTENSION rsvp_sync');
ok wait_worker($small, 'two'), 'until there is room';
unlike $small->log_text, qr/ERROR|FATAL(?!:  terminating background worker)/, 'no error';

# Many databases, few slots: they are tried a few at a time.
$small->safe_psql('postgres', "ALTER SYSTEM SET max_worker_processes = 4");
$small->safe_psql('postgres', "CREATE DATABASE crowd$_") for 1 .. 12;
$small->create_db('last');
$log = $small->log_size;
$small->restart;
ok wait_worker($small, $_), "after a restart $_ has its worker" for qw(two last);
ok !$small->log_contains($no_room, $log), 'and there was room for the others in turn';

done_testing;
