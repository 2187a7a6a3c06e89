/*-------------------------------------------------------------------------
 *
 * budget.c
 *		Servers' published limits, and how to spend them.
 *
 * A limit is so many points in a window of so many seconds.  While more than
 * half of it is left it is spent freely; after that evenly over the rest of
 * the window, so that a click in its last minute finds something left; and
 * never to the end, since others may spend from the same window and what is
 * under way is known to the server only.
 *
 * Pure: no clock, no memory, no PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "budget.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Parts of a limit that are left: by everything, by what somebody awaits. */
#define RESERVE			0.02
#define RESERVE_URGENT	0.005

/* Servers say full seconds, and the two we subtract are both rounded down. */
#define ROUNDING_MS		1000

/* Two times that differ by less are the end of the same window. */
#define SAME_WINDOW_MS	2500

#define LONGEST_S		(7 * 24 * 3600L)

static bool
parse_number(const char *text, long *number)
{
	char	   *end;

	if (text == NULL || !isdigit((unsigned char) *text))
		return false;
	*number = strtol(text, &end, 10);
	return *number >= 0;
}

/* The w of "3000;w=300"; 0 if there is none. */
static long
window_of(const char *policy)
{
	const char *w = policy ? strstr(policy, ";w=") : NULL;
	long		seconds;

	if (w == NULL || !parse_number(w + strlen(";w="), &seconds))
		return 0;
	return seconds <= LONGEST_S ? seconds : 0;
}

RateLimit
budget_parse(const char *limit, const char *remaining, const char *reset,
			 const char *policy, int64_t date, int64_t epoch)
{
	RateLimit	said = {0};
	long		seconds;

	if (!parse_number(limit, &said.limit) || said.limit == 0 ||
		!parse_number(remaining, &said.remaining) ||
		!parse_number(reset, &seconds))
		return said;
	/* Seconds since 1970 by the server's clock, or seconds from now. */
	if (seconds > 1000000000L)
		seconds -= (long) (date > 0 ? date : epoch);
	if (seconds < 0)
		seconds = 0;
	if (seconds > LONGEST_S)
		return said;
	said.window_s = window_of(policy);
	said.reset_ms = seconds * 1000 + ROUNDING_MS;
	said.known = true;
	return said;
}

static Budget *
budget_of(Budgets *budgets, const RateLimit *said)
{
	Budget	   *oldest = &budgets->list[0];

	for (int i = 0; i < budgets->n; i++)
	{
		Budget	   *budget = &budgets->list[i];

		if (budget->limit == said->limit && budget->window_s == said->window_s)
			return budget;
		if (budget->reset_at < oldest->reset_at)
			oldest = budget;
	}
	if (budgets->n < MAX_BUDGETS)
		oldest = &budgets->list[budgets->n++];
	memset(oldest, 0, sizeof(Budget));
	oldest->limit = said->limit;
	oldest->window_s = said->window_s;
	return oldest;
}

/*
 * Answers overtake each other, and none knows of the calls under way: within
 * a window we believe whichever leaves less.
 */
void
budget_learn(Budgets *budgets, const RateLimit *said, int pending,
			 int64_t now)
{
	Budget	   *budget;
	int64_t		reset_at = now + said->reset_ms;

	if (!said->known)
		return;
	budget = budget_of(budgets, said);
	if (reset_at < budget->reset_at - SAME_WINDOW_MS)
		return;					/* of the window before */
	if (reset_at > budget->reset_at + SAME_WINDOW_MS)
		budget->remaining = said->remaining - pending;
	else if (said->remaining < budget->remaining)
		budget->remaining = said->remaining;
	budget->reset_at = reset_at;
}

static int64_t
wait_of(const Budget *budget, int points, bool urgent, int64_t now)
{
	double		reserve = budget->limit * (urgent ? RESERVE_URGENT : RESERVE);
	double		left = budget->remaining - reserve;
	int64_t		next;

	if (now >= budget->reset_at)
		return 0;
	if (left < points)
		return budget->reset_at - now;
	if (urgent || budget->remaining > budget->limit / 2.0)
		return 0;
	next = budget->spent_at +
		(int64_t) ((budget->reset_at - budget->spent_at) * points /
				   (left + points));
	return next > now ? next - now : 0;
}

/* How long until so many points may be spent; 0: now. */
int64_t
budget_wait(const Budgets *budgets, int points, bool urgent, int64_t now)
{
	int64_t		longest = 0;

	for (int i = 0; i < budgets->n && points > 0; i++)
	{
		int64_t		wait = wait_of(&budgets->list[i], points, urgent, now);

		if (wait > longest)
			longest = wait;
	}
	return longest;
}

/* How many points may be spent at once, before what is left is to last. */
long
budget_free(const Budgets *budgets, int64_t now)
{
	double		least = LONG_MAX;

	for (int i = 0; i < budgets->n; i++)
	{
		const Budget *budget = &budgets->list[i];
		double		left = (now >= budget->reset_at ? budget->limit :
							budget->remaining) - budget->limit / 2.0;

		if (left < least)
			least = left;
	}
	return least >= (double) LONG_MAX ? LONG_MAX : least > 0 ? (long) least : 0;
}

void
budget_spend(Budgets *budgets, int points, int64_t now)
{
	for (int i = 0; i < budgets->n && points > 0; i++)
	{
		Budget	   *budget = &budgets->list[i];

		if (now >= budget->reset_at)
		{
			/* The next window begins with its first request. */
			budget->remaining = budget->limit;
			budget->reset_at = now + budget->window_s * 1000;
		}
		budget->remaining -= points;
		budget->spent_at = now;
	}
}
