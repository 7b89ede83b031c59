"""What is in a directory tree, one line an entry: a program of its own, with the standard library only. To compare
snapshots on two nodes without sending them.

    python -m drover.agent.storage.manifest PATH

It writes JSON lines to standard output, in the order of the names' bytes, each directory before what is in it: [path,
mode, uid, gid, size, mtime in ns, digest, error, bytes read so far]. path: relative, in hexadecimal, as a name need not
be text. digest: of extended attributes, and of content, the target of a link, or a device's number. error: why it
cannot be read. A line with one text says why nothing more comes.

Content is read from the disk, not from what is still in memory of it, so that the file system compares its checksums,
where it has any: what does not agree with them is an error here.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO

_CHUNK = 1 << 20
_SPAN = 64 << 20
"""Bytes of one file after which a line with how much was read is written, without an entry: `[read]`."""


def main() -> int:
    os.nice(19)
    out = sys.stdout.buffer
    try:
        write(os.fsencode(sys.argv[1]), out)
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more
    except OSError as error:
        _line(out, [error.strerror or str(error)])
        out.flush()
    return 0


def write(root: bytes, out: IO[bytes]) -> None:
    """Raises OSError where the root cannot be listed, or nobody reads."""
    read = 0
    for path in _walk(root):
        try:
            found = os.lstat(path)
            kept = [found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns]
            digest, error = hashlib.blake2b(digest_size=16), ""
            try:
                for part in _parts(path, found):
                    digest.update(part)
                    if stat.S_ISREG(found.st_mode):
                        if read // _SPAN != (read + len(part)) // _SPAN:
                            _line(out, [read + len(part)])
                        read += len(part)
            except OSError as failed:
                error = failed.strerror or str(failed)
            if stat.S_ISDIR(found.st_mode):
                kept[3] = 0  # it depends on the file system
        except OSError as failed:
            kept, digest, error = [0, 0, 0, 0, 0], hashlib.blake2b(digest_size=16), failed.strerror or str(failed)
        _line(out, [os.path.relpath(path, root).hex(), *kept, digest.hexdigest(), error, read])
    out.flush()


def _line(out: IO[bytes], values: list[object]) -> None:
    out.write(json.dumps(values, separators=(",", ":")).encode() + b"\n")


def _walk(root: bytes) -> Iterator[bytes]:
    """Itself, and all below it. Does not enter other file systems: a subvolume inside is not in the snapshot."""
    device = os.lstat(root).st_dev
    waiting = [root]
    while waiting:
        path = waiting.pop()
        yield path
        try:
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
                waiting += [os.path.join(path, name) for name in sorted(os.listdir(path), reverse=True)]
        except OSError:
            if path == root:
                raise  # of others, the entry says what is wrong


def _parts(path: bytes, found: os.stat_result) -> Iterator[bytes]:
    """What the digest is made of. Raises OSError."""
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        yield f"{name}\0".encode(errors="surrogateescape") + os.getxattr(path, name, follow_symlinks=False) + b"\0"
    if stat.S_ISLNK(found.st_mode):
        yield os.readlink(path)
    elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        yield str(found.st_rdev).encode()
    elif stat.S_ISREG(found.st_mode):
        yield from _content(path)


def _content(path: bytes) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while part := os.read(descriptor, _CHUNK):
            yield part
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
