"""What is stored beside an image: whose it is, and the fencing token. One JSON file, written anew as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Self

from drover.agent.storage.base import Damaged, Token

FORMAT = 1


@dataclass(frozen=True)
class Sidecar:
    """holder: the node that published it last. formatted: the file system was made; from then on missing data is an
    error. size: bytes that the file system was made for or has grown to; the image is larger until it has grown."""

    dataset: str
    uid: str
    size: int
    fs: str
    cluster: str
    epoch: int
    incarnation: str
    holder: str
    formatted: bool
    format: int = FORMAT

    @property
    def token(self) -> Token:
        return Token(self.cluster, self.uid, self.epoch, self.incarnation)

    @classmethod
    def read(cls, path: str) -> Self | None:
        """None: there is none. Raises Damaged where it cannot be understood, OSError."""
        try:
            with open(path, "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes | str, where: str) -> Self:
        """where: it stands, in words. Raises Damaged."""
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise Damaged(f"{where} has format {stored['format']}: a newer Drover wrote it; update this node")
            return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{where} cannot be read as a volume's record ({error!r}), so nobody can tell who may write the "
                "data beside it; nothing was touched: put it back from a backup"
            ) from error

    def text(self) -> str:
        """On one line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def write(self, path: str) -> None:
        """Durable when it returns, and whole at any time. Leaves nothing else behind. Raises OSError."""
        temporary = f"{path}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(json.dumps(asdict(self), indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except OSError:
            remove(temporary)
            raise
        sync_directory(os.path.dirname(path))


def remove(path: str) -> None:
    """Gone is fine."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def sync_directory(path: str) -> None:
    """Names that were made, changed or removed in it are durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
