/*-------------------------------------------------------------------------
 *
 * microformats.h
 *		Items of microformats2 in a page, and the values of their properties.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_MICROFORMATS_H
#define RSVP_SYNC_MICROFORMATS_H

#include "html.h"

/* Is it an item of any type? of this one, such as "h-entry"? */
extern bool mf_is_item(const xmlNode *node);
extern bool mf_is_type(const xmlNode *node, const char *type);

/*
 * The next property of an item behind prev (NULL: the first) whose class is
 * one of these, separated by blanks; what is in a nested item is that one's.
 */
extern xmlNode *mf_property(const xmlNode *item, const xmlNode *prev,
							const char *classes);
extern bool mf_has_class(const xmlNode *node, const char *classes);

/* Values as the prefixes p-, u-, dt- read them; NULL only without memory */
extern char *mf_text(Arena *arena, const xmlNode *node, const char *base);
extern char *mf_url(Arena *arena, const xmlNode *node, const char *base);
extern char *mf_moment(Arena *arena, const xmlNode *node, const char *base);

/* Text content: without scripts, an image as its alt or its address */
extern char *mf_content(Arena *arena, const xmlNode *node, const char *base);

/* What an item is called, where it is, what it looks like; also implied */
extern char *mf_item_name(Arena *arena, const xmlNode *item, const char *base);
extern char *mf_item_url(Arena *arena, const xmlNode *item, const char *base);
extern char *mf_item_photo(Arena *arena, const xmlNode *item,
						   const char *base);

#endif							/* RSVP_SYNC_MICROFORMATS_H */
