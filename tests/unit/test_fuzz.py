"""Whatever a user or a peer sends: it is used, or refused with one line that says why; it ends nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.agent import config_sources, config_values
from drover.agent.config import load
from drover.agent.config_errors import ConfigError
from drover.agent.explain import explain
from drover.agent.plan import plan
from drover.coordinator.keys import Keys, Kind, name_error
from drover.coordinator.protocol import placement
from drover.coordinator.protocol.ignored import ignored
from drover.coordinator.record import InvalidRecord, Record
from drover.coordinator.records import (
    Asked,
    Cluster,
    Cordon,
    Fence,
    Heartbeat,
    LeaseRecord,
    NodeRecord,
    Pause,
    Status,
    Tenure,
    Trashed,
)
from drover.coordinator.reports import NodeReport
from drover.coordinator.specs import DatasetSpec, ProcessSpec
from drover.coordinator.store import Change
from drover.coordinator.txn import Entry
from drover.coordinator.view import View
from tests.model.store import ModelStore
from tests.unit.making import node, spec, tenure, workload
from tests.unit.planning import situation

KEYS = Keys()
RECORDS: list[type[Record]] = [
    Asked,
    Cluster,
    Cordon,
    DatasetSpec,
    Fence,
    Heartbeat,
    LeaseRecord,
    NodeRecord,
    NodeReport,
    Pause,
    Status,
    Tenure,
    Trashed,
    ProcessSpec,
]
HUGE = [
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"backend": "loopback", "size": ' + b"9" * 5000 + b"}",
    b'{"backend": "' + b"x" * 1_000_000 + b'", "size": "1GiB"}',
    b'{"backend": "\\ud800", "size": "1GiB"}',
    b'{"backend": "loopback", "size": NaN}',
    b'{"backend": "loopback", "size": 1e999}',
    b"\xff\xfe\x00",
    b"",
]

texts = st.text(st.characters(codec=None), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
sound = [
    spec().encode(),
    workload("d").encode(),
    node("a").record.encode(),
    tenure("a").encode(),
    b'{"incarnation": "a.1", "counter": 1, "clock": 1.0, "d_hard": 6.5}',
    b'{"until": "2030-01-01T00:00:00Z"}',
    b'{"node": "a", "by": "b", "evidence": "silence"}',
    b'{"phase": "active"}',
]


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """A sound record with one field that has another value, or one field more, or less."""
    record: dict[str, Any] = json.loads(draw(st.sampled_from(sound)))
    field = draw(st.sampled_from([*record, "another"]))
    if draw(st.booleans()):
        record[field] = draw(anything)
    else:
        record.pop(field, None)
    return json.dumps(record).encode(errors="surrogatepass")


values = st.binary(max_size=60) | anything.map(lambda v: json.dumps(v).encode(errors="surrogatepass")) | nearly()
names = st.sampled_from(["d", "e", "a", ""]) | texts


def fit_for_a_line(text: str) -> bool:
    return 0 < len(text) <= 400 and text.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(RECORDS), values)
def test_a_record_is_read_or_refused_with_one_line(kind: type[Record], value: bytes) -> None:
    said = "-"
    try:
        kind.decode(value)
    except InvalidRecord as error:
        said = str(error)
    assert fit_for_a_line(said)


@pytest.mark.parametrize("value", HUGE, ids=range(len(HUGE)))
@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_that_is_huge_deep_or_no_text_is_refused_with_one_line(kind: type[Record], value: bytes) -> None:
    said = "-"
    try:
        read = kind.decode(value)
    except InvalidRecord as error:
        said = str(error)
    else:
        assert kind.decode(read.encode()) == read
    assert fit_for_a_line(said)


@given(texts)
def test_any_key_is_ours_or_none_of_ours(text: str) -> None:
    for key in (text, KEYS.root + text, *(KEYS.of(kind, text) for kind in Kind)):
        parsed = KEYS.parse(key)
        assert parsed is None or key.startswith(f"{KEYS.root}{parsed.kind}")


def shown(entries: dict[str, bytes]) -> View:
    """A picture of these keys, each with a revision of its own."""
    view = View(ModelStore(), KEYS)
    for revision, (key, value) in enumerate(entries.items(), 10):
        view._apply([Change(key, Entry(key, value, revision, revision, 0), revision)])
    return view


def healthy() -> dict[str, bytes]:
    """Dataset d is active on a, which is here, and so is b."""
    return {
        KEYS.dataset("d"): spec().encode(),
        KEYS.owner("d"): tenure("a").model_copy(update={"created": 10}).encode(),
        KEYS.lease("d"): b"{}",
        KEYS.node("a"): node("a").record.encode(),
        KEYS.node("b"): node("b").record.encode(),
    }


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(sorted(set(Kind) - {Kind.OWNERS, Kind.FENCES, Kind.NODES})), names),
        values | st.sampled_from(HUGE),
        max_size=4,
    )
)
def test_whatever_stands_in_etcd_a_plan_is_made_people_are_told_and_a_healthy_dataset_stays(
    junk: dict[tuple[Kind, str], bytes],
) -> None:
    put = {KEYS.of(kind, name): value for (kind, name), value in junk.items()}
    gone = {key for key in put if key in (KEYS.dataset("d"),)}
    view = shown(healthy() | put)
    for name in sorted(view.names()):
        unit = view.unit(name)
        mine = situation(*unit, cluster=view.cluster)
        assert plan(mine).steps is not None
        told = explain(mine, placement.decide("a", mine.incarnation, unit, view.cluster))
        for status in told.values():
            assert Status.decode(status.encode()) == status
            assert name_error(name) or fit_for_a_line(f"-{status.reason}{status.warning}")
        assert all(name_error(name) or fit_for_a_line(wrong.reason) for wrong in ignored(unit, view.cluster))
    d = view.dataset("d")
    decided = placement.decide("a", tenure("a").incarnation, view.unit("d"), view.cluster)
    moved = isinstance(d.desired, str) and d.desired == "b"
    grouped = len(view.unit("d")) > 1
    assert moved or grouped or gone or isinstance(decided, placement.Keep)


tables = st.dictionaries(
    st.sampled_from(["node", "listen", "prefix", "etcd", "timings", "backends", "workloads", "guard", "run_dir"])
    | texts,
    anything,
    max_size=4,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where settings are; those of this machine are not looked at."""
    directory = tmp_path_factory.mktemp("settings")
    (directory / "machine-id").write_text("c0ffee\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_sources, "DEFAULT_FILE", directory / "none.toml")
        patch.setattr(config_values, "MACHINE_ID", directory / "machine-id")
        yield directory


def is_loaded_or_refused(arguments: list[str], environ: dict[str, str]) -> None:
    said = ""
    try:
        load(arguments, environ)
    except ConfigError as error:
        said = str(error)
    assert not said or (said.startswith("drover-agent: ") and "\n" not in said)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode()))
def test_a_settings_file_is_read_or_refused_with_one_line(place: Path, content: bytes) -> None:
    file = place / "agent.toml"
    file.write_bytes(content)
    is_loaded_or_refused(["--config", str(file)], {})


@settings(max_examples=150, deadline=None)
@given(table=tables)
def test_settings_of_any_type_are_taken_or_refused_with_one_line(place: Path, table: dict[str, Any]) -> None:
    sets = [f"--set={key}={json.dumps(value)}" for key, value in table.items()]
    is_loaded_or_refused(["--node", "a", *sets], {})
    variables = {f"DROVER_{key.upper()}": json.dumps(value) for key, value in table.items()}
    is_loaded_or_refused(["--node", "a"], variables)
