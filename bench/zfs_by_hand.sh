#!/bin/sh
# A round on ZFS by hand, with the bare commands, after 1 % was changed: snapshot, send what differs, receive. Prints
# milliseconds.
#
#   zfs_by_hand.sh PREVIOUS NEXT
previous=$1 next=$2
began=$(date +%s%N)
zfs snapshot "tank/raw@$next" && zfs send -i "$previous" "tank/raw@$next" | zfs receive tank/raw-copy || exit 1
ended=$(date +%s%N)
echo $(((ended - began) / 1000000))
