"""Making, changing and deleting drafts: the row first, then the mail server, then the row again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from agentmail_cp import addresses, idempotency, messages, sizes
from agentmail_cp.compose import SendMessage, Stamp, compose_again
from agentmail_cp.db import Database, fetch_one
from agentmail_cp.drafts import rows
from agentmail_cp.drafts.content import (
    Patch,
    as_message,
    attachment_ids,
    revised,
    stored_mail,
    unreachable,
)
from agentmail_cp.drafts.draft import COLUMNS, Draft, identify, message_id_of, no_draft, row_of
from agentmail_cp.drafts.rows import NewDraft, Where
from agentmail_cp.drafts.settlement import claim, clear, settle_claimed
from agentmail_cp.errors import (
    AgentMailError,
    Conflict,
    Forbidden,
    Invalid,
    MessageRejected,
    Unavailable,
)
from agentmail_cp.filing import Place
from agentmail_cp.idempotency import Claim
from agentmail_cp.labels import Change, decode_all, encode
from agentmail_cp.mailserver import (
    Mail,
    MailContent,
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    OutgoingEmail,
    Refusal,
    Relabel,
    Stored,
)

log = structlog.stdlib.get_logger(__name__)

MARGIN = timedelta(seconds=3)
"""What a lease is longer than the mail server may take."""


VISIBLE = frozenset({"draft", "updating", "sending"})
"""States in which callers are shown a draft."""

LONGEST_HEADERS = 262_144
"""Bytes of a raw mail in which its recipients are looked for."""


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a draft, all of it or nothing. `fingerprint` tells a repeated request from another,
    `may_send` whether who asks for it may also have the draft sent.
    """

    patch: Patch
    labels: Change
    send_at: datetime | UnsetType | None
    fingerprint: bytes
    may_send: bool = True

    def schedule(self, row: Draft) -> datetime | None:
        """When the changed draft is to be sent. A failure is over with any change."""
        if self.send_at is not UNSET:
            return self.send_at
        return row.send_at if row.send_status == "scheduled" else None

    def check_allowed(self, row: Draft) -> None:
        """Raise `Forbidden` when it would change what is sent, and who asks for it may not send."""
        if not self.may_send and not self.patch.empty and self.schedule(row) is not None:
            raise Forbidden(
                "This draft is scheduled: changing it takes the permission draft_send.",
                fix="Take its schedule away with send_at null, or use a key with draft_send.",
                code="missing_permission",
            )


async def made_before(
    db: Database, server: MailServer, place: Place, client_id: str
) -> Draft | None:
    """The draft that a creation with this client_id made; one that nobody finished is taken back.

    One that was sent is its bare row. Raises `Conflict` while it is being made.
    """
    async with db.reading() as tx:
        row = await fetch_one(
            tx,
            Draft,
            f"select {COLUMNS} from draft where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and client_id = %(client_id)s",
            {
                "inbox_id": place.inbox_id,
                "organization_id": place.organization_id,
                "client_id": client_id,
            },
        )
    if row is None or row.state in VISIBLE or row.state == "sent":
        return row
    await _settle_first(db, server, row)
    return None


async def left_over(db: Database, server: MailServer, place: Place, draft_id: UUID) -> Draft | None:
    """What an attempt to make this draft left that died: taken back, unless intake found a copy of it that
    was stored late and is a draft by now. Raises `Conflict` while the attempt may be alive.
    """
    async with db.reading() as tx:
        row = await row_of(
            tx,
            {
                "inbox_id": place.inbox_id,
                "organization_id": place.organization_id,
                "draft_id": draft_id,
            },
        )
    if row is None or row.state in VISIBLE:
        return row
    await _settle_first(db, server, row)
    return None


