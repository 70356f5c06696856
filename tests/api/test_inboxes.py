"""Inboxes through the API: create, find, change, delete, as the seeds and the SDK spell it."""

from __future__ import annotations

import asyncio
import json
import re
import smtplib
from datetime import datetime
from typing import Any

import pytest

from agentmail_cp.sandbox import MailSandbox
from tests.api.faults import fault, mistake
from tests.fix_app import DOMAIN, Json, Service, a_mail, serving, until

READABLE = re.compile(r"[a-z]+-[a-z]+-[a-z0-9]{5}")


async def listed(service: Service, **query: object) -> list[str]:
    params = {name: str(value) for name, value in query.items()}
    answer = await service.client.get("/v0/inboxes", params=params)
    assert answer.status_code == 200, answer.text
    return [each["inbox_id"] for each in answer.json()["inboxes"]]


async def test_an_inbox_made_with_everything_shows_everything(service: Service) -> None:
    """A field the caller gave, or the seeds promise, would be missing from the answer."""
    answer = await service.client.post(
        "/v0/inboxes",
        json={
            "username": "support",
            "domain": DOMAIN,
            "display_name": "Support Ünit",
            "client_id": "support-prod.v1~a_b",
            "metadata": {"team": "blue", "tier": 3, "rate": 0.5, "live": True, "none": None},
        },
    )
    assert answer.status_code == 201
    made: Json = answer.json()
    credentials = made.pop("credentials")
    me = (await service.client.get("/v0/auth/me")).json()
    assert made.pop("pod_id") not in {"", me["organization_id"]}
    created, updated = made.pop("created_at"), made.pop("updated_at")
    assert created.endswith("Z")
    assert datetime.fromisoformat(created) <= datetime.fromisoformat(updated)
    assert made.pop("id").startswith("inb_")
    assert made == {
        "inbox_id": "support@agents.test",
        "email": "support@agents.test",
        "email_address": "support@agents.test",
        "username": "support",
        "domain": "agents.test",
        "display_name": "Support Ünit",
        "client_id": "support-prod.v1~a_b",
        "metadata": {"team": "blue", "tier": 3, "rate": 0.5, "live": True},
        "send_paused": False,
    }
    assert credentials["username"] == "support@agents.test"
    assert len(credentials["password"]) >= 32
    assert credentials["imap"] == {"host": "api.test", "port": 993, "tls": "implicit"}
    assert credentials["smtp"] == {"host": "api.test", "port": 587, "tls": "starttls"}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b'{"username": null, "metadata": null, "client_id": null}']
)
async def test_an_inbox_made_with_nothing_gets_a_readable_name(
    service: Service, content: bytes
) -> None:
    """`client.inboxes.create()` sends no body and no content type; it must work."""
    answer = await service.client.post("/v0/inboxes", content=content)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert READABLE.fullmatch(made["username"])
    assert made["inbox_id"] == f"{made['username']}@agents.test"
    assert not {"display_name", "client_id", "metadata"} & made.keys()


@pytest.mark.parametrize("username", ["a", "7", "a" * 64, "a.b-c_d", "a__b", "0-0", "a.b.c"])
async def test_a_username_within_seed_003_is_taken_as_it_is(
    service: Service, username: str
) -> None:
    """The address would not be the one asked for."""
    assert (await service.inbox(username))["inbox_id"] == f"{username}@agents.test"


@pytest.mark.parametrize(
    "username",
    [
        *("", " ", "a b", "a\tb", "a" * 65),
        *"Support SUPPORT -a a- .a a. _a a_ a..b a--b a+b a@b ä a/b a,b".split(),
    ],
)
async def test_a_username_outside_seed_003_is_refused(service: Service, username: str) -> None:
    """An address would be mended into one nobody asked for, or break mail for others."""
    answer = await service.client.post("/v0/inboxes", json={"username": username})
    mistake(answer, "username", "INVALID_USERNAME")


