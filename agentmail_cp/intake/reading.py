"""Reading due inboxes: claimed in batches, read in one request, written in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from random import SystemRandom
from time import monotonic
from typing import TypeGuard

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from agentmail_cp import domains, drafts, messages, outcomes, policy, sending, submissions
from agentmail_cp.db import Database, Tx, fetch_all, fetch_only
from agentmail_cp.errors import Unavailable
from agentmail_cp.intake.claims import LEASE, Claim, kept
from agentmail_cp.intake.erasing import without_unwanted
from agentmail_cp.mailserver import (
    AccountId,
    Changes,
    Cursor,
    DocumentId,
    Mail,
    MailServer,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
)
from agentmail_cp.messages import Judge
from agentmail_cp.rounds import Rounds, Standstill
from agentmail_cp.settings import Unauthenticated

log = structlog.stdlib.get_logger(__name__)

CHANNEL = "intake"
LONGEST_BACKOFF = timedelta(minutes=5)
LONGEST_UNANSWERED = timedelta(seconds=30)
"""The same where nobody answered: it may have been the mail server as a whole."""

LATE_ENOUGH = 2
"""Inboxes of a batch nobody answers for that are left alone before the mail server counts as away."""

RECOVERY = 1.0
"""Seconds to wait when the database or the mail server is away."""

LISTENING = 2.0
"""Seconds in which reports are read before a batch is written: less than a claim lasts."""

SWEEP_LOOK = 0.25
"""Seconds between looks for inboxes nobody rang for."""

SWEEP_PAUSE = 0.05
"""Seconds between two batches of such inboxes: with the default batch a worker sweeps a
thousand inboxes a second, and has most of its time for those who rang."""

CHUNK = 200
"""Messages read at a time when an inbox is read from scratch."""

_rng = SystemRandom()

BATCHES = Counter("agentmail_intake_batches", "Batches of inboxes read.")
INBOXES = Counter("agentmail_intake_inboxes", "Inboxes read, by outcome.", ["outcome"])
SECONDS = Histogram("agentmail_intake_seconds", "Time one batch takes.")
FAILING = Gauge("agentmail_intake_failing_inboxes", "Inboxes whose last reading failed.")
OLDEST_DUE = Gauge("agentmail_intake_oldest_due_seconds", "Age of the oldest unanswered bell.")


class Heard(msgspec.Struct, frozen=True):
    """What mails of one inbox report of mails it sent, and whether they are messages all the same."""

    told: outcomes.Told
    also_messages: bool


NOTHING_HEARD = Heard(outcomes.NOTHING_TOLD, also_messages=False)


class _Clock(msgspec.Struct, frozen=True):
    now: datetime


class Intake:
    """The loop that reads due inboxes. One per worker process."""

    def __init__(
        self,
        db: Database,
        server: MailServer,
        *,
        batch: int = 50,
        sweep_interval: float = 60.0,
        feedback_enabled: bool = False,
        unauthenticated: Unauthenticated = "label",
    ) -> None:
        self._db = db
        self._server = server
        self._feedback_enabled = feedback_enabled
        self._unauthenticated: Unauthenticated = unauthenticated
        self._judge = partial(policy.received, unauthenticated=unauthenticated)
        self._batch = batch
        self._sweep_interval = timedelta(seconds=sweep_interval)
        self._begun_at: datetime | None = None
        self._next_sweep = 0.0
        self._caught_up = False
        self._rounds = Rounds()
        self._standstill = Standstill(log, "intake")

    async def run(self) -> None:
        """Read inboxes until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.listen(self._db, CHANNEL))
            group.create_task(self._rounds.run(self._step))
            group.create_task(self._watch())

    async def _step(self) -> float:
        """Read one batch; how many seconds to wait for a bell before the next."""
        try:
            claimed = await self.read_batch()
        except (Unavailable, MailServerUnavailable) as error:
            self._standstill.begins(str(error))
            return RECOVERY
        except Exception:
            log.exception("intake.failed")
            return RECOVERY
        self._standstill.is_over()
        more = claimed == self._batch and monotonic() >= self._next_sweep
        return 0.0 if more else max(0.0, self._next_sweep - monotonic())

    async def read_batch(self) -> int:
        """Claim a batch, read it, write it. Returns the number of inboxes claimed."""
        async with self._db.transaction() as tx:
            claims = await self._claim(tx)
        if not claims:
            return 0
        BATCHES.inc()
        with SECONDS.time():
            await self._read(claims)
        return len(claims)

    async def _claim(self, tx: Tx) -> list[Claim]:
        due = await fetch_all(tx, Claim, _CLAIM_DUE, {"batch": self._batch, "lease": LEASE})
        if len(due) == self._batch or monotonic() < self._next_sweep:
            return due
        stale = await fetch_all(
            tx,
            Claim,
            _CLAIM_STALE,
            {
                "batch": self._batch - len(due),
                "lease": LEASE,
                "interval": self._sweep_interval,
                "begun_at": await self._begin(tx),
            },
        )
        self._plan_sweep(more=len(due) + len(stale) == self._batch)
        return due + stale

    def _plan_sweep(self, *, more: bool) -> None:
        """Catch up at full speed after the start; from then on leave room for those who rang."""
        if not more:
            self._caught_up = True
            self._next_sweep = monotonic() + SWEEP_LOOK
        elif self._caught_up:
            self._next_sweep = monotonic() + SWEEP_PAUSE

    async def _begin(self, tx: Tx) -> datetime:
        """When this worker began, by PostgreSQL's clock: what was read before is read again."""
        if self._begun_at is None:
            self._begun_at = (await fetch_only(tx, _Clock, "select now() as now", {})).now
        return self._begun_at

    async def _read(self, claims: Sequence[Claim]) -> None:
        """Read the well together, then each of those that failed before, which may spoil it for others."""
        if well := [claim for claim in claims if claim.failures == 0]:
            await self._read_together(well)
        for claim in claims:
            if claim.failures > 0:
                await self._read_together([claim])

    async def _read_together(self, claims: Sequence[Claim]) -> None:
        try:
            async with kept(self._db, claims) as keeping:
                answers, heard = await self._ask(claims)
            claims = keeping.claims
        except MailServerUnavailable as error:
            await self._unanswered(claims, error)
            return
        except MailServerError as error:
            await self._read_alone(claims, error)
            return
        claims = await self._unheard_go_back(claims, heard)
        await self._write(claims, answers, heard)
        if any(isinstance(each, Changes) and each.more for each in answers.values()):
            self._rounds.wake()
        for claim in claims:
            if _lost(answers[claim.account_id]):
                await self._from_scratch(claim)

    async def _ask(
        self, claims: Sequence[Claim]
    ) -> tuple[Mapping[AccountId, Changes | MailServerError], Mapping[AccountId, Heard]]:
        """What happened in these inboxes, and what the mails among it report."""
        answers = await self._server.changes(
            [Cursor(claim.account_id, claim.state) for claim in claims]
        )
        answers = await without_unwanted(
            self._db,
            self._server,
            {claim.account_id: claim.place for claim in claims},
            answers,
            self._unauthenticated,
        )
        return answers, await self._listen_to_all(claims, answers)

    async def _unanswered(self, claims: Sequence[Claim], error: MailServerUnavailable) -> None:
        """Give claims back where the mail server is away. Where it takes too long, there may be an inbox that
        it takes too long for: read each alone, and let that one wait. If two are, it is not the inbox.
        """
        if not error.reached:
            async with self._db.transaction() as tx:
                await _release(tx, claims)
            raise error
        if len(claims) == 1:
            async with self._db.transaction() as tx:
                await _postpone(tx, claims[0], error, longest=LONGEST_UNANSWERED)
            raise error
        late = 0
        for place, claim in enumerate(claims):
            try:
                await self._read_together([claim])
            except MailServerUnavailable:
                late += 1
                if late == LATE_ENOUGH:
                    async with self._db.transaction() as tx:
                        await _release(tx, claims[place + 1 :])
                    raise

    async def _read_alone(self, claims: Sequence[Claim], error: MailServerError) -> None:
        """One of these spoils the whole answer: read each by itself."""
        if len(claims) > 1:
            for claim in claims:
                await self._read([claim])
            return
        async with self._db.transaction() as tx:
            await _postpone(tx, claims[0], error)

    async def _listen_to_all(
        self, claims: Sequence[Claim], answers: Mapping[AccountId, Changes | MailServerError]
    ) -> dict[AccountId, Heard]:
        """What mails report of others, for as many inboxes as there is time for while they are claimed."""
        deadline = monotonic() + LISTENING
        heard: dict[AccountId, Heard] = {}
        for claim in claims:
            answer = answers[claim.account_id]
            mails = answer.present if isinstance(answer, Changes) else ()
            telling = any(mail.report for mail in mails)
            if not telling or not heard or monotonic() < deadline:
                heard[claim.account_id] = await self._listen_to(claim, mails)
        return heard

    async def _unheard_go_back(
        self, claims: Sequence[Claim], heard: Mapping[AccountId, Heard]
    ) -> list[Claim]:
        """Give back what there was no time for; the rest."""
        late = [claim for claim in claims if claim.account_id not in heard]
        if late:
            async with self._db.transaction() as tx:
                await _release(tx, late)
        return [claim for claim in claims if claim.account_id in heard]

    async def _listen_to(self, claim: Claim, mails: Sequence[Mail]) -> Heard:
        """What mails report of others, for those that are written next."""
        return Heard(
            told=await outcomes.listen(
                self._db, self._server, claim.account_id, claim.place, mails
            ),
            also_messages=await self._keeps_feedback(claim, mails),
        )

    async def _keeps_feedback(self, claim: Claim, mails: Sequence[Mail]) -> bool:
        """Whether those of these mails that report what became of others are messages as well."""
        if not any(mail.report for mail in mails):
            return self._feedback_enabled
        async with self._db.reading() as tx:
            own = await domains.keeps_feedback(tx, claim.organization_id, claim.domain)
        return self._feedback_enabled if own is None else own

    async def _write(
        self,
        claims: Sequence[Claim],
        answers: Mapping[AccountId, Changes | MailServerError],
        heard: Mapping[AccountId, Heard],
    ) -> None:
        async with self._db.transaction() as tx:
            for claim in sorted(claims, key=lambda each: each.inbox_id):
                answer = answers[claim.account_id]
                if isinstance(answer, Changes) and not _quiet(answer):
                    await _apply_alone(tx, claim, answer, heard[claim.account_id], self._judge)
                elif not isinstance(answer, Changes) and not _lost(answer):
                    await _postpone(tx, claim, answer)
        quiet = [claim for claim in claims if _quiet(answers[claim.account_id])]
        if quiet:
            async with self._db.transaction() as tx:
                await _confirm(tx, quiet, answers)

    async def _from_scratch(self, claim: Claim) -> None:
        """Compare an inbox with everything the mail server has of it."""
        try:
            await self._resync(claim)
        except Unavailable:
            raise
        except MailServerError as error:
            async with self._db.transaction() as tx:
                await _postpone(tx, claim, error)
        except Exception as error:
            log.exception("intake.inbox_failed", inbox_id=str(claim.inbox_id))
            async with self._db.transaction() as tx:
                await _postpone(tx, claim, error)

    async def _resync(self, claim: Claim) -> None:
        async with self._db.transaction() as tx:
            known = await messages.documents(tx, claim.place)
            known |= await drafts.documents(tx, claim.place)
            known |= await outcomes.documents(tx, claim.place)
        async with kept(self._db, [claim]) as keeping:
            listing = await self._server.listing(claim.account_id)
        (claim,) = keeping.claims
        there = list(listing.document_ids)
        for start in range(0, len(there), CHUNK):
            async with kept(self._db, [claim]) as keeping:
                mails = await self._server.fetch(claim.account_id, there[start : start + CHUNK])
                heard = await self._listen_to(claim, mails)
            (claim,) = keeping.claims
            async with self._db.transaction() as tx:
                held_claim = await _hold(tx, claim)
                if held_claim is None:
                    return
                claim = held_claim
                await _record(tx, claim, mails, (), heard, self._judge)
        async with self._db.transaction() as tx:
            await messages.lock(tx, claim.organization_id, claim.inbox_id)
            if await _advance(tx, claim, listing.state, more=False):
                await _record(tx, claim, (), known - set(there), NOTHING_HEARD, self._judge)
            else:
                await _read_again(tx, claim)
        INBOXES.labels("from_scratch").inc()

    async def _watch(self) -> None:
        """Keep the gauges true."""
        while True:
            with contextlib.suppress(Unavailable):
                await self._measure()
            await asyncio.sleep(10)

    async def _measure(self) -> None:
        async with self._db.transaction() as tx:
            backlog = await measure(tx)
        FAILING.set(backlog.failing)
        OLDEST_DUE.set(backlog.oldest)


