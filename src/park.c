/*-------------------------------------------------------------------------
 *
 * park.c
 *		Keys that wait in the queue for a server or an account.
 *
 * What cannot be sent now does not stay in memory, where it would stand in
 * the way of others: its key goes back to the queue, with the name of what it
 * waits for, and is let go once that can take it.  The queue's rows are the
 * truth; here is only for whom some may be waiting.
 *
 * Also knows what pause() has stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "host.h"
#include "lane_state.h"

/* Keys let go for one subject at a time. */
#define MAX_RELEASE		256

typedef struct Parking
{
	const char *subject;		/* hash key: a DID or a server */
	Release		release;		/* as handed out last */
} Parking;

static HTAB *parkings = NULL;
static HTAB *paused = NULL;
static MemoryContext park_context = NULL;
static dlist_head parked = DLIST_STATIC_INIT(parked);

void
park_startup(MemoryContext context)
{
	park_context = context;
	parkings = text_table("rsvp_sync parkings", sizeof(Parking), context);
	paused = text_table("rsvp_sync paused", sizeof(char *), context);
}

/* ------------------------------------------------------------------------
 * Parking
 * ------------------------------------------------------------------------ */

/* Keys wait for this, or may. */
void
lane_note_parked(const char *subject)
{
	bool		found;
	Parking    *parking = hash_search(parkings, &subject, HASH_ENTER, &found);

	if (!found)
		parking->subject = MemoryContextStrdup(park_context, subject);
}

bool
park_any(const char *subject)
{
	return hash_search(parkings, &subject, HASH_FIND, NULL) != NULL;
}

/* The job is the caller's no more; its key will wait for the subject. */
void
park_job(Job *job, const char *subject, const char *code)
{
	lane_note_parked(subject);
	job->waits_for = MemoryContextStrdup(job->context, subject);
	job->wait_code = code;
	dlist_push_tail(&parked, &job->node);
}

/* Jobs whose keys are to be parked; the worker frees them. */
dlist_head *
lane_parked(void)
{
	return &parked;
}

/* ------------------------------------------------------------------------
 * Letting go
 * ------------------------------------------------------------------------ */

static int
room_of(const char *subject, int64 now)
{
	if (park_is_paused(subject))
		return 0;
	return strncmp(subject, "did:", 4) == 0 ? lane_room(subject, now) :
		host_room(host_of(subject), now);
}

/* Whose keys may go on, and how many of them. */
List *
lane_releases(void)
{
	HASH_SEQ_STATUS scan;
	Parking    *parking;
	List	   *releases = NIL;
	int64		now = host_now();

	hash_seq_init(&scan, parkings);
	while ((parking = hash_seq_search(&scan)) != NULL)
	{
		int			room = room_of(parking->subject, now);

		if (room <= 0)
			continue;
		parking->release.subject = parking->subject;
		parking->release.at_most = Min(room, MAX_RELEASE);
		releases = lappend(releases, &parking->release);
	}
	return releases;
}

/* When an account's long wait is over and keys wait for it; -1: never. */
int64
park_wait(int64 now)
{
	HASH_SEQ_STATUS scan;
	Parking    *parking;
	int64		shortest = -1;

	hash_seq_init(&scan, parkings);
	while ((parking = hash_seq_search(&scan)) != NULL)
	{
		Lane	   *lane = find_lane(parking->subject);
		int64		wait = lane ? lane->not_before - now : -1;

		if (wait > 0 && (shortest < 0 || wait < shortest))
			shortest = wait;
	}
	return shortest;
}

/* There were fewer than it could have taken: no more are waiting. */
void
lane_released_all(const char *subject)
{
	Parking    *parking = hash_search(parkings, &subject, HASH_REMOVE, NULL);

	if (parking)
		pfree(unconstify(char *, parking->subject));
}

/* ------------------------------------------------------------------------
 * Pauses
 * ------------------------------------------------------------------------ */

/* All that is paused by name now. */
void
lane_set_paused(List *subjects)
{
	HASH_SEQ_STATUS scan;
	char	  **name;
	ListCell   *cell;

	hash_seq_init(&scan, paused);
	while ((name = hash_seq_search(&scan)) != NULL)
	{
		char	   *text = *name;

		hash_search(paused, &text, HASH_REMOVE, NULL);
		pfree(text);
	}
	foreach(cell, subjects)
	{
		char	   *text = MemoryContextStrdup(park_context, lfirst(cell));

		*(char **) hash_search(paused, &text, HASH_ENTER, NULL) = text;
	}
}

bool
park_is_paused(const char *subject)
{
	return hash_get_num_entries(paused) > 0 &&
		hash_search(paused, &subject, HASH_FIND, NULL) != NULL;
}
