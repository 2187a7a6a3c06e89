/*-------------------------------------------------------------------------
 *
 * job.c
 *		The calls that jobs are about: put, delete, read.
 *
 * A lane hands its jobs over one at a time.  What an answer means for the job
 * is decided here: done, once more, later, never, or a matter for the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "lane_state.h"
#include "settings.h"
#include "syntax.h"

/* Sessions tried for one job before its user is asked. */
#define MAX_LOGINS		2


bool
job_is(const Job *job, const char *action)
{
	return strcmp(job->action, action) == 0;
}

/*
 * The call to make; NULL: the user has not consented to any.  putRecord wants
 * both rights, to create and to update, whichever it does.
 */
const char *
write_method(Lane *lane, const Job *job)
{
	bool		put = job_is(job, "put");
	const char *scope = lane->grant ? lane->grant->scope : NULL;
	bool		create = scope == NULL ||
		oauth_scope_allows(scope, RSVP_COLLECTION, "create");

	if (!put)
		return scope == NULL ||
			oauth_scope_allows(scope, RSVP_COLLECTION, "delete") ?
			"com.atproto.repo.deleteRecord" : NULL;
	if (scope == NULL ||
		(create && oauth_scope_allows(scope, RSVP_COLLECTION, "update")))
		return "com.atproto.repo.putRecord";
	return create && job->swap == NULL ?
		"com.atproto.repo.createRecord" : NULL;
}

/* A request with the lane's session, of whichever kind. */
HttpRequest *
write_request(Lane *lane, const char *method, const char *body)
{
	return lane->grant ? renewal_post(lane, method, body) :
		post_with(lane, lane->access_token, method, body);
}

void
start_write(Lane *lane, Job *job)
{
	const char *method = write_method(lane, job);
	bool		put = job_is(job, "put");
	StringInfoData body;

	if (method == NULL)
	{
		fail_job(job, "wait", "scope_missing", NULL, true, 0);
		return;
	}

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"repo\":");
	escape_json(&body, job->did);
	append_member(&body, "collection", RSVP_COLLECTION);
	append_member(&body, "rkey", job->rkey);
	if (put)
		appendStringInfo(&body, ",\"record\":%s", job->record);
	if (strcmp(method, "com.atproto.repo.createRecord") != 0)
		append_member(&body, "swapRecord", job->swap);
	if (lane->head != NULL && !job->head_unknown)
		append_member(&body, "swapCommit", lane->head);
	appendStringInfoChar(&body, '}');
	start_call(CALL_JOB, lane, job, NULL, lane->pds,
			   write_request(lane, method, body.data));
	pfree(body.data);
}

void
start_read(Lane *lane, Job *job)
{
	const char *params[] = {
		"repo", job->did, "collection", RSVP_COLLECTION, "rkey", job->rkey,
		NULL
	};

	job->asked = GetCurrentTimestamp();
	start_call(CALL_JOB, lane, job, NULL, lane->pds,
			   xrpc_get(lane->pds, "com.atproto.repo.getRecord", params,
						rsvp_sync_request_timeout));
}

/* What an answer says of the repository, for the next write. */
static void
learn_head(Lane *lane, Job *job, const char *cid, json_t *commit)
{
	if (lane->head == NULL || job->head_unknown)
		return;					/* others may have written in between */
	known_set(lane->known, job->rkey, cid);
	if (commit != NULL)			/* else nothing was written: the head stays */
		replace_text(lane, &lane->head, xrpc_cid(commit, "cid"));
}

/* A write is done; cid: of the record that is there now, or NULL. */
void
write_done(Lane *lane, Job *job, const char *cid, json_t *commit)
{
	const char *rev = xrpc_text(commit, "rev");
	bool		put = job_is(job, "put");
	Outcome    *outcome;

	lane->wrote_at = host_now();
	if (lane->unproven)
		account_outcome(lane, "connected", NULL);
	lane->unproven = false;
	outcome = new_outcome(put ? OUTCOME_PUT : OUTCOME_DELETE, job, NULL);
	outcome->cid = outcome_keep(cid);
	if (rev != NULL && syntax_is_tid(rev, strlen(rev)))
		outcome->rev = outcome_keep(rev);
}

static void
write_succeeded(Lane *lane, Job *job, Answer *answer)
{
	json_t	   *commit = json_object_get(answer->body, "commit");
	const char *cid = xrpc_cid(answer->body, "cid");

	if (job_is(job, "put") && cid == NULL)
	{
		/* It may have been written, and is read to find out. */
		xrpc_unreadable(answer, "the answer to a write has no cid");
		fail_job(job, "retry", answer->name, answer->message, false, 0);
		return;
	}
	cid = job_is(job, "put") ? cid : NULL;
	learn_head(lane, job, cid, commit);
	write_done(lane, job, cid, commit);
}

