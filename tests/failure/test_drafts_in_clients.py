"""Drafts in a mail client and in the API are the same drafts, on a real Stalwart."""

from __future__ import annotations

import asyncio
import email.policy
import imaplib
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from typing import Any, TypeVar, cast

import pytest
from imapclient import DELETED, DRAFT, SEEN, IMAPClient

from tests.api.drafting import ahead, change, listed, look, make, path, send, status
from tests.failure.real import Ringing, Running
from tests.fix_app import OUTSIDER, Json, Service, until
from tests.fix_stalwart import unverified

pytestmark = pytest.mark.stalwart

T = TypeVar("T")
SOON = 2.0


async def in_client(service: Service, inbox: Json, act: Callable[[IMAPClient], T]) -> T:
    """Do something in a mail client, logged in with the inbox's own password, in its Drafts."""
    assert service.stalwart is not None
    port = service.stalwart.process.ports.imaps

    def run() -> T:
        with IMAPClient("127.0.0.1", port, ssl_context=unverified(), timeout=20) as client:
            client.login(inbox["email"], inbox["credentials"]["password"])
            client.select_folder("Drafts")
            return act(client)

    return await asyncio.to_thread(run)


def written(inbox: Json, subject: str = "By hand", **headers: str) -> EmailMessage:
    """A draft as Thunderbird saves it."""
    mail = EmailMessage()
    mail["Message-ID"] = headers.pop("Message_ID", "<thunderbird-1@client.test>")
    mail["From"] = f"A Person <{inbox['email']}>"
    mail["To"] = headers.pop("To", f"Ada Lovelace <{OUTSIDER}>")
    mail["Subject"] = subject
    mail["Date"] = datetime(2026, 11, 1, tzinfo=UTC)
    mail["X-Mozilla-Draft-Info"] = "internal/draft; vcard=0; receipt=0"
    mail["X-Identity-Key"] = "id1"
    mail["Fcc"] = "imap://agent@agents.test/Sent"
    mail["User-Agent"] = "Mozilla Thunderbird"
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content("Dear Ada,\n\nas discussed.\n")
    mail.add_alternative('<p>Dear Ada,</p><img src="cid:logo@client">', subtype="html")
    html = mail.get_payload(1)
    assert isinstance(html, EmailMessage)
    html.add_related(
        b"\x89PNG logo",
        "image",
        "png",
        cid="<logo@client>",
        filename="logo.png",
        disposition="inline",
    )
    mail.add_attachment(b"%PDF plan", maintype="application", subtype="pdf", filename="Plän.pdf")
    return mail


def append(mail: EmailMessage) -> Callable[[IMAPClient], object]:
    return lambda client: client.append("Drafts", mail.as_bytes(), [DRAFT, SEEN])


def only(client: IMAPClient) -> EmailMessage:
    """The only mail of the folder."""
    (uid,) = client.search("UNDELETED")
    fetched: dict[bytes, Any] = cast("Any", client.fetch([uid], ["BODY.PEEK[]", "FLAGS"]))[uid]
    assert DRAFT in fetched[b"FLAGS"]
    return message_from_bytes(fetched[b"BODY[]"], policy=email.policy.default)


async def test_a_draft_shows_in_a_mail_client_with_everything(real_service: Service) -> None:
    """Whoever looks over what an agent wrote could not do it in their mail client."""
    inbox = await real_service.inbox("agent", display_name="Agent Smith")
    draft = await make(
        real_service,
        inbox,
        to=f"Ada Lovelace <{OUTSIDER}>",
        cc="bob@elsewhere.test",
        bcc="cy@elsewhere.test",
        subject="Größe",
        text="Dear Ada",
        html="<p>Dear Ada</p>",
        labels=["review me"],
        attachments=[{"content": "JVBERg==", "filename": "a.pdf"}],
    )
    mail = await in_client(real_service, inbox, only)
    assert mail["From"] == f"Agent Smith <{inbox['email']}>"
    assert mail["To"] == f"Ada Lovelace <{OUTSIDER}>"
    assert mail["Cc"] == "bob@elsewhere.test"
    assert mail["Bcc"] == "cy@elsewhere.test"
    assert mail["Subject"] == "Größe"
    body, attached = (
        mail.get_body(("plain",)),
        [each.get_filename() for each in mail.iter_attachments()],
    )
    assert body is not None
    assert body.get_content().strip() == "Dear Ada"
    assert attached == ["a.pdf"]
    await change(real_service, inbox, draft, subject="Changed", text="Dear all")
    mail = await in_client(real_service, inbox, only)
    assert mail["Subject"] == "Changed"
    assert [each.get_filename() for each in mail.iter_attachments()] == ["a.pdf"]
    await real_service.client.delete(path(inbox, draft))
    left = await in_client(real_service, inbox, lambda client: client.search())
    assert left == []


