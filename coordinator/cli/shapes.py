"""What `--json` prints, field by field. The reference in docs/cli.md is made from these, so they are the promise.

Fields are only added, never renamed or removed. What is unknown or does not apply is null, "" or an empty list.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict


class NextJson(TypedDict):
    """What happens next to a dataset."""

    who: Annotated[str, "`nobody` (all is as wanted), `drover` (it goes on by itself) or `you`"]
    what: Annotated[str, "one sentence"]


class CopyJson(TypedDict):
    """A standby's copy of a dataset"""

    node: str
    standby: Annotated[bool, "false: none is wanted there any more"]
    guid: Annotated[str | None, "of the newest snapshot that it acknowledged; null: none yet"]
    at: Annotated[str | None, "when what it holds was the present, UTC, by the clock of the node that had the dataset"]
    trouble: Annotated[str | None, "why it is not kept up at the moment"]


class DatasetJson(TypedDict):
    """A dataset, in `ls`, `show`, `create`, `set` and `move`."""

    name: str
    phase: Annotated[str, "`waiting`, `starting`, `active`, `moving`, `stopped`, `failed`, `destroyed` or `invalid`"]
    node: Annotated[str | None, "the node that has it"]
    epoch: Annotated[int, "0: it never had an owner"]
    since: Annotated[str | None, "when the phase began, UTC, by that node's clock"]
    path: Annotated[str | None, "where it is mounted on its node"]
    size: Annotated[int | None, "bytes"]
    backend: str | None
    why: Annotated[str, "reason or warning, for people"]
    next: NextJson
    desired: Annotated[str | None, "the node where the user wants it"]
    invalid: Annotated[str | None, "why the spec cannot be used"]
    spec: Annotated[dict[str, Any] | None, "the spec with all defaults filled in"]
    uid: Annotated[str | None, "names the data; another uid is another dataset of the same name"]
    incarnation: Annotated[str | None, "of the node that has it"]
    asked: Annotated[str | None, "who or what caused its epoch"]
    users: Annotated[list[str], "containers that use it without being workloads"]
    data_on: Annotated[list[str], "local copies: the nodes that have what its epoch starts from, or has written"]
    copies: Annotated[list[CopyJson], "of its standbys"]
    unfenced: Annotated[list[str], "incarnations that may still be able to write"]
    together: Annotated[list[str], "datasets that move with it: of its group, or used by the same workload"]
    workloads: Annotated[list[str], "workloads that use it"]
    diverged: Annotated[list[DivergedJson], "what diverged and is kept; `drover resolve` decides"]
    cutover_ms: Annotated[
        int | None,
        "how long it was mounted nowhere when its epoch began, in a move or since a dead node's last heartbeat",
    ]
    history: Annotated[list[dict[str, Any]], "newest last; `show` only, empty elsewhere"]


class NodeJson(TypedDict):
    """A node, in `nodes`."""

    name: str
    state: Annotated[str, "`live`, `silent` (its session has ended), `left` (its machine shut down) or `fenced`"]
    since: Annotated[str | None, "when it joined, or was fenced"]
    incarnation: str | None
    cordoned: bool
    counter: Annotated[int | None, "of its newest heartbeat; it grows while the node is alive"]
    datasets: Annotated[list[str], "those that it has"]
    backends: list[str]
    version: str | None
    address: str | None


class TrashedJson(TypedDict):
    """A dataset in the trash"""

    name: Annotated[str, "in the trash"]
    dataset: Annotated[str, "the name that it had"]
    uid: str
    size: Annotated[int, "bytes"]
    until: Annotated[str, "when its data is destroyed"]


class DatasetsJson(TypedDict):
    """`drover ls --json`"""

    datasets: list[DatasetJson]
    ignored: Annotated[
        dict[str, str], "keys below the prefix that nobody acts on, with the reason, where no dataset tells it"
    ]
    paused: Annotated[dict[str, str] | None, "until, by and reason of the pause"]
    trash: Annotated[list[TrashedJson], "what was removed and can be had again"]


class NodesJson(TypedDict):
    """`drover nodes --json`"""

    nodes: list[NodeJson]