/*
 * A cid that is not said can be computed from the content.  With neither we
 * know nothing: only the PDS's word for it means that there is no record.
 */
static void
read_succeeded(Job *job, Answer *answer)
{
	json_t	   *value = json_object_get(answer->body, "value");
	const char *cid = xrpc_cid(answer->body, "cid");
	char	   *text = json_is_object(value) ? record_list_storable(value) : NULL;
	Outcome    *outcome;

	if (!json_is_object(value) || (text == NULL && cid == NULL))
	{
		xrpc_unreadable(answer, "the record has no content or no cid");
		fail_job(job, "retry", answer->name, answer->message, false, 0);
		return;
	}
	outcome = new_outcome(OUTCOME_READ, job, NULL);
	outcome->cid = outcome_keep(cid);
	outcome->text = outcome_keep(text);
	free(text);
}

/* Back to the front: it is the next one again. */
void
retry_now(Lane *lane, Job *job)
{
	dlist_push_head(&lane->jobs, &job->node);
	lane->njobs++;
}

/*
 * What was known of the record, or of the head, is out of date; both are read
 * again.  Once a write that only updates is repeated at once, without the
 * head: others may write to this repository all the time.
 */
static void
swap_failed(Lane *lane, Job *job, Answer *answer)
{
	bool		commit = strncmp(answer->message, "Commit was at", 13) == 0;

	replace_text(lane, &lane->head, NULL);
	if (commit && !job->mint && !job->head_unknown)
	{
		job->head_unknown = true;
		retry_now(lane, job);
	}
	else
		fail_job(job, "again", answer->name, answer->message, false, 0);
}

/* There is no such record, says the PDS. */
static void
record_absent(Job *job, Answer *answer)
{
	if (job_is(job, "read"))
		new_outcome(OUTCOME_READ, job, NULL);
	else if (job_is(job, "delete"))
		new_outcome(OUTCOME_DELETE, job, NULL);
	else
		fail_job(job, "again", answer->name, answer->message, false, 0);
}

static void
job_needs_session(Lane *lane, Job *job, Answer *answer)
{
	if (lane->grant != NULL)
	{
		renewal_refused(lane, job, answer);
		return;
	}
	replace_secret(lane, &lane->access_token, NULL);
	if (job->logins++ > 0 && !answer->known)
	{
		/* A status alone, from whatever stands in front of the PDS. */
		lane->session = lane->password || lane->refresh_token ?
			SESSION_HAS_CREDENTIAL : SESSION_NONE;
		fail_job(job, "retry", answer->name, answer->message, answer->sure,
				 answer->wait_ms);
		return;
	}
	retry_now(lane, job);
	/* Without a token there is no session, whoever is asked next. */
	lane->session = lane->password || lane->refresh_token ?
		SESSION_HAS_CREDENTIAL : SESSION_NONE;
	if (job->logins > MAX_LOGINS)
		ask_user(lane, "needs_login", answer->message);
}

static void
job_refused(Lane *lane, Job *job, Answer *answer)
{
	/* The account is well, this write is not what the user consented to. */
	if (strcmp(answer->name, "ScopeMissingError") == 0)
	{
		fail_job(job, "wait", "scope_missing", NULL, answer->sure, 0);
		return;
	}
	switch (answer->class)
	{
		case ANSWER_ABSENT:
			record_absent(job, answer);
			break;
		case ANSWER_REREAD:
			swap_failed(lane, job, answer);
			break;
		case ANSWER_REFRESH:
			job_needs_session(lane, job, answer);
			break;
		case ANSWER_USER:
			retry_now(lane, job);
			ask_user(lane, account_state(answer->name, "needs_login"),
					 answer->message);
			break;
		case ANSWER_PERMANENT:
			/* Without a name it need not be the PDS's answer. */
			if (!job_is(job, "read") && answer->named)
			{
				fail_job(job, "failed", "refused",
						 psprintf("%s: %s", answer->name, answer->message),
						 answer->sure, 0);
				break;
			}
			/*
			 * A repository that is deactivated or gone is "not found" to who
			 * reads a record; who asks for its head is told why.
			 */
			lane->in_question = job_is(job, "read");
			/* FALLTHROUGH */
		default:
			lane_hint(lane);
			fail_job(job, "retry", answer->name, answer->message,
					 answer->sure, answer->wait_ms);
			break;
	}
}

void
job_answer(Lane *lane, Job *job, Answer *answer)
{
	if (answer->class != ANSWER_OK)
		job_refused(lane, job, answer);
	else if (job_is(job, "read"))
		read_succeeded(job, answer);
	else
		write_succeeded(lane, job, answer);
}
