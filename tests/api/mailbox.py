"""What several API tests do with an inbox of either world."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any
from urllib.parse import quote

import httpx

from agentmail_cp.mailserver import AccountId, DocumentId, Folder, Mail
from tests.fix_app import Json, Service, a_mail, until

EVERYTHING = "&".join(
    f"include_{label}=true" for label in ("spam", "blocked", "unauthenticated", "trash")
)


def at(inbox: Json) -> str:
    return f"/v0/inboxes/{inbox['inbox_id']}"


def path_of(inbox: Json, message: Json | str) -> str:
    message_id: str = message if isinstance(message, str) else message["message_id"]
    return f"{at(inbox)}/messages/{quote(message_id, safe='')}"


async def ok(answer: httpx.Response) -> Json:
    assert answer.status_code == 200, answer.text
    return answer.json()


async def shown(service: Service, inbox: Json) -> list[Json]:
    """All messages of an inbox, hidden ones included, oldest first."""
    return (
        await ok(
            await service.client.get(f"{at(inbox)}/messages?limit=100&ascending=true&{EVERYTHING}")
        )
    )["messages"]


async def arrive(service: Service, inbox: Json, *mails: EmailMessage) -> list[Json]:
    """Deliver these; the messages they became, in the same order."""
    for mail in mails:
        await service.deliver(mail)
    return await named(service, inbox, [str(mail["Subject"]) for mail in mails])


async def put(
    service: Service, inbox: Json, mail: EmailMessage, folder: Folder, *keywords: str
) -> Json:
    """Put a mail into a folder behind the API's back; the message it became."""
    await service.server.append(
        await account_of(service, inbox),
        mail.as_bytes(),
        folder=folder,
        keywords=frozenset(keywords),
    )
    (message,) = await named(service, inbox, [str(mail["Subject"])])
    return message


async def named(service: Service, inbox: Json, subjects: list[str]) -> list[Json]:
    """The messages with these subjects, once they are all there."""

    async def found() -> dict[str, Json]:
        return {each.get("subject", ""): each for each in await shown(service, inbox)}

    seen = await until(found, lambda seen: seen.keys() >= set(subjects))
    return [seen[subject] for subject in subjects]


async def numbered(service: Service, inbox: Json, count: int, **headers: str) -> list[Json]:
    """Deliver mails called 0, 1, 2…; the messages they became."""
    mails = [a_mail(inbox["email"], f"{number}", **headers) for number in range(count)]
    return await arrive(service, inbox, *mails)


async def rows(service: Service, query: Any, **parameters: object) -> list[dict[str, Any]]:
    async with service.db.reading() as tx:
        return await (await tx.execute(query, parameters)).fetchall()


async def account_of(service: Service, inbox: Json) -> AccountId:
    (row,) = await rows(
        service, "select account_id from inbox where address = %(address)s", address=inbox["email"]
    )
    return AccountId(row["account_id"])


async def document_of(service: Service, message: Json) -> DocumentId:
    (row,) = await rows(
        service,
        "select document_id from message join inbox using (inbox_id)"
        " where message_id = %(message_id)s and address = %(address)s",
        message_id=message["message_id"],
        address=message["inbox_id"],
    )
    return DocumentId(row["document_id"])


async def stored(service: Service, inbox: Json) -> dict[str | None, Mail]:
    """Every mail the mail server has of an inbox, by subject."""
    account = await account_of(service, inbox)
    listing = await service.server.listing(account)
    return {
        mail.subject: mail for mail in await service.server.fetch(account, listing.document_ids)
    }


async def restricted(service: Service, *permissions: str) -> dict[str, str]:
    """Headers of a request with a key that may do only this."""
    answer = await service.client.post(
        "/v0/api-keys", json={"name": "some", "permissions": dict.fromkeys(permissions, True)}
    )
    assert answer.status_code in (200, 201), answer.text
    return {"Authorization": f"Bearer {answer.json()['api_key']}"}
