/*-------------------------------------------------------------------------
 *
 * address.c
 *		Which URLs and which network addresses may be called.
 *
 * Hosts come from DID documents and web pages, that is, from strangers.  A
 * URL passes two gates: its text is judged here before anything is asked of
 * the network, and the address it resolves to is judged when it is dialled.
 * The first gate alone would fall to a name that resolves to 127.0.0.1, the
 * second alone would leak names to the resolver and credentials to ports that
 * do not speak HTTPS.
 *
 * Only the strictest reading of a URL is accepted, so that no other parser
 * (libcurl's above all) can find another host in it than we did.
 *
 * Pure functions over their arguments: no allocation, no error, no PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define MAX_NAME	253
#define MAX_LABEL	63

#define DEFAULT_PORT(secure)	((secure) ? 443 : 80)

/* A URL taken apart; pointers lead into the URL itself */
typedef struct UrlParts
{
	bool		secure;			/* https */
	bool		bracketed;		/* the host is an IPv6 literal */
	const char *host;			/* without brackets */
	size_t		hostlen;
	int			port;			/* explicit or the scheme's own */
} UrlParts;

typedef struct Network4
{
	uint32_t	net;
	int			bits;
} Network4;

typedef enum Verdict6
{
	NEVER,						/* not public */
	ALWAYS,						/* public */
	BY_IPV4						/* judge the IPv4 address it carries */
} Verdict6;

typedef struct Network6
{
	uint16_t	net[6];			/* the first 96 bits are all we ever need */
	int			bits;
	Verdict6	verdict;
	int			ipv4_at;		/* byte at which the IPv4 address starts */
} Network6;

#define NET4(a, b, c, bits)	\
	{((uint32_t) (a) << 24) | ((uint32_t) (b) << 16) | ((uint32_t) (c) << 8), \
	(bits)}

/* Everything in IPv4 that is not public unicast */
static const Network4 not_public4[] = {
	NET4(0, 0, 0, 8),			/* this network */
	NET4(10, 0, 0, 8),			/* private */
	NET4(100, 64, 0, 10),		/* carrier-grade NAT */
	NET4(127, 0, 0, 8),			/* loopback */
	NET4(169, 254, 0, 16),		/* link local, metadata services of clouds */
	NET4(172, 16, 0, 12),		/* private */
	NET4(192, 0, 0, 24),		/* protocol assignments */
	NET4(192, 0, 2, 24),		/* documentation */
	NET4(192, 88, 99, 24),		/* 6to4 relays */
	NET4(192, 168, 0, 16),		/* private */
	NET4(198, 18, 0, 15),		/* benchmarks */
	NET4(198, 51, 100, 24),		/* documentation */
	NET4(203, 0, 113, 24),		/* documentation */
	NET4(224, 0, 0, 4),			/* multicast */
	NET4(240, 0, 0, 4)			/* reserved, broadcast */
};

/* The first row that matches decides; what matches none is not public */
static const Network6 networks6[] = {
	{{0, 0, 0, 0, 0, 0xffff}, 96, BY_IPV4, 12}, /* IPv4-mapped */
	{{0x0064, 0xff9b}, 96, BY_IPV4, 12},	/* NAT64 */
	{{0x2001, 0x0000}, 23, NEVER},	/* Teredo, ORCHID, other assignments */
	{{0x2001, 0x0db8}, 32, NEVER},	/* documentation */
	{{0x2002}, 16, BY_IPV4, 2}, /* 6to4 */
	{{0x3fff, 0x0000}, 20, NEVER},	/* documentation */
	{{0x2000}, 3, ALWAYS}		/* global unicast */
};

/* Top-level names that never lead to a public host */
static const char *const private_tlds[] = {
	"test", "local", "localhost", "invalid", "example", "internal", "onion"
};

static const char *url_parse(const char *url, UrlParts *parts);
static const char *url_parse_authority(const char *start, const char *end,
									   UrlParts *parts);
static const char *url_parse_port(const char *start, const char *end,
								  int *port);
static const char *check_public_host(const UrlParts *parts);
static const char *check_name(const char *host, size_t len);
static bool is_label(const char *label, size_t len);
static bool is_listed(const UrlParts *parts, const char *list);
static bool is_public4(uint32_t ip);
static bool is_public6(const uint8_t ip[16]);
static bool in_network6(const uint8_t ip[16], const Network6 *network);

