/*-------------------------------------------------------------------------
 *
 * oauth_test.c
 *		Proofs, client assertions and stored sessions, without a server.
 *
 * Signatures are verified by OpenSSL alone, from the key in the header.
 *
 *-------------------------------------------------------------------------
 */
#include "dpop.h"
#include "oauth.h"

#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

/* The key of RFC 7515, appendix A.3. */
#define X "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
#define Y "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
#define D "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"
#define PUBLIC_JWK "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" X "\",\"y\":\"" Y "\""
#define JWK "{" PUBLIC_JWK ",\"d\":\"" D "\",\"kid\":\"key-1\",\"alg\":\"ES256\",\"key_ops\":[\"sign\"]}"
/* One of the OAuth library's, and another that libcjose knows. */
#define KX "D3YG2Akj1CTCgC6g4jeh962uNcomGfU9YbY5uHSr3tk"
#define KY "7IJbgRFgfOs-tMvesstB1sfzrvqzBvoHBeJJ97aukP0"
#define KD "z1WLybcthGS_VdJdvyfquPfbeRxATSZsfaFrdsCBPIw"
#define K_PUBLIC "\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"" KX "\",\"y\":\"" KY "\""
#define K_JWK "{" K_PUBLIC ",\"d\":\"" KD "\"}"
#define JWK_384 "{\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\"X02K2s04zSt9E1SJ77qGftk9mO3SY2EJh-Vx4IqHrQqcwGyU-PXh60AwtKT1M06y\",\"y\":\"6lFgfsiQ7CHR30Jsl1oW6ds_DBSHSKPAPgSB4TWxNF5o-B2jSXvMs6rBC7O47F1y\",\"d\":\"izGWQfwUiPJr_46x2A-cGdsT_fZkXYP59qsJYd7MHqbcqR1kP-fu_x02vKjVh4WA\"}"
#define URL "https://pds.example.com/xrpc/com.atproto.repo.putRecord"
#define RSVP "community.lexicon.calendar.rsvp"
#define NOW 1795200000

/* base64url without padding; the number of bytes */
static size_t
decode(const char *text, size_t len, unsigned char *to)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	unsigned	bits = 0;
	int			n = 0;
	size_t		out = 0;

	for (size_t i = 0; i < len; i++)
	{
		bits = bits << 6 | (unsigned) (strchr(digits, text[i]) - digits);
		n += 6;
		if (n >= 8)
			to[out++] = (unsigned char) (bits >> (n -= 8));
	}
	return out;
}

/* Part n of a JWS as JSON. */
static json_t *
part(const char *jws, int n)
{
	unsigned char bytes[4096];
	size_t		len;

	while (n-- > 0)
		jws = strchr(jws, '.') + 1;
	len = decode(jws, strcspn(jws, "."), bytes);
	return json_loadb((char *) bytes, len, 0, NULL);
}

static EVP_PKEY *
public_key(const char *curve, const char *x, const char *y)
{
	unsigned char point[65] = {4};
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	OSSL_PARAM *params;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	EVP_PKEY   *key = NULL;

	decode(x, strlen(x), point + 1);
	decode(y, strlen(y), point + 33);
	OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME,
									curve, 0);
	OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point,
									 sizeof(point));
	params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY_fromdata_init(ctx);
	EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

/* Is it a signature (r and s, 64 bytes) by that key? */
static bool
verified_by(const char *jws, const char *curve, const char *x, const char *y)
{
	const char *dot = strrchr(jws, '.');
	unsigned char raw[100];
	size_t		len = decode(dot + 1, strlen(dot + 1), raw);
	ECDSA_SIG  *sig = ECDSA_SIG_new();
	EVP_PKEY   *key = public_key(curve, x, y);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned char *der = NULL;
	int			der_len;
	bool		good = false;

	if (len == 64)
	{
		ECDSA_SIG_set0(sig, BN_bin2bn(raw, 32, NULL),
					   BN_bin2bn(raw + 32, 32, NULL));
		der_len = i2d_ECDSA_SIG(sig, &der);
		good = EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
			EVP_DigestVerify(ctx, der, der_len, (const unsigned char *) jws,
							 dot - jws) == 1;
		OPENSSL_free(der);
	}
	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	ECDSA_SIG_free(sig);
	return good;
}

