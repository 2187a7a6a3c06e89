/*-------------------------------------------------------------------------
 *
 * wipe.c
 *		Memory that is overwritten when it is given back.
 *
 * May touch: nothing.  No postgres.h: libcurl calls this from within itself.
 *
 *-------------------------------------------------------------------------
 */
#include "wipe.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *
wipe_malloc(size_t size)
{
	return malloc(size);
}

void *
wipe_calloc(size_t n, size_t size)
{
	return calloc(n, size);
}

/* A block that realloc() moves would leave its content behind. */
void *
wipe_realloc(void *block, size_t size)
{
	size_t		had = block ? malloc_usable_size(block) : 0;
	void	   *bigger;

	if (block != NULL && size <= had && size > 0)
		return block;
	bigger = malloc(size);
	if (bigger == NULL)
		return NULL;
	if (block != NULL)
		memcpy(bigger, block, had < size ? had : size);
	wipe_free(block);
	return bigger;
}

char *
wipe_strdup(const char *text)
{
	return strdup(text);
}

void
wipe_free(void *block)
{
	if (block != NULL)
		explicit_bzero(block, malloc_usable_size(block));
	free(block);
}
