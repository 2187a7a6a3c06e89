/*-------------------------------------------------------------------------
 *
 * websocket.c
 *		The client's side of a WebSocket (RFC 6455), over any bytes.
 *
 * The upgrade is ours; frames, masks, pongs, closing and the validity of
 * UTF-8 are wslay's.  Messages are put together here and not by wslay, which
 * would keep every fragment in a block of its own: a message of a million
 * fragments of one byte is to cost no more than any other.
 *
 * What a hostile server can make us keep is bounded: the headers of its
 * answer, one message, what one pump reads, and the pongs that it does not
 * read.  Nobody but the caller is waited for.
 *
 * May touch: nothing but the caller's bytes.  No postgres.h, as wslay calls
 * back from within itself, where an error must not jump out.
 *
 *-------------------------------------------------------------------------
 */
#include "websocket.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <wslay/wslay.h>

/* Pongs and the like that the peer may leave unread */
#define MAX_QUEUED			64

/* RFC 6455, section 1.3 */
#define ACCEPT_GUID			"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define KEY_BYTES			16
#define BASE64_SIZE(n)		(((n) + 2) / 3 * 4 + 1)

#define DETAIL_SIZE			160

typedef struct Message
{
	struct Message *next;
	size_t		len;
	char		text[];
} Message;

struct WebSocket
{
	WebSocketIo io;
	WebSocketState state;
	char		detail[DETAIL_SIZE];

	/* the upgrade */
	char	   *request;
	size_t		request_len;
	size_t		request_sent;
	char		key[BASE64_SIZE(KEY_BYTES)];
	char	   *answer;			/* WEBSOCKET_MAX_HEADERS and a NUL */
	size_t		answer_len;
	int			status;
	char		refusal[WEBSOCKET_REFUSAL_SIZE];

	/* what came behind the answer, read before anything else */
	size_t		rest_at;

	/* frames */
	wslay_event_context_ptr frames;
	bool		in_control;		/* the frame under way is of control */
	char	   *text;			/* the message under way */
	size_t		text_len;
	size_t		text_size;
	Message    *first;			/* whole messages */
	Message    *last;
	Message    *handed_out;
	size_t		budget;			/* that this pump may still read */
	bool		more;
	bool		ended;			/* no bytes will come or go any more */
	unsigned long long received;
	unsigned long dropped;
};

static bool make_request(WebSocket *ws, const char *host, const char *target,
						 const char *user_agent);
static void upgrade(WebSocket *ws);
static bool read_answer(WebSocket *ws);
static void refuse(WebSocket *ws);
static void judge_answer(WebSocket *ws, char *headers, size_t len);
static bool header_is(char *headers, const char *name, const char *value,
					  bool among);
static void accept_of(const char *key, char *accept);
static void open_frames(WebSocket *ws);
static void pump_frames(WebSocket *ws);
static void end(WebSocket *ws, const char *format,...)
			__attribute__((format(printf, 2, 3)));

/* ------------------------------------------------------------------------
 * Life
 * ------------------------------------------------------------------------ */

WebSocket *
websocket_new(const char *host, const char *target, const char *user_agent,
			  const WebSocketIo *io)
{
	WebSocket  *ws = calloc(1, sizeof(WebSocket));

	if (ws == NULL)
		return NULL;
	ws->io = *io;
	ws->answer = malloc(WEBSOCKET_MAX_HEADERS + 1);
	if (ws->answer == NULL || !make_request(ws, host, target, user_agent))
	{
		websocket_free(ws);
		return NULL;
	}
	return ws;
}

void
websocket_free(WebSocket *ws)
{
	if (ws == NULL)
		return;
	while (ws->first != NULL)
	{
		Message    *message = ws->first;

		ws->first = message->next;
		free(message);
	}
	free(ws->handed_out);
	if (ws->frames != NULL)
		wslay_event_context_free(ws->frames);
	free(ws->text);
	free(ws->answer);
	free(ws->request);
	free(ws);
}

