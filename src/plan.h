/*-------------------------------------------------------------------------
 *
 * plan.h
 *		The decision: what would make desired, intent and observed agree.
 *
 * Situation and Decision mirror the composite types rsvp_sync.situation and
 * rsvp_sync.decision in sql/50-plan.sql, attribute by attribute and in the
 * same order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_PLAN_H
#define RSVP_SYNC_PLAN_H

#include <stdbool.h>

/* One key as it is now.  Texts are NULL where SQL has NULL. */
typedef struct Situation
{
	/* desired */
	bool		present;		/* the query has a row for the key */
	const char *withheld;		/* why nothing is to be published */
	const char *on_withheld;	/* delete, keep */
	bool		has_did;
	bool		did_valid;
	bool		has_event;
	bool		event_valid;
	bool		mapped;			/* the status is in the map at all */
	const char *local;			/* going, interested, notgoing, or none */
	bool		past;			/* the event is over and that matters */
	bool		by_network;		/* the change came from the network */
	/* intent */
	bool		known;			/* planned before, or a baseline */
	bool		same_slot;		/* still speaks for the same (did, event) */
	const char *bond;			/* own, adopted, or none */
	bool		wrote;			/* we have written that record */
	const char *base_local;
	const char *base_cid;
	const char *sent_local;
	const char *first_local;
	bool		doubt;			/* a call's outcome is unknown */
	bool		rival;			/* a later changed key speaks for the slot */
	bool		heir;			/* an earlier one would take the record over */
	/* observed, in the slot that is acted on */
	bool		remote_known;	/* we know whether there is a record */
	const char *remote_rkey;
	const char *remote_cid;		/* none: there is no record */
	const char *remote_status;
	bool		remote_sent;	/* its cid is among our unconfirmed sends */
	bool		listed;			/* the account's records are current */
	bool		local_newer;	/* local change later than the remote one */
	/* account */
	const char *account;		/* its state; none: no account */
	bool		granted;		/* the source may speak for it */
	/* options and brakes */
	const char *on_cancel;		/* notgoing, delete */
	const char *on_delete;		/* delete, notgoing, keep */
	const char *conflict;		/* latest, local, remote */
	bool		detaching;
	bool		truncated;
	bool		approved;
	bool		over_limit;
} Situation;

/* What to do, and how the key stands if nothing is to be done. */
typedef struct Decision
{
	const char *action;			/* none, list, read, put, delete, forget,
								 * handover, wait, hold */
	const char *state;			/* none: keep what is recorded */
	const char *reason_code;
	const char *send;			/* for put: the value to send */
	const char *bond;			/* the bond from now on */
	const char *rkey;			/* record key of the bond; none: to be minted */
	const char *swap;			/* cid the record must have; none: no record */
	const char *base_local;		/* the base from now on */
	const char *base_cid;
	bool		confirmed;		/* unconfirmed sends are settled */
	bool		withdraws;		/* counts as a withdrawal */
	bool		live;			/* wants a record in its slot */
} Decision;

extern void plan_decide(const Situation *s, Decision *d);

#endif							/* RSVP_SYNC_PLAN_H */
