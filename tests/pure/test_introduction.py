"""The start-up check of the mail server: whatever is wrong stands in the log in words, and stops nothing."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from agentmail_cp.app import introduce
from agentmail_cp.mailserver import (
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerUnavailable,
    ServerStatus,
)

AWAY = MailServerUnavailable("http://stalwart:8080 does not answer")
STRANGER = MailServerConfused("Stalwart does not accept the login.")
WELL = ServerStatus("Stalwart", "0.16.18")


class Answering:
    """A mail server that answers so, one after the other."""

    def __init__(self, *answers: MailServerError | ServerStatus) -> None:
        self.answers: Iterator[MailServerError | ServerStatus] = iter(answers)

    async def status(self) -> ServerStatus:
        answer = next(self.answers)
        if isinstance(answer, MailServerError):
            raise answer
        return answer


async def told(*answers: MailServerError | ServerStatus) -> list[MutableMapping[str, Any]]:
    with capture_logs() as lines:
        await introduce(cast("MailServer", Answering(*answers)), again=0)
    return lines


async def test_it_says_what_the_mail_server_is() -> None:
    assert await told(WELL) == [
        {
            "event": "mail_server.ready",
            "log_level": "info",
            "product": "Stalwart",
            "version": "0.16.18",
        }
    ]


async def test_each_reason_is_told_once_until_the_server_can_be_used() -> None:
    """A wrong key looks well at the start, and every request is refused; a line every few seconds would hide
    everything else.
    """
    lines = await told(AWAY, AWAY, STRANGER, STRANGER, AWAY, WELL)
    assert [(each["event"], each.get("reason")) for each in lines] == [
        ("mail_server.waiting", str(AWAY)),
        ("mail_server.unusable", str(STRANGER)),
        ("mail_server.waiting", str(AWAY)),
        ("mail_server.ready", None),
    ]


@pytest.mark.parametrize("missing", [("impersonate",), ("impersonate", "sysDomainGet")])
async def test_what_our_key_may_not_do_is_named(missing: tuple[str, ...]) -> None:
    lines = await told(ServerStatus("Stalwart", "0.16.18", missing))
    assert [each["event"] for each in lines] == [
        "mail_server.ready",
        "mail_server.permissions_missing",
    ]
    assert lines[1]["missing"] == ", ".join(missing)
    assert "stalwart apply" in lines[1]["fix"]
