/*-------------------------------------------------------------------------
 *
 * isolation.h
 *		Who, at this moment, works under a transaction-wide snapshot?
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ISOLATION_H
#define RSVP_SYNC_ISOLATION_H

extern void isolation_shmem_request(void);
extern void isolation_shmem_init(void);
extern void isolation_install_hooks(void);

/* Is it known?  Only where the module is preloaded. */
extern bool isolation_is_known(void);

/* Has another backend of this database such a transaction? */
extern bool isolation_around(void);

/* The same; if not, none can come before the end of our transaction. */
extern bool isolation_shut(void);

#endif							/* RSVP_SYNC_ISOLATION_H */
