"""Webhook endpoints over the API: made, found, changed and deleted at each scope, and what may be asked."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agentmail_cp import filing
from agentmail_cp.events import DEFAULT_TYPES, PROTECTED, EventType
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.api.faults import fault, mistake
from tests.api.mailbox import named, ok, path_of
from tests.fix_app import Json, Service, a_mail, serving, until

URL = "https://hooks.example/mail"
HOOKS = "/v0/webhooks"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def make(client: httpx.AsyncClient, path: str = HOOKS, **fields: Any) -> Json:
    answer = await client.post(path, json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def change(client: httpx.AsyncClient, made: Json, **fields: Any) -> Json:
    answer = await client.patch(f"{HOOKS}/{made['webhook_id']}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def key_of(secret: str) -> bytes:
    prefix, _, rest = secret.partition("_")
    assert prefix == "whsec"
    return base64.b64decode(rest, validate=True)


# --- what one is


async def test_one_is_made_with_nothing_but_a_url(service: Service) -> None:
    """Older programs name no types; the seven of seed 000 are meant."""
    made = await make(service.client)
    assert made.pop("created_at").endswith("Z")
    assert made.pop("updated_at").endswith("Z")
    assert len(key_of(made.pop("secret"))) == 32
    assert made.pop("webhook_id")
    assert made == {
        "url": URL,
        "enabled": True,
        "event_types": [each.value for each in DEFAULT_TYPES],
    }


async def test_everything_that_is_said_is_kept(service: Service) -> None:
    """A field that is dropped would be noticed when the first event does not come."""
    inbox = await service.inbox("alice")
    pod_id = await tenants.pod(service.db, service.organization_id, client_id="acme")
    made = await make(
        service.client,
        event_types=["message.sent", "message.received", "message.sent"],
        inbox_ids=[inbox["inbox_id"].upper(), inbox["inbox_id"]],
        pod_ids=["acme"],
        client_id="hook-1",
        headers={"X-Token": "s3cret"},
        enabled=False,
    )
    assert made["event_types"] == ["message.received", "message.sent"]
    assert made["inbox_ids"] == [inbox["inbox_id"]]
    assert made["pod_ids"] == [str(pod_id)]
    assert made["client_id"] == "hook-1"
    assert "headers" not in made
    assert (made["enabled"], made["disabled_reason"]) == (False, "requested")
    assert made["disabled_at"].endswith("Z")
    found = await service.client.get(f"{HOOKS}/{made['webhook_id']}")
    assert found.json() == made
    assert (await service.client.get(HOOKS)).json()["webhooks"] == [made]


async def test_a_client_id_makes_one_only(service: Service) -> None:
    """Provisioning runs at every start: it would be told of everything twice, or could not verify it."""
    made = await make(service.client, client_id="hook-1")
    again = await service.client.post(HOOKS, json={"url": f"{URL}/2", "client_id": "hook-1"})
    assert (again.status_code, again.json()) == (200, made)


async def test_a_client_id_is_one_of_its_scope(service: Service) -> None:
    """One tenant's choice of name would show it another's endpoint, secret and all."""
    pod_id = await tenants.pod(service.db, service.organization_id)
    inbox = await service.inbox("alice")
    paths = [HOOKS, f"/v0/pods/{pod_id}/webhooks", f"/v0/inboxes/{inbox['inbox_id']}/webhooks"]
    made = [await make(service.client, path, client_id="hook") for path in paths]
    assert len({each["webhook_id"] for each in made}) == 3
    listed = (await service.client.get(HOOKS)).json()["webhooks"]
    assert listed == made[::-1]


# --- scopes


async def test_a_scope_sees_its_own_and_narrower_ones(service: Service) -> None:
    """A tenant's key would find the endpoints of the whole organisation, and their secrets."""
    pod_id = await tenants.pod(service.db, service.organization_id)
    inbox = await tenants.inbox_in(service, pod_id, "alice")
    in_pod, in_inbox = f"/v0/pods/{pod_id}/webhooks", f"/v0/inboxes/{inbox['inbox_id']}/webhooks"
    made = {path: await make(service.client, path) for path in (HOOKS, in_pod, in_inbox)}
    assert (made[in_pod]["pod_id"], made[in_pod].get("inbox_id")) == (str(pod_id), None)
    assert (made[in_inbox]["pod_id"], made[in_inbox]["inbox_id"]) == (
        str(pod_id),
        inbox["inbox_id"],
    )
    shown = {
        HOOKS: [made[in_inbox], made[in_pod], made[HOOKS]],
        in_pod: [made[in_inbox], made[in_pod]],
        in_inbox: [made[in_inbox]],
    }
    for path, expected in shown.items():
        assert (await service.client.get(path)).json()["webhooks"] == expected
    wider = f"{in_inbox}/{made[in_pod]['webhook_id']}"
    for method in ("GET", "DELETE"):
        fault(await service.client.request(method, wider), 404, "not_found")
    fault(await service.client.patch(wider, json={"enabled": False}), 404, "not_found")


