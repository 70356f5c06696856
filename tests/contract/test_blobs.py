"""Uploads and downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmail_cp.mailserver import AccountId, BlobId, Refusal
from tests.contract.witness import covers
from tests.contract.world import World, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTENT = bytes(range(256)) * 2000


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 1000):
        yield content[at : at + 1000]


async def downloaded(
    world: World,
    account_id: AccountId,
    blob_id: BlobId,
    *,
    start: int = 0,
    stop: int | None = None,
) -> bytes:
    stream = world.server.download(account_id, blob_id, start=start, stop=stop)
    return b"".join([chunk async for chunk in stream])


@covers("upload", "download")
async def test_what_is_uploaded_whole_or_in_chunks_is_downloaded_again(world: World) -> None:
    account_id = (await world.account()).account_id
    whole = await world.server.upload(account_id, CONTENT, "application/octet-stream")
    chunked = await world.server.upload(account_id, in_chunks(CONTENT), "image/png")
    assert await downloaded(world, account_id, whole) == CONTENT
    assert await downloaded(world, account_id, chunked) == CONTENT


@covers("download")
async def test_a_part_of_a_blob_is_exactly_that_part(world: World) -> None:
    account_id = (await world.account()).account_id
    blob_id = await world.server.upload(account_id, CONTENT, "text/plain")
    assert await downloaded(world, account_id, blob_id, start=100, stop=300) == CONTENT[100:300]
    assert await downloaded(world, account_id, blob_id, start=len(CONTENT) - 5) == CONTENT[-5:]
    assert await downloaded(world, account_id, blob_id, start=0, stop=1) == CONTENT[:1]
    assert await downloaded(world, account_id, blob_id, start=7, stop=10**9) == CONTENT[7:]


@covers("download", Refusal.NO_BLOB)
async def test_a_blob_that_never_was_is_not_downloaded(world: World) -> None:
    account_id = (await world.account()).account_id
    for name in ("never", "mail-99999999", "../../etc/passwd", ""):
        with refused(Refusal.NO_BLOB):
            await downloaded(world, account_id, BlobId(name))
