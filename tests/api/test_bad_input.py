"""Bad input: every mistake is the caller's, is answered with field, reason and fix, and harms nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agentmail_cp import pages
from tests.api.faults import fault, mistake
from tests.api.write_openapi import description
from tests.fix_app import Json, Service, a_mail, until

JSON = {"Content-Type": "application/json"}
NESTED = 100_000
INJECTION = "a\r\nBcc: eve@elsewhere.test"
LONG = "x" * 10_000
SURROGATE = b'"a\\ud800b"'


class Target:
    """An inbox with one message and one draft, a key, and every route that takes a body."""

    def __init__(
        self, service: Service, inbox: Json, message: Json, draft: Json, key: Json
    ) -> None:
        self.client = service.client
        self.service = service
        self.inbox = inbox
        at = f"/v0/inboxes/{inbox['inbox_id']}"
        self.send = f"{at}/messages/send"
        self.required = {"batch get": {"message_ids": [message["message_id"]]}}
        self.required["batch update"] = self.required["batch get"]
        self.required["send"] = self.required["forward"] = {"to": inbox["email"]}
        one = f"{at}/messages/{message['message_id']}"
        self.routes = {
            "create inbox": ("POST", "/v0/inboxes"),
            "update inbox": ("PATCH", at),
            "send": ("POST", self.send),
            "reply": ("POST", f"{one}/reply"),
            "reply to all": ("POST", f"{one}/reply-all"),
            "forward": ("POST", f"{one}/forward"),
            "update message": ("PATCH", one),
            "batch get": ("POST", f"{at}/messages/batch-get"),
            "batch update": ("POST", f"{at}/messages/batch-update"),
            "update thread": ("PATCH", f"/v0/threads/{message['thread_id']}"),
            "create draft": ("POST", f"{at}/drafts"),
            "update draft": ("PATCH", f"{at}/drafts/{draft['draft_id']}"),
            "send draft": ("POST", f"{at}/drafts/{draft['draft_id']}/send"),
            "create key": ("POST", "/v0/api-keys"),
            "update key": ("PATCH", f"/v0/api-keys/{key['api_key_id']}"),
        }

    async def raw(self, route: str, body: bytes, **headers: str) -> httpx.Response:
        """Send these very bytes."""
        method, path = self.routes[route]
        return await self.client.request(method, path, content=body, headers={**JSON, **headers})

    async def ask(self, route: str, **fields: object) -> httpx.Response:
        """Send these fields, and those without which the route takes nothing."""
        fields = {**self.required.get(route, {}), **fields}
        return await self.raw(route, json.dumps(fields).encode())


@pytest_asyncio.fixture
async def target(service: Service) -> Target:
    inbox = await service.inbox("target")
    await service.deliver(a_mail(inbox["email"]))
    (message,) = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    key = (await service.client.post("/v0/api-keys", json={})).json()
    drafts = f"/v0/inboxes/{inbox['inbox_id']}/drafts"
    draft = (await service.client.post(drafts, json={"to": inbox["email"]})).json()
    return Target(service, inbox, message, draft, key)


NOT_JSON: dict[str, bytes] = {
    "cut off": b'{"username": "a',
    "form": b"username=a&domain=b",
    "deep array": b"[" * NESTED + b"]" * NESTED,
    "deep object": b'{"a":' * NESTED + b"1" + b"}" * NESTED,
    "deep metadata": b'{"metadata": ' + b'{"a":' * NESTED + b"1" + b"}" * (NESTED + 1),
    "invalid UTF-8": b'{"unknown": "\xff"}',
    "lone surrogate": b'{"unknown": ' + SURROGATE + b"}",
    "lone surrogate as key": b'{"\\ud800": 1}',
    "number too large": b'{"unknown": 1e999}',
    "endless integer": b'{"unknown": ' + b"9" * 5000 + b"}",
    "NaN": b'{"unknown": NaN}',
    "two values": b"{} {}",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_a_body_that_is_not_json_is_said_to_be_so(target: Target, body: bytes) -> None:
    """A client bug would look like a crash of the service."""
    for route in target.routes:
        mistake(await target.raw(route, body), "body", "MALFORMED_JSON")


@pytest.mark.parametrize("body", [b"[]", b"12", b'"text"', b"true"])
async def test_a_body_that_is_no_object_is_refused(target: Target, body: bytes) -> None:
    """The wrong thing would be read as empty."""
    for route in target.routes:
        mistake(await target.raw(route, body), "body", "INVALID_TYPE")


BODILESS = {"create inbox", "create key", "create draft", "send draft"}
"""What may be asked for without a word."""


async def test_a_missing_body_is_named(target: Target) -> None:
    """The caller would be told about a field it cannot see."""
    for route in target.routes.keys() - BODILESS:
        mistake(await target.raw(route, b""), "body", "REQUIRED")
        mistake(await target.raw(route, b"null"), "body", "INVALID_TYPE")


def requiring() -> dict[str, tuple[str, list[str]]]:
    """For each kind of body that has to have some field: a path that takes it, and those fields."""
    told = description()
    found: dict[str, tuple[str, list[str]]] = {}
    for path, item in told["paths"].items():
        for operation in item.values():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            kind = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
            if required := told["components"]["schemas"].get(kind, {}).get("required"):
                found[kind] = path, required
    return found


async def test_a_missing_field_is_named(target: Target) -> None:
    """Somebody who forgets `url` would be told that `body` is wrong, and sent to read the whole API."""
    kinds = requiring()
    assert {"CreateWebhook", "CreateDomain", "CreateListEntry"} <= kinds.keys()
    for path, required in kinds.values():
        assert len(required) == 1, "send the others along"
        at = path.format(
            inbox_id=target.inbox["inbox_id"],
            pod_id=target.inbox["pod_id"],
            webhook_id="any",
            direction="send",
            type="block",
        )
        refused = mistake(await target.client.post(at, json={}), required[0], "REQUIRED")
        assert refused["message"] == f"{required[0]} is missing."


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/msgpack", "nonsense;;", "multipart/form-data", ""]
)
async def test_json_is_read_whatever_it_is_called(target: Target, content_type: str) -> None:
    """Some clients name a wrong content type, or none; what they send is JSON all the same."""
    answer = await target.raw(
        "update inbox", b'{"display_name": "Typed"}', **{"Content-Type": content_type}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["display_name"] == "Typed"


async def test_unknown_fields_are_ignored(target: Target) -> None:
    """A newer client could not talk to an older server."""
    answer = await target.ask("update inbox", display_name="New", zebra={"deep": [1, None]})
    assert answer.status_code == 200
    assert answer.json()["display_name"] == "New"
    assert "zebra" not in answer.json()


FIELDS: dict[str, tuple[str, ...]] = {
    "create inbox": ("username", "domain", "display_name", "client_id", "metadata", "status"),
    "update inbox": ("display_name", "metadata"),
    "send": tuple("to cc bcc reply_to subject text html labels headers attachments".split()),
    "reply": tuple("to cc bcc reply_to text html labels headers attachments".split()),
    "reply to all": tuple("reply_to text html labels headers attachments".split()),
    "forward": tuple("to cc bcc reply_to subject text html labels headers attachments".split()),
    "update message": ("add_labels", "remove_labels"),
    "batch get": ("message_ids",),
    "batch update": ("message_ids", "add_labels", "remove_labels"),
    "update thread": ("add_labels", "remove_labels"),
    "create draft": tuple(
        "to cc bcc reply_to subject text html labels attachments in_reply_to forward_of send_at"
        " client_id".split()
    ),
    "update draft": tuple(
        "to cc bcc reply_to subject text html add_labels remove_labels add_attachments"
        " remove_attachments send_at".split()
    ),
    "send draft": ("add_labels", "remove_labels"),
    "create key": ("name", "permissions", "expires_at"),
    "update key": ("name", "permissions"),
}
TEXTS = {
    route: tuple(each for each in fields if each not in {"metadata", "headers", "permissions"})
    for route, fields in FIELDS.items()
}
STRICT_TEXTS = [
    (route, field)
    for route, fields in TEXTS.items()
    for field in fields
    # What only names something is looked up, and not found.
    if field not in {"attachments", "in_reply_to", "forward_of"}
]


@pytest.mark.parametrize("value", [True, {"a": {"b": []}}, [[1]], [None]])
async def test_a_field_of_the_wrong_type_is_named(target: Target, value: object) -> None:
    """The caller would have to guess which of its fields is wrong."""
    for route, fields in FIELDS.items():
        for field in fields:
            body = fault(await target.ask(route, **{field: value}), 400)
            assert body["error"]["details"]["field"].split(".")[0] == field, body
            assert body["fix"]


async def test_what_is_no_time_is_said_to_be_so(target: Target) -> None:
    """`tomorrow` would need a look into the source."""
    answer = await target.ask("create key", expires_at="tomorrow")
    mistake(answer, "expires_at", "INVALID_TIME")


@pytest.mark.parametrize(("route", "field"), STRICT_TEXTS)
async def test_text_that_can_be_stored_nowhere_is_refused(
    target: Target, route: str, field: str
) -> None:
    """NUL cannot be stored in PostgreSQL nor sent in mail: it must not get as far as a crash."""
    answer = await target.ask(route, **{field: "a\0b"})
    assert answer.status_code in (400, 403), answer.text
    body = fault(answer, answer.status_code)
    assert body["error"]["details"]["field"] == field
    assert body["fix"]
    surrogate = b'{"' + field.encode() + b'": ' + SURROGATE + b"}"
    mistake(await target.raw(route, surrogate), "body", "MALFORMED_JSON")


@pytest.mark.parametrize(
    ("route", "field"), [pair for pair in STRICT_TEXTS if pair[1] not in {"text", "html"}]
)
async def test_a_line_break_never_gets_into_a_header_or_a_name(
    target: Target, route: str, field: str
) -> None:
    """A stranger's text in a field could add a recipient or forge a header."""
    answer = await target.ask(route, **{field: INJECTION})
    assert answer.status_code in (400, 403), answer.text
    body = fault(answer, answer.status_code)
    assert body["error"]["details"]["field"] == field
    assert body["fix"]
    assert len(await target.service.messages(target.inbox)) == 1


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"X-A\r\nBcc": "x"}, "headers"),
        ({"X-A": INJECTION}, "headers.X-A"),
        ({"X-A": "a\0b"}, "headers.X-A"),
        ({"X A": "x"}, "headers.X A"),
        ({"": "x"}, "headers."),
        ({"X-A": LONG}, "headers.X-A"),
        ({LONG: "x"}, "headers." + LONG[:76]),
        ({"Bcc": "eve@elsewhere.test"}, "headers.Bcc"),
        ({"Content-Type": "text/html"}, "headers.Content-Type"),
        ({"X-A": 12}, "headers"),
        ({f"X-{index}": "x" for index in range(51)}, "headers"),
    ],
)
async def test_a_header_that_cannot_be_set_is_refused(
    target: Target, headers: dict[str, Any], field: str
) -> None:
    """A caller could forge who a mail is from, or break it for every reader."""
    mistake(await target.ask("send", headers=headers), field)


