"""Metrics over REST: what they count at each scope, whom they tell what, and what they refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from agentmail_cp.mailserver import Folder
from tests import tenants
from tests.api.faults import fault, mistake
from tests.api.mailbox import at, ok, put
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until

Counts = dict[str, int]
OUTCOME_TYPES = {"message.delivered", "message.bounced"}
HIDDEN = ("message.received.spam", "message.received.blocked", "message.received.unauthenticated")


async def counts(client: httpx.AsyncClient, scope: str = "/v0", **asked: object) -> Counts:
    """How many events of each type there were, where there were any. Without outcomes, which come when they
    come; tests/api/test_outcomes.py counts those.
    """
    params: Any = {name: str(value) for name, value in asked.items()}
    answer = await ok(await client.get(f"{scope}/metrics/events", params=params))
    return {
        name: total
        for name, all_ in answer.items()
        if (total := sum(each["count"] for each in all_)) and name not in OUTCOME_TYPES
    }


async def used(client: httpx.AsyncClient, scope: str = "/v0", **asked: object) -> Counts:
    """How much there is now of each type."""
    params: Any = {"descending": "true", **{name: str(value) for name, value in asked.items()}}
    answer = await ok(await client.get(f"{scope}/metrics/usage", params=params))
    return {name: points[0]["value"] for name, points in answer.items()}


def of_pod(pod_id: object) -> str:
    return f"/v0/pods/{pod_id}"


async def two_pods(service: Service) -> tuple[Json, Json]:
    """Alice in the default pod has written to Bob in another one, who has got it."""
    alice = await service.inbox("alice")
    pod_id = await tenants.pod(service.db, service.organization_id)
    bob = await tenants.inbox_in(service, pod_id, "bob")
    await service.send(alice, to=[bob["email"]], subject="Figures", text="Here they are.")
    await until(lambda: service.messages(bob), lambda seen: len(seen) == 1)
    return alice, bob


async def test_each_scope_counts_what_is_in_it(anywhere: Service) -> None:
    """A customer in one pod would see, or pay for, what others do."""
    alice, bob = await two_pods(anywhere)
    both, one, other = (
        {"message.received": 1, "message.sent": 1},
        {"message.sent": 1},
        {"message.received": 1},
    )
    client = anywhere.client
    assert await counts(client) == both
    assert await counts(client, of_pod(alice["pod_id"])) == await counts(client, at(alice)) == one
    assert await counts(client, of_pod(bob["pod_id"])) == await counts(client, at(bob)) == other
    whole = await used(client)
    parts = [await used(client, of_pod(each["pod_id"])) for each in (alice, bob)]
    assert {name: parts[0][name] + parts[1][name] for name in parts[0]} == {
        name: value for name, value in whole.items() if name != "pod_count"
    }
    assert parts[0] == {**await used(client, at(alice)), "inbox_count": 1, "domain_count": 0}
    assert (whole["message_count"], whole["thread_count"], whole["pod_count"]) == (2, 2, 2)
    (message,) = await anywhere.messages(bob)
    assert (await used(client, at(bob)))["storage_bytes"] == message["size"]


async def test_a_key_counts_no_further_than_it_reaches(service: Service) -> None:
    """A key handed to one customer would tell how busy the others are."""
    alice, bob = await two_pods(service)
    for key in (
        await tenants.key(service.db, service.organization_id, pod_id=bob["pod_id"]),
        await tenants.key(
            service.db, service.organization_id, inbox_id=await tenants.uuid_of(service.db, bob)
        ),
    ):
        client = tenants.client(service, key)
        assert await counts(client) == {"message.received": 1}
        assert (await used(client))["message_count"] == 1
        assert "pod_count" not in await used(client)
        for kind in ("events", "usage", "rates"):
            fault(await client.get(f"{at(alice)}/metrics/{kind}"), 404, "not_found")


async def test_metrics_need_their_permission(service: Service) -> None:
    """A key that only sends would be able to look around."""
    await service.inbox("alice")
    key = await tenants.key(
        service.db, service.organization_id, permissions=tenants.all_but("metrics_read")
    )
    client = tenants.client(service, key)
    for path in ("metrics", "metrics/events", "metrics/usage", "metrics/rates"):
        fault(await client.get(f"/v0/{path}"), 403, "missing_permission")


async def test_what_arrived_as_spam_is_told_to_those_who_may_read_it(anywhere: Service) -> None:
    """An agent that must not know of spam would learn when and how much of it there is."""
    alice = await anywhere.inbox("alice")
    await put(anywhere, alice, a_mail(alice["email"], "Win"), Folder.JUNK)
    assert await counts(anywhere.client, at(alice)) == {"message.received.spam": 1}
    key = await tenants.key(
        anywhere.db, anywhere.organization_id, permissions=tenants.only("metrics_read")
    )
    client = tenants.client(anywhere, key)
    answer = await ok(await client.get(f"{at(alice)}/metrics/events"))
    assert not answer.keys() & set(HIDDEN)
    for each in HIDDEN:
        asked = {"event_types": each}
        refused = await client.get("/v0/metrics/events", params=asked)
        assert "label_" in fault(refused, 403, "missing_permission")["message"]
    permissions = tenants.only("metrics_read", "label_spam_read")
    key = await tenants.key(anywhere.db, anywhere.organization_id, permissions=permissions)
    assert await counts(tenants.client(anywhere, key), at(alice)) == {"message.received.spam": 1}


async def test_the_older_path_answers_the_same(service: Service) -> None:
    """Programs on release 0.5 of the SDK ask there."""
    alice = await service.inbox("alice")
    await service.send(alice, to=[OUTSIDER], text="Hi")
    for scope in ("/v0", of_pod(alice["pod_id"]), at(alice)):
        old, new = [
            await ok(
                await service.client.get(f"{scope}/{path}?period=86400&event_types=message.sent")
            )
            for path in ("metrics", "metrics/events")
        ]
        assert old == new
        assert old["message.sent"][0]["count"] == 1


async def test_types_are_given_in_any_spelling_and_answered_each(service: Service) -> None:
    """A chart that looks up its type would fail on the day nothing happened."""
    alice = await service.inbox("alice")
    await service.send(alice, to=[OUTSIDER], text="Hi")
    for spelling in (
        'event_types=["message.sent","message.bounced"]',
        "event_types=message.sent,message.bounced",
        "event_types=message.sent&event_types=message.bounced",
        "event_types[]=message.sent&event_types[]=message.bounced",
    ):
        answer = await ok(await service.client.get(f"/v0/metrics/events?{spelling}"))
        assert list(answer) == ["message.sent", "message.bounced"]
        assert answer["message.bounced"] == []
    everything = await ok(await service.client.get("/v0/metrics/events"))
    assert len(everything) == 10
    one = await ok(await service.client.get('/v0/metrics/usage?usage_types=["pod_count"]'))
    assert list(one) == ["pod_count"]
    one = await ok(await service.client.get('/v0/metrics/rates?rate_types=["complaint"]'))
    assert list(one) == ["complaint"]


async def test_a_label_is_no_event(service: Service) -> None:
    """Reading mail would look like traffic."""
    alice = await service.inbox("alice")
    sent = await service.send(alice, to=[OUTSIDER], text="Hi")
    await service.client.patch(
        f"{at(alice)}/threads/{sent['thread_id']}", json={"add_labels": ["lead"]}
    )
    assert await counts(service.client) == {"message.sent": 1}


async def test_rates_count_recipients_and_are_unknown_without_mail(anywhere: Service) -> None:
    """One mail to three people that bounced for one would look like nothing, or like disaster."""
    alice = await anywhere.inbox("alice")
    to, cc, bcc = (f"{name}@elsewhere.test" for name in ("ada", "bob", "carl"))
    await anywhere.send(alice, to=[to], cc=[cc], bcc=[bcc], text="Hi")
    for scope in ("/v0", of_pod(alice["pod_id"]), at(alice)):
        answer = await ok(await anywhere.client.get(f"{scope}/metrics/rates?descending=true"))
        assert answer.keys() == {"bounce", "complaint"}
        for points in answer.values():
            assert len(points) == 24
            assert points[0]["sent"] == 3
            assert points[0]["rate"] is not None
            assert (points[-1]["rate"], points[-1]["sent"]) == (None, 0)


async def test_a_deleted_inbox_is_history_and_its_mail_takes_room_until_erased(
    anywhere: Service,
) -> None:
    """The numbers of last week would change when an agent is switched off."""
    alice, _ = await two_pods(anywhere)
    before = await used(anywhere.client)
    assert before["inbox_count"] == 2
    answer = await anywhere.client.delete(at(alice))
    assert answer.status_code == 204, answer.text
    assert await counts(anywhere.client) == {"message.received": 1, "message.sent": 1}
    assert await used(anywhere.client) == {**before, "inbox_count": 1}
    fault(await anywhere.client.get(f"{at(alice)}/metrics/usage"), 404)


async def test_points_come_in_the_order_and_number_asked_for(service: Service) -> None:
    """A widget that shows the latest value would show the oldest."""
    await service.inbox("alice")
    for kind in ("usage", "rates"):
        up = await ok(await service.client.get(f"/v0/metrics/{kind}"))
        down = await ok(await service.client.get(f"/v0/metrics/{kind}?descending=true&limit=3"))
        for name, points in up.items():
            times = [each["timestamp"] for each in points]
            assert times == sorted(times)
            assert len(points) == 24
            latest = [each["timestamp"] for each in down[name]]
            assert latest == sorted(latest, reverse=True)
            assert len(latest) == 3


async def test_the_present_is_the_end(service: Service) -> None:
    """A dashboard asks for the whole month; half of it is still to come."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    answer = await ok(await service.client.get("/v0/metrics/usage", params={"end": tomorrow}))
    last = datetime.fromisoformat(answer["pod_count"][-1]["timestamp"])
    assert abs(last - datetime.now(UTC)) < timedelta(seconds=30)


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    ("query", "field", "detail"),
    [
        ({"start": days_ago(91)}, "start", "TIME_OUT_OF_RANGE"),
        ({"end": days_ago(95)}, "end", "TIME_OUT_OF_RANGE"),
        ({"start": days_ago(1), "end": days_ago(2)}, "start", "TIME_OUT_OF_RANGE"),
        ({"start": days_ago(-1)}, "start", "TIME_OUT_OF_RANGE"),
        ({"start": "yesterday"}, "start", "INVALID_TIME"),
        ({"period": "0"}, "period", "INVALID_VALUE"),
        ({"period": "86401"}, "period", "INVALID_VALUE"),
        ({"period": "1h"}, "period", "INVALID_VALUE"),
        ({"period": "9" * 4000}, "period", "INVALID_VALUE"),
        ({"period": "-1"}, "period", "INVALID_VALUE"),
        ({"period": "²"}, "period", "INVALID_VALUE"),
        ({"limit": "0"}, "limit", "INVALID_LIMIT"),
        ({"descending": "perhaps"}, "descending", "INVALID_BOOLEAN"),
        ({"{kind}_types": "message.opened"}, "{kind}_types", "INVALID_VALUE"),
    ],
)
@pytest.mark.parametrize("kind", ["event", "usage", "rate"])
async def test_what_does_not_fit_is_said(
    service: Service, kind: str, query: dict[str, str], field: str, detail: str
) -> None:
    """A chart without points would be taken for a quiet day."""
    path = {"event": "events", "usage": "usage", "rate": "rates"}[kind]
    params = {name.format(kind=kind): value for name, value in query.items()}
    answer = await service.client.get(f"/v0/metrics/{path}", params=params)
    mistake(answer, field.format(kind=kind), detail)


