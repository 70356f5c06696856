"""API keys as mail passwords: which key an organisation, a pod or an inbox has chosen.

Owns the table `mail_password`. The narrowest choice holds: an inbox's own before its pod's before its
organisation's. A choice lives as long as its key may read and send mail: with the key deleted, expired or
narrowed it is gone for good, and what was chosen for a wider scope holds. Whoever changes a choice, and
whoever reserves a new inbox, holds the organisation's turn, so that no inbox is made with a password that
was just taken back. Of a key only a hash is kept, the one Stalwart gets.
"""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from agentmail_cp import access
from agentmail_cp.access import ApiKey, Reach, in_reach
from agentmail_cp.credentials.passwords import password_hash
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Forbidden, Invalid, NotFound

NEEDED = ("message_read", "message_send")
"""What a key must be allowed to do to be a mail password (seed 004: messages:read, messages:write)."""

_WANTED = msgspec.json.encode(dict.fromkeys(NEEDED, True)).decode()

NARROWEST: LiteralString = " order by inbox_id nulls last, pod_id nulls last limit 1"


class MailPassword(msgspec.Struct, frozen=True, kw_only=True):
    """The API key chosen for a scope."""

    mail_password_id: UUID
    organization_id: UUID
    pod_id: UUID | None
    inbox_id: UUID | None
    api_key_id: UUID
    hash: str
    created_at: datetime

    def __repr__(self) -> str:
        return f"MailPassword(mail_password_id={self.mail_password_id!r})"

    @property
    def reach(self) -> Reach:
        """The inboxes it is chosen for."""
        return Reach(self.organization_id, self.pod_id, self.inbox_id)


COLUMNS: LiteralString = (
    "mail_password_id, organization_id, pod_id, inbox_id, api_key_id, hash, created_at"
)


async def choose(tx: Tx, reach: Reach, secret: str) -> tuple[MailPassword, ApiKey]:
    """Make an API key the mail password of all inboxes in a scope that have no narrower one.

    Raises `Invalid` for what is no live key of the organisation that reaches all of them, and `Forbidden`
    when it may not read and send mail.
    """
    await take_turn(tx, reach.organization_id)
    key = await access.find_key(tx, reach.organization_id, secret)
    if key is None or not access.principal(key).reach.covers(reach):
        raise Invalid(
            "api_key",
            "There is no such API key for these inboxes.",
            fix="Give an API key of this organization, pod or inbox, or of what is around it.",
        )
    _check(key)
    chosen = await fetch_only(
        tx,
        MailPassword,
        "insert into mail_password (mail_password_id, organization_id, pod_id, inbox_id, api_key_id,"
        " hash) values (%(mail_password_id)s, %(organization_id)s, %(pod_id)s, %(inbox_id)s,"
        " %(api_key_id)s, %(hash)s) on conflict on constraint mail_password_scope_key do update"
        " set mail_password_id = excluded.mail_password_id, api_key_id = excluded.api_key_id,"
        " hash = excluded.hash, created_at = now()"
        f" where mail_password.organization_id = excluded.organization_id returning {COLUMNS}",
        msgspec.structs.asdict(reach)
        | {
            "mail_password_id": uuid7(),
            "api_key_id": key.api_key_id,
            "hash": password_hash(secret),
        },
    )
    return chosen, key


def _check(key: ApiKey) -> None:
    owner = access.principal(key)
    owner.check_live()
    missing = [each for each in NEEDED if not owner.may(each)]
    if missing:
        raise Forbidden(
            f"This API key does not have the permission {missing[0]}.",
            fix=f"A mail password needs {' and '.join(NEEDED)}.",
            code="missing_permission",
        )


async def withdraw(tx: Tx, reach: Reach) -> None:
    """Take back the choice of exactly this scope. Raises `NotFound` when it has none."""
    await take_turn(tx, reach.organization_id)
    cursor = await tx.execute(
        "delete from mail_password where organization_id = %(organization_id)s"
        " and pod_id is not distinct from %(pod_id)s"
        " and inbox_id is not distinct from %(inbox_id)s",
        msgspec.structs.asdict(reach),
    )
    if cursor.rowcount == 0:
        raise NotFound(
            "No API key is chosen as mail password here.",
            fix="It may be chosen for a wider scope: look at the pod and the organization.",
        )


async def holding(tx: Tx, reach: Reach) -> MailPassword | None:
    """The choice that holds for a scope: its own, or the next wider one."""
    return await fetch_one(
        tx,
        MailPassword,
        f"select {COLUMNS} from mail_password where organization_id = %(organization_id)s"
        " and (pod_id is null or pod_id = %(pod_id)s)"
        f" and (inbox_id is null or inbox_id = %(inbox_id)s){NARROWEST}",
        msgspec.structs.asdict(reach),
    )


async def of_new_inbox(tx: Tx, reach: Reach) -> MailPassword | None:
    """The choice that holds for an inbox whose row this transaction reserves."""
    await tx.execute(
        "select pg_advisory_xact_lock_shared(hashtextextended('mail_password/' || %(id)s, 0))",
        {"id": str(reach.organization_id)},
    )
    return await holding(tx, reach)


async def take_turn(tx: Tx, organization_id: UUID) -> None:
    """Change choices one after the other, and not while an inbox of the organisation is reserved."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended('mail_password/' || %(id)s, 0))",
        {"id": str(organization_id)},
    )


async def forget(tx: Tx, reach: Reach) -> None:
    """Let go of the choices for this scope and narrower ones: the inbox or pod is gone."""
    await tx.execute(
        f"delete from mail_password where organization_id = %(organization_id)s{in_reach(reach)}",
        msgspec.structs.asdict(reach),
    )


class _Dead(msgspec.Struct, frozen=True):
    organization_id: UUID


_DEAD: LiteralString = """
select distinct chosen.organization_id from mail_password as chosen
left join api_key on api_key.api_key_id = chosen.api_key_id
  and api_key.organization_id = chosen.organization_id
  and (api_key.expires_at is null or api_key.expires_at > now())
  and (api_key.permissions is null or api_key.permissions @> %(needed)s::jsonb)
where api_key.api_key_id is null
"""


async def with_dead_keys(tx: Tx) -> list[UUID]:
    """Organisations with a choice whose key is gone, expired or may not read and send mail any more."""
    return [each.organization_id for each in await fetch_all(tx, _Dead, _DEAD, {"needed": _WANTED})]


async def remove_dead(tx: Tx, organization_id: UUID) -> list[MailPassword]:
    """Take back an organisation's choices whose keys are gone, expired or may not read and send mail."""
    await take_turn(tx, organization_id)
    return await fetch_all(
        tx,
        MailPassword,
        "delete from mail_password where organization_id = %(organization_id)s and not exists ("
        "select from api_key where api_key.organization_id = %(organization_id)s"
        " and api_key.api_key_id = mail_password.api_key_id"
        " and (api_key.expires_at is null or api_key.expires_at > now())"
        " and (api_key.permissions is null or api_key.permissions @> %(needed)s::jsonb))"
        f" returning {COLUMNS}",
        {"organization_id": organization_id, "needed": _WANTED},
    )


async def is_chosen(tx: Tx, organization_id: UUID, api_key_id: UUID) -> bool:
    """Whether an API key is a mail password somewhere."""
    cursor = await tx.execute(
        "select 1 from mail_password where organization_id = %(organization_id)s"
        " and api_key_id = %(api_key_id)s limit 1",
        {"organization_id": organization_id, "api_key_id": api_key_id},
    )
    return cursor.rowcount > 0
