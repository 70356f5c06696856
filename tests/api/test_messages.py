"""Messages through the API: sent in every form, listed in every spelling, found by every id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from agentmail_cp.mailserver import Refusal
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service, a_mail, own_labels, until


def many(count: int) -> Callable[[list[Json]], bool]:
    return lambda seen: len(seen) == count


async def received(service: Service, inbox: Json, *mails: EmailMessage) -> list[Json]:
    """Deliver mails one after the other; all messages of the inbox, oldest first."""
    before = len(await service.messages(inbox, limit=100))
    for number, mail in enumerate(mails, before + 1):
        await service.deliver(mail)
        await until(lambda: service.messages(inbox, limit=100), many(number))
    return await service.messages(inbox, limit=100, ascending="true")


async def whole(service: Service, inbox: Json, message: Json) -> Json:
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages/{quote(message['message_id'], safe='')}"
    answer = await service.client.get(at)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def relabelled(
    service: Service, inbox: Json, message: Json, **change: object
) -> httpx.Response:
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"
    return await service.client.patch(at, json=change)


@pytest.mark.parametrize("path", ["messages/send", "messages", "messages/"])
async def test_a_mail_is_sent_on_every_path_the_contract_knows(service: Service, path: str) -> None:
    """The SDKs use `…/messages/send`, seed 001 `…/messages`."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    answer = await service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/{path}", json={"to": bob["email"], "text": "Hi"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["message_id"].startswith("<")
    await until(lambda: service.messages(bob), many(1))


async def test_recipients_are_a_text_or_a_list_with_or_without_names(service: Service) -> None:
    """A caller would have to know which of the forms this server likes."""
    alice, bob, carol = [await service.inbox(each) for each in ("alice", "bob", "carol")]
    await service.send(
        alice,
        to="Bob B. <bob@agents.test>, carol@AGENTS.test",
        cc=["Ada Lovelace <ada@elsewhere.test>", '"Last, First" <lf@elsewhere.test>'],
        bcc="hidden@elsewhere.test",
        reply_to=["Desk <desk@elsewhere.test>"],
        subject="Forms",
        text="Hi",
    )
    (seen,) = await until(lambda: service.messages(bob), many(1))
    (other,) = await until(lambda: service.messages(carol), many(1))
    assert seen["to"] == other["to"] == ["Bob B. <bob@agents.test>", "carol@agents.test"] or seen[
        "to"
    ] == ['"Bob B." <bob@agents.test>', "carol@agents.test"]
    cc = ["Ada Lovelace <ada@elsewhere.test>", '"Last, First" <lf@elsewhere.test>']
    assert seen["cc"] == cc
    assert "bcc" not in seen
    assert "hidden" not in str(await whole(service, bob, seen))
    assert (await whole(service, bob, seen))["reply_to"] == ["Desk <desk@elsewhere.test>"]
    (own,) = await service.messages(alice)
    assert own["bcc"] == ["hidden@elsewhere.test"]


async def test_labels_on_a_send_are_the_callers_own(service: Service) -> None:
    """Section 6: labels copied from another mail must not forge what happened to this one."""
    alice = await service.inbox("alice")
    await service.send(
        alice,
        to="ada@elsewhere.test",
        text="Hi",
        labels=["sent", "Important", "unread", "trash", "bounced", "follow-up:7"],
    )
    (own,) = await service.messages(alice)
    assert own_labels(own) == ["follow-up:7", "important", "sent"]
    await service.send(alice, to="ada@elsewhere.test", text="Hi", labels="One")
    (own,) = await service.messages(alice, labels="one")
    assert own_labels(own) == ["one", "sent"]


async def test_custom_headers_arrive_as_they_were_given(service: Service) -> None:
    """Whoever files mail by a header would lose it."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    given = {"X-Campaign": "spring/2026", "X-Name": "Zoë Ünïcode", "List-Id": "<a.b.test>"}
    await service.send(alice, to=bob["email"], text="Hi", headers=given)
    (message,) = await until(lambda: service.messages(bob), many(1))
    headers = (await whole(service, bob, message))["headers"]
    assert {name: headers[name] for name in given} == given


async def test_text_html_and_attachments_arrive(service: Service) -> None:
    """A mail would be cut down to what we happen to test elsewhere."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    await service.send(
        alice,
        to=bob["email"],
        subject="Grüße",
        text="Plain ü",
        html='<p>Rich <img src="cid:logo"></p>',
        attachments=[
            {"filename": "Bericht ä.pdf", "content": "aGVsbG8=", "content_type": "application/pdf"},
            {
                "filename": "logo.png",
                "content": "aGk=",
                "content_type": "image/png",
                "content_disposition": "inline",
                "content_id": "<logo>",
            },
        ],
    )
    (message,) = await until(lambda: service.messages(bob), many(1))
    seen = await whole(service, bob, message)
    assert seen["subject"] == "Grüße"
    assert seen["text"].strip() == "Plain ü"
    assert "cid:logo" in seen["html"]
    pdf, logo = sorted(seen["attachments"], key=lambda each: each["filename"])
    assert {name: pdf[name] for name in ("filename", "size", "content_type")} == {
        "filename": "Bericht ä.pdf",
        "size": 5,
        "content_type": "application/pdf",
    }
    assert pdf["content_disposition"] == "attachment"
    assert logo["content_disposition"] == "inline"
    assert logo["content_id"] == "logo"
    assert message["attachments"] == seen["attachments"]


