/*-------------------------------------------------------------------------
 *
 * rsvp_sync.c
 *		Loading the module: settings, shared memory, hooks, the launcher.
 *
 * Does nothing by itself; it wires the rooms together.  Every setting has
 * its paragraph here, above its variable, and its entry in
 * docs/reference.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "changelog.h"
#include "ddl.h"
#include "isolation.h"
#include "launcher.h"
#include "registry.h"
#include "settings.h"
#include "tid.h"

PG_MODULE_MAGIC;

/*
 * Does the worker send (live), only write to the history what it would send
 * (dry_run), or not even plan (off)?  Per database: ALTER DATABASE ... SET.
 */
int			rsvp_sync_mode = MODE_LIVE;

/* Requests in flight at once, over all hosts, per database. */
int			rsvp_sync_concurrency = 32;

/* Connections kept to one host. */
int			rsvp_sync_connections_per_host = 4;

/* Tries of one key before it is a dead letter. */
int			rsvp_sync_max_attempts = 25;

/* Bounds of the wait between two tries; it doubles, with full jitter. */
int			rsvp_sync_retry_base = 1000;
int			rsvp_sync_retry_max = 3600 * 1000;

/* How long one request may take, from the first byte out to the last in. */
int			rsvp_sync_request_timeout = 15 * 1000;

/*
 * How long a key rests after a change before it is planned, for applications
 * that write a row in several transactions.
 */
int			rsvp_sync_settle_time = 0;

/* How often every source is compared as a whole. */
int			rsvp_sync_reconcile_interval = 3600;

/*
 * Withdrawals of one source within ten minutes beyond which (and beyond 20 %
 * of what it has published) they wait for approve_withdrawals().
 */
int			rsvp_sync_withdraw_limit = 500;

/* How long application SQL may take in a worker; option sql_timeout wins. */
int			rsvp_sync_sql_timeout = 10 * 1000;

/* How long history is kept. */
int			rsvp_sync_history_retention = 30 * 24 * 3600;

/* The directory of did:plc identities. */
char	   *rsvp_sync_plc_url = NULL;

/* Where inbound records come from; empty: no inbound worker. */
char	   *rsvp_sync_jetstream_url = NULL;

/* Read an inbound record from its author's PDS before it is applied? */
bool		rsvp_sync_verify_inbound = true;

/* File of keys for credentials at rest, one "version:base64" a line. */
char	   *rsvp_sync_credential_key_file = NULL;

/* Store credentials in the clear where there is no key file (development). */
bool		rsvp_sync_allow_plaintext_credentials = false;

/*
 * host:port list for which http and private addresses are allowed
 * (development).  Everything else must be https to a public address.
 */
char	   *rsvp_sync_insecure_hosts = NULL;

/* Whom the operator of a PDS may write to about our requests. */
char	   *rsvp_sync_user_agent_contact = NULL;

static const struct config_enum_entry mode_values[] = {
	{"live", MODE_LIVE, false},
	{"dry_run", MODE_DRY_RUN, false},
	{"off", MODE_OFF, false},
	{NULL, 0, false}
};

static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;

void		_PG_init(void);

typedef struct IntSetting
{
	const char *name;
	const char *description;
	int		   *variable;
	int			lowest;
	int			highest;
	int			flags;
} IntSetting;

