"""What the suite of local copies moves data with: the commands of two nodes, tied together by pipes."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess

from drover.agent.storage.base import LocalCopies, Snapshot, Token, Volume
from drover.agent.storage.contract import newer
from drover.agent.storage.two_nodes import Node


def copies(node: Node) -> LocalCopies:
    assert isinstance(node.backend, LocalCopies)
    return node.backend


def common(here: list[Snapshot], there: list[Snapshot]) -> Snapshot | None:
    """The newest that both have."""
    guids = {one.guid for one in there}
    return next((one for one in reversed(here) if one.guid in guids), None)


async def carry(
    source: Node,
    target: Node,
    volume: Volume,
    token: Token,
    snapshot: Snapshot,
    most: int | None = None,
    checked: bool = True,
) -> bool:
    """Sends a snapshot, as far as `most` bytes. checked: the target looks at it, as it has to. Returns whether an
    increment was enough. Raises what the target says of it."""
    ours = {one.guid for one in await copies(source).snapshots(volume)}
    there = list(await copies(target).expect(volume, token, ours))
    parent = common([one for one in await copies(source).snapshots(volume) if one != snapshot], there)
    sending = copies(source).send(volume, snapshot, parent)
    receive = copies(target).receive(volume)
    if copies(source).both_ways:
        await asyncio.to_thread(_talk, sending.command, receive, most)
    else:
        stream = await asyncio.to_thread(subprocess.run, sending.command, capture_output=True, check=True, timeout=60)
        data = stream.stdout[:most]
        await asyncio.to_thread(
            subprocess.run, receive, input=data, capture_output=True, timeout=60, check=most is None
        )
    if not checked:
        return not sending.full
    await target.runner.run(volume.dataset, *copies(target).arrived(volume, token, snapshot), 60.0)
    return not sending.full


def _talk(send: tuple[str, ...], receive: tuple[str, ...], most: int | None) -> None:
    """Each hears the other, until the sender has said `most` bytes; negative: all but its last words."""
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(receive, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as there,
        subprocess.Popen(send, stdin=there.stdout, stdout=pipe, stderr=pipe, bufsize=0) as here,
    ):
        assert there.stdin
        assert there.stdout
        assert there.stderr
        assert here.stdout
        assert here.stderr
        there.stdout.close()
        left = most
        while said := os.read(here.stdout.fileno(), 65536 if left is None or left < 0 else left):
            if left is not None and left < 0:
                if not select.select([here.stdout], [], [], 0.5)[0]:
                    break  # it waits for an answer, which does not come
            elif left is not None and (left := left - len(said)) <= 0:
                break
            there.stdin.write(said)
        if most is not None:
            here.kill()
            there.kill()
        there.stdin.close()
        words = here.stderr.read() + there.stderr.read()
    if most is None and (here.returncode, there.returncode) != (0, 0):
        raise subprocess.CalledProcessError(here.returncode or there.returncode, send, stderr=words)


async def move(source: Node, target: Node, volume: Volume, token: Token) -> tuple[Token, bool]:
    """All of it, with one round while it is in use; the token of the next epoch, and whether increments were enough."""
    first = await carry(source, target, volume, token, await copies(source).snapshot(volume, token))
    await source.backend.unpublish(volume)
    last = await copies(source).seal(volume, token)
    await carry(source, target, volume, token, last)
    following = newer(token)
    await copies(target).materialise(volume, following, last.guid, token.epoch)
    await target.publish(volume, following)
    return following, first
