"""The commands and settings in docs/security.md work as they stand there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from drover.agent.config import load
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.cli.main import run
from tests.etcd import EtcdCluster

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def test_every_command_on_the_page_does_what_it_says(
    tmp_path: Path, etcd_one: EtcdCluster, etcd_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROVER_ENDPOINTS", etcd_one.endpoints[0])
    monkeypatch.setenv("DROVER_PREFIX", etcd_prefix)
    commands = [shlex.split(line)[1:] for line in re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)]
    assert len(commands) == 10
    for words in commands:
        # Asking everybody would lock out the other tests of this etcd; the secured one is asked in full elsewhere.
        once = ["--dry-run"] if words[0] == "etcd-roles" else []
        assert run([*words, *once]) == ExitCode.DONE, words
    assert (tmp_path / "ca" / "node-a.crt").exists()


def test_the_settings_on_the_page_are_valid(tmp_path: Path) -> None:
    text = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    for name in ("ca.crt", "node.crt", "node.key"):
        (tmp_path / name).touch()
    here = text.replace("/etc/drover", str(tmp_path))
    (tmp_path / "agent.toml").write_text(here)
    settings = load(["--config", str(tmp_path / "agent.toml"), "--node", "node-a"], {})
    assert settings.tls is not None
    assert settings.etcd.tls is not None
    assert settings.listen.grpc == tomllib.loads(text)["listen"]["grpc"]
