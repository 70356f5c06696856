"""What a mail server tells of mail on its way out: its queue, outcomes and complaints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of a mail at one recipient, as the server that sent it knows."""

    DELIVERED = "delivered"
    """The next server has taken it, or it lies in a mailbox of this one."""

    DELAYED = "delayed"
    """It could not be delivered yet; the server goes on trying."""

    FAILED = "failed"
    """It will not be delivered: refused for good, or tried in vain for too long."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says became of a queued mail at one recipient.

    `sender` and `recipient` are the envelope's addresses in lower case; `sender` is empty for mail that
    nobody is told about. `code` is an enhanced status code (RFC 3463), or a three-digit SMTP reply code
    where the other server gave no other. `diagnostic` is the server's sentence. `at` has whole seconds.
    Reports are repeated, come out of order, and may be lost.
    """

    queue_id: int
    sender: str
    recipient: str
    outcome: Outcome
    at: datetime
    code: str | None = None
    diagnostic: str | None = None


class Enqueued(msgspec.Struct, frozen=True):
    """Which mail a queue id belongs to, as far as the server tells it. `message_id` has no brackets."""

    queue_id: int
    sender: str
    message_id: str


class QueueStatus(StrEnum):
    """Where the delivery to one recipient stands while the mail is in the queue."""

    SCHEDULED = "scheduled"
    DELAYED = "delayed"
    FAILED = "failed"
    DELIVERED = "delivered"


class QueuedRecipient(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient of a queued mail; `code` and `diagnostic` as in `Report`. `expires` is when the
    server gives up, None when it counts attempts instead.
    """

    status: QueueStatus
    code: str | None = None
    diagnostic: str | None = None
    expires: datetime | None = None


class QueuedMail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail in the queue. `message_id` is known for mail of `submit` only. `recipients` by address."""

    queue_id: int
    sender: str
    message_id: str | None = None
    recipients: Mapping[str, QueuedRecipient] = {}


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """A complaint about a mail that reached the server (ARF, RFC 5965), kept until it is forgotten.

    `kind` is the feedback type (`abuse`, `fraud`, `not-spam`, …). `message_id` (no brackets), `sender` and
    `recipients` are those of the mail complained about, as far as the report tells; anybody can write one.
    """

    complaint_id: str
    kind: str
    at: datetime
    message_id: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
