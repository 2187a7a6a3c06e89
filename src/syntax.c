/*-------------------------------------------------------------------------
 *
 * syntax.c
 *		What the identifiers of the AT Protocol may look like.
 *
 * One function for each identifier, each a few lines that can be read beside
 * the section of the specification named above it.  Where the specification
 * limits a length, the length is looked at first: that keeps the work on a
 * megabyte of garbage as small as on an empty text.  The only identifier
 * without a limit, the datetime, is read once from left to right.
 *
 * This file is pure: it allocates nothing, raises nothing, and includes
 * nothing of PostgreSQL, so that the fuzz harness can link it without a
 * server.  Texts are a pointer and a length; no terminator is looked for.
 *
 *-------------------------------------------------------------------------
 */
#include "syntax.h"

#include <string.h>

#define DIGITS	"0123456789"
#define HEX		DIGITS "abcdefABCDEF"
#define LOWER	"abcdefghijklmnopqrstuvwxyz"
#define LETTERS	LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define ALNUM	LETTERS DIGITS

/* A CIDv1 that names a hash begins with three varints and a length. */
#define CID_VERSION	1

static bool in(const char *alphabet, char c);
static bool all_in(const char *alphabet, Slice text);
static Slice take_until(Slice *rest, char separator);
static bool percent_signs_are_encodings(Slice text);
static bool is_label(Slice label);
static bool is_fragment(Slice text);

/*
 * did:METHOD:IDENTIFIER.
 *
 * Specification: DID, "DID Identifier Syntax".  That page both demands two
 * hex digits after a percent sign and excuses implementations from checking;
 * the demand is kept here, so that nothing is accepted that cannot resolve.
 */
bool
syntax_is_did(const char *text, size_t len)
{
	Slice		rest = {text, len};
	Slice		scheme;
	Slice		method;

	if (len > DID_MAX)
		return false;
	scheme = take_until(&rest, ':');
	if (scheme.len != 3 || memcmp(scheme.data, "did", 3) != 0)
		return false;
	method = take_until(&rest, ':');
	if (method.len == 0 || !all_in(LOWER, method))
		return false;
	return rest.len > 0
		&& rest.data[rest.len - 1] != ':'
		&& all_in(ALNUM "._:%-", rest)
		&& percent_signs_are_encodings(rest);
}

/*
 * A DNS hostname of two labels or more, the last not beginning with a digit.
 *
 * Specification: Handle, "Handle Identifier Syntax".
 */
bool
syntax_is_handle(const char *text, size_t len)
{
	Slice		rest = {text, len};
	Slice		label;
	int			labels = 0;

	if (len > HANDLE_MAX)
		return false;
	do
	{
		label = take_until(&rest, '.');
		if (!is_label(label))
			return false;
		labels++;
	} while (rest.data != NULL);
	return labels >= 2 && in(LETTERS, label.data[0]);
}

/*
 * A hostname turned around, a period, and a name of letters and digits.
 *
 * Specification: NSID, "NSID Syntax".  That page also holds the hostname to
 * 253 characters, but the published test vectors and every server let it
 * take up all that the overall limit leaves, and so does this.
 */
bool
syntax_is_nsid(const char *text, size_t len)
{
	Slice		rest = {text, len};
	Slice		segment;
	int			segments = 0;

	if (len > NSID_MAX || len == 0 || !in(LETTERS, text[0]))
		return false;
	do
	{
		segment = take_until(&rest, '.');
		if (!is_label(segment))
			return false;
		segments++;
	} while (rest.data != NULL);

	/* The last segment is the name; the others are the domain authority. */
	return segments >= 3
		&& in(LETTERS, segment.data[0])
		&& all_in(ALNUM, segment);
}

/*
 * Specification: Record Key, "Record Key Syntax".
 */
bool
syntax_is_record_key(const char *text, size_t len)
{
	if (len < 1 || len > RECORD_KEY_MAX)
		return false;
	if (len <= 2 && all_in(".", (Slice) {text, len}))
		return false;
	return all_in(ALNUM ".-_:~", (Slice) {text, len});
}

/*
 * Thirteen digits of base32-sortable; the first holds the top bit, which is
 * always clear, so only half of the alphabet may stand there.
 *
 * Specification: TID, "TID Syntax".
 */
