/*-------------------------------------------------------------------------
 *
 * budget_test.c
 *		Limits read from headers, and spent evenly.
 *
 *-------------------------------------------------------------------------
 */
#include "budget.h"

#include <string.h>

#include "tap.h"

#define NOW		1000000			/* ms, on a clock of ours */
#define EPOCH	1795200000L

typedef struct HeaderCase
{
	const char *limit;
	const char *remaining;
	const char *reset;
	const char *policy;
	int64_t		date;
	bool		known;
	long		window_s;
	int64_t		reset_ms;
} HeaderCase;

static const HeaderCase cases[] = {
	{"3000", "2999", "1795200100", "3000;w=300", 0, true, 300, 101000},
	/* the server's clock is an hour ahead: its Date says so */
	{"3000", "2999", "1795203700", "3000;w=300", EPOCH + 3600, true, 300, 101000},
	/* seconds from now, as other servers say it */
	{"100", "0", "30", NULL, 0, true, 0, 31000},
	/* a window that is over */
	{"100", "7", "1795199000", "100;w=60", 0, true, 60, 1000},
	{"100", "7", "1795200010", "100;burst=3;w=60", 0, true, 60, 11000},
	{NULL, "7", "30", NULL, 0, false, 0, 0},
	{"100", NULL, "30", NULL, 0, false, 0, 0},
	{"100", "7", NULL, NULL, 0, false, 0, 0},
	{"0", "0", "30", NULL, 0, false, 0, 0},
	{"many", "7", "30", NULL, 0, false, 0, 0},
	{"100", "-7", "30", NULL, 0, false, 0, 0},
	/* in a year: nonsense */
	{"100", "7", "99999999", NULL, 0, false, 0, 0},
};

static void
test_headers(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		const HeaderCase *c = &cases[i];
		RateLimit	said = budget_parse(c->limit, c->remaining, c->reset,
										c->policy, c->date, EPOCH);

		ok(said.known == c->known, "headers %zu: known", i);
		if (c->known)
			ok(said.window_s == c->window_s && said.reset_ms == c->reset_ms,
			   "headers %zu: window %ld, reset %lld", i, said.window_s,
			   (long long) said.reset_ms);
	}
}

static RateLimit
says(long limit, long window_s, long remaining, int64_t reset_ms)
{
	return (RateLimit) {true, limit, window_s, remaining, reset_ms};
}

static void
learn(Budgets *b, long limit, long window_s, long remaining, int64_t reset_ms,
	  int64_t now)
{
	RateLimit	said = says(limit, window_s, remaining, reset_ms);

	budget_learn(b, &said, 0, now);
}

static void
test_learning(void)
{
	Budgets		b = {0};
	Budgets		other = {0};

	ok(budget_wait(&b, 1, false, NOW) == 0, "nothing is known: nothing holds");
	learn(&b, 100, 60, 90, 30000, NOW);
	budget_spend(&b, 1, NOW);
	learn(&b, 100, 60, 90, 29900, NOW + 100);
	ok(b.list[0].remaining == 89, "what is under way has been spent");
	learn(&b, 100, 60, 40, 29900, NOW + 100);
	ok(b.list[0].remaining == 40, "others spend, too");
	learn(&b, 100, 60, 99, 60000, NOW + 30000);
	ok(b.list[0].remaining == 99, "a new window");
	budget_learn(&other, &(RateLimit) {true, 100, 60, 99, 60000}, 3, NOW);
	ok(other.list[0].remaining == 96, "... of which others are spending");
	learn(&b, 100, 60, 1, 0, NOW + 30010);
	ok(b.list[0].remaining == 99, "an answer of the window before is late");
	learn(&b, 5000, 3600, 4998, 3600000, NOW);
	ok(b.n == 2, "two limits");
	for (int i = 0; i < 20; i++)
		learn(&b, 10 + i, 60, 5, 1000 * i, NOW);
	ok(b.n == MAX_BUDGETS, "no more than a server can have");
}

static void
test_bounds(void)
{
	Budgets		b = {0};

	learn(&b, 3000, 300, 1600, 100000, NOW);
	ok(budget_wait(&b, 1, false, NOW) == 0, "above half: freely");
	learn(&b, 3000, 300, 560, 100000, NOW);
	budget_spend(&b, 1, NOW);
	ok(budget_wait(&b, 1, false, NOW) > 150 &&
	   budget_wait(&b, 1, false, NOW) < 250, "500 in 100 s: one in 200 ms");
	ok(budget_wait(&b, 1, true, NOW) == 0, "a click does not wait for that");
	learn(&b, 3000, 300, 60, 100000, NOW);
	ok(budget_wait(&b, 1, false, NOW) == 100000, "the rest is not for all");
	ok(budget_wait(&b, 1, true, NOW) == 0, "but for clicks");
	learn(&b, 3000, 300, 15, 100000, NOW);
	ok(budget_wait(&b, 1, true, NOW) == 100000, "and not to the end");
	ok(budget_wait(&b, 0, false, NOW) == 0, "what costs nothing may go");
	ok(budget_wait(&b, 1, false, NOW + 100000) == 0, "the window is over");
	budget_spend(&b, 1, NOW + 100000);
	ok(b.list[0].remaining == 2999 &&
	   b.list[0].reset_at == NOW + 400000, "the next begins with its first");
}

static void
test_free(void)
{
	Budgets		b = {0};

	ok(budget_free(&b, NOW) > 1000000, "nothing is known: all is free");
	learn(&b, 3000, 300, 1600, 100000, NOW);
	ok(budget_free(&b, NOW) == 100, "100 points above half a limit are");
	learn(&b, 5000, 3600, 2540, 100000, NOW);
	ok(budget_free(&b, NOW) == 40, "of two limits the tighter one counts");
	budget_spend(&b, 90, NOW);
	ok(budget_free(&b, NOW) == 0, "below half nothing is");
	ok(budget_free(&b, NOW + 200000) == 1500, "in the next window all is again");
}

/*
 * A whole window against a server that counts: as much as it allows, evenly,
 * and never refused.
 */
static void
test_window(long limit, long window_s)
{
	Budgets		b = {0};
	long		used = 0;
	long		refused = 0;
	long		late = 0;
	int64_t		reset_at = NOW + window_s * 1000;

	for (int64_t now = NOW; now < reset_at; now++)
		if (budget_wait(&b, 1, false, now) == 0)
		{
			budget_spend(&b, 1, now);
			if (++used > limit)
				refused++;
			if (now > reset_at - window_s * 100)
				late++;
			learn(&b, limit, window_s, limit > used ? limit - used : 0,
				  reset_at - now, now);
		}
	ok(refused == 0, "%ld in %ld s: never refused", limit, window_s);
	ok(used >= limit * 95 / 100, "... and used: %ld", used);
	ok(late > 0, "... to the end: %ld in its last tenth", late);
}

int
main(void)
{
	test_headers();
	test_learning();
	test_bounds();
	test_free();
	test_window(3000, 300);
	test_window(300, 20);
	test_window(30, 300);
	return done_testing();
}
