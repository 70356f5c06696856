"""Generated bodies for every route that takes one: never a crash, and every refusal can be read.

schemathesis follows the description of the API; these follow what people and attackers really send.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fix_sdk import Live

# The service runs in a thread of this process and draws random numbers while hypothesis watches.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

Send = Callable[[bytes], httpx.Response]

# Lone surrogates included: json.dumps writes them as escapes, as JavaScript does.
TEXT = st.text(max_size=40) | st.text(st.characters(max_codepoint=0x9F), max_size=20)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ADDRESS = st.sampled_from(
    ["ada@elsewhere.test", "Ada <ada@elsewhere.test>", "a@b, c@d.test", '"x" <y@z.test>', "no"]
)
ADDRESSES = ADDRESS | st.lists(ADDRESS | TEXT, max_size=3) | TEXT
METADATA = st.dictionaries(TEXT, SCALAR, max_size=4)
HEADERS = st.dictionaries(
    TEXT | st.sampled_from(["X-A", "References", "Subject"]), TEXT, max_size=3
)
LABELS = TEXT | st.lists(TEXT | st.sampled_from(["unread", "trash", "sent"]), max_size=4)
ATTACHMENT = st.fixed_dictionaries(
    {},
    optional={
        "content": st.sampled_from(["aGk=", "", "é", "a"]) | TEXT,
        "filename": TEXT,
        "content_type": st.sampled_from(["text/plain", "a/b; c=d"]) | TEXT,
        "content_disposition": st.sampled_from(["inline", "attachment"]) | TEXT,
        "content_id": TEXT,
    },
)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "create inbox": {
        "username": st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True) | TEXT,
        "domain": st.sampled_from(["agents.test", "Agents.Test"]) | TEXT,
        "display_name": TEXT,
        "client_id": st.sampled_from(["one", "two"]) | TEXT,
        "metadata": METADATA,
        "status": st.just("active") | TEXT,
    },
    "update inbox": {"display_name": TEXT, "metadata": METADATA | st.none()},
    "send": {
        "to": ADDRESSES,
        "cc": ADDRESSES,
        "bcc": ADDRESSES,
        "reply_to": ADDRESSES,
        "subject": TEXT,
        "text": TEXT,
        "html": TEXT,
        "labels": LABELS,
        "headers": HEADERS,
        "attachments": st.lists(ATTACHMENT, max_size=2),
        "track_opens": st.booleans(),
    },
    "update message": {"add_labels": LABELS | st.none(), "remove_labels": LABELS | st.none()},
    "create key": {
        "name": TEXT,
        "permissions": st.dictionaries(TEXT | st.just("inbox_read"), st.booleans(), max_size=3),
        "expires_at": st.datetimes().map(lambda moment: moment.isoformat()) | TEXT,
    },
    "update key": {
        "name": TEXT,
        "permissions": st.dictionaries(TEXT, st.booleans(), max_size=3) | st.none(),
    },
}


def bodies(route: str) -> st.SearchStrategy[Any]:
    """Objects of the route's fields, mostly of the right kind; sometimes anything at all."""
    fitting = st.fixed_dictionaries({}, optional=FIELDS[route])
    loose = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS[route], ANYTHING))
    return st.one_of(fitting, fitting, loose, ANYTHING)


@pytest.fixture
def send_to(live: Live) -> Generator[dict[str, Send]]:
    """For each route, what sends it a body. Behind a port, as hypothesis runs no coroutines."""
    headers = {"Authorization": f"Bearer {live.api_key}", "Content-Type": "application/json"}
    with httpx.Client(base_url=live.base_url, headers=headers, timeout=30) as client:
        inbox = client.post("/v0/inboxes", json={"username": "target"}).json()
        at = f"/v0/inboxes/{inbox['inbox_id']}"
        sent = client.post(f"{at}/messages", json={"to": inbox["email"], "text": "Hi"}).json()
        key = client.post("/v0/api-keys", json={}).json()

        def to(method: str, path: str) -> Send:
            return lambda body: client.request(method, path, content=body)

        yield {
            "create inbox": to("POST", "/v0/inboxes"),
            "update inbox": to("PATCH", at),
            "send": to("POST", f"{at}/messages/send"),
            "update message": to("PATCH", f"{at}/messages/{sent['message_id']}"),
            "create key": to("POST", "/v0/api-keys"),
            "update key": to("PATCH", f"/v0/api-keys/{key['api_key_id']}"),
        }


@pytest.mark.parametrize("route", FIELDS)
def test_no_body_is_a_crash(send_to: dict[str, Send], route: str) -> None:
    """What one caller sends by mistake would wake an operator."""
    send = send_to[route]

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(bodies(route))
    def check(body: Any) -> None:
        answer = send(json.dumps(body).encode())
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            error = answer.json()
            assert error["name"]
            assert error["message"]
            assert error["code"]
            assert error["fix"]
            assert error["error"]["type"] == error["code"]

    check()


@pytest.mark.parametrize("route", FIELDS)
def test_no_bytes_are_a_crash(send_to: dict[str, Send], route: str) -> None:
    """A broken client, or a scanner, sends no JSON at all."""
    send = send_to[route]

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(
        st.binary(max_size=60) | st.binary(max_size=30).map(lambda raw: b'{"name": "' + raw + b'"}')
    )
    def check(body: bytes) -> None:
        answer = send(body)
        assert answer.status_code < 500, answer.text

    check()
