"""The two worlds of the tests: what happens in either mail server shows in the API at once."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.fix_app import Service, a_mail, serving_on_stalwart, until
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import StalwartServer


@pytest.mark.parametrize("run", [1, 2])
async def test_mail_reaches_the_service_of_this_test(anywhere: Service, run: int) -> None:
    """A test would see the mail of another one, or none."""
    alice = await anywhere.inbox("alice")
    await anywhere.deliver(a_mail(alice["email"], f"Run {run}"))
    (got,) = await until(lambda: anywhere.messages(alice), lambda seen: len(seen) == 1)
    assert got["subject"] == f"Run {run}"


async def test_it_has_a_port(anywhere: Service) -> None:
    """Download links, and clients that are no part of the test, would lead nowhere."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{anywhere.url}/health")
    assert answer.json() == {"status": "ok"}


@pytest.mark.stalwart
async def test_stalwart_s_bell_alone_announces(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> None:
    """Every test of the real world would wait for the sweep."""
    async with serving_on_stalwart(
        database_url, stalwart, front_door, porch, sweep_interval=3600.0
    ) as service:
        alice = await service.inbox()
        await until(lambda: service.messages(alice), lambda seen: seen == [])
        await service.deliver(a_mail(alice["email"]))
        await until(lambda: service.messages(alice), lambda seen: len(seen) == 1)
        with service.imap(alice) as client:
            await asyncio.to_thread(client.select, "INBOX")
            await asyncio.to_thread(client.store, "1", "+FLAGS", "customer")
        await until(lambda: service.messages(alice, labels="customer"), lambda seen: len(seen) == 1)