async def test_a_type_of_a_wider_scope_is_refused(service: Service) -> None:
    """An inbox has no pods; a zero would say that there are none."""
    alice = await service.inbox("alice")
    for scope, kind in ((at(alice), "inbox_count"), (of_pod(alice["pod_id"]), "pod_count")):
        answer = await service.client.get(f"{scope}/metrics/usage?usage_types={kind}")
        assert "storage_bytes" in mistake(answer, "usage_types", "INVALID_VALUE")["fix"]


async def test_a_range_of_too_many_periods_is_refused_with_its_own_code(service: Service) -> None:
    """A program can then ask again with a longer period, as the contract promises."""
    for query in ("usage?period=86", "rates?period=3600&window=3596400", "rates?period=1&window=1"):
        answer = await service.client.get(f"/v0/metrics/{query}")
        body = fault(answer, 400, "query_range_too_wide")
        assert body["name"] == "ValidationError"
        assert body["errors"][0]["code"] == "RANGE_TOO_WIDE"
    mistake(await service.client.get("/v0/metrics/rates?window=5400"), "window", "INVALID_VALUE")
    assert (await service.client.get("/v0/metrics/usage?period=87")).status_code == 200
    months = {"start": days_ago(90)}
    for kind in ("events", "usage", "rates"):
        answer = await service.client.get(f"/v0/metrics/{kind}", params=months)
        assert answer.status_code == 200, answer.text
