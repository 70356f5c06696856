"""Page tokens that nobody of us made: their checksum is no secret, so what is inside may be anything."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from agentmail_cp import pages
from tests.api.isolation import doubled, staged
from tests.api.isolation_cases import asking, paged
from tests.fix_app import Service

CHECKSUM = b"\0" * 6
FAR_EAST, FAR_WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))

ODD: dict[type, tuple[Any, ...]] = {
    datetime: (
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2, 1, 1, tzinfo=FAR_EAST),
        datetime(9998, 12, 31, tzinfo=FAR_WEST),
        "yesterday",
        0,
    ),
    str: ("", "\0", "%", "\\", "'", "x" * 2000, "\ue02f", "\U0010ffff", 7),
    int: (0, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, "1"),
    float: (0.0, -0.0, float("inf"), float("nan"), "1"),
    bool: (0, 1, "true"),
}


def forged(token: str) -> Iterator[str]:
    """A token with each of its values replaced by odd ones of the same kind, and of another shape."""
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    key: list[Any] = msgspec.msgpack.decode(raw[len(CHECKSUM) :])
    bodies: list[Any] = [[], [*key, None], None, {"a": 1}, key[:1], [None] * len(key)]
    for at, value in enumerate(key):
        bodies += [[*key[:at], odd, *key[at + 1 :]] for odd in ODD[type(value)]]
    for body in bodies:
        packed = CHECKSUM + msgspec.msgpack.encode(body)
        yield urlsafe_b64encode(packed).rstrip(b"=").decode()


async def test_no_forged_token_is_a_crash(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times before Christ, NULs and numbers of 64 bits get past the checksum and into PostgreSQL."""
    stage = await staged(service)
    await doubled(stage)

    def any_checksum(_scope: str, _body: bytes) -> bytes:
        return CHECKSUM

    monkeypatch.setattr(pages, "_checksum", any_checksum)
    tried = 0
    wrong: list[str] = []
    for case in paged():
        names = stage.names_for(case)
        first = await service.client.get(asking(case, limit="1").url(names))
        token = first.json().get("next_page_token")
        for each in forged(token) if token else ():
            answer = await service.client.get(asking(case, page_token=each).url(names))
            tried += 1
            if answer.status_code not in {200, 400}:
                wrong.append(f"{case.name} {each}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert tried > 300
