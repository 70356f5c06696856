"""Webhooks: who is told of events by HTTP, and what came of telling them.

Owns the tables `webhook`, `delivery` and `delivery_attempt`. An endpoint is enabled, or disabled with a
reason: by its owner (`requested`), because it answered 410 (`gone`), because nothing but failures came
from it for days (`failing`), or because all that its filter names was deleted (`deleted`). Publication has
`fan_out` write one delivery for each event and endpoint that wants it, in its own transaction. A delivery
is pending until an attempt succeeds (`delivered`) or the last one fails (`failed`); a resend makes it
pending again. What an endpoint was not told while it was disabled is told by a replay only.

An endpoint sees no more than the scope it was made at, whatever becomes of the API key that made it. Secrets
and the values of headers stand in no log and in no error. Inboxes and pods take their endpoints with them
(`erase`), so this package stands below them: bodies are rendered by whoever runs the deliveries.
"""

from __future__ import annotations

from agentmail_cp.webhooks.endpoints import DisabledReason, Webhook

__all__ = ["DisabledReason", "Webhook"]
