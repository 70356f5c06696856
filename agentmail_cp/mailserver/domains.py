"""Domains of customers on the mail server, as they cross the port.

A domain that was never installed is neither local nor routable: the server refuses mail for it from
outside, and mail to it from here leaves for its MX like any other. What a domain needs in DNS, and who
may have it, others decide.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class DkimAlgorithm(StrEnum):
    """How a DKIM key signs: `rsa` is rsa-sha256 (RFC 6376), `ed25519` is ed25519-sha256 (RFC 8463)."""

    RSA = "rsa"
    ED25519 = "ed25519"


class DkimKey(msgspec.Struct, frozen=True, kw_only=True):
    """A DKIM key. `private_key` is PEM (PKCS #8), None for a key the server has already. All mail is
    signed with every active key; one that is not active signs nothing yet.
    """

    selector: str
    algorithm: DkimAlgorithm
    private_key: str | None = msgspec.field(default=None)
    active: bool = True

    def __repr__(self) -> str:
        """Without the private key: keys end up in tracebacks."""
        stage = "active" if self.active else "pending"
        return f"DkimKey({self.selector!r}, {self.algorithm.value!r}, {stage})"


class MailDomainSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How the server should treat a domain.

    `owner` says for whom, in letters, digits and `-`: what `disable_domain` put away comes back for the
    same one only. `dkim`: all the keys it has; others of this domain are removed. `parent`: for a
    sub-domain without keys of its own, the domain whose keys sign for it (DMARC's relaxed alignment,
    RFC 7489 section 3.1).
    `catch_all`: the address of the account that gets what is addressed to nobody. `inbound` False: it
    only sends; mail from outside is refused, and mail from here to an address that is no account leaves
    for the domain's MX.
    """

    name: str
    owner: str
    dkim: tuple[DkimKey, ...] = ()
    parent: str | None = None
    catch_all: str | None = None
    inbound: bool = True


class InstalledDomain(msgspec.Struct, frozen=True, kw_only=True):
    """A domain as the server has it; its keys without their private halves. `owner` is None for a domain
    that `install_domain` did not make.
    """

    name: str
    owner: str | None = None
    dkim: tuple[DkimKey, ...] = ()
    parent: str | None = None
    catch_all: str | None = None
    inbound: bool = True
