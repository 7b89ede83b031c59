"""The sender's relay: runs the command that makes a stream, and sends it. Standard library only.

One loop that polls; nothing in it waits for one thing alone. Memory is what the ring holds.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from drover.agent.helper.wire import error_to_wire
from drover.agent.storage.base import StorageError
from drover.agent.transfer.checksum import checksum
from drover.agent.transfer.command import Command
from drover.agent.transfer.control import AgentGone, Control
from drover.agent.transfer.errors import ConnectionCut, StreamDamaged, from_peer, to_peer
from drover.agent.transfer.greeting import Terms, call
from drover.agent.transfer.ring import Ring
from drover.agent.transfer.wire import CHUNK, Kind, Lost, Wire, parsed

MENTION = 0.25
"""Seconds between two words on progress."""


def relay(control: str, terms: Mapping[str, Any]) -> None:
    """What the helper runs, until the agent closes `control`, or has ordered to finish. Orders, and what is said:

    connect (with the connection): connected, or not_connected and the error; send (number, argv, about, both, again):
    progress, then sent or failed; finish. cut is said whenever the connection is gone: connect again.
    """
    with suppress(AgentGone):
        Sender(Control(control), Terms.read(terms)).run()


class Sender:
    def __init__(self, control: Control, terms: Terms) -> None:
        self._control = control
        self._terms = terms
        self._wire: Wire | None = None
        self._ring = Ring()
        self._welcome: dict[str, Any] = {}
        self._command: Command | None = None
        self._complains = False
        """Whether the command still says something on its standard error."""
        self._number = 0
        self._about: dict[str, Any] = {}
        self._sending = self._sampled = self._both = False
        self._answer = memoryview(b"")
        """What the receiver's command has said, and ours has not taken yet."""
        self._answers = 0
        """The round that it says it in: what comes before belongs to one that is over."""
        self._cursor = 0
        """Bytes of the stream that were given to the wire."""
        self._whole = self._end_said = False
        self._skip: tuple[int, int] | None = None
        """Bytes and checksum of what the receiver has from an earlier helper: made again, but not sent."""
        self._skipped = self._skipped_crc = 0
        self._mentioned = 0.0
        self._finishing = False

    def run(self) -> None:
        try:
            while not self._finishing:
                try:
                    self._turn()
                except Lost as lost:
                    self._lose(str(lost))
        except AgentGone:
            self._given_up()
            raise
        finally:
            if self._wire is not None:
                self._part(self._wire)
            if self._command is not None:
                self._command.close()
            if self._wire is not None:
                self._wire.close()
            self._control.close()

    def _turn(self) -> None:
        self._pump()
        ready = self._poll()
        if self._control.fileno() in ready:
            self._order()
            return  # what is ready may be something else now
        if (command := self._command) is not None:
            if command.errors.fileno() in ready and not command.listen():
                self._complains = False
            if command.piped and command.pipe in ready:
                self._take(command)
            elif command.ended in ready and not command.piped:
                self._command_ended(command)
        if self._answer and (command := self._command) is not None and command.back in ready:
            self._give(command)
        if (wire := self._wire) is not None:
            if wire.pending:
                wire.flush()
            heard = wire.fileno() in ready or wire.buffered
            while heard and self._wire is wire and not self._answer and (frame := wire.next()):
                if frame[0] is Kind.DATA:
                    self._answered(frame[1])
                else:
                    self._heard(frame[0], parsed(frame[1]))
            if self._wire is wire:
                wire.keep_alive(listening=not self._answer)

    def _poll(self) -> set[int]:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        wait = None
        if (wire := self._wire) is not None:
            listening = not self._answer
            poll.register(wire, (select.POLLIN if listening else 0) | (select.POLLOUT if wire.pending else 0))
            wait = 0.0 if wire.buffered and listening else wire.beat
        if (command := self._command) is not None:
            if self._complains:
                poll.register(command.errors, select.POLLIN)
            if self._answer and command.back is not None:
                poll.register(command.back, select.POLLOUT)
            if not command.piped:
                poll.register(command.ended, select.POLLIN)
            elif wire is not None and not wire.pending and (self._skip or self._ring.room()):
                poll.register(command.pipe, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(None if wait is None else wait * 1000)}

    # What the agent wants.

    def _order(self) -> None:
        order, descriptors = self._control.hear()
        if descriptors:
            self._connect(socket.socket(fileno=descriptors[0]))
        elif "send" in order:
            self._send(order["send"])
        else:
            self._finishing = True

    def _connect(self, connection: socket.socket) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        try:
            self._wire, self._welcome = call(connection, self._terms)
        except StorageError as error:
            self._control.say({"not_connected": error_to_wire(error, "connect")})
            return
        self._control.say({"connected": True})
        if self._sending:
            self._resume()

    def _send(self, order: dict[str, Any]) -> None:
        self._number, self._about = order["number"], order["about"]
        self._sending, self._whole, self._skip, self._both = True, False, None, order["both"]
        self._sampled = order["deterministic"] or self._terms.files is not None
        self._ring.begin(0, 0, self._sampled)
        self._rewind(0)
        if order["again"] and self._welcome.get("number") == self._number:
            if outcome := self._welcome["outcome"]:
                self._over(outcome)
                return
            self._skip = self._welcome["bytes"], self._welcome["crc"]
            self._skipped = self._skipped_crc = 0
        elif self._wire is not None:
            self._begin()
        try:
            self._command = Command(order["argv"], "stdout", self._both)
            self._complains = True
        except StorageError as error:
            self._abort(error)

    # The stream.

    def _take(self, command: Command) -> None:
        """What the command has made."""
        if self._skip is not None:
            self._make_again(command, *self._skip)
            return
        room = self._ring.room()
        if not room:
            return
        with suppress(BlockingIOError):
            if length := os.readv(command.pipe, [room]):
                self._ring.add(length)
            else:
                command.close_pipe()

    def _make_again(self, command: Command, until: int, crc: int) -> None:
        if self._skipped < until:
            with suppress(BlockingIOError):
                made = os.read(command.pipe, min(CHUNK, until - self._skipped))
                if not made:
                    command.close_pipe()
                    self._command_ended(command)
                    return
                self._skipped_crc = checksum(memoryview(made), self._skipped, self._skipped_crc, self._sampled)
                self._skipped += len(made)
        if self._skipped == until:
            if self._skipped_crc != crc:
                self._abort(StreamDamaged("made again, the stream is another one: begin the round again"))
                return
            self._skip = None
            self._ring.begin(until, crc, self._sampled)
            self._rewind(until)

    def _command_ended(self, command: Command) -> None:
        failure = command.failure()
        if failure is None and self._skip is not None:
            failure = StreamDamaged("made again, the stream is shorter than what was sent: begin the round again")
        if failure is not None:
            self._abort(failure)
            return
        self._drop_command()
        self._whole = True

    def _pump(self) -> None:
        """Gives the wire what it can take, in order."""
        wire = self._wire
        if wire is None or not self._sending or self._skip is not None:
            return
        while not wire.pending and self._cursor < self._ring.end:
            chunk = self._ring.read(self._cursor)
            wire.data(chunk)
            self._cursor += len(chunk)
            wire.flush()
        if self._both and not wire.pending:
            # It is not sent again; and what it waits for may be behind what the other command says.
            self._ring.acknowledged(self._cursor)
        if self._whole and not self._end_said and self._cursor == self._ring.end:
            wire.say(Kind.END, {"number": self._number, "bytes": self._ring.end, "crc": self._ring.crc})
            self._end_said = True
            wire.flush()

    def _rewind(self, to: int) -> None:
        self._cursor, self._end_said = to, False

    def _begin(self) -> None:
        assert self._wire is not None
        self._wire.say(Kind.BEGIN, {"number": self._number, "about": self._about, "sampled": self._sampled})

    # What the receiver says.

    def _answered(self, piece: memoryview) -> None:
        """Of the other command, to ours; nothing where that has ended."""
        if self._answers == self._number and self._command is not None and self._command.back is not None:
            self._answer = piece
            self._give(self._command)

    def _give(self, command: Command) -> None:
        assert command.back is not None
        try:
            self._answer = self._answer[os.write(command.back, self._answer) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._answer = memoryview(b"")
            command.close_back()

    def _heard(self, kind: Kind, message: dict[str, Any]) -> None:
        if not self._sending or message.get("number") != self._number:
            return  # of a round that is over
        if kind is Kind.ACK:
            self._ring.acknowledged(message["bytes"])
            if time.monotonic() - self._mentioned > MENTION:
                self._mentioned = time.monotonic()
                self._control.mention({"progress": message["bytes"]})
        elif kind is Kind.SAID and message["all"] and self._command is not None:
            self._command.close_back()
        elif kind is Kind.SAID:
            self._answers = self._number
        elif kind is Kind.DONE:
            self._over({"done": message["answer"]})
        elif kind is Kind.FAILED:
            self._over({"failed": message["error"]})

    def _over(self, outcome: dict[str, Any]) -> None:
        self._sending = False
        self._drop_command()
        if "failed" in outcome:
            self._fail(from_peer(outcome["failed"], self._terms.receiver))
        else:
            self._control.say({"sent": {"bytes": self._ring.end, "answer": outcome["done"]}})

    def _resume(self) -> None:
        """The connection is a new one: go on from what the receiver has."""
        welcome = self._welcome
        if welcome["number"] == self._number and welcome["outcome"]:
            self._over(welcome["outcome"])
        elif welcome["number"] == self._number:
            if self._skip is not None:
                return
            crc = self._ring.crc_at(welcome["bytes"])
            if crc is None or crc != welcome["crc"]:
                self._abort(StreamDamaged("what the receiver has is not what was sent: begin the round again"))
                return
            self._ring.acknowledged(welcome["bytes"])
            self._rewind(welcome["bytes"])
        elif self._ring.start == 0 and self._skip is None:
            self._begin()
            self._rewind(0)
        else:
            self._abort(ConnectionCut(f"{self._terms.receiver} has lost what it had: begin the round again"))

    # How things end.

    def _abort(self, error: StorageError) -> None:
        """Our end has failed."""
        self._sending = False
        self._drop_command()
        if self._wire is not None:
            self._wire.say(Kind.ABORT, {"number": self._number, "error": to_peer(error)})
        self._fail(error)

    def _fail(self, error: StorageError) -> None:
        self._control.say({"failed": error_to_wire(error, "send")})

    def _given_up(self) -> None:
        """Nobody will go on with this: the receiver need not wait for it."""
        if self._wire is not None and self._sending:
            given_up = ConnectionCut(f"{self._terms.sender} has given it up")
            self._wire.say(Kind.ABORT, {"number": self._number, "error": to_peer(given_up)})

    def _drop_command(self) -> None:
        self._answer = memoryview(b"")
        if self._command is not None:
            self._command.close()
            self._command = None

    def _lose(self, why: str) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._both and self._sending:
            self._abort(ConnectionCut(f"{why}; what was sent is kept, and is compared in the next round"))
        self._control.say({"cut": why})

    def _part(self, wire: Wire) -> None:
        """Says that no more comes, and waits until the receiver has read it, as long as is fit."""
        deadline = time.monotonic() + wire.beat
        wire.say(Kind.BYE, {})
        with suppress(Lost):
            while (left := deadline - time.monotonic()) > 0:
                wire.flush()
                while wire.next():
                    pass
                select.select([wire], [wire] if wire.pending else [], [], left)
