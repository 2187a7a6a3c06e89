/*-------------------------------------------------------------------------
 *
 * jetstream_test.c
 *		What Jetstream servers say, and how they are asked: jetstream.c.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "jetstream.h"
#include "tap.h"

#define RSVP	"community.lexicon.calendar.rsvp"
#define DID		"did:plc:mcc5yghbk7tixqryac2yxku7"
#define CID		"bafyreidqpc7si3dbimffi64lz3xsx2qt45ip7rpna2qpslcddp23itjjzm"
#define RECORD	"{\"$type\":\"" RSVP "\",\"status\":\"" RSVP "#going\"," \
	"\"subject\":{\"cid\":\"" CID "\",\"uri\":\"at://" DID "/x.y.z/3mmoodizfwc2j\"}}"
#define V1(kind, body) "{\"did\":\"" DID "\",\"time_us\":1779719009132431," \
	"\"kind\":\"" kind "\",\"" kind "\":" body "}"
#define COMMIT(op, rkey, more) "{\"rev\":\"3mmoojp7vgo2g\",\"operation\":\"" op \
	"\",\"collection\":\"" RSVP "\",\"rkey\":\"" rkey "\"" more "}"
#define PUT(record) ",\"record\":" record ",\"cid\":\"" CID "\""
#define V2(kind, body) "{\"$type\":\"message\",\"payload\":{\"$type\":" \
	"\"network.bsky.jetstream.subscribeEvents#" kind "\"," body "}}"
#define V2_HEAD "\"seq\":12345,\"did\":\"" DID "\",\"time\":\"2026-05-25T14:23:29.132431Z\""

static JetstreamEvent event;

/* A copy of exactly this size, so that reading past it is noticed. */
static JetstreamKind
parse_bytes(const char *text, size_t len)
{
	char	   *copy = malloc(len ? len : 1);

	memcpy(copy, text, len);
	jetstream_free(&event);
	jetstream_parse(copy, len, &event);
	free(copy);
	return event.kind;
}

static JetstreamKind
parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

static bool
is(const char *got, const char *wanted, const char *what)
{
	bool		same = got == NULL || wanted == NULL ? got == wanted :
		strcmp(got, wanted) == 0;

	ok(same, "%s", what);
	if (!same)
		printf("# got %s, wanted %s\n", got ? got : "NULL",
			   wanted ? wanted : "NULL");
	return same;
}

static void
junk(const char *text, const char *why, const char *what)
{
	bool		is_junk = parse(text) == JETSTREAM_JUNK;

	ok(is_junk && event.why && strcmp(event.why, why) == 0 &&
	   event.record == NULL, "junk: %s", what);
	if (!is_junk || strcmp(event.why, why) != 0)
		printf("# %s\n", is_junk ? event.why : "it was taken");
}

