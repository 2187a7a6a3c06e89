/*-------------------------------------------------------------------------
 *
 * http_request.c
 *		What is asked, and whether it may be.
 *
 * Servers are chosen by strangers.  What they may be is decided in address.c
 * and enforced here three times: on the URL, on each address dialled, and on
 * the connection at hand when a request goes out, which may have been opened
 * under rules that have changed since.
 *
 *-------------------------------------------------------------------------
 */
#include "http_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "address.h"
#include "wipe.h"

#define CONNECT_TIMEOUT_MS	5000L
#define MAX_CONTACT			200

/* A connection older than this is not used again, as addresses change */
#define MAX_CONNECTION_AGE	600L

/* Slower than this many bytes a second for so long is given up on */
#define LOW_SPEED_BYTES		64L
#ifndef HTTP_LOW_SPEED_SECONDS
#define HTTP_LOW_SPEED_SECONDS	20L
#endif

#ifndef RSVP_SYNC_VERSION
#define RSVP_SYNC_VERSION	"devel"
#endif

/* Settings, our own copies */
static char *insecure_hosts = NULL;
static char user_agent[MAX_CONTACT + 64] = "rsvp_sync/" RSVP_SYNC_VERSION;

static bool set_safety(Transfer *t);
static bool set_limits(Transfer *t);
static bool set_callbacks(Transfer *t);
static bool set_question(Transfer *t);
static void set_forgetting(Transfer *t);
static int	on_resolve(void *resolver, void *reserved, void *arg);
static curl_socket_t on_open_socket(void *arg, curlsocktype purpose,
									struct curl_sockaddr *address);
static int	on_request(void *arg, char *peer_ip, char *local_ip,
					   int peer_port, int local_port);
static void add_header(Transfer *t, const char *line);
static bool is_token(const char *s);
static bool has_control(const char *s);

void
http_configure(const char *new_insecure_hosts, const char *contact)
{
	free(insecure_hosts);
	insecure_hosts = new_insecure_hosts ? strdup(new_insecure_hosts) : NULL;

	strcpy(user_agent, "rsvp_sync/" RSVP_SYNC_VERSION);
	if (contact != NULL && *contact != '\0')
	{
		char		printable[MAX_CONTACT];

		http_copy_printable(printable, contact, sizeof(printable));
		snprintf(user_agent, sizeof(user_agent), "rsvp_sync/%s (+%s)",
				 RSVP_SYNC_VERSION, printable);
	}
}

HttpRequest *
http_new(const char *method, const char *url, long timeout_ms,
		 size_t max_body, void *owner)
{
	Transfer   *t = calloc(1, sizeof(Transfer));

	if (t == NULL)
		return NULL;
	t->req.owner = owner;
	t->req.body = "";
	t->timeout_ms = timeout_ms > 0 ? timeout_ms : 1;
	t->max_body = max_body;
	t->url = strdup(url);
	if (t->url == NULL)
	{
		free(t);
		return NULL;
	}
	if (is_token(method) && strlen(method) <= HTTP_MAX_METHOD)
		strcpy(t->method, method);
	else
		http_refuse(t, HTTP_FORBIDDEN, "method is malformed");

	/* libcurl would wait for "100 Continue" before it sends a larger body */
	add_header(t, "Expect:");
	return &t->req;
}

void
http_header(HttpRequest *req, const char *name, const char *value)
{
	Transfer   *t = (Transfer *) req;
	size_t		len = strlen(name) + strlen(value) + 3;
	char	   *line;

	/* A line feed in a value would smuggle in headers of its own */
	if (!is_token(name) || has_control(value))
	{
		http_refuse(t, HTTP_FORBIDDEN, "request header is malformed");
		return;
	}
	line = malloc(len);
	if (line == NULL)
	{
		http_refuse(t, HTTP_LOCAL, "out of memory");
		return;
	}

	/* "Name;" is how libcurl is told of a header with an empty value */
	if (*value != '\0')
		snprintf(line, len, "%s: %s", name, value);
	else
		snprintf(line, len, "%s;", name);
	add_header(t, line);
	explicit_bzero(line, len);
	free(line);
}

void
http_body(HttpRequest *req, const char *content_type, const char *data,
		  size_t len)
{
	Transfer   *t = (Transfer *) req;

	t->has_body = true;
	if (content_type != NULL)
		http_header(req, "Content-Type", content_type);
	else
		add_header(t, "Content-Type:");
	http_buffer_free(&t->question);
	if (!http_buffer_append(&t->question, data, len))
		http_refuse(t, HTTP_LOCAL, "out of memory");
}

void
http_once(HttpRequest *req)
{
	((Transfer *) req)->once = true;
}

void
http_connect_only(HttpRequest *req)
{
	((Transfer *) req)->connect_only = true;
}

const char *
http_user_agent(void)
{
	return user_agent;
}

