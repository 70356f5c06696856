"""Reply, reply to all and forward through the API, in both worlds, and in a real mailbox."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from imapclient import IMAPClient

from agentmail_cp import inboxes
from agentmail_cp.access import Reach
from agentmail_cp.mailserver import Folder
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests.api.faults import fault, mistake
from tests.fix_app import OUTSIDER, Json, Service, a_mail, own_labels, until
from tests.fix_stalwart import HOST, unverified


def many(count: int) -> Callable[[list[Json]], bool]:
    return lambda seen: len(seen) == count


def at(inbox: Json, message_id: str, what: str = "") -> str:
    return f"/v0/inboxes/{inbox['inbox_id']}/messages/{quote(message_id, safe='')}{what}"


async def listed(service: Service, inbox: Json) -> list[Json]:
    """The messages of an inbox but for bounces: nobody takes the mail a real server sends outside."""
    seen = await service.messages(inbox, limit=100)
    return [each for each in seen if "MAILER-DAEMON" not in each["from"]]


async def whole(service: Service, inbox: Json, message: Json) -> Json:
    answer = await service.client.get(at(inbox, message["message_id"]))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask(
    service: Service, inbox: Json, message: Json, how: str, *, key: str = "", **body: object
) -> httpx.Response:
    """Ask for a reply, reply-all or forward."""
    headers = {"Idempotency-Key": key} if key else {}
    path = at(inbox, message["message_id"], f"/{how}")
    return await service.client.post(path, json=body, headers=headers)


async def done(service: Service, inbox: Json, message: Json, how: str, **body: Any) -> Json:
    """The inbox's own copy of a reply, reply-all or forward."""
    answer = await ask(service, inbox, message, how, **body)
    assert answer.status_code == 200, answer.text
    sent = answer.json()
    own = await whole(service, inbox, sent)
    assert own["thread_id"] == sent["thread_id"]
    return own


async def arrived(service: Service, inbox: Json, mail: EmailMessage | bytes) -> Json:
    """The message a mail from outside becomes."""
    before = {each["message_id"] for each in await listed(service, inbox)}
    await service.deliver(mail, inbox["email"])
    seen = await until(lambda: listed(service, inbox), many(len(before) + 1))
    return next(each for each in seen if each["message_id"] not in before)


async def test_a_reply_arrives_in_the_conversation(anywhere: Service) -> None:
    """A customer would get mail out of nowhere, and the agent see two threads."""
    alice, bob = await anywhere.inbox("alice", display_name="Alice"), await anywhere.inbox("bob")
    await anywhere.send(bob, to=alice["email"], subject="AW: Offer", text="How much?")
    (question,) = await until(lambda: anywhere.messages(alice), many(1))

    own = await done(
        anywhere, alice, question, "reply", text="42", html="<b>42</b>", labels="Sales"
    )

    assert own["thread_id"] == question["thread_id"]
    assert own["subject"] == "Re: Offer"
    assert own_labels(own) == ["sales", "sent"]
    (got,) = await until(lambda: anywhere.messages(bob, labels="unread"), many(1))
    assert got["from"] == f"Alice <{alice['email']}>"
    assert got["to"] == [bob["email"]]
    assert got["in_reply_to"] == question["message_id"]
    assert got["references"] == [question["message_id"]]
    seen = await whole(anywhere, bob, got)
    assert seen["text"].strip() == "42"
    assert "<b>42</b>" in seen["html"]
    assert {each["thread_id"] for each in await anywhere.messages(bob)} == {got["thread_id"]}

    back = await done(anywhere, bob, got, "reply", text="Deal")
    assert back["references"] == [question["message_id"], got["message_id"]]
    assert back["subject"] == "Re: Offer"


async def test_a_reply_goes_where_the_mail_asks(anywhere: Service) -> None:
    inbox = await anywhere.inbox("desk")
    mail = a_mail(inbox["email"], Reply_To="Team <team@elsewhere.test>", Cc="boss@elsewhere.test")
    message = await arrived(anywhere, inbox, mail)
    assert (await done(anywhere, inbox, message, "reply", text="Hi"))["to"] == [
        "Team <team@elsewhere.test>"
    ]
    everyone = await done(anywhere, inbox, message, "reply-all", text="Hi all")
    assert everyone["to"] == ["Team <team@elsewhere.test>"]
    assert everyone["cc"] == ["boss@elsewhere.test"]
    flagged = await done(anywhere, inbox, message, "reply", text="Hi all!", reply_all=True)
    assert (flagged["to"], flagged["cc"]) == (everyone["to"], everyone["cc"])


