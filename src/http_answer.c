/*-------------------------------------------------------------------------
 *
 * http_answer.c
 *		What comes back, and whose doing it is when nothing does.
 *
 * What strangers may send is bounded in bytes here, and in time by the options
 * of http_request.c.  The callbacks count before they keep.
 *
 *-------------------------------------------------------------------------
 */
#include "http_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define MAX_HEADER_BYTES	(64 * 1024)

static void read_results(Transfer *t);
static HttpFault judge(Transfer *t, CURLcode code);
static HttpFault fault_of(CURLcode code);
static bool out_of_descriptors(void);

time_t
http_date(const char *text)
{
	return curl_getdate(text, NULL);
}

const char *
http_answer_header(HttpRequest *req, const char *name)
{
	const char *last = NULL;
	const char *value;

	for (int n = 0; (value = http_answer_header_nth(req, name, n)); n++)
		last = value;
	return last;
}

const char *
http_answer_header_nth(HttpRequest *req, const char *name, int n)
{
	const Buffer *headers = &((Transfer *) req)->answer_headers;
	const char *p = headers->data;

	while (p != NULL && p < headers->data + headers->len)
	{
		const char *value = p + strlen(p) + 1;

		if (strcasecmp(p, name) == 0 && n-- == 0)
			return value;
		p = value + strlen(value) + 1;
	}
	return NULL;
}

const char *
http_fault_name(HttpFault fault)
{
	static const char *const names[] = {
		[HTTP_ANSWERED] = "answered",
		[HTTP_DNS] = "dns",
		[HTTP_CONNECT] = "connect",
		[HTTP_TLS] = "tls",
		[HTTP_TIMEOUT] = "timeout",
		[HTTP_BROKEN] = "broken",
		[HTTP_TOO_LARGE] = "too_large",
		[HTTP_FORBIDDEN] = "forbidden",
		[HTTP_LOCAL] = "local"
	};

	return names[fault];
}

size_t
http_on_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *t = arg;
	size_t		len = size * n;

	if (len > t->max_body - t->answer.len)
		t->overflowed = true;
	else if (!http_buffer_append(&t->answer, data, len))
		t->starved = true;
	else
		return len;
	return CURL_WRITEFUNC_ERROR;
}

/*
 * Keep one header line.  A status line starts a new set: what came before it
 * belonged to an interim answer such as 103.
 */
size_t
http_on_header(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *t = arg;
	size_t		len = size * n;
	const char *end = data + len;
	const char *colon = memchr(data, ':', len);
	const char *value;

	t->header_bytes += len;
	if (t->header_bytes > MAX_HEADER_BYTES)
	{
		t->overflowed = true;
		return CURL_WRITEFUNC_ERROR;
	}
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		t->answer_headers.len = 0;
		return len;
	}
	if (colon == NULL || memchr(data, '\0', len) != NULL)
		return len;

	for (value = colon + 1; value < end && strchr(" \t", *value); value++)
		;
	while (end > value && strchr(" \t\r\n", end[-1]))
		end--;
	if (!http_buffer_append(&t->answer_headers, data, colon - data) ||
		!http_buffer_append(&t->answer_headers, "", 1) ||
		!http_buffer_append(&t->answer_headers, value, end - value) ||
		!http_buffer_append(&t->answer_headers, "", 1))
	{
		t->starved = true;
		return CURL_WRITEFUNC_ERROR;
	}
	return len;
}

/*
 * The transfer has ended: fill in its results.
 */
void
http_take_answer(Transfer *t, CURLcode code)
{
	read_results(t);
	t->req.fault = judge(t, code);
	if (t->req.fault != HTTP_ANSWERED)
	{
		http_buffer_free(&t->answer);
		http_copy_printable(t->req.detail, *t->curl_says ? t->curl_says :
							curl_easy_strerror(code), sizeof(t->req.detail));
	}
	if (t->answer.data != NULL)
		t->req.body = t->answer.data;
	t->req.body_len = t->answer.len;
}

static void
read_results(Transfer *t)
{
	long		status = 0;
	char	   *location = NULL;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	t->req.status = (int) status;

	/* The caller can still read the header itself if memory is short here */
	curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &location);
	if (location != NULL)
		t->location = strdup(location);
	t->req.location = t->location;
}

/*
 * Whose doing was it?  What our callbacks saw counts for more than libcurl's
 * code, which knows nothing of their reasons.
 */
static HttpFault
judge(Transfer *t, CURLcode code)
{
	HttpFault	fault = fault_of(code);

	if (code == CURLE_OK)
		return HTTP_ANSWERED;
	if (t->starved)
		return HTTP_LOCAL;
	if (t->overflowed)
		return HTTP_TOO_LARGE;

	/* Of several addresses one may have been public and yet not answered */
	if (t->blocked && (code == CURLE_COULDNT_CONNECT ||
					   code == CURLE_ABORTED_BY_CALLBACK))
	{
		strcpy(t->curl_says, "host resolves to an address that is not public");
		return HTTP_FORBIDDEN;
	}

	/* It never left the line for a free connection */
	if (code == CURLE_OPERATION_TIMEDOUT && !t->begun)
		return HTTP_LOCAL;

	/* libcurl's words for a header line beyond its limit, and for HTTP/0.9 */
	if (code == CURLE_OUT_OF_MEMORY && t->req.sent)
		return HTTP_TOO_LARGE;
	if (code == CURLE_UNSUPPORTED_PROTOCOL && t->req.sent)
		return HTTP_BROKEN;

	/* A resolver or a TLS library without descriptors blames the peer */
	if (!t->req.sent && fault != HTTP_FORBIDDEN && out_of_descriptors())
		return HTTP_LOCAL;
	return fault;
}

static HttpFault
fault_of(CURLcode code)
{
	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
			return HTTP_DNS;
		case CURLE_COULDNT_CONNECT:
			return HTTP_CONNECT;
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_CIPHER:
			return HTTP_TLS;
		case CURLE_OPERATION_TIMEDOUT:
			return HTTP_TIMEOUT;
		case CURLE_FILESIZE_EXCEEDED:
#if LIBCURL_VERSION_NUM >= 0x080600
		case CURLE_TOO_LARGE:	/* a header */
#endif
			return HTTP_TOO_LARGE;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_URL_MALFORMAT:
			return HTTP_FORBIDDEN;
		case CURLE_OUT_OF_MEMORY:
		case CURLE_FAILED_INIT:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_NO_CONNECTION_AVAILABLE:
			return HTTP_LOCAL;
		default:
			return HTTP_BROKEN;
	}
}

static bool
out_of_descriptors(void)
{
	int			fd = fcntl(http_epoll_fd(), F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return true;
	close(fd);
	return false;
}
