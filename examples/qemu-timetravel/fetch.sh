#!/bin/sh
# fetch.sh DIRECTORY - makes sure of a QEMU, and puts the guest into DIRECTORY: `vmlinuz` and `initramfs`, made
# of packages of the Debian that this is. What is there already is not fetched again. Installing QEMU needs
# root; fetching the rest does not. What $QEMU, $KERNEL and $BUSYBOX name is taken as it is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -z "${BUSYBOX:-}" ] || BUSYBOX=$(realpath "$BUSYBOX")
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9 # one of us at a time; the kernel gives the lock back, however this ends
work=$(mktemp -d ./fetching.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say() { printf '   %-9s %s\n' "$1" "$2"; }

no() {
    echo "qemu-timetravel: $1" >&2
    exit 1
}

# apt-get $@, without its chatter; on failure the chatter is all that there is to go by.
apt() {
    LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=300 \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$work/log" 2>&1 && return
    cat "$work/log" >&2
    return 1
}

# Says how to do without where the package $1, in place of which $2 could be set, cannot be had. Lists of packages
# may be missing or old, as in a container; only root can get new ones.
updated=
look_for() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        no "no apt-get and dpkg-deb here to get $1 with; set $2 to one of your own (README.md)"
    if [ -z "$updated" ] && [ "$(id -u)" = 0 ]; then
        say updating "the lists of packages"
        apt update || say "" "that failed; going on with those that are there"
    fi
    updated=yes
    apt-cache show "$1" >"$work/log" 2>&1 ||
        no "apt-get knows no package $1; as root: apt-get update. Or set $2 to one of your own (README.md)"
}

# Unpacks the package $1 into the current directory, $work.
unpack() {
    say fetching "the package $1, from Debian"
    (work=.. && mkdir -p "$1" && cd "$1" && apt download "$1") || no "apt-get download $1 failed"
    dpkg-deb -x "$1"/*.deb .
}

if [ -z "${QEMU:-}" ] && ! command -v qemu-system-x86_64 >/dev/null; then
    look_for qemu-system-x86 QEMU
    [ "$(id -u)" = 0 ] || no "QEMU is not installed; as root: apt-get install --no-install-recommends qemu-system-x86"
    say installing "the package qemu-system-x86, from Debian"
    apt install --no-install-recommends qemu-system-x86 || no "installing qemu-system-x86 failed"
fi

if [ -z "${KERNEL:-}" ] && [ ! -f vmlinuz ]; then
    meta=linux-image-cloud-amd64 # depends on the package of the newest kernel
    look_for $meta KERNEL
    package=$(LC_ALL=C apt-cache depends $meta | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || no "$meta depends on no kernel"
    (cd "$work" && unpack "$package")
    mv "$work"/boot/vmlinuz-* vmlinuz
fi

if [ -z "${BUSYBOX:-}" ] && [ ! -f busybox ]; then
    look_for busybox-static BUSYBOX
    (cd "$work" && unpack busybox-static)
    mv "$(find "$work" -name busybox -type f -perm -u+x | head -n 1)" busybox
fi

# A fresh initramfs each time: $here/init may have been edited. busybox is a cpio too.
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/tmp"
cp "${BUSYBOX:-busybox}" "$root/bin/busybox"
cp "$here/init" "$root/init"
chmod 755 "$root/bin/busybox" "$root/init"
(cd "$root" && find . | ./bin/busybox cpio -o -H newc >../initramfs 2>../log) || no "no initramfs: $(cat "$work/log")"
mv "$work/initramfs" initramfs