async def test_a_list_never_carries_bodies(service: Service) -> None:
    """A poll for new mail would move megabytes."""
    inbox = await service.inbox("bob")
    (message,) = await received(service, inbox, a_mail(inbox["email"]))
    assert not {"text", "html", "extracted_text", "headers"} & message.keys()
    assert message["preview"] == "Hi there."


async def test_html_only_mail_has_text_and_a_preview(service: Service) -> None:
    """The most repeated complaint about the hosted service."""
    inbox = await service.inbox("bob")
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ada@elsewhere.test", inbox["email"], "Rich"
    mail.set_content("<style>p{}</style><p>Total: <b>12&nbsp;€</b></p>", subtype="html")
    (message,) = await received(service, inbox, mail)
    assert message["preview"].replace("\xa0", " ") == "Total: 12 €"
    seen = await whole(service, inbox, message)
    assert seen["text"].strip().replace("\xa0", " ") == "Total: 12 €"
    assert "<b>" in seen["html"]
    assert seen["extracted_text"]


# --- Idempotency -----------------------------------------------------------------------------------


async def keyed(service: Service, inbox: Json, key: str, **fields: object) -> httpx.Response:
    return await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
        json={"to": "bob@agents.test", "text": "Hi", **fields},
        headers={"Idempotency-Key": key},
    )


async def test_the_same_key_sends_once_and_answers_the_same(service: Service) -> None:
    """A retry after a lost answer would send a second mail."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    first = await keyed(service, alice, "order-1")
    again = await keyed(service, alice, "order-1")
    assert first.status_code == again.status_code == 200
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await until(lambda: service.messages(bob), many(1))
    assert len(await service.messages(alice)) == 1


async def test_ten_requests_with_one_key_at_once_send_once(service: Service) -> None:
    """Two workers with the same job would send it twice."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    answers = await asyncio.gather(*(keyed(service, alice, "job-1") for _ in range(10)))
    assert {each.status_code for each in answers} <= {200, 409}
    assert len({each.text for each in answers if each.status_code == 200}) == 1
    for each in answers:
        if each.status_code == 409:
            assert int(each.headers["retry-after"]) >= 1
    await until(lambda: service.messages(bob), many(1))
    assert len(await service.messages(alice)) == 1


