/*-------------------------------------------------------------------------
 *
 * http.c
 *		Many HTTP requests at once, without ever blocking the caller.
 *
 * libcurl's multi interface drives the transfers.  It tells us which sockets
 * to watch; they go into an epoll set of our own, and it is the epoll
 * descriptor that the caller waits for together with its latch: PostgreSQL's
 * wait event sets cannot forget a socket again, and libcurl opens and closes
 * many.  Its one timer becomes a deadline that http_timeout_ms() reports.
 *
 * All memory comes from malloc and belongs to the request.  libcurl calls us
 * back from deep inside its own state, where an error must not jump out; so
 * this file does not even include postgres.h, and reports failures as values.
 * For the same reason all of its state is private to the process.
 *
 * Servers are chosen by strangers.  What they may be is decided in address.c
 * and enforced here three times: on the URL, on each address dialled, and on
 * the connection at hand when a request goes out, which may have been opened
 * under rules that have changed since.  What they may send is bounded in
 * bytes and in time.
 *
 *-------------------------------------------------------------------------
 */
#include "http.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "address.h"

#if LIBCURL_VERSION_NUM < 0x075700
#error "rsvp_sync needs libcurl 7.87 or later"
#endif

#define CONNECT_TIMEOUT_MS	5000L
#define MAX_HEADER_BYTES	(64 * 1024)
#define MAX_METHOD			15
#define MAX_CONTACT			200
#define MAX_EVENTS			64

/* Easy handles kept for reuse */
#define MAX_IDLE_HANDLES	64

/* A connection older than this is not used again, as addresses change */
#define MAX_CONNECTION_AGE	600L

/* Slower than this many bytes a second for so long is given up on */
#define LOW_SPEED_BYTES		64L
#ifndef HTTP_LOW_SPEED_SECONDS
#define HTTP_LOW_SPEED_SECONDS	20L
#endif

#ifndef RSVP_SYNC_VERSION
#define RSVP_SYNC_VERSION	"devel"
#endif

typedef enum TransferState
{
	PREPARING,					/* http_new() until http_start() */
	IN_FLIGHT,					/* on the list of that name, with a handle */
	FINISHED,					/* on the list of that name */
	HANDED_OUT					/* the caller's alone */
} TransferState;

typedef struct Buffer
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buffer;

/* What is behind an HttpRequest */
typedef struct Transfer
{
	HttpRequest req;			/* must be first */
	struct Transfer *prev;
	struct Transfer *next;
	TransferState state;

	/* the question */
	char		method[MAX_METHOD + 1];
	char	   *url;
	struct curl_slist *headers;
	Buffer		question;
	bool		has_body;
	bool		once;			/* on a new connection only */
	long		timeout_ms;
	size_t		max_body;

	/* the permission */
	bool		exempt;			/* from the address rules, at its own port */
	int			port;			/* network byte order */

	/* what was seen on the way */
	bool		unfit;			/* could not be made: fault and detail say why */
	bool		begun;			/* left the line for a free connection */
	bool		blocked;		/* an address was refused */
	bool		starved;		/* we ran out of something here */
	bool		overflowed;		/* the answer went beyond a limit */

	/* the answer */
	CURL	   *easy;
	char		curl_says[CURL_ERROR_SIZE];
	double		started;
	Buffer		answer;
	Buffer		answer_headers; /* name NUL value NUL ... */
	size_t		header_bytes;	/* of all header lines, also dropped ones */
	char	   *location;
} Transfer;

typedef struct TransferList
{
	Transfer   *first;
	Transfer   *last;
	int			count;
} TransferList;

/* The engine: one to a process, never shared */
static CURLM *multi = NULL;
static int	epoll_fd = -1;
static double deadline = -1;	/* libcurl's timer, on now()'s clock; -1: off */
static TransferList in_flight;
static TransferList finished;
static CURL *idle_handles[MAX_IDLE_HANDLES];
static int	idle_count = 0;

