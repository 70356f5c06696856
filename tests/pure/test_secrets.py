"""What holds a secret does not show it where it is printed: in a log, a traceback, a failing assertion."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from agentmail_cp import bodies
from agentmail_cp.access import ApiKey, NewApiKey
from agentmail_cp.events import EventType
from agentmail_cp.inboxes import Created, Inbox
from agentmail_cp.settings import SECRETS, Settings
from agentmail_cp.webhooks import NewWebhook, Webhook, WebhookPatch
from tests.fix_app import settings_for

CANARY = "postgresql://canary-3c1f"
ID = UUID(int=7)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = ApiKey(
    api_key_id=ID,
    organization_id=ID,
    pod_id=None,
    inbox_id=None,
    name="ci",
    prefix="inai_12345678",
    permissions=None,
    expires_at=None,
    used_at=None,
    created_at=NOW,
    updated_at=NOW,
)
INBOX = Inbox(
    inbox_id=ID,
    organization_id=ID,
    pod_id=ID,
    address="desk@agents.test",
    username="desk",
    domain="agents.test",
    display_name=None,
    client_id=None,
    metadata={},
    state="active",
    account_id=None,
    lease_until=None,
    created_at=NOW,
    updated_at=NOW,
)
SETTINGS: Settings = msgspec.structs.replace(settings_for(CANARY), **dict.fromkeys(SECRETS, CANARY))
MADE = Created(INBOX, CANARY)
TOLD = bodies.credentials(MADE, SETTINGS, "localhost")
WEBHOOK = Webhook(
    webhook_id=ID,
    organization_id=ID,
    pod_id=None,
    inbox_id=None,
    url=f"https://hooks.test/{CANARY}",
    event_types=[EventType.MESSAGE_RECEIVED],
    pod_ids=[],
    inbox_ids=[],
    headers={"X-Token": CANARY},
    client_id=None,
    secret=CANARY,
    previous_secret=CANARY,
    previous_until=NOW,
    enabled=True,
    disabled_reason=None,
    disabled_at=None,
    failing_since=None,
    created_at=NOW,
    updated_at=NOW,
)
NEW_WEBHOOK = NewWebhook(
    url=f"https://hooks.test/{CANARY}", event_types=[], headers={"X-Token": CANARY}
)


@pytest.mark.parametrize(
    "holder",
    [
        NewApiKey(KEY, CANARY),
        MADE,
        SETTINGS,
        TOLD,
        bodies.inbox(INBOX, TOLD, broken=None),
        bodies.created_api_key(NewApiKey(KEY, CANARY), None),
        WEBHOOK,
        NEW_WEBHOOK,
        WebhookPatch(url=f"https://hooks.test/{CANARY}"),
        bodies.webhook(WEBHOOK, {}),
        bodies.CreateWebhook(url=CANARY, headers={"X-Token": CANARY}),
        bodies.UpdateWebhook(url=CANARY),
        bodies.UpdateWebhookHeaders(headers={"X-Token": CANARY}),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_secret_is_not_shown(holder: msgspec.Struct) -> None:
    """One careless log line would tell a key, a mailbox's password or that of the database."""
    assert CANARY in str(msgspec.to_builtins(holder))
    assert CANARY not in repr(holder)
    assert type(holder).__name__ in repr(holder)
