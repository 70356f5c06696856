"""Bodies of pods and of the organisation."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import access, pods
from agentmail_cp.limits import Limits


class CreatePod(msgspec.Struct, kw_only=True):
    """`POST /v0/pods`. Everything may be left out."""

    name: str | None = None
    client_id: str | None = None


class UpdatePod(msgspec.Struct, kw_only=True):
    """`PATCH /v0/pods/{pod_id}`. `inbox_limit` null takes the pod's own limit away."""

    name: str | UnsetType = UNSET
    inbox_limit: int | UnsetType | None = UNSET


class Pod(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A pod. `inbox_limit` is there when the pod has one of its own."""

    pod_id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    client_id: str | None = None
    inbox_limit: int | None = None


class ListPods(msgspec.Struct, omit_defaults=True):
    """One page of pods."""

    count: int
    limit: int
    pods: list[Pod]
    next_page_token: str | None = None


class Organization(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The caller's organisation. Of the limits only those are there that it has; their names are those of
    the operator's settings.
    """

    organization_id: UUID
    name: str
    inbox_count: int
    domain_count: int
    pod_count: int
    created_at: datetime
    updated_at: datetime
    inbox_limit: int | None = None
    domain_limit: int | None = None
    limits: dict[str, int] = msgspec.field(default_factory=dict)


def pod(found: pods.Pod) -> Pod:
    """A pod as callers see it."""
    return Pod(
        pod_id=found.pod_id,
        name=found.name,
        created_at=found.created_at,
        updated_at=found.updated_at,
        client_id=found.client_id,
        inbox_limit=found.inbox_limit,
    )


def organization(
    found: access.Organization,
    *,
    inbox_count: int,
    domain_count: int,
    pod_count: int,
    limits: Limits,
) -> Organization:
    """An organisation as its own callers see it."""
    return Organization(
        organization_id=found.organization_id,
        name=found.name,
        inbox_count=inbox_count,
        domain_count=domain_count,
        pod_count=pod_count,
        created_at=found.created_at,
        updated_at=found.updated_at,
        inbox_limit=limits.inboxes_per_organization or None,
        domain_limit=limits.domains_per_organization or None,
        limits={name: most for name, most in msgspec.structs.asdict(limits).items() if most},
    )
