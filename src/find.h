/*-------------------------------------------------------------------------
 *
 * find.h
 *		What finding attendees by metadata keeps between calls.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_FIND_H
#define RSVP_SYNC_FIND_H

#include "postgres.h"

#include "access/attnum.h"
#include "executor/spi.h"
#include "fmgr.h"

/* A value is read as text, and as the number or boolean it may be, too. */
#define FIND_READINGS	2

/* What a statement returns of the rows it finds. */
typedef enum FindForm
{
	FIND_LISTED,				/* columns of the listed form, see FindGroup */
	FIND_ROWS,					/* the row itself, then the user's columns */
	FIND_TIDS,					/* where it is */
} FindForm;

#define FIND_FORMS		(FIND_TIDS + 1)

/* Columns that make up one text of the result, in a statement's order. */
typedef enum FindGroup
{
	FIND_KEY,
	FIND_EVENT,
	FIND_USER,
	FIND_STATUS,
} FindGroup;

#define FIND_GROUPS		(FIND_STATUS + 1)

typedef struct FindColumns
{
	int			ncolumns;		/* 0: there is no such thing here */
	AttrNumber *number;
	FmgrInfo   *output;			/* of each column's type */
} FindColumns;

/* An attached table, by attribute numbers, and its statements. */
typedef struct FindSource
{
	Oid			relid;
	bool		stale;			/* something about the table has changed */
	bool		unlinked;		/* out of the cache; goes with its last user */
	int			users;			/* calls that are at work with it */
	MemoryContext context;
	int64		source_id;
	text	   *tenant;
	AttrNumber	metadata;		/* InvalidAttrNumber: it has none */
	bool		indexed;		/* by a valid GIN index, children too */
	bool		pin_settings;	/* a key's text depends on settings */
	FindColumns columns[FIND_GROUPS];
	SPIPlanPtr	plans[FIND_FORMS][FIND_READINGS][2];
} FindSource;

extern FindSource *find_source_acquire(Oid relid, Oid definer);
extern void find_source_release(FindSource *source);
extern List *find_source_list(Oid definer);
extern char *find_source_index_ddl(FindSource *source, Oid definer);
extern SPIPlanPtr find_source_plan(FindSource *source, FindForm form,
								   int readings, bool by_tid);

#endif							/* RSVP_SYNC_FIND_H */
