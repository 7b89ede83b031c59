"""When the first transaction is committed on any of some PostgreSQL servers: what a client sees of a fail-over.

Run by the Python that bench/peers.sh made: `first_commit.py PORT HOST...`. Prints `ready`, and then the Unix time at
which the first INSERT was acknowledged.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import psycopg

PAUSE = 0.02
"""Seconds between two tries."""


def committed(host: str, port: str) -> None:
    """Servers that are not there, only start or only follow are tried again; ends the process with the first answer."""
    while True:
        try:
            with psycopg.connect(f"host={host} port={port} user=postgres connect_timeout=2", autocommit=True) as server:
                insert(server)
        except psycopg.OperationalError:
            time.sleep(PAUSE)


def insert(server: psycopg.Connection) -> None:
    while True:
        try:
            server.execute("insert into written values (now())")
        except psycopg.errors.ReadOnlySqlTransaction:
            time.sleep(PAUSE)
        else:
            os.write(1, f"{time.time()}\n".encode())
            os._exit(0)


def main() -> None:
    port, *hosts = sys.argv[1:]
    print("ready", flush=True)
    for host in hosts:
        threading.Thread(target=committed, args=(host, port)).start()


if __name__ == "__main__":
    main()