async def test_a_narrow_key_makes_narrow_ones(service: Service) -> None:
    """It would be told of what its maker may not see."""
    inbox = await service.inbox("alice")
    uuid = await tenants.uuid_of(service.db, inbox)
    key = await tenants.key(service.db, service.organization_id, inbox_id=uuid)
    client = tenants.client(service, key)
    made = await make(client)
    assert made["inbox_id"] == inbox["inbox_id"]
    assert (await client.get(HOOKS)).json()["webhooks"] == [made]
    mistake(
        await client.post(HOOKS, json={"url": URL, "pod_ids": [made["pod_id"]]}),
        "pod_ids",
        "INVALID_VALUE",
    )


async def test_filters_lead_to_nothing_beyond_reach(service: Service) -> None:
    """Whoever names a foreign inbox would find out that it exists, or be told of it."""
    inbox, other = await service.inbox("alice"), await service.inbox("bob")
    pod_id = await tenants.pod(service.db, service.organization_id)
    in_pod = f"/v0/pods/{pod_id}/webhooks"
    for fields in ({"inbox_ids": [inbox["inbox_id"]]}, {"pod_ids": [UNKNOWN]}):
        fault(await service.client.post(in_pod, json={"url": URL, **fields}), 404, "not_found")
    in_inbox = f"/v0/inboxes/{inbox['inbox_id']}/webhooks"
    made = await make(service.client, in_inbox, inbox_ids=[inbox["inbox_id"]])
    # By the path of the organisation, too, an endpoint stays within its own scope.
    fault(
        await service.client.patch(
            f"{HOOKS}/{made['webhook_id']}", json={"add_inbox_ids": [other["inbox_id"]]}
        ),
        404,
        "not_found",
    )


# --- pages


async def test_pages(service: Service) -> None:
    """An endpoint would be shown twice, or never."""
    made = [await make(service.client) for _ in range(3)]
    ids = [each["webhook_id"] for each in made]
    for ascending in (False, True):
        query = {"limit": "2", "ascending": str(ascending).lower()}
        first = (await service.client.get(HOOKS, params=query)).json()
        token = first["next_page_token"]
        rest = (await service.client.get(HOOKS, params={**query, "page_token": token})).json()
        seen = [each["webhook_id"] for page in (first, rest) for each in page["webhooks"]]
        assert seen == (ids if ascending else ids[::-1])
        assert (first["count"], first["limit"], rest["count"]) == (2, 2, 1)
        assert "next_page_token" not in rest


# --- changes


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_what_is_said_changes_and_nothing_else(service: Service, method: str) -> None:
    """Whoever moves a URL would lose its types, its filter or its secret."""
    inbox = await service.inbox("alice")
    made = await make(
        service.client, event_types=["message.sent"], inbox_ids=[inbox["inbox_id"]], client_id="h"
    )
    path = f"{HOOKS}/{made['webhook_id']}"
    for fields in ({"url": f"{URL}/2"}, {"event_types": ["message.bounced"]}, {"enabled": False}):
        answer = await service.client.request(method, path, json=fields)
        assert answer.status_code == 200, answer.text
        changed = answer.json()
        expected = {**made, **fields, "updated_at": changed["updated_at"]}
        if "enabled" in fields:
            expected |= {"disabled_reason": "requested", "disabled_at": changed["disabled_at"]}
        assert changed == expected
        made = changed


async def test_empty_event_types_leave_them(service: Service) -> None:
    """The SDKs send an empty list where nothing is meant; the endpoint would be told of nothing more."""
    made = await make(service.client, event_types=["message.sent"])
    changed = await change(service.client, made, event_types=[])
    assert changed["event_types"] == ["message.sent"]