async def create(
    db: Database, server: MailServer, where: Where, new: NewDraft, claim: Claim, *, patience: float
) -> Draft:
    """Store a new draft. `claim` is on the Idempotency-Key it was asked for with, and done with it;
    `patience` is the longest the mail server may take, in seconds.

    Raises `Invalid` TOO_LARGE, and `Conflict` when another request with the same client_id was first;
    see the package's table.
    """
    sizes.check(new.email, where.largest)
    patience += sizes.patience(sizes.size_of(new.email))
    lease = timedelta(seconds=patience) + MARGIN
    async with db.transaction() as tx:
        row = await rows.announce(tx, where, new, lease)
        await idempotency.extend(tx, claim, lease)
    if row is None:
        raise _busy("Another request with this client_id is making the draft.")
    try:
        async with asyncio.timeout(patience):
            stored = await server.store_draft(row.account_id, new.email)
    except (MailServerError, TimeoutError) as error:
        raise await _unmade(db, row, error) from error
    mail = await _indexed(new.email, stored)
    async with db.transaction() as tx:
        await messages.mark_due(tx, where.place)
        draft = await rows.made(tx, row, mail)
        if draft is not None:
            await idempotency.complete(tx, claim, draft.draft_id)
    if draft is None:
        await _destroy(server, row, mail)
        raise Unavailable("Making the draft took too long; no draft was made.")
    return draft


async def _unmade(
    db: Database, row: Draft, error: MailServerError | TimeoutError
) -> AgentMailError:
    """No draft was made; what the mail server may hold of it all the same is destroyed later."""
    async with db.transaction() as tx:
        await (rows.abandon if _reached(error) else rows.unmake)(tx, row)
    if isinstance(error, MailServerRejected):
        return rejection(error)
    return Unavailable(
        "The mail server is not answering; no draft was made.", retry_after=_retry_after(error)
    )


def _reached(error: Exception) -> bool:
    """Whether the mail server may have done what it was asked."""
    match error:
        case MailServerUnavailable():
            return error.reached
        case MailServerConfused() | TimeoutError():
            return True
        case _:
            return False


def _retry_after(error: Exception) -> float:
    return error.retry_after if isinstance(error, MailServerUnavailable) else 5.0


async def _indexed(email: OutgoingEmail, stored: Stored) -> Mail:
    if email.text is not None or email.html is None:
        return stored_mail(email, stored)
    # Text is made of HTML, which takes time on a large mail.
    return await asyncio.to_thread(stored_mail, email, stored)


async def _destroy(server: MailServer, row: Draft, mail: Mail) -> None:
    """Take back a version that came to nothing. One that stays shows up as an unscheduled draft."""
    try:
        await server.destroy_mail(row.account_id, [mail.document_id])
    except MailServerError:
        log.warning("draft.copy_left", draft_id=str(row.draft_id))


async def update(
    db: Database,
    server: MailServer,
    where: Where,
    draft_id: UUID,
    revision: Revision,
    *,
    patience: float,
) -> Draft:
    """Change a draft: what it says, its labels, its schedule, all together or not at all.

    Raises `NotFound`, `Conflict` while somebody else is at it or when a mail client changed it, `Invalid`
    as `compose_again` and `revised`, `Forbidden` as `Revision.check_allowed`, and `Unavailable`.
    """
    current = await free(db, server, where.place, draft_id)
    if current.change == revision.fingerprint:
        async with db.transaction() as tx:
            await rows.told(tx, current)
        return current
    revision.check_allowed(current)
    if revision.patch.empty and revision.labels.empty:
        return await _rescheduled(db, current, revision)
    added = sum(each.size for each in revision.patch.add_attachments)
    patience += sizes.patience(current.size + added)
    async with db.transaction() as tx:
        row = await rows.take(
            tx,
            current,
            change=revision.fingerprint,
            send_at=revision.schedule(current),
            lease=timedelta(seconds=patience) + MARGIN,
        )
    if row is None:
        raise _busy("Another request is changing this draft.")
    try:
        async with asyncio.timeout(patience):
            mail, besides = await _carried_out(server, where, row, revision)
    except (AgentMailError, MailServerError, TimeoutError) as error:
        raise await _unchanged(db, where.place, row, error) from error
    async with db.transaction() as tx:
        await messages.mark_due(tx, where.place)
        changed = await rows.written(tx, row, mail, besides)
    return changed or await _give_way(db, server, row, mail)


