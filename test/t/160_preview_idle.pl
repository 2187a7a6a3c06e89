# What an application's own tests stand on: preview() inside a transaction,
# wait_until_idle(); and who may do and see what.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncApp;

my $app = start_app(accounts => 4);
my $pds = $app->pds;
my $pg = $app->pg;
$app->plan_schema;
my %event = map { $_ => $app->event($_, 0) } 1 .. 2;
$app->user($_, $_) for 1 .. 3;
$app->attach("'attendance'");
$app->sql('INSERT INTO attendance (id, event_id, user_id) VALUES (1, 1, 1), (2, 1, 2)');
$app->idle('inserted');

# --- preview

my $tables = sub { return $app->admin(q{SELECT string_agg(t || ' ' || md5(query_to_xml('SELECT * FROM rsvp_sync.' || t || ' ORDER BY 1, 2', true, false, '')::text), E'\n')
	FROM unnest('{_intent,_queue,_change_log,_observed,_history,_withdrawal,_event}'::text[]) t}) };
my $before = $tables->();
$pds->clear_log;
my $session = $pg->session('app', user => 'app');
my $preview = sub { my ($key) = @_; return $session->query("SELECT attendance_id, action, status, reason_code FROM rsvp_sync.preview('attendance'" . ($key ? ", '$key'" : '') . ')') };
$session->query('BEGIN');
is $preview->(1), '1|nothing|going|published', 'preview: nothing to do';
$session->query("UPDATE attendance SET status = 'maybe' WHERE id = 1");
is $preview->(1), '1|put|interested|', 'changed in this transaction: put';
$session->query('SAVEPOINT a; DELETE FROM attendance WHERE id = 1');
is $preview->(1), '1|delete||', 'deleted: delete';
$session->query('ROLLBACK TO a; INSERT INTO attendance (id, event_id, user_id) VALUES (3, 2, 3)');
is $preview->(3), '3|put|going|', 'a new row: put';
is $session->query("SELECT did, event_uri FROM rsvp_sync.preview('attendance', '3')"), $pds->did(3) . "|$event{2}{uri}", '... where';
$session->query("UPDATE events SET visibility = 'private' WHERE id = 1");
is $preview->(), "1|delete|interested|\n2|delete|going|\n3|put|going|", 'the event made private: all rows at once' or diag $preview->();
$session->query("UPDATE events SET visibility = 'public' WHERE id = 1; UPDATE attendance SET status = 'no_show' WHERE id = 2");
is $preview->(2), '2|nothing||unmapped_status', 'an unmapped status: none, and why';
like $session->query("SELECT reason FROM rsvp_sync.preview('attendance', '2')"), qr/no_show/, '... as a sentence';
$session->query('ROLLBACK');
is $preview->(1), '1|nothing|going|published', 'rolled back: nothing to do';
is $tables->(), $before, 'and nothing is left behind';
$app->idle('previewed');
is_deeply [ $pds->log ], [], 'nor did anybody hear of it';
is $session->query("BEGIN READ ONLY; SELECT action FROM rsvp_sync.preview('attendance', '1'); COMMIT"), 'nothing', 'preview in a read-only transaction';
like $session->query("SELECT * FROM rsvp_sync.preview('users')"), qr/is not attached.*HINT/s, 'not attached: an error with a hint';

# --- wait_until_idle

like $session->query("BEGIN; UPDATE attendance SET status = 'maybe' WHERE id = 1; SELECT rsvp_sync.wait_until_idle('1 s')"), qr/ERROR.*this transaction has changed attendance itself.*COMMIT first/s,
	'wait_until_idle in a transaction that changed attendance is an error';
$session->query('ROLLBACK');
like $session->query("BEGIN; UPDATE events SET visibility = 'private' WHERE id = 1; SELECT rsvp_sync.wait_until_idle('1 s')"), qr/ERROR.*COMMIT first/s, '... also by way of another table';
$session->query('ROLLBACK');
like $session->query("BEGIN; SAVEPOINT a; UPDATE attendance SET status = 'maybe' WHERE id = 1; ROLLBACK TO a; SELECT rsvp_sync.wait_until_idle('1 s')"), qr/^t$/m, '... but not if that was rolled back';
$session->query('ROLLBACK');
for my $level ('REPEATABLE READ', 'SERIALIZABLE') {
	like $session->query("BEGIN ISOLATION LEVEL $level; SELECT rsvp_sync.wait_until_idle('1 s')"), qr/ERROR.*needs READ COMMITTED/s, "... under $level, too";
	$session->query('ROLLBACK');
}
is $session->query("SELECT rsvp_sync.wait_until_idle('0')"), 't', 'idle at once';
like $session->query("SELECT rsvp_sync.wait_until_idle('1 s', 'users')"), qr/is not attached/, 'of a table that is not attached: an error';

