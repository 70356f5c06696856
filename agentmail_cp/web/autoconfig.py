"""What mail clients and mail servers ask for by themselves, without a key: how to reach the mail server.

The answers follow from the settings and the question alone, so nobody learns which addresses or domains
exist here. Thunderbird asks by GET at either of two paths, Outlook by POST; who looks up an MTA-STS policy
(RFC 8461) asks at a host below the domain it is about.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get, post

from agentmail_cp.credentials import presets
from agentmail_cp.domains import records
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.web.auth import OPEN
from agentmail_cp.web.credentials import servers
from agentmail_cp.web.inject import Asked, Config

XML: Final = "application/xml"

POLICY_AGE: Final = 604_800
"""Seconds for which senders may rely on an MTA-STS policy: a week."""


@get(
    ["/.well-known/autoconfig/mail/config-v1.1.xml", "/mail/config-v1.1.xml"],
    opt=OPEN,
    include_in_schema=False,
    media_type=XML,
)
async def autoconfig(request: Request[Any, Any, Any], asked: Asked, settings: Config) -> str:
    """Mozilla's autoconfig, for the domain of `emailaddress`, or of the host that was asked."""
    address = asked.text("emailaddress")
    domain = presets.domain_of(address) if address else settings.domain
    if domain is None:
        raise Invalid("emailaddress", "This is no email address.", fix="Use one like a@b.example.")
    return presets.autoconfig(servers(request, settings), domain)


@post(
    ["/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"],
    opt=OPEN,
    include_in_schema=False,
    status_code=200,
    request_max_body_size=presets.LARGEST_QUESTION,
)
async def autodiscover(request: Request[Any, Any, Any], settings: Config) -> Response[str]:
    """Outlook's autodiscover, for the address in the question."""
    try:
        address = presets.asked_address(await request.body())
    except presets.BadQuestion as error:
        raise Invalid("body", f"This is no autodiscover request. {error}") from None
    answer = presets.autodiscover(servers(request, settings), address)
    return Response(answer, media_type=XML)


@get("/.well-known/mta-sts.txt", opt=OPEN, include_in_schema=False, media_type="text/plain")
async def mta_sts(settings: Config) -> str:
    """The MTA-STS policy of the domains whose mail comes here: over TLS, and to our servers."""
    exchangers = records.hosts_of(settings).mail
    if not exchangers:
        raise NotFound("This server names no mail exchangers.")
    lines = ["version: STSv1", "mode: enforce", *(f"mx: {each}" for each in exchangers)]
    return "\r\n".join([*lines, f"max_age: {POLICY_AGE}", ""])


ROUTES = (autoconfig, autodiscover, mta_sts)
