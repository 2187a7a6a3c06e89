/*-------------------------------------------------------------------------
 *
 * known.h
 *		Which records a repository has at the head that its lane knows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_KNOWN_H
#define RSVP_SYNC_KNOWN_H

#include "postgres.h"

typedef struct Known Known;

extern Known *known_new(MemoryContext context);
extern void known_free(Known *known);

/* cid: NULL: there is no such record */
extern void known_set(Known *known, const char *rkey, const char *cid);
extern bool known_has(const Known *known, const char *rkey, const char *cid);

/* Bytes that all of them take. */
extern Size known_memory(void);

#endif							/* RSVP_SYNC_KNOWN_H */
