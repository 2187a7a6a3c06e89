package PrometheusText;

# A strict reader of the text format 0.0.4 that Prometheus scrapes.
#
#   my ($samples, @wrong) = read_metrics($text);
#
# $samples: 'name{a="b",c="d"}' (labels in order of their names, as text) => value.
# @wrong says what a scraper would refuse, or what a query would trip over.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(read_metrics);

my $NAME = qr/[a-zA-Z_:][a-zA-Z0-9_:]*/;
my $LABEL = qr/[a-zA-Z_][a-zA-Z0-9_]*/;
my $VALUE = qr/(?:\\[\\"n]|[^\\"\n])*/;
my $NUMBER = qr/[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|Inf)|NaN/;

sub read_metrics {
	my ($text) = @_;
	my (%samples, %family, @wrong, $now);
	push @wrong, 'the last line does not end' if $text !~ /\n\z/;
	for my $line (split /\n/, $text) {
		if ($line =~ /^# (HELP|TYPE) ($NAME) (.*)$/) {
			my ($what, $name, $rest) = ($1, $2, $3);
			push @wrong, "$what of $name twice" if $family{$name}{$what};
			push @wrong, "$what of $name after its samples" if $family{$name}{n};
			push @wrong, "unknown type: $line" if $what eq 'TYPE' && $rest !~ /^(?:counter|gauge|histogram|summary|untyped)$/;
			push @wrong, "bad escape: $line" if $what eq 'HELP' && $rest =~ /(?<!\\)(?:\\\\)*\\(?![\\n])/;
			$family{$name}{$what} = $rest;
			$now = $name;
			next;
		}
		if ($line !~ /^($NAME)(?:\{((?:$LABEL="$VALUE",)*$LABEL="$VALUE")\})? ($NUMBER)$/) {
			push @wrong, "not a sample: $line";
			next;
		}
		my ($name, $labels, $value) = ($1, $2 // '', $3);
		my %label;
		while ($labels =~ /\G($LABEL)="($VALUE)",?/g) {
			push @wrong, "label $1 twice: $line" if exists $label{$1};
			$label{$1} = $2;
		}
		my $of = $name;
		$of =~ s/_(?:bucket|sum|count)$// if ($family{ $name =~ s/_(?:bucket|sum|count)$//r }{TYPE} // '') eq 'histogram';
		push @wrong, "a sample of $of among those of " . ($now // 'nothing') if $of ne ($now // '');
		push @wrong, "no TYPE or HELP before: $line" if !$family{$of}{TYPE} || !$family{$of}{HELP};
		$family{$of}{n}++;
		push @wrong, "a counter below nothing: $line" if ($family{$of}{TYPE} // '') eq 'counter' && $value =~ /^-|NaN/;
		my $key = series($name, %label);
		push @wrong, "twice: $key" if exists $samples{$key};
		$samples{$key} = $value;
		next if ($family{$of}{TYPE} // '') ne 'histogram';
		my $le = delete $label{le};
		my $h = $family{$of}{series}{ series('', %label) } //= { buckets => [] };
		if ($name eq "${of}_bucket") {
			push @wrong, "a bucket without le: $line" if !defined $le;
			push @{ $h->{buckets} }, [ $le // '', $value ];
		} else { $h->{ $name =~ s/^\Q$of\E_//r } = $value }
	}
	for my $of (sort keys %family) {
		push @wrong, "$of has no " . join ' and no ', grep { !$family{$of}{$_} } qw(TYPE HELP) if !$family{$of}{TYPE} || !$family{$of}{HELP};
		my $series = $family{$of}{series} // {};
		push @wrong, map { "$of$_: $series->{$_}{wrong}" } grep { $series->{$_}{wrong} = check_histogram($series->{$_}) } sort keys %$series;
	}
	return (\%samples, @wrong);
}

sub series {
	my ($name, %label) = @_;
	return $name . (%label ? '{' . join(',', map { qq($_="$label{$_}") } sort keys %label) . '}' : '');
}

sub check_histogram {
	my ($h) = @_;
	my @b = @{ $h->{buckets} };
	return 'no sum or count' if !defined $h->{sum} || !defined $h->{count};
	return 'the last bucket is not +Inf' if !@b || $b[-1][0] ne '+Inf';
	return 'the bucket of +Inf is not the count' if $b[-1][1] != $h->{count};
	for my $n (1 .. $#b) {
		return "bounds out of order at $b[$n][0]" if $b[$n][0] ne '+Inf' && $b[$n][0] <= $b[ $n - 1 ][0];
		return "not cumulative at $b[$n][0]" if $b[$n][1] < $b[ $n - 1 ][1];
	}
	return '';
}

1;
