/*-------------------------------------------------------------------------
 *
 * answers.c
 *		Writing down what the lanes have to say, and reading what they need.
 *
 * Runs inside the worker's transaction.  Each answer is written by one call
 * of a function in sql/52-answers.sql, in a subtransaction: one that cannot
 * be written down does not take the others along.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"

#include "answers.h"
#include "credential.h"
#include "lane.h"
#include "meter.h"
#include "oauth_facts.h"
#include "secret.h"
#include "verify.h"
#include "worker.h"

static Statement read_credential = {
	"SELECT a.credential, a.session, a.connected_at, s.version, s.client_id,"
	" c.jwk, CASE WHEN c.error_at OPERATOR(pg_catalog.+)"
	" pg_catalog.current_setting('rsvp_sync.retry_max')::pg_catalog.interval"
	" OPERATOR(pg_catalog.>) pg_catalog.now() THEN c.error END"
	" FROM rsvp_sync._account a"
	" LEFT JOIN rsvp_sync._oauth_session s"
	" ON s.did OPERATOR(pg_catalog.=) a.did"
	" AND a.auth OPERATOR(pg_catalog.=) 'oauth'"
	" LEFT JOIN rsvp_sync._oauth_client c"
	" ON c.client_id OPERATOR(pg_catalog.=) s.client_id"
	" WHERE a.did OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}
};
static Statement begin_refresh = {
	"SELECT b.go, b.lease FROM rsvp_sync._begin_oauth_refresh($1, $2,"
	" pg_catalog.make_interval(secs => $3::pg_catalog.float8"
	" OPERATOR(pg_catalog./) 1000)) b", 3, {TEXTOID, INT8OID, INT8OID}
};
static Statement refresh_done = {
	"SELECT rsvp_sync._oauth_refresh_done($1, $2, $3, $4,"
	" $5::pg_catalog.jsonb, $6)", 6,
	{TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID}
};
static Statement put_done = {
	"SELECT rsvp_sync._put_done($1, $2, $3, $4, $5, $6::pg_catalog.jsonb,"
	" $7, $8, $9)", 9,
	{INT8OID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	TEXTOID}
};
static Statement puts_done = {
	"SELECT rsvp_sync._puts_done($1, $2, $3, $4, $5, $6, $7, $8, $9)", 9,
	{INT8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
};
static Statement delete_done = {
	"SELECT rsvp_sync._delete_done($1, $2, $3, $4, $5, $6, $7)", 7,
	{INT8OID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};
static Statement read_done = {
	"SELECT rsvp_sync._read_done($1, $2, $3, $4, $5, $6::pg_catalog.jsonb,"
	" $7, $8)", 8, {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	TEXTOID, TIMESTAMPTZOID}
};
static Statement call_failed = {
	"SELECT rsvp_sync._call_failed($1, $2, $3, $4, $5, $6, $7, $8,"
	" pg_catalog.make_interval(secs => $9::pg_catalog.float8"
	" OPERATOR(pg_catalog./) 1000))", 9,
	{INT8OID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID,
	INT4OID}
};
static Statement list_done = {
	"SELECT rsvp_sync._list_done($1, $2::pg_catalog.jsonb, $3, $4)", 4,
	{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};
static Statement identity_done = {
	"SELECT rsvp_sync._identity_done($1, $2, $3)", 3,
	{TEXTOID, TEXTOID, TEXTOID}
};
static Statement identity_failed = {
	"SELECT rsvp_sync._identity_failed($1, $2, $3)", 3,
	{TEXTOID, TEXTOID, BOOLOID}
};
static Statement identity_hint = {
	"SELECT rsvp_sync._identity_hint($1)", 1, {TEXTOID}
};
static Statement handle_checked = {
	"SELECT rsvp_sync._handle_checked($1, $2, $3)", 3,
	{TEXTOID, TEXTOID, BOOLOID}
};
static Statement event_done = {
	"SELECT rsvp_sync._event_done($1, $2)", 2, {TEXTOID, TEXTOID}
};
static Statement account_limited = {
	"SELECT rsvp_sync._account_limited($1, $2)", 2, {TEXTOID, INT4OID}
};
static Statement host_done = {
	"SELECT rsvp_sync._host_done($1, $2, $3)", 3, {TEXTOID, TEXTOID, TEXTOID}
};
static Statement account_done = {
	"SELECT rsvp_sync._account_done($1, $2, $3, $4, $5,"
	" $6::pg_catalog.timestamptz)", 6,
	{TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

static void
args_job(Args *args, Job *job)
{
	args_int8(args, job->source_id);
	args_text(args, job->key);
}

static void
record_failed(Outcome *o)
{
	Args		args = {0};

	args_job(&args, o->job);
	args_int8(&args, o->job->generation);
	args_text(&args, o->how);
	args_text(&args, o->code);
	args_text(&args, o->message);
	/* A read that failed leaves in doubt whatever was. */
	args_bool(&args, o->sure && o->job->need == NULL &&
			  strcmp(o->job->action, "read") != 0);
	args_text(&args, o->job->cid);
	args_int4(&args, (int32) o->wait_ms);
	run_statement(&call_failed, &args);
}

