/*-------------------------------------------------------------------------
 *
 * xrpc.c
 *		Requests and answers of the AT Protocol as C values.
 *
 * Builds requests (URL, headers, body) and judges answers: by the XRPC error
 * name first, by the HTTP status where the name is unknown.  Knows nothing
 * of accounts, keys or tables, and starts nothing.
 *
 * JSON is jansson's, hence malloc'ed: an Answer is to be forgotten.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <curl/curl.h>
#include <time.h>

#include "lib/stringinfo.h"
#include "utils/formatting.h"

#include "address.h"
#include "syntax.h"
#include "xrpc.h"

/* Answers are read up to this size. */
#define MAX_DOCUMENT	(512 * 1024)
#define MAX_HANDLE		4096
#define MAX_ANSWER		(4 * 1024 * 1024)

typedef struct NamedClass
{
	const char *name;
	AnswerClass class;
} NamedClass;

/* XRPC error names, most of them observed at the reference PDS. */
static const NamedClass named_classes[] = {
	{"InvalidRequest", ANSWER_PERMANENT},
	{"InvalidSwap", ANSWER_REREAD},
	{"ExpiredToken", ANSWER_REFRESH},
	{"InvalidToken", ANSWER_REFRESH},
	{"RecordNotFound", ANSWER_ABSENT},
	{"RepoNotFound", ANSWER_USER},
	{"RepoTakendown", ANSWER_USER},
	{"RepoDeactivated", ANSWER_USER},
	{"RepoSuspended", ANSWER_USER},
	{"AuthMissing", ANSWER_REFRESH},
	{"AuthenticationRequired", ANSWER_USER},
	{"AuthFactorTokenRequired", ANSWER_USER},
	{"AccountTakedown", ANSWER_USER},
	{"AccountDeactivated", ANSWER_USER},
	{"AccountNotFound", ANSWER_USER},
	{"ScopeMissingError", ANSWER_USER},
	{"invalid_token", ANSWER_REFRESH},
	{"use_dpop_nonce", ANSWER_REFRESH},
	{"invalid_dpop_proof", ANSWER_REFRESH},
	{"invalid_grant", ANSWER_USER},
	/* The client's key or metadata, not the session: an operator's matter. */
	{"invalid_client", ANSWER_USER},
	{"invalid_client_metadata", ANSWER_USER},
	{"unauthorized_client", ANSWER_USER},
	{"invalid_request", ANSWER_USER},
	{"MissingTokenId", ANSWER_REFRESH},
	{"UntrustedIss", ANSWER_REFRESH},
	{"JwtExpired", ANSWER_REFRESH},
	{"Forbidden", ANSWER_PERMANENT},
	{"NotAcceptable", ANSWER_PERMANENT},
	{"UnsupportedMediaType", ANSWER_PERMANENT},
	{"PayloadTooLarge", ANSWER_PERMANENT},
	{"PayloadTooLargeError", ANSWER_PERMANENT},
	{"XRPCNotSupported", ANSWER_RETRY}, /* not where we thought the PDS is */
	{"RateLimitExceeded", ANSWER_LIMIT},
	{"InternalServerError", ANSWER_RETRY},
	{"MethodNotImplemented", ANSWER_PERMANENT},
	{"UpstreamFailure", ANSWER_RETRY},
	{"NotEnoughResources", ANSWER_RETRY},
	{"UpstreamTimeout", ANSWER_RETRY},
	{"server_error", ANSWER_RETRY},
	{"HandleNotFound", ANSWER_USER},
	{"DidNotFound", ANSWER_USER},
	{"DidDeactivated", ANSWER_USER},
};

static const char *const class_names[] = {
	[ANSWER_OK] = "ok",
	[ANSWER_ABSENT] = "absent",
	[ANSWER_RETRY] = "retry",
	[ANSWER_LIMIT] = "limit",
	[ANSWER_REFRESH] = "refresh",
	[ANSWER_REREAD] = "reread",
	[ANSWER_USER] = "user",
	[ANSWER_PERMANENT] = "permanent",
};