async def test_a_key_is_bound_to_its_request(service: Service) -> None:
    """Another mail would silently not be sent."""
    alice, _ = await service.inbox("alice"), await service.inbox("bob")
    other = await service.inbox("other")
    await keyed(service, alice, "order-1")
    for answer in (
        await keyed(service, alice, "order-1", text="Other"),
        await keyed(service, alice, "order-1", labels="x"),
        await keyed(service, other, "order-1"),
    ):
        assert fault(answer, 409, "conflict")["name"] == "ConflictError"


async def test_a_refused_send_leaves_its_key_free(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """The caller could not try again once the reason is gone."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sandbox, _ = sandbox_server
    sandbox.faults = Faults(refuse={bob["email"]: "550 5.7.1 Not today"})
    body = fault(await keyed(service, alice, "order-1"), 403, "message_rejected")
    assert body["name"] == "MessageRejectedError"
    assert "Not today" in body["message"]
    sandbox.faults = Faults()
    answer = await keyed(service, alice, "order-1")
    assert answer.status_code == 200, answer.text
    await until(lambda: service.messages(bob), many(1))


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 257, "a/b"])
async def test_a_key_that_does_not_fit_is_refused(service: Service, key: str) -> None:
    """Two keys could be one after somebody trimmed them."""
    alice = await service.inbox("alice")
    answer = await service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send",
        json={"to": "ada@elsewhere.test", "text": "Hi"},
        headers={b"Idempotency-Key": key.encode()},
    )
    mistake(answer, "Idempotency-Key")
    assert await service.messages(alice) == []


async def test_a_send_without_recipients_makes_no_sense(service: Service) -> None:
    """It would be recorded as sent to nobody."""
    alice = await service.inbox("alice")
    nobody: list[Json] = [{}, {"to": []}, {"to": ""}, {"to": None, "cc": [], "bcc": None}]
    for fields in nobody:
        answer = await service.client.post(
            f"/v0/inboxes/{alice['inbox_id']}/messages/send", json=fields
        )
        body = fault(answer, 422, "unprocessable")
        assert body["error"]["details"] == {"field": "to", "code": "REQUIRED"}


async def test_fifty_recipients_are_the_most(service: Service) -> None:
    """The contract's limit, counted over to, cc and bcc."""
    alice = await service.inbox("alice")
    people = [f"p{number}@elsewhere.test" for number in range(51)]
    await service.send(alice, to=people[:20], cc=people[20:40], bcc=people[40:50], text="Hi")
    answer = await service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send",
        json={"to": people[:20], "cc": people[20:40], "bcc": people[40:]},
    )
    mistake(answer, "to", "TOO_MANY_RECIPIENTS")


@pytest.mark.parametrize("refusal", list(Refusal))
async def test_whatever_the_mail_server_refuses_is_no_crash(
    service: Service, sandbox_server: tuple[MailSandbox, int], refusal: Refusal
) -> None:
    """A refusal would look like a mistake of ours, and be retried for ever."""
    alice = await service.inbox("alice")
    sandbox, _ = sandbox_server
    sandbox.faults = Faults(reject=refusal)
    answer = await service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send",
        json={"to": "ada@elsewhere.test", "text": "Hi"},
    )
    assert 400 <= answer.status_code < 500, answer.text
    fault(answer, answer.status_code)
    assert await service.messages(alice) == []


# --- Lists -----------------------------------------------------------------------------------------


async def test_every_spelling_of_a_label_filter_is_understood(service: Service) -> None:
    """`labels=["unread"]` is the SDK's, `labels=unread` is what people type."""
    inbox = await service.inbox("bob")
    one, two = await received(
        service, inbox, a_mail(inbox["email"], "One"), a_mail(inbox["email"], "Two")
    )
    await relabelled(service, inbox, one, add_labels=["x y", "z"])
    await relabelled(service, inbox, two, add_labels="z")
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    both = quote('["x y", "z"]')
    for spelling in (
        f"labels={both}",
        "labels=x%20y,z",
        "labels=x+y&labels=z",
        "labels[]=x%20y&labels[]=z",
        "labels[0]=x%20y&labels[1]=z",
        "labels=X%20Y&labels=Z",
        "labels=unread,x%20y",
    ):
        found = (await service.client.get(f"{at}?{spelling}")).json()["messages"]
        assert [each["subject"] for each in found] == ["One"], spelling
    for everything in ("labels=", "labels=[]", "labels=z", "labels=%5B%22unread%22%5D"):
        found = (await service.client.get(f"{at}?{everything}")).json()["messages"]
        assert len(found) == 2, everything


