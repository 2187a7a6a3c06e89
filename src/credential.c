/*-------------------------------------------------------------------------
 *
 * credential.c
 *		Seals secrets into envelopes and opens them; knows the key file.
 *
 * May touch: the key file, and memory of its caller.  No table, no network.
 *
 * The key file is read for each envelope and wiped before anything is
 * reported, so that neither a log nor an idle process holds a key; rotation
 * is an edit of the file.  Logins are rare, so the reads cost nothing.
 * Wherever key or plain text is in hand, functions return a failure and
 * their caller wipes first and raises then: ereport() does not come back.
 *
 * Beware of jansson's json_object(): the server exports a function of that
 * name, which is what a call would reach.  (utils/builtins.h declares it.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base64.h"
#include "credential.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"

#define KEY_BYTES 32
#define KEY_BASE64_MAX 64		/* 44 characters, and some blanks */
#define IV_BYTES 12
#define TAG_BYTES 16
#define KEY_FILE_MAX (64 * 1024)
#define SECRET_MAX (1024 * 1024)
#define PLAINTEXT_VERSION 0		/* not encrypted: development only */

typedef struct CredentialKey
{
	int			version;		/* 0: none */
	unsigned char bytes[KEY_BYTES];
} CredentialKey;

typedef struct Envelope
{
	int			version;		/* of the key; PLAINTEXT_VERSION: none */
	bool		binds_did;		/* the DID is additional authenticated data */
	unsigned char iv[IV_BYTES];
	unsigned char tag[TAG_BYTES];
	unsigned char *text;		/* cipher text, or plain text */
	int			len;
} Envelope;

/*
 * Key file
 */

/* The path is for superusers; others learn which setting names it. */
static const char *
shown_path(void)
{
	return superuser() ? rsvp_sync_credential_key_file
		: "rsvp_sync.credential_key_file";
}

static bool
have_key_file(void)
{
	return rsvp_sync_credential_key_file != NULL &&
		rsvp_sync_credential_key_file[0] != '\0';
}

/*
 * The rules of ssl_key_file: a regular file of the server's user, for him
 * alone, or one of root that the server's group may read at most.
 */
static void
check_key_file(const struct stat *st)
{
	mode_t		forbidden = st->st_uid == geteuid() ?
		S_IRWXG | S_IRWXO : S_IWGRP | S_IXGRP | S_IRWXO;

	if (!S_ISREG(st->st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("credential key file \"%s\" is not a regular file",
						shown_path()),
				 errhint("Let rsvp_sync.credential_key_file name a file.")));
	if (st->st_uid != geteuid() && st->st_uid != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("credential key file \"%s\" belongs to another user",
						shown_path()),
				 errhint("It must be owned by the server's user or root.")));
	if (st->st_mode & forbidden)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("credential key file \"%s\" has group or world access",
						shown_path()),
				 errhint("It must have permissions u=rw (0600) or less if "
						 "owned by the server's user, or u=rw,g=r (0640) or "
						 "less if owned by root.")));
	if (st->st_size > KEY_FILE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("credential key file \"%s\" is too large",
						shown_path()),
				 errhint("It holds one line for each key, %d bytes in all "
						 "at most.", KEY_FILE_MAX)));
}

/* Open the key file; its rights are checked on what was opened. */
static int
open_key_file(void)
{
	struct stat st;
	int			fd;

	/* Not to wait for ever for the other end, should it be a pipe. */
	fd = OpenTransientFile(rsvp_sync_credential_key_file,
						   O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open credential key file \"%s\": %m",
						shown_path()),
				 errhint("The server's user must be able to read the file "
						 "that rsvp_sync.credential_key_file names.")));
	check_key_file(&st);
	return fd;
}

