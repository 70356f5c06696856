"""Certificates are read when they are needed, and once."""

from __future__ import annotations

import ssl
from collections.abc import Generator

import pytest

from agentmail_cp import tls
from agentmail_cp.outbound import Outbound
from agentmail_cp.stalwart.jmap import JmapClient, bearer


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Generator[list[object]]:
    """How often certificates were read since the test began."""
    found: list[object] = []
    real = ssl.SSLContext.load_verify_locations

    def noting(context: ssl.SSLContext, cafile: str | None = None) -> None:
        found.append(cafile)
        real(context, cafile)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", noting)
    tls.context.cache_clear()
    yield found
    tls.context.cache_clear()


async def test_without_tls_no_certificate_is_read(reads: list[object]) -> None:
    """A second and more of the start would go into what a server on the same machine never needs."""
    client, outbound = JmapClient("http://127.0.0.1:8080", bearer("key")), Outbound()
    await client.close()
    await outbound.close()
    assert reads == []


async def test_all_clients_share_one_context(reads: list[object]) -> None:
    """Each would stop everything else for 50 ms and keep some MB."""
    clients = [JmapClient("https://mail.test", bearer("key")) for _ in range(3)]
    for client in clients:
        await client.close()
    assert len(reads) == 1


def test_the_context_believes_nobody_without_a_certificate() -> None:
    assert tls.context().verify_mode is ssl.CERT_REQUIRED
    assert tls.context().check_hostname
    assert tls.unused().verify_mode is ssl.CERT_REQUIRED
    assert tls.unused().get_ca_certs() == []
