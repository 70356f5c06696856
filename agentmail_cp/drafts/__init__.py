"""Drafts: unfinished mails, kept in the mail server's Drafts, so that mail clients see and edit them too.

Owns the table `draft`: one row per draft, without its body. Mail cannot change in place, so a *version* of
a draft is a document id; those this service writes carry a Message-ID that holds draft id and version
number, those of mail clients their own. A draft is known by what is in its Message-ID, so a copy that a
mail client saves anew is the same draft, and a database read again from the mail server names drafts as
before. The newest copy in Drafts that is not marked `$deleted` is the one in force. States of a row:

`storing` (announced, its document on the way; nobody is shown it) → `draft` ⇄ `updating` (a change is on
its way) | `sending` (exactly while its row in `send` is open) | `deleting` (gone for callers) → gone.
`sending` → `sent` (gone for callers; its document is still to be destroyed) → gone; a row with a
`client_id` stays `sent` for good, bare of what it said, so that no repetition of its creation, however
late, makes a second mail.

`lease_until` is how long whoever works on a `storing`, `updating`, `deleting` or `sent` row is believed to
be alive; then `settle` finishes it. Of a `draft` row it is when the version in force is looked for, until
intake has read it. Beside the state, `send_status` says what the schedule is: none,
`scheduled` (to be sent at `send_at`) or `failed`. Whatever anybody but this service does to a scheduled
draft's document takes the schedule away: nothing is ever sent that its author has not seen last.
What intake reads is always noted at once, also while a row is being worked on; whoever works on it then
finds its version gone and gives way. Nothing here sends: `dispatch` does.

What can fail, what the caller gets, and what happens next:

=====================================  ==========================  =====================================
failure                                answer                      next
=====================================  ==========================  =====================================
bad input, parent missing              400 / 404 / 422             nothing was written
client_id used before                  200, the stored draft       nothing was written
client_id of a draft that was sent     200, that it was sent       nothing was written
client_id still being stored           409, `Retry-After`          the first request answers
Idempotency-Key used before            201, the stored draft       nothing was written
refused by the mail server             400 / 403                   no draft; a changed one stays as it was
mail server away before the request    503, `Retry-After`          no draft; a changed one stays as it was
no answer while creating               503, `Retry-After`          no draft: what was stored is destroyed
no answer while updating               503, `Retry-After`          settled: all of the change or none of it;
                                                                   the same request again is told which
no answer while deleting               204                         gone; the document is destroyed later
two changes at once                    409, `Retry-After`          the first is carried out
edited in a mail client meanwhile      409 `conflict`              the client's version stays, unscheduled
deleted in a mail client meanwhile     409, then 404               no draft
change while it is being sent          409, `Retry-After`          it is sent as it was
crash while creating                   connection lost             lease ends: the document is destroyed
crash while creating with a key        connection lost             as above; repeated, one of the same id
crash while updating                   connection lost             lease ends: all of the change or none
crash while deleting                   connection lost             lease ends: the document is destroyed
crash after sending                    connection lost             lease ends: the document is destroyed
=====================================  ==========================  =====================================
"""

from __future__ import annotations

from agentmail_cp.drafts.content import Patch, as_message, attachment_ids
from agentmail_cp.drafts.draft import (
    Draft,
    DraftFilter,
    get,
    list_page,
    message_id_of,
)
from agentmail_cp.drafts.record import documents, erase, is_draft, record
from agentmail_cp.drafts.rows import NewDraft, Where, doubt
from agentmail_cp.drafts.schedule import (
    begin_sending,
    check_send_at,
    claim_due,
    ended,
    fail,
    hold_back,
    postpone,
    sent,
    unschedule,
    unschedule_all,
)
from agentmail_cp.drafts.settlement import clear_sent, settle
from agentmail_cp.drafts.writing import (
    Revision,
    create,
    delete,
    edited_elsewhere,
    ensure_addressed,
    free,
    left_over,
    made_before,
    read,
    update,
)

__all__ = [
    "Draft",
    "DraftFilter",
    "NewDraft",
    "Patch",
    "Revision",
    "Where",
    "as_message",
    "attachment_ids",
    "begin_sending",
    "check_send_at",
    "claim_due",
    "clear_sent",
    "create",
    "delete",
    "documents",
    "doubt",
    "edited_elsewhere",
    "ended",
    "ensure_addressed",
    "erase",
    "fail",
    "free",
    "get",
    "hold_back",
    "is_draft",
    "left_over",
    "list_page",
    "made_before",
    "message_id_of",
    "postpone",
    "read",
    "record",
    "sent",
    "settle",
    "unschedule",
    "unschedule_all",
    "update",
]
