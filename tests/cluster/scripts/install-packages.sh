#!/bin/sh
# Installs Debian packages as root and starts no service of theirs.
#
#   install-packages.sh PACKAGE...
#
# What it changes for that time alone, it puts back: whether services may be started, and whether PostgreSQL's packages
# make a cluster of their own.
set -eu
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.conf
mark="written by pgmoor's tests for the time of an installation"

restore() {
    if grep -qs "$mark" "$policy"; then rm -f "$policy"; fi
    if grep -qs "$mark" "$clusters"; then sed -i "/$mark/d" "$clusters"; fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
# A run that was killed may have left them behind.
restore

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
install() {
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "$@"
}

if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
    chmod 0755 "$policy"
fi
echo "step: package lists"
apt-get -q update
case " $* " in
*" postgresql-15 "*)
    # The common package brings the file that says whether a cluster is made; the server's reads it.
    echo "step: postgresql-common"
    install postgresql-common
    echo "create_main_cluster = false # $mark" >>"$clusters"
    ;;
esac
echo "step: $# packages"
install "$@"
