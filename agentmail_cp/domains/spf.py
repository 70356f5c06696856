"""SPF records: whether one lets our hosts send, and what it should become if not (RFC 7208). Pure.

A record is read as a receiver reads it: mechanisms from left to right until one matches, with at most ten
of those that cost a look-up. Macros are read as matching nothing: what they expand to differs with each
mail. Our hosts are known by name and, where DNS knows them, by address, so that `mx`, `a`, `ip4`, `ip6` and
`include` count as well as the mechanism we ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Literal

import msgspec

from agentmail_cp.domains.answers import Known, Question, Unanswered

MOST_LOOKUPS: Final = 10
LONGEST: Final = 4096
"""Characters of a record that are read; it is to fit into 512 bytes (RFC 7208 section 3.4)."""
DEEPEST: Final = 10
"""Includes within includes; each costs a look-up anyway."""

_TERM = re.compile(
    r"(?P<qualifier>[+?~-]?)(?P<name>all|include|a|mx|ptr|ip4|ip6|exists)"
    r"(?::(?P<value>[^/\s]+|[0-9A-Fa-f:.]+))?(?P<prefix>(?:/\d{1,3})?(?://\d{1,3})?)",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    r"(?P<qualifier>[+?~-]?)(?P<name>ip4|ip6):(?P<value>[0-9A-Fa-f:.]+(?:/\d{1,3})?)", re.IGNORECASE
)
_MODIFIER = re.compile(r"(?P<name>[A-Za-z][\w.-]*)=(?P<value>\S*)")
_COSTLY: Final = {"include", "a", "mx", "ptr", "exists"}

Outcome = Literal["pass", "fail", "softfail", "neutral"]
_OUTCOMES: Final[dict[str, Outcome]] = {
    "": "pass",
    "+": "pass",
    "-": "fail",
    "~": "softfail",
    "?": "neutral",
}


class Broken(Exception):
    """A record that receivers can't use (permerror). The message says why, as a sentence."""


class Host(msgspec.Struct, frozen=True):
    """A host that sends: its name, and its addresses as far as DNS knows them."""

    name: str
    addresses: tuple[str, ...] = ()


class Term(msgspec.Struct, frozen=True):
    """A mechanism, or the modifier `redirect`. `value` None means the domain itself."""

    text: str
    qualifier: str
    name: str
    value: str | None


def is_spf(value: str) -> bool:
    """Whether a TXT record is the domain's SPF record (RFC 7208 section 4.5)."""
    return value.lower() == "v=spf1" or value.lower().startswith("v=spf1 ")


def terms(record: str) -> list[Term]:
    """A record's mechanisms, and `redirect` where there is one. Raises `Broken`."""
    if len(record) > LONGEST:
        raise Broken("The SPF record is too long for receivers.")
    return [term for each in record.split()[1:] if (term := _term(each)) is not None]


def _term(text: str) -> Term | None:
    modifier = _MODIFIER.fullmatch(text)
    if modifier is not None:
        if modifier["name"].lower() != "redirect":
            return None
        return Term(text, "", "redirect", modifier["value"].lower().rstrip("."))
    found = _NETWORK.fullmatch(text) or _TERM.fullmatch(text)
    if found is None:
        raise Broken(f'"{text[:60]}" in the SPF record is nothing that SPF knows.')
    name, value = found["name"].lower(), found["value"]
    if name in {"include", "exists", "ip4", "ip6"} and not value:
        raise Broken(f'"{text[:60]}" in the SPF record names nothing.')
    if name in {"ip4", "ip6"}:
        _check_network(text, name, value)
    return Term(text, found["qualifier"], name, value.lower().rstrip(".") if value else None)


def _check_network(text: str, name: str, value: str) -> None:
    try:
        fits = ip_network(value, strict=False).version == int(name[-1])
    except ValueError:
        fits = False
    if not fits:
        raise Broken(f'"{text[:60]}" in the SPF record is no network.')


def lets_in(record: str, domain: str, host: Host, known: Known) -> bool:
    """Whether mail of `domain` passes SPF when it comes from this host, whichever of its addresses it uses.

    Raises `Broken`, and as `Known` does.
    """
    addresses: Sequence[str | None] = host.addresses or [None]
    return all(
        _Evaluation(host.name, address, known).check(record, domain) == "pass"
        for address in addresses
    )


