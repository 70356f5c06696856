"""Checks of domains against a real PostgreSQL: who proves a name first, what a crash leaves, and what
silence and mistakes come to over time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest
import pytest_asyncio

from agentmail_cp import domains
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.domains import (
    Domain,
    DomainPatch,
    NewDomain,
    checking,
    dkim,
    keys,
    resolving,
    schedule,
)
from agentmail_cp.domains.checking import Checking
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.domains.schedule import claim_due
from agentmail_cp.mailserver import MailDomainSetup, MailServerUnavailable
from agentmail_cp.sandbox import Faults, MailSandbox
from agentmail_cp.sandbox.faults import HEALTHY
from agentmail_cp.settings import Settings
from tests import tenants
from tests.fix_app import settings_for
from tests.fix_dns import DnsServer

NAME = "acme.test"


class Office:
    """A database, a mail server and a name server, and checks of domains between them."""

    def __init__(self, db: Database, dns: DnsServer) -> None:
        self.db = db
        self.dns = dns
        self.zone = ""
        self.server = MailSandbox("agents.test")
        self.settings = settings_for(db.url, dns_servers=dns.setting, dkim_secret="one")

    def checking(self, settings: Settings | None = None) -> Checking:
        return Checking(self.db, self.server, settings or self.settings)

    async def claim(self, organization_id: UUID | None = None, name: str = NAME) -> Domain:
        """A domain of this organisation, or of a new one."""
        organization_id = organization_id or await tenants.organization(self.db)
        pairs = await dkim.new_pairs()
        async with self.db.transaction() as tx:
            made = await domains.create(tx, Reach(organization_id), NewDomain(name=name), most=0)
            await keys.add(tx, organization_id, made.domain_id, pairs, self.sealing_key)
        return made

    @property
    def sealing_key(self) -> bytes:
        return dkim.sealing_key(self.settings)

    async def check(self, *checks: Domain, by: Checking | None = None) -> None:
        """Check these domains now, at once."""
        by = by or self.checking()
        async with self.db.transaction() as tx:
            await tx.execute("update domain set check_due_at = now(), checking_until = null")
        async with self.db.transaction() as tx:
            claims = [
                each
                for each in await claim_due(tx, 100)
                if each.domain_id in {domain.domain_id for domain in checks}
            ]
        await asyncio.gather(*(by.check(each) for each in claims))

    async def look(self, domain: Domain) -> Domain:
        async with self.db.reading() as tx:
            return await domains.get(tx, Reach(domain.organization_id), str(domain.domain_id))

    async def keys(self, domain: Domain) -> Sequence[StoredKey]:
        async with self.db.reading() as tx:
            return await keys.of_domain(tx, domain.organization_id, domain.domain_id)

    async def publish(self, *published: Domain, but: Collection[str] = ()) -> None:
        """Publish what these claims on one name ask for, once, but for records with one of these words."""
        lines: list[str] = []
        for domain in published:
            records = domains.wanted_of(
                await self.look(domain), await self.keys(domain), domains.hosts_of(self.settings)
            )
            lines += domains.zone_file(domain.name, records).splitlines()
        kept = (line for line in dict.fromkeys(lines) if not any(word in line for word in but))
        self.zone = "\n".join(kept)
        self.dns.publish(published[0].name, self.zone)

    async def verified(self) -> Domain:
        """A domain that everything was done for."""
        domain = await self.claim()
        await self.publish(domain)
        await self.check(domain)
        seen = await self.look(domain)
        assert seen.status == "VERIFIED"
        return seen

    async def shift(self, column: LiteralString, time: timedelta) -> None:
        """Let something have been so long before it was."""
        async with self.db.transaction() as tx:
            table: LiteralString = "dkim_key" if column == "retiring_at" else "domain"
            await tx.execute(f"update {table} set {column} = {column} - %(time)s", {"time": time})


@pytest_asyncio.fixture
async def office(
    database: Database, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> Office:
    monkeypatch.setattr(resolving, "TIMEOUT", 0.2)
    return Office(database, dns_server)


async def test_of_two_organisations_at_once_one_proves_the_name(office: Office) -> None:
    """Both published all they were told to: the mail may go to one of them only, and to no other's keys."""
    claims = [await office.claim(), await office.claim()]
    await office.publish(*claims)
    await office.check(*claims)
    seen = [await office.look(each) for each in claims]
    winner, loser = sorted(seen, key=lambda each: each.proved_at is None)
    assert (winner.status, loser.status) == ("VERIFIED", "INVALID")
    assert loser.proved_at is None
    assert "another organization" in (loser.reason or "")
    assert str(winner.organization_id) not in (loser.reason or "")
    installed = await office.server.find_domain(NAME)
    assert installed is not None
    assert {each.selector for each in installed.dkim} == {
        each.selector for each in await office.keys(winner)
    }
    assert (await told(office, winner), await told(office, loser)) == (1, 0)


