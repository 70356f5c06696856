"""Record the tapes anew: `python -m tests.recorded.record`, with `stalwart` on PATH.

Each scenario gets a fresh server of the version on PATH, set up by `apply` as in production.
"""

from __future__ import annotations

import asyncio
import smtplib
import tempfile
from pathlib import Path

from agentmail_cp.dev.stalwart import HOST, LocalStalwart
from agentmail_cp.stalwart import setup
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests.recorded.scenarios import DOMAIN, SCENARIOS, Scenario, closing
from tests.recorded.tape import Exchange, recording, save


class RealStage:
    """A scenario's stage beside a real server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def deliver(self, raw: bytes, to: str) -> None:
        with smtplib.SMTP(HOST, self._port, "client.test", timeout=20) as client:
            client.sendmail("peer@remote.test", [to], raw)

    async def settle(self) -> None:
        await asyncio.sleep(1)


async def record(name: str, scenario: Scenario) -> None:
    exchanges: list[Exchange] = []
    with tempfile.TemporaryDirectory() as folder:
        async with (
            LocalStalwart(Path(folder) / "stalwart", domain=DOMAIN) as process,
            closing(JmapClient(process.url, bearer(process.key))) as client,
        ):
            status = await setup.status(client)
            with recording(exchanges):
                await scenario(client, RealStage(process.ports.smtp))
    save(name, f"{status.product} {status.version}", exchanges)


async def main() -> None:
    for name, scenario in SCENARIOS.items():
        await record(name, scenario)


if __name__ == "__main__":
    asyncio.run(main())
