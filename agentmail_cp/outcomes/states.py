"""PURE: where a message stands at one recipient, what news changes that, and what follows from it.

A recipient moves on in one direction only, along `ORDER`, so that news that is repeated, comes in any order
or is lost in part ends in the same place, and each is told once at most. One that was refused when the mail
was handed in stays so: nothing left for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

import msgspec

from agentmail_cp import addresses, filing
from agentmail_cp.recipients import Standing, Status

Outcome = Literal["delayed", "unknown", "delivered", "failed", "complained"]
"""What can be said of a mail that is on its way. `unknown`: it left the queue, and nobody says where to."""

ORDER: Final[tuple[Status, ...]] = (
    "queued",
    "delayed",
    "unknown",
    "delivered",
    "bounced",
    "complained",
)
"""A mail that was taken may still come back, and only one that arrived is complained about."""

_BECOMES: Final[dict[Outcome, Status]] = {
    "delayed": "delayed",
    "unknown": "unknown",
    "delivered": "delivered",
    "failed": "bounced",
    "complained": "complained",
}

LABELS: Final = frozenset({"delivered", "bounced", "complained", "delayed", "rejected"})
"""The states that are labels of the message as well."""

LONGEST_DIAGNOSTIC: Final = 500
"""Characters kept of what a mail server said."""


def shortened(text: str) -> str:
    """What a mail server said, on one line and not too long of it."""
    return " ".join(addresses.tame(filing.clean(text)).split())[:LONGEST_DIAGNOSTIC]


class News(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody says what became of a message at one recipient. `code` is an enhanced status code or an
    SMTP reply code, of a complaint its kind; `by_mail` says that anybody may have written it.
    """

    message_id: str
    address: str | None
    outcome: Outcome
    code: str | None = None
    diagnostic: str | None = None
    by_mail: bool = False


class Step(msgspec.Struct, frozen=True):
    """A recipient moves on: from which state to where it stands now, and what said so."""

    before: Status
    now: Standing
    news: News


def steps(standings: Iterable[Standing], news: Iterable[News]) -> list[Step]:
    """What this news changes, in order, for the recipients of one message. News of nobody it went to
    changes nothing.
    """
    at = {each.address: each for each in standings}
    taken: list[Step] = []
    for each in news:
        address = whom(at, each.address)
        standing = at.get(address) if address else None
        if standing is None or not _is_ahead(_BECOMES[each.outcome], standing.status):
            continue
        now = Standing(
            message_id=standing.message_id,
            address=standing.address,
            status=_BECOMES[each.outcome],
            code=each.code,
            diagnostic=each.diagnostic,
        )
        taken.append(Step(standing.status, now, each))
        at[now.address] = now
    return taken


def _is_ahead(new: Status, old: Status) -> bool:
    return old in ORDER and ORDER.index(new) > ORDER.index(old)


def whom(recipients: Collection[str], address: str | None) -> str | None:
    """Which of a message's recipients an address stands for: itself, the one it is without a tag
    (`bob+tag@…`), or else the only one there is, whose mail may have been passed on or caught by a
    catch-all.
    """
    if address is not None:
        spelt = address.lower()
        if spelt in recipients:
            return spelt
        alike = [each for each in recipients if untagged(each) == untagged(spelt)]
        if len(alike) == 1:
            return alike[0]
    return next(iter(recipients)) if len(recipients) == 1 else None


def untagged(address: str) -> str:
    """The address without a tag: `bob@…` of `bob+tag@…`."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def labels_after(standings: Iterable[Standing], taken: Sequence[Step]) -> tuple[set[str], set[str]]:
    """The labels a message gets and those it loses. Only `delayed` is ever lost, once nobody waits."""
    now = {each.address: each.status for each in standings}
    now |= {step.now.address: step.now.status for step in taken}
    gained = {str(step.now.status) for step in taken} & LABELS
    if "delayed" not in now.values():
        return gained - {"delayed"}, {"delayed"}
    return gained, set()


COMPLAINTS: Final = frozenset({"abuse", "fraud", "virus", "opt-out", "opt-out-list", "other"})
"""Kinds of feedback that complain (RFC 5965); `not-spam` is praise, and `auth-failure` (RFC 6591) is about
signatures.
"""

Kind = Literal["Permanent", "Transient"]

_CODE = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")
_REPLY = re.compile(r"(?<!\d)([245])\d\d(?!\d)")

_NO_SUCH_ADDRESS: Final = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10", "2.1"})
"""RFC 3463 and 7505: no such mailbox, no such domain, no valid address, moved away, takes no mail at all,
closed. Stalwart 0.16 says 5.1.2 of a mailbox that does not exist.
"""

_SUB_TYPES: Final = {
    **dict.fromkeys(_NO_SUCH_ADDRESS, "NoEmail"),
    "2.2": "MailboxFull",
    "2.3": "MessageTooLarge",
    "3.4": "MessageTooLarge",
    "6.0": "ContentRejected",
    "6.1": "ContentRejected",
    "7.7": "ContentRejected",
}


class Bounce(msgspec.Struct, frozen=True):
    """How a bounce is put, in the words of the contract."""

    type: Kind
    sub_type: str


def bounce(code: str | None) -> Bounce:
    """What kind of bounce this is. Transient: a later mail may arrive, since the code says so, or the
    mailbox is only full. Without a code the mail server gave up, which says nothing about later ones,
    and is Permanent all the same: this mail will not arrive.
    """
    found = _CODE.search(code or "")
    if found is None:
        reply = _REPLY.search(code or "")
        return Bounce("Transient" if reply and reply[1] == "4" else "Permanent", "General")
    detail = f"{found[2]}.{found[3]}"
    sub_type = _SUB_TYPES.get(detail, "General")
    transient = found[1] == "4" or sub_type == "MailboxFull"
    if transient and sub_type == "NoEmail":
        sub_type = "General"
    return Bounce("Transient" if transient else "Permanent", sub_type)


def is_dead(code: str | None) -> bool:
    """Whether a refusal with this code says that the address is none, so that nothing should be sent to it
    again. Not a bare 550, which is as often a policy, and nothing about content or reputation.
    """
    found = _CODE.search(code or "")
    return found is not None and found[1] == "5" and f"{found[2]}.{found[3]}" in _NO_SUCH_ADDRESS


def enhanced(text: str | None) -> str | None:
    """The status code in what a mail server said: the enhanced one if there is one, else its reply code."""
    if found := _CODE.search(text or ""):
        return found[0]
    reply = _REPLY.search(text or "")
    return reply[0] if reply else None


def is_believed(news: News, recipients: int, *, quoted: bool) -> bool:
    """Whether an address may be suppressed on this news alone. What comes by mail anybody may have written
    who has seen the message's id: its recipients, and whoever was sent an answer that quotes it. So it is
    believed of a message to one recipient that no other message here refers to.
    """
    return not news.by_mail or (recipients == 1 and not quoted)
