package ChaosFaults;

# What strikes: processes of the server and of the PDS killed, connections
# refused, answers lost or spoilt, sessions revoked.
#
#   my $faults = ChaosFaults->new($app, seconds => 600);
#   for my $strike ($faults->plan) { ... $faults->strike($strike) ... }
#   $faults->mend;
#
# What happens when is decided from the seed before anything happens; whoever
# has to be killed is looked for in /proc, not asked for, so that a server at
# its start or its end is hit as well.

use strict;
use warnings;

use HTTP::Tiny ();
use Time::HiRes qw(sleep time);
use RsvpSyncTest;

# Times in ten minutes
my %TIMES = (
	worker => 75, launcher => 4, backend => 20, postmaster => 16, immediate => 8,
	pds_killed => 5, pds_down => 14, answers => 110, revoked => 20,
);

my %ANSWERS = (
	'reset before' => sub { { reset => 1 } },
	'closed after' => sub { { after => 1 } },
	'reset after' => sub { { after => 1, reset => 1 } },
	'hangs before' => sub { { hang => 1 } },
	'hangs after' => sub { { after => 1, hang => 1 } },
	'late' => sub { { delayMs => int rand 3000 } },
	'late after' => sub { { after => 1, answerDelayMs => int rand 3000 } },
	'truncated' => sub { { truncate => int rand 60 } },
	'no JSON' => sub { { garbage => 1 } },
	'no JSON after' => sub { { after => 1, garbage => 1 } },
	'no HTTP' => sub { { garbage => 'http' } },
	'50 MB' => sub { { bigBytes => 50_000_000 } },
	'5 MB after' => sub { { after => 1, bigBytes => 5_000_000 } },
	'a byte a second' => sub { { slowBps => 1 } },
	'500' => sub { { status => 500 } },
	'502' => sub { { status => 502, body => '<html>Bad Gateway</html>', headers => { 'content-type' => 'text/html' } } },
	'504 after' => sub { { after => 1, status => 504, body => 'Gateway Timeout' } },
	'503' => sub { { status => 503, headers => { 'retry-after' => 1 }, body => { error => 'NotEnoughResources', message => 'busy' } } },
	'429' => sub { { status => 429, headers => { 'retry-after' => 1 }, body => { error => 'RateLimitExceeded', message => 'Rate Limit Exceeded' } } },
	'429 with a reset' => sub { { status => 429, headers => { 'ratelimit-limit' => 10, 'ratelimit-remaining' => 0, 'ratelimit-reset' => int(time) + 2 },
		body => { error => 'RateLimitExceeded', message => 'Rate Limit Exceeded' } } },
	'expired token' => sub { { status => 400, match => 'Record$|applyWrites|refreshSession', method => 'POST', body => { error => 'ExpiredToken', message => 'Token has expired' } } },
	'401' => sub { { status => 401, match => 'putRecord|applyWrites', body => 'Unauthorized' } },
	'InvalidSwap' => sub { { status => 400, match => 'putRecord|deleteRecord', body => { error => 'InvalidSwap', message => 'Record was at bafyother' } } },
	'InvalidSwap of the head' => sub { { status => 400, match => 'putRecord|deleteRecord|applyWrites', body => { error => 'InvalidSwap', message => 'Commit was at bafyother' } } },
);
my @CALLS = (('putRecord') x 4, ('applyWrites') x 4, ('deleteRecord') x 2, ('getRecord') x 2, 'getLatestCommit', 'listRecords', 'Session', 'xrpc');

sub new {
	my ($class, $app, %opt) = @_;
	return bless { app => $app, pg => $app->{pg}, pds => $app->{pds}, count => {}, unsequenced => 0, kills => [], %opt }, $class;
}

# plan -> {at => second, what => ...} in order
sub plan {
	my ($self) = @_;
	my @plan;
	for my $what (sort keys %TIMES) {
		my $n = int(0.5 + $TIMES{$what} * $self->{seconds} / 600) || 1;
		push @plan, map { { at => rand $self->{seconds}, what => $what } } 1 .. $n;
	}
	for my $strike (@plan) {
		$strike->{for} = 0.5 + rand 3 if $strike->{what} =~ /^pds_/;
		$strike->{rules} = [ map { rule() } 1 .. 1 + rand 4 ] if $strike->{what} eq 'answers';
		$strike->{who} = rand if $strike->{what} =~ /backend|revoked/;
	}
	push @plan, map { { at => $_->{at} + $_->{for}, what => $_->{what} eq 'pds_down' ? 'pds_up' : 'pds_started' } } grep { $_->{for} } @plan;
	return sort { $a->{at} <=> $b->{at} || $a->{what} cmp $b->{what} } @plan;
}

