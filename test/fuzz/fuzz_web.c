/*-------------------------------------------------------------------------
 *
 * fuzz_web.c
 *		Fuzz target: a page's endpoint, post and links, whatever the page is.
 *
 * Memory errors are the sanitizers' to find, and loops the fuzzer's clock.
 * What is found is checked for what callers rely on: an endpoint can be
 * called, a moment can be read, a list ends.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/h_entry.h"
#include "../../src/syntax.h"
#include "../../src/url.h"
#include "../../src/webmention_find.h"

#define PAGE "https://e.example/d/p?q"

#define PROMISE(holds) \
	do { \
		if (!(holds)) \
		{ \
			fprintf(stderr, "broken: %s\n", #holds); \
			abort(); \
		} \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
is_moment(const char *text)
{
	return text == NULL || syntax_is_datetime(text, strlen(text)) ||
		/* Those of the AT Protocol have no year 0001 in Greenwich. */
		strncmp(text, "0001-01-01", 10) == 0;
}

static void
check_endpoint(const char *text, size_t len)
{
	Arena		arena = {0};
	const char *links[] = {text};
	char	   *in_header = webmention_find(&arena, PAGE, links, 1, NULL, 0);
	char	   *in_page = webmention_find(&arena, PAGE, NULL, 0, text, len);

	PROMISE(!arena.failed);
	PROMISE(in_header == NULL || (url_is_web(in_header) &&
								  strchr(in_header, '#') == NULL));
	PROMISE(in_page == NULL || (url_is_web(in_page) &&
								strchr(in_page, '#') == NULL));
	arena_free(&arena);
}

static void
check_post(const char *text, size_t len)
{
	Arena		arena = {0};
	HEntry		entry;

	if (h_entry_read(&arena, text, len, PAGE, &entry))
	{
		PROMISE(entry.url != NULL && entry.nevents <= H_ENTRY_MAX_EVENTS);
		PROMISE(is_moment(entry.published) && is_moment(entry.updated));
		for (int i = 0; i < entry.nevents; i++)
			PROMISE(entry.events[i] != NULL && *entry.events[i] != '\0');
	}
	PROMISE(!arena.failed);
	h_entry_links_to(&arena, text, len, PAGE, "https://e.example/1");
	arena_free(&arena);
}

static void
check_url(const char *text)
{
	Arena		arena = {0};
	char	   *url = url_resolve(&arena, PAGE, text);
	char	   *again = url ? url_resolve(&arena, PAGE, url) : NULL;
	char	   *request = url ? url_for_request(&arena, url) : NULL;

	/* What is resolved stays as it is, and is itself. */
	if (url != NULL && url_is_web(url) && strlen(url) <= URL_MAX)
	{
		PROMISE(again != NULL && strcmp(url, again) == 0);
		PROMISE(url_same(&arena, url, again));
	}
	for (char *p = request; p != NULL && *p != '\0'; p++)
		PROMISE(*p > ' ' && *p < 0x7f);
	arena_free(&arena);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = malloc(size + 1);

	memcpy(text, data, size);
	text[size] = '\0';
	check_url(text);
	check_endpoint(text, size);
	check_post(text, size);
	free(text);
	return 0;
}
