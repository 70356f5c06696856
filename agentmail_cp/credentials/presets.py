"""PURE: how mail clients are set up: a table to read for each, and the files they ask for by themselves.

Thunderbird reads config-v1.1.xml (Mozilla's autoconfig format), Outlook autodiscover (MS-OXDSCLI, the POX
protocol), Apple Mail a profile. None of them tells whether an address exists: the answer follows from the
settings and from what was asked, and never from an inbox.
"""

from __future__ import annotations

import plistlib
import re
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5
from xml.parsers import expat
from xml.sax.saxutils import escape

import msgspec

from agentmail_cp.settings import Settings, Tls

LARGEST_QUESTION = 65_536
"""Bytes of an autodiscover request; Outlook's has some 300."""

_ADDRESS = re.compile(r"[^@\s\x00-\x1f<>]{1,64}@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+)")

SECURITY: dict[Tls, str] = {"implicit": "SSL/TLS", "starttls": "STARTTLS", "none": "None"}
_SOCKETS: dict[Tls, str] = {"implicit": "SSL", "starttls": "STARTTLS", "none": "plain"}
_ENCRYPTION: dict[Tls, str] = {"implicit": "SSL", "starttls": "TLS", "none": "None"}


class Endpoint(msgspec.Struct, frozen=True):
    """Where a mail client connects. `tls` is `implicit`, `starttls` or `none`."""

    host: str
    port: int
    tls: Tls


class Servers(msgspec.Struct, frozen=True):
    """Where mail clients read (`imap`) and submit mail: `smtp` as the settings say, `smtps` with TLS from
    the first byte (RFC 8314), which needs no command of its own before it is safe.
    """

    imap: Endpoint
    smtp: Endpoint
    smtps: Endpoint


class Preset(msgspec.Struct, frozen=True):
    """What to type into a mail client, in its own words."""

    client: Literal["thunderbird", "apple_mail", "generic"]
    account_type: str
    incoming: Endpoint
    incoming_security: str
    outgoing: Endpoint
    outgoing_security: str
    username: str
    authentication: str
    steps: tuple[str, ...]


class BadQuestion(Exception):
    """What a mail client asked cannot be read. The message says why."""


def servers(settings: Settings, host: str) -> Servers:
    """The settings' servers; `host` stands for those they do not name."""
    submitting = settings.smtp_host or host
    return Servers(
        imap=Endpoint(settings.imap_host or host, settings.imap_port, settings.imap_tls),
        smtp=Endpoint(submitting, settings.smtp_port, settings.smtp_tls),
        smtps=Endpoint(submitting, settings.smtps_port, "implicit"),
    )


def presets(found: Servers, address: str) -> tuple[Preset, ...]:
    """How to set up an address in the usual clients (seed 004)."""
    incoming, outgoing = _shown(found.imap), _shown(found.smtps)
    return (
        _preset(
            "thunderbird",
            found,
            address,
            "Choose Account Settings, Account Actions, Add Mail Account, Configure manually.",
            f"Incoming server: IMAP, {incoming}. Outgoing server: {outgoing}.",
            "Authentication method of both: Normal password.",
        ),
        _preset(
            "apple_mail",
            found,
            address,
            "Open Mail, Add Account, Other Mail Account.",
            "Enter the address and the mail password; choose IMAP.",
            f"Incoming mail server: {incoming}. Outgoing mail server: {outgoing}. Use SSL for both.",
        ),
        _preset(
            "generic",
            found,
            address,
            f"Read mail by IMAP at {incoming}.",
            f"Send mail by SMTP at {outgoing}, or at {_shown(found.smtp)}.",
            "The user name is the whole address, at both.",
        ),
    )


def _preset(
    client: Literal["thunderbird", "apple_mail", "generic"],
    found: Servers,
    address: str,
    *steps: str,
) -> Preset:
    return Preset(
        client=client,
        account_type="IMAP",
        incoming=found.imap,
        incoming_security=SECURITY[found.imap.tls],
        outgoing=found.smtps,
        outgoing_security=SECURITY[found.smtps.tls],
        username=address,
        authentication="Normal password",
        steps=steps,
    )


def _shown(endpoint: Endpoint) -> str:
    return f"{endpoint.host}:{endpoint.port} ({SECURITY[endpoint.tls]})"


