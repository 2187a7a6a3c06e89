/*-------------------------------------------------------------------------
 *
 * jetstream.c
 *		What Jetstream servers say, and how they are asked.
 *
 * Two wires carry the same events: v1 (/subscribe) as bare objects, v2
 * (network.bsky.jetstream.subscribeEvents) wrapped into messages.  Whoever
 * serves them is not to be trusted: whatever is not exactly what it should be
 * is junk, with a reason, and nothing of it is kept.
 *
 * Values only: no PostgreSQL, no network, no clock.
 *
 *-------------------------------------------------------------------------
 */
#include "jetstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "syntax.h"

#define COLLECTION	"community.lexicon.calendar.rsvp"
#define V2_METHOD	"network.bsky.jetstream.subscribeEvents"
#define V2_PATH		"/xrpc/" V2_METHOD
#define V1_PATH		"/subscribe"

/* The longest reason for being inactive, or name of a notice */
#define MAX_WORD	64

static const char *read_event(JetstreamEvent *event, json_t *root);

/* ------------------------------------------------------------------------
 * Bounds
 * ------------------------------------------------------------------------ */

/*
 * How deep does the text go?  Counted before anything is built of it; outside
 * of strings, in which a bracket is only a character.
 */
static bool
is_too_deep(const char *text, size_t len)
{
	int			depth = 0;
	bool		quoted = false;

	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		if (quoted)
		{
			if (c == '\\')
				i++;
			else if (c == '"')
				quoted = false;
		}
		else if (c == '"')
			quoted = true;
		else if (c == '{' || c == '[')
		{
			if (++depth > JETSTREAM_MAX_DEPTH)
				return true;
		}
		else if (c == '}' || c == ']')
			depth--;
	}
	return false;
}

/* ------------------------------------------------------------------------
 * Members
 * ------------------------------------------------------------------------ */

typedef bool (*Syntax) (const char *text, size_t len);

/* A member that is a text of this syntax, or NULL. */
static const char *
member(json_t *object, const char *name, Syntax syntax)
{
	json_t	   *value = json_object_get(object, name);

	if (!json_is_string(value) ||
		!syntax(json_string_value(value), json_string_length(value)))
		return NULL;
	return json_string_value(value);
}

static bool
is_word(const char *text, size_t len)
{
	if (len == 0 || len > MAX_WORD)
		return false;
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return true;
}

static bool
is_any(const char *text, size_t len)
{
	return true;
}

static bool
is_text(json_t *object, const char *name, const char *text)
{
	const char *value = member(object, name, is_any);

	return value != NULL && strcmp(value, text) == 0;
}

static int64_t
number(json_t *object, const char *name)
{
	json_t	   *value = json_object_get(object, name);

	return json_is_integer(value) ? json_integer_value(value) : -1;
}

/* Days since 1970 of a date of the Gregorian calendar. */
static int64_t
days_of(int year, int month, int day)
{
	int64_t		y = year - (month <= 2);
	int64_t		era = y / 400;
	int64_t		of_era = y - era * 400;
	int64_t		of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 +
		day - 1;

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year -
		719468;
}

/* Microseconds since 1970 of a datetime in UTC; 0 if it is none. */
static int64_t
time_of(const char *text)
{
	int			year,
				month,
				day,
				hour,
				minute,
				second,
				used = 0;
	int64_t		us = 0;

	if (text == NULL || !syntax_is_datetime(text, strlen(text)) ||
		sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &year, &month, &day, &hour,
			   &minute, &second, &used) != 6)
		return 0;
	text += used;
	if (*text == '.')
	{
		int64_t		unit = 100000;

		for (text++; *text >= '0' && *text <= '9'; text++, unit /= 10)
			us += (*text - '0') * unit;
	}
	if (strcmp(text, "Z") != 0)
		return 0;
	return (days_of(year, month, day) * 86400 + hour * 3600 + minute * 60 +
			second) * 1000000 + us;
}

/* ------------------------------------------------------------------------
 * Events
 * ------------------------------------------------------------------------ */

