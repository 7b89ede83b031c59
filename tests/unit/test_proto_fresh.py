"""Generated code is what the definition in proto/ gives."""

from __future__ import annotations

import filecmp
import subprocess
from pathlib import Path

from drover.agent.api.source import Session
from drover.agent.api.v1 import drover_pb2
from drover.coordinator.records import Phase

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_what_tools_proto_makes(tmp_path: Path) -> None:
    subprocess.run([ROOT / "tools/proto", tmp_path], check=True, timeout=60)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["drover_pb2.py", "drover_pb2.pyi", "drover_pb2_grpc.py", "drover_pb2_grpc.pyi"]
    _, stale, unreadable = filecmp.cmpfiles(tmp_path, ROOT / "agent/api/v1", made, shallow=False)
    assert (stale, unreadable) == ([], []), "run tools/proto"


def test_every_phase_and_session_has_its_value_in_the_api() -> None:
    assert set(drover_pb2.Phase.keys()) == {"PHASE_UNSPECIFIED"} | {f"PHASE_{phase.name}" for phase in Phase}
    assert set(drover_pb2.Session.keys()) == {"SESSION_UNSPECIFIED"} | {f"SESSION_{one.name}" for one in Session}