/* Settings, our own copies */
static char *insecure_hosts = NULL;
static char user_agent[MAX_CONTACT + 64] = "rsvp_sync/" RSVP_SYNC_VERSION;

static int	on_timer(CURLM *curlm, long timeout_ms, void *arg);
static int	on_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
					  void *socket_arg);
static int	on_resolve(void *resolver, void *reserved, void *arg);
static curl_socket_t on_open_socket(void *arg, curlsocktype purpose,
									struct curl_sockaddr *address);
static int	on_request(void *arg, char *peer_ip, char *local_ip,
					   int peer_port, int local_port);
static size_t on_body(char *data, size_t size, size_t n, void *arg);
static size_t on_header(char *data, size_t size, size_t n, void *arg);

static void set_limits(int max_connections, int connections_per_host);
static bool start_transfer(Transfer *t);
static bool set_safety(Transfer *t);
static bool set_limits_of(Transfer *t);
static bool set_callbacks(Transfer *t);
static bool set_question(Transfer *t);
static bool permit(Transfer *t);
static void collect(void);
static void give_up_waiting(void);
static double give_up_at(const Transfer *t);
static void finish(Transfer *t, CURLcode code);
static void read_results(Transfer *t);
static HttpFault judge(Transfer *t, CURLcode code);
static HttpFault fault_of(CURLcode code);
static void refuse(Transfer *t, HttpFault fault, const char *detail);
static void release_handle(Transfer *t);

static void list_append(TransferList *list, Transfer *t);
static void list_remove(TransferList *list, Transfer *t);
static bool buffer_append(Buffer *buffer, const char *data, size_t len);
static void buffer_free(Buffer *buffer);
static void copy_printable(char *to, const char *from, size_t size);
static void add_header(Transfer *t, const char *line);
static bool is_token(const char *s);
static bool has_control(const char *s);
static bool out_of_descriptors(void);
static double now(void);
static void signals_block(sigset_t *old);
static void signals_restore(const sigset_t *old);

/*
 * Make the engine ready, or change its limits.  If it cannot be made, requests
 * are refused with HTTP_LOCAL and the next call tries again.
 */
void
http_startup(int max_connections, int connections_per_host)
{
	if (multi == NULL)
	{
		if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
			return;
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_fd >= 0)
			multi = curl_multi_init();
		if (multi == NULL)
		{
			http_shutdown();
			return;
		}
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
		curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
		curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
	}
	set_limits(max_connections, connections_per_host);
}

/*
 * Each connection may need a few descriptors while its name is looked up, and
 * the server process has files of its own to open.
 */
static void
set_limits(int max_connections, int connections_per_host)
{
	struct rlimit files;
	long		most = max_connections;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 &&
		files.rlim_cur != RLIM_INFINITY &&
		(rlim_t) most > files.rlim_cur / 4)
		most = (long) (files.rlim_cur / 4);
	if (most < 1)
		most = 1;

	curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, most);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, most);
	curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS,
					  (long) (connections_per_host < 1 ? 1 :
							  connections_per_host));
}

/*
 * Requests that are still around stay their callers' to free.
 */
void
http_shutdown(void)
{
	sigset_t	signals;

	while (in_flight.first)
		http_cancel(&in_flight.first->req);
	while (finished.first)
		http_cancel(&finished.first->req);

	signals_block(&signals);
	while (idle_count > 0)
		curl_easy_cleanup(idle_handles[--idle_count]);
	if (multi != NULL)
		curl_multi_cleanup(multi);
	multi = NULL;
	signals_restore(&signals);

	if (epoll_fd >= 0)
		close(epoll_fd);
	epoll_fd = -1;
	deadline = -1;
}

void
http_configure(const char *new_insecure_hosts, const char *contact)
{
	free(insecure_hosts);
	insecure_hosts = new_insecure_hosts ? strdup(new_insecure_hosts) : NULL;

	strcpy(user_agent, "rsvp_sync/" RSVP_SYNC_VERSION);
	if (contact != NULL && *contact != '\0')
	{
		char		printable[MAX_CONTACT];

		copy_printable(printable, contact, sizeof(printable));
		snprintf(user_agent, sizeof(user_agent), "rsvp_sync/%s (+%s)",
				 RSVP_SYNC_VERSION, printable);
	}
}