const char *
xrpc_class_name(AnswerClass class)
{
	return class_names[class];
}

/* The class of an error whose name says nothing. */
static AnswerClass
class_of_status(int status)
{
	if (status < 200)
		return ANSWER_RETRY;	/* no answer */
	if (status < 300)
		return ANSWER_OK;
	if (status == 429)
		return ANSWER_LIMIT;
	if (status == 401)
		return ANSWER_REFRESH;
	if (status == 404 || status == 408 || status == 425 ||
		(status >= 500 && status != 501))
		return ANSWER_RETRY;
	if (status >= 300 && status < 400)
		return ANSWER_RETRY;	/* not followed; a portal, or a move */
	return ANSWER_PERMANENT;
}

static bool
class_of_name(const char *name, AnswerClass *class)
{
	for (int i = 0; i < lengthof(named_classes); i++)
		if (strcmp(named_classes[i].name, name) == 0)
		{
			*class = named_classes[i].class;
			return true;
		}
	if (strncmp(name, "BadJwt", strlen("BadJwt")) == 0)
	{
		*class = ANSWER_REFRESH;
		return true;
	}
	return false;
}

/* The error of a WWW-Authenticate header: true if there is one. */
bool
xrpc_challenge_error(const char *challenge, char name[XRPC_NAME_SIZE])
{
	const char *at = challenge;

	while (at != NULL && (at = strchr(at, '=')) != NULL)
	{
		bool		quoted = at[1] == '"';
		const char *value = at + (quoted ? 2 : 1);
		size_t		len = strcspn(value, quoted ? "\"" : " ,\t");

		if (at - challenge >= 5 && pg_strncasecmp(at - 5, "error", 5) == 0 &&
			(at - challenge == 5 || strchr(" ,\t", at[-6]) != NULL) &&
			len > 0 && len < XRPC_NAME_SIZE)
		{
			memcpy(name, value, len);
			name[len] = '\0';
			return true;
		}
		at = value + len;
	}
	return false;
}

/*
 * name: of the XRPC or OAuth error in the body, or NULL.  challenge: the
 * WWW-Authenticate header, or NULL; resource servers name OAuth errors there.
 */
AnswerClass
xrpc_classify(int status, const char *name, const char *challenge)
{
	char		challenged[XRPC_NAME_SIZE];
	AnswerClass class;

	if (status < 300)
		return class_of_status(status);
	if (name != NULL && class_of_name(name, &class))
		return class;
	if (xrpc_challenge_error(challenge, challenged) &&
		class_of_name(challenged, &class))
		return class;
	return class_of_status(status);
}

/* What a stranger wrote, made safe to show and to store. */
static void
copy_clean(char *to, size_t size, const char *from)
{
	size_t		n = 0;

	for (; from != NULL && *from != '\0' && n + 1 < size; from++)
		to[n++] = (*from >= 0x20 && *from < 0x7f) ? *from : '?';
	to[n] = '\0';
}

/* How long the server wants to be left alone, in ms. */
static long
asked_wait(HttpRequest *req)
{
	const char *after = http_answer_header(req, "Retry-After");
	const char *reset = http_answer_header(req, "RateLimit-Reset");
	long		seconds = 0;

	if (after != NULL && isdigit((unsigned char) *after))
		seconds = strtol(after, NULL, 10);
	else if (reset != NULL && isdigit((unsigned char) *reset))
	{
		/* Epoch seconds by this PDS, a number of seconds by others. */
		seconds = strtol(reset, NULL, 10);
		if (seconds > 1000000000L)
			seconds -= (long) time(NULL);
	}
	return Min(Max(seconds, 0), 24 * 3600L) * 1000;
}

/* The limit this answer tells of, whatever else it says. */
static RateLimit
told_limit(HttpRequest *req)
{
	const char *date = http_answer_header(req, "Date");
	int64		sent = date ? (int64) curl_getdate(date, NULL) : 0;

	return budget_parse(http_answer_header(req, "RateLimit-Limit"),
						http_answer_header(req, "RateLimit-Remaining"),
						http_answer_header(req, "RateLimit-Reset"),
						http_answer_header(req, "RateLimit-Policy"),
						sent, (int64) time(NULL));
}

