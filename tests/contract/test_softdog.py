"""A real watchdog resets a real machine: softdog of a Debian kernel, in a virtual machine (`tools/setup-vm`).

Times are the machine's own, read from its serial console.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drover.coordinator.timings import Timings
from tests import vm

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * vm.BOOTS)]

TIMINGS = Timings()
TIME_OUT = TIMINGS.d_hard - TIMINGS.d_io
LOGGED = 0.1
"""Seconds that the console may be late with a line, or a timer of the kernel."""
RESET, OFF = "softdog: Initiating system reboot", "Power down"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = Path(__file__).with_name("softdog_machine.py")
    return vm.build(tmp_path_factory.mktemp("machine"), program)


def run(image: Path, story: str, *kernel_options: str) -> vm.Console:
    """Every story begins with a guard that opens its gate and pets the watchdog for ten times its time-out."""
    timings = map(str, (TIMINGS.d_soft, TIMINGS.d_io, TIMINGS.d_hard))
    console = vm.run(image, ["/drover/softdog_machine.py", story, *timings], kernel_options)
    began = console.at("armed True, Software Watchdog, time-out 1 s")
    assert console.at("the guard has petted it") - began > 9 * TIME_OUT
    return console


def test_a_machine_whose_guard_is_stopped_is_reset_within_the_time_out(image: Path) -> None:
    console = run(image, "stopped")
    assert 0 < console.at(RESET) - console.at("the guard is stopped") < TIME_OUT + LOGGED
    assert not console.says(OFF)


def test_a_machine_that_is_cut_off_is_reset_between_d_io_and_d_hard_if_something_may_still_write(image: Path) -> None:
    console = run(image, "cut_off")
    assert console.at("the machine stays up, its watchdog is active") - console.at("cut off") > 9 * TIME_OUT
    after = console.at(RESET) - console.at("cut off with a device that stays")
    assert TIMINGS.d_io < after < TIMINGS.d_hard + LOGGED


def test_a_machine_whose_guard_is_ended_stays_up_and_its_watchdog_is_disarmed(image: Path) -> None:
    console = run(image, "ended")
    assert (
        console.at("the machine stays up, its watchdog is inactive") - console.at("the guard is ended") > 9 * TIME_OUT
    )
    assert console.says(OFF)
    assert not console.says(RESET)


def test_a_kernel_that_is_told_never_to_let_go_resets_the_machine_when_its_guard_is_ended(image: Path) -> None:
    console = run(image, "ended", "softdog=nowayout=1")
    assert 0 < console.at(RESET) - console.at("the guard is ended") < TIME_OUT + LOGGED


def test_a_guard_that_begins_anew_sets_its_new_time_out_and_keeps_the_machine_up_until_it_is_killed(
    image: Path,
) -> None:
    console = run(image, "begun_anew")
    assert console.at("began anew, time-out 3 s") < console.at("began anew, time-out 1 s")
    assert 0 < console.at(RESET) - console.at("the guard is killed") < TIME_OUT + LOGGED
