package Web;

# An HTTP server that answers at once as a PDS and a PLC directory would: nginx
# with fixed answers, on as many ports as there are to be hosts.
#
#   my $web = start_web(hosts => 1, delay => 0.05);
#   $web->url(0); $web->requests;
#
# Every DID is an account of the host that its last character chooses, has an
# empty repository, and whatever is written succeeds.  The echo module says who
# signs in, and makes answers late.

use strict;
use warnings;

use Exporter qw(import);
use HTTP::Tiny ();
use RsvpSyncTest;

our @EXPORT = qw(start_web);

my $CID = 'bafyreiddste6n7sig7rvjcqp2t3goleigho5lpgmlyblkanoprhkqdrqsy';
my $DID = 'did:plc:[a-z2-7]+';

# start_web(hosts => N, delay => seconds before each answer, hang => seconds before the
# answer to a write)
sub start_web {
	my (%opt) = @_;
	my $self = bless { hosts => $opt{hosts} // 1, delay => $opt{delay} // 0, hang => $opt{hang} // 0 }, __PACKAGE__;
	my $dir = $self->{dir} = RsvpSyncTest::temp_dir('web');
	RsvpSyncTest::running($self);
	RsvpSyncTest::watch('start', 'TERM', "$dir/pid", $dir);
	for my $try (1 .. 3) {
		$self->{ports} = [ map { free_port() } 1 .. $self->{hosts} ];
		open my $out, '>', "$dir/nginx.conf" or die "$dir: $!";
		print {$out} $self->conf;
		close $out or die "$dir: $!";
		my ($status, undef, $err) = run_command([ 'nginx', '-c', "$dir/nginx.conf", '-e', "$dir/error.log" ]);
		last if !$status;
		die "nginx does not start: $err\n" if $try == 3 || $err !~ /Address already in use/;
	}
	wait_for { -s "$dir/pid" } or die "nginx does not start\n";
	return $self;
}

sub url { my ($self, $n) = @_; return "http://127.0.0.1:$self->{ports}[$n // 0]" }
sub urls { my ($self) = @_; return map { "http://127.0.0.1:$_" } @{ $self->{ports} } }
sub insecure_hosts { my ($self) = @_; return join ',', map { "127.0.0.1:$_" } @{ $self->{ports} } }

# The settings of a server that is to take this for the network
sub settings {
	my ($self) = @_;
	return ('rsvp_sync.plc_url' => $self->url, 'rsvp_sync.insecure_hosts' => $self->insecure_hosts);
}

# An answer; what the echo module has to do with it, only where it must
sub answer {
	my ($self, $text, %opt) = @_;
	my $wait = $self->{delay} + ($opt{write} ? $self->{hang} : 0);
	return "return 200 '$text';" if !$wait && !$opt{echo};
	return 'echo_read_request_body; ' . ($wait ? "echo_sleep $wait; " : '') . "echo '$text';";
}

sub conf {
	my ($self) = @_;
	my $dir = $self->{dir};
	my $modules = -e '/usr/lib/nginx/modules/ngx_http_echo_module.so' ? "load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;" : '';
	my $user = $> == 0 ? 'user root;' : '';
	my $listen = join ' ', map { "listen 127.0.0.1:$_;" } @{ $self->{ports} };
	my $temp = join ' ', map { "${_}_temp_path $dir/$_;" } qw(client_body proxy fastcgi uwsgi scgi);
	my @letters = ('a' .. 'z', 2 .. 7);
	my $hosts = join "\n", map { sprintf '		~%s$ %d;', $letters[$_], $self->{ports}[ $_ % @{ $self->{ports} } ] } 0 .. $#letters;
	my $document = $self->answer('{"id":"$did","alsoKnownAs":["at://$nick.bench.test"],"service":[{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"http://127.0.0.1:$did_port"}]}');
	my $session = $self->answer('{"did":"$identifier","handle":"x.bench.test","active":true,"accessJwt":"access","refreshJwt":"refresh"}', echo => 1);
	my $head = $self->answer(qq({"cid":"$CID","rev":"3lbenchrev2k2"}));
	my $listing = $self->answer('{"records":[]}');
	my $written = $self->answer(qq({"uri":"at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.rsvp/3lbenchrkey2k","cid":"$CID",)
		. qq("commit":{"cid":"$CID","rev":"3lbenchrev2k2"},"validationStatus":"unknown"}), write => 1);
	# so each key is a request, as each job of the others is; bench/pds has both
	my $refused = q(return 400 '{"error":"InvalidRequest","message":"No service configured for com.atproto.repo.applyWrites"}';);
	return <<"CONF";
$modules
$user
worker_processes 1;
pid $dir/pid;
error_log $dir/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	default_type application/json;
	keepalive_requests 1000000000;
	keepalive_timeout 600;
	client_body_buffer_size 64k;
	$temp
	map \$request_body \$identifier {
		default '';
		'~"identifier":"(?<name>$DID)"' \$name;
	}
	map \$did \$did_port {
		default $self->{ports}[0];
$hosts
	}
	server {
		$listen
		location = /status { stub_status; }
		location ~ ^/(?<did>did:plc:(?<nick>[a-z2-7]+))\$ { $document }
		location = /xrpc/com.atproto.server.createSession { $session }
		location = /xrpc/com.atproto.server.refreshSession { $session }
		location = /xrpc/com.atproto.sync.getLatestCommit { $head }
		location = /xrpc/com.atproto.repo.listRecords { $listing }
		location = /xrpc/com.atproto.repo.applyWrites { $refused }
		location / { $written }
	}
}
CONF
}

# How many requests there have been, these questions not counted
sub requests {
	my ($self) = @_;
	my $http = $self->{http} //= HTTP::Tiny->new(timeout => 10, keep_alive => 1);
	my $said = $http->get($self->url . '/status');
	my ($n) = $said->{content} =~ /^\s*\d+ \d+ (\d+)/m or die "no status: $said->{status} $said->{content}\n";
	return $n - ++$self->{asked};
}

# Those there are at the moment that wait for an answer
sub waiting {
	my ($self) = @_;
	my $http = $self->{http} //= HTTP::Tiny->new(timeout => 10, keep_alive => 1);
	$self->{asked}++;
	my ($n) = $http->get($self->url . '/status')->{content} =~ /Writing: (\d+)/;
	return $n - 1;
}

sub pid { my ($self) = @_; return 0 + slurp("$self->{dir}/pid") }

sub destroy {
	my ($self) = @_;
	return if $self->{gone}++;
	if (my $pid = eval { $self->pid }) {
		kill 'TERM', $pid;
		wait_for { !alive($pid) } 10;
	}
	File::Path::remove_tree($self->{dir});
	RsvpSyncTest::watch('end', '-', "$self->{dir}/pid", $self->{dir});
	return;
}

1;
