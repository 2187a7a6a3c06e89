/*-------------------------------------------------------------------------
 *
 * verify.c
 *		Visits: what accounts themselves say, read from their own PDS.
 *
 * A record that somebody told us about is fetched before it is believed; an
 * account whose events may have been missed is listed anew.  Both are visits,
 * one to an account at a time, without credentials: the DID document first,
 * then the head of the repository and all pages of its RSVP records, or the
 * few records in question.  The network's part is a task like any other
 * (task.c), so that servers' limits, silence and pauses are minded there.
 *
 * Which visits are due, and what follows from one, is decided in
 * sql/58-remote.sql.  Nothing here touches a table but through that; a visit
 * that is lost with the process is due again in a while.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "lane_state.h"
#include "recordlist.h"
#include "settings.h"
#include "verify.h"
#include "worker.h"

/* Visits at once: those that somebody's answer waits for, and others. */
#define MAX_URGENT		64
#define MAX_OTHERS		4
/* With more records in question than this the account is listed. */
#define FEW_RECORDS		3

struct Visit
{
	const char *did;			/* hash key */
	MemoryContext context;
	char	   *pds;
	bool		urgent;
	bool		list;			/* all records are wanted */
	char	   *known_head;		/* rev that was listed last */
	List	   *rkeys;			/* records in question */
	int			next;			/* of these, the one that is asked for */
	bool		asking;			/* for the DID document */
	bool		look_up;		/* what has come of that is in _identity */
	bool		explain;		/* a refusal: the head's may say why */
	char	   *head;
	bool		unchanged;
	RecordList *records;
	char	   *cursor;
	StringInfo	read;			/* records that were fetched by themselves */
	TimestampTz asked;
	Answer		refusal;
};

static Statement due = {
	"SELECT v.did, v.pds, v.urgent, v.list, v.head, v.rkeys"
	" FROM rsvp_sync._visits_due($1, $2, $3) v", 3,
	{TEXTARRAYOID, INT4OID, INT4OID}
};
static Statement pds_of = {
	"SELECT rsvp_sync._pds_of($1)", 1, {TEXTOID}
};
static Statement visited = {
	"SELECT rsvp_sync._visited($1, $2, $3::pg_catalog.jsonb, $4, $5, $6, $7)",
	7, {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT8OID}
};
static Statement take_over = {
	"SELECT rsvp_sync._visits_take_over()", 0
};

static MemoryContext visit_context = NULL;
static HTAB *visits = NULL;
static int	n_urgent = 0;
static int	n_others = 0;

void
visits_startup(MemoryContext parent)
{
	visit_context = AllocSetContextCreate(parent, "rsvp_sync visits",
										  ALLOCSET_DEFAULT_SIZES);
	visits = text_table("rsvp_sync visits", sizeof(struct Visit),
						visit_context);
}

/* What an earlier worker was about is due again.  In a transaction. */
void
visits_take_over(void)
{
	run_statement(&take_over, NULL);
}

/* ------------------------------------------------------------------------
 * The end of a visit
 * ------------------------------------------------------------------------ */

static void
end_visit(Visit *visit)
{
	char	   *did = unconstify(char *, visit->did);
	MemoryContext context = visit->context;

	if (visit->urgent)
		n_urgent--;
	else
		n_others--;
	hash_search(visits, &did, HASH_REMOVE, NULL);
	MemoryContextDelete(context);
}

static void
append_rkeys(StringInfo json, const Visit *visit)
{
	ListCell   *cell;
	int			n = 0;

	appendStringInfoString(json, ",\"rkeys\":[");
	foreach(cell, visit->rkeys)
	{
		if (n++ > 0)
			appendStringInfoChar(json, ',');
		escape_json(json, lfirst(cell));
	}
	appendStringInfoChar(json, ']');
}

/* All that was learnt, as _visited() takes it. */
static const char *
findings(Visit *visit, bool complete)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"list\":%s,\"unchanged\":%s,\"read\":[%s]",
					 visit->list ? "true" : "false",
					 visit->unchanged ? "true" : "false",
					 visit->read ? visit->read->data : "");
	append_rkeys(&json, visit);
	if (visit->head)
	{
		appendStringInfoString(&json, ",\"head\":");
		escape_json(&json, visit->head);
	}
	if (complete && visit->records)
		appendStringInfo(&json, ",\"records\":%s",
						 record_list_text(visit->records));
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* code: why it could not be brought to its end; NULL: it was */
static void
conclude_visit(Visit *visit, const char *code, const char *message,
			   long wait_ms)
{
	Outcome    *outcome = new_outcome(OUTCOME_VISIT, NULL, visit->did);

	outcome->text = outcome_keep(findings(visit, code == NULL));
	outcome->pds = outcome_keep(visit->pds);
	outcome->asked = visit->asked;
	outcome->code = outcome_keep(code);
	outcome->message = outcome_keep(message);
	outcome->wait_ms = wait_ms;
	end_visit(visit);
}

/* Its server may not be asked now. */
void
visit_put_off(Visit *visit, const char *why)
{
	conclude_visit(visit, why, "the server cannot be asked now", 0);
}