/* Locale must not matter here, so ctype.h is of no use */
static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static inline char
to_lower(char c)
{
	return (c >= 'A' && c <= 'Z') ? c - 'A' + 'a' : c;
}

AddressVerdict
address_check_url(const char *url, const char *insecure_hosts,
				  char *why, size_t whylen)
{
	AddressVerdict verdict = ADDRESS_PUBLIC;
	UrlParts	parts;
	const char *reason = url_parse(url, &parts);

	if (reason == NULL && is_listed(&parts, insecure_hosts))
		verdict = ADDRESS_EXEMPT;
	else if (reason == NULL && !parts.secure)
		reason = "scheme is not https";
	else if (reason == NULL && parts.port != 443)
		reason = "port is not 443";
	else if (reason == NULL)
		reason = check_public_host(&parts);

	if (whylen > 0)
		snprintf(why, whylen, "%s", reason ? reason : "");
	return reason ? ADDRESS_REFUSED : verdict;
}

bool
address_url_origin(const char *url, char *origin, size_t len)
{
	UrlParts	parts;
	int			n;

	if (url_parse(url, &parts) != NULL)
		return false;
	n = snprintf(origin, len, "%s://%s%.*s%s:%d",
				 parts.secure ? "https" : "http",
				 parts.bracketed ? "[" : "",
				 (int) parts.hostlen, parts.host,
				 parts.bracketed ? "]" : "", parts.port);
	if (n < 0 || (size_t) n >= len)
		return false;
	for (char *p = origin; *p; p++)
		*p = to_lower(*p);
	return true;
}

bool
address_is_public(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
	{
		struct sockaddr_in in;

		memcpy(&in, address, sizeof(in));
		return is_public4(ntohl(in.sin_addr.s_addr));
	}
	if (address->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, address, sizeof(in6));
		return is_public6(in6.sin6_addr.s6_addr);
	}
	return false;
}

bool
address_is_public_text(const char *ip)
{
	struct in_addr in;
	struct in6_addr in6;

	if (inet_pton(AF_INET, ip, &in) == 1)
		return is_public4(ntohl(in.s_addr));
	if (inet_pton(AF_INET6, ip, &in6) == 1)
		return is_public6(in6.s6_addr);
	return false;
}

/*
 * Take a URL apart.  Returns NULL, or why it cannot be done.
 */
static const char *
url_parse(const char *url, UrlParts *parts)
{
	const char *p;

	if (strnlen(url, ADDRESS_MAX_URL + 1) > ADDRESS_MAX_URL)
		return "URL is too long";

	/* A backslash is a slash to some parsers and none to others */
	for (p = url; *p; p++)
		if (*p <= ' ' || *p >= 0x7f || *p == '\\')
			return "URL has a character that should have been encoded";

	parts->secure = strncasecmp(url, "https://", 8) == 0;
	if (!parts->secure && strncasecmp(url, "http://", 7) != 0)
		return "scheme is not https";
	p = url + (parts->secure ? 8 : 7);
	return url_parse_authority(p, p + strcspn(p, "/?#"), parts);
}

static const char *
url_parse_authority(const char *start, const char *end, UrlParts *parts)
{
	const char *host_end;

	if (memchr(start, '@', end - start) != NULL)
		return "URL carries a user name";

	parts->bracketed = start < end && *start == '[';
	if (parts->bracketed)
	{
		host_end = memchr(start, ']', end - start);
		if (host_end == NULL)
			return "IPv6 address is not closed";
		parts->host = start + 1;
		parts->hostlen = host_end - parts->host;
		host_end++;
	}
	else
	{
		host_end = memchr(start, ':', end - start);
		if (host_end == NULL)
			host_end = end;
		parts->host = start;
		parts->hostlen = host_end - start;
	}

	if (parts->hostlen == 0 || parts->hostlen > MAX_NAME)
		return "host is missing or too long";
	for (size_t i = 0; i < parts->hostlen; i++)
		if (!is_alnum(parts->host[i]) &&
			!strchr(parts->bracketed ? ":." : "-.", parts->host[i]))
			return "host has a character that no host name has";

	parts->port = DEFAULT_PORT(parts->secure);
	if (host_end < end)
		return url_parse_port(host_end, end, &parts->port);
	return NULL;
}

/*
 * Parse ":port"; a colon with nothing behind it is refused.
 */
