"""`drover doctor`: what is wrong with this node and the cluster, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import Connection, connection
from drover.coordinator.cli.describe import now
from drover.coordinator.cli.doctor import cluster_checks, etcd_checks, node_checks
from drover.coordinator.cli.doctor.bundle import pack
from drover.coordinator.cli.doctor.findings import Finding, Severity, failing, note, worst_first
from drover.coordinator.cli.doctor.gather import Facts, NoNode, access, examined, gather
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.cli.shapes import DoctorJson
from drover.coordinator.etcd_survey import NotTold
from drover.coordinator.examination import Examination
from drover.coordinator.keys import DEFAULT_PREFIX

_COLOURS = {"failing": "red", "warning": "yellow", "note": "bold", "ok": "green"}


def judged(facts: Facts, at: datetime) -> list[Finding]:
    """All findings, the worst first. Pure."""
    found: list[Finding] = []
    picture = None if isinstance(facts.cluster, NotTold) else facts.cluster.picture
    if isinstance(facts.etcd, NotTold):
        found.append(failing("etcd", f"it could not be asked: {facts.etcd.why}", "Check --endpoints and certificates."))
    else:
        found += [it for check in etcd_checks.CHECKS for it in check(facts.etcd)]
    if isinstance(facts.cluster, NotTold):
        todo = "Mend etcd first; or give a user that may read the prefix (ETCDCTL_USER)."
        found.append(failing("cluster", f"its keys could not be read: {facts.cluster.why}", todo))
    else:
        if facts.cluster.doubts:
            found.append(failing("cluster", facts.cluster.doubts, "See drover recover --help."))
        found += [it for check in cluster_checks.CHECKS for it in check(facts.cluster.picture, at)]
    match facts.node:
        case NoNode(why, broken=True):
            found.append(failing("this node", f"it could not be examined: {why}", "drover-agent --check"))
        case NoNode(why):
            found.append(note("this node", why))
        case node:
            found += [it for check in node_checks.CHECKS for it in check(node, picture)]
            if not node.root:
                found.append(note("this node", "looked at without root", "Give the command as root to see all."))
    return worst_first(found)


def _where(endpoints: str, prefix: str, node: Examination | NoNode) -> Connection:
    """Where nothing is said, as this node's agent has it. Raises Usage."""
    if endpoints or isinstance(node, NoNode):
        return connection(endpoints or options.DEFAULT_ENDPOINTS, prefix or DEFAULT_PREFIX)
    where = connection(",".join(node.etcd.endpoints), prefix or node.prefix)
    try:
        return replace(where, access=access(node.etcd))
    except OSError:  # an ordinary user: etcd says what it thinks of that
        return where


def _rendered(findings: Sequence[Finding]) -> str:
    rows = [[it.severity.name.lower(), it.about, f"{it.what}. {it.todo}" if it.todo else it.what] for it in findings]
    return output.table(("", "ABOUT", "WHAT, AND WHAT TO DO"), rows, {"": lambda it: output.colour(it, _COLOURS[it])})


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE.tar.zst|FILE.tar.gz",
            show_default=False,
            help="Also write a report for support, secrets removed: findings, settings, keys, metrics, log.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="The agent's log; default: systemd's journal."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="This node's settings; default: /etc/drover/agent.toml."),
    ] = None,
    endpoints: Annotated[
        str,
        typer.Option(
            "--endpoints",
            metavar="HOST:PORT,...",
            envvar=["DROVER_ENDPOINTS", "ETCDCTL_ENDPOINTS"],
            show_default=False,
            help="The etcd members; default: this node's, else 127.0.0.1:2379.",
        ),
    ] = "",
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix",
            metavar="/NAME",
            envvar="DROVER_PREFIX",
            show_default=False,
            help="Where the cluster's keys begin; default: this node's, else /drover.",
        ),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Examine this node and the cluster: what is wrong, and what to do about it.

    As root on a node it looks at all; from elsewhere at etcd and what stands in it, and says what it could not see. It
    changes nothing. Exit code 1: something is failing.
    """
    node = examined(config)
    facts = asyncio.run(gather(_where(endpoints, prefix, node), node))
    findings = judged(facts, now())
    bad = any(it.severity is Severity.FAILING for it in findings)
    if bundle is not None:
        pack(bundle, facts, findings, log)
    if as_json:
        name = None if isinstance(node, NoNode) else node.node
        output.say_json(DoctorJson(failing=bad, node=name, findings=[it.as_json() for it in findings]))
    else:
        output.say(_rendered(findings))
        if bundle is not None:
            output.say(output.plain(f"\nwritten: {bundle}. Look through it before you pass it on."))
    if bad:
        raise typer.Exit(ExitCode.FAILED)
