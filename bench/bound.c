/*-------------------------------------------------------------------------
 *
 * bound.c
 *		What a lean C program gets through that does nothing else: the bound
 *		that the drain is compared with.
 *
 *	bound CONNINFO JOBS CONNECTIONS BATCH URL ...
 *
 * A logged queue; jobs are leased in batches by an UPDATE that is committed,
 * posted over connections that are kept, and deleted in batches.  A sliding
 * window: the next batch is leased when fewer jobs than a batch are in hand.
 * One thread; libpq and curl's multi interface.  There is no plan, no record
 * of what was sent, no ordering, and nothing is told to anybody.
 *
 * Prints a line of JSON: seconds from the first lease to the last deletion.
 *
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_CONNECTIONS 1024

typedef struct Job
{
	char		id[24];
	char	   *body;
} Job;

typedef struct Slot
{
	CURL	   *easy;
	Job		   *job;
} Slot;

static PGconn *conn;
static CURLM *multi;
static Slot slots[MAX_CONNECTIONS];
static int	nslots;
static int	batch;
static Job **ready;				/* leased, not yet posted */
static int	nready;
static char *done;				/* {id,id,...} of those to be deleted */
static int	ndone;
static long answered;
static int	in_flight;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "bound: %s: %s\n", what, why);
	exit(1);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static PGresult *
checked(PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		die("query", PQerrorMessage(conn));
	return result;
}

static void
run(const char *sql)
{
	PQclear(checked(PQexec(conn, sql)));
}

static size_t
ignore(char *data, size_t size, size_t n, void *to)
{
	(void) data;
	(void) to;
	return size * n;
}

static void
set_up(long jobs)
{
	char		sql[1024];

	run("DROP TABLE IF EXISTS bound_queue");
	run("CREATE TABLE bound_queue (id bigint PRIMARY KEY, lease bigint, body text NOT NULL)"
		" WITH (fillfactor = 70)");
	snprintf(sql, sizeof(sql),
			 "INSERT INTO bound_queue SELECT n, NULL, json_build_object("
			 "'repo', 'did:plc:ewvi7nxzyoun6zhxrhs64oiz', 'collection', 'community.lexicon.calendar.rsvp',"
			 "'rkey', '3lbenchrkey2k', 'record', json_build_object("
			 "'$type', 'community.lexicon.calendar.rsvp', 'subject', json_build_object("
			 "'uri', 'at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.event/3kevent000001',"
			 "'cid', 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a'),"
			 "'status', 'community.lexicon.calendar.rsvp#going', 'createdAt', '2026-01-01T00:00:00.000Z'))"
			 " FROM generate_series(1, %ld) n", jobs);
	run(sql);
	run("VACUUM ANALYZE bound_queue");
	PQclear(checked(PQprepare(conn, "lease",
							  "WITH c AS MATERIALIZED (SELECT id FROM bound_queue WHERE lease IS NULL"
							  " ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)"
							  " UPDATE bound_queue q SET lease = 1 FROM c WHERE q.id = c.id RETURNING q.id, q.body",
							  0, NULL)));
	PQclear(checked(PQprepare(conn, "delete",
							  "DELETE FROM bound_queue WHERE id = ANY ($1)", 0, NULL)));
	done = malloc(batch * 24 + 16);
	ready = malloc(sizeof(Job *) * batch * 3);
}

static void
lease(void)
{
	char		n[16];
	const char *args[] = {n};
	PGresult   *result;

	snprintf(n, sizeof(n), "%d", batch);
	result = checked(PQexecPrepared(conn, "lease", 1, args, NULL, NULL, 0));
	for (int row = 0; row < PQntuples(result); row++)
	{
		Job		   *job = malloc(sizeof(Job));

		snprintf(job->id, sizeof(job->id), "%s", PQgetvalue(result, row, 0));
		job->body = strdup(PQgetvalue(result, row, 1));
		ready[nready++] = job;
	}
	PQclear(result);
}

static void
delete_done(void)
{
	const char *args[] = {done};
	size_t		len = strlen(done);

	if (ndone == 0)
		return;
	done[len - 1] = '}';		/* over the last comma */
	PQclear(checked(PQexecPrepared(conn, "delete", 1, args, NULL, NULL, 0)));
	ndone = 0;
	strcpy(done, "{");
}

static void
start(Slot *slot)
{
	Job		   *job = slot->job = ready[--nready];

	curl_easy_setopt(slot->easy, CURLOPT_POSTFIELDS, job->body);
	curl_easy_setopt(slot->easy, CURLOPT_POSTFIELDSIZE, (long) strlen(job->body));
	curl_multi_add_handle(multi, slot->easy);
	in_flight++;
}

static void
finish(CURL *easy, CURLcode code)
{
	Slot	   *slot;
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &slot);
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK || status != 200)
		die("request", curl_easy_strerror(code));
	curl_multi_remove_handle(multi, easy);
	in_flight--;
	answered++;
	sprintf(done + strlen(done), "%s,", slot->job->id);
	free(slot->job->body);
	free(slot->job);
	slot->job = NULL;
	if (++ndone >= batch)
		delete_done();
}

static void
fill(void)
{
	for (int i = 0; i < nslots && nready > 0; i++)
		if (slots[i].job == NULL)
			start(&slots[i]);
}

static void
drain(long jobs)
{
	bool		more = true;
	int			running;
	int			left;
	CURLMsg    *message;

	strcpy(done, "{");
	while (answered < jobs)
	{
		if (more && nready < nslots)
		{
			int			before = nready;

			lease();
			more = nready > before;
		}
		fill();
		curl_multi_perform(multi, &running);
		left = 0;
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
			if (message->msg == CURLMSG_DONE)
				finish(message->easy_handle, message->data.result);
		fill();
		if (in_flight == 0 && nready == 0 && !more)
			break;
		if (!(more && nready < nslots))
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	delete_done();
}

int
main(int argc, char **argv)
{
	struct curl_slist *headers = NULL;
	struct rusage usage;
	long		jobs;
	double		began;
	double		took;

	if (argc < 6)
		die("usage", "bound CONNINFO JOBS CONNECTIONS BATCH URL ...");
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", PQerrorMessage(conn));
	PQclear(PQexec(conn, "SET client_min_messages = error"));
	jobs = atol(argv[2]);
	nslots = atoi(argv[3]);
	batch = atoi(argv[4]);
	if (nslots > MAX_CONNECTIONS)
		die("usage", "too many connections");
	if (batch < nslots)
		batch = nslots;
	curl_global_init(CURL_GLOBAL_ALL);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) nslots);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Authorization: Bearer access");
	headers = curl_slist_append(headers, "Expect:");
	for (int i = 0; i < nslots; i++)
	{
		char		url[256];

		snprintf(url, sizeof(url), "%s/xrpc/com.atproto.repo.putRecord",
				 argv[5 + i % (argc - 5)]);
		slots[i].easy = curl_easy_init();
		curl_easy_setopt(slots[i].easy, CURLOPT_URL, url);
		curl_easy_setopt(slots[i].easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(slots[i].easy, CURLOPT_WRITEFUNCTION, ignore);
		curl_easy_setopt(slots[i].easy, CURLOPT_PRIVATE, &slots[i]);
		curl_easy_setopt(slots[i].easy, CURLOPT_NOSIGNAL, 1L);
	}
	set_up(jobs);
	began = seconds();
	drain(jobs);
	took = seconds() - began;
	if (answered != jobs)
		die("jobs", "not all were answered");
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"seconds\": %.4f, \"cpu\": %.3f}\n", took,
		   usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		   (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	PQfinish(conn);
	return 0;
}
