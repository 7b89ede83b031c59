"""What is stored: read back as written, and refused in one line where a person typed it wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.record import InvalidRecord, Record, timestamp
from drover.coordinator.records import (
    Answers,
    Cluster,
    Cordon,
    Evidence,
    Fence,
    Heartbeat,
    HistoryEntry,
    Holder,
    LeaseRecord,
    NodeRecord,
    Phase,
    State,
    Status,
    Tenure,
)
from drover.coordinator.sizes import format_size, parse_size
from drover.coordinator.specs import DatasetSpec, ProcessSpec
from drover.coordinator.timings import MAX_D_HARD, PROFILES, Timings, required_wait

GIB = 2**30


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        ("10GiB", 10 * GIB),
        ("10G", 10 * GIB),
        ("10 gib", 10 * GIB),
        ("10Gi", 10 * GIB),
        ("500 MB", 500_000_000),
        ("1.5KiB", 1536),
        ("512", 512),
        (" 512 B ", 512),
        (4096, 4096),
        ("9007199254740993", 9_007_199_254_740_993),
        ("9223372036854775807", 2**63 - 1),
        ("0.1MB", 100_000),
    ],
)
def test_sizes_are_read_as_people_write_them_to_the_byte(typed: str | int, size: int) -> None:
    assert parse_size(typed) == size


@pytest.mark.parametrize(
    "typed",
    [
        *("10GB?", "GiB", "", "-1", "1e400", "1e3", "1,5GiB", "1.GiB", "10 GiB 1", "١GiB", "0x10", "inf", "nan"),
        *("10XB", "0", "0.0000001", "9223372036854775808", "8EiB", "9" * 20 + "PiB"),
        *("9" * 400, "9" * 400 + "KiB", "0." + "1" * 400),
        *(0, -1, 2**63, 10**400, 1.5, True, False, None, [], {}),
    ],
)
def test_what_is_no_size_is_a_value_error_that_says_so(typed: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(typed)


@given(st.integers(min_value=1, max_value=2**62))
def test_a_size_is_shown_so_that_it_reads_back_to_within_a_twentieth(size: int) -> None:
    again = parse_size(format_size(size))
    assert abs(again - size) <= size / 20


@given(st.text(max_size=40) | st.integers() | st.floats() | st.none() | st.booleans())
def test_whatever_is_typed_as_a_size_gives_bytes_or_a_value_error(typed: object) -> None:
    try:
        size = parse_size(typed)
    except ValueError:
        return
    assert 0 < size < 2**63


def refusal(kind: type[Record], value: bytes | str) -> str:
    with pytest.raises(InvalidRecord) as caught:
        kind.decode(value.encode() if isinstance(value, str) else value)
    return str(caught.value)


def dataset(**fields: object) -> str:
    return json.dumps({"backend": "loopback", "size": "1GiB"} | fields)


def test_an_unknown_field_of_a_users_record_is_named() -> None:
    assert refusal(DatasetSpec, dataset(sise="2GiB")) == "sise: there is no such field; did you mean size?"
    assert refusal(DatasetSpec, dataset(FailOver="any")).endswith("did you mean failover?")
    assert refusal(DatasetSpec, dataset(zone="x")).startswith("zone: there is no such field; there are backend, size, ")
    assert refusal(ProcessSpec, '{"command": ["x"], "datasets": ["d"], "comand": 1}').startswith("comand: ")


def test_a_misspelt_field_is_named_and_not_the_one_that_is_missing_for_it() -> None:
    said = refusal(DatasetSpec, '{"backend": "loopback", "siez": "1GiB"}')
    assert said == "siez: there is no such field; did you mean size?"
    assert refusal(DatasetSpec, '{"size": "no", "siez": "1GiB"}').startswith("siez: ")


def test_a_missing_field_is_named() -> None:
    assert refusal(DatasetSpec, '{"backend": "loopback"}') == "size: Field required"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": "10GB?"}, "size: size '10GB?' is not a size; write it like '10GiB', '500MB' or a number of bytes"),
        ({"size": 0}, "size: size must be more than 0, not 0"),
        ({"fs": "zfs"}, "fs: Input should be 'xfs' or 'ext4'"),
        ({"failover": "some"}, 'failover: failover must be "none", "any" or a list of nodes, not \'some\''),
        ({"failover": ["a", "b c"]}, "failover: failover has 'b c', which is not a node's name"),
        ({"failover": [7]}, "failover: failover has 7, which is not a node's name"),
        ({"failover": 7}, 'failover: failover must be "none", "any" or a list of nodes, not 7'),
        ({"group": "a/b"}, "group: the name has '/'"),
        ({"reclaim": "maybe"}, "reclaim: Input should be 'retain', 'trash' or 'delete'"),
        ({"labels": {"a\nb": 3}}, r"labels.a\nb: "),
        ({"a\nb": 3}, r"a\nb: "),
    ],
)
def test_what_is_wrong_with_a_spec_is_said_in_one_line(fields: dict[str, object], says: str) -> None:
    said = refusal(DatasetSpec, dataset(**fields))
    assert said.startswith(says)
    assert "\n" not in said


@pytest.mark.parametrize(
    "value", [b"", b"{", b"10GiB", b"\xff\xfe", b'{"a":\n\n1', b'{"backend": "\\ud800"}', b"[" * 100_000, b"{" * 70]
)
def test_what_is_no_json_is_shown_in_one_short_line(value: bytes) -> None:
    said = refusal(DatasetSpec, value)
    assert said.startswith("the value is not JSON: ")
    assert "\n" not in said
    assert len(said) < 200


@pytest.mark.parametrize("value", ["[]", "null", '"x"', "7"])
def test_json_that_is_no_object_is_refused(value: str) -> None:
    assert refusal(DatasetSpec, value) == "Input should be an object"


def test_a_refusal_is_never_longer_than_a_line() -> None:
    assert len(refusal(DatasetSpec, dataset(size="9" * 5000))) <= 301


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("9" * 400 + "GiB"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS: tuple[type[Record], ...] = (DatasetSpec, ProcessSpec, Heartbeat, Tenure, Fence, NodeRecord)
FIELDS = {kind: sorted(kind.model_fields) for kind in KINDS}


@given(st.sampled_from(list(FIELDS)), st.data())
def test_whatever_is_typed_is_a_record_or_a_refusal_in_one_line(kind: type[Record], data: st.DataObject) -> None:
    fields = data.draw(st.dictionaries(st.sampled_from(FIELDS[kind]) | st.text(max_size=5), HOSTILE, max_size=6))
    value = json.dumps(fields).encode()
    try:
        kind.decode(value)
        said = ""
    except InvalidRecord as wrong:
        said = str(wrong)
    assert len(said.splitlines()) <= 1


@given(st.binary(max_size=60))
def test_bytes_that_mean_nothing_are_refused_and_not_fatal(value: bytes) -> None:
    for kind in (DatasetSpec, ProcessSpec, Tenure, Fence, Heartbeat):
        with pytest.raises(InvalidRecord):
            kind.decode(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": []},
        {"datasets": []},
        {"datasets": ["a b"]},
        {"stop_grace_period": -1},
        {"stop_grace_period": 3601},
        {"restart": "never"},
        {"kind": "docker"},
        {"command": ["a\0b"]},
        {"environment": {"a\0": "b"}},
        {"environment": {"a=b": "c"}},
        {"environment": {"": "c"}},
        {"environment": {"a": 1}},
        {"user": "a\0b"},
    ],
)
def test_a_workload_that_could_never_be_started_is_refused(fields: dict[str, object]) -> None:
    refusal(ProcessSpec, json.dumps({"command": ["true"], "datasets": ["d"]} | fields))


@pytest.mark.parametrize("d_hard", ["NaN", "Infinity", "-5", "0", "120.1", '"soon"'])
def test_a_heartbeat_whose_deadline_makes_no_sense_is_none(d_hard: str) -> None:
    """An observer would count it as silent at once."""
    refusal(Heartbeat, f'{{"incarnation": "a.1", "counter": 1, "clock": 1.0, "d_hard": {d_hard}}}')


def test_fields_that_a_newer_agent_added_are_ignored() -> None:
    value = json.loads(Fence(node="a", by="b", evidence=Evidence.SILENCE).encode()) | {"colour": "red"}
    assert Fence.decode(json.dumps(value).encode()).node == "a"


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,10}[A-Za-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
seconds = st.floats(min_value=0, max_value=1e9)
counts = st.integers(min_value=0, max_value=2**60)
holders = st.builds(Holder, node=names, incarnation=texts)
RECORDS: list[st.SearchStrategy[Record]] = [
    st.builds(Cluster, id=texts, etcd=texts),
    st.builds(
        DatasetSpec,
        backend=texts,
        size=st.integers(min_value=1, max_value=2**62),
        fs=st.sampled_from(["xfs", "ext4", None]),
        failover=st.sampled_from(["none", "any"]) | st.lists(names, max_size=3).map(tuple),
        group=st.none() | names,
        labels=st.dictionaries(texts, texts, max_size=3),
        reclaim=st.sampled_from(["retain", "delete"]),
    ),
    st.builds(
        ProcessSpec,
        command=st.lists(texts.filter(lambda t: "\0" not in t), min_size=1, max_size=3).map(tuple),
        datasets=st.lists(names, min_size=1, max_size=3).map(tuple),
        stop_grace_period=st.floats(min_value=0, max_value=3600),
    ),
    st.builds(NodeRecord, incarnation=texts, machine=texts, boot=texts, lease=counts, backends=st.tuples(texts)),
    st.builds(
        Heartbeat,
        incarnation=texts,
        counter=counts,
        clock=seconds,
        d_hard=st.floats(min_value=0, max_value=MAX_D_HARD, exclude_min=True),
        armed=st.booleans(),
    ),
    st.builds(LeaseRecord, node=names, incarnation=texts, epoch=counts),
    st.builds(Fence, node=names, by=names, evidence=st.sampled_from(Evidence), armed=st.booleans(), detail=texts),
    st.builds(
        Tenure,
        node=names,
        incarnation=texts,
        epoch=counts,
        state=st.sampled_from(State),
        evidence=st.none() | st.sampled_from(Evidence),
        unfenced=st.lists(holders, max_size=3).map(tuple),
        refused=st.lists(names, max_size=3).map(tuple),
        down=st.none() | seconds,
        base=st.none() | texts,
        answers=st.builds(Answers, value=texts, revision=counts),
        uid=texts,
        created=counts,
        backend=texts,
        reclaim=st.sampled_from(["retain", "delete"]),
        born=st.booleans(),
        txn=texts,
    ),
    st.builds(Status, phase=st.sampled_from(Phase), reason=texts, epoch=counts, cutover_ms=st.none() | counts),
    st.builds(HistoryEntry, epoch=counts, node=names, because=texts, evidence=st.none() | st.sampled_from(Evidence)),
    st.builds(Cordon, by=texts, reason=texts),
]


@given(st.one_of(RECORDS))
def test_every_record_reads_back_as_it_was_written(record: Record) -> None:
    assert type(record).decode(record.encode()) == record


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_keep_their_own_rules(profile: str) -> None:
    t = PROFILES[profile]
    assert 2 * t.heartbeat < t.d_soft < t.d_io < t.d_hard
    assert t.wait >= required_wait(t.d_hard)


@pytest.mark.parametrize(
    "wrong",
    [{"wait": 6.9}, {"heartbeat": 2.3}, {"d_soft": 5.6}, {"d_io": 6.6}, {"d_hard": 7.0}, {"heartbeat": 0}],
)
def test_timings_that_break_the_inequality_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Timings(**wrong)


def test_since_when_a_status_holds_makes_no_difference_to_what_people_see() -> None:
    status = Status(phase=Phase.ACTIVE, since="then")
    assert status.same_as(Status(phase=Phase.ACTIVE, since="now"))
    assert not status.same_as(Status(phase=Phase.WAITING, since="then"))
    assert not status.same_as(None)


def test_a_timestamp_is_utc_to_the_millisecond() -> None:
    here = datetime(2026, 1, 2, 5, 4, 5, 678_900, timezone(timedelta(hours=2)))
    assert timestamp(here) == "2026-01-02T03:04:05.678Z"
    assert timestamp(here.astimezone(UTC)) == timestamp(here)


@pytest.mark.parametrize("field", ["command", "datasets"])
def test_an_empty_list_where_something_is_needed_is_told_in_plain_words(field: str) -> None:
    spec = {"command": ["true"], "datasets": ["notes"]} | {field: []}
    with pytest.raises(InvalidRecord, match=f"^{field}: must have at least one entry$"):
        ProcessSpec.decode(json.dumps(spec).encode())
