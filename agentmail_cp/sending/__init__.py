"""Sending: one mail, handed in effectively once.

Owns the table `send`: one row per send, written before the mail server is asked, without a body.
`submitting` → `sent` | `refused` | `abandoned`; `unknown` when no answer came or whoever submitted it
is gone. A row whose `lease_until`
has passed in `submitting` or `unknown` is settled before anything is sent again: `find_own` looks for the
copy by its Message-ID, never in a search index. `lease_until` also tells attempts apart: who took a row
with another one no longer decides about it. Threads, index row and event are written together when the
outcome is known. Nothing is ever handed in from here without a row. Where the mail was made of a draft
(`draft_id`), whatever begins or ends the send does the same to the draft, in the same transaction. So it
is with what `limits` counts: the statement that begins a send counts it, the one that says that nothing
left gives it back. A row whose lease runs is also what the mail server's hook recognises our own mail by
(`is_under_way`). `policy` is asked before, unless an earlier attempt of the same request may have left.

What can fail, what the caller gets, and what happens next:

=====================================  ==========================  =====================================
failure                                answer                      next
=====================================  ==========================  =====================================
bad input                              400 / 422                   nothing was written
same key, other body, inbox, endpoint  409 `conflict`              nothing was written; a key used to make
                                                                   something is in `idempotency`
same key, first attempt still running  409, `Retry-After`          the first attempt answers
lists refuse a recipient               403 `message_rejected`      nothing was written
a limit refuses it for good            403 `limit_exceeded`        nothing was written
a limit refuses it for now             429, `Retry-After`          nothing was written
refused for every recipient            403 `message_rejected`      copy destroyed; `refused`; may be repeated
refused for some recipients            200, `rejected` names them  `sent`
refused as a whole (size, sender …)    400 / 403                   nothing stored; `refused`; may be repeated
Stalwart away before the request       503, `Retry-After`          `abandoned`; nothing sent; may be repeated
no answer to the request               503, `Retry-After`          `unknown`; settled on the next try with
                                                                   the same key or body, else by the job,
                                                                   and such a try gets that outcome
answer not understood                  503, `Retry-After`          `unknown`, as above
PostgreSQL away before the request     503, `Retry-After`          nothing was written, nothing sent
PostgreSQL away after the request      503, `Retry-After`          `submitting`, settled after its lease
crash before the request               connection lost             lease ends: no copy → `abandoned`
crash after the copy was stored        connection lost             lease ends: copy destroyed, `abandoned`
crash after the mail was handed in     connection lost             lease ends: recorded, `sent`, event
crash after a refusal for all          connection lost             lease ends: copy destroyed, `refused`
crash after recording                  connection lost             same key: the recorded answer
=====================================  ==========================  =====================================
"""

from __future__ import annotations

from agentmail_cp.sending.attempt import repeated, send, stamp
from agentmail_cp.sending.record import (
    Answer,
    Outcome,
    Refused,
    Send,
    forget_old,
    is_under_way,
    live_message_ids,
)
from agentmail_cp.sending.settlement import settle

__all__ = [
    "Answer",
    "Outcome",
    "Refused",
    "Send",
    "forget_old",
    "is_under_way",
    "live_message_ids",
    "repeated",
    "send",
    "settle",
    "stamp",
]
