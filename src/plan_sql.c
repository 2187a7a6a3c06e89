/*-------------------------------------------------------------------------
 *
 * plan_sql.c
 *		rsvp_sync.plan(situation) as SQL sees it.
 *
 * Turns a composite value into a Situation and a Decision into one; touches
 * nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/typcache.h"

#include "plan.h"

typedef enum FieldKind
{
	FIELD_BOOL,
	FIELD_TEXT
} FieldKind;

typedef struct Field
{
	FieldKind	kind;
	size_t		offset;
} Field;

#define S_BOOL(f)	{FIELD_BOOL, offsetof(Situation, f)}
#define S_TEXT(f)	{FIELD_TEXT, offsetof(Situation, f)}
#define D_BOOL(f)	{FIELD_BOOL, offsetof(Decision, f)}
#define D_TEXT(f)	{FIELD_TEXT, offsetof(Decision, f)}

static const Field situation_fields[] = {
	S_BOOL(present), S_TEXT(withheld), S_TEXT(on_withheld), S_BOOL(has_did),
	S_BOOL(did_valid), S_BOOL(has_event), S_BOOL(event_valid),
	S_BOOL(mapped), S_TEXT(local), S_BOOL(past), S_BOOL(by_network),
	S_BOOL(known), S_BOOL(same_slot), S_TEXT(bond), S_BOOL(wrote),
	S_TEXT(base_local), S_TEXT(base_cid), S_TEXT(sent_local),
	S_TEXT(first_local), S_BOOL(doubt), S_BOOL(rival), S_BOOL(heir),
	S_BOOL(remote_known), S_TEXT(remote_rkey), S_TEXT(remote_cid),
	S_TEXT(remote_status), S_BOOL(remote_sent), S_BOOL(listed),
	S_BOOL(local_newer), S_TEXT(account), S_BOOL(granted),
	S_TEXT(on_cancel), S_TEXT(on_delete), S_TEXT(conflict),
	S_BOOL(detaching), S_BOOL(truncated), S_BOOL(approved),
	S_BOOL(over_limit)
};

static const Field decision_fields[] = {
	D_TEXT(action), D_TEXT(state), D_TEXT(reason_code), D_TEXT(send),
	D_TEXT(bond), D_TEXT(rkey), D_TEXT(swap), D_TEXT(base_local),
	D_TEXT(base_cid), D_BOOL(confirmed), D_BOOL(withdraws), D_BOOL(live)
};

PG_FUNCTION_INFO_V1(rsvp_sync_plan);

/* NULL booleans are false. */
static void
read_situation(HeapTupleHeader header, Situation *s)
{
	TupleDesc	desc =
		lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
							   HeapTupleHeaderGetTypMod(header));
	Datum		values[lengthof(situation_fields)];
	bool		nulls[lengthof(situation_fields)];
	HeapTupleData tuple;

	if (desc->natts != lengthof(situation_fields))
		elog(ERROR, "type situation does not fit this library");
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	ReleaseTupleDesc(desc);

	for (int i = 0; i < lengthof(situation_fields); i++)
	{
		char	   *field = (char *) s + situation_fields[i].offset;

		if (situation_fields[i].kind == FIELD_BOOL)
			*(bool *) field = !nulls[i] && DatumGetBool(values[i]);
		else
			*(const char **) field = nulls[i] ? NULL :
				TextDatumGetCString(values[i]);
	}
}

Datum
rsvp_sync_plan(PG_FUNCTION_ARGS)
{
	Situation	situation;
	Decision	decision;
	TupleDesc	desc;
	Datum		values[lengthof(decision_fields)];
	bool		nulls[lengthof(decision_fields)];

	read_situation(PG_GETARG_HEAPTUPLEHEADER(0), &situation);
	plan_decide(&situation, &decision);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != lengthof(decision_fields))
		elog(ERROR, "type decision does not fit this library");
	for (int i = 0; i < lengthof(decision_fields); i++)
	{
		const char *field = (const char *) &decision +
			decision_fields[i].offset;

		nulls[i] = false;
		if (decision_fields[i].kind == FIELD_BOOL)
			values[i] = BoolGetDatum(*(const bool *) field);
		else if (*(const char *const *) field == NULL)
			nulls[i] = true;
		else
			values[i] = CStringGetTextDatum(*(const char *const *) field);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}