/* Read the key file as a string; the caller wipes it. */
static void
read_key_file(char *buf)
{
	int			fd = open_key_file();
	size_t		len = 0;
	ssize_t		n;

	while ((n = read(fd, buf + len, KEY_FILE_MAX - len)) > 0)
		len += n;
	buf[len] = '\0';
	if (n < 0)
	{
		int			save_errno = errno;

		explicit_bzero(buf, KEY_FILE_MAX + 1);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read credential key file \"%s\": %m",
						shown_path())));
	}
	CloseTransientFile(fd);
}

/* One line, "version:base64 of 32 bytes", without blanks around it. */
static bool
parse_key_line(const char *line, CredentialKey *key)
{
	char	   *end;
	long		version;
	int			len;

	if (*line < '0' || *line > '9')
		return false;
	errno = 0;
	version = strtol(line, &end, 10);
	if (errno != 0 || version < 1 || version > INT_MAX || *end != ':')
		return false;
	key->version = (int) version;
	end++;
	len = strlen(end);
	return len <= KEY_BASE64_MAX &&
		pg_b64_decode(end, len, (void *) key->bytes, KEY_BYTES) == KEY_BYTES;
}

/*
 * Find a key: that of the version wanted, or, if that is 0, the newest.
 * Returns 0, or the number of the first line that is none.  A version given
 * twice is an error, since there would be no telling which key is meant.
 */
static int
find_key(char *text, int wanted, CredentialKey *found)
{
	int			seen[KEY_FILE_MAX / KEY_BASE64_MAX];
	int			nseen = 0;
	int			lineno = 0;
	char	   *line;

	while ((line = strsep(&text, "\n")) != NULL)
	{
		CredentialKey key = {0};
		int			len = strcspn(line, "\r");
		bool		bad;

		lineno++;
		line[len] = '\0';
		line += strspn(line, " \t");
		if (*line == '\0' || *line == '#')
			continue;
		bad = nseen == lengthof(seen) || !parse_key_line(line, &key);
		for (int i = 0; !bad && i < nseen; i++)
			bad = seen[i] == key.version;
		if (!bad)
			seen[nseen++] = key.version;
		if (!bad && (wanted == 0 ? key.version > found->version
					 : key.version == wanted))
			*found = key;
		explicit_bzero(&key, sizeof(key));
		if (bad)
			return lineno;
	}
	return 0;
}

/* As find_key(), from the key file.  The caller wipes the key. */
static void
load_key(int wanted, CredentialKey *key)
{
	char	   *text = palloc(KEY_FILE_MAX + 1);
	int			bad_line;

	memset(key, 0, sizeof(*key));
	read_key_file(text);
	bad_line = find_key(text, wanted, key);
	explicit_bzero(text, KEY_FILE_MAX + 1);
	pfree(text);

	if (bad_line != 0)
	{
		explicit_bzero(key, sizeof(*key));
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("line %d of credential key file \"%s\" is not a key",
						bad_line, shown_path()),
				 errhint("A line is \"version:base64 of 32 bytes\", the "
						 "version a positive number that no other line has: "
						 "echo \"1:$(openssl rand -base64 32)\".")));
	}
	if (key->version != 0)
		return;
	if (wanted == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("credential key file \"%s\" has no key in it",
						shown_path()),
				 errhint("Add one: echo \"1:$(openssl rand -base64 32)\".")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("credential key %d is not in the key file \"%s\"",
					wanted, shown_path()),
			 errhint("The envelope was made with that key; put it back, or "
					 "connect the account again.")));
}

/* Nothing can be encrypted or decrypted: say both ways out. */
static void
refuse_without_key_file(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s", what),
			 errhint("Write a key file (echo \"1:$(openssl rand -base64 32)\", "
					 "mode 0600, owned by the server's user), set "
					 "rsvp_sync.credential_key_file to its path and reload; "
					 "or, for development only, set "
					 "rsvp_sync.allow_plaintext_credentials = on.")));
}

/*
 * AES-256-GCM
 */

/*
 * Both directions; returns false if OpenSSL fails, which on the way back
 * includes a tag that does not fit.  dst has room for len bytes.
 */
