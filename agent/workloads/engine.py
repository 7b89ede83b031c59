"""A Docker Engine, by docker-py: blocking, to be used in threads. Its errors are WorkloadErrors in plain words.

docker-py is imported at the first call: an agent without containers does without its 10 MB.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drover.agent.workloads.base import WorkloadError

if TYPE_CHECKING:
    import docker

LABEL = "drover.workload"
"""On every container of ours: the workload's name."""
FINGERPRINT = "drover.fingerprint"

_PATIENCE = 20.0
"""Seconds for an answer. Starting a container takes 0.3 s here."""
_PULL_PATIENCE = 120.0
"""Seconds without a byte of an image."""


class EngineAway(WorkloadError):
    """It does not answer."""


class NoImage(WorkloadError):
    """It is neither here nor to be had."""


class Engine:
    """socket: the engine's own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @functools.cached_property
    def _api(self) -> docker.APIClient:
        import docker

        with self._explained("connect"):
            return docker.APIClient(f"unix://{self._socket}", version="auto", timeout=_PATIENCE)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        import docker.errors
        import requests.exceptions

        try:
            yield
        except docker.errors.APIError as error:
            said = str(error.explanation or error).strip().splitlines()
            raise WorkloadError(f"cannot {what}: the engine says: {said[0] if said else error}") from error
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            raise EngineAway(
                f"cannot {what}: the Docker Engine at {self._socket} does not answer; start it, or set docker.engine"
            ) from error

    @functools.cached_property
    def systemd(self) -> bool:
        """Whether systemd makes its cgroups."""
        with self._explained("ask the engine"):
            return bool(self._api.info().get("CgroupDriver") == "systemd")

    def inspect(self, container: str) -> dict[str, Any] | None:
        """By name or ID; None: there is none."""
        import docker.errors

        with self._explained(f"look at container {container}"):
            try:
                found: dict[str, Any] = self._api.inspect_container(container)
            except docker.errors.NotFound:
                return None
            return found

    def ours(self) -> list[Mapping[str, Any]]:
        """All containers with our label, running or not."""
        with self._explained("list containers"):
            return list(self._api.containers(all=True, filters={"label": LABEL}))

    def ensure_image(self, image: str) -> None:
        """Pulls it where it is not here. Raises NoImage."""
        import docker.errors

        with self._explained(f"look for image {image}"):
            try:
                self._api.inspect_image(image)
            except docker.errors.ImageNotFound:
                pass
            else:
                return
        try:
            with self._explained(f"pull image {image}"):
                api = docker.APIClient(f"unix://{self._socket}", version="auto", timeout=_PULL_PATIENCE)
                api.pull(image)
        except EngineAway:
            raise
        except WorkloadError as error:
            raise NoImage(f"image {image} is not on this node, and {error}") from error

    def volumes(self, image: str) -> list[str]:
        """Where it says that it keeps data: a container gets an anonymous volume there, if nothing else."""
        with self._explained(f"look at image {image}"):
            return sorted((self._api.inspect_image(image).get("Config") or {}).get("Volumes") or ())

    def ensure_network(self, name: str) -> None:
        with self._explained(f"make network {name}"):
            if all(found["Name"] != name for found in self._api.networks(names=[name])):
                self._api.create_network(name, driver="bridge", labels={LABEL: ""}, check_duplicate=True)

    def create(self, config: Mapping[str, Any], name: str) -> str:
        """config: of the Engine API. Returns its ID."""
        with self._explained(f"create container {name}"):
            return str(self._api.create_container_from_config(dict(config), name)["Id"])

    def connect(self, container: str, network: str) -> None:
        with self._explained(f"connect it to network {network}"):
            self._api.connect_container_to_network(container, network)

    def start(self, container: str) -> None:
        with self._explained("start the container"):
            self._api.start(container)

    def remove(self, container: str) -> None:
        """By force; idempotent. Its anonymous volumes go, too."""
        import docker.errors

        with self._explained(f"remove container {container}"):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise

    def exit_code(self, container: str, within: float) -> int | None:
        """Of one that has just ended; None: the engine does not say."""
        try:
            with self._explained("ask how it ended"):
                return int(self._api.wait(container, timeout=within)["StatusCode"])
        except WorkloadError:
            return None