HI = "aGk="


@pytest.mark.parametrize(
    ("attachment", "field"),
    [
        ({"filename": INJECTION, "content": HI}, "filename"),
        ({"filename": "a\0b", "content": HI}, "filename"),
        ({"filename": LONG, "content": HI}, "filename"),
        ({"content_type": "text/html\r\nX: y", "content": HI}, "content_type"),
        ({"content_type": "nonsense", "content": HI}, "content_type"),
        ({"content_type": 'a/b; name="é"', "content": HI}, "content_type"),
        ({"content_id": "a b<>c", "content": HI}, "content_id"),
        ({"content_id": INJECTION, "content": HI}, "content_id"),
        ({"content_disposition": "elsewhere", "content": HI}, "content_disposition"),
        ({"content": "not base64!"}, "content"),
        ({"content": "é"}, "content"),
        ({}, "content"),
        ({"url": "http://127.0.0.1/", "content": HI}, "url"),
    ],
)
async def test_an_attachment_that_does_not_fit_is_refused(
    target: Target, attachment: dict[str, str], field: str
) -> None:
    """A mail would be sent that readers cannot open, or with headers a stranger wrote."""
    answer = await target.ask("send", attachments=[attachment])
    body = fault(answer, 400)
    where = body["error"]["details"]["field"]
    assert where in {f"attachments.0.{field}", f"attachments.{field}"}
    assert body["fix"]