async def test_a_released_name_is_proved_by_the_next_token_and_not_by_the_last(
    office: Office,
) -> None:
    """What is left in DNS of the last owner's records would take the name back within minutes."""
    held = await office.verified()
    async with office.db.transaction() as tx:
        await domains.release(tx, NAME, await dkim.new_pairs(), office.sealing_key)
    assert await domains.settle(office.db, office.server, office.sealing_key) == 1
    async with office.db.reading() as tx:
        left = await domains.get(tx, Reach(held.organization_id), NAME)
    await office.check(left)
    left = await office.look(left)
    assert (left.proved_at, left.status) == (None, "INVALID")
    second = await office.claim()
    await office.publish(second)
    await office.check(left, second)
    assert (await office.look(second)).status == "VERIFIED"
    assert (await office.look(left)).proved_at is None


async def told(office: Office, domain: Domain) -> int:
    """How often an organisation was told that the domain is verified."""
    async with office.db.reading() as tx:
        row = await (
            await tx.execute(
                "select count(*) as events from event where type = 'domain.verified'"
                " and organization_id = %(organization_id)s",
                {"organization_id": domain.organization_id},
            )
        ).fetchone()
    return row["events"] if row else 0


@pytest.mark.parametrize("by", ["check", "loop"])
@pytest.mark.parametrize("fault", ["down", "lost_answer"])
async def test_what_an_outage_of_the_mail_server_leaves_is_finished_later(
    office: Office, fault: str, by: str
) -> None:
    """The name is proved, nobody is told yet, and the keys are still there to be installed, also where they
    have been, and only the answer was lost.
    """
    domain = await office.claim()
    await office.publish(domain)
    office.server.faults = Faults(down=fault == "down", lost_answer=fault == "lost_answer")
    with pytest.raises(MailServerUnavailable):
        await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.proved_at is None, seen.installed_at) == ("PENDING", False, None)
    assert all(each.private_key for each in await office.keys(domain))

    office.server.faults = HEALTHY
    if by == "loop":
        assert await domains.settle(office.db, office.server, office.sealing_key) == 1
        told_at = await office.look(domain)
        assert told_at.checked_at is not None
        assert told_at.check_due_at <= told_at.checked_at + schedule.SPACING
    await office.check(domain)
    assert (await office.look(domain)).status == "VERIFIED"
    assert not any(each.private_key for each in await office.keys(domain))
    assert await told(office, domain) == 1
    await office.check(domain)
    assert await told(office, domain) == 1


