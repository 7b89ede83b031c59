"""`drover nodes`: all nodes, one line each."""

from __future__ import annotations

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.describe import node_json, now
from drover.coordinator.cli.output import age, seconds
from drover.coordinator.cli.picture import Node, NodeState, Picture, take_warned
from drover.coordinator.cli.shapes import NodesJson
from drover.coordinator.keys import DEFAULT_PREFIX

HEAD = ("NODE", "STATE", "SINCE", "DATASETS", "BACKENDS", "VERSION", "ADDRESS", "WHY")

_COLOURS = {NodeState.LIVE: "green", NodeState.SILENT: "yellow", NodeState.LEFT: "yellow", NodeState.FENCED: "red"}


def paint(state: str) -> str:
    return output.colour(state, _COLOURS.get(NodeState(state), "dim"))


def row(node: Node, picture: Picture) -> list[str]:
    it = node_json(node, picture)
    since = age(it["since"] or "", now())
    return [
        node.name,
        node.state.value,
        f"{since} ago" if since else "",
        str(len(it["datasets"])),
        ", ".join(it["backends"]),
        it["version"] or "",
        it["address"] or "",
        _why(node),
    ]


def _why(node: Node) -> str:
    if node.fence:
        return f"{node.fence.evidence.value} ({node.fence.detail})" if node.fence.detail else node.fence.evidence.value
    if node.state is NodeState.SILENT:
        return f"its session has ended at heartbeat {node.heartbeat.counter}" if node.heartbeat else "it left nothing"
    if node.heartbeat and node.state is NodeState.LEFT:
        return f"its machine shut down; it is waited for, {seconds(node.heartbeat.longer)}"
    if node.record and node.record.leaving:
        return "its machine shuts down"
    if node.cordon:
        return "cordoned" + (f": {node.cordon.reason}" if node.cordon.reason else "")
    return ""


def nodes(
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """List all nodes: who is here, who is silent, who has left, who is fenced and why."""
    picture, doubt = run(connection(endpoints, prefix), take_warned)
    if doubt:
        output.complain(output.plain(f"warning: {doubt}"))
    if as_json:
        output.say_json(NodesJson(nodes=[node_json(node, picture) for node in picture.nodes.values()]))
        return
    if not picture.nodes:
        output.complain("No nodes yet: no agent has joined under this prefix.")
        return
    output.say(output.table(HEAD, [row(node, picture) for node in picture.nodes.values()], {"STATE": paint}))
