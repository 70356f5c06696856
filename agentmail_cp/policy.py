"""Policy: may this inbox send this to them now, may it receive that, and why not.

The one place that answers, whoever asks: `sending` does for mail and drafts of the API, in the transaction
that writes the mail's row, `submissions` for mail that a client hands in, and intake for mail that arrived.
It looks at pauses, at lists, at what was sent already (`limits`) and at the conversation (`loops`), and
knows nothing of requests. The order of reasons against a mail that leaves: its inbox may not send at all;
recipients that the lists refuse; what no waiting heals (`LimitExceeded`); what waiting does (`RateLimited`,
the one that takes longest). It leaves for all its recipients or for none. Owns no table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from agentmail_cp import access, addresses, authentication, limits, lists, loops, pauses, threads
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx
from agentmail_cp.errors import (
    AgentMailError,
    InboxPaused,
    Invalid,
    LimitExceeded,
    MessageRejected,
    RateLimited,
)
from agentmail_cp.filing import Arrival, Place
from agentmail_cp.limits import Charge, Limits, Standing
from agentmail_cp.lists import Verdict
from agentmail_cp.loops import Turn
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.messages import Kept
from agentmail_cp.settings import Unauthenticated
from agentmail_cp.threads import Recent

LOOKED_AT = 100
"""Messages of a conversation that are looked at: two times what the settings of `loops` may ask for."""

REFUSALS: Final = (InboxPaused, MessageRejected, LimitExceeded, RateLimited)
"""What `may_send` raises."""


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """A mail that is about to leave an inbox. `recipients` are bare addresses, `references` the Message-IDs
    it refers to, without brackets and the parent last. `answers_machine`: its parent is automatic.
    `judged` are recipients, in lower case, of which the lists were asked as they were written before.
    """

    place: Place
    recipients: tuple[str, ...]
    references: tuple[str, ...] = ()
    answers_machine: bool = False
    judged: frozenset[str] = frozenset()


async def may_send(tx: Tx, mail: Leaving, defaults: Limits) -> Charge:
    """What the mail is to be counted as. `defaults` hold where the organisation has no limits of its own.

    Raises `InboxPaused`, `MessageRejected`, `LimitExceeded` and `RateLimited`. Counts nothing: whoever writes
    the mail's row does, with `limits.COUNTING`.
    """
    place = mail.place
    await may_write_to(tx, place, mail.recipients, mail.judged)
    recent = await _recent(tx, mail)
    thread_id = recent[0].thread_id if recent else None
    recipients = tuple(sorted({each.lower() for each in mail.recipients}))
    standing = await limits.standing(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        thread_id=thread_id,
        recipients=recipients,
    )
    charge = Charge(
        recipients=recipients,
        cold=tuple(sorted(set(recipients) - set(_writers(recent)))),
        thread_id=thread_id,
        limits=limits.with_own(defaults, standing.own),
    )
    turns = [Turn(each.direction == "sent", each.timestamp) for each in recent]
    _raise_worst([*shortages(charge, standing), *_loops(mail, charge, turns, standing.now)])
    return charge


async def may_write_to(
    tx: Tx, place: Place, recipients: Sequence[str], judged: Collection[str] = ()
) -> None:
    """Ask only what does not depend on how much is sent. Raises `InboxPaused` and `MessageRejected`. Lists
    are about what was written: of those `judged` (in lower case) they were asked as that before.
    """
    await pauses.ensure_none(tx, place)
    whose = Reach(place.organization_id, place.pod_id, place.inbox_id)
    asked = [each for each in recipients if each.lower() not in judged]
    refused = lists.refusal(await lists.verdicts(tx, whose, "send", asked))
    if refused:
        raise MessageRejected(refused, fix="Leave them out, or change the lists.")


async def _recent(tx: Tx, mail: Leaving) -> list[Recent]:
    if not mail.references:
        return []
    return await threads.recent(
        tx,
        organization_id=mail.place.organization_id,
        inbox_id=mail.place.inbox_id,
        references=mail.references,
        most=LOOKED_AT,
    )


def _writers(recent: Iterable[Recent]) -> Iterator[str]:
    """Who wrote to the inbox in this conversation: to answer them is not to write to a stranger."""
    for sender in {each.sender for each in recent if each.direction == "received"}:
        with contextlib.suppress(Invalid):
            yield addresses.parse(sender, "to").email.lower()


async def received(
    tx: Tx, place: Place, arrived: Sequence[Arrival], *, unauthenticated: Unauthenticated = "label"
) -> Kept:
    """The labels that mails which just arrived get because of their senders, and which hide them: `blocked`
    where the lists refuse, `unauthenticated` where a mail is an explicit FAIL and the organisation, or else
    the setting `unauthenticated`, wants that to be seen. An answer to a mail of the inbox is judged by its
    `reply` lists alone, any other by its `receive` lists. Who cannot be told from From is refused where an
    allow list says who may write.
    """
    hidden = {
        "blocked": await _blocked(tx, place, arrived),
        "unauthenticated": await _failed(tx, place, arrived, unauthenticated),
    }
    return {
        each: frozenset(label for label, mails in hidden.items() if each in mails)
        for each in set[DocumentId]().union(*hidden.values())
    }


async def _failed(
    tx: Tx, place: Place, arrived: Sequence[Arrival], default: Unauthenticated
) -> set[DocumentId]:
    failed = {each.document_id for each in arrived if authentication.is_fail(each.authentication)}
    if failed and await on_unauthenticated(tx, place, default) == "none":
        return set()
    return failed


async def on_unauthenticated(tx: Tx, place: Place, default: Unauthenticated) -> Unauthenticated:
    """What is done with mail to an inbox that is an explicit FAIL. What is to be erased (`drop`) and is
    there all the same is labelled.
    """
    return await access.on_unauthenticated(tx, place.organization_id) or default


async def _blocked(tx: Tx, place: Place, arrived: Sequence[Arrival]) -> set[DocumentId]:
    whose = Reach(place.organization_id, place.pod_id, place.inbox_id)
    asked: dict[DocumentId, lists.Question] = {
        each.document_id: ("reply" if each.answers else "receive", each.sender) for each in arrived
    }
    said = await lists.judge(tx, whose, set(asked.values()))
    return {each for each, question in asked.items() if said[question] is not Verdict.ALLOWED}


class _Rule(msgspec.Struct, frozen=True):
    """A limit on what is counted as `kind`: its setting, how it is put, and the span of its windows."""

    kind: str
    name: str
    text: str
    noun: str
    span: timedelta


_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_RULES: Final = (
    _Rule(
        "organization",
        "sends_per_day",
        "This organization may send to {} a day",
        "recipient",
        _DAY,
    ),
    _Rule(
        "inbox",
        "inbox_sends_per_day",
        "This inbox may send to {} a day",
        "recipient",
        _DAY,
    ),
    _Rule(
        "new_recipients",
        "inbox_new_recipients_per_day",
        "This inbox may write to {} a day",
        "new recipient",
        _DAY,
    ),
    _Rule(
        "thread",
        "thread_sends_per_hour",
        "This inbox may send {} an hour into one thread",
        "message",
        _HOUR,
    ),
)


def shortages(charge: Charge, standing: Standing) -> Iterator[AgentMailError]:
    """Every count that has no room for the mail. Pure."""
    everyone = len(charge.recipients)
    amounts = {
        "organization": everyone,
        "inbox": everyone,
        "new_recipients": len(set(charge.cold) & set(standing.strangers)),
        "thread": 1 if charge.thread_id else 0,
    }
    for rule in _RULES:
        most: int = getattr(charge.limits, rule.name)
        if most:
            used = standing.used.get(rule.kind, 0)
            yield from _shortage(rule, most, used, amounts[rule.kind], standing.now)


def _shortage(
    rule: _Rule, most: int, used: int, amount: int, now: datetime
) -> Iterator[AgentMailError]:
    said = rule.text.format(_some(most, rule.noun))
    left = max(0, most - used)
    ask = f"ask the operator of this server to raise {rule.name}."
    if amount > most:
        yield LimitExceeded(
            f"{said}; this message has {amount}.",
            fix=f"Send several messages to {most} or fewer each, or {ask}",
        )
    elif amount > left:
        retry_at = window_end(now, rule.span)
        yield RateLimited(
            f"{said}; {left} of them left until {_shown(retry_at)}, and this message takes {amount}.",
            retry_at=retry_at,
            fix=f"Wait until {_shown(retry_at)}, or {ask}",
        )


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def window_end(now: datetime, span: timedelta) -> datetime:
    """When the window of time that `now` is in ends: at midnight UTC, or at the full hour. Pure."""
    start = datetime.min.replace(tzinfo=UTC)
    return now + span - (now - start) % span


def _loops(
    mail: Leaving, charge: Charge, turns: Sequence[Turn], now: datetime
) -> Iterator[AgentMailError]:
    """What says that two machines are answering each other."""
    most, pace = charge.limits.loop_automatic_replies, charge.limits.loop_pace
    enough = loops.answered_enough(turns, now, most) if mail.answers_machine else None
    if enough:
        yield RateLimited(
            "This answers an automatic message, and this inbox has sent"
            f" {most} messages into the thread within an hour: two machines seem to answer each other.",
            retry_at=enough,
            fix="Answer no automatic messages (Auto-Submitted, RFC 3834). The operator of this server"
            " can change loop_automatic_replies.",
        )
    most = charge.limits.loop_turns
    pause = loops.too_fast(turns, now, most, timedelta(seconds=pace))
    if pause:
        yield RateLimited(
            f"This thread went back and forth {most} times without a pause of {pace} seconds: two"
            " machines seem to answer each other.",
            retry_at=pause,
            fix=f"Wait until {_shown(pause)}. The operator of this server can change loop_turns and"
            " loop_pace.",
        )


def _raise_worst(obstacles: Sequence[AgentMailError]) -> None:
    """Raise what stands in the way for good, else what does for longest."""
    waits = [each for each in obstacles if isinstance(each, RateLimited)]
    for each in obstacles:
        if not isinstance(each, RateLimited):
            raise each
    if waits:
        raise max(waits, key=lambda each: each.retry_at)


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
