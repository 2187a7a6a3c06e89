/*-------------------------------------------------------------------------
 *
 * arena.c
 *		Memory of one reading, given back at once.
 *
 * Knows nothing of PostgreSQL: libxml2 calls back with its own memory in
 * hand, where an error must not jump out.
 *
 *-------------------------------------------------------------------------
 */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_SIZE	4096

typedef struct ArenaBlock
{
	struct ArenaBlock *next;
	size_t		used;
	size_t		size;
	max_align_t data[];
} ArenaBlock;

static ArenaBlock *
new_block(Arena *arena, size_t size)
{
	ArenaBlock *block;

	if (size < BLOCK_SIZE)
		size = BLOCK_SIZE;
	block = calloc(1, sizeof(ArenaBlock) + size);
	if (block == NULL)
	{
		arena->failed = true;
		return NULL;
	}
	block->size = size;
	block->next = arena->blocks;
	arena->blocks = block;
	return block;
}

void *
arena_alloc(Arena *arena, size_t size)
{
	ArenaBlock *block = arena->blocks;
	char	   *result;

	size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) *
		sizeof(max_align_t);
	if (block == NULL || block->size - block->used < size)
		block = new_block(arena, size);
	if (block == NULL)
		return NULL;
	result = (char *) block->data + block->used;
	block->used += size;
	return result;
}

char *
arena_copy(Arena *arena, const char *text, size_t len)
{
	char	   *copy = arena_alloc(arena, len + 1);

	if (copy != NULL && len > 0)
		memcpy(copy, text, len);
	return copy;
}

void
arena_free(Arena *arena)
{
	while (arena->blocks != NULL)
	{
		ArenaBlock *next = arena->blocks->next;

		free(arena->blocks);
		arena->blocks = next;
	}
}

void
arena_free_scratch(Arena *scratch, Arena *arena)
{
	arena->failed = arena->failed || scratch->failed;
	arena_free(scratch);
}

void
text_add(Text *text, const char *data, size_t len)
{
	if (text->data == NULL || text->len + len + 1 > text->size)
	{
		size_t		size = (text->len + len + 32) * 2;
		char	   *bigger = arena_alloc(text->arena, size);

		if (bigger == NULL)
			return;
		if (text->len > 0)
			memcpy(bigger, text->data, text->len);
		text->data = bigger;
		text->size = size;
	}
	if (len > 0)
		memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}

void
text_add_string(Text *text, const char *data)
{
	text_add(text, data, strlen(data));
}

char *
text_done(Text *text)
{
	if (text->data == NULL)
		text_add(text, "", 0);
	return text->data;
}
