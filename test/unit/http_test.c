/*-------------------------------------------------------------------------
 *
 * http_test.c
 *		The HTTP engine against servers that misbehave on request.
 *
 * Usage: http_test HTTP-PORT HTTPS-PORT PRIVILEGED-PORT HTTP2-PORT CA-FILE
 * The ports are those of server.py and server_h2.js (0: not there).
 *
 * Name resolution and the store of trusted certificates are replaced below,
 * so that public names can lead where the tests want them to, and nothing is
 * asked of a real network.  Allocation is replaced to fail when told to.
 *
 *-------------------------------------------------------------------------
 */
#include "http.h"

#include <dirent.h>
#include <dlfcn.h>
#include <netdb.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

#define MB				(1024 * 1024)
#define CONCURRENCY		64
#define MANY			1000

static int	plain_port;
static int	tls_port;
static int	privileged_port;
static int	h2_port;
static const char *ca_file;

/* What the replaced functions were told and have seen */
static bool trust_test_ca = false;
static volatile bool resolver_masked = false;
static long allocations_left = -1;	/* -1: no limit */

/*
 * Names under these rules resolve without a network; a slow name takes its
 * thread three seconds.
 */
static const struct
{
	const char *name;
	const char *ip;
}			hosts[] =
{
	{"loopback.rsvp.dev", "127.0.0.1"},
	{"mapped.rsvp.dev", "::ffff:127.0.0.1"},
	{"cloud.rsvp.dev", "169.254.169.254"},
	{"home.rsvp.dev", "192.168.1.1"},
	{"pds.rsvp.dev", "127.0.0.77"},
	{"slow.rsvp.dev", "127.0.0.1"},
};

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *,
						 struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
	sigset_t	mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	resolver_masked = sigismember(&mask, SIGTERM) == 1 &&
		sigismember(&mask, SIGUSR1) == 1 && sigismember(&mask, SIGQUIT) == 1;

	if (strcmp(name, "slow.rsvp.dev") == 0)
		sleep(3);
	for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++)
		if (strcmp(name, hosts[i].name) == 0)
			return real(hosts[i].ip, service, NULL, result);
	if (strstr(name, ".rsvp.dev"))
		return EAI_NONAME;
	return real(name, service, hints, result);
}

int
X509_STORE_load_file(X509_STORE *store, const char *file)
{
	int			(*real) (X509_STORE *, const char *) =
		dlsym(RTLD_NEXT, "X509_STORE_load_file");

	return real(store, trust_test_ca ? ca_file : file);
}

/* The linker sends http.c's allocations here */
extern void *__real_malloc(size_t size);
extern void *__real_calloc(size_t n, size_t size);
extern void *__real_realloc(void *old, size_t size);
extern char *__real_strdup(const char *s);
extern void *__wrap_malloc(size_t size);
extern void *__wrap_calloc(size_t n, size_t size);
extern void *__wrap_realloc(void *old, size_t size);
extern char *__wrap_strdup(const char *s);

static bool
may_allocate(void)
{
	if (allocations_left > 0)
		allocations_left--;
	else if (allocations_left == 0)
		return false;
	return true;
}

void *
__wrap_malloc(size_t size)
{
	return may_allocate() ? __real_malloc(size) : NULL;
}

void *
__wrap_calloc(size_t n, size_t size)
{
	return may_allocate() ? __real_calloc(n, size) : NULL;
}

void *
__wrap_realloc(void *old, size_t size)
{
	return may_allocate() ? __real_realloc(old, size) : NULL;
}

