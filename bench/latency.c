/*-------------------------------------------------------------------------
 *
 * latency.c
 *		From COMMIT to the request on the wire.
 *
 *	latency PORT				serves as a PDS and a PLC directory, until
 *								stdin has a line or ends; a line is
 *								CONNINFO \t COMMITS \t FROM MS \t TO MS \t FIRST ROW
 *
 * For such a line it commits so many single-row INSERTs into attendance, each
 * so many milliseconds after the last (evenly spread between FROM and TO), waits
 * for the putRecord that each brings about, and prints a line of JSON with three
 * times of each in microseconds: from before COMMIT was sent to its
 * answer, and from both moments to when the request's first bytes were here.
 *
 * One process, so one clock: a thread for the server, one for the client.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_PEERS 256
#define MAX_REQUEST 65536
#define PATIENCE_S 20
#define CID "bafyreiddste6n7sig7rvjcqp2t3goleigho5lpgmlyblkanoprhkqdrqsy"

typedef struct Peer
{
	int			fd;
	int			len;
	double		began;			/* when the first bytes of its request came */
	char		buffer[MAX_REQUEST + 1];
} Peer;

static Peer *peers[MAX_PEERS];
static int	npeers = 0;
static int	port;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static long arrivals = 0;
static double last_arrival = 0;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "latency: %s: %s\n", what, why);
	exit(1);
}

/* microseconds */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* ------------------------------------------------------------------------
 * The server
 * ------------------------------------------------------------------------ */

static void
answer(int fd, const char *body)
{
	char		text[4096];
	int			len = snprintf(text, sizeof(text),
							   "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
							   "Content-Length: %zu\r\n\r\n%s", strlen(body), body);

	if (write(fd, text, len) != len)
		die("write", "an answer was not taken");
}

/* The DID in a text, behind some words; at most size bytes. */
static void
find_did(const char *text, const char *behind, char *did, size_t size)
{
	const char *at = strstr(text, behind);
	size_t		len = 0;

	if (at != NULL)
	{
		at += strlen(behind);
		len = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789:");
		if (len >= size)
			len = size - 1;
		memcpy(did, at, len);
	}
	did[len] = '\0';
}

static void
serve(Peer *peer)
{
	char	   *text = peer->buffer;
	char		did[64];
	char		body[1024];

	if (strstr(text, " /xrpc/com.atproto.repo.putRecord ") != NULL)
	{
		pthread_mutex_lock(&lock);
		arrivals++;
		last_arrival = peer->began;
		pthread_cond_signal(&arrived);
		pthread_mutex_unlock(&lock);
		answer(peer->fd, "{\"uri\":\"at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/community.lexicon.calendar.rsvp/3lbenchrkey2k\",\"cid\":\"" CID
			   "\",\"commit\":{\"cid\":\"" CID "\",\"rev\":\"3lbenchrev2k2\"},\"validationStatus\":\"unknown\"}");
		return;
	}
	if (strncmp(text, "GET /did:", 9) == 0)
	{
		find_did(text, "GET /", did, sizeof(did));
		snprintf(body, sizeof(body), "{\"id\":\"%s\",\"alsoKnownAs\":[],\"service\":[{\"id\":\"#atproto_pds\","
				 "\"type\":\"AtprotoPersonalDataServer\",\"serviceEndpoint\":\"http://127.0.0.1:%d\"}]}", did, port);
		answer(peer->fd, body);
		return;
	}
	if (strstr(text, "createSession ") != NULL)
	{
		find_did(text, "\"identifier\":\"", did, sizeof(did));
		snprintf(body, sizeof(body), "{\"did\":\"%s\",\"accessJwt\":\"a\",\"refreshJwt\":\"r\",\"handle\":\"x.bench.test\",\"active\":true}", did);
		answer(peer->fd, body);
		return;
	}
	if (strstr(text, "listRecords") != NULL)
		answer(peer->fd, "{\"records\":[]}");
	else
		answer(peer->fd, "{\"cid\":\"" CID "\",\"rev\":\"3lbenchrev2k2\"}");
}

/* Length of the first request in the buffer, 0 if it is not all there. */
static int
request_length(const char *text, int len)
{
	const char *end = strstr(text, "\r\n\r\n");
	const char *length = strcasestr(text, "\r\nContent-Length:");
	int			total;

	if (end == NULL)
		return 0;
	total = end + 4 - text;
	if (length != NULL && length < end)
		total += atoi(length + strlen("\r\nContent-Length:"));
	return total <= len ? total : 0;
}

