/*-------------------------------------------------------------------------
 *
 * lane_state.h
 *		What the rooms behind lane.h share: lane, task, session, listing, job,
 *		batch, host, outcome.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LANE_STATE_H
#define RSVP_SYNC_LANE_STATE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/hsearch.h"

#include "budget.h"
#include "compat.h"
#include "host.h"
#include "known.h"
#include "lane.h"
#include "oauth.h"
#include "recordlist.h"
#include "secret.h"
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
	Secret	   *session;		/* its JSON, and what may be seen of it: */
	char	   *issuer;
	char	   *audience;
	char	   *scope;
	time_t		expires_at;
	Secret	   *access_token;
	Secret	   *refresh_token;	/* NULL: it cannot be refreshed */
	Secret	   *client_key;		/* JWK; NULL: a public client */
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
	Secret	   *password;
	Secret	   *refresh_token;
	Secret	   *access_token;
	Grant	   *grant;			/* OAuth, instead of password and refresh token */
	Grant	   *refreshing;		/* that one, while it is refreshed */
	const char *renewal;		/* what came of that, to be stored; or NULL */
	char	   *renewal_error;
	int			renewal_tries;
	TimestampTz renewal_at;		/* the store is not asked again before */
	TimestampTz identity_at;	/* when the DID document was read for it */
	Secret	   *refused;		/* an access token that is good no more */
	bool		renewed;		/* it has just been refreshed */
	bool		unproven;		/* nothing was written with it yet */
	Nonce		nonces[2];		/* of PDS and authorization server */
	long		clock_offset;	/* the servers' clock minus ours, seconds */
	bool		unsaved;		/* the refresh token is not written down yet */
	int64		save_at;		/* by host_now(): when to try again */
	char	   *head;			/* commit its records are known to be at */
	Known	   *known;			/* ... and which they are there; or NULL */
	int64		wrote_at;		/* when a write went through last, or 0 */
	int64		batch_at;		/* several writes in one call not before */
	long		points_left;	/* of the limit nearest to its end */
	int			overtaken;		/* of those, by others' writes, in a row */
	bool		in_question;	/* is there still such a repository? */
	RecordList *records;		/* of a listing under way */
	bool		unrecorded;		/* its records are to be written down first */
	TimestampTz hinted_at;		/* its DID document was to be looked at */
	Budgets		budgets;		/* the account's own */
	int64		not_before;		/* its limit is used up until then */
	int64		wake_at;		/* its next call may be made then; 0: not by time */
	TimestampTz listing_began;	/* 0: it was measured */
	TimestampTz listing_asked;
} Lane;

/* What is no account's own matter, and many jobs may wait for. */
typedef struct Task
{
	const char *name;			/* hash key: kind and subject */
	MemoryContext context;
	bool		identity;		/* else an event, or */
	const char *handle;			/* of this DID */
	struct Visit *visit;		/* or a visit to an account */
	const char *given_up;		/* why its host may not be asked, if told so */
	const char *subject;
	char	   *host;			/* who is asked */
	dlist_head	jobs;
	bool		started;
	bool		calling;		/* a call points to it */
} Task;

/* Writes that go by one call, see batch.c. */
typedef struct WriteBatch WriteBatch;

typedef enum CallKind
{
	CALL_LOGIN,
	CALL_REFRESH,
	CALL_DOCUMENT,				/* OAuth, to refresh: where the account is */
	CALL_RESOURCE,				/* ... its PDS's authorization server */
	CALL_SERVER,				/* ... and where that hands out tokens */
	CALL_TOKEN,
	CALL_HEAD,
	CALL_LIST,
	CALL_JOB,
	CALL_BATCH,
	CALL_TASK,
	CALL_HANDLE,
	CALL_PROBE
} CallKind;

/* lane.c */
extern HTAB *text_table(const char *name, Size entrysize,
						MemoryContext context);
extern Lane *lane_of(const char *did);
extern Lane *find_lane(const char *did);
extern Lane *find_active_lane(bool (*condition) (Lane *lane));
extern void replace_text(Lane *lane, char **text, const char *with);
extern void replace_secret(Lane *lane, Secret **secret, const char *with);
extern Job *pop_job(Lane *lane);
extern void lane_forget_known(Lane *lane);
extern void lane_rests(Lane *lane, int64 wait);
extern int	lane_room(const char *did, int64 now);
extern void fail_lane(Lane *lane, const char *how, const char *code,
					  const char *message, long wait_ms);
extern void lane_hint(Lane *lane);
extern bool lane_take_hint(Lane *lane);
extern void start_call(CallKind kind, Lane *lane, Job *job, Task *task,
					   const char *host, HttpRequest *req);
