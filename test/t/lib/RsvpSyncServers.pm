package RsvpSyncServers;

# Accounts of several PDSes, as one for RsvpSyncScene:
#
#   my $app = scene($pg, 'app', RsvpSyncServers->new($near, $far));

use strict;
use warnings;

sub new {
	my ($class, @pds) = @_;
	my @accounts = map { my $pds = $_; map { [ $pds, $_ ] } 0 .. $#{ $pds->accounts } } @pds;
	return bless { pds => \@pds, of => \@accounts }, $class;
}

sub accounts { my ($self) = @_; return [ map { @{ $_->accounts } } @{ $self->{pds} } ] }
sub did { my ($self, $n) = @_; my ($pds, $i) = @{ $self->{of}[$n] }; return $pds->did($i) }
sub password { my ($self, $n) = @_; my ($pds, $i) = @{ $self->{of}[$n] }; return $pds->password($i) }

sub list_records {
	my ($self, $did) = @_;
	for my $pds (@{ $self->{pds} }) {
		return $pds->list_records($did) if grep { $_->{did} eq $did } @{ $pds->accounts };
	}
	die "no such account: $did\n";
}

1;