@pytest.mark.parametrize(
    "username", "postmaster abuse mailer-daemon hostmaster admin root noreply".split()
)
async def test_a_role_of_the_domain_is_nobodys_inbox(service: Service, username: str) -> None:
    """Whoever gets postmaster@ can prove to others that the domain is theirs."""
    answer = await service.client.post("/v0/inboxes", json={"username": username})
    mistake(answer, "username", "RESERVED_USERNAME")


async def test_on_a_shared_domain_every_address_gets_a_random_suffix(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """One organisation could take the names of all others (seed 003)."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, domain_shared=True) as service:
        first, second = await service.inbox("support"), await service.inbox("support")
        for made in (first, second):
            assert re.fullmatch(r"support-[a-z0-9]{6}@agents\.test", made["inbox_id"])
        assert first["inbox_id"] != second["inbox_id"]
        too_long = await service.client.post("/v0/inboxes", json={"username": "a" * 60})
        mistake(too_long, "username", "INVALID_USERNAME")
        await service.send(first, to=second["email"], text="Hi")
        await until(lambda: service.messages(second), lambda seen: len(seen) == 1)


async def test_a_taken_address_is_said_to_be_taken(service: Service) -> None:
    """The caller would get somebody else's inbox, or a crash."""
    await service.inbox("support")
    answer = await service.client.post("/v0/inboxes", json={"username": "support"})
    body = fault(answer, 403, "resource_taken")
    assert body["name"] == "IsTakenError"
    assert "support@agents.test" in body["message"]
    assert body["fix"]


@pytest.mark.parametrize("domain", ["elsewhere.test", "", "agents.test.elsewhere.test", "a@b"])
async def test_a_domain_we_do_not_hold_is_refused(service: Service, domain: str) -> None:
    """An inbox could be made on a domain of somebody else."""
    answer = await service.client.post("/v0/inboxes", json={"domain": domain})
    body = fault(answer, 403, "domain_not_verified")
    assert body["error"]["details"]["field"] == "domain"
    assert body["fix"]


async def test_a_domain_is_recognised_in_any_case(service: Service) -> None:
    """Domains have no case; `Agents.Test` is ours."""
    assert (await service.inbox("a", domain="Agents.TEST"))["inbox_id"] == "a@agents.test"


async def test_the_same_client_id_gives_the_same_inbox(service: Service) -> None:
    """An agent that restarts would leave an inbox behind each time."""
    first = await service.inbox("one", client_id="boot-1", display_name="First")
    again = await service.client.post(
        "/v0/inboxes", json={"username": "two", "client_id": "boot-1", "display_name": "Other"}
    )
    assert again.status_code == 200
    assert again.json() == {name: first[name] for name in first if name != "credentials"}
    assert await listed(service) == [first["inbox_id"]]


@pytest.mark.parametrize("fields", [{}, {"username": "one"}])
async def test_twenty_requests_with_one_client_id_make_one_inbox(
    service: Service, fields: Json
) -> None:
    """Replicas that boot together would each make their own, and lose mail to the others."""
    body = {"client_id": "boot-1", **fields}
    answers = await asyncio.gather(
        *(service.client.post("/v0/inboxes", json=body) for _ in range(20))
    )
    assert sorted(each.status_code for each in answers) == [200] * 19 + [201]
    assert len({each.json()["inbox_id"] for each in answers}) == 1
    assert sum("credentials" in each.json() for each in answers) == 1
    assert len(await listed(service)) == 1


async def test_twenty_requests_for_one_address_give_it_to_one(service: Service) -> None:
    """Two callers would read each other's mail."""
    answers = await asyncio.gather(
        *(service.client.post("/v0/inboxes", json={"username": "one"}) for _ in range(20))
    )
    statuses = [each.status_code for each in answers]
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 403, 409}, "403: taken; 409: being made, ask again"