class Backlog(msgspec.Struct, frozen=True):
    """Inboxes that wait to be read: how many failed before, and for how many seconds the oldest is due."""

    failing: int
    oldest: float


async def measure(tx: Tx) -> Backlog:
    """What waits to be read, over all organisations."""
    return await fetch_only(
        tx,
        Backlog,
        "select count(*) filter (where failures > 0) as failing,"
        " greatest(0, coalesce(extract(epoch from now() - min(due_at)), 0))::float8 as oldest"
        " from inbox_sync where due_at is not null",
        {},
    )


_CLAIM_DUE = """
with picked as (
    select inbox_id from inbox_sync
    where (due_at <= now() and (claimed_until is null or claimed_until < now()))
       or claimed_until < now()
    order by due_at limit %(batch)s for update skip locked
)
update inbox_sync set due_at = null, claimed_until = now() + %(lease)s
from picked, inbox
where inbox_sync.inbox_id = picked.inbox_id and inbox.inbox_id = picked.inbox_id
returning inbox_sync.inbox_id, inbox_sync.organization_id, inbox_sync.pod_id, inbox.domain,
    inbox_sync.account_id, inbox_sync.state, inbox_sync.failures, inbox_sync.claimed_until
"""

_CLAIM_STALE = """
with picked as (
    select inbox_id from inbox_sync
    where synced_at < greatest(now() - %(interval)s, %(begun_at)s)
      and claimed_until is null and due_at is null
    order by synced_at limit %(batch)s for update skip locked
)
update inbox_sync set claimed_until = now() + %(lease)s
from picked, inbox
where inbox_sync.inbox_id = picked.inbox_id and inbox.inbox_id = picked.inbox_id
returning inbox_sync.inbox_id, inbox_sync.organization_id, inbox_sync.pod_id, inbox.domain,
    inbox_sync.account_id, inbox_sync.state, inbox_sync.failures, inbox_sync.claimed_until
"""


