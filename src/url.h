/*-------------------------------------------------------------------------
 *
 * url.h
 *		URLs as the open web writes them: resolving, comparing, encoding.
 *
 * Pure.  Results are the arena's; NULL where there is none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_URL_H
#define RSVP_SYNC_URL_H

#include "arena.h"

/* What is longer is no URL to us. */
#define URL_MAX		2048

/*
 * What a reference on the page base means, by RFC 3986 5.2: NULL if base is
 * no absolute URL and the reference is none either.  An empty reference is
 * the page itself.
 */
extern char *url_resolve(Arena *arena, const char *base, const char *ref);

/* Is this an absolute http or https URL with a host? */
extern bool url_is_web(const char *url);

/* Without its fragment, and fit for a request: what is not ASCII encoded */
extern char *url_for_request(Arena *arena, const char *url);

/* Do two web URLs say the same, but for spelling? */
extern bool url_same(Arena *arena, const char *a, const char *b);

/* scheme://host[:port], lower case, without the scheme's own port */
extern char *url_origin(Arena *arena, const char *url);

/* A value of a form, application/x-www-form-urlencoded */
extern void url_add_form_value(Text *form, const char *value);

#endif							/* RSVP_SYNC_URL_H */
