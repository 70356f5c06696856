"""Mail logins for tests: app passwords, and API keys chosen as mail passwords."""

from __future__ import annotations

from agentmail_cp import credentials
from agentmail_cp.access import Reach
from tests.fix_app import Json, Service


async def app_password(service: Service, inbox: Json, **wish: object) -> Json:
    """A new app password of an inbox, with its secret."""
    answer = await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/app-passwords", json={"name": "test", **wish}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def choose(service: Service, *scopes: Reach) -> None:
    """Make the service's own key the mail password of some scopes."""
    async with service.db.transaction() as tx:
        for each in scopes:
            await credentials.choose(tx, each, service.key)
    await credentials.apply_now(service.db, service.server, service.organization_id)


async def choose_none(service: Service) -> None:
    """Take every choice back; what follows from that for logins does not."""
    async with service.db.transaction() as tx:
        await credentials.mail_passwords.forget(tx, Reach(service.organization_id))
