"""What agent and relay say to each other: one JSON object a packet, over a socket of their own, with descriptors.

Standard library only. The relay's side blocks, the agent's (transfer/relay.py) does not.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

LARGEST = 1 << 17
"""Bytes of a packet."""


class AgentGone(Exception):
    """Whoever ordered this has ended, or wants no more of it."""


class Control:
    """The relay's side."""

    def __init__(self, name: str) -> None:
        """name: of the agent's abstract socket. Raises AgentGone."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(f"\0{name}")
        except OSError as error:
            self._socket.close()
            raise AgentGone(str(error)) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def say(self, message: Mapping[str, Any]) -> None:
        """Raises AgentGone."""
        try:
            self._socket.send(packed(message))
        except OSError as error:
            raise AgentGone(str(error)) from error

    def mention(self, message: Mapping[str, Any]) -> None:
        """What may be lost, where the agent is slow."""
        with suppress(OSError):
            self._socket.send(packed(message), socket.MSG_DONTWAIT)

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """The next order, with its descriptors. Raises AgentGone."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, LARGEST, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise AgentGone(str(error)) from error
        if not packet:
            raise AgentGone("the agent wants no more")
        return json.loads(packet), descriptors

    def close(self) -> None:
        self._socket.close()


def packed(message: Mapping[str, Any]) -> bytes:
    """Raises ValueError where it is too long: a command's arguments are."""
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > LARGEST:
        raise ValueError(f"a message to or from a relay of {len(packet)} bytes is longer than {LARGEST}")
    return packet


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
