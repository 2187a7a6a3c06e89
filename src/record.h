/*-------------------------------------------------------------------------
 *
 * record.h
 *		The cid of a record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_RECORD_H
#define RSVP_SYNC_RECORD_H

#include "utils/jsonb.h"

extern char *record_cid_text(Jsonb *record);

#endif							/* RSVP_SYNC_RECORD_H */
