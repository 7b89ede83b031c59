"""The kinds of workloads that this node can run. Whether it may is another setting."""

from __future__ import annotations

from drover.agent.cgroups import Cgroups
from drover.agent.config import Settings
from drover.agent.workloads.base import Runtime
from drover.agent.workloads.container import Allowed
from drover.agent.workloads.docker import DockerRuntime
from drover.agent.workloads.launch import Gate
from drover.agent.workloads.process import ProcessRuntime


def make_runtimes(settings: Settings, cgroups: Cgroups, gate: Gate) -> dict[str, Runtime]:
    """By kind. Close each."""
    run_dir, mounts, containers = settings.run_dir, settings.mount_root, settings.workloads.docker
    binds = tuple(str(directory) for directory in containers.binds)
    allowed = Allowed(containers.images, binds, containers.capabilities, containers.privileged)
    made: list[Runtime] = [
        ProcessRuntime(cgroups, run_dir / "workloads", settings.state_dir / "log", mounts, gate),
        DockerRuntime(cgroups, run_dir / "containers", mounts, settings.docker.engine, gate, allowed),
    ]
    return {runtime.kind: runtime for runtime in made}
