"""`drover create`, `set` and `rm`: what they write, and what they refuse with nothing written."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from drover.coordinator.records import State
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.txn import Delete, Txn
from tests.unit.cli_world import World, world

KEY = "/drover/datasets/notes"


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def test_create_writes_the_spec_as_typed_and_says_what_happens_when_the_node_dies(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "10GiB")
    assert ran.code == 0
    assert json.loads(w.value(KEY) or "") == {"backend": "loopback", "size": "10GiB"}
    assert "created notes: 10 GiB, back end loopback" in ran.out
    assert "none — if its node dies, notes waits for it; nobody else takes it" in ran.out


def test_create_says_that_nobody_has_it_yet_and_how_to_change_that(w: World) -> None:
    assert "drover move notes node-a" in w.drover("create", "notes", "--size", "1GiB").out


def test_create_on_a_node_writes_the_wish_in_the_same_transaction(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", "--on", "node-b")
    assert ran.code == 0
    assert w.value("/drover/desired/notes") == "node-b"
    spec, wish = w.entry(KEY), w.entry("/drover/desired/notes")
    assert spec is not None
    assert wish is not None
    assert spec.mod_revision == wish.mod_revision
    assert "node-b takes it" in ran.out


def test_create_takes_every_field_of_the_spec(w: World) -> None:
    ran = w.drover(
        *("create", "notes", "--size", "500MB", "--fs", "ext4", "--failover", "node-a,node-b", "--group", "web"),
        *("--fencing", "cooperative", "--label", "team=web", "--label", "tier=1", "--reclaim", "delete"),
        *("--replicas", "2", "--replicate-every", "10", "--max-data-loss", "30"),
        *("--replicate-after", "64MiB"),
    )
    assert ran.code == 0
    spec = DatasetSpec.decode((w.value(KEY) or "").encode())
    assert spec == DatasetSpec(
        backend="loopback",
        size=500_000_000,
        fs="ext4",
        failover=("node-a", "node-b"),
        fencing="cooperative",
        group="web",
        labels={"team": "web", "tier": "1"},
        reclaim="delete",
        replicas=2,
        replicate_every=10,
        replicate_after=64 << 20,
        max_data_loss=30,
    )
    assert "goes to node-a or node-b, to nobody else" in ran.out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--replicas", "3"), "replicas: 3 wanted, 2 other nodes"),
        (("--max-data-loss", "90"), "there are no replicas"),
        (("--max-data-loss", "90", "--replicas", "1"), "failover is none"),
    ],
)
def test_create_warns_of_standbys_that_cannot_be_or_say_nothing(w: World, asked: Sequence[str], said: str) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", *asked)
    assert ran.code == 0
    assert said in ran.err


def test_a_loss_that_can_never_be_met_is_refused(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", "--replicas", "1", "--max-data-loss", "20")
    assert ran.code == 2
    assert "can never be met" in ran.err
    assert w.value(KEY) is None


@pytest.mark.parametrize("size", ["10GB?", "0", "-1GiB", "ten", "", "1e3", "99999999999PiB"])
def test_create_refuses_a_size_that_is_none(w: World, size: str) -> None:
    ran = w.drover("create", "notes", "--size", size)
    assert ran.code == 2
    assert "size" in ran.err
    assert "Nothing was changed." in ran.err
    assert w.entry(KEY) is None


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 300, "nötes", "-notes-x.", "notes.", "../etc", "a\x1b[31mb"])
def test_create_refuses_a_name_that_can_be_none(w: World, name: str) -> None:
    revision = w.cluster.revision
    ran = w.drover("create", "--size", "1GiB", "--", name)
    assert ran.code == 2
    assert "cannot be the name of a dataset" in ran.err
    assert "\x1b" not in ran.err
    assert len(ran.err) < 400
    assert w.cluster.revision == revision


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--fs", "ntfs", "xfs"),
        ("--failover", "any node", "no node's name"),
        ("--failover", "", "no node's name"),
        ("--fencing", "soft", "hard"),
        ("--reclaim", "maybe", "retain"),
        ("--group", "a/b", "name of a group"),
        ("--label", "web", "KEY=VALUE"),
    ],
)
def test_create_refuses_values_that_cannot_be_meant_and_says_what_can(
    w: World, option: str, value: str, said: str
) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", option, value)
    assert ran.code == 2
    assert said in ran.err
    assert w.entry(KEY) is None


def test_create_refuses_a_back_end_that_no_live_node_offers(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", "--backend", "btrfs")
    assert ran.code == 3
    assert "no node offers back end 'btrfs'" in ran.err
    assert "Offered in this cluster: loopback." in ran.err
    assert w.entry(KEY) is None


def test_create_and_set_refuse_what_is_too_small_for_its_file_system(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "200MiB", "--on", "node-a")
    assert ran.code == 3
    assert "xfs needs at least 300 MiB; ask for more, or for ext4. Nothing was changed." in ran.err
    assert w.entry(KEY) is None
    w.dataset("notes", '{"backend": "loopback", "size": "200MiB"}')
    before = w.value(KEY)
    assert "xfs needs at least 300 MiB" in w.drover("set", "notes", "--size", "250MiB").err
    assert w.value(KEY) == before
    assert w.drover("set", "notes", "--size", "300MiB").code == 0


def test_create_only_warns_about_the_back_end_where_no_node_is_here(w: World) -> None:
    for name in ("node-a", "node-b", "node-c"):
        w.silent(name)
    ran = w.drover("create", "notes", "--size", "1GiB", "--backend", "btrfs")
    assert ran.code == 0
    assert "warning: no node is here" in ran.err
    assert w.entry(KEY) is not None


def test_create_warns_about_failover_nodes_that_nobody_knows(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", "--failover", "node-a,node-x")
    assert ran.code == 0
    assert "warning: failover names node-x, which is not known; known: node-a, node-b and node-c" in ran.err


def test_create_leaves_a_dataset_that_exists_alone(w: World) -> None:
    w.dataset("notes")
    w.active("notes", "node-a")
    ran = w.drover("create", "notes", "--size", "1GiB")
    assert ran.code == 3
    assert "notes exists already (10 GiB, active on node-a). Nothing was changed." in ran.err
    assert "10GiB" in (w.value(KEY) or "")


def test_create_on_an_unknown_node_creates_nothing(w: World) -> None:
    ran = w.drover("create", "notes", "--size", "1GiB", "--on", "node-x")
    assert ran.code == 3
    assert w.entry(KEY) is None


def test_create_says_that_data_of_an_earlier_dataset_of_the_name_is_not_in_it(w: World) -> None:
    w.tenure("notes", "node-a", state=State.RELEASED)
    ran = w.drover("create", "notes", "--size", "1GiB")
    assert ran.code == 0
    assert "left its data behind (uid cafe); this one starts empty" in ran.err


def test_create_tells_in_json_what_was_made(w: World) -> None:
    made = w.drover("create", "notes", "--size", "1GiB", "--json").json
    assert made["changed"] is True
    assert made["dataset"]["name"] == "notes"
    assert made["dataset"]["size"] == 2**30
    assert made["dataset"]["next"]["who"] == "you"


def test_create_that_got_no_answer_says_that_it_may_still_happen(w: World) -> None:
    w.store.lose_reply_next_txn()
    ran = w.drover("create", "notes", "--size", "1GiB")
    assert ran.code == 5
    assert "It may still happen." in ran.err
    assert "Nothing was changed" not in ran.err


# -- set ----------------------------------------------------------------------------------------------------------


def test_set_changes_only_what_was_named_and_keeps_the_rest_as_typed(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "10GiB", "labels": {"team": "web"}, "group": "g"}')
    ran = w.drover("set", "notes", "--size", "20GiB", "--failover", "any", "--label", "tier=1")
    assert ran.code == 0
    assert json.loads(w.value(KEY) or "") == {
        "backend": "loopback",
        "size": "20GiB",
        "labels": {"team": "web", "tier": "1"},
        "group": "g",
        "failover": "any",
    }
    assert "10 GiB → 20 GiB" in ran.out
    assert "none → any" in ran.out
    assert "another node takes notes" in ran.out


def test_set_never_shrinks(w: World) -> None:
    w.dataset("notes")
    ran = w.drover("set", "notes", "--size", "5GiB")
    assert ran.code == 3
    assert "notes has 10 GiB: it cannot shrink to 5 GiB. Nothing was changed." in ran.err
    assert "10GiB" in (w.value(KEY) or "")


def test_set_takes_labels_and_the_group_away(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "10GiB", "labels": {"team": "web"}, "group": "g"}')
    assert w.drover("set", "notes", "--unlabel", "team", "--group", "").code == 0
    assert json.loads(w.value(KEY) or "") == {"backend": "loopback", "size": "10GiB"}


def test_set_of_what_is_so_already_writes_nothing(w: World) -> None:
    w.dataset("notes")
    before = w.entry(KEY)
    ran = w.drover("set", "notes", "--size", "10240MiB")
    assert ran.code == 0
    assert "notes is so already" in ran.out
    assert w.entry(KEY) == before


def test_set_without_anything_to_set_is_a_usage_error(w: World) -> None:
    w.dataset("notes")
    assert w.drover("set", "notes").code == 2


def test_set_offers_no_change_of_the_back_end(w: World) -> None:
    w.dataset("notes")
    assert w.drover("set", "notes", "--backend", "btrfs").code == 2


def test_set_of_a_label_that_is_not_there_says_so(w: World) -> None:
    w.dataset("notes")
    ran = w.drover("set", "notes", "--unlabel", "team")
    assert ran.code == 3
    assert "notes has no label 'team'" in ran.err


def test_set_does_not_guess_what_a_broken_spec_was_meant_to_be(w: World) -> None:
    w.dataset("notes", "ten gigabytes please")
    ran = w.drover("set", "notes", "--size", "1GiB")
    assert ran.code == 3
    assert "cannot be used" in ran.err
    assert "etcdctl put /drover/datasets/notes" in ran.err


def test_set_yields_to_somebody_who_changed_the_spec_meanwhile(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.dataset("notes")
    apply = w.store.apply

    def rival_first(txn: Txn) -> object:
        w.dataset("notes", '{"backend": "loopback", "size": "11GiB"}')
        return apply(txn)

    monkeypatch.setattr(w.store, "apply", rival_first)
    ran = w.drover("set", "notes", "--size", "20GiB")
    assert ran.code == 3
    assert "changed by somebody else just now" in ran.err
    assert "11GiB" in (w.value(KEY) or "")


# -- rm -----------------------------------------------------------------------------------------------------------


def test_rm_deletes_spec_and_wish_and_leaves_the_tenure(w: World) -> None:
    w.dataset("notes")
    w.desired("notes", "node-a")
    w.active("notes", "node-a")
    ran = w.drover("rm", "notes")
    assert ran.code == 0
    assert w.entry(KEY) is None
    assert w.entry("/drover/desired/notes") is None
    assert w.entry("/drover/owners/notes") is not None
    assert "Its data is kept (reclaim: retain): node-a gives it up now; uid cafe" in ran.out


def test_rm_is_refused_while_a_workload_uses_the_dataset(w: World) -> None:
    w.dataset("notes")
    w.workload("web", "mail", "notes")
    ran = w.drover("rm", "notes")
    assert ran.code == 4
    assert "notes is in use by workload web. Nothing was changed." in ran.err
    assert "etcdctl del /drover/workloads/web" in ran.err
    assert "[exit 4: in use]" in ran.err
    assert w.entry(KEY) is not None


def test_rm_is_refused_while_a_workload_that_cannot_be_read_names_the_dataset(w: World) -> None:
    w.dataset("notes")
    w.put(w.keys.workload("web"), '{"datasets": ["notes"], "image": "x"}')
    ran = w.drover("rm", "notes")
    assert ran.code == 4
    assert "workload web cannot be read" in ran.err


def test_rm_that_destroys_data_wants_yes_where_nobody_can_be_asked(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "10GiB", "reclaim": "delete"}')
    w.tenure("notes", "node-a", reclaim="delete")
    ran = w.drover("rm", "notes")
    assert ran.code == 2
    assert "this destroys the data of notes" in ran.err
    assert "drover rm notes --yes" in ran.err
    assert w.entry(KEY) is not None
    ran = w.drover("rm", "notes", "--yes")
    assert ran.code == 0
    assert "Its data (uid cafe) is destroyed by node-a" in ran.out
    assert w.entry(KEY) is None


def test_rm_destroys_nothing_that_the_spec_now_says_to_keep(w: World) -> None:
    w.dataset("notes")
    w.tenure("notes", "node-a", reclaim="delete")
    ran = w.drover("rm", "notes", "--yes")
    assert ran.code == 3
    assert "node-a has not taken that up" in ran.err
    assert w.entry(KEY) is not None


def test_rm_of_an_unknown_dataset_names_those_that_are_like_it(w: World) -> None:
    w.dataset("notes")
    ran = w.drover("rm", "note")
    assert ran.code == 3
    assert "there is no dataset 'note'. Nothing was changed." in ran.err
    assert "Did you mean notes?" in ran.err


def test_rm_takes_back_a_wish_for_a_dataset_that_never_was(w: World) -> None:
    w.desired("nots", "node-a")
    ran = w.drover("rm", "nots")
    assert ran.code == 0
    assert w.entry("/drover/desired/nots") is None


def test_rm_a_second_time_says_what_became_of_the_data(w: World) -> None:
    w.tenure("notes", "node-a", state=State.RELEASED)
    ran = w.drover("rm", "notes")
    assert ran.code == 3
    assert "notes is removed already; its data: kept" in ran.err


def test_rm_of_a_broken_spec_works(w: World) -> None:
    w.dataset("notes", "nonsense")
    assert w.drover("rm", "notes").code == 0
    assert w.entry(KEY) is None


def test_rm_tells_in_json_what_becomes_of_the_data(w: World) -> None:
    w.dataset("notes")
    assert w.drover("rm", "notes", "--json").json == {"removed": "notes", "data": "none", "uid": None, "node": None}
    w.dataset("notes")
    w.active("notes", "node-a")
    assert w.drover("rm", "notes", "--json").json == {
        "removed": "notes",
        "data": "kept",
        "uid": "cafe",
        "node": "node-a",
    }


def test_rm_yields_to_somebody_who_changed_the_spec_meanwhile(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.dataset("notes")
    apply = w.store.apply

    def rival_first(txn: Txn) -> object:
        assert Delete(KEY) in txn.then
        w.dataset("notes", '{"backend": "loopback", "size": "11GiB"}')
        return apply(txn)

    monkeypatch.setattr(w.store, "apply", rival_first)
    assert w.drover("rm", "notes").code == 3
    assert w.entry(KEY) is not None
