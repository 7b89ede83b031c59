"""etcd's users and roles: reads them, and does the steps of `access.steps`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from etcd3.etcdrpc import auth_pb2, rpc_pb2

from drover.coordinator.access import (
    ROOT,
    AddRole,
    AddUser,
    Enable,
    Found,
    GiveRole,
    Grant,
    May,
    Permission,
    Revoke,
    SetPassword,
    Step,
    TakeRole,
)
from drover.coordinator.etcd_members import Members
from drover.coordinator.etcd_rpc import decode, encode
from drover.coordinator.store import StoreError

_TYPES = {May.READ: auth_pb2.Permission.READ, May.READ_WRITE: auth_pb2.Permission.READWRITE}
_MAY = {kind: may for may, kind in _TYPES.items()}


class Auth:
    """By the user root, or before etcd asks who is there. All raise StoreError."""

    def __init__(self, members: Members) -> None:
        self._members = members

    async def found(self) -> Found:
        users = (await self._ask("UserList", rpc_pb2.AuthUserListRequest())).users
        roles = (await self._ask("RoleList", rpc_pb2.AuthRoleListRequest())).roles
        return Found(
            {user: await self._roles_of(user) for user in users},
            {role: await self._permissions_of(role) for role in roles if role != ROOT},
        )

    async def _roles_of(self, user: str) -> frozenset[str]:
        return frozenset((await self._ask("UserGet", rpc_pb2.AuthUserGetRequest(name=user))).roles)

    async def _permissions_of(self, role: str) -> frozenset[Permission]:
        answer = await self._ask("RoleGet", rpc_pb2.AuthRoleGetRequest(role=role))
        return frozenset(
            Permission(_MAY[it.permType], decode(it.key), decode(it.range_end))
            for it in answer.perm
            if it.permType in _MAY
        )

    async def do(self, step: Step, passwords: Mapping[str, str]) -> None:
        """passwords: by user. A step that was done already is done: an answer may have been lost."""
        try:
            await self._do(step, passwords)
        except StoreError as error:
            if not any(words in str(error) for words in ("already exists", "is not granted")):
                raise

    async def _do(self, step: Step, passwords: Mapping[str, str]) -> None:
        match step:
            case AddRole(role):
                await self._ask("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=role))
            case Grant(role, it):
                permission = auth_pb2.Permission(
                    permType=_TYPES[it.may], key=encode(it.start), range_end=encode(it.end)
                )
                await self._ask(
                    "RoleGrantPermission", rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission)
                )
            case Revoke(role, it):
                # The keys are text in 3.3 and bytes in the stubs: the same on the wire.
                await self._ask(
                    "RoleRevokePermission",
                    rpc_pb2.AuthRoleRevokePermissionRequest(role=role, key=it.start, range_end=it.end),
                )
            case AddUser(user):
                # The stubs know of no user without a password: this one is known to nobody.
                password = passwords.get(user) or secrets.token_urlsafe(32)
                await self._ask("UserAdd", rpc_pb2.AuthUserAddRequest(name=user, password=password))
            case SetPassword(user):
                request = rpc_pb2.AuthUserChangePasswordRequest(name=user, password=passwords[user])
                await self._ask("UserChangePassword", request)
            case GiveRole(user, role):
                await self._ask("UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role))
            case TakeRole(user, role):
                await self._ask("UserRevokeRole", rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role))
            case Enable():
                await self._ask("AuthEnable", rpc_pb2.AuthEnableRequest())

    async def _ask(self, verb: str, request: Any) -> Any:
        return await self._members.ask(lambda member: getattr(member.auth, verb), request)
