"""What is made of files, made anew when they change: so new certificates are taken up while a program runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

_Mark = tuple[tuple[int, int, int], ...]


class Current(Generic[T]):
    """Files that cannot be used, such as a new certificate beside its old key, change nothing: what was made last goes
    on, and the next question tries again. May be asked from any thread."""

    def __init__(self, files: Sequence[Path], make: Callable[[], T]) -> None:
        """make: blocks, reads the files, and raises OSError or ValueError where they are of no use; so does this, the
        first time."""
        self._files = tuple(files)
        self._make = make
        self._lock = threading.Lock()
        self._said = ""
        self._mark = self._look()
        self.first = self._made = make()
        """What was made first."""

    def get(self) -> T:
        """Blocks for as long as it takes to look at the files, and to read them where they have changed."""
        with self._lock:
            try:
                mark = self._look()
                if mark != self._mark:
                    self._made, self._mark, self._said = self._make(), mark, ""
                    log.info("taken up anew: %s", ", ".join(map(str, self._files)))
            except (OSError, ValueError) as error:
                if str(error) != self._said:
                    self._said = str(error)
                    log.warning("%s: not taken up, the old ones go on: %s", ", ".join(map(str, self._files)), error)
            return self._made

    def _look(self) -> _Mark:
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in self._files))
