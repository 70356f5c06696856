"""What every answer to a mistake has to be, whatever the mistake."""

from __future__ import annotations

from typing import Any

import httpx

Json = dict[str, Any]


def fault(answer: httpx.Response, status: int, code: str | None = None) -> Json:
    """The error body of an answer, checked to be readable by the SDKs and by seed 001's clients."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    body: Json = answer.json()
    assert body["name"].endswith("Error")
    assert body["message"]
    assert body["error"]["type"] == body["code"]
    assert body["error"]["message"] == body["message"]
    details = body["error"]["details"]
    assert "code" in details or "field" not in details, body
    assert answer.headers["x-request-id"]
    if code is not None:
        assert body["code"] == code
    return body


def mistake(answer: httpx.Response, field: str, detail: str | None = None) -> Json:
    """The body of a 400 that names the field, the reason and what to do."""
    body = fault(answer, 400, "validation_error")
    assert body["error"]["details"]["field"] == field, body
    assert body["errors"][0]["path"] == field.split(".")
    assert body["errors"][0]["code"] == body["error"]["details"]["code"]
    assert body["fix"]
    if detail is not None:
        assert body["error"]["details"]["code"] == detail, body
    return body


async def without_key(
    client: httpx.AsyncClient, method: str, path: str, **headers: str
) -> httpx.Response:
    """The same client without its API key, as a stranger comes."""
    request = client.build_request(method, path)
    del request.headers["Authorization"]
    request.headers.update(headers)
    return await client.send(request)
