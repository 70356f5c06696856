"""Routes that send mail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, Response, post
from litestar.params import FromPath, HeaderParameter, JSONBody

from agentmail_cp import inboxes, sending
from agentmail_cp.compose import compose_send, fingerprint
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Caller, Config, Db, Server
from agentmail_cp.web.outgoing import outgoing
from agentmail_cp.web.paths import restore

IdempotencyKey = Annotated[str | None, HeaderParameter(name="Idempotency-Key")]


def _send_operation(_handler: object, _method: object, path: Sequence[object]) -> str:
    """One handler, two paths: the SDKs' `…/messages/send` and seed 001's `…/messages`."""
    return "messages.send" if "send" in path else "messages.create"


class Sends(Controller):
    """Mail that leaves one inbox."""

    path = "/inboxes/{inbox_id:str}/messages"
    tags = ("Messages",)

    @post(
        ["/send", "/"],
        operation_id=_send_operation,
        status_code=200,
        guards=[needs("message_send")],
        responses=ERRORS,
    )
    async def send(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.SendMessage],
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[bodies.SendMessageResponse]:
        """Send a mail. The same Idempotency-Key never sends twice within 24 hours."""
        sending.check_idempotency_key(idempotency_key)
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
        outcome = await sending.send(
            db,
            server,
            inbox=inbox,
            email=compose_send(await outgoing(server, inbox, data), sending.stamp(inbox)),
            fingerprint=fingerprint(str(inbox.inbox_id), "messages.send", data),
            key=idempotency_key,
            patience=settings.stalwart_timeout + settings.stalwart_connect_timeout,
        )
        replayed = {"Idempotent-Replayed": "true"} if outcome.replayed else {}
        return Response(bodies.sent(outcome.answer), headers=replayed)