int
http_epoll_fd(void)
{
	return epoll_fd;
}

long
http_timeout_ms(void)
{
	double		until = deadline;
	double		left;

	if (finished.first != NULL)
		return 0;
	for (Transfer *t = in_flight.first; t; t = t->next)
		if (!t->begun && (until < 0 || give_up_at(t) < until))
			until = give_up_at(t);
	if (until < 0)
		return -1;
	left = until - now();

	/* Rounded up: to wake a little early is to wake twice */
	return left > 0 ? (long) (left * 1000) + 1 : 0;
}

void
http_pump(void)
{
	struct epoll_event events[MAX_EVENTS];
	sigset_t	signals;
	int			n;
	int			running;

	if (multi == NULL)
		return;
	signals_block(&signals);

	n = epoll_wait(epoll_fd, events, MAX_EVENTS, 0);
	for (int i = 0; i < n; i++)
	{
		int			what = 0;

		if (events[i].events & (EPOLLIN | EPOLLHUP))
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & EPOLLERR)
			what |= CURL_CSELECT_ERR;
		curl_multi_socket_action(multi, events[i].data.fd, what, &running);
	}

	if (deadline >= 0 && now() >= deadline)
	{
		deadline = -1;			/* before the call, which may set it anew */
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	collect();
	give_up_waiting();
	signals_restore(&signals);
}

HttpRequest *
http_finished(void)
{
	Transfer   *t = finished.first;

	if (t == NULL)
		return NULL;
	list_remove(&finished, t);
	t->state = HANDED_OUT;
	return &t->req;
}

int
http_in_flight(void)
{
	return in_flight.count + finished.count;
}

HttpRequest *
http_new(const char *method, const char *url, long timeout_ms,
		 size_t max_body, void *owner)
{
	Transfer   *t = calloc(1, sizeof(Transfer));

	if (t == NULL)
		return NULL;
	t->req.owner = owner;
	t->req.body = "";
	t->timeout_ms = timeout_ms > 0 ? timeout_ms : 1;
	t->max_body = max_body;
	t->url = strdup(url);
	if (t->url == NULL)
	{
		free(t);
		return NULL;
	}
	if (is_token(method) && strlen(method) <= MAX_METHOD)
		strcpy(t->method, method);
	else
		refuse(t, HTTP_FORBIDDEN, "method is malformed");

	/* libcurl would wait for "100 Continue" before it sends a larger body */
	add_header(t, "Expect:");
	return &t->req;
}

void
http_header(HttpRequest *req, const char *name, const char *value)
{
	Transfer   *t = (Transfer *) req;
	size_t		len = strlen(name) + strlen(value) + 3;
	char	   *line;

	/* A line feed in a value would smuggle in headers of its own */
	if (!is_token(name) || has_control(value))
	{
		refuse(t, HTTP_FORBIDDEN, "request header is malformed");
		return;
	}
	line = malloc(len);
	if (line == NULL)
	{
		refuse(t, HTTP_LOCAL, "out of memory");
		return;
	}

	/* "Name;" is how libcurl is told of a header with an empty value */
	if (*value != '\0')
		snprintf(line, len, "%s: %s", name, value);
	else
		snprintf(line, len, "%s;", name);
	add_header(t, line);
	explicit_bzero(line, len);
	free(line);
}

void
http_body(HttpRequest *req, const char *content_type, const char *data,
		  size_t len)
{
	Transfer   *t = (Transfer *) req;

	t->has_body = true;
	if (content_type != NULL)
		http_header(req, "Content-Type", content_type);
	else
		add_header(t, "Content-Type:");
	buffer_free(&t->question);
	if (!buffer_append(&t->question, data, len))
		refuse(t, HTTP_LOCAL, "out of memory");
}