static void
test_v1(void)
{
	ok(parse(V1("commit", COMMIT("create", "3mmoojp7etg2g", PUT(RECORD)))) ==
	   JETSTREAM_COMMIT, "v1: a created record");
	ok(event.time_us == INT64_C(1779719009132431) && event.seq == -1,
	   "v1: its time, and no sequence number");
	is(event.did, DID, "v1: whose it is");
	is(event.operation, "create", "v1: the operation");
	is(event.rev, "3mmoojp7vgo2g", "v1: the commit");
	is(event.rkey, "3mmoojp7etg2g", "v1: the record key");
	is(event.cid, CID, "v1: the cid");
	is(event.record, RECORD, "v1: the record");

	ok(parse("{\"cursor\":7,\"did\":\"" DID "\",\"time_us\":1779719009132431,"
			 "\"kind\":\"commit\",\"commit\":"
			 COMMIT("delete", "self", "") "}") == JETSTREAM_COMMIT &&
	   event.record == NULL && event.cid == NULL && event.seq == 7,
	   "v1: a deletion, with a sequence number");
	ok(parse(V1("commit", "{\"rev\":\"3mmoojp7vgo2g\",\"operation\":\"create\","
				"\"collection\":\"app.bsky.feed.like\",\"rkey\":\"a\"}")) ==
	   JETSTREAM_OTHER && event.time_us > 0,
	   "v1: a record of another collection is none of our business");
	ok(parse(V1("account", "{\"active\":true,\"did\":\"" DID "\",\"seq\":1}")) ==
	   JETSTREAM_ACCOUNT && event.active && event.status == NULL,
	   "v1: an active account");
	ok(parse(V1("account", "{\"active\":false,\"did\":\"" DID
				"\",\"status\":\"takendown\"}")) == JETSTREAM_ACCOUNT &&
	   !event.active, "v1: an inactive account");
	is(event.status, "takendown", "v1: why it is");
	parse(V1("account", "{\"active\":false,\"did\":\"" DID "\"}"));
	is(event.status, "inactive", "v1: an account that does not say why");
	ok(parse(V1("identity", "{\"did\":\"" DID "\",\"handle\":\"a.test\"}")) ==
	   JETSTREAM_IDENTITY, "v1: an identity");
	ok(parse(V1("novelty", "{}")) == JETSTREAM_OTHER, "v1: a kind to come");
}

static void
test_v2(void)
{
	ok(parse(V2("commit", V2_HEAD ",\"rev\":\"3l3qo2vutsw2b\",\"operation\":"
				"\"update\",\"collection\":\"" RSVP "\",\"rkey\":\"3l3qo2vuowo2b\""
				PUT(RECORD))) == JETSTREAM_COMMIT, "v2: an updated record");
	ok(event.time_us == INT64_C(1779719009132431) && event.seq == 12345,
	   "v2: its time and its sequence number");
	is(event.record, RECORD, "v2: the record");
	ok(parse(V2("account", V2_HEAD ",\"account\":{\"active\":false,\"did\":\""
				DID "\",\"status\":\"deleted\"}")) == JETSTREAM_ACCOUNT,
	   "v2: an account");
	is(event.status, "deleted", "v2: why it is inactive");
	ok(parse(V2("identity", V2_HEAD ",\"identity\":{\"did\":\"" DID "\"}")) ==
	   JETSTREAM_IDENTITY, "v2: an identity");
	ok(parse(V2("sync", V2_HEAD ",\"sync\":{}")) == JETSTREAM_OTHER,
	   "v2: what is none of our business");
	ok(parse(V2("info", "\"name\":\"OutdatedCursor\",\"message\":\"...\"")) ==
	   JETSTREAM_INFO, "v2: a notice");
	is(event.name, "OutdatedCursor", "v2: its name");
	ok(parse("{\"$type\":\"error\",\"error\":\"ConsumerTooSlow\","
			 "\"message\":\"...\"}") == JETSTREAM_ERROR, "v2: an error");
	is(event.name, "ConsumerTooSlow", "v2: its name");
	junk("{\"$type\":\"message\",\"payload\":{\"$type\":\"x#commit\"}}",
		 "a message is of no known type", "v2: another method's message");
	junk("{\"$type\":\"message\"}", "a message is of no known type",
		 "v2: a message without anything in it");
	junk(V2("commit", "\"seq\":1,\"did\":\"" DID "\",\"time\":\"yesterday\""),
		 "an event has no time", "v2: a time that is none");
	junk(V2("commit", "\"seq\":1,\"did\":\"" DID
			"\",\"time\":\"1970-01-01T00:00:01Z\""),
		 "an event has no time", "v2: a time that would be taken for a number");
}