@pytest.mark.parametrize("client_id", ["", "a b", "a@b", "é", "a" * 257, "a/b"])
async def test_a_client_id_that_does_not_fit_is_refused(service: Service, client_id: str) -> None:
    """Two spellings could be one id somewhere else."""
    mistake(await service.client.post("/v0/inboxes", json={"client_id": client_id}), "client_id")


async def test_the_password_is_shown_once(service: Service) -> None:
    """Whoever may read an inbox could log in as it for ever."""
    made = await service.inbox("once", client_id="once")
    assert made["credentials"]["password"]
    at = f"/v0/inboxes/{made['inbox_id']}"
    later = [
        await service.client.get(at),
        await service.client.get("/v0/inboxes"),
        await service.client.patch(at, json={"display_name": "New"}),
        await service.client.post("/v0/inboxes", json={"client_id": "once"}),
    ]
    for answer in later:
        assert answer.status_code == 200
        assert "credentials" not in answer.text
        assert made["credentials"]["password"] not in answer.text


async def test_where_mail_clients_connect_is_what_the_settings_say(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """A mail client would be sent to the wrong place."""
    sandbox, port = sandbox_server
    async with serving(
        database_url, sandbox, smtp_port=port, imap_host="imap.agents.test", imap_port=1993
    ) as service:
        made = await service.inbox("a")
    assert made["credentials"]["imap"] == {
        "host": "imap.agents.test",
        "port": 1993,
        "tls": "implicit",
    }


async def test_an_inbox_is_found_by_its_address_in_any_case_and_by_its_id(
    service: Service,
) -> None:
    """People write addresses in any case, and seed 003 writes `inb_…`."""
    made = await service.inbox("finder")
    for spelling in (
        "finder@agents.test",
        "Finder@Agents.Test",
        "finder%40agents.test",
        made["id"],
    ):
        answer = await service.client.get(f"/v0/inboxes/{spelling}")
        assert answer.status_code == 200, spelling
        assert answer.json()["inbox_id"] == "finder@agents.test"
    fault(await service.client.get("/v0/inboxes/other@agents.test"), 404, "not_found")
    fault(await service.client.get(f"/v0/inboxes/inb_{'0' * 32}"), 404, "not_found")


async def test_pages_of_inboxes_show_each_once_in_either_order(service: Service) -> None:
    """Somebody with more inboxes than a page would not see them all."""
    made = [(await service.inbox(f"n{index}"))["inbox_id"] for index in range(7)]
    for ascending in (False, True):
        seen: list[str] = []
        token: str | None = None
        for _ in range(3):
            query: Json = {"limit": 3, "ascending": str(ascending).lower()}
            if token:
                query["page_token"] = token
            page = (await service.client.get("/v0/inboxes", params=query)).json()
            assert page["limit"] == 3
            assert page["count"] == len(page["inboxes"])
            assert page["data"] == page["inboxes"]
            seen += [each["inbox_id"] for each in page["inboxes"]]
            token = page.get("next_page_token")
        assert token is None
        assert seen == (made if ascending else made[::-1])


async def test_an_inbox_made_meanwhile_does_not_disturb_the_pages(service: Service) -> None:
    """An inbox would be skipped or shown twice."""
    made = [(await service.inbox(f"n{index}"))["inbox_id"] for index in range(4)]
    page = (await service.client.get("/v0/inboxes", params={"limit": 2})).json()
    await service.inbox("late")
    rest = await listed(service, limit=10, page_token=page["next_page_token"])
    assert [each["inbox_id"] for each in page["inboxes"]] + rest == made[::-1]


async def test_a_token_of_another_list_is_refused(service: Service) -> None:
    """A page would silently start somewhere else."""
    inbox = await service.inbox("a")
    await service.inbox("b")
    for _ in range(2):
        await service.client.post("/v0/api-keys", json={})
    newest = (await service.client.get("/v0/inboxes", params={"limit": 1})).json()
    token: str = newest["next_page_token"]
    keys = (await service.client.get("/v0/api-keys", params={"limit": 1})).json()
    damaged = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for wrong in (damaged, token[:-4], token + "x", keys["next_page_token"]):
        answer = await service.client.get("/v0/inboxes", params={"page_token": wrong})
        mistake(answer, "page_token", "INVALID_PAGE_TOKEN")
    params = {"page_token": token, "ascending": "true"}
    mistake(await service.client.get("/v0/inboxes", params=params), "page_token")
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    mistake(await service.client.get(at, params={"page_token": token}), "page_token")


async def changed(service: Service, inbox: Json, **fields: object) -> Json:
    answer = await service.client.patch(f"/v0/inboxes/{inbox['inbox_id']}", json=fields)
    assert answer.status_code == 200, answer.text
    shown = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.json() == shown.json()
    return answer.json()


async def test_metadata_is_merged_key_by_key(service: Service) -> None:
    """Seed 002: an update would wipe what another part of the caller's system keeps there."""
    inbox = await service.inbox("meta", metadata={"keep": 1, "change": "a", "drop": True})
    after = await changed(service, inbox, metadata={"change": "b", "drop": None, "new": 2.5})
    assert after["metadata"] == {"keep": 1, "change": "b", "new": 2.5}
    assert (await changed(service, inbox, display_name="Other"))["metadata"] == after["metadata"]
    assert (await changed(service, inbox, metadata={"absent": None}))["metadata"] == after[
        "metadata"
    ]
    assert "metadata" not in await changed(service, inbox, metadata=None)
    assert "metadata" not in await changed(service, inbox, metadata=None)


async def test_metadata_keeps_the_kind_of_a_value(service: Service) -> None:
    """`"5"` and 5, `true` and `"true"` mean different things to the caller."""
    values = {"text": "5", "yes": "true", "null": "null", "int": 5, "float": 1.5, "bool": False}
    inbox = await service.inbox("kinds", metadata=values)
    shown = (await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert json.dumps(shown["metadata"], sort_keys=True) == json.dumps(values, sort_keys=True)


async def test_metadata_holds_256_keys_of_256_characters(service: Service) -> None:
    """Seed 002's limits are promises as well."""
    full: Json = {f"{index:03}" + "k" * 253: "v" * 256 for index in range(256)}
    inbox = await service.inbox("full", metadata=full)
    assert inbox["metadata"] == full
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    answer = await service.client.patch(at, json={"metadata": {"one more": 1}})
    mistake(answer, "metadata", "TOO_MANY")
    swapped = await changed(service, inbox, metadata={next(iter(full)): None, "one more": 1})
    assert len(swapped["metadata"]) == 256


async def test_an_update_must_say_what_to_change(service: Service) -> None:
    """Seed 002: an empty update is a mistake, not a success."""
    inbox = await service.inbox("same")
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    mistake(await service.client.patch(at, json={}), "display_name", "REQUIRED")
    mistake(await service.client.patch(at, json={"metadata": {}}), "metadata")
    answer = await service.client.patch(at, json={"metadata": {}, "display_name": "x"})
    mistake(answer, "metadata")


async def test_display_name_can_be_changed_and_cleared_and_shows_in_from(
    service: Service,
) -> None:
    """Recipients would see a bare address, or an old name."""
    sender, other = await service.inbox("sender"), await service.inbox("other")
    names: list[Any] = ["Plain", 'Dr. "Q", Ünïcode', None]
    expected = [
        "Plain <sender@agents.test>",
        '"Dr. \\"Q\\", Ünïcode" <sender@agents.test>',
        "sender@agents.test",
    ]
    for number, name in enumerate(names, 1):
        shown = await changed(service, sender, display_name=name)
        assert shown.get("display_name") == name
        await service.send(sender, to=other["email"], subject=str(number), text="Hi")
        seen = await until(lambda: service.messages(other), lambda s, n=number: len(s) == n)
        by_subject = {each["subject"]: each["from"] for each in seen}
        assert by_subject[str(number)] == expected[number - 1]


async def gone(service: Service, inbox: Json, message_id: str, thread_id: str) -> None:
    """Every inbox route answers 404, whatever is asked of it."""
    for name in (inbox["inbox_id"], inbox["id"]):
        at = f"/v0/inboxes/{name}"
        routes: list[tuple[str, str, Json | None]] = [
            ("GET", at, None),
            ("PATCH", at, {"display_name": "x"}),
            ("DELETE", at, None),
            ("GET", f"{at}/messages", None),
            ("POST", f"{at}/messages", {"to": "ada@elsewhere.test"}),
            ("POST", f"{at}/messages/send", {"to": "ada@elsewhere.test"}),
            ("GET", f"{at}/messages/{message_id}", None),
            ("PATCH", f"{at}/messages/{message_id}", {"remove_labels": "unread"}),
            ("GET", f"{at}/threads", None),
            ("GET", f"{at}/threads/{thread_id}", None),
        ]
        for method, path, body in routes:
            answer = await service.client.request(method, path, json=body)
            fault(answer, 404, "not_found")


async def test_a_deleted_inbox_is_gone_for_callers_and_its_mail_is_retained(
    service: Service,
) -> None:
    """Deleting must not destroy what seed 003 retains, nor leave a door open to it."""
    inbox, kept = await service.inbox("leaver", client_id="c-1"), await service.inbox("stayer")
    await service.deliver(a_mail(inbox["email"], "Keep me", "For the record."))
    (message,) = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    thread_id = message["thread_id"]

    answer = await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204
    assert answer.content == b""

    await gone(service, inbox, message["message_id"], thread_id)
    assert await listed(service) == [kept["inbox_id"]]
    hidden = (await service.client.get("/v0/threads")).json()
    assert hidden["threads"] == []
    fault(await service.client.get(f"/v0/threads/{thread_id}"), 404, "not_found")

    params = {"include_deleted": "true"}
    retained = (await service.client.get("/v0/threads", params=params)).json()
    assert [each["thread_id"] for each in retained["threads"]] == [thread_id]
    assert retained["threads"][0]["inbox_id"] == "leaver@agents.test"
    whole = await service.client.get(f"/v0/threads/{thread_id}", params=params)
    assert whole.status_code == 200, whole.text
    assert whole.json()["messages"][0]["text"].strip() == "For the record."


async def test_the_address_of_a_deleted_inbox_is_never_issued_again(service: Service) -> None:
    """A stranger would get the mail meant for the one before."""
    inbox = await service.inbox("leaver", client_id="c-1")
    await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    fault(
        await service.client.post("/v0/inboxes", json={"username": "leaver"}),
        403,
        "resource_taken",
    )
    again = await service.inbox(client_id="c-1")
    assert again["inbox_id"] != inbox["inbox_id"]
    assert again["credentials"]["password"]


async def test_mail_to_a_deleted_inbox_is_refused_at_the_door(service: Service) -> None:
    """The sender would believe that it arrived."""
    inbox, sender = await service.inbox("leaver"), await service.inbox("sender")
    await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await service.deliver(a_mail(inbox["email"]))
    assert refused.value.recipients[inbox["email"]][0] == 550
    answer = await service.client.post(
        f"/v0/inboxes/{sender['inbox_id']}/messages/send", json={"to": inbox["email"]}
    )
    fault(answer, 403, "message_rejected")


async def test_deleting_twice_at_once_succeeds_once(service: Service) -> None:
    """One of two callers would be told that it deleted what another one did."""
    inbox = await service.inbox("leaver")
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    answers = await asyncio.gather(*(service.client.delete(at) for _ in range(5)))
    assert sorted(each.status_code for each in answers) == [204, 404, 404, 404, 404]