async def test_a_change_by_whoever_began_earlier_is_told_too(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for a lock while somebody else changed the domain and told the mail server: the API would
    show what the mail server never heard of.
    """
    domain = await office.verified()
    reach = Reach(domain.organization_id)
    telling, go_on = asyncio.Event(), asyncio.Event()
    install = office.server.install_domain

    async def slowly(setup: MailDomainSetup) -> None:
        await install(setup)
        telling.set()
        await go_on.wait()

    async with office.db.transaction() as older:
        await older.execute("select now()")
        async with office.db.transaction() as newer:
            await domains.update(newer, reach, NAME, DomainPatch(inbound_enabled=False))
        monkeypatch.setattr(office.server, "install_domain", slowly)
        first = asyncio.create_task(domains.settle(office.db, office.server, office.sealing_key))
        await telling.wait()
        await domains.update(older, reach, NAME, DomainPatch(inbound_enabled=True))
    monkeypatch.undo()
    go_on.set()
    await first
    await domains.settle(office.db, office.server, office.sealing_key)
    installed = await office.server.find_domain(NAME)
    assert installed is not None
    assert installed.inbound


async def test_a_check_that_takes_too_long_writes_nothing(office: Office) -> None:
    """Somebody else has the domain by then; two at once would each undo the other."""
    domain = await office.claim()
    await office.publish(domain)
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now()")
        (late,) = await claim_due(tx, 1)
    async with office.db.transaction() as tx:
        await tx.execute("update domain set checking_until = now() + interval '1 minute'")
    await office.checking().check(late)
    assert (await office.look(domain)).checked_at is None


async def test_a_domain_that_is_deleted_meanwhile_is_let_be(office: Office) -> None:
    domain = await office.claim()
    await office.publish(domain)
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now()")
        (claim,) = await claim_due(tx, 1)
        await domains.delete(tx, Reach(domain.organization_id), domain.name)
    await office.checking().check(claim)
    assert await office.server.find_domain(NAME) is None
    assert await told(office, domain) == 0


async def test_two_workers_take_different_domains(office: Office) -> None:
    for name in ("a.test", "b.test", "c.test"):
        await office.claim(name=name)
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now()")
    async with office.db.transaction() as one, office.db.transaction() as two:
        first, second = await claim_due(one, 2), await claim_due(two, 2)
    assert (len(first), len(second)) == (2, 1)
    assert len({each.domain_id for each in (*first, *second)}) == 3
    async with office.db.transaction() as tx:
        assert await claim_due(tx, 3) == []


async def test_one_organisation_leaves_room_for_others(office: Office) -> None:
    """Whoever adds many domains with name servers that never answer would hold up everybody's checks."""
    many = await tenants.organization(office.db)
    for place in range(schedule.SHARE + 2):
        await office.claim(many, name=f"d{place}.test")
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now() - interval '1 hour'")
    other = await office.claim()
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = least(check_due_at, now())")
        claims = await claim_due(tx, 100)
    async with office.db.transaction() as tx:
        assert await claim_due(tx, 100) == []
    assert len(claims) == schedule.SHARE + 1
    assert other.domain_id in {each.domain_id for each in claims}


async def test_silent_name_servers_change_nothing(office: Office) -> None:
    """However long they are silent: nobody's sending is paused because a name server had a bad day."""
    domain = await office.verified()
    office.dns.trouble = {f"{name}.{NAME}": "silence" for name in ("_dmarc", "_agentmail")} | {
        NAME: "SERVFAIL"
    }
    for _ in range(3):
        await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.failures, seen.findings) == ("VERIFIED", 0, domain.findings)


async def test_a_domain_that_was_never_seen_says_that_nobody_answers(office: Office) -> None:
    domain = await office.claim()
    await office.publish(domain)
    office.dns.trouble = {f"_dmarc.{NAME}": "SERVFAIL"}
    await office.check(domain)
    seen = await office.look(domain)
    assert seen.status == "PENDING"
    assert "ns1.acme.test answers SERVFAIL" in seen.findings["dmarc"]["reason"]


