"""The DKIM keys of a domain on Stalwart 0.16: management objects behind the port's words.

A key of stage `active` signs; one that does not sign yet is `pending`. Private keys go in and never come
out again: Stalwart shows the public half only, by which a key is told to be the wanted one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization

from agentmail_cp.mailserver import DkimAlgorithm, DkimKey, MailServerRejected, Refusal
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer, reference

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentmail_cp.stalwart.jmap import JmapClient

VARIANTS: Final = {
    DkimAlgorithm.RSA: "Dkim1RsaSha256",
    DkimAlgorithm.ED25519: "Dkim1Ed25519Sha256",
}
ALGORITHMS: Final = {variant: algorithm for algorithm, variant in VARIANTS.items()}


class _Signature(msgspec.Struct, rename="camel"):
    id: str
    variant: str = msgspec.field(name="@type")
    selector: str = ""
    stage: str = ""
    public_key: str = ""

    def to_key(self) -> DkimKey:
        return DkimKey(
            selector=self.selector,
            algorithm=ALGORITHMS[self.variant],
            active=self.stage == "active",
        )


class Dkim:
    """The part of `StalwartMailServer` that manages DKIM keys."""

    _jmap: JmapClient

    async def _keys(self, domain_id: str) -> tuple[DkimKey, ...]:
        """The keys of a domain, by selector, that this port can name."""
        stored = await self._signatures(domain_id)
        return tuple(each.to_key() for each in stored if each.variant in ALGORITHMS)

    async def _check_keys(self, domain_id: str | None, keys: Iterable[DkimKey]) -> None:
        """Refuse what could not be put, before anything is changed."""
        stored = [] if domain_id is None else await self._signatures(domain_id)
        known = {each.selector for each in stored}
        for key in keys:
            if key.private_key is not None:
                _public_half(key)
            elif key.selector not in known:
                raise MailServerRejected(Refusal.NO_KEY, f"There is no key {key.selector}.")

    async def _bring_keys(self, domain_id: str, keys: Collection[DkimKey]) -> None:
        """Make these the keys of the domain. Others go last, so that mail is signed all the time."""
        for key in keys:
            await self._put_key(domain_id, key)
        wanted = {key.selector for key in keys}
        others = {each.selector for each in await self._signatures(domain_id)} - wanted
        await self._drop_keys(domain_id, others)

    async def _put_key(self, domain_id: str, key: DkimKey) -> None:
        stored = [e for e in await self._signatures(domain_id) if e.selector == key.selector]
        stage = "active" if key.active else "pending"
        if stored and _is_same(stored[0], key):
            if stored[0].stage != stage:
                await self._write_key({"update": {stored[0].id: {"stage": stage}}})
            return
        create = {
            "@type": VARIANTS[key.algorithm],
            "domainId": domain_id,
            "selector": key.selector,
            "privateKey": {"@type": "Text", "secret": key.private_key},
            "stage": stage,
        }
        gone = [each.id for each in stored]
        await self._write_key({"create": {"key": create}, "destroy": gone})

    async def _drop_keys(self, domain_id: str, selectors: Collection[str]) -> None:
        stored = await self._signatures(domain_id) if selectors else []
        gone = [each.id for each in stored if each.selector in selectors]
        if gone:
            await self._write_key({"destroy": gone})

    async def _signatures(self, domain_id: str) -> list[_Signature]:
        query = Call("x:DkimSignature/query", {"filter": {"domainId": domain_id}}, "query")
        ids = reference("query", "x:DkimSignature/query", "/ids")
        wanted = ["id", "@type", "selector", "stage", "publicKey"]
        get = Call("x:DkimSignature/get", {"#ids": ids, "properties": wanted}, "get")
        answers = await self._jmap.call(query, get, repeat=True)
        answers["query"].into(dict[str, Any])
        found = answers["get"].into(GetAnswer[_Signature]).found
        return sorted(found, key=lambda each: each.selector)

    async def _write_key(self, arguments: dict[str, Any]) -> None:
        answer = (await self._jmap.call(Call("x:DkimSignature/set", arguments, "set")))["set"]
        done = answer.into(SetAnswer)
        for refused in (done.not_created, done.not_updated):
            if refused:
                raise MailServerRejected(Refusal.FORBIDDEN, next(iter(refused.values())).sentence)


def _is_same(stored: _Signature, key: DkimKey) -> bool:
    if key.private_key is None:
        return True
    return "".join(_public_half(key).split()) == "".join(stored.public_key.split())


def _public_half(key: DkimKey) -> str:
    """PEM. Rejected: FORBIDDEN for what is no private key."""
    try:
        private = serialization.load_pem_private_key((key.private_key or "").encode(), None)
    except (ValueError, TypeError):
        raise MailServerRejected(
            Refusal.FORBIDDEN, f"{key.selector} is no PKCS #8 key in PEM."
        ) from None
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
