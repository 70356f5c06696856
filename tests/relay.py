"""A TLS port with a certificate of the test's choice, in front of another TLS port."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

from tests.certificates import Pair
from tests.fix_stalwart import HOST, unverified


@contextlib.asynccontextmanager
async def tls_relay(folder: Path, pair: Pair, port: int) -> AsyncGenerator[int]:
    """Show this certificate, and pass on what is said to the TLS port behind; yields the own port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, text in (("chain.pem", pair.chain), ("key.pem", pair.key)):
        (folder / name).write_text(text, encoding="ascii")
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, port, ssl=unverified())
        try:
            await asyncio.gather(_pour(reader, back), _pour(there, writer))
        finally:
            for each in (writer, back):
                each.transport.abort()

    server = await asyncio.start_server(visit, HOST, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
