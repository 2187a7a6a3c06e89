/*-------------------------------------------------------------------------
 *
 * apply_rows.c
 *		RSVPs made elsewhere into the attendance of a recognised schema.
 *
 * A batch goes through it step by step, each step one statement for all:
 * events, users, the users to be created, attendance, who may come, and at
 * last one UPDATE and one INSERT.  The statements are generated
 * (sql/56-apply-statements.sql); what status a row gets is decided in
 * admit.c.  Runs as the table's owner, within apply.c's subtransaction.
 *
 * Two of us must not create the same user or the same row, nor take the same
 * last place, and the application need not have a unique constraint: who is
 * about to do one of these takes a lock of ours first, and looks again.  The
 * locks are taken kind by kind, and within a kind in order.  A row that is
 * there already is changed only while it has the status that was decided
 * upon; what came in between makes the batch fail, and its RSVPs are taken
 * one by one.  The same holds of what the caller has seen before, where he says
 * so: a row that is another one, or has another status, is left alone.
 *
 * May touch: application tables, as their owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "source.h"
#include "ulid.h"

/* Few enough for the lock table, and for two strangers rarely to meet. */
#define LOCK_BUCKETS 512

typedef bool (*Pick) (const ApplyItem *item);
typedef char *(*LockName) (const ApplyItem *item);

/* A field of all items, as an array of texts. */
static Datum
texts(const ApplyBatch *batch, size_t field)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(batch->n, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(batch->n, 1));
	int			lower = 1;

	for (int i = 0; i < batch->n; i++)
	{
		char	   *value = *(char **) ((char *) batch->items[i] + field);

		nulls[i] = value == NULL;
		values[i] = value ? CStringGetTextDatum(value) : (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(values, nulls, 1,
											  (int[1]) {batch->n}, &lower,
											  TEXTOID, -1, false,
											  TYPALIGN_INT));
}

#define TEXTS(batch, field) texts(batch, offsetof(ApplyItem, field))

static ApplyBatch
pick(const ApplyBatch *batch, Pick wanted)
{
	ApplyBatch	some = {batch->source, NULL, 0};

	some.items = palloc(sizeof(ApplyItem *) * Max(batch->n, 1));
	for (int i = 0; i < batch->n; i++)
		if (wanted(batch->items[i]))
			some.items[some.n++] = batch->items[i];
	return some;
}

static void
no_statement(const ApplyStatement *statement)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s", statement->problem ? statement->problem :
					"this schema does not say how"),
			 errhint("Give attach() an apply function, which can fill in"
					 " what only the application knows.")));
}

/*
 * Run a step.  Under a transaction-wide snapshot it looks at what is there
 * now all the same: else it would create what others have created already.
 */
static void
run_step(ApplySource *source, ApplyStep step, int nargs, Datum *args)
{
	ApplyStatement *statement = &source->steps[step];
	Snapshot	latest = InvalidSnapshot;

	if (statement->sql == NULL)
		no_statement(statement);
	if (statement->plan == NULL)
	{
		Oid			types[8];

		for (int i = 0; i < nargs; i++)
			types[i] = TEXTARRAYOID;

		/* Ten rows are guessed for an array: look-ups use an index. */
		statement->plan = SPI_prepare_cursor(statement->sql, nargs, types,
											 CURSOR_OPT_GENERIC_PLAN);
		if (statement->plan == NULL || SPI_keepplan(statement->plan) != 0)
			elog(ERROR, "could not prepare: %s",
				 SPI_result_code_string(SPI_result));
	}
	if (IsolationUsesXactSnapshot() && step != STEP_UPDATE)
		latest = RegisterSnapshot(GetLatestSnapshot());
	SPI_execute_snapshot(statement->plan, args, NULL, latest,
						 InvalidSnapshot, false, true, 0);
	if (latest != InvalidSnapshot)
		UnregisterSnapshot(latest);
}

/* The item that a row of the result is about; its number comes first. */
static ApplyItem *
item_of(const ApplyBatch *batch, uint64 row)
{
	bool		isnull;

	return batch->items[DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row],
													SPI_tuptable->tupdesc, 1,
													&isnull)) - 1];
}

static char *
result(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						column);
}

