"""The round trip: a mail that goes all the way, and what it proves on that way.

A hidden inbox (`hidden.py`) hands a mail in over SMTP and sends one over JMAP, both to itself. Stalwart
has to ask the MTA hook before it takes them, has to ring the doorbell to tell that one was delivered, and
a worker has to read it in and publish the event; a mail client then finds it. What fails first says where
the way is blocked, from Stalwart's side as well, which asking a URL from here cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from base64 import b64encode
from collections.abc import Collection
from email.message import EmailMessage
from hashlib import sha256
from http import HTTPStatus
from time import monotonic
from typing import Final

from agentmail_cp import compose, events, limits, sending
from agentmail_cp.access import HIDDEN
from agentmail_cp.compose import SendMessage
from agentmail_cp.doctor import hidden, probes
from agentmail_cp.doctor.checking import Cause, Finding, failed, ok, skipped
from agentmail_cp.doctor.hidden import HiddenInbox, HiddenPair
from agentmail_cp.doctor.patient import Patient
from agentmail_cp.doctor.probes import Door, Login, NoAnswer
from agentmail_cp.errors import AgentMailError
from agentmail_cp.events import EventType
from agentmail_cp.mailserver import Address, MailServerError
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.hooks import DOORBELL_PATH, SIGNATURE_HEADER
from agentmail_cp.stalwart.mtahook import HOOK_PATH

WAIT: Final = 6.0
"""Seconds until an event is there. Usually it takes one."""
ARRIVAL: Final = 2.0
"""Seconds until a mail that was sent lies in a mailbox."""
LOOK: Final = 0.1

ARRIVED: Final = frozenset({EventType.MESSAGE_RECEIVED, EventType.MESSAGE_RECEIVED_SPAM})

NO_EVENTS: Final = b'{"events":[]}'
NO_MAIL: Final = b'{"context":{"stage":"connect"}}'

TELL_BOTH: Final = (
    "Give the API and `agentmail-cp stalwart apply` the same AGENTMAIL_CP_STALWART_WEBHOOK_SECRET."
)


async def hidden_inbox(patient: Patient) -> Finding:
    """An inbox can be made: an address reserved, an account in Stalwart that mail clients can log in to.

    It is in an organisation that nobody sees, and is removed at the end (`removal`). If a doctor was
    killed, the next one removes what it left.
    """
    if not await hidden.hold(patient.settings.database_url, patient.closing):
        return failed("another doctor is at work", "Wait until it has finished.")
    patient.tidy = False
    patient.closing.push_async_callback(_tidy_up, patient)
    try:
        patient.hidden = await hidden.make(patient.db, patient.server, patient.settings)
    except (AgentMailError, MailServerError) as error:
        return failed(
            f"no inbox could be made: {error}",
            "Look at the log of the API for `inbox.` lines; `agentmail-cp stalwart apply --check` "
            "shows what Stalwart lacks.",
        )
    return ok(f"two made on {patient.settings.domain}")


async def _tidy_up(patient: Patient) -> None:
    """Remove what `removal` did not come to: the doctor was interrupted."""
    if not patient.tidy:
        with contextlib.suppress(AgentMailError, MailServerError):
            await hidden.remove(patient.db, patient.server)


async def hook(patient: Patient) -> Finding:
    """Stalwart reaches the MTA hook, /stalwart/hook below AGENTMAIL_CP_STALWART_WEBHOOK_URL, and believes
    its answer.

    Stalwart asks there whether a mail may leave. Without an answer it refuses what mail clients submit
    for now (451), and what the API sends. The URL is asked from here first, then Stalwart is handed a
    mail in for which it has to ask. Where the first works and the second does not, look at the network
    from Stalwart to that URL.
    """
    if patient.settings.stalwart_webhook_url is None:
        return skipped("AGENTMAIL_CP_STALWART_WEBHOOK_URL is not set")
    secret = patient.settings.stalwart_webhook_secret or ""
    await _ask(
        patient,
        HOOK_PATH,
        NO_MAIL,
        {"Authorization": f"Bearer {mtahook.token(secret)}"},
        HTTPStatus.OK,
    )
    pair, door = _made(patient), await _submission(patient)
    try:
        await probes.hand_in(door, _login(pair.sender), _mail(pair))
    except NoAnswer as error:
        return failed(
            f"{door} refuses a mail handed in: {error}",
            f"Let Stalwart reach {patient.service_url}{HOOK_PATH}: look at networks and names where Stalwart "
            "runs, and at its log for `mta-hook`.",
        )
    return ok("Stalwart asks, and believes the answer")


async def doorbell(patient: Patient) -> Finding:
    """Stalwart reaches the doorbell, /stalwart/doorbell below AGENTMAIL_CP_STALWART_WEBHOOK_URL, and its
    signature is accepted.

    Stalwart rings there when mail arrives and tells what became of sent mail. Without it mail shows up
    with the next sweep (AGENTMAIL_CP_SWEEP_INTERVAL), and outcomes stay unknown. The URL is rung from
    here first; then a mail is sent whose delivery only Stalwart itself can tell.
    """
    if patient.settings.stalwart_webhook_url is None:
        return skipped("AGENTMAIL_CP_STALWART_WEBHOOK_URL is not set")
    secret = patient.settings.stalwart_webhook_secret or ""
    seal = b64encode(hmac.new(secret.encode(), NO_EVENTS, sha256).digest()).decode()
    await _ask(patient, DOORBELL_PATH, NO_EVENTS, {SIGNATURE_HEADER: seal}, HTTPStatus.NO_CONTENT)
    try:
        message_id = await _sent(patient)
    except (AgentMailError, MailServerError) as error:
        return failed(f"a mail could not be sent: {error}", "Look at the log of the API.")
    sender = _made(patient).sender
    if not await _happened(patient, sender, message_id, {EventType.MESSAGE_DELIVERED}):
        return failed(
            f"Stalwart did not tell within {WAIT:g} s that a mail was delivered",
            f"Let Stalwart reach {patient.service_url}{DOORBELL_PATH}: look at networks and names where "
            "Stalwart runs, and at its log for `webhook`.",
        )
    return ok("Stalwart rings, and is believed")


async def round_trip(patient: Patient) -> Finding:
    """A mail goes from an inbox to an inbox: it is sent over JMAP, arrives, has its event published, and
    mail clients find it over IMAP; they can log in at every port for sending.

    Needs a worker, which reads mail in and publishes events. Look at its log, and at metrics (/metrics).
    """
    reader = _made(patient).reader
    try:
        message_id = await _sent(patient)
    except (AgentMailError, MailServerError) as error:
        return failed(f"a mail could not be sent: {error}", "Look at the log of the API.")
    rings = patient.settings.stalwart_webhook_url is not None
    if rings and not await _happened(patient, reader, message_id, ARRIVED):
        return failed(
            f"the mail was sent, and no event told within {WAIT:g} s that it arrived",
            "Look at the worker's log for `intake` and `publication`.",
        )
    trouble = await _in_mail_clients(patient, reader, message_id)
    if trouble:
        return failed(
            "; ".join(trouble), "Look into Stalwart's log for that port, at time of the check."
        )
    told = "told" if rings else "to be told with the next sweep"
    return ok(f"sent, arrived, {told}, and seen by mail clients")


async def removal(patient: Patient) -> Finding:
    """The hidden inbox is gone again, from Stalwart and from the database.

    What is left is removed by the next doctor.
    """
    pair = _made(patient)
    try:
        await hidden.remove(patient.db, patient.server)
        left = await hidden.remains(patient.db, patient.server, pair.addresses)
    except (AgentMailError, MailServerError) as error:
        left = [str(error)]
    if left:
        return failed(
            f"not all could be removed: {', '.join(left)}", "Run `agentmail-cp doctor` again."
        )
    patient.tidy = True
    return ok("nothing is left")


async def _in_mail_clients(patient: Patient, inbox: HiddenInbox, message_id: str) -> list[str]:
    """What a mail client cannot do at the ports that answer."""
    doors = [
        door
        for door, sight in (await patient.sights()).items()
        if sight.trouble is None and door.name != "smtp"
    ]
    done = await asyncio.gather(*(_use(door, inbox, message_id) for door in doors))
    return [f"{door}: {trouble}" for door, trouble in zip(doors, done, strict=True) if trouble]


async def _use(door: Door, inbox: HiddenInbox, message_id: str) -> str | None:
    try:
        if door.protocol == "smtp":
            await probes.log_in(door, _login(inbox))
        elif not await _arrives(door, inbox, message_id):
            return "the mail that arrived is not there"
    except NoAnswer as error:
        return str(error)
    return None


async def _arrives(door: Door, inbox: HiddenInbox, message_id: str) -> bool:
    """Whether a mail client sees the mail, now or in a moment."""
    deadline = monotonic() + ARRIVAL
    while not (seen := await probes.holds(door, _login(inbox), message_id)):
        if monotonic() > deadline:
            break
        await asyncio.sleep(LOOK)
    return seen


async def _ask(
    patient: Patient, path: str, body: bytes, headers: dict[str, str], wanted: HTTPStatus
) -> None:
    """Call a URL as Stalwart does. Raises `Cause` when its answer is not the one wanted."""
    url = patient.service_url + path
    try:
        reply = await probes.request(
            url, "POST", body, {"Content-Type": "application/json", **headers}
        )
    except NoAnswer as error:
        raise Cause(
            failed(
                f"nobody answers at {url}: {error}",
                "Start the API, correct AGENTMAIL_CP_STALWART_WEBHOOK_URL, or let requests through.",
            )
        ) from None
    if reply.status == wanted:
        return
    if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}:
        raise Cause(failed(f"{url} does not know us ({reply.status})", TELL_BOTH))
    raise Cause(
        failed(
            f"{url} answers {reply.status}",
            "Look at what answers there: a proxy in between, or the API's log.",
        )
    )


async def _submission(patient: Patient) -> Door:
    """A port at which mail clients hand mail in. Raises `Cause` when none answers."""
    for door, sight in (await patient.sights()).items():
        if door.protocol == "smtp" and door.name != "smtp" and sight.trouble is None:
            return door
    raise Cause(failed("no port for mail clients answers", "See `listeners`."))


async def _happened(
    patient: Patient, whose: HiddenInbox, message_id: str, types: Collection[EventType]
) -> bool:
    """Whether an event of these types is published for a message, waited for."""
    deadline = monotonic() + WAIT
    while monotonic() < deadline:
        async with patient.db.reading() as tx:
            found = await events.list_of_inbox(tx, HIDDEN, whose.inbox.inbox_id)
        published = (each for each in found if each.position is not None and each.type in types)
        if any((each.message_id or "").strip("<>") == message_id for each in published):
            return True
        await asyncio.sleep(LOOK)
    return False


def _made(patient: Patient) -> HiddenPair:
    if patient.hidden is None:
        raise Cause(failed("there is no hidden inbox", "See `hidden_inbox`."))
    return patient.hidden


def _login(inbox: HiddenInbox) -> Login:
    return Login(inbox.inbox.address, inbox.password)


def _mail(pair: HiddenPair) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"] = pair.addresses
    mail["Subject"] = "Handed in by agentmail-cp doctor"
    mail.set_content("This mail is gone in a moment.")
    return mail


async def _sent(patient: Patient) -> str:
    """The Message-ID (no brackets) of the mail that was sent; sent once."""
    if patient.sent is None:
        patient.sent = asyncio.create_task(_send(patient))
    return await asyncio.shield(patient.sent)


async def _send(patient: Patient) -> str:
    """Send a mail from one hidden inbox to the other, as the API does; returns its Message-ID."""
    pair, settings = _made(patient), patient.settings
    inbox = pair.sender.inbox
    message = SendMessage(
        to=(Address(pair.reader.inbox.address),),
        subject="Sent by agentmail-cp doctor",
        text="This mail is gone in a moment.",
    )
    stamp = sending.stamp(inbox)
    await sending.send(
        patient.db,
        patient.server,
        inbox=inbox,
        email=compose.compose_send(message, stamp),
        fingerprint=compose.fingerprint(str(inbox.inbox_id), "doctor", message),
        key=None,
        patience=settings.stalwart_patience,
        defaults=limits.defaults(settings),
    )
    return stamp.message_id
