# Manners: a server that is down is asked by one probe and nobody else waits for
# it; limits are learnt, spent and not run into; nobody stands behind somebody
# else's backlog; pause() stops an account, a server, everything.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use RsvpSyncTest;
use RsvpSyncScene;
use RsvpSyncServers;

my $near = start_pds(accounts => 6, name => 'near');
my $far = start_pds(accounts => 3, name => 'far', plc => $near->plc);
my $pg = start_server(pds => $near, conf => {
	'rsvp_sync.insecure_hosts' => join(',', $near->insecure_hosts, $far->insecure_hosts),
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '500ms', 'rsvp_sync.request_timeout' => '10s',
});
my $app = scene($pg, 'app', RsvpSyncServers->new($near, $far), events => 400);
sub one { return $app->sql($_[0]) }
my $far_url = $far->url;

# user 7, 8, 9 are far's
sub attend {
	my ($user, $from, $to, $status) = @_;
	$status //= 'confirmed';
	return $app->sql(qq{INSERT INTO attendance (status, "eventId", "userId") SELECT '$status', n, $user FROM generate_series($from, $to) n});
}

# --- a server that breaks every connection

attend($_, 1, 1) for 1, 7;
ok $app->idle, 'both servers are known';
$far->clear_log;
$far->faults({ reset => 1, count => -1 });
attend($_, 2, 60) for 7, 8, 9;
ok wait_for { one("SELECT count(*) FROM rsvp_sync._host WHERE host = '$far_url'") }, 'a server is found to be down';
ok wait_for { one("SELECT count(*) FROM rsvp_sync.queue WHERE waits_for = '$far_url'") == 177 }, 'its keys wait for it';
is one('SELECT max(attempts) FROM rsvp_sync.queue'), 0, '... and use up no tries';
is one("SELECT string_agg(DISTINCT concat_ws(' ', state, reason_code), ',') FROM rsvp_sync.status WHERE did = '" . $far->did(1) . q{'}),
	'retrying host_unreachable', '... as each row says';
is one("SELECT state FROM rsvp_sync.account WHERE did = '" . $far->did(1) . q{'}), 'unreachable', 'and the account';
like one("SELECT finding FROM rsvp_sync.doctor() WHERE check_name = 'host_down'"), qr/^It has not answered since .*broken/, 'and doctor()';
$far->clear_log;
ok wait_for { $far->log >= 3 }, 'it is asked again and again';
is_deeply [ grep { $_->{call} ne 'com.atproto.server.describeServer' } $far->log ], [], '... by probes alone';
attend($_, 2, 40) for 1 .. 6;
ok wait_for { one(qq{SELECT count(*) FROM rsvp_sync.status WHERE state = 'done'}) >= 2 + 6 * 39 }, 'others go on meanwhile';
is one("SELECT count(*) FROM rsvp_sync.status WHERE did IN (SELECT did FROM rsvp_sync.account WHERE state = 'unreachable') AND state = 'done'"), 1,
	'... while the silent one has what it had';

# Somebody leaves it for another: nothing of his waits for it any more.  (Not in earnest.)
is one("BEGIN; SELECT count(*) FROM rsvp_sync._identity WHERE did = '" . $far->did(1) . q{' AND verify_at <= now() + interval '10 min'; ROLLBACK}), 1, 'its accounts\' documents are looked at';
my $waiting = sprintf q{SELECT count(*) FROM rsvp_sync._queue q JOIN rsvp_sync._intent i USING (source_id, key) WHERE i.did = '%s' AND q.due_at = 'infinity'}, $far->did(1);
is one("BEGIN; DO \$\$ BEGIN PERFORM rsvp_sync._identity_done('" . $far->did(1) . "', '" . $near->url . "', NULL); END \$\$; $waiting; ROLLBACK"), 0, 'who moves to another server waits for that one no more';

my $worker = $app->wait_worker;
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
ok $app->wait_worker($worker), 'another worker comes';
$far->clear_log;
ok wait_for { $far->log >= 1 }, '... and goes on asking';
is_deeply [ grep { $_->{call} ne 'com.atproto.server.describeServer' } $far->log ], [], '... by probes alone, too';
$app->sql('UPDATE attendance SET status = \'maybe\' WHERE "userId" = 8 AND "eventId" BETWEEN 2 AND 10; DELETE FROM attendance WHERE "userId" = 9 AND "eventId" > 30');
$far->clear_faults;
ok $app->idle, 'it answers again: all goes through';
is $app->disagreement, '', '... as it is now';
is one("SELECT count(*) FROM rsvp_sync.failed"), 0, 'nothing was given up';
is one('SELECT count(*) FROM rsvp_sync._host'), 0, 'it is not down any more';
my @lines = grep { /\Q$far_url\E (?:does not answer|answers again)/ } split /\n/, $pg->log_text;
is scalar(@lines), 2, 'the log has a line for each change, and no more';

# --- a failure that is the key's own

$near->faults({ match => 'putRecord', reset => 1, count => 3 });
attend(1, 100, 100);
ok $app->idle, 'a connection breaks now and then';
is one('SELECT count(*) FROM rsvp_sync._host'), 0, 'the server is not to blame: it answers the probe';
is scalar(grep { $_->{fault} } $near->log(call => qr/putRecord/)), 3, '... and the key was tried each time';
my $key = one('SELECT id FROM attendance WHERE "eventId" = 100');
is one("SELECT count(*) FROM rsvp_sync.history WHERE attendance_id = '$key' AND outcome = 'ok'"), 1, 'once is enough';

# --- limits, with windows of ten seconds: 120 requests for our address, at a
# server that takes one write a request

$near->clear_log;
$near->faults({ match => 'applyWrites', status => 400, body => { error => 'InvalidRequest', message => 'No service configured for com.atproto.repo.applyWrites' }, count => -1 });
$near->limits({ points => 120, window => 10, per => 'ip' });
attend($_, 101, 170) for 1 .. 6;
ok $app->idle(120), 'more than a window allows';
is $app->disagreement, '', '... goes through';
my @log = $near->log;
is scalar(grep { ($_->{status} // 0) == 429 } @log), 0, 'no request was refused';
# Windows begin with a request; of whole ones in the middle of the work 95 % are used.
my (@windows, $began);
for my $entry (@log) {
	my ($h, $m, $s) = $entry->{time} =~ /T(\d+):(\d+):([\d.]+)/;
	my $t = $h * 3600 + $m * 60 + $s;
	if (!defined $began || $t >= $began + 10) { $began = $t; push @windows, 0 }
	$windows[-1]++;
}
pop @windows;
cmp_ok scalar(@windows), '>=', 2, 'several windows';
is_deeply [ grep { $_ < 114 } @windows ], [], "each used by 95 % at least (@windows of 120)";
$near->limits;
$near->clear_faults;

# --- an account's own limit: of 60 points an hour a put takes 2

$near->limits({ points => 60, window => 3600, per => 'did', costs => { 'com.atproto.repo.putRecord' => 2 } });
$near->clear_log;
attend(1, 181, 181);
ok $app->idle, 'the first answer says what there is';
attend(1, 182, 220);
attend(2, 181, 200);
ok wait_for { one("SELECT count(*) FROM rsvp_sync.account WHERE rate_limited_until > now() + interval '50 min'") == 1 }, 'an account has used up its own';
ok wait_for { one(qq{SELECT count(*) FROM attendance a JOIN rsvp_sync.status s ON s.attendance_id = a.id::text WHERE "userId" = 2 AND s.state <> 'done'}) == 0 }, 'another goes on';
ok wait_for { one("SELECT string_agg(DISTINCT concat_ws(' ', state, reason_code), ',') FROM rsvp_sync.status WHERE state <> 'done'") eq 'waiting rate_limited' },
	'its rows say what they wait for';
is scalar(grep { ($_->{status} // 0) == 429 } $near->log), 0, 'nothing was refused';
my %points = (create => 3, update => 2, delete => 1);
my $spent = 0;
$spent += $_->{op} ? $points{ $_->{op} } : 2 for $near->writes(did => $near->did(0));
cmp_ok $spent, '>=', 56, "it was used up ($spent points)";
$near->limits;

$worker = $app->worker;
$pg->safe_psql('postgres', "ALTER DATABASE app SET rsvp_sync.retry_max = '400ms'");
$near->clear_log;
ok $app->wait_worker($worker), 'the next worker';
is one("SELECT rsvp_sync.wait_until_idle('0.5 s')"), 'f', '... has its keys wait';
is scalar($near->log(call => qr/putRecord/)), 0, '... and does not try';
$worker = $app->worker;
$app->sql('UPDATE rsvp_sync._account SET rate_limited_until = NULL');
$pg->safe_psql('postgres', "ALTER DATABASE app RESET rsvp_sync.retry_max");
ok $app->idle(60), 'when the limit is gone the rest goes through';
is $app->disagreement, '', '... all of it';

# A server that says no more than "later"
$near->clear_log;
$near->faults({ match => 'putRecord|applyWrites', did => $near->did(0), status => 429, headers => { 'retry-after' => '1' }, body => { error => 'RateLimitExceeded' }, count => 1 });
attend($_, 221, 222) for 1, 2;
ok $app->idle, 'refused without saying which limit';
is $app->disagreement, '', '... it goes through later';
is one("SELECT coalesce(max(attempts), 0) FROM rsvp_sync.status"), 0, '... and no try was counted';

# --- a backlog, and somebody's click

$app->sql(q{CREATE SCHEMA other; CREATE TABLE other.attendance (LIKE attendance INCLUDING ALL);
	ALTER TABLE other.attendance ADD FOREIGN KEY ("eventId") REFERENCES events, ADD FOREIGN KEY ("userId") REFERENCES users;
	SELECT rsvp_sync.attach('other.attendance')});
$near->clear_log;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n, u FROM generate_series(223, 380) n, generate_series(1, 5) u});
ok wait_for { $near->writes >= 20 }, 'somebody imports 790 rows';
is one('SELECT min(priority) FROM rsvp_sync.queue'), 1, '... which nobody waits for';
$app->sql(q{INSERT INTO attendance (id, status, "eventId", "userId") VALUES (1, 'confirmed', 399, 1);
	INSERT INTO other.attendance (id, status, "eventId", "userId") VALUES (1, 'confirmed', 398, 6)});
sub write_calls { return grep { $_->{committed} } $near->log }
my $before = write_calls;
ok wait_for { one(q{SELECT count(*) FROM rsvp_sync.status WHERE attendance_id = '1' AND state = 'done'}) == 2 }, 'two people click';
my @order = map { my $call = $_; join ' ', map { $_->{record}{subject}{uri} =~ /3kevent000(\d+)$/ ? $1 : '' } @{ $call->{writes} // [$call] } } write_calls;
for my $event (398, 399) {
	my ($place) = grep { $order[$_] =~ /\b$event\b/ } 0 .. $#order;
	cmp_ok $place - $before, '<', 30, "event $event: among the next writes (" . ($place - $before) . ')';
	is $order[$place], $event, '... and not in a crowd';
}
ok $app->idle(120), 'the backlog goes on';

# --- a server that takes a connection and says nothing keeps nobody else waiting

$far->faults({ hang => 1, count => -1 });
attend($_, 61, 360) for 7, 8, 9;
ok wait_for { scalar $far->log(fault => 'hang') }, 'a server hangs, with 900 keys for it';
attend(6, 302, 302);
ok wait_for { one(q{SELECT count(*) FROM attendance a JOIN rsvp_sync.status s ON s.attendance_id = a.id::text WHERE "userId" = 6 AND "eventId" = 302 AND s.state = 'done'}) }, 'a click at another server goes through';
ok !one("SELECT count(*) FROM rsvp_sync._host"), '... before the hanging one is given up';
$far->clear_faults;
ok $app->idle(120), 'then the rest';
is one('SELECT count(*) FROM rsvp_sync.failed'), 0, 'nothing was given up';

# --- withdrawals that the limit has let pass are not counted again by a try that follows

attend(3, 390, 399);
ok $app->idle, 'ten more';
$app->sql('TRUNCATE rsvp_sync._withdrawal');
my $limit = 10;
$pg->safe_psql('postgres', "ALTER SYSTEM SET rsvp_sync.withdraw_limit = $limit; SELECT pg_reload_conf()");
$near->faults({ match => 'deleteRecord', status => 500, count => 3 });
$app->sql('DELETE FROM attendance WHERE "userId" = 3 AND "eventId" BETWEEN 390 AND 399');
ok $app->idle, 'as many withdrawals as are allowed, some of them twice';
is one('SELECT count(*) FROM rsvp_sync.held'), 0, '... none is held';
is one('SELECT sum(n) FROM rsvp_sync._withdrawal'), $limit, '... and each is counted once';
$near->clear_faults;

# --- pause

$near->clear_log;
$app->sql("SELECT rsvp_sync.pause('" . $near->did(2) . q{')});
attend($_, 381, 381) for 3, 4;
ok wait_for { one(q{SELECT string_agg(concat_ws(' ', state, reason_code), ',' ORDER BY s.did <> 'x') FROM rsvp_sync.status s WHERE state <> 'done'}) eq 'blocked paused' }, 'an account is paused';
ok $app->idle, '... that is idle';
is scalar($near->writes), 1, 'others are not';
$app->sql("SELECT rsvp_sync.pause('$far_url')");
attend(7, 381, 381);
ok wait_for { one("SELECT count(*) FROM rsvp_sync.status WHERE reason_code = 'paused'") == 2 }, 'a server is paused';
$pg->restart;
ok $app->idle, 'after a restart';
is one("SELECT count(*) FROM rsvp_sync.status WHERE reason_code = 'paused'"), 2, '... they still are';
$app->sql("SELECT rsvp_sync.pause(); SELECT rsvp_sync.resume('$far_url'); SELECT rsvp_sync.resume('" . $near->did(2) . q{')});
attend(1, 382, 382);
ok $app->idle, 'everything is paused';
is one("SELECT count(*) FROM rsvp_sync.status WHERE concat_ws(' ', state, reason_code) = 'blocked paused'"), 3, '... and the rows say so';
is one("SELECT count(*) FROM rsvp_sync.doctor() WHERE check_name = 'paused'"), 1, 'and doctor()';
$app->sql('SELECT rsvp_sync.resume()');
ok $app->idle, 'resumed';
is one("SELECT count(*) FROM rsvp_sync.status WHERE state <> 'done'"), 0, 'all is done';

$app->sql('CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA rsvp_sync TO guest; GRANT EXECUTE ON FUNCTION rsvp_sync.pause(text), rsvp_sync.pause() TO guest');
for my $call ("pause()", "pause('$far_url')", "pause('" . $near->did(0) . q{')}, "pause('attendance')") {
	my ($status, undef, $err) = $pg->psql('app', "SELECT rsvp_sync.$call", user => 'guest');
	like $err, qr/42501|permission denied|belongs to role|must be owner/, "a stranger may not $call";
}
like +($pg->psql('app', "SELECT rsvp_sync.pause('nobody')"))[2], qr/neither a DID nor a server nor a table/, 'nonsense is refused';
like +($pg->psql('app', "SELECT rsvp_sync.pause('https://user\@pds.example.com')"))[2], qr/invalid PDS address/, '... and what is no origin';

done_testing();
