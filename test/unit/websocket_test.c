/*-------------------------------------------------------------------------
 *
 * websocket_test.c
 *		The client's side of a WebSocket: websocket.c, over bytes in memory.
 *
 * The other side is a script: it reads the request, answers it, and then says
 * whatever the test wants, in pieces of whatever size.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "tap.h"
#include "websocket.h"

#define MIB		(1024 * 1024)

/* What the server says, and how it is let out */
static char *said = NULL;
static size_t said_len = 0;
static size_t said_at = 0;
static size_t piece = SIZE_MAX;		/* at most so much at a time */
static bool then_gone = false;

/* What the client has said, of which so much is taken */
static char heard[MIB];
static size_t heard_len = 0;
static size_t room = SIZE_MAX;

static WebSocket *ws = NULL;

static ssize_t
on_send(void *arg, const void *data, size_t len)
{
	if (len > piece)
		len = piece;
	if (len > room)
		len = room;
	if (len > sizeof(heard) - heard_len)
		len = sizeof(heard) - heard_len;
	memcpy(heard + heard_len, data, len);
	heard_len += len;
	room -= len;
	return len;
}

static ssize_t
on_receive(void *arg, void *data, size_t len)
{
	if (len > said_len - said_at)
		len = said_len - said_at;
	if (len > piece)
		len = piece;
	if (len > 0)
		memcpy(data, said + said_at, len);
	said_at += len;
	return len == 0 && then_gone ? -1 : (ssize_t) len;
}

static void
say(const void *data, size_t len)
{
	said = realloc(said, said_len + len + 1);
	memcpy(said + said_len, data, len);
	said_len += len;
}

static void
say_text(const char *text)
{
	say(text, strlen(text));
}

/* A frame as a server makes it: without a mask. */
static void
frame(int first, const void *data, size_t len)
{
	unsigned char head[10] = {first};
	size_t		head_len = 2;

	if (len < 126)
		head[1] = len;
	else if (len < 65536)
	{
		head[1] = 126;
		head[2] = len >> 8;
		head[3] = len;
		head_len = 4;
	}
	else
	{
		head[1] = 127;
		for (int i = 0; i < 8; i++)
			head[2 + i] = (uint64_t) len >> (56 - 8 * i);
		head_len = 10;
	}
	say(head, head_len);
	say(data, len);
}

#define TEXT	0x81
#define BINARY	0x82
#define CLOSE	0x88
#define PING	0x89
#define FIRST	0x01			/* of several fragments */
#define NEXT	0x00
#define LAST	0x80

static void
begin(void)
{
	WebSocketIo io = {NULL, on_send, on_receive};

	websocket_free(ws);
	said_len = said_at = heard_len = 0;
	piece = room = SIZE_MAX;
	then_gone = false;
	ws = websocket_new("host.example:81", "/subscribe?x=1", "test/1", &io);
	websocket_pump(ws, MIB);
}

/* The answer that the client's key asks for. */
static void
accept_key(char *accept)
{
	char		text[100] = "";
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len;
	const char *key = memmem(heard, heard_len, "Sec-WebSocket-Key: ", 19);

	if (key != NULL)
		snprintf(text, sizeof(text),
				 "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
	EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL);
	EVP_EncodeBlock((unsigned char *) accept, digest, len);
}

static void
answer(const char *format, const char *more)
{
	char		accept[64];
	char		text[1000];

	accept_key(accept);
	snprintf(text, sizeof(text), format, accept, more);
	say_text(text);
}

#define UPGRADED "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n" \
	"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n"

static void
upgraded(void)
{
	begin();
	answer(UPGRADED, "");
	heard_len = 0;
}

static void
pump(void)
{
	for (int i = 0; i < 1000 && (i == 0 || websocket_has_more(ws) ||
								 said_at < said_len); i++)
		websocket_pump(ws, 64 * 1024);
	websocket_pump(ws, 64 * 1024);
}

static bool
next_is(const char *wanted, size_t wanted_len)
{
	size_t		len = 0;
	const char *text = websocket_next(ws, &len);

	return text != NULL && len == wanted_len &&
		memcmp(text, wanted, len) == 0 && text[len] == '\0';
}

static void
closed(const char *why, const char *what)
{
	bool		is = websocket_state(ws) == WEBSOCKET_CLOSED &&
		strcmp(websocket_detail(ws), why) == 0;

	ok(is, "%s: %s", what, why);
	if (!is)
		printf("# state %d, \"%s\"\n", websocket_state(ws),
			   websocket_detail(ws));
}

