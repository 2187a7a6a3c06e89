/*-------------------------------------------------------------------------
 *
 * http_internal.h
 *		What the three files of the HTTP engine share; for nobody else.
 *
 * http.c drives the transfers, http_request.c says what is asked and whether
 * it may be, http_answer.c takes what comes back and judges it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_HTTP_INTERNAL_H
#define RSVP_SYNC_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "http.h"

#if LIBCURL_VERSION_NUM < 0x075700
#error "rsvp_sync needs libcurl 7.87 or later"
#endif

#define HTTP_MAX_METHOD		15

typedef enum TransferState
{
	PREPARING,					/* http_new() until http_start() */
	IN_FLIGHT,					/* on the list of that name, with a handle */
	FINISHED,					/* on the list of that name */
	HANDED_OUT					/* the caller's alone */
} TransferState;

typedef struct Buffer
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buffer;

/* What is behind an HttpRequest */
typedef struct Transfer
{
	HttpRequest req;			/* must be first */

	/* its place in the engine (http.c) */
	struct Transfer *prev;
	struct Transfer *next;
	TransferState state;
	CURL	   *easy;			/* only while IN_FLIGHT */
	double		started;

	/* the question (http_request.c) */
	char		method[HTTP_MAX_METHOD + 1];
	char	   *url;
	struct curl_slist *headers;
	Buffer		question;
	bool		has_body;
	bool		once;			/* on a new connection only */
	bool		connect_only;	/* ask nothing, keep the connection */
	long		timeout_ms;
	size_t		max_body;

	/* the permission (http_request.c) */
	bool		exempt;			/* from the address rules, at its own port */
	int			port;

	/* what was seen on the way, by any callback */
	bool		unfit;			/* cannot be made; fault and detail say why */
	bool		begun;			/* left the line for a free connection */
	bool		blocked;		/* an address was refused */
	bool		starved;		/* we ran out of something here */
	bool		overflowed;		/* the answer went beyond a limit */

	/* the answer (http_answer.c) */
	char		curl_says[CURL_ERROR_SIZE];
	Buffer		answer;
	Buffer		answer_headers; /* name NUL value NUL ... */
	size_t		header_bytes;	/* of all header lines, also dropped ones */
	char	   *location;
} Transfer;

/* http_request.c */
extern bool http_permit(Transfer *t);
extern bool http_set_options(Transfer *t);
extern void http_refuse(Transfer *t, HttpFault fault, const char *detail);
extern bool http_buffer_append(Buffer *buffer, const char *data, size_t len);
extern void http_buffer_free(Buffer *buffer);
extern void http_copy_printable(char *to, const char *from, size_t size);

/* http_answer.c */
extern size_t http_on_body(char *data, size_t size, size_t n, void *arg);
extern size_t http_on_header(char *data, size_t size, size_t n, void *arg);
extern void http_take_answer(Transfer *t, CURLcode code);

#endif							/* RSVP_SYNC_HTTP_INTERNAL_H */
