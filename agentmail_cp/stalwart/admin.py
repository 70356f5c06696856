"""Domains and accounts on the server: Stalwart's management objects behind the port's words.

Owns the life of an account there: made → retired → destroyed; `logins.py` has its passwords. A retired
account has the name `retired~<old name>` and keeps its old address as a disabled alias, so that nobody can
get it; the server's RCPT rewrite (stalwart-config/smtp.toml) answers 550 for an address with such a twin.
It never decides who may have an address, and never sees a password, only hashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from agentmail_cp.mailserver import (
    Account,
    AccountId,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
)
from agentmail_cp.stalwart import setup
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer, SetError, reference
from agentmail_cp.stalwart.marks import Alias
from agentmail_cp.stalwart.recent import Recent
from agentmail_cp.stalwart.wanted import PAUSED_PREFIX

if TYPE_CHECKING:
    from agentmail_cp.mailserver import NewAccount, ServerStatus
    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.jmap import JmapClient

NEVER_USED: Final = MailState("n")
"""State of a mailbox nothing has happened in (Stalwart 0.16, `jmap-proto/src/types/state.rs`)."""

KNOWN_DOMAINS: Final = 1024


class _Named(msgspec.Struct, rename="camel"):
    id: str
    name: str = ""
    description: str | None = None
    is_enabled: bool = True


class _Roles(msgspec.Struct, rename="camel"):
    role_ids: dict[str, bool] = {}


class _StoredAccount(msgspec.Struct, rename="camel"):
    id: str
    roles: _Roles = msgspec.field(default_factory=_Roles)
    name: str = ""
    domain_id: str = ""
    email_address: str = ""
    aliases: dict[str, Alias] = {}

    @property
    def is_paused(self) -> bool:
        return any(alias.name.startswith(PAUSED_PREFIX) for alias in self.aliases.values())


class _Links(NamedTuple):
    """The ids a new account refers to."""

    domain_id: str
    role_id: str


class _State(msgspec.Struct):
    state: MailState


class Directory:
    """Ids of domains and of the mailbox role, remembered; a wrong one is forgotten by its user."""

    def __init__(self, jmap: JmapClient) -> None:
        self._jmap = jmap
        self._domains: Recent[str, str] = Recent(KNOWN_DOMAINS)
        self._role: str | None = None

    async def domain(self, name: str) -> str | None:
        """The id of a domain, None when the server has none of this name."""
        if (known := self._domains.get(name)) is not None:
            return known
        found = await self.find("x:Domain", {"name": name}, "name")
        for domain in found:
            if domain.name == name:
                self._domains.put(name, domain.id)
                return domain.id
        return None

    async def role(self) -> str:
        """The id of the mailbox role. Confused when the server was not set up."""
        if self._role is None:
            roles = await self.find("x:Role", {}, "description")
            found = (role.id for role in roles if role.description == setup.MAILBOX_ROLE)
            self._role = next(found, None)
        if self._role is None:
            raise MailServerConfused(
                f"The mail server has no role {setup.MAILBOX_ROLE!r}. "
                "Run `agentmail-cp stalwart apply`."
            )
        return self._role

    def forget(self, domain: str) -> None:
        """Look everything up again that an account of this domain needs."""
        self._domains.forget(domain)
        self._role = None

    async def find(self, kind: str, filters: dict[str, Any], *properties: str) -> list[_Named]:
        query = Call(f"{kind}/query", {"filter": filters}, "query")
        ids = reference("query", f"{kind}/query", "/ids")
        get = Call(f"{kind}/get", {"#ids": ids, "properties": ["id", *properties]}, "get")
        answers = await self._jmap.call(query, get, repeat=True)
        answers["query"].into(dict[str, Any])
        return answers["get"].into(GetAnswer[_Named]).found


class Accounts:
    """The half of `StalwartMailServer` that manages domains and accounts."""

    _jmap: JmapClient
    _directory: Directory

    async def status(self) -> ServerStatus:
        try:
            return await setup.status(self._jmap)
        except setup.SetupError as error:
            raise MailServerConfused(str(error)) from error

    async def ensure_domain(self, domain: str) -> None:
        name = domain.lower()
        found = [
            d
            for d in await self._directory.find("x:Domain", {"name": name}, "name", "isEnabled")
            if d.name == name
        ]
        if not found:
            await self._create_domain(name)
        elif not found[0].is_enabled:
            await self._update("x:Domain", found[0].id, {"isEnabled": True})

    async def create_account(self, new: NewAccount) -> Account:
        local, domain = _split(new.address)
        links = await self._links(domain)
        answer, named = await self._create_account(local, links, new)
        if named != domain or _is_stale(answer):
            self._directory.forget(domain)
            if (fresh := await self._links(domain)) != links:
                await self._undo(answer)
                answer, _ = await self._create_account(local, fresh, new)
        made = answer.into(SetAnswer)
        account_id = made.made("account")
        if account_id is None:
            raise _account_error((made.not_created or {}).get("account"), new.address)
        return Account(AccountId(account_id), f"{local}@{domain}", NEVER_USED)

    async def find_account(self, address: str) -> Account | None:
        local, domain = _split(address)
        domain_id = await self._directory.domain(domain)
        if domain_id is None:
            return None
        found, fresh = await self._accounts_named(local, domain_id, domain)
        if not fresh:
            self._directory.forget(domain)
            return await self.find_account(address)
        for account in found:
            if account.email_address == f"{local}@{domain}":
                state = await self._mail_state(account.id)
                ours = await self._directory.role() in account.roles.role_ids
                return Account(
                    AccountId(account.id), account.email_address, state, ours, account.is_paused
                )
        return None

    async def retire_account(self, account_id: AccountId) -> None:
        account = await self._stored(account_id, "name", "domainId")
        if account.name.startswith(setup.RETIRED_PREFIX):
            return
        alias = {"name": account.name, "domainId": account.domain_id, "enabled": False}
        await self._update(
            "x:Account",
            account_id,
            {
                "name": f"{setup.RETIRED_PREFIX}{account.name}",
                "aliases": {"0": {**alias, "description": "retired"}},
                "credentials": {},
                "permissions": {
                    "@type": "Merge",
                    "enabledPermissions": {},
                    "disabledPermissions": {"authenticate": True},
                },
            },
        )

    async def destroy_account(self, account_id: AccountId) -> None:
        answers = await self._jmap.call(Call("x:Account/set", {"destroy": [account_id]}, "set"))
        refused = (answers["set"].into(SetAnswer).not_destroyed or {}).get(account_id)
        if refused is not None and refused.type != "notFound":
            raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)

    async def _create_domain(self, name: str) -> None:
        create = {"domain": {"name": name}}
        answers = await self._jmap.call(Call("x:Domain/set", {"create": create}, "set"))
        refused = (answers["set"].into(SetAnswer).not_created or {}).get("domain")
        # A violated key means that another replica was faster.
        if refused is not None and refused.type != "primaryKeyViolation":
            raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)

    async def _links(self, domain: str) -> _Links:
        domain_id = await self._directory.domain(domain)
        if domain_id is None:
            raise MailServerRejected(Refusal.UNKNOWN_DOMAIN, f"There is no domain {domain}.")
        return _Links(domain_id, await self._directory.role())

    async def _create_account(
        self, local: str, links: _Links, new: NewAccount
    ) -> tuple[Answer, str | None]:
        """The answer, and the name the domain has: a remembered id is another's by now when its domain was
        disabled, and the name installed for another owner.
        """
        password = new.password_hash
        create = {
            "@type": "User",
            "name": local,
            "domainId": links.domain_id,
            "description": new.display_name,
            "roles": {"@type": "Custom", "roleIds": {links.role_id: True}},
            "credentials": {} if password is None else {"0": _password(password)},
        }
        check = {"ids": [links.domain_id], "properties": ["id", "name"]}
        answers = await self._jmap.call(
            Call("x:Domain/get", check, "check"),
            Call("x:Account/set", {"create": {"account": create}}, "set"),
        )
        found = answers["check"].into(GetAnswer[_Named]).found
        return answers["set"], found[0].name if found else None

    async def _undo(self, answer: Answer) -> None:
        """Destroy what was made under a wrong domain."""
        made = None if answer.error is not None else answer.into(SetAnswer).made("account")
        if made is not None:
            await self.destroy_account(AccountId(made))

    async def _accounts_named(
        self, local: str, domain_id: str, domain: str
    ) -> tuple[list[_StoredAccount], bool]:
        """Accounts of this name, and whether the domain id still is the domain's."""
        filters = {"name": local, "domainId": domain_id}
        query = Call("x:Account/query", {"filter": filters}, "query")
        ids = reference("query", "x:Account/query", "/ids")
        get = Call(
            "x:Account/get",
            {"#ids": ids, "properties": ["id", "emailAddress", "roles", "aliases"]},
            "get",
        )
        check = Call("x:Domain/get", {"ids": [domain_id], "properties": ["id", "name"]}, "check")
        answers = await self._jmap.call(query, get, check, repeat=True)
        domains = answers["check"].into(GetAnswer[_Named]).found
        accounts = answers["get"].into(GetAnswer[_StoredAccount]).found
        return accounts, any(found.name == domain for found in domains)

    async def _mail_state(self, account_id: str) -> MailState:
        call = Call("Email/get", {"accountId": account_id, "ids": []}, "get")
        return (await self._jmap.call(call, repeat=True))["get"].into(_State).state

    async def _stored(self, account_id: AccountId, *properties: str) -> _StoredAccount:
        wanted = {"ids": [account_id], "properties": ["id", *properties]}
        answers = await self._jmap.call(Call("x:Account/get", wanted, "get"), repeat=True)
        found = answers["get"].into(GetAnswer[_StoredAccount]).found
        if not found:
            raise MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")
        return found[0]

    async def _update(self, kind: str, object_id: str, patch: dict[str, Any]) -> None:
        call = Call(f"{kind}/set", {"update": {object_id: patch}}, "set")
        refused = ((await self._jmap.call(call))["set"].into(SetAnswer).not_updated or {}).get(
            object_id
        )
        if refused is None:
            return
        code = Refusal.NO_ACCOUNT if refused.type == "notFound" else Refusal.FORBIDDEN
        raise MailServerRejected(code, refused.sentence)


def _split(address: str) -> tuple[str, str]:
    local, _, domain = address.lower().rpartition("@")
    return local, domain


def _password(password_hash: str) -> dict[str, str]:
    return {"@type": "Password", "secret": password_hash}


def _is_stale(answer: Answer) -> bool:
    """Whether a remembered id may be wrong. Stalwart names a wrong domain, but answers a wrong role
    with `serverUnavailable`, so the caller compares ids before it believes in either.
    """
    if (error := answer.error) is not None:
        return isinstance(error, MailServerUnavailable)
    refused = (answer.into(SetAnswer).not_created or {}).get("account")
    return refused is not None and refused.type == "invalidForeignKey"


def _account_error(refused: SetError | None, address: str) -> Exception:
    if refused is None:
        return MailServerConfused("x:Account/set neither made the account nor refused to.")
    if refused.type == "primaryKeyViolation":
        return MailServerRejected(Refusal.ADDRESS_TAKEN, f"{address} belongs to an account.")
    if refused.type == "forbidden":
        return MailServerConfused(
            f"Our key may not make this account ({refused.sentence}). "
            "Run `agentmail-cp stalwart apply`."
        )
    return MailServerRejected(Refusal.FORBIDDEN, refused.sentence)
