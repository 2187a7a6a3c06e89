/*-------------------------------------------------------------------------
 *
 * recordlist.h
 *		All RSVP records of an account, page by page.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_RECORDLIST_H
#define RSVP_SYNC_RECORDLIST_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "xrpc.h"

typedef struct RecordList
{
	StringInfoData json;		/* [{"uri", "cid", "value"}, ... */
	int			pages;
} RecordList;

extern RecordList *record_list_begin(MemoryContext context);
extern void record_list_free(RecordList *list);

/* cursor: where the last page ended; NULL for the first */
extern HttpRequest *record_list_request(const char *pds, const char *did,
										const char *cursor, long timeout_ms);

/*
 * Takes a page in; false if the answer is none, and then it is a failure.
 * cursor: of the next page, in the answer's own memory; NULL: this is the last.
 */
extern bool record_list_page(RecordList *list, Answer *answer,
							 const char **cursor);

/* The whole as JSON text, in the list's memory. */
extern const char *record_list_text(RecordList *list);

/* A record as JSON text, malloc'ed, or NULL if it cannot be kept. */
extern char *record_list_storable(json_t *value);

#endif							/* RSVP_SYNC_RECORDLIST_H */
