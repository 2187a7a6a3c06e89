/*-------------------------------------------------------------------------
 *
 * page.c
 *		A source read piece by piece, in the order of its primary key.
 *
 * The attendance table and the desired query over one range of keys, joined
 * by the application's own server as the table's owner: what a slice of a
 * comparison looks at.  The texts are made in sql/53-reconcile.sql; each is
 * planned for its range, since a range is large and the planning is not.  Rows
 * are handed on as they come, and kept nowhere.
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
#include "nodes/params.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "owner.h"
#include "page.h"

PG_FUNCTION_INFO_V1(rsvp_sync_page_end);
PG_FUNCTION_INFO_V1(rsvp_sync_page);
PG_FUNCTION_INFO_V1(rsvp_sync_present);

/* Columns of _page() */
enum
{
	PAGE_KEY, PAGE_PRESENT, PAGE_TELLABLE, PAGE_TEXTS,
	PAGE_TIMES = PAGE_TEXTS + PAGE_NTEXTS,
	PAGE_NCOLS = PAGE_TIMES + PAGE_NTIMES
};

/* Those of the query are found by name, the others by their place. */
static const char *const query_columns[] = {
	"did", "event_uri", "status", "withheld", "on_withheld", "starts_at",
	"ends_at"
};

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
run_as_owner(Range *range, void (*fn) (void *arg), void *arg)
{
	owner_run(range->relid, range->search_path, OWNER_LOCK_TIMEOUT_MS,
			  range->sql_timeout, fn, arg);
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
	run_as_owner(&range, find_end, &range);
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

/* A column of the result; number 0: the query has none of that name. */
typedef struct PageColumn
{
	int			number;
	bool		as_it_is;		/* it is a text or timestamptz already */
	FmgrInfo	output;
} PageColumn;

/* Takes the rows of a page as the executor has them. */
typedef struct PageReceiver
{
	DestReceiver pub;
	Range	   *range;
	MemoryContext context;		/* of what lives as long as the page */
	MemoryContext per_row;
	PageColumn	key[INDEX_MAX_KEYS];
	PageColumn	text[PAGE_NTEXTS];
	PageColumn	time[PAGE_NTIMES];
	PageReader	fn;
	void	   *arg;
} PageReceiver;

static void
find_column(PageReceiver *receiver, PageColumn *column, TupleDesc columns,
			int number, Oid wanted)
{
	Oid			type;
	Oid			output;
	bool		varlena;

	column->number = number;
	if (number <= 0)
		return;
	type = TupleDescAttr(columns, number - 1)->atttypid;
	column->as_it_is = type == wanted ||
		(wanted == TEXTOID && type == VARCHAROID);
	getTypeOutputInfo(type, &output, &varlena);
	fmgr_info_cxt(output, &column->output, receiver->context);
}

/*
 * Columns of the statement: the key, whether the query has the row, the four
 * about what the row was told, then those of the query.
 */
static void
begin_page(DestReceiver *self, int operation, TupleDesc columns)
{
	PageReceiver *receiver = (PageReceiver *) self;
	int			nkeys = receiver->range->key.ncols;

	for (int i = 0; i < nkeys; i++)
		find_column(receiver, &receiver->key[i], columns, i + 1, InvalidOid);
	for (int i = 0; i < PAGE_NTEXTS; i++)
		find_column(receiver, &receiver->text[i], columns, i < PAGE_DID ?
					nkeys + PAGE_TEXTS + i : SPI_fnumber(columns,
														 query_columns[i - PAGE_DID]),
					TEXTOID);
	for (int i = 0; i < PAGE_NTIMES; i++)
		find_column(receiver, &receiver->time[i], columns,
					SPI_fnumber(columns,
								query_columns[PAGE_NTEXTS - PAGE_DID + i]),
					TIMESTAMPTZOID);
}

static bool
is_true(TupleTableSlot *slot, int number)
{
	return !slot->tts_isnull[number - 1] &&
		DatumGetBool(slot->tts_values[number - 1]);
}

static Slice
page_text(PageColumn *column, TupleTableSlot *slot)
{
	Datum		value;
	struct varlena *text;
	char	   *out;

	if (column->number <= 0 || slot->tts_isnull[column->number - 1])
		return (Slice) {NULL, 0};
	value = slot->tts_values[column->number - 1];
	if (column->as_it_is)
	{
		text = PG_DETOAST_DATUM_PACKED(value);
		return (Slice) {VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)};
	}
	out = OutputFunctionCall(&column->output, value);
	return (Slice) {out, strlen(out)};
}

/* Through its text form where it is no timestamptz, as owner.c has it. */
static NullableDatum
page_time(PageColumn *column, TupleTableSlot *slot)
{
	NullableDatum time = {.isnull = true};

	if (column->number <= 0 || slot->tts_isnull[column->number - 1])
		return time;
	time.isnull = false;
	time.value = slot->tts_values[column->number - 1];
	if (!column->as_it_is)
		time.value =
			DirectFunctionCall3(timestamptz_in,
								CStringGetDatum(OutputFunctionCall(&column->output,
																   time.value)),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1));
	return time;
}

