"""Claims: how a domain is added, which names can't be, what of it may change, and who proves it first.

Owns the writing of a claim's own fields. Adding a name captures nobody's mail: it is a row, a token and keys
until DNS shows the token. Several organisations may claim one name and are told nothing of each other; the
first to prove it has it (`prove`), and with sub-domains enabled all below it that nobody had before. Names
below it on which it has inboxes are its own also once sub-domains are not enabled any more. Ending a claim,
and telling the mail server of one, is `settlement`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, LiteralString
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.errors import UniqueViolation
from uuid_utils.compat import uuid7

from agentmail_cp import access, addresses
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_one, fetch_only
from agentmail_cp.domains.domain import (
    COLUMNS,
    UNSETTLED,
    Domain,
    below,
    count,
    get_own,
    with_parents,
)
from agentmail_cp.errors import Forbidden, Invalid, LimitExceeded, Taken

TOKEN_BYTES = 20

LONGEST_NAME = 200
"""Characters: records below it, and addresses in it, have to fit into 253 and 254."""


class NewDomain(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, its name checked by `check_name`."""

    name: str
    feedback_enabled: bool = True
    inbound_enabled: bool = True
    subdomains_enabled: bool = False
    tracking_enabled: bool = False


class DomainPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a domain. `catch_all_inbox_id` None means that unknown addresses are refused."""

    feedback_enabled: bool | UnsetType = UNSET
    inbound_enabled: bool | UnsetType = UNSET
    subdomains_enabled: bool | UnsetType = UNSET
    tracking_enabled: bool | UnsetType = UNSET
    catch_all_inbox_id: UUID | UnsetType | None = UNSET

    @property
    def changes(self) -> dict[str, Any]:
        """The columns it names, and what they become."""
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if value is not UNSET}


def check_name(text: str, own: Iterable[str]) -> str:
    """A name that may be claimed, as it is stored. `own` are the names of this service itself: these and
    all below them are nobody's to claim. Raises `Invalid` INVALID_DOMAIN, and `Forbidden` OWN_DOMAIN.
    """
    name = addresses.check_domain(text.strip().removesuffix("."), "domain")
    if len(name) > LONGEST_NAME or name.rpartition(".")[2].isdigit():
        raise Invalid(
            "domain",
            f"{name} is no name that mail could have.",
            fix=f"Use a name of at most {LONGEST_NAME} characters, such as example.com.",
            detail="INVALID_DOMAIN",
        )
    if set(with_parents(name)) & {each.lower() for each in own}:
        raise Forbidden(
            f"{name} belongs to this server itself.",
            fix="Add a domain of your own; inboxes on the server's own domain need none.",
            field="domain",
            detail="OWN_DOMAIN",
        )
    return name


def _check_tracking(wanted: NewDomain | DomainPatch) -> None:
    if wanted.tracking_enabled is True:
        raise Invalid(
            "tracking_enabled",
            "Opens of mail are not tracked here.",
            fix="Leave tracking_enabled out, or send false.",
            detail="NOT_OFFERED",
        )


async def create(tx: Tx, scope: Reach, new: NewDomain, *, most: int) -> Domain:
    """Claim a name for an organisation, or for one pod of it. `most` domains may there be (0: no limit).

    Raises `Taken` when the organisation has claimed the name already, `LimitExceeded`, `Invalid` for
    tracking, and `NotFound` for a pod that is gone.
    """
    scope.require_pod()
    _check_tracking(new)
    if most:
        await access.get_organization(tx, scope.organization_id, lock=True)
    if scope.pod_id is not None:
        await access.hold_pod(tx, scope.organization_id, scope.pod_id)
    made = await _insert(tx, scope, new)
    if most and await count(tx, scope.organization_id) > most:
        raise LimitExceeded(
            f"This organization has as many domains as it may have: {most}.",
            fix="Delete a domain, or ask the operator of this server for more.",
        )
    return made


async def _insert(tx: Tx, scope: Reach, new: NewDomain) -> Domain:
    made = await fetch_one(
        tx,
        Domain,
        "insert into domain (domain_id, organization_id, pod_id, name, token, feedback_enabled,"
        " inbound_enabled, subdomains_enabled, check_due_at) values (%(domain_id)s,"
        " %(organization_id)s, %(pod_id)s, %(name)s, %(token)s, %(feedback_enabled)s,"
        # Nobody can have published a record before they were told of it.
        " %(inbound_enabled)s, %(subdomains_enabled)s, now() + interval '1 minute')"
        " on conflict do nothing"
        f" returning {COLUMNS}",
        msgspec.structs.asdict(new)
        | {
            "domain_id": uuid7(),
            "organization_id": scope.organization_id,
            "pod_id": scope.pod_id,
            "token": secrets.token_hex(TOKEN_BYTES),
        },
    )
    if made is None:
        raise Taken(
            f"{new.name} has been added to this organization already.",
            fix="List your domains, or use another name.",
            field="domain",
            detail="DOMAIN_TAKEN",
        )
    return made


async def update(tx: Tx, reach: Reach, domain: str, patch: DomainPatch) -> Domain:
    """Change a domain; the mail server is told of it by whoever calls `settle_one` next.

    A verified domain that begins to receive, or to have sub-domains, is PENDING until its MX was seen, and
    goes on working. Raises `NotFound`, `Forbidden`, and `Invalid` for a patch of nothing.
    """
    changes = patch.changes
    if not changes:
        raise Invalid(
            "feedback_enabled",
            "Nothing to update.",
            fix="Give feedback_enabled, inbound_enabled, subdomains_enabled or catch_all.",
            detail="REQUIRED",
        )
    _check_tracking(patch)
    before = await get_own(tx, reach, domain)
    wanted = msgspec.structs.replace(before, **changes)
    new_records = _new_records(before, wanted)
    return await fetch_only(
        tx,
        Domain,
        "update domain set feedback_enabled = %(feedback_enabled)s,"
        " inbound_enabled = %(inbound_enabled)s, subdomains_enabled = %(subdomains_enabled)s,"
        " catch_all_inbox_id = %(catch_all_inbox_id)s, updated_at = now(),"
        " verified_at = case when %(to_check)s then null else verified_at end,"
        # What was seen of these while they were wanted before says nothing of now.
        " findings = findings - %(new_records)s::text[],"
        " check_due_at = case when %(to_check)s then now() else check_due_at end,"
        # One the mail server is not to be told of yet waits for its keys (`rotation`).
        " unsettled_since = case when %(to_tell)s and (installed_at is not null"
        f" or unsettled_since is not null) then {UNSETTLED} else unsettled_since end"
        " where domain_id = %(domain_id)s and organization_id = %(organization_id)s"
        f" returning {COLUMNS}",
        {
            "domain_id": before.domain_id,
            "organization_id": before.organization_id,
            "feedback_enabled": wanted.feedback_enabled,
            "inbound_enabled": wanted.inbound_enabled,
            "subdomains_enabled": wanted.subdomains_enabled,
            "catch_all_inbox_id": wanted.catch_all_inbox_id,
            "to_check": bool(new_records),
            "new_records": new_records,
            "to_tell": _on_the_server(before) != _on_the_server(wanted),
        },
    )


def _new_records(before: Domain, wanted: Domain) -> list[str]:
    """The keys of required records that were not wanted before."""
    new = wanted.inbound_enabled and not before.inbound_enabled
    below = wanted.inbound_enabled and wanted.subdomains_enabled
    had_below = before.inbound_enabled and before.subdomains_enabled
    return ["mx"] * new + ["wildcard_mx"] * (below and not had_below)


def _on_the_server(domain: Domain) -> tuple[object, ...]:
    return domain.inbound_enabled, domain.subdomains_enabled, domain.catch_all_inbox_id


async def prove(tx: Tx, domain: Domain) -> bool:
    """Take note that a claim's token was seen in DNS, and that the mail server is to be told (`tell`); False
    when the name is another organisation's, has inboxes of one that proved a name above it, or the mail
    server has not let go of an earlier claim yet. A claim that was proved stays so.
    """
    names = {
        "organization_id": domain.organization_id,
        "domain_id": domain.domain_id,
        "parents": with_parents(domain.name)[1:],
        "backwards": domain.name[::-1],
        "below": below(domain.name),
    }
    # No inbox begins to be made below them now (`use.hold`), so that what is seen of inboxes stays true.
    await tx.execute(_HOLD_ABOVE, names)
    try:
        async with tx.transaction():
            cursor = await tx.execute(_PROVE, names)
    except UniqueViolation:
        return False
    return cursor.rowcount == 1


_HOLD_ABOVE: LiteralString = """
select from domain where organization_id <> %(organization_id)s and name = any(%(parents)s)
    and proved_at is not null order by name for no key update
"""

_PROVE: LiteralString = f"""
update domain set proved_at = coalesce(proved_at, now()), updated_at = now(),
    unsettled_since = case when installed_at is null then {UNSETTLED} else unsettled_since end
where organization_id = %(organization_id)s and domain_id = %(domain_id)s and deleted_at is null
    and (proved_at is not null or not exists (select from domain as above
        where above.organization_id <> %(organization_id)s and above.name = any(%(parents)s)
            and above.proved_at is not null and (above.subdomains_enabled or exists (
                select from inbox join subdomain on subdomain.name = inbox.domain
                    and subdomain.organization_id = inbox.organization_id
                    and subdomain.above = above.name
                where inbox.organization_id = above.organization_id
                    and inbox.state in ('creating', 'active', 'deleting')
                    and (reverse(inbox.domain) = %(backwards)s
                        or reverse(inbox.domain) like %(below)s)))))
"""
