"""Which mail server `make dev` uses, and its start: one given by URL, one on PATH, Docker, the sandbox.

Every way ends in a `Mail`: what the rest needs to know. A given server is only looked at, never
changed; all others are ours, live in the state folder and stop with the run.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from agentmail_cp.dev.docker import DockerStalwart, engine_answers
from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.stalwart import LocalStalwart, is_made
from agentmail_cp.dev.state import Endpoint
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sizes import mail_limit
from agentmail_cp.stalwart import setup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from agentmail_cp.dev.state import StateFolder
    from agentmail_cp.mailserver import MailServer
    from agentmail_cp.settings import Settings

HOST = "127.0.0.1"
SANDBOX_NOTE = (
    "Mail server: the built-in sandbox, which lacks IMAP and persistence "
    "(each start is a fresh world); put `stalwart` on PATH for the real one."
)


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail server that runs. `settings` are the service's, with what it takes to reach it.

    `server` is there when the service cannot make the connection from its settings.
    """

    kind: Literal["stalwart", "sandbox", "external"]
    note: str
    settings: Settings
    smtp: Endpoint
    submission: Endpoint | None = None
    imap: Endpoint | None = None
    server: MailServer | None = None


class Plan(msgspec.Struct, frozen=True):
    """The choice before anything starts. Each `world` has a database of its own.

    `fresh` says that the mail server will have no mail, so that what an index holds is wrong.
    """

    way: Literal["external", "binary", "docker", "sandbox"]
    world: str
    fresh: bool = False


async def plan(environ: Mapping[str, str], state: StateFolder) -> Plan:
    """Choose by what is there: a URL, a binary, a Docker engine, else the sandbox."""
    url = environ.get("AGENTMAIL_CP_STALWART_URL")
    if url:
        return Plan("external", f"agentmail_{hashlib.sha256(url.encode()).hexdigest()[:8]}")
    if shutil.which("stalwart"):
        return Plan("binary", "agentmail_stalwart", not is_made(_folder("binary", state)))
    if await engine_answers():
        return Plan("docker", "agentmail_docker", not is_made(_folder("docker", state)))
    return Plan("sandbox", "agentmail_sandbox", fresh=True)


def _folder(way: str, state: StateFolder) -> Path:
    return state.path / ("stalwart-docker" if way == "docker" else "stalwart")


@asynccontextmanager
async def running(chosen: Plan, state: StateFolder, settings: Settings) -> AsyncGenerator[Mail]:
    """Start what was planned, and stop it at the end. Raises `DevError`."""
    if chosen.way == "external":
        yield await _external(settings)
    elif chosen.way == "sandbox":
        sandbox = MailSandbox(settings.domain, max_size=mail_limit(settings.max_message_size))
        async with sandbox.listening(HOST) as door:
            yield Mail(
                kind="sandbox",
                note=SANDBOX_NOTE,
                settings=settings,
                smtp=Endpoint(HOST, door.port, "none"),
                server=sandbox,
            )
    else:
        kind = DockerStalwart if chosen.way == "docker" else LocalStalwart
        server = kind.wanting(_folder(chosen.way, state), _wanted(settings))
        async with server:
            yield _own(server, settings)


async def _external(settings: Settings) -> Mail:
    """Look at a given server: what differs from the wanted state is shown, and nothing is changed."""
    if settings.stalwart_key is None:
        raise DevError(
            "AGENTMAIL_CP_STALWART_URL is set but AGENTMAIL_CP_STALWART_KEY is not; "
            "`agentmail-cp stalwart apply` makes the key."
        )
    try:
        report = await setup.run_apply(settings, check=True)
    except setup.SetupError as error:
        raise DevError(
            f"The Stalwart of AGENTMAIL_CP_STALWART_URL cannot be used: {error}"
        ) from None
    host = urlsplit(settings.stalwart_url or "").hostname or HOST
    return Mail(
        kind="external",
        note=f"Mail server: {settings.stalwart_url}, used as it is. {report.text}",
        settings=settings,
        smtp=Endpoint(host, 25, "starttls"),
        submission=Endpoint(settings.smtp_host or host, settings.smtp_port, settings.smtp_tls),
        imap=Endpoint(settings.imap_host or host, settings.imap_port, settings.imap_tls),
    )


def _own(server: LocalStalwart, settings: Settings) -> Mail:
    ports = server.ports
    submission = Endpoint(HOST, ports.submission, "starttls")
    imap = Endpoint(HOST, ports.imaps, "implicit")
    return Mail(
        kind="stalwart",
        note=f"Mail server: Stalwart; SMTP {HOST}:{ports.smtp}, IMAP {HOST}:{ports.imaps} (TLS).",
        settings=msgspec.structs.replace(
            settings,
            stalwart_url=server.url,
            stalwart_key=server.key,
            smtp_host=HOST,
            smtp_port=submission.port,
            smtp_tls=submission.tls,
            imap_host=HOST,
            smtps_port=ports.submissions,
            imap_port=imap.port,
            imap_tls=imap.tls,
        ),
        smtp=Endpoint(HOST, ports.smtp, "starttls"),
        submission=submission,
        imap=imap,
    )


def _wanted(settings: Settings) -> setup.Wanted:
    """What `stalwart apply` would want, ringing and asking here."""
    here = msgspec.structs.replace(settings, stalwart_webhook_url=f"http://{HOST}:{settings.port}")
    try:
        return setup.wanted_state(here, dev=True)
    except setup.SetupError as error:
        raise DevError(str(error)) from None
