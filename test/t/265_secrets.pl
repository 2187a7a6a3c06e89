# Secrets are nowhere but in envelopes: not in the log, however much is logged,
# not in statistics or views, not in the memory of a process that is idle, and
# not in a dump, which restores into an installation that works.

use strict;
use warnings;
no warnings qw(portable);

use MIME::Base64 qw(decode_base64);
use Test::More;
use RsvpSyncTest;
use RsvpSyncScene;

my $pds = start_pds(accounts => 5);
# (before 16 it has no such setting, and logs no parameters)
my @no_parameters = (run_command([ RsvpSyncTest::pg_bin() . '/postgres', '--version' ]))[1] =~ / 15\b/ ? () : ('auto_explain.log_parameter_max_length' => 0);
my $pg = start_server(pds => $pds, conf => {
	shared_preload_libraries => 'auto_explain,pg_stat_statements,rsvp_sync',
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.allow_plaintext_credentials' => 'off',
	log_statement => 'all', log_min_duration_statement => 0, log_min_error_statement => 'debug5', log_parameter_max_length => 0, log_min_messages => 'debug1',
	'auto_explain.log_min_duration' => 0, 'auto_explain.log_nested_statements' => 'on', 'auto_explain.log_level' => 'log', @no_parameters,
	'pg_stat_statements.track' => 'all', 'pg_stat_statements.track_utility' => 'on', track_activity_query_size => 4096,
});
my $key_file = $pg->dir . '/keys';
$pg->as_pg([ 'sh', '-c', 'umask 077; echo "1:$(openssl rand -base64 32)" >"$0"', $key_file ]);
$pg->append_conf("rsvp_sync.credential_key_file = '$key_file'");
$pg->reload;
my ($key) = slurp($key_file) =~ /^1:(\S+)/;

# bound(user's statement, name => value ...): with its values bound
sub bound {
	my ($sql, %value) = @_;
	my $file = $pg->dir . '/statement.sql';
	open my $out, '>', $file or die "$file: $!";
	print {$out} "$sql;\n";
	close $out;
	my ($status, undef, $err) = run_command([ $pg->bin('pgbench'), '-n', '-t', '1', '-M', 'extended', '-f', $file, (map { ('-D', "$_=$value{$_}") } sort keys %value),
			'-d', $pg->connstr('app') ]);
	return $err;
}

my $app = scene($pg, 'app', $pds, events => 60, connect => 0);
$app->sql('CREATE EXTENSION pg_stat_statements');
my %password = map { $_ => $pds->app_password($_) } 1 .. 4;
my $did = $pds->did(1);

# --- logs and statistics

unlike bound('SELECT rsvp_sync.connect_account(:did, :password)', did => $did, password => $password{1}), qr/ERROR|aborted/, 'an account connected by bound parameters';
is $app->sql('SELECT state FROM rsvp_sync.account'), 'unverified', '... indeed';
like bound('SELECT rsvp_sync.connect_account(:did, :password)', did => 'not a did', password => $password{1}), qr/invalid DID/, '... and one refused';
like bound('SELECT rsvp_sync.connect_account(:did, :password, pds => :pds)', did => $did, password => $password{1}, pds => 'pds.example.com'), qr/invalid PDS/, '... for its PDS, too';
$app->sql(q{INSERT INTO attendance VALUES (1, 'confirmed', '{}', 1, 2)});
ok $app->idle, 'it works';
# The session, as only a superuser could see it; his own statement is no secret.
my $refresh = $app->sql(sprintf "SELECT rsvp_sync._open(session, did) FROM rsvp_sync._account WHERE did = '%s'", $did);
like $refresh, qr/^eyJ/, 'there is a session';

my $JWT = qr/eyJ[\w-]{10,}\.eyJ[\w-]{20,}\.[\w-]{20,}/;
my @secrets = ($JWT, map { quotemeta } values %password, $key);
my $secret = join '|', @secrets;
unlike $pg->log_text, qr/$secret/, 'no secret in a log of everything';
like $pg->log_text, qr/connect_account\(\$1, \$2\)/, '... which has the statement';
like $pg->log_text, qr/rsvp_sync\._account_done/, '... and those of the worker';

