/*-------------------------------------------------------------------------
 *
 * record.c
 *		The cid of a record: its DRISL-CBOR, hashed and named.
 *
 * A record has exactly one encoding, and its cid is the hash of that, so
 * every byte here has to be what any server of the network would write:
 * shortest heads, definite lengths, map keys by length and then by byte.
 * What has no such encoding (a fraction, an integer that JSON parsers round,
 * a malformed link) is an error that names the field: a cid that is almost
 * right would be worse than none.
 *
 * The encoder walks the jsonb itself, not its text, and recurses once for
 * each level of nesting.  Memory is the caller's current context.
 *
 * Specification: Data Model, "Data Types", "JSON Representation", "blob
 * Type" and "Link and CID Formats".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "record.h"
#include "syntax.h"

/* The integers that every JSON parser keeps exactly, both ways from zero. */
#define SAFE_INTEGER_MAX	INT64CONST(9007199254740991)

#define CID_TAG			42
#define SHA256_SIZE		32

/* How much of a field's name or value an error message shows. */
#define SHOWN_MAX		60

/* CBOR major types, in the place they have in a head's first byte. */
#define CBOR_UNSIGNED	0x00
#define CBOR_NEGATIVE	0x20
#define CBOR_BYTES		0x40
#define CBOR_TEXT		0x60
#define CBOR_ARRAY		0x80
#define CBOR_MAP		0xa0
#define CBOR_TAG		0xc0
#define CBOR_FALSE		0xf4
#define CBOR_TRUE		0xf5
#define CBOR_NULL		0xf6

/* What a record's cid begins with: CIDv1, DRISL, SHA-256, 32 bytes. */
static const unsigned char record_cid_prefix[] = {0x01, 0x71, 0x12, 0x20};

/* The codec of a blob's cid: bytes as they are. */
#define CID_CODEC_RAW	0x55

/* A text in UTF-8, whatever the server's encoding is. */
typedef struct Utf8
{
	const char *data;
	int			len;
} Utf8;

typedef struct Field
{
	Utf8		key;
	JsonbValue	value;
} Field;

typedef struct Map
{
	Field	   *fields;
	int			nfields;
} Map;

typedef struct Encoder
{
	StringInfoData buf;			/* the encoding so far */
	Utf8		field;			/* the field being encoded; NULL outside */
} Encoder;

static void encode_value(Encoder *enc, const JsonbValue *value);
static void encode_container(Encoder *enc, JsonbContainer *container);

/* The first characters of a text from the record, fit for a message. */
static char *
shown(const char *text, int len)
{
	return pnstrdup(text, pg_mbcliplen(text, len, SHOWN_MAX));
}

/* The present field's name in the server's encoding. */
static char *
field_name(const Encoder *enc)
{
	char	   *name = pg_any_to_server(enc->field.data, enc->field.len,
										PG_UTF8);

	if (name == enc->field.data)
		return shown(name, enc->field.len);
	return shown(name, strlen(name));
}

/* Complain about the present field, or the record if it is in none. */
_Noreturn static void
bad_field(const Encoder *enc, int sqlstate, const char *what,
		  const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 enc->field.data == NULL
			 ? errmsg("record %s", what)
			 : errmsg("record field \"%s\" %s", field_name(enc), what),
			 errhint("%s", hint)));
}

static Utf8
to_utf8(const char *text, int len)
{
	char	   *utf8 = pg_server_to_any(text, len, PG_UTF8);

	return (Utf8) {utf8, utf8 == text ? len : (int) strlen(utf8)};
}

/* Write a CBOR head: a major type and its argument, in the fewest bytes. */
static void
put_head(Encoder *enc, int major, uint64 argument)
{
	int			log_size = 0;	/* the argument takes 2^log_size bytes */

	if (argument < 24)
	{
		appendStringInfoChar(&enc->buf, (char) (major | (int) argument));
		return;
	}
	while (log_size < 3 && (argument >> (8 << log_size)) != 0)
		log_size++;
	appendStringInfoChar(&enc->buf, (char) (major | (24 + log_size)));
	for (int shift = (8 << log_size) - 8; shift >= 0; shift -= 8)
		appendStringInfoChar(&enc->buf, (char) (argument >> shift));
}

