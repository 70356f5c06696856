"""The same work as the API does, said to Stalwart directly, in as few words as JMAP allows."""

from __future__ import annotations

from typing import Any, Self
from uuid import uuid4

import httpx

USING = [
    "urn:ietf:params:jmap:core",
    "urn:ietf:params:jmap:mail",
    "urn:ietf:params:jmap:submission",
    "urn:stalwart:jmap",
]
UNASKED = "raw-"
"""How the addresses begin of which nobody is asked: raw JMAP is measured without us."""

LISTED = [
    "id",
    "threadId",
    "from",
    "to",
    "cc",
    "subject",
    "receivedAt",
    "preview",
    "keywords",
    "size",
]
Arguments = dict[str, Any]


class RawJmap:
    """A JMAP client with no manners: no retries, no errors told apart."""

    def __init__(self, url: str, key: str, domain: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"})
        self._domain = domain
        self._domain_id = ""
        self._names: dict[str, str] = {}
        self._identities: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        (answer,) = await self.call(("x:Domain/query", {"filter": {"name": self._domain}}))
        self._domain_id = answer["ids"][0]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, *calls: tuple[str, Arguments]) -> list[Arguments]:
        """One request; the answers in order."""
        numbered = [[name, arguments, str(n)] for n, (name, arguments) in enumerate(calls)]
        answer = await self._http.post("/jmap/", json={"using": USING, "methodCalls": numbered})
        return [each[1] for each in answer.raise_for_status().json()["methodResponses"]]

    async def leave_out(self) -> None:
        """Have Stalwart's hooks ask about other mail only."""
        (found,) = await self.call(("x:MtaHook/get", {"ids": None}))
        update = {
            hook["id"]: {
                "enable": {"else": f"{hook['enable']['else']} && !starts_with(sender, '{UNASKED}')"}
            }
            for hook in found["list"]
        }
        (changed,) = await self.call(("x:MtaHook/set", {"update": update}))
        assert changed.get("notUpdated") is None, changed
        await self.call(("x:Action/set", {"create": {"r": {"@type": "ReloadSettings"}}}))

    async def create_account(self, name: str) -> str:
        """Make an account with a pre-hashed password."""
        account = {
            "@type": "User",
            "name": name,
            "domainId": self._domain_id,
            "roles": {"@type": "User"},
            "credentials": {"0": {"@type": "Password", "secret": "{SHA512}" + "A" * 86 + "=="}},
        }
        (answer,) = await self.call(("x:Account/set", {"create": {"a": account}}))
        account_id: str = answer["created"]["a"]["id"]
        self._names[account_id] = f"{name}@{self._domain}"
        return account_id

    def address_of(self, account: str) -> str:
        """The address of an account made by `create_account`."""
        return self._names[account]

    async def account_of(self, address: str) -> str:
        """The account of an address."""
        where = {"name": address.partition("@")[0], "domainId": self._domain_id}
        (answer,) = await self.call(("x:Account/query", {"filter": where}))
        return answer["ids"][0]

    async def send(self, account: str, to: str, subject: str, text: str, **more: Any) -> None:
        """Store a mail in Sent and hand it in; `more` are further properties of the mail."""
        sender = self._names[account]
        if account not in self._identities:
            (answer,) = await self.call(("Identity/get", {"accountId": account}))
            self._identities[account] = answer["list"][0]["id"]
        email = {
            "mailboxIds": {"d": True},
            "keywords": {"$draft": True, "$seen": True},
            "messageId": [f"{uuid4().hex}@{self._domain}"],
            "from": [{"email": sender}],
            "to": [{"email": to}],
            "subject": subject,
            "bodyValues": {"t": {"value": text}},
            "textBody": [{"partId": "t", "type": "text/plain"}],
            **more,
        }
        submission = {
            "emailId": "#e",
            "identityId": self._identities[account],
            "envelope": {"mailFrom": {"email": sender}, "rcptTo": [{"email": to}]},
        }
        moved = {"#s": {"mailboxIds": {"e": True}, "keywords/$draft": None}}
        answers = await self.call(
            ("Email/set", {"accountId": account, "create": {"e": email}}),
            (
                "EmailSubmission/set",
                {"accountId": account, "create": {"s": submission}, "onSuccessUpdateEmail": moved},
            ),
            ("EmailSubmission/get", {"accountId": account, "ids": ["#s"]}),
        )
        assert answers[1]["created"], answers

    async def reply(self, account: str, parent: str, text: str, to: str) -> None:
        """Ask the parent for its ids and subject, then send."""
        (answer,) = await self.call(
            (
                "Email/get",
                {
                    "accountId": account,
                    "ids": [parent],
                    "properties": ["messageId", "references", "from", "replyTo", "subject"],
                },
            )
        )
        (mail,) = answer["list"]
        await self.send(
            account,
            to,
            f"Re: {mail['subject']}",
            text,
            inReplyTo=mail["messageId"],
            references=[*(mail["references"] or []), *mail["messageId"]],
        )

    async def send_file(self, account: str, to: str, content: bytes) -> None:
        """Upload a file, then send it."""
        answer = await self._http.post(f"/jmap/upload/{account}/", content=content)
        blob_id = answer.raise_for_status().json()["blobId"]
        part = {"blobId": blob_id, "type": "application/octet-stream", "name": "bench.bin"}
        await self.send(account, to, "Bench", "A file.", attachments=[part])

    async def download_newest(self, account: str) -> int:
        """The bytes of the first attachment of the newest mail; returns how many."""
        (email_id, *_) = await self.newest(account)
        (answer,) = await self.call(
            ("Email/get", {"accountId": account, "ids": [email_id], "properties": ["attachments"]})
        )
        blob_id = answer["list"][0]["attachments"][0]["blobId"]
        url = f"/jmap/download/{account}/{blob_id}/bench.bin?accept=application/octet-stream"
        size = 0
        async with self._http.stream("GET", url) as download:
            async for chunk in download.aiter_bytes():
                size += len(chunk)
        return size

    async def newest(self, account: str) -> list[str]:
        """Ids of the newest twenty."""
        query = {
            "accountId": account,
            "filter": {"inMailbox": "a"},
            "sort": [{"property": "receivedAt", "isAscending": False}],
            "limit": 20,
        }
        (answer,) = await self.call(("Email/query", query))
        return answer["ids"]

    async def search(self, account: str, text: str) -> None:
        """Twenty mails that hold a text, with what a list shows and the pieces around the hits."""
        hits = {"resultOf": "0", "name": "Email/query", "path": "/ids"}
        where = {"text": text}
        answers = await self.call(
            ("Email/query", {"accountId": account, "filter": where, "limit": 20}),
            ("Email/get", {"accountId": account, "#ids": hits, "properties": LISTED}),
            ("SearchSnippet/get", {"accountId": account, "#emailIds": hits, "filter": where}),
        )
        assert answers[1]["list"]

    async def list_twenty(self, account: str, *, collapse: bool = False) -> list[str]:
        """Ids of the newest twenty, fetched with what a list shows; one of each thread on request."""
        answers = await self.call(
            (
                "Email/query",
                {
                    "accountId": account,
                    "filter": {"inMailbox": "a"},
                    "sort": [{"property": "receivedAt", "isAscending": False}],
                    "limit": 20,
                    "collapseThreads": collapse,
                },
            ),
            (
                "Email/get",
                {
                    "accountId": account,
                    "#ids": {"resultOf": "0", "name": "Email/query", "path": "/ids"},
                    "properties": LISTED,
                },
            ),
        )
        assert len(answers[1]["list"]) == 20
        return answers[0]["ids"]

    async def get_one(self, account: str, email_id: str) -> None:
        """One mail with its bodies and headers."""
        (answer,) = await self.call(
            (
                "Email/get",
                {
                    "accountId": account,
                    "ids": [email_id],
                    "properties": [*LISTED, "headers", "textBody", "htmlBody", "bodyValues"],
                    "fetchTextBodyValues": True,
                    "fetchHTMLBodyValues": True,
                },
            )
        )
        assert answer["list"]

    async def count(self, account: str) -> int:
        """How many mails are in the inbox."""
        query = {"accountId": account, "filter": {"inMailbox": "a"}}
        (answer,) = await self.call(("Email/query", query))
        return len(answer["ids"])
