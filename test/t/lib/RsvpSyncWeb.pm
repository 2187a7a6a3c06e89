package RsvpSyncWeb;

# A web site to test webmentions with (test/web/server.mjs), and an application
# whose rows have pages.
#
#   my $web = start_web;
#   $web->pages('/event' => { headers => { link => '</hook>; rel=webmention' } }, '/hook' => { status => 202 });
#   my @told = $web->told('/hook');      the forms POSTed there
#   my $app = web_app($web, conf => { ... });
#   $app->sql("INSERT INTO rsvp ...");

use strict;
use warnings;

use Exporter qw(import);
use HTTP::Tiny ();
use IPC::Open2 ();
use Test::More ();
use RsvpSyncTest;

our @EXPORT = qw(start_web web_app);

sub start_web {
	my $root = repo_root();
	my $pid = IPC::Open2::open2(my $out, my $in, "$root/test/pds/run", "$root/test/web/server.mjs");
	my $self = bless { pid => $pid, in => $in, out => $out, http => HTTP::Tiny->new(timeout => 30) }, __PACKAGE__;
	my $ports = from_json(scalar <$out>);
	@$self{qw(port other)} = @$ports{qw(port other)};
	return $self;
}

sub url { my ($self, $path) = @_; return "http://127.0.0.1:$self->{port}" . ($path // '') }
sub other { my ($self, $path) = @_; return "http://127.0.0.1:$self->{other}" . ($path // '') }
sub insecure_hosts { my ($self) = @_; return "127.0.0.1:$self->{port}" }

sub ask {
	my ($self, $method, $path, $content) = @_;
	my $r = $self->{http}->request($method, $self->url($path), defined $content ? { content => json($content) } : {});
	die "$method $path: $r->{status} $r->{content}\n" if !$r->{success};
	return $r->{content};
}

# pages('/path' => {...} or [{...}, ...] or undef, ...): what they answer from now on
sub pages { my ($self, %pages) = @_; return $self->ask(PUT => '/_test/pages', \%pages) }
sub log { my ($self, %want) = @_; my @all = @{ from_json($self->ask(GET => '/_test/log')) };
	return grep { my $e = $_; !grep { ($e->{$_} // '') ne $want{$_} } keys %want } @all }
sub clear_log { return $_[0]->ask(DELETE => '/_test/log') }
sub told { my ($self, $path) = @_; return map { $_->{form} } $self->log(method => 'POST', path => $path) }

sub DESTROY {
	my ($self) = @_;
	local ($?, $!);
	close $self->{in};
	waitpid $self->{pid}, 0;
	return;
}

# --- the application

package RsvpSyncWeb::App;

use RsvpSyncTest;

sub RsvpSyncWeb::web_app {
	my ($web, %opt) = @_;
	my $pg = start_server(conf => {
		'rsvp_sync.insecure_hosts' => $web->insecure_hosts, 'rsvp_sync.plc_url' => 'http://127.0.0.1:9',
		'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '400ms', 'rsvp_sync.request_timeout' => '5s', %{ $opt{conf} // {} } });
	$pg->create_db('app');
	my $self = bless { pg => $pg, web => $web }, __PACKAGE__;
	$self->sql(<<'SQL');
CREATE TABLE rsvp (id int PRIMARY KEY, did text, status text NOT NULL, page text, event text, starts_at timestamptz, withheld text, on_withheld text);
SQL
	return $self;
}

sub pg { return $_[0]{pg} }
sub sql { my ($self, $text) = @_; return $self->{pg}->safe_psql('app', $text) }

sub attach {
	my ($self, %options) = @_;
	my $options = json({ status_map => { yes => 'going', maybe => 'interested', no => 'notgoing', secret => undef }, %options });
	return $self->sql("SELECT rsvp_sync.attach('rsvp', \$\$SELECT id, did, NULL::text AS event_uri, status, page AS permalink, event AS event_url, starts_at, withheld, on_withheld FROM rsvp\$\$,
		options => '$options')");
}

# idle([seconds]): a test
sub idle {
	my ($self, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $is = $self->sql("SELECT rsvp_sync.wait_until_idle('30 s')");
	Test::More::is($is, 't', "idle: $what")
		or Test::More::diag($self->sql('SELECT * FROM rsvp_sync._webmention; SELECT * FROM rsvp_sync.queue') . "\n" . $self->{pg}->log_tail(20));
	return;
}

# state(id, [columns]) of its webmentions, sorted by target
sub state {
	my ($self, $id, $columns) = @_;
	$columns //= "concat_ws('/', state, status)";
	return $self->sql("SELECT $columns FROM rsvp_sync.webmention WHERE attendance_id = '$id' ORDER BY target, permalink");
}

1;
