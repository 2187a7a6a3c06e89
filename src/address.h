/*-------------------------------------------------------------------------
 *
 * address.h
 *		Which URLs and which network addresses may be called.
 *
 * Nothing here depends on PostgreSQL, allocates or raises an error, so that
 * the rules can be tested, and fuzzed, without a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RSVP_SYNC_ADDRESS_H
#define RSVP_SYNC_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

struct sockaddr;

/* Long enough for any list of records with its cursor */
#define ADDRESS_MAX_URL		8192

/* "https://" + a name of 253 characters + ":65535" + NUL, rounded up */
#define ADDRESS_MAX_ORIGIN	280

typedef enum AddressVerdict
{
	ADDRESS_REFUSED = 0,		/* so that the verdict reads as a boolean */
	ADDRESS_PUBLIC,				/* may be called at public addresses only */
	ADDRESS_EXEMPT				/* on the list of insecure hosts: anywhere */
} AddressVerdict;

/*
 * insecure_hosts is NULL or a comma separated list of host:port.  When the
 * URL is refused, "why" receives a short reason that quotes nothing of it.
 */
extern AddressVerdict address_check_url(const char *url,
										const char *insecure_hosts,
										char *why, size_t whylen);

/*
 * The origin (scheme://host:port, lower case, port always there) of a URL,
 * as a key for limits per host.  False if it is not an http(s) URL with a
 * plain host, or the buffer is too small.
 */
extern bool address_url_origin(const char *url, char *origin, size_t len);

/* Is this a public unicast address? */
extern bool address_is_public(const struct sockaddr *address);
extern bool address_is_public_text(const char *ip);

#endif							/* RSVP_SYNC_ADDRESS_H */
