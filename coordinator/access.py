"""Who may do what in etcd: one role of etcd for each kind of user, and what is missing until they are so (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from drover.coordinator.keys import SINGLE, Keys, Kind, range_end

ROOT = "root"
"""etcd's own user and role, without which it cannot check users at all."""


class May(StrEnum):
    READ = "read"
    READ_WRITE = "readwrite"


@dataclass(frozen=True)
class Permission:
    """What may be done with the keys in [start, end); end "": with the key `start`."""

    may: May
    start: str
    end: str = ""

    def __str__(self) -> str:
        return f"{self.may} {f'{self.start}*' if self.end else self.start}"


class Kin(StrEnum):
    """The kinds of users."""

    AGENT = "agent"
    OPERATOR = "operator"
    OBSERVER = "observer"


OPERATORS = (
    *(Kind.DATASETS, Kind.DESIRED, Kind.ASKED, Kind.WORKLOADS, Kind.CORDONS, Kind.PAUSE, Kind.FENCES, Kind.TRASH),
    *(Kind.OWNERS, Kind.STATUS, Kind.DIVERGED, Kind.SNAPSHOTS),
)
"""What operators write; owners and status when they undelete. Nodes, heartbeats, leases, history are for agents."""


def role_name(keys: Keys, kin: Kin) -> str:
    """A role of etcd; each prefix has its own."""
    return f"{keys.prefix.strip('/').replace('/', '-')}-{kin}"


def permissions(keys: Keys, kin: Kin) -> frozenset[Permission]:
    """What a role has, no more and no less."""
    every = (keys.root, range_end(keys.root))
    match kin:
        case Kin.AGENT:
            return frozenset({Permission(May.READ_WRITE, *every)})
        case Kin.OBSERVER:
            return frozenset({Permission(May.READ, *every)})
        case Kin.OPERATOR:
            return frozenset({Permission(May.READ, *every), *(_of(keys, kind) for kind in OPERATORS)})


def _of(keys: Keys, kind: Kind) -> Permission:
    if kind in SINGLE:
        return Permission(May.READ_WRITE, f"{keys.prefix}/{kind}")
    under = keys.under(kind)
    return Permission(May.READ_WRITE, under, range_end(under))


@dataclass(frozen=True)
class Wanted:
    """users: names, with the kind of each. enable: etcd checks who asks. passwords: of users that log in with one."""

    users: Mapping[str, Kin]
    enable: bool = False
    passwords: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """What etcd has: the roles of each user, the permissions of each role."""

    users: Mapping[str, frozenset[str]]
    roles: Mapping[str, frozenset[Permission]]


@dataclass(frozen=True)
class AddRole:
    role: str

    def __str__(self) -> str:
        return f"role {self.role}: made"


@dataclass(frozen=True)
class Grant:
    role: str
    permission: Permission

    def __str__(self) -> str:
        return f"role {self.role}: may {self.permission}"


@dataclass(frozen=True)
class Revoke:
    role: str
    permission: Permission

    def __str__(self) -> str:
        return f"role {self.role}: may not {self.permission} any more"


@dataclass(frozen=True)
class AddUser:
    """With its password; where it has none, with one that nobody knows: it comes with a certificate."""

    user: str
    password: bool

    def __str__(self) -> str:
        how = "logs in with its password" if self.password else "comes with a certificate"
        return f"user {self.user}: made, {how}"


@dataclass(frozen=True)
class SetPassword:
    user: str

    def __str__(self) -> str:
        return f"user {self.user}: has the password given"


@dataclass(frozen=True)
class GiveRole:
    user: str
    role: str

    def __str__(self) -> str:
        return f"user {self.user}: has the role {self.role}"


@dataclass(frozen=True)
class TakeRole:
    user: str
    role: str

    def __str__(self) -> str:
        return f"user {self.user}: has the role {self.role} no more"


@dataclass(frozen=True)
class Enable:
    def __str__(self) -> str:
        return "etcd asks everybody who they are"


Step = AddRole | Grant | Revoke | AddUser | SetPassword | GiveRole | TakeRole | Enable


def steps(keys: Keys, wanted: Wanted, found: Found) -> list[Step]:
    """In an order in which each is possible. Only Drover's own roles are touched; users that are not named keep what
    they have. Enable comes again each time: etcd does not say whether it is so already, and does not mind."""
    return [*_roles(keys, found), *_users(keys, wanted, found), *([Enable()] if wanted.enable else [])]


def _roles(keys: Keys, found: Found) -> Iterator[Step]:
    for kin in Kin:
        role, wanted = role_name(keys, kin), permissions(keys, kin)
        if role not in found.roles:
            yield AddRole(role)
        has = found.roles.get(role, frozenset())
        # etcd has one permission for a range: granting another one takes the place of the old.
        kept = {(permission.start, permission.end) for permission in wanted}
        yield from (Revoke(role, it) for it in _ordered(has - wanted) if (it.start, it.end) not in kept)
        yield from (Grant(role, it) for it in _ordered(wanted - has))


def _users(keys: Keys, wanted: Wanted, found: Found) -> Iterator[Step]:
    ours = {role_name(keys, kin) for kin in Kin}
    roles = {user: role_name(keys, kin) for user, kin in sorted(wanted.users.items())}
    if wanted.enable or ROOT in wanted.passwords:
        roles[ROOT] = ROOT
    for user, role in roles.items():
        if user not in found.users:
            yield AddUser(user, user in wanted.passwords)
        elif user in wanted.passwords:
            yield SetPassword(user)
        has = found.users.get(user, frozenset())
        yield from (TakeRole(user, other) for other in sorted((has & ours) - {role}))
        if role not in has:
            yield GiveRole(user, role)


def _ordered(permissions: frozenset[Permission]) -> Sequence[Permission]:
    return sorted(permissions, key=lambda it: (it.start, it.end, it.may))