async def test_filters_are_added_to_and_taken_from(service: Service) -> None:
    """An agent's new inbox would not be heard, or its old one for ever."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    pod_id = str(await tenants.pod(service.db, service.organization_id, client_id="acme"))
    made = await make(service.client, inbox_ids=[alice["inbox_id"]])
    made = await change(service.client, made, add_inbox_ids=[bob["inbox_id"]], add_pod_ids=["acme"])
    assert made["inbox_ids"] == [alice["inbox_id"], bob["inbox_id"]]
    assert made["pod_ids"] == [pod_id]
    made = await change(
        service.client, made, remove_inbox_ids=[alice["inbox_id"]], remove_pod_ids=[pod_id]
    )
    assert (made["inbox_ids"], made.get("pod_ids")) == ([bob["inbox_id"]], None)
    made = await change(service.client, made, inbox_ids=[alice["inbox_id"]])
    assert made["inbox_ids"] == [alice["inbox_id"]]
    made = await change(service.client, made, inbox_ids=None)
    assert "inbox_ids" not in made


async def test_adding_only_adds_and_removing_only_removes(service: Service) -> None:
    """An endpoint that is told of everything would be told of one inbox alone, or the other way round."""
    alice = (await service.inbox("alice"))["inbox_id"]
    pod_id = str(await tenants.pod(service.db, service.organization_id))
    made = await make(service.client)
    changed = await change(service.client, made, add_inbox_ids=[alice], add_pod_ids=[pod_id])
    assert {**changed, "updated_at": made["updated_at"]} == made
    for kind, ids in (("inbox_ids", [alice]), ("pod_ids", [pod_id])):
        fields: Json = {kind: ids}
        held = await make(service.client, **fields)
        path = f"{HOOKS}/{held['webhook_id']}"
        emptied = await service.client.patch(path, json={f"remove_{kind}": ids})
        mistake(emptied, f"remove_{kind}", "INVALID_VALUE")
        assert (await service.client.get(path)).json() == held
        freed = await change(service.client, held, inbox_ids=None, pod_ids=None)
        assert not {"inbox_ids", "pod_ids"} & freed.keys()


async def test_removing_what_is_not_there_changes_nothing(service: Service) -> None:
    """Cleaning up twice would fail the second time."""
    made = await make(service.client)
    changed = await change(
        service.client, made, remove_inbox_ids=["nobody@agents.test"], remove_pod_ids=["none"]
    )
    assert {**changed, "updated_at": made["updated_at"]} == made


async def test_enabled_again_it_has_no_past(service: Service) -> None:
    """It would be disabled again by the failures from before."""
    made = await make(service.client)
    async with service.db.transaction() as tx:
        await tx.execute(
            "update webhook set enabled = false, disabled_reason = 'failing', disabled_at = now(),"
            " failing_since = now() - interval '5 days'"
        )
    path = f"{HOOKS}/{made['webhook_id']}"
    found = (await service.client.get(path)).json()
    assert (found["enabled"], found["disabled_reason"]) == (False, "failing")
    # Saying so once more is no new reason.
    assert (await change(service.client, made, enabled=False))["disabled_reason"] == "failing"
    changed = await change(service.client, made, enabled=True)
    assert {**changed, "updated_at": made["updated_at"]} == made
    async with service.db.reading() as tx:
        row = await (await tx.execute("select failing_since, disabled_at from webhook")).fetchone()
    assert row == {"failing_since": None, "disabled_at": None}


async def test_a_deleted_one_is_gone(service: Service) -> None:
    """Its URL would be called for ever."""
    path = f"{HOOKS}/{(await make(service.client))['webhook_id']}"
    gone = await service.client.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    for method in ("GET", "DELETE"):
        fault(await service.client.request(method, path), 404, "not_found")


async def test_inboxes_and_pods_take_theirs_with_them(anywhere: Service) -> None:
    """Endpoints of a customer who left would stay, and one that was held to a deleted inbox must not
    suddenly be told of everything.
    """
    service = anywhere
    pod_id = await tenants.pod(service.db, service.organization_id)
    inbox = await tenants.inbox_in(service, pod_id, "alice")
    address = inbox["inbox_id"]
    await make(service.client, f"/v0/inboxes/{address}/webhooks")
    both = await make(service.client, inbox_ids=[address], pod_ids=[str(pod_id)])
    alone = await make(service.client, inbox_ids=[address])
    in_pod = await make(service.client, f"/v0/pods/{pod_id}/webhooks", inbox_ids=[address])
    assert (await service.client.delete(f"/v0/inboxes/{address}")).status_code == 204
    left = {
        each["webhook_id"]: each for each in (await service.client.get(HOOKS)).json()["webhooks"]
    }
    assert set(left) == {each["webhook_id"] for each in (both, alone, in_pod)}
    assert "inbox_ids" not in left[both["webhook_id"]]
    assert left[both["webhook_id"]]["enabled"]
    for each in (alone, in_pod):
        found = left[each["webhook_id"]]
        assert (found["enabled"], found["disabled_reason"]) == (False, "deleted")
        assert found["inbox_ids"] == [address]
    assert (await service.client.delete(f"/v0/pods/{pod_id}")).status_code == 204
    left = {
        each["webhook_id"]: each for each in (await service.client.get(HOOKS)).json()["webhooks"]
    }
    assert set(left) == {each["webhook_id"] for each in (both, alone)}
    assert left[both["webhook_id"]]["disabled_reason"] == "deleted"
    bob = (await service.inbox("bob"))["inbox_id"]
    moved = await change(
        service.client, alone, remove_inbox_ids=[address], add_inbox_ids=[bob], enabled=True
    )
    assert (moved["enabled"], moved["inbox_ids"]) == (True, [bob])


# --- headers


async def test_headers_are_set_and_removed_and_never_shown(service: Service) -> None:
    """They are credentials: whoever may look at an endpoint could call it in our name."""
    made = await make(service.client, headers={"X-Token": "canary-1", "X-Team": "canary-2"})
    path = f"{HOOKS}/{made['webhook_id']}/headers"
    assert (await service.client.get(path)).json() == {"header_names": ["X-Team", "X-Token"]}
    answer = await service.client.patch(
        path, json={"headers": {"x-token": "canary-3", "A": "b"}, "remove_headers": ["x-TEAM"]}
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await service.client.get(path)).json() == {"header_names": ["A", "x-token"]}
    everything = (await service.client.get(HOOKS)).text
    assert "canary" not in everything
    async with service.db.reading() as tx:
        row = await (await tx.execute("select headers from webhook")).fetchone()
    assert row == {"headers": {"A": "b", "x-token": "canary-3"}}


BAD_HEADERS: list[tuple[Json, str, str]] = [
    ({}, "headers", "REQUIRED"),
    ({"headers": {}, "remove_headers": []}, "headers", "REQUIRED"),
    ({"headers": {"A": "b"}, "remove_headers": ["a"]}, "remove_headers", "DUPLICATE"),
    ({"headers": {"A": "b", "a": "c"}}, "headers", "DUPLICATE"),
    ({"headers": {"Host": "b"}}, "headers.Host", "RESERVED_HEADER"),
    ({"headers": {"svix-id": "b"}}, "headers.svix-id", "RESERVED_HEADER"),
    ({"headers": {"Webhook-Signature": "b"}}, "headers.Webhook-Signature", "RESERVED_HEADER"),
    ({"headers": {"A b": "c"}}, "headers", "INVALID_HEADER_NAME"),
    ({"headers": {"": "c"}}, "headers", "INVALID_HEADER_NAME"),
    ({"headers": {"A": "b\r\nEvil: yes"}}, "headers.A", "HEADER_INJECTION"),
    ({"headers": {"A": "naïve"}}, "headers.A", "HEADER_INJECTION"),
    ({"headers": {"A": "b" * 1025}}, "headers.A", "HEADER_TOO_LONG"),
    ({"headers": {"A" * 77: "b"}}, "headers", "HEADER_TOO_LONG"),
    ({"headers": {f"A{each}": "b" for each in range(21)}}, "headers", "TOO_MANY_HEADERS"),
    ({"headers": {"A": 1}}, "headers", "INVALID_TYPE"),
    ({"headers": ["A"]}, "headers", "INVALID_TYPE"),
]


async def test_headers_that_do_not_fit(service: Service) -> None:
    """A caller could break the request apart, forge a signature, or be told nothing of a mistake."""
    made = await make(service.client)
    for body, field, code in BAD_HEADERS:
        answer = await service.client.patch(f"{HOOKS}/{made['webhook_id']}/headers", json=body)
        mistake(answer, field, code)


async def test_headers_stay_within_their_number(service: Service) -> None:
    """Each change alone would fit, all together would not."""
    made = await make(service.client, headers={f"A{each}": "b" for each in range(20)})
    path = f"{HOOKS}/{made['webhook_id']}/headers"
    mistake(
        await service.client.patch(path, json={"headers": {"B": "b"}}),
        "headers",
        "TOO_MANY_HEADERS",
    )
    swapped = {"headers": {"B": "b"}, "remove_headers": ["A0"]}
    assert (await service.client.patch(path, json=swapped)).status_code == 204


# --- secrets


async def test_a_new_secret_has_the_old_one_beside_it(service: Service) -> None:
    """A receiver that still has the old one would refuse everything until somebody notices."""
    made = await make(service.client)
    path = f"{HOOKS}/{made['webhook_id']}/secret/rotate"
    answer = await service.client.post(path)
    assert answer.status_code == 200, answer.text
    rotated = answer.json()
    assert key_of(rotated["secret"]) != key_of(made["secret"])
    assert rotated["previous_secret_until"] > rotated["updated_at"]
    async with service.db.reading() as tx:
        row = await (
            await tx.execute(
                "select secret, previous_secret, previous_until - now() as remaining from webhook"
            )
        ).fetchone()
    assert row is not None
    assert (row["secret"], row["previous_secret"]) == (rotated["secret"], made["secret"])
    assert 86_000 < row["remaining"].total_seconds() <= 86_400
    assert (await service.client.get(f"{HOOKS}/{made['webhook_id']}")).json() == rotated


async def test_a_secret_that_is_known_to_others_ends_at_once(service: Service) -> None:
    """Whoever stole it could go on forging events for a day."""
    made = await make(service.client)
    path = f"{HOOKS}/{made['webhook_id']}/secret/rotate"
    rotated = (await service.client.post(path, json={"overlap_seconds": 0})).json()
    assert "previous_secret_until" not in rotated
    async with service.db.reading() as tx:
        row = await (
            await tx.execute("select previous_secret, previous_until from webhook")
        ).fetchone()
    assert row == {"previous_secret": None, "previous_until": None}


async def test_overlaps_that_do_not_fit(service: Service) -> None:
    """An overlap without an end would keep a secret alive that was to go."""
    path = f"{HOOKS}/{(await make(service.client))['webhook_id']}/secret/rotate"
    for seconds in (-1, 604_801, 10**18):
        answer = await service.client.post(path, json={"overlap_seconds": seconds})
        mistake(answer, "overlap_seconds", "INVALID_VALUE")
    answer = await service.client.post(path, json={"overlap_seconds": "day"})
    mistake(answer, "overlap_seconds", "INVALID_TYPE")


async def test_no_mistake_repeats_a_secret(service: Service) -> None:
    """Errors are logged by clients, and often in the open."""
    bad = {"url": URL, "headers": {"X-Token": "canary-7f3a\n"}}
    answer = await service.client.post(HOOKS, json=bad)
    assert answer.status_code == 400
    assert "canary" not in answer.text
    answer = await service.client.post(HOOKS, json={"url": "https://u:canary-7f3a@hooks.example/"})
    assert answer.status_code == 400
    assert "canary" not in answer.text


# --- what does not fit


BAD_URLS: list[tuple[str, str]] = [
    ("", "INVALID_URL"),
    ("hooks.example/mail", "INVALID_URL"),
    ("ftp://hooks.example/mail", "INVALID_URL"),
    ("https:///mail", "INVALID_URL"),
    ("https://user:password@hooks.example/", "INVALID_URL"),
    ("https://hooks.example/#top", "INVALID_URL"),
    ("https://hooks.example:22/", "INVALID_URL"),
    ("https://hooks.example:99999/", "INVALID_URL"),
    ("https://exa mple.com/", "INVALID_URL"),
    ("https://hooks.example\\@evil.example/", "INVALID_URL"),
    ("https://0x7f.1/", "INVALID_URL"),
    ("https://2130706433/", "INVALID_URL"),
    ("https://hooks.example/\x00", "INVALID_URL"),
    ("http://127.0.0.1:8000/", "URL_NOT_ALLOWED"),
    ("http://10.0.0.1/", "URL_NOT_ALLOWED"),
    ("http://169.254.169.254/latest/meta-data", "URL_NOT_ALLOWED"),
    ("http://[::1]:8000/", "URL_NOT_ALLOWED"),
    ("http://[fe80::1]/", "URL_NOT_ALLOWED"),
    ("http://localhost:8000/", "URL_NOT_ALLOWED"),
    ("http://LOCALHOST./", "URL_NOT_ALLOWED"),
    ("http://api.localhost/", "URL_NOT_ALLOWED"),
    (f"https://hooks.example/{'a' * 2048}", "TOO_LONG"),
]


async def test_urls_that_nothing_is_delivered_to(service: Service) -> None:
    """A tenant could have us call the operator's own network, or wonder why nothing comes."""
    made = await make(service.client)
    for url, code in BAD_URLS:
        mistake(await service.client.post(HOOKS, json={"url": url}), "url", code)
        answer = await service.client.patch(f"{HOOKS}/{made['webhook_id']}", json={"url": url})
        mistake(answer, "url", code)


