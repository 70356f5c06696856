"""What the doctor sees at a port: certificates and who signed them, refusals in a server's words, silence."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from agentmail_cp.doctor import probes
from agentmail_cp.doctor.probes import Door, Login, NoAnswer
from tests.certificates import Authority, Pair
from tests.fix_process import free_port

HOST = "127.0.0.1"
AUTHORITY = Authority()
GOOD = AUTHORITY.sign("mail.agents.test")
LOGIN = Login("doctor@agents.test", "secret")

Visit = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(visit: Visit, context: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """A server on loopback, which hangs up when a visit is over; yields its port."""

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await visit(reader, writer)
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(visited, HOST, 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def showing(pair: Pair, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "both.pem").write_text(pair.chain + pair.key, encoding="ascii")
    context.load_cert_chain(folder / "both.pem")
    return context


def says(*lines: str) -> Visit:
    """A server that greets with the first line, and answers each that it hears with the next."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line.encode() + b"\r\n")
            await writer.drain()
            if not await reader.readline():
                return

    return visit


def submissions(port: int) -> Door:
    return Door("submissions", HOST, port, "smtp", "implicit")


def smtp(port: int) -> Door:
    return Door("submission", HOST, port, "smtp", "none")


@pytest.mark.parametrize("roots", [None, AUTHORITY.root], ids=["stranger", "known"])
async def test_a_certificate_is_trusted_by_its_issuer_whatever_its_name_and_age(
    tmp_path: Path, roots: str | None
) -> None:
    """Names and dates are judged apart: else an expired one would be called unknown."""
    old = AUTHORITY.sign("elsewhere.test", left=timedelta(days=-1))
    early = AUTHORITY.sign("mail.agents.test", age=timedelta(days=-1))
    for pair in (GOOD, old, early):
        greets = says("220 hi", "221 bye")
        async with server(greets, showing(pair, tmp_path)) as port:
            sight = await probes.look_at(submissions(port), roots)
        assert sight.trouble is None
        assert sight.trusted is (roots is not None)
        assert ssl.DER_cert_to_PEM_cert(sight.certificate or b"") == pair.chain


@pytest.mark.parametrize("left", [timedelta(days=90), timedelta(days=-1)], ids=["good", "expired"])
async def test_a_certificate_is_trusted_as_little_as_what_stands_behind_it(
    tmp_path: Path, left: timedelta
) -> None:
    """Mail clients refuse one whose issuer's has expired, though its own dates are right."""
    pair = Authority(AUTHORITY, left=left).sign("mail.agents.test")
    async with server(says("220 hi", "221 bye"), showing(pair, tmp_path)) as port:
        sight = await probes.look_at(submissions(port), AUTHORITY.root)
    assert sight.trouble is None
    assert sight.trusted is (left > timedelta(0))


async def test_a_certificate_for_another_purpose_is_not_trusted(tmp_path: Path) -> None:
    """Whatever a mail client would refuse besides age and name is not to be called good."""
    pair = AUTHORITY.sign("mail.agents.test", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    async with server(says("220 hi", "221 bye"), showing(pair, tmp_path)) as port:
        sight = await probes.look_at(submissions(port), AUTHORITY.root)
    assert (sight.trouble, sight.trusted) == (None, False)


async def test_a_closed_port_says_so() -> None:
    sight = await probes.look_at(smtp(free_port()))
    assert sight.trouble == "connection refused"


async def test_a_name_that_does_not_exist_says_so() -> None:
    sight = await probes.look_at(Door("imap", "nowhere.invalid", 993, "imap", "implicit"))
    assert sight.trouble == "the name does not resolve"


async def test_a_server_that_never_greets_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "TIMEOUT", 0.2)

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as port:
        sight = await probes.look_at(smtp(port))
        assert sight.trouble == "no answer within 0.2 s"
        with pytest.raises(NoAnswer, match="no answer within"):
            await probes.request(f"http://{HOST}:{port}/health")


async def test_a_refused_login_is_told_in_the_servers_words() -> None:
    talk = says("220 hi", "250-hi\r\n250 AUTH PLAIN", "535 5.7.8 Who are you?", "535 no", "221 bye")
    async with server(talk) as port:
        with pytest.raises(NoAnswer, match=r"535 5\.7\.8 Who are you\?"):
            await probes.log_in(smtp(port), LOGIN)


async def test_a_mail_that_is_refused_for_now_is_told_in_the_servers_words() -> None:
    """Stalwart answers so when it cannot ask the hook."""
    talk = says(
        *("220 hi", "250-hi\r\n250 AUTH PLAIN", "235 ok", "250 ok"),
        *("451 4.3.2 Try again later.", "250 reset", "221 bye"),
    )
    mail = EmailMessage()
    mail["From"] = mail["To"] = LOGIN.address
    mail.set_content("Hello")
    async with server(talk) as port:
        with pytest.raises(NoAnswer, match=r"451 4\.3\.2 Try again later"):
            await probes.hand_in(smtp(port), LOGIN, mail)


def test_a_login_prints_no_password() -> None:
    assert repr(LOGIN) == "Login(doctor@agents.test)"
