"""The promises of docs/protocol.md, looked at with every event that could break one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drover.agent.storage.base import Token
from drover.coordinator.records import Evidence, Fence, Heartbeat, LeaseRecord, State, Tenure
from drover.coordinator.txn import Delete, Put, Txn
from tests.sim.etcd import Sender
from tests.sim.storage import BLOCK, Image, Mount

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World


REWRITES = 150
"""Transactions on one tenure in one epoch: users do not ask as often."""
HEARD = 2.0
"""Seconds after an outage in which nobody can have been heard long enough to call others silent."""


class Checks:
    """Tells the world of the first promise that was broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._active: set[tuple[str, int, str]] = set()
        self._fenced: set[str] = set()
        self._rewritten: dict[str, int] = {}
        self._beats: dict[str, tuple[float, float]] = {}
        """By incarnation: when its newest heartbeat committed, and for how long that says that it may write."""
        self._acknowledged: dict[str, list[int]] = {}
        self._volume_of: dict[tuple[str, int], str] = {}
        self._followed: set[tuple[str, str, int]] = set()
        """By dataset, uid and number: requests that a handover has acted on."""
        self._ever: dict[str, int] = {}
        """By dataset: the highest epoch before etcd went back."""
        self.tenures: dict[str, Tenure] = {}
        self.written = 0

    def _breach(self, what: str) -> None:
        self._world.breach(what)

    # etcd.

    def committed(self, txn: Txn, succeeded: bool, sender: Sender) -> None:
        if not succeeded or not txn.then:
            return
        if sender.incarnation in self._fenced:
            keys = ", ".join(op.key for op in txn.then)
            self._breach(f"a transaction of {sender.incarnation} committed after its fence: {keys}")
        owners: list[str] = []
        for operation in txn.then:
            kind, _, name = operation.key.removeprefix("/drover/").partition("/")
            match kind, operation:
                case "owners", Put(value=value):
                    owners.append(name)
                    self._tenure(name, Tenure.decode(value), sender)
                case "owners", Delete() if name.startswith("trash-"):
                    del self.tenures[name]
                case "owners", Delete():
                    self._breach(f"the tenure of {name} was deleted")
                case "heartbeats", Put(value=value):
                    beat = Heartbeat.decode(value)
                    if not beat.placeholder:
                        self._beats[beat.incarnation] = (self._world.loop.now, beat.writes_for)
                case "fences", Put(value=value):
                    self._fence(name, Fence.decode(value), sender)
                case "leases", _:
                    owners.append(name)
                case _:
                    pass
        for name in owners:
            self._lease(name)
        if owners:
            self.writers()

    def _tenure(self, name: str, tenure: Tenure, sender: Sender) -> None:
        before = self.tenures.get(name)
        epoch, incarnation = (before.epoch, before.incarnation) if before else (0, "")
        taken_back = tenure.state is State.RELEASED and sender.process == "command"
        if tenure.epoch < epoch or (tenure.epoch == epoch and tenure.incarnation != incarnation and not taken_back):
            self._breach(f"{name} went from epoch {epoch} of {incarnation} to {tenure.epoch} of {tenure.incarnation}")
        if ".recovered." in tenure.incarnation and tenure.epoch <= self._ever.get(name, 0):
            self._breach(f"{name} is recovered with epoch {tenure.epoch}, and there was {self._ever[name]} before")
        if before is not None and tenure.epoch > epoch and tenure.because.startswith("desired says"):
            self._follows(name, tenure)
        self._rewritten = {**self._rewritten, name: self._rewritten.get(name, 0) + 1 if tenure.epoch == epoch else 0}
        if self._rewritten[name] > REWRITES:
            self._breach(f"the tenure of {name} is written again and again in epoch {epoch}")
        if tenure.copies:
            self._copies(name, tenure, before)
        self.tenures[name] = tenure
        if tenure.state is State.ACTIVE:
            self._active.add((name, tenure.epoch, tenure.incarnation))
        if before is None or (before.epoch, before.state, before.unfenced) != (
            tenure.epoch,
            tenure.state,
            tenure.unfenced,
        ):
            left = f", not cut off: {' '.join(h.incarnation for h in tenure.unfenced)}" if tenure.unfenced else ""
            self._world.say(
                sender.machine,
                f"{name}: epoch {tenure.epoch} {tenure.state} on {tenure.incarnation}{left} ({tenure.because})",
            )

    def _copies(self, name: str, tenure: Tenure, before: Tenure | None) -> None:
        """Who has it has the data, too: what a handover starts from is at the target, as it was sent, and durable."""
        if not tenure.held:
            return
        if tenure.node not in tenure.copies:
            self._breach(f"{tenure.node} takes {name}, whose data is on {' and '.join(tenure.copies)}")
        if tenure.base is None or tenure.state is not State.ASSIGNED or before is None or before.base == tenure.base:
            return
        source, target = (self._world.storage.copies.get(n, tenure.uid) for n in (before.node, tenure.node))
        sent = next((snap for snap in source.snapshots if snap.guid == tenure.base), None) if source else None
        come = next((snap for snap in target.snapshots if snap.guid == tenure.base), None) if target else None
        if come is None or not come.durable or (sent is not None and sent.data != come.data):
            self._breach(f"{name} goes to {tenure.node}, which has not all of it, durably")

    def _follows(self, name: str, tenure: Tenure) -> None:
        """Of a dataset that is no other's companion: each request moves it once."""
        request = (name, tenure.uid, self._world.requests.get(name, 0))
        if request in self._followed and not any(self._world.groups.values()):
            self._breach(f"{name} goes to {tenure.node} again for a request that had been acted on")
        self._followed.add(request)

    def _fence(self, incarnation: str, fence: Fence, sender: Sender) -> None:
        world = self._world
        if incarnation in self._fenced:
            world.say(sender.machine, f"fence of {incarnation} written again: {fence.evidence}")
        else:
            world.say(sender.machine, f"fences {incarnation}: {fence.evidence}, {fence.detail}")
        self._fenced.add(incarnation)
        beat, writes_for = self._beats.get(incarnation, (-1e9, 0.0))
        heard = world.loop.now - beat
        if fence.evidence is Evidence.SILENCE and heard < writes_for:
            self._breach(f"{incarnation} was fenced for silence, and was heard {heard:.2f} s ago")
        if fence.evidence is Evidence.SILENCE and world.etcd.truth.entry(world.keys.pause) is not None:
            self._breach(f"{incarnation} was fenced for silence in a pause")
        alive = world.etcd.away - beat < world.timings.d_soft
        if fence.evidence is Evidence.SILENCE and alive and 0 <= (ago := world.loop.now - world.etcd.back) < HEARD:
            self._breach(f"{incarnation} was fenced for silence {ago:.2f} s after etcd had been away for everybody")
        if fence.evidence is not Evidence.SILENCE or fence.armed:
            for dataset, mount in self._mounts(world.machines[fence.node]):
                if mount.token.incarnation == incarnation:
                    self._breach(f"{incarnation} was fenced ({fence.evidence}) while it still writes {dataset}")

    def restored(self) -> None:
        """etcd is as it was at a backup. Epochs must go on above all that there ever were all the same."""
        truth, keys = self._world.etcd.truth, self._world.keys
        for name, tenure in self.tenures.items():
            self._ever[name] = max(self._ever.get(name, 0), tenure.epoch)
        owners, fences = keys.owner(""), keys.fence("")
        kept = {e.key: e for e in truth.entries("", "\xff")}
        self.tenures = {
            key.removeprefix(owners): Tenure.decode(e.value) for key, e in kept.items() if key.startswith(owners)
        }
        self._fenced = {key.removeprefix(fences) for key in kept if key.startswith(fences)}
        self._volume_of = {k: v for k, v in self._volume_of.items() if k[1] <= truth.revision}
        self._followed.clear()

    def fenced(self, incarnation: str) -> bool:
        return incarnation in self._fenced

    def operator(self, incarnation: str) -> None:
        """A person has fenced it."""
        self._fenced.add(incarnation)

    def _lease(self, name: str) -> None:
        world = self._world
        entry, tenure = world.etcd.truth.entry(world.keys.lease(name)), self.tenures.get(name)
        if entry is None or tenure is None:
            return
        said = LeaseRecord.decode(entry.value)
        if (said.incarnation, said.epoch) != (tenure.incarnation, tenure.epoch) or not tenure.held:
            self._breach(f"leases/{name} says epoch {said.epoch} of {said.incarnation}, the tenure {tenure.epoch}")

    # Storage.

    def _mounts(self, machine: Machine) -> Sequence[tuple[str, Mount]]:
        """Those that can write. What a machine does that was suspended for too long is beyond the promise."""
        if not machine.up or machine.adrift:
            return ()
        return [
            (d, m) for d, m in machine.mounts.items() if m.image.backend != BLOCK or m.image.attached == machine.name
        ]

    def writers(self) -> None:
        """At most one writes each dataset, and none in an epoch before the one that is active."""
        seen: dict[str, str] = {}
        for machine in self._world.machines.values():
            for dataset, mount in self._mounts(machine):
                if dataset in seen:
                    self._breach(f"{seen[dataset]} and {machine.name} both write {dataset}")
                seen[dataset] = machine.name
                tenure = self.tenures.get(dataset)
                if tenure is not None and tenure.state is State.ACTIVE and mount.token.epoch < tenure.epoch:
                    self._breach(
                        f"{machine.name} writes epoch {mount.token.epoch} of {dataset}, {tenure.epoch} is active"
                    )

    def writes(self, machine: Machine, dataset: str, token: Token, how: str) -> None:
        """Something of the volume, in this epoch."""
        if machine.adrift:
            return
        if (dataset, token.epoch, token.incarnation) not in self._active:
            self._breach(f"{machine.name} {how} {dataset} in epoch {token.epoch}, which never was active")

    def mounted(self, machine: Machine, dataset: str, image: Image, token: Token) -> None:
        self._world.say(machine.name, f"{dataset}: mounted {image.object} in epoch {token.epoch}")
        self.writes(machine, dataset, token, "mounts")
        self.writers()
        if machine.adrift:
            return
        if image.data != self._acknowledged.get(image.object, []):
            self._breach(f"{dataset}: writes that were acknowledged are not there")
        tenure = self.tenures.get(dataset)
        if tenure is not None and tenure.uid == token.uid:
            known = self._volume_of.setdefault((dataset, tenure.created), image.object)
            if known != image.object and self._acknowledged.get(known):
                self._breach(f"{dataset} is {image.object} now, and what was written to {known} is not in it")

    def wrote(self, machine: Machine, dataset: str, mount: Mount) -> None:
        """A workload's write. It is acknowledged, where the device is still there."""
        image, token = mount.image, mount.token
        if machine.adrift or (image.backend == BLOCK and image.attached != machine.name):
            return
        self.writes(machine, dataset, token, "writes to")
        if not self._world.storage.has(image):
            self._breach(f"{machine.name} writes to {image.object}, which was destroyed")
        self.written += 1
        image.data.append(self.written)
        self._acknowledged.setdefault(image.object, []).append(self.written)

    def formats(self, machine: Machine, image: Image, token: Token) -> None:
        self.writes(machine, image.dataset, token, "formats")
        if image.data and not machine.adrift:
            self._breach(f"{machine.name} formats {image.object}, which has data")

    def destroys(self, machine: Machine, image: Image, token: Token) -> None:
        world = self._world
        world.say(machine.name, f"{image.dataset}: destroys {image.object}")
        if image.token.uid not in world.doomed:
            self._breach(f"{machine.name} destroys {image.object}, which nobody asked for")
        for other in world.machines.values():
            if any(m.image is image for _, m in self._mounts(other)):
                self._breach(f"{machine.name} destroys {image.object} while {other.name} writes it")
