/*-------------------------------------------------------------------------
 *
 * h_entry.c
 *		The post that a page is about, and what it replies to.
 *
 * Pure.  A page may hold more than one post: its own is the one that gives
 * the page's address as its own, else the first that stands by itself.  A
 * post within another item (a comment, a citation) is not the page's.
 *
 *-------------------------------------------------------------------------
 */
#include "h_entry.h"

#include <string.h>

#include "microformats.h"
#include "url.h"

/* One page while it is read */
typedef struct Page
{
	Arena	   *arena;
	xmlDoc	   *doc;
	const xmlNode *root;
	const char *url;
	const char *base;
} Page;

static bool
page_open(Page *page, Arena *arena, const char *html, size_t len,
		  const char *url)
{
	page->arena = arena;
	page->url = url;
	page->doc = html_read(arena, html, len);
	if (page->doc == NULL)
		return false;
	page->root = xmlDocGetRootElement(page->doc);
	page->base = html_base(arena, page->doc, url);
	return true;
}

/* Items that stand by themselves; a feed's stand so, too. */
static const xmlNode *
next_item(const Page *page, const xmlNode *prev)
{
	const xmlNode *n = prev;

	if (page->root == NULL)
		return NULL;
	if (n == NULL)
	{
		n = page->root;
		if (mf_is_item(n))
			return n;
	}
	do
		n = html_next(page->root, n, !html_is_inert(n) &&
					  (!mf_is_item(n) || mf_is_type(n, "h-feed")));
	while (n != NULL && !mf_is_item(n));
	return n;
}

/* What is resolved only to be compared does not stay. */
static bool
leads_to(const Page *page, const xmlNode *node, const char *url)
{
	Arena		scratch = {0};
	const char *own = mf_url(&scratch, node, page->base);
	bool		same = own != NULL && url_same(&scratch, own, url);

	arena_free_scratch(&scratch, page->arena);
	return same;
}

static const xmlNode *
own_entry(const Page *page)
{
	const xmlNode *first = NULL;

	for (const xmlNode *n = next_item(page, NULL); n != NULL;
		 n = next_item(page, n))
	{
		const xmlNode *url = NULL;

		if (!mf_is_type(n, "h-entry"))
			continue;
		if (first == NULL)
			first = n;
		while (page->url != NULL &&
			   (url = mf_property(n, url, "u-url u-uid")) != NULL)
			if (leads_to(page, url, page->url))
				return n;
	}
	return first;
}

/* ------------------------------------------------------------------------
 * Author
 * ------------------------------------------------------------------------ */

static const char *
filled(const char *text)
{
	return text != NULL && *text != '\0' ? text : NULL;
}

static void
author_of_card(const Page *page, const xmlNode *card, HEntry *entry)
{
	entry->author_url = filled(mf_item_url(page->arena, card, page->base));
	entry->author_name = filled(mf_item_name(page->arena, card, page->base));
	entry->author_photo = filled(mf_item_photo(page->arena, card, page->base));
}

/* An author that is no card: a name, an address, or a link that is both */
static void
author_of_text(const Page *page, const xmlNode *node, HEntry *entry)
{
	const char *text = filled(mf_text(page->arena, node, page->base));

	if (mf_has_class(node, "u-author") ||
		html_attribute(node, "href") != NULL)
		entry->author_url = filled(mf_url(page->arena, node, page->base));
	else if (text != NULL && url_is_web(text))
		entry->author_url = text;
	if (text != NULL && !url_is_web(text) &&
		(entry->author_url == NULL || strcmp(text, entry->author_url) != 0))
		entry->author_name = text;
}

/* The card on this page with the author's address; any, if he has none */
static void
author_from_page(const Page *page, HEntry *entry)
{
	for (const xmlNode *n = next_item(page, NULL); n != NULL;
		 n = next_item(page, n))
	{
		HEntry		card = {0};
		const xmlNode *url = mf_property(n, NULL, "u-url");

		if (!mf_is_type(n, "h-card") || (url != NULL && entry->author_url != NULL &&
										 !leads_to(page, url, entry->author_url)))
			continue;
		author_of_card(page, n, &card);
		if (entry->author_url != NULL &&
			(card.author_url == NULL ||
			 !url_same(page->arena, card.author_url, entry->author_url)))
			continue;
		entry->author_url = card.author_url;
		if (entry->author_name == NULL)
			entry->author_name = card.author_name;
		entry->author_photo = card.author_photo;
		return;
	}
}

/* A link rel=author; what it leads to is not asked. */
static void
author_from_link(const Page *page, HEntry *entry)
{
	for (const xmlNode *n = page->root; n != NULL;
		 n = html_next(page->root, n, !html_is_inert(n)))
	{
		const char *href = html_attribute(n, "href");

		if (href == NULL || !(html_is(n, "a") || html_is(n, "link")) ||
			!html_has_word(html_attribute(n, "rel"), "author", true))
			continue;
		entry->author_url = url_resolve(page->arena, page->base, href);
		return;
	}
}

