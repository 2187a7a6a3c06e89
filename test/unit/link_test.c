/*-------------------------------------------------------------------------
 *
 * link_test.c
 *		A WebSocket to a server: link.c with the engine, against server.py.
 *
 *		link_test PLAIN_PORT TLS_PORT CA_FILE
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/x509.h>

#include "http.h"
#include "link.h"
#include "tap.h"

#define PATIENCE	2000

static int	plain_port;
static int	tls_port;
static const char *trusted;

/* Names that lead to the two servers without a network. */
int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *,
						 struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	if (strcmp(name, "pds.rsvp.dev") == 0)
		return real("127.0.0.77", service, NULL, result);
	if (strcmp(name, "loopback.rsvp.dev") == 0)
		return real("127.0.0.1", service, NULL, result);
	return real(name, service, hints, result);
}

int
X509_STORE_load_file(X509_STORE *store, const char *file)
{
	int			(*real) (X509_STORE *, const char *) =
		dlsym(RTLD_NEXT, "X509_STORE_load_file");

	return real(store, trusted ? trusted : file);
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* One turn of what the worker's loop does, without its latch. */
static void
turn(Link *link, size_t budget)
{
	struct pollfd fd = {.fd = link_socket(link), .events = POLLIN};
	long		ms = link_timeout_ms(link);

	if (link_wants_write(link))
		fd.events |= POLLOUT;
	poll(&fd, 1, ms < 0 || ms > 1000 ? 1000 : ms);
	link_pump(link, budget);
}

/* Until a message comes or the link is closed: that message, or NULL. */
static const char *
listen_to(Link *link, double seconds)
{
	double		until = now() + seconds;
	const char *text = NULL;
	size_t		len;

	while ((text = link_next(link, &len)) == NULL &&
		   link_state(link) != LINK_CLOSED && now() < until)
		turn(link, 65536);
	return text;
}

static Link *
open_path(const char *origin, int port, const char *path)
{
	char		url[200];

	snprintf(url, sizeof(url), "%s:%d%s", origin, port, path);
	return link_open(url, PATIENCE);
}

static void
closes(Link *link, const char *why, const char *what)
{
	while (link_state(link) != LINK_CLOSED && listen_to(link, 10) != NULL)
		;
	ok(link_state(link) == LINK_CLOSED &&
	   strstr(link_detail(link), why) != NULL, "%s: %s", what, why);
	if (strstr(link_detail(link), why) == NULL)
		printf("# %s\n", link_detail(link));
	link_free(link);
}

static void
hears(Link *link, const char *what)
{
	const char *text = listen_to(link, 10);

	ok(text != NULL && strcmp(text, "hello") == 0 &&
	   link_state(link) == LINK_OPEN, "%s", what);
	if (text == NULL)
		printf("# %s\n", link_detail(link));
}

static void
test_open(void)
{
	Link	   *link = open_path("http://127.0.0.1", plain_port, "/ws/talk");
	double		began = now();
	const char *text;

	hears(link, "a message over HTTP");
	text = listen_to(link, 5 * PATIENCE / 1000.0);
	ok(text != NULL && strcmp(text, "pinged") == 0,
	   "a silent server is pinged");
	ok(now() - began >= PATIENCE / 1000.0, "not before it was silent for so long");
	ok(listen_to(link, 1.5) == NULL && link_state(link) == LINK_OPEN,
	   "and kept if it answers");
	link_free(link);

	trusted = NULL;
	closes(open_path("https://pds.rsvp.dev", tls_port, "/ws/talk"), "tls",
		   "a certificate that nobody vouches for");
}

static void
test_tls(const char *ca_file)
{
	Link	   *link;

	trusted = ca_file;
	link = open_path("https://pds.rsvp.dev", tls_port, "/ws/talk");
	hears(link, "a message over HTTPS");
	link_free(link);
	closes(open_path("https://127.0.0.77", tls_port, "/ws/talk"), "tls",
		   "a certificate for another name");
	link = open_path("https://pds.rsvp.dev", tls_port, "/ws/flood");
	hears(link, "the beginning of a flood over HTTPS");
	for (int i = 0; i < 1000; i++)
	{
		size_t		len;

		turn(link, 4096);
		while (link_next(link, &len) != NULL)
			if (len != 4096)
				ok(false, "a message was cut");
	}
	ok(link_state(link) == LINK_OPEN, "in small sips");
	link_free(link);
}

static void
test_refused(void)
{
	closes(open_path("http://127.0.0.1", plain_port, "/text"),
		   "the server answered 502", "no WebSocket there");
	closes(open_path("http://127.0.0.1", plain_port, "/garbage"),
		   "the answer is not HTTP/1.1", "no HTTP there");
	closes(open_path("http://127.0.0.1", plain_port, "/empty"),
		   "the connection was closed before the upgrade", "nothing there");
	closes(open_path("http://127.0.0.1", plain_port, "/hang"),
		   "the server does not answer", "nobody answers there");
	closes(open_path("http://127.0.0.1", 1, "/"), "connect",
		   "nobody listens there");
	closes(open_path("http://127.0.0.1", plain_port + 1, "/"), "forbidden",
		   "an address that is not allowed");
	closes(open_path("https://loopback.rsvp.dev", 443, "/"), "forbidden",
		   "a name of an address that is not allowed");
	closes(open_path("ftp://127.0.0.1", plain_port, "/"), "forbidden",
		   "another scheme");
}

static void
test_lost(void)
{
	double		began = now();

	closes(open_path("http://127.0.0.1", plain_port, "/ws/cut"),
		   "the connection was lost", "cut");
	closes(open_path("http://127.0.0.1", plain_port, "/ws/silent"),
		   "the server says nothing any more", "silent");
	ok(now() - began < 3 * PATIENCE / 1000.0 + 3, "noticed in time");
}

static int
open_descriptors(void)
{
	int			n = 0;

	for (int fd = 0; fd < 256; fd++)
	{
		struct pollfd p = {.fd = fd};

		if (poll(&p, 1, 0) >= 0 && !(p.revents & POLLNVAL))
			n++;
	}
	return n;
}

int
main(int argc, char **argv)
{
	char		insecure[200];
	int			before = open_descriptors();

	if (argc < 4)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	plain_port = atoi(argv[1]);
	tls_port = atoi(argv[2]);
	snprintf(insecure, sizeof(insecure), "127.0.0.1:%d,127.0.0.1:1,"
			 "127.0.0.77:%d,pds.rsvp.dev:%d", plain_port, tls_port, tls_port);
	http_startup(1, 1);
	http_configure(insecure, "admin@example.org");
	test_open();
	test_tls(argv[3]);
	test_refused();
	test_lost();
	ok(http_in_flight() == 0, "nothing is under way");
	http_shutdown();
	http_configure(NULL, NULL);
	ok(open_descriptors() == before, "no descriptor is left open");
	return done_testing();
}
