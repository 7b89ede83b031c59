"""What people install: a wheel in an environment of its own, and a package of Debian on a machine that has nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover import __version__
from tests.booted import ROOT, TIMINGS, Booted, Cluster
from tests.cluster import writer
from tests.etcd import EtcdCluster
from tests.playground import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

DEBIAN = ROOT / ".cache/debian"
NEWER = f"{__version__}.post1"


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def test_the_wheel_in_a_clean_environment_has_both_programs_and_all_that_systemd_needs(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    inside = tmp_path / "venv/bin"
    run(inside / "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=tmp_path)
    assert run(inside / "drover", "--version", cwd="/").strip() == f"drover {__version__}"
    assert "valid" in run(inside / "drover-agent", "--check", "--node", "node-a", cwd="/")
    run(inside / "drover-agent", "install", tmp_path / "root", cwd="/")
    unit = tmp_path / "root/etc/systemd/system/drover-agent.service"
    assert f"ExecStart={inside / 'drover-agent'} " in unit.read_text()
    config = tmp_path / "root/etc/drover/agent.toml"
    assert "valid" in run(inside / "drover-agent", "--check", "--config", config, cwd="/")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as an administrator would."""
    return Path(run(ROOT / "tools/deb", tmp_path_factory.mktemp("debian")).splitlines()[-1])


@pytest.fixture(scope="module")
def upgrade(package: Path) -> Path:
    """The same package, of a newer version."""
    unpacked = package.parent / "newer"
    run("dpkg-deb", "-R", package, unpacked)
    for path, old, new in (
        (unpacked / "DEBIAN/control", r"^Version: .*$", f"Version: {NEWER}-1"),
        (next(unpacked.rglob("site-packages/drover/__init__.py")), r"^__version__ = .*$", f'__version__ = "{NEWER}"'),
    ):
        path.write_text(re.sub(old, new, path.read_text(), flags=re.MULTILINE))
    newer = package.parent / "newer.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", unpacked, newer)
    return newer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with EtcdCluster() as etcd:
        yield Cluster(tmp_path, etcd.members[0].endpoint)


@pytest.fixture
def machine(cluster: Cluster, tmp_path: Path) -> Iterator[Booted]:
    """A small Debian that has booted, with Python and nothing of Drover."""
    assert DEBIAN.is_dir(), "tools/setup-root makes it"
    root = tmp_path / "node-a.root"
    run("cp", "-a", DEBIAN, root)
    with cluster.machine("node-a", TIMINGS, root) as booted:
        yield booted


def files(machine: Booted) -> set[str]:
    """All that is there, other than what changes by itself."""
    kept = machine.run(
        "find", "/etc", "/usr", "/var/lib", "/var/cache", "/srv", "/lib", "-xdev", timeout=60
    ).splitlines()
    ours = ("/var/lib/dpkg/", "/var/lib/systemd/", "/var/cache/ldconfig", "/etc/group-", "/etc/gshadow-")
    return {path for path in kept if not path.startswith(ours)}


def install(machine: Booted, cluster: Cluster, package: Path) -> str:
    shutil.copy(package, cluster.directory / package.name)
    return machine.run("dpkg", "-i", str(cluster.directory / package.name), timeout=120)


def test_the_debian_package_is_installed_upgraded_and_purged_without_harm_to_a_commit(
    cluster: Cluster, machine: Booted, package: Path, upgrade: Path
) -> None:
    before = files(machine)
    assert "then: systemctl start drover-agent" in install(machine, cluster, package)
    assert machine.systemctl("is-enabled", "drover-agent", "drover-shutdown").split() == ["enabled", "enabled"]
    assert machine.run("stat", "-c", "%a %U %G", "/etc/drover/agent.toml") == "640 root drover"
    assert machine.run("drover", "--version") == f"drover {__version__}"
    machine.run("cp", str(machine.directory / "etc/agent.toml"), "/etc/drover/agent.toml")
    machine.run("systemctl", "start", "drover-agent")
    cluster.write("notes", "node-a", python="/usr/bin/python3")
    mount = machine.run("grep", " /srv/drover/notes ", "/proc/1/mountinfo")
    machine.run("chmod", "600", "/etc/drover/agent.toml")

    install(machine, cluster, upgrade)
    eventually(lambda: cluster.get("nodes/node-a").get("version") == NEWER, "the new agent is a member", 30, 0.1)
    cluster.goes_on("notes", "node-a")
    cluster.check("notes", machine)
    assert len(writer.turns(cluster.acknowledged("notes"))) == 1, "a writer whose commit fails ends"
    assert machine.run("grep", " /srv/drover/notes ", "/proc/1/mountinfo") == mount
    assert 'node = "node-a"' in machine.run("cat", "/etc/drover/agent.toml"), "an upgrade keeps the settings"
    assert machine.run("stat", "-c", "%a %U %G", "/etc/drover/agent.toml") == "600 root drover"
    assert cluster.keys("fences") == []

    uid = cluster.get("owners/notes")["uid"]
    machine.run("dpkg", "--purge", "drover", timeout=120)
    assert cluster.get("heartbeats/node-a")["left"] is True, "what it had waits for it, in good order"
    assert machine.run("grep", " /srv/drover/notes ", "/proc/1/mountinfo", check=False) == ""
    assert machine.systemctl("is-active", "drover-agent") == "inactive"
    assert files(machine) - before == set()
    kept = {path.suffix for path in (cluster.directory / "images").glob(f"{uid}*")}
    assert ".img" in kept, f"data is never a package's to remove: {kept}"
