/*-------------------------------------------------------------------------
 *
 * oauth.c
 *		An OAuth session as @atproto/oauth-client-node stores it, and what an
 *		authorization server is asked and says.
 *
 * Values only: knows no account, no lane, no request, and touches nothing.
 * What is not known in a stored session stays in it, so that the library
 * finds again what a later version of it has stored.
 *
 * Beware of jansson's json_object(): see credential.c.
 *
 *-------------------------------------------------------------------------
 */
#include "oauth.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A token is not used in the last seconds of its life. */
#define STALE_SECONDS		3
/* Servers accept proofs that are some minutes off; leave small ones alone. */
#define OFFSET_TOLERATED	5
#define OFFSET_MAX			(365 * 24 * 3600L)
/* Longer than any token a header can carry. */
#define TEXT_MAX			(16 * 1024)

/*
 * Members
 */

/* A member that is text without a NUL, of any length that fits; else NULL. */
static const char *
text_of(json_t *object, const char *member)
{
	json_t	   *value = json_object_get(object, member);

	if (!json_is_string(value) || json_string_length(value) > TEXT_MAX ||
		strlen(json_string_value(value)) != json_string_length(value))
		return NULL;
	return json_string_value(value);
}

/* A token goes into a header: visible ASCII only. */
static const char *
token_of(json_t *object, const char *member)
{
	const char *text = text_of(object, member);

	if (text == NULL || *text == '\0')
		return NULL;
	for (const char *c = text; *c != '\0'; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return NULL;
	return text;
}

/* "2026-11-20T19:49:29.000Z"; 0 if it is anything else */
static time_t
time_of(const char *text)
{
	struct tm	tm = {0};
	int			end = 0;

	if (text == NULL ||
		sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon,
			   &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &end) != 6)
		return 0;
	if (text[end] == '.')
		end += 1 + (int) strspn(text + end + 1, "0123456789");
	if (strcmp(text + end, "Z") != 0 && strcmp(text + end, "+00:00") != 0)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return timegm(&tm);
}

static json_t *
text_of_time(time_t at)
{
	char		text[40];
	struct tm	tm;

	if (gmtime_r(&at, &tm) == NULL)
		return json_null();
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
	return json_string(text);
}

/*
 * The session
 */

/* Where the texts are, after the JSON was made or changed. */
static void
point_at_members(OAuthSession *session)
{
	json_t	   *tokens = json_object_get(session->json, "tokenSet");

	session->did = text_of(tokens, "sub");
	session->issuer = token_of(tokens, "iss");
	session->audience = token_of(tokens, "aud");
	session->scope = text_of(tokens, "scope");
	session->access_token = token_of(tokens, "access_token");
	session->refresh_token = token_of(tokens, "refresh_token");
	session->expires_at = time_of(text_of(tokens, "expires_at"));
}

static bool
is_url(const char *text)
{
	return text != NULL && (strncasecmp(text, "https://", 8) == 0 ||
							strncasecmp(text, "http://", 7) == 0);
}

/*
 * How the client says who it is: an object with a method, or, from older
 * versions of the library, nothing.
 */
static const char *
read_method(OAuthSession *session)
{
	json_t	   *method = json_object_get(session->json, "authMethod");
	const char *name = json_is_object(method) ? text_of(method, "method") :
		json_string_value(method);

	session->legacy = method == NULL || json_is_null(method) ||
		(name != NULL && strcmp(name, "legacy") == 0);
	if (session->legacy)
		return NULL;
	if (name == NULL)
		return "\"authMethod\" has no \"method\".";
	if (strcmp(name, "none") == 0)
		return NULL;
	if (strcmp(name, "private_key_jwt") != 0)
		return "\"authMethod\" is neither none nor private_key_jwt.";
	session->confidential = true;
	session->kid = text_of(method, "kid");
	return NULL;
}

