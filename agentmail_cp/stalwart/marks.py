"""Marks: what is set for one mailbox, told to Stalwart's expressions by addresses only they ask for. Pure.

An expression of Stalwart 0.16 can ask whether an address is one of the server's, and nothing else about an
account; a change of an account's aliases it sees at once. So a paused account has the alias `paused~<name>`,
the catch-all account of a domain `catch-all~` in that domain, and one that is both `paused~catch-all~`
(`stalwart-config/domains.toml`). `~` stands in no username. Mail to these addresses is refused, but for
`catch-all~`, which goes where mail for nobody goes anyhow.

Aliases must be enabled: of one that is not, Stalwart keeps for minutes that there is no such address.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from agentmail_cp.stalwart.wanted import CATCH_ALL, PAUSED_PREFIX


class Alias(msgspec.Struct, rename="camel"):
    """A further address of an account."""

    name: str
    domain_id: str
    enabled: bool = True
    description: str | None = None


class Marked(msgspec.Struct, rename="camel"):
    """An account with its names."""

    id: str
    name: str
    domain_id: str
    email_address: str = ""
    aliases: dict[str, Alias] = {}

    @property
    def marks(self) -> frozenset[Mark]:
        return frozenset(map(_mark, filter(_is_mark, self.aliases.values())))


class Mark(NamedTuple):
    """A name in a domain."""

    name: str
    domain_id: str


def is_paused(account: Marked) -> bool:
    return Mark(PAUSED_PREFIX + account.name, account.domain_id) in account.marks


def caught(account: Marked) -> frozenset[str]:
    """Ids of the domains whose catch-all the account is."""
    return frozenset(mark.domain_id for mark in account.marks if mark.name == CATCH_ALL)


def wanted(account: Marked, *, paused: bool, catches: frozenset[str]) -> frozenset[Mark]:
    """The marks of an account that is paused, and that is the catch-all of these domains."""
    catching = {Mark(CATCH_ALL, domain_id) for domain_id in catches}
    if not paused:
        return frozenset(catching)
    names = {Mark(account.name, account.domain_id), *catching}
    return frozenset(catching | {Mark(PAUSED_PREFIX + name, where) for name, where in names})


def aliases(account: Marked, marks: frozenset[Mark]) -> dict[str, Any]:
    """The account's list of aliases with these marks and no others: as a whole, because what stands behind
    one that is removed moves up.
    """
    kept = [alias for alias in account.aliases.values() if not _is_mark(alias)]
    marking = [Alias(name, domain_id) for name, domain_id in sorted(marks)]
    return {str(at): msgspec.to_builtins(alias) for at, alias in enumerate([*kept, *marking])}


def _is_mark(alias: Alias) -> bool:
    return alias.name == CATCH_ALL or alias.name.startswith(PAUSED_PREFIX)


def _mark(alias: Alias) -> Mark:
    return Mark(alias.name, alias.domain_id)
