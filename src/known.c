/*-------------------------------------------------------------------------
 *
 * known.c
 *		Which records a repository has at the head that its lane knows.
 *
 * applyWrites takes no swapRecord: that a record is still what it was when its
 * write was planned follows only from the head, and only for who knows what
 * there is at that head.  So a lane keeps, of each record of its account, the
 * record key and the cid; or rather 64 bits of each, by a hash that nobody
 * outside can know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"

#include "known.h"

typedef struct KnownRecord
{
	uint64		rkey;
	uint64		cid;
	char		status;
} KnownRecord;

#define SH_PREFIX records
#define SH_ELEMENT_TYPE KnownRecord
#define SH_KEY_TYPE uint64
#define SH_KEY rkey
#define SH_HASH_KEY(tb, key) ((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Most people have answered few events. */
#define FEW_RECORDS		4

struct Known
{
	records_hash *records;
	Size		size;			/* as it was added to the sum */
};

static Size all_sizes = 0;

static uint64
digest(const char *text)
{
	static uint64 seed = 0;

	if (seed == 0)
		seed = pg_prng_uint64(&pg_global_prng_state) | 1;
	return hash_bytes_extended((const unsigned char *) text, strlen(text),
							   seed);
}

static void
measure(Known *known, Size size)
{
	all_sizes += size - known->size;
	known->size = size;
}

Known *
known_new(MemoryContext context)
{
	Known	   *known = MemoryContextAllocZero(context, sizeof(Known));

	known->records = records_create(context, FEW_RECORDS, NULL);
	measure(known, known->records->size * sizeof(KnownRecord));
	return known;
}

void
known_free(Known *known)
{
	if (known == NULL)
		return;
	measure(known, 0);
	records_destroy(known->records);
	pfree(known);
}

void
known_set(Known *known, const char *rkey, const char *cid)
{
	bool		found;

	if (known == NULL)
		return;
	if (cid == NULL)
	{
		records_delete(known->records, digest(rkey));
		return;
	}
	records_insert(known->records, digest(rkey), &found)->cid = digest(cid);
	measure(known, known->records->size * sizeof(KnownRecord));
}

/* False also where nothing is known. */
bool
known_has(const Known *known, const char *rkey, const char *cid)
{
	KnownRecord *record;

	if (known == NULL)
		return false;
	record = records_lookup(known->records, digest(rkey));
	return cid == NULL ? record == NULL :
		record != NULL && record->cid == digest(cid);
}

Size
known_memory(void)
{
	return all_sizes;
}
