"""Settings: every knob of the service as one struct, read once from environment variables.

Each field is the variable `AGENTMAIL_CP_<FIELD>` in upper case; the prefix keeps the official SDK's and
CLI's own variables (`AGENTMAIL_API_KEY`, `AGENTMAIL_BASE_URL`) from being mistaken for ours. For any
field, `AGENTMAIL_CP_<FIELD>_FILE` names a file that holds the value, as container secrets do. A value
that does not fit raises `SettingsError`, which names the variable. Nothing else reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import psycopg
from msgspec import Meta
from psycopg.conninfo import conninfo_to_dict

from agentmail_cp import addresses
from agentmail_cp.errors import Invalid

PREFIX = "AGENTMAIL_CP_"

Network = IPv4Network | IPv6Network
DEFAULT_MESSAGE_SIZE = 26_214_400
"""Bytes: 25 MiB, what the large mail providers take."""

DEFAULT_IMAP_CONNECTIONS = 64
"""Connections."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1)]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000)]
"""0 is no limit."""
Url = Annotated[str, Meta(pattern=r"^https?://[^\s/?#]\S*$")]
Tls = Literal["implicit", "starttls", "none"]
Unauthenticated = Literal["none", "label", "drop"]

DNS_PORT = 53
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_EXAMPLES = {
    "stalwart_url": "use a URL like http://stalwart:8080",
    "stalwart_webhook_url": "use a URL like http://api:8000",
    "public_url": "use a URL like https://api.example.com",
    "key_prefix": "use letters and digits, then _, like inai_",
}
_NUMBERS = {"int": "a whole number", "float": "a number"}
_NO_DATABASE_URL = (
    f"{PREFIX}DATABASE_URL is no PostgreSQL URL; write it like postgresql://user:password@host:5432/name,"
    " and %, @ and / in a password as %25, %40 and %2F."
)