BAD_FIELDS: list[tuple[Json, str, str]] = [
    ({"event_types": []}, "event_types", "REQUIRED"),
    ({"event_types": ["message.lost"]}, "event_types", "UNKNOWN_EVENT_TYPE"),
    ({"event_types": ["message.opened"]}, "event_types", "HOSTED_EVENT_TYPE"),
    ({"event_types": ["calendar.event.created"]}, "event_types", "HOSTED_EVENT_TYPE"),
    ({"event_types": "message.sent"}, "event_types", "INVALID_TYPE"),
    ({"event_types": [1]}, "event_types.0", "INVALID_TYPE"),
    ({"client_id": "a@b"}, "client_id", "INVALID_VALUE"),
    ({"client_id": ""}, "client_id", "INVALID_VALUE"),
    ({"client_id": "a" * 257}, "client_id", "INVALID_VALUE"),
    ({"inbox_ids": ["a@agents.test"] * 11}, "inbox_ids", "TOO_MANY"),
    ({"pod_ids": [UNKNOWN] * 11}, "pod_ids", "TOO_MANY"),
    ({"inbox_ids": "a@agents.test"}, "inbox_ids", "INVALID_TYPE"),
    ({"enabled": "yes"}, "enabled", "INVALID_TYPE"),
    ({"headers": {"Content-Type": "text/plain"}}, "headers.Content-Type", "RESERVED_HEADER"),
    ({"url": None}, "url", "INVALID_TYPE"),
]