async def test_lists_are_filtered_by_people_and_subject(service: Service) -> None:
    """An agent could not find the mail it is looking for."""
    inbox = await service.inbox("bob")
    await received(
        service,
        inbox,
        a_mail(inbox["email"], "Invoice 100% due", From="Ada <ada@elsewhere.test>"),
        a_mail(inbox["email"], "Lunch", From="Eve <eve@elsewhere.test>", Cc="pat@elsewhere.test"),
    )
    expected = {
        "from=ADA": ["Invoice 100% due"],
        'from=["eve@elsewhere.test"]': ["Lunch"],
        "to=pat@": ["Lunch"],
        "to=bob@agents.test": ["Lunch", "Invoice 100% due"],
        "subject=invoice": ["Invoice 100% due"],
        "subject=100%25": ["Invoice 100% due"],
        "subject=1_0": [],
        "subject=lunch&from=ada": [],
    }
    for query, subjects in expected.items():
        answer = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages?{query}")
        assert [each["subject"] for each in answer.json()["messages"]] == subjects, query


async def test_lists_are_bounded_in_time_and_turned_round(service: Service) -> None:
    """Mail would be read twice, or never."""
    inbox = await service.inbox("bob")
    mails = await received(service, inbox, *(a_mail(inbox["email"], str(n)) for n in range(3)))
    subjects = [each["subject"] for each in mails]
    assert subjects == ["0", "1", "2"]
    assert [each["subject"] for each in await service.messages(inbox)] == ["2", "1", "0"]
    moment = datetime.fromisoformat(mails[0]["timestamp"])
    earlier, later = moment - timedelta(seconds=1), moment + timedelta(days=1)
    assert len(await service.messages(inbox, after=earlier.isoformat())) == 3
    assert len(await service.messages(inbox, before=later.isoformat())) == 3
    assert await service.messages(inbox, after=later.isoformat()) == []
    assert await service.messages(inbox, before=earlier.isoformat()) == []
    both = {"after": earlier.isoformat(), "before": later.isoformat()}
    assert len(await service.messages(inbox, **both)) == 3


@pytest.mark.parametrize("ascending", ["true", "false"])
async def test_pages_show_each_message_once_while_mail_arrives(
    service: Service, ascending: str
) -> None:
    """An agent that reads page by page would miss mail, or answer it twice."""
    inbox = await service.inbox("bob")
    before = await received(service, inbox, *(a_mail(inbox["email"], str(n)) for n in range(5)))
    seen: list[str] = []
    query: Json = {"limit": 2, "ascending": ascending}
    for page_number in range(5):
        answer = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages", params=query)
        page = answer.json()
        assert page["count"] == len(page["messages"]) <= 2
        seen += [each["message_id"] for each in page["messages"]]
        if "next_page_token" not in page:
            break
        query["page_token"] = page["next_page_token"]
        await service.deliver(a_mail(inbox["email"], f"late {page_number}"))
        await until(lambda: service.messages(inbox, limit=100), many(6 + page_number))
    assert len(seen) == len(set(seen))
    assert {each["message_id"] for each in before} <= set(seen)


async def test_two_mails_with_one_message_id_are_two_messages(service: Service) -> None:
    """A mailing list's second copy, or a forged one, would replace or hide the first."""
    inbox = await service.inbox("bob")
    twins = [a_mail(inbox["email"], f"{n}", Message_ID="<twin@elsewhere.test>") for n in range(3)]
    seen = await received(service, inbox, *twins)
    assert [each["subject"] for each in seen] == ["0", "1", "2"]
    assert seen[0]["message_id"] == "<twin@elsewhere.test>"
    assert len({each["message_id"] for each in seen}) == 3
    for each in seen:
        assert (await whole(service, inbox, each))["subject"] == each["subject"]