void
websocket_pump(WebSocket *ws, size_t budget)
{
	ws->budget = budget;
	ws->more = false;
	if (ws->state == WEBSOCKET_UPGRADING)
		upgrade(ws);
	if (ws->state == WEBSOCKET_OPEN)
		pump_frames(ws);
}

const char *
websocket_next(WebSocket *ws, size_t *len)
{
	free(ws->handed_out);
	ws->handed_out = ws->first;
	if (ws->first == NULL)
		return NULL;
	ws->first = ws->first->next;
	*len = ws->handed_out->len;
	return ws->handed_out->text;
}

WebSocketState
websocket_state(const WebSocket *ws)
{
	return ws->state;
}

bool
websocket_wants_write(const WebSocket *ws)
{
	if (ws->state == WEBSOCKET_UPGRADING)
		return ws->request_sent < ws->request_len;
	return ws->state == WEBSOCKET_OPEN && wslay_event_want_write(ws->frames);
}

bool
websocket_has_more(const WebSocket *ws)
{
	return ws->state != WEBSOCKET_CLOSED && ws->more;
}

unsigned long long
websocket_received(const WebSocket *ws)
{
	return ws->received;
}

unsigned long
websocket_dropped(const WebSocket *ws)
{
	return ws->dropped;
}

const char *
websocket_detail(const WebSocket *ws)
{
	return ws->detail;
}

int
websocket_status(const WebSocket *ws)
{
	return ws->status;
}

const char *
websocket_refusal(const WebSocket *ws)
{
	return ws->refusal;
}

/* The first reason is kept. */
static void
end(WebSocket *ws, const char *format,...)
{
	va_list		args;

	ws->state = WEBSOCKET_CLOSED;
	if (*ws->detail != '\0')
		return;
	va_start(args, format);
	vsnprintf(ws->detail, sizeof(ws->detail), format, args);
	va_end(args);
	/* It may quote the server. */
	for (char *p = ws->detail; *p; p++)
		if (*p < ' ' || *p >= 0x7f)
			*p = '?';
}

/* ------------------------------------------------------------------------
 * The upgrade
 * ------------------------------------------------------------------------ */

static bool
make_request(WebSocket *ws, const char *host, const char *target,
			 const char *user_agent)
{
	static const char format[] = "GET %s HTTP/1.1\r\n"
		"Host: %s\r\n"
		"Connection: Upgrade\r\n"
		"Upgrade: websocket\r\n"
		"Sec-WebSocket-Version: 13\r\n"
		"Sec-WebSocket-Key: %s\r\n"
		"User-Agent: %s\r\n\r\n";
	unsigned char bytes[KEY_BYTES];
	size_t		size;

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return false;
	EVP_EncodeBlock((unsigned char *) ws->key, bytes, sizeof(bytes));
	size = sizeof(format) + strlen(target) + strlen(host) + strlen(ws->key) +
		strlen(user_agent);
	ws->request = malloc(size);
	if (ws->request == NULL)
		return false;
	ws->request_len = snprintf(ws->request, size, format, target, host,
							   ws->key, user_agent);
	return true;
}

static void
upgrade(WebSocket *ws)
{
	while (ws->request_sent < ws->request_len)
	{
		ssize_t		n = ws->io.send(ws->io.arg,
									ws->request + ws->request_sent,
									ws->request_len - ws->request_sent);

		if (n < 0)
			end(ws, "the connection was lost before the upgrade");
		if (n <= 0)
			return;
		ws->request_sent += n;
	}
	while (ws->state == WEBSOCKET_UPGRADING && read_answer(ws))
	{
		char	   *stop = strstr(ws->answer, "\r\n\r\n");

		if (stop != NULL)
			judge_answer(ws, ws->answer, stop + 4 - ws->answer);
	}
}

