"""Where a URL leads, and whether an address may be reached. Pure.

URLs are read as few ways as possible: what clients understand differently (numbers as hosts, userinfo,
backslashes) is refused instead of interpreted. Addresses are judged by a table of our own, from the
IANA special-purpose registries (RFC 6890), because `ipaddress.is_global` changes between Python
releases and knows nothing of clouds. IPv6 is the other way round: only global unicast (2000::/3) is
good, without its exceptions, and an IPv4 address inside is judged as one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final
from urllib.parse import quote, urlsplit

import idna
import msgspec

from agentmail_cp.outbound.errors import OutboundError, Reason

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MAX_URL: Final = 8192
"""Characters; signed URLs of object stores have some thousand."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
FIRST_FREE_PORT: Final = 1024
LAST_PORT: Final = 65535

_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
# The WHATWG URL standard, "ends in a number": inet_aton would read such a host as an address.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

_CLOSED_V4: Final = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # this host (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier NAT (RFC 6598), Alibaba's metadata among it
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server, on a public address
        "169.254.0.0/16",  # link-local (RFC 3927), the clouds' metadata among it
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments, Oracle's metadata among it
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast among it
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_CLOSED_V6: Final = tuple(
    IPv6Network(each)
    for each in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, given up (RFC 7526)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052; how a host with IPv6 alone reaches the rest of the world. The local-use prefix 64:ff9b:1::/48
(RFC 8215) leads into the operator's own network and is not global."""


class Target(msgspec.Struct, frozen=True):
    """One place to send a request to. `host` is lower case, ASCII, without brackets or final dot;
    `path` is what stands in the request line, query included.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The `Host` header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The address the URL itself names, None for a name."""
        return _literal(self.host)


def target_of(url: str) -> Target:
    """Where a URL leads. Raises `OutboundError` INVALID_URL."""
    if len(url) > MAX_URL or _UNFIT.search(url):
        raise _invalid("It is too long, or holds spaces, control characters or backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("It is not a URL.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid("Only http and https are fetched.")
    if "@" in parts.netloc:
        raise _invalid("It holds a user name.")
    path = quote(parts.path or "/", safe=string.punctuation)
    query = f"?{quote(parts.query, safe=string.punctuation)}" if parts.query else ""
    return Target(
        parts.scheme, _host(parts.hostname or ""), _port(parts.scheme, port), path + query
    )


def permitted(address: str, allowed: Sequence[Network]) -> bool:
    """Whether a tenant's URL may lead to this address; `allowed` is what the operator opened."""
    found = _literal(address)
    return found is not None and _is_open(found, allowed)


def _is_open(address: Address, allowed: Sequence[Network]) -> bool:
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address in _MAPPED or address in _NAT64:
        return _is_open(IPv4Address(int(address) & 0xFFFF_FFFF), allowed)
    return address in _GLOBAL_V6 and not any(address in network for network in _CLOSED_V6)


def _host(text: str) -> str:
    host = text.lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            raise _invalid("Its host is not a name.") from None
    host = host.removesuffix(".")
    address = _literal(host)
    if address is not None:
        return str(address)
    if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host):
        raise _invalid("Its host is not a name.")
    return host


def _literal(host: str) -> Address | None:
    try:
        # A zone ("fe80::1%eth0") would choose one of our network interfaces.
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _port(scheme: str, port: int | None) -> int:
    """Low ports belong to other protocols, which a request could be made to speak."""
    if port is None:
        return DEFAULT_PORTS[scheme]
    if port not in DEFAULT_PORTS.values() and not FIRST_FREE_PORT <= port <= LAST_PORT:
        raise _invalid("Its port is neither 80, 443 nor above 1023.")
    return port


def _invalid(text: str) -> OutboundError:
    return OutboundError(Reason.INVALID_URL, text)
