/*-------------------------------------------------------------------------
 *
 * url.c
 *		URLs as the open web writes them: resolving, comparing, encoding.
 *
 * libcurl's own functions will not do: an empty reference means its parent
 * directory to them, and a space in a query becomes a plus.
 *
 *-------------------------------------------------------------------------
 */
#include "url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef struct Part
{
	const char *data;			/* NULL: there is none, which is not "" */
	size_t		len;
} Part;

typedef struct Url
{
	Part		scheme;
	Part		authority;
	Part		path;			/* always there */
	Part		query;
	Part		fragment;
} Url;

static bool
is_alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

/* The length of a scheme in front, without its colon; 0: there is none */
static size_t
scheme_length(const char *s)
{
	size_t		n = 0;

	if (!is_alpha(s[0]))
		return 0;
	while (is_alpha(s[n]) || is_digit(s[n]) || (s[n] != '\0' &&
												strchr("+-.", s[n])))
		n++;
	return s[n] == ':' ? n : 0;
}

static void
split(const char *s, Url *url)
{
	size_t		n = scheme_length(s);

	memset(url, 0, sizeof(*url));
	if (n > 0)
	{
		url->scheme = (Part) {s, n};
		s += n + 1;
	}
	if (s[0] == '/' && s[1] == '/')
	{
		s += 2;
		url->authority = (Part) {s, strcspn(s, "/?#")};
		s += url->authority.len;
	}
	url->path = (Part) {s, strcspn(s, "?#")};
	s += url->path.len;
	if (*s == '?')
	{
		s++;
		url->query = (Part) {s, strcspn(s, "#")};
		s += url->query.len;
	}
	if (*s == '#')
		url->fragment = (Part) {s + 1, strlen(s + 1)};
}

static char *
join(Arena *arena, const Url *url)
{
	Text		text = {arena};

	if (url->scheme.data != NULL)
	{
		text_add(&text, url->scheme.data, url->scheme.len);
		text_add(&text, ":", 1);
	}
	if (url->authority.data != NULL)
	{
		text_add(&text, "//", 2);
		text_add(&text, url->authority.data, url->authority.len);
	}
	text_add(&text, url->path.data, url->path.len);
	if (url->query.data != NULL)
	{
		text_add(&text, "?", 1);
		text_add(&text, url->query.data, url->query.len);
	}
	if (url->fragment.data != NULL)
	{
		text_add(&text, "#", 1);
		text_add(&text, url->fragment.data, url->fragment.len);
	}
	return text_done(&text);
}

static bool
segment_is(const char *from, const char *to, const char *dots)
{
	return (size_t) (to - from) == strlen(dots) &&
		memcmp(from, dots, to - from) == 0;
}

/* RFC 3986 5.2.4, in place: the result is never longer. */
static void
remove_dots(char *path)
{
	char	   *out = path;
	const char *in = path;
	bool		absolute = *path == '/';

	while (*in != '\0')
	{
		const char *segment = *in == '/' ? in + 1 : in;
		const char *end = segment + strcspn(segment, "/");
		bool		last = *end == '\0';

		if (segment_is(segment, end, ".."))
		{
			while (out > path && *--out != '/')
				;
			if (last && (absolute || out > path))
				*out++ = '/';
		}
		else if (segment_is(segment, end, "."))
		{
			if (last && (absolute || out > path))
				*out++ = '/';
		}
		else
		{
			memmove(out, in, end - in);
			out += end - in;
		}
		in = end;
	}
	*out = '\0';
}

/* The path of a reference, merged with that of its base (5.2.3) */
static Part
merged_path(Arena *arena, const Url *base, Part path)
{
	Text		text = {arena};
	size_t		keep = base->path.len;

	if (path.len == 0 || path.data[0] != '/')
	{
		while (keep > 0 && base->path.data[keep - 1] != '/')
			keep--;
		text_add(&text, base->path.data, keep);
		if (keep == 0 && base->authority.data != NULL)
			text_add(&text, "/", 1);
	}
	text_add(&text, path.data, path.len);
	if (text_done(&text) == NULL)
		return path;
	remove_dots(text.data);
	return (Part) {text.data, strlen(text.data)};
}

/*
 * Without blanks around it, nor line ends within, as browsers read it; NULL
 * if it is too long.
 */
static char *
cleaned(Arena *arena, const char *ref)
{
	size_t		len = strlen(ref);
	char	   *copy;
	size_t		n = 0;

	while (len > 0 && (unsigned char) ref[len - 1] <= ' ')
		len--;
	while (len > 0 && (unsigned char) *ref <= ' ')
	{
		ref++;
		len--;
	}
	copy = len <= URL_MAX ? arena_alloc(arena, len + 1) : NULL;
	for (size_t i = 0; copy != NULL && i < len; i++)
		if (ref[i] != '\t' && ref[i] != '\n' && ref[i] != '\r')
			copy[n++] = ref[i];
	return copy;
}

