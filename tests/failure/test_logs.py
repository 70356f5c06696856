"""Nothing anybody wrote, and no secret, ever reaches the log, an error or the database, whatever goes wrong.

Of a mail the database holds subject, addresses and a preview of at most 200 characters; what callers put
in for us to keep (names, metadata, labels, reasons) it holds, too. The log holds none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import smtplib
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
from psycopg import sql

from agentmail_cp.sandbox.faults import Faults
from tests.failure import sandboxed
from tests.failure.real import SECRET, Ringing, Running, running, service
from tests.fix_app import DOMAIN, Json, a_mail, until
from tests.fix_process import HOST, ServiceProcess
from tests.fix_proxy import Proxy, port_of, through
from tests.receiver import ON_LOOPBACK, Receiver, answer

OTHER_SECRETS = {
    "webhook secret": SECRET,
    "download secret": "canary-download-secret-71c9",
}
PREVIEW = "canary-preview-2d6f"
WRITTEN = {
    "body": "canary-body-77aa",
    "html": "canary-html-c01d",
    "attachment name": "canary-file-3e8b",
    "attachment content": "canary-content-5f5f",
    "header": "canary-header-b7d2",
    "draft": "canary-draft-9a31",
    "search": "canary-search-6611",
    "one-time code": "QX7Z-81VK",
    "action link": "canary-link-3a3a",
    "unknown key": "canary-unknown-key-2040",
}
"""What neither log nor database may hold."""
KEPT = {
    "subject": "canary-subject-5c1f",
    "preview": PREVIEW,
    "name": "canary-name-09be",
    "metadata": "canary-metadata-41d0",
    "label": "canary-label-8e8e",
    "reason": "canary-reason-d3d3",
    "correspondent": "canary-person-1f00",
    "client id": "canary-client-7b7b",
    "idempotency key": "canary-once-4c4c",
    "webhook url": "canary-hook-8d20",
    "webhook header": "canary-hook-header-51b3",
    "receiver's answer": "canary-receiver-e6e6",
}
"""What the database may hold, and the log may not."""

FITTING = f"subject={KEPT['subject']}&from={KEPT['correspondent']}"
ASKED = (
    f"Your verification code is {WRITTEN['one-time code']}. Verify your address:"
    f" https://elsewhere.test/verify?token={WRITTEN['action link']}"
)
"""What an agent waits for."""

LONG = f"{PREVIEW} {'words ' * 50}"
"""What the preview is cut out of: what comes after it is beyond 200 characters."""


class Scene(AbstractAsyncContextManager["Scene"]):
    """A service process, its client, and ways to spoil what it needs."""

    def __init__(
        self,
        live: Running,
        smtp_port: Callable[[], int],
        database: Proxy,
        away: Callable[[], AbstractAsyncContextManager[None]],
        confused: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.live = live
        self.smtp_port = smtp_port
        self.database = database
        self.away = away
        self.confused = confused
        self.errors: list[str] = []
        self.secrets: dict[str, str] = {}
        self.shown: dict[str, str] = {}
        """Secrets that callers can look at again, so that the database has them."""

    async def __aexit__(self, *_: object) -> None:
        await self.live.close()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; what it is told, if that is an error, is kept."""
        answer = await self.live.client.request(method, f"/v0{path}", **options)
        if answer.status_code >= 400:
            self.errors.append(answer.text)
        return answer

    async def done(self, method: str, path: str, **body: object) -> Json:
        """One request that succeeds."""
        answer = await self.ask(method, path, json=body or None)
        assert answer.status_code in {200, 201}, f"{path}: {answer.text}"
        return answer.json()

    async def deliver(self, mail: EmailMessage) -> None:
        await asyncio.to_thread(self._deliver, mail)

    def _deliver(self, mail: EmailMessage) -> None:
        with smtplib.SMTP(HOST, self.smtp_port(), local_hostname="out.test", timeout=20) as client:
            client.send_message(mail)


