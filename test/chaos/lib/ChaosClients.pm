package ChaosClients;

# Those who change things while the faults strike: clients of the application,
# each with users of its own, so that whatever error it gets is not another
# client's doing; and a foreign application, which writes the RSVPs of some of
# the users at their PDS.  Each is a process; its choices come from the seed.
#
#   my $pid = client($app, number => 2, clients => 4, seed => 7, until => time + 60, report => $file, ...);
#   my $pid = stranger($app->{pds}, ...);

use strict;
use warnings;

use Exporter qw(import);
use HTTP::Tiny ();
use POSIX ();
use Time::HiRes qw(sleep time);
use RsvpSyncTest;

our @EXPORT = qw(client stranger);

my $RSVP = 'community.lexicon.calendar.rsvp';
my @STATUS = (('confirmed') x 4, ('maybe') x 3, ('cancelled') x 3, 'pending', 'waitlist', 'attended', 'rejected');

# What an application gets while its server dies and comes back
my $GONE = qr/the connection is gone|server closed the connection|connection to server|terminating connection|database system is|unexpectedly|administrator command|no session/;

sub pick { return $_[ rand @_ ] }

# in_process { ... }: its process id
sub in_process (&) {
	my ($work) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	$SIG{$_} = sub { POSIX::_exit(1) } for qw(INT TERM HUP);
	eval { $work->(); 1 } or print STDERR "a client died: $@";
	POSIX::_exit(0);
}

# --- the application

