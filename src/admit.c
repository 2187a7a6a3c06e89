/*-------------------------------------------------------------------------
 *
 * admit.c
 *		Which status an attendance row gets from an answer given elsewhere.
 *
 * Pure.  The user decides about his answer, the organiser about who comes:
 * an answer never undoes what the organiser has decided, and an affirmative
 * one waits for his decision where the event asks for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "admit.h"

Answer
answer_of(const char *text)
{
	if (text == NULL)
		return ANSWER_NONE;
	if (strcmp(text, "going") == 0)
		return ANSWER_GOING;
	if (strcmp(text, "interested") == 0)
		return ANSWER_INTERESTED;
	if (strcmp(text, "notgoing") == 0)
		return ANSWER_NOTGOING;
	return ANSWER_NONE;
}

static bool
is(const char *was, const char *word)
{
	return was != NULL && strcmp(was, word) == 0;
}

/* Waits for the organiser, or for the guest himself. */
static bool
is_open(const char *was)
{
	return is(was, "pending") || is(was, "waitlist") || is(was, "invited");
}

/*
 * The organiser's word: refused, or something of the application's own that
 * says nothing about an answer.  If it could be left by not coming, one could
 * come again after it.
 */
static bool
is_settled(const char *was, Answer means)
{
	if (is(was, "rejected"))
		return true;
	return was != NULL && means == ANSWER_NONE && !is_open(was);
}

/* Does a "going" have to pass the gate, or is it through already? */
bool
admit_asks_gate(bool has_row, const char *was, Answer means, Answer answer)
{
	if (answer != ANSWER_GOING)
		return false;
	if (!has_row)
		return true;
	return !is_settled(was, means) && means != ANSWER_GOING &&
		!is(was, "waitlist");
}

/* An event that is full has a waitlist, or the organiser decides. */
static const char *
pass(const Words *words, const Gate *gate)
{
	if (gate->needs_approval || gate->not_a_member)
		return words->pending;
	if (!gate->full)
		return words->going;
	return gate->has_waitlist && words->waitlist ? words->waitlist :
		words->pending;
}

/*
 * means: what the row's present word stands for by the source's status map.
 * A row's word that says the same already is kept as it is: so "attended" is
 * not lowered to "confirmed".  An open one is left by every other answer.
 */
Admission
admit(const Words *words, bool has_row, const char *was, Answer means,
	  Answer answer, const Gate *gate, const char **word)
{
	if (!has_row && answer == ANSWER_NONE)
		return ADMIT_KEEP;
	if (has_row && is_settled(was, means))
		return ADMIT_KEEP;
	if (answer == ANSWER_NONE)
		answer = ANSWER_NOTGOING;
	if (answer == ANSWER_GOING)
	{
		if (!admit_asks_gate(has_row, was, means, answer))
			return ADMIT_KEEP;
		*word = pass(words, gate);
	}
	else
	{
		if (has_row && was != NULL && means == answer &&
			(answer == ANSWER_NOTGOING || !is_open(was)))
			return ADMIT_KEEP;
		*word = answer == ANSWER_INTERESTED ? words->interested :
			words->notgoing;
	}
	if (*word == NULL)
		return ADMIT_NO_WORD;
	return has_row && is(was, *word) ? ADMIT_KEEP : ADMIT_SET;
}