async def test_a_reply_to_all_leaves_the_inbox_out(anywhere: Service) -> None:
    """An agent would answer its own answers for ever."""
    inbox = await anywhere.inbox("desk")
    name, domain = inbox["email"].split("@")
    mail = a_mail(f"{name.upper()}@{domain}, Bob <bob@elsewhere.test>, BOB@elsewhere.test")
    mail["Cc"] = f"{name}+tag@{domain}, {OUTSIDER}, eve@elsewhere.test"
    message = await arrived(anywhere, inbox, mail)
    own = await done(anywhere, inbox, message, "reply-all", text="Hi")
    assert own["to"] == [f"Ada Lovelace <{OUTSIDER}>", "Bob <bob@elsewhere.test>"]
    assert own["cc"] == ["eve@elsewhere.test"]
    assert len(await listed(anywhere, inbox)) == 2


async def test_an_own_mail_is_followed_up_with_its_recipients(anywhere: Service) -> None:
    inbox = await anywhere.inbox("desk")
    sent = await anywhere.send(
        inbox, to="bob@elsewhere.test", cc="eve@elsewhere.test", bcc="x@elsewhere.test", text="1"
    )
    own = await done(anywhere, inbox, sent, "reply", text="2")
    assert own["to"] == ["bob@elsewhere.test"]
    assert "cc" not in own
    everyone = await done(anywhere, inbox, sent, "reply-all", text="3")
    assert (everyone["to"], everyone["cc"]) == (["bob@elsewhere.test"], ["eve@elsewhere.test"])
    assert "bcc" not in everyone
    assert {each["thread_id"] for each in await listed(anywhere, inbox)} == {own["thread_id"]}


async def test_cc_and_bcc_of_a_reply_are_honoured_and_stored(anywhere: Service) -> None:
    """The hosted service's best-known mistake: who was to be told never is."""
    alice, bob, carol, dave = [await anywhere.inbox(each) for each in ("al", "bob", "ca", "da")]
    await anywhere.send(bob, to=alice["email"], subject="Hi", text="?")
    (question,) = await until(lambda: anywhere.messages(alice), many(1))
    own = await done(
        anywhere, alice, question, "reply", cc=carol["email"], bcc=[dave["email"]], text="!"
    )
    assert (own["to"], own["cc"], own["bcc"]) == (
        [bob["email"]],
        [carol["email"]],
        [dave["email"]],
    )
    for inbox in (carol, dave):
        (got,) = await until(lambda inbox=inbox: listed(anywhere, inbox), many(1))
        assert got["cc"] == [carol["email"]]
        assert "bcc" not in got


async def test_given_recipients_replace_the_sender(anywhere: Service) -> None:
    inbox = await anywhere.inbox("desk")
    message = await arrived(anywhere, inbox, a_mail(inbox["email"]))
    own = await done(
        anywhere,
        inbox,
        message,
        "reply",
        to=["Eve <eve@elsewhere.test>"],
        text="Hi",
        reply_to="desk@elsewhere.test",
        headers={"X-Case": "7"},
    )
    assert own["to"] == ["Eve <eve@elsewhere.test>"]
    assert own["reply_to"] == ["desk@elsewhere.test"]
    assert own["headers"]["X-Case"] == "7"


PNG = b"\x89PNG\r\n\x1a\n not really"


def with_everything(to: str) -> EmailMessage:
    """A mail with text, HTML, a picture inside and files beside it."""
    mail = a_mail(to, "Invoice", "Plain <words>")
    mail.add_alternative('<html><body><p>Rich <img src="cid:logo"></p></body></html>', "html")
    html = mail.get_payload(1)
    assert isinstance(html, EmailMessage)
    html.add_related(PNG, "image", "png", cid="<logo>", filename="logo.png", disposition="inline")
    mail.add_attachment(b"%PDF-1.7", "application", "pdf", filename="Rechnung ä.pdf")
    mail.add_attachment("a;b\nü;ß\n", subtype="csv", filename="data.csv")
    return mail


