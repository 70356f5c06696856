"""Nothing anybody wrote, and no secret, ever reaches the log, whatever goes wrong."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.failure.real import SECRET, Ringing, running, service
from tests.fix_app import a_mail, until
from tests.fix_proxy import Proxy, port_of, through

pytestmark = [pytest.mark.stalwart, pytest.mark.slow]

SUBJECT = "canary-subject-5c1f"
BODY = "canary-body-77aa"
NAME = "canary-name-09be"
METADATA = "canary-metadata-41d0"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_neither_mail_nor_secrets_reach_the_log(
    ringing: Ringing, database_url: str, tmp_path: Path, pg_proxy: Proxy, log_format: str
) -> None:
    """Whoever can read a log could read every agent's mail, or act in its name."""
    stalwart_proxy = Proxy(port_of(ringing.process.url))
    async with stalwart_proxy:
        process = service(
            tmp_path,
            ringing,
            through(database_url, pg_proxy),
            stalwart_url=through(ringing.process.url, stalwart_proxy),
            sweep_interval=1,
            log_level="debug",
            log_format=log_format,
        )
        async with process:
            live = await running(process, database_url)
            inbox = await live.inbox(display_name=NAME, metadata={"k": METADATA})
            fields = {"to": inbox["email"], "subject": SUBJECT, "text": BODY, "html": f"<p>{BODY}"}
            assert (await live.post(inbox, **fields)).status_code == 200
            await until(lambda: live.messages(inbox), lambda seen: len(seen) == 2)
            await asyncio.to_thread(deliver, ringing, a_mail(inbox["email"], SUBJECT, BODY))
            await until(lambda: live.messages(inbox), lambda seen: len(seen) == 3)

            await live.post(inbox, **{**fields, "to": f"{NAME}@agents.test"})
            await live.post(inbox, **{**fields, "to": f"{BODY} not an address"})
            await live.post(inbox, **{**fields, "subject": f"{SUBJECT}\r\nBcc: x@y.test"})
            await live.client.post("/v0/inboxes", content=f'{{"username": "{NAME}')
            await live.client.get("/v0/inboxes", headers={"Authorization": f"Bearer {BODY}"})
            await live.client.get(f"/v0/inboxes/{NAME}/messages", params={"subject": SUBJECT})
            await live.rows("update message set message_id = document_id::text returning 1")
            for proxy in (stalwart_proxy, pg_proxy):
                proxy.refuse()
                await live.post(inbox, **fields)
                await live.client.post("/v0/inboxes", json={"display_name": NAME})
                await live.threads(inbox)
                await asyncio.sleep(1.5)
                await proxy.heal()
                await process.until_status(200)
            stalwart_proxy.cut_answer_after = 100
            await live.post(inbox, **fields)
            await live.close()
        secrets = {
            "subject": SUBJECT,
            "body": BODY,
            "name": NAME,
            "metadata": METADATA,
            "api key": live.key,
            "mail password": inbox["credentials"]["password"],
            "stalwart key": ringing.process.key,
            "webhook secret": SECRET,
            "database password": database_url.split(":")[2].split("@", maxsplit=1)[0],
        }
        assert process.log.strip(), "nothing was logged, so nothing was tried"
        assert [kind for kind, secret in secrets.items() if secret in process.log] == []


def deliver(ringing: Ringing, mail: EmailMessage) -> None:
    with ringing.mx() as smtp:
        smtp.send_message(mail)
