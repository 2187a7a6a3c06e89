/*-------------------------------------------------------------------------
 *
 * secret.h
 *		Secrets at rest in the memory of this process.
 *
 * Passwords and tokens that a process keeps between two calls are kept
 * sealed, under a key that only this process has, on a page of its own that
 * no core dump includes.  They are opened for the moment in which they are
 * used.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_SECRET_H
#define RSVP_SYNC_SECRET_H

#include "postgres.h"

typedef struct Secret Secret;

/* Once per process: has jansson wipe what it frees. */
extern void secret_startup(void);

/* In this context, to be freed by pfree() or with it.  NULL gives NULL. */
extern Secret *secret_seal(MemoryContext context, const char *text);

/* palloc'ed; to be given to secret_wipe() as soon as it is used. */
extern char *secret_open(const Secret *secret);
extern void secret_wipe(char *text);

/* Overwrite whatever of the secret an untrusted text repeats. */
extern void secret_hide(const Secret *secret, char *text);

#endif							/* RSVP_SYNC_SECRET_H */
