"""What the Debian package is made of, without building it."""

from __future__ import annotations

import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.booted import ROOT

DEBIAN = ROOT / "deploy/debian"


def test_what_it_brings_along_is_what_drover_asks_for() -> None:
    lines = (DEBIAN / "requirements.txt").read_text().splitlines()
    pins = {r.name.replace("_", "-"): r for r in map(Requirement, (line for line in lines if not line.startswith("#")))}
    for wanted in map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]):
        (pinned,) = pins[wanted.name].specifier
        assert pinned.operator == "=="
        assert wanted.specifier.contains(pinned.version, prereleases=True), f"pin anew: tools/deb --pin ({wanted})"


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_its_scripts_are_well_formed(script: str) -> None:
    subprocess.run(["sh", "-n", DEBIAN / script], check=True, timeout=10)