char *
url_resolve(Arena *arena, const char *base_url, const char *ref)
{
	char	   *clean = cleaned(arena, ref);
	Url			base;
	Url			url;
	char	   *path;

	if (clean == NULL)
		return NULL;
	split(clean, &url);
	if (url.authority.data != NULL &&
		(path = arena_copy(arena, url.path.data, url.path.len)) != NULL)
	{
		remove_dots(path);
		url.path = (Part) {path, strlen(path)};
	}
	if (url.scheme.data != NULL)
		return join(arena, &url);
	if (base_url == NULL)
		return NULL;
	clean = cleaned(arena, base_url);
	if (clean == NULL)
		return NULL;
	split(clean, &base);
	if (base.scheme.data == NULL || base.authority.data == NULL)
		return NULL;
	url.scheme = base.scheme;
	if (url.authority.data != NULL)
		return join(arena, &url);
	url.authority = base.authority;
	if (url.path.len > 0)
		url.path = merged_path(arena, &base, url.path);
	else
	{
		url.path = base.path;
		if (url.query.data == NULL)
			url.query = base.query;
	}
	return join(arena, &url);
}

static bool
part_is(Part part, const char *word)
{
	return part.data != NULL && part.len == strlen(word) &&
		strncasecmp(part.data, word, part.len) == 0;
}

static bool
is_web(const Url *url)
{
	return (part_is(url->scheme, "http") || part_is(url->scheme, "https")) &&
		url->authority.data != NULL && url->authority.len > 0 &&
		url->authority.data[0] != ':';
}

bool
url_is_web(const char *text)
{
	Url			url;

	split(text, &url);
	return is_web(&url);
}

/* Bytes that no URL may have, encoded; what is encoded already stays so. */
static void
add_encoded(Text *text, Part part)
{
	for (size_t i = 0; i < part.len; i++)
	{
		unsigned char c = part.data[i];
		char		hex[4];

		if (c > ' ' && c < 0x7f && !strchr("\"<>\\^`{|}", c))
		{
			text_add(text, (const char *) &c, 1);
			continue;
		}
		snprintf(hex, sizeof(hex), "%%%02X", c);
		text_add(text, hex, 3);
	}
}

static char *
encoded(Arena *arena, const Url *url)
{
	Text		text = {arena};

	text_add(&text, url->scheme.data, url->scheme.len);
	text_add(&text, "://", 3);
	add_encoded(&text, url->authority);
	add_encoded(&text, url->path);
	if (url->query.data != NULL)
	{
		text_add(&text, "?", 1);
		add_encoded(&text, url->query);
	}
	return text_done(&text);
}

char *
url_for_request(Arena *arena, const char *text)
{
	Url			url;

	split(text, &url);
	return is_web(&url) ? encoded(arena, &url) : NULL;
}

/* The authority in lower case, without a port that goes without saying */
static Part
plain_authority(Arena *arena, const Url *url)
{
	char	   *copy = arena_copy(arena, url->authority.data,
								  url->authority.len);
	size_t		len = url->authority.len;
	const char *port = part_is(url->scheme, "https") ? ":443" : ":80";
	size_t		port_len = strlen(port);

	if (copy == NULL)
		return url->authority;
	for (size_t i = 0; i < len; i++)
		copy[i] = lower(copy[i]);
	if (len > port_len && memcmp(copy + len - port_len, port, port_len) == 0)
		len -= port_len;
	else if (copy[len - 1] == ':')
		len--;
	return (Part) {copy, len};
}

static bool
make_plain(Arena *arena, const char *text, Url *url)
{
	split(text, url);
	if (!is_web(url))
		return false;
	url->authority = plain_authority(arena, url);
	url->scheme = part_is(url->scheme, "https") ?
		(Part) {"https", 5} : (Part) {"http", 4};
	if (url->path.len == 0)
		url->path = (Part) {"/", 1};
	return true;
}

bool
url_same(Arena *arena, const char *a, const char *b)
{
	Url			url_a;
	Url			url_b;
	char	   *plain_a;
	char	   *plain_b;

	if (strcmp(a, b) == 0)
		return true;
	if (!make_plain(arena, a, &url_a) || !make_plain(arena, b, &url_b))
		return false;
	plain_a = encoded(arena, &url_a);
	plain_b = encoded(arena, &url_b);
	return plain_a != NULL && plain_b != NULL &&
		strcmp(plain_a, plain_b) == 0 &&
		url_a.fragment.len == url_b.fragment.len &&
		(url_a.fragment.len == 0 ||
		 memcmp(url_a.fragment.data, url_b.fragment.data,
				url_a.fragment.len) == 0);
}

char *
url_origin(Arena *arena, const char *text)
{
	Url			url;

	if (!make_plain(arena, text, &url))
		return NULL;
	url.path.len = 0;
	url.query.data = NULL;
	return encoded(arena, &url);
}

void
url_add_form_value(Text *form, const char *value)
{
	for (; *value != '\0'; value++)
	{
		char		hex[4];

		if (is_alpha(*value) || is_digit(*value) || strchr("-._~", *value))
		{
			text_add(form, value, 1);
			continue;
		}
		snprintf(hex, sizeof(hex), "%%%02X", (unsigned char) *value);
		text_add(form, hex, 3);
	}
}
