# The README's code blocks, as they stand, in their order: ```sh by a shell,
# ```sql in one session of psql.  What needs root or the network's packages is
# marked ```console there and is not run.  The text around the blocks says
# what has to be given: four variables, and a restart of the server.

use strict;
use warnings;

use Test::More;
use RsvpSyncTest;

my $RSVP = 'community.lexicon.calendar.rsvp';
my $readme = slurp(repo_root() . '/README.md');
my @blocks;
push @blocks, { language => $1, code => $2, line => 1 + (substr($readme, 0, $-[0]) =~ tr/\n//) }
	while $readme =~ /^```(\w+)\n(.*?)^```$/msg;
cmp_ok scalar @blocks, '>', 15, 'there are blocks';
is join(' ', grep { !/^(?:sh|sql|console)$/ } map { $_->{language} } @blocks), '', 'of languages this test knows';

my $pds = start_pds(accounts => 2);
my $pg = start_server(pds => $pds, preload => 0, find_extension => 1,
	conf => { 'rsvp_sync.allow_plaintext_credentials' => 'off' });
my $event = $pds->create_event(0, 'Community Meetup');
my $me = $pds->did(1);

my $installed = File::Temp->newdir('/tmp/rsvp-sync-install-XXXXXX');
%ENV = (%ENV, PGHOST => $pg->host, PGPORT => $pg->port, PGUSER => 'postgres', PATH => dirname_of($pg->bin('psql')) . ":$ENV{PATH}",
	DESTDIR => "$installed", no_proxy => 'localhost,127.0.0.1',
	MY_DID => $me, MY_APP_PASSWORD => $pds->app_password(1), MY_PDS => $pds->url, MY_EVENT => $event->{uri});
chomp(my $config = $ENV{PG_CONFIG} // 'pg_config');
$ENV{MAKEFLAGS} = "PG_CONFIG=$config";

sub dirname_of { return $_[0] =~ s{/[^/]*$}{}r }

# What each block has to show besides running without an error
my %shows = (
	'make with_llvm=no' => sub { ok -s "$installed" . sharedir() . '/extension/rsvp_sync.control', 'it is installed' },
	'shared_preload_libraries' => sub {
		$pg->restart;
		is $pg->safe_psql('postgres', 'SHOW shared_preload_libraries'), 'rsvp_sync', 'the server loads it';
	},
	'reason, uri FROM rsvp_sync.sync_status' => sub {
		my ($out) = @_;
		like $out, qr/^t$/m, 'the worker is done';
		like $out, qr{^done\|.*at://\Q$me\E/$RSVP/\w{13}$}m, 'the row is done';
		like $out, qr{^confirmed\|.*"blueskyRsvpUri": "at://}m, 'and knows its record';
		is said(), "$RSVP#going", 'which says going';
		my @all = $pds->list_records(1);
		ok((validate_records(\@all))[0], 'as the lexicon has it');
	},
	'listRecords' => sub {
		my ($out) = @_;
		is from_json($out)->{records}[0]{value}{subject}{uri}, $event->{uri}, 'curl gets the record';
	},
	"status = 'maybe'" => sub {
		like $_[0], qr/\|interested$/m, 'the view has the new word';
		is said(), "$RSVP#interested", 'and the record';
	},
	"visibility = 'private'" => sub {
		is $_[0], 'delete|', 'a private event would withdraw it';
		is said(), "$RSVP#interested", 'and nothing has happened';
	},
	'DELETE FROM app.attendance' => sub { is said(), undef, 'the record is gone' },
	'INSERT INTO app.guest' => sub {
		like $_[0], qr{^(?:app\.)?guest\|done\|going\|at://}m, 'a query publishes, too';
		is said(), "$RSVP#going", 'and there it is';
	},
	'hidden = true' => sub {
		like $_[0], qr/^withheld\|the member hides it$/m, 'withheld in the words of the query';
		is said(), undef, 'and taken back';
	},
	'process_external_rsvp' => sub {
		like $_[0], qr/"action": "created"/m, 'an RSVP made elsewhere is taken';
		like $_[0], qr/^confirmed\|\{.*"did": "did:plc:z72i7hdynmk6r22z27h6tvur"/m, 'and a guest attends';
	},
	'rsvp_sync.account' => sub { like $_[0], qr/^\Q$me\E\|connected\|$/m, 'the account is connected' },
	'rsvp_sync.history' => sub { like $_[0], qr/\|delete\|ok\|/, 'history has what was done' },
	'DROP EXTENSION' => sub {
		is $pg->safe_psql('meetup', "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rsvp_sync%'"), 0, 'nothing is left';
	},
);

sub sharedir {
	my (undef, $dir) = run_command([ $config, '--sharedir' ]);
	chomp $dir;
	return $dir;
}
sub said { my ($record) = $pds->list_records(1); return $record && $record->{value}{status} }

my $session;
for my $block (grep { $_->{language} ne 'console' } @blocks) {
	my $name = "line $block->{line}: " . ($block->{code} =~ /^(.{1,50})/)[0];
	my $out;
	if ($block->{language} eq 'sh') {
		my ($status, $err);
		($status, $out, $err) = run_command([ 'sh', '-ec', "cd '" . repo_root() . "'\n$block->{code}" ]);
		is $status, 0, $name or diag $err, $out;
	}
	else {
		$session //= $pg->session('meetup');
		$out = $session->query($block->{code}, 90) // 'no answer';
		unlike $out, qr/^(?:psql:.*)?(?:ERROR|FATAL|WARNING|invalid|no answer)/m, $name;
	}
	for my $text (sort keys %shows) {
		next if $block->{code} !~ /$text/;
		delete($shows{$text})->($out);
	}
}
is join(', ', sort keys %shows), '', 'all that was to be shown was';

done_testing;
