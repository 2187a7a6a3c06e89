/*-------------------------------------------------------------------------
 *
 * list.c
 *		list_rsvps(): the records of an account, from its own PDS, now.
 *
 * The one call that awaits the network in the caller's own backend.  It asks
 * as anybody may, without credentials, under the same rules for addresses and
 * sizes as the worker; all its requests together have request_timeout; an
 * interrupt ends it at any wait.  Nothing stays open behind it.
 *
 * May touch: nothing.  It reads where accounts are known to be (_identity),
 * and counts itself in _tally.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "definer.h"
#include "host.h"
#include "http.h"
#include "meter.h"
#include "owner.h"
#include "recordlist.h"
#include "settings.h"
#include "worker.h"
#include "xrpc.h"

/* One listing, from the first question to the last answer. */
typedef struct Listing
{
	const char *did;
	int64		began;			/* by host_now() */
	char	   *pds;
	bool		fresh;			/* its document has been looked at just now */
	HttpRequest *req;
	HttpFault	fault;			/* of the last request */
	Answer		answer;			/* to it */
	RecordList *records;
} Listing;

static Statement check_did = {
	"SELECT rsvp_sync._check_did($1)", 1, {TEXTOID}
};
static Statement whereabouts = {
	"SELECT w.pds, w.fresh FROM rsvp_sync._whereabouts($1) w", 1, {TEXTOID}
};
static Statement listed = {
	"SELECT l.uri, l.cid, l.rkey, l.event_uri, l.status, l.created_at"
	" FROM rsvp_sync._listed($1, $2::pg_catalog.jsonb) l", 2,
	{TEXTOID, TEXTOID}
};

PG_FUNCTION_INFO_V1(rsvp_sync_list_rsvps);
PG_FUNCTION_INFO_V1(rsvp_sync_list_rsvps_of);
PG_FUNCTION_INFO_V1(rsvp_sync_create_rsvp);
PG_FUNCTION_INFO_V1(rsvp_sync_delete_rsvp);

/* ------------------------------------------------------------------------
 * Errors
 * ------------------------------------------------------------------------ */

/* No answer came; whom we asked, and why there is none. */
static void
refuse_fault(Listing *l, const char *whom)
{
	const char *why = l->answer.message;

	switch (l->fault)
	{
		case HTTP_DNS:
		case HTTP_CONNECT:
		case HTTP_TLS:
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("server %s cannot be reached: %s", whom, why),
					 errhint("Try again later. What is known here of the"
							 " account's records is in rsvp_sync.rsvp.")));
			break;
		case HTTP_TIMEOUT:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("server %s did not answer in time: %s", whom, why),
					 errhint("Try again later, or raise"
							 " rsvp_sync.request_timeout, which is %d ms for"
							 " the whole of this call.",
							 rsvp_sync_request_timeout)));
			break;
		case HTTP_FORBIDDEN:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("server %s may not be asked: %s", whom, why),
					 errhint("Only public addresses are asked, by https;"
							 " rsvp_sync.insecure_hosts exempts hosts for"
							 " development.")));
			break;
		case HTTP_TOO_LARGE:
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the answer of server %s is too large: %s", whom,
							why),
					 errhint("No server needs so much for this; its operator"
							 " may know.")));
			break;
		case HTTP_LOCAL:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("server %s could not be asked: %s", whom, why),
					 errhint("The database server is short of memory or"
							 " descriptors. Try again later.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the connection to server %s broke: %s", whom,
							why),
					 errhint("Try again later.")));
	}
}

/* An answer came, and is not what was asked for. */
static void
refuse_answer(Listing *l, const char *whom)
{
	Answer	   *a = &l->answer;

	if (l->fault != HTTP_ANSWERED)
		refuse_fault(l, whom);
	if (a->class == ANSWER_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("server %s refuses more requests for now: %s", whom,
						a->message),
				 errhint("Try again in %ld s.", a->wait_ms / 1000 + 1)));
	if (strcmp(a->name, "RepoNotFound") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server %s has no repository of \"%s\"", whom,
						l->did),
				 errhint("The account was deleted, or its DID document names"
						 " the wrong server.")));
	if (a->class == ANSWER_USER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server %s does not show the repository of \"%s\": %s",
						whom, l->did, a->name),
				 errhint("The account is deactivated or taken down; its"
						 " records can be listed once that has ended.")));
	if (strcmp(a->name, "listing_too_large") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the records of \"%s\" cannot be listed: %s", l->did,
						a->message),
				 errhint("No more than 100,000 records, or 16 MB of them, are"
						 " listed.")));
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("server %s gave an answer that is of no use: %s: %s",
					whom, a->name, a->message),
			 errhint("Try again later; if it goes on, this is not a PDS, or"
					 " none that follows the AT Protocol.")));
}