async def _carried_out(
    server: MailServer, where: Where, row: Draft, revision: Revision
) -> tuple[Mail, frozenset[str]]:
    """Bring the mail server to the change; the mail that is then the draft, and labels it has besides."""
    mail, content = await read(server, row)
    if revision.patch.empty:
        return await _relabelled(server, row, mail, revision.labels)
    kept = [each for each in ("to", "cc", "bcc") if getattr(revision.patch, each) is UNSET]
    await ensure_addressed(server, where.place, row, mail, content, kept)
    message = _changed(row, mail, content, revision)
    stamp = Stamp(
        where.sender,
        message_id_of(row.draft_id, row.version, where.place.domain),
        datetime.now(UTC).replace(microsecond=0),
    )
    email = compose_again(
        message, stamp, in_reply_to=mail.in_reply_to, references=mail.references, draft=True
    )
    sizes.check(email, where.largest)
    stored = await server.store_draft(row.account_id, email, replaces=mail.document_id)
    return await _indexed(email, stored), decode_all(stored.no_room)


async def ensure_addressed(
    server: MailServer,
    place: Place,
    row: Draft,
    mail: Mail,
    content: MailContent,
    fields: Sequence[str] = ("to", "cc", "bcc"),
) -> None:
    """Raise `Invalid` for a recipient in these fields that a person has not written to the end: the mail
    server leaves it out of what it tells, but to leave it out of the mail would be a surprise.
    """
    _, version = identify(place, mail)
    if version is not None or not fields:
        return
    chunks = server.download(row.account_id, content.raw_blob_id, stop=LONGEST_HEADERS)
    head = b"".join([chunk async for chunk in chunks])
    for field in fields:
        for each in unreachable(head, field):
            addresses.parse(each, field)


async def read(server: MailServer, row: Draft) -> tuple[Mail, MailContent]:
    """The version in force. Rejected: NO_MAIL when it is gone, and the intake has not heard of it."""
    wanted = [row.document_id] if row.document_id is not None else []
    mails, contents = await asyncio.gather(
        server.fetch(row.account_id, wanted), server.read(row.account_id, wanted)
    )
    if not mails or mails[0].document_id not in contents:
        raise MailServerRejected(Refusal.NO_MAIL, "The draft is gone.")
    return mails[0], contents[mails[0].document_id]


def _changed(row: Draft, mail: Mail, content: MailContent, revision: Revision) -> SendMessage:
    named = attachment_ids(row.draft_id, content.attachments)
    message = revised(as_message(mail, content, row.kept_labels), revision.patch, named)
    custom = (set(message.labels) | revision.labels.add) - revision.labels.remove
    return msgspec.structs.replace(message, labels=tuple(sorted(custom)))


async def _relabelled(
    server: MailServer, row: Draft, mail: Mail, change: Change
) -> tuple[Mail, frozenset[str]]:
    add = frozenset(map(encode, change.add))
    remove = frozenset(map(encode, change.remove))
    wanted = Relabel(mail.document_id, add=add, remove=remove)
    left_out = await server.relabel(row.account_id, [wanted])
    no_room = left_out.get(mail.document_id, frozenset())
    keywords = (mail.keywords | (add - no_room)) - remove
    kept = frozenset(row.kept_labels) - change.add - change.remove
    return msgspec.structs.replace(mail, keywords=keywords), kept | decode_all(no_room)


async def _unchanged(db: Database, place: Place, row: Draft, error: Exception) -> Exception:
    """The change came to nothing, or nobody knows yet what it came to."""
    gone = isinstance(error, MailServerRejected) and error.code is Refusal.NO_MAIL
    async with db.transaction() as tx:
        if gone:
            await messages.mark_due(tx, place)
        await (rows.expire if _reached(error) else rows.release)(tx, row)
    if gone:
        return edited_elsewhere()
    if isinstance(error, MailServerRejected):
        return rejection(error)
    if isinstance(error, AgentMailError):
        return error
    return Unavailable(
        "The mail server is not answering; it is not known whether the draft was changed."
        if _reached(error)
        else "The mail server is not answering; the draft was not changed.",
        fix="Repeat the request: it is carried out once.",
        retry_after=_retry_after(error),
    )


def edited_elsewhere() -> Conflict:
    return Conflict(
        "The draft was changed or deleted in a mail client meanwhile.",
        fix="Get the draft again, and repeat the request if it still makes sense.",
    )


