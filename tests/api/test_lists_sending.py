"""Lists at work on what leaves: every way to send asks them, and a refused mail leaves no trace."""

from __future__ import annotations

import httpx
import pytest

from agentmail_cp import lists
from agentmail_cp.access import Reach
from tests import tenants
from tests.api import drafting
from tests.api.faults import fault
from tests.api.mailbox import arrive, at, path_of, rows, shown, stored
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until

BLOCKED = "mallory@blocked.test"
REASON = f"Message rejected: Recipient(s) blocked: {BLOCKED} (in block list)"


async def put(service: Service, scope: str, which: str, entry: str) -> None:
    answer = await service.client.post(f"{scope}/lists/{which}", json={"entry": entry})
    assert answer.status_code == 201, answer.text


async def guarded(service: Service, name: str = "guarded") -> Json:
    """An inbox that may not write to one domain."""
    inbox = await service.inbox(name)
    await put(service, at(inbox), "send/block", "blocked.test")
    return inbox


async def post(service: Service, path: str, **fields: object) -> httpx.Response:
    return await service.client.post(path, json=fields)


async def no_trace(service: Service, inbox: Json, *subjects: str) -> None:
    """Nothing but these is in the inbox, in the index or in the mail server, and nothing was begun."""
    assert {each["subject"] for each in await shown(service, inbox)} == {*subjects}
    assert (await stored(service, inbox)).keys() == {*subjects}
    assert await rows(service, "select state from send") == []


async def test_a_blocked_recipient_stops_the_whole_mail(anywhere: Service) -> None:
    """Sent to some of them it would look sent, and could not be repeated."""
    inbox = await guarded(anywhere)
    refused = await post(
        anywhere,
        f"{at(inbox)}/messages/send",
        to=[OUTSIDER, "Mallory@BLOCKED.test"],
        cc="Eve <eve@blocked.test>",
        bcc="ok@elsewhere.test",
        subject="No",
        text="x",
    )
    body = fault(refused, 403, "message_rejected")
    assert body["name"] == "MessageRejectedError"
    assert body["message"] == (
        "Message rejected: Recipient(s) blocked: Mallory@blocked.test (in block list),"
        " eve@blocked.test (in block list)"
    )
    assert body["fix"]
    await no_trace(anywhere, inbox)


async def test_a_blind_copy_is_judged_too(service: Service) -> None:
    """It is the quietest way to carry data out."""
    inbox = await guarded(service)
    refused = await post(
        service, f"{at(inbox)}/messages/send", to=OUTSIDER, bcc=BLOCKED, subject="No", text="x"
    )
    assert fault(refused, 403, "message_rejected")["message"] == REASON


async def test_an_allow_list_is_all_there_is(anywhere: Service) -> None:
    """An agent on a leash: only its own customer, whoever talks it into more."""
    inbox = await anywhere.inbox("leashed")
    await put(anywhere, at(inbox), "send/allow", "elsewhere.test")
    await anywhere.send(inbox, to=OUTSIDER, subject="Fine", text="x")
    refused = await post(
        anywhere, f"{at(inbox)}/messages/send", to=["a@b.test", OUTSIDER], subject="No", text="x"
    )
    assert fault(refused, 403, "message_rejected")["message"] == (
        "Message rejected: Recipient(s) blocked: a@b.test (not in allow list)"
    )
    assert {each["subject"] for each in await shown(anywhere, inbox)} == {"Fine"}


async def test_every_answer_is_judged_by_the_send_lists(anywhere: Service) -> None:
    """Replies too: whoever may not be written to may not be answered."""
    inbox = await guarded(anywhere)
    mail = a_mail(inbox["email"], "Hello", From=BLOCKED, Cc=OUTSIDER)
    mail["Reply-To"] = BLOCKED
    (message,) = await arrive(anywhere, inbox, mail)
    at_message = path_of(inbox, message)
    for path, fields in (
        ("reply", {"text": "x"}),
        ("reply", {"text": "x", "reply_all": True}),
        ("reply-all", {"text": "x"}),
        ("forward", {"to": BLOCKED, "text": "x"}),
    ):
        refused = await post(anywhere, f"{at_message}/{path}", **fields)
        assert fault(refused, 403, "message_rejected")["message"] == REASON, path
    await no_trace(anywhere, inbox, "Hello")
    elsewhere = await post(anywhere, f"{at_message}/reply", to=OUTSIDER, text="x")
    assert elsewhere.status_code == 200, elsewhere.text


async def test_receive_and_reply_lists_hold_nothing_back(service: Service) -> None:
    """They are about what comes in."""
    inbox = await service.inbox("alice")
    for which in ("receive/block", "reply/block"):
        await put(service, at(inbox), which, "elsewhere.test")
    for which in ("receive/allow", "reply/allow"):
        await put(service, at(inbox), which, "friends.test")
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], "Hello"))
    answer = await post(service, f"{path_of(inbox, message)}/reply", text="x")
    assert answer.status_code == 200, answer.text