/* In a transaction of the worker's. */
void
visit_record(Outcome *o)
{
	Args		args = {0};

	args_text(&args, o->subject);
	args_text(&args, o->pds);
	args_text(&args, o->text);
	args_int8(&args, o->asked);
	args_text(&args, o->code);
	args_text(&args, o->message);
	args_int8(&args, o->wait_ms);
	run_statement(&visited, &args);
}

/* ------------------------------------------------------------------------
 * Its beginning
 * ------------------------------------------------------------------------ */

static char *
keep(Visit *visit, const char *text)
{
	return text ? MemoryContextStrdup(visit->context, text) : NULL;
}

static void
keep_rkeys(Visit *visit, Datum array)
{
	MemoryContext old;
	Datum	   *items;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &items, NULL, &n);
	old = MemoryContextSwitchTo(visit->context);
	for (int i = 0; i < n; i++)
		visit->rkeys = lappend(visit->rkeys,
							   pnstrdup(VARDATA_ANY(DatumGetTextPP(items[i])),
										VARSIZE_ANY_EXHDR(DatumGetTextPP(items[i]))));
	MemoryContextSwitchTo(old);
}

static bool
result_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static Visit *
new_visit(uint64 row)
{
	char	   *did = result_text(row, 1);
	bool		found;
	bool		isnull;
	Datum		rkeys;
	MemoryContext context;
	Visit	   *visit;

	context = AllocSetContextCreate(visit_context, "rsvp_sync visit",
									ALLOCSET_SMALL_SIZES);
	did = MemoryContextStrdup(context, did);
	visit = hash_search(visits, &did, HASH_ENTER, &found);
	memset((char *) visit + sizeof(char *), 0,
		   sizeof(Visit) - sizeof(char *));
	visit->context = context;
	visit->pds = keep(visit, result_text(row, 2));
	visit->urgent = result_bool(row, 3);
	visit->list = result_bool(row, 4);
	visit->known_head = keep(visit, result_text(row, 5));
	rkeys = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 6,
						  &isnull);
	if (!isnull)
		keep_rkeys(visit, rkeys);
	if (list_length(visit->rkeys) > FEW_RECORDS)
		visit->list = true;
	if (visit->urgent)
		n_urgent++;
	else
		n_others++;
	return visit;
}

static void
begin_visit(Visit *visit)
{
	if (visit->pds == NULL)
	{
		visit->asking = true;
		lane_verify(visit->did);
	}
	else
		task_visit(visit, visit->did, visit->pds);
}

/* Accounts that are visited just now, and are not to be twice. */
static List *
busy_dids(void)
{
	HASH_SEQ_STATUS scan;
	Visit	   *visit;
	List	   *dids = NIL;

	hash_seq_init(&scan, visits);
	while ((visit = hash_seq_search(&scan)) != NULL)
		dids = lappend(dids, unconstify(char *, visit->did));
	return dids;
}

/* A DID document has been asked for; o: what came of it. */
void
visits_identity(Outcome *o)
{
	Visit	   *visit = hash_search(visits, &o->subject, HASH_FIND, NULL);

	if (visit == NULL || !visit->asking)
		return;
	visit->asking = false;
	if (o->text != NULL)
	{
		visit->pds = keep(visit, o->text);
		begin_visit(visit);
	}
	else if (o->follow)
		visit->look_up = true;	/* the last one serves */
	else
		conclude_visit(visit, o->sure ? "no_account" :
					   o->code ? o->code : "no_identity",
					   o->message ? o->message : "", o->wait_ms);
}

/* It is a kind of DID whose document nobody can look at. */
void
visits_nowhere(const char *did)
{
	Visit	   *visit = hash_search(visits, &did, HASH_FIND, NULL);

	if (visit != NULL && visit->asking)
		conclude_visit(visit, "no_account", "unsupported identifier", 0);
}

static Visit *
next_to_look_up(void)
{
	HASH_SEQ_STATUS scan;
	Visit	   *visit;

	hash_seq_init(&scan, visits);
	while ((visit = hash_seq_search(&scan)) != NULL)
		if (visit->look_up)
		{
			hash_seq_term(&scan);
			return visit;
		}
	return NULL;
}

static void
look_up_identities(void)
{
	Visit	   *visit;

	while ((visit = next_to_look_up()) != NULL)
	{
		Args		args = {0};

		visit->look_up = false;
		args_text(&args, visit->did);
		run_statement(&pds_of, &args);
		visit->pds = keep(visit, result_text(0, 1));
		if (visit->pds != NULL)
			begin_visit(visit);
		else
			conclude_visit(visit, "no_identity",
						   "the DID document cannot be had", 0);
	}
}

