"""Two nodes, each with a real Docker Engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drover.agent.api.docker_volume import MOUNT_LIMIT
from drover.coordinator.cli.playground.layout import Profile
from tests.playground import Playground, eventually

IMAGE = "busybox"


class Engines(Playground):
    """A playground with an engine on every node."""

    def __init__(self, directory: Path, nodes: int = 2, timings: Profile = "fast") -> None:
        super().__init__(directory, nodes=nodes, docker=True, timings=timings)
        self._number = 0
        self.newest = ""
        """The dataset that was made last."""

    def docker(self, node: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """It has as long as a Mount may take, and a little more."""
        return self.exec(node, "docker", *arguments, check=check, timeout=MOUNT_LIMIT + 30)

    def said(self, node: str, *arguments: str) -> str:
        return self.docker(node, *arguments).stdout.strip()

    def refused(self, node: str, *arguments: str) -> str:
        """What it said as it failed."""
        done = self.docker(node, *arguments, check=False)
        assert done.returncode, f"{arguments} did not fail: {done.stdout}"
        return done.stderr

    def call(self, node: str, method: str, request: Any) -> dict[str, Any]:
        """What the plugin itself answers, as the engine would ask it. request: None: an empty body."""
        body = "" if request is None else json.dumps(request)
        url = f"http://docker/{method}"
        answer = self.exec(
            node, "curl", "-s", "--unix-socket", "/run/docker/plugins/drover.sock", "-X", "POST", "-d", body, url
        )
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def answers(self, node: str) -> bool:
        """Whether the plugin does."""
        url = ("--unix-socket", "/run/docker/plugins/drover.sock", "-X", "POST", "http://docker/Plugin.Activate")
        return self.exec(node, "curl", "-s", *url, check=False).returncode == 0

    def volume_made(self, node: str, *more: str) -> str:
        """A new, small one. more: options."""
        self._number += 1
        name = f"volume-{self._number}"
        options = ("-o", "size=64MiB", "-o", "fs=ext4", "-o", "fencing=cooperative", *more)
        self.docker(node, "volume", "create", "-d", "drover", *options, name)
        return name

    def dataset(self, node: str, size: str = "64MiB") -> str:
        """A new one, which nobody uses yet; its node has been asked for."""
        self._number += 1
        self.newest = name = f"data-{self._number}"
        spec = {"backend": "loopback", "size": size, "fs": "ext4", "failover": "any", "fencing": "cooperative"}
        self.etcdctl("put", f"/drover/datasets/{name}", json.dumps(spec))
        self.etcdctl("put", f"/drover/desired/{name}", node)
        return name

    def record(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.etcdctl("get", "--print-value-only", f"/drover/{key}") or "{}")
        return found

    def owner(self, volume: str) -> str:
        return str(self.record(f"owners/{volume}").get("node"))

    def waits_for(self, volume: str, condition: Callable[[dict[str, Any]], bool]) -> None:
        eventually(lambda: condition(self.record(f"status/{volume}")), f"the status of {volume}", every=0.1)
