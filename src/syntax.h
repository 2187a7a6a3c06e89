/*-------------------------------------------------------------------------
 *
 * syntax.h
 *		What the identifiers of the AT Protocol may look like.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_SYNTAX_H
#define RSVP_SYNC_SYNTAX_H

#include <stdbool.h>
#include <stddef.h>

#include "multibase.h"

/* Longest forms, in characters. */
#define AT_URI_MAX		8192
#define DID_MAX			2048
#define HANDLE_MAX		253
#define LABEL_MAX		63
#define NSID_MAX		(HANDLE_MAX + 1 + LABEL_MAX)
#define RECORD_KEY_MAX	512
#define TID_LEN			13
#define CID_MIN			8
#define CID_MAX			256

/* Bytes that any CID of at most CID_MAX characters of base32 can have. */
#define CID_BYTES_MAX	BASE32_DECODED_SIZE(CID_MAX)

/* The digits of a TID; they sort as the numbers they stand for. */
#define TID_ALPHABET	"234567abcdefghijklmnopqrstuvwxyz"

/* A stretch of somebody else's text; data is NULL where there is none. */
typedef struct Slice
{
	const char *data;
	size_t		len;
} Slice;

/* The parts of an at-uri, inside the text that was parsed. */
typedef struct AtUri
{
	Slice		authority;		/* a DID or a handle */
	Slice		collection;		/* an NSID, or none */
	Slice		rkey;			/* a record key, or none */
	Slice		fragment;		/* what follows '#', or none */
} AtUri;

extern bool syntax_is_did(const char *text, size_t len);
extern bool syntax_is_handle(const char *text, size_t len);
extern bool syntax_is_nsid(const char *text, size_t len);
extern bool syntax_is_record_key(const char *text, size_t len);
extern bool syntax_is_tid(const char *text, size_t len);
extern bool syntax_is_datetime(const char *text, size_t len);
extern bool syntax_is_cid(const char *text, size_t len);
extern bool syntax_is_at_uri(const char *text, size_t len);

extern bool syntax_parse_at_uri(const char *text, size_t len, AtUri *uri);
extern bool syntax_parse_cid(const char *text, size_t len,
							 unsigned char *bytes, size_t *nbytes);

#endif							/* RSVP_SYNC_SYNTAX_H */
