/*-------------------------------------------------------------------------
 *
 * lookup.h
 *		One of our own tables, looked up by index many times over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LOOKUP_H
#define RSVP_SYNC_LOOKUP_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"

#include "syntax.h"

#define LOOKUP_NKEYS	2

/* While it is open; the slot has the row that was found last. */
typedef struct Lookup
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	MemoryContext context;		/* in which the scan keeps what it needs */
	int			nkeys;
	ScanKeyData key[LOOKUP_NKEYS];
	/* of a walk: */
	bool		walks;			/* the scan is at the key before, and not at its end */
	struct varlena *from;		/* where it began: asked for at each step */
	bool		at_entry;		/* of the index, that was not taken yet */
	int			luck;			/* keys that were near, less those that were not */
	int			rest;			/* keys that are not walked to, for want of it */
} Lookup;

extern void lookup_open(Lookup *lookup, const char *table, const char *index,
						int nkeys);
extern int	lookup_column(Lookup *lookup, const char *name);
extern void lookup_begin(Lookup *lookup, Datum first, Datum second);
extern bool lookup_next(Lookup *lookup);
extern bool lookup_walk(Lookup *lookup, Datum first, Datum second);
extern void lookup_close(Lookup *lookup);

extern Slice lookup_text(Lookup *lookup, int column);
extern bool lookup_bool(Lookup *lookup, int column);

#endif							/* RSVP_SYNC_LOOKUP_H */
