/*-------------------------------------------------------------------------
 *
 * plan.c
 *		The decision: what would make desired, intent and observed agree.
 *
 * A pure function of its argument: no clock, no table, no memory.  The rules
 * are those of docs/architecture.md, "Slot, bond, base".  Who may change a
 * record, and on whose word, is decided here and nowhere else.
 *
 * Reads: first what the row wishes for (a record, no record, or that things
 * be left alone), then what stands between the wish and the network.
 *
 *-------------------------------------------------------------------------
 */
#include <stddef.h>
#include <string.h>

#include "plan.h"

typedef enum Wish
{
	WISH_RECORD,				/* a record of this value */
	WISH_NONE,					/* no record of ours */
	WISH_LEAVE					/* whatever there is, as it is */
} Wish;

/* Account states in which only the user can help. */
static const char *const user_states[] = {
	"needs_login", "wrong_password", "deactivated", "takendown"
};

/* The same, or both missing? */
static bool
same(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

static bool
is(const char *a, const char *b)
{
	return a != NULL && strcmp(a, b) == 0;
}

static void
say(Decision *d, const char *action, const char *state, const char *reason)
{
	d->action = action;
	d->state = state;
	d->reason_code = reason;
}

/* Both sides agree from now on. */
static void
rebase(const Situation *s, Decision *d)
{
	d->base_local = s->local;
	d->base_cid = s->remote_cid;
	d->confirmed = true;
}

/* May we talk to this account's PDS in its name?  If not, say why. */
static bool
account_ready(const Situation *s, Decision *d)
{
	const char *reason = NULL;

	if (s->account == NULL)
		reason = "no_account";
	else if (!s->granted)
		reason = "account_not_granted";
	else
		for (size_t i = 0; i < sizeof(user_states) / sizeof(char *); i++)
			if (is(s->account, user_states[i]))
				reason = user_states[i];
	if (reason == NULL)
		return true;
	say(d, "wait", "blocked", reason);
	return false;
}

/* A withdrawal that a human has to look at first? */
static bool
brake_holds(const Situation *s, Decision *d)
{
	const char *reason = s->truncated ? "truncated" :
		s->over_limit ? "withdraw_limit" : NULL;

	if (reason == NULL || s->approved)
		return false;
	say(d, "hold", "held", reason);
	return true;
}

/* Why this row publishes nothing, if its own values already say so. */
static const char *
missing_part(const Situation *s)
{
	if (!s->has_did)
		return "no_did";
	if (!s->did_valid)
		return "invalid_did";
	if (!s->has_event)
		return "no_event_uri";
	if (!s->event_valid)
		return "invalid_event_uri";
	if (!s->mapped)
		return "unmapped_status";
	return NULL;
}

/* The wish of a row that is there and not withheld. */
static Wish
wish_of_row(const Situation *s, Decision *d)
{
	const char *missing = missing_part(s);

	if (missing != NULL)
	{
		say(d, "none", "withheld", missing);
		return WISH_LEAVE;
	}
	if (s->local == NULL)
	{
		say(d, "none", "withheld", "status_not_published");
		if (d->bond == NULL)
			d->base_local = NULL;	/* both say nothing: they agree */
		/* A record of ours, or one that may have been made. */
		return is(d->bond, "own") || (d->bond == NULL && s->doubt) ?
			WISH_NONE : WISH_LEAVE;
	}
	if (s->past)
	{
		say(d, "none", "withheld", "past_event");
		return WISH_LEAVE;
	}
	/* Who may not speak for the account does not compete for its slots. */
	d->live = s->granted;
	if (d->live && s->rival)
	{
		say(d, "none", "superseded", "superseded");
		return WISH_LEAVE;
	}
	return WISH_RECORD;
}

static Wish
wish_of(const Situation *s, Decision *d)
{
	if (s->detaching)
	{
		say(d, "none", "withheld", "detaching");
		return WISH_NONE;
	}
	if (!s->present)
	{
		say(d, "forget", NULL, "row_deleted");
		return is(s->on_delete, "keep") ? WISH_LEAVE : WISH_NONE;
	}
	/* Elsewhere now; but a user without a DID may only be signed out. */
	if (!s->same_slot && s->has_did && (s->bond != NULL || s->doubt))
	{
		say(d, "none", NULL, "moved");
		return WISH_NONE;
	}
	if (s->withheld != NULL)
	{
		say(d, "none", "withheld", s->withheld);
		return is(s->on_withheld, "delete") ? WISH_NONE : WISH_LEAVE;
	}
	return wish_of_row(s, d);
}

/* No record is bound to this row from now on. */
static void
unbind(Decision *d)
{
	d->bond = NULL;
	d->rkey = NULL;
	d->base_cid = NULL;
	d->confirmed = true;
}

/*
 * Nothing of ours is out there: what wish_of() said stands.  If there was
 * something, a later wish for a record is a new one.
 */
static void
let_go(Decision *d)
{
	if (d->bond != NULL)
		d->base_local = NULL;
	unbind(d);
}

/* Overwrite the record with this value. */
static void
send_value(const Situation *s, Decision *d, const char *value)
{
	if (is(value, "notgoing") &&
		(is(d->base_local, "going") || is(d->base_local, "interested")))
	{
		d->withdraws = true;
		if (brake_holds(s, d))
			return;
	}
	if (!account_ready(s, d))
		return;
	say(d, "put", NULL, NULL);
	d->send = value;
	d->swap = s->remote_cid;
}

static void
send_delete(const Situation *s, Decision *d)
{
	d->withdraws = true;
	if (brake_holds(s, d) || !account_ready(s, d))
		return;
	say(d, "delete", NULL, NULL);
	d->swap = s->remote_cid;
}

/* Ask the network first; that, too, is done in the account's name. */
static void
look_first(const Situation *s, Decision *d, const char *how)
{
	if (account_ready(s, d))
		say(d, how, NULL, NULL);
}

/*
 * Are the account's records current?  The account comes first, so that
 * reconcile(), which takes every listing for current, decides the same.
 */
static bool
listing_ready(const Situation *s, Decision *d)
{
	if (!account_ready(s, d))
		return false;
	if (!s->listed)
		say(d, "list", NULL, NULL);
	return s->listed;
}

static void
plan_withdrawal(const Situation *s, Decision *d)
{
	if (s->by_network && !s->present)
		let_go(d);				/* the record went first */
	else if (s->doubt || (d->bond != NULL && !s->remote_known))
		look_first(s, d, "read");
	else if (d->bond == NULL || s->remote_cid == NULL)
		let_go(d);
	else if (is(d->bond, "adopted") && !s->wrote)
		let_go(d);
	else if (s->heir)
		d->action = "handover";
	else if (!same(s->remote_cid, d->base_cid))
		let_go(d);				/* changed elsewhere since: not ours to remove */
	else if (is(s->on_delete, "never") ||	/* the user does not allow it */
			 (!s->present && is(s->on_delete, "notgoing")))
	{
		if (is(s->remote_status, "notgoing"))
			let_go(d);
		else
			send_value(s, d, "notgoing");
	}
	else
		send_delete(s, d);
}

/* The local value is new; bring the record there. */
static void
send_local(const Situation *s, Decision *d)
{
	if (is(s->local, "notgoing") && is(s->on_cancel, "delete") &&
		is(d->bond, "own"))
		send_delete(s, d);
	else
		send_value(s, d, s->local);
}

/* Does the local statement win over a remote one made since the base? */
static bool
local_wins(const Situation *s)
{
	if (is(s->conflict, "latest"))
		return s->local_newer;
	return is(s->conflict, "local");
}

static void
settle(const Situation *s, Decision *d, const char *reason)
{
	rebase(s, d);
	say(d, "none", "done", reason);
}

/* There is a record that is ours to keep true. */
static void
plan_bonded(const Situation *s, Decision *d)
{
	bool		local_changed = !same(s->local, d->base_local);
	bool		remote_changed = !same(s->remote_cid, d->base_cid);

	if (!s->remote_known)
		look_first(s, d, "read");
	else if (s->remote_cid == NULL)
	{
		if (local_changed)
			send_local(s, d);
		else
		{
			unbind(d);
			say(d, "none", "done", "deleted_elsewhere");
		}
	}
	else if (same(s->local, s->remote_status))
		settle(s, d, "published");
	else if (local_changed && (!remote_changed || local_wins(s)))
		send_local(s, d);
	else if (local_changed)
		settle(s, d, "remote_newer");
	else if (remote_changed)
		settle(s, d, "changed_elsewhere");
	else
	{
		d->confirmed = true;	/* what was sent meanwhile did not arrive */
		say(d, "none", NULL, NULL);
	}
}

/* Somebody's record is in the slot, and it is not bound to this row yet. */
static void
plan_adoption(const Situation *s, Decision *d)
{
	if (s->known && same(d->base_local, s->local))
	{
		say(d, "none", NULL, NULL);
		return;
	}
	if (!listing_ready(s, d))
		return;					/* it may be gone by now, another one be there */
	d->bond = "adopted";
	d->rkey = s->remote_rkey;
	if (same(s->local, s->remote_status))
		settle(s, d, "published");
	else if (local_wins(s))
		send_value(s, d, s->local);
	else
		settle(s, d, "remote_newer");
}

/* Nothing is in the slot, as far as we know. */
static void
plan_first(const Situation *s, Decision *d)
{
	bool		declines = is(s->local, "notgoing");

	if (s->known && same(d->base_local, s->local))
		say(d, "none", NULL, NULL);
	else if (!listing_ready(s, d))
		return;
	else if (declines && (is(s->on_cancel, "delete") ||
						  (s->first_local && !is(s->first_local, "notgoing"))))
	{
		d->base_local = s->local;
		say(d, "none", "withheld", "never_published");
	}
	else
		send_value(s, d, s->local);
}

static void
plan_record(const Situation *s, Decision *d)
{
	if (s->by_network)
		settle(s, d, "from_network");
	else if (s->doubt)
		look_first(s, d, "read");
	else if (d->bond != NULL)
		plan_bonded(s, d);
	else if (s->remote_cid != NULL)
		plan_adoption(s, d);
	else
		plan_first(s, d);
}

void
plan_decide(const Situation *s, Decision *d)
{
	Wish		wish;

	memset(d, 0, sizeof(*d));
	d->bond = s->bond;
	d->base_local = s->base_local;
	d->base_cid = s->base_cid;
	if (s->remote_sent)
	{
		/*
		 * What is out there is what we sent: the send arrived.  Of several it
		 * need not be the last one, so that the record says which.
		 */
		d->confirmed = true;
		d->base_local = s->remote_status;
		d->base_cid = s->remote_cid;
		if (d->bond == NULL)
			d->bond = "own";
	}
	if (d->bond != NULL)
		d->rkey = s->remote_rkey;

	wish = wish_of(s, d);
	if (wish == WISH_NONE)
		plan_withdrawal(s, d);
	else if (wish == WISH_RECORD)
		plan_record(s, d);
}