async def test_a_refused_draft_waits_for_another_day(anywhere: Service) -> None:
    """Nothing of it is lost, and once the list lets it go it is sent."""
    inbox = await guarded(anywhere)
    draft = await drafting.make(anywhere, inbox, to=BLOCKED, subject="Offer", text="x")
    refused = await drafting.send(anywhere, inbox, draft)
    assert fault(refused, 403, "message_rejected")["message"] == REASON
    kept = await drafting.look(anywhere, inbox, draft)
    assert (kept["to"], kept["subject"]) == ([BLOCKED], "Offer")
    await anywhere.client.delete(f"{at(inbox)}/lists/send/block/blocked.test")
    sent = await drafting.send(anywhere, inbox, draft)
    assert sent.status_code == 200, sent.text
    assert await drafting.status(anywhere, inbox, draft) == 404


async def test_a_scheduled_draft_is_judged_when_its_time_comes(anywhere: Service) -> None:
    """By the lists of that moment; it fails and says why, instead of trying for ever."""
    inbox = await anywhere.inbox("scheduler")
    draft = await drafting.make(
        anywhere, inbox, to=BLOCKED, subject="Later", text="x", send_at=drafting.ahead(2)
    )
    assert draft["send_status"] == "scheduled"
    await put(anywhere, at(inbox), "send/block", BLOCKED)
    failed = await until(
        lambda: drafting.look(anywhere, inbox, draft),
        lambda seen: seen.get("send_status") == "failed",
        seconds=10,
    )
    assert failed["send_error"] == REASON
    assert await shown(anywhere, inbox) == []


async def test_a_refused_send_may_be_repeated_with_its_key(service: Service) -> None:
    """Nothing was sent, so the key is still good once the list has changed."""
    inbox = await guarded(service)
    path, body = f"{at(inbox)}/messages/send", {"to": BLOCKED, "subject": "Again", "text": "x"}
    headers = {"Idempotency-Key": "again"}
    for _ in range(2):
        refused = await service.client.post(path, json=body, headers=headers)
        fault(refused, 403, "message_rejected")
    await service.client.delete(f"{at(inbox)}/lists/send/block/blocked.test")
    sent = await service.client.post(path, json=body, headers=headers)
    assert sent.status_code == 200, sent.text
    await put(service, at(inbox), "send/block", "blocked.test")
    repeated = await service.client.post(path, json=body, headers=headers)
    assert (repeated.status_code, repeated.json()) == (200, sent.json())


@pytest.mark.parametrize("scope", ["inbox", "pod", "organization"])
async def test_lists_of_every_scope_hold_for_an_inbox(service: Service, scope: str) -> None:
    inbox = await service.inbox("alice")
    base = {"inbox": at(inbox), "pod": f"/v0/pods/{inbox['pod_id']}", "organization": "/v0"}[scope]
    await put(service, base, "send/block", "blocked.test")
    refused = await post(service, f"{at(inbox)}/messages/send", to=BLOCKED, text="x")
    assert fault(refused, 403, "message_rejected")["message"] == REASON


async def test_an_inbox_may_be_let_out_of_a_wider_rule(service: Service) -> None:
    """Narrowest scope first: one inbox for what the organisation keeps all others from."""
    free, bound = await service.inbox("free"), await service.inbox("bound")
    await put(service, "/v0", "send/block", "blocked.test")
    await put(service, at(free), "send/allow", BLOCKED)
    await service.send(free, to=BLOCKED, subject="Hi", text="x")
    refused = await post(service, f"{at(bound)}/messages/send", to=BLOCKED, text="x")
    fault(refused, 403, "message_rejected")
    other = await post(service, f"{at(free)}/messages/send", to=OUTSIDER, text="x")
    assert "not in allow list" in fault(other, 403, "message_rejected")["message"]


async def test_a_suppressed_address_is_not_written_to(service: Service) -> None:
    """Though an allow list names its domain."""
    inbox = await service.inbox("alice")
    await put(service, at(inbox), "send/allow", "elsewhere.test")
    async with service.db.transaction() as tx:
        await lists.suppress(tx, service.organization_id, OUTSIDER, origin="bounce")
    refused = await post(service, f"{at(inbox)}/messages/send", to=OUTSIDER, text="x")
    assert "(in block list)" in fault(refused, 403, "message_rejected")["message"]
    stranger = await tenants.organization(service.db)
    async with service.db.reading() as tx:
        found = await lists.verdicts(tx, Reach(stranger), "send", [OUTSIDER])
    assert found == {OUTSIDER: lists.Verdict.ALLOWED}


async def test_an_international_domain_is_one_however_it_is_spelt(service: Service) -> None:
    """The list has it in ASCII, the mail in Unicode, or the other way round."""
    inbox = await service.inbox("alice")
    await put(service, at(inbox), "send/block", "bücher.example")
    for to in ("ada@bücher.example", "ada@BÜCHER.example", "ada@xn--bcher-kva.example"):
        refused = await post(service, f"{at(inbox)}/messages/send", to=to, text="x")
        fault(refused, 403, "message_rejected")