$pds->down;
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 1");
my $began = time;
is $session->query("SELECT rsvp_sync.wait_until_idle('700 ms')"), 'f', 'the PDS is down: false';
my $took = time - $began;
ok $took > 0.65 && $took < 3, '... after the timeout' or diag $took;
ok $pg->poll_query_until('app', "SELECT state FROM rsvp_sync.status WHERE attendance_id = '1' AND attempts = 0 AND last_error <> '' AND next_attempt_at IS NOT NULL", 'retrying'), '... sync_status says retrying, why, and when again; a server that is down costs no try';
$session->send("SELECT rsvp_sync.wait_until_idle('60 s')");
is $session->result(0.3), undef, 'somebody waits';
$pg->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->backend_pid . ')');
like $session->result(5), qr/canceling statement/, '... and can be interrupted';
$session->send("SELECT rsvp_sync.wait_until_idle('60 s', 'attendance')");
$pds->up;
is $session->result(30), 't', 'the PDS is up: it goes through';
is $app->said(1), 'interested', '... and is there';

# --- rights: whoever may write the table may write it

$app->admin('CREATE ROLE clerk LOGIN; CREATE ROLE guest LOGIN');
$app->role($_) for qw(reader other);
$app->sql('GRANT INSERT, UPDATE, DELETE, SELECT ON attendance TO clerk; GRANT SELECT ON attendance TO reader; GRANT UPDATE (visibility), SELECT ON events TO clerk');
is $app->fails("INSERT INTO attendance (id, event_id, user_id, status) VALUES (10, 2, 2, 'maybe')", user => 'clerk'), '', 'a role without any right on rsvp_sync inserts';
$app->idle('inserted');
is scalar $app->records(2), 2, '... what is published';
is $app->fails("UPDATE attendance SET status = 'confirmed' WHERE id = 10; DELETE FROM attendance WHERE id = 10", user => 'clerk'), '', '... updates and deletes';
is $app->fails("UPDATE events SET visibility = 'private' WHERE id = 1; UPDATE events SET visibility = 'public' WHERE id = 1", user => 'clerk'), '', '... and updates a table the query depends on';
$app->idle('updated, deleted');
is scalar $app->records(2), 1, '... what is withdrawn';
like $app->fails("SELECT rsvp_sync.sync_status('attendance', '1')", user => 'clerk'), qr/permission denied for (?:schema rsvp_sync|function sync_status)/, '... and sees nothing of rsvp_sync';
is $app->sql("SELECT state IS NULL FROM rsvp_sync.sync_status('attendance', NULL)"), 't', 'of no row in particular sync_status knows nothing';
for my $call ("rsvp_sync._open('x', 'y')", "rsvp_sync._drain(1)", "rsvp_sync._sync_status(10, 'attendance', '1')", "rsvp_sync._attach(10, 'attendance', NULL, NULL, '{}')", "rsvp_sync._desired(1, NULL)") {
	like $app->fails("SELECT $call"), qr/permission denied for function/, "not even the owner may call $call";
}
like $app->fails("SELECT credential FROM rsvp_sync._account"), qr/permission denied/, '... or read the accounts\' secrets';

# --- rights: who may see