async def test_a_forward_carries_the_whole_mail(anywhere: Service) -> None:
    """What was forwarded could not be read by who got it."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    message = await arrived(anywhere, alice, with_everything(alice["email"]))
    own = await done(
        anywhere,
        alice,
        message,
        "forward",
        to=bob["email"],
        text="Please pay.",
        attachments=[{"filename": "note.txt", "content": "aGk=", "content_type": "text/plain"}],
    )
    assert own["subject"] == "Fwd: Invoice"
    assert own["thread_id"] == message["thread_id"]
    assert own["in_reply_to"] == message["message_id"]
    (got,) = await until(lambda: anywhere.messages(bob), many(1))
    seen = await whole(anywhere, bob, got)
    assert seen["text"].startswith(
        "Please pay.\n\n---------- Forwarded message ---------\nFrom: Ada"
    )
    assert seen["text"].rstrip().endswith("\n\nPlain <words>")
    assert seen["extracted_text"] == "Please pay."
    assert seen["html"].startswith("<div>Please pay.</div>")
    assert 'Rich <img src="cid:logo">' in seen["html"]
    original = await whole(anywhere, alice, message)
    kept = {
        (each["filename"], each["content_type"], each["size"], each.get("content_id"))
        for each in seen["attachments"]
    }
    assert kept == {
        (each["filename"], each["content_type"], each["size"], each.get("content_id"))
        for each in original["attachments"]
    } | {("note.txt", "text/plain", 2, None)}
    logo = next(each for each in seen["attachments"] if each["filename"] == "logo.png")
    assert logo["content_disposition"] == "inline"


async def test_a_forward_names_its_subject_and_html(anywhere: Service) -> None:
    inbox = await anywhere.inbox("desk")
    message = await arrived(anywhere, inbox, a_mail(inbox["email"], "Fwd: Offer", "1 < 2"))
    own = await done(
        anywhere,
        inbox,
        message,
        "forward",
        to="x@elsewhere.test",
        html="<i>See</i>",
        subject="Look",
    )
    assert own["subject"] == "Look"
    assert own["html"].startswith("<i>See</i>")
    assert "1 &lt; 2" in own["html"]
    plain = await done(anywhere, inbox, message, "forward", to="x@elsewhere.test")
    assert plain["subject"] == "Fwd: Offer"


async def test_a_forwarded_mail_within_a_mail_stays_whole(anywhere: Service) -> None:
    """A report with the original inside would lose it, or arrive as rubbish."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    inner = a_mail("x@elsewhere.test", "Inner", "Deep ü")
    outer = a_mail(alice["email"], "Outer", "See inside")
    outer.add_attachment(inner)
    message = await arrived(anywhere, alice, outer)
    await done(anywhere, alice, message, "forward", to=bob["email"])
    (got,) = await until(lambda: anywhere.messages(bob), many(1))
    (attached,) = (await whole(anywhere, bob, got))["attachments"]
    assert attached["content_type"] == "message/rfc822"
    path = at(bob, got["message_id"], f"/attachments/{attached['attachment_id']}")
    link = (await anywhere.client.get(path)).json()["download_url"]
    found = message_from_bytes((await anywhere.client.get(link)).content, policy=policy.default)
    assert found["Subject"] == "Inner"
    assert found.get_body() is not None
    assert "Deep ü" in found.get_content()


# --- Threads ---------------------------------------------------------------------------------------


async def raw_of(service: Service, inbox: Json, message: Json) -> bytes:
    """The bytes the mail server stores."""
    async with service.db.reading() as tx:
        row = await (
            await tx.execute(
                "select account_id, document_id from message join inbox using (inbox_id)"
                " where inbox.inbox_id = %(inbox_id)s and message_id = %(message_id)s",
                {
                    "inbox_id": inboxes.inbox_uuid(inbox["email"]),
                    "message_id": message["message_id"],
                },
            )
        ).fetchone()
    assert row is not None
    content = await service.server.read(row["account_id"], [row["document_id"]])
    blob = content[row["document_id"]].raw_blob_id
    return b"".join([part async for part in service.server.download(row["account_id"], blob)])


