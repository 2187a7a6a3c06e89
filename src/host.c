/*-------------------------------------------------------------------------
 *
 * host.c
 *		Servers: how many calls are under way to each, whether they answer,
 *		and what they allow.
 *
 * A call that ends without an answer of its server's puts the server under
 * suspicion: nothing more is sent there, one probe goes out, and its answer,
 * or the lack of one, says whose fault it was.  What failed meanwhile waits
 * here for that verdict: if the server answers, each failure counts as its
 * own; if not, none does, and keys wait until a later probe is answered.
 *
 * Private to the worker's process, and may be lost at any time; which servers
 * are down is also in a table, for people and for the next worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "host.h"
#include "lane_state.h"
#include "settings.h"

/* Beyond these, servers nothing is known of are forgotten. */
#define MAX_HOSTS		4096

/* Between two probes of a server that is down: less often after a while. */
#define FIRST_PROBE_MS	500
#define PROBE_MS		2000
#define HOUR_MS			(3600 * 1000)
#define HOUR_PROBE_MS	30000
#define DAY_MS			(24 * HOUR_MS)
#define DAY_PROBE_MS	300000

/* How fast a server is, is measured in slots of this length. */
#define SLOT_MS			500

static HTAB *hosts = NULL;
static MemoryContext host_context = NULL;

/* A clock that never jumps. */
int64
host_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void
host_startup(MemoryContext context)
{
	host_context = context;
	hosts = text_table("rsvp_sync hosts", sizeof(Host), context);
}

/* Nothing would be lost by forgetting it. */
static bool
is_forgettable(Host *host)
{
	int64		now = host_now();

	if (host->calls > 0 || host->state != HOST_UP || host->probing || host->not_before > now)
		return false;
	for (int i = 0; i < host->budgets.n; i++)
		if (host->budgets.list[i].reset_at > now)
			return false;
	return true;
}

static void
forget_some(void)
{
	HASH_SEQ_STATUS scan;
	Host	   *host;

	hash_seq_init(&scan, hosts);
	while ((host = hash_seq_search(&scan)) != NULL)
	{
		char	   *name = unconstify(char *, host->name);

		if (!is_forgettable(host))
			continue;
		hash_search(hosts, &name, HASH_REMOVE, NULL);
		pfree(name);
	}
}

Host *
host_of(const char *name)
{
	bool		found;
	Host	   *host;

	if (hash_get_num_entries(hosts) >= MAX_HOSTS)
		forget_some();
	host = hash_search(hosts, &name, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) host + sizeof(char *), 0,
			   sizeof(Host) - sizeof(char *));
		host->name = MemoryContextStrdup(host_context, name);
		dlist_init(&host->suspects);
	}
	return host;
}

void
host_scan(HASH_SEQ_STATUS *scan)
{
	hash_seq_init(scan, hosts);
}

/* ------------------------------------------------------------------------
 * How fast it is
 * ------------------------------------------------------------------------ */

static void
turn_slots(Host *host, int64 now)
{
	if (now - host->slot_at < SLOT_MS)
		return;
	host->answered_before = now - host->slot_at < 2 * SLOT_MS ?
		host->answered : 0;
	host->answered = 0;
	host->slot_at = now;
}

/* It has been asked, or has to be spared, and answers nobody. */
bool
host_is_stalled(Host *host, int64 now)
{
	turn_slots(host, now);
	return host_wait(host, true, now) > SLOT_MS ||
		(host->calls > 0 && now - host->busy_at >= 2 * SLOT_MS &&
		 host->answered + host->answered_before == 0);
}

/*
 * How many jobs of this server are worth having in memory: as many as it
 * answers in a second, or as keep its connections busy for a while.  Until it
 * has been at work for so long nobody knows.
 */
int
host_allowance(Host *host, int64 now)
{
	if (host_is_stalled(host, now))
		return rsvp_sync_connections_per_host;
	if (host->calls == 0 || now - host->busy_at < 2 * SLOT_MS)
		return INT_MAX;
	return Max(host->answered + host->answered_before,
			   8 * rsvp_sync_connections_per_host);
}

void
host_call_begins(Host *host, int64 now)
{
	turn_slots(host, now);
	if (host->calls++ == 0)
		host->busy_at = now;
	budget_spend(&host->budgets, 1, now);
}

void
host_call_ended(Host *host, int64 now, int jobs)
{
	turn_slots(host, now);
	host->calls--;
	host->answered += jobs;
}

/* ------------------------------------------------------------------------
 * What it allows
 * ------------------------------------------------------------------------ */

/* Why keys had better wait for it in the queue; NULL: they need not. */
const char *
host_closed_because(Host *host, int64 now)
{
	if (park_is_paused(host->name))
		return "paused";
	if (host->state == HOST_DOWN)
		return "host_unreachable";
	if (host->not_before - now > SHORT_WAIT_MS)
		return "rate_limited";
	return NULL;
}

/* ms until a call may be made; -1: not before something else happens */
int64
host_wait(Host *host, bool urgent, int64 now)
{
	if (host->state != HOST_UP || park_is_paused(host->name))
		return -1;
	return Max(Max(host->not_before - now, 0),
			   budget_wait(&host->budgets, 1, urgent, now));
}

bool
host_has_room(Host *host)
{
	return http_in_flight() < rsvp_sync_concurrency &&
		host->calls < rsvp_sync_connections_per_host;
}

/* How many more keys of this server are worth having now. */
int
host_room(Host *host, int64 now)
{
	int			allowance;

	if (host->state != HOST_UP || host_closed_because(host, now))
		return 0;
	allowance = host_allowance(host, now);
	return host->jobs > allowance / 2 ? 0 : allowance - host->jobs;
}

/* It asked to be left alone. */
void
host_rests(Host *host, int64 until)
{
	host->not_before = Max(host->not_before, until);
}

/* ------------------------------------------------------------------------
 * Whether it answers
 * ------------------------------------------------------------------------ */

/* A call came to nothing by the server's fault: ask it how it is. */
void
host_suspected(Host *host, int64 now)
{
	if (host->state != HOST_UP)
		return;
	host->state = HOST_SUSPECT;
	host->probe_at = now;
}

/* It answered something; was it thought to be down? */
bool
host_is_up(Host *host)
{
	bool		was_down = host->state == HOST_DOWN;

	host->state = HOST_UP;
	host->wanted = false;
	host->slot_at = host->busy_at = host_now();
	return was_down;
}

/* The probe came to nothing; is that news? */
bool
host_is_down(Host *host, int64 now)
{
	bool		news = host->state != HOST_DOWN;
	int64		down;
	int64		interval;

	if (news)
		host->down_at = now;
	host->state = HOST_DOWN;
	down = now - host->down_at;
	interval = Min(Max(down, FIRST_PROBE_MS), down > DAY_MS ? DAY_PROBE_MS :
				   down > HOUR_MS ? HOUR_PROBE_MS : PROBE_MS);
	host->probe_at = now + interval / 2 +
		(int64) pg_prng_uint64_range(&pg_global_prng_state, 0, interval / 2);
	return news;
}

bool
host_wants_probe(Host *host, int64 now)
{
	return host->state != HOST_UP && !host->probing && host->probe_at <= now;
}