is $app->sql("SELECT state FROM rsvp_sync.sync_status('attendance', '1')", user => 'reader'), 'done', 'who may read the table may ask for its state';
is $app->sql("SELECT count(*) FROM rsvp_sync.status", user => 'reader'), 2, '... sees it in the view';
is $app->sql("SELECT action FROM rsvp_sync.preview('attendance', '1')", user => 'reader'), 'nothing', '... and in preview()';
for my $call ("sync_status('attendance', '1')", "preview('attendance')") {
	like $app->fails("SELECT rsvp_sync.$call", user => 'other'), qr/permission denied for table (?:public\.)?attendance/, "who may not is refused: $call";
}
is $app->sql("SELECT count(*) FROM rsvp_sync.$_", user => 'other'), 0, "view $_ shows nothing of it" for qw(status queue held failed history source account);
for my $call ("attach('attendance')", "detach('attendance')", "pause('attendance')", "reconcile('attendance')", "approve_withdrawals('attendance')") {
	like $app->fails("SELECT rsvp_sync.$call", user => 'reader'), qr{must be owner of table (public\.)?attendance.*HINT}s, "only the owner may: $call";
}

# --- an account of another role

$app->sql(<<'SQL', user => 'postgres');
CREATE SCHEMA other AUTHORIZATION other;
SET ROLE other;
CREATE TABLE other.goers (id int PRIMARY KEY, did text, event text, status text);
SQL
$app->sql(q{SELECT rsvp_sync.attach('other.goers', 'SELECT id, did, event AS event_uri, status FROM other.goers')}, user => 'other');
$pds->clear_log;
$app->sql(sprintf("INSERT INTO other.goers VALUES (1, '%s', '%s', 'going')", $pds->did(3), $event{2}{uri}), user => 'other');
$app->idle('another role');
my $s = from_json($app->sql("SELECT to_jsonb(s) FROM rsvp_sync.sync_status('other.goers', '1') s", user => 'other'));
is "$s->{state}/$s->{reason_code}", 'blocked/account_not_granted', "another role's account is not spoken for";
is_deeply [ $app->attempts ], [], '... nothing is sent';
like $app->fails(sprintf("SELECT rsvp_sync.connect_account('%s', 'guess')", $pds->did(3)), user => 'other'), qr/belongs to role "app".*HINT/s, '... nor taken over';
like $app->fails(sprintf("SELECT rsvp_sync.disconnect_account('%s')", $pds->did(3)), user => 'other'), qr/belongs to role "app"/, '... nor disconnected';
like $app->fails(sprintf("SELECT rsvp_sync.grant_account('%s', 'other')", $pds->did(3)), user => 'other'), qr/belongs to role "app"/, '... nor granted to oneself';
is $app->sql('SELECT count(*) FROM rsvp_sync.account'), 3, 'its owner sees his accounts';
$app->sql(sprintf "SELECT rsvp_sync.grant_account('%s', 'other')", $pds->did(3));
$app->idle('granted');
is $app->said(3), 'going', 'granted: sent';
is $app->sql('SELECT did FROM rsvp_sync.account', user => 'other'), $pds->did(3), '... and seen';

# A wrong password: the user's matter, not retried again and again.
my $wrong = sub { my ($status) = @_;
	$app->sql(sprintf "SELECT rsvp_sync.connect_account('%s', 'wrong')", $pds->did(2));
	$app->sql("UPDATE attendance SET status = '$status' WHERE id = 2");
	$app->idle('wrong password');
	return $app->state('attendance', 2);
};
is $wrong->('maybe'), 'blocked/wrong_password', 'a new password: the old session is not used any more';
$app->admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'rsvp_sync worker' AND datname = 'app'");
$wrong->('cancelled');
is $app->state('attendance', 2), 'blocked/wrong_password', 'a wrong password: blocked, and why';
is $app->sql(sprintf "SELECT state FROM rsvp_sync.account WHERE did = '%s'", $pds->did(2)), 'wrong_password', '... the account says so, too';
$pds->clear_log;
$app->sql(q{UPDATE attendance SET metadata = '{"seat": 1}' WHERE id = 2});
$app->idle('again');
is_deeply [ $pds->log ], [], '... it is not tried again';
$app->connect_account(2);
$app->idle('right password');
is_deeply [ $app->said(2), $app->state('attendance', 2) ], [ 'notgoing', 'done/published' ], '... until it is right';
$app->sql(sprintf "SELECT rsvp_sync.disconnect_account('%s')", $pds->did(2));
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id = 2");
$app->idle('disconnected');
is_deeply [ $app->said(2), $app->state('attendance', 2) ], [ 'notgoing', 'blocked/no_account' ], 'disconnected: nothing is sent any more';

done_testing;
