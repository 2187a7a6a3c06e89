package ChaosVerify;

# After the faults: is the network what the rows say, was nothing done twice,
# and does everything that counts say the same?  Each function returns what is
# wrong, a line each; nothing is good.
#
# What was done is taken from where it was done: records from the PDS by plain
# HTTP, writes from the PDS's own sequencer (commits.mjs), changes of rows from
# a table that a trigger of the application keeps.

use strict;
use warnings;

use Time::Local qw(timegm);
use RsvpSyncTest;

my $RSVP = 'community.lexicon.calendar.rsvp';

sub new {
	my ($class, $app, %opt) = @_;
	return bless { app => $app, pds => $app->{pds}, %opt }, $class;
}

sub rows {
	my ($self, $sql) = @_;
	return @{ from_json($self->{app}->sql("SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM ($sql) x")) };
}

sub seconds {
	my ($text) = @_;
	my @t = $text =~ /(\d+)-(\d+)-(\d+)[T ](\d+):(\d+):([\d.]+)/ or die "no time: $text";
	return timegm(0, $t[4], $t[3], $t[2], $t[1] - 1, $t[0]) + $t[5];
}

# {did}{event uri} -> its records
sub remote {
	my ($self) = @_;
	return $self->{remote} //= do {
		my %remote;
		for my $account (@{ $self->{pds}->accounts }) {
			push @{ $remote{ $account->{did} }{ $_->{value}{subject}{uri} } }, $_ for $self->{pds}->list_records($account->{did});
		}
		\%remote;
	};
}

# {did}{event uri} -> the table's rows, with what is known of them
sub local_rows {
	my ($self, $table) = @_;
	return $self->{local}{$table} //= do {
		my %local;
		push @{ $local{ $_->{did} }{ $_->{uri} } }, $_ for $self->rows(<<"SQL");
SELECT a.id, a.status, a.metadata, u.preferences #>> '{bluesky,did}' AS did,
	'at://' || (e."sourceData" ->> 'did') || '/community.lexicon.calendar.event/' || (e."sourceData" ->> 'rkey') AS uri,
	CASE WHEN a.status IN ('confirmed', 'attended') THEN 'going' WHEN a.status IN ('maybe', 'pending', 'waitlist') THEN 'interested'
		WHEN a.status = 'cancelled' THEN 'notgoing' END AS word, i.state, i.reason_code
FROM $table a JOIN users u ON u.id = a."userId" JOIN events e ON e.id = a."eventId"
LEFT JOIN rsvp_sync._intent i ON i.key = a.id::text
	AND i.source_id = (SELECT s.source_id FROM rsvp_sync._source s WHERE s.attendance = '$table'::regclass)
SQL
		\%local;
	};
}

