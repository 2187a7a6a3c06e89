/*-------------------------------------------------------------------------
 *
 * fuzz_stream.c
 *		Fuzz target: what a Jetstream server may send, from its first byte.
 *
 * The first byte of the input says how the rest is taken: as one message, as
 * frames, as a message cut into frames, or as the answer to the upgrade.
 * Memory errors are the sanitizers' to find.  What is checked here is what
 * must hold of every event and every message, whatever came.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "../../src/jetstream.h"
#include "../../src/syntax.h"
#include "../../src/websocket.h"

#define PROMISE(holds) \
	do { \
		if (!(holds)) \
		{ \
			fprintf(stderr, "broken: %s\n", #holds); \
			abort(); \
		} \
	} while (0)

#define BUDGET	4096

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The server: what is left to be said, in pieces, and what it was asked. */
typedef struct Server
{
	char		hello[300];		/* its answer, if it gives the right one */
	size_t		hello_at;
	const uint8_t *data;
	size_t		size;
	size_t		piece;
	bool		answers;
	size_t		heard;
} Server;

static void
answer(Server *server, const char *request, size_t len)
{
	const char *key = memmem(request, len, "Sec-WebSocket-Key: ", 19);
	char		text[100];
	char		accept[64];
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int n;

	PROMISE(key != NULL);
	snprintf(text, sizeof(text), "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
			 key + 19);
	EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL);
	EVP_EncodeBlock((unsigned char *) accept, digest, n);
	snprintf(server->hello, sizeof(server->hello), "HTTP/1.1 101 ok\r\n"
			 "upgrade: websocket\r\nconnection: upgrade\r\n"
			 "sec-websocket-accept: %s\r\n\r\n", accept);
}

static ssize_t
on_send(void *arg, const void *data, size_t len)
{
	Server	   *server = arg;

	if (server->heard == 0 && server->answers)
		answer(server, data, len);
	server->heard += len;
	return len;
}

static ssize_t
on_receive(void *arg, void *data, size_t len)
{
	Server	   *server = arg;
	size_t		left = strlen(server->hello + server->hello_at);

	PROMISE(len > 0);
	if (left > 0)
	{
		if (len > left)
			len = left;
		memcpy(data, server->hello + server->hello_at, len);
		server->hello_at += len;
		return len;
	}
	if (server->size == 0)
		return -1;
	if (len > server->piece)
		len = server->piece;
	if (len > server->size)
		len = server->size;
	memcpy(data, server->data, len);
	server->data += len;
	server->size -= len;
	return len;
}

static void
check_event(const JetstreamEvent *event)
{
	if (event->kind == JETSTREAM_JUNK)
	{
		PROMISE(event->why != NULL && event->record == NULL);
		return;
	}
	PROMISE(event->why == NULL);
	PROMISE(event->time_us == 0 || event->time_us >= JETSTREAM_FIRST_TIME);
	if (event->kind == JETSTREAM_INFO || event->kind == JETSTREAM_ERROR)
	{
		PROMISE(event->name != NULL);
		return;
	}
	PROMISE(syntax_is_did(event->did, strlen(event->did)));
	PROMISE(event->time_us > 0);
	PROMISE((event->kind == JETSTREAM_COMMIT) == (event->rkey != NULL));
	if (event->kind == JETSTREAM_ACCOUNT)
		PROMISE(event->active == (event->status == NULL));
	if (event->kind != JETSTREAM_COMMIT)
		return;
	PROMISE(syntax_is_record_key(event->rkey, strlen(event->rkey)));
	PROMISE(syntax_is_tid(event->rev, strlen(event->rev)));
	PROMISE((strcmp(event->operation, "delete") == 0) ==
			(event->record == NULL));
	PROMISE((event->record == NULL) == (event->cid == NULL));
	if (event->record == NULL)
		return;
	PROMISE(syntax_is_cid(event->cid, strlen(event->cid)));
	PROMISE(strlen(event->record) <= JETSTREAM_MAX_RECORD);
	PROMISE(strstr(event->record, "\\u0000") == NULL ||
			strstr(event->record, "\\\\u0000") != NULL);
}

static void
take_message(const char *text, size_t len)
{
	JetstreamEvent event;

	jetstream_parse(text, len, &event);
	check_event(&event);
	jetstream_free(&event);
	jetstream_free(&event);
}

static void
listen_to(Server *server)
{
	WebSocketIo io = {server, on_send, on_receive};
	WebSocket  *ws = websocket_new("host.example", "/subscribe", "fuzz", &io);
	size_t		len;
	const char *text;

	PROMISE(ws != NULL);
	for (int i = 0; i < 20000 && websocket_state(ws) != WEBSOCKET_CLOSED; i++)
	{
		websocket_pump(ws, BUDGET);
		while ((text = websocket_next(ws, &len)) != NULL)
		{
			PROMISE(len <= WEBSOCKET_MAX_MESSAGE && text[len] == '\0');
			PROMISE(server->answers);
			take_message(text, len);
		}
	}
	PROMISE(websocket_state(ws) == WEBSOCKET_CLOSED);
	PROMISE(*websocket_detail(ws) != '\0');
	websocket_free(ws);
}

/* The message in frames of one to eight bytes: what comes out is what went in. */
static size_t
fragment(const uint8_t *data, size_t size, uint8_t *frames)
{
	size_t		at = 0;
	size_t		n = 0;

	do
	{
		size_t		len = 1 + (at + size) % 8;

		if (len > size - at)
			len = size - at;
		frames[n++] = (at == 0 ? 0x01 : 0x00) | (at + len == size ? 0x80 : 0);
		frames[n++] = len;
		memcpy(frames + n, data + at, len);
		n += len;
		at += len;
	} while (at < size);
	return n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Server		server = {.piece = SIZE_MAX, .answers = true};
	uint8_t    *frames = NULL;

	if (size < 2)
		return 0;
	server.data = data + 1;
	server.size = size - 1;
	switch (data[0] % 4)
	{
		case 0:
			take_message((const char *) data + 1, size - 1);
			return 0;
		case 1:
			server.piece = 1 + data[0] / 4;
			break;
		case 2:
			frames = malloc(3 * size);
			server.size = fragment(data + 1, size - 1, frames);
			server.data = frames;
			break;
		default:
			server.answers = false;
	}
	listen_to(&server);
	free(frames);
	return 0;
}
