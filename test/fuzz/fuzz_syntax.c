/*-------------------------------------------------------------------------
 *
 * fuzz_syntax.c
 *		Fuzz target: every pure parser on the same arbitrary text.
 *
 * Memory errors are the sanitizers' to find.  What is checked here is what
 * must hold between the answers, whatever the text is: the parts of an
 * at-uri are what they are called and make up the whole, a decoded cid
 * encodes to the text it came from, identifiers that exclude each other do,
 * and what is rendered is as long as was measured, and means nothing more.
 * A broken promise aborts.
 *
 * The file knows nothing of the fuzzer but the entry point, so it links with
 * libFuzzer and with the plain driver in driver.c alike.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/render.h"
#include "../../src/syntax.h"

#define PROMISE(holds) \
	do { \
		if (!(holds)) \
		{ \
			fprintf(stderr, "broken: %s\n", #holds); \
			abort(); \
		} \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
all_ascii(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return true;
}

/* Write a part behind its separator, if it is there; returns its end. */
static char *
append(char *end, const char *separator, Slice part)
{
	if (part.data == NULL)
		return end;
	memcpy(end, separator, strlen(separator));
	end += strlen(separator);
	memcpy(end, part.data, part.len);
	return end + part.len;
}

static void
check_at_uri(const char *text, size_t len)
{
	static char whole[AT_URI_MAX];
	AtUri		uri;
	char	   *end = whole;
	bool		valid = syntax_parse_at_uri(text, len, &uri);

	PROMISE(valid == syntax_is_at_uri(text, len));
	if (!valid)
		return;
	PROMISE(len <= AT_URI_MAX && all_ascii(text, len));
	PROMISE(syntax_is_did(uri.authority.data, uri.authority.len) !=
			syntax_is_handle(uri.authority.data, uri.authority.len));
	PROMISE(uri.collection.data == NULL
			|| syntax_is_nsid(uri.collection.data, uri.collection.len));
	PROMISE(uri.rkey.data == NULL || uri.collection.data != NULL);
	PROMISE(uri.rkey.data == NULL
			|| syntax_is_record_key(uri.rkey.data, uri.rkey.len));
	end = append(end, "at://", uri.authority);
	end = append(end, "/", uri.collection);
	end = append(end, "/", uri.rkey);
	end = append(end, "#", uri.fragment);
	PROMISE((size_t) (end - whole) == len && memcmp(whole, text, len) == 0);
}

static void
check_cid(const char *text, size_t len)
{
	unsigned char bytes[CID_BYTES_MAX];
	char		again[BASE32_ENCODED_SIZE(CID_BYTES_MAX)];
	size_t		nbytes;

	if (syntax_is_cid(text, len))
		PROMISE(len >= CID_MIN && len <= CID_MAX && all_ascii(text, len)
				&& multibase_is_valid(text, len));
	if (!syntax_parse_cid(text, len, bytes, &nbytes))
		return;
	PROMISE(syntax_is_cid(text, len) && bytes[0] == 1);
	PROMISE(base32_encode(bytes, nbytes, again) == len - 1
			&& memcmp(again, text + 1, len - 1) == 0);
}

/* Any bytes survive base32; any base64 that decodes has the right length. */
static void
check_bases(const char *text, size_t len)
{
	char	   *encoded = malloc(BASE32_ENCODED_SIZE(len) + 1);
	unsigned char *decoded = malloc(len + 1);
	unsigned char *from64 = malloc(BASE64_DECODED_SIZE(len));
	size_t		size = base32_encode((const unsigned char *) text, len,
									 encoded);
	size_t		n;

	PROMISE(size == BASE32_ENCODED_SIZE(len));
	PROMISE(base32_decode(encoded, size, decoded, &n));
	PROMISE(n == len && memcmp(decoded, text, len) == 0);
	if (base64_decode(text, len, from64, &n))
		PROMISE(n <= len * 3 / 4 && n + 2 >= len / 4 * 3);
	free(from64);
	free(decoded);
	free(encoded);
}

static void
check_names(const char *text, size_t len)
{
	bool		did = syntax_is_did(text, len);
	bool		handle = syntax_is_handle(text, len);
	bool		nsid = syntax_is_nsid(text, len);
	bool		tid = syntax_is_tid(text, len);
	bool		datetime = syntax_is_datetime(text, len);

	PROMISE(did + handle + tid + datetime <= 1 && nsid + did + tid <= 1);
	PROMISE(!tid || syntax_is_record_key(text, len));
	PROMISE(!handle || syntax_is_record_key(text, len));
	PROMISE(!nsid || syntax_is_record_key(text, len));
	PROMISE(!(did || handle || nsid || datetime) || all_ascii(text, len));
	PROMISE(!datetime || (len >= 20 && text[10] == 'T'));
}

/* In memory of just the size that was measured. */
static char *
rendered(RenderFn render, const char *text, size_t len, size_t *size)
{
	char	   *out;

	*size = render(text, len, NULL);
	out = malloc(*size ? *size : 1);
	PROMISE(render(text, len, out) == *size);
	return out;
}

static bool
has_any(const char *text, size_t len, const char *characters)
{
	for (; *characters; characters++)
		if (memchr(text, *characters, len) != NULL)
			return true;
	return false;
}

static void
check_render(const char *text, size_t len)
{
	static const RenderFn forms[] = {render_cdata, render_ics_text,
	render_ics_param, render_ics_fold, render_xml, render_plain};
	size_t		size;
	char	   *out = rendered(render_html, text, len, &size);

	PROMISE(size >= len && !has_any(out, size, "<>\"'\r"));
	free(out);
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
	{
		out = rendered(forms[i], text, len, &size);
		PROMISE(forms[i] != render_xml || !has_any(out, size, "<>\"'\r\b"));
		PROMISE(forms[i] != render_ics_text || !has_any(out, size, "\r\n"));
		PROMISE(forms[i] != render_ics_param || !has_any(out, size, "\r\n\""));
		PROMISE(forms[i] != render_plain || size <= 3 * len);
		free(out);
	}
	if (render_is_link(text, len))
		PROMISE(len > 7 && !has_any(text, len, " <>\"\\\n\r\t"));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;

	check_names(text, size);
	check_at_uri(text, size);
	check_cid(text, size);
	check_bases(text, size);
	check_render(text, size);
	return 0;
}
