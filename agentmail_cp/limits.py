"""Limits: how much an organisation may do, and how much of it has been used.

Owns the tables `organization_limit`, `send_count` and `known_recipient`. Every limit is a setting; one
organisation can have its own (`set_limit`), which holds for every process from the next request on. 0 is no
limit. `send_count` has one row per window of time (the UTC day, the hour of the clock) and subject; the clock
is PostgreSQL's. A mail is counted in the very statement that writes its row in `send` (`count`), and the
table itself refuses to go past a limit (docs/adr/limits.md), so the count is exact however many processes
send. What came to nothing is given back (`give_back`) by whoever ends its row, once. Which limit stands in
the way of what, and what is said about it, `policy` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.errors import Invalid
from agentmail_cp.settings import Settings

T = TypeVar("T")

KEPT = timedelta(days=2)
"""How long a window is kept after it began."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for one organisation. Each field is the setting of the same name; 0 is no limit."""

    sends_per_day: int
    inbox_sends_per_day: int
    inbox_new_recipients_per_day: int
    thread_sends_per_hour: int
    loop_automatic_replies: int
    loop_turns: int
    loop_pace: int
    pods_per_organization: int
    inboxes_per_organization: int
    inboxes_per_pod: int


NAMES: Final = Limits.__struct_fields__
LARGEST: Final = 1_000_000_000


def defaults(settings: Settings) -> Limits:
    """What holds for an organisation without limits of its own."""
    return Limits(**{name: getattr(settings, name) for name in NAMES})


class Own(msgspec.Struct, frozen=True):
    """A limit of one organisation's own."""

    name: str
    value: int


async def of(tx: Tx, settings: Settings, organization_id: UUID) -> Limits:
    """What holds for an organisation: its own limits, else the settings."""
    own = {each.name: each.value for each in await list_own(tx, organization_id)}
    return with_own(defaults(settings), own)


def with_own(limits: Limits, own: Mapping[str, int]) -> Limits:
    """The limits with an organisation's own in their place; one of another release is passed over. Pure."""
    return msgspec.structs.replace(limits, **{name: own[name] for name in NAMES if name in own})


async def list_own(tx: Tx, organization_id: UUID) -> list[Own]:
    """The limits that are the organisation's own."""
    return await fetch_all(
        tx,
        Own,
        "select name, value from organization_limit where organization_id = %(organization_id)s"
        " order by name",
        {"organization_id": organization_id},
    )


async def set_limit(tx: Tx, organization_id: UUID, name: str, value: int) -> None:
    """Give an organisation a limit of its own. Raises `Invalid` for a name or value that is none."""
    _check(name)
    if not 0 <= value <= LARGEST:
        raise Invalid("value", f"{value} is no limit.", fix=f"Use 0 (no limit) to {LARGEST}.")
    await tx.execute(
        "insert into organization_limit (organization_id, name, value)"
        " values (%(organization_id)s, %(name)s, %(value)s)"
        " on conflict (organization_id, name) do update"
        " set value = excluded.value, updated_at = now()",
        {"organization_id": organization_id, "name": name, "value": value},
    )


async def clear_limit(tx: Tx, organization_id: UUID, name: str) -> bool:
    """Let the setting hold again; False when it did."""
    _check(name)
    cursor = await tx.execute(
        "delete from organization_limit where organization_id = %(organization_id)s"
        " and name = %(name)s",
        {"organization_id": organization_id, "name": name},
    )
    return cursor.rowcount == 1


def _check(name: str) -> None:
    if name not in NAMES:
        raise Invalid("name", f"There is no limit {name}.", fix=f"Use one of {', '.join(NAMES)}.")
