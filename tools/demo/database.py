"""The demo's database: a table of notes in SQLite, written for one client. Standard library only; run as a file.

    database.py serve PATH    a Drover workload: commits notes for the client whose address is in $CLIENT (HOST:PORT)
    database.py check PATH    prints SQLite's own integrity check, then all notes, as JSON; while it is served, too

    client → database   one line: the text of a note
    database → client   one line: the note's number and this node's name, after its commit has returned

Numbers go on from the largest one in the table. No constraint keeps them unique: two writers, or a note that was lost
and its number given again, must show and not be refused.
"""

import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NoReturn

RECONNECT_AFTER = 0.2
"""Seconds to the next try when nobody listens at the client's address."""
PATIENCE = 5.0
"""Seconds for a connection to be made, and for a lock of SQLite's."""

_TABLE = """
CREATE TABLE IF NOT EXISTS notes (number INTEGER NOT NULL, text TEXT NOT NULL, node TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS numbers ON notes (number);
"""


def serve(path: str, client: str) -> NoReturn:
    """Until SIGTERM, which waits for a commit and its answer."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    host, _, port = client.rpartition(":")
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on the disk
        database.executescript(_TABLE)
        while True:
            try:
                with socket.create_connection((host, int(port)), PATIENCE) as connection:
                    connection.settimeout(None)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _converse(database, connection)
            except OSError:
                pass  # the client is not there, or has gone
            time.sleep(RECONNECT_AFTER)


def _converse(database: sqlite3.Connection, connection: socket.socket) -> None:
    node = socket.gethostname()
    (number,) = database.execute("SELECT coalesce(max(number), 0) FROM notes").fetchone()
    with connection.makefile("r") as notes:
        for note in notes:
            number += 1
            with _uninterrupted():
                database.execute("INSERT INTO notes VALUES (?, ?, ?)", (number, note.strip(), node))
                database.commit()
                connection.sendall(f"{number} {node}\n".encode())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check(path: str) -> None:
    import json  # a fifth of what this program takes to start: not for `serve`, where a client waits

    with closing(sqlite3.connect(f"file:{path}?mode=rw", timeout=PATIENCE, uri=True)) as database:
        integrity = [found for (found,) in database.execute("PRAGMA integrity_check")]
        rows = database.execute("SELECT number, text, node FROM notes ORDER BY number, rowid").fetchall()
    json.dump({"integrity_check": ", ".join(integrity), "notes": rows}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], os.environ["CLIENT"])
    else:
        check(sys.argv[2])
