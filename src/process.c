/*-------------------------------------------------------------------------
 *
 * process.c
 *		What every background worker of ours does about itself.
 *
 * Signals, connection, the settings under which it works, its place in the
 * registry, and its end when the extension is dropped.  Touches no table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "owner.h"
#include "process.h"
#include "registry.h"
#include "start.h"

/* The extension as this process found it. */
static Oid	extension = InvalidOid;

/*
 * Settings of the database or the role reach a worker, too; these are not
 * theirs to choose.
 */
static void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"synchronous_commit", "on"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"bytea_output", "hex"},
		{"extra_float_digits", "1"},
		{"row_security", "on"},
		/* Nobody's open transaction on our rows stops the others' keys. */
		{"lock_timeout", "100ms"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"jit", "off"},
		{"plan_cache_mode", "force_generic_plan"},
		{"application_name", "rsvp_sync"},
		{"rsvp_sync.skip", "off"},
	};

	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

void
process_begin(Oid dboid)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	pin_settings();
	if (!registry_worker_attach() || !start_claim_database())
		proc_exit(registry_available() ? 1 : 0);
	owner_arms_deadline = true;
}

void
process_leave_if_dropped(void)
{
	Oid			now = get_extension_oid("rsvp_sync", true);

	if (OidIsValid(now) && (now == extension || !OidIsValid(extension)))
	{
		extension = now;
		return;
	}
	AbortCurrentTransaction();
	/* Dropped and created anew: a new process knows nothing of the old. */
	proc_exit(OidIsValid(now) ? 1 : 0);
}
