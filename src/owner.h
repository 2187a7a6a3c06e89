/*-------------------------------------------------------------------------
 *
 * owner.h
 *		The only door to application SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_OWNER_H
#define RSVP_SYNC_OWNER_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/execnodes.h"

/* Where we were before we became the table's owner. */
typedef struct OwnerScope
{
	Oid			user;
	int			context;
	int			guc_level;
	bool		armed;			/* a deadline is running */
} OwnerScope;

/* The primary key of an attendance table, as application SQL sees it. */
typedef struct OwnerKey
{
	int			ncols;			/* 0: there is none */
	char	   *name[INDEX_MAX_KEYS];
	char	   *type[INDEX_MAX_KEYS];	/* as format_type gives it */
} OwnerKey;

/* Is this process the worker, whose statements nobody else limits? */
extern bool owner_arms_deadline;

/*
 * How long application SQL of ours waits for a lock in a worker: well below
 * any deadlock_timeout.  An ALTER or DROP of the application's that wants the
 * table we have while we wait for one that it has must not be the one to die.
 * In a session its own lock_timeout holds.
 */
#define OWNER_LOCK_TIMEOUT_MS	(owner_arms_deadline ? 200 : 0)

extern void owner_enter(OwnerScope *scope, Oid relid, const char *search_path,
						int lock_timeout_ms, int sql_timeout_ms);
extern void owner_pin_output(void);
extern uint64 owner_schema_generation(void);
extern void owner_leave(OwnerScope *scope);
extern void owner_run(Oid relid, const char *search_path, int lock_timeout_ms,
					  int sql_timeout_ms, void (*fn) (void *arg), void *arg);
extern void owner_key(OwnerKey *key, Oid relid);
extern char *owner_join_key(int ncols, char **parts);
extern char *owner_row_key(int ncols, const int *number, HeapTuple row,
						   TupleDesc columns);
extern void owner_emit_rows(int ncols, const int *number,
							ReturnSetInfo *rsinfo);
extern char **owner_split_key(const OwnerKey *key, const char *text);

#endif							/* RSVP_SYNC_OWNER_H */
