"""What we put into Sent is the mail as it was sent, and it can be found again."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.submissions import (
    GivenId,
    HandedIn,
    copy_of,
    hidden_recipients,
    message_id_of,
)

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def mail(*headers: tuple[str, str], to: tuple[str, ...] = (), body: bytes = b"") -> HandedIn:
    return HandedIn(login="me@agents.test", recipients=to, headers=headers, body=body)


@pytest.mark.parametrize(
    ("value", "message_id"),
    [
        (" <Abc@x>\r\n", "Abc@x"),
        ("\r\n <folded@x>\r\n", "folded@x"),
        (" <a b@c> (why)\r\n", "a b@c"),
        (" bare@x\r\n", "bare@x"),
        (" \r\n", None),
        (" <>\r\n", None),
        (" two words\r\n", None),
        (f" <{'a' * 2000}@x>\r\n", None),
        (" <nul\x00@x>\r\n", None),
    ],
)
def test_a_message_id_is_read_as_stalwart_reads_it(value: str, message_id: str | None) -> None:
    """Else the client's copy would never be recognised."""
    assert message_id_of(mail(("MESSAGE-ID", value))) == message_id


def test_a_mail_without_one_has_none() -> None:
    assert message_id_of(mail(("Subject", " x\r\n"))) is None


def test_blind_copies_are_who_no_header_names() -> None:
    headers = (
        ("To", ' "Bob, of X" <Bob@X.test>,\r\n\tcarol@x.test\r\n'),
        ("cc", " friends: dave@x.test, <erin@x.test>;\r\n"),
        ("Resent-To", " frank@x.test\r\n"),
    )
    named = [f"{name}@x.test" for name in ("bob", "carol", "dave", "erin", "frank")]
    to = (*named, "grace@x.test", "ob@x.test", "grace@x.test")
    assert hidden_recipients(mail(*headers, to=to)) == ("grace@x.test", "ob@x.test")


@given(st.text(), st.lists(st.emails()))
def test_a_broken_header_hides_nobody_and_crashes_nothing(header: str, to: list[str]) -> None:
    assert set(hidden_recipients(mail(("To", header), to=tuple(to)))) <= set(to)


def test_the_copy_is_the_mail_byte_for_byte() -> None:
    headers = (
        ("Message-ID", "  <a@x>\r\n"),
        ("X-Odd", "no blank\r\n\tfolded\r\n"),
        ("Date", " Sat, 21 Nov 2026 07:00:00 +0000\r\n"),
    )
    expected = "".join(f"{name}:{value}" for name, value in headers).encode()
    body = bytes(range(256))
    assert copy_of(mail(*headers, body=body), None, NOW) == expected + b"\r\n" + body


def test_the_copy_has_what_stalwart_adds_and_who_got_it_blind() -> None:
    to = tuple(f"{number}@elsewhere.test" for number in range(60))
    raw = copy_of(mail(("Subject", " x\r\n"), to=to), GivenId("new@x", replaces=False), NOW)
    assert max(map(len, raw.split(b"\r\n"))) < 998
    parsed = email.message_from_bytes(raw, policy=SMTP)
    assert parsed["Message-ID"] == "<new@x>"
    assert parsed["Date"].datetime == NOW
    assert [each.addr_spec for each in parsed["Bcc"].addresses] == list(to)
    assert parsed["Subject"] == "x"


def test_a_broken_message_id_is_replaced_in_the_copy_as_it_is_in_the_mail() -> None:
    raw = copy_of(mail(("Message-Id", " \r\n")), GivenId("new@x", replaces=True), NOW)
    assert email.message_from_bytes(raw).get_all("Message-ID") == ["<new@x>"]
