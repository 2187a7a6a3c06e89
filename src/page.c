/*-------------------------------------------------------------------------
 *
 * page.c
 *		A source read piece by piece, in the order of its primary key.
 *
 * The attendance table and the desired query over one range of keys, joined
 * by the application's own server as the table's owner: what a slice of a
 * comparison looks at.  The texts are made in sql/53-reconcile.sql; each is
 * planned for its range, since a range is large and the planning is not.
 *
 * May touch application tables, through owner.c; of our own it reads _source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "owner.h"

PG_FUNCTION_INFO_V1(rsvp_sync_page_end);
PG_FUNCTION_INFO_V1(rsvp_sync_page);
PG_FUNCTION_INFO_V1(rsvp_sync_present);

/* Columns of a page after the key; those of the query are found by name. */
enum
{
	PAGE_KEY, PAGE_PRESENT, PAGE_TELLABLE, PAGE_TOLD_URI, PAGE_TOLD_CID,
	PAGE_TOLD_RKEY, PAGE_DESIRED
};
static const char *const page_columns[] = {
	"did", "event_uri", "status", "withheld", "on_withheld", "starts_at",
	"ends_at"
};

#define PAGE_NCOLS (PAGE_DESIRED + (int) lengthof(page_columns))

/* What a statement over a range of a source needs. */
typedef struct Range
{
	int64		source_id;
	Oid			relid;
	char	   *search_path;
	int			sql_timeout;	/* ms; 0: as the setting says */
	char	   *sql;
	OwnerKey	key;
	Datum		args[3];		/* after, until, a number */
	char		nulls[3];
	ReturnSetInfo *rsinfo;
	char	   *end;			/* the key that was asked for */
} Range;

/* A key as an array with a text for each column; NULL: no bound. */
static void
set_bound(Range *range, int i, const char *key)
{
	Datum	   *parts = palloc(sizeof(Datum) * range->key.ncols);
	char	  **texts;

	range->nulls[i] = key ? ' ' : 'n';
	if (key == NULL)
		return;
	texts = owner_split_key(&range->key, key);
	for (int c = 0; c < range->key.ncols; c++)
		parts[c] = CStringGetTextDatum(texts[c]);
	range->args[i] =
		PointerGetDatum(construct_array(parts, range->key.ncols, TEXTOID, -1,
										false, TYPALIGN_INT));
}

/* The source, and the statement that one of our functions makes for it. */
static void
read_range(Range *range, const char *text_of, bool below, bool above)
{
	Oid			types[3] = {INT8OID, BOOLOID, BOOLOID};
	Datum		values[3] = {
		Int64GetDatum(range->source_id), BoolGetDatum(below),
		BoolGetDatum(above)
	};
	char	   *sql = psprintf("SELECT s.attendance::pg_catalog.oid,"
							   " s.search_path,"
							   " rsvp_sync._sql_timeout(s.options), %s"
							   " FROM rsvp_sync._source s"
							   " WHERE s.source_id"
							   " OPERATOR(pg_catalog.=) $1", text_of);
	HeapTuple	row;
	Datum		timeout;
	bool		isnull;

	if (SPI_execute_with_args(sql, 3, types, values, NULL, true, 1)
		!= SPI_OK_SELECT || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no source " INT64_FORMAT,
						range->source_id)));
	row = SPI_tuptable->vals[0];
	range->relid = DatumGetObjectId(SPI_getbinval(row, SPI_tuptable->tupdesc,
												  1, &isnull));
	range->search_path = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
	timeout = SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull);
	range->sql_timeout = isnull ? 0 : DatumGetInt32(timeout);
	range->sql = SPI_getvalue(row, SPI_tuptable->tupdesc, 4);
	if (!get_rel_name(range->relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the attendance table no longer exists")));
	owner_key(&range->key, range->relid);
	if (range->key.ncols == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no primary key any more",
						get_rel_name(range->relid))));
}

static void
execute(Range *range)
{
	Oid			types[3] = {TEXTARRAYOID, TEXTARRAYOID, INT8OID};

	SPI_execute_with_args(range->sql, 3, types, range->args, range->nulls,
						  true, 0);
}

static void
run_as_owner(Range *range, void (*fn) (void *arg))
{
	owner_run(range->relid, range->search_path, OWNER_LOCK_TIMEOUT_MS,
			  range->sql_timeout, fn, range);
}

/* The key of row n of the result, whose key comes first. */
static char *
key_of_row(Range *range, uint64 n)
{
	int			number[INDEX_MAX_KEYS];

	for (int i = 0; i < range->key.ncols; i++)
		number[i] = i + 1;
	return owner_row_key(range->key.ncols, number, SPI_tuptable->vals[n],
						 SPI_tuptable->tupdesc);
}

static void
find_end(void *arg)
{
	Range	   *range = arg;

	execute(range);
	range->end = SPI_processed == 1 ? key_of_row(range, 0) : NULL;
}

static char *
text_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/*
 * rsvp_sync._page_end(source_id bigint, after text, at_most integer): the key
 * that ends a page of so many rows; NULL: there are fewer.
 */