@pytest.mark.parametrize(
    ("route", "field"),
    [pair for pair in STRICT_TEXTS if pair[1] not in {"text", "html", "expires_at"}],
)
async def test_ten_thousand_characters_are_too_many(target: Target, route: str, field: str) -> None:
    """Names and labels without end would fill the database and every list."""
    answer = await target.ask(route, **{field: LONG})
    assert answer.status_code in (400, 403)
    body = fault(answer, answer.status_code)
    assert body["error"]["details"]["field"] == field
    assert body["fix"]
    assert len(answer.content) < 2_000, "the answer repeats what was sent"


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (route, field)
        for route, fields in FIELDS.items()
        for field in ("to", "cc", "bcc", "reply_to")
        if field in fields
    ],
)
@pytest.mark.parametrize(
    "value", ["a@b.cc," * 100_000, ["a@b.cc"] * 51], ids=["one text", "a list"]
)
async def test_more_addresses_than_a_mail_takes_are_too_many(
    target: Target, route: str, field: str, value: object
) -> None:
    """One request would hold the process while it reads them; a Reply-To of thousands would leave."""
    mistake(await target.ask(route, **{field: value}), field, "TOO_MANY_RECIPIENTS")


@pytest.mark.parametrize(
    "metadata",
    [
        {"": "x"},
        {"a\0": "x"},
        {"a": "b\0"},
        {"k" * 257: 1},
        {"a": "v" * 257},
        {"a": [1]},
        {"a": {"b": 1}},
        {str(index): index for index in range(257)},
    ],
)
async def test_metadata_that_does_not_fit_is_refused(
    target: Target, metadata: dict[str, Any]
) -> None:
    """Seed 002's limits would hold on paper only."""
    for route in ("create inbox", "update inbox"):
        body = fault(await target.ask(route, metadata=metadata), 400)
        assert body["error"]["details"]["field"].startswith("metadata")
        assert body["fix"]


