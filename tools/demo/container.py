"""The last act: a container moves with its data, where this computer has a Docker Engine to run on each node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.playground import engine
from drover.coordinator.keys import Keys
from tools.demo.stage import DemoFailed, Stage
from tools.demo.telling import length, say, title

SERVICE, DATASET = "diary", "pages"
SOURCE, TARGET = "node-b", "node-c"
COMPOSE = f"""\
services:
  {SERVICE}:
    image: {engine.IMAGE.partition(":")[0]}
    init: true
    command:
      - sh
      - -c
      - >-
        n=$$(tail -n 1 /data/diary 2>/dev/null || true);
        while :; do n=$$((n+1)); echo "$$n" >> /data/diary; sync; sleep 0.05; done
    volumes: ["{DATASET}:/data"]
volumes:
  {DATASET}:
    x-drover: {{backend: loopback, size: 400MiB, node: {SOURCE}}}
"""
_PATIENCE = 30.0
_KEYS = Keys()


def missing() -> str:
    """Why no container can be moved here; "" where one can."""
    try:
        engine.check()
    except NotPossible as reason:
        return f"{reason.what} {reason.todo}"
    return ""


def tell(stage: Stage) -> None:
    """Raises DemoFailed."""
    title("The same with a container")
    if wrong := missing():
        say(f"Left out: a container needs a Docker Engine on every node, and {wrong}")
        return
    file = stage.directory / "compose.yaml"
    file.write_text(COMPOSE)
    say("Every node has a Docker Engine of its own. The container numbers the lines that it writes to its volume.")
    stage.show("drover", "apply", str(file), "--yes")
    _until(lambda: len(_numbers(stage, SOURCE)) > 20, f"the container writes on {SOURCE}")
    began = time.monotonic()
    stage.show("drover", "move", "--workload", SERVICE, TARGET, "--wait")
    moved = time.monotonic() - began
    before = len(_numbers(stage, TARGET))
    _until(lambda: len(_numbers(stage, TARGET)) > before + 20, f"it goes on on {TARGET}")
    numbers = _numbers(stage, TARGET)
    if numbers != list(range(1, len(numbers) + 1)):
        raise DemoFailed("all lines are numbered, none missing or twice", f"of {len(numbers)} lines that is not so")
    for node in (SOURCE, TARGET):
        there = SERVICE in stage.run(*_on(stage, node), "docker", "ps", "--format", "{{.Names}}").split()
        if there != (node == TARGET):
            raise DemoFailed(f"the container runs on {TARGET} and nowhere else", f"it is not so on {node}")
    say(
        f"It runs on {TARGET} and nowhere else. From the command to its end that took {length(moved)}; its "
        f"{len(numbers)} lines are numbered without a gap. All of it with one Compose file: docs/compose.md"
    )
    stage.show("drover", "apply", str(file), "--down", "--yes")


def _on(stage: Stage, node: str) -> tuple[str, ...]:
    return ("drover", "playground", "exec", str(stage.directory), node, "--")


def _numbers(stage: Stage, node: str) -> list[int]:
    """What it has written; none where it is not mounted yet."""
    owner = json.loads((stage.get(_KEYS.owner(DATASET)) or [b"{}"])[0])
    if owner.get("node") != node:
        return []
    said = stage.run(*_on(stage, node), "sh", "-c", f"cat /srv/drover/{DATASET}/diary 2>/dev/null || true")
    return [int(line) for line in said.split()]


def _until(condition: Callable[[], bool], promise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"{promise} within {_PATIENCE:g} s", "it does not")
        time.sleep(0.2)