static bool
verified(const char *jws)
{
	return verified_by(jws, "prime256v1", X, Y);
}

/* Is this part of the JWS exactly that JSON?  jti and the like are taken out */
static bool
part_is(const char *jws, int n, const char *expected, const char *without)
{
	json_t	   *given = part(jws, n);
	json_t	   *wanted = json_loads(expected, 0, NULL);
	bool		same;

	if (without)
		json_object_del(given, without);
	same = wanted != NULL && json_equal(given, wanted);
	if (!same)
		json_dumpf(given, stderr, JSON_SORT_KEYS);
	json_decref(given);
	json_decref(wanted);
	return same;
}

static void
test_keys(void)
{
	static const char *const bad[] = {
		"", "x", "{}", "[]", "null", "\"EC\"",
		"{" PUBLIC_JWK "}",		/* no private part */
		"{" PUBLIC_JWK ",\"d\":1}",
		"{" PUBLIC_JWK ",\"d\":\"\"}",
		"{" PUBLIC_JWK ",\"d\":\"AAAA\"}",	/* of another public one */
		"{" PUBLIC_JWK ",\"d\":\"" D "\",\"d\":\"" D "\"}",
		"{\"kty\":\"oct\",\"k\":\"AAAA\"}",
		"{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"" KX "\",\"y\":\"" KY "\",\"d\":\"" D "\"}",
		"{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"" KX "\",\"y\":\"" KY "\",\"d\":\"AAAA\"}",
		"{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"" X "\",\"y\":\"" Y "\",\"d\":\"" D "\"}",
		"{\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\"" X "\",\"y\":\"" Y "\",\"d\":\"" D "\"}",
		"{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" Y "\",\"y\":\"" X "\",\"d\":\"" D "\"}",
		"{\"kty\":\"RSA\",\"crv\":\"P-256\",\"x\":\"" X "\",\"y\":\"" Y "\",\"d\":\"" D "\"}",
	};
	DpopKey    *key = dpop_key_parse(JWK, strlen(JWK));
	char	   *thumbprint = dpop_key_thumbprint(key);

	ok(key != NULL, "a JWK with more than it needs");
	ok(strcmp(dpop_key_id(key), "key-1") == 0, "its kid");
	ok(strcmp(thumbprint, "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U") == 0,
	   "its thumbprint is that of RFC 7638: %s", thumbprint);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(dpop_key_parse(bad[i], strlen(bad[i])) == NULL,
		   "not a key: %s", bad[i]);
	dpop_free(thumbprint);
	dpop_key_free(key);
	dpop_key_free(NULL);
	dpop_free(NULL);
}

static void
test_proofs(void)
{
	DpopKey    *key = dpop_key_parse(JWK, strlen(JWK));
	char	   *proof = dpop_proof(key, "POST", URL "?a=b#c", "nonce-1",
								   "access.token", NOW);
	char	   *again = dpop_proof(key, "POST", URL "?a=b#c", "nonce-1",
								   "access.token", NOW);
	char	   *bare = dpop_proof(key, "GET", "https://as.example/token#x",
								  NULL, NULL, NOW + 1);
	json_t	   *claims = part(proof, 1);
	json_t	   *others = part(again, 1);
	const char *jti = json_string_value(json_object_get(claims, "jti"));
	char		damaged[4096];

	ok(part_is(proof, 0, "{\"alg\":\"ES256\",\"typ\":\"dpop+jwt\",\"jwk\":{"
			   PUBLIC_JWK "}}", NULL),
	   "the header shows the bare public key");
	ok(part_is(proof, 1, "{\"htm\":\"POST\",\"htu\":\"" URL "\","
			   "\"iat\":1795200000,\"nonce\":\"nonce-1\","
			   "\"ath\":\"PSNtqEkMNFiG3pgpLNAoaIClbEqFZjUVl6LZdlwXXBs\"}",
			   "jti"),
	   "the claims");
	ok(json_object_size(claims) == 6 && strcmp(URL, json_string_value(
		   json_object_get(claims, "htu"))) == 0,
	   "htu without query and fragment");
	ok(jti != NULL && strlen(jti) >= 20, "a jti");
	ok(strcmp(jti, json_string_value(json_object_get(others, "jti"))) != 0,
	   "another one at each attempt");
	ok(verified(proof) && verified(again) && verified(bare),
	   "OpenSSL verifies the signatures");
	ok(part_is(bare, 1, "{\"htm\":\"GET\","
			   "\"htu\":\"https://as.example/token\",\"iat\":1795200001}",
			   "jti"),
	   "neither nonce nor ath where there is none");
	strcpy(damaged, proof);
	damaged[strlen(damaged) / 2] ^= 1;
	ok(!verified(damaged), "a changed proof is not verified");

	json_decref(claims);
	json_decref(others);
	dpop_free(proof);
	dpop_free(again);
	dpop_free(bare);
	dpop_key_free(key);
}

