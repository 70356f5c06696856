"""What the findings of a check mean for the domain, and when it is checked again. Pure.

A domain is `complete` when every required record is VALID. One that works is broken only after checks have
failed again and again for an hour: name servers are changed, and records with them, by people who make
mistakes. It is judged by the records it has worked by: one that is wanted since somebody changed the domain,
and was never there, breaks nothing. A check in which nobody answered says nothing. The longer a domain has
waited for its records, the longer it waits for the next look; whoever asks for one gets it soon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from agentmail_cp.domains.judging import Finding, carried
from agentmail_cp.domains.records import Record

FAILED_CHECKS: Final = 4
"""So many in a row, and over so long a time, before a domain that works is broken."""
FAILING_FOR: Final = timedelta(hours=1)

SOONEST: Final = timedelta(minutes=1)
LATEST: Final = timedelta(days=1)
WHILE_IT_WORKS: Final = timedelta(hours=4)
WHILE_FAILING: Final = timedelta(minutes=15)
UNANSWERED: Final = timedelta(minutes=5)
UNTOLD: Final = timedelta(seconds=20)
"""When the records are right, and the mail server has yet to be told."""
_WRONG: Final = frozenset({"MISSING", "INVALID"})
_SHARE: Final = 0.1
"""Of the time that a domain has waited, the part after which it is looked at again."""
_JITTER: Final = 0.2

NOT_FREE: Final = Finding(
    status="INVALID",
    reason="The record is right, but another organization has verified this domain, or one above it and"
    " has inboxes on this one or takes all sub-domains. If both are yours, delete the domain or those inboxes"
    " there; if not, ask the operator of this server.",
)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known after a check. `findings` are those of every record; `complete` that all required ones
    are VALID, `failed` that one of them was seen not to be; `whole` and `lost` say the same of those that the
    domain is judged by while it works; `answered` that all were looked up this time.
    """

    findings: Mapping[str, Finding]
    complete: bool
    failed: bool
    whole: bool
    lost: bool
    answered: bool
    reason: str | None


def verdict(
    records: Iterable[Record],
    before: Mapping[str, Finding],
    now: Mapping[str, Finding],
    *,
    verified: bool,
) -> Verdict:
    """Put what a check found together with what was known before it."""
    records = list(records)
    nothing = Finding(status=None, reason="It was not looked up yet.")
    seen = {record.key: now.get(record.key, nothing) for record in records}
    findings = {key: carried(before.get(key), finding) for key, finding in seen.items()}
    required = [record.key for record in records if record.required]
    judged_by = [each.key for each in worked_by(records, before, verified=verified)]
    return Verdict(
        findings=findings,
        complete=all(findings[key].status == "VALID" for key in required),
        failed=any(seen[key].status in _WRONG for key in required),
        whole=all(findings[key].status == "VALID" for key in judged_by),
        lost=any(seen[key].status in _WRONG for key in judged_by),
        answered=all(seen[key].status is not None for key in required),
        reason=reason_of(records, findings, "INVALID"),
    )


def worked_by(
    records: Iterable[Record], before: Mapping[str, Finding], *, verified: bool
) -> list[Record]:
    """The records a domain has worked by until now: all required ones of one that is `verified`; of another
    that works, such as one that is to have sub-domains from now on, those that have been there.
    """
    nothing = Finding(status=None)
    return [
        record
        for record in records
        if record.required and (verified or before.get(record.key, nothing).has_been_valid)
    ]


def reason_of(
    records: Iterable[Record], findings: Mapping[str, Finding], *statuses: str
) -> str | None:
    """What is wrong with required records of these statuses, one sentence or more for each."""
    told = [
        f"{record.type} {record.name}: {findings[record.key].reason}"
        for record in records
        if record.required and findings[record.key].status in statuses
    ]
    return " ".join(told) or None


class Standing(msgspec.Struct, frozen=True):
    """How checks of a domain that works went lately: how many failed in a row, since when, and since when it
    is broken.
    """

    failures: int = 0
    failing_since: datetime | None = None
    broken_since: datetime | None = None


def after(before: Standing, found: Verdict, *, works: bool, now: datetime) -> Standing:
    """The standing of a domain after a check. A broken domain that is complete again is mended by whoever
    verifies it; one that only waits for what it never had just goes on.
    """
    if not works or found.complete:
        return Standing(broken_since=before.broken_since)
    if found.whole:
        return Standing()
    if not found.lost:
        return before
    failures, since = before.failures + 1, before.failing_since or now
    lasting = failures >= FAILED_CHECKS and now - since >= FAILING_FOR
    return Standing(failures, since, before.broken_since or (now if lasting else None))


def next_check(found: Verdict, *, works: bool, waiting: timedelta, chance: float) -> timedelta:
    """When to look again. `waiting` is since when the domain has lacked something, `chance` a number from 0
    to 1 that keeps domains added together from being checked together for ever.
    """
    if not found.answered and not found.failed:
        rest = UNANSWERED
    elif found.complete:
        rest = WHILE_IT_WORKS if works else UNTOLD
    else:
        least, most = _bounds(found, works=works)
        rest = min(max(waiting * _SHARE, least), most)
    return rest * (1 - _JITTER + 2 * _JITTER * chance)


def _bounds(found: Verdict, *, works: bool) -> tuple[timedelta, timedelta]:
    """The shortest and the longest time between two looks for what a domain lacks."""
    if not works:
        return SOONEST, LATEST
    return (SOONEST, WHILE_IT_WORKS) if found.whole else (WHILE_FAILING, LATEST)
