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
 * no file of the engine even includes postgres.h, and failures are values.
 * For the same reason all of its state is private to the process.
 *
 *-------------------------------------------------------------------------
 */
#include "http.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "http_internal.h"
#include "wipe.h"

#define MAX_EVENTS			64

/* Easy handles kept for reuse */
#define MAX_IDLE_HANDLES	64

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

static void set_limits(int max_connections, int connections_per_host);
static bool start_transfer(Transfer *t);
static int	on_timer(CURLM *curlm, long timeout_ms, void *arg);
static int	on_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
					  void *socket_arg);
static void collect(void);
static void give_up_waiting(void);
static double give_up_at(const Transfer *t);
static void finish(Transfer *t, CURLcode code);
static void release_handle(Transfer *t);
static void release_connection(Transfer *t);
static void list_append(TransferList *list, Transfer *t);
static void list_remove(TransferList *list, Transfer *t);
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
		/* Tokens are in its headers and buffers; not after their end. */
		if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, wipe_malloc, wipe_free,
								 wipe_realloc, wipe_strdup,
								 wipe_calloc) != CURLE_OK)
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

bool
http_start(HttpRequest *req)
{
	Transfer   *t = (Transfer *) req;
	sigset_t	signals;

	if (t->state != PREPARING)
		return false;
	t->state = HANDED_OUT;
	if (t->unfit || !http_permit(t))
		return false;
	if (multi == NULL)
	{
		http_refuse(t, HTTP_LOCAL, "HTTP engine could not be started");
		return false;
	}

	signals_block(&signals);
	if (!start_transfer(t))
	{
		release_handle(t);
		http_refuse(t, HTTP_LOCAL, "libcurl could not take the request");
	}
	signals_restore(&signals);
	return t->state == IN_FLIGHT;
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
		http_refuse(t, HTTP_LOCAL, "cancelled");
	}
	t->state = HANDED_OUT;
	release_connection(t);
}

/*
 * Close what http_connect_only() has opened.
 */
static void
release_connection(Transfer *t)
{
	sigset_t	signals;

	if (t->easy == NULL)
		return;
	signals_block(&signals);
	release_handle(t);
	signals_restore(&signals);
}

int
http_connection_socket(HttpRequest *req)
{
	Transfer   *t = (Transfer *) req;
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (t->easy != NULL)
		curl_easy_getinfo(t->easy, CURLINFO_ACTIVESOCKET, &fd);
	return fd == CURL_SOCKET_BAD ? -1 : fd;
}

ssize_t
http_connection_send(HttpRequest *req, const void *data, size_t len)
{
	Transfer   *t = (Transfer *) req;
	size_t		n = 0;
	CURLcode	code = t->easy == NULL ? CURLE_SEND_ERROR :
		curl_easy_send(t->easy, data, len, &n);

	if (code == CURLE_OK)
		return n;
	return code == CURLE_AGAIN ? 0 : -1;
}

ssize_t
http_connection_receive(HttpRequest *req, void *data, size_t len)
{
	Transfer   *t = (Transfer *) req;
	size_t		n = 0;
	CURLcode	code = t->easy == NULL ? CURLE_RECV_ERROR :
		curl_easy_recv(t->easy, data, len, &n);

	if (code == CURLE_OK)
		return n > 0 ? (ssize_t) n : -1;
	return code == CURLE_AGAIN ? 0 : -1;
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
	http_buffer_free(&t->question);
	http_buffer_free(&t->answer);
	http_buffer_free(&t->answer_headers);
	free(t->location);
	free(t->url);
	free(t);
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
	if (!http_set_options(t))
		return false;
	t->started = now();
	if (curl_multi_add_handle(multi, t->easy) != CURLM_OK)
		return false;
	list_append(&in_flight, t);
	t->state = IN_FLIGHT;
	return true;
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
	t->req.seconds = now() - t->started;
	http_take_answer(t, code);
	/* What is connected stays so as long as libcurl knows the handle. */
	if (!t->connect_only || code != CURLE_OK)
		release_handle(t);
	list_remove(&in_flight, t);
	list_append(&finished, t);
	t->state = FINISHED;
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
