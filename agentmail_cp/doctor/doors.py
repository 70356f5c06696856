"""Checks of the mail server's ports and of the certificates it shows there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509

from agentmail_cp.doctor.checking import Finding, failed, ok, skipped, warning
from agentmail_cp.doctor.patient import Patient
from agentmail_cp.doctor.probes import Door, Sight

SOON: Final = timedelta(days=21)
"""How long before its end a certificate is worth a word: whoever renews it does so earlier."""

INSTALL: Final = (
    "Set AGENTMAIL_CP_STALWART_CERTIFICATE and _CERTIFICATE_KEY (or _FILE each), then run "
    "`agentmail-cp stalwart apply`."
)


async def listeners(patient: Patient) -> Finding:
    """Each port of the mail server answers under the name clients are told, and speaks TLS as it should.

    25 for other servers at the first of AGENTMAIL_CP_MAIL_HOST, 587 (STARTTLS) and 465 (TLS) for mail
    clients that send at AGENTMAIL_CP_SMTP_HOST, 993 (TLS) for those that read at AGENTMAIL_CP_IMAP_HOST.
    Look at whether Stalwart has that listener, whether the container publishes the port, and at
    firewalls. It is tried from here; from the internet it may look different.
    """
    sights = await patient.sights()
    closed = [f"{door}: {sight.trouble}" for door, sight in sights.items() if sight.trouble]
    if closed:
        return failed(
            "; ".join(closed),
            "Open the port: Stalwart's listener (`stalwart apply --own HOSTNAME` makes them), the "
            "container's published ports, the firewall, the name's address.",
        )
    return ok(", ".join(str(door) for door in sights))


async def certificates(patient: Patient) -> Finding:
    """Every port shows a certificate for the name clients are told, one they trust, that lasts three
    weeks at least.

    One that has expired, is not valid yet or is for another name fails: mail clients refuse it. One that
    nobody signed is a warning: other servers take it, mail clients ask.
    AGENTMAIL_CP_STALWART_CERTIFICATE(_FILE) and _KEY(_FILE) give Stalwart one, `agentmail-cp stalwart
    apply` installs it; docs/guide/operations.md says how to renew it, and how to have Stalwart get one by
    itself (ACME).
    """
    shown = {door: sight for door, sight in (await patient.sights()).items() if sight.certificate}
    if not shown:
        return skipped("no port shows a certificate")
    return judge_certificates(shown, patient.now(), dev=patient.kind.dev)


def judge_certificates(shown: Mapping[Door, Sight], now: datetime, *, dev: bool = False) -> Finding:
    """What it means that these are shown at these doors."""
    judged = {door: _judge(door, sight, now, dev=dev) for door, sight in shown.items()}
    worst = min((finding.status for finding in judged.values()), key=_ORDER.__getitem__)
    told: dict[str, list[str]] = {}
    for door, finding in judged.items():
        if finding.status is worst:
            told.setdefault(finding.seen, []).append(door.name)
    seen = "; ".join(f"{', '.join(names)}: {text}" for text, names in told.items())
    mends = dict.fromkeys(
        each.mend for each in judged.values() if each.status is worst and each.mend
    )
    return Finding(worst, seen, " ".join(mends) or None)


def _judge(door: Door, sight: Sight, now: datetime, *, dev: bool) -> Finding:
    found = sight.parsed
    if found is None:
        return ok("no TLS")
    ends = f"{found.not_valid_after_utc:%Y-%m-%d}"
    if untimely := _judge_time(found, now):
        return untimely
    if found.issuer == found.subject or not sight.trusted:
        return _unsigned(found, ends, dev=dev)
    if not _is_for(found, door.host):
        names = ", ".join(_names(found)) or "nobody"
        return failed(
            f"the certificate is for {names}, and clients ask for {door.host}",
            f"{INSTALL} Or correct the host that clients are told.",
        )
    if found.not_valid_after_utc - now < SOON:
        return warning(f"the certificate expires on {ends}", f"Renew it. {INSTALL}")
    return ok(f"valid until {ends}")


def _judge_time(found: x509.Certificate, now: datetime) -> Finding | None:
    """What is wrong with a certificate at this time."""
    if found.not_valid_after_utc <= now:
        return failed(f"the certificate expired on {found.not_valid_after_utc:%Y-%m-%d}", INSTALL)
    if found.not_valid_before_utc > now:
        return failed(
            f"the certificate is not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            f"Set this machine's clock if it is late; else install one that is valid now. {INSTALL}",
        )
    return None


def _unsigned(found: x509.Certificate, ends: str, *, dev: bool) -> Finding:
    if found.issuer == found.subject:
        text = f"Stalwart's own, signed by nobody, until {ends}"
        return ok(text) if dev else warning(text, INSTALL)
    issuer = found.issuer.rfc4514_string()
    return warning(
        f"signed by {issuer}, which is not trusted here",
        "Put the issuers' certificates behind the server's own in the file, none of them expired, or let"
        " this machine trust them.",
    )


def _is_for(found: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a host (RFC 9525): by name, by wildcard for one label, or by address."""
    names = _names(found)
    try:
        return str(ip_address(host)) in names
    except ValueError:
        wanted = host.lower()
        return wanted in names or f"*.{wanted.partition('.')[2]}" in names


def _names(found: x509.Certificate) -> list[str]:
    try:
        value = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    names = [name.lower() for name in value.get_values_for_type(x509.DNSName)]
    return names + [str(each) for each in value.get_values_for_type(x509.IPAddress)]


_ORDER: Final = {
    status: place for place, status in enumerate(("failed", "warning", "ok", "skipped"))
}
