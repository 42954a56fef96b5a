#!/bin/sh
# Installs what a fresh Debian machine lacks beside cargo. Does nothing where all is there.
#
#   install-deps.sh build   what cargo needs to link
#   install-deps.sh         that, and what the tests need: compilers for C programs, busybox, strace with
#                           programs to trace, and Linux's source
set -eu

missing=
need() { # PACKAGE COMMAND-OR-FILE
    command -v "$2" >/dev/null 2>&1 || [ -e "$2" ] || missing="$missing $1"
}

need gcc cc
need libc6-dev /usr/include/stdlib.h
if [ "${1:-}" != build ]; then
    need gcc gcc
    need libc6-dev /usr/lib/x86_64-linux-gnu/libc.a
    need musl-tools musl-gcc
    need busybox-static /bin/busybox
    need strace strace
    # Linux's own tests are built from it.
    ls /usr/src/linux-source-*.tar.xz >/dev/null 2>&1 || missing="$missing linux-source xz-utils"
    need lua5.4 lua5.4
    need nodejs node
    need python3-minimal /usr/bin/python3
    need sqlite3 sqlite3
    # The package busybox has a dynamic one at the same place.
    if [ -e /bin/busybox ] && ldd /bin/busybox >/dev/null 2>&1; then
        missing="$missing busybox-static"
    fi
fi

[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "These Debian packages are needed (or the same from elsewhere):$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "Installing$missing"
# Lists may be absent or old on a fresh machine.
apt-get install --yes --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update >/dev/null
    apt-get install --yes --no-install-recommends $missing >/dev/null
}
