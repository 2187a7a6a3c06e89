# A PDS whose name is not found, is found, and is lost again: what changes
# meanwhile waits.
#
# The server alone has a hosts file of the test's, and nobody to ask: which
# takes root and a mount namespace.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

plan skip_all => 'takes root and a mount namespace' if $> != 0 || (run_command([qw(unshare -m true)]))[0] != 0;

my $NAME = 'pds.rsvp.dev';
my $dir = RsvpSyncTest::temp_dir('dns');
RsvpSyncTest::watch('start', 'TERM', "$dir/none", $dir);
sub put { my ($name, $text) = @_; open my $out, '>', "$dir/$name" or die $!; print {$out} $text; close $out; return }
sub found { put('hosts', "127.0.0.1 localhost\n" . ($_[0] ? "127.0.0.1 $NAME\n" : '')); return }
found(0);
put('resolv.conf', "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");

my $pds = start_pds(accounts => 3);
my $pg = start_server(pds => $pds, launch => [ 'unshare', '-m', 'sh', '-c',
		"for f in hosts resolv.conf; do mount --bind $dir/\$f /etc/\$f || exit; done; exec \"\$\@\"", 'sh' ], conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.insecure_hosts' => $pds->insecure_hosts . ",$NAME:" . $pds->port,
	# which knows nobody: the PDS given at connect_account() counts
	'rsvp_sync.plc_url' => $pds->url,
});
my $app = scene($pg, 'app', $pds, events => 20, connect => 0);
sub unknown { return $app->sql("SELECT count(*) FILTER (WHERE last_error ~ '^dns: ') > 0 FROM rsvp_sync.status") eq 't' }
sub settled {
	my ($what) = @_;
	ok $app->idle, $what;
	is $app->disagreement, '', '... and all is there';
	is $app->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, '... with nothing left to do';
	return;
}

$app->sql(sprintf q{SELECT rsvp_sync.connect_account('%s', '%s', 'http://%s:%d')}, $pds->did($_), $pds->password($_), $NAME, $pds->port) for 0 .. 2;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 14) n});
ok wait_for { unknown() }, 'a name that is not found: the rows say so';
is $app->sql('SELECT count(*) FROM rsvp_sync.queue'), 15, '... and every key waits';
is scalar($pds->log(call => qr/./)), 0, '... nobody was asked';
found(1);
settled('it is found');

# A connection that is open needs no name; a new worker has none.
found(0);
$pg->kill9_worker('^rsvp_sync worker$');
wait_for { eval { $app->sql('SELECT 1') } };
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id % 2 = 0");
$app->sql('DELETE FROM attendance WHERE id = (SELECT min(id) FROM attendance)');
ok wait_for { unknown() }, 'the name is lost';
$pg->kill9_postmaster;
$pg->start;
ok wait_for { unknown() }, '... also after the server was killed';
found(1);
settled('it is found again');
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 0, 'nothing was given up';
done_testing;
