"""`agentmail-cp doctor`: what can go wrong in an installation, looked at, and how to mend it.

Owns no table. `checking` says what a check is and makes them in order, each with its own time limit; the
checks are functions whose docstrings are their help texts, listed in `CHECKS`. They look at the settings,
PostgreSQL, Stalwart, DNS and this machine, and change nothing, but for one hidden inbox that comes and
goes (`hidden`). Nothing here mends anything: it says what to do.
"""

from __future__ import annotations

from typing import Final

from agentmail_cp.doctor import doors, installation, names, service, trip
from agentmail_cp.doctor.checking import Check, Finding, Status, chosen, examine
from agentmail_cp.doctor.patient import Kind, Patient, Space

CHECKS: Final = (
    Check[Patient](installation.settings),
    Check[Patient](installation.postgresql, needs=("settings",)),
    Check[Patient](installation.migrations, needs=("postgresql",)),
    Check[Patient](installation.stalwart, needs=("settings",)),
    Check[Patient](installation.permissions, needs=("stalwart",)),
    Check[Patient](installation.drift, needs=("stalwart",), blames=("permissions",)),
    Check[Patient](installation.clock, needs=("settings",), after=("postgresql", "stalwart")),
    Check[Patient](installation.disk, needs=("settings",), after=("postgresql",)),
    Check[Patient](service.service, needs=("settings",), blames=("postgresql", "migrations")),
    Check[Patient](service.worker, needs=("migrations",), blames=("service",)),
    Check[Patient](
        service.queues, needs=("migrations",), blames=("worker",), after=("permissions",)
    ),
    Check[Patient](doors.listeners, needs=("stalwart",), seconds=12.0),
    Check[Patient](doors.certificates, needs=("stalwart",), seconds=12.0),
    Check[Patient](
        trip.hidden_inbox,
        needs=("migrations", "permissions"),
        blames=("drift",),
        then=("removal",),
        seconds=8.0,
    ),
    Check[Patient](
        trip.hook, needs=("service", "hidden_inbox"), blames=("listeners", "drift"), seconds=10.0
    ),
    Check[Patient](
        trip.doorbell,
        needs=("service", "worker", "hidden_inbox"),
        blames=("hook", "drift"),
        seconds=10.0,
    ),
    Check[Patient](
        trip.round_trip,
        needs=("service", "worker", "hidden_inbox", "hook", "doorbell"),
        blames=("listeners", "drift"),
        seconds=12.0,
    ),
    Check[Patient](trip.removal, needs=("hidden_inbox",), after=("round_trip",), seconds=8.0),
    Check[Patient](names.domains, needs=("migrations",), seconds=10.0),
    Check[Patient](names.reverse_dns, needs=("settings",), seconds=10.0),
    Check[Patient](names.port_25, needs=("settings",)),
)
"""All checks; each behind those it waits for."""

__all__ = ["CHECKS", "Check", "Finding", "Kind", "Patient", "Space", "Status", "chosen", "examine"]
