package RsvpSyncTest;

# What the TAP tests stand on: a private PostgreSQL server with rsvp_sync
# preloaded, and a real PDS with its PLC directory.
#
#   use RsvpSyncTest;
#   my $pds = start_pds(accounts => 3);
#   my $pg  = start_server(pds => $pds, conf => { 'rsvp_sync.retry_base' => '100ms' });
#   $pg->create_db('app');
#   $pg->safe_psql('app', 'SELECT ...');
#   $pg->poll_query_until('app', 'SELECT ...') or diag $pg->log_tail;
#
#   prove -I test/t/lib test/t/*.pl          as root or as anybody
#
# As root the server runs as the user postgres.  Everything started here ends
# with the test, also when the test is killed.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Path qw(make_path remove_tree);
use File::Temp ();
use IO::Handle;
use IO::Socket::INET;
use JSON::PP ();
use POSIX ();
use Time::HiRes qw(sleep time);

our @EXPORT = qw(start_server start_pds wait_for alive free_port json from_json slurp run_command
	validate_records repo_root);

my $ROOT = abs_path(dirname(abs_path(__FILE__)) . '/../../..');
my $JSON = JSON::PP->new->canonical->allow_nonref->utf8;
my $TIMEOUT = $ENV{RS_TEST_TIMEOUT} // 60;    # seconds, for whatever is awaited

sub repo_root { return $ROOT }
sub json { return $JSON->encode($_[0]) }
sub from_json { return $JSON->decode($_[0]) }

sub slurp {
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!";
	local $/;
	return <$in> // '';
}

sub free_port {
	return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)->sockport;
}

