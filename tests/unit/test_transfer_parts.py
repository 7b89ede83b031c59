"""The parts of the data path that need no process: checksums and the ring."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.agent.transfer.checksum import APART, LENGTH, checksum
from drover.agent.transfer.ring import Ring

STREAM = memoryview(os.urandom(5 * APART + 77))


@pytest.mark.parametrize("sampled", [False, True])
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_checksum_does_not_depend_on_how_the_stream_is_cut(sampled: bool, cuts: list[int]) -> None:
    crc = 0
    for begin, end in pairwise([0, *sorted(cuts), len(STREAM)]):
        crc = checksum(STREAM[begin:end], begin, crc, sampled)
    assert crc == checksum(STREAM, 0, 0, sampled)


@pytest.mark.parametrize("at", [0, LENGTH - 1, 3 * APART, 5 * APART + 76])
def test_samples_are_taken_all_along_the_stream(at: int) -> None:
    other = bytearray(STREAM)
    other[at] ^= 1
    assert checksum(memoryview(other), 0, 0, True) != checksum(STREAM, 0, 0, True)


def test_samples_show_a_byte_too_few() -> None:
    other = memoryview(bytes(STREAM[:1000]) + bytes(STREAM[1001:]))
    assert checksum(other, 0, 0, True) != checksum(STREAM, 0, 0, True)


@pytest.mark.parametrize("sampled", [False, True])
@given(steps=st.lists(st.tuples(st.integers(1, 3 * APART), st.integers(0, 3 * APART)), max_size=30))
def test_the_ring_has_every_byte_that_is_not_acknowledged_and_the_checksum_before_it(
    sampled: bool, steps: list[tuple[int, int]]
) -> None:
    ring = Ring(size=4 * APART)
    ring.begin(0, 0, sampled)
    whole = bytearray()
    acknowledged = 0
    for add, acknowledge in steps:
        room = ring.room()[:add]
        made = os.urandom(len(room))
        room[:] = made
        ring.add(len(made))
        whole += made
        acknowledged = min(acknowledged + acknowledge, len(whole))
        ring.acknowledged(acknowledged)
        assert ring.end == len(whole)
        assert ring.start <= acknowledged
        at, kept = acknowledged, bytearray()
        assert ring.crc_at(at) == checksum(memoryview(bytes(whole[:at])), 0, 0, sampled)
        while at < ring.end:
            piece = ring.read(at)
            kept += piece
            at += len(piece)
        assert kept == whole[acknowledged:]


def test_a_full_ring_has_no_room_until_something_is_acknowledged() -> None:
    ring = Ring(size=2 * APART)
    ring.add(len(ring.room()))
    assert not ring.room()
    ring.acknowledged(APART - 1)
    assert not ring.room(), "kept from the last mark on"
    ring.acknowledged(2 * APART)
    assert ring.room()