static const char *
read_record(JetstreamEvent *event, json_t *record)
{
	size_t		size;

	if (!json_is_object(record))
		return "a record is no object";
	if (!is_text(record, "$type", COLLECTION))
		return "a record's $type is not its collection";
	size = json_dumpb(record, NULL, 0, JSON_COMPACT);
	if (size == 0 || size > JETSTREAM_MAX_RECORD)
		return "a record is too large";
	event->record = malloc(size + 1);
	if (event->record == NULL)
		return "out of memory";
	json_dumpb(record, event->record, size, JSON_COMPACT);
	event->record[size] = '\0';
	return NULL;
}

static const char *
read_commit(JetstreamEvent *event, json_t *commit)
{
	const char *collection = member(commit, "collection", syntax_is_nsid);

	if (collection == NULL)
		return "a commit has no collection";
	if (strcmp(collection, COLLECTION) != 0)
	{
		event->kind = JETSTREAM_OTHER;
		return NULL;
	}
	event->kind = JETSTREAM_COMMIT;
	event->operation = member(commit, "operation", is_word);
	event->rkey = member(commit, "rkey", syntax_is_record_key);
	event->rev = member(commit, "rev", syntax_is_tid);
	if (event->operation == NULL ||
		(strcmp(event->operation, "create") != 0 &&
		 strcmp(event->operation, "update") != 0 &&
		 strcmp(event->operation, "delete") != 0))
		return "a commit's operation is none";
	if (event->rkey == NULL)
		return "a commit's record key is none";
	if (event->rev == NULL)
		return "a commit's rev is no TID";
	if (strcmp(event->operation, "delete") == 0)
		return NULL;
	event->cid = member(commit, "cid", syntax_is_cid);
	if (event->cid == NULL)
		return "a commit's cid is none";
	return read_record(event, json_object_get(commit, "record"));
}

static const char *
read_account(JetstreamEvent *event, json_t *account)
{
	json_t	   *active = json_object_get(account, "active");

	if (!json_is_boolean(active))
		return "an account is neither active nor not";
	if (!is_text(account, "did", event->did))
		return "an event is about another account than it says";
	event->kind = JETSTREAM_ACCOUNT;
	event->active = json_is_true(active);
	if (!event->active)
	{
		event->status = member(account, "status", is_word);
		if (event->status == NULL)
			event->status = "inactive";
	}
	return NULL;
}

static const char *
read_identity(JetstreamEvent *event, json_t *identity)
{
	if (!is_text(identity, "did", event->did))
		return "an event is about another account than it says";
	event->kind = JETSTREAM_IDENTITY;
	return NULL;
}

static const char *
read_v1(JetstreamEvent *event, json_t *root)
{
	const char *kind = member(root, "kind", is_word);

	event->time_us = number(root, "time_us");
	event->seq = number(root, "cursor");
	event->did = member(root, "did", syntax_is_did);
	if (event->time_us < JETSTREAM_FIRST_TIME)
	{
		event->time_us = 0;
		return "an event has no time";
	}
	if (event->did == NULL)
		return "an event's did is none";
	if (kind == NULL)
		return "an event is of no kind";
	if (strcmp(kind, "commit") == 0)
		return read_commit(event, json_object_get(root, "commit"));
	if (strcmp(kind, "account") == 0)
		return read_account(event, json_object_get(root, "account"));
	if (strcmp(kind, "identity") == 0)
		return read_identity(event, json_object_get(root, "identity"));
	event->kind = JETSTREAM_OTHER;
	return NULL;
}

static const char *
read_v2(JetstreamEvent *event, json_t *payload)
{
	const char *type = member(payload, "$type", is_any);

	if (type == NULL ||
		strncmp(type, V2_METHOD "#", sizeof(V2_METHOD)) != 0)
		return "a message is of no known type";
	type += sizeof(V2_METHOD);
	if (strcmp(type, "info") == 0)
	{
		event->kind = JETSTREAM_INFO;
		event->name = member(payload, "name", is_word);
		return event->name ? NULL : "a notice has no name";
	}
	event->seq = number(payload, "seq");
	event->time_us = time_of(member(payload, "time", is_any));
	event->did = member(payload, "did", syntax_is_did);
	if (event->time_us < JETSTREAM_FIRST_TIME)
	{
		event->time_us = 0;
		return "an event has no time";
	}
	if (event->did == NULL)
		return "an event's did is none";
	if (strcmp(type, "commit") == 0)
		return read_commit(event, payload);
	if (strcmp(type, "account") == 0)
		return read_account(event, json_object_get(payload, "account"));
	if (strcmp(type, "identity") == 0)
		return read_identity(event, json_object_get(payload, "identity"));
	event->kind = JETSTREAM_OTHER;
	return NULL;
}

