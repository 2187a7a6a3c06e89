/*-------------------------------------------------------------------------
 *
 * driver.c
 *		A plain driver for the fuzz targets, where there is no libFuzzer.
 *
 *		driver RUNS SEED CORPUS_FILE...
 *
 * Every corpus file is run as it is; after that RUNS texts made of pieces of
 * them.  It follows no coverage, but needs nothing except a C compiler with
 * sanitizers, and the same seed always makes the same texts.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX	16384

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Text
{
	uint8_t		data[TEXT_MAX];
	size_t		len;
} Text;

static uint64_t state;

/* xorshift64*: small, fast, and the same everywhere. */
static uint32_t
random_below(uint32_t limit)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t) ((state * UINT64_C(2685821657736338717)) >> 32) % limit;
}

static void
read_text(const char *path, Text *text)
{
	FILE	   *file = fopen(path, "rb");

	if (file == NULL)
	{
		perror(path);
		exit(2);
	}
	text->len = fread(text->data, 1, TEXT_MAX, file);
	fclose(file);
}

/* Run a copy of exactly this size, so that reading past it is noticed. */
static void
run(const Text *text)
{
	uint8_t    *copy = malloc(text->len ? text->len : 1);

	memcpy(copy, text->data, text->len);
	LLVMFuzzerTestOneInput(copy, text->len);
	free(copy);
}

/* Overwrite, insert, cut or splice, a few times over. */
static void
mutate(Text *text, const Text *other)
{
	for (uint32_t n = random_below(4); n > 0 && text->len > 0; n--)
	{
		size_t		at = random_below((uint32_t) text->len);
		size_t		from = other->len ? random_below((uint32_t) other->len) : 0;

		switch (random_below(4))
		{
			case 0:
				text->data[at] = (uint8_t) random_below(256);
				break;
			case 1:
				text->data[at] = (uint8_t) (' ' + random_below(95));
				break;
			case 2:
				text->len = at;
				break;
			default:
				{
					size_t		len = other->len - from;

					if (len > TEXT_MAX - at)
						len = TEXT_MAX - at;
					memcpy(text->data + at, other->data + from, len);
					text->len = at + len;
				}
		}
	}
}

int
main(int argc, char **argv)
{
	static Text text;
	long		runs;
	int			nfiles = argc - 3;
	Text	   *corpus;

	if (nfiles < 1)
	{
		fprintf(stderr, "usage: %s RUNS SEED CORPUS_FILE...\n", argv[0]);
		return 2;
	}
	runs = atol(argv[1]);
	state = strtoull(argv[2], NULL, 10) | 1;
	corpus = calloc((size_t) nfiles, sizeof(Text));
	for (int i = 0; i < nfiles; i++)
	{
		read_text(argv[3 + i], &corpus[i]);
		run(&corpus[i]);
	}
	for (long i = 0; i < runs; i++)
	{
		text = corpus[random_below((uint32_t) nfiles)];
		mutate(&text, &corpus[random_below((uint32_t) nfiles)]);
		run(&text);
	}
	free(corpus);
	return 0;
}
