"""Pausing an inbox: for sending, or both ways; who ends it, what is shown, and what mail does meanwhile."""

from __future__ import annotations

import smtplib
from datetime import UTC, datetime, timedelta

import pytest

from tests.api import drafting
from tests.api.faults import fault
from tests.api.mailbox import at, rows
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until


async def change(service: Service, inbox: Json, **fields: object) -> Json:
    answer = await service.client.patch(at(inbox), json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def look(service: Service, inbox: Json) -> Json:
    answer = await service.client.get(at(inbox))
    assert answer.status_code == 200, answer.text
    return answer.json()


def pause_of(inbox: Json) -> tuple[str | None, bool, str | None]:
    return inbox.get("status"), inbox["send_paused"], inbox.get("send_paused_reason")


ACTIVE = (None, False, None)
REQUESTED = "It was paused by request."


async def refused(service: Service, inbox: Json) -> str:
    """What a send from a paused inbox is answered."""
    answer = await service.client.post(
        f"{at(inbox)}/messages/send", json={"to": OUTSIDER, "text": "Hi"}
    )
    body = fault(answer, 403, "inbox_paused")
    assert body["fix"]
    return body["message"]


async def test_sending_is_paused_and_goes_on(anywhere: Service) -> None:
    """Receiving goes on: an agent that must not write still has to hear."""
    inbox = await anywhere.inbox("alice")
    assert pause_of(inbox) == ACTIVE
    paused = await change(anywhere, inbox, send_paused=True)
    assert pause_of(paused) == (None, True, REQUESTED)
    assert pause_of(await look(anywhere, inbox)) == pause_of(paused)
    assert await refused(anywhere, inbox) == f"This inbox may not send now. {REQUESTED}"
    await anywhere.deliver(a_mail(inbox["email"], "Still there?"))
    await until(lambda: anywhere.messages(inbox), lambda seen: len(seen) == 1)
    assert pause_of(await change(anywhere, inbox, send_paused=False)) == ACTIVE
    await anywhere.send(inbox, to=OUTSIDER, text="Yes.")


async def test_a_paused_inbox_neither_sends_nor_receives(anywhere: Service) -> None:
    """Mail for it waits with its sender, so that nothing is lost and nothing bounces."""
    inbox, other = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    paused = await change(anywhere, inbox, status="paused")
    assert pause_of(paused) == ("paused", True, "Its status is paused.")
    assert await refused(anywhere, inbox) == "This inbox may not send now. Its status is paused."
    with pytest.raises(smtplib.SMTPRecipientsRefused) as deferred:
        await anywhere.deliver(a_mail(inbox["email"], "Now?"))
    assert [code // 100 for code, _ in deferred.value.recipients.values()] == [4]
    sent = await anywhere.send(other, to=inbox["email"], subject="From next door", text="Hi")
    assert sent["message_id"]
    assert await anywhere.messages(inbox) == []
    assert pause_of(await change(anywhere, inbox, status="active")) == ACTIVE
    await anywhere.deliver(a_mail(inbox["email"], "Now!"))
    await until(
        lambda: anywhere.messages(inbox),
        lambda seen: "Now!" in [each["subject"] for each in seen],
    )


async def test_status_active_ends_every_pause(service: Service) -> None:
    """The contract has one way back, and a caller of the SDK knows no other."""
    inbox = await service.inbox("alice")
    await change(service, inbox, send_paused=True, status="paused")
    assert pause_of(await change(service, inbox, status="active")) == ACTIVE
    both = await change(service, inbox, send_paused=True, status="active")
    assert pause_of(both) == (None, True, REQUESTED)


async def test_sending_cannot_go_on_alone_while_the_status_is_paused(service: Service) -> None:
    """It would look as if it did."""
    inbox = await service.inbox("alice")
    await change(service, inbox, status="paused")
    answer = await service.client.patch(at(inbox), json={"send_paused": False})
    body = fault(answer, 409, "conflict")
    assert body["message"] == "Sending cannot go on. Its status is paused."
    both = await change(service, inbox, send_paused=False, status="active")
    assert pause_of(both) == ACTIVE


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "sleeping"},
        {"status": None},
        {"send_paused": None},
        {"send_paused": "yes"},
        {"status": "paused", "metadata": {}},
        {"status": "paused", "display_name": "a\nb"},
    ],
)
async def test_what_is_no_pause_changes_nothing(service: Service, fields: Json) -> None:
    inbox = await service.inbox("alice")
    answer = await service.client.patch(at(inbox), json=fields)
    fault(answer, 400, "validation_error")
    assert pause_of(await look(service, inbox)) == ACTIVE