async def test_a_draft_written_in_a_mail_client_shows_changes_and_goes_out(
    real_service: Service,
) -> None:
    """A person could not begin a mail for their agent to finish and send."""
    inbox = await real_service.inbox("agent")
    other = await real_service.inbox("other")
    mail = written(inbox, To=other["email"], In_Reply_To="<p@x.test>", References="<p@x.test>")
    await in_client(real_service, inbox, append(mail))
    (item,) = await until(
        lambda: listed(real_service, inbox), lambda seen: len(seen) == 1, seconds=SOON
    )
    draft = await look(real_service, inbox, item)
    assert draft["subject"] == "By hand"
    assert draft["to"] == [other["email"]]
    assert draft["text"].startswith("Dear Ada,")
    assert "cid:logo@client" in draft["html"]
    assert draft["labels"] == ["draft"]
    assert draft["in_reply_to"] == "<p@x.test>"
    assert {each["filename"] for each in draft["attachments"]} == {"logo.png", "Plän.pdf"}
    changed = await change(real_service, inbox, draft, subject="Finished")
    assert changed["attachments"] == draft["attachments"]
    answer = await send(real_service, inbox, draft)
    assert answer.status_code == 200, answer.text
    (got,) = await until(
        lambda: real_service.messages(other), lambda seen: len(seen) == 1, seconds=SOON
    )
    base = f"/v0/inboxes/{other['inbox_id']}/messages/{got['message_id']}"
    whole = (await real_service.client.get(base)).json()
    assert whole["subject"] == "Finished"
    assert whole["text"].startswith("Dear Ada,")
    assert {each["filename"] for each in whole["attachments"]} == {"logo.png", "Plän.pdf"}
    inline = {e["filename"]: e["content_disposition"] for e in whole["attachments"]}
    assert inline["logo.png"] == "inline"
    assert whole["in_reply_to"] == "<p@x.test>"
    names = {name.lower() for name in whole["headers"]}
    assert not names & {"fcc", "user-agent", "x-identity-key", "x-mozilla-draft-info", "bcc"}
    assert whole["message_id"] != "<thunderbird-1@client.test>"
    left = await in_client(real_service, inbox, lambda client: client.search())
    assert left == []


Edit = Callable[[Json, EmailMessage], Callable[[IMAPClient], object]]