sub rule {
	my @names = sort keys %ANSWERS;
	my $name = $names[ rand @names ];
	my $rule = { match => $CALLS[ rand @CALLS ], %{ $ANSWERS{$name}->() }, skip => int rand 6, count => $name =~ /MB|second|hangs/ ? 1 : 1 + int rand 5 };
	return { name => $name, rule => $rule };
}

sub strike {
	my ($self, $strike) = @_;
	my $what = $strike->{what};
	my $did = $self->$what($strike);
	$self->{count}{$what}++ if $did;
	if ($did && $what eq 'answers') { $self->{count}{"answer: $_->{name}"}++ for @{ $strike->{rules} } }
	return $did;
}

# --- the server's processes

# The children of the postmaster whose titles match
sub children {
	my ($self, $title) = @_;
	my $postmaster = $self->{pg}->pid or return;
	my $children = eval { slurp("/proc/$postmaster/task/$postmaster/children") } // '';
	return grep { (eval { slurp("/proc/$_/cmdline") } // '') =~ $title } split ' ', $children;
}

# Whoever this is, once there is one
sub kill_one {
	my ($self, $title, $who) = @_;
	my @there = wait_for_list(sub { $self->children($title) }, 10) or return 0;
	push @{ $self->{kills} }, time;
	kill 'KILL', $there[ @there * ($who // 0) ] or return 0;
	return 1;
}

sub wait_for_list {
	my ($list, $seconds) = @_;
	my $deadline = time + $seconds;
	while (time < $deadline) {
		my @list = $list->();
		return @list if @list;
		sleep 0.02;
	}
	return;
}

sub worker { return $_[0]->kill_one(qr/^postgres: rsvp_sync worker/) }
sub launcher { return $_[0]->kill_one(qr/^postgres: rsvp_sync launcher/) }
sub backend { my ($self, $strike) = @_; return $self->kill_one(qr/^postgres: postgres \w+ \[local\]/, $strike->{who}) }

sub postmaster {
	my ($self) = @_;
	push @{ $self->{kills} }, time;
	$self->{pg}->kill9_postmaster;
	$self->{pg}->start;
	return 1;
}

sub immediate {
	my ($self) = @_;
	push @{ $self->{kills} }, time;
	$self->{pg}->restart('immediate');
	return 1;
}

# --- the PDS

sub pds_down {
	my ($self) = @_;
	return 0 if $self->{pds_gone};
	$self->{pds}->down;
	return 1;
}

sub pds_up {
	my ($self) = @_;
	return 0 if $self->{pds_gone};
	$self->{pds}->up;
	return 1;
}

sub pds_killed {
	my ($self) = @_;
	return 0 if $self->{pds_gone};
	my $pid = $self->{pds}->pid;
	kill 'KILL', $pid;
	wait_for { !alive($pid) } or die "the PDS lives on\n";
	$self->{pds_gone} = 1;
	$self->{unsequenced} += $_->{writes} for @{ commits($self->{pds}, '--unsequenced') };
	return 1;
}

sub pds_started {
	my ($self) = @_;
	return 0 if !delete $self->{pds_gone};
	$self->{pds}->start;
	return 1;
}

sub commits {
	my ($pds, @more) = @_;
	return from_json(RsvpSyncTest::must_run([ repo_root() . '/test/pds/run', repo_root() . '/test/chaos/commits.mjs', $pds->state->{dataDir}, @more ]));
}

sub answers {
	my ($self, $strike) = @_;
	return 0 if $self->{pds_gone};
	$self->{pds}->faults(map { $_->{rule} } @{ $strike->{rules} });
	return 1;
}

# An account's refresh tokens are good no more, as after "sign out everywhere"
sub revoked {
	my ($self, $strike) = @_;
	return 0 if $self->{pds_gone};
	my $pds = $self->{pds};
	my $account = $pds->accounts->[ @{ $pds->accounts } * $strike->{who} ];
	my $url = sprintf 'http://admin:%s@127.0.0.1:%d/xrpc/com.atproto.admin.updateAccountPassword', $pds->state->{adminPassword}, $pds->port;
	my $r = HTTP::Tiny->new(agent => 'rsvp-sync-test-client', timeout => 5)->post($url,
		{ headers => { 'content-type' => 'application/json' }, content => json({ did => $account->{did}, password => $account->{password} }) });
	return $r->{success} ? 1 : 0;
}

# Everything works again.
sub mend {
	my ($self) = @_;
	$self->pds_started;
	$self->{pds}->up;
	$self->{pds}->clear_faults;
	$self->{pg}->start if !$self->{pg}->is_running;
	return;
}

1;