async def test_what_does_not_fit_says_where(service: Service) -> None:
    """Nothing would be told of what is meant, and nobody would know why."""
    for fields, field, code in BAD_FIELDS:
        mistake(await service.client.post(HOOKS, json={"url": URL, **fields}), field, code)


async def test_a_url_is_required(service: Service) -> None:
    """There would be nowhere to deliver to."""
    answer = await service.client.post(HOOKS, json={"event_types": ["message.sent"]})
    fault(answer, 400, "validation_error")


BAD_CHANGES: list[tuple[Json, str, str]] = [
    ({}, "url", "REQUIRED"),
    ({"unknown": 1}, "url", "REQUIRED"),
    ({"event_types": ["message.lost"]}, "event_types", "UNKNOWN_EVENT_TYPE"),
    ({"add_inbox_ids": ["a@agents.test"] * 11}, "add_inbox_ids", "TOO_MANY"),
    ({"url": None}, "url", "INVALID_TYPE"),
]


async def test_changes_that_do_not_fit(service: Service) -> None:
    """A change that does nothing would look like one that did."""
    made = await make(service.client)
    for fields, field, code in BAD_CHANGES:
        answer = await service.client.patch(f"{HOOKS}/{made['webhook_id']}", json=fields)
        mistake(answer, field, code)


