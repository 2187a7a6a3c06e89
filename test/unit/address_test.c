/*-------------------------------------------------------------------------
 *
 * address_test.c
 *		The rules for URLs and addresses, one row a rule.
 *
 *-------------------------------------------------------------------------
 */
#include "address.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tap.h"

#define LIST	"localhost:2583, 127.0.0.1:2583,[::1]:80,pds.test:443"
#define LABEL63	"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee" \
				"ffffffffffggg"

typedef struct UrlCase
{
	const char *url;
	AddressVerdict verdict;		/* without a list */
	AddressVerdict listed;		/* with LIST */
} UrlCase;

#define NO		ADDRESS_REFUSED
#define YES		ADDRESS_PUBLIC
#define EXEMPT	ADDRESS_EXEMPT

static const UrlCase urls[] = {
	/* what a PDS looks like */
	{"https://bsky.social", YES, YES},
	{"https://bsky.social/", YES, YES},
	{"https://bsky.social:443/xrpc/a.b.c?d=e#f", YES, YES},
	{"https://bsky.social?q", YES, YES},
	{"https://bsky.social#f", YES, YES},
	{"HTTPS://BSKY.Social/", YES, YES},
	{"https://a-b.c1.xn--p1ai/", YES, YES},
	{"https://" LABEL63 ".com/", YES, YES},
	{"https://1.example.net/", YES, YES},
	{"https://mytest.dev/", YES, YES},

	/* schemes */
	{"http://bsky.social/", NO, NO},
	{"ftp://bsky.social/", NO, NO},
	{"file:///etc/passwd", NO, NO},
	{"gopher://bsky.social/", NO, NO},
	{"https:bsky.social", NO, NO},
	{"https:/bsky.social", NO, NO},
	{"https:///bsky.social", NO, NO},
	{"bsky.social", NO, NO},
	{"//bsky.social", NO, NO},
	{"", NO, NO},
	{"https://", NO, NO},
	{" https://bsky.social/", NO, NO},

	/* ports */
	{"https://bsky.social:8443/", NO, NO},
	{"https://bsky.social:80/", NO, NO},
	{"https://bsky.social:/", NO, NO},
	{"https://bsky.social:0/", NO, NO},
	{"https://bsky.social:65979/", NO, NO},
	{"https://bsky.social:4294967739/", NO, NO},
	{"https://bsky.social:+443/", NO, NO},
	{"https://bsky.social:443:443/", NO, NO},
	{"https://bsky.social:443@10.0.0.1/", NO, NO},

	/* users, and hosts hidden behind them */
	{"https://user@bsky.social/", NO, NO},
	{"https://user:pass@bsky.social/", NO, NO},
	{"https://@bsky.social/", NO, NO},
	{"https://bsky.social\\@127.0.0.1/", NO, NO},
	{"https://bsky.social#@127.0.0.1/", YES, YES},
	{"https://bsky.social?@127.0.0.1/", YES, YES},
	{"https://bsky.social%2e/", NO, NO},
	{"https://bsky.social%00.evil.com/", NO, NO},
	{"https://bsky.social\t/", NO, NO},
	{"https://bsky.social/a b", NO, NO},
	{"https://bsky.social/a\r\nX: y", NO, NO},
	{"https://bsky.social/\xc3\xa4", NO, NO},
	{"https://b\xc3\xa4r.social/", NO, NO},

	/* names */
	{"https://localhost/", NO, NO},
	{"https://intranet/", NO, NO},
	{"https://bsky.social./", NO, NO},
	{"https://.bsky.social/", NO, NO},
	{"https://bsky..social/", NO, NO},
	{"https://./", NO, NO},
	{"https://../", NO, NO},
	{"https://-bsky.social/", NO, NO},
	{"https://bsky-.social/", NO, NO},
	{"https://bsky_.social/", NO, NO},
	{"https://a" LABEL63 ".com/", NO, NO},
	{"https://" LABEL63 "." LABEL63 "." LABEL63 "." LABEL63 "/", NO, NO},
	{"https://pds.test/", NO, EXEMPT},
	{"https://pds.TEST/", NO, EXEMPT},
	{"https://other.test/", NO, NO},
	{"https://printer.local/", NO, NO},
	{"https://x.localhost/", NO, NO},
	{"https://x.invalid/", NO, NO},
	{"https://x.example/", NO, NO},
	{"https://metadata.google.internal/", NO, NO},
	{"https://x.onion/", NO, NO},

	/* addresses in any disguise */
	{"https://8.8.8.8/", YES, YES},
	{"https://127.0.0.1/", NO, NO},
	{"https://127.1/", NO, NO},
	{"https://127.0.1/", NO, NO},
	{"https://2130706433/", NO, NO},
	{"https://0x7f.1/", NO, NO},
	{"https://0x7f000001/", NO, NO},
	{"https://017700000001/", NO, NO},
	{"https://0177.0.0.1/", NO, NO},
	{"https://8.8.8.010/", NO, NO},
	{"https://8.8.8.8./", NO, NO},
	{"https://8.8.0x808/", NO, NO},
	{"https://8.8.8.8.8/", NO, NO},
	{"https://foo.0x7f/", NO, NO},
	{"https://0.0.0.0/", NO, NO},
	{"https://169.254.169.254/latest/meta-data/", NO, NO},
	{"https://10.1.2.3/", NO, NO},
	{"https://100.64.0.1/", NO, NO},
	{"https://[::1]/", NO, NO},
	{"https://[::]/", NO, NO},
	{"https://[::ffff:127.0.0.1]/", NO, NO},
	{"https://[::ffff:8.8.8.8]/", YES, YES},
	{"https://[2606:4700::1111]/", YES, YES},
	{"https://[2606:4700::1111]:443/", YES, YES},
	{"https://[2606:4700::1111]:8443/", NO, NO},
	{"https://[2606:4700::1111]x/", NO, NO},
	{"https://[2606:4700::1111", NO, NO},
	{"https://[fe80::1%25eth0]/", NO, NO},
	{"https://[]/", NO, NO},
	{"https://[8.8.8.8]/", NO, NO},
	{"https://2606:4700::1111/", NO, NO},

	/* the list: that host at that port, whatever the scheme */
	{"http://localhost:2583/xrpc", NO, EXEMPT},
	{"https://localhost:2583/xrpc", NO, EXEMPT},
	{"http://LocalHost:2583/xrpc", NO, EXEMPT},
	{"http://127.0.0.1:2583/", NO, EXEMPT},
	{"http://[::1]/", NO, EXEMPT},
	{"http://pds.test:443/", NO, EXEMPT},
	{"http://localhost:2584/", NO, NO},
	{"http://localhost:258/", NO, NO},
	{"http://localhost/", NO, NO},
	{"http://xlocalhost:2583/", NO, NO},
	{"http://user@localhost:2583/", NO, NO},
	{"ftp://localhost:2583/", NO, NO},
	{"http://127.1:2583/", NO, NO},
	{"http://pds.test/", NO, NO},
};

