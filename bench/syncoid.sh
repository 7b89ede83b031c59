#!/bin/sh
# The same by syncoid: it takes a snapshot of its own and sends it. Prints milliseconds.
#
#   syncoid.sh WHERE
began=$(date +%s%N)
PERL5LIB="$1/usr/share/perl5" "$1/usr/sbin/syncoid" --quiet --no-resume --compress=none tank/sync tank/sync-copy > /dev/null 2>&1 ||
  exit 1
ended=$(date +%s%N)
echo $(((ended - began) / 1000000))
