"""The doorbell: nobody else can ring it, and a batch never loses a mailbox."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.stalwart import hooks, ids

# Recorded from Stalwart 0.16.18.
HAM = b"""{"events":[{"id":"179522685323283","createdAt":"2026-11-21T02:07:33Z","type":"message-ingest.ham",
"data":{"spanId":341724319981767168,"accountId":4,"documentId":3,"mailboxId":[0],"blobId":"9c8e","changeId":4,
"messageId":"m22@corp.test","size":1083,"elapsed":1,"queueId":341724319889492480,"queueName":"local",
"from":"alice@corp.test","to":["bob@corp.test"],"total":1}}]}"""
STORE = b"""{"events":[{"id":"1","createdAt":"2026-11-21T02:07:33Z","type":"imap.store","data":{"accountId":3,
"mailboxId":0,"documentId":[1],"type":"Add","details":["Seen","Keyword(\\"mylabel\\")"]}}]}"""
RING = b"""{"events":[{"id":"2","createdAt":"2026-11-21T02:07:34Z","type":"jmap.unknown-method",
"data":{"id":"Bell/ring"}}]}"""


def sign(body: bytes, secret: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def is_signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Whether this is taken for the signature of a body that arrives in two pieces."""
    seal = hooks.Seal(secret)
    seal.update(body[:3])
    seal.update(body[3:])
    return seal.matches(signature)


@given(st.binary(), st.text(min_size=1))
def test_a_signed_batch_is_let_in(body: bytes, secret: str) -> None:
    assert is_signed(body, sign(body, secret), secret)


@given(st.binary(), st.text(min_size=1), st.text(min_size=1))
def test_another_secret_does_not_open(body: bytes, secret: str, other: str) -> None:
    # HMAC pads keys with zero bytes (RFC 2104): such twins are the same key.
    same = secret.encode().rstrip(b"\0") == other.encode().rstrip(b"\0")
    assert is_signed(body, sign(body, other), secret) == same


@given(st.binary(min_size=1), st.data())
def test_a_changed_body_is_noticed(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    assert not is_signed(changed, sign(body, "secret"), "secret")


@given(st.one_of(st.none(), st.text()))
def test_a_strange_signature_is_refused_and_no_crash(signature: str | None) -> None:
    expected = signature == sign(b"body", "secret")
    assert is_signed(b"body", signature, "secret") == expected


def test_the_comparison_takes_the_same_time_for_every_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison that stops at the first difference would let the signature be guessed."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr("agentmail_cp.stalwart.hooks.hmac.compare_digest", compare)
    assert not is_signed(b"body", sign(b"body", "secret"), "secret")
    assert len(compared) == 1


@pytest.mark.parametrize(
    ("body", "accounts", "only_ring"),
    [(HAM, {"e"}, False), (STORE, {"d"}, False), (RING, set[str](), True)],
)
def test_recorded_batches_say_whose_mailbox_changed(
    body: bytes, accounts: set[str], only_ring: bool
) -> None:
    bell = hooks.decode(body)
    assert (bell.accounts, bell.only_ring, bell.reports) == (accounts, only_ring, ())


def test_an_empty_batch_is_no_ring() -> None:
    """Else the ringing would stop while Stalwart still holds events back."""
    assert hooks.decode(b'{"events":[]}') == hooks.Bell()


def test_a_move_between_accounts_rings_for_both() -> None:
    event = {"type": "imap.move", "data": {"accountId": 3, "source": 4, "sourceId": [1]}}
    bell = hooks.decode(msgspec.json.encode({"events": [event]}))
    assert bell.accounts == {"d", "e"}


@pytest.mark.parametrize(
    ("details", "rings"),
    [
        (["Flags"], False),
        (["Envelope", "BodySection { peek: true, sections: [], partial: None }"], False),
        (["Rfc822Header"], False),
        (None, False),
        (["Uid", "BodySection { peek: false, sections: [Text], partial: None }"], True),
        (["Binary { peek: false, sections: [1], partial: None }"], True),
        (["Rfc822"], True),
        (["Flags", "Rfc822Text"], True),
    ],
)
def test_a_fetch_rings_only_when_it_marks_mail_read(
    details: list[str] | None, *, rings: bool
) -> None:
    """Mail clients look at folders all the time; reading one mail must remove `unread`."""
    event = {"type": "imap.fetch", "data": {"accountId": 3, "details": details}}
    bell = hooks.decode(msgspec.json.encode({"events": [event]}))
    assert bool(bell.accounts) == rings
    assert not bell.only_ring


@given(st.lists(st.integers(0, 2**32 - 1)), st.lists(st.sampled_from(["auth.success", "x.y"])))
def test_no_account_is_lost_among_foreign_events(numbers: list[int], others: list[str]) -> None:
    events: list[dict[str, Any]] = [
        {"type": "message-ingest.ham", "data": {"accountId": number}} for number in numbers
    ]
    events += [{"type": name, "data": {"reason": [1, {}]}} for name in others]
    bell = hooks.decode(msgspec.json.encode({"events": events}))
    assert bell.accounts == {ids.encode(number) for number in numbers}
    assert not bell.only_ring


@given(st.binary())
def test_what_is_no_batch_is_refused_and_no_crash(body: bytes) -> None:
    with contextlib.suppress(hooks.BadBell):
        assert isinstance(hooks.decode(body), hooks.Bell)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"events":[{}]}', b'{"events":["\xff"]}'])
def test_a_body_that_is_no_batch_is_named(body: bytes) -> None:
    with pytest.raises(hooks.BadBell, match="not a batch of events"):
        hooks.decode(body)
