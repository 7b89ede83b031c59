#!/usr/bin/env bash
# Gets what `make bench-failover` compares Drover with into .cache/peers: Debian's PostgreSQL 15, unpacked and not
# installed, and Patroni in a virtual environment of its own. Does nothing where they are there already.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=.cache/peers
# Of the libraries, those that a minimal Debian does not have.
packages=(postgresql-15 postgresql-client-15 libpq5 libxml2 libicu72 libldap-2.5-0 libsasl2-2 libgssapi-krb5-2 libkrb5-3
  libk5crypto3 libkrb5support0 libkeyutils1 libssl3)
patroni=('patroni[etcd3]==4.1.*' 'psycopg[binary]>=3.2,<4')

want=$(sha256sum < bench/peers.sh)
[ "$(cat "$peers/.ready" 2>/dev/null)" = "$want" ] && exit 0

echo "peers: unpacking PostgreSQL 15 into $peers (not installed, not started)"
rm -rf "$peers" && mkdir -p "$peers/debs" "$peers/root"
apt-get update -qq
(cd "$peers/debs" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}")
for deb in "$peers"/debs/*.deb; do dpkg -x "$deb" "$peers/root"; done
rm -rf "$peers/debs"
missing=$(LD_LIBRARY_PATH=$(echo "$PWD/$peers"/root/usr/lib/*-linux-gnu) ldd "$peers/root/usr/lib/postgresql/15/bin/postgres" |
  grep 'not found' || true)
[ -z "$missing" ] || { echo "peers: PostgreSQL lacks libraries, add their packages to bench/peers.sh:$missing" >&2; exit 1; }

echo "peers: Patroni in $peers/venv"
python3 -m venv "$peers/venv"
"$peers/venv/bin/pip" install -q --disable-pip-version-check "${patroni[@]}"
echo "$want" > "$peers/.ready"