class ChangeJson(TypedDict):
    """`drover create --json`, `set`, `move --cancel`"""

    changed: Annotated[bool, "false: it was so already"]
    warnings: list[str]
    dataset: Annotated[DatasetJson, "as it was read right after the change"]


class MoveJson(ChangeJson):
    """`drover move --json`"""

    trace: Annotated[str | None, "the id of the trace that the move belongs to; null: nothing moves"]
    rounds: Annotated[
        dict[str, list[dict[str, Any]]],
        "with --wait, by dataset: bytes, seconds and full (all of it, no difference) of each round of copying, the "
        "last increment included where its end was seen",
    ]


class ForeseenJson(TypedDict):
    """`drover move --dry-run --json`"""

    datasets: Annotated[list[str], "all that would move, the one that was named first"]
    source: Annotated[str | None, "the node that has it; null: nobody"]
    to: str
    stops: Annotated[list[str], "workloads that would be stopped, and started there"]
    gap_ms: Annotated[int | None, "how long it would be mounted nowhere: the median of earlier moves"]
    gap_of_moves: Annotated[int, "how many moves that was made from"]
    stop_ms: Annotated[int | None, "how long its workloads took to end: the median of real stops; null: not known"]
    start_ms: Annotated[int | None, "how long they took to start; null: not known"]
    increment_ms: Annotated[
        int | None, "where the back end copies: how long the last increment, with nothing running, should take at most"
    ]
    room: Annotated[str, 'whether it fits, for people; "" where no room is needed']


class RemovedJson(TypedDict):
    """`drover rm --json`"""

    removed: Annotated[str, "the dataset's name"]
    data: Annotated[str, "`kept`, `trash`, `destroyed` (its node does so now) or `none` (there never was any)"]
    uid: str | None
    node: Annotated[str | None, "the node that has it now"]


class DivergedJson(TypedDict):
    """What an epoch has written on a node and no later one went on from, in `show` and `resolve`"""

    node: str
    epoch: int
    guid: Annotated[str, "names it for good"]
    path: Annotated[str, "where it is on its node"]
    size: Annotated[int | None, "bytes that only it takes; null: not known"]


class ResolvedJson(TypedDict):
    """`drover resolve --json`"""

    dataset: str
    changed: Annotated[bool, "false: there was nothing to decide, or --dry-run"]
    keep: Annotated[str | None, "the node whose copy the dataset goes on from; null: it stays where it is"]
    copy: Annotated[str | None, "when that was taken, UTC, by the clock of the node that had the dataset"]
    lost_seconds: Annotated[float | None, "what was written in so many seconds is lost, at most; null: not known"]
    discarded: list[DivergedJson]


class VerifiedCopyJson(TypedDict):
    """What one standby has, in `verify`"""

    node: str
    guid: Annotated[str, "of the snapshot that was compared"]
    at: Annotated[str, "when it was taken, UTC, by the clock of the node that has the dataset"]
    bytes: Annotated[int, "of content, compared"]
    count: Annotated[int, "of differences"]
    differences: Annotated[list[dict[str, str]], "path and what of each, the first hundred"]


class VerifiedJson(TypedDict):
    """`drover verify --json`"""

    dataset: str
    same: bool
    copies: list[VerifiedCopyJson]


class CordonJson(TypedDict):
    """`drover cordon --json`, `uncordon`"""

    changed: Annotated[bool, "false: it was so already"]
    node: str
    cordoned: bool


class SnapshotJson(TypedDict):
    """`drover snapshot --json`, and each of `drover snapshots ls --json`"""

    dataset: str
    name: str
    node: Annotated[str | None, "which has it; null: not taken yet"]
    taken: Annotated[str | None, "when, in UTC"]
    size: Annotated[int | None, "bytes that only it takes; null: not known"]
    removing: Annotated[bool, "it is not wanted any more"]
    trouble: Annotated[str | None, "why it has not been taken, or removed"]