Datum
rsvp_sync_page_end(PG_FUNCTION_ARGS)
{
	Range		range = {PG_GETARG_INT64(0)};
	char	   *after = text_arg(fcinfo, 1);
	MemoryContext caller = CurrentMemoryContext;
	text	   *end = NULL;

	SPI_connect();
	read_range(&range, "rsvp_sync._page_end_query(s, $2)", after != NULL,
			   false);
	set_bound(&range, 0, after);
	set_bound(&range, 1, NULL);
	range.args[2] = Int64GetDatum(PG_GETARG_INT32(2) - 1);
	range.nulls[2] = ' ';
	run_as_owner(&range, find_end);
	if (range.end != NULL)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		end = cstring_to_text(range.end);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	if (end == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(end);
}

/*
 * A column of the result as our text or timestamptz: as it is where it is
 * one, else through its text form, as owner.c has it.
 */
static Datum
page_value(HeapTuple row, TupleDesc columns, int number, Oid wanted,
		   bool *isnull)
{
	Oid			type;
	char	   *text;

	*isnull = true;
	if (number <= 0)
		return (Datum) 0;
	type = TupleDescAttr(columns, number - 1)->atttypid;
	if (type == wanted || (wanted == TEXTOID && type == VARCHAROID))
		return SPI_getbinval(row, columns, number, isnull);
	text = SPI_getvalue(row, columns, number);
	if (text == NULL)
		return (Datum) 0;
	*isnull = false;
	if (wanted == TEXTOID)
		return CStringGetTextDatum(text);
	return DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

/*
 * Columns of the statement: the key, whether the query has the row, the four
 * about what the row was told, then those of the query.
 */
static void
fill_page(void *arg)
{
	Range	   *range = arg;
	TupleDesc	result = range->rsinfo->setDesc;
	TupleDesc	columns;
	int			number[PAGE_NCOLS] = {0};
	MemoryContext per_row = AllocSetContextCreate(CurrentMemoryContext,
												  "rsvp_sync page row",
												  ALLOCSET_DEFAULT_SIZES);

	execute(range);
	columns = SPI_tuptable->tupdesc;
	for (int i = PAGE_PRESENT; i < PAGE_DESIRED; i++)
		number[i] = range->key.ncols + i;
	for (int i = PAGE_DESIRED; i < PAGE_NCOLS; i++)
		number[i] = SPI_fnumber(columns, page_columns[i - PAGE_DESIRED]);
	for (uint64 n = 0; n < SPI_processed; n++)
	{
		HeapTuple	row = SPI_tuptable->vals[n];
		MemoryContext old = MemoryContextSwitchTo(per_row);
		Datum		values[PAGE_NCOLS];
		bool		nulls[PAGE_NCOLS] = {false};

		values[PAGE_KEY] = CStringGetTextDatum(key_of_row(range, n));
		for (int i = PAGE_PRESENT; i < PAGE_NCOLS; i++)
			values[i] = page_value(row, columns, number[i],
								   TupleDescAttr(result, i)->atttypid,
								   &nulls[i]);
		tuplestore_putvalues(range->rsinfo->setResult, result, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_row);
	}
	MemoryContextDelete(per_row);
}

/*
 * rsvp_sync._page(source_id bigint, after text, until text): the rows of the
 * attendance table with keys after the one and up to the other.
 */
Datum
rsvp_sync_page(PG_FUNCTION_ARGS)
{
	Range		range = {PG_GETARG_INT64(0)};
	char	   *after = text_arg(fcinfo, 1);
	char	   *until = text_arg(fcinfo, 2);

	range.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	read_range(&range, "rsvp_sync._page_query(s, $2, $3)", after != NULL,
			   until != NULL);
	set_bound(&range, 0, after);
	set_bound(&range, 1, until);
	range.nulls[2] = 'n';
	run_as_owner(&range, fill_page);
	SPI_finish();
	return (Datum) 0;
}

static void
fill_present(void *arg)
{
	Range	   *range = arg;

	execute(range);
	for (uint64 n = 0; n < SPI_processed; n++)
	{
		Datum		value = CStringGetTextDatum(key_of_row(range, n));
		bool		isnull = false;

		tuplestore_putvalues(range->rsinfo->setResult, range->rsinfo->setDesc,
							 &value, &isnull);
	}
}

/*
 * rsvp_sync._present(source_id bigint, keys text[]): those of the keys for
 * which there is an attendance row, whatever the query says of it.
 */
Datum
rsvp_sync_present(PG_FUNCTION_ARGS)
{
	Range		range = {PG_GETARG_INT64(0)};

	range.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	SPI_connect();
	read_range(&range, "rsvp_sync._present_query(s)", false, false);
	range.args[0] = PG_GETARG_DATUM(1);
	range.nulls[0] = ' ';
	range.nulls[1] = range.nulls[2] = 'n';
	run_as_owner(&range, fill_present);
	SPI_finish();
	return (Datum) 0;
}
