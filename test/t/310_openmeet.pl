# OpenMeet as it is: tenants in schemas of mixed case and in public, DIDs and
# encrypted credentials from "userAtprotoIdentities", the statements its ORM
# emits.  Attaching is all that is said to rsvp_sync; no account is connected.

use strict;
use warnings;

use MIME::Base64 qw(encode_base64);
use Test::More;
use RsvpSyncTest;
use RsvpSyncApp ();
use RsvpSyncOpenMeet;

my $pds = start_pds(accounts => 9);
my $pg = start_server(pds => $pds, conf => {
	'rsvp_sync.retry_base' => '50ms', 'rsvp_sync.retry_max' => '300ms', 'rsvp_sync.allow_plaintext_credentials' => 'off',
});
my %key = map { $_ => encode_base64(join('', map { chr int rand 256 } 1 .. 32), '') } 1 .. 3;

# keys(version ...): the key file has these
sub keys_are {
	my (@versions) = @_;
	my $file = $pg->dir . '/keys';
	open my $out, '>', $file or die $!;
	print {$out} map { "$_:$key{$_}\n" } @versions;
	close $out;
	chmod 0600, $file;
	$pg->own($file);
	return $file;
}
$pg->append_conf("rsvp_sync.credential_key_file = '" . keys_are(1, 2) . "'");
$pg->reload;
$pg->create_db('om');
$pg->safe_psql('om', 'CREATE ROLE openmeet LOGIN; ALTER DATABASE om OWNER TO openmeet; ALTER SCHEMA public OWNER TO openmeet;
	SELECT rsvp_sync.grant_application($$openmeet$$); CREATE ROLE other LOGIN; SELECT rsvp_sync.grant_application($$other$$)');
sub admin { return $pg->safe_psql('om', $_[0]) }
sub sql { return $pg->safe_psql('om', $_[0], user => 'openmeet') }

sub envelope {
	my ($account, %opt) = @_;
	my $version = $opt{version} // 1;
	my ($status, $out, $err) = run_command([ repo_root() . '/test/pds/run', repo_root() . '/test/pds/envelope.mjs', $key{ $opt{key} // $version }, $version,
		$opt{password} // $pds->password($account) ]);
	die $err if $status;
	return from_json($out)->[0];
}

sub idle {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return 1 if sql("SELECT rsvp_sync.wait_until_idle('30 s')") eq 't';
	fail("idle: $what");
	diag admin('SELECT to_jsonb(q) FROM rsvp_sync._queue q LIMIT 5'), $pg->log_tail(10);
	return 0;
}

sub state { my ($tenant, $id) = @_; return sql(sprintf "SELECT concat_ws('/', state, reason_code) FROM rsvp_sync.sync_status('%s', '%d')", $tenant->table, $id) }
sub account { my ($account, $what) = @_; return admin(sprintf "SELECT %s FROM rsvp_sync._account WHERE did = '%s'", $what // "concat_ws(' ', state, owner)", $pds->did($account)) }
# said(account): "event status", one for each of its records
sub said { return join ' ', sort { $a cmp $b } map { ($_->{value}{subject}{uri} =~ m{([^/]+)$})[0] . ':' . RsvpSyncApp::word($_) } $pds->list_records($_[0]) }
sub rkey { return $_[0]{uri} =~ s{.*/}{}r }
sub writes { return scalar $pds->log(call => qr/(?:create|put|delete)Record|applyWrites/) }

# --- three tenants

my $A = tenant(\&sql, 'tenant_ciTenantA');
my $L = tenant(\&sql, 'tenant_lsdfaopkljdfs');
my $P = tenant(\&sql, 'public');
my @tenants = ($A, $L, $P);
my ($party, $picnic, $concert) = map { $pds->create_event(0, $_) } qw(Party Picnic Concert);
my %event = map { my $t = $_; ($t->{schema} => [ map { $t->event(record => $_) } $party, $picnic, $concert ]) } @tenants;

# Users 1 .. 3 are the accounts 1 .. 3 in the tenants A, L and P; account 4 is
# in A and in L.
my %user;
for my $n (0 .. 2) {
	my $t = $tenants[$n];
	$user{ $n + 1 } = $t->user;
	$t->identity($user{ $n + 1 }, did => $pds->did($n + 1), handle => $pds->handle($n + 1), pdsUrl => $pds->url, pdsCredentials => envelope($n + 1, version => 1 + $n % 2));
}
my %both = map { $_->{schema} => $_->user } $A, $L;
$_->identity($both{ $_->{schema} }, did => $pds->did(4), handle => $pds->handle(4), pdsUrl => $pds->url, pdsCredentials => envelope(4)) for $A, $L;
my $before = $A->create(eventId => $event{tenant_ciTenantA}[1], userId => $user{1}, status => 'confirmed');

$pds->clear_log;
sql(q{SELECT rsvp_sync.attach('"tenant_ciTenantA"."eventAttendees"')});
is sql(q{SELECT string_agg(attendance::text, ' ' ORDER BY attendance::text) FROM rsvp_sync.attach_all('tenant\_%')}),
	'"tenant_ciTenantA"."eventAttendees" tenant_lsdfaopkljdfs."eventAttendees"', 'attach_all: the tenants';
sql(q{SELECT rsvp_sync.attach('"public"."eventAttendees"')});
is sql(q{SELECT string_agg(format('%s:%s', tenant, kind), ' ' ORDER BY tenant) FROM rsvp_sync.source}), ':openmeet ciTenantA:openmeet lsdfaopkljdfs:openmeet',
	'three sources, each of its tenant';
idle('attached');
is_deeply [ said(1), account(1) ], [ '', '' ], 'attaching publishes nothing, and connects nobody';
is writes(), 0, '... and sends nothing';

# --- what the ORM does

my %row;
for my $n (1 .. 3) {
	my $t = $tenants[ $n - 1 ];
	$row{$n} = $t->create(eventId => $event{ $t->{schema} }[0], userId => $user{$n}, status => 'confirmed');
}
idle('three RSVPs');
for my $n (1 .. 3) {
	my $t = $tenants[ $n - 1 ];
	my ($record) = $pds->list_records($n);
	is said($n), rkey($party) . ':going', "tenant $t->{schema}: published";
	is state($t, $row{$n}), 'done/published', '... and says so';
	is sql(sprintf q{SELECT concat_ws(' ', "atprotoUri", "atprotoRkey", "atprotoSyncedAt" BETWEEN now() - interval '1 minute' AND now(), "updatedAt" = "createdAt") FROM %s WHERE "id" = %d}, $t->table, $row{$n}),
		"$record->{uri} " . rkey($record) . ' t t', '... the row is told, and updatedAt is the ORM\'s';
	is account($n), 'connected openmeet', '... by the credential that its tenant has, for the table\'s owner';
}
is account(1, "concat_ws(' ', handle, pds)"), $pds->handle(1) . ' ' . $pds->url, 'handle and PDS come from there, too';
unlike admin("SELECT string_agg(credential || coalesce(session, ''), ' ') FROM rsvp_sync._account"), qr/hunter2/, 'and what is stored is sealed';
like account(1, 'credential'), qr/"aad":\s*"did"/, '... for this DID only';

$pds->clear_log;
$A->update($row{1}, 'confirmed');
$A->mark($row{1}, ($pds->list_records(1))[0]{uri});
idle('no change');
is writes(), 0, 'an UPDATE that changes no status, and the application\'s own stamp, send nothing';
$A->update($row{1}, 'maybe');
idle('maybe');
is said(1), rkey($party) . ':interested', 'updateEventAttendee: sent';
$A->save($row{1}, 'cancelled');
idle('cancelled');
is said(1), rkey($party) . ':notgoing', 'save: sent';
$A->save($row{1}, 'attended');
idle('attended');
is said(1), rkey($party) . ':going', 'attended is going';
for my $status (qw(pending waitlist invited rejected)) {
	my $user = $P->user;
	$P->identity($user, did => $pds->did(5), pdsUrl => $pds->url, pdsCredentials => envelope(5));
	my $id = $P->create(eventId => $event{public}[0], userId => $user, status => $status);
	idle($status);
	is_deeply [ state($P, $id), said(5) ], [ 'withheld/status_not_published', '' ], "$status is not published";
	sql(qq{DELETE FROM "public"."users" WHERE "id" = $user});
}
is said(1), rkey($party) . ':going', 'a row that was there before attach() is not published for all that';
is state($A, $before), 'withheld/not_backfilled', '... and says why';

# --- never

$pds->clear_log;
my $never = sub {
	my ($name, $state, %opt) = @_;
	my $user = $L->user(%{ $opt{user} // {} });
	$L->identity($user, did => $pds->did(5), pdsUrl => $pds->url, pdsCredentials => envelope(5)) if $opt{identity} // 1;
	my $event = $opt{event} ? $L->event(record => $party, %{ $opt{event} }) : $event{tenant_lsdfaopkljdfs}[0];
	my $id = $L->create(eventId => $event, userId => $user, status => 'confirmed');
	idle($name);
	is state($L, $id), $state, "$name: $state";
	$L->save($id, 'maybe');
	idle($name);
	is_deeply [ state($L, $id), said(5), account(5) ], [ $state, '', '' ], '... whatever its status, and nobody is connected for it';
	sql(sprintf 'DELETE FROM %s WHERE "id" = %d', $L->table('users'), $user);
	idle("$name is gone");
	return;
};
$never->('shadow user', 'withheld/shadow_account', user => { isShadowAccount => 't' });
$never->('deleted user', 'withheld/deleted_user', user => { deletedAt => '2026-01-01' });
$never->('user without identity', 'withheld/no_did', identity => 0, user => { preferences => json({ bluesky => { did => $pds->did(5), connected => \1 } }) });
$never->("$_ event", 'withheld/event_not_public', event => { visibility => $_ }) for qw(private authenticated unlisted);
$never->('event of no visibility', 'withheld/event_not_public', event => { visibility => undef });
is writes(), 0, 'nothing was sent for any of them';

# --- one person, two tenants

my %of = map { $_->{schema} => $event{ $_->{schema} } } $A, $L;
my $in_a = $A->create(eventId => $of{tenant_ciTenantA}[1], userId => $both{tenant_ciTenantA}, status => 'confirmed');
my $in_l = $L->create(eventId => $of{tenant_lsdfaopkljdfs}[2], userId => $both{tenant_lsdfaopkljdfs}, status => 'maybe');
idle('in two tenants');
is said(4), join(' ', sort { $a cmp $b } rkey($picnic) . ':going', rkey($concert) . ':interested'), 'a person in two tenants: both RSVPs are his';
is admin('SELECT count(*) FROM rsvp_sync._found_credential WHERE did = ' . RsvpSyncOpenMeet::value($pds->did(4))), 2, '... found in both';
my $logins = $pds->log(call => qr/createSession/);
my $same = $L->create(eventId => $of{tenant_lsdfaopkljdfs}[1], userId => $both{tenant_lsdfaopkljdfs}, status => 'maybe');
idle('the same event');
is said(4), join(' ', sort { $a cmp $b } rkey($picnic) . ':interested', rkey($concert) . ':interested'), 'the same event in both: one record, the later row speaks';
is_deeply [ state($A, $in_a), state($L, $same) ], [ 'superseded/superseded', 'done/published' ], '... and the rows say so';
is $pds->log(call => qr/createSession/), $logins, 'two envelopes of one account do not make it sign in over and over';

# --- credentials change

my $seven = $A->user;
$A->identity($seven, did => $pds->did(7), pdsUrl => $pds->url, pdsCredentials => envelope(7, password => 'not it'));
my $blocked = $A->create(eventId => $of{tenant_ciTenantA}[0], userId => $seven, status => 'confirmed');
idle('wrong password');
is_deeply [ state($A, $blocked), account(7) ], [ 'blocked/wrong_password', 'wrong_password openmeet' ], 'a wrong password: the row waits';
$A->change_identity($pds->did(7), pdsCredentials => envelope(7));
idle('right password');
is_deeply [ state($A, $blocked), said(7) ], [ 'done/published', rkey($party) . ':going' ], 'the right one stored: it goes on by itself';

$A->change_identity($pds->did(7), pdsCredentials => undef, isCustodial => 'f');
$A->save($blocked, 'maybe');
idle('took over');
is_deeply [ state($A, $blocked), account(7), said(7) ], [ 'blocked/needs_login', 'needs_login openmeet', rkey($party) . ':going' ], 'the user took his account over: ours is no secret of his any more';
is account(7, 'credential IS NULL AND session IS NULL'), 't', '... nor is it kept';
sql(sprintf "SELECT rsvp_sync.connect_account('%s', '%s')", $pds->did(7), $pds->password(7));
idle('connected by a call');
is said(7), rkey($party) . ':interested', 'connected by a call: it goes on';
$A->change_identity($pds->did(7), pdsCredentials => envelope(7, password => 'not it'), isCustodial => 't');
$A->save($blocked, 'confirmed');
idle('stored again');
is_deeply [ said(7), account(7) ], [ rkey($party) . ':going', 'connected openmeet' ], '... and what is stored does not overrule the call';

my $eight = $L->user;
$L->identity($eight, did => $pds->did(8), pdsUrl => $pds->url, pdsCredentials => envelope(8, version => 3));
my $unreadable = $L->create(eventId => $of{tenant_lsdfaopkljdfs}[0], userId => $eight, status => 'confirmed');
idle('no such key');
is state($L, $unreadable), 'blocked/needs_login', 'an envelope of a key that is not in the key file: the row waits';
like account(8, 'last_error'), qr/key 3|version 3/, '... the account says why';
is account(8, 'credential IS NULL'), 't', '... and nothing is stored';
keys_are(1, 2, 3);
admin('SELECT rsvp_sync._retry_found()');
idle('key file');
is said(8), rkey($party) . ':going', 'with the key it goes on by itself';

sql(sprintf "SELECT rsvp_sync.disconnect_account('%s')", $pds->did(8));
$L->save($unreadable, 'maybe');
idle('disconnected');
is_deeply [ state($L, $unreadable), account(8), said(8) ], [ 'blocked/no_account', '', rkey($party) . ':going' ], 'disconnected: what is stored is not taken again';
$L->change_identity($pds->did(8), pdsCredentials => envelope(8, version => 2));
idle('stored anew');
is said(8), rkey($party) . ':interested', '... until the application stores another one';

sql(sprintf "SELECT rsvp_sync.forget('%s')", $pds->did(8));
ok $pg->poll_query_until('om', sprintf("SELECT count(*) = 0 FROM rsvp_sync._account WHERE did = '%s'", $pds->did(8))), 'forgotten: gone';
idle('forgotten');
$L->change_identity($pds->did(8), pdsCredentials => envelope(8));
$L->save($unreadable, 'confirmed');
idle('stored once more');
is_deeply [ said(8), account(8), admin(sprintf "SELECT count(*) FROM rsvp_sync._found_credential WHERE did = '%s'", $pds->did(8)) ], [ '', '', 0 ], '... and what is stored is not taken for a new wish';

# --- whose account it is

$pg->safe_psql('om', sprintf(q{CREATE SCHEMA AUTHORIZATION other; SET ROLE other;
	SELECT rsvp_sync.connect_account('%s', '%s')}, $pds->did(6), $pds->password(6)));
my $six = $P->user;
$P->identity($six, did => $pds->did(6), pdsUrl => $pds->url, pdsCredentials => envelope(6));
my $foreign = $P->create(eventId => $event{public}[0], userId => $six, status => 'confirmed');
idle('another role\'s account');
is_deeply [ state($P, $foreign), account(6), said(6) ], [ 'blocked/account_not_granted', 'unverified other', '' ], 'an account of another role\'s is not taken over';

# --- events, users, identities go and change

$A->delete_event($of{tenant_ciTenantA}[0]);
idle('event deleted');
is_deeply [ said(1), said(7) ], [ '', '' ], 'an event is deleted: its RSVPs are withdrawn';
sql(qq{DELETE FROM "public"."users" WHERE "id" = $user{3}});
idle('user deleted');
is said(3), '', 'a user is deleted, with his credential: his RSVP is withdrawn all the same';
sql(sprintf q{UPDATE %s SET "visibility" = 'private' WHERE "id" = %d}, $L->table('events'), $of{tenant_lsdfaopkljdfs}[0]);
idle('made private');
is_deeply [ said(2), said(8) ], [ '', '' ], 'an event is made private: withdrawn';
is sql(sprintf q{SELECT coalesce("atprotoUri", 'none') FROM %s WHERE "id" = %d}, $L->table, $row{2}), 'none', '... and the row has forgotten the record';
my $later = $P->user;
my $linked = $P->create(eventId => $event{public}[1], userId => $later, status => 'confirmed');
idle('not linked');
is state($P, $linked), 'withheld/no_did', 'a user who is not linked';
$P->identity($later, did => $pds->did(5), pdsUrl => $pds->url, pdsCredentials => envelope(5));
idle('linked');
is said(5), rkey($picnic) . ':going', '... and is, later: published';

# --- a migration

$A->add_status('offered');
my $offered = $A->create(eventId => $of{tenant_ciTenantA}[2], userId => $user{1}, status => 'offered');
idle('enum');
is state($A, $offered), 'withheld/unmapped_status', 'an enum replaced as TypeORM does it: a new word is not published';
$A->save($offered, 'confirmed');
idle('enum, an old word');
is said(1), rkey($concert) . ':going', '... an old one is';
is sql("SELECT string_agg(state, ' ') FROM rsvp_sync.source"), 'active active active', 'and all sources are well';

# --- the query

sub refusal { my (undef, undef, $err) = $pg->psql('om', $_[0], user => 'openmeet'); return $err }
like refusal(q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => '{"credentials": "SELECT 1 AS did"}')}), qr/does not return: envelope.*HINT/s, 'option credentials: a query that lacks a column';
like refusal(q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => '{"credentials": "SELECT * FROM nowhere"}')}), qr/query for credentials does not run.*nowhere.*HINT/s, '... that does not run';
like refusal(q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => '{"credentials": 7}')}), qr/invalid value for option "credentials"/, '... that is none';
sql(q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => '{"credentials": false}')});
admin(sprintf "DELETE FROM rsvp_sync._account WHERE did = '%s'; DELETE FROM rsvp_sync._found_credential", $pds->did(5));
$P->save($linked, 'maybe');
idle('none');
is state($P, $linked), 'blocked/no_account', 'credentials false: none is looked for';
my $query = q{SELECT i.did, i."pdsCredentials"::bytea::text AS nothing, i."pdsCredentials" AS envelope FROM public."userAtprotoIdentities" i};
sql(sprintf q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => %s)}, RsvpSyncOpenMeet::value(json({ credentials => $query })));
idle('a query');
is_deeply [ said(5), account(5, "coalesce(pds, 'by the DID document')") ], [ rkey($picnic) . ':interested', 'by the DID document' ], 'a query of one\'s own is asked instead';
sql('ALTER TABLE "public"."userAtprotoIdentities" RENAME COLUMN "pdsCredentials" TO secret');
$P->save($linked, 'confirmed');
ok $pg->poll_query_until('om', q{SELECT state || (reason ~ 'pdsCredentials') FROM rsvp_sync.source WHERE tenant = ''}, 'brokentrue'), 'a query that runs no more: the source is broken, and says why';
sql(q{SELECT rsvp_sync.attach('"public"."eventAttendees"', options => '{"credentials": null}')});
idle('generated again');
is said(5), rkey($picnic) . ':going', '... until it is generated again, which follows the renaming';

# --- figures

for my $t ([ ciTenantA => $A ], [ lsdfaopkljdfs => $L ], [ '' => $P ]) {
	my ($tenant) = @$t;
	cmp_ok admin("SELECT coalesce(sum(value), 0) FROM rsvp_sync.metrics() WHERE name = 'bluesky_rsvp_operations_total' AND labels ->> 'tenant' = '$tenant' AND labels ->> 'operation' = 'create'"),
		'>=', 1, "metrics have the tenant '$tenant'";
}
unlike $pg->log_text, qr/hunter2|not it/, 'no password is in the server\'s log';
unlike $pg->log_text, qr/ (?:ERROR|FATAL|PANIC):(?!  (?:the query for credentials|invalid value for option))/, 'and the server had nothing to complain of';
done_testing;
