"""Organisations: the tenants. Owns the table `organization`."""

from __future__ import annotations

from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.settings import Unauthenticated

HIDDEN: Final = UUID("00000000-0000-4000-8000-646f63746f72")
"""The organisation in which `agentmail-cp doctor` sends itself mail; there for seconds, and nobody's."""


class Organization(msgspec.Struct, frozen=True):
    """A tenant: whatever it owns is invisible to every other."""

    organization_id: UUID
    name: str
    created_at: datetime
    updated_at: datetime


class _Wish(msgspec.Struct, frozen=True):
    unauthenticated: Unauthenticated | None


async def create_organization(
    tx: Tx, name: str, *, organization_id: UUID | None = None
) -> Organization:
    """Make an organisation with its default pod."""
    organization = await fetch_only(
        tx,
        Organization,
        "insert into organization (organization_id, name) values (%(id)s, %(name)s)"
        " returning organization_id, name, created_at, updated_at",
        {"id": organization_id or uuid7(), "name": name},
    )
    await tx.execute(
        "insert into pod (pod_id, organization_id, name, is_default)"
        " values (%(pod_id)s, %(organization_id)s, 'Default Pod', true)",
        {"pod_id": uuid7(), "organization_id": organization.organization_id},
    )
    return organization


async def list_organizations(tx: Tx) -> list[Organization]:
    """Every organisation but `HIDDEN`, for the operator's command line."""
    return await fetch_all(
        tx,
        Organization,
        "select organization_id, name, created_at, updated_at from organization"
        " where organization_id <> %(hidden)s order by created_at",
        {"hidden": HIDDEN},
    )


async def get_organization(tx: Tx, organization_id: UUID, *, lock: bool = False) -> Organization:
    """An organisation; with `lock`, only one transaction at a time has it, as exact quotas need."""
    query: LiteralString = (
        "select organization_id, name, created_at, updated_at from organization"
        " where organization_id = %(organization_id)s"
    )
    if lock:
        query += " for no key update"
    found = await fetch_one(tx, Organization, query, {"organization_id": organization_id})
    if found is None:
        raise NotFound("There is no such organization.")
    return found


async def on_unauthenticated(tx: Tx, organization_id: UUID) -> Unauthenticated | None:
    """What the organisation wants done with mail that is an explicit FAIL; None where the setting holds."""
    found = await fetch_one(
        tx,
        _Wish,
        "select unauthenticated from organization where organization_id = %(organization_id)s",
        {"organization_id": organization_id},
    )
    return found.unauthenticated if found else None


async def set_on_unauthenticated(
    tx: Tx, organization_id: UUID, wish: Unauthenticated | None
) -> None:
    """Let an organisation have its own wish, or with None let the setting hold again."""
    await tx.execute(
        "update organization set unauthenticated = %(wish)s, updated_at = now()"
        " where organization_id = %(organization_id)s",
        {"organization_id": organization_id, "wish": wish},
    )


async def only_organization(tx: Tx, wanted: UUID | None) -> UUID:
    """The organisation named, or the only one there is; `NotFound` or `Invalid` otherwise."""
    known = [each.organization_id for each in await list_organizations(tx)]
    if wanted is None and len(known) > 1:
        raise Invalid("org", "There are several organizations.", fix="Name one with --org.")
    if not known or (wanted is not None and wanted not in known):
        raise NotFound(
            "There is no such organization.", fix="Make one with `agentmail-cp org create NAME`."
        )
    return wanted or known[0]
