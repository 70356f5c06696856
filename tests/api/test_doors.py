"""One policy at every door of a real Stalwart: the same mail is refused with the same words at each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping

import pytest

from agentmail_cp import limits, lists
from agentmail_cp.mailserver import Account, MailServerRejected, MailState
from tests.api.doors import DOORS, Mail
from tests.api.doors_page import PAGE, WRITING, Row, Said, page, plain
from tests.api.mailbox import account_of, at, rows
from tests.contract.world import an_email
from tests.fix_app import Json, Service, until

pytestmark = pytest.mark.stalwart

BLOCKED, GONE, STRANGER = "mallory@blocked.test", "gone@suppressed.test", "eve@elsewhere.test"


async def patch(service: Service, inbox: Json, **fields: object) -> Json:
    answer = await service.client.patch(at(inbox), json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


class Case:
    """An inbox that is kept from sending a mail, and one that would get it."""

    def __init__(self, service: Service, inbox: Json, other: Json) -> None:
        self.service = service
        self.inbox = inbox
        self.other = other

    @property
    def fine(self) -> Mail:
        """A mail nothing stands in the way of but the inbox itself."""
        return Mail(to=(self.other["email"],))

    @contextlib.asynccontextmanager
    async def limited(self, **numbers: int) -> AsyncGenerator[None]:
        organization_id = self.service.organization_id
        async with self.service.db.transaction() as tx:
            for name, number in numbers.items():
                await limits.set_limit(tx, organization_id, name, number)
        yield
        async with self.service.db.transaction() as tx:
            for name in numbers:
                await limits.clear_limit(tx, organization_id, name)

    async def everywhere(self, mail: Mail) -> dict[str, Said]:
        return {name: await door(self.service, self.inbox, mail) for name, door in DOORS.items()}


async def paused_for_sending(case: Case) -> dict[str, Said]:
    await patch(case.service, case.inbox, send_paused=True)
    return await case.everywhere(case.fine)


async def paused(case: Case) -> dict[str, Said]:
    await patch(case.service, case.inbox, status="paused")
    return await case.everywhere(case.fine)


async def blocked(case: Case) -> dict[str, Said]:
    entry = await case.service.client.post(
        f"{at(case.inbox)}/lists/send/block", json={"entry": "blocked.test"}
    )
    assert entry.status_code == 201
    return await case.everywhere(Mail(to=(BLOCKED,)))


def tag_of(inbox: Json) -> str:
    """An address that Stalwart knows as this inbox's, too."""
    return inbox["email"].replace("@", "+tag@")


async def blocked_tag(case: Case) -> dict[str, Said]:
    entry = await case.service.client.post(
        f"{at(case.inbox)}/lists/send/block", json={"entry": case.other["email"]}
    )
    assert entry.status_code == 201
    return await case.everywhere(Mail(to=(tag_of(case.other),)))


async def not_allowed(case: Case) -> dict[str, Said]:
    entry = await case.service.client.post(
        f"{at(case.inbox)}/lists/send/allow", json={"entry": "customer.test"}
    )
    assert entry.status_code == 201
    return await case.everywhere(Mail(to=(STRANGER,)))


async def suppressed(case: Case) -> dict[str, Said]:
    async with case.service.db.transaction() as tx:
        await lists.suppress(tx, case.service.organization_id, GONE, origin="bounce")
    return await case.everywhere(Mail(to=(GONE,)))


async def exhausted_for_good(case: Case) -> dict[str, Said]:
    async with case.limited(sends_per_day=1):
        return await case.everywhere(Mail(to=(case.other["email"], case.inbox["email"])))


async def exhausted_for_now(case: Case) -> dict[str, Said]:
    await case.service.send(case.inbox, to=[case.inbox["email"]], text="The one of today.")
    async with case.limited(inbox_sends_per_day=1):
        return await case.everywhere(case.fine)


