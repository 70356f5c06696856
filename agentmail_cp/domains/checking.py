"""Checks: a domain's records are looked up, judged and written down, and what follows from them is done.

One check: its row is claimed (`checking_until`) → DNS is asked, outside of any transaction → findings are
written, and when all is there the name is proved and its keys are active → the mail server is told
(`settlement`) → the domain is verified, with an event. A crash in between lets the claim run out, and the
next check goes on from what the row says; what a check that lost its claim found is thrown away. Domains that
work are checked again and again, which also moves DKIM keys on (`rotation`) and finds domains broken and
whole again.

Any worker takes any domain that is due (`check_due_at`), so many at once; asking for a check makes one due
and wakes the workers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, LiteralString

import msgspec
import structlog
from psycopg.types.json import Jsonb

from agentmail_cp import events
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.domains import dkim, keys, rotation, schedule, settlement
from agentmail_cp.domains.answers import Answer, Known, Question
from agentmail_cp.domains.claiming import prove
from agentmail_cp.domains.domain import COLUMNS, Domain, DomainStatus
from agentmail_cp.domains.judging import Finding, Site, judge
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.domains.presenting import described, wanted_of
from agentmail_cp.domains.providers import provider_of
from agentmail_cp.domains.records import Record, hosts_of
from agentmail_cp.domains.resolving import Resolver, Zone
from agentmail_cp.domains.schedule import CHANNEL, Claim
from agentmail_cp.domains.verdicts import (
    NOT_FREE,
    Standing,
    Verdict,
    after,
    next_check,
    reason_of,
    verdict,
    worked_by,
)
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import EventType
from agentmail_cp.mailserver import MailServer, MailServerError
from agentmail_cp.rounds import Rounds, Standstill
from agentmail_cp.settings import Settings

log = structlog.stdlib.get_logger(__name__)

PATIENCE: Final = 8.0
"""Seconds all questions of one check may take together."""
GLANCE: Final = 2.0
"""Seconds a caller who adds a domain waits for who has its mail now."""
AT_ONCE: Final = 16
"""Checks under way in one process."""
LOOK: Final = 5.0
"""Seconds between looks for domains that are due, unless woken."""
ROUNDS: Final = 25
"""Rounds of questions: an SPF record may lead from one name to the next."""


class Checking:
    """The loop over domains that are due."""

    def __init__(
        self, db: Database, server: MailServer, settings: Settings, resolver: Resolver | None = None
    ) -> None:
        self._db = db
        self._server = server
        self._settings = settings
        self._resolver = resolver or Resolver(settings.name_servers, settings.outbound_networks)
        self._hosts = hosts_of(settings)
        self._sealing_key = dkim.sealing_key(settings)
        self._rounds = Rounds()
        self._running = 0
        self._standstill = Standstill(log, "domains")

    async def run(self) -> None:
        """Check until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.listen(self._db, CHANNEL))
            await self._rounds.run(partial(self._step, group))

    async def _step(self, group: asyncio.TaskGroup) -> float:
        """Begin what is due and there is room for."""
        try:
            async with self._db.transaction() as tx:
                claims = await schedule.claim_due(tx, AT_ONCE - self._running)
        except Unavailable as error:
            self._standstill.begins(type(error).__name__)
            return LOOK
        self._standstill.is_over()
        self._running += len(claims)
        for claim in claims:
            group.create_task(self._attempt(claim))
        return LOOK

    async def _attempt(self, claim: Claim) -> None:
        try:
            await self.check(claim)
        except (Unavailable, MailServerError) as error:
            log.warning("domain.check_waiting", reason=type(error).__name__)
        except Exception:
            log.exception("domain.check_failed", domain_id=str(claim.domain_id))
        finally:
            self._running -= 1
            self._rounds.wake()

    async def check(self, claim: Claim) -> None:
        """Check one domain. What it came to is in its row.

        Raises `Unavailable`, and `MailServerUnavailable` when the mail server can't be told now.
        """
        domain, held = await self._read(claim)
        if domain is None:
            return
        if lost := keys.unreadable(held, self._sealing_key):
            await rotation.replace_lost(self._db, domain, lost, self._sealing_key)
            domain, held = await self._read(claim)
            if domain is None:
                return
        records = wanted_of(domain, held, self._hosts)
        found = await examine(self._resolver, records, Site(domain.name, self._hosts))
        async with self._db.transaction() as tx:
            seen = await self._write_down(tx, claim, found)
        if seen is None:
            return
        try:
            await self._tell(domain)
        finally:
            async with self._db.transaction() as tx:
                await self._conclude(tx, claim, seen)

    async def _read(self, claim: Claim) -> tuple[Domain | None, list[StoredKey]]:
        async with self._db.reading() as tx:
            domain = await schedule.claimed(tx, claim)
            held = await keys.of_domain(tx, claim.organization_id, claim.domain_id)
        return domain, held

    async def _write_down(
        self, tx: Tx, claim: Claim, found: Mapping[str, Finding]
    ) -> Verdict | None:
        """Write down what was found, held against the records that are wanted by now; None when the domain is
        this worker's no more.
        """
        domain = await schedule.claimed(tx, claim, lock=True)
        if domain is None:
            return None
        held, records, seen = await self._judge(tx, domain, found)
        proved = domain.proved_at is not None
        if seen.complete and not proved and found["token"].status == "VALID":
            proved = await prove(tx, domain)
            seen = seen if proved else _lost(seen, records)
        if proved and seen.findings["token"].status == "VALID":
            # Also where something is missing: that may be the records these keys replace.
            retiring = timedelta(days=self._settings.dkim_retiring_days)
            await rotation.move_on(tx, domain, held, seen.findings, retiring)
            _, records, seen = await self._judge(tx, domain, found)
        await _record(tx, domain, seen, records)
        return seen

    async def _judge(
        self, tx: Tx, domain: Domain, found: Mapping[str, Finding]
    ) -> tuple[Sequence[StoredKey], Sequence[Record], Verdict]:
        """The keys there are by now, the records wanted with them, and what was found means for those."""
        held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
        records = wanted_of(domain, held, self._hosts)
        verified = domain.verified_at is not None
        return held, records, verdict(records, findings_of(domain), found, verified=verified)

    async def _tell(self, domain: Domain) -> None:
        await settlement.tell(
            self._db,
            self._server,
            self._sealing_key,
            organization_id=domain.organization_id,
            domain_id=domain.domain_id,
        )

    async def _conclude(self, tx: Tx, claim: Claim, seen: Verdict) -> None:
        """End the check: a complete domain that the mail server has is verified from now on."""
        domain = await schedule.claimed(tx, claim, lock=True)
        if domain is None:
            return
        held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
        records = wanted_of(domain, held, self._hosts)
        # What is wanted may have become more since it was written down.
        complete = verdict(records, {}, findings_of(domain), verified=False).complete
        if complete and domain.installed_at is not None and _is_not_verified(domain):
            domain = await _verify(tx, domain)
            await _tell_verified(tx, domain, records)
        rest = next_check(
            seen,
            works=domain.works,
            waiting=datetime.now(UTC) - (domain.failing_since or domain.updated_at),
            chance=random.random(),  # noqa: S311 - spreads checks
        )
        await schedule.give_back(tx, claim, rest)