static void
judge_fault(HttpRequest *req, Answer *answer)
{
	answer->host_fault = req->fault == HTTP_DNS ||
		req->fault == HTTP_CONNECT || req->fault == HTTP_TLS ||
		req->fault == HTTP_TIMEOUT || req->fault == HTTP_BROKEN;
	answer->class = ANSWER_RETRY;
	answer->sure = !req->sent;
	strlcpy(answer->name, http_fault_name(req->fault), XRPC_NAME_SIZE);
	copy_clean(answer->message, XRPC_MESSAGE_SIZE, req->detail);
}

static void
judge_error(HttpRequest *req, Answer *answer, json_t *body)
{
	const char *name = xrpc_text(body, "error");
	const char *message = xrpc_text(body, "message");
	const char *challenge = http_answer_header(req, "WWW-Authenticate");
	char		challenged[XRPC_NAME_SIZE] = "";
	AnswerClass class;

	if (message == NULL)
		message = xrpc_text(body, "error_description");
	answer->class = xrpc_classify(req->status, name, challenge);
	xrpc_challenge_error(challenge, challenged);
	answer->known = (name != NULL && class_of_name(name, &class)) ||
		class_of_name(challenged, &class);
	if (name == NULL && challenged[0] != '\0')
		name = challenged;
	answer->named = name != NULL;
	answer->host_fault = !answer->named && req->status >= 502 &&
		req->status <= 504;
	/* A server that broke down, or a stranger, may have done it first. */
	answer->sure = answer->named && req->status < 500 &&
		answer->class != ANSWER_REREAD;
	if (answer->class == ANSWER_LIMIT || req->status == 503)
		answer->wait_ms = asked_wait(req);
	if (name != NULL)
		copy_clean(answer->name, XRPC_NAME_SIZE, name);
	else
		snprintf(answer->name, XRPC_NAME_SIZE, "http_%d", req->status);
	copy_clean(answer->message, XRPC_MESSAGE_SIZE,
			   message ? message : "no XRPC error in the answer");
}

/*
 * An answer that says it is well, and is not what was asked for: something
 * may have happened there, but we cannot read what.
 */
void
xrpc_unreadable(Answer *answer, const char *what)
{
	xrpc_odd(answer, "unreadable_answer", what);
}

/* A well-formed answer that is not what was asked for, either. */
void
xrpc_odd(Answer *answer, const char *name, const char *what)
{
	answer->class = ANSWER_RETRY;
	answer->sure = false;
	strlcpy(answer->name, name, XRPC_NAME_SIZE);
	strlcpy(answer->message, what, XRPC_MESSAGE_SIZE);
}