bool
syntax_is_tid(const char *text, size_t len)
{
	return len == TID_LEN
		&& memchr(TID_ALPHABET, text[0], sizeof(TID_ALPHABET) / 2) != NULL
		&& all_in(TID_ALPHABET, (Slice) {text, len});
}

/*
 * A CID: bytes behind a multibase prefix.
 *
 * Records are named in base32, so base32 is decoded and must be a CIDv1 from
 * its first byte to its last.  Of the other bases, which the specification
 * allows in text but nothing on the network writes, the alphabet is checked.
 *
 * Specification: Data Model, "Link and CID Formats"; Lexicon, format "cid".
 */
bool
syntax_is_cid(const char *text, size_t len)
{
	unsigned char bytes[CID_BYTES_MAX];
	size_t		nbytes;

	if (len < CID_MIN || len > CID_MAX)
		return false;
	if (text[0] == 'b')
		return syntax_parse_cid(text, len, bytes, &nbytes);
	return multibase_is_valid(text, len);
}

/*
 * Read an unsigned varint of at most nine bytes; false if it has no end or
 * is written longer than it needs to be.
 */
static bool
take_varint(const unsigned char **next, const unsigned char *end,
			size_t *value)
{
	unsigned long long sum = 0;

	for (int shift = 0; shift < 63 && *next < end; shift += 7)
	{
		unsigned char byte = *(*next)++;

		sum |= (unsigned long long) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
		{
			*value = (size_t) sum;
			return byte != 0 || shift == 0;
		}
	}
	return false;
}

/*
 * Decode a CIDv1 in base32 to its bytes, at most CID_BYTES_MAX: version,
 * codec, hash function, and a digest of exactly the length it announces.
 */
bool
syntax_parse_cid(const char *text, size_t len, unsigned char *bytes,
				 size_t *nbytes)
{
	const unsigned char *next = bytes;
	const unsigned char *end;
	size_t		version;
	size_t		codec;
	size_t		hash;
	size_t		digest;

	if (len < CID_MIN || len > CID_MAX || text[0] != 'b'
		|| !base32_decode(text + 1, len - 1, bytes, nbytes))
		return false;
	end = bytes + *nbytes;
	return take_varint(&next, end, &version) && version == CID_VERSION
		&& take_varint(&next, end, &codec)
		&& take_varint(&next, end, &hash)
		&& take_varint(&next, end, &digest)
		&& digest == (size_t) (end - next);
}

/* Does text begin like the pattern, where '0' stands for any digit? */
static bool
take_pattern(Slice *rest, const char *pattern)
{
	size_t		len = strlen(pattern);

	if (rest->len < len)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = rest->data[i];

		if (pattern[i] == '0' ? !in(DIGITS, c) : c != pattern[i])
			return false;
	}
	rest->data += len;
	rest->len -= len;
	return true;
}

/* The number that `digits` digits make; they have been checked before. */
static int
number(const char *text, int digits)
{
	int			value = 0;

	for (int i = 0; i < digits; i++)
		value = value * 10 + (text[i] - '0');
	return value;
}

/* Does the month of that year have this day? */
static bool
is_date(int year, int month, int day)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	if (month < 1 || month > 12 || day < 1)
		return false;
	return day <= days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/*
 * Read "Z", "+hh:mm" or "-hh:mm" up to the end of the text.  Minus zero is
 * RFC 3339 for "unknown" and not ISO 8601 at all, so it is refused.
 */
static bool
is_offset(Slice text, int *minutes)
{
	const char *digits = text.data + 1;
	bool		east = take_pattern(&text, "+00:00");

	*minutes = 0;
	if (!east && !take_pattern(&text, "-00:00"))
		return take_pattern(&text, "Z") && text.len == 0;
	if (number(digits, 2) > 23 || number(digits + 3, 2) > 59)
		return false;
	*minutes = number(digits, 2) * 60 + number(digits + 3, 2);
	if (!east && *minutes == 0)
		return false;
	if (!east)
		*minutes = -*minutes;
	return text.len == 0;
}

/*
 * What RFC 3339, ISO 8601 and WHATWG HTML all accept, with a time zone, and
 * a real moment that is not before the year zero.  Second 60 is out: HTML
 * does not have it.
 *
 * Specification: Lexicon, "datetime".
 */