/*
 * First gate: the URL as written.
 */
bool
http_permit(Transfer *t)
{
	char		origin[ADDRESS_MAX_ORIGIN];
	char		why[HTTP_DETAIL_SIZE];
	AddressVerdict verdict = address_check_url(t->url, insecure_hosts,
											   why, sizeof(why));

	if (verdict == ADDRESS_REFUSED)
	{
		http_refuse(t, HTTP_FORBIDDEN, why);
		return false;
	}
	if (!address_url_origin(t->url, origin, sizeof(origin)))
	{
		http_refuse(t, HTTP_FORBIDDEN, "URL has no origin");
		return false;
	}
	t->exempt = (verdict == ADDRESS_EXEMPT);
	t->port = atoi(strrchr(origin, ':') + 1);
	return true;
}

/*
 * Tell libcurl all about the transfer.
 */
bool
http_set_options(Transfer *t)
{
	set_forgetting(t);
	return set_safety(t) && set_limits(t) && set_callbacks(t) &&
		set_question(t);
}

/*
 * In the functions below one failed option fails the whole: an option that
 * this libcurl does not know may be the one that keeps us safe.
 */
#define SET(option, value) \
	(curl_easy_setopt(t->easy, (option), (value)) == CURLE_OK)

/*
 * What a request may do, wherever it goes.
 */
static bool
set_safety(Transfer *t)
{
	return SET(CURLOPT_NOSIGNAL, 1L) &&
		SET(CURLOPT_PROTOCOLS_STR, t->exempt ? "http,https" : "https") &&
		SET(CURLOPT_REDIR_PROTOCOLS_STR, "https") &&
		SET(CURLOPT_FOLLOWLOCATION, 0L) &&
		SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) &&
		SET(CURLOPT_PROXY, "") &&
		SET(CURLOPT_NOPROXY, "*") &&
		SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) &&
		SET(CURLOPT_ACCEPT_ENCODING, NULL) &&
		SET(CURLOPT_SSL_VERIFYPEER, 1L) &&
		SET(CURLOPT_SSL_VERIFYHOST, 2L) &&
		SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2) &&
		SET(CURLOPT_HTTP_VERSION, t->connect_only ?
			(long) CURL_HTTP_VERSION_1_1 : (long) CURL_HTTP_VERSION_2TLS) &&
		SET(CURLOPT_CONNECT_ONLY, t->connect_only ? 1L : 0L) &&
		SET(CURLOPT_PIPEWAIT, 1L) &&
		SET(CURLOPT_TCP_KEEPALIVE, 1L) &&
		SET(CURLOPT_FRESH_CONNECT, t->once ? 1L : 0L) &&

	/* Without it, giving up on a slow name waits for the resolver's thread */
		SET(CURLOPT_QUICK_EXIT, 1L);
}

/* An idle connection is not to hold what it brought last. */
static CURLcode
on_ssl_ctx(CURL *easy, void *ctx, void *arg)
{
	SSL_CTX_set_options(ctx, SSL_OP_CLEANSE_PLAINTEXT);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	return CURLE_OK;
}

/*
 * With another TLS library it is left to that one.
 */
static void
set_forgetting(Transfer *t)
{
	const char *tls = curl_version_info(CURLVERSION_NOW)->ssl_version;

	if (tls != NULL && strncmp(tls, "OpenSSL/", 8) == 0)
		(void) SET(CURLOPT_SSL_CTX_FUNCTION, on_ssl_ctx);
}

/*
 * How long it may take and how much it may bring.
 */
static bool
set_limits(Transfer *t)
{
	long		connect_ms = CONNECT_TIMEOUT_MS;

	if (connect_ms > t->timeout_ms)
		connect_ms = t->timeout_ms;
	return SET(CURLOPT_TIMEOUT_MS, t->timeout_ms) &&
		SET(CURLOPT_CONNECTTIMEOUT_MS, connect_ms) &&
		SET(CURLOPT_LOW_SPEED_LIMIT, LOW_SPEED_BYTES) &&
		SET(CURLOPT_LOW_SPEED_TIME, (long) HTTP_LOW_SPEED_SECONDS) &&
		SET(CURLOPT_MAXLIFETIME_CONN, MAX_CONNECTION_AGE) &&
		SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) t->max_body);
}

static bool
set_callbacks(Transfer *t)
{
	return SET(CURLOPT_PRIVATE, t) &&
		SET(CURLOPT_ERRORBUFFER, t->curl_says) &&
		SET(CURLOPT_RESOLVER_START_FUNCTION, on_resolve) &&
		SET(CURLOPT_RESOLVER_START_DATA, t) &&
		SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket) &&
		SET(CURLOPT_OPENSOCKETDATA, t) &&
		SET(CURLOPT_PREREQFUNCTION, on_request) &&
		SET(CURLOPT_PREREQDATA, t) &&
		SET(CURLOPT_WRITEFUNCTION, http_on_body) &&
		SET(CURLOPT_WRITEDATA, t) &&
		SET(CURLOPT_HEADERFUNCTION, http_on_header) &&
		SET(CURLOPT_HEADERDATA, t);
}

