"""Which machine this is, and which boot of it."""

from __future__ import annotations

from pathlib import Path

from drover.agent.config import Settings

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's random id of this boot (random(4)): another one proves that all processes of before are gone."""
    return _BOOT_ID.read_text().strip()


def machine_id(settings: Settings) -> str:
    """The machine's own id, whatever name it has (machine-id(5)), unless the settings give one."""
    return settings.machine_id
