/*-------------------------------------------------------------------------
 *
 * find.c
 *		find_attendees_by_metadata(): attendees by what their metadata says.
 *
 * One indexed statement per attached table, metadata @> {key: value}, run as
 * the caller: grants and row security are the executor's business as in any
 * query of his.  Key and value are parameters; of the text of a statement
 * only names are made (find_source.c).
 *
 * The planner does not know that hardly any row matches; of a value it has
 * not seen it expects one row in a hundred, and might then read the table or
 * compile the statement.  So it is told not to.
 *
 * Under row security @> may not look at a row before the policy has, so no
 * index is of use to it.  There the owner of the table is asked first where
 * the rows are, and the caller's statement then goes to these places: the
 * policies decide about them, and about them only.
 *
 * May touch: reads application tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "find.h"
#include "owner.h"

/* What numeric can hold: digits before and after the decimal point. */
#define NUMBER_MAX_DIGITS	131072
#define NUMBER_MAX_FRACTION	16383

/* One call of the public function. */
typedef struct FindCall
{
	Oid			function;
	FindForm	form;
	ReturnSetInfo *rsinfo;
	int			readings;
	Datum		reading[FIND_READINGS];
	const char *user_id;		/* NULL: everybody's */
} FindCall;

/* Where the rows of a statement go. */
typedef struct FindReceiver
{
	DestReceiver pub;
	FindCall   *call;
	FindSource *source;
	MemoryContext per_row;
} FindReceiver;

PG_FUNCTION_INFO_V1(rsvp_sync_find);
PG_FUNCTION_INFO_V1(rsvp_sync_find_bigint);
PG_FUNCTION_INFO_V1(rsvp_sync_find_rows);
PG_FUNCTION_INFO_V1(rsvp_sync_find_rows_bigint);

/*
 * What is sought
 */

/* Can the text of a JSON number be a numeric?  A jsonb holds no other. */
static bool
number_fits(const char *text)
{
	const char *digits = text + (*text == '-');
	size_t		whole = strspn(digits, "0123456789");
	size_t		fraction = 0;
	const char *rest = digits + whole;
	long		exponent = 0;

	if (*rest == '.')
	{
		fraction = strspn(rest + 1, "0123456789");
		rest += 1 + fraction;
	}
	if (*rest != '\0')
		exponent = strtol(rest + 1, NULL, 10);
	return whole <= NUMBER_MAX_DIGITS && fraction <= NUMBER_MAX_DIGITS &&
		labs(exponent) <= NUMBER_MAX_DIGITS &&
		(long) whole + exponent <= NUMBER_MAX_DIGITS &&
		(long) fraction - exponent <= NUMBER_MAX_FRACTION;
}

/* {key: value} */
static Datum
sought(const JsonbValue *key, const JsonbValue *value)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;
	JsonbValue	part;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	part = *key;
	pushJsonbValue(&state, WJB_KEY, &part);
	part = *value;
	pushJsonbValue(&state, WJB_VALUE, &part);
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

static void
text_value(JsonbValue *value, text *given)
{
	value->type = jbvString;
	value->val.string.val = VARDATA_ANY(given);
	value->val.string.len = VARSIZE_ANY_EXHDR(given);
}

/*
 * The readings of a value: it is a text, and may be a number or a boolean.
 * None, if it is longer than any that a jsonb can hold.
 */
static void
read_value(FindCall *call, text *key, text *value)
{
	JsonbValue	k;
	JsonbValue	v;
	char	   *word;

	if (VARSIZE_ANY_EXHDR(key) > JENTRY_OFFLENMASK ||
		VARSIZE_ANY_EXHDR(value) > JENTRY_OFFLENMASK)
		return;
	text_value(&k, key);
	text_value(&v, value);
	call->reading[call->readings++] = sought(&k, &v);

	word = text_to_cstring(value);
	if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)
	{
		v.type = jbvBool;
		v.val.boolean = word[0] == 't';
	}
	else if (IsValidJsonNumber(word, strlen(word)) && number_fits(word))
	{
		v.type = jbvNumeric;
		v.val.numeric =
			DatumGetNumeric(DirectFunctionCall3(numeric_in,
												CStringGetDatum(word),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1)));
	}
	else
		return;
	call->reading[call->readings++] = sought(&k, &v);
}

/*
 * What is found
 */

/*
 * Some columns as one text, several as a JSON array of texts; NULL if there
 * are none or one of them is null.
 */
static char *
columns_text(FindColumns *columns, TupleTableSlot *slot, int first)
{
	StringInfoData array;

	if (columns->ncolumns == 0)
		return NULL;
	initStringInfo(&array);
	for (int i = 0; i < columns->ncolumns; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, first + i, &isnull);
		char	   *part;

		if (isnull)
			return NULL;
		part = OutputFunctionCall(&columns->output[i], value);
		if (columns->ncolumns == 1)
			return part;
		appendStringInfoString(&array, i == 0 ? "[" : ", ");
		escape_json(&array, part);
	}
	appendStringInfoChar(&array, ']');
	return array.data;
}

