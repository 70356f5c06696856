"""Outgoing mail: headers are right, threads hold together, and nothing smuggles a header in."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import compose
from agentmail_cp.compose import SendMessage, Stamp, compose_send, parse_message_ids, reply_headers
from agentmail_cp.errors import Invalid, Unprocessable
from agentmail_cp.mailserver import Address, OutgoingEmail

NOW = datetime(2026, 11, 21, 8, 15, tzinfo=UTC)
SENDER = Address("agent@example.com", "Agent")
ADA = Address("ada@example.com", "Ada")
BOB = Address("bob@example.org")

ID = st.text("abc019.$+@-", min_size=1, max_size=60)
IDS = st.lists(ID, max_size=40)


def composed(message: SendMessage, sender: Address = SENDER) -> OutgoingEmail:
    return compose_send(message, Stamp(sender, "m1@example.com", NOW))


def width(ids: tuple[str, ...]) -> int:
    return len(" ".join(f"<{each}>" for each in ids))


def test_a_whole_mail() -> None:
    message = SendMessage(
        to=(ADA,),
        cc=(BOB,),
        bcc=(Address("eve@example.net"),),
        reply_to=(BOB,),
        subject="Grüße",
        text="hi",
        html="<p>hi</p>",
        headers={"X-Campaign": "q3"},
        labels=("sent", "Important", "needs reply"),
    )
    assert composed(message) == OutgoingEmail(
        message_id="m1@example.com",
        date=NOW,
        sender=SENDER,
        to=(ADA,),
        cc=(BOB,),
        bcc=(Address("eve@example.net"),),
        reply_to=(BOB,),
        subject="Grüße",
        text="hi",
        html="<p>hi</p>",
        headers=(("X-Campaign", "q3"),),
        keywords=frozenset({"$sent", "$important", "needs=20reply"}),
        recipients=("ada@example.com", "bob@example.org", "eve@example.net"),
    )


def test_everybody_gets_one_copy() -> None:
    """Twice is once, whatever the case of the domain; the local part may tell mailboxes apart."""
    message = SendMessage(
        to=(ADA, BOB), cc=(Address("ada@EXAMPLE.com"),), bcc=(BOB, Address("Bob@example.org"))
    )
    assert composed(message).recipients == ("ada@example.com", "bob@example.org", "Bob@example.org")


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=50), st.integers(0, 50))
def test_recipients_are_distinct_and_in_order(names: list[str], cut: int) -> None:
    everyone = tuple(Address(f"{name}@example.com") for name in names)
    email = composed(SendMessage(to=everyone[:cut], bcc=everyone[cut:]))
    assert email.recipients == tuple(dict.fromkeys(each.email for each in everyone))


def test_a_mail_to_nobody_is_unprocessable() -> None:
    with pytest.raises(Unprocessable) as caught:
        composed(SendMessage(reply_to=(ADA,)))
    assert caught.value.field == "to"


def test_too_many_recipients() -> None:
    many = tuple(Address(f"a{number}@example.com") for number in range(26))
    assert len(composed(SendMessage(to=many[:25], cc=many[:25])).recipients) == 25
    with pytest.raises(Invalid) as caught:
        composed(SendMessage(to=many, cc=many[:25]))
    assert caught.value.detail == "TOO_MANY_RECIPIENTS"


def injected(text: str) -> dict[str, tuple[SendMessage, Address]]:
    """Messages with `text` in every place that ends in a header, by the field at fault."""
    bad = Address("ada@example.com", text)
    return {
        "subject": (SendMessage(to=(ADA,), subject=text), SENDER),
        "to": (SendMessage(to=(bad,)), SENDER),
        "cc": (SendMessage(cc=(bad,)), SENDER),
        "bcc": (SendMessage(bcc=(Address(text),)), SENDER),
        "reply_to": (SendMessage(to=(ADA,), reply_to=(bad,)), SENDER),
        "display_name": (SendMessage(to=(ADA,)), Address("agent@example.com", text)),
        "headers.X-Foo": (SendMessage(to=(ADA,), headers={"X-Foo": text}), SENDER),
        "headers.References": (SendMessage(to=(ADA,), headers={"References": text}), SENDER),
        "headers": (SendMessage(to=(ADA,), headers={text: "x"}), SENDER),
    }


@given(st.text(), st.sampled_from(["\r\n", "\n", "\r", "\0"]), st.text())
def test_no_header_can_be_smuggled_in(before: str, bad: str, after: str) -> None:
    for field, (message, sender) in injected(f"{before}{bad}{after}").items():
        with pytest.raises(Invalid) as caught:
            composed(message, sender)
        assert caught.value.detail == "HEADER_INJECTION"
        assert caught.value.field == field


FIELD_NAME = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=90)


@given(FIELD_NAME | st.text(), st.text())
def test_any_header_is_taken_as_it_is_or_refused(name: str, value: str) -> None:
    """Half a header would be read as the beginning of the mail; a strange one must not be a 500."""
    try:
        email = composed(SendMessage(to=(ADA,), headers={name: value}))
    except Invalid:
        return
    ((kept, said),) = email.headers
    assert (kept, said) == (name, value.strip())
    assert re.fullmatch("[!-9;-~]{1,76}", kept), "RFC 5322, 3.6.8"
    assert said.splitlines() in ([], [said])


@pytest.mark.parametrize(
    "name",
    [
        "From",
        "to",
        "CC",
        "Bcc",
        "Sender",
        "Subject",
        "Date",
        "Message-ID",
        "MIME-Version",
        "Reply-To",
        "Content-Type",
        "content-transfer-encoding",
        "Received",
        "Return-Path",
        "DKIM-Signature",
        "Resent-From",
        "ARC-Seal",
        "Authentication-Results",
    ],
)
def test_headers_with_a_meaning_of_their_own_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        composed(SendMessage(to=(ADA,), headers={name: "x"}))
    assert caught.value.detail == "RESERVED_HEADER"
    assert caught.value.field == f"headers.{name}"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"X Foo": "x"}, "INVALID_HEADER_NAME"),
        ({"X-Foo:": "x"}, "INVALID_HEADER_NAME"),
        ({"": "x"}, "INVALID_HEADER_NAME"),
        ({"X-Föö": "x"}, "INVALID_HEADER_NAME"),
        ({"X-" + "a" * 100: "x"}, "HEADER_TOO_LONG"),
        ({"X-Foo": "é" * 500}, "HEADER_TOO_LONG"),
        ({f"X-{number}": "x" for number in range(51)}, "TOO_MANY_HEADERS"),
        ({"In-Reply-To": "yesterday's mail"}, "INVALID_MESSAGE_ID"),
    ],
)
def test_bad_headers_are_refused(headers: dict[str, str], detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        composed(SendMessage(to=(ADA,), headers=headers))
    assert caught.value.detail == detail


def test_a_header_of_998_bytes_passes() -> None:
    assert composed(SendMessage(to=(ADA,), headers={"X-Foo": "a" * 998})).headers


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (SendMessage(to=(ADA,), subject="x" * 999), "SUBJECT_TOO_LONG"),
        (SendMessage(to=(Address("a@b.c", "x" * 10_000),)), "NAME_TOO_LONG"),
    ],
)
def test_what_is_too_long_is_refused(message: SendMessage, detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        composed(message)
    assert caught.value.detail == detail


def test_threading_headers_of_the_caller_thread() -> None:
    email = composed(
        SendMessage(to=(ADA,), headers={"in-reply-to": "<b@x>", "References": "<a@x> <b@x>"})
    )
    assert email.in_reply_to == ("b@x",)
    assert email.references == ("a@x", "b@x")
    assert email.headers == ()


@given(ID, IDS)
def test_an_answer_names_its_parent_and_its_root(parent: str, references: list[str]) -> None:
    """A mail client finds the conversation by the last id, and by the first when ids were lost."""
    in_reply_to, found = reply_headers(parent, references)
    older = [each for each in dict.fromkeys(references) if each != parent]
    assert in_reply_to == (parent,)
    assert found[-1] == parent
    assert found[0] == [*older, parent][0]
    assert width(found) <= compose.MAX_REFERENCES
    assert found[1:] == tuple([*older, parent][len(older) + 2 - len(found) :])
    if width((*older, parent)) <= compose.MAX_REFERENCES:
        assert found == (*older, parent)


@given(st.text("a" * 1, min_size=890, max_size=2000), IDS)
def test_an_answer_to_a_monstrous_id_still_names_it(parent: str, references: list[str]) -> None:
    _, found = reply_headers(parent, references)
    assert found[-1] == parent
    assert width(found) <= max(compose.MAX_REFERENCES, len(parent) + 2)


@given(st.text(), st.lists(st.text()))
def test_no_id_of_a_stranger_breaks_a_header(parent: str, references: list[str]) -> None:
    in_reply_to, found = reply_headers(parent, references)
    assert not any(re.search(r"[\s\x00-\x1f<>]", each) for each in (*in_reply_to, *found))


@given(IDS)
def test_message_ids_are_read_from_any_layout(ids: list[str]) -> None:
    distinct = tuple(dict.fromkeys(ids))
    assert parse_message_ids(" ".join(f"<{each}>" for each in ids)) == distinct
    assert parse_message_ids(",\r\n\t".join(f"(x) <{each}>" for each in ids)) == distinct


@given(st.text())
def test_message_ids_are_read_from_rubbish(text: str) -> None:
    assert not any(set("<> \r\n") & set(each) or not each for each in parse_message_ids(text))


def test_message_ids_without_brackets_and_with_bad_folding() -> None:
    assert parse_message_ids("a@x, b@x") == ("a@x", "b@x")
    assert parse_message_ids("<long\r\n id@x>") == ("longid@x",)
    assert parse_message_ids("<>") == ()


@given(st.integers())
def test_message_ids_are_short_and_safe_in_a_path(seed: int) -> None:
    assert re.fullmatch(
        r"[a-z0-9]{16}@example\.com", compose.new_message_id("example.com", Random(seed))
    )


@given(st.dictionaries(st.text(), st.text() | st.none() | st.lists(st.text()), max_size=5))
def test_a_repeated_request_is_known_whatever_the_order_of_its_keys(
    body: dict[str, object],
) -> None:
    print_of = compose.fingerprint("inb_1", "messages.send", body)
    assert print_of == compose.fingerprint("inb_1", "messages.send", dict(reversed(body.items())))
    assert print_of != compose.fingerprint("inb_2", "messages.send", body)
    assert print_of != compose.fingerprint("inb_1", "messages.reply", body)
    assert print_of != compose.fingerprint("inb_1", "messages.send", {**body, "subject": 1})
    assert len(print_of) == 32


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_a_repeated_request_is_known_however_its_numbers_are_written(number: int) -> None:
    """An SDK that makes floats of all numbers would be told of a conflict."""
    as_int, as_float = (
        compose.fingerprint("", "", {"n": [each]}) for each in (number, float(number))
    )
    assert as_int == as_float
    assert as_int != compose.fingerprint("", "", {"n": [str(number)]})


@pytest.mark.parametrize("one", [0, 1, 0.5, 2**53, 2.0**60, 1e308, -0.0])
@pytest.mark.parametrize("other", [True, False, "1", None, 1.5, 2**53 - 1, 3])
def test_other_numbers_are_another_request(one: float, other: object) -> None:
    """The second of two requests would be swallowed."""
    assert compose.fingerprint("", "", [one]) != compose.fingerprint("", "", [other])


def test_a_file_is_known_by_its_bytes() -> None:
    """Megabytes of an attachment would be encoded a second time to compare them."""
    whole = compose.fingerprint("", "", {"content": b"%PDF" * 100})
    assert whole == compose.fingerprint("", "", {"content": b"%PDF" * 100})
    assert whole != compose.fingerprint("", "", {"content": b"%PDF" * 99})
