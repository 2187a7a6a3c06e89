/*-------------------------------------------------------------------------
 *
 * credential.h
 *		Secrets at rest: text in, envelope out, and back.
 *
 * An envelope is JSON text.  What we make ourselves is
 *
 *		{"v":N,"iv":b64,"ciphertext":b64,"authTag":b64,"aad":"did"}
 *
 * AES-256-GCM under key N of the key file, with the DID as additional
 * authenticated data, so that an envelope moved to another account's row
 * does not open.  OpenMeet's envelopes have no "aad" and can be read too.
 * While allow_plaintext_credentials is on and there is no key file, it is
 * {"v":0,"plaintext":b64}.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_CREDENTIAL_H
#define RSVP_SYNC_CREDENTIAL_H

#include "postgres.h"

/* Settings; rsvp_sync.c defines them. */
extern char *rsvp_sync_credential_key_file;
extern bool rsvp_sync_allow_plaintext_credentials;

/*
 * These raise ERROR rather than return a failure, hence are to be called
 * within a transaction; no error text contains the secret.  Results are
 * palloc'ed in the current context.  The key file is read at each call and
 * forgotten after it: a new key needs no reload, and none lingers in memory.
 */
extern char *credential_seal(const char *secret, size_t len, const char *did);
extern char *credential_open(const char *envelope, const char *did);

/* The same, and the secret is wiped and freed, whatever happens. */
extern char *credential_seal_wiping(char *secret, const char *did);

/* Version of the key that would seal now. */
extern int	credential_key_version(void);

/* Overwrite a secret that credential_open() returned, and free it. */
extern void credential_wipe(char *secret);

#endif							/* RSVP_SYNC_CREDENTIAL_H */
