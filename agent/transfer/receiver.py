"""The receiver's relay: feeds a stream to the command that takes it, and has the result checked. Standard library only.

One loop that polls, as the sender's. Nothing is acknowledged but what the command has been given, and nothing is done
before its check has returned.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from drover.agent.helper.wire import error_from_wire, error_to_wire
from drover.agent.storage.base import StorageError
from drover.agent.transfer.checking import Checking
from drover.agent.transfer.checksum import checksum
from drover.agent.transfer.command import Command
from drover.agent.transfer.control import AgentGone, Control, close_all
from drover.agent.transfer.errors import ConnectionCut, PeerSilent, StreamDamaged, from_peer, to_peer
from drover.agent.transfer.greeting import Terms, answer
from drover.agent.transfer.sender import MENTION
from drover.agent.transfer.wire import CHUNK, Kind, Lost, Wire, parsed


def relay(control: str, terms: Mapping[str, Any], keep: float) -> None:
    """What the helper runs, until the agent closes `control`, or the sender has finished or is gone for good. Orders,
    and what is said:

    a connection; receive (number, argv, check, both): progress, then received or failed; refuse (number, error). begun
    is said when the sender has begun a round, finished or gone (with the error) in the end, and stray where a
    connection was not the sender's. keep: seconds that a cut connection may take to come back.
    """
    with suppress(AgentGone):
        Receiver(Control(control), Terms.read(terms), keep).run()


BACK = 1 << 16
"""Bytes that a command's answer is read by."""


class Phase(Enum):
    IDLE = auto()
    ASKED = auto()
    """The agent is to say what takes this round."""
    TAKING = auto()
    ENDING = auto()
    """The command has got all, and is to end."""
    CHECKING = auto()
    OVER = auto()
    """There is an outcome."""


