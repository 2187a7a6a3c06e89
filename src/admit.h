/*-------------------------------------------------------------------------
 *
 * admit.h
 *		Which status an attendance row gets from an answer given elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ADMIT_H
#define RSVP_SYNC_ADMIT_H

#include "postgres.h"

/* What an RSVP says, and what an attendance word stands for. */
typedef enum Answer
{
	ANSWER_NONE,				/* the record is gone; the word says nothing */
	ANSWER_GOING,
	ANSWER_INTERESTED,
	ANSWER_NOTGOING
} Answer;

/* The application's words; NULL: it has none for this. */
typedef struct Words
{
	const char *going;
	const char *interested;
	const char *notgoing;
	const char *pending;
	const char *waitlist;
} Words;

/* What the event asks of somebody who says that he comes. */
typedef struct Gate
{
	bool		needs_approval;
	bool		not_a_member;	/* and only members are admitted */
	bool		full;
	bool		has_waitlist;
} Gate;

typedef enum Admission
{
	ADMIT_KEEP,					/* the row is right as it is; without a row:
								 * none is needed */
	ADMIT_SET,					/* *word is what it gets */
	ADMIT_NO_WORD				/* the application has no word for it */
} Admission;

extern Answer answer_of(const char *text);
extern bool admit_asks_gate(bool has_row, const char *was, Answer means,
							Answer answer);
extern Admission admit(const Words *words, bool has_row, const char *was,
					   Answer means, Answer answer, const Gate *gate,
					   const char **word);

#endif							/* RSVP_SYNC_ADMIT_H */