/* The post's own, else its feed's, else the page's */
static void
read_author(const Page *page, const xmlNode *post, HEntry *entry)
{
	const xmlNode *node = mf_property(post, NULL, "p-author u-author");

	for (const xmlNode *n = post->parent; node == NULL && n != NULL;
		 n = n->parent)
		if (n->type == XML_ELEMENT_NODE && mf_is_type(n, "h-feed"))
			node = mf_property(n, NULL, "p-author u-author");
	if (node != NULL && mf_is_item(node))
	{
		author_of_card(page, node, entry);
		return;
	}
	if (node != NULL)
		author_of_text(page, node, entry);
	else
		author_from_link(page, entry);
	if (entry->author_url != NULL || node == NULL)
		author_from_page(page, entry);
}

/* ------------------------------------------------------------------------
 * The post
 * ------------------------------------------------------------------------ */

static void
add_event(const Page *page, const xmlNode *node, HEntry *entry)
{
	Arena		scratch = {0};
	const char *url = NULL;
	bool		known = false;

	if (mf_is_item(node))
		url = filled(mf_item_url(&scratch, node, page->base));
	if (url == NULL)
		url = filled(mf_url(&scratch, node, page->base));
	for (int i = 0; url != NULL && i < entry->nevents; i++)
		known = known || strcmp(entry->events[i], url) == 0;
	if (url != NULL && !known && entry->nevents < H_ENTRY_MAX_EVENTS)
	{
		entry->events[entry->nevents] =
			arena_copy(page->arena, url, strlen(url));
		if (entry->events[entry->nevents] != NULL)
			entry->nevents++;
	}
	arena_free_scratch(&scratch, page->arena);
}

static const char *
first_moment(const Page *page, const xmlNode *post, const char *name)
{
	const xmlNode *node = mf_property(post, NULL, name);

	return node ? mf_moment(page->arena, node, page->base) : NULL;
}

static const char *
read_rsvp(const Page *page, const xmlNode *post)
{
	const xmlNode *node = mf_property(post, NULL, "p-rsvp");
	char	   *word = node ? mf_text(page->arena, node, page->base) : NULL;

	for (char *p = word; p != NULL && *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p += 'a' - 'A';
	return filled(word);
}

static void
read_post(const Page *page, const xmlNode *post, HEntry *entry)
{
	const xmlNode *node = mf_property(post, NULL, "u-url");

	if (node != NULL)
		entry->url = filled(mf_url(page->arena, node, page->base));
	if (entry->url == NULL)
		entry->url = page->url;
	node = NULL;
	while ((node = mf_property(post, node, "u-in-reply-to p-in-reply-to")))
		add_event(page, node, entry);
	read_author(page, post, entry);
	entry->rsvp = read_rsvp(page, post);
	entry->published = first_moment(page, post, "dt-published");
	entry->updated = first_moment(page, post, "dt-updated");
	node = mf_property(post, NULL, "e-content p-content");
	if (node != NULL)
		entry->content = filled(mf_content(page->arena, node, page->base));
}

bool
h_entry_read(Arena *arena, const char *html, size_t len, const char *page_url,
			 HEntry *entry)
{
	Page		page;
	const xmlNode *post;

	memset(entry, 0, sizeof(*entry));
	if (!page_open(&page, arena, html, len, page_url))
		return false;
	post = own_entry(&page);
	if (post != NULL)
		read_post(&page, post, entry);
	xmlFreeDoc(page.doc);
	return post != NULL && !arena->failed;
}

const char *
h_entry_status(const char *rsvp)
{
	static const char *const words[][2] = {
		{"yes", "going"}, {"no", "notgoing"},
		{"maybe", "interested"}, {"interested", "interested"}
	};

	for (size_t i = 0; rsvp != NULL && i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(rsvp, words[i][0]) == 0)
			return words[i][1];
	return NULL;
}

bool
h_entry_links_to(Arena *arena, const char *html, size_t len,
				 const char *page_url, const char *target)
{
	static const char *const places[] = {
		"href", "src", "cite", "data", "poster"
	};
	Page		page;
	bool		found = false;

	if (!page_open(&page, arena, html, len, page_url))
		return false;
	for (const xmlNode *n = page.root; n != NULL && !found;
		 n = html_next(page.root, n, !html_is_inert(n)))
	{
		Arena		scratch = {0};

		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		{
			const char *ref = html_attribute(n, places[i]);
			char	   *url = ref && !html_is(n, "base") ?
				url_resolve(&scratch, page.base, ref) : NULL;

			found = found ||
				(url != NULL && url_same(&scratch, url, target));
		}
		arena_free_scratch(&scratch, arena);
		if (!found && mf_has_class(n, "u-in-reply-to"))
			found = leads_to(&page, n, target);
	}
	xmlFreeDoc(page.doc);
	return found;
}
