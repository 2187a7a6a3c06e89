/*-------------------------------------------------------------------------
 *
 * jetstream.h
 *		What Jetstream servers say, and how they are asked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_JETSTREAM_H
#define RSVP_SYNC_JETSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bounds of what is taken */
#define JETSTREAM_MAX_DEPTH		32
#define JETSTREAM_MAX_RECORD	(64 * 1024)

/* Of the parameter cursor: below it is a sequence number, else microseconds */
#define JETSTREAM_FIRST_TIME	INT64_C(1000000000000000)

typedef enum JetstreamKind
{
	JETSTREAM_JUNK,				/* see why */
	JETSTREAM_OTHER,			/* well-formed, and none of our business */
	JETSTREAM_COMMIT,			/* an RSVP was created, updated or deleted */
	JETSTREAM_ACCOUNT,			/* active or not, for which reason */
	JETSTREAM_IDENTITY,			/* a handle or a DID document has changed */
	JETSTREAM_INFO,				/* about the stream: name */
	JETSTREAM_ERROR				/* the last message: name */
} JetstreamKind;

/* Texts live as long as the event; NULL where they do not belong to it. */
typedef struct JetstreamEvent
{
	JetstreamKind kind;
	const char *why;			/* it is junk; not from the network */
	int64_t		time_us;		/* 0: it does not say */
	int64_t		seq;			/* -1: it does not say */
	const char *did;
	const char *rev;
	const char *operation;		/* create, update, delete */
	const char *rkey;
	const char *cid;
	char	   *record;			/* as JSON */
	bool		active;
	const char *status;
	const char *name;
	void	   *root;			/* what owns the texts */
} JetstreamEvent;

/* Any bytes; always fills the event, which jetstream_free() empties. */
extern void jetstream_parse(const char *text, size_t len,
							JetstreamEvent *event);
extern void jetstream_free(JetstreamEvent *event);

/*
 * The hosts of the setting jetstream_url are separated by commas or blanks.
 * jetstream_host copies the nth (from 0): false if there are no so many.
 * jetstream_url makes of it what is to be asked, with a cursor unless that is
 * 0: false if it does not fit or is no URL.
 */
extern bool jetstream_host(const char *list, int n, char *host, size_t size);
extern bool jetstream_url(const char *host, int64_t cursor, char *url,
						  size_t size);

#endif							/* RSVP_SYNC_JETSTREAM_H */