/* Take up what is due.  In a transaction of the worker's. */
bool
visits_lease(void)
{
	int			urgent = MAX_URGENT - n_urgent;
	int			others = MAX_OTHERS - n_others;
	Args		args = {0};
	List	   *begun = NIL;
	ListCell   *cell;

	look_up_identities();
	if (urgent <= 0 && others <= 0)
		return false;
	args_texts(&args, busy_dids());
	args_int4(&args, Max(urgent, 0));
	args_int4(&args, Max(others, 0));
	run_statement(&due, &args);
	for (uint64 row = 0; row < SPI_processed; row++)
		begun = lappend(begun, new_visit(row));
	foreach(cell, begun)
		begin_visit(lfirst(cell));
	return begun != NIL;
}

/* ------------------------------------------------------------------------
 * Asking, and what is answered
 * ------------------------------------------------------------------------ */

const char *
visit_did(const Visit *visit)
{
	return visit->did;
}

bool
visit_is_urgent(const Visit *visit)
{
	return visit->urgent;
}

/* The next question. */
HttpRequest *
visit_request(Visit *visit)
{
	const char *head[] = {"did", visit->did, NULL};
	const char *record[] = {
		"repo", visit->did, "collection", RSVP_COLLECTION, "rkey", NULL, NULL
	};

	if (visit->asked == 0)
		visit->asked = GetCurrentTimestamp();
	if (visit->explain || (visit->list && visit->head == NULL))
		return xrpc_get(visit->pds, "com.atproto.sync.getLatestCommit", head,
						rsvp_sync_request_timeout);
	if (visit->list)
		return record_list_request(visit->pds, visit->did, visit->cursor,
								   rsvp_sync_request_timeout);
	record[5] = list_nth(visit->rkeys, visit->next);
	return xrpc_get(visit->pds, "com.atproto.repo.getRecord", record,
					rsvp_sync_request_timeout);
}

/* One that is not there has neither cid nor value. */
static void
note_record(Visit *visit, const char *cid, const char *value)
{
	if (visit->read == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(visit->context);

		visit->read = makeStringInfo();
		MemoryContextSwitchTo(old);
	}
	appendStringInfo(visit->read, "%s{\"rkey\":",
					 visit->read->len > 0 ? "," : "");
	escape_json(visit->read, list_nth(visit->rkeys, visit->next));
	append_member(visit->read, "cid", cid);
	appendStringInfo(visit->read, ",\"value\":%s}", value ? value : "null");
	visit->next++;
}

/*
 * A PDS refuses to say anything of a repository that it does not show; asked
 * for its head, it says why.
 */
static bool
refused(Visit *visit, Answer *answer)
{
	if (visit->explain)
		answer = answer->class == ANSWER_OK ? &visit->refusal : answer;
	else if (answer->class == ANSWER_PERMANENT && !visit->list)
	{
		visit->explain = true;
		visit->refusal = *answer;
		visit->refusal.body = NULL;
		return true;
	}
	conclude_visit(visit, answer->name, answer->message, answer->wait_ms);
	return false;
}

static bool
take_record(Visit *visit, Answer *answer)
{
	json_t	   *value = json_object_get(answer->body, "value");
	const char *cid = xrpc_cid(answer->body, "cid");
	char	   *text;

	if (answer->class == ANSWER_ABSENT)
		note_record(visit, NULL, NULL);
	else if (answer->class != ANSWER_OK)
		return refused(visit, answer);
	else if (!json_is_object(value) ||
			 (text = record_list_storable(value)) == NULL)
	{
		xrpc_unreadable(answer, "the answer has no record");
		return refused(visit, answer);
	}
	else
	{
		note_record(visit, cid, text);
		free(text);
	}
	if (visit->next < list_length(visit->rkeys))
		return true;
	conclude_visit(visit, NULL, NULL, 0);
	return false;
}

static bool
take_head(Visit *visit, Answer *answer)
{
	const char *rev = xrpc_text(answer->body, "rev");

	if (answer->class == ANSWER_OK &&
		(rev == NULL || strlen(rev) > 64))
		xrpc_unreadable(answer, "the head of the repository has no rev");
	if (answer->class != ANSWER_OK)
		return refused(visit, answer);
	visit->head = keep(visit, rev);
	if (visit->known_head == NULL || strcmp(rev, visit->known_head) != 0)
	{
		visit->records = record_list_begin(visit->context);
		return true;
	}
	visit->unchanged = true;
	visit->list = false;
	if (visit->rkeys != NIL)
		return true;
	conclude_visit(visit, NULL, NULL, 0);
	return false;
}

static bool
take_page(Visit *visit, Answer *answer)
{
	const char *cursor;

	if (answer->class != ANSWER_OK ||
		!record_list_page(visit->records, answer, &cursor))
		return refused(visit, answer);
	if (visit->cursor)
		pfree(visit->cursor);
	visit->cursor = keep(visit, cursor);
	if (cursor != NULL)
		return true;
	conclude_visit(visit, NULL, NULL, 0);
	return false;
}

/* True: there is another question.  False: the visit is over, and gone. */
bool
visit_answer(Visit *visit, Answer *answer)
{
	if (visit->explain)
		return refused(visit, answer);
	if (visit->list && visit->head == NULL)
		return take_head(visit, answer);
	if (visit->list)
		return take_page(visit, answer);
	return take_record(visit, answer);
}
