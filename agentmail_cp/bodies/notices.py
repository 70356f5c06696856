"""Bodies of events as webhooks and WebSockets are told of them, the same on both.

Every field without a default is required by the contract: the official Python SDK takes an event that
lacks one for a `message.received` (2.0.18). What the contract does not know is an extension:
`organization_id` and `from_` of a message, `deleted` where the message was gone by the time of telling,
`truncated` where the body would have been too large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from agentmail_cp import messages, threads
from agentmail_cp.addresses import email_of
from agentmail_cp.bodies.messages import Message
from agentmail_cp.bodies.threads import ThreadItem, thread_item
from agentmail_cp.events import Event, EventType


class About(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The message an event is about, and when it happened to it."""

    inbox_id: str
    thread_id: UUID | None
    message_id: str | None
    timestamp: datetime


class Send(About, kw_only=True):
    """A message was sent to these addresses. `deleted`: it is gone, and with it to whom it went."""

    recipients: list[str]
    deleted: bool = False


class Delivery(About, kw_only=True):
    """The servers of these addresses took a message."""

    recipients: list[str]


class Recipient(msgspec.Struct, kw_only=True):
    """An address and what became of the message there."""

    address: str
    status: str


class Bounce(About, kw_only=True):
    """A message could not be delivered to these addresses. `type` is Permanent or Transient."""

    type: str
    sub_type: str
    recipients: list[Recipient]


class Complaint(About, kw_only=True):
    """These addresses reported a message, mostly as spam."""

    type: str
    sub_type: str
    recipients: list[str]


class Reject(About, kw_only=True):
    """A message was refused before it left."""

    reason: str


class LabelChange(About, kw_only=True):
    """A label was put on a message or taken off it."""

    label: str


ReceivedMessage = dict[str, Any]
"""A `Message` as JSON, with the extensions before it."""


class ReceivedThread(ThreadItem, omit_defaults=True, kw_only=True):
    """The thread a message arrived in."""

    deleted: bool = False


