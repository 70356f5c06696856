"""Routes that send mail: a new one, a reply, a reply to all, a forward.

All four take the same way: a repeated request gets the answer of the first, which is found out where it
is open, before anything else is looked at; then the mail it is about is read, attachments are uploaded,
the mail is composed and sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, SkipValidation

from agentmail_cp import bodies, idempotency, inboxes, limits, messages, parents, sending, sizes
from agentmail_cp.access import Principal
from agentmail_cp.compose import (
    Parent,
    SendMessage,
    Stamp,
    compose_forward,
    compose_reply,
    compose_send,
    fingerprint,
)
from agentmail_cp.contents import SMALL
from agentmail_cp.db import Database
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import MailServer, OutgoingEmail
from agentmail_cp.settings import Settings
from agentmail_cp.web import inject
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import REPLAYED, IdempotencyKey
from agentmail_cp.web.inject import Caller, Config, Db, Server
from agentmail_cp.web.listing import visible_to
from agentmail_cp.web.outgoing import Uploads, ensure_few, outgoing
from agentmail_cp.web.paths import message_id_candidates, restore

Sent = Response[bodies.SendMessageResponse]


class Answering(Protocol):
    """Composes a mail about another one."""

    def __call__(self, message: SendMessage, parent: Parent, stamp: Stamp) -> OutgoingEmail: ...


class Outbox(msgspec.Struct, frozen=True):
    """One request to send, and what is needed to answer it."""

    db: Database
    server: MailServer
    uploads: Uploads
    settings: Settings
    caller: Principal
    key: str | None

    async def send(self, inbox_id: str, data: bodies.SendMessage) -> Sent:
        """Send a new mail."""
        ensure_few(data)
        idempotency.check_key(self.key)
        async with self.db.reading() as tx:
            inbox = await inboxes.get(tx, self.caller.reach, restore(inbox_id))
        mark = fingerprint(str(inbox.inbox_id), "messages.send", data)
        earlier = await self._earlier(inbox, mark)
        if earlier is not None:
            return response(earlier)
        message = await outgoing(self.uploads, inbox, data)
        return await self._hand_in(inbox, mark, compose_send(message, sending.stamp(inbox)))

    async def answer(
        self,
        endpoint: str,
        inbox_id: str,
        message_id: str,
        data: bodies.Outgoing,
        compose: Answering,
    ) -> Sent:
        """Send a mail about another one, which the key must be able to see. Whoever chooses to whom needs
        the permission to send.
        """
        if data.to or data.cc or data.bcc:
            self.caller.require("message_send")
        ensure_few(data)
        idempotency.check_key(self.key)
        candidates = message_id_candidates(restore(message_id))
        async with self.db.reading() as tx:
            inbox = await inboxes.get(tx, self.caller.reach, restore(inbox_id))
        mark = fingerprint(str(inbox.inbox_id), endpoint, [_bracketed(candidates), data])
        earlier = await self._earlier(inbox, mark)
        if earlier is not None:
            return response(earlier)
        async with self.db.reading() as tx:
            about = await messages.get(
                tx,
                organization_id=self.caller.organization_id,
                inbox_id=inbox.inbox_id,
                candidates=candidates,
                masks=visible_to(self.caller),
            )
        parent = await parents.read(self.server, inbox.account, about)
        message = await outgoing(self.uploads, inbox, data)
        stamp = sending.stamp(inbox)
        # Putting a large mail behind a few words takes its time.
        if about.size > SMALL:
            email = await asyncio.to_thread(compose, message, parent, stamp)
        else:
            email = compose(message, parent, stamp)
        # A forward goes to somebody else: no machine hears of it.
        answers_machine = parent.automatic and compose is not compose_forward
        return await self._hand_in(inbox, mark, email, answers_machine=answers_machine)

    async def _earlier(self, inbox: Inbox, mark: bytes) -> sending.Outcome | None:
        """What an earlier request with this key came to, found out where that is open: the message it was
        about and the files behind its URLs may be gone by now. Without a key, `sending.send` looks.
        """
        if self.key is None:
            return None
        return await sending.repeated(
            self.db, self.server, inbox=inbox, fingerprint=mark, key=self.key
        )

    async def _hand_in(
        self, inbox: Inbox, mark: bytes, email: OutgoingEmail, *, answers_machine: bool = False
    ) -> Sent:
        sizes.check(email, self.settings.max_message_size)
        return response(
            await sending.send(
                self.db,
                self.server,
                inbox=inbox,
                email=email,
                fingerprint=mark,
                key=self.key,
                patience=self.settings.stalwart_patience,
                defaults=limits.defaults(self.settings),
                answers_machine=answers_machine,
            )
        )


def _bracketed(candidates: Iterable[str]) -> str:
    """The one spelling of the id in a path, so that a repeated request may spell it otherwise."""
    return next(each for each in candidates if each.startswith("<"))


def response(outcome: sending.Outcome) -> Sent:
    """The answer to a request that sends; one that was answered before says so."""
    return Response(bodies.sent(outcome.answer), headers=REPLAYED if outcome.replayed else None)


async def provide_outbox(
    db: Db,
    server: Server,
    uploads: inject.Uploads,
    settings: Config,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Outbox:
    """The dependency `outbox`."""
    return Outbox(db, server, uploads, settings, caller, idempotency_key)


Sending = NamedDependency[SkipValidation[Outbox]]


def _send_operation(_handler: object, _method: object, path: Sequence[object]) -> str:
    """One handler, two paths: the SDKs' `…/messages/send` and seed 001's `…/messages`."""
    return "messages.send" if "send" in path else "messages.create"


_sending = partial(post, status_code=200, responses=ERRORS)


class Sends(Controller):
    """Mail that leaves one inbox. The same Idempotency-Key never sends twice within 24 hours."""

    path = "/inboxes/{inbox_id:str}/messages"
    tags = ("Messages",)
    dependencies = {"outbox": Provide(provide_outbox)}  # noqa: RUF012

    @_sending(["/send", "/"], operation_id=_send_operation, guards=[needs("message_send")])
    async def send(
        self, inbox_id: FromPath[str], data: JSONBody[bodies.SendMessage], outbox: Sending
    ) -> Sent:
        """Send a mail. The same Idempotency-Key never sends twice within 24 hours."""
        return await outbox.send(inbox_id, data)

    @_sending(
        "/{message_id:str}/reply",
        operation_id="messages.reply",
        guards=[needs("message_reply", or_else="message_send")],
    )
    async def reply(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        data: JSONBody[bodies.ReplyToMessage],
        outbox: Sending,
    ) -> Sent:
        """Reply to whom the message asks replies to be sent, else its sender, or to given recipients."""
        compose = partial(compose_reply, everyone=bool(data.reply_all))
        return await outbox.answer("messages.reply", inbox_id, message_id, data, compose)

    @_sending(
        "/{message_id:str}/reply-all",
        operation_id="messages.reply_all",
        guards=[needs("message_reply", or_else="message_send")],
    )
    async def reply_all(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        data: JSONBody[bodies.ReplyToMessage],
        outbox: Sending,
    ) -> Sent:
        """Reply to the sender and all other recipients of a message."""
        compose = partial(compose_reply, everyone=True)
        return await outbox.answer("messages.reply_all", inbox_id, message_id, data, compose)

    @_sending(
        "/{message_id:str}/forward",
        operation_id="messages.forward",
        # Whoever forwards a mail to itself has read it.
        guards=[needs("message_send"), needs("message_read")],
    )
    async def forward(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        data: JSONBody[bodies.ForwardMessage],
        outbox: Sending,
    ) -> Sent:
        """Forward a message with its attachments; it stays in the message's thread."""
        return await outbox.answer("messages.forward", inbox_id, message_id, data, compose_forward)
