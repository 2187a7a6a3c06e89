# rsvp_sync: PGXS build.
#
#   make                 build the module and the install script
#   make install         install both (DESTDIR is honoured)
#   make localcheck      run pg_regress against a private, throw-away server
#
# The install script is made of the parts under sql/, one room a file, joined
# in the order of their names; the parts are the source, the script is built.

EXTENSION = rsvp_sync
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" rsvp_sync.control)
MODULE_big = rsvp_sync
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "rsvp_sync - attendance rows and AT Protocol RSVP records in agreement"

SQL_PARTS = $(sort $(wildcard sql/[0-9][0-9]-*.sql))
DATA_built = sql/rsvp_sync--$(EXTVERSION).sql

TESTS = $(sort $(wildcard test/sql/*.sql))
REGRESS = $(patsubst test/sql/%.sql,%,$(TESTS))
REGRESS_OPTS = --inputdir=test --outputdir=tmp_check
# Most of the extension needs shared_preload_libraries; see scripts/check.
NO_INSTALLCHECK = 1

EXTRA_CLEAN = sql/rsvp_sync--$(EXTVERSION).sql tmp_check tmp_install

PG_CPPFLAGS = -DRSVP_SYNC_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers $(WERROR)
# libxml2 may be in a directory of its own, under which its headers are.
PG_CPPFLAGS += $(shell pkg-config --cflags libxml-2.0)
SHLIB_LINK = -lcurl -lcjose -ljansson -lwslay -lssl -lcrypto -lxml2 -Wl,-Bsymbolic

PG_CONFIG = pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

sql/rsvp_sync--$(EXTVERSION).sql: $(SQL_PARTS) rsvp_sync.control
	cat $(SQL_PARTS) > $@.tmp && mv $@.tmp $@

.PHONY: localcheck
localcheck:
	PG_CONFIG=$(PG_CONFIG) scripts/check regress
