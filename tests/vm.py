"""A small virtual machine with a Debian kernel, for what cannot be done to the machine that the tests run on.

It has no disk and no network: all that is in it is built into its first file system, and it says what it does on its
serial console, which is all that is seen of it. `tools/setup-vm` gets ready what it needs. Its time is virtual: it
passes with the instructions that the machine runs, and leaps while it has none to run. So a deadline is met or missed
in it whatever else keeps this machine busy, and waiting costs nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
VM = ROOT / ".cache/vm"
BOOTS = 600.0
"""Seconds, of this machine, that a run of the virtual one may take: 15 of processor time."""
_LINE = re.compile(r"^\[ *(\d+\.\d+)\] (.*)$")
_INIT = """#!/bin/busybox sh
export PATH=/bin PYTHONPATH=/drover
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t cgroup2 none /sys/fs/cgroup
insmod /watchdog.ko
insmod /softdog.ko $softdog
python3.11 "$@" > /dev/console 2>&1
poweroff -f
"""


@dataclass(frozen=True)
class Line:
    """Of the console. at: seconds since the machine was started, on its own clock."""

    at: float
    text: str


@dataclass(frozen=True)
class Console:
    """All that the machine said until it ended."""

    lines: tuple[Line, ...]
    raw: str

    def at(self, text: str) -> float:
        """When the first line with this text was said."""
        for line in self.lines:
            if text in line.text:
                return line.at
        raise AssertionError(f"the machine did not say {text!r}, but:\n{self.raw}")

    def says(self, text: str) -> bool:
        return any(text in line.text for line in self.lines)


def build(directory: Path, program: Path) -> Path:
    """The machine's first file system: a shell, Python, the guard's code and the program. Returns its file."""
    if not (VM / ".ready").exists():
        raise RuntimeError("there is no virtual machine yet: run tools/setup-vm")
    machine, root = VM / "machine", directory / "root"
    for folder in ("bin", "proc", "sys", "dev", "run", "tmp"):
        (root / folder).mkdir(parents=True)
    for folder in ("usr/lib/python3.11", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "lib64"):
        shutil.copytree(machine / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("gconv"))
    for folder in ("agent", "coordinator"):
        shutil.copytree(ROOT / folder, root / "drover/drover" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "drover/__init__.py", root / "drover/drover")
    shutil.copy(program, root / "drover" / program.name)
    shutil.copy(machine / "usr/bin/python3.11", root / "bin")
    shutil.copy(machine / "bin/busybox", root / "bin")
    for applet in ("sh", "mount", "insmod", "poweroff"):
        (root / "bin" / applet).symlink_to("busybox")
    for module in ("watchdog", "softdog"):
        [found] = machine.glob(f"lib/modules/*/kernel/drivers/watchdog/{module}.ko")
        shutil.copy(found, root)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    image = directory / "initramfs"
    with image.open("wb") as out:
        names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*")).encode()
        cpio = [str(machine / "bin/busybox"), "cpio", "-o", "-H", "newc"]
        subprocess.run(cpio, input=names, stdout=out, stderr=subprocess.DEVNULL, cwd=root, check=True, timeout=60)
    return image


def run(image: Path, arguments: Sequence[str], kernel_options: Sequence[str] = ()) -> Console:
    """Starts the machine with Python's `arguments`, until it turns itself off or is reset. It does not outlive the
    caller. Raises AssertionError where it does not end."""
    [kernel] = (VM / "machine/boot").glob("vmlinuz-*")
    options = ["console=ttyS0", "quiet", "printk.time=1", "printk.devkmsg=on", "panic=-1", *kernel_options]
    command = ["setpriv", "--pdeathsig", "KILL", str(VM / "qemu")]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"]
    command += ["-accel", "tcg", "-icount", "shift=1,sleep=off", "-rtc", "clock=vm", "-m", "512"]
    command += ["-kernel", str(kernel), "-initrd", str(image), "-append", " ".join([*options, "--", *arguments])]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOTS)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"the machine does not end:\n{(error.output or b'').decode(errors='replace')}") from error
    raw = (done.stdout + done.stderr).decode(errors="replace")
    found = (_LINE.match(line) for line in raw.splitlines())
    return Console(tuple(Line(float(line[1]), line[2]) for line in found if line), raw)