# A literal is a constant like any other to the statistics.
$app->sql("SELECT rsvp_sync.connect_account('" . $pds->did(2) . "', '$password{2}')");
is $app->sql(q{SELECT count(*) FROM pg_stat_statements WHERE query ~ 'connect_account\(\$1, ?\$2\)'}) > 0, 1, 'a literal password: the statistics have $1';
$app->sql("DO \$d\$ BEGIN PERFORM rsvp_sync.connect_account('" . $pds->did(3) . "', '$password{3}'); END \$d\$");
is $app->sql("SELECT count(*) FROM pg_stat_statements WHERE query ~ '$password{1}|$password{2}'"), 0, '... and no password';
is $app->sql("SELECT count(*) FROM pg_stat_statements WHERE query ~ '$password{3}'"), 1, '... but that in a DO, as the documentation says';
is $app->sql("SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query ~ '$password{1}|$password{2}|$password{3}|eyJ'"), 0, 'no secret in pg_stat_activity';

# --- views

my @views = split /\n/, $app->sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'rsvp_sync'::regnamespace AND relkind = 'v'});
cmp_ok scalar(@views), '>', 8, 'views';
for my $view (@views) { unlike $app->sql("SELECT v::text FROM $view v"), qr/$secret|ciphertext/, "... $view shows no secret" }
unlike $app->sql("SELECT rsvp_sync.export('$did')"), qr/$secret|ciphertext/, 'nor does export()';
unlike $app->sql('SELECT rsvp_sync.metrics_text(); SELECT * FROM rsvp_sync.doctor()'), qr/$secret|ciphertext/, 'nor metrics, nor doctor';

# --- memory
#
# A process's memory while it is idle, as a core dump would have it.  The
# tests' own statements are not to be in it: hence a server started anew.

# found(pid, pattern ...) -> how often each is in the process's memory
sub found {
	my ($pid, %pattern) = @_;
	my %n = map { $_ => 0 } keys %pattern;
	open my $mem, '<:raw', "/proc/$pid/mem" or return;
	for (split /\n/, slurp("/proc/$pid/maps")) {
		my ($from, $to, $rights, $name) = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)/ or next;
		next if $rights !~ /^r/ || $name =~ /^\[v/;
		($from, $to) = (hex $from, hex $to);
		my $kept = '';
		while ($from < $to) {
			my $size = $to - $from > 1 << 24 ? 1 << 24 : $to - $from;
			sysseek $mem, $from, 0 or last;
			sysread($mem, my $chunk, $size) or last;
			$from += length $chunk;
			my $text = $kept . $chunk;
			for my $what (keys %pattern) {
				my $re = $pattern{$what};
				$n{$what}++ while $text =~ /$re/g;
			}
			$kept = substr $text, -2048 if length $text > 2048;
		}
	}
	return map { "$_: $n{$_}" } grep { $n{$_} } sort keys %n;
}

# As OpenMeet would encrypt it, so that no statement ever has the password.
sub envelope {
	my ($password) = @_;
	my $script = q{const c = require('crypto'), iv = c.randomBytes(12), k = c.createCipheriv('aes-256-gcm', Buffer.from(process.argv[1], 'base64'), iv);
		const t = Buffer.concat([k.update(process.argv[2], 'utf8'), k.final()]).toString('base64');
		console.log(JSON.stringify({ v: 1, iv: iv.toString('base64'), ciphertext: t, authTag: k.getAuthTag().toString('base64') }))};
	my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', '-e', $script, $key, $password ]);
	die "envelope: $err" if $status;
	chomp $out;
	return $out;
}

