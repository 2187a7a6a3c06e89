/*-------------------------------------------------------------------------
 *
 * html.h
 *		A stranger's HTML as a tree, read by libxml2 within bounds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_HTML_H
#define RSVP_SYNC_HTML_H

#include <libxml/tree.h>

#include "arena.h"

/* Of a page, what is behind is not read. */
#define HTML_MAX_BYTES	(1024 * 1024)
#define HTML_MAX_DEPTH	256
#define HTML_MAX_NODES	100000

/*
 * The tree, to be freed with xmlFreeDoc(); NULL if there is nothing in it, or
 * no memory, which the arena then says.  No network, no error is raised or
 * printed.  What is no UTF-8 is taken for Latin-1.
 */
extern xmlDoc *html_read(Arena *arena, const char *data, size_t len);

/* What of these bytes may be in a text: no more than the bound, as UTF-8 */
extern char *html_readable(Arena *arena, const char *data, size_t len);

/* The next element in document order below root; into: also below this one */
extern xmlNode *html_next(const xmlNode *root, const xmlNode *from, bool into);

extern bool html_is(const xmlNode *node, const char *name);

/* An attribute's value, "" if it has none; NULL: it is not there */
extern const char *html_attribute(const xmlNode *node, const char *name);

/* Is the word among those of a list separated by blanks? */
extern bool html_has_word(const char *list, const char *word, bool fold_case);

/* Is it text that says nothing of the page: a script, a template? */
extern bool html_is_inert(const xmlNode *node);

/* What references on the page are relative to: <base>, or its own address */
extern const char *html_base(Arena *arena, const xmlDoc *page,
							 const char *url);

#endif							/* RSVP_SYNC_HTML_H */
