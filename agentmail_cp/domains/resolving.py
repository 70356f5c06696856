"""Asking DNS: a domain's own name servers for what is the domain's, a resolver for everything else.

The name servers are asked directly, each of them, so that a record counts as soon as it is there and no
cache stands between. Where they are is the choice of whoever owns the domain, so only addresses that
strangers may name are asked (`outbound.permitted`), and those the operator named as resolvers, at the ports
named there. Where none of them can be asked, the resolver is. An answer of "no such record" is an answer;
one of "I can't say" (SERVFAIL, REFUSED, silence) is a `problem`. UDP first, TCP for what does not fit;
nothing is kept between two checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final, cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import msgspec
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TXT import TXT

from agentmail_cp.domains.answers import Answer, Question, QuestionType
from agentmail_cp.outbound import Network, permitted
from agentmail_cp.settings import DNS_PORT

Endpoint = tuple[str, int]
"""An address and its port."""

TIMEOUT: Final = 1.5
"""Seconds one server has for one try."""
TRIES: Final = 2
MOST_SERVERS: Final = 8
"""Name servers of one domain that are asked; few have more than four."""
LONGEST_CHAIN: Final = 8
"""Aliases in a row that are followed within one answer."""
AT_ONCE: Final = 64
"""Questions under way in one process."""
PAYLOAD: Final = 1232
"""Bytes of an answer by UDP that no network cuts up (DNS flag day 2020)."""


class NoAnswer(Exception):
    """A server can't or won't say. The message says why, without naming it."""


class NameServer(msgspec.Struct, frozen=True):
    """A name server of a domain, where it is asked, and why it can't be if that is nowhere."""

    name: str
    endpoint: Endpoint | None
    problem: str | None = None


class Zone(msgspec.Struct, frozen=True):
    """Whom to ask for names of a domain; without servers, the resolver."""

    domain: str
    servers: tuple[NameServer, ...] = ()

    def holds(self, question: Question) -> bool:
        """Whether the question is about a name of the domain."""
        return question.name == self.domain or question.name.endswith(f".{self.domain}")


class Resolver:
    """Asks DNS. `resolvers` are recursive servers, none for those of the system; `allowed` are networks
    that name servers may be in beyond the internet.
    """

    def __init__(self, resolvers: Sequence[Endpoint] = (), allowed: Sequence[Network] = ()) -> None:
        self._resolvers = tuple(resolvers) or _of_the_system()
        self._named = dict(resolvers)
        self._allowed = allowed
        self._room = asyncio.Semaphore(AT_ONCE)

    async def zone_of(self, domain: str) -> Zone:
        """The servers of the zone a domain is in: its own, or that of a domain above it."""
        labels = domain.split(".")
        for start in range(len(labels) - 1):
            found = await self.resolve(Question(".".join(labels[start:]), "NS"))
            if found.values and found.alias is None:
                names = sorted(found.values)[:MOST_SERVERS]
                servers = await asyncio.gather(*(self._located(name) for name in names))
                return Zone(domain, tuple(servers))
        return Zone(domain)

    async def ask(
        self,
        zone: Zone,
        questions: Iterable[Question],
        answers: MutableMapping[Question, Sequence[Answer]],
    ) -> None:
        """Ask all at once, and put each answer down as soon as it is there."""

        async def put(question: Question) -> None:
            answers[question] = await self._answers(zone, question)

        async with asyncio.TaskGroup() as group:
            for question in questions:
                group.create_task(put(question))

    async def resolve(self, question: Question) -> Answer:
        """What the resolver says."""
        problem = ""
        for endpoint in self._resolvers:
            try:
                response = await self._query(question, endpoint, recursive=True)
            except NoAnswer as error:
                problem = f"The resolver {error}."
            else:
                values, alias = _read(response, question)
                return Answer(server="resolver", values=values, alias=alias)
        return Answer(server="resolver", problem=problem)

    async def _located(self, name: str) -> NameServer:
        """Where a name server is asked."""
        found = [await self.resolve(Question(name, kind)) for kind in ("A", "AAAA")]
        addresses = [address for answer in found for address in answer.values]
        for address in addresses:
            if address in self._named:
                return NameServer(name, (address, self._named[address]))
            if permitted(address, self._allowed):
                return NameServer(name, (address, DNS_PORT))
        why = "has an address that is not on the internet" if addresses else "has no address"
        return NameServer(name, None, f"{name} {why}.")

    async def _answers(self, zone: Zone, question: Question) -> Sequence[Answer]:
        if not zone.holds(question):
            return (await self.resolve(question),)
        answers = await asyncio.gather(*(self._of(server, question) for server in zone.servers))
        if any(answer.problem is None for answer in answers):
            return answers
        fallback = await self.resolve(question)
        return (*answers, fallback)

    async def _of(self, server: NameServer, question: Question) -> Answer:
        if server.endpoint is None:
            return Answer(server=server.name, problem=server.problem)
        try:
            response = await self._query(question, server.endpoint, recursive=False)
        except NoAnswer as error:
            return Answer(server=server.name, problem=f"{server.name} {error}.")
        values, alias = _read(response, question)
        if values or not (alias or _is_referral(response)):
            return Answer(server=server.name, values=values, alias=alias)
        elsewhere = await self.resolve(Question(alias, question.type) if alias else question)
        return msgspec.structs.replace(
            elsewhere, server=server.name, alias=elsewhere.alias or alias
        )

    async def _query(
        self, question: Question, endpoint: Endpoint, *, recursive: bool
    ) -> dns.message.Message:
        """One server's response. Raises `NoAnswer`."""
        try:
            query = _query(question, recursive=recursive)
        except (dns.exception.DNSException, ValueError):
            raise NoAnswer("was not asked, as that is no name") from None
        for left in reversed(range(TRIES)):
            try:
                async with self._room:
                    response, _ = await dns.asyncquery.udp_with_fallback(
                        query, endpoint[0], TIMEOUT, endpoint[1], ignore_unexpected=True
                    )
            except dns.exception.Timeout:
                if not left:
                    raise NoAnswer("does not answer") from None
            except (OSError, EOFError, dns.exception.DNSException) as error:
                raise NoAnswer(f"can't be asked ({type(error).__name__})") from None
            else:
                return _sound(response, recursive=recursive)
        raise NoAnswer("does not answer")


