"""The demo's act with a container: its Compose file is one, and without an engine it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from drover.coordinator import compose
from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.playground import engine
from tools.demo import container
from tools.demo.stage import Stage


def test_its_compose_file_is_carried_whole() -> None:
    wanted = compose.read(yaml.safe_load(container.COMPOSE), {}, (), {})
    assert wanted.workloads[container.SERVICE].datasets == (container.DATASET,)
    assert wanted.nodes == {container.DATASET: container.SOURCE}
    assert "n=$(tail" in (wanted.workloads[container.SERVICE].command or ())[-1]


def test_without_an_engine_it_is_left_out_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def check() -> None:
        raise NotPossible("dockerd is not installed", "Install it: apt-get install docker.io")

    monkeypatch.setattr(engine, "check", check)
    container.tell(Stage(tmp_path))
    assert "Left out" in (said := capsys.readouterr().out)
    assert "apt-get install docker.io" in " ".join(said.split())
