/*-------------------------------------------------------------------------
 *
 * dpop.h
 *		Signed proofs: DPoP (RFC 9449) and client assertions (RFC 7523).
 *
 * Texts returned are malloc'ed; dpop_free() overwrites and frees them, and
 * ignores NULL.  Nothing here raises an error: NULL says that it failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_DPOP_H
#define RSVP_SYNC_DPOP_H

#include <stddef.h>
#include <time.h>

/*
 * A private key, as its JWK was given: of curve P-256, P-384, P-521 or
 * secp256k1, which is the one the OAuth library for Node takes if it may.
 */
typedef struct DpopKey DpopKey;

/* NULL: not the JWK of such a key. */
extern DpopKey *dpop_key_parse(const char *jwk, size_t len);
extern void dpop_key_free(DpopKey *key);
extern const char *dpop_key_id(const DpopKey *key);	/* kid, or NULL */

/* SHA-256 thumbprint (RFC 7638) of the public key: tells keys apart. */
extern char *dpop_key_thumbprint(const DpopKey *key);

/*
 * A proof for one attempt of one request: each has its own jti.  nonce: the
 * server's last, or NULL.  access_token: what goes into Authorization, NULL
 * at a token endpoint.  now: by the server's clock, as far as it is known.
 */
extern char *dpop_proof(const DpopKey *key, const char *method,
						const char *url, const char *nonce,
						const char *access_token, time_t now);

/* private_key_jwt: who we are, for this authorization server only. */
extern char *dpop_client_assertion(const DpopKey *key, const char *client_id,
								   const char *issuer, time_t now);

extern void dpop_free(char *text);

/*
 * From now on libcjose and jansson overwrite what they free, whatever it
 * held: they hold keys and tokens in many small pieces.
 */
extern void dpop_wipe_on_free(void);

#endif							/* RSVP_SYNC_DPOP_H */
