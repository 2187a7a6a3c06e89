/*-------------------------------------------------------------------------
 *
 * secret.c
 *		Secrets at rest in the memory of this process.
 *
 * May touch: one page of memory, for the key.
 *
 * A core dump of a worker, or its memory as a debugger writes it out, is to
 * show nobody's password.  The key's page is left out of dumps; what is
 * sealed with it is no use without.  Who can read the memory of the running
 * process itself can have both.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include "secret.h"
#include "wipe.h"

#define KEY_BYTES	32
#define IV_BYTES	12
#define TAG_BYTES	16

/* So much of a secret, or all of a shorter one, is taken for an echo. */
#define ECHO_BYTES	6

struct Secret
{
	int			len;
	unsigned char iv[IV_BYTES];
	unsigned char tag[TAG_BYTES];
	unsigned char bytes[FLEXIBLE_ARRAY_MEMBER];
};

static const unsigned char *
process_key(void)
{
	static unsigned char *key = NULL;
	size_t		page = sysconf(_SC_PAGESIZE);
	unsigned char *made;

	if (key != NULL)
		return key;
	made = mmap(NULL, page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (made == MAP_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map a page for a key: %m")));
	/* Not to be in a dump, in swap, or in a child. */
	(void) madvise(made, page, MADV_DONTDUMP);
	(void) madvise(made, page, MADV_DONTFORK);
	(void) mlock(made, page);
	if (!pg_strong_random(made, KEY_BYTES))
	{
		munmap(made, page);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not make a random key")));
	}
	(void) mprotect(made, page, PROT_READ);
	return key = made;
}

/* Both directions; src and dst have the length of the secret. */
static bool
run_cipher(bool encrypt, Secret *secret, unsigned char *dst,
		   const unsigned char *src)
{
	const unsigned char *key = process_key();
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int			n;
	bool		ok;

	ok = ctx != NULL &&
		EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, secret->iv,
						  encrypt) == 1 &&
		(encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES,
										secret->tag) == 1) &&
		EVP_CipherUpdate(ctx, dst, &n, src, secret->len) == 1 &&
		EVP_CipherFinal_ex(ctx, dst + n, &n) == 1 &&
		(!encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES,
										 secret->tag) == 1);
	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

void
secret_startup(void)
{
	json_set_alloc_funcs(wipe_malloc, wipe_free);
}

Secret *
secret_seal(MemoryContext context, const char *text)
{
	Secret	   *secret;
	size_t		len;

	if (text == NULL)
		return NULL;
	len = strlen(text);
	secret = MemoryContextAllocZero(context, offsetof(Secret, bytes) + len);
	secret->len = len;
	if (!pg_strong_random(secret->iv, IV_BYTES) ||
		!run_cipher(true, secret, secret->bytes, (const unsigned char *) text))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not seal a secret")));
	return secret;
}

char *
secret_open(const Secret *secret)
{
	char	   *text = palloc0(secret->len + 1);

	if (!run_cipher(false, unconstify(Secret *, secret),
					(unsigned char *) text, secret->bytes))
	{
		explicit_bzero(text, secret->len);
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not open a secret")));
	}
	return text;
}

void
secret_wipe(char *text)
{
	explicit_bzero(text, strlen(text));
	pfree(text);
}

/* How many bytes from here on are somewhere in the secret, all or nothing. */
static size_t
echo_at(const char *text, const char *secret, size_t least)
{
	size_t		longest = 0;

	for (const char *s = secret; *s != '\0'; s++)
	{
		size_t		n = 0;

		while (s[n] != '\0' && s[n] == text[n])
			n++;
		longest = Max(longest, n);
	}
	return longest >= least ? longest : 0;
}

/*
 * A server may repeat what we sent it in an error, which goes into tables
 * that many may read.
 */
void
secret_hide(const Secret *secret, char *text)
{
	char	   *plain;
	size_t		least;

	if (secret == NULL || secret->len == 0)
		return;
	plain = secret_open(secret);
	least = Min(ECHO_BYTES, secret->len);
	while (*text != '\0')
	{
		size_t		n = echo_at(text, plain, least);

		memset(text, '*', n);
		text += Max(n, 1);
	}
	secret_wipe(plain);
}
