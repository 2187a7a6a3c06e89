/*-------------------------------------------------------------------------
 *
 * digests.h
 *		A set of 64-bit digests, made once and asked often.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_DIGESTS_H
#define RSVP_SYNC_DIGESTS_H

#include "postgres.h"

#include "common/hashfn.h"

#include "syntax.h"

/* The digest of a text, continued from another's */
static inline uint64
digest_of(Slice text, uint64 seed)
{
	return DatumGetUInt64(hash_any_extended((const unsigned char *) text.data,
											text.len, seed));
}

/* That of a slot; its last bit is another's.  Never 0. */
static inline uint64
slot_digest(Slice did, Slice event_uri)
{
	uint64		digest = digest_of(did, digest_of(event_uri, 0));

	return (digest & ~UINT64CONST(1)) ? digest & ~UINT64CONST(1) : 2;
}

/* Those of all records, by the number that SQL has for them; NULL: no more. */
typedef struct Digests Digests;

extern const Digests *digests_of_records(int64 number);
extern bool digests_have_record(const Digests *digests, Slice did, Slice rkey,
								Slice cid);

#endif							/* RSVP_SYNC_DIGESTS_H */
