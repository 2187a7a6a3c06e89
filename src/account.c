/*-------------------------------------------------------------------------
 *
 * account.c
 *		Entries of the account functions: who calls, and with what secret.
 *
 * May touch: nothing itself; sql/70-account.sql does, behind definer_call().
 *
 * A password is sealed here, before anything else sees it.  While one is in
 * hand, errors do not log the statement that raised them: with
 * log_min_error_statement at its default, a refused
 * connect_account(did, 'password') would put the password in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "credential.h"
#include "definer.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(rsvp_sync_this_installation);

/* rsvp_sync._this_installation(): system identifier and database. */
Datum
rsvp_sync_this_installation(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "_this_installation() does not fit this library");
	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/* Error context callback: adds no context, takes the statement away. */
static void
hide_statement(void *arg)
{
	errhidestmt(true);
}

/* The text of an argument that must be there. */
static char *
required_text(FunctionCallInfo fcinfo, int n, const char *what)
{
	char	   *value = NULL;

	if (!PG_ARGISNULL(n))
		value = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (value == NULL || value[0] == '\0')
		ereport(ERROR,
				(errcode(value == NULL ? ERRCODE_NULL_VALUE_NOT_ALLOWED
						 : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be %s", what,
						value == NULL ? "null" : "empty"),
				 errhint("connect_account() takes the account's DID and an "
						 "app password, connect_account_encrypted() the DID "
						 "and an envelope.")));
	return value;
}

/* Call _connect_account() with the envelope where the password was. */
static Datum
connect_with(FunctionCallInfo fcinfo, const char *envelope)
{
	NullableDatum args[4];

	Assert(fcinfo->nargs == lengthof(args));
	memcpy(args, fcinfo->args, sizeof(args));
	args[1].value = CStringGetTextDatum(envelope);
	return definer_call_with(fcinfo, "_connect_account", args);
}

/* Seal a password, wipe it, and connect. */
static Datum
connect_with_password(FunctionCallInfo fcinfo, const char *did,
					  char *password)
{
	return connect_with(fcinfo, credential_seal_wiping(password, did));
}

/*
 * SQL: rsvp_sync._seal() and rsvp_sync._open(), granted to nobody.
 */

PG_FUNCTION_INFO_V1(rsvp_sync_seal);
Datum
rsvp_sync_seal(PG_FUNCTION_ARGS)
{
	char	   *secret = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *did = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_TEXT_P(cstring_to_text(credential_seal_wiping(secret, did)));
}

PG_FUNCTION_INFO_V1(rsvp_sync_open);
Datum
rsvp_sync_open(PG_FUNCTION_ARGS)
{
	char	   *envelope = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *did = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *secret = credential_open(envelope, did);
	text	   *result = cstring_to_text(secret);

	credential_wipe(secret);
	PG_RETURN_TEXT_P(result);
}

PG_FUNCTION_INFO_V1(rsvp_sync_reseal);
Datum
rsvp_sync_reseal(PG_FUNCTION_ARGS)
{
	char	   *envelope = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *did = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *secret = credential_open(envelope, did);

	PG_RETURN_TEXT_P(cstring_to_text(credential_seal_wiping(secret, did)));
}

PG_FUNCTION_INFO_V1(rsvp_sync_key_version);
Datum
rsvp_sync_key_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(credential_key_version());
}

/*
 * connect_account(did, password, pds, handle)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_connect_account);
Datum
rsvp_sync_connect_account(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hider = {
		.previous = error_context_stack,
		.callback = hide_statement
	};
	char	   *did;
	char	   *password;
	Datum		result;

	error_context_stack = &hider;
	did = required_text(fcinfo, 0, "DID");
	password = required_text(fcinfo, 1, "password");
	result = connect_with_password(fcinfo, did, password);
	error_context_stack = hider.previous;
	return result;
}

/*
 * connect_account_encrypted(did, envelope, pds, handle)
 *
 * The envelope is opened now, so that a wrong one is refused rather than
 * found out at the first login; and sealed anew, so that what is stored
 * opens for this DID only, whoever made the envelope.
 */
PG_FUNCTION_INFO_V1(rsvp_sync_connect_account_encrypted);
Datum
rsvp_sync_connect_account_encrypted(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hider = {
		.previous = error_context_stack,
		.callback = hide_statement
	};
	char	   *did;
	char	   *envelope;
	char	   *password;
	Datum		result;

	error_context_stack = &hider;
	did = required_text(fcinfo, 0, "DID");
	envelope = required_text(fcinfo, 1, "envelope");
	password = credential_open(envelope, did);
	if (password[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the password in the envelope is empty"),
				 errhint("Encrypt the account's app password.")));
	result = connect_with_password(fcinfo, did, password);
	error_context_stack = hider.previous;
	return result;
}

/*
 * disconnect_account(did, withdraw)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_disconnect_account);
Datum
rsvp_sync_disconnect_account(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_disconnect_account");
}

/*
 * grant_account(did, role)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_grant_account);
Datum
rsvp_sync_grant_account(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_grant_account");
}

/*
 * revoke_account(did, role)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_revoke_account);
Datum
rsvp_sync_revoke_account(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_revoke_account");
}

/*
 * forget(did)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_forget);
Datum
rsvp_sync_forget(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_forget");
}

/*
 * export(did)
 */
PG_FUNCTION_INFO_V1(rsvp_sync_export);
Datum
rsvp_sync_export(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_export");
}
