"""What lists have in common: their query parameters, and which hidden messages they may show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from litestar import Request
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

from agentmail_cp import filing
from agentmail_cp.access import Principal
from agentmail_cp.web import queries

INCLUDES = tuple(f"include_{label}" for label in filing.HIDING)
LIST_FILTERS = ("limit", "page_token", "labels", "before", "after", "ascending", *INCLUDES)


class Query:
    """The query parameters of a request, read when asked for; each reader raises `Invalid`."""

    def __init__(self, query_string: bytes) -> None:
        self._pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)

    def text(self, name: str) -> str | None:
        return queries.text(self._pairs, name)

    def texts(self, name: str) -> tuple[str, ...]:
        return queries.texts(self._pairs, name)

    def flag(self, name: str) -> bool:
        return queries.flag(self._pairs, name)

    def time(self, name: str) -> datetime | None:
        return queries.time(self._pairs, name)

    def seconds(self, name: str, *, most: float) -> float | None:
        return queries.seconds(self._pairs, name, most=most)


async def provide_query(request: Request[Any, Any, Any]) -> Query:
    """The dependency `asked`."""
    return Query(request.scope["query_string"])


def masks(asked: Query, caller: Principal, wanted: Sequence[str]) -> tuple[int, ...]:
    """Which hidden messages a list shows: those asked for by `include_…` or by naming the label, as far
    as the key may read them.
    """
    named = {each.lower() for each in wanted}
    included = [
        label
        for label in filing.HIDING
        if (label in named or asked.flag(f"include_{label}")) and caller.may(f"label_{label}_read")
    ]
    return filing.visible_masks(included)


def sees_all(caller: Principal) -> bool:
    """Whether no message is hidden from a caller for good."""
    return all(caller.may(f"label_{label}_read") for label in filing.HIDING)


def visible_to(caller: Principal) -> tuple[int, ...]:
    """Which hidden messages a caller who names one may see: all that the key may read."""
    return filing.visible_masks(
        [label for label in filing.HIDING if caller.may(f"label_{label}_read")]
    )


_TEXT = Schema(type=OpenAPIType.STRING)
_FLAG = Schema(type=OpenAPIType.BOOLEAN)
_TIME = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)
_TEXTS = Schema(type=OpenAPIType.ARRAY, items=_TEXT)

SHAPES: dict[str, tuple[Schema, str]] = {
    "limit": (Schema(type=OpenAPIType.INTEGER, minimum=1), "Items a page holds, at most 100."),
    "q": (_TEXT, "The words to look for."),
    "page_token": (_TEXT, "`next_page_token` of the page before."),
    "ascending": (_FLAG, "Oldest first."),
    "pod_id": (_TEXT, "Only what is in this pod: its id or its client_id."),
    "environment": (_TEXT, "The same; another word for a pod."),
    "type": (
        Schema(type=OpenAPIType.STRING, enum=["bearer", "public_key"]),
        "Only API keys of this type; there are none but bearer.",
    ),
    "state": (
        Schema(type=OpenAPIType.STRING, enum=["pending", "delivered", "failed"]),
        "Only deliveries in this state.",
    ),
    "event_type": (_TEXT, "Only events of this type."),
    "labels": (
        _TEXTS,
        "Only what has all these labels: a JSON array, repeated, or comma-separated.",
    ),
    "before": (_TIME, "Only what is older."),
    "after": (
        _TIME,
        (
            "Only what is newer. Mail has times of whole seconds, and more may come in the same one:"
            ' to poll, use `labels=["unread"]`, `/messages/wait` of an inbox, or `/v0/events`.'
        ),
    ),
    "include_deleted": (_FLAG, "Also the retained mail of deleted inboxes."),
    "from": (_TEXTS, "Only where the sender contains all these texts."),
    "to": (_TEXTS, "Only where the recipients contain all these texts."),
    "senders": (_TEXTS, "Only where the senders contain all these texts."),
    "recipients": (_TEXTS, "Only where the recipients contain all these texts."),
    "subject": (_TEXTS, "Only where the subject contains all these texts."),
} | {name: (_FLAG, f"Also what is labelled {name[8:]}.") for name in INCLUDES}


def listing(*names: str) -> type[Operation]:
    """An OpenAPI operation with these query parameters."""
    return asking(SHAPES, *names)


def asking(shapes: Mapping[str, tuple[Schema, str]], *names: str) -> type[Operation]:
    """An OpenAPI operation with these of the query parameters that `shapes` describes. They are read by
    `Query`, as the contract allows spellings that a typed parameter cannot take.
    """

    @dataclass
    class Asking(Operation):
        def __post_init__(self) -> None:
            described = [_parameter(name, *shapes[name]) for name in names]
            self.parameters = [*(self.parameters or ()), *described]

    return Asking


_REQUIRED = ("q", "since")
"""Query parameters nothing can be asked without."""


def _parameter(name: str, schema: Schema, description: str) -> Parameter:
    return Parameter(
        name=name,
        param_in="query",
        schema=schema,
        description=description,
        required=name in _REQUIRED,
    )
