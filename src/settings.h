/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings of prefix rsvp_sync, defined in rsvp_sync.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_SETTINGS_H
#define RSVP_SYNC_SETTINGS_H

#include "postgres.h"

typedef enum SyncMode
{
	MODE_LIVE,
	MODE_DRY_RUN,
	MODE_OFF
} SyncMode;

extern int	rsvp_sync_mode;
extern bool rsvp_sync_skip;
extern int	rsvp_sync_concurrency;
extern int	rsvp_sync_connections_per_host;
extern int	rsvp_sync_max_attempts;
extern int	rsvp_sync_retry_base;	/* ms */
extern int	rsvp_sync_retry_max;	/* ms */
extern int	rsvp_sync_request_timeout;	/* ms */
extern int	rsvp_sync_settle_time;	/* ms */
extern int	rsvp_sync_reconcile_interval;	/* s */
extern int	rsvp_sync_withdraw_limit;
extern int	rsvp_sync_sql_timeout;	/* ms */
extern int	rsvp_sync_history_retention;	/* s */
extern char *rsvp_sync_plc_url;
extern char *rsvp_sync_jetstream_url;
extern bool rsvp_sync_verify_inbound;
extern char *rsvp_sync_credential_key_file;
extern bool rsvp_sync_allow_plaintext_credentials;
extern char *rsvp_sync_insecure_hosts;
extern char *rsvp_sync_user_agent_contact;

#endif							/* RSVP_SYNC_SETTINGS_H */
