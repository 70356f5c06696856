"""What holds a secret does not show it where it is printed: in a log, a traceback, a failing assertion."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from agentmail_cp import bodies
from agentmail_cp.access import ApiKey, NewApiKey
from agentmail_cp.credentials import MailPassword, presets
from agentmail_cp.credentials.app_passwords import Told
from agentmail_cp.doctor.hidden import HiddenInbox
from agentmail_cp.doctor.probes import Login
from agentmail_cp.domains.dkim import Pair
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.events import EventType
from agentmail_cp.inboxes import Created, Inbox
from agentmail_cp.mailserver import Access, AppPassword, DkimAlgorithm, DkimKey
from agentmail_cp.settings import SECRETS, Settings
from agentmail_cp.stalwart.certificates import TlsCertificate
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
TOLD = bodies.credentials(presets.servers(SETTINGS, "localhost"), INBOX.address, CANARY, "own")
APP_PASSWORD = AppPassword(app_password_id=ID, name="phone", access=Access.BOTH, created_at=NOW)
DKIM_KEY = StoredKey(
    dkim_key_id=ID,
    domain_id=ID,
    organization_id=ID,
    selector="am-1",
    algorithm="rsa",
    public_key="p",
    private_key=CANARY.encode(),
    stage="pending",
    created_at=NOW,
    activated_at=None,
    retiring_at=None,
)
MAIL_PASSWORD = MailPassword(
    mail_password_id=ID,
    organization_id=ID,
    pod_id=None,
    inbox_id=None,
    api_key_id=ID,
    hash=CANARY,
    created_at=NOW,
)
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
        bodies.created_app_password(APP_PASSWORD, CANARY, INBOX.address),
        bodies.SetMailPassword(api_key=CANARY),
        Told(APP_PASSWORD, CANARY),
        MAIL_PASSWORD,
        Pair("am-1", "rsa", "p", CANARY),
        DkimKey(selector="am-1", algorithm=DkimAlgorithm.RSA, private_key=CANARY),
        HiddenInbox(INBOX, CANARY),
        Login(INBOX.address, CANARY),
        TlsCertificate("chain", CANARY, ()),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_a_secret_is_not_shown(holder: msgspec.Struct) -> None:
    """One careless log line would tell a key, a mailbox's password or that of the database."""
    assert CANARY in str(msgspec.to_builtins(holder))
    assert CANARY not in repr(holder)
    assert type(holder).__name__ in repr(holder)


def test_a_stored_dkim_key_is_not_shown() -> None:
    """It is sealed, and whoever has the operator's secret opens it."""
    assert DKIM_KEY.private_key is not None
    assert CANARY not in repr(DKIM_KEY)