# wait_for { condition } [seconds]: its value once it is true, or nothing
sub wait_for (&;$) {
	my ($condition, $timeout) = @_;
	my $deadline = time + ($timeout // $TIMEOUT);
	while (1) {
		my $value = $condition->();
		return $value if $value;
		return if time > $deadline;
		sleep 0.05;
	}
}

# alive(pid ...) -> those that run.  One that only waits to be reaped does not.
sub alive {
	return grep { kill(0, $_) && (eval { slurp("/proc/$_/status") } // 'State: Z') !~ /^State:\s*Z/m } @_;
}

# run_command([command ...], stdin => text, timeout => seconds)
# -> (exit status, stdout, stderr); a status of 128 + n means signal n.
sub run_command {
	my ($command, %opt) = @_;
	my ($in, $out, $err) = map { File::Temp->new } 1 .. 3;
	if (defined $opt{stdin}) {
		print {$in} $opt{stdin};
		$in->flush;
		seek $in, 0, 0;
	}
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		open STDIN, '<', $in->filename or POSIX::_exit(126);
		open STDOUT, '>', $out->filename or POSIX::_exit(126);
		open STDERR, '>', $err->filename or POSIX::_exit(126);
		{ no warnings 'exec'; exec { $command->[0] } @$command }
		print STDERR "$command->[0]: $!\n";
		POSIX::_exit(127);
	}
	my $deadline = $opt{timeout} ? time + $opt{timeout} : undef;
	while (1) {
		my $got = waitpid $pid, $deadline ? POSIX::WNOHANG() : 0;
		last if $got == $pid;
		next if $got == -1 && $!{EINTR};
		if ($deadline && time > $deadline) {
			kill 'KILL', $pid;
			undef $deadline;
		}
		sleep 0.01;
	}
	my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
	my ($stdout, $stderr) = map { slurp($_->filename) } $out, $err;
	return ($status, $stdout, $stderr);
}

sub must_run {
	my ($command, %opt) = @_;
	my ($status, $out, $err) = run_command($command, %opt);
	die "@$command: status $status\n$err$out\n" if $status;
	return $out;
}

# --- the end
#
# A watchman is told of everything that runs; when this process is gone, for
# whatever reason, its end of the pipe closes and he stops what is left.

my ($watchman, $owner);
my $WATCH = <<'PERL';
$SIG{$_} = 'IGNORE' for qw(INT TERM HUP PIPE);
my %left;
while (<STDIN>) {
	chomp;
	my ($word, $signal, $pid_file, $dir) = split /\t/;
	if ($word eq 'start') { $left{$pid_file} = [$signal, $dir] } else { delete $left{$pid_file} }
}
for my $pid_file (keys %left) {
	my ($signal, $dir) = @{ $left{$pid_file} };
	if (open my $in, '<', $pid_file) {
		local $/;
		my ($pid) = <$in> =~ /^(?:\{\s*"pid": )?(\d+)/;
		if ($pid and $pid > 1) {
			kill $signal, $pid;
			for (1 .. 100) {
				last if !kill 0, $pid or open my $in, '<', "/proc/$pid/status" and join('', <$in>) =~ /^State:\s*Z/m;
				select undef, undef, undef, 0.1;
			}
		}
	}
	system 'rm', '-rf', $dir if $dir =~ m{^/tmp/rsvp-sync};
}
PERL

sub watch {
	my ($word, $signal, $pid_file, $dir) = @_;
	if (!$watchman || $owner != $$) {
		pipe my $read, $watchman or die "pipe: $!";
		my $pid = fork // die "fork: $!";
		if ($pid == 0) {
			POSIX::setsid();
			open STDIN, '<&', $read;
			open STDOUT, '>', '/dev/null';
			open STDERR, '>', '/dev/null';
			{ no warnings 'exec'; exec $^X, '-e', $WATCH }
			POSIX::_exit(127);
		}
		close $read;
		$watchman->autoflush(1);
		$owner = $$;
	}
	local $SIG{PIPE} = 'IGNORE';
	print {$watchman} join("\t", $word, $signal, $pid_file, $dir), "\n";
	return;
}

my @running;
my $owner_pid = $$;

# running(thing): has a method destroy, which is called at the end
sub running { push @running, @_; return }

sub end_all {
	return if $$ != $owner_pid;
	my $status = $?;
	for my $thing (reverse @running) { eval { $thing->destroy; 1 } or warn $@ }
	@running = ();
	$? = $status;
	return;
}
END { end_all() }
$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);

sub temp_dir {
	my ($name) = @_;
	my $dir = File::Temp::mkdtemp("/tmp/rsvp-sync-$name-XXXXXX");
	chmod 0755, $dir;
	return $dir;
}

# --- PostgreSQL

sub pg_bin {
	our $pg_bin;
	return $pg_bin //= do {
		my $config = $ENV{PG_CONFIG} // ($ENV{PG_MAJOR} ? "/usr/lib/postgresql/$ENV{PG_MAJOR}/bin/pg_config" : 'pg_config');
		my $dir = must_run([ $config, '--bindir' ]);
		chomp $dir;
		$dir;
	};
}

# The lines which make a server find the extension; builds it first, unless
# whoever runs us has (and says so by RS_INSTALL).
sub extension_conf {
	our $extension_conf;
	return $extension_conf if defined $extension_conf;
	my $copy = '';
	if (!$ENV{RS_INSTALL}) {
		# A copy made for the server's user is to outlive this shell.
		$ENV{RS_INSTALL} = must_run([ 'bash', '-c', '. "$1"/scripts/lib.sh; rs_build; rs_forget_cleanup; echo "$RS_INSTALL"', 'bash', $ROOT ]);
		chomp $ENV{RS_INSTALL};
		my $made = $ENV{RS_INSTALL};
		push @running, bless { dir => $made }, 'RsvpSyncTest::Folder' if $made =~ m{^/tmp/rsvp-sync\.};
	}
	return $extension_conf = must_run([ 'bash', '-c', '. "$1"/scripts/lib.sh; rs_conf', 'bash', $ROOT ]);
}

# start_server(conf => {name => value}, pds => $pds or [$pds ...], preload => 0, name => 'pg',
# launch => [command ...], postgres => FILE): launch is what the server is started
# under, each time (env, unshare ...), by root if that is who we are; postgres is
# run in place of the server's program
sub start_server {
	my (%opt) = @_;
	my $self = bless { name => $opt{name} // 'pg', launch => $opt{launch} // [], postgres => $opt{postgres} }, 'RsvpSyncTest::Server';
	my $preload = $opt{preload} // 1;
	my $extension = $preload || $opt{find_extension} ? extension_conf() : '';
	$extension =~ s/^shared_preload_libraries.*\n//m if !$preload;

	my $dir = $self->{dir} = temp_dir($self->{name});
	push @running, $self;
	watch('start', 'QUIT', "$dir/data/postmaster.pid", $dir);
	make_path("$dir/socket", { mode => 0700 });
	$self->own($dir, "$dir/socket");
	$self->as_pg([ pg_bin() . '/initdb', '-D', "$dir/data", '-N', '-U', 'postgres', '-E', 'UTF8', '--locale=C.UTF-8', '-A', 'trust', '--auth-host=reject' ]);

	my %conf = (
		listen_addresses => '',
		unix_socket_directories => "$dir/socket",
		fsync => 'off',
		log_line_prefix => '%m [%p] %b %q%d ',
	);
	if ($opt{pds}) {
		my @pds = ref $opt{pds} eq 'ARRAY' ? @{ $opt{pds} } : $opt{pds};
		my %seen;
		$conf{'rsvp_sync.plc_url'} = $pds[0]->plc;
		$conf{'rsvp_sync.insecure_hosts'} = join ',', grep { !$seen{$_}++ } map { split /,/, $_->insecure_hosts } @pds;
		$conf{'rsvp_sync.allow_plaintext_credentials'} = 'on';
	}
	%conf = (%conf, %{ $opt{conf} // {} });
	$self->append_conf($extension . join '', map { "$_ = " . quote($conf{$_}) . "\n" } sort keys %conf);
	$self->start;
	return $self;
}

sub quote {
	my ($value) = @_;
	$value =~ s/'/''/g;
	return "'$value'";
}

package RsvpSyncTest::Folder;

sub destroy {
	my ($self) = @_;
	File::Path::remove_tree($self->{dir});
	return;
}

package RsvpSyncTest::Server;

use Time::HiRes qw(sleep time);

sub dir { return $_[0]{dir} }
sub data_dir { return "$_[0]{dir}/data" }
sub host { return "$_[0]{dir}/socket" }
sub port { return 5432 }    # of the socket; every server has its own directory
sub bin { return RsvpSyncTest::pg_bin() . "/$_[1]" }
sub log_file { return "$_[0]{dir}/log" }

sub connstr {
	my ($self, $db) = @_;
	return sprintf "host=%s port=%s user=postgres dbname=%s", $self->host, $self->port, $db // 'postgres';
}

sub as_pg {
	my ($self, $command, %opt) = @_;
	$command = [ 'runuser', '-u', 'postgres', '--', 'sh', '-c', 'cd / && exec "$@"', 'sh', @$command ] if $> == 0;
	return RsvpSyncTest::must_run([ @{ $opt{under} // [] }, @$command ], %opt);
}

sub own {
	my ($self, @paths) = @_;
	return if $> != 0;
	my (undef, undef, $uid, $gid) = getpwnam 'postgres' or die "no user postgres\n";
	chown $uid, $gid, @paths;
	return;
}

sub append_conf {
	my ($self, $text) = @_;
	open my $out, '>>', $self->data_dir . '/postgresql.conf' or die "postgresql.conf: $!";
	print {$out} "$text\n";
	close $out or die "postgresql.conf: $!";
	return;
}

sub pid {
	my ($self) = @_;
	open my $in, '<', $self->data_dir . '/postmaster.pid' or return;
	my $pid = <$in>;
	return $pid ? $pid + 0 : undef;
}

sub is_running {
	my ($self) = @_;
	my $pid = $self->pid or return 0;
	return scalar RsvpSyncTest::alive($pid);
}

sub start {
	my ($self) = @_;
	my @program = $self->{postgres} ? ('-p', $self->{postgres}) : ();
	eval { $self->as_pg([ $self->bin('pg_ctl'), '-D', $self->data_dir, '-l', $self->log_file, '-w', '-t', 60, '-s', @program, 'start' ], under => $self->{launch}); 1 }
		or die "the server did not start: $@" . $self->log_tail;
	return;
}

# stop('fast' | 'immediate' | 'smart') -> seconds it took
sub stop {
	my ($self, $mode) = @_;
	my $began = time;
	return 0 if !$self->pid;
	$self->as_pg([ $self->bin('pg_ctl'), '-D', $self->data_dir, '-m', $mode // 'fast', '-w', '-t', 60, '-s', 'stop' ]);
	return time - $began;
}

sub restart {
	my ($self, $mode) = @_;
	$self->stop($mode);
	$self->start;
	return;
}

sub reload {
	my ($self) = @_;
	$self->as_pg([ $self->bin('pg_ctl'), '-D', $self->data_dir, '-s', 'reload' ]);
	return;
}

sub promote {
	my ($self) = @_;
	$self->as_pg([ $self->bin('pg_ctl'), '-D', $self->data_dir, '-w', '-s', 'promote' ]);
	return;
}

# kill9_postmaster: as if the machine lost it; start() comes up by recovery
sub kill9_postmaster {
	my ($self) = @_;
	my $pid = $self->pid or die 'not running';
	my @children = split ' ', do { local $/; open my $in, '<', "/proc/$pid/task/$pid/children" or die $!; <$in> // '' };
	kill 'KILL', $pid;
	RsvpSyncTest::wait_for(sub { !RsvpSyncTest::alive($pid, @children) }) or die 'children of the postmaster live on';
	# Until init has reaped it, its pid would look alive to the next one.
	unlink $self->data_dir . '/postmaster.pid', $self->host . '/.s.PGSQL.' . $self->port . '.lock';
	return;
}

# kill9_worker(pattern): kill -9 the backends whose backend_type or
# application_name match the regular expression -> their pids
sub kill9_worker {
	my ($self, $pattern) = @_;
	my @pids = $self->worker_pids($pattern);
	kill 'KILL', @pids if @pids;
	RsvpSyncTest::wait_for(sub { !RsvpSyncTest::alive(@pids) });
	return @pids;
}

sub worker_pids {
	my ($self, $pattern) = @_;
	my $p = RsvpSyncTest::quote($pattern // 'rsvp_sync');
	return split /\n/, $self->safe_psql('postgres', "SELECT pid FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type <> 'client backend' AND (backend_type ~ $p OR application_name ~ $p)");
}

# create_db(name [, extension => 0])
sub create_db {
	my ($self, $db, %opt) = @_;
	$self->safe_psql('postgres', qq{CREATE DATABASE "$db"});
	$self->safe_psql($db, 'CREATE EXTENSION rsvp_sync') if $opt{extension} // 1;
	return $db;
}

sub psql_command {
	my ($self, $db, %opt) = @_;
	my $connstr = $self->connstr($db);
	$connstr =~ s/user=postgres/user=$opt{user}/ if $opt{user};
	return [ $self->bin('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connstr ];
}

# psql(db, sql, user => role, timeout => seconds) -> (status, stdout, stderr);
# in scalar context the status
sub psql {
	my ($self, $db, $sql, %opt) = @_;
	local $ENV{PGOPTIONS} = $opt{options} // $ENV{PGOPTIONS} // '';
	my ($status, $out, $err) = RsvpSyncTest::run_command([ @{ $self->psql_command($db, %opt) }, '-f', '-' ],
		stdin => $sql, timeout => $opt{timeout} // 4 * $TIMEOUT);
	chomp $out;
	chomp $err;
	return wantarray ? ($status, $out, $err) : $status;
}

# safe_psql(db, sql) -> stdout; dies of an error
sub safe_psql {
	my ($self, $db, $sql, %opt) = @_;
	my ($status, $out, $err) = $self->psql($db, $sql, %opt);
	die "psql: status $status: $err\nin: $sql\n" if $status;
	return $out;
}

# poll_query_until(db, sql [, expected = 't' [, seconds]]): 1, or 0 and a
# diagnosis of what came last.  An error of the query counts as "not yet".
sub poll_query_until {
	my ($self, $db, $sql, $expected, $timeout) = @_;
	$expected //= 't';
	my ($out, $err);
	return 1 if RsvpSyncTest::wait_for(sub {
		(undef, $out, $err) = $self->psql($db, $sql);
		return $out eq $expected && $err eq '';
	}, $timeout);
	if (my $tb = eval { Test::More->builder }) {
		$tb->diag("poll_query_until: waited in vain for \"$expected\"; last: \"$out\" $err\nquery: $sql");
	}
	return 0;
}

# session(db, user => role): a psql that stays connected
sub session {
	my ($self, $db, %opt) = @_;
	return RsvpSyncTest::Session->new($self, $db, %opt);
}

sub log_size { return -s $_[0]->log_file // 0 }

sub log_text {
	my ($self, $from) = @_;
	open my $in, '<', $self->log_file or return '';
	seek $in, $from // 0, 0;
	local $/;
	return <$in> // '';
}

sub log_tail {
	my ($self, $lines) = @_;
	my @all = split /^/, $self->log_text;
	splice @all, 0, @all - ($lines // 30) if @all > ($lines // 30);
	return join '', @all;
}

sub log_contains {
	my ($self, $regex, $from) = @_;
	return $self->log_text($from) =~ $regex;
}

sub wait_for_log {
	my ($self, $regex, $from, $timeout) = @_;
	return RsvpSyncTest::wait_for(sub { $self->log_contains($regex, $from) }, $timeout);
}

sub destroy {
	my ($self) = @_;
	return if $self->{gone}++;
	if ($self->is_running) {
		eval { $self->stop('immediate'); 1 } or kill 'KILL', grep { $_ } $self->pid;
	}
	if (my $keep = $ENV{RS_TEST_LOGS}) {
		File::Path::make_path($keep);
		system 'cp', $self->log_file, "$keep/" . (split m{/}, $0)[-1] . ".$self->{name}.log";
	}
	File::Path::remove_tree($self->dir);
	RsvpSyncTest::watch('end', '-', $self->data_dir . '/postmaster.pid', $self->dir);
	return;
}

# --- a connection that stays

package RsvpSyncTest::Session;

use IPC::Open2 ();
use Time::HiRes qw(time);

sub new {
	my ($class, $server, $db, %opt) = @_;
	my @command = @{ $server->psql_command($db, %opt) };
	s/ON_ERROR_STOP=1/ON_ERROR_STOP=0/ for @command;
	my $pid = IPC::Open2::open2(my $out, my $in, 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command);
	$in->autoflush(1);
	my $self = bless { pid => $pid, in => $in, out => $out, n => 0, buffer => '' }, $class;
	$self->{backend} = $self->query('SELECT pg_backend_pid()');
	die "no session: $self->{backend}\n" if $self->{backend} !~ /^\d+$/;
	return $self;
}

sub backend_pid { return $_[0]{backend} }

# query(sql [, seconds]) -> what psql printed, errors included
sub query {
	my ($self, $sql, $timeout) = @_;
	$self->send($sql);
	return $self->result($timeout);
}

# send(sql) does not wait; result([seconds]) then does, undef if in vain
sub send {
	my ($self, $sql) = @_;
	$self->{n}++;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$sql\n;\n\\echo session-mark-$self->{n}\n";
	return;
}

sub result {
	my ($self, $timeout) = @_;
	my $deadline = time + ($timeout // $TIMEOUT);
	my $mark = "session-mark-$self->{n}\n";
	while ((my $at = index $self->{buffer}, $mark) < 0) {
		my $left = $deadline - time;
		my $set = '';
		vec($set, fileno $self->{out}, 1) = 1;
		return if $left <= 0 || !select $set, undef, undef, $left;
		if (!sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer}) {
			return $self->{buffer} . '(the connection is gone)';
		}
	}
	my $at = index $self->{buffer}, $mark;
	my $text = substr $self->{buffer}, 0, $at;
	substr $self->{buffer}, 0, $at + length $mark, '';
	$text =~ s/\n\z//;
	return $text;
}

sub close {
	my ($self) = @_;
	return if !$self->{pid};
	CORE::close $self->{in};
	waitpid delete $self->{pid}, 0;
	return;
}

sub DESTROY {
	my ($self) = @_;
	return if !$self->{pid};
	local ($?, $!);
	kill 'TERM', $self->{pid};
	CORE::close $self->{in};
	waitpid $self->{pid}, 0;
	return;
}

# --- the PDS

package RsvpSyncTest;

# start_pds(accounts => 3, rate_limits => 1, plc => $other->plc, data => DIR,
# name => 'guest' ...): options as server.mjs has them, _ for -; 1 for a flag
sub start_pds {
	my (%opt) = @_;
	my $dir = temp_dir('pds-state');
	my $self = bless { dir => $dir, state_file => "$dir/state.json", options => \%opt }, 'RsvpSyncTest::Pds';
	push @running, $self;
	watch('start', 'TERM', $self->state_file, $dir);
	$self->start;
	return $self;
}

# validate_records([{uri, cid, value} ...] [, strict = 1]) -> (1 or 0, what the validator said)
sub validate_records {
	my ($records, $strict) = @_;
	my ($status, $out, $err) = run_command([ "$ROOT/test/pds/run", "$ROOT/test/lexicon/validate.mjs", ($strict // 1) ? '--strict' : () ],
		stdin => json($records));
	return ($status == 0 ? 1 : 0, $err . $out);
}

package RsvpSyncTest::Pds;

use HTTP::Tiny ();

sub start {
	my ($self) = @_;
	my @options;
	for my $name (sort keys %{ $self->{options} }) {
		my $value = $self->{options}{$name};
		(my $flag = $name) =~ tr/_/-/;
		if ($flag =~ /^(?:rate-limits|oauth-client|faults)$/) { push @options, "--$flag" if $value }
		elsif (defined $value) { push @options, "--$flag", $value }
	}
	RsvpSyncTest::must_run([ "$ROOT/test/pds/boot", $self->state_file, '--parent-pid', $$, @options ]);
	$self->{state} = RsvpSyncTest::from_json(RsvpSyncTest::slurp($self->state_file));
	return $self;
}

sub state_file { return $_[0]{state_file} }
sub state { return $_[0]{state} }
sub url { return $_[0]{state}{pds} }
sub port { return $_[0]{state}{port} }
sub plc { return $_[0]{state}{plc} }
sub control { return $_[0]{state}{control} }
sub insecure_hosts { return $_[0]{state}{insecureHosts} }
sub accounts { return $_[0]{state}{accounts} }
sub did { return $_[0]{state}{accounts}[ $_[1] ]{did} }
sub password { return $_[0]{state}{accounts}[ $_[1] ]{password} }
sub handle { return $_[0]{state}{accounts}[ $_[1] ]{handle} }
sub pid { return $_[0]{state}{pid} }

# client(command, arguments ...) -> client.mjs's answer; dies of a refusal
sub client {
	my ($self, $command, @args) = @_;
	my $out = RsvpSyncTest::must_run([ "$ROOT/test/pds/run", "$ROOT/test/pds/client.mjs", $command, $self->state_file, @args ]);
	return RsvpSyncTest::from_json($out);
}

# oauth(command, arguments ..., [{stdin => text}]) -> oauth.mjs's answer
sub oauth {
	my ($self, $command, @args) = @_;
	my $opt = @args && ref $args[-1] ? pop @args : {};
	my $out = RsvpSyncTest::must_run([ "$ROOT/test/pds/run", "$ROOT/test/pds/oauth.mjs", $command, $self->state_file, @args ], %$opt);
	return RsvpSyncTest::from_json($out);
}

sub create_event { my ($self, $account, $name, @more) = @_; return $self->client('create-event', $account, $name, @more) }
sub app_password { my ($self, $account, $name) = @_; return $self->client('app-password', $account, $name // 'rsvp-sync')->{password} }

sub http {
	my ($self) = @_;
	return $self->{http} //= HTTP::Tiny->new(agent => 'rsvp-sync-test-client', timeout => 30, keep_alive => 0);
}

sub ask {
	my ($self, $method, $path, $body) = @_;
	my $r = $self->http->request($method, $self->control . $path, defined $body ? { content => RsvpSyncTest::json($body) } : {});
	die "$method $path: $r->{status} $r->{content}\n" if !$r->{success};
	return RsvpSyncTest::from_json($r->{content});
}

# faults({...}, ...) or faults([...]): these rules and no others; see faults.mjs
sub faults {
	my ($self, @rules) = @_;
	@rules = @{ $rules[0] } if @rules == 1 && ref $rules[0] eq 'ARRAY';
	return $self->ask(POST => '/_test/fault', \@rules);
}
sub faults_left { return $_[0]->ask(GET => '/_test/fault') }
sub limits { my ($self, @limits) = @_; return $self->ask(POST => '/_test/limit', \@limits) }
sub clear_faults { return $_[0]->ask(DELETE => '/_test/fault') }

# log(name => value or regex ...): the requests so far that match, without the
# tests' own unless own => 1.  log(call => qr/putRecord/, status => 200)
sub log {
	my ($self, %want) = @_;
	my $own = delete $want{own};
	my @found;
	ENTRY: for my $entry (@{ $self->ask(GET => '/_test/log') }) {
		next if $entry->{own} && !$own;
		for my $name (keys %want) {
			my ($is, $should) = ($entry->{$name}, $want{$name});
			next if !defined $is && !defined $should;
			next ENTRY if !defined $is || !defined $should;
			next ENTRY if ref $should eq 'Regexp' ? $is !~ $should : "$is" ne "$should";
		}
		push @found, $entry;
	}
	return @found;
}
sub clear_log { return $_[0]->ask(DELETE => '/_test/log') }

# writes(): the writes that changed a repository (whatever the client got told);
# each of those that were sent together has the call's entry with its own op
# (create, update, delete), collection, rkey, record and cid
sub writes {
	my ($self, %want) = @_;
	return map { my $call = $_; $call->{writes} ? map { { %$call, %$_ } } @{ $call->{writes} } : $call } grep { $_->{committed} } $self->log(%want);
}

# down() refuses connections and breaks those there are; up() listens again
sub down { my ($self, %opt) = @_; return $self->ask(POST => '/_test/down', \%opt) }
sub up { my ($self, %opt) = @_; return $self->ask(POST => '/_test/up', \%opt) }

# list_records(did or account's index [, collection]) -> all of them, by plain HTTP
sub list_records {
	my ($self, $did, $collection) = @_;
	$did = $self->did($did) if $did !~ /^did:/;
	$collection //= 'community.lexicon.calendar.rsvp';
	my (@records, $cursor);
	do {
		my $url = sprintf 'http://127.0.0.1:%d/xrpc/com.atproto.repo.listRecords?%s', $self->port,
			$self->http->www_form_urlencode({ repo => $did, collection => $collection, limit => 100, defined $cursor ? (cursor => $cursor) : () });
		my $r = $self->http->get($url);
		die "listRecords $did: $r->{status} $r->{content}\n" if !$r->{success};
		my $page = RsvpSyncTest::from_json($r->{content});
		push @records, @{ $page->{records} };
		$cursor = @{ $page->{records} } ? $page->{cursor} : undef;
	} while (defined $cursor);
	return @records;
}

sub stop {
	my ($self) = @_;
	RsvpSyncTest::must_run([ "$ROOT/test/pds/halt", $self->state_file ]) if -e $self->state_file;
	return;
}

sub destroy {
	my ($self) = @_;
	return if $self->{gone}++;
	$self->stop;
	File::Path::remove_tree($self->{dir});
	RsvpSyncTest::watch('end', '-', $self->state_file, $self->{dir});
	return;
}

1;