class SettingsError(Exception):
    """A setting is missing or wrong. The message names the variable and what it should be."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting with its default. Times are seconds, sizes are bytes."""

    database_url: Annotated[str, Meta(pattern="^postgres(ql)?://")]
    """PostgreSQL 15 to 18, as postgresql://user:password@host:port/database."""

    database_pool_size: Count = 10
    """Connections one process may hold."""

    stalwart_url: Url | None = None
    """Base URL of the Stalwart HTTP listener, for example http://stalwart:8080."""

    stalwart_key: str | None = None
    """API key of our service account in Stalwart (`API_…`), made by `agentmail-cp stalwart apply`."""

    stalwart_connections: Count = 16
    """HTTP connections one process may hold to Stalwart."""

    stalwart_connect_timeout: Seconds = 1.5
    """How long to wait for a connection before Stalwart counts as away."""

    stalwart_timeout: Seconds = 2.5
    """How long to wait for an answer before Stalwart counts as away: short, so that a caller is told to
    try again soon; what an unanswered send came to is found out either way."""

    stalwart_admin: str | None = None
    """`user:password` of a Stalwart administrator; only `agentmail-cp stalwart apply` uses it."""

    stalwart_certificate: str | None = None
    """The certificate mail clients and other servers are shown, PEM, those of its issuers behind it.
    `stalwart apply` installs it, and again once it is another; None leaves certificates to Stalwart."""

    stalwart_certificate_key: str | None = None
    """The certificate's private key, PEM."""

    stalwart_webhook_url: Url | None = None
    """Where Stalwart reaches this service, for example http://api:8000; None leaves the webhook off."""

    stalwart_webhook_secret: str | None = None
    """Key of the HMAC with which Stalwart signs its webhook."""

    stalwart_webhook_throttle: Seconds = 0.02
    """Shortest time between two batches of Stalwart's webhook."""

    host: str = "127.0.0.1"
    """Address the API listens on."""

    port: Port = 8000
    """Port the API listens on."""

    public_url: Url | None = None
    """Base URL under which clients reach the API; by default http://host:port."""

    download_secret: str | None = None
    """Signs download links; by default derived from `stalwart_key`. The same in every process."""

    domain: str = "agents.test"
    """The mail domain of inboxes that are created without one."""

    domain_shared: bool = True
    """Whether `domain` is shared by organisations: its addresses then get a random suffix."""

    mail_host: str | None = None
    """Where customers' domains get their mail: what their MX records name, one host or several parted by
    commas, the preferred first; by default `imap_host`, `smtp_host` or the host of `public_url`."""

    sending_host: str | None = None
    """Hosts that mail leaves from, by commas, which customers' SPF records name; by default `mail_host`."""

    dkim_secret: str | None = None
    """Encrypts DKIM keys until the mail server has them; by default derived from `stalwart_key`. The same in
    every process. Once it is another, keys that wait for their records are made anew."""

    dkim_retiring_days: Annotated[int, Meta(ge=1, le=90)] = 7
    """Days for which the record of a DKIM key is asked for after another took its place."""

    dns_servers: str = ""
    """Resolvers that domains are looked up with, as address or address:port, by commas; by default those of
    the system."""

    imap_host: str | None = None
    """Host name mail clients use for IMAP; by default the host of `public_url`."""

    imap_port: Port = 993
    imap_tls: Tls = "implicit"

    smtp_host: str | None = None
    """Host name mail clients use to submit mail; by default the host of `public_url`."""

    smtp_port: Port = 587
    smtp_tls: Tls = "starttls"

    imap_connections_per_inbox: Annotated[int, Meta(ge=1, le=10_000)] = DEFAULT_IMAP_CONNECTIONS
    """IMAP connections to one inbox at a time, for each Stalwart node; the next login is refused."""

    smtps_port: Port = 465
    """Port at `smtp_host` on which mail clients submit with TLS from the first byte (RFC 8314)."""

    mx_port: Port = 25
    """Port on which other servers hand in mail. It is 25 for all the world; `doctor` looks at it."""

    key_prefix: Annotated[str, Meta(pattern="^[A-Za-z0-9]+_$")] = "inai_"
    """What new API keys start with. Keys are recognised by their hash, whatever their prefix."""

    sweep_interval: Seconds = 60.0
    """Every inbox is compared with Stalwart at least this often, announced or not."""

    intake_batch: Annotated[int, Meta(ge=1, le=200)] = 50
    """Inboxes read in one request to Stalwart."""

    settle_interval: Annotated[float, Meta(gt=0, le=60)] = 15.0
    """How often interrupted sends and inbox creations are looked for."""

    submission_copy_delay: Seconds = 10.0
    """How long a mail client has to save its own copy of a mail it handed in over SMTP, before we do."""

    feedback_enabled: bool = False
    """Whether bounce and complaint mails about sent mail are messages as well as outcomes."""

    unauthenticated: Unauthenticated = "label"
    """What becomes of mail that is an explicit FAIL of SPF and DKIM, or DMARC: nothing, it is labelled and
    hidden, or it is erased. For one organisation: `agentmail-cp org unauthenticated set`."""

    deleted_inbox_retention_days: Annotated[int, Meta(ge=1)] | None = None
    """Days after which a deleted inbox's mail is erased; None keeps it until it is erased by hand."""

    event_retention_days: Annotated[int, Meta(ge=3)] = 30
    """Days for which events, and the log of their deliveries, are kept; longer than any delivery is tried."""

    max_message_size: Annotated[int, Meta(ge=1, le=500_000_000)] = DEFAULT_MESSAGE_SIZE
    """Largest message that can be sent: text, HTML and attachments together, before any encoding. The
    limits of requests and of Stalwart follow from it (`sizes.py`)."""

    large_requests: Count = 4
    """Requests over a megabyte that are handled at once in one process; others wait. Each may take
    3.5 times `max_message_size` of memory."""

    sends_per_day: Limit = 10_000
    """Recipients an organisation may send to in a UTC day. This and what follows to `requests_per_minute` can
    be set for one organisation: `agentmail-cp org limits set`."""

    inbox_sends_per_day: Limit = 0
    """Recipients an inbox may send to in a UTC day."""

    inbox_new_recipients_per_day: Limit = 0
    """Recipients an inbox may write to for the first time in a UTC day."""

    thread_sends_per_hour: Limit = 60
    """Mails an inbox may send into one thread in an hour of the clock."""

    loop_automatic_replies: Annotated[int, Meta(ge=0, le=50)] = 3
    """Mails of an inbox in one thread within an hour after which it answers no more automatic mail there."""

    loop_turns: Annotated[int, Meta(ge=0, le=50)] = 10
    """Messages back and forth in one thread, each within `loop_pace` of the last, that make a loop."""

    loop_pace: Annotated[int, Meta(ge=1, le=3600)] = 60
    """Seconds within which only machines keep answering each other."""

    pause_bounces_per_thousand: Annotated[int, Meta(ge=0, le=1000)] = 100
    """Of a thousand recipients, how many may bounce for good before an inbox is paused for sending."""

    pause_complaints_per_thousand: Annotated[int, Meta(ge=0, le=1000)] = 5
    """Of a thousand recipients, how many may complain before an inbox is paused for sending."""

    pause_days: Annotated[int, Meta(ge=1, le=30)] = 7
    """Days over which bounces and complaints are counted."""

    pause_least_recipients: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """Recipients an inbox has written to in these days before their share says anything."""

    pods_per_organization: Limit = 0
    """Pods an organisation may have, its default pod included."""

    inboxes_per_organization: Limit = 0
    """Inboxes an organisation may have."""

    inboxes_per_pod: Limit = 0
    """Inboxes a pod may have; a pod may have a lower limit of its own."""

    list_entries_per_organization: Limit = 100_000
    """Entries an organisation may have in all its allow and block lists."""

    webhooks_per_organization: Limit = 1000
    """Webhooks an organisation may have, those of its pods and inboxes included."""

    domains_per_organization: Limit = 1000
    """Domains an organisation may have, verified or not."""

    requests_per_minute: Limit = 1000
    """Requests one API key may make in a minute, over all processes together."""

    outbound_allow: str = ""
    """Networks beyond the internet that attachments may be fetched from by URL: CIDRs, parted by commas."""

    outbound_timeout: Seconds = 30.0
    """Longest time the attachments of one request may take to be fetched from their URLs and stored; those
    that come as base64 have two seconds a megabyte more."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    @property
    def outbound_networks(self) -> tuple[Network, ...]:
        """`outbound_allow`, read; raises `SettingsError`."""
        try:
            return networks(self.outbound_allow)
        except ValueError as error:
            raise SettingsError(
                f"{PREFIX}OUTBOUND_ALLOW does not fit: {error}; use CIDRs like 10.1.0.0/16."
            ) from None

    @property
    def name_servers(self) -> tuple[tuple[str, int], ...]:
        """`dns_servers` as addresses and ports, none for those of the system; raises `SettingsError`."""
        try:
            return tuple(
                _name_server(each) for each in re.split(r"[\s,]+", self.dns_servers) if each
            )
        except ValueError as error:
            raise SettingsError(
                f"{PREFIX}DNS_SERVERS does not fit: {error}; use addresses like 10.0.0.2 or [::1]:5353."
            ) from None

    @property
    def stalwart_patience(self) -> float:
        """Seconds one call to Stalwart may take altogether."""
        return self.stalwart_connect_timeout + self.stalwart_timeout

    @property
    def base_url(self) -> str:
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    def __repr__(self) -> str:
        shown = (name for name in self.__struct_fields__ if name not in SECRETS)
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


SECRETS = frozenset(
    {
        "database_url",
        "dkim_secret",
        "download_secret",
        "stalwart_key",
        "stalwart_admin",
        "stalwart_certificate_key",
        "stalwart_webhook_secret",
    },
)
"""Fields whose values never appear in a message or a log."""


def networks(text: str) -> tuple[Network, ...]:
    """CIDRs parted by commas or spaces. Raises ValueError naming the first that is none."""
    return tuple(ip_network(each) for each in re.split(r"[\s,]+", text) if each)


def _name_server(text: str) -> tuple[str, int]:
    """`address`, `address:port` or `[address]:port`. Raises ValueError."""
    with_port = re.fullmatch(r"(?:\[(.+)\]|([^:]+)):(\d{1,5})", text)
    if with_port is None:
        return str(ip_address(text)), DNS_PORT
    inside, plain, port = with_port.groups()
    return str(ip_address(inside or plain)), int(port)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; raises `SettingsError` naming the first variable that does not fit."""
    values = _collect(os.environ if environ is None else environ)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, values)) from None
    check_database_url(settings.database_url)
    _ = settings.outbound_networks
    _ = settings.name_servers
    _check_host("imap_host", settings.imap_host)
    _check_host("smtp_host", settings.smtp_host)
    return msgspec.structs.replace(
        settings,
        domain=_domain(settings.domain),
        mail_host=_names("mail_host", settings.mail_host),
        sending_host=_names("sending_host", settings.sending_host),
    )