extern void start_batch_call(Lane *lane, WriteBatch *batch, HttpRequest *req);

extern dlist_head *lanes_active(void);

/* call.c */
extern void call_startup(MemoryContext parent);
extern int	calls_under_way(void);
extern void start_probes(int64 now);

/* manners.c */
extern int	points_of(const Job *job);
extern bool limits_allow(Lane *lane, Job *job, int64 now);

/* outcome.c */
extern void outcome_startup(MemoryContext parent);
extern void outcome_count_job(Job *job);
extern int	lane_jobs_of(int64 source_id);
extern const char *outcome_keep(const char *text);
extern Secret *outcome_seal(const char *text);
extern Outcome *new_outcome(OutcomeKind kind, Job *job, const char *subject);
extern void note_error(const char *error_type);
extern void outcome_of_call(const Outcome *note);
extern void fail_job(Job *job, const char *how, const char *code,
					 const char *message, bool sure, long wait_ms);
extern void replan_job(Job *job);
extern int	recall_jobs(dlist_head *jobs, int64 source_id);

/* park.c */
extern void park_startup(MemoryContext context);
extern void park_job(Job *job, const char *subject, const char *code);
extern bool park_any(const char *subject);
extern bool park_is_paused(const char *subject);
extern int64 park_wait(int64 now);

/* task.c */
extern void task_startup(MemoryContext context);
extern void task_add(Job *job);
extern void task_verify(const char *did);
extern void task_check_handle(const char *did, const char *handle);
extern void task_visit(struct Visit *visit, const char *did,
					   const char *host);
extern void handle_answer(Task *task, HttpRequest *req);
extern void task_start_all(void);
extern void task_answer(Task *task, Answer *answer);
extern void task_recorded(Outcome *outcome);
extern void task_refused(Outcome *outcome);
extern void task_recall(int64 source_id);
extern void task_settle(int64 now);
extern int64 task_wait(int64 now);

/* session.c */
extern void start_session(Lane *lane);
extern void session_answer(Lane *lane, Answer *answer, bool refreshing);
extern HttpRequest *post_with(Lane *lane, const Secret *token,
							  const char *method, const char *body);
extern void hide_secrets(Lane *lane, Answer *answer);
extern void save_session(Lane *lane, int64 now);
extern void session_refused(Lane *lane);
extern void ask_user(Lane *lane, const char *state, const char *message);
extern const char *account_state(const char *name, const char *otherwise);
extern void account_outcome(Lane *lane, const char *state, const char *error);
extern void lane_unreachable(Lane *lane, Answer *answer);

/* renewal.c */
extern void renewal_startup(MemoryContext context);
extern void renewal_step(Lane *lane);
extern void renewal_pump(Lane *lane);
extern void renewal_answer(Lane *lane, CallKind kind, Answer *answer);
extern void renewal_learn(Lane *lane, const char *host, HttpRequest *req);
extern bool renewal_due(Lane *lane);
extern void renewal_give_up(Lane *lane);
extern void renewal_refused(Lane *lane, Job *job, Answer *answer);
extern void renewal_forget(Lane *lane);
extern HttpRequest *renewal_post(Lane *lane, const char *method,
								 const char *body);

/* listing.c */
extern void start_head(Lane *lane);
extern void head_answer(Lane *lane, Answer *answer);
extern void list_answer(Lane *lane, Answer *answer);
extern void forget_listing(Lane *lane);
extern void append_member(StringInfo body, const char *name,
						  const char *value);

/* job.c */
extern bool job_is(const Job *job, const char *action);
extern const char *write_method(Lane *lane, const Job *job);
extern HttpRequest *write_request(Lane *lane, const char *method,
								  const char *body);
extern void start_write(Lane *lane, Job *job);
extern void write_done(Lane *lane, Job *job, const char *cid, json_t *commit);
extern void start_read(Lane *lane, Job *job);
extern void retry_now(Lane *lane, Job *job);
extern void job_answer(Lane *lane, Job *job, Answer *answer);

/* batch.c */
extern bool batch_send(Lane *lane, int64 now);
extern int	batch_count(const WriteBatch *batch);
extern Job *batch_first(WriteBatch *batch);
extern void batch_note(WriteBatch *batch, const Outcome *note);
extern void batch_again(Lane *lane, WriteBatch *batch);
extern void batch_replan(WriteBatch *batch);
extern void batch_park(WriteBatch *batch, const char *host, bool sure);
extern void batch_answer(Lane *lane, WriteBatch *batch, Answer *answer);
extern void batch_stale(Lane *lane, WriteBatch *batch, Answer *answer);

#endif							/* RSVP_SYNC_LANE_STATE_H */
