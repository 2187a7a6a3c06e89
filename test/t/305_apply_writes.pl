# Several changes of one account wait: they go by one call, as a whole or not at
# all; after any doubt each goes alone; nothing is done twice.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $RSVP = 'community.lexicon.calendar.rsvp';
my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.request_timeout' => '60s',
});
my $app = scene($pg, 'app', $pds, events => 300);
my $next = 2;    # event

sub one { my ($sql) = @_; return $app->sql($sql) }
sub calls { my ($call) = @_; return $pds->log(call => "com.atproto.repo.$call") }
sub together { return calls('applyWrites') }
sub rsvp_writes { return grep { ($_->{collection} // '') eq $RSVP } $pds->writes }

# attend(user, n) -> the first and the last of so many new events
sub attend {
	my ($user, $n) = @_;
	my ($from, $to) = ($next, $next + $n - 1);
	$next += $n;
	$app->sql(qq{INSERT INTO attendance (id, status, "eventId", "userId") SELECT $user * 1000 + n, 'confirmed', n, $user FROM generate_series($from, $to) n});
	return ($from, $to);
}

# A user's writes may go together: one has just been made by itself, and what
# went wrong before is forgotten with the session of that time.
sub warm {
	my ($user) = @_;
	$app->connect($user - 1);
	attend($user, 1);
	ok $app->idle, 'the account is known';
	$pds->clear_log;
	return;
}

# All is on the network that should be, once, and everybody knows.
sub right {
	my ($what) = @_;
	ok $app->idle, "$what: idle";
	is $app->disagreement, '', '... the network has what the rows say';
	is $app->not_told // '', '', '... the rows know';
	is one(q{SELECT count(*) FROM rsvp_sync.rsvp r WHERE r.cid IS DISTINCT FROM rsvp_sync.record_cid(r.record)}), 0, '... every cid is its record\'s';
	my %there = map { my $did = $_; map { ("$did " . $_->{uri} =~ s{.*/}{}r . " $_->{cid}" => 1) } $pds->list_records($did) } map { $_->{did} } @{ $pds->accounts };
	is_deeply [ sort keys %there ], [ sort split /\n/, one(q{SELECT concat_ws(' ', did, rkey, cid) FROM rsvp_sync.rsvp}) ], '... and what is known is what is there';
	return;
}

# Each record was written so many times since the log was cleared.
sub written {
	my ($times, $n, $what) = @_;
	my %times;
	$times{ $_->{rkey} }++ for rsvp_writes();
	is_deeply [ scalar(keys %times), grep { $_ != $times } values %times ], [$n], $what;
	return;
}

# So many operations were counted since it was last asked.
my %counted;
sub counted {
	my ($operation) = @_;
	my $now = one(qq{SELECT coalesce(sum(value), 0) FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_operations_total' AND labels ->> 'operation' = '$operation'});
	my $more = $now - ($counted{$operation} // 0);
	$counted{$operation} = $now;
	return $more;
}

sub timeout {
	my ($time) = @_;
	$pg->safe_psql('postgres', "ALTER SYSTEM SET rsvp_sync.request_timeout = '$time'");
	$pg->safe_psql('postgres', 'SELECT pg_reload_conf()');
	return;
}

# --- many at once

warm(1);
counted('create');
attend(1, 40);
right('forty new rows of one account');
cmp_ok scalar(together()), '>=', 1, '... went together';
cmp_ok scalar($pds->log), '<=', 3, '... in few requests (' . scalar($pds->log) . ')';
written(1, 40, '... each once');
is counted('create'), 40, '... and each is counted';
is one(q{SELECT count(*) FROM rsvp_sync.history WHERE outcome = 'ok' AND action = 'put'}), 41, '... and remembered';

warm(1);
counted($_) for qw(create delete);
$app->sql(sprintf q{BEGIN; INSERT INTO attendance (id, status, "eventId", "userId") SELECT 1000 + n, 'confirmed', n, 1 FROM generate_series(%d, %d) n;
	UPDATE attendance SET status = 'maybe' WHERE id BETWEEN 1010 AND 1014; DELETE FROM attendance WHERE id BETWEEN 1020 AND 1024; COMMIT}, $next, $next + 4);
$next += 5;
right('new, changed and removed rows');
my ($mixed) = grep { my %ops = map { $_->{op} => 1 } @{ $_->{writes} }; keys %ops == 3 } together();
ok $mixed, '... in one call';
ok defined $mixed->{swapCommit}, '... that names the head of the repository';
written(1, 15, '... each once');
is counted('create') . ' ' . counted('delete'), '10 5', '... and each is counted for what it is';

# What alone waits goes by itself.
warm(2);
attend(2, 1);
right('one new row');
is join(' ', scalar(calls('putRecord')), scalar(together())), '1 0', '... is a putRecord';

# --- others write to the repository, too

my ($from, $to);
for my $case ([ 'an event of its own', sub { $pds->create_event(0, 'Mine', '2035-06-21T18:00:00Z') } ],
	[ 'an answer to the same event', sub { $pds->client('put-rsvp', 0, "at://@{[ $pds->did(0) ]}/community.lexicon.calendar.event/3kevent" . sprintf('%06d', $from + 3),
		'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a', 'going') } ]) {
	my ($what, $foreign) = @$case;
	warm(1);
	$pds->faults({ match => 'applyWrites', hang => 1 });
	($from, $to) = attend(1, 10);
	$app->sql('UPDATE attendance SET status = CASE status WHEN \'maybe\' THEN \'confirmed\' ELSE \'maybe\' END WHERE id BETWEEN 1025 AND 1029');
	ok wait_for { scalar together() }, 'several writes are under way';
	$foreign->();
	$pds->clear_faults;
	right("... when the account writes $what");
	is((together())[0]{error}, 'InvalidSwap', '... they are refused');
	written(1, 15 - ($what =~ /answer/), '... then each is written once');
}

# What is not known to be what its write was planned for is no company.
warm(1);
my ($rkey) = one(q{SELECT rkey FROM rsvp_sync._intent WHERE key = '1030'});
$app->sql(qq{UPDATE rsvp_sync._observed SET cid = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a' WHERE rkey = '$rkey';
	UPDATE rsvp_sync._intent SET base_cid = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a' WHERE key = '1030'});
$app->sql(q{UPDATE attendance SET status = 'cancelled' WHERE id BETWEEN 1028 AND 1033});
right('a record is not what we think');
ok +(grep { $_->{rkey} eq $rkey && ($_->{error} // '') eq 'InvalidSwap' } calls('putRecord')), '... it is written alone, and found out';
ok !(grep { $_->{rkey} eq $rkey } map { @{ $_->{writes} } } together()), '... never with others';
ok scalar(together()), '... which go together';

# --- answers that do not come, or are none

for my $case (
	[ 'the answer comes too late', { after => 1, hang => 1 }, undef, '2s' ],
	[ 'the answer is broken', { after => 1, truncate => 40 } ],
	[ 'the answer is another one', { after => 1, status => 200, body => { commit => { cid => 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a', rev => '3kabcdefghijk' }, results => [] } } ],
	[ 'a gateway answers in its place', { after => 1, status => 504, body => 'Gateway Timeout' } ],
	[ '500', { status => 500 } ],
	# libcurl itself repeats what a kept connection has not answered at all.
	[ 'the connection ends without an answer', { after => 1 }, 'twice' ],
	[ 'the connection breaks before', { reset => 1 }, 'twice' ],
) {
	my ($what, $rule, $twice, $timeout) = @$case;
	timeout($timeout // '60s');
	warm(3);
	counted('create');
	$pds->faults({ match => 'applyWrites', %$rule });
	attend(3, 6);
	right($what);
	if (!$twice) {
		my %read = map { $_->{query} =~ /rkey=(\w+)/ ? ($1 => 1) : () } calls('getRecord');
		is scalar(together()) . ' ' . keys %read, '1 6', '... they do not go together once more, each is read';
	}
	is scalar(grep { $_->{committed} && @{ $_->{writes} } == 6 } together()), $rule->{after} ? 1 : $twice ? 1 : 0, '... the call was made once at most';
	written(1, 6, '... and is written once');
	is counted('create'), 6, '... and counted once';
	$pds->clear_faults;
	is $pg->safe_psql('app', q{SELECT count(*) FROM rsvp_sync._intent WHERE doubt}), 0, '... nothing is left in doubt';
}

# --- one of them is refused

warm(2);
($from, $to) = attend(2, 0);
$pds->faults({ match => 'putRecord|applyWrites', says => sprintf('3kevent%06d', $next + 4), status => 400, body => { error => 'InvalidRequest', message => 'Invalid record' }, count => -1 });
($from, $to) = attend(2, 10);
ok $app->wait_status(2000 + $from + 4, 'failed refused'), 'the PDS does not take one of ten';
ok $app->idle, 'idle';
is one("SELECT count(*) FROM rsvp_sync.status WHERE attendance_id::int BETWEEN 2000 + $from AND 2000 + $to AND state = 'done'"), 9, '... the others are done';
is scalar(together()), 1, '... it was one call at first';
is scalar(grep { $_->{fault} } calls('putRecord')), 1, '... then each went alone';
$pds->clear_faults;
$app->sql("SELECT rsvp_sync.retry('attendance', '@{[ 2000 + $from + 4 ]}')");
right('taken after all');

# --- sessions

warm(2);
$pds->faults({ match => 'applyWrites', status => 400, body => { error => 'ExpiredToken', message => 'Token has expired' } });
attend(2, 10);
right('the token has expired');
is scalar(together()), 2, '... they go together once more';
written(1, 10, '... each once');
is scalar($pds->log(call => 'com.atproto.server.createSession')), 0, '... without a login';
$pds->clear_faults;

warm(2);
$pds->faults({ match => 'applyWrites', status => 429, headers => { 'retry-after' => 1 }, body => { error => 'RateLimitExceeded' } });
attend(2, 10);
right('too many requests');
written(1, 10, '... later each once');
$pds->clear_faults;

# --- an account's points: a create takes more in company

$pds->limits({ points => 200, window => 3600, per => 'did', costs => { 'com.atproto.repo.putRecord' => 2, 'com.atproto.repo.deleteRecord' => 1 } });
warm(2);
attend(2, 45);
ok wait_for { my $spent = 0; $spent += $_->{op} ? 3 : 2 for rsvp_writes(); $spent > 98 }, 'half of a limit is spent freely';
is scalar(grep { ($_->{status} // 0) == 429 } $pds->log), 0, '... nothing is refused';
my @order = map { $_->{call} =~ /applyWrites/ ? 'together' : 'alone' } $pds->log(call => qr/putRecord|applyWrites/);
is $order[-1], 'alone', '... then what costs less (' . join(' ', @order) . ')';
$pds->limits;
my $worker = $app->worker;
$app->sql('UPDATE rsvp_sync._account SET rate_limited_until = NULL');
$pg->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
ok $app->wait_worker($worker), 'the limit is gone, and who knows of it';
right('the rest');

# --- the worker dies

for my $case ([ 'before they are done', { hang => 1 } ], [ 'after they are done', { after => 1, hang => 1 } ]) {
	my ($when, $rule) = @$case;
	warm(1);
	$pds->faults({ match => 'applyWrites', %$rule });
	attend(1, 10);
	ok wait_for { my ($call) = together(); $call && ($rule->{after} ? $call->{committed} : 1) }, 'several writes are under way';
	my $old = $app->worker;
	ok scalar($pg->kill9_worker('^rsvp_sync worker$')), 'the worker is killed';
	ok $app->wait_worker($old), '... there is another one';
	$pds->clear_faults;
	right("killed $when");
	is scalar(together()), 1, '... they do not go together again';
	written(1, 10, '... each is written once');
}

unlike $pg->log_text, qr/PANIC|could not be recorded/, 'nothing untoward in the log';
done_testing;
