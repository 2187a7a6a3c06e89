/*-------------------------------------------------------------------------
 *
 * host.c
 *		Servers, and how many calls are under way to each.
 *
 * Private to the worker's process; may be lost at any time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"

/* How many calls are under way to a host. */
typedef struct Host
{
	const char *name;			/* hash key */
	int			calls;
} Host;

static HTAB *hosts = NULL;
static MemoryContext host_context = NULL;

void
host_startup(MemoryContext context)
{
	host_context = context;
	hosts = text_table("rsvp_sync hosts", sizeof(Host), context);
}


static Host *
host_entry(const char *name)
{
	bool		found;
	Host	   *host = hash_search(hosts, &name, HASH_ENTER, &found);

	if (!found)
	{
		host->name = MemoryContextStrdup(host_context, name);
		host->calls = 0;
	}
	return host;
}

void
host_call_begins(const char *name)
{
	host_entry(name)->calls++;
}

void
host_call_ended(const char *name)
{
	Host	   *host = host_entry(name);
	char	   *own = unconstify(char *, host->name);

	if (--host->calls > 0)
		return;
	hash_search(hosts, &own, HASH_REMOVE, NULL);
	pfree(own);
}

bool
host_has_room(const char *name)
{
	return http_in_flight() < rsvp_sync_concurrency &&
		host_entry(name)->calls < rsvp_sync_connections_per_host;
}