async def test_a_filter_holds_ten(service: Service) -> None:
    """Each change alone would fit; the contract's ten hold for what comes of them."""
    inboxes = [(await service.inbox(f"agent{each}"))["inbox_id"] for each in range(11)]
    made = await make(service.client, inbox_ids=inboxes[:10])
    path = f"{HOOKS}/{made['webhook_id']}"
    more = {"add_inbox_ids": inboxes[10:]}
    mistake(await service.client.patch(path, json=more), "inbox_ids", "TOO_MANY")
    swapped = await service.client.patch(path, json={**more, "remove_inbox_ids": inboxes[:1]})
    assert swapped.json()["inbox_ids"] == inboxes[1:]
    both = {"add_inbox_ids": inboxes[:1], "remove_inbox_ids": inboxes[:1]}
    mistake(await service.client.patch(path, json=both), "remove_inbox_ids", "DUPLICATE")


@pytest.mark.parametrize("webhook_id", [UNKNOWN, "ep_123"])
async def test_what_is_not_there(service: Service, webhook_id: str) -> None:
    """A typing error would look like an endpoint that works."""
    path = f"{HOOKS}/{webhook_id}"
    for method, where, body in [
        ("GET", path, None),
        ("DELETE", path, None),
        ("PATCH", path, {"enabled": True}),
        ("GET", f"{path}/headers", None),
        ("PATCH", f"{path}/headers", {"headers": {"A": "b"}}),
        ("POST", f"{path}/secret/rotate", None),
        ("GET", f"{path}/deliveries", None),
        ("POST", f"{path}/test", None),
        ("POST", f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}),
        ("POST", f"{path}/deliveries/{UNKNOWN}/resend", None),
    ]:
        fault(await service.client.request(method, where, json=body), 404, "not_found")


