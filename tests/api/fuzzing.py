"""Generated requests, valid and invalid, to every operation: what they need to get past the first 404, and
what every answer and the log have to be like.
"""

from __future__ import annotations

import contextlib
import logging
import random
import traceback
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import hypothesis
import msgspec
import schemathesis.openapi
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis import checks as any_api
from schemathesis.specs.openapi import checks as openapi

from tests.api.write_openapi import description
from tests.fix_app import Json
from tests.fix_sdk import Live

CHECKS: list[Any] = [
    any_api.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
]

SCHEMA: Any = schemathesis.openapi.from_dict(description())
"""schemathesis 4 leaves its types open, hence `Any`."""

OPERATIONS = tuple(
    operation["operationId"]
    for item in SCHEMA.raw_schema["paths"].values()
    for operation in item.values()
)

REACHES = ("organization", "pod", "inbox")


class Things(msgspec.Struct, frozen=True):
    """What exists: names for paths, and a key of each reach that reaches them."""

    names: Mapping[str, str]
    keys: Mapping[str, str]


def things(live: Live) -> Things:
    """A pod with an inbox that has one of everything."""
    with httpx.Client(
        base_url=live.base_url, headers={"Authorization": f"Bearer {live.api_key}"}, timeout=20
    ) as client:

        def make(path: str, **fields: object) -> Json:
            answer = client.post(f"/v0{path}", json=fields)
            assert answer.status_code in {200, 201}, f"{path}: {answer.text}"
            return answer.json()

        pod = f"/pods/{make('/pods', name='Real')['pod_id']}"
        inbox = make(f"{pod}/inboxes")
        at = f"/inboxes/{inbox['inbox_id']}"
        mail = {
            "to": inbox["email"],
            "subject": "Hello",
            "text": "Hi",
            "attachments": [{"filename": "a.txt", "content": "SGk="}],
        }
        sent = make(f"{at}/messages/send", **mail)
        draft = make(f"{at}/drafts", **mail)
        make(f"{at}/lists/receive/block", entry="real@lists.test")
        # Nobody listens there.
        hook = make(f"{at}/webhooks", url="http://127.0.0.1:1025/", event_types=["domain.verified"])
        return Things(
            {
                "inbox_id": inbox["inbox_id"],
                "pod_id": inbox["pod_id"],
                "message_id": sent["message_id"],
                "thread_id": sent["thread_id"],
                "draft_id": draft["draft_id"],
                "attachment_id": draft["attachments"][0]["attachment_id"],
                "api_key_id": make(f"{at}/api-keys")["api_key_id"],
                "direction": "receive",
                "type": "block",
                "entry": "real@lists.test",
                "webhook_id": hook["webhook_id"],
                "delivery_id": make(f"{at}/webhooks/{hook['webhook_id']}/test")["delivery_id"],
            },
            {
                "organization": live.api_key,
                "pod": make(f"{pod}/api-keys")["api_key"],
                "inbox": make(f"{at}/api-keys")["api_key"],
            },
        )


def try_out(
    live: Live,
    operation: str,
    mode: GenerationMode,
    *,
    there: Things,
    reach: str,
    examples: int,
    seed: int | None = None,
) -> None:
    """Send an operation valid or invalid requests with a key of this reach. Without a `seed` they are the
    same each time.
    """
    headers = {"Authorization": f"Bearer {there.keys[reach]}"}
    names = {name: quote(value, safe="") for name, value in there.names.items()}

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=seed is None,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ],
    )
    @given(
        case=SCHEMA.find_operation_by_id(operation).as_strategy(generation_mode=mode),
        known=st.sampled_from([True, True, True, False]),
    )
    def check(case: Any, *, known: bool) -> None:
        if known:
            given: dict[str, Any] = case.path_parameters or {}
            case.path_parameters = {each: names.get(each, given[each]) for each in given}
        case.call_and_validate(base_url=live.base_url, headers=headers, checks=CHECKS)

    (check if seed is None else hypothesis.seed(seed)(check))()


def at_random(live: Live, rng: random.Random, *, examples: int) -> str | None:
    """Try some operation with some key; what went wrong, if anything."""
    operation, reach = rng.choice(OPERATIONS), rng.choice(REACHES)
    mode, seed = rng.choice(list(GenerationMode)), rng.getrandbits(32)
    try:
        try_out(
            live, operation, mode, there=things(live), reach=reach, examples=examples, seed=seed
        )
    except Exception as error:  # noqa: BLE001 - told at the end, with all others
        tried = f"{operation} with a key of the {reach}, {mode.value}, seed {seed}"
        return f"{tried}\n{''.join(traceback.format_exception_only(error))}"
    return None


@contextlib.contextmanager
def nothing_unhandled() -> Generator[None]:
    """Nothing is logged in this block that nobody has thought of, by us or by a library: no error, no
    traceback.
    """
    found: list[object] = []

    def note(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if event.get("exc_info") or event["level"] in {"error", "critical"}:
            found.append(event)
        raise structlog.DropEvent

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    libraries = Note(logging.ERROR)
    logging.getLogger().addHandler(libraries)
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[structlog.processors.add_log_level, note])
    try:
        yield
    finally:
        structlog.configure(processors=before)
        logging.getLogger().removeHandler(libraries)
    assert not found, f"{len(found)} unhandled: {found[0]}"
