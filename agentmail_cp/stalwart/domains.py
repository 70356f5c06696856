"""Customers' domains on Stalwart 0.16: made, changed, put away and brought back.

A domain of ours names its owner in its description. It is in one of two states: installed under its own
name, or put away under a name that only we know of: Stalwart does not look at `isEnabled` (0.16.18), but a
domain that was renamed is unknown at once, and its accounts with it. What expressions must know of a domain
stands in its aliases (`stalwart-config/domains.toml`, docs/adr/domains-on-stalwart.md). Never touches a
domain that is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentmail_cp.mailserver import (
    InstalledDomain,
    MailServerConfused,
    MailServerRejected,
    Refusal,
)
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer, reference
from agentmail_cp.stalwart.dkim import Dkim
from agentmail_cp.stalwart.receiving import Receiving
from agentmail_cp.stalwart.wanted import BELOW, DEEPEST, OWN_DOMAIN, PARKED, SEND_ONLY

if TYPE_CHECKING:
    from agentmail_cp.mailserver import DkimKey, MailDomainSetup
    from agentmail_cp.stalwart.calls import SetError

OURS: Final = "agentmail-cp: "
"""Starts the description of a domain of ours, before its owner."""


class Stored(msgspec.Struct, rename="camel"):
    """A domain as Stalwart has it."""

    id: str
    name: str
    description: str | None = None
    aliases: dict[str, bool] = {}
    catch_all_address: str | None = None

    @property
    def owner(self) -> str | None:
        """For whom it is, None when it is not of our making."""
        description = self.description or ""
        return description.removeprefix(OURS) if description.startswith(OURS) else None

    @property
    def inbound(self) -> bool:
        return _flag(self.name, SEND_ONLY) not in self.aliases

    @property
    def parent(self) -> str | None:
        """The domain whose keys sign for it."""
        for depth in range(1, DEEPEST + 1):
            if _flag(self.name, f"{BELOW}-{depth}") in self.aliases:
                return self.name.split(".", depth)[depth]
        return None


class Domains(Dkim, Receiving):
    """The part of `StalwartMailServer` that manages customers' domains."""

    async def install_domain(self, domain: MailDomainSetup) -> None:
        name = domain.name.lower()
        stored = await self._stored_domain(name)
        if stored is not None and stored.owner != domain.owner:
            raise MailServerRejected(Refusal.DOMAIN_TAKEN, f"The server has {name} for others.")
        if domain.parent is not None:
            await self._installed(domain.parent)
        if domain.catch_all is not None:
            await self._catcher(domain.catch_all)
        known = stored or await self._stored_domain(_parked(name, domain.owner))
        await self._check_keys(None if known is None else known.id, domain.dkim)
        domain_id = await self._bring(known, domain)
        await self._bring_keys(domain_id, domain.dkim)
        await self.set_catch_all(name, domain.catch_all)

    async def find_domain(self, name: str) -> InstalledDomain | None:
        stored = await self._stored_domain(name.lower())
        if stored is None:
            return None
        return InstalledDomain(
            name=stored.name,
            owner=stored.owner,
            dkim=await self._keys(stored.id),
            parent=stored.parent,
            catch_all=stored.catch_all_address,
            inbound=stored.inbound,
        )

    async def disable_domain(self, name: str, owner: str) -> None:
        stored = await self._stored_domain(name.lower())
        if stored is None or stored.owner != owner:
            return
        await self.set_catch_all(stored.name, None)
        away: dict[str, Any] = {
            "name": _parked(stored.name, owner),
            "aliases": {},
            "catchAllAddress": None,
        }
        await self._write_domain({"update": {stored.id: away}})

    async def set_catch_all(self, name: str, address: str | None) -> None:
        stored = await self._installed(name)
        if address is None:
            if stored.catch_all_address is not None:
                await self._uncatch(stored.catch_all_address, stored.id)
        else:
            await self._catch(await self._catcher(address), stored.id)
        wanted = None if address is None else address.lower()
        if wanted != stored.catch_all_address:
            await self._write_domain({"update": {stored.id: {"catchAllAddress": wanted}}})

    async def add_dkim_key(self, name: str, key: DkimKey) -> None:
        stored = await self._installed(name)
        await self._check_keys(stored.id, (key,))
        await self._put_key(stored.id, key)

    async def retire_dkim_key(self, name: str, selector: str) -> None:
        stored = await self._stored_domain(name.lower())
        if stored is not None and stored.owner is not None:
            await self._drop_keys(stored.id, {selector})

    async def _bring(self, known: Stored | None, domain: MailDomainSetup) -> str:
        """Make the domain object as wanted, or change it; its id."""
        wanted = {
            "name": domain.name.lower(),
            "description": OURS + domain.owner,
            "aliases": dict.fromkeys(_flags(domain), True),
            # What is addressed to no account of a domain that only sends is for its MX.
            "allowRelaying": not domain.inbound,
        }
        if known is not None:
            await self._write_domain({"update": {known.id: wanted}})
            return known.id
        create = {**wanted, "dkimManagement": {"@type": "Manual"}}
        made = (await self._write_domain({"create": {"domain": create}})).made("domain")
        if made is None:
            raise MailServerConfused("x:Domain/set neither made the domain nor refused to.")
        return made

    async def _installed(self, name: str) -> Stored:
        stored = await self._stored_domain(name.lower())
        if stored is None or stored.owner is None:
            raise MailServerRejected(Refusal.UNKNOWN_DOMAIN, f"{name} is not installed.")
        return stored

    async def _stored_domain(self, name: str) -> Stored | None:
        query = Call("x:Domain/query", {"filter": {"name": name}}, "query")
        ids = reference("query", "x:Domain/query", "/ids")
        wanted = ["id", "name", "description", "aliases", "catchAllAddress"]
        get = Call("x:Domain/get", {"#ids": ids, "properties": wanted}, "get")
        answers = await self._jmap.call(query, get, repeat=True)
        answers["query"].into(dict[str, Any])
        found = answers["get"].into(GetAnswer[Stored]).found
        return next((each for each in found if each.name == name), None)

    async def _write_domain(self, arguments: dict[str, Any]) -> SetAnswer:
        answer = (await self._jmap.call(Call("x:Domain/set", arguments, "set")))["set"]
        done = answer.into(SetAnswer)
        for refused in (done.not_created, done.not_updated):
            if refused:
                raise _refused(next(iter(refused.values())))
        return done


def _flags(domain: MailDomainSetup) -> list[str]:
    """The aliases that tell expressions about a domain."""
    name = domain.name.lower()
    flags = [] if domain.inbound else [_flag(name, SEND_ONLY)]
    if domain.parent is not None:
        below = name.removesuffix(f".{domain.parent.lower()}")
        depth = 1 + below.count(".")
        if below == name or depth > DEEPEST:
            raise MailServerRejected(
                Refusal.FORBIDDEN, f"{name} is not 1 to {DEEPEST} labels below {domain.parent}."
            )
        flags.append(_flag(name, f"{BELOW}-{depth}"))
    return flags


def _flag(name: str, what: str) -> str:
    return f"{name}.{what}.{OWN_DOMAIN}"


def _parked(name: str, owner: str) -> str:
    return f"{name}.{owner.lower()}.{PARKED}.{OWN_DOMAIN}"


def _refused(error: SetError) -> MailServerRejected:
    if error.type == "primaryKeyViolation":
        return MailServerRejected(Refusal.DOMAIN_TAKEN, "The server has this domain for others.")
    return MailServerRejected(Refusal.FORBIDDEN, error.sentence)