/* Did the client close with this code?  Its frames are masked. */
static bool
said_close(int code)
{
	unsigned char *p = (unsigned char *) heard;

	return heard_len >= 8 && p[0] == CLOSE && p[1] == (0x80 | 2) &&
		((p[6] ^ p[2]) << 8 | (p[7] ^ p[3])) == code;
}

static void
test_upgrade(void)
{
	static const char request[] = "GET /subscribe?x=1 HTTP/1.1\r\n"
		"Host: host.example:81\r\n";
	size_t		len;

	begin();
	ok(heard_len > sizeof(request) &&
	   memcmp(heard, request, sizeof(request) - 1) == 0,
	   "it asks for the target, at the host");
	ok(websocket_state(ws) == WEBSOCKET_UPGRADING &&
	   websocket_next(ws, &len) == NULL, "and waits for the answer");
	answer(UPGRADED, "X-Other: 1\r\n");
	frame(TEXT, "early", 5);
	pump();
	ok(websocket_state(ws) == WEBSOCKET_OPEN, "it is open");
	ok(next_is("early", 5), "what came along with the answer is a message");

	begin();
	piece = 1;
	answer(UPGRADED, "");
	frame(TEXT, "slow", 4);
	pump();
	ok(next_is("slow", 4), "all of it byte by byte");

	begin();
	ok(strstr(heard, "Sec-WebSocket-Key: ") != NULL, "a key is sent");
	say_text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
			 "Connection: Upgrade\r\nSec-WebSocket-Accept: "
			 "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
	pump();
	closed("the answer has another Sec-WebSocket-Accept", "another's key");

	begin();
	answer("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
		   "");
	pump();
	closed("the answer is no upgrade to a WebSocket", "no Upgrade header");

	begin();
	answer(UPGRADED, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
	pump();
	closed("the answer has extensions that were not asked for", "an extension");

	begin();
	say_text("HTTP/1.1 400 Bad Request\r\ncontent-length: 24\r\n\r\n");
	pump();
	ok(websocket_state(ws) == WEBSOCKET_UPGRADING, "a refusal's body is awaited");
	say_text("{\"error\":\"CursorTooOld\"}");
	pump();
	closed("the server answered 400: {\"error\":\"CursorTooOld\"}", "a refusal");
	ok(websocket_status(ws) == 400 &&
	   strstr(websocket_refusal(ws), "CursorTooOld") != NULL,
	   "its status and its body");

	begin();
	say_text("HTTP/1.1 503 Busy\r\nContent-Length: 900\r\n\r\nwarm\x1b[1m");
	then_gone = true;
	pump();
	closed("the server answered 503: warm [1m", "a refusal that breaks off");

	begin();
	say_text("SSH-2.0-OpenSSH_9.2\r\n\r\n");
	pump();
	closed("the answer is not HTTP/1.1", "another protocol");

	begin();
	say("HTTP/1.1 101 \0\r\n", 16);
	pump();
	closed("the answer is not HTTP", "a zero byte");

	begin();
	for (int i = 0; i < 2000; i++)
		say_text("X-Pad: xxxxxxxxx\r\n");
	pump();
	closed("the answer's headers are too long", "headers without end");

	begin();
	then_gone = true;
	pump();
	closed("the connection was closed before the upgrade", "no answer");
}

static void
test_messages(void)
{
	char	   *large = malloc(WEBSOCKET_MAX_MESSAGE + 1);
	size_t		len;

	memset(large, 'x', WEBSOCKET_MAX_MESSAGE + 1);
	upgraded();
	frame(TEXT, "", 0);
	frame(TEXT, "one", 3);
	frame(FIRST, "t", 1);
	frame(PING, "are you there", 13);
	frame(NEXT, "", 0);
	frame(NEXT, "w", 1);
	frame(LAST, "o", 1);
	frame(BINARY, "\0\1", 2);
	frame(TEXT, large, 70000);
	frame(TEXT, "\xf0\x9f\x8e\x89", 4);
	pump();
	ok(next_is("", 0) && next_is("one", 3), "empty and short messages");
	ok(next_is("two", 3), "fragments, with a ping among them");
	ok(next_is(large, 70000), "a long one, the binary one before it dropped");
	ok(next_is("\xf0\x9f\x8e\x89", 4), "one beyond ASCII");
	ok(websocket_next(ws, &len) == NULL && websocket_dropped(ws) == 1,
	   "and that is all");
	ok(heard_len == 2 + 4 + 13 && (unsigned char) heard[0] == 0x8a,
	   "the ping was answered");

	upgraded();
	frame(TEXT, large, WEBSOCKET_MAX_MESSAGE);
	pump();
	ok(next_is(large, WEBSOCKET_MAX_MESSAGE), "the longest message there may be");
	frame(TEXT, large, WEBSOCKET_MAX_MESSAGE + 1);
	frame(TEXT, "late", 4);
	pump();
	closed("a message is too long", "one byte more");
	ok(said_close(1009) && websocket_next(ws, &len) == NULL,
	   "the server is told, and not listened to any more");

	upgraded();
	frame(FIRST, large, WEBSOCKET_MAX_MESSAGE);
	frame(LAST, "x", 1);
	pump();
	closed("a message is too long", "one byte more in a fragment");

	upgraded();
	frame(FIRST, "", 0);
	for (int i = 0; i < 100000; i++)
		frame(NEXT, "x", 1);
	frame(LAST, "", 0);
	pump();
	ok(next_is(large, 100000), "a hundred thousand fragments of one byte");
	free(large);
}

static void
test_offences(void)
{
	static const struct
	{
		const char *what;
		const char *bytes;
		size_t		len;
		const char *why;
		int			code;
	}			offences[] = {
		{"not UTF-8", "\x81\x02\xc3\x28", 4, "a message is not UTF-8", 1007},
		{"half a character at the end", "\x81\x01\xc3", 3,
			"a message is not UTF-8", 1007},
		{"a surrogate", "\x81\x03\xed\xa0\x80", 5, "a message is not UTF-8", 1007},
		{"a mask", "\x81\x81zzzzx", 7, "a frame is malformed", 1002},
		{"a reserved bit", "\xc1\x01x", 3, "a frame is malformed", 1002},
		{"a fragment of nothing", "\x80\x01x", 3, "a frame is malformed", 1002},
		{"a message within a message", "\x01\x01x\x81\x01y", 6,
			"a frame is malformed", 1002},
		{"an unknown opcode", "\x83\x01x", 3, "a frame is malformed", 1002},
		{"a ping in fragments", "\x09\x01x", 3, "a frame is malformed", 0},
		{"a length in too many bytes", "\x81\x7e\x00\x05hello", 9,
			"a frame is malformed", 0},
		{"a length beyond all memory",
			"\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 10,
		"a message is too long", 1009},
	};
	size_t		len;

	for (size_t i = 0; i < sizeof(offences) / sizeof(offences[0]); i++)
	{
		upgraded();
		frame(TEXT, "before", 6);
		say(offences[i].bytes, offences[i].len);
		frame(TEXT, "after", 5);
		pump();
		ok(next_is("before", 6), "%s: what came before is there",
		   offences[i].what);
		ok(websocket_next(ws, &len) == NULL, "%s: what came after is not",
		   offences[i].what);
		closed(offences[i].why, offences[i].what);
		if (offences[i].code)
			ok(said_close(offences[i].code), "%s: told with code %d",
			   offences[i].what, offences[i].code);
	}
}

static void
test_end(void)
{
	size_t		most = 0;

	upgraded();
	frame(CLOSE, "\x03\xe9" "bye", 5);
	pump();
	closed("the server closed with code 1001", "closed by the server");
	ok(heard_len > 0 && (unsigned char) heard[0] == CLOSE, "and answered");

	upgraded();
	frame(TEXT, "last", 4);
	then_gone = true;
	pump();
	ok(next_is("last", 4), "what came before the connection was lost");
	closed("the connection was lost", "cut");

	upgraded();
	pump();
	websocket_ping(ws);
	ok(websocket_wants_write(ws), "a ping is to be sent");
	pump();
	ok(heard_len == 6 && (unsigned char) heard[0] == PING, "and is");
	websocket_close(ws);
	ok(heard_len > 6 && (unsigned char) heard[6] == CLOSE, "so is a goodbye");

	/* Somebody who only talks */
	upgraded();
	websocket_pump(ws, 64 * 1024);
	room = 0;
	for (int i = 0; i < 100000; i++)
		frame(PING, "x", 1);
	while (websocket_state(ws) == WEBSOCKET_OPEN && most++ < 1000)
		websocket_pump(ws, 4096);
	closed("the server does not read what it is answered", "pings unread");
	ok(said_at < 64 * 1024, "noticed after %zu bytes", said_at);

	/* The budget */
	upgraded();
	websocket_pump(ws, 0);
	most = said_at;
	for (int i = 0; i < 1000; i++)
		frame(TEXT, "0123456789", 10);
	websocket_pump(ws, 1200);
	ok(said_at <= most + 1200 && websocket_has_more(ws),
	   "a pump reads no more than it may: %zu", said_at - most);
}

int
main(void)
{
	test_upgrade();
	test_messages();
	test_offences();
	test_end();
	websocket_free(ws);
	free(said);
	return done_testing();
}
