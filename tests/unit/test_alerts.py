"""Alerts fire when they should (promtool, of Debian's Prometheus), and each leads to what to do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from drover.agent.metrics import METRICS
from drover.coordinator.cli.main import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PROMTOOL = str(Path(sys.executable).with_name("promtool"))
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "drover.rules.yml").read_text())["groups"][0]["rules"]
PAGE = ROOT / "docs" / "alerts.md"
ON_THE_PAGE = {" ".join(found.split()) for found in re.findall(r"`drover ([^`]+)`", PAGE.read_text())}
_IN_WORDS = re.compile(r"\bdrover ((?:ca )?[a-z]+(?: [A-Z]+| --[a-z-]+)*)")
IN_RULES = {found for rule in RULES for found in _IN_WORDS.findall(rule["annotations"]["description"])}
OTHERS = {"up", "etcd_mvcc_db_total_size_in_bytes", "etcd_server_quota_backend_bytes"}

by_name = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "drover.test.yml")])
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_for_each_alert_it_is_tested_when_it_fires_and_when_it_does_not() -> None:
    tests = yaml.safe_load((FOLDER / "drover.test.yml").read_text())["tests"]
    names = [test["name"] for test in tests]
    assert sorted(names) == sorted(f"{rule['alert']} {what}" for rule in RULES for what in ("fires", "is quiet"))
    for test in tests:
        fires = [bool(expected["exp_samples"]) for expected in test["promql_expr_test"]]
        assert fires == [test["name"].endswith(" fires")]


@by_name
def test_an_alert_says_what_is_wrong_what_to_do_and_where_more_about_it_stands(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    found = re.search(
        rf"^## (.+)\n\n`{rule['alert']}` \({rule['labels']['severity']}\)\n", (ROOT / page).read_text(), re.M
    )
    assert found, f"{page} has no section for {rule['alert']}"
    assert anchor == re.sub(r"[^\w -]", "", found[1].lower()).replace(" ", "-")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")


@by_name
def test_an_alert_rests_on_metrics_that_there_are(rule: dict[str, Any]) -> None:
    known = {metric.name for metric in METRICS} | {f"{m.name}_bucket" for m in METRICS if m.kind == "histogram"}
    named = re.findall(r"\b(?:drover_\w+|etcd_\w+|up)\b", rule["expr"])
    assert named
    assert set(named) <= known | OTHERS


@pytest.mark.parametrize("command", sorted(ON_THE_PAGE | IN_RULES))
def test_a_command_that_an_alert_or_its_section_names_can_be_typed(command: str) -> None:
    verb, *words = shlex.split(command.replace("SIZE", "1GiB"))
    parser: Any = load(verb)
    while words and hasattr(parser, "commands"):
        parser = parser.commands[words.pop(0)]
    if words:  # else it is only named
        with suppress(typer.Exit):  # --help
            parser.make_context(verb, words)