static void
record_write(Outcome *o)
{
	Args		args = {0};
	bool		put = o->kind == OUTCOME_PUT;

	args_job(&args, o->job);
	args_int8(&args, o->job->generation);
	args_text(&args, o->job->did);
	args_text(&args, o->job->rkey);
	if (put)
	{
		args_text(&args, o->job->record);
		args_text(&args, o->cid);
	}
	args_text(&args, o->rev);
	args_text(&args, o->job->pds);
	run_statement(put ? &put_done : &delete_done, &args);
}

static void
record_read(Outcome *o)
{
	Args		args = {0};

	args_job(&args, o->job);
	args_text(&args, o->job->did);
	args_text(&args, o->job->rkey);
	args_text(&args, o->cid);
	args_text(&args, o->text);
	args_text(&args, o->job->pds);
	args_int8(&args, o->job->asked);
	run_statement(&read_done, &args);
}

static void
record_account(Outcome *o)
{
	Args		args = {0};
	bool		isnull;
	char	   *secret = o->secret ? secret_open(o->secret) : NULL;

	args_text(&args, o->subject);
	args_text(&args, o->how);
	args_text(&args, secret ? credential_seal_wiping(secret, o->subject)
			  : NULL);
	args_text(&args, o->handle);
	args_text(&args, o->message);
	args_text(&args, o->credential);
	run_statement(&account_done, &args);
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, 1, &isnull)))
		return;
	ereport(LOG,
			(errmsg(o->message ? "account %s is %s: %s" : "account %s is %s",
					o->subject, o->how, o->message),
			 errhidestmt(true), errhidecontext(true)));
}

static void
record_limited(Outcome *o)
{
	Args		args = {0};

	args_text(&args, o->subject);
	args_int4(&args, (int32) Min(o->wait_ms, INT_MAX));
	run_statement(&account_limited, &args);
}

/* A line in the log for each server that goes down, and when it is back. */
static void
record_host(Outcome *o)
{
	Args		args = {0};

	args_text(&args, o->subject);
	args_text(&args, o->how);
	args_text(&args, o->message);
	run_statement(&host_done, &args);
	if (strcmp(o->how, "down") == 0)
		ereport(LOG,
				(errmsg("%s does not answer: %s", o->subject, o->message),
				 errdetail("Its keys wait; it is asked every few seconds.")));
	else
		ereport(LOG,
				(errmsg("%s answers again", o->subject),
				 errdetail("It was down for %s.",
						   result_text(0, 1) ? result_text(0, 1) : "a moment")));
}

/* What the document says, or that it cannot be had; and what follows. */
static void
record_identity(Outcome *o)
{
	Args		args = {0};
	Datum		follow;
	bool		isnull;

	args_text(&args, o->subject);
	if (o->text != NULL)
	{
		args_text(&args, o->text);
		args_text(&args, o->handle);
	}
	else
	{
		args_text(&args, psprintf("%s: %s", o->code, o->message));
		args_bool(&args, o->sure);
	}
	run_statement(o->text ? &identity_done : &identity_failed, &args);
	follow = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	o->follow = !isnull && DatumGetBool(follow);
}

static void
record_handle(Outcome *o)
{
	Args		args = {0};

	args_text(&args, o->subject);
	args_text(&args, o->handle);
	args_bool(&args, o->sure);
	run_statement(&handle_checked, &args);
}

static void
record_hint(Outcome *o)
{
	Args		args = {0};

	args_text(&args, o->subject);
	run_statement(&identity_hint, &args);
}

static void
record_learnt(Outcome *o)
{
	Args		args = {0};
	bool		isnull;

	args_text(&args, o->subject);
	if (o->kind == OUTCOME_EVENT)
		args_text(&args, o->cid);
	else
		args_text(&args, o->text);
	if (o->kind == OUTCOME_LIST)
	{
		args_text(&args, o->pds);
		args_int8(&args, o->asked);
	}
	run_statement(o->kind == OUTCOME_EVENT ? &event_done : &list_done, &args);
	if (o->kind == OUTCOME_LIST)
	{
		Datum		follow = SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1, &isnull);

		o->follow = !isnull && DatumGetBool(follow);
	}
}