static void
test_other_curves(void)
{
	DpopKey    *key = dpop_key_parse(K_JWK, strlen(K_JWK));
	char	   *proof = dpop_proof(key, "POST", URL, "n", "access.token", NOW);
	char	   *thumbprint;

	ok(part_is(proof, 0, "{\"alg\":\"ES256K\",\"typ\":\"dpop+jwt\",\"jwk\":{"
			   K_PUBLIC "}}", NULL), "a proof by a secp256k1 key");
	ok(part_is(proof, 1, "{\"htm\":\"POST\",\"htu\":\"" URL "\","
			   "\"iat\":1795200000,\"nonce\":\"n\","
			   "\"ath\":\"PSNtqEkMNFiG3pgpLNAoaIClbEqFZjUVl6LZdlwXXBs\"}",
			   "jti"), "its claims");
	ok(verified_by(proof, "secp256k1", KX, KY), "OpenSSL verifies it");
	ok(!verified_by(proof, "secp256k1", KY, KX) && !verified(proof),
	   "by this key only");
	thumbprint = dpop_key_thumbprint(key);
	ok(thumbprint != NULL && strlen(thumbprint) == 43, "it has a thumbprint");
	dpop_free(thumbprint);
	dpop_free(proof);
	dpop_key_free(key);

	key = dpop_key_parse(JWK_384, strlen(JWK_384));
	proof = dpop_proof(key, "GET", URL, NULL, NULL, NOW);
	ok(proof != NULL && strstr(proof, ".") != NULL &&
	   strlen(strrchr(proof, '.')) == 129, "one by a P-384 key");
	dpop_free(proof);
	dpop_key_free(key);
}

static void
test_assertions(void)
{
	DpopKey    *key = dpop_key_parse(JWK, strlen(JWK));
	char	   *text = dpop_client_assertion(key, "https://app.example/c.json",
											 "https://as.example", NOW);

	ok(part_is(text, 0, "{\"alg\":\"ES256\",\"kid\":\"key-1\"}", NULL),
	   "an assertion names the key");
	ok(part_is(text, 1, "{\"iss\":\"https://app.example/c.json\","
			   "\"sub\":\"https://app.example/c.json\","
			   "\"aud\":\"https://as.example\",\"iat\":1795200000,"
			   "\"exp\":1795200060}", "jti"),
	   "it is for this issuer, and a minute");
	ok(verified(text), "OpenSSL verifies its signature");
	dpop_free(text);
	dpop_key_free(key);

	key = dpop_key_parse("{" PUBLIC_JWK ",\"d\":\"" D "\"}",
						 strlen("{" PUBLIC_JWK ",\"d\":\"" D "\"}"));
	ok(dpop_client_assertion(key, "a", "b", NOW) == NULL,
	   "a key without kid cannot");
	dpop_key_free(key);
}

#define TOKENS "\"iss\":\"https://as.example\",\"sub\":\"did:plc:a\"," \
	"\"aud\":\"https://pds.example/\",\"scope\":\"atproto repo:" RSVP "\"," \
	"\"refresh_token\":\"ref-1\",\"access_token\":\"at-1\"," \
	"\"token_type\":\"DPoP\",\"expires_at\":\"2026-11-20T18:40:00.000Z\""
