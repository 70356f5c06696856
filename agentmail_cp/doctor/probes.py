"""Connections of the doctor's own: to the mail server's ports as any mail client makes them, and to the
two URLs at which Stalwart calls this service.

One of the package's few ways out, beside the JMAP wire and `outbound`: it goes only where the operator's
settings point, never where a tenant or a stranger does. Says what was seen; what that means, others
judge. Every probe has its own time limit and runs in a thread, as the standard library's mail clients do.
"""

from __future__ import annotations

import asyncio
import http.client
import imaplib
import smtplib
import socket
import ssl
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from agentmail_cp.settings import Tls

TIMEOUT: Final = 4.0
"""Seconds a server may take for each step."""

GREETING: Final = "doctor.agentmail-cp.internal"
"""As what we greet; given, so that nobody asks DNS for this machine's name."""

SIGNED_BY: Final = "signed by an issuer not known here"

NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
"""Codes of OpenSSL's verification for the dates of any certificate of a chain."""

LARGEST_ANSWER: Final = 65_536


class NoAnswer(Exception):
    """A server did not do what it should. The message says what happened, in a few words."""


class Door(msgspec.Struct, frozen=True):
    """A port of the mail server: its name among ours, and what it should speak."""

    name: str
    host: str
    port: int
    protocol: Literal["smtp", "imap"]
    tls: Tls

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


class Sight(msgspec.Struct, frozen=True):
    """What is seen at a door: why it is no use, or its certificate (DER), None without TLS.

    `trusted`: its issuers are, and it is good for a server. For which name it is, and how old, is for others
    to read.
    """

    trouble: str | None = None
    certificate: bytes | None = None
    trusted: bool = False

    @property
    def parsed(self) -> x509.Certificate | None:
        return (
            None if self.certificate is None else x509.load_der_x509_certificate(self.certificate)
        )


class Login(msgspec.Struct, frozen=True):
    """What a mail client logs in with."""

    address: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.address})"


class Reply(msgspec.Struct, frozen=True):
    """An answer over HTTP."""

    status: int
    body: bytes


async def look_at(door: Door, roots: str | None = None) -> Sight:
    """Connect as a mail client does, without logging in."""
    try:
        certificate = await asyncio.to_thread(_shown, door, _trusting_all())
    except NoAnswer as error:
        return Sight(trouble=str(error))
    if certificate is None:
        return Sight()
    trusted = await asyncio.to_thread(_is_trusted, door, certificate, roots)
    return Sight(certificate=certificate, trusted=trusted)