static void
record_outcome(void *arg)
{
	Outcome    *o = arg;

	switch (o->kind)
	{
		case OUTCOME_PUT:
		case OUTCOME_DELETE:
			record_write(o);
			break;
		case OUTCOME_READ:
			record_read(o);
			break;
		case OUTCOME_FAILED:
			record_failed(o);
			break;
		case OUTCOME_ACCOUNT:
			record_account(o);
			break;
		case OUTCOME_IDENTITY:
			record_identity(o);
			break;
		case OUTCOME_HINT:
			record_hint(o);
			break;
		case OUTCOME_HANDLE:
			record_handle(o);
			break;
		case OUTCOME_LIMITED:
			record_limited(o);
			break;
		case OUTCOME_HOST:
			record_host(o);
			break;
		case OUTCOME_VISIT:
			visit_record(o);
			break;
		case OUTCOME_CALL:
			break;
		default:
			record_learnt(o);
			break;
	}
}

/* Of what is recorded, what is counted. */
static void
count_outcome(Outcome *o)
{
	switch (o->kind)
	{
		case OUTCOME_PUT:
			meter_operation(o->job->source_id, "create", o->job->value);
			break;
		case OUTCOME_DELETE:
			meter_operation(o->job->source_id, "delete", NULL);
			break;
		case OUTCOME_LIST:
			meter_operation(o->source_id, "list", NULL);
			break;
		case OUTCOME_CALL:
			if (o->code != NULL)
				meter_error("outbound", o->code);
			if (o->operation != NULL)
				meter_duration(o->source_id, o->operation, o->value,
							   o->seconds);
			break;
		default:
			break;
	}
}

static void
recorded(Outcome *o)
{
	count_outcome(o);
	lane_outcome_recorded(o);
}

/* What somebody's row lock is in the way of. */
static dlist_head postponed;

static void
record_one(Outcome *o)
{
	ErrorData  *error = guarded(record_outcome, o);

	if (error == NULL)
		recorded(o);
	else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		dlist_push_tail(&postponed, &o->node);
	else if (o->kind == OUTCOME_FAILED)
		ReThrowError(error);
	else
	{
		ereport(WARNING,
				(errmsg("an answer could not be recorded: %s",
						error->message)));
		lane_outcome_refused(o);
	}
}

/*
 * Several records of one source that were written one after the other, with
 * nothing in between that was learnt: the order of answers matters.
 */
static List *
take_puts(dlist_head *outcomes)
{
	List	   *puts = NIL;

	while (!dlist_is_empty(outcomes))
	{
		Outcome    *o = dlist_head_element(Outcome, node, outcomes);

		if (o->kind == OUTCOME_CALL)
		{
			dlist_delete(&o->node);
			recorded(o);
			continue;
		}
		if (o->kind != OUTCOME_PUT ||
			(puts != NIL && ((Outcome *) linitial(puts))->job->source_id !=
			 o->job->source_id))
			break;
		dlist_delete(&o->node);
		puts = lappend(puts, o);
	}
	return puts;
}

static void
record_puts(void *arg)
{
	List	   *puts = arg;
	List	   *columns[8] = {NIL};
	Args		args = {0};
	ListCell   *cell;

	foreach(cell, puts)
	{
		Outcome    *o = lfirst(cell);
		Job		   *job = o->job;

		columns[0] = lappend(columns[0], job->key);
		columns[1] = lappend(columns[1],
							 psprintf(INT64_FORMAT, job->generation));
		columns[2] = lappend(columns[2], job->did);
		columns[3] = lappend(columns[3], job->rkey);
		columns[4] = lappend(columns[4], job->record);
		columns[5] = lappend(columns[5], unconstify(char *, o->cid));
		columns[6] = lappend(columns[6], o->rev ? unconstify(char *, o->rev) : "");
		columns[7] = lappend(columns[7], job->pds);
	}
	args_int8(&args, ((Outcome *) linitial(puts))->job->source_id);
	for (int i = 0; i < lengthof(columns); i++)
		args_texts(&args, columns[i]);
	run_statement(&puts_done, &args);
}

/* Records written, all in one; if that fails, each by itself. */
static void
record_together(dlist_head *outcomes)
{
	List	   *puts = take_puts(outcomes);
	ListCell   *cell;
	bool		done;

	if (puts == NIL)
		return;
	done = list_length(puts) > 1 && guarded(record_puts, puts) == NULL;
	foreach(cell, puts)
	{
		if (done)
			recorded(lfirst(cell));
		else
			record_one(lfirst(cell));
	}
}

/*
 * Recording may produce further outcomes; they are recorded as well.  What a
 * row lock of somebody's keeps from being recorded is recorded later.
 */
