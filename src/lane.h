/*-------------------------------------------------------------------------
 *
 * lane.h
 *		Jobs on their way over the network, one lane per account.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_LANE_H
#define RSVP_SYNC_LANE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"

#include "http.h"

/* A leased key and the call it needs, as _plan_keys() handed it out. */
typedef struct Job
{
	dlist_node	node;			/* in a lane, a task, or the list to replan */
	MemoryContext context;		/* of this job and its texts */
	int64		source_id;
	char	   *key;
	int64		generation;
	char	   *action;			/* put, delete, read, list */
	char	   *need;			/* identity, event, list; NULL: none */
	char	   *subject;		/* of the need */
	char	   *did;
	char	   *pds;
	char	   *rkey;
	char	   *record;
	char	   *cid;
	char	   *swap;			/* cid it must have; NULL: no record */
	bool		mint;			/* the record key is new */
	int			priority;		/* 0: somebody waits for it */
	char	   *event_uri;
	char	   *organiser_pds;
	char	   *credential;		/* which one its account has now */
	char	   *value;			/* of a put: going, interested, notgoing */
	int			logins;			/* sessions tried for it */
	int			proofs;			/* proofs of possession that were not taken */
	bool		head_unknown;	/* do not name the head of the repository */
	bool		alone;			/* not together with others, see batch.c */
	bool		listed;			/* ... its account's records, since any call */
	TimestampTz asked;			/* when it was last read */
	bool		sent;			/* a call was made, and what came of it is unknown */
	const char *waits_for;		/* parked: for this server or DID */
	const char *wait_code;		/* ... and why */
} Job;

typedef enum OutcomeKind
{
	OUTCOME_PUT,
	OUTCOME_DELETE,
	OUTCOME_READ,
	OUTCOME_FAILED,
	OUTCOME_LIST,
	OUTCOME_IDENTITY,
	OUTCOME_EVENT,
	OUTCOME_HINT,				/* its DID document is to be looked at */
	OUTCOME_HANDLE,
	OUTCOME_ACCOUNT,
	OUTCOME_LIMITED,			/* an account's limit is used up */
	OUTCOME_HOST,				/* a server went down, or answers again */
	OUTCOME_VISIT,				/* what an account itself says, see verify.c */
	OUTCOME_CALL				/* nothing but that a call was made */
} OutcomeKind;

/* What is to be written down.  Lives until lane_outcomes_recorded(). */
typedef struct Outcome
{
	dlist_node	node;
	OutcomeKind kind;
	Job		   *job;			/* PUT, DELETE, READ, FAILED */
	const char *subject;		/* the DID or at-uri of the others */
	const char *cid;			/* PUT, READ, EVENT */
	const char *rev;
	const char *text;			/* record, records, or PDS */
	const char *pds;			/* LIST, VISIT: whose they are */
	TimestampTz asked;			/* ... since when; nothing newer than that */
	const char *how;			/* FAILED; ACCOUNT, HOST: the state */
	const char *code;
	const char *message;
	struct Secret *secret;		/* ACCOUNT: refresh token */
	const char *handle;
	const char *credential;		/* ACCOUNT: which one was tried */
	bool		sure;			/* ... or, of a HANDLE, that it is right */
	bool		follow;			/* IDENTITY: the worker's word that the account
								 * moved, or, if there is no PDS in it, that
								 * another one is known; LIST: that it is
								 * where the account still is */
	long		wait_ms;
	/* LIST, CALL: what is counted, see note_call() */
	int64		source_id;		/* the job it was for; 0: none */
	const char *operation;		/* create, delete, list; NULL: none of these */
	const char *value;
	double		seconds;
} Outcome;

extern void lane_startup(void);
extern void lane_add(Job *job);
extern void lane_start(bool sending);
extern void lane_finished(HttpRequest *req);
extern void lane_verify(const char *did);
extern void lane_check_handle(const char *did, const char *handle);
extern int	lane_jobs(void);
extern int	lane_background_jobs(void);
extern long lane_timeout_ms(void);

/*
 * Jobs that cannot be sent soon go back to the queue as parked keys: call it
 * before lane_parked().  window: jobs worth having in memory; others: keys
 * of several sources wait.  How many went only to make room.
 */
extern int	lane_settle(int window, bool others);
extern dlist_head *lane_parked(void);

/* Keys of a server or DID that may go on now, as many as it can take. */
typedef struct Release
{
	const char *subject;
	int			at_most;
} Release;

extern List *lane_releases(void);
extern void lane_released_all(const char *subject);

/* What a new worker finds in the tables. */
extern void lane_note_parked(const char *subject);
extern void lane_host_is_down(const char *name);
extern void lane_is_limited(const char *did, int64 wait_ms);
extern void lane_set_paused(List *subjects);

/* Outcomes to be recorded, and what follows once they are. */
extern dlist_head *lane_outcomes(void);
extern void lane_outcome_recorded(Outcome *outcome);
extern void lane_outcome_refused(Outcome *outcome);
extern void lane_outcomes_recorded(void);
extern bool lane_outcomes_flow(void);
extern bool lane_may_go_on(void);

/*
 * Keys to be planned again; lane_recall() makes those of a source (0: all) so
 * that are not sent yet.
 */
extern dlist_head *lane_replans(void);
extern void lane_recall(int64 source_id);
extern void lane_forget(const char *did);
extern void lane_free_job(Job *job);

/* Accounts whose credentials are needed to go on. */
extern List *lane_credentials_wanted(void);
extern void lane_credentials(const char *did, const char *which,
							 const char *password,
							 const char *refresh_token, const char *error);

/*
 * OAuth sessions: as read from the store; lanes that need a transaction of
 * their own, for the lease of a refresh or for what came of one.
 */
typedef struct RenewalWork
{
	const char *did;
	int64		version;		/* of the session it is about */
	const char *how;			/* NULL: the lease is wanted */
	const char *lease;
	const char *error;
	struct Secret *session;		/* JSON of a renewed one, or NULL */
} RenewalWork;

extern void lane_grant(const char *did, const char *which,
					   const char *session, int64 version,
					   const char *client_id, const char *client_key,
					   const char *client_error);
extern RenewalWork *lane_next_renewal(void);
extern bool lane_renewals_wanted(void);
extern void lane_lease(const char *did, bool known, bool go,
					   const char *lease);
extern void lane_renewal_stored(const char *did, bool same);
extern void lane_renewal_postponed(const char *did, long ms);

/* How long the lease of a refresh lasts: longer than one can take. */
extern long lane_lease_ms(void);

#endif							/* RSVP_SYNC_LANE_H */
