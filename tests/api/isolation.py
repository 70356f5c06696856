"""A victim whose every kind of thing is there, and attackers whose keys do not reach it.

The victim is one inbox in one pod, with mail, a thread that was joined, a draft, keys, list entries, events
and webhooks. What it wrote holds `CANARY`; what its paths hold does not. `Stage.watch` compares every row and
every mailbox before and after a request: only what the attacker owns itself may differ.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import msgspec
from psycopg import sql

from agentmail_cp.access import Reach
from agentmail_cp.mailserver import AccountId, Folder
from tests import logins, tenants
from tests.api.isolation_cases import INBOX, POD, Case
from tests.api.mailbox import account_of, named, rows
from tests.domains import claimed_domain
from tests.fix_app import Json, Service, a_mail, until
from tests.tenant_sql import all_tables
from tests.tenants import Key

CANARY = "canary7f3a"
SENDER = f"{CANARY}@elsewhere.test"
CLIENT_ID = "victims-own"

VOLATILE = {
    "api_key": {"used_at"},
    "draft": {"lease_until"},
    "inbox_sync": {"synced_at", "due_at", "claimed_until"},
    "domain": {"check_due_at"},
}
"""Columns that change while nobody asks for anything."""

UNSEEN = {"migration", "request_window"}
"""Tables that say nothing of anybody's data: what was migrated, how often a key was used."""

EVERYTHING = sql.SQL(" union all ").join(
    sql.SQL("select {} as name, to_jsonb(t) as row from {} as t").format(
        sql.Literal(table), sql.Identifier(table)
    )
    for table in sorted(all_tables() - UNSEEN)
)

Row = tuple[str, str]
"""A table and one of its rows, as JSON."""


