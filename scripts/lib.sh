# shellcheck shell=bash
#
# Functions the scripts share: building, throw-away PostgreSQL servers, order
# at the end.  To be sourced:
#
#   . "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"
#
# Sets RS_ROOT (the tree), RS_PGBIN, RS_PG_MAJOR.  PG_MAJOR or PG_CONFIG choose
# the PostgreSQL version.  What starts or makes something must not be called in
# a subshell, or its end is not noted; results are in variables.

set -euo pipefail

RS_ROOT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

rs_say() { echo "${0##*/}: $*" >&2; }
rs_die() { rs_say "$@"; exit 1; }

# --- PostgreSQL's version

if [[ -z ${PG_CONFIG-} ]]; then
	PG_CONFIG=pg_config
	[[ -z ${PG_MAJOR-} ]] || PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
fi
command -v "$PG_CONFIG" >/dev/null || rs_die "no pg_config; scripts/install-deps installs it"
RS_PGBIN=$("$PG_CONFIG" --bindir)
RS_PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
[[ -x $RS_PGBIN/postgres ]] || rs_die "no PostgreSQL $RS_PG_MAJOR server in $RS_PGBIN; scripts/install-deps installs it"

# --- the end: what was noted is done in reverse order, however the script ends

declare -a RS_AT_EXIT=()
RS_OWNER=$BASHPID

# rs_at_exit COMMAND [ARGUMENT ...]
rs_at_exit() { RS_AT_EXIT+=("$(printf '%q ' "$@")"); }

