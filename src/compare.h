/*-------------------------------------------------------------------------
 *
 * compare.h
 *		Is a row as it should be, without its being planned?
 *
 * What of a row, its intent and its record decides that.  A Slice without
 * data is SQL's NULL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_COMPARE_H
#define RSVP_SYNC_COMPARE_H

#include <stdbool.h>

#include "syntax.h"

/* What an attendance row may be told. */
enum
{
	TOLD_URI, TOLD_CID, TOLD_RKEY, TOLD_COUNT
};

/* What is desired of a row now. */
typedef struct Wish
{
	bool		present;		/* the query has it */
	bool		mapped;			/* its status is in the map at all, */
	Slice		local;			/* and this is what the map makes of it */
	bool		past;			/* its event is over, and that matters */
	bool		leaving;		/* its user takes leave, or has */
	Slice		did;
	Slice		event_uri;
	Slice		withheld;
	Slice		on_withheld;
	bool		tellable;		/* there is room for what it is told */
	Slice		told[TOLD_COUNT];
} Wish;

/* What is recorded of it. */
typedef struct Recorded
{
	bool		live;
	bool		has_bond;
	bool		doubt;
	bool		sent;			/* something is sent and not confirmed */
	bool		writeback;		/* it is still to be told */
	Slice		did;
	Slice		event_uri;
	Slice		rkey;
	Slice		base_local;
	Slice		base_cid;
	Slice		state;
	Slice		reason_code;
	Slice		reason;
} Recorded;

typedef enum Verdict
{
	VERDICT_RIGHT,				/* planning it would change nothing */
	VERDICT_NO_ACCOUNT,			/* nor here, while its did has no account */
	VERDICT_ALONE,				/* nor here, if nobody else is in its slot */
	VERDICT_RECORD,				/* and compare_record() says so, too */
	VERDICT_SUSPECT				/* it is to be planned */
} Verdict;

extern Verdict compare_row(const Wish *wish, const Recorded *recorded);
extern bool compare_record_by_cid(const Recorded *recorded);
extern bool compare_record(const Wish *wish, const Recorded *recorded,
						   Slice cid, Slice status);
extern bool compare_told(const Wish *wish, const Recorded *recorded,
						 const bool *tells);

#endif							/* RSVP_SYNC_COMPARE_H */