@contextlib.asynccontextmanager
async def on_stalwart(
    ringing: Ringing, url: str, proxy: Proxy, folder: Path, log_format: str
) -> AsyncGenerator[tuple[ServiceProcess, Scene]]:
    """The service beside the real mail server, which a proxy takes away."""
    async with Proxy(port_of(ringing.process.url)) as mail_proxy:
        process = service(
            folder,
            ringing,
            through(url, proxy),
            stalwart_url=through(ringing.process.url, mail_proxy),
            **settings(log_format),
        )

        @contextlib.asynccontextmanager
        async def away() -> AsyncGenerator[None]:
            mail_proxy.refuse()
            yield
            await mail_proxy.heal()

        @contextlib.asynccontextmanager
        async def confused() -> AsyncGenerator[None]:
            mail_proxy.cut_answer_after = 100
            yield
            await mail_proxy.heal()

        async with process, await scene(process, url, proxy, away, confused) as here:
            here.smtp_port = lambda: ringing.process.ports.smtp
            here.secrets["stalwart key"] = ringing.process.key
            yield process, here


@contextlib.asynccontextmanager
async def on_sandbox(
    url: str, proxy: Proxy, folder: Path, log_format: str
) -> AsyncGenerator[tuple[ServiceProcess, Scene]]:
    """The service on a sandbox, which fails when it is told to."""
    process = ServiceProcess(
        folder,
        {"database_url": through(url, proxy), "domain": DOMAIN, **settings(log_format)},
        program=sandboxed.program(folder),
    )

    @contextlib.asynccontextmanager
    async def away() -> AsyncGenerator[None]:
        await sandboxed.fail(folder, Faults(down=True))
        yield
        await sandboxed.fail(folder)

    @contextlib.asynccontextmanager
    async def confused() -> AsyncGenerator[None]:
        await sandboxed.fail(folder, Faults(confused=True))
        yield
        await sandboxed.fail(folder)

    async with process, await scene(process, url, proxy, away, confused) as here:
        here.smtp_port = lambda: int((folder / "smtp").read_text(encoding="utf-8"))
        yield process, here


def settings(log_format: str) -> dict[str, object]:
    return {
        "domain_shared": False,
        "sweep_interval": 1,
        "settle_interval": 0.5,
        "log_level": "debug",
        "log_format": log_format,
        "download_secret": OTHER_SECRETS["download secret"],
        "outbound_allow": ON_LOOPBACK,
    }


async def scene(
    process: ServiceProcess,
    url: str,
    proxy: Proxy,
    away: Callable[[], AbstractAsyncContextManager[None]],
    confused: Callable[[], AbstractAsyncContextManager[None]],
) -> Scene:
    live = await running(process, url)
    here = Scene(live, lambda: 0, proxy, away, confused)
    here.secrets |= OTHER_SECRETS | {"api key": live.key, "database password": password_of(url)}
    return here


def password_of(url: str) -> str:
    return urlsplit(url).password or ""


def mail_fields(to: str) -> Json:
    """A mail with a canary in each of its parts."""
    return {
        "to": [to],
        "subject": KEPT["subject"],
        "text": f"{LONG}{WRITTEN['body']}",
        "html": f"<p title='{WRITTEN['html']}'>{LONG}{WRITTEN['body']}</p>",
        "headers": {"X-Canary": WRITTEN["header"]},
        "labels": [KEPT["label"]],
        "attachments": [
            {
                "filename": f"{WRITTEN['attachment name']}.txt",
                "content": b64encode(WRITTEN["attachment content"].encode()).decode(),
            }
        ],
    }


def from_outside(to: str) -> EmailMessage:
    """The same from elsewhere."""
    person = KEPT["correspondent"]
    mail = a_mail(
        to,
        KEPT["subject"],
        f"{LONG}{WRITTEN['body']}. {ASKED}",
        From=f"{person} <{person}@elsewhere.test>",
        X_Canary=WRITTEN["header"],
    )
    mail.add_alternative(f"<p>{LONG}</p><i title='{WRITTEN['html']}'>{WRITTEN['body']}</i>", "html")
    mail.add_attachment(
        WRITTEN["attachment content"].encode(),
        maintype="text",
        subtype="plain",
        filename=f"{WRITTEN['attachment name']}.txt",
    )
    return mail


