"""PURE: from a stored draft to the mail it says, and to the mail it becomes after a change.

A draft written in a mail client holds anything: what cannot stand in a mail of ours is left out or tamed,
never refused, so that whatever a person wrote can be changed and sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import extract, labels
from agentmail_cp.addresses import mailable, tame
from agentmail_cp.compose import MAX_SUBJECT, SendMessage, again, ensure_few_attachments, settable
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import (
    Address,
    Attachment,
    DocumentId,
    Folder,
    Mail,
    MailContent,
    OutgoingAttachment,
    OutgoingEmail,
    Stored,
)

_CLIENTS_OWN = (
    "x-mozilla-",
    "x-identity-key",
    "x-account-key",
    "x-apple-",
    "x-uniform-type",
    "x-ms-",
)
"""What mail clients note for themselves in a draft; none of it is for the recipients."""

_NOT_TO_BE_SENT = frozenset(
    {"fcc", "bcc", "user-agent", "x-unsent", "x-universally-unique-identifier"}
)


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """A checked change to what a draft says. UNSET leaves a field as it is, None or () clears it."""

    to: tuple[Address, ...] | UnsetType = UNSET
    cc: tuple[Address, ...] | UnsetType = UNSET
    bcc: tuple[Address, ...] | UnsetType = UNSET
    reply_to: tuple[Address, ...] | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    text: str | UnsetType | None = UNSET
    html: str | UnsetType | None = UNSET
    add_attachments: tuple[OutgoingAttachment, ...] = ()
    remove_attachments: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self == _NOTHING


_NOTHING = Patch()


def as_message(mail: Mail, content: MailContent, kept: Iterable[str]) -> SendMessage:
    """What a stored draft says, in the form mails are composed of. `kept` are its labels that no keyword
    holds.
    """
    return SendMessage(
        to=_addresses(mail.to),
        cc=_addresses(mail.cc),
        bcc=_addresses(mail.bcc),
        reply_to=_addresses(mail.reply_to),
        subject=tame(mail.subject or "")[:MAX_SUBJECT],
        text=_body(content.text),
        html=_body(content.html),
        headers=_own_headers(content.headers),
        labels=tuple(sorted(labels.decode_all(mail.keywords).union(kept))),
        attachments=tuple(map(again, content.attachments)),
    )


def _addresses(found: Sequence[Address]) -> tuple[Address, ...]:
    return tuple(fit for each in found if (fit := mailable(each)) is not None)


def unreachable(raw: bytes, field: str) -> list[str]:
    """What stands in a raw mail's `field` (to, cc or bcc) and is no address, like a name its author has not
    finished yet. Mail servers leave such a thing out of the addresses they tell.
    """
    values = [str(value) for value in BytesHeaderParser().parsebytes(raw).get_all(field, [])]
    found = [(name, address) for name, address in getaddresses(values) if name or address]
    return [address or name for name, address in found if mailable(Address(address)) is None]


def _body(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "")


def _own_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that somebody chose for the mail's recipients."""
    return settable(
        (name, value)
        for name, value in headers
        if name.lower() not in _NOT_TO_BE_SENT and not name.lower().startswith(_CLIENTS_OWN)
    )


def revised(message: SendMessage, patch: Patch, attachment_ids: Sequence[UUID]) -> SendMessage:
    """The message after a change. `attachment_ids` are those of its attachments, in their order.

    Raises `Invalid` when there is no such attachment to remove, and TOO_MANY_ATTACHMENTS; a draft that has
    more from a mail client can still be changed otherwise.
    """
    fields = {
        name: value
        for name in ("to", "cc", "bcc", "reply_to", "subject", "text", "html")
        if (value := getattr(patch, name)) is not UNSET
    }
    unwanted = {each.lower() for each in patch.remove_attachments}
    known = [str(each) for each in attachment_ids]
    if missing := sorted(unwanted - set(known)):
        raise Invalid(
            "remove_attachments",
            f"The draft has no attachment {missing[0][:64]!r}.",
            fix="Get the draft again and use the attachment_id of one it has.",
        )
    named = zip(known, message.attachments, strict=True)
    kept = [attachment for name, attachment in named if name not in unwanted]
    attachments = (*kept, *patch.add_attachments)
    if patch.add_attachments:
        ensure_few_attachments(len(attachments), "add_attachments")
    return msgspec.structs.replace(message, **fields, attachments=attachments)


def attachment_ids(draft_id: UUID, attachments: Sequence[Attachment]) -> list[UUID]:
    """The ids of a draft's attachments, in their order: the same in every version that has them, while
    the numbers of parts change with each.
    """
    seen: Counter[str] = Counter()
    ids: list[UUID] = []
    for each in attachments:
        name = f"{each.filename}\0{each.content_type}\0{each.size}\0{each.content_id}"
        ids.append(uuid5(draft_id, f"{name}\0{seen[name]}"))
        seen[name] += 1
    return ids


def stored_mail(email: OutgoingEmail, stored: Stored) -> Mail:
    """What the index needs of a draft just stored, without asking for it back."""
    text = email.text
    if text is None and email.html is not None:
        text = extract.text_of(email.html)
    mail = draft_mail(email, stored.document_id, stored.size, extract.preview(text or ""))
    return msgspec.structs.replace(mail, keywords=email.keywords - stored.no_room)


def draft_mail(email: OutgoingEmail, document_id: DocumentId, size: int, preview: str = "") -> Mail:
    return Mail(
        document_id=document_id,
        folders=frozenset({Folder.DRAFTS}),
        keywords=email.keywords,
        received_at=email.date,
        message_id=email.message_id,
        in_reply_to=email.in_reply_to,
        references=email.references,
        subject=email.subject,
        sender=email.sender,
        to=email.to,
        cc=email.cc,
        bcc=email.bcc,
        reply_to=email.reply_to,
        size=size,
        has_attachment=bool(email.attachments),
        preview=preview,
    )