def save_anew(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    """A client saves a new copy and expunges the old one."""

    def act(client: IMAPClient) -> None:
        uids = client.search()
        client.append(
            "Drafts", written(inbox, Message_ID=str(old["Message-ID"])).as_bytes(), [DRAFT, SEEN]
        )
        client.delete_messages(uids)
        client.expunge()

    return act


def save_under_another_id(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    """A client that gives each version an id of its own, and never expunges."""

    def act(client: IMAPClient) -> None:
        uids = client.search()
        client.append("Drafts", written(inbox).as_bytes(), [DRAFT, SEEN])
        client.delete_messages(uids)

    return act


def save_beside(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    """A client that has saved the new copy, and not got to removing the old one."""

    def act(client: IMAPClient) -> None:
        client.append(
            "Drafts", written(inbox, Message_ID=str(old["Message-ID"])).as_bytes(), [DRAFT, SEEN]
        )

    return act


def expunge(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    def act(client: IMAPClient) -> None:
        client.delete_messages(client.search())
        client.expunge()

    return act


def only_mark(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    r"""`\Deleted` without EXPUNGE."""

    def act(client: IMAPClient) -> None:
        client.add_flags(client.search(), [DELETED])

    return act


def throw_away(inbox: Json, old: EmailMessage) -> Callable[[IMAPClient], object]:
    """Thunderbird's way to delete: move it to Trash."""
    return lambda client: client.move(client.search(), "Trash")


async def unread(service: Service) -> int:
    """How many drafts intake has not read yet. One that is gone before it is goes unannounced, and is
    found out a little later.
    """
    async with service.db.transaction() as tx:
        found = await tx.execute("select from draft where lease_until is not null")
        return found.rowcount


EDITS = [save_anew, save_under_another_id, save_beside, expunge, only_mark, throw_away]


@pytest.mark.parametrize("edit", EDITS)
async def test_a_scheduled_draft_touched_in_a_client_is_unscheduled(
    real_service: Service, edit: Edit
) -> None:
    """What a person corrected or deleted would be sent all the same."""
    inbox, other = await real_service.inbox("agent"), await real_service.inbox("other")
    draft = await make(real_service, inbox, to=other["email"], subject="Stale", send_at=ahead(3))
    old = await in_client(real_service, inbox, only)
    await until(lambda: unread(real_service), lambda count: count == 0, seconds=SOON)
    await in_client(real_service, inbox, edit(inbox, old))
    wanted = 1 if edit.__name__.startswith("save") else 0

    async def unscheduled() -> bool:
        shown = await listed(real_service, inbox)
        return len(shown) == wanted and all(
            each["labels"] == ["draft"] and each["subject"] == "By hand" for each in shown
        )

    await until(unscheduled, lambda done: done, seconds=SOON)
    assert await status(real_service, inbox, draft) == (
        200 if edit in {save_anew, save_beside} else 404
    )
    await asyncio.sleep(3)
    assert await real_service.messages(other) == []
    assert await real_service.messages(inbox, include_trash="true") == []


@pytest.mark.parametrize("edit", EDITS)
async def test_a_stale_version_is_not_sent_though_intake_has_not_read(
    real_service: Service, edit: Edit
) -> None:
    """An edit in the last moment, or while intake is behind, would come too late."""
    inbox, other = await real_service.inbox("agent"), await real_service.inbox("other")
    draft = await make(real_service, inbox, to=other["email"], subject="Stale")
    old = await in_client(real_service, inbox, only)
    await until(lambda: listed(real_service, inbox), lambda seen: len(seen) == 1)
    async with real_service.db.transaction() as tx:
        # Nobody reads the inbox while its row is locked; the edit is in the mail server alone.
        await tx.execute(
            "select from inbox_sync where account_id = (select account_id from draft"
            " where draft_id = %(draft_id)s) for update",
            {"draft_id": draft["draft_id"]},
        )
        await in_client(real_service, inbox, edit(inbox, old))
        sending = asyncio.create_task(send(real_service, inbox, draft))
        await asyncio.sleep(0.3)
    answer = await sending
    assert answer.status_code in {404, 409}, answer.text
    await asyncio.sleep(0.5)
    assert await real_service.messages(other) == []


async def test_a_draft_that_is_gone_before_anybody_read_it_is_not_listed_for_long(
    real_service: Service,
) -> None:
    """A mail that comes and goes between two readings is in no list of changes."""
    inbox = await real_service.inbox("agent")
    async with real_service.db.transaction() as tx:
        await tx.execute("update inbox_sync set claimed_until = now() + interval '1 h'")
    draft = await make(real_service, inbox, subject="Brief")
    async with real_service.db.transaction() as tx:
        await tx.execute(
            "update inbox_sync set claimed_until = now() + interval '1 h', due_at = null"
        )
    old = await in_client(real_service, inbox, only)
    await in_client(real_service, inbox, expunge(inbox, old))
    async with real_service.db.transaction() as tx:
        await tx.execute("update inbox_sync set claimed_until = null, due_at = now()")
    assert await status(real_service, inbox, draft) == 404
    await until(lambda: listed(real_service, inbox), lambda seen: seen == [], seconds=15)


async def test_flags_are_no_edit(real_service: Service) -> None:
    """Opening a scheduled draft in a mail client, or tagging it, would take it off the schedule."""
    inbox = await real_service.inbox("agent")
    draft = await make(real_service, inbox, subject="Kept", send_at=ahead(3600))

    def tag(client: IMAPClient) -> None:
        client.add_flags(client.search(), ["checked"])

    await in_client(real_service, inbox, tag)
    await until(
        lambda: look(real_service, inbox, draft),
        lambda seen: seen["labels"] == ["checked", "draft", "scheduled"],
        seconds=SOON,
    )
    await change(real_service, inbox, draft, remove_labels=["checked"], add_labels=["ok"])

    def flags(client: IMAPClient) -> set[bytes]:
        found = cast("dict[int, Any]", client.get_flags(client.search()))
        return set(next(iter(found.values())))

    assert await in_client(real_service, inbox, flags) >= {b"ok"}
    assert b"checked" not in await in_client(real_service, inbox, flags)


async def test_a_half_written_address_is_not_left_out(real_service: Service) -> None:
    """A mail would go to some of those it was meant for, and nobody would notice."""
    inbox, other = await real_service.inbox("agent"), await real_service.inbox("other")
    await in_client(real_service, inbox, append(written(inbox, To=f"ada, {other['email']}")))
    (draft,) = await until(lambda: listed(real_service, inbox), lambda seen: len(seen) == 1)
    answer = await send(real_service, inbox, draft)
    assert answer.status_code == 400, answer.text
    answer = await real_service.client.patch(path(inbox, draft), json={"subject": "x"})
    assert answer.status_code == 400, answer.text
    assert await real_service.messages(other) == []
    await change(real_service, inbox, draft, to=other["email"])
    assert (await send(real_service, inbox, draft)).status_code == 200


async def test_sends_do_not_flash_up_as_drafts(real_service: Service) -> None:
    """Every send passes through Drafts: agents that watch drafts would see each of them."""
    inbox = await real_service.inbox("agent")
    seen: list[Json] = []

    async def watch() -> None:
        while True:
            seen.extend(await listed(real_service, inbox))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    for number in range(20):
        await real_service.send(inbox, to=inbox["email"], subject=str(number), text="T")
    await asyncio.sleep(0.3)
    watching.cancel()
    assert seen == []


async def test_what_a_client_does_to_drafts_rings(live: Running, ringing: Ringing) -> None:
    """Drafts would follow a mail client only once a minute."""
    inbox = await live.inbox()

    async def shown() -> list[str]:
        answer = await live.client.get(path(inbox))
        return [each["subject"] for each in answer.json()["drafts"]]

    def save(client: imaplib.IMAP4_SSL) -> None:
        client.append("Drafts", r"(\Draft \Seen)", "", written(inbox).as_bytes())

    def mark(client: imaplib.IMAP4_SSL) -> None:
        client.select("Drafts")
        client.store("1", "+FLAGS", r"(\Deleted)")

    def unmark(client: imaplib.IMAP4_SSL) -> None:
        client.select("Drafts")
        client.store("1", "-FLAGS", r"(\Deleted)")

    def purge(client: imaplib.IMAP4_SSL) -> None:
        client.select("Drafts")
        client.store("1", "+FLAGS", r"(\Deleted)")
        client.expunge()

    for act, expected in ((save, ["By hand"]), (mark, []), (unmark, ["By hand"]), (purge, [])):
        with ringing.imap(inbox) as client:
            await asyncio.to_thread(act, client)
            await until(shown, lambda seen, wanted=expected: seen == wanted, seconds=SOON)


async def test_two_replicas_replace_a_draft_at_once(real_service: Service) -> None:
    """Both versions would stay, or neither."""
    inbox = await real_service.inbox("agent")
    draft = await make(real_service, inbox, subject="0", text="T")
    answers = await asyncio.gather(
        *(
            real_service.client.patch(path(inbox, draft), json={"subject": str(number)})
            for number in range(1, 9)
        )
    )
    assert {each.status_code for each in answers} <= {200, 409}
    mail = await in_client(real_service, inbox, only)
    assert (await look(real_service, inbox, draft))["subject"] == mail["Subject"]
    assert await real_service.fire() == 0