#define SESSION(tokens, rest) \
	"{\"dpopJwk\":" JWK ",\"tokenSet\":{" tokens "}" rest "}"
#define FULL SESSION(TOKENS ",\"later\":[1]", \
	",\"authMethod\":{\"method\":\"private_key_jwt\",\"kid\":\"key-1\"},\"x\":{\"y\":null}")

static OAuthSession *
parse(const char *text)
{
	const char *problem;
	OAuthSession *session = oauth_session_parse(text, strlen(text), &problem);

	if ((session == NULL) == (problem == NULL))
		ok(false, "either a session or a problem");
	if (problem != NULL && (strstr(problem, "at-1") || strstr(problem, "ref-1")))
		ok(false, "a problem shows a token: %s", problem);
	return session;
}

/* The session's text is that JSON. */
static bool
stored_as(OAuthSession *session, const char *expected)
{
	char	   *text = oauth_session_text(session);
	json_t	   *given = json_loads(text, 0, NULL);
	json_t	   *wanted = json_loads(expected, 0, NULL);
	bool		same = wanted != NULL && json_equal(given, wanted);

	if (!same)
		fprintf(stderr, "%s\n", text);
	json_decref(given);
	json_decref(wanted);
	dpop_free(text);
	return same;
}

static void
test_sessions(void)
{
	static const char *const bad[] = {
		"", "[]", "null", "{}", "{\"dpopJwk\":" JWK "}",
		SESSION("", ""),
		"{\"dpopJwk\":{},\"tokenSet\":{" TOKENS "}}",
		"{\"dpopJwk\":\"x\",\"tokenSet\":{" TOKENS "}}",
		"{\"tokenSet\":{" TOKENS "}}",
		SESSION(TOKENS, ",\"authMethod\":{}"),
		SESSION(TOKENS, ",\"authMethod\":1"),
		SESSION(TOKENS, ",\"authMethod\":{\"method\":\"client_secret\"}"),
	};
	static const char *const members[] = {
		"sub", "iss", "aud", "scope", "access_token", "token_type"
	};
	OAuthSession *session = parse(FULL);

	ok(session != NULL && strcmp(session->did, "did:plc:a") == 0 &&
	   strcmp(session->issuer, "https://as.example") == 0 &&
	   strcmp(session->audience, "https://pds.example/") == 0 &&
	   strcmp(session->access_token, "at-1") == 0 &&
	   strcmp(session->refresh_token, "ref-1") == 0 &&
	   session->confidential && strcmp(session->kid, "key-1") == 0 &&
	   session->expires_at == NOW, "a session of the library");
	ok(stored_as(session, FULL), "what is not known in it stays");
	ok(!oauth_is_stale(session->expires_at, NOW - 60) &&
	   oauth_is_stale(session->expires_at, NOW - 1) &&
	   oauth_is_stale(session->expires_at, NOW + 1), "when it is stale");
	oauth_session_free(session);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(parse(bad[i]) == NULL, "not a session: %.100s", bad[i]);
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
		for (int how = 0; how < 4; how++)
		{
			json_t	   *json = json_loads(FULL, 0, NULL);
			json_t	   *tokens = json_object_get(json, "tokenSet");
			char	   *text;

			if (how == 0)
				json_object_del(tokens, members[i]);
			else
				json_object_set_new(tokens, members[i],
									how == 1 ? json_integer(1) :
									how == 2 ? json_null() :
									json_stringn("x\0y", 3));
			text = json_dumps(json, 0);
			ok(parse(text) == NULL, "%s, spoilt %d", members[i], how);
			free(text);
			json_decref(json);
		}
	session = parse(SESSION(TOKENS, ""));
	ok(session != NULL && !session->confidential && session->legacy,
	   "an older session does not say how the client signs in");
	oauth_session_free(session);
	session = parse(SESSION(TOKENS, ",\"authMethod\":{\"method\":\"none\"}"));
	ok(session != NULL && !session->confidential && !session->legacy,
	   "a public client's");
	oauth_session_free(session);
	oauth_session_free(NULL);
}

