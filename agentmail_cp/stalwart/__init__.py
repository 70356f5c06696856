"""Everything that is particular to the Stalwart mail server; nothing outside speaks JMAP.

`StalwartMailServer` is the port's real implementation, for Stalwart 0.16 and later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmail_cp.stalwart.admin import Directory
from agentmail_cp.stalwart.blobs import Blobs
from agentmail_cp.stalwart.domains import Domains
from agentmail_cp.stalwart.drafts import Drafts
from agentmail_cp.stalwart.finding import Finding
from agentmail_cp.stalwart.folders import Folders
from agentmail_cp.stalwart.logins import Logins
from agentmail_cp.stalwart.mail import Mailboxes
from agentmail_cp.stalwart.queue import Queue
from agentmail_cp.stalwart.relabel import Relabelling
from agentmail_cp.stalwart.search import Searches
from agentmail_cp.stalwart.submission import Submissions
from agentmail_cp.stalwart.trace import Traces

if TYPE_CHECKING:
    from agentmail_cp.stalwart.jmap import JmapClient


class StalwartMailServer(
    Domains, Logins, Mailboxes, Submissions, Drafts, Finding, Blobs, Searches, Relabelling, Queue
):
    """A Stalwart server under one service account's key. Safe to share between tasks."""

    def __init__(self, client: JmapClient) -> None:
        self._jmap = client
        self._directory = Directory(client)
        self._folders = Folders(client)
        self._traces = Traces(client)

    async def close(self) -> None:
        await self._jmap.close()