$app->sql("SELECT rsvp_sync.disconnect_account(did) FROM rsvp_sync.account");
$pg->restart;
my $worker = $app->wait_worker;
my $connecting = $pg->session('app');
for my $n (1 .. 4) { $connecting->query(sprintf q{SELECT rsvp_sync.connect_account_encrypted('%s', '%s')}, $pds->did($n), envelope($password{$n})) }
$app->sql("INSERT INTO attendance SELECT 100 + n, 'confirmed', '{}', n, 2 + n % 4 FROM generate_series(1, 40) n");
ok $app->idle, 'four accounts have signed in';
is $app->worker, $worker, '... at one worker';
# Errors, too, with what a server may say of its client.
$pds->faults({ match => 'putRecord|applyWrites', status => 400, body => { error => 'ExpiredToken', message => 'Token has expired' } });
$app->sql("UPDATE attendance SET status = 'maybe' WHERE id BETWEEN 100 AND 110");
ok $app->idle, 'one has refreshed its session';
is scalar($pds->log(call => 'com.atproto.server.refreshSession')) > 0, 1, '... indeed';

my $some = quotemeta substr $password{1}, 0, 12;
my $passwords = join '|', map { quotemeta } values %password;
my %pattern = (password => qr/$passwords/, 'a part of one' => qr/$some/, token => $JWT, bearer => qr/Bearer ey/,
	'key in base64' => qr/\Q$key\E/, 'key file' => qr/1:\Q@{[substr $key, 0, 20]}\E/, key => qr/\Q@{[decode_base64($key)]}\E/s);
SKIP: {
	skip 'may not read the memory of another process', 4 if !open my $may, '<:raw', "/proc/$worker/mem";
	is join(', ', found($worker, 'a DID' => qr/\Q$did\E/)) ne '', 1, 'the memory of the worker can be read';
	is join(', ', found($worker, %pattern)), '', 'an idle worker holds no secret';
	# What it is sealed with: a page of no file, left out of dumps.
	like slurp("/proc/$worker/smaps"), qr/^[0-9a-f]+-[0-9a-f]+ r--p 00000000 00:00 0 *\n(?:\w+:.*\n)*?VmFlags:.*\bdd\b/m, 'the key it seals them with is in no core dump';
	is join(', ', found($connecting->backend_pid, %pattern)), '', 'nor does a backend that connected accounts';
}
$connecting->close;

# --- a dump

my $dump = $pg->as_pg([ $pg->bin('pg_dump'), '-d', $pg->connstr('app') ]);
like $dump, qr/COPY rsvp_sync\._account .*"ciphertext"/s, 'a dump has envelopes';
unlike $dump, qr/$secret/, '... and nothing else that is secret';
unlike $dump, qr/COPY rsvp_sync\._(?:observed|history|queue|identity|event) /, '... nor what is found out again';
$pg->safe_psql('postgres', q{ALTER DATABASE app SET rsvp_sync.mode = 'off'; CREATE DATABASE restored});
my ($status, undef, $err) = run_command([ $pg->bin('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $pg->connstr('restored') ], stdin => $dump);
is "$status $err", '0 ', 'it can be restored';
my $copy = bless { pg => $pg, db => 'restored', pds => $pds }, 'RsvpSyncScene';
like $copy->sql('SELECT string_agg(check_name, $$ $$) FROM rsvp_sync.doctor()'), qr/\bcopied\b/, '... and knows that it is a copy';
$pds->clear_log;
$copy->sql("UPDATE attendance SET status = 'cancelled' WHERE id = 101; INSERT INTO attendance VALUES (200, 'confirmed', '{}', 50, 2)");
ok $copy->wait_status(200, 'blocked copied'), '... where nothing is sent';
# (the other database's worker may still be looking at handles)
is join(' ', map { $_->{call} // () } $pds->log), '', '... indeed';
$copy->sql('SELECT rsvp_sync.activate()');
ok $copy->wait_status($_, 'done published'), "activate(): change $_ goes out" for 101, 200;
is scalar($pds->log(call => 'com.atproto.server.createSession')), 0, '... with the session that was dumped';
is $copy->disagreement, '', '... and the network has what the rows say';

done_testing;