async def live_through_it_all(here: Scene, process: ServiceProcess) -> None:
    """A day of an agent, with everything that may go wrong."""
    inbox = await make_inboxes_and_keys(here)
    at = f"/inboxes/{inbox['inbox_id']}"
    async with Receiver.listening() as receiver:
        hook = await listen(here, receiver)
        await correspond(here, inbox, at)
        await use(here, hook, receiver)
    await draft(here, inbox, at)
    await make_logins(here, at)
    await claim_a_domain(here)
    await err(here, at)
    for spoilt in (here.away, here.confused):
        async with spoilt():
            await try_everything(here, inbox, at)
        await process.until_status(200)
    here.database.refuse()
    await try_everything(here, inbox, at)
    await here.database.heal()
    await process.until_status(200)
    await break_the_tables(here, inbox, at)
    assert (await here.ask("DELETE", at)).status_code == 204


async def make_inboxes_and_keys(here: Scene) -> Json:
    pod = await here.done("POST", "/pods", name=KEPT["name"], client_id=KEPT["client id"])
    inbox = await here.done(
        *("POST", f"/pods/{pod['pod_id']}/inboxes"),
        display_name=KEPT["name"],
        client_id=KEPT["client id"],
        metadata={"k": KEPT["metadata"]},
    )
    here.secrets["mail password"] = inbox["credentials"]["password"]
    for scope in ("", f"/pods/{pod['pod_id']}", f"/inboxes/{inbox['inbox_id']}"):
        key = await here.done("POST", f"{scope}/api-keys", name=KEPT["name"])
        here.secrets[f"key of {scope}"] = key["api_key"]
        headers = {"Authorization": f"Bearer {key['api_key']}"}
        assert (await here.ask("GET", "/auth/me", headers=headers)).status_code == 200
        await here.ask("DELETE", f"/api-keys/{key['api_key_id']}")
    await here.done("POST", "/lists/send/block", entry="no@lists.test", reason=KEPT["reason"])
    return inbox


async def make_logins(here: Scene, at: str) -> None:
    """Every password that is told once, one of them twice."""
    here.secrets["rotated password"] = (await here.done("POST", f"{at}/credentials/rotate"))[
        "password"
    ]
    once = {"Idempotency-Key": f"{KEPT['idempotency key']}-again"}
    for _ in range(2):
        made = await here.ask("POST", f"{at}/app-passwords", json={"name": "phone"}, headers=once)
        here.secrets["app password"] = made.json()["password"]
    table = await here.ask("POST", "/inboxes/credentials/export", json={"rotate": True})
    rows = list(csv.DictReader(table.text.splitlines()))
    assert rows
    here.secrets |= {
        f"password of row {number}": row["password"] for number, row in enumerate(rows)
    }
    key = await here.done("POST", "/api-keys", name=KEPT["name"])
    here.secrets["key as mail password"] = key["api_key"]
    await here.done("PUT", f"{at}/mail-password", api_key=key["api_key"])


async def claim_a_domain(here: Scene) -> None:
    """Keys are made for it, and for a rotation; it goes before anybody asks DNS."""
    here.secrets["DKIM key"] = "PRIVATE KEY-----"
    made = await here.done("POST", "/domains", domain="canary.test", inbound_enabled=False)
    await here.done("POST", f"/domains/{made['domain_id']}/dkim/rotate")
    assert (await here.ask("DELETE", f"/domains/{made['domain_id']}")).status_code == 204


async def listen(here: Scene, receiver: Receiver) -> str:
    """A webhook whose receiver is not well."""
    path = f"/{KEPT['webhook url']}"
    receiver.answers[path] = answer(500, KEPT["receiver's answer"].encode())
    made = await here.done("POST", "/webhooks", **webhook(receiver.url(path)))
    here.shown["webhook secret"] = made["secret"]
    return f"/webhooks/{made['webhook_id']}"


def webhook(url: str) -> Json:
    return {"url": url, "headers": {"X-Canary": KEPT["webhook header"]}}


async def use(here: Scene, hook: str, receiver: Receiver) -> None:
    """Everything that can be asked of a webhook, once something was delivered to it."""
    (first, *_) = await receiver.until(2, f"/{KEPT['webhook url']}")
    assert first.headers["x-canary"] == KEPT["webhook header"]
    rotated = await here.done("POST", f"{hook}/secret/rotate", overlap_seconds=60)
    here.shown["new webhook secret"] = rotated["secret"]
    await here.done("POST", f"{hook}/test", event_type="message.sent")
    await here.done("POST", f"{hook}/replay", since="2026-01-01T00:00:00Z")

    async def answers() -> list[str]:
        log = (await here.done("GET", f"{hook}/deliveries"))["deliveries"]
        tried = [await here.done("GET", f"{hook}/deliveries/{each['delivery_id']}") for each in log]
        return [attempt.get("response", "") for each in tried for attempt in each["attempts"]]

    await until(answers, lambda seen: KEPT["receiver's answer"] in seen)
    await here.done("PATCH", hook, enabled=False)