static bool
run_gcm(bool encrypt, const CredentialKey *key, Envelope *envelope,
		const char *did, unsigned char *dst, const unsigned char *src)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int			n;
	bool		ok;

	ok = ctx != NULL &&
		EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes,
						  envelope->iv, encrypt) == 1 &&
		(encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES,
										envelope->tag) == 1) &&
		(!envelope->binds_did ||
		 EVP_CipherUpdate(ctx, NULL, &n, (const unsigned char *) did,
						  strlen(did)) == 1) &&
		EVP_CipherUpdate(ctx, dst, &n, src, envelope->len) == 1 &&
		EVP_CipherFinal_ex(ctx, dst + n, &n) == 1 &&
		(!encrypt || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES,
										 envelope->tag) == 1);
	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

/*
 * Envelope to JSON and back
 */

static char *
base64_of(const unsigned char *bytes, int len)
{
	int			size = pg_b64_enc_len(len);
	char	   *text = palloc(size + 1);
	int			n = pg_b64_encode((const void *) bytes, len, text, size);

	Assert(n >= 0);
	text[n] = '\0';
	return text;
}

/* Nothing in it needs escaping: numbers and base64. */
static char *
write_envelope(const Envelope *envelope)
{
	return psprintf("{\"v\":%d,\"iv\":\"%s\",\"ciphertext\":\"%s\","
					"\"authTag\":\"%s\",\"aad\":\"did\"}",
					envelope->version,
					base64_of(envelope->iv, IV_BYTES),
					base64_of(envelope->text, envelope->len),
					base64_of(envelope->tag, TAG_BYTES));
}

/* A member that is base64: its length in bytes, at most size; -1: it is not */
static int
read_base64(const json_t *object, const char *member,
			unsigned char *dst, int size)
{
	const json_t *value = json_object_get(object, member);

	if (!json_is_string(value))
		return -1;
	return pg_b64_decode(json_string_value(value), json_string_length(value),
						 (void *) dst, size);
}

/*
 * Fill in the envelope from JSON.  Returns NULL, or what is wrong with it.
 * The caller has made envelope->text large enough.
 */
static const char *
fill_envelope(const json_t *object, Envelope *envelope, int size)
{
	const json_t *version = json_object_get(object, "v");
	const json_t *aad = json_object_get(object, "aad");
	const char *text;

	if (!json_is_integer(version) || json_integer_value(version) < 0 ||
		json_integer_value(version) > INT_MAX)
		return "\"v\" is not a key version.";
	envelope->version = json_integer_value(version);
	if (aad != NULL && (!json_is_string(aad) ||
						strcmp(json_string_value(aad), "did") != 0))
		return "\"aad\" is not \"did\".";
	envelope->binds_did = aad != NULL;

	text = envelope->version == PLAINTEXT_VERSION ? "plaintext" : "ciphertext";
	envelope->len = read_base64(object, text, envelope->text, size);
	if (envelope->len < 0)
		return psprintf("\"%s\" is not base64.", text);
	if (envelope->version == PLAINTEXT_VERSION)
		return NULL;
	if (read_base64(object, "iv", envelope->iv, IV_BYTES) != IV_BYTES)
		return "\"iv\" is not base64 of 12 bytes.";
	if (read_base64(object, "authTag", envelope->tag, TAG_BYTES) != TAG_BYTES)
		return "\"authTag\" is not base64 of 16 bytes.";
	return NULL;
}

/* Parse an envelope; its text may be secret (version 0), so none is shown. */
static void
read_envelope(const char *text, Envelope *envelope)
{
	size_t		len = strlen(text);
	const char *problem = "It is too long.";

	memset(envelope, 0, sizeof(*envelope));
	if (len <= 2 * SECRET_MAX)
	{
		json_t	   *object;

		envelope->text = palloc(len + 1);
		object = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
		problem = json_is_object(object) ?
			fill_envelope(object, envelope, len) : "It is not a JSON object.";
		json_decref(object);
	}
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid credential envelope"),
				 errdetail_internal("%s", problem),
				 errhint("An envelope is {\"v\": key version, \"iv\": ..., "
						 "\"ciphertext\": ..., \"authTag\": ...}, the last "
						 "three in base64.")));
}