rs_cleanup() {
	local i
	[[ $BASHPID == "$RS_OWNER" ]] || return 0
	set +e
	for ((i = ${#RS_AT_EXIT[@]} - 1; i >= 0; i--)); do eval "${RS_AT_EXIT[i]}"; done
	RS_AT_EXIT=()
	set -e
}
trap rs_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# rs_forget_cleanup: leave everything as it is (scripts/demo --keep)
rs_forget_cleanup() { RS_AT_EXIT=(); }

# rs_tmpdir VAR: a directory of the script's own, readable by the server, gone
# at the end.  (In /tmp whatever TMPDIR says: a socket's path has few bytes.)
rs_tmpdir() {
	local made
	made=$(mktemp -d /tmp/rsvp-sync.XXXXXXXX)
	chmod 0755 "$made"
	rs_at_exit rm -rf "$made"
	printf -v "$1" %s "$made"
}

# --- who runs the server: postgres, if we are root

# rs_as_pg COMMAND [ARGUMENT ...]
rs_as_pg() {
	if [[ $(id -u) -ne 0 ]]; then
		"$@"
	elif [[ ${RS_OPEN_PWD-} == "$PWD" ]] || runuser -u postgres -- test -x . 2>/dev/null; then
		RS_OPEN_PWD=$PWD
		runuser -u postgres -- "$@"
	else
		(cd / && runuser -u postgres -- "$@")
	fi
}

# rs_own PATH ...: give it to whoever runs the server
rs_own() { [[ $(id -u) -ne 0 ]] || chown -R postgres: "$@"; }

# rs_wait SECONDS COMMAND [ARGUMENT ...]: until it succeeds
rs_wait() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		((SECONDS < deadline)) || return 1
		sleep 0.1
	done
}

# rs_kill PID [SECONDS]: ask it to end, then make it
rs_kill() {
	[[ $1 =~ ^[1-9][0-9]*$ ]] || return 0
	kill "$1" 2>/dev/null || return 0
	rs_wait "${2:-10}" rs_gone "$1" || kill -9 "$1" 2>/dev/null || true
}
# A process that only waits to be reaped (init may be slow) is gone, too.
rs_gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

rs_free_port() {
	perl -MIO::Socket::INET -e \
		'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 0, Listen => 1)->sockport, "\n"'
}

# --- the extension

# rs_build: build, and install into RS_INSTALL, where a private server finds it
rs_build() {
	local make=(make -C "$RS_ROOT" --no-print-directory -s "PG_CONFIG=$PG_CONFIG" with_llvm=no WERROR=-Werror)
	local tree=$RS_ROOT/tmp_install log so
	mkdir -p "$tree"
	exec {RS_BUILD_LOCK}>"$tree/.lock"
	flock "$RS_BUILD_LOCK"
	if [[ -e $tree/.major && $(<"$tree/.major") != "$RS_PG_MAJOR" ]]; then
		"${make[@]}" clean EXTRA_CLEAN=
		rm -rf "${tree:?}/usr"
	fi
	echo "$RS_PG_MAJOR" >"$tree/.major"
	log=$(mktemp)
	if ! { "${make[@]}" -j"$(nproc)" all && "${make[@]}" install "DESTDIR=$tree"; } >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		rs_die "the build failed"
	fi
	rm -f "$log"
	exec {RS_BUILD_LOCK}>&-

	# The tree may lie where the server's user cannot go (/root).
	RS_INSTALL=$tree
	so=$("$PG_CONFIG" --pkglibdir)/rsvp_sync.so
	if ! rs_as_pg test -r "$tree$so"; then
		rs_tmpdir RS_INSTALL
		cp -r "$tree/." "$RS_INSTALL/"
		chmod -R a+rX "$RS_INSTALL"
	fi
	export RS_INSTALL
}

# rs_conf: postgresql.conf lines by which a private server finds and preloads
# what rs_build installed
rs_conf() {
	local tree=${RS_INSTALL:-$RS_ROOT/tmp_install} pkglib share
	pkglib=$("$PG_CONFIG" --pkglibdir)
	share=$("$PG_CONFIG" --sharedir)
	echo "shared_preload_libraries = 'rsvp_sync'"
	echo "dynamic_library_path = '$tree$pkglib:\$libdir'"
	if ((RS_PG_MAJOR >= 18)); then
		echo "extension_control_path = '$tree$share:\$system'"
	else # Debian's and PGDG's own setting
		echo "extension_destdir = '$tree'"
	fi
}

# --- servers

# rs_pg_start DIR [PORT] [CONF LINE ...]
# Makes (if there is none yet) and starts a server with its data in DIR/data and
# its log in DIR/log.  PORT may be empty or left out: a free one.  Sets and
# exports PGHOST (a private socket directory), PGPORT, PGUSER, PGDATABASE, and
# PGPASSWORD: the socket asks for none, 127.0.0.1 does.  Stopped at the end.
rs_pg_start() {
	local dir=$1 port='' line try
	shift
	if [[ ${1-} =~ ^[0-9]*$ && $# -gt 0 ]]; then port=$1; shift; fi
	if [[ ! -e $dir/data/PG_VERSION ]]; then
		mkdir -p "$dir"
		rs_own "$dir"
		rs_as_pg test -x "$dir" || rs_die "the server's user cannot reach $dir; take rs_tmpdir's"
		head -c 18 /dev/urandom | base64 >"$dir/password"
		rs_own "$dir/password"
		chmod 0600 "$dir/password"
		rs_as_pg "$RS_PGBIN/initdb" -D "$dir/data" -N -U postgres -E UTF8 --locale=C.UTF-8 \
			-A scram-sha-256 --auth-local=trust --pwfile="$dir/password" >"$dir/initdb.log" 2>&1 ||
			{ cat "$dir/initdb.log" >&2; rs_die "initdb failed"; }
		{
			echo "listen_addresses = '127.0.0.1'"
			echo "fsync = off"
			echo "log_line_prefix = '%m [%p] %b %q%d '"
			echo "include_if_exists = 'test.conf'"
		} >>"$dir/data/postgresql.conf"
	fi
	mkdir -p "$dir/socket"
	chmod 0700 "$dir/socket"
	rs_own "$dir/socket"
	((${#dir} < 80)) || rs_die "$dir is too long a path for a socket"

	for try in 1 2 3; do
		{
			echo "port = ${port:-$(rs_free_port)}"
			echo "unix_socket_directories = '$dir/socket'"
			for line; do printf '%s\n' "$line"; done
		} >"$dir/data/test.conf"
		rs_own "$dir/data/test.conf"
		if rs_as_pg "$RS_PGBIN/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -s start >/dev/null 2>&1; then
			rs_at_exit rs_pg_stop "$dir" immediate
			PGHOST=$dir/socket
			PGPORT=$(sed -n 's/^port = //p' "$dir/data/test.conf" | tail -n 1)
			PGUSER=postgres PGDATABASE=postgres PGPASSWORD=$(<"$dir/password")
			export PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD
			return
		fi
		# Somebody may have taken the port in between.
		[[ -z $port && $try -lt 3 ]] || break
		tail -n 5 "$dir/log" | grep -q 'Address already in use' || break
	done
	tail -n 40 "$dir/log" >&2
	rs_die "the server in $dir did not start"
}

# rs_pg_stop DIR [smart|fast|immediate]
rs_pg_stop() {
	local pid
	pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 0
	rs_as_pg "$RS_PGBIN/pg_ctl" -D "$1/data" -m "${2:-fast}" -w -t 30 -s stop 2>/dev/null || rs_kill "$pid"
}
