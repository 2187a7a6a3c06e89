/*-------------------------------------------------------------------------
 *
 * es256k.h
 *		Signatures with secp256k1 keys (RFC 8812), the curve libcjose lacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ES256K_H
#define RSVP_SYNC_ES256K_H

#include <openssl/evp.h>

/* x, y, d: base64url, as a JWK has them.  NULL: no pair of keys. */
extern EVP_PKEY *es256k_key(const char *x, const char *y, const char *d);

/*
 * A JWS in compact form of a header and a payload, both JSON; malloc'ed, or
 * NULL if it fails.
 */
extern char *es256k_sign(EVP_PKEY *key, const char *header,
						 const char *payload);

#endif							/* RSVP_SYNC_ES256K_H */
