"""A helper is small and starts quickly: each node has several that wait."""

from __future__ import annotations

import subprocess
import sys

from drover.agent.helper.pool import PRELOADED


def test_a_helper_imports_neither_pydantic_nor_asyncio() -> None:
    program = f"import sys, drover.agent.helper.main, {', '.join(PRELOADED)}"
    asked = f"{program}; print(*sorted({{'pydantic', 'asyncio', 'grpc'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