void
http_once(HttpRequest *req)
{
	((Transfer *) req)->once = true;
}

bool
http_start(HttpRequest *req)
{
	Transfer   *t = (Transfer *) req;
	sigset_t	signals;

	if (t->state != PREPARING)
		return false;
	t->state = HANDED_OUT;
	if (t->unfit || !permit(t))
		return false;
	if (multi == NULL)
	{
		refuse(t, HTTP_LOCAL, "HTTP engine could not be started");
		return false;
	}

	signals_block(&signals);
	if (!start_transfer(t))
	{
		release_handle(t);
		refuse(t, HTTP_LOCAL, "libcurl could not take the request");
	}
	signals_restore(&signals);
	return t->state == IN_FLIGHT;
}

const char *
http_answer_header(HttpRequest *req, const char *name)
{
	const char *last = NULL;
	const char *value;

	for (int n = 0; (value = http_answer_header_nth(req, name, n)); n++)
		last = value;
	return last;
}

const char *
http_answer_header_nth(HttpRequest *req, const char *name, int n)
{
	const Buffer *headers = &((Transfer *) req)->answer_headers;
	const char *p = headers->data;

	while (p != NULL && p < headers->data + headers->len)
	{
		const char *value = p + strlen(p) + 1;

		if (strcasecmp(p, name) == 0 && n-- == 0)
			return value;
		p = value + strlen(value) + 1;
	}
	return NULL;
}

void
http_cancel(HttpRequest *req)
{
	Transfer   *t = (Transfer *) req;
	sigset_t	signals;

	if (t->state == FINISHED)
		list_remove(&finished, t);
	else if (t->state == IN_FLIGHT)
	{
		list_remove(&in_flight, t);
		signals_block(&signals);
		release_handle(t);
		signals_restore(&signals);
		refuse(t, HTTP_LOCAL, "cancelled");
	}
	t->state = HANDED_OUT;
}

/*
 * Tokens and passwords pass through here, both ways: wipe before freeing.
 */
void
http_free(HttpRequest *req)
{
	Transfer   *t = (Transfer *) req;

	if (t == NULL)
		return;
	http_cancel(req);
	for (struct curl_slist *h = t->headers; h; h = h->next)
		explicit_bzero(h->data, strlen(h->data));
	curl_slist_free_all(t->headers);
	buffer_free(&t->question);
	buffer_free(&t->answer);
	buffer_free(&t->answer_headers);
	free(t->location);
	free(t->url);
	free(t);
}

const char *
http_fault_name(HttpFault fault)
{
	static const char *const names[] = {
		[HTTP_ANSWERED] = "answered",
		[HTTP_DNS] = "dns",
		[HTTP_CONNECT] = "connect",
		[HTTP_TLS] = "tls",
		[HTTP_TIMEOUT] = "timeout",
		[HTTP_BROKEN] = "broken",
		[HTTP_TOO_LARGE] = "too_large",
		[HTTP_FORBIDDEN] = "forbidden",
		[HTTP_LOCAL] = "local"
	};

	return names[fault];
}

/*
 * First gate: the URL as written.
 */
static bool
permit(Transfer *t)
{
	char		origin[ADDRESS_MAX_ORIGIN];
	char		why[HTTP_DETAIL_SIZE];
	AddressVerdict verdict = address_check_url(t->url, insecure_hosts,
											   why, sizeof(why));

	if (verdict == ADDRESS_REFUSED)
	{
		refuse(t, HTTP_FORBIDDEN, why);
		return false;
	}
	if (!address_url_origin(t->url, origin, sizeof(origin)))
	{
		refuse(t, HTTP_FORBIDDEN, "URL has no origin");
		return false;
	}
	t->exempt = (verdict == ADDRESS_EXEMPT);
	t->port = atoi(strrchr(origin, ':') + 1);
	return true;
}

/*
 * Give the transfer a handle and libcurl the transfer.
 */
