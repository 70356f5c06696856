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

import contextlib
from collections.abc import Collection, Generator, Mapping
from datetime import datetime, timedelta
from typing import Final, LiteralString, get_type_hints
from uuid import UUID

import msgspec
from psycopg.errors import CheckViolation

from agentmail_cp.db import Tx, fetch_all, fetch_only
from agentmail_cp.errors import Invalid
from agentmail_cp.settings import Settings

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
    pause_bounces_per_thousand: int
    pause_complaints_per_thousand: int
    pause_days: int
    pause_least_recipients: int
    pods_per_organization: int
    inboxes_per_organization: int
    inboxes_per_pod: int
    list_entries_per_organization: int
    webhooks_per_organization: int
    domains_per_organization: int
    requests_per_minute: int


NAMES: Final = Limits.__struct_fields__
_TYPES: Final = get_type_hints(Settings, include_extras=True)


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
    """Give an organisation a limit of its own. Raises `Invalid` for a name that is none, and for a value
    that the setting of this name does not take.
    """
    _check(name)
    try:
        msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError as error:
        raise Invalid(
            "value",
            f"{value} does not fit {name}: {error}.",
            fix="Use a number that the setting of this name takes.",
        ) from None
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


class Exhausted(Exception):
    """A mail was not counted: somebody else took what was left a moment ago. Its statement did nothing."""


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What a mail is counted as: its recipients, those of them who would be new to the inbox, the thread it
    goes into, and the limits it is held to.
    """

    recipients: tuple[str, ...]
    cold: tuple[str, ...]
    thread_id: UUID | None
    limits: Limits

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of `COUNTING`, and `thread_id` for the row that is counted."""
        return {
            "recipients": list(self.recipients),
            "cold": list(self.cold),
            "thread_id": self.thread_id,
            "most_inbox": self.limits.inbox_sends_per_day,
            "most_new": self.limits.inbox_new_recipients_per_day,
            "most_organization": self.limits.sends_per_day,
            "most_thread": self.limits.thread_sends_per_hour,
        }


COUNTING: LiteralString = """
fresh as (
    insert into known_recipient (organization_id, inbox_id, address, send_id, counted)
    select begun.organization_id, begun.inbox_id, address, begun.send_id,
        address = any(%(cold)s::text[])
    from begun cross join unnest(%(recipients)s::text[]) as address
    order by address
    on conflict (inbox_id, address) do nothing
    returning counted
), counted as (
    insert into send_count (organization_id, kind, subject_id, window_start, count, most)
    select begun.organization_id, kind, subject_id,
        date_trunc(span, begun.counted_at, 'UTC'), amount, most
    from begun cross join lateral (values
        ('inbox', begun.inbox_id, 'day', begun.recipients, %(most_inbox)s::bigint),
        ('new_recipients', begun.inbox_id, 'day',
            (select count(*) from fresh where fresh.counted), %(most_new)s),
        ('organization', begun.organization_id, 'day', begun.recipients, %(most_organization)s),
        ('thread', begun.counted_thread, 'hour', 1, %(most_thread)s)
    ) as each (kind, subject_id, span, amount, most)
    where subject_id is not null and amount > 0
    order by kind
    on conflict (organization_id, kind, subject_id, window_start) do update
    set count = send_count.count + excluded.count, most = excluded.most
    where send_count.organization_id = excluded.organization_id
)
"""
"""What counts the row that a query named `begun` writes to `send`, or nothing if that writes none. Rows are
locked in one order (`kind`), here and in `give_back`, so that no two sends wait for each other."""


@contextlib.contextmanager
def counting() -> Generator[None]:
    """Around a statement with `COUNTING`: raises `Exhausted` when it would go past a limit."""
    try:
        yield
    except CheckViolation as error:
        if error.diag.constraint_name != "send_count_within_limit":
            raise
        raise Exhausted from error


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of `send` was counted as."""

    organization_id: UUID
    inbox_id: UUID
    send_id: UUID
    recipients: int
    thread_id: UUID | None
    counted_at: datetime


async def give_back(tx: Tx, counted: Counted) -> None:
    """Take a mail that never left out of the counts again. The caller sees to it that this happens once."""
    await tx.execute(_GIVE_BACK, msgspec.to_builtins(counted, builtin_types=(UUID, datetime)))


_GIVE_BACK = """
with forgotten as (
    delete from known_recipient where organization_id = %(organization_id)s
        and inbox_id = %(inbox_id)s and send_id = %(send_id)s
    returning counted
), held as (
    select kind, subject_id, window_start, amount from send_count
    join (values
        ('inbox', %(inbox_id)s::uuid, date_trunc('day', %(counted_at)s, 'UTC'),
            %(recipients)s::bigint),
        ('new_recipients', %(inbox_id)s, date_trunc('day', %(counted_at)s, 'UTC'),
            (select count(*) from forgotten where counted)),
        ('organization', %(organization_id)s, date_trunc('day', %(counted_at)s, 'UTC'),
            %(recipients)s),
        ('thread', %(thread_id)s, date_trunc('hour', %(counted_at)s, 'UTC'), 1)
    ) as given (kind, subject_id, window_start, amount) using (kind, subject_id, window_start)
    where send_count.organization_id = %(organization_id)s
    order by kind
    for update of send_count
)
update send_count set count = greatest(0, count - held.amount) from held
where send_count.organization_id = %(organization_id)s and send_count.kind = held.kind
    and send_count.subject_id = held.subject_id and send_count.window_start = held.window_start
"""


class Standing(msgspec.Struct, frozen=True):
    """How much was used by `now`, by kind, whom an inbox has not written to yet, and the organisation's own
    limits.
    """

    now: datetime
    own: dict[str, int]
    used: dict[str, int]
    strangers: list[str]


async def standing(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    thread_id: UUID | None,
    recipients: Collection[str],
) -> Standing:
    """What has been counted for a mail's organisation, inbox and thread, and who of its recipients is new."""
    return await fetch_only(
        tx,
        Standing,
        _STANDING,
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "thread_id": thread_id,
            "recipients": list(recipients),
        },
    )


_STANDING = """
select now() as now,
    (select coalesce(jsonb_object_agg(name, value), '{}') from organization_limit
        where organization_id = %(organization_id)s) as own,
    (select coalesce(jsonb_object_agg(kind, count), '{}') from (values
        ('inbox', %(inbox_id)s::uuid, 'day'), ('new_recipients', %(inbox_id)s, 'day'),
        ('organization', %(organization_id)s, 'day'), ('thread', %(thread_id)s, 'hour')
        ) as each (kind, subject_id, span)
        join send_count using (kind, subject_id)
        where send_count.organization_id = %(organization_id)s
            and window_start = date_trunc(span, now(), 'UTC')) as used,
    array(select address from unnest(%(recipients)s::text[]) as asked (address) where not exists
        (select from known_recipient where known_recipient.organization_id = %(organization_id)s
            and known_recipient.inbox_id = %(inbox_id)s
            and known_recipient.address = asked.address)) as strangers
"""


async def forget_inbox(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Forget to whom an inbox wrote: its mail is erased."""
    await tx.execute(
        "delete from known_recipient where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )


async def forget_old(tx: Tx) -> int:
    """Remove the counts of windows that are over; returns how many."""
    cursor = await tx.execute(
        "delete from send_count where window_start < now() - %(kept)s", {"kept": KEPT}
    )
    return cursor.rowcount
