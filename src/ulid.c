/*-------------------------------------------------------------------------
 *
 * ulid.c
 *		Sortable identifiers, as applications give them to their users.
 *
 * 48 bits of time in milliseconds and 80 random ones, in Crockford's base 32,
 * lower-case.  Touches nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port.h"
#include "utils/timestamp.h"

#include "ulid.h"

/* text has room for ULID_LENGTH characters and a zero. */
void
ulid_new(char *text)
{
	static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
	uint8		random[16];
	uint64		ms = (uint64) (GetCurrentTimestamp() / 1000 +
							   (int64) (POSTGRES_EPOCH_JDATE -
										UNIX_EPOCH_JDATE) * 86400 * 1000);

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not get random bytes")));
	for (int i = 9; i >= 0; i--, ms >>= 5)
		text[i] = digits[ms & 31];
	for (int i = 0; i < lengthof(random); i++)
		text[10 + i] = digits[random[i] & 31];
	text[ULID_LENGTH] = '\0';
}
