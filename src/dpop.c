/*-------------------------------------------------------------------------
 *
 * dpop.c
 *		Signed proofs: DPoP (RFC 9449) and client assertions (RFC 7523).
 *
 * JWS and JWK are libcjose's, but for the one curve it lacks (es256k.c); here
 * is only what goes into them.  Pure but for random numbers; the clock is the
 * caller's.  Knows nothing of PostgreSQL, accounts or requests, and touches
 * nothing.
 *
 * A DPoP key is imported without its "kid", "alg", "use" and so on: a proof's
 * header shows the bare public key, and other members would be shown too.
 *
 * Beware of cjose_header_new(), cjose_jwk_to_json() and the JSON exports: they
 * call jansson's json_object(), and the server exports another function of
 * that name, which is what libcjose would reach.
 *
 *-------------------------------------------------------------------------
 */
#include "dpop.h"

#include "es256k.h"
#include "wipe.h"

#include <cjose/cjose.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define JTI_BYTES			16
#define ASSERTION_SECONDS	60

struct DpopKey
{
	const char *alg;
	cjose_jwk_t *jwk;			/* NULL: the next one is it */
	EVP_PKEY   *es256k;
	char	   *public_jwk;		/* {"crv","kty","x","y"} */
	char	   *kid;
};

/* The curves there are, and the algorithm of each. */
static const char *const curves[][2] = {
	{"P-256", "ES256"},
	{"secp256k1", "ES256K"},
	{"P-384", "ES384"},
	{"P-521", "ES512"},
};

void
dpop_free(char *text)
{
	if (text == NULL)
		return;
	explicit_bzero(text, strlen(text));
	free(text);
}

void
dpop_wipe_on_free(void)
{
	cjose_set_alloc_funcs(wipe_malloc, wipe_realloc, wipe_free);
	json_set_alloc_funcs(wipe_malloc, wipe_free);
}

/* Stands for cjose_header_new(); see above. */
static cjose_header_t *
new_header(void)
{
	return (cjose_header_t *) json_loads("{}", 0, NULL);
}

/*
 * The key
 */

/* A member of a JWK that is text, or NULL. */
static json_t *
text_member(json_t *jwk, const char *name)
{
	json_t	   *value = json_object_get(jwk, name);

	return json_is_string(value) ? value : NULL;
}

/* {"crv","kty","x","y"}: in this order, as RFC 7638 wants it. */
static char *
public_part(json_t *jwk)
{
	json_t	   *part = json_pack("{s:O, s:O, s:O, s:O}",
								 "crv", text_member(jwk, "crv"),
								 "kty", text_member(jwk, "kty"),
								 "x", text_member(jwk, "x"),
								 "y", text_member(jwk, "y"));
	char	   *text = json_dumps(part, JSON_COMPACT);

	json_decref(part);
	return text;
}

/* The algorithm of a private key's curve; NULL: it is no such key. */
static const char *
algorithm_of(json_t *jwk)
{
	static const char *const needed[] = {"kty", "crv", "x", "y", "d"};
	const char *curve;

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (text_member(jwk, needed[i]) == NULL)
			return NULL;
	if (strcmp(json_string_value(text_member(jwk, "kty")), "EC") != 0)
		return NULL;
	curve = json_string_value(text_member(jwk, "crv"));
	for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]); i++)
		if (strcmp(curves[i][0], curve) == 0)
			return curves[i][1];
	return NULL;
}

/* Do the public and the private part belong together? */
static bool
is_pair(const DpopKey *key)
{
	cjose_header_t *header = new_header();
	cjose_jws_t *made = NULL;
	cjose_jws_t *read = NULL;
	cjose_jwk_t *public = cjose_jwk_import(key->public_jwk,
										   strlen(key->public_jwk), NULL);
	const char *text;
	bool		fits;

	if (header != NULL &&
		cjose_header_set(header, CJOSE_HDR_ALG, key->alg, NULL))
		made = cjose_jws_sign(key->jwk, header, (const uint8_t *) "{}", 2,
							  NULL);
	if (made != NULL && cjose_jws_export(made, &text, NULL))
		read = cjose_jws_import(text, strlen(text), NULL);
	fits = read != NULL && public != NULL &&
		cjose_jws_verify(read, public, NULL);
	cjose_jws_release(read);
	cjose_jws_release(made);
	cjose_jwk_release(public);
	cjose_header_release(header);
	return fits;
}

/* The key for libcjose, without what is not the key itself. */
static bool
import_key(DpopKey *key, json_t *jwk)
{
	json_t	   *bare = json_pack("{s:O, s:O, s:O, s:O, s:O}",
								 "kty", text_member(jwk, "kty"),
								 "crv", text_member(jwk, "crv"),
								 "x", text_member(jwk, "x"),
								 "y", text_member(jwk, "y"),
								 "d", text_member(jwk, "d"));

	if (bare != NULL)
		key->jwk = cjose_jwk_import_json((cjose_header_t *) bare, NULL);
	json_decref(bare);
	return key->jwk != NULL && is_pair(key);
}

static bool
fill_key(DpopKey *key, json_t *jwk)
{
	json_t	   *kid = text_member(jwk, "kid");

	key->public_jwk = public_part(jwk);
	key->kid = kid ? strdup(json_string_value(kid)) : NULL;
	if (key->public_jwk == NULL)
		return false;
	if (strcmp(key->alg, "ES256K") != 0)
		return import_key(key, jwk);
	key->es256k = es256k_key(json_string_value(text_member(jwk, "x")),
							 json_string_value(text_member(jwk, "y")),
							 json_string_value(text_member(jwk, "d")));
	return key->es256k != NULL;
}

