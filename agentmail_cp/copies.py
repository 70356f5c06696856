"""PURE: which stored mail stands for one that a client handed in over SMTP.

Of such a mail there may be two copies in Sent: the one its client saved and the one we put there because
no client seemed to (`submissions` says when). One message is shown for both: by the client's copy where
there is one. Ours carries the keyword `$sent`, which no mail client sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import DocumentId, Folder, Mail

Copies = Mapping[str, DocumentId | None]
"""Message-IDs (no brackets) that clients handed in, and our copy of each, None while there is none."""


class Sorted(msgspec.Struct, frozen=True):
    """What to do with mails the index does not know: those to add, and those that take the place of one
    that is shown, by its document.
    """

    new: list[Mail]
    moved: dict[DocumentId, Mail]


def sort_out(unknown: Sequence[Mail], copies: Copies, shown: Mapping[str, DocumentId]) -> Sorted:
    """Add what is shown by nothing else, and leave out our copies wherever there is another.

    `shown` says which document stands for a Message-ID of `copies` so far. A copy of ours that `copies`
    does not name is left out: whoever made it will record it or remove it.
    """
    standing = dict(shown)
    new: list[Mail] = []
    moved: dict[DocumentId, Mail] = {}
    for mail in sorted(unknown, key=lambda each: is_ours(each, copies)):
        name = mail.message_id
        if name is None or name not in copies or Folder.SENT not in mail.folders:
            new.append(mail)
            continue
        own, at = copies[name], standing.get(name)
        if is_ours(mail, copies):
            if at is not None or mail.document_id != own:
                continue
            new.append(mail)
        elif at is not None and at == own:
            moved[at] = mail
        else:
            new.append(mail)
        standing[name] = mail.document_id
    return Sorted(sorted(new, key=lambda mail: mail.document_id), moved)


def is_ours(mail: Mail, copies: Copies) -> bool:
    """Whether this is the copy we put into Sent of a mail a client handed in."""
    if mail.message_id is None or mail.message_id not in copies:
        return False
    own = copies[mail.message_id]
    return mail.document_id == own or (
        Folder.SENT in mail.folders and SENT_KEYWORD in mail.keywords
    )