async def correspond(here: Scene, inbox: Json, at: str) -> None:
    """Send once and again, receive, read, look for, answer, relabel, download."""
    fields = mail_fields(inbox["email"])
    once = {"Idempotency-Key": KEPT["idempotency key"]}
    for _ in range(2):
        answer = await here.ask("POST", f"{at}/messages/send", json=fields, headers=once)
        assert answer.status_code == 200, answer.text
    other = {**fields, "text": f"{LONG}{WRITTEN['body']}, changed"}
    assert (
        await here.ask("POST", f"{at}/messages/send", json=other, headers=once)
    ).status_code == 409
    await here.deliver(from_outside(inbox["email"]))
    seen = await until(lambda: here.live.messages(inbox), lambda seen: len(seen) == 3, seconds=20)
    (got,) = [each for each in seen if KEPT["correspondent"] in each["from"]]
    message = f"{at}/messages/{quote(got['message_id'], safe='')}"
    full = await here.done("GET", message)
    assert WRITTEN["body"] in full["text"]
    attachment = full["attachments"][0]["attachment_id"]
    for path in (f"{message}/attachments/{attachment}", f"{message}/raw"):
        url: str = (await here.done("GET", path))["download_url"]
        here.secrets[f"link of {path}"] = url.rpartition("/")[2]
        downloaded = await here.live.client.get(urlsplit(url).path)
        assert downloaded.status_code == 200, downloaded.text
    waited = await here.done("GET", f"{at}/messages/wait?since=2026-01-01&{FITTING}")
    assert waited["extracted_codes"][0]["code"] == WRITTEN["one-time code"]
    assert WRITTEN["action link"] in waited["extracted_links"][0]["url"]
    assert (await here.ask("GET", f"{at}/messages/wait?since={KEPT['name']}")).status_code == 400
    told = await here.done("GET", "/events?after=start")
    assert WRITTEN["body"] in str(told)
    words = quote(f"{WRITTEN['search']} {WRITTEN['body']}")
    for path in (f"{at}/messages/search", f"{at}/threads/search", "/inboxes/search"):
        await here.done("GET", f"{path}?q={words}")
    await here.done("GET", f"{at}/messages?{FITTING}")
    await here.done("PATCH", message, add_labels=[KEPT["label"]], remove_labels=["unread"])
    await here.done("POST", f"{message}/reply", text=f"{LONG}{WRITTEN['body']}")
    await here.done("POST", f"{message}/reply-all", html=f"{LONG}<b>{WRITTEN['html']}</b>")
    await here.done(
        "POST", f"{message}/forward", to=inbox["email"], text=f"{LONG}{WRITTEN['body']}"
    )


async def draft(here: Scene, inbox: Json, at: str) -> None:
    """Drafts that are sent, sent later, and never sent."""
    fields = {**mail_fields(inbox["email"]), "text": f"{LONG}{WRITTEN['draft']}"}
    del fields["headers"]
    made = await here.done("POST", f"{at}/drafts", **fields, client_id=KEPT["client id"])
    await here.done("PATCH", f"{at}/drafts/{made['draft_id']}", html=f"{LONG}{WRITTEN['html']}")
    await here.done("POST", f"{at}/drafts/{made['draft_id']}/send")
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    sent = await here.done("POST", f"{at}/drafts", **fields, send_at=soon)
    refused = await here.done(
        "POST", f"{at}/drafts", **{**fields, "to": ["no@lists.test"]}, send_at=soon
    )

    async def states() -> tuple[int, str | None]:
        gone = await here.ask("GET", f"{at}/drafts/{sent['draft_id']}")
        kept = await here.ask("GET", f"{at}/drafts/{refused['draft_id']}")
        return gone.status_code, kept.json().get("send_status")

    await until(states, lambda seen: seen == (404, "failed"), seconds=20)


