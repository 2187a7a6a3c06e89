/*-------------------------------------------------------------------------
 *
 * worker.h
 *		What the rooms inside the worker's process share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WORKER_H
#define RSVP_SYNC_WORKER_H

#include "postgres.h"

#include "executor/spi.h"

#define STATEMENT_MAX_ARGS 12

/* A statement of our own, prepared at its first use and kept. */
typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid			types[STATEMENT_MAX_ARGS];
	SPIPlanPtr	plan;
} Statement;

/* An argument list being filled; NULL texts become SQL NULLs. */
typedef struct Args
{
	int			n;
	Datum		values[STATEMENT_MAX_ARGS];
	char		nulls[STATEMENT_MAX_ARGS];
} Args;

extern void args_int8(Args *args, int64 value);
extern void args_int4(Args *args, int32 value);
extern void args_bool(Args *args, bool value);
extern void args_text(Args *args, const char *value);
extern void args_texts(Args *args, List *values);

extern void run_statement(Statement *statement, Args *args);
extern char *result_text(uint64 row, int column);
extern int64 result_int8(uint64 row, int column, bool *isnull);

/* One short transaction, as autovacuum and apply workers bracket theirs. */
extern void begin_work(const char *what);
extern void end_work(void);
extern void commit_without_flush(void);
extern void renew_plans(void);

/* Run fn(arg) in a subtransaction; the error it raised, or NULL. */
extern ErrorData *guarded(void (*fn) (void *arg), void *arg);

extern PGDLLEXPORT void rsvp_sync_worker_main(Datum main_arg);

#endif							/* RSVP_SYNC_WORKER_H */