static void
put_string(Encoder *enc, int major, const void *data, size_t len)
{
	put_head(enc, major, len);
	appendBinaryStringInfo(&enc->buf, data, (int) len);
}

static void
encode_null(Encoder *enc, const JsonbValue *value)
{
	appendStringInfoChar(&enc->buf, (char) CBOR_NULL);
}

static void
encode_bool(Encoder *enc, const JsonbValue *value)
{
	appendStringInfoChar(&enc->buf,
						 (char) (value->val.boolean ? CBOR_TRUE : CBOR_FALSE));
}

static void
encode_string(Encoder *enc, const JsonbValue *value)
{
	Utf8		text = to_utf8(value->val.string.val, value->val.string.len);

	put_string(enc, CBOR_TEXT, text.data, text.len);
}

/*
 * The integer a JSON number stands for.  1.0 and 1e2 are integers, as they
 * are to the JavaScript that reads them on the other side.
 */
static int64
integer_value(const Encoder *enc, Numeric number)
{
	Datum		value = NumericGetDatum(number);
	Datum		whole = DirectFunctionCall2(numeric_trunc, value,
											Int32GetDatum(0));
	Datum		limit = NumericGetDatum(int64_to_numeric(SAFE_INTEGER_MAX));

	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, value, whole)))
		bad_field(enc, ERRCODE_INVALID_PARAMETER_VALUE,
				  "holds a number with a fraction",
				  "AT Protocol records have integers only; write the number "
				  "as a string, or scaled to an integer.");
	if (DatumGetBool(DirectFunctionCall2(numeric_gt,
										 DirectFunctionCall1(numeric_abs,
															 value),
										 limit)))
		bad_field(enc, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				  "holds an integer beyond 53 bits",
				  "JSON parsers round integers outside of -9007199254740991 "
				  "to 9007199254740991; write it as a string.");
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, whole));
}

static void
encode_integer(Encoder *enc, const JsonbValue *value)
{
	int64		number = integer_value(enc, value->val.numeric);

	if (number >= 0)
		put_head(enc, CBOR_UNSIGNED, (uint64) number);
	else
		put_head(enc, CBOR_NEGATIVE, (uint64) (-1 - number));
}

/* Map keys: the shorter first, then by bytes. */
static int
compare_fields(const void *a, const void *b)
{
	const Utf8 *left = &((const Field *) a)->key;
	const Utf8 *right = &((const Field *) b)->key;

	if (left->len != right->len)
		return left->len < right->len ? -1 : 1;
	return memcmp(left->data, right->data, left->len);
}

/*
 * The fields of an object in the order they are encoded in.  jsonb happens
 * to keep a similar order, but by bytes of the server's encoding.
 */
static Map
sorted_fields(JsonbContainer *container)
{
	Map			map;
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbValue	value;
	JsonbIteratorToken token;

	map.nfields = 0;
	map.fields = palloc((JsonContainerSize(container) + 1) * sizeof(Field));
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			map.fields[map.nfields].key = to_utf8(value.val.string.val,
												  value.val.string.len);
		else if (token == WJB_VALUE)
			map.fields[map.nfields++].value = value;
	}
	qsort(map.fields, map.nfields, sizeof(Field), compare_fields);
	return map;
}

static const JsonbValue *
find_field(const Map *map, const char *name)
{
	int			len = strlen(name);

	for (int i = 0; i < map->nfields; i++)
		if (map->fields[i].key.len == len
			&& memcmp(map->fields[i].key.data, name, len) == 0)
			return &map->fields[i].value;
	return NULL;
}

