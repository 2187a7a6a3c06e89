/*-------------------------------------------------------------------------
 *
 * ulid.h
 *		Sortable identifiers, as applications give them to their users.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ULID_H
#define RSVP_SYNC_ULID_H

#include "postgres.h"

#define ULID_LENGTH 26

extern void ulid_new(char *text);

#endif							/* RSVP_SYNC_ULID_H */