@pytest.mark.parametrize(
    "permissions", [{"a\0": True}, {LONG: True}, {"": True}, {f"p{n}": True for n in range(300)}]
)
async def test_permissions_that_are_no_names_are_refused(
    target: Target, permissions: dict[str, bool]
) -> None:
    """Any text without end could be stored with a key."""
    for route in ("create key", "update key"):
        mistake(await target.ask(route, permissions=permissions), "permissions")


LISTS = ("/v0/inboxes", "/v0/threads", "/v0/api-keys", "{inbox}/messages", "{inbox}/threads")
BAD_QUERIES = (
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=many", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("page_token=stale", "page_token"),
    ("page_token=%00", "page_token"),
    ("page_token=%FF%FE", "page_token"),
    ("page_token=" + "x" * 9000, "page_token"),
)
BAD_FILTERS = (
    ("ascending=maybe", "ascending"),
    ("before=yesterday", "before"),
    ("before=9999-12-31T23:59:59-12:00", "before"),
    ("after=%00", "after"),
    ("labels=%00", "labels"),
    ("labels=" + "[" * 50_000, "labels"),
    ("labels=[1]", "labels"),
    ("labels=" + ",".join(map(str, range(101))), "labels"),
    ("subject=" + LONG, "subject"),
    ("include_trash=perhaps", "include_trash"),
)