def header(raw: bytes, name: str) -> str:
    """A header as it stands in the bytes, its name and folds included."""
    block = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode()
    found = re.search(rf"(?im)^{name}:.*(?:\n[ \t].*)*", block)
    assert found is not None, f"no {name}"
    return found[0]


def whole_ids(text: str) -> list[str]:
    """The ids of a header; fails when one is parted by a fold or a space."""
    parts = text.partition(":")[2].split()
    assert all(re.fullmatch(r"<[^<>\s]+>", each) for each in parts), text
    return parts


async def test_ids_are_never_folded_apart(anywhere: Service) -> None:
    """A mail client that reads half an id shows the answer outside its conversation."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    older = [f"<{number:02}{'x' * 12}@mail{number}.elsewhere.test>" for number in range(50)]
    longest = f"<{'long-' * 40}1@a.very.long.host.name.of.somebody.elsewhere.test>"
    mail = a_mail(alice["email"], "Long talk")
    lines = [f"Message-ID: {longest}", "References: " + "\r\n ".join(older)]
    head, _, body = mail.as_bytes(policy=policy.SMTP).partition(b"\r\n\r\n")
    raw = head + "".join(f"\r\n{line}" for line in lines).encode() + b"\r\n\r\n" + body
    message = await arrived(anywhere, alice, raw)
    assert message["message_id"] == longest
    assert message["references"] == older

    own = await done(anywhere, alice, message, "reply-all", cc=None, text="Hi")
    kept = own["references"]
    assert (kept[0], kept[-1]) == (older[0], longest)
    assert kept[1:-1] == older[len(older) + 2 - len(kept) :]
    await done(anywhere, alice, message, "reply", to=bob["email"], text="Hi")
    (got,) = await until(lambda: anywhere.messages(bob), many(1))
    for inbox, one in ((alice, own), (bob, got)):
        raw = await raw_of(anywhere, inbox, one)
        assert whole_ids(header(raw, "In-Reply-To")) == [longest]
        assert whole_ids(header(raw, "References")) == kept
        assert max(map(len, raw.split(b"\r\n"))) <= 998


async def appended(service: Service, inbox: Json, raw: bytes) -> None:
    """Put a mail into a mailbox past SMTP, as an import does."""
    async with service.db.reading() as tx:
        found = await inboxes.get(tx, Reach(service.organization_id), inbox["inbox_id"])
    await service.server.append(found.account, raw, folder=Folder.INBOX)
    async with service.db.transaction() as tx:
        await tx.execute(
            "update inbox_sync set due_at = now() where inbox_id = %(inbox_id)s",
            {"inbox_id": found.inbox_id},
        )


BARE = b"From: Ada <ada@elsewhere.test>\r\nTo: x@agents.test\r\nSubject: No id\r\n\r\nHi\r\n"


@pytest.mark.parametrize(
    "raw",
    [BARE, b"Message-ID: <" + b"i" * 700 + b"@elsewhere.test>\r\n" + BARE],
    ids=["none", "endless"],
)
async def test_a_mail_without_a_usable_id_keeps_its_conversation(
    anywhere: Service, raw: bytes
) -> None:
    """Each answer to it would begin a thread of its own."""
    inbox = await anywhere.inbox("desk")
    await appended(anywhere, inbox, raw)
    (message,) = await until(lambda: listed(anywhere, inbox), many(1))
    assert message["message_id"].startswith("<document-")
    for how in ("reply", "forward"):
        own = await done(anywhere, inbox, message, how, to="bob@elsewhere.test", text="Hi")
        assert own["thread_id"] == message["thread_id"]
    answer = a_mail(inbox["email"], "Re: No id", References=own["message_id"])
    assert (await arrived(anywhere, inbox, answer))["thread_id"] == message["thread_id"]


async def test_an_answer_to_a_twin_names_what_both_are_called(anywhere: Service) -> None:
    """Whoever wrote it knows nothing of the id we made for the second copy."""
    inbox = await anywhere.inbox("desk")
    for _ in range(2):
        await appended(anywhere, inbox, b"Message-ID: <twin@elsewhere.test>\r\n" + BARE)
    seen = await until(lambda: listed(anywhere, inbox), many(2))
    twin = next(each for each in seen if each["message_id"] != "<twin@elsewhere.test>")
    own = await done(anywhere, inbox, twin, "reply", text="Hi")
    assert own["in_reply_to"] == "<twin@elsewhere.test>"
    assert own["thread_id"] == twin["thread_id"]


async def test_a_mail_with_an_odd_id_is_answered(anywhere: Service) -> None:
    """The path would be taken apart at its slash."""
    inbox = await anywhere.inbox("desk")
    mail = a_mail(inbox["email"], Message_ID="<a/b+c=/reply@elsewhere.test>")
    message = await arrived(anywhere, inbox, mail)
    for path in (message["message_id"], quote(message["message_id"], safe="")):
        answer = await anywhere.client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/{path}/reply", json={"text": "Hi"}
        )
        assert answer.status_code == 200, answer.text


# --- Answers to machines ---------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [("Auto-Submitted", "auto-replied"), ("Precedence", "bulk")])
async def test_an_answer_to_a_machine_says_so(anywhere: Service, sign: tuple[str, str]) -> None:
    """Two auto-responders would fill each other's mailbox."""
    inbox = await anywhere.inbox("desk")
    mail = a_mail(inbox["email"], "I am away")
    mail[sign[0]] = sign[1]
    message = await arrived(anywhere, inbox, mail)
    own = await done(anywhere, inbox, message, "reply", text="Fine")
    assert own["headers"]["Auto-Submitted"] == "auto-replied"


