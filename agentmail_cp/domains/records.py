"""The DNS records a domain needs, each with what it is for. Pure.

Owns what is asked of a domain's owner; how that reads as a zone file is `zone`'s, what a check makes of the
answers is `judging`'s. Required are the proof of ownership, SPF, DKIM, DMARC and, for domains that receive,
MX; without any of the others mail works as well. Values of hosts are names, never addresses: the operator's
servers may move.

SPF ends in `~all`: a mail that was forwarded fails SPF through no fault of its own, and with DMARC beside
it `-all` would let some receivers refuse it before they look at its DKIM signature (RFC 7489, 10.1). DMARC
says `reject`, as nobody else sends from a domain that is new; any valid policy counts. No address for
reports is put into it, since reports to a mailbox that does not exist bounce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from agentmail_cp.settings import Settings

RecordType = Literal["TXT", "MX", "CNAME", "SRV"]
Algorithm = Literal["ed25519", "rsa"]
Stage = Literal["pending", "active", "retiring", "retired"]

TOKEN: Final = "agentmail-verification="  # noqa: S105 - what everybody's token record begins with
"""Tells whose records these are, in a zone where several services left theirs."""

PRIORITY: Final = 10
_HTTPS: Final = 443


class Claimed(msgspec.Struct, frozen=True):
    """What of a domain its records follow from."""

    name: str
    token: str
    inbound_enabled: bool = True
    subdomains_enabled: bool = False


class Key(msgspec.Struct, frozen=True):
    """A DKIM key as DNS knows it; `public_key` is base64 (RFC 6376, RFC 8463)."""

    selector: str
    algorithm: Algorithm
    public_key: str
    stage: Stage = "pending"


class Hosts(msgspec.Struct, frozen=True):
    """The operator's servers, by name: where mail is taken (the first is preferred), from where it is sent,
    and what mail clients talk to. `imap` and `submission` are None where there is no TLS to offer them
    with.
    """

    mail: tuple[str, ...]
    sending: tuple[str, ...]
    web: str | None = None
    imap: tuple[str, str, int] | None = None
    submission: tuple[str, str, int] | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record to publish. `key` names it among the domain's records for as long as it is the same record;
    `name` is fully qualified, without a dot at its end; `about` is a sentence on what it is for.
    """

    key: str
    type: RecordType
    name: str
    value: str
    priority: int | None = None
    required: bool
    about: str


def wanted(domain: Claimed, keys: Sequence[Key], hosts: Hosts) -> tuple[Record, ...]:
    """Every record of a domain, the required ones first."""
    signs = any(key.stage == "active" for key in keys)
    records = [
        _token(domain),
        *(_mail_exchangers(domain.name, hosts, key="mx") if domain.inbound_enabled else ()),
        _spf(domain.name, hosts),
        *(_dkim(domain, key, signs=signs) for key in keys if key.stage != "retired"),
        _dmarc(domain.name),
        *(_of_subdomains(domain, hosts) if domain.subdomains_enabled else ()),
        *(_of_arriving_mail(domain.name, hosts) if domain.inbound_enabled else ()),
        *_of_mail_clients(domain.name, hosts),
    ]
    return tuple(sorted(records, key=lambda record: not record.required))


def hosts_of(settings: Settings) -> Hosts:
    """The operator's servers, as the settings name them."""
    public = _named(urlsplit(settings.base_url).hostname or "")
    known = (settings.imap_host, settings.smtp_host, public)
    fallback = next((host for host in known if host and _named(host)), f"mail.{settings.domain}")
    mail = _parted(settings.mail_host) or (fallback,)
    return Hosts(
        mail=mail,
        sending=_parted(settings.sending_host) or mail,
        web=public,
        imap=_service(
            settings.imap_host or fallback, settings.imap_port, settings.imap_tls, "imap"
        ),
        submission=_service(
            settings.smtp_host or fallback, settings.smtp_port, settings.smtp_tls, "submission"
        ),
    )


def _named(host: str) -> str | None:
    """A host, if it is a name: records can't lead to addresses."""
    try:
        ip_address(host)
    except ValueError:
        return host if "." in host else None
    return None


def _parted(text: str | None) -> tuple[str, ...]:
    return tuple(
        each.strip().lower().rstrip(".") for each in (text or "").split(",") if each.strip()
    )


def _service(host: str, port: int, tls: str, name: str) -> tuple[str, str, int] | None:
    """A service as RFC 6186 and RFC 8314 call it, with its host and port."""
    if tls == "none" or not _named(host):
        return None
    return (f"_{name}s" if tls == "implicit" else f"_{name}", host, port)


def _token(domain: Claimed) -> Record:
    return Record(
        key="token",
        type="TXT",
        name=f"_agentmail.{domain.name}",
        value=TOKEN + domain.token,
        required=True,
        about="Proves that the domain is yours. Leave it there: it is looked at again and again.",
    )