async def err(here: Scene, at: str) -> None:
    """Whatever callers get wrong."""
    fields = mail_fields(f"nobody-{KEPT['name']}@{DOMAIN}")
    mistakes: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"{at}/messages/send", {"json": fields}),
        ("POST", f"{at}/messages/send", {"json": {**fields, "to": ["no@lists.test"]}}),
        ("POST", f"{at}/messages/send", {"json": {**fields, "to": f"{KEPT['name']} no address"}}),
        (
            "POST",
            f"{at}/messages/send",
            {"json": {**fields, "subject": f"{KEPT['name']}\r\nBcc: x"}},
        ),
        ("POST", f"{at}/messages/send", {"json": {**fields, "attachments": [{"content": "%"}]}}),
        ("POST", f"{at}/messages/send", {"content": f'{{"text": "{WRITTEN["body"]}'}),
        ("POST", "/inboxes", {"content": f'{{"username": "{KEPT["name"]}'}),
        ("POST", "/inboxes", {"json": {"username": KEPT["name"], "metadata": KEPT["metadata"]}}),
        ("GET", f"/inboxes/{KEPT['name']}/messages?subject={KEPT['subject']}", {}),
        ("GET", f"{at}/threads?page_token={KEPT['name']}", {}),
        ("GET", f"/threads/{KEPT['name']}", {}),
        ("GET", f"/downloads/{WRITTEN['search']}", {}),
        ("POST", f"{at}/lists/send/block", {"json": {"entry": KEPT["reason"]}}),
        ("POST", "/webhooks", {"json": webhook(f"https://{KEPT['webhook url']}:x/")}),
        ("POST", "/webhooks", {"json": webhook(f"http://10.0.0.1/{KEPT['webhook url']}")}),
        (
            *("POST", "/webhooks"),
            {"json": {"url": "https://a.test/", "headers": {"A": f"{KEPT['webhook header']}\n"}}},
        ),
        (
            "GET",
            "/inboxes",
            {"headers": {"Authorization": f"Bearer {WRITTEN['unknown key']}"}},
        ),
        ("GET", "/inboxes", {"headers": {"Authorization": WRITTEN["unknown key"]}}),
    ]
    for method, path, options in mistakes:
        answer = await here.ask(method, path, **options)
        assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.text}"


async def try_everything(here: Scene, inbox: Json, at: str) -> None:
    """What callers do while something is away; some of it works, nothing crashes."""
    fields = mail_fields(inbox["email"])
    for method, path, options in (
        ("POST", f"{at}/messages/send", {"json": fields}),
        ("POST", f"{at}/drafts", {"json": {"text": f"{LONG}{WRITTEN['draft']}"}}),
        ("POST", "/inboxes", {"json": {"display_name": KEPT["name"]}}),
        ("POST", "/api-keys", {"json": {"name": KEPT["name"]}}),
        ("GET", f"{at}/messages", {}),
        ("GET", f"{at}/messages/search?q={WRITTEN['search']}", {}),
        ("GET", f"{at}/threads", {}),
        ("GET", f"{at}/messages/wait?since=2026-01-01&timeout=0&{FITTING}", {}),
        ("GET", "/events?after=start", {}),
    ):
        answer = await here.ask(method, path, **options)
        assert answer.status_code in {200, 201, 503}, f"{method} {path}: {answer.text}"
        if answer.status_code == 201 and "api_key" in answer.json():
            here.secrets[f"key made at {here.live.process.pid}"] = answer.json()["api_key"]


async def break_the_tables(here: Scene, inbox: Json, at: str) -> None:
    """Errors nobody has thought of: PostgreSQL tells of the row that it does not take."""
    await alter(here, "alter table {} add constraint broken check (false) not valid")
    await here.deliver(from_outside(inbox["email"]))
    for method, path, options in (
        ("POST", f"{at}/messages/send", {"json": mail_fields(inbox["email"])}),
        ("POST", f"{at}/drafts", {"json": {"subject": KEPT["subject"], "text": LONG}}),
        ("POST", "/inboxes", {"json": {"display_name": KEPT["name"]}}),
        ("POST", "/api-keys", {"json": {"name": KEPT["name"]}}),
        ("POST", "/lists/send/allow", {"json": {"entry": "a@b.test", "reason": KEPT["reason"]}}),
        ("POST", "/webhooks", {"json": webhook(f"https://a.test/{KEPT['webhook url']}")}),
        ("POST", f"{at}/credentials/rotate", {}),
        ("POST", f"{at}/app-passwords", {"json": {"name": KEPT["name"]}}),
        ("PUT", f"{at}/mail-password", {}),
        ("POST", "/domains", {"json": {"domain": "canary.test", "inbound_enabled": False}}),
    ):
        answer = await here.ask(method, path, **options)
        assert answer.status_code == 500, f"{method} {path}: {answer.text}"
    await asyncio.sleep(2.5)
    await alter(here, "alter table {} drop constraint broken")


