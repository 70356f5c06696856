"""Dispatch: a draft becomes a mail, because its author says so or because its time has come.

Both go the same way: look at what is in force in the mail server, compose a new mail of it, hand that in
through `sending`, then destroy the draft's document. The row in `send` and the draft are taken together,
so of a user and any number of schedulers one alone sends, and whatever a crash leaves is settled by
`sending` and `drafts`. Before anything is handed in, the mail server is asked whether the version that is
to be sent is still there and still the newest: what a mail client did a moment ago, and intake has not
read yet, stops it. Owns no table.

What a scheduled draft comes to:

======================================  ==============================================================
what happens                            the draft
======================================  ==============================================================
handed in                               is gone; its message is there
edited or deleted in a mail client      is unscheduled, or gone; the old version is not sent
mail server or PostgreSQL away          stays `scheduled`; tried again, each time later, for as long as
                                        it takes
no answer from the mail server          is `sending` until it is known, then gone or tried again
refused, nobody to send to, too large   has `failed`, `send_error` says why; a new `send_at` tries again
lists or a limit refuse it for good     the same
a limit refuses it for now              stays `scheduled`, `send_error` says why; tried again when the limit
                                        lets it go
parent of a forward deleted             has `failed`, as its words are missing
a request changes it at that moment     looked at again a moment later
the inbox deleted                       is gone with it
the process dies                        taken up by another within `drafts.FIRING`
======================================  ==============================================================
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec
import structlog

from agentmail_cp import drafts, filing, inboxes, messages, parents, sending
from agentmail_cp.access import Reach
from agentmail_cp.compose import Parent, compose_again, compose_forward, fingerprint
from agentmail_cp.db import Database
from agentmail_cp.drafts import Draft
from agentmail_cp.errors import (
    AgentMailError,
    Conflict,
    NotFound,
    RateLimited,
    Unavailable,
    Unprocessable,
)
from agentmail_cp.inboxes import Inbox
from agentmail_cp.labels import Change
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import (
    Mail,
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    OutgoingEmail,
    Refusal,
)
from agentmail_cp.sending import Outcome

log = structlog.stdlib.get_logger(__name__)

LOOK = 0.5
"""Seconds between two looks for drafts whose time has come."""

RECOVERY = 2.0
"""Seconds to wait when the database is away."""

NO_CHANGE = Change(frozenset(), frozenset())


async def send(
    db: Database,
    server: MailServer,
    *,
    inbox: Inbox,
    draft: Draft,
    change: Change,
    mark: bytes,
    key: str | None,
    patience: float,
    defaults: Limits,
) -> Outcome:
    """Send a draft now. `change` is to the labels its message gets; `mark` is the request's fingerprint.

    Raises as `sending.send`, `Conflict` when somebody else changes or sends it, or a mail client did, and
    `NotFound` when it is gone.
    """
    try:
        email = await _composed(db, server, inbox, draft, change)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise
        async with db.transaction() as tx:
            await messages.mark_due(tx, inbox.place)
            await drafts.unschedule(tx, draft)
            await drafts.doubt(tx, draft)
        raise drafts.edited_elsewhere() from error
    outcome = await sending.send(
        db,
        server,
        inbox=inbox,
        email=email,
        fingerprint=mark,
        key=key,
        patience=patience,
        defaults=defaults,
        answers_machine=await _answers_machine(db, server, inbox, email),
        draft=draft,
    )
    if not outcome.replayed:
        await _clear(db, server, inbox, draft)
    return outcome


async def _clear(db: Database, server: MailServer, inbox: Inbox, draft: Draft) -> None:
    """Take the document of a draft that was sent away. If that fails, `drafts.settle` does it later."""
    try:
        await drafts.clear_sent(db, server, inbox.place, draft)
    except (MailServerError, Unavailable):
        log.warning("draft.copy_left", draft_id=str(draft.draft_id))


async def _composed(
    db: Database, server: MailServer, inbox: Inbox, draft: Draft, change: Change
) -> OutgoingEmail:
    """The mail the version in force becomes. Rejected: NO_MAIL when that is not `draft`'s any more."""
    mail, content = await drafts.read(server, draft)
    await _ensure_current(db, server, inbox, mail)
    await drafts.ensure_addressed(server, inbox.place, draft, mail, content)
    message = drafts.as_message(mail, content, draft.kept_labels)
    custom = (set(message.labels) | change.add) - change.remove
    message = msgspec.structs.replace(message, labels=tuple(sorted(custom)))
    stamp = sending.stamp(inbox)
    if draft.forward_of is None:
        return compose_again(
            message, stamp, in_reply_to=mail.in_reply_to, references=mail.references, draft=False
        )
    parent = await _parent(db, server, inbox, draft.forward_of)
    # Takes time on a large parent.
    return await asyncio.to_thread(compose_forward, message, parent, stamp)


