/*-------------------------------------------------------------------------
 *
 * found.c
 *		Credentials that an application keeps in tables of its own.
 *
 * Runs the query for them as the owner of the attached table, and seals what
 * it finds for the DID it was found for.  Secrets are in hand for as long as
 * that takes, and never leave as anything but an envelope.
 *
 * May touch: application tables, through owner.c; of our own it reads
 * _source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "credential.h"
#include "owner.h"

/* As long as a desired query waits for a lock of the application's. */
#define FOUND_LOCK_TIMEOUT_MS	200

static const char *const found_columns[] = {
	"did", "envelope", "pds", "handle"
};

#define FOUND_NCOLS ((int) lengthof(found_columns))

typedef struct FoundRun
{
	const char *query;
	Datum		dids;
	ReturnSetInfo *rsinfo;
} FoundRun;

PG_FUNCTION_INFO_V1(rsvp_sync_stored_credentials);
PG_FUNCTION_INFO_V1(rsvp_sync_seal_found);

static void
run_found(void *arg)
{
	FoundRun   *run = arg;
	AttInMetadata *input = TupleDescGetAttInMetadata(run->rsinfo->setDesc);
	char	   *sql = psprintf("SELECT q.* FROM (%s\n) q"
							   " WHERE q.did::pg_catalog.text"
							   " OPERATOR(pg_catalog.=) ANY ($1)", run->query);
	Oid			types[1] = {TEXTARRAYOID};

	SPI_execute_with_args(sql, 1, types, &run->dids, NULL, true, 0);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		char	   *values[FOUND_NCOLS] = {0};

		for (int i = 0; i < FOUND_NCOLS; i++)
		{
			int			number = SPI_fnumber(SPI_tuptable->tupdesc,
											 found_columns[i]);

			if (number > 0)
				values[i] = SPI_getvalue(SPI_tuptable->vals[r],
										 SPI_tuptable->tupdesc, number);
		}
		if (values[0] != NULL)
			tuplestore_puttuple(run->rsinfo->setResult,
								BuildTupleFromCStrings(input, values));
	}
}

/*
 * rsvp_sync._stored_credentials(source_id bigint, query text, dids text[]):
 * the rows of the query for these DIDs.
 */
Datum
rsvp_sync_stored_credentials(PG_FUNCTION_ARGS)
{
	FoundRun	run = {
		text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_DATUM(2),
		(ReturnSetInfo *) fcinfo->resultinfo
	};
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {PG_GETARG_DATUM(0)};
	bool		isnull;
	Oid			relid;
	Datum		limit;
	char	   *search_path;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	SPI_execute_with_args("SELECT s.attendance::pg_catalog.oid,"
						  " s.search_path, rsvp_sync._sql_timeout(s.options)"
						  " FROM rsvp_sync._source s"
						  " WHERE s.source_id OPERATOR(pg_catalog.=) $1",
						  1, types, args, NULL, true, 1);
	if (SPI_processed != 1)
		elog(ERROR, "source " INT64_FORMAT " is gone", PG_GETARG_INT64(0));
	relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1,
										   &isnull));
	search_path = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							   2);
	limit = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3,
						  &isnull);
	owner_run(relid, search_path,
			  owner_arms_deadline ? FOUND_LOCK_TIMEOUT_MS : 0,
			  isnull ? 0 : DatumGetInt32(limit), run_found, &run);
	SPI_finish();
	return (Datum) 0;
}

/*
 * rsvp_sync._seal_found(envelope text, did text): what is stored opens for
 * this DID only, whoever made the envelope.
 */
Datum
rsvp_sync_seal_found(PG_FUNCTION_ARGS)
{
	char	   *envelope = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *did = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *secret = credential_open(envelope, did);
	char	   *sealed;

	if (secret[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the password in the envelope of \"%s\" is empty",
						did),
				 errhint("Store the account's password, encrypted.")));
	sealed = credential_seal(secret, strlen(secret), did);
	credential_wipe(secret);
	PG_RETURN_TEXT_P(cstring_to_text(sealed));
}