def _of_the_system() -> tuple[Endpoint, ...]:
    try:
        found = dns.resolver.Resolver().nameservers
    except dns.resolver.NoResolverConfiguration:
        return ()
    return tuple((str(each), DNS_PORT) for each in found)


def _query(question: Question, *, recursive: bool) -> dns.message.QueryMessage:
    query = dns.message.make_query(question.name, question.type, use_edns=0, payload=PAYLOAD)
    if not recursive:
        query.flags &= ~dns.flags.RD
    return query


def _sound(response: dns.message.Message, *, recursive: bool) -> dns.message.Message:
    """A response that says something. Raises `NoAnswer`."""
    rcode = response.rcode()
    if rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise NoAnswer(f"answers {dns.rcode.to_text(rcode)}")
    if not recursive and not response.flags & dns.flags.AA and not _is_referral(response):
        raise NoAnswer("does not know the domain")
    return response


def _is_referral(response: dns.message.Message) -> bool:
    """Whether the name is in another zone below, of which only the servers are known."""
    return (
        not response.flags & dns.flags.AA
        and not response.answer
        and any(rrset.rdtype == dns.rdatatype.NS for rrset in response.authority)
    )


def _read(response: dns.message.Message, question: Question) -> tuple[tuple[str, ...], str | None]:
    """The values a response has for a question, and the name its name is an alias of."""
    name, alias = dns.name.from_text(question.name), None
    wanted = dns.rdatatype.from_text(question.type)
    for _ in range(LONGEST_CHAIN):
        found = response.get_rrset(response.answer, name, dns.rdataclass.IN, wanted)
        if found is not None:
            return tuple(
                sorted(_value(each, question.type) for each in cast("Iterable[object]", found))
            ), alias
        cname = response.get_rrset(response.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if cname is None:
            break
        name = cast("CNAME", cname[0]).target
        alias = _text(name)
    return (), alias


def _value(rdata: object, kind: QuestionType) -> str:
    if kind == "TXT":
        # PostgreSQL keeps no NUL in text.
        return (
            b"".join(cast("TXT", rdata).strings).decode("utf-8", "replace").replace("\0", "\ufffd")
        )
    if kind == "MX":
        exchange = cast("MX", rdata)
        return f"{exchange.preference} {_text(exchange.exchange)}"
    return str(rdata).lower().rstrip(".")


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
