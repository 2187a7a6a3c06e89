/*-------------------------------------------------------------------------
 *
 * lane_state.h
 *		What the rooms behind lane.h share: lane, task, session, listing, job,
 *		host, outcome.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LANE_STATE_H
#define RSVP_SYNC_LANE_STATE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "lane.h"
#include "oauth.h"
#include "xrpc.h"

typedef enum SessionState
{
	SESSION_NONE,
	SESSION_WANTS_CREDENTIAL,	/* the worker has to read it */
	SESSION_HAS_CREDENTIAL,
	SESSION_WANTS_LEASE,		/* OAuth: to refresh; the worker has to take it */
	SESSION_HAS_LEASE,
	SESSION_STORING,			/* the worker has to store what came of it */
	SESSION_LIVE
} SessionState;

/* An account's OAuth session as it was read from the store. */
typedef struct Grant
{
	OAuthSession *session;
	DpopKey    *client_key;		/* NULL: a public client */
	char	   *client_id;
	char	   *client_error;	/* the client is not known just now; or NULL */
	int64		version;		/* of what is stored */
	int			epoch;			/* of the lane when it was read */
	char	   *lease;			/* ours, or NULL */
	char	   *pds;			/* whose server is asked for new tokens */
} Grant;

/* The last nonce of a server. */
typedef struct Nonce
{
	char	   *origin;
	char	   *nonce;
} Nonce;

/*
 * An account's calls, in order.  A lane is active while it has jobs or a call
 * under way; idle ones are kept for their session.
 */
typedef struct Lane
{
	const char *did;			/* hash key */
	dlist_node	node;			/* among the active ones, or the idle ones */
	bool		active;
	MemoryContext context;
	char	   *pds;
	dlist_head	jobs;
	int			njobs;
	bool		busy;			/* a call is under way */
	int			epoch;			/* grows when all that is known is void */
	SessionState session;
	char	   *credential;		/* which one the next three come from */
	char	   *password;
	char	   *refresh_token;
	char	   *access_token;
	Grant	   *grant;			/* OAuth, instead of password and refresh token */
	Grant	   *refreshing;		/* that one, while it is refreshed */
	const char *renewal;		/* what came of that, to be stored; or NULL */
	char	   *renewal_error;
	int			renewal_tries;
	bool		identity_checked;	/* the DID document was read for it */
	char	   *refused;		/* an access token that is good no more */
	bool		renewed;		/* it has just been refreshed */
	bool		unproven;		/* nothing was written with it yet */
	Nonce		nonces[2];		/* of PDS and authorization server */
	long		clock_offset;	/* the servers' clock minus ours, seconds */
	char	   *head;			/* commit its records are known to be at */
	StringInfo	records;		/* JSON of a listing under way */
	int			pages;
	TimestampTz not_before;		/* the server asked to be left alone */
} Lane;

/* What is no account's own matter, and many jobs may wait for. */
typedef struct Task
{
	const char *name;			/* hash key: kind and subject */
	MemoryContext context;
	bool		identity;		/* else an event */
	const char *subject;
	char	   *host;			/* of an event: its organiser's PDS */
	dlist_head	jobs;
	bool		started;
} Task;

typedef enum CallKind
{
	CALL_LOGIN,
	CALL_REFRESH,
	CALL_DOCUMENT,
	CALL_RESOURCE,
	CALL_SERVER,
	CALL_TOKEN,
	CALL_HEAD,
	CALL_LIST,
	CALL_JOB,
	CALL_TASK
} CallKind;

/* lane.c */
extern HTAB *text_table(const char *name, Size entrysize,
						MemoryContext context);
extern Lane *lane_of(const char *did);
extern Lane *find_lane(const char *did);
extern Lane *find_active_lane(bool (*condition) (Lane *lane));
extern void replace_text(Lane *lane, char **text, const char *with);
extern Job *pop_job(Lane *lane);
extern void fail_lane(Lane *lane, const char *how, const char *code,
					  const char *message, long wait_ms);
extern void start_call(CallKind kind, Lane *lane, Job *job, Task *task,
					   const char *host, HttpRequest *req);

/* outcome.c */
extern void outcome_startup(MemoryContext parent);
extern void outcome_count_job(void);
extern const char *outcome_keep(const char *text);
extern Outcome *new_outcome(OutcomeKind kind, Job *job, const char *subject);
extern void fail_job(Job *job, const char *how, const char *code,
					 const char *message, bool sure, long wait_ms);
extern void replan_job(Job *job);
extern int	recall_jobs(dlist_head *jobs, int64 source_id);

/* host.c */
extern void host_startup(MemoryContext context);
extern void host_call_begins(const char *name);
extern void host_call_ended(const char *name);
extern bool host_has_room(const char *name);

/* task.c */
extern void task_startup(MemoryContext context);
extern void task_add(Job *job);
extern void task_start_all(void);
extern void task_answer(Task *task, Answer *answer);
extern void task_recorded(Outcome *outcome);
extern void task_refused(Outcome *outcome);
extern void task_recall(int64 source_id);

/* session.c */
extern void start_session(Lane *lane);
extern void session_answer(Lane *lane, Answer *answer, bool refreshing);
extern void ask_user(Lane *lane, const char *state, const char *message);
extern const char *account_state(const char *name, const char *otherwise);
extern void account_outcome(Lane *lane, const char *state, const char *error);
extern void lane_unreachable(Lane *lane, Answer *answer);

/* renewal.c */
extern void renewal_startup(MemoryContext context);
extern void renewal_step(Lane *lane);
extern void renewal_send(Lane *lane);
extern void renewal_answer(Lane *lane, CallKind kind, HttpRequest *req,
						   Answer *answer);
extern void renewal_learn(Lane *lane, const char *host, HttpRequest *req);
extern bool renewal_due(Lane *lane);
extern void renewal_give_up(Lane *lane);
extern void renewal_refused(Lane *lane, Job *job, Answer *answer);
extern void renewal_forget(Lane *lane);
extern Authorization renewal_authorization(Lane *lane, const char *url);

/* listing.c */
extern void start_head(Lane *lane);
extern void head_answer(Lane *lane, Answer *answer);
extern void list_answer(Lane *lane, Answer *answer);
extern void forget_listing(Lane *lane);
extern void append_member(StringInfo body, const char *name,
						  const char *value);
extern char *storable(json_t *value);

/* job.c */
extern bool job_is(const Job *job, const char *action);
extern void start_write(Lane *lane, Job *job);
extern void start_read(Lane *lane, Job *job);
extern void retry_now(Lane *lane, Job *job);
extern void job_answer(Lane *lane, Job *job, Answer *answer);

#endif							/* RSVP_SYNC_LANE_STATE_H */
