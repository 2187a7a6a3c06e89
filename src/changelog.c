/*-------------------------------------------------------------------------
 *
 * changelog.c
 *		Row triggers that remember which keys may have changed.
 *
 * A trigger only puts (source, key) into a buffer of this backend's memory.
 * Before the transaction commits or is prepared the buffer is appended to
 * rsvp_sync._change_log; after the commit became visible the worker of this
 * database is told.  The log has no index and nobody updates it, so there is
 * nothing on which two transactions could wait for each other or fail, at
 * any isolation level.
 *
 * Entries carry the nesting level of the subtransaction that made them.
 * Levels in the buffer never decrease from front to back, so a subtransaction
 * that rolls back takes entries off the end, and one that commits relabels
 * some at the end.
 *
 * This file runs inside the application's transactions.  It reads system
 * caches and the row at hand, writes to _change_log, and nothing else; it
 * runs no SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "changelog.h"
#include "compat.h"
#include "registry.h"

/* Entries flushed early, so that a bulk load does not fill the memory. */
#define FLUSH_AT		65536
/* Rows a heap_multi_insert gets at once. */
#define INSERT_BATCH	500
/* Nobody waits for one of so many changes made in one transaction. */
#define BULK_KEYS		100

/* Columns of _change_log, in order. */
enum
{
	LOG_SOURCE_ID,
	LOG_KEY,
	LOG_OP,
	LOG_DEP,
	LOG_RELATION,
	LOG_REPEATABLE,
	LOG_BULK,
	LOG_CHANGED_AT,
	LOG_NATTS
};

typedef struct LogEntry
{
	int64		source_id;
	char	   *key;			/* NULL for a truncation */
	char		op;
	int16		dep;
	Oid			relation;		/* the row's table */
	int			level;			/* subtransaction that made it */
	TimestampTz changed_at;
} LogEntry;

/* What of an entry makes it the same as another one. */
typedef struct SeenKey
{
	int64		source_id;
	Oid			relation;
	int16		dep;
	char		op;
	const char *key;
} SeenKey;

typedef struct SeenEntry
{
	SeenKey		key;
	int			index;			/* in the buffer */
} SeenEntry;

/* What a trigger needs to know, found once per statement. */
typedef struct TriggerState
{
	int64		source_id;
	int16		dep;
	Oid			relation;		/* the trigger's table; a partition's own */
	bool		watching;		/* the next two are known */
	bool		all_columns;	/* every column is watched */
	Bitmapset  *watched;		/* attnums, unless all_columns */
	int			nkeys;			/* 0: no primary key */
	AttrNumber	key[INDEX_MAX_KEYS];
	FmgrInfo	output[INDEX_MAX_KEYS];
	bool		pin_settings;	/* a key's text depends on settings */
} TriggerState;

/* The row that the worker is writing back to; NULL: none. */
static int64 muted_source = 0;
static const char *muted_key = NULL;

bool		rsvp_sync_skip = false;

/* The buffer, in a context of the transaction. */
static MemoryContext buffer_context = NULL;
static LogEntry *buffer = NULL;
static int	buffer_used = 0;
static int	buffer_size = 0;
static HTAB *seen = NULL;
static Oid	log_relid = InvalidOid;

/*
 * The level at which the log's lock was taken, 0 if it is not held.  No entry
 * in the buffer is of a lower level: a rollback that takes the lock away has
 * taken the entries, too.
 */
static int	lock_level = 0;

/* Tell the worker once this transaction has committed? */
static bool wake_pending = false;
static bool xact_callback = false;
static bool subxact_callback = false;

PG_FUNCTION_INFO_V1(rsvp_sync_log_change);
PG_FUNCTION_INFO_V1(rsvp_sync_log_truncate);
PG_FUNCTION_INFO_V1(rsvp_sync_wake);
PG_FUNCTION_INFO_V1(rsvp_sync_pending_in_transaction);

static void changelog_xact(XactEvent event, void *arg);
static void changelog_subxact(SubXactEvent event, SubTransactionId mine,
							  SubTransactionId parent, void *arg);

/*
 * Callbacks are registered once per backend; a callback that registers itself
 * per transaction makes every later transaction of the session slower.
 */
static void
register_callbacks(void)
{
	if (!xact_callback)
		RegisterXactCallback(changelog_xact, NULL);
	xact_callback = true;
	if (!subxact_callback)
		RegisterSubXactCallback(changelog_subxact, NULL);
	subxact_callback = true;
}

