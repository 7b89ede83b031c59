"""Whether a node can take a dataset just now, as its agent says it: is the back end well, is there room."""

from __future__ import annotations

from drover.coordinator.cli.connection import Access
from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.picture import Dataset, Picture
from drover.coordinator.sizes import format_size


async def fits(dataset: Dataset, backend: str, to: str, picture: Picture, access: Access) -> str:
    """What is known of the room, for people; "" where it needs none there. Agents that do not answer are no objection:
    the node itself refuses what it cannot take. Raises NotPossible."""
    from drover.coordinator.cli.agents import NotHeard, asking

    if (node := picture.nodes.get(to)) is None or node.record is None:
        return ""
    try:
        async with asking(to, node.record.grpc, access) as agent:
            there = await agent.room()
    except NotHeard as error:
        return f"not known: {error}"
    if wrong := there.unhealthy.get(f"backend.{backend}"):
        raise NotPossible(f"{to} cannot take it: {wrong}", f"Mend it on {to}, or choose another node: drover nodes")
    if not _copied_there(dataset, to):
        return ""
    free = there.free.get(backend)
    if free is None:
        return f"{to} tells no limit"
    needed = await _used(dataset, picture, access)
    if needed is None:
        return f"{format_size(free)} free on {to}; how much it needs is not known"
    if needed > free:
        raise NotPossible(
            f"{to} has {format_size(free)} free for {backend}, {dataset.name} needs {format_size(needed)}",
            f"Free space on {to}, or choose another node: drover nodes",
        )
    return f"{format_size(free)} free on {to}, {format_size(needed)} needed"


def _copied_there(dataset: Dataset, to: str) -> bool:
    """Whether all of it has to be sent: the back end copies, and nothing of it is known to be there."""
    tenure = dataset.tenure
    known = dataset.copies.nodes if dataset.copies else {}
    return tenure is not None and tenure.held and bool(tenure.copies) and to not in (*tenure.copies, *known)


async def _used(dataset: Dataset, picture: Picture, access: Access) -> int | None:
    from drover.coordinator.cli.agents import NotHeard, asking

    tenure = dataset.tenure
    source = picture.nodes.get(tenure.node) if tenure else None
    if tenure is None or source is None or source.record is None:
        return None
    try:
        async with asking(tenure.node, source.record.grpc, access) as agent:
            return await agent.used(dataset.name)
    except NotHeard:
        return None