async def test_a_check_ends_however_slow_the_name_servers_are(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered counts; the rest is told as what it is."""
    monkeypatch.setattr(checking, "PATIENCE", 0.5)
    monkeypatch.setattr(resolving, "TIMEOUT", 60)
    domain = await office.claim()
    await office.publish(domain)
    office.dns.trouble = {f"_dmarc.{NAME}": "silence"}
    await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.checking, seen.failures) == ("PENDING", False, 0)
    assert seen.findings["token"]["status"] == "VALID"
    assert "did not answer in time" in seen.findings["dmarc"]["reason"]


async def test_a_domain_breaks_slowly_and_heals_at_once(office: Office) -> None:
    """A slip of the hand in DNS must not stop all agents; a lasting one must, and by itself end."""
    domain = await office.verified()
    office.dns.publish(NAME)
    for _ in range(5):
        await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.failures) == ("VERIFIED", 5)
    assert await obstacle(office, domain) is None

    await office.shift("failing_since", timedelta(hours=2))
    await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.broken_since is None) == ("INVALID", False)
    assert "_agentmail.acme.test: There is no such record" in (await obstacle(office, domain) or "")

    await office.publish(domain)
    await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.reason, seen.failures) == ("VERIFIED", None, 0)
    assert await obstacle(office, domain) is None
    assert await told(office, domain) == 2


@pytest.mark.parametrize("flag", ["inbound_enabled", "subdomains_enabled"])
async def test_a_record_that_is_wanted_anew_breaks_nothing_and_hides_nothing(
    office: Office, flag: str
) -> None:
    """Whoever turns something on and never publishes its record goes on as before; and when the domain is
    lost altogether, its inboxes must not send in its new owner's name for ever.
    """
    domain = await office.verified()
    if flag == "inbound_enabled":
        await patch(office, domain, inbound_enabled=False)
    await patch(office, domain, **{flag: True})
    await office.publish(domain, but={"IN MX 10"} if flag == "inbound_enabled" else {"* IN MX"})
    for _ in range(5):
        await office.check(domain)
        await office.shift("failing_since", timedelta(hours=2))
    seen = await office.look(domain)
    assert (seen.status, seen.failures) == ("PENDING", 0)
    assert await obstacle(office, domain) is None

    zone = office.zone
    office.dns.publish(NAME)
    for _ in range(5):
        await office.check(domain)
    assert await obstacle(office, domain) is None
    await office.shift("failing_since", timedelta(hours=2))
    await office.check(domain)
    assert (await office.look(domain)).status == "INVALID"
    why = await obstacle(office, domain) or ""
    assert "_agentmail.acme.test: There is no such record" in why
    assert ("MX acme.test" if flag == "inbound_enabled" else "MX *.acme.test") not in why

    office.dns.publish(NAME, zone)
    await office.check(domain)
    assert await obstacle(office, domain) is None
    assert (await office.look(domain)).status == "PENDING"
    await office.publish(domain)
    await office.check(domain)
    assert (await office.look(domain)).status == "VERIFIED"
    assert await told(office, domain) == 2


async def test_a_new_record_is_looked_for_soon_however_old_the_domain_is(office: Office) -> None:
    """Whoever publishes it at once would wait for hours."""
    domain = await office.verified()
    for column in ("created_at", "updated_at"):
        await office.shift(column, timedelta(days=30))
    await patch(office, domain, subdomains_enabled=True)
    await office.check(domain)
    seen = await office.look(domain)
    assert seen.checked_at is not None
    assert seen.check_due_at - seen.checked_at < timedelta(minutes=10)


async def test_a_record_that_waited_for_sub_domains_breaks_the_domain_once_it_was_there(
    office: Office,
) -> None:
    domain = await office.verified()
    await patch(office, domain, subdomains_enabled=True)
    await office.publish(domain)
    await office.check(domain)
    assert (await office.look(domain)).status == "VERIFIED"
    await office.publish(domain, but={"* IN MX"})
    for _ in range(5):
        await office.check(domain)
    await office.shift("failing_since", timedelta(hours=2))
    await office.check(domain)
    assert "MX *.acme.test" in (await obstacle(office, domain) or "")


async def obstacle(office: Office, domain: Domain) -> str | None:
    async with office.db.reading() as tx:
        return await domains.broken(tx, domain.organization_id, domain.name)


async def test_keys_that_no_longer_open_are_made_anew(office: Office) -> None:
    """After a change of the secret nobody could ever install them, and the domain would wait for ever."""
    domain = await office.claim()
    before = {each.selector for each in await office.keys(domain)}
    await office.publish(domain)
    other = office.checking(
        settings_for(office.db.url, dns_servers=office.dns.setting, dkim_secret="two")
    )
    await office.check(domain, by=other)
    seen = await office.look(domain)
    after = {each.selector for each in await office.keys(domain)}
    assert seen.status == "PENDING"
    assert not before & after
    await office.publish(domain)
    await office.check(domain, by=other)
    assert (await office.look(domain)).status == "VERIFIED"


@pytest.mark.parametrize("away", [timedelta(minutes=1), timedelta(days=8)], ids=["short", "long"])
async def test_a_rotation_that_loses_its_keys_goes_on_with_the_old_ones(
    office: Office, away: timedelta
) -> None:
    """The server was away just when the new keys were to sign, and the secret was changed meanwhile. However
    long that took, it signs with the old ones.
    """
    domain = await office.verified()
    before = {each.selector for each in await office.keys(domain)}
    await rotate(office, domain)
    await office.publish(domain)
    office.server.faults = Faults(down=True)
    with pytest.raises(MailServerUnavailable):
        await office.check(domain)
    await office.shift("retiring_at", away)
    with pytest.raises(MailServerUnavailable):
        await office.check(domain)
    office.server.faults = HEALTHY
    other = office.checking(
        settings_for(office.db.url, dns_servers=office.dns.setting, dkim_secret="two")
    )
    await office.check(domain, by=other)
    held = await office.keys(domain)
    assert {each.selector for each in held if each.stage == "active"} == before
    assert {each.stage for each in held if each.selector not in before} == {"pending"}
    assert (await office.look(domain)).status == "VERIFIED"
    installed = await office.server.find_domain(NAME)
    assert installed is not None
    assert {each.selector for each in installed.dkim} == before


@pytest.mark.parametrize("first", ["loop", "check"])
@pytest.mark.parametrize("change", ["rotation", "secret", "secret, then rotation"])
async def test_a_verified_domain_has_keys_that_sign_on_the_mail_server(
    office: Office, change: str, first: str
) -> None:
    """New keys were asked for, or old ones lost, between the proof of a name and its installation: it would
    be VERIFIED, and its mail leave unsigned.
    """
    domain = await office.claim()
    await office.publish(domain)
    office.server.faults = Faults(down=True)
    with pytest.raises(MailServerUnavailable):
        await office.check(domain)
    office.server.faults = HEALTHY
    if "secret" in change:
        office.settings = settings_for(
            office.db.url, dns_servers=office.dns.setting, dkim_secret="two"
        )
    if "rotation" in change:
        assert await rotate(office, domain)
    for step in ["loop", "check"] if first == "loop" else ["check", "loop"]:
        await take(office, domain, step)
    await patch(office, domain, catch_all_inbox_id=None, subdomains_enabled=True)
    for step in ("loop", "check", "publish", "check", "loop", "check"):
        await take(office, domain, step)
    assert (await office.look(domain)).status == "VERIFIED"


async def take(office: Office, domain: Domain, step: str) -> None:
    """One step of what happens to a domain, after which whatever is installed must sign."""
    await office.shift("settling_until", timedelta(hours=1))
    if step == "loop":
        await domains.settle(office.db, office.server, office.sealing_key)
    elif step == "check":
        await office.check(domain)
    else:
        await office.publish(domain)
    seen, installed = await office.look(domain), await office.server.find_domain(NAME)
    assert (seen.installed_at is None) == (installed is None)
    if installed is None:
        assert seen.status != "VERIFIED"
        return
    signing = [each for each in await office.keys(domain) if each.stage == "active"]
    assert {each.algorithm for each in signing} == {"ed25519", "rsa"}
    assert {each.selector for each in signing} == {each.selector for each in installed.dkim}


async def patch(office: Office, domain: Domain, **changes: Any) -> None:
    async with office.db.transaction() as tx:
        await domains.update(tx, Reach(domain.organization_id), domain.name, DomainPatch(**changes))


async def test_new_keys_whose_records_are_in_the_place_of_the_old_ones_sign(office: Office) -> None:
    """They would be seen and never used, and the domain broken for want of what they replace."""
    domain = await office.verified()
    before = {each.selector for each in await office.keys(domain)}
    await rotate(office, domain)
    await office.publish(domain, but=before)
    await office.check(domain)
    held = await office.keys(domain)
    assert {each.selector for each in held if each.stage == "retiring"} == before
    seen = await office.look(domain)
    assert (seen.status, seen.failures, seen.reason) == ("VERIFIED", 0, None)
    installed = await office.server.find_domain(NAME)
    assert installed is not None
    assert {each.selector for each in installed.dkim} == {
        each.selector for each in held if each.stage == "active"
    }


async def test_new_keys_do_not_sign_for_whoever_lost_the_domain(office: Office) -> None:
    """The token is gone, and with it the right to change anything."""
    domain = await office.verified()
    before = {each.selector for each in await office.keys(domain)}
    await rotate(office, domain)
    await office.publish(domain, but={"agentmail-verification"})
    await office.check(domain)
    held = await office.keys(domain)
    assert {each.selector for each in held if each.stage == "active"} == before


async def rotate(office: Office, domain: Domain) -> bool:
    pairs = await dkim.new_pairs()
    async with office.db.transaction() as tx:
        found = await domains.get_own(tx, Reach(domain.organization_id), domain.name)
        return await domains.rotate(tx, found, pairs, office.sealing_key)


async def test_old_keys_are_given_up_when_their_mail_has_arrived(office: Office) -> None:
    """Their records are asked for until then, and no longer."""
    domain = await office.verified()
    before = {each.selector for each in await office.keys(domain)}
    assert await rotate(office, domain)
    assert not await rotate(office, domain)
    await office.publish(domain)
    await office.check(domain)
    held = await office.keys(domain)
    assert {each.selector for each in held if each.stage == "retiring"} == before
    await office.shift("retiring_at", timedelta(days=8))
    await office.check(domain)
    held = await office.keys(domain)
    assert {each.stage for each in held} == {"active"}
    assert not {each.selector for each in held} & before


async def test_new_keys_that_are_not_published_break_nothing(office: Office) -> None:
    domain = await office.verified()
    await rotate(office, domain)
    await office.check(domain)
    seen = await office.look(domain)
    assert (seen.status, seen.failures) == ("VERIFIED", 0)


async def test_asking_again_and_again_is_one_check(office: Office) -> None:
    """A client that polls by asking for checks must not make us ask name servers once a second."""
    domain = await office.claim()
    await office.check(domain)
    checked_at = (await office.look(domain)).checked_at
    assert checked_at is not None
    for _ in range(3):
        async with office.db.transaction() as tx:
            await domains.check_soon(tx, domain)
    assert (await office.look(domain)).check_due_at == checked_at + schedule.SPACING


async def test_a_check_asked_for_during_a_check_is_made_after_it(office: Office) -> None:
    """Who mends a record while it is being looked at would otherwise wait for the next one by the clock."""
    domain = await office.claim()
    async with office.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now()")
    async with office.db.transaction() as tx:
        (claim,) = await claim_due(tx, 1)
    async with office.db.transaction() as tx:
        await domains.check_soon(tx, domain)
    await office.checking().check(claim)
    seen = await office.look(domain)
    assert seen.checked_at is not None
    assert seen.check_due_at - seen.checked_at <= 2 * schedule.SPACING
