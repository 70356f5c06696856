"""Rows of drafts and what intake reads: whatever the order, they end as the mailbox is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from agentmail_cp import drafts, messages
from agentmail_cp.db import Database
from agentmail_cp.drafts import Draft, DraftFilter
from agentmail_cp.drafts.draft import list_query, message_id_of
from agentmail_cp.mailserver import AccountId, DocumentId, Folder, Mail
from agentmail_cp.messages import Place
from tests.db.mailbox import START, a_mail, an_inbox

ACCOUNT = AccountId("a")


def a_draft(document_id: int, **fields: Any) -> Mail:
    return a_mail(
        document_id,
        folders=frozenset({Folder.DRAFTS}),
        keywords=frozenset({"$draft", "$seen"}),
        **fields,
    )


async def read(db: Database, place: Place, *present: Mail, destroyed: Sequence[int] = ()) -> None:
    """What intake does with one answer of the mail server."""
    gone = [DocumentId(each) for each in destroyed]
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        filed = await messages.record(tx, place, present=present, destroyed=gone)
        await drafts.record(
            tx, place, account_id=ACCOUNT, present=present, destroyed=gone, filed=filed
        )


async def rows(db: Database, place: Place) -> list[Draft]:
    async with db.transaction() as tx:
        found, _ = await drafts.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=DraftFilter(),
            limit=100,
            page_token=None,
        )
    return found


def facts(
    found: Sequence[Draft],
) -> dict[UUID, tuple[DocumentId | None, str | None, tuple[str, ...]]]:
    return {row.draft_id: (row.document_id, row.subject, tuple(row.labels)) for row in found}


class Mailbox:
    """Drafts as a mail client changes them, and what the mail server tells of it since the last look."""

    def __init__(self, seed: int) -> None:
        self._choose = random.Random(seed)
        self._there: dict[int, Mail] = {}
        self._next = 1

    def act(self) -> tuple[list[Mail], list[int]]:
        """One thing a person does: mails that are there and changed, and mails that are gone."""
        verb = self._choose.choice(["save", "save", "edit", "edit", "tag", "mark", "move", "purge"])
        if verb == "save" or not self._there:
            return [self._stored(self._name())], []
        old = self._there[self._choose.choice(list(self._there))]
        if verb == "edit":
            new = self._stored(old.message_id)
            del self._there[old.document_id]
            return [new], [old.document_id]
        if verb == "purge":
            del self._there[old.document_id]
            return [], [old.document_id]
        return [self._changed(old, verb)], []

    def _name(self) -> str | None:
        own = message_id_of(uuid4(), self._next, "agents.test")
        return self._choose.choice([None, f"{self._next}@client.test", own])

    def _stored(self, message_id: str | None) -> Mail:
        number, self._next = self._next, self._next + 1
        mail = a_draft(number, message_id=message_id, subject=f"Version {number}")
        self._there[number] = mail
        return mail

    def _changed(self, mail: Mail, verb: str) -> Mail:
        fields: dict[str, Any] = {
            "tag": {"keywords": mail.keywords ^ {"checked"}},
            "mark": {"keywords": mail.keywords ^ {"$deleted"}},
            "move": {"folders": mail.folders ^ {Folder.DRAFTS}},
        }[verb]
        changed = msgspec.structs.replace(mail, **fields)
        self._there[mail.document_id] = changed
        return changed

    def everything(self) -> list[Mail]:
        """The newest copy of each draft, as a client that saves anew removes the old one."""
        return [self._there[each] for each in sorted(self._there)]


@pytest.mark.parametrize("seed", range(30))
async def test_rows_that_followed_every_change_are_those_read_from_scratch(
    database: Database, seed: int
) -> None:
    """After losing the mail server's history, drafts would be other ones, or more, or fewer."""
    place, again = await an_inbox(database), await an_inbox(database)
    mailbox = Mailbox(seed)
    for _ in range(40):
        present, destroyed = mailbox.act()
        await read(database, place, *present, destroyed=destroyed)
        if seed % 2:
            await read(database, place, *present, destroyed=destroyed)
    async with database.transaction() as tx:
        await tx.execute(
            "update draft set inbox_id = %(again)s, organization_id = %(theirs)s"
            " where inbox_id = %(inbox_id)s",
            {
                "again": again.inbox_id,
                "theirs": again.organization_id,
                "inbox_id": place.inbox_id,
            },
        )
    followed = facts(await rows(database, again))
    await read(database, place, *mailbox.everything())
    assert facts(await rows(database, place)) == followed


async def test_an_inbox_with_many_drafts_lists_without_sorting_them(database: Database) -> None:
    """Listing would become slower with every draft an organisation has."""
    place = await an_inbox(database)
    for start in range(0, 400, 100):
        await read(
            database,
            place,
            *(
                a_draft(each, message_id=f"{each}@x.test", received_at=START + timedelta(each))
                for each in range(start + 1, start + 101)
            ),
        )
    scopes: list[dict[str, Any]] = [
        {"inbox_id": place.inbox_id},
        {"pod_id": place.pod_id},
        {},
    ]
    for scope in scopes:
        async with database.transaction() as tx:
            await tx.execute("analyze draft")
            # So few rows are sorted faster than looked up; this asks whether they need to be.
            await tx.execute("set local enable_sort = off")
            query, parameters = list_query(DraftFilter(), **scope)
            parameters |= {"organization_id": place.organization_id}
            explained = await tx.execute(
                "explain " + query + " order by updated_at desc, draft_id desc limit 50", parameters
            )
            plan = "\n".join(str(row["QUERY PLAN"]) for row in await explained.fetchall())
        assert "Sort" not in plan, plan
        assert "draft_list" in plan, plan