static uint32
seen_hash(const void *key, Size size)
{
	const SeenKey *k = key;
	uint32		h = hash_bytes((const unsigned char *) k->key,
							   strlen(k->key));

	h = hash_combine(h, murmurhash32(k->relation));
	return hash_combine(h, murmurhash32((uint32) k->source_id ^
										((uint32) k->dep << 16) ^ k->op));
}

static int
seen_match(const void *a, const void *b, Size size)
{
	const SeenKey *x = a;
	const SeenKey *y = b;

	if (x->source_id != y->source_id || x->relation != y->relation ||
		x->dep != y->dep || x->op != y->op)
		return 1;
	return strcmp(x->key, y->key);
}

static HTAB *
make_seen(MemoryContext context)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(SeenKey);
	ctl.entrysize = sizeof(SeenEntry);
	ctl.hash = seen_hash;
	ctl.match = seen_match;
	ctl.hcxt = context;
	return hash_create("rsvp_sync keys of this transaction", 64, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/*
 * Take the lock that the flush will need: now, when the application's
 * statement takes its own locks anyway, so that the commit itself cannot be
 * made to wait.  A rollback to a savepoint may have taken it away again.
 * False if there is no log.
 */
static bool
hold_log(void)
{
	Oid			schema;
	Oid			relid;

	if (lock_level > 0)
		return true;
	Assert(buffer_used == 0);
	schema = get_namespace_oid("rsvp_sync", true);
	if (!OidIsValid(schema))
		return false;
	relid = get_relname_relid("_change_log", schema);
	if (!OidIsValid(relid))
		return false;
	register_callbacks();
	LockRelationOid(relid, RowExclusiveLock);
	log_relid = relid;
	lock_level = GetCurrentTransactionNestLevel();
	return true;
}

/*
 * Make the buffer.  Should memory run out halfway, and the application catch
 * the error, nothing is left: what there is goes with the caller's context.
 */
static void
begin_buffer(void)
{
	MemoryContext context;
	LogEntry   *entries;
	HTAB	   *table;

	if (buffer_context != NULL)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext,
									"rsvp_sync change log",
									ALLOCSET_DEFAULT_SIZES);
	entries = MemoryContextAlloc(context, 64 * sizeof(LogEntry));
	table = make_seen(context);

	MemoryContextSetParent(context, TopTransactionContext);
	buffer = entries;
	buffer_used = 0;
	buffer_size = 64;
	seen = table;
	buffer_context = context;
}

/* The context itself goes with its transaction. */
static void
forget_buffer(void)
{
	buffer_context = NULL;
	buffer = NULL;
	buffer_used = buffer_size = 0;
	seen = NULL;
	log_relid = InvalidOid;
	lock_level = 0;
}

static void
forget_entry(int index)
{
	LogEntry   *entry = &buffer[index];
	SeenKey		key = {entry->source_id, entry->relation, entry->dep, entry->op,
		entry->key ? entry->key : ""};

	hash_search(seen, &key, HASH_REMOVE, NULL);
	if (entry->key)
		pfree(entry->key);
}

static void
fill_row(const LogEntry *entry, bool of_many, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * LOG_NATTS);
	values[LOG_SOURCE_ID] = Int64GetDatum(entry->source_id);
	nulls[LOG_KEY] = entry->key == NULL;
	values[LOG_KEY] = entry->key ? CStringGetTextDatum(entry->key) : (Datum) 0;
	values[LOG_OP] = CharGetDatum(entry->op);
	values[LOG_DEP] = Int16GetDatum(entry->dep);
	values[LOG_RELATION] = ObjectIdGetDatum(entry->relation);
	values[LOG_REPEATABLE] = BoolGetDatum(IsolationUsesXactSnapshot());
	values[LOG_BULK] = BoolGetDatum(of_many);
	values[LOG_CHANGED_AT] = TimestampTzGetDatum(entry->changed_at);
}

/* The common case: one row changed. */
static void
insert_one(Relation log, const LogEntry *entry)
{
	Datum		values[LOG_NATTS];
	bool		nulls[LOG_NATTS];
	HeapTuple	tuple;

	fill_row(entry, false, values, nulls);
	tuple = heap_form_tuple(RelationGetDescr(log), values, nulls);
	simple_heap_insert(log, tuple);
	heap_freetuple(tuple);
}

