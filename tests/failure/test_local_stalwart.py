"""The Stalwart of `make dev`: it comes back as it was, and says in one sentence why it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from pathlib import Path

import msgspec
import pytest

from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.stalwart import LocalStalwart
from tests.fix_stalwart import DOMAIN, StalwartServer, needs_stalwart

MAIL = b"From: a@out.test\r\nSubject: kept\r\n\r\nText\r\n"


def fake_binary(folder: Path, script: str) -> Path:
    folder.mkdir()
    path = folder / "stalwart"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


async def test_without_a_binary_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevError, match="There is no `stalwart` on PATH"):
        await LocalStalwart(tmp_path / "s", domain=DOMAIN).start()


async def test_a_binary_that_is_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_binary(tmp_path / "bin", "echo 0.15.5")))
    with pytest.raises(DevError, match=r"is 0\.15\.5; Stalwart 0\.16 is needed"):
        await LocalStalwart(tmp_path / "s", domain=DOMAIN).start()


async def test_a_server_that_ends_at_once_leaves_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'if [ "$1" = -V ]; then echo 0.16.18; else echo "out of luck" >&2; exit 1; fi'
    path = f"{fake_binary(tmp_path / 'bin', script)}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    with pytest.raises(DevError, match="did not start: out of luck Delete that folder"):
        await LocalStalwart(tmp_path / "s", domain=DOMAIN).start()


@pytest.mark.alone
@pytest.mark.stalwart
async def test_a_second_start_is_quick_and_keeps_mail_ports_and_key(tmp_path: Path) -> None:
    needs_stalwart()
    folder = tmp_path / "s"
    async with LocalStalwart(folder, domain=DOMAIN) as first:
        server = StalwartServer(first)
        mailbox = await server.new_mailbox()
        with server.imap(mailbox) as client:
            client.append("INBOX", "", "", MAIL)
        await server.jmap.close()
        before = (first.ports, first.key, first.url)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600

    started = time.monotonic()
    async with LocalStalwart(folder, domain=DOMAIN) as second:
        assert time.monotonic() - started < 2
        assert (second.ports, second.key, second.url) == before
        again = StalwartServer(second)
        with again.imap(mailbox) as client:
            assert client.select("INBOX")[1] == [b"1"]
        await again.jmap.close()


@pytest.mark.stalwart
async def test_mail_survives_kill_9(own_stalwart: LocalStalwart) -> None:
    server = StalwartServer(own_stalwart)
    mailbox = await server.new_mailbox()
    client = server.imap(mailbox)
    client.append("INBOX", "", "", MAIL)
    await own_stalwart.kill()
    client.shutdown()
    await own_stalwart.start()
    with server.imap(mailbox) as client:
        assert client.select("INBOX")[1] == [b"1"]
    await server.jmap.close()


@pytest.mark.stalwart
async def test_a_server_that_outlived_its_owner_is_replaced(own_stalwart: LocalStalwart) -> None:
    """Two servers on one store would ruin it."""
    orphan = own_stalwart.pid
    heir = LocalStalwart(own_stalwart._folder, domain=DOMAIN)  # pyright: ignore[reportPrivateUsage]
    await heir.start()
    assert heir.pid != orphan
    assert heir.ports == own_stalwart.ports
    await own_stalwart.stop()
    await heir.stop()


@pytest.mark.stalwart
async def test_a_taken_port_is_replaced_and_the_mail_stays(tmp_path: Path) -> None:
    needs_stalwart()
    server = LocalStalwart(tmp_path / "s", domain=DOMAIN)
    await server.start()
    await server.stop()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", server.ports.imaps))
        squatter.listen()
        before = server.ports
        await server.start()
        assert server.ports != before
        clients = StalwartServer(server)
        with clients.imap(await clients.new_mailbox()) as client:
            assert client.noop()[0] == "OK"
        await clients.jmap.close()
    await server.stop()


@pytest.mark.stalwart
async def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path) -> None:
    needs_stalwart()
    folder = tmp_path / "s"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await LocalStalwart(folder, domain=DOMAIN).start()
    assert not (folder / "key").exists()
    async with LocalStalwart(folder, domain=DOMAIN) as again:
        assert again.key


@pytest.mark.stalwart
async def test_a_ruined_store_is_named(tmp_path: Path) -> None:
    needs_stalwart()
    folder = tmp_path / "s"
    server = LocalStalwart(folder, domain=DOMAIN)
    await server.start()
    await server.stop()
    (folder / "config.json").write_text("{}")
    with pytest.raises(DevError, match=r"did not start: .+ Delete that folder to start afresh"):
        await server.start()


@pytest.mark.stalwart
async def test_another_program_on_our_port_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    """Settings would be applied to a stranger's server otherwise."""
    needs_stalwart()
    server = LocalStalwart(tmp_path / "s", domain=DOMAIN)
    await server.start()
    other = LocalStalwart(tmp_path / "t", domain=DOMAIN)
    (tmp_path / "t").mkdir(mode=0o700)
    (tmp_path / "t" / "ports.json").write_bytes(msgspec.json.encode(server.ports))
    await other.start()
    assert not set(msgspec.structs.astuple(server.ports)) & set(
        msgspec.structs.astuple(other.ports)
    )
    await other.stop()
    await server.stop()
