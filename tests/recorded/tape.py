"""Tapes: what a real Stalwart answered to a scenario, played back to the same scenario.

`recording` listens to a client that talks to a real server; `playing` answers from the tape and
fails when the adapter asks anything else than it did then. Authorization is never on a tape.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import httpx
import msgspec
import respx

from agentmail_cp.stalwart.jmap import JmapClient, bearer

if TYPE_CHECKING:
    from collections.abc import Generator

FOLDER = Path(__file__).parent
BASE = "http://stalwart.test"
KEPT_HEADERS = ("content-type", "location", "retry-after")
LONGEST = 20_000
"""Bytes of a request that a tape keeps; of longer ones, and of uploads, only the size."""


class Exchange(msgspec.Struct):
    """One HTTP request and its answer; bodies are JSON values, or text for what is none."""

    method: str
    path: str
    request: Any
    status: int
    headers: dict[str, str]
    answer: Any


class Tape(msgspec.Struct):
    """What was recorded, with which server."""

    server: str
    exchanges: list[Exchange]


def _body(content: bytes, content_type: str) -> Any:
    if not content:
        return None
    if len(content) > LONGEST or "json" not in content_type:
        return {"bytes": len(content)}
    return msgspec.json.decode(content)


def _asked(request: httpx.Request) -> Any:
    return _body(request.content, request.headers.get("content-type", ""))


@contextmanager
def recording(exchanges: list[Exchange]) -> Generator[None]:
    """Write down everything that is said and heard over httpx."""
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def listen(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        await request.aread()
        response = await send(transport, request)
        await response.aread()
        exchanges.append(_exchange(request, response))
        return response

    with patch.object(httpx.AsyncHTTPTransport, "handle_async_request", listen), _no_chance():
        yield


@contextmanager
def _no_chance() -> Generator[None]:
    """What the adapter makes up, a hash nobody knows the password of, is the same on every day."""
    with patch.object(secrets, "token_bytes", bytes):
        yield


def _exchange(request: httpx.Request, response: httpx.Response) -> Exchange:
    headers = {k: v for k, v in response.headers.items() if k in KEPT_HEADERS}
    is_json = "json" in headers.get("content-type", "")
    return Exchange(
        request.method,
        request.url.raw_path.decode(),
        _asked(request),
        response.status_code,
        headers,
        msgspec.json.decode(response.content) if is_json else response.text,
    )


def save(name: str, server: str, exchanges: list[Exchange]) -> None:
    content = msgspec.json.format(msgspec.json.encode(Tape(server, exchanges)), indent=1)
    (FOLDER / f"{name}.json").write_bytes(content + b"\n")


def load(name: str) -> Tape:
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Tape)


@contextmanager
def playing(name: str) -> Generator[JmapClient]:
    """A client that hears the tape. Fails when the scenario asked less than was recorded."""
    exchanges = iter(load(name).exchanges)

    def answer(request: httpx.Request) -> httpx.Response:
        then = next(exchanges)
        assert (request.method, request.url.raw_path.decode()) == (then.method, then.path)
        assert _asked(request) == then.request
        is_text = isinstance(then.answer, str)
        content = then.answer.encode() if is_text else msgspec.json.encode(then.answer)
        return httpx.Response(then.status, headers=then.headers, content=content)

    with respx.mock(base_url=BASE) as router, _no_chance():
        router.route().mock(side_effect=answer)
        yield JmapClient(BASE, bearer("API_played-back"))
    assert next(exchanges, None) is None, "the scenario asks less than when it was recorded"
