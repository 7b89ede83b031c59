"""What a back end is. A back end knows nothing of etcd, and of epochs only that a token is stored with the data.

Three families (docs/protocol.md, "What fencing means"):

- exclusive block: a volume is a device that the platform attaches to one machine at a time (EBS, Cinder, PowerFlex);
- shared file: an image that every node can open (loopback); who may write is decided by deadlines;
- local copies: each node has copies of its own, kept alike by snapshots on the wire (btrfs, ZFS, directory).

All verbs are idempotent: asked again after a crash half-way they finish the work, and asked for what is already so they
return at once. What is really there is found by looking (`look`), never by remembering. Names of volumes are chosen by
the back end (`Volume.object`) from the dataset's uid, so that a new dataset under an old name is another volume.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from drover.agent.guard.ladder import Cut

if TYPE_CHECKING:  # helpers import this, and stay small without pydantic
    from drover.coordinator.specs import Limits


class Family(StrEnum):
    EXCLUSIVE_BLOCK = "exclusive block"
    SHARED_FILE = "shared file"
    LOCAL_COPIES = "local copies"


@dataclass(frozen=True)
class Token:
    """The fencing token that is stored with the data: (epoch, incarnation) only grows, for one (cluster, uid)."""

    cluster: str
    uid: str
    epoch: int
    incarnation: str


@dataclass(frozen=True)
class Volume:
    """A dataset as a back end sees it. size: bytes. fs: None: the back end's default. object: its name at the back end,
    "" before `create`."""

    dataset: str
    uid: str
    size: int
    fs: str | None = None
    object: str = ""


@dataclass(frozen=True)
class Stored:
    """A volume as a back end finds it by itself, with the token that is stored with it. holder: the node that published
    it last, "" where it is not known. born: its file system was made."""

    volume: Volume
    token: Token
    holder: str
    born: bool


# What is here, on this node, of one volume.


@dataclass(frozen=True)
class Away:
    """Nothing of it is here."""


@dataclass(frozen=True)
class Attached:
    """A device is here, nothing is mounted."""

    device: str


@dataclass(frozen=True)
class Mounted:
    """A file system is mounted (in some mount namespace of this node). size: bytes of the file system's device."""

    device: str
    path: Path
    size: int


Here = Away | Attached | Mounted


@dataclass(frozen=True)
class Usage:
    """Bytes and inodes of a mounted dataset. free: for its users; some file systems keep a part for root."""

    size: int
    used: int
    inodes: int
    inodes_used: int
    free: int


@dataclass(frozen=True)
class Capacity:
    """Bytes of the pool that new volumes come from, and inodes of the file system that it is in; None: without a limit
    that the back end knows."""

    size: int | None
    free: int | None
    inodes: int | None = None
    inodes_free: int | None = None


class StorageError(Exception):
    """Base. The text says what is wrong and what to do, and is shown to users as the dataset's reason."""


class NotFound(StorageError):
    """The volume's data is not at the back end. Never answered by making an empty one."""


class Foreign(StorageError):
    """The stored token is another cluster's or another dataset's: not ours, whatever its name."""


class Superseded(StorageError):
    """The stored token is newer than ours: etcd went back, or we are the past. Nothing was touched."""


class Busy(StorageError):
    """It is in use here or on another node; `by` says by whom, as far as is known."""

    def __init__(self, message: str, by: str = "") -> None:
        super().__init__(message)
        self.by = by


class NoRoom(StorageError):
    """The pool is full, or the size is not possible there."""


class NotBlank(StorageError):
    """Formatting was asked of a volume that holds something."""


class Damaged(StorageError):
    """The file system cannot be mounted and a check did not mend it. The data was left as it is."""


def check_token(stored: Token, mine: Token) -> None:
    """What every back end asks first: may `mine` touch data that carries `stored`? Raises Foreign, Superseded."""
    if (stored.cluster, stored.uid) != (mine.cluster, mine.uid):
        raise Foreign(
            f"the data belongs to volume {stored.uid} of cluster {stored.cluster}, and this is volume {mine.uid} of "
            f"cluster {mine.cluster}: nothing was touched; look whether this back end is set to another cluster's "
            "storage; if this cluster should have the data, copy it into a new dataset"
        )
    if stored.epoch > mine.epoch or (stored.epoch == mine.epoch and stored.incarnation != mine.incarnation):
        raise Superseded(
            f"the data carries epoch {stored.epoch} of incarnation {stored.incarnation}, newer than ours (epoch "
            f"{mine.epoch} of {mine.incarnation}): another node has it, or etcd was restored from an old backup; "
            "nothing was touched; if no other node has it and etcd was restored, set the epoch in the token that is "
            f"stored with the data to {mine.epoch - 1}"
        )


