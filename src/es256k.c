/*-------------------------------------------------------------------------
 *
 * es256k.c
 *		Signatures with secp256k1 keys (RFC 8812), the curve libcjose lacks.
 *
 * Where an authorization server takes ES256K, and the reference one does, the
 * OAuth library for Node makes such a key for its sessions.  libcjose knows
 * the NIST curves only.  So this signs by OpenSSL; base64url is libcjose's.
 *
 * Pure; knows nothing of PostgreSQL, proofs or sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "es256k.h"

#include <cjose/base64.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/param_build.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_BYTES		32
#define POINT_BYTES		(1 + 2 * FIELD_BYTES)

/* A member of a JWK: exactly as many bytes as the field has. */
static bool
decode(const char *text, unsigned char *to)
{
	uint8_t    *bytes = NULL;
	size_t		len = 0;
	bool		fits;

	fits = cjose_base64url_decode(text, strlen(text), &bytes, &len, NULL) &&
		len == FIELD_BYTES;
	if (fits)
		memcpy(to, bytes, len);
	if (bytes != NULL)
		explicit_bzero(bytes, len);
	free(bytes);
	return fits;
}

/* Do both halves belong together? */
static bool
is_pair(EVP_PKEY *key)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	bool		fits = ctx != NULL && EVP_PKEY_pairwise_check(ctx) == 1;

	EVP_PKEY_CTX_free(ctx);
	return fits;
}

static EVP_PKEY *
key_of(const unsigned char *point, const BIGNUM *number)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	OSSL_PARAM *params = NULL;
	EVP_PKEY   *key = NULL;

	if (build != NULL && ctx != NULL &&
		OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME,
										"secp256k1", 0) == 1 &&
		OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY,
										 point, POINT_BYTES) == 1 &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, number) == 1)
		params = OSSL_PARAM_BLD_to_param(build);
	if (params == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
		EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params) != 1)
		key = NULL;
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

EVP_PKEY *
es256k_key(const char *x, const char *y, const char *d)
{
	unsigned char point[POINT_BYTES] = {POINT_CONVERSION_UNCOMPRESSED};
	unsigned char secret[FIELD_BYTES];
	BIGNUM	   *number = NULL;
	EVP_PKEY   *key = NULL;

	if (decode(x, point + 1) && decode(y, point + 1 + FIELD_BYTES) &&
		decode(d, secret) &&
		(number = BN_secure_new()) != NULL &&
		BN_bin2bn(secret, FIELD_BYTES, number) != NULL)
		key = key_of(point, number);
	explicit_bzero(secret, sizeof(secret));
	BN_clear_free(number);
	if (key != NULL && !is_pair(key))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	return key;
}

/* DER, as OpenSSL has it, to r and s side by side, as JWS wants them. */
static bool
raw_signature(const unsigned char *der, size_t len, unsigned char *raw)
{
	ECDSA_SIG  *sig = d2i_ECDSA_SIG(NULL, &der, (long) len);
	bool		done = sig != NULL &&
		BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, FIELD_BYTES) ==
		FIELD_BYTES &&
		BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + FIELD_BYTES, FIELD_BYTES) ==
		FIELD_BYTES;

	ECDSA_SIG_free(sig);
	return done;
}

static bool
sign(EVP_PKEY *key, const char *text, unsigned char *raw)
{
	unsigned char der[256];
	size_t		len = sizeof(der);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool		done = ctx != NULL &&
		EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestSign(ctx, der, &len, (const unsigned char *) text,
					   strlen(text)) == 1 &&
		raw_signature(der, len, raw);

	EVP_MD_CTX_free(ctx);
	return done;
}

/* a.b, with b encoded; takes a over */
static char *
join(char *before, const void *bytes, size_t len)
{
	char	   *encoded = NULL;
	size_t		encoded_len = 0;
	char	   *text = NULL;

	if (before != NULL &&
		cjose_base64url_encode(bytes, len, &encoded, &encoded_len, NULL) &&
		asprintf(&text, "%s%s%.*s", before, *before ? "." : "",
				 (int) encoded_len, encoded) < 0)
		text = NULL;
	free(encoded);
	free(before);
	return text;
}

char *
es256k_sign(EVP_PKEY *key, const char *header, const char *payload)
{
	unsigned char raw[2 * FIELD_BYTES];
	char	   *text = join(strdup(""), header, strlen(header));

	text = join(text, payload, strlen(payload));
	if (text != NULL && sign(key, text, raw))
		return join(text, raw, sizeof(raw));
	free(text);
	return NULL;
}
