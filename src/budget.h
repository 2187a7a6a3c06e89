/*-------------------------------------------------------------------------
 *
 * budget.h
 *		Servers' published limits, and how to spend them.
 *
 * Pure: times are given, in ms on any clock that never jumps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_BUDGET_H
#define RSVP_SYNC_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

/* What the RateLimit headers of one answer say. */
typedef struct RateLimit
{
	bool		known;
	long		limit;			/* points a window has */
	long		window_s;		/* 0: not said */
	long		remaining;
	int64_t		reset_ms;		/* until the window is over, from the answer */
} RateLimit;

/* One limit as far as we know it. */
typedef struct Budget
{
	long		limit;
	long		window_s;
	double		remaining;
	int64_t		reset_at;		/* the window is over then */
	int64_t		spent_at;		/* when we last spent of it */
} Budget;

/* A server shows the tightest of its limits only, now this one, now that. */
#define MAX_BUDGETS	4

typedef struct Budgets
{
	int			n;
	Budget		list[MAX_BUDGETS];
} Budgets;

/*
 * limit, remaining, reset, policy: the headers' values, or NULL; date: the
 * answer's Date as seconds since 1970, or 0; epoch: our own clock's.
 * pending: points of calls that are under way while an answer is learnt from.
 */
extern RateLimit budget_parse(const char *limit, const char *remaining,
							  const char *reset, const char *policy,
							  int64_t date, int64_t epoch);
extern void budget_learn(Budgets *budgets, const RateLimit *said, int pending,
						 int64_t now);
extern int64_t budget_wait(const Budgets *budgets, int points, bool urgent,
						   int64_t now);
extern long budget_free(const Budgets *budgets, int64_t now);
extern void budget_spend(Budgets *budgets, int points, int64_t now);

#endif							/* RSVP_SYNC_BUDGET_H */
