#!/bin/sh
# A move by hand, with the bare commands, as an administrator would type them on one machine that both "nodes" share:
# unmount, detach, attach, mount. Prints the milliseconds from before the first to after the last.
#   by_hand.sh IMAGE FROM TO       IMAGE is mounted at FROM and will be mounted at TO
set -eu
image=$1 from=$2 to=$3
device=$(findmnt -n -o SOURCE "$from")
began=$(date +%s%N)
umount "$from"
losetup -d "$device"
device=$(losetup --find --show --direct-io=on "$image")
mount -o noatime,nodev,nosuid "$device" "$to"
ended=$(date +%s%N)
echo $(((ended - began) / 1000)) | sed 's/\(.*\)\(...\)$/\1.\2/'