async def test_an_answer_to_a_person_looks_like_one(anywhere: Service) -> None:
    """Mailing lists and other agents would drop it."""
    inbox = await anywhere.inbox("desk")
    message = await arrived(anywhere, inbox, a_mail(inbox["email"]))
    own = await done(anywhere, inbox, message, "reply", text="Fine")
    assert "auto-submitted" not in {name.lower() for name in own["headers"]}


# --- What is refused -------------------------------------------------------------------------------


async def test_recipients_beside_reply_all_are_refused(service: Service) -> None:
    """Whether they replace or join the others is anybody's guess."""
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"]))
    for field in ("to", "cc", "bcc"):
        given = {field: "x@elsewhere.test", "text": "Hi"}
        mistake(await ask(service, inbox, message, "reply", reply_all=True, **given), "reply_all")
        mistake(await ask(service, inbox, message, "reply-all", **given), "reply_all")
    assert len(await listed(service, inbox)) == 1


async def test_an_answer_without_recipients_is_unprocessable(service: Service) -> None:
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"], From=inbox["email"]))
    for how in ("reply-all", "forward"):
        body = fault(await ask(service, inbox, message, how, text="Hi"), 422, "unprocessable")
        assert body["fix"]


async def test_what_a_reply_may_not_set_is_refused(service: Service) -> None:
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"]))
    for how in ("reply", "reply-all", "forward"):
        answer = await ask(service, inbox, message, how, headers={"References": "<a@b>"})
        mistake(answer, "headers.References", "RESERVED_HEADER")
        mistake(await ask(service, inbox, message, how, headers={"X-A": "a\nb"}), "headers.X-A")
        mistake(await ask(service, inbox, message, how, reply_to="nobody"), "reply_to")
        mistake(
            await ask(service, inbox, message, how, track_opens=True), "track_opens", "NOT_OFFERED"
        )
    crowd = [f"a{number}@elsewhere.test" for number in range(51)]
    mistake(await ask(service, inbox, message, "reply", to=crowd), "to", "TOO_MANY_RECIPIENTS")
    mistake(await ask(service, inbox, message, "forward", to=crowd), "to", "TOO_MANY_RECIPIENTS")


@pytest.mark.parametrize("how", ["reply", "reply-all", "forward"])
async def test_what_is_not_there_cannot_be_answered(service: Service, how: str) -> None:
    inbox, other = await service.inbox("desk"), await service.inbox("other")
    message = await arrived(service, inbox, a_mail(inbox["email"]))
    body = {"to": "x@elsewhere.test", "text": "Hi"}
    for path in (
        at(inbox, "<unknown@elsewhere.test>", f"/{how}"),
        at(other, message["message_id"], f"/{how}"),
        at({"inbox_id": "nobody@agents.test"}, message["message_id"], f"/{how}"),
    ):
        fault(await service.client.post(path, json=body), 404, "not_found")