def _domain(text: str) -> str:
    name = _name(text)
    if name is None:
        raise SettingsError(
            f"{PREFIX}DOMAIN is no domain name (now {text!r}); write it like example.com."
        )
    return name


def _name(text: str) -> str | None:
    """A domain name as Stalwart keeps it, in lower-case ASCII without a final dot; None for what is none."""
    try:
        name = addresses.check_domain(text.strip().removesuffix("."), "name")
    except Invalid:
        return None
    return None if _is_address(name) else name


def _names(field: str, text: str | None) -> str | None:
    """Hosts that stand in DNS records, which cannot lead to addresses."""
    if text is None:
        return None
    names = [_name(each) for each in text.split(",") if each.strip()]
    if not names or None in names:
        raise SettingsError(
            f"{PREFIX}{field.upper()} does not fit: use host names, not addresses, parted by commas, like"
            f" mx1.example.com (now {text!r})."
        )
    return ", ".join(each for each in names if each)


def _check_host(field: str, text: str | None) -> None:
    """What mail clients connect to may be an address, or a name of one's own network, as well."""
    if text is None or _is_address(text) or _name(text) or _LABEL.fullmatch(text):
        return
    raise SettingsError(
        f"{PREFIX}{field.upper()} does not fit: use a host like mail.example.com, without a port"
        f" (now {text!r})."
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def check_database_url(url: str) -> None:
    """Raise `SettingsError` for what PostgreSQL cannot read, or would read otherwise than it is meant: it
    complains of that with parts of the password.
    """
    try:
        read = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        raise SettingsError(_NO_DATABASE_URL) from None
    hosts, ports = (str(read.get(name) or "").split(",") for name in ("host", "port"))
    # An @ in a password ends it, and a / even the host; a host that begins with @ is a socket's name.
    torn = any("@" in host[1:] for host in hosts)
    cut = "user" not in read and "@" in str(read.get("dbname") or "")
    if torn or cut or not all(_is_port(port) for port in ports if port):
        raise SettingsError(_NO_DATABASE_URL)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65_535  # noqa: PLR2004


def _collect(environ: Mapping[str, str]) -> dict[str, Any]:
    known = set(Settings.__struct_fields__)
    values: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or value == "":
            continue
        field = name.removeprefix(PREFIX).lower()
        if field in known:
            values[field] = value
        elif field.endswith("_file") and field.removesuffix("_file") in known:
            values.setdefault(field.removesuffix("_file"), _read(name, value))
        else:
            raise SettingsError(
                f"{name} is not a setting; see the list in agentmail_cp/settings.py."
            )
    return values


def _read(name: str, path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{name} names {path}, which cannot be read: {reason}.") from None
    if not text:
        raise SettingsError(f"{name} names {path}, which is empty.")
    return text


def _explain(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    text = str(error)
    if "missing required field" in text:
        field = text.split("`")[1]
        return f"{PREFIX}{field.upper()} is not set. {_purpose(field)}".strip()
    reason, _, place = text.partition(" - at `$.")
    field = place.rstrip("`")
    if field == "database_url":
        return _NO_DATABASE_URL
    shown = "" if field in SECRETS else f" (now {values.get(field)!r})"
    return f"{PREFIX}{field.upper()} does not fit: {_allowed(field, reason)}{shown}."


def _allowed(field: str, reason: str) -> str:
    """What msgspec says of a value that does not fit, for people."""
    kind = get_type_hints(Settings)[field]
    if get_origin(kind) is Literal:
        return f"use one of {', '.join(get_args(kind))}"
    if kind is bool:
        return "use true or false"
    number = re.match(r"Expected `(int|float)[^`]*`( [<>]=? [^,]+)?", reason)
    if number is None:
        return _EXAMPLES.get(field, reason)
    return f"use {_NUMBERS[number[1]]}{(number[2] or '').removesuffix('.0')}"


def _purpose(field: str) -> str:
    return {
        "database_url": "Set it to a PostgreSQL URL, like postgresql://user:password@host:5432/name."
    }.get(field, "")
