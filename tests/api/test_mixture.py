"""Everything at once: after any mixture of calls, messages, threads and the mail server agree."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx

from tests.fix_app import Json, Service, until
from tests.limiting import limit

ROUNDS = 10
AT_ONCE = 12
EVERYTHING = {"limit": "100", "include_trash": "true", "include_spam": "true"}


class Agent:
    """Does something at random to what it finds in one of the inboxes."""

    def __init__(self, service: Service, inboxes: list[Json], seed: int) -> None:
        self._client = service.client
        self._inboxes = inboxes
        self._random = Random(seed)

    async def act(self, number: int) -> httpx.Response:
        """One call on one message; it may be gone by then."""
        at = f"/v0/inboxes/{self._random.choice(self._inboxes)['inbox_id']}"
        found = (await self._client.get(f"{at}/messages", params=EVERYTHING)).json()["messages"]
        if not found:
            return await self._send(at, number)
        message = self._random.choice(found)
        deeds = [self._send, self._draft, self._reply, self._forward, self._label, self._thread]
        deed: Callable[..., Awaitable[httpx.Response]] = self._random.choice(
            [*deeds, self._trash, self._delete]
        )
        return await deed(at, number, message)

    def _anybody(self) -> str:
        return self._random.choice(self._inboxes)["email"]

    async def _post(self, path: str, **fields: Any) -> httpx.Response:
        return await self._client.post(path, json=fields)

    async def _patch(self, path: str, **fields: Any) -> httpx.Response:
        return await self._client.patch(path, json=fields)

    async def _send(self, at: str, number: int, _message: Json | None = None) -> httpx.Response:
        fields = {"to": self._anybody(), "subject": f"Mail {number}", "text": "Text"}
        return await self._post(f"{at}/messages/send", **fields)

    async def _reply(self, at: str, number: int, message: Json) -> httpx.Response:
        return await self._post(f"{at}/messages/{message['message_id']}/reply", text=f"{number}")

    async def _forward(self, at: str, _number: int, message: Json) -> httpx.Response:
        return await self._post(
            f"{at}/messages/{message['message_id']}/forward", to=self._anybody()
        )

    async def _draft(self, at: str, number: int, message: Json) -> httpx.Response:
        made = await self._post(f"{at}/drafts", in_reply_to=message["message_id"], text=f"{number}")
        if made.status_code != 201:
            return made
        return await self._post(f"{at}/drafts/{made.json()['draft_id']}/send")

    async def _label(self, at: str, number: int, message: Json) -> httpx.Response:
        return await self._patch(
            f"{at}/messages/{message['message_id']}",
            add_labels=[f"label-{number % 5}"],
            remove_labels=["unread", f"label-{(number + 1) % 5}"],
        )

    async def _trash(self, at: str, _number: int, message: Json) -> httpx.Response:
        way = self._random.choice(["add_labels", "remove_labels"])
        return await self._patch(f"{at}/messages/{message['message_id']}", **{way: ["trash"]})

    async def _thread(self, at: str, number: int, message: Json) -> httpx.Response:
        return await self._patch(
            f"{at}/threads/{message['thread_id']}", add_labels=[f"thread-{number % 3}"]
        )

    async def _delete(self, at: str, _number: int, message: Json) -> httpx.Response:
        return await self._client.delete(f"{at}/messages/{message['message_id']}")


async def whole(service: Service, inbox: Json, kind: str) -> list[Json]:
    """Every message, thread or draft of an inbox."""
    found: list[Json] = []
    params: dict[str, str] = dict(EVERYTHING)
    while True:
        path = f"/v0/inboxes/{inbox['inbox_id']}/{kind}"
        page = (await service.client.get(path, params=params)).json()
        found += page[kind]
        if "next_page_token" not in page:
            return found
        params["page_token"] = page["next_page_token"]


def threads_of(messages: list[Json]) -> dict[str, tuple[int, int, list[str]]]:
    """What the threads have to be: messages, size and labels of each."""
    grouped: dict[str, list[Json]] = defaultdict(list)
    for each in messages:
        grouped[each["thread_id"]].append(each)
    return {
        thread_id: (
            len(group),
            sum(each["size"] for each in group),
            sorted({label for each in group for label in each["labels"]}),
        )
        for thread_id, group in grouped.items()
    }


async def documents(service: Service, inbox: Json) -> int:
    """How many mails the mail server has of an inbox."""
    account = await service.server.find_account(inbox["email"])
    assert account is not None
    return len((await service.server.listing(account.account_id)).document_ids)


async def disagreements(service: Service, inbox: Json) -> list[str]:
    """Where lists, threads, single messages and the mail server say different things."""
    messages = await whole(service, inbox, "messages")
    threads = await whole(service, inbox, "threads")
    drafts = await whole(service, inbox, "drafts")
    shown = {
        each["thread_id"]: (each["message_count"], each["size"], sorted(each["labels"]))
        for each in threads
    }
    wrong = [str(shown)] if shown != threads_of(messages) else []
    stored = await documents(service, inbox)
    if stored != len(messages) + len(drafts):
        wrong.append(f"{stored} mails, {len(messages)} messages and {len(drafts)} drafts")
    for each in messages:
        path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{each['message_id']}"
        answer = await service.client.get(path)
        if answer.status_code != 200 or answer.json()["labels"] != each["labels"]:
            wrong.append(f"{each['labels']} but {answer.text[:300]}")
    return wrong


async def test_after_any_mixture_of_calls_everything_agrees(anywhere: Service) -> None:
    """Counts, labels and threads would slowly come apart in a busy mailbox."""
    # Three agents that answer each other at this pace would be stopped as a loop.
    await limit(anywhere.db, anywhere.organization_id, loop_turns=0, thread_sends_per_hour=0)
    inboxes = [await anywhere.inbox() for _ in range(3)]
    agent = Agent(anywhere, inboxes, seed=7)
    for number in range(ROUNDS):
        acts = [agent.act(number * AT_ONCE + each) for each in range(AT_ONCE)]
        for answer in await asyncio.gather(*acts):
            assert answer.status_code in {200, 204, 404}, answer.text
    for inbox in inboxes:
        await until(lambda at=inbox: disagreements(anywhere, at), lambda seen: seen == [])
