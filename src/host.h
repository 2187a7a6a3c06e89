/*-------------------------------------------------------------------------
 *
 * host.h
 *		Servers: how many calls are under way to each, whether they answer,
 *		and what they allow.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_HOST_H
#define RSVP_SYNC_HOST_H

#include "postgres.h"

#include "lib/ilist.h"
#include "utils/hsearch.h"

#include "budget.h"

/* A longer wait than this is done in the queue, not in memory. */
#define SHORT_WAIT_MS	5000

typedef enum HostState
{
	HOST_UP,
	HOST_SUSPECT,				/* a call failed: a probe will tell */
	HOST_DOWN
} HostState;

typedef struct Host
{
	const char *name;			/* hash key: scheme, host, port */
	int			calls;			/* under way */
	int			writes;			/* ... of them, those that go together */
	HostState	state;
	bool		probing;
	bool		wanted;			/* somebody goes on without it, for now */
	int64		probe_at;
	int64		down_at;
	dlist_head	suspects;		/* calls that wait for the probe's verdict */
	Budgets		budgets;		/* for our address */
	int64		not_before;		/* it refused, and said until when */
	int64		refused_until;	/* it refused an account, and did not say why */
	const void *refused;		/* which one, only to be compared */
	int64		busy_at;		/* since when calls have been under way */
	int64		slot_at;
	int			answered;		/* in this slot */
	int			answered_before;	/* in the one before */
	int			jobs;			/* waiting in lanes; see lane_settle() */
} Host;

extern int64 host_now(void);
extern void host_startup(MemoryContext context);
extern Host *host_of(const char *name);
extern void host_scan(HASH_SEQ_STATUS *scan);

extern bool host_is_stalled(Host *host, int64 now);
extern int	host_allowance(Host *host, int64 now);
extern void host_call_begins(Host *host, int64 now);
extern void host_call_ended(Host *host, int64 now, int jobs);
extern const char *host_closed_because(Host *host, int64 now);
extern int64 host_wait(Host *host, bool urgent, int64 now);
extern bool host_has_room(Host *host);
extern int	host_room(Host *host, int64 now);
extern void host_rests(Host *host, int64 until);
extern void host_suspected(Host *host, int64 now);
extern bool host_is_up(Host *host);
extern bool host_is_down(Host *host, int64 now);
extern bool host_wants_probe(Host *host, int64 now);

#endif							/* RSVP_SYNC_HOST_H */