async def keyed(
    service: Service, inbox: Json, message: Json, how: str, secret: str
) -> httpx.Response:
    return await service.client.post(
        at(inbox, message["message_id"], f"/{how}"),
        json={"text": "Hi"} | ({"to": "x@elsewhere.test"} if how == "forward" else {}),
        headers={"Authorization": f"Bearer {secret}"},
    )


async def test_a_key_answers_what_its_permissions_allow(service: Service) -> None:
    """A key made to answer could write to anybody, or one made to write read hidden mail."""
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"]))

    async def made(*permissions: str) -> str:
        body = {"name": "k", "permissions": dict.fromkeys(permissions, True)}
        return (await service.client.post("/v0/api-keys", json=body)).json()["api_key"]

    replying, sending = await made("message_reply"), await made("message_send")
    for how, secret, status in [
        ("reply", replying, 200),
        ("reply-all", replying, 200),
        ("forward", replying, 403),
        ("reply", sending, 200),
        ("reply-all", sending, 200),
        ("forward", sending, 403),
        ("forward", await made("message_send", "message_read"), 200),
        ("reply", await made("message_read", "draft_send"), 403),
    ]:
        assert (await keyed(service, inbox, message, how, secret)).status_code == status, how
    for field in ("to", "cc", "bcc"):
        path = f"{at(inbox, message['message_id'])}/reply"
        body = {"text": "Hi", field: "somebody@elsewhere.test"}
        for secret, status in ((replying, 403), (sending, 200)):
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await service.client.post(path, json=body, headers=headers)
            assert answer.status_code == status, answer.text
    await service.client.patch(at(inbox, message["message_id"]), json={"add_labels": "trash"})
    fault(await keyed(service, inbox, message, "reply", replying), 404, "not_found")
    seeing = await made("message_reply", "label_trash_read")
    assert (await keyed(service, inbox, message, "reply", seeing)).status_code == 200


# --- Idempotency -----------------------------------------------------------------------------------


