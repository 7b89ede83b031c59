"""What a node reports of the volumes that it can see: `drover-agent tokens` prints it, `drover recover` reads it.

After etcd went back, these tokens are what is left of the epochs that it lost.
"""

from __future__ import annotations

from drover.coordinator.record import Name, Record


class VolumeReport(Record):
    """One volume, with the fencing token stored with its data. node: who published it last. object: its name at the
    back end. size: bytes. born: its file system was made. local: a copy that only the node that
    reports has. here: it is attached or mounted there."""

    dataset: Name
    uid: str
    backend: str
    object: str
    cluster: str
    epoch: int
    incarnation: str
    node: str
    born: bool
    size: int
    fs: str
    local: bool = False
    here: bool = False


class NodeReport(Record):
    """All volumes that a node can see; those of shared storage are seen by several."""

    node: Name
    volumes: tuple[VolumeReport, ...]
