"""What seed 002 says of inboxes: metadata, and keys that are restricted to one of them."""

from __future__ import annotations

import pytest

from tests import tenants
from tests.api.faults import fault, mistake
from tests.api.mailbox import at, ok, path_of
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until

AGENT = {"user_id": "u-17", "priority": 2, "beta": True}


async def test_metadata_is_attached_merged_and_cleared(anywhere: Service) -> None:
    """Link an inbox to records in your own system; it is returned on every inbox response."""
    made = await anywhere.inbox("desk", metadata=AGENT)
    assert made["metadata"] == (await ok(await anywhere.client.get(at(made))))["metadata"] == AGENT
    (listed,) = (await ok(await anywhere.client.get("/v0/inboxes")))["inboxes"]
    assert listed["metadata"] == AGENT

    async def updated(metadata: object) -> Json:
        answer = await anywhere.client.patch(at(made), json={"metadata": metadata})
        return (await ok(answer)).get("metadata") or {}

    assert await updated({"priority": 3, "agent": "Ada"}) == {
        **AGENT,
        "priority": 3,
        "agent": "Ada",
    }
    assert await updated({"agent": None}) == {**AGENT, "priority": 3}, "a single key is removed"
    assert await updated(None) == {}, "all are cleared at once"


@pytest.mark.parametrize("change", [{}, {"metadata": {}}, {"client_id": "x"}])
async def test_an_update_has_display_name_or_metadata(service: Service, change: Json) -> None:
    made = await service.inbox("desk")
    fault(await service.client.patch(at(made), json=change), 400)


async def test_metadata_has_its_limits(service: Service) -> None:
    """256 keys; each key and string value is limited to 256 characters."""
    most = {f"{number:0256}": "v" * 256 for number in range(256)}
    made = await service.inbox("desk", metadata=most)
    assert made["metadata"] == most
    for wrong in ({"one more": 1}, {"k" * 257: 1}, {"k": "v" * 257}):
        answer = await service.client.patch(at(made), json={"metadata": wrong})
        assert "metadata" in fault(answer, 400)["error"]["details"]["field"]
    mistake(await service.client.patch(at(made), json={"metadata": {"k": [1]}}), "metadata")


async def test_a_key_restricted_to_one_inbox(anywhere: Service) -> None:
    """It can only access that inbox's threads, messages, and drafts: the minimum an agent needs."""
    own, other = await anywhere.inbox("own"), await anywhere.inbox("other")
    answer = await anywhere.client.post(f"{at(own)}/api-keys", json={"name": "agent"})
    key = answer.json()
    assert (answer.status_code, key["inbox_id"]) == (201, own["inbox_id"])
    agent = tenants.client(anywhere, None)
    agent.headers["Authorization"] = f"Bearer {key['api_key']}"

    for inbox in (own, other):
        await anywhere.deliver(a_mail(inbox["email"], f"To {inbox['username']}"))

    async def messages() -> list[Json]:
        return (await ok(await agent.get(f"{at(own)}/messages")))["messages"]

    (message,) = await until(messages, lambda seen: len(seen) == 1)
    assert message["subject"] == f"To {own['username']}"
    answer = await agent.patch(path_of(own, message), json={"add_labels": ["seen"]})
    assert "seen" in (await ok(answer))["labels"]
    reply = await ok(await agent.post(f"{path_of(own, message)}/reply", json={"text": "Thanks"}))
    threads = (await ok(await agent.get(f"{at(own)}/threads")))["threads"]
    assert reply["thread_id"] in [each["thread_id"] for each in threads]
    assert {each["inbox_id"] for each in threads} == {own["inbox_id"]}
    draft = await agent.post(f"{at(own)}/drafts", json={"to": OUTSIDER, "text": "Later"})
    assert draft.status_code in (200, 201), draft.text
    drafts = (await ok(await agent.get(f"{at(own)}/drafts")))["drafts"]
    assert [each["draft_id"] for each in drafts] == [draft.json()["draft_id"]]

    (theirs,) = await until(lambda: anywhere.messages(other), lambda seen: len(seen) == 1)
    for path in (
        at(other),
        f"{at(other)}/messages",
        path_of(other, theirs),
        f"{at(other)}/threads",
        f"{at(other)}/threads/{theirs['thread_id']}",
        f"/v0/threads/{theirs['thread_id']}",
        f"{at(other)}/drafts",
        f"{at(other)}/events",
        f"{at(other)}/api-keys",
        f"{at(other)}/metrics/usage",
    ):
        fault(await agent.get(path), 404, "not_found")
    send = await agent.post(f"{at(other)}/messages/send", json={"to": OUTSIDER, "text": "Hi"})
    fault(send, 404, "not_found")
    assert [each["subject"] for each in await anywhere.messages(other)] == [theirs["subject"]]
    for path in (f"/v0/pods/{own['pod_id']}/threads", "/v0/organizations"):
        fault(await agent.get(path), 403)
    fault(await agent.post("/v0/inboxes", json={}), 403)
    shown = (await ok(await agent.get("/v0/threads")))["threads"]
    assert {each["inbox_id"] for each in shown} == {own["inbox_id"]}