def _lost(answer: Changes | MailServerError) -> bool:
    return isinstance(answer, MailServerRejected) and answer.code is Refusal.STATE_LOST


def _quiet(answer: Changes | MailServerError) -> TypeGuard[Changes]:
    """Whether nothing happened, as in nearly every inbox that is swept."""
    if not isinstance(answer, Changes):
        return False
    return not answer.present and not answer.destroyed and not answer.more


async def _confirm(
    tx: Tx, claims: Sequence[Claim], answers: Mapping[AccountId, Changes | MailServerError]
) -> None:
    """Note that these inboxes were read and nothing had happened, all in one statement."""
    states = [answer.state for claim in claims if _quiet(answer := answers[claim.account_id])]
    await tx.execute(
        "with read as (select * from"
        " unnest(%(inboxes)s::uuid[], %(read_from)s::text[], %(states)s::text[])"
        " as read (inbox_id, read_from, state)),"
        " held as (select inbox_id from inbox_sync where inbox_id = any(%(inboxes)s)"
        " order by inbox_id for update)"
        " update inbox_sync set state = read.state, claimed_until = null, synced_at = now(),"
        " failures = 0, last_error = null from read, held"
        " where inbox_sync.inbox_id = read.inbox_id and held.inbox_id = read.inbox_id"
        " and inbox_sync.state is not distinct from read.read_from",
        {
            "inboxes": [claim.inbox_id for claim in claims],
            "read_from": [claim.state for claim in claims],
            "states": states,
        },
    )
    INBOXES.labels("quiet").inc(len(claims))