class DrainJson(TypedDict):
    """`drover drain --json`"""

    node: str
    moved: Annotated[list[dict[str, Any]], "dataset, node, epoch and cutover_ms of each"]
    stuck: Annotated[dict[str, str], "datasets that are still there, with the reason"]


class EventJson(TypedDict):
    """One line of `drover events --json`"""

    revision: Annotated[int, "etcd's, when it was written"]
    at: Annotated[str, "UTC, by the clock of whoever wrote it"]
    kind: Annotated[
        str,
        "`epoch` (another owner), `active` (and its gap is over), `fence`, `cordon`, `uncordon`, `pause`, `resume`, "
        "`here` or `away` (a node's session began or ended)",
    ]
    what: Annotated[str, "for people"]
    dataset: str | None
    node: str | None
    epoch: int | None


class PausedJson(TypedDict):
    """`drover pause --json`, `resume`"""

    changed: Annotated[bool, "false: it was so already"]
    paused: Annotated[dict[str, str] | None, "until, by and reason of the pause"]


class FenceJson(TypedDict):
    """`drover fence --json`"""

    changed: Annotated[bool, "false: it was fenced already"]
    incarnation: str
    node: str
    evidence: str


class CertificateJson(TypedDict):
    """One certificate"""

    file: str
    role: Annotated[str | None, "`ca`, `node`, `operator`, `observer` or `etcd`; null: it does not say"]
    name: Annotated[str, "whose it is"]
    addresses: Annotated[list[str], "where it may be reached, as a server"]
    issuer: str
    since: str
    expires: Annotated[str, "from then on nobody believes it"]
    due: Annotated[bool, "less than a third of its life is left"]


class CertificatesJson(TypedDict):
    """`drover ca show --json`; `init`, `issue` and `renew` tell of what they made"""

    certificates: list[CertificateJson]


class RolesJson(TypedDict):
    """`drover etcd-roles --json`"""

    dry_run: Annotated[bool, "true: nothing of it was done"]
    steps: Annotated[list[str], "what was changed, or would be: for people"]


class RecoveryJson(TypedDict):
    """`drover recover --json`"""

    done: Annotated[bool, "false: it was only shown, or cannot be yet"]
    problems: Annotated[list[str], "why it cannot be done yet; the exit code is 3 then"]
    datasets: Annotated[
        list[dict[str, Any]], "name, node (that had it last; null: nobody), state, epoch, becomes (its epoch) and notes"
    ]


class UnitJson(TypedDict):
    """`drover etcd-unit --json`"""

    unit: Annotated[str, "the text of the unit"]


class FindingJson(TypedDict):
    """One finding of `drover doctor`"""

    severity: Annotated[str, "`ok`, `note`, `warning` or `failing`"]
    about: str
    what: str
    todo: Annotated[str, 'what to do; "" for nothing']


class DoctorJson(TypedDict):
    """`drover doctor --json`"""

    failing: Annotated[bool, "whether anything is; the exit code is 1 then"]
    node: Annotated[str | None, "the node that was examined; null: this machine is none"]
    findings: Annotated[list[FindingJson], "the worst first"]


class DifferenceJson(TypedDict):
    """One key that `drover apply` changes"""

    kind: Annotated[str, "`dataset` or `workload`"]
    name: str
    old: Annotated[dict[str, Any] | None, "as it stands in etcd; null: it is new"]
    new: Annotated[dict[str, Any] | None, "as it is to stand there; null: it goes"]
    node: Annotated[str | None, "where a new dataset begins"]


class ApplyJson(TypedDict):
    """`drover apply --json`"""

    changed: Annotated[bool, "false: nothing was to be done, or --dry-run"]
    differences: list[DifferenceJson]
    warnings: list[str]


class ImportJson(TypedDict):
    """`drover import --json`"""

    dataset: str
    node: str
    path: Annotated[str, "where it is mounted"]
    bytes: Annotated[int, "that are in it, on the disk"]


class AdoptJson(TypedDict):
    """`drover adopt --json`"""

    workload: str
    node: str
    datasets: list[str]
    gap_ms: Annotated[int, "from before the old container's stop until the new one was up"]
    kept: Annotated[str, "the old container's new name"]
