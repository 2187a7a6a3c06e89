/*-------------------------------------------------------------------------
 *
 * status.c
 *		C entries of the public functions in sql/80-status.sql.
 *
 * Each calls the private function of the same name as the extension's owner
 * and tells it who called; it touches nothing itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "definer.h"

PG_FUNCTION_INFO_V1(rsvp_sync_sync_status);
PG_FUNCTION_INFO_V1(rsvp_sync_preview);
PG_FUNCTION_INFO_V1(rsvp_sync_reconcile);
PG_FUNCTION_INFO_V1(rsvp_sync_approve_withdrawals);

Datum
rsvp_sync_sync_status(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_sync_status");
}

Datum
rsvp_sync_preview(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_preview");
}

Datum
rsvp_sync_reconcile(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_reconcile");
}

Datum
rsvp_sync_approve_withdrawals(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_approve_withdrawals");
}