/*
 * What is asked.  POST means a body, even an empty one; CUSTOMREQUEST only
 * changes the word on the request line.
 */
static bool
set_question(Transfer *t)
{
	bool		post = t->has_body || strcmp(t->method, "POST") == 0;
	bool		ok;

	if (post && !t->has_body)
		http_body(&t->req, NULL, "", 0);
	if (t->unfit)
		return false;

	ok = SET(CURLOPT_URL, t->url) &&
		SET(CURLOPT_USERAGENT, user_agent) &&
		SET(CURLOPT_HTTPHEADER, t->headers);
	if (ok && post)
		ok = SET(CURLOPT_POST, 1L) &&
			SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->question.len) &&
			SET(CURLOPT_POSTFIELDS, t->question.data);
	else if (ok && strcmp(t->method, "HEAD") == 0)
		ok = SET(CURLOPT_NOBODY, 1L);
	else if (ok)
		ok = SET(CURLOPT_HTTPGET, 1L);
	return ok && SET(CURLOPT_CUSTOMREQUEST, t->method);
}

static int
on_resolve(void *resolver, void *reserved, void *arg)
{
	((Transfer *) arg)->begun = true;
	return 0;
}

/*
 * Second gate: the address about to be dialled, whatever name led to it.
 */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *t = arg;
	int			fd;

	t->begun = true;
	if (!t->exempt && !address_is_public(&address->addr))
	{
		t->blocked = true;
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd < 0)
	{
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			errno == ENOMEM)
			t->starved = true;
		return CURL_SOCKET_BAD;
	}
	return fd;
}

/*
 * Third gate: the connection on which the request goes out now.  It may be
 * one kept from a time when its host was still exempt.
 *
 * From here on the server may have seen the request.  A second call means
 * that a kept connection turned out to be dead and libcurl tries once more.
 */
static int
on_request(void *arg, char *peer_ip, char *local_ip, int peer_port,
		   int local_port)
{
	Transfer   *t = arg;

	t->begun = true;
	if (peer_port != t->port ||
		(!t->exempt && !address_is_public_text(peer_ip)))
	{
		t->blocked = true;
		return CURL_PREREQFUNC_ABORT;
	}
	t->req.resent = t->req.sent;
	t->req.sent = true;
	return CURL_PREREQFUNC_OK;
}

/*
 * Note why the request cannot be made.  The first reason is kept.
 */
void
http_refuse(Transfer *t, HttpFault fault, const char *detail)
{
	if (t->unfit)
		return;
	t->unfit = true;
	t->req.fault = fault;
	http_copy_printable(t->req.detail, detail, sizeof(t->req.detail));
}

/*
 * Append, and keep a NUL behind the end.  Limits are the callers' to check.
 */
bool
http_buffer_append(Buffer *buffer, const char *data, size_t len)
{
	if (buffer->len + len + 1 > buffer->size)
	{
		size_t		size = (buffer->len + len + 1) * 2;
		char	   *bigger = malloc(size);

		if (bigger == NULL)
			return false;
		if (buffer->data != NULL)
			memcpy(bigger, buffer->data, buffer->len);
		/* realloc() would leave what it moves behind. */
		wipe_free(buffer->data);
		buffer->data = bigger;
		buffer->size = size;
	}
	if (len > 0)
		memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	buffer->data[buffer->len] = '\0';
	return true;
}

void
http_buffer_free(Buffer *buffer)
{
	if (buffer->data != NULL)
		explicit_bzero(buffer->data, buffer->size);
	free(buffer->data);
	*buffer = (Buffer) {0};
}

/*
 * Copy what fits.  Texts from the network go into logs and tables of any
 * encoding, so that only printable ASCII is let through.
 */
void
http_copy_printable(char *to, const char *from, size_t size)
{
	for (; *from && size > 1; from++, size--)
		*to++ = (*from >= ' ' && *from < 0x7f) ? *from : '?';
	*to = '\0';
}

static void
add_header(Transfer *t, const char *line)
{
	struct curl_slist *longer = curl_slist_append(t->headers, line);

	if (longer == NULL)
		http_refuse(t, HTTP_LOCAL, "out of memory");
	else
		t->headers = longer;
}

/*
 * Is this a word that HTTP allows as a method or as a header's name?
 */
static bool
is_token(const char *s)
{
	return *s != '\0' &&
		s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~")] == '\0';
}

static bool
has_control(const char *s)
{
	for (; *s; s++)
		if ((unsigned char) *s < ' ' || *s == 0x7f)
			return true;
	return false;
}