async def _ensure_current(db: Database, server: MailServer, inbox: Inbox, mail: Mail) -> None:
    """Raise NO_MAIL unless the mail is a draft still, and no newer copy has its Message-ID."""
    newer: tuple[Mail, ...] = ()
    if mail.message_id:
        async with db.reading() as tx:
            since = await messages.read_state(tx, inbox.place)
        newer = await server.find(inbox.account, mail.message_id, since)
    if not drafts.is_draft(mail, ()) or any(
        drafts.is_draft(each, ()) and each.document_id > mail.document_id for each in newer
    ):
        raise MailServerRejected(Refusal.NO_MAIL, "The draft was changed in a mail client.")


async def _answers_machine(
    db: Database, server: MailServer, inbox: Inbox, email: OutgoingEmail
) -> bool:
    """Whether the mail answers an automatic one: those say that they are automatic themselves."""
    said = any(name.lower() == "auto-submitted" for name, _ in email.headers)
    if not (said and email.in_reply_to):
        return False
    try:
        parent = await _read(db, server, inbox, f"<{email.in_reply_to[-1]}>")
    except NotFound:
        return False
    return parent.automatic


async def _read(db: Database, server: MailServer, inbox: Inbox, message_id: str) -> Parent:
    async with db.reading() as tx:
        message = await messages.get(
            tx,
            organization_id=inbox.organization_id,
            inbox_id=inbox.inbox_id,
            candidates=[message_id],
            masks=filing.visible_masks(filing.HIDING),
        )
    return await parents.read(server, inbox.account, message)


async def _parent(db: Database, server: MailServer, inbox: Inbox, message_id: str) -> Parent:
    try:
        return await _read(db, server, inbox, message_id)
    except NotFound as error:
        raise Unprocessable(
            "The message this draft forwards was deleted.",
            fix="Make a new draft; a forward is sent with the words of its message.",
            field="forward_of",
            detail="DELETED",
        ) from error


async def fire_due(db: Database, server: MailServer, *, patience: float, defaults: Limits) -> int:
    """Send every scheduled draft whose time has come; returns how many were tried."""
    tried = 0
    while due := await drafts.claim_due(db):
        await asyncio.gather(*(_fire(db, server, draft, patience, defaults) for draft in due))
        tried += len(due)
    return tried


async def _fire(
    db: Database, server: MailServer, draft: Draft, patience: float, defaults: Limits
) -> None:
    """Send one scheduled draft, or note why not. Never raises, so that it holds up no other."""
    name = str(draft.draft_id)
    try:
        await _fire_one(db, server, draft, patience, defaults)
    except (Unavailable, MailServerUnavailable, MailServerConfused) as error:
        log.warning("draft.postponed", draft_id=name, reason=type(error).__name__)
        await _noted(db, draft, None)
    except RateLimited as error:
        log.info("draft.held_back", draft_id=name, until=error.retry_at.isoformat())
        await _noted(db, draft, error.message, error.retry_at)
    except Conflict:
        log.info("draft.not_sent", draft_id=name)
    except NotFound:
        # Its inbox is being deleted, which may still come to nothing.
        await _noted(db, draft, None)
    except (AgentMailError, MailServerRejected) as error:
        log.warning("draft.failed", draft_id=name, reason=type(error).__name__)
        await _noted(db, draft, error.message if isinstance(error, AgentMailError) else error.text)
    except Exception:
        log.exception("draft.broken", draft_id=name)
        await _noted(db, draft, None)
    else:
        log.info("draft.sent", draft_id=name)


async def _fire_one(
    db: Database, server: MailServer, draft: Draft, patience: float, defaults: Limits
) -> None:
    async with db.reading() as tx:
        inbox = await inboxes.get(
            tx, Reach(draft.organization_id), inboxes.public_id(draft.inbox_id)
        )
    version = [draft.draft_id.hex, draft.document_id]
    mark = fingerprint(str(inbox.inbox_id), "drafts.scheduled", version)
    await send(
        db,
        server,
        inbox=inbox,
        draft=draft,
        change=NO_CHANGE,
        mark=mark,
        key=None,
        patience=patience,
        defaults=defaults,
    )


async def _noted(
    db: Database, draft: Draft, failure: str | None, until: datetime | None = None
) -> None:
    try:
        async with db.transaction() as tx:
            if failure is None:
                await drafts.postpone(tx, draft)
            elif until is not None:
                await drafts.hold_back(tx, draft, until, failure)
            else:
                await drafts.fail(tx, draft, failure)
    except Unavailable:
        # It is claimed for a while, and looked at again then.
        log.warning("draft.not_noted", draft_id=str(draft.draft_id))
