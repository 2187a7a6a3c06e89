/*-------------------------------------------------------------------------
 *
 * operate.c
 *		C entries of the functions in sql/85-operate.sql, and what only a
 *		process of the server knows: is the library preloaded, is there a
 *		worker.
 *
 * May touch: nothing; the private functions behind definer_call() do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "definer.h"
#include "registry.h"

PG_FUNCTION_INFO_V1(rsvp_sync_retry);
PG_FUNCTION_INFO_V1(rsvp_sync_retry_subject);
PG_FUNCTION_INFO_V1(rsvp_sync_pause_subject);
PG_FUNCTION_INFO_V1(rsvp_sync_resume_subject);
PG_FUNCTION_INFO_V1(rsvp_sync_discard);
PG_FUNCTION_INFO_V1(rsvp_sync_explain_sync);
PG_FUNCTION_INFO_V1(rsvp_sync_runtime);

Datum
rsvp_sync_retry(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_retry");
}

/* The oid of a table by the caller's search_path, as text; or NULL. */
static bool
find_table(const char *name, Datum *oid_text)
{
	LOCAL_FCINFO(call, 1);
	Datum		relation;
	List	   *parts;
	const char *dot = strchr(name, '.');

	/* A handle, not a table of a database: for a better error. */
	if (dot != NULL && strchr(dot + 1, '.') != NULL &&
		strchr(name, '"') == NULL)
		return false;
	/* Nor can to_regclass() make anything of what is no name at all. */
	if (!SplitIdentifierString(pstrdup(name), '.', &parts) || parts == NIL)
		return false;
	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = CStringGetTextDatum(name);
	call->args[0].isnull = false;
	relation = to_regclass(call);
	if (call->isnull)
		return false;
	*oid_text = CStringGetTextDatum(psprintf("%u",
											 DatumGetObjectId(relation)));
	return true;
}

/*
 * retry('did:…') and retry('app.attendance'): a literal of unknown type goes
 * to the function that takes a text, so that one understands both.
 */
Datum
rsvp_sync_retry_subject(PG_FUNCTION_ARGS)
{
	NullableDatum args[1];
	char	   *subject;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("did must not be null"),
				 errhint("rsvp_sync.retry() without arguments tries all "
						 "that is yours again.")));
	args[0] = fcinfo->args[0];
	subject = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strncmp(subject, "did:", 4) != 0 &&
		!find_table(subject, &args[0].value))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("\"%s\" is neither a DID nor a table", subject),
				 errhint("Give a DID, as in did:plc:ewvi7nxzyoun6zhxrhs64oiz, "
						 "or the name of an attached table.")));
	return definer_call_with(fcinfo, "_retry", args);
}

/*
 * pause('did:…'), pause('https://pds.example.com') and pause('app.attendance'),
 * for the same reason; likewise resume().
 */
static Datum
call_for_subject(FunctionCallInfo fcinfo, const char *private_function)
{
	NullableDatum args[1];
	char	   *subject;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("subject must not be null"),
				 errhint("Without arguments the function is for "
						 "everything.")));
	args[0] = fcinfo->args[0];
	subject = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strncmp(subject, "did:", 4) != 0 && strstr(subject, "://") == NULL &&
		!find_table(subject, &args[0].value))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("\"%s\" is neither a DID nor a server nor a table",
						subject),
				 errhint("Give a DID, as in did:plc:ewvi7nxzyoun6zhxrhs64oiz, "
						 "a server, as in https://pds.example.com, or the "
						 "name of an attached table.")));
	return definer_call_with(fcinfo, private_function, args);
}

Datum
rsvp_sync_pause_subject(PG_FUNCTION_ARGS)
{
	return call_for_subject(fcinfo, "_pause");
}

Datum
rsvp_sync_resume_subject(PG_FUNCTION_ARGS)
{
	return call_for_subject(fcinfo, "_resume");
}

Datum
rsvp_sync_discard(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_discard");
}

Datum
rsvp_sync_explain_sync(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_explain_sync");
}

/* (preloaded boolean, worker_pid integer, library_version text) */
Datum
rsvp_sync_runtime(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};
	int			pid = registry_worker_pid(MyDatabaseId, WORKER_SYNC);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(registry_available());
	values[1] = Int32GetDatum(pid);
	nulls[1] = pid == 0;
	values[2] = CStringGetTextDatum(RSVP_SYNC_VERSION);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}
