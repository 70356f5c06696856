"""Passwords on the server: an account's own, and its app passwords.

An own password that is taken away is not removed but shut: it becomes a hash of nothing anybody knows, good
from an address nobody has. So it keeps its place in Stalwart's list of credentials, whose other members
would move up, and an IMAP session that was opened with it is thrown out as soon as it does more than read
the folder it has open (Stalwart 0.16 looks at the address again then, and never at the secret).

The id of an app password stands before its name in Stalwart's description: Stalwart's own ids are given again
when the newest is removed.
"""

from __future__ import annotations

import base64
import re
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from agentmail_cp.mailserver import (
    Access,
    AccountId,
    AppPassword,
    MailServerConfused,
    MailServerRejected,
    NewAppPassword,
    Refusal,
)
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer, SetError
from agentmail_cp.stalwart.wanted import mailbox_permissions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from agentmail_cp.stalwart.jmap import JmapClient

NOBODY: Final = "192.0.2.1"
"""An address of documentation (RFC 5737): no client has it."""

READING: Final = frozenset(
    f"imap{verb}"
    for verb in (
        *("Authenticate", "Capability", "Enable", "Examine", "Fetch", "Id", "Idle", "List", "Lsub"),
        *("MyRights", "Namespace", "Search", "Sort", "Status", "Thread", "AclGet", "ListRights"),
    )
)
"""IMAP without SELECT: in a folder opened by it, reading a body marks it read, and nothing forbids that."""

_MARKED: Final = re.compile(r"([0-9a-f]{32}) (.*)", re.DOTALL)


class _Credentials(msgspec.Struct):
    id: str
    credentials: dict[str, dict[str, Any]] = {}


class _Accounts(msgspec.Struct, rename="camel"):
    found: list[_Credentials] = msgspec.field(name="list")
    not_found: list[str] | None = None


class _Permissions(msgspec.Struct):
    permissions: dict[str, bool] = {}


class _AppPassword(msgspec.Struct, rename="camel"):
    id: str
    description: str
    created_at: datetime
    expires_at: datetime | None = None
    permissions: _Permissions = msgspec.field(default_factory=_Permissions)
    allowed_ips: dict[str, bool] = {}


class _Minted(msgspec.Struct):
    secret: str


class _Minting(msgspec.Struct, rename="camel"):
    created: dict[str, _Minted] | None = None
    not_created: dict[str, SetError] | None = None


