"""One watch on one member of etcd, until it breaks: none of the ways in which it can break goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
import grpc.aio
from etcd3.etcdrpc import rpc_pb2

from drover.coordinator.etcd_rpc import TOKEN_REFUSED, Member, decode, encode, entry, is_delete, metadata, refusal
from drover.coordinator.store import Change, Changes, Compacted, Denied, WatchBroken

_ARE_YOU_THERE = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())


async def watch(
    member: Member,
    token: str | None,
    start: str,
    end: str,
    revision: int,
    patience: float,
    check: Callable[[Any], None],
) -> AsyncGenerator[Changes, None]:
    """As `Store.watch`. patience: seconds; a member that has said nothing for half as long is asked for a sign of life,
    and given up when there is none within it. check: looks at the header of each answer before anything is made of it;
    what it raises ends the watch.

    Raises WatchBroken, Compacted; Denied also where only the token is too old.
    """
    loop = asyncio.get_running_loop()
    # Asked for from one revision earlier and filtered: at the very revision of a compaction etcd leaves out deletes
    # without a word (etcd issue 19179). The filter also takes what comes twice or late (issues 15271, 15275).
    create = rpc_pb2.WatchCreateRequest(
        key=encode(start), range_end=encode(end), start_revision=max(1, revision - 1), progress_notify=True
    )
    delivered = revision - 1
    call = member.watch.Watch(metadata=(("hasleader", "true"), *metadata(token)))
    pulse = _Pulse(loop.time())
    probe = asyncio.create_task(_probe(call, pulse, patience))
    try:
        await call.write(rpc_pb2.WatchRequest(create_request=create))
        while True:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise WatchBroken(f"etcd at {member.address} ended the watch")
            if answer.canceled:
                raise _ended(answer, member)
            check(answer.header)
            changes = tuple(_change(event) for event in answer.events if event.kv.mod_revision > delivered)
            if changes:
                delivered = changes[-1].revision
            elif answer.events or answer.watch_id < 0:
                # Answers to our own question (no watch id) may overtake events (etcd issue 15220).
                pulse.heard = loop.time()
                continue
            elif not answer.created:
                delivered = max(delivered, answer.header.revision)
            pulse.reading = False
            yield Changes(changes, delivered)
            pulse.heard, pulse.reading = loop.time(), True
    except grpc.aio.AioRpcError as error:
        raise WatchBroken(str(refusal(error, member.address))) from error
    except asyncio.InvalidStateError as error:
        raise WatchBroken(f"etcd at {member.address} ended the watch") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not (pulse.silent or member.retired) or (task is not None and task.cancelling()):
            raise
        raise WatchBroken(f"etcd at {member.address} has fallen silent") from None
    finally:
        probe.cancel()
        call.cancel()
        await asyncio.wait({probe})


class _Pulse:
    """When a watch was last heard of, whether anybody listens, and whether it was given up for its silence."""

    def __init__(self, now: float) -> None:
        self.heard = now
        self.reading = True
        self.silent = False


async def _probe(call: Any, pulse: _Pulse, patience: float) -> None:
    """Ends a watch whose member is frozen: such a member does not end its streams."""
    loop = asyncio.get_running_loop()
    while True:
        if (left := pulse.heard + patience / 2 - loop.time()) > 0:
            await asyncio.sleep(left)
            continue
        asked = loop.time()
        try:
            await asyncio.wait_for(call.write(_ARE_YOU_THERE), patience)
        except TimeoutError:
            pass  # nothing of it left this machine; what was heard meanwhile decides
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # it has ended, and the reader knows why
        await asyncio.sleep(max(0.0, asked + patience - loop.time()))
        if pulse.reading and pulse.heard < asked:
            pulse.silent = True
            call.cancel()
            return


def _ended(answer: Any, member: Member) -> WatchBroken | Compacted | Denied:
    if answer.compact_revision:
        return Compacted(answer.compact_revision)
    said = f"etcd at {member.address} ended the watch: {answer.cancel_reason or 'no reason given'}"
    denied = any(words in answer.cancel_reason for words in ("permission denied", *TOKEN_REFUSED))
    return Denied(said) if denied else WatchBroken(said)


def _change(event: Any) -> Change:
    kv = event.kv
    return Change(decode(kv.key), None if is_delete(event) else entry(kv), kv.mod_revision)