# --- permissions


@pytest.mark.parametrize("event_type", PROTECTED)
async def test_what_is_hidden_takes_its_permission(service: Service, event_type: EventType) -> None:
    """A key that may not read spam would have it delivered; and one that may not cannot send it elsewhere."""
    permission = PROTECTED[event_type]
    key = await tenants.key(
        service.db, service.organization_id, permissions=tenants.all_but(permission)
    )
    blind = tenants.client(service, key)
    wanted = {"url": URL, "event_types": ["message.received", event_type]}
    refused = fault(await blind.post(HOOKS, json=wanted), 403, "missing_permission")
    assert (refused["name"], refused["message"]) == ("ForbiddenError", f"{permission} is forbidden")
    made = await make(service.client, event_types=[event_type])
    path = f"{HOOKS}/{made['webhook_id']}"
    for fields in (
        {"url": f"{URL}/elsewhere"},
        {"event_types": ["message.received", event_type]},
        {"enabled": True},
        {"enabled": False, "url": f"{URL}/elsewhere"},
    ):
        fault(await blind.patch(path, json=fields), 403, "missing_permission")
    assert (await blind.patch(path, json={"enabled": False})).status_code == 200
    # Taking the type away takes nothing.
    less = await blind.patch(path, json={"event_types": ["message.received"], "enabled": True})
    assert less.status_code == 200


async def test_who_may_not_read_mail_has_none_delivered(service: Service) -> None:
    """A key that may only make or change webhooks would read everything on a server of its own."""
    key = await tenants.key(
        service.db, service.organization_id, permissions=tenants.all_but("message_read")
    )
    blind = tenants.client(service, key)
    for wanted in ({}, {"event_types": ["message.bounced"]}, {"event_types": ["label.added"]}):
        fault(await blind.post(HOOKS, json={"url": URL, **wanted}), 403, "missing_permission")
    domains = await make(blind, event_types=["domain.verified"])
    mails = await make(service.client, event_types=["message.received"])
    for made, fields in (
        (domains, {"event_types": ["domain.verified", "message.sent"]}),
        (mails, {"url": f"{URL}/elsewhere"}),
        (mails, {"enabled": True}),
    ):
        path = f"{HOOKS}/{made['webhook_id']}"
        fault(await blind.patch(path, json=fields), 403, "missing_permission")
        fault(await blind.put(path, json=fields), 403, "missing_permission")
    off = await blind.patch(f"{HOOKS}/{mails['webhook_id']}", json={"enabled": False})
    assert off.status_code == 200


@pytest.mark.parametrize("label", filing.HIDING)
async def test_changes_of_labels_tell_of_hidden_mail(service: Service, label: str) -> None:
    """A key that may not see the trash would be told of all that comes into it."""
    permission = f"label_{label}_read"
    key = await tenants.key(
        service.db, service.organization_id, permissions=tenants.all_but(permission)
    )
    blind = tenants.client(service, key)
    refused = await blind.post(HOOKS, json={"url": URL, "event_types": ["label.removed"]})
    assert fault(refused, 403, "missing_permission")["message"] == f"{permission} is forbidden"
    await make(blind)