async def request(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One HTTP request. Raises `NoAnswer`."""
    return await asyncio.to_thread(_request, url, method, body, dict(headers or {}))


async def log_in(door: Door, login: Login) -> None:
    """Log in as a mail client. Raises `NoAnswer`."""
    await asyncio.to_thread(_log_in, door, login)


async def hand_in(door: Door, login: Login, mail: EmailMessage) -> None:
    """Hand a mail in to those it names. Raises `NoAnswer` with the server's words."""
    await asyncio.to_thread(_hand_in, door, login, mail)


async def holds(door: Door, login: Login, message_id: str) -> bool:
    """Whether a mail client sees a mail with this Message-ID in its inbox. Raises `NoAnswer`."""
    return await asyncio.to_thread(_holds, door, login, message_id)


def _request(url: str, method: str, body: bytes | None, headers: dict[str, str]) -> Reply:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with closing(kind(parts.netloc, timeout=TIMEOUT)) as connection:
        try:
            connection.request(method, parts.path or "/", body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read(LARGEST_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(_words(error)) from None


def _log_in(door: Door, login: Login) -> None:
    if door.protocol == "imap":
        with _imap(door, login):
            return
    with _smtp(door, login):
        return


def _hand_in(door: Door, login: Login, mail: EmailMessage) -> None:
    try:
        with _smtp(door, login) as client:
            client.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:
        raise NoAnswer(_words(error)) from None


def _holds(door: Door, login: Login, message_id: str) -> bool:
    try:
        with _imap(door, login) as client:
            client.select("INBOX", readonly=True)
            # Not by SEARCH: it answers from an index that comes a moment later.
            _, found = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
    except (OSError, imaplib.IMAP4.error) as error:
        raise NoAnswer(_words(error)) from None
    headers = (part[1] for part in found if isinstance(part, tuple))
    return any(message_id.encode() in each for each in headers)


def _smtp(door: Door, login: Login) -> smtplib.SMTP:
    try:
        client = _open_smtp(door, _trusting_all())
        with _left_on_failure(client):
            client.login(login.address, login.password)
    except (OSError, smtplib.SMTPException) as error:
        raise NoAnswer(_words(error)) from None
    return client


def _imap(door: Door, login: Login) -> imaplib.IMAP4:
    try:
        client = _open_imap(door, _trusting_all())
        with _left_on_failure(client):
            client.login(login.address, login.password)
    except (OSError, imaplib.IMAP4.error) as error:
        raise NoAnswer(_words(error)) from None
    return client


@contextmanager
def _left_on_failure(client: smtplib.SMTP | imaplib.IMAP4) -> Generator[None]:
    try:
        yield
    except BaseException:
        client.close() if isinstance(client, smtplib.SMTP) else client.shutdown()
        raise


def _shown(door: Door, context: ssl.SSLContext) -> bytes | None:
    """The certificate (DER) a door shows after its greeting, None for one that is to have no TLS."""
    try:
        client = _open_imap(door, context) if door.protocol == "imap" else _open_smtp(door, context)
    except (OSError, smtplib.SMTPException, imaplib.IMAP4.error) as error:
        raise NoAnswer(_words(error)) from error
    try:
        found = client.sock
        return found.getpeercert(binary_form=True) if isinstance(found, ssl.SSLSocket) else None
    finally:
        _leave(client)


def _is_trusted(door: Door, certificate: bytes, roots: str | None) -> bool:
    """Whether nothing but its own name and dates speaks against a certificate: these are judged apart, so
    that each is told as what it is.
    """
    context = ssl.create_default_context()
    if roots:
        context.load_verify_locations(cadata=roots)
    context.check_hostname = False
    # Python 3.13 asks for more than mail clients do.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        _shown(door, context)
    except NoAnswer as error:
        cause = error.__cause__
        if not isinstance(cause, ssl.SSLCertVerificationError):
            return False
        return _is_its_own_age(x509.load_der_x509_certificate(certificate), cause.verify_code)
    return True


def _is_its_own_age(certificate: x509.Certificate, code: int) -> bool:
    """Whether verification failed by the dates of this very certificate, not by those of one behind it."""
    now = datetime.now(UTC)
    if code == NOT_YET_VALID:
        return certificate.not_valid_before_utc > now
    return code == EXPIRED and certificate.not_valid_after_utc <= now


def _open_smtp(door: Door, context: ssl.SSLContext) -> smtplib.SMTP:
    if door.tls == "implicit":
        return smtplib.SMTP_SSL(door.host, door.port, GREETING, timeout=TIMEOUT, context=context)
    client = smtplib.SMTP(door.host, door.port, GREETING, timeout=TIMEOUT)
    with _left_on_failure(client):
        if door.tls == "starttls":
            client.starttls(context=context)
    return client


def _open_imap(door: Door, context: ssl.SSLContext) -> imaplib.IMAP4:
    if door.tls == "implicit":
        return imaplib.IMAP4_SSL(door.host, door.port, ssl_context=context, timeout=TIMEOUT)
    client = imaplib.IMAP4(door.host, door.port, timeout=TIMEOUT)
    with _left_on_failure(client):
        if door.tls == "starttls":
            client.starttls(context)
    return client


def _leave(client: smtplib.SMTP | imaplib.IMAP4) -> None:
    with suppress(OSError, smtplib.SMTPException, imaplib.IMAP4.error):
        client.quit() if isinstance(client, smtplib.SMTP) else client.logout()


def _trusting_all() -> ssl.SSLContext:
    """For looking: a login or a mail of ours goes to the host of the settings, whoever signed for it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return f"no answer within {TIMEOUT:g} s"
    match error:
        case socket.gaierror():
            return "the name does not resolve"
        case smtplib.SMTPResponseException():
            said = error.smtp_error
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
            return f"{error.smtp_code} {' '.join(text.split())}"
        case smtplib.SMTPRecipientsRefused():
            code, said = next(iter(error.recipients.values()))
            return f"{code} {said.decode('utf-8', 'replace')}"
        case OSError(strerror=str(reason)) if reason:
            return reason[:1].lower() + reason[1:]
        case _:
            return str(error) or type(error).__name__
