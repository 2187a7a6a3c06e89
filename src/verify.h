/*-------------------------------------------------------------------------
 *
 * verify.h
 *		Visits: what accounts themselves say, read from their own PDS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_VERIFY_H
#define RSVP_SYNC_VERIFY_H

#include "postgres.h"

#include "lane.h"

typedef struct Visit Visit;
struct Answer;

extern void visits_startup(MemoryContext parent);

/* In a transaction of the worker's. */
extern void visits_take_over(void);
extern bool visits_lease(void);
extern void visits_identity(Outcome *o);
extern void visits_nowhere(const char *did);
extern void visit_record(Outcome *o);

/* For task.c, which asks visit_request() and brings the answer. */
extern const char *visit_did(const Visit *visit);
extern bool visit_is_urgent(const Visit *visit);
extern HttpRequest *visit_request(Visit *visit);
extern bool visit_answer(Visit *visit, struct Answer *answer);
extern void visit_put_off(Visit *visit, const char *why);

#endif							/* RSVP_SYNC_VERIFY_H */
