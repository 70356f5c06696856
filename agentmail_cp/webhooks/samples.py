"""PURE: samples of events, which an endpoint is sent as tests.

Each has the shape of the real thing, so that a receiver's own code runs through, and says of itself in its
addresses that it is none. Its id is that of its delivery, so no two are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from agentmail_cp.events import PROTECTED, EventType

Fields = dict[str, Any]

_AT: Final = "2026-01-02T09:30:00Z"
_INBOX: Final = "sample-inbox@agents.example"
_PERSON: Final = "sample-person@example.com"
_THREAD_ID: Final = "00000000-0000-4000-8000-000000000000"
_RECEIVED_ID: Final = "<sample-received@example.com>"
_SENT_ID: Final = "<sample-sent@agents.example>"
_SUBJECT: Final = "A sample of an event"
_TEXT: Final = "This is a test of your webhook. Nobody wrote this message."


def body(event_type: EventType, event_id: UUID) -> bytes:
    """The JSON of a sample of this type."""
    told = {"type": "event", "event_type": event_type.value, "event_id": event_id}
    return msgspec.json.encode(told | _SAMPLES[event_type](event_type))


def _received(event_type: EventType) -> Fields:
    # message.received.spam comes with the label spam, and so on.
    own = [event_type.value.rpartition(".")[2]] if event_type in PROTECTED else []
    common = {
        "inbox_id": _INBOX,
        "thread_id": _THREAD_ID,
        "labels": ["received", "unread", *own],
        "timestamp": _AT,
        "subject": _SUBJECT,
        "preview": _TEXT,
        "size": 1024,
        "created_at": _AT,
        "updated_at": _AT,
    }
    message = {
        # Before `from`: the Python SDK 2.0.18 reads both names into one field, and the last one wins.
        "from_": [_PERSON],
        "message_id": _RECEIVED_ID,
        "from": _PERSON,
        "to": [_INBOX],
        "text": _TEXT,
        "html": f"<p>{_TEXT}</p>",
        "extracted_text": _TEXT,
        "extracted_html": f"<p>{_TEXT}</p>",
        "extracted_codes": [],
        "extracted_links": [],
    }
    thread = {
        "senders": [_PERSON],
        "recipients": [_INBOX],
        "participants": [_PERSON, _INBOX],
        "last_message_id": _RECEIVED_ID,
        "last_message_at": _AT,
        "received_timestamp": _AT,
        "message_count": 1,
    }
    return {"message": common | message, "thread": common | thread}


def _about(**fields: Any) -> Fields:
    """What every event of a sent message says."""
    where = {"inbox_id": _INBOX, "thread_id": _THREAD_ID, "message_id": _SENT_ID, "timestamp": _AT}
    return where | fields


def _sent(_type: EventType) -> Fields:
    return {"send": _about(recipients=[_PERSON])}


def _delivered(_type: EventType) -> Fields:
    return {"delivery": _about(recipients=[_PERSON])}


def _bounced(_type: EventType) -> Fields:
    recipients = [{"address": _PERSON, "status": "bounced"}]
    return {"bounce": _about(type="Permanent", sub_type="General", recipients=recipients)}


def _complained(_type: EventType) -> Fields:
    return {"complaint": _about(type="abuse", sub_type="General", recipients=[_PERSON])}


def _rejected(_type: EventType) -> Fields:
    return {"reject": _about(reason="This is a sample.")}


def _labelled(_type: EventType) -> Fields:
    return {"label": _about(label="sample")}


def _verified(_type: EventType) -> Fields:
    record = {
        "type": "TXT",
        "name": "agents.example",
        "value": "v=spf1 mx -all",
        "status": "VALID",
    }
    domain = {
        "domain_id": "agents.example",
        "domain": "agents.example",
        "status": "VERIFIED",
        "feedback_enabled": True,
        "subdomains_enabled": False,
        "tracking_enabled": False,
        "inbound_enabled": True,
        "records": [record],
        "created_at": _AT,
        "updated_at": _AT,
    }
    return {"domain": domain}


_SAMPLES: Final[Mapping[EventType, Callable[[EventType], Fields]]] = {
    EventType.MESSAGE_RECEIVED: _received,
    EventType.MESSAGE_RECEIVED_SPAM: _received,
    EventType.MESSAGE_RECEIVED_BLOCKED: _received,
    EventType.MESSAGE_RECEIVED_UNAUTHENTICATED: _received,
    EventType.MESSAGE_SENT: _sent,
    EventType.MESSAGE_DELIVERED: _delivered,
    EventType.MESSAGE_BOUNCED: _bounced,
    EventType.MESSAGE_COMPLAINED: _complained,
    EventType.MESSAGE_REJECTED: _rejected,
    EventType.DOMAIN_VERIFIED: _verified,
    EventType.LABEL_ADDED: _labelled,
    EventType.LABEL_REMOVED: _labelled,
}
"""How a sample of each type is made."""
