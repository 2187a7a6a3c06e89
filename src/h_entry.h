/*-------------------------------------------------------------------------
 *
 * h_entry.h
 *		The post that a page is about, and what it replies to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_H_ENTRY_H
#define RSVP_SYNC_H_ENTRY_H

#include "arena.h"

/* Of one post, more events than these are not read. */
#define H_ENTRY_MAX_EVENTS	100

/* Texts are the arena's; NULL where the page says nothing. */
typedef struct HEntry
{
	const char *url;			/* u-url, else the page's */
	const char *events[H_ENTRY_MAX_EVENTS];	/* in-reply-to */
	int			nevents;
	const char *author_url;
	const char *author_name;
	const char *author_photo;
	const char *rsvp;			/* in small letters, as the post has it */
	const char *published;		/* as timestamptz reads it */
	const char *updated;
	const char *content;
} HEntry;

/*
 * Read the post of a page: the h-entry whose u-url is the page's address,
 * else the first.  False: there is none, or no memory, which the arena says.
 */
extern bool h_entry_read(Arena *arena, const char *html, size_t len,
						 const char *page_url, HEntry *entry);

/* The word of the AT Protocol for an RSVP; NULL: it has none, or rsvp is */
extern const char *h_entry_status(const char *rsvp);

/* Does the page link to this address, by an element of HTML or a property? */
extern bool h_entry_links_to(Arena *arena, const char *html, size_t len,
							 const char *page_url, const char *target);

#endif							/* RSVP_SYNC_H_ENTRY_H */