/*
 * The door
 */

static char *
seal_plaintext(const char *secret, size_t len)
{
	char	   *base64;
	char	   *envelope;

	if (!rsvp_sync_allow_plaintext_credentials)
		refuse_without_key_file("there is no key to encrypt credentials with");
	base64 = base64_of((const unsigned char *) secret, len);
	envelope = psprintf("{\"v\":%d,\"plaintext\":\"%s\"}",
						PLAINTEXT_VERSION, base64);
	credential_wipe(base64);
	return envelope;
}

int
credential_key_version(void)
{
	CredentialKey key;

	if (!have_key_file())
		refuse_without_key_file("there is no key to encrypt credentials with");
	load_key(0, &key);
	explicit_bzero(key.bytes, KEY_BYTES);
	return key.version;
}

char *
credential_seal(const char *secret, size_t len, const char *did)
{
	Envelope	envelope = {.binds_did = true,.len = len};
	CredentialKey key;
	bool		ok;

	if (len > SECRET_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("credential is too long"),
				 errhint("At most %d bytes are kept.", SECRET_MAX)));
	if (!have_key_file())
		return seal_plaintext(secret, len);

	envelope.text = palloc(len + 1);
	load_key(0, &key);
	envelope.version = key.version;
	ok = pg_strong_random(envelope.iv, IV_BYTES) &&
		run_gcm(true, &key, &envelope, did, envelope.text,
				(const unsigned char *) secret);
	explicit_bzero(&key, sizeof(key));
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not encrypt credential")));
	return write_envelope(&envelope);
}

char *
credential_seal_wiping(char *secret, const char *did)
{
	char	   *volatile envelope = NULL;

	PG_TRY();
	{
		envelope = credential_seal(secret, strlen(secret), did);
	}
	PG_CATCH();
	{
		credential_wipe(secret);
		PG_RE_THROW();
	}
	PG_END_TRY();
	credential_wipe(secret);
	return envelope;
}

/* Decrypt into secret, which has room for envelope->len bytes. */
static void
decrypt_envelope(Envelope *envelope, const char *did, char *secret)
{
	CredentialKey key;
	bool		ok;

	if (!have_key_file())
		refuse_without_key_file("there is no key to decrypt credentials with");
	load_key(envelope->version, &key);
	ok = run_gcm(false, &key, envelope, did, (unsigned char *) secret,
				 envelope->text);
	explicit_bzero(&key, sizeof(key));
	if (ok)
		return;
	/* GCM writes before it checks. */
	explicit_bzero(secret, envelope->len);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("credential envelope of \"%s\" cannot be decrypted", did),
			 errdetail("It was changed, or made with another key %d%s.",
					   envelope->version,
					   envelope->binds_did ? ", or for another DID" : ""),
			 errhint("Connect the account again.")));
}

char *
credential_open(const char *text, const char *did)
{
	Envelope	envelope;
	char	   *secret;

	read_envelope(text, &envelope);
	secret = palloc0(envelope.len + 1);
	if (envelope.version != PLAINTEXT_VERSION)
		decrypt_envelope(&envelope, did, secret);
	else if (rsvp_sync_allow_plaintext_credentials)
		memcpy(secret, envelope.text, envelope.len);
	explicit_bzero(envelope.text, envelope.len);
	pfree(envelope.text);
	if (envelope.version == PLAINTEXT_VERSION &&
		!rsvp_sync_allow_plaintext_credentials)
		refuse_without_key_file("plain-text credentials are not allowed");

	/* A zero byte is refused here, too. */
	if (!pg_verifymbstr(secret, envelope.len, true))
	{
		explicit_bzero(secret, envelope.len);
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("credential envelope of \"%s\" does not hold text",
						did)));
	}
	return secret;
}

void
credential_wipe(char *secret)
{
	explicit_bzero(secret, strlen(secret));
	pfree(secret);
}