/* Some more of the answer, if there is any. */
static bool
read_answer(WebSocket *ws)
{
	size_t		room = WEBSOCKET_MAX_HEADERS - ws->answer_len;
	ssize_t		n;

	if (room == 0)
	{
		end(ws, "the answer's headers are too long");
		return false;
	}
	n = ws->io.receive(ws->io.arg, ws->answer + ws->answer_len, room);
	if (n < 0 && ws->status != 0)
		refuse(ws);
	else if (n < 0)
		end(ws, "the connection was closed before the upgrade");
	if (n <= 0)
		return false;
	if (memchr(ws->answer + ws->answer_len, '\0', n) != NULL &&
		memmem(ws->answer, ws->answer_len + n, "\r\n\r\n", 4) == NULL)
	{
		end(ws, "the answer is not HTTP");
		return false;
	}
	ws->received += n;
	ws->answer_len += n;
	ws->answer[ws->answer_len] = '\0';
	return true;
}

/* The body's beginning has a name for what is wrong; it is for people, too. */
static void
refuse(WebSocket *ws)
{
	size_t		at = ws->rest_at;
	size_t		len = ws->answer_len - at;

	if (len >= sizeof(ws->refusal))
		len = sizeof(ws->refusal) - 1;
	for (size_t i = 0; i < len; i++)
	{
		char		c = ws->answer[at + i];

		ws->refusal[i] = (c >= ' ' && c < 0x7f) ? c : ' ';
	}
	end(ws, "the server answered %d: %.100s", ws->status, ws->refusal);
}

/* Has all of a refusal's body come that we keep? */
static bool
is_refusal_whole(WebSocket *ws, char *headers)
{
	const char *length = strcasestr(headers, "\r\nContent-Length:");
	size_t		want = length ? strtoul(length + 17, NULL, 10) : 0;

	if (want >= sizeof(ws->refusal))
		want = sizeof(ws->refusal) - 1;
	return ws->answer_len - ws->rest_at >= want ||
		ws->answer_len == WEBSOCKET_MAX_HEADERS;
}

static void
judge_answer(WebSocket *ws, char *headers, size_t len)
{
	char		accept[BASE64_SIZE(EVP_MAX_MD_SIZE)];

	ws->rest_at = len;
	if (sscanf(headers, "HTTP/1.1 %3d", &ws->status) != 1)
	{
		end(ws, "the answer is not HTTP/1.1");
		return;
	}
	if (ws->status != 101)
	{
		if (is_refusal_whole(ws, headers))
			refuse(ws);
		return;
	}
	headers[len - 2] = '\0';
	accept_of(ws->key, accept);
	if (!header_is(headers, "Upgrade", "websocket", false) ||
		!header_is(headers, "Connection", "upgrade", true))
		end(ws, "the answer is no upgrade to a WebSocket");
	else if (!header_is(headers, "Sec-WebSocket-Accept", accept, false))
		end(ws, "the answer has another Sec-WebSocket-Accept");
	else if (header_is(headers, "Sec-WebSocket-Extensions", NULL, false) ||
			 header_is(headers, "Sec-WebSocket-Protocol", NULL, false))
		end(ws, "the answer has extensions that were not asked for");
	else
		open_frames(ws);
}

/*
 * Is there a header of this name, and this value or it among others?  Names
 * and words are compared without case, the key's answer is not a word.
 */
static bool
value_is(const char *from, const char *to, const char *value, bool among)
{
	size_t		len = strlen(value);

	while (from < to)
	{
		const char *comma = among ? memchr(from, ',', to - from) : NULL;
		const char *stop = comma ? comma : to;
		const char *word_end = stop;

		while (from < word_end && strchr(" \t", *from))
			from++;
		while (word_end > from && strchr(" \t", word_end[-1]))
			word_end--;
		if ((size_t) (word_end - from) == len &&
			(strchr(value, '=') ? strncmp(from, value, len) :
			 strncasecmp(from, value, len)) == 0)
			return true;
		from = stop + 1;
	}
	return false;
}

static bool
header_is(char *headers, const char *name, const char *value, bool among)
{
	size_t		len = strlen(name);

	for (char *line = headers; *line;)
	{
		char	   *stop = strstr(line, "\r\n");

		if (stop == NULL)
			break;
		if (strncasecmp(line, name, len) == 0 && line[len] == ':' &&
			(value == NULL || value_is(line + len + 1, stop, value, among)))
			return true;
		line = stop + 2;
	}
	return false;
}

