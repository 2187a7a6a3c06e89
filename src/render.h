/*-------------------------------------------------------------------------
 *
 * render.h
 *		Text as HTML, XML and iCalendar want it; and back.
 *
 * Every function reads len bytes (UTF-8, no terminator), writes its result to
 * out unless that is NULL, and returns the result's length: call it twice.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_RENDER_H
#define RSVP_SYNC_RENDER_H

#include <stdbool.h>
#include <stddef.h>

typedef size_t (*RenderFn) (const char *in, size_t len, char *out);

/* For text and quoted attribute values of HTML: nothing is lost. */
extern size_t render_html(const char *in, size_t len, char *out);

/* The same for XML 1.0, without the characters it does not know. */
extern size_t render_xml(const char *in, size_t len, char *out);

/* The inside of a CDATA section; the brackets around it are the caller's. */
extern size_t render_cdata(const char *in, size_t len, char *out);

/* A TEXT value of RFC 5545 3.3.11. */
extern size_t render_ics_text(const char *in, size_t len, char *out);

/* The inside of a quoted parameter value, RFC 6868. */
extern size_t render_ics_param(const char *in, size_t len, char *out);

/*
 * Content lines, each ended by LF, as RFC 5545 3.1 has them on the wire:
 * ended by CRLF, and folded so that none has more than 75 octets.
 */
extern size_t render_ics_fold(const char *in, size_t len, char *out);

/* What a reader of this HTML sees, as plain text. */
extern size_t render_plain(const char *in, size_t len, char *out);

/* The same where the encoding is not UTF-8: other references stay. */
extern size_t render_plain_ascii(const char *in, size_t len, char *out);

/* May it become a link?  An absolute URL, http or https, with a host. */
extern bool render_is_link(const char *url, size_t len);

#endif							/* RSVP_SYNC_RENDER_H */
