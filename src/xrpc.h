/*-------------------------------------------------------------------------
 *
 * xrpc.h
 *		Requests and answers of the AT Protocol as C values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_XRPC_H
#define RSVP_SYNC_XRPC_H

#include "postgres.h"

#include <jansson.h>

#include "budget.h"
#include "dpop.h"
#include "http.h"

#define RSVP_COLLECTION "community.lexicon.calendar.rsvp"

/* What an answer asks of us. */
typedef enum AnswerClass
{
	ANSWER_OK,
	ANSWER_ABSENT,				/* no such record */
	ANSWER_RETRY,				/* later, by itself */
	ANSWER_LIMIT,				/* later, when the limit allows */
	ANSWER_REFRESH,				/* with fresh credentials */
	ANSWER_REREAD,				/* what we knew of the record is out of date */
	ANSWER_USER,				/* when the user has done something */
	ANSWER_PERMANENT			/* never */
} AnswerClass;

#define XRPC_NAME_SIZE		64
#define XRPC_MESSAGE_SIZE	256

/* An answer, judged. */
typedef struct Answer
{
	AnswerClass class;
	int			status;			/* HTTP status, 0 if none came */
	char		name[XRPC_NAME_SIZE];	/* XRPC error, or what went wrong */
	char		message[XRPC_MESSAGE_SIZE]; /* printable, for people */
	bool		named;			/* an error of XRPC or OAuth, not just a status */
	bool		known;			/* ... whose name says the class */
	bool		sure;			/* it certainly had no effect */
	bool		host_fault;		/* nobody, or somebody in between, answered */
	long		wait_ms;		/* not to be repeated before, or 0 */
	RateLimit	limit;			/* what is left of one of the server's */
	json_t	   *body;			/* parsed, if class is ANSWER_OK */
} Answer;

extern void xrpc_judge(HttpRequest *req, Answer *answer);
extern void xrpc_forget(Answer *answer);
extern void xrpc_unreadable(Answer *answer, const char *what);
extern void xrpc_odd(Answer *answer, const char *name, const char *what);
extern AnswerClass xrpc_classify(int status, const char *name,
								 const char *challenge);
extern bool xrpc_challenge_error(const char *challenge,
								 char name[XRPC_NAME_SIZE]);
extern const char *xrpc_class_name(AnswerClass class);

/* By what right a request is made: a bearer token, or one bound to a key. */
typedef struct Authorization
{
	const char *token;
	const DpopKey *key;			/* NULL: whoever bears the token */
	const char *nonce;
	long		clock_offset;
} Authorization;

/* Requests; all return a request that is not started yet, or NULL. */
extern HttpRequest *xrpc_get(const char *host, const char *method,
							 const char *const *params, long timeout_ms);
extern HttpRequest *xrpc_post(const char *host, const char *method,
							  const Authorization *by, const char *body,
							  long timeout_ms);
extern HttpRequest *xrpc_document(const char *host, const char *path,
								  long timeout_ms);
extern HttpRequest *xrpc_did_document(const char *did, const char *origin,
									  long timeout_ms);
extern HttpRequest *xrpc_handle_document(const char *origin,
										 long timeout_ms);
extern char *xrpc_handle_origin(const char *handle,
								const char *insecure_hosts);
extern char *xrpc_identity_origin(const char *did, const char *plc_url,
								  const char *insecure_hosts);

/* Members of an answer. */
extern const char *xrpc_text(json_t *object, const char *member);
extern const char *xrpc_cid(json_t *object, const char *member);
extern bool xrpc_is_document_of(json_t *document, const char *did);
extern char *xrpc_pds_of_document(json_t *document);
extern const char *xrpc_handle_of_document(json_t *document);

#endif							/* RSVP_SYNC_XRPC_H */
