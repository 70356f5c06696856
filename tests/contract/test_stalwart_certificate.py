"""The certificate of the settings on a real server: shown at once, renewed when it is another."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import HOST
from agentmail_cp.stalwart import certificates, setup
from tests.certificates import Authority, Pair
from tests.fix_stalwart import DOMAIN, StalwartServer

pytestmark = pytest.mark.stalwart

NAME = f"mail.{DOMAIN}"
AUTHORITY = Authority()


class Given:
    """The run's Stalwart, which a test gives certificates."""

    def __init__(self, server: StalwartServer) -> None:
        self._server = server

    async def apply(self, pair: Pair, *, check: bool = False) -> setup.Report:
        """As `stalwart apply --own` does with this certificate."""
        certificate = certificates.read(pair.chain, pair.key)
        wanted = msgspec.structs.replace(self._server.process.wanted, certificate=certificate)
        report = await setup.apply(self._server.jmap, wanted, check=check)
        touched = {change.object.split()[0] for change in report.changes}
        assert touched <= {"Certificate", "SystemSettings"}
        return report

    async def shown(self, *, sni: str | None) -> str:
        """What a mail client at the IMAP port is shown, verified."""
        context = ssl.create_default_context(cadata=AUTHORITY.root)
        context.check_hostname = sni is not None
        _, writer = await asyncio.open_connection(
            HOST, self._server.process.ports.imaps, ssl=context, server_hostname=sni or ""
        )
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return ssl.DER_cert_to_PEM_cert(found)

    async def certificates(self) -> list[dict[str, Any]]:
        return (await self._server.call("x:Certificate/get", {"ids": None}))["list"]

    async def forget(self) -> None:
        """Leave the server as it was."""
        settings = {"update": {"singleton": {"defaultCertificateId": None}}}
        await self._server.call("x:SystemSettings/set", settings)
        ids = [each["id"] for each in await self.certificates()]
        await self._server.call("x:Certificate/set", {"destroy": ids})
        for action in ("ReloadSettings", "ReloadTlsCertificates"):
            await self._server.call("x:Action/set", {"create": {"a": {"@type": action}}})


@pytest_asyncio.fixture
async def given(stalwart: StalwartServer) -> AsyncGenerator[Given]:
    server = Given(stalwart)
    try:
        yield server
    finally:
        await server.forget()


async def test_a_certificate_is_shown_at_once_and_renewed_in_its_place(given: Given) -> None:
    """Also to who does not say which name he came for; a second apply changes nothing."""
    first = AUTHORITY.sign(NAME)
    planned = await given.apply(first, check=True)
    assert [each.object for each in planned.changes] == [f"Certificate {NAME}"]
    assert await given.certificates() == []
    await given.apply(first)
    assert await given.shown(sni=NAME) == await given.shown(sni=None) == first.chain
    assert (await given.apply(first)).changes == ()

    renewed = AUTHORITY.sign(NAME)
    planned = await given.apply(renewed, check=True)
    assert "certificate: certificate " in planned.text
    assert "BEGIN" not in planned.text
    await given.apply(renewed)
    assert await given.shown(sni=NAME) == await given.shown(sni=None) == renewed.chain
    assert len(await given.certificates()) == 1
    assert (await given.apply(renewed, check=True)).changes == ()
