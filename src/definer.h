/*-------------------------------------------------------------------------
 *
 * definer.h
 *		A function that runs with the extension owner's rights and still
 *		knows who called it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_DEFINER_H
#define RSVP_SYNC_DEFINER_H

#include "postgres.h"
#include "fmgr.h"

/*
 * Body of a public LANGUAGE C SECURITY INVOKER function f(a, b, ...): calls
 * its namesake in the same schema
 *
 *		private_function(caller oid, a, b, ...)
 *
 * which must be SECURITY DEFINER and have exactly the public function's
 * argument types behind the caller's oid.  The caller is the current role:
 * SET ROLE counts, and so does the owner of a SECURITY DEFINER function that
 * calls us.  Results are handed through: scalar, void, composite or set.
 */
extern Datum definer_call(FunctionCallInfo fcinfo,
						  const char *private_function);

/* The same with other values for the arguments; number and types stay. */
extern Datum definer_call_with(FunctionCallInfo fcinfo,
							   const char *private_function,
							   const NullableDatum *args);

#endif							/* RSVP_SYNC_DEFINER_H */
