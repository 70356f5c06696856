"""What our own server wrote on a mail, told from what came with it.

Stalwart 0.16 writes Authentication-Results (RFC 8601) on top of every mail it takes (smtp.toml), and takes
away none that came along. So the first one is its own; it bears the server's name for mail from outside and
from mail clients, `localhost` for mail of ours, and says `none` where nothing was checked. A mail that
somebody else's server checked and a mail client put here has that server's name. On a mail that was checked,
the second one is our script's, which says what came of ARC, under a name that only we use.

The original recipient was noted at delivery (`receiving.py`), above everything that came with the mail.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agentmail_cp.stalwart.calls import Call, GetAnswer
from agentmail_cp.stalwart.receiving import ORIGINAL_RECIPIENT
from agentmail_cp.stalwart.wanted import OWN_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentmail_cp.mailserver import AccountId
    from agentmail_cp.stalwart.emails import Email
    from agentmail_cp.stalwart.jmap import JmapClient

AGAIN: Final = 60.0
"""Seconds after which the server is asked its name again, when mails bear another."""

_FOLD: Final = re.compile(r"\r?\n[ \t]+")


class _Settings(msgspec.Struct, rename="camel"):
    default_hostname: str


class _Header(msgspec.Struct):
    name: str
    value: str


class _Headers(msgspec.Struct):
    id: str
    headers: list[_Header]


class Traces:
    """Reads what the server wrote; remembers its name."""

    def __init__(self, jmap: JmapClient) -> None:
        self._jmap = jmap
        self._name = ""
        self._asked = -AGAIN

    async def keep_own(self, account_id: AccountId, emails: Sequence[Email]) -> None:
        """Take off what the server did not write."""
        for email in emails:
            email.authentication_results = await self._own(email.authentication_results[:2])
        claims = [email for email in emails if email.original_recipient is not None]
        proved = await self._proved(account_id, claims) if claims else set[str]()
        for email in claims:
            if email.id not in proved:
                email.original_recipient = None

    async def _own(self, first: Sequence[str]) -> list[str]:
        values = [_FOLD.sub(" ", each).strip() for each in first]
        if not values or not _says_something(values[0]) or not await self._is_own(values[0]):
            return []
        return values[:1] + [each for each in values[1:] if _name(each) == OWN_DOMAIN]

    async def _is_own(self, value: str) -> bool:
        name = _name(value)
        if name != self._name and time.monotonic() - self._asked > AGAIN:
            self._name = await self._ask()
            self._asked = time.monotonic()
        return name == self._name

    async def _ask(self) -> str:
        wanted = {"ids": ["singleton"], "properties": ["defaultHostname"]}
        call = Call("x:SystemSettings/get", wanted, "get")
        found = (await self._jmap.call(call, repeat=True))["get"].into(GetAnswer[_Settings]).found
        return found[0].default_hostname.lower() if found else ""

    async def _proved(self, account_id: AccountId, emails: Sequence[Email]) -> set[str]:
        """Ids of those on which the server noted the original recipient."""
        ids = [email.id for email in emails]
        wanted = {"accountId": account_id, "ids": ids, "properties": ["headers"]}
        call = Call("Email/get", wanted, "get")
        found = (await self._jmap.call(call, repeat=True))["get"].into(GetAnswer[_Headers]).found
        return {each.id for each in found if _is_above(each.headers)}


def _name(value: str) -> str:
    """Who says to have written it."""
    return value.partition(";")[0].strip().lower()


def _is_above(headers: Sequence[_Header]) -> bool:
    names = [header.name.lower() for header in headers]
    note, own = ORIGINAL_RECIPIENT.lower(), "authentication-results"
    return note in names and own in names and names.index(note) < names.index(own)


def _says_something(value: str) -> bool:
    return value.partition(";")[2].strip().lower() not in {"", "none"}