/* What keeps it from being used, or NULL. */
static const char *
what_is_wrong(const OAuthSession *session)
{
	json_t	   *tokens = json_object_get(session->json, "tokenSet");
	const char *type = text_of(tokens, "token_type");

	if (!json_is_object(tokens))
		return "It has no \"tokenSet\".";
	if (session->did == NULL || strncmp(session->did, "did:", 4) != 0)
		return "\"tokenSet.sub\" is not a DID.";
	if (!is_url(session->issuer))
		return "\"tokenSet.iss\" is not a URL.";
	if (!is_url(session->audience))
		return "\"tokenSet.aud\" is not a URL.";
	if (session->access_token == NULL)
		return "\"tokenSet.access_token\" is missing or not a token.";
	if (session->refresh_token == NULL &&
		json_object_get(tokens, "refresh_token") != NULL)
		return "\"tokenSet.refresh_token\" is not a token.";
	if (type == NULL || strcasecmp(type, "DPoP") != 0)
		return "\"tokenSet.token_type\" is not DPoP.";
	if (session->scope == NULL)
		return "\"tokenSet.scope\" is missing.";
	return NULL;
}

static const char *
read_key(OAuthSession *session)
{
	json_t	   *jwk = json_object_get(session->json, "dpopJwk");
	char	   *text = json_is_object(jwk) ? json_dumps(jwk, JSON_COMPACT) :
		NULL;

	if (text != NULL)
		session->key = dpop_key_parse(text, strlen(text));
	dpop_free(text);
	return session->key ? NULL :
		"\"dpopJwk\" is not the JWK of a private key.";
}

OAuthSession *
oauth_session_parse(const char *text, size_t len, const char **problem)
{
	OAuthSession *session = calloc(1, sizeof(OAuthSession));

	dpop_wipe_on_free();
	*problem = "Out of memory.";
	if (session == NULL)
		return NULL;
	session->json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(session->json))
	{
		point_at_members(session);
		*problem = what_is_wrong(session);
		if (*problem == NULL)
			*problem = read_method(session);
		if (*problem == NULL)
			*problem = read_key(session);
	}
	else
		*problem = "It is not a JSON object.";
	if (*problem == NULL)
		return session;
	oauth_session_free(session);
	return NULL;
}

void
oauth_session_free(OAuthSession *session)
{
	if (session == NULL)
		return;
	dpop_key_free(session->key);
	json_decref(session->json);
	free(session);
}

char *
oauth_session_text(const OAuthSession *session)
{
	return json_dumps(session->json, JSON_COMPACT);
}

bool
oauth_is_stale(time_t expires_at, time_t now)
{
	return expires_at != 0 && expires_at - STALE_SECONDS <= now;
}

/*
 * New tokens
 */

static const char *
wrong_response(const OAuthSession *session, json_t *response)
{
	const char *sub = text_of(response, "sub");
	const char *type = text_of(response, "token_type");

	if (token_of(response, "access_token") == NULL)
		return "the answer to a refresh has no access token";
	if (type == NULL || strcasecmp(type, "DPoP") != 0)
		return "the answer to a refresh has no DPoP token";
	if (sub == NULL || strcmp(sub, session->did) != 0)
		return "the authorization server answered for another account";
	if (json_object_get(response, "refresh_token") != NULL &&
		token_of(response, "refresh_token") == NULL)
		return "the answer to a refresh has an unusable refresh token";
	return NULL;
}

/* Members a server leaves out are as they were; so says RFC 6749. */
static void
take_over(json_t *tokens, json_t *response, const char *member)
{
	if (text_of(response, member) != NULL)
		json_object_set(tokens, member, json_object_get(response, member));
}

bool
oauth_session_renew(OAuthSession *session, json_t *response,
					const char *audience, time_t now, const char **problem)
{
	json_t	   *tokens = json_object_get(session->json, "tokenSet");
	json_t	   *life = json_object_get(response, "expires_in");

	*problem = wrong_response(session, response);
	if (*problem != NULL)
		return false;
	take_over(tokens, response, "access_token");
	take_over(tokens, response, "refresh_token");
	take_over(tokens, response, "token_type");
	take_over(tokens, response, "scope");
	if (json_is_number(life) && json_number_value(life) > 0 &&
		json_number_value(life) < 1e9)
		json_object_set_new(tokens, "expires_at",
							text_of_time(now +
										 (time_t) json_number_value(life)));
	else
		json_object_del(tokens, "expires_at");
	if (!oauth_same_origin(audience, session->audience))
	{
		/* A URL, hence with a path. */
		size_t		len = strlen(audience);
		bool		slash = len > 0 && audience[len - 1] == '/';

		json_object_set_new(tokens, "aud",
							json_sprintf("%s%s", audience, slash ? "" : "/"));
	}
	point_at_members(session);
	return true;
}