static const char *
read_event(JetstreamEvent *event, json_t *root)
{
	if (!json_is_object(root))
		return "a message is no object";
	if (is_text(root, "$type", "error"))
	{
		event->kind = JETSTREAM_ERROR;
		event->name = member(root, "error", is_word);
		return event->name ? NULL : "an error has no name";
	}
	if (is_text(root, "$type", "message"))
		return read_v2(event, json_object_get(root, "payload"));
	return read_v1(event, root);
}

/*
 * jansson rejects what is not UTF-8, U+0000, and a name that comes twice, in
 * which two readers may see different things.
 */
void
jetstream_parse(const char *text, size_t len, JetstreamEvent *event)
{
	json_error_t error;

	memset(event, 0, sizeof(*event));
	event->seq = -1;
	if (is_too_deep(text, len))
		event->why = "a message is nested too deep";
	else if ((event->root = json_loadb(text, len, JSON_REJECT_DUPLICATES,
									   &error)) == NULL)
		event->why = "a message is no JSON";
	else
		event->why = read_event(event, event->root);
	if (event->why != NULL)
	{
		free(event->record);
		event->record = NULL;
		event->kind = JETSTREAM_JUNK;
	}
}

void
jetstream_free(JetstreamEvent *event)
{
	free(event->record);
	json_decref(event->root);
	memset(event, 0, sizeof(*event));
}

/* ------------------------------------------------------------------------
 * Asking
 * ------------------------------------------------------------------------ */

bool
jetstream_host(const char *list, int n, char *host, size_t size)
{
	static const char separators[] = ", \t\r\n";

	for (;;)
	{
		size_t		len;

		list += strspn(list, separators);
		len = strcspn(list, separators);
		if (len == 0)
			return false;
		if (n-- == 0)
		{
			if (len >= size)
				return false;
			memcpy(host, list, len);
			host[len] = '\0';
			return true;
		}
		list += len;
	}
}

/* ws and wss are what http and https are called before an upgrade. */
static const char *
scheme_of(const char **host)
{
	static const char *const schemes[][2] = {
		{"wss://", "https://"}, {"https://", "https://"},
		{"ws://", "http://"}, {"http://", "http://"}
	};

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
	{
		size_t		len = strlen(schemes[i][0]);

		if (strncasecmp(*host, schemes[i][0], len) == 0)
		{
			*host += len;
			return schemes[i][1];
		}
	}
	return strstr(*host, "://") ? NULL : "https://";
}

bool
jetstream_url(const char *host, int64_t cursor, char *url, size_t size)
{
	const char *scheme = scheme_of(&host);
	size_t		authority = strcspn(host, "/?#");
	size_t		path = strcspn(host + authority, "?#");
	const char *query = host + authority + path;
	bool		v2 = strncmp(host + authority, V2_PATH, path) == 0 &&
		path == sizeof(V2_PATH) - 1;
	char		at[40] = "";
	int			n;

	if (scheme == NULL || authority == 0 || strchr(host, '#') != NULL)
		return false;
	if (cursor > 0)
		snprintf(at, sizeof(at), "&cursor=%lld", (long long) cursor);
	while (path > 0 && host[authority + path - 1] == '/')
		path--;
	n = snprintf(url, size, "%s%.*s%s%s%s%s%s", scheme,
				 (int) (authority + path), host, path == 0 ? V1_PATH : "",
				 *query ? query : "?", *query && query[1] ? "&" : "",
				 v2 ? "kinds=commit&kinds=account&kinds=identity&collections="
				 COLLECTION : "wantedCollections=" COLLECTION, at);
	return n > 0 && (size_t) n < size;
}