class Receiver:
    def __init__(self, control: Control, terms: Terms, keep: float) -> None:
        self._control = control
        self._terms = terms
        self._keep = keep
        self._wire: Wire | None = None
        self._lost = time.monotonic()
        self._phase = Phase.IDLE
        self._number = 0
        self._command: Command | None = None
        self._complains = False
        self._piece = memoryview(b"")
        """What the command has not taken yet."""
        self._sampled = self._both = False
        self._taken = self._crc = self._acked = 0
        self._acked_at = self._mentioned = 0.0
        self._check: dict[str, Any] = {}
        self._checking: Checking | None = None
        self._outcome: dict[str, Any] | None = None
        self._finished = False

    def run(self) -> None:
        try:
            while not self._finished:
                try:
                    self._turn()
                except Lost as lost:
                    self._lose(lost)
        finally:
            if self._checking is not None:
                self._checking.close()
            if self._command is not None:
                self._command.close()
            if self._wire is not None:
                self._wire.close()
            self._control.close()

    def _turn(self) -> None:
        ready = self._poll()
        if self._control.fileno() in ready:
            self._order()
            return  # what is ready may be something else now
        if (command := self._command) is not None:
            if command.errors.fileno() in ready and not command.listen():
                self._complains = False
            if command.back is not None and command.back in ready:
                self._say(command)
            elif self._phase is Phase.TAKING and self._piece and command.pipe in ready:
                self._feed(command)
            elif command.ended in ready:
                self._command_ended(command)
        if self._checking is not None and self._checking.fileno() in ready:
            self._checked(self._checking)
        if (wire := self._wire) is not None:
            listening = self._listens
            if listening and (wire.fileno() in ready or wire.buffered):
                self._hear(wire)
            self._acknowledge(time.monotonic())
            wire.flush()
            wire.keep_alive(listening and not wire.buffered)
        elif time.monotonic() - self._lost > self._keep:
            gone = PeerSilent(
                f"{self._terms.sender} has not connected within {self._keep:g} s; is it up, and can it reach this "
                "node's data port?"
            )
            self._fail(gone)
            self._control.say({"gone": error_to_wire(gone, "receive")})
            self._finished = True

    @property
    def _listens(self) -> bool:
        """Whether what comes is read: not while there is no place for it. The kernels then hold the sender up."""
        return not self._piece and self._phase is not Phase.ASKED

    def _poll(self) -> set[int]:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if (wire := self._wire) is None:
            wait = max(self._lost + self._keep - time.monotonic(), 0) + 0.01
        else:
            wait = 0.0 if wire.buffered and self._listens else wire.beat
            if events := (select.POLLIN if self._listens else 0) | (select.POLLOUT if wire.pending else 0):
                poll.register(wire, events)
        if (command := self._command) is not None:
            if command.back is None:
                poll.register(command.ended, select.POLLIN)
            elif self._wire is not None and not self._wire.pending:
                poll.register(command.back, select.POLLIN)
            if self._complains:
                poll.register(command.errors, select.POLLIN)
            if self._phase is Phase.TAKING and self._piece:
                poll.register(command.pipe, select.POLLOUT)
        if self._checking is not None:
            poll.register(self._checking, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(wait * 1000)}

    # What the agent wants.

    def _order(self) -> None:
        order, descriptors = self._control.hear()
        if descriptors:
            close_all(descriptors[1:])
            self._admit(socket.socket(fileno=descriptors[0]))
        elif self._phase is not Phase.ASKED or order["number"] != self._number:
            return  # the round is over
        elif "refuse" in order:
            self._fail(error_from_wire(order["refuse"]))
        else:
            self._check, self._both = order["check"], order["both"]
            try:
                self._command = Command(order["argv"], "stdin", self._both)
                self._complains = True
                self._phase = Phase.TAKING
                if self._both and self._wire is not None:
                    self._wire.say(Kind.SAID, {"number": self._number, "all": False})
            except StorageError as error:
                self._fail(error)

    def _admit(self, connection: socket.socket) -> None:
        """Once it has said who it is, it takes the place of the one before, which may be cut though this side has not
        noticed."""
        try:
            wire = answer(connection, self._terms)
        except StorageError as error:
            self._control.say({"stray": error_to_wire(error, "connect")})
            return
        if self._wire is not None:
            self._wire.close()
        self._wire = None
        self._not_again()
        self._wire = wire
        self._piece = memoryview(b"")
        self._acked = self._taken
        wire.say(
            Kind.WELCOME,
            {"number": self._number, "bytes": self._taken, "crc": self._crc, "outcome": self._outcome},
        )
        wire.flush()

    # The stream.

    def _hear(self, wire: Wire) -> None:
        """All that is here, as long as there is a place for it."""
        for _ in range(64):
            if self._wire is not wire or not self._listens or (frame := wire.next()) is None:
                return
            kind, payload = frame
            if kind is not Kind.DATA:
                self._heard(kind, parsed(payload))
            elif self._phase is Phase.TAKING:
                if self._command is None:
                    self._fail(StreamDamaged("the receiving command ended before the stream did"))
                    return
                self._piece = payload
                self._feed(self._command)
                self._acknowledge(time.monotonic())
            elif self._phase is not Phase.OVER:
                raise Lost("the other side sent data where none was expected")
            if self._finished:
                return

    def _heard(self, kind: Kind, message: dict[str, Any]) -> None:
        number = message.get("number")
        if kind is Kind.BYE:
            self._control.say({"finished": True})
            self._finished = True
        elif kind is Kind.BEGIN and isinstance(number, int) and number > self._number:
            self._fail(ConnectionCut(f"{self._terms.sender} has begun anew"))
            self._number, self._phase, self._outcome = number, Phase.ASKED, None
            self._sampled = message.get("sampled") is True
            self._taken = self._crc = self._acked = 0
            self._control.say({"begun": {"number": number, "about": message.get("about", {})}})
        elif number != self._number:
            return  # of a round that is over
        elif kind is Kind.ABORT:
            self._fail(from_peer(message.get("error", {}), self._terms.sender))
        elif kind is Kind.END and self._phase is Phase.TAKING:
            self._end(message.get("bytes"), message.get("crc"))

    def _say(self, command: Command) -> None:
        """What the command says to the sender's."""
        assert self._wire is not None
        assert command.back is not None
        with suppress(BlockingIOError):
            if said := os.read(command.back, BACK):
                self._wire.data(memoryview(said))
            else:
                command.close_back()
                self._wire.say(Kind.SAID, {"number": self._number, "all": True})

    def _feed(self, command: Command) -> None:
        try:
            length = os.write(command.pipe, self._piece)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._piece = memoryview(b"")
            self._command_ended(command)
            return
        self._crc = checksum(self._piece[:length], self._taken, self._crc, self._sampled)
        self._taken += length
        self._piece = self._piece[length:]

    def _acknowledge(self, now: float) -> None:
        if self._phase is not Phase.TAKING:
            return
        new = self._taken - self._acked
        if self._wire is not None and (new >= CHUNK or (new and now - self._acked_at > MENTION)):
            self._wire.say(Kind.ACK, {"number": self._number, "bytes": self._taken})
            self._acked, self._acked_at = self._taken, now
        if now - self._mentioned > MENTION:
            self._mentioned = now
            self._control.mention({"progress": self._taken})

    def _end(self, length: Any, crc: Any) -> None:
        if (length, crc) != (self._taken, self._crc):
            self._fail(
                StreamDamaged(
                    f"{self._terms.sender} sent {length} bytes with checksum {crc}, and {self._taken} bytes with "
                    f"checksum {self._crc} arrived"
                )
            )
            return
        if self._command is None:
            self._look()
            return
        self._command.close_pipe()
        self._phase = Phase.ENDING

    def _command_ended(self, command: Command) -> None:
        early = self._phase is Phase.TAKING
        failure = command.failure()
        if failure is None and early and not self._both:
            failure = StreamDamaged("the receiving command ended before the stream did")
        if failure is not None:
            self._fail(failure)
            return
        command.close()
        self._command = None
        if not early:
            self._look()

    def _look(self) -> None:
        self._phase = Phase.CHECKING
        self._checking = Checking(self._check)

    def _checked(self, checking: Checking) -> None:
        self._checking = None
        checking.close()
        if checking.error is not None:
            self._fail(checking.error)
            return
        self._over({"done": checking.answer})
        self._control.say({"received": {"bytes": self._taken, "answer": checking.answer}})
        if self._wire is not None:
            self._wire.say(Kind.DONE, {"number": self._number, "answer": checking.answer})

    # How things end.

    def _fail(self, error: StorageError) -> None:
        """This round has not arrived; both sides are told. Nothing where there is none."""
        if self._phase in (Phase.IDLE, Phase.OVER):
            return
        if self._command is not None:
            self._command.close()
            self._command = None
        if self._checking is not None:
            self._checking.close()
            self._checking = None
        self._piece = memoryview(b"")
        self._over({"failed": to_peer(error)})
        self._control.say({"failed": error_to_wire(error, "receive")})
        if self._wire is not None:
            self._wire.say(Kind.FAILED, {"number": self._number, "error": to_peer(error)})

    def _over(self, outcome: dict[str, Any]) -> None:
        self._phase, self._outcome = Phase.OVER, outcome

    def _lose(self, lost: Lost) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
            self._lost = time.monotonic()
            self._control.mention({"cut": str(lost)})
        self._not_again()
        self._piece = memoryview(b"")

    def _not_again(self) -> None:
        """Two commands that talk cannot go on from where they were."""
        if self._both and self._phase in (Phase.TAKING, Phase.ENDING):
            self._fail(ConnectionCut(f"the connection to {self._terms.sender} was cut"))
