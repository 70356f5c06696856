"""The header `Idempotency-Key` of requests that make something, and what handlers do with it.

Where PostgreSQL alone has a part in it, `once.claim` stands in the transaction that makes the thing:

    async with db.transaction() as tx:
        claim = await once.claim(tx, "pod", caller.reach, data)
        if claim.made:
            pod = await idempotency.replay(pods.get(tx, caller.reach, claim.made.resource_id))
        else:
            pod = await pods.create(tx, …)
            await idempotency.complete(tx, claim, pod.pod_id)
    return answered(claim, bodies.pod(pod))

Where the mail server has one, `once.held` claims the key first, and `complete` is called in the
transaction that shows the thing to callers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, TypeVar

import msgspec
from litestar import Response
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, SkipValidation
from litestar.types import Scope

from agentmail_cp import idempotency
from agentmail_cp.access import Principal, Reach
from agentmail_cp.compose import fingerprint
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import AgentMailError, Unavailable
from agentmail_cp.idempotency import Claim
from agentmail_cp.web.auth import bearer
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Caller

T = TypeVar("T")

REPLAYED = {"Idempotent-Replayed": "true"}
"""Headers of an answer that was given before."""

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="1 to 256 of A-Z a-z 0-9 - . _ ~: repeated with the same key and body within 24"
        " hours, the request is carried out once and answered as before, with `Idempotent-Replayed: true`.",
    ),
]


class Once(msgspec.Struct, frozen=True):
    """The key of one request, and who sent it with which secret."""

    caller: Principal
    bearer: str
    key: str | None

    def __repr__(self) -> str:
        return f"Once(api_key_id={self.caller.api_key_id})"

    async def claim(
        self, tx: Tx, kind: str, where: Reach, body: object, *, private: bool = False
    ) -> Claim:
        """Claim the request's key for making a `kind` (as permissions call it) where `where` says, or find
        out what was made with it. `body` is all else that the request says, in its path as in its body.

        The answer to what another API key made takes `<kind>_read`; one that is `private`, as it holds a
        secret, is for the API key that made it. Raises as `idempotency.begin`, and `Forbidden`.
        """
        place = f"{where.pod_id}/{where.inbox_id}"
        request = idempotency.Request(
            organization_id=self.caller.organization_id,
            api_key_id=self.caller.api_key_id,
            bearer=self.bearer,
            key=self.key,
            kind=kind,
            fingerprint=fingerprint(place, f"{kind}.create", body),
            private=private,
        )
        claim = await idempotency.begin(tx, request)
        if claim.made and claim.made.api_key_id != self.caller.api_key_id:
            self.caller.require(f"{kind}_read")
        return claim

    @contextlib.asynccontextmanager
    async def held(
        self, db: Database, kind: str, where: Reach, body: object, *, private: bool = False
    ) -> AsyncGenerator[Claim]:
        """As `claim`, in a transaction of its own. If the block fails the key is free again at once, or,
        where something may be left of it, for the same request.
        """
        claim = idempotency.unclaimed()
        if self.key is not None:
            async with db.transaction() as tx:
                claim = await self.claim(tx, kind, where, body, private=private)
        try:
            yield claim
        except Exception as error:
            if claim.repeatable and not claim.made:
                await _let_go(db, claim, error)
            raise


async def _let_go(db: Database, claim: Claim, error: Exception) -> None:
    final = isinstance(error, AgentMailError) and getattr(error, "retry_after", None) is None
    # With the database away, the lease ends by itself.
    with contextlib.suppress(Unavailable):
        async with db.transaction() as tx:
            await (idempotency.abandon if final else idempotency.leave)(tx, claim)


def answered(claim: Claim, body: T, *, new: bool = True) -> Response[T]:
    """The answer to a request that makes something: 201, or 200 where there was one with its client_id. One
    that was answered before says so, and has the status it had.
    """
    if claim.made:
        new = claim.made.new
    headers = REPLAYED if claim.made else None
    return Response(body, status_code=201 if new else 200, headers=headers)


async def provide_once(
    scope: Scope, caller: Caller, idempotency_key: IdempotencyKey = None
) -> Once:
    """The dependency `once`."""
    return Once(caller, bearer(scope), idempotency_key)


def making(body: type) -> dict[int, ResponseSpec]:
    """The `responses` of a route that makes something, or answers 200 with the one that was there."""
    there = ResponseSpec(body, generate_examples=False, description="What was there already.")
    return {200: there, **ERRORS}


Repeatable = NamedDependency[SkipValidation[Once]]