async def test_mail_without_a_message_id_is_a_message_as_well(service: Service) -> None:
    """Scripts send such mail; it must not be lost, nor all be one."""
    inbox = await service.inbox("bob")
    mails = [a_mail(inbox["email"], f"{n}", Message_ID="") for n in range(2)]
    for mail in mails:
        del mail["Message-ID"]
    seen = await received(service, inbox, *mails)
    assert len({each["message_id"] for each in seen}) == 2
    assert len({each["thread_id"] for each in seen}) == 2
    for each in seen:
        assert (await whole(service, inbox, each))["subject"] == each["subject"]


ODD_IDS = (
    "a/b/c@elsewhere.test",
    "a?b@elsewhere.test",
    "a#b@elsewhere.test",
    "100%@elsewhere.test",
    "100%25@elsewhere.test",
    "a+b=c@elsewhere.test",
    "x/reply@elsewhere.test",
    "x/attachments/1@elsewhere.test",
    "/lead@elsewhere.test",
    "tail/raw",
)


@pytest.mark.parametrize("odd", ODD_IDS)
async def test_a_message_is_found_whatever_its_id_holds(service: Service, odd: str) -> None:
    """A stranger chooses the Message-ID; the agent must be able to read and mark the mail all the same."""
    inbox = await service.inbox("bob")
    mail = a_mail(inbox["email"], "Odd")
    mail["Message-ID"] = f"<{odd}>"
    (message,) = await received(service, inbox, mail)
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    id_: str = message["message_id"]
    spellings = [quote(id_, safe=""), quote(id_.strip("<>"), safe="")]
    if not set("?#") & set(id_):
        # The Python SDK encodes nothing but what httpx must.
        spellings += [id_] if "%25" not in id_ else []
    for spelling in spellings:
        answer = await service.client.get(f"{at}/{spelling}")
        assert answer.status_code == 200, (spelling, answer.text)
        assert answer.json()["subject"] == "Odd"
        changed = await service.client.patch(f"{at}/{spelling}", json={"add_labels": "seen"})
        assert changed.status_code == 200, (spelling, changed.text)


