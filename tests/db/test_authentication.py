"""What was found out about a sender, in the index: the label that hides a forged mail, and the one event."""

from __future__ import annotations

from functools import partial

import pytest

from agentmail_cp import access, events, lists, messages, policy
from agentmail_cp.access import Reach
from agentmail_cp.authentication import Authentication
from agentmail_cp.db import Database
from agentmail_cp.mailserver import Address, Folder, Mail
from agentmail_cp.messages import Message, Place
from agentmail_cp.settings import Unauthenticated
from tests.db.mailbox import a_mail, an_inbox

FORGED = ("mail.agents.test; spf=fail smtp.mailfrom=ceo@bank.test; dmarc=fail policy.dmarc=reject",)
GENUINE = ("mail.agents.test; dkim=pass header.d=bank.test; dmarc=pass header.from=bank.test",)
SOFT = ("mail.agents.test; spf=softfail smtp.mailfrom=ceo@bank.test; dmarc=none",)
BANK = Address("ceo@bank.test")
JUNK = frozenset({Folder.JUNK})


async def arrive(
    db: Database, place: Place, *mails: Mail, unauthenticated: Unauthenticated = "label"
) -> dict[int, Message]:
    """What the index has of the inbox once intake has written these, by document id."""
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        judge = partial(policy.received, unauthenticated=unauthenticated)
        await messages.record(tx, place, present=mails, judge=judge)
        found, _ = await messages.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=messages.MessageFilter(masks=tuple(range(16))),
            limit=100,
            page_token=None,
        )
    return {row.document_id: row for row in found}


async def announced(db: Database, place: Place) -> list[tuple[int | None, str]]:
    async with db.reading() as tx:
        log = await events.list_of_inbox(tx, place.organization_id, place.inbox_id)
    return [(event.document_id, event.type.value) for event in log]


def hiding(message: Message) -> list[str]:
    return [each for each in message.labels if each not in {"received", "unread"}]


async def test_a_forged_mail_is_hidden_and_announced_as_what_it_is(database: Database) -> None:
    """An agent that pays invoices would pay a forged one."""
    place = await an_inbox(database)
    mails = [
        a_mail(number, authentication_results=results)
        for number, results in enumerate([FORGED, GENUINE, SOFT, ()], 1)
    ]
    found = await arrive(database, place, *mails)
    assert [hiding(found[number]) for number in (1, 2, 3, 4)] == [["unauthenticated"], [], [], []]
    assert await announced(database, place) == [
        (1, "message.received.unauthenticated"),
        *((number, "message.received") for number in (2, 3, 4)),
    ]


async def test_what_was_found_out_is_kept_with_the_message(database: Database) -> None:
    """An agent could not tell a mail that passed from one nobody checked."""
    place = await an_inbox(database)
    found = await arrive(database, place, a_mail(1, authentication_results=GENUINE), a_mail(2))
    assert found[1].authentication == Authentication(
        spf="none",
        dkim="pass",
        dmarc="pass",
        dkim_domains=("bank.test",),
        dmarc_domain="bank.test",
    )
    assert found[2].authentication is None


@pytest.mark.parametrize(
    ("own", "setting", "labels"),
    [
        (None, "label", ["unauthenticated"]),
        (None, "none", []),
        ("none", "label", []),
        ("label", "none", ["unauthenticated"]),
        ("none", "drop", []),
    ],
)
async def test_the_organisations_wish_stands_before_the_setting(
    database: Database, own: Unauthenticated | None, setting: Unauthenticated, labels: list[str]
) -> None:
    """Those who forward all their mail from elsewhere could not read it."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        await access.set_on_unauthenticated(tx, place.organization_id, own)
    mail = a_mail(1, authentication_results=FORGED)
    found = await arrive(database, place, mail, unauthenticated=setting)
    assert hiding(found[1]) == labels
    assert found[1].authentication is not None


async def test_what_is_to_be_erased_and_is_still_there_is_hidden(database: Database) -> None:
    """An inbox read from scratch shows it otherwise."""
    place = await an_inbox(database)
    mail = a_mail(1, authentication_results=FORGED)
    found = await arrive(database, place, mail, unauthenticated="drop")
    assert hiding(found[1]) == ["unauthenticated"]


@pytest.mark.parametrize(
    ("fields", "labels", "event"),
    [
        ({"sender": BANK}, ["blocked", "unauthenticated"], "blocked"),
        ({"folders": JUNK}, ["spam", "unauthenticated"], "spam"),
        ({"sender": BANK, "folders": JUNK}, ["blocked", "spam", "unauthenticated"], "spam"),
    ],
)
async def test_a_mail_with_several_faults_has_every_label_and_one_event(
    database: Database, fields: dict[str, object], labels: list[str], event: str
) -> None:
    """Whoever listens to two of them would act twice; whoever may not read one of them must not see it."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        named = lists.NamedList(Reach(place.organization_id), "receive", "block")
        await lists.create(tx, named, "bank.test", None, most=0)
    found = await arrive(database, place, a_mail(1, authentication_results=FORGED, **fields))
    assert hiding(found[1]) == labels
    assert await announced(database, place) == [(1, f"message.received.{event}")]


async def test_reading_a_mail_again_changes_nothing_of_what_was_found_out(
    database: Database,
) -> None:
    """A keyword set in a mail client, or a full comparison, must neither show a forged mail nor judge it
    by what the organisation wants today.
    """
    place = await an_inbox(database)
    mail = a_mail(1, authentication_results=FORGED)
    await arrive(database, place, mail)
    again = a_mail(1, keywords=frozenset({"$seen", "mine"}))
    found = await arrive(database, place, again, unauthenticated="none")
    assert hiding(found[1]) == ["mine", "unauthenticated"]
    assert found[1].authentication is not None
    assert [kind for _, kind in await announced(database, place)].count("message.received") == 0


async def test_mail_the_inbox_sent_is_not_judged(database: Database) -> None:
    """A copy of somebody's header in an own mail must not hide it."""
    place = await an_inbox(database)
    sent = a_mail(1, folders=frozenset({Folder.SENT}), authentication_results=FORGED)
    found = await arrive(database, place, sent)
    assert found[1].labels == ["sent", "unread"]
    assert found[1].authentication is None


async def test_the_original_recipient_is_kept_with_the_message(database: Database) -> None:
    """With a catch-all inbox an agent could not tell to whom a mail was written."""
    place = await an_inbox(database)
    caught = a_mail(1, original_recipient="sales\x00@corp.test")
    found = await arrive(database, place, caught, a_mail(2))
    assert found[1].original_recipient == "sales@corp.test"
    assert found[2].original_recipient is None