BROKEN = (
    *("thread", "message", "draft", "send", "inbox", "api_key", "list_entry"),
    *("webhook", "delivery", "delivery_attempt", "recipient", "outcome_report"),
    *("mail_login", "app_password", "mail_password", "domain", "dkim_key"),
)


async def alter(here: Scene, statement: LiteralString) -> None:
    # One table at a time: the worker may hold one of them and wait for another.
    async with here.live.database.reading() as tx:
        for table in BROKEN:
            await tx.execute(sql.SQL(statement).format(sql.Identifier(table)))


async def dump(url: str) -> str:
    """Every row of every table of a database."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await connection.execute(
            "select table_schema, table_name from information_schema.tables where table_type ="
            " 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        )
        parts: list[bytes] = []
        for schema, table in await rows.fetchall():
            copying = sql.SQL("copy {} to stdout").format(sql.Identifier(schema, table))
            async with connection.cursor().copy(copying) as copy:
                parts += [bytes(block) async for block in copy]
    return b"".join(parts).decode()


def spellings(word: str) -> set[str]:
    """A word as it is, in hexadecimal, and in base64 wherever it may begin."""
    encoded = {
        b64encode(b"\0" * skip + word.encode()).decode()[4 if skip else 0 : -4] for skip in range(3)
    }
    return {word, word.encode().hex(), *encoded}


def found(words: dict[str, str], text: str) -> list[str]:
    """The kinds of those words that stand in a text."""
    return [kind for kind, word in words.items() if any(each in text for each in spellings(word))]


def test_a_word_is_found_however_it_is_written() -> None:
    """The greps below would pass over a body that was stored in base64."""
    for before in range(4):
        text = b64encode(b"x" * before + b"this is the canary-body-77aa itself").decode()
        assert found(WRITTEN, text) == ["body"]
    assert found(WRITTEN, b"\0canary-body-77aa".hex()) == ["body"]
    assert found(WRITTEN, "canary-body") == []


@pytest.fixture
def beside(request: pytest.FixtureRequest) -> Ringing | None:
    """The real mail server, or None for the sandbox."""
    return request.getfixturevalue("ringing") if request.param == "stalwart" else None


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("beside", "log_format"),
    [
        pytest.param("sandbox", "json", id="sandbox"),
        pytest.param("stalwart", "json", id="stalwart-json", marks=pytest.mark.stalwart),
        pytest.param("stalwart", "text", id="stalwart-text", marks=pytest.mark.stalwart),
    ],
    indirect=["beside"],
)
async def test_neither_mail_nor_secrets_reach_log_or_database(
    beside: Ringing | None, log_format: str, database_url: str, tmp_path: Path, pg_proxy: Proxy
) -> None:
    """Whoever can read a log or a backup could read every agent's mail, or act in its name."""
    setting = (
        on_stalwart(beside, database_url, pg_proxy, tmp_path, log_format)
        if beside
        else on_sandbox(database_url, pg_proxy, tmp_path, log_format)
    )
    async with setting as (process, here):
        await live_through_it_all(here, process)
        dumped = await dump(database_url)
        counted = (await here.live.client.get("/metrics")).text
    log = process.log
    assert "request.failed" in log, "nothing was logged, so nothing was tried"
    assert found(WRITTEN | KEPT | here.secrets | here.shown, log + counted) == []
    assert found({"subject": KEPT["subject"], "preview": PREVIEW}, dumped) == ["subject", "preview"]
    assert found(WRITTEN | here.secrets, dumped) == []
    errors = "\n".join(here.errors)
    secrets = {kind: word for kind, word in here.secrets.items() if not kind.startswith("link")}
    told = {"body": WRITTEN["body"], "webhook header": KEPT["webhook header"]}
    assert found(told | secrets | here.shown, errors) == []