static bool
renew(OAuthSession *session, const char *response)
{
	json_t	   *json = json_loads(response, 0, NULL);
	const char *problem;
	bool		done = oauth_session_renew(session, json,
										   "https://pds2.example", NOW,
										   &problem);

	json_decref(json);
	return done;
}

static void
test_renewal(void)
{
	OAuthSession *session = parse(FULL);
	static const char *const bad[] = {
		"{}", "[]",
		"{\"access_token\":\"a\",\"token_type\":\"Bearer\",\"sub\":\"did:plc:a\"}",
		"{\"access_token\":\"a\",\"token_type\":\"DPoP\",\"sub\":\"did:plc:b\"}",
		"{\"access_token\":\"a\",\"token_type\":\"DPoP\"}",
		"{\"access_token\":\"a\\nb\",\"token_type\":\"DPoP\",\"sub\":\"did:plc:a\"}",
		"{\"access_token\":\"\",\"token_type\":\"DPoP\",\"sub\":\"did:plc:a\"}",
		"{\"access_token\":\"a\",\"token_type\":\"DPoP\",\"sub\":\"did:plc:a\",\"refresh_token\":1}",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(!renew(session, bad[i]) && stored_as(session, FULL),
		   "no token response: %s", bad[i]);
	ok(renew(session, "{\"access_token\":\"at-2\",\"token_type\":\"DPoP\","
			 "\"sub\":\"did:plc:a\",\"refresh_token\":\"ref-2\","
			 "\"expires_in\":3600,\"scope\":\"atproto\",\"z\":1}") &&
	   stored_as(session, SESSION("\"iss\":\"https://as.example\","
								  "\"sub\":\"did:plc:a\",\"aud\":\"https://pds2.example/\","
								  "\"scope\":\"atproto\",\"refresh_token\":\"ref-2\","
								  "\"access_token\":\"at-2\",\"token_type\":\"DPoP\","
								  "\"expires_at\":\"2026-11-20T19:40:00.000Z\",\"later\":[1]",
								  ",\"authMethod\":{\"method\":\"private_key_jwt\",\"kid\":\"key-1\"},\"x\":{\"y\":null}")),
	   "new tokens, the rest stays");
	ok(strcmp(session->access_token, "at-2") == 0 &&
	   session->expires_at == NOW + 3600, "... and are what is used");
	ok(renew(session, "{\"access_token\":\"at-3\",\"token_type\":\"dpop\","
			 "\"sub\":\"did:plc:a\"}") &&
	   strcmp(session->refresh_token, "ref-2") == 0 &&
	   session->expires_at == 0 && !oauth_is_stale(session->expires_at, NOW),
	   "what is left out is as it was; an end that is not said is none");
	oauth_session_free(session);
}

static void
test_scopes(void)
{
	static const struct
	{
		const char *scope;
		const char *allows;		/* letters of create, update, delete */
	}			cases[] =
	{
		{"", ""},
		{"atproto", ""},
		{"atproto repo:" RSVP, "cud"},
		{"repo:" RSVP "?action=create", "c"},
		{"repo:" RSVP "?action=create&action=update atproto", "cu"},
		{"repo?collection=" RSVP, "cud"},
		{"repo?collection=a.b.c&collection=" RSVP "&action=delete", "d"},
		{"repo?action=delete", ""},
		{"repo:*", "cud"},
		{"repo:*?action=update", "u"},
		{"repo:" RSVP "2 repo:a", ""},
		{"repo:community.lexicon.calendar", ""},
		{"repos:" RSVP " rep repo", ""},
		{"transition:generic", "cud"},
		{"transition:email", ""},
		{"include:a.b.c", "cud"},
		{"repo:" RSVP "?action=create repo:" RSVP "?action=delete", "cd"},
		{"repo:" RSVP "?", "cud"},
		{"repo:" RSVP "?action", "cud"},
		{"repo:" RSVP "?action=", ""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		char		allowed[4] = "";

		if (oauth_scope_allows(cases[i].scope, RSVP, "create"))
			strcat(allowed, "c");
		if (oauth_scope_allows(cases[i].scope, RSVP, "update"))
			strcat(allowed, "u");
		if (oauth_scope_allows(cases[i].scope, RSVP, "delete"))
			strcat(allowed, "d");
		ok(strcmp(allowed, cases[i].allows) == 0, "scope \"%s\": %s",
		   cases[i].scope, allowed);
	}
}

static void
test_discovery(void)
{
	static const struct
	{
		const char *document;
		const char *pds;
		const char *issuer;
	}			resources[] =
	{
		{"{\"resource\":\"https://pds.example\",\"authorization_servers\":[\"https://as.example\"]}", "https://pds.example", "https://as.example"},
		{"{\"resource\":\"https://pds.example/\",\"authorization_servers\":[\"https://as.example\",\"https://b\"]}", "https://PDS.example", "https://as.example"},
		{"{\"resource\":\"https://other.example\",\"authorization_servers\":[\"https://as.example\"]}", "https://pds.example", NULL},
		{"{\"resource\":\"https://pds.example\",\"authorization_servers\":[]}", "https://pds.example", NULL},
		{"{\"resource\":\"https://pds.example\",\"authorization_servers\":[\"https://as.example/path\"]}", "https://pds.example", NULL},
		{"{\"resource\":\"https://pds.example\",\"authorization_servers\":[1]}", "https://pds.example", NULL},
		{"{\"resource\":\"https://pds.example\"}", "https://pds.example", NULL},
		{"{\"authorization_servers\":[\"https://as.example\"]}", "https://pds.example", NULL},
		{"[]", "https://pds.example", NULL},
	};
	static const struct
	{
		const char *document;
		bool		fit;
	}			servers[] =
	{
		{"{\"issuer\":\"https://as.example\",\"token_endpoint\":\"https://as.example/token\"}", true},
		{"{\"issuer\":\"https://as.example\",\"token_endpoint\":\"https://else.example/token\"}", true},
		{"{\"issuer\":\"https://as.example/\",\"token_endpoint\":\"https://as.example/token\"}", false},
		{"{\"issuer\":\"https://evil.example\",\"token_endpoint\":\"https://as.example/token\"}", false},
		{"{\"issuer\":\"https://as.example\",\"token_endpoint\":\"http://as.example/token\"}", false},
		{"{\"issuer\":\"https://as.example\",\"token_endpoint\":\"file:///etc/passwd\"}", false},
		{"{\"issuer\":\"https://as.example\"}", false},
		{"{\"token_endpoint\":\"https://as.example/token\"}", false},
	};

	for (size_t i = 0; i < sizeof(resources) / sizeof(resources[0]); i++)
	{
		json_t	   *json = json_loads(resources[i].document, 0, NULL);
		const char *issuer = oauth_issuer_of_resource(json, resources[i].pds);

		ok(resources[i].issuer == NULL ? issuer == NULL : issuer != NULL &&
		   strcmp(issuer, resources[i].issuer) == 0,
		   "resource: %s", resources[i].document);
		json_decref(json);
	}
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++)
	{
		json_t	   *json = json_loads(servers[i].document, 0, NULL);

		ok((oauth_token_endpoint(json, "https://as.example") != NULL) ==
		   servers[i].fit, "server: %s", servers[i].document);
		json_decref(json);
	}
	ok(oauth_same_origin("https://a/b?c", "HTTPS://A"), "the same origin");
	ok(!oauth_same_origin("https://a", "http://a") &&
	   !oauth_same_origin("https://a", "https://a:444") &&
	   !oauth_same_origin("https://a", "https://ab") &&
	   !oauth_same_origin("a", "a"), "other origins");
}

static void
test_refresh(void)
{
	OAuthSession *public = parse(SESSION(TOKENS, ",\"authMethod\":{\"method\":\"none\"}"));
	OAuthSession *private = parse(FULL);
	DpopKey    *key = dpop_key_parse(JWK, strlen(JWK));
	char	   *form = oauth_refresh_form(public, "http://localhost?a=b&c", NULL,
										  NOW);

	ok(form != NULL && strcmp(form, "grant_type=refresh_token&client_id="
							  "http%3A%2F%2Flocalhost%3Fa%3Db%26c"
							  "&refresh_token=ref-1") == 0,
	   "the form of a public client");
	dpop_free(form);
	form = oauth_refresh_form(public, "c", key, NOW);
	ok(form != NULL && strstr(form, "assertion") == NULL,
	   "... also if there is a key");
	dpop_free(form);
	form = oauth_refresh_form(private, "https://c", key, NOW);
	ok(form != NULL && strstr(form, "&client_assertion_type=urn%3Aietf%3A"
							  "params%3Aoauth%3Aclient-assertion-type%3A"
							  "jwt-bearer&client_assertion=ey") != NULL,
	   "that of a confidential one");
	dpop_free(form);
	ok(oauth_refresh_form(private, "c", NULL, NOW) == NULL,
	   "... not without its key");
	oauth_session_free(private);
	private = parse(SESSION(TOKENS, ",\"authMethod\":{\"method\":"
							"\"private_key_jwt\",\"kid\":\"key-2\"}"));
	ok(oauth_refresh_form(private, "c", key, NOW) == NULL,
	   "... nor with another one");
	oauth_session_free(private);
	private = parse(SESSION(TOKENS, ""));
	form = oauth_refresh_form(private, "c", key, NOW);
	ok(form != NULL && strstr(form, "assertion") != NULL,
	   "an older session: a client that has a key uses it");
	dpop_free(form);
	form = oauth_refresh_form(private, "c", NULL, NOW);
	ok(form != NULL && strstr(form, "assertion") == NULL,
	   "... and one that has none does not");
	dpop_free(form);
	dpop_key_free(key);
	oauth_session_free(public);
	oauth_session_free(private);
}

static void
test_verdicts(void)
{
	static const struct
	{
		int			status;
		bool		sent;
		const char *error;
		OAuthVerdict verdict;
	}			cases[] =
	{
		{200, true, NULL, OAUTH_RENEWED},
		{400, true, "use_dpop_nonce", OAUTH_NONCE},
		{400, true, "invalid_dpop_proof", OAUTH_PROOF},
		{400, true, "invalid_grant", OAUTH_OVER},
		{401, true, "invalid_client", OAUTH_CLIENT},
		{400, true, "invalid_client_metadata", OAUTH_CLIENT},
		{400, true, "unauthorized_client", OAUTH_CLIENT},
		{400, true, "invalid_request", OAUTH_CLIENT},
		{0, false, NULL, OAUTH_LATER},
		{0, true, NULL, OAUTH_UNKNOWN},
		{500, true, "server_error", OAUTH_UNKNOWN},
		{502, true, NULL, OAUTH_UNKNOWN},
		{500, true, "invalid_grant", OAUTH_UNKNOWN},
		{429, true, NULL, OAUTH_LATER},
		{302, true, NULL, OAUTH_LATER},
		{400, true, NULL, OAUTH_LATER},
		{404, true, "whatever", OAUTH_LATER},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ok(oauth_judge_refresh(cases[i].status, cases[i].sent,
							   cases[i].error) == cases[i].verdict,
		   "%d %s", cases[i].status, cases[i].error ? cases[i].error : "");
	ok(oauth_clock_offset(NOW, NOW) == 0 &&
	   oauth_clock_offset(NOW + 5, NOW) == 0 &&
	   oauth_clock_offset(NOW + 600, NOW) == 600 &&
	   oauth_clock_offset(NOW - 600, NOW) == -600 &&
	   oauth_clock_offset(-1, NOW) == 0 &&
	   oauth_clock_offset(NOW * 2L, NOW) == 0, "the clock's offset");
}

int
main(void)
{
	test_keys();
	test_proofs();
	test_other_curves();
	test_assertions();
	test_sessions();
	test_renewal();
	test_scopes();
	test_discovery();
	test_refresh();
	test_verdicts();
	return done_testing();
}
