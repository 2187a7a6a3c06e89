package RsvpSyncStream;

# A Jetstream server to test with: test/pds/jetstream.mjs.
#
#   my $stream = start_stream(upstream => $pds, log_size => 100);
#   my $pg = start_server(conf => { 'rsvp_sync.jetstream_url' => $stream->url, 'rsvp_sync.insecure_hosts' => $stream->insecure_hosts });
#   $stream->events({ did => ..., commit => {...} });
#   $stream->faults(cutEvery => 100);
#   $stream->kick;

use strict;
use warnings;

use Exporter qw(import);
use File::Temp ();
use HTTP::Tiny ();
use RsvpSyncTest;
use Time::HiRes ();

our @EXPORT = qw(start_stream rsvp_record commit_event);

my $RSVP = 'community.lexicon.calendar.rsvp';
my $CID = 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a';
my @running;

# start_stream(upstream => PDS, log_size => N, port => N)
sub start_stream {
	my (%opt) = @_;
	my $dir = File::Temp->newdir;
	my $self = bless { dir => $dir, file => "$dir/state.json", options => \%opt }, __PACKAGE__;
	$self->start;
	push @running, $self;
	return $self;
}

END { my $status = $?; $_->stop for @running; $? = $status }

sub start {
	my ($self) = @_;
	my %opt = %{ $self->{options} };
	my @options = ('--json', $self->{file}, '--parent-pid', $$);
	push @options, '--upstream', 'ws://localhost:' . $opt{upstream}->port if $opt{upstream};
	push @options, '--log-size', $opt{log_size} if $opt{log_size};
	push @options, '--port', $self->{state}{port} if $self->{state};
	unlink $self->{file};
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0) {
		exec repo_root() . '/test/pds/run', repo_root() . '/test/pds/jetstream.mjs', @options;
	}
	wait_for { -s $self->{file} } or die "jetstream.mjs did not start\n";
	$self->{state} = from_json(slurp($self->{file}));
	return $self;
}

sub stop {
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	return;
}

sub url { return $_[0]{state}{url} }
sub v2 { return $_[0]{state}{v2} }
sub insecure_hosts { return "localhost:$_[0]{state}{port}" }

# ask(path, {...}) -> the answer
sub ask {
	my ($self, $path, $body) = @_;
	$self->{http} //= HTTP::Tiny->new(timeout => 180);
	my $r = $self->{http}->request('POST', "http://127.0.0.1:$self->{state}{port}/_test/$path", { content => json($body // {}) });
	die "$path: $r->{status} $r->{content}\n" if !$r->{success};
	return from_json($r->{content});
}

sub events { my ($self, @events) = @_; return $self->ask('events', \@events) }
sub faults { my ($self, %faults) = @_; return $self->ask('faults', \%faults) }
sub kick { my ($self) = @_; return $self->ask('kick')->{n} }
sub listeners { my ($self) = @_; return $self->ask('listeners')->{n} }
sub asked { my ($self) = @_; return @{ $self->ask('asked') } }
sub wait_listener { my ($self, $seconds) = @_; return wait_for { $self->listeners } $seconds }

# rsvp_record(event uri, word, more ...) -> a record
sub rsvp_record {
	my ($uri, $word, %more) = @_;
	return { '$type' => $RSVP, subject => { uri => $uri, cid => $CID }, status => "$RSVP#$word", createdAt => '2026-01-02T03:04:05.678Z', %more };
}

my $revs = 0;
my $DIGITS = '234567abcdefghijklmnopqrstuvwxyz';

# A TID later than those made before
sub next_tid {
	my $n = (int(Time::HiRes::time() * 1e6) << 10) + ++$revs;
	return join '', map { substr $DIGITS, ($n >> 5 * $_) & 31, 1 } reverse 0 .. 12;
}

# Any CID: of the digits behind the prefix, the first and the last carry fewer bits
sub some_cid {
	my @base32 = ('a' .. 'z', 2 .. 7);
	return join '', 'bafyrei', $base32[ rand 8 ], (map { $base32[ rand 32 ] } 1 .. 50), $base32[ 4 * int rand 8 ];
}

# commit_event(did, rkey, record or undef, more ...) -> an event: the record, or its deletion
sub commit_event {
	my ($did, $rkey, $record, %more) = @_;
	my %commit = (rev => next_tid(), operation => $record ? 'update' : 'delete', collection => $RSVP, rkey => $rkey);
	@commit{qw(record cid)} = ($record, some_cid()) if $record;
	return { did => $did, commit => { %commit, %{ delete $more{commit} // {} } }, %more };
}

1;