static const char *
url_parse_port(const char *start, const char *end, int *port)
{
	int			n = 0;

	if (*start != ':' || end - start < 2 || end - start > 6)
		return "port is malformed";
	for (const char *p = start + 1; p < end; p++)
	{
		if (!is_digit(*p))
			return "port is malformed";
		n = n * 10 + (*p - '0');
	}
	if (n < 1 || n > 65535)
		return "port is out of range";
	*port = n;
	return NULL;
}

/*
 * May this host be called without being on the list?  Returns NULL if so.
 *
 * An IP address is accepted in its one canonical form only: what inet_aton()
 * and with it the resolver would read as an address besides (127.1, 0x7f.1,
 * 2130706433) has a last label that is a number, which no name has.
 */
static const char *
check_public_host(const UrlParts *parts)
{
	char		host[MAX_NAME + 1];
	const char *last;
	struct in_addr in;

	memcpy(host, parts->host, parts->hostlen);
	host[parts->hostlen] = '\0';

	if (parts->bracketed && strchr(host, ':') == NULL)
		return "host is an address in an unusual form";
	if (parts->bracketed || inet_pton(AF_INET, host, &in) == 1)
		return address_is_public_text(host) ? NULL :
			"host is an address that is not public";

	last = strrchr(host, '.');
	if (last == NULL)
		return "host has no dot";
	if (is_digit(last[1]))
		return "host is an address in an unusual form";
	for (size_t i = 0; i < sizeof(private_tlds) / sizeof(*private_tlds); i++)
		if (strcasecmp(last + 1, private_tlds[i]) == 0)
			return "host is in a domain that is not public";
	return check_name(host, parts->hostlen);
}

/*
 * Is this a well-formed host name?  Returns NULL if so.
 */
static const char *
check_name(const char *host, size_t len)
{
	const char *end = host + len;

	if (end[-1] == '.')
		return "host ends with a dot";
	for (const char *label = host; label < end;)
	{
		size_t		n = strcspn(label, ".");

		if (!is_label(label, n))
			return "host is not a well-formed name";
		label += n + 1;
	}
	return NULL;
}

static bool
is_label(const char *label, size_t len)
{
	return len >= 1 && len <= MAX_LABEL &&
		label[0] != '-' && label[len - 1] != '-';
}

/*
 * Is the URL's host:port on the list?  Spaces around its commas are skipped.
 */
static bool
is_listed(const UrlParts *parts, const char *list)
{
	char		wanted[ADDRESS_MAX_ORIGIN];
	size_t		len;

	if (list == NULL)
		return false;
	len = snprintf(wanted, sizeof(wanted), "%s%.*s%s:%d",
				   parts->bracketed ? "[" : "",
				   (int) parts->hostlen, parts->host,
				   parts->bracketed ? "]" : "", parts->port);

	for (;;)
	{
		size_t		n;

		list += strspn(list, ", \t\r\n");
		if (*list == '\0')
			return false;
		n = strcspn(list, ", \t\r\n");
		if (n == len && strncasecmp(list, wanted, n) == 0)
			return true;
		list += n;
	}
}

static bool
is_public4(uint32_t ip)
{
	for (size_t i = 0; i < sizeof(not_public4) / sizeof(*not_public4); i++)
	{
		uint32_t	mask = UINT32_MAX << (32 - not_public4[i].bits);

		if ((ip & mask) == not_public4[i].net)
			return false;
	}
	return true;
}

static bool
is_public6(const uint8_t ip[16])
{
	for (size_t i = 0; i < sizeof(networks6) / sizeof(*networks6); i++)
	{
		const Network6 *network = &networks6[i];
		const uint8_t *v4 = ip + network->ipv4_at;

		if (!in_network6(ip, network))
			continue;
		if (network->verdict != BY_IPV4)
			return network->verdict == ALWAYS;
		return is_public4((uint32_t) v4[0] << 24 | (uint32_t) v4[1] << 16 |
						  (uint32_t) v4[2] << 8 | v4[3]);
	}
	return false;
}

static bool
in_network6(const uint8_t ip[16], const Network6 *network)
{
	for (int bit = 0; bit < network->bits; bit += 16)
	{
		int			rest = network->bits - bit;
		uint16_t	mask = rest >= 16 ? 0xffff : 0xffff << (16 - rest);
		uint16_t	word = ip[bit / 8] << 8 | ip[bit / 8 + 1];

		if ((word & mask) != network->net[bit / 16])
			return false;
	}
	return true;
}