/*
 * Scopes
 */

/* Does a query string have name=value, or no such name at all? */
static bool
query_allows(const char *query, size_t len, const char *name,
			 const char *value, bool if_absent)
{
	const char *end = query + len;
	size_t		name_len = strlen(name);
	bool		named = false;

	while (query < end)
	{
		const char *stop = memchr(query, '&', end - query);
		size_t		n = (stop ? stop : end) - query;

		if (n > name_len && query[name_len] == '=' &&
			strncmp(query, name, name_len) == 0)
		{
			const char *given = query + name_len + 1;
			size_t		given_len = n - name_len - 1;

			named = true;
			if ((given_len == strlen(value) &&
				 strncmp(given, value, given_len) == 0) ||
				(given_len == 1 && *given == '*'))
				return true;
		}
		query += n + 1;
	}
	return !named && if_absent;
}

/* One scope of the list: repo:NSID?action=..., repo?collection=NSID&... */
static bool
one_scope_allows(const char *scope, size_t len, const char *collection,
				 const char *action)
{
	const char *mark = memchr(scope, '?', len);
	size_t		head = mark ? (size_t) (mark - scope) : len;
	const char *query = mark ? mark + 1 : scope + len;
	size_t		query_len = len - (query - scope);

	/* What a set includes is for the server to know. */
	if (len >= 8 && strncmp(scope, "include:", 8) == 0)
		return true;
	if (len == 18 && strncmp(scope, "transition:generic", 18) == 0)
		return true;
	if (head < 4 || strncmp(scope, "repo", 4) != 0 ||
		(head > 4 && scope[4] != ':'))
		return false;
	if (!query_allows(query, query_len, "action", action, true))
		return false;
	if (head == 4)
		return query_allows(query, query_len, "collection", collection, false);
	return (head == 6 && scope[5] == '*') ||
		(head - 5 == strlen(collection) &&
		 strncmp(scope + 5, collection, head - 5) == 0);
}

bool
oauth_scope_allows(const char *scope, const char *collection,
				   const char *action)
{
	while (*scope != '\0')
	{
		size_t		len = strcspn(scope, " ");

		if (one_scope_allows(scope, len, collection, action))
			return true;
		scope += len;
		scope += strspn(scope, " ");
	}
	return false;
}

/*
 * Discovery
 */

/* The length of scheme, host and port of a URL; 0 if it is none. */
static size_t
origin_length(const char *url)
{
	const char *host;

	if (!is_url(url))
		return 0;
	host = strstr(url, "://") + 3;
	return host - url + strcspn(host, "/?#");
}

bool
oauth_same_origin(const char *url, const char *other)
{
	size_t		len = origin_length(url);

	return len > 0 && len == origin_length(other) &&
		strncasecmp(url, other, len) == 0;
}

/* An origin and nothing behind it but, perhaps, a slash. */
static bool
is_origin(const char *url)
{
	size_t		len = origin_length(url);

	return len > 0 && (url[len] == '\0' || strcmp(url + len, "/") == 0);
}

const char *
oauth_issuer_of_resource(json_t *document, const char *pds)
{
	const char *resource = token_of(document, "resource");
	json_t	   *servers = json_object_get(document, "authorization_servers");
	const char *issuer = json_string_value(json_array_get(servers, 0));

	if (resource == NULL || !oauth_same_origin(resource, pds) ||
		!is_origin(issuer))
		return NULL;
	return issuer;
}

