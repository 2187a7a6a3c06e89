/*-------------------------------------------------------------------------
 *
 * multibase.c
 *		Text forms of bytes: base32, base64, and the multibase alphabets.
 *
 * Both decoders are one loop over the same idea: every character is worth a
 * few bits, bits gather in an accumulator, whole bytes leave it.
 *
 * This file is pure: it allocates nothing, raises nothing, and includes
 * nothing of PostgreSQL, so that the fuzz harness can link it without a
 * server.  Texts are a pointer and a length; no terminator is looked for.
 *
 *-------------------------------------------------------------------------
 */
#include "multibase.h"

#include <string.h>

#define DIGITS	"0123456789"
#define LOWER	"abcdefghijklmnopqrstuvwxyz"
#define UPPER	"ABCDEFGHIJKLMNOPQRSTUVWXYZ"

static const char base32_alphabet[] = LOWER "234567";
static const char base64_alphabet[] = UPPER LOWER DIGITS "+/";

/*
 * The alphabets of the multibase table that may name a CID, by prefix
 * character.  'Q' is missing on purpose: it would begin a version 0 CID,
 * which has no multibase prefix and is not part of the AT Protocol.
 */
static const struct
{
	char		prefix;
	const char *alphabet;
}			multibases[] =
{
	{'b', LOWER "234567"},		/* base32, what the protocol writes */
	{'B', UPPER "234567"},
	{'c', LOWER "234567="},
	{'C', UPPER "234567="},
	{'v', DIGITS "abcdefghijklmnopqrstuv"},
	{'V', DIGITS "ABCDEFGHIJKLMNOPQRSTUV"},
	{'t', DIGITS "abcdefghijklmnopqrstuv="},
	{'T', DIGITS "ABCDEFGHIJKLMNOPQRSTUV="},
	{'h', "ybndrfg8ejkmcpqxot1uwisza345h769"},
	{'z', "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"},
	{'Z', "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"},
	{'k', DIGITS LOWER},
	{'K', DIGITS UPPER},
	{'f', DIGITS "abcdef"},
	{'F', DIGITS "ABCDEF"},
	{'9', DIGITS},
	{'7', "01234567"},
	{'0', "01"},
	{'m', UPPER LOWER DIGITS "+/"},
	{'M', UPPER LOWER DIGITS "+/="},
	{'u', UPPER LOWER DIGITS "-_"},
	{'U', UPPER LOWER DIGITS "-_="},
};

/*
 * Turn characters of an alphabet of 2^width into bytes.  The bits left over
 * at the end, fewer than a byte, are handed back for the caller to judge.
 */
static bool
decode_bits(const char *alphabet, int width, const char *text, size_t len,
			unsigned char *bytes, size_t *nbytes, unsigned int *rest,
			int *restbits)
{
	size_t		size = (size_t) 1 << width;
	unsigned int bits = 0;
	int			held = 0;
	size_t		n = 0;

	for (size_t i = 0; i < len; i++)
	{
		const char *found = memchr(alphabet, text[i], size);

		if (found == NULL)
			return false;
		bits = (bits << width) | (unsigned int) (found - alphabet);
		held += width;
		if (held >= 8)
		{
			held -= 8;
			bytes[n++] = (unsigned char) (bits >> held);
			bits &= (1u << held) - 1;
		}
	}
	*nbytes = n;
	*rest = bits;
	*restbits = held;
	return true;
}

/*
 * Decode RFC 4648 base32, lower case and unpadded, as CIDs write it.  Only
 * the one text that encoding these bytes would give is accepted: a CID is
 * compared as text, so a second spelling would be a second identity.
 */
bool
base32_decode(const char *text, size_t len, unsigned char *bytes,
			  size_t *nbytes)
{
	unsigned int rest;
	int			restbits;

	return decode_bits(base32_alphabet, 5, text, len, bytes, nbytes,
					   &rest, &restbits)
		&& restbits < 5 && rest == 0;
}

/* Encode as RFC 4648 base32, lower case and unpadded; no terminator. */
size_t
base32_encode(const unsigned char *bytes, size_t nbytes, char *text)
{
	unsigned int bits = 0;
	int			held = 0;
	size_t		n = 0;

	for (size_t i = 0; i < nbytes; i++)
	{
		bits = (bits << 8) | bytes[i];
		held += 8;
		while (held >= 5)
		{
			held -= 5;
			text[n++] = base32_alphabet[(bits >> held) & 31];
		}
		bits &= (1u << held) - 1;
	}
	if (held > 0)
		text[n++] = base32_alphabet[(bits << (5 - held)) & 31];
	return n;
}

/*
 * Decode RFC 4648 base64.  Padding may be left out, but where there is any
 * it must be all of it.  Bits beyond the last byte are ignored, as that
 * section allows and as the servers of the network do.
 */
bool
base64_decode(const char *text, size_t len, unsigned char *bytes,
			  size_t *nbytes)
{
	size_t		padding = 0;
	unsigned int rest;
	int			restbits;

	while (padding < 2 && padding < len && text[len - padding - 1] == '=')
		padding++;
	if (padding > 0 && len % 4 != 0)
		return false;
	return decode_bits(base64_alphabet, 6, text, len - padding, bytes,
					   nbytes, &rest, &restbits)
		&& restbits < 6;
}

/* Is this a multibase prefix followed by characters of its alphabet only? */
bool
multibase_is_valid(const char *text, size_t len)
{
	const char *alphabet = NULL;
	size_t		size;

	if (len < 2)
		return false;
	for (size_t i = 0; i < sizeof(multibases) / sizeof(multibases[0]); i++)
		if (multibases[i].prefix == text[0])
			alphabet = multibases[i].alphabet;
	if (alphabet == NULL)
		return false;

	size = strlen(alphabet);
	for (size_t i = 1; i < len; i++)
		if (memchr(alphabet, text[i], size) == NULL)
			return false;
	return true;
}