typedef struct IpCase
{
	const char *ip;
	bool		public;
} IpCase;

/* The first and last address of each range, and their neighbours outside */
static const IpCase ips[] = {
	{"0.0.0.0", false}, {"0.255.255.255", false}, {"1.0.0.0", true},
	{"9.255.255.255", true}, {"10.0.0.0", false},
	{"10.255.255.255", false}, {"11.0.0.0", true},
	{"100.63.255.255", true}, {"100.64.0.0", false},
	{"100.127.255.255", false}, {"100.128.0.0", true},
	{"126.255.255.255", true}, {"127.0.0.0", false},
	{"127.255.255.255", false}, {"128.0.0.0", true},
	{"169.253.255.255", true}, {"169.254.0.0", false},
	{"169.254.255.255", false}, {"169.255.0.0", true},
	{"172.15.255.255", true}, {"172.16.0.0", false},
	{"172.31.255.255", false}, {"172.32.0.0", true},
	{"191.255.255.255", true}, {"192.0.0.0", false},
	{"192.0.0.255", false}, {"192.0.1.0", true},
	{"192.0.2.0", false}, {"192.0.2.255", false}, {"192.0.3.0", true},
	{"192.88.98.255", true}, {"192.88.99.0", false},
	{"192.88.99.255", false}, {"192.88.100.0", true},
	{"192.167.255.255", true}, {"192.168.0.0", false},
	{"192.168.255.255", false}, {"192.169.0.0", true},
	{"198.17.255.255", true}, {"198.18.0.0", false},
	{"198.19.255.255", false}, {"198.20.0.0", true},
	{"198.51.99.255", true}, {"198.51.100.0", false},
	{"198.51.100.255", false}, {"198.51.101.0", true},
	{"203.0.112.255", true}, {"203.0.113.0", false},
	{"203.0.113.255", false}, {"203.0.114.0", true},
	{"223.255.255.255", true}, {"224.0.0.0", false},
	{"239.255.255.255", false}, {"240.0.0.0", false},
	{"255.255.255.255", false},

	{"::", false}, {"::1", false}, {"::8.8.8.8", false},
	{"1fff:ffff::1", false}, {"2000::1", true}, {"2606:4700::1111", true},
	{"3ffe::1", true}, {"3fff:fff:ffff::1", false}, {"3fff:1000::1", true},
	{"4000::1", false}, {"5f00::1", false}, {"fc00::1", false},
	{"fd00::1", false}, {"fe80::1", false}, {"fec0::1", false},
	{"ff02::1", false}, {"100::1", false},
	{"2001::1", false}, {"2001:0:ffff::1", false}, {"2001:2::1", false},
	{"2001:20::1", false}, {"2001:1ff:ffff::1", false},
	{"2001:200::1", true}, {"2001:db7::1", true}, {"2001:db8::1", false},
	{"2001:db8:ffff::1", false}, {"2001:db9::1", true},
	{"2001:4860:4860::8888", true},

	{"2002:808:808::1", true}, {"2002:7f00:1::1", false},
	{"2002:a9fe:a9fe::1", false}, {"2002:c0a8:101::1", false},
	{"64:ff9b::8.8.8.8", true}, {"64:ff9b::127.0.0.1", false},
	{"64:ff9b::10.0.0.1", false}, {"64:ff9b::169.254.169.254", false},
	{"64:ff9b:1::8.8.8.8", false}, {"64:ff9b:0:1::8.8.8.8", false},
	{"::ffff:8.8.8.8", true}, {"::ffff:127.0.0.1", false},
	{"::ffff:192.168.0.1", false}, {"::fffe:8.8.8.8", false},

	{"", false}, {"localhost", false}, {"127.1", false}, {"8.8.8", false},
	{"8.8.8.8 ", false}, {"fe80::1%lo", false}, {"[::1]", false}
};