const char *
oauth_token_endpoint(json_t *document, const char *issuer)
{
	const char *said = token_of(document, "issuer");
	const char *endpoint = token_of(document, "token_endpoint");

	if (said == NULL || strcmp(said, issuer) != 0 || !is_url(endpoint))
		return NULL;
	/* Never by plain HTTP where the server itself is not. */
	if (strncasecmp(issuer, "https://", 8) == 0 &&
		strncasecmp(endpoint, "https://", 8) != 0)
		return NULL;
	return endpoint;
}

/*
 * A refresh
 */

/* Append name=value; false: out of memory, or no value */
static bool
add_field(char **form, const char *name, const char *value)
{
	size_t		used = *form ? strlen(*form) : 0;
	char	   *longer;
	char	   *at;

	if (value == NULL ||
		(longer = malloc(used + strlen(name) + 3 * strlen(value) + 3)) == NULL)
		return false;
	memcpy(longer, *form ? *form : "", used);
	at = longer + used;
	at += sprintf(at, "%s%s=", used > 0 ? "&" : "", name);
	for (; *value != '\0'; value++)
	{
		unsigned char c = (unsigned char) *value;

		if (isalnum(c) || strchr("-._~", c) != NULL)
			*at++ = c;
		else
			at += sprintf(at, "%%%02X", c);
	}
	*at = '\0';
	dpop_free(*form);
	*form = longer;
	return true;
}

/* The client's word for who it is. */
static bool
add_assertion(char **form, const OAuthSession *session,
			  const char *client_id, const DpopKey *client_key, time_t now)
{
	char	   *assertion;
	bool		added;

	/* The server insists on the key the session began with. */
	if (client_key == NULL || dpop_key_id(client_key) == NULL ||
		(session->kid != NULL &&
		 strcmp(session->kid, dpop_key_id(client_key)) != 0))
		return false;
	assertion = dpop_client_assertion(client_key, client_id, session->issuer,
									  now);
	added = add_field(form, "client_assertion_type",
					  "urn:ietf:params:oauth:client-assertion-type:"
					  "jwt-bearer") &&
		add_field(form, "client_assertion", assertion);
	dpop_free(assertion);
	return added;
}

char *
oauth_refresh_form(const OAuthSession *session, const char *client_id,
				   const DpopKey *client_key, time_t now)
{
	char	   *form = NULL;

	if (add_field(&form, "grant_type", "refresh_token") &&
		add_field(&form, "client_id", client_id) &&
		((!session->confidential &&
		  (client_key == NULL || !session->legacy)) ||
		 add_assertion(&form, session, client_id, client_key, now)) &&
		add_field(&form, "refresh_token", session->refresh_token))
		return form;
	dpop_free(form);
	return NULL;
}

OAuthVerdict
oauth_judge_refresh(int status, bool sent, const char *error)
{
	static const struct
	{
		const char *error;
		OAuthVerdict verdict;
	}			known[] =
	{
		{"use_dpop_nonce", OAUTH_NONCE},
		{"invalid_dpop_proof", OAUTH_PROOF},
		{"invalid_grant", OAUTH_OVER},
		{"invalid_client", OAUTH_CLIENT},
		{"invalid_client_metadata", OAUTH_CLIENT},
		{"unauthorized_client", OAUTH_CLIENT},
		{"invalid_request", OAUTH_CLIENT},
		{"unsupported_grant_type", OAUTH_CLIENT},
		{"slow_down", OAUTH_LATER},
		{"temporarily_unavailable", OAUTH_LATER},
	};

	if (status == 0)
		return sent ? OAUTH_UNKNOWN : OAUTH_LATER;
	if (status >= 200 && status < 300)
		return OAUTH_RENEWED;
	/* A server that broke down may have spent the token first. */
	if (status >= 500)
		return OAUTH_UNKNOWN;
	for (size_t i = 0;
		 error != NULL && i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].error, error) == 0)
			return known[i].verdict;
	return OAUTH_LATER;
}

long
oauth_clock_offset(time_t server, time_t now)
{
	long		offset = (long) difftime(server, now);

	if (server <= 0 || labs(offset) <= OFFSET_TOLERATED ||
		labs(offset) > OFFSET_MAX)
		return 0;
	return offset;
}
