# What a container runtime does, for one container: becomes pid 1 of it. Run inside new PID and mount namespaces.
#
#   sh enter.sh SANDBOX HOSTNAME UID GID READONLY CONFINED WORKDIR MOUNTS... -- COMMAND...
#
# SANDBOX   an empty folder of this machine; what is mounted there is seen by this mount namespace alone
# READONLY  1: the root of the container cannot be written to
# CONFINED  1: no capability, and no way to get one
# MOUNTS    triples HOST INSIDE ro|rw
#
# The container's root is this machine's own root below a layer of memory: it may write anywhere, nothing of that
# reaches the machine, and a mount point can be made at any path.
set -eu
if [ "${1:-}" != inner ]; then
    exec /usr/bin/unshare --ipc --uts -- /bin/sh "$0" inner "$@"
fi
sandbox=$2 hostname=$3 uid=$4 gid=$5 readonly=$6 confined=$7 workdir=$8
shift 8

/bin/hostname "$hostname"
/bin/mount -t tmpfs -o mode=0755 tmpfs "$sandbox"
/bin/mkdir "$sandbox/upper" "$sandbox/work" "$sandbox/root"
root=$sandbox/root
/bin/mount -t overlay overlay -o "lowerdir=/,upperdir=$sandbox/upper,workdir=$sandbox/work" "$root"
/bin/mount -t proc proc "$root/proc"
/bin/mount --rbind /dev "$root/dev"
/bin/mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
/bin/mount --rbind /sys "$root/sys"
# The machine's own sockets and credentials stay outside.
/bin/mount -t tmpfs -o mode=0755 tmpfs "$root/run"
/bin/mount -t tmpfs -o mode=0700 tmpfs "$root/root"
if [ "$readonly" = 0 ]; then
    /bin/mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    /bin/mkdir -m 1777 "$root/run/postgresql"
fi

while [ "$1" != -- ]; do
    # Links are followed as the container sees them: /var/run is its own /run, not the machine's.
    host=$1 inside=$root$(/usr/sbin/chroot "$root" /usr/bin/realpath -m "$2") access=$3
    shift 3
    if [ -d "$host" ]; then
        /bin/mkdir -p "$inside"
    else
        /bin/mkdir -p "${inside%/*}"
        [ -e "$inside" ] || : >"$inside"
    fi
    /bin/mount --bind "$host" "$inside"
    [ "$access" = rw ] || /bin/mount -o remount,bind,ro "$inside"
done
shift

[ "$readonly" = 0 ] || /bin/mount -o remount,ro "$root"
[ "$confined" = 0 ] || confine='--no-new-privs --bounding-set=-all --inh-caps=-all'
# Changing the user clears the parent-death signal, so it is asked for again last.
# shellcheck disable=SC2086
exec /usr/sbin/chroot "$root" /usr/bin/env -C "$workdir" \
    /usr/bin/setpriv --reuid "$uid" --regid "$gid" --clear-groups ${confine:-} --pdeathsig KILL -- "$@"
