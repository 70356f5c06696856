"""Sizes: one setting, and every limit that follows from it fits around the one before."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import sizes
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import Address, BlobId, OutgoingAttachment, OutgoingEmail
from agentmail_cp.settings import DEFAULT_MESSAGE_SIZE

EMAIL = OutgoingEmail(
    message_id="m@x.test", date=datetime(2026, 11, 21, tzinfo=UTC), sender=Address("a@x.test")
)


def attached(*parts: int) -> OutgoingEmail:
    files = tuple(OutgoingAttachment(BlobId("b"), "image/png", size=each) for each in parts)
    return msgspec.structs.replace(EMAIL, text="four", html="<p>", attachments=files)


def test_a_25_mb_file_is_within_the_default() -> None:
    sizes.check(attached(25_000_000), DEFAULT_MESSAGE_SIZE)


@given(st.integers(1, 200_000))
def test_the_largest_content_fits_into_a_request_as_base64(size: int) -> None:
    assert len(base64.b64encode(bytes(size))) <= sizes.request_limit(size) - 999_999


@given(st.integers(1, 200_000))
def test_the_largest_content_fits_into_a_mail(size: int) -> None:
    """Otherwise a message is accepted by us and then refused by the mail server."""
    mail = EmailMessage(policy=SMTP)
    mail.add_attachment(bytes(size), maintype="application", subtype="pdf", filename="a.pdf")
    assert len(mail.as_bytes()) <= sizes.mail_limit(size) - 990_000


def test_everything_a_finished_mail_holds_counts() -> None:
    sizes.check(attached(60, 33), 100)
    for email in (attached(60, 34), msgspec.structs.replace(attached(60, 33), text="fünf")):
        with pytest.raises(Invalid, match="larger than 100 bytes") as caught:
            sizes.check(email, 100)
        assert (caught.value.detail, caught.value.field) == ("TOO_LARGE", "attachments")
        assert caught.value.fix


def test_a_text_counts_in_bytes_not_in_characters() -> None:
    room = sizes.Room(10)
    room.take_text("äöü", "text")
    assert room.left == 4
    room.take_text(None, "html")
    with pytest.raises(Invalid) as caught:
        room.take_text("abcde", "html")
    assert caught.value.field == "html"
    room.take(4, "attachments.0.content")
    assert room.left == 0