async def test_what_is_hidden_by_now_is_not_delivered_again(service: Service) -> None:
    """A key that may not see the trash would have it sent to itself, by a replay of the last month."""
    inbox = await service.inbox("desk")
    poor = tenants.client(
        service,
        await tenants.key(
            service.db, service.organization_id, permissions=tenants.all_but("label_trash_read")
        ),
    )
    made = await make(poor, event_types=["message.received"])
    path = f"{HOOKS}/{made['webhook_id']}"
    for subject in ("Kept", "Dropped"):
        await service.deliver(a_mail(inbox["email"], subject))
    (dropped,) = await named(service, inbox, ["Dropped"])
    listed = await until(lambda: rows_of(service, made), lambda deliveries: len(deliveries) == 2)
    await ok(await service.client.patch(path_of(inbox, dropped), json={"add_labels": ["trash"]}))
    again = {"since": "2026-01-01T00:00:00Z"}
    assert (await ok(await poor.post(f"{path}/replay", json=again)))["count"] == 1
    assert (await ok(await service.client.post(f"{path}/replay", json=again)))["count"] == 2
    codes = [
        (await poor.post(f"{path}/deliveries/{each['delivery_id']}/resend")).status_code
        for each in listed
    ]
    assert sorted(codes) == [200, 404]


async def rows_of(service: Service, made: Json) -> list[Json]:
    """The deliveries of an endpoint."""
    answer = await service.client.get(f"{HOOKS}/{made['webhook_id']}/deliveries")
    return (await ok(answer))["deliveries"]


async def test_an_endpoint_outlives_the_key_that_made_it(service: Service) -> None:
    """An operator who rotates keys would lose events without a word."""
    key = await tenants.key(service.db, service.organization_id)
    made = await make(tenants.client(service, key), event_types=["message.received.spam"])
    gone = await service.client.delete(f"/v0/api-keys/{key.api_key_id}")
    assert gone.status_code == 204
    assert (await service.client.get(f"{HOOKS}/{made['webhook_id']}")).json() == made


# --- how many


@pytest_asyncio.fixture
async def small(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> AsyncGenerator[Service]:
    """A service whose organisations have room for two endpoints, and that delivers on its own machine."""
    sandbox, port = sandbox_server
    async with serving(
        database_url,
        sandbox,
        smtp_port=port,
        webhooks_per_organization=2,
        outbound_allow="127.0.0.0/8",
    ) as running:
        yield running


async def test_an_organization_has_so_many(small: Service) -> None:
    """Every event is looked at for each of them. One that is there can be asked for again, and another tenant
    has room of its own.
    """
    inbox = await small.inbox("alice")
    first = await make(small.client, client_id="a")
    await make(small.client, f"/v0/inboxes/{inbox['inbox_id']}/webhooks")
    refused = await small.client.post(HOOKS, json={"url": URL})
    fault(refused, 403, "limit_exceeded")
    again = await small.client.post(HOOKS, json={"url": URL, "client_id": "a"})
    assert (again.status_code, again.json()) == (200, first)
    other = await tenants.key(small.db, await tenants.organization(small.db))
    await make(tenants.client(small, other))
    await small.client.delete(f"{HOOKS}/{first['webhook_id']}")
    await make(small.client)


async def test_an_operator_can_open_networks(small: Service) -> None:
    """Receivers beside the service could not be used."""
    for url in ("http://127.0.0.1:9000/", "http://localhost:8080/"):
        await make(small.client, url=url)
    mistake(
        await small.client.post(HOOKS, json={"url": "http://10.0.0.1/"}), "url", "URL_NOT_ALLOWED"
    )


async def test_polling_webhooks_are_refused_with_a_way_out(service: Service) -> None:
    """A program without a public URL would not know how to go on."""
    answer = await service.client.post(f"{HOOKS}/polling", json={"client_id": "x"})
    assert "/v0/events" in fault(answer, 403, "forbidden")["fix"]
    assert (await service.client.get(f"{HOOKS}/polling")).json()["polling_webhooks"] == []
