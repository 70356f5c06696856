"""What is done to a server while a tape records, and done again to the tape by the tests.

Each scenario starts on a fresh server, so names, ids and states are the same whenever it is recorded.
It returns what its tests look at. `Stage` is the little it needs beside the port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from agentmail_cp.mailserver import (
    AccountId,
    Address,
    BlobId,
    Changes,
    Cursor,
    DocumentId,
    Folder,
    MailServerError,
    MailState,
    NewAccount,
    OutgoingAttachment,
    OutgoingEmail,
    Relabel,
)
from agentmail_cp.sandbox.reports import feedback_report
from agentmail_cp.stalwart import StalwartMailServer, setup
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer
from agentmail_cp.stalwart.jmap import JmapClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

DOMAIN = "agents.test"
HASH = "{SHA512}" + "A" * 86 + "=="
NOBODY = AccountId("zzzz")
WHEN = datetime(2026, 11, 21, 4, 30, tzinfo=UTC)

Results = dict[str, Any]


class Stage(Protocol):
    """What a scenario needs beside the adapter."""

    async def deliver(self, raw: bytes, to: str) -> None:
        """Hand a mail to the MX port; nothing on a tape."""
        ...

    async def settle(self) -> None:
        """Wait until what was delivered is stored and threads are merged; nothing on a tape."""
        ...


Scenario = Callable[[JmapClient, Stage], Awaitable[Results]]


async def refusal(doing: Awaitable[object]) -> MailServerError:
    """The error that the action ends with."""
    try:
        await doing
    except MailServerError as error:
        return error
    raise AssertionError("nothing was refused")


async def accounts(client: JmapClient, _: Stage) -> Results:
    server = StalwartMailServer(client)
    found: Results = {"status": await server.status()}
    await server.ensure_domain("Second.test")
    await server.ensure_domain("second.test")
    found["made"] = await server.create_account(NewAccount("Ada@agents.test", "Ada Ä", HASH))
    found["bare"] = await server.create_account(NewAccount("bare@second.test"))
    found["taken"] = await refusal(server.create_account(NewAccount("ada@agents.test")))
    found["no domain"] = await refusal(server.create_account(NewAccount("ada@nowhere.test")))
    found["bad name"] = await refusal(server.create_account(NewAccount("a()b@agents.test")))
    found["found"] = await server.find_account("ADA@agents.test")
    found["stranger"] = await server.find_account("agentmail-cp@control-plane.internal")
    found["unknown"] = await server.find_account("nobody@agents.test")
    ada = found["made"].account_id
    for password_hash in (None, None, HASH, HASH.replace("A", "B")):
        await server.set_password(ada, password_hash)
    found["no account"] = await refusal(server.set_password(NOBODY, None))
    await server.retire_account(ada)
    await server.retire_account(ada)
    found["retired"] = await server.find_account("ada@agents.test")
    found["kept"] = await refusal(server.create_account(NewAccount("ada@agents.test")))
    await server.destroy_account(ada)
    await server.destroy_account(ada)
    found["again"] = await server.create_account(NewAccount("ada@agents.test"))
    return found


async def stale_ids(client: JmapClient, _: Stage) -> Results:
    """Ids the adapter remembers die under it: a role, a domain made anew by an administrator."""
    server = StalwartMailServer(client)
    domain = await made(client, "x:Domain", {"name": "second.test", **NO_DKIM})
    await refusal(server.create_account(NewAccount("a()b@second.test")))
    role = await role_id(client)
    (permissions,) = (await got(client, "x:Role", role, "enabledPermissions")).values()
    await destroyed(client, "x:Role", role)
    await made(
        client,
        "x:Role",
        {"description": setup.MAILBOX_ROLE, "enabledPermissions": permissions},
    )
    found: Results = {"role": await server.create_account(NewAccount("one@second.test"))}
    await server.destroy_account(found["role"].account_id)
    await destroyed(client, "x:Domain", domain)
    await made(client, "x:Domain", {"name": "other.test", **NO_DKIM})
    await made(client, "x:Domain", {"name": "second.test", **NO_DKIM})
    found["domain"] = await server.create_account(NewAccount("two@second.test"))
    found["found"] = await server.find_account("two@second.test")
    return found


NO_DKIM = {"dkimManagement": {"@type": "Manual"}}


async def made(client: JmapClient, kind: str, value: dict[str, Any]) -> str:
    call = Call(f"{kind}/set", {"create": {"it": value}}, "0")
    answer = (await client.call(call))["0"].into(SetAnswer)
    new = answer.made("it")
    assert new is not None, answer.not_created
    return new


async def destroyed(client: JmapClient, kind: str, object_id: str) -> None:
    call = Call(f"{kind}/set", {"destroy": [object_id]}, "0")
    answer = (await client.call(call))["0"].into(SetAnswer)
    assert not answer.not_destroyed, answer.not_destroyed


async def got(client: JmapClient, kind: str, object_id: str, *properties: str) -> Results:
    call = Call(f"{kind}/get", {"ids": [object_id], "properties": [*properties]}, "0")
    (found,) = (await client.call(call))["0"].into(GetAnswer[Results]).found
    return {key: found[key] for key in properties}


async def role_id(client: JmapClient) -> str:
    call = Call("x:Role/get", {"ids": None, "properties": ["id", "description"]}, "0")
    roles = (await client.call(call))["0"].into(GetAnswer[dict[str, str]]).found
    return next(role["id"] for role in roles if role["description"] == setup.MAILBOX_ROLE)


def letter(address: str, *recipients: str, **other: Any) -> OutgoingEmail:
    email = OutgoingEmail(
        message_id="m1@agents.test",
        date=WHEN,
        sender=Address(address),
        to=tuple(Address(each) for each in recipients),
        subject="Hello",
        text="Hi there",
        recipients=recipients,
    )
    return msgspec.structs.replace(email, **other)


async def sending(client: JmapClient, _: Stage) -> Results:
    server = StalwartMailServer(client)
    ada = await server.create_account(NewAccount("ada@agents.test"))
    bob = await server.create_account(NewAccount("bob@agents.test"))
    who = ada.account_id
    blob = await server.upload(who, b"%PDF-", "application/pdf")
    email = letter(
        ada.address,
        bob.address,
        "nobody@agents.test",
        sender=Address(ada.address, "Ada Ä"),
        html="<p>Hi</p>",
        in_reply_to=("r1@remote.test",),
        references=("r0@remote.test", "r1@remote.test"),
        headers=(("X-Run", "7"), ("X-Run", "8")),
        attachments=(OutgoingAttachment(blob, "application/pdf", "Übersicht.pdf"),),
        keywords=frozenset({"Blue"}),
    )
    found: Results = {"mixed": await server.submit(who, email)}
    found["own"] = await server.find_own(who, "m1@agents.test", ada.state)
    found["own from scratch"] = await server.find_own(who, "m1@agents.test", None)
    found["own from a lost state"] = await server.find_own(
        who, "m1@agents.test", MailState("sqqqq")
    )
    found["own from no state"] = await server.find_own(who, "m1@agents.test", MailState("no state"))
    found["not own"] = await server.find_own(who, "m2@agents.test", ada.state)
    found["stored"] = await server.fetch(who, [found["mixed"].document_id])
    many = frozenset(f"k{number}" for number in range(99))
    found["full"] = await server.relabel(who, [Relabel(found["mixed"].document_id, add=many)])
    late = letter(
        ada.address, bob.address, message_id="late@agents.test", keywords=frozenset({"Late"})
    )
    found["late"] = await server.submit(who, late)
    found["none"] = await server.submit(who, letter(ada.address, "nobody@agents.test"))
    found["sender"] = await refusal(server.submit(who, letter("other@agents.test", bob.address)))
    found["recipient"] = await refusal(server.submit(who, letter(ada.address, "not an address")))
    lost = OutgoingAttachment(BlobId("zzz"), "text/plain")
    found["blob"] = await refusal(
        server.submit(who, letter(ada.address, bob.address, attachments=(lost,)))
    )
    found["nobody"] = await refusal(server.submit(NOBODY, letter(ada.address, bob.address)))
    found["left"] = await server.listing(who)
    await renew_identity(client, who, ada.address)
    again = letter(ada.address, bob.address, message_id="m3@agents.test")
    found["stale identity"] = await server.submit(who, again)
    for number, role in enumerate(("sent", "drafts")):
        await delete_folder(client, who, role)
        message_id = f"folder{number}@agents.test"
        found[f"no {role}"] = await server.submit(
            who, letter(ada.address, bob.address, message_id=message_id)
        )
    found["filed"] = await server.fetch(
        who, [found["no sent"].document_id, found["no drafts"].document_id]
    )
    return found


async def renew_identity(client: JmapClient, account_id: AccountId, address: str) -> None:
    """What an administrator or another client may do at any time."""
    get = Call("Identity/get", {"accountId": account_id, "ids": None}, "0")
    old = [each["id"] for each in (await client.call(get))["0"].into(GetAnswer[Results]).found]
    arguments = {
        "accountId": account_id,
        "create": {"it": {"name": "New", "email": address}},
        "destroy": old,
    }
    answer = (await client.call(Call("Identity/set", arguments, "0")))["0"].into(SetAnswer)
    assert answer.made("it"), answer.not_created


async def delete_folder(client: JmapClient, account_id: AccountId, role: str) -> None:
    """What people do in their mail client."""
    get = Call("Mailbox/get", {"accountId": account_id, "properties": ["id", "role"]}, "0")
    folders = (await client.call(get))["0"].into(GetAnswer[Results]).found
    (folder,) = (each["id"] for each in folders if each["role"] == role)
    arguments = {
        "accountId": account_id,
        "destroy": [folder],
        "onDestroyRemoveEmails": True,
    }
    answer = (await client.call(Call("Mailbox/set", arguments, "0")))["0"].into(SetAnswer)
    assert not answer.not_destroyed, answer.not_destroyed


async def changed(
    server: StalwartMailServer, account_id: AccountId, state: MailState, limit: int = 200
) -> Changes:
    answer = (await server.changes([Cursor(account_id, state)], limit=limit))[account_id]
    assert isinstance(answer, Changes), answer
    return answer


def mail(message_id: str, subject: str = "Hello", *headers: str) -> bytes:
    lines = (
        "From: Peer <peer@remote.test>",
        "To: ada@agents.test",
        "Date: Sat, 21 Nov 2026 06:30:00 +0200",
        f"Message-ID: <{message_id}>",
        f"Subject: {subject}",
        *headers,
    )
    return "\r\n".join([*lines, "", "Hi there", ""]).encode()


async def receiving(client: JmapClient, stage: Stage) -> Results:
    server = StalwartMailServer(client)
    ada = await server.create_account(NewAccount("ada@agents.test"))
    who = ada.account_id
    await stage.deliver(mail("a@x", "Hello", "In-Reply-To: <root1@x>"), ada.address)
    await stage.deliver(mail("b@x", "Hello", "In-Reply-To: <root2@x>"), ada.address)
    await stage.settle()
    first = await changed(server, who, ada.state)
    found: Results = {"first": first}
    merging = "References: <root1@x> <root2@x>"
    await stage.deliver(mail("c@x", "Hello", merging), ada.address)
    await stage.settle()
    since = first.state
    found["merged"] = await changed(server, who, since)
    found["page 1"] = await changed(server, who, since, limit=1)
    found["page 2"] = await changed(server, who, found["page 1"].state, limit=1)
    found["listing"] = await server.listing(who)
    cursors = [
        Cursor(who, since),
        Cursor(NOBODY, MailState("n")),
        Cursor(AccountId("none"), None),
    ]
    found["many"] = await server.changes(cursors)
    cursors[1] = Cursor(NOBODY, MailState("garbage"))
    found["garbage"] = await server.changes(cursors)
    found["lost"] = (await server.changes([Cursor(who, MailState("sqqqq"))]))[who]
    one = DocumentId(1)
    found["content"] = await server.read(who, [one, DocumentId(99)])
    blob = found["content"][one].raw_blob_id
    found["raw"] = b"".join([chunk async for chunk in server.download(who, blob)])
    found["part"] = b"".join([c async for c in server.download(who, blob, start=5, stop=20)])
    await server.relabel(who, [Relabel(one, frozenset({"Blue", "$seen"}), move_to=Folder.TRASH)])
    await server.relabel(who, [Relabel(one, remove=frozenset({"BLUE"}))])
    found["relabelled"] = await server.fetch(who, [one])
    change = frozenset({"x"})
    found["gone"] = await refusal(server.relabel(who, [Relabel(DocumentId(99), change)]))
    found["appended"] = await server.append(who, mail("d@x"), folder=Folder.JUNK)
    found["no mail"] = await refusal(server.append(who, b"not a mail", folder=Folder.INBOX))
    await server.destroy_mail(who, [one, DocumentId(99)])
    found["destroyed"] = await changed(server, who, found["merged"].state)
    html = mail("e@x", "Hello", "Content-Type: text/html").replace(
        b"Hi there", b"Hi <b>there</b>, Ada"
    )
    await server.append(who, html, folder=Folder.INBOX)
    found["html"] = await changed(server, who, found["destroyed"].state)
    return found


async def drafts(client: JmapClient, _: Stage) -> Results:
    """Versions of drafts, and the folder they are in deleted under us."""
    server = StalwartMailServer(client)
    ada = await server.create_account(NewAccount("ada@agents.test"))
    who = ada.account_id
    blob = await server.upload(who, b"%PDF-", "application/pdf")
    file = OutgoingAttachment(blob, "application/pdf", "Plan.pdf")
    email = letter(ada.address, "bob@agents.test", keywords=frozenset({"Blue"}))
    first = await server.store_draft(who, email)
    newer = msgspec.structs.replace(email, text="Better", attachments=(file,))
    second = await server.store_draft(who, newer, replaces=first.document_id)
    found: Results = {"first": first, "second": second}
    found["late"] = await refusal(server.store_draft(who, email, replaces=first.document_id))
    lost = OutgoingAttachment(BlobId("zzz"), "text/plain")
    broken = msgspec.structs.replace(email, attachments=(lost,))
    found["broken"] = await refusal(server.store_draft(who, broken, replaces=second.document_id))
    found["nobody"] = await refusal(server.store_draft(NOBODY, email))
    found["left"] = await server.find(who, email.message_id, ada.state)
    found["none"] = await server.find(who, "m2@agents.test", ada.state)
    found["attachments"] = await server.attachments(
        {who: [second.document_id, DocumentId(99)], NOBODY: [DocumentId(1)]}
    )
    await delete_folder(client, who, "drafts")
    found["no drafts"] = await server.store_draft(who, email)
    raw = await server.upload(who, mail("a@x"), "message/rfc822")
    await delete_folder(client, who, "drafts")
    appended = await server.append(who, raw, folder=Folder.DRAFTS, received_at=WHEN)
    found["appended"] = await server.fetch(who, [appended])
    found["no blob"] = await refusal(server.append(who, BlobId("never"), folder=Folder.INBOX))
    return found


async def searching(client: JmapClient, stage: Stage) -> Results:
    server = StalwartMailServer(client)
    ada = await server.create_account(NewAccount("ada@agents.test"))
    bob = await server.create_account(NewAccount("bob@agents.test"))
    who = ada.account_id
    for number in range(3):
        await server.append(
            who,
            mail(f"{number}@x", "Zebra" if number else "Other").replace(
                b"Hi there", b"Hi there, zebra crossing" if number < 2 else b"Hi"
            ),
            folder=Folder.INBOX,
            received_at=WHEN + timedelta(days=number),
        )
    await stage.settle()
    accounts = [who, bob.account_id, NOBODY]
    found: Results = {"all": await server.search(accounts, "zebra peer", limit=9)}
    found["one"] = await server.search(accounts, "Zebra-crossing", limit=1)
    found["colon"] = await server.search(accounts, "it:zebra", limit=1)
    ids = [DocumentId(number) for number in (1, 2, 3, 99)]
    found["excerpts"] = await server.excerpts(who, ids, "zebra")
    found["nobody"] = await refusal(server.excerpts(NOBODY, ids, "zebra"))
    return found


async def wire(client: JmapClient, _: Stage) -> Results:
    server = StalwartMailServer(client)
    await server.ring()
    found: Results = {"limits": await client.limits()}
    echoes = [Call("Core/echo", {}, str(number)) for number in range(300)]
    found["too many calls"] = await refusal(client.call(*echoes))
    found["unreadable"] = await refusal(
        client.call(Call("Email/get", {"accountId": "b", "ids": 7, "properties": []}, "0"))
    )
    unknown = (await client.call(Call("Email/get", {"accountId": "!!", "ids": []}, "0")))["0"]
    found["account"] = unknown.error
    download = server.download(NOBODY, BlobId("never"))
    found["no blob"] = await refusal(anext(download))
    found["not found"] = await refusal(client.get_json("/api/nothing", dict[str, Any]))
    found["split"] = await client.call_many([[echo] for echo in echoes])
    return found


async def queueing(client: JmapClient, stage: Stage) -> Results:
    """A mailbox without room, so that mail to it waits; and a complaint to the postmaster."""
    server = StalwartMailServer(client)
    ada = await server.create_account(NewAccount("ada@agents.test"))
    bob = await server.create_account(NewAccount("bob@agents.test"))
    full = await server.create_account(NewAccount("full@agents.test"))
    await server.create_account(NewAccount("postmaster@agents.test"))
    no_room = {"update": {full.account_id: {"quotas": {"maxDiskQuota": 1}}}}
    await client.call(Call("x:Account/set", no_room, "0"))
    email = letter(ada.address, bob.address, full.address, message_id="a+b=c@agents.test")
    await server.submit(ada.account_id, email)
    await server.submit(ada.account_id, letter(ada.address, full.address, message_id="x" * 200))
    complaint = feedback_report(b"Message-ID: <m@x>", sender="A@x", recipient="b@y", now=WHEN)
    await stage.deliver(complaint, "postmaster@agents.test")
    await stage.settle()
    found: Results = {"queued": await server.queued_by("ADA@agents.test")}
    found["asked"] = await server.queue([mail.queue_id for mail in found["queued"]] + [7])
    found["nothing"] = await server.queue([])
    found["of part"] = await server.queued_by("da@agents.test")
    found["complaints"] = await server.complaints()
    await server.forget_complaints([found["complaints"][0].complaint_id, "b"])
    await server.forget_complaints([])
    found["left"] = await server.complaints()
    return found


SCENARIOS: dict[str, Scenario] = {
    "accounts": accounts,
    "stale_ids": stale_ids,
    "sending": sending,
    "receiving": receiving,
    "drafts": drafts,
    "searching": searching,
    "queueing": queueing,
    "wire": wire,
}


@asynccontextmanager
async def closing(client: JmapClient) -> AsyncGenerator[JmapClient]:
    try:
        yield client
    finally:
        await client.close()
