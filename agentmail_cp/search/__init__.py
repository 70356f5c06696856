"""Search: which messages and threads hold what a caller looks for, best first.

Owns no table. Subject and addresses are matched by substring from our own index (`envelope`), so mail is
found the moment it is listed; words of bodies are asked of the mail server's full-text index, which lags
behind. Every word of the query must stand somewhere in the message. Messages that are spam, trash, blocked
or unauthenticated are never found, nor is what the index does not hold (any more). A thread is found
when one of its messages is.

The order is total: by rank (`Rank`), within a rank newest first, then by id. A page is continued by rank,
time and id, so messages that come and go shift nothing. When the mail server is away or has more hits
than are looked at, the answer is what is known, and `complete` is False.
"""

from __future__ import annotations

from agentmail_cp.search.hits import Hits, MessageHit, ThreadHit
from agentmail_cp.search.lookup import Query, Scope, messages, parse, threads
from agentmail_cp.search.ranking import Rank

__all__ = [
    "Hits",
    "MessageHit",
    "Query",
    "Rank",
    "Scope",
    "ThreadHit",
    "messages",
    "parse",
    "threads",
]
