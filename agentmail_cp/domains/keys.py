"""The DKIM keys of domains as rows: which records they ask for, and which of them the mail server should
have.

Owns the table `dkim_key`. A key is `pending` (its record is asked for) → `active` (the mail server signs
with it, or should, see `domain.unsettled_since`) → `retiring` (signs no more; its record is still needed by
mail under way) → `retired`. A private key is there, sealed, from its making until the mail server has it,
and then nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.domains import dkim
from agentmail_cp.domains.records import Algorithm, Key, Stage
from agentmail_cp.mailserver import DkimAlgorithm, DkimKey

COLUMNS: LiteralString = (
    "dkim_key_id, domain_id, organization_id, selector, algorithm, public_key, private_key, stage,"
    " created_at, activated_at, retiring_at"
)


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a domain. `private_key` is sealed (`dkim.seal`)."""

    dkim_key_id: UUID
    domain_id: UUID
    organization_id: UUID
    selector: str
    algorithm: Algorithm
    public_key: str
    private_key: bytes | None
    stage: Stage
    created_at: datetime
    activated_at: datetime | None
    retiring_at: datetime | None

    @property
    def public(self) -> Key:
        """The key as its record is made of it."""
        return Key(self.selector, self.algorithm, self.public_key, self.stage)

    def __repr__(self) -> str:
        return f"StoredKey(selector={self.selector!r}, stage={self.stage!r})"


async def add(
    tx: Tx, organization_id: UUID, domain_id: UUID, pairs: Iterable[dkim.Pair], sealing_key: bytes
) -> None:
    """Store new keys of a domain as pending."""
    for pair in pairs:
        key_id = uuid7()
        await tx.execute(
            "insert into dkim_key (dkim_key_id, domain_id, organization_id, selector, algorithm,"
            " public_key, private_key, stage) values (%(dkim_key_id)s, %(domain_id)s,"
            " %(organization_id)s, %(selector)s, %(algorithm)s, %(public_key)s, %(private_key)s,"
            " 'pending')",
            {
                "dkim_key_id": key_id,
                "domain_id": domain_id,
                "organization_id": organization_id,
                "selector": pair.selector,
                "algorithm": pair.algorithm,
                "public_key": pair.public_key,
                "private_key": dkim.seal(pair.private_key, sealing_key, key_id),
            },
        )


async def of_domain(tx: Tx, organization_id: UUID, domain_id: UUID) -> list[StoredKey]:
    """The keys of a domain but for those that are retired, oldest first."""
    return await fetch_all(
        tx,
        StoredKey,
        f"select {COLUMNS} from dkim_key where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and stage <> 'retired' order by created_at, selector",
        {"organization_id": organization_id, "domain_id": domain_id},
    )


def for_server(keys: Sequence[StoredKey], sealing_key: bytes) -> tuple[DkimKey, ...]:
    """The keys the mail server should have of a domain: all that are active, and no others. Those it has got
    already come without their private half. Raises `dkim.Unreadable`.
    """
    return tuple(
        DkimKey(
            selector=key.selector,
            algorithm=DkimAlgorithm(key.algorithm),
            private_key=_opened(key, sealing_key),
        )
        for key in keys
        if key.stage == "active"
    )


def unreadable(keys: Sequence[StoredKey], sealing_key: bytes) -> list[StoredKey]:
    """Those whose private half does not open: the secret is another one than when they were made."""
    return [key for key in keys if not _opens(key, sealing_key)]


def _opened(key: StoredKey, sealing_key: bytes) -> str | None:
    if key.private_key is None:
        return None
    return dkim.unseal(key.private_key, sealing_key, key.dkim_key_id)


def _opens(key: StoredKey, sealing_key: bytes) -> bool:
    try:
        _opened(key, sealing_key)
    except dkim.Unreadable:
        return False
    return True


async def erase_private(
    tx: Tx, organization_id: UUID, domain_id: UUID, selectors: Collection[str]
) -> None:
    """Forget the private halves of keys that the mail server has now."""
    await tx.execute(
        "update dkim_key set private_key = null where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and selector = any(%(selectors)s)",
        {
            "organization_id": organization_id,
            "domain_id": domain_id,
            "selectors": list(selectors),
        },
    )


async def activate(
    tx: Tx, organization_id: UUID, domain_id: UUID, selectors: Collection[str]
) -> None:
    """Let pending keys sign, and the active ones before them no more."""
    await tx.execute(
        "update dkim_key set stage = case when stage = 'pending' then 'active' else 'retiring' end,"
        " activated_at = coalesce(activated_at, now()),"
        " retiring_at = case when stage = 'active' then now() end"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s"
        " and ((stage = 'pending' and selector = any(%(selectors)s))"
        " or (stage = 'active' and selector <> all(%(selectors)s)))",
        {
            "organization_id": organization_id,
            "domain_id": domain_id,
            "selectors": list(selectors),
        },
    )


async def retire(
    tx: Tx, organization_id: UUID, domain_id: UUID, selectors: Collection[str]
) -> None:
    """Give keys up: their records are asked for no more."""
    await tx.execute(
        "update dkim_key set stage = 'retired', retired_at = now(), private_key = null"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s"
        " and selector = any(%(selectors)s)",
        {
            "organization_id": organization_id,
            "domain_id": domain_id,
            "selectors": list(selectors),
        },
    )


async def reinstate(tx: Tx, organization_id: UUID, domain_id: UUID) -> None:
    """Let the keys that the mail server last had sign again."""
    await tx.execute(
        "update dkim_key set stage = 'active', retiring_at = null"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s"
        " and stage = 'retiring' and retiring_at = (select max(latest.retiring_at)"
        " from dkim_key as latest where latest.organization_id = %(organization_id)s"
        " and latest.domain_id = %(domain_id)s and latest.stage = 'retiring')",
        {"organization_id": organization_id, "domain_id": domain_id},
    )