static void
test_time(void)
{
	static const struct
	{
		const char *text;
		int64_t		us;
	}			times[] = {
		{"2026-05-25T14:23:29Z", INT64_C(1779719009000000)},
		{"2026-05-25T14:23:29.1Z", INT64_C(1779719009100000)},
		{"2026-05-25T14:23:29.1324319Z", INT64_C(1779719009132431)},
		{"2024-02-29T00:00:00.000001Z", INT64_C(1709164800000001)},
		{"2100-03-01T00:00:00Z", INT64_C(4107542400000000)},
		{"2026-05-25T14:23:29+02:00", 0},
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
	{
		char		text[600];

		snprintf(text, sizeof(text), V2("sync", "\"did\":\"" DID
										"\",\"time\":\"%s\""), times[i].text);
		parse(text);
		ok(event.time_us == times[i].us, "the time of %s", times[i].text);
	}
}

static void
test_junk(void)
{
	static char deep[400];
	static char large[200 * 1024];
	size_t		len;

	junk("", "a message is no JSON", "nothing");
	junk("[]", "a message is no object", "an array");
	junk("{\"did\":\"" DID "\"}", "an event has no time", "no time");
	junk("{\"did\":\"" DID "\",\"time_us\":7,\"kind\":\"commit\"}",
		 "an event has no time", "a time before there were any");
	junk("{\"did\":\"did:plc:\",\"time_us\":1779719009132431,\"kind\":\"commit\"}",
		 "an event's did is none", "a malformed did");
	ok(event.time_us > 0, "and its time all the same");
	junk("{\"did\":7,\"time_us\":1779719009132431,\"kind\":\"commit\"}",
		 "an event's did is none", "a did that is no text");
	junk("{\"did\":\"" DID "\",\"time_us\":1779719009132431}",
		 "an event is of no kind", "no kind");
	junk(V1("commit", "{}"), "a commit has no collection", "an empty commit");
	junk(V1("commit", "[]"), "a commit has no collection", "a commit of another type");
	junk(V1("commit", COMMIT("resurrect", "a", "")),
		 "a commit's operation is none", "an unknown operation");
	junk(V1("commit", COMMIT("delete", "a/b", "")),
		 "a commit's record key is none", "a malformed record key");
	junk(V1("commit", COMMIT("delete", "a\\u0000b", "")),
		 "a message is no JSON", "U+0000 in a text");
	junk(V1("commit", "{\"rev\":\"1\",\"operation\":\"delete\",\"collection\":\""
			RSVP "\",\"rkey\":\"a\"}"),
		 "a commit's rev is no TID", "a malformed rev");
	junk(V1("commit", COMMIT("create", "a", ",\"record\":" RECORD)),
		 "a commit's cid is none", "no cid");
	junk(V1("commit", COMMIT("create", "a", PUT("[]"))),
		 "a record is no object", "a record that is an array");
	junk(V1("commit", COMMIT("create", "a", PUT("{\"$type\":\"a.b.c\"}"))),
		 "a record's $type is not its collection", "a record of another type");
	junk(V1("commit", COMMIT("create", "a", PUT("{\"$type\":\"" RSVP "\","
												"\"x\":\"\\ud800\"}"))),
		 "a message is no JSON", "half of a surrogate pair");
	junk(V1("commit", COMMIT("create", "a", PUT("{\"$type\":\"" RSVP "\","
												"\"x\":1,\"x\":2}"))),
		 "a message is no JSON", "a name that comes twice");
	junk(V1("account", "{\"active\":false,\"did\":\"did:web:example.com\"}"),
		 "an event is about another account than it says", "another's account");
	junk(V1("identity", "{\"did\":\"did:web:example.com\"}"),
		 "an event is about another account than it says", "another's identity");
	junk(V1("account", "{\"did\":\"" DID "\"}"),
		 "an account is neither active nor not", "an account without a word");
	ok(parse_bytes("{\"a\":\"\xff\"}", 9) == JETSTREAM_JUNK, "junk: not UTF-8");
	ok(parse_bytes("{\"a\":\"\\", 7) == JETSTREAM_JUNK,
	   "junk: a text that ends in an escape");

	for (int depth = JETSTREAM_MAX_DEPTH - 1; depth <= 64; depth += 33)
	{
		memset(deep, '[', depth);
		memset(deep + depth, ']', depth);
		deep[2 * depth] = '\0';
		ok(parse(deep) == JETSTREAM_JUNK &&
		   (strcmp(event.why, "a message is nested too deep") == 0) ==
		   (depth > JETSTREAM_MAX_DEPTH), "junk: %d deep", depth);
	}
	strcpy(large, V1("commit", COMMIT("create", "a", PUT("{\"$type\":\"" RSVP
														 "\",\"x\":\"[[[[[[[[["
														 "[[[[[[[[[[[[[[[[[[[["
														 "[[[[[[[[[[[[[[[[[[[["
														 "\\\"[[\"}"))));
	ok(parse(large) == JETSTREAM_COMMIT, "brackets in a text are no depth");

	len = sprintf(large, "%s", "{\"did\":\"" DID "\",\"time_us\":1779719009132431,"
				  "\"kind\":\"commit\",\"commit\":{\"rev\":\"3mmoojp7vgo2g\","
				  "\"operation\":\"create\",\"collection\":\"" RSVP
				  "\",\"rkey\":\"a\",\"cid\":\"" CID
				  "\",\"record\":{\"$type\":\"" RSVP "\",\"x\":\"");
	memset(large + len, 'x', JETSTREAM_MAX_RECORD);
	strcpy(large + len + JETSTREAM_MAX_RECORD, "\"}}}");
	junk(large, "a record is too large", "a record beyond 64 KiB");
	strcpy(large + len + JETSTREAM_MAX_RECORD - 100, "\"}}}");
	ok(parse(large) == JETSTREAM_COMMIT, "one below that is taken");
}

static void
asked(const char *host, int64_t cursor, const char *wanted)
{
	char		url[400];

	if (!jetstream_url(host, cursor, url, sizeof(url)))
		strcpy(url, "refused");
	is(url, wanted, host);
}

static void
test_asking(void)
{
	static const char list[] = " wss://a.example, wss://b.example/x\thttps://c";
	char		host[40];

	ok(jetstream_host(list, 0, host, sizeof(host)), "a first host");
	is(host, "wss://a.example", "which it is");
	ok(jetstream_host(list, 2, host, sizeof(host)), "a third host");
	is(host, "https://c", "which it is");
	ok(!jetstream_host(list, 3, host, sizeof(host)), "no fourth");
	ok(!jetstream_host(" , ", 0, host, sizeof(host)), "none in an empty list");
	ok(!jetstream_host("wss://a-host-of-a-name-too-long-for-this.example", 0,
					   host, sizeof(host)), "none that does not fit");

	asked("wss://jetstream1.us-east.bsky.network/subscribe", 0,
		  "https://jetstream1.us-east.bsky.network/subscribe?wantedCollections=" RSVP);
	asked("wss://jetstream1.us-east.bsky.network", INT64_C(1779719009132431),
		  "https://jetstream1.us-east.bsky.network/subscribe?wantedCollections="
		  RSVP "&cursor=1779719009132431");
	asked("jetstream.example", 0,
		  "https://jetstream.example/subscribe?wantedCollections=" RSVP);
	asked("ws://localhost:6008/", 5,
		  "http://localhost:6008/subscribe?wantedCollections=" RSVP "&cursor=5");
	asked("wss://a.example/subscribe?wantedDids=did:web:b.example", 0,
		  "https://a.example/subscribe?wantedDids=did:web:b.example&"
		  "wantedCollections=" RSVP);
	asked("wss://a.example/xrpc/network.bsky.jetstream.subscribeEvents", 9,
		  "https://a.example/xrpc/network.bsky.jetstream.subscribeEvents?"
		  "kinds=commit&kinds=account&kinds=identity&collections=" RSVP
		  "&cursor=9");
	asked("ftp://a.example", 0, "refused");
	asked("wss://a.example/#x", 0, "refused");
	asked("wss://", 0, "refused");
}

int
main(void)
{
	test_v1();
	test_v2();
	test_time();
	test_junk();
	test_asking();
	jetstream_free(&event);
	return done_testing();
}
