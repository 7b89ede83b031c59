"""A real Prometheus, of Debian, that scrapes what a test names."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.agent.tls import Files
from tests.playground import eventually

PROMETHEUS = str(Path(sys.executable).with_name("prometheus"))


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series that a query gives now. Raises HTTPError where it cannot be read."""
        asked = urllib.parse.urlencode({"query": text})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@contextmanager
def prometheus(
    directory: Path, jobs: Mapping[str, Sequence[str]], certificates: Files | None = None
) -> Iterator[Prometheus]:
    """jobs: addresses, by job. certificates: what it shows to them; None: it asks in plain text. Scrapes every
    second."""
    directory.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scraped: list[dict[str, Any]] = [
        {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
    ]
    if certificates is not None:
        shown = {f"{what}_file": str(vars(certificates)[what]) for what in ("ca", "cert", "key")}
        scraped = [{**job, "scheme": "https", "tls_config": shown} for job in scraped]
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scraped}
    (directory / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                return True
            return False

        eventually(ready, "Prometheus is ready", 20, every=0.05)
        yield Prometheus(url)
    finally:
        process.kill()
        process.wait()