@dataclass(frozen=True)
class Snapshot:
    """Of local copies. guid: the same on every node that has it. name: unique for one dataset, in order of time."""

    guid: str
    name: str


@dataclass(frozen=True)
class Sending:
    """How a snapshot is sent: a command that writes it to its standard output. full: nothing is common, so all of it
    is."""

    command: tuple[str, ...]
    full: bool


@dataclass(frozen=True)
class Diverged:
    """What an epoch has written on this node and no later one went on from. guid: names it for good. path: where people
    find it. size: bytes that only it takes; None: not known."""

    epoch: int
    guid: str
    path: str
    size: int | None = None


class Runner(Protocol):
    """Runs a function that can write to storage in a helper process, inside the dataset's cgroup and behind the gate.

    The function is named `package.module:function`, takes keyword arguments that are JSON, and returns JSON. An
    exception of a StorageError class comes back as itself. Raises GateClosed (nothing was done), HelperDied (killed or
    timed out: look at what is there).
    """

    async def run(self, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float) -> Any: ...


class GateClosed(StorageError):
    """The session's deadline has passed, or the gate is closed: nothing was done."""


class HelperDied(StorageError):
    """The helper was killed or did not finish in time. What it did is found by looking."""


class Backend(Protocol):
    """One back end on one node. Made once, by `factory(settings, node)`; used by many workers at the same time."""

    name: str
    family: Family
    limits: Limits
    """What it can make at all; told to all nodes, so that nobody takes what nobody could make."""

    async def health(self) -> str | None:
        """What is wrong with the back end on this node (directory missing, API does not answer); None: nothing."""
        ...

    async def capacity(self) -> Capacity:
        """Raises StorageError where it cannot be told."""
        ...

    async def create(self, volume: Volume, token: Token) -> str:
        """Make the volume and an empty file system in it; returns `object`. Idempotent by uid; a volume that is there
        and formatted is left alone. The caller has an active tenure that was never `born`.

        Raises NoRoom, NotBlank, Foreign, Superseded, Busy, GateClosed.
        """
        ...

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """What is here of each, by dataset. A local look (sysfs, mount table): no API call, milliseconds."""
        ...

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        """Bring it from whatever is here to mounted at `path`: attach, check, replay, mount, with the token stored
        first. The caller is active and nobody else can write.

        Raises NotFound, Foreign, Superseded, Busy, Damaged, NoRoom (the token cannot be stored), GateClosed.
        """
        ...

    async def unpublish(self, volume: Volume) -> None:
        """Everything written is durable, nothing is mounted in any namespace, no device is here. Raises Busy."""
        ...

    async def reach(self, volume: Volume) -> str | None:
        """Why `publish` could not work here, found without touching anything (image missing, limit reached); None: it
        should. Asked at the target while the source still runs."""
        ...

    async def grow(self, volume: Volume) -> None:
        """To `volume.size`, while mounted. Raises NoRoom, StorageError where it would have to shrink below the data."""
        ...

    def usage(self, mounted: Mounted) -> Usage:
        """How full it is. Called in a thread, as it hangs where the storage does. Raises OSError."""
        ...

    async def destroy(self, volume: Volume, token: Token) -> None:
        """The answer to a user's explicit request, for this uid. Idempotent: gone is fine.

        Raises Foreign, Superseded, Busy.
        """
        ...

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """Before an earlier holder counts as stopped: detach the volume from its machine and see it gone, or see that
        no write of it arrives any more. Back ends that can cut nothing from here return. Raises
        Foreign, Superseded."""
        ...

    def last_means(self) -> Cut:
        """What the guard calls at the deadline: within milliseconds no byte reaches the storage any more from any
        volume of this back end that is here, whatever was known of it; then unmount and detach."""
        ...

    async def stored(self) -> Sequence[Stored]:
        """Every volume that this node can see, of whichever cluster. Asked after etcd went back: a volume that is left
        out, or whose token cannot be read, could be given to the wrong node. Raises StorageError where one cannot."""
        ...