class Logins:
    """The part of `StalwartMailServer` that sets passwords."""

    _jmap: JmapClient

    async def set_password(self, account_id: AccountId, password_hash: str | None) -> None:
        if await self.set_passwords({account_id: password_hash}):
            raise MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")

    async def set_passwords(
        self, passwords: Mapping[AccountId, str | None]
    ) -> frozenset[AccountId]:
        limits = await self._jmap.limits()
        size = min(limits.max_objects_in_get, limits.max_objects_in_set)
        gone = set[AccountId]()
        for some in _shares(list(passwords), size):
            gone |= await self._set_passwords({each: passwords[each] for each in some})
        return frozenset(gone)

    async def _set_passwords(self, passwords: Mapping[AccountId, str | None]) -> set[AccountId]:
        wanted = {"ids": list(passwords), "properties": ["id", "credentials"]}
        answers = await self._jmap.call(Call("x:Account/get", wanted, "get"), repeat=True)
        known = answers["get"].into(_Accounts).found
        patches = {
            each.id: patch
            for each in known
            if (patch := _patch(each.credentials, passwords[AccountId(each.id)]))
        }
        gone = passwords.keys() - {each.id for each in known}
        if not patches:
            return gone
        call = Call("x:Account/set", {"update": patches}, "set")
        answer = (await self._jmap.call(call, slack=len(patches) / 250))["set"].into(SetAnswer)
        for account_id, refused in (answer.not_updated or {}).items():
            if refused.type != "notFound":
                raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)
            gone.add(AccountId(account_id))
        return gone

    async def create_app_password(self, account_id: AccountId, new: NewAppPassword) -> str:
        create = {
            "description": f"{new.app_password_id.hex} {new.name}",
            "permissions": {
                "@type": "Replace",
                "permissions": dict.fromkeys(_may(new.access), True),
            },
            "allowedIps": dict.fromkeys(new.allowed_ips, True),
        }
        if new.expires_at is not None:
            create["expiresAt"] = new.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        arguments = {"accountId": account_id, "create": {"new": create}}
        answers = await self._jmap.call(Call("x:AppPassword/set", arguments, "set"))
        answer = answers["set"].into(_Minting)
        made = (answer.created or {}).get("new")
        if made is None:
            raise _app_password_error((answer.not_created or {}).get("new"))
        return made.secret

    async def app_passwords(self, account_id: AccountId) -> tuple[AppPassword, ...]:
        return tuple(shown for _, shown in await self._app_passwords(account_id))

    async def destroy_app_passwords(
        self, account_id: AccountId, app_password_ids: Collection[UUID]
    ) -> None:
        found = await self._app_passwords(account_id)
        ids = [each for each, shown in found if shown.app_password_id in app_password_ids]
        if not ids:
            return
        arguments = {"accountId": account_id, "destroy": ids}
        answers = await self._jmap.call(Call("x:AppPassword/set", arguments, "set"))
        for refused in (answers["set"].into(SetAnswer).not_destroyed or {}).values():
            if refused.type != "notFound":
                raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)

    async def _app_passwords(self, account_id: AccountId) -> list[tuple[str, AppPassword]]:
        """With Stalwart's id of each."""
        arguments = {"accountId": account_id, "ids": None}
        answers = await self._jmap.call(Call("x:AppPassword/get", arguments, "get"), repeat=True)
        found = answers["get"].into(GetAnswer[_AppPassword]).found
        shown = [(each.id, _shown(each, mark)) for each in found if (mark := _mark(each))]
        return sorted(shown, key=lambda each: each[1].created_at)


def _shares(wanted: list[AccountId], size: int) -> Iterator[list[AccountId]]:
    return (wanted[start : start + size] for start in range(0, len(wanted), size))


def _patch(credentials: dict[str, dict[str, Any]], password_hash: str | None) -> dict[str, Any]:
    """What makes this the account's own password; empty when there is nothing to take away."""
    key = next((k for k, c in credentials.items() if c.get("@type") == "Password"), None)
    if key is not None:
        shut = password_hash is None
        return {
            f"credentials/{key}/secret": _unknown() if password_hash is None else password_hash,
            f"credentials/{key}/allowedIps": {NOBODY: True} if shut else {},
        }
    if password_hash is None:
        return {}
    free = max((int(key) for key in credentials), default=-1) + 1
    return {f"credentials/{free}": {"@type": "Password", "secret": password_hash}}


def _unknown() -> str:
    """The hash of no password."""
    return "{SSHA512}" + base64.b64encode(secrets.token_bytes(80)).decode()


def _may(access: Access) -> tuple[str, ...]:
    every = mailbox_permissions()
    if access is Access.BOTH:
        return every
    if access is Access.SEND:
        return ("authenticate", "emailSend")
    return ("authenticate", *(each for each in every if each in READING))


def _access(permissions: dict[str, bool]) -> Access:
    if not permissions.get("imapAuthenticate"):
        return Access.SEND
    return Access.BOTH if permissions.get("emailSend") else Access.READ


def _mark(found: _AppPassword) -> re.Match[str] | None:
    """None for one that somebody else made."""
    return _MARKED.fullmatch(found.description)


def _shown(found: _AppPassword, mark: re.Match[str]) -> AppPassword:
    return AppPassword(
        app_password_id=UUID(hex=mark[1]),
        name=mark[2],
        access=_access(found.permissions.permissions),
        expires_at=found.expires_at,
        allowed_ips=tuple(found.allowed_ips),
        created_at=found.created_at,
    )


def _app_password_error(refused: SetError | None) -> Exception:
    if refused is None:
        return MailServerConfused("x:AppPassword/set neither made it nor refused to.")
    if refused.type == "overQuota":
        return MailServerRejected(Refusal.OVER_QUOTA, refused.sentence)
    if refused.type == "notFound":
        return MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")
    return MailServerRejected(Refusal.FORBIDDEN, refused.sentence)
