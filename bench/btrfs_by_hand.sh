#!/bin/sh
# The cut-over of a btrfs subvolume by hand, with the bare commands: what is dirty is written out first, as Drover does;
# then unmount, last snapshot, send its difference, make that durable, make it writable, mount. Prints the milliseconds
# from before the unmounting to after the mounting.
#   btrfs_by_hand.sh FROM TO PREVIOUS NEXT HERE THERE
#       FROM, TO: pools, of which FROM has `live`, mounted at HERE; both have the snapshot PREVIOUS, and get NEXT
set -eu
from=$1 to=$2 previous=$3 next=$4 here=$5 there=$6
btrfs filesystem sync "$from" > /dev/null
began=$(date +%s%N)
umount "$here"
btrfs subvolume snapshot -r "$from/live" "$from/$next" > /dev/null
btrfs -q send -p "$from/$previous" "$from/$next" | btrfs -q receive "$to"
btrfs filesystem sync "$to" > /dev/null
btrfs subvolume snapshot "$to/$next" "$to/live" > /dev/null
mount --bind "$to/live" "$there"
ended=$(date +%s%N)
btrfs subvolume delete "$from/live" > /dev/null
echo $(((ended - began) / 1000)) | sed 's/\(.*\)\(...\)$/\1.\2/'
