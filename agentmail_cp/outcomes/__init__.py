"""Outcomes: what became of mail that was sent, at each of its recipients.

Stalwart tells of the mails in its queue by the queue's own id. So it is noted which message each is while
Stalwart asks about it (`queued`), what it reports is written down before it is answered (`note`), and told
on a moment later under the inbox's lock (`apply_due`): the recipient's state, an event, labels of the
message, suppressions. Mails that report something (`listen`, `take`), refusals at the door (`sent`) and
complaints end in the same place. What is never heard of is asked about (`ask`).

Owns the tables `queued_mail`, `outcome_report` and `feedback_mail`, and is the only one who moves rows of
`recipients` on. A recipient moves in one direction only (`states`), so nothing is told twice, whoever repeats
it. Never sends anything, least of all to `<>`.

What can fail, and what happens then:

=====================================  =======================================================================
failure                                then
=====================================  =======================================================================
Stalwart repeats a batch               the same rows: nothing is told again
report before the message's record     it waits, 0.1 s at first, a minute at most, for a day
report before its queue id is known    it waits for a quarter of an hour
we or PostgreSQL away when told        Stalwart is not answered 2xx, and repeats it (for a day)
killed between writing and telling     the next worker tells it
killed while telling                   nothing is committed; as above
two workers                            each report is taken by one
Stalwart killed before it told         asked about: the queue says delivered, failed, delayed, or nothing
gone from the queue without a word     delivered, if it lies in a mailbox here; else a bounce's mail is waited
                                       for, then `unknown`, which later news ends
we were away when it was queued        Stalwart names its Message-ID with a delivery to a mailbox here and in
                                       the queue; else as above
the message is deleted                 nothing is told any more; a bounce's mail is an ordinary message
the mail server away when asked        asked again a minute later
=====================================  =======================================================================
"""

from __future__ import annotations

from agentmail_cp.outcomes.feedback import NOTHING_TOLD, Told, documents, listen, remove, take
from agentmail_cp.outcomes.record import erase, forget_old, note, queued
from agentmail_cp.outcomes.settlement import apply_due, handed_in, sent
from agentmail_cp.outcomes.watching import Watching, ask, take_complaints
from agentmail_cp.recipients import Recipient, of

__all__ = [
    "NOTHING_TOLD",
    "Recipient",
    "Told",
    "Watching",
    "apply_due",
    "ask",
    "documents",
    "erase",
    "forget_old",
    "handed_in",
    "listen",
    "note",
    "of",
    "queued",
    "remove",
    "sent",
    "take",
    "take_complaints",
]