async def examine(
    resolver: Resolver, records: Sequence[Record], site: Site
) -> Mapping[str, Finding]:
    """What DNS says of these records now. One that could not be looked up in time has no status."""
    answers: dict[Question, Sequence[Answer]] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            await _ask_around(resolver, records, site, answers)
    except TimeoutError:
        log.info("domain.check_slow", domain=site.name)
    findings, _ = judge(records, site, Known(answers))
    late = Finding(status=None, reason="The name servers of the domain did not answer in time.")
    return {record.key: findings.get(record.key, late) for record in records}


async def _ask_around(
    resolver: Resolver,
    records: Sequence[Record],
    site: Site,
    answers: dict[Question, Sequence[Answer]],
) -> None:
    zone: Zone | None = None
    for _ in range(ROUNDS):
        _, questions = judge(records, site, Known(answers))
        if not questions:
            return
        zone = zone or await resolver.zone_of(site.name)
        await resolver.ask(zone, questions, answers)


async def conflicting(resolver: Resolver, name: str) -> str | None:
    """The provider that takes a domain's mail now, as people call it; None for none that is known here, and
    where DNS does not say so within moments.
    """
    try:
        async with asyncio.timeout(GLANCE):
            answer = await resolver.resolve(Question(name, "MX"))
    except TimeoutError:
        return None
    found = (provider_of(value.partition(" ")[2]) for value in answer.values)
    return next((provider for provider in found if provider), None)


def findings_of(domain: Domain) -> Mapping[str, Finding]:
    """What the last check found, by the key of each record."""
    return msgspec.convert(domain.findings, dict[str, Finding])


def _lost(seen: Verdict, records: Sequence[Record]) -> Verdict:
    """The same verdict, when somebody else was first to prove the name."""
    findings = {**seen.findings, "token": NOT_FREE}
    return msgspec.structs.replace(
        seen,
        findings=findings,
        complete=False,
        failed=True,
        reason=reason_of(records, findings, "INVALID"),
    )


async def _record(tx: Tx, domain: Domain, seen: Verdict, records: Sequence[Record]) -> None:
    before = Standing(domain.failures, domain.failing_since, domain.broken_since)
    standing = after(before, seen, works=domain.works, now=datetime.now(UTC))
    reason = seen.reason
    if standing.broken_since is not None:
        judged_by = worked_by(records, seen.findings, verified=domain.verified_at is not None)
        reason = reason_of(judged_by, seen.findings, "MISSING", "INVALID") or domain.reason
    await tx.execute(
        _RECORD,
        {
            **_key(domain),
            **msgspec.structs.asdict(standing),
            "findings": Jsonb(msgspec.to_builtins(seen.findings)),
            "reason": reason,
        },
    )


_RECORD: LiteralString = """
update domain set findings = %(findings)s, reason = %(reason)s, checked_at = now(),
    failures = %(failures)s, failing_since = %(failing_since)s, broken_since = %(broken_since)s
where organization_id = %(organization_id)s and domain_id = %(domain_id)s
"""


def _is_not_verified(domain: Domain) -> bool:
    return domain.verified_at is None or domain.broken_since is not None


async def _verify(tx: Tx, domain: Domain) -> Domain:
    found = await fetch_one(
        tx,
        Domain,
        "update domain set verified_at = coalesce(verified_at, now()), broken_since = null,"
        " reason = null, updated_at = now() where organization_id = %(organization_id)s"
        f" and domain_id = %(domain_id)s returning {COLUMNS}",
        _key(domain),
    )
    return found or domain


async def _tell_verified(tx: Tx, domain: Domain, records: Sequence[Record]) -> None:
    facts = described(domain, records, status=DomainStatus.VERIFIED)
    await events.append_of_scope(
        tx,
        organization_id=domain.organization_id,
        pod_id=domain.pod_id,
        type=EventType.DOMAIN_VERIFIED,
        facts=facts,
    )
    log.info("domain.verified", domain_id=str(domain.domain_id))


def _key(domain: Domain) -> dict[str, Any]:
    return {"organization_id": domain.organization_id, "domain_id": domain.domain_id}