class Attacker(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, with which key, and what is theirs: ids that may change, and names to put into paths."""

    key: Key | None
    organization_id: UUID | None = None
    ids: frozenset[str] = frozenset()
    names: Mapping[str, str] = {}
    victims_domain: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return self.key.headers if self.key else {}

    def owns(self, row: Row) -> bool:
        return (
            any(each in row[1] for each in self.ids)
            or (
                # What the whole organisation has sent today.
                row[0] == "send_count" and f'"subject_id": "{self.organization_id}"' in row[1]
            )
            or (
                # Keys of a domain name no pod.
                row[0] == "dkim_key"
                and f'"organization_id": "{self.organization_id}"' in row[1]
                and self.victims_domain not in row[1]
            )
        )


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """The victim: its service, its names in paths, and every id of its own."""

    service: Service
    inbox: Json
    inbox_uuid: UUID
    pod_id: UUID
    names: Mapping[str, str]
    by_scope: Mapping[str, Mapping[str, str]]
    draft: Mapping[str, str]
    hidden: Mapping[str, str]
    alias: str
    ids: frozenset[str]
    accounts: tuple[AccountId, ...]

    def names_for(self, case: Case) -> dict[str, str]:
        """What a case's path and body call the victim's things."""
        names = {**self.names, **self.by_scope[case.scope]}
        return {**names, **self.draft} if "/drafts/" in case.path else names

    async def ask(self, case: Case, names: Mapping[str, str], key: Key | None) -> httpx.Response:
        """Carry out a case with a key."""
        return await ask(
            self.service,
            case.method,
            case.url(names),
            case.content(names),
            key.headers if key else {},
        )

    async def rows(self) -> Counter[Row]:
        """Everything in PostgreSQL, less what changes by itself."""
        async with self.service.db.transaction() as tx:
            found = await (await tx.execute(EVERYTHING)).fetchall()
        return Counter(
            (each["name"], json.dumps(_steady(each["name"], each["row"]), sort_keys=True))
            for each in found
        )

    async def mail(self) -> dict[AccountId, Any]:
        """What the mail server has of everybody who was there at first: any change moves the state."""
        return {each: await self.service.server.listing(each) for each in self.accounts}

    def shown(self, answer: httpx.Response, own: Iterable[str] = ()) -> list[str]:
        """What of the victim an answer shows that the request did not say itself."""
        told = answer.text + repr(answer.headers.raw)
        asked = str(answer.request.url) + answer.request.content.decode("utf-8", "replace")
        secrets = ({CANARY} | self.ids) - set(own)
        return [each for each in secrets if each in told and each not in asked]


async def ask(
    service: Service, method: str, url: str, body: Json | None, headers: Mapping[str, str]
) -> httpx.Response:
    """One request of somebody: the service's own key is left out."""
    request = service.client.build_request(method, url, json=body)
    del request.headers["Authorization"]
    request.headers.update(headers)
    return await service.client.send(request)


def _steady(table: str, row: Json) -> Json:
    return {name: value for name, value in row.items() if name not in VOLATILE.get(table, ())}


def changed(before: Counter[Row], after: Counter[Row], attacker: Attacker) -> list[Row]:
    """Rows that came, went or changed and are not the attacker's own."""
    return [row for row in (before - after) + (after - before) if not attacker.owns(row)]


async def staged(service: Service) -> Stage:
    """A victim in the service's organisation."""
    db, organization = service.db, service.organization_id
    pod_id = await tenants.pod(db, organization, name=f"{CANARY} pod", client_id=CLIENT_ID)
    inbox = await tenants.inbox_in(
        service,
        pod_id,
        "victim",
        display_name=CANARY,
        client_id=CLIENT_ID,
        metadata={"k": CANARY},
    )
    inbox_uuid = await tenants.uuid_of(db, inbox)
    message, other, spam = await received(service, inbox)
    draft = await made_draft(service, inbox)
    alias = await joined(service, inbox, message)
    domain_id = await added_domain(service, pod_id)
    login = await logins.app_password(service, inbox, name=f"{CANARY} phone")
    await logins.choose(
        service,
        *(Reach(organization), Reach(organization, pod_id)),
        Reach(organization, pod_id, inbox_uuid),
    )
    by_scope = {
        scope: await of_scope(service, scope, pod_id=pod_id, inbox=inbox, inbox_uuid=inbox_uuid)
        for scope in ("", POD, INBOX)
    }
    names = {
        "inbox_id": inbox["inbox_id"],
        "pod_id": str(pod_id),
        "domain_id": domain_id,
        "app_password_id": login["app_password_id"],
        "message_id": message["message_id"],
        "thread_id": message["thread_id"],
        "attachment_id": message["attachments"][0]["attachment_id"],
        "direction": "send",
        "type": "block",
        **dict.fromkeys(("account_id", "app_id", "provider_id", "event_id", "file_id"), "some"),
    }
    return Stage(
        service=service,
        inbox=inbox,
        inbox_uuid=inbox_uuid,
        pod_id=pod_id,
        names=names,
        by_scope=by_scope,
        draft={
            "draft_id": draft["draft_id"],
            "attachment_id": draft["attachments"][0]["attachment_id"],
        },
        hidden={"message_id": spam["message_id"], "thread_id": spam["thread_id"]},
        alias=alias,
        ids=frozenset(
            {
                *(inbox["inbox_id"], str(inbox_uuid), inbox["id"], str(pod_id), alias, CLIENT_ID),
                *(domain_id, login["app_password_id"]),
                *(message["message_id"], message["thread_id"], other["thread_id"]),
                *(draft["draft_id"], draft["attachments"][0]["attachment_id"]),
                *(value for each in by_scope.values() for value in each.values()),
                message["attachments"][0]["attachment_id"],
            }
        ),
        accounts=(),
    )


async def added_domain(service: Service, pod_id: UUID) -> str:
    """A domain of the victim's pod, which nobody checks while the test lasts."""
    scope = Reach(service.organization_id, pod_id)
    added = await claimed_domain(service, f"{uuid4().hex}.{CANARY}.test", scope=scope)
    async with service.db.transaction() as tx:
        await tx.execute("update domain set check_due_at = now() + interval '1 day'")
    return str(added.domain_id)


async def received(service: Service, inbox: Json) -> tuple[Json, Json, Json]:
    """Mail with an attachment, mail without, and spam."""
    mail = a_mail(inbox["email"], f"{CANARY} subject", CANARY, From=f"{CANARY} <{SENDER}>")
    mail.add_attachment(CANARY.encode(), maintype="text", subtype="plain", filename=f"{CANARY}.txt")
    (message,) = await arrived(service, inbox, mail)
    (other,) = await arrived(service, inbox, a_mail(inbox["email"], f"{CANARY} again"))
    spam = await filed_as_spam(service, inbox, a_mail(inbox["email"], f"{CANARY} spam"))
    answer = await service.client.get(url_of(inbox, message))
    assert answer.status_code == 200, answer.text
    return answer.json(), other, spam


async def filed_as_spam(service: Service, inbox: Json, mail: EmailMessage) -> Json:
    """Put a mail among spam, and have the mailbox read: a mail server does not ring for what we do."""
    account = await account_of(service, inbox)
    await service.server.append(account, mail.as_bytes(), folder=Folder.JUNK)
    async with service.db.transaction() as tx:
        await tx.execute("update inbox_sync set due_at = now()")
        await tx.execute("select pg_notify('intake', '')")
    (message,) = await named(service, inbox, [str(mail["Subject"])])
    return message


async def arrived(
    service: Service, inbox: Json, mail: EmailMessage, key: Key | None = None
) -> list[Json]:
    """Deliver a mail; the message it became, in a list. `key` is one that reads the inbox."""
    await service.deliver(mail)
    reader = tenants.client(service, key) if key else service.client
    subject = str(mail["Subject"])

    async def shown() -> list[Json]:
        answer = await reader.get(f"/v0/inboxes/{inbox['inbox_id']}/messages")
        return [each for each in answer.json()["messages"] if each.get("subject") == subject]

    return await until(shown, lambda seen: len(seen) == 1)


def url_of(inbox: Json, message: Json) -> str:
    return f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"


async def made_draft(service: Service, inbox: Json) -> Json:
    """A draft with an attachment that could be sent."""
    content = b64encode(CANARY.encode()).decode()
    answer = await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/drafts",
        json={
            "to": [inbox["email"]],
            "subject": f"{CANARY} draft",
            "text": CANARY,
            "attachments": [{"filename": f"{CANARY}.txt", "content": content}],
        },
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def doubled(stage: Stage) -> None:
    """A second one of what the victim has one of, so that its lists have pages."""
    client, inbox_id = stage.service.client, stage.names["inbox_id"]
    await made_draft(stage.service, stage.inbox)
    await tenants.inbox_in(stage.service, stage.pod_id, "another", display_name=CANARY)
    await added_domain(stage.service, stage.pod_id)
    answer = await client.patch(
        f"/v0/inboxes/{inbox_id}/messages/{quote(stage.names['message_id'], safe='')}",
        json={"add_labels": ["one", "two"]},
    )
    assert answer.status_code == 200, answer.text
    for scope in ("", f"/pods/{stage.pod_id}", f"/inboxes/{inbox_id}"):
        for path, body in (
            ("/api-keys", {"name": CANARY}),
            ("/lists/send/block", {"entry": "second@lists.test", "reason": CANARY}),
        ):
            answer = await client.post(f"/v0{scope}{path}", json=body)
            assert answer.status_code == 201, answer.text
        await delivered(stage.service, await made_webhook(stage.service, scope))
    for each in stage.by_scope.values():
        await delivered(stage.service, {"webhook_id": each["webhook_id"]})


async def joined(service: Service, inbox: Json, message: Json) -> str:
    """Another name of a message's thread, as one has that was joined to it."""
    alias = str(uuid4())
    async with service.db.transaction() as tx:
        await tx.execute(
            "insert into thread_alias (alias, organization_id, inbox_id, thread_id)"
            " select %(alias)s, organization_id, inbox_id, %(thread_id)s from inbox"
            " where address = %(address)s",
            {"alias": alias, "thread_id": message["thread_id"], "address": inbox["inbox_id"]},
        )
    return alias


async def of_scope(
    service: Service, scope: str, *, pod_id: UUID, inbox: Json, inbox_uuid: UUID
) -> dict[str, str]:
    """A key, a list entry and a webhook of the organisation, the pod or the inbox."""
    key = await tenants.key(
        service.db,
        service.organization_id,
        pod_id=pod_id if scope == POD else None,
        inbox_id=inbox_uuid if scope == INBOX else None,
        name=f"{CANARY} key",
        permissions=tenants.only("api_key_update", "api_key_delete"),
    )
    entry = f"{scope.strip('/').partition('/')[0] or 'organization'}@lists.test"
    path = scope.format(pod_id=pod_id, inbox_id=inbox["inbox_id"])
    answer = await service.client.post(
        f"/v0{path}/lists/send/block", json={"entry": entry, "reason": CANARY}
    )
    assert answer.status_code == 201, answer.text
    webhook = await made_webhook(service, path)
    return {
        "api_key_id": str(key.api_key_id),
        "entry": entry,
        "webhook_id": webhook["webhook_id"],
        "secret": webhook["secret"],
        "delivery_id": await delivered(service, webhook),
    }


async def made_webhook(service: Service, scope: str) -> Json:
    """A webhook of a scope, which is told of nothing that happens. What it is asked to deliver is refused
    before there is any connection.
    """
    answer = await service.client.post(
        f"/v0{scope}/webhooks",
        json={
            "url": f"https://{CANARY}.test/",
            "event_types": ["domain.verified"],
            "headers": {f"X-{CANARY}": CANARY},
        },
    )
    assert answer.status_code == 201, answer.text
    async with service.db.transaction() as tx:
        await tx.execute(
            "update webhook set url = 'http://127.0.0.1:9000/' || %(canary)s"
            " where webhook_id = %(webhook_id)s",
            {"canary": CANARY, "webhook_id": answer.json()["webhook_id"]},
        )
    return answer.json()


async def delivered(service: Service, webhook: Json) -> str:
    """Something that was delivered to a webhook, and what it answered."""
    delivery = {"delivery_id": uuid4(), "webhook_id": webhook["webhook_id"], "canary": CANARY}
    async with service.db.transaction() as tx:
        await tx.execute(
            "insert into delivery (delivery_id, organization_id, webhook_id, event_type, state,"
            " attempts) select %(delivery_id)s, organization_id, webhook_id, 'domain.verified',"
            " 'delivered', 1 from webhook where webhook_id = %(webhook_id)s",
            delivery,
        )
        await tx.execute(
            "insert into delivery_attempt (delivery_id, number, organization_id, at, duration_ms,"
            " status, response) select delivery_id, 1, organization_id, now(), 5, 200, %(canary)s"
            " from delivery where delivery_id = %(delivery_id)s",
            delivery,
        )
    return str(delivery["delivery_id"])


async def attackers(stage: Stage) -> dict[str, Attacker]:
    """Keys with every permission that reach something else, and what they reach."""
    service, db = stage.service, stage.service.db
    organization = service.organization_id
    other_organization = await tenants.organization(db)
    other_pod = await tenants.pod(db, organization)
    keys = {
        "other organization": await tenants.key(db, other_organization),
        "other pod": await tenants.key(db, organization, pod_id=other_pod),
    }
    neighbour = await tenants.inbox_in(service, stage.pod_id, "neighbour")
    keys["other inbox"] = await tenants.key(
        db, organization, inbox_id=await tenants.uuid_of(db, neighbour)
    )
    found: dict[str, Attacker] = {}
    for who, key in keys.items():
        own = neighbour
        if who != "other inbox":
            answer = await ask(service, "POST", "/v0/inboxes", {}, key.headers)
            assert answer.status_code == 201, answer.text
            own = answer.json()
        (message,) = await arrived(service, own, a_mail(own["email"], "Mine"), key)
        ids = {str(await tenants.uuid_of(db, own)), own["inbox_id"], str(key.api_key_id)}
        if who == "other organization":
            ids.add(str(other_organization))
        if who == "other pod":
            ids.add(str(other_pod))
        found[who] = Attacker(
            key=key,
            organization_id=other_organization if who == "other organization" else organization,
            ids=frozenset(ids),
            names={
                "inbox_id": own["inbox_id"],
                "pod_id": own["pod_id"],
                "message_id": message["message_id"],
                "thread_id": message["thread_id"],
            },
            victims_domain=stage.names["domain_id"],
        )
    return found


def together(everybody: Mapping[str, Attacker]) -> list[Attacker]:
    """The same attackers for a test in which one acts after the other: what one did goes on for a moment."""
    ids = frozenset[str]().union(*(each.ids for each in everybody.values()))
    return [msgspec.structs.replace(each, ids=ids) for each in everybody.values()]


async def at_rest(stage: Stage) -> Stage:
    """The same stage with everybody's accounts, once all their mail has been read and told of."""

    async def behind() -> list[str]:
        """The accounts of which something is still to be read."""
        found = await rows(
            stage.service,
            "select account_id, state, due_at is null and claimed_until is null as idle"
            " from inbox_sync",
        )
        return [
            each["account_id"]
            for each in found
            if not each["idle"] or each["state"] != await _state(stage, each["account_id"])
        ]

    async def untold() -> list[Any]:
        """The events that have no place in the log yet."""
        return await rows(stage.service, "select event_id from event where position is null")

    await until(behind, lambda accounts: accounts == [], seconds=20)
    await until(untold, lambda events: events == [], seconds=20)
    found = await rows(stage.service, "select account_id from inbox_sync order by account_id")
    accounts = tuple(AccountId(each["account_id"]) for each in found)
    return msgspec.structs.replace(stage, accounts=accounts)


async def _state(stage: Stage, account: str) -> str:
    return (await stage.service.server.listing(AccountId(account))).state
