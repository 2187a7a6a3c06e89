# The PDS is not there, or does not answer: the application does not notice,
# nothing is held meanwhile, and what waits goes through in the end.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncScene;

my $PROMPT = 4;    # seconds; a generous bound for what has to be immediate

my $pds = start_pds(accounts => 2);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.request_timeout' => '30s', autovacuum => 'off',
});
my $app = scene($pg, 'app', $pds);

sub timed {
	my ($work) = @_;
	my $began = time;
	$work->();
	return time - $began;
}

# --- nobody listens

$pds->down;
my $took = timed(sub { $app->sql(q{INSERT INTO attendance VALUES (1, 'confirmed', '{}', 1, 2)}) });
cmp_ok $took, '<', $PROMPT, sprintf 'an INSERT commits at once (%.0f ms)', $took * 1000;
ok $app->wait_status(1, 'retrying host_unreachable'), 'its key is tried again and again';
like $app->status(1, 'last_error'), qr/^connect/, 'the error says why';
is $app->sql("SELECT rsvp_sync.wait_until_idle('0.5 s')"), 'f', 'that is not idle';
$pds->up;
ok $app->idle, 'the PDS is back, and it goes through';
is $app->disagreement, '', 'the record is there';
is $app->status(1), 'done published', 'the row is done';

$pds->down;
$app->sql(q{UPDATE attendance SET status = 'cancelled'; INSERT INTO attendance VALUES (2, 'maybe', '{}', 2, 2)});
ok $app->wait_status($_, 'retrying host_unreachable'), "row $_ waits" for 1, 2;
$app->sql(q{UPDATE attendance SET status = 'maybe' WHERE id = 1; DELETE FROM attendance WHERE id = 2});
$pds->up;
ok $app->idle, 'what was changed once more meanwhile';
is $app->disagreement, '', 'goes through as it is now';
is scalar(grep { $_->{collection} eq 'community.lexicon.calendar.rsvp' } $pds->writes), 2, 'in one write each, and none for what came and went';

# --- it hangs

$pds->clear_log;
$pds->faults({ match => 'putRecord', hang => 1, count => -1 });
my $worker = $app->wait_worker;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n, 1 FROM generate_series(1, 5) n});
ok wait_for { scalar $pds->log(fault => 'hang') }, 'a request hangs';
ok $pg->poll_query_until('app', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $worker"), 'the worker waits for it';

# Looks every few milliseconds, for two and a half seconds: one look at the tables falls
# into that time, hence the few samples that are let pass.
$app->sql('CREATE TABLE sample (state text, snapshot xid, transaction xid)');
$pg->safe_psql('app', <<"SQL");
DO \$\$ BEGIN
	FOR i IN 1 .. 500 LOOP
		PERFORM pg_stat_clear_snapshot();
		INSERT INTO sample SELECT state, backend_xmin, backend_xid FROM pg_stat_activity WHERE pid = $worker;
		PERFORM pg_sleep(0.004);
	END LOOP;
END \$\$
SQL
is $app->sql('SELECT count(*) FROM sample'), 500, 'five hundred samples of the worker';
is $app->sql("SELECT count(*) FROM sample WHERE state LIKE 'idle in transaction%'"), 0, 'never idle in transaction';
cmp_ok $app->sql("SELECT count(*) FROM sample WHERE snapshot IS NOT NULL OR transaction IS NOT NULL OR state <> 'idle'"), '<=', 20, 'with no snapshot and no transaction';
is $app->sql("SELECT string_agg(l.locktype || ' ' || l.mode, ', ') FROM pg_locks l WHERE l.pid = $worker AND l.locktype <> 'virtualxid'"), '', 'no lock is held';
cmp_ok $app->transactions(2), '<', 20, 'and it does not look around all the time';

$app->sql('CREATE TABLE dead AS SELECT generate_series(1, 1000) n; DELETE FROM dead');
my (undef, undef, $said) = $pg->psql('app', 'VACUUM (VERBOSE) dead');
like $said, qr/tuples: 1000 removed, 0 remain, 0 are dead but not yet removable/, 'VACUUM removes dead rows';

# More keys than the worker takes at once.
$app->add_events(300);
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n, 1 FROM generate_series(6, 300) n});
ok $pg->poll_query_until('app', 'SELECT count(*) = 0 FROM rsvp_sync._change_log'), 'three hundred keys more';
cmp_ok $app->transactions(2), '<', 20, 'do not make it restless';

$pg->create_db('other');
wait_for { $pg->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'other'") };
$took = timed(sub { $pg->safe_psql('postgres', 'DROP DATABASE other') });
cmp_ok $took, '<', $PROMPT, sprintf 'DROP DATABASE of another one (%.0f ms)', $took * 1000;

$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
my $next = $app->wait_worker($worker);
ok $next, 'a terminated worker is replaced';
ok wait_for { $pds->log(fault => 'hang') > 1 }, 'the next one asks again';

$pg->safe_psql('postgres', 'CREATE DATABASE spare TEMPLATE app');
ok $app->wait_worker($next), 'the worker is back after its database was copied';
is $pg->safe_psql('spare', "SELECT rsvp_sync._copied()"), 't', 'the copy knows that it is one';
my $spare = bless { %$app, db => 'spare' }, ref $app;
ok $spare->wait_worker, 'and has a worker';
cmp_ok $spare->transactions(2), '<', 20, 'which sleeps, though keys are due';

$took = timed(sub { $pg->safe_psql('postgres', 'DROP DATABASE spare') });
cmp_ok $took, '<', $PROMPT, sprintf 'DROP DATABASE of the copy (%.0f ms)', $took * 1000;

ok wait_for { $pds->log(fault => 'hang') > 2 }, 'a request hangs again';
$took = $pg->stop('fast');
cmp_ok $took, '<', $PROMPT, sprintf 'fast stop (%.0f ms)', $took * 1000;
$pg->start;
$pds->clear_log;
ok wait_for { scalar $pds->log(fault => 'hang') }, 'it hangs after a restart, too';
$pds->clear_faults;
ok $app->idle, 'the PDS answers, and all goes through';
is $app->disagreement, '', 'what hung is there, once';
is $app->not_told, '', 'and the rows know';

$pds->faults({ match => 'putRecord', hang => 1, count => -1 });
$app->sql(q{UPDATE attendance SET status = 'maybe' WHERE id = 1; UPDATE attendance SET status = 'cancelled' WHERE id = 1});
ok wait_for { scalar $pds->log(fault => 'hang') }, 'with a request hanging';
$took = timed(sub { $pg->safe_psql('postgres', 'DROP DATABASE app') });
cmp_ok $took, '<', $PROMPT, sprintf 'DROP DATABASE (%.0f ms)', $took * 1000;

unlike $pg->log_text, qr/PANIC|deadlock|could not be recorded/, 'nothing untoward in the log';

done_testing;
