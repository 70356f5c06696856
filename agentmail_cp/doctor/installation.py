"""Checks of what everything else stands on: settings, PostgreSQL, Stalwart and its state, clocks, disks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString

import msgspec
import psycopg
from psycopg import AsyncConnection

from agentmail_cp import db
from agentmail_cp.db import fetch_only
from agentmail_cp.doctor.checking import Finding, failed, ok, skipped, warning
from agentmail_cp.doctor.patient import Patient, Space
from agentmail_cp.errors import Unavailable
from agentmail_cp.mailserver import MailServerError
from agentmail_cp.settings import SettingsError
from agentmail_cp.stalwart import health, setup
from agentmail_cp.stalwart.setup import SetupError

OLDEST, NEWEST = 15, 18
"""Releases of PostgreSQL this is made for."""

SHOWN: Final = 5
"""Differences that are listed one by one."""

OFF: Final = 5.0
FAR_OFF: Final = 30.0
"""Seconds between two clocks from which they are worth a word, and from which things break."""

HALF_A_SECOND: Final = timedelta(seconds=0.5)

GIB: Final = 1 << 30
LOW: Final = 2 * GIB
EMPTY: Final = GIB // 4
"""Bytes free below which a disk is worth a word, and below which things break."""


async def settings(patient: Patient) -> Finding:
    """Every setting can be read, and those that belong together are there.

    Settings are environment variables AGENTMAIL_CP_…; any may name a file with the value instead, as
    AGENTMAIL_CP_…_FILE. A variable that is no setting is an error as well: it would be a typing mistake.
    """
    try:
        await patient.wake()
    except SettingsError as error:
        return failed(str(error), "Correct that variable; agentmail_cp/settings.py lists all.")
    given = patient.settings
    for field in ("stalwart_url", "stalwart_key"):
        if getattr(given, field) is None:
            return failed(
                f"AGENTMAIL_CP_{field.upper()} is not set.",
                "Set it; `agentmail-cp stalwart apply --key-file FILE` makes the key.",
            )
    if given.stalwart_webhook_url is None or not given.stalwart_webhook_secret:
        return warning(
            "AGENTMAIL_CP_STALWART_WEBHOOK_URL or _SECRET is not set: Stalwart neither rings nor asks, so "
            "mail shows up with the next sweep, and what mail clients submit passes unseen.",
            "Set both and run `agentmail-cp stalwart apply`.",
        )
    return ok("all can be read")


async def postgresql(patient: Patient) -> Finding:
    """PostgreSQL answers at AGENTMAIL_CP_DATABASE_URL, and is one of 15 to 18.

    While it is away every request is answered 503, and mail waits in Stalwart. Look at whether it runs,
    at the host, port, user and password of the URL, and at firewalls between here and there.
    """
    try:
        connection = await AsyncConnection.connect(
            patient.settings.database_url, autocommit=True, connect_timeout=3
        )
    except psycopg.Error as error:
        return failed(
            f"PostgreSQL cannot be used: {_first_line(error)}",
            "Start it, or correct AGENTMAIL_CP_DATABASE_URL.",
        )
    version = connection.info.server_version
    await connection.close()
    await patient.open_database()
    shown = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if not OLDEST <= version // 10_000 <= NEWEST:
        return failed(
            f"{shown}; {OLDEST} to {NEWEST} are supported", "Move to one of those releases."
        )
    return ok(shown)


async def migrations(patient: Patient) -> Finding:
    """The database has the schema of this release.

    Run `agentmail-cp migrate` before a new release starts. The release that runs goes on meanwhile.
    """
    async with patient.db.reading() as tx:
        missing = await db.pending(tx)
    if missing:
        return failed(
            f"{len(missing)} not applied: {', '.join(missing[:SHOWN])}{'…' * (len(missing) > SHOWN)}",
            "Run `agentmail-cp migrate`.",
        )
    return ok(f"all {len(db.migrations())} applied")


async def stalwart(patient: Patient) -> Finding:
    """Stalwart answers at AGENTMAIL_CP_STALWART_URL, and is 0.16 or later.

    Look at whether it runs, at the URL (its HTTP listener, 8080 in the compose file) and at networks
    between. Stalwart tells nobody its release: it is known by its object schema, and an unknown one is
    worth a word.
    """
    try:
        found = await health.introduction(patient.jmap)
    except MailServerError as error:
        return failed(
            f"{patient.settings.stalwart_url}: {error}",
            "Start Stalwart, or correct AGENTMAIL_CP_STALWART_URL.",
        )
    if not found.is_stalwart:
        return failed(
            f"what answers at {patient.settings.stalwart_url} is no Stalwart 0.16 or later",
            "Correct AGENTMAIL_CP_STALWART_URL, or upgrade Stalwart.",
        )
    if found.release is None:
        # To a key it does not accept it does not show its schema; `permissions` tells that.
        return ok("Stalwart 0.16 or later")
    return ok(f"Stalwart {found.release}")


async def permissions(patient: Patient) -> Finding:
    """Stalwart accepts AGENTMAIL_CP_STALWART_KEY, and the key may do everything this service does.

    The key belongs to the account agentmail-cp@control-plane.internal, and what that may do `agentmail-cp
    stalwart apply` sets. A key that was made with fewer permissions is replaced with `stalwart apply
    --key-file FILE`.
    """
    try:
        found = await setup.status(patient.jmap)
    except SetupError as error:
        return failed(
            str(error),
            "Correct AGENTMAIL_CP_STALWART_KEY, or have a new key made with `agentmail-cp stalwart apply "
            "--key-file FILE`.",
        )
    if found.missing:
        named = ", ".join(found.missing[:SHOWN])
        more = f" and {len(found.missing) - SHOWN} more" if len(found.missing) > SHOWN else ""
        return failed(
            f"our key may not: {named}{more}",
            "Run `agentmail-cp stalwart apply` as an administrator; if the key was made with fewer "
            "permissions, remove it and have a new one made with --key-file.",
        )
    if found.version not in setup.SCHEMAS.values():
        known = ", ".join(setup.SCHEMAS.values())
        return warning(
            f"the key may do everything; this release of Stalwart is not one that was tested ({known})",
            "Look into the release notes of agentmail-cp for the releases it knows.",
        )
    return ok("our key may do everything it needs")


async def drift(patient: Patient) -> Finding:
    """Stalwart is set up as stalwart-config/ wants it, as `agentmail-cp stalwart apply --check` shows.

    Settings changed by hand, or a new release of this service that wants more, are brought back by
    `agentmail-cp stalwart apply`. Its name and listeners are compared only with --own HOSTNAME.
    """
    try:
        wanted = setup.wanted_state(patient.settings, own=patient.kind.own, dev=patient.kind.dev)
        report = await setup.apply(patient.jmap, wanted, check=True)
    except SetupError as error:
        return failed(str(error), "Run `agentmail-cp stalwart apply --check` as an administrator.")
    patient.drift = report.changes
    if not report.changes:
        return ok("set up as wanted")
    shown = [change.text.splitlines()[0] for change in report.changes[:SHOWN]]
    more = [f"and {len(report.changes) - SHOWN} more"] * (len(report.changes) > SHOWN)
    return failed(
        "\n".join([f"{len(report.changes)} differences", *shown, *more]),
        "Run `agentmail-cp stalwart apply`; with --check it gives the reason of each.",
    )


async def clock(patient: Patient) -> Finding:
    """Here, PostgreSQL and Stalwart have the same time, within 30 s (a word from 5 s on).

    Leases, scheduled mail, signatures of mail and links, and certificates go by the clock. Let NTP (chrony,
    systemd-timesyncd) run on every machine.
    """
    found = dict(await asyncio.gather(_postgresql_time(patient), _stalwart_time(patient)))
    offsets = {name: seconds for name, seconds in found.items() if seconds is not None}
    return judge_clock(offsets)


async def _postgresql_time(patient: Patient) -> tuple[str, float | None]:
    before = patient.now()
    try:
        async with patient.db.reading() as tx:
            row = await fetch_only(tx, _Time, "select clock_timestamp() as at", {})
    except Unavailable:
        return "PostgreSQL", None
    return "PostgreSQL", _offset(row.at, before, patient.now())


async def _stalwart_time(patient: Patient) -> tuple[str, float | None]:
    before = patient.now()
    try:
        found = await health.introduction(patient.jmap)
    except MailServerError:
        return "Stalwart", None
    if found.time is None:
        return "Stalwart", None
    # It tells whole seconds.
    return "Stalwart", _offset(found.time + HALF_A_SECOND, before, patient.now())


class _Time(msgspec.Struct, frozen=True):
    at: datetime


def _offset(theirs: datetime, before: datetime, after: datetime) -> float:
    """Seconds another clock is ahead of ours."""
    return (theirs - (before + (after - before) / 2)).total_seconds()


def judge_clock(offsets: Mapping[str, float]) -> Finding:
    """What it means that others' clocks are so many seconds ahead of ours."""
    if not offsets:
        return skipped("there is no other clock to compare with")
    worst = max(abs(seconds) for seconds in offsets.values())
    shown = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in offsets.items())
    if worst < OFF:
        return ok(f"within {OFF:g} s of this machine: {shown}")
    alike = len(offsets) > 1 and max(offsets.values()) - min(offsets.values()) < OFF
    whose = "this machine's clock is off" if alike else "clocks differ"
    finding = failed if worst > FAR_OFF else warning
    return finding(
        f"{whose}: {shown} against this machine", "Let NTP run on every machine, and look at it."
    )