async def test_a_patch_refused_for_the_metadata_there_is_pauses_nothing(service: Service) -> None:
    """Who is told 400 believes the inbox active, while its mail is deferred and its sends are refused."""
    inbox = await service.inbox("alice", metadata={f"key {n}": n for n in range(256)})
    answer = await service.client.patch(
        at(inbox), json={"status": "paused", "send_paused": True, "metadata": {"one more": 1}}
    )
    assert fault(answer, 400, "validation_error")["error"]["details"]["code"] == "TOO_MANY"
    assert pause_of(await look(service, inbox)) == ACTIVE
    await service.send(inbox, to=OUTSIDER, text="Awake.")


async def test_an_inbox_is_made_paused(anywhere: Service) -> None:
    """Mail may come in the moment there is an address."""
    inbox = await anywhere.inbox("alice", status="paused")
    assert pause_of(inbox) == ("paused", True, "Its status is paused.")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await anywhere.deliver(a_mail(inbox["email"], "Early"))
    assert pause_of(await anywhere.inbox(status="active")) == ACTIVE


async def test_lists_and_search_show_it(service: Service) -> None:
    inbox = await service.inbox("alice")
    await change(service, inbox, send_paused=True)
    (listed,) = (await service.client.get("/v0/inboxes")).json()["inboxes"]
    (found,) = (await service.client.get("/v0/inboxes/search?q=alice")).json()["inboxes"]
    assert pause_of(listed) == pause_of(found) == (None, True, REQUESTED)


@pytest.mark.parametrize("fields", [{"send_paused": True}, {"status": "paused"}])
async def test_a_draft_whose_time_comes_has_failed(service: Service, fields: Json) -> None:
    """It is not sent the moment the pause ends, days late, without anybody looking at it again."""
    inbox = await service.inbox("alice")
    await change(service, inbox, **fields)
    due = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    made = await drafting.make(service, inbox, to=OUTSIDER, text="Hi", send_at=due)
    seen = await until(
        lambda: drafting.look(service, inbox, made), lambda seen: seen["send_status"] == "failed"
    )
    assert seen["send_error"].startswith("This inbox may not send now. It")
    await change(service, inbox, status="active")
    await service.fire()
    assert (await drafting.look(service, inbox, made))["send_status"] == "failed"
    again = datetime.now(UTC).isoformat()
    await drafting.change(service, inbox, made, send_at=again)
    await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)


async def test_a_broken_domain_pauses_its_inboxes_until_it_is_mended(service: Service) -> None:
    """Mail that fails DMARC costs the domain its name; nobody has to remember to let it go on."""
    inbox = await service.inbox("alice")
    await rows(
        service,
        "insert into domain (domain_id, organization_id, name, token, proved_at, installed_at,"
        " verified_at, broken_since, reason) values (gen_random_uuid(), %(organization_id)s,"
        " 'agents.test', 'x', now(), now(), now(), now(), 'SPF is missing.') returning 1",
        organization_id=service.organization_id,
    )
    reason = "The domain agents.test is broken. SPF is missing."
    assert pause_of(await look(service, inbox)) == (None, True, reason)
    assert await refused(service, inbox) == f"This inbox may not send now. {reason}"
    answer = await service.client.patch(at(inbox), json={"send_paused": False})
    assert fault(answer, 409, "conflict")["message"] == f"Sending cannot go on. {reason}"
    await rows(service, "update domain set broken_since = null returning 1")
    assert pause_of(await look(service, inbox)) == ACTIVE
    await service.send(inbox, to=OUTSIDER, text="Mended.")
