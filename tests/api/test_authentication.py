"""What agents are shown of a mail's sender, and what they are not shown unless they ask."""

from __future__ import annotations

import json

import pytest

from agentmail_cp import events, inboxes, payloads
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.settings import Unauthenticated
from tests.api.mailbox import arrive, at, named, ok, path_of, restricted, shown
from tests.domains import a_name, verified_domain
from tests.fix_app import Json, Service, a_mail, serving, until

FORGED = (
    "mail.agents.test; spf=fail smtp.mailfrom=ceo@bank.test;"
    " dmarc=none header.from=bank.test policy.dmarc=reject"
)
GENUINE = (
    "mail.agents.test; dkim=pass header.d=bank.test; spf=pass smtp.mailfrom=ceo@bank.test;"
    " dmarc=pass header.from=bank.test policy.dmarc=reject"
)
FOUND_GENUINE = {
    "spf": "pass",
    "dkim": "pass",
    "dmarc": "pass",
    "spf_domain": "bank.test",
    "dkim_domains": ["bank.test"],
    "dmarc_domain": "bank.test",
    "dmarc_policy": "reject",
}


async def checked(service: Service, inbox: Json, subject: str, results: str | None) -> Json:
    """A mail from outside of which the mail server found this out."""
    assert isinstance(service.server, MailSandbox)
    service.server.authentication_results = results
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], subject, From="ceo@bank.test"))
    service.server.authentication_results = None
    return message


async def notices(service: Service, inbox: Json) -> list[Json]:
    """What is told of everything that happened in an inbox."""
    async with service.db.reading() as tx:
        log = await events.list_of_inbox(
            tx, service.organization_id, inboxes.inbox_uuid(inbox["inbox_id"])
        )
    return [json.loads(each) for each in await payloads.render(service.db, service.server, log)]


async def test_what_was_found_out_is_shown_wherever_the_message_is(service: Service) -> None:
    """An agent decides by it, whichever way it came to know of the message."""
    inbox = await service.inbox("alice")
    message = await checked(service, inbox, "Invoice", GENUINE)
    got = await ok(await service.client.get(path_of(inbox, message)))
    thread = await ok(await service.client.get(f"{at(inbox)}/threads/{message['thread_id']}"))
    found = await ok(await service.client.get(f"{at(inbox)}/messages/search?q=Invoice"))
    (told,) = await notices(service, inbox)
    assert told["event_type"] == "message.received"
    for each in (message, got, thread["messages"][0], found["messages"][0], told["message"]):
        assert each["authentication"] == FOUND_GENUINE


async def test_mail_nobody_checked_says_nothing_of_it(service: Service) -> None:
    """Mail among inboxes of one server would look suspicious, or trusted, for no reason."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    outside = await checked(service, bob, "From outside", None)
    await service.send(alice, to=bob["email"], subject="From inside", text="Hi")
    await until(lambda: shown(service, bob), lambda seen: len(seen) == 2)
    for each in [outside, *await shown(service, bob), *await shown(service, alice)]:
        assert "authentication" not in each
        assert "unauthenticated" not in each["labels"]
        assert "original_recipient" not in each


async def test_mail_to_nobody_tells_its_inbox_for_whom_it_was(anywhere: Service) -> None:
    """An agent behind a catch-all must know whom a mail is to; and nobody may learn of other recipients."""
    name = a_name(anywhere, "caught")
    await verified_domain(anywhere, name)
    agent = await anywhere.inbox("agent", domain=name)
    other, elsewhere = await anywhere.inbox("other", domain=name), await anywhere.inbox("bob")
    changed = await anywhere.client.patch(f"/v0/domains/{name}", json={"catch_all": agent["email"]})
    assert changed.status_code == 200, changed.text
    mails = {
        "to-nobody": [f"sales@{name}"],
        "to-itself": [agent["email"]],
        "to-several": [f"press@{name}", other["email"], elsewhere["email"]],
    }
    for subject, recipients in mails.items():
        await anywhere.deliver(a_mail("all@elsewhere.test", subject), *recipients)
    found = await named(anywhere, agent, list(mails))
    asked = [each.get("original_recipient") for each in found]
    assert asked == [f"sales@{name}", None, f"press@{name}"]
    (told,) = [
        each["message"]
        for each in await notices(anywhere, agent)
        if each["message"]["subject"] == "to-nobody"
    ]
    assert told["original_recipient"] == f"sales@{name}"
    for inbox in (other, elsewhere):
        (seen,) = await named(anywhere, inbox, ["to-several"])
        assert "original_recipient" not in seen
        got = await ok(await anywhere.client.get(path_of(inbox, seen)))
        assert "press@" not in json.dumps(got)


async def test_a_forged_header_in_a_mail_counts_for_nothing(service: Service) -> None:
    """Whoever forges From can forge the verdict on it as well, in our server's name."""
    inbox = await service.inbox("alice")
    for results in (None, FORGED):
        mail = a_mail(inbox["email"], f"Forged {results}", Authentication_Results=GENUINE)
        assert isinstance(service.server, MailSandbox)
        service.server.authentication_results = results
        (message,) = await arrive(service, inbox, mail)
        found = message.get("authentication")
        assert (found and found["dmarc"]) == ("fail" if results else None)


async def test_forged_mail_is_hidden_from_who_does_not_ask_for_it(service: Service) -> None:
    """And not there at all for a key that may not read it."""
    inbox = await service.inbox("alice")
    message = await checked(service, inbox, "Pay me", FORGED)
    assert message["labels"] == ["received", "unauthenticated", "unread"]
    assert await service.messages(inbox) == []
    included = await service.messages(inbox, include_unauthenticated="true")
    assert [each["authentication"]["dmarc"] for each in included] == ["fail"]
    (told,) = await notices(service, inbox)
    assert told["event_type"] == "message.received.unauthenticated"
    assert told["message"]["authentication"]["dmarc"] == "fail"
    reader = await restricted(service, "message_read")
    refused = await service.client.get(path_of(inbox, message), headers=reader)
    assert refused.status_code == 404


@pytest.mark.parametrize(
    ("wish", "subjects", "announced"),
    [
        ("none", ["Pay me", "Hello"], ["message.received", "message.received"]),
        ("drop", ["Hello"], ["message.received"]),
    ],
)
async def test_the_operator_says_what_becomes_of_forged_mail(
    database_url: str,
    sandbox_server: tuple[MailSandbox, int],
    wish: Unauthenticated,
    subjects: list[str],
    announced: list[str],
) -> None:
    """One who forwards mail from elsewhere wants to see it, one who is plagued wants it gone."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, unauthenticated=wish) as service:
        inbox = await service.inbox("alice")
        sandbox.authentication_results = FORGED
        await service.deliver(a_mail(inbox["email"], "Pay me", From="ceo@bank.test"))
        sandbox.authentication_results = None
        await service.deliver(a_mail(inbox["email"], "Hello"))
        seen = await until(lambda: shown(service, inbox), lambda seen: len(seen) >= len(subjects))
        assert [each["subject"] for each in seen] == subjects
        assert [each["event_type"] for each in await notices(service, inbox)] == announced