/* {"$link": cid}: tag 42 over the cid's bytes behind a zero byte. */
static void
encode_link(Encoder *enc, const JsonbValue *link, bool alone)
{
	unsigned char bytes[1 + CID_BYTES_MAX] = {0};
	size_t		nbytes;

	if (!alone || link->type != jbvString
		|| !syntax_parse_cid(link->val.string.val, link->val.string.len,
							 bytes + 1, &nbytes))
		bad_field(enc, ERRCODE_INVALID_PARAMETER_VALUE,
				  "is no link",
				  "A link is an object with the single key \"$link\" and a "
				  "version 1 CID in base32.");
	put_head(enc, CBOR_TAG, CID_TAG);
	put_string(enc, CBOR_BYTES, bytes, 1 + nbytes);
}

/* {"$bytes": base64}: a byte string. */
static void
encode_bytes(Encoder *enc, const JsonbValue *base64, bool alone)
{
	unsigned char *bytes = NULL;
	size_t		nbytes = 0;
	bool		valid = alone && base64->type == jbvString;

	if (valid)
	{
		bytes = palloc(BASE64_DECODED_SIZE(base64->val.string.len));
		valid = base64_decode(base64->val.string.val, base64->val.string.len,
							  bytes, &nbytes);
	}
	if (!valid)
		bad_field(enc, ERRCODE_INVALID_PARAMETER_VALUE,
				  "is no byte string",
				  "A byte string is an object with the single key "
				  "\"$bytes\" and a text in base64.");
	put_string(enc, CBOR_BYTES, bytes, nbytes);
}

/* Is this value a link to bytes as they are, which a blob is? */
static bool
is_raw_link(const JsonbValue *value)
{
	unsigned char bytes[CID_BYTES_MAX];
	size_t		nbytes;
	JsonbValue	link;

	if (value == NULL || value->type != jbvBinary
		|| !JsonContainerIsObject(value->val.binary.data)
		|| getKeyJsonValueFromContainer(value->val.binary.data, "$link", 5,
										&link) == NULL)
		return false;
	return link.type == jbvString
		&& syntax_parse_cid(link.val.string.val, link.val.string.len,
							bytes, &nbytes)
		&& bytes[1] == CID_CODEC_RAW;
}

/* A blob has a type of its own, and fields that must be there. */
static void
check_blob(const Encoder *enc, const Map *map)
{
	const JsonbValue *mime = find_field(map, "mimeType");
	const JsonbValue *size = find_field(map, "size");

	if (!is_raw_link(find_field(map, "ref"))
		|| mime == NULL || mime->type != jbvString
		|| mime->val.string.len == 0
		|| size == NULL || size->type != jbvNumeric
		|| integer_value(enc, size->val.numeric) <= 0)
		bad_field(enc, ERRCODE_INVALID_PARAMETER_VALUE,
				  "is no blob",
				  "A blob has \"ref\", a link of codec raw, \"mimeType\", a "
				  "string that is not empty, and \"size\", a positive "
				  "integer.");
}

/* Where an object says its type, that is a string, and not an empty one. */
static void
check_type(const Encoder *enc, const Map *map)
{
	const JsonbValue *type = find_field(map, "$type");

	if (type == NULL)
		return;
	if (type->type != jbvString || type->val.string.len == 0)
		bad_field(enc, ERRCODE_INVALID_PARAMETER_VALUE,
				  "has a \"$type\" that is no type",
				  "\"$type\" is a string that is not empty, such as "
				  "\"community.lexicon.calendar.rsvp\".");
	if (type->val.string.len == 4
		&& memcmp(type->val.string.val, "blob", 4) == 0)
		check_blob(enc, map);
}

static void
encode_map(Encoder *enc, const Map *map)
{
	Utf8		outer = enc->field;

	check_type(enc, map);
	put_head(enc, CBOR_MAP, map->nfields);
	for (int i = 0; i < map->nfields; i++)
	{
		enc->field = map->fields[i].key;
		put_string(enc, CBOR_TEXT, enc->field.data, enc->field.len);
		encode_value(enc, &map->fields[i].value);
	}
	enc->field = outer;
}