static void
insert_many(Relation log, const LogEntry *entries, int count)
{
	int			nslots = Min(count, INSERT_BATCH);
	TupleTableSlot **slots = palloc(nslots * sizeof(TupleTableSlot *));
	BulkInsertState bulk = GetBulkInsertState();

	for (int i = 0; i < nslots; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(log),
											&TTSOpsVirtual);
	for (int done = 0; done < count;)
	{
		int			n = Min(count - done, nslots);

		for (int i = 0; i < n; i++)
		{
			ExecClearTuple(slots[i]);
			fill_row(&entries[done + i], count > BULK_KEYS,
					 slots[i]->tts_values, slots[i]->tts_isnull);
			ExecStoreVirtualTuple(slots[i]);
		}
		heap_multi_insert(log, slots, n, GetCurrentCommandId(true), 0, bulk);
		done += n;
	}
	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	FreeBulkInsertState(bulk);
}

/* Append the entries from 'first' on to the log and forget them. */
static void
flush_from(int first)
{
	Relation	log;
	MemoryContext scratch;
	MemoryContext old;
	bool		bare = !ActiveSnapshotSet();

	if (buffer_used <= first)
		return;
	/* DROP EXTENSION in this very transaction leaves nothing to append to. */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(log_relid)))
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext,
									"rsvp_sync flush",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scratch);
	log = table_open(log_relid, RowExclusiveLock);
	/* Before the commit there is none, and a long key may need one. */
	if (bare)
		PushActiveSnapshot(GetTransactionSnapshot());
	if (buffer_used - first == 1)
		insert_one(log, &buffer[first]);
	else
		insert_many(log, &buffer[first], buffer_used - first);
	if (bare)
		PopActiveSnapshot();
	table_close(log, NoLock);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);

	for (int i = first; i < buffer_used; i++)
		forget_entry(i);
	buffer_used = first;
	wake_pending = true;
}

/*
 * A full buffer is flushed at once, but only entries of the subtransaction we
 * are in: rows written now share its fate.
 */
static void
flush_if_full(int level)
{
	int			first = buffer_used;

	if (buffer_used < FLUSH_AT)
		return;
	while (first > 0 && buffer[first - 1].level >= level)
		first--;
	flush_from(first);
}

static void
make_room(void)
{
	int			size = buffer_size * 2;

	if (buffer_used < buffer_size)
		return;
	buffer = repalloc_huge(buffer, size * sizeof(LogEntry));
	buffer_size = size;
}

/*
 * All memory is had before anything is changed: the application may catch the
 * error and go on.
 */
static void
remember(const TriggerState *state, char op, const char *key)
{
	int			level = GetCurrentTransactionNestLevel();
	SeenKey		probe = {state->source_id, state->relation, state->dep, op,
		key ? key : ""};
	SeenEntry  *entry;
	LogEntry   *slot;
	char	   *copy = NULL;

	if (!hold_log())
		return;
	begin_buffer();
	entry = hash_search(seen, &probe, HASH_FIND, NULL);
	if (entry != NULL)
	{
		buffer[entry->index].changed_at = GetCurrentTimestamp();
		return;
	}
	make_room();
	if (key != NULL)
		probe.key = copy = MemoryContextStrdup(buffer_context, key);
	entry = hash_search(seen, &probe, HASH_ENTER, NULL);

	slot = &buffer[buffer_used];
	slot->source_id = state->source_id;
	slot->relation = state->relation;
	slot->dep = state->dep;
	slot->op = op;
	slot->key = copy;
	slot->level = level;
	slot->changed_at = GetCurrentTimestamp();
	entry->index = buffer_used++;
	flush_if_full(level);
}

static void
changelog_xact(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (buffer_context != NULL)
				flush_from(0);
			break;
		case XACT_EVENT_COMMIT:
			forget_buffer();
			if (wake_pending)
				registry_wake(MyDatabaseId);
			wake_pending = false;
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* After COMMIT PREPARED the worker finds it when it polls. */
			forget_buffer();
			wake_pending = false;
			break;
		default:
			break;
	}
}

static void
changelog_subxact(SubXactEvent event, SubTransactionId mine,
				  SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		if (lock_level >= level)
			lock_level = 0;
		while (buffer_used > 0 && buffer[buffer_used - 1].level >= level)
			forget_entry(--buffer_used);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		if (lock_level >= level)
			lock_level = level - 1;
		for (int i = buffer_used; i > 0 && buffer[i - 1].level >= level; i--)
			buffer[i - 1].level = level - 1;
	}
}

