"""`drover adopt`: a container that runs on this node becomes a workload, and its data datasets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from drover.coordinator import compose
from drover.coordinator.adoption import Adoption, adoption
from drover.coordinator.cli import bring, options, output, spec
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.errors import CliError, Failed, NotPossible
from drover.coordinator.cli.picture import Picture, take
from drover.coordinator.cli.shapes import AdoptJson
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.store import Store
from drover.coordinator.txn import Put, Txn
from drover.coordinator.txn import absent as key_absent

_RUNS_WITHIN = 60.0
_LOOK = 0.1


class _Engine:
    """The few words that are needed of docker-py, with its errors as ours."""

    def __init__(self, socket: str) -> None:
        import docker

        with self.explained(socket):
            self.api = docker.APIClient(f"unix://{socket}", version="auto", timeout=60)

    @staticmethod
    @contextmanager
    def explained(what: str) -> Iterator[None]:
        import docker.errors
        import requests.exceptions

        try:
            yield
        except docker.errors.NotFound as error:
            raise NotPossible(f"{what}: {error.explanation}", "Look: docker ps") from None
        except docker.errors.APIError as error:
            raise Failed(f"{what}: the engine says: {error.explanation or error}", outcome="") from None
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise NotPossible(f"{what}: no Docker Engine answers ({type(error).__name__})") from None


def _described(engine: _Engine, container: str) -> tuple[Adoption, dict[str, Any]]:
    with engine.explained(container):
        found = engine.api.inspect_container(container)
        image = engine.api.inspect_image(found["Image"])
    if not found["State"]["Running"]:
        raise NotPossible(f"{container} does not run", f"Start it: docker start {container}")
    binds = {it["Source"]: Path(it["Source"]).is_dir() for it in found["Mounts"] if it["Type"] == "bind"}
    try:
        return adoption(found, image, binds), found
    except compose.ComposeError as error:
        raise NotPossible(f"{container} cannot be adopted as it is", "\n".join(error.lines)) from None


def _check(planned: Adoption, picture: Picture) -> None:
    """Raises NotPossible."""
    if planned.workload in picture.workloads:
        raise NotPossible(f"there is a workload {planned.workload} already")
    bring.absent([it.dataset for it in planned.directories if it.source], picture)
    if missing := [it.dataset for it in planned.directories if not it.source and it.dataset not in picture.datasets]:
        raise NotPossible(f"volume {missing[0]} is drover's, and there is no dataset of that name")


def _started(engine: _Engine, name: str, deadline: float) -> None:
    """Until the node's agent has started it, and it is healthy where it can say so. Raises Failed."""
    last = "nothing yet"
    while time.monotonic() < deadline:
        found = engine.api.containers(filters={"name": f"^/{name}$", "label": "drover.workload"})
        if found:
            last = str(found[0]["Status"])
            if "starting" not in last and "unhealthy" not in last:
                return
        time.sleep(_LOOK)
    raise Failed(f"the workload {name} was not up after {_RUNS_WITHIN:.0f} s; its container: {last}", outcome="")


def adopt(
    container: Annotated[str, typer.Argument(metavar="CONTAINER", show_default=False, help="Its name.")],
    size: Annotated[
        str, typer.Option(metavar="SIZE", show_default=False, help="Of each dataset. Default: twice what is there.")
    ] = "",
    backend: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="Default: the only one that this node offers.")
    ] = "",
    failover: options.Failover = None,
    fencing: options.Fencing = None,
    on: Annotated[
        str, typer.Option("--on", metavar="NODE", show_default=False, help="This node's name, if it is not the host's.")
    ] = "",
    socket: Annotated[
        str, typer.Option("--engine", metavar="SOCKET", help="The engine's socket.")
    ] = "/run/docker.sock",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would become, and change nothing.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Turn a running container of this node, with its volumes, into a workload that moves with its datasets.

    Run it on its node. Its data is copied while it runs; then it is stopped, the rest is copied, and the workload is
    started in its place. The old container is kept, stopped, as NAME-before-drover, and its volumes stay as they are.
    """
    where = connection(endpoints, prefix)
    engine = _Engine(socket)
    planned, found = _described(engine, container)
    name, written = planned.workload, compose.as_written(planned.spec)
    _check(planned, run(where, take))
    at = bring.place(where, on, backend, spec.typed(failover=failover, fencing=fencing))
    if dry_run or not as_json:
        _tell(planned, written, as_json and dry_run)
    if dry_run:
        return
    copied = [
        (Path(it.source), bring.make(at, it.dataset, Path(it.source), size)) for it in planned.directories if it.source
    ]
    for source, target in copied:
        bring.copy_ahead(source, target)
    kept, began = f"{name}-before-drover", time.monotonic()
    with _put_back(engine, found["Id"], name, kept):
        with engine.explained(f"stopping {name}"):
            engine.api.update_container(found["Id"], restart_policy={"Name": "no"})
            engine.api.stop(found["Id"], timeout=int(planned.spec.stop_grace_period))
        for source, target in copied:
            bring.copy(source, target)
            bring.sync(target)
        with engine.explained(f"renaming {name}"):
            engine.api.rename(found["Id"], kept)

        async def put(store: Store, keys: Keys) -> None:
            txn = Txn((key_absent(keys.workload(name)),), (Put(keys.workload(name), spec.encode(written)),))
            await commit(store, txn, f"somebody else has made a workload {name} just now")

        run(where, put)
    with engine.explained(f"looking for {name}"):
        _started(engine, name, time.monotonic() + _RUNS_WITHIN)
    gap = time.monotonic() - began
    if as_json:
        datasets = [it.dataset for it in planned.directories]
        output.say_json(AdoptJson(workload=name, node=at.node, datasets=datasets, gap_ms=round(gap * 1000), kept=kept))
        return
    output.say(
        output.plain(f"{name} is a workload on {at.node}; it was stopped for {output.milliseconds(round(gap * 1000))}")
    )
    output.say(output.facts([("the old one", f"container {kept}, stopped, with its volumes as they were")]))


@contextmanager
def _put_back(engine: _Engine, id: str, name: str, kept: str) -> Iterator[None]:
    """What goes wrong before the workload is there leaves the container running as before."""
    try:
        yield
    except (CliError, KeyboardInterrupt):
        with engine.explained(f"starting {name} again"):
            if engine.api.inspect_container(id)["Name"] == f"/{kept}":
                engine.api.rename(id, name)
            engine.api.start(id)
        raise


def _tell(planned: Adoption, written: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.say_json({"workload": planned.workload, "spec": written})
        return
    for it in planned.directories:
        output.say(output.plain(f"+ dataset {it.dataset}" + (f": all of {it.source}" if it.source else ", as it is")))
    shown = ", ".join(f"{key} {value}" for key, value in written.items() if key != "kind")
    output.say(output.plain(f"+ workload {planned.workload}: {shown}"))
