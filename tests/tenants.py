"""Tenants for tests: organisations, pods, keys with any reach and permissions, and clients that use them.

Everything is put straight into PostgreSQL, so that what is under test (routes that make pods and keys)
is not what sets its stage; only inboxes are made through the API, as they need an account.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import msgspec
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import access
from agentmail_cp.db import Database
from tests.fix_app import Json, Service

PREFIX = "inai_"


class Key(msgspec.Struct, frozen=True):
    """An API key and its secret."""

    api_key_id: UUID
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


async def organization(db: Database, name: str = "Other") -> UUID:
    """A new organisation with its default pod."""
    async with db.transaction() as tx:
        made = await access.create_organization(tx, name)
    return made.organization_id


async def default_pod(db: Database, organization_id: UUID) -> UUID:
    """The pod an organisation was made with."""
    async with db.reading() as tx:
        return await access.default_pod(tx, organization_id)


async def pod(
    db: Database, organization_id: UUID, *, name: str = "Pod", client_id: str | None = None
) -> UUID:
    """A new pod beside the default one."""
    pod_id = uuid7()
    async with db.transaction() as tx:
        await tx.execute(
            "insert into pod (pod_id, organization_id, name, client_id)"
            " values (%(pod_id)s, %(organization_id)s, %(name)s, %(client_id)s)",
            {
                "pod_id": pod_id,
                "organization_id": organization_id,
                "name": name,
                "client_id": client_id,
            },
        )
    return pod_id


async def key(
    db: Database,
    organization_id: UUID,
    *,
    pod_id: UUID | None = None,
    inbox_id: UUID | None = None,
    permissions: dict[str, bool] | None = None,
    expires_at: datetime | None = None,
    name: str = "test",
) -> Key:
    """A key of an organisation, of one of its pods or of one of its inboxes (`uuid_of` knows its id).

    `permissions` None means everything within reach. `expires_at` may lie in the past: see `long_ago`.
    """
    made = Key(uuid7(), PREFIX + secrets.token_hex(access.KEY_BYTES))
    async with db.transaction() as tx:
        await tx.execute(
            "insert into api_key (api_key_id, organization_id, pod_id, inbox_id, name, prefix, hash,"
            " permissions, expires_at) values (%(api_key_id)s, %(organization_id)s,"
            " coalesce(%(pod_id)s::uuid, (select pod_id from inbox where inbox_id = %(inbox_id)s)),"
            " %(inbox_id)s, %(name)s, %(prefix)s, %(hash)s, %(permissions)s, %(expires_at)s)",
            {
                "api_key_id": made.api_key_id,
                "organization_id": organization_id,
                "pod_id": pod_id,
                "inbox_id": inbox_id,
                "name": name,
                "prefix": made.secret[: len(PREFIX) + 8],
                "hash": access.digest(made.secret),
                "permissions": None if permissions is None else Jsonb(permissions),
                "expires_at": expires_at,
            },
        )
    return made


def long_ago() -> datetime:
    """The `expires_at` of a key that has expired."""
    return datetime.now(UTC) - timedelta(days=1)


def only(*permissions: str) -> dict[str, bool]:
    """A permission list that grants these and nothing else."""
    return dict.fromkeys(permissions, True)


def all_but(*permissions: str) -> dict[str, bool]:
    """A permission list that grants every known permission except these."""
    return dict.fromkeys(access.PERMISSIONS.difference(permissions), True)


async def uuid_of(db: Database, inbox: Json) -> UUID:
    """The id an inbox has inside: what keys, lists and rows name it by."""
    async with db.reading() as tx:
        row = await (
            await tx.execute(
                "select inbox_id from inbox where address = %(address)s",
                {"address": inbox["inbox_id"]},
            )
        ).fetchone()
    assert row is not None
    return row["inbox_id"]


async def inbox_in(
    service: Service, pod_id: UUID, username: str | None = None, **fields: object
) -> Json:
    """A new inbox of the service's organisation, in this pod."""
    body = {"username": username + service.suffix, **fields} if username else dict(fields)
    answer = await service.client.post(f"/v0/pods/{pod_id}/inboxes", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def client(service: Service, key: Key | None) -> httpx.AsyncClient:
    """A client of the same service with another key, or without any. It needs no closing."""
    return httpx.AsyncClient(
        transport=_Through(service.client),
        base_url=service.client.base_url,
        headers=key.headers if key else {},
    )


async def two_pods(service: Service) -> tuple[list[UUID], list[httpx.AsyncClient]]:
    """Two new pods of the service's organisation, and a client with a key of each."""
    pods = [await pod(service.db, service.organization_id) for _ in "ab"]
    keys = [await key(service.db, service.organization_id, pod_id=each) for each in pods]
    return pods, [client(service, each) for each in keys]


class _Through(httpx.AsyncBaseTransport):
    """Sends by way of another client: its transport, but none of its headers."""

    def __init__(self, other: httpx.AsyncClient) -> None:
        self._other = other

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._other.send(request)
