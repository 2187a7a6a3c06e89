/*-------------------------------------------------------------------------
 *
 * moment.h
 *		Dates and times as people write them into pages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_MOMENT_H
#define RSVP_SYNC_MOMENT_H

#include "arena.h"

/* Put together of parts that may come one by one; zeros: nothing yet */
typedef struct Moment
{
	bool		has_date;
	int			year;
	int			month;
	int			day;
	bool		has_time;
	int			hour;
	int			minute;
	int			second;
	char		fraction[8];	/* with its point, or "" */
	bool		has_zone;
	int			zone;			/* minutes east of Greenwich */
} Moment;

/*
 * Take what a text says and was not said before: 2035-06-21 or 2035-172,
 * 18:00, 6:00pm, with seconds and fractions, Z, +02:00, -0700, -07; alone or
 * together, with T or a blank in between.  What is none of this is ignored.
 */
extern void moment_add(Moment *moment, const char *text);

/* As timestamptz reads it, UTC where no zone was said; NULL without a date */
extern char *moment_text(Arena *arena, const Moment *moment);

#endif							/* RSVP_SYNC_MOMENT_H */
