"""The message index: what each inbox holds, as far as lists and threads need to know.

Owns the table `message`. A row is keyed by (inbox, document id of the mail server) and says where the
message stands; text, HTML, headers and attachments stay in the mail server and are read from there. A
message is `received` or `sent` from the moment it is first seen. Its `message_id` is the RFC Message-ID in
brackets, or the digest of one that a path cannot hold; a twin (the same Message-ID once more in one inbox)
or a mail without one gets an id made from its document id. Drafts are not messages. Every write happens
under the lock of the inbox's `inbox_sync` row, so an inbox's rows, threads and events change together and
in one order.
"""

from __future__ import annotations

from agentmail_cp.filing import Place
from agentmail_cp.messages.index import (
    NOTHING_KEPT,
    Judge,
    Kept,
    documents,
    erase,
    lock,
    mark_due,
    read_state,
    record,
    relabel,
    show,
)
from agentmail_cp.messages.message import COLUMNS, Filed, Message, Named
from agentmail_cp.messages.reading import (
    MOST_ATTACHED,
    Attached,
    MessageFilter,
    documents_of_thread,
    get,
    get_many,
    get_named,
    list_page,
    of_thread,
    page_of_thread,
    with_attachments,
)

__all__ = [
    "COLUMNS",
    "MOST_ATTACHED",
    "NOTHING_KEPT",
    "Attached",
    "Filed",
    "Judge",
    "Kept",
    "Message",
    "MessageFilter",
    "Named",
    "Place",
    "documents",
    "documents_of_thread",
    "erase",
    "get",
    "get_many",
    "get_named",
    "list_page",
    "lock",
    "mark_due",
    "of_thread",
    "page_of_thread",
    "read_state",
    "record",
    "relabel",
    "show",
    "with_attachments",
]