static bool
result_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static int64
result_int(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * Locks
 */

static int
compare_buckets(const void *a, const void *b)
{
	return (int) *(const uint16 *) a - (int) *(const uint16 *) b;
}

static void
lock_all(const ApplyBatch *batch, SourceLock kind, Oid relid, LockName name)
{
	uint16	   *buckets = palloc(sizeof(uint16) * Max(batch->n, 1));

	for (int i = 0; i < batch->n; i++)
	{
		char	   *text = name(batch->items[i]);

		buckets[i] = hash_bytes((unsigned char *) text, strlen(text)) %
			LOCK_BUCKETS;
	}
	qsort(buckets, batch->n, sizeof(uint16), compare_buckets);
	for (int i = 0; i < batch->n; i++)
		if (i == 0 || buckets[i] != buckets[i - 1])
			source_lock_apply(kind, relid, buckets[i]);
}

static char *
user_name(const ApplyItem *item)
{
	return item->did;
}

static char *
event_name(const ApplyItem *item)
{
	return item->event;
}

static char *
pair_name(const ApplyItem *item)
{
	return psprintf("%s\n%s", item->event, item->user);
}

/* Somebody else was faster, or a trigger had other ideas. */
static void
changed_meanwhile(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("%s", what),
			 errhint("It was changed by somebody else at the same moment, or"
					 " by a trigger or rule of the application's.")));
}

/*
 * Events
 */

static bool
is_record(const ApplyItem *item)
{
	return strncmp(item->uri, "at://", 5) == 0;
}

static bool
unknown_record(const ApplyItem *item)
{
	return item->event == NULL && is_record(item);
}

static bool
unknown_page(const ApplyItem *item)
{
	return item->event == NULL && !is_record(item);
}

static bool
event_known(const ApplyItem *item)
{
	return item->event != NULL;
}

static void
find_events(const ApplyBatch *batch, ApplyStep step, Pick wanted)
{
	ApplyBatch	some = pick(batch, wanted);
	Datum		args[2];

	if (some.n == 0 || some.source->steps[step].sql == NULL)
		return;
	args[0] = TEXTS(&some, uri);
	args[1] = TEXTS(&some, source);
	run_step(some.source, step, 2, args);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		ApplyItem  *item = item_of(&some, r);

		if (item->event != NULL)
			continue;			/* the first one it is */
		item->event = result(r, 2);
		item->gate.needs_approval = result_bool(r, 3);
		item->members_only = result_bool(r, 4);
		item->group = result(r, 5);
		item->room = result_int(r, 6);
		item->gate.has_waitlist = result_bool(r, 7);
	}
	SPI_freetuptable(SPI_tuptable);
}

void
apply_find_events(ApplyBatch *batch)
{
	find_events(batch, STEP_OWN_EVENTS, unknown_record);
	find_events(batch, STEP_IMPORTED_EVENTS, unknown_record);
	find_events(batch, STEP_FOREIGN_EVENTS, unknown_page);
}

/*
 * Users
 */

/* A real user is better than a shadow, whatever it was found by. */
static bool
user_unsettled(const ApplyItem *item)
{
	return item->user == NULL || item->shadow;
}

static void
find_users(const ApplyBatch *batch, ApplyStep step)
{
	ApplyBatch	some = pick(batch, user_unsettled);
	Datum		args[2];

	if (some.n == 0 || some.source->steps[step].sql == NULL)
		return;
	args[0] = TEXTS(&some, did);
	args[1] = TEXTS(&some, provider);
	run_step(some.source, step, 2, args);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		ApplyItem  *item = item_of(&some, r);
		bool		shadow = result_bool(r, 3);

		if (item->user != NULL && (shadow || !item->shadow))
			continue;
		item->user = result(r, 2);
		item->shadow = shadow;
	}
	SPI_freetuptable(SPI_tuptable);
}

static bool
user_wanted(const ApplyItem *item)
{
	return item->user == NULL && item->answer != ANSWER_NONE;
}

static int
compare_dids(const void *a, const void *b)
{
	const ApplyItem *left = *(ApplyItem *const *) a;
	const ApplyItem *right = *(ApplyItem *const *) b;
	int			order = strcmp(left->did, right->did);

	return order ? order : strcmp(left->provider, right->provider);
}

