/*-------------------------------------------------------------------------
 *
 * ddl.c
 *		Commands that concern the workers, seen from the utility hook.
 *
 * A resident worker would make DROP DATABASE wait five seconds and fail, and
 * RENAME, SET TABLESPACE and use as a template likewise.  So the workers of
 * the database are stopped before the command and come back after it: at the
 * end of the transaction, or at once if it fails.  Other commands (CREATE
 * EXTENSION, ALTER DATABASE ... SET) are carried to the workers when their
 * transaction has committed.  Whether a command is permitted is decided by
 * the command; but workers are stopped only for those who own the database,
 * or nobody could stop them by trying.
 *
 * DROP EXTENSION is given its locks beforehand, by droplock.c.
 *
 * Locking: none of our own.  Reads catalogs, touches the registry through its
 * functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "ddl.h"
#include "droplock.h"
#include "registry.h"

#define EXTENSION_NAME	"rsvp_sync"
#define SETTING_PREFIX	"rsvp_sync."

/* What is to be done at the end of the transaction */
typedef enum Deed
{
	DEED_POKE,					/* this database may need a worker now */
	DEED_RESTART,				/* its workers must start anew */
	DEED_RESUME					/* its workers may come back; also on abort */
} Deed;

typedef struct PendingDeed
{
	Deed		deed;
	Oid			dboid;
} PendingDeed;

/* The next in the chain of hooks. */
static ProcessUtility_hook_type next_utility = NULL;

/* PendingDeeds of this transaction, in its memory context. */
static List *pending_deeds = NIL;

/* Is our callback registered?  Once per backend; see end_of_transaction. */
static bool callback_registered = false;


/*-------------------------------------------------------------------------
 * The end of the transaction
 *-------------------------------------------------------------------------
 */

static void
do_deed(PendingDeed *pending, bool committed)
{
	switch (pending->deed)
	{
		case DEED_POKE:
			if (committed)
				registry_poke_launcher(pending->dboid);
			break;
		case DEED_RESTART:
			if (committed)
				registry_restart_worker(pending->dboid);
			break;
		case DEED_RESUME:
			registry_resume(pending->dboid);
			break;
	}
}

/*
 * Runs after the commit has become visible, so that the launcher and a worker
 * see what they are told about; nothing in here can fail.  What a prepared
 * transaction did is not carried on: its commit happens elsewhere, and the
 * database's worker starts with the server or the next poke.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			foreach(lc, pending_deeds)
				do_deed(lfirst(lc), event == XACT_EVENT_COMMIT);
			pending_deeds = NIL;
			break;
		default:
			break;
	}
}

static void
do_at_end(Deed deed, Oid dboid)
{
	MemoryContext old;
	PendingDeed *pending;

	if (!callback_registered)
	{
		RegisterXactCallback(end_of_transaction, NULL);
		callback_registered = true;
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	pending = palloc(sizeof(PendingDeed));
	pending->deed = deed;
	pending->dboid = dboid;
	pending_deeds = lappend(pending_deeds, pending);
	MemoryContextSwitchTo(old);
}


/*-------------------------------------------------------------------------
 * Which database is to be free of workers
 *-------------------------------------------------------------------------
 */

static bool
has_createdb(void)
{
	HeapTuple	tuple;
	bool		result = false;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

static bool
is_template(Oid dboid)
{
	HeapTuple	tuple;
	bool		result = false;

	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* Look for an option of CREATE or ALTER DATABASE. */
static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/* A database that the current user owns, other than this one. */
static Oid
own_database(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (!OidIsValid(dboid) || dboid == MyDatabaseId ||
		!compat_owns_database(dboid, GetUserId()))
		return InvalidOid;
	return dboid;
}

/* The database that is to be copied, if the current user may copy it. */
static Oid
template_database(CreatedbStmt *stmt)
{
	DefElem    *option = find_option(stmt->options, "template");
	const char *name = "template1";
	Oid			dboid;

	if (option != NULL && option->arg != NULL)
		name = defGetString(option);
	dboid = get_database_oid(name, true);
	if (!OidIsValid(dboid) || !has_createdb())
		return InvalidOid;
	if (!is_template(dboid) && !compat_owns_database(dboid, GetUserId()))
		return InvalidOid;
	return dboid;
}

/* Does the current user own the extension, if there is one here? */
static bool
owns_extension(void)
{
	Oid			extoid = get_extension_oid(EXTENSION_NAME, true);

	return OidIsValid(extoid) && compat_owns_extension(extoid, GetUserId());
}

static bool
names_extension(List *objects)
{
	ListCell   *lc;

	foreach(lc, objects)
	{
		if (strcmp(strVal(lfirst(lc)), EXTENSION_NAME) == 0)
			return true;
	}
	return false;
}

/* Does this command drop our extension? */
static bool
drops_extension(Node *stmt)
{
	return IsA(stmt, DropStmt) &&
		((DropStmt *) stmt)->removeType == OBJECT_EXTENSION &&
		names_extension(((DropStmt *) stmt)->objects);
}

/*
 * The database whose workers have to go before this command.  Dropping the
 * extension is among them: a worker between two of its tables could be in a
 * deadlock with that.
 */
static Oid
database_to_clear(Node *stmt)
{
	/* The command will be refused */
	if (XactReadOnly)
		return InvalidOid;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return own_database(((DropdbStmt *) stmt)->dbname);
		case T_CreatedbStmt:
			return template_database((CreatedbStmt *) stmt);
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return own_database(((RenameStmt *) stmt)->subname);
			return InvalidOid;
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) stmt)->options,
							"tablespace") != NULL)
				return own_database(((AlterDatabaseStmt *) stmt)->dbname);
			return InvalidOid;
		case T_DropStmt:
			if (drops_extension(stmt) && owns_extension())
				return MyDatabaseId;
			return InvalidOid;
		default:
			return InvalidOid;
	}
}