@runtime_checkable
class LocalCopies(Backend, Protocol):
    """What the family of local copies has besides. A dataset's data is on the nodes that have a copy, and nowhere else.

    The holder has the working copy; all have read-only snapshots. A working copy is of one epoch, whose token is stored
    with it; `publish` takes no other. `create` makes the first one, `materialise` those of later epochs.
    """

    both_ways: bool
    """Whether the commands that send and receive talk to each other: what the one that receives writes to its standard
    output is to be the other's standard input. Else sending makes the same bytes when it is run again."""

    async def materialise(self, volume: Volume, token: Token, base: str | None, written: int) -> str:
        """The working copy of this epoch, stamped and durable, before anything may be written: from the snapshot
        `base`; None: it is the one that is here, which must be of epoch `written` at least. One of an earlier epoch
        that is not continued is set aside, and its path returned; else "". Idempotent.

        Raises NotFound, Foreign, Superseded, Busy, NoRoom, GateClosed.
        """
        ...

    async def snapshots(self, volume: Volume) -> Sequence[Snapshot]:
        """Those here that are whole, oldest first."""
        ...

    async def presync(self, volume: Volume) -> None:
        """What is dirty is written while the workload goes on, so that less has to be when it has stopped."""
        ...

    async def snapshot(self, volume: Volume, token: Token) -> Snapshot:
        """Of the working copy, while it is in use or not."""
        ...

    async def seal(self, volume: Volume, token: Token) -> Snapshot:
        """The end of an epoch here: nothing can be written to the working copy any more, and this is what is in it.
        `publish` with the same token undoes it. Idempotent. Raises Busy while it is mounted."""
        ...

    def send(self, volume: Volume, snapshot: Snapshot, parent: Snapshot | None) -> Sending: ...

    async def expect(self, volume: Volume, token: Token, theirs: Collection[str]) -> Sequence[Snapshot]:
        """At the target: get ready to receive from the holder, whose token this is and who has snapshots with these
        guids, and say what is here already that it can send on from. What is here is of that epoch afterwards: an
        earlier sender's `received` is refused. What came in part is removed."""
        ...

    def receive(self, volume: Volume) -> tuple[str, ...]:
        """The command that receives from its standard input."""
        ...

    def arrived(self, volume: Volume, token: Token, snapshot: Snapshot) -> tuple[str, Mapping[str, Any]]:
        """What is to run (as Runner runs it) after that command has ended well: it finds that the snapshot is whole, is
        the one that was sent, and makes it durable; only then may anybody rely on it. It raises Damaged where it is
        not, and has removed it then; Superseded where another epoch's has been expected meanwhile."""
        ...

    async def discard(self, volume: Volume) -> None:
        """Removes what came in part only."""
        ...

    async def set_aside(self, volume: Volume, token: Token) -> str:
        """On a node that does not hold it: a working copy of an earlier epoch than the holder's, whose token this is,
        is never used again; its path, or "" where there is none. What is here is of that epoch afterwards.

        Raises NotFound, Foreign, Superseded, Busy.
        """
        ...

    async def diverged(self, volume: Volume) -> Sequence[Diverged]:
        """What was set aside here, in order of epochs."""
        ...

    async def discard_diverged(self, volume: Volume, token: Token, guid: str) -> None:
        """The answer to a user's explicit request. Idempotent. token: as for `set_aside`. Raises Foreign,
        Superseded."""
        ...

    async def prune(self, volume: Volume, keep: Collection[str]) -> None:
        """Removes snapshots but the newest, those whose guid is in `keep`, and those that are being read (`Readable`).
        Does not wait for their room."""
        ...


@runtime_checkable
class Readable(Protocol):
    """A back end with local copies whose snapshots can be read in place, to be compared with other nodes'."""

    def readable(self, volume: Volume, snapshot: Snapshot) -> AbstractAsyncContextManager[Path]:
        """Where what is in it can be read; meanwhile `prune` spares it. Raises NotFound."""
        ...


@runtime_checkable
class TellsChanges(Protocol):
    """What a back end with local copies may tell besides, so that nothing is sent for nothing."""

    async def changed(self, volume: Volume, snapshot: Snapshot) -> int | None:
        """Bytes that a power cut now would leave in the working copy and that are not in its newest snapshot, which
        this is; 0: nothing has changed. None: it is not known how many. Raises StorageError."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A back end of which people should know something, though nothing is wrong."""

    async def remark(self) -> str:
        """For `drover doctor`; "" for nothing. Raises OSError."""
        ...


class Factory(Protocol):
    """What the entry point group `drover.storage` names. settings: the table [backends.<name>] of the node's settings;
    unknown or wrong keys raise ValueError with one line that names the key."""

    def __call__(self, settings: Mapping[str, Any], node: str, runner: Runner) -> Backend: ...
