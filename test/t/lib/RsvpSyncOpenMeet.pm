package RsvpSyncOpenMeet;

# OpenMeet's tenants: the tables as its migrations make them, as far as an RSVP
# is concerned, and the statements that its ORM emits.
#
#   my $tenant = tenant(sub { my ($sql) = @_; ... }, 'tenant_ciTenantA');
#   my $id = $tenant->create(roleId => 3, eventId => 1, userId => 2, status => 'confirmed');
#
# Names, order, types, defaults, keys and indexes of the tables are the real
# ones; left out are columns and tables that no RSVP needs, and PostGIS.  As
# there, the "sourceType" columns are of public's type, although each tenant
# has an unused copy of it.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(tenant);

my @STATUSES = qw(invited confirmed attended cancelled rejected maybe pending waitlist);
sub words { return join ', ', map { "'$_'" } @_ }

sub tenant {
	my ($sql, $schema) = @_;
	my $self = bless { sql => $sql, schema => $schema }, __PACKAGE__;
	my $s = qq{"$schema"};
	my $source_types = "ENUM ('bluesky', 'eventbrite', 'facebook', 'luma', 'meetup', 'other', 'web')";
	$sql->(<<"SQL");
CREATE SCHEMA IF NOT EXISTS $s;
DO \$\$ BEGIN
	CREATE TYPE public.event_source_type AS $source_types;
EXCEPTION WHEN duplicate_object THEN NULL; END \$\$;
DO \$\$ BEGIN
	CREATE TYPE $s.event_source_type AS $source_types;
EXCEPTION WHEN duplicate_object THEN NULL; END \$\$;
CREATE TYPE $s."eventAttendees_status_enum" AS ENUM (@{[words(@STATUSES)]});
CREATE TYPE $s."eventAttendees_role_enum" AS ENUM ('participant', 'host', 'speaker', 'moderator', 'guest');
CREATE TYPE $s."events_status_enum" AS ENUM ('draft', 'pending', 'published', 'cancelled');
CREATE TYPE $s."events_visibility_enum" AS ENUM ('public', 'authenticated', 'private', 'unlisted');
CREATE TABLE $s."users" (
	"createdAt" timestamp NOT NULL DEFAULT now(), "updatedAt" timestamp NOT NULL DEFAULT now(),
	"id" SERIAL NOT NULL, "slug" character varying(255) NOT NULL, "ulid" character varying(26) NOT NULL,
	"email" character varying, "password" character varying, "provider" character varying NOT NULL DEFAULT 'email',
	"socialId" character varying, "firstName" character varying, "deletedAt" timestamp, "statusId" integer, "roleId" integer,
	"preferences" jsonb, "isShadowAccount" boolean NOT NULL DEFAULT false,
	CONSTRAINT "UQ_${schema}_users_email" UNIQUE ("email"), CONSTRAINT "UQ_${schema}_users_ulid" UNIQUE ("ulid"),
	CONSTRAINT "PK_${schema}_users_id" PRIMARY KEY ("id"));
CREATE INDEX "IDX_${schema}_users_slug" ON $s."users" ("slug");
CREATE INDEX "idx_users_preferences_bluesky_connected" ON $s."users" (((preferences -> 'bluesky') ->> 'connected'));
CREATE TABLE $s."events" (
	"createdAt" timestamp NOT NULL DEFAULT now(), "updatedAt" timestamp NOT NULL DEFAULT now(),
	"id" SERIAL NOT NULL, "ulid" character varying(26) NOT NULL, "name" character varying(255) NOT NULL,
	"slug" character varying(255) NOT NULL, "startDate" timestamp NOT NULL, "endDate" timestamp, "maxAttendees" integer,
	"requireApproval" boolean NOT NULL DEFAULT false, "status" $s."events_status_enum", "visibility" $s."events_visibility_enum",
	"userId" integer, "groupId" integer, "sourceType" public.event_source_type, "sourceId" character varying(255),
	"sourceUrl" character varying(255), "lastSyncedAt" timestamp, "sourceData" jsonb,
	"timeZone" character varying(100) NOT NULL DEFAULT 'UTC', "atprotoUri" text, "atprotoRkey" character varying(50),
	"atprotoSyncedAt" timestamp, "atprotoCid" text, "atprotoRecord" jsonb,
	CONSTRAINT "PK_${schema}_events_id" PRIMARY KEY ("id"), CONSTRAINT "UQ_events_slug" UNIQUE ("slug"),
	CONSTRAINT "FK_${schema}_events_userId" FOREIGN KEY ("userId") REFERENCES $s."users"("id") ON DELETE SET NULL);
CREATE INDEX "IDX_events_atproto_pending_sync" ON $s."events" ("visibility", "atprotoUri") WHERE "visibility" = 'public' AND "atprotoUri" IS NULL;
CREATE TABLE $s."eventAttendees" (
	"createdAt" timestamp NOT NULL DEFAULT now(), "updatedAt" timestamp NOT NULL DEFAULT now(),
	"id" SERIAL NOT NULL, "approvalAnswer" text, "roleId" integer NOT NULL, "eventId" integer NOT NULL, "userId" integer NOT NULL,
	"role" $s."eventAttendees_role_enum", "status" $s."eventAttendees_status_enum", "sourceType" public.event_source_type,
	"sourceId" character varying(255), "sourceUrl" character varying(255), "sourceData" jsonb, "lastSyncedAt" timestamp,
	"atprotoUri" text, "atprotoRkey" character varying(50), "atprotoSyncedAt" timestamp,
	CONSTRAINT "PK_${schema}_eventAttendees_id" PRIMARY KEY ("id"),
	CONSTRAINT "UQ_${schema}_event_attendee_user_event" UNIQUE ("eventId", "userId"),
	CONSTRAINT "FK_${schema}_eventAttendees_eventId" FOREIGN KEY ("eventId") REFERENCES $s."events"("id") ON DELETE CASCADE,
	CONSTRAINT "FK_${schema}_eventAttendees_userId" FOREIGN KEY ("userId") REFERENCES $s."users"("id") ON DELETE CASCADE);
CREATE INDEX "IDX_eventAttendees_userId" ON $s."eventAttendees" ("userId");
CREATE INDEX "IDX_eventAttendees_eventId" ON $s."eventAttendees" ("eventId");
CREATE INDEX "IDX_eventAttendees_userId_status" ON $s."eventAttendees" ("userId", "status");
CREATE INDEX "IDX_eventAttendees_status_eventId" ON $s."eventAttendees" ("status", "eventId");
CREATE TABLE $s."userAtprotoIdentities" (
	"id" SERIAL PRIMARY KEY, "userUlid" CHAR(26) NOT NULL, "did" VARCHAR(255) NOT NULL, "handle" VARCHAR(255) NULL,
	"pdsUrl" VARCHAR(255) NOT NULL, "pdsCredentials" TEXT NULL, "isCustodial" BOOLEAN NOT NULL DEFAULT true,
	"createdAt" TIMESTAMP NOT NULL DEFAULT NOW(), "updatedAt" TIMESTAMP NOT NULL DEFAULT NOW(),
	CONSTRAINT "UQ_${schema}_userAtprotoIdentities_userUlid" UNIQUE ("userUlid"),
	CONSTRAINT "UQ_${schema}_userAtprotoIdentities_did" UNIQUE ("did"),
	CONSTRAINT "FK_${schema}_userAtprotoIdentities_userUlid" FOREIGN KEY ("userUlid") REFERENCES $s."users"("ulid") ON DELETE CASCADE);
CREATE INDEX "IDX_${schema}_userAtprotoIdentities_handle" ON $s."userAtprotoIdentities" ("handle");
SQL
	return $self;
}