/*-------------------------------------------------------------------------
 * The hook
 *-------------------------------------------------------------------------
 */

/* Does this setting, or all of them, reach the workers? */
static bool
sets_ours(VariableSetStmt *stmt)
{
	return stmt->kind == VAR_RESET_ALL ||
		(stmt->name != NULL &&
		 pg_strncasecmp(stmt->name, SETTING_PREFIX,
						strlen(SETTING_PREFIX)) == 0);
}

/*
 * Note what a command that has succeeded means for the workers.
 */
static void
note_command(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateExtensionStmt:
			if (strcmp(((CreateExtensionStmt *) stmt)->extname,
					   EXTENSION_NAME) == 0)
				do_at_end(DEED_POKE, MyDatabaseId);
			break;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) stmt)->extname,
					   EXTENSION_NAME) == 0)
				do_at_end(DEED_RESTART, MyDatabaseId);
			break;
		case T_CreatedbStmt:
			/* The new database may be born with the extension */
			do_at_end(DEED_POKE, InvalidOid);
			break;
		case T_AlterDatabaseStmt:
			/* It may admit connections now, or no longer be a template */
			do_at_end(DEED_POKE,
					  get_database_oid(((AlterDatabaseStmt *) stmt)->dbname,
									   true));
			break;
		case T_AlterDatabaseSetStmt:
			if (sets_ours(((AlterDatabaseSetStmt *) stmt)->setstmt))
				do_at_end(DEED_RESTART,
						  get_database_oid(((AlterDatabaseSetStmt *)
											stmt)->dbname, true));
			break;
		default:
			break;
	}
}

static void
run_next(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
		 ProcessUtilityContext context, ParamListInfo params,
		 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	if (next_utility != NULL)
		next_utility(pstmt, query_string, read_only_tree, context, params,
					 query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context,
								params, query_env, dest, qc);
}

/*
 * Prepare for DROP EXTENSION or a command about a whole database.
 */
static void
clear_database(Node *stmt, Oid dboid)
{
	if (drops_extension(stmt))
		droplock_acquire(get_extension_oid(EXTENSION_NAME, false));
	(void) registry_suspend(dboid);
}

/*
 * Run a command while a database is free of workers.  If it succeeds they come
 * back at the end of the transaction: before that they would meet the
 * command's own locks and then find, say, their database gone.
 */
static void
run_cleared(Oid dboid, PlannedStmt *pstmt, const char *query_string,
			bool read_only_tree, ProcessUtilityContext context,
			ParamListInfo params, QueryEnvironment *query_env,
			DestReceiver *dest, QueryCompletion *qc)
{
	PG_TRY();
	{
		clear_database(pstmt->utilityStmt, dboid);
		run_next(pstmt, query_string, read_only_tree, context, params,
				 query_env, dest, qc);
		do_at_end(DEED_RESUME, dboid);
	}
	PG_CATCH();
	{
		registry_resume(dboid);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
rsvp_sync_utility(PlannedStmt *pstmt, const char *query_string,
				  bool read_only_tree, ProcessUtilityContext context,
				  ParamListInfo params, QueryEnvironment *query_env,
				  DestReceiver *dest, QueryCompletion *qc)
{
	Oid			dboid = database_to_clear(pstmt->utilityStmt);

	if (OidIsValid(dboid))
		run_cleared(dboid, pstmt, query_string, read_only_tree, context,
					params, query_env, dest, qc);
	else
		run_next(pstmt, query_string, read_only_tree, context, params,
				 query_env, dest, qc);
	note_command(pstmt->utilityStmt);
}

void
ddl_install_hook(void)
{
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = rsvp_sync_utility;
}