# The row of a slot that speaks for it: of those with something to say, the one
# that is not superseded.  Dies if that is not exactly one.
sub speaker {
	my (@rows) = @_;
	my @wish = grep { $_->{word} } @rows or return;
	my @speak = grep { ($_->{state} // '') ne 'superseded' } @wish;
	die @speak . ' of ' . @wish . " rows speak\n" if @speak != 1;
	return $speak[0];
}

# What the network should say in a slot, or undef for nothing
sub wanted {
	my (@rows) = @_;
	my $row = speaker(@rows) or return;
	# declined before it was ever published
	return if $row->{word} eq 'notgoing' && ($row->{reason_code} // '') eq 'never_published';
	return $row->{word};
}

sub word { my ($record) = @_; return $record->{value}{status} =~ s/.*#//r }

# Where nobody else writes: record for record what the rows say
sub disagreement {
	my ($self) = @_;
	my ($remote, $local) = ($self->remote, $self->local_rows('attendance'));
	my @wrong;
	for my $did (@{ $self->{strict} }) {
		my %slots = map { $_ => 1 } keys %{ $remote->{$did} }, keys %{ $local->{$did} };
		for my $uri (sort keys %slots) {
			my $want = eval { wanted(@{ $local->{$did}{$uri} // [] }) };
			my $is = join ',', map { word($_) } @{ $remote->{$did}{$uri} // [] };
			push @wrong, "$did $uri: $@" if $@;
			push @wrong, "$did $uri: should be " . ($want // 'nothing') . ', is ' . ($is || 'nothing') . ": " . $self->slot_story($did, $uri) if !$@ && ($want // '') ne $is;
		}
	}
	return @wrong;
}

sub slots { my ($self) = @_; my $n = 0; $n += keys %$_ for values %{ $self->remote }; return $n }

sub duplicates {
	my ($self) = @_;
	my $remote = $self->remote;
	return map { my $did = $_; map { "$did $_: " . join ' ', map { $_->{uri} } @{ $remote->{$did}{$_} } } grep { @{ $remote->{$did}{$_} } > 1 } keys %{ $remote->{$did} } } sort keys %$remote;
}

# Does each row carry the record that was written for it, and no other?
sub untold {
	my ($self) = @_;
	my ($remote, $local) = ($self->remote, $self->local_rows('attendance'));
	my @wrong;
	for my $did (@{ $self->{strict} }) {
		for my $uri (sort keys %{ $local->{$did} }) {
			my $row = eval { speaker(@{ $local->{$did}{$uri} }) } or next;
			my ($record) = @{ $remote->{$did}{$uri} // [] };
			my ($is, $should) = map { join ' ', map { $_ // '-' } @$_ } [ @{ $row->{metadata} // {} }{qw(blueskyRsvpUri blueskyRsvpCid)} ], [ @{ $record // {} }{qw(uri cid)} ];
			push @wrong, "row $row->{id}: says $is, there is $should: " . $self->story($row->{id}) if $is ne $should;
		}
	}
	return @wrong;
}

# All that is recorded of a row of the strict table
sub story {
	my ($self, $id) = @_;
	return json([ $self->rows(<<"SQL") ]);
SELECT to_jsonb(i) AS intent, (SELECT jsonb_agg(to_jsonb(h) - 'did' ORDER BY h.at) FROM rsvp_sync._history h WHERE h.source_id = i.source_id AND h.key = i.key) AS history,
	(SELECT jsonb_agg(jsonb_build_object('xmin', a.xmin, 'ctid', a.ctid, 'row', to_jsonb(a))) FROM attendance a WHERE a.id = $id) AS row
FROM rsvp_sync._intent i WHERE i.key = '$id' AND i.source_id = (SELECT s.source_id FROM rsvp_sync._source s WHERE s.attendance = 'attendance'::regclass)
SQL
}

# ... and of a slot: its rows' changes, what was sent, what is recorded
sub slot_story {
	my ($self, $did, $uri) = @_;
	my ($event) = $uri =~ m{([^/]+)$};
	my @told = $self->rows(<<"SQL");
SELECT to_jsonb(c) AS told FROM changes c JOIN users u ON u.id = c.user_id JOIN events e ON e.id = c.event_id
WHERE u.preferences #>> '{bluesky,did}' = '$did' AND e."sourceData" ->> 'rkey' = '$event'
UNION ALL SELECT to_jsonb(h) - 'did' FROM rsvp_sync._history h JOIN rsvp_sync._observed o ON (o.did, o.event_uri) = ('$did', '$uri') AND h.uri = rsvp_sync._rsvp_uri(o.did, o.rkey)
ORDER BY 1
SQL
	push @told, $self->rows("SELECT to_jsonb(t) - ARRAY['did', 'event_uri'] AS told FROM trace t WHERE (did, event_uri) = ('$did', '$uri')") if $self->{trace};
	@told = sort { $a->{at} cmp $b->{at} } map { $_->{told} } @told;
	my @known = $self->rows("SELECT to_jsonb(i) AS intent FROM rsvp_sync._intent i WHERE (did, event_uri) = ('$did', '$uri')");
	my @observed = $self->rows("SELECT rkey, cid, status, source, seen_at FROM rsvp_sync._observed WHERE (did, event_uri) = ('$did', '$uri')");
	return join "\n  ", '', map { json($_) } @told, @known, @observed;
}

# What is observed is what is there.
sub misobserved {
	my ($self) = @_;
	my %seen = map { ("$_->{did} $_->{rkey} $_->{cid}" => 1) } $self->rows('SELECT did, rkey, cid FROM rsvp_sync.rsvp');
	my %there;
	for my $did (keys %{ $self->remote }) {
		$there{"$did @{[ $_->{uri} =~ s{.*/}{}r ]} $_->{cid}"} = 1 for map { @$_ } values %{ $self->remote->{$did} };
	}
	my %strict = map { $_ => 1 } @{ $self->{strict} };
	return grep { $strict{ (split)[0] } && !($seen{$_} && $there{$_}) } sort keys %{ { %seen, %there } };
}

sub unfinished {
	my ($self) = @_;
	return map { json($_) } $self->rows('SELECT * FROM rsvp_sync._queue'), $self->rows('SELECT * FROM rsvp_sync._change_log'),
		$self->rows(q{SELECT key, state, reason_code, reason FROM rsvp_sync._intent WHERE state NOT IN ('done', 'withheld', 'superseded') OR writeback});
}

# What reconcile() would find, with what is decided about it
sub differences {
	my ($self) = @_;
	return map { json($_) } $self->rows(<<'SQL');
SELECT s.attendance_name, i.*, (e.d).action AS decided, (e.d).state AS decided_state, (e.d).reason_code AS decided_code, (e.s).remote_status,
	(e.s).remote_cid, (SELECT jsonb_agg(jsonb_build_object('key', o.key, 'local', o.local, 'state', o.state, 'local_at', o.local_at)) FROM rsvp_sync._intent o WHERE (o.did, o.event_uri) = (i.did, i.event_uri)) AS slot
FROM rsvp_sync._source s CROSS JOIN LATERAL rsvp_sync._differences(s.source_id) AS k (key)
JOIN rsvp_sync._evaluate(s.source_id, NULL, true) e ON e.key = k.key
LEFT JOIN rsvp_sync._intent i ON i.source_id = s.source_id AND i.key = k.key
SQL
}

# --- what was written

# Commits of RSVP records, each with whose it was
sub commits {
	my ($self) = @_;
	return @{ $self->{commits} //= do {
		my %own = map { ($_->{rev} => $_->{own} // 0) } grep { $_->{rev} } @{ $self->log };
		# The PDS was killed before it could answer the other application: that
		# request's record key is not in the log, whose account it was is.
		my @cut = grep { $_->{own} && !defined $_->{status} && ($_->{call} // '') =~ /(?:put|delete)Record/ } @{ $self->log };
		my $is_cut = sub {
			my ($commit) = @_;
			my $at = seconds($commit->{at});
			return grep { $_->{did} eq $commit->{did} && $at >= seconds($_->{time}) && $at < seconds($_->{time}) + 10 } @cut;
		};
		[ map { { %$_, cut => !exists $own{ $_->{rev} }, own => $own{ $_->{rev} } // !!$is_cut->($_) } } @{ ChaosFaults::commits($self->{pds}) } ];
	} };
}

# Every effective write has a change of its slot's rows before it, and the nth
# one n of them.  A record of ours is never removed and made again for nothing,
# nothing is sent twice, and what another application said is not corrected.
sub unprovoked {
	my ($self) = @_;
	my (%changes, %writes, %told, @wrong);
	push @{ $changes{"$_->{did} $_->{uri}"} }, seconds($_->{at}) for $self->rows(<<'SQL');
SELECT c.at AT TIME ZONE 'UTC' AS at, u.preferences #>> '{bluesky,did}' AS did,
	'at://' || (e."sourceData" ->> 'did') || '/community.lexicon.calendar.event/' || (e."sourceData" ->> 'rkey') AS uri
FROM changes c JOIN users u ON u.id = c.user_id JOIN events e ON e.id = c.event_id ORDER BY c.at
SQL
	# The other application may take a record key once more, for another event.
	my %about;
	for my $entry (@{ $self->log }) {
		push @{ $about{"$entry->{repo} $_->{rkey}"} }, [ seconds($entry->{time}), $_->{record}{subject}{uri} ]
			for grep { $_->{record} } ($entry->{call} // '') =~ /putRecord/ ? $entry : @{ $entry->{writes} // [] };
	}
	for my $commit ($self->commits) {
		next if $commit->{own};
		my @till_then = grep { $_->[0] <= seconds($commit->{at}) } @{ $about{"$commit->{did} $commit->{rkey}"} // [] } or next;
		my $uri = $till_then[-1][1];
		my $slot = "$commit->{did} $uri";
		my $n = ++$writes{$slot};
		my $due = grep { $_ <= seconds($commit->{at}) } @{ $changes{$slot} // [] };
		next if $n <= $due;
		push @wrong, "$slot: write $n ($commit->{action} $commit->{rkey} at $commit->{at}) after $due changes" . ($self->{trace} && !$told{$slot}++ ? $self->slot_story($commit->{did}, $uri) : '');
	}
	return @wrong;
}

# The requests, from the file: an entry that was under way when the PDS was
# killed has no end.
sub log {
	my ($self) = @_;
	return $self->{log} //= do {
		my (%entry, @order);
		open my $in, '<', $self->{log_file} or die "$self->{log_file}: $!";
		while (my $line = <$in>) {
			my $entry = eval { from_json($line) } or next;
			my $id = "$entry->{pid} $entry->{n}";
			push @order, $id if !$entry{$id};
			$entry{$id} = $entry;
		}
		[ @entry{@order} ];
	};
}

# --- what was counted

sub counters {
	my ($self, $name) = @_;
	return $self->rows("SELECT labels, value FROM rsvp_sync.metrics() WHERE name = '$name'");
}

# Operations counted against our commits.  Each table hears what the other one
# writes and may speak next, so that only all of them can be compared.  A commit
# whose answer was lost, and that the other application wrote over before it was
# read, is one that nobody can count.
# -> {operation => [least, counted, most]}
sub operations {
	my ($self, @kills) = @_;
	my %strict = map { $_ => 1 } @{ $self->{strict} };
	my %n = map { $_ => [ 0, 0, 0 ] } qw(create delete);
	for my $c ($self->counters('bluesky_rsvp_operations_total')) {
		$n{ $c->{labels}{operation} }[1] += $c->{value} if $n{ $c->{labels}{operation} };
	}
	my %heard = map { ($_->{rev} => 1) } grep { is_heard($_, @kills) } @{ $self->log };
	my %next_is_other;
	for my $c (reverse $self->commits) {
		my $n = $n{ $c->{action} eq 'delete' ? 'delete' : 'create' };
		my $lost = $next_is_other{"$c->{did} $c->{rkey}"} && !$strict{ $c->{did} } && !$heard{ $c->{rev} };
		$next_is_other{"$c->{did} $c->{rkey}"} = $c->{own};
		$n->[0]++ if !$c->{own} && !$lost;
		$n->[2]++ if !$c->{own} || $c->{cut};
	}
	return \%n;
}

# Has whoever asked got this answer, and lived to write it down?
sub is_heard {
	my ($entry, @kills) = @_;
	return 0 if !$entry->{rev} || ($entry->{status} // 0) != 200 || $entry->{fault} || !$entry->{ended};
	my $at = seconds($entry->{ended});
	return !grep { $at > $_ - 1 && $at < $_ + 0.5 } @kills;
}

sub errors_counted {
	my ($self) = @_;
	my %n;
	$n{ $_->{labels}{error_type} } += $_->{value} for $self->counters('rsvp_sync_errors_total');
	return \%n;
}

# The name under which the worker counts this answer, if it is one that says so
# with every byte of it; of those that broke off the log does not know what
# became of them at the other end.
sub error_of {
	my ($entry) = @_;
	my $fault = $entry->{fault} // '';
	return if $entry->{own} || !defined $entry->{status} || !$entry->{ended} || $fault =~ /truncate|slowBps/;
	# Whoever answers a probe is there, whatever he says.
	return if ($entry->{call} // '') eq 'com.atproto.server.describeServer' && $entry->{status} !~ /^50[234]/;
	return 'unreadable_answer' if $fault =~ /garbage/ && $entry->{status} == 200;
	return 'too_large' if $fault =~ /bigBytes/ && $entry->{status} == 200;
	return if $entry->{status} < 400;
	# A record that is not there is what one may learn by asking.
	return if ($entry->{error} // '') eq 'RecordNotFound' && ($entry->{call} // '') !~ /put/;
	return $entry->{error} // "http_$entry->{status}";
}

# Each refusal in the log is counted once, by its name.  A worker that dies
# takes answers along that it has not written down, so of those that came close
# to a kill anything between none and all may have been counted.
#   all but those  <=  counted  <=  all
# -> {name => [least, counted, most]}
sub errors {
	my ($self, @kills) = @_;
	my $counted = $self->errors_counted;
	my %n;
	for my $entry (@{ $self->log }) {
		my $name = error_of($entry) or next;
		my $at = seconds($entry->{ended});
		$n{$name} //= [ 0, $counted->{$name} // 0, 0 ];
		$n{$name}[2]++;
		$n{$name}[0]++ if !grep { $at > $_ - 1 && $at < $_ + 0.5 } @kills;
	}
	return \%n;
}

1;
