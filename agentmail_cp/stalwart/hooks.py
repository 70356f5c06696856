"""What Stalwart 0.16 posts to us: the doorbell, checked and decoded.

Owns the signature check and the reading of one batch of events. A batch says only whose mailbox may
have changed; Stalwart repeats, reorders and loses batches, so nothing else in it is trusted or kept.
Unknown events and unknown fields are no error: another version may send more.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from typing import Any, Final, TypeGuard, cast

import msgspec

from agentmail_cp.mailserver import AccountId
from agentmail_cp.stalwart import ids

DOORBELL_PATH: Final = "/stalwart/doorbell"
"""Path of the doorbell below `AGENTMAIL_CP_STALWART_WEBHOOK_URL`."""

SIGNATURE_HEADER: Final = "X-Signature"

RING: Final = "jmap.unknown-method"
"""The event our own ring causes; it tells of no mailbox."""


LOOK: Final = "imap.fetch"
READS: Final = frozenset({"Rfc822", "Rfc822Text"})
READS_IF: Final = "peek: false"
"""What a fetch that marks a mail read asks for, in Stalwart's words (RFC 9051 section 6.4.5)."""


class BadBell(Exception):
    """The body is not a batch of Stalwart's events."""


class Bell(msgspec.Struct, frozen=True):
    """One batch. `accounts` are the mailboxes that may have changed.

    `only_ring` says that the batch held our own ring and nothing else: Stalwart holds nothing back.
    """

    accounts: frozenset[AccountId] = frozenset()
    only_ring: bool = False


class _Facts(msgspec.Struct, rename="camel"):
    account_id: int | None = None
    source: Any = None
    details: Any = None


class _Event(msgspec.Struct):
    type: str
    data: _Facts = msgspec.field(default_factory=_Facts)


class _Batch(msgspec.Struct):
    events: list[_Event]


def is_signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Whether `signature` is base64 of HMAC-SHA256 of the raw body. Takes the same time either way."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    given = (signature or "").encode("utf-8", "replace")
    return hmac.compare_digest(b64encode(digest), given)


def decode(body: bytes) -> Bell:
    """Read one batch. Raises `BadBell` for anything that is none."""
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBell(f"not a batch of events: {error}") from None
    return Bell(
        accounts=frozenset(account for event in batch.events for account in _accounts(event)),
        only_ring=bool(batch.events) and all(event.type == RING for event in batch.events),
    )


def _accounts(event: _Event) -> list[AccountId]:
    """Events carry an account's number; copies and moves name the other account as `source`."""
    if event.type == RING or (event.type == LOOK and not _marks_read(event.data.details)):
        return []
    numbers = (event.data.account_id, event.data.source)
    return [AccountId(ids.encode(number)) for number in numbers if _is_account(number)]


def _marks_read(details: Any) -> bool:
    return isinstance(details, list) and any(
        detail in READS or READS_IF in detail
        for detail in cast("list[Any]", details)
        if isinstance(detail, str)
    )


def _is_account(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and 0 <= number < 1 << 32
