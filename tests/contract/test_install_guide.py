"""docs/install.md, typed as it stands, on three machines that have nothing and boot the real systemd."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.booted import HUP, ROOT, Booted
from tests.contract.test_packages import DEBIAN
from tests.playground import Playground

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

GUIDE = ROOT / "docs/install.md"
_STEP = re.compile(
    r"^```sh\n# on (?P<where>[\w -]+)\n(?P<what>.*?)^```$|^<!-- test: (?P<event>[^>]*) -->$", re.M | re.S
)
NODES = ("node-a", "node-b", "node-c")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@dataclass(frozen=True)
class Step:
    """where: a machine, "each machine", or "" where something happens to one."""

    where: str
    what: str


def steps() -> list[Step]:
    found = [Step(m["where"] or "", m["what"] or m["event"]) for m in _STEP.finditer(GUIDE.read_text())]
    assert len(found) == GUIDE.read_text().count("```sh") + 2, "every command says where it is typed"
    return found


class Reader:
    """Somebody who reads the guide, and types. What is other here: the addresses, packages are there already, and where
    the directory that all machines see stands on each."""

    def __init__(self, machines: dict[str, Booted], addresses: list[str]) -> None:
        self.machines, self._addresses = machines, addresses

    def follow(self, step: Step) -> None:
        match step.where, step.what:
            case "", "power cut of node-b":
                self.machines["node-b"].cut()
            case "", "power to node-b":
                self.machines["node-b"].boot()
            case name, "systemctl reboot\n":
                self.machines[name].popen("systemctl", "reboot").communicate(timeout=60)
                assert self.machines[name].ended() == HUP
                self.machines[name].boot()
            case "each machine", what:
                for name in NODES:
                    self._type(self.machines[name], what)
            case name, what:
                self._type(self.machines[name], what)

    def _type(self, machine: Booted, text: str) -> None:
        for written, here in zip(ADDRESSES, self._addresses, strict=True):
            text = text.replace(written, here)
        text = text.replace("/mnt/images", str(machine.images))
        text = text.replace("apt install -y ./drover", "dpkg -i /debs/drover")
        text = text.replace("apt install -y etcd-server etcd-client", "dpkg -i /debs/etcd-*.deb")
        process = machine.popen("timeout", "90", "bash", "-ec", f"cd /debs; {text}")
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"on {machine.name}:\n{text}\n{out}"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    assert DEBIAN.is_dir(), "tools/setup-root makes it"
    (tmp_path / "images").mkdir()
    debs = tmp_path / "debs"
    debs.mkdir()
    subprocess.run([ROOT / "tools/deb", debs], check=True, capture_output=True, timeout=300)
    for deb in (ROOT / ".cache/debs").glob("etcd-*.deb"):
        subprocess.run(["cp", deb, debs], check=True)
    with ExitStack() as stack:
        network = stack.enter_context(Playground(tmp_path / "network", nodes=3, etcd=1, agents=False))
        machines = {}
        for name in NODES:
            root = tmp_path / f"{name}.root"
            subprocess.run(["cp", "-a", DEBIAN, root], check=True)
            machine = machines[name] = Booted(tmp_path / "machines", name, "", tmp_path / "images", root=root)
            machine.netns = str(network.layout.netns(network.settings.machine(name)))
            machine.binds = [(debs, "/debs")]
            stack.enter_context(machine)
        yield Reader(machines, [network.address(name) for name in NODES])


def test_the_guide_leads_from_three_empty_machines_to_a_dataset_that_survives_them(reader: Reader) -> None:
    for step in steps():
        reader.follow(step)
    holders = [name for name, it in reader.machines.items() if "/srv/drover/notes" in it.run("cat", "/proc/mounts")]
    assert len(holders) == 1
    assert holders != ["node-b"], "it was rebooted"
    assert reader.machines[holders[0]].run("cat", "/srv/drover/notes/hi") == "hello"