@pytest.mark.parametrize(("query", "field"), BAD_QUERIES)
async def test_a_page_that_cannot_be_is_refused(target: Target, query: str, field: str) -> None:
    """A list would start over, or crash, without a word."""
    for path in LISTS:
        where = path.format(inbox=f"/v0/inboxes/{target.inbox['inbox_id']}")
        mistake(await target.client.get(f"{where}?{query}"), field)


@pytest.mark.parametrize(("query", "field"), BAD_FILTERS)
async def test_a_filter_that_cannot_be_read_is_refused(
    target: Target, query: str, field: str
) -> None:
    """A filter that is silently dropped shows an agent mail it did not ask for."""
    for path in ("/v0/threads", "{inbox}/messages", "{inbox}/threads"):
        where = path.format(inbox=f"/v0/inboxes/{target.inbox['inbox_id']}")
        mistake(await target.client.get(f"{where}?{query}"), field)


@pytest.mark.parametrize("query", ["labels=%FF%FE", "labels=%ED%A0%80", "&&&=;%", "%00=%00", "a=%"])
async def test_a_query_in_no_known_encoding_finds_nothing_or_is_ignored(
    target: Target, query: str
) -> None:
    """Bytes that are no UTF-8 must not get as far as a crash."""
    answer = await target.client.get(f"/v0/inboxes/{target.inbox['inbox_id']}/messages?{query}")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v0/inboxes/%00",
        "/v0/inboxes/%FF%FE",
        "/v0/inboxes/%ED%A0%80",
        "/v0/inboxes/%",
        "/v0/inboxes/inb_nonsense",
        "/v0/inboxes/" + "x" * 9000,
        "{inbox}/messages/%00",
        "{inbox}/messages/%FF%FE",
        "{inbox}/messages/" + "x" * 9000,
        "{inbox}/threads/none",
        "{inbox}/threads/%00",
        "/v0/threads/%FF",
        "/v0/api-keys/none",
        "/v0/nowhere",
        "/",
    ],
)
async def test_a_path_to_nothing_is_404(target: Target, path: str) -> None:
    """A strange id in a path must read as 'not there', never as a crash."""
    where = path.format(inbox=f"/v0/inboxes/{target.inbox['inbox_id']}")
    fault(await target.client.get(where), 404, "not_found")


async def test_a_token_made_by_hand_is_refused(target: Target) -> None:
    """Its checksum is no secret, so what is inside must not reach the database unread."""
    organization, now = target.service.organization_id, datetime.now(UTC)
    inbox_id = target.inbox["id"].removeprefix("inb_")
    inbox_id = (
        f"{inbox_id[:8]}-{inbox_id[8:12]}-{inbox_id[12:16]}-{inbox_id[16:20]}-{inbox_id[20:]}"
    )
    at = f"/v0/inboxes/{target.inbox['inbox_id']}"
    forged = {
        "/v0/inboxes": pages.encode(f"inboxes/{organization}/False", (now, "none")),
        "/v0/api-keys": pages.encode(f"api-keys/{organization}", (now, "none")),
        f"{at}/messages": pages.encode(f"messages/{inbox_id}/False", (now, 2**63)),
    }
    for path, token in forged.items():
        mistake(
            await target.client.get(path, params={"page_token": token}),
            "page_token",
            "INVALID_PAGE_TOKEN",
        )


async def test_a_method_a_path_does_not_take_is_said_to_be_so(target: Target) -> None:
    """A typo in a method would look like a missing thing."""
    answer = await target.client.put("/v0/inboxes", json={})
    assert fault(answer, 405, "method_not_allowed")["fix"]
    assert "GET" in answer.headers["allow"]


async def test_a_body_over_the_limit_is_413(target: Target) -> None:
    """One request could fill the memory."""
    answer = await target.raw("send", b'{"text": "' + b"x" * 40_000_000 + b'"}')
    body = fault(answer, 413, "validation_error")
    assert body["error"]["details"]["field"] == "body"
    assert body["fix"]
