"""Domains of the sandbox, and to whom an address in one of them leads.

A domain is one of the server's own (`ensure_domain`, as the shared one) or installed for an owner. Of one
that was disabled only the accounts are left, without addresses, until its owner installs it again. The
sandbox signs nothing; of DKIM keys it only keeps what it was told, without private halves.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from agentmail_cp.mailserver import (
    DkimKey,
    InstalledDomain,
    MailDomainSetup,
    MailServerRejected,
    Refusal,
)
from agentmail_cp.sandbox.core import Core, answered
from agentmail_cp.sandbox.mailbox import Mailbox

_DOMAIN: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
DEEPEST: Final = 3
"""How many labels below another a domain may be to be signed for by it, as on Stalwart."""
_PEM: Final = "-----BEGIN PRIVATE KEY-----"


class Hosted(msgspec.Struct, kw_only=True):
    """A domain of the server. `keys` by selector."""

    name: str
    owner: str | None = None
    inbound: bool = True
    catch_all: str | None = None
    parent: str | None = None
    keys: dict[str, DkimKey] = {}

    def to_installed(self) -> InstalledDomain:
        return InstalledDomain(
            name=self.name,
            owner=self.owner,
            dkim=tuple(self.keys[selector] for selector in sorted(self.keys)),
            parent=self.parent,
            catch_all=self.catch_all,
            inbound=self.inbound,
        )


class Route(NamedTuple):
    """Where mail to an address goes. `caught` is that address when only the catch-all took it."""

    mailbox: Mailbox
    caught: str | None = None


class Domains(Core):
    """The half of `MailSandbox` that knows domains."""

    @property
    def hostname(self) -> str:
        own = (domain.name for domain in self._hosted.values() if not domain.owner)
        return min(own, default="sandbox.test")

    @answered
    async def ensure_domain(self, domain: str) -> None:
        name = _name(domain)
        self._hosted.setdefault(name, Hosted(name=name))

    @answered
    async def install_domain(self, domain: MailDomainSetup) -> None:
        name = _name(domain.name)
        known = self._hosted.get(name)
        if known is not None and known.owner != domain.owner:
            raise MailServerRejected(Refusal.DOMAIN_TAKEN, f"The server has {name} for others.")
        if domain.parent is not None:
            self._installed(domain.parent)
            _check_below(name, domain.parent.lower())
        catcher = self._catcher(domain.catch_all)
        keys = {} if known is None else known.keys
        kept = {key.selector: _kept(key, keys) for key in domain.dkim}
        if known is None:
            self._addresses |= self._disabled.pop((name, domain.owner), {})
        self._hosted[name] = Hosted(
            name=name,
            owner=domain.owner,
            inbound=domain.inbound,
            catch_all=catcher,
            parent=None if domain.parent is None else domain.parent.lower(),
            keys=kept,
        )

    @answered
    async def find_domain(self, name: str) -> InstalledDomain | None:
        hosted = self._hosted.get(name.lower())
        return None if hosted is None else hosted.to_installed()

    @answered
    async def disable_domain(self, name: str, owner: str) -> None:
        hosted = self._hosted.get(name.lower())
        if hosted is None or hosted.owner != owner:
            return
        del self._hosted[hosted.name]
        inside = [each for each in self._addresses if each.endswith(f"@{hosted.name}")]
        put_away = {each: self._addresses.pop(each) for each in inside}
        self._disabled.setdefault((hosted.name, owner), {}).update(put_away)

    @answered
    async def set_catch_all(self, name: str, address: str | None) -> None:
        hosted = self._installed(name)
        hosted.catch_all = self._catcher(address)

    @answered
    async def add_dkim_key(self, name: str, key: DkimKey) -> None:
        hosted = self._installed(name)
        hosted.keys[key.selector] = _kept(key, hosted.keys)

    @answered
    async def retire_dkim_key(self, name: str, selector: str) -> None:
        hosted = self._hosted.get(name.lower())
        if hosted is not None and hosted.owner is not None:
            hosted.keys.pop(selector, None)

    def _installed(self, name: str) -> Hosted:
        hosted = self._hosted.get(name.lower())
        if hosted is None or hosted.owner is None:
            raise MailServerRejected(Refusal.UNKNOWN_DOMAIN, f"{name} is not installed.")
        return hosted

    def _catcher(self, address: str | None) -> str | None:
        if address is None:
            return None
        mailbox = self._addresses.get(address.lower())
        if mailbox is None or mailbox.retired or not mailbox.ours:
            raise MailServerRejected(Refusal.NO_ACCOUNT, f"{address} is no account.")
        return mailbox.address

    def _domain_of(self, address: str) -> Hosted | None:
        return self._hosted.get(address.lower().rpartition("@")[2])

    def _is_local(self, address: str) -> bool:
        """Whether mail from here to this address stays here."""
        domain = self._domain_of(address)
        return domain is not None and (domain.inbound or self._route(address) is not None)

    def _route(self, address: str) -> Route | None:
        """The mailbox that gets mail to this address; `alice+tag` is alice's."""
        domain = self._domain_of(address)
        if domain is None:
            return None
        local = address.lower().rpartition("@")[0]
        for name in (local, local.partition("+")[0]):
            mailbox = self._addresses.get(f"{name}@{domain.name}")
            if mailbox is not None:
                return None if mailbox.retired else Route(mailbox)
        catcher = self._addresses.get(domain.catch_all or "")
        if catcher is None or catcher.retired:
            return None
        return Route(catcher, caught=address.lower())


def _name(domain: str) -> str:
    if not _DOMAIN.fullmatch(domain):
        raise MailServerRejected(Refusal.FORBIDDEN, f"{domain} is no domain name.")
    return domain.lower()


def _check_below(name: str, parent: str) -> None:
    below = name.removesuffix(f".{parent}")
    if below == name or below.count(".") >= DEEPEST:
        raise MailServerRejected(
            Refusal.FORBIDDEN, f"{name} is not 1 to {DEEPEST} labels below {parent}."
        )


def _kept(key: DkimKey, known: dict[str, DkimKey]) -> DkimKey:
    """The key as it is remembered."""
    if key.private_key is None and key.selector not in known:
        raise MailServerRejected(Refusal.NO_KEY, f"There is no key {key.selector}.")
    if key.private_key is not None and not key.private_key.startswith(_PEM):
        raise MailServerRejected(Refusal.FORBIDDEN, f"{key.selector} is no PKCS #8 key in PEM.")
    return msgspec.structs.replace(key, private_key=None)
