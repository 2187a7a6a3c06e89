/*-------------------------------------------------------------------------
 *
 * merge.c
 *		What a statement on the network means for an attendance row.
 *
 * A pure function of its argument, as plan.c is for the other direction.  The
 * rules are those of docs/inbound.md.
 *
 *-------------------------------------------------------------------------
 */
#include <stddef.h>
#include <string.h>

#include "merge.h"

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

/* Has the row said something since both sides last agreed, and not been sent? */
static bool
local_changed(const Meeting *m)
{
	return m->present && !same(m->local, m->base_local);
}

/* Does what the row says stand against the record? */
static bool
local_wins(const Meeting *m)
{
	if (!m->present || is(m->conflict, "remote"))
		return false;
	if (is(m->conflict, "local"))
		return local_changed(m);
	/* The two never agreed on anything: who spoke last counts, too. */
	return m->local_newer && (local_changed(m) || !m->heard);
}

/* The last record of the slot is gone. */
static const char *
merge_absence(const Meeting *m)
{
	/* Nothing was there, or that it is gone was heard before. */
	if (!m->present || !m->heard || is(m->heard_cid, "") || m->withdrawing)
		return "none";
	if (is(m->local, "notgoing"))
		return "agree";
	return local_wins(m) ? "local" : "cancel";
}

/*
 * The application keeps an answer as something else, as one that waits for the
 * host: another word from the network counts even if it maps to the same.
 */
static bool
holds_answer(const Meeting *m)
{
	return m->heard && !is(m->heard_cid, "?") &&
		!same(m->base_local, m->heard_status) && !local_changed(m);
}

static bool
agrees(const Meeting *m)
{
	if (!m->present)
		return false;
	/*
	 * Changed in what does not concern us.  But who says once more, in another
	 * record, what was heard before, answers what the row says now.
	 */
	if (m->heard && !is(m->heard_cid, "?") &&
		same(m->remote_status, m->heard_status) &&
		!(m->remote_other && local_changed(m)))
		return true;
	return same(m->local, m->remote_status) && !holds_answer(m);
}

/* none, echo, keep, agree, local, verify, apply or cancel. */
const char *
merge_decide(const Meeting *m)
{
	if (m->remote_cid == NULL)
		return merge_absence(m);
	if (m->remote_sent)
		return "echo";
	if (m->heard && same(m->remote_cid, m->heard_cid))
		return "none";
	if (m->remote_status == NULL)
		return "keep";
	if (agrees(m))
		return "agree";
	if (local_wins(m))
		return "local";
	if (!m->verified && !is(m->remote_status, "notgoing"))
		return "verify";
	return "apply";
}