/* A name for web addresses, as OpenMeet makes it: handle and a short code. */
static char *
slug_of(const ApplyItem *item, const char *ulid)
{
	const char *from = item->handle ? item->handle : "user";
	StringInfoData slug;

	initStringInfo(&slug);
	for (const char *c = from; *c && slug.len < 200; c++)
	{
		if ((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9'))
			appendStringInfoChar(&slug, *c);
		else if (*c >= 'A' && *c <= 'Z')
			appendStringInfoChar(&slug, *c - 'A' + 'a');
		else if (slug.len > 0 && slug.data[slug.len - 1] != '-')
			appendStringInfoChar(&slug, '-');
	}
	appendStringInfo(&slug, "-%s", ulid + ULID_LENGTH - 6);
	return slug.data;
}

static Datum
text_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* An author who is known by an address needs a column to keep it in. */
static void
check_author(const ApplySource *source, const ApplyItem *item)
{
	if (source->keeps_authors || strcmp(item->provider, "bluesky") == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this schema has no users of \"%s\"", item->provider),
			 errhint("The table of users needs columns provider and socialId,"
					 " or attach() an apply function.")));
}

/* Each of these gets a user, but only one if he is among them twice. */
static void
insert_users(ApplyBatch *batch)
{
	Datum	   *ulids = palloc(sizeof(Datum) * batch->n);
	Datum	   *slugs = palloc(sizeof(Datum) * batch->n);
	Datum		args[5];
	int			n = 0;

	qsort(batch->items, batch->n, sizeof(ApplyItem *), compare_dids);
	for (int i = 0; i < batch->n; i++)
		if (n == 0 || compare_dids(&batch->items[n - 1],
								   &batch->items[i]) != 0)
			batch->items[n++] = batch->items[i];
	batch->n = n;
	for (int i = 0; i < n; i++)
	{
		char		ulid[ULID_LENGTH + 1];

		check_author(batch->source, batch->items[i]);
		ulid_new(ulid);
		ulids[i] = CStringGetTextDatum(ulid);
		slugs[i] = CStringGetTextDatum(slug_of(batch->items[i], ulid));
	}
	args[0] = TEXTS(batch, did);
	args[1] = TEXTS(batch, provider);
	args[2] = TEXTS(batch, handle);
	args[3] = text_array(ulids, n);
	args[4] = text_array(slugs, n);
	run_step(batch->source, STEP_CREATE_USERS, 5, args);
}

/* Users for those who have none: never a second one for a DID. */
static void
create_users(const ApplyBatch *known)
{
	ApplySource *source = known->source;
	ApplyStatement *create = &source->steps[STEP_CREATE_USERS];
	ApplyBatch	some = pick(known, user_wanted);
	ApplyBatch	missing;

	if (some.n == 0 || (create->sql == NULL && create->problem == NULL))
		return;
	lock_all(&some, SOURCE_LOCK_USER, source->users, user_name);
	find_users(&some, STEP_IDENTITY);
	find_users(&some, STEP_USERS);
	missing = pick(&some, user_wanted);
	if (missing.n == 0)
		return;
	insert_users(&missing);
	find_users(&some, STEP_USERS);
	if (pick(&some, user_wanted).n > 0)
		changed_meanwhile("a user was created and cannot be found");
}

/*
 * Attendance
 */

static bool
has_user(const ApplyItem *item)
{
	return item->user != NULL;
}

static bool
row_missing(const ApplyItem *item)
{
	return !item->has_row && item->answer != ANSWER_NONE;
}

static int
compare_pairs(const void *a, const void *b)
{
	const ApplyItem *left = *(ApplyItem *const *) a;
	const ApplyItem *right = *(ApplyItem *const *) b;
	int			order = strcmp(left->event, right->event);

	return order ? order : strcmp(left->user, right->user);
}

/* One after the other, then: each has to see what the one before did. */
static void
refuse_twins(const ApplyBatch *batch)
{
	ApplyItem **sorted = palloc(sizeof(ApplyItem *) * Max(batch->n, 1));

	memcpy(sorted, batch->items, sizeof(ApplyItem *) * batch->n);
	qsort(sorted, batch->n, sizeof(ApplyItem *), compare_pairs);
	for (int i = 1; i < batch->n; i++)
		if (compare_pairs(&sorted[i - 1], &sorted[i]) == 0)
			changed_meanwhile("two RSVPs are about the same attendance");
}