static void
accept_of(const char *key, char *accept)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len = 0;
	char		text[BASE64_SIZE(KEY_BYTES) + sizeof(ACCEPT_GUID)];

	snprintf(text, sizeof(text), "%s%s", key, ACCEPT_GUID);
	if (EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL) != 1)
		len = 0;
	EVP_EncodeBlock((unsigned char *) accept, digest, len);
}

/* ------------------------------------------------------------------------
 * Frames
 * ------------------------------------------------------------------------ */

/* First what came with the answer, then what comes now, within the budget. */
static ssize_t
on_receive(wslay_event_context_ptr frames, uint8_t *buf, size_t len, int flags,
		   void *arg)
{
	WebSocket  *ws = arg;
	size_t		rest = ws->answer_len - ws->rest_at;
	ssize_t		n = 0;

	if (rest > 0)
	{
		n = rest < len ? rest : len;
		memcpy(buf, ws->answer + ws->rest_at, n);
		ws->rest_at += n;
		return n;
	}
	if (ws->budget == 0)
		ws->more = true;
	else
	{
		n = ws->io.receive(ws->io.arg, buf,
						   len < ws->budget ? len : ws->budget);
		if (n < 0)
			ws->ended = true;
	}
	if (n <= 0)
	{
		wslay_event_set_error(frames, n < 0 ? WSLAY_ERR_CALLBACK_FAILURE :
							  WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	ws->budget -= n;
	ws->received += n;
	return n;
}

static ssize_t
on_send(wslay_event_context_ptr frames, const uint8_t *data, size_t len,
		int flags, void *arg)
{
	WebSocket  *ws = arg;
	ssize_t		n = ws->io.send(ws->io.arg, data, len);

	if (n > 0)
		return n;
	if (n < 0)
		ws->ended = true;
	wslay_event_set_error(frames, n < 0 ? WSLAY_ERR_CALLBACK_FAILURE :
						  WSLAY_ERR_WOULDBLOCK);
	return -1;
}

static int
on_mask(wslay_event_context_ptr frames, uint8_t *buf, size_t len, void *arg)
{
	if (RAND_bytes(buf, len) == 1)
		return 0;
	wslay_event_set_error(frames, WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

/* This cannot go on: say so to the peer, and read no more. */
static void
give_up(WebSocket *ws, uint16_t code, const char *why)
{
	wslay_event_queue_close(ws->frames, code, NULL, 0);
	wslay_event_shutdown_read(ws->frames);
	if (*ws->detail == '\0')
		snprintf(ws->detail, sizeof(ws->detail), "%s", why);
}

static void
on_frame(wslay_event_context_ptr frames,
		 const struct wslay_event_on_frame_recv_start_arg *frame, void *arg)
{
	WebSocket  *ws = arg;

	ws->in_control = frame->opcode >= WSLAY_CONNECTION_CLOSE;
	if (!ws->in_control &&
		frame->payload_length > WEBSOCKET_MAX_MESSAGE - ws->text_len)
		give_up(ws, WSLAY_CODE_MESSAGE_TOO_BIG, "a message is too long");
}

static bool
make_room(WebSocket *ws, size_t len)
{
	size_t		size = ws->text_size ? ws->text_size : 4096;
	char	   *bigger;

	while (size < ws->text_len + len)
		size *= 2;
	if (size == ws->text_size)
		return true;
	bigger = realloc(ws->text, size);
	if (bigger == NULL)
		return false;
	ws->text = bigger;
	ws->text_size = size;
	return true;
}

static void
on_chunk(wslay_event_context_ptr frames,
		 const struct wslay_event_on_frame_recv_chunk_arg *chunk, void *arg)
{
	WebSocket  *ws = arg;

	if (ws->in_control || chunk->data_length == 0 ||
		chunk->data_length > WEBSOCKET_MAX_MESSAGE - ws->text_len)
		return;
	if (!make_room(ws, chunk->data_length))
	{
		give_up(ws, WSLAY_CODE_INTERNAL_SERVER_ERROR, "out of memory");
		return;
	}
	memcpy(ws->text + ws->text_len, chunk->data, chunk->data_length);
	ws->text_len += chunk->data_length;
}

static void
on_message(wslay_event_context_ptr frames,
		   const struct wslay_event_on_msg_recv_arg *msg, void *arg)
{
	WebSocket  *ws = arg;
	Message    *message;

	if (msg->opcode >= WSLAY_CONNECTION_CLOSE)
		return;
	if (msg->opcode != WSLAY_TEXT_FRAME)
	{
		ws->dropped++;
		ws->text_len = 0;
		return;
	}
	message = malloc(sizeof(Message) + ws->text_len + 1);
	if (message == NULL)
	{
		give_up(ws, WSLAY_CODE_INTERNAL_SERVER_ERROR, "out of memory");
		return;
	}
	message->next = NULL;
	message->len = ws->text_len;
	if (ws->text_len > 0)
		memcpy(message->text, ws->text, ws->text_len);
	message->text[message->len] = '\0';
	if (ws->first == NULL)
		ws->first = message;
	else
		ws->last->next = message;
	ws->last = message;
	ws->text_len = 0;
}

static void
open_frames(WebSocket *ws)
{
	static const struct wslay_event_callbacks callbacks = {
		.recv_callback = on_receive,
		.send_callback = on_send,
		.genmask_callback = on_mask,
		.on_frame_recv_start_callback = on_frame,
		.on_frame_recv_chunk_callback = on_chunk,
		.on_msg_recv_callback = on_message,
	};

	if (wslay_event_context_client_init(&ws->frames, &callbacks, ws) != 0)
	{
		ws->frames = NULL;
		end(ws, "out of memory");
		return;
	}
	wslay_event_config_set_no_buffering(ws->frames, 1);
	wslay_event_config_set_max_recv_msg_length(ws->frames,
											   WEBSOCKET_MAX_MESSAGE);
	ws->state = WEBSOCKET_OPEN;
}

static const char *
close_reason(uint16_t code)
{
	switch (code)
	{
		case WSLAY_CODE_PROTOCOL_ERROR:
			return "a frame is malformed";
		case WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA:
			return "a message is not UTF-8";
		case WSLAY_CODE_MESSAGE_TOO_BIG:
			return "a message is too long";
		default:
			return "closed";
	}
}

/*
 * wslay has nothing more to read or to write: by whose doing?
 */
static void
conclude(WebSocket *ws)
{
	if (wslay_event_get_close_received(ws->frames))
		end(ws, "the server closed with code %d",
			wslay_event_get_status_code_received(ws->frames));
	else
		end(ws, "%s",
			close_reason(wslay_event_get_status_code_sent(ws->frames)));
}

static void
pump_frames(WebSocket *ws)
{
	int			failed = 0;

	if (wslay_event_want_read(ws->frames))
		failed = wslay_event_recv(ws->frames);
	if (ws->text_len == 0 && ws->text_size > 64 * 1024)
	{
		/* One large message is no reason to keep room for another. */
		free(ws->text);
		ws->text = NULL;
		ws->text_size = 0;
	}
	if (!ws->ended && failed == 0)
		failed = wslay_event_send(ws->frames);
	if (ws->ended)
		end(ws, "the connection was lost");
	else if (failed == WSLAY_ERR_NOMEM)
		end(ws, "out of memory");
	else if (!wslay_event_want_read(ws->frames) &&
			 !wslay_event_want_write(ws->frames))
		conclude(ws);
	else if (failed != 0)
		end(ws, "a frame is malformed");
	else if (wslay_event_get_queued_msg_count(ws->frames) > MAX_QUEUED)
		end(ws, "the server does not read what it is answered");
}

void
websocket_ping(WebSocket *ws)
{
	struct wslay_event_msg ping = {.opcode = WSLAY_PING};

	if (ws->state == WEBSOCKET_OPEN)
		(void) wslay_event_queue_msg(ws->frames, &ping);
}

void
websocket_close(WebSocket *ws)
{
	if (ws->state != WEBSOCKET_OPEN)
		return;
	(void) wslay_event_queue_close(ws->frames, WSLAY_CODE_GOING_AWAY, NULL, 0);
	(void) wslay_event_send(ws->frames);
}
