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

/* A set as SQL keeps it, a bytea: its seed, then slots, 0 where empty */
extern bool digests_have_record(const char *set, size_t size, Slice did,
								Slice rkey, Slice cid);

#endif							/* RSVP_SYNC_DIGESTS_H */
