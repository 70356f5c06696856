"""Payloads are made once for all sockets of a process, and not kept for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from agentmail_cp import payloads
from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event
from agentmail_cp.mailserver import MailServer
from agentmail_cp.web import rendered
from agentmail_cp.web.rendered import ROOM, Rendered
from tests.pure.an_event import an_event


def empty(room: int = ROOM) -> Rendered:
    """Nothing made yet; the kitchen needs neither database nor mail server."""
    return Rendered(cast("Database", None), cast("MailServer", None), room=room)


class Kitchen:
    """Stands in for `payloads`, and counts what it is asked to make."""

    def __init__(self) -> None:
        self.made: list[list[Event]] = []
        self.away = 0

    async def render(
        self, db: Database, server: MailServer, wanted: Sequence[Event]
    ) -> list[bytes]:
        self.made.append(list(wanted))
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            raise Unavailable("Away.")
        return [f"{each.position} ".encode() * 10 for each in wanted]


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    made = Kitchen()
    monkeypatch.setattr(payloads, "render", made.render)
    return made


async def test_a_payload_is_made_once_for_all(kitchen: Kitchen) -> None:
    """A mail to an organisation with a thousand sockets would be read a thousand times."""
    shared = empty()
    first, second = an_event(1), an_event(2)
    told = await asyncio.gather(*(shared.text(first, [second]) for _ in range(100)))
    assert set(told) == {"1 " * 10}
    assert await shared.text(second) == "2 " * 10
    assert kitchen.made == [[first, second]]


async def test_who_gives_up_leaves_the_payload_to_the_others(kitchen: Kitchen) -> None:
    """A client that disconnects would take an event away from all others."""
    shared = empty()
    impatient, patient = [asyncio.create_task(shared.text(event_)) for event_ in [an_event(1)] * 2]
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == "1 " * 10


async def test_what_could_not_be_made_is_made_when_asked_again(kitchen: Kitchen) -> None:
    """An event would stay lost that met a restart of the mail server."""
    kitchen.away = 1
    shared, one = empty(), an_event(1)
    refused = await asyncio.gather(shared.text(one), shared.text(one), return_exceptions=True)
    assert [type(each) for each in refused] == [Unavailable, Unavailable]
    assert await shared.text(one) == "1 " * 10


async def test_payloads_are_kept_for_a_moment_and_while_there_is_room(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory would grow with every mail, or somebody be told what a message was long ago."""
    shared = empty(room=50)
    one, two, three = an_event(1), an_event(2), an_event(3)
    for each in (one, two, three, three):
        await shared.text(each)
    assert kitchen.made == [[one], [two], [three]]
    await shared.text(one)
    assert kitchen.made[3:] == [[one]]
    monkeypatch.setattr(rendered, "KEPT_FOR", 0.0)
    shared = empty()
    await shared.text(two)
    await shared.text(two)
    assert kitchen.made[4:] == [[two], [two]]
