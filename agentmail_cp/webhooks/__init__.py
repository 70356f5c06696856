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

from agentmail_cp.webhooks.attempts import Failure
from agentmail_cp.webhooks.checks import (
    changed_headers,
    check_count,
    check_headers,
    check_url,
)
from agentmail_cp.webhooks.claims import forget_old
from agentmail_cp.webhooks.deliveries import (
    Attempt,
    Delivery,
    Replay,
    Replayed,
    State,
    list_attempts,
    replay,
    resend,
    send_test,
)
from agentmail_cp.webhooks.deliveries import get as get_delivery
from agentmail_cp.webhooks.deliveries import list_page as list_deliveries
from agentmail_cp.webhooks.delivering import Delivering
from agentmail_cp.webhooks.endpoints import (
    DEFAULT_OVERLAP,
    DisabledReason,
    Made,
    Names,
    NewWebhook,
    Webhook,
    WebhookPatch,
    create,
    delete,
    erase,
    get,
    list_page,
    patched,
    rotate,
    set_headers,
    update,
)
from agentmail_cp.webhooks.publishing import CHANNEL, count_enabled, fan_out

__all__ = [
    "CHANNEL",
    "DEFAULT_OVERLAP",
    "Attempt",
    "Delivering",
    "Delivery",
    "DisabledReason",
    "Failure",
    "Made",
    "Names",
    "NewWebhook",
    "Replay",
    "Replayed",
    "State",
    "Webhook",
    "WebhookPatch",
    "changed_headers",
    "check_count",
    "check_headers",
    "check_url",
    "count_enabled",
    "create",
    "delete",
    "erase",
    "fan_out",
    "forget_old",
    "get",
    "get_delivery",
    "list_attempts",
    "list_deliveries",
    "list_page",
    "patched",
    "replay",
    "resend",
    "rotate",
    "send_test",
    "set_headers",
    "update",
]
