"""Mail that a client hands in over SMTP: that it keeps to policy, and shows up as sent, in its thread, once.

Stalwart asks about each recipient (`check_recipient`) and about the whole mail (`take`), and tells the client
what `policy` says. It saves no copy of such a mail, mail clients save their own a moment later, scripts save
none. So the mail's bytes are put aside and a row is written, which counts it for `limits`, before the client
hears that it was sent. After a while (`settle`) either the client's copy is in Sent, or ours is put there.
If the client's comes later still, ours is removed; the message in the index stays, and points to the other
copy from then on.

Owns the table `submission`. A row is `pending` until the mail is in the index, then `imported` (by our
copy, `document_id`) or `done` (by the client's); an imported one becomes done when the client's copy comes.
`due_at` is when to look next, and tells attempts apart: who took a row with another one no longer decides
about it. Our copies carry the keyword `$sent`; while a row is pending nobody but `settle` records one.
Until the mail is filed its Message-ID is kept free: a mail to oneself is received first. Rows are
forgotten a day after the mail; from then on a copy that shows up is a message of its own, and so is a mail
that comes again.
Never sends or changes a mail, but for giving it a Message-ID.

What can fail, and what happens then:

========================================  ==============================================================
failure                                   then
========================================  ==============================================================
we, PostgreSQL or JMAP away when asked    the client is told to try again (4xx); nothing shows up
too slow when asked                       as above, and before Stalwart stops waiting
our copy refused for good when asked      the mail is sent, does not show up, and is logged as an error
crash before the row was written          the client is told to try again; the upload is thrown away
crash after the row was written           the client is told to try again, but the mail shows up as sent
                                          when it is due; the next try has the same Message-ID, and no
                                          second row (one that is given its Message-ID shows up twice)
refused by Stalwart after our answer      the same: its queue is full (452) or cannot be written (451)
the client tries again, mail queued       one row, counted once; its recipients may get two mails, as ever in
                                          SMTP
the same mail handed in twice             one row; only recipients it did not have before are counted, until
                                          it has come more often than clients try again
another mail under its Message-ID         it gets a Message-ID of its own, a row, and counts
a Message-ID of a message there is        the same, whoever sent it and when, by the API too; but for the copy
                                          of this mail, saved by its client less than an hour before
policy refuses it                         the client is told why (5xx, or 4xx where waiting helps); no row
crash while a row is looked at            taken up again after its lease; what is in Sent is looked at
crash after our copy was put into Sent    it is found by its keyword, recorded then, not put there again
our copy put there twice, unknowingly     intake sees the other one, and all but one are removed
client's copy comes while ours is put     both found, ours is removed
client's copy comes after ours            intake moves the message to it, then ours is removed
crash before ours is removed              the row is still due: removed then
the message deleted meanwhile             not put there again
mail server away when due                 tried again every second
inbox deleted meanwhile                   done
nobody looked for a day                   Stalwart has thrown the upload away: lost, and logged as an error
========================================  ==============================================================
"""

from __future__ import annotations

from agentmail_cp.submissions.mail import (
    GivenId,
    HandedIn,
    copy_of,
    hidden_recipients,
    message_id_of,
)
from agentmail_cp.submissions.record import copies, forget_old, note
from agentmail_cp.submissions.settlement import LOOK, settle
from agentmail_cp.submissions.taking import PATIENCE, check_recipient, take

__all__ = [
    "LOOK",
    "PATIENCE",
    "GivenId",
    "HandedIn",
    "check_recipient",
    "copies",
    "copy_of",
    "forget_old",
    "hidden_recipients",
    "message_id_of",
    "note",
    "settle",
    "take",
]