static char *
source_type(const ApplyItem *item)
{
	return item->answer == ANSWER_NONE ? NULL : item->provider;
}

/* Where a row comes from; nothing for a record that is gone. */
static void
source_columns(const ApplyBatch *batch, Datum *args)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(batch->n, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(batch->n, 1));
	int			lower = 1;

	for (int i = 0; i < batch->n; i++)
	{
		char	   *type = source_type(batch->items[i]);

		nulls[i] = type == NULL;
		values[i] = type ? CStringGetTextDatum(type) : (Datum) 0;
	}
	args[0] = PointerGetDatum(construct_md_array(values, nulls, 1,
												 (int[1]) {batch->n}, &lower,
												 TEXTOID, -1, false,
												 TYPALIGN_INT));
	args[1] = TEXTS(batch, source_id);
	args[2] = TEXTS(batch, source_url);
	args[3] = TEXTS(batch, source_data);
}

static void
find_rows(const ApplyBatch *batch)
{
	Datum		args[6];

	if (batch->n == 0)
		return;
	args[0] = TEXTS(batch, event);
	args[1] = TEXTS(batch, user);
	source_columns(batch, args + 2);
	run_step(batch->source, STEP_ATTENDANCE, 6, args);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		ApplyItem  *item = item_of(batch, r);

		if (item->has_row)
			continue;			/* the one that was changed last */
		item->has_row = true;
		item->key = result(r, 2);
		item->was = result(r, 3);
		item->means = answer_of(result(r, 4));
		item->marked = result_bool(r, 5);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * What is to be done was decided upon a row that is not this one, or that says
 * something else by now.  Then nothing is done: it has to be decided anew.
 */
static bool
as_expected(const ApplyItem *item)
{
	return !item->surprise;
}

static void
compare_with_seen(ApplyItem *item)
{
	if (!item->expects || !item->has_row)
		return;
	item->surprise = item->seen_key == NULL ||
		strcmp(item->seen_key, item->key) != 0 ||
		(item->seen != NULL &&
		 (item->was == NULL || strcmp(item->seen, item->was) != 0));
}

/* The person's rows that say themselves which record they stand for. */
void
apply_find_told(ApplyBatch *batch)
{
	ApplyBatch	some;
	Datum		args[2];

	find_users(batch, STEP_IDENTITY);
	find_users(batch, STEP_USERS);
	some = pick(batch, has_user);
	if (some.n == 0)
		return;
	args[0] = TEXTS(&some, user);
	args[1] = TEXTS(&some, uri);
	run_step(some.source, STEP_TOLD, 2, args);
	for (uint64 r = 0; r < SPI_processed; r++)
		item_of(&some, r)->key = result(r, 2);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Who may come
 */

static bool
asks_gate(const ApplyItem *item)
{
	return admit_asks_gate(item->has_row, item->was, item->means,
						   item->answer);
}

static bool
asks_members(const ApplyItem *item)
{
	return item->members_only && asks_gate(item);
}

static bool
asks_room(const ApplyItem *item)
{
	return item->room > 0 && asks_gate(item);
}

static void
find_members(const ApplyBatch *batch)
{
	ApplyBatch	some = pick(batch, asks_members);
	Datum		args[2];

	for (int i = 0; i < some.n; i++)
		some.items[i]->gate.not_a_member = true;
	if (some.n == 0 || some.source->steps[STEP_MEMBERS].sql == NULL)
		return;
	args[0] = TEXTS(&some, user);
	args[1] = TEXTS(&some, group);
	run_step(some.source, STEP_MEMBERS, 2, args);
	for (uint64 r = 0; r < SPI_processed; r++)
		item_of(&some, r)->gate.not_a_member = false;
	SPI_freetuptable(SPI_tuptable);
}

static int
compare_events(const void *a, const void *b)
{
	const ApplyItem *left = *(ApplyItem *const *) a;
	const ApplyItem *right = *(ApplyItem *const *) b;
	int			order = strcmp(left->event, right->event);

	return order ? order : left->n - right->n;
}

/*
 * Places that are left: the first come, first served.  What the others of
 * this batch give up is free for the next.
 */
static void
take_places(const ApplyBatch *batch)
{
	ApplyBatch	some = pick(batch, asks_room);
	Datum		args[1];
	int64		taken = 0;

	if (some.n == 0)
		return;
	lock_all(&some, SOURCE_LOCK_ROOM, some.source->relid, event_name);
	qsort(some.items, some.n, sizeof(ApplyItem *), compare_events);
	args[0] = TEXTS(&some, event);
	run_step(some.source, STEP_COUNT, 1, args);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		ApplyItem  *item = item_of(&some, r);
		int64		going = result_int(r, 2);

		if (r == 0 || strcmp(item->event, some.items[r - 1]->event) != 0)
			taken = 0;
		item->gate.full = going + taken >= item->room;
		if (!item->gate.full && !item->gate.needs_approval &&
			!item->gate.not_a_member)
			taken++;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Writing
 */

static bool
to_update(const ApplyItem *item)
{
	return item->has_row && item->word != NULL;
}

static bool
to_insert(const ApplyItem *item)
{
	return !item->has_row && item->word != NULL;
}

static void
decide(ApplyItem *item, const Words *words)
{
	const char *word = NULL;

	switch (admit(words, item->has_row, item->was, item->means, item->answer,
				  &item->gate, &word))
	{
		case ADMIT_SET:
			item->word = pstrdup(word);
			break;
		case ADMIT_KEEP:
			/* Nothing to change, but perhaps where it comes from. */
			if (item->has_row && !item->marked && item->was != NULL)
				item->word = item->was;
			break;
		case ADMIT_NO_WORD:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the application has no status for \"%s\"%s",
							item->status ? item->status : "notgoing",
							item->answer == ANSWER_GOING && words->going ?
							" that has to wait" : ""),
					 errhint("Name one in option status_map, or give attach()"
							 " an apply function.")));
	}
}