/* Is it the user whose rows are sought? */
static bool
user_matches(FindReceiver *self, const char *user)
{
	const char *wanted = self->call->user_id;

	if (wanted == NULL)
		return true;
	if (self->source->columns[FIND_USER].ncolumns == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("it is not known which column of table \"%s\" is the"
						" user's id", get_rel_name(self->source->relid)),
				 errhint("Leave user_id out, and look at the rows that are"
						 " found.")));
	return user != NULL && strcmp(user, wanted) == 0;
}

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

/* source_id, attendance, tenant, attendance_id, event_id, user_id, … */
static void
put_listed(FindReceiver *self, TupleTableSlot *slot)
{
	FindSource *source = self->source;
	ReturnSetInfo *rsinfo = self->call->rsinfo;
	char	   *text[FIND_GROUPS];
	Datum		values[FIND_GROUPS + 4];
	bool		nulls[FIND_GROUPS + 4] = {false};
	int			column = 1;

	for (int i = 0; i < FIND_GROUPS; i++)
	{
		text[i] = columns_text(&source->columns[i], slot, column);
		column += source->columns[i].ncolumns;
	}
	if (!user_matches(self, text[FIND_USER]))
		return;
	values[0] = Int64GetDatum(source->source_id);
	values[1] = ObjectIdGetDatum(source->relid);
	values[2] = PointerGetDatum(source->tenant);
	for (int i = 0; i < FIND_GROUPS; i++)
		values[3 + i] = text_or_null(text[i], &nulls[3 + i]);
	values[3 + FIND_GROUPS] = slot_getattr(slot, column,
										   &nulls[3 + FIND_GROUPS]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_row(FindReceiver *self, TupleTableSlot *slot)
{
	FindColumns *user = &self->source->columns[FIND_USER];
	HeapTupleHeader header;
	HeapTupleData tuple;
	bool		isnull;

	if (!user_matches(self, columns_text(user, slot, 1)))
		return;
	header = DatumGetHeapTupleHeader(slot_getattr(slot, user->ncolumns + 1,
												  &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	tuplestore_puttuple(self->call->rsinfo->setResult, &tuple);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *receiver)
{
	FindReceiver *self = (FindReceiver *) receiver;
	MemoryContext old = MemoryContextSwitchTo(self->per_row);

	if (self->call->form == FIND_ROWS)
		put_row(self, slot);
	else
		put_listed(self, slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(self->per_row);
	return true;
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc columns)
{
}

static void
receive_end(DestReceiver *self)
{
}

/*
 * Asking
 */

static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* How a statement is planned; and how keys are written, where that matters. */
static int
enter_settings(FindSource *source, FindForm form)
{
	int			level = NewGUCNestLevel();

	set("enable_seqscan", "off");
	set("enable_bitmapscan", "on");
	set("jit", "off");
	if (form == FIND_LISTED && source->pin_settings)
	{
		set("DateStyle", "ISO, YMD");
		set("IntervalStyle", "postgres");
		set("TimeZone", "UTC");
		set("bytea_output", "hex");
		set("extra_float_digits", "1");
	}
	return level;
}

/* Run a statement; dest NULL: leave the rows in SPI_tuptable. */
static void
run(FindCall *call, FindSource *source, FindForm form, ArrayType *tids,
	DestReceiver *dest)
{
	ParamListInfo params = makeParamList(FIND_READINGS + 1);
	int			level = enter_settings(source, form);
	SPIPlanPtr	plan = find_source_plan(source, form, call->readings,
										tids != NULL);
	SPIExecuteOptions options = {
		.params = params,
		.read_only = true,
		.dest = dest
	};

	params->numParams = call->readings + (tids != NULL);
	for (int i = 0; i < params->numParams; i++)
	{
		bool		reading = i < call->readings;

		params->params[i].value = reading ? call->reading[i] :
			PointerGetDatum(tids);
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = reading ? JSONBOID : TIDARRAYOID;
	}
	SPI_execute_plan_extended(plan, &options);
	AtEOXact_GUC(true, level);
}

/* Where the rows are, asked as the table's owner. */
static ArrayType *
places(FindCall *call, FindSource *source)
{
	OwnerScope	scope;
	Datum	   *tids;
	bool		isnull;

	owner_enter(&scope, source->relid, "pg_catalog, pg_temp", 0, 0);
	run(call, source, FIND_TIDS, NULL, NULL);
	owner_leave(&scope);
	tids = palloc(sizeof(Datum) * (SPI_processed + 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		tids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								1, &isnull);
	return construct_array(tids, SPI_processed, TIDOID,
						   sizeof(ItemPointerData), false, TYPALIGN_SHORT);
}

static void
require_index(FindCall *call, FindSource *source)
{
	if (source->metadata == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no jsonb column for metadata",
						get_rel_name(source->relid)),
				 errhint("Name it with option \"metadata\" of"
						 " rsvp_sync.attach().")));
	if (!source->indexed)
	{
		/* Ask again next time: a child's new index is not told to us. */
		source->stale = true;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no valid index by which metadata can"
						" be found", get_rel_name(source->relid)),
				 errhint("%s", find_source_index_ddl(source,
													 call->function))));
	}
}

/*
 * Does a policy stand between the caller and the rows, but not between the
 * owner and them?  The owner has policies against himself, if forced.  And
 * a ctid is none of the columns that can be granted one by one.
 */
static bool
needs_places(Oid relid)
{
	HeapTuple	tuple;
	Oid			owner;

	if (check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED ||
		pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return check_enable_rls(relid, owner, true) != RLS_ENABLED;
}

/* All rows of a source; it has to be acquired. */
static void
search(FindCall *call, FindSource *source)
{
	FindReceiver receiver = {
		.pub = {receive_row, receive_startup, receive_end, receive_end,
		DestNone},
		.call = call,
		.source = source
	};
	ArrayType  *tids = NULL;

	require_index(call, source);
	if (needs_places(source->relid))
		tids = places(call, source);
	receiver.per_row = AllocSetContextCreate(CurrentMemoryContext,
											 "rsvp_sync found row",
											 ALLOCSET_SMALL_SIZES);
	run(call, source, call->form, tids, &receiver.pub);
	MemoryContextDelete(receiver.per_row);
}

/* False: the table is not attached, or not there any more. */
static bool
search_table(FindCall *call, Oid relid)
{
	FindSource *source;

	LockRelationOid(relid, AccessShareLock);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return false;
	source = find_source_acquire(relid, call->function);
	if (source == NULL)
		return false;
	PG_TRY();
	{
		if (call->form == FIND_ROWS || source->metadata != InvalidAttrNumber)
			search(call, source);
	}
	PG_FINALLY();
	{
		find_source_release(source);
	}
	PG_END_TRY();
	return true;
}

/* By a grant on the table, or on each of its columns. */
static bool
may_read(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ALL) == ACLCHECK_OK;
}

/* Every table that the caller may read. */
static void
search_all(FindCall *call)
{
	ListCell   *cell;

	foreach(cell, find_source_list(call->function))
	{
		Oid			relid = lfirst_oid(cell);
		Oid			schema = get_rel_namespace(relid);

		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(schema) && may_read(relid) &&
			compat_may_use_schema(schema, GetUserId()))
			search_table(call, relid);
	}
}