/*
 * Settings on which the text of some key types depends.  Key text is the same
 * whatever the session has chosen.
 */
static int
pin_key_settings(void)
{
	static const char *const pinned[][2] = {
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"bytea_output", "hex"},
		{"extra_float_digits", "1"},
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
	return nestlevel;
}

/* Does the type's text depend on no setting? */
static bool
text_is_fixed(Oid type)
{
	static const Oid fixed[] = {
		INT2OID, INT4OID, INT8OID, TEXTOID, VARCHAROID, BPCHAROID, UUIDOID,
		NAMEOID, OIDOID, NUMERICOID, BOOLOID
	};

	for (int i = 0; i < lengthof(fixed); i++)
		if (fixed[i] == type)
			return true;
	return type_is_enum(type);
}

static void
find_key(TriggerState *state, Relation rel, MemoryContext cxt)
{
	Oid			indexid = rel_primary_key(rel);
	Relation	index;

	if (!OidIsValid(indexid))
		return;
	index = index_open(indexid, AccessShareLock);
	state->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < state->nkeys; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];
		Oid			type = getBaseType(TupleDescAttr(RelationGetDescr(rel),
													 attnum - 1)->atttypid);
		Oid			output;
		bool		varlena;

		state->key[i] = attnum;
		getTypeOutputInfo(type, &output, &varlena);
		fmgr_info_cxt(output, &state->output[i], cxt);
		if (!text_is_fixed(type))
			state->pin_settings = true;
	}
	index_close(index, NoLock);
}

/*
 * Which columns matter.  Names that no longer exist widen the set, never
 * narrow it: after a rename we log too much, not too little.
 */
static void
find_watched(TriggerState *state, Trigger *trigger, Relation rel,
			 MemoryContext cxt)
{
	bool		watch = strcmp(trigger->tgargs[2], "watch") == 0;
	Bitmapset  *named = NULL;
	MemoryContext old = MemoryContextSwitchTo(cxt);

	for (int i = 3; i < trigger->tgnargs; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel),
										trigger->tgargs[i]);

		if (attnum > 0)
			named = bms_add_member(named, attnum);
		else if (watch)
			state->all_columns = true;
	}
	for (int i = 0; i < state->nkeys; i++)
		if (watch)
			named = bms_add_member(named, state->key[i]);
	if (watch)
		state->watched = named;
	else
		for (int i = 1; i <= RelationGetNumberOfAttributes(rel); i++)
			if (!bms_is_member(i, named))
				state->watched = bms_add_member(state->watched, i);
	MemoryContextSwitchTo(old);
}

/* A trigger's FmgrInfo lives as long as its statement, and so does this. */
static TriggerState *
trigger_state(FunctionCallInfo fcinfo, TriggerData *data)
{
	TriggerState *state = fcinfo->flinfo->fn_extra;
	Trigger    *trigger = data->tg_trigger;
	MemoryContext cxt = fcinfo->flinfo->fn_mcxt;

	if (state != NULL)
		return state;
	if (trigger->tgnargs < 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" was not made by rsvp_sync.attach()",
						trigger->tgname)));
	state = MemoryContextAllocZero(cxt, sizeof(TriggerState));
	state->source_id = strtoll(trigger->tgargs[0], NULL, 10);
	state->dep = (int16) atoi(trigger->tgargs[1]);
	state->relation = RelationGetRelid(data->tg_relation);
	if (trigger->tgnargs > 2)
		find_key(state, data->tg_relation, cxt);
	fcinfo->flinfo->fn_extra = state;
	return state;
}

/* The same stored value, without fetching what is stored out of line? */
static bool
same_toast_pointer(Datum a, Datum b)
{
	struct varlena *x = (struct varlena *) DatumGetPointer(a);
	struct varlena *y = (struct varlena *) DatumGetPointer(b);

	return VARATT_IS_EXTERNAL_ONDISK(x) && VARATT_IS_EXTERNAL_ONDISK(y) &&
		memcmp(x, y, VARSIZE_EXTERNAL(x)) == 0;
}

