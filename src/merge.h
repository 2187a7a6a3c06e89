/*-------------------------------------------------------------------------
 *
 * merge.h
 *		What a statement on the network means for an attendance row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_MERGE_H
#define RSVP_SYNC_MERGE_H

#include <stdbool.h>

/*
 * One slot of one source as it is now.  The record is the one that speaks for
 * the slot; what was heard is what spoke for it when it was last merged.
 */
typedef struct Meeting
{
	bool		present;		/* a row of this slot is known, and there */
	bool		withdrawing;	/* that no record is left is our own doing */
	const char *local;			/* what its status maps to */
	const char *base_local;		/* the same when both sides last agreed */
	bool		heard;			/* a record was ever merged */
	const char *heard_cid;		/* empty: that there is none any more; "?":
								 * planning gave way, the row does not say so */
	const char *heard_status;
	const char *remote_cid;		/* none: no record is left */
	const char *remote_status;	/* none: a word we do not know */
	bool		remote_sent;	/* it is among our unconfirmed sends */
	bool		local_newer;	/* the row changed later than the record */
	const char *conflict;		/* latest, local, remote */
	bool		verified;		/* somebody we trust says so */
	bool		remote_other;	/* another record than the one heard */
} Meeting;

extern const char *merge_decide(const Meeting *m);

#endif							/* RSVP_SYNC_MERGE_H */