def _mail_exchangers(name: str, hosts: Hosts, *, key: str) -> Iterable[Record]:
    for place, host in enumerate(hosts.mail):
        yield Record(
            key=key if not place else f"{key}:{host}",
            type="MX",
            name=name,
            value=host,
            priority=PRIORITY * (place + 1),
            required=not place,
            about="Brings mail for the domain here. There must be no other MX record beside ours.",
        )


def spf_value(hosts: Hosts) -> str:
    """The SPF record of a domain that sends nothing but from here (RFC 7208)."""
    return f"v=spf1 {' '.join(f'a:{host}' for host in hosts.sending)} ~all"


def _spf(name: str, hosts: Hosts) -> Record:
    return Record(
        key="spf",
        type="TXT",
        name=name,
        value=spf_value(hosts),
        required=True,
        about="Says that our servers may send for the domain (SPF). A domain has one SPF record: where there"
        " is one already, add our hosts to it.",
    )


def _dkim(domain: Claimed, key: Key, *, signs: bool) -> Record:
    """`signs` says whether the domain has keys that do; a new one comes beside them, and can wait."""
    retiring = key.stage == "retiring"
    awaited = key.stage == "pending" and signs
    return Record(
        key=f"dkim:{key.selector}",
        type="TXT",
        name=f"{key.selector}._domainkey.{domain.name}",
        value=dkim_value(key),
        required=not (retiring or awaited),
        about="An earlier key: leave it until mail signed with it has arrived."
        if retiring
        else f"The public key that our {key.algorithm} signatures are verified with (DKIM).",
    )


def dkim_value(key: Key) -> str:
    """RFC 6376 section 3.6.1; RFC 8463 for ed25519."""
    return f"v=DKIM1; k={key.algorithm}; p={key.public_key}"


def _dmarc(name: str) -> Record:
    return Record(
        key="dmarc",
        type="TXT",
        name=f"_dmarc.{name}",
        value="v=DMARC1; p=reject",
        required=True,
        about="Tells receivers what to do with mail that only claims to be from the domain (DMARC). If others"
        " send from it too, begin with p=none: every valid policy counts.",
    )


def _of_subdomains(domain: Claimed, hosts: Hosts) -> Iterable[Record]:
    name = f"*.{domain.name}"
    if domain.inbound_enabled:
        yield from _mail_exchangers(name, hosts, key="wildcard_mx")
    yield Record(
        key="wildcard_spf",
        type="TXT",
        name=name,
        value=spf_value(hosts),
        required=False,
        about="Says that our servers may send for the sub-domains as well (SPF).",
    )


def _of_arriving_mail(name: str, hosts: Hosts) -> Iterable[Record]:
    if hosts.web is not None:
        yield from _policy(name, hosts, hosts.web)
    yield Record(
        key="tls_rpt",
        type="TXT",
        name=f"_smtp._tls.{name}",
        value=f"v=TLSRPTv1; rua=mailto:postmaster@{name}",
        required=False,
        about="Asks for reports of failed TLS connections; put in an address that you read.",
    )


def _policy(name: str, hosts: Hosts, web: str) -> Iterable[Record]:
    """MTA-STS (RFC 8461); `web/autoconfig.py` answers with the policy itself."""
    policy = hashlib.sha256(",".join(hosts.mail).encode()).hexdigest()[:16]
    yield Record(
        key="mta_sts",
        type="TXT",
        name=f"_mta-sts.{name}",
        value=f"v=STSv1; id={policy}",
        required=False,
        about="Announces that mail is taken over TLS only (MTA-STS); only together with the next record.",
    )
    yield Record(
        key="mta_sts_host",
        type="CNAME",
        name=f"mta-sts.{name}",
        value=web,
        required=False,
        about="Where that policy is read: this service answers it, with a certificate for this name.",
    )


def _of_mail_clients(name: str, hosts: Hosts) -> Iterable[Record]:
    for service in (hosts.imap, hosts.submission):
        if service is not None:
            yield _srv(name, service, "Lets mail clients find our server by themselves (RFC 6186).")
    if hosts.web is None:
        return
    yield Record(
        key="autoconfig",
        type="CNAME",
        name=f"autoconfig.{name}",
        value=hosts.web,
        required=False,
        about="Lets Thunderbird configure itself.",
    )
    yield _srv(name, ("_autodiscover", hosts.web, _HTTPS), "Lets Outlook configure itself.")


def _srv(name: str, service: tuple[str, str, int], about: str) -> Record:
    label, host, port = service
    return Record(
        key=f"srv:{label}",
        type="SRV",
        name=f"{label}._tcp.{name}",
        value=f"0 1 {port} {host}",
        required=False,
        about=about,
    )
