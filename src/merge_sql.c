/*-------------------------------------------------------------------------
 *
 * merge_sql.c
 *		rsvp_sync._merge() as SQL sees it, and the time a TID tells.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "merge.h"
#include "tid.h"

PG_FUNCTION_INFO_V1(rsvp_sync_merge);
PG_FUNCTION_INFO_V1(rsvp_sync_tid_time);

/* NULL booleans are false. */
static bool
bool_arg(FunctionCallInfo fcinfo, int n)
{
	return !PG_ARGISNULL(n) && PG_GETARG_BOOL(n);
}

static const char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* Arguments in the order of struct Meeting. */
Datum
rsvp_sync_merge(PG_FUNCTION_ARGS)
{
	Meeting		m = {
		.present = bool_arg(fcinfo, 0),
		.withdrawing = bool_arg(fcinfo, 1),
		.local = text_arg(fcinfo, 2),
		.base_local = text_arg(fcinfo, 3),
		.heard = bool_arg(fcinfo, 4),
		.heard_cid = text_arg(fcinfo, 5),
		.heard_status = text_arg(fcinfo, 6),
		.remote_cid = text_arg(fcinfo, 7),
		.remote_status = text_arg(fcinfo, 8),
		.remote_sent = bool_arg(fcinfo, 9),
		.local_newer = bool_arg(fcinfo, 10),
		.conflict = text_arg(fcinfo, 11),
		.verified = bool_arg(fcinfo, 12),
		.remote_other = bool_arg(fcinfo, 13),
	};

	PG_RETURN_TEXT_P(cstring_to_text(merge_decide(&m)));
}

/* When a TID was made; NULL if it is none. */
Datum
rsvp_sync_tid_time(PG_FUNCTION_ARGS)
{
	text	   *tid = PG_GETARG_TEXT_PP(0);
	const char *in = VARDATA_ANY(tid);
	uint64		value = 0;

	if (VARSIZE_ANY_EXHDR(tid) != TID_LEN)
		PG_RETURN_NULL();
	for (int i = 0; i < TID_LEN; i++)
	{
		const char *digit = in[i] ? strchr(TID_ALPHABET, in[i]) : NULL;

		/* The topmost bit is none of the time's 53. */
		if (digit == NULL || (i == 0 && digit - TID_ALPHABET > 15))
			PG_RETURN_NULL();
		value = value << 5 | (uint64) (digit - TID_ALPHABET);
	}
	PG_RETURN_TIMESTAMPTZ((TimestampTz) (value >> TID_CLOCK_BITS) -
						  (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
}