static bool
column_differs(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(old->tts_tupleDescriptor,
										  attnum - 1);
	bool		oldnull;
	bool		newnull;
	Datum		x = slot_getattr(old, attnum, &oldnull);
	Datum		y = slot_getattr(new, attnum, &newnull);

	if (att->attisdropped)
		return false;
	if (oldnull || newnull)
		return oldnull != newnull;
	if (att->attlen == -1 && same_toast_pointer(x, y))
		return false;
	return !datum_image_eq(x, y, att->attbyval, att->attlen);
}

static bool
row_differs(TriggerState *state, TriggerData *data, MemoryContext cxt)
{
	int			natts = data->tg_trigslot->tts_tupleDescriptor->natts;

	if (!state->watching && data->tg_trigger->tgnargs > 2)
		find_watched(state, data->tg_trigger, data->tg_relation, cxt);
	state->watching = true;
	for (AttrNumber i = 1; i <= natts; i++)
	{
		if (!state->all_columns && !bms_is_member(i, state->watched))
			continue;
		if (column_differs(data->tg_trigslot, data->tg_newslot, i))
			return true;
	}
	return false;
}

/* The key as text; a composite one is a JSON array of texts. */
static char *
key_text(TriggerState *state, TupleTableSlot *slot)
{
	StringInfoData array;
	int			nestlevel = state->pin_settings ? pin_key_settings() : 0;
	char	   *text = NULL;

	initStringInfo(&array);
	for (int i = 0; i < state->nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, state->key[i], &isnull);

		text = OutputFunctionCall(&state->output[i], value);
		if (state->nkeys == 1)
			break;
		appendStringInfoString(&array, i == 0 ? "[" : ", ");
		escape_json(&array, text);
	}
	if (state->nkeys > 1)
	{
		appendStringInfoChar(&array, ']');
		text = array.data;
	}
	if (nestlevel)
		AtEOXact_GUC(true, nestlevel);
	return text;
}

void
changelog_mute(int64 source_id, const char *key)
{
	muted_source = source_id;
	muted_key = key;
}

/* 1: fired by a statement; more: by one of another trigger's. */
static int
trigger_depth(void)
{
	return DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH));
}

static bool
is_muted(TriggerState *state, const char *key)
{
	return muted_key != NULL && state->dep == 0 &&
		state->source_id == muted_source && strcmp(key, muted_key) == 0 &&
		trigger_depth() <= 1;
}

static void
log_row(TriggerState *state, TupleTableSlot *slot)
{
	char		op = state->dep ? 'd' : rsvp_sync_skip ? 'n' : 'c';
	char	   *key;

	/*
	 * Without a primary key there is no name for the row.  The marker makes
	 * the worker look at the source, which it will find broken.
	 */
	if (state->nkeys == 0)
	{
		remember(state, 'b', NULL);
		return;
	}
	key = key_text(state, slot);
	if (!is_muted(state, key))
		remember(state, op, key);
}

/*
 * rsvp_sync._log_change(): AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
 * Arguments: source id, dependency (0 for the attendance table itself),
 * 'watch' or 'ignore', column names.
 */
Datum
rsvp_sync_log_change(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TriggerState *state;
	char	   *before;
	char	   *after;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called by an AFTER ROW trigger",
						"rsvp_sync._log_change()")));
	state = trigger_state(fcinfo, data);
	if (!TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		log_row(state, data->tg_trigslot);
	else if (row_differs(state, data, fcinfo->flinfo->fn_mcxt))
	{
		log_row(state, data->tg_newslot);
		if (state->nkeys > 0)
		{
			before = key_text(state, data->tg_trigslot);
			after = key_text(state, data->tg_newslot);
			if (strcmp(before, after) != 0)
				log_row(state, data->tg_trigslot);
		}
	}
	return PointerGetDatum(NULL);
}

/* rsvp_sync._log_truncate(): AFTER TRUNCATE; one marker. */
Datum
rsvp_sync_log_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TriggerState *state;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called by a TRUNCATE trigger",
						"rsvp_sync._log_truncate()")));
	state = trigger_state(fcinfo, data);
	remember(state, 't', NULL);
	return PointerGetDatum(NULL);
}

/*
 * rsvp_sync._wake(): statement trigger on _change_log itself, for rows that
 * SQL functions insert; the flush above does not fire it.
 */
Datum
rsvp_sync_wake(PG_FUNCTION_ARGS)
{
	register_callbacks();
	wake_pending = true;
	return PointerGetDatum(NULL);
}

/* Has this transaction itself put keys in that only its commit will show? */
Datum
rsvp_sync_pending_in_transaction(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(buffer_used > 0 || wake_pending);
}
