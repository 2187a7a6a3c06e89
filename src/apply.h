/*-------------------------------------------------------------------------
 *
 * apply.h
 *		What the two rooms of apply share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_APPLY_H
#define RSVP_SYNC_APPLY_H

#include "postgres.h"

#include "executor/spi.h"

#include "admit.h"

/* The statements of a source, as _apply_statements() names them. */
typedef enum ApplyStep
{
	STEP_FUNCTION,
	STEP_OWN_EVENTS,
	STEP_IMPORTED_EVENTS,
	STEP_FOREIGN_EVENTS,
	STEP_IDENTITY,
	STEP_USERS,
	STEP_CREATE_USERS,
	STEP_MEMBERS,
	STEP_TOLD,
	STEP_ATTENDANCE,
	STEP_COUNT,
	STEP_UPDATE,
	STEP_INSERT,
	APPLY_STEPS
} ApplyStep;

typedef struct ApplyStatement
{
	char	   *sql;			/* NULL: this schema has no use for it */
	char	   *problem;		/* or why there can be none */
	SPIPlanPtr	plan;
} ApplyStatement;

/* A source, prepared; valid until something in a schema changes. */
typedef struct ApplySource
{
	int64		source_id;		/* hash key */
	uint64		generation;
	Oid			relid;
	Oid			users;			/* the table that holds them */
	MemoryContext context;		/* of everything below */
	char	   *kind;
	char	   *search_path;	/* of what is generated */
	char	   *apply_path;		/* of the application's function */
	int			sql_timeout;	/* ms; 0: as the setting says */
	bool		keeps_authors;	/* users who have no DID, by their address */
	Words		words;
	ApplyStatement steps[APPLY_STEPS];
	int			in_use;			/* running right now, perhaps nested */
} ApplySource;

/* One RSVP on its way. */
typedef struct ApplyItem
{
	int			n;
	/* What is asked of us. */
	char	   *did;
	char	   *uri;
	char	   *status;
	char	   *rsvp;
	char	   *provider;		/* of the user: bluesky, web, ... */
	char	   *source;			/* of the event */
	char	   *handle;
	char	   *source_id;
	char	   *source_url;
	char	   *source_data;
	Answer		answer;
	/* The row that this was decided upon, and its status as it was then. */
	bool		expects;
	char	   *seen_key;		/* NULL: none was known */
	char	   *seen;			/* NULL: not known */
	/* What is there. */
	char	   *event;			/* NULL: not known here */
	Gate		gate;
	bool		members_only;
	char	   *group;
	int64		room;			/* places; 0: as many as like */
	char	   *user;			/* NULL: none, and none is wanted */
	bool		shadow;
	bool		has_row;
	char	   *key;
	char	   *was;
	Answer		means;
	bool		marked;			/* its source columns are right */
	bool		surprise;		/* another row than was expected */
	/* What becomes of it. */
	char	   *word;			/* the status it gets */
	char	   *error;
	char	   *code;
} ApplyItem;

typedef struct ApplyBatch
{
	ApplySource *source;
	ApplyItem **items;
	int			n;
} ApplyBatch;

extern void apply_rows(ApplyBatch *batch);
extern void apply_find_events(ApplyBatch *batch);
extern void apply_find_told(ApplyBatch *batch);

#endif							/* RSVP_SYNC_APPLY_H */
