#!/bin/sh
# Installs what the tests need and a fresh Debian machine lacks. Does nothing where all is there.
set -eu

missing=
need() { # PACKAGE COMMAND-OR-FILE
    command -v "$2" >/dev/null 2>&1 || [ -e "$2" ] || missing="$missing $1"
}

need gcc gcc
need libc6-dev /usr/lib/x86_64-linux-gnu/libc.a
need musl-tools musl-gcc
need busybox-static /bin/busybox

[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need these Debian packages (or the same from elsewhere):$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "Installing$missing"
# Lists may be absent or old on a fresh machine.
apt-get install --yes --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update >/dev/null
    apt-get install --yes --no-install-recommends $missing >/dev/null
}