async def test_two_replies_with_one_key_send_one_mail(anywhere: Service) -> None:
    """A retry after a lost answer would write to the customer twice."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    await anywhere.send(bob, to=alice["email"], subject="Hi", text="?")
    (question,) = await until(lambda: anywhere.messages(alice), many(1))
    for how in ("reply", "reply-all", "forward"):
        body = {"text": "!"} | ({"to": bob["email"]} if how == "forward" else {})
        answers = await asyncio.gather(
            *(ask(anywhere, alice, question, how, key=f"k-{how}", **body) for _ in range(5))
        )
        assert {each.status_code for each in answers} <= {200, 409}
        again = await ask(anywhere, alice, question, how, key=f"k-{how}", **body)
        assert again.headers["idempotent-replayed"] == "true"
        assert {each.text for each in answers if each.status_code == 200} == {again.text}
    await until(lambda: anywhere.messages(bob), many(4))
    assert len(await anywhere.messages(alice)) == 4


async def test_a_key_is_bound_to_body_message_and_endpoint(service: Service) -> None:
    """Another mail would silently not be sent."""
    inbox = await service.inbox("desk")
    first = await arrived(service, inbox, a_mail(inbox["email"], "One"))
    second = await arrived(service, inbox, a_mail(inbox["email"], "Two"))
    body = {"to": "x@elsewhere.test", "text": "Hi"}
    assert (await ask(service, inbox, first, "reply", key="k", **body)).status_code == 200
    for answer in (
        await ask(service, inbox, first, "reply", key="k", **body | {"text": "Other"}),
        await ask(service, inbox, second, "reply", key="k", **body),
        await ask(service, inbox, first, "forward", key="k", **body),
    ):
        fault(answer, 409, "conflict")
    bare = {"message_id": first["message_id"].strip("<>")}
    again = await ask(service, inbox, bare, "reply", key="k", **body)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_repeated_reply_is_answered_when_the_mail_it_was_about_is_gone(
    service: Service,
) -> None:
    """A client that lost the answer would believe that nothing was sent, and write again."""
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"]))
    sent = await ask(service, inbox, message, "reply", key="k", text="Hi")
    async with service.db.reading() as tx:
        found = await inboxes.get(tx, Reach(service.organization_id), inbox["inbox_id"])
    listing = await service.server.listing(found.account)
    await service.server.destroy_mail(found.account, listing.document_ids[:1])
    async with service.db.transaction() as tx:
        await tx.execute("update inbox_sync set due_at = now()")
    await until(lambda: listed(service, inbox), many(1))
    again = await ask(service, inbox, message, "reply", key="k", text="Hi")
    assert again.json() == sent.json()
    fault(await ask(service, inbox, message, "reply", key="new", text="Hi"), 404, "not_found")


async def test_a_repeated_reply_is_answered_while_the_mail_server_is_away(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """What is known need not wait for what is down."""
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, a_mail(inbox["email"]))
    sent = await ask(service, inbox, message, "reply", key="k", text="Hi")
    sandbox, _ = sandbox_server
    sandbox.faults = Faults(down=True)
    again = await ask(service, inbox, message, "reply", key="k", text="Hi")
    assert again.json() == sent.json()
    answer = await ask(service, inbox, message, "reply", key="new", text="Hi")
    fault(answer, 503, "service_unavailable")
    assert answer.headers["retry-after"]
    sandbox.faults = Faults()


# --- In a mailbox ----------------------------------------------------------------------------------


def fetched(service: Service, inbox: Json, folder: str) -> list[EmailMessage]:
    """All mails of a folder, as a mail client gets them."""
    assert service.stalwart is not None
    port = service.stalwart.process.ports.imaps
    with IMAPClient(HOST, port, ssl=True, ssl_context=unverified(), timeout=20) as client:
        client.login(inbox["email"], inbox["credentials"]["password"])
        client.select_folder(folder, readonly=True)
        answers = cast("dict[int, dict[bytes, bytes]]", client.fetch(client.search(), ["RFC822"]))
    raws = [each[b"RFC822"] for _, each in sorted(answers.items())]
    return [message_from_bytes(raw, _class=EmailMessage, policy=policy.default) for raw in raws]


@pytest.mark.stalwart
async def test_a_mail_client_sees_the_conversation(real_service: Service) -> None:
    """People beside the agent read with Thunderbird, which threads and shows by these headers."""
    alice, bob = await real_service.inbox("alice"), await real_service.inbox("bob")
    mail = with_everything(alice["email"])
    mail["Message-ID"], mail["References"] = "<second@elsewhere.test>", "<first@elsewhere.test>"
    message = await arrived(real_service, alice, mail)
    await done(
        real_service,
        alice,
        message,
        "reply",
        to=bob["email"],
        cc=OUTSIDER,
        bcc="x@elsewhere.test",
        text="Süß",
    )
    await done(real_service, alice, message, "forward", to=f"Zoë <{bob['email']}>", text="Schau ✓")
    await until(lambda: real_service.messages(bob), many(2))

    reply, forward = await asyncio.to_thread(fetched, real_service, bob, "INBOX")
    kept, _ = await asyncio.to_thread(fetched, real_service, alice, "Sent")

    for each in (reply, forward, kept):
        assert each["In-Reply-To"] == "<second@elsewhere.test>"
        assert each["References"].split() == ["<first@elsewhere.test>", "<second@elsewhere.test>"]
        assert not each.defects
    assert reply["Subject"] == "Re: Invoice"
    assert reply.get_content().strip() == "Süß"
    assert reply["Bcc"] is None
    assert kept["Bcc"] == "x@elsewhere.test"
    assert kept["Cc"] == OUTSIDER
    assert forward["Subject"] == "Fwd: Invoice"
    assert forward["To"].addresses[0].display_name == "Zoë"
    text, html = forward.get_body(("plain",)), forward.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().startswith("Schau ✓")
    assert 'src="cid:logo"' in html.get_content()
    parts = {part.get_filename(): part for part in forward.walk() if part.get_filename()}
    assert parts["logo.png"]["Content-ID"] == "<logo>"
    assert parts["logo.png"].get_content() == PNG
    assert parts["Rechnung ä.pdf"].get_content() == b"%PDF-1.7"
    assert parts["data.csv"].get_content().split() == ["a;b", "ü;ß"]
