package Plot;

# Small SVG plots without a library: bars, lines, and how far targets are met.
#
#   bars('file.svg', title => '...', unit => 'keys/s', rows => [ [ 'ours', 12000, 'ours' ], ... ]);
#   lines('file.svg', title => '...', unit => 'tps', x => 'tenth', series => { attached => [...], bare => [...] });
#   targets('file.svg', title => '...', rows => [ [ 'name', times the target, 'text' ], ... ]);
#
# On white, so that they can be read on any page; no script, no font but the reader's.

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(max min);
use Bench qw(thousands);

our @EXPORT = qw(bars lines targets);

my %COLOUR = (ours => '#2f6f9f', other => '#b9bdc1', bound => '#d9b36c', good => '#3b8a5a', bad => '#b5533c', text => '#24292f', grid => '#e4e6e8');
my $WIDTH = 760;

sub escaped {
	my ($text) = @_;
	my %of = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;');
	$text =~ s/([&<>])/$of{$1}/g;
	return $text;
}

sub text {
	my ($x, $y, $text, %opt) = @_;
	return sprintf qq{<text x="%.1f" y="%.1f" fill="%s" font-size="%d"%s%s>%s</text>\n}, $x, $y, $opt{colour} // $COLOUR{text}, $opt{size} // 13,
		$opt{anchor} ? qq{ text-anchor="$opt{anchor}"} : '', $opt{bold} ? ' font-weight="bold"' : '', escaped($text);
}

sub line {
	my ($x1, $y1, $x2, $y2, $colour, $more) = @_;
	return sprintf qq{<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"%s/>\n}, $x1, $y1, $x2, $y2, $colour, $more ? " $more" : '';
}

sub rect {
	my ($x, $y, $w, $h, $colour) = @_;
	return sprintf qq{<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>\n}, $x, $y, $w, $h, $colour;
}

sub write_svg {
	my ($file, $height, $title, $body) = @_;
	open my $out, '>', $file or die "$file: $!";
	print {$out} sprintf(qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="sans-serif">\n},
		$WIDTH, $height, $WIDTH, $height),
		'<title>', escaped($title), "</title>\n", rect(0, 0, $WIDTH, $height, '#ffffff'), text(16, 26, $title, size => 15, bold => 1), $body, "</svg>\n";
	close $out or die "$file: $!";
	return;
}

# 1234567 -> 1,234,567; small numbers with as much as says something
sub number {
	my ($n) = @_;
	return sprintf '%.3g', $n if abs($n) < 100;
	return thousands(sprintf '%.0f', $n);
}

# rows: [name, value, kind]; kind: ours, other, bound
sub bars {
	my ($file, %opt) = @_;
	my @rows = @{ $opt{rows} };
	my ($left, $right) = (230, 110);
	my $most = max(map { $_->[1] // 0 } @rows) || 1;
	my ($y, $body) = (44, '');
	for my $row (@rows) {
		my ($name, $value, $kind) = @$row;
		if (!defined $value) {    # a heading
			$body .= text(16, $y + 16, $name, bold => 1);
			$y += 26;
			next;
		}
		my $w = ($WIDTH - $left - $right) * $value / $most;
		$body .= text($left - 10, $y + 16, $name, anchor => 'end') . rect($left, $y, max($w, 1), 22, $COLOUR{ $kind // 'other' })
			. text($left + $w + 8, $y + 16, number($value) . ($opt{unit} ? " $opt{unit}" : ''));
		$y += 30;
	}
	write_svg($file, $y + 12, $opt{title}, $body);
	return;
}

sub lines {
	my ($file, %opt) = @_;
	my ($left, $top, $w, $h) = (80, 50, $WIDTH - 200, 220);
	my @all = map { @$_ } values %{ $opt{series} };
	my $most = max(@all) || 1;
	my $body = '';
	for my $part (0 .. 4) {
		my $y = $top + $h - $h * $part / 4;
		$body .= line($left, $y, $left + $w, $y, $COLOUR{grid}) . text($left - 8, $y + 4, number($most * $part / 4), anchor => 'end', size => 12);
	}
	for my $name (sort keys %{ $opt{series} }) {
		my @values = @{ $opt{series}{$name} };
		my @at = map { [ $left + $w * $_ / ($#values || 1), $top + $h - $h * $values[$_] / $most ] } 0 .. $#values;
		my $colour = $name eq ($opt{ours} // '') ? $COLOUR{ours} : '#8a8f94';
		$body .= sprintf qq{<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>\n}, join(' ', map { sprintf '%.1f,%.1f', @$_ } @at), $colour;
		$body .= text($at[-1][0] + 8, $at[-1][1] + ($name eq ($opt{ours} // '') ? -2 : 12), $name, colour => $colour);
	}
	$body .= text($left, $top + $h + 24, $opt{x}, size => 12) . text(16, $top - 14, $opt{unit}, size => 12);
	write_svg($file, $top + $h + 40, $opt{title}, $body);
	return;
}

# rows: [name, how many times the target (1 and more: met), what was measured]; on a
# logarithmic scale, from a tenth to ten times
sub targets {
	my ($file, %opt) = @_;
	my @rows = @{ $opt{rows} };
	my ($left, $right, $top) = (330, 150, 66);
	my $w = $WIDTH - $left - $right;
	my $height = $top + 24 * @rows;
	my $at = sub { my ($x) = @_; return $left + $w * (min(max(log($x) / log 10, -1), 1) + 1) / 2 };
	my $body = '';
	for my $mark (0.1, 0.2, 0.5, 1, 2, 5, 10) {
		$body .= line($at->($mark), $top - 8, $at->($mark), $height, $mark == 1 ? '#6b7177' : $COLOUR{grid})
			. text($at->($mark), $top - 12, $mark == 1 ? 'target' : "x$mark", anchor => 'middle', size => 11);
	}
	my $y = $top;
	for my $row (@rows) {
		my ($name, $times, $said) = @$row;
		my $colour = $times >= 1 ? $COLOUR{good} : $COLOUR{bad};
		my $x = $at->(max($times, 1e-9));
		$body .= text($left - 12, $y + 14, $name, anchor => 'end', size => 12) . line($at->(1), $y + 10, $x, $y + 10, $colour, 'stroke-width="3"')
			. sprintf(qq{<circle cx="%.1f" cy="%.1f" r="5" fill="%s"/>\n}, $x, $y + 10, $colour) . text($left + $w + 14, $y + 14, $said, size => 12);
		$y += 24;
	}
	write_svg($file, $height + 16, $opt{title}, $body);
	return;
}

1;
