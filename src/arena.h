/*-------------------------------------------------------------------------
 *
 * arena.h
 *		Memory of one reading, given back at once.
 *
 * For rooms that do without PostgreSQL: what is allocated here lives until
 * arena_free().  NULL means out of memory, which the arena remembers, so that
 * it need be asked only once, at the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ARENA_H
#define RSVP_SYNC_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Arena
{
	struct ArenaBlock *blocks;
	bool		failed;			/* some allocation did not succeed */
} Arena;

extern void *arena_alloc(Arena *arena, size_t size);	/* zeroed */
extern char *arena_copy(Arena *arena, const char *text, size_t len);
extern void arena_free(Arena *arena);

/* The end of one used on the way, for what need not stay in the other */
extern void arena_free_scratch(Arena *scratch, Arena *arena);

/* A text that grows; its memory is the arena's. */
typedef struct Text
{
	Arena	   *arena;
	char	   *data;			/* NULL: nothing yet, or out of memory */
	size_t		len;
	size_t		size;
} Text;

extern void text_add(Text *text, const char *data, size_t len);
extern void text_add_string(Text *text, const char *data);
extern char *text_done(Text *text);	/* never NULL unless out of memory */

#endif							/* RSVP_SYNC_ARENA_H */
