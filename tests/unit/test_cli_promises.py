"""What holds for every verb: exit codes, errors, JSON, speed, and the reference in docs/cli.md."""

from __future__ import annotations

import json
import subprocess
import sys
import typing

import pytest

from drover import __version__
from drover.coordinator.cli import errors, main, shapes
from drover.coordinator.cli.errors import CliError, ExitCode
from drover.coordinator.store import Compacted, Denied, NoSpace
from tests.unit.cli_world import World, world
from tools import cli_reference

EVERY = [
    ("create", "mail", "--size", "1GiB"),
    ("ls",),
    ("show", "notes"),
    ("set", "notes", "--size", "20GiB"),
    ("move", "notes", "node-b"),
    ("rm", "notes"),
    ("undelete", "old"),
    ("nodes",),
    ("events",),
    ("cordon", "node-b"),
    ("uncordon", "node-b"),
    ("drain", "node-c"),
    ("fence", "node-a", "--confirm"),
]


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.active("notes", "node-a")
    made.trash("old")
    return made


@pytest.mark.parametrize("arguments", EVERY, ids=lambda arguments: arguments[0])
def test_every_verb_prints_json_and_nothing_else_on_request(w: World, arguments: tuple[str, ...]) -> None:
    w.history("notes", 1, "node-a", "")
    ran = w.drover(*arguments, "--json")
    assert ran.code == 0
    assert isinstance(ran.json, dict)
    assert ran.err == ""


@pytest.mark.parametrize("arguments", EVERY, ids=lambda arguments: arguments[0])
def test_every_verb_ends_with_5_and_says_what_to_check_when_etcd_is_away(w: World, arguments: tuple[str, ...]) -> None:
    w.store.disconnect()
    ran = w.drover(*arguments, "--endpoints", "10.9.8.7:2379,10.9.8.6:2379")
    assert ran.code == 5
    assert "etcd does not answer at 10.9.8.7:2379, 10.9.8.6:2379" in ran.err
    assert "DROVER_ENDPOINTS" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", EVERY, ids=lambda arguments: arguments[0])
def test_every_verb_gives_errors_as_json_on_standard_error(w: World, arguments: tuple[str, ...]) -> None:
    w.store.disconnect()
    ran = w.drover(*arguments, "--json")
    error = json.loads(ran.err)["error"]
    assert ran.out == ""
    assert error["code"] == ran.code == 5
    assert error["kind"] == "no etcd"
    assert error["outcome"] == "Nothing was changed."


@pytest.mark.parametrize("error", [NoSpace("full"), Denied("no"), Compacted(3)])
def test_other_refusals_of_etcd_end_with_1_and_no_traceback(
    w: World, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise error

    monkeypatch.setattr(w.store, "apply", refuse)
    ran = w.drover("move", "notes", "node-b")
    assert ran.code == 1
    assert str(error) in ran.err


def test_every_datasets_json_has_where_it_is_mounted(w: World) -> None:
    (dataset,) = w.drover("ls", "--json").json["datasets"]
    assert dataset["path"] == "/srv/drover/notes"
    assert w.drover("show", "notes", "--json").json["path"] == "/srv/drover/notes"


def test_json_keeps_exactly_the_promised_fields(w: World) -> None:
    dataset = w.drover("ls", "--json").json["datasets"][0]
    assert set(dataset) == set(typing.get_type_hints(shapes.DatasetJson))
    node = w.drover("nodes", "--json").json["nodes"][0]
    assert set(node) == set(typing.get_type_hints(shapes.NodeJson))


def test_an_error_says_what_is_wrong_what_became_of_it_what_to_do_and_its_code() -> None:
    error = errors.NotPossible("node-d is full", "Free space there.")
    assert error.render() == (
        "error: node-d is full. Nothing was changed.\n  Free space there.      [exit 3: not possible now]"
    )


def test_exit_codes_are_those_that_are_documented() -> None:
    classes = {cls.__name__: int(cls.code) for cls in CliError.__subclasses__()}
    assert classes == {
        "Failed": 1,
        "Usage": 2,
        "NotPossible": 3,
        "InUse": 4,
        "NoEtcd": 5,
        "StillGoing": 6,
        "Interrupted": 130,
    }
    assert {int(code) for code in ExitCode} == {0, *classes.values()}


@pytest.mark.parametrize("typo", ["mvoe", "lss", "crate"])
def test_an_unknown_command_suggests_one_that_is_like_it(w: World, typo: str) -> None:
    ran = w.drover(typo)
    assert ran.code == 2
    assert "Did you mean" in ran.err


def test_a_mistyped_option_is_a_usage_error_in_our_format(w: World) -> None:
    ran = w.drover("move", "notes", "node-b", "--wiat")
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert "--wait" in ran.err
    assert "[exit 2: usage]" in ran.err


@pytest.mark.parametrize("endpoints", ["nonsense", "a:b", "host:2379;rm", ",", "http://x"])
def test_endpoints_that_are_none_are_a_usage_error(w: World, endpoints: str) -> None:
    assert w.drover("ls", "--endpoints", endpoints).code == 2


def test_a_prefix_that_is_none_is_a_usage_error(w: World) -> None:
    assert w.drover("ls", "--prefix", "drover").code == 2


def test_the_prefix_decides_which_cluster_it_is(w: World) -> None:
    w.put("/other/datasets/mail", '{"backend": "loopback", "size": "1GiB"}')
    out = w.drover("ls", "--prefix", "/other").out
    assert "mail" in out
    assert "notes" not in out


def test_the_version_is_told(w: World) -> None:
    assert w.drover("--version").out == f"drover {__version__}\n"


def test_nothing_asked_shows_the_help(w: World) -> None:
    ran = w.drover()
    assert ran.code == 2
    assert "Commands:" in ran.err


def test_the_help_imports_no_client_and_no_records() -> None:
    """What is not imported costs no time: pydantic's models and gRPC are most of a verb's start."""
    code = (
        "import sys; from drover.coordinator.cli import main; main.run(['--help']);"
        "heavy = {'grpc', 'etcd3', 'rich', 'drover.coordinator.records'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert "Commands:" in ran.stdout
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", [verb for verb in main.VERBS if verb not in ("ca", "playground", "snapshots")])
def test_the_summary_in_the_help_is_the_verbs_own(verb: str) -> None:
    callback = main.load(verb).callback
    assert callback is not None
    assert callback.__doc__ is not None
    assert callback.__doc__.splitlines()[0] == main.VERBS[verb].summary


def test_the_reference_is_fresh() -> None:
    assert cli_reference.DOC.read_text() == cli_reference.reference(), "run: python -m tools.cli_reference"