char *
__wrap_strdup(const char *s)
{
	return may_allocate() ? __real_strdup(s) : NULL;
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int
open_descriptors(void)
{
	DIR		   *dir = opendir("/proc/self/fd");
	int			n = -3;			/* ".", ".." and the directory itself */

	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static int
lowest_free_descriptor(void)
{
	int			fd = dup(STDOUT_FILENO);

	close(fd);
	return fd;
}

static void
configure(void)
{
	char		list[200];

	snprintf(list, sizeof(list), "127.0.0.1:%d,127.0.0.77:%d,127.0.0.1:1,"
			 "nowhere.rsvp.dev:80,slow.rsvp.dev:%d,pds.rsvp.dev:%d,"
			 "pds.rsvp.dev:%d",
			 plain_port, tls_port, plain_port, tls_port, h2_port);
	http_configure(list, "https://rsvp.dev\r\nX-Smuggled: 1");
}

/*
 * Wait for the next finished request, as a worker does, less the latch.
 */
static HttpRequest *
wait_one(void)
{
	HttpRequest *req;

	while ((req = http_finished()) == NULL && http_in_flight() > 0)
	{
		struct pollfd fd = {.fd = http_epoll_fd(), .events = POLLIN};

		poll(&fd, 1, (int) http_timeout_ms());
		http_pump();
	}
	return req;
}

static HttpRequest *
prepare(const char *method, const char *path, long timeout_ms)
{
	char		url[300];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", plain_port, path);
	return http_new(method, url, timeout_ms, MB, NULL);
}

/*
 * Start and wait; a refused request comes back as well.
 */
static HttpRequest *
run(HttpRequest *req)
{
	if (http_start(req))
		wait_one();
	return req;
}

static HttpRequest *
get_url(const char *url, long timeout_ms)
{
	return run(http_new("GET", url, timeout_ms, MB, NULL));
}

static HttpRequest *
get(const char *path)
{
	return run(prepare("GET", path, 1500));
}

static int
connection_of(HttpRequest *req)
{
	const char *number = http_answer_header(req, "x-connection");

	return number ? atoi(number) : -1;
}

static int
get_connection(const char *path)
{
	HttpRequest *req = get(path);
	int			number = connection_of(req);

	http_free(req);
	return number;
}

/*
 * Check how a request ended, show the rest when it ended otherwise, free it.
 */
static void
ends(HttpRequest *req, HttpFault fault, bool sent, const char *name)
{
	if (!ok(req->fault == fault && req->sent == sent, "%s: %s, %ssent", name,
			http_fault_name(fault), sent ? "" : "not "))
		printf("# was %s, status %d, %ssent, %.3f s: %s\n",
			   http_fault_name(req->fault), req->status,
			   req->sent ? "" : "not ", req->seconds, req->detail);
	ok((*req->detail == '\0') == (fault == HTTP_ANSWERED) &&
	   req->body != NULL && (fault == HTTP_ANSWERED || req->body_len == 0),
	   "    and has a detail or a body");
	http_free(req);
}

static void
test_unstarted(void)
{
	ok(http_epoll_fd() == -1, "no descriptor before the start");
	ok(http_timeout_ms() == -1, "no timeout before the start");
	http_pump();
	ok(http_finished() == NULL, "nothing finished before the start");
	ends(get("/ok"), HTTP_LOCAL, false, "request before the start");
	http_shutdown();
}

static void
test_answers(void)
{
	HttpRequest *req = get("/ok");

	ok(req->fault == HTTP_ANSWERED && req->status == 200, "answered");
	ok(strncmp(req->body, "GET /ok HTTP/1.1\r\n", 18) == 0, "the body");
	ok(strlen(req->body) == req->body_len, "ends with a NUL");
	ok(strstr(req->body, "\r\nUser-Agent: rsvp_sync/9.9 "
			  "(+https://rsvp.dev??X-Smuggled: 1)\r\n"), "User-Agent");
	ok(req->seconds > 0 && req->seconds < 1.5, "took some time");
	ok(req->sent && !req->resent, "was sent once");
	ok(req->location == NULL, "leads nowhere else");
	ok(!http_start(req), "cannot be started again");
	http_free(req);

	req = get("/redirect");
	ok(req->status == 302, "a redirect is an answer");
	ok(req->location && strstr(req->location, "/else?where") &&
	   strncmp(req->location, "http://127.0.0.1:", 17) == 0,
	   "and its target is made absolute");
	http_free(req);

	req = get("/text");
	ok(req->fault == HTTP_ANSWERED && req->status == 502, "not JSON, 502");
	ok(req->body_len == 15 && memcmp(req->body, "<html>\0\xff</html>", 15) == 0,
	   "bytes as they came");
	http_free(req);

	req = get("/nothing");
	ok(req->status == 204 && *req->body == '\0', "no body is an empty body");
	http_free(req);
	ok(wait_one() == NULL, "nothing is left");
}

static void
test_answer_headers(void)
{
	HttpRequest *req = get("/many");

	ok(strcmp(http_answer_header(req, "lInK"), "<c>") == 0, "the last wins");
	ok(strcmp(http_answer_header_nth(req, "link", 0), "<a>") == 0, "first");
	ok(strcmp(http_answer_header_nth(req, "link", 1), "<b>") == 0, "second");
	ok(http_answer_header_nth(req, "link", 3) == NULL, "no fourth");
	ok(strcmp(http_answer_header(req, "X-Empty"), "") == 0, "an empty one");
	ok(http_answer_header(req, "X") == NULL, "no prefix is taken for it");
	ok(http_answer_header(req, "<c>") == NULL, "no value is taken for it");
	http_free(req);

	req = get("/early");
	ok(req->status == 200 && strcmp(req->body, "late") == 0,
	   "an interim answer is passed over");
	ok(http_answer_header_nth(req, "X-Which", 1) == NULL &&
	   strcmp(http_answer_header(req, "X-Which"), "late") == 0,
	   "with its headers");
	http_free(req);
}

/*
 * The server sends back what it got.
 */
static void
test_questions(void)
{
	HttpRequest *req = prepare("POST", "/echo", 1500);

	http_header(req, "Authorization", "Bearer x");
	http_header(req, "X-Empty", "");
	http_body(req, "application/json", "{\"a\":\0}", 7);
	run(req);
	ok(strncmp(req->body, "POST /echo ", 11) == 0, "POST");
	ok(strstr(req->body, "\r\nContent-Type: application/json\r\n"), "type");
	ok(strstr(req->body, "\r\nAuthorization: Bearer x\r\n"), "a header");
	ok(strstr(req->body, "\r\nX-Empty:\r\n"), "an empty header");
	ok(memcmp(req->body + req->body_len - 7, "{\"a\":\0}", 7) == 0, "body");
	ok(!strcasestr(req->body, "\naccept-encoding:"), "no Accept-Encoding");
	ok(!strcasestr(req->body, "\ncookie:"), "no Cookie");
	http_free(req);

	req = run(prepare("POST", "/echo", 1500));
	ok(strstr(req->body, "\r\nContent-Length: 0\r\n"), "POST of nothing");
	ok(!strstr(req->body, "\r\nContent-Type:"), "has no type");
	http_free(req);

	req = prepare("PUT", "/echo", 1500);
	http_body(req, NULL, "x", 1);
	run(req);
	ok(strncmp(req->body, "PUT /echo ", 10) == 0 &&
	   req->body[req->body_len - 1] == 'x', "PUT");
	http_free(req);

	req = run(prepare("DELETE", "/echo", 1500));
	ok(strncmp(req->body, "DELETE /echo ", 13) == 0, "DELETE");
	http_free(req);

	req = run(prepare("HEAD", "/declared", 1500));
	ok(req->fault == HTTP_TOO_LARGE || req->status == 200, "HEAD");
	http_free(req);
}

/*
 * From 1 MB on libcurl would ask first.
 */
static void
test_large_question(void)
{
	HttpRequest *req;
	size_t		len = 2 * MB;
	char	   *data = malloc(len);
	char		url[100];

	memset(data, 'q', len);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/echo", plain_port);
	req = http_new("POST", url, 5000, 3 * MB, NULL);
	http_body(req, "text/plain", data, len);
	free(data);
	run(req);
	ok(req->fault == HTTP_ANSWERED && req->body_len > len, "2 MB and back");
	ok(!strcasestr(req->body, "\nexpect:"), "no Expect");
	http_free(req);
}

static void
test_malformed_questions(void)
{
	static const char *const names[] = {"", "a b", "a:", "a\r\nb", "\xc3\xa4"};
	HttpRequest *req;

	for (int i = 0; i < 5; i++)
	{
		req = prepare("GET", "/ok", 1500);
		http_header(req, names[i], "x");
		ends(run(req), HTTP_FORBIDDEN, false, "a malformed header name");
	}
	req = prepare("GET", "/ok", 1500);
	http_header(req, "X", "a\r\nY: b");
	ends(run(req), HTTP_FORBIDDEN, false, "a header within a header");
	ends(run(prepare("GET / HTTP/1.1\r\nX: y\r\n\r\n", "/ok", 1500)),
		 HTTP_FORBIDDEN, false, "a request within a method");
}

static void
test_faults(void)
{
	char		url[100];

	ends(get("/hang"), HTTP_TIMEOUT, true, "a server that hangs");
	ends(run(prepare("GET", "/trickle", 1200)), HTTP_TIMEOUT, true,
		 "an answer that trickles");
	ends(run(prepare("GET", "/trickle", 60000)), HTTP_TIMEOUT, true,
		 "an answer that trickles, and a patient caller");
	ends(get("/reset"), HTTP_BROKEN, true, "a reset");
	ends(get("/empty"), HTTP_BROKEN, true, "no answer");
	ends(get("/truncated"), HTTP_BROKEN, true, "half an answer");
	ends(get("/garbage"), HTTP_BROKEN, true, "not HTTP");
	ends(get("/flood"), HTTP_TOO_LARGE, true, "50 MB");
	ends(get("/chunks"), HTTP_TOO_LARGE, true, "50 MB in chunks");
	ends(get("/declared"), HTTP_TOO_LARGE, true, "50 MB announced");
	ends(get("/headers"), HTTP_TOO_LARGE, true, "200 KB of headers");
	ends(get("/header"), HTTP_TOO_LARGE, true, "one header of 200 KB");
	ends(get_url("http://127.0.0.1:1/", 1500), HTTP_CONNECT, false,
		 "nobody listens");
	ends(get_url("http://nowhere.rsvp.dev:80/", 1500), HTTP_DNS, false,
		 "no such name");
	ok(resolver_masked, "the resolver's thread gets no signals");
	snprintf(url, sizeof(url), "https://pds.rsvp.dev:%d/", tls_port);
	ends(get_url(url, 1500), HTTP_TLS, false, "a certificate of its own make");
	snprintf(url, sizeof(url), "http://127.0.0.77:%d/", tls_port);
	ends(get_url(url, 1500), HTTP_BROKEN, true, "a server that wants TLS");
}

static void
test_body_limits(void)
{
	HttpRequest *req;
	char		url[100];

	for (int limit = 0; limit <= 4; limit++)
	{
		snprintf(url, sizeof(url), "http://127.0.0.1:%d/early", plain_port);
		req = run(http_new("GET", url, 1500, limit, NULL));
		ok(req->fault == (limit < 4 ? HTTP_TOO_LARGE : HTTP_ANSWERED),
		   "4 bytes where %d are allowed", limit);
		http_free(req);
	}
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/nothing", plain_port);
	req = run(http_new("GET", url, 1500, 0, NULL));
	ok(req->fault == HTTP_ANSWERED, "nothing where nothing is allowed");
	http_free(req);
}

static void
test_refused(void)
{
	static const char *const urls[] = {
		"https://127.0.0.1/", "https://127.1/", "https://2130706433/",
		"https://0x7f.1/", "https://017700000001/", "https://localhost/",
		"https://[::1]/", "https://[::ffff:127.0.0.1]/",
		"https://169.254.169.254/", "https://10.0.0.1/",
		"https://100.64.0.1/", "https://0.0.0.0/",
		"https://user@bsky.social/", "https://bsky.social./",
		"https://bsky.social:8443/", "ftp://bsky.social/",
		"http://bsky.social/", "file:///etc/passwd",

		/* fine as written; what they resolve to is not */
		"https://loopback.rsvp.dev/", "https://mapped.rsvp.dev/",
		"https://cloud.rsvp.dev/", "https://home.rsvp.dev/"
	};

	for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++)
		ends(get_url(urls[i], 1500), HTTP_FORBIDDEN, false, urls[i]);
}

static void
test_keep_alive(void)
{
	int			first = get_connection("/ok");
	HttpRequest *req;

	ok(get_connection("/ok") == first, "a connection is used again");
	req = prepare("GET", "/ok", 1500);
	http_once(req);
	run(req);
	ok(req->fault == HTTP_ANSWERED && connection_of(req) != first,
	   "but not for what must go out once");
	http_free(req);

	first = get_connection("/leave");
	usleep(50000);
	req = get("/ok");
	ok(req->fault == HTTP_ANSWERED && !req->resent &&
	   connection_of(req) != first, "a closed connection is not used again");
	http_free(req);

	/* the kept ones go first, so that the doomed one is alone */
	http_shutdown();
	http_startup(CONCURRENCY, CONCURRENCY);
	first = get_connection("/doomed");
	req = get("/ok");
	ok(req->fault == HTTP_ANSWERED && connection_of(req) != first,
	   "a connection that dies when used again is replaced");
	ok(req->sent && req->resent, "and the repetition is reported");
	http_free(req);

	get_connection("/doomed");
	req = prepare("GET", "/ok", 1500);
	http_once(req);
	run(req);
	ok(req->fault == HTTP_ANSWERED && !req->resent,
	   "what must go out once is not repeated");
	http_free(req);
}

static void
test_many(void)
{
	int			before = open_descriptors();
	int			first = get_connection("/ok");
	int			started = 0;
	int			answered = 0;
	int			last = 0;
	int			owners = 0;
	HttpRequest *req;

	while (started < MANY || http_in_flight() > 0)
	{
		while (started < MANY && http_in_flight() < CONCURRENCY)
		{
			req = prepare("GET", "/ok", 10000);
			req->owner = (void *) (long) ++started;
			if (!http_start(req))
				http_free(req);
		}
		req = wait_one();
		answered += req->fault == HTTP_ANSWERED && req->status == 200;
		owners += (int) (long) req->owner;
		if (connection_of(req) > last)
			last = connection_of(req);
		http_free(req);
	}
	ok(answered == MANY, "%d of %d answered", answered, MANY);
	ok(owners == MANY * (MANY + 1) / 2, "each by its owner, once");
	ok(last - first <= CONCURRENCY, "over %d connections", last - first);
	ok(open_descriptors() <= before + CONCURRENCY, "which alone are open");
}

/*
 * One slow connection is allowed: the second waits in line, and what becomes
 * of it there is no fault of the server.
 */
static void
test_waiting_in_line(void)
{
	HttpRequest *slow[4];
	HttpRequest *late = prepare("GET", "/ok", 500);
	double		start = now();

	/* kept connections are not subject to the limit */
	http_shutdown();
	http_startup(CONCURRENCY, 1);
	for (int i = 0; i < 4; i++)
	{
		slow[i] = prepare("GET", "/slow", 5000);
		http_start(slow[i]);
	}
	while (http_in_flight() > 0)
		wait_one();
	ok(now() - start > 1.5, "four requests of 0.4 s, one after the other");
	for (int i = 0; i < 4; i++)
		ends(slow[i], HTTP_ANSWERED, true, "in line");

	slow[0] = prepare("GET", "/hang", 2000);
	http_start(slow[0]);
	http_pump();
	start = now();
	http_start(late);
	ok(wait_one() == late && now() - start < 1, "timed out in line");
	ends(late, HTTP_LOCAL, false, "in line for too long");
	http_free(slow[0]);
	http_startup(CONCURRENCY, CONCURRENCY);
}

static void
test_cancel(void)
{
	HttpRequest *hang = prepare("GET", "/hang", 10000);
	HttpRequest *fine = prepare("GET", "/ok", 1500);
	HttpRequest *done = prepare("GET", "/ok", 1500);
	HttpRequest *slow;
	char		url[100];
	double		start;

	http_start(hang);
	http_start(fine);
	ok(http_in_flight() == 2, "two in flight");
	ok(wait_one() == fine, "one answers");
	http_free(fine);
	http_cancel(hang);
	ok(http_in_flight() == 0 && wait_one() == NULL, "cancelled, not returned");
	ends(hang, HTTP_LOCAL, false || hang->sent, "cancelled");

	http_start(done);
	while (http_timeout_ms() != 0 || http_in_flight() == 0 ||
		   done->status == 0)
	{
		struct pollfd fd = {.fd = http_epoll_fd(), .events = POLLIN};

		poll(&fd, 1, (int) http_timeout_ms());
		http_pump();
	}
	http_cancel(done);
	ok(http_finished() == NULL && done->fault == HTTP_ANSWERED,
	   "cancelled after its end: keeps its answer");
	http_free(done);

	/* A name server that does not answer must not hold anybody up */
	snprintf(url, sizeof(url), "http://slow.rsvp.dev:%d/ok", plain_port);
	start = now();
	ends(get_url(url, 300), HTTP_TIMEOUT, false, "a slow name");
	ok(now() - start < 1, "is given up in time");
	slow = http_new("GET", url, 5000, MB, NULL);
	start = now();
	http_start(slow);
	http_pump();
	http_free(slow);
	ok(now() - start < 0.5, "or at once");
	sleep(4);					/* the threads end, for the leak checker */
}

static void
test_shutdown(void)
{
	int			before = open_descriptors();
	HttpRequest *hang = prepare("GET", "/hang", 10000);
	HttpRequest *fine = prepare("GET", "/ok", 1500);

	http_shutdown();
	ok(http_epoll_fd() == -1 && open_descriptors() < before,
	   "shutdown closes what is open");
	before = open_descriptors();
	http_startup(8, 8);
	http_start(hang);
	http_start(fine);
	http_pump();
	http_shutdown();
	ok(open_descriptors() == before, "shutdown in flight, too");
	ok(http_finished() == NULL && http_in_flight() == 0, "nothing is left");
	ends(hang, HTTP_LOCAL, hang->sent, "in flight at shutdown");
	http_free(fine);
	http_startup(CONCURRENCY, CONCURRENCY);
	ends(get("/ok"), HTTP_ANSWERED, true, "after a new start");
}

static void
test_descriptors(void)
{
	struct rlimit old;
	struct rlimit few;
	char		url[100];

	getrlimit(RLIMIT_NOFILE, &old);
	few = old;

	/* connections that are still open would be used */
	http_shutdown();
	http_startup(8, 8);
	few.rlim_cur = lowest_free_descriptor();
	setrlimit(RLIMIT_NOFILE, &few);
	ends(get("/ok"), HTTP_LOCAL, false, "no descriptor for a socket");
	snprintf(url, sizeof(url), "http://nowhere.rsvp.dev:80/");
	ends(get_url(url, 1500), HTTP_LOCAL, false, "none for the resolver");
	setrlimit(RLIMIT_NOFILE, &old);
	ends(get("/ok"), HTTP_ANSWERED, true, "with descriptors again");
}

/*
 * Let the first allocation of http.c fail, then the second, ... until all of
 * them succeed.  Whatever fails, the request ends, and as our own fault.
 */
static void
test_memory(void)
{
	HttpRequest *req;
	HttpFault	fault;
	bool		odd = false;
	int			n = 0;

	do
	{
		allocations_left = n++;
		fault = HTTP_LOCAL;
		req = prepare("POST", "/many", 1500);
		if (req != NULL)
		{
			http_header(req, "X-Some", "thing");
			http_body(req, "text/plain", "x", 1);
			run(req);
			fault = req->fault;
			odd |= fault != HTTP_LOCAL && fault != HTTP_ANSWERED;
			odd |= fault == HTTP_ANSWERED && strcmp(req->body, "{}") != 0;
		}
		http_free(req);
	} while (fault != HTTP_ANSWERED && n < 100);
	allocations_left = -1;
	ok(!odd && n > 5 && n < 100, "%d allocations, each allowed to fail", n - 1);
}

static void
test_https(void)
{
	HttpRequest *req;
	char		url[100];

	trust_test_ca = true;
	http_shutdown();
	http_startup(CONCURRENCY, CONCURRENCY);
	snprintf(url, sizeof(url), "https://pds.rsvp.dev:%d/ok", tls_port);
	ends(get_url(url, 1500), HTTP_ANSWERED, true, "a trusted certificate");
	snprintf(url, sizeof(url), "https://127.0.0.77:%d/ok", tls_port);
	ends(get_url(url, 1500), HTTP_TLS, false, "a certificate of another host");

	if (privileged_port == 0)
	{
		skip("port 443 is not ours to have");
		return;
	}

	/* A connection of the time when the host was exempt */
	http_configure("pds.rsvp.dev:443", NULL);
	req = get_url("https://pds.rsvp.dev/ok", 1500);
	ok(req->fault == HTTP_ANSWERED && req->status == 200, "HTTPS: %s",
	   req->detail);
	ok(strstr(req->body, "\r\nUser-Agent: rsvp_sync/9.9\r\n"), "no contact");
	http_free(req);
	http_configure(NULL, NULL);
	ends(get_url("https://pds.rsvp.dev/ok", 1500), HTTP_FORBIDDEN, false,
		 "a kept connection, no longer allowed");
	configure();
}

static void
test_http2(void)
{
	HttpRequest *req;
	char		url[100];
	int			answered = 0;
	int			last = 0;

	if (h2_port == 0)
	{
		skip("no HTTP/2 server");
		return;
	}

	snprintf(url, sizeof(url), "https://pds.rsvp.dev:%d/ok", h2_port);
	http_startup(CONCURRENCY, 4);
	for (int i = 0; i < 50; i++)
		http_start(http_new("GET", url, 5000, MB, NULL));
	while ((req = wait_one()) != NULL)
	{
		answered += req->status == 200 && strcmp(req->body, "{}") == 0;
		if (connection_of(req) > last)
			last = connection_of(req);
		http_free(req);
	}
	ok(answered == 50, "HTTP/2: %d of 50 answered", answered);
	ok(last == 1, "over %d connection", last);
	snprintf(url, sizeof(url), "https://pds.rsvp.dev:%d/reset", h2_port);
	ends(get_url(url, 1500), HTTP_BROKEN, true, "HTTP/2: a stream reset");
}

int
main(int argc, char **argv)
{
	int			before;

	if (argc != 6)
		return 2;
	plain_port = atoi(argv[1]);
	tls_port = atoi(argv[2]);
	privileged_port = atoi(argv[3]);
	h2_port = atoi(argv[4]);
	ca_file = argv[5];
	signal(SIGPIPE, SIG_IGN);	/* as in the server */
	alarm(300);

	before = open_descriptors();
	configure();
	test_unstarted();
	http_startup(CONCURRENCY, CONCURRENCY);
	test_answers();
	test_answer_headers();
	test_questions();
	test_large_question();
	test_malformed_questions();
	test_faults();
	test_body_limits();
	test_refused();
	test_keep_alive();
	test_many();
	test_waiting_in_line();
	test_cancel();
	test_shutdown();
	test_descriptors();
	test_memory();
	test_https();
	test_http2();
	http_shutdown();
	http_configure(NULL, NULL);
	ok(open_descriptors() == before, "%d descriptors, as before",
	   open_descriptors());
	return done_testing();
}