#define LENGTH(array)	(sizeof(array) / sizeof(*(array)))

static void
test_urls(void)
{
	char		why[100];

	for (size_t i = 0; i < LENGTH(urls); i++)
	{
		const UrlCase *c = &urls[i];
		AddressVerdict verdict = address_check_url(c->url, NULL,
												   why, sizeof(why));

		ok(verdict == c->verdict, "\"%s\": %s", c->url,
		   verdict ? "allowed" : why);
		ok((*why == '\0') == (verdict != ADDRESS_REFUSED),
		   "a reason if and only if refused");
		ok(address_check_url(c->url, LIST, why, sizeof(why)) == c->listed,
		   "the same with a list");
	}
}

static void
test_long_urls(void)
{
	static char url[ADDRESS_MAX_URL + 2];
	char		why[10];

	memset(url, 'a', sizeof(url) - 1);
	memcpy(url, "https://bsky.social/", 20);
	ok(!address_check_url(url, NULL, why, sizeof(why)), "one byte too long");
	ok(strlen(why) == 9, "the reason is cut to its buffer");
	url[ADDRESS_MAX_URL] = '\0';
	ok(address_check_url(url, NULL, why, sizeof(why)), "as long as may be");
	ok(address_check_url("https://bsky.social", NULL, NULL, 0),
	   "no buffer for a reason is needed");
}

static void
test_lists(void)
{
	static const char *const lists[] = {
		"", ",", " , ,", "localhost", "localhost:", ":2583", "2583", "*",
		"localhost:25830", "localhost:2583x", "xlocalhost:2583"
	};

	for (size_t i = 0; i < LENGTH(lists); i++)
		ok(!address_check_url("http://localhost:2583/", lists[i], NULL, 0),
		   "list \"%s\" does not exempt localhost:2583", lists[i]);
}

static void
test_origins(void)
{
	char		origin[ADDRESS_MAX_ORIGIN];

	ok(address_url_origin("HTTPS://Bsky.Social/xrpc", origin, sizeof(origin))
	   && strcmp(origin, "https://bsky.social:443") == 0,
	   "origin in lower case, with its port");
	ok(address_url_origin("http://[::1]:99?q", origin, sizeof(origin)) &&
	   strcmp(origin, "http://[::1]:99") == 0, "origin of an IPv6 host");
	ok(!address_url_origin("https://bsky.social/", origin, 23),
	   "a buffer one too small");
	ok(address_url_origin("https://bsky.social/", origin, 24),
	   "a buffer that just fits");
	ok(!address_url_origin("ftp://bsky.social/", origin, sizeof(origin)),
	   "ftp has no origin");
}

static void
test_addresses(void)
{
	struct sockaddr_un local = {.sun_family = AF_UNIX};

	for (size_t i = 0; i < LENGTH(ips); i++)
	{
		struct sockaddr_in in = {.sin_family = AF_INET};
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
		const char *ip = ips[i].ip;

		ok(address_is_public_text(ip) == ips[i].public, "\"%s\" is %spublic",
		   ip, ips[i].public ? "" : "not ");
		if (inet_pton(AF_INET, ip, &in.sin_addr) == 1)
			ok(address_is_public((struct sockaddr *) &in) == ips[i].public,
			   "as a socket address too");
		if (inet_pton(AF_INET6, ip, &in6.sin6_addr) == 1)
			ok(address_is_public((struct sockaddr *) &in6) == ips[i].public,
			   "as a socket address too");
	}
	ok(!address_is_public((struct sockaddr *) &local), "Unix socket");
}

int
main(void)
{
	test_urls();
	test_long_urls();
	test_lists();
	test_origins();
	test_addresses();
	return done_testing();
}
