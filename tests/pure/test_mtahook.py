"""Stalwart's question: only Stalwart may ask, nothing of the mail is lost in reading, no body crashes us."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.stalwart import mtahook

# Recorded from Stalwart 0.16.18.
SUBMISSION = b"""{"context":{"stage":"data","client":{"ip":"127.0.0.1","port":38678,"ptr":null,
"helo":"c.test","activeConnections":1},"sasl":{"login":"agent@agents.test"},"tls":{"version":"TLSv1.3",
"cipher":"TLS13_AES_256_GCM_SHA384"},"server":{"name":"Stalwart v0.16.18","port":30132,"ip":"127.0.0.1"},
"queue":{"id":"4be2d6fd0c00000"},"protocol":{"version":1}},"envelope":{"from":{"address":"agent@agents.test"},
"to":[{"address":"bob@agents.test"}]},"message":{"headers":[["Subject"," hi\\r\\n there\\r\\n"],
["MESSAGE-ID","  <Abc@x>\\r\\n"]],"contents":"Hello\\r\\n.dot\\r\\n","size":59}}"""


def asked(**message: Any) -> bytes:
    fields: dict[str, Any] = {"headers": [], "contents": "", "size": 2, **message}
    return msgspec.json.encode({"context": {"stage": "data"}, "message": fields})


def test_a_recorded_question_is_read() -> None:
    question = mtahook.decode(SUBMISSION)
    assert (question.stage, question.login) == ("data", "agent@agents.test")
    assert question.queue_id == 0x4BE2D6FD0C00000
    assert (question.sender, question.recipients) == ("agent@agents.test", ("bob@agents.test",))
    assert question.headers == (("Subject", " hi\r\n there\r\n"), ("MESSAGE-ID", "  <Abc@x>\r\n"))
    assert question.body == b"Hello\r\n.dot\r\n"
    assert question.exact


def test_a_question_before_the_mail_is_there_is_read() -> None:
    """Other stages ask about less."""
    question = mtahook.decode(b'{"context":{"stage":"rcpt"},"envelope":{"from":{"address":""}}}')
    assert question == mtahook.Question(stage="rcpt", sender="")


@given(st.text())
def test_every_text_comes_through(text: str) -> None:
    content = text.encode("utf-8", "replace").decode()
    question = mtahook.decode(asked(contents=content, size=2 + len(content.encode())))
    assert question.body == content.encode()
    assert question.exact


@given(st.binary(), st.binary())
def test_bytes_that_are_no_utf8_are_noticed(subject: bytes, body: bytes) -> None:
    """Stalwart replaces each by U+FFFD before we see it: the copy would be wrong and nobody would say so."""
    shown = [subject.decode(errors="replace"), body.decode(errors="replace")]
    size = len(b"S:") + len(subject) + 2 + len(body)
    question = mtahook.decode(asked(headers=[["S", shown[0]]], contents=shown[1], size=size))
    lost = shown[0].encode() != subject or shown[1].encode() != body
    assert question.exact != lost


def test_lines_among_the_headers_that_are_none_harm_nothing() -> None:
    """Stalwart leaves them out, so that sizes differ."""
    assert mtahook.decode(asked(headers=[["S", " x\r\n"]], contents="Grüße", size=500)).exact


@given(st.binary())
def test_what_is_no_question_is_refused_and_no_crash(body: bytes) -> None:
    with contextlib.suppress(mtahook.BadQuestion):
        assert mtahook.decode(body).stage


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"context":{"stage":"else"}}',
        b'{"context":{"stage":"data","queue":{"id":"x"}}}',
        b"[" * 5000,
    ],
)
def test_a_body_that_is_no_question_is_named_and_never_quoted(body: bytes) -> None:
    with pytest.raises(mtahook.BadQuestion, match=r"^not a question of Stalwart's \(\w+\)$"):
        mtahook.decode(body)


@given(st.text(min_size=1), st.text())
def test_only_the_token_opens(secret: str, guess: str) -> None:
    assert mtahook.is_ours(f"Bearer {mtahook.token(secret)}", secret)
    assert not mtahook.is_ours(guess, secret)
    assert not mtahook.is_ours(None, secret)


def test_the_token_does_not_tell_the_key_of_the_webhook() -> None:
    """It travels with every question; who reads it could sign bells."""
    assert "secret" not in mtahook.token("secret")
    assert mtahook.token("secret") != mtahook.token("secret2")


def test_the_comparison_takes_the_same_time_for_every_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr("agentmail_cp.stalwart.mtahook.hmac.compare_digest", compare)
    assert not mtahook.is_ours(f"Bearer {mtahook.token('s')}", "s")
    assert len(compared) == 1


def test_answers_are_spelt_as_stalwart_reads_them() -> None:
    header = {"name": "Message-ID", "value": "<a@b>"}
    assert msgspec.json.decode(mtahook.accept()) == {"action": "accept", "modifications": []}
    assert msgspec.json.decode(mtahook.accept("a@b"))["modifications"] == [
        {"type": "addHeader", **header}
    ]
    assert msgspec.json.decode(mtahook.accept("a@b", replaces=True))["modifications"] == [
        {"type": "changeHeader", "index": 1, **header}
    ]


def test_the_hook_is_asked_where_the_service_is() -> None:
    hook = mtahook.hook_at("http://api:8000/", "secret")
    assert hook.url == "http://api:8000/stalwart/hook"
    assert hook.queued_url == "http://api:8000/stalwart/queued"
    assert hook.token == mtahook.token("secret")


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@given(
    st.text(),
    st.text() | st.sampled_from(['],"contents":"', '"],"contents":"', '\\],"contents":"\\']),
    st.integers(1, 40),
)
async def test_the_head_of_a_question_is_read_in_whatever_pieces_it_comes(
    subject: str, body: str, size: int
) -> None:
    """A mail that spells how its own body begins must not get another Message-ID."""
    whole = asked(headers=[["Subject", subject + body], ["Message-ID", "<a@b>"]], contents=body)
    question = await mtahook.read_head(in_pieces(whole, size))
    assert question.headers == mtahook.decode(whole).headers
    assert question.body == b""


async def test_nothing_is_read_after_the_head() -> None:
    """A mail of 25 MB would else be received once more for each send."""
    pieces = in_pieces(asked(contents="x" * 100_000), 1_000)
    await mtahook.read_head(pieces)
    assert len([piece async for piece in pieces]) > 95


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * (mtahook.LARGEST_HEAD * 2)])
async def test_a_head_without_a_mail_is_refused(body: bytes) -> None:
    with pytest.raises(mtahook.BadQuestion):
        await mtahook.read_head(in_pieces(body, 65_536))