/* The table whose row type this is. */
static Oid
table_of_type(Oid type)
{
	Oid			relid = get_typ_typrelid(getBaseType(type));
	char		kind = OidIsValid(relid) ? get_rel_relkind(relid) : '\0';

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not the row type of a table",
						format_type_be(type)),
				 errhint("Say which attendance table is meant, for example"
						 " NULL::app.attendance.")));
	return relid;
}

static void
search_one(FindCall *call, Oid relid)
{
	const char *name;

	if (!may_read(relid))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
	if (search_table(call, relid))
		return;
	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table %s is not attached", name),
			 errhint("Attach it: SELECT rsvp_sync.attach(%s).",
					 quote_literal_cstr(name))));
}

/* first: the number of the argument "key" */
static Datum
find(FunctionCallInfo fcinfo, FindForm form, int first, char *user_id)
{
	FindCall	call = {
		.function = fcinfo->flinfo->fn_oid,
		.form = form,
		.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,
		.user_id = user_id
	};

	Oid			relid = InvalidOid;

	if (form == FIND_ROWS)
		relid = table_of_type(get_fn_expr_argtype(fcinfo->flinfo, 0));
	/* The caller has described the rows already. */
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(first) || PG_ARGISNULL(first + 1))
		return (Datum) 0;
	read_value(&call, PG_GETARG_TEXT_PP(first), PG_GETARG_TEXT_PP(first + 1));
	if (call.readings == 0)
		return (Datum) 0;
	SPI_connect();
	if (form == FIND_ROWS)
		search_one(&call, relid);
	else
		search_all(&call);
	SPI_finish();
	return (Datum) 0;
}

static char *
text_user(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
bigint_user(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : psprintf(INT64_FORMAT, PG_GETARG_INT64(n));
}

/* (key text, value text, user_id text) */
Datum
rsvp_sync_find(PG_FUNCTION_ARGS)
{
	return find(fcinfo, FIND_LISTED, 0, text_user(fcinfo, 2));
}

/* (key text, value text, user_id bigint) */
Datum
rsvp_sync_find_bigint(PG_FUNCTION_ARGS)
{
	return find(fcinfo, FIND_LISTED, 0, bigint_user(fcinfo, 2));
}

/* (row_type anyelement, key text, value text, user_id text) */
Datum
rsvp_sync_find_rows(PG_FUNCTION_ARGS)
{
	return find(fcinfo, FIND_ROWS, 1, text_user(fcinfo, 3));
}

/* (row_type anyelement, key text, value text, user_id bigint) */
Datum
rsvp_sync_find_rows_bigint(PG_FUNCTION_ARGS)
{
	return find(fcinfo, FIND_ROWS, 1, bigint_user(fcinfo, 3));
}
