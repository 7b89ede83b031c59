"""What `copies/<d>` says of a dataset's standbys, for people and as JSON. Pure."""

from __future__ import annotations

from datetime import datetime

from drover.coordinator.cli.output import age
from drover.coordinator.cli.picture import Dataset
from drover.coordinator.cli.shapes import CopyJson


def copies_json(dataset: Dataset) -> list[CopyJson]:
    """By node, those that should have one and have none yet included. What an earlier epoch or another dataset of the
    name left there means nothing."""
    told, tenure = dataset.copies, dataset.tenure
    if told is None or tenure is None or (told.epoch, told.uid) != (tenure.epoch, tenure.uid):
        return []
    return [
        CopyJson(
            node=node,
            standby=node in told.standbys,
            guid=one.guid if (one := told.nodes.get(node)) else None,
            at=(one.at if one else "") or None,
            trouble=told.trouble.get(node) or None,
        )
        for node in sorted({*told.standbys, *told.nodes})
    ]


def cell(dataset: Dataset, now: datetime) -> str:
    """`node-b 4 s, node-c none`: for a column."""
    return ", ".join(
        f"{it['node']} {(age(it['at'] or '', now) or '?') if it['guid'] else 'none'}" for it in copies_json(dataset)
    )


def lines(dataset: Dataset, now: datetime) -> list[tuple[str, str]]:
    """One for each copy, and one for who has what the epoch starts from or has written."""
    said = [("copy", f"{it['node']}: {_words(it, now)}") for it in copies_json(dataset)]
    tenure = dataset.tenure
    return [("data on", ", ".join(tenure.copies) if tenure else ""), *said]


def _words(it: CopyJson, now: datetime) -> str:
    ago = age(it["at"] or "", now)
    words = f"acknowledged, {ago} old" if it["guid"] and ago else "acknowledged" if it["guid"] else "none yet"
    extra = "" if it["standby"] else "; not wanted any more, and kept until the others have theirs"
    return words + extra + (f"; {it['trouble']}" if it["trouble"] else "")