static bool
start_transfer(Transfer *t)
{
	t->easy = idle_count > 0 ? idle_handles[--idle_count] : curl_easy_init();
	if (t->easy == NULL)
		return false;
	if (!set_safety(t) || !set_limits_of(t) || !set_callbacks(t) ||
		!set_question(t))
		return false;
	t->started = now();
	if (curl_multi_add_handle(multi, t->easy) != CURLM_OK)
		return false;
	list_append(&in_flight, t);
	t->state = IN_FLIGHT;
	return true;
}

/*
 * In the functions below one failed option fails the whole: an option that
 * this libcurl does not know may be the one that keeps us safe.
 */
#define SET(option, value) \
	(curl_easy_setopt(t->easy, (option), (value)) == CURLE_OK)

/*
 * What a request may do, wherever it goes.
 */
static bool
set_safety(Transfer *t)
{
	return SET(CURLOPT_NOSIGNAL, 1L) &&
		SET(CURLOPT_PROTOCOLS_STR, t->exempt ? "http,https" : "https") &&
		SET(CURLOPT_REDIR_PROTOCOLS_STR, "https") &&
		SET(CURLOPT_FOLLOWLOCATION, 0L) &&
		SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) &&
		SET(CURLOPT_PROXY, "") &&
		SET(CURLOPT_NOPROXY, "*") &&
		SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) &&
		SET(CURLOPT_ACCEPT_ENCODING, NULL) &&
		SET(CURLOPT_SSL_VERIFYPEER, 1L) &&
		SET(CURLOPT_SSL_VERIFYHOST, 2L) &&
		SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2) &&
		SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS) &&
		SET(CURLOPT_PIPEWAIT, 1L) &&
		SET(CURLOPT_TCP_KEEPALIVE, 1L) &&
		SET(CURLOPT_FRESH_CONNECT, t->once ? 1L : 0L) &&

	/* Without it, giving up on a slow name waits for the resolver's thread */
		SET(CURLOPT_QUICK_EXIT, 1L);
}

/*
 * How long it may take and how much it may bring.
 */
static bool
set_limits_of(Transfer *t)
{
	long		connect_ms = CONNECT_TIMEOUT_MS;

	if (connect_ms > t->timeout_ms)
		connect_ms = t->timeout_ms;
	return SET(CURLOPT_TIMEOUT_MS, t->timeout_ms) &&
		SET(CURLOPT_CONNECTTIMEOUT_MS, connect_ms) &&
		SET(CURLOPT_LOW_SPEED_LIMIT, LOW_SPEED_BYTES) &&
		SET(CURLOPT_LOW_SPEED_TIME, (long) HTTP_LOW_SPEED_SECONDS) &&
		SET(CURLOPT_MAXLIFETIME_CONN, MAX_CONNECTION_AGE) &&
		SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) t->max_body);
}

static bool
set_callbacks(Transfer *t)
{
	return SET(CURLOPT_PRIVATE, t) &&
		SET(CURLOPT_ERRORBUFFER, t->curl_says) &&
		SET(CURLOPT_RESOLVER_START_FUNCTION, on_resolve) &&
		SET(CURLOPT_RESOLVER_START_DATA, t) &&
		SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket) &&
		SET(CURLOPT_OPENSOCKETDATA, t) &&
		SET(CURLOPT_PREREQFUNCTION, on_request) &&
		SET(CURLOPT_PREREQDATA, t) &&
		SET(CURLOPT_WRITEFUNCTION, on_body) &&
		SET(CURLOPT_WRITEDATA, t) &&
		SET(CURLOPT_HEADERFUNCTION, on_header) &&
		SET(CURLOPT_HEADERDATA, t);
}

/*
 * What is asked.  POST means a body, even an empty one; CUSTOMREQUEST only
 * changes the word on the request line.
 */
