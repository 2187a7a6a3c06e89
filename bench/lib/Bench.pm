package Bench;

# What the benches stand on, beside the tests' library: options, rounds in
# turn, medians, results; an application with many accounts; what processes cost.
#
#   use Bench;
#   my $bench = Bench->new(sizes => { keys => 50_000 }, quick => { keys => 2_000 }, smoke => { keys => 100 });
#   $bench->size('keys');
#   $bench->report(figure => 'drain', ours => 9000, peer => 8000, target => 1.0, ...);
#   exit $bench->finish;
#
# Every bench takes --quick (small sizes, which say little), --smoke (smaller ones, which
# say that it runs), and --NAME N for each of its sizes.  It prints what it has measured and one line of JSON for each
# figure, which it also writes to bench/results/NAME.jsonl.  Exit status 0,
# whether or not a target is met: these are measurements, not tests.

use strict;
use warnings;

use Exporter qw(import);
use FindBin;
use Getopt::Long ();
use IPC::Open2 ();
use POSIX ();
use Time::HiRes qw(time);
use RsvpSyncTest;

our @EXPORT = qw(thousands median percentile ratio in_turn now pgbench bench_server compiled node_peer server_cpu process_cpu rss cluster_pids);

my $ROOT = repo_root();

sub new {
	my ($class, %opt) = @_;
	my %size = (%{ $opt{sizes} // {} });
	my %given;
	my ($quick, $smoke) = (0, 0);
	my @words = map { tr/_/-/r } keys %size;
	Getopt::Long::GetOptions(quick => \$quick, smoke => \$smoke, map { ("$_=i" => \$given{ tr/-/_/r }) } @words)
		&& !@ARGV
		or die "usage: $0 [--quick | --smoke]" . join('', map { " [--$_ N]" } sort @words) . "\n";
	%size = (%size, %{ $opt{quick} // {} }) if $quick ||= $smoke;
	%size = (%size, %{ $opt{smoke} // {} }) if $smoke;
	defined $given{$_} and $size{$_} = $given{$_} for keys %given;
	RsvpSyncTest::must_run(["$ROOT/bench/install"], timeout => 1200);
	(my $name = $0) =~ s{.*/}{};
	STDOUT->autoflush(1);
	my $self = bless { name => $name, quick => $quick, size => \%size, results => [], began => time }, $class;
	printf "%s%s: %s\n", $name, $quick ? ', quick: small sizes, say little' : '', join ', ', map { "$_ $size{$_}" } sort keys %size;
	return $self;
}

sub size { my ($self, $name) = @_; return $self->{size}{$name} // die "no size $name\n" }
sub quick { return $_[0]{quick} }

# What was measured, in a line for who watches
sub say { my ($self, $format, @values) = @_; printf "  $format\n", @values; return }

sub rounded { my ($x) = @_; return defined $x ? 0 + sprintf('%.4g', $x) : undef }

# report(figure => name, title => what it is, unit => of ours and peer, ours =>,
# peer => (what it is compared with), against => the peer's name, ratio => (else
# ours / peer), target =>, better => 'higher' or 'lower', detail => {...}).  A target is
# one of the ratio, or, with of => 'ours', of what was measured.
sub report {
	my ($self, %r) = @_;
	$r{ratio} //= $r{ours} / $r{peer} if defined $r{ours} && $r{peer};
	my $judged = ($r{of} // 'ratio') eq 'ours' ? $r{ours} : $r{ratio};
	my $met = !defined $r{target} || !defined $judged ? undef : ($r{better} // 'higher') eq 'higher' ? $judged >= $r{target} : $judged <= $r{target};
	my %line = (
		bench => $self->{name}, figure => $r{figure}, title => $r{title}, unit => $r{unit}, ours => rounded($r{ours}), peer => rounded($r{peer}),
		against => $r{against}, ratio => rounded($r{ratio}), target => $r{target}, of => $r{of} // 'ratio', better => $r{better} // 'higher',
		result => defined $met ? ($met ? 'met' : 'missed') : 'none', quick => $self->{quick} ? JSON::PP::true : JSON::PP::false,
		date => POSIX::strftime('%Y-%m-%d', gmtime), cores => cores(), cpu => cpu_model(), postgresql => $self->{postgresql} // pg_version(),
		sizes => $self->{size}, detail => $r{detail} // {},
	);
	push @{ $self->{results} }, \%line;
	printf "%-28s %s %s%s%s, target %s %s: %s\n", $r{figure}, $line{ours} // '-', $r{unit} // '',
		defined $line{peer} ? ", $line{against} $line{peer}" : '', defined $line{ratio} ? ", ratio $line{ratio}" : '',
		$line{better} eq 'higher' ? '>=' : '<=', $r{target} // 'none', $line{result};
	return;
}

# The lines of JSON, to whoever watches and to bench/results
sub finish {
	my ($self) = @_;
	my $dir = $ENV{RS_BENCH_RESULTS} // "$ROOT/bench/results";
	-d $dir or mkdir $dir or die "$dir: $!";
	open my $out, '>', "$dir/$self->{name}.jsonl" or die "$dir: $!";
	for my $line (@{ $self->{results} }) {
		$line->{seconds} = int(time - $self->{began});
		print {$out} json($line), "\n";
		print json($line), "\n";
	}
	close $out or die "$dir: $!";
	return 0;
}

sub cores { my $n = () = slurp('/proc/cpuinfo') =~ /^processor/mg; return $n }
sub cpu_model { my ($m) = slurp('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m; return $m // 'unknown' }

sub pg_version {
	my ($v) = RsvpSyncTest::must_run([ RsvpSyncTest::pg_bin() . '/postgres', '-V' ]) =~ /(\d+(?:\.\d+)?)/;
	return $v;
}

# --- numbers

sub percentile {
	my ($p, @values) = @_;
	@values = sort { $a <=> $b } @values;
	return if !@values;
	my $at = $p * $#values;
	my $low = int $at;
	return $values[$low] + ($at - $low) * (($values[ $low + 1 ] // $values[$low]) - $values[$low]);
}
sub median { return percentile(0.5, @_) }

# 1234567 -> 1,234,567
sub thousands {
	my ($text) = @_;
	1 while $text =~ s/^(\d+)(\d{3})/$1,$2/;
	return $text;
}

sub now { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) }

# --- what runs

# bench_server(conf => {...}): durable, and large enough not to be in the way
sub bench_server {
	my (%opt) = @_;
	return start_server(name => 'bench', conf => {
		fsync => 'on', synchronous_commit => 'on', shared_buffers => '1GB', max_wal_size => '8GB',
		'rsvp_sync.plc_url' => 'http://127.0.0.1:9', 'rsvp_sync.allow_plaintext_credentials' => 'on', %{ $opt{conf} // {} } });
}

# compiled('bound'): bench/bound.c as a program
sub compiled {
	my ($name) = @_;
	our ($dir, %done);
	return $done{$name} if $done{$name};
	if (!$dir) {
		$dir = RsvpSyncTest::temp_dir('bench');
		RsvpSyncTest::running(bless { dir => $dir }, 'RsvpSyncTest::Folder');
		RsvpSyncTest::watch('start', 'TERM', "$dir/none", $dir);
	}
	my $config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $include = RsvpSyncTest::must_run([ $config, '--includedir' ]));
	RsvpSyncTest::must_run([ $ENV{CC} // 'cc', '-O2', '-Wall', '-Wextra', '-Werror', "-I$include", '-I/usr/include/postgresql',
		'-o', "$dir/$name", "$ROOT/bench/$name.c", qw(-lpq -lcurl -lpthread) ]);
	return $done{$name} = "$dir/$name";
}

# node_peer('graphile.mjs', {options}, sub { before }): what it says at its end.  It puts its
# jobs in, says so, and goes on when it is told to.
sub node_peer {
	my ($script, $options, $before) = @_;
	my $pid = IPC::Open2::open2(my $out, my $in, "$ROOT/test/pds/run", "$ROOT/bench/peers/$script", json($options));
	my $ready = <$out> // '';
	if ($ready =~ /ready/) {
		$before->() if $before;
		print {$in} "go\n";
		$in->flush;
	}
	my $said = <$out>;
	close $in;
	waitpid $pid, 0;
	die "$script: status $?\n" if $? || !defined $said;
	return from_json($said);
}

# pgbench($pg, db, script, clients => 1, seconds => 5 or transactions => N): transactions a second
sub pgbench {
	my ($pg, $db, $script, %opt) = @_;
	my $clients = $opt{clients} // 1;
	my @much = $opt{transactions} ? (-t => $opt{transactions}) : (-T => $opt{seconds});
	my $out = RsvpSyncTest::must_run([ $pg->bin('pgbench'), '-n', -M => 'prepared', -h => $pg->host, -p => $pg->port, -U => 'postgres', -c => $clients,
		-j => $clients < 2 ? 1 : 2, @much, -f => '/dev/stdin', @{ $opt{more} // [] }, $db ], stdin => $script);
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or die "pgbench: $out\n";
	die "pgbench: $out\n" if $out =~ /failed transactions: [1-9]/;
	return $tps;
}

# in_turn(rounds, {name => sub {...}, ...}): each once a round, each first in turn -> {name => [values]}
sub in_turn {
	my ($rounds, $ways) = @_;
	my @names = sort keys %$ways;
	my %values;
	for my $round (1 .. $rounds) {
		push @{ $values{$_} }, $ways->{$_}->() for @names;
		push @names, shift @names;
	}
	return \%values;
}

# ratio([...], [...]): the median of the rounds' ratios; what else the machine does changes
# from round to round, and hardly within one
sub ratio {
	my ($ours, $theirs) = @_;
	return median(map { $ours->[$_] / $theirs->[$_] } 0 .. $#$ours);
}

# --- what it costs, in seconds of a processor

my $TICKS = POSIX::sysconf(POSIX::_SC_CLK_TCK());

sub stat_of {
	my ($pid) = @_;
	my $text = eval { slurp("/proc/$pid/stat") } // return;
	$text =~ s/^.*\)\s+//s;
	return split ' ', $text;    # from the state on, field 3
}

sub process_cpu {
	my ($pid) = @_;
	my @f = stat_of($pid) or return 0;
	return ($f[11] + $f[12]) / $TICKS;
}

sub cluster_pids {
	my ($pg) = @_;
	my $pid = $pg->pid;
	return ($pid, split ' ', slurp("/proc/$pid/task/$pid/children"));
}

# All of a server's processes, also those that have ended
sub server_cpu {
	my ($pg) = @_;
	my ($postmaster, @children) = cluster_pids($pg);
	my @f = stat_of($postmaster);
	my $sum = ($f[11] + $f[12] + $f[13] + $f[14]) / $TICKS;
	$sum += process_cpu($_) for @children;
	return $sum;
}

# Of one process, in kB: resident, and what of it is its own
sub rss {
	my ($pid) = @_;
	my $status = eval { slurp("/proc/$pid/status") } // return;
	my %kb = $status =~ /^(VmRSS|RssAnon|RssFile|RssShmem):\s*(\d+) kB/mg;
	return \%kb;
}

1;
