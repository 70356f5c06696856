"""Samples of events: what a test sends is what the real thing looks like."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from agentmail import (
    DomainVerifiedEvent,
    MessageBouncedEvent,
    MessageComplainedEvent,
    MessageDeliveredEvent,
    MessageReceivedEvent,
    MessageRejectedEvent,
    MessageSentEvent,
)

from agentmail_cp import bodies
from agentmail_cp.bodies import notices
from agentmail_cp.events import LABEL_TYPES, PROTECTED, EventType
from agentmail_cp.webhooks import samples
from tests.sdk.official import timed

ID = UUID(int=7)
MODELS: dict[EventType, type[pydantic.BaseModel]] = {
    EventType.MESSAGE_RECEIVED: MessageReceivedEvent,
    **dict.fromkeys(PROTECTED, MessageReceivedEvent),
    EventType.MESSAGE_SENT: MessageSentEvent,
    EventType.MESSAGE_DELIVERED: MessageDeliveredEvent,
    EventType.MESSAGE_BOUNCED: MessageBouncedEvent,
    EventType.MESSAGE_COMPLAINED: MessageComplainedEvent,
    EventType.MESSAGE_REJECTED: MessageRejectedEvent,
    EventType.DOMAIN_VERIFIED: DomainVerifiedEvent,
}


def sample(event_type: EventType) -> dict[str, Any]:
    return msgspec.json.decode(samples.body(event_type, ID))


@pytest.mark.parametrize("event_type", EventType)
def test_a_sample_says_what_it_is(event_type: EventType) -> None:
    """A receiver would hand it to the wrong handler, or take two tests for one."""
    said = sample(event_type)
    assert (said["type"], said["event_type"], said["event_id"]) == ("event", event_type, str(ID))


@pytest.mark.parametrize("event_type", MODELS)
def test_a_sample_is_what_the_sdk_reads(event_type: EventType) -> None:
    """A receiver's own code would stop at the test, or pass it and stop at the first event."""
    adapter = pydantic.TypeAdapter(MODELS[event_type])
    adapter.validate_python(timed(sample(event_type)), strict=True)


def test_every_type_is_one_the_sdk_has_a_model_for_or_a_label_s() -> None:
    """A new type would have a sample that nobody read."""
    assert set(EventType) == MODELS.keys() | LABEL_TYPES


@pytest.mark.parametrize("event_type", EventType)
def test_a_sample_has_the_fields_of_the_real_thing(event_type: EventType) -> None:
    """Receivers are written after the first test; they would miss what the real one lacks."""
    said = sample(event_type)
    told = msgspec.convert(said, notices.Notice)
    if told.message is not None:
        message = {**told.message}
        assert set(message) <= {
            *(each.encode_name for each in msgspec.structs.fields(bodies.Message)),
            "from_",
        }
        assert required(bodies.Message) <= set(message)
    # Nothing is lost on the way through the real thing's own shape.
    again: dict[str, Any] = msgspec.to_builtins(told)
    again.pop("domain", None)
    assert msgspec.json.decode(msgspec.json.encode(again)) == {
        name: value for name, value in said.items() if name != "domain"
    }


def required(kind: type[msgspec.Struct]) -> set[str]:
    return {each.encode_name for each in msgspec.structs.fields(kind) if each.required}


@pytest.mark.parametrize("event_type", PROTECTED)
def test_hidden_mail_has_the_label_that_hides_it(event_type: EventType) -> None:
    """A receiver that looks at labels would take spam for mail."""
    label = event_type.value.rpartition(".")[2]
    for part in ("message", "thread"):
        assert label in sample(event_type)[part]["labels"]


def test_nobody_can_be_written_to_by_mistake() -> None:
    """An agent that answers a sample would mail a stranger (RFC 2606 keeps these names free)."""
    for event_type in EventType:
        text = samples.body(event_type, ID).decode()
        hosts = {each.partition('"')[0].strip("<>") for each in text.split("@")[1:]}
        assert hosts <= {"agents.example", "example.com", "example.com>", "agents.example>"}
