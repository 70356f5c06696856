"""Pods: parts of an organisation that see nothing of each other, one for each customer or environment.

Owns the table `pod`, but for the default pod, which `access` makes with its organisation. A pod is there or
it is not. It is made by a key of the organisation, listed, renamed, given a limit of its own and, once no
inbox lives in it and no domain is its own, deleted together with its API keys, list entries and webhooks; the
default pod stays. What the deleted inboxes of a deleted pod retain is not touched: it is read through the
organisation's own routes until it is erased. Nothing ever moves from one pod to another. Never talks to the
mail server.
"""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from uuid_utils.compat import uuid7

from agentmail_cp import access, credentials, domains, idempotency, inboxes, lists, pages, webhooks
from agentmail_cp.access import Reach, in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import CannotDelete, Conflict, Invalid, LimitExceeded, NotFound
from agentmail_cp.limits import Limits

DEFAULT_NAME = "Pod"
LONGEST_NAME = 256
LARGEST_LIMIT = 1_000_000_000

COLUMNS = (
    "pod_id, organization_id, name, is_default, client_id, inbox_limit, created_at, updated_at"
)


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod. `inbox_limit` is its own; None leaves it to what holds for every pod."""

    pod_id: UUID
    organization_id: UUID
    name: str
    is_default: bool
    client_id: str | None
    inbox_limit: int | None
    created_at: datetime
    updated_at: datetime


class NewPod(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. Everything may be left out."""

    name: str | None = None
    client_id: str | None = None


class PodPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What of a pod may change; `inbox_limit` None takes its own limit away."""

    name: str | UnsetType = UNSET
    inbox_limit: int | UnsetType | None = UNSET


class Made(msgspec.Struct, frozen=True):
    """A pod, and whether this call made it."""

    pod: Pod
    new: bool


async def create(tx: Tx, reach: Reach, new: NewPod, *, limits: Limits) -> Made:
    """Make a pod; with a known `client_id`, give back the one that has it, which counts for nothing.

    The limit of pods, to which the default pod counts too, holds against any number of requests at once.
    Raises `Forbidden`, `Invalid`, `LimitExceeded`.
    """
    reach.require_organization()
    _check(new.name, new.client_id)
    most = limits.pods_per_organization
    if most:
        await access.get_organization(tx, reach.organization_id, lock=True)
    known = await _by_client_id(tx, reach.organization_id, new.client_id)
    if known is not None:
        return Made(known, new=False)
    if most and await count(tx, reach.organization_id) >= most:
        raise LimitExceeded(
            f"This organization has as many pods as it may have: {most}.",
            fix="Delete a pod, or ask the operator of this server for more.",
        )
    made = await _insert(tx, reach.organization_id, new)
    if made is not None:
        return Made(made, new=True)
    winner = await _by_client_id(tx, reach.organization_id, new.client_id)
    if winner is None:
        raise Conflict("This pod was made and deleted a moment ago.", fix="Try again.")
    return Made(winner, new=False)


async def _by_client_id(tx: Tx, organization_id: UUID, client_id: str | None) -> Pod | None:
    if client_id is None:
        return None
    return await fetch_one(
        tx,
        Pod,
        f"select {COLUMNS} from pod where organization_id = %(organization_id)s"
        " and client_id = %(client_id)s",
        {"organization_id": organization_id, "client_id": client_id},
    )


async def _insert(tx: Tx, organization_id: UUID, new: NewPod) -> Pod | None:
    return await fetch_one(
        tx,
        Pod,
        "insert into pod (pod_id, organization_id, name, client_id)"
        " values (%(pod_id)s, %(organization_id)s, %(name)s, %(client_id)s)"
        " on conflict (organization_id, client_id) where client_id is not null do nothing"
        f" returning {COLUMNS}",
        {
            "pod_id": uuid7(),
            "organization_id": organization_id,
            "name": DEFAULT_NAME if new.name is None else new.name,
            "client_id": new.client_id,
        },
    )


async def count(tx: Tx, organization_id: UUID) -> int:
    """How many pods an organisation has, with its default pod."""
    cursor = await tx.execute(
        "select count(*) as pods from pod where organization_id = %(organization_id)s",
        {"organization_id": organization_id},
    )
    row = await cursor.fetchone()
    return row["pods"] if row else 0


async def get(tx: Tx, reach: Reach, pod: str) -> Pod:
    """The pod within reach that goes by this id or client_id.

    Raises `NotFound`, and `Forbidden` for whoever reaches a single inbox.
    """
    return await _get(tx, reach.organization_id, await access.find_pod(tx, reach, pod))


async def _get(tx: Tx, organization_id: UUID, pod_id: UUID, lock: LiteralString = "") -> Pod:
    found = await fetch_one(
        tx,
        Pod,
        f"select {COLUMNS} from pod where organization_id = %(organization_id)s"
        f" and pod_id = %(pod_id)s{lock}",
        {"organization_id": organization_id, "pod_id": pod_id},
    )
    if found is None:
        raise NotFound("There is no such pod.")
    return found


async def list_page(
    tx: Tx, reach: Reach, *, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[Pod], str | None]:
    """One page of the pods within reach by time of creation, and the token of the next page.

    Raises `Forbidden` for whoever reaches a single inbox, and `Invalid` for a foreign token.
    """
    reach.require_pod()
    scope = f"pods/{reach.pod_id or reach.organization_id}/{ascending}"
    page, parameters = pages.by_time(
        scope, page_token, ("created_at", "pod_id"), limit=limit, ascending=ascending
    )
    rows = await fetch_all(
        tx,
        Pod,
        f"select {COLUMNS} from pod where organization_id = %(organization_id)s"
        f"{in_reach(reach)}{page}",
        msgspec.structs.asdict(reach) | parameters,
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.pod_id))


async def update(tx: Tx, reach: Reach, pod: str, patch: PodPatch) -> Pod:
    """Change a pod's name or its own limit, which only a key of the organisation may: a pod cannot lift
    what it was given. A limit below what the pod has takes nothing away.
    """
    if patch.name is UNSET and patch.inbox_limit is UNSET:
        raise Invalid(
            "name", "Nothing to update.", fix="Give name or inbox_limit.", detail="REQUIRED"
        )
    pod_id = await access.find_pod(tx, reach, pod)
    if patch.inbox_limit is not UNSET:
        reach.require_organization()
        _check_limit(patch.inbox_limit)
    current = await _get(tx, reach.organization_id, pod_id, " for no key update")
    name = current.name if patch.name is UNSET else patch.name
    _check(name, None)
    return await fetch_only(
        tx,
        Pod,
        "update pod set name = %(name)s, inbox_limit = %(inbox_limit)s, updated_at = now()"
        " where organization_id = %(organization_id)s and pod_id = %(pod_id)s"
        f" returning {COLUMNS}",
        {
            "name": name,
            "inbox_limit": current.inbox_limit if patch.inbox_limit is UNSET else patch.inbox_limit,
            "organization_id": reach.organization_id,
            "pod_id": pod_id,
        },
    )


async def delete(tx: Tx, reach: Reach, pod: str) -> None:
    """Delete a pod with its API keys, list entries and webhooks.

    Raises `CannotDelete` for the default pod, for one in which an inbox lives, be it half made or half
    deleted, and for one with a domain; and `Forbidden` for a pod's own key.
    """
    pod_id = await access.find_pod(tx, reach, pod)
    reach.require_organization()
    # Whoever is making an inbox here holds the row until that inbox can be counted.
    found = await _get(tx, reach.organization_id, pod_id, " for update")
    if found.is_default:
        raise CannotDelete("The default pod cannot be deleted.", fix="Delete its inboxes instead.")
    living = await inboxes.count(tx, reach.organization_id, pod_id)
    if living:
        raise CannotDelete(
            f"This pod has {living} inbox{'es' if living > 1 else ''}.",
            fix="Delete its inboxes first.",
        )
    owned = await domains.count(tx, reach.organization_id, pod_id)
    if owned:
        raise CannotDelete(
            f"This pod has {owned} domain{'s' if owned > 1 else ''}.",
            fix="Delete its domains first.",
        )
    gone = Reach(reach.organization_id, pod_id)
    await access.revoke_within(tx, gone)
    await credentials.forget(tx, gone)
    await lists.erase(tx, gone)
    await webhooks.erase(tx, gone)
    await tx.execute(
        "delete from pod where organization_id = %(organization_id)s and pod_id = %(pod_id)s",
        {"organization_id": reach.organization_id, "pod_id": pod_id},
    )


def _check(name: str | None, client_id: str | None) -> None:
    if client_id is not None:
        idempotency.check_client_id(client_id)
    if name is not None and (not 1 <= len(name) <= LONGEST_NAME or not name.isprintable()):
        raise Invalid(
            "name",
            "This name does not fit.",
            fix=f"Use 1 to {LONGEST_NAME} printable characters on one line.",
        )


def _check_limit(limit: int | None) -> None:
    if limit is not None and not 1 <= limit <= LARGEST_LIMIT:
        raise Invalid(
            "inbox_limit",
            "inbox_limit is not a number of inboxes.",
            fix=f"Use 1 to {LARGEST_LIMIT}, or null for no limit of its own.",
        )