DpopKey *
dpop_key_parse(const char *text, size_t len)
{
	json_t	   *jwk;
	const char *alg;
	DpopKey    *key = NULL;

	dpop_wipe_on_free();
	jwk = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	alg = algorithm_of(jwk);
	if (alg != NULL)
		key = calloc(1, sizeof(DpopKey));
	if (key != NULL)
	{
		key->alg = alg;
		if (!fill_key(key, jwk))
		{
			dpop_key_free(key);
			key = NULL;
		}
	}
	json_decref(jwk);
	return key;
}

void
dpop_key_free(DpopKey *key)
{
	if (key == NULL)
		return;
	cjose_jwk_release(key->jwk);
	EVP_PKEY_free(key->es256k);
	free(key->public_jwk);
	free(key->kid);
	free(key);
}

const char *
dpop_key_id(const DpopKey *key)
{
	return key->kid;
}

/*
 * base64url
 */

static char *
base64url(const unsigned char *bytes, size_t len)
{
	char	   *encoded = NULL;
	size_t		encoded_len;
	char	   *text;

	if (!cjose_base64url_encode(bytes, len, &encoded, &encoded_len, NULL))
		return NULL;
	text = strndup(encoded, encoded_len);
	free(encoded);
	return text;
}

static char *
sha256_base64url(const char *text)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len;

	if (EVP_Digest(text, strlen(text), digest, &len, EVP_sha256(), NULL) != 1)
		return NULL;
	return base64url(digest, len);
}

char *
dpop_key_thumbprint(const DpopKey *key)
{
	return sha256_base64url(key->public_jwk);
}

/* Nothing that was there before, nor will be again. */
static char *
new_jti(void)
{
	unsigned char bytes[JTI_BYTES];

	if (RAND_bytes(bytes, JTI_BYTES) != 1)
		return NULL;
	return base64url(bytes, JTI_BYTES);
}

/*
 * Claims and signature
 */

/* Add a text that was made for it; false if it could not be made. */
static bool
add_made(json_t *claims, const char *name, char *value)
{
	bool		done = value != NULL &&
		json_object_set_new(claims, name, json_string(value)) == 0;

	free(value);
	return done;
}

static char *
sign_es256k(const DpopKey *key, json_t *header, const char *payload)
{
	char	   *header_text = json_dumps(header, JSON_COMPACT);
	char	   *text = header_text ? es256k_sign(key->es256k, header_text,
												 payload) : NULL;

	free(header_text);
	return text;
}

/* Sign claims; the header is the caller's, but for "alg". */
static char *
sign(const DpopKey *key, cjose_header_t *header, json_t *claims)
{
	char	   *payload = json_dumps(claims, JSON_COMPACT);
	cjose_jws_t *jws = NULL;
	const char *signed_text;
	char	   *text = NULL;

	if (payload == NULL ||
		!cjose_header_set(header, CJOSE_HDR_ALG, key->alg, NULL))
		 /* out of memory */ ;
	else if (key->jwk == NULL)
		text = sign_es256k(key, (json_t *) header, payload);
	else
		jws = cjose_jws_sign(key->jwk, header, (const uint8_t *) payload,
							 strlen(payload), NULL);
	if (jws != NULL && cjose_jws_export(jws, &signed_text, NULL))
		text = strdup(signed_text);
	cjose_jws_release(jws);
	free(payload);
	return text;
}

/* A URL without query and fragment. */
static json_t *
bare_url(const char *url)
{
	return json_stringn(url, strcspn(url, "?#"));
}

char *
dpop_proof(const DpopKey *key, const char *method, const char *url,
		   const char *nonce, const char *access_token, time_t now)
{
	cjose_header_t *header = new_header();
	json_t	   *claims = json_pack("{s:s, s:o, s:I}", "htm", method,
								   "htu", bare_url(url),
								   "iat", (json_int_t) now);
	char	   *proof = NULL;

	if (header != NULL && claims != NULL &&
		add_made(claims, "jti", new_jti()) &&
		(nonce == NULL ||
		 json_object_set_new(claims, "nonce", json_string(nonce)) == 0) &&
		(access_token == NULL ||
		 add_made(claims, "ath", sha256_base64url(access_token))) &&
		cjose_header_set(header, "typ", "dpop+jwt", NULL) &&
		cjose_header_set_raw(header, "jwk", key->public_jwk, NULL))
		proof = sign(key, header, claims);
	json_decref(claims);
	cjose_header_release(header);
	return proof;
}

char *
dpop_client_assertion(const DpopKey *key, const char *client_id,
					  const char *issuer, time_t now)
{
	cjose_header_t *header = new_header();
	json_t	   *claims = json_pack("{s:s, s:s, s:s, s:I, s:I}",
								   "iss", client_id, "sub", client_id,
								   "aud", issuer,
								   "iat", (json_int_t) now,
								   "exp", (json_int_t) now + ASSERTION_SECONDS);
	char	   *assertion = NULL;

	if (header != NULL && claims != NULL && key->kid != NULL &&
		add_made(claims, "jti", new_jti()) &&
		cjose_header_set(header, CJOSE_HDR_KID, key->kid, NULL))
		assertion = sign(key, header, claims);
	json_decref(claims);
	cjose_header_release(header);
	return assertion;
}
