/*-------------------------------------------------------------------------
 *
 * document.c
 *		C entries of sql/74-document.sql, and its look at the application's
 *		rows with the caller's rights.
 *
 * rsvp_document() and rsvp_outbox() are assembled with the extension owner's
 * rights: what is desired is private.  Which rows there are for the caller,
 * and what the tables say of event and author, is asked as the caller, so
 * that grants and row security hold as in any query of his.
 *
 * May touch: reads application tables, as the caller.
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
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "definer.h"
#include "owner.h"

PG_FUNCTION_INFO_V1(rsvp_sync_rsvp_document);
PG_FUNCTION_INFO_V1(rsvp_sync_rsvp_outbox);
PG_FUNCTION_INFO_V1(rsvp_sync_visible_rows);

Datum
rsvp_sync_rsvp_document(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_rsvp_document");
}

Datum
rsvp_sync_rsvp_outbox(PG_FUNCTION_ARGS)
{
	return definer_call(fcinfo, "_rsvp_outbox");
}

/* A query and its parameters. */
typedef struct VisibleQuery
{
	const char *sql;
	OwnerKey	key;
	int			nargs;
	Oid			types[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
} VisibleQuery;

/*
 * The parts of a key as values of their columns' types.  Of a domain it is
 * the base type: its checks are functions of the table's owner, which he
 * must not be able to run as somebody else.
 */
static void
bind_key(VisibleQuery *query, Oid relid, const char *text)
{
	char	  **parts = owner_split_key(&query->key, text);

	query->nargs = query->key.ncols;
	for (int i = 0; i < query->nargs; i++)
	{
		int32		typmod;
		Oid			collation;
		Oid			input;
		Oid			ioparam;

		get_atttypetypmodcoll(relid, get_attnum(relid, query->key.name[i]),
							  &query->types[i], &typmod, &collation);
		query->types[i] = getBaseType(query->types[i]);
		getTypeInputInfo(query->types[i], &input, &ioparam);
		query->values[i] = OidInputFunctionCall(input, parts[i], ioparam, -1);
	}
}

static void
run_visible(VisibleQuery *query, Oid caller, ReturnSetInfo *rsinfo)
{
	int			guc_level = NewGUCNestLevel();
	int			number[INDEX_MAX_KEYS];
	Oid			user;
	int			context;

	for (int i = 0; i < query->key.ncols; i++)
		number[i] = i + 1;
	owner_pin_output();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(caller, context | SECURITY_RESTRICTED_OPERATION);
	PG_TRY();
	{
		SPI_execute_with_args(query->sql, query->nargs, query->types,
							  query->values, NULL, true, 0);
		owner_emit_rows(query->key.ncols, number, rsinfo);
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(user, context);
	}
	PG_END_TRY();
	AtEOXact_GUC(false, guc_level);
}

/*
 * rsvp_sync._visible_rows(caller oid, relation oid, query text, key text,
 * actor text): (key text, extras jsonb).  The query returns the columns of
 * the relation's primary key and a jsonb; its parameters are the parts of
 * the key, or the actor.
 */
Datum
rsvp_sync_visible_rows(PG_FUNCTION_ARGS)
{
	Oid			caller = PG_GETARG_OID(0);
	Oid			relid = PG_GETARG_OID(1);
	VisibleQuery query = {0};

	InitMaterializedSRF(fcinfo, 0);
	query.sql = text_to_cstring(PG_GETARG_TEXT_PP(2));
	owner_key(&query.key, relid);
	if (!PG_ARGISNULL(3))
		bind_key(&query, relid, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	else
	{
		query.nargs = 1;
		query.types[0] = TEXTOID;
		query.values[0] = PG_GETARG_DATUM(4);
	}
	SPI_connect();
	run_visible(&query, caller, (ReturnSetInfo *) fcinfo->resultinfo);
	SPI_finish();
	return (Datum) 0;
}