def _seconds(offset: float) -> str:
    return f"{offset:+.1f} s"


async def disk(patient: Patient) -> Finding:
    """There is room on this machine's disk, and on PostgreSQL's where its folder is on this machine.

    PostgreSQL does not tell how full its disk is, and Stalwart does not either: watch the disks of other
    machines where they are. Mail lives in Stalwart's store; the database holds some hundred bytes for
    each message, and events for AGENTMAIL_CP_EVENT_RETENTION_DAYS.
    """
    places = {"this machine": "/"}
    size = ""
    try:
        async with patient.db.reading() as tx:
            found = await fetch_only(tx, _Database, _SIZE, {})
    except Unavailable:
        size = "; PostgreSQL does not answer"
    else:
        size = f"; the database takes {_amount(found.bytes)}"
        if found.folder is not None and await asyncio.to_thread(Path(found.folder).is_dir):
            places["PostgreSQL's folder"] = found.folder
    spaces = {name: await asyncio.to_thread(patient.space, at) for name, at in places.items()}
    return judge_space(spaces, size)


class _Database(msgspec.Struct, frozen=True):
    bytes: int
    folder: str | None


_SIZE: LiteralString = (
    "select pg_database_size(current_database()) as bytes,"
    # Shown to a superuser and to pg_read_all_settings only.
    " (select setting from pg_settings where name = 'data_directory') as folder"
)


def judge_space(spaces: Mapping[str, Space], size: str) -> Finding:
    """What it means that so much is free."""
    shown = ", ".join(
        f"{name} has {_amount(space.free)} of {_amount(space.total)} free"
        for name, space in spaces.items()
    )
    least = min(space.free for space in spaces.values())
    if least >= LOW:
        return ok(shown + size)
    finding = failed if least < EMPTY else warning
    return finding(shown + size, "Make room, or give it a larger disk, before writes fail.")


def _amount(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