async def _give_way(db: Database, server: MailServer, row: Draft, mail: Mail) -> Draft:
    """The change is carried out, but the row is another one now."""
    async with db.reading() as tx:
        current = await row_of(tx, row.key)
    if current is None or current.lease_until != row.lease_until:
        # Too late: whoever took the row looks at what is stored, and decides.
        raise Unavailable(
            "Changing the draft took too long; it is being found out whether it was changed.",
            fix="Repeat the request: it is carried out once.",
        )
    if mail.document_id != row.taken:
        await _destroy(server, row, mail)
    async with db.transaction() as tx:
        await rows.release(tx, row)
    raise edited_elsewhere()


async def _rescheduled(db: Database, row: Draft, revision: Revision) -> Draft:
    if revision.send_at is UNSET:
        return row
    async with db.transaction() as tx:
        changed = await rows.reschedule(tx, row, revision.send_at)
    if changed is None:
        raise _busy("Another request is changing this draft.")
    return changed


async def delete(
    db: Database, server: MailServer, place: Place, draft_id: UUID, *, patience: float
) -> None:
    """Delete a draft, and its schedule with it. When the mail server is away the draft stays; when only
    its answer is missing, the deletion stands and `settle` finishes it.
    """
    current = await free(db, server, place, draft_id)
    async with db.transaction() as tx:
        row = await rows.set_deleting(tx, current, timedelta(seconds=patience) + MARGIN)
    if row is None:
        raise _busy("Another request is changing this draft.")
    try:
        async with asyncio.timeout(patience):
            await clear(db, server, place, row)
    except (MailServerError, TimeoutError) as error:
        if _reached(error):
            return
        async with db.transaction() as tx:
            await rows.undelete(tx, row)
        raise Unavailable(
            "The mail server is not answering; the draft was not deleted.",
            retry_after=_retry_after(error),
        ) from error


async def free(db: Database, server: MailServer, place: Place, draft_id: UUID) -> Draft:
    """The draft, with nobody at work on it; one whose lease is over is settled first."""
    key = {
        "inbox_id": place.inbox_id,
        "organization_id": place.organization_id,
        "draft_id": draft_id,
    }
    async with db.reading() as tx:
        row = await row_of(tx, key)
    if row is not None and row.state == "updating":
        await _settle_first(db, server, row)
        async with db.reading() as tx:
            row = await row_of(tx, key)
    if row is None or row.state in {"storing", "deleting", "sent"}:
        raise no_draft()
    if row.state == "sending":
        raise _busy("The draft is being sent.")
    return row


async def _settle_first(db: Database, server: MailServer, row: Draft) -> None:
    claims = await claim(db, row)
    if not claims:
        left = (row.lease_until - datetime.now(UTC)).total_seconds() if row.lease_until else 1.0
        raise _busy("Another request is making or changing this draft.", left)
    try:
        await settle_claimed(db, server, claims[0])
    except MailServerError as error:
        async with db.transaction() as tx:
            await rows.expire(tx, claims[0].row)
        raise Unavailable(
            "The mail server is not answering.", retry_after=_retry_after(error)
        ) from error


def _busy(message: str, seconds: float = 1.0) -> Conflict:
    return Conflict(
        message,
        fix="Repeat the request after Retry-After seconds.",
        retry_after=min(max(1.0, seconds), 5.0),
    )


def rejection(error: MailServerRejected) -> AgentMailError:
    """What a caller is told of a draft the mail server does not take."""
    match error.code:
        case Refusal.TOO_LARGE:
            return Invalid("body", f"The draft was refused: {error.text}", detail="TOO_LARGE")
        case Refusal.NO_BLOB:
            return Unavailable(
                "An attachment was lost on its way; the draft stays as it was.", retry_after=1.0
            )
        case Refusal.OVER_QUOTA:
            return Forbidden(f"The draft was refused: {error.text}")
        case Refusal.INVALID_MAIL:
            return Invalid("body", f"The draft was refused: {error.text}")
        case _:
            return MessageRejected(f"The draft was refused: {error.text}")
