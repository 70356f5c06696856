"""What Stalwart 0.16 posts to us: the doorbell, checked and decoded.

Owns the signature check and the reading of one batch of events. A batch says whose mailbox may have
changed, and what became of queued mail at its recipients. Stalwart repeats, reorders and loses batches.
Unknown events and unknown fields are no error: another version may send more.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard, cast

import msgspec

from agentmail_cp.mailserver import AccountId, Enqueued, Outcome, Report
from agentmail_cp.stalwart import ids
from agentmail_cp.stalwart.replies import Reply, reply_in

DOORBELL_PATH: Final = "/stalwart/doorbell"
"""Path of the doorbell below `AGENTMAIL_CP_STALWART_WEBHOOK_URL`."""

SIGNATURE_HEADER: Final = "X-Signature"

RING: Final = "jmap.unknown-method"
"""The event our own ring causes; it tells of no mailbox."""


LOOK: Final = "imap.fetch"
READS: Final = frozenset({"Rfc822", "Rfc822Text"})
READS_IF: Final = "peek: false"
"""What a fetch that marks a mail read asks for, in Stalwart's words (RFC 9051 section 6.4.5)."""


OUTCOMES: Final = {
    "delivery.dsn-success": Outcome.DELIVERED,
    "delivery.dsn-temp-fail": Outcome.DELAYED,
    "delivery.dsn-perm-fail": Outcome.FAILED,
}
"""Told once per recipient, of local ones too, whether or not a report is mailed to anybody."""

INGESTED: Final = frozenset({"message-ingest.ham", "message-ingest.spam"})
"""The only events that name both the queue id and the Message-ID."""

NOBODY: Final = "<>"


class BadBell(Exception):
    """The body is not a batch of Stalwart's events."""


class Bell(msgspec.Struct, frozen=True):
    """One batch. `accounts` are the mailboxes that may have changed, `reports` what became of mail,
    `enqueued` which mails those may be about; both concern mail from outside as well.

    `only_ring` says that the batch held our own ring and nothing else: Stalwart holds nothing back.
    """

    accounts: frozenset[AccountId] = frozenset()
    reports: tuple[Report, ...] = ()
    enqueued: tuple[Enqueued, ...] = ()
    only_ring: bool = False


class _Facts(msgspec.Struct, rename="camel"):
    """Values have no types here: what other events, or other versions, put there is no error."""

    account_id: Any = None
    source: Any = None
    details: Any = None
    queue_id: Any = None
    sender: Any = msgspec.field(default=None, name="from")
    to: Any = None
    code: Any = None
    total: Any = None
    message_id: Any = None


class _Event(msgspec.Struct, rename="camel"):
    type: str
    data: _Facts = msgspec.field(default_factory=_Facts)
    created_at: Any = None


class _Batch(msgspec.Struct):
    events: list[_Event]


class Seal:
    """The signature of a body that is read piece by piece: base64 of HMAC-SHA256 of its raw bytes."""

    def __init__(self, secret: str) -> None:
        self._digest = hmac.new(secret.encode(), digestmod=hashlib.sha256)

    def update(self, piece: bytes) -> None:
        self._digest.update(piece)

    def matches(self, signature: str | None) -> bool:
        """Whether this is the signature. Takes the same time either way."""
        given = (signature or "").encode("utf-8", "replace")
        return hmac.compare_digest(b64encode(self._digest.digest()), given)


def decode(body: bytes) -> Bell:
    """Read one batch. Raises `BadBell` for anything that is none."""
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBell(f"not a batch of events: {error}") from None
    return Bell(
        accounts=frozenset(account for event in batch.events for account in _accounts(event)),
        reports=tuple(filter(None, map(_report, batch.events))),
        enqueued=tuple(filter(None, map(_enqueued, batch.events))),
        only_ring=bool(batch.events) and all(event.type == RING for event in batch.events),
    )


def _accounts(event: _Event) -> list[AccountId]:
    """Events carry an account's number; copies and moves name the other account as `source`."""
    if event.type == RING or (event.type == LOOK and not _marks_read(event.data.details)):
        return []
    numbers = (event.data.account_id, event.data.source)
    return [AccountId(ids.encode(number)) for number in numbers if _is_account(number)]


def _report(event: _Event) -> Report | None:
    outcome, facts = OUTCOMES.get(event.type), event.data
    at = _moment(event.created_at)
    if outcome is None or at is None or not _is_mail(facts) or not _is_text(facts.to):
        return None
    said = _reply(outcome, facts)
    return Report(
        queue_id=facts.queue_id,
        sender=_address(facts.sender),
        recipient=facts.to.lower(),
        outcome=outcome,
        at=at,
        code=said.code,
        diagnostic=said.text,
    )


def _reply(outcome: Outcome, facts: _Facts) -> Reply:
    """Of a delivery Stalwart tells the reply's code only, and "OK" for its text."""
    if outcome is Outcome.DELIVERED:
        return Reply(str(facts.code) if isinstance(facts.code, int) else None, None)
    details = facts.details if isinstance(facts.details, str) else ""
    lasting = outcome is Outcome.FAILED and not facts.total
    return reply_in(details, lasting=lasting)


def _enqueued(event: _Event) -> Enqueued | None:
    facts = event.data
    if event.type not in INGESTED or not _is_mail(facts) or not _is_text(facts.message_id):
        return None
    sender = _address(facts.sender)
    return Enqueued(facts.queue_id, sender, facts.message_id) if sender else None


def _is_mail(facts: _Facts) -> bool:
    return type(facts.queue_id) is int and _is_text(facts.sender)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _address(sender: str) -> str:
    return "" if sender == NOBODY else sender.lower()


def _moment(value: Any) -> datetime | None:
    try:
        return msgspec.convert(value, datetime).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None


def _marks_read(details: Any) -> bool:
    return isinstance(details, list) and any(
        detail in READS or READS_IF in detail
        for detail in cast("list[Any]", details)
        if isinstance(detail, str)
    )


def _is_account(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and 0 <= number < 1 << 32
