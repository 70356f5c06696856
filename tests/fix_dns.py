"""DNS of the tests' own: an authoritative server on loopback that says what a test scripts, and one for
everybody else that knows no name.

`dns_server` is a `DnsServer`: name server of every zone it is given, and the resolver that the service and
its mail server ask (`AGENTMAIL_CP_DNS_SERVERS`). It may be made silent, broken or behind for single names.
`second_dns_server` has another loopback address and the same port, for zones with two name servers. UDP and
TCP; an answer that does not fit into a datagram is cut, as the real ones do it.
"""

from __future__ import annotations

import functools
import socket
import struct
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Final, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.TXT import TXT

HOST: Final = "127.0.0.1"
SECOND: Final = "127.0.0.2"
DATAGRAM: Final = 65_535
PLAIN: Final = 512
"""Bytes of an answer to a question without EDNS (RFC 1035)."""

Trouble = str
"""What goes wrong with a name: `silence`, or the name of a response code such as SERVFAIL."""


class DnsServer:
    """A server on a thread of its own; `with` starts and stops it.

    `publish` gives it a zone, text of a zone file, in the place of what it had of that name; `trouble` are
    names (with types, as `acme.test/TXT`) and what goes wrong with them; `asked` every question there was.
    """

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        self._udp, self._tcp = _sockets(host, port)
        self.endpoint: tuple[str, int] = self._udp.getsockname()
        self.trouble: dict[str, Trouble] = {}
        self.asked: list[str] = []
        self._closing = False
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._datagrams, self._streams)
        ]

    @property
    def setting(self) -> str:
        """Itself as the setting `dns_servers` has it."""
        host, port = self.endpoint
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would wake neither thread.
        self._closing = True
        self._udp.sendto(b"", self.endpoint)
        with suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def publish(self, name: str, text: str = "", *, servers: tuple[str, ...] = (HOST,)) -> None:
        """Have these records in the zone `name`, whose name servers are at these addresses."""
        origin = dns.name.from_text(name)
        base = f"$ORIGIN {name}.\n$TTL 60\n@ IN SOA ns1 root 1 1 1 1 1\n"
        for place, address in enumerate(servers, start=1):
            base += f"@ IN NS ns{place}\nns{place} IN A {address}\n"
        self._zones[origin] = dns.zone.from_text(base + text, origin, relativize=False)

    def forget(self, name: str) -> None:
        """Have no such zone any more."""
        self._zones.pop(dns.name.from_text(name), None)

    def text(self, name: str) -> bytes:
        """The TXT record at a name, as verifiers of signatures want it; nothing where there is none."""
        full = dns.name.from_text(name)
        zone = self._zone_of(full)
        found = zone.get_rdataset(full, dns.rdatatype.TXT) if zone is not None else None
        texts = [
            b"".join(cast("TXT", each).strings) for each in cast("Iterable[object]", found or ())
        ]
        return b"".join(texts)

    def _datagrams(self) -> None:
        with suppress(OSError):
            while not self._closing:
                wire, sender = self._udp.recvfrom(DATAGRAM)
                answer = self._answer(wire, most=None)
                if answer is not None:
                    self._udp.sendto(answer, sender)

    def _streams(self) -> None:
        with suppress(OSError):
            while not self._closing:
                connection, _ = self._tcp.accept()
                with connection, suppress(OSError, struct.error):
                    connection.settimeout(2)
                    (length,) = struct.unpack("!H", _exactly(connection, 2))
                    answer = self._answer(_exactly(connection, length), most=DATAGRAM)
                    if answer is not None:
                        connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, wire: bytes, most: int | None) -> bytes | None:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        question = query.question[0]
        named = f"{question.name.to_text(omit_final_dot=True).lower()}"
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{named}/{kind}")
        trouble = self.trouble.get(f"{named}/{kind}", self.trouble.get(named))
        if trouble == "silence":
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if trouble is not None:
            response.set_rcode(dns.rcode.from_text(trouble))
        else:
            self._fill(response, question.name, question.rdtype)
        return _fitting(response, most or (query.payload if query.edns >= 0 else PLAIN))

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        """Answer as RFC 1034 section 4.3.2 has it: aliases are followed within our zones, and a wildcard
        answers for names that do not exist.
        """
        zone = self._zone_of(name)
        if zone is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        node: dns.node.Node | None = zone.get_node(name) or _wildcard(zone, name)
        if node is None:
            if not any(each.is_subdomain(name) for each in zone.nodes):
                response.set_rcode(dns.rcode.NXDOMAIN)
            return
        if _put(response, name, node, kind) is None:
            seen = any(rrset.name == name for rrset in response.answer)
            alias = _put(response, name, node, dns.rdatatype.CNAME)
            if alias is not None and not seen:
                self._fill(response, cast("CNAME", alias).target, kind)

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        above = [origin for origin in self._zones if name.is_subdomain(origin)]
        return self._zones[max(above, key=len)] if above else None


def _sockets(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port."""
    for _ in range(20):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, port))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            tcp.listen()
            return udp, tcp
    raise OSError("no port is free for UDP and TCP")


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length and (chunk := connection.recv(length - len(found))):
        found += chunk
    return found


def _put(
    response: dns.message.Message,
    name: dns.name.Name,
    node: dns.node.Node,
    kind: dns.rdatatype.RdataType,
) -> dns.rdata.Rdata | None:
    """Answer with the records a node has of a type; the first of them."""
    found = node.get_rdataset(dns.rdataclass.IN, kind)
    if found is None:
        return None
    records = list(cast("Iterable[dns.rdata.Rdata]", found))
    response.answer.append(dns.rrset.from_rdata_list(name, found.ttl, records))
    return records[0]


def _wildcard(zone: dns.zone.Zone, name: dns.name.Name) -> dns.node.Node | None:
    """What `*` has for a name that does not exist (RFC 4592)."""
    closest = name
    while closest != zone.origin:
        closest = closest.parent()
        if any(each.is_subdomain(closest) for each in zone.nodes):
            return zone.get_node(dns.name.from_text("*", closest))
    return None


def _fitting(response: dns.message.Message, most: int) -> bytes:
    try:
        return response.to_wire(max_size=most)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=most)


@functools.cache
def nobody() -> str:
    """The setting `dns_servers` of a server that knows no name: who asks it waits for nothing."""
    server = DnsServer()
    server.__enter__()
    return server.setting


@pytest.fixture
def dns_server() -> Generator[DnsServer]:
    """A name server without a zone."""
    with DnsServer() as server:
        yield server


@pytest.fixture
def second_dns_server(dns_server: DnsServer) -> Generator[DnsServer]:
    """Another one, at `SECOND`, on the same port."""
    with DnsServer(SECOND, dns_server.endpoint[1]) as server:
        yield server
