#!/bin/sh
# Builds PgBouncer from the source package of Debian 13: Debian 12's own, 1.18, has no prepared statements in
# transaction pooling (they came with 1.21), and is two years of work behind.
#
#   build-pgbouncer.sh SOURCES WORK OUT
#
# SOURCES  an apt source list (deb822, `Types: deb-src`) that offers the package; the machine's own lists stay as they are
# WORK     an empty folder that the caller removes afterwards
# OUT      the file that receives the program, only when it is built
set -eu
sources=$1 work=$2 out=$3
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/unpack"
apt() {
    apt-get -q -o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" \
        -o APT::Sandbox::User=root "$@"
}
apt update
cd "$work/unpack"
apt source --only-source pgbouncer
cd pgbouncer-*/
# Debian's configuration, but for what is not used here: PAM, systemd, the manual.
./configure --without-pandoc --without-systemd --without-pam
make -j"$(nproc)" pgbouncer
strip -g pgbouncer
mv pgbouncer "$out.new"
chmod 0755 "$out.new"
mv "$out.new" "$out"