# One transaction's text, about the rows of one user
sub transaction {
	my ($me) = @_;
	my $user = pick(@{ $me->{users} });
	my $table = $user > $me->{strict} ? 'shared' : 'attendance';
	my $event = 1 + int rand $me->{events};
	my $other = 1 + int rand $me->{events};
	my $here = qq{"userId" = $user AND "eventId" = $event};
	my $insert = sub {
		my ($most) = @_;
		return sprintf q{INSERT INTO %s (status, "eventId", "userId") SELECT '%s', %d, %d WHERE (SELECT count(*) FROM %1$s WHERE %s) < %d;},
			$table, pick(@STATUS), $event, $user, $here, $most;
	};
	my $update = sub { return sprintf q{UPDATE %s SET status = '%s' WHERE %s;}, $table, pick(@STATUS), $_[0] // $here };
	my $delete = "DELETE FROM $table WHERE $here;";
	my $move = qq{UPDATE $table SET "eventId" = $other WHERE id = (SELECT min(id) FROM $table WHERE $here);};

	my $die = rand 100;
	return $insert->(1) if $die < 24;
	return $insert->(3) if $die < 27;    # several rows of one person for one event
	return $update->() if $die < 50;
	return join '', map { $update->() } 1 .. 3 if $die < 55;    # there and back, each a transaction
	return "BEGIN; @{[ join ' ', map { $update->() } 1 .. 3 ]} COMMIT;" if $die < 60;
	return $delete if $die < 66;
	return "BEGIN; $delete @{[ $insert->(1) ]} COMMIT;" if $die < 70;
	return $move if $die < 75;
	return "BEGIN; @{[ $insert->(1) ]} SAVEPOINT a; @{[ $update->() ]} SAVEPOINT b; $delete ROLLBACK TO a; @{[ $update->() ]} RELEASE a; COMMIT;" if $die < 81;
	return "BEGIN; @{[ $update->() ]} $delete @{[ $insert->(2) ]} ROLLBACK;" if $die < 85;
	return "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM $table; @{[ $insert->(1) ]} @{[ $update->() ]} SELECT pg_sleep(0.05); @{[ $update->(qq{$here}) ]} COMMIT;" if $die < 92;
	return "UPDATE $table SET note = clock_timestamp() WHERE $here;" if $die < 93;
	return "BEGIN; @{[ $update->(qq{\"userId\" = $user AND id % 3 = @{[ int rand 3 ]}}) ]} COMMIT;" if $die < 96;    # in bulk
	return qq{DELETE FROM $table WHERE "userId" = $user AND id % 4 = @{[ int rand 4 ]};} if $die < 97;
	return sprintf q{INSERT INTO %s (status, "eventId", "userId") SELECT '%s', n, %d FROM generate_series(%d, %d) n
		WHERE NOT EXISTS (SELECT FROM %1$s WHERE "eventId" = n AND "userId" = %3$d);}, $table, pick(@STATUS), $user, $event, $event + 9 > $me->{events} ? $me->{events} : $event + 9;
}

# A session, as soon as there is a server
sub connected {
	my ($me) = @_;
	while (time < $me->{until}) {
		my $session = eval { $me->{pg}->session($me->{db}) };
		return $session if $session;
		sleep 0.1;
	}
	return;
}

sub client {
	my ($app, %me) = @_;
	%me = (%me, pg => $app->{pg}, db => $app->{db});
	return in_process {
		srand $me{seed} * 1000 + $me{number};
		open my $report, '>>', $me{report} or die "$me{report}: $!";
		$report->autoflush(1);
		my ($session, $done) = (undef, 0);
		while (time < $me{until}) {
			my $sql = transaction(\%me);
			$session //= connected(\%me) or last;
			my $said = $session->query($sql, 60) // 'no answer within a minute';
			my @errors = grep { /ERROR:|PANIC:|no answer/ } grep { !/$GONE/ } split /\n/, $said;
			print {$report} json({ client => $me{number}, error => "@errors", sql => $sql }), "\n" if @errors;
			if ($said =~ $GONE) {
				$session->close;
				$session = undef;
			}
			$done++;
			sleep rand 2 * $me{pace};
		}
		print {$report} json({ client => $me{number}, transactions => $done }), "\n";
	};
}

# --- the foreign application

# xrpc({token, port}, method, nsid, query, body) -> the answer, or undef
sub xrpc {
	my ($at, $method, $nsid, $query, $body) = @_;
	my $url = "http://127.0.0.1:$at->{port}/xrpc/$nsid" . ($query ? '?' . $at->{http}->www_form_urlencode($query) : '');
	my %headers = $at->{token} ? (authorization => "Bearer $at->{token}") : ();
	my $r = $at->{http}->request($method, $url, { headers => { %headers, $body ? ('content-type' => 'application/json') : () }, $body ? (content => json($body)) : () });
	return $r->{success} ? eval { from_json($r->{content} || '{}') } : undef;
}

# One edit: whatever it sees of this person for an event it changes or removes;
# only where there is nothing it makes a record.  It names the commit it looked
# at, so it never makes a second one itself.
sub edit {
	my ($at, $did, $event) = @_;
	my $head = xrpc($at, GET => 'com.atproto.sync.getLatestCommit', { did => $did }) or return;
	my $list = xrpc($at, GET => 'com.atproto.repo.listRecords', { repo => $did, collection => $RSVP, limit => 100 }) or return;
	my ($there) = grep { $_->{value}{subject}{uri} eq $event->{uri} } @{ $list->{records} };
	my $rkey = $there ? $there->{uri} =~ s{.*/}{}r : sprintf '3kforeign%04d', int rand 10_000;
	my %at = (repo => $did, collection => $RSVP, rkey => $rkey, swapCommit => $head->{cid});
	if ($there && rand() < 0.3) {
		return xrpc($at, POST => 'com.atproto.repo.deleteRecord', undef, \%at);
	}
	my ($s, $us) = (int time, int(1e6 * (time - int time)));
	my %record = (
		%{ $there->{value} // {} }, '$type' => $RSVP, subject => { uri => $event->{uri}, cid => $event->{cid} },
		status => "$RSVP#" . pick(qw(going interested notgoing)), comment => 'by another application',
		createdAt => POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime $s) . sprintf('.%06dZ', $us),
	);
	return xrpc($at, POST => 'com.atproto.repo.putRecord', undef, { %at, record => \%record });
}

sub stranger {
	my ($pds, %me) = @_;
	return in_process {
		srand $me{seed} * 1000 + 999;
		open my $report, '>>', $me{report} or die "$me{report}: $!";
		my %at = (port => $pds->port, http => HTTP::Tiny->new(agent => 'rsvp-sync-test-client', timeout => 10));
		my (%token, $edits);
		$edits = 0;
		while (time < $me{until}) {
			sleep rand 2 * $me{pace};
			my $account = pick(@{ $me{accounts} });
			my $did = $pds->did($account);
			my $event = pick(@{ $me{records} });
			$at{token} = $token{$did} //= (xrpc({ %at, token => undef }, POST => 'com.atproto.server.createSession', undef,
				{ identifier => $did, password => $pds->password($account) }) // {})->{accessJwt};
			if ($at{token} && edit(\%at, $did, $event)) { $edits++ }
			else { delete $token{$did} if rand() < 0.1 }
		}
		print {$report} json({ stranger => $edits }), "\n";
	};
}

1;
