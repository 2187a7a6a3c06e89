/*-------------------------------------------------------------------------
 *
 * tap.h
 *		The least that is needed to speak TAP from a C program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_TAP_H
#define RSVP_SYNC_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int	tap_run = 0;
static int	tap_failed = 0;

__attribute__((format(printf, 2, 3)))
static inline bool
ok(bool passed, const char *name, ...)
{
	va_list		args;

	printf("%sok %d - ", passed ? "" : "not ", ++tap_run);
	va_start(args, name);
	vprintf(name, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	if (!passed)
		tap_failed++;
	return passed;
}

__attribute__((format(printf, 1, 2)))
static inline void
skip(const char *why, ...)
{
	va_list		args;

	printf("ok %d # SKIP ", ++tap_run);
	va_start(args, why);
	vprintf(why, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* The exit status of main() */
static inline int
done_testing(void)
{
	printf("1..%d\n", tap_run);
	return tap_failed > 0;
}

#endif							/* RSVP_SYNC_TAP_H */
