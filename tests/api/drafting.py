"""What tests of drafts do over and over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx

from tests.fix_app import Json, Service


def path(inbox: Json, draft: Json | str | None = None) -> str:
    """The path of an inbox's drafts, or of one of them."""
    base = f"/v0/inboxes/{inbox['inbox_id']}/drafts"
    if draft is None:
        return base
    return f"{base}/{draft if isinstance(draft, str) else draft['draft_id']}"


async def make(service: Service, inbox: Json, **fields: object) -> Json:
    """A new draft."""
    answer = await service.client.post(path(inbox), json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def change(service: Service, inbox: Json, draft: Json, **fields: object) -> Json:
    """The draft after a change."""
    answer = await service.client.patch(path(inbox, draft), json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def look(service: Service, inbox: Json, draft: Json) -> Json:
    """The draft as it is now."""
    answer = await service.client.get(path(inbox, draft))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status(service: Service, inbox: Json, draft: Json) -> int:
    """The status with which the draft is answered."""
    return (await service.client.get(path(inbox, draft))).status_code


async def listed(service: Service, inbox: Json, **query: str) -> list[Json]:
    """The inbox's drafts, last changed first."""
    answer = await service.client.get(path(inbox), params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["drafts"]


async def send(
    service: Service, inbox: Json, draft: Json, *, key: str = "", **fields: object
) -> httpx.Response:
    """Ask for a draft to be sent."""
    headers = {"Idempotency-Key": key} if key else {}
    return await service.client.post(f"{path(inbox, draft)}/send", json=fields, headers=headers)


def ahead(seconds: float) -> str:
    """A moment to come, as the SDKs write it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
