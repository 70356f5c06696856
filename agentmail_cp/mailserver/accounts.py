"""Accounts and the server itself, as they cross the port."""

from __future__ import annotations

from typing import NewType

import msgspec

AccountId = NewType("AccountId", str)
MailState = NewType("MailState", str)


class NewAccount(msgspec.Struct, frozen=True):
    """An account to be made. `password_hash` is a crypt-style or `{SCHEME}` hash, never a password."""

    address: str
    display_name: str | None = None
    password_hash: str | None = None


class Account(msgspec.Struct, frozen=True):
    """An account the server has. `state` is where its mail stands at this moment. `ours` is False for
    an account that `create_account` did not make: it is somebody's, and never to be touched. `paused`:
    see `pause_receiving`.
    """

    account_id: AccountId
    address: str
    state: MailState
    ours: bool = True
    paused: bool = False


class ServerStatus(msgspec.Struct, frozen=True):
    """What the server is and what our credential may do. `missing` names absent permissions."""

    product: str
    version: str
    missing: tuple[str, ...] = ()
