#!/bin/sh
# Builds the bundle and tries it on CPU ranks where nothing of ours is installed and no network is:
# in a bare Debian with g++ and a Python of its own, whose libpython and headers are not there.
#   gpu/rehearse.sh [torch]      torch: what to install there; torch==2.11.0 when not given
# As root. The first time it downloads some gigabytes into the cache folder.
set -eu
torch=${1:-torch==2.11.0}
archive=$(cd "$(dirname "$0")/.." && pwd)/build/ddipp-gpu.tar.xz
root=${XDG_CACHE_HOME:-$HOME/.cache}/ddipp/rehearsal
[ "$(id -u)" = 0 ] || { echo "rehearse.sh: has to be root, for a chroot"; exit 1; }

if [ ! -e "$root/ready" ]; then
  command -v debootstrap > /dev/null || apt-get install -y -qq debootstrap > /dev/null
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -1)
  rm -rf "$root"
  debootstrap --variant=minbase --include=g++,python3,python3-venv,ca-certificates trixie "$root" \
    "$mirror" > /dev/null
  chroot "$root" python3 -m venv /environment
  touch "$root/ready"
fi
cp /etc/resolv.conf "$root/etc/"
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
  [ ! -e $file ] || { mkdir -p "$root$(dirname $file)"; cp $file "$root$file"; }
done
chroot "$root" env -u PIP_FIND_LINKS /environment/bin/pip install -q "$torch" numpy

rm -rf "$root/ddipp-gpu"
tar -C "$root" -xf "$archive"
exec unshare --mount --net --pid --fork sh -euc '
  mount -t proc none "$0/proc"
  mount --bind /dev "$0/dev"
  mount -t tmpfs none "$0/dev/shm"
  ip link set lo up
  chroot "$0" /ddipp-gpu/run.sh /environment/bin/python --rehearse
' "$root"