class _Evaluation:
    """One look at a record and all it leads to, for one address of a host (None: known by name only)."""

    def __init__(self, host: str, address: str | None, known: Known) -> None:
        self._host = host
        self._address = None if address is None else ip_address(address)
        self._known = known
        self._lookups = 0

    def check(self, record: str, domain: str, depth: int = 0) -> Outcome:
        if depth > DEEPEST:
            raise Broken("The SPF record leads back to itself.")
        redirect: str | None = None
        for term in terms(record):
            if term.name == "redirect":
                redirect = term.value
            elif self._matches(term, domain, depth):
                return _OUTCOMES[term.qualifier]
        if not redirect:
            return "neutral"
        self._count()
        return self.check(self._record_of(redirect), redirect, depth + 1)

    def _count(self) -> None:
        self._lookups += 1
        if self._lookups > MOST_LOOKUPS:
            raise Broken(
                f"The SPF record needs more than {MOST_LOOKUPS} look-ups, after which receivers give it up."
            )

    def _matches(self, term: Term, domain: str, depth: int) -> bool:
        if term.name in _COSTLY:
            self._count()
        if "%" in (term.value or ""):
            return False
        target = term.value or domain
        match term.name:
            case "ip4" | "ip6":
                found = self._is_within(target)
            case "a":
                found = self._is_at([target], term)
            case "mx":
                values = self._known.one(target, "MX").values
                found = self._is_at([value.split()[-1] for value in values], term)
            case "include":
                found = self.check(self._record_of(target), target, depth + 1) == "pass"
            case _:
                found = term.name == "all"
        return found

    def _is_within(self, network: str) -> bool:
        return self._address is not None and self._address in ip_network(network, strict=False)

    def _record_of(self, name: str) -> str:
        found = [value for value in self._known.one(name, "TXT").values if is_spf(value)]
        if len(found) != 1:
            what = "no SPF record" if not found else "more than one SPF record"
            raise Broken(f"The SPF record leads to {name}, which has {what}.")
        return found[0]

    def _is_at(self, names: Iterable[str], term: Term) -> bool:
        """Whether the host is one of these; RFC 7208 section 5.3 and 5.4."""
        names = list(names)[:MOST_LOOKUPS]
        if self._host in names:
            return True
        if self._address is None:
            return False
        kind: Literal["A", "AAAA"] = "A" if self._address.version == 4 else "AAAA"  # noqa: PLR2004
        self._known.require(*(Question(name, kind) for name in names))
        length = _prefix(term.text, self._address)
        found = [value for name in names for value in self._known.one(name, kind).values]
        return any(self._address in ip_network(f"{each}/{length}", strict=False) for each in found)


def _prefix(text: str, address: IPv4Address | IPv6Address) -> int:
    """The length of the prefix that `a` and `mx` compare (`a/24//64`)."""
    found = re.search(r"//(\d+)$" if address.version == 6 else r"(?<!/)/(\d+)(?://\d+)?$", text)  # noqa: PLR2004
    return min(int(found[1]), address.max_prefixlen) if found else address.max_prefixlen


def cost(record: str, known: Known, depth: int = 0) -> int:
    """How many look-ups a record costs a receiver at most, counted until they are too many. Raises
    `Broken`, and as `Known` does.
    """
    total = 0
    for term in terms(record):
        if total > MOST_LOOKUPS:
            break
        total += term.name in _COSTLY or term.name == "redirect"
        if term.name not in {"include", "redirect"} or "%" in (term.value or ""):
            continue
        if depth >= DEEPEST:
            raise Broken("The SPF record leads back to itself.")
        inner = [each for each in known.one(term.value or "", "TXT").values if is_spf(each)]
        total += cost(inner[0], known, depth + 1) if inner else 0
    return total


def merged(records: Sequence[str], hosts: Sequence[Host], known: Known) -> str:
    """One record that lets in whom these let in, and our hosts: what to publish in their place.

    Our hosts stand in it by name, or by address where another look-up would be one too many.
    """
    ours = [f"a:{host.name}" for host in hosts]
    mechanisms = [each for record in records for each in _kept(record) if each not in ours]
    candidate = _joined(ours, mechanisms, records)
    try:
        too_costly = cost(candidate, known) > MOST_LOOKUPS
    except (Broken, Unanswered):
        too_costly = False
    addresses = [address for host in hosts for address in host.addresses]
    if too_costly and addresses:
        ours = [f"ip{ip_address(each).version}:{each}" for each in addresses]
        return _joined(ours, mechanisms, records)
    return candidate


def _joined(ours: Sequence[str], mechanisms: Sequence[str], records: Sequence[str]) -> str:
    redirects = [each for each in mechanisms if each.lower().startswith("redirect=")]
    rest = [each for each in mechanisms if each not in redirects]
    # After `all`, `redirect` counts for nothing (RFC 7208 section 6.1).
    end = redirects[:1] or [_strictest(records)]
    return " ".join(["v=spf1", *dict.fromkeys([*ours, *rest]), *end])


def _kept(record: str) -> list[str]:
    """What of a record goes into the merged one: no `all`, and nothing that is no SPF."""
    return [
        word
        for word in record.split()[1:]
        if _is_term(word) and not re.fullmatch(r"[+?~-]?all", word, re.IGNORECASE)
    ]


def _is_term(word: str) -> bool:
    try:
        _term(word)
    except Broken:
        return False
    return True


def _strictest(records: Sequence[str]) -> str:
    """How the merged record ends: as the strictest did, but never stricter than ours for a record without."""
    ends = [word for record in records for word in record.lower().split() if word.endswith("all")]
    return next((end for end in ("-all", "~all", "?all") if end in ends), "~all")
