"""What the routes of drafts do for one request: from its body to a draft, and back to an answer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from litestar import Response
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import UNSET

from agentmail_cp import (
    addresses,
    bodies,
    dispatch,
    drafts,
    idempotency,
    inboxes,
    labels,
    limits,
    messages,
    parents,
    sending,
)
from agentmail_cp.access import Principal
from agentmail_cp.compose import (
    SendMessage,
    compose_forward_draft,
    compose_reply,
    compose_send,
    ensure_few_attachments,
    fingerprint,
)
from agentmail_cp.db import Database
from agentmail_cp.drafts import Draft, NewDraft, Patch, Revision, Where
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.idempotency import Claim
from agentmail_cp.inboxes import Inbox
from agentmail_cp.labels import TRASH, UNREAD, Change
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import (
    Address,
    MailContent,
    MailServer,
    MailServerRejected,
    MailServerUnavailable,
    OutgoingAttachment,
    OutgoingEmail,
    Refusal,
)
from agentmail_cp.messages import Message
from agentmail_cp.sizes import Room
from agentmail_cp.web import inject
from agentmail_cp.web.idempotency import Once, answered
from agentmail_cp.web.inject import Caller, Config, Db, Server
from agentmail_cp.web.listing import sees_all, visible_to
from agentmail_cp.web.outgoing import Uploads, ensure_few, outgoing, upload
from agentmail_cp.web.paths import message_id_candidates, restore

READING_AGAIN = (0.02, 0.05, 0.1, 0.3)
"""Seconds between looks for a version that is being replaced at this moment."""


class Desk(msgspec.Struct, frozen=True):
    """One request about drafts, and what is needed to answer it. `patience` is how many seconds one call
    to the mail server may take; `defaults` are the limits of an organisation without its own.
    """

    db: Database
    server: MailServer
    uploads: Uploads
    patience: float
    defaults: Limits
    caller: Principal

    async def inbox(self, inbox_id: str) -> Inbox:
        async with self.db.reading() as tx:
            return await inboxes.get(tx, self.caller.reach, restore(inbox_id))

    def _where(self, inbox: Inbox) -> Where:
        sender = Address(inbox.address, inbox.display_name)
        return Where(inbox.place, inbox.account, sender, self.uploads.largest)

    async def create(
        self, inbox_id: str, data: bodies.CreateDraft, once: Once
    ) -> Response[bodies.Draft]:
        """The draft a request asks for."""
        _check_kind(data)
        ensure_few(data)
        if data.send_at is not None:
            self.caller.require("draft_send")
        inbox = await self.inbox(inbox_id)
        async with once.held(self.db, "draft", inbox.reach, data) as claim:
            if claim.made:
                again = self._named(inbox, UUID(claim.made.resource_id))
                draft, new = await idempotency.replay(again), claim.made.new
            else:
                draft, new = await self._made(inbox, data, claim)
        own = new and not claim.made
        return answered(claim, await self._answer(inbox, draft, own=own), new=new)

    async def _named(self, inbox: Inbox, draft_id: UUID) -> Draft:
        async with self.db.reading() as tx:
            return await drafts.get(
                tx,
                organization_id=inbox.organization_id,
                draft_id=draft_id,
                inbox_id=inbox.inbox_id,
                remembered=True,
            )

    async def _made(
        self, inbox: Inbox, data: bodies.CreateDraft, claim: Claim
    ) -> tuple[Draft, bool]:
        """A new draft, or the one that has this client_id, and which of the two it is."""
        known = await self._known(inbox, data.client_id)
        earlier = known or await self._left_over(inbox, claim)
        if earlier is not None:
            async with self.db.transaction() as tx:
                await idempotency.complete(tx, claim, earlier.draft_id, new=known is None)
            return earlier, known is None
        # Whoever repeats a creation after its time has come gets the draft all the same.
        send_at = self._moment(data.send_at)
        about = await self._about(inbox, data.in_reply_to or data.forward_of)
        new = NewDraft(
            draft_id=claim.uuid(),
            email=await self._composed(inbox, data, about, claim.uuid()),
            client_id=data.client_id,
            in_reply_to=about.message_id if about and data.in_reply_to else None,
            forward_of=about.message_id if about and data.forward_of else None,
            reply_all=bool(data.reply_all),
            send_at=send_at,
        )
        draft = await drafts.create(
            self.db, self.server, self._where(inbox), new, claim, patience=self.patience
        )
        return draft, True

    async def _known(self, inbox: Inbox, client_id: str | None) -> Draft | None:
        if client_id is None:
            return None
        idempotency.check_client_id(client_id)
        return await drafts.made_before(self.db, self.server, inbox.place, client_id)

    async def _left_over(self, inbox: Inbox, claim: Claim) -> Draft | None:
        if claim.attempt == 1:
            return None
        return await drafts.left_over(self.db, self.server, inbox.place, claim.uuid())

    def _moment(self, send_at: datetime | None) -> datetime | None:
        """When to send, if at all. Who may not send may not have it sent either."""
        if send_at is None:
            return None
        self.caller.require("draft_send")
        return drafts.check_send_at(send_at, datetime.now(UTC))

    async def _about(self, inbox: Inbox, message_id: str | None) -> Message | None:
        """The message a draft is about, which the key must be able to read: the draft holds parts of it."""
        if message_id is None:
            return None
        self.caller.require("message_read")
        async with self.db.reading() as tx:
            return await messages.get(
                tx,
                organization_id=self.caller.organization_id,
                inbox_id=inbox.inbox_id,
                candidates=message_id_candidates(message_id),
                masks=visible_to(self.caller),
            )

    async def _composed(
        self, inbox: Inbox, data: bodies.CreateDraft, about: Message | None, draft_id: UUID
    ) -> OutgoingEmail:
        parent = await parents.read(self.server, inbox.account, about) if about else None
        message: SendMessage = await outgoing(self.uploads, inbox, data)
        stamp = msgspec.structs.replace(
            sending.stamp(inbox), message_id=drafts.message_id_of(draft_id, 1, inbox.domain)
        )
        if parent is None:
            return compose_send(message, stamp, draft=True)
        if data.forward_of:
            return compose_forward_draft(message, parent, stamp)
        return compose_reply(message, parent, stamp, everyone=bool(data.reply_all), draft=True)

    async def update(self, inbox_id: str, draft_id: str, data: bodies.UpdateDraft) -> bodies.Draft:
        """The draft after a change."""
        ensure_few_attachments(len(data.add_attachments or ()), "add_attachments")
        change = _label_change(data.add_labels, data.remove_labels)
        send_at = UNSET if data.send_at is UNSET else self._moment(data.send_at)
        patch = _patch(data)
        if patch.empty and change.empty and send_at is UNSET and not data.add_attachments:
            raise Invalid(
                "subject",
                "There is nothing to change.",
                fix="Give at least one field.",
                detail="REQUIRED",
            )
        inbox = await self.inbox(inbox_id)
        which = _uuid(draft_id)
        current = await drafts.free(self.db, self.server, inbox.place, which)
        await self._check_addressing(inbox, current, patch)
        await self._check_attachments(current, data)
        # Before the upload, which lets go of the bytes.
        mark = fingerprint(str(inbox.inbox_id), "drafts.update", [which, data])
        added = await self._added(inbox, data)
        revision = Revision(
            patch=msgspec.structs.replace(patch, add_attachments=added),
            labels=change,
            send_at=send_at,
            fingerprint=mark,
            may_send=self.caller.may("draft_send"),
        )
        changed = await drafts.update(
            self.db, self.server, self._where(inbox), which, revision, patience=self.patience
        )
        return await self._answer(inbox, changed)

    async def _check_addressing(self, inbox: Inbox, row: Draft, patch: Patch) -> None:
        """Raise unless the key may choose who gets the draft: a forward is sent with the words of its
        message, which the key must then be able to read.
        """
        chosen = any(each is not UNSET for each in (patch.to, patch.cc, patch.bcc))
        reads_all = self.caller.may("message_read") and sees_all(self.caller)
        if chosen and not reads_all:
            await self._about(inbox, row.forward_of)

    async def _check_attachments(self, row: Draft, data: bodies.UpdateDraft) -> None:
        """Raise where a draft would get too many attachments, before any of their bytes are moved."""
        content = await self._content(row) if data.add_attachments else None
        if content is None:
            return
        kept = len(content.attachments) - len(set(_texts(data.remove_attachments)))
        ensure_few_attachments(kept + len(data.add_attachments or ()), "add_attachments")

    async def _added(
        self, inbox: Inbox, data: bodies.UpdateDraft
    ) -> tuple[OutgoingAttachment, ...]:
        room = Room(self.uploads.largest)
        room.take_text(data.text or None, "text")
        room.take_text(data.html or None, "html")
        given = data.add_attachments or ()
        return await upload(self.uploads, inbox, given, room, "add_attachments")

    async def delete(self, inbox_id: str, draft_id: str) -> None:
        inbox = await self.inbox(inbox_id)
        await drafts.delete(
            self.db, self.server, inbox.place, _uuid(draft_id), patience=self.patience
        )

    async def send(
        self, inbox_id: str, draft_id: str, data: bodies.SendDraft, key: str | None
    ) -> sending.Outcome:
        """The outcome of sending a draft; of a request that was made before, that of the first."""
        idempotency.check_key(key)
        change = _label_change(data.add_labels, data.remove_labels)
        inbox = await self.inbox(inbox_id)
        which = _uuid(draft_id)
        mark = fingerprint(str(inbox.inbox_id), "drafts.send", [which, data])
        earlier = await sending.repeated(
            self.db, self.server, inbox=inbox, fingerprint=mark, key=key
        )
        if earlier is not None:
            return earlier
        return await dispatch.send(
            self.db,
            self.server,
            inbox=inbox,
            draft=await drafts.free(self.db, self.server, inbox.place, which),
            change=change,
            mark=mark,
            key=key,
            patience=self.patience,
            defaults=self.defaults,
        )

    async def whole(
        self, draft_id: str, *, inbox_id: UUID | None = None, pod_id: UUID | None = None
    ) -> tuple[Inbox, Draft, MailContent]:
        """A draft with what it says. One that is being replaced at this moment is looked for again."""
        which = _uuid(draft_id)
        for pause in READING_AGAIN:
            inbox, row = await self._find(which, inbox_id, pod_id)
            content = await self._content(row)
            if content is not None:
                return inbox, row, content
            await asyncio.sleep(pause)
        inbox, row = await self._find(which, inbox_id, pod_id)
        async with self.db.transaction() as tx:
            await messages.mark_due(tx, inbox.place)
            await drafts.doubt(tx, row)
        raise _no_draft()

    async def _content(self, row: Draft) -> MailContent | None:
        """What a draft says; None when this version of it is gone."""
        try:
            return (await drafts.read(self.server, row))[1]
        except MailServerRejected as error:
            if error.code is not Refusal.NO_MAIL:
                raise
            return None

    async def _find(
        self, draft_id: UUID, inbox_id: UUID | None, pod_id: UUID | None
    ) -> tuple[Inbox, Draft]:
        async with self.db.reading() as tx:
            row = await drafts.get(
                tx,
                organization_id=self.caller.organization_id,
                draft_id=draft_id,
                inbox_id=inbox_id,
                pod_id=pod_id,
            )
            inbox = await inboxes.get(tx, self.caller.reach, inboxes.public_id(row.inbox_id))
        return inbox, row

    async def _answer(self, inbox: Inbox, row: Draft, *, own: bool = False) -> bodies.Draft:
        """The draft for its author. It is written, so that it cannot be read now is no failure: told
        one, a caller would do it again. A key that may not read drafts is shown what it says only where
        that is the key's `own` words, and nobody of one that was sent: the message says it.
        """
        if row.state == "sent" or not (own or self.caller.may("draft_read")):
            return bodies.unread_draft(row, inbox.address)
        try:
            content = await self._content(row)
        except MailServerUnavailable:
            content = None
        return bodies.draft(row, inbox.address, content)


Drafting = NamedDependency[SkipValidation[Desk]]


async def provide_desk(
    db: Db,
    server: Server,
    uploads: inject.Uploads,
    settings: Config,
    caller: Caller,
) -> Desk:
    """The dependency `desk`."""
    defaults = limits.defaults(settings)
    return Desk(db, server, uploads, settings.stalwart_patience, defaults, caller)


def _check_kind(data: bodies.CreateDraft) -> None:
    if data.in_reply_to and data.forward_of:
        raise Invalid(
            "forward_of",
            "A draft is a reply or a forward, not both.",
            fix="Give in_reply_to or forward_of.",
        )
    if data.reply_all and not data.in_reply_to:
        raise Invalid(
            "reply_all",
            "There is no message whose recipients could be replied to.",
            fix="Give in_reply_to as well, or leave out reply_all.",
        )


def _label_change(add: bodies.Texts, remove: bodies.Texts) -> Change:
    """Labels a draft or the mail it becomes can have: those of the caller's own."""
    change = labels.change(add, remove)
    for field, named in (("add_labels", change.add), ("remove_labels", change.remove)):
        if refused := sorted(named & {UNREAD, TRASH}):
            raise Invalid(
                field,
                f"A draft cannot have the label {refused[0]!r}.",
                fix="Leave it out. A draft that is not wanted any more can be deleted.",
                detail="SYSTEM_LABEL",
            )
    return change


def _patch(data: bodies.UpdateDraft) -> Patch:
    removed = _texts(data.remove_attachments)
    ensure_few_attachments(len(removed), "remove_attachments")
    return Patch(
        to=UNSET if data.to is UNSET else addresses.parse_list(data.to, "to"),
        cc=UNSET if data.cc is UNSET else addresses.parse_list(data.cc, "cc"),
        bcc=UNSET if data.bcc is UNSET else addresses.parse_list(data.bcc, "bcc"),
        reply_to=UNSET
        if data.reply_to is UNSET
        else addresses.parse_list(data.reply_to, "reply_to"),
        subject=UNSET if data.subject is UNSET else data.subject or "",
        text=data.text,
        html=data.html,
        remove_attachments=tuple(removed),
    )


def _texts(given: bodies.Texts) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _uuid(text: str) -> UUID:
    try:
        return UUID(restore(text))
    except ValueError:
        raise _no_draft() from None


def _no_draft() -> NotFound:
    return NotFound("There is no such draft.")