/* ------------------------------------------------------------------------
 * Asking
 * ------------------------------------------------------------------------ */

/* What is left of the time that all requests together have. */
static long
time_left(Listing *l)
{
	return (long) Max(l->began + rsvp_sync_request_timeout - host_now(), 1);
}

/* Until the request under way has come to its end. */
static void
wait_for_answer(Listing *l)
{
	while (http_finished() == NULL)
	{
		int			events;

		events = WaitLatchOrSocket(MyLatch,
								   WL_LATCH_SET | WL_SOCKET_READABLE |
								   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								   http_epoll_fd(),
								   Max(http_timeout_ms(), 0),
								   PG_WAIT_EXTENSION);
		if (events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		http_pump();
	}
}

/* Ask, and judge what comes; true: it is what was asked for. */
static bool
ask(Listing *l, HttpRequest *req)
{
	xrpc_forget(&l->answer);
	http_free(l->req);
	l->req = req;
	if (req == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for a request")));
	if (http_start(req))
		wait_for_answer(l);
	l->fault = req->fault;
	xrpc_judge(req, &l->answer);
	return l->answer.class == ANSWER_OK;
}

/* ------------------------------------------------------------------------
 * Where the account is
 * ------------------------------------------------------------------------ */

/* As the worker found it out; a document that is old only serves if need be. */
static void
recall_pds(Listing *l)
{
	Args		args = {0};
	MemoryContext caller = CurrentMemoryContext;
	bool		isnull;
	char	   *pds;

	SPI_connect();
	args_text(&args, l->did);
	run_statement(&check_did, &args);
	run_statement(&whereabouts, &args);
	pds = result_text(0, 1);
	l->fresh = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 2, &isnull));
	l->pds = pds ? MemoryContextStrdup(caller, pds) : NULL;
	SPI_finish();
}

/* The directory's own word on a DID; anything else may pass. */
static bool
is_unknown_did(Listing *l)
{
	return l->fault == HTTP_ANSWERED &&
		strncmp(l->did, "did:plc:", 8) == 0 &&
		strncmp(l->answer.message, "DID not ", 8) == 0;
}

static void
read_document(Listing *l, const char *origin)
{
	json_t	   *document = l->answer.body;
	char	   *pds;

	if (!xrpc_is_document_of(document, l->did))
	{
		xrpc_odd(&l->answer, "wrong_document",
				 "the answer is not this DID's document");
		refuse_answer(l, origin);
	}
	pds = xrpc_pds_of_document(document);
	if (pds == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the DID document of \"%s\" names no PDS", l->did),
				 errhint("This is no account of the AT Protocol, or not any"
						 " more.")));
	l->pds = pds;
}

/* Ask for the DID document. */
static void
resolve(Listing *l)
{
	char	   *origin = xrpc_identity_origin(l->did, rsvp_sync_plc_url,
											  rsvp_sync_insecure_hosts);

	l->fresh = true;
	if (origin == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("DID \"%s\" cannot be resolved", l->did),
				 errhint("The AT Protocol knows did:plc, and did:web of a"
						 " host without path and port.")));
	/* Something is left for the PDS, if there is one to go on with. */
	if (ask(l, xrpc_did_document(l->did, origin, l->pds ? time_left(l) / 2 :
								 time_left(l))))
		read_document(l, origin);
	else if (is_unknown_did(l))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no account \"%s\": %s", l->did,
						l->answer.message),
				 errhint("%s does not know this DID. Is it misspelt, or was"
						 " the account deleted?", origin)));
	else if (l->pds == NULL)
		refuse_answer(l, origin);
}

/* ------------------------------------------------------------------------
 * The records
 * ------------------------------------------------------------------------ */

/*
 * A PDS says "InvalidRequest" of any repository that it does not show; asked
 * for the head of it, it says why.
 */