sub table { my ($self, $name) = @_; return qq{"$self->{schema}"."} . ($name // 'eventAttendees') . '"' }

# value(x): as a literal; undef is NULL
sub value {
	my ($value) = @_;
	return 'NULL' if !defined $value;
	$value =~ s/'/''/g;
	return "'$value'";
}

sub insert {
	my ($self, $table, %columns) = @_;
	my @names = sort keys %columns;
	return $self->{sql}->(sprintf 'INSERT INTO %s (%s) VALUES (%s) RETURNING "id"', $self->table($table),
		join(', ', map { qq{"$_"} } @names), join ', ', map { value($columns{$_}) } @names);
}

my $ulid = 0;
sub user { my ($self, %columns) = @_; return $self->insert('users', slug => 'user-' . ++$ulid, ulid => sprintf('01jx%022d', $ulid), %columns) }

# event(record => {uri, cid}): published by OpenMeet; event(): not published
sub event {
	my ($self, %opt) = @_;
	my $record = delete $opt{record};
	my %own = $record ? (atprotoUri => $record->{uri}, atprotoCid => $record->{cid}, atprotoRkey => $record->{uri} =~ s{.*/}{}r) : ();
	$ulid++;
	return $self->insert('events', ulid => sprintf('01jx%022d', $ulid), name => 'Event', slug => "event-$ulid", startDate => '2099-06-01 18:00',
		status => 'published', visibility => 'public', %own, %opt);
}

sub identity {
	my ($self, $user, %columns) = @_;
	my $of = $self->{sql}->(sprintf 'SELECT "ulid" FROM %s WHERE "id" = %d', $self->table('users'), $user);
	return $self->insert('userAtprotoIdentities', userUlid => $of, %columns);
}

sub change_identity {
	my ($self, $did, %columns) = @_;
	return $self->{sql}->(sprintf q{UPDATE %s SET %s, "updatedAt" = CURRENT_TIMESTAMP WHERE "did" = '%s'}, $self->table('userAtprotoIdentities'),
		join(', ', map { qq{"$_" = } . value($columns{$_}) } sort keys %columns), $did);
}

# --- as its ORM says it

# create(): every column, DEFAULT where nothing is known
my @ATTENDEE = qw(createdAt updatedAt approvalAnswer role status sourceType sourceId sourceUrl sourceData lastSyncedAt atprotoUri atprotoRkey
	atprotoSyncedAt roleId eventId userId);

sub create {
	my ($self, %columns) = @_;
	$columns{roleId} //= 3;
	my ($row) = split /\n/, $self->{sql}->(sprintf <<'SQL', $self->table, join(', ', map { qq{"$_"} } @ATTENDEE), join ', ', map { exists $columns{$_} ? value($columns{$_}) : 'DEFAULT' } @ATTENDEE);
START TRANSACTION;
INSERT INTO %s(%s) VALUES (%s) RETURNING "id", "createdAt", "updatedAt";
COMMIT
SQL
	return (split /\|/, $row)[0];
}

# updateEventAttendee(): also when nothing changes
sub update {
	my ($self, $id, $status, $role) = @_;
	return $self->{sql}->(sprintf q{UPDATE %s SET "status" = %s, "roleId" = %d, "updatedAt" = CURRENT_TIMESTAMP WHERE "id" IN (%d)},
		$self->table, value($status), $role // 3, $id);
}

# save() after a status change
sub save {
	my ($self, $id, $status) = @_;
	return $self->{sql}->(sprintf <<'SQL', $self->table, value($status), $id);
START TRANSACTION;
UPDATE %s SET "status" = %s, "updatedAt" = CURRENT_TIMESTAMP WHERE "id" IN (%d) RETURNING "updatedAt";
COMMIT
SQL
}

# markAtprotoSynced()
sub mark {
	my ($self, $id, $uri) = @_;
	return $self->{sql}->(sprintf q{UPDATE %s SET "atprotoUri" = %s, "atprotoRkey" = %s, "atprotoSyncedAt" = now(), "updatedAt" = CURRENT_TIMESTAMP WHERE "id" = %d},
		$self->table, value($uri), value($uri =~ s{.*/}{}r), $id);
}

sub delete_event {
	my ($self, $id) = @_;
	return $self->{sql}->(sprintf <<'SQL', $self->table, $id, $self->table('events'), $id);
START TRANSACTION;
DELETE FROM %s WHERE "eventId" = %d;
DELETE FROM %s WHERE "id" IN (%d);
COMMIT
SQL
}

# A migration that adds a status, as TypeORM generates it
sub add_status {
	my ($self, $status) = @_;
	my ($type, $s) = ('eventAttendees_status_enum', qq{"$self->{schema}"});
	return $self->{sql}->(sprintf <<"SQL", words(@STATUSES, $status));
START TRANSACTION;
ALTER TYPE $s."$type" RENAME TO "${type}_old";
CREATE TYPE $s."$type" AS ENUM(%s);
ALTER TABLE $s."eventAttendees" ALTER COLUMN "status" TYPE $s."$type" USING "status"::"text"::$s."$type";
DROP TYPE $s."${type}_old";
COMMIT
SQL
}

1;
