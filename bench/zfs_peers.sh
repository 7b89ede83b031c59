#!/usr/bin/env bash
# Gets what `make bench-zfs` compares Drover with into .cache/syncoid: Debian's syncoid, unpacked and not installed. Does
# nothing where it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

place=.cache/syncoid
[ -x "$place/usr/sbin/syncoid" ] && exit 0
echo "peers: unpacking syncoid into $place"
mkdir -p "$place/debs"
apt-get update -qq
(cd "$place/debs" && apt-get download -qq -o APT::Sandbox::User=root sanoid libcapture-tiny-perl)
for deb in "$place"/debs/*.deb; do dpkg -x "$deb" "$place"; done
rm -rf "$place/debs"
