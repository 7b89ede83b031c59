"""`drover doctor --bundle`: a report for support, with secrets removed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drover import __version__
from drover.coordinator.cli.doctor.findings import Finding
from drover.coordinator.cli.doctor.gather import Facts, Seen
from drover.coordinator.cli.errors import Failed, NotPossible, Usage
from drover.coordinator.examination import EtcdAccess, Examination
from drover.coordinator.secrets import REMOVED, redacted, scrubbed, values
from drover.coordinator.txn import Entry

_LINES = 5000
"""Newest lines of the agent's log."""
_TOLD = ("kind", "datasets", "restart", "stop_grace_period", "user")
"""What is shown of a workload."""
_PATIENCE = 20.0
_BYTES = 8 << 20
"""Of a log, at most."""


def pack(file: Path, facts: Facts, findings: Sequence[Finding], log: Path | None) -> None:
    """Writes the report, readable by its owner only. Raises Usage, NotPossible, Failed."""
    compress = _compressor(file)
    metrics = facts.node.metrics if isinstance(facts.node, Examination) else ""
    told = {"agent.log": _log(log), "metrics.txt": metrics or "no agent was asked, or it said nothing: see node.json"}
    texts = contents(facts, findings, told, known(facts))
    raw = compress(_tar(file.name.partition(".tar")[0], texts))
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise NotPossible(f"{file} is there already", "Choose another name.") from None
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(raw)


def contents(
    facts: Facts, findings: Sequence[Finding], texts: Mapping[str, str], secrets: Sequence[str]
) -> dict[str, str]:
    """The report's files. Whatever is in `secrets` stands in none of them. Pure."""
    report: dict[str, Any] = {
        "findings.json": [it.as_json() for it in findings],
        "versions.json": {"drover": __version__, "kernel": os.uname().release, "machine": os.uname().machine},
        "etcd.json": asdict(facts.etcd),
    }
    if isinstance(facts.node, Examination):
        report["node.json"] = facts.node.model_dump(mode="json", exclude={"metrics"})
    else:
        report["node.json"] = asdict(facts.node)
    keys = [shown(entry) for entry in facts.cluster.entries] if isinstance(facts.cluster, Seen) else []
    report["keys.json"] = keys
    made = {name: json.dumps(redacted(it), indent=1, ensure_ascii=False) for name, it in report.items()}
    return {name: scrubbed(text, secrets) for name, text in (made | dict(texts)).items()}


def shown(entry: Entry) -> dict[str, Any]:
    """A key with its value, without what a workload is given. What is no JSON is not shown: anything may be in it."""
    value: Any
    try:
        value = json.loads(entry.value)
    except ValueError:
        value = f"({len(entry.value)} bytes, not JSON: not shown)"
        if "/desired/" in entry.key and len(entry.value) < 64:
            value = entry.value.decode(errors="replace")
    if "/workloads/" in entry.key:
        value = _workload(value)
    return {"key": entry.key, "mod_revision": entry.mod_revision, "value": value}


def _workload(value: Any) -> Any:
    if not isinstance(value, dict):
        return REMOVED
    told = {name: it for name, it in value.items() if name in _TOLD}
    return told | {name: REMOVED for name in value if name not in told}


def known(facts: Facts) -> list[str]:
    """Secrets that can be found out: wherever they stand, they are removed."""
    found = [value for name, value in os.environ.items() if redacted({name: value})[name] == REMOVED]
    found += [os.environ.get("ETCDCTL_USER", "").partition(":")[2]]
    if isinstance(facts.cluster, Seen):
        for entry in facts.cluster.entries:
            if "/workloads/" in entry.key:
                try:
                    spec = json.loads(entry.value)
                except ValueError:
                    continue
                if isinstance(spec, dict):
                    found += values(spec.get("environment")) + values(spec.get("command"))[1:]
    if isinstance(facts.node, Examination):
        found += _files(facts.node.etcd)
    return found


def _files(etcd: EtcdAccess) -> list[str]:
    found = []
    for name in filter(None, (etcd.password_file, etcd.key)):
        try:
            found.append(Path(name).read_text().strip())
        except (OSError, ValueError):
            continue
    return found


def _log(file: Path | None) -> str:
    if file is not None:
        try:
            return "\n".join(file.read_bytes()[-_BYTES:].decode(errors="replace").splitlines()[-_LINES:])
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
    if shutil.which("journalctl") is None:
        return "there is no journal here; --log names the agent's log"
    command = ["journalctl", "-u", "drover-agent", "-n", str(_LINES), "--no-pager", "-o", "short-iso"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"journalctl: {error}"
    return (done.stdout or done.stderr).decode(errors="replace")


def _tar(folder: str, texts: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in sorted(texts.items()):
            raw = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode = len(raw), 0o600
            tar.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def _compressor(file: Path) -> Any:
    """Raises Usage, NotPossible."""
    if file.name.endswith(".tar.gz"):
        import gzip

        return gzip.compress
    if not file.name.endswith(".tar.zst"):
        raise Usage(f"{file} must end in .tar.zst or .tar.gz", outcome="")
    if shutil.which("zstd") is None:
        raise NotPossible("zstd is not installed here", "Install it, or let the name end in .tar.gz.")
    return lambda raw: subprocess.run(["zstd", "-q", "-c"], input=raw, capture_output=True, check=True).stdout