void
answers_record(void)
{
	dlist_head *outcomes = lane_outcomes();

	dlist_init(&postponed);
	while (!dlist_is_empty(outcomes))
	{
		record_together(outcomes);
		if (!dlist_is_empty(outcomes))
			record_one(dlist_container(Outcome, node,
									   dlist_pop_head_node(outcomes)));
	}
	while (!dlist_is_empty(&postponed))
		dlist_push_tail(outcomes, dlist_pop_head_node(&postponed));
}

/* What an account's lane needs in order to sign in. */
typedef struct Wanted
{
	const char *did;
	char	   *which;
	char	   *password;
	char	   *refresh_token;
	char	   *session;		/* OAuth: JSON, instead of both */
	char	   *client_key;		/* JWK */
	int64		version;
	char	   *client_id;
	char	   *client_error;
} Wanted;

static void
open_credentials(void *arg)
{
	Wanted	   *wanted = arg;
	Args		args = {0};
	char	   *credential;
	char	   *session;
	char	   *jwk;
	bool		isnull;

	args_text(&args, wanted->did);
	run_statement(&read_credential, &args);
	if (SPI_processed != 1)
		return;
	credential = result_text(0, 1);
	session = result_text(0, 2);
	wanted->which = result_text(0, 3);
	wanted->version = result_int8(0, 4, &isnull);
	if (!isnull && credential)
	{
		wanted->client_id = result_text(0, 5);
		jwk = result_text(0, 6);
		wanted->client_error = result_text(0, 7);
		wanted->session = credential_open(credential, wanted->did);
		if (jwk)
			wanted->client_key = credential_open(jwk, wanted->client_id);
		return;
	}
	if (credential)
		wanted->password = credential_open(credential, wanted->did);
	if (session)
		wanted->refresh_token = credential_open(session, wanted->did);
}

void
answers_supply_credentials(void)
{
	ListCell   *cell;

	foreach(cell, lane_credentials_wanted())
	{
		Wanted		wanted = {lfirst(cell)};
		ErrorData  *error = guarded(open_credentials, &wanted);

		if (error != NULL)
			ereport(WARNING,
					(errmsg("the credential of %s cannot be read: %s",
							wanted.did, error->message)));
		if (error == NULL && wanted.session != NULL)
			lane_grant(wanted.did, wanted.which, wanted.session,
					   wanted.version, wanted.client_id, wanted.client_key,
					   wanted.client_error);
		else
			lane_credentials(wanted.did, wanted.which, wanted.password,
							 wanted.refresh_token,
							 error ? error->message : NULL);
		if (wanted.session)
			credential_wipe(wanted.session);
		if (wanted.client_key)
			credential_wipe(wanted.client_key);
		if (wanted.password)
			credential_wipe(wanted.password);
		if (wanted.refresh_token)
			credential_wipe(wanted.refresh_token);
	}
}

/* ------------------------------------------------------------------------
 * OAuth sessions
 * ------------------------------------------------------------------------ */

static bool
result_bool(int column, bool *isnull)
{
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column, isnull);

	return !*isnull && DatumGetBool(value);
}

static void
take_lease(void *arg)
{
	Renewal    *r = arg;
	Args		args = {0};
	bool		isnull;
	char	   *lease;

	args_text(&args, r->work->did);
	args_int8(&args, r->work->version);
	args_int8(&args, lane_lease_ms());
	run_statement(&begin_refresh, &args);
	r->yes = result_bool(1, &isnull);
	r->known = !isnull;
	lease = result_text(0, 2);
	r->lease = lease ? MemoryContextStrdup(r->keep, lease) : NULL;
}

/* What may be seen of a renewed session, and the session, sealed. */
static char *
renewed_facts(RenewalWork *work)
{
	char	   *text = secret_open(work->session);
	const char *problem;
	OAuthSession *session = oauth_session_parse(text, strlen(text), &problem);

	secret_wipe(text);
	if (session == NULL)
		elog(ERROR, "a renewed OAuth session is none: %s", problem);
	return oauth_facts(session);
}

static void
store_renewal(void *arg)
{
	Renewal    *r = arg;
	Args		args = {0};
	bool		isnull;

	args_text(&args, r->work->did);
	args_text(&args, r->work->how);
	args_int8(&args, r->work->version);
	args_text(&args, r->work->lease);
	args_text(&args, r->work->session ? renewed_facts(r->work) : NULL);
	args_text(&args, r->work->error);
	run_statement(&refresh_done, &args);
	r->yes = result_bool(1, &isnull);
}

ErrorData *
answers_renewal(Renewal *renewal)
{
	return guarded(renewal->work->how ? store_renewal : take_lease, renewal);
}