async def _apply_alone(tx: Tx, claim: Claim, changes: Changes, heard: Heard, judge: Judge) -> None:
    """Write one inbox in a savepoint, so that its trouble stays its own."""
    try:
        async with tx.transaction():
            if await _advance(tx, claim, changes.state, more=changes.more):
                await _record(tx, claim, changes.present, changes.destroyed, heard, judge)
            else:
                await _read_again(tx, claim)
    except Exception as error:
        if tx.closed:
            raise
        log.exception("intake.inbox_failed", inbox_id=str(claim.inbox_id))
        await _postpone(tx, claim, error)
    else:
        INBOXES.labels("read").inc()


async def _record(
    tx: Tx,
    claim: Claim,
    present: Sequence[Mail],
    destroyed: Collection[DocumentId],
    heard: Heard,
    judge: Judge,
) -> None:
    """Write what was read, in an inbox whose lock is held."""
    place = claim.place
    held = await sending.live_message_ids(tx, place)
    outcome = await outcomes.take(
        tx, place, present, heard.told, held=held, also_messages=heard.also_messages
    )
    await outcomes.remove(tx, place, destroyed)
    present = [mail for mail in present if mail.document_id not in outcome]
    copies = await submissions.copies(tx, place, present)
    filed = await messages.record(
        tx,
        place,
        present=present,
        destroyed=destroyed,
        held=held,
        copies=copies,
        judge=judge,
    )
    await submissions.note(tx, place, present, copies)
    await drafts.record(
        tx,
        place,
        account_id=claim.account_id,
        present=present,
        destroyed=destroyed,
        held=held,
        filed=filed,
    )


