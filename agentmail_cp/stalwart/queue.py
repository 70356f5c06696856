"""What is still in Stalwart's queue, and the complaints it keeps: management objects behind the port's words.

The queue is no log: a mail leaves it with its last recipient's outcome (0.16,
`jmap/src/registry/mapping/queued_message.rs`). A queue id is a number in events, hexadecimal in the MTA
hook and base 32 here. Mail of ours has its Message-ID as envelope id (RFC 3461 section 4.4), which the
queue, delivery reports and some complaints give back. Nothing in the queue is ever changed here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentmail_cp.mailserver import (
    Complaint,
    MailServerRejected,
    QueuedMail,
    QueuedRecipient,
    QueueStatus,
    Refusal,
)
from agentmail_cp.stalwart import ids
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer, reference
from agentmail_cp.stalwart.replies import Reply, reply, reply_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agentmail_cp.mailserver import OutgoingEmail
    from agentmail_cp.stalwart.jmap import JmapClient

T = TypeVar("T")

LONGEST_ENVELOPE_ID: Final = 100
"""Characters (RFC 3461 section 4.4)."""

QUEUED: Final = ("id", "returnPath", "envId", "recipients")
COMPLAINED: Final = ("id", "receivedAt", "report")
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

STATUSES: Final = {
    "Scheduled": QueueStatus.SCHEDULED,
    "TemporaryFailure": QueueStatus.DELAYED,
    "PermanentFailure": QueueStatus.FAILED,
    "Completed": QueueStatus.DELIVERED,
}
SENTENCES: Final = {
    "dnsError": "DNS lookup failed",
    "connectionError": "Connection failed",
    "tlsError": "TLS error",
    "daneError": "DANE authentication failure",
    "mtaStsError": "MTA-STS auth failed",
    "rateLimited": "Rate limited",
    "concurrencyLimited": "Too many concurrent connections to remote server",
    "io": "Queue error",
}
"""How events begin to tell of what the queue has a name for."""

KINDS: Final = {"authFailure": "auth-failure", "notSpam": "not-spam"}
"""Feedback types (RFC 5965, 6430, 6591) that Stalwart spells otherwise."""


class _Status(msgspec.Struct, rename="camel"):
    type: str = msgspec.field(name="@type")
    error_type: str | None = None
    error_message: str | None = None
    response_code: int | None = None
    response_enhanced: str | None = None
    response_message: str | None = None


class _Expiry(msgspec.Struct, rename="camel"):
    expires_at: str | None = None


class _Recipient(msgspec.Struct):
    status: _Status
    expires: _Expiry = msgspec.field(default_factory=_Expiry)


class _Queued(msgspec.Struct, rename="camel"):
    id: str
    return_path: str
    recipients: dict[str, _Recipient]
    env_id: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    feedback_type: str
    original_envelope_id: str | None = None
    original_mail_from: str | None = None
    original_rcpt_to: str | None = None


class _Complaint(msgspec.Struct, rename="camel"):
    id: str
    received_at: str
    report: _Feedback


class Queue:
    """The part of `StalwartMailServer` that looks after mail on its way."""

    _jmap: JmapClient

    async def queue(self, queue_ids: Collection[int]) -> Mapping[int, QueuedMail]:
        size = (await self._jmap.limits()).max_objects_in_get
        wanted = [ids.encode(each) for each in dict.fromkeys(queue_ids)]
        groups = [
            [Call("x:QueuedMessage/get", {"ids": some, "properties": QUEUED}, str(start))]
            for start, some in _shares(wanted, size)
        ]
        if not groups:
            return {}
        answers = await self._jmap.call_many(groups)
        found = [mail for each in answers.values() for mail in each.into(GetAnswer[_Queued]).found]
        return {mail.queue_id: mail for mail in map(_mail, found)}

    async def queued_by(self, sender: str) -> tuple[QueuedMail, ...]:
        found = await self._find("x:QueuedMessage", {"returnPath": sender.lower()}, QUEUED, _Queued)
        # Stalwart finds everything whose return path only contains it.
        mails = (mail for mail in map(_mail, found) if mail.sender == sender.lower())
        return tuple(sorted(mails, key=lambda mail: mail.queue_id))

    async def complaints(self) -> tuple[Complaint, ...]:
        found = await self._find("x:ArfExternalReport", {}, COMPLAINED, _Complaint)
        return tuple(sorted(map(_complaint, found), key=lambda each: (each.at, each.complaint_id)))

    async def forget_complaints(self, complaint_ids: Collection[str]) -> None:
        if not complaint_ids:
            return
        arguments = {"destroy": list(dict.fromkeys(complaint_ids))}
        call = Call("x:ArfExternalReport/set", arguments, "set")
        answer = (await self._jmap.call(call))["set"].into(SetAnswer)
        for refused in (answer.not_destroyed or {}).values():
            if refused.type != "notFound":
                raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)

    async def _find(
        self, kind: str, filters: dict[str, str], properties: Sequence[str], shape: type[T]
    ) -> list[T]:
        most = (await self._jmap.limits()).max_objects_in_get
        query = Call(f"{kind}/query", {"filter": filters, "limit": most}, "query")
        found = reference("query", f"{kind}/query", "/ids")
        get = Call(f"{kind}/get", {"#ids": found, "properties": properties}, "get")
        answers = await self._jmap.call(query, get, repeat=True)
        answers["query"].into(dict[str, object])
        return answers["get"].into(GetAnswer[shape]).found


def envelope_id(email: OutgoingEmail) -> str | None:
    """The mail's Message-ID as a parameter of MAIL FROM: xtext (RFC 3461 section 4), or None for one that
    cannot be.
    """
    spelled = "".join(map(_xtext, email.message_id))
    fits = email.message_id.isascii() and email.message_id.isprintable()
    return spelled if fits and len(spelled) <= LONGEST_ENVELOPE_ID else None


def _xtext(character: str) -> str:
    return f"+{ord(character):02X}" if character in "+= " else character


def _shares(wanted: Sequence[str], size: int) -> list[tuple[int, list[str]]]:
    return [(start, list(wanted[start : start + size])) for start in range(0, len(wanted), size)]


def _mail(found: _Queued) -> QueuedMail:
    return QueuedMail(
        queue_id=ids.decode(found.id),
        sender="" if found.return_path == "<>" else found.return_path.lower(),
        message_id=found.env_id,
        recipients={
            address.lower(): _recipient(each) for address, each in found.recipients.items()
        },
    )


def _recipient(found: _Recipient) -> QueuedRecipient:
    status = STATUSES.get(found.status.type, QueueStatus.SCHEDULED)
    said = _said(found.status, lasting=status is QueueStatus.FAILED)
    return QueuedRecipient(
        status=status,
        code=said.code,
        diagnostic=said.text,
        expires=_moment(found.expires.expires_at),
    )


def _said(status: _Status, *, lasting: bool) -> Reply:
    if status.response_code is not None:
        return reply(status.response_code, status.response_enhanced, status.response_message)
    told = (SENTENCES.get(status.error_type or ""), status.error_message)
    return reply_in(": ".join(filter(None, told)), lasting=lasting)


def _complaint(found: _Complaint) -> Complaint:
    report = found.report
    recipient = _bare(report.original_rcpt_to)
    return Complaint(
        complaint_id=found.id,
        kind=KINDS.get(report.feedback_type, report.feedback_type),
        at=_moment(found.received_at) or LONG_AGO,
        message_id=_bare(report.original_envelope_id),
        sender=(_bare(report.original_mail_from) or "").lower() or None,
        recipients=() if recipient is None else (recipient.lower(),),
    )


def _bare(value: str | None) -> str | None:
    return (value or "").strip().removeprefix("<").removesuffix(">") or None


def _moment(text: str | None) -> datetime | None:
    """Stalwart 0.16 spells the years after 2**64 seconds in ways that are no date."""
    if text is None:
        return None
    try:
        return msgspec.convert(text, datetime).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None
