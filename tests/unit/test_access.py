"""Who may do what in etcd: what is missing until it is so."""

from __future__ import annotations

import pytest

from drover.coordinator.access import (
    AddRole,
    AddUser,
    Enable,
    Found,
    GiveRole,
    Grant,
    Kin,
    May,
    Permission,
    Revoke,
    SetPassword,
    TakeRole,
    Wanted,
    permissions,
    role_name,
    steps,
)
from drover.coordinator.keys import Keys, range_end

KEYS = Keys("/farm/drover")
READY = {role_name(KEYS, kin): permissions(KEYS, kin) for kin in Kin}


def allowed(kin: Kin, key: str, may: May) -> bool:
    def covers(it: Permission) -> bool:
        return it.may in (may, May.READ_WRITE) and (it.start <= key < it.end if it.end else key == it.start)

    return any(covers(it) for it in permissions(KEYS, kin))


@pytest.mark.parametrize("kin", list(Kin))
@pytest.mark.parametrize("key", ["/farm/drover", "/farm/droverx", "/farm/other/a", "/", "", "/farm/drover0", "\0"])
def test_nobody_reaches_anything_outside_the_prefix(kin: Kin, key: str) -> None:
    assert not allowed(kin, key, May.READ)
    assert not allowed(kin, key, May.READ_WRITE)


def test_an_observer_reads_everything_and_writes_nothing() -> None:
    assert allowed(Kin.OBSERVER, KEYS.owner("d"), May.READ)
    assert all(it.may is May.READ for it in permissions(KEYS, Kin.OBSERVER))


def test_an_operator_says_what_is_wanted_and_cannot_pass_for_a_node() -> None:
    for key in (KEYS.dataset("d"), KEYS.desired("d"), KEYS.asked("d"), KEYS.pause, KEYS.cordon("n"), KEYS.fence("i")):
        assert allowed(Kin.OPERATOR, key, May.READ_WRITE)
    for key in (KEYS.node("n"), KEYS.heartbeat("n"), KEYS.lease("d"), KEYS.cluster, KEYS.history("d", 1)):
        assert allowed(Kin.OPERATOR, key, May.READ)
        assert not allowed(Kin.OPERATOR, key, May.READ_WRITE)


def test_what_is_as_it_should_be_needs_nothing() -> None:
    users = {"a": frozenset({"farm-drover-agent", "theirs"})}
    assert steps(KEYS, Wanted({"a": Kin.AGENT}), Found(users, READY)) == []


def test_roles_of_others_are_left_alone_and_ours_are_put_right() -> None:
    theirs = Permission(May.READ, "/x")
    wide = Permission(May.READ_WRITE, "/", "0")
    narrow = Permission(May.READ, KEYS.root, range_end(KEYS.root))
    found = Found({}, READY | {"theirs": frozenset({theirs}), "farm-drover-agent": frozenset({wide, narrow})})
    assert steps(KEYS, Wanted({}), found) == [
        Revoke("farm-drover-agent", wide),
        Grant("farm-drover-agent", Permission(May.READ_WRITE, KEYS.root, range_end(KEYS.root))),
    ]


def test_a_user_that_changes_its_kind_loses_the_role_that_it_had() -> None:
    found = Found({"ann": frozenset({"farm-drover-agent", "theirs"})}, READY)
    assert steps(KEYS, Wanted({"ann": Kin.OBSERVER}), found) == [
        TakeRole("ann", "farm-drover-agent"),
        GiveRole("ann", "farm-drover-observer"),
    ]


def test_from_nothing_roles_come_before_users_and_asking_comes_last() -> None:
    wanted = Wanted({"a": Kin.AGENT, "o": Kin.OPERATOR}, enable=True, passwords=frozenset({"o"}))
    todo = steps(KEYS, wanted, Found({}, {}))
    kinds = [type(step) for step in todo]
    assert kinds.index(AddUser) > max(n for n, kind in enumerate(kinds) if kind in (AddRole, Grant))
    assert todo[-1] == Enable()
    assert AddUser("a", False) in todo
    assert AddUser("o", True) in todo
    assert GiveRole("root", "root") in todo


def test_a_password_is_set_again_and_never_shown() -> None:
    todo = steps(
        KEYS,
        Wanted({"o": Kin.OPERATOR}, passwords=frozenset({"o"})),
        Found({"o": frozenset({"farm-drover-operator"})}, READY),
    )
    assert todo == [SetPassword("o")]
