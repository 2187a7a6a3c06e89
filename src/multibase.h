/*-------------------------------------------------------------------------
 *
 * multibase.h
 *		Text forms of bytes: base32, base64, and the multibase alphabets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_MULTIBASE_H
#define RSVP_SYNC_MULTIBASE_H

#include <stdbool.h>
#include <stddef.h>

/* Room that decoding n characters, or encoding n bytes, can need at most. */
#define BASE32_DECODED_SIZE(n)	((n) * 5 / 8)
#define BASE32_ENCODED_SIZE(n)	(((n) * 8 + 4) / 5)
#define BASE64_DECODED_SIZE(n)	((n) / 4 * 3 + 3)

extern bool base32_decode(const char *text, size_t len,
						  unsigned char *bytes, size_t *nbytes);
extern size_t base32_encode(const unsigned char *bytes, size_t nbytes,
							char *text);
extern bool base64_decode(const char *text, size_t len,
						  unsigned char *bytes, size_t *nbytes);
extern bool multibase_is_valid(const char *text, size_t len);

#endif							/* RSVP_SYNC_MULTIBASE_H */