def autoconfig(found: Servers, domain: str) -> str:
    """Mozilla's config-v1.1.xml for a mail domain."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1">
  <emailProvider id="{escape(domain)}">
    <domain>{escape(domain)}</domain>
    <displayName>{escape(domain)}</displayName>
    <displayShortName>{escape(domain)}</displayShortName>
    <incomingServer type="imap">
{_mozilla(found.imap)}
    </incomingServer>
    <outgoingServer type="smtp">
{_mozilla(found.smtps)}
    </outgoingServer>
    <outgoingServer type="smtp">
{_mozilla(found.smtp)}
    </outgoingServer>
  </emailProvider>
</clientConfig>
"""


def _mozilla(endpoint: Endpoint) -> str:
    return f"""      <hostname>{escape(endpoint.host)}</hostname>
      <port>{endpoint.port}</port>
      <socketType>{_SOCKETS[endpoint.tls]}</socketType>
      <username>%EMAILADDRESS%</username>
      <authentication>password-cleartext</authentication>"""


_POX = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
_OUTLOOK = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"


def autodiscover(found: Servers, address: str) -> str:
    """Outlook's answer for an address, which is only said back."""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<Autodiscover xmlns="{_POX}">
  <Response xmlns="{_OUTLOOK}">
    <Account>
      <AccountType>email</AccountType>
      <Action>settings</Action>
{_outlook("IMAP", found.imap, address)}
{_outlook("SMTP", found.smtps, address)}
    </Account>
  </Response>
</Autodiscover>
"""


def _outlook(kind: str, endpoint: Endpoint, address: str) -> str:
    return f"""      <Protocol>
        <Type>{kind}</Type>
        <Server>{escape(endpoint.host)}</Server>
        <Port>{endpoint.port}</Port>
        <LoginName>{escape(address)}</LoginName>
        <DomainRequired>off</DomainRequired>
        <SPA>off</SPA>
        <SSL>{"on" if endpoint.tls == "implicit" else "off"}</SSL>
        <Encryption>{_ENCRYPTION[endpoint.tls]}</Encryption>
        <AuthRequired>on</AuthRequired>
      </Protocol>"""


def asked_address(question: bytes) -> str:
    """The address an autodiscover request is about. A document with a DOCTYPE is refused before anything in
    it is read: there is none in Outlook's, and entities can be made to grow without end. Raises
    `BadQuestion`.
    """
    if len(question) > LARGEST_QUESTION:
        raise BadQuestion("It is larger than any mail client's.")
    found: list[str] = []
    inside: list[str] = []
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadQuestion("It has a DOCTYPE.")

    def text(data: str) -> None:
        if inside and inside[-1].rpartition(":")[2] == "EMailAddress":
            found.append(data)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda name, _attributes: inside.append(name)
    parser.EndElementHandler = lambda _name: inside.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(question, True)  # noqa: FBT003 - expat takes no names
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadQuestion("It is no XML.") from error
    address = "".join(found).strip()
    if not _ADDRESS.fullmatch(address):
        raise BadQuestion("It names no email address.")
    return address


def domain_of(address: str | None) -> str | None:
    """The domain of what looks like an address, in lower case; None for anything else."""
    found = _ADDRESS.fullmatch(address or "")
    return found[1].lower() if found else None


def profile(found: Servers, address: str, name: str | None) -> bytes:
    """A configuration profile for Apple's Mail (RFC-less; Apple: com.apple.mail.managed), without a password:
    who installs it is asked for that.
    """
    identity = uuid5(NAMESPACE_URL, f"mailto:{address}")
    account: dict[str, Any] = {
        "PayloadType": "com.apple.mail.managed",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"agentmail.{identity}.mail",
        "PayloadUUID": str(uuid5(identity, "mail")),
        "PayloadDisplayName": address,
        "EmailAccountType": "EmailTypeIMAP",
        "EmailAccountName": name or address,
        "EmailAccountDescription": address,
        "EmailAddress": address,
        "IncomingMailServerAuthentication": "EmailAuthPassword",
        "IncomingMailServerHostName": found.imap.host,
        "IncomingMailServerPortNumber": found.imap.port,
        "IncomingMailServerUseSSL": found.imap.tls != "none",
        "IncomingMailServerUsername": address,
        "OutgoingMailServerAuthentication": "EmailAuthPassword",
        "OutgoingMailServerHostName": found.smtps.host,
        "OutgoingMailServerPortNumber": found.smtps.port,
        "OutgoingMailServerUseSSL": True,
        "OutgoingMailServerUsername": address,
        "OutgoingPasswordSameAsIncomingPassword": True,
    }
    return plistlib.dumps(
        {
            "PayloadType": "Configuration",
            "PayloadVersion": 1,
            "PayloadIdentifier": f"agentmail.{identity}",
            "PayloadUUID": str(identity),
            "PayloadDisplayName": f"Mail of {address}",
            "PayloadContent": [account],
        }
    )
