/*-------------------------------------------------------------------------
 *
 * ddl.h
 *		Commands that concern the workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_DDL_H
#define RSVP_SYNC_DDL_H

/* Take our place in the chain of utility hooks; for _PG_init */
extern void ddl_install_hook(void);

#endif							/* RSVP_SYNC_DDL_H */
