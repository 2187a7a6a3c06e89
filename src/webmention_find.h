/*-------------------------------------------------------------------------
 *
 * webmention_find.h
 *		Where a page takes webmentions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_WEBMENTION_FIND_H
#define RSVP_SYNC_WEBMENTION_FIND_H

#include "arena.h"

/*
 * The endpoint of the page that was answered from url, after redirects:
 * absolute, http or https, without fragment.  NULL if there is none.  links
 * are the values of its Link headers in order; body is NULL where the answer
 * is no HTML.
 */
extern char *webmention_find(Arena *arena, const char *url,
							 const char *const *links, int nlinks,
							 const char *body, size_t len);

#endif							/* RSVP_SYNC_WEBMENTION_FIND_H */
