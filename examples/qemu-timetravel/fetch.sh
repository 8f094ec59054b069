#!/bin/sh
# fetch.sh DIRECTORY - installs QEMU where there is none, and puts the guest into DIRECTORY: `vmlinuz` and
# `initramfs`, from packages of this host's Debian. Files that are there already are not fetched again.
# Installing QEMU needs root; fetching the rest does not. $QEMU, $KERNEL and $BUSYBOX name files to use instead.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -z "${BUSYBOX:-}" ] || BUSYBOX=$(realpath "$BUSYBOX")
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9 # one run at a time; the kernel releases the lock when this process ends
work=$(mktemp -d ./fetching.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say() { printf '   %-9s %s\n' "$1" "$2"; }

no() {
    echo "qemu-timetravel: $1" >&2
    exit 1
}

# apt-get $@, without its output. On failure the output is shown: it has the reason.
apt() {
    LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=300 \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$work/log" 2>&1 && return
    cat "$work/log" >&2
    return 1
}

# Looks for the package $1; the variable $2 can name a file to use instead. When there is no such package, ends
# and says so. Lists of packages may be missing or old, as in a container; only root can update them.
updated=
look_for() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        no "$1 needs apt-get and dpkg-deb, and they are not here; set $2 to your own file (README.md)"
    if [ -z "$updated" ] && [ "$(id -u)" = 0 ]; then
        say updating "the lists of packages"
        apt update || say "" "the update failed; the old lists are used"
    fi
    updated=yes
    apt-cache show "$1" >"$work/log" 2>&1 ||
        no "apt-get knows no package $1; as root: apt-get update. Or set $2 to your own file (README.md)"
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

# A new initramfs each time: $here/init may have been edited. busybox has a cpio.
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/tmp"
cp "${BUSYBOX:-busybox}" "$root/bin/busybox"
cp "$here/init" "$root/init"
chmod 755 "$root/bin/busybox" "$root/init"
(cd "$root" && find . | ./bin/busybox cpio -o -H newc >../initramfs 2>../log) || no "no initramfs: $(cat "$work/log")"
mv "$work/initramfs" initramfs