async def foreign_from(case: Case) -> dict[str, Said]:
    return await case.everywhere(Mail(to=case.fine.to, author=f"Boss <{case.other['email']}>"))


CASES = {
    "`send_paused` is set": paused_for_sending,
    "`status` is `paused`": paused,
    "a recipient is on a block list": blocked,
    "a recipient is a tag of an inbox on a block list": blocked_tag,
    "a recipient is not on the allow list": not_allowed,
    "a recipient is suppressed (it bounced)": suppressed,
    "more recipients than a limit ever allows": exhausted_for_good,
    "a limit is used up for now": exhausted_for_now,
    "From is somebody else's": foreign_from,
}


async def test_every_door_says_the_same(
    real_service: Service, request: pytest.FixtureRequest
) -> None:
    """A paused agent that can still send by SMTP is not paused, and one rule spelt twice is two rules."""
    other = await real_service.inbox("other")
    shown: list[str] = []
    for title, run in CASES.items():
        case = Case(real_service, await real_service.inbox(), other)
        said = await run(case)
        assert_alike(title, said)
        changing = {case.inbox["email"]: "*the inbox*", other["email"]: "*the other*"}
        changing[tag_of(other)] = "*the other, with a tag*"
        shown.append(Row(title, said).shown(changing))
    await nothing_left(real_service, other)
    if request.config.stash.get(WRITING, False):
        PAGE.write_text(page(shown), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(shown), "run `python -m tests.api.write_doors`"


def assert_alike(title: str, said: Mapping[str, Said]) -> None:
    """The same words and code; only From cannot be asked for at the API, which says so."""
    over_smtp = said["SMTP 587"]
    assert said["SMTP 465"] == over_smtp
    if CASES[title] is foreign_from:
        assert said["API"].code == "validation_error"
        return
    assert {plain(each.words, {}) for each in said.values()} == {plain(over_smtp.words, {})}
    assert over_smtp.code == said["API"].code


async def nothing_left(service: Service, other: Json) -> None:
    """What was refused is nowhere: not with its recipient, not in the index, not counted."""
    assert await service.messages(other) == []
    assert await rows(service, "select from submission") == []
    states = await rows(service, "select distinct state from send")
    assert [each["state"] for each in states] == ["sent"]
    counts = await rows(
        service, "select count from send_count where kind = 'organization' and count > 0"
    )
    assert [each["count"] for each in counts] == [1], "the one mail of today that was sent"


async def test_a_tag_that_is_allowed_is_allowed_at_every_door(real_service: Service) -> None:
    """Stalwart asks about the tag, then about the mailbox behind it, which is on no list."""
    inbox, other = await real_service.inbox("sender"), await real_service.inbox("other")
    allowed = {"entry": tag_of(other)}
    entry = await real_service.client.post(f"{at(inbox)}/lists/send/allow", json=allowed)
    assert entry.status_code == 201
    await real_service.send(inbox, to=[tag_of(other)], subject="By API", text="Hello.")
    for title in ("SMTP 587", "SMTP 465"):
        said = await DOORS[title](real_service, inbox, Mail(to=(tag_of(other),)))
        assert said.how == "DATA 250", said
    refused = await DOORS["API"](real_service, inbox, Mail(to=(other["email"],)))
    assert refused.code == "message_rejected"
    await until(lambda: real_service.messages(other), lambda seen: len(seen) == 3, seconds=20)


async def test_jmap_is_no_door(real_service: Service) -> None:
    """Whoever hands a mail in with the mailbox's account, port 0 and all, is still not the API."""
    alice, bob = await real_service.inbox("alice"), await real_service.inbox("bob")
    account_id = await account_of(real_service, alice)
    account = Account(account_id, alice["email"], MailState(""))
    with pytest.raises(MailServerRejected, match="no send of this mail is under way"):
        await real_service.server.submit(account_id, an_email(account, bob["email"]))
    assert (await real_service.server.listing(account_id)).document_ids == ()
    assert await real_service.messages(bob) == []
