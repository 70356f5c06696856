"""The start of `serve` and `worker`: what is wrong is said in words, and what may pass stops nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.failure.real import Ringing, service
from tests.fix_app import until
from tests.fix_process import ServiceProcess
from tests.fix_proxy import Proxy, port_of, through

REFUSED = "Stalwart does not accept the login."
PATIENCE = 15.0


async def until_logged(process: ServiceProcess, words: str) -> str:
    """Wait for a line of the log."""

    async def look() -> str:
        return await asyncio.to_thread(lambda: process.log)

    return await until(look, lambda log: words in log, seconds=PATIENCE, pause=0.05)


@pytest.mark.stalwart
@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_wrong_key_is_told_at_the_start(
    command: str, ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """The start looks well, and nobody looks for the key when every request fails."""
    async with service(tmp_path, ringing, database_url, command, stalwart_key="API_x") as process:
        log = await until_logged(process, REFUSED)
        assert process.running
    assert "mail_server.unusable" in log
    assert "mail_server.ready" not in process.log


@pytest.mark.stalwart
@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_mail_server_that_comes_up_later_is_looked_at_then(
    command: str, ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """Whatever starts together would be looked at by none of its parts."""
    async with Proxy(port_of(ringing.process.url)) as proxy:
        url = through(ringing.process.url, proxy)
        proxy.refuse()
        async with service(tmp_path, ringing, database_url, command, stalwart_url=url) as process:
            await until_logged(process, "mail_server.waiting")
            await proxy.heal()
            log = await until_logged(process, "mail_server.ready")
    assert "permissions_missing" not in log
