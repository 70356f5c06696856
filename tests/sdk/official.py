"""The official Python SDK 2.0.18, unmodified, watched: every answer is held to the SDK's own models.

Those models are lenient: a missing required field becomes None without a word. So the raw JSON of each
success is validated again, strictly, against what the SDK's method says it returns; each refusal must have
the body every error has. Both happen for every call of every test, whatever the test itself looks at.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from email.message import EmailMessage
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import httpx
import pydantic
from agentmail import AgentMail, AgentMailEnvironment

from agentmail_cp.web.paths import normalise
from tests.api.faults import fault
from tests.fix_app import OUTSIDER
from tests.fix_sdk import HOST, Live
from tests.sdk.endpoints import Endpoint, World, endpoint_of, note

T = TypeVar("T")
TIMES = re.compile("(_at|timestamp)$")
"""Names of the SDK's fields that hold times."""

PATIENCE = 15.0
"""Seconds until mail must be there, and found."""


class Sdk:
    """The SDK's client of a running service, and what a test needs beside it."""

    def __init__(self, client: AgentMail, http: httpx.Client, live: Live) -> None:
        self.client = client
        self.live = live
        self._http = http

    def holding(self, api_key: str) -> AgentMail:
        """A client with another key, watched as this one is."""
        return _client(self.live, api_key, self._http)

    def plain(self, method: str, path: str, **body: Any) -> httpx.Response:
        """A request the SDK has no call for, examined as its own are."""
        return self._http.request(
            method,
            self.live.base_url + path,
            headers={"Authorization": f"Bearer {self.live.api_key}"},
            **body,
        )

    def deliver(self, mail: EmailMessage | bytes, *recipients: str) -> None:
        """Hand a mail in over SMTP, as the world does: to its own recipients, or to these."""
        with self._outside() as smtp:
            if isinstance(mail, bytes):
                smtp.sendmail(OUTSIDER, recipients, mail)
            else:
                smtp.send_message(mail, to_addrs=recipients or None)

    def deliver_all(self, mails: Iterable[EmailMessage]) -> None:
        """Hand many in over one connection."""
        with self._outside() as smtp:
            for each in mails:
                smtp.send_message(each)

    def _outside(self) -> smtplib.SMTP:
        return smtplib.SMTP(HOST, self.live.smtp_port, local_hostname="out.test", timeout=20)


@contextlib.contextmanager
def connected(live: Live, world: World) -> Generator[Sdk]:
    """The SDK against a running service; every answer is looked at."""
    with httpx.Client(timeout=30) as http:
        client = _client(live, live.api_key, http)

        def look(response: httpx.Response) -> None:
            response.read()
            examine(client, world, response)

        http.event_hooks = {"response": [look]}
        yield Sdk(client, http, live)


def _client(live: Live, api_key: str, http: httpx.Client) -> AgentMail:
    return AgentMail(
        api_key=api_key,
        environment=AgentMailEnvironment(http=live.base_url, websockets=live.websocket_url),
        httpx_client=http,
    )


def examine(client: AgentMail, world: World, response: httpx.Response) -> None:
    """Hold an answer to the contract, and remember the call."""
    request = response.request
    path = normalise(request.url.raw_path.partition(b"?")[0])
    endpoint = endpoint_of(request.method, path)
    note(world, endpoint, response.status_code)
    assert response.status_code < 500, response.text
    if not response.is_success:
        fault(response, response.status_code)
    elif endpoint.is_of_python:
        hold(response, model_of(client, endpoint))


def model_of(client: AgentMail, endpoint: Endpoint) -> Any:
    """What the SDK's method says it returns."""
    method: Any = client
    for name in endpoint.sdk_call.split(".")[1:]:
        method = getattr(method, name)
    return get_type_hints(method)["return"]


def hold(response: httpx.Response, model: Any) -> None:
    """Hold the JSON of an answer to a model: every required field, of exactly the right type."""
    if model is type(None):
        assert response.status_code == 204
        assert response.content == b""
        return
    if get_origin(model) is Iterator:
        # A file in pieces.
        assert response.content
        return
    pydantic.TypeAdapter(model).validate_python(timed(response.json()), strict=True)


def timed(value: Any) -> Any:
    """JSON with its times as such: the SDK's models hand their input on as Python's values, where strict
    validation takes no text for a time. Each has to be in UTC, with a `Z`.
    """
    if isinstance(value, list):
        return [timed(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {
            name: a_time(each) if TIMES.search(name) and isinstance(each, str) else timed(each)
            for name, each in cast("dict[str, Any]", value).items()
        }
    return value


def a_time(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


def until(look: Callable[[], T], holds: Callable[[T], object]) -> T:
    """Look again until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds(seen := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s; last seen: {seen!r}"
        time.sleep(0.05)
    return seen