static int
compare_keys(const void *a, const void *b)
{
	return strcmp((*(ApplyItem *const *) a)->key,
				  (*(ApplyItem *const *) b)->key);
}

static void
update_rows(const ApplyBatch *batch)
{
	ApplyBatch	some = pick(batch, to_update);
	Datum		args[7];

	if (some.n == 0)
		return;
	qsort(some.items, some.n, sizeof(ApplyItem *), compare_keys);
	args[0] = TEXTS(&some, key);
	args[1] = TEXTS(&some, was);
	args[2] = TEXTS(&some, word);
	source_columns(&some, args + 3);
	run_step(some.source, STEP_UPDATE, 7, args);
	if (SPI_processed != some.n)
		changed_meanwhile("an attendance row could not be changed");
}

static void
insert_rows(const ApplyBatch *batch)
{
	ApplyBatch	some = pick(batch, to_insert);
	Datum		args[7];

	if (some.n == 0)
		return;
	args[0] = TEXTS(&some, event);
	args[1] = TEXTS(&some, user);
	args[2] = TEXTS(&some, word);
	source_columns(&some, args + 3);
	run_step(some.source, STEP_INSERT, 7, args);
	for (uint64 r = 0; r < SPI_processed; r++)
		item_of(&some, r)->key = result(r, 2);
	SPI_freetuptable(SPI_tuptable);
	if (SPI_processed != some.n)
		changed_meanwhile("an attendance row could not be created");
}

/*
 * Apply all of them or, with an error, none.  key is left NULL where the
 * event is not known, and '' where no row is needed.
 */
void
apply_rows(ApplyBatch *batch)
{
	ApplyBatch	known;
	ApplyBatch	rows;
	ApplyBatch	missing;

	apply_find_events(batch);
	known = pick(batch, event_known);
	find_users(&known, STEP_IDENTITY);
	find_users(&known, STEP_USERS);
	create_users(&known);
	for (int i = 0; i < known.n; i++)
		known.items[i]->key = "";
	rows = pick(&known, has_user);
	refuse_twins(&rows);
	find_rows(&rows);
	missing = pick(&rows, row_missing);
	if (missing.n > 0)
	{
		lock_all(&missing, SOURCE_LOCK_ROW, batch->source->relid, pair_name);
		find_rows(&missing);
	}
	for (int i = 0; i < rows.n; i++)
		compare_with_seen(rows.items[i]);
	rows = pick(&rows, as_expected);
	find_members(&rows);
	take_places(&rows);
	for (int i = 0; i < rows.n; i++)
		decide(rows.items[i], &batch->source->words);
	update_rows(&rows);
	insert_rows(&rows);
}
