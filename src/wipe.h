/*-------------------------------------------------------------------------
 *
 * wipe.h
 *		Memory that is overwritten when it is given back.
 *
 * For what secrets pass through and other people's code allocates: libcurl's
 * headers and buffers, jansson's strings.  The blocks are malloc's, so that
 * one freed by plain free() does no harm.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WIPE_H
#define RSVP_SYNC_WIPE_H

#include <stddef.h>

extern void *wipe_malloc(size_t size);
extern void *wipe_calloc(size_t n, size_t size);
extern void *wipe_realloc(void *block, size_t size);
extern char *wipe_strdup(const char *text);
extern void wipe_free(void *block);

#endif							/* RSVP_SYNC_WIPE_H */
