/*-------------------------------------------------------------------------
 *
 * meter.h
 *		What the worker's transaction counts, written down with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_METER_H
#define RSVP_SYNC_METER_H

#include "postgres.h"

/* All of these inside a transaction of the worker's; texts are copied. */
extern void meter_operation(int64 source_id, const char *operation,
							const char *status);
extern void meter_duration(int64 source_id, const char *operation,
						   const char *status, double seconds);
extern void meter_error(const char *direction, const char *error_type);

/* Write down what was counted since the last time: before the commit. */
extern void meter_flush(void);

/* The same in a session, where nothing may be waited for. */
extern void meter_append(void);

#endif							/* RSVP_SYNC_METER_H */
