/*-------------------------------------------------------------------------
 *
 * page.h
 *		A source read piece by piece, in the order of its primary key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_PAGE_H
#define RSVP_SYNC_PAGE_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "syntax.h"

/* Texts of an attendance row and of what is desired of it */
enum
{
	PAGE_TOLD_URI, PAGE_TOLD_CID, PAGE_TOLD_RKEY,
	PAGE_DID, PAGE_EVENT_URI, PAGE_STATUS, PAGE_WITHHELD, PAGE_ON_WITHHELD,
	PAGE_NTEXTS
};

enum
{
	PAGE_STARTS_AT, PAGE_ENDS_AT, PAGE_NTIMES
};

/* Valid during the call that gets it.  A Slice without data is NULL. */
typedef struct PageRow
{
	Slice		key;
	bool		present;		/* the desired query has it */
	bool		tellable;
	Slice		text[PAGE_NTEXTS];
	NullableDatum time[PAGE_NTIMES];	/* timestamptz */
} PageRow;

/* Called as the table's owner, in a context of the row's own. */
typedef void (*PageReader) (void *arg, const PageRow *row);

extern void page_read(int64 source_id, const char *after, const char *until,
					  PageReader fn, void *arg);

#endif							/* RSVP_SYNC_PAGE_H */