static Slice
page_key(PageReceiver *receiver, TupleTableSlot *slot)
{
	int			nkeys = receiver->range->key.ncols;
	char	   *parts[INDEX_MAX_KEYS];
	char	   *key;

	for (int i = 0; i < nkeys; i++)
		parts[i] = OutputFunctionCall(&receiver->key[i].output,
									  slot->tts_values[i]);
	key = owner_join_key(nkeys, parts);
	return (Slice) {key, strlen(key)};
}

static bool
take_row(TupleTableSlot *slot, DestReceiver *self)
{
	PageReceiver *receiver = (PageReceiver *) self;
	int			nkeys = receiver->range->key.ncols;
	MemoryContext old;
	PageRow		row;

	slot_getallattrs(slot);
	MemoryContextReset(receiver->per_row);
	old = MemoryContextSwitchTo(receiver->per_row);
	row.key = page_key(receiver, slot);
	row.present = is_true(slot, nkeys + PAGE_PRESENT);
	row.tellable = is_true(slot, nkeys + PAGE_TELLABLE);
	for (int i = 0; i < PAGE_NTEXTS; i++)
		row.text[i] = page_text(&receiver->text[i], slot);
	for (int i = 0; i < PAGE_NTIMES; i++)
		row.time[i] = page_time(&receiver->time[i], slot);
	receiver->fn(receiver->arg, &row);
	MemoryContextSwitchTo(old);
	return true;
}

/* The receiver is a variable of page_read(): nothing is to be given back. */
static void
end_page(DestReceiver *self)
{
}

static void
execute_page(void *arg)
{
	PageReceiver *receiver = arg;
	Range	   *range = receiver->range;
	SPIExecuteOptions options = {
		.read_only = true, .dest = &receiver->pub
	};
	ParamListInfo params = makeParamList(2);

	for (int i = 0; i < 2; i++)
	{
		params->params[i].value = range->args[i];
		params->params[i].isnull = range->nulls[i] == 'n';
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = TEXTARRAYOID;
	}
	options.params = params;
	SPI_execute_extended(range->sql, &options);
}

/*
 * The rows of the attendance table with keys after the one and up to the
 * other (NULL: no bound), each handed to fn.
 */
void
page_read(int64 source_id, const char *after, const char *until,
		  PageReader fn, void *arg)
{
	Range		range = {source_id};
	PageReceiver receiver = {
		.pub = {
			.receiveSlot = take_row, .rStartup = begin_page,
			.rShutdown = end_page, .rDestroy = end_page,
			.mydest = DestTuplestore
		},
		.range = &range, .fn = fn, .arg = arg
	};

	SPI_connect();
	receiver.context = CurrentMemoryContext;
	receiver.per_row = AllocSetContextCreate(CurrentMemoryContext,
											 "rsvp_sync page row",
											 ALLOCSET_DEFAULT_SIZES);
	read_range(&range, "rsvp_sync._page_query(s, $2, $3)", after != NULL,
			   until != NULL);
	set_bound(&range, 0, after);
	set_bound(&range, 1, until);
	run_as_owner(&range, execute_page, &receiver);
	SPI_finish();
}

static void
emit_row(void *arg, const PageRow *row)
{
	ReturnSetInfo *rsinfo = arg;
	Datum		values[PAGE_NCOLS];
	bool		nulls[PAGE_NCOLS] = {false};

	values[PAGE_KEY] =
		PointerGetDatum(cstring_to_text_with_len(row->key.data, row->key.len));
	values[PAGE_PRESENT] = BoolGetDatum(row->present);
	values[PAGE_TELLABLE] = BoolGetDatum(row->tellable);
	for (int i = 0; i < PAGE_NTEXTS; i++)
	{
		nulls[PAGE_TEXTS + i] = row->text[i].data == NULL;
		if (row->text[i].data != NULL)
			values[PAGE_TEXTS + i] =
				PointerGetDatum(cstring_to_text_with_len(row->text[i].data,
														 row->text[i].len));
	}
	for (int i = 0; i < PAGE_NTIMES; i++)
	{
		values[PAGE_TIMES + i] = row->time[i].value;
		nulls[PAGE_TIMES + i] = row->time[i].isnull;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* rsvp_sync._page(source_id bigint, after text, until text) */
Datum
rsvp_sync_page(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	page_read(PG_GETARG_INT64(0), text_arg(fcinfo, 1), text_arg(fcinfo, 2),
			  emit_row, fcinfo->resultinfo);
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
	run_as_owner(&range, fill_present, &range);
	SPI_finish();
	return (Datum) 0;
}