static void
ask_why(Listing *l)
{
	const char *params[] = {"did", l->did, NULL};

	if (l->fault == HTTP_ANSWERED && l->answer.class == ANSWER_PERMANENT &&
		ask(l, xrpc_get(l->pds, "com.atproto.sync.getLatestCommit", params,
						time_left(l))))
		xrpc_odd(&l->answer, "InvalidRequest",
				 "the repository is there, but is not listed");
}

/* All pages; false: l->answer says why not. */
static bool
collect(Listing *l)
{
	const char *cursor = NULL;

	if (l->records != NULL)
		record_list_free(l->records);
	l->records = record_list_begin(CurrentMemoryContext);
	do
	{
		if (!ask(l, record_list_request(l->pds, l->did, cursor,
										time_left(l))) ||
			!record_list_page(l->records, &l->answer, &cursor))
		{
			ask_why(l);
			return false;
		}
	} while (cursor != NULL);
	return true;
}

/*
 * Where it was a moment ago it is not listed: has it moved?  If not, that
 * failure is what there is to say.
 */
static void
look_elsewhere(Listing *l)
{
	const char *before = l->pds;
	HttpFault	fault = l->fault;
	Answer		answer;

	xrpc_forget(&l->answer);
	answer = l->answer;
	resolve(l);
	if (strcmp(before, l->pds) != 0)
		return;
	xrpc_forget(&l->answer);
	l->answer = answer;
	l->fault = fault;
	refuse_answer(l, l->pds);
}

static void
list_all(Listing *l)
{
	bool		remembered = l->fresh && l->pds != NULL;

	if (!remembered)
		resolve(l);
	if (collect(l))
		return;
	if (!remembered || l->fault == HTTP_TIMEOUT)
		refuse_answer(l, l->pds);
	look_elsewhere(l);
	if (!collect(l))
		refuse_answer(l, l->pds);
}

static void
emit(Listing *l, ReturnSetInfo *rsinfo)
{
	Args		args = {0};

	args_text(&args, l->did);
	args_text(&args, record_list_text(l->records));
	run_statement(&listed, &args);
	for (uint64 row = 0; row < SPI_processed; row++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[row]);
	/* On a standby, and in a transaction that only reads, it is not counted. */
	if (XactReadOnly)
		return;
	meter_operation(0, "list", NULL);
	meter_duration(0, "list", NULL, (host_now() - l->began) / 1000.0);
	meter_append();
}

/*
 * rsvp_sync._list_rsvps(caller oid, did text): with the extension owner's
 * rights.
 */
Datum
rsvp_sync_list_rsvps_of(PG_FUNCTION_ARGS)
{
	Listing	   *l = palloc0(sizeof(Listing));

	/* The worker has the engine for itself, and waits for nobody. */
	if (owner_arms_deadline)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("list_rsvps() cannot be called by SQL that the worker"
						" runs"),
				 errhint("The records it knows of are in rsvp_sync.rsvp.")));
	if (!PG_ARGISNULL(1))
		l->did = pnstrdup(VARDATA_ANY(PG_GETARG_TEXT_PP(1)),
						  VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(1)));
	InitMaterializedSRF(fcinfo, 0);
	recall_pds(l);
	l->began = host_now();
	http_startup(1, 1);
	http_configure(rsvp_sync_insecure_hosts, rsvp_sync_user_agent_contact);
	PG_TRY();
	{
		list_all(l);
	}
	PG_FINALLY();
	{
		xrpc_forget(&l->answer);
		http_free(l->req);
		http_shutdown();
	}
	PG_END_TRY();
	SPI_connect();
	emit(l, (ReturnSetInfo *) fcinfo->resultinfo);
	SPI_finish();
	return (Datum) 0;
}

/*
 * The other explicit calls are rows, and await nothing: sql/59-explicit.sql.
 */

/* rsvp_sync.create_rsvp(did text, event_uri text, status text, tenant text) */
Datum
rsvp_sync_create_rsvp(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_create_rsvp");
}

/* rsvp_sync.delete_rsvp(uri text, did text) */
Datum
rsvp_sync_delete_rsvp(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_delete_rsvp");
}

/* rsvp_sync.list_rsvps(did text) */
Datum
rsvp_sync_list_rsvps(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_list_rsvps");
}