static bool
set_question(Transfer *t)
{
	bool		post = t->has_body || strcmp(t->method, "POST") == 0;
	bool		ok;

	if (post && !t->has_body)
		http_body(&t->req, NULL, "", 0);
	if (t->unfit)
		return false;

	ok = SET(CURLOPT_URL, t->url) &&
		SET(CURLOPT_USERAGENT, user_agent) &&
		SET(CURLOPT_HTTPHEADER, t->headers);
	if (ok && post)
		ok = SET(CURLOPT_POST, 1L) &&
			SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->question.len) &&
			SET(CURLOPT_POSTFIELDS, t->question.data);
	else if (ok && strcmp(t->method, "HEAD") == 0)
		ok = SET(CURLOPT_NOBODY, 1L);
	else if (ok)
		ok = SET(CURLOPT_HTTPGET, 1L);
	return ok && SET(CURLOPT_CUSTOMREQUEST, t->method);
}

/*
 * libcurl wants to be called back then; it has only this one timer.
 */
static int
on_timer(CURLM *curlm, long timeout_ms, void *arg)
{
	deadline = timeout_ms < 0 ? -1 : now() + timeout_ms / 1000.0;
	return 0;
}

/*
 * libcurl wants this socket watched, otherwise watched, or forgotten.
 *
 * A failure must not be returned, as it would end all transfers at once.  The
 * one that owns the socket will run into its timeout; we remember by whose
 * fault.
 */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct epoll_event event = {.data.fd = fd};
	Transfer   *t = NULL;

	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0 ||
		(errno == ENOENT &&
		 epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0))
		return 0;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &t);
	if (t != NULL)
		t->starved = true;
	return 0;
}

static int
on_resolve(void *resolver, void *reserved, void *arg)
{
	((Transfer *) arg)->begun = true;
	return 0;
}

/*
 * Second gate: the address about to be dialled, whatever name led to it.
 */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *t = arg;
	int			fd;

	t->begun = true;
	if (!t->exempt && !address_is_public(&address->addr))
	{
		t->blocked = true;
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd < 0)
	{
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			errno == ENOMEM)
			t->starved = true;
		return CURL_SOCKET_BAD;
	}
	return fd;
}

/*
 * Third gate: the connection on which the request goes out now.  It may be
 * one kept from a time when its host was still exempt.
 *
 * From here on the server may have seen the request.  A second call means
 * that a kept connection turned out to be dead and libcurl tries once more.
 */
static int
on_request(void *arg, char *peer_ip, char *local_ip, int peer_port,
		   int local_port)
{
	Transfer   *t = arg;

	t->begun = true;
	if (peer_port != t->port ||
		(!t->exempt && !address_is_public_text(peer_ip)))
	{
		t->blocked = true;
		return CURL_PREREQFUNC_ABORT;
	}
	t->req.resent = t->req.sent;
	t->req.sent = true;
	return CURL_PREREQFUNC_OK;
}

static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *t = arg;
	size_t		len = size * n;

	if (len > t->max_body - t->answer.len)
		t->overflowed = true;
	else if (!buffer_append(&t->answer, data, len))
		t->starved = true;
	else
		return len;
	return CURL_WRITEFUNC_ERROR;
}

/*
 * Keep one header line.  A status line starts a new set: what came before it
 * belonged to an interim answer such as 103.
 */
static size_t
on_header(char *data, size_t size, size_t n, void *arg)
{
	Transfer   *t = arg;
	size_t		len = size * n;
	const char *end = data + len;
	const char *colon = memchr(data, ':', len);
	const char *value;

	t->header_bytes += len;
	if (t->header_bytes > MAX_HEADER_BYTES)
	{
		t->overflowed = true;
		return CURL_WRITEFUNC_ERROR;
	}
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		t->answer_headers.len = 0;
		return len;
	}
	if (colon == NULL || memchr(data, '\0', len) != NULL)
		return len;

	for (value = colon + 1; value < end && strchr(" \t", *value); value++)
		;
	while (end > value && strchr(" \t\r\n", end[-1]))
		end--;
	if (!buffer_append(&t->answer_headers, data, colon - data) ||
		!buffer_append(&t->answer_headers, "", 1) ||
		!buffer_append(&t->answer_headers, value, end - value) ||
		!buffer_append(&t->answer_headers, "", 1))
	{
		t->starved = true;
		return CURL_WRITEFUNC_ERROR;
	}
	return len;
}

