"""Starts a machine that boots the system's own systemd as its first process. Standard library only: runs as a script.

It stays outside, ends when the machine does, with the signal by which reboot(2) says how it went down: SIGHUP to boot
again, SIGINT to stay off.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from drover.coordinator.cli.playground import init, syscalls

MS_RDONLY, MS_REMOUNT, MS_MOVE = 1, 32, 0x2000
_MASKED = (
    *(f"systemd-{name}.service" for name in ("udevd", "binfmt", "sysctl", "modules-load", "remount-fs")),
    *(f"systemd-{name}.service" for name in ("random-seed", "update-utmp", "timesyncd", "logind", "sysusers")),
    *(f"systemd-{name}.service" for name in ("tmpfiles-setup-dev", "tmpfiles-setup", "machine-id-commit", "pstore")),
    *(f"systemd-{name}.service" for name in ("firstboot", "hwdb-update", "journal-catalog-update", "udev-trigger")),
    *("systemd-tmpfiles-clean.timer", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount"),
    *(
        "proc-sys-fs-binfmt_misc.mount",
        "getty.target",
        "console-getty.service",
        "getty@.service",
        "systemd-ask-password-console.path",
    ),
)
"""What would change the computer that the machine is on."""
TARGET = """\
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""


def main() -> NoReturn:
    """Argument: JSON with name, cgroup, netns ("": the computer's), binds (source, target), root (its file system; "":
    the computer's), and units (a directory; where the file system is the computer's)."""
    boot = json.loads(sys.argv[1])
    group = Path(boot["cgroup"])
    (group / "cgroup.procs").write_text("0")
    if boot["netns"]:
        network = os.open(boot["netns"], os.O_RDONLY)
        syscalls.setns(network, syscalls.CLONE_NEWNET)
    syscalls.unshare(init.NAMESPACES)
    (group / "exec").mkdir(exist_ok=True)
    (group / "exec/cgroup.procs").write_text("0")
    child = os.fork()
    if child == 0:
        Path("/proc/self/oom_score_adj").write_text("0")
        _become(boot, group)
    _, status = os.waitpid(child, 0)
    os._exit(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 100)


def _become(boot: dict[str, object], group: Path) -> NoReturn:
    os.setsid()
    (group / "cgroup.procs").write_text("0")  # for systemd, which makes its own below
    init.leave_foreign_mounts()
    root = str(boot["root"])
    own = () if root else ("/srv", "/etc/systemd/system", "/var/log/journal")
    if root:
        syscalls.bind(Path(root), Path(root))
        for name in ("/dev", "/sys"):
            syscalls.mount(name, Path(root + name), flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount("proc", Path(f"{root}/proc"), "proc")
    # No namespace holds back what is written there; the boot id is bound over it below.
    syscalls.bind(Path(f"{root}/proc/sys"), Path(f"{root}/proc/sys"))
    syscalls.mount("none", Path(f"{root}/proc/sys"), flags=MS_REMOUNT | MS_RDONLY | syscalls.MS_BIND)
    for name in ("/run", "/sys/fs/cgroup", *own):
        if Path(root + name).is_dir():
            syscalls.mount("tmpfs", Path(root + name), "tmpfs", data="mode=755")
    syscalls.mount("cgroup2", Path(f"{root}/sys/fs/cgroup"), "cgroup2")
    for source, target in boot["binds"]:  # type: ignore[attr-defined]
        inside = Path(root + target)
        if Path(source).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        elif root and not inside.is_relative_to(f"{root}/proc"):
            inside.touch()
        syscalls.bind(Path(source), inside)
    syscalls.bind(Path("/dev/null"), Path(f"{root}/dev/console"))
    system = Path(f"{root}/etc/systemd/system")
    for name in _MASKED:
        if not (system / name).is_symlink():
            (system / name).symlink_to("/dev/null")
    if not root:
        _copy(Path(str(boot["units"])), system)
    (system / "booted.target").write_text(TARGET + ("Wants=multi-user.target\n" if root else ""))
    if root:
        os.chdir(root)
        syscalls.mount(".", Path("/"), flags=MS_MOVE)
        os.chroot(".")
        os.chdir("/")
    socket.sethostname(str(boot["name"]))
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, 1 << 16)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    environment = {"container": "drover", "PATH": os.environ["PATH"]}
    os.execve("/lib/systemd/systemd", ["/lib/systemd/systemd", "--unit=booted.target"], environment)


def _copy(source: Path, target: Path) -> None:
    """Units, with their drop-ins; a link stays one."""
    for path in source.iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(os.readlink(path))
        elif path.is_dir():
            (target / path.name).mkdir(exist_ok=True)
            _copy(path, target / path.name)
        else:
            (target / path.name).write_text(path.read_text())


if __name__ == "__main__":
    main()
