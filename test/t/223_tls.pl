# A PDS whose certificate is not to be trusted, or no longer, gets nothing: no
# password and no record.  Once that is mended all goes through.
#
# The system's certificates are replaced, for the server alone, by one of the
# test's: which takes root and a mount namespace.

use strict;
use warnings;

use Test::More;
use IPC::Open2 ();
use RsvpSyncTest;
use RsvpSyncScene;

chomp(my $bundle = (run_command([ 'curl-config', '--ca' ]))[1]);
plan skip_all => 'takes root and a mount namespace' if $> != 0 || (run_command([qw(unshare -m true)]))[0] != 0;
plan skip_all => 'where libcurl has its certificates is not known' if !-e $bundle;

my $dir = RsvpSyncTest::temp_dir('tls');
RsvpSyncTest::watch('start', 'TERM', "$dir/none", $dir);
sub openssl { RsvpSyncTest::must_run([ 'openssl', @_ ]); return }
sub put { my ($from, $to) = @_; open my $out, '>', "$dir/$to" or die $!; print {$out} slurp("$dir/$from"); close $out; return }

# what the server trusts; a certificate of its own make, one for another host,
# one that has expired, and a good one, all for the same key
openssl(qw(req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=rsvp_sync-test), '-keyout', "$dir/ca.key", '-out', "$dir/ca.pem");
openssl(qw(req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost), '-keyout', "$dir/key.pem", '-out', "$dir/own.pem");
for my $kind ([ 'good', 'localhost', 2 ], [ 'expired', 'localhost', -1 ], [ 'other', 'pds.rsvp.dev', 2 ]) {
	my ($name, $host, $days) = @$kind;
	openssl(qw(req -new -subj), "/CN=$host", '-addext', "subjectAltName=DNS:$host", '-key', "$dir/key.pem", '-out', "$dir/request.pem");
	openssl(qw(x509 -req -copy_extensions copy -days), $days, '-in', "$dir/request.pem", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key", '-CAcreateserial', '-out', "$dir/$name.pem");
}
chmod 0644, "$dir/ca.pem";
put('own.pem', 'server.pem');

my $pds = start_pds(accounts => 3);
my $proxy = IPC::Open2::open2(my $from, my $to, repo_root() . '/test/pds/run', repo_root() . '/test/pds/tls.mjs', $pds->port, "$dir/server.pem", "$dir/key.pem");
chomp(my $port = <$from>);
my $pg = start_server(pds => $pds, launch => [ 'unshare', '-m', 'sh', '-c', "mount --bind $dir/ca.pem $bundle && exec \"\$\@\"", 'sh' ], conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.max_attempts' => 1000,
	'rsvp_sync.insecure_hosts' => $pds->insecure_hosts . ",localhost:$port",
	# which knows nobody: the PDS given at connect_account() counts
	'rsvp_sync.plc_url' => $pds->url,
});
my $app = scene($pg, 'app', $pds, events => 20, connect => 0);

sub certificate {
	my ($name) = @_;
	put("$name.pem", 'server.pem');
	kill 'HUP', $proxy;
	return;
}
sub refused { return $app->sql("SELECT count(*) FILTER (WHERE last_error ~ '^tls: ') > 0 FROM rsvp_sync.status") eq 't' }

$app->sql(sprintf q{SELECT rsvp_sync.connect_account('%s', '%s', 'https://localhost:%d')}, $pds->did($_), $pds->password($_), $port) for 0 .. 2;
$app->sql(q{INSERT INTO attendance (status, "eventId", "userId") SELECT 'confirmed', n / 3 + 1, n % 3 + 1 FROM generate_series(0, 14) n});
ok wait_for { refused() }, 'a certificate of its own make: nothing goes through, and the rows say why';
is scalar($pds->log(call => qr/./)), 0, '... nor did the PDS hear of it';
is $app->sql("SELECT count(*) FROM rsvp_sync.account WHERE state NOT IN ('unverified', 'unreachable')"), 0, '... and no user is asked';
is $app->sql('SELECT count(*) FROM rsvp_sync.queue'), 15, '... every key waits';
certificate('good');
ok $app->idle, 'then it has a good one';
is $app->disagreement, '', '... and all is there';

for my $bad ([ 'expired', 'a certificate that has expired' ], [ 'other', "another host's certificate" ]) {
	my ($name, $what) = @$bad;
	certificate($name);
	$pds->clear_log;
	$app->sql("UPDATE attendance SET status = CASE status WHEN 'maybe' THEN 'confirmed' ELSE 'maybe' END WHERE id % 2 = 0");
	$app->sql('DELETE FROM attendance WHERE id = (SELECT min(id) FROM attendance)');
	ok wait_for { refused() }, "$what: what changes waits";
	is scalar($pds->log(call => qr/./)), 0, '... nothing was sent';
	$pg->kill9_worker('^rsvp_sync worker$');
	ok wait_for { eval { refused() } }, '... whoever asks';
	certificate('good');
	ok $app->idle, '... until it is mended';
	is $app->disagreement, '', '... then all is there';
}
is $app->sql("SELECT rsvp_sync.reconcile('attendance')"), 0, 'reconcile finds nothing';
is $app->sql('SELECT count(*) FROM rsvp_sync.failed'), 0, 'nothing was given up';

close $to;
waitpid $proxy, 0;
done_testing;