/*
 * Take over what libcurl is done with.
 */
static void
collect(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		Transfer   *t = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
						  (char **) &t);
		finish(t, message->data.result);
	}
}

/*
 * libcurl watches the time of a transfer only once it has a connection.  While
 * it stands in line for one, that is left to us.
 */
static void
give_up_waiting(void)
{
	Transfer   *next;

	for (Transfer *t = in_flight.first; t; t = next)
	{
		next = t->next;
		if (t->begun || now() < give_up_at(t))
			continue;
		strcpy(t->curl_says, "no connection became free in time");
		finish(t, CURLE_OPERATION_TIMEDOUT);
	}
}

static double
give_up_at(const Transfer *t)
{
	return t->started + t->timeout_ms / 1000.0;
}

static void
finish(Transfer *t, CURLcode code)
{
	read_results(t);
	t->req.fault = judge(t, code);
	if (t->req.fault != HTTP_ANSWERED)
	{
		buffer_free(&t->answer);
		copy_printable(t->req.detail,
					   *t->curl_says ? t->curl_says : curl_easy_strerror(code),
					   sizeof(t->req.detail));
	}
	if (t->answer.data != NULL)
		t->req.body = t->answer.data;
	t->req.body_len = t->answer.len;

	release_handle(t);
	list_remove(&in_flight, t);
	list_append(&finished, t);
	t->state = FINISHED;
}

static void
read_results(Transfer *t)
{
	long		status = 0;
	char	   *location = NULL;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	t->req.status = (int) status;
	t->req.seconds = now() - t->started;

	/* The caller can still read the header itself if memory is short here */
	curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &location);
	if (location != NULL)
		t->location = strdup(location);
	t->req.location = t->location;
}

/*
 * Whose doing was it?  What our callbacks saw counts for more than libcurl's
 * code, which knows nothing of their reasons.
 */
static HttpFault
judge(Transfer *t, CURLcode code)
{
	HttpFault	fault = fault_of(code);

	if (code == CURLE_OK)
		return HTTP_ANSWERED;
	if (t->starved)
		return HTTP_LOCAL;
	if (t->overflowed)
		return HTTP_TOO_LARGE;

	/* Of several addresses one may have been public and yet not answered */
	if (t->blocked && (code == CURLE_COULDNT_CONNECT ||
					   code == CURLE_ABORTED_BY_CALLBACK))
	{
		strcpy(t->curl_says, "host resolves to an address that is not public");
		return HTTP_FORBIDDEN;
	}

	/* It never left the line for a free connection */
	if (code == CURLE_OPERATION_TIMEDOUT && !t->begun)
		return HTTP_LOCAL;

	/* libcurl's words for a header line beyond its limit, and for HTTP/0.9 */
	if (code == CURLE_OUT_OF_MEMORY && t->req.sent)
		return HTTP_TOO_LARGE;
	if (code == CURLE_UNSUPPORTED_PROTOCOL && t->req.sent)
		return HTTP_BROKEN;

	/* A resolver or a TLS library without descriptors blames the peer */
	if (!t->req.sent && fault != HTTP_FORBIDDEN && out_of_descriptors())
		return HTTP_LOCAL;
	return fault;
}

static HttpFault
fault_of(CURLcode code)
{
	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
			return HTTP_DNS;
		case CURLE_COULDNT_CONNECT:
			return HTTP_CONNECT;
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_CIPHER:
			return HTTP_TLS;
		case CURLE_OPERATION_TIMEDOUT:
			return HTTP_TIMEOUT;
		case CURLE_FILESIZE_EXCEEDED:
			return HTTP_TOO_LARGE;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_URL_MALFORMAT:
			return HTTP_FORBIDDEN;
		case CURLE_OUT_OF_MEMORY:
		case CURLE_FAILED_INIT:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_NO_CONNECTION_AVAILABLE:
			return HTTP_LOCAL;
		default:
			return HTTP_BROKEN;
	}
}