async def _advance(tx: Tx, claim: Claim, state: MailState, *, more: bool) -> bool:
    """Move the inbox's state on; False when somebody else already has."""
    cursor = await tx.execute(
        "update inbox_sync set state = %(state)s, claimed_until = null, synced_at = now(),"
        " failures = 0, last_error = null, due_at = case when %(more)s then now() else due_at end"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state is not distinct from %(read_from)s and claimed_until = %(claimed_until)s",
        {
            "state": state,
            "more": more,
            "inbox_id": claim.inbox_id,
            "organization_id": claim.organization_id,
            "read_from": claim.state,
            "claimed_until": claim.claimed_until,
        },
    )
    return cursor.rowcount == 1


async def _read_again(tx: Tx, claim: Claim) -> None:
    """What was read is out of date. The bell it answered is answered by nobody else, so ring it."""
    await tx.execute(
        "update inbox_sync set due_at = coalesce(due_at, now())"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {"inbox_id": claim.inbox_id, "organization_id": claim.organization_id},
    )


async def _postpone(
    tx: Tx, claim: Claim, error: Exception, *, longest: timedelta = LONGEST_BACKOFF
) -> None:
    """Try this inbox again later, each time later, and keep why it failed."""
    INBOXES.labels("failed").inc()
    wait = min(timedelta(seconds=2 ** min(claim.failures, 30)), longest) * _rng.uniform(0.8, 1.2)
    await tx.execute(
        "update inbox_sync set due_at = now() + %(wait)s, claimed_until = null,"
        " failures = failures + 1, last_error = %(reason)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {
            "wait": wait,
            "reason": type(error).__name__,
            "inbox_id": claim.inbox_id,
            "organization_id": claim.organization_id,
        },
    )


async def _release(tx: Tx, claims: Sequence[Claim]) -> None:
    """Give claims back unread: the mail server as a whole is away, or there was no time for them."""
    await tx.execute(
        "with held as (select inbox_id from inbox_sync where inbox_id = any(%(inboxes)s)"
        " order by inbox_id for update)"
        " update inbox_sync set claimed_until = null, due_at = now() + interval '1 s'"
        " from held where inbox_sync.inbox_id = held.inbox_id",
        {"inboxes": [claim.inbox_id for claim in claims]},
    )


async def _hold(tx: Tx, claim: Claim) -> Claim | None:
    """Keep the claim while a long reading goes on, and take the inbox's lock; None if it is lost."""
    cursor = await tx.execute(
        "update inbox_sync set claimed_until = now() + %(lease)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and claimed_until = %(claimed_until)s returning claimed_until",
        {
            "lease": LEASE,
            "inbox_id": claim.inbox_id,
            "organization_id": claim.organization_id,
            "claimed_until": claim.claimed_until,
        },
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    return msgspec.structs.replace(claim, claimed_until=row["claimed_until"])