static const IntSetting int_settings[] = {
	{"rsvp_sync.concurrency", "Requests in flight at once, per database.",
	&rsvp_sync_concurrency, 1, 1024, 0},
	{"rsvp_sync.connections_per_host", "Connections kept to one host.",
	&rsvp_sync_connections_per_host, 1, 64, 0},
	{"rsvp_sync.max_attempts", "Tries of one key before it is failed.",
	&rsvp_sync_max_attempts, 1, 1000, 0},
	{"rsvp_sync.retry_base", "Wait before the first retry.",
	&rsvp_sync_retry_base, 1, INT_MAX, GUC_UNIT_MS},
	{"rsvp_sync.retry_max", "Longest wait between two tries.",
	&rsvp_sync_retry_max, 1, INT_MAX, GUC_UNIT_MS},
	{"rsvp_sync.request_timeout", "How long one request may take.",
	&rsvp_sync_request_timeout, 100, 600 * 1000, GUC_UNIT_MS},
	{"rsvp_sync.settle_time", "How long a key rests after a change.",
	&rsvp_sync_settle_time, 0, 3600 * 1000, GUC_UNIT_MS},
	{"rsvp_sync.reconcile_interval",
		"How often every source is compared as a whole; 0 for never.",
	&rsvp_sync_reconcile_interval, 0, INT_MAX, GUC_UNIT_S},
	{"rsvp_sync.withdraw_limit",
		"Withdrawals of a source within ten minutes before they are held.",
	&rsvp_sync_withdraw_limit, 0, INT_MAX, 0},
	{"rsvp_sync.sql_timeout", "How long application SQL may take.",
	&rsvp_sync_sql_timeout, 0, INT_MAX, GUC_UNIT_MS},
	{"rsvp_sync.history_retention", "How long history is kept.",
	&rsvp_sync_history_retention, 0, INT_MAX, GUC_UNIT_S},
};

typedef struct StringSetting
{
	const char *name;
	const char *description;
	char	  **variable;
	const char *boot;
	int			flags;
} StringSetting;

static const StringSetting string_settings[] = {
	{"rsvp_sync.plc_url", "The directory of did:plc identities.",
	&rsvp_sync_plc_url, "https://plc.directory", 0},
	{"rsvp_sync.jetstream_url", "Where inbound records come from.",
	&rsvp_sync_jetstream_url, "", 0},
	{"rsvp_sync.credential_key_file", "Keys for credentials at rest.",
	&rsvp_sync_credential_key_file, "", GUC_SUPERUSER_ONLY},
	{"rsvp_sync.insecure_hosts",
		"host:port list exempt from the address rules (development).",
	&rsvp_sync_insecure_hosts, "", 0},
	{"rsvp_sync.user_agent_contact", "Contact named in the User-Agent.",
	&rsvp_sync_user_agent_contact, "", 0},
};

static void
define_settings(void)
{
	DefineCustomEnumVariable("rsvp_sync.mode",
							 "Does the worker send, rehearse, or rest?",
							 NULL, &rsvp_sync_mode, MODE_LIVE, mode_values,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("rsvp_sync.skip",
							 "This transaction's changes come from the"
							 " network.",
							 NULL, &rsvp_sync_skip, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("rsvp_sync.verify_inbound",
							 "Read inbound records from their author's PDS.",
							 NULL, &rsvp_sync_verify_inbound, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("rsvp_sync.allow_plaintext_credentials",
							 "Store credentials in the clear (development).",
							 NULL, &rsvp_sync_allow_plaintext_credentials,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(s->name, s->description, NULL, s->variable,
								*s->variable, s->lowest, s->highest,
								PGC_SUSET, s->flags, NULL, NULL, NULL);
	}
	for (int i = 0; i < lengthof(string_settings); i++)
	{
		const StringSetting *s = &string_settings[i];

		DefineCustomStringVariable(s->name, s->description, NULL,
								   s->variable, s->boot, PGC_SUSET, s->flags,
								   NULL, NULL, NULL);
	}
	MarkGUCPrefixReserved("rsvp_sync");
}

static void
request_shmem(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	registry_shmem_request();
	tid_shmem_request();
	isolation_shmem_request();
}

static void
init_shmem(void)
{
	if (prev_shmem_startup)
		prev_shmem_startup();
	registry_shmem_init();
	tid_shmem_init();
	isolation_shmem_init();
}

void
_PG_init(void)
{
	define_settings();
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	prev_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = init_shmem;
	isolation_install_hooks();
	ddl_install_hook();
	launcher_register();
}
