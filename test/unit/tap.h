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

/* What is tested may be odd; a line of TAP must not be */
static inline void
tap_line(const char *before, const char *format, va_list args)
{
	char		text[400];

	vsnprintf(text, sizeof(text), format, args);
	for (char *p = text; *p; p++)
		if (*p < ' ' || *p >= 0x7f || *p == '#')
			*p = '?';
	printf("%s %s\n", before, text);
	fflush(stdout);
}

__attribute__((format(printf, 2, 3)))
static inline bool
ok(bool passed, const char *name, ...)
{
	char		before[40];
	va_list		args;

	snprintf(before, sizeof(before), "%sok %d -", passed ? "" : "not ",
			 ++tap_run);
	va_start(args, name);
	tap_line(before, name, args);
	va_end(args);
	if (!passed)
		tap_failed++;
	return passed;
}

__attribute__((format(printf, 1, 2)))
static inline void
skip(const char *why, ...)
{
	char		before[40];
	va_list		args;

	snprintf(before, sizeof(before), "ok %d # SKIP", ++tap_run);
	va_start(args, why);
	tap_line(before, why, args);
	va_end(args);
}

/* The exit status of main() */
static inline int
done_testing(void)
{
	printf("1..%d\n", tap_run);
	return tap_failed > 0;
}

#endif							/* RSVP_SYNC_TAP_H */