async def test_a_message_of_another_inbox_is_not_found(service: Service) -> None:
    """An inbox would show what is not its own."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    (message,) = await received(service, bob, a_mail(bob["email"]))
    at = f"/v0/inboxes/{alice['inbox_id']}/messages"
    for id_ in (message["message_id"], "<none@elsewhere.test>", "none", "%3C%3E"):
        fault(await service.client.get(f"{at}/{id_}"), 404, "not_found")
        answer = await service.client.patch(f"{at}/{id_}", json={"add_labels": "x"})
        fault(answer, 404, "not_found")


# --- Labels ----------------------------------------------------------------------------------------

SERVER_LABELS = "received sent delivered bounced complained delayed rejected opened spam".split()


@pytest.mark.parametrize("label", [*SERVER_LABELS, "Unauthenticated", "blocked", "scheduled"])
async def test_a_label_of_the_server_cannot_be_changed(service: Service, label: str) -> None:
    """A caller could make a bounced mail look delivered."""
    inbox = await service.inbox("bob")
    (message,) = await received(service, inbox, a_mail(inbox["email"]))
    for field in ("add_labels", "remove_labels"):
        answer = await relabelled(service, inbox, message, **{field: ["fine", label]})
        mistake(answer, field, "SYSTEM_LABEL")
    assert (await service.messages(inbox))[0]["labels"] == ["received", "unread"]


CHANGES: tuple[tuple[Json, list[str]], ...] = (
    ({"remove_labels": ["unread"]}, ["received"]),
    ({"add_labels": "unread", "remove_labels": None}, ["received", "unread"]),
    ({"add_labels": ["Follow-Up:7", " pad "], "remove_labels": []}, ["follow-up:7", "pad"]),
    ({"add_labels": ["pad"]}, ["follow-up:7", "pad"]),
    ({"add_labels": ["both"], "remove_labels": ["both", "pad"]}, ["follow-up:7"]),
    ({"remove_labels": "never there"}, ["follow-up:7"]),
    ({"add_labels": ["größe", "日本", "a=b", "$x"]}, ["$x", "a=b", "follow-up:7", "größe", "日本"]),
)


async def test_labels_are_added_and_removed_in_every_form(service: Service) -> None:
    """The loop of every agent ends with `remove_labels: ["unread"]`."""
    inbox = await service.inbox("bob")
    (message,) = await received(service, inbox, a_mail(inbox["email"]))
    for change, expected in CHANGES:
        answer = await relabelled(service, inbox, message, **change)
        assert answer.status_code == 200, answer.text
        shown: list[str] = answer.json()["labels"]
        assert answer.json()["message_id"] == message["message_id"]
        own = [each for each in shown if each not in {"received", "unread"}]
        assert (own or shown) == expected, change
        assert (await whole(service, inbox, message))["labels"] == shown
        assert shown == sorted(shown)


@pytest.mark.parametrize(
    "change", [{}, {"add_labels": None, "remove_labels": None}, {"add_labels": []}]
)
async def test_a_change_of_nothing_is_a_mistake(service: Service, change: Json) -> None:
    """A misspelt field would look like a success."""
    inbox = await service.inbox("bob")
    (message,) = await received(service, inbox, a_mail(inbox["email"]))
    mistake(await relabelled(service, inbox, message, **change), "add_labels", "REQUIRED")


async def test_mail_in_the_trash_is_hidden_until_asked_for(service: Service) -> None:
    """A thrown-away mail would be answered, or could not be taken back."""
    inbox = await service.inbox("bob")
    kept, thrown = await received(
        service, inbox, a_mail(inbox["email"], "Kept"), a_mail(inbox["email"], "Thrown")
    )
    answer = await relabelled(service, inbox, thrown, add_labels=["trash"])
    assert answer.json()["labels"] == ["received", "trash", "unread"]

    async def subjects(**query: Any) -> list[str]:
        return [each["subject"] for each in await service.messages(inbox, **query)]

    await until(subjects, lambda seen: seen == ["Kept"])
    assert await subjects(labels="unread") == ["Kept"]
    assert await subjects(include_trash="true") == ["Thrown", "Kept"]
    assert await subjects(labels="trash") == ["Thrown"]
    assert (await whole(service, inbox, thrown))["labels"] == ["received", "trash", "unread"]

    back = await relabelled(service, inbox, thrown, remove_labels="trash")
    assert back.json()["labels"] == ["received", "unread"]
    assert await subjects() == ["Thrown", "Kept"]
    await asyncio.sleep(0.3)
    assert await subjects() == ["Thrown", "Kept"], "what intake reads later must agree"
    assert kept["thread_id"] != thrown["thread_id"]


async def test_trash_is_hidden_from_a_key_that_may_not_read_it(service: Service) -> None:
    """The permission `label_trash_read` would mean nothing."""
    inbox = await service.inbox("bob")
    (message,) = await received(service, inbox, a_mail(inbox["email"]))
    await relabelled(service, inbox, message, add_labels="trash")
    key = await service.client.post("/v0/api-keys", json={"permissions": {"message_read": True}})
    headers = {"Authorization": f"Bearer {key.json()['api_key']}"}
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    for query in ("include_trash=true", "labels=trash", ""):
        answer = await service.client.get(f"{at}?{query}", headers=headers)
        assert answer.json()["messages"] == []
    answer = await service.client.get(f"{at}/{message['message_id']}", headers=headers)
    fault(answer, 404, "not_found")
