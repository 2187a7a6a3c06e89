/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The differences between PostgreSQL 15, 16, 17 and 18, in one place.
 *
 * No other file of this project looks at PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_COMPAT_H
#define RSVP_SYNC_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "rsvp_sync needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM < 160000
#include "utils/guc.h"
#endif

#endif							/* RSVP_SYNC_COMPAT_H */
