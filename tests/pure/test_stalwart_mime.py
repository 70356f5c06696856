"""What we hand to Stalwart to build a mail from, and what we make of the headers it hands back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email import policy
from email.parser import BytesParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.mailserver import Address, BlobId, OutgoingAttachment, OutgoingEmail
from agentmail_cp.stalwart.mime import email_properties, header_text

EMAIL = OutgoingEmail(
    message_id="m1@agents.test",
    date=datetime(2026, 11, 21, 6, 30, tzinfo=timezone(timedelta(hours=2))),
    sender=Address("ada@agents.test"),
    to=(Address("bob@agents.test"),),
    subject="Hello",
    text="Hi",
    recipients=("bob@agents.test",),
)
PDF = OutgoingAttachment(BlobId("blob1"), "application/pdf", "a.pdf")
LOGO = OutgoingAttachment(BlobId("blob2"), "image/png", "logo.png", "logo@x", inline=True)

Part = dict[str, Any]


def properties(**changes: Any) -> dict[str, Any]:
    return email_properties(msgspec.structs.replace(EMAIL, **changes))


def tree(part: Part) -> object:
    """The structure as nested lists of types."""
    if "subParts" not in part:
        return part["type"]
    return [part["type"].removeprefix("multipart/"), *map(tree, part["subParts"])]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({}, "text/plain"),
        ({"text": None, "html": "<p>"}, "text/html"),
        ({"text": None}, "text/plain"),
        ({"html": "<p>"}, ["alternative", "text/plain", "text/html"]),
        ({"attachments": (PDF,)}, ["mixed", "text/plain", "application/pdf"]),
        ({"attachments": (LOGO,)}, ["mixed", "text/plain", "image/png"]),
        (
            {"html": "<p>", "attachments": (PDF, LOGO)},
            [
                "mixed",
                ["alternative", "text/plain", ["related", "text/html", "image/png"]],
                "application/pdf",
            ],
        ),
        (
            {"text": None, "html": "<p>", "attachments": (LOGO,)},
            ["related", "text/html", "image/png"],
        ),
    ],
)
def test_every_mix_of_bodies_and_attachments_has_the_usual_shape(
    content: dict[str, Any], wanted: object
) -> None:
    assert tree(properties(**content)["bodyStructure"]) == wanted


def test_bodies_travel_as_they_are() -> None:
    made = properties(text="a\n\n b  \n", html="<p>\n")
    assert made["bodyValues"] == {"text": {"value": "a\n\n b  \n"}, "html": {"value": "<p>\n"}}


def test_the_copy_is_as_old_as_the_mail() -> None:
    made = properties()
    assert made["sentAt"] == made["receivedAt"] == "2026-11-21T04:30:00Z"
    assert EMAIL.date.astimezone(UTC).hour == 4


def test_ids_are_structured_so_that_nothing_folds_inside_one() -> None:
    made = properties(in_reply_to=("a@x",), references=("a@x", "b" * 200 + "@x"))
    assert made["messageId"] == ["m1@agents.test"]
    assert made["inReplyTo"] == ["a@x"]
    assert made["references"] == ["a@x", "b" * 200 + "@x"]


def test_plain_names_are_left_to_stalwart() -> None:
    made = properties(sender=Address("a@x.test", 'Ada "the" Agent, Inc.'))
    assert made["from"] == [{"name": 'Ada "the" Agent, Inc.', "email": "a@x.test"}]


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=300
)


@given(st.lists(names, min_size=1, max_size=4))
def test_any_name_is_read_back_by_a_strict_reader(given_names: list[str]) -> None:
    """Stalwart's own spelling of these puts encoded words into quotes, which this reader shows raw."""
    people = tuple(Address(f"a{n}@x.test", name) for n, name in enumerate(given_names))
    raw = properties(to=people).get("header:To:asRaw")
    if raw is None:
        return
    assert raw.isascii()
    message = BytesParser(policy=policy.default).parsebytes(f"To: {raw}\r\n\r\n".encode())
    read = message["To"].addresses
    assert [each.addr_spec for each in read] == [each.email for each in people]
    # Python 3.11 leaves blanks between encoded words that RFC 2047 section 6.2 takes out.
    assert ["".join(each.display_name.split()) for each in read] == [
        "".join(name.split()) for name in given_names
    ]


@given(names)
def test_any_header_text_is_read_back(text: str) -> None:
    (values,) = (
        value
        for key, value in properties(headers=(("X-Note", text),)).items()
        if key == "header:X-Note:asRaw:all"
    )
    if text.isascii():
        assert values == [text]
    else:
        assert values[0].isascii()
        assert " ".join(header_text(values[0]).split()) == " ".join(text.split())


def test_a_structured_header_is_not_encoded_however_long() -> None:
    value = f"<https://example.org/{'u' * 200}>"
    assert properties(headers=(("List-Unsubscribe", value),))[
        "header:List-Unsubscribe:asRaw:all"
    ] == [value]


def test_a_header_given_twice_stays_two_headers_in_order() -> None:
    made = properties(headers=(("X-A", "1"), ("X-B", "x"), ("x-a", "2")))
    assert made["header:X-A:asRaw:all"] == ["1", "2"]


def test_an_odd_file_name_is_spelled_by_rfc_2231() -> None:
    attachment = OutgoingAttachment(BlobId("b"), "text/plain", 'Übersicht; "x".txt')
    part = properties(attachments=(attachment,))["bodyStructure"]["subParts"][1]
    message = BytesParser(policy=policy.default).parsebytes(
        f"Content-Disposition: {part['header:Content-Disposition:asRaw']}\r\n\r\n".encode()
    )
    assert message.get_filename() == 'Übersicht; "x".txt'
    assert "name" not in part


def test_an_inline_picture_keeps_its_content_id() -> None:
    part = properties(html="<p>", attachments=(LOGO,))["bodyStructure"]["subParts"][1]["subParts"][
        1
    ]
    assert part["cid"] == "logo@x"
    assert part["disposition"] == "inline"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (" plain", "plain"),
        (" a\r\n\tb\r\n  c", "a b c"),
        (" =?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        (" =?iso-8859-1?Q?a=E4?= =?utf-8?q?=C3=A4?= raw", "aää raw"),
        (" =?utf-8?B?R3LD?=\r\n\t=?utf-8?B?vMOfZQ==?=", "Grüße"),
        (' "=?utf-8?q?J=C3=B6rg?=" <j@x.test>', '"Jörg" <j@x.test>'),
        (" =?utf-8*de?q?J=C3=B6rg?=", "Jörg"),
        (" =?no-such-charset?q?J=C3=B6rg?=", "Jörg"),
        (" =?utf-8?B?abcde?=", "=?utf-8?B?abcde?="),
        (" =?utf-8?q?=FF?=", "\ufffd"),
        (" \\u0041 =?utf-8?q?=C3=A4?=", "\\u0041 ä"),
    ],
)
def test_headers_are_unfolded_and_decoded(raw: str, text: str) -> None:
    assert header_text(raw) == text


@given(st.text())
def test_no_header_can_break_the_reader(raw: str) -> None:
    assert isinstance(header_text(raw), str)


@given(st.text("=?utf-8BqQ_ \r\n\tAa\u00e4+/"))
def test_no_broken_encoded_word_can_break_the_reader(raw: str) -> None:
    assert isinstance(header_text(raw), str)