/*
 * Note why the request cannot be made.  The first reason is kept.
 */
static void
refuse(Transfer *t, HttpFault fault, const char *detail)
{
	if (t->unfit)
		return;
	t->unfit = true;
	t->req.fault = fault;
	copy_printable(t->req.detail, detail, sizeof(t->req.detail));
}

/*
 * Take the handle off the transfer and keep it for another one.  Resetting it
 * drops every pointer into the transfer; connections belong to the multi
 * handle and live on.
 */
static void
release_handle(Transfer *t)
{
	CURL	   *easy = t->easy;

	if (easy == NULL)
		return;
	t->easy = NULL;
	curl_multi_remove_handle(multi, easy);
	if (idle_count < MAX_IDLE_HANDLES)
	{
		curl_easy_reset(easy);
		idle_handles[idle_count++] = easy;
	}
	else
		curl_easy_cleanup(easy);
}

static void
list_append(TransferList *list, Transfer *t)
{
	t->prev = list->last;
	t->next = NULL;
	if (list->last)
		list->last->next = t;
	else
		list->first = t;
	list->last = t;
	list->count++;
}

static void
list_remove(TransferList *list, Transfer *t)
{
	if (t->prev)
		t->prev->next = t->next;
	else
		list->first = t->next;
	if (t->next)
		t->next->prev = t->prev;
	else
		list->last = t->prev;
	list->count--;
}

/*
 * Append, and keep a NUL behind the end.  Limits are the callers' to check.
 */
static bool
buffer_append(Buffer *buffer, const char *data, size_t len)
{
	if (buffer->len + len + 1 > buffer->size)
	{
		size_t		size = (buffer->len + len + 1) * 2;
		char	   *bigger = realloc(buffer->data, size);

		if (bigger == NULL)
			return false;
		buffer->data = bigger;
		buffer->size = size;
	}
	if (len > 0)
		memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	buffer->data[buffer->len] = '\0';
	return true;
}

static void
buffer_free(Buffer *buffer)
{
	if (buffer->data != NULL)
		explicit_bzero(buffer->data, buffer->size);
	free(buffer->data);
	*buffer = (Buffer) {0};
}

/*
 * Copy what fits.  Texts from the network go into logs and tables of any
 * encoding, so that only printable ASCII is let through.
 */
static void
copy_printable(char *to, const char *from, size_t size)
{
	for (; *from && size > 1; from++, size--)
		*to++ = (*from >= ' ' && *from < 0x7f) ? *from : '?';
	*to = '\0';
}

static void
add_header(Transfer *t, const char *line)
{
	struct curl_slist *longer = curl_slist_append(t->headers, line);

	if (longer == NULL)
		refuse(t, HTTP_LOCAL, "out of memory");
	else
		t->headers = longer;
}

/*
 * Is this a word that HTTP allows as a method or as a header's name?
 */
static bool
is_token(const char *s)
{
	return *s != '\0' &&
		s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~")] == '\0';
}

static bool
has_control(const char *s)
{
	for (; *s; s++)
		if ((unsigned char) *s < ' ' || *s == 0x7f)
			return true;
	return false;
}

static bool
out_of_descriptors(void)
{
	int			fd = fcntl(epoll_fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return true;
	close(fd);
	return false;
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/*
 * libcurl looks names up in threads, which inherit the signal mask.  With all
 * signals blocked none can be delivered to them, where the server's handlers
 * would run on the wrong stack and set the wrong errno.
 */
static void
signals_block(sigset_t *old)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, old);
}

static void
signals_restore(const sigset_t *old)
{
	pthread_sigmask(SIG_SETMASK, old, NULL);
}
