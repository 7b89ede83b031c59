"""Which boot of this machine this is."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's random id of this boot (random(4)): another one proves that all processes of before are gone."""
    return _BOOT_ID.read_text().strip()