/* An object is a link or a byte string if its keys say so, else a map. */
static void
encode_object(Encoder *enc, JsonbContainer *container)
{
	Map			map = sorted_fields(container);
	const JsonbValue *link = find_field(&map, "$link");
	const JsonbValue *bytes = find_field(&map, "$bytes");

	if (link != NULL)
		encode_link(enc, link, map.nfields == 1);
	else if (bytes != NULL)
		encode_bytes(enc, bytes, map.nfields == 1);
	else
		encode_map(enc, &map);
	pfree(map.fields);
}

static void
encode_array(Encoder *enc, JsonbContainer *container)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbValue	value;
	JsonbIteratorToken token;

	put_head(enc, CBOR_ARRAY, JsonContainerSize(container));
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			encode_value(enc, &value);
}

static void
encode_container(Encoder *enc, JsonbContainer *container)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (JsonContainerIsObject(container))
		encode_object(enc, container);
	else
		encode_array(enc, container);
}

static void
encode_nested(Encoder *enc, const JsonbValue *value)
{
	encode_container(enc, value->val.binary.data);
}

/* Encode one value by its type; iterating gives these types only. */
static void
encode_value(Encoder *enc, const JsonbValue *value)
{
	static void (*const encoders[]) (Encoder *, const JsonbValue *) =
	{
		[jbvNull] = encode_null,
		[jbvString] = encode_string,
		[jbvNumeric] = encode_integer,
		[jbvBool] = encode_bool,
		[jbvBinary] = encode_nested,
	};

	if (value->type >= lengthof(encoders) || encoders[value->type] == NULL)
		elog(ERROR, "unexpected jsonb value of type %d", (int) value->type);
	encoders[value->type] (enc, value);
}

/* The text form of the cid that names these bytes of DRISL. */
static char *
cid_of(const char *data, int len)
{
	unsigned char cid[sizeof(record_cid_prefix) + SHA256_SIZE];
	char	   *text = palloc(1 + BASE32_ENCODED_SIZE(sizeof(cid)) + 1);
	size_t		ntext;

	memcpy(cid, record_cid_prefix, sizeof(record_cid_prefix));
	if (EVP_Digest(data, len, cid + sizeof(record_cid_prefix), NULL,
				   EVP_sha256(), NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a SHA-256 hash"),
				 errhint("Look at the configuration of OpenSSL on this "
						 "server.")));
	text[0] = 'b';
	ntext = base32_encode(cid, sizeof(cid), text + 1);
	text[1 + ntext] = '\0';
	return text;
}

/* Is this an object that stands for something else than a map? */
static bool
is_special(JsonbContainer *container)
{
	JsonbValue	ignored;

	return getKeyJsonValueFromContainer(container, "$link", 5, &ignored)
		|| getKeyJsonValueFromContainer(container, "$bytes", 6, &ignored);
}

/* The cid of a record, as palloc'd text. */
char *
record_cid_text(Jsonb *record)
{
	Encoder		enc;
	char	   *cid;

	if (!JB_ROOT_IS_OBJECT(record) || is_special(&record->root))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("record is not an object"),
				 errhint("A record is a JSON object, such as "
						 "{\"$type\": \"community.lexicon.calendar.rsvp\", "
						 "...}.")));
	enc.field = (Utf8) {NULL, 0};
	initStringInfo(&enc.buf);
	encode_container(&enc, &record->root);
	cid = cid_of(enc.buf.data, enc.buf.len);
	pfree(enc.buf.data);
	return cid;
}

PG_FUNCTION_INFO_V1(rsvp_sync_record_cid);
Datum
rsvp_sync_record_cid(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(record_cid_text(PG_GETARG_JSONB_P(0))));
}
