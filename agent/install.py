"""`drover-agent install`: what systemd needs to run this agent, from what the package ships in `drover/deploy`."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

AGENT, SETTINGS = "/usr/bin/drover-agent", "/etc/drover/agent.toml"
"""What the units that are shipped name."""
_NOT_UNITS = {"sysusers.conf": "sysusers.d/drover.conf", "tmpfiles.conf": "tmpfiles.d/drover.conf"}


def shipped() -> Traversable:
    return files("drover") / "deploy"


def write_units(directory: Path, program: str = AGENT, settings: Path = Path(SETTINGS)) -> list[Path]:
    """The units and their drop-ins, with this program and these settings in them. Raises OSError."""
    return _copy(shipped() / "systemd", directory, program, settings)


def _copy(source: Traversable, target: Path, program: str, settings: Path) -> list[Path]:
    written: list[Path] = []
    target.mkdir(parents=True, exist_ok=True)
    for item in sorted(source.iterdir(), key=lambda it: it.name):
        if item.name in _NOT_UNITS:
            continue
        if item.is_dir():
            written += _copy(item, target / item.name, program, settings)
            continue
        text = item.read_text().replace(AGENT, program).replace(SETTINGS, str(settings))
        (target / item.name).write_text(text)
        written.append(target / item.name)
    return written


def install(root: Path, program: str) -> list[Path]:
    """All of it for a machine whose files are below `root`, as an administrator's own (in /etc). Settings that are
    there stay as they are. Raises OSError."""
    written = write_units(root / "etc/systemd/system", program)
    for name, place in _NOT_UNITS.items():
        target = root / "etc" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((shipped() / "systemd" / name).read_text())
        written.append(target)
    settings = root / SETTINGS.lstrip("/")
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text((shipped() / "agent.toml").read_text())
        written.append(settings)
    return written