bool
syntax_is_datetime(const char *text, size_t len)
{
	Slice		rest = {text, len};
	int			year;
	int			offset;
	int			minute_of_day;

	if (!take_pattern(&rest, "0000-00-00T00:00:00"))
		return false;
	year = number(text, 4);
	if (!is_date(year, number(text + 5, 2), number(text + 8, 2))
		|| number(text + 11, 2) > 23
		|| number(text + 14, 2) > 59
		|| number(text + 17, 2) > 59)
		return false;
	if (take_pattern(&rest, ".0"))
		while (take_pattern(&rest, "0"))
			continue;
	if (!is_offset(rest, &offset))
		return false;

	/* East of Greenwich the first hours of year zero are before it. */
	minute_of_day = number(text + 11, 2) * 60 + number(text + 14, 2);
	return year > 0 || number(text + 5, 2) > 1 || number(text + 8, 2) > 1
		|| minute_of_day >= offset;
}

/*
 * Take an at-uri apart: authority, and optionally collection, record key and
 * fragment.  There is no query part and no trailing slash.
 *
 * Specification: AT URI Scheme, "Restricted AT URI Syntax"; the fragment is
 * the JSON path of "Full AT URI Syntax", and begins with a slash.
 */
bool
syntax_parse_at_uri(const char *text, size_t len, AtUri *uri)
{
	Slice		rest = {text, len};
	Slice		path;

	memset(uri, 0, sizeof(*uri));
	if (len > AT_URI_MAX || !take_pattern(&rest, "at://"))
		return false;
	path = take_until(&rest, '#');
	uri->fragment = rest;
	uri->authority = take_until(&path, '/');
	if (path.data != NULL)
		uri->collection = take_until(&path, '/');
	uri->rkey = path;

	return (syntax_is_did(uri->authority.data, uri->authority.len)
			|| syntax_is_handle(uri->authority.data, uri->authority.len))
		&& (uri->collection.data == NULL
			|| syntax_is_nsid(uri->collection.data, uri->collection.len))
		&& (uri->rkey.data == NULL
			|| syntax_is_record_key(uri->rkey.data, uri->rkey.len))
		&& (uri->fragment.data == NULL || is_fragment(uri->fragment));
}

bool
syntax_is_at_uri(const char *text, size_t len)
{
	AtUri		uri;

	return syntax_parse_at_uri(text, len, &uri);
}

/*
 * The characters RFC 3986 gives a fragment, and square brackets, which JSON
 * paths use.
 */
static bool
is_fragment(Slice text)
{
	return text.len > 0 && text.data[0] == '/'
		&& all_in(ALNUM "._~:@!$&'()*+,;=%[]/-", text)
		&& percent_signs_are_encodings(text);
}

/* One label of a hostname. */
static bool
is_label(Slice label)
{
	return label.len >= 1 && label.len <= LABEL_MAX
		&& label.data[0] != '-' && label.data[label.len - 1] != '-'
		&& all_in(ALNUM "-", label);
}

/* Is every percent sign followed by two hex digits? */
static bool
percent_signs_are_encodings(Slice text)
{
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] == '%'
			&& (text.len - i < 3
				|| !in(HEX, text.data[i + 1]) || !in(HEX, text.data[i + 2])))
			return false;
	return true;
}

/*
 * Split at the first separator: the part before it is returned, the part
 * after it stays in *rest.  Without a separator everything is returned, and
 * rest->data becomes NULL, which tells "a:" from "a".
 */
static Slice
take_until(Slice *rest, char separator)
{
	Slice		head = *rest;
	const char *found = NULL;

	if (rest->len > 0)
		found = memchr(rest->data, separator, rest->len);
	if (found == NULL)
	{
		*rest = (Slice) {NULL, 0};
		return head;
	}
	head.len = (size_t) (found - head.data);
	rest->len -= head.len + 1;
	rest->data = found + 1;
	return head;
}

/* NUL, the terminator of every alphabet, belongs to none of them. */
static bool
in(const char *alphabet, char c)
{
	return c != '\0' && strchr(alphabet, c) != NULL;
}

static bool
all_in(const char *alphabet, Slice text)
{
	for (size_t i = 0; i < text.len; i++)
		if (!in(alphabet, text.data[i]))
			return false;
	return true;
}
