"""The documents do not drift from the code: what they name is there, and what is there they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from drover.agent import steps
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.keys import Kind
from drover.coordinator.protocol import ownership, session
from drover.coordinator.records import Evidence
from drover.coordinator.timings import PROFILES
from drover.coordinator.txn import Txn
from tools import dashboard, metrics_reference

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_ROW = re.compile(r"^\| `([^`]+)`", re.MULTILINE)
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


def text(page: Path) -> str:
    return page.read_text()


def section(page: Path, title: str) -> str:
    """What stands below a heading, up to the next of its level or a higher one."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", text(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section {title!r}"
    return found[2]


def anchors(page: Path) -> set[str]:
    """As forges make them of headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def modules(folder: str) -> set[str]:
    """Files of a folder that the layout names one by one: all but generated ones and the command's verbs."""
    files = (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py"))
    return {str(path) for path in files if path.name != "__init__.py" and not str(path).startswith(("cli/", "api/v1/"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", text(page))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, which is no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_in_code_marks_is_there(page: Path) -> None:
    """`docs/cli.md`, `agent/plan.py` and the like; those in the layout's tables are relative and checked below."""
    found = re.findall(r"`((?:agent|coordinator|docs|deploy|proto|tests|tools|bench)/[\w./-]*)`", text(page))
    missing = [path for path in found if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(_TARGET.findall(text(ROOT / "Makefile")))
    named = set(re.findall(r"(?:`|^ +|^\$ )make ([a-z-]+)", text(page), re.MULTILINE))
    assert named <= targets


def test_the_readme_tells_newcomers_the_commands_they_need() -> None:
    for command in ("make demo", "make test", "make lint"):
        assert command in text(README)


def test_the_readme_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", section(README, "Exit codes of `drover`"), re.MULTILINE)
    assert rows == [(str(int(code)), code.words) for code in ExitCode]


def test_every_kind_of_key_is_described_and_no_other() -> None:
    described = {row.partition("/")[0] for row in _ROW.findall(section(PROTOCOL, "Keys"))}
    assert described == {str(kind) for kind in Kind}


def test_every_transaction_on_tenures_is_described_and_no_other() -> None:
    made = {
        name
        for name, value in vars(ownership).items()
        if getattr(value, "__annotations__", {}).get("return") == Txn.__name__ and not name.startswith("_")
    }
    rows = re.findall(r"^\| ([a-z]+) \|", section(PROTOCOL, "Transactions"), re.MULTILINE)
    assert set(rows) - {"transaction"} == made - {"fence", "placeholder"}, "those two have the section Fencing"


def test_every_state_of_a_session_is_described() -> None:
    table = section(PROTOCOL, "The session")
    assert all(state.__name__ in table for state in get_args(session.State))


def test_every_evidence_is_described() -> None:
    assert set(_ROW.findall(section(PROTOCOL, "What a fence proves"))) == {str(evidence) for evidence in Evidence}


@pytest.mark.parametrize(
    ("row", "field"),
    [("H", "heartbeat"), ("D_soft", "d_soft"), ("D_io", "d_io"), ("D_hard", "d_hard"), ("W", "wait")],
)
def test_the_deadlines_are_those_of_the_profiles(row: str, field: str) -> None:
    found = re.search(rf"^\| {row} \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) s \|", text(PROTOCOL), re.MULTILINE)
    assert found
    profiles = [PROFILES[name] for name in ("fast", "default", "relaxed")]
    assert [float(cell) for cell in found.groups()] == [getattr(profile, field) for profile in profiles]


def test_every_step_of_the_planner_is_described_and_no_other() -> None:
    described = set(_ROW.findall(section(ARCHITECTURE, "The loop")))
    assert described == {step.__name__ for step in get_args(steps.Step)}


@pytest.mark.parametrize("folder", ["agent", "coordinator"])
def test_the_layout_has_a_line_for_every_file_and_for_no_other(folder: str) -> None:
    titles = {
        "agent": "agent/: one process a node",
        "coordinator": "coordinator/: all that speaks to etcd; knows nothing of storage",
    }
    named = set(re.findall(r"^\| `([^`]+)`", section_of_layout(titles[folder]), re.MULTILINE))
    assert {name for name in named if name.endswith(".py")} == modules(folder)
    assert all((ROOT / folder / name).exists() for name in named)


def section_of_layout(title: str) -> str:
    """Sections of the third level end at the next one, too."""
    return re.split(r"^### ", section(ARCHITECTURE, title), maxsplit=1, flags=re.MULTILINE)[0]


def test_the_page_on_metrics_is_what_the_code_says() -> None:
    assert metrics_reference.DOC.read_text() == metrics_reference.reference(), "python -m tools.metrics_reference"


def test_the_dashboard_is_what_its_generator_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "python -m tools.dashboard"
