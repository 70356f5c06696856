"""Uploads and downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmail_cp.mailserver import AccountId, BlobId, DocumentId, Folder, Refusal
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


@covers("blob_size", Refusal.NO_BLOB)
async def test_a_blob_is_measured_as_its_download_will_be(world: World) -> None:
    account_id = (await world.account()).account_id
    blob_id = await world.server.upload(account_id, CONTENT, "application/pdf")
    assert await world.server.blob_size(account_id, blob_id) == len(CONTENT)
    for name in ("never", "../../etc/passwd", ""):
        with refused(Refusal.NO_BLOB):
            await world.server.blob_size(account_id, BlobId(name))


ODD = (
    b"From: a@elsewhere.test\r\nTo: b@elsewhere.test\r\nSubject: odd\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'
    b"--x\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
    b'--x\r\nContent-Type: text/plain; charset=iso-8859-1; name="latin.txt"\r\n'
    b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"caf\xe9 \xe0 la cr\xe8me\r\n"
    b'--x\r\nContent-Type: text/csv; charset=utf-16le; name="wide.csv"\r\n'
    b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"YQAsAGIACgA=\r\n"
    b"--x\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n"
    b"From: c@elsewhere.test\r\nSubject: inner\r\n\r\nInner body\r\n"
    b'--x\r\nContent-Type: application/pdf; name="q.pdf"\r\n'
    b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"a=3Db=\r\nc\r\n"
    b"--x--\r\n"
)


@covers("blob_size", "raw_blob", "append", Refusal.NO_MAIL)
async def test_odd_parts_and_whole_mails_measure_what_they_download(world: World) -> None:
    """A Content-Length that is off by one byte makes a client drop the file."""
    account_id = (await world.account()).account_id
    document_id = await world.server.append(account_id, ODD, folder=Folder.INBOX)
    content = (await world.server.read(account_id, [document_id]))[document_id]
    raw = await world.server.raw_blob(account_id, document_id)
    assert len(content.attachments) == 4
    for blob_id in (raw, *(each.blob_id for each in content.attachments)):
        size = await world.server.blob_size(account_id, blob_id)
        assert len(await downloaded(world, account_id, blob_id)) == size
    assert await downloaded(world, account_id, raw) == ODD
    with refused(Refusal.NO_MAIL):
        await world.server.raw_blob(account_id, DocumentId(document_id + 1000))