/* False: it has gone. */
static bool
hear(Peer *peer)
{
	double		at = now();
	ssize_t		n = read(peer->fd, peer->buffer + peer->len, MAX_REQUEST - peer->len);
	int			length;

	if (n <= 0)
		return false;
	if (peer->len == 0)
		peer->began = at;
	peer->len += n;
	peer->buffer[peer->len] = '\0';
	while ((length = request_length(peer->buffer, peer->len)) > 0)
	{
		serve(peer);
		memmove(peer->buffer, peer->buffer + length, peer->len - length + 1);
		peer->len -= length;
		peer->began = at;
	}
	return true;
}

static void
take_peer(int listener)
{
	int			one = 1;
	Peer	   *peer;

	if (npeers == MAX_PEERS)
		die("accept", "too many connections");
	peer = calloc(1, sizeof(Peer));
	peer->fd = accept(listener, NULL, NULL);
	if (peer->fd < 0)
		die("accept", "no connection");
	setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	peers[npeers++] = peer;
}

static void *
server(void *arg)
{
	int			listener = *(int *) arg;
	struct pollfd fds[MAX_PEERS + 1];

	for (;;)
	{
		int			n = npeers;

		fds[n] = (struct pollfd) {.fd = listener,.events = POLLIN};
		for (int i = 0; i < n; i++)
			fds[i] = (struct pollfd) {.fd = peers[i]->fd,.events = POLLIN};
		if (poll(fds, n + 1, -1) < 0)
			continue;
		if (fds[n].revents)
			take_peer(listener);
		for (int i = n - 1; i >= 0; i--)
		{
			if (!fds[i].revents || hear(peers[i]))
				continue;
			close(peers[i]->fd);
			free(peers[i]);
			peers[i] = peers[--npeers];
		}
	}
	return NULL;
}

static int
listen_at(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,.sin_port = htons(port),
	.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int			one = 1;
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *) &to, sizeof(to)) != 0 || listen(fd, 128) != 0)
		die("listen", "the port is taken");
	return fd;
}

/* ------------------------------------------------------------------------
 * The client
 * ------------------------------------------------------------------------ */

static void
run(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql, PQerrorMessage(conn));
	PQclear(result);
}

/* When the putRecord came that is the n-th of all. */
static double
wait_for_arrival(long n)
{
	struct timespec until;
	double		at;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&lock);
	while (arrivals < n)
		if (pthread_cond_timedwait(&arrived, &lock, &until) != 0)
			die("request", "none came");
	at = last_arrival;
	pthread_mutex_unlock(&lock);
	return at;
}

static void
sleep_until(double at)
{
	double		us = at - now();

	if (us > 0)
		usleep((useconds_t) us);
}

static void
measure(const char *conninfo, int commits, double from_ms, double to_ms,
		int first)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	double		next = now();

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", PQerrorMessage(conn));
	printf("[");
	for (int i = 0; i < commits; i++)
	{
		char		sql[256];
		double		sent;
		double		answered;
		double		wire;
		long		before;

		next += 1000 * (from_ms + (to_ms - from_ms) * ((i * 7919) % 1000) / 1000.0);
		sleep_until(next);
		snprintf(sql, sizeof(sql), "INSERT INTO attendance (status, \"eventId\", \"userId\")"
				 " SELECT 'confirmed', %d / n + 1, %d %% n + 1 FROM (SELECT count(*)::int AS n FROM users) u",
				 first + i, first + i);
		run(conn, "BEGIN");
		run(conn, sql);
		pthread_mutex_lock(&lock);
		before = arrivals;
		pthread_mutex_unlock(&lock);
		sent = now();
		run(conn, "COMMIT");
		answered = now();
		wire = wait_for_arrival(before + 1);
		printf("%s[%.0f,%.0f,%.0f]", i ? "," : "", answered - sent, wire - sent,
			   wire - answered);
		if (now() > next + 1000 * to_ms)
			next = now();		/* it was not in time: no hurry afterwards */
	}
	printf("]\n");
	fflush(stdout);
	PQfinish(conn);
}

int
main(int argc, char **argv)
{
	int			listener;
	pthread_t	thread;
	char		line[1024];

	if (argc != 2)
		die("usage", "latency PORT");
	port = atoi(argv[1]);
	listener = listen_at();
	if (pthread_create(&thread, NULL, server, &listener) != 0)
		die("thread", "cannot be made");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		char		conninfo[512];
		int			commits;
		double		from_ms;
		double		to_ms;
		int			first;

		if (sscanf(line, "%511[^\t]\t%d\t%lf\t%lf\t%d", conninfo, &commits,
				   &from_ms, &to_ms, &first) != 5)
			break;
		measure(conninfo, commits, from_ms, to_ms, first);
	}
	return 0;
}