/* Judge a finished request. */
void
xrpc_judge(HttpRequest *req, Answer *answer)
{
	json_t	   *body;

	memset(answer, 0, sizeof(*answer));
	answer->status = req->status;
	answer->limit = told_limit(req);
	if (req->fault != HTTP_ANSWERED)
	{
		judge_fault(req, answer);
		return;
	}
	body = json_loadb(req->body, req->body_len,
					  JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (req->status >= 200 && req->status < 300)
	{
		if (json_is_object(body))
		{
			answer->body = body;
			return;
		}
		xrpc_unreadable(answer, "the answer is not a JSON object");
	}
	else
		judge_error(req, answer, body);
	json_decref(body);
}

void
xrpc_forget(Answer *answer)
{
	json_decref(answer->body);
	answer->body = NULL;
}

/* A text member of an object, or NULL. */
const char *
xrpc_text(json_t *object, const char *member)
{
	json_t	   *value = json_object_get(object, member);

	/* A NUL inside would cut the text for everybody who reads it. */
	if (!json_is_string(value) ||
		strlen(json_string_value(value)) != json_string_length(value))
		return NULL;
	return json_string_value(value);
}

/* A text member that is a CID, hence of bounded length, or NULL. */
const char *
xrpc_cid(json_t *object, const char *member)
{
	const char *text = xrpc_text(object, member);

	return text != NULL && syntax_is_cid(text, strlen(text)) ? text : NULL;
}

static void
append_encoded(StringInfo url, const char *text)
{
	for (; *text; text++)
	{
		unsigned char c = (unsigned char) *text;

		if (isalnum(c) || strchr("-._~", c) != NULL)
			appendStringInfoChar(url, c);
		else
			appendStringInfo(url, "%%%02X", c);
	}
}

/* params: name, value, name, value, ..., NULL; a NULL value is left out */
HttpRequest *
xrpc_get(const char *host, const char *method, const char *const *params,
		 long timeout_ms)
{
	StringInfoData url;
	char		before = '?';
	HttpRequest *req;

	initStringInfo(&url);
	appendStringInfo(&url, "%s/xrpc/%s", host, method);
	for (; params[0] != NULL; params += 2)
	{
		if (params[1] == NULL)
			continue;
		appendStringInfo(&url, "%c%s=", before, params[0]);
		append_encoded(&url, params[1]);
		before = '&';
	}
	req = http_new("GET", url.data, timeout_ms, MAX_ANSWER, NULL);
	if (req != NULL)
		http_header(req, "Accept", "application/json");
	pfree(url.data);
	return req;
}

static void
secret_header(HttpRequest *req, const char *name, const char *scheme,
			  const char *secret)
{
	/* Not by psprintf(), which leaves pieces behind. */
	size_t		size = strlen(scheme) + strlen(secret) + 1;
	char	   *value = palloc(size);

	snprintf(value, size, "%s%s", scheme, secret);
	http_header(req, name, value);
	explicit_bzero(value, size);
	pfree(value);
}

/* False: a proof could not be made. */
static bool
authorize(HttpRequest *req, const char *url, const Authorization *by)
{
	char	   *proof;

	secret_header(req, "Authorization", by->key ? "DPoP " : "Bearer ",
				  by->token);
	if (by->key == NULL)
		return true;
	proof = dpop_proof(by->key, "POST", url, by->nonce, by->token,
					   time(NULL) + by->clock_offset);
	if (proof == NULL)
		return false;
	http_header(req, "DPoP", proof);
	dpop_free(proof);
	return true;
}

/* by: NULL for nobody; body: JSON, or NULL for none at all */
HttpRequest *
xrpc_post(const char *host, const char *method, const Authorization *by,
		  const char *body, long timeout_ms)
{
	char	   *url = psprintf("%s/xrpc/%s", host, method);
	HttpRequest *req = http_new("POST", url, timeout_ms, MAX_ANSWER, NULL);

	if (req != NULL)
	{
		http_header(req, "Accept", "application/json");
		if (body != NULL)
			http_body(req, "application/json", body, strlen(body));
		if (by != NULL && !authorize(req, url, by))
		{
			http_free(req);
			req = NULL;
		}
	}
	pfree(url);
	return req;
}

/* A document at a well-known place. */
HttpRequest *
xrpc_document(const char *host, const char *path, long timeout_ms)
{
	bool		slash = *host != '\0' && host[strlen(host) - 1] == '/';
	char	   *url = psprintf("%.*s%s", (int) strlen(host) - slash, host,
							   path);
	HttpRequest *req = http_new("GET", url, timeout_ms, MAX_DOCUMENT, NULL);

	pfree(url);
	if (req != NULL)
		http_header(req, "Accept", "application/json");
	return req;
}

/*
 * Who has the DID document of a DID; NULL for methods we do not know.  Of
 * did:web the AT Protocol takes a host alone, no path; a port, and http, only
 * for hosts that are exempt for development.
 */
char *
xrpc_identity_origin(const char *did, const char *plc_url,
					 const char *insecure_hosts)
{
	const char *host = did + strlen("did:web:");
	size_t		len;
	const char *port;
	char	   *origin;

	if (strncmp(did, "did:plc:", 8) == 0)
		return pstrdup(plc_url);
	if (strncmp(did, "did:web:", 8) != 0)
		return NULL;
	len = strspn(host, "abcdefghijklmnopqrstuvwxyz"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
	if (len == 0)
		return NULL;
	port = pg_strncasecmp(host + len, "%3A", 3) == 0 ? host + len + 3 : NULL;
	if (host[len] != '\0' && (port == NULL || *port == '\0' ||
							  port[strspn(port, "0123456789")] != '\0'))
		return NULL;
	origin = psprintf("http://%.*s%s%s", (int) len, host, port ? ":" : "",
					  port ? port : "");
	if (address_check_url(origin, insecure_hosts, NULL, 0) == ADDRESS_EXEMPT)
		return origin;
	pfree(origin);
	return port ? NULL : psprintf("https://%.*s", (int) len, host);
}

/* origin: as xrpc_identity_origin() found it */
HttpRequest *
xrpc_did_document(const char *did, const char *origin, long timeout_ms)
{
	char	   *url;
	HttpRequest *req;

	if (strncmp(did, "did:plc:", 8) == 0)
		url = psprintf("%s/%s", origin, did);
	else
		url = psprintf("%s/.well-known/did.json", origin);
	req = http_new("GET", url, timeout_ms, MAX_DOCUMENT, NULL);
	pfree(url);
	return req;
}

/*
 * Who says whose a handle is: its host.  Of one that is exempt for
 * development, the port that is listed.
 */
char *
xrpc_handle_origin(const char *handle, const char *insecure_hosts)
{
	size_t		len = strlen(handle);
	const char *item = insecure_hosts ? insecure_hosts : "";

	while (*item != '\0')
	{
		item += strspn(item, ", ");
		if (strncmp(item, handle, len) == 0 && item[len] == ':')
			return psprintf("http://%.*s", (int) strcspn(item, ", "), item);
		item += strcspn(item, ", ");
	}
	return psprintf("https://%s", handle);
}

HttpRequest *
xrpc_handle_document(const char *origin, long timeout_ms)
{
	char	   *url = psprintf("%s/.well-known/atproto-did", origin);
	HttpRequest *req = http_new("GET", url, timeout_ms, MAX_HANDLE, NULL);

	pfree(url);
	return req;
}

static bool
ends_with(const char *text, const char *end)
{
	size_t		n = strlen(text);
	size_t		m = strlen(end);

	return n >= m && strcmp(text + n - m, end) == 0;
}

bool
xrpc_is_document_of(json_t *document, const char *did)
{
	const char *id = xrpc_text(document, "id");

	return id != NULL && strcmp(id, did) == 0;
}

/* Scheme, host and port in lower case; NULL if it is anything else. */
static char *
service_origin(const char *endpoint)
{
	char		normal[ADDRESS_MAX_ORIGIN];
	const char *host = endpoint ? strstr(endpoint, "://") : NULL;
	size_t		len;

	if (host == NULL || !address_url_origin(endpoint, normal, sizeof(normal)))
		return NULL;
	host += strlen("://");
	len = strcspn(host, "/?#");
	if (host[len] != '\0' && strcmp(host + len, "/") != 0)
		return NULL;
	return asc_tolower(endpoint, host + len - endpoint);
}

/* The PDS a DID document names, as it is stored, or NULL. */
char *
xrpc_pds_of_document(json_t *document)
{
	json_t	   *service;
	size_t		i;

	json_array_foreach(json_object_get(document, "service"), i, service)
	{
		const char *service_id = xrpc_text(service, "id");
		const char *type = xrpc_text(service, "type");

		if (service_id != NULL && ends_with(service_id, "#atproto_pds") &&
			type != NULL && strcmp(type, "AtprotoPersonalDataServer") == 0)
			return service_origin(xrpc_text(service, "serviceEndpoint"));
	}
	return NULL;
}

/* The handle a DID document claims, unverified: for display only. */
const char *
xrpc_handle_of_document(json_t *document)
{
	json_t	   *name = json_array_get(json_object_get(document,
													  "alsoKnownAs"), 0);
	const char *text = json_string_value(name);

	if (text == NULL || strncmp(text, "at://", 5) != 0 ||
		!syntax_is_handle(text + 5, strlen(text + 5)))
		return NULL;
	return text + 5;
}