class Notice(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event. Which of the last fields it has depends on its type."""

    type: str
    event_type: str
    event_id: UUID
    message: ReceivedMessage | None = None
    thread: ReceivedThread | None = None
    send: Send | None = None
    delivery: Delivery | None = None
    bounce: Bounce | None = None
    complaint: Complaint | None = None
    reject: Reject | None = None
    label: LabelChange | None = None
    domain: Mapping[str, Any] | None = None


def received(
    event: Event,
    thread: threads.Thread | None,
    shown: Message,
    *,
    deleted: bool = False,
    truncated: bool = False,
) -> Notice:
    """A message arrived. `shown` is what there is of it, `thread` its thread; None when nothing is left of
    that, or nothing but this message that everybody who is told may read.
    """
    # The Python SDK 2.0.18 reads `from_` and `from` into one field, and the last one wins.
    extended: ReceivedMessage = {
        "from_": [shown.sender],
        "organization_id": event.organization_id,
        **({"deleted": True} if deleted else {}),
        **({"truncated": True} if truncated else {}),
        **msgspec.to_builtins(shown),
    }
    where = _thread_of_one(shown, deleted=deleted) if thread is None else _thread(thread, shown)
    return _notice(event, message=extended, thread=where)


def _thread(thread: threads.Thread, shown: Message) -> ReceivedThread:
    attached = shown.attachments if thread.message_count == 1 else None
    item = thread_item(thread, shown.inbox_id, attached)
    return ReceivedThread(**msgspec.structs.asdict(item))


def _thread_of_one(shown: Message, *, deleted: bool) -> ReceivedThread:
    """The thread that a message would be alone."""
    senders = [shown.sender] if shown.sender else []
    recipients = [*shown.to, *(shown.cc or ())][: threads.SHOWN_ADDRESSES]
    return ReceivedThread(
        inbox_id=shown.inbox_id,
        thread_id=shown.thread_id,
        labels=shown.labels,
        timestamp=shown.timestamp,
        last_message_at=shown.timestamp,
        senders=senders,
        recipients=recipients,
        participants=list(dict.fromkeys([*senders, *recipients])),
        last_message_id=shown.message_id,
        message_count=0 if deleted else 1,
        size=shown.size,
        updated_at=shown.updated_at,
        created_at=shown.created_at,
        received_timestamp=shown.timestamp,
        subject=shown.subject,
        preview=shown.preview,
        attachments=shown.attachments,
        deleted=deleted,
    )


def unknown_message(event: Event, address: str, labels: Sequence[str]) -> Message:
    """What an event alone knows of a message that nothing else knows any more."""
    return Message(
        inbox_id=address,
        thread_id=event.thread_id or event.inbox,
        message_id=event.message_id or "",
        labels=list(labels),
        timestamp=event.created_at,
        sender="",
        to=[address],
        size=0,
        extracted_codes=[],
        extracted_links=[],
        updated_at=event.created_at,
        created_at=event.created_at,
    )


def told(event: Event, address: str, row: messages.Message | None) -> Notice:
    """Every other event of a message; `row` is the message, None when it is gone."""
    about = {
        "inbox_id": address,
        "thread_id": row.thread_id if row else event.thread_id,
        "message_id": event.message_id,
        "timestamp": event.created_at,
    }
    return _notice(event, **_TOLD[event.type](event.facts, about, row))


def domain_verified(event: Event) -> Notice:
    """A domain was proved; what the contract prints of it is small, so it is the event's facts."""
    return _notice(event, domain=event.facts)


_Fields = dict[str, Any]


def _send(_facts: _Fields, about: _Fields, row: messages.Message | None) -> _Fields:
    recipients = [] if row is None else [*row.to, *row.cc, *row.bcc]
    distinct = list(dict.fromkeys(map(email_of, recipients)))
    return {"send": Send(**about, recipients=distinct, deleted=row is None)}


def _delivery(facts: _Fields, about: _Fields, _row: messages.Message | None) -> _Fields:
    return {"delivery": Delivery(**about, recipients=facts.get("recipients", []))}


def _bounce(facts: _Fields, about: _Fields, _row: messages.Message | None) -> _Fields:
    return {
        "bounce": Bounce(
            **about,
            type=facts.get("type", "Permanent"),
            sub_type=facts.get("sub_type", "General"),
            recipients=[
                Recipient(address=each["address"], status=each.get("status", "bounced"))
                for each in facts.get("recipients", [])
            ],
        )
    }


def _complaint(facts: _Fields, about: _Fields, _row: messages.Message | None) -> _Fields:
    return {
        "complaint": Complaint(
            **about,
            type=facts.get("type", "abuse"),
            sub_type=facts.get("sub_type", "General"),
            recipients=facts.get("recipients", []),
        )
    }


def _reject(facts: _Fields, about: _Fields, _row: messages.Message | None) -> _Fields:
    return {"reject": Reject(**about, reason=facts.get("reason", "Rejected"))}


def _label(facts: _Fields, about: _Fields, _row: messages.Message | None) -> _Fields:
    return {"label": LabelChange(**about, label=facts["label"])}


_TOLD: Final[Mapping[EventType, Callable[[_Fields, _Fields, messages.Message | None], _Fields]]] = {
    EventType.MESSAGE_SENT: _send,
    EventType.MESSAGE_DELIVERED: _delivery,
    EventType.MESSAGE_BOUNCED: _bounce,
    EventType.MESSAGE_COMPLAINED: _complaint,
    EventType.MESSAGE_REJECTED: _reject,
    EventType.LABEL_ADDED: _label,
    EventType.LABEL_REMOVED: _label,
}


def _notice(event: Event, **fields: Any) -> Notice:
    return Notice(type="event", event_type=event.type.value, event_id=event.event_id, **fields)
